"""Gaussian filters and the blending of overlapping tiles, fast.

    G(f) = exp(−2π²σ²|f|²)        the transfer function of N(0, σ²), f in cycles per sample

Filters in frequency go through rfft2, filters in space through shifted sums: a convolution would be computed in TF32 on
CUDA unless told otherwise. Tiles are added to one image as they come and may be dropped at once. Tables are made in
float64; float16 and bfloat16 data is computed in float32 and rounded once. Channels-last images stay channels-last.
Sources: the Gaussian transform pair (Bracewell); Harris 1978 for the windows; Allen & Rabiner 1977 for overlap-add.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch

from trueness.optimized._arguments import require_count
from trueness.optimized._elementwise import require_floating

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
Device = torch.device | str | None


# -- what is refused --------------------------------------------------------------------------------------------------


def _require_width(width: float, name: str, zero: bool) -> None:
    allowed = "of at least 0" if zero else "above 0"
    number = isinstance(width, (int, float)) and not isinstance(width, bool)
    if not number or not 0 <= width < math.inf or (width == 0 and not zero):
        raise ValueError(f"{name} was {width!r}; it must be a finite number {allowed}, in pixels.")


def _require_image(x: torch.Tensor, name: str) -> torch.Tensor:
    require_floating(x, name)
    if x.ndim < 2 or x.shape[-1] < 1 or x.shape[-2] < 1:
        raise ValueError(f"{name} had shape {tuple(x.shape)}; it must have the axes (..., H, W), neither of length 0.")
    return x


def _require_window(kind: str) -> None:
    if kind not in WINDOWS:
        raise ValueError(f"window was {kind!r}; allowed are {', '.join(WINDOWS)}.")


def _require_overlap(overlap: float) -> None:
    if isinstance(overlap, bool) or not isinstance(overlap, (int, float)) or not 0 <= overlap < 1:
        raise ValueError(f"overlap was {overlap!r}; it must be a number in [0, 1).")


# -- the type a sum is taken in ---------------------------------------------------------------------------------------


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _like(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """y in the dtype of x, and channels-last where x is."""
    y = y.to(x.dtype)
    if x.ndim == 4 and x.shape[1] > 1 and x.stride(1) == 1 and x.stride(3) == x.shape[1]:
        return y.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    return y


# -- filters in frequency ---------------------------------------------------------------------------------------------


def _signed(n: int, device: Device) -> torch.Tensor:
    """0, 1, …, −2, −1 (n,), the coordinates i − n//2 after ifftshift"""
    k = torch.arange(n, dtype=torch.float64, device=device)
    return torch.where(2 * k < n, k, k - n)


