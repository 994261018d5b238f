"""LoRA in tiles of inputs, and timestep embeddings."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from trueness.tools.calibration.examination.program import HALVES, IN_JAX, Program, fault, sabotaged
from trueness.tools.calibration.examination.programs.common import Tensor, tf32, wide


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


# -- right programs of other algorithms --------------------------------------------------------------------------------


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


PROGRAMS = (
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
