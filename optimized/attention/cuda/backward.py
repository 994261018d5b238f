"""The Triton kernels of the backward of windowed attention; the probabilities P are computed again from q, k and B.

    dS = P ∘ (dP − rowsum(P ∘ dP)),  dP = do vᵀ,  dq = dS k/√d,  dk = dSᵀ q/√d,  dv = Pᵀ do,  dB = Σ dS

Rows of queries come first: dq, q_t and v_t, and of every query three numbers, from which the rows of keys, for dk and
dv, have P and dS without a sum. Where a window's row of scores stays in registers (`plan_of`), a program of the first
kernel has one head, one image and some of its windows, and the bias as well. Else both kernels take queries and keys in
blocks, the first of them twice, and a third kernel computes the bias: a program has a block of queries, a block of keys
and some windows of all images. Sums leave as parts, which torch adds in one order. No matrix of scores is stored,
except the gradient of the bias.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from trueness.optimized.attention.cuda.common import (
    LOG2E,
    SMALL,
    bias_at,
    block_at,
    both,
    constants,
    into,
    keep,
    moved,
    onto,
    place_for,
    shape,
    split,
    store,
    stored,
    tile,
    times,
    times_both,
    vector,
    weights,
)

SPLITS = 4  # parts in which the windows of one image and head are summed
BIAS = {"ROWS": 32, "COLUMNS": 32, "num_warps": 8}  # of the kernel of the bias alone
PROGRAMS = 1024  # of the bias: so many parts that about as many programs have work

Tensor = torch.Tensor


@triton.jit
def queries_kernel(
    grad, qkv, time, bias, dqkv, stats, dtime, dbias, scale, columns, width, count, channels, heads,
    WINDOW: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr,
    A: tl.constexpr, B: tl.constexpr, TIME: tl.constexpr, SPLITS: tl.constexpr, PRECISION: tl.constexpr,
    UP: tl.constexpr,
):  # fmt: skip
    """dq of ROWS queries of every SPLITS-th window of one head and image; grid (TOKENS / ROWS SPLITS, heads, images).

    stats  (images, heads, windows, TOKENS, 3) of every row: the largest score, 1 / Σ 2^(score − largest), kept apart
           because large scores would round it away in one logarithm, and rowsum(P ∘ dP)
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
        t, start, token = block_at(window, columns, width, block * ROWS, WINDOW, ROWS)
        s, begin, other = block_at(window, columns, width, 0, WINDOW, TOKENS)
        valid, seen = t < COUNT, s < COUNT
        read, keys = qkv + start * three, qkv + begin * three + channels
        q = tile(read, token, three, valid, WIDTH, 0, A, UP)
        g = tile(grad + start * channels, token, channels, valid, WIDTH, 0, A, UP)
        k = tile(keys, other, three, seen, WIDTH, 0, A, UP)
        v = tile(keys + channels, other, three, seen, WIDTH, 0, A, UP)
        if TIME:
            q = (q + vector(time, moment, WIDTH, 0, A)[None, :]).to(q.dtype)
            v_sum += tl.sum(g.to(tl.float32), 0)
        scores, dp = times(q, k, 1, PRECISION), times(g, v, 1, PRECISION)
        if B > 0:
            q_b = tile(read, token, three, valid, WIDTH, A, B, UP)
            g_b = tile(grad + start * channels, token, channels, valid, WIDTH, A, B, UP)
            k_b = tile(keys, other, three, seen, WIDTH, A, B, UP)
            if TIME:
                q_b = (q_b + vector(time, moment, WIDTH, A, B)[None, :]).to(q_b.dtype)
                v_sum_b += tl.sum(g_b.to(tl.float32), 0)
            scores += times(q_b, k_b, 1, PRECISION)
            dp += times(g_b, tile(keys + channels, other, three, seen, WIDTH, A, B, UP), 1, PRECISION)
        scores = scores * (scale * LOG2E) + bias_at(bias, head, query, key, COUNT)
        largest = tl.max(scores, 1)
        p = tl.exp2(scores - largest[:, None])
        total = tl.sum(p, 1)
        p = p / total[:, None]
        delta = tl.sum(p * dp, 1)
        ds = p * (dp - delta[:, None])
        total_bias += ds
        rows = stats + ((image * heads + head) * count + window) * (3 * TOKENS)
        store(rows, t, largest, 1 / total, delta)
        ds = ds.to(k.dtype)
        dq = onto(ds, k, 1, PRECISION) * scale
        keep(dqkv + start * three, dq, token, three, valid, WIDTH, 0, A)
        if TIME:
            q_sum += tl.sum(dq, 0)
        if B > 0:
            dq = onto(ds, k_b, 1, PRECISION) * scale
            keep(dqkv + start * three, dq, token, three, valid, WIDTH, A, B)
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
def blocks_queries_kernel(
    grad, qkv, time, bias, dqkv, stats, dtime, scale, columns, width, count, channels, heads,
    WINDOW: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr,
    A: tl.constexpr, B: tl.constexpr, TIME: tl.constexpr, PRECISION: tl.constexpr, UP: tl.constexpr,
):  # fmt: skip
    """dq of ROWS queries of one window, head and image, COLUMNS keys at a time; grid (windows TOKENS / ROWS, heads,
    images).

    The keys pass twice: first for ``stats``, as of ``queries_kernel``, then for dq.
    dtime  (images, windows TOKENS / ROWS, 2, C) receives this program's part
    """
    COUNT: tl.constexpr = WINDOW * WINDOW
    BLOCKS: tl.constexpr = TOKENS // ROWS
    window, block = tl.program_id(0) // BLOCKS, tl.program_id(0) % BLOCKS
    head, image = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    t, start, token = block_at(window, columns, width, block * ROWS, WINDOW, ROWS)
    valid = t < COUNT
    three = 3 * channels
    moment = image * 2 * channels + head * WIDTH
    first = image * count * COUNT
    keys = qkv + first * three + head * WIDTH + channels
    back = grad + (first + start) * channels + head * WIDTH
    q, q_b = moved(
        qkv + (first + start) * three + head * WIDTH, token, three, valid, time, moment, WIDTH, A, B, TIME, UP
    )
    g, g_b = both(back, token, channels, valid, WIDTH, A, B, UP)
    largest = tl.full((ROWS,), float("-inf"), tl.float32)
    total, delta = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32)
    for i in range(0, COUNT, COLUMNS):
        s, begin, key = block_at(window, columns, width, i, WINDOW, COLUMNS)
        k, k_b = both(keys + begin * three, key, three, s < COUNT, WIDTH, A, B, UP)
        scores = times_both(q, q_b, k, k_b, B, PRECISION) * (scale * LOG2E) + bias_at(bias, head, t, s, COUNT)
        v, v_b = both(keys + begin * three + channels, key, three, s < COUNT, WIDTH, A, B, UP)
        dp = times_both(g, g_b, v, v_b, B, PRECISION)
        more = tl.maximum(largest, tl.max(scores, 1))
        shrink = tl.exp2(largest - more)
        p = tl.exp2(scores - more[:, None])
        total = total * shrink + tl.sum(p, 1)
        delta = delta * shrink + tl.sum(p * dp, 1)
        largest = more
    inverse = 1 / total
    delta *= inverse
    rows = stats + ((image * heads + head) * count + window) * (3 * TOKENS)
    store(rows, t, largest, inverse, delta)
    dq = tl.zeros((ROWS, A), tl.float32)
    if B > 0:
        dq_b = tl.zeros((ROWS, B), tl.float32)
    for i in range(0, COUNT, COLUMNS):
        s, begin, key = block_at(window, columns, width, i, WINDOW, COLUMNS)
        k, k_b = both(keys + begin * three, key, three, s < COUNT, WIDTH, A, B, UP)
        scores = times_both(q, q_b, k, k_b, B, PRECISION) * (scale * LOG2E) + bias_at(bias, head, t, s, COUNT)
        v, v_b = both(keys + begin * three + channels, key, three, s < COUNT, WIDTH, A, B, UP)
        dp = times_both(g, g_b, v, v_b, B, PRECISION)
        ds = (weights(scores, largest, inverse) * (dp - delta[:, None])).to(k.dtype)
        dq += onto(ds, k, 1, PRECISION)
        if B > 0:
            dq_b += onto(ds, k_b, 1, PRECISION)
    dq *= scale
    there = dqkv + (first + start) * three + head * WIDTH
    keep(there, dq, token, three, valid, WIDTH, 0, A)
    if TIME:
        dtime += (image * tl.num_programs(0) + tl.program_id(0)) * 2 * channels + head * WIDTH
        channel = tl.arange(0, A)
        tl.store(dtime + channel, tl.sum(dq, 0), mask=channel < WIDTH)
        tl.store(dtime + channels + channel, tl.sum(g.to(tl.float32), 0), mask=channel < WIDTH)
    if B > 0:
        dq_b *= scale
        keep(there, dq_b, token, three, valid, WIDTH, A, B)
        if TIME:
            rest = A + tl.arange(0, B)
            tl.store(dtime + rest, tl.sum(dq_b, 0), mask=rest < WIDTH)
            tl.store(dtime + channels + rest, tl.sum(g_b.to(tl.float32), 0), mask=rest < WIDTH)


