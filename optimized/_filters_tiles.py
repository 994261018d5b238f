"""Overlapping tiles put together as they come: y = Σ_k w_k t_k / Σ_k w_k with w = w_y w_xᵀ.

Tiles on a grid of rows and columns have weights whose sum factors: Σ w = (Σ w_y)(Σ w_x). Each factor is divided by its
sum once, in float64 and along one axis, so that every pixel's weights sum to one; there is no image of weights and no
division of the image. In strips, a pixel of one tile is copied, and one of several is their running mean

    m ← m + α (t − m),  α = w_k / Σ_{j ≤ k} w_j

along x first and then along y: equal tiles give back their value bit for bit. Where a tile holds ±inf, t − m would not
exist, and the running mean is (1 − α) m + α t.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from trueness.optimized._elementwise import in_large_pages
from trueness.optimized._filters_fft import HALVES


def widest(dtype: torch.dtype) -> torch.dtype:
    """The format a sum is taken in."""
    return torch.float32 if dtype in HALVES else dtype


def window(n: int, kind: str) -> np.ndarray[Any, Any]:
    """The weights of `tile_window` in float64"""
    i = np.arange(n)
    if kind == "triangular":
        return (2 * np.minimum(i + 1, n - i) - (1 - n % 2)) / (n + n % 2)
    return np.sin(np.pi * (i + 1) / (n + 1)) ** 2


class Axis:
    """The places of the tiles along one axis and their weights, in float64.

    shares   (K, n)  w_k / Σ w: of one pixel they sum to one
    steps    (K, n)  α = w_k / Σ_{j ≤ k} w_j: 1 where tile k is the first
    stride           between any two neighbours; 0 where they differ, or where three tiles meet in a pixel
    """

    def __init__(self, starts: Sequence[int], length: int, w: np.ndarray[Any, Any]) -> None:
        self.starts, self.length, self.n = list(starts), length, len(w)
        total = np.zeros(length)
        self.steps = np.empty((len(self.starts), len(w)))
        for k, start in enumerate(self.starts):
            total[start : start + len(w)] += w
            self.steps[k] = w / total[start : start + len(w)]
        differences = set(np.diff(self.starts).tolist()) or {self.n}
        self.stride = differences.pop() if len(differences) == 1 else 0
        if 2 * self.stride < self.n:
            self.stride = 0
        self.shares = np.stack([w / total[start : start + len(w)] for start in self.starts])

    @staticmethod
    def covers(starts: Sequence[int], n: int, length: int) -> bool:
        ends = [0, *(start + n for start in starts)]
        return all(start <= end for start, end in zip(starts, ends, strict=False)) and ends[-1] == length

    def shared(self, k: int) -> int:
        """How many of the first pixels of tile k lie in the tile before."""
        return self.starts[k - 1] + self.n - self.starts[k] if k else 0

    def finished(self, k: int) -> int:
        """How many pixels of tile k lie in no later tile."""
        return (self.starts[k + 1] - self.starts[k]) if k + 1 < len(self.starts) else self.n


class Grid:
    """Tiles at every row of ``rows`` and every column of ``columns``; ``at`` says which tile is where."""

    def __init__(self, rows: Axis, columns: Axis, at: dict[tuple[int, int], int]) -> None:
        self.rows, self.columns, self.at = rows, columns, at

    def weight(self, i: int, j: int, like: torch.Tensor) -> torch.Tensor:
        """(h, w) weights of a tile, normalised"""
        product = self.rows.shares[i][:, None] * self.columns.shares[j]
        return torch.from_numpy(product).to(like.device, widest(like.dtype))


def grid_of(
    tops: Sequence[int],
    lefts: Sequence[int],
    size: tuple[int, int],
    windows: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]],
) -> Grid | None:
    """The grid on which the tiles lie, each place once; None where they lie otherwise or leave a pixel out."""
    rows, columns = sorted(set(tops)), sorted(set(lefts))
    at = {place: k for k, place in enumerate(zip(tops, lefts, strict=True))}
    if not len(at) == len(tops) == len(rows) * len(columns):
        return None
    (h, w), (height, width) = (len(windows[0]), len(windows[1])), size
    if not (Axis.covers(rows, h, height) and Axis.covers(columns, w, width)):
        return None
    return Grid(Axis(rows, height, windows[0]), Axis(columns, width, windows[1]), at)


def _mean(m: torch.Tensor, t: torch.Tensor, step: torch.Tensor) -> None:
    """m ← m + α (t − m)"""
    found = torch.lerp(m, t, step)
    if not bool(found.sum().isfinite()):
        found = (1 - step) * m + step * t
        found = torch.where(step == 1, t, found)
    m.copy_(found)


class Strips:
    """The image under construction on the CPU, tile after tile in the order of rows, then columns.

    Memory beside the image: the rows that two rows of tiles share; of a half format one row of tiles in float32.
    """

    def __init__(self, grid: Grid, like: torch.Tensor, out: torch.Tensor | None = None) -> None:
        self.grid, self.wide = grid, widest(like.dtype)
        self.lead = tuple(like.shape[:-2])
        shape = (*self.lead, grid.rows.length, grid.columns.length)
        self.image = in_large_pages(torch.empty(shape, dtype=like.dtype)) if out is None else out
        self.half = like.dtype in HALVES
        self.carried: torch.Tensor | None = None
        most = max((grid.rows.shared(i) for i in range(len(grid.rows.starts))), default=0)
        rows = grid.rows.n if self.half else most
        self.strip = torch.empty((*self.lead, rows, grid.columns.length), dtype=self.wide)
        self.steps = [torch.from_numpy(axis.steps).to(self.wide) for axis in (grid.rows, grid.columns)]

    def _place(self, target: torch.Tensor, tile: torch.Tensor, j: int) -> None:
        """The tile's part of a strip: the running mean where the tile before reaches, a copy beyond."""
        left, shared = self.grid.columns.starts[j], self.grid.columns.shared(j)
        if shared:
            _mean(target[..., left : left + shared], tile[..., :shared].to(self.wide), self.steps[1][j, :shared])
        target[..., left + shared : left + tile.shape[-1]] = tile[..., shared:]

    def add(self, tile: torch.Tensor, i: int, j: int) -> None:
        rows, last = self.grid.rows, j + 1 == len(self.grid.columns.starts)
        top, shared = rows.starts[i], rows.shared(i)
        if self.half:
            self._place(self.strip, tile, j)
            if last:
                self._finish(i)
            return
        self._place(self.image[..., top + shared : top + rows.n, :], tile[..., shared:, :], j)
        if shared:
            self._place(self.strip[..., :shared, :], tile[..., :shared, :], j)
            if last:
                step = self.steps[0][i, :shared, None]
                _mean(self.image[..., top : top + shared, :], self.strip[..., :shared, :], step)

    def _finish(self, i: int) -> None:
        """A half format is rounded once, when no later tile reaches a row."""
        rows = self.grid.rows
        shared, done = rows.shared(i), rows.finished(i)
        if shared and self.carried is not None:
            step = self.steps[0][i, :shared, None]
            _mean(self.carried, self.strip[..., :shared, :], step)
            self.strip[..., :shared, :] = self.carried
        self.image[..., rows.starts[i] : rows.starts[i] + done, :] = self.strip[..., :done, :]
        self.carried = self.strip[..., done:, :].clone() if done < rows.n else None


