"""Tiles of a whole grid put together, and the adjoint.

Where neighbours lie evenly and at most two meet along an axis, the pieces that are copied and those that are mixed have
one shape for many tiles: they are views, made once and then taken a few planes at a time, so that what was copied is
mixed while it is in the cache. Any other grid goes tile by tile through `Strips`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from trueness.optimized._elementwise import in_large_pages
from trueness.optimized._filters_tiles import Axis, Grid, Strips, Sums
from trueness.optimized._precision import working

CHUNK = 3 << 20  # elements of the planes that are put together at a time, unless one plane has more
SMALL = 1 << 18  # elements of a plane up to which calls cost more than memory does

Views = Sequence[torch.Tensor]  # of the planes of every turn


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


class Rows(NamedTuple):
    """``number`` runs of ``length`` rows, from row ``top`` of the image and element ``begin`` of the tiles on.

    down, step   from one run to the next: rows of the image, elements of the tiles
    """

    number: int
    length: int
    top: int = 0
    begin: int = 0
    down: int = 0
    step: int = 0


class Even:
    """How tiles (P, R, C, h, w) on an even grid are put into an image (P, H, W), ``together`` planes a turn.

    Small planes are put together along y first, in memory of their own where rows of a tile follow one another, and
    then along x: the fewest calls. Of large ones that memory would not stay in the cache: only where four tiles meet
    something is mixed outside of the image.
    Memory beside the image: that; of a half format the planes of a turn in float32.
    """

    def __init__(self, tiles: torch.Tensor, image: torch.Tensor, grid: Grid) -> None:
        self.tiles, self.rows, self.columns, self.wide = tiles, grid.rows, grid.columns, working(image.dtype)
        self.planes, height, width = image.shape
        self.small = height * width <= SMALL
        self.together = min(max(1, CHUNK // (height * width)), self.planes)
        self.found = image
        if image.dtype != self.wide:
            self.found = torch.empty((self.together, height, width), dtype=self.wide)
        self.steps: list[tuple[Views, Views, Views, torch.Tensor | None]] = []
        self.mixed: list[Views] = []
        if self.small:
            self._along_x(self._along_y(), Rows(1, height))
            self.mixed.append(self._views(self.found, 0, (height * width,), (1,)))
        else:
            self._in_runs()
            self._where_mixed()

    def _along_y(self) -> torch.Tensor:
        """Every column of tiles as one tall tile."""
        rows, columns, w = self.rows, self.tiles.shape[2], self.tiles.shape[-1]
        _, of_band, of_column, _, _ = self.tiles.stride()
        tall = self.found.new_empty((self.together, 1, columns, rows.length, w))
        for at, number, above, below, mixed in parts(rows, single=False):
            shape = (number, columns, (below - above) * w)
            there = self._views(tall, (at * rows.stride + above) * w, shape, (rows.stride * w, rows.length * w, 1))
            pieces = self._views(self.tiles, at * of_band + above * w, shape, (of_band, of_column, 1))
            self.steps.append((there, there, pieces, rows.ramp(self.wide, w) if mixed else None))
        return tall

    def _in_runs(self) -> None:
        """The first and the last rows; those between that lie in one row of tiles; those that two share."""
        last, (_, of_band, _, of_row, _) = len(self.rows.starts) - 1, self.tiles.stride()
        stride, shared = self.rows.stride, self.rows.n - self.rows.stride
        if not last:
            self._along_x(self.tiles, Rows(1, self.rows.n))
            return
        down, step = last * stride + shared, last * of_band + shared * of_row
        self._along_x(self.tiles, Rows(2, stride, down=down, step=step))
        if last > 1 and stride > shared:
            between = Rows(last - 1, stride - shared, stride + shared, of_band + shared * of_row, stride, of_band)
            self._along_x(self.tiles, between)
        if shared:
            self._shared_rows(last, shared)

    def _along_x(self, tiles: torch.Tensor, rows: Rows) -> None:
        """The same rows of several rows of tiles, each put together along x."""
        stride, width = self.columns.stride, self.columns.length
        of_column, of_row = tiles.stride()[2:4]
        ramp = self.columns.ramp(self.wide)
        for at, _, left, right, mixed in parts(self.columns, single=True):
            shape = (rows.number, rows.length, right - left)
            begin = rows.top * width + at * stride + left
            there = self._views(self.found, begin, shape, (rows.down * width, width, 1))
            pieces = self._views(tiles, rows.begin + at * of_column + left, shape, (rows.step, of_row, 1))
            self.steps.append((there, there, pieces, ramp if mixed else None))

    def _shared_rows(self, last: int, shared: int) -> None:
        """Mixed along y: of every column of tiles what is new, then apart what it shares, which is mixed in along x."""
        stride, width, ramp = self.columns.stride, self.columns.length, self.rows.ramp(self.wide)[:, None]
        _, of_band, of_column, of_row, _ = self.tiles.stride()
        top, up = self.rows.stride * width, self.rows.stride * of_row
        for at, _, left, right, mixed in parts(self.columns, single=True):
            if not mixed:
                shape, strides, begin = (last, shared, right - left), (of_band, of_row, 1), at * of_column + left
                above, below = (self._views(self.tiles, begin + k, shape, strides) for k in (up, of_band))
                there = self._views(self.found, top + at * stride + left, shape, (top, width, 1))
                self.steps.append((there, above, below, ramp))
        meeting = (last, len(self.columns.starts) - 1, shared, self.columns.n - stride)
        if all(meeting):
            apart, strides = self.found.new_empty((self.together, *meeting)), (of_band, of_column, of_row, 1)
            above, below = (self._views(self.tiles, of_column + k, meeting, strides) for k in (up, of_band))
            mixed_in = self._views(apart, 0, meeting, apart.stride()[1:])
            there = self._views(self.found, top + stride, meeting, (top, stride, width, 1))
            self.steps += [(mixed_in, above, below, ramp), (there, there, mixed_in, self.columns.ramp(self.wide))]

    def _where_mixed(self) -> None:
        """All rows that two rows of tiles share, and all columns: what was copied needs no second look."""
        (_, height, width), down, right = self.found.shape, self.rows.stride, self.columns.stride
        rows = (len(self.rows.starts) - 1, (self.rows.n - down) * width)
        columns = (len(self.columns.starts) - 1, height, self.columns.n - right)
        if all(rows):
            self.mixed.append(self._views(self.found, down * width, rows, (down * width, 1)))
        if all(columns):
            self.mixed.append(self._views(self.found, right, columns, (right, width, 1)))

    def _views(self, tensor: torch.Tensor, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Views:
        """One view of every plane, by turns; of scratch, which has no more planes than a turn, always the same."""
        pitch, first = tensor.stride(0), tensor.storage_offset() + offset
        view = tensor.as_strided((self.together, *shape), (pitch, *strides), first)
        if self.together == self.planes:
            return (view,)
        turns = range(self.together, self.planes, self.together)
        if len(tensor) < self.planes:
            return [view, *(view[: self.planes - k] for k in turns)]
        counts = [min(self.together, self.planes - k) for k in turns]
        places = zip(counts, turns, strict=True)
        return [view, *(tensor.as_strided((n, *shape), (pitch, *strides), first + k * pitch) for n, k in places)]

    def put(self, turn: int) -> None:
        for targets, first, second, ramp in self.steps:
            if ramp is None:
                targets[turn].copy_(second[turn])
            else:
                torch.lerp(first[turn].to(self.wide), second[turn].to(self.wide), ramp, out=targets[turn])

    def finite(self, turn: int) -> bool:
        """Whether every mean exists: a sum over pixels side by side does, where each of them does."""
        return all(math.isfinite(views[turn].sum(-1).sum().item()) for views in self.mixed)


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
    counts, flat = (len(grid.rows.starts), len(grid.columns.starts)), image.view(-1, *size)
    even = Even(tiles.view(*counts, -1, *tiles.shape[-2:]).permute(2, 0, 1, 3, 4), flat, grid)
    for turn, k in enumerate(range(0, len(flat), even.together)):
        part = flat[k : k + even.together]
        even.put(turn)
        found = part if even.found is flat else even.found[: len(part)]
        if not even.finite(turn):
            sums = Sums(size, "", grid)
            for (top, left), i in grid.at.items():
                sums.add(tiles.view(len(tiles), -1, *tiles.shape[-2:])[i, k : k + even.together], top, left)
            found = sums.mean(even.wide)
        if found is not part:
            part.copy_(found)
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
            weighed = piece.to(working(image.dtype)) * grid.weight(i, j, image)
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
