"""The formulas of the family filters: Gaussian filters in frequency and in space, tiles and their blending."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from hypothesis import strategies as st

from trueness.optimized import filters as fast
from trueness.properties._lib import digits as _digits
from trueness.properties.filters import cuda
from trueness.reference import filters as true
from trueness.tools.spec.inputs import Made, Real, Scalar
from trueness.tools.spec.model import Formula, Implementation

TRANSFORM = "Gaussian transform pair (Bracewell, The Fourier Transform and Its Applications)"
OVERLAP_ADD = "Allen & Rabiner 1977 (overlap-add); Harris 1978 (windows)"
MADE_ONCE = "a table, made once from numbers that are not learned"
WINDOWS = ("triangular", "hann")
ORDER = {"not finite": "the order of a transform decides where ∞ is summed alone and where ∞ − ∞ is NaN"}
ONE_DTYPE = "computes in float64 and is judged where one rounding shows: in float32"


def image(shortest: int, longest: int) -> Real:
    spans = {"H": (shortest, longest), "W": (shortest, longest)}
    return Real("x", dims=("C", "H", "W"), decades=(-2.0, 1.0), spans={"C": (1, 3), **spans})


def pixels(sizes: Mapping[str, Any]) -> int:
    return int(sizes["H"]) * int(sizes["W"])


def ours(name: str, *claims: str) -> Implementation:
    return Implementation("trueness", lambda: getattr(fast, name), claims=frozenset(claims))


def peer(name: str, call: Any, *needs: str, waived: Mapping[str, str] | None = None) -> Implementation:
    return Implementation(
        name,
        lambda: call,
        "numpy",
        limit="eager",
        dtypes=("float32",),
        only=ONE_DTYPE,
        origin="third_party",
        needs=needs,
        waived=waived or {},
    )


# -- measured data ----------------------------------------------------------------------------------------------------


def digits(*rest: Any) -> Any:
    """Three handwritten digits, 8 × 8, and the other arguments."""

    def load() -> dict[str, tuple[Any, ...]]:
        return {"digits": (_digits.digits()[:3].reshape(3, 8, 8), *rest)} if _digits.available() else {}

    return load


# -- scipy and tiler --------------------------------------------------------------------------------------------------


def scipy_transfer(height: int, width: int, sigma: float, *, dtype: Any) -> Any:
    """`fourier_gaussian` of a spectrum of ones; n says that the last axis is that of a real transform.

    scipy puts 0 for gains below exp(−50) along one axis, which σ ≤ 3 does not reach.
    """
    from scipy import ndimage

    return ndimage.fourier_gaussian(np.ones((height, width // 2 + 1)), sigma, n=width).astype(dtype)


def scipy_fft_gaussian(x: Any, sigma: float) -> Any:
    from scipy import fft, ndimage

    spectra = [ndimage.fourier_gaussian(fft.rfft2(y), sigma, n=y.shape[-1]) for y in x.astype(np.float64)]
    return fft.irfft2(np.array(spectra), s=x.shape[-2:]).astype(x.dtype)


def scipy_wrapped(x: Any, epsilon: float) -> Any:
    """The sampled kernel in space: `correlate1d` around the border, its middle at index n//2."""
    from scipy import ndimage

    y = x.astype(np.float64)
    for axis in (-2, -1):
        r = np.arange(x.shape[axis]) - x.shape[axis] // 2
        taps = np.exp(-(r**2) / (2 * epsilon**2))
        y = ndimage.correlate1d(y, taps / taps.sum(), axis=axis, mode="wrap")
    return y.astype(x.dtype)


def scipy_taps(k: int, sigma: float, *, dtype: Any) -> Any:
    from scipy.signal import windows

    taps = windows.gaussian(k, sigma)
    return (taps / taps.sum()).astype(dtype)