CHUNK = 1 << 20  # elements of the planes that are put together at a time, unless one plane has more


FEW = 1 << 16  # elements up to which a call costs more than its work


def _beside(target: torch.Tensor, tiles: torch.Tensor, axis: Axis, step: torch.Tensor) -> None:
    """Tiles (..., C, w) put together along the last axis of the target (..., W), all at once where they are small."""
    count, n, stride = len(axis.starts), axis.n, axis.stride
    shared, step = n - stride, step[: n - stride]
    target[..., :n].copy_(tiles[..., 0, :])
    if count > 1 and target.numel() > FEW:
        for j in range(1, count):
            target[..., stride * j + shared : stride * j + n].copy_(tiles[..., j, shared:])
            if shared:
                target[..., stride * j : stride * j + shared].lerp_(tiles[..., j, :shared].to(target.dtype), step)
    elif count > 1:
        target[..., n:].unflatten(-1, (count - 1, stride)).copy_(tiles[..., 1:, shared:])
        if shared:
            overlap = target[..., stride : stride * count].unflatten(-1, (count - 1, stride))[..., :shared]
            overlap.lerp_(tiles[..., 1:, :shared].to(target.dtype), step)


def _together(tiles: torch.Tensor, image: torch.Tensor, grid: Grid, steps: Sequence[torch.Tensor]) -> None:
    """Tiles (L, R, h, C, w) put together to (L, H, W), all rows of tiles at once."""
    rows, columns = grid.rows, grid.columns
    count, n, stride = len(rows.starts), rows.n, rows.stride
    _beside(image[:, :n], tiles[:, 0], columns, steps[1])
    if count > 1:
        shared = n - stride
        _beside(image[:, n:].unflatten(1, (count - 1, stride)), tiles[:, 1:, shared:], columns, steps[1])
        if shared:
            strip = image.new_empty((len(image), count - 1, shared, columns.length))
            _beside(strip, tiles[:, 1:, :shared], columns, steps[1])
            overlap = image[:, stride : stride * count].unflatten(1, (count - 1, stride))[:, :, :shared]
            overlap.lerp_(strip, steps[0][:shared, None])


