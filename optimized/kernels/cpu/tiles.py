"""Tiles of cosines: their sizes, the number of threads, and the product φ(x)(φ(y)ᵀv) with its backward.

Angles are a matrix product into a workspace, and their cosine is taken in place: by NumPy on the CPU, which is several
times as fast as torch and releases the interpreter lock. Sums over points are stored as (vectors, features), the layout
in which thin matrix products are fast. Every thread has rows, a workspace and sums of its own, because torch's threads
would synchronize at every tile; the sums are added in a fixed order. These functions record no gradients.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from trueness.optimized._lib import matmul as products
from trueness.optimized._lib.dtypes import compute_dtype, upcast
from trueness.optimized._lib.threads import parallel
from trueness.optimized._lib.workspace import Workspace

COSINES = 1 << 17  # of one tile: 0.5 MiB in float32, so that two fit into a core's cache
FEATURES = 512
MIN_ONEDNN_DIMENSIONS = 16  # dimensions from which oneDNN is faster
THIN_SIZE = 8  # a matrix product with an inner size of 2 … 6 is slower than one with 8
MIN_THREADED_COSINES = 1 << 21  # cosines from which several threads are faster
MAX_PARTIAL_SUMS = 1 << 19  # elements that the partial sums of all threads but the first may have

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
    """Tiles of ``points`` × ``features`` cosines; ``widest`` is the longest row of the other arrays of a tile."""
    threads = torch.get_num_threads() if device.type == "cpu" and points * features >= MIN_THREADED_COSINES else 1
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


def pad_thin(matrix: torch.Tensor, axis: int = 0) -> torch.Tensor:
    """One factor of a product with 2 … 6 rows (or columns), padded with zeros to 8: half of the time."""
    missing = THIN_SIZE - matrix.shape[axis]
    if not 0 < missing < THIN_SIZE - 1:
        return matrix
    shape = (missing, matrix.shape[1]) if axis == 0 else (matrix.shape[0], missing)
    return torch.cat([matrix, matrix.new_zeros(shape)], axis)


class Angles:
    """x W + b of tiles; points of few dimensions are padded by ``pad_thin``.

    oneDNN needs half of MKL's time for a tile if W is transposed. It allocates its result, so it is used only for tiles
    large enough to be worth it.
    """

    def __init__(self, w: torch.Tensor, b: Optional) -> None:
        self.w, self.b = pad_thin(w), b
        self.w_transposed = (
            self.w.T.contiguous() if products.prefers(w) and w.shape[0] >= MIN_ONEDNN_DIMENSIONS else None
        )

    def __call__(self, x: torch.Tensor, tile: slice, place: torch.Tensor) -> torch.Tensor:
        """The angles of the features in ``tile``: in ``place``, or in newly allocated memory."""
        b = None if self.b is None else self.b[tile]
        if self.w_transposed is not None and x.numel() * slice_length(tile) >= products.SMALL:
            return products.pointwise(x, self.w_transposed[tile], b)
        w = self.w[:, tile]
        return torch.mm(x, w, out=place) if b is None else torch.addmm(b, x, w, out=place)


def slice_length(at: slice) -> int:
    return int(at.stop) - int(at.start)


def zeros(like: torch.Tensor, *shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=compute_dtype(like.dtype), device=like.device)


def sum_in_order(parts: list[torch.Tensor]) -> torch.Tensor:
    """The sum of the parts, added in order."""
    for part in parts[1:]:
        parts[0].add_(part)
    return parts[0]


# -- the product ------------------------------------------------------------------------------------------------------


def pull(y: torch.Tensor, v: torch.Tensor, w: torch.Tensor, b: torch.Tensor, by: Plan) -> torch.Tensor:
    """vᵀ cos(y W + b)  (p, D), in working precision; W and b are in it already."""

    angles = Angles(w, b)

    def work(start: int, stop: int) -> torch.Tensor:
        total, workspace = zeros(y, v.shape[1], w.shape[1]), Workspace(w)
        for at in slices(start, stop, by.rows):
            points, vectors = pad_thin(upcast(y[at]), 1), upcast(v[at]).T
            for tile in slices(0, w.shape[1], by.features):
                z = angles(points, tile, workspace("angles", (slice_length(at), slice_length(tile))))
                cosine(z, z)
                total[:, tile].addmm_(vectors, z)
        return total

    return sum_in_order(parallel(work, y.shape[0], by.threads))


def push(
    x: torch.Tensor, total: torch.Tensor, w: torch.Tensor, b: torch.Tensor, by: Plan, out: torch.Tensor
) -> torch.Tensor:
    """cos(x W + b) totalᵀ  (n, p), rounded once into ``out``."""

    angles = Angles(w, b)

    def work(start: int, stop: int) -> None:
        workspace = Workspace(w)
        for at in slices(start, stop, by.rows):
            points, result = pad_thin(upcast(x[at]), 1), workspace("rows", (slice_length(at), total.shape[0]))
            for tile in slices(0, w.shape[1], by.features):
                z = angles(points, tile, workspace("angles", (slice_length(at), slice_length(tile))))
                cosine(z, z)
                result.addmm_(z, total[:, tile].T, beta=1 if tile.start else 0)
            out[at].copy_(result)

    parallel(work, x.shape[0], by.threads)
    return out


def matvec(
    x: torch.Tensor,
    y: torch.Tensor,
    v: torch.Tensor,
    w: torch.Tensor,
    b: torch.Tensor,
    shares: torch.Tensor,
    tiles: tuple[int | None, int | None],
    out: torch.Tensor,
) -> torch.Tensor:
    """cos(x W + b) (share · (cos(y W + b)ᵀ v)) into ``out``; returns vᵀ cos(y W + b) for the backward."""
    w, b = upcast(w), upcast(b)
    columns, widest = w.shape[1], v.shape[1]
    total = pull(y, v, w, b, plan(y.shape[0], columns, widest, y.device, *tiles))
    push(x, total * shares, w, b, plan(x.shape[0], columns, widest, x.device, *tiles), out)
    return total


# -- its backward -----------------------------------------------------------------------------------------------------


@dataclass
class Sums:
    """Partial sums of one thread: the gradients by W and b, and vectorsᵀ cos."""

    w: Optional
    b: Optional
    cosines: Optional


def matvec_side(
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
    """One side of the product, with the angles z = x W + b computed again; Ā = −sin z · (vectors slope).

    by_x      receives Ā Wᵀ
    by_w      whether xᵀ Ā and Σ Ā are returned
    sums      whether vectorsᵀ cos z (p, D) is returned
    products  receives cos z slopeᵀ
    """
    columns, sized = w.shape[1], max(vectors.shape[1], x.shape[1])
    chosen = plan(x.shape[0], columns, sized, x.device, *tiles)
    if by_w and (chosen.threads - 1) * w.numel() > MAX_PARTIAL_SUMS:
        chosen = Plan(chosen.rows, chosen.features, 1)
    needs_sine, angles, negative_slope = by_x is not None or by_w, Angles(w, b), pad_thin(slope.neg())

    def work(start: int, stop: int) -> Sums:
        workspace = Workspace(w)
        ones = zeros(x, chosen.rows).fill_(1)
        own = Sums(
            zeros(x, *w.shape) if by_w else None,
            zeros(x, columns) if by_w else None,
            zeros(x, vectors.shape[1], columns) if sums else None,
        )
        for at in slices(start, stop, chosen.rows):
            points, given, n = pad_thin(upcast(x[at]), 1), pad_thin(upcast(vectors[at]), 1), slice_length(at)
            for tile in slices(0, columns, chosen.features):
                more = 1 if tile.start else 0
                z = angles(points, tile, workspace("angles", (n, slice_length(tile))))
                other = workspace("other", (n, slice_length(tile)))
                if own.cosines is not None or products is not None:
                    cosine(z, other)
                    if own.cosines is not None:
                        own.cosines[:, tile].addmm_(given[:, : vectors.shape[1]].T, other)
                    if products is not None:
                        workspace("rows of v", (n, vectors.shape[1])).addmm_(other, slope[:, tile].T, beta=more)
                if needs_sine:
                    sine(z, z)
                    torch.mm(given, negative_slope[:, tile], out=other)
                    z.mul_(other)
                    if by_x is not None:
                        workspace("rows of x", (n, x.shape[1])).addmm_(z, w[:, tile].T, beta=more)
                    if own.w is not None and own.b is not None:
                        own.w[:, tile].addmm_(points[:, : x.shape[1]].T, z)
                        own.b[tile].addmv_(z.T, ones[:n])
            if by_x is not None:
                by_x[at].copy_(workspace("rows of x", (n, x.shape[1])))
            if products is not None:
                products[at].copy_(workspace("rows of v", (n, vectors.shape[1])))
        return own

    parts = parallel(work, x.shape[0], chosen.threads)
    return Sums(
        sum_in_order([p.w for p in parts if p.w is not None]) if by_w else None,
        sum_in_order([p.b for p in parts if p.b is not None]) if by_w else None,
        sum_in_order([p.cosines for p in parts if p.cosines is not None]) if sums else None,
    )
