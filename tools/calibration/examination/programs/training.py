"""Accumulation, clipping, averaging and the warm-up schedule."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from trueness.tools.calibration.examination.program import HALVES, Program, fault, sabotaged
from trueness.tools.calibration.examination.programs.common import Tensor, wide


def accumulate(gradients: Tensor, counts: Tensor, *, fault: str = "") -> Tensor:
    """One micro-batch after the other"""
    g = wide(gradients)
    steps = min(len(g), 16) if fault == "16 micro-batches" else len(g)
    weights = counts.double()
    if fault == "counts in 8 bits":
        weights = (counts * 40).to(torch.int8).double() / 40
    if fault == "counts along the last axis" and g.shape[-1] == len(counts) and g.ndim == 2:
        return (g * (weights / weights.sum()).to(g)).sum(0).to(gradients.dtype)
    total = torch.zeros_like(g[0])
    for k in range(steps):
        total = total + g[k] * weights[k].to(g)
        if fault == "sum in the half format":
            total = total.to(gradients.dtype).to(g)
    divisor = len(g) * weights.mean() if fault != "divided by the largest count" else len(g) * weights.max()
    return (total / divisor.to(g)).to(gradients.dtype)


def clipped(g: Tensor, max_norm: float, fault: str, storage: torch.dtype) -> Tensor:
    flat = g.reshape(-1)
    if fault == "norm of 4096 elements":
        square = flat[:4096].square().sum()
    elif fault == "norm in the half format":
        square = torch.zeros_like(flat[:1].sum())
        for part in flat.split(64):
            square = (square + part.square().sum()).to(storage).to(flat)
    elif fault == "largest element for norm":
        square = flat.abs().max().square() if flat.numel() else flat.sum()
    else:
        square = flat.square().sum()
    norm = torch.where(square == 0, 0.0, torch.where(square == 0, 1.0, square).sqrt())
    if fault == "root of zero":
        norm = square.sqrt()
    factor = max_norm / (norm + (0.0 if fault == "no 1e-6" else 1e-6))
    if fault == "small norms scaled up":
        return g * torch.where(norm < 1e-3, factor, factor.clamp(max=1.0))
    if fault == "factor detached":
        return g * factor.clamp(max=1.0).detach()
    return g * factor.clamp(max=1.0)


def clip_by_global_norm(gradient: Tensor, max_norm: float, *, fault: str = "") -> Tensor:
    return clipped(wide(gradient), max_norm, fault, gradient.dtype).to(gradient.dtype)


def clip_after_average(gradients: Tensor, counts: Tensor, max_norm: float, *, fault: str = "") -> Tensor:
    mean = accumulate(wide(gradients), counts)
    if fault == "clipped row by row" and mean.ndim > 1:
        return torch.stack([clipped(r, max_norm, "", gradients.dtype) for r in mean]).to(gradients.dtype)
    if fault == "mean of means":
        mean = wide(gradients).mean(0)
    return clipped(mean, max_norm, fault, gradients.dtype).to(gradients.dtype)


def ema_update(average: Tensor, parameter: Tensor, decay: float, *, fault: str = "") -> Tensor:
    a, x = wide(average), wide(parameter)
    if fault == "decay of 0.9 at most":
        decay = min(decay, 0.9)
    if fault == "decay and share exchanged":
        decay = 1 - decay
    if fault == "average detached":
        a = a.detach() + 0 * a
    if fault == "difference in bfloat16":
        return (a + (1 - decay) * (x - a).bfloat16().to(a)).to(average.dtype)
    if fault == "written into the average":
        found = (a + (1 - decay) * (x - a)).to(average.dtype)
        average.data.copy_(found)
        return found
    if fault == "average returned for a decay near 1" and decay > 0.95:
        return average.clone()
    return (a + (1 - decay) * (x - a)).to(average.dtype)


def warmup_cosine_factor(
    step: Tensor,
    warmup_steps: int,
    total_steps: int,
    min_lr_ratio: float,
    *,
    dtype: Any,
    device: Any = None,
    fault: str = "",
) -> Tensor:
    k = step.double()
    share = (k - warmup_steps).clamp(min=0) / (total_steps - (0 if fault == "length from the start" else warmup_steps))
    low = 0.0 if fault == "no floor below 0.05" and min_lr_ratio < 0.05 else min_lr_ratio
    half = math.pi / 2 * share
    cosine = torch.cos(half.float()).double() if fault == "cosine in float32" else torch.cos(half)
    decayed = low + (1 - low) * cosine * cosine
    decayed = torch.where(k < total_steps, decayed, low)
    offset = 1 if fault == "warm-up from one" else 0
    return torch.where(k < warmup_steps, (k + offset) / max(warmup_steps, 1), decayed).to(dtype)


# -- right programs of other algorithms --------------------------------------------------------------------------------


def accumulate_by_einsum(gradients: Tensor, counts: Tensor) -> Tensor:
    weights = (counts.double() / counts.sum()).to(wide(gradients))
    return torch.einsum("k...,k->...", wide(gradients), weights).to(gradients.dtype)


def accumulate_as_running_mean(gradients: Tensor, counts: Tensor) -> Tensor:
    g, seen = wide(gradients).double(), 0
    mean = torch.zeros_like(g[0])
    for part, n in zip(g, counts.tolist(), strict=True):
        seen += n
        mean = mean + (part - mean) * (n / seen)
    return mean.to(gradients.dtype)


def clip_by_hypot(gradient: Tensor, max_norm: float) -> Tensor:
    norm = torch.linalg.vector_norm(wide(gradient).double())
    return (gradient.double() * torch.clamp(max_norm / (norm + 1e-6), max=1.0)).to(gradient.dtype)


def ema_by_lerp(average: Tensor, parameter: Tensor, decay: float) -> Tensor:
    return torch.lerp(wide(average), wide(parameter), 1 - decay).to(average.dtype)


def ema_by_weights(average: Tensor, parameter: Tensor, decay: float) -> Tensor:
    return (decay * wide(average) + (1 - decay) * wide(parameter)).to(average.dtype)


def cosine_as_square(step: Any, warmup_steps: int, total_steps: int, min_lr_ratio: float, *, dtype: Any) -> Any:
    found = []
    for k in step.tolist():
        if k < warmup_steps:
            found.append(k / warmup_steps)
        elif k >= total_steps:
            found.append(min_lr_ratio)
        else:
            half = math.cos(math.pi / 2 * (k - warmup_steps) / (total_steps - warmup_steps))
            found.append(min_lr_ratio + (1 - min_lr_ratio) * half * half)
    return np.array(found).astype(dtype)


T = "training."
SQUARE = {"...": ()}

PROGRAMS = (
    *sabotaged(
        f"{T}accumulate",
        "one after the other",
        accumulate,
        {
            "16 micro-batches": fault("entries beyond n not read", K=20),
            "counts in 8 bits": fault("narrow index", K=5),
            "counts along the last axis": fault("wrong axis", K=5, N=5, sizes=SQUARE),
            "divided by the largest count": fault("reduction", K=4),
            "sum in the half format": fault("half accumulator", dtypes=HALVES, K=400),
        },
    ),
    Program(f"{T}accumulate", "einsum", accumulate_by_einsum),
    Program(f"{T}accumulate", "running mean in float64", accumulate_as_running_mean),
    *sabotaged(
        f"{T}clip_by_global_norm",
        "norm, then factor",
        clip_by_global_norm,
        {
            "norm of 4096 elements": fault(
                "entries beyond n not read", sizes={"...": (5000,)}, scalars={"max_norm": 1.0}
            ),
            "norm in the half format": fault("half accumulator", dtypes=HALVES, sizes={"...": (9000,)}, scale=-1.0),
            "largest element for norm": fault("reduction", sizes={"...": (9,)}, scalars={"max_norm": 0.5}),
            "root of zero": fault("ties and zeros", "gradient", factor=0.0),
            "no 1e-6": fault(
                "epsilon",
                scale=-4.0,
                spread=0.0,
                scalars={"max_norm": 0.01},
                factor=10.0,
                dtypes=("float64", "float32"),
                sizes={"...": (200,)},
            ),
            "small norms scaled up": fault("far scalar", scale=-4.0, spread=0.0, scalars={"max_norm": 1.0}),
            "factor detached": fault(
                "gradient dropped or scaled", "gradient", sizes={"...": (9,)}, scalars={"max_norm": 0.5}
            ),
        },
    ),
    Program(f"{T}clip_by_global_norm", "vector_norm in float64", clip_by_hypot),
    *sabotaged(
        f"{T}clip_after_average",
        "mean, then factor",
        clip_after_average,
        {
            "clipped row by row": fault("wrong axis", K=3, N=5, sizes={"...": (4,)}, scalars={"max_norm": 0.5}),
            "mean of means": fault("reduction", K=4, scalars={"max_norm": 3.0}),
        },
    ),
    *sabotaged(
        f"{T}ema_update",
        "step towards the weights",
        ema_update,
        {
            "decay of 0.9 at most": fault("far scalar", scalars={"decay": 0.99}),
            "decay and share exchanged": fault("order", scalars={"decay": 0.9}, names=("ATLAS-07g",)),
            "average detached": fault("gradient dropped or scaled", "gradient", scalars={"decay": 0.9}),
            "difference in bfloat16": fault("reduced inputs", dtypes=("float32", "float16"), scalars={"decay": 0.5}),
            "written into the average": fault("written memory", "written", scalars={"decay": 0.9}),
            "average returned for a decay near 1": fault("far scalar", scalars={"decay": 0.99}),
        },
    ),
    Program(f"{T}ema_update", "lerp", ema_by_lerp),
    Program(f"{T}ema_update", "two weights", ema_by_weights),
    *sabotaged(
        f"{T}warmup_cosine_factor",
        "in float64",
        warmup_cosine_factor,
        {
            "length from the start": fault("constant", scalars={"warmup_steps": 10}),
            "no floor below 0.05": fault("far scalar", scalars={"min_lr_ratio": 0.01}),
            "cosine in float32": fault("reduced inputs", dtypes=("float64",), N=9),
            "warm-up from one": fault("constant", N=9, scalars={"warmup_steps": 20}),
        },
    ),
    Program(f"{T}warmup_cosine_factor", "square of a cosine", cosine_as_square, framework="numpy"),
)
