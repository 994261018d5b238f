"""Attention for the calibration: eager, SDPA and online-softmax implementations, forward and backward, and mutants."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import log, sqrt
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad, scaled_dot_product_attention

from trueness.tools.calibration import fixtures as true
from trueness.tools.calibration.subjects import HALF, TILE, Subject, Variant, always, gradients, length, magnitude, tf32

Tensor = torch.Tensor
Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
LONGEST, MANY = 400, 128  # keys at most; keys beyond which there is one head


def draw(generator: np.random.Generator, index: int) -> tuple[Any, ...]:
    """q, k, v, bias, mask. The first case is one key with an outlier channel; masks and head counts take turns."""
    n = 1 if index == 0 else length(generator, 5, LONGEST)
    heads, causal = 1 + index % 4 if n <= MANY else 1, index % 2 == 1
    d = 64 if index == 0 else int(generator.choice([8, 16, 32, 64, 128]))
    q, k, v = (magnitude(generator, -2, 1) * generator.standard_normal((heads, n, d)) for _ in range(3))
    v = v + generator.choice([0.0, 3.0]) * np.std(v)
    if index == 0:
        v[..., 0] = 1000 * np.std(v)
    table = magnitude(generator, -1.5, 0.7) * generator.standard_normal((heads, 2 * n - 1))
    bias = table[:, np.arange(n)[:, None] - np.arange(n) + n - 1]
    mask = np.where(np.tri(n) > 0, 0.0, -np.inf) if causal else np.zeros((n, n))
    return q, k, v, bias, mask


def draw_backward(generator: np.random.Generator, index: int) -> tuple[Any, ...]:
    arguments = draw(generator, index)
    return magnitude(generator, -2, 1) * generator.standard_normal(arguments[2].shape), *arguments


# -- correct implementations ----------------------------------------------------------------------------------------


def primitive(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
    """Every intermediate, exp and its sum too, stored in the dtype of q."""
    score = q @ k.mT * (1 / sqrt(q.shape[-1])) + bias + mask
    weight = torch.exp(score - score.amax(-1, keepdim=True))
    return (weight / weight.sum(-1, keepdim=True)) @ v


def eager(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
    """Scores and probabilities stored in the dtype of q, the softmax between them in float32."""
    score = q @ k.mT * (1 / sqrt(q.shape[-1])) + bias + mask
    return torch.softmax(score.float(), -1).to(q.dtype) @ v


def sdpa(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
    return scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=(bias + mask)[None])[0]


def flash(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor, *, tile: int, bug: str = "") -> Tensor:
    """Online softmax over tiles of keys, float32 inside, rounded once."""
    return online(*altered(bug, q, k, v, bias, mask), tile, bug, q.dtype)[0].to(q.dtype)


def online(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor, tile: int, bug: str, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """(O, log-sum-exp) in float32        (Milakov & Gimelshein 2018; Dao et al. 2022, Algorithm 1)"""
    n, d = q.shape[-2:]
    spare = -n % tile
    k, v = pad(k, (0, 0, 0, spare)), pad(v, (0, 0, 0, spare))
    beyond = 0.0 if bug == "pad tile not masked" else -torch.inf
    added = pad(bias + mask, (0, spare), value=beyond)
    top = torch.full((*q.shape[:-1], 1), -torch.inf)
    total, acc = torch.zeros_like(top), torch.zeros_like(q)
    tiles = range(0, n + spare, tile)
    for start in tiles[: -1 if bug == "last key tile dropped" else None]:
        here = slice(start, start + tile)
        values = v[..., here, :]
        if bug == "V rolled in the last tile" and start == tiles[-1]:
            values = values[..., : n - start, :].roll(1, -2)
            values = pad(values, (0, 0, 0, spare))
        score = q @ k[..., here, :].mT / sqrt(d) + added[..., here]
        higher = torch.maximum(top, score.amax(-1, keepdim=True))
        safe = torch.where(higher == -torch.inf, 0.0, higher)
        weight, shrink = torch.exp(score - safe), torch.exp(top - safe)
        total = total * (1.0 if bug == "l not rescaled" else shrink) + weight.sum(-1, keepdim=True)
        acc = acc * (1.0 if bug == "acc not rescaled" else shrink) + weight @ values
        if bug == "low-precision accumulator":
            acc, total = acc.to(dtype).float(), total.to(dtype).float()
        top = higher
    extra = {"l + 1e-3": 1e-3, "l + 1e-6": 1e-6}.get(bug, 0.0)
    out = acc / (total + extra)
    if bug == "last row zero":
        out[..., -1, :] = 0.0
    return out, top + torch.log(total)


def sdpa_backward(cotangent: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor) -> Any:
    return gradients(lambda q, k, v: sdpa(q, k, v, bias, mask), cotangent, q, k, v)


def eager_backward(cotangent: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor) -> Any:
    return gradients(lambda q, k, v: eager(q, k, v, bias, mask), cotangent, q, k, v)


def primitive_backward(cotangent: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor) -> Any:
    """Autograd through exp, sum and division: it stores 1/Σ² and its gradient, which underflow."""
    return gradients(lambda q, k, v: primitive(q, k, v, bias, mask), cotangent, q, k, v)


def flash_backward(
    cotangent: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor, *, tile: int, bug: str = ""
) -> tuple[Tensor, ...]:
    """Dao 2023, Algorithm 2: P recomputed from log-sum-exp, Δ from the stored (rounded) O, float32 inside."""
    dtype, n = q.dtype, q.shape[-2]
    inputs = altered("", q, k, v, bias, mask)
    out, logsum = online(*inputs, tile, "", dtype)
    out = out.to(dtype).float()
    g = cotangent.float()
    q, k, v, bias, mask = altered(bug, *inputs)
    g = tf32(g) if bug == "TF32 inputs" else g
    delta = (g * out).sum(-1, keepdim=True) * {"no Δ": 0.0, "Δ 1 % off": 1.01}.get(bug, 1.0)
    scale = 1 / sqrt(q.shape[-1])
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    seen = slice(0, (n - 1) // TILE * TILE if bug == "dV without the last query tile" else n)
    for start in range(0, n, tile):
        here = slice(start, start + tile)
        p = torch.exp(q @ k[..., here, :].mT * scale + (bias + mask)[..., here] - logsum)
        ds = p * (g @ v[..., here, :].mT - delta)
        dq += ds @ k[..., here, :] * (1.0 if bug == "dQ without scale" else scale)
        if bug == "low-precision accumulator":
            dq = dq.to(dtype).float()
        dk[..., here, :] = ds.mT @ q * scale
        dv[..., here, :] = p[..., seen, :].mT @ g[..., seen, :]
    if bug == "dK without the last tile":
        dk[..., (n - 1) // TILE * TILE :, :] = 0.0
    dk *= 0.0 if bug == "dK zero" else 1.0
    dq *= 2.0 if bug == "dQ twice" else 1.0
    return dq.to(dtype), dk.to(dtype), dv.to(dtype)


# -- mutants --------------------------------------------------------------------------------------------------------


def inverted_row(mask: Tensor) -> Tensor:
    """The middle query sees what it must not, and nothing else."""
    row = mask.shape[-1] // 2
    mask = mask.clone()
    mask[row] = torch.where(mask[row] == 0, -torch.inf, 0.0)
    return mask


def one_later(mask: Tensor) -> Tensor:
    """Query i also sees key i + 1."""
    return torch.where(torch.ones_like(mask).tril(1) > 0, 0.0, -torch.inf)


ALTERED: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Inputs]] = {
    "no scale": lambda q, k, v, b, m: (q * sqrt(q.shape[-1]), k, v, b, m),
    "scale 1/d": lambda q, k, v, b, m: (q / sqrt(q.shape[-1]), k, v, b, m),
    "√C for √d": lambda q, k, v, b, m: (q / sqrt(q.shape[0]), k, v, b, m),
    "scale 1 % off": lambda q, k, v, b, m: (q * 1.01, k, v, b, m),
    "bias scaled too": lambda q, k, v, b, m: (q, k, v, b / sqrt(q.shape[-1]), m),
    "bias dropped": lambda q, k, v, b, m: (q, k, v, 0 * b, m),
    "bias index off by one": lambda q, k, v, b, m: (q, k, v, b.roll(1, -1), m),
    "bias transposed": lambda q, k, v, b, m: (q, k, v, b.mT, m),
    "bias of another head": lambda q, k, v, b, m: (q, k, v, b.roll(1, 0), m),
    "bias without log₂e": lambda q, k, v, b, m: (q, k, v, b * log(2), m),
    "mask row inverted": lambda q, k, v, b, m: (q, k, v, b, inverted_row(m)),
    "mask dropped": lambda q, k, v, b, m: (q, k, v, b, torch.zeros_like(m)),
    "causal off by one": lambda q, k, v, b, m: (q, k, v, b, one_later(m)),
    "TF32 inputs": lambda q, k, v, b, m: (tf32(q), tf32(k), tf32(v), b, m),
}


def altered(bug: str, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor) -> Inputs:
    """The arguments in float32, as a kernel with ``bug`` would see them."""
    inputs = (q.float(), k.float(), v.float(), bias.float(), mask.float())
    return ALTERED[bug](*inputs) if bug in ALTERED else inputs


def rows(q: Any, *_: Any) -> int:
    return int(q.shape[-2])


def heads(q: Any, *_: Any) -> bool:
    return bool(q.shape[0] > 1)


def keys(q: Any, *_: Any) -> bool:
    return rows(q) > 1


def several(q: Any, *_: Any) -> bool:
    return rows(q) > TILE


def causal(q: Any, k: Any, v: Any, bias: Any, mask: Any) -> bool:
    return rows(q) > 2 and bool(np.isinf(mask).any())


def padded(q: Any, k: Any, v: Any, bias: Any, mask: Any) -> bool:
    return rows(q) % TILE > 0 and not causal(q, k, v, bias, mask)


def tail(q: Any, *_: Any) -> bool:
    return keys(q) and (rows(q) - 1) % TILE > 0


def growing(q: Any, k: Any, v: Any, bias: Any, mask: Any) -> bool:
    """Some row meets a larger score after the first tile."""
    score = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]) + bias + mask
    return bool((score.max(-1) > score[..., :TILE].max(-1)).any())


def mutants(function: Callable[..., Any], named: dict[str, Callable[..., bool]], skip: int = 0) -> tuple[Variant, ...]:
    """Mutants of ``function`` by name; ``skip`` arguments stand before q."""
    only = {"TF32 inputs": ("float32",), "low-precision accumulator": HALF}
    return tuple(
        Variant(
            name,
            "mutant",
            partial(function, tile=TILE, bug=name),
            lambda *a, r=relevant: r(*a[skip:]),
            only.get(name, ("float32", *HALF)),
        )
        for name, relevant in named.items()
    )


FORWARD = {
    "no scale": keys,
    "scale 1/d": keys,
    "√C for √d": lambda q, *a: keys(q) and heads(q),
    "scale 1 % off": keys,
    "bias scaled too": keys,
    "bias dropped": keys,
    "bias index off by one": keys,
    "bias transposed": keys,
    "bias of another head": lambda q, *a: keys(q) and heads(q),
    "bias without log₂e": keys,
    "mask row inverted": causal,
    "mask dropped": causal,
    "causal off by one": causal,
    "last key tile dropped": several,
    "pad tile not masked": padded,
    "l not rescaled": growing,
    "acc not rescaled": growing,
    "V rolled in the last tile": tail,
    "last row zero": always,
    "l + 1e-3": always,
    "l + 1e-6": always,
    "TF32 inputs": always,
    "low-precision accumulator": several,
}
BACKWARD = {
    "no Δ": keys,
    "Δ 1 % off": keys,
    "dQ without scale": keys,
    "dQ twice": keys,
    "dK without the last tile": keys,
    "dK zero": keys,
    "dV without the last query tile": always,
    "scale 1 % off": keys,
    "bias dropped": keys,
    "mask dropped": causal,
    "TF32 inputs": keys,
    "low-precision accumulator": several,
}


def reduction(*arguments: Any) -> int:
    """Keys and head width: the rounding errors of the two sums add as squares."""
    k = arguments[-4]
    return int(k.shape[-2] + k.shape[-1])


SUBJECTS = (
    Subject(
        "attention",
        "forward",
        true.attention,
        draw,
        reduction,
        (
            Variant("torch SDPA", "fused", sdpa),
            *(Variant(f"online softmax, tile {t}", "fused", partial(flash, tile=t)) for t in (7, 32, 128)),
            Variant("eager", "eager", eager),
            Variant("eager, exp and sum stored", "eager", primitive),
            *mutants(flash, FORWARD),
        ),
        exact=(4,),
    ),
    Subject(
        "attention",
        "backward",
        true.attention_vjp,
        draw_backward,
        reduction,
        (
            Variant("torch SDPA, autograd", "fused", sdpa_backward),
            *(Variant(f"recomputing, tile {t}", "fused", partial(flash_backward, tile=t)) for t in (7, 32, 128)),
            Variant("eager, autograd", "eager", eager_backward),
            Variant("exp and sum stored, autograd", "reported", primitive_backward),
            *mutants(flash_backward, BACKWARD, skip=1),
        ),
        exact=(5,),
    ),
)
