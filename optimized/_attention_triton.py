"""The Triton kernels of windowed attention: o = softmax((q + q_t) kᵀ/√d + B) v + v_t and its backward.

q, k and v are read window by window where the projection left them, at (B, H, W, 3C), and o is written there: nothing
is cut out or put back. A row of probabilities stays in registers. Windows of at most 32 tokens are taken several at a
time, as batches of small products; those of at most 64 one by one; larger ones (global attention) in blocks of queries
and keys. A width that is not a power of two is split: 72 = 64 + 16, of which 8 are used.

The backward computes the probabilities again, twice: with rows of queries, for dq, the bias, q_t and v_t, and with rows
of keys, for dk and dv, from the two numbers that the first pass leaves for every query. A program of the first has one
head, one image and some of its windows; its sums leave as one part, and torch adds the parts in one order.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
SMALL = 64  # tokens of a window whose row of scores stays in registers
BLOCK = 32  # queries, and keys at a time, of a window that is taken in blocks
SPLITS = 4  # parts in which the windows of one image and head are summed

Tensor = torch.Tensor


@triton.jit
def _places(window, columns, width, offset, WINDOW: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr):
    """ROWS rows: ROWS // TOKENS windows from ``window`` on, their tokens from ``offset`` on.

    Returns the window and the token within it of every row, the first token of the grid's row where they begin, in 64
    bits, and how many tokens of the grid after it every row stands: a few rows of the grid, so that 32 bits are enough.
    """
    row = tl.arange(0, ROWS)
    n, t = window + row // TOKENS, offset + row % TOKENS
    down = (n // columns - window // columns) * WINDOW + t // WINDOW - offset // WINDOW
    start = ((window // columns).to(tl.int64) * WINDOW + offset // WINDOW) * width
    return n, t, start, down * width + n % columns * WINDOW + t % WINDOW


@triton.jit
def _tile(pointer, token, stride, valid, WIDTH: tl.constexpr, START: tl.constexpr, N: tl.constexpr, UP: tl.constexpr):
    """Channels START … START + N of a head, of which WIDTH are; ``pointer`` is where the head begins."""
    channel = START + tl.arange(0, N)
    mask = valid[:, None] & (channel < WIDTH)[None, :]
    tile = tl.load(pointer + (token * stride)[:, None] + channel[None, :], mask=mask, other=0.0)
    return tile.to(tl.float32) if UP else tile


@triton.jit
def _keep(pointer, value, token, stride, valid, WIDTH: tl.constexpr, START: tl.constexpr, N: tl.constexpr):
    channel = START + tl.arange(0, N)
    mask = valid[:, None] & (channel < WIDTH)[None, :]
    tl.store(pointer + (token * stride)[:, None] + channel[None, :], value, mask=mask)


@triton.jit
def _vector(pointer, first, WIDTH: tl.constexpr, START: tl.constexpr, N: tl.constexpr):
    channel = START + tl.arange(0, N)
    return tl.load(pointer + first + channel, mask=channel < WIDTH, other=0.0)


@triton.jit
def _batch(a, GROUP: tl.constexpr):
    """(GROUP n, m) as (GROUP, n, m), or as it is where there is one."""
    return tl.reshape(a, (GROUP, a.shape[0] // GROUP, a.shape[1])) if GROUP > 1 else a


@triton.jit
def _rows(a, GROUP: tl.constexpr):
    return tl.reshape(a, (GROUP * a.shape[1], a.shape[2])) if GROUP > 1 else a


@triton.jit
def _turned(a, GROUP: tl.constexpr):
    return tl.permute(a, (0, 2, 1)) if GROUP > 1 else tl.trans(a)


@triton.jit
def _times(a, b, GROUP: tl.constexpr, PRECISION: tl.constexpr):
    """a bᵀ of (GROUP n, d) and (GROUP m, d), as (GROUP n, m)"""
    product = tl.dot(_batch(a, GROUP), _turned(_batch(b, GROUP), GROUP), input_precision=PRECISION)
    return _rows(product, GROUP)


@triton.jit
def _onto(a, b, GROUP: tl.constexpr, PRECISION: tl.constexpr):
    """a b of (GROUP n, m) and (GROUP m, d)"""
    return _rows(tl.dot(_batch(a, GROUP), _batch(b, GROUP), input_precision=PRECISION), GROUP)


@triton.jit
def _bias(bias, head, query, key, COUNT: tl.constexpr):
    """B of rows of queries and columns of keys, times log₂ e; −∞ for keys beyond the window"""
    mask = (query < COUNT)[:, None] & (key < COUNT)[None, :]
    at = (head * COUNT + query)[:, None] * COUNT + key[None, :]
    value = tl.load(bias + at, mask=mask, other=0.0) * LOG2E
    return tl.where((key < COUNT)[None, :], value, float("-inf"))


@triton.jit
def _bias_turned(bias, head, key, query, COUNT: tl.constexpr):
    """The same with rows of keys and columns of queries"""
    mask = (key < COUNT)[:, None] & (query < COUNT)[None, :]
    at = key[:, None] + (head * COUNT + query)[None, :] * COUNT
    value = tl.load(bias + at, mask=mask, other=0.0) * LOG2E
    return tl.where((key < COUNT)[:, None], value, float("-inf"))


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
    n, t, start, token = _places(tl.program_id(0) * GROUP, columns, width, 0, WINDOW, TOKENS, GROUP * TOKENS)
    start += image * count * (WINDOW * WINDOW)
    valid = (n < count) & (t < WINDOW * WINDOW)
    three = 3 * channels
    moment = image * 2 * channels + head * WIDTH
    qkv += start * three + head * WIDTH
    out += start * channels + head * WIDTH
    q = _tile(qkv, token, three, valid, WIDTH, 0, A, UP)
    k = _tile(qkv + channels, token, three, valid, WIDTH, 0, A, UP)
    v = _tile(qkv + 2 * channels, token, three, valid, WIDTH, 0, A, UP)
    if TIME:
        q = (q + _vector(time, moment, WIDTH, 0, A)[None, :]).to(q.dtype)
    scores = _times(q, k, GROUP, PRECISION)
    if B > 0:
        q_b = _tile(qkv, token, three, valid, WIDTH, A, B, UP)
        k_b = _tile(qkv + channels, token, three, valid, WIDTH, A, B, UP)
        if TIME:
            q_b = (q_b + _vector(time, moment, WIDTH, A, B)[None, :]).to(q_b.dtype)
        scores += _times(q_b, k_b, GROUP, PRECISION)
    scores = scores * (scale * LOG2E) + _bias(bias, head, t, tl.arange(0, TOKENS), WINDOW * WINDOW)
    p = tl.exp2(scores - tl.max(scores, 1)[:, None])
    total = tl.sum(p, 1)[:, None]
    p = p.to(v.dtype)
    o = _onto(p, v, GROUP, PRECISION) / total
    if TIME:
        o += _vector(time, moment + channels, WIDTH, 0, A)[None, :]
    _keep(out, o, token, channels, valid, WIDTH, 0, A)
    if B > 0:
        v_b = _tile(qkv + 2 * channels, token, three, valid, WIDTH, A, B, UP)
        o_b = _onto(p, v_b, GROUP, PRECISION) / total
        if TIME:
            o_b += _vector(time, moment + channels, WIDTH, A, B)[None, :]
        _keep(out, o_b, token, channels, valid, WIDTH, A, B)


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
    heads,
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

    grid (blocks of queries, windows heads, images)
    """
    COUNT: tl.constexpr = WINDOW * WINDOW
    window, head = tl.program_id(1) // heads, (tl.program_id(1) % heads).to(tl.int64)
    image = tl.program_id(2).to(tl.int64)
    _, t, start, token = _places(window, columns, width, tl.program_id(0) * TOKENS, WINDOW, TOKENS, TOKENS)
    valid = t < COUNT
    three = 3 * channels
    moment = image * 2 * channels + head * WIDTH
    qkv += image * count * COUNT * three + head * WIDTH
    out += (image * count * COUNT + start) * channels + head * WIDTH
    q = _tile(qkv + start * three, token, three, valid, WIDTH, 0, A, UP)
    if TIME:
        q = (q + _vector(time, moment, WIDTH, 0, A)[None, :]).to(q.dtype)
    o = tl.zeros((TOKENS, A), tl.float32)
    if B > 0:
        q_b = _tile(qkv + start * three, token, three, valid, WIDTH, A, B, UP)
        if TIME:
            q_b = (q_b + _vector(time, moment, WIDTH, A, B)[None, :]).to(q_b.dtype)
        o_b = tl.zeros((TOKENS, B), tl.float32)
    largest = tl.full((TOKENS,), float("-inf"), tl.float32)
    total = tl.zeros((TOKENS,), tl.float32)
    for i in range(0, COUNT, TOKENS):
        _, s, begin, key = _places(window, columns, width, i, WINDOW, TOKENS, TOKENS)
        keys = qkv + begin * three + channels
        seen = s < COUNT
        k = _tile(keys, key, three, seen, WIDTH, 0, A, UP)
        v = _tile(keys + channels, key, three, seen, WIDTH, 0, A, UP)
        scores = _times(q, k, 1, PRECISION)
        if B > 0:
            scores += _times(q_b, _tile(keys, key, three, seen, WIDTH, A, B, UP), 1, PRECISION)
        scores = scores * (scale * LOG2E) + _bias(bias, head, t, s, COUNT)
        more = tl.maximum(largest, tl.max(scores, 1))
        shrink = tl.exp2(largest - more)
        p = tl.exp2(scores - more[:, None])
        total = total * shrink + tl.sum(p, 1)
        p = p.to(v.dtype)
        o = o * shrink[:, None] + _onto(p, v, 1, PRECISION)
        if B > 0:
            v_b = _tile(keys + channels, key, three, seen, WIDTH, A, B, UP)
            o_b = o_b * shrink[:, None] + _onto(p, v_b, 1, PRECISION)
        largest = more
    o = o / total[:, None]
    if TIME:
        o += _vector(time, moment + channels, WIDTH, 0, A)[None, :]
    _keep(out, o, token, channels, valid, WIDTH, 0, A)
    if B > 0:
        o_b = o_b / total[:, None]
        if TIME:
            o_b += _vector(time, moment + channels, WIDTH, A, B)[None, :]
        _keep(out, o_b, token, channels, valid, WIDTH, A, B)


