"""Known bugs of the family filters: shifts, floors, windows that vanish at the border, taps and channels."""

from __future__ import annotations

from typing import Any

import numpy as np

from trueness.reference import filters as true
from trueness.regressions._lib.commands import show
from trueness.tools.spec.model import UNDOCUMENTED, Bug

ATLAS = "ATLAS (OT-diffusion-toolkit), changelog of 2025-11-20"
FASTSB = "FastSB-OT kernels.py changelog, 2025-11-28"
TRANSFORM = "Gaussian transform pair (Bracewell); scipy.ndimage.fourier_gaussian"
CONVOLUTION = "circular convolution theorem: the kernel's middle belongs at index 0"
OVERLAP_ADD = "Allen & Rabiner 1977 (overlap-add); Harris 1978 (windows)"
SEPARABLE = "separable filtering; scipy.ndimage.correlate1d"


# -- transfer function ------------------------------------------------------------------------------------------------


def floor_of_a_millionth(height: int, width: int, sigma: Any) -> Any:
    """max(G, 10⁻⁶)"""
    return np.maximum(true.gaussian_transfer(height, width, sigma), 1e-6)


def floor_of_a_trillionth(height: int, width: int, sigma: Any) -> Any:
    """max(G, 10⁻¹²), the documented fix"""
    return np.maximum(true.gaussian_transfer(height, width, sigma), 1e-12)


def angular(height: int, width: int, sigma: Any) -> Any:
    """exp(−σ²|f|²/2), right for f in radians per sample, with f in cycles"""
    return true.gaussian_transfer(height, width, sigma / (2 * np.pi))


