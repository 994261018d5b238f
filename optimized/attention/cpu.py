"""Windowed attention on the CPU with its backward, strip by strip: what a strip needs stays in the cache.

    o = softmax((q + q_t)(k + k_t)ᵀ/√d + B) v + v_t,   y = o W_o,   (q, k, v) = x W

``time`` holds q_t and v_t, and k_t where q and k are normalized; without norms k_t has no effect and is left out.

Tokens stay (B, H, W, ·) throughout; a strip is some whole rows of windows. The backward needs q, k and v as they were
cut, o for the gradient of W_o, and the softmax P, which is saved if it is no larger than q and else computed again.
Sums over strips run in one order. Strips reuse one buffer: allocating memory costs more than computing in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch

from trueness.optimized._lib.matmul import product
from trueness.optimized._lib.memory import in_large_pages
from trueness.optimized._lib.workspace import Workspace

STRIP = 512  # tokens: q, k and v of 256 channels in float32 and the scores of 8 × 8 windows fit an L2 of 1 MiB nearly
SCORES = 1 << 21  # scores at once: beyond it (global attention) the queries come in blocks

Tensor = torch.Tensor


class Strip(NamedTuple):
    """Images and rows of a strip, and its tokens among those of all strips"""

    images: slice
    rows: slice
    tokens: slice


def tokens_at_once(x: Tensor, dtype: torch.dtype) -> int:
    """Tokens of a strip: more of half formats, and where threads share them"""
    threads = torch.get_num_threads() if x.device.type == "cpu" else 1
    return STRIP * threads * (2 if dtype.itemsize == 2 else 1)


def strips(x: Tensor, window: int, strip_tokens: int) -> Iterator[Strip]:
    """Several small images, or window rows of a large one, about ``strip_tokens`` tokens but at least one such row"""
    batch, height, width = x.shape[:3]
    images = max(1, strip_tokens // max(1, height * width))
    rows = height if images > 1 else min(height, max(1, strip_tokens // (width * window)) * window)
    before = 0
    for b in range(0, batch, images):
        for r in range(0, height, rows):
            here = slice(b, min(b + images, batch)), slice(r, min(r + rows, height))
            count = (here[0].stop - b) * (here[1].stop - r) * width
            yield Strip(*here, slice(before, before + count))
            before += count


def pieces_shape(tokens: Tensor, window: int, num_heads: int, parts: int) -> tuple[int, ...]:
    """The shape of `cut` tokens: (parts, b, r c, h, w², d)"""
    b, height, width, channels = tokens.shape
    return parts, b, (height // window) * (width // window), num_heads, window * window, channels // (parts * num_heads)


def cut(tokens: Tensor, window: int, copy: Tensor, time: Tensor | None = None) -> Tensor:
    """(b, r w, c w, parts h d) → ``copy`` (parts, b, r c, h, w², d); ``time`` is added to the first part, and to k."""
    (parts, b, _, num_heads, _, d), (height, width) = copy.shape, tokens.shape[1:3]
    r, c = height // window, width // window
    view = tokens.unflatten(3, (parts, num_heads, d)).unflatten(2, (c, window)).unflatten(1, (r, window))
    source = view.permute(5, 0, 1, 3, 6, 2, 4, 7)  # parts b r c h i j d
    grid = copy.view(source.shape)
    with_time = 0 if time is None else (1 if time.shape[1] == 2 else 2)
    for part, entry in enumerate((0, 2)[:with_time]):
        term = time[:, entry].view(b, 1, 1, num_heads, 1, 1, d)  # type: ignore[index]
        torch.add(source[part], term, out=grid[part])
    grid[with_time:].copy_(source[with_time:])
    return copy


def put_back(pieces: Tensor, window: int, tokens: Tensor, time: Tensor | None = None) -> Tensor:
    """(parts, b, r c, h, w², d) → ``tokens`` (b, r w, c w, parts h d); v_t of ``time`` is added"""
    (parts, b, _, num_heads, _, d), (height, width) = pieces.shape, tokens.shape[1:3]
    grid = pieces.view(parts, b, height // window, width // window, num_heads, window, window, d)
    source = grid.permute(1, 2, 5, 3, 6, 0, 4, 7)  # b r i c j parts h d
    target = tokens.view(source.shape)
    if time is None:
        target.copy_(source)
    else:
        torch.add(source, time[:, 1].view(b, 1, 1, 1, 1, 1, num_heads, d), out=target)
    return tokens


def blocks(count: int, length: int) -> Iterator[slice]:
    """The queries of one block at a time: all of them, unless that is too many scores."""
    step = max(1, min(length, SCORES // max(1, count * length)))
    for i in range(0, length, step):
        yield slice(i, min(i + step, length))


def weights(
    q: Tensor, k: Tensor, bias: Tensor, rows: slice, workspace: Workspace, saved: Tensor | None = None
) -> Tensor:
    """P of some queries: (n h, rows, w²) = softmax(q kᵀ/√d + B), all in one dtype; scores are rounded to it once"""
    num_heads, _, length = bias.shape
    shape = q.shape[0], rows.stop - rows.start, length
    scores = workspace("scores", shape, q.dtype) if saved is None else saved[:, rows]
    scores.unflatten(0, (-1, num_heads)).copy_(bias[:, rows])
    torch.baddbmm(scores, q[:, rows], k.mT, alpha=1 / math.sqrt(q.shape[-1]), out=scores)
    return torch.softmax(scores, -1, out=scores)


def normalize_qk(
    pieces: Tensor, gain: Tensor | None, eps: float
) -> tuple[tuple[Tensor, ...], tuple[Tensor, Tensor] | None]:
    """q, k and v as (n h, w², d), and where gains are given, q̂ and k̂ for q and k.

    Then also what the backward of the norms needs: q and k divided by their root mean square, and its inverse.
    """
    if gain is None:
        return pieces.flatten(1, 3).unbind(0), None
    wide = pieces[:2].to(gain.dtype)
    inverse = wide.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
    normalized = wide * inverse
    hat = (normalized * gain[:, None, None, None, None]).to(pieces.dtype)
    return (*hat.flatten(1, 3).unbind(0), pieces[2].flatten(0, 2)), (normalized, inverse)


def normalize_qk_backward(grads: Tensor, normalized: Tensor, inverse: Tensor, gain: Tensor, dgain: Tensor) -> None:
    """ḡ ← (ḡw − n mean(ḡw n))/rms in place, and Σ ḡ n into ``dgain``; n = q/rms"""
    g = grads.to(gain.dtype)
    dgain += (g * normalized).flatten(1, -2).sum(1)
    g = g * gain[:, None, None, None, None]
    torch.mul(g - normalized * (g * normalized).mean(-1, keepdim=True), inverse, out=grads)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, workspace: Workspace, saved: Tensor | None = None) -> Tensor:
    """P v of (n h, w², d); P itself into ``saved``"""
    mixed = workspace("mixed", v.shape, v.dtype)
    for rows in blocks(q.shape[0], q.shape[1]):
        part = mixed[:, rows] if rows.stop - rows.start < q.shape[1] else mixed
        torch.bmm(weights(q, k, bias, rows, workspace, saved), v, out=part)
    return mixed


class Saved(NamedTuple):
    """What the backward needs of every token."""

    pieces: Tensor  # (·, 3C): q, k and v, cut and with time
    o: Tensor  # (·, C): o + v_t
    p: Tensor | None  # (·, h w²)

    def of(self, tokens: slice, window: int, num_heads: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Of a strip: pieces (3, n h, w², d) in one row, o, and P (n h, w², w²)"""
        area = window * window
        return self.pieces[tokens], self.o[tokens], None if self.p is None else self.p[tokens].view(-1, area, area)


