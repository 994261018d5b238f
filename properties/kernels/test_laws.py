"""Laws of kernel matrices, on the reference and on the optimized version, and what independent oracles say."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import hypothesis
import mpmath
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from scipy import integrate, stats

from trueness.optimized import kernels as fast
from trueness.properties._lib.flat import Flat
from trueness.properties.kernels import FORMULAS
from trueness.reference import kernels as true
from trueness.tools.arithmetic.bounds import LIMITS, Bound, bounds
from trueness.tools.arithmetic.formats import precision
from trueness.tools.checks.core import settings_for

F64 = precision("float64")
EXAMPLES, DIGITS = 20, 40
NAMES = ("gaussian", "laplacian_l1", "laplacian_l2", "cauchy_product", "cauchy_radial")
KINDS = (*((name, ()) for name in NAMES), *(("matern", (nu,)) for nu in (0.5, 1.5, 2.5)))
RADIAL = [k for k in KINDS if k[0] not in ("laplacian_l1", "cauchy_product")]
BY_AXIS = [k for k in KINDS if k[0] in ("gaussian", "laplacian_l1", "cauchy_product")]
seeds, lengths = st.integers(0, 2**16), st.floats(0.2, 5.0)
powers = st.integers(-6, 6).map(lambda e: 2.0**e)


def given(**strategies: Any) -> Callable[[Any], Any]:
    """As everywhere in the project: derandomized, without a clock."""
    return lambda law: settings_for(EXAMPLES)(hypothesis.given(**strategies)(law))


flat = Flat(FORMULAS)


def reference(name: str) -> Callable[..., Any]:
    """The reference, all arguments by position."""
    return flat(getattr(true, name))


def ours(name: str) -> Callable[..., Any]:
    """The optimized function on NumPy arrays, all arguments by position."""
    function = flat(getattr(fast, name))

    def call(*arguments: Any, **options: Any) -> Any:
        natives = [torch.from_numpy(np.array(a)) if isinstance(a, np.ndarray) else a for a in arguments]
        return function(*natives, **options).numpy()

    return call


SIDES: dict[str, Callable[[str], Callable[..., Any]]] = {"reference": reference, "ours": ours}
both = pytest.mark.parametrize("side", SIDES.values(), ids=SIDES)


def kinds(chosen: Any = KINDS) -> Any:
    return pytest.mark.parametrize("name, nu", chosen, ids=[f"{name}{list(nu) or ''}" for name, nu in chosen])


def bound(function: Callable[..., Any], *arguments: Any, reduction: int = 1) -> Bound:
    """The float64 bound of the first output."""
    units = [F64.u if np.asarray(a).dtype.kind == "f" else 0.0 for a in arguments]
    with np.errstate(all="ignore"):
        return bounds(flat(function), arguments, units, F64, reduction)[0]


def assert_is(want: Any, out: Any, law: Callable[..., Any], *arguments: Any, reduction: int = 1) -> None:
    """``out`` is ``want`` to within what rounding does to ``law(*arguments)``."""
    allowed = LIMITS["eager"] * bound(law, *arguments, reduction=reduction).B
    assert (np.abs(np.asarray(out) - want) <= allowed).all()


def cloud(seed: int, points: int, dimensions: int, scale: float = 1.0) -> np.ndarray:
    return scale * np.random.default_rng(seed).standard_normal((points, dimensions))


def grid(seed: int, points: int, dimensions: int) -> np.ndarray:
    """Points whose coordinates are multiples of 1/64 below 16: their differences are exact."""
    return np.random.default_rng(seed).integers(-512, 512, (points, dimensions)) / 64.0


# -- laws of every kernel ---------------------------------------------------------------------------------------------


@both
@kinds()
@given(seed=seeds, length=lengths)
def test_a_point_is_one_to_itself_and_at_most_one_to_any_other(
    name: str, nu: Any, side: Any, seed: int, length: float
) -> None:
    x = cloud(seed, 6, 3)
    K = side(name)(x, x, length, *nu)
    assert (np.diag(K) == 1).all() and (K > 0).all() and (K <= 1).all()


@both
@kinds()
@given(seed=seeds, length=lengths)
def test_exchanging_the_points_transposes_the_matrix_bit_for_bit(
    name: str, nu: Any, side: Any, seed: int, length: float
) -> None:
    x, y = cloud(seed, 5, 3), cloud(seed + 1, 4, 3)
    assert np.array_equal(side(name)(x, y, length, *nu), side(name)(y, x, length, *nu).T)


@both
@kinds()
@given(seed=seeds, length=lengths, c=powers)
def test_scaling_points_and_length_by_a_power_of_two_changes_no_bit(
    name: str, nu: Any, side: Any, seed: int, length: float, c: float
) -> None:
    x, y = cloud(seed, 5, 3), cloud(seed + 1, 4, 3)
    assert np.array_equal(side(name)(c * x, c * y, c * length, *nu), side(name)(x, y, length, *nu))


@both
@kinds()
@given(seed=seeds, length=lengths)
def test_shifting_all_points_changes_no_bit(name: str, nu: Any, side: Any, seed: int, length: float) -> None:
    x, y, shift = grid(seed, 5, 3), grid(seed + 1, 4, 3), grid(seed + 2, 1, 3)
    assert np.array_equal(side(name)(x + shift, y + shift, length, *nu), side(name)(x, y, length, *nu))


@both
@kinds()
@given(seed=seeds, length=lengths)
def test_no_eigenvalue_is_more_negative_than_rounding_makes_it(
    name: str, nu: Any, side: Any, seed: int, length: float
) -> None:
    """Weyl: K is off by at most ‖B‖_F, and LAPACK by n u ‖K‖."""
    x = cloud(seed, 12, 2)
    x = np.concatenate([x, x[:2] + 1e-9])  # nearly singular
    allowed = LIMITS["eager"] * bound(getattr(true, name), x, x, length, *nu, reduction=2).B
    values = np.linalg.eigvalsh(side(name)(x, x, length, *nu))
    assert values[0] >= -(np.linalg.norm(allowed) + len(x) * F64.u * values[-1])


def test_a_matrix_that_is_no_kernel_has_a_negative_eigenvalue() -> None:
    """1 − r²/ℓ² is not positive definite: the law above can fail."""
    x = cloud(0, 12, 2)
    assert np.linalg.eigvalsh(1 - true._squared_distances(x, x))[0] < -1


@both
@kinds(RADIAL)
@given(seed=seeds, length=lengths)
def test_a_radial_kernel_does_not_feel_a_rotation(name: str, nu: Any, side: Any, seed: int, length: float) -> None:
    x, y = cloud(seed, 5, 3), cloud(seed + 1, 4, 3)
    turn, _ = np.linalg.qr(cloud(seed + 2, 3, 3))

    def law(x: Any, y: Any) -> Any:
        return reference(name)(x @ turn, y @ turn, length, *nu)

    # of the turn itself a rounding stays: ‖QᵀQ − I‖ is some 3 u, which moves r² by as much
    want, gain = reference(name)(x, y, length, *nu), bound(law, x, y, reduction=3).B
    moved = (
        9 * F64.u * true._squared_distances(x, y) / length**2
        + 9 * F64.u * np.sqrt(true._squared_distances(x, y)) / length
    )
    assert (np.abs(side(name)(x @ turn, y @ turn, length, *nu) - want) <= LIMITS["eager"] * gain + 3 * moved).all()


@pytest.mark.parametrize("name", ["laplacian_l1", "cauchy_product"])
def test_a_kernel_by_axes_feels_a_rotation(name: str) -> None:
    zero, axis, diagonal = np.zeros((1, 2)), np.array([[1.0, 0.0]]), np.full((1, 2), math.sqrt(0.5))
    kernel = reference(name)
    assert kernel(zero, axis, 1.0) - kernel(zero, diagonal, 1.0) > 0.05


@both
@kinds(BY_AXIS)
@given(seed=seeds, length=lengths)
def test_a_kernel_by_axes_is_the_product_of_its_axes(name: str, nu: Any, side: Any, seed: int, length: float) -> None:
    x, y = cloud(seed, 5, 3), cloud(seed + 1, 4, 3)

    def law(x: Any, y: Any, length: Any) -> Any:
        return np.prod(np.stack([reference(name)(x[:, k : k + 1], y[:, k : k + 1], length) for k in range(3)]), 0)

    assert_is(law(x, y, length), side(name)(x, y, length), law, x, y, length, reduction=3)


@both
@given(seed=seeds, length=lengths)
def test_on_a_line_both_laplacians_and_both_cauchy_kernels_are_one(side: Any, seed: int, length: float) -> None:
    x, y = cloud(seed, 5, 1), cloud(seed + 1, 4, 1)
    for one, other in (("laplacian_l1", "laplacian_l2"), ("cauchy_product", "cauchy_radial")):
        assert_is(reference(one)(x, y, length), side(other)(x, y, length), getattr(true, one), x, y, length)


@both
@given(seed=seeds, length=lengths)
def test_matern_one_half_is_the_laplacian_of_the_distance_bit_for_bit(side: Any, seed: int, length: float) -> None:
    x, y = cloud(seed, 5, 3), cloud(seed + 1, 4, 3)
    assert np.array_equal(side("matern")(x, y, length, 0.5), side("laplacian_l2")(x, y, length))


@both
@given(r=st.floats(0.01, 5.0), length=lengths, nu=st.sampled_from((0.5, 1.5, 2.5)))
def test_matern_is_its_forty_digit_bessel_function(side: Any, r: float, length: float, nu: float) -> None:
    zero, point = np.zeros((1, 1)), np.array([[r]])
    with mpmath.workdps(DIGITS):
        s = mpmath.sqrt(2 * nu) * mpmath.mpf(r) / mpmath.mpf(length)
        want = 2 ** (1 - mpmath.mpf(nu)) / mpmath.gamma(nu) * s**nu * mpmath.besselk(nu, s)
    assert_is(float(want), side("matern")(zero, point, length, nu), true.matern, zero, point, length, nu)


# -- laws of single kernels -------------------------------------------------------------------------------------------


@both
@given(length=lengths)
def test_one_length_away_the_gaussian_is_the_root_of_one_over_e(side: Any, length: float) -> None:
    zero, away = np.zeros((1, 1)), np.array([[length]])
    assert_is(math.exp(-0.5), side("gaussian")(zero, away, length), true.gaussian, zero, away, length)


@both
@given(seed=seeds, a=lengths, b=lengths)
def test_the_product_of_two_gaussians_is_a_gaussian(side: Any, seed: int, a: float, b: float) -> None:
    """1/ℓ² = 1/a² + 1/b²"""
    x, y = cloud(seed, 5, 3), cloud(seed + 1, 4, 3)

    def law(x: Any, y: Any, a: Any, b: Any) -> Any:
        return true.gaussian(x, y, lengthscale=a) * true.gaussian(x, y, lengthscale=b)

    length = 1 / math.sqrt(1 / a**2 + 1 / b**2)
    K = side("gaussian")(x, y, length)
    exponent = -np.log(np.maximum(K, np.finfo(float).tiny))  # ℓ is rounded three times, and ℓ² stands in the exponent
    allowed = LIMITS["eager"] * bound(law, x, y, a, b, reduction=3).B + 6 * F64.u * exponent * K
    assert (np.abs(K - law(x, y, a, b)) <= allowed).all()


@given(a=st.floats(0.5, 2.0), b=st.floats(0.5, 2.0), delta=st.floats(-2.0, 2.0))
def test_gaussians_are_a_semigroup_under_convolution(a: float, b: float, delta: float) -> None:
    """∫ g_a(z) g_b(δ − z) dz = g_c(δ), c² = a² + b², g_ℓ = k/(√(2π) ℓ); to what the quadrature says of itself"""

    def g(z: float, length: float) -> float:
        return float(true.gaussian(np.zeros((1, 1)), np.array([[z]]), lengthscale=length)[0, 0]) / (
            math.sqrt(2 * math.pi) * length
        )

    found, error = integrate.quad(lambda z: g(z, a) * g(delta - z, b), -30, 30, points=[0, delta], limit=200)
    want = g(delta, math.hypot(a, b))
    assert abs(found - want) <= error + 64 * F64.u * (want + 1)


@given(length=st.floats(0.5, 2.0), delta=st.floats(-2.0, 2.0))
def test_a_laplacian_convolved_with_itself_is_matern_three_halves(length: float, delta: float) -> None:
    """On a line: the density of ν is ∝ (1 + ω²ℓ²/(2ν))^{−ν−1/2}; that of 1/2, squared, is that of 3/2 and √3 ℓ"""

    def k(z: float) -> float:
        return float(true.laplacian_l2(np.zeros((1, 1)), np.array([[z]]), lengthscale=length)[0, 0])

    found, error = integrate.quad(lambda z: k(z) * k(delta - z), -60, 60, points=[0, delta], limit=200)
    want = length * float(
        true.matern(np.zeros((1, 1)), np.array([[delta]]), lengthscale=length * math.sqrt(3), nu=1.5)[0, 0]
    )
    assert abs(found - want) <= error + 64 * F64.u * (want + 1)


# -- the spectral density is the kernel's -----------------------------------------------------------------------------

MIXTURES: dict[str, tuple[Any, Any, tuple[Any, ...]]] = {
    "laplacian_l2": (true.laplacian_l2_frequencies, stats.halfnorm(), ()),
    "cauchy_radial": (true.cauchy_radial_frequencies, stats.expon(), ()),
    "matern[0.5]": (true.matern_frequencies, stats.chi2(1), (0.5,)),
    "matern[1.5]": (true.matern_frequencies, stats.chi2(3), (1.5,)),
    "matern[2.5]": (true.matern_frequencies, stats.chi2(5), (2.5,)),
}


@pytest.mark.parametrize("kind", MIXTURES)
@given(length=lengths, r=st.floats(0.05, 3.0))
def test_a_column_of_frequencies_is_a_mixture_of_gaussians_with_the_kernel_as_characteristic_function(
    kind: str, length: float, r: float
) -> None:
    """Given its factor c, ω = s(c) g is normal, so E e^{iω·δ} = ∫ p(c) exp(−s(c)² r²/2) dc, whatever the dimension."""
    transform, law, nu = MIXTURES[kind]
    one = np.ones((1, 1))

    def under(c: float) -> float:
        s = float(flat(transform)(one, np.array([c]), length, *nu)[0, 0])
        return float(law.pdf(c)) * math.exp(-0.5 * (s * r) ** 2)

    parts = [integrate.quad(under, low, high, limit=200) for low, high in ((0, 1e-2), (1e-2, 1), (1, 10), (10, np.inf))]
    found, error = sum(p[0] for p in parts), sum(p[1] for p in parts)
    want = float(reference(kind.split("[")[0])(np.zeros((1, 1)), np.array([[r]]), length, *nu)[0, 0])
    assert error < precision("float32").u and abs(found - want) <= error + 256 * F64.u


@both
@pytest.mark.parametrize("name, law", [("laplacian_l1", stats.cauchy), ("cauchy_product", stats.laplace)])
@given(u=st.lists(st.floats(0.01, 0.99), min_size=2, max_size=5), length=lengths)
def test_a_frequency_lies_where_its_distribution_says(name: str, law: Any, side: Any, u: Any, length: float) -> None:
    """F(ω(u)) = u, with scipy's distribution function"""
    uniform = np.array([u])
    omega = side(f"{name}_frequencies")(uniform, length)
    slope = law.pdf(omega, scale=1 / length)
    B = bound(getattr(true, f"{name}_frequencies"), uniform, length).B
    assert (np.abs(law.cdf(omega, scale=1 / length) - uniform) <= LIMITS["eager"] * B * slope + 8 * F64.u).all()