def at_once(tiles: torch.Tensor, grid: Grid, out: torch.Tensor | None = None) -> torch.Tensor | None:
    """The blend of an even grid, a few planes at a time; None where the grid or the memory is otherwise.

    Memory beside the image: the rows that two rows of tiles share; of a half format the planes in float32.
    """
    even = grid.rows.stride and grid.columns.stride and list(grid.at.values()) == list(range(len(grid.at)))
    if not even or list(grid.at) != sorted(grid.at) or not tiles.is_contiguous():
        return None
    if out is not None and not out.is_contiguous():
        return None
    size = (grid.rows.length, grid.columns.length)
    image = in_large_pages(tiles.new_empty((*tiles.shape[1:-2], *size))) if out is None else out
    if not image.numel():
        return image
    flat, wide = image.view(-1, *size), widest(tiles.dtype)
    counts = (len(grid.rows.starts), len(grid.columns.starts))
    all_tiles = tiles.view(*counts, -1, *tiles.shape[-2:]).permute(2, 0, 3, 1, 4)
    steps = [torch.from_numpy(axis.steps[-1]).to(wide) for axis in (grid.rows, grid.columns)]
    together = max(1, CHUNK // (size[0] * size[1]))
    for k in range(0, len(flat), together):
        part = flat[k : k + together]
        found = part if part.dtype == wide else torch.empty(part.shape, dtype=wide)
        _together(all_tiles[k : k + together], found, grid, steps)
        if not bool(found.sum().isfinite()):
            sums = Sums(size, None, grid)
            for (top, left), i in grid.at.items():
                sums.add(tiles.view(len(tiles), -1, *tiles.shape[-2:])[i, k : k + together], top, left)
            found = sums.mean(wide)
        if found is not part:
            part.copy_(found)
    return image


def in_strips(tiles: torch.Tensor, grid: Grid, out: torch.Tensor | None = None) -> torch.Tensor:
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
            weighed = piece.to(widest(image.dtype)) * grid.weight(i, j, image)
            if tiles is None:
                found[k] = weighed.to(image.dtype)
            else:
                tiles[k] = weighed
    return torch.stack(found) if tiles is None else tiles


class Blend(torch.autograd.Function):
    """The blend in strips; its gradient is a slice times the same weights."""

    @staticmethod
    def forward(ctx: Any, tiles: torch.Tensor, grid: Grid) -> torch.Tensor:  # type: ignore[override]
        ctx.grid, ctx.shape = grid, tiles.shape
        return in_strips(tiles, grid)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        if torch.is_grad_enabled():
            return cut(grad, ctx.grid), None
        fresh = in_large_pages(torch.empty(ctx.shape, dtype=grad.dtype, device=grad.device))
        return cut(grad, ctx.grid, fresh), None


class Sums:
    """Σ w t in plain operations, for gradients through a model, traces and other devices.

    On a grid w is normalised and there is nothing to divide by; elsewhere Σ w is an image of its own.
    """

    def __init__(
        self,
        size: tuple[int, int],
        windows: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None,
        grid: Grid | None,
    ) -> None:
        self.size, self.windows, self.grid = size, windows, grid
        self.total: torch.Tensor | None = None
        self.mass = torch.zeros(0)

    def add(self, tile: torch.Tensor, top: int, left: int) -> None:
        h, w = tile.shape[-2:]
        wide = tile.to(widest(tile.dtype))
        if self.total is None:
            self.total = wide.new_zeros((*wide.shape[:-2], *self.size))
            if self.grid is None:
                self.mass = torch.zeros(self.size, dtype=torch.float64, device=tile.device)
        if self.grid is None:
            assert self.windows is not None
            weight = torch.from_numpy(self.windows[0][:, None] * self.windows[1]).to(tile.device)
            self.mass[top : top + h, left : left + w] += weight
            weight = weight.to(wide.dtype)
        else:
            i, j = self.grid.rows.starts.index(top), self.grid.columns.starts.index(left)
            weight = self.grid.weight(i, j, tile)
        self.total[..., top : top + h, left : left + w] += wide * weight

    def mean(self, dtype: torch.dtype) -> torch.Tensor:
        assert self.total is not None
        return (self.total if self.grid is not None else self.total / self.mass.to(self.total.dtype)).to(dtype)
