"""Laws of the Gaussian filters, on the reference and on the optimized version, and what independent oracles say."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from scipy import ndimage

from trueness.optimized import filters as fast
from trueness.optimized.filters import fft, fft_blocked
from trueness.properties import filters as declared
from trueness.reference import filters as true
from trueness.tools.arithmetic.bounds import LIMITS, bounds
from trueness.tools.arithmetic.formats import precision
from trueness.tools.checks.core import settings_for
from trueness.tools.run.runner import Job, run_job

F64 = precision("float64")
EXAMPLES = 8
sigmas = st.floats(0.1, 3.0)
sides = st.integers(1, 9)
images = st.builds(
    lambda seed, c, h, w: np.random.default_rng(seed).standard_normal((c, h, w)),
    st.integers(0, 2**16),
    st.integers(1, 3),
    st.integers(3, 9),
    st.integers(3, 9),
)


def given(**strategies: Any) -> Callable[[Any], Any]:
    """As everywhere in the project: derandomized, without a clock."""
    return lambda law: settings_for(EXAMPLES)(hypothesis.given(**strategies)(law))


def ours(name: str) -> Callable[..., np.ndarray]:
    """The optimized function on NumPy arrays."""

    def call(*arguments: Any) -> np.ndarray:
        natives = [torch.from_numpy(np.array(a)) if isinstance(a, np.ndarray) else a for a in arguments]
        return getattr(fast, name)(*natives).numpy()  # type: ignore[no-any-return]

    return call


def both(name: str) -> Any:
    return pytest.mark.parametrize("function", [getattr(true, name), ours(name)], ids=["reference", "ours"])


def rounding(function: Callable[..., Any], *arguments: Any, reduction: int = 1) -> np.ndarray:
    """What honest float64 implementations of ``function`` may differ by at these arguments."""
    units = [F64.u if isinstance(a, float) or np.asarray(a).dtype.kind == "f" else 0.0 for a in arguments]
    return LIMITS["eager"] * bounds(function, list(arguments), units, F64, reduction)[0].B  # type: ignore[no-any-return]


def close(left: Any, right: Any, *allowed: Any) -> bool:
    return bool((np.abs(np.asarray(left) - right) <= sum(allowed)).all())


# -- transfer function ------------------------------------------------------------------------------------------------


@both("gaussian_transfer")
@given(height=sides, width=sides, sigma=sigmas)
def test_the_gain_is_one_at_frequency_zero_and_between_zero_and_one_elsewhere(
    function: Any, height: int, width: int, sigma: float
) -> None:
    gains = function(height, width, sigma)
    assert gains[0, 0] == 1 and (gains > 0).all() and (gains <= 1).all()


@both("gaussian_transfer")
@given(height=sides, width=sides, sigma=sigmas)
def test_the_gain_is_separable(function: Any, height: int, width: int, sigma: float) -> None:
    gains = function(height, width, sigma)
    product = gains[:, :1] * gains[:1]
    allowed = rounding(true.gaussian_transfer, height, width, sigma)
    assert close(gains, product, allowed, 3 * allowed[:, :1] + 3 * allowed[:1] * product)


@both("gaussian_transfer")
@given(height=sides, width=sides, sigma=sigmas)
def test_opposite_frequencies_have_the_same_gain(function: Any, height: int, width: int, sigma: float) -> None:
    gains = function(height, width, sigma)
    assert (gains[1:] == gains[:0:-1]).all()


@both("gaussian_transfer")
@given(height=sides, width=sides, first=sigmas, second=st.floats(0.1, 1.0))
def test_two_filters_in_a_row_are_one_of_the_root_of_the_sum_of_squares(
    function: Any, height: int, width: int, first: float, second: float
) -> None:
    """The semigroup law; a lower clamp breaks it as soon as the product is below the clamp."""
    product = function(height, width, first) * function(height, width, second)
    together = math.hypot(first, second)
    allowed = [rounding(true.gaussian_transfer, height, width, s) for s in (first, second, together)]
    assert close(product, function(height, width, together), *allowed)


def test_a_clamp_breaks_the_semigroup_law() -> None:
    def clamped(sigma: float) -> np.ndarray:
        return np.maximum(true.gaussian_transfer(16, 16, sigma), 1e-6)

    gap = np.abs(clamped(1.5) * clamped(1.5) - clamped(math.hypot(1.5, 1.5)))
    assert gap.max() > 1e5 * rounding(true.gaussian_transfer, 16, 16, 1.5).max()


@both("gaussian_transfer")
@pytest.mark.parametrize(
    ("sigma", "shape", "at", "golden"),
    [
        (1.0, (2, 2), (1, 1), 5.172318620381234e-5),
        (1.0, (2, 2), (1, 0), 0.007191883355826368),
        (2.0, (4, 8), (1, 1), 0.0020943694473832914),
        (16.0, (64, 2), (1, 0), 0.29121293321402086),
    ],
)
def test_golden_gains(function: Any, sigma: float, shape: tuple[int, int], at: tuple[int, int], golden: float) -> None:
    allowed = rounding(true.gaussian_transfer, *shape, sigma)
    assert abs(function(*shape, sigma)[at] - golden) <= allowed[at]


@pytest.mark.parametrize("shape", [(8, 9), (9, 8), (1, 5)])
def test_frequencies_are_those_of_fftfreq_and_rfftfreq(shape: tuple[int, int]) -> None:
    f_y, f_x = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])
    assert (true._signed(shape[0])[:, None] / shape[0] == f_y).all()
    want = np.exp(-2 * math.pi**2 * 1.3**2 * (f_y**2 + f_x**2))
    assert close(true.gaussian_transfer(*shape, 1.3), want, rounding(true.gaussian_transfer, *shape, 1.3))


def test_scipy_puts_zero_where_the_gain_falls_below_exp_of_minus_fifty() -> None:
    """A limit of the oracle, and why σ stays at 3 where it is compared."""
    along = 2 * math.pi**2 / 4  # exponent at Nyquist of one axis, per σ²
    below, above = math.sqrt(50 / along) * (1 + 1e-9), math.sqrt(50 / along) * (1 - 1e-9)
    assert ndimage.fourier_gaussian(np.ones((1, 2)), below, n=2)[0, 1] == 0 < true.gaussian_transfer(1, 2, below)[0, 1]
    assert ndimage.fourier_gaussian(np.ones((1, 2)), above, n=2)[0, 1] > 0


# -- periodic filters -------------------------------------------------------------------------------------------------

FILTERS = pytest.mark.parametrize(
    ("function", "name"),
    [(f(n), n) for n in ("fft_gaussian", "fft_operator", "blur") for f in (lambda n: getattr(true, n), ours)],
    ids=[f"{n} {who}" for n in ("fft_gaussian", "fft_operator", "blur") for who in ("reference", "ours")],
)


def rest(name: str, sigma: float) -> tuple[Any, ...]:
    return (5, sigma) if name == "blur" else (sigma,)


def terms(name: str, x: np.ndarray) -> int:
    return 25 if name == "blur" else int(x[0].size)


@FILTERS
@given(x=images, sigma=sigmas)
def test_shapes_are_kept_and_channels_do_not_mix(function: Any, name: str, x: np.ndarray, sigma: float) -> None:
    y = function(x, *rest(name, sigma))
    assert y.shape == x.shape
    alone = np.stack([function(channel, *rest(name, sigma)) for channel in x])
    assert close(y, alone, 2 * rounding(getattr(true, name), x, *rest(name, sigma), reduction=terms(name, x)))
    other = np.array(x)
    other[0] = 1e3
    assert (function(other, *rest(name, sigma))[1:] == y[1:]).all()


@FILTERS
@given(height=st.integers(3, 9), width=st.integers(3, 9), value=st.floats(1e-3, 1e3), s=sigmas)
def test_a_constant_stays_what_it_is(function: Any, name: str, height: int, width: int, value: float, s: float) -> None:
    x = np.full((1, height, width), value)
    allowed = rounding(getattr(true, name), x, *rest(name, s), reduction=terms(name, x))
    assert close(function(x, *rest(name, s)), value, allowed)


@FILTERS
@given(x=images, sigma=sigmas)
def test_flips_and_filters_commute(function: Any, name: str, x: np.ndarray, sigma: float) -> None:
    for axis in (-1, -2):
        left, right = function(np.flip(x, axis), *rest(name, sigma)), np.flip(function(x, *rest(name, sigma)), axis)
        assert close(left, right, 2 * rounding(getattr(true, name), x, *rest(name, sigma), reduction=terms(name, x)))


@FILTERS
@given(x=images, sigma=sigmas)
def test_a_transposed_image_gives_the_transposed_result(function: Any, name: str, x: np.ndarray, sigma: float) -> None:
    left, right = function(x.mT, *rest(name, sigma)), function(x, *rest(name, sigma)).mT
    allowed = [rounding(getattr(true, name), a, *rest(name, sigma), reduction=terms(name, x)) for a in (x, x.mT)]
    assert close(left, right, allowed[0].mT, allowed[1])


@FILTERS
@given(x=images, first=st.floats(0.1, 2.0), second=st.floats(0.1, 2.0))
def test_one_axis_after_the_other_is_both_at_once(
    function: Any, name: str, x: np.ndarray, first: float, second: float
) -> None:
    """Separability: filtering rows of one image and columns of the other gives the filtered outer product."""
    row, column = x[:1, :1, :], x[:1, :, :1]
    wide = np.broadcast_to(row, (1, x.shape[1], x.shape[2])), np.broadcast_to(column, (1, x.shape[1], x.shape[2]))
    by_row, by_column = (function(np.array(w), *rest(name, first)) for w in wide)
    both_at_once = function(column * row, *rest(name, first))
    law = getattr(true, name)
    allowed = rounding(law, column * row, *rest(name, first), reduction=terms(name, x))
    parts = [rounding(law, np.array(w), *rest(name, first), reduction=terms(name, x)) for w in wide]
    scale = np.abs(by_row) * parts[1] + np.abs(by_column) * parts[0]
    assert close(both_at_once, by_row * by_column, allowed, scale, 2 * F64.u * np.abs(both_at_once))


@pytest.mark.parametrize("name", ["fft_gaussian", "fft_operator", "blur"])
@pytest.mark.parametrize("shape", [(8, 9), (9, 8), (9, 9), (8, 8)])
@pytest.mark.parametrize("who", [lambda n: getattr(true, n), ours], ids=["reference", "ours"])
def test_the_largest_value_of_a_filtered_impulse_stays_where_the_impulse_was(
    name: str, shape: tuple[int, int], who: Any
) -> None:
    for at in ((3, 3), (0, 0), (4, 7))[: 1 if name == "blur" else 3]:  # a reflected border folds the tail back
        x = np.zeros((1, *shape))
        x[(0, *at)] = 1
        y = who(name)(x, *rest(name, 1.0))
        found = np.unravel_index(y.argmax(), y.shape)
        assert found == (0, *at)


@pytest.mark.parametrize("name", ["fft_gaussian", "fft_operator"])
@given(x=images, down=st.integers(0, 8), right=st.integers(0, 8))
def test_periodic_filters_commute_with_shifts(name: str, x: np.ndarray, down: int, right: int) -> None:
    for function in (getattr(true, name), ours(name)):
        left = function(np.roll(x, (down, right), (-2, -1)), 0.8)
        allowed = rounding(getattr(true, name), x, 0.8, reduction=terms(name, x))
        shifted = [np.roll(a, (down, right), (-2, -1)) for a in (function(x, 0.8), allowed)]
        assert close(left, shifted[0], shifted[1], allowed.max())


@both("fft_gaussian")
@given(x=images)
def test_a_filter_of_width_zero_changes_nothing_but_rounding(function: Any, x: np.ndarray) -> None:
    assert close(function(x, 0.0), x, rounding(true.fft_gaussian, x, 0.0, reduction=x[0].size))


@both("fft_gaussian")
@given(x=images, first=st.floats(0.1, 2.0), second=st.floats(0.1, 2.0))
def test_filtering_twice_is_filtering_once_by_the_root_of_the_sum_of_squares(
    function: Any, x: np.ndarray, first: float, second: float
) -> None:
    def twice(x: Any, first: Any, second: Any) -> Any:
        return true.fft_gaussian(true.fft_gaussian(x, first), second)

    allowed = rounding(twice, x, first, second, reduction=x[0].size)
    once = math.hypot(first, second)
    assert close(function(function(x, first), second), function(x, once), allowed, rounding(true.fft_gaussian, x, once))


@both("fft_gaussian")
@given(x=images, sigma=sigmas)
def test_the_periodic_filter_is_numpys_transform_times_the_gain(function: Any, x: np.ndarray, sigma: float) -> None:
    gains = true.gaussian_transfer(*x.shape[-2:], sigma)
    want = np.fft.irfft2(np.fft.rfft2(x) * gains, s=x.shape[-2:])
    assert close(function(x, sigma), want, rounding(true.fft_gaussian, x, sigma, reduction=x[0].size))


@both("fft_operator")
@given(x=images, epsilon=sigmas)
def test_the_sampled_operator_is_numpys_transform_of_the_shifted_kernel(
    function: Any, x: np.ndarray, epsilon: float
) -> None:
    """Word for word: coordinates i − n//2, sum 1, ifftshift, rfft2, product, back."""
    height, width = x.shape[-2:]
    r_y, r_x = np.arange(height)[:, None] - height // 2, np.arange(width) - width // 2
    kernel = np.exp(-(r_y**2 + r_x**2) / (2 * epsilon**2))
    spectrum = np.fft.rfft2(np.fft.ifftshift(kernel / kernel.sum()))
    assert close(spectrum.imag, 0, kernel.size * F64.u), "an even kernel has a real spectrum"
    want = np.fft.irfft2(np.fft.rfft2(x) * spectrum, s=(height, width))
    assert close(function(x, epsilon), want, rounding(true.fft_operator, x, epsilon, reduction=x[0].size))