def gaussian_transfer(
    height: int, width: int, sigma: float, *, dtype: torch.dtype = torch.float64, device: Device = None
) -> torch.Tensor:
    """G(f) = exp(−2π²σ²|f|²), f = (k_y/H, k_x/W)        (Gaussian transform pair; no lower clamp)

    height   H  int            number of rows: f_y runs 0, 1/H, …, −1/H, as fftfreq
    width    W  int            number of columns: f_x runs 0, 1/W, …, ½, as rfftfreq
    sigma    σ  number         standard deviation in pixels, ≥ 0
    returns  G  (H, W//2 + 1)  in (0, 1] or rounded to 0, 1 at f = 0; to be multiplied to rfft2
    raises   ValueError        if height or width is below 1, or sigma is negative or not finite
    """
    require_count(height, "height")
    require_count(width, "width")
    _require_width(sigma, "sigma", zero=True)
    f_y = _signed(height, device)[:, None] / height
    f_x = torch.arange(width // 2 + 1, dtype=torch.float64, device=device) / width
    gains: torch.Tensor = torch.exp(-2 * math.pi**2 * sigma**2 * (f_y**2 + f_x**2))
    return gains.to(dtype)


def _filtered(x: torch.Tensor, gains: torch.Tensor) -> torch.Tensor:
    """F⁻¹(K · F x) for real float64 gains K on the rfft2 grid; divided by H W before the sum, which stays in range"""
    if 0 in x.shape:  # an empty batch, which MKL's transform refuses
        return x.clone()
    wide = _wide(x)
    height, width = x.shape[-2:]
    spectrum = torch.fft.rfft2(wide) * (gains / (height * width)).to(wide.dtype)
    return _like(torch.fft.irfft2(spectrum, s=(height, width), norm="forward"), x)


def fft_gaussian(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """y = F⁻¹(G · F x), G(f) = exp(−2π²σ²|f|²): the Gaussian filter of a periodic image

    x        x  (..., H, W)  images; any floating dtype, strides and device
    sigma    σ  number       standard deviation in pixels, ≥ 0
    returns  y  (..., H, W)  dtype and memory format of x, same mean
    raises   ValueError      if x is not floating or has no axes (H, W), or sigma is negative or not finite
    """
    _require_image(x, "x")
    height, width = x.shape[-2:]
    return _filtered(x, gaussian_transfer(height, width, sigma, device=x.device))


def _sampled_gains(n: int, epsilon: float, device: Device) -> torch.Tensor:
    """DFT of exp(−r²/(2ε²))/Σ, r the signed integers of one period (n,)"""
    taps = torch.exp(-(_signed(n, device) ** 2) / (2 * epsilon**2))
    gains: torch.Tensor = torch.fft.fft(taps / taps.sum()).real
    return gains


def fft_operator(x: torch.Tensor, epsilon: float) -> torch.Tensor:
    """y = F⁻¹(F k · F x),  k(r) = exp(−|r|²/(2ε²))/Σ on r = i − n//2, moved to the origin by ifftshift

    x        x  (..., H, W)  images, periodic; any floating dtype, strides and device
    epsilon  ε  number       standard deviation in pixels, > 0 (entropic transport means the variance by it)
    returns  y  (..., H, W)  dtype and memory format of x, same mean
    raises   ValueError      if x is not floating or has no axes (H, W), or epsilon is not positive and finite
    """
    _require_image(x, "x")
    _require_width(epsilon, "epsilon", zero=False)
    height, width = x.shape[-2:]
    gains = _sampled_gains(height, epsilon, x.device)[:, None] * _sampled_gains(width, epsilon, x.device)
    return _filtered(x, gains[:, : width // 2 + 1])


# -- blur -------------------------------------------------------------------------------------------------------------


def gaussian_taps(k: int, sigma: float, *, dtype: torch.dtype = torch.float64, device: Device = None) -> torch.Tensor:
    """c_j = exp(−(j − (k−1)/2)²/(2σ²)) / Σ,  j = 0 … k−1

    k        k  int     number of taps; `blur` wants it odd, so that there is a middle
    sigma    σ  number  standard deviation in pixels, > 0
    returns  c  (k,)    symmetric, sum 1
    raises   ValueError if k is below 1, or sigma is not positive and finite
    """
    require_count(k, "k")
    _require_width(sigma, "sigma", zero=False)
    j = torch.arange(k, dtype=torch.float64, device=device) - (k - 1) / 2
    taps = torch.exp(-(j**2) / (2 * sigma**2))
    normed: torch.Tensor = taps / taps.sum()
    return normed.to(dtype)


def _along(x: torch.Tensor, taps: torch.Tensor, axis: int) -> torch.Tensor:
    """Σ_j c_j x(i + j − k//2) along ``axis``, x(−i) = x(i) beyond the border; no gather, so the gradient has no race"""
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


def blur(x: torch.Tensor, k: int, sigma: float) -> torch.Tensor:
    """y = K_y x K_xᵀ, K the taps c of `gaussian_taps`: every channel by itself, reflected at the border

    x        x  (..., H, W)  images, H and W above k//2; any floating dtype, strides and device
    k        k  int          number of taps, odd: an even number has no middle
    sigma    σ  number       standard deviation in pixels, > 0
    returns  y  (..., H, W)  shape, dtype and memory format of x
    raises   ValueError      if x is not floating or too small to reflect, k is even, or sigma is not above 0
    """
    _require_image(x, "x")
    require_count(k, "k")
    if k % 2 == 0:
        raise ValueError(f"k was {k}; it must be odd, so that the taps have a middle.")
    wide = _wide(x)
    taps = gaussian_taps(k, sigma, dtype=wide.dtype, device=x.device)
    if min(x.shape[-2:]) <= k // 2:
        raise ValueError(f"x had shape {tuple(x.shape)}; to reflect {k // 2} pixels, H and W must be above {k // 2}.")
    return _like(_along(_along(wide, taps, -1), taps, -2), x)


# -- tiles ------------------------------------------------------------------------------------------------------------


def tile_window(n: int, kind: str, *, dtype: torch.dtype = torch.float64, device: Device = None) -> torch.Tensor:
    """triangular: w_i = 2 m/(n + 1) for odd n, (2 m − 1)/n for even, m = min(i + 1, n − i)
    hann: w_i = sin²(π (i + 1)/(n + 1))

    n        n  int   length
    kind        "triangular" or "hann"
    returns  w  (n,)  symmetric and nowhere zero
    raises   ValueError if n is below 1, or for another kind
    """
    require_count(n, "n")
    _require_window(kind)
    i = torch.arange(n, dtype=torch.float64, device=device)
    if kind == "triangular":
        return ((2 * torch.minimum(i + 1, n - i) - (1 - n % 2)) / (n + n % 2)).to(dtype)
    return torch.sin(math.pi * (i + 1) / (n + 1)).square().to(dtype)


def tile_starts(length: int, tile: int, overlap: float, *, device: Device = None) -> torch.Tensor:
    """s_k = min(k · stride, L − T),  stride = max(1, ⌊T (1 − overlap)⌋),  k = 0 … ⌈(L − T)/stride⌉

    length   L  int     length of the axis
    tile     T  int     length of a tile, at most L
    overlap     number  share of a tile that the next one covers again, in [0, 1)
    returns  s  (K,)    int64, strictly increasing: no tile is computed twice
    raises   ValueError if length or tile is below 1, tile is above length, or overlap is outside [0, 1)
    """
    require_count(length, "length")
    require_count(tile, "tile")
    _require_overlap(overlap)
    if tile > length:
        raise ValueError(f"tile was {tile}; it must not exceed the length {length}.")
    stride = max(1, int(tile * (1 - overlap)))
    k = torch.arange(-(-(length - tile) // stride) + 1, device=device)
    return (k * stride).clamp(max=length - tile)


class _Canvas:
    """Σ w t and Σ w, to which tiles of one size are added one by one."""

    def __init__(self, height: int, width: int, window: str) -> None:
        self.height, self.width, self.window = height, width, window
        self.total: torch.Tensor | None = None
        self.mass = torch.zeros(0)
        self.weights = torch.zeros(0)

    def add(self, tile: torch.Tensor, top: int, left: int) -> None:
        h, w = tile.shape[-2:]
        if top < 0 or left < 0 or top + h > self.height or left + w > self.width:
            raise ValueError(
                f"a tile of {h}×{w} was at ({top}, {left}); it must lie in the image of {self.height}×{self.width}."
            )
        wide = _wide(tile)
        if self.total is None:
            made = {"dtype": wide.dtype, "device": wide.device}
            self.weights = tile_window(h, self.window, **made)[:, None] * tile_window(w, self.window, **made)  # type: ignore[arg-type]
            self.total = wide.new_zeros((*wide.shape[:-2], self.height, self.width))
            self.mass = torch.zeros((self.height, self.width), **made)  # type: ignore[call-overload]
        self.total[..., top : top + h, left : left + w] += wide * self.weights
        self.mass[top : top + h, left : left + w] += self.weights

    def mean(self, dtype: torch.dtype) -> torch.Tensor:
        if self.total is None:
            raise ValueError("tiles was empty; every pixel of the image must lie in some tile.")
        return (self.total / self.mass).to(dtype)


def _covered(rows: Sequence[int], columns: Sequence[int], h: int, w: int, height: int, width: int) -> bool:
    seen = torch.zeros((height, width), dtype=torch.bool)
    for top, left in zip(rows, columns, strict=True):
        seen[max(top, 0) : max(top + h, 0), max(left, 0) : max(left + w, 0)] = True
    return bool(seen.all())


def blend(
    tiles: torch.Tensor,
    rows: Sequence[int] | torch.Tensor,
    columns: Sequence[int] | torch.Tensor,
    height: int,
    width: int,
    window: str,
) -> torch.Tensor:
    """y = Σ_k w_k t_k / Σ_k w_k, tile k placed at (rows[k], columns[k]), w = w_y w_xᵀ of `tile_window`

    tiles    t  (N, ..., h, w)  what was computed for every tile; any floating dtype, strides and device
    rows        (N,)            first row of every tile, in the image
    columns     (N,)            and first column
    height   H  int             of the image
    width    W  int             of the image; every pixel must lie in some tile
    window      "triangular" or "hann"
    returns  y  (..., H, W)     dtype of tiles
    raises   ValueError         if tiles is not floating, a place lies outside, or a pixel lies in no tile
    """
    require_count(height, "height")
    require_count(width, "width")
    _require_window(window)
    require_floating(tiles, "tiles")
    if tiles.ndim < 3:
        raise ValueError(f"tiles had shape {tuple(tiles.shape)}; it must have the axes (N, ..., h, w).")
    tops, lefts = ([int(i) for i in places] for places in (rows, columns))
    if not len(tops) == len(lefts) == len(tiles):
        raise ValueError(
            f"rows and columns were {len(tops)} and {len(lefts)} long; both must be {len(tiles)}, as tiles."
        )
    if not _covered(tops, lefts, tiles.shape[-2], tiles.shape[-1], height, width):
        raise ValueError(
            f"tiles left a pixel of the {height}×{width} image uncovered; every pixel must lie in some tile."
        )
    canvas = _Canvas(height, width, window)
    for tile, top, left in zip(tiles.unbind(0), tops, lefts, strict=True):
        canvas.add(tile, top, left)
    return canvas.mean(tiles.dtype)


def _places(height: int, width: int, h: int, w: int, overlap: float) -> Iterator[tuple[int, int]]:
    columns = tile_starts(width, w, overlap).tolist()
    return ((top, left) for top in tile_starts(height, h, overlap).tolist() for left in columns)


def tiled(
    model: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, tile: int, overlap: float, window: str
) -> torch.Tensor:
    """y = blend of model(x cut out at s_k),  s_k = `tile_starts` of both axes, one tile in memory at a time

    model       callable      (..., h, w) → (..., h, w); it may change the number of channels
    x        x  (..., H, W)   image
    tile     T  int           side of a tile; an axis shorter than it is one tile, the other is still cut
    overlap     number        share of a tile that the next one covers again, in [0, 1)
    window      "triangular" or "hann"
    returns  y  (..., H, W)   dtype of what model returns; x itself, but for rounding, where model is the identity
    raises   ValueError       if x has no axes (H, W), tile is below 1, or model changes the size of a tile
    """
    _require_image(x, "x")
    require_count(tile, "tile")
    _require_window(window)
    height, width = x.shape[-2:]
    h, w = min(tile, height), min(tile, width)
    canvas = _Canvas(height, width, window)
    for top, left in _places(height, width, h, w, overlap):
        y = model(x[..., top : top + h, left : left + w])
        if tuple(y.shape[-2:]) != (h, w):
            raise ValueError(f"model returned {tuple(y.shape)} for a tile of {h}×{w}; it must keep the last two axes.")
        canvas.add(y, top, left)
    return canvas.mean(y.dtype)