def allocate_saved(x: Tensor, channels: int, dtype: torch.dtype, window: int, num_heads: int) -> Saved:
    """Memory for a `Saved`"""
    tokens, each = x.shape[:3].numel(), num_heads * window * window
    each = each if each <= channels else 0
    pieces, o, p = (in_large_pages(x.new_empty(tokens, n, dtype=dtype)) for n in (3 * channels, channels, each))
    return Saved(pieces, o, p if each else None)


def project(x: Tensor, w: Tensor, workspace: Workspace, name: str) -> Tensor:
    """x w where every strip has it, unless the product comes in memory of its own"""
    half = x.dtype.itemsize == 2
    return product(x, w, workspace(name, (*x.shape[:-1], w.shape[1]), x.dtype) if half else None)


def forward(
    x: Tensor,
    w_qkv: Tensor,
    time: Tensor | None,
    gain: Tensor | None,
    bias: Tensor,
    w_o: Tensor,
    window: int,
    num_heads: int,
    eps: float,
    strip_tokens: int,
    out: Tensor,
    saved: Saved | None = None,
) -> Tensor:
    """y into ``out`` by strips of ``strip_tokens`` tokens; what the backward needs into ``saved`` of `allocate_saved`.

    w_qkv and w_o have the dtype of the products; time, gain and bias that of sums and softmax.
    """
    product_dtype, channels = w_qkv.dtype, w_o.shape[0]
    time = None if time is None else time.to(product_dtype)  # sums of two formats take three times as long
    bias, workspace = bias.to(product_dtype), Workspace(x)
    for images, rows, tokens in strips(x, window, strip_tokens):
        z = project(x[images, rows].to(product_dtype), w_qkv, workspace, "z")
        term = None if time is None else time[images]
        shape = pieces_shape(z, window, num_heads, 3)
        o_shape, p = (*z.shape[:3], channels), None
        if saved is None:
            pieces, o = workspace("pieces", shape, product_dtype), workspace("o", o_shape, product_dtype)
        else:
            pieces_row, o_row, p = saved.of(tokens, window, num_heads)
            pieces, o = pieces_row.view(shape), o_row.view(o_shape)
        (q, k, v), _ = normalize_qk(cut(z, window, pieces, term), gain, eps)
        mixed = attend(q, k, v, bias, workspace, p).view(1, *shape[1:])
        product(put_back(mixed, window, o, term), w_o, out[images, rows])
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
    num_heads: int,
    eps: float,
    strip_tokens: int,
    saved: Saved,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor, Tensor]:
    """Gradients of x, w_qkv, time, gain, bias and w_o; all but that of x in the dtype of ``bias``, as the sums are.

    ``saved`` was filled by the forward, in strips of as many tokens.
    """
    wide, product_dtype, channels, workspace = bias.dtype, w_qkv.dtype, w_o.shape[0], Workspace(x)
    dx = in_large_pages(torch.empty(x.shape, dtype=x.dtype, device=x.device))
    dw_qkv, dw_o = (torch.zeros(w.shape, dtype=wide, device=w.device) for w in (w_qkv, w_o))  # of a transposed w, too
    dtime, dgain = (None if a is None else torch.zeros_like(a) for a in (time, gain))
    dbias, bias = torch.zeros_like(bias), bias.to(product_dtype)
    total = torch.zeros(len(x), w_o.shape[1], dtype=wide, device=x.device)  # Σ ȳ of every image
    for images, rows, tokens in strips(x, window, strip_tokens):
        g = grad[images, rows].to(product_dtype)
        shape = pieces_shape(g, window, num_heads, 1)
        pieces_row, o, p = saved.of(tokens, window, num_heads)
        pieces = pieces_row.view(3, *shape[1:])
        (q, k, v), norms = normalize_qk(pieces, gain, eps)
        do = cut(project(g, w_o.mT, workspace, "do"), window, workspace("cut", (1, *pieces.shape[1:]), product_dtype))
        grads = workspace("grads", pieces.shape, product_dtype)
        core_backward(q, k, v, bias, do.flatten(0, 3), grads.flatten(1, 3), dbias, workspace, p)
        if gain is not None and dgain is not None and norms is not None:
            normalize_qk_backward(grads[:2], *norms, gain, dgain)
        d = put_back(grads, window, workspace("d", (*g.shape[:3], 3 * channels), product_dtype))
        if dtime is not None:
            total[images] += over_tokens(g, wide)
            for i, part in ((0, 0), (2, 1))[: dtime.shape[1] - 1]:
                d_part = d[..., part * channels : (part + 1) * channels]
                dtime[images, i] += over_tokens(d_part, wide)
        dw_o += product(o.mT, g.flatten(0, 2))
        dw_qkv += product(x[images, rows].to(product_dtype).flatten(0, 2).mT, d.flatten(0, 2))
        product(d, w_qkv.mT, dx[images, rows])
    if dtime is not None:  # v_t is added to every token of an image
        dtime[:, 1] = total @ w_o.mT.to(wide)
    return dx, dw_qkv, dtime, dgain, dbias, dw_o


