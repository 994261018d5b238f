"""The Triton kernels of random features: φ itself, products with φ and φᵀ, and the Gram matrix, φ never stored.

    φ_nj = cos 2πu_nj,  u = x W/2π + b/2π  in turns        (optimized/kernels/sincos.py: reduced without error)

A program makes a tile of rows × features of u, takes the cosine in registers and uses it up. Where a sum runs over
rows or features it is cut into slabs, whose number follows from the sizes alone; every slab writes its partial sum and
torch adds them up: no atomics, the same bits every time and on every device. Offsets are 64-bit, arithmetic is float32.
Up to 16 dimensions products are fused multiply-adds in float32 ("ieee"); beyond, matrix instructions of three TF32
products ("tf32x3"), which keep 22 bits of every factor. One TF32 product keeps 11, and is used only on request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from trueness.optimized._lib.dtypes import HALVES
from trueness.optimized.kernels.sincos import SINE

SMALL = 16  # dimensions up to which no matrix instruction is needed
PROGRAMS = 512  # about two waves of an H100; a constant, so that sums are cut the same everywhere
FAR = 2**24  # elements between rows up to which offsets within a tile fit 32 bits

S0, S1, S2, S3, S4 = (tl.constexpr(c) for c in SINE)


@triton.jit
def _quarter(t):
    square = t * t
    return t * ((((S4 * square + S3) * square + S2) * square + S1) * square + S0)


@triton.jit
def cosine(turns):
    size = tl.abs(turns)
    return _quarter(tl.abs(size - tl.floor(size) - 0.5) - 0.25)


@triton.jit
def sine(turns):
    size = tl.abs(turns)
    part = size - tl.floor(size)
    t = tl.maximum(tl.minimum(part, 0.5 - part), part - 1.0)
    return _quarter(tl.where(turns < 0, -t, t))


@triton.jit
def loaded(source, stride, rows, columns, n, width):
    """A tile of a matrix whose rows lie ``stride`` apart, in float32, 0 outside of (n, width)."""
    mask = (rows < n)[:, None] & (columns < width)[None, :]
    return tl.load(source + (rows[:, None] * stride + columns[None, :]), mask=mask, other=0.0).to(tl.float32)


@triton.jit
def left_of(length, start, BLOCK: tl.constexpr):
    """How much of a block at ``start`` lies inside: 32-bit, as are offsets within a tile; where it begins is 64-bit."""
    return tl.minimum(length - start, BLOCK).to(tl.int32)


@triton.jit
def angles(
    x, x_row, w, b, n, features, count, d, ROWS: tl.constexpr, FEATURES: tl.constexpr, K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """u of one tile in turns, x and w, b at its corner, n and features what is left there; 0 where there is none."""
    rows, columns, k = tl.arange(0, ROWS), tl.arange(0, FEATURES), tl.arange(0, K)
    turns = tl.zeros((ROWS, FEATURES), tl.float32)
    for start in range(0, d, K):
        points = loaded(x + start, x_row, rows, k, n, d - start)
        frequencies = loaded(w, count, k, columns, d - start, features)
        turns = tl.dot(points, frequencies, turns, input_precision=PRECISION)
        w += K * count
    return turns + tl.load(b + columns, mask=columns < features, other=0.0)[None, :]


@triton.jit
def pull_kernel(
    x, v, w, b, out, n, p, features, d, x_row, v_row, slab,
    ROWS: tl.constexpr, FEATURES: tl.constexpr, K: tl.constexpr, P: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """φᵀv of one slab of rows, as (slab, p, features); for P = 1 without a matrix instruction."""
    column = tl.program_id(0).to(tl.int64) * FEATURES
    part = tl.program_id(1).to(tl.int64)
    vector = tl.program_id(2).to(tl.int64) * P
    columns, vectors = tl.arange(0, FEATURES), tl.arange(0, P)
    wide, high = left_of(features, column, FEATURES), left_of(p, vector, P)
    total = tl.zeros((ROWS if P == 1 else P, FEATURES), tl.float32)
    for start in range(part * slab, tl.minimum(part * slab + slab, n), ROWS):
        tall = left_of(n, start, ROWS)
        turns = angles(
            x + start * x_row, x_row, w + column, b + column, tall, wide, features, d, ROWS, FEATURES, K, PRECISION
        )
        phi = cosine(turns)
        given = loaded(v + start * v_row + vector, v_row, tl.arange(0, ROWS), vectors, tall, high)
        if P == 1:
            total += given * phi
        else:
            total = tl.dot(tl.trans(given), phi, total, input_precision=PRECISION)
    if P == 1:
        total = tl.sum(total, 0)[None, :]
    mask = (vectors < high)[:, None] & (columns < wide)[None, :]
    out += (part * p + vector) * features + column
    tl.store(out + (vectors[:, None] * features + columns[None, :]), total, mask=mask)


@triton.jit
def push_kernel(
    x, s, w, b, out, n, p, features, d, x_row, slab,
    ROWS: tl.constexpr, FEATURES: tl.constexpr, K: tl.constexpr, P: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """φ s of one slab of features, as (slab, n, p); s is given as (p, features)."""
    row = tl.program_id(0).to(tl.int64) * ROWS
    part = tl.program_id(1).to(tl.int64)
    vector = tl.program_id(2).to(tl.int64) * P
    rows, columns, vectors = tl.arange(0, ROWS), tl.arange(0, FEATURES), tl.arange(0, P)
    tall, high = left_of(n, row, ROWS), left_of(p, vector, P)
    total = tl.zeros((ROWS, FEATURES if P == 1 else P), tl.float32)
    for start in range(part * slab, tl.minimum(part * slab + slab, features), FEATURES):
        wide = left_of(features, start, FEATURES)
        turns = angles(
            x + row * x_row, x_row, w + start, b + start, tall, wide, features, d, ROWS, FEATURES, K, PRECISION
        )
        phi = cosine(turns)
        if P == 1:
            total += phi * loaded(s + vector * features + start, features, vectors, columns, high, wide)
        else:
            place = s + vector * features + start + (columns[:, None] + vectors[None, :] * features)
            given = tl.load(place, mask=(columns < wide)[:, None] & (vectors < high)[None, :], other=0.0)
            total = tl.dot(phi, given, total, input_precision=PRECISION)
    if P == 1:
        total = tl.sum(total, 1)[:, None]
    mask = (rows < tall)[:, None] & (vectors < high)[None, :]
    out += (part * n + row) * p + vector
    tl.store(out + (rows[:, None] * p + vectors[None, :]), total, mask=mask)


@triton.jit
def features_kernel(
    x, w, b, scales, out, n, features, d, x_row, out_row,
    ROWS: tl.constexpr, FEATURES: tl.constexpr, K: tl.constexpr, PAIRED: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """scale · cos 2πu, and scale · sin 2πu in the columns that follow where PAIRED."""
    row = tl.program_id(0).to(tl.int64) * ROWS
    column = tl.program_id(1).to(tl.int64) * FEATURES
    rows, columns = tl.arange(0, ROWS), tl.arange(0, FEATURES)
    tall, wide = left_of(n, row, ROWS), left_of(features, column, FEATURES)
    turns = angles(
        x + row * x_row, x_row, w + column, b + column, tall, wide, features, d, ROWS, FEATURES, K, PRECISION
    )
    scale = tl.load(scales + column + columns, mask=columns < wide, other=0.0)[None, :]
    mask = (rows < tall)[:, None] & (columns < wide)[None, :]
    place = out + row * out_row + column + (rows[:, None] * out_row + columns[None, :])
    tl.store(place, cosine(turns) * scale, mask=mask)
    if PAIRED:
        tl.store(place + features, sine(turns) * scale, mask=mask)


@triton.jit
def gram_kernel(
    x, y, w, b, out, n, m, features, d, x_row, y_row, scale,
    ROWS: tl.constexpr, FEATURES: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """scale · φ(x) φ(y)ᵀ, a tile of ROWS × ROWS; both φ are made again for every tile."""
    left = tl.program_id(0).to(tl.int64) * ROWS
    right = tl.program_id(1).to(tl.int64) * ROWS
    rows, columns = tl.arange(0, ROWS), tl.arange(0, FEATURES)
    tall, broad = left_of(n, left, ROWS), left_of(m, right, ROWS)
    x += left * x_row
    y += right * y_row
    total = tl.zeros((ROWS, ROWS), tl.float32)
    for start in range(0, features, FEATURES):
        wide = tl.minimum(features - start, FEATURES)
        phi = cosine(angles(x, x_row, w, b, tall, wide, features, d, ROWS, FEATURES, K, PRECISION))
        phi = tl.where((columns < wide)[None, :], phi, 0.0)  # cos 0 = 1 where there is no feature
        psi = cosine(angles(y, y_row, w, b, broad, wide, features, d, ROWS, FEATURES, K, PRECISION))
        total = tl.dot(phi, tl.trans(psi), total, input_precision=PRECISION)
        w += FEATURES
        b += FEATURES
    mask = (rows < tall)[:, None] & (rows < broad)[None, :]
    out += left * m + right
    tl.store(out + (rows[:, None] * m + rows[None, :]), total * scale, mask=mask)


# -- launching --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tile:
    """What one program holds, found by compiling: larger tiles spill registers when TF32 is taken apart.

    rows, features  of a tile of angles
    k               dimensions of one product x W, going forward and going back
    vectors         columns of v, or of ḡ, at a time
    dimensions      of x̄ or W̄
    """

    precision: str
    rows: int = 64
    features: int = 32
    k: tuple[int, int] = (32, 16)
    vectors: tuple[int, int] = (16, 16)
    dimensions: int = 64
    least: int = 16  # of an axis of a matrix instruction

    def columns(self, p: int, backward: bool = False) -> int:
        """How many columns of v one program takes: 1, or a power of two that a matrix instruction has."""
        return 1 if p == 1 else min(self.vectors[backward], max(self.least, triton.next_power_of_2(p)))

    def width(self, d: int) -> int:
        """How many of ``d`` dimensions of a gradient one program holds."""
        return min(self.dimensions, max(self.least, triton.next_power_of_2(d)))

    def constants(self, backward: bool = False, **more: Any) -> dict[str, Any]:
        tile = {"ROWS": self.rows, "FEATURES": self.features, "K": self.k[backward], "PRECISION": self.precision}
        return {**tile, **more}

    @property
    def options(self) -> dict[str, int]:
        return {"num_warps": 4, "num_stages": 1}

    def slabs(self, length: int, block: int, others: int) -> tuple[int, int]:
        """(how many slabs, the length of one), so that there are about PROGRAMS programs, each of whole blocks."""
        blocks = triton.cdiv(length, block)
        wanted = min(max(PROGRAMS // max(others, 1), 1), max(blocks, 1))
        size = max(triton.cdiv(blocks, wanted), 1) * block
        return max(triton.cdiv(length, size), 1), size


def tile(x: torch.Tensor, w: torch.Tensor, p: int = 1, tf32: bool = False) -> Tile:
    """For points of few dimensions IEEE products, for more of them TF32 taken apart.

    Interpreted, about half of every axis: so that each has a second program and a partial tile at any size.
    """
    if interpreted():
        rows, features, k, vectors = (_half(n) for n in (x.shape[0], w.shape[1], x.shape[1], p))
        return Tile("ieee", min(rows, 64), min(features, 32), (k, k), (vectors, vectors), min(k, 64), 2)
    return compiled(x.shape[1], tf32)


def compiled(d: int, tf32: bool = False) -> Tile:
    """What is compiled for ``d`` dimensions."""
    if d <= SMALL:
        return Tile("tf32" if tf32 else "ieee", k=(16, 16), dimensions=16)
    return Tile("tf32" if tf32 else "tf32x3")


def _half(n: int) -> int:
    return max(triton.next_power_of_2(n) // 2, 2)


def interpreted() -> bool:
    return bool(triton.knobs.runtime.interpret)


def prepared(x: torch.Tensor) -> torch.Tensor:
    """What a kernel reads by rows; the interpreter flushes bfloat16 subnormals, so there torch widens them first."""
    x = x.float() if interpreted() and x.dtype == torch.bfloat16 else x
    return x if x.stride(0) < FAR and (x.shape[1] <= 1 or x.stride(1) == 1) else x.contiguous()


def pull(x: torch.Tensor, v: torch.Tensor, w: torch.Tensor, b: torch.Tensor, t: Tile) -> torch.Tensor:
    """(φᵀv)ᵀ (p, D) in float32; w and b in turns and in float32."""
    x, v = prepared(x), prepared(v)
    (n, d), p, count = x.shape, v.shape[1], w.shape[1]
    width = t.columns(p)
    across = (triton.cdiv(count, t.features), triton.cdiv(p, width))
    parts, size = t.slabs(n, t.rows, across[0] * across[1])
    out = torch.empty((parts, p, count), dtype=torch.float32, device=x.device)
    pull_kernel[(across[0], parts, across[1])](
        x, v, w, b, out, n, p, count, d, x.stride(0), v.stride(0), size, **t.constants(P=width), **t.options
    )  # fmt: skip
    return out[0] if parts == 1 else out.sum(0)


def push(x: torch.Tensor, s: torch.Tensor, w: torch.Tensor, b: torch.Tensor, t: Tile) -> torch.Tensor:
    """φ s (n, p) in float32; s (p, D)."""
    x, s = prepared(x), s.contiguous()
    (n, d), (p, count) = x.shape, s.shape
    width = t.columns(p)
    across = (triton.cdiv(n, t.rows), triton.cdiv(p, width))
    parts, size = t.slabs(count, t.features, across[0] * across[1])
    out = torch.empty((parts, n, p), dtype=torch.float32, device=x.device)
    push_kernel[(across[0], parts, across[1])](
        x, s, w, b, out, n, p, count, d, x.stride(0), size, **t.constants(P=width), **t.options
    )  # fmt: skip
    return out[0] if parts == 1 else out.sum(0)


def features(
    x: torch.Tensor,
    w: torch.Tensor,
    b: torch.Tensor,
    scales: torch.Tensor,
    paired: bool,
    t: Tile,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """scale · cos 2πu (n, D), or with the sine beside it (n, 2 D), in the dtype of x."""
    dtype, given = x.dtype, prepared(x)
    (n, d), count = x.shape, w.shape[1]
    place = out if out is not None and (out.stride(1) == 1 or out.shape[1] <= 1) else None
    if place is None:
        place = torch.empty((n, 2 * count if paired else count), dtype=dtype, device=x.device)
    target = place.float() if interpreted() and place.element_size() == 2 else place
    features_kernel[(triton.cdiv(n, t.rows), triton.cdiv(count, t.features))](
        given, w, b, scales, target, n, count, d, given.stride(0), target.stride(0),
        **t.constants(PAIRED=paired), **t.options,
    )  # fmt: skip
    if target is not place:
        place.copy_(target)
    if out is not None and place is not out:
        return out.copy_(place)
    return place


def gram(x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, b: torch.Tensor, scale: float, t: Tile) -> torch.Tensor:
    """scale · φ(x) φ(y)ᵀ (n, m) in the dtype of x."""
    dtype, x, y = x.dtype, prepared(x), prepared(y)
    (n, d), m = x.shape, y.shape[0]
    half = dtype in HALVES
    out = torch.empty((n, m), dtype=torch.float32 if interpreted() and half else dtype, device=x.device)
    gram_kernel[(triton.cdiv(n, t.rows), triton.cdiv(m, t.rows))](
        x, y, w, b, out, n, m, w.shape[1], d, x.stride(0), y.stride(0), scale, **t.constants(), **t.options
    )  # fmt: skip
    return out.to(dtype)
