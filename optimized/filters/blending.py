"""Blending the tiles of a whole grid, and the adjoint.

On an even grid (constant stride, at most two tiles per pixel along an axis) the copied and the blended regions of many
tiles have one shape. A plan of strided views is computed once per grid and executed for a few planes at a time, so that
regions are blended while they are in the cache. Other grids are blended tile by tile by `Strips`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from trueness.optimized._lib.dtypes import compute_dtype
from trueness.optimized._lib.memory import in_large_pages
from trueness.optimized.filters.tiles import Axis, Grid, Strips, Sums

CHUNK = 2 << 20  # elements per thread of a batch of planes; a batch has at least one plane
SMALL = 1 << 18  # elements of a plane up to which the number of calls matters more than memory traffic

TILES, IMAGE, SCRATCH = range(3)  # buffers


class Span(NamedTuple):
    """Pixels ``left`` … ``right`` of ``number`` tiles from tile ``at`` on; copied, or ``mixed`` with the target."""

    at: int
    number: int
    left: int
    right: int
    mixed: bool = False


def iter_spans(axis: Axis, single: bool) -> Iterator[Span]:
    """The first tile of an even axis; of all others the new pixels, then those that overlap the previous tile.

    single   one tile at a time, so that overlaps are mixed while they are in the cache
    """
    last, n, shared = len(axis.starts) - 1, axis.n, axis.n - axis.stride
    yield Span(0, 1, 0, n)
    for at, number in [(j, 1) for j in range(1, last + 1)] if single else [(1, last)] * (last > 0):
        yield Span(at, number, shared, n)
        if shared:
            yield Span(at, number, 0, shared, True)


class View(NamedTuple):
    """A strided view of each plane of a buffer, from element ``begin`` of the plane on."""

    buffer: int
    begin: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Step(NamedTuple):
    """target ← second, or first + ramp (second − first); without a second the target is checked to be finite."""

    target: View
    first: View
    second: View | None = None
    ramp: torch.Tensor | None = None


class RowBlocks(NamedTuple):
    """``number`` blocks of ``length`` rows, from row ``top`` of the image and element ``begin`` of ``buffer`` on.

    down, step   distance of the blocks: rows of the image, elements of ``buffer``
    """

    buffer: int
    number: int
    length: int
    top: int = 0
    begin: int = 0
    down: int = 0
    step: int = 0


class Plan:
    """The steps that blend ``planes`` planes of tiles (R, C, P, h, w) on an even grid into an image (P, H, W).

    Small planes are blended along y into scratch memory, where the rows of a tile are contiguous, and then along x:
    this needs the fewest calls. Large planes would not stay in the cache: they use scratch memory only where four
    tiles overlap.

    Mixed regions are checked for non-finite values soon afterwards, while they are in the cache.

    steps    in their order
    scratch  elements of scratch memory per plane
    """

    def __init__(self, grid: Grid, planes: int, inner: torch.dtype, small: bool) -> None:
        self.rows, self.columns, self.inner, self.scratch = grid.rows, grid.columns, inner, 0
        h, w, height, width = grid.rows.n, grid.columns.n, grid.rows.length, grid.columns.length
        self.of_column = planes * h * w
        self.of_band = len(grid.columns.starts) * self.of_column
        self.steps: list[Step] = []
        if small:
            self._along_y()
            self._along_x(RowBlocks(SCRATCH, 1, height), height * w)
            self._check(0, (height * width,), (1,))
        else:
            self._large_planes()

    def _check(self, begin: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
        """Add a check that a region of the image is finite."""
        if all(shape):
            target = View(IMAGE, begin, shape, strides)
            self.steps.append(Step(target, target))

    def _along_y(self) -> None:
        """Blend every column of tiles into one tall tile."""
        rows, w, count = self.rows, self.columns.n, len(self.columns.starts)
        tall = rows.length * w
        for at, number, above, below, mixed in iter_spans(rows, single=False):
            shape = (number, count, (below - above) * w)
            target = View(SCRATCH, (at * rows.stride + above) * w, shape, (rows.stride * w, tall, 1))
            source = View(TILES, at * self.of_band + above * w, shape, (self.of_band, self.of_column, 1))
            self.steps.append(Step(target, target, source, rows.ramp(self.inner, w) if mixed else None))
        self.scratch = count * tall

    def _large_planes(self) -> None:
        """The first and last rows; the rows between of a single row of tiles; the rows in which two overlap."""
        last, stride, shared = len(self.rows.starts) - 1, self.rows.stride, self.rows.n - self.rows.stride
        if not last:
            self._single_rows(RowBlocks(TILES, 1, self.rows.n))
            return
        begin = shared * self.columns.n
        ends = RowBlocks(TILES, 2, stride, down=last * stride + shared, step=last * self.of_band + begin)
        self._single_rows(ends)
        if last > 1 and stride > shared:
            begin += self.of_band
            between = RowBlocks(TILES, last - 1, stride - shared, stride + shared, begin, stride, self.of_band)
            self._single_rows(between)
        if shared:
            self._shared_rows(last, shared)

    def _single_rows(self, rows: RowBlocks) -> None:
        """Rows of a single row of tiles, and the check of the columns in which tiles overlap."""
        self._along_x(rows, self.of_column)
        stride, width = self.columns.stride, self.columns.length
        shape = rows.number, len(self.columns.starts) - 1, rows.length, self.columns.n - stride
        self._check(rows.top * width + stride, shape, (rows.down * width, stride, width, 1))

    def _along_x(self, rows: RowBlocks, of_column: int) -> None:
        """Blend the same rows of several rows of tiles along x; neighbouring tiles are ``of_column`` elements apart."""
        stride, width, w, ramp = self.columns.stride, self.columns.length, self.columns.n, self.columns.ramp(self.inner)
        for at, _, left, right, mixed in iter_spans(self.columns, single=True):
            shape = (rows.number, rows.length, right - left)
            begin = rows.top * width + at * stride + left
            target = View(IMAGE, begin, shape, (rows.down * width, width, 1))
            source = View(rows.buffer, rows.begin + at * of_column + left, shape, (rows.step, w, 1))
            self.steps.append(Step(target, target, source, ramp if mixed else None))

    def _shared_rows(self, last: int, shared: int) -> None:
        """Blend along y: the new pixels of every column; then the overlaps in scratch memory, blended along x next."""
        stride, width, w, ramp = self.columns.stride, self.columns.length, self.columns.n, self.rows.ramp(self.inner)
        top, up = self.rows.stride * width, self.rows.stride * w
        for at, _, left, right, mixed in iter_spans(self.columns, single=True):
            if not mixed:
                shape, begin = (last, shared, right - left), at * self.of_column + left
                above, below = (View(TILES, begin + k, shape, (self.of_band, w, 1)) for k in (up, self.of_band))
                target = View(IMAGE, top + at * stride + left, shape, (top, width, 1))
                self.steps.append(Step(target, above, below, ramp[:, None]))
        overlap = last, len(self.columns.starts) - 1, shared, w - stride
        self.scratch = math.prod(overlap)
        if self.scratch:
            strides = (self.of_band, self.of_column, w, 1)
            above, below = (View(TILES, self.of_column + k, overlap, strides) for k in (up, self.of_band))
            scratch = View(SCRATCH, 0, overlap, (math.prod(overlap[1:]), math.prod(overlap[2:]), overlap[3], 1))
            target = View(IMAGE, top + stride, overlap, (top, stride, width, 1))
            across = self.columns.ramp(self.inner)
            self.steps += [Step(scratch, above, below, ramp[:, None]), Step(target, target, scratch, across)]
        self._check(top, (last, shared * width), (top, 1))


plan_of = lru_cache(maxsize=16)(Plan)


class EvenGridBlend:
    """Blends tiles (N, P, h, w) on an even grid into an image (P, H, W), ``batch`` planes at a time.

    Additional memory: the scratch space of the plan; for half formats also the planes of a batch in float32.
    """

    def __init__(self, tiles: torch.Tensor, image: torch.Tensor, grid: Grid) -> None:
        self.inner, (self.planes, height, width) = compute_dtype(image.dtype), image.shape
        self.plan = plan_of(grid, self.planes, self.inner, height * width <= SMALL)
        self.batch = min(max(1, CHUNK * torch.get_num_threads() // (height * width)), self.planes)
        result = image
        if image.dtype != self.inner:
            result = torch.empty((self.batch, height, width), dtype=self.inner)
        self.result, self.advances = result, (True, result is image, False)  # whether the next batch has new memory
        self.memory = tiles, result, result.new_empty(self.batch * self.plan.scratch)
        self.pitches = math.prod(tiles.shape[2:]), height * width, self.plan.scratch

    def blend_batch(self, k: int) -> bool:
        """Blend the planes from ``k`` on, as many as a batch has; whether every mean is a number."""
        count, inner, sums = min(self.batch, self.planes - k), self.inner, []
        buffers = zip(self.memory, self.pitches, self.advances, strict=True)
        begins = [m.storage_offset() + (k * pitch if advances else 0) for m, pitch, advances in buffers]

        def view(part: View) -> torch.Tensor:
            buffer, begin, shape, strides = part
            return self.memory[buffer].as_strided(
                (count, *shape), (self.pitches[buffer], *strides), begins[buffer] + begin
            )

        for target, first, second, ramp in self.plan.steps:
            y = view(target)
            if second is None:
                sums.append(y.sum(-1).sum())  # finite only if all pixels are
            elif ramp is None:
                y.copy_(view(second))
            elif first is target:
                y.lerp_(view(second).to(inner), ramp)
            else:
                torch.lerp(view(first).to(inner), view(second).to(inner), ramp, out=y)
        return all(math.isfinite(total.item()) for total in sums)


def blend_even_grid(tiles: torch.Tensor, grid: Grid, out: torch.Tensor | None = None) -> torch.Tensor | None:
    """The blend of an even grid; None if the grid is uneven or a tensor is not contiguous."""
    if not (grid.rows.stride and grid.columns.stride and grid.in_order and tiles.is_contiguous()):
        return None
    if out is not None and not out.is_contiguous():
        return None
    size = (grid.rows.length, grid.columns.length)
    image = in_large_pages(tiles.new_empty((*tiles.shape[1:-2], *size))) if out is None else out
    if not image.numel():
        return image
    planes, tile_planes = image.view(-1, *size), tiles.view(len(tiles), -1, *tiles.shape[-2:])
    blend = EvenGridBlend(tile_planes, planes, grid)
    for k in range(0, len(planes), blend.batch):
        target, finite = planes[k : k + blend.batch], blend.blend_batch(k)
        if not finite:  # ±inf or NaN in a tile: m + α (t − m) may differ from the weighted sum
            sums = Sums(size, "", grid)
            for (top, left), i in grid.at.items():
                sums.add(tile_planes[i, k : k + blend.batch], top, left)
            target.copy_(sums.mean(blend.inner))
        elif blend.result is not planes:
            target.copy_(blend.result[: len(target)])
    return image


def blend_grid(tiles: torch.Tensor, grid: Grid, out: torch.Tensor | None = None) -> torch.Tensor:
    """The blend of tiles (N, ..., h, w) on a grid."""
    image = blend_even_grid(tiles, grid, out)
    if image is not None:
        return image
    strips = Strips(grid, tiles[0], out)
    for i, top in enumerate(grid.rows.starts):
        for j, left in enumerate(grid.columns.starts):
            strips.add(tiles[grid.at[top, left]], i, j)
    return strips.image


def cut_tiles(image: torch.Tensor, grid: Grid, tiles: torch.Tensor | None = None) -> torch.Tensor:
    """The adjoint: tile k is w_k times its part of the image; written to ``tiles``, or differentiable if None."""
    h, w = grid.rows.n, grid.columns.n
    found: list[Any] = [None] * len(grid.at)
    for i, top in enumerate(grid.rows.starts):
        for j, left in enumerate(grid.columns.starts):
            piece = image[..., top : top + h, left : left + w]
            k = grid.at[top, left]
            weighed = piece.to(compute_dtype(image.dtype)) * grid.weight(i, j, image)
            if tiles is None:
                found[k] = weighed.to(image.dtype)
            else:
                tiles[k] = weighed
    return torch.stack(found) if tiles is None else tiles


class Blend(torch.autograd.Function):
    """The blend of a grid; the gradient of a tile is its slice of the image's gradient times the same weights."""

    @staticmethod
    def forward(ctx: Any, tiles: torch.Tensor, grid: Grid) -> torch.Tensor:  # type: ignore[override]
        ctx.grid, ctx.shape = grid, tiles.shape
        return blend_grid(tiles, grid)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        if torch.is_grad_enabled():
            return cut_tiles(grad, ctx.grid), None
        fresh = in_large_pages(torch.empty(ctx.shape, dtype=grad.dtype, device=grad.device))
        return cut_tiles(grad, ctx.grid, fresh), None