@both("fft_operator")
@given(x=images, epsilon=sigmas)
def test_positive_weights_do_not_overshoot(function: Any, x: np.ndarray, epsilon: float) -> None:
    y = function(x, epsilon)
    allowed = rounding(true.fft_operator, x, epsilon, reduction=x[0].size)
    low, high = x.min((-2, -1), keepdims=True), x.max((-2, -1), keepdims=True)
    assert (y >= low - allowed).all() and (y <= high + allowed).all()


@pytest.mark.parametrize("name", ["fft_gaussian", "fft_operator"])
@given(x=images, sigma=sigmas)
def test_periodic_filters_are_symmetric_operators(name: str, x: np.ndarray, sigma: float) -> None:
    """⟨a, K b⟩ = ⟨K a, b⟩, which is what their vjp rests on."""
    a, b = x[0], np.random.default_rng(0).standard_normal(x[0].shape)
    for function in (getattr(true, name), ours(name)):
        allowed = [rounding(getattr(true, name), v, sigma, reduction=v.size) for v in (b, a)]
        tolerance = (
            (np.abs(a) * allowed[0]).sum() + (np.abs(b) * allowed[1]).sum() + a.size * F64.u * np.abs(a * b).sum()
        )
        assert abs((a * function(b, sigma)).sum() - (function(a, sigma) * b).sum()) <= tolerance


