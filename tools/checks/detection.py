"""Which sabotages the cases of a run reject: the power of a run.

Each sabotage (tools/checks/sabotage.py) is tried on the cases of the run, the cheapest first, until one rejects it:
T beyond the limit. If none does, there must be a reason: nothing is changed by more than rounding explains
(tools/checks/rounding.py), or the declaration says that the axis never gets so long. Otherwise the run would accept a
kernel with this fault.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from trueness.tools.arithmetic.bounds import LIMITS
from trueness.tools.checks.contract import simplest, typical
from trueness.tools.checks.ladder import ladder_of
from trueness.tools.checks.sabotage import BETWEEN, OF_DIGITS, Sabotage, sabotages
from trueness.tools.checks.samples import Evaluation, OtherShape, Sample
from trueness.tools.checks.value import unusual
from trueness.tools.run.trial import Trial
from trueness.tools.spec.inputs import symbols
from trueness.tools.spec.model import Case

LIMIT = LIMITS["fused"]
Outcome = Literal["rejected", "accepted", "no change", "out of reach", "refused", "other shape"]


@dataclass(frozen=True)
class Detection:
    """What became of one sabotage: the outcome, the largest T, the case, and the reason where it is not rejected."""

    sabotage: Sabotage
    outcome: Outcome
    T: float = 0.0
    case: Case | None = None
    reason: str = ""


def detections_of_sabotage(trial: Trial, drawn: Sequence[Case]) -> list[Detection]:
    """What becomes of every sabotage on the cases that the value check runs on: stored, named, typical, unusual and
    ``drawn`` ones, and the ladder. How long the axes become does not depend on the format, so what acts along an axis
    is tried in one of them, in the others what depends on their digits; everything if the profile says so."""
    unreached = ladder_of(trial, simplest(trial)).unreached
    cases = cases_of_run(trial, drawn)
    deep = trial.profile.every_dtype

    def chosen(s: Sabotage) -> bool:
        if not trial.paths:
            return s.kind in OF_DIGITS
        return deep or s.axis is None or s.parameter not in BETWEEN

    return detect(trial, cases, unreached, chosen)


def cases_of_run(trial: Trial, drawn: Sequence[Case]) -> list[Case]:
    """The cases that the value check runs on, ``drawn`` being those of the search."""
    rungs = ladder_of(trial, simplest(trial)).rungs
    named = [Case(named_input=key) for key in trial.data]
    return [*trial.stored, *named, typical(trial), *unusual(trial), *drawn, *(rung.case for rung in rungs)]


def detect(
    trial: Trial,
    cases: Sequence[Case],
    unreached: Mapping[str, str] | None = None,
    chosen: Callable[[Sabotage], bool] = lambda s: True,
) -> list[Detection]:
    """What becomes of the ``chosen`` sabotages of the trial's formula on ``cases``; ``unreached``: axis → why it is no
    longer."""
    samples = [Sample(trial, case, trial.arguments_f64(case)) for case in cases]
    samples = sorted((s for s in samples if any(a.size for a in s.value.y)), key=lambda s: s.work)
    if not samples:
        return []
    latest: dict[Any, Sample] = {}
    for sample in samples:
        key = tuple(a.shape for a in sample.value.y)
        sample.before, latest[key] = latest.get(key), sample
    ranks = [sorted({s.value.y[k].ndim for s in samples}) for k in range(len(samples[0].value.y))]
    every = sabotages(trial.formula, trial.dtype, samples[len(samples) // 2].values, ranks)
    found = [attempt(trial, s, samples, unreached or {}) for s in every if chosen(s)]
    return [d for d in found if d.outcome != "other shape"]


def attempt(trial: Trial, sabotage: Sabotage, samples: Sequence[Sample], unreached: Mapping[str, str]) -> Detection:
    """What becomes of one sabotage. What rounding explains of its change is only asked where no case rejects it."""
    refused = 0
    moved: list[tuple[Sample, float]] = []
    for sample in samples:
        try:
            found = changed(sabotage, sample)
        except OtherShape:  # the entries that are missing in the output are sabotages of the output
            return Detection(sabotage, "other shape")
        except Exception as error:  # the reference refuses what the fault makes of its arguments
            trial.heartbeat(f"{sabotage}: {error}")
            refused += 1
            continue
        if found is None:
            continue
        T = evaluation_of(sabotage, sample).T(found)
        if T > LIMIT:
            return Detection(sabotage, "rejected", T, sample.case)
        moved.append((sample, T))
    largest, worst, where = 1.0, 0.0, None
    for sample, T in moved:
        found = changed(sabotage, sample)
        change = 0.0 if found is None else evaluation_of(sabotage, sample).change(found)
        if change > largest:
            largest, worst, where = change, T, sample.case
    if where is not None:
        reason = f"the change is {largest:.3g} × what rounding explains, T ≤ {LIMIT:g} on every case"
        return Detection(sabotage, "accepted", worst, where, reason)
    if refused:
        return Detection(sabotage, "refused", reason="the reference refuses its arguments")
    return unchanged(sabotage, samples, unreached)


def unchanged(sabotage: Sabotage, samples: Sequence[Sample], unreached: Mapping[str, str]) -> Detection:
    """Why a sabotage changes nothing: the result does not depend on it, or its axis never gets so long."""
    axis = sabotage.axis
    if axis is None or not sabotage.beyond:
        return Detection(sabotage, "no change")
    longest = max((length(sabotage, sample) for sample in samples), default=0)
    if longest > sabotage.beyond:
        return Detection(sabotage, "no change")
    symbol = axis.symbol or symbol_of(sabotage, samples)
    formula = samples[0].trial.formula
    why = formula.reach.get(symbol, unreached.get(symbol))
    if why is None and axis.at is None:
        why = "only a formula that works element by element is given more"
    if why is None and symbol not in symbols(formula):
        why = "as declared"
    if why is not None:
        why = "as declared" if isinstance(why, int) else why
        return Detection(sabotage, "out of reach", reason=f"{symbol or axis.label} ≤ {longest}: {why}")
    return Detection(sabotage, "accepted", reason=f"no case of the run is longer than {longest} along {axis.label}")


def symbol_of(sabotage: Sabotage, samples: Sequence[Sample]) -> str:
    """The symbol or integer scalar that the length of an axis is in every case; empty where there is none."""
    plain = [s for s in samples if not s.case.named_input]
    lengths = [length(sabotage, s) for s in plain]
    if len(set(lengths)) < 2:
        return ""
    for name in {**plain[0].case.sizes, **plain[0].case.scalars}:
        if lengths == [{**s.case.sizes, **s.case.scalars}.get(name) for s in plain]:
            return name
    return ""


def length(sabotage: Sabotage, sample: Sample) -> int:
    """The length of the sabotaged axis in a sample."""
    assert sabotage.axis is not None
    if sabotage.target == "arguments":
        found = sample.trial.sizes(sample.values).get(sabotage.axis.symbol, 0)
        return found if isinstance(found, int) else 0
    evaluation = evaluation_of(sabotage, sample)
    arrays = evaluation.arguments if sabotage.target == "argument" else evaluation.y
    return sabotage.axis.length(arrays[sabotage.index])


def evaluation_of(sabotage: Sabotage, sample: Sample) -> Evaluation:
    return sample.gradient if sabotage.of_gradient else sample.value


def changed(sabotage: Sabotage, sample: Sample) -> Sequence[np.ndarray] | None:
    """What the reference gives with the fault; None where that is no change."""
    evaluation = evaluation_of(sabotage, sample)
    found = sabotage.apply(evaluation.function, evaluation.arguments, evaluation.y, sample.earlier)
    return None if found is None or evaluation.same(found) else found


def summary(found: Sequence[Detection]) -> str:
    """The outcomes counted, in one line."""
    counted = Counter[str](d.outcome for d in found)
    names = {"rejected": "rejected", "no change": "change nothing", "refused": "are refused by the reference"}
    parts = [f"{counted[k]} {v}" for k, v in names.items() if counted[k]]
    reasons = Counter(d.reason for d in found if d.outcome == "out of reach")
    parts += [f"{n} out of reach ({reason})" for reason, n in reasons.items()]
    return f"of {len(found)} sabotages {', '.join(parts)}" if parts else ""


def would_pass(accepted: Sequence[Detection]) -> str:
    """The first sabotage that no case rejects, and how many there are."""
    first = accepted[0]
    more = f" ({len(accepted) - 1} more: `trueness sabotage` lists them)" if len(accepted) > 1 else ""
    return f"a program with this fault would pass: {first.sabotage}; {first.reason}{more}."
