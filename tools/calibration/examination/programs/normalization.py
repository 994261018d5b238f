"""LayerNorm and GroupNorm: blocks of rows, tiles of channels merged as Chan et al. do, a backward of blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from trueness.tools.calibration.examination.program import HALVES, IN_JAX, WIDE, Program, Witness, fault, sabotaged
from trueness.tools.calibration.examination.programs.common import Tensor, as_stored, tiles, wide

LAYER, GROUP = "attention.layer_norm", "attention.group_norm"
TILE, ROWS = 64, 16


def moments(x: Tensor, fault: str, storage: torch.dtype) -> tuple[Tensor, Tensor]:
    """Mean and variance over the last axis, tile by tile        (Chan, Golub & LeVeque 1983 eq. 2.1)"""
    n, rows = x.shape[-1], x.shape[:-1]
    if fault == "one-pass variance":
        mean = x.mean(-1, keepdim=True)
        return mean, (x * x).mean(-1, keepdim=True) - mean * mean
    end = n // TILE * TILE if fault == "last tile not in the mean" and n > TILE else n
    end = min(end, 256) if fault == "mean of 256 channels" else end
    count, mean, square = 0, x.new_zeros((*rows, 1)), x.new_zeros((*rows, 1))
    for at in tiles(end, TILE):
        part = x[..., at]
        if fault == "second tile repeats the first" and at.start == TILE and at.stop == 2 * TILE:
            part = x[..., :TILE]
        m = part.shape[-1]
        if fault == "last tile counted as full" and at.start and at.stop == n:
            m = TILE
        its_mean = part.sum(-1, keepdim=True) / m
        apart = its_mean - mean
        total = count + m
        square = square + (part - its_mean).square().sum(-1, keepdim=True)
        if fault != "tiles merged without their distance":
            square = square + apart * apart * (count * m / total)
        mean = mean + apart * (m / total)
        if fault == "moments in the half format":
            mean, square = mean.to(storage).to(mean), square.to(storage).to(square)
        count = total
    divisor = max(count - 1, 1) if fault == "variance divided by n − 1" else count
    return mean, square / divisor


class Normalized(torch.autograd.Function):
    """w x̂ + b over the last axis of x (rows, n), with the backward of the mean and of the variance."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, fault: str) -> Tensor:  # type: ignore[override]
        z = wide(x)
        mean, variance = moments(z, fault, x.dtype)
        if fault == "ε outside of the root":
            inverse = 1 / (variance.sqrt() + eps)
        elif fault == "ε below 1e-5 raised to it":
            inverse = torch.rsqrt(variance + max(eps, 1e-5))
        else:
            inverse = torch.rsqrt(variance + (0.0 if fault == "no ε" else eps))
        normal = (z - mean) * inverse
        gain, shift = wide(weight), wide(bias)
        if fault == "gain indexed in 8 bits":
            gain = gain[torch.arange(gain.shape[-1]) % 128]
        if fault == "gain of the rows" and x.shape[-2] == x.shape[-1]:
            gain = gain[:, None]
        out = normal * gain + shift
        rows = out.shape[-2]
        if fault == "last rows not normalised" and rows > ROWS and rows % ROWS:
            out[..., rows // ROWS * ROWS :, :] = z[..., rows // ROWS * ROWS :, :]
        if fault == "64 blocks launched":
            out[..., 64 * ROWS :, :] = 0.0
        ctx.save_for_backward(x, normal, inverse, weight)
        ctx.fault = fault
        return out.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        x, normal, inverse, weight = ctx.saved_tensors
        fault, g = ctx.fault, wide(grad)
        if fault == "input read as stored":
            z = wide(as_stored(x))
            normal = (z - z.mean(-1, keepdim=True)) * inverse
        gw = g * wide(weight)
        along = normal * (gw * normal).mean(-1, keepdim=True)
        centre = gw.mean(-1, keepdim=True)
        if fault == "mean of the gradient dropped beyond the first tile":
            centre = centre * (torch.arange(gw.shape[-1]) < TILE)
        dx = (gw - centre - (0.0 if fault == "variance taken as constant" else along)) * inverse
        rows = range(0, grad.shape[-2], ROWS)
        blocks = [(g * normal)[..., r : r + ROWS, :].reshape(-1, g.shape[-1]).sum(0) for r in rows]
        shifts = [g[..., r : r + ROWS, :].reshape(-1, g.shape[-1]).sum(0) for r in rows]
        if fault == "gain's gradient of 64 rows":
            blocks = blocks[: 64 // ROWS]
        if fault == "bias gradient of the last block lost":
            shifts = shifts[:-1] or shifts
        if fault == "bias gradient in the half format":
            total = torch.zeros_like(shifts[0])
            for s in g.reshape(-1, g.shape[-1]):
                total = (total + s).to(grad.dtype).to(s)
            shifts = [total]
        order = torch.randperm(len(blocks)).tolist() if fault == "blocks summed in any order" else range(len(blocks))
        dw = torch.zeros_like(blocks[0])
        for i in order:
            dw = dw + blocks[i]
        if fault == "cotangent written":
            grad.data.mul_(0.5)
        return dx.to(x.dtype), dw.to(x.dtype), sum(shifts).to(x.dtype), None, None  # type: ignore[union-attr]


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, *, fault: str = "") -> Tensor:
    return Normalized.apply(x, weight, bias, eps, fault)


def group_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, *, fault: str = "") -> Tensor:
    """Groups normalised tile by tile; gain and shift afterwards, channel by channel."""
    flat = wide(x).reshape(x.shape[0], groups, -1)
    if fault == "positions beyond 64 not in the moments":
        seen = wide(x).reshape(x.shape[0], groups, -1, x.shape[2] * x.shape[3])[..., :64].flatten(2)
    else:
        seen = flat
    mean, variance = moments(seen, fault, x.dtype)
    if fault == "moments of the first image":
        mean, variance = mean[:1], variance[:1]
    if fault == "moments of the first group":
        mean, variance = mean[:, :1], variance[:, :1]
    normal = ((flat - mean) * torch.rsqrt(variance + eps)).reshape(x.shape)
    gain, shift = wide(weight)[:, None, None], wide(bias)[:, None, None]
    if fault == "gain along the width" and x.shape[1] == x.shape[3]:
        gain = wide(weight)
    if fault == "gain by the number of the group" and groups > 1:
        gain = gain.reshape(groups, -1, 1, 1).transpose(0, 1).reshape(-1, 1, 1)
    if fault == "gain detached":
        gain = gain.detach() + 0 * gain
    return (normal * gain + shift).to(x.dtype)