@given(x=images.filter(lambda x: x.shape[1] % 2 and x.shape[2] % 2), epsilon=sigmas)
def test_of_odd_length_the_sampled_operator_is_scipys_wrapped_gaussian(x: np.ndarray, epsilon: float) -> None:
    """For even lengths scipy's kernel would hold both −n/2 and n/2, which are one pixel."""
    radius = [n // 2 for n in x.shape[-2:]]
    want = ndimage.gaussian_filter(x, epsilon, mode="wrap", radius=radius, axes=(-2, -1))
    allowed = rounding(true.fft_operator, x, epsilon, reduction=x[0].size)
    assert close(true.fft_operator(x, epsilon), want, allowed)
    assert close(ours("fft_operator")(x, epsilon), want, allowed)


# -- blur -------------------------------------------------------------------------------------------------------------


@both("gaussian_taps")
@given(k=st.integers(1, 15), sigma=sigmas)
def test_taps_are_symmetric_positive_and_sum_to_one(function: Any, k: int, sigma: float) -> None:
    taps = function(k, sigma)
    assert (taps == taps[::-1]).all() and (taps >= 0).all()
    assert close(taps.sum(), 1, rounding(true.gaussian_taps, k, sigma).sum(), k * F64.u)


@both("gaussian_taps")
def test_golden_taps(function: Any) -> None:
    golden = [0.09877498815325954, 0.23994707564005802, 0.32255587241336486]
    assert close(function(5, 1.3), [*golden, *golden[1::-1]], rounding(true.gaussian_taps, 5, 1.3))


@both("blur")
@given(x=images, k=st.sampled_from((1, 3, 5)), sigma=sigmas)
def test_blur_is_scipys_correlation_with_a_mirrored_border(function: Any, x: np.ndarray, k: int, sigma: float) -> None:
    want = declared.scipy_correlate(x, k, sigma)
    assert close(function(x, k, sigma), want, rounding(true.blur, x, k, sigma, reduction=k * k))


@both("blur")
@given(x=images, sigma=sigmas)
def test_a_blur_is_a_weighted_mean(function: Any, x: np.ndarray, sigma: float) -> None:
    y, allowed = function(x, 5, sigma), rounding(true.blur, x, 5, sigma, reduction=25)
    assert (y >= x.min() - allowed).all() and (y <= x.max() + allowed).all()


# -- what only the optimized side promises ----------------------------------------------------------------------------

CALLS = (
    lambda x: fast.fft_gaussian(x, 0.8),
    lambda x: fast.fft_operator(x, 0.8),
    lambda x: fast.blur(x, 3, 0.8),
)


@pytest.mark.parametrize("call", CALLS, ids=["fft_gaussian", "fft_operator", "blur"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_formats_are_computed_in_float32_and_rounded_once(call: Any, dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 8, 9, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(call(x), call(x.float()).to(dtype))


@pytest.mark.parametrize("call", CALLS, ids=["fft_gaussian", "fft_operator", "blur"])
def test_channels_last_images_stay_channels_last(call: Any) -> None:
    x = torch.randn(2, 3, 8, 9, generator=torch.Generator().manual_seed(0))
    y = call(x.contiguous(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last) and not y.is_contiguous()
    assert call(x).is_contiguous() and torch.equal(y, call(x))


@pytest.mark.parametrize("call", CALLS, ids=["fft_gaussian", "fft_operator", "blur"])
@pytest.mark.parametrize("shape", [(0, 3, 4), (4, 5), (2, 2, 3, 4, 5)])
def test_any_number_of_leading_axes_is_a_batch(call: Any, shape: tuple[int, ...]) -> None:
    assert call(torch.ones(shape)).shape == shape


# -- frequency by frequency, and the gradient by σ --------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(40, 1000), (1000, 40), (64, 65)])
@pytest.mark.parametrize("sigma", [0.0, 2.0, 8.0, 30.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_columns_left_out_change_less_than_a_quarter_of_the_roundoff(
    shape: tuple[int, int], sigma: float, dtype: torch.dtype
) -> None:
    """‖e‖₂ ≤ u/4 ‖x‖₂ and |e|_∞ ≤ u/4 ‖x‖₂ of what is left out, on noise, on a pixel and on the highest wave."""
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[1], x[2] = 0, torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(shape[1])[: shape[1]]
    x[1, 3, 5] = 1
    factors = fft.gaussian_factors(*shape, sigma)
    kept = factors.kept_columns(dtype)
    spectrum = torch.fft.rfft2(x) * factors.rows[:, None] * factors.columns
    spectrum[..., :kept] = 0
    left = torch.fft.irfft2(spectrum, s=shape)
    u, size = torch.finfo(dtype).eps / 2, x.flatten(1).norm(dim=1)
    noise = 64 * F64.u * size  # of this measurement itself
    assert (left.flatten(1).norm(dim=1) <= u / 4 * size + noise).all()
    assert (left.abs().flatten(1).amax(1) <= u / 4 * size + noise).all()
    assert kept < shape[1] // 2 + 1 or sigma < 3 or shape[1] < 50


@pytest.mark.parametrize("sigma", [2.0, 8.0])
def test_left_out_columns_are_within_the_bound_of_the_reference(sigma: float) -> None:
    """Large enough that columns are left out; every dtype, both sides of a chunk."""
    x = np.random.default_rng(0).standard_normal((2, 32, 96))
    for name in ("float32", "bfloat16"):
        fmt = precision(name)
        given = torch.from_numpy(x).to(fmt.torch)
        values = [given.double().numpy(), sigma]
        bound = bounds(true.fft_gaussian, values, [fmt.u, F64.u], fmt, x[0].size)[0]
        assert bound.ratio(fast.fft_gaussian(given, sigma).double().numpy()).max() <= LIMITS["fused"]


@given(x=images, sigma=sigmas)
def test_the_gradient_by_sigma_is_heat_flowing(x: np.ndarray, sigma: float) -> None:
    """∂y/∂σ = σ Δy: in frequency Δ is −4π²|f|². By central differences of the reference, whose error is O(h²)."""
    s = torch.tensor(sigma, dtype=torch.float64, requires_grad=True)
    given = torch.from_numpy(x)
    weights = torch.from_numpy(np.random.default_rng(1).standard_normal(x.shape))
    (found,) = torch.autograd.grad((fast.fft_gaussian(given, s) * weights).sum(), s)
    want = true.fft_gaussian_vjp(weights.numpy(), x, sigma)[1]
    h = 1e-4
    low, high = ((true.fft_gaussian(x, sigma + d) * weights.numpy()).sum() for d in (-h, h))
    size = np.abs(x).sum() * np.abs(weights.numpy()).max()
    assert abs(float(found) - want) <= 1e3 * F64.u * size * (1 + sigma)
    third = (2 * math.pi**2) ** 3 * 8 * (1 + sigma) ** 3  # |∂³G/∂σ³| at most
    assert abs((high - low) / (2 * h) - want) <= h**2 / 6 * third * size + 4 * F64.u * size / h


@pytest.mark.parametrize("name", ["fft_gaussian", "fft_operator", "blur"])
def test_a_gradient_can_be_differentiated_again(name: str) -> None:
    x = torch.randn(1, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    s = torch.tensor(0.8, dtype=torch.float64, requires_grad=name == "fft_gaussian")
    if name == "fft_gaussian":
        assert torch.autograd.gradgradcheck(fast.fft_gaussian, (x, s))
    else:
        arguments = (3, 0.8) if name == "blur" else (0.8,)
        assert torch.autograd.gradgradcheck(lambda x: getattr(fast, name)(x, *arguments), (x,))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("name", ["fft_gaussian", "fft_operator"])
def test_blocks_of_a_plane_stand_the_trial_of_whole_ones(
    name: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every check of the formula with planes so large, and blocks so small, that the drawn images are filtered so."""
    monkeypatch.setattr(fft, "SPECTRUM", 0)
    monkeypatch.setattr(fft_blocked, "BLOCK", 64)
    wrong = [
        v for v in run_job(Job(f"filters.{name}", "trueness", dtype, profile="quick", paths=False)) if not v.passed
    ]
    assert not wrong


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("width", [800, 801])
@pytest.mark.parametrize("sigma", [1.0, 9.0])
def test_blocks_of_a_plane_give_what_the_whole_one_gives(threads: int, width: int, sigma: float) -> None:
    """As many planes at a time as there are threads, then one on all; where the result is and is not a spectrum too."""
    x = torch.randn((4, 450, width), generator=torch.Generator().manual_seed(0))
    wanted = fft.apply_gains(x.double(), fast.gaussian_transfer(450, width, sigma))
    tolerance = 64 * precision("float32").u * math.log2(x[0].numel()) * float(x.abs().max())
    memory, own = torch.empty(x.numel() + 1), x.clone()
    places = memory[:-1].view_as(x), memory[1:].view_as(x), torch.empty(4, width, 450).mT
    for given, place in (*((x, p) for p in places), (own, own)):
        y = fast.fft_gaussian(given, sigma, out=place.fill_(math.nan) if given is x else place)
        assert ((y.double() - wanted).abs() <= tolerance).all()
    half = x.half()
    assert torch.equal(fast.fft_gaussian(half, sigma), fast.fft_gaussian(half.float(), sigma).half())
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("name", ["fft_gaussian", "fft_operator", "blur"])
@pytest.mark.parametrize("shape", [(9, 300, 301), (2, 2, 40, 50), (700, 1100)])
def test_pieces_of_a_large_image_give_what_the_plain_operations_give(name: str, shape: tuple[int, ...]) -> None:
    """More than one piece, with and without a gradient, contiguous and channels-last, into out=."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    call = getattr(fast, name)
    u = precision("float32").u
    wanted = call(x.double(), *rest(name, 1.5))
    tolerance = 64 * u * math.log2(x.numel()) * float(x.abs().max())
    found = [call(x, *rest(name, 1.5)), call(x.clone().requires_grad_(), *rest(name, 1.5)).detach()]
    found.append(call(x, *rest(name, 1.5), out=torch.full_like(x, math.nan)))
    if x.ndim == 4:
        found.append(call(x.contiguous(memory_format=torch.channels_last), *rest(name, 1.5)))
    with torch.autograd.forward_ad.dual_level():  # values may not be read: plain operations
        found.append(call(x, *rest(name, 1.5)))
    for y in found:
        assert ((y.double() - wanted).abs() <= tolerance).all()


def test_a_result_may_take_the_place_of_its_image_but_not_of_a_blurred_one() -> None:
    x = torch.randn(3, 40, 50, generator=torch.Generator().manual_seed(0))
    for name in ("fft_gaussian", "fft_operator"):
        own = x.clone()
        assert getattr(fast, name)(own, 0.8, out=own) is own and torch.equal(own, getattr(fast, name)(x, 0.8))
    with pytest.raises(ValueError, match="out was x; it must be memory of its own"):
        fast.blur(x, 3, 1.0, out=x)
    with pytest.raises(ValueError, match=r"sigma was \(2,\) torch.float32; a tensor must be one floating number"):
        fast.fft_gaussian(x, torch.ones(2))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: fast.fft_gaussian(torch.ones(3), 1.0), r"x had shape \(3,\); it must have the axes"),
        (lambda: fast.fft_gaussian(torch.ones(0, 3), 1.0), r"x had shape \(0, 3\)"),
        (
            lambda: fast.fft_gaussian(torch.ones(3, 3), -1.0),
            r"sigma was -1.0; it must be a finite number of at least 0",
        ),
        (lambda: fast.fft_gaussian(torch.ones(3, 3).int(), 1.0), "x had dtype torch.int32"),
        (lambda: fast.fft_operator(torch.ones(3, 3), 0.0), r"epsilon was 0.0; it must be a finite number above 0"),
        (lambda: fast.gaussian_transfer(0, 3, 1.0), "height was 0; it must be an integer of at least 1"),
        (lambda: fast.gaussian_transfer(3, 3, math.inf), "sigma was inf"),
        (lambda: fast.gaussian_taps(0, 1.0), "k was 0"),
        (lambda: fast.gaussian_taps(3, 0.0), "sigma was 0.0; it must be a finite number above 0"),
        (lambda: fast.blur(torch.ones(8, 8), 4, 1.0), "k was 4; it must be odd"),
        (lambda: fast.blur(torch.ones(8, 2), 5, 1.0), "to reflect 2 pixels, H and W must be above 2"),
        (lambda: fast.blur(np.ones((8, 8)), 5, 1.0), "x was ndarray; it must be a torch.Tensor"),  # type: ignore[arg-type]
    ],
)
def test_bad_input_is_refused_with_a_sentence(call: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()
