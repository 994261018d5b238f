"""Laws of the family fisher, on the reference and on every implementation, and what independent oracles say."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from trueness.optimized import fisher as fast
from trueness.optimized._lib.elementwise import CHUNK
from trueness.optimized.fisher import functional, operators
from trueness.properties._lib import digits
from trueness.properties._lib.within import assert_within
from trueness.reference import fisher as true
from trueness.tools.arithmetic.formats import precision

F32, F64 = precision("float32"), precision("float64")
scores = st.floats(-1e3, 1e3, allow_subnormal=False)
alphas = st.floats(0, 1)
arrays = st.integers(0, 2**16).map(lambda seed: np.random.default_rng(seed).standard_normal((3, 4, 5)))
PADDINGS = ("zeros", "reflect", "replicate", "circular")


def run_fast(name: str, x: np.ndarray, *arguments: Any) -> np.ndarray:
    """The optimized function in float64."""
    return getattr(fast, name)(torch.from_numpy(np.array(x)), *arguments).numpy()


@pytest.mark.parametrize(
    "function", [true.diagonal, lambda s, a: run_fast("diagonal", s, a)], ids=["reference", "ours"]
)
@given(x=arrays, alpha=alphas, k=st.integers(-6, 6))
def test_fisher_without_its_floor_is_homogeneous_of_degree_two(
    function: Any, x: np.ndarray, alpha: float, k: int
) -> None:
    """Powers of two scale exactly: only the two subtractions round."""
    c = 2.0**k
    left, right = function(c * x, alpha) - true.floor(alpha), c * c * (function(x, alpha) - true.floor(alpha))
    rounding = 2 * F64.u * (np.abs(function(c * x, alpha)) + c * c * np.abs(function(x, alpha)))
    assert (np.abs(left - right) <= rounding).all()
    wrong = np.abs(c * x), c * c * np.abs(x)
    assert k == 0 or (np.abs(wrong[0] - wrong[1]) > rounding).any(), "|s| is homogeneous of degree one"


@given(x=arrays, alpha=alphas)
def test_fisher_is_never_below_its_floor(x: np.ndarray, alpha: float) -> None:
    assert (true.diagonal(x, alpha) >= true.floor(alpha)).all()
    assert (run_fast("diagonal", x, alpha) >= true.floor(alpha)).all()


@given(s=scores, alpha=alphas)
def test_fisher_is_even_and_the_step_is_odd(s: float, alpha: float) -> None:
    x = np.array([s])
    assert true.diagonal(-x, alpha) == true.diagonal(x, alpha)
    assert true.preconditioned_step(-x, alpha) == -true.preconditioned_step(x, alpha)
    assert (run_fast("preconditioned_step", -x, alpha) == -run_fast("preconditioned_step", x, alpha)).all()


@given(a=alphas, b=alphas)
def test_the_floor_falls_as_the_signal_share_grows(a: float, b: float) -> None:
    assert (true.floor(a) >= true.floor(b)) == (a <= b) or true.floor(a) == true.floor(b)


def test_the_floor_has_its_documented_ends() -> None:
    assert true.floor(1) == fast.floor(1) == 1e-4
    assert true.floor(0) == fast.floor(0) == 1e-4 + 1e-3


@given(s=scores, alpha=alphas)
def test_no_step_is_longer_than_half_the_root_of_the_floor(s: float, alpha: float) -> None:
    """|s/(s² + ε)| ≤ 1/(2√ε), reached at |s| = √ε."""
    top = 1 / (2 * math.sqrt(true.floor(alpha)))
    peak = np.array([math.sqrt(true.floor(alpha))])
    assert abs(true.preconditioned_step(np.array([s]), alpha)[0]) <= top * (1 + 4 * F64.u)
    assert_within(np.array([top]), true.preconditioned_step, peak, alpha)


@pytest.mark.parametrize(
    ("s", "alpha", "golden"),
    [(0, 1, 1e-4), (0, 0, 1.1e-3), (2, 0.25, 4.00085), (0.1, 0.9, 0.0102), (-3, 0.5, 9.0006)],
)
def test_golden_values_of_the_diagonal(s: float, alpha: float, golden: float) -> None:
    x = np.array([float(s)])
    for out in (true.diagonal(x, alpha), run_fast("diagonal", x, alpha)):
        assert abs(out[0] - golden) <= 2 * F64.u * golden


def expected_square(distribution: Any, score: Any, low: float, high: float) -> float:
    """E[score²] by Gauss-Legendre quadrature of the density that scipy has."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    x = (high - low) / 2 * nodes + (high + low) / 2
    fisher = true.diagonal(score(x), 1.0) - 1e-4
    return float((high - low) / 2 * np.sum(weights * fisher * distribution.pdf(x)))


