"""Separable filters in frequency: y = F⁻¹(g_y g_xᵀ · F x), a few planes at a time, with the transforms' own adjoint.

The two factors are made in float64 and rounded once; no filter of two axes is ever made. Columns whose gain is below a
quarter of the working format's roundoff u are left out: by Cauchy–Schwarz and Parseval what is left out is, in its root
mean square over the plane and at its largest element times the root of their number, at most u/4 of x, where the
roundings of the two transforms alone are u log₂(HW) of x.
Real and even gains make the filter its own adjoint: ∂/∂x ⟨ȳ, y⟩ is the filter of ȳ. With the transforms X and Ȳ,
∂/∂σ ⟨ȳ, y⟩ = Σ_f Re(X̄ Ȳ) (−4π²σ|f|² G)/(HW), which takes no transform back.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch

from trueness.optimized._lib.dtypes import compute_dtype
from trueness.optimized._lib.memory import in_large_pages
from trueness.optimized._lib.threads import parallel
from trueness.optimized.filters.fft_blocked import in_blocks

SPECTRUM = 5 << 18  # bytes of the spectra that one thread has in memory at a time; a plane of more goes in blocks
ELSEWHERE = 1 << 23  # the same on a device, where many launches cost more than a cache saves
Device = torch.device | str | None


class Factors(NamedTuple):
    """Gains in float64: rows (H,) and columns (W//2 + 1,), on the CPU."""

    rows: torch.Tensor
    columns: torch.Tensor

    def kept(self, dtype: torch.dtype) -> int:
        """How many columns have a gain of at least u/4; all of them where one is NaN."""
        u = torch.finfo(dtype).eps / 2
        below = self.columns.abs() < u / 4
        return max(int((~below).nonzero().max()) + 1, 1) if bool((~below).any()) else 1


def signed(n: int) -> np.ndarray[Any, Any]:
    """0, 1, …, −2, −1 (n,): the frequencies of a DFT times n"""
    k = np.arange(n)
    return np.where(2 * k < n, k, k - n)


def gaussian(height: int, width: int, sigma: float) -> Factors:
    """exp(−2π²σ² f²) of each axis"""
    with np.errstate(over="ignore", invalid="ignore"):
        rows, columns = (
            np.exp(-2 * np.pi**2 * np.float64(sigma) ** 2 * (k / n) ** 2)
            for k, n in ((signed(height), height), (np.arange(width // 2 + 1), width))
        )
    return Factors(torch.from_numpy(rows), torch.from_numpy(columns))


def sampled(height: int, width: int, epsilon: float) -> Factors:
    """DFT of exp(−r²/(2ε²))/Σ of each axis, r the signed integers of one period"""
    found = []
    for n in (height, width):
        taps = np.exp(-(signed(n).astype(np.float64) ** 2) / (2 * epsilon**2))
        found.append(np.fft.fft(taps / taps.sum()).real)
    return Factors(torch.from_numpy(found[0]), torch.from_numpy(found[1][: width // 2 + 1].copy()))


# -- a few planes at a time -------------------------------------------------------------------------------------------


def planes(x: torch.Tensor, *others: torch.Tensor) -> Any:
    """Pieces (p, H, W) of tensors of one shape, as views: of at most SPECTRUM bytes of spectrum each, p ≥ 1."""
    if 0 in x.shape:
        return
    tensors = (x, *others)
    if x.ndim == 2:
        yield tuple(t[None] for t in tensors)
        return
    if x.ndim > 3:
        try:
            tensors = tuple(t.view(-1, *x.shape[-2:]) for t in tensors)
        except RuntimeError:  # interleaved in memory
            for k in range(len(x)):
                yield from planes(*(t[k] for t in tensors))
            return
    item = 16 if x.dtype == torch.float64 else 8
    most = SPECTRUM if x.device.type == "cpu" else ELSEWHERE
    together = max(1, most // (item * x.shape[-2] * (x.shape[-1] // 2 + 1)))
    for k in range(0, len(tensors[0]), together):
        yield tuple(t[k : k + together] for t in tensors)


def filtered(x: torch.Tensor, factors: Factors, out: torch.Tensor | None = None) -> torch.Tensor:
    """The filter of x, into ``out`` or a fresh tensor in the memory format of x; ``out`` may be x itself."""
    result = in_large_pages(torch.empty_like(x)) if out is None else out
    inner = compute_dtype(x.dtype)
    height, width = x.shape[-2:]
    kept = factors.kept(inner)
    rows = factors.rows.to(inner)
    columns = (factors.columns[:kept] / (height * width)).to(inner)
    large = 2 * inner.itemsize * height * len(factors.columns) > SPECTRUM
    pieces, threads = list(planes(x, result)), torch.get_num_threads()
    if not large:  # always on the caller's thread: bits of a transform depend on how many threads it is given
        for piece, place in pieces:
            at_once(piece, place, rows, columns)
        return result

    def work(start: int, stop: int, threads: int = 1) -> None:
        for piece, place in pieces[start:stop]:
            in_blocks(piece[0], place[0], rows, columns, threads)

    even = len(pieces) - len(pieces) % threads
    if even:
        parallel(work, even, threads)
    work(even, len(pieces), threads)
    return result


def at_once(x: torch.Tensor, place: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> None:
    """The filter of small planes (p, H, W) by gains (H,) and (kept,)."""
    if len(columns) == x.shape[-1] // 2 + 1:
        spectrum = torch.fft.rfft2(x.to(rows.dtype))
    else:
        spectrum = torch.fft.fft(torch.fft.rfft(x.to(rows.dtype))[..., : len(columns)], dim=-2)
    spectrum.mul_(rows[:, None]).mul_(columns)
    spectrum = torch.fft.ifft(spectrum, dim=-2, norm="forward")
    place.copy_(torch.fft.irfft(spectrum, n=x.shape[-1], norm="forward"))


def by_sigma(grad: torch.Tensor, x: torch.Tensor, factors: Factors, sigma: float) -> float:
    """Σ_f w Re(X̄ Ȳ) (−4π²σ|f|² G)/(HW), w = 2 where a real transform leaves out the mirrored column; in float64"""
    height, width = x.shape[-2:]
    inner = compute_dtype(x.dtype)
    columns = width // 2 + 1
    total = torch.zeros(height, columns, dtype=torch.float64, device=x.device)
    for piece, pulled in planes(x, grad):
        both = torch.fft.rfft2(piece.to(inner)), torch.fft.rfft2(pulled.to(inner))
        total += torch.view_as_real(both[0]).mul_(torch.view_as_real(both[1])).sum((0, -1), dtype=torch.float64)
    mirrored = np.full(columns, 2.0)
    mirrored[0] = 1
    mirrored[-1] = 1 if width % 2 == 0 or columns == 1 else 2
    rows, along = factors.rows.numpy(), factors.columns.numpy() * mirrored
    f_y, f_x = (signed(height) / height) ** 2, (np.arange(columns) / width) ** 2
    power = total.cpu().numpy()
    slope = (rows * f_y) @ power @ along + rows @ power @ (along * f_x)
    return float(-4 * math.pi**2 * sigma * slope / (height * width))


# -- plain torch, for traces and transforms ---------------------------------------------------------------------------


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


def like(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """y in the dtype of x, and channels-last where x is."""
    y = y.to(x.dtype)
    if x.ndim == 4 and x.shape[1] > 1 and x.stride(1) == 1 and x.stride(3) == x.shape[1]:
        return y.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    return y


def multiplied(x: torch.Tensor, gains: torch.Tensor) -> torch.Tensor:
    """F⁻¹(K · F x) for real float64 gains K on the rfft2 grid; divided by H W before the sum, which stays in range"""
    if 0 in x.shape:  # an empty batch, which MKL's transform refuses
        return x.clone()
    height, width, inner = *x.shape[-2:], compute_dtype(x.dtype)
    spectrum = torch.fft.rfft2(x.to(inner)) * (gains / (height * width)).to(inner)
    return like(torch.fft.irfft2(spectrum, s=(height, width), norm="forward"), x)


class Gaussian(torch.autograd.Function):
    """The Gaussian filter with a number or a CPU tensor for σ; saves x for the gradient by σ alone."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        ctx.factors = gaussian(x.shape[-2], x.shape[-1], float(sigma))
        learned = isinstance(sigma, torch.Tensor) and sigma.requires_grad
        ctx.save_for_backward(*((x, sigma) if learned else ()))
        ctx.number = float(sigma)
        return filtered(x, ctx.factors)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        saved = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            sigma = saved[1] if saved else ctx.number
            height, width = grad.shape[-2:]
            gains = gaussian_gains(height, width, sigma, grad.device)
            of_sigma = None
            if saved:
                f_y, f_x = frequencies(height, width, grad.device)
                slope = -4 * math.pi**2 * sigma.to(f_x) * (f_y**2 + f_x**2) * gains
                of_sigma = (multiplied(saved[0], slope).to(f_x) * grad).sum().to(sigma.dtype)
            return multiplied(grad, gains), of_sigma
        of_x = filtered(grad, ctx.factors) if ctx.needs_input_grad[0] else None
        if not saved:
            return of_x, None
        x, sigma = saved
        found = by_sigma(grad, x, ctx.factors, ctx.number)
        return of_x, torch.full_like(sigma, found) if ctx.needs_input_grad[1] else None


class Sampled(torch.autograd.Function):
    """A filter with given factors: its own adjoint, as often as it is differentiated."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, factors: Factors) -> torch.Tensor:  # type: ignore[override]
        ctx.factors = factors
        return filtered(x, factors)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        return Sampled.apply(grad, ctx.factors), None  # type: ignore[no-untyped-call]
