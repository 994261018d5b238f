"""How the gradient of an implementation is taken, and the truth that it is compared with.

The truth is the bound of the reference's vector-Jacobian product; where a formula has none written, the slope ⟨g, J v⟩
of the reference along random directions v, by complex step (tools/arithmetic/stochastic_step.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from trueness.tools.arithmetic.bounds import Bound
from trueness.tools.arithmetic.formats import precision, round_to
from trueness.tools.arithmetic.stochastic_step import slopes
from trueness.tools.checks.kinks import forgiven
from trueness.tools.run import frameworks
from trueness.tools.run.frameworks import Rejected
from trueness.tools.run.trial import Reading, Trial, reraise_as_rejected
from trueness.tools.spec import inputs
from trueness.tools.spec.model import Case

DETACHED = "returned an output that does not require grad, so it has no gradient."
ENTRIES = 256  # up to so many a wrong gradient is looked through, entry by entry


def for_gradient(trial: Trial) -> Trial:
    """The trial by whose limit gradients are judged: of what is exact the gradient is a sum, in any order."""
    implementation = trial.implementation
    return replace(trial, implementation=replace(implementation, limit="fused")) if trial.limit == 0.0 else trial


def differentiable(trial: Trial) -> list[int]:
    return [i for i, a in enumerate(trial.formula.arguments) if a.differentiable]


def has_truth(trial: Trial) -> bool:
    """Whether there is something to compare a gradient with."""
    return bool(differentiable(trial)) and (trial.formula.vjp is not None or trial.formula.complex_step)


def cotangents_for(trial: Trial, values: Sequence[Any], seed: int) -> list[np.ndarray]:
    """Random cotangents, rounded to the dtype, one per output."""
    return cotangents_of([b.y.shape for b in trial.truth(values)], seed, trial.dtype)


def cotangents_of(shapes: Sequence[tuple[int, ...]], seed: int, dtype: str) -> list[np.ndarray]:
    generator = np.random.default_rng([seed, 1000])
    return [round_to(inputs.standard_normal(generator, shape), dtype) for shape in shapes]


# -- the implementation's ---------------------------------------------------------------------------------------------


def as_natives(trial: Trial, cotangents: Sequence[np.ndarray], layout: str = inputs.CONTIGUOUS) -> list[Any]:
    return [frameworks.native(g, True, trial.dtype, trial.framework, trial.device, layout) for g in cotangents]


def gradients(
    trial: Trial,
    values: Sequence[Any],
    cotangents: Sequence[np.ndarray],
    wanted: Sequence[int] | None = None,
    layout: str = inputs.CONTIGUOUS,
    back: Sequence[Any] | None = None,
) -> list[np.ndarray]:
    """The implementation's own gradients in float64, by torch.autograd or jax.vjp.

    wanted  the arguments that require one; all differentiable ones unless given
    layout  of the arguments, as in a case
    back    the cotangents as the implementation takes them, where they are not contiguous
    """
    wanted = differentiable(trial) if wanted is None else wanted
    back = as_natives(trial, cotangents) if back is None else back
    natives = trial.arguments(values, layout)
    if trial.framework == "jax":
        found = pulled_by_jax(trial, natives, back, wanted)
    else:
        outs = require_grad(trial, natives, values, wanted)
        if not any(y.requires_grad for y in outs):
            if not is_zero(trial, values, cotangents, wanted):
                raise Rejected(DETACHED)
            return [np.zeros(np.shape(values[i])) for i in wanted]
        found = pulled(outs, [natives[i] for i in wanted], back)
    return accepted(trial, values, found, wanted)


def require_grad(trial: Trial, natives: Sequence[Any], values: Sequence[Any], wanted: Sequence[int]) -> list[Any]:
    """The outputs for ``natives``, of which the ``wanted`` require grad."""
    for i in wanted:
        natives[i].requires_grad_(True)
    return trial.accepted(trial.invoke(natives), values)


def pulled(outs: Sequence[Any], sources: Sequence[Any], back: Sequence[Any], **options: Any) -> list[Any]:
    """torch's gradients; zero where the output does not depend on a source.

    An output that no input reaches (a variance) adds nothing; where it should have, the gradient is wrong.
    """
    live = [k for k, y in enumerate(outs) if y.requires_grad]
    chosen, seeds = [outs[k] for k in live], [back[k] for k in live]
    found = reraise_as_rejected(torch.autograd.grad, chosen, sources, seeds, allow_unused=True, **options)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(sources, found, strict=True)]


def pulled_by_jax(trial: Trial, natives: Sequence[Any], back: Sequence[Any], wanted: Sequence[int]) -> Sequence[Any]:
    import jax

    def moved(*chosen: Any) -> Any:
        full = list(natives)
        for i, x in zip(wanted, chosen, strict=True):
            full[i] = x
        return trial.invoke(full)

    _, pull = reraise_as_rejected(jax.vjp, moved, *[natives[i] for i in wanted])
    return reraise_as_rejected(pull, back[0] if len(back) == 1 else tuple(back))  # type: ignore[no-any-return]


def accepted(trial: Trial, values: Sequence[Any], found: Sequence[Any], wanted: Sequence[int]) -> list[np.ndarray]:
    """The gradients in float64; Rejected when one has the wrong shape or dtype."""
    for i, g in zip(wanted, found, strict=True):
        name = trial.formula.arguments[i].name
        if tuple(g.shape) != np.shape(values[i]):
            raise Rejected(f"returned a gradient of shape {tuple(g.shape)} for {name} of shape {np.shape(values[i])}.")
        if frameworks.dtype_name(g) != trial.dtype:
            raise Rejected(f"returned a gradient of dtype {frameworks.dtype_name(g)} for {name} in {trial.dtype}.")
    return [frameworks.to_float64(g) for g in found]


# -- the truth --------------------------------------------------------------------------------------------------------


def is_zero(trial: Trial, values: Sequence[Any], cotangents: Sequence[np.ndarray], wanted: Sequence[int]) -> bool:
    """Whether the reference's gradient of ``wanted`` is zero, so that an output without a graph is right."""
    if not has_truth(trial):
        return False
    if trial.formula.vjp is not None:
        every = differentiable(trial)
        truth = trial.truth_of_gradient(values, cotangents)
        return not any(truth[every.index(i)].y.any() for i in wanted)
    found = along(trial, trial.formula.reference, values, cotangents, directions(values, wanted), wanted)
    return not any(b.y.any() for b in found)