def frequency_times_length(height: int, width: int, sigma: Any) -> Any:
    """fftfreq · n: whole numbers, periods per image"""
    k_y, k_x = true._signed(height)[:, None], np.arange(width // 2 + 1)
    return true._gains(k_y, k_x, sigma)


def reinterpreted(x: Any, sigma: Any) -> Any:
    """Channels-last memory read as if it were contiguous: channels and pixels change places"""
    moved = np.moveaxis(x, -3, -1).reshape(x.shape)
    return true.fft_gaussian(moved, sigma)


# -- FFT operator -----------------------------------------------------------------------------------------------------


def rolled(y: Any, down: int, right: int) -> Any:
    """y moved around by so many rows and columns"""
    height, width = y.shape[-2:]
    return y[..., (np.arange(height) - down) % height, :][..., (np.arange(width) - right) % width]


def not_shifted(x: Any, epsilon: Any) -> Any:
    """The kernel's middle stays at index n//2, and so does the image's"""
    height, width = x.shape[-2:]
    return rolled(true.fft_operator(x, epsilon), height // 2, width // 2)


def shifted_the_wrong_way(x: Any, epsilon: Any) -> Any:
    """fftshift for ifftshift: the same for even n, one back for odd n"""
    height, width = x.shape[-2:]
    return rolled(true.fft_operator(x, epsilon), -(height % 2), -(width % 2))


def variance_for_deviation(x: Any, epsilon: Any) -> Any:
    """exp(−r²/(2ε))"""
    return true.fft_operator(x, np.sqrt(epsilon))


def transformed_for_sampled(x: Any, epsilon: Any) -> Any:
    """The transform of the Gaussian in place of the transform of its samples"""
    return true.fft_gaussian(x, epsilon)


# -- blur -------------------------------------------------------------------------------------------------------------


def batch_axis_kept(x: Any, k: int, sigma: Any) -> Any:
    """(C, H, W) comes back as (1, C, H, W) when there are several channels"""
    y = true.blur(x, k, sigma)
    return y[None] if np.ndim(x) == 3 and len(x) > 1 else y


def one_tap_more(k: int, sigma: Any) -> Any:
    """arange(−(k//2), k//2 + 1): k + 1 taps for even k"""
    return true.gaussian_taps(2 * (k // 2) + 1, sigma)


def half_a_pixel_off(k: int, sigma: Any) -> Any:
    """taps around k/2 instead of (k − 1)/2"""
    j = np.arange(k) - k / 2
    taps = np.exp(-(j * j) / (2 * sigma * sigma))
    return taps / np.sum(taps)


def channels_mixed(x: Any, k: int, sigma: Any) -> Any:
    """without groups: every channel becomes the sum over all channels"""
    return true.blur(np.sum(x, axis=-3, keepdims=True) + 0 * x, k, sigma)


def border_repeated(x: Any, k: int, sigma: Any) -> Any:
    """scipy's reflect: the border pixel counts twice (torch's reflect is scipy's mirror)"""
    taps, r = true.gaussian_taps(k, sigma), k // 2
    height, width = x.shape[-2:]
    wide = np.pad(x, [(0, 0)] * (x.ndim - 2) + [(r, r), (r, r)], mode="symmetric")
    rows = sum(taps[j] * wide[..., j : j + height, :] for j in range(k))
    return sum(taps[j] * rows[..., j : j + width] for j in range(k))


# -- tiles ------------------------------------------------------------------------------------------------------------


def hat(n: int) -> Any:
    """min(u, 1 − u), u = 0 … 1"""
    u = np.arange(n) / max(n - 1, 1)
    return np.minimum(u, 1 - u)


def bartlett(n: int) -> Any:
    """2 min(u, 1 − u), scaled to 1: zero at both ends"""
    return hat(n) / np.maximum(np.max(hat(n)), 1e-12)


def clamped(n: int) -> Any:
    """max(min(u, 1 − u), 10⁻³), scaled to 1"""
    w = np.maximum(hat(n), 1e-3)
    return w / np.max(w)


def hann_with_zeros(n: int) -> Any:
    """sin²(π i/(n − 1)): zero at both ends"""
    return np.sin(np.pi * np.arange(n) / max(n - 1, 1)) ** 2


def blended_with(window: Any, tiles: Any, rows: Any, columns: Any, height: int, width: int) -> Any:
    """Σ w t / max(Σ w, 10⁻⁶)"""
    h, w = tiles.shape[-2:]
    weights = window(h)[:, None] * window(w)
    places = list(zip(rows.tolist(), columns.tolist(), strict=True))
    mass = sum(true._placed(weights, top, left, height, width) for top, left in places)
    total = sum(
        true._placed(weights * t, top, left, height, width) for t, (top, left) in zip(tiles, places, strict=True)
    )
    return total / np.maximum(mass, 1e-6)


def zero_at_the_border(tiles: Any, rows: Any, columns: Any, height: int, width: int, window: str) -> Any:
    """The documented linear window"""
    if window != "triangular":
        return true.blend(tiles, rows, columns, height=height, width=width, window=window)
    return blended_with(bartlett, tiles, rows, columns, height, width)


def clamped_at_a_thousandth(tiles: Any, rows: Any, columns: Any, height: int, width: int, window: str) -> Any:
    """The linear window as it was before"""
    if window != "triangular":
        return true.blend(tiles, rows, columns, height=height, width=width, window=window)
    return blended_with(clamped, tiles, rows, columns, height, width)


def hann_zero_at_the_border(tiles: Any, rows: Any, columns: Any, height: int, width: int, window: str) -> Any:
    """The hann window, before and after"""
    if window != "hann":
        return true.blend(tiles, rows, columns, height=height, width=width, window=window)
    return blended_with(hann_with_zeros, tiles, rows, columns, height, width)


def first_window_kept(tiles: Any, rows: Any, columns: Any, height: int, width: int, window: str) -> Any:
    """A cache of windows whose key is the tile's size: the kind asked for first stays"""
    return true.blend(tiles, rows, columns, height=height, width=width, window="triangular")


def end_computed_twice(length: int, tile: int, overlap: Any) -> Any:
    """range(0, L, stride), every start moved back to L − T: the last tile comes again and again"""
    stride = max(1, int(tile * (1 - overlap)))
    return np.minimum(np.arange(0, length, stride), length - tile)


def end_left_out(length: int, tile: int, overlap: Any) -> Any:
    """range(0, L − T + 1, stride): no tile is moved back, and what is left over lies in none"""
    return np.arange(0, length - tile + 1, max(1, int(tile * (1 - overlap))))


# -- discriminating inputs --------------------------------------------------------------------------------------------

IMPULSE_9 = (np.pad(np.ones((1, 1, 1)), ((0, 0), (0, 8), (0, 8))), 0.5)
IMAGE = np.random.default_rng(0).standard_normal((3, 5, 6))
ROWS, COLUMNS = np.array([0, 0, 2, 2]), np.array([0, 2, 0, 2])
SEAMS = np.array([4.0, -4.0, -4.0, 4.0])[:, None, None, None] + np.arange(16.0).reshape(4, 4) / 16  # tiles disagree


def tiles_of(window: str) -> tuple[Any, ...]:
    return (SEAMS, ROWS, COLUMNS, 6, 6, window)


BUGS = (
    Bug(
        id="ATLAS-05b",
        formula="filters.fft_operator",
        title="no ifftshift: the result is moved by half the image",
        document=ATLAS,
        claim="the Gaussian kernel's bandwidth was wrong (nothing is said about a shift)",
        verdict="real bug, right fix",
        source=CONVOLUTION,
        finding="The kernel is centred at n//2, so the operator also moves the image by n//2 in every axis: of 9 × 9 "
        "the impulse at 0 comes out at 4. Undocumented, and repaired by the same commit.",
        evidence=show("ATLAS-05b"),
        variant=not_shifted,
        discriminating_input=IMPULSE_9,
    ),
    Bug(
        id="ATLAS-05c",
        formula="filters.fft_operator",
        title="fftshift where ifftshift belongs: one pixel off for odd lengths",
        document="ATLAS (OT-diffusion-toolkit), HEAD 2536e5f",
        claim="the kernel is centred",
        verdict="real bug, wrong fix",
        source=CONVOLUTION,
        finding="A later regression: the two shifts agree for even n; for n = 9 the impulse at 0 comes out at 8.",
        evidence=show("ATLAS-05c"),
        variant=shifted_the_wrong_way,
        discriminating_input=IMPULSE_9,
    ),
    Bug(
        id="ATLAS-05f",
        formula="filters.fft_operator",
        title="ε read as a variance",
        document=ATLAS,
        claim="a missing square: exp(−r²/(2ε)) should be exp(−r²/(2ε²))",
        verdict="convention",
        source="Rahimi & Recht 2007 for ε as a length; Cuturi 2013 for exp(−C/ε)",
        finding="Before the change every operator meant the variance; after it every one means the standard deviation. "
        "With ε = 0.01 on a grid of whole pixels the operator is the identity under either.",
        evidence=show("ATLAS-05f"),
        variant=variance_for_deviation,
        discriminating_input=(IMAGE, 0.5),
    ),
    Bug(
        id="ATLAS-05g",
        formula="filters.fft_operator",
        title="the transform of the Gaussian for the transform of its samples",
        document="ATLAS fft.py samples the kernel, FastSB-OT kernels.py writes its transform",
        claim="both are 'the Gaussian filter'",
        verdict="convention",
        source=f"{TRANSFORM}; Poisson summation",
        finding="They differ by aliasing: at Nyquist and σ = 1 the gain is 0.01438 sampled and 0.00719 in closed form; "
        "at σ = 2 the two agree to 3e-9.",
        evidence=show("ATLAS-05g"),
        variant=transformed_for_sampled,
        discriminating_input=(IMAGE, 0.5),
    ),
    Bug(
        id="ATLAS-12",
        formula="filters.blend",
        title="a tile window that is zero at the edges blackens the image's border",
        document=ATLAS,
        claim="a window that falls to zero at the edges removes visible seams",
        verdict="real bug, wrong fix",
        source=OVERLAP_ADD,
        finding="A border pixel lies in one tile alone, where the weight is zero: 0/1e-6. The identity model on x in "
        "[1, 2] loses its border rows and columns, an error of up to 2. triang, or hann without its zeros, is right.",
        evidence=show("ATLAS-12"),
        variant=zero_at_the_border,
        discriminating_input=tiles_of("triangular"),
    ),
    Bug(
        id="ATLAS-12b",
        formula="filters.blend",
        title="a linear window held above 1e-3",
        document=ATLAS,
        claim="the clamp at 1e-3 left visible seams",
        verdict="claim false",
        source=OVERLAP_ADD,
        finding="It was positive everywhere, so the identity model was the identity; the jump at a seam was below half "
        "a percent of what the tiles differ by.",
        evidence=show("ATLAS-12b"),
        variant=clamped_at_a_thousandth,
        discriminating_input=tiles_of("triangular"),
    ),
    Bug(
        id="ATLAS-12c",
        formula="filters.blend",
        title="a hann window with its two zeros",
        document=ATLAS,
        claim="hann is the default blending window",
        verdict="real bug, wrong fix",
        source=OVERLAP_ADD,
        finding="It blackened the border before the fix and after it; hann(n + 2)[1:-1] does not.",
        evidence=show("ATLAS-12c"),
        variant=hann_zero_at_the_border,
        discriminating_input=tiles_of("hann"),
    ),
    Bug(
        id="ATLAS-12d",
        formula="",
        title="no tiling as soon as one side is not longer than a tile",
        document=ATLAS,
        claim="large images are computed in tiles",
        verdict="real bug, wrong fix",
        source="memory grows with the largest piece that the model sees",
        finding="An image of 16 × 400 with tiles of 16 is run whole. Here the short axis is one tile and the long one "
        "is cut.",
        evidence=show("ATLAS-12d"),
    ),
    Bug(
        id="ATLAS-12e",
        formula="filters.blend",
        title="a cache of windows without their kind in the key",
        document=ATLAS,
        claim="windows are cached by size",
        verdict="real bug, wrong fix",
        source="a key must hold everything the value depends on",
        finding="After one call with a linear window, hann of the same size is linear too. Undocumented.",
        evidence=show("ATLAS-12e"),
        variant=first_window_kept,
        discriminating_input=tiles_of("hann"),
    ),
    Bug(
        id="ATLAS-12f",
        formula="filters.tile_starts",
        title="the tiles at the end are computed twice",
        document=ATLAS,
        claim="the last tile is shifted back to fit",
        verdict="real bug, wrong fix",
        source=OVERLAP_ADD,
        finding="Every start beyond L − T becomes L − T: 40 × 40 in tiles of 16 with stride 12 takes 16 evaluations "
        "where 9 cover the image, and the repeated tile counts twice in the blend. Undocumented.",
        evidence=show("ATLAS-12f"),
        variant=end_computed_twice,
        discriminating_input=(40, 16, 0.23),
    ),
    Bug(
        id="ATLAS-12g",
        formula="filters.tile_starts",
        title="what is left over at the end lies in no tile",
        document=UNDOCUMENTED,
        claim="the tiles cover the image",
        verdict="no bug",
        source=OVERLAP_ADD,
        finding="ATLAS moves the last tile back, rightly; without it up to stride − 1 pixels stay empty.",
        evidence=show("ATLAS-12g"),
        variant=end_left_out,
        discriminating_input=(41, 16, 0.23),
    ),
    Bug(
        id="ATLAS-21",
        formula="filters.blur",
        title="a loop over channels that returns a batch of one",
        document=ATLAS,
        claim="the loop over channels was slow; one grouped convolution gives the same",
        verdict="real bug, right fix",
        source=SEPARABLE,
        finding="The values were right, the shape was not: for C > 1 an image (C, H, W) came back as (1, C, H, W). "
        "Undocumented; the grouped convolution repaired it.",
        evidence=show("ATLAS-21"),
        variant=batch_axis_kept,
        discriminating_input=(IMAGE, 3, 1.0),
    ),
    Bug(
        id="ATLAS-21b",
        formula="filters.gaussian_taps",
        title="an even number of taps becomes the next odd one",
        document=ATLAS,
        claim="kernel_size taps",
        verdict="real bug, wrong fix",
        source=SEPARABLE,
        finding="Before, k = 4 gave five taps: the shape of the image was kept, the filter was another.",
        evidence=show("ATLAS-21b"),
        variant=one_tap_more,
        discriminating_input=(4, 1.3),
    ),
    Bug(
        id="ATLAS-21c",
        formula="",
        title="an even number of taps makes the image grow",
        document=ATLAS,
        claim="padding of k//2 keeps the shape",
        verdict="real bug, wrong fix",
        source=SEPARABLE,
        finding="After, k = 4 gives four taps between paddings of two: 12 pixels become 13, half a pixel aside. HEAD "
        "refuses even k, and so does `blur`.",
        evidence=show("ATLAS-21c"),
    ),
    Bug(
        id="ATLAS-21d",
        formula="filters.blur",
        title="a convolution without groups mixes the channels",
        document=ATLAS,
        claim="one grouped convolution gives the same as the loop",
        verdict="no bug",
        source=SEPARABLE,
        finding="With groups=C it does, to rounding. Without, every channel becomes the sum over all: the wrong "
        "variant that the check must see.",
        evidence=show("ATLAS-21d"),
        variant=channels_mixed,
        discriminating_input=(IMAGE, 3, 1.0),
    ),
    Bug(
        id="ATLAS-21e",
        formula="filters.gaussian_taps",
        title="taps half a pixel off their middle",
        document=UNDOCUMENTED,
        claim="the middle is k/2",
        verdict="no bug",
        source=SEPARABLE,
        finding="The middle of 0 … k − 1 is (k − 1)/2. Taps around k/2 are not symmetric and move the image.",
        evidence=show("ATLAS-21e"),
        variant=half_a_pixel_off,
        discriminating_input=(5, 1.3),
    ),
    Bug(
        id="ATLAS-21f",
        formula="filters.blur",
        title="'reflect' as scipy means it",
        document="torch and scipy documentation",
        claim="reflect is reflect",
        verdict="convention",
        source="scipy.ndimage: mode mirror does not repeat the border pixel, mode reflect does",
        finding="torch's reflect is scipy's mirror. scipy's reflect repeats the border pixel.",
        evidence=show("ATLAS-21f"),
        variant=border_repeated,
        discriminating_input=(IMAGE, 3, 1.0),
    ),
    Bug(
        id="FSB-05",
        formula="filters.gaussian_transfer",
        title="a clamp at 1e-6 on the Gaussian transfer function, said to ring",
        document=FASTSB,
        claim="the floor 1e-6 destroys high frequencies; 1e-12 does not; min < 1e-10 at σ = 1 on 64×64",
        verdict="claim false",
        source=TRANSFORM,
        finding="At σ = 1 the smallest gain is exp(−π²) = 5.1723e-5: the floor 1e-6 changes 0 of 2112 bins, and the "
        "changelog's own test min < 1e-10 fails. At σ = 2 it raises 965 bins, and an impulse response of 0.0398 by "
        "4e-7: nothing rings. f = 3, which the changelog plots, is six times Nyquist.",
        evidence=show("FSB-05"),
        variant=floor_of_a_millionth,
        discriminating_input=(64, 64, 2.0),
    ),
    Bug(
        id="FSB-05b",
        formula="filters.gaussian_transfer",
        title="a clamp at 1e-12, the documented fix",
        document=FASTSB,
        claim="1e-12 keeps the filter exact and safe to divide by",
        verdict="real bug, wrong fix",
        source=TRANSFORM,
        finding="At σ = 2 it still raises 128 bins; a filter needs no clamp at all. Divided by, it amplifies noise "
        "1e12 times where 1e-6 stops at 1e6.",
        evidence=show("FSB-05b"),
        variant=floor_of_a_trillionth,
        discriminating_input=(64, 64, 2.0),
        invisible={"float16": "1e-12 is below its smallest number"},
    ),
    Bug(
        id="FSB-05c",
        formula="filters.gaussian_transfer",
        title="the formula of angular frequency with cycles per pixel",
        document=UNDOCUMENTED,
        claim="exp(−σ²f²/2)",
        verdict="no bug",
        source=TRANSFORM,
        finding="Off by 2π in width: σ = 2 filters like σ = 0.32, so next to nothing.",
        evidence=show("FSB-05c"),
        variant=angular,
        discriminating_input=(8, 8, 1.0),
    ),
    Bug(
        id="FSB-05d",
        formula="filters.gaussian_transfer",
        title="whole-number frequencies, fftfreq · n",
        document=UNDOCUMENTED,
        claim="frequencies are indices",
        verdict="no bug",
        source=TRANSFORM,
        finding="Only the mean is left: at σ = 1 the gain of the first bin is 3e-9, whatever the image's size.",
        evidence=show("FSB-05d"),
        variant=frequency_times_length,
        discriminating_input=(8, 8, 1.0),
    ),
    Bug(
        id="FSB-06",
        formula="",
        title="a channels_last fix that changes no stride",
        document=FASTSB,
        claim="the result is now channels_last",
        verdict="claim false",
        source="torch memory-format semantics",
        finding="It converts the (B·C, 1, H, W) view, for which contiguous already is channels_last, and reshapes "
        "back: bitwise and stride for stride a no-op, for both input layouts.",
        evidence=show("FSB-06"),
    ),
    Bug(
        id="FSB-06b",
        formula="filters.fft_gaussian",
        title="channels-last memory read as contiguous",
        document=FASTSB,
        claim="the layout does not touch the values",
        verdict="no bug",
        source="torch memory-format semantics",
        finding="The no-op touches none. What would: to reinterpret the memory instead of moving it, which the layouts "
        "check rejects.",
        evidence=show("FSB-06b"),
        variant=reinterpreted,
        discriminating_input=(IMAGE, 0.5),
    ),
)
