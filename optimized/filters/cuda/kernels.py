"""The Triton kernels of filters: tiles gathered into an image and back, and a spectrum times its two factors in place.

The rows of all planes form one axis, so that a program computes a block of rows × columns for any number of planes. A
pixel is the sum of the few tiles that cover it, each times a weight of its row and one of its column, normalised in
float64; a pixel of a single tile is copied. Row offsets are 64-bit and arithmetic is float32.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl

from trueness.optimized.filters import fft
from trueness.optimized.filters.tiles import Axis, Grid

ROWS, COLUMNS = 8, 128
WARPS = 4


@triton.jit
def blend_kernel(
    tiles, which, first_y, first_x, starts_y, starts_x, shares_y, shares_x, out, rows, height, width, h, w, down,
    across, planes, MOST_Y: tl.constexpr, MOST_X: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The image, (planes · height, width): of every pixel the tiles first … first + MOST − 1 of both axes."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside_y, inside_x = row < rows, column < width
    plane, y = row // height, (row % height).to(tl.int32)
    near_y = tl.load(first_y + y, mask=inside_y, other=0)
    near_x = tl.load(first_x + column, mask=inside_x, other=0)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for a in tl.static_range(MOST_Y):
        i = near_y + a
        mask_y = inside_y & (i < down)
        at_y = y - tl.load(starts_y + i, mask=mask_y, other=0)
        mask_y &= (at_y >= 0) & (at_y < h)
        weight_y = tl.load(shares_y + i * h + at_y, mask=mask_y, other=0.0)
        for b in tl.static_range(MOST_X):
            j = near_x + b
            mask_x = inside_x & (j < across)
            at_x = column - tl.load(starts_x + j, mask=mask_x, other=0)
            mask_x &= (at_x >= 0) & (at_x < w)
            weight_x = tl.load(shares_x + j * w + at_x, mask=mask_x, other=0.0)
            mask = mask_y[:, None] & mask_x[None, :]
            tile = tl.load(which + (i[:, None] * across + j[None, :]), mask=mask, other=0).to(tl.int64)
            place = tiles + ((tile * planes + plane[:, None]) * h + at_y[:, None]) * w + at_x[None, :]
            value = tl.load(place, mask=mask, other=0.0).to(tl.float32)
            total += weight_y[:, None] * weight_x[None, :] * value
    tl.store(out + (row[:, None] * width + column[None, :]), total, mask=inside_y[:, None] & inside_x[None, :])


@triton.jit
def cut_kernel(
    image, of_y, of_x, starts_y, starts_x, shares_y, shares_x, out, rows, height, width, h, w, planes,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The adjoint, (tiles · planes · h, w): every tile is its part of the image times its weights."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside_y, inside_x = row < rows, column < w
    tile, plane, y = row // h // planes, row // h % planes, row % h
    i = tl.load(of_y + tile, mask=inside_y, other=0)
    j = tl.load(of_x + tile, mask=inside_y, other=0)
    top = tl.load(starts_y + i, mask=inside_y, other=0)
    left = tl.load(starts_x + j, mask=inside_y, other=0)
    mask = inside_y[:, None] & inside_x[None, :]
    weight_y = tl.load(shares_y + i * h + y, mask=inside_y, other=0.0)
    weight_x = tl.load(shares_x + (j * w)[:, None] + column[None, :], mask=mask, other=0.0)
    place = image + ((plane * height + top + y) * width + left)[:, None] + column[None, :]
    value = tl.load(place, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + (row[:, None] * w + column[None, :]), value * (weight_y[:, None] * weight_x), mask=mask)


@triton.jit
def scale_kernel(spectrum, gains_y, gains_x, rows, height, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """spectrum (planes · height, width) ← itself · g_y g_x, in place; width counts real and imaginary parts."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside_y, inside_x = row < rows, column < width
    gain_y = tl.load(gains_y + row % height, mask=inside_y, other=0.0)
    gain_x = tl.load(gains_x + column // 2, mask=inside_x, other=0.0)
    place = spectrum + (row[:, None] * width + column[None, :])
    mask = inside_y[:, None] & inside_x[None, :]
    value = tl.load(place, mask=mask, other=0.0)
    scaled = value * gain_y[:, None] * gain_x[None, :]
    scaled = tl.where(
        tl.abs(value) < float("inf"), scaled, float("nan")
    )  # ±inf spreads as NaN, as in a complex product
    tl.store(place, scaled, mask=mask)


# -- launching --------------------------------------------------------------------------------------------------------


def interpreted() -> bool:
    return bool(triton.knobs.runtime.interpret)


def _block(rows: int, columns: int) -> dict[str, int]:
    """Block sizes; under the interpreter about half of each axis, to test a second program and a partial block."""
    if interpreted():
        tall, wide = (max(1, triton.next_power_of_2(n) // 2) for n in (rows, columns))
        return {"ROWS": tall, "COLUMNS": wide}
    return {"ROWS": ROWS, "COLUMNS": COLUMNS}


def _launch(kernel: Any, rows: int, columns: int, *arguments: Any, **constants: int) -> None:
    block = _block(rows, columns)
    grid = (triton.cdiv(rows, block["ROWS"]), triton.cdiv(columns, block["COLUMNS"]))
    if grid[0] and grid[1]:
        kernel[grid](*arguments, **constants, **block, num_warps=WARPS)


def _to_device(values: Any, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.as_tensor(values).to(device, dtype).contiguous()


def _covering_tiles(axis: Axis) -> tuple[list[int], int]:
    """(the first tile that covers each pixel, the largest number of tiles that cover one)"""
    first, most, k = [], 1, 0
    for pixel in range(axis.length):
        while axis.starts[k] + axis.n <= pixel:
            k += 1
        first.append(k)
        reach = sum(1 for start in axis.starts[k:] if start <= pixel < start + axis.n)
        most = max(most, reach)
    return first, most


def _axes(grid: Grid, device: torch.device) -> list[torch.Tensor]:
    starts = [_to_device(axis.starts, torch.int32, device) for axis in (grid.rows, grid.columns)]
    return starts + [_to_device(axis.shares, torch.float32, device) for axis in (grid.rows, grid.columns)]


def _readable(x: torch.Tensor) -> torch.Tensor:
    """The contiguous tensor a kernel reads: float32 under the interpreter, which flushes bfloat16 subnormals."""
    return (x.float() if interpreted() and x.dtype == torch.bfloat16 else x).contiguous()


def _empty_output(shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """The tensor a kernel writes: float32 under the interpreter, which truncates half formats instead of rounding."""
    wide = interpreted() and like.element_size() == 2
    return torch.empty(shape, dtype=torch.float32 if wide else like.dtype, device=like.device)


def blend(tiles: torch.Tensor, grid: Grid) -> torch.Tensor:
    """The image of tiles (N, ..., h, w) on a grid."""
    lead, (h, w) = tuple(tiles.shape[1:-2]), tiles.shape[-2:]
    height, width, planes = grid.rows.length, grid.columns.length, math.prod(lead)
    (first_y, most_y), (first_x, most_x) = _covering_tiles(grid.rows), _covering_tiles(grid.columns)
    numbers = [[grid.at[top, left] for left in grid.columns.starts] for top in grid.rows.starts]
    which, near_y, near_x = (_to_device(t, torch.int32, tiles.device) for t in (numbers, first_y, first_x))
    out = _empty_output((*lead, height, width), tiles)
    _launch(
        blend_kernel, planes * height, width, _readable(tiles), which, near_y, near_x, *_axes(grid, tiles.device), out,
        planes * height, height, width, h, w, len(grid.rows.starts), len(grid.columns.starts), planes,
        MOST_Y=most_y, MOST_X=most_x,
    )  # fmt: skip
    return out.to(tiles.dtype)


def cut(image: torch.Tensor, grid: Grid) -> torch.Tensor:
    """The adjoint of ``blend``: tiles (N, ..., h, w) of an image (..., H, W)."""
    lead, (height, width) = tuple(image.shape[:-2]), image.shape[-2:]
    h, w, planes, count = grid.rows.n, grid.columns.n, math.prod(lead), len(grid.at)
    places = sorted(
        (k, grid.rows.starts.index(top), grid.columns.starts.index(left)) for (top, left), k in grid.at.items()
    )
    of_y, of_x = (_to_device([p[i] for p in places], torch.int32, image.device) for i in (1, 2))
    out = _empty_output((count, *lead, h, w), image)
    rows = count * planes * h
    _launch(
        cut_kernel, rows, w, _readable(image), of_y, of_x, *_axes(grid, image.device), out, rows, height, width, h, w,
        planes,
    )  # fmt: skip
    return out.to(image.dtype)


def scale(spectrum: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> None:
    """spectrum (..., H, W') ← spectrum · rows (H,) · columns (W',), in place; complex64 and contiguous."""
    height, width = spectrum.shape[-2], 2 * spectrum.shape[-1]
    count = spectrum.numel() // max(spectrum.shape[-1], 1)
    flat = torch.view_as_real(spectrum)
    _launch(scale_kernel, count, width, flat, rows.contiguous(), columns.contiguous(), count, height, width)


def fft_filter(x: torch.Tensor, factors: fft.Factors) -> torch.Tensor:
    """F⁻¹(g_y g_xᵀ · F x) as `fft.apply_factors`, the kept columns of the spectrum scaled by one kernel."""
    height, width = x.shape[-2:]
    kept = factors.kept_columns(torch.float32)
    rows = _to_device(factors.rows, torch.float32, x.device)
    columns = _to_device(factors.columns[:kept] / (height * width), torch.float32, x.device)
    out = torch.empty_like(x)
    for piece, target in fft.iter_chunks(x, out):
        spectrum = torch.fft.rfft(piece.float())[..., :kept]
        spectrum = torch.fft.fft(spectrum, dim=-2).contiguous()
        scale(spectrum, rows, columns)
        spectrum = torch.fft.ifft(spectrum, dim=-2, norm="forward")
        target.copy_(torch.fft.irfft(spectrum, n=width, norm="forward"))
    return out
