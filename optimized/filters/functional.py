"""Gaussian filters and the blending of overlapping tiles, fast.

    G(f) = exp(−2π²σ²|f|²)        the transfer function of N(0, σ²), f in cycles per sample

Filters in frequency use the real transform, a few planes at a time. Filters in space use sums of shifted rows, because
convolutions on CUDA use TF32 by default. `tiled` adds each tile to the image as soon as it is computed. Tables are
computed in float64; float16 and bfloat16 images are computed in float32 and rounded once. Channels-last images stay
channels-last. Every filter is symmetric or has an explicit adjoint, so that gradients save only the arguments.
Sources: the Gaussian transform pair (Bracewell); Harris 1978 for the windows; Allen & Rabiner 1977 for overlap-add.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from trueness.optimized._lib.dispatch import can_write_in_place, cuda_supported
from trueness.optimized._lib.dtypes import compute_dtype
from trueness.optimized._lib.memory import spans_overlap
from trueness.optimized._lib.validation import (
    require_choice,
    require_count,
    require_floating,
    require_not_negative,
    require_number,
    require_out,
    require_positive,
)
from trueness.optimized.filters import blending, blurring, fft
from trueness.optimized.filters import tiles as grids
from trueness.optimized.filters.cuda import operators
from trueness.optimized.filters.fft import apply_gains, gaussian_gains, match_memory_format

__all__ = [
    "blend",
    "blur",
    "fft_gaussian",
    "fft_operator",
    "gaussian_taps",
    "gaussian_transfer",
    "tile_starts",
    "tile_window",
    "tiled",
]

WINDOWS = ("triangular", "hann")
POSITIVE = "a finite number above 0, in pixels"
NOT_NEGATIVE = "a finite number of at least 0, in pixels"
Device = torch.device | str | None


# -- validation -------------------------------------------------------------------------------------------------------


def _require_image(x: torch.Tensor, name: str) -> torch.Tensor:
    require_floating(x, name)
    if x.ndim < 2 or x.shape[-1] < 1 or x.shape[-2] < 1:
        raise ValueError(f"{name} had shape {tuple(x.shape)}; it must have the axes (..., H, W), neither of length 0.")
    return x


def _require_sigma(sigma: float | torch.Tensor) -> None:
    if not isinstance(sigma, torch.Tensor):
        require_not_negative(sigma, "sigma", NOT_NEGATIVE)
    elif sigma.ndim or not sigma.is_floating_point():
        raise ValueError(f"sigma was {tuple(sigma.shape)} {sigma.dtype}; a tensor must be one floating number, ().")


# -- dispatch ---------------------------------------------------------------------------------------------------------


def _can_read_values(*arguments: object) -> bool:
    """Whether values may be read: plain CPU tensors, with or without gradient, outside traces and transforms."""
    tensors = [x for x in arguments if isinstance(x, torch.Tensor)]
    return not torch.compiler.is_compiling() and all(can_write_in_place(x.detach()) for x in tensors)


def _needs_gradient(*arguments: object) -> bool:
    """Whether any of the arguments needs a gradient."""
    return torch.is_grad_enabled() and any(isinstance(x, torch.Tensor) and x.requires_grad for x in arguments)


# -- filters in frequency ---------------------------------------------------------------------------------------------


def gaussian_transfer(
    height: int, width: int, sigma: float, *, dtype: torch.dtype = torch.float64, device: Device = None
) -> torch.Tensor:
    """G(f) = exp(−2π²σ²|f|²), f = (k_y/H, k_x/W)        (Gaussian transform pair; no lower clamp)

    height   H  int            number of rows: f_y runs 0, 1/H, …, −1/H, as fftfreq
    width    W  int            number of columns: f_x runs 0, 1/W, …, ½, as rfftfreq
    sigma    σ  number         standard deviation in pixels, ≥ 0
    returns  G  (H, W//2 + 1)  in (0, 1] or rounded to 0, 1 at f = 0; the factor of rfft2
    raises   ValueError        if height or width is below 1, or sigma is negative or not finite
    """
    require_count(height, "height")
    require_count(width, "width")
    require_not_negative(sigma, "sigma", NOT_NEGATIVE)
    return gaussian_gains(height, width, sigma, device).to(dtype)


def fft_gaussian(x: torch.Tensor, sigma: float | torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """y = F⁻¹(G · F x), G(f) = exp(−2π²σ²|f|²): the Gaussian filter of a periodic image

    x        x  (..., H, W)       images; any floating dtype, strides and device
    sigma    σ  number or tensor  standard deviation in pixels, ≥ 0; a tensor without axes may require a gradient
    out         (..., H, W)       optional output, without gradient; it may be x itself
    returns  y  (..., H, W)       dtype and memory format of x, same mean
    raises   ValueError           if x is not floating or has no axes (H, W), sigma is negative or not finite, or out
                                  does not fit; the value of a sigma that is a tensor is not checked
    """
    _require_image(x, "x")
    _require_sigma(sigma)
    height, width = x.shape[-2:]
    if out is not None:
        require_out(out, x)
    if cuda_supported(x):
        number = sigma if isinstance(sigma, torch.Tensor) else torch.tensor(sigma, dtype=torch.float64)
        y = operators.fft_gaussian(x, number)
        return y if out is None else out.copy_(y)
    if not _can_read_values(x, sigma):
        y = apply_gains(x, gaussian_gains(height, width, sigma, x.device))
        return y if out is None else out.copy_(y)
    if out is None and _needs_gradient(x, sigma):
        return fft.GaussianFilter.apply(x, sigma)  # type: ignore[no-any-return, no-untyped-call]
    return fft.apply_factors(x, fft.gaussian_factors(height, width, float(sigma)), out)


def fft_operator(x: torch.Tensor, epsilon: float, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """y = F⁻¹(F k · F x),  k(r) = exp(−|r|²/(2ε²))/Σ on r = i − n//2, moved to the origin by ifftshift

    x        x  (..., H, W)  images, periodic; any floating dtype, strides and device
    epsilon  ε  number       standard deviation in pixels, > 0 (entropic transport means the variance by it)
    out         (..., H, W)  optional output, without gradient; it may be x itself
    returns  y  (..., H, W)  dtype and memory format of x, same mean
    raises   ValueError      if x is not floating or has no axes (H, W), epsilon is not positive and finite, or out
                             does not fit
    """
    _require_image(x, "x")
    require_positive(epsilon, "epsilon", POSITIVE)
    if out is not None:
        require_out(out, x)
    factors = fft.sampled_factors(x.shape[-2], x.shape[-1], epsilon)
    if not _can_read_values(x):
        y = apply_gains(x, (factors.rows[:, None] * factors.columns).to(x.device))
        return y if out is None else out.copy_(y)
    if out is None and _needs_gradient(x):
        return fft.FixedFilter.apply(x, factors)  # type: ignore[no-any-return, no-untyped-call]
    return fft.apply_factors(x, factors, out)


# -- blur -------------------------------------------------------------------------------------------------------------


def gaussian_taps(k: int, sigma: float, *, dtype: torch.dtype = torch.float64, device: Device = None) -> torch.Tensor:
    """c_j = exp(−(j − (k−1)/2)²/(2σ²)) / Σ,  j = 0 … k−1

    k        k  int     number of taps; odd for `blur`
    sigma    σ  number  standard deviation in pixels, > 0
    returns  c  (k,)    symmetric, sum 1
    raises   ValueError if k is below 1, or sigma is not positive and finite
    """
    require_count(k, "k")
    require_positive(sigma, "sigma", POSITIVE)
    j = torch.arange(k, dtype=torch.float64, device=device) - (k - 1) / 2
    taps = torch.exp(-(j**2) / (2 * sigma**2))
    normed: torch.Tensor = taps / taps.sum()
    return normed.to(dtype)


def blur(x: torch.Tensor, k: int, sigma: float, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """y = K_y x K_xᵀ, K the taps c of `gaussian_taps`: every channel by itself, reflected at the border

    x        x  (..., H, W)  images, H and W above k//2; any floating dtype, strides and device
    k        k  int          number of taps, odd: an even number has no middle
    sigma    σ  number       standard deviation in pixels, > 0
    out         (..., H, W)  optional output, without gradient; not x, whose rows are read again
    returns  y  (..., H, W)  shape, dtype and memory format of x
    raises   ValueError      if x is not floating or too small to reflect, k is even, sigma is not above 0, or out does
                             not fit
    """
    _require_image(x, "x")
    require_count(k, "k")
    if k % 2 == 0:
        raise ValueError(f"k was {k}; it must be odd, so that the taps have a middle.")
    taps = gaussian_taps(k, sigma, dtype=torch.float64, device="cpu")
    if min(x.shape[-2:]) <= k // 2:
        raise ValueError(f"x had shape {tuple(x.shape)}; to reflect {k // 2} pixels, H and W must be above {k // 2}.")
    if out is not None:
        require_out(out, x)
        if not torch.compiler.is_compiling() and out.numel() and out.data_ptr() == x.data_ptr():
            raise ValueError("out was x; it must be memory of its own, because rows of x are read again.")
    taps = taps.to(compute_dtype(x.dtype))
    if not _can_read_values(x):
        taps = taps.to(x.device)
        y = match_memory_format(blurring.filter_axis(blurring.filter_axis(x.to(taps.dtype), taps, -1), taps, -2), x)
        return y if out is None else out.copy_(y)
    if out is None and _needs_gradient(x):
        return blurring.Blur.apply(x, taps)  # type: ignore[no-any-return, no-untyped-call]
    return blurring.blur_in_chunks(x, taps, out)


# -- tiles ------------------------------------------------------------------------------------------------------------


def tile_window(
    n: int, kind: str = "hann", *, dtype: torch.dtype = torch.float64, device: Device = None
) -> torch.Tensor:
    """triangular: w_i = 2 m/(n + 1) for odd n, (2 m − 1)/n for even, m = min(i + 1, n − i)
    hann: w_i = sin²(π (i + 1)/(n + 1))

    n        n  int   length
    kind        "triangular" or "hann"
    returns  w  (n,)  symmetric and nowhere zero
    raises   ValueError if n is below 1, or for another kind
    """
    require_count(n, "n")
    require_choice(kind, "window", WINDOWS)
    i = torch.arange(n, dtype=torch.float64, device=device)
    if kind == "triangular":
        return ((2 * torch.minimum(i + 1, n - i) - (1 - n % 2)) / (n + n % 2)).to(dtype)
    return torch.sin(math.pi * (i + 1) / (n + 1)).square().to(dtype)


def tile_starts(length: int, tile: int, overlap: float = 0.125, *, device: Device = None) -> torch.Tensor:
    """s_k = min(k · stride, L − T),  stride = max(1, ⌊T (1 − overlap)⌋),  k = 0 … ⌈(L − T)/stride⌉

    length   L  int     length of the axis
    tile     T  int     length of a tile, at most L
    overlap     number  share of a tile that overlaps the next one, in [0, 1)
    returns  s  (K,)    int64, strictly increasing: no tile is computed twice
    raises   ValueError if length or tile is below 1, tile is above length, or overlap is outside [0, 1)
    """
    require_count(length, "length")
    require_count(tile, "tile")
    require_number(overlap, "overlap", "a number in [0, 1)", least=0, below=1)
    if tile > length:
        raise ValueError(f"tile was {tile}; it must not exceed the length {length}.")
    stride = max(1, int(tile * (1 - overlap)))
    k = torch.arange(-(-(length - tile) // stride) + 1, device=device)
    return (k * stride).clamp(max=length - tile)


def _require_cover(tops: Sequence[int], lefts: Sequence[int], h: int, w: int, height: int, width: int) -> None:
    seen = torch.zeros((height, width), dtype=torch.bool)
    for top, left in zip(tops, lefts, strict=True):
        seen[max(top, 0) : max(top + h, 0), max(left, 0) : max(left + w, 0)] = True
    if not bool(seen.all()):
        raise ValueError(
            f"tiles left a pixel of the {height}×{width} image uncovered; every pixel must lie in some tile."
        )
    for top, left in zip(tops, lefts, strict=True):
        if top < 0 or left < 0 or top + h > height or left + w > width:
            raise ValueError(f"a tile of {h}×{w} was at ({top}, {left}); it must lie in the image of {height}×{width}.")


def _as_ints(places: Sequence[int] | torch.Tensor) -> list[int]:
    return [int(i) for i in (places.tolist() if isinstance(places, torch.Tensor) else places)]


def blend(
    tiles: torch.Tensor,
    rows: Sequence[int] | torch.Tensor,
    columns: Sequence[int] | torch.Tensor,
    *,
    height: int,
    width: int,
    window: str = "hann",
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """y = Σ_k w_k t_k / Σ_k w_k, tile k placed at (rows[k], columns[k]), w = w_y w_xᵀ of `tile_window`

    tiles    t  (N, ..., h, w)  the tiles; any floating dtype, strides and device
    rows        (N,)            first row of every tile, in the image
    columns     (N,)            and first column
    height   H  int             of the image
    width    W  int             of the image; every pixel must lie in some tile
    window      "triangular" or "hann"
    out         (..., H, W)     optional output, without gradient
    returns  y  (..., H, W)     dtype of tiles; of tiles on a grid, equal ones give back their value bit for bit
    raises   ValueError         if tiles is not floating, a place lies outside, a pixel lies in no tile, or out does not
                                fit
    """
    require_count(height, "height")
    require_count(width, "width")
    require_choice(window, "window", WINDOWS)
    require_floating(tiles, "tiles")
    if tiles.ndim < 3:
        raise ValueError(f"tiles had shape {tuple(tiles.shape)}; it must have the axes (N, ..., h, w).")
    tops, lefts = _as_ints(rows), _as_ints(columns)
    if not len(tops) == len(lefts) == len(tiles):
        raise ValueError(
            f"rows and columns were {len(tops)} and {len(lefts)} long; both must be {len(tiles)}, as tiles."
        )
    h, w = tiles.shape[-2:]
    grid = grids.grid_of(tops, lefts, (height, width), (h, w), window)
    if grid is None:
        _require_cover(tops, lefts, h, w, height, width)
    if out is not None:
        _require_canvas(out, tiles, (height, width))
    if grid is not None and cuda_supported(tiles):
        blended: torch.Tensor = operators.blend(tiles, tops, lefts, height, width, window)
        return blended if out is None else out.copy_(blended)
    if grid is not None and _can_read_values(tiles):
        if out is None and _needs_gradient(tiles):
            return blending.Blend.apply(tiles, grid)  # type: ignore[no-any-return, no-untyped-call]
        return blending.blend_grid(tiles, grid, out)
    sums = grids.Sums((height, width), window, grid)
    for tile, top, left in zip(tiles.unbind(0), tops, lefts, strict=True):
        sums.add(tile, top, left)
    y = sums.mean(tiles.dtype)
    return y if out is None else out.copy_(y)


def _require_canvas(out: torch.Tensor, tiles: torch.Tensor, size: tuple[int, int]) -> None:
    shape = (*tiles.shape[1:-2], *size)
    if tuple(out.shape) != shape or out.dtype != tiles.dtype or out.device != tiles.device:
        raise ValueError(
            f"out was {tuple(out.shape)} {out.dtype} on {out.device}; "
            f"it must be {shape} {tiles.dtype} on {tiles.device}."
        )
    if out.requires_grad or _needs_gradient(tiles):
        raise ValueError("out was given where a gradient is wanted; call under torch.no_grad() or omit out=.")
    if can_write_in_place(tiles) and spans_overlap(out, tiles):
        raise ValueError("out shared memory with tiles; it must be memory of its own.")


def tiled(
    model: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    tile: int,
    *,
    overlap: float = 0.125,
    window: str = "hann",
) -> torch.Tensor:
    """y = blend of model(x cut out at s_k),  s_k = `tile_starts` of both axes, with one tile in memory at a time

    model       callable      (..., h, w) → (..., h, w); it may change the number of channels
    x        x  (..., H, W)   image
    tile     T  int           side of a tile; an axis shorter than it is one tile, the other is still cut
    overlap     number        share of a tile that overlaps the next one, in [0, 1)
    window      "triangular" or "hann"
    returns  y  (..., H, W)   dtype of what model returns; x up to rounding where model is the identity
    raises   ValueError       if x has no axes (H, W), tile is below 1, or model changes the size of a tile
    """
    _require_image(x, "x")
    require_count(tile, "tile")
    require_choice(window, "window", WINDOWS)
    height, width = x.shape[-2:]
    h, w = min(tile, height), min(tile, width)
    starts = tile_starts(height, h, overlap).tolist(), tile_starts(width, w, overlap).tolist()
    places = [(top, left) for top in starts[0] for left in starts[1]]
    tops, lefts = [top for top, _ in places], [left for _, left in places]
    grid = grids.grid_of(tops, lefts, (height, width), (h, w), window)
    strips: grids.Strips | None = None
    sums = grids.Sums((height, width), window, grid)
    for k, (top, left) in enumerate(places):
        y = model(x[..., top : top + h, left : left + w])
        if tuple(y.shape[-2:]) != (h, w):
            raise ValueError(f"model returned {tuple(y.shape)} for a tile of {h}×{w}; it must keep the last two axes.")
        if grid is not None and k == 0 and _can_read_values(y) and not _needs_gradient(y):
            strips = grids.Strips(grid, y)
        if strips is None:
            sums.add(y, top, left)
        else:
            strips.add(y, k // len(starts[1]), k % len(starts[1]))
    return sums.mean(y.dtype) if strips is None else strips.image
