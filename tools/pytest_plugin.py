"""The pytest plugin: ``--impl`` for ``pytest --pyargs trueness.properties``, and the fixture ``trueness_check``.

Every pytest run in an environment with trueness imports this file, so it imports only pytest and the tables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from trueness.tools.spec.tables import PROFILES


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("trueness", "trueness: implementations against references")
    group.addoption(
        "--impl",
        action="append",
        default=[],
        metavar="FORMULA=MODULE:CALLABLE",
        help="an implementation to verify with pytest --pyargs trueness.properties; repeatable",
    )
    group.addoption("--trueness-profile", default="quick", choices=list(PROFILES), help="how many cases are drawn")


@pytest.fixture
def trueness_check() -> Callable[..., Any]:
    """``trueness_check("fisher.diagonal", my_function)`` fails the test with the sentence of ``trueness.check``."""
    __tracebackhide__ = True

    def checked(formula: str, implementation: Any, **options: Any) -> Any:
        __tracebackhide__ = True
        import trueness

        outcome = trueness.check(formula, implementation, **{"profile": "quick", **options})
        if not outcome:
            pytest.fail(str(outcome), pytrace=False)
        return outcome

    return checked
