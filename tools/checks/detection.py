"""Which sabotages the cases of a run reject: the power of a run.

Each sabotage (tools/checks/sabotage.py) is tried on the cases of the run, the cheapest first, until one rejects it:
T beyond the limit. If none does, there must be a reason: nothing is changed by more than rounding explains
(tools/checks/rounding.py), or the declaration says that the axis never gets so long. Otherwise the run would accept a
kernel with this fault.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from trueness.tools.arithmetic.bounds import LIMITS, Bound, outputs
from trueness.tools.arithmetic.formats import precision, round_to
from trueness.tools.checks.rounding import explained
from trueness.tools.checks.sabotage import Sabotage, sabotages
from trueness.tools.checks.value import cotangents_for, differentiable
from trueness.tools.run.trial import Trial
from trueness.tools.spec.inputs import symbols
from trueness.tools.spec.model import Case

LIMIT = LIMITS["fused"]
Outcome = Literal["rejected", "accepted", "no change", "out of reach", "undefined"]


@dataclass
class Sample:
    """One case of the run with what is computed on it once, for all sabotages."""

    trial: Trial
    case: Case
    values: list[Any]
    before: Sample | None = None
    kept: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def y(self) -> list[np.ndarray]:
        with np.errstate(all="ignore"):
            return list(outputs(self.trial.formula.reference(*self.values)))

    @cached_property
    def work(self) -> int:
        return sum(map(size, self.values)) + sum(a.size for a in self.y)

    @cached_property
    def truth(self) -> list[Bound]:
        return self.trial.truth(self.values)

    @cached_property
    def rounding(self) -> list[np.ndarray]:
        trial = self.trial
        fmt = precision(trial.dtype)
        unit = 2.0**-53 if trial.formula.working == "float64" else fmt.u
        reduction = trial.formula.reduction(trial.sizes(self.values))
        units = [unit] * len(self.values)
        return explained(trial.formula.reference, self.values, units, fmt, reduction)

    @cached_property
    def cotangents(self) -> list[np.ndarray]:
        return cotangents_for(self.trial, self.values, self.case.seed)

    @cached_property
    def gradients(self) -> list[np.ndarray]:
        assert self.trial.formula.vjp is not None
        with np.errstate(all="ignore"):
            return list(outputs(self.trial.formula.vjp(*self.cotangents, *self.values)))

    @cached_property
    def truth_of_gradient(self) -> list[Bound]:
        return self.trial.truth_of_gradient(self.values, self.cotangents)

    def earlier(self) -> list[np.ndarray]:
        """The outputs of the call before this one: of other elements of the same shapes."""
        return [] if self.before is None else self.before.y


def size(value: Any) -> int:
    return sum(map(size, value)) if isinstance(value, (list, tuple)) else int(np.size(value))


@dataclass(frozen=True)
class Detection:
    """What became of one sabotage: the outcome, the largest T, the case, and the reason where it is not rejected."""

    sabotage: Sabotage
    outcome: Outcome
    T: float = 0.0
    case: Case | None = None
    reason: str = ""


def detect(trial: Trial, cases: Sequence[Case], unreached: Mapping[str, str] | None = None) -> list[Detection]:
    """What becomes of every sabotage of the trial's formula on ``cases``; ``unreached``: axis → why it is not longer."""
    samples = [Sample(trial, case, trial.arguments_f64(case)) for case in cases]
    samples = sorted((s for s in samples if any(a.size for a in s.y)), key=lambda s: s.work)
    latest: dict[Any, Sample] = {}
    for sample in samples:
        key = tuple(a.shape for a in sample.y)
        sample.before, latest[key] = latest.get(key), sample
    if not samples:
        return []
    ranks = [sorted({s.y[k].ndim for s in samples}) for k in range(len(samples[0].y))]
    every = sabotages(trial.formula, trial.dtype, samples[len(samples) // 2].values, ranks)
    return [attempt(trial, s, samples, unreached or {}) for s in every]


def attempt(trial: Trial, sabotage: Sabotage, samples: Sequence[Sample], unreached: Mapping[str, str]) -> Detection:
    """What becomes of one sabotage."""
    worst, defined, largest = 0.0, False, 0.0
    where: Case | None = None
    judge = of_gradient if sabotage.target == "gradient" else of_value
    for sample in samples:
        try:
            changed, T = judge(sabotage, sample)
        except Exception as error:  # the reference refuses what the fault makes of its arguments
            trial.heartbeat(f"{sabotage}: {error}")
            continue
        defined = True
        if T > LIMIT:
            return Detection(sabotage, "rejected", T, sample.case)
        if changed > largest:
            worst, where, largest = T, sample.case, changed
    if where is not None:
        return Detection(sabotage, "accepted", worst, where, f"the change is {largest:.3g} × what rounding explains")
    if not defined:
        return Detection(sabotage, "undefined", reason="the reference refuses its arguments")
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
    if why is None and sabotage.target != "call" and axis.at is None:
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
    if sabotage.target == "call":
        found = sample.trial.sizes(sample.values).get(sabotage.axis.symbol, 0)
        return found if isinstance(found, int) else 0
    arrays = {"argument": sample.values, "output": sample.y}[sabotage.target]
    return sabotage.axis.length(arrays[sabotage.index])


def of_value(sabotage: Sabotage, sample: Sample) -> tuple[float, float]:
    """The change of the outputs in units of what rounding explains, where T does not reject it; and T."""
    trial = sample.trial
    found = sabotage.apply(trial.formula.reference, sample.values, sample.y, sample.earlier)
    if found is None or same(found, sample.y):
        return 0.0, 0.0
    T = trial.judge(rounded(trial, found), sample.truth).T
    if T > LIMIT:
        return np.inf, T
    with np.errstate(all="ignore"):
        ratios = [np.abs(a - b) / r for a, b, r in zip(found, sample.y, sample.rounding, strict=True)]
    change = max((float(np.nanmax(r)) for r in ratios if r.size), default=0.0)
    return (change if change > 1 else 0.0), T


def of_gradient(sabotage: Sabotage, sample: Sample) -> tuple[float, float]:
    """The same for a gradient."""
    trial = sample.trial
    assert trial.formula.vjp is not None
    found = sabotage.apply(trial.formula.vjp, [*sample.cotangents, *sample.values], sample.gradients)
    if found is None or same(found, sample.gradients):
        return 0.0, 0.0
    T = trial.judge([round_to(g, trial.dtype) for g in found], sample.truth_of_gradient).T
    return (np.inf, T) if T > LIMIT else (0.0, T)


def same(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> bool:
    """Whether two results are equal, or not comparable: of another shape, which every program is refused for."""
    pairs = list(zip(a, b, strict=True))
    return any(x.shape != y.shape for x, y in pairs) or all(np.array_equal(x, y, equal_nan=True) for x, y in pairs)


def rounded(trial: Trial, found: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Outputs rounded once to the format under test, and saturated where the formula says so."""
    fmt = precision(trial.dtype)
    kinds = trial.formula.outputs or ("dtype",) * len(found)
    if trial.formula.overflow == "saturate" and fmt.half:
        found = [np.clip(y, -fmt.max, fmt.max) for y in found]
    return [round_to(y, trial.dtype) if k == "dtype" else y for y, k in zip(found, kinds, strict=True)]


def summary(found: Sequence[Detection]) -> str:
    """The outcomes counted, in one line."""
    counted = Counter(d.outcome for d in found)
    names = {"rejected": "rejected", "no change": "change nothing", "undefined": "cannot be applied"}
    parts = [f"{counted[k]} {v}" for k, v in names.items() if counted[k]]  # type: ignore[index]
    reasons = Counter(d.reason for d in found if d.outcome == "out of reach")
    parts += [f"{n} out of reach ({reason})" for reason, n in reasons.items()]
    return f"of {len(found)} sabotages {', '.join(parts)}" if parts else ""
