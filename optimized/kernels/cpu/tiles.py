"""Tiles of cosines: what is in memory at a time, on how many threads, and the product φ(x)(φ(y)ᵀv) with its backward.

Angles are a matrix product into a scratch tile, and their cosine is taken in place there: by NumPy on the CPU, which is
several times as fast as torch and releases the interpreter. What is summed over points lies as (vectors, features),
the layout in which thin matrix products are fast. With several threads every one has rows, scratch and sums of its own
- torch's own threads would wait on each other at every tile - and the sums are added in a fixed order.
Nothing here knows of gradients: these functions run where none is recorded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from trueness.optimized._lib import matmul as products
from trueness.optimized._lib.dtypes import compute_dtype, upcast
from trueness.optimized._lib.threads import parallel

COSINES = 1 << 17  # of one tile: half a mebibyte in float32, so that a core's cache holds two
FEATURES = 512
DEEP = 16  # dimensions from which oneDNN is worth a call
THIN = 8  # inner length up to which a matrix product takes longer the shorter it is
WORTH = 1 << 21  # cosines from which threads of our own pay for themselves
PARTIAL = 1 << 19  # numbers that all threads' own sums may hold beyond the first's

Optional = torch.Tensor | None


@dataclass(frozen=True)
class Plan:
    """Rows and features of a tile, and the number of threads."""

    rows: int
    features: int
    threads: int


def plan(
    points: int, features: int, widest: int, device: torch.device, row_tile: int | None, feature_tile: int | None
) -> Plan:
    """Tiles of ``points`` × ``features`` cosines; ``widest`` is the longest row of whatever else a tile needs."""
    threads = torch.get_num_threads() if device.type == "cpu" and points * features >= WORTH else 1
    at_a_time = min(feature_tile or FEATURES, features)
    cosines = COSINES if device.type == "cpu" else 32 * COSINES
    cosines = min(cosines, max(2 * cosines // threads, 1 << 15))
    rows = row_tile or max(cosines // max(at_a_time, widest, 1), cosines >> 10, 1)
    return Plan(max(1, min(rows, points)), max(1, at_a_time), threads)


def slices(start: int, stop: int, size: int) -> list[slice]:
    """start … stop in slices of ``size``."""
    return [slice(at, min(at + size, stop)) for at in range(start, stop, size)]


def cosine(angles: torch.Tensor, out: torch.Tensor) -> None:
    """cos, written to ``out``, which may be ``angles``."""
    if angles.is_cuda:
        torch.cos(angles, out=out)
        return
    with np.errstate(invalid="ignore"):
        np.cos(angles.numpy(), out=out.numpy())


def sine(angles: torch.Tensor, out: torch.Tensor) -> None:
    """sin, written to ``out``, which may be ``angles``."""
    if angles.is_cuda:
        torch.sin(angles, out=out)
        return
    with np.errstate(invalid="ignore"):
        np.sin(angles.numpy(), out=out.numpy())


def filled(matrix: torch.Tensor, axis: int = 0) -> torch.Tensor:
    """Zeros beside 2 … 7 rows (or columns) of one factor of a product: with 8 it is computed in half of the time."""
    missing = THIN - matrix.shape[axis]
    if not 0 < missing < THIN - 1:
        return matrix
    shape = (missing, matrix.shape[1]) if axis == 0 else (matrix.shape[0], missing)
    return torch.cat([matrix, matrix.new_zeros(shape)], axis)


class Angles:
    """x W + b of tiles; points of few dimensions come ``filled``.

    oneDNN multiplies a tile in half of MKL's time, if W lies turned. It returns a tile of its own, so it is asked only
    for tiles that have a scratch tile's size and would be written there.
    """

    def __init__(self, w: torch.Tensor, b: Optional) -> None:
        self.w, self.b = filled(w), b
        self.turned = self.w.T.contiguous() if products.prefers(w) and w.shape[0] >= DEEP else None

    def __call__(self, x: torch.Tensor, tile: slice, place: torch.Tensor) -> torch.Tensor:
        """Of the features in ``tile``: in ``place``, or in memory of its own"""
        b = None if self.b is None else self.b[tile]
        if self.turned is not None and x.numel() * length(tile) >= products.SMALL:
            return products.pointwise(x, self.turned[tile], b)
        w = self.w[:, tile]
        return torch.mm(x, w, out=place) if b is None else torch.addmm(b, x, w, out=place)


class Scratch:
    """Memory for tiles of one shape or smaller ones."""

    def __init__(self, like: torch.Tensor, rows: int, columns: int) -> None:
        self.memory = torch.empty(rows * columns, dtype=compute_dtype(like.dtype), device=like.device)

    def tile(self, rows: int, columns: int) -> torch.Tensor:
        return self.memory[: rows * columns].view(rows, columns)


def length(at: slice) -> int:
    return int(at.stop) - int(at.start)


def zeros(like: torch.Tensor, *shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=compute_dtype(like.dtype), device=like.device)


def summed(parts: list[torch.Tensor]) -> torch.Tensor:
    """One after the other, in order."""
    for part in parts[1:]:
        parts[0].add_(part)
    return parts[0]


# -- the product ------------------------------------------------------------------------------------------------------


def pulled(y: torch.Tensor, v: torch.Tensor, w: torch.Tensor, b: torch.Tensor, by: Plan) -> torch.Tensor:
    """vᵀ cos(y W + b)  (p, D), in working precision; W and b are in it already."""

    angles = Angles(w, b)

    def work(start: int, stop: int) -> torch.Tensor:
        total, scratch = zeros(y, v.shape[1], w.shape[1]), Scratch(y, by.rows, by.features)
        for at in slices(start, stop, by.rows):
            points, vectors = filled(upcast(y[at]), 1), upcast(v[at]).T
            for tile in slices(0, w.shape[1], by.features):
                z = angles(points, tile, scratch.tile(length(at), length(tile)))
                cosine(z, z)
                total[:, tile].addmm_(vectors, z)
        return total

    return summed(parallel(work, y.shape[0], by.threads))


def pushed(
    x: torch.Tensor, total: torch.Tensor, w: torch.Tensor, b: torch.Tensor, by: Plan, out: torch.Tensor
) -> torch.Tensor:
    """cos(x W + b) totalᵀ  (n, p), rounded once into ``out``."""

    angles = Angles(w, b)

    def work(start: int, stop: int) -> None:
        scratch, sums = Scratch(x, by.rows, by.features), Scratch(x, by.rows, total.shape[0])
        for at in slices(start, stop, by.rows):
            points, result = filled(upcast(x[at]), 1), sums.tile(length(at), total.shape[0])
            for tile in slices(0, w.shape[1], by.features):
                z = angles(points, tile, scratch.tile(length(at), length(tile)))
                cosine(z, z)
                result.addmm_(z, total[:, tile].T, beta=1 if tile.start else 0)
            out[at].copy_(result)

    parallel(work, x.shape[0], by.threads)
    return out


def product(
    x: torch.Tensor,
    y: torch.Tensor,
    v: torch.Tensor,
    w: torch.Tensor,
    b: torch.Tensor,
    shares: torch.Tensor,
    tiles: tuple[int | None, int | None],
    out: torch.Tensor,
) -> torch.Tensor:
    """cos(x W + b) (share · (cos(y W + b)ᵀ v)) into ``out``; returns vᵀ cos(y W + b), which the backward needs."""
    w, b = upcast(w), upcast(b)
    columns, widest = w.shape[1], v.shape[1]
    total = pulled(y, v, w, b, plan(y.shape[0], columns, widest, y.device, *tiles))
    pushed(x, total * shares, w, b, plan(x.shape[0], columns, widest, x.device, *tiles), out)
    return total


# -- its backward -----------------------------------------------------------------------------------------------------


@dataclass
class Sums:
    """What the points of one thread add to the gradients by W and b, and to vectorsᵀ cos."""

    w: Optional
    b: Optional
    cosines: Optional


def side(
    x: torch.Tensor,
    vectors: torch.Tensor,
    slope: torch.Tensor,
    w: torch.Tensor,
    b: torch.Tensor,
    tiles: tuple[int | None, int | None],
    *,
    by_x: Optional,
    by_w: bool,
    sums: bool,
    products: Optional,
) -> Sums:
    """One side of the product, its angles z = x W + b made again; Ā = −sin z · (vectors slope).

    by_x      receives Ā Wᵀ
    by_w      whether xᵀ Ā and Σ Ā are returned
    sums      whether vectorsᵀ cos z (p, D) is returned
    products  receives cos z slopeᵀ
    """
    columns, sized = w.shape[1], max(vectors.shape[1], x.shape[1])
    chosen = plan(x.shape[0], columns, sized, x.device, *tiles)
    if by_w and (chosen.threads - 1) * w.numel() > PARTIAL:
        chosen = Plan(chosen.rows, chosen.features, 1)
    turned, angles, falling = by_x is not None or by_w, Angles(w, b), filled(slope.neg())

    def work(start: int, stop: int) -> Sums:
        first, second = Scratch(x, chosen.rows, chosen.features), Scratch(x, chosen.rows, chosen.features)
        rows_of_x = Scratch(x, chosen.rows, x.shape[1] if by_x is not None else 0)
        rows_of_v = Scratch(x, chosen.rows, vectors.shape[1] if products is not None else 0)
        ones = zeros(x, chosen.rows).fill_(1)
        own = Sums(
            zeros(x, *w.shape) if by_w else None,
            zeros(x, columns) if by_w else None,
            zeros(x, vectors.shape[1], columns) if sums else None,
        )
        for at in slices(start, stop, chosen.rows):
            points, given, n = filled(upcast(x[at]), 1), filled(upcast(vectors[at]), 1), length(at)
            for tile in slices(0, columns, chosen.features):
                more = 1 if tile.start else 0
                z = angles(points, tile, first.tile(n, length(tile)))
                other = second.tile(n, length(tile))
                if own.cosines is not None or products is not None:
                    cosine(z, other)
                    if own.cosines is not None:
                        own.cosines[:, tile].addmm_(given[:, : vectors.shape[1]].T, other)
                    if products is not None:
                        rows_of_v.tile(n, vectors.shape[1]).addmm_(other, slope[:, tile].T, beta=more)
                if turned:
                    sine(z, z)
                    torch.mm(given, falling[:, tile], out=other)
                    z.mul_(other)
                    if by_x is not None:
                        rows_of_x.tile(n, x.shape[1]).addmm_(z, w[:, tile].T, beta=more)
                    if own.w is not None and own.b is not None:
                        own.w[:, tile].addmm_(points[:, : x.shape[1]].T, z)
                        own.b[tile].addmv_(z.T, ones[:n])
            if by_x is not None:
                by_x[at].copy_(rows_of_x.tile(n, x.shape[1]))
            if products is not None:
                products[at].copy_(rows_of_v.tile(n, vectors.shape[1]))
        return own

    parts = parallel(work, x.shape[0], chosen.threads)
    return Sums(
        summed([p.w for p in parts if p.w is not None]) if by_w else None,
        summed([p.b for p in parts if p.b is not None]) if by_w else None,
        summed([p.cosines for p in parts if p.cosines is not None]) if sums else None,
    )
