"""The Triton kernels of windowed attention: o = softmax((q + q_t) kᵀ/√d + B) v + v_t and its backward.

q, k and v are read window by window where the projection left them, at (B, H, W, 3C), and o is written there: nothing
is cut out or put back. A row of probabilities stays in registers. Windows of at most 32 tokens are taken several at a
time, as batches of small products; those of at most 64 one by one; larger ones (global attention) in blocks of queries
and keys. A width that is not a power of two is split: 72 = 64 + 16, of which 8 are used.

The backward computes the probabilities again. A program has one head, one image and some of its windows; what it adds
up for the bias, q_t and v_t leaves as one part, and torch adds the parts in one order. Products of transposed
probabilities are made from scores that are themselves computed transposed.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
SMALL = 64  # tokens of a window whose row of scores stays in registers
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
def _across(a, GROUP: tl.constexpr, TOKENS: tl.constexpr):
    """A number for every query, where queries are columns"""
    wide = tl.broadcast_to(tl.reshape(a, (GROUP, 1, TOKENS)), (GROUP, TOKENS, TOKENS))
    return tl.reshape(wide, (GROUP * TOKENS, TOKENS))


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
def backward_kernel(
    grad,
    qkv,
    time,
    bias,
    dqkv,
    dtime,
    dbias,
    scale,
    columns,
    width,
    count,
    channels,
    heads,
    WINDOW: tl.constexpr,
    TOKENS: tl.constexpr,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    A: tl.constexpr,
    B: tl.constexpr,
    TIME: tl.constexpr,
    SPLITS: tl.constexpr,
    PRECISION: tl.constexpr,
    UP: tl.constexpr,
):
    """dq, dk, dv of every SPLITS-th group of windows of one head and image; grid (SPLITS, heads, images).

    dtime (images, SPLITS, 2, C) and dbias (images, SPLITS, heads, w², w²) receive this program's part.
    """
    COUNT: tl.constexpr = WINDOW * WINDOW
    ROWS: tl.constexpr = GROUP * TOKENS
    split, head, image = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    three = 3 * channels
    moment = image * 2 * channels + head * WIDTH
    qkv += image * count * COUNT * three + head * WIDTH
    dqkv += image * count * COUNT * three + head * WIDTH
    grad += image * count * COUNT * channels + head * WIDTH
    key = tl.arange(0, TOKENS)
    row = tl.arange(0, ROWS) % TOKENS
    total_bias = tl.zeros((ROWS, TOKENS), tl.float32)
    q_sum, v_sum = tl.zeros((A,), tl.float32), tl.zeros((A,), tl.float32)
    if B > 0:
        q_sum_b, v_sum_b = tl.zeros((B,), tl.float32), tl.zeros((B,), tl.float32)
    for step in range(0, count, SPLITS * GROUP):
        n, t, start, token = _places(split * GROUP + step, columns, width, 0, WINDOW, TOKENS, ROWS)
        valid = (n < count) & (t < COUNT)
        read, there, back = qkv + start * three, dqkv + start * three, grad + start * channels
        # rows of queries: dq and the bias
        q = _tile(read, token, three, valid, WIDTH, 0, A, UP)
        k = _tile(read + channels, token, three, valid, WIDTH, 0, A, UP)
        v = _tile(read + 2 * channels, token, three, valid, WIDTH, 0, A, UP)
        g = _tile(back, token, channels, valid, WIDTH, 0, A, UP)
        if TIME:
            q = (q + _vector(time, moment, WIDTH, 0, A)[None, :]).to(q.dtype)
            v_sum += tl.sum(g.to(tl.float32), 0)
        scores, dp = _times(q, k, GROUP, PRECISION), _times(g, v, GROUP, PRECISION)
        if B > 0:
            q_b = _tile(read, token, three, valid, WIDTH, A, B, UP)
            k_b = _tile(read + channels, token, three, valid, WIDTH, A, B, UP)
            v_b = _tile(read + 2 * channels, token, three, valid, WIDTH, A, B, UP)
            g_b = _tile(back, token, channels, valid, WIDTH, A, B, UP)
            if TIME:
                q_b = (q_b + _vector(time, moment, WIDTH, A, B)[None, :]).to(q_b.dtype)
                v_sum_b += tl.sum(g_b.to(tl.float32), 0)
            scores += _times(q_b, k_b, GROUP, PRECISION)
            dp += _times(g_b, v_b, GROUP, PRECISION)
        scores = scores * (scale * LOG2E) + _bias(bias, head, row, key, COUNT)
        largest = tl.max(scores, 1)
        p = tl.exp2(scores - largest[:, None])
        share = 1.0 / tl.sum(p, 1)
        p = p * share[:, None]
        delta = tl.sum(p * dp, 1)
        ds = p * (dp - delta[:, None])
        total_bias += ds
        ds = ds.to(k.dtype)
        dq = _onto(ds, k, GROUP, PRECISION) * scale
        _keep(there, dq, token, three, valid, WIDTH, 0, A)
        if TIME:
            q_sum += tl.sum(dq, 0)
        if B > 0:
            dq = _onto(ds, k_b, GROUP, PRECISION) * scale
            _keep(there, dq, token, three, valid, WIDTH, A, B)
            if TIME:
                q_sum_b += tl.sum(dq, 0)
        # rows of keys: dk and dv
        scores, dp = _times(k, q, GROUP, PRECISION), _times(v, g, GROUP, PRECISION)
        if B > 0:
            scores += _times(k_b, q_b, GROUP, PRECISION)
            dp += _times(v_b, g_b, GROUP, PRECISION)
        scores = scores * (scale * LOG2E) + _bias_turned(bias, head, row, key, COUNT)
        p = tl.exp2(scores - _across(largest, GROUP, TOKENS)) * _across(share, GROUP, TOKENS)
        ds = (p * (dp - _across(delta, GROUP, TOKENS))).to(k.dtype)
        p = p.to(k.dtype)
        _keep(there + channels, _onto(ds, q, GROUP, PRECISION) * scale, token, three, valid, WIDTH, 0, A)
        _keep(there + 2 * channels, _onto(p, g, GROUP, PRECISION), token, three, valid, WIDTH, 0, A)
        if B > 0:
            _keep(there + channels, _onto(ds, q_b, GROUP, PRECISION) * scale, token, three, valid, WIDTH, A, B)
            _keep(there + 2 * channels, _onto(p, g_b, GROUP, PRECISION), token, three, valid, WIDTH, A, B)
    part = image * SPLITS + split
    if GROUP > 1:
        table = tl.sum(tl.reshape(total_bias, (GROUP, TOKENS, TOKENS)), 0)
    else:
        table = total_bias
    query = tl.arange(0, TOKENS)
    place = ((part * heads + head) * COUNT + query)[:, None] * COUNT + key[None, :]
    tl.store(dbias + place, table, mask=(query < COUNT)[:, None] & (key < COUNT)[None, :])
    if TIME:
        channel = tl.arange(0, A)
        to = dtime + part * 2 * channels + head * WIDTH + channel
        tl.store(to, q_sum, mask=channel < WIDTH)
        tl.store(to + channels, v_sum, mask=channel < WIDTH)
        if B > 0:
            rest = A + tl.arange(0, B)
            to = dtime + part * 2 * channels + head * WIDTH + rest
            tl.store(to, q_sum_b, mask=rest < WIDTH)
            tl.store(to + channels, v_sum_b, mask=rest < WIDTH)


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
    """(tokens, group): rows of one window, a power of two of at least 16, and windows a program takes at a time."""
    tokens = max(16, triton.next_power_of_2(window * window))
    return (tokens, max(1, SMALL // tokens)) if tokens <= SMALL else (SMALL, 1)


def constants(window: int, width: int, dtype: torch.dtype) -> dict[str, object]:
    """The constexpr arguments that the kernels share."""
    tokens, group = shape(window)
    a, b = split(width)
    precision = "ieee" if dtype != torch.float32 or group > 1 else "tf32x3"
    interpreted = _interpreted()
    return {
        "WINDOW": window,
        "TOKENS": tokens,
        "GROUP": group,
        "WIDTH": width,
        "A": a,
        "B": b,
        "PRECISION": "ieee" if interpreted else precision,
        "UP": interpreted and dtype == torch.bfloat16,
    }


def options(kernel: str, group: int) -> dict[str, int]:
    """Warps and stages with which nothing is spilled."""
    return {"num_warps": 8 if kernel == "backward" else 4, "num_stages": 1 if kernel == "backward" else 2}


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
    tokens, group = shape(window)
    place = _place(o)
    given = (qkv.contiguous(), bias if time is None else time.contiguous(), bias.contiguous(), place)
    numbers = (1 / math.sqrt(channels // heads), columns, width, count, channels)
    if window * window <= SMALL:
        grid = (triton.cdiv(count, group), heads, batch)
        forward_kernel[grid](*given, *numbers, TIME=time is not None, **known, **options("forward", group))
    else:
        del known["GROUP"]
        grid = (triton.cdiv(window * window, tokens), count * heads, batch)
        blocks_kernel[grid](*given, *numbers, heads, TIME=time is not None, **known, **options("blocks", 1))
    return _into(o, place)


def backward(
    grad: Tensor, qkv: Tensor, time: Tensor | None, bias: Tensor, window: int, heads: int
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Gradients of qkv, time and bias, windows of at most 64 tokens; parts are added in one order."""
    batch, height, width, three = qkv.shape
    channels, columns = three // 3, width // window
    count, area = (height // window) * columns, window * window
    dqkv = torch.empty(qkv.shape, dtype=qkv.dtype, device=qkv.device)
    place = _place(dqkv)
    group = shape(window)[1]
    splits = min(SPLITS, triton.cdiv(count, group))
    dtime = torch.empty(batch, splits, 2, channels if time is not None else 0, dtype=torch.float32, device=qkv.device)
    dbias = torch.empty(batch, splits, heads, area, area, dtype=torch.float32, device=qkv.device)
    if dqkv.numel():
        backward_kernel[(splits, heads, batch)](
            grad.contiguous(),
            qkv.contiguous(),
            bias if time is None else time.contiguous(),
            bias.contiguous(),
            place,
            dtime,
            dbias,
            1 / math.sqrt(channels // heads),
            columns,
            width,
            count,
            channels,
            heads,
            TIME=time is not None,
            SPLITS=splits,
            **constants(window, channels // heads, qkv.dtype),
            **options("backward", group),
        )
    return _into(dqkv, place), None if time is None else dtime.sum(1), dbias.sum((0, 1))
