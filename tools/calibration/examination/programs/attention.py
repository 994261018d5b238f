"""Masked attention: an online softmax over tiles of keys with its backward, and right programs of other algorithms."""

from __future__ import annotations

from functools import partial
from math import sqrt
from typing import Any

import numpy as np
import torch

from trueness.tools.calibration.examination.program import HALVES, IN_JAX, Program, fault, sabotaged
from trueness.tools.calibration.examination.programs.common import Tensor, read_tile, tf32, tiles, wide

FORMULA = "attention.masked_attention"
ROWS = 16
"""rows of queries in one block"""

_masks: dict[Any, Tensor] = {}


def forward(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, tile: int, fault: str) -> tuple[Tensor, Tensor]:
    """(O, log-sum-exp) over tiles of keys        (Milakov & Gimelshein 2018; Dao et al. 2022)"""
    n, d, keys, storage = q.shape[-2], q.shape[-1], k.shape[-2], q.dtype
    scale = 1 / sqrt({"scale of the padded head": 1 << (d - 1).bit_length()}.get(fault, d))
    q, k, v = wide(q), wide(k), wide(v)
    if fault == "TF32 inputs":
        q, k, v = tf32(q), tf32(k), tf32(v)
    if fault == "64 numbers of a head":
        q, k = q[..., :64], k[..., :64]
    if fault == "mask kept by its shape":
        mask = _masks.setdefault(mask.shape, mask)
    if fault == "mask of the first batch entry" and mask.shape[0] > 1:
        mask = mask[:1].expand_as(mask)
    top = q.new_full((*q.shape[:-1], 1), -torch.inf)
    total, acc = torch.zeros_like(top), q.new_zeros((*q.shape[:-1], v.shape[-1]))
    end = min(keys, 64) if fault == "keys beyond 64 not read" else keys
    if fault == "last key tile not read" and keys > tile:
        end = keys // tile * tile
    for at in tiles(end, tile):
        score = q @ read_tile(k, -2, at, tile, fault, "second key tile repeats the first").mT * scale
        score = score.masked_fill(~mask[..., at], -torch.inf)
        higher = torch.maximum(top, score.amax(-1, keepdim=True))
        if fault == "no maximum subtracted":
            higher = torch.where(higher == -torch.inf, higher, 0.0)
        safe = torch.where(higher == -torch.inf, 0.0, higher)
        weight, shrink = torch.exp(score - safe), torch.exp(top - safe)
        late = fault == "last sum not rescaled" and at.start and at.stop == keys
        total = total * (1.0 if fault == "sum not rescaled" or late else shrink) + weight.sum(-1, keepdim=True)
        values = read_tile(v, -2, at, tile, fault, "second value tile repeats the first")
        acc = acc * (1.0 if fault == "accumulator not rescaled" else shrink) + weight @ values
        if fault == "accumulator in the half format":
            acc, total = acc.to(storage).to(acc), total.to(storage).to(total)
        top = higher
    out = torch.where(total == 0, 0.0, acc / torch.where(total == 0, 1.0, total))
    if fault == "64 blocks launched":
        done = 64 * ROWS // max(q.shape[0], 1)
        out[..., done:, :] = 0.0
    if fault == "row index in 8 bits" and n > 128:
        late = torch.arange(128, n)
        out[..., late % 128, :] = out[..., late, :]
        out[..., 128:, :] = 0.0
    return out, torch.where(total == 0, 0.0, top + torch.log(torch.where(total == 0, 1.0, total)))


