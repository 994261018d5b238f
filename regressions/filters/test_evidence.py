"""Evidence for ATLAS-05, -12, -21 and FSB-05, -06: shifts, borders, channels, and a clamp that does not ring."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from trueness.optimized import filters as fast
from trueness.properties._lib.within import F64, allowed_error
from trueness.reference import filters as true
from trueness.regressions import filters as wrong


def impulse(n: int) -> np.ndarray:
    x = np.zeros((1, n, n))
    x[0, 0, 0] = 1
    return x


# -- FFT operator -----------------------------------------------------------------------------------------------------


def as_documented(x: np.ndarray, epsilon: float, shift: Any) -> np.ndarray:
    """Word for word: the kernel on i − n//2, sum 1, moved by ``shift``, through the transform."""
    n, m = x.shape[-2:]
    r_y, r_x = np.arange(n)[:, None] - n // 2, np.arange(m) - m // 2
    kernel = np.exp(-(r_y**2 + r_x**2) / (2 * epsilon**2))
    return np.fft.irfft2(np.fft.rfft2(x) * np.fft.rfft2(shift(kernel / kernel.sum())), s=(n, m))


SHIFTS = {
    "right": (np.fft.ifftshift, true.fft_operator),
    "none": (lambda kernel: kernel, wrong.not_shifted),
    "wrong way": (np.fft.fftshift, wrong.shifted_the_wrong_way),
}


@pytest.mark.parametrize("name", SHIFTS)
@pytest.mark.parametrize("shape", [(8, 8), (9, 9), (8, 9)])
def test_the_variants_are_the_documented_code_ATLAS_05b_ATLAS_05c(name: str, shape: tuple[int, int]) -> None:
    shift, variant = SHIFTS[name]
    x = np.random.default_rng(0).standard_normal((1, *shape))
    allowed = allowed_error(true.fft_operator, x, 0.8, reduction=math.prod(shape)).max()
    assert np.abs(as_documented(x, 0.8, shift) - variant(x, 0.8)).max() <= allowed


@pytest.mark.parametrize(
    ("n", "variant", "at"),
    [
        (9, true.fft_operator, 0),
        (9, wrong.not_shifted, 4),
        (9, wrong.shifted_the_wrong_way, 8),
        (8, wrong.not_shifted, 4),
        (8, wrong.shifted_the_wrong_way, 0),
    ],
)
def test_where_an_impulse_at_zero_comes_out_ATLAS_05b_ATLAS_05c(n: int, variant: Any, at: int) -> None:
    assert np.unravel_index(variant(impulse(n), 0.8).argmax(), (1, n, n)) == (0, at, at)


@pytest.mark.ledger_fact
def test_a_kernel_off_its_middle_has_a_complex_spectrum_ATLAS_05b_ATLAS_05c() -> None:
    def imaginary(n: int, epsilon: float, shift: Any) -> float:
        r = np.arange(n) - n // 2
        kernel = np.exp(-(r**2) / (2 * epsilon**2))
        return float(np.abs(np.fft.rfft(shift(kernel / kernel.sum())).imag).max())

    for n in (8, 9):
        assert imaginary(n, 1.0, np.fft.ifftshift) <= n * F64.u
    assert f"{imaginary(9, 1.0, np.fft.fftshift):.2f} {imaginary(9, 1.0, lambda kernel: kernel):.2f}" == "0.50 0.27"
    assert imaginary(8, 1.0, np.fft.fftshift) <= 8 * F64.u, "for even n the two shifts are one"


def test_epsilon_as_variance_agrees_at_one_and_is_the_identity_at_a_hundredth_ATLAS_05f() -> None:
    x = np.random.default_rng(0).standard_normal((1, 6, 7))
    assert (wrong.variance_for_deviation(x, 1.0) == true.fft_operator(x, 1.0)).all()
    allowed = allowed_error(true.fft_operator, x, 0.01, reduction=42)
    for function in (true.fft_operator, wrong.variance_for_deviation):
        assert np.abs(function(x, 0.01) - x).max() <= allowed.max()
    k = {name: np.exp(-1 / (2 * scale)) for name, scale in (("deviation", 0.5**2), ("variance", 0.5))}
    assert [f"{k[name]:.3f}" for name in ("variance", "deviation")] == ["0.368", "0.135"]


