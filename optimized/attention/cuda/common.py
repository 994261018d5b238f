"""What the Triton kernels of windowed attention share: where tokens lie, products of tiles, the bias, and the shapes.

A width that is not a power of two is split: 72 = 64 + 16, of which 8 are used. Where a head has one part, the second
part is the first once more and is not looked at.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
SMALL = 64  # tokens of a window whose row of scores stays in registers

Tensor = torch.Tensor


@triton.jit
def tokens_at(window, columns, width, offset, WINDOW: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr):
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
def block_at(window, columns, width, offset, WINDOW: tl.constexpr, ROWS: tl.constexpr):
    """The same of ROWS tokens of one window"""
    _, t, start, token = tokens_at(window, columns, width, offset, WINDOW, ROWS, ROWS)
    return t, start, token


@triton.jit
def tile(pointer, token, stride, valid, WIDTH: tl.constexpr, START: tl.constexpr, N: tl.constexpr, UP: tl.constexpr):
    """Channels START … START + N of a head, of which WIDTH are; ``pointer`` is where the head begins."""
    channel = START + tl.arange(0, N)
    mask = valid[:, None] & (channel < WIDTH)[None, :]
    tile = tl.load(pointer + (token * stride)[:, None] + channel[None, :], mask=mask, other=0.0)
    return tile.to(tl.float32) if UP else tile


@triton.jit
def keep(pointer, value, token, stride, valid, WIDTH: tl.constexpr, START: tl.constexpr, N: tl.constexpr):
    channel = START + tl.arange(0, N)
    mask = valid[:, None] & (channel < WIDTH)[None, :]
    tl.store(pointer + (token * stride)[:, None] + channel[None, :], value, mask=mask)


@triton.jit
def vector(pointer, first, WIDTH: tl.constexpr, START: tl.constexpr, N: tl.constexpr):
    channel = START + tl.arange(0, N)
    return tl.load(pointer + first + channel, mask=channel < WIDTH, other=0.0)


@triton.jit
def batched(a, GROUP: tl.constexpr):
    """(GROUP n, m) as (GROUP, n, m), or as it is where there is one."""
    return tl.reshape(a, (GROUP, a.shape[0] // GROUP, a.shape[1])) if GROUP > 1 else a


@triton.jit
def flat(a, GROUP: tl.constexpr):
    return tl.reshape(a, (GROUP * a.shape[1], a.shape[2])) if GROUP > 1 else a


@triton.jit
def turned(a, GROUP: tl.constexpr):
    return tl.permute(a, (0, 2, 1)) if GROUP > 1 else tl.trans(a)


@triton.jit
def times(a, b, GROUP: tl.constexpr, PRECISION: tl.constexpr):
    """a bᵀ of (GROUP n, d) and (GROUP m, d), as (GROUP n, m)"""
    product = tl.dot(batched(a, GROUP), turned(batched(b, GROUP), GROUP), input_precision=PRECISION)
    return flat(product, GROUP)


@triton.jit
def onto(a, b, GROUP: tl.constexpr, PRECISION: tl.constexpr):
    """a b of (GROUP n, m) and (GROUP m, d)"""
    return flat(tl.dot(batched(a, GROUP), batched(b, GROUP), input_precision=PRECISION), GROUP)


@triton.jit
def bias_at(bias, head, query, key, COUNT: tl.constexpr):
    """B of rows of queries and columns of keys, times log₂ e; −∞ for keys beyond the window"""
    mask = (query < COUNT)[:, None] & (key < COUNT)[None, :]
    at = (head * COUNT + query)[:, None] * COUNT + key[None, :]
    value = tl.load(bias + at, mask=mask, other=0.0) * LOG2E
    return tl.where((key < COUNT)[None, :], value, float("-inf"))


@triton.jit
def both(
    pointer, token, stride, valid,
    WIDTH: tl.constexpr, A: tl.constexpr, B: tl.constexpr, UP: tl.constexpr,
):  # fmt: skip
    """Both parts of a head"""
    a = tile(pointer, token, stride, valid, WIDTH, 0, A, UP)
    b = a
    if B > 0:
        b = tile(pointer, token, stride, valid, WIDTH, A, B, UP)
    return a, b


@triton.jit
def moved(
    pointer, token, stride, valid, time, moment,
    WIDTH: tl.constexpr, A: tl.constexpr, B: tl.constexpr, TIME: tl.constexpr, UP: tl.constexpr,
):  # fmt: skip
    """Both parts of queries, with q_t"""
    a, b = both(pointer, token, stride, valid, WIDTH, A, B, UP)
    if TIME:
        a = (a + vector(time, moment, WIDTH, 0, A)[None, :]).to(a.dtype)
        if B > 0:
            b = (b + vector(time, moment, WIDTH, A, B)[None, :]).to(b.dtype)
    return a, b


@triton.jit
def times_both(a, a_b, c, c_b, B: tl.constexpr, PRECISION: tl.constexpr):
    """a cᵀ over both parts"""
    product = times(a, c, 1, PRECISION)
    if B > 0:
        product += times(a_b, c_b, 1, PRECISION)
    return product


@triton.jit
def store(rows, query, largest, inverse, delta):
    """Three numbers of every row of scores"""
    tl.store(rows + 3 * query, largest)
    tl.store(rows + 3 * query + 1, inverse)
    tl.store(rows + 3 * query + 2, delta)


@triton.jit
def stored(rows, query):
    return tl.load(rows + 3 * query), tl.load(rows + 3 * query + 1), tl.load(rows + 3 * query + 2)


@triton.jit
def weights(scores, largest, inverse):
    """The softmax of rows of scores that are computed again: 2^(score − largest) / Σ, the power at most 1.

    Another product may round large scores otherwise: without the bound their power is ∞, and ∞ · 0 is NaN.
    """
    power = tl.exp2(tl.minimum(scores - largest[:, None], 0.0, propagate_nan=tl.PropagateNan.ALL))
    return power * inverse[:, None]


def is_interpreted() -> bool:
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
    interpreted = is_interpreted()
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


def place_for(y: Tensor) -> Tensor:
    """Where a kernel writes: the interpreter truncates a bfloat16 store, so it writes float32, cast by torch."""
    return torch.empty_like(y, dtype=torch.float32) if is_interpreted() and y.element_size() == 2 else y


def into(y: Tensor, place: Tensor) -> Tensor:
    return y if place is y else y.copy_(place)
