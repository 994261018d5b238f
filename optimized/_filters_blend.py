"""Tiles of a whole grid put together, and the adjoint.

Where neighbours lie evenly and at most two meet along an axis, the pieces that are copied and those that are mixed have
one shape for all rows of tiles: they are views, made once and then taken a few planes at a time, so that what was
copied is mixed while it is in the cache. Any other grid goes tile by tile through `Strips`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from trueness.optimized._elementwise import in_large_pages
from trueness.optimized._filters_tiles import Grid, Strips, Sums
from trueness.optimized._precision import working
from trueness.optimized._threads import parallel

CHUNK = 1 << 20  # elements of the planes that are put together at a time, unless one plane has more
WORTH = 1 << 21  # elements of the image from which threads of our own pay for themselves

Views = Sequence[torch.Tensor]  # of the planes of every turn


class Even:
    """How tiles (P, R, C, h, w) on an even grid are put into an image (P, H, W), ``together`` planes a turn.

    Small planes are put together along y first, in memory of their own where rows of a tile follow one another, and
    then along x: the fewest calls. Of large ones that memory would not stay in the cache: every row of tiles is put
    together along x, and of what two rows share the second one is mixed into the first.
    Memory beside the image: that; of a half format the planes of a turn in float32.
    """

    def __init__(self, tiles: torch.Tensor, image: torch.Tensor, grid: Grid) -> None:
        self.tiles, self.columns, self.wide = tiles, grid.columns, working(image.dtype)
        self.planes, height, width = image.shape
        self.together = min(max(1, CHUNK // (height * width)), self.planes)
        self.found = image
        if image.dtype != self.wide:
            self.found = torch.empty((self.together, height, width), dtype=self.wide)
        of_rows, self.ramp = grid.rows.ramp(self.wide), grid.columns.ramp(self.wide)
        self.steps: list[tuple[Views, Views, torch.Tensor | None]] = []
        count, n, stride = len(grid.rows.starts), grid.rows.n, grid.rows.stride
        if self.together > 1:
            self._along_y(count, n, stride, of_rows)
        else:
            self._in_bands(count, n, stride, of_rows)

    def _along_y(self, count: int, n: int, stride: int, ramp: torch.Tensor) -> None:
        columns, w = self.tiles.shape[2], self.tiles.shape[-1]
        height, shared, (_, of_band, of_column, _, _) = self.found.shape[1], n - stride, self.tiles.stride()
        tall = self.found.new_empty((self.together, 1, columns, height, w))
        for top, size, number, ramps in (
            (0, n, 1, None),
            (n, stride, count - 1, None),
            (stride, shared, count - 1, ramp[:, None].expand(-1, w).reshape(-1)),
        ):
            if size and number:
                shape = (number, columns, size * w)
                begin = 0 if not top else of_band + (shared * w if ramps is None else 0)
                mixed = self._pieces(tall, top * w, shape, (stride * w, height * w, 1))
                self.steps.append((mixed, self._pieces(self.tiles, begin, shape, (of_band, of_column, 1)), ramps))
        self._beside(self.found, 0, height, tall, (0, 0), (1, height))

    def _in_bands(self, count: int, n: int, stride: int, ramp: torch.Tensor) -> None:
        width, shared = self.found.shape[2], n - stride
        self._beside(self.found, 0, stride, self.tiles, (0, 0), (1, n))
        if count > 1:
            self._beside(self.found, n, stride, self.tiles, (1, shared), (count - 1, stride))
        if count > 1 and shared:
            strip = self.found.new_empty((self.together, (count - 1) * shared, width))
            self._beside(strip, 0, shared, self.tiles, (1, 0), (count - 1, shared))
            shape = (count - 1, shared, width)
            mixed = self._pieces(self.found, stride * width, shape, (stride * width, width, 1))
            other = self._pieces(strip, 0, shape, (shared * width, width, 1))
            self.steps.append((mixed, other, ramp[:, None]))

    def _pieces(self, tensor: torch.Tensor, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Views:
        """One view of every plane, by turns; of scratch, which has no more planes than a turn, always the same."""
        count = self.planes if self.together == self.planes else tensor.shape[0]
        view = tensor.as_strided((count, *shape), (tensor.stride(0), *strides), tensor.storage_offset() + offset)
        if self.together == self.planes:
            return (view,)
        if count == self.planes:
            return view.split(self.together)
        turns, rest = divmod(self.planes, self.together)
        return [view] * turns + [view[:rest]] * (rest > 0)

    def _beside(
        self,
        target: torch.Tensor,
        top: int,
        below: int,
        tiles: torch.Tensor,
        first: tuple[int, int],
        bands: tuple[int, int],
    ) -> None:
        """The same rows of several rows of tiles, each put together along x.

        target   (·, rows, W), from row ``top`` on, every next row of tiles ``below`` rows further down
        first    the row of tiles, and the row in its tiles, where this begins
        bands    how many rows of tiles, and how many rows of each
        """
        n, stride, width = self.columns.n, self.columns.stride, self.columns.length
        _, of_band, of_column, of_row, _ = tiles.stride()
        begin, last = first[0] * of_band + first[1] * of_row, len(self.columns.starts) - 1
        number = last if self.together > 1 else 1  # of a large plane one column after the other: fewer streams to read
        for j in (0, *range(1, last + 1, max(number, 1))):
            shared = n - stride if j else 0
            for left, right, ramp in ((shared, n, None), (0, shared, self.ramp)):
                if right > left:
                    shape = (bands[0], number if j else 1, bands[1], right - left)
                    place, strides = top * width + j * stride + left, (below * width, stride, width, 1)
                    over = self._pieces(target, place, shape, strides)
                    strides = (of_band, of_column, of_row, 1)
                    self.steps.append((over, self._pieces(tiles, begin + j * of_column + left, shape, strides), ramp))

    def put(self, turn: int) -> None:
        half = self.tiles.dtype != self.wide
        for targets, sources, ramp in self.steps:
            if ramp is None:
                targets[turn].copy_(sources[turn])
            else:
                targets[turn].lerp_(sources[turn].to(self.wide) if half else sources[turn], ramp)


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
    counts = (len(grid.rows.starts), len(grid.columns.starts))
    planes = tiles.view(*counts, -1, *tiles.shape[-2:]).permute(2, 0, 1, 3, 4), image.view(-1, *size)
    threads = min(torch.get_num_threads(), len(planes[1])) if image.numel() >= WORTH else 1
    parallel(lambda start, stop: _some(*(x[start:stop] for x in planes), grid), len(planes[1]), threads)
    return image


def _some(tiles: torch.Tensor, image: torch.Tensor, grid: Grid) -> None:
    """The blend of tiles (P, R, C, h, w) into some planes (P, H, W)"""
    even = Even(tiles, image, grid)
    for turn, k in enumerate(range(0, len(image), even.together)):
        part = image[k : k + even.together]
        even.put(turn)
        found = part if even.found is image else even.found[: len(part)]
        if not math.isfinite(found.sum().item()):
            sums = Sums((image.shape[1], image.shape[2]), "", grid)
            for top, left in grid.at:
                i, j = grid.rows.starts.index(top), grid.columns.starts.index(left)
                sums.add(tiles[k : k + even.together, i, j], top, left)
            found = sums.mean(even.wide)
        if found is not part:
            part.copy_(found)


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
