"""Evidence for ATLAS-05, -06, -08 and -22: one ε or the other, rates and bounds, scales that add up, two Cauchys."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from scipy import integrate

from trueness.optimized import kernels as fast
from trueness.properties.kernels.test_laws import assert_is, flat, reference
from trueness.reference import kernels as true
from trueness.regressions.kernels import variants as wrong
from trueness.tools.arithmetic.bounds import LIMITS, bounds
from trueness.tools.arithmetic.formats import precision

F64 = precision("float64")
ORIGIN = np.zeros((1, 1))


def at(r: float) -> np.ndarray:
    return np.array([[r]])


def offsets(seed: int, count: int) -> np.ndarray:
    return 2 * np.pi * np.random.default_rng(seed).random(count)


# -- item 5 -----------------------------------------------------------------------------------------------------------


def test_the_two_meanings_of_epsilon_agree_at_one_and_nowhere_else_ATLAS_05a() -> None:
    assert wrong.variance_gaussian(ORIGIN, at(0.7), 1.0) == true.gaussian(ORIGIN, at(0.7), lengthscale=1.0)
    old, new = (
        wrong.variance_gaussian(ORIGIN, at(1.0), 0.5)[0, 0],
        true.gaussian(ORIGIN, at(1.0), lengthscale=0.5)[0, 0],
    )
    assert f"{old:.3f} {new:.3f}" == "0.368 0.135"


@pytest.mark.parametrize("epsilon", [0.01, 0.5, 2.0, 3.0])
def test_scaling_and_the_value_at_epsilon_tell_the_two_meanings_apart_ATLAS_05a(epsilon: float) -> None:
    def root(kernel: Any) -> Any:
        return flat(kernel)(ORIGIN, at(epsilon), epsilon)

    assert_is(math.exp(-0.5), root(true.gaussian), true.gaussian, ORIGIN, at(epsilon), epsilon)
    assert abs(root(wrong.variance_gaussian)[0, 0] - math.exp(-0.5)) > 0.15
    for kernel, same in ((reference("gaussian"), True), (wrong.variance_gaussian, False)):
        assert (kernel(ORIGIN, at(4.0), 4 * epsilon) == kernel(ORIGIN, at(1.0), epsilon)).all() == same


def test_before_and_after_the_kernel_and_its_features_mean_the_same_ATLAS_05d() -> None:
    """Old kernel with old features, new with new: both agree. The error is to mix them."""
    D, epsilon, delta = 20_000, 0.25, np.array([[0.4]])
    g, b = np.random.default_rng(0).standard_normal((1, D)), offsets(1, D)
    off = {}
    for kernel_name, kernel in (("old", wrong.variance_gaussian), ("new", reference("gaussian"))):
        for drawn_name, drawn in (("old", wrong.variance_frequencies), ("new", reference("gaussian_frequencies"))):
            found = true.rff_gram(ORIGIN, delta, drawn(g, epsilon), b)[0, 0]
            off[kernel_name, drawn_name] = abs(found - kernel(ORIGIN, delta, epsilon)[0, 0])
    sigma = math.sqrt(1.5 / D)  # no feature has a larger variance than 1 + k(2δ)/2 ≤ 3/2
    assert off["old", "old"] <= 5 * sigma and off["new", "new"] <= 5 * sigma
    assert min(off["old", "new"], off["new", "old"]) > 0.3


def test_the_same_scales_make_two_kernels_in_two_operators_ATLAS_05e() -> None:
    """Σ s/Σs k(r; ε s) in the one, mean k(r; ε/s) in the other"""
    r, scales = np.linspace(0, 6, 601)[:, None], np.array([0.5, 1.0, 2.0])
    by_width = sum(s / scales.sum() * true.gaussian(r, ORIGIN, lengthscale=s) for s in scales)
    by_frequency = sum(true.gaussian(r, ORIGIN, lengthscale=1 / s) for s in scales) / 3
    assert f"{np.abs(by_width - by_frequency).max():.2f}" == "0.17"


# -- item 6 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [1, 4, 50, 99])
def test_for_points_far_apart_the_error_is_one_whatever_the_landmarks_ATLAS_06a_ATLAS_06b(m: int) -> None:
    x = 50.0 * np.arange(100.0)[:, None]
    K = true.gaussian(x, x, lengthscale=1.0)
    assert np.array_equal(K, np.eye(100))
    error = np.linalg.norm(K - true.nystrom(x, x[:m], lengthscale=1.0, reg=0.0), 2)
    assert error == 1 and (m == 1 or error > float(wrong.inverse_root(x, x[:m], 1.0, 0.0)))
    assert true.nystrom_trace_bound(x, x[:m], lengthscale=1.0, reg=0.0) == 100 - m >= error
    assert f"{float(wrong.inverse_root(x, x[:99], 1.0, 0.0)):.4f}" == "0.1005"


def test_the_old_formula_falls_with_the_landmarks_and_grows_with_the_points_ATLAS_06a() -> None:
    """The changelog says that more samples made it grow; n → 4 n makes it twice as large, m → 4 m half."""
    x = np.zeros((800, 1))
    value = {
        (n, m): float(wrong.root_of_points_per_landmark(x[:n], x[:m], 1.0, 0.0)) for n in (200, 800) for m in (16, 64)
    }
    assert value[800, 16] == 2 * value[200, 16] and value[800, 64] == value[800, 16] / 2
    assert wrong.inverse_root(x[:200], x[:16], 1.0, 0.0) == wrong.inverse_root(x, x[:16], 1.0, 0.0)


def test_the_absolute_error_grows_with_the_points_ATLAS_06a() -> None:
    """The same cloud twice over: K ⊗ ones, so the error of the same landmarks is exactly twice as large."""
    x = np.random.default_rng(0).random((40, 1))
    once, twice = (
        np.linalg.norm(true.gaussian(p, p, lengthscale=0.05) - true.nystrom(p, x[:4], lengthscale=0.05, reg=0.0), 2)
        for p in (x, np.concatenate([x, x]))
    )
    assert abs(twice - 2 * once) <= 80**2 * F64.u * twice


def test_uniform_points_have_an_error_ninety_times_the_bound_ATLAS_06b() -> None:
    """n = 800 points of the unit square, m = 80, bandwidth 0.05"""
    x = torch.from_numpy(np.random.default_rng(0).random((800, 2)))
    missing = fast.gaussian(x, x, lengthscale=0.05) - fast.nystrom(x, x[:80], lengthscale=0.05, reg=1e-6)
    error, claimed = float(torch.linalg.matrix_norm(missing, 2)), 1 / math.sqrt(80)
    trace = float(fast.nystrom_trace_bound(x, x[:80], lengthscale=0.05, reg=1e-6))
    print(f"‖K − K̃‖₂ = {error:.2f}, 1/√m = {claimed:.2f}, tr(K − K̃) = {trace:.0f}")
    assert error > 50 * claimed and error / 800 < claimed, "at most a rate of the error by n"
    assert trace >= float(torch.linalg.matrix_norm(missing)) >= error


def test_four_times_the_landmarks_halve_one_rate_and_not_the_other_ATLAS_06c() -> None:
    m = np.array([100.0, 400.0, 1600.0])
    spectral = true.drineas_mahoney_spectral(m, points=800, delta=0.1)
    frobenius = true.drineas_mahoney_frobenius(m, points=800, rank=4, delta=0.1)
    for values, factor in ((spectral, 0.5), (frobenius, math.sqrt(0.5)), (true.nystrom_rate(m), 0.5)):
        assert (np.abs(values[1:] / values[:-1] - factor) <= 8 * F64.u).all()


def test_the_theorem_knows_the_number_of_points_ATLAS_06d() -> None:
    m = np.array([64.0])
    few, many = (true.drineas_mahoney_spectral(m, points=n, delta=0.1)[0] for n in (100, 1000))
    assert abs(many / few - 10) <= 10 * 8 * F64.u
    assert wrong.rate_as_theorem(m, 100, 0.1)[0] == 1 / 8 == true.nystrom_rate(m)[0]
    assert few > 100 * (1 / 8) * 2, "2 η n times as large"


# -- item 8 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scales", [2, 3, 5])
def test_the_documented_normalisation_has_the_diagonal_s_ATLAS_08a_ATLAS_08g(scales: int) -> None:
    """Averaged over evenly spaced offsets, so exactly; and as an operator, on any vector."""
    J, source = 4, np.random.default_rng(0)
    W = np.repeat(source.standard_normal((2, 2 * scales)), J, axis=1)
    b = np.tile(2 * np.pi * np.arange(J) / J, 2 * scales)
    x, w, counts = source.standard_normal((3, 2)), np.full(scales, 1 / scales), (2 * J,) * scales
    for features, diagonal in ((reference("rff_features_multiscale"), 1), (wrong.unit_variance_per_scale, scales)):
        found = features(x, W, b, w, counts)
        assert (np.abs((found * found).sum(1) - diagonal) <= 8 * scales * diagonal * 8 * F64.u * 8).all()
    v = source.standard_normal((3, 2))
    right = true.rff_matvec_multiscale(x, x, v, W, b, weights=w, counts=counts)
    documented = wrong.matvec_unit_variance_per_scale(x, x, v, W, b, w, counts)
    assert_is(
        scales * right,
        documented,
        lambda *a: scales * true.rff_matvec_multiscale(*a, weights=w, counts=counts),
        x,
        x,
        v,
        W,
        b,
    )


def test_the_average_kernel_is_what_the_constant_before_estimates_ATLAS_08a_ATLAS_08b() -> None:
    """D = 60000 features in three scales: before, the error is 0.006; after the fix the diagonal is 2.99"""
    D, source = 60_000, np.random.default_rng(0)
    scales, counts = (0.5, 1.0, 2.0), (D // 3,) * 3
    W = np.concatenate([source.standard_normal((3, D // 3)) * s for s in scales], 1)
    b, x = 2 * np.pi * source.random(D), source.standard_normal((6, 3))
    average = sum(true.gaussian(x, x, lengthscale=1 / s) for s in scales) / 3
    thirds = np.full(3, 1 / 3)
    before = wrong.one_constant(x, W, b, thirds, counts)
    after = wrong.unit_variance_per_scale(x, W, b, thirds, counts)
    sigma = math.sqrt(1.5 / D)
    assert np.abs(before @ before.T - average).max() <= 5 * sigma
    assert np.abs(np.diag(after @ after.T) - 3).max() <= 15 * sigma
    assert np.abs(after @ after.T - average).max() > 1.9


def test_for_equal_parts_the_constant_before_is_right_bit_for_bit_ATLAS_08b() -> None:
    source = np.random.default_rng(0)
    x, W, b = source.standard_normal((4, 2)), source.standard_normal((2, 8)), offsets(1, 8)
    equal, unequal = np.full(4, 0.25), np.array([0.1, 0.2, 0.3, 0.4])
    same = true.rff_features_multiscale(x, W, b, weights=equal, counts=(2, 2, 2, 2))
    assert np.array_equal(wrong.one_constant(x, W, b, equal, (2, 2, 2, 2)), same)
    other = true.rff_features_multiscale(x, W, b, weights=unequal, counts=(2, 2, 2, 2))
    assert not np.array_equal(wrong.one_constant(x, W, b, unequal, (2, 2, 2, 2)), other)


def test_the_split_of_2048_features_is_nearly_equal_ATLAS_08b() -> None:
    """683, 683 and 682: weighing by number of features is off by 1/2048 from equal weights"""
    counts, thirds = (683, 683, 682), np.full(3, 1 / 3)
    zero = np.zeros((1, 1)), np.zeros((1, 2048)), np.zeros(2048)  # every cosine is 1
    edges = np.cumsum((0, *counts))[:-1]
    before, right = (
        np.add.reduceat(f(*zero, thirds, counts)[0] ** 2, edges) / 2
        for f in (wrong.one_constant, reference("rff_features_multiscale"))
    )
    assert (np.abs(right - thirds) <= 2048 * F64.u).all()
    assert 1 / 8192 < np.abs(before - right).max() < 1 / 2048


@pytest.mark.parametrize("d, text", [(3, "0.8415"), (32, "0.9845"), (3072, "0.9998")])
def test_without_radii_the_kernel_tends_to_one_with_the_dimension_ATLAS_08c(d: int, text: str) -> None:
    bare = float(mpmath.hyp0f1(d / 2, -0.25))  # scipy returns NaN for d = 3072
    assert f"{bare:.4f}" == text and bare >= 1 - 1 / (2 * d)
    if d > 32:
        return
    # cos t ≥ 1 − t²/2, and the columns of a rotation are orthonormal: at r = ε every block is at least 1 − 1/(2 d)
    delta, zero = np.full((1, d), 1 / math.sqrt(d)), np.zeros((1, d))
    W = wrong.unit_columns(np.random.default_rng(0).standard_normal((1, d, d)), np.ones(d), 1.0)
    one = float((true.rff_features_paired(delta, W) @ true.rff_features_paired(zero, W).T)[0, 0])
    assert 1 - 1 / (2 * d) - 8 * d * d * F64.u <= one < 1 and one > math.exp(-0.5) + 0.2
    if d > 3:
        return
    # on the sphere in three dimensions a coordinate is uniform, so the kernel at r = ε is the mean of cos over [0, 1]
    found, error = integrate.quad(math.cos, 0, 1)
    assert abs(found - bare) <= error + 4 * F64.u


def test_columns_of_a_rotation_have_no_radii_ATLAS_08c() -> None:
    source = np.random.default_rng(0)
    blocks, radii = source.standard_normal((500, 3, 3)), np.sqrt(source.chisquare(3, 1500))
    right, bare = (f(blocks, radii, 0.5) for f in (reference("orthogonal_frequencies"), wrong.unit_columns))
    assert (np.abs(np.linalg.norm(bare, axis=0) - 2) <= 64 * F64.u).all()
    mean = (np.linalg.norm(right, axis=0) ** 2).mean() / 4  # E χ²_3 = 3, with variance 6
    assert abs(mean - 3) <= 5 * math.sqrt(6 / 1500) < abs(1 - 3)


def test_the_laplacian_of_before_is_twice_the_gaussian_ATLAS_08d() -> None:
    D, source = 20_000, np.random.default_rng(0)
    x, W = source.standard_normal((5, 3)), source.standard_normal((3, D))
    found = wrong.twice_gaussian(x, W)
    K, L = (kernel(x, x) for kernel in (true.gaussian, true.laplacian_l2))
    assert (np.abs((found * found).sum(1) - 2) <= 2 * D * F64.u).all()
    sigma = 2 * math.sqrt(1 / D)  # Var cos ≤ 1
    assert np.abs(found @ found.T - 2 * K).max() <= 5 * sigma < 0.9 < np.abs(found @ found.T - L).max()


def test_the_reported_error_is_exceeded_every_time_ATLAS_08e() -> None:
    n, d, D = 200, 5, 1000
    counts = np.array([float(D)])
    reported, bound = (float(f(counts, n, 0.05)[0]) for f in (wrong.root_of_log, reference("rff_error_bound")))
    assert f"{reported:.3f} {bound:.3f}" == "0.073 0.338"
    x = np.random.default_rng(0).standard_normal((n, d))
    K, worst = true.gaussian(x, x, lengthscale=1.0), []
    for seed in range(10):
        W = np.random.default_rng(seed).standard_normal((d, D))
        worst.append(np.abs(true.rff_gram(x, x, W, offsets(100 + seed, D)) - K).max())
    print(f"largest errors {min(worst):.3f} … {max(worst):.3f}, mean {np.mean(worst):.3f}")
    assert reported < min(worst) and max(worst) < bound


def test_with_the_same_seed_in_every_tile_more_features_help_nobody_ATLAS_08f() -> None:
    """The mean square error of a product with D features falls as 1/D - or stays that of one tile of two."""
    delta, repeats = at(0.7), 400
    k, k2 = (true.gaussian(ORIGIN, s * delta, lengthscale=1.0)[0, 0] for s in (1, 2))
    one = 1 + k2 / 2 - k * k
    errors: dict[Any, dict[int, float]] = {true.rff_matvec: {}, wrong.seeded_anew: {}}
    for D in (2, 64):
        source = np.random.default_rng(D)
        draws = [(source.standard_normal((1, D)), 2 * np.pi * source.random(D)) for _ in range(repeats)]
        for product, found in errors.items():
            found[D] = np.mean([(product(ORIGIN, delta, at(1.0), *draw)[0, 0] - k) ** 2 for draw in draws])
    spread = 5 * math.sqrt(
        3 / repeats
    )  # a squared error in units of its mean has variance 2 if normal, and less than 3
    assert abs(errors[true.rff_matvec][64] / (one / 64) - 1) <= spread
    assert abs(errors[wrong.seeded_anew][64] / (one / 2) - 1) <= spread
    assert errors[wrong.seeded_anew][2] == errors[true.rff_matvec][2]


@pytest.mark.parametrize("points", [3, 4])
def test_overwritten_sums_are_right_in_one_tile_alone_ATLAS_08h(points: int) -> None:
    """and the optimized product is right in tiles of two"""
    source = np.random.default_rng(0)
    x, y, v, W = (source.standard_normal(s) for s in ((3, 2), (points, 2), (points, 1), (2, 5)))
    want, b = true.rff_matvec(x, y, v, W, offsets(0, 5)), offsets(0, 5)
    assert np.abs(wrong.last_tile_alone(x, y, v, W, b) - want).max() > 0.1
    assert np.array_equal(wrong.last_tile_alone(x, y[:2], v[:2], W, b), true.rff_matvec(x, y[:2], v[:2], W, b))
    found = fast.rff_matvec(*(torch.from_numpy(a) for a in (x, y, v, W, b)), row_tile=2).numpy()
    assert_is(want, found, true.rff_matvec, x, y, v, W, b, reduction=9)


def test_the_diagonal_counts_the_tiles_ATLAS_08i() -> None:
    W, b = np.repeat(np.ones((1, 2)), 4, axis=1), np.tile(2 * np.pi * np.arange(4) / 4, 2)
    found = wrong.scaled_by_the_tile(ORIGIN, ORIGIN, W, b)
    assert abs(found[0, 0] - 4) <= 32 * F64.u, "eight features in tiles of two, and a diagonal of one"
    torch_found = fast.rff_gram(*(torch.from_numpy(a) for a in (ORIGIN, ORIGIN, W, b)), feature_tile=2)
    assert abs(float(torch_found) - 1) <= 8 * F64.u


def test_rotations_alone_have_a_kernel_that_tends_to_one_ATLAS_08j() -> None:
    q, source = 64, np.random.default_rng(0)
    signs = 1.0 - 2.0 * source.integers(0, 2, (200, 3, q))
    ends = np.stack([np.zeros(q), np.ones(q) / math.sqrt(q)])  # one length apart
    for features, kernel in (
        (reference("structured_features"), math.exp(-0.5)),
        (wrong.without_the_root, math.exp(-0.5 / q)),
    ):
        pair = [features(ends, signs, np.full(200 * q, b), 1.0) for b in (0.0, -np.pi / 2)]
        found = sum(float(p[0] @ p[1]) for p in pair) / 2
        # the mean over a block lies in [−1, 1], blocks are independent; the bias is at most 3/(8 q)
        assert abs(found - kernel) <= 5 / math.sqrt(200) + 3 / (8 * q)
        assert (kernel > 0.99) == (features is wrong.without_the_root) and (found > 0.97) == (kernel > 0.99)


def test_reversed_signs_are_other_features_and_the_same_twice_ATLAS_08k() -> None:
    source = np.random.default_rng(0)
    x, signs, b = source.standard_normal((3, 4)), 1.0 - 2.0 * source.integers(0, 2, (2, 3, 4)), offsets(0, 8)
    once = wrong.signs_in_reverse(x, signs, b, 1.0)
    assert np.array_equal(
        wrong.signs_in_reverse(x, signs[:, ::-1], b, 1.0), true.structured_features(x, signs, b, lengthscale=1.0)
    )
    assert np.abs(once - true.structured_features(x, signs, b, lengthscale=1.0)).max() > 0.1
    assert not np.array_equal(signs, signs[:, ::-1])


def test_without_the_inverse_only_landmarks_far_apart_are_right_ATLAS_06e() -> None:
    far = 50.0 * np.arange(4.0)[:, None]
    v = np.arange(1.0, 5.0)[:, None]
    assert np.array_equal(
        wrong.without_the_inverse(far, far[:2], v, 1.0, 0.0),
        true.nystrom_matvec(far, far[:2], v, lengthscale=1.0, reg=0.0),
    )
    near = far / 100
    off = wrong.without_the_inverse(near, near[:2], v, 1.0, 0.0) - true.nystrom_matvec(
        near, near[:2], v, lengthscale=1.0, reg=0.0
    )
    assert np.abs(off).max() > 1


# -- item 22 ----------------------------------------------------------------------------------------------------------


def test_damped_cosines_have_an_eighth_of_the_diagonal_ATLAS_22a() -> None:
    """E 2 cos²(p) e^{−2 min(|p|, 20)} at x = 0, where p = b is uniform on [0, 2π): by scipy, and by the features"""
    found, error = integrate.quad(lambda p: 2 * math.cos(p) ** 2 * math.exp(-2 * p) / (2 * math.pi), 0, 2 * math.pi)
    assert error < 0.0005 and f"{found:.3f}" == "0.119"
    D, source = 20_000, np.random.default_rng(0)
    features = wrong.damped_cosine(source.standard_normal((5, 3)), source.standard_normal((3, D)), offsets(1, D))
    diagonal = (features * features).sum(1)
    assert (np.abs(diagonal - found) < 0.03).all(), "0.12 where every kernel has 1"
    assert (diagonal < 0.15).all()


def test_both_cauchy_kernels_have_frequencies_ATLAS_22a() -> None:
    """The claim was that there are none. Within five sigmas, for ten pairs in three dimensions."""
    D = 100_000
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((5, 3)))
    for name in ("cauchy_product", "cauchy_radial"):
        source = torch.Generator().manual_seed(0)
        W = fast.sample_frequencies(name, 3, D, lengthscale=1.0, generator=source, dtype=torch.float64)
        b = fast.sample_offsets(D, generator=source, dtype=torch.float64)
        K = getattr(fast, name)(x, x)
        assert float((fast.rff_gram(x, x, W, b) - K).abs().max()) <= 5 * math.sqrt(1.5 / D)


def test_cauchy_frequencies_have_the_laplacian_of_the_l1_norm_ATLAS_22c() -> None:
    D, source = 100_000, np.random.default_rng(0)
    x = source.standard_normal((8, 2))
    W = wrong.names_meet(source.random((2, D)), 1.0)
    found = true.rff_gram(x, x, W, offsets(1, D))
    off = {
        name: np.abs(found - reference(name)(x, x, 1.0)).max()
        for name in ("laplacian_l1", "cauchy_product", "cauchy_radial")
    }
    print(", ".join(f"{name} {gap:.3f}" for name, gap in off.items()))
    sigma = math.sqrt(1.5 / D)
    assert off["laplacian_l1"] <= 5 * sigma and min(off["cauchy_product"], off["cauchy_radial"]) > 0.2


def test_scikit_learn_means_the_l1_norm_by_its_laplacian_kernel_ATLAS_22d() -> None:
    pairwise = pytest.importorskip("sklearn.metrics.pairwise")
    x, y = np.zeros((1, 2)), np.ones((1, 2))
    found = pairwise.laplacian_kernel(x, y, gamma=1.0)
    assert_is(found, true.laplacian_l1(x, y, lengthscale=1.0), true.laplacian_l1, x, y, 1.0)
    assert (
        f"{true.laplacian_l1(x, y, lengthscale=1.0)[0, 0]:.3f} {true.laplacian_l2(x, y, lengthscale=1.0)[0, 0]:.3f}"
        == "0.135 0.243"
    )


@pytest.mark.parametrize(
    "one, other",
    [("laplacian_l1", "laplacian_l2"), ("cauchy_product", "cauchy_radial")],
)
def test_two_kernels_of_one_name_agree_on_a_line_only_ATLAS_22d_ATLAS_22e(one: str, other: str) -> None:
    """On a line to rounding; in the plane each has its own positive definite matrix."""
    x = np.random.default_rng(0).standard_normal((6, 2))
    K, L = (reference(name) for name in (one, other))
    line = x[:, :1]
    allowed = LIMITS["eager"] * bounds(K, [line, line, 1.0], [F64.u, F64.u, F64.u], F64, 1)[0].B
    assert (np.abs(K(line, line, 1.0) - L(line, line, 1.0)) <= allowed).all()
    assert np.abs(K(x, x, 1.0) - L(x, x, 1.0)).max() > 0.05
    assert min(np.linalg.eigvalsh(k(x, x, 1.0))[0] for k in (K, L)) > 0
