"""The Omega rule on CUDA, forward: the states chunk after chunk with M and S in registers, then all reads at once.

A chunk has C queries and R rows, each a key, a value and an error E: the tokens of the chunk and of the window before
it, or, for the gradient of every token, all pairs (token, age). With the weights that no memory enters
(optimized/atlas_memory/cuda/operator.py) it is

    E = K M − V        or −V for "dot", or X M − Y S − Z for "exact", where a triangular system was solved for X, Y, Z
    M' = a_C M − f_C S − Kᵀ (g ∘ E),    S' = b_C S + Kᵀ (r ∘ E)        grid (B H, V / BV): columns of M never meet
    read = a ∘ Q M − f ∘ Q S − (G ∘ Q Kᵀ) E                               grid (B H N, C / BC, V / BV)

Rows come in blocks of BR, so that a window may be of any length; lengths are filled up to powers of two with zeros.
States are tuples of blocks of BP features: 192 is three times 64. Where there are several, K M reads them again from
where they were just written, because operands that stay for all rows would take all registers. Arithmetic is float32,
offsets are 64-bit. No product takes a transposed accumulator: tiles are read transposed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

EXACT = 2  # MODE: 0 "dot", 1 "l2", 2 "exact"


class Layout(NamedTuple):
    """The lengths of a call."""

    batch: int
    tokens: int
    heads: int
    width: int  # P
    values: int  # V
    chunks: int  # N
    size: int  # C
    rows: int  # R
    window: int  # c
    mode: int

    @property
    def lengths(self) -> dict[str, int]:
        """What every kernel is compiled for."""
        return {"P": self.width, "V": self.values, "C": self.size, "R": self.rows, "WINDOW": self.window} | {
            "MODE": self.mode
        }


def interpreted() -> bool:
    return bool(triton.knobs.runtime.interpret)


def power(length: int, most: int, few: int) -> int:
    """The power of two that holds ``length``, at least 16 as a product of matrices asks for, and at most ``most``.

    The interpreter multiplies blocks of any size: there it is at most ``few`` for lengths up to ``most``, so that short
    ones fill several blocks.
    """
    least, limit = (2, few if length <= most else most) if interpreted() else (16, most)
    return int(min(max(triton.next_power_of_2(length), least), limit))


def sequential(layout: Layout) -> tuple[dict[str, int], dict[str, int]]:
    """(tiles, options) of a program that carries states from chunk to chunk: what its registers hold without a spill"""
    width = layout.width
    few = width > 256 or 64 < width <= 128 or (layout.mode == EXACT and width <= 64)  # rows at a time
    tiles = {"BP": power(width, 64, 2), "BV": power(layout.values, 16 if width <= 128 else 8, 2)}
    tiles["BR"] = power(layout.rows, 16 if few else 32, 4)
    return tiles, {"num_warps": 8 if width > 256 else 4, "num_stages": 1}


def parallel(layout: Layout) -> tuple[dict[str, int], dict[str, int]]:
    """(tiles, options) of a program that looks at a part of one chunk."""
    tiles = {"BC": power(layout.size, 64, 2), "BR": power(layout.rows, 32, 4)}
    tiles |= {"BV": power(layout.values, 32, 2), "BK": power(layout.width, 32, 2)}
    return tiles, {"num_warps": 4, "num_stages": 2}


@triton.jit
def place_of(r, long, R: tl.constexpr, WINDOW: tl.constexpr, MODE: tl.constexpr):
    """Where row r of a chunk stands among the ``long`` keys and values from its first one, c − 1 before its tokens."""
    if MODE == 2:
        place = r // WINDOW - r % WINDOW + (WINDOW - 1)
    else:
        place = r
    return tl.where(r < R, place, long)


@triton.jit
def tile(base, rows, columns, stride, height, width):
    """The (rows, columns) tile, zero beyond height and width; ``base`` is of 64 bits, offsets from there of 32."""
    mask = (rows < height)[:, None] & (columns < width)[None, :]
    return tl.load(base + rows[:, None] * stride + columns[None, :], mask=mask, other=0.0)


@triton.jit
def turned(base, rows, columns, stride, height, width):
    """The transpose of the (rows, columns) tile, read as such."""
    mask = (rows < height)[None, :] & (columns < width)[:, None]
    return tl.load(base + rows[None, :] * stride + columns[:, None], mask=mask, other=0.0)


@triton.jit
def put(base, rows, columns, stride, height, width, value):
    mask = (rows < height)[:, None] & (columns < width)[None, :]
    tl.store(base + rows[:, None] * stride + columns[None, :], value, mask=mask)


@triton.jit
def vector(base, at, which, i, COUNT: tl.constexpr, LENGTH: tl.constexpr):
    """One of the COUNT vectors of a chunk, zero beyond its length."""
    return tl.load(base + (at * COUNT + which) * LENGTH + i, mask=i < LENGTH, other=0.0)


@triton.jit
def blocks(base, columns, P: tl.constexpr, V: tl.constexpr, BP: tl.constexpr):
    """Columns of a state (P, V), a tuple of blocks of BP features."""
    found = ()  # type: tuple[tl.tensor, ...]
    for first in tl.static_range(0, P, BP):
        found += (tile(base, first + tl.arange(0, BP), columns, V, P, V),)
    return found


@triton.jit
def put_blocks(base, columns, P: tl.constexpr, V: tl.constexpr, BP: tl.constexpr, M):
    for i in tl.static_range(len(M)):
        put(base, i * BP + tl.arange(0, BP), columns, V, P, V, M[i])


@triton.jit
def scaled(a, M):
    """a M"""
    found = ()  # type: tuple[tl.tensor, ...]
    for i in tl.static_range(len(M)):
        found += (a * M[i],)
    return found


@triton.jit
def mixed(a, M, b, S):
    """a M + b S"""
    found = ()  # type: tuple[tl.tensor, ...]
    for i in tl.static_range(len(M)):
        found += (a * M[i] + b * S[i],)
    return found


@triton.jit
def updated(M, base, rows, stride, height, P: tl.constexpr, BP: tl.constexpr, E, PRECISION: tl.constexpr):
    """M + Xᵀ E for rows of X (height, P)"""
    found = ()  # type: tuple[tl.tensor, ...]
    for i in tl.static_range(len(M)):
        X_t = turned(base, rows, i * BP + tl.arange(0, BP), stride, height, P).to(tl.float32)
        found += (M[i] + tl.dot(X_t, E, input_precision=PRECISION),)
    return found


@triton.jit
def product(
    base, rows, stride, height, M, kept, columns, P: tl.constexpr, V: tl.constexpr, BP: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """X M for rows of X (height, P); several blocks of M are read from where they are kept"""
    if len(M) == 1:
        X = tile(base, rows, tl.arange(0, BP), stride, height, P).to(tl.float32)
        found = tl.dot(X, M[0], input_precision=PRECISION)
    else:
        found = tl.zeros((rows.shape[0], columns.shape[0]), tl.float32)
        for first in range(0, P, BP):
            p = first + tl.arange(0, BP)
            X = tile(base, rows, p, stride, height, P).to(tl.float32)
            found += tl.dot(X, tile(kept, p, columns, V, P, V), input_precision=PRECISION)
    return found


@triton.jit
def states_kernel(
    k, v, lead, lag, memory, momentum, rows, ends, errors, kept_memory, kept_momentum, last_memory, last_momentum,
    T, H, N,
    P: tl.constexpr, V: tl.constexpr, C: tl.constexpr, R: tl.constexpr, WINDOW: tl.constexpr, MODE: tl.constexpr,
    BP: tl.constexpr, BV: tl.constexpr, BR: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0).to(tl.int64)
    cv = tl.program_id(1) * BV + tl.arange(0, BV)
    long = T + WINDOW - 1
    k += (head // H * long * H + head % H) * P
    if MODE != 2:
        v += (head // H * long * H + head % H) * V
    step = tl.full((), C, tl.int64) * H
    M = blocks(memory + head * P * V, cv, P, V, BP)
    S = blocks(momentum + head * P * V, cv, P, V, BP)
    for n in range(N):
        at = head * N + n
        put_blocks(kept_memory + at * P * V, cv, P, V, BP, M)
        put_blocks(kept_momentum + at * P * V, cv, P, V, BP, S)
        if len(M) > 1:
            tl.debug_barrier()  # before other threads read it
        a_end, b_end, f_end = tl.load(ends + at * 3), tl.load(ends + at * 3 + 1), tl.load(ends + at * 3 + 2)
        M_next = mixed(a_end, M, -f_end, S)
        S_next = scaled(b_end, S)
        left = long - n * C
        for start in range(0, R, BR):
            r = start + tl.arange(0, BR)
            place = place_of(r, left, R, WINDOW, MODE)
            if MODE == 2:
                E = -tile(v + at * R * V, r, cv, V, R, V)
                E += product(lead + at * R * P, r, P, R, M, kept_memory + at * P * V, cv, P, V, BP, PRECISION)
                E -= product(lag + at * R * P, r, P, R, S, kept_momentum + at * P * V, cv, P, V, BP, PRECISION)
            else:
                E = -tile(v, place, cv, H * V, left, V).to(tl.float32)
            if MODE == 1:
                E += product(k, place, H * P, left, M, kept_memory + at * P * V, cv, P, V, BP, PRECISION)
            put(errors + at * R * V, r, cv, V, R, V, E)
            g, up = vector(rows, at, 0, r, 2, R)[:, None], vector(rows, at, 1, r, 2, R)[:, None]
            M_next = updated(M_next, k, place, H * P, left, P, BP, -g * E, PRECISION)
            S_next = updated(S_next, k, place, H * P, left, P, BP, up * E, PRECISION)
        M, S = M_next, S_next
        k += step * P
        if MODE != 2:
            v += step * V
    put_blocks(last_memory + head * P * V, cv, P, V, BP, M)
    put_blocks(last_momentum + head * P * V, cv, P, V, BP, S)


@triton.jit
def reads_kernel(
    q, k, weights, columns, errors, kept_memory, kept_momentum, out, T, H, N,
    P: tl.constexpr, V: tl.constexpr, C: tl.constexpr, R: tl.constexpr, WINDOW: tl.constexpr, MODE: tl.constexpr,
    BC: tl.constexpr, BR: tl.constexpr, BV: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64)
    head, n = at // N, at % N
    c, cv = tl.program_id(1) * BC + tl.arange(0, BC), tl.program_id(2) * BV + tl.arange(0, BV)
    q += ((head // H * T + n * C) * H + head % H) * P
    k += ((head // H * (T + WINDOW - 1) + n * C) * H + head % H) * P
    out += ((head // H * T + n * C) * H + head % H) * V
    stop, left = tl.minimum(T - n * C, C).to(tl.int32), (T + WINDOW - 1 - n * C).to(tl.int32)
    by_M, by_S = tl.zeros((BC, BV), tl.float32), tl.zeros((BC, BV), tl.float32)
    for first in range(0, P, BK):
        p = first + tl.arange(0, BK)
        Q = tile(q, c, p, H * P, stop, P).to(tl.float32)
        by_M += tl.dot(Q, tile(kept_memory + at * P * V, p, cv, V, P, V), input_precision=PRECISION)
        by_S += tl.dot(Q, tile(kept_momentum + at * P * V, p, cv, V, P, V), input_precision=PRECISION)
    read = vector(columns, at, 0, c, 2, C)[:, None] * by_M - vector(columns, at, 1, c, 2, C)[:, None] * by_S
    for start in range(0, R, BR):
        r = start + tl.arange(0, BR)
        place = place_of(r, left, R, WINDOW, MODE)
        X = tl.zeros((BC, BR), tl.float32)
        for first in range(0, P, BK):
            p = first + tl.arange(0, BK)
            Q, K_t = tile(q, c, p, H * P, stop, P), turned(k, place, p, H * P, left, P)
            X += tl.dot(Q, K_t, input_precision=PRECISION)  # products of half formats are exact in float32
        X *= tile(weights + at * C * R, c, r, R, C, R)
        read -= tl.dot(X, tile(errors + at * R * V, r, cv, V, R, V), input_precision=PRECISION)
    put(out, c, cv, H * V, stop, V, read)


def loaded(x: torch.Tensor) -> torch.Tensor:
    """What a kernel reads: the interpreter is wrong on bfloat16, so there torch widens it first."""
    return x.float() if interpreted() and x.dtype == torch.bfloat16 else x


def empty(like: torch.Tensor, *shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.float32, device=like.device)


def forward(
    layout: Layout,
    tokens: tuple[torch.Tensor, ...],
    solved: tuple[torch.Tensor, ...],
    gates: tuple[torch.Tensor, ...],
    precision: str,
) -> tuple[torch.Tensor, ...]:
    """(reads, M, S, M and S at the start of every chunk (B, H, N, P, V), errors (B, H, N, R, V))

    tokens  q (B, T, H, P), k (B, T + c − 1, H, P), v (B, T + c − 1, H, V) or, for EXACT, Z (B, H, N, R, V) in float32,
            memory and momentum (B, H, P, V) in float32; all contiguous
    solved  X and Y (B, H, N, R, P) in float32, looked at for EXACT
    gates   weights (B, H, N, C, R), rows (B, H, N, 2, R), columns (B, H, N, 2, C), ends (B, H, N, 3), in float32
    """
    memory, momentum = tokens[3:]
    q, k, v = (loaded(x) for x in tokens[:3])
    weights, rows, columns, ends = gates
    B, T, H, P, V, N, C, R = layout[:8]
    out = torch.empty((B, T, H, V), dtype=torch.float32 if interpreted() else q.dtype, device=q.device)
    last = [empty(q, B, H, P, V) for _ in range(2)]
    kept = [empty(q, B, H, N, P, V) for _ in range(2)]
    errors = empty(q, B, H, N, R, V)
    common = {"T": T, "H": H, "N": N, **layout.lengths, "PRECISION": precision}
    if B * H:
        tiles, options = sequential(layout)
        states_kernel[(B * H, triton.cdiv(V, tiles["BV"]))](
            k, v, *solved, memory, momentum, rows, ends, errors, *kept, *last, **common, **tiles, **options
        )
        tiles, options = parallel(layout)
        reads_kernel[(B * H * N, triton.cdiv(C, tiles["BC"]), triton.cdiv(V, tiles["BV"]))](
            q, k, weights, columns, errors, *kept, out, **common, **tiles, **options
        )
    return (out.to(tokens[0].dtype), *last, *kept, errors)
