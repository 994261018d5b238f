"""Blending overlapping tiles one at a time: y = Σ_k w_k t_k / Σ_k w_k with w = w_y w_xᵀ.

For tiles on a grid of rows and columns the sum of the weights factors: Σ w = (Σ w_y)(Σ w_x). Each factor is normalised
once, in float64 and along one axis, so that the weights of every pixel sum to one without an image of weights. `Strips`
copies a pixel of a single tile, and computes a pixel of several tiles as the running mean

    m ← m + α (t − m),  α = w_k / Σ_{j ≤ k} w_j

along x first and then along y: equal tiles return their value bit for bit. If a tile holds ±inf, t − m may be NaN, and
the running mean is (1 − α) m + α t instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from trueness.optimized._lib.dtypes import HALVES, compute_dtype
from trueness.optimized._lib.memory import in_large_pages


def window(n: int, kind: str) -> np.ndarray[Any, Any]:
    """`tile_window` in float64"""
    i = np.arange(n)
    if kind == "triangular":
        return (2 * np.minimum(i + 1, n - i) - (1 - n % 2)) / (n + n % 2)
    return np.sin(np.pi * (i + 1) / (n + 1)) ** 2


Windows = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def windows_of(h: int, w: int, kind: str) -> Windows:
    """The windows along both axes of a tile; the same array for a square tile"""
    along_y = window(h, kind)
    return along_y, along_y if h == w else window(w, kind)


class Axis:
    """The positions of the tiles along one axis and their weights, in float64.

    stride   distance of neighbours if it is constant and no pixel lies in three tiles, else 0
    shares   (K, n)  w_k / Σ w, which sum to one over the tiles of a pixel
    steps    (K, n)  α = w_k / Σ_{j ≤ k} w_j, which is 1 where tile k is the first
    ramp     (n − stride,)  for a constant stride: the steps in the overlap of two neighbours
    """

    def __init__(self, starts: Sequence[int], length: int, w: np.ndarray[Any, Any]) -> None:
        self.starts, self.length, self.n, self.w = list(starts), length, len(w), w
        differences = {b - a for a, b in pairwise(self.starts)} or {self.n}
        stride = differences.pop()
        self.stride = 0 if differences or 2 * stride < self.n else stride
        self._ramps: dict[tuple[torch.dtype, int], torch.Tensor] = {}

    @cached_property
    def steps(self) -> np.ndarray[Any, Any]:
        return self._weights[0]

    @cached_property
    def shares(self) -> np.ndarray[Any, Any]:
        return self._weights[1]

    @cached_property
    def _weights(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        total = np.zeros(self.length)
        steps = []
        for start in self.starts:
            total[start : start + self.n] += self.w
            steps.append(self.w / total[start : start + self.n])
        return np.stack(steps), np.stack([self.w / total[start : start + self.n] for start in self.starts])

    def ramp(self, dtype: torch.dtype, times: int = 1) -> torch.Tensor:
        """The steps in the overlap of two neighbours, each repeated ``times`` times; cached."""
        if (dtype, times) not in self._ramps:
            shared = self.w[: self.n - self.stride]
            steps = np.repeat(shared / (shared + self.w[self.stride :]), times)
            self._ramps[dtype, times] = torch.from_numpy(steps).to(dtype)
        return self._ramps[dtype, times]

    @staticmethod
    def covers(starts: Sequence[int], n: int, length: int) -> bool:
        """Whether tiles of length ``n`` at the sorted ``starts`` cover 0 … ``length`` − 1."""
        ends = [0, *(start + n for start in starts)]
        return all(start <= end for start, end in zip(starts, ends, strict=False)) and ends[-1] == length

    def shared(self, k: int) -> int:
        """The number of leading pixels of tile k that lie in the previous tile."""
        return self.starts[k - 1] + self.n - self.starts[k] if k else 0

    def finished(self, k: int) -> int:
        """The number of pixels of tile k that lie in no later tile."""
        return (self.starts[k + 1] - self.starts[k]) if k + 1 < len(self.starts) else self.n


class Grid:
    """Tiles at every pair of a row of ``rows`` and a column of ``columns``.

    at        (top, left) → index of the tile
    in_order  whether the tiles are sorted by rows, then columns
    """

    def __init__(self, rows: Axis, columns: Axis, at: dict[tuple[int, int], int]) -> None:
        self.rows, self.columns, self.at = rows, columns, at
        places = list(at)
        self.in_order = places == sorted(places)

    def weight(self, i: int, j: int, like: torch.Tensor) -> torch.Tensor:
        """The normalised weights (h, w) of a tile."""
        product = self.rows.shares[i][:, None] * self.columns.shares[j]
        return torch.from_numpy(product).to(like.device, compute_dtype(like.dtype))


def grid_of(
    tops: Sequence[int], lefts: Sequence[int], size: tuple[int, int], tile: tuple[int, int], kind: str
) -> Grid | None:
    """The grid of tiles at these positions; None if they form no grid, repeat a position or leave a pixel uncovered.

    The last few grids are cached, because a sampler blends the same grid in every step.
    """
    make = _make_grid if torch.compiler.is_compiling() else _cached_grid
    return make(tuple(tops), tuple(lefts), size, tile, kind)


def _make_grid(
    tops: tuple[int, ...], lefts: tuple[int, ...], size: tuple[int, int], tile: tuple[int, int], kind: str
) -> Grid | None:
    rows, columns = sorted(set(tops)), sorted(set(lefts))
    at = {place: k for k, place in enumerate(zip(tops, lefts, strict=True))}
    if not len(at) == len(tops) == len(rows) * len(columns):
        return None
    windows, (h, w), (height, width) = windows_of(*tile, kind), tile, size
    if not (Axis.covers(rows, h, height) and Axis.covers(columns, w, width)):
        return None
    of_rows = Axis(rows, height, windows[0])
    same = rows == columns and height == width and windows[0] is windows[1]
    return Grid(of_rows, of_rows if same else Axis(columns, width, windows[1]), at)


_cached_grid = lru_cache(maxsize=16)(_make_grid)


def _update_mean(m: torch.Tensor, t: torch.Tensor, step: torch.Tensor) -> None:
    """m ← m + α (t − m)"""
    mean = torch.lerp(m, t, step)
    if not bool(mean.sum().isfinite()):
        mean = torch.where(step == 1, t, (1 - step) * m + step * t)
    m.copy_(mean)


class Strips:
    """A blended image on the CPU; tiles are added in the order of rows, then columns.

    Additional memory: the rows in which two rows of tiles overlap; for half formats one row of tiles in float32.
    """

    def __init__(self, grid: Grid, like: torch.Tensor, out: torch.Tensor | None = None) -> None:
        self.grid, self.wide = grid, compute_dtype(like.dtype)
        self.lead = tuple(like.shape[:-2])
        shape = (*self.lead, grid.rows.length, grid.columns.length)
        self.image = in_large_pages(torch.empty(shape, dtype=like.dtype)) if out is None else out
        self.half = like.dtype in HALVES
        self.carried: torch.Tensor | None = None
        most = max((grid.rows.shared(i) for i in range(len(grid.rows.starts))), default=0)
        rows = grid.rows.n if self.half else most
        self.strip = torch.empty((*self.lead, rows, grid.columns.length), dtype=self.wide)
        self.steps = [torch.from_numpy(axis.steps).to(self.wide) for axis in (grid.rows, grid.columns)]

    def _add_to_strip(self, target: torch.Tensor, tile: torch.Tensor, j: int) -> None:
        """Update the running mean where the tile overlaps its left neighbour, and copy the rest."""
        left, shared = self.grid.columns.starts[j], self.grid.columns.shared(j)
        if shared:
            _update_mean(target[..., left : left + shared], tile[..., :shared].to(self.wide), self.steps[1][j, :shared])
        target[..., left + shared : left + tile.shape[-1]] = tile[..., shared:]

    def add(self, tile: torch.Tensor, i: int, j: int) -> None:
        """Add the tile at row ``i`` and column ``j`` of the grid."""
        rows, last = self.grid.rows, j + 1 == len(self.grid.columns.starts)
        top, shared = rows.starts[i], rows.shared(i)
        if self.half:
            self._add_to_strip(self.strip, tile, j)
            if last:
                self._finish(i)
            return
        self._add_to_strip(self.image[..., top + shared : top + rows.n, :], tile[..., shared:, :], j)
        if shared:
            self._add_to_strip(self.strip[..., :shared, :], tile[..., :shared, :], j)
            if last:
                step = self.steps[0][i, :shared, None]
                _update_mean(self.image[..., top : top + shared, :], self.strip[..., :shared, :], step)

    def _finish(self, i: int) -> None:
        """Round the rows of a half format that no later tile overlaps."""
        rows = self.grid.rows
        shared, done = rows.shared(i), rows.finished(i)
        if shared and self.carried is not None:
            step = self.steps[0][i, :shared, None]
            _update_mean(self.carried, self.strip[..., :shared, :], step)
            self.strip[..., :shared, :] = self.carried
        self.image[..., rows.starts[i] : rows.starts[i] + done, :] = self.strip[..., :done, :]
        self.carried = self.strip[..., done:, :].clone() if done < rows.n else None


class Sums:
    """Σ w t in torch operations, for gradients through a model, traces and other devices.

    On a grid the weights are normalised; otherwise Σ w is accumulated and the image divided by it.
    """

    def __init__(self, size: tuple[int, int], kind: str, grid: Grid | None) -> None:
        self.size, self.kind, self.grid = size, kind, grid
        self.total: torch.Tensor | None = None
        self.weights = torch.zeros(0)

    def add(self, tile: torch.Tensor, top: int, left: int) -> None:
        """Add a tile whose corner is at (top, left)."""
        h, w = tile.shape[-2:]
        wide = tile.to(compute_dtype(tile.dtype))
        if self.total is None:
            self.total = wide.new_zeros((*wide.shape[:-2], *self.size))
            if self.grid is None:
                self.weights = torch.zeros(self.size, dtype=torch.float64, device=tile.device)
        if self.grid is None:
            of_rows, of_columns = windows_of(h, w, self.kind)
            weight = torch.from_numpy(of_rows[:, None] * of_columns).to(tile.device)
            self.weights[top : top + h, left : left + w] += weight
            weight = weight.to(wide.dtype)
        else:
            i, j = self.grid.rows.starts.index(top), self.grid.columns.starts.index(left)
            weight = self.grid.weight(i, j, tile)
        self.total[..., top : top + h, left : left + w] += wide * weight

    def mean(self, dtype: torch.dtype) -> torch.Tensor:
        """The blended image."""
        assert self.total is not None
        return (self.total if self.grid is not None else self.total / self.weights.to(self.total.dtype)).to(dtype)