@pytest.mark.parametrize(
    "name, law", [("gaussian", stats.norm), ("laplacian_l1", stats.cauchy), ("cauchy_product", stats.laplace)]
)
@given(length=st.floats(0.5, 2.0), delta=st.floats(0.1, 3.0))
def test_the_cosine_transform_of_the_density_is_the_kernel(name: str, law: Any, length: float, delta: float) -> None:
    """∫ p(ω) cos(ω δ) dω, by scipy's Fourier quadrature, is k(δ)"""
    half, error = integrate.quad(
        lambda omega: law.pdf(omega, scale=1 / length), 0, np.inf, weight="cos", wvar=delta, limlst=200
    )[:2]
    want = float(reference(name)(np.zeros((1, 1)), np.array([[delta]]), length)[0, 0])
    assert error < precision("float32").u and abs(2 * half - want) <= 2 * error + 64 * F64.u


# -- golden values: 40-digit mpmath, as many digits as are printed ----------------------------------------------------

GOLDEN = {
    "gaussian": ".42955735821073915",
    "laplacian_l1": ".14956861922263506",
    "laplacian_l2": ".2725317930340126",
    "cauchy_product": ".32413481934021704",
    "cauchy_radial": ".3717472118959108",
}


@both
@pytest.mark.parametrize("name, text", GOLDEN.items())
def test_kernels_have_their_golden_values(name: str, text: str, side: Any) -> None:
    zero, delta = np.zeros((1, 3)), np.array([[0.3, -0.4, 1.2]])
    exponent = Decimal(text).as_tuple().exponent
    assert isinstance(exponent, int)
    half = float(Decimal(5).scaleb(exponent - 1))
    allowed = half + LIMITS["eager"] * bound(getattr(true, name), zero, delta, 1.0).B
    assert (np.abs(side(name)(zero, delta, 1.0) - float(text)) <= allowed).all()


