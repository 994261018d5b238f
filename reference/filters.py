"""Gaussian filters, in frequency and in space, and the blending of overlapping tiles.

    G(f) = exp(−2π²σ²|f|²)        the transfer function of N(0, σ²), f in cycles per sample

A Gaussian of width σ in space is a Gaussian of width 1/(2πσ) in frequency (Bracewell, The Fourier Transform). Sampled
and cut instead of transformed, it is a row of taps c_j ∝ exp(−j²/(2σ²)), whose own transform differs by aliasing:
0.0144 where G is 0.0072 at Nyquist, σ = 1. The two are two functions here. Windows: Harris 1978; their overlap-add:
Allen & Rabiner 1977.
"""

import numpy as np


def _signed(n):
    """0, 1, …, −2, −1 (n,): the coordinates i − n//2 after ifftshift, the frequencies of a DFT times n"""
    k = np.arange(n)
    return np.where(2 * k < n, k, k - n)


def _gains(f_y, f_x, sigma):
    """exp(−2π²σ² (f_y² + f_x²)), one row per f_y"""
    along_y, along_x = np.pi * sigma * f_y, np.pi * sigma * f_x
    return np.exp(-2 * (along_y * along_y + along_x * along_x))


def gaussian_transfer(height, width, sigma):
    """G(f) = exp(−2π²σ²|f|²), f = (k_y/H, k_x/W)        (Gaussian transform pair; no lower clamp)

    height   H  int            number of rows: f_y runs 0, 1/H, …, −1/H, as fftfreq
    width    W  int            number of columns: f_x runs 0, 1/W, …, ½, as rfftfreq
    sigma    σ  number         standard deviation in pixels, ≥ 0
    returns  G  (H, W//2 + 1)  in (0, 1], 1 at f = 0; the factor of rfft2
    """
    return _gains(_signed(height)[:, None] / height, np.arange(width // 2 + 1) / width, sigma)


def _waves(n):
    """cos and sin of 2π k m/n (n, n): the DFT as two real tables"""
    k = np.arange(n)
    angle = 2 * np.pi * (k[:, None] * k % n) / n
    return np.cos(angle), np.sin(angle)


def _filtered(x, gains):
    """F⁻¹(K · F x) for real, even gains K: F x = A − iB, then the real part of the inverse"""
    height, width = x.shape[-2:]
    (cos_y, sin_y), (cos_x, sin_x) = _waves(height), _waves(width)
    a = (cos_y @ x @ cos_x - sin_y @ x @ sin_x) * gains
    b = (sin_y @ x @ cos_x + cos_y @ x @ sin_x) * gains
    even, odd = cos_y @ a @ cos_x - sin_y @ a @ sin_x, sin_y @ b @ cos_x + cos_y @ b @ sin_x
    return (even + odd) / (height * width)


def fft_gaussian(x, sigma):
    """y = F⁻¹(G · F x), G(f) = exp(−2π²σ²|f|²): the Gaussian filter of a periodic image

    x        x  (..., H, W)  images
    sigma    σ  number       standard deviation in pixels, ≥ 0; its gradient is that of a number
    returns  y  (..., H, W)  same mean as x
    """
    height, width = x.shape[-2:]
    return _filtered(x, _gains(_signed(height)[:, None] / height, _signed(width) / width, sigma))


def fft_gaussian_vjp(cotangent, x, sigma):
    """∂/∂x ⟨ȳ, y⟩ = F⁻¹(G · F ȳ): G is real and even, so the filter is its own adjoint
    ∂/∂σ ⟨ȳ, y⟩ = ⟨ȳ, F⁻¹(−4π²σ|f|² G · F x)⟩
    """
    height, width = x.shape[-2:]
    f_y, f_x = _signed(height)[:, None] / height, _signed(width) / width
    slope = _gains(f_y, f_x, sigma) * (-4 * np.pi**2 * sigma) * (f_y * f_y + f_x * f_x)
    return fft_gaussian(cotangent, sigma), np.sum(cotangent * _filtered(x, slope))


def _sampled_gains(n, epsilon):
    """DFT of exp(−r²/(2ε²))/Σ, r the signed integers of one period: real, because r and −r weigh the same"""
    r = _signed(n)
    taps = np.exp(-(r * r) / (2 * epsilon * epsilon))
    return _waves(n)[0] @ (taps / np.sum(taps))


def fft_operator(x, epsilon):
    """y = F⁻¹(F k · F x),  k(r) = exp(−|r|²/(2ε²))/Σ on r = i − n//2, moved to the origin by ifftshift

    The kernel is sampled and not transformed in closed form: `fft_gaussian` differs from this by aliasing.

    x        x  (..., H, W)  images, periodic
    epsilon  ε  number       standard deviation in pixels, > 0 (entropic transport means the variance by it)
    returns  y  (..., H, W)  same mean as x; weights positive, so no overshoot
    """
    height, width = x.shape[-2:]
    return _filtered(x, _sampled_gains(height, epsilon)[:, None] * _sampled_gains(width, epsilon))


def fft_operator_vjp(cotangent, x, epsilon):
    """∂/∂x ⟨ȳ, y⟩ = F⁻¹(F k · F ȳ): k is even, so the operator is its own adjoint"""
    return fft_operator(cotangent, epsilon)


# -- blur -------------------------------------------------------------------------------------------------------------


def gaussian_taps(k, sigma):
    """c_j = exp(−(j − (k−1)/2)²/(2σ²)) / Σ,  j = 0 … k−1

    k        k  int     number of taps; odd for `blur`
    sigma    σ  number  standard deviation in pixels, > 0
    returns  c  (k,)    symmetric, sum 1
    """
    j = np.arange(k) - (k - 1) / 2
    taps = np.exp(-(j * j) / (2 * sigma * sigma))
    return taps / np.sum(taps)


def _along(x, taps):
    """Σ_j c_j x(i + j − k//2) over the last axis, x(−i) = x(i) beyond the border"""
    k, n = len(taps), x.shape[-1]
    wide = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(k // 2, k // 2)], mode="reflect")
    return sum(taps[j] * wide[..., j : j + n] for j in range(k))


def _blur_matrix(n, taps):
    """K (n, n), blur = x Kᵀ over the last axis"""
    return _along(np.eye(n), taps).T


def blur(x, k, sigma):
    """y = K_y x K_xᵀ, K the taps c of `gaussian_taps`: every channel by itself, reflected at the border

    x        x  (..., H, W)  images, H and W above k//2; reflected without repeating the border pixel
    k        k  int          number of taps, odd: an even number has no middle
    sigma    σ  number       standard deviation in pixels, > 0
    returns  y  (..., H, W)  same shape
    raises   ValueError      if k is even
    """
    if k % 2 == 0:
        raise ValueError(f"k was {k}; it must be odd, so that the taps have a middle.")
    taps = gaussian_taps(k, sigma)
    return np.swapaxes(_along(np.swapaxes(_along(x, taps), -1, -2), taps), -1, -2)


def blur_vjp(cotangent, x, k, sigma):
    """∂/∂x ⟨ȳ, y⟩ = K_yᵀ ȳ K_x"""
    height, width = x.shape[-2:]
    taps = gaussian_taps(k, sigma)
    return _blur_matrix(height, taps).T @ cotangent @ _blur_matrix(width, taps)


# -- tiles ------------------------------------------------------------------------------------------------------------


def tile_window(n, kind="hann"):
    """triangular: w_i = 2 m/(n + 1) for odd n, (2 m − 1)/n for even, m = min(i + 1, n − i)
    hann: w_i = sin²(π (i + 1)/(n + 1))

    n        n  int   length
    kind        "triangular" (scipy.signal.windows.triang) or "hann" (hann(n + 2) without its two zeros)
    returns  w  (n,)  symmetric and nowhere zero, so that a pixel of a single tile keeps its value
    """
    i = np.arange(n)
    if kind == "triangular":
        return (2 * np.minimum(i + 1, n - i) - (1 - n % 2)) / (n + n % 2)
    return np.sin(np.pi * (i + 1) / (n + 1)) ** 2


def tile_starts(length, tile, overlap=0.125):
    """s_k = min(k · stride, L − T),  stride = max(1, ⌊T (1 − overlap)⌋),  k = 0 … ⌈(L − T)/stride⌉

    length   L  int     length of the axis
    tile     T  int     length of a tile, at most L
    overlap     number  share of a tile that overlaps the next one, in [0, 1)
    returns  s  (K,)    strictly increasing; the last tile is moved back to end with the axis
    """
    stride = max(1, int(tile * (1 - overlap)))
    return np.minimum(np.arange(-(-(length - tile) // stride) + 1) * stride, length - tile)


def _placed(tile, top, left, height, width):
    """The tile in an image of zeros, its corner at (top, left)"""
    h, w = tile.shape[-2:]
    border = [(top, height - h - top), (left, width - w - left)]
    return np.pad(tile, [(0, 0)] * (tile.ndim - 2) + border)


def _mass(h, w, rows, columns, height, width, window):
    """The weights of one tile (h, w), and their sum over all tiles (H, W)"""
    weights = tile_window(h, window)[:, None] * tile_window(w, window)
    places = zip(rows.tolist(), columns.tolist(), strict=True)
    return weights, sum(_placed(weights, top, left, height, width) for top, left in places)


def blend(tiles, rows, columns, *, height, width, window="hann"):
    """y = Σ_k w_k t_k / Σ_k w_k, tile k placed at (rows[k], columns[k]), w = w_y w_xᵀ of `tile_window`

    tiles    t  (N, ..., h, w)  the tiles
    rows        (N,)            first row of every tile
    columns     (N,)            and first column
    height   H  int             of the image
    width    W  int             of the image; every pixel lies in some tile
    window      "triangular" or "hann"
    returns  y  (..., H, W)     a weighted mean: tiles cut out of one image give that image
    """
    weights, mass = _mass(*tiles.shape[-2:], rows, columns, height, width, window)
    places = zip(tiles, rows.tolist(), columns.tolist(), strict=True)
    return sum(_placed(weights * tile, top, left, height, width) for tile, top, left in places) / mass


def blend_vjp(cotangent, tiles, rows, columns, height, width, window):
    """∂/∂t_k ⟨ȳ, y⟩ = w (ȳ/Σw) cut out at (rows[k], columns[k])"""
    h, w = tiles.shape[-2:]
    weights, mass = _mass(h, w, rows, columns, height, width, window)
    share = cotangent / mass
    places = zip(rows.tolist(), columns.tolist(), strict=True)
    return np.stack([weights * share[..., top : top + h, left : left + w] for top, left in places])


def tiled(model, x, tile, *, overlap=0.125, window="hann"):
    """y = blend of model(x cut out at s_k),  s_k = `tile_starts` of both axes

    model       callable     (..., h, w) → (..., h, w)
    x        x  (..., H, W)  image
    tile     T  int          side of a tile; an axis shorter than it is one tile
    overlap     number       share of a tile that overlaps the next one, in [0, 1)
    window      "triangular" or "hann"
    returns  y  (..., H, W)  x itself where model is the identity
    """
    height, width = x.shape[-2:]
    h, w = min(tile, height), min(tile, width)
    rows, columns = (
        np.ravel(a) for a in np.meshgrid(tile_starts(height, h, overlap), tile_starts(width, w, overlap), indexing="ij")
    )
    places = zip(rows.tolist(), columns.tolist(), strict=True)
    tiles = np.stack([model(x[..., top : top + h, left : left + w]) for top, left in places])
    return blend(tiles, rows, columns, height=height, width=width, window=window)
