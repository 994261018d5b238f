"""The laws of the four arithmetics in which one NumPy text is run: float64, stochastic, complex step, balls."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from typing import Any

import mpmath
import numpy as np
import pytest
from flint import arb
from hypothesis import given, settings
from hypothesis import strategies as st

from trueness.tools.arithmetic import balls, complex_step, counted, stochastic
from trueness.tools.arithmetic.balls import enclose
from trueness.tools.arithmetic.complex_step import directional_derivative
from trueness.tools.arithmetic.noise import Noise
from trueness.tools.arithmetic.stochastic import Stochastic

U = 2.0**-24
ETA = 2.0**-150
A = np.random.default_rng(0).standard_normal((5, 6))
B = np.random.default_rng(1).standard_normal((6, 4))
ZERO_D = np.array(0.75)

TEXTS: dict[str, Callable[..., Any]] = {
    "arithmetic": lambda a, b: (2 * a - 1) / (a * a + 3) ** 2 + -a,
    "elementary": lambda a, b: np.exp(a) + np.log(a * a + 1) - np.sqrt(a * a) * np.sin(a) + np.tanh(a) * np.cos(a),
    "matmul": lambda a, b: a @ b,
    "transposed matmul": lambda a, b: b.T @ a.T,
    "cumprod": lambda a, b: np.cumprod(a, axis=0),
    "cumsum": lambda a, b: np.cumsum(a, axis=1),
    "extremes": lambda a, b: (
        a.max() - np.min(a, axis=(0, 1)) + np.max(b, axis=-1, keepdims=True) + a.min(keepdims=True)
    ),
    "reductions": lambda a, b: np.sum(a, axis=0) + np.mean(b) + np.prod(a, axis=0) + np.max(a, axis=0) - a.min(),
    "variance": lambda a, b: np.mean((a - a.mean(axis=1, keepdims=True)) ** 2, axis=1) + b.mean(0).mean(),
    "one element": lambda a, b: a[1, 2] * b[0, 0] + a[-1][2] + np.sum(np.stack([row[0] for row in a])),
    "where": lambda a, b: np.where(a > 0, a, 2 * a),
    "maximum": lambda a, b: np.maximum(a, 0.1) - np.minimum(a, 0) + np.clip(a, -0.5, 0.5),
    "pad": lambda a, b: np.pad(a, 1)[1:, :-1] + np.pad(a, ((1, 0), (0, 1)), mode="reflect"),
    "between two ends": lambda a, b: a[0, 0] + (a[1, 1] - a[0, 0]) * np.linspace(0, 1, 7),
    "concatenate": lambda a, b: np.concatenate([a, b.T[:, :6]], axis=0) + np.stack([a[0], b[:, 0]])[:1],
    "softmax": lambda a, b: (
        np.exp(a - a.max(-1, keepdims=True)) / np.exp(a - a.max(-1, keepdims=True)).sum(-1)[:, None]
    ),
    "indexing": lambda a, b: a[[0, 2]][:, ::-1].reshape(-1)[3:] * np.take(b, 2) + np.swapaxes(a, 0, 1)[0, 0],
}


def noisy(x: Any, u: float, eta: float = 0.0, grain: int | None = 1, seed: int = 0) -> Stochastic:
    return stochastic.stochastic(x, u, eta, Noise(seed, grain))


def number(x: Any) -> float:
    return float(np.asarray(x))


# -- stochastic -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TEXTS)
def test_stochastic_at_u_zero_is_float64_bitwise(name: str) -> None:
    with np.errstate(all="ignore"):
        plain = TEXTS[name](A, B)
        moved = TEXTS[name](noisy(A, 0.0), noisy(B, 0.0))
    assert isinstance(moved, Stochastic)
    assert np.asarray(moved).tobytes() == np.asarray(plain).tobytes()


@pytest.mark.parametrize("name", TEXTS)
def test_stochastic_moves_every_text_by_about_u(name: str) -> None:
    plain = np.asarray(TEXTS[name](A, B))
    moved = np.asarray(TEXTS[name](noisy(A, U), noisy(B, U)))
    away = np.abs(moved - plain).max() / np.abs(plain).max()
    assert U / 4 < away < 40 * U


def test_zero_dimensions_stay_stochastic() -> None:
    x = noisy(ZERO_D, U)
    for y in (x * x, np.exp(x), x + 1, np.sum(noisy(A, U)), noisy(A, U).mean(), np.maximum(x, 0.5)):
        assert isinstance(y, Stochastic)
        assert y.shape == ()
        assert y.roundoff.u == U


@given(st.floats(-1e6, 1e6), st.integers(0, 2**16))
@settings(max_examples=30, derandomize=True, deadline=None, database=None)
def test_constants_are_perturbed(c: float, seed: int) -> None:
    """x·0 + c sees c alone, and c is an operand like any other."""
    y = number(noisy(ZERO_D, U, seed=seed) * 0 + c)
    assert y in (c * (1 + U), c * (1 - U))


def test_minus_infinity_masks_survive() -> None:
    scores = np.where(np.tri(4, dtype=bool), 1.5, -np.inf)
    x = noisy(scores, U, ETA)
    assert (np.asarray(x * 2) == scores * 2)[~np.tri(4, dtype=bool)].all()
    weights = np.asarray(np.exp(x - x.max(-1, keepdims=True)))
    assert (weights[~np.tri(4, dtype=bool)] == 0).all()
    assert np.isfinite(weights).all()


@pytest.mark.parametrize("grain", [1, 8, 64, None])
def test_a_grain_gives_one_sign_to_each_block(grain: int | None) -> None:
    moved = np.asarray(noisy(np.ones(256), U, grain=grain) * np.ones(256)) - 1  # two operands: −2, 0 or 2 times u
    assert set(np.round(moved / U)) <= {-2.0, 0.0, 2.0}
    blocks = moved.reshape(-1, grain or 256)
    assert (blocks == blocks[:, :1]).all()
    if grain is not None:
        assert len(np.unique(np.round(blocks[:, 0] / U))) > 1


def test_the_coarsest_u_wins_once_a_table_meets_data() -> None:
    table, data = noisy(np.linspace(0, 1, 50), 2.0**-53), noisy(np.ones(50), U)
    alone = np.asarray(np.cumprod(1 - table * 0.01))
    assert np.abs(alone / np.cumprod(1 - np.linspace(0, 1, 50) * 0.01) - 1).max() < 100 * 2.0**-53
    together: Any = table * data
    assert together.roundoff.u == U
    assert np.abs(np.asarray(together)[1:] / np.linspace(0, 1, 50)[1:] - 1).max() > U / 2
    mixed: list[Any] = [data * table, np.concatenate([table, data]), np.where(True, table, data)]
    assert [x.roundoff.u for x in mixed] == [U] * 3


@given(st.floats(-1e-140, 1e-140), st.integers(0, 2**16))
@settings(max_examples=50, derandomize=True, deadline=None, database=None)
def test_zeros_stay_zero_and_an_underflow_does_not_cross_it(x: float, seed: int) -> None:
    eta = 1e-141
    moved = number(noisy(x, U, eta, seed=seed) * 1)
    assert moved * x >= 0
    assert abs(moved - x) <= 2.1 * eta + 2.1 * U * abs(x)
    assert number(noisy(0.0, U, eta, seed=seed) + 0.0) == 0.0


def test_an_underflow_reaches_zero() -> None:
    assert {number(noisy(1e-150, U, 1e-149, seed=s) * 1) == 0.0 for s in range(20)} == {True, False}


def test_integers_and_comparisons_are_left_alone() -> None:
    x = noisy(A, U)
    assert np.array_equal(np.asarray(x > 0), A > 0)
    assert np.asarray(x == A).all() and not np.asarray(x > A).any()
    assert np.array_equal(np.asarray(np.isfinite(x)), np.isfinite(A))
    assert type(x > 0) is np.ndarray
    assert np.array_equal(np.asarray(np.argsort(x, axis=0)), np.argsort(A, axis=0))


@pytest.mark.parametrize(
    "write",
    [
        lambda x: x.__iadd__(1),
        lambda x: np.add.at(x, [0], 1.0),
        lambda x: np.exp(x, out=x),
        lambda x: np.multiply(x, 2, out=np.zeros(x.shape)),
    ],
)
def test_writing_in_place_is_refused(write: Callable[[Any], Any]) -> None:
    x = noisy(A, U)
    with pytest.raises(TypeError, match=r"^stochastic arithmetic: a reference may not use np\.\w+ in place\.$"):
        write(x)
    assert np.array_equal(np.asarray(x), A)


# -- complex step -----------------------------------------------------------------------------------------------------

FEW_ULP = 4 * 2.0**-52
CLOSED_FORMS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "exp": (np.exp, np.exp),
    "log": (np.log, lambda x: 1 / x),
    "sqrt": (np.sqrt, lambda x: 0.5 / np.sqrt(x)),
    "sin": (np.sin, np.cos),
    "tanh": (np.tanh, lambda x: 1 / np.cosh(x) ** 2),
    "cube": (lambda x: x**3, lambda x: 3 * x * x),
    "power": (lambda x: x**2.5, lambda x: 2.5 * x**1.5),
    "division": (lambda x: (x + 1) / (x * x + 1), lambda x: (1 - 2 * x - x * x) / (x * x + 1) ** 2),
    "reciprocal": (lambda x: 1 / x, lambda x: -1 / x**2),
    "maximum": (lambda x: np.maximum(x, 1.0), lambda x: np.where(x > 1, 1.0, 0.0)),
    "minimum": (lambda x: np.minimum(x, 1.0), lambda x: np.where(x < 1, 1.0, 0.0)),
    "clip": (lambda x: np.clip(x, 0.5, 2.0), lambda x: np.where((x > 0.5) & (x < 2), 1.0, 0.0)),
    "where": (lambda x: np.where(x > 1, x * x, x), lambda x: np.where(x > 1, 2 * x, 1.0)),
}
POINTS = np.array([0.1, 0.3, 0.7, 1.3, 1.9, 2.7, 5.1])


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_the_complex_step_is_the_closed_form(name: str) -> None:
    function, derivative = CLOSED_FORMS[name]
    (found,) = directional_derivative(function, [POINTS], [np.ones_like(POINTS)])
    wanted = derivative(POINTS)
    assert np.all(np.abs(found - wanted) <= 4 * FEW_ULP * np.abs(wanted))


@given(st.floats(-300, 300), st.floats(1e-3, 1e3))
@settings(max_examples=50, derandomize=True, deadline=None, database=None)
def test_the_complex_step_is_linear_in_its_direction(x: float, v: float) -> None:
    (found,) = directional_derivative(np.exp, [np.array(x)], [np.array(v)])
    assert abs(found - v * np.exp(x)) <= FEW_ULP * abs(v) * np.exp(x)


def dot_rounding(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """γ_n |A||B| of two products, each computed in its own order."""
    return 2 * (a.shape[1] + 1) * 2.0**-53 * (np.abs(a) @ np.abs(b))


def test_the_complex_step_of_products_and_sums() -> None:
    V, W = np.random.default_rng(2).standard_normal((5, 6)), np.random.default_rng(3).standard_normal((6, 4))
    (found,) = directional_derivative(lambda a, b: a @ b, [A, B], [V, None])
    assert (np.abs(found - V @ B) <= dot_rounding(V, B)).all()
    (found,) = directional_derivative(lambda a, b: a @ b, [A, B], [V, W])
    assert (np.abs(found - (V @ B + A @ W)) <= dot_rounding(V, B) + dot_rounding(A, W)).all()
    (found,) = directional_derivative(lambda a: np.cumprod(a, axis=0), [A], [V])
    wanted = [sum(V[k] * np.prod(np.delete(A[: i + 1], k, 0), 0) for k in range(i + 1)) for i in range(5)]
    terms = [sum(abs(V[k] * np.prod(np.delete(A[: i + 1], k, 0), 0)) for k in range(i + 1)) for i in range(5)]
    assert (np.abs(found - wanted) <= 2 * 5 * 2.0**-53 * np.array(terms)).all()
    (found,) = directional_derivative(lambda a: np.sum(a * a), [A], [V])
    assert abs(found - 2 * np.sum(A * V)) <= 2 * A.size * 2.0**-53 * 2 * np.sum(np.abs(A * V))
    outputs = directional_derivative(lambda a: (a * 2, np.max(a, axis=0)), [A], [V])
    assert np.allclose(outputs[0], 2 * V, rtol=1e-15, atol=0)
    assert np.allclose(outputs[1], np.take_along_axis(V, A.argmax(0)[None], 0)[0], rtol=1e-15, atol=0)


def test_a_function_that_does_not_depend_on_its_argument_has_no_derivative() -> None:
    (found,) = directional_derivative(lambda x: np.ones(3), [A], [A])
    assert np.array_equal(found, np.zeros(3))


@pytest.mark.parametrize(
    "function",
    [
        np.abs,
        np.sign,
        np.conjugate,
        np.absolute,
        np.floor,
        np.angle,
        np.hypot,
        lambda x: x.real,
        lambda x: x.imag,
        lambda x: np.real(x),
        lambda x: np.imag(x),
        lambda x: x.conj(),
        lambda x: abs(x),
        lambda x: np.linalg.norm(x),
        lambda x: np.vdot(x, x),
        lambda x: x.astype(float),
        lambda x: np.fmax(x, 0),
        lambda x: np.var(x),
    ],
)
def test_what_is_not_analytic_is_refused_with_a_sentence(function: Callable[..., Any]) -> None:
    arguments = [POINTS, POINTS] if function is np.hypot else [POINTS]
    with pytest.raises(TypeError, match=r"^complex step: .*\.$"):
        directional_derivative(function, arguments, [POINTS] * len(arguments))


# -- balls ------------------------------------------------------------------------------------------------------------

SMALL_A, SMALL_B = A[:3, :4], B[:4, :2]


@pytest.mark.parametrize("name", TEXTS)
def test_an_enclosure_holds_the_float64_value_and_the_true_one(name: str) -> None:
    a, b = (A, B) if name in ("concatenate", "indexing") else (SMALL_A, SMALL_B)
    plain = np.asarray(TEXTS[name](a, b))
    (loose,) = enclose(TEXTS[name], [a, b], bits=53, widen=2.0**-53)
    (exact,) = enclose(TEXTS[name], [a, b], bits=256)
    assert loose.shape == exact.shape == plain.shape
    for at in np.ndindex(plain.shape):
        assert loose[at].contains(arb(float(plain[at])))
        assert loose[at].contains(exact[at])
        assert float(exact[at].rad()) <= 1e-60 * max(abs(float(exact[at].mid())), 1e-12)
        assert float(loose[at].rad()) <= 1e-12 * max(1.0, np.abs(plain).max())


CONSTANTS: dict[str, tuple[Callable[[Any], Any], float, Callable[[], Any]]] = {
    "e": (np.exp, 1.0, lambda: mpmath.e),
    "log 2": (np.log, 2.0, lambda: mpmath.log(2)),
    "√2": (np.sqrt, 2.0, lambda: mpmath.sqrt(2)),
    "sin 1": (np.sin, 1.0, lambda: mpmath.sin(1)),
    "sinh 1": (np.sinh, 1.0, lambda: mpmath.sinh(1)),
    "1/3": (lambda x: 1 / x, 3.0, lambda: mpmath.mpf(1) / 3),
    "2^0.3": (lambda x: x**0.3, 2.0, lambda: mpmath.power(2, 0.3)),
    "tanh ½": (np.tanh, 0.5, lambda: mpmath.tanh(0.5)),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_balls_certify_known_constants(name: str) -> None:
    function, at, constant = CONSTANTS[name]
    with mpmath.workdps(90), balls.working_precision(256):
        known = arb(mpmath.nstr(constant(), 80))
    (ball,) = enclose(function, [np.array(at)], bits=256)
    (loose,) = enclose(function, [np.array(at)], bits=53, widen=2.0**-53)
    with balls.working_precision(256):
        assert float(abs(ball[()] - known).upper()) < 1e-60
        assert loose[()].contains(known)
    assert loose[()].contains(arb(float(function(np.array(at)))))


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=6), st.integers(0, 3))
@settings(max_examples=60, derandomize=True, deadline=None, database=None)
def test_a_wide_ball_holds_the_sums_and_products_of_every_order(values: list[float], kind: int) -> None:
    """Cancellation, growth with the number of terms: any order of float64 operations lands in the ball."""
    function = (np.sum, np.cumsum, np.cumprod, lambda x: x[None] @ x[:, None])[kind]
    (ball,) = enclose(function, [np.array(values)], bits=53, widen=2.0**-53)
    backwards = np.array(values)[::-1] if kind in (0, 3) else np.array(values)
    for order in (np.array(values), backwards):
        plain = np.asarray(function(order))
        assert all(ball[at].contains(arb(float(plain[at]))) for at in np.ndindex(plain.shape))


@pytest.mark.parametrize(
    "function", [np.sum, lambda x: x[None] @ np.ones((3, 1)), lambda x: np.ones((1, 3)) @ x[:, None]]
)
@pytest.mark.parametrize("scale", [1e16, 3e15])
def test_a_ball_grows_with_the_terms_and_not_with_what_is_left_of_them(scale: float, function: Any) -> None:
    """s − s + 1 is exact in this order; in another one the 1 is lost."""
    (ball,) = enclose(function, [np.array([scale, -scale, 1.0])], bits=53, widen=2.0**-53)
    for order in permutations([scale, -scale, 1.0]):
        assert np.ravel(ball)[0].contains(arb((order[0] + order[1]) + order[2]))
    (sure,) = enclose(function, [np.array([1.0, 2.0, 4.0])], bits=53, widen=2.0**-53)
    assert 0 < float(np.ravel(sure)[0].rad()) < 1000 * 2.0**-53


@given(st.floats(-10, 10), st.floats(-10, 10), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=60, derandomize=True, deadline=None, database=None)
def test_maximum_minimum_and_clip_hold_every_choice_of_overlapping_balls(
    x: float, y: float, r: float, s: float
) -> None:
    one, other = (balls.wrap(np.array(arb(m, w), dtype=object), 0.0, 0.0, ()) for m, w in ((x, r), (y, s)))
    slack = arb(0, 1e-14)
    for a in (x - r, x, x + r):
        for b in (y - s, y, y + s):
            assert (np.asarray(np.maximum(one, other))[()] + slack).contains(arb(max(a, b)))
            assert (np.asarray(np.minimum(one, other))[()] + slack).contains(arb(min(a, b)))
        assert (np.asarray(np.clip(one, -1.0, 1.0))[()] + slack).contains(arb(min(max(a, -1.0), 1.0)))


def test_a_comparison_that_is_open_is_refused() -> None:
    wide = balls.wrap(np.array([arb(1, 0.5), arb(3)], dtype=object), 0.0, 0.0, ())
    assert list(wide < 2) == [True, False]
    assert list(wide == np.array([5.0, 3.0])) == [False, True]
    with pytest.raises(ArithmeticError, match=r"^ball arithmetic: .* overlap, so np\.greater cannot be decided\.$"):
        np.where(wide > 1.2, wide, 0)


def test_the_working_precision_is_given_back() -> None:
    from flint import ctx

    before = ctx.prec
    with pytest.raises(ZeroDivisionError):
        enclose(lambda x: 1 // 0, [A], bits=300)
    assert ctx.prec == before


def test_integers_and_strings_pass_through_balls() -> None:
    (found,) = enclose(lambda x, t, name: x[t] if name == "take" else x, [POINTS, np.array([0, 2]), "take"], bits=53)
    assert [float(b.mid()) for b in found] == [0.1, 0.7]


# -- what gets past none of them --------------------------------------------------------------------------------------


def in_stochastic(function: Callable[..., Any]) -> Any:
    return function(noisy(A, U), noisy(B, U))


def in_complex_step(function: Callable[..., Any]) -> Any:
    return directional_derivative(function, [A, B], [A, B])


def in_balls(function: Callable[..., Any]) -> Any:
    return enclose(function, [A, B], bits=53)


RUNS = (in_stochastic, in_complex_step, in_balls)
PAST = {
    "dot": lambda a, b: np.dot(a, b),
    "the method dot": lambda a, b: a.dot(b),
    "einsum": lambda a, b: np.einsum("ij,jk->ik", a, b),
    "vdot": lambda a, b: np.vdot(a, a),
    "norm": lambda a, b: np.linalg.norm(a),
    "solve": lambda a, b: np.linalg.solve(a[:4, :4], b[:4]),
    "fft": lambda a, b: np.fft.fft(a),
    "linspace": lambda a, b: np.linspace(a[0, 0], a[1, 1], 7),
    "var": lambda a, b: np.var(a),
    "float": lambda a, b: float(a[0, 0]) * b,
    "in place": lambda a, b: np.multiply(a, 2, out=np.zeros(a.shape)),
    "augmented": lambda a, b: a.__iadd__(1),
}


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.__name__)
@pytest.mark.parametrize("name", PAST)
def test_what_numpy_computes_past_an_arithmetic_is_refused(name: str, run: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=r"^(stochastic arithmetic|complex step|ball arithmetic): .*\.$"):
        run(PAST[name])


def test_one_element_stays_in_its_arithmetic() -> None:
    x = noisy(A, U)
    for element in (x[0, 0], x[0][0], next(iter(x[0])), x[..., 0][0], x[x > 0][0], x.flat[0:1][0]):
        assert isinstance(element, Stochastic) and element.roundoff.u == U
    with pytest.raises(TypeError, match="is not analytic"):
        directional_derivative(lambda a: np.abs(a[0]), [POINTS], [POINTS])


# -- all four ---------------------------------------------------------------------------------------------------------


@given(
    st.integers(0, 2**16),
    st.sampled_from(sorted(set(TEXTS) - {"between two ends", "indexing", "concatenate", "pad", "one element"})),
)
@settings(max_examples=25, derandomize=True, deadline=None, database=None)
def test_the_four_agree_about_one_text(seed: int, name: str) -> None:
    generator = np.random.default_rng(seed)
    a, b = generator.standard_normal((2, 3)), generator.standard_normal((3, 2))
    v = generator.standard_normal((2, 3))
    plain = np.asarray(TEXTS[name](a, b))
    (ball,) = enclose(TEXTS[name], [a, b], bits=53, widen=2.0**-53)
    assert all(ball[at].contains(arb(float(plain[at]))) for at in np.ndindex(plain.shape))
    h = 1e-6
    (slope,) = directional_derivative(TEXTS[name], [a, b], [v, None])
    difference = (np.asarray(TEXTS[name](a + h * v, b)) - np.asarray(TEXTS[name](a - h * v, b))) / (2 * h)
    assert np.allclose(slope, difference, rtol=1e-4, atol=1e-4 * max(1.0, np.abs(plain).max()))
    moved = np.asarray(TEXTS[name](noisy(a, U), noisy(b, U)))
    assert np.allclose(moved, plain, rtol=1e-4, atol=1e-4 * max(1.0, np.abs(plain).max()))


def test_each_arithmetic_is_a_small_file() -> None:
    """Code without docstrings, comments and blank lines."""
    import ast
    from pathlib import Path

    for made in (stochastic, counted, complex_step, balls):
        text = Path(str(made.__file__)).read_text("utf-8")
        prose: set[int] = set()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                prose |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        lines = [t for k, t in enumerate(text.splitlines(), 1) if k not in prose and t.strip() and t.strip()[0] != "#"]
        assert len(lines) <= 80, (made.__name__, len(lines))