def over_tokens(x: Tensor, wide: torch.dtype) -> Tensor:
    """The sum over an image's tokens (b, H, W, ·); one in bfloat16 is rounded once, when it ends, as a product is."""
    tokens = x.flatten(1, 2)
    return tokens.sum(1) if x.dtype == torch.bfloat16 else tokens.sum(1, dtype=wide)


def core_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    do: Tensor,
    grads: Tensor,
    dbias: Tensor,
    workspace: Workspace,
    saved: Tensor | None = None,
) -> None:
    """The gradients of q, k and v into ``grads``, that of the bias added to ``dbias``:

    dS = P ∘ (dP − rowsum(P ∘ dP)),  dP = do vᵀ,  dq = dS k/√d,  dk = dSᵀ q/√d,  dv = Pᵀ do
    """
    scale, length = 1 / math.sqrt(q.shape[-1]), q.shape[1]
    for rows in blocks(q.shape[0], length):
        p = weights(q, k, bias, rows, workspace) if saved is None else saved[:, rows]
        ds = workspace("ds", p.shape, p.dtype)
        torch.bmm(do[:, rows], v.mT, out=ds)
        torch.ops.aten._softmax_backward_data.out(ds, p, -1, p.dtype, grad_input=ds)
        dbias[:, rows] += ds.unflatten(0, (-1, bias.shape[0])).sum(0, dtype=dbias.dtype)
        if rows.stop - rows.start == length:
            torch.baddbmm(grads[0], ds, k, beta=0, alpha=scale, out=grads[0])
            torch.baddbmm(grads[1], ds.mT, q, beta=0, alpha=scale, out=grads[1])
            torch.bmm(p.mT, do, out=grads[2])
        else:
            ds *= scale
            grads[0, :, rows] = ds @ k
            if rows.start == 0:
                grads[1:].zero_()
            grads[1] += ds.mT @ q[:, rows]
            grads[2] += p.mT @ do[:, rows]