@triton.jit
def keys_kernel(
    grad, qkv, time, bias, dqkv, stats, scale, columns, width, count, channels, heads,
    WINDOW: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr,
    A: tl.constexpr, B: tl.constexpr, TIME: tl.constexpr, PRECISION: tl.constexpr, UP: tl.constexpr,
):  # fmt: skip
    """dk and dv of ROWS keys of one window, head and image, COLUMNS queries at a time; grid (windows TOKENS / ROWS,
    heads, images)."""
    COUNT: tl.constexpr = WINDOW * WINDOW
    BLOCKS: tl.constexpr = TOKENS // ROWS
    window, block = tl.program_id(0) // BLOCKS, tl.program_id(0) % BLOCKS
    head, image = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    t, start, token = block_at(window, columns, width, block * ROWS, WINDOW, ROWS)
    valid = t < COUNT
    three = 3 * channels
    moment = image * 2 * channels + head * WIDTH
    first = image * count * COUNT
    keys = qkv + (first + start) * three + head * WIDTH + channels
    there = dqkv + (first + start) * three + head * WIDTH + channels
    rows = stats + ((image * heads + head) * count + window) * (3 * TOKENS)
    k, k_b = both(keys, token, three, valid, WIDTH, A, B, UP)
    v, v_b = both(keys + channels, token, three, valid, WIDTH, A, B, UP)
    dk, dv = tl.zeros((ROWS, A), tl.float32), tl.zeros((ROWS, A), tl.float32)
    if B > 0:
        dk_b, dv_b = tl.zeros((ROWS, B), tl.float32), tl.zeros((ROWS, B), tl.float32)
    for i in range(0, COUNT, COLUMNS):
        s, begin, other = block_at(window, columns, width, i, WINDOW, COLUMNS)
        seen = s < COUNT
        read = qkv + (first + begin) * three + head * WIDTH
        q, q_b = moved(read, other, three, seen, time, moment, WIDTH, A, B, TIME, UP)
        largest, inverse, delta = stored(rows, s)
        scores = times_both(q, q_b, k, k_b, B, PRECISION) * (scale * LOG2E) + bias_at(bias, head, s, t, COUNT)
        p = weights(scores, largest, inverse)
        back = grad + (first + begin) * channels + head * WIDTH
        g, g_b = both(back, other, channels, seen, WIDTH, A, B, UP)
        turned = tl.trans(p.to(k.dtype))
        dv += onto(turned, g, 1, PRECISION)
        if B > 0:
            dv_b += onto(turned, g_b, 1, PRECISION)
        dp = times_both(g, g_b, v, v_b, B, PRECISION)
        ds = tl.trans((p * (dp - delta[:, None])).to(k.dtype))
        dk += onto(ds, q, 1, PRECISION)
        if B > 0:
            dk_b += onto(ds, q_b, 1, PRECISION)
    keep(there + channels, dv, token, three, valid, WIDTH, 0, A)
    keep(there, dk * scale, token, three, valid, WIDTH, 0, A)
    if B > 0:
        keep(there + channels, dv_b, token, three, valid, WIDTH, A, B)
        keep(there, dk_b * scale, token, three, valid, WIDTH, A, B)


