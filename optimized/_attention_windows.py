"""Windowed attention on the CPU with its backward, strip by strip: what a strip needs stays in the cache.

    o = softmax((q + q_t)(k + k_t)ᵀ/√d + B) v + v_t,   y = o W_o,   (q, k, v) = x W

``time`` holds q_t and v_t, and k_t where q and k are normed; without norms k_t has no effect and is left out.

Tokens stay (B, H, W, ·) throughout; a strip is some whole rows of windows. The backward computes the softmax again;
q, k and v are kept as the forward cut them, and o, which the gradient of W_o needs. Sums over strips run in one order,
whatever the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from trueness.optimized._products import product

STRIP = 512  # tokens: q, k and v of 256 channels in float32 and the scores of 8 × 8 windows fit an L2 of 1 MiB nearly
SCORES = 1 << 21  # scores at once: beyond it (global attention) the queries come in blocks

Tensor = torch.Tensor
Place = tuple[slice, slice]


def strips(x: Tensor, window: int, times: int = 1) -> Iterator[Place]:
    """Images and rows of every strip: several small images, or some window rows of a large one"""
    batch, height, width = x.shape[:3]
    most = times * STRIP
    images = max(1, most // max(1, height * width))
    rows = height if images > 1 else min(height, max(1, most // (width * window)) * window)
    for b in range(0, batch, images):
        for r in range(0, height, rows):
            yield slice(b, min(b + images, batch)), slice(r, min(r + rows, height))


def cut(tokens: Tensor, window: int, heads: int, parts: int, dtype: torch.dtype, time: Tensor | None = None) -> Tensor:
    """(b, r w, c w, parts h d) → (parts, b, r c, h, w², d), a copy; ``time`` is added to the first part, and to k."""
    b, height, width, channels = tokens.shape
    r, c, d = height // window, width // window, channels // (parts * heads)
    view = tokens.unflatten(3, (parts, heads, d)).unflatten(2, (c, window)).unflatten(1, (r, window))
    there = view.permute(5, 0, 1, 3, 6, 2, 4, 7)  # parts b r c h i j d
    copy = torch.empty(there.shape, dtype=dtype, device=tokens.device)
    kept = 0 if time is None else (1 if time.shape[1] == 2 else 2)
    for part, source in enumerate((0, 2)[:kept]):
        moment = time[:, source].view(b, 1, 1, heads, 1, 1, d)  # type: ignore[index]
        torch.add(there[part], moment, out=copy[part])
    copy[kept:].copy_(there[kept:])
    return copy.view(parts, b, r * c, heads, window * window, d)


def put_back(
    pieces: Tensor, window: int, height: int, width: int, dtype: torch.dtype, time: Tensor | None = None
) -> Tensor:
    """(parts, b, r c, h, w², d) → (b, r w, c w, parts h d); v_t of ``time`` is added"""
    parts, b, _, heads, _, d = pieces.shape
    grid = pieces.view(parts, b, height // window, width // window, heads, window, window, d)
    there = grid.permute(1, 2, 5, 3, 6, 0, 4, 7)  # b r i c j parts h d
    tokens = torch.empty(there.shape, dtype=dtype, device=pieces.device)
    if time is None:
        tokens.copy_(there)
    else:
        torch.add(there, time[:, 1].view(b, 1, 1, 1, 1, 1, heads, d), out=tokens)
    return tokens.view(b, height, width, -1)


def blocks(count: int, length: int) -> Iterator[slice]:
    """The queries of one block at a time: all of them, unless there are too many scores."""
    step = max(1, min(length, SCORES // max(1, count * length)))
    for i in range(0, length, step):
        yield slice(i, min(i + step, length))


def weights(q: Tensor, k: Tensor, bias: Tensor, rows: slice) -> Tensor:
    """P of some queries: (n h, rows, w²), in the dtype of the bias; softmax(q kᵀ/√d + B); q kᵀ is rounded to theirs"""
    scores = torch.bmm(q[:, rows], k.mT).unflatten(0, (-1, bias.shape[0]))
    scores = torch.add(bias[:, rows], scores, alpha=1 / math.sqrt(q.shape[-1]))
    return torch.softmax(scores.flatten(0, 1), -1)


def normed(pieces: Tensor, gain: Tensor | None, eps: float) -> tuple[tuple[Tensor, ...], tuple[Tensor, Tensor] | None]:
    """q, k and v as (n h, w², d), and where there are gains q̂ and k̂ in their place.

    Then also what the backward of the norms needs: q and k divided by their root mean square, and its inverse.
    """
    if gain is None:
        return pieces.flatten(1, 3).unbind(0), None
    wide = pieces[:2].to(gain.dtype)
    inverse = wide.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
    normal = wide * inverse
    hat = (normal * gain[:, None, None, None, None]).to(pieces.dtype)
    return (*hat.flatten(1, 3).unbind(0), pieces[2].flatten(0, 2)), (normal, inverse)


def norm_backward(pulled: Tensor, normal: Tensor, inverse: Tensor, gain: Tensor, dgain: Tensor) -> None:
    """ḡ ← (ḡw − n mean(ḡw n))/rms in place, and Σ ḡ n into ``dgain``; n = q/rms"""
    g = pulled.to(gain.dtype)
    dgain += (g * normal).flatten(1, -2).sum(1)
    g = g * gain[:, None, None, None, None]
    torch.mul(g - normal * (g * normal).mean(-1, keepdim=True), inverse, out=pulled)


def attended(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, out: Tensor) -> Tensor:
    """P v of (n h, w², d) into ``out``"""
    for rows in blocks(q.shape[0], q.shape[1]):
        part = out[:, rows] if rows.stop - rows.start < q.shape[1] else out
        torch.bmm(weights(q, k, bias, rows).to(v.dtype), v, out=part)
    return out


def forward(
    x: Tensor,
    w_qkv: Tensor,
    time: Tensor | None,
    gain: Tensor | None,
    bias: Tensor,
    w_o: Tensor,
    window: int,
    heads: int,
    eps: float,
    out: Tensor,
    kept: list[Tensor] | None = None,
) -> Tensor:
    """y into ``out``; what the backward needs of every strip goes to ``kept``: q, k, v cut and with time, and o + v_t.

    w_qkv and w_o have the dtype of the products; time, gain and bias that of sums and softmax.
    """
    time = None if time is None else time.to(w_qkv.dtype)  # sums of two formats take three times as long
    half = w_qkv.dtype.itemsize == 2  # twice the tokens, unless the scores of large windows take the room
    for images, rows in strips(x, window, 2 if half and (kept is not None or window < 8) else 1):
        z = product(x[images, rows].to(w_qkv.dtype), w_qkv)
        moment = None if time is None else time[images]
        pieces = cut(z, window, heads, 3, w_qkv.dtype, moment)
        (q, k, v), _ = normed(pieces, gain, eps)
        mixed = attended(q, k, v, bias, torch.empty_like(v)).view(1, *pieces.shape[1:])
        o = put_back(mixed, window, z.shape[1], z.shape[2], w_o.dtype, moment)
        if kept is not None:
            kept += [pieces, o]
        product(o, w_o, out[images, rows])
    return out


def backward(
    grad: Tensor,
    x: Tensor,
    w_qkv: Tensor,
    time: Tensor | None,
    gain: Tensor | None,
    bias: Tensor,
    w_o: Tensor,
    window: int,
    heads: int,
    eps: float,
    kept: Sequence[Tensor],
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor, Tensor]:
    """Gradients of x, w_qkv, time, gain, bias and w_o; all but that of x in the dtype of ``bias``, as the sums are.

    ``kept`` is what the forward put there.
    """
    wide, inner, channels = bias.dtype, w_qkv.dtype, w_o.shape[0]
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    dw_qkv, dw_o = torch.zeros_like(w_qkv, dtype=wide), torch.zeros_like(w_o, dtype=wide)
    dtime = None if time is None else torch.zeros_like(time)
    dgain = None if gain is None else torch.zeros_like(gain)
    dbias = torch.zeros_like(bias)
    total = torch.zeros(len(x), w_o.shape[1], dtype=wide, device=x.device)  # Σ ȳ of every image
    places = strips(x, window, 2 if inner.itemsize == 2 else 1)
    for (images, rows), pieces, o in zip(places, kept[::2], kept[1::2], strict=True):
        g = grad[images, rows].to(inner)
        height, width = g.shape[1:3]
        (q, k, v), norms = normed(pieces, gain, eps)
        do = cut(product(g, w_o.mT), window, heads, 1, inner)
        pulled = torch.empty_like(pieces)
        core_backward(q, k, v, bias, do.flatten(0, 3), pulled.flatten(1, 3), dbias)
        if gain is not None and dgain is not None and norms is not None:
            norm_backward(pulled[:2], *norms, gain, dgain)
        d = put_back(pulled, window, height, width, inner)
        if dtime is not None:
            total[images] += g.flatten(1, 2).sum(1, dtype=wide)
            for i, part in ((0, 0), (2, 1))[: dtime.shape[1] - 1]:
                of_part = d[..., part * channels : (part + 1) * channels]
                dtime[images, i] += of_part.flatten(1, 2).sum(1, dtype=wide)
        dw_o += product(o.flatten(0, 2).mT, g.flatten(0, 2))
        dw_qkv += product(x[images, rows].to(inner).flatten(0, 2).mT, d.flatten(0, 2))
        product(d, w_qkv.mT, dx[images, rows])
    if dtime is not None:  # v_t is added to every token of an image
        dtime[:, 1] = total @ w_o.mT.to(wide)
    return dx, dw_qkv, dtime, dgain, dbias, dw_o


def core_backward(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, do: Tensor, pulled: Tensor, dbias: Tensor) -> None:
    """The gradients of q, k and v into ``pulled``, that of the bias added to ``dbias``:

    dS = P ∘ (dP − rowsum(P ∘ dP)),  dP = do vᵀ,  dq = dS k/√d,  dk = dSᵀ q/√d,  dv = Pᵀ do
    """
    scale, length = 1 / math.sqrt(q.shape[-1]), q.shape[1]
    for rows in blocks(q.shape[0], length):
        p = weights(q, k, bias, rows)
        dp = torch.bmm(do[:, rows], v.mT).to(p.dtype)
        ds = torch.ops.aten._softmax_backward_data(dp, p, -1, p.dtype)
        dbias[:, rows] += ds.unflatten(0, (-1, bias.shape[0])).sum(0)
        p, ds = p.to(v.dtype), (ds * scale).to(v.dtype)
        if rows.stop - rows.start == length:
            torch.bmm(ds, k, out=pulled[0])
            torch.bmm(ds.mT, q, out=pulled[1])
            torch.bmm(p.mT, do, out=pulled[2])
        else:
            pulled[0, :, rows] = ds @ k
            if rows.start == 0:
                pulled[1:].zero_()
            pulled[1] += ds.mT @ q[:, rows]
            pulled[2] += p.mT @ do[:, rows]


def core(qkv: Tensor, time: Tensor | None, bias: Tensor, window: int, heads: int, out: Tensor) -> Tensor:
    """o alone, between the two projections, into ``out``; computed in the dtype of the bias."""
    for images, rows in strips(qkv, window):
        z = qkv[images, rows]
        moment = None if time is None else time[images]
        pieces = cut(z, window, heads, 3, bias.dtype, moment)
        q, k, v = pieces.flatten(1, 3)
        mixed = attended(q, k, v, bias, torch.empty_like(v)).view(1, *pieces.shape[1:])
        out[images, rows] = put_back(mixed, window, z.shape[1], z.shape[2], out.dtype, moment)
    return out


def core_gradients(
    grad: Tensor, qkv: Tensor, time: Tensor | None, bias: Tensor, window: int, heads: int
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Gradients of qkv, time and bias through o."""
    dqkv = torch.empty(qkv.shape, dtype=qkv.dtype, device=qkv.device)
    dtime = None if time is None else torch.zeros(time.shape, dtype=bias.dtype, device=qkv.device)
    dbias = torch.zeros(bias.shape, dtype=bias.dtype, device=qkv.device)
    for images, rows in strips(qkv, window):
        z = qkv[images, rows]
        pieces = cut(z, window, heads, 3, bias.dtype, None if time is None else time[images])
        q, k, v = pieces.flatten(1, 3)
        do = cut(grad[images, rows], window, heads, 1, bias.dtype)
        pulled = torch.empty_like(pieces)
        core_backward(q, k, v, bias, do.flatten(0, 3), pulled.flatten(1, 3), dbias)
        if dtime is not None:
            dtime[images, 0] += pulled[0].sum((1, 3)).flatten(1)
            dtime[images, 1] += do[0].sum((1, 3)).flatten(1)
        dqkv[images, rows] = put_back(pulled, window, z.shape[1], z.shape[2], qkv.dtype)
    return dqkv, dtime, dbias
