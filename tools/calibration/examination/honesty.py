"""Whether a program is what it is said to be, by the plain float64 reference: so that the examination is honest.

A right program lies within the bound of the reference in float64 on ordinary inputs of several sizes. A wrong one is
beyond the bound on its witness, where the same program without its fault is within it; or it breaks there, and without
its fault does not, what a program must keep: inputs, cotangents, earlier results, the bits of a second call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from trueness.tools.arithmetic.bounds import Bound
from trueness.tools.arithmetic.formats import precision, round_to
from trueness.tools.calibration.examination.program import Program, Witness
from trueness.tools.checks.contract import simplest
from trueness.tools.checks.gradients import cotangents_for, differentiable, gradients
from trueness.tools.checks.purity import overlap
from trueness.tools.run import frameworks
from trueness.tools.run.frameworks import Rejected
from trueness.tools.run.trial import Trial
from trueness.tools.spec import inputs, registry
from trueness.tools.spec.model import Case, Formula

BROKEN = float("inf")
REPETITIONS = 20
"""calls after which two results with different bits would have been seen"""


class SharpTrial(Trial):
    """In a half format: what a program may miss that computes in float32 and rounds once, and no more.

    B = u |y| + η + the bound in float32. A sum held in the half format is beyond it.
    """

    def bound_of(self, *given: Any, **named: Any) -> list[Bound]:
        fmt = precision(self.dtype)
        inner = replace(self, dtype="float32") if fmt.half else self
        found = Trial.bound_of(inner, *given, **named)
        with np.errstate(invalid="ignore", over="ignore"):
            sharp = [Bound(b.y, b.B + fmt.u * np.abs(b.y) + fmt.eta) for b in found]
        return [b.within(fmt.max, fmt.u, False) for b in sharp]


def trial_of(program: Program, dtype: str, kind: type[Trial] = Trial) -> Trial:
    """The trial of a program, without bugs, data or stored cases."""
    return kind(registry.formula(program.formula), program.implementation(), dtype)


def case_of(trial: Trial, witness: Witness) -> Case:
    """The witness as a case: what it does not name is small and different, or drawn once."""
    sizes: dict[str, Any] = {}
    for k, (name, (low, high)) in enumerate(inputs.symbols(trial.formula).items()):
        sizes[name] = (3,) if name == "..." else min(max(low, 3 + k), high)
    unknown = set(witness.sizes) - set(sizes)
    if unknown:
        raise ValueError(f"sizes were {sorted(unknown)}; {trial.formula.name} has {', '.join(sizes)}.")
    scalars = {**simplest(trial), **witness.scalars}
    return Case({**sizes, **witness.sizes}, witness.seed, witness.scale, witness.spread, scalars=scalars)


def values_of(trial: Trial, witness: Witness, seed: int | None = None) -> list[Any]:
    """The arguments of the witness in float64, rounded to the dtype."""
    case = case_of(trial, witness if seed is None else replace(witness, seed=seed))
    found = trial.arguments_f64(case)
    real = [i for i, a in enumerate(trial.formula.arguments) if a.real]
    for i in real:
        moved = witness.factor * np.asarray(found[i]) + witness.offset
        if witness.zeros:
            kept = np.random.default_rng([case.seed, 77, i]).random(moved.shape) >= witness.zeros
            moved = np.where(kept, moved, 0.0)
        if witness.ties == "rows" and moved.ndim and len(moved):
            moved = np.broadcast_to(moved[:1], moved.shape)
        found[i] = round_to(moved, trial.dtype)
    if witness.ties == "arguments":
        found[real[1]] = found[real[0]].copy()
    return found


@dataclass(frozen=True)
class Shown:
    """T on the witness, infinite for a broken promise, with the fault and without it."""

    wrong: float
    right: float
    limit: float

    @property
    def honest(self) -> bool:
        return self.right <= self.limit < self.wrong


def shown(program: Program, dtype: str) -> Shown:
    """What a wrong program shows on its witness in ``dtype``; in a half format by the sharper bound if that tells."""
    found = Shown(BROKEN, BROKEN, 0.0)
    for kind in (SharpTrial, Trial) if precision(dtype).half else (Trial,):
        found = shown_by(kind, program, dtype)
        if found.honest:
            break
    return found


def shown_by(kind: type[Trial], program: Program, dtype: str) -> Shown:
    assert program.witness is not None and program.right_without is not None
    wrong, right = (trial_of(p, dtype, kind) for p in (program, replace(program, function=program.right_without)))
    look = LOOKS[program.witness.looks]
    values = values_of(wrong, program.witness)
    found = []
    for trial in (wrong, right):
        try:
            found.append(float(look(trial, values, program.witness)))
        except Rejected:
            found.append(BROKEN)
    return Shown(found[0], found[1], wrong.limit)


def value(trial: Trial, values: Sequence[Any], witness: Witness) -> float:
    return trial.judge(trial.call(values), trial.truth(values)).T


def gradient(trial: Trial, values: Sequence[Any], witness: Witness) -> float:
    cotangents = cotangents_for(trial, values, 1)
    truth = true_gradient(trial, values, cotangents)
    if trial.framework != "torch":
        return trial.judge(gradients(trial, values, cotangents), truth).T
    *_, found = pulled(trial, values, cotangents)
    return trial.judge([frameworks.to_float64(g) for g in found], truth).T


def true_gradient(trial: Trial, values: Sequence[Any], cotangents: Sequence[np.ndarray]) -> Any:
    if trial.formula.vjp is None:
        raise ValueError(f"{trial.formula.name} has no vjp to compare a gradient with.")
    return trial.truth_of_gradient(values, cotangents)


def pulled(
    trial: Trial, values: Sequence[Any], cotangents: Sequence[np.ndarray], layout: str = "contiguous"
) -> tuple[list[Any], list[Any], list[Any]]:
    """Natives, cotangents and gradients of one backward pass, as torch tensors; an unused input has a gradient of 0."""
    natives = trial.arguments(values, layout)
    wanted = differentiable(trial)
    for i in wanted:
        natives[i].requires_grad_(True)
    outs = trial.accepted(trial.invoke(natives), values)
    back = [frameworks.native(g, True, trial.dtype, "torch") for g in cotangents]
    live = [k for k, y in enumerate(outs) if y.requires_grad]
    chosen, given = [outs[k] for k in live], [back[k] for k in live]
    leaves = [natives[i] for i in wanted]
    found = torch.autograd.grad(chosen, leaves, given, allow_unused=True)
    return natives, given, [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)]


def strided_gradient(trial: Trial, values: Sequence[Any], witness: Witness) -> float:
    """T of the gradient for transposed and sliced input, whichever is worse."""
    cotangents, worst = cotangents_for(trial, values, 1), 0.0
    truth = true_gradient(trial, values, cotangents)
    for layout in ("transposed", "sliced"):
        *_, found = pulled(trial, values, cotangents, layout)
        worst = max(worst, trial.judge([frameworks.to_float64(g) for g in found], truth).T)
    return worst


def written(trial: Trial, values: Sequence[Any], witness: Witness) -> float:
    natives = trial.arguments(values)
    before = [frameworks.to_float64(x) for x in natives if isinstance(x, torch.Tensor)]
    trial.invoke(natives)
    after = [frameworks.to_float64(x) for x in natives if isinstance(x, torch.Tensor)]
    return 0.0 if all(np.array_equal(a, b) for a, b in zip(before, after, strict=True)) else BROKEN


def cotangent(trial: Trial, values: Sequence[Any], witness: Witness) -> float:
    wanted = cotangents_for(trial, values, 1)
    _, given, _ = pulled(trial, values, wanted)
    kept = [any(np.array_equal(frameworks.to_float64(g), w) for w in wanted) for g in given]
    return 0.0 if all(kept) else BROKEN


def aliasing(trial: Trial, values: Sequence[Any], witness: Witness) -> float:
    natives = trial.arguments(values)
    first, second = (trial.accepted(trial.invoke(natives), values) for _ in range(2))
    owned = [*(x for x in natives if isinstance(x, torch.Tensor)), *second]
    return BROKEN if any(overlap(y, x) for y in first for x in owned) else 0.0


def second_call(trial: Trial, values: Sequence[Any], witness: Witness) -> float:
    """T of the value after calls with other values of the same shapes, and with the same."""
    trial.call(values_of(trial, witness, seed=witness.seed + 1))
    first = value(trial, values, witness)
    return max(first, value(trial, values, witness))


def repetition(trial: Trial, values: Sequence[Any], witness: Witness) -> float:
    """Whether value or gradients change their bits from call to call."""
    has_gradient = trial.formula.vjp is not None and trial.framework == "torch"

    def once() -> list[np.ndarray]:
        found = trial.call(values)
        if not has_gradient:
            return found
        *_, gradients = pulled(trial, values, cotangents_for(trial, values, 1))
        return [*found, *(frameworks.to_float64(g) for g in gradients)]

    first = once()
    for _ in range(REPETITIONS):
        if not all(np.array_equal(a, b, equal_nan=True) for a, b in zip(first, once(), strict=True)):
            return BROKEN
    return 0.0


LOOKS: dict[str, Callable[[Trial, Sequence[Any], Witness], float]] = {
    "value": value,
    "gradient": gradient,
    "strided gradient": strided_gradient,
    "written": written,
    "cotangent": cotangent,
    "aliasing": aliasing,
    "second call": second_call,
    "repetition": repetition,
}

# -- right programs ---------------------------------------------------------------------------------------------------


def ordinary(formula: Formula, siblings: Sequence[Program]) -> list[Witness]:
    """Ordinary inputs: small ones, and the sizes and scalars on which the faults of other programs show."""
    large = [p.witness for p in siblings if p.formula == formula.name and p.witness is not None]
    plain = [Witness(w.sizes, w.scalars) for w in large if w.sizes or w.scalars]
    found = [Witness(seed=1), Witness(seed=2, spread=3.0), Witness(seed=3, scale=-1.0), *plain]
    return [w for i, w in enumerate(found) if w not in found[:i]]


def agreement(program: Program, witnesses: Sequence[Witness], dtype: str) -> tuple[float, float]:
    """The largest T of value and gradient of a right program on ``witnesses``, and its limit."""
    trial, worst = trial_of(program, dtype), 0.0
    for witness in witnesses:
        values = values_of(trial, witness)
        worst = max(worst, value(trial, values, witness))
        if trial.formula.vjp is not None and "gradient" in trial.implementation.claims:
            worst = max(worst, gradient(trial, values, witness))
    return worst, trial.limit


def examined_in(program: Program) -> str:
    """The format in which a program is compared first: the widest of its own."""
    return min(program.dtypes, key=lambda d: precision(d).u)