@pytest.mark.parametrize("sigma", [0.5, 2.0, 7.0])
def test_expected_square_of_a_gaussian_score_is_its_information(sigma: float) -> None:
    """I(μ) = 1/σ²; E|s| = √(2/π)/σ is not. scipy's density, the truncation at 12 σ being below 1e-30."""
    law = stats.norm(0, sigma)
    information = expected_square(law, lambda x: x / sigma**2, -12 * sigma, 12 * sigma)
    terms = 400 * F64.u * (1 / sigma**2 + 1e-4)
    assert abs(information - 1 / sigma**2) <= terms
    assert abs(math.sqrt(2 / math.pi) / sigma - 1 / sigma**2) > terms


@pytest.mark.parametrize("rate", [0.5, 4.0, 30.0])
def test_expected_square_of_a_poisson_score_is_its_information(rate: float) -> None:
    """I(λ) = 1/λ with s = k/λ − 1."""
    k = np.arange(0, int(rate + 40 * math.sqrt(rate) + 60))
    fisher = true.diagonal(k / rate - 1, 1.0) - 1e-4
    weights = stats.poisson(rate).pmf(k)
    assert abs(np.sum(weights * fisher) - 1 / rate) <= 1e3 * F64.u * np.sum(weights * (fisher + 1e-4))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.83])
def test_expected_square_of_a_bernoulli_score_is_its_information(p: float) -> None:
    """I(p) = 1/(p(1 − p)) with s = x/p − (1 − x)/(1 − p)."""
    x = np.array([0, 1])
    weights = stats.bernoulli(p).pmf(x)
    fisher = true.diagonal(x / p - (1 - x) / (1 - p), 1.0) - 1e-4
    assert abs(np.sum(weights * fisher) - 1 / (p * (1 - p))) <= 64 * F64.u * np.sum(weights * (fisher + 1e-4))


def test_mean_over_per_sample_gradients_is_the_empirical_fisher() -> None:
    """torch.func differentiates log N(x; μ, 1/λ) by (μ, log λ) per sample; the mean of F − ε estimates diag(λ, ½)."""
    generator = torch.Generator().manual_seed(0)
    precision_, n = 4.0, 200_000
    x = torch.randn(n, generator=generator, dtype=torch.float64) / math.sqrt(precision_) + 0.3
    theta = torch.tensor([0.3, math.log(precision_)], dtype=torch.float64)

    def log_density(theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * theta[1] - 0.5 * torch.exp(theta[1]) * (x - theta[0]) ** 2

    per_sample = torch.func.vmap(torch.func.grad(log_density), in_dims=(None, 0))(theta, x)
    fisher = (fast.diagonal(per_sample, 1.0) - fast.floor(1.0)).numpy()
    assert_within(fast.diagonal(per_sample, 1.0).numpy(), true.diagonal, per_sample.numpy(), 1.0)
    standard_error = fisher.std(0) / math.sqrt(n)
    assert (np.abs(fisher.mean(0) - np.array([precision_, 0.5])) <= 5 * standard_error).all()
    absolute = np.abs(per_sample.numpy()).mean(0)  # for log λ it is 0.484, by accident near one half
    assert abs(absolute[0] - precision_) > 5 * standard_error[0], "E|s| is another quantity"


@pytest.mark.skipif(not digits.available(), reason="scikit-learn is not installed: pip install 'trueness[peers]'")
@pytest.mark.parametrize("alpha", digits.NOISE_LEVELS)
def test_the_score_of_the_digits_is_the_gradient_of_torchs_mixture_density(alpha: float) -> None:
    """Real input is only as good as its score: torch.distributions and autograd give the same one."""
    weights, means, covariances = (torch.from_numpy(a) for a in digits.mixture())
    noise = (1 - alpha) * torch.eye(64, dtype=torch.float64)
    parts = torch.distributions.MultivariateNormal(math.sqrt(alpha) * means, alpha * covariances + noise)
    density = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(weights), parts)
    x = torch.from_numpy(digits.noised(alpha)).requires_grad_()
    (score,) = torch.autograd.grad(density.log_prob(x).sum(), x)
    ours = digits.mixture_scores()[alpha].reshape(-1, 64)
    condition = max(np.linalg.cond(c) for c in (alpha * covariances + noise).numpy())
    scale = np.linalg.norm(ours, axis=1, keepdims=True)
    assert (np.abs(score.numpy() - ours) <= 64 * condition * F64.u * scale).all()