@triton.jit
def queries_kernel(
    grad,
    qkv,
    time,
    bias,
    dqkv,
    stats,
    dtime,
    dbias,
    scale,
    places,
    columns,
    width,
    count,
    channels,
    heads,
    WINDOW: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    A: tl.constexpr,
    B: tl.constexpr,
    TIME: tl.constexpr,
    SPLITS: tl.constexpr,
    PRECISION: tl.constexpr,
    UP: tl.constexpr,
):
    """dq of ROWS queries of every SPLITS-th window of one head and image; grid (TOKENS / ROWS SPLITS, heads, images).

    stats  (2, images, heads, windows, TOKENS): log₂ Σ exp of every row of scores, and rowsum(P ∘ dP); ``places`` apart
    dtime  (images, SPLITS TOKENS / ROWS, 2, C) and dbias (images, SPLITS, heads, w², w²) receive this program's part
    """
    COUNT: tl.constexpr = WINDOW * WINDOW
    split, block = tl.program_id(0) % SPLITS, tl.program_id(0) // SPLITS
    head, image = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    three = 3 * channels
    moment = image * 2 * channels + head * WIDTH
    qkv += image * count * COUNT * three + head * WIDTH
    dqkv += image * count * COUNT * three + head * WIDTH
    grad += image * count * COUNT * channels + head * WIDTH
    key = tl.arange(0, TOKENS)
    query = block * ROWS + tl.arange(0, ROWS)
    total_bias = tl.zeros((ROWS, TOKENS), tl.float32)
    q_sum, v_sum = tl.zeros((A,), tl.float32), tl.zeros((A,), tl.float32)
    if B > 0:
        q_sum_b, v_sum_b = tl.zeros((B,), tl.float32), tl.zeros((B,), tl.float32)
    for window in range(split, count, SPLITS):
        _, t, start, token = _places(window, columns, width, block * ROWS, WINDOW, TOKENS, ROWS)
        _, s, begin, other = _places(window, columns, width, 0, WINDOW, TOKENS, TOKENS)
        valid, seen = t < COUNT, s < COUNT
        read, keys = qkv + start * three, qkv + begin * three + channels
        q = _tile(read, token, three, valid, WIDTH, 0, A, UP)
        g = _tile(grad + start * channels, token, channels, valid, WIDTH, 0, A, UP)
        k = _tile(keys, other, three, seen, WIDTH, 0, A, UP)
        v = _tile(keys + channels, other, three, seen, WIDTH, 0, A, UP)
        if TIME:
            q = (q + _vector(time, moment, WIDTH, 0, A)[None, :]).to(q.dtype)
            v_sum += tl.sum(g.to(tl.float32), 0)
        scores, dp = _times(q, k, 1, PRECISION), _times(g, v, 1, PRECISION)
        if B > 0:
            q_b = _tile(read, token, three, valid, WIDTH, A, B, UP)
            g_b = _tile(grad + start * channels, token, channels, valid, WIDTH, A, B, UP)
            k_b = _tile(keys, other, three, seen, WIDTH, A, B, UP)
            if TIME:
                q_b = (q_b + _vector(time, moment, WIDTH, A, B)[None, :]).to(q_b.dtype)
                v_sum_b += tl.sum(g_b.to(tl.float32), 0)
            scores += _times(q_b, k_b, 1, PRECISION)
            dp += _times(g_b, _tile(keys + channels, other, three, seen, WIDTH, A, B, UP), 1, PRECISION)
        scores = scores * (scale * LOG2E) + _bias(bias, head, query, key, COUNT)
        largest = tl.max(scores, 1)
        p = tl.exp2(scores - largest[:, None])
        total = tl.sum(p, 1)
        p = p / total[:, None]
        delta = tl.sum(p * dp, 1)
        ds = p * (dp - delta[:, None])
        total_bias += ds
        place = ((image * heads + head) * count + window) * TOKENS + t
        tl.store(stats + place, largest + tl.log2(total))
        tl.store(stats + places + place, delta)
        ds = ds.to(k.dtype)
        dq = _onto(ds, k, 1, PRECISION) * scale
        _keep(dqkv + start * three, dq, token, three, valid, WIDTH, 0, A)
        if TIME:
            q_sum += tl.sum(dq, 0)
        if B > 0:
            dq = _onto(ds, k_b, 1, PRECISION) * scale
            _keep(dqkv + start * three, dq, token, three, valid, WIDTH, A, B)
            if TIME:
                q_sum_b += tl.sum(dq, 0)
    place = (((image * SPLITS + split) * heads + head) * COUNT + query)[:, None] * COUNT + key[None, :]
    tl.store(dbias + place, total_bias, mask=(query < COUNT)[:, None] & (key < COUNT)[None, :])
    if TIME:
        channel = tl.arange(0, A)
        dtime += (image * SPLITS * (TOKENS // ROWS) + tl.program_id(0)) * 2 * channels + head * WIDTH
        tl.store(dtime + channel, q_sum, mask=channel < WIDTH)
        tl.store(dtime + channels + channel, v_sum, mask=channel < WIDTH)
        if B > 0:
            rest = A + tl.arange(0, B)
            tl.store(dtime + rest, q_sum_b, mask=rest < WIDTH)
            tl.store(dtime + channels + rest, v_sum_b, mask=rest < WIDTH)


@triton.jit
def keys_kernel(
    grad,
    qkv,
    time,
    bias,
    dqkv,
    stats,
    scale,
    places,
    columns,
    width,
    count,
    channels,
    heads,
    WINDOW: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    A: tl.constexpr,
    B: tl.constexpr,
    TIME: tl.constexpr,
    PRECISION: tl.constexpr,
    UP: tl.constexpr,
):
    """dk and dv of ROWS keys of one window, head and image; grid (windows TOKENS / ROWS, heads, images)."""
    COUNT: tl.constexpr = WINDOW * WINDOW
    BLOCKS: tl.constexpr = TOKENS // ROWS
    window, block = tl.program_id(0) // BLOCKS, tl.program_id(0) % BLOCKS
    head, image = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    _, t, start, token = _places(window, columns, width, block * ROWS, WINDOW, TOKENS, ROWS)
    _, s, begin, other = _places(window, columns, width, 0, WINDOW, TOKENS, TOKENS)
    valid, seen = t < COUNT, s < COUNT
    three = 3 * channels
    moment = image * 2 * channels + head * WIDTH
    first = image * count * COUNT
    keys = qkv + (first + start) * three + head * WIDTH + channels
    there = dqkv + (first + start) * three + head * WIDTH + channels
    read = qkv + (first + begin) * three + head * WIDTH
    back = grad + (first + begin) * channels + head * WIDTH
    place = ((image * heads + head) * count + window) * TOKENS + tl.arange(0, TOKENS)
    q = _tile(read, other, three, seen, WIDTH, 0, A, UP)
    k = _tile(keys, token, three, valid, WIDTH, 0, A, UP)
    if TIME:
        q = (q + _vector(time, moment, WIDTH, 0, A)[None, :]).to(q.dtype)
    scores = _times(k, q, 1, PRECISION)
    if B > 0:
        q_b = _tile(read, other, three, seen, WIDTH, A, B, UP)
        if TIME:
            q_b = (q_b + _vector(time, moment, WIDTH, A, B)[None, :]).to(q_b.dtype)
        scores += _times(_tile(keys, token, three, valid, WIDTH, A, B, UP), q_b, 1, PRECISION)
    scores = scores * (scale * LOG2E) + _bias_turned(bias, head, t, tl.arange(0, TOKENS), COUNT)
    p = tl.exp2(scores - tl.load(stats + place)[None, :])
    g = _tile(back, other, channels, seen, WIDTH, 0, A, UP)
    _keep(there + channels, _onto(p.to(k.dtype), g, 1, PRECISION), token, three, valid, WIDTH, 0, A)
    dp = _times(_tile(keys + channels, token, three, valid, WIDTH, 0, A, UP), g, 1, PRECISION)
    if B > 0:
        g_b = _tile(back, other, channels, seen, WIDTH, A, B, UP)
        _keep(there + channels, _onto(p.to(k.dtype), g_b, 1, PRECISION), token, three, valid, WIDTH, A, B)
        dp += _times(_tile(keys + channels, token, three, valid, WIDTH, A, B, UP), g_b, 1, PRECISION)
    ds = (p * (dp - tl.load(stats + places + place)[None, :])).to(k.dtype)
    _keep(there, _onto(ds, q, 1, PRECISION) * scale, token, three, valid, WIDTH, 0, A)
    if B > 0:
        _keep(there, _onto(ds, q_b, 1, PRECISION) * scale, token, three, valid, WIDTH, A, B)


def _interpreted() -> bool:
    return bool(triton.knobs.runtime.interpret)


def split(width: int) -> tuple[int, int]:
    """A head's width as two powers of two, the first at least 16 and the second 0 or at least 16: 72 = 64 + 16."""
    whole = triton.next_power_of_2(width)
    if whole == width or width <= 16:
        return max(16, whole), 0
    rest = max(16, triton.next_power_of_2(width - whole // 2))
    return (whole, 0) if rest == whole // 2 else (whole // 2, rest)


def shape(window: int) -> tuple[int, int]:
    """(tokens, group): rows of a window, a power of two of at least 16, and windows that a program takes at a time."""
    tokens = min(SMALL, max(16, triton.next_power_of_2(window * window)))
    return tokens, SMALL // tokens


def constants(window: int, width: int, dtype: torch.dtype) -> dict[str, object]:
    """The constexpr arguments that the kernels share."""
    tokens, group = shape(window)
    a, b = split(width)
    interpreted = _interpreted()
    return {
        "WINDOW": window,
        "TOKENS": tokens,
        "GROUP": group,
        "WIDTH": width,
        "A": a,
        "B": b,
        "PRECISION": "tf32x3" if dtype == torch.float32 and tokens >= SMALL and not interpreted else "ieee",
        "UP": interpreted and dtype == torch.bfloat16,
    }


def rows_of(tokens: int, dtype: torch.dtype) -> tuple[int, int]:
    """Rows of scores that a program of the backward takes, and its warps: with these nothing is spilled."""
    if tokens < SMALL:
        return tokens, 4 if tokens > 16 or dtype == torch.float32 else 2
    return (16, 8) if dtype == torch.float32 else (32, 4)


def in_blocks(window: int, dtype: torch.dtype) -> bool:
    """Whether queries and keys come in blocks: large windows, and 64 tokens of float32, whose rows would be spilled."""
    return window * window > SMALL or (shape(window)[0] == SMALL and dtype == torch.float32)


def has_backward(window: int, width: int) -> bool:
    """Whether the backward has kernels: not for large windows, nor for a width in two parts, which would be spilled."""
    return window * window <= SMALL and split(width)[1] == 0


def _place(y: Tensor) -> Tensor:
    """Where a kernel writes: the interpreter truncates a bfloat16 store, so it writes float32, cast by torch."""
    return torch.empty_like(y, dtype=torch.float32) if _interpreted() and y.element_size() == 2 else y


def _into(y: Tensor, place: Tensor) -> Tensor:
    return y if place is y else y.copy_(place)


def forward(qkv: Tensor, time: Tensor | None, bias: Tensor, window: int, heads: int) -> Tensor:
    """o (B, H, W, C) of qkv (B, H, W, 3C), time (B, 2, C) and bias (heads, w², w²), both of float32."""
    batch, height, width, three = qkv.shape
    channels, columns = three // 3, width // window
    count = (height // window) * columns
    o = torch.empty(batch, height, width, channels, dtype=qkv.dtype, device=qkv.device)
    if not o.numel():
        return o
    known = constants(window, channels // heads, qkv.dtype)
    place = _place(o)
    given = (qkv.contiguous(), bias if time is None else time.contiguous(), bias.contiguous(), place)
    numbers = (1 / math.sqrt(channels // heads), columns, width, count, channels)
    moment = {"TIME": time is not None, "num_warps": 4, "num_stages": 1}
    if in_blocks(window, qkv.dtype):
        known |= {"TOKENS": BLOCK}
        del known["GROUP"]
        grid = (triton.cdiv(window * window, BLOCK), count * heads, batch)
        blocks_kernel[grid](*given, *numbers, heads, **moment, **known)
    else:
        grid = (triton.cdiv(count, known["GROUP"]), heads, batch)
        forward_kernel[grid](*given, *numbers, **moment, **known)
    return _into(o, place)


def backward(
    grad: Tensor, qkv: Tensor, time: Tensor | None, bias: Tensor, window: int, heads: int
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Gradients of qkv, time and bias, windows of at most 64 tokens; parts are added in one order."""
    batch, height, width, three = qkv.shape
    channels, columns = three // 3, width // window
    count, area = (height // window) * columns, window * window
    tokens = shape(window)[0]
    rows, warps = rows_of(tokens, qkv.dtype)
    splits, blocks = min(SPLITS, count), tokens // rows
    kept: dict[str, Any] = {"dtype": torch.float32, "device": qkv.device}
    dqkv = torch.empty(qkv.shape, dtype=qkv.dtype, device=qkv.device)
    stats = torch.empty(2, batch, heads, count, tokens, **kept)
    dtime = torch.empty(batch, splits * blocks, 2, channels if time is not None else 0, **kept)
    dbias = torch.empty(batch, splits, heads, area, area, **kept)
    place = _place(dqkv)
    if dqkv.numel():
        moment = bias if time is None else time
        given = [a.contiguous() for a in (grad, qkv, moment, bias)]
        numbers = (1 / math.sqrt(channels // heads), stats[0].numel(), columns, width, count, channels, heads)
        known = {"TIME": time is not None, "ROWS": rows, **constants(window, channels // heads, qkv.dtype)}
        del known["GROUP"]
        known |= {"num_warps": warps, "num_stages": 1}
        queries_kernel[(splits * blocks, heads, batch)](
            *given, place, stats, dtime, dbias, *numbers, SPLITS=splits, **known
        )
        keys_kernel[(count * blocks, heads, batch)](*given, place, stats, *numbers, **known)
    return _into(dqkv, place), None if time is None else dtime.sum(1), dbias.sum((0, 1))
