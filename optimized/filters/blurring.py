"""Blur with a row of taps along both axes, reflected at the border: a few rows at a time, and its adjoint.

    y_i = Σ_j c_j x(i + j − k//2),  x(−i) = x(i),  x(n − 1 + i) = x(n − 1 − i)

A sum of shifted rows, not a convolution of the library: nothing is computed in TF32, and no copy of the image is made.
The adjoint adds c_j ȳ to a longer row and folds its two ends back.
"""

from __future__ import annotations

from typing import Any

import torch

from trueness.optimized._lib.dtypes import compute_dtype
from trueness.optimized._lib.elementwise import CHUNK
from trueness.optimized._lib.memory import in_large_pages


def along(x: torch.Tensor, taps: torch.Tensor, axis: int) -> torch.Tensor:
    """The sum along ``axis`` in plain operations; no gather, so the gradient has no race"""
    k, n = len(taps), x.shape[axis]
    if k == 1:
        return x * taps[0]
    before = x.narrow(axis, 1, k // 2).flip(axis)
    after = x.narrow(axis, n - 1 - k // 2, k // 2).flip(axis)
    wide = torch.cat([before, x, after], axis)
    total = wide.narrow(axis, 0, n) * taps[0]
    for j in range(1, k):
        total = total + wide.narrow(axis, j, n) * taps[j]
    return total


def _reflected(first: int, last: int, n: int) -> list[int]:
    """The rows first … last − 1, those beyond the border by their mirror images."""
    return [-i if i < 0 else 2 * (n - 1) - i if i >= n else i for i in range(first, last)]


def _summed(wide: torch.Tensor, taps: list[float], axis: int, total: torch.Tensor) -> torch.Tensor:
    n = total.shape[axis]
    torch.mul(wide.narrow(axis, 0, n), taps[0], out=total)
    for j in range(1, len(taps)):
        total.add_(wide.narrow(axis, j, n), alpha=taps[j])
    return total


def _rows(x: torch.Tensor, taps: list[float], first: int, last: int, scratch: list[torch.Tensor]) -> torch.Tensor:
    """Rows first … last − 1 of the result, from those rows of x and k//2 on either side (p, ·, W)"""
    reach, (count, height, width) = len(taps) // 2, x.shape
    inside = max(first - reach, 0), min(last + reach, height)
    above, rows = inside[0] - (first - reach), last - first
    shapes = ((rows + 2 * reach, width + 2 * reach), (rows + 2 * reach, width), (rows, width))
    wide, across, found = (
        block[: count * h * w].view(count, h, w) for block, (h, w) in zip(scratch, shapes, strict=True)
    )
    middle = wide[..., reach : reach + width]
    middle[:, above : above + inside[1] - inside[0]] = x[:, inside[0] : inside[1]]
    for k, i in enumerate(_reflected(first - reach, inside[0], height)):
        middle[:, k] = x[:, i]
    for k, i in enumerate(_reflected(inside[1], last + reach, height)):
        middle[:, above + inside[1] - inside[0] + k] = x[:, i]
    for k in range(reach):
        wide[..., k] = wide[..., 2 * reach - k]
        wide[..., -1 - k] = wide[..., -1 - 2 * reach + k]
    return _summed(_summed(wide, taps, -1, across), taps, -2, found)


def in_tiles(x: torch.Tensor, taps: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """The blur of x (..., H, W), into ``out`` or a fresh tensor in the memory format of x."""
    result = in_large_pages(torch.empty_like(x)) if out is None else out
    weights, reach = taps.tolist(), len(taps) // 2
    scratch: list[torch.Tensor] = []
    for piece, place in pieces(x, result):
        count, height, width = piece.shape
        step = max(1, min(height, CHUNK // (width * count)))
        if not scratch:  # the first piece is the largest
            most = count * (step + 2 * reach) * (width + 2 * reach)
            scratch = [torch.empty(most, dtype=taps.dtype) for _ in range(3)]
        for first in range(0, height, step):
            last = min(first + step, height)
            place[:, first:last] = _rows(piece, weights, first, last, scratch)
    return result


def pieces(*tensors: torch.Tensor) -> Any:
    """Pieces (p, H, W) of tensors of one shape, of at most CHUNK elements, p ≥ 1"""
    x = tensors[0]
    if 0 in x.shape:
        return
    if x.ndim == 2:
        yield tuple(t[None] for t in tensors)
    elif x.ndim == 3:
        together = max(1, CHUNK // (x.shape[-2] * x.shape[-1]))
        for k in range(0, len(x), together):
            yield tuple(t[k : k + together] for t in tensors)
    else:
        try:
            tensors = tuple(t.view(-1, *x.shape[-2:]) for t in tensors)
        except RuntimeError:  # interleaved in memory
            for k in range(len(x)):
                yield from pieces(*(t[k] for t in tensors))
            return
        yield from pieces(*tensors)


def _adjoint_along(g: torch.Tensor, taps: list[float], axis: int) -> torch.Tensor:
    n, reach = g.shape[axis], len(taps) // 2
    shape = list(g.shape)
    shape[axis] += 2 * reach
    wide = g.new_zeros(shape)
    for j, tap in enumerate(taps):
        wide.narrow(axis, j, n).add_(g, alpha=tap)
    found = wide.narrow(axis, reach, n)
    if reach:
        found.narrow(axis, 1, reach).add_(wide.narrow(axis, 0, reach).flip(axis))
        found.narrow(axis, n - 1 - reach, reach).add_(wide.narrow(axis, n + reach, reach).flip(axis))
    return found


class Blur(torch.autograd.Function):
    """K_y x K_xᵀ and its adjoint K_yᵀ ȳ K_x; nothing is saved."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        ctx.taps, ctx.adjoint = taps, False
        return in_tiles(x, taps)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        return Adjoint.apply(grad, ctx.taps), None  # type: ignore[no-untyped-call]


class Adjoint(torch.autograd.Function):
    """K_yᵀ g K_x, whose own adjoint is the blur."""

    @staticmethod
    def forward(ctx: Any, g: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        ctx.taps = taps
        result, weights = in_large_pages(torch.empty_like(g)), taps.tolist()
        for piece, place in pieces(g, result):
            inner = piece.to(compute_dtype(piece.dtype))
            place.copy_(_adjoint_along(_adjoint_along(inner, weights, -2), weights, -1))
        return result

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        return Blur.apply(grad, ctx.taps), None  # type: ignore[no-untyped-call]