@pytest.mark.parametrize("padding", PADDINGS)
@given(seed=st.integers(0, 2**16), h=st.integers(2, 9), w=st.integers(2, 9))
def test_smoothing_is_scipys_convolution(padding: str, seed: int, h: int, w: int) -> None:
    x = np.random.default_rng(seed).standard_normal((2, h, w))
    mode = {"zeros": "constant", "reflect": "mirror", "replicate": "nearest", "circular": "wrap"}[padding]
    taps = np.outer([1, 2, 1], [1, 2, 1]) / 16
    truth = np.stack([ndimage.convolve(plane, taps, mode=mode) for plane in x])
    assert_within(truth, true.smooth, x, padding, reduction=9)
    assert_within(run_fast("smooth", x, padding), true.smooth, x, padding, reduction=9)


@pytest.mark.parametrize("padding", ["reflect", "replicate", "circular"])
def test_smoothing_keeps_a_constant(padding: str) -> None:
    x = np.full((4, 6), 3.0)
    assert (true.smooth(x, padding) == x).all()
    assert (run_fast("smooth", x, padding) == x).all()


def test_zero_padding_takes_nine_sixteenths_in_the_corners() -> None:
    for out in (true.smooth(np.ones((5, 6)), "zeros"), run_fast("smooth", np.ones((5, 6)), "zeros")):
        assert out[0, 0] == out[-1, -1] == 9 / 16
        assert (out[0, 1:-1] == 3 / 4).all()
        assert (out[1:-1, 1:-1] == 1).all()


@pytest.mark.parametrize("padding", PADDINGS)
def test_the_smoothing_matrix_is_the_same_on_both_sides(padding: str) -> None:
    for n in (2, 3, 7):
        assert (fast.binomial(n, padding).numpy() == true.binomial(n, padding)).all()


@given(x=arrays, alpha=alphas)
@settings(max_examples=20)
def test_half_formats_are_computed_in_float32_and_rounded_once(x: np.ndarray, alpha: float) -> None:
    """The result is the float32 result, rounded: bit for bit."""
    for dtype in (torch.float16, torch.bfloat16):
        half = torch.from_numpy(x).to(dtype)
        wide = fast.diagonal(half.float(), alpha)
        assert torch.equal(fast.diagonal(half, alpha), wide.clamp(max=torch.finfo(dtype).max).to(dtype))


def test_half_formats_stop_at_their_largest_number() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        largest = torch.finfo(dtype).max
        assert fast.diagonal(torch.tensor([largest, -largest, math.inf], dtype=dtype), 0.5).tolist() == [largest] * 3
    assert fast.diagonal(torch.tensor([1e30]), 0.5).tolist() == [math.inf]


