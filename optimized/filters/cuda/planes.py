"""The filter in frequency of small planes in one Triton kernel: two products with circulant matrices, Y = K_y X K_x.

    K_y[i, j] = k_y[|i − j|],  k_y = F⁻¹ g_y        (circulant, and symmetric because the gains are real and even)

A program computes PART columns of as many whole planes, stacked along y, as fit in 64 rows: K_x acts on every row, and
K_y is block diagonal over the planes. The first rows k are computed in float64 from the gains and rounded once. Each
product is three TF32 products ("tf32x3"), which keep 22 bits of every factor; half formats are rounded once.
Programs of the same planes are neighbours, so that the planes are read from memory once.
The filter, and so the kernel, is its own adjoint.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from trueness.optimized.filters import fft
from trueness.optimized.filters.cuda.kernels import _empty_output, _readable, _to_device, interpreted

LARGEST = 64  # rows and columns of a plane
PART = 16  # columns of a program; more would exceed the registers because of the split into TF32 parts
WARPS = 4


@triton.jit
def planes_kernel(
    x, first, out, rows, height, width, together,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PART: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """PART columns of ``together`` rows, which are whole planes, of x (rows, width); first holds k_y and k_x."""
    parts = (width + PART - 1) // PART
    start = (tl.program_id(0) // parts).to(tl.int64) * together
    row, column = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    inside = row < tl.minimum(rows - start, together).to(tl.int32)
    place = start * width + (row[:, None] * width + column[None, :])
    value = tl.load(x + place, mask=inside[:, None] & (column < width)[None, :], other=0.0).to(tl.float32)
    finite = tl.abs(value) < float("inf")
    value = tl.where(finite, value, 0.0)
    plane = row // height
    same = (plane[:, None] == plane[None, :]) & inside[:, None] & inside[None, :]
    k_y = tl.load(first + tl.abs(row[:, None] - row[None, :]), mask=same, other=0.0)
    lost = tl.sum(tl.where(finite, 0.0, 1.0), 1)  # a plane with NaN or ±inf is NaN, and no other
    lost = tl.sum(tl.where(same, lost[None, :], 0.0), 1)
    part = tl.program_id(0) % parts * PART + tl.arange(0, PART)
    mask = (column < width)[:, None] & (part < width)[None, :]
    k_x = tl.load(first + height + tl.abs(column[:, None] - part[None, :]), mask=mask, other=0.0)
    y = tl.dot(value, k_x, input_precision=PRECISION)
    y = tl.dot(k_y, y, input_precision=PRECISION)
    y = tl.where(lost[:, None] > 0, float("nan"), y)
    place = start * width + (row[:, None] * width + part[None, :])
    tl.store(out + place, y, mask=inside[:, None] & (part < width)[None, :])


# -- launching --------------------------------------------------------------------------------------------------------


def fits(height: int, width: int) -> bool:
    """Whether planes of this size can be filtered by this kernel."""
    return max(height, width) <= LARGEST


def block(height: int, width: int) -> tuple[int, dict[str, int]]:
    """(rows of whole planes that a program takes, its tile); interpreted, two planes and half of the columns."""
    if interpreted():
        wide = triton.next_power_of_2(width)
        tile = {"ROWS": triton.next_power_of_2(2 * height), "COLUMNS": wide, "PART": max(1, wide // 2)}
        return 2 * height, tile
    wide = max(PART, triton.next_power_of_2(width))
    return LARGEST // height * height, {"ROWS": LARGEST, "COLUMNS": wide, "PART": PART}


def first_rows(factors: fft.Factors, width: int) -> torch.Tensor:
    """k_y (H,) and k_x (W,), one after the other, in float64: the inverse transforms of the gains"""
    k_y, k_x = torch.fft.ifft(factors.rows).real, torch.fft.irfft(factors.columns, n=width)
    return torch.cat([k_y, k_x])


def filtered(x: torch.Tensor, factors: fft.Factors) -> torch.Tensor:
    """F⁻¹(g_y g_xᵀ · F x) as `fft.apply_factors`, for planes that fit."""
    height, width = x.shape[-2:]
    rows = x.numel() // width
    together, tile = block(height, width)
    y = _empty_output(tuple(x.shape), x)
    if rows:
        planes_kernel[(triton.cdiv(rows, together) * triton.cdiv(width, tile["PART"]),)](
            _readable(x), _to_device(first_rows(factors, width), torch.float32, x.device), y, rows, height, width,
            together,
            **tile, PRECISION="ieee" if interpreted() else "tf32x3", num_warps=WARPS,
        )  # fmt: skip
    return y.to(x.dtype) if x.is_contiguous() else torch.empty_like(x).copy_(y)