def scipy_blur(x: Any, k: int, sigma: float) -> Any:
    """torch calls it reflect, scipy mirror: the border pixel is not repeated."""
    from scipy import ndimage

    wide = x.astype(np.float64)
    return ndimage.gaussian_filter(wide, sigma, mode="mirror", radius=k // 2, axes=(-2, -1)).astype(x.dtype)


def scipy_correlate(x: Any, k: int, sigma: float) -> Any:
    from scipy import ndimage

    y = x.astype(np.float64)
    for axis in (-2, -1):
        y = ndimage.correlate1d(y, scipy_taps(k, sigma, dtype=np.float64), axis=axis, mode="mirror")
    return y.astype(x.dtype)


def tiler_blend(tiles: Any, rows: Any, columns: Any, height: int, width: int, window: str) -> Any:
    """`tiler.Merger` at given places: tiler itself pads the last tile, where ours is moved back."""
    from scipy.signal import windows
    from tiler import Merger, Tiler

    class Placed(Tiler):
        def get_tile_bbox(self, tile_id: int, with_channel_dim: bool = False, all_corners: bool = False) -> Any:
            low = np.array([0, rows[tile_id], columns[tile_id]])
            return low, low + np.array(self.tile_shape)

        def __len__(self) -> int:
            return len(tiles)

    channels, h, w = tiles.shape[1:]
    cut = Placed((channels, height, width), (channels, h, w), channel_dimension=0, mode="irregular")
    hann = np.outer(windows.hann(h + 2)[1:-1], windows.hann(w + 2)[1:-1]) * np.ones((channels, 1, 1))
    chosen = "triang" if window == "triangular" else hann
    merger = Merger(cut, window=chosen, data_dtype=np.float64, weights_dtype=np.float64)
    for k, tile in enumerate(tiles):
        merger.add(k, tile)
    return merger.merge(unpad=False, dtype=tiles.dtype)


# -- tiles of an image ------------------------------------------------------------------------------------------------

TILED = {
    "height": st.sampled_from((5, 7, 6, 3, 1)),  # mostly no power of two: a block of the kernel is cut short
    "width": st.sampled_from((5, 7, 6, 3, 1)),
    "tile": st.sampled_from((3, 4, 2, 1)),
    "overlap": st.sampled_from((0.0, 0.3, 0.6)),
}


def places(known: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The first row and column of every tile, row by row."""
    starts = [
        true.tile_starts(known[axis], min(known["tile"], known[axis]), known["overlap"]) for axis in ("height", "width")
    ]
    rows, columns = np.meshgrid(*starts, indexing="ij")
    return rows.ravel(), columns.ravel()


TILES = Real(
    "tiles",
    dims=(
        lambda known: len(places(known)[0]),
        "C",
        lambda known: min(known["tile"], known["height"]),
        lambda known: min(known["tile"], known["width"]),
    ),
    decades=(-2.0, 1.0),
    spans={"C": (1, 2)},
)


def tiled_digits() -> dict[str, tuple[Any, ...]]:
    """A digit in tiles of 4 × 4 that overlap by two, each tile multiplied by a number of its own."""
    if not _digits.available():
        return {}
    rows, columns = places({"height": 8, "width": 8, "tile": 4, "overlap": 0.5})
    image = _digits.digits()[0].reshape(1, 8, 8)
    tiles = [(1 + i / 8) * image[:, r : r + 4, c : c + 4] for i, (r, c) in enumerate(zip(rows, columns, strict=True))]
    return {f"digits, {window}": (np.stack(tiles), rows, columns, 8, 8, window) for window in WINDOWS}


FORMULAS = (
    Formula(
        name="filters.gaussian_transfer",
        reference=true.gaussian_transfer,
        equation="G(f) = exp(−2π²σ²|f|²)",
        source=TRANSFORM,
        arguments=(
            Scalar("height", st.integers(1, 8), far=(64, 300)),
            Scalar("width", st.integers(1, 8), far=(64, 300)),
            Scalar("sigma", st.floats(0.1, 3.0), far=(20.0,)),
        ),
        implementations=(
            ours("gaussian_transfer"),
            peer("scipy fourier_gaussian", scipy_transfer, "scipy"),
        ),
        no_gradient=MADE_ONCE,
        working="float64",
        creates=True,
    ),
    Formula(
        name="filters.fft_gaussian",
        reference=true.fft_gaussian,
        vjp=true.fft_gaussian_vjp,
        equation="y = F⁻¹(G · F x),  G(f) = exp(−2π²σ²|f|²)",
        source=TRANSFORM,
        arguments=(image(1, 6), Real("sigma", dims=(), decades=(-1.0, 0.0), positive=True)),
        implementations=(
            ours("fft_gaussian", "gradient", "compile", "autocast", "vmap", "out"),
            cuda.FFT_GAUSSIAN,
            cuda.TRANSFORMED,
            peer("scipy fourier_gaussian", scipy_fft_gaussian, "scipy"),
        ),
        reduction=pixels,
        gradient_reduction=lambda sizes: int(sizes["C"]) * pixels(sizes),
        special="NaN and ±inf spread over the whole image as NaN; subnormal input counts as what it is",
        policies=ORDER,
        real=digits(0.8),
    ),
    Formula(
        name="filters.fft_operator",
        reference=true.fft_operator,
        vjp=true.fft_operator_vjp,
        equation="y = F⁻¹(F k · F x),  k(r) = exp(−|r|²/(2ε²))/Σ on r = i − n//2",
        source="Rahimi & Recht 2007 (k); circular convolution theorem",
        arguments=(image(1, 6), Scalar("epsilon", st.floats(0.2, 3.0), far=(20.0,))),
        implementations=(
            ours("fft_operator", "gradient", "compile", "autocast", "vmap", "out"),
            peer(
                "scipy correlate1d, wrapped",
                scipy_wrapped,
                "scipy",
            ),
        ),
        reduction=pixels,
        special="NaN and ±inf spread over the whole image as NaN; subnormal input counts as what it is",
        policies=ORDER,
        real=digits(0.8),
    ),
    Formula(
        name="filters.gaussian_taps",
        reference=true.gaussian_taps,
        equation="c_j = exp(−(j − (k−1)/2)²/(2σ²)) / Σ",
        source="sampled Gaussian, sum 1",
        arguments=(Scalar("k", st.integers(1, 9), far=(64, 301)), Scalar("sigma", st.floats(0.3, 4.0), far=(30.0,))),
        implementations=(ours("gaussian_taps"), peer("scipy windows.gaussian", scipy_taps, "scipy")),
        no_gradient=MADE_ONCE,
        working="float64",
        creates=True,
    ),
    Formula(
        name="filters.blur",
        reference=true.blur,
        vjp=true.blur_vjp,
        equation="y = K_y x K_xᵀ, K the taps c, reflected at the border",
        source="separable filtering; scipy.ndimage mode mirror",
        arguments=(
            image(3, 6),
            Scalar("k", st.sampled_from((3, 5, 1))),
            Scalar("sigma", st.floats(0.3, 3.0)),
        ),
        implementations=(
            ours("blur", "gradient", "compile", "autocast", "vmap", "jvp", "out"),
            peer("scipy gaussian_filter", scipy_blur, "scipy"),
            peer("scipy correlate1d", scipy_correlate, "scipy"),
        ),
        reduction=lambda sizes: int(sizes["k"]) ** 2,
        real=digits(5, 1.3),
    ),
    Formula(
        name="filters.tile_starts",
        reference=true.tile_starts,
        equation="s_k = min(k · stride, L − T),  stride = max(1, ⌊T (1 − overlap)⌋)",
        source=OVERLAP_ADD,
        arguments=(
            Scalar("length", st.integers(8, 60), far=(300, 70000)),
            Scalar("tile", st.integers(1, 8)),
            Scalar("overlap", st.sampled_from((0.13, 0.31, 0.77))),
        ),
        implementations=(Implementation("trueness", lambda: fast.tile_starts, limit="exact"),),
        no_gradient="integers",
        outputs=("int64",),
        creates=True,
        ball="integers: nothing is rounded; the other oracle is counting by hand, in the laws",
    ),
    Formula(
        name="filters.blend",
        reference=true.blend,
        vjp=true.blend_vjp,
        equation="y = Σ_k w_k t_k / Σ_k w_k",
        source=OVERLAP_ADD,
        arguments=(
            TILES,
            Made("rows", lambda known, _: places(known)[0], draws=TILED, array=True),
            Made("columns", lambda known, _: places(known)[1], draws=TILED, array=True),
            Scalar("height", TILED["height"]),
            Scalar("width", TILED["width"]),
            Scalar("window", st.sampled_from(WINDOWS)),
        ),
        implementations=(
            ours("blend", "gradient", "autocast", "out"),
            cuda.BLEND,
            peer(
                "tiler.Merger",
                tiler_blend,
                "tiler",
                "scipy",
            ),
        ),
        reduction=lambda sizes: 9,
        real=tiled_digits,
        policies={"finite": "tiler.Merger puts 0 in the place of NaN"},
    ),
)