# -- gradients where a kernel has a tip, products, and what is refused -------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_where_two_points_meet_the_gradient_is_zero(name: str) -> None:
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    (by_x,) = torch.autograd.grad(getattr(fast, name)(x, x.detach(), lengthscale=1.0).sum(), x)
    one = x.detach().numpy()
    by_reference, _ = getattr(true, f"{name}_vjp")(np.ones((1, 1)), one, one, 1.0)
    assert not by_x.any() and not by_reference.any()


@both
@pytest.mark.parametrize("name", NAMES)
@given(seed=seeds, length=lengths)
def test_the_product_with_unit_vectors_is_the_matrix(name: str, side: Any, seed: int, length: float) -> None:
    x, y = cloud(seed, 5, 2), cloud(seed + 1, 4, 2)
    want = reference(name)(x, y, length)
    assert_is(want, side("kernel_matvec")(x, y, np.eye(4), name, length), getattr(true, name), x, y, length)


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("name", NAMES)
def test_the_exact_product_and_its_gradients_do_not_depend_on_the_tile(name: str, rows: int) -> None:
    x, y, v, g = cloud(0, 7, 2), cloud(1, 5, 2), cloud(2, 5, 3), cloud(3, 7, 3)
    leaves = [torch.from_numpy(a).requires_grad_() for a in (x, y, v)]
    out = fast.kernel_matvec(*leaves, kernel=name, lengthscale=0.9, row_tile=rows)
    found = torch.autograd.grad(out, leaves, torch.from_numpy(g))
    assert_is(
        out.detach().numpy(),
        true.kernel_matvec(x, y, v, kernel=name, lengthscale=0.9),
        true.kernel_matvec,
        x,
        y,
        v,
        name,
        0.9,
        reduction=5,
    )
    wanted = true.kernel_matvec_vjp(g, x, y, v, name, 0.9)
    for k, (a, b) in enumerate(zip(found, wanted, strict=True)):
        assert_is(
            b, a.numpy(), lambda *moved, k=k: true.kernel_matvec_vjp(*moved)[k], g, x, y, v, name, 0.9, reduction=7
        )


