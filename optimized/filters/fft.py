"""Separable filters in frequency: y = F⁻¹(g_y g_xᵀ · F x), a few planes at a time, with the transforms' own adjoint.

The two factors are computed in float64 and rounded once; their product is not stored. Columns whose gain is below u/4,
u the unit roundoff of the working format, are dropped: by Cauchy–Schwarz and Parseval the root mean square of what is
omitted is at most u/4 of that of x, while the rounding errors of the two transforms are about u log₂(HW) of it.
Real and even gains make the filter its own adjoint: ∂/∂x ⟨ȳ, y⟩ is the filter of ȳ. With the transforms X and Ȳ,
∂/∂σ ⟨ȳ, y⟩ = Σ_f Re(X̄ Ȳ) (−4π²σ|f|² G)/(HW), which needs no inverse transform.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from trueness.optimized._lib.dtypes import compute_dtype
from trueness.optimized._lib.memory import in_large_pages
from trueness.optimized._lib.threads import parallel
from trueness.optimized.filters.fft_blocked import filter_in_blocks
from trueness.optimized.filters.planes import iter_planes

SPECTRUM = 5 << 18  # bytes of spectra per thread at a time; a plane with a larger spectrum is filtered in blocks
DEVICE_SPECTRUM = 1 << 23  # the same on a device, where launches cost more than cache misses
Device = torch.device | str | None


class Factors(NamedTuple):
    """Gains in float64: rows (H,) and columns (W//2 + 1,), on the CPU."""

    rows: torch.Tensor
    columns: torch.Tensor

    def kept_columns(self, dtype: torch.dtype) -> int:
        """The number of columns up to the last with a gain of at least u/4, or NaN."""
        u = torch.finfo(dtype).eps / 2
        below = self.columns.abs() < u / 4
        return max(int((~below).nonzero().max()) + 1, 1) if bool((~below).any()) else 1


def signed_indices(n: int) -> np.ndarray[Any, Any]:
    """0, 1, …, −2, −1 (n,): the frequencies of a DFT times n"""
    k = np.arange(n)
    return np.where(2 * k < n, k, k - n)


def gaussian_factors(height: int, width: int, sigma: float) -> Factors:
    """exp(−2π²σ² f²) of each axis"""
    with np.errstate(over="ignore", invalid="ignore"):
        rows, columns = (
            np.exp(-2 * np.pi**2 * np.float64(sigma) ** 2 * (k / n) ** 2)
            for k, n in ((signed_indices(height), height), (np.arange(width // 2 + 1), width))
        )
    return Factors(torch.from_numpy(rows), torch.from_numpy(columns))


def sampled_factors(height: int, width: int, epsilon: float) -> Factors:
    """DFT of exp(−r²/(2ε²))/Σ of each axis, r the signed integers of one period"""
    found = []
    for n in (height, width):
        taps = np.exp(-(signed_indices(n).astype(np.float64) ** 2) / (2 * epsilon**2))
        found.append(np.fft.fft(taps / taps.sum()).real)
    return Factors(torch.from_numpy(found[0]), torch.from_numpy(found[1][: width // 2 + 1].copy()))


# -- CPU --------------------------------------------------------------------------------------------------------------


def iter_chunks(x: torch.Tensor, *others: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Views (p, H, W) of tensors of one shape, of at most SPECTRUM bytes of spectrum each, or of one plane."""
    item = 16 if x.dtype == torch.float64 else 8
    most = SPECTRUM if x.device.type == "cpu" else DEVICE_SPECTRUM
    return iter_planes(max(1, most // max(1, item * x.shape[-2] * (x.shape[-1] // 2 + 1))), x, *others)


def apply_factors(x: torch.Tensor, factors: Factors, out: torch.Tensor | None = None) -> torch.Tensor:
    """The filter of x, into ``out`` or a fresh tensor in the memory format of x; ``out`` may be x itself."""
    result = in_large_pages(torch.empty_like(x)) if out is None else out
    inner = compute_dtype(x.dtype)
    height, width = x.shape[-2:]
    kept = factors.kept_columns(inner)
    rows = factors.rows.to(inner)
    columns = (factors.columns[:kept] / (height * width)).to(inner)
    large = 2 * inner.itemsize * height * len(factors.columns) > SPECTRUM
    chunks, threads = list(iter_chunks(x, result)), torch.get_num_threads()
    if not large:  # on the calling thread, because the last bits of a transform depend on its number of threads
        for piece, target in chunks:
            filter_planes(piece, target, rows, columns)
        return result

    def work(start: int, stop: int, threads: int = 1) -> None:
        for piece, target in chunks[start:stop]:
            filter_in_blocks(piece[0], target[0], rows, columns, threads)

    shared = len(chunks) - len(chunks) % threads  # as many planes for each thread; several threads share the others
    if shared:
        parallel(work, shared, threads)
    work(shared, len(chunks), threads)
    return result


def filter_planes(x: torch.Tensor, out: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> None:
    """out ← the filter of planes (p, H, W) by gains (H,) and (kept,)."""
    if len(columns) == x.shape[-1] // 2 + 1:
        spectrum = torch.fft.rfft2(x.to(rows.dtype))
    else:
        spectrum = torch.fft.fft(torch.fft.rfft(x.to(rows.dtype))[..., : len(columns)], dim=-2)
    spectrum.mul_(rows[:, None]).mul_(columns)
    spectrum = torch.fft.ifft(spectrum, dim=-2, norm="forward")
    out.copy_(torch.fft.irfft(spectrum, n=x.shape[-1], norm="forward"))


def grad_sigma(grad: torch.Tensor, x: torch.Tensor, factors: Factors, sigma: float) -> float:
    """Σ_f w Re(X̄ Ȳ) (−4π²σ|f|² G)/(HW) in float64; w = 2 for columns whose mirror image rfft2 omits, else 1"""
    height, width = x.shape[-2:]
    inner = compute_dtype(x.dtype)
    columns = width // 2 + 1
    total = torch.zeros(height, columns, dtype=torch.float64, device=x.device)
    for piece, grad_piece in iter_chunks(x, grad):
        both = torch.fft.rfft2(piece.to(inner)), torch.fft.rfft2(grad_piece.to(inner))
        total += torch.view_as_real(both[0]).mul_(torch.view_as_real(both[1])).sum((0, -1), dtype=torch.float64)
    mirrored = np.full(columns, 2.0)
    mirrored[0] = 1
    mirrored[-1] = 1 if width % 2 == 0 or columns == 1 else 2
    rows, along_x = factors.rows.numpy(), factors.columns.numpy() * mirrored
    f_y, f_x = (signed_indices(height) / height) ** 2, (np.arange(columns) / width) ** 2
    power = total.cpu().numpy()
    slope = (rows * f_y) @ power @ along_x + rows @ power @ (along_x * f_x)
    return float(-4 * math.pi**2 * sigma * slope / (height * width))


# -- torch operations, for traces and transforms ----------------------------------------------------------------------


def frequencies(height: int, width: int, device: Device) -> tuple[torch.Tensor, torch.Tensor]:
    """f_y (H, 1) and f_x (W//2 + 1,), cycles per sample"""
    k = torch.arange(height, dtype=torch.float64, device=device)
    f_y = torch.where(2 * k < height, k, k - height)[:, None] / height
    return f_y, torch.arange(width // 2 + 1, dtype=torch.float64, device=device) / width


def gaussian_gains(height: int, width: int, sigma: float | torch.Tensor, device: Device) -> torch.Tensor:
    """G (H, W//2 + 1) in float64, differentiable by a σ that is a tensor"""
    f_y, f_x = frequencies(height, width, device)
    s = sigma.to(f_x) if isinstance(sigma, torch.Tensor) else sigma
    gains: torch.Tensor = torch.exp(-2 * math.pi**2 * (s * s) * (f_y**2 + f_x**2))
    return gains


def match_memory_format(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """y in the dtype of x, and channels-last if x is."""
    y = y.to(x.dtype)
    if x.ndim == 4 and x.shape[1] > 1 and x.stride(1) == 1 and x.stride(3) == x.shape[1]:
        return y.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    return y


def apply_gains(x: torch.Tensor, gains: torch.Tensor) -> torch.Tensor:
    """F⁻¹(K · F x) for real float64 gains K on the rfft2 grid; divided by H W first, so that the sum cannot overflow"""
    if 0 in x.shape:  # MKL rejects empty batches
        return x.clone()
    height, width, inner = *x.shape[-2:], compute_dtype(x.dtype)
    spectrum = torch.fft.rfft2(x.to(inner)) * (gains / (height * width)).to(inner)
    return match_memory_format(torch.fft.irfft2(spectrum, s=(height, width), norm="forward"), x)


class GaussianFilter(torch.autograd.Function):
    """The Gaussian filter; σ is a number or a CPU tensor. x is saved only if σ requires a gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        ctx.factors = gaussian_factors(x.shape[-2], x.shape[-1], float(sigma))
        learned = isinstance(sigma, torch.Tensor) and sigma.requires_grad
        ctx.save_for_backward(*((x, sigma) if learned else ()))
        ctx.sigma = float(sigma)
        return apply_factors(x, ctx.factors)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        saved = ctx.saved_tensors
        if torch.is_grad_enabled():  # double backward
            sigma = saved[1] if saved else ctx.sigma
            height, width = grad.shape[-2:]
            gains = gaussian_gains(height, width, sigma, grad.device)
            grad_s = None
            if saved:
                f_y, f_x = frequencies(height, width, grad.device)
                slope = -4 * math.pi**2 * sigma.to(f_x) * (f_y**2 + f_x**2) * gains
                grad_s = (apply_gains(saved[0], slope).to(f_x) * grad).sum().to(sigma.dtype)
            return apply_gains(grad, gains), grad_s
        grad_x = apply_factors(grad, ctx.factors) if ctx.needs_input_grad[0] else None
        if not saved:
            return grad_x, None
        x, sigma = saved
        if not ctx.needs_input_grad[1]:
            return grad_x, None
        return grad_x, torch.full_like(sigma, grad_sigma(grad, x, ctx.factors, ctx.sigma))


class FixedFilter(torch.autograd.Function):
    """A filter with constant factors, which is its own adjoint."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, factors: Factors) -> torch.Tensor:  # type: ignore[override]
        ctx.factors = factors
        return apply_factors(x, factors)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        return FixedFilter.apply(grad, ctx.factors), None  # type: ignore[no-untyped-call]
