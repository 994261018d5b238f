"""Laws of the Fréchet distance, of the moments that it compares, and what independent oracles say."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from trueness.optimized import metrics as fast
from trueness.properties._lib.within import F64
from trueness.properties.metrics.laws import assert_law, both, bound, given, ours, seeds
from trueness.reference import metrics as true
from trueness.tools.arithmetic.bounds import LIMITS

DIGITS = 40
sizes = st.integers(1, 5)


def covariance(generator: np.random.Generator, d: int, rank: int) -> np.ndarray:
    factor = generator.standard_normal((d, rank))
    return factor @ factor.T


def rotation(generator: np.random.Generator, d: int) -> np.ndarray:
    return np.linalg.qr(generator.standard_normal((d, d)))[0]


def gaussians(seed: int, d: int, rank: int | None = None) -> tuple[np.ndarray, ...]:
    generator = np.random.default_rng(seed)
    ranks = [rank or d, rank or d + 1]
    pairs = [(generator.standard_normal(d), covariance(generator, d, r)) for r in ranks]
    return (*pairs[0], *pairs[1])


# -- distance -------------------------------------------------------------------------------------------------


@both("frechet_distance")
@given(seed=seeds, d=sizes, rank=sizes)
def test_nothing_is_apart_from_itself(function: Any, seed: int, d: int, rank: int) -> None:
    """σ_i(Σ^½ Σ^½) sums to tr Σ: what is left is d roundings of the norm on either side, and √d of the sums."""
    mean, sigma, _, _ = gaussians(seed, d, min(rank, d))
    left = function(mean, sigma, mean, sigma)
    assert 0 <= left <= 8 * d**2 * F64.u * np.trace(sigma)


@both("frechet_distance")
@given(seed=seeds, d=sizes)
def test_the_distance_is_symmetric_and_never_negative(function: Any, seed: int, d: int) -> None:
    m1, s1, m2, s2 = gaussians(seed, d)
    there, back = function(m1, s1, m2, s2), function(m2, s2, m1, s1)
    assert there >= 0
    assert_law(there, back, true.frechet_distance, m1, s1, m2, s2)


@both("frechet_distance")
@given(seed=seeds, d=sizes)
def test_a_common_rotation_changes_nothing(function: Any, seed: int, d: int) -> None:
    m1, s1, m2, s2 = gaussians(seed, d)
    q = rotation(np.random.default_rng([seed, 1]), d)

    def law(m1: Any, s1: Any, m2: Any, s2: Any, q: Any) -> Any:
        return true.frechet_distance(q @ m1, q @ s1 @ q.T, q @ m2, q @ s2 @ q.T)

    turned = function(q @ m1, q @ s1 @ q.T, q @ m2, q @ s2 @ q.T)
    assert_law(function(m1, s1, m2, s2), turned, law, m1, s1, m2, s2, q)


@both("frechet_distance")
@given(seed=seeds, d=sizes)
def test_a_common_shift_changes_nothing_and_one_of_a_mean_adds_its_square(function: Any, seed: int, d: int) -> None:
    m1, s1, m2, s2 = gaussians(seed, d)
    zero, shift = np.zeros(d), np.random.default_rng([seed, 1]).standard_normal(d)
    at_home = function(zero, s1, zero, s2)
    assert_law(at_home + np.sum(shift**2), function(shift, s1, zero, s2), true.frechet_distance, shift, s1, zero, s2)
    away = function(m1 + shift, s1, m2 + shift, s2)

    def law(m1: Any, s1: Any, m2: Any, s2: Any, shift: Any) -> Any:
        return true.frechet_distance(m1 + shift, s1, m2 + shift, s2)

    assert_law(function(m1, s1, m2, s2), away, law, m1, s1, m2, s2, shift)


@both("frechet_distance")
@given(seed=seeds, scale=st.floats(0.1, 10))
def test_the_distance_is_of_second_degree_in_the_unit(function: Any, seed: int, scale: float) -> None:
    m1, s1, m2, s2 = gaussians(seed, 3)

    def law(m1: Any, s1: Any, m2: Any, s2: Any, scale: Any) -> Any:
        return true.frechet_distance(scale * m1, scale**2 * s1, scale * m2, scale**2 * s2)

    scaled = function(scale * m1, scale**2 * s1, scale * m2, scale**2 * s2)
    assert_law(scale**2 * function(m1, s1, m2, s2), scaled, law, m1, s1, m2, s2, scale)


@both("frechet_distance")
@given(m=st.tuples(st.floats(-9, 9), st.floats(-9, 9)), s=st.tuples(st.floats(0, 9), st.floats(0, 9)))
def test_in_one_dimension_it_is_the_closed_form(function: Any, m: Any, s: Any) -> None:
    """(μ₁ − μ₂)² + (σ₁ − σ₂)²"""
    (m1, m2), (s1, s2) = (np.array([[x] for x in pair]) for pair in (m, s))
    arguments = m1, s1[:, None] ** 2, m2, s2[:, None] ** 2
    assert_law((m[0] - m[1]) ** 2 + (s[0] - s[1]) ** 2, function(*arguments), true.frechet_distance, *arguments)


@both("frechet_distance")
@given(seed=seeds, d=sizes)
def test_covariances_that_commute_have_the_closed_form(function: Any, seed: int, d: int) -> None:
    """Σ_i (√λ_i − √κ_i)² for common eigenvectors; a third of the eigenvalues are 0."""
    generator = np.random.default_rng(seed)
    q, zero = rotation(generator, d), np.zeros(d)
    values = generator.random((2, d)) * (generator.random((2, d)) > 1 / 3)

    def law(values: Any, q: Any) -> Any:
        return true.frechet_distance(zero, q * values[0] @ q.T, zero, q * values[1] @ q.T)

    found = function(zero, q * values[0] @ q.T, zero, q * values[1] @ q.T)
    assert_law(np.sum((np.sqrt(values[0]) - np.sqrt(values[1])) ** 2), found, law, values, q)


@both("frechet_distance")
@given(seed=seeds, d=st.integers(2, 6), rank=st.integers(1, 3))
def test_singular_covariances_have_a_finite_distance(function: Any, seed: int, d: int, rank: int) -> None:
    """Also of supports at right angles, where nothing is common: d² = tr Σ₁ + tr Σ₂."""
    arguments = gaussians(seed, d, min(rank, d - 1))
    assert np.isfinite(function(*arguments))
    apart = np.diag(np.arange(d) == 0).astype(float), np.diag(np.arange(d) == 1).astype(float)
    zero = np.zeros(d)
    assert function(zero, apart[0], zero, apart[1]) == 2
    assert function(zero, 0 * apart[0], zero, 0 * apart[1]) == 0


def forty_digits(m1: Any, s1: Any, m2: Any, s2: Any) -> float:
    """The paper's line, the roots by mpmath's own eigenvectors with forty digits."""
    with mpmath.workdps(DIGITS):

        def root(a: Any) -> Any:
            values, vectors = mpmath.eigsy(a)
            return vectors * mpmath.diag([mpmath.sqrt(max(x, 0)) for x in values]) * vectors.T

        one, two = mpmath.matrix(s1.tolist()), mpmath.matrix(s2.tolist())
        inner = root(one) * two * root(one)
        common = sum(mpmath.sqrt(max(x, 0)) for x in mpmath.eigsy((inner + inner.T) / 2, eigvals_only=True))
        apart = sum((mpmath.mpf(float(a)) - mpmath.mpf(float(b))) ** 2 for a, b in zip(m1, m2, strict=True))
        traces = sum(one[i, i] + two[i, i] for i in range(len(m1)))
        return float(apart + traces - 2 * common)


@both("frechet_distance")
@given(seed=seeds, d=st.integers(1, 4), singular=st.booleans())
def test_the_distance_is_its_forty_digit_value(function: Any, seed: int, d: int, singular: bool) -> None:
    """Of singular covariances with integers in them, so that they are singular exactly."""
    generator = np.random.default_rng(seed)
    rank = max(1, d - 1) if singular else d + 1
    factors = generator.integers(-3, 4, (2, d, rank)).astype(float)
    m1, m2 = generator.standard_normal((2, d))
    arguments = m1, factors[0] @ factors[0].T, m2, factors[1] @ factors[1].T
    assert_law(forty_digits(*arguments), function(*arguments), true.frechet_distance, *arguments)


def test_a_root_of_the_product_loses_half_of_the_digits_where_ours_does_not() -> None:
    """scipy.linalg.sqrtm(Σ₁Σ₂) of a covariance with itself, singular: the distance is 0."""
    linalg = pytest.importorskip("scipy.linalg")
    factor = np.random.default_rng(0).standard_normal((16, 4))
    sigma, zero = factor @ factor.T, np.zeros(16)
    root = np.asarray(linalg.sqrtm(sigma @ sigma)).real
    theirs = abs(2 * np.trace(sigma) - 2 * np.trace(root))
    mine = max(float(f(zero, sigma, zero, sigma)) for f in (true.frechet_distance, ours("frechet_distance")))
    assert mine <= 8 * 16**2 * F64.u * np.trace(sigma)
    assert theirs > 100 * mine


@pytest.mark.filterwarnings("ignore")
def test_a_root_of_a_singular_product_may_be_nan_in_scipy_where_ours_is_its_forty_digit_value() -> None:
    """Why the oracle in __init__.py first goes to the common support; FID code adds 10⁻⁶ to the diagonal."""
    linalg = pytest.importorskip("scipy.linalg")
    one = np.array([[0.0, 0.0, 0.0], [0.0, 1.0, -2.0], [0.0, -2.0, 4.0]])
    two = np.array([[13.0, 0.0, -6.0], [0.0, 13.0, 6.0], [-6.0, 6.0, 10.0]])
    assert np.isnan(linalg.sqrtm(one @ two)).any()
    arguments = np.zeros(3), one, np.zeros(3), two
    for function in (true.frechet_distance, ours("frechet_distance")):
        assert_law(forty_digits(*arguments), function(*arguments), true.frechet_distance, *arguments)


@both("frechet_distance")
@given(seed=seeds, at=st.sampled_from((1, 3)), value=st.sampled_from((np.nan, np.inf, -np.inf)))
def test_a_covariance_that_is_not_finite_gives_nan(function: Any, seed: int, at: int, value: float) -> None:
    arguments = [np.array(a) for a in gaussians(seed, 3)]
    arguments[at][1, 2] = value
    with np.errstate(all="ignore"):
        assert np.isnan(function(*arguments))


@both("mean_and_covariance")
@given(seed=seeds, d=sizes, n=st.integers(2, 9))
def test_a_covariance_is_that_of_differences_and_does_not_see_a_shift(function: Any, seed: int, d: int, n: int) -> None:
    """Σ = Σ_ij (x_i − x_j)(x_i − x_j)ᵀ / (2 N (N − 1)): no mean is needed."""
    x = np.random.default_rng(seed).standard_normal((n, d))
    differences = (x[:, None] - x[None]).reshape(-1, d)
    mean, sigma = function(x)

    def law(x: Any) -> Any:
        away = x[:, None] - x[None]
        flat = away.reshape(n * n, d)
        return flat.T @ flat / (2 * n * (n - 1))

    assert_law(differences.T @ differences / (2 * n * (n - 1)), sigma, law, x)
    assert np.array_equal(sigma, sigma.T)
    assert_law(np.mean(x, 0), mean, lambda x: np.sum(x, axis=0) / n, x)


def test_the_estimate_is_biased_upwards_for_few_samples() -> None:
    """E d² ≈ d/N + d (d + 1)/(4 (N − 1)) of N standard normals against the truth, within five standard errors.

    What the expansion leaves out is of the order d (d + 1)²/N².
    """
    d, runs, generator = 4, 100, np.random.default_rng(0)
    zero, one = np.zeros(d), np.eye(d)
    for n in (100, 1000):
        found = [
            float(true.frechet_distance(*true.mean_and_covariance(generator.standard_normal((n, d))), zero, one))
            for _ in range(runs)
        ]
        error = np.std(found, ddof=1) / math.sqrt(runs)
        assert np.mean(found) > 5 * error
        assert abs(np.mean(found) - d / n - d * (d + 1) / (4 * (n - 1))) < 5 * error + d * (d + 1) ** 2 / n**2


def test_torchmetrics_takes_the_same_distance_of_the_same_features() -> None:
    """Its whole metric, with the identity in place of Inception: sums of squares, then its own kernel."""
    fid = pytest.importorskip("torchmetrics.image.fid")

    class Identity(torch.nn.Module):
        num_features = 3

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1).double()  # of integers the metric would make its distance an integer, too

    metric = fid.FrechetInceptionDistance(feature=Identity(), normalize=False, input_img_size=(3, 1, 1))
    metric.set_dtype(torch.float64)
    generator = torch.Generator().manual_seed(0)
    sets = [torch.randint(0, 256, (40, 3, 1, 1), generator=generator, dtype=torch.uint8) for _ in range(2)]
    for real, pictures in zip((True, False), sets, strict=True):
        metric.update(pictures, real=real)
    features = [x.flatten(1).double() for x in sets]
    arguments = [a for x in features for a in fast.mean_and_covariance(x)]
    want = float(fast.frechet_distance(*arguments))
    plain = [a.numpy() for a in arguments]
    moments = 40 * 255**2 / 39  # Σ x² − N μ² cancels: their covariance carries the roundings of its terms
    slack = 40 * F64.u * moments * 2 * 3
    assert (
        abs(float(metric.compute()) - want) <= LIMITS["eager"] * float(bound(true.frechet_distance, *plain).B) + slack
    )
