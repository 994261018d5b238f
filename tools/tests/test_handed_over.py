"""What the registry declares, handed over as a user's ``--impl module:callable``: right, in every format it takes.

A sample here, everything with ``--trueness-profile deep``; both draw the cases of the profile quick, for what is asked
is whether a right program is refused. Nothing is waived, and the policy for special values is a user's. Where the
registry says what is wrong with a third party's (a convention, a waived check), it is refused for that alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from trueness.tools.run.api import describe
from trueness.tools.run.conclusion import judged
from trueness.tools.run.frameworks import unsupported
from trueness.tools.run.plan import Request, groups
from trueness.tools.run.pool import run_groups
from trueness.tools.run.runner import Job, missing, run_job
from trueness.tools.spec import registry
from trueness.tools.spec.model import Formula, Implementation, Verdict
from trueness.tools.spec.tables import AUTO, DEFAULT_DEVICE, TRIED, USER_CLAIMS
from trueness.tools.tests.processes import FOREVER

SEED = 317  # a sample whose members are quick
CALLABLE = """
from trueness.tools.spec import registry

handed = next(i for i in registry.formula({formula!r}).implementations if i.name == {name!r}).load()
"""
INTERPRETED = """
from trueness.tools.spec import registry
from trueness.tools.spec.model import Implementation

kernel = next(i for i in registry.formula({formula!r}).implementations if i.name == {name!r})
handed = Implementation(
    "mine", kernel.load, claims=frozenset({{"gradient"}}), env=kernel.env, largest=kernel.largest, origin="user"
)
"""
"""an interpreted kernel takes a thousand times as long, which a user says in an Implementation"""


@dataclass(frozen=True)
class Handed:
    """An implementation of the registry in one format, and how it is handed over."""

    formula: Formula
    implementation: Implementation
    dtype: str

    @property
    def id(self) -> str:
        return f"{self.formula.name}-{self.implementation.name}-{self.dtype}".replace(" ", "_")

    @property
    def number(self) -> int:
        """The same in every process and on every day."""
        return zlib.crc32(f"{self.id} {SEED}".encode())

    @property
    def kind(self) -> str:
        given = self.implementation
        return "interpreted" if given.env else f"{given.origin} {given.framework}"

    @property
    def known(self) -> set[str]:
        """The checks that the registry says it does not pass."""
        given = self.implementation
        return (
            {"value", "gradient"}
            if given.convention
            else {name.removesuffix(f" {self.dtype}") for name in given.waived}
        )

    def job(self, folder: Path, claims: tuple[str, ...] = ()) -> Job:
        """The job of ``trueness verify --impl FORMULA=module:handed``; the module is written to ``folder``."""
        given, module = self.implementation, f"handed_over_{self.number:08x}"
        text = (INTERPRETED if given.env else CALLABLE).format(formula=self.formula.name, name=given.name)
        (folder / f"{module}.py").write_text(text, "utf-8")
        request = Request(
            impls=(f"{self.formula.name}={module}:handed",),
            dtypes=(self.dtype,),
            profile="quick",
            framework=given.framework,
            limit="eager" if given.limit == "eager" else "fused",
            claims=claims,
            gradient=given.origin == "builtin" or "gradient" in given.claims,
        )
        (job,) = [job for group in groups(request) for job in group if job.user]
        return job


def everything() -> Iterator[Handed]:
    """Every implementation that is installed, in every format that it takes."""
    for formula in registry.formulas().values():
        for implementation in formula.implementations:
            for dtype in implementation.dtypes:
                taken = dtype in formula.dtypes and not unsupported(implementation.framework, dtype, DEFAULT_DEVICE)
                if taken and not missing(implementation):
                    yield Handed(formula, implementation, dtype)


def sample(handed: Sequence[Handed]) -> list[Handed]:
    """One of every family and one of every kind, by their numbers."""
    ordered = sorted(handed, key=lambda h: h.number)
    families = {h.formula.family: h for h in reversed(ordered) if h.kind == "builtin torch"}
    kinds = {h.kind: h for h in reversed(ordered) if h.kind != "builtin torch"}
    return [*families.values(), *kinds.values()]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    every = list(everything())
    whole = metafunc.config.getoption("--trueness-profile") == "deep"
    if "claiming" in metafunc.fixturenames:
        every = [
            h for h in every if set(USER_CLAIMS) & h.implementation.claims - {"gradient"} and not h.implementation.env
        ]
        metafunc.parametrize("claiming", every if whole else sample(every)[:2], ids=lambda h: h.id)
    if "handed" in metafunc.fixturenames:
        metafunc.parametrize("handed", every if whole else sample(every), ids=lambda h: h.id)


def verdicts_on(handed: Handed, folder: Path, patch: pytest.MonkeyPatch, *claims: str) -> list[Verdict]:
    """In this process, unless it needs an environment."""
    patch.syspath_prepend(folder)
    for name, value in handed.implementation.env.items():
        patch.setenv(name, value)
    job = handed.job(folder, claims)
    return run_groups([[job]], 1, FOREVER) if handed.implementation.env else run_job(job)


def test_what_is_declared_is_right_when_a_user_hands_it_over(
    handed: Handed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts = verdicts_on(handed, tmp_path, monkeypatch)
    assert judged(verdicts), "nothing was judged"
    wrong = [describe(v) for v in verdicts if not v.passed and v.check not in handed.known]
    assert not wrong, "\n" + "\n".join(wrong)
    names = {name for v in verdicts if not v.passed and v.check == "value" for name in v.bugs}
    assert not names or handed.implementation.convention in names


def test_claims_that_are_declared_hold_when_a_user_tries_all_of_them(
    claiming: Handed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts = verdicts_on(claiming, tmp_path, monkeypatch, AUTO)
    in_vain = {v.check: v.message for v in verdicts if v.message.startswith(TRIED)}
    assert not [describe(v) for v in verdicts if not v.passed]
    assert not [text for name, text in in_vain.items() if name in claiming.implementation.claims]
