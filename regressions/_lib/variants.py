"""The wrong function of a ledger entry."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from trueness.tools.spec.model import Bug


def variants(bugs: Iterable[Bug]) -> Callable[[str], Callable[..., Any]]:
    """A function from the id of one of ``bugs`` to its wrong variant; KeyError if there is none."""
    by_id = {bug.id: bug.variant for bug in bugs if bug.variant is not None}
    return by_id.__getitem__