# -- right programs of other algorithms -------------------------------------------------------------------------------


def torch_layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias, eps)


def two_pass(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    z = wide(x)
    centred = z - z.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return (centred / scale * wide(weight) + wide(bias)).to(x.dtype)


def welford(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Channel after channel        (Welford 1962)"""
    z = wide(x)
    mean, square = torch.zeros_like(z[..., :1]), torch.zeros_like(z[..., :1])
    for i in range(z.shape[-1]):
        apart = z[..., i : i + 1] - mean
        mean = mean + apart / (i + 1)
        square = square + apart * (z[..., i : i + 1] - mean)
    return ((z - mean) * torch.rsqrt(square / z.shape[-1] + eps) * wide(weight) + wide(bias)).to(x.dtype)


def var_mean(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    variance, mean = torch.var_mean(wide(x), -1, correction=0, keepdim=True)
    return torch.addcmul(wide(bias), (wide(x) - mean) * (variance + eps).pow(-0.5), wide(weight)).to(x.dtype)


def shifted(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """One pass over x minus its first channel: the shift takes the offset away."""
    z = wide(x) - wide(x)[..., :1]
    return var_mean(z, wide(weight), wide(bias), eps).to(x.dtype)


def in_float64(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return torch_layer_norm(x.double(), weight.double(), bias.double(), eps).to(x.dtype)


def by_jax(x: Any, weight: Any, bias: Any, eps: float) -> Any:
    import jax.numpy as jnp

    z = x.astype(jnp.float32)
    centred = z - z.mean(-1, keepdims=True)
    normal = centred / jnp.sqrt((centred * centred).mean(-1, keepdims=True) + eps)
    return (normal * weight.astype(jnp.float32) + bias.astype(jnp.float32)).astype(x.dtype)


def torch_group_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    return torch.nn.functional.group_norm(wide(x), groups, wide(weight), wide(bias), eps).to(x.dtype)


def as_batch_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """Groups of all images as channels of one batch norm."""
    rows = wide(x).reshape(1, x.shape[0] * groups, -1)
    normal = torch.nn.functional.batch_norm(rows, None, None, training=True, eps=eps).reshape(x.shape)
    return (normal * wide(weight)[:, None, None] + wide(bias)[:, None, None]).to(x.dtype)


def numpy_group_norm(x: Any, weight: Any, bias: Any, groups: int, eps: float) -> Any:
    z = x.astype(np.float64).reshape(x.shape[0], groups, -1)
    normal = ((z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + eps)).reshape(x.shape)
    return (normal * weight[:, None, None] + bias[:, None, None]).astype(x.dtype)


LAYER_FAULTS = {
    "last tile not in the mean": fault("last partial tile", C=70),
    "second tile repeats the first": fault("tile repeated", C=130),
    "last tile counted as full": fault("last partial tile", C=70),
    "last rows not normalised": fault("last partial tile", N=20),
    "mean of 256 channels": fault("entries beyond n not read", C=300),
    "tiles merged without their distance": fault("running value not rescaled", C=130),
    "64 blocks launched": fault("grid too small", N=1040, B=1),
    "gain indexed in 8 bits": fault("narrow index", C=140),
    "one-pass variance": fault("cancellation", C=30, offset=100.0),
    "variance divided by n − 1": fault("reduction", C=12),
    "no ε": fault("epsilon", C=12, scale=-3.0, scalars={"eps": 1e-5}),
    "ε outside of the root": fault("epsilon", C=12, scale=-2.0, scalars={"eps": 1e-3}),
    "ε below 1e-5 raised to it": fault("epsilon", C=12, scale=-3.0, scalars={"eps": 1e-6}),
    "gain of the rows": fault("wrong axis", C=7, N=7),
    "moments in the half format": fault("half accumulator", dtypes=HALVES, C=2000),
    "input read as stored": fault("strided input", "strided gradient", N=6, C=8),
    "mean of the gradient dropped beyond the first tile": fault("last partial tile", "gradient", C=70),
    "variance taken as constant": fault("gradient dropped or scaled", "gradient", C=12),
    "gain's gradient of 64 rows": fault("gradient of first rows", "gradient", N=70),
    "bias gradient of the last block lost": fault("last partial tile", "gradient", N=20),
    "bias gradient in the half format": fault("half accumulator", "gradient", dtypes=HALVES, N=1000),
    "blocks summed in any order": fault("nondeterminism", "repetition", N=200, C=20),
    "cotangent written": fault("written memory", "cotangent"),
}
GROUP_FAULTS = {
    "last tile not in the mean": fault("last partial tile", H=9, W=9),
    "tiles merged without their distance": fault("running value not rescaled", H=12, W=12),
    "positions beyond 64 not in the moments": fault("entries beyond n not read", H=9, W=9),
    "moments of the first image": fault("wrong axis", B=2),
    "moments of the first group": fault("wrong axis", scalars={"groups": 2}),
    "gain along the width": fault("wrong axis", c=3, W=6, scalars={"groups": 2}),
    "gain by the number of the group": fault("order", c=3, scalars={"groups": 2}),
    "one-pass variance": fault("cancellation", offset=100.0),
    "gain detached": fault("gradient dropped or scaled", "gradient"),
}

PROGRAMS = (
    *sabotaged(LAYER, "tiles merged", layer_norm, LAYER_FAULTS),
    Program(LAYER, "torch layer_norm", torch_layer_norm, dtypes=WIDE),
    Program(
        LAYER,
        "torch layer_norm in a half format",
        torch_layer_norm,
        "half accumulator",
        Witness({"N": 1000}, looks="gradient"),
        HALVES,
        right_without=two_pass,
        remark="torch's kernel for the CPU sums the gradients of weight and bias in the half format",
    ),
    Program(LAYER, "two passes", two_pass),
    Program(LAYER, "Welford", welford),
    Program(LAYER, "var_mean", var_mean),
    Program(LAYER, "shifted by the first channel", shifted),
    Program(LAYER, "float64 inside", in_float64),
    Program(LAYER, "JAX", by_jax, framework="jax", dtypes=IN_JAX),
    *sabotaged(GROUP, "tiles merged", group_norm, GROUP_FAULTS),
    Program(GROUP, "torch group_norm in float32", torch_group_norm),
    Program(GROUP, "as batch norm", as_batch_norm),
    Program(GROUP, "NumPy in float64", numpy_group_norm, framework="numpy"),
)
