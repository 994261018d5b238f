"""Accumulation, clipping, averaging, schedules, LoRA and timestep embeddings."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from trueness.tools.calibration.examination.program import HALVES, IN_JAX, Program, fault, sabotaged
from trueness.tools.calibration.examination.programs.common import Tensor, tf32, wide

# -- gradients --------------------------------------------------------------------------------------------------------


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
    norm = torch.where(square > 0, torch.where(square > 0, square, 1.0).sqrt(), 0.0)
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


# -- LoRA -------------------------------------------------------------------------------------------------------------


def lora(
    x: Tensor, weight: Tensor, lora_A: Tensor, lora_B: Tensor, mask: Tensor, alpha: float, p: float, *, fault: str = ""
) -> Tensor:
    """The product with W in tiles of 32 inputs, the adapter beside it"""
    z, w, a, b = (wide(t) for t in (x, weight, lora_A, lora_B))
    if fault == "TF32 inputs":
        z, w, a, b = (tf32(t) for t in (z, w, a, b))
    rank = len(a)
    base = z.new_zeros((*z.shape[:-1], len(w)))
    for start in range(0, z.shape[-1], 32):
        if fault == "last tile of inputs lost" and start and z.shape[-1] - start < 32:
            continue
        base = base + z[..., start : start + 32] @ w[:, start : start + 32].T
    kept = torch.where(mask, z / (1 - p), 0.0)
    if fault == "not scaled up below 0.2" and p < 0.2:
        kept = torch.where(mask, z, 0.0)
    if fault == "rank of eight":
        a, b = a[:8], b[:, :8]
    if fault == "α of 16 at most":
        alpha = min(alpha, 16.0)
    scale = alpha / (math.sqrt(rank) if fault == "α over √r" else rank)
    if fault == "B detached":
        b = b.detach() + 0 * b
    return (base + scale * (kept @ a.T @ b.T)).to(x.dtype)


def merge(weight: Tensor, lora_A: Tensor, lora_B: Tensor, alpha: float, *, fault: str = "") -> Tensor:
    w, a, b = wide(weight), wide(lora_A), wide(lora_B)
    product = b @ a
    if fault == "transposed for squares" and product.shape[0] == product.shape[1]:
        product = product.T
    if fault == "product in bfloat16":
        product = product.bfloat16().to(product)
    if fault == "written into the weight":
        weight.data.copy_((w + product * (alpha / len(a))).to(weight.dtype))
        return weight.clone()
    if fault == "64 rows":
        product = torch.cat([product[:64], 0 * product[64:]])
    return (w + product * (alpha / len(a))).to(weight.dtype)


def lora_merged(
    x: Tensor, weight: Tensor, lora_A: Tensor, lora_B: Tensor, mask: Tensor, alpha: float, p: float
) -> Tensor:
    """One product with [W, s B] of [x, A d]"""
    z, w, a, b = (wide(t) for t in (x, weight, lora_A, lora_B))
    kept = z * mask / (1 - p)
    both = torch.cat([z, kept @ a.T], -1)
    return torch.nn.functional.linear(both, torch.cat([w, b * (alpha / len(a))], 1)).to(x.dtype)


def merge_by_addmm(weight: Tensor, lora_A: Tensor, lora_B: Tensor, alpha: float) -> Tensor:
    return torch.addmm(wide(weight), wide(lora_B), wide(lora_A), alpha=alpha / len(lora_A)).to(weight.dtype)


# -- embeddings -------------------------------------------------------------------------------------------------------


def sinusoidal(t: Tensor, dim: int, max_period: float, shift: int, order: str, *, fault: str = "") -> Tensor:
    half = dim // 2
    work = torch.float64 if fault != "frequencies in float32" else torch.float32
    i = torch.arange(half, dtype=work)
    if fault == "64 frequencies":
        i = torch.where(i < 64, i, 0.0)
    if fault == "log₂ for ln":
        omega = torch.exp2(-math.log(max_period) * i / max(half - shift, 1))
    else:
        omega = torch.exp(-math.log(max_period) * i / max(half - shift, 1))
    if fault == "shift of one for short ones" and half < 4:
        omega = torch.exp(-math.log(max_period) * i / max(half - 1, 1))
    z = wide(t)
    if fault == "steps modulo 256":
        z = torch.where(z.abs() > 255, z % 256, z)
    angle = z.double()[..., None] * omega.double()
    if fault == "angle in the half format":
        angle = angle.to(t.dtype).double()
    if fault == "angle rounded to float16":
        angle = angle.half().double()
    parts = (torch.sin(angle), torch.cos(angle))
    if order != "sin cos" and fault != "sines first always":
        parts = (parts[1], parts[0])
    out = torch.cat(parts, -1)
    if dim % 2:
        extra = out[..., :1] if fault == "odd channel repeats the first" else 0 * out[..., :1]
        out = torch.cat([out, extra], -1)
    return out.to(t.dtype)


def sinusoidal_by_powers(t: Tensor, dim: int, max_period: float, shift: int, order: str) -> Tensor:
    """P^{−i/(h − shift)} by a power, sines and cosines of one complex exponential"""
    half = dim // 2
    omega = max_period ** (-torch.arange(half, dtype=torch.float64) / max(half - shift, 1))
    wave = torch.exp(1j * t.double()[..., None] * omega)
    parts = (wave.imag, wave.real) if order == "sin cos" else (wave.real, wave.imag)
    return torch.nn.functional.pad(torch.cat(parts, -1), (0, dim % 2)).to(t.dtype)


def sinusoidal_by_jax(t: Any, dim: int, max_period: float, shift: int, order: str) -> Any:
    import jax.numpy as jnp

    half = dim // 2
    omega = np.exp(-np.log(max_period) * np.arange(half) / max(half - shift, 1)).astype(np.float32)
    angle = t.astype(jnp.float32)[..., None] * omega
    parts = [jnp.sin(angle), jnp.cos(angle)] if order == "sin cos" else [jnp.cos(angle), jnp.sin(angle)]
    return jnp.concatenate([*parts, jnp.zeros((*t.shape, dim % 2), jnp.float32)], -1).astype(t.dtype)


# -- right programs of other algorithms -------------------------------------------------------------------------------


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
    *sabotaged(
        "adapters.lora",
        "tiles of 32 inputs",
        lora,
        {
            "last tile of inputs lost": fault("last partial tile", I=40),
            "rank of eight": fault("entries beyond n not read", R=10),
            "not scaled up below 0.2": fault("far scalar", scalars={"p": 0.1}, I=5),
            "α of 16 at most": fault("far scalar", scalars={"alpha": 30.0}, I=5),
            "α over √r": fault("constant", R=3, I=5),
            "TF32 inputs": fault("reduced inputs", dtypes=("float32",), I=5),
            "B detached": fault("gradient dropped or scaled", "gradient", I=5),
        },
    ),
    Program("adapters.lora", "one product", lora_merged),
    *sabotaged(
        "adapters.merge",
        "product, then sum",
        merge,
        {
            "transposed for squares": fault("wrong axis", O=4, I=4, R=2),
            "product in bfloat16": fault("reduced inputs", dtypes=("float32", "float16"), O=4, I=5),
            "written into the weight": fault("written memory", "written"),
            "64 rows": fault("entries beyond n not read", O=70),
        },
    ),
    Program("adapters.merge", "addmm", merge_by_addmm),
    *sabotaged(
        "embeddings.sinusoidal",
        "in float64",
        sinusoidal,
        {
            "64 frequencies": fault("entries beyond n not read", scalars={"dim": 140}),
            "log₂ for ln": fault("constant", scalars={"dim": 10}),
            "shift of one for short ones": fault("far scalar", scalars={"dim": 6, "shift": 0}, names=("ATLAS-03",)),
            "steps modulo 256": fault("narrow index", B=5, factor=300.0, scalars={"dim": 8}),
            "angle in the half format": fault("reduced inputs", dtypes=HALVES, B=9, scale=1.3, scalars={"dim": 8}),
            "angle rounded to float16": fault("reduced inputs", dtypes=("float32",), B=5, scalars={"dim": 8}),
            "sines first always": fault("order", scalars={"dim": 8, "order": "cos sin"}, names=("ATLAS-03d",)),
            "odd channel repeats the first": fault("wrong axis", scalars={"dim": 9}),
            "frequencies in float32": fault("reduced inputs", dtypes=("float64",), B=5, scalars={"dim": 8}),
        },
    ),
    Program("embeddings.sinusoidal", "complex exponential", sinusoidal_by_powers),
    Program("embeddings.sinusoidal", "JAX", sinusoidal_by_jax, framework="jax", dtypes=IN_JAX),
)
