"""Blur with a row of taps along both axes, reflected at the border: a few rows at a time, and its adjoint.

    y_i = Σ_j c_j x(i + j − k//2),  x(−i) = x(i),  x(n − 1 + i) = x(n − 1 − i)

The result is a sum of shifted rows, computed without TF32 and without a padded copy of the image. The adjoint adds
c_j ȳ to a padded row and folds the two ends back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from trueness.optimized._lib.dtypes import compute_dtype
from trueness.optimized._lib.elementwise import CHUNK
from trueness.optimized._lib.memory import in_large_pages
from trueness.optimized._lib.workspace import Workspace
from trueness.optimized.filters.planes import iter_planes


def filter_axis(x: torch.Tensor, taps: torch.Tensor, axis: int) -> torch.Tensor:
    """The sum along ``axis`` in differentiable operations; without gather, so that the gradient is deterministic."""
    k, n = len(taps), x.shape[axis]
    if k == 1:
        return x * taps[0]
    before = x.narrow(axis, 1, k // 2).flip(axis)
    after = x.narrow(axis, n - 1 - k // 2, k // 2).flip(axis)
    padded = torch.cat([before, x, after], axis)
    total = padded.narrow(axis, 0, n) * taps[0]
    for j in range(1, k):
        total = total + padded.narrow(axis, j, n) * taps[j]
    return total


def _reflected_rows(first: int, last: int, n: int) -> list[int]:
    """The rows first … last − 1; rows beyond the border are replaced by their mirror images."""
    return [-i if i < 0 else 2 * (n - 1) - i if i >= n else i for i in range(first, last)]


def _weighted_sum(padded: torch.Tensor, taps: list[float], axis: int, total: torch.Tensor) -> torch.Tensor:
    n = total.shape[axis]
    torch.mul(padded.narrow(axis, 0, n), taps[0], out=total)
    for j in range(1, len(taps)):
        total.add_(padded.narrow(axis, j, n), alpha=taps[j])
    return total


def _blur_rows(x: torch.Tensor, taps: list[float], first: int, last: int, workspace: Workspace) -> torch.Tensor:
    """Rows first … last − 1 of the blur of planes (p, H, W), from k//2 more rows of x on either side."""
    reach, (count, height, width) = len(taps) // 2, x.shape
    inside = max(first - reach, 0), min(last + reach, height)
    above, rows = inside[0] - (first - reach), last - first
    padded = workspace("padded", (count, rows + 2 * reach, width + 2 * reach))
    along_x = workspace("along x", (count, rows + 2 * reach, width))
    y = workspace("y", (count, rows, width))
    middle = padded[..., reach : reach + width]
    middle[:, above : above + inside[1] - inside[0]] = x[:, inside[0] : inside[1]]
    for k, i in enumerate(_reflected_rows(first - reach, inside[0], height)):
        middle[:, k] = x[:, i]
    for k, i in enumerate(_reflected_rows(inside[1], last + reach, height)):
        middle[:, above + inside[1] - inside[0] + k] = x[:, i]
    for k in range(reach):
        padded[..., k] = padded[..., 2 * reach - k]
        padded[..., -1 - k] = padded[..., -1 - 2 * reach + k]
    return _weighted_sum(_weighted_sum(padded, taps, -1, along_x), taps, -2, y)


def blur_in_chunks(x: torch.Tensor, taps: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """The blur of x (..., H, W), into ``out`` or a fresh tensor in the memory format of x."""
    result = in_large_pages(torch.empty_like(x)) if out is None else out
    weights = taps.tolist()
    workspace = Workspace(torch.empty(0, dtype=taps.dtype))
    for planes, target in iter_chunks(x, result):
        count, height, width = planes.shape
        step = max(1, min(height, CHUNK // (width * count)))
        for first in range(0, height, step):
            last = min(first + step, height)
            target[:, first:last] = _blur_rows(planes, weights, first, last, workspace)
    return result


def iter_chunks(*tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Chunks of planes of at most CHUNK elements, or of one plane."""
    return iter_planes(max(1, CHUNK // max(1, math.prod(tensors[0].shape[-2:]))), *tensors)


def _adjoint_along(g: torch.Tensor, taps: list[float], axis: int) -> torch.Tensor:
    n, reach = g.shape[axis], len(taps) // 2
    shape = list(g.shape)
    shape[axis] += 2 * reach
    padded = g.new_zeros(shape)
    for j, tap in enumerate(taps):
        padded.narrow(axis, j, n).add_(g, alpha=tap)
    result = padded.narrow(axis, reach, n)
    if reach:
        result.narrow(axis, 1, reach).add_(padded.narrow(axis, 0, reach).flip(axis))
        result.narrow(axis, n - 1 - reach, reach).add_(padded.narrow(axis, n + reach, reach).flip(axis))
    return result


class Blur(torch.autograd.Function):
    """K_y x K_xᵀ, with the adjoint K_yᵀ ȳ K_x; no tensor is saved."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        ctx.taps, ctx.adjoint = taps, False
        return blur_in_chunks(x, taps)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        return Adjoint.apply(grad, ctx.taps), None  # type: ignore[no-untyped-call]


class Adjoint(torch.autograd.Function):
    """K_yᵀ g K_x, whose own adjoint is the blur."""

    @staticmethod
    def forward(ctx: Any, g: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        ctx.taps = taps
        result, weights = in_large_pages(torch.empty_like(g)), taps.tolist()
        for planes, target in iter_chunks(g, result):
            inner = planes.to(compute_dtype(planes.dtype))
            target.copy_(_adjoint_along(_adjoint_along(inner, weights, -2), weights, -1))
        return result

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        return Blur.apply(grad, ctx.taps), None  # type: ignore[no-untyped-call]
