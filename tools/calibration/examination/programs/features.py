"""Random Fourier features in tiles of features, and products with them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from trueness.tools.calibration.examination.program import HALVES, IN_JAX, Program, fault, sabotaged
from trueness.tools.calibration.examination.programs.common import Tensor, tf32, tiles, wide

TILE = 32


class Features(torch.autograd.Function):
    """√(2/D) cos(x W + b), tiles of features; the backward computes the angles again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor, fault: str) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x, w, b)
        ctx.fault = fault
        a, frequency, offset = wide(x), wide(w), wide(b)
        width = w.shape[1]
        if fault == "projection cut to TF32":
            a, frequency = tf32(a), tf32(frequency)
        found = []
        for j in tiles(width, TILE):
            at = slice(0, TILE) if fault == "frequencies of the first tile" and j.stop - j.start == TILE else j
            shift = offset[slice(0, j.stop - j.start)] if fault == "offsets of the first tile" else offset[j]
            found.append(torch.cos(a @ frequency[:, at] + shift))
        padded = -(-width // TILE) * TILE if fault == "scale of the padded width" and width > TILE else width
        out = math.sqrt(2 / padded) * torch.cat(found, 1)
        if fault == "rows beyond 256 not written":
            out[256:] = 0.0
        return out.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        x, w, b = ctx.saved_tensors
        fault = ctx.fault
        a, frequency, g = wide(x), wide(w), wide(grad)
        slope = -math.sqrt(2 / w.shape[1]) * g * torch.sin(a @ frequency + wide(b))
        rows = slice(0, 64 if fault == "gradient of W from 64 rows" else len(x))
        dx = slope @ frequency.T
        if fault == "gradient of x without the last tile" and w.shape[1] > TILE:
            dx = slope[:, : (w.shape[1] - 1) // TILE * TILE] @ frequency[:, : (w.shape[1] - 1) // TILE * TILE].T
        db = torch.zeros_like(slope[0]) if fault == "gradient of b dropped" else slope.sum(0)
        dw = a[rows].T @ slope[rows]
        return dx.to(x.dtype), dw.to(x.dtype), db.to(x.dtype), None


def features(x: Tensor, frequencies: Tensor, offsets: Tensor, *, fault: str = "") -> Tensor:
    return Features.apply(x, frequencies, offsets, fault)


def paired(x: Tensor, frequencies: Tensor, *, fault: str = "") -> Tensor:
    angle = wide(x) @ wide(frequencies)
    cos, sin = torch.cos(angle), torch.sin(angle)
    if fault == "sine of reduced angles":
        sin = torch.sin(angle.clamp(-4 * math.pi, 4 * math.pi))
    halves = (sin, cos) if fault == "sine first" else (cos, sin)
    if fault == "interleaved":
        return (torch.stack(halves, -1).flatten(-2) * math.sqrt(1 / angle.shape[1])).to(x.dtype)
    return (torch.cat(halves, 1) * math.sqrt(1 / angle.shape[1])).to(x.dtype)


def gram(x: Tensor, y: Tensor, frequencies: Tensor, offsets: Tensor, *, fault: str = "") -> Tensor:
    """φ(x) φ(y)ᵀ summed over tiles of features, φ never whole"""
    a, b, w, o = (wide(t) for t in (x, y, frequencies, offsets))
    width = w.shape[1]
    total = a.new_zeros((len(a), len(b)))
    for j in tiles(width, TILE):
        if fault == "last feature tile lost" and j.start and j.stop == width:
            continue
        part = torch.cos(a @ w[:, j] + o[j]) @ torch.cos(b @ w[:, j] + o[j]).T
        total = total + (part if fault != "tiles scaled by their own width" else part * (TILE / (j.stop - j.start)))
        if fault == "sum in the half format":
            total = total.to(x.dtype).to(total)
    if fault == "lower triangle mirrored" and len(a) == len(b):
        total = total.tril() + total.tril(-1).T
    return (2 / width * total).to(x.dtype)


def matvec(x: Tensor, y: Tensor, v: Tensor, frequencies: Tensor, offsets: Tensor, *, fault: str = "") -> Tensor:
    a, b, u, w, o = (wide(t) for t in (x, y, v, frequencies, offsets))
    pulled = w.new_zeros((w.shape[1], u.shape[1]))
    for j in tiles(len(b), TILE):
        if fault == "last rows of y lost" and j.start and j.stop - j.start < TILE:
            continue
        pulled = pulled + torch.cos(b[j] @ w + o).T @ u[j]
        if fault == "sum in the half format":
            pulled = pulled.to(x.dtype).to(pulled)
    if fault == "gradient of v dropped":
        pulled = pulled.detach() + 0 * pulled
    if fault == "features beyond 64 not read":
        pulled = torch.cat([pulled[:64], 0 * pulled[64:]])
    return (2 / w.shape[1] * torch.cos(a @ w + o) @ pulled).to(x.dtype)


# -- right programs of other algorithms --------------------------------------------------------------------------------


def features_by_addmm(x: Tensor, frequencies: Tensor, offsets: Tensor) -> Tensor:
    angle = torch.addmm(wide(offsets), wide(x), wide(frequencies))
    return (angle.cos() * math.sqrt(2 / offsets.shape[0])).to(x.dtype)


def features_as_sine(x: Tensor, frequencies: Tensor, offsets: Tensor) -> Tensor:
    """cos z = sin(z + π/2) in float64"""
    angle = x.double() @ frequencies.double() + offsets.double() + math.pi / 2
    return (torch.sin(angle) * math.sqrt(2 / offsets.shape[0])).to(x.dtype)


def features_by_jax(x: Any, frequencies: Any, offsets: Any) -> Any:
    import jax.numpy as jnp

    angle = jnp.matmul(x.astype(jnp.float32), frequencies.astype(jnp.float32), precision="highest")
    return (jnp.cos(angle + offsets.astype(jnp.float32)) * np.sqrt(2 / offsets.shape[0]).astype(np.float32)).astype(
        x.dtype
    )


def paired_as_complex(x: Tensor, frequencies: Tensor) -> Tensor:
    """e^{iz}, its real and its imaginary part"""
    wave = torch.polar(torch.ones_like(wide(x) @ wide(frequencies)), wide(x) @ wide(frequencies))
    return (torch.cat([wave.real, wave.imag], 1) / math.sqrt(frequencies.shape[1])).to(x.dtype)


def gram_by_einsum(x: Tensor, y: Tensor, frequencies: Tensor, offsets: Tensor) -> Tensor:
    left, right = (features_by_addmm(wide(t), wide(frequencies), wide(offsets)) for t in (x, y))
    return torch.einsum("id,jd->ij", left, right).to(x.dtype)


def matvec_by_gram(x: Tensor, y: Tensor, v: Tensor, frequencies: Tensor, offsets: Tensor) -> Tensor:
    """K̂ whole, then K̂ v, in float64"""
    return (gram_by_einsum(x.double(), y.double(), frequencies.double(), offsets.double()) @ v.double()).to(x.dtype)


K = "kernels."

PROGRAMS = (
    *sabotaged(
        f"{K}rff_features",
        "tiles of 32 features",
        features,
        {
            "frequencies of the first tile": fault("tile repeated", D=70),
            "offsets of the first tile": fault("tile repeated", D=70),
            "scale of the padded width": fault("last partial tile", D=40),
            "rows beyond 256 not written": fault("entries beyond n not read", n=300),
            "projection cut to TF32": fault("reduced inputs", dtypes=("float32",)),
            "gradient of W from 64 rows": fault("gradient of first rows", "gradient", n=70),
            "gradient of x without the last tile": fault("last partial tile", "gradient", D=40),
            "gradient of b dropped": fault("gradient dropped or scaled", "gradient"),
        },
    ),
    Program(f"{K}rff_features", "addmm", features_by_addmm),
    Program(f"{K}rff_features", "sine in float64", features_as_sine),
    Program(f"{K}rff_features", "JAX", features_by_jax, framework="jax", dtypes=IN_JAX),
    *sabotaged(
        f"{K}rff_features_paired",
        "both halves",
        paired,
        {
            "sine first": fault("order", names=()),
            "interleaved": fault("order"),
            "sine of reduced angles": fault("long sums and powers", d=60, factor=10.0),
        },
    ),
    Program(f"{K}rff_features_paired", "complex exponential", paired_as_complex),
    *sabotaged(
        f"{K}rff_gram",
        "sum over tiles of features",
        gram,
        {
            "last feature tile lost": fault("last partial tile", D=40),
            "tiles scaled by their own width": fault("last partial tile", D=40),
            "sum in the half format": fault("half accumulator", dtypes=HALVES, D=3000),
            "lower triangle mirrored": fault("wrong axis", n=5, m=5),
        },
    ),
    Program(f"{K}rff_gram", "einsum", gram_by_einsum),
    *sabotaged(
        f"{K}rff_matvec",
        "tiles of 32 rows",
        matvec,
        {
            "last rows of y lost": fault("last partial tile", m=40),
            "features beyond 64 not read": fault("entries beyond n not read", D=70),
            "sum in the half format": fault("half accumulator", dtypes=HALVES, m=3000),
            "gradient of v dropped": fault("gradient dropped or scaled", "gradient"),
        },
    ),
    Program(f"{K}rff_matvec", "the matrix whole, in float64", matvec_by_gram),
)
