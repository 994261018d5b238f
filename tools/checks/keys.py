"""Rows of a mask without a true element: what an implementation returns there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from trueness.tools.arithmetic.bounds import Bound
from trueness.tools.checks.core import Failed
from trueness.tools.checks.evaluations import exchanged
from trueness.tools.run.frameworks import Rejected
from trueness.tools.run.trial import Trial
from trueness.tools.spec.inputs import Mask
from trueness.tools.spec.model import Case


def rows_without_keys(trial: Trial, case: Case) -> Iterator[tuple[str, str]]:
    """(policy, what it was seen with) of every mask; the policy is empty where it is the reference's own.

    Failed where the rest of the result is wrong, or where no policy explains the row.
    """
    base = trial.arguments_f64(case)
    for j, argument in enumerate(trial.formula.arguments):
        if not isinstance(argument, Mask) or not np.ndim(base[j]) or not np.size(base[j]):
            continue
        full = exchanged(base, j, np.ones_like(base[j]))
        for row in (0, -1):
            mask = np.ones_like(base[j])
            mask.reshape(-1, mask.shape[-1])[row] = False
            values, note = exchanged(base, j, mask), f"with row {row} of {argument.name} all false"
            trial.heartbeat(note)
            yield row_policy(trial, case, values, full, note), note


def row_policy(trial: Trial, case: Case, values: Sequence[Any], full: Sequence[Any], note: str) -> str:
    """The policy for the results that a row of a mask decides on; empty for the reference's own."""
    try:
        outs = trial.call(values)
    except Rejected as rejection:
        raise Failed(case, f"{note} it {rejection}") from None
    truth, whole = trial.stated_truth(values), trial.stated_truth(full)
    found: list[str] = []
    for k, (out, bound, other) in enumerate(zip(outs, truth, whole, strict=True)):
        bad = bound.ratio(out) > trial.limit
        if not bad.any():
            continue
        decided = (bound.y != other.y) & ~(np.isnan(bound.y) & np.isnan(other.y))
        if (bad & ~decided).any():
            raise Failed(case, f"{note}: results of other rows are wrong.")
        policy = named(trial, out, decided, k, full, other)
        if not policy:
            raise Failed(case, f"{note}: it returns there what no policy explains: {out[bad].flat[0]:.9g}.")
        found.append(policy)
    return found[0] if found else ""


def has_own_policy(trial: Trial, case: Case) -> bool:
    """Whether a row without keys has a policy of the implementation's own; it is judged by the check alone."""
    try:
        return any(policy for policy, _ in rows_without_keys(trial, case))
    except (Failed, Rejected):
        return False


def named(trial: Trial, out: np.ndarray, decided: np.ndarray, k: int, full: Sequence[Any], other: Bound) -> str:
    if (out[decided] == 0).all():
        return "row of zeros"
    if not np.isfinite(out[decided]).any():
        return "row of NaN"
    if (other.ratio(out)[decided] <= trial.limit).all():
        return "row of all keys"
    for i, argument in enumerate(trial.formula.arguments):
        if argument.real:  # without queries, or without keys, all weights are equal
            equal = exchanged(full, i, np.zeros_like(full[i]))
            if (trial.stated_truth(equal)[k].ratio(out)[decided] <= trial.limit).all():
                return "row of means"
    return ""
