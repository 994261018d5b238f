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

CHUNK = 3 << 20  # elements of the planes that are put together at a time, unless one plane has more
SMALL = 1 << 18  # elements of a plane up to which calls cost more than memory does

Views = Sequence[torch.Tensor]  # of the planes of every turn


class Even:
    """How tiles (P, R, C, h, w) on an even grid are put into an image (P, H, W), ``together`` planes a turn.

    Small planes are put together along y first, in memory of their own where rows of a tile follow one another, and
    then along x: the fewest calls. Of large ones that memory would not stay in the cache: only the rows that two rows
    of tiles share are mixed there, and every pixel of the image is written once.
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
        self.steps: list[tuple[Views, Views, Views, torch.Tensor | None]] = []
        self.band = grid.rows.stride
        rows = len(grid.rows.starts), grid.rows.n, grid.rows.stride, of_rows
        if height * width <= SMALL:
            self._along_y(*rows)
        else:
            self._in_bands(*rows)

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
                self.steps.append(
                    (mixed, mixed, self._pieces(self.tiles, begin, shape, (of_band, of_column, 1)), ramps)
                )
        n, stride, width = self.columns.n, self.columns.stride, self.columns.length
        last, of_column = columns - 1, height * w
        for j, number, left, right, ramps in (
            (0, 1, 0, n, None),
            (1, last, n - stride, n, None),
            (1, last, 0, n - stride, self.ramp),
        ):
            if number and right > left:
                shape = (number, height, right - left)
                mixed = self._pieces(self.found, j * stride + left, shape, (stride, width, 1))
                pieces = self._pieces(tall, j * of_column + left, shape, (of_column, w, 1))
                self.steps.append((mixed, mixed, pieces, ramps))

    def _in_bands(self, count: int, n: int, stride: int, ramp: torch.Tensor) -> None:
        columns, w = self.tiles.shape[2], self.tiles.shape[-1]
        _, of_band, of_column, of_row, _ = self.tiles.stride()
        shared, last = n - stride, count - 1
        self._beside(0, (1, stride if last else n), self.tiles, 0)
        if last:
            self._beside(n, (last - 1, stride - shared), self.tiles, of_band + shared * of_row)
            self._beside(last * stride + shared, (1, stride), self.tiles, last * of_band + shared * of_row)
        if last and shared:
            strip = self.found.new_empty((self.together, last, columns, shared, w))
            shape, strides = (last, columns, shared, w), (of_band, of_column, of_row, 1)
            above, below = (self._pieces(self.tiles, at, shape, strides) for at in (stride * of_row, of_band))
            self.steps.append((self._pieces(strip, 0, shape, strip.stride()[1:]), above, below, ramp[:, None]))
            self._beside(stride, (last, shared), strip, 0)

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

    def _beside(self, top: int, bands: tuple[int, int], tiles: torch.Tensor, begin: int) -> None:
        """The same rows of several rows of tiles, each put together along x.

        top      the row of the image where this begins; every next row of tiles is a stride further down
        bands    how many rows of tiles, and how many rows of each
        begin    where the first one's rows begin in ``tiles``
        """
        if not all(bands):
            return
        n, stride, width = self.columns.n, self.columns.stride, self.columns.length
        _, of_band, of_column, of_row, _ = tiles.stride()
        shared, last = n - stride, len(self.columns.starts) - 1

        def of_tile(j: int, left: int, right: int) -> Views:
            shape = (*bands, right - left)
            return self._pieces(tiles, begin + j * of_column + left, shape, (of_band, of_row, 1))

        def there(left: int, right: int) -> Views:
            shape, strides = (*bands, right - left), (self.band * width, width, 1)
            return self._pieces(self.found, top * width + left, shape, strides)

        for j in range(last + 1):
            left, right = shared if j else 0, stride if j < last else n
            if right > left:
                over, pieces = there(j * stride + left, j * stride + right), of_tile(j, left, right)
                self.steps.append((over, over, pieces, None))
            if j and shared:
                over = there(j * stride, j * stride + shared)
                self.steps.append((over, of_tile(j - 1, stride, n), of_tile(j, 0, shared), self.ramp))

    def put(self, turn: int) -> None:
        for targets, first, second, ramp in self.steps:
            if ramp is None:
                targets[turn].copy_(second[turn])
            else:
                torch.lerp(first[turn].to(self.wide), second[turn].to(self.wide), ramp, out=targets[turn])


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
        if not math.isfinite(found.sum().item()):
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
