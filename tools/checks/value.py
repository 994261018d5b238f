"""Value, gradient and second derivative: T against the limit, on drawn, stored, discriminating and real inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from trueness.tools.arithmetic.formats import round_to
from trueness.tools.checks.contract import typical
from trueness.tools.checks.core import Failed, check, failed, search
from trueness.tools.run import frameworks
from trueness.tools.run.frameworks import Rejected
from trueness.tools.run.trial import Reading, Trial, reraise_as_rejected
from trueness.tools.spec.model import Case, Verdict

Measure = Callable[[Case], Reading]


def survey(trial: Trial, name: str, measure: Measure) -> Verdict:
    """T of every case; the shrunk case if one is beyond the limit."""
    samples: list[tuple[int, float]] = []
    worst: Reading | None = None
    found: Failed | None = None

    def body(case: Case) -> None:
        nonlocal worst
        reading = measure(case)
        samples.append((reading.size, reading.T))
        if reading.T > trial.limit:
            raise Failed(case, sentence(trial, case, reading), reading)
        if worst is None or reading.T > worst.T:
            worst = reading

    named = [*(Case(named_input=key) for key in trial.data), typical(trial), typical(trial, length=129)]
    first = [*trial.stored, *named] if trial.replay is None else []
    count = len(first)
    for case in first:
        trial.heartbeat(case.to_json())
        try:
            body(case)
        except Failed as failure:
            found = found or failure
        except Rejected as rejection:
            found = found or Failed(case, str(rejection))
    try:
        count += search(trial, body)
    except Failed as failure:
        found = failure
    if found is not None:
        return failed(name, trial, found, cases=max(count, 1), samples=tuple(samples))
    assert worst is not None
    return trial.passed(
        name,
        cases=count,
        T=worst.T,
        limit=trial.limit,
        where=worst.where,
        output=worst.output,
        got=worst.got,
        want=worst.want,
        width=worst.width,
        samples=tuple(samples),
    )


def sentence(trial: Trial, case: Case, reading: Reading) -> str:
    """What is wrong, in one sentence, with the input beside it when it is small enough to read."""
    place = f"[{', '.join(map(str, reading.where))}]" if reading.where else ""
    shown = [
        f"{a.name} = {v if isinstance(v, list) else np.array2string(np.asarray(v), precision=9, separator=', ')}"
        for a, v in zip(trial.formula.arguments, trial.arguments_f64(case), strict=True)
        if (sum(map(np.size, v)) if isinstance(v, list) else np.size(v)) <= 4
    ]
    given = f" for {', '.join(shown)}" if shown else ""
    return (
        f"output{place} is {reading.got:.9g}, the reference {reading.want:.9g}{given}: "
        f"T = {reading.T:.3g} of {trial.limit:g}."
    )


@check("value", "the output lies within the bound of the reference")
def value(trial: Trial) -> Verdict:
    def measure(case: Case) -> Reading:
        values = trial.arguments_f64(case)
        return trial.judge(trial.call(values), trial.truth(values))

    return survey(trial, "value", measure)


@check("gradient", "every gradient lies within the bound of the reference's vector-Jacobian product", claim="gradient")
def gradient(trial: Trial) -> Verdict:
    if trial.formula.vjp is None:
        return trial.skipped("gradient", trial.formula.no_gradient)

    def measure(case: Case) -> Reading:
        values = trial.arguments_f64(case)
        cotangents = cotangents_for(trial, values, case.seed)
        truth = trial.truth_of_gradient(values, cotangents)
        return trial.judge(gradients(trial, values, cotangents), truth)

    return survey(trial, "gradient", measure)


def cotangents_for(trial: Trial, values: Sequence[Any], seed: int) -> list[np.ndarray]:
    """Random cotangents, rounded to the dtype, one per output."""
    generator = np.random.default_rng([seed, 1000])
    return [round_to(generator.standard_normal(b.y.shape), trial.dtype) for b in trial.truth(values)]


def differentiable(trial: Trial) -> list[int]:
    return [i for i, a in enumerate(trial.formula.arguments) if a.differentiable]


def gradients(trial: Trial, values: Sequence[Any], cotangents: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The implementation's own gradients in float64, through torch.autograd or jax.vjp."""
    natives = trial.arguments(values)
    wanted = differentiable(trial)
    back = [frameworks.native(g, True, trial.dtype, trial.framework, trial.device) for g in cotangents]
    if trial.framework == "jax":
        import jax

        def moved(*chosen: Any) -> Any:
            full = list(natives)
            for i, x in zip(wanted, chosen, strict=True):
                full[i] = x
            return trial.invoke(full)

        _, pull = reraise_as_rejected(jax.vjp, moved, *[natives[i] for i in wanted])
        found = reraise_as_rejected(pull, back[0] if len(back) == 1 else tuple(back))
    else:
        for i in wanted:
            natives[i].requires_grad_(True)
        outs = trial.accepted(trial.invoke(natives), values)
        live = [k for k, y in enumerate(outs) if y.requires_grad]
        if not live:
            raise Rejected("returned an output that does not require grad, so it has no gradient.")
        # an output that no input reaches (a variance) adds nothing; where it should have, the gradient is wrong
        chosen, pulled = [outs[k] for k in live], [back[k] for k in live]
        found = reraise_as_rejected(torch.autograd.grad, chosen, [natives[i] for i in wanted], pulled)
    for i, g in zip(wanted, found, strict=True):
        name = trial.formula.arguments[i].name
        if tuple(g.shape) != np.shape(values[i]):
            raise Rejected(f"returned a gradient of shape {tuple(g.shape)} for {name} of shape {np.shape(values[i])}.")
        if frameworks.dtype_name(g) != trial.dtype:
            raise Rejected(f"returned a gradient of dtype {frameworks.dtype_name(g)} for {name} in {trial.dtype}.")
    return [frameworks.to_float64(g) for g in found]


