"""torch operators around the CUDA kernels: the blending of tiles, its adjoint, and the Gaussian filter in frequency.

    trueness::blend, blend_adjoint        each is the other's backward
    trueness::fft_gaussian                its own backward by x; σ is a scalar tensor on the CPU

On the CPU these operators run only under Triton's interpreter, in tests.
"""

from __future__ import annotations

from typing import Any

import torch

from trueness.optimized.filters import fft
from trueness.optimized.filters import tiles as grids

Tensor = torch.Tensor


def _grid(rows: list[int], columns: list[int], tile: tuple[int, ...], size: tuple[int, ...], window: str) -> Any:
    grid = grids.grid_of(rows, columns, (size[0], size[1]), (tile[0], tile[1]), window)
    if grid is None:
        raise ValueError("rows × columns was no grid that covers the image; the kernel needs such a grid.")
    return grid


@torch.library.custom_op("trueness::blend", mutates_args=(), device_types=("cpu", "cuda"))
def blend(tiles: Tensor, rows: list[int], columns: list[int], height: int, width: int, window: str) -> Tensor:
    from trueness.optimized.filters.cuda import kernels

    return kernels.blend(tiles, _grid(rows, columns, tuple(tiles.shape[-2:]), (height, width), window))


@torch.library.custom_op("trueness::blend_adjoint", mutates_args=(), device_types=("cpu", "cuda"))
def blend_adjoint(image: Tensor, rows: list[int], columns: list[int], h: int, w: int, window: str) -> Tensor:
    from trueness.optimized.filters.cuda import kernels

    return kernels.cut(image, _grid(rows, columns, (h, w), tuple(image.shape[-2:]), window))


@torch.library.custom_op("trueness::fft_gaussian", mutates_args=(), device_types=("cpu", "cuda"))
def fft_gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    from trueness.optimized.filters.cuda import kernels, planes

    height, width = x.shape[-2:]
    factors = fft.gaussian_factors(height, width, float(sigma.detach()))
    if planes.fits(height, width):
        return planes.filtered(x, factors)
    return kernels.fft_filter(x, factors)


@torch.library.custom_op("trueness::fft_gaussian_slope", mutates_args=(), device_types=("cpu", "cuda"))
def fft_gaussian_slope(grad: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """∂/∂σ ⟨ȳ, y⟩"""
    number = float(sigma.detach())
    factors = fft.gaussian_factors(x.shape[-2], x.shape[-1], number)
    return torch.full_like(sigma, fft.grad_sigma(grad, x, factors, number))


@blend.register_fake
def _(tiles: Tensor, rows: list[int], columns: list[int], height: int, width: int, window: str) -> Tensor:
    return tiles.new_empty((*tiles.shape[1:-2], height, width))


@blend_adjoint.register_fake
def _(image: Tensor, rows: list[int], columns: list[int], h: int, w: int, window: str) -> Tensor:
    return image.new_empty((len(rows), *image.shape[:-2], h, w))


@fft_gaussian.register_fake
def _(x: Tensor, sigma: Tensor) -> Tensor:
    return torch.empty_like(x)


@fft_gaussian_slope.register_fake
def _(grad: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    return torch.empty_like(sigma)


def _save_places(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    first, ctx.rows, ctx.columns, _, _, ctx.window = inputs
    ctx.size = tuple(first.shape[-2:])


def _blend_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return blend_adjoint(grad, ctx.rows, ctx.columns, *ctx.size, ctx.window), None, None, None, None, None


def _adjoint_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return blend(grad, ctx.rows, ctx.columns, *ctx.size, ctx.window), None, None, None, None, None


def _save_sigma(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gaussian_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, sigma = ctx.saved_tensors
    grad_sigma = fft_gaussian_slope(grad, x, sigma) if ctx.needs_input_grad[1] else None
    return fft_gaussian(grad, sigma) if ctx.needs_input_grad[0] else None, grad_sigma


blend.register_autograd(_blend_backward, setup_context=_save_places)
blend_adjoint.register_autograd(_adjoint_backward, setup_context=_save_places)
fft_gaussian.register_autograd(_gaussian_backward, setup_context=_save_sigma)