class Flash(torch.autograd.Function):
    """Probabilities are computed again in the backward        (Dao 2023, Algorithm 2)"""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, tile: int, fault: str) -> Tensor:  # type: ignore[override]
        out, logsum = forward(q, k, v, mask, tile, fault)
        ctx.save_for_backward(q, k, v, mask, out, logsum)
        ctx.tile, ctx.fault = tile, fault
        return out.to(q.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        q, k, v, mask, out, logsum = ctx.saved_tensors
        fault, storage, scale = ctx.fault, q.dtype, 1 / sqrt(q.shape[-1])
        n, keys = q.shape[-2], k.shape[-2]
        q, k, v, g = wide(q), wide(k), wide(v), wide(grad)
        delta = (g * out).sum(-1, keepdim=True)
        if fault == "Δ missing in the last block" and n > ROWS:
            delta[..., (n - 1) // ROWS * ROWS :, :] = 0.0
        seen = slice(0, 64 if fault == "dK and dV of 64 queries" else n)
        dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for at in tiles(keys, ctx.tile):
            score = (q @ k[..., at, :].mT * scale).masked_fill(~mask[..., at], -torch.inf)
            p = torch.exp(score - logsum)
            ds = p * (g @ v[..., at, :].mT - delta)
            if fault != "dQ of the last key tile lost" or at.stop < keys or not at.start:
                dq += ds @ k[..., at, :] * (1.0 if fault == "dQ without scale" else scale)
            dk[..., at, :] = ds[..., seen, :].mT @ q[..., seen, :] * scale
            dv[..., at, :] = p[..., seen, :].mT @ g[..., seen, :]
            if fault == "dQ summed in the half format":
                dq = dq.to(storage).to(dq)
        if fault == "cotangent written":
            grad.data.mul_(2)
        if fault == "dV dropped":
            dv = torch.zeros_like(dv)
        return dq.to(storage), dk.to(storage), dv.to(storage), None, None, None


def flash(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, *, tile: int = 16, fault: str = "") -> Tensor:
    return Flash.apply(q, k, v, mask, tile, fault)


# -- right programs of other algorithms -------------------------------------------------------------------------------


def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def softmax(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """torch.softmax in float32; a row without keys becomes 0 afterwards."""
    score = torch.einsum("bnd,bjd->bnj", wide(q), wide(k)) / sqrt(q.shape[-1])
    p = torch.softmax(score.masked_fill(~mask, -torch.inf), -1)
    p = torch.where(mask.any(-1, keepdim=True), p, 0.0)
    return torch.einsum("bnj,bje->bne", p, wide(v)).to(q.dtype)


def recomputed(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Nothing is kept for the backward but the inputs."""
    return torch.utils.checkpoint.checkpoint(softmax, q, k, v, mask, use_reentrant=False)


def in_float64(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return softmax(q.double(), k.double(), v.double(), mask).to(q.dtype)


def by_logsumexp(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """exp(S − logsumexp S), a large negative number where it is masked."""
    score = (wide(q) / q.shape[-1] ** 0.5) @ wide(k).mT
    score = torch.where(mask, score, torch.finfo(score.dtype).min)
    p = torch.exp(score - torch.logsumexp(score, -1, keepdim=True))
    return (torch.where(mask, p, 0.0) @ wide(v)).to(q.dtype)


def in_two_halves(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Split keys: two partial results, merged by their log-sum-exp (a decoder's second pass)."""
    middle = k.shape[-2] // 2
    parts = [
        forward(q, k[..., s, :], v[..., s, :], mask[..., s], 64, "") for s in (slice(0, middle), slice(middle, None))
    ]
    seen = [mask[..., s].any(-1, keepdim=True) for s in (slice(0, middle), slice(middle, None))]
    logs = [torch.where(s, lse, -torch.inf) for s, (_, lse) in zip(seen, parts, strict=True)]
    both = torch.logaddexp(logs[0], logs[1])
    safe = torch.where(both == -torch.inf, 0.0, both)
    return sum(torch.exp(lse - safe) * out for lse, (out, _) in zip(logs, parts, strict=True)).to(q.dtype)  # type: ignore[union-attr]


def by_scipy(q: Any, k: Any, v: Any, mask: Any) -> Any:
    from scipy.special import softmax as of_scipy

    score = q.astype(np.float64) @ k.astype(np.float64).swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    some = mask.any(-1, keepdims=True)
    p = of_scipy(np.where(mask | ~some, score, -np.inf), axis=-1)
    return (np.where(some, p, 0.0) @ v.astype(np.float64)).astype(q.dtype)


def by_jax(q: Any, k: Any, v: Any, mask: Any) -> Any:
    import jax
    import jax.numpy as jnp

    work = jnp.promote_types(q.dtype, jnp.float32)
    score = jnp.einsum("bnd,bjd->bnj", q.astype(work), k.astype(work), precision="highest") / q.shape[-1] ** 0.5
    p = jax.nn.softmax(jnp.where(mask, score, jnp.finfo(work).min), axis=-1)
    return jnp.einsum("bnj,bje->bne", jnp.where(mask, p, 0), v.astype(work), precision="highest").astype(q.dtype)


FAULTS = {
    "last key tile not read": fault("last partial tile", J=40),
    "second key tile repeats the first": fault("tile repeated", J=48),
    "second value tile repeats the first": fault("tile repeated", J=48),
    "keys beyond 64 not read": fault("entries beyond n not read", J=70),
    "64 numbers of a head": fault("entries beyond n not read", d=80, J=9),
    "64 blocks launched": fault("grid too small", B=2, N=530),
    "row index in 8 bits": fault("narrow index", N=140),
    "sum not rescaled": fault("running value not rescaled", J=40),
    "last sum not rescaled": fault("running value not rescaled", J=40, N=30),
    "accumulator not rescaled": fault("running value not rescaled", J=40),
    "mask kept by its shape": fault("state between calls", "second call", J=11),
    "no maximum subtracted": fault("overflow", factor=30.0, J=9),
    "scale of the padded head": fault("constant", d=5, J=9),
    "mask of the first batch entry": fault("wrong axis", B=2, J=9),
    "TF32 inputs": fault("reduced inputs", dtypes=("float32",), d=8, J=9),
    "accumulator in the half format": fault("half accumulator", dtypes=HALVES, J=2000, N=3, d=4),
    "Δ missing in the last block": fault("last partial tile", "gradient", N=40, J=9),
    "dQ of the last key tile lost": fault("last partial tile", "gradient", J=40),
    "dK and dV of 64 queries": fault("gradient of first rows", "gradient", N=70, J=9),
    "dQ without scale": fault("gradient dropped or scaled", "gradient", d=4, J=9),
    "dV dropped": fault("gradient dropped or scaled", "gradient", J=9),
    "dQ summed in the half format": fault("half accumulator", "gradient", dtypes=HALVES, J=2000, N=3, d=4),
    "cotangent written": fault("written memory", "cotangent", J=9),
}

PROGRAMS = (
    *sabotaged(FORMULA, "online softmax", flash, FAULTS),
    Program(FORMULA, "online softmax in tiles of 64", partial(flash, tile=64)),
    Program(FORMULA, "torch SDPA", sdpa, limit="eager"),
    Program(FORMULA, "einsum and torch softmax", softmax),
    Program(FORMULA, "recomputing backward", recomputed),
    Program(FORMULA, "float64 inside", in_float64),
    Program(FORMULA, "logsumexp", by_logsumexp),
    Program(FORMULA, "split keys", in_two_halves),
    Program(FORMULA, "SciPy softmax", by_scipy, framework="numpy"),
    Program(FORMULA, "JAX softmax", by_jax, framework="jax", dtypes=IN_JAX),
)
