"""Which known bug an implementation behaves like, and which bugs the checks reject."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from trueness.tools.arithmetic.bounds import AGAIN, LIMITS, Bound, outputs
from trueness.tools.arithmetic.formats import round_to
from trueness.tools.checks.core import search
from trueness.tools.checks.detection import cases_of_run
from trueness.tools.run.frameworks import Rejected
from trueness.tools.run.trial import Trial
from trueness.tools.spec.model import Bug, Case, Verdict

APART = 2 * LIMITS["eager"]
"""the T by the reference from which an explanation within the limit is nearer than the reference is"""


def sample(trial: Trial, verdict: Verdict | None = None, examples: int = 12) -> list[Case]:
    """The inputs by which bugs are distinguished: discriminating ones, the failing one, and some that are drawn."""
    found = [Case(named_input=b.id) for b in trial.bugs if b.discriminating_input is not None]
    if verdict is not None and verdict.case:
        found.append(Case.from_json(verdict.case))
    search(replace(trial, examples=examples, replay=None), found.append)
    return found


@dataclass(frozen=True)
class Suspect:
    """Wrong variants that may explain an implementation together: each case must be explained by one of them."""

    variants: tuple[tuple[str, Callable[..., Any]], ...]
    """(id of the bug, its variant in one direction)"""


def suspects(bugs: Sequence[Bug]) -> tuple[list[Suspect], list[Suspect]]:
    """Every bug with its reverse; and the conventions of one documented item together, which may be exchanged."""
    directions = {b.id: [(b.id, v) for v in (b.variant, *b.reverse) if v is not None] for b in bugs}
    items: dict[str, list[str]] = {}
    for b in bugs:
        if b.verdict == "convention":
            items.setdefault(b.item, []).append(b.id)
    together = [Suspect(tuple(d for name in names for d in directions[name])) for names in items.values() if names[1:]]
    return [Suspect(tuple(d)) for d in directions.values()], together


def behaves_like(trial: Trial, verdict: Verdict) -> list[str]:
    """Ids of the known bugs whose wrong variant explains every output, while the reference rejects some.

    A case that the implementation or the variant does not define (it raises, or only one of them is finite) is left
    out; more cases must be compared than are left out.
    """
    trial = replace(trial, times=AGAIN)  # a narrow bound would keep a name from a program that has it
    cases = []
    for case in sample(trial, verdict):
        values = trial.arguments_f64(case)
        try:
            cases.append((values, trial.call_unjudged(values)))
        except Rejected as rejection:
            trial.heartbeat(f"{case.to_json()}: {rejection}")
            cases.append((values, []))
    alone, together = suspects(trial.bugs)
    named = [name for suspect in alone for name in names_of(trial, suspect, cases)]
    return named or [name for suspect in together for name in names_of(trial, suspect, cases)]


def names_of(trial: Trial, suspect: Suspect, cases: Sequence[tuple[list[Any], list[np.ndarray]]]) -> list[str]:
    """The ids of ``suspect`` that explain a case far from the reference; none unless every case is explained."""
    found: dict[str, None] = {}
    compared = left_out = 0
    for values, outs in cases:
        said = [(name, explains(trial, variant, values, outs)) for name, variant in suspect.variants] if outs else []
        explained = [name for name, answer in said if answer]
        if not explained and any(answer is False for _, answer in said):
            return []
        compared, left_out = compared + bool(explained), left_out + (not explained)
        if explained and trial.judge(outs, trial.truth(values)).T > max(trial.limit, APART):
            found.update(dict.fromkeys(explained))
    return list(found) if compared > left_out else []


def explains(
    trial: Trial, variant: Callable[..., Any], values: Sequence[Any], outs: Sequence[np.ndarray]
) -> bool | None:
    """Whether ``outs`` are those of ``variant``, whatever arithmetic computed them; None where one is not defined.

    An implementation may compute the wrong formula by other operations than the variant does, with more cancellation
    for instance, and the arithmetic of the variant may be hidden from the stochastic one (``math.erf``). So B is at
    least that of the reference on the same input.
    """
    try:
        wrong = trial.bound_of(variant, values, "value", trial.formula.reduction)
    except Exception as error:  # undefined at this input
        trial.heartbeat(f"a wrong variant at this input: {error}")
        return None
    granted = []
    for out, bound, right in zip(outs, wrong, trial.truth(values), strict=True):
        if out.shape != bound.y.shape:  # more rows, or fewer: judged by their number alone
            return False
        finite = np.isfinite(bound.y)
        if (np.isfinite(out) != finite).any():
            return None
        at_least = right.B if right.y.shape == bound.y.shape else bound.B
        granted.append(Bound(np.where(finite, bound.y, out), np.fmax(bound.B, np.where(finite, at_least, 0.0))))
    return trial.judge(outs, granted).T <= LIMITS["eager"]


def detections(trial: Trial) -> dict[str, float]:
    """Bug → the largest T of its wrong variant, rounded to the dtype, over discriminating and drawn inputs.

    Over the other cases of the value check, too, for one that these do not show.
    """
    worst = {b.id: 0.0 for b in trial.bugs}

    def look(case: Case, bugs: Sequence[Bug]) -> None:
        values = trial.arguments_f64(case)
        truth = trial.truth(values)
        for bug in bugs:
            try:
                outs = rounded_variant(trial, bug, values)
            except Exception as error:  # undefined at this input: it proves nothing
                trial.heartbeat(f"{bug.id} at this input: {error}")
                continue
            worst[bug.id] = max(worst[bug.id], trial.judge(outs, truth).T)

    def unseen() -> list[Bug]:
        return [b for b in trial.bugs if worst[b.id] <= LIMITS["eager"]]

    for case in sample(trial):
        look(case, trial.bugs)
    for case in cases_of_run(trial, ()) if unseen() else ():
        if left := unseen():
            look(case, left)
    return worst


def rounded_variant(trial: Trial, bug: Bug, values: Sequence[Any]) -> list[np.ndarray]:
    """The outputs of a wrong variant, each rounded once: the best that an implementation of the bug could do."""
    assert bug.variant is not None
    with np.errstate(all="ignore"):
        found = [np.asarray(y, dtype=float) for y in outputs(bug.variant(*values))]
        kinds = trial.formula.outputs or ("dtype",) * len(found)
        return [round_to(y, trial.dtype) if k == "dtype" else y for y, k in zip(found, kinds, strict=True)]