@triton.jit
def bias_kernel(
    grad, qkv, time, bias, stats, dbias, scale, columns, width, count, channels, heads, pairs,
    WINDOW: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr,
    A: tl.constexpr, B: tl.constexpr, TIME: tl.constexpr, PRECISION: tl.constexpr, UP: tl.constexpr,
):  # fmt: skip
    """dB of ROWS queries and COLUMNS keys of one head, over some of the ``pairs`` of an image and a window.

    grid (TOKENS / ROWS TOKENS / COLUMNS, heads, splits); dbias (splits, heads, w², w²) receives this program's part
    """
    COUNT: tl.constexpr = WINDOW * WINDOW
    BLOCKS: tl.constexpr = TOKENS // COLUMNS
    row, column = tl.program_id(0) // BLOCKS * ROWS, tl.program_id(0) % BLOCKS * COLUMNS
    head = tl.program_id(1).to(tl.int64)
    three = 3 * channels
    query, other = row + tl.arange(0, ROWS), column + tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for pair in range(tl.program_id(2), pairs, tl.num_programs(2)):
        image, window = (pair // count).to(tl.int64), pair % count
        t, start, token = block_at(window, columns, width, row, WINDOW, ROWS)
        s, begin, key = block_at(window, columns, width, column, WINDOW, COLUMNS)
        rows = stats + ((image * heads + head) * count + window) * (3 * TOKENS)
        largest, inverse, delta = stored(rows, t)
        moment = image * 2 * channels + head * WIDTH
        first = image * count * COUNT
        read = qkv + (first + start) * three + head * WIDTH
        keys = qkv + (first + begin) * three + head * WIDTH + channels
        q, q_b = moved(read, token, three, t < COUNT, time, moment, WIDTH, A, B, TIME, UP)
        k, k_b = both(keys, key, three, s < COUNT, WIDTH, A, B, UP)
        scores = times_both(q, q_b, k, k_b, B, PRECISION) * (scale * LOG2E) + bias_at(bias, head, t, s, COUNT)
        p = weights(scores, largest, inverse)
        back = grad + (first + start) * channels + head * WIDTH
        g, g_b = both(back, token, channels, t < COUNT, WIDTH, A, B, UP)
        v, v_b = both(keys + channels, key, three, s < COUNT, WIDTH, A, B, UP)
        dp = times_both(g, g_b, v, v_b, B, PRECISION)
        total += p * (dp - delta[:, None])
    at = ((tl.program_id(2).to(tl.int64) * heads + head) * COUNT + query)[:, None] * COUNT + other[None, :]
    tl.store(dbias + at, total, mask=(query < COUNT)[:, None] & (other < COUNT)[None, :])


class Plan(NamedTuple):
    """How the backward takes a window: rows and columns of scores at a time, of ``tokens``, a multiple of both.

    in_blocks  whether a program of dq has one block of one window, and the bias is another kernel's; float32 is then
               multiplied plainly, since three tf32 of every operand would be spilled
    """

    tokens: int
    rows: int
    columns: int
    warps: int
    in_blocks: bool = False


def plan_of(window: int, width: int, dtype: torch.dtype) -> Plan:
    """No kernel of docs/kernels.md spills with these; of float32, 5 × 5 windows and a width of 128 do, a little."""
    area, tokens, (whole, rest), single = window * window, shape(window)[0], split(width), dtype == torch.float32
    if tokens == 16:
        return Plan(tokens, tokens, tokens, 4)
    if area <= SMALL and whole <= 64 and not rest:
        return Plan(tokens, 16, 32, 4 if tokens < SMALL else 8) if single else Plan(tokens, 32, tokens, 4)
    padded, narrow = triton.cdiv(area, 32) * 32, rest > 0 or (single and whole > 64)
    return Plan(padded, 16 if single and whole > 64 and not rest else 32, 16 if narrow else 32, 8, in_blocks=True)


def constants_of(plan: Plan, window: int, width: int, dtype: torch.dtype) -> dict[str, object]:
    """The constexpr arguments that the kernels of the backward share"""
    known = constants(window, width, dtype)
    del known["GROUP"]
    known |= {"TOKENS": plan.tokens, "ROWS": plan.rows, "COLUMNS": plan.columns}
    return known | ({"PRECISION": "ieee"} if plan.in_blocks else {})


def backward(
    grad: Tensor, qkv: Tensor, time: Tensor | None, bias: Tensor, window: int, heads: int
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Gradients of qkv, time and bias; parts are added in one order."""
    batch, height, width, three = qkv.shape
    channels, columns = three // 3, width // window
    count, area = (height // window) * columns, window * window
    plan = plan_of(window, channels // heads, qkv.dtype)
    blocks, squares = plan.tokens // plan.rows, (plan.tokens // BIAS["ROWS"]) ** 2
    splits = min(SPLITS, count)
    parts = min(batch * count, max(1, PROGRAMS // (heads * squares))) if plan.in_blocks else batch * splits
    options: dict[str, Any] = {"dtype": torch.float32, "device": qkv.device}
    dqkv = torch.empty(qkv.shape, dtype=qkv.dtype, device=qkv.device)
    stats = torch.empty(batch, heads, count, plan.tokens, 3, **options)
    time_parts = (count if plan.in_blocks else splits) * blocks
    dtime = torch.empty(batch, time_parts, 2, channels if time is not None else 0, **options)
    dbias = torch.empty(parts, heads, area, area, **options)
    place = place_for(dqkv)
    if dqkv.numel():
        time_or_bias = bias if time is None else time
        given = [a.contiguous() for a in (grad, qkv, time_or_bias, bias)]
        numbers = (1 / math.sqrt(channels // heads), columns, width, count, channels, heads)
        known = constants_of(plan, window, channels // heads, qkv.dtype)
        known |= {"TIME": time is not None, "num_warps": plan.warps, "num_stages": 1}
        if plan.in_blocks:
            blocks_queries_kernel[(count * blocks, heads, batch)](*given, place, stats, dtime, *numbers, **known)
            bias_kernel[(squares, heads, parts)](*given, stats, dbias, *numbers, batch * count, **(known | BIAS))
        else:
            queries_kernel[(splits * blocks, heads, batch)](
                *given, place, stats, dtime, dbias, *numbers, SPLITS=splits, **known
            )
        keys_kernel[(count * blocks, heads, batch)](*given, place, stats, *numbers, **known)
    return into(dqkv, place), None if time is None else dtime.sum(1), dbias.sum(0)