def test_sampling_and_transforming_differ_by_aliasing_ATLAS_05g() -> None:
    def at_nyquist(sigma: float) -> list[float]:
        n = 64
        return [float(true._sampled_gains(n, sigma)[n // 2]), float(true.gaussian_transfer(n, 1, sigma)[n // 2, 0])]

    assert [f"{g:.5f}" for g in at_nyquist(1.0)] == ["0.01438", "0.00719"]
    sampled, transformed = at_nyquist(2.0)
    assert f"{abs(sampled - transformed):.1e}" == "2.7e-09"


# -- tiles ------------------------------------------------------------------------------------------------------------


def identity(window: Any, side: int = 40, tile: int = 16, overlap: float = 0.25) -> tuple[np.ndarray, np.ndarray]:
    """An image in [1, 2] and what the identity model makes of it, blended with ``window``."""
    x = 1 + np.random.default_rng(0).random((1, side, side))
    starts = true.tile_starts(side, tile, overlap)
    rows, columns = (a.ravel() for a in np.meshgrid(starts, starts, indexing="ij"))
    tiles = np.stack([x[:, r : r + tile, c : c + tile] for r, c in zip(rows, columns, strict=True)])
    return x, wrong.blended_with(window, tiles, rows, columns, side, side)


def border(x: np.ndarray) -> np.ndarray:
    return np.concatenate([x[..., 0, :], x[..., -1, :], x[..., :, 0], x[..., :, -1]], -1)


@pytest.mark.parametrize("window", [wrong.bartlett, wrong.hann_with_zeros], ids=["linear", "hann"])
def test_a_window_that_ends_in_zero_blackens_the_border_ATLAS_12_ATLAS_12c(window: Any) -> None:
    x, y = identity(window)
    assert (np.abs(border(y)) <= 4 * F64.u).all()  # hann: sin² π is not quite zero
    assert np.abs(y - x).max() > 1.99


@pytest.mark.parametrize("kind", ["triangular", "hann"])
def test_a_window_without_zeros_keeps_the_border_ATLAS_12_ATLAS_12c(kind: str) -> None:
    x, y = identity(lambda n: true.tile_window(n, kind))
    assert (np.abs(y - x) <= 17 * F64.u * x).all()  # at most four tiles: four products and sums, twice, one division
    tiled = fast.tiled(lambda t: t, torch.from_numpy(x), 16, overlap=0.25, window=kind).numpy()
    assert (np.abs(tiled - x) <= 17 * F64.u * x).all()


def test_the_old_clamp_left_the_identity_and_no_visible_seam_ATLAS_12b() -> None:
    x, y = identity(wrong.clamped)
    assert (np.abs(y - x) <= 17 * F64.u * x).all()
    n = 16
    tiles = np.stack([np.zeros((1, 1, n)), np.ones((1, 1, n))])  # two tiles that differ by one
    rows, columns = np.array([0, 0]), np.array([0, 12])
    row = wrong.blended_with(lambda k: wrong.clamped(k) if k > 1 else np.ones(1), tiles, rows, columns, 1, 28)[0, 0]
    jumps = {11: row[12] - row[11], 15: row[16] - row[15]}  # where the second tile begins and the first one ends
    assert all(0 < j < 0.005 for j in jumps.values()), "half a percent of what the tiles differ by"
    assert wrong.clamped(256)[0] < 0.0021, "and of the window itself the edge has a five-hundredth"


def test_a_long_image_is_cut_along_its_long_side_ATLAS_12d() -> None:
    """The documented rule runs the whole image as soon as one side is not above the tile."""
    seen: list[tuple[int, ...]] = []
    x = torch.rand(1, 16, 400)

    def model(t: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(t.shape[-2:]))
        return t

    fast.tiled(model, x, 16, overlap=0.25, window="hann")
    whole = 16 >= min(x.shape[-2:])
    assert whole and set(seen) == {(16, 16)} and len(seen) == 33


def test_two_windows_of_one_size_after_each_other_are_two_windows_ATLAS_12e() -> None:
    """A cache keyed by size alone would give the first one twice."""
    cache: dict[int, np.ndarray] = {}

    def cached(n: int, kind: str) -> np.ndarray:
        return cache.setdefault(n, true.tile_window(n, kind))

    assert (cached(8, "triangular") == cached(8, "hann")).all()
    assert not torch.equal(fast.tile_window(8, "triangular"), fast.tile_window(8, "hann"))


def test_nine_tiles_cover_what_took_sixteen_evaluations_ATLAS_12f() -> None:
    assert len(wrong.end_computed_twice(40, 16, 0.25)) ** 2 == 16
    assert len(true.tile_starts(40, 16, 0.25)) ** 2 == 9
    calls: list[int] = []
    fast.tiled(lambda t: calls.append(1) or t, torch.zeros(1, 40, 40), 16, overlap=0.25, window="hann")  # type: ignore[func-returns-value]
    assert len(calls) == 9


def test_without_the_shifted_last_tile_pixels_stay_empty_ATLAS_12g() -> None:
    starts = wrong.end_left_out(41, 16, 0.25)
    assert starts[-1] + 16 == 40 < 41
    rows = columns = torch.from_numpy(starts)
    with pytest.raises(ValueError, match="uncovered"):
        fast.blend(torch.zeros(3, 16, 16), rows, columns, height=41, width=16)


# -- blur -------------------------------------------------------------------------------------------------------------


def loop_over_channels(x: torch.Tensor, k: int, sigma: float) -> torch.Tensor:
    """The documented shape of the old code: a batch axis is added, and taken away in one of two branches."""
    taps = fast.gaussian_taps(k, sigma, dtype=x.dtype)
    added = x.ndim == 3
    batch = x[None] if added else x
    if batch.shape[1] > 1:
        return torch.cat([convolved(batch[:, c : c + 1], taps, 1) for c in range(batch.shape[1])], 1)
    y = convolved(batch, taps, 1)
    return y[0] if added else y


def convolved(x: torch.Tensor, taps: torch.Tensor, groups: int) -> torch.Tensor:
    """Two depthwise convolutions of torch, padded by k//2 with reflection."""
    k, c = len(taps), x.shape[1]
    for shape, pad in (((1, 1, 1, k), (k // 2, k // 2, 0, 0)), ((1, 1, k, 1), (0, 0, k // 2, k // 2))):
        wide = torch.nn.functional.pad(x, pad, mode="reflect")
        x = torch.nn.functional.conv2d(wide, taps.reshape(shape).repeat(c, 1, 1, 1), groups=groups)
    return x


IMAGE = torch.from_numpy(np.random.default_rng(1).standard_normal((3, 12, 12)))


def test_an_image_without_batch_keeps_its_rank_ATLAS_21() -> None:
    old = loop_over_channels(IMAGE, 5, 1.3)
    assert old.shape == (1, 3, 12, 12) and loop_over_channels(IMAGE[:1], 5, 1.3).shape == (1, 12, 12)
    assert fast.blur(IMAGE, 5, 1.3).shape == (3, 12, 12)
    allowed = allowed_error(true.blur, IMAGE.numpy(), 5, 1.3, reduction=25)
    assert (np.abs(old[0].numpy() - true.blur(IMAGE.numpy(), 5, 1.3)) <= allowed).all(), "the values were right"


def test_an_even_number_of_taps_was_rounded_up_ATLAS_21b() -> None:
    assert len(np.arange(-(4 // 2), 4 // 2 + 1)) == 5 == len(wrong.one_tap_more(4, 1.3))
    assert len(true.gaussian_taps(4, 1.3)) == 4


def test_an_even_number_of_taps_makes_the_image_grow_ATLAS_21c() -> None:
    taps = fast.gaussian_taps(4, 1.3, dtype=torch.float64)
    assert convolved(IMAGE[None], taps, 3).shape == (1, 3, 13, 13)
    with pytest.raises(ValueError, match="k was 4; it must be odd"):
        fast.blur(IMAGE, 4, 1.3)


def test_a_grouped_convolution_is_the_loop_and_one_without_groups_mixes_ATLAS_21d() -> None:
    """Bit for bit the same taps on the same pixels; torch may add them in another order."""
    taps = fast.gaussian_taps(5, 1.3, dtype=torch.float64)
    allowed = allowed_error(true.blur, IMAGE.numpy(), 5, 1.3, reduction=25)
    grouped = convolved(IMAGE[None], taps, 3)[0].numpy()
    assert (np.abs(grouped - loop_over_channels(IMAGE, 5, 1.3)[0].numpy()) <= allowed).all()
    assert (np.abs(grouped - fast.blur(IMAGE, 5, 1.3).numpy()) <= allowed).all()
    mixed = wrong.channels_mixed(IMAGE.numpy(), 5, 1.3)
    assert (mixed == mixed[:1]).all() and np.abs(mixed - grouped).max() > 0.1


def test_taps_around_half_their_number_are_not_symmetric_ATLAS_21e() -> None:
    taps = wrong.half_a_pixel_off(5, 1.3)
    assert (taps != taps[::-1])[[0, 1]].all()
    centre = float((taps * (np.arange(5) - 2)).sum())
    assert 0.2 < centre < 0.5, "the image moves by almost half a pixel"


def test_torchs_reflect_is_scipys_mirror_ATLAS_21f() -> None:
    x, taps = IMAGE.numpy(), true.gaussian_taps(5, 1.3)
    allowed = allowed_error(true.blur, x, 5, 1.3, reduction=25)
    by_mode = {}
    for mode in ("mirror", "reflect"):
        y = ndimage.correlate1d(ndimage.correlate1d(x, taps, axis=-1, mode=mode), taps, axis=-2, mode=mode)
        by_mode[mode] = y
    assert (np.abs(by_mode["mirror"] - fast.blur(IMAGE, 5, 1.3).numpy()) <= allowed).all()
    assert (np.abs(by_mode["reflect"] - wrong.border_repeated(x, 5, 1.3)) <= allowed).all()
    assert np.abs(by_mode["reflect"] - by_mode["mirror"]).max() > 0.05


# -- the transfer function and its clamp ------------------------------------------------------------------------------


def gains(sigma: float, clamp: float = 0.0) -> np.ndarray:
    return np.maximum(true.gaussian_transfer(64, 64, sigma), clamp)


def test_the_clamp_on_the_transfer_function_changes_no_bin_at_sigma_one_FSB_05() -> None:
    g = gains(1.0)
    assert g.size == 2112 and (g < 1e-6).sum() == 0
    assert abs(g.min() - math.exp(-(math.pi**2))) <= allowed_error(true.gaussian_transfer, 64, 64, 1.0).min()
    assert f"{g.min():.4e}" == "5.1723e-05" and g.min() > 1e-10, "the changelog's own test expects less"
    assert (gains(2.0) < 1e-6).sum() == 965 and (gains(2.0) < 1e-12).sum() == 128
    assert (np.abs(ndimage.fourier_gaussian(np.ones((64, 33)), 1.0, n=64) - g) <= 8 * math.pi**2 * F64.u).all()


@pytest.mark.parametrize(("clamp", "first"), [(1e-6, 1.1831), (1e-10, 1.5274), (1e-12, 1.6732)])
def test_from_which_width_on_a_clamp_bites_FSB_05(clamp: float, first: float) -> None:
    """The smallest gain is exp(−π²σ²), at the corner: σ = √(−ln clamp)/π."""
    assert f"{math.sqrt(-math.log(clamp)) / math.pi:.4f}" == f"{first:.4f}"
    assert gains(first - 1e-4).min() > clamp > gains(first + 1e-4).min()


def test_a_clamp_at_a_millionth_does_not_ring_FSB_05() -> None:
    """Measured at σ = 2, where it raises 965 of 2112 bins."""
    x = np.zeros((64, 64))
    x[0, 0] = 1
    step = np.where(np.arange(64) < 32, 1.0, 0.0)[None] * np.ones((64, 1))

    def response(image: np.ndarray, clamp: float) -> np.ndarray:
        return np.fft.irfft2(np.fft.rfft2(image) * gains(2.0, clamp), s=(64, 64))

    free, at_6, at_12 = (response(x, clamp) for clamp in (0.0, 1e-6, 1e-12))
    assert f"{np.abs(at_6 - free).max():.1e} on a peak of {free.max():.4f}" == "4.1e-07 on a peak of 0.0398"
    assert f"{at_6.min():.1e} {at_12.min():.1e}" == "-2.8e-09 -7.1e-12", "negative lobes"
    overshoot, energy = response(step, 1e-6).max() - 1, (at_6**2).sum() / (free**2).sum() - 1
    assert f"{overshoot:.1e} {energy:.1e}" == "6.0e-09 2.2e-11", "nothing that could be seen"
    narrow = np.fft.irfft2(np.fft.rfft2(x) * gains(1.0), s=(64, 64))
    assert f"{narrow.min():.1e}" == "-6.8e-05", "the band limit itself has deeper lobes than any clamp"


def test_the_smaller_clamp_amplifies_more_when_divided_by_FSB_05b() -> None:
    amplified = [1 / gains(2.0, clamp).min() for clamp in (1e-6, 1e-12)]
    assert amplified == [1 / 1e-6, 1 / 1e-12]
    assert (gains(2.0, 1e-12) != gains(2.0)).sum() == 128, "and it is not exact either"


def test_three_cycles_per_pixel_is_six_times_nyquist_FSB_05() -> None:
    """At three cycles a gain is 7e-78; the smallest gain of an image is e^(−π²) = 5e-5, in the corner (½, ½)."""
    smallest = fast.gaussian_transfer(64, 64, 1.0).min().item()
    assert f"{smallest:.1e}" == "5.2e-05"
    assert abs(math.log(smallest) + math.pi**2) <= 32 * F64.u * math.pi**2


def test_angular_frequencies_hardly_filter_and_whole_ones_leave_the_mean_FSB_05c_FSB_05d() -> None:
    assert wrong.angular(64, 64, 2.0).min() > 0.3 > 1e-16 > gains(2.0).min()
    for n in (8, 64, 512):
        assert f"{wrong.frequency_times_length(n, n, 1.0)[1, 0]:.1e}" == "2.7e-09"


def test_converting_a_single_channel_view_to_channels_last_moves_nothing_FSB_06() -> None:
    """Both layouts come out contiguous, the same bits: the changelog's own test of strides fails for both."""
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    view = x.reshape(6, 1, 64, 64)
    assert view.is_contiguous() and view.is_contiguous(memory_format=torch.channels_last)
    for given in (x, x.contiguous(memory_format=torch.channels_last)):
        documented = given.reshape(6, 1, 64, 64).contiguous(memory_format=torch.channels_last).reshape(2, 3, 64, 64)
        assert documented.stride() == (12288, 4096, 64, 1) and torch.equal(documented, x)
        assert not documented.is_contiguous(memory_format=torch.channels_last)
    ours = fast.fft_gaussian(x.contiguous(memory_format=torch.channels_last), 1.0)
    assert ours.is_contiguous(memory_format=torch.channels_last) and torch.equal(ours, fast.fft_gaussian(x, 1.0))


def test_reinterpreting_the_memory_is_what_would_change_values_FSB_06b() -> None:
    x = wrong.IMAGE
    assert np.abs(wrong.reinterpreted(x, 0.5) - true.fft_gaussian(x, 0.5)).max() > 1
    one = x[:1]
    assert (wrong.reinterpreted(one, 0.5) == true.fft_gaussian(one, 0.5)).all(), "of one channel it is a no-op too"