X, Y = torch.zeros(3, 2), torch.zeros(4, 2)
W, B = torch.zeros(2, 6), torch.zeros(6)
REFUSED = {
    "x was list": lambda: fast.gaussian([1.0], Y, lengthscale=1.0),
    "x had dtype torch.int64": lambda: fast.gaussian(X.long(), Y, lengthscale=1.0),
    r"x had shape \(3,\)": lambda: fast.gaussian(X[:, 0], Y, lengthscale=1.0),
    "y had 1 dimensions": lambda: fast.gaussian(X, Y[:, :1], lengthscale=1.0),
    "y was torch.float64": lambda: fast.gaussian(X, Y.double(), lengthscale=1.0),
    "lengthscale was 0": lambda: fast.laplacian_l1(X, Y, lengthscale=0),
    "lengthscale was inf": lambda: fast.laplacian_l2(X, Y, lengthscale=math.inf),
    "lengthscale was None": lambda: fast.cauchy_product(X, Y, lengthscale=None),
    "lengthscale was -1": lambda: fast.cauchy_radial(X, Y, lengthscale=-1),
    "nu was 1.0": lambda: fast.matern(X, Y, lengthscale=1.0, nu=1.0),
    "kernel was 'cauchy'": lambda: fast.kernel_matvec(X, Y, torch.zeros(4, 1), kernel="cauchy", lengthscale=1.0),
    "v had 3 rows": lambda: fast.kernel_matvec(X, Y, torch.zeros(3, 1), kernel="gaussian", lengthscale=1.0),
    "row_tile was 0": lambda: fast.kernel_matvec(
        X, Y, torch.zeros(4, 1), kernel="gaussian", lengthscale=1.0, row_tile=0
    ),
    r"frequencies had shape \(3, 6\)": lambda: fast.rff_features(X, torch.zeros(3, 6), B),
    r"frequencies had shape \(2, 0\)": lambda: fast.rff_features_paired(X, W[:, :0]),
    r"offsets had shape \(5,\)": lambda: fast.rff_gram(X, Y, W, B[:5]),
    "offsets was torch.float64": lambda: fast.rff_matvec(X, Y, torch.zeros(4, 1), W, B.double()),
    "feature_tile was 0": lambda: fast.rff_matvec(X, Y, torch.zeros(4, 1), W, B, feature_tile=0),
    r"counts were \(2, 3\)": lambda: fast.rff_features_multiscale(X, W, B, weights=torch.ones(2), counts=(2, 3)),
    r"weights had shape \(3,\)": lambda: fast.rff_features_multiscale(X, W, B, weights=torch.ones(3), counts=(2, 4)),
    "counts was 0": lambda: fast.rff_features_multiscale(X, W, B, weights=torch.ones(2), counts=(0, 6)),
    "counts had dtype": lambda: fast.rff_error_bound(torch.ones(1), points=10, delta=0.1),
    "delta was 1": lambda: fast.rff_error_bound(torch.ones(1).double(), points=10, delta=1),
    r"denominator had shape \(2,\)": lambda: fast.laplacian_l2_frequencies(W, torch.ones(2), lengthscale=1.0),
    r"blocks had shape \(1, 2, 3\)": lambda: fast.orthogonal_frequencies(torch.zeros(1, 2, 3), B, lengthscale=1.0),
    r"radii had shape \(6,\)": lambda: fast.orthogonal_frequencies(torch.zeros(1, 2, 2), B, lengthscale=1.0),
    "reg was -1": lambda: fast.nystrom(X, Y, lengthscale=1.0, reg=-1),
    "reg was 0.0; it must be larger": lambda: fast.nystrom_features(X, Y, lengthscale=1.0, reg=0.0),
    "landmarks had 1 dimensions": lambda: fast.nystrom_trace_bound(X, Y[:, :1], lengthscale=1.0, reg=0.1),
    "landmarks had dtype": lambda: fast.nystrom_rate(torch.ones(1)),
    "points was 0": lambda: fast.drineas_mahoney_spectral(torch.ones(1).double(), points=0, delta=0.1),
    "rank was 0": lambda: fast.drineas_mahoney_frobenius(torch.ones(1).double(), points=10, rank=0, delta=0.1),
    "kernel was 'laplacian'": lambda: fast.sample_frequencies(
        "laplacian", 2, 3, lengthscale=1.0, generator=torch.Generator()
    ),
    "nu was None": lambda: fast.sample_frequencies("matern", 2, 3, lengthscale=1.0, generator=torch.Generator()),
    "nu was 1.5 for": lambda: fast.sample_frequencies(
        "gaussian", 2, 3, lengthscale=1.0, generator=torch.Generator(), nu=1.5
    ),
    "nu was 0.7; it must be": lambda: fast.sample_frequencies(
        "matern", 2, 3, lengthscale=1.0, generator=torch.Generator(), nu=0.7
    ),
    "features was 0": lambda: fast.sample_offsets(0, generator=torch.Generator()),
    "generator was int": lambda: fast.sample_offsets(3, generator=0),
}


@pytest.mark.parametrize("sentence, call", REFUSED.items())
def test_bad_input_is_refused_in_one_sentence(sentence: str, call: Any) -> None:
    with pytest.raises(ValueError, match=sentence) as refused:
        call()
    assert str(refused.value).endswith(".") and "\n" not in str(refused.value)


def test_the_reference_has_no_matern_kernel_for_other_smoothness() -> None:
    with pytest.raises(ValueError, match=r"nu was 1\.0"):
        true.matern(np.zeros((1, 1)), np.zeros((1, 1)), lengthscale=1.0, nu=1.0)
