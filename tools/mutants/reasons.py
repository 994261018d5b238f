"""Why a mutant may survive: reasons given by hand, each for a formula and a change.

A reason that is not needed any more is an error, and so is a survivor without one.
"""

from __future__ import annotations

from collections.abc import Mapping

from trueness.tools.mutants.record import Found, Row, Summary

REASONS: Mapping[tuple[str, str], str] = {}
"""(formula, function: change) → the reason; ``, gradient`` after a formula: its vector-Jacobian product"""


def reason_of(row: Row, found: Found) -> str:
    return REASONS.get((row.name, found.key), "")


def problems(summary: Summary, given: Mapping[tuple[str, str], str] = REASONS) -> list[str]:
    """Survivors without a reason, and reasons of the formulas judged that belong to no survivor."""
    survivors = {(row.name, f.key): f for row, f in summary.survivors()}
    judged = {row.name for row in summary.rows}
    missing = [
        f"{name} · {f}: survived, {f.reason}" for (name, key), f in survivors.items() if (name, key) not in given
    ]
    stale = [
        f"{name} · {key}: the reason is stale" for name, key in given if name in judged and (name, key) not in survivors
    ]
    return missing + stale
