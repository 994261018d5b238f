"""Tiles of a whole grid put together, and the adjoint.

Where neighbours lie evenly and at most two meet along an axis, the pieces that are copied and those that are mixed have
one shape for many tiles: they are views, planned once for a grid and taken a few planes at a time, so that what was
copied is mixed while it is in the cache. Any other grid goes tile by tile through `Strips`.
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

CHUNK = 2 << 20  # elements for every thread of the planes put together at a time, unless one plane has more
SMALL = 1 << 18  # elements of a plane up to which calls cost more than memory does

TILES, IMAGE, APART = range(3)  # where a piece lies


class Part(NamedTuple):
    """Pixels ``left`` … ``right`` of ``number`` tiles from tile ``at`` on; ``mixed`` into those that are there."""

    at: int
    number: int
    left: int
    right: int
    mixed: bool = False


def parts(axis: Axis, single: bool) -> Iterator[Part]:
    """How the tiles of an even axis are put down: the first whole, of every other what is new, then what is shared.

    single   tile after tile, so that what is shared is mixed soon after it was put down
    """
    last, n, shared = len(axis.starts) - 1, axis.n, axis.n - axis.stride
    yield Part(0, 1, 0, n)
    for at, number in [(j, 1) for j in range(1, last + 1)] if single else [(1, last)] * (last > 0):
        yield Part(at, number, shared, n)
        if shared:
            yield Part(at, number, 0, shared, True)


class Piece(NamedTuple):
    """Some pixels of every plane: where they lie, from which element of the first plane on, how."""

    where: int
    begin: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Step(NamedTuple):
    """``target`` becomes ``second``, or with a ramp its mean with ``first``; without a second it is looked at."""

    target: Piece
    first: Piece
    second: Piece | None = None
    ramp: torch.Tensor | None = None


class Rows(NamedTuple):
    """``number`` runs of ``length`` rows, from row ``top`` of the image and element ``begin`` of ``where`` on.

    down, step   from one run to the next: rows of the image, elements of ``where``
    """

    where: int
    number: int
    length: int
    top: int = 0
    begin: int = 0
    down: int = 0
    step: int = 0


class Plan:
    """How ``planes`` planes of tiles (R, C, P, h, w) on an even grid are put into an image (P, H, W).

    Small planes are put together along y first, apart, where rows of a tile follow one another, and then along x: the
    fewest calls. Of large ones what lies apart would not stay in the cache: only where four tiles meet something does.

    What was mixed is looked at soon afterwards, while it is in the cache: whether every mean exists. What was copied
    needs no second look.

    steps    in their order
    apart    elements of a plane that lie apart
    """

    def __init__(self, grid: Grid, planes: int, wide: torch.dtype, small: bool) -> None:
        self.rows, self.columns, self.wide, self.apart = grid.rows, grid.columns, wide, 0
        h, w, height, width = grid.rows.n, grid.columns.n, grid.rows.length, grid.columns.length
        self.of_column = planes * h * w
        self.of_band = len(grid.columns.starts) * self.of_column
        self.steps: list[Step] = []
        if small:
            self._along_y()
            self._along_x(Rows(APART, 1, height), height * w)
            self._look(0, (height * width,), (1,))
        else:
            self._in_runs()

    def _look(self, begin: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
        if all(shape):
            there = Piece(IMAGE, begin, shape, strides)
            self.steps.append(Step(there, there))

    def _along_y(self) -> None:
        """Every column of tiles as one tall tile."""
        rows, w, count = self.rows, self.columns.n, len(self.columns.starts)
        tall = rows.length * w
        for at, number, above, below, mixed in parts(rows, single=False):
            shape = (number, count, (below - above) * w)
            there = Piece(APART, (at * rows.stride + above) * w, shape, (rows.stride * w, tall, 1))
            pieces = Piece(TILES, at * self.of_band + above * w, shape, (self.of_band, self.of_column, 1))
            self.steps.append(Step(there, there, pieces, rows.ramp(self.wide, w) if mixed else None))
        self.apart = count * tall

    def _in_runs(self) -> None:
        """The first and the last rows; those between that lie in one row of tiles; those that two share."""
        last, stride, shared = len(self.rows.starts) - 1, self.rows.stride, self.rows.n - self.rows.stride
        if not last:
            self._large(Rows(TILES, 1, self.rows.n))
            return
        begin = shared * self.columns.n
        ends = Rows(TILES, 2, stride, down=last * stride + shared, step=last * self.of_band + begin)
        self._large(ends)
        if last > 1 and stride > shared:
            begin += self.of_band
            between = Rows(TILES, last - 1, stride - shared, stride + shared, begin, stride, self.of_band)
            self._large(between)
        if shared:
            self._shared_rows(last, shared)

    def _large(self, rows: Rows) -> None:
        """Rows of tiles side by side, and the look at the columns that they share."""
        self._along_x(rows, self.of_column)
        stride, width = self.columns.stride, self.columns.length
        shape = rows.number, len(self.columns.starts) - 1, rows.length, self.columns.n - stride
        self._look(rows.top * width + stride, shape, (rows.down * width, stride, width, 1))

    def _along_x(self, rows: Rows, of_column: int) -> None:
        """The same rows of several rows of tiles, each put together along x; their columns lie ``of_column`` apart."""
        stride, width, w, ramp = self.columns.stride, self.columns.length, self.columns.n, self.columns.ramp(self.wide)
        for at, _, left, right, mixed in parts(self.columns, single=True):
            shape = (rows.number, rows.length, right - left)
            begin = rows.top * width + at * stride + left
            there = Piece(IMAGE, begin, shape, (rows.down * width, width, 1))
            pieces = Piece(rows.where, rows.begin + at * of_column + left, shape, (rows.step, w, 1))
            self.steps.append(Step(there, there, pieces, ramp if mixed else None))

    def _shared_rows(self, last: int, shared: int) -> None:
        """Mixed along y: of every column of tiles what is new, then apart what it shares, which is mixed in along x."""
        stride, width, w, ramp = self.columns.stride, self.columns.length, self.columns.n, self.rows.ramp(self.wide)
        top, up = self.rows.stride * width, self.rows.stride * w
        for at, _, left, right, mixed in parts(self.columns, single=True):
            if not mixed:
                shape, begin = (last, shared, right - left), at * self.of_column + left
                above, below = (Piece(TILES, begin + k, shape, (self.of_band, w, 1)) for k in (up, self.of_band))
                there = Piece(IMAGE, top + at * stride + left, shape, (top, width, 1))
                self.steps.append(Step(there, above, below, ramp[:, None]))
        meeting = last, len(self.columns.starts) - 1, shared, w - stride
        self.apart = math.prod(meeting)
        if self.apart:
            strides = (self.of_band, self.of_column, w, 1)
            above, below = (Piece(TILES, self.of_column + k, meeting, strides) for k in (up, self.of_band))
            apart = Piece(APART, 0, meeting, (math.prod(meeting[1:]), math.prod(meeting[2:]), meeting[3], 1))
            there = Piece(IMAGE, top + stride, meeting, (top, stride, width, 1))
            across = self.columns.ramp(self.wide)
            self.steps += [Step(apart, above, below, ramp[:, None]), Step(there, there, apart, across)]
        self._look(top, (last, shared * width), (top, 1))


plan_of = lru_cache(maxsize=16)(Plan)


class Even:
    """Tiles (N, P, h, w) on an even grid and the image (P, H, W) that they are put into, ``together`` planes a turn.

    Memory beside the image: what the plan keeps apart; of a half format the planes of a turn in float32.
    """

    def __init__(self, tiles: torch.Tensor, image: torch.Tensor, grid: Grid) -> None:
        self.wide, (self.planes, height, width) = compute_dtype(image.dtype), image.shape
        self.plan = plan_of(grid, self.planes, self.wide, height * width <= SMALL)
        self.together = min(max(1, CHUNK * torch.get_num_threads() // (height * width)), self.planes)
        found = image
        if image.dtype != self.wide:
            found = torch.empty((self.together, height, width), dtype=self.wide)
        self.found, self.turning = found, (True, found is image, False)  # whether the next turn has the next planes
        self.memory = tiles, found, found.new_empty(self.together * self.plan.apart)
        self.pitches = math.prod(tiles.shape[2:]), height * width, self.plan.apart

    def put(self, k: int) -> bool:
        """Planes ``k`` and on, as many as a turn has; whether the mean of every pixel exists."""
        count, wide, sums = min(self.together, self.planes - k), self.wide, []
        turn = zip(self.memory, self.pitches, self.turning, strict=True)
        begins = [m.storage_offset() + (k * pitch if turning else 0) for m, pitch, turning in turn]

        def view(piece: Piece) -> torch.Tensor:
            at, begin, shape, strides = piece
            return self.memory[at].as_strided((count, *shape), (self.pitches[at], *strides), begins[at] + begin)

        for target, first, second, ramp in self.plan.steps:
            there = view(target)
            if second is None:
                sums.append(there.sum(-1).sum())  # of pixels side by side: it exists where each of them does
            elif ramp is None:
                there.copy_(view(second))
            elif first is target:
                there.lerp_(view(second).to(wide), ramp)
            else:
                torch.lerp(view(first).to(wide), view(second).to(wide), ramp, out=there)
        return all(math.isfinite(found.item()) for found in sums)


def at_once(tiles: torch.Tensor, grid: Grid, out: torch.Tensor | None = None) -> torch.Tensor | None:
    """The blend of an even grid; None where the grid or the memory is otherwise."""
    if not (grid.rows.stride and grid.columns.stride and grid.in_order and tiles.is_contiguous()):
        return None
    if out is not None and not out.is_contiguous():
        return None
    size = (grid.rows.length, grid.columns.length)
    image = in_large_pages(tiles.new_empty((*tiles.shape[1:-2], *size))) if out is None else out
    if not image.numel():
        return image
    flat, pieces = image.view(-1, *size), tiles.view(len(tiles), -1, *tiles.shape[-2:])
    even = Even(pieces, flat, grid)
    for k in range(0, len(flat), even.together):
        part, exist = flat[k : k + even.together], even.put(k)
        if not exist:
            sums = Sums(size, "", grid)
            for (top, left), i in grid.at.items():
                sums.add(pieces[i, k : k + even.together], top, left)
            part.copy_(sums.mean(even.wide))
        elif even.found is not flat:
            part.copy_(even.found[: len(part)])
    return image


def put_together(tiles: torch.Tensor, grid: Grid, out: torch.Tensor | None = None) -> torch.Tensor:
    """The blend of tiles (N, ..., h, w) on a grid."""
    found = at_once(tiles, grid, out)
    if found is not None:
        return found
    strips = Strips(grid, tiles[0], out)
    for i, top in enumerate(grid.rows.starts):
        for j, left in enumerate(grid.columns.starts):
            strips.add(tiles[grid.at[top, left]], i, j)
    return strips.image


def cut(image: torch.Tensor, grid: Grid, tiles: torch.Tensor | None = None) -> torch.Tensor:
    """The adjoint: tile k is w_k times the image at its place; into ``tiles``, or differentiable where None."""
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
    """The blend of a grid; its gradient is a slice times the same weights."""

    @staticmethod
    def forward(ctx: Any, tiles: torch.Tensor, grid: Grid) -> torch.Tensor:  # type: ignore[override]
        ctx.grid, ctx.shape = grid, tiles.shape
        return put_together(tiles, grid)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        if torch.is_grad_enabled():
            return cut(grad, ctx.grid), None
        fresh = in_large_pages(torch.empty(ctx.shape, dtype=grad.dtype, device=grad.device))
        return cut(grad, ctx.grid, fresh), None
