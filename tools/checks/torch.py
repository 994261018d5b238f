"""Checks of torch operators, where claimed: opcheck, torch.compile, autocast, vmap, forward mode."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from trueness.tools.arithmetic import complex_step
from trueness.tools.arithmetic.bounds import Bound
from trueness.tools.arithmetic.formats import round_to
from trueness.tools.checks.backward import require_gradient
from trueness.tools.checks.contract import require_agreement, typical
from trueness.tools.checks.core import Failed, check
from trueness.tools.checks.gradients import cotangents_for, has_truth
from trueness.tools.run import frameworks
from trueness.tools.run.trial import Trial, reraise_as_rejected
from trueness.tools.spec.model import Verdict

TORCH: dict[str, Any] = {"frameworks": ("torch",)}
OPERATORS = (torch._ops.OpOverload, torch._ops.OpOverloadPacket, torch._library.custom_ops.CustomOpDef)
TRACED = ("float32", "bfloat16")  # one computed as it is, one in a wider format


@check("opcheck", "torch.library.opcheck accepts the registered operator", claim="opcheck", independent=True, **TORCH)
def opcheck(trial: Trial) -> Verdict:
    case = typical(trial)
    function = trial.implementation.load()
    operator = getattr(function, "operator", function if isinstance(function, OPERATORS) else None)
    if operator is None:
        raise Failed(case, "claims opcheck, but its callable has no attribute ``operator``.")
    natives = trial.arguments(trial.arguments_f64(case))
    for x in natives:
        if isinstance(x, torch.Tensor) and x.dtype in (torch.float32, torch.float64):
            x.requires_grad_(True)
    reraise_as_rejected(torch.library.opcheck, operator, tuple(natives))
    return trial.passed("opcheck", cases=1)


@check(
    "compile", "torch.compile(fullgraph=True, dynamic=True) gives the same without a break", claim="compile", **TORCH
)
def compiles(trial: Trial) -> Verdict:
    """Traced with the aot_eager backend: what can break is the graph, and no C++ compiler is needed to see it.

    The graph depends on the dtype through what is computed in a wider one; the deep profile traces them all.
    """
    if trial.dtype not in TRACED and not trial.profile.every_dtype:
        return trial.skipped("compile", f"traced in {' and '.join(TRACED)}; in all by the deep profile")
    torch._dynamo.reset()
    function = trial.load()
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")
    for length in (5, 6):
        case = typical(trial, length=length)
        values = trial.arguments_f64(case)
        result = reraise_as_rejected(compiled, *trial.arguments(values), **trial.keywords())
        outs = [frameworks.to_float64(y) for y in trial.accepted(result, values)]
        require_agreement(trial, case, outs, values, "under torch.compile")
    return trial.passed("compile", cases=2 + compiled_gradient(trial))


def compiled_gradient(trial: Trial) -> int:
    """Compare the gradient of the compiled function in one of the formats, where it is claimed; the number of cases.

    Its lengths are fixed: a break shows all the same, and symbolic lengths take several times as long.
    """
    if "gradient" not in trial.implementation.claims or not has_truth(trial) or not trial.paths:
        return 0
    case = typical(trial)
    values = trial.arguments_f64(case)
    torch._dynamo.reset()
    compiled = torch.compile(trial.load(), fullgraph=True, dynamic=False, backend="aot_eager")

    def call(*natives: Any, **keywords: Any) -> Any:
        return reraise_as_rejected(compiled, *natives, **keywords)

    seeds = cotangents_for(trial, values, case.seed)
    require_gradient(replace(trial, function=call), case, values, seeds, "under torch.compile", usual=trial)
    return 1


@check(
    "autocast", "under autocast the result keeps its dtype and its bound", claim="autocast", independent=True, **TORCH
)
def autocast(trial: Trial) -> Verdict:
    case = typical(trial)
    values = trial.arguments_f64(case)
    natives = trial.arguments(values)
    with torch.autocast(trial.device, dtype=torch.bfloat16):
        cast = trial.accepted(trial.invoke(natives), values)
    require_agreement(trial, case, [frameworks.to_float64(y) for y in cast], values, "under autocast")
    return trial.passed("autocast", cases=1)


@check("vmap", "torch.vmap over a new leading axis equals the loop over it", claim="vmap", **TORCH)
def vmap(trial: Trial) -> Verdict:
    rows = [trial.arguments_f64(typical(trial, seed=s)) for s in (1, 2, 3)]
    tensor = [a.tensor and a.real for a in trial.formula.arguments]
    natives = [trial.arguments(values) for values in rows]
    stacked = [torch.stack(list(xs)) if t else xs[0] for t, xs in zip(tensor, zip(*natives, strict=True), strict=True)]
    for i, t in enumerate(tensor):
        if not t:
            for values in rows:
                values[i] = rows[0][i]
    mapped = torch.vmap(trial.load(), in_dims=tuple(0 if t else None for t in tensor))
    result = reraise_as_rejected(mapped, *stacked, **trial.keywords())
    parts = result if isinstance(result, tuple) else (result,)
    for k, values in enumerate(rows):
        outs = [frameworks.to_float64(y) for y in trial.accepted(pack([y[k] for y in parts]), values)]
        require_agreement(trial, typical(trial, seed=k + 1), outs, values, f"row {k} under vmap")
    return trial.passed("vmap", cases=3)


def pack(parts: list[Any]) -> Any:
    return parts[0] if len(parts) == 1 else tuple(parts)


@check("jvp", "forward mode lies within the bound of the transposed vector-Jacobian product", claim="jvp", **TORCH)
def jvp(trial: Trial) -> Verdict:
    """J v is compared with the complex step of the reference, through ⟨g, J v⟩ = ⟨vjp(g), v⟩ for unit vectors g."""
    if trial.formula.vjp is None:
        return trial.skipped("jvp", f"{trial.formula.name} has no vector-Jacobian product to bound it")
    case = typical(trial, length=2)
    values = trial.arguments_f64(case)
    generator = np.random.default_rng(case.seed)
    wanted = [i for i, a in enumerate(trial.formula.arguments) if a.differentiable]
    directions: list[Any] = [None] * len(values)
    for i in wanted:
        directions[i] = round_to(generator.standard_normal(np.shape(values[i])), trial.dtype)

    def tangent(*arguments: Any) -> Any:
        return complex_step.directional_derivative(trial.formula.reference, arguments, directions)

    natives = trial.arguments(values)
    chosen = tuple(natives[i] for i in wanted)
    vectors = tuple(frameworks.native(directions[i], True, trial.dtype, "torch", trial.device) for i in wanted)
    function = trial.load()

    def moved(*xs: Any) -> Any:
        full = list(natives)
        for i, x in zip(wanted, xs, strict=True):
            full[i] = x
        return function(*full, **trial.keywords())

    _, result = reraise_as_rejected(torch.func.jvp, moved, chosen, vectors)
    outs = [frameworks.to_float64(y) for y in trial.accepted(result, values)]
    truth = tangent(*values)
    bound = jacobian_bound(trial, values, directions, wanted)
    for out, y, B in zip(outs, truth, bound, strict=True):
        ratio = Bound(y, B).ratio(out)
        if ratio.size and ratio.max() > trial.limit:
            raise Failed(case, f"forward mode is off by T = {ratio.max():.3g}.")
    return trial.passed("jvp", cases=1)


def jacobian_bound(trial: Trial, values: list[Any], directions: list[Any], wanted: list[int]) -> list[np.ndarray]:
    """B of J v, element by element, from the vjp's bound with a unit cotangent on that element."""
    shapes = [b.y.shape for b in trial.truth(values)]
    found = []
    for k, shape in enumerate(shapes):
        B = np.zeros(shape)
        for at in np.ndindex(shape):
            unit = [np.zeros(s) for s in shapes]
            unit[k][at] = 1.0
            rows = trial.truth_of_gradient(values, unit)
            B[at] = sum(float((b.B * np.abs(directions[i])).sum()) for i, b in zip(wanted, rows, strict=True))
        found.append(B)
    return found