def judge(
    trial: Trial,
    values: Sequence[Any],
    cotangents: Sequence[np.ndarray],
    found: Sequence[np.ndarray],
    wanted: Sequence[int] | None = None,
) -> Reading:
    """The worst entry of the gradients ``found`` of ``wanted``; its ``output`` counts the differentiable arguments."""
    every = differentiable(trial)
    wanted = every if wanted is None else wanted
    if trial.formula.vjp is not None:
        places = [every.index(i) for i in wanted]
        whole = trial.truth_of_gradient(values, cotangents)
        truth = [whole[p] for p in places]
        reading = trial.judge(found, truth)
        if reading.T > trial.limit and not trial.strict:
            reading = trial.judge(found, forgiven(trial, values, cotangents, found, truth, places))
    else:
        reading = judge_along(trial, trial.formula.reference, values, cotangents, found, wanted)
    return replace(reading, output=every.index(wanted[reading.output]))


def by_turns(trial: Trial, case: Case, everything: bool) -> list[int]:
    """The arguments whose gradient is compared on one case: each slope costs a bound of its own, so one by its seed."""
    every = differentiable(trial)
    return every if everything or trial.formula.vjp is not None else [every[case.seed % len(every)]]


def directions(values: Sequence[Any], places: Sequence[int]) -> list[np.ndarray]:
    """A random direction for every argument, the same whichever others are asked for."""
    return [np.random.default_rng([4000, i]).standard_normal(np.shape(values[i])) for i in places]


def along(
    trial: Trial,
    function: Callable[..., Any],
    values: Sequence[Any],
    cotangents: Sequence[np.ndarray],
    chosen: Sequence[np.ndarray],
    places: Sequence[int],
) -> list[Bound]:
    """The bound of ⟨g, J v⟩ for a direction in each of the arguments ``places`` of ``function``.

    The rounding of every entry of the gradient is in it already, for the direction is perturbed as it is used; only
    its underflow, η for each, is added.
    """
    run = slopes(function, tuple(places), len(cotangents))
    eta = precision(trial.dtype).eta
    found = trial.truth_of_slopes(run, values, [*chosen, *cotangents])
    return [Bound(b.y, b.B + eta * float(np.abs(v).sum())) for b, v in zip(found, chosen, strict=True)]


def judge_along(
    trial: Trial,
    function: Callable[..., Any],
    values: Sequence[Any],
    cotangents: Sequence[np.ndarray],
    found: Sequence[np.ndarray],
    places: Sequence[int],
) -> Reading:
    """The worst of the slopes; where one is beyond the limit, the entry of that gradient that is farthest off."""
    chosen = directions(values, places)
    truth = along(trial, function, values, cotangents, chosen, places)
    with np.errstate(all="ignore"):
        reading = trial.judge([np.asarray((g * v).sum()) for g, v in zip(found, chosen, strict=True)], truth)
    k = reading.output
    if reading.T <= trial.limit or found[k].size > ENTRIES:
        return reading
    run = slopes(function, (places[k],), len(cotangents))
    exact = np.zeros(found[k].shape)
    for at in np.ndindex(exact.shape):
        unit = np.zeros(exact.shape)
        unit[at] = 1.0
        exact[at] = float(run(unit, *cotangents, *values)[0])
    off = np.abs(found[k] - exact)
    where = tuple(int(n) for n in np.unravel_index(int(np.argmax(np.where(np.isnan(off), np.inf, off))), off.shape))
    return replace(reading, where=where, got=float(found[k][where]), want=float(exact[where]))