def core(qkv: Tensor, time: Tensor | None, bias: Tensor, window: int, num_heads: int, out: Tensor) -> Tensor:
    """o alone, between the two projections, into ``out``; computed in the dtype of the bias."""
    workspace = Workspace(qkv)
    for images, rows, _ in strips(qkv, window, tokens_at_once(qkv, bias.dtype)):
        z = qkv[images, rows]
        term = None if time is None else time[images]
        pieces = cut(z, window, workspace("pieces", pieces_shape(z, window, num_heads, 3), bias.dtype), term)
        q, k, v = pieces.flatten(1, 3)
        mixed = attend(q, k, v, bias, workspace).view(1, *pieces.shape[1:])
        shape = (*z.shape[:3], out.shape[-1])
        out[images, rows] = put_back(mixed, window, workspace("o", shape, out.dtype), term)
    return out


def core_gradients(
    grad: Tensor, qkv: Tensor, time: Tensor | None, bias: Tensor, window: int, num_heads: int
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Gradients of qkv, time and bias through o."""
    workspace = Workspace(qkv)
    dqkv = torch.empty(qkv.shape, dtype=qkv.dtype, device=qkv.device)
    dtime = None if time is None else torch.zeros(time.shape, dtype=bias.dtype, device=qkv.device)
    dbias = torch.zeros(bias.shape, dtype=bias.dtype, device=qkv.device)
    for images, rows, _ in strips(qkv, window, tokens_at_once(qkv, bias.dtype)):
        z, g = qkv[images, rows], grad[images, rows]
        term = None if time is None else time[images]
        pieces = cut(z, window, workspace("pieces", pieces_shape(z, window, num_heads, 3), bias.dtype), term)
        do = cut(g, window, workspace("do", (1, *pieces.shape[1:]), bias.dtype))
        grads = workspace("grads", pieces.shape, bias.dtype)
        q, k, v = pieces.flatten(1, 3)
        core_backward(q, k, v, bias, do.flatten(0, 3), grads.flatten(1, 3), dbias, workspace)
        if dtime is not None:
            dtime[images, 0] += grads[0].sum((1, 3)).flatten(1)
            dtime[images, 1] += do[0].sum((1, 3)).flatten(1)
        dqkv[images, rows] = put_back(grads, window, workspace("d", z.shape, qkv.dtype))
    return dqkv, dtime, dbias