@check(
    "second derivative",
    "double backward lies within the bound of the reference's derivative of its vector-Jacobian product",
    frameworks=("torch",),
    claim="double",
)
def second_derivative(trial: Trial) -> Verdict:
    if trial.formula.second is None:
        return trial.skipped("second derivative", f"{trial.formula.name} has no second derivative declared")

    def measure(case: Case) -> Reading:
        values = trial.arguments_f64(case)
        cotangents = cotangents_for(trial, values, case.seed)
        generator = np.random.default_rng([case.seed, 2000])
        wanted = differentiable(trial)
        h = [round_to(generator.standard_normal(np.shape(values[i])), trial.dtype) for i in wanted]
        truth = trial.truth_of_second(values, cotangents, h)
        return trial.judge(double_backward(trial, values, cotangents, h), truth)

    return survey(trial, "second derivative", measure)


def double_backward(
    trial: Trial, values: Sequence[Any], cotangents: Sequence[np.ndarray], h: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """torch's gradient of ⟨h, vjp(ȳ, x)⟩ with respect to every ȳ and every differentiable x."""
    natives = trial.arguments(values)
    sources = [natives[i] for i in differentiable(trial)]
    back = [frameworks.native(g, True, trial.dtype, "torch", trial.device) for g in cotangents]
    for leaf in [*sources, *back]:
        leaf.requires_grad_(True)
    outs = trial.accepted(trial.invoke(natives), values)
    inner = reraise_as_rejected(torch.autograd.grad, outs, sources, back, create_graph=True)
    if not all(g.requires_grad for g in inner):
        raise Rejected("claims double backward, but its gradient does not require grad.")
    seeds = [frameworks.native(x, True, trial.dtype, "torch", trial.device) for x in h]
    leaves = [*back, *sources]
    outer = reraise_as_rejected(torch.autograd.grad, inner, leaves, seeds, allow_unused=True)
    return [
        np.zeros(tuple(x.shape)) if g is None else frameworks.to_float64(g) for x, g in zip(leaves, outer, strict=True)
    ]