def test_the_approximation_by_time_warns_and_alpha_none_is_refused() -> None:
    with pytest.warns(UserWarning, match="1 − t is not ᾱ"):
        assert fast.alpha_from_time(0.25) == true.alpha_from_time(np.float64(0.25)) == 0.75
    with warnings.catch_warnings(), pytest.raises(ValueError, match="alpha was None"):
        warnings.simplefilter("error")
        fast.diagonal(torch.ones(3), None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: fast.diagonal(torch.ones(3), 1.5), r"alpha was 1.5; it must lie in \[0, 1\]"),
        (lambda: fast.diagonal(torch.ones(3), math.nan), r"alpha was nan; it must lie in \[0, 1\]"),
        (lambda: fast.diagonal(torch.ones(3), torch.ones(2)), r"alpha was a tensor of shape \(2,\)"),  # type: ignore[arg-type]
        (lambda: fast.diagonal(torch.ones(2), torch.tensor([0.5, 1.5])), r"alpha held 1.5; all must lie in \[0, 1\]"),
        (
            lambda: fast.diagonal(torch.ones(2), torch.ones(2).requires_grad_()),
            "alpha required a gradient, which is not implemented",
        ),
        (lambda: fast.drift_step(torch.ones(3), torch.ones(2), 0.5, 1, 1), r"score was \(2,\).*it must be \(3,\)"),
        (lambda: fast.drift_step(torch.ones(3), torch.ones(3).half(), 0.5, 1, 1), "score was .*float16"),
        (lambda: fast.drift_step(torch.ones(3), torch.ones(3), 0.5, "one", 1), "a was str; it must be a number"),  # type: ignore[arg-type]
        (
            lambda: fast.drift_step(torch.ones(3), torch.ones(3), 0.5, 1, torch.ones(2)),
            r"b was a tensor of shape \(2,\)",
        ),
        (lambda: fast.diagonal(torch.ones(3), "half"), "alpha was str; it must be one number"),  # type: ignore[arg-type]
        (
            lambda: fast.diagonal(torch.ones(3, dtype=torch.int64), 0.5),
            "score had dtype torch.int64; it must be float64",
        ),
        (lambda: fast.diagonal(np.ones(3), 0.5), "score was ndarray; it must be a torch.Tensor"),  # type: ignore[arg-type]
        (lambda: fast.diagonal(torch.ones(3), 0.5, out=torch.ones(4)), r"out was \(4,\).*it must be \(3,\)"),
        (lambda: fast.smooth(torch.ones(3), "zeros"), r"fisher had shape \(3,\); it must have at least the axes"),
        (lambda: fast.smooth(torch.ones(3, 3), "same"), "padding was 'same'; allowed are zeros, reflect"),
        (lambda: fast.smooth(torch.ones(1, 3), "reflect"), "padding was 'reflect' on an axis of length 1"),
        (lambda: fast.binomial(1, "reflect"), "padding was 'reflect' on an axis of length 1"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(call: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()


def call(name: str, x: torch.Tensor, s: torch.Tensor, alpha: Any, **more: Any) -> torch.Tensor:
    """Any of the three elementwise formulas, of the score s."""
    rest = (alpha, 0.9, 0.1) if name == "drift_step" else (alpha,)
    return getattr(fast, name)(*((x, s) if name == "drift_step" else (s,)), *rest, **more)  # type: ignore[no-any-return]


def plain(name: str, x: torch.Tensor, s: torch.Tensor, alpha: Any) -> torch.Tensor:
    """The same in plain torch operations, without tiles."""
    eps, a, b, table = functional._coefficients(alpha, s, *((0.9, 0.1) if name == "drift_step" else ()))
    if name == "drift_step":
        return operators.eager_drift(x, s, eps, a, b, table)
    return operators.eager_value(s, eps, name == "preconditioned_step", table)


NAMES = pytest.mark.parametrize("name", ["diagonal", "preconditioned_step", "drift_step"])


@NAMES
@pytest.mark.parametrize("extra", [-1, 0, 1, 2 * CHUNK + 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_tiles_give_the_bits_of_the_plain_path(name: str, extra: int, dtype: torch.dtype) -> None:
    x, s = torch.randn(2, CHUNK + extra, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    s[::7] *= 1e4
    s[CHUNK - 2] = torch.finfo(dtype).max
    wanted = plain(name, x, s, 0.3)
    assert torch.equal(call(name, x, s, 0.3), wanted)
    assert torch.equal(call(name, x, s.clone().requires_grad_(), 0.3).detach(), wanted)
    assert torch.equal(call(name, x, s, 0.3, out=torch.full_like(x, math.nan)), wanted)


@NAMES
@pytest.mark.parametrize("shape", [(3, 5), (700, 3, 100), (3, CHUNK + 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_of_the_samples_give_what_each_sample_gives_alone(
    name: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    """Bit for bit: few samples to a tile, many to a tile, with and without a gradient, interleaved in memory."""
    generator = torch.Generator().manual_seed(0)
    x, s = torch.randn(2, *shape, generator=generator).to(dtype)
    alpha = torch.rand(shape[0], generator=generator, dtype=torch.float64)
    some = (0, 1, shape[0] - 1)
    alone = torch.cat([call(name, x[k : k + 1], s[k : k + 1], float(alpha[k])) for k in some])
    interleaved = s.movedim(0, -1).contiguous().movedim(-1, 0)
    with_gradient = s.clone().requires_grad_()
    for out in (
        call(name, x, s, alpha),
        call(name, x, with_gradient, alpha),
        call(name, x, interleaved, alpha),
        call(name, x, s, alpha, out=s.clone()),
    ):
        assert torch.equal(out[list(some)], alone)
    (pulled,) = torch.autograd.grad(call(name, x, with_gradient, alpha).float().square().sum(), with_gradient)
    for k in some:
        one = s[k : k + 1].clone().requires_grad_()
        (of_one,) = torch.autograd.grad(call(name, x[k : k + 1], one, float(alpha[k])).float().square().sum(), one)
        size = of_one.float().abs() + torch.finfo(dtype).tiny
        assert ((pulled[k : k + 1].float() - of_one.float()).abs() <= 16 * torch.finfo(dtype).eps * size).all()


@NAMES
@pytest.mark.parametrize("n", [100, CHUNK + 100])
def test_the_result_may_take_the_place_of_an_input(name: str, n: int) -> None:
    x, s = torch.randn(2, n, generator=torch.Generator().manual_seed(0))
    wanted = call(name, x, s, 0.3)
    for k in range(2) if name == "drift_step" else (1,):
        own = [x.clone(), s.clone()]
        assert call(name, *own, 0.3, out=own[k]) is own[k] and torch.equal(own[k], wanted)
    both = torch.randn(n + 1)
    with pytest.raises(ValueError, match="out was a part of an input's memory"):
        call(name, both[1:], both[1:], 0.3, out=both[:-1])


@given(seed=st.integers(0, 2**16), alpha=alphas, a=st.floats(0.5, 1.5), b=st.floats(0.01, 2.0))
def test_a_drift_is_linear_in_where_it_starts_and_adds_the_step(seed: int, alpha: float, a: float, b: float) -> None:
    x, s = np.random.default_rng(seed).standard_normal((2, 3, 4))
    step = run_fast("preconditioned_step", s, alpha)
    whole = fast.drift_step(torch.from_numpy(x), torch.from_numpy(s), alpha, a, b).numpy()
    for out in (whole, true.drift_step(x, s, alpha, a, b)):
        assert (np.abs(out - (a * x + b * step)) <= 8 * F64.u * (np.abs(a * x) + np.abs(b * step))).all()
    assert (fast.drift_step(torch.from_numpy(x), torch.from_numpy(s), alpha, a, 0.0).numpy() == a * x).all()


def test_a_flow_along_the_score_of_a_gaussian_goes_to_its_mean() -> None:
    """x' = x + b s/F with s = (μ − x)/σ²: b ≤ ε σ² shortens every way, and the mean stays where it is."""
    mean, sigma = 0.7, 0.4
    x = torch.linspace(-2, 3, 101, dtype=torch.float64)
    for _ in range(20):
        s = (mean - x) / sigma**2
        moved = fast.drift_step(x, s, 1.0, 1.0, fast.floor(1.0) * sigma**2)
        assert ((moved - mean).abs() <= (x - mean).abs()).all()
        x = moved
    assert fast.drift_step(torch.tensor([mean]), torch.zeros(1), 1.0, 1.0, 1e-3).item() == torch.tensor(mean).item()


def test_a_fresh_result_of_48_megabytes_lies_in_large_pages_where_linux_gives_them() -> None:
    """What the hint does is read from the kernel's own account of the mapping; nothing else is asked of it."""
    from pathlib import Path

    account, mode = Path("/proc/self/smaps"), Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not account.exists() or not mode.exists() or "[never]" in mode.read_text():
        pytest.skip("this kernel has no large pages to give")
    out = fast.diagonal(torch.ones(12 << 20), 0.5)
    inside = out.data_ptr() + out.numel() * 2
    flags: list[str] = []
    here = False
    for line in account.read_text().splitlines():
        head = line.split()[0]
        if not head.endswith(":"):
            low, _, high = head.partition("-")
            here = int(low, 16) <= inside < int(high, 16)
        elif here and head == "VmFlags:":
            flags = line.split()
    assert "hg" in flags, f"the mapping of the result was not advised: {flags}"


def test_no_tensor_of_the_inputs_size_is_made_beside_the_output() -> None:
    """Peak allocation of the tiled path: out= makes none larger than a tile."""
    from torch.profiler import ProfilerActivity, profile

    x, out = torch.randn(8 * CHUNK), torch.empty(8 * CHUNK)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        fast.preconditioned_step(x, 0.5, out=out)
    largest = max((e.cpu_memory_usage for e in watched.events()), default=0)
    assert largest < x.numel() * x.element_size() / 2, f"an operation allocated {largest} bytes"
