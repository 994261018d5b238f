"""The Triton kernels of windowed attention: o = softmax((q + q_t) kᵀ/√d + B) v + v_t.

q, k and v are read window by window where the projection left them, at (B, H, W, 3C), and o is written there: nothing
is cut out or put back. A row of probabilities stays in registers. Windows of at most 32 tokens are taken several at a
time, as batches of small products; those of at most 64 one by one; larger ones (global attention) in blocks of queries
and keys. A width that is not a power of two is split: 72 = 64 + 16, of which 8 are used.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from trueness.optimized.attention.cuda.common import (
    LOG2E,
    SMALL,
    bias_at,
    block_at,
    constants,
    into,
    keep,
    onto,
    place_for,
    shape,
    tile,
    times,
    tokens_at,
    vector,
)

BLOCK = 32  # queries, and keys at a time, of a window that is taken in blocks

Tensor = torch.Tensor


@triton.jit
def forward_kernel(
    qkv,
    time,
    bias,
    out,
    scale,
    columns,
    width,
    count,
    channels,
    WINDOW: tl.constexpr,
    TOKENS: tl.constexpr,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    A: tl.constexpr,
    B: tl.constexpr,
    TIME: tl.constexpr,
    PRECISION: tl.constexpr,
    UP: tl.constexpr,
):
    """GROUP windows of one head and image; grid (⌈windows / GROUP⌉, heads, images)."""
    head, image = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    n, t, start, token = tokens_at(tl.program_id(0) * GROUP, columns, width, 0, WINDOW, TOKENS, GROUP * TOKENS)
    start += image * count * (WINDOW * WINDOW)
    valid = (n < count) & (t < WINDOW * WINDOW)
    three = 3 * channels
    moment = image * 2 * channels + head * WIDTH
    qkv += start * three + head * WIDTH
    out += start * channels + head * WIDTH
    q = tile(qkv, token, three, valid, WIDTH, 0, A, UP)
    k = tile(qkv + channels, token, three, valid, WIDTH, 0, A, UP)
    v = tile(qkv + 2 * channels, token, three, valid, WIDTH, 0, A, UP)
    if TIME:
        q = (q + vector(time, moment, WIDTH, 0, A)[None, :]).to(q.dtype)
    scores = times(q, k, GROUP, PRECISION)
    if B > 0:
        q_b = tile(qkv, token, three, valid, WIDTH, A, B, UP)
        k_b = tile(qkv + channels, token, three, valid, WIDTH, A, B, UP)
        if TIME:
            q_b = (q_b + vector(time, moment, WIDTH, A, B)[None, :]).to(q_b.dtype)
        scores += times(q_b, k_b, GROUP, PRECISION)
    scores = scores * (scale * LOG2E) + bias_at(bias, head, t, tl.arange(0, TOKENS), WINDOW * WINDOW)
    p = tl.exp2(scores - tl.max(scores, 1)[:, None])
    total = tl.sum(p, 1)[:, None]
    p = p.to(v.dtype)
    o = onto(p, v, GROUP, PRECISION) / total
    if TIME:
        o += vector(time, moment + channels, WIDTH, 0, A)[None, :]
    keep(out, o, token, channels, valid, WIDTH, 0, A)
    if B > 0:
        v_b = tile(qkv + 2 * channels, token, three, valid, WIDTH, A, B, UP)
        o_b = onto(p, v_b, GROUP, PRECISION) / total
        if TIME:
            o_b += vector(time, moment + channels, WIDTH, A, B)[None, :]
        keep(out, o_b, token, channels, valid, WIDTH, A, B)


@triton.jit
def blocks_kernel(
    qkv,
    time,
    bias,
    out,
    scale,
    columns,
    width,
    count,
    channels,
    WINDOW: tl.constexpr,
    TOKENS: tl.constexpr,
    WIDTH: tl.constexpr,
    A: tl.constexpr,
    B: tl.constexpr,
    TIME: tl.constexpr,
    PRECISION: tl.constexpr,
    UP: tl.constexpr,
):
    """TOKENS queries of one large window, head and image against all keys, TOKENS at a time.

    grid (windows ⌈w² / TOKENS⌉, heads, images)
    """
    COUNT: tl.constexpr = WINDOW * WINDOW
    BLOCKS: tl.constexpr = (COUNT + TOKENS - 1) // TOKENS
    window, block = tl.program_id(0) // BLOCKS, tl.program_id(0) % BLOCKS
    head, image = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    t, start, token = block_at(window, columns, width, block * TOKENS, WINDOW, TOKENS)
    valid = t < COUNT
    three = 3 * channels
    moment = image * 2 * channels + head * WIDTH
    qkv += image * count * COUNT * three + head * WIDTH
    out += (image * count * COUNT + start) * channels + head * WIDTH
    q = tile(qkv + start * three, token, three, valid, WIDTH, 0, A, UP)
    if TIME:
        q = (q + vector(time, moment, WIDTH, 0, A)[None, :]).to(q.dtype)
    o = tl.zeros((TOKENS, A), tl.float32)
    if B > 0:
        q_b = tile(qkv + start * three, token, three, valid, WIDTH, A, B, UP)
        if TIME:
            q_b = (q_b + vector(time, moment, WIDTH, A, B)[None, :]).to(q_b.dtype)
        o_b = tl.zeros((TOKENS, B), tl.float32)
    largest = tl.full((TOKENS,), float("-inf"), tl.float32)
    total = tl.zeros((TOKENS,), tl.float32)
    for i in range(0, COUNT, TOKENS):
        s, begin, key = block_at(window, columns, width, i, WINDOW, TOKENS)
        keys = qkv + begin * three + channels
        seen = s < COUNT
        k = tile(keys, key, three, seen, WIDTH, 0, A, UP)
        v = tile(keys + channels, key, three, seen, WIDTH, 0, A, UP)
        scores = times(q, k, 1, PRECISION)
        if B > 0:
            scores += times(q_b, tile(keys, key, three, seen, WIDTH, A, B, UP), 1, PRECISION)
        scores = scores * (scale * LOG2E) + bias_at(bias, head, t, s, COUNT)
        more = tl.maximum(largest, tl.max(scores, 1))
        shrink = tl.exp2(largest - more)
        p = tl.exp2(scores - more[:, None])
        total = total * shrink + tl.sum(p, 1)
        p = p.to(v.dtype)
        o = o * shrink[:, None] + onto(p, v, 1, PRECISION)
        if B > 0:
            v_b = tile(keys + channels, key, three, seen, WIDTH, A, B, UP)
            o_b = o_b * shrink[:, None] + onto(p, v_b, 1, PRECISION)
        largest = more
    o = o / total[:, None]
    if TIME:
        o += vector(time, moment + channels, WIDTH, 0, A)[None, :]
    keep(out, o, token, channels, valid, WIDTH, 0, A)
    if B > 0:
        o_b = o_b / total[:, None]
        if TIME:
            o_b += vector(time, moment + channels, WIDTH, A, B)[None, :]
        keep(out, o_b, token, channels, valid, WIDTH, A, B)


def in_blocks(window: int, dtype: torch.dtype) -> bool:
    """Whether queries and keys come in blocks: large windows, and 64 tokens of float32, whose rows would be spilled."""
    return window * window > SMALL or (shape(window)[0] == SMALL and dtype == torch.float32)


def forward(qkv: Tensor, time: Tensor | None, bias: Tensor, window: int, heads: int) -> Tensor:
    """o (B, H, W, C) of qkv (B, H, W, 3C), time (B, 2, C) and bias (heads, w², w²), both of float32."""
    batch, height, width, three = qkv.shape
    channels, columns = three // 3, width // window
    count = (height // window) * columns
    o = torch.empty(batch, height, width, channels, dtype=qkv.dtype, device=qkv.device)
    if not o.numel():
        return o
    known = constants(window, channels // heads, qkv.dtype)
    place = place_for(o)
    given = (qkv.contiguous(), bias if time is None else time.contiguous(), bias.contiguous(), place)
    numbers = (1 / math.sqrt(channels // heads), columns, width, count, channels)
    moment = {"TIME": time is not None, "num_warps": 4, "num_stages": 1}
    if in_blocks(window, qkv.dtype):
        known |= {"TOKENS": BLOCK}
        del known["GROUP"]
        grid = (count * triton.cdiv(window * window, BLOCK), heads, batch)
        blocks_kernel[grid](*given, *numbers, **moment, **known)
    else:
        grid = (triton.cdiv(count, known["GROUP"]), heads, batch)
        forward_kernel[grid](*given, *numbers, **moment, **known)
    return into(o, place)
