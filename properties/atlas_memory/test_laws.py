"""Laws of the family atlas_memory beside the identity table: features, Newton–Schulz, and what the Omega rule keeps."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.special
import torch
from hypothesis import strategies as st
from torch.optim import _muon

from trueness.properties.atlas_memory.flat import MLP
from trueness.properties.atlas_memory.flat import optimized as fast
from trueness.properties.atlas_memory.flat import reference as true
from trueness.properties.atlas_memory.problems import (
    F64,
    Problem,
    allowed,
    assert_equal_within,
    assert_same,
    both,
    carried,
    changed,
    chunks,
    given,
    mlp_problem,
    objectives,
    ours,
    places,
    problem,
    seeds,
    sizes,
    tokens,
)
from trueness.tools.arithmetic.bounds import LIMITS, bounds
from trueness.tools.arithmetic.formats import precision, round_to

Sizes = dict[str, int]
Function = Callable[..., Any]
JORDAN = true.JORDAN
degrees = st.integers(0, 5)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def orthogonal(seed: int, n: int) -> np.ndarray:
    return np.asarray(np.linalg.qr(normal(seed, n, n))[0])


# -- coefficients and weights -----------------------------------------------------------------------------------------


@both("taylor_coefficients")
@given(degree=st.integers(0, 20))
def test_a_taylor_coefficient_is_the_one_before_it_over_its_index(function: Function, degree: int) -> None:
    a = function(degree)
    assert a.shape == (degree + 1,) and a[0] == 1
    assert (np.abs(a[1:] * np.arange(1, degree + 1) - a[:-1]) <= 3 * F64.u * a[:-1]).all()


@both("window_weights")
@given(window=st.integers(1, 64), decay=st.floats(0, 2))
def test_window_weights_are_positive_fall_with_age_and_sum_to_one(
    function: Function, window: int, decay: float
) -> None:
    weights = function(window, decay)
    assert weights.shape == (window,) and (weights > 0).all()
    assert abs(math.fsum(weights) - 1) <= (window + 2) * F64.u
    roundings = (6 + 2 * decay * np.arange(1, window)) * F64.u  # those of the exponent count as often as it is large
    assert (np.abs(weights[1:] - weights[:-1] * math.exp(-decay)) <= roundings * weights[:-1]).all()


# -- the elementwise map ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["elementwise_features", "tensor_features"])
@pytest.mark.parametrize("run", [lambda name: getattr(true, name), ours], ids=["reference", "ours"])
@given(seed=seeds, shape=st.lists(st.integers(1, 3), min_size=1, max_size=4), degree=st.integers(0, 3))
def test_features_act_on_the_last_axis_alone(run: Any, name: str, seed: int, shape: list[int], degree: int) -> None:
    x = normal(seed, *shape)
    rest = (true.taylor_coefficients(degree), 10.0) if name == "elementwise_features" else (degree,)
    whole = run(name)(x, *rest)
    flat = run(name)(x.reshape(-1, shape[-1]), *rest)
    assert np.array_equal(whole.reshape(flat.shape), flat)
    each = np.stack([run(name)(row, *rest) for row in x.reshape(-1, shape[-1])])
    assert np.array_equal(flat, each)


@both("elementwise_features")
@given(seed=seeds, d=st.integers(1, 6), degree=degrees, clamp=st.floats(0.5, 10))
def test_no_feature_is_larger_than_the_clamps_power_over_the_factorial(
    function: Function, seed: int, d: int, degree: int, clamp: float
) -> None:
    phi = function(100 * normal(seed, d), true.taylor_coefficients(degree), clamp)
    assert phi.shape == ((degree + 1) * d,)
    top = [clamp**i / math.factorial(i) * (1 + (i + 2) * F64.u) for i in range(degree + 1)]
    assert (np.abs(phi) <= np.repeat(top, d)).all()


def slope(name: str, x: np.ndarray, *arguments: Any) -> np.ndarray:
    """Σ of every feature's derivative: the reference's vjp and our autograd."""
    if name == "reference":
        cotangent = np.ones(true.elementwise_features(x, *arguments).shape)
        return np.asarray(true.elementwise_features_vjp(cotangent, x, *arguments)[0])
    leaf = torch.from_numpy(x.copy()).requires_grad_()
    natives = [torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in arguments]
    fast.elementwise_features(leaf, *natives).sum().backward()
    assert leaf.grad is not None
    return leaf.grad.numpy()


@pytest.mark.parametrize("name", ["reference", "ours"])
@given(seed=seeds, degree=st.integers(1, 5), clamp=st.floats(0.5, 2))
def test_nothing_is_learned_beyond_the_clamp(name: str, seed: int, degree: int, clamp: float) -> None:
    x = 3 * normal(seed, 8)
    a = true.taylor_coefficients(degree)
    found = slope(name, x, a, clamp)
    inside = np.abs(x) <= clamp
    assert (found[~inside] == 0).all()
    terms = np.stack([i * a[i] * x ** (i - 1) for i in range(1, degree + 1)])
    roundings = 4 * degree * F64.u * np.abs(terms).sum(0)
    assert (np.abs(found - terms.sum(0)) <= roundings)[inside].all()


@both("elementwise_features")
@given(seed=seeds, d=st.integers(1, 3), degree=st.integers(1, 3))
def test_the_constant_block_has_width_d_and_rank_one(function: Function, seed: int, d: int, degree: int) -> None:
    """(p + 1) d features of rank 1 + p d: the d constants hold what one would."""
    x = np.random.default_rng(seed).uniform(-1, 1, (40, d))
    phi = function(x, np.ones(degree + 1), 10.0)
    assert phi.shape == (40, (degree + 1) * d)
    assert np.linalg.matrix_rank(phi) == 1 + degree * d


@pytest.mark.parametrize("optimizer", ["gd", "muon"])
@both("omega")
@given(seed=seeds, chunk=chunks, D=st.integers(1, 3))
def test_d_equal_constants_are_one_feature_of_weight_root_d(
    function: Function, optimizer: str, seed: int, chunk: int, D: int
) -> None:
    """Exact for a linear memory: only inner products of features count, also within Newton–Schulz."""
    size = {"B": 1, "T": 5, "H": 1, "P": 2 * D, "V": 2, "c": 2}
    p = problem(seed, size, chunk_size=chunk, optimizer=optimizer, memory=0, momentum=0, k_window=0, v_window=0)
    block = p | {x: np.concatenate([np.full_like(p[x][..., :D], 0.25), p[x][..., D:]], axis=-1) for x in "qk"}

    def single(x: np.ndarray) -> np.ndarray:
        return np.concatenate([math.sqrt(D) * x[..., :1], x[..., D:]], axis=-1)

    one = block | {x: single(block[x]) for x in "qk"}
    one |= {x: block[x][:, :, : D + 1] for x in ("memory", "momentum")} | {"k_window": block["k_window"][..., : D + 1]}
    out = function(*block.values())[:1]
    assert_equal_within(function(*one.values())[:1], out, "omega", list(block.values()))


def rest_of_series(z: np.ndarray, start: int, power: int) -> float:
    """A bound of Σ_d Σ_{i ≥ start} |z_d|^i/(i!)^power: its first term times e^|z|"""
    z = np.abs(z)
    return float(np.sum(z**start / math.factorial(start) ** power * np.exp(z)))


@both("elementwise_features")
@given(seed=seeds, d=st.integers(1, 5), positive=st.booleans())
def test_with_reciprocal_factorials_the_elementwise_kernel_is_a_sum_of_bessel_functions(
    function: Function, seed: int, d: int, positive: bool
) -> None:
    """Σ_d 0F1(; 1; q_d k_d), which is Σ_d I_0(2√(q_d k_d)) where no product is negative; scipy has both."""
    q, k = np.random.default_rng(seed).uniform(0 if positive else -1.5, 1.5, (2, d))
    degree = 12
    a = true.taylor_coefficients(degree)
    kernel = function(q, a, 10.0) @ function(k, a, 10.0)
    scale = float(np.sum(scipy.special.hyp0f1(1.0, np.abs(q * k))))
    within = rest_of_series(q * k, degree + 1, 2) + ((degree + 1) * d + 32) * F64.u * scale
    assert abs(kernel - np.sum(scipy.special.hyp0f1(1.0, q * k))) <= within
    if positive:
        assert abs(kernel - np.sum(scipy.special.i0(2 * np.sqrt(q * k)))) <= within


@both("elementwise_features")
@given(seed=seeds, d=st.integers(1, 5))
def test_with_their_roots_it_is_a_sum_of_exponentials(function: Function, seed: int, d: int) -> None:
    q, k = np.random.default_rng(seed).uniform(-1.5, 1.5, (2, d))
    degree = 25
    a = np.sqrt(true.taylor_coefficients(degree))
    kernel = function(q, a, 10.0) @ function(k, a, 10.0)
    roundings = ((degree + 1) * d + 4 * degree) * F64.u * np.sum(np.exp(np.abs(q * k)))
    assert abs(kernel - np.sum(np.exp(q * k))) <= rest_of_series(q * k, degree + 1, 1) + roundings


@both("elementwise_features")
def test_the_golden_features_of_degree_three(function: Function) -> None:
    golden = [1, 1, 1, 0.5, -2, 10, 0.125, 2, 50, 1 / 48, -4 / 3, 166.6666666666667]
    found = function(np.array([0.5, -2.0, 11.0]), true.taylor_coefficients(3), 10.0)
    assert (np.abs(found - golden) <= 4 * F64.u * np.abs(golden)).all()


# -- the tensor map ---------------------------------------------------------------------------------------------------


@both("tensor_features")
@given(seed=seeds, d=st.integers(1, 3), degree=st.integers(0, 8))
def test_the_tensor_kernel_is_the_exponential_series_of_the_inner_product(
    function: Function, seed: int, d: int, degree: int
) -> None:
    """φ*(q)·φ*(k) = Σ_{i ≤ p} (q·k)^i/i!, and exp(q·k) but for the rest of that series."""
    q, k = np.random.default_rng(seed).uniform(-0.7, 0.7, (2, d))
    phi = function(q, degree)
    assert phi.shape == (sum(d**i for i in range(degree + 1)),)
    kernel, s = phi @ function(k, degree), float(q @ k)
    roundings = (phi.size + 4 * degree + 8) * F64.u * math.exp(float(np.abs(q) @ np.abs(k)))
    assert abs(kernel - math.fsum(s**i / math.factorial(i) for i in range(degree + 1))) <= roundings
    assert abs(kernel - math.exp(s)) <= rest_of_series(np.array([s]), degree + 1, 1) + roundings


# -- Newton–Schulz ----------------------------------------------------------------------------------------------------


def quintic(s: np.ndarray, coefficients: Any) -> np.ndarray:
    """What the steps do to a singular value."""
    for a, b, c in coefficients:
        s = s * (a + s * s * (b + c * s * s))
    return s


@cache
def landing(smallest: float) -> tuple[float, float]:
    """Where five steps of JORDAN take singular values from ``smallest`` to 1.

    A geometric grid, so fine that between two points the input moves by 2e-6 of itself, and the slope is at most
    a⁵ = 484.9: the ends are right to 484.9 · 0.02 · 2e-6 = 2e-5 where the polynomial is steep, and far better where an
    end is an extremum.
    """
    s = quintic(np.geomspace(smallest, 1, 4_000_001), JORDAN)
    return float(s.min()), float(s.max())


def matrix(seed: int, rows: int, columns: int, smallest: float) -> np.ndarray:
    """Of full rank, Frobenius norm 1, no singular value below ``smallest``."""
    n = min(rows, columns)
    sigma = np.exp(np.random.default_rng(seed).uniform(math.log(smallest), 0, n))
    sigma = np.maximum(sigma / np.linalg.norm(sigma), smallest)
    return orthogonal(seed + 1, rows)[:, :n] * sigma @ orthogonal(seed + 2, columns)[:n]


schulz = both("newton_schulz")
rows = st.integers(1, 5)
SCHULZ = {"JORDAN": JORDAN, "CLASSICAL": true.CLASSICAL[:5]}
polynomials = st.sampled_from(tuple(SCHULZ)).map(SCHULZ.__getitem__)


@schulz
@given(seed=seeds, r=rows, c=rows, coefficients=polynomials)
def test_newton_schulz_sends_singular_values_through_its_polynomials_and_keeps_the_vectors(
    function: Function, seed: int, r: int, c: int, coefficients: Any
) -> None:
    g = normal(seed, r, c)
    left, sigma, right = np.linalg.svd(g, full_matrices=False)
    want = left * quintic(sigma / (np.sqrt(np.sum(sigma * sigma)) + 1e-7), coefficients) @ right
    assert_equal_within([want], [function(g, coefficients, 1e-7)], "newton_schulz", [g, coefficients, 1e-7])


@schulz
@given(seed=seeds, r=rows, c=rows, k=st.integers(-40, 40), factor=st.floats(0.01, 100))
def test_newton_schulz_does_not_see_the_scale(
    function: Function, seed: int, r: int, c: int, k: int, factor: float
) -> None:
    """Bit for bit at powers of two; ε = 0, for it alone does see the scale."""
    g = normal(seed, r, c)
    plain = function(g, JORDAN, 0.0)
    assert np.array_equal(function(2.0**k * g, JORDAN, 0.0), plain)
    assert np.array_equal(function(-g, JORDAN, 0.0), -plain)
    assert_equal_within([plain], [function(factor * g, JORDAN, 0.0)], "newton_schulz", [g, JORDAN, 0.0])


@schulz
@given(seed=seeds, r=rows, c=rows)
def test_newton_schulz_of_the_transpose_is_the_transpose(function: Function, seed: int, r: int, c: int) -> None:
    g = normal(seed, 2, r, c)
    turned = function(np.swapaxes(g, -1, -2).copy(), JORDAN, 1e-7)
    assert_equal_within([function(g, JORDAN, 1e-7)], [np.swapaxes(turned, -1, -2)], "newton_schulz", [g, JORDAN, 1e-7])


@schulz
@given(seed=seeds, r=rows, c=rows)
def test_newton_schulz_turns_with_its_argument(function: Function, seed: int, r: int, c: int) -> None:
    """NS(Q G R) = Q NS(G) R for orthogonal Q and R"""
    g, Q, R = normal(seed, r, c), orthogonal(seed + 1, r), orthogonal(seed + 2, c)
    want = Q @ function(g, JORDAN, 1e-7) @ R
    assert_equal_within([want], [function(Q @ g @ R, JORDAN, 1e-7)], "newton_schulz", [Q @ g @ R, JORDAN, 1e-7])


@pytest.mark.parametrize("smallest, interval", [(6e-3, "0.6818 1.1344"), (3e-3, "0.6818 1.2024")])
@schulz
@given(seed=seeds, r=rows, c=rows)
def test_singular_values_land_near_one(
    function: Function, smallest: float, interval: str, seed: int, r: int, c: int
) -> None:
    """[0.68, 1.13] from 0.0052 on; from 0.002 to there they pass the polynomial's top in the last step, 1.2024."""
    low, high = landing(smallest)
    assert f"{low:.4f} {high:.4f}" == interval
    g = matrix(seed, r, c, smallest)
    sigma = np.linalg.svd(g, compute_uv=False)
    bound = allowed("newton_schulz", [g, JORDAN, 0.0], max(r, c))[0]
    off = LIMITS["eager"] * float(np.linalg.norm(bound.B))  # Weyl: no singular value moves by more than the matrix
    found = np.linalg.svd(function(g, JORDAN, 0.0), compute_uv=False)[sigma >= smallest * np.linalg.norm(sigma)]
    assert found.size
    assert (found >= low - off).all() and (found <= high + off).all()


def test_jordans_polynomial_at_one_and_its_slope_at_zero() -> None:
    (a, b, c), *rest = JORDAN
    assert rest == [JORDAN[0]] * 4
    assert abs(a + b + c - 0.701) <= 4 * F64.u * (a - b + c)
    assert round(a**5, 1) == 484.9
    assert abs(quintic(np.array(1.0), JORDAN) - 0.6964364094697522) <= 5 * 7 * F64.u * a


@schulz
@given(seed=seeds, r=rows, c=rows)
def test_the_classical_coefficients_lead_to_the_polar_factor_and_jordans_do_not(
    function: Function, seed: int, r: int, c: int
) -> None:
    """scipy.linalg.polar. From 0.1 on a dozen steps of (15/8, −5/4, 3/8) reach 1 to the last digits."""
    g = matrix(seed, r, c, 0.1)
    polar = scipy.linalg.polar(g)[0]
    sigma = np.linalg.svd(g, compute_uv=False)
    left = np.abs(quintic(sigma / np.linalg.norm(sigma), true.CLASSICAL) - 1).max()
    condition = float(sigma[0] / sigma[-1])
    roundings = 64 * len(true.CLASSICAL) * max(r, c) * condition * F64.u
    assert left <= roundings, "the polynomial itself has arrived"
    assert np.abs(function(g, true.CLASSICAL, 0.0) - polar).max() <= left + roundings
    spectrum = np.diag(np.linspace(0.05, 1, 12))
    for steps in (5, 10, 20, 50):
        singular = np.linalg.svd(function(spectrum, JORDAN[:1] * steps, 0.0), compute_uv=False)
        assert 0.25 < np.abs(singular - 1).max() < 0.33


@schulz
@given(seed=seeds, r=st.integers(1, 8), c=st.integers(1, 8))
def test_torchs_muon_computes_the_same_in_bfloat16(function: Function, seed: int, r: int, c: int) -> None:
    """torch.optim._muon divides by max(‖G‖, ε) and not by ‖G‖ + ε, and rounds every step to bfloat16."""
    g = round_to(matrix(seed, r, c, 0.1), "bfloat16")
    fmt = precision("bfloat16")
    peer = _muon._zeropower_via_newtonschulz(torch.from_numpy(g), JORDAN[0], 5, 1e-7).double().numpy()
    bound = bounds(true.newton_schulz, [g, JORDAN, 1e-7], [fmt.u, 0.0, 0.0], fmt, max(r, c))[0]
    assert bound.ratio(peer).max() <= LIMITS["eager"]
    assert bound.ratio(function(g, JORDAN, 1e-7)).max() <= LIMITS["fused"]


@pytest.mark.parametrize("n", [16, 64])
def test_a_matrix_of_rank_one_needs_float32_whatever_its_own_format(n: int) -> None:
    """Small integers, exact in bfloat16. The noise of a step, n roundings, grows a⁵-fold in the null space: ours are
    float32's; torch.optim._muon's are bfloat16's, and more than half of its result is noise."""
    generator = np.random.default_rng(n)
    g = np.outer(generator.integers(1, 8, n), generator.integers(1, 8, n)).astype(float)
    truth = true.newton_schulz(g, JORDAN, 1e-7)

    def error(found: torch.Tensor) -> float:
        return float(np.linalg.norm(found.double().numpy() - truth) / np.linalg.norm(truth))

    half = torch.from_numpy(g).bfloat16()
    noise = n * JORDAN[0][0] ** 5
    assert error(fast.newton_schulz(half, JORDAN, 1e-7)) <= precision("bfloat16").u + noise * precision("float32").u
    assert error(_muon._zeropower_via_newtonschulz(half, JORDAN[0], 5, 1e-7)) > 0.5


@schulz
def test_the_golden_matrix_of_newton_schulz(function: Function) -> None:
    g = np.array([[1.0, 2, 3], [4, 5, 6]])
    golden = np.array(
        [
            [-0.5682900920894468, 0.05774194327350807, 0.6837739786364625],
            [0.5633546843416668, 0.4056128235639833, 0.24787096278629894],
        ]
    )
    found = function(g, JORDAN, 1e-7)
    bound = allowed("newton_schulz", [g, JORDAN, 1e-7], 3)[0]
    eps = np.abs(true.newton_schulz(g, JORDAN, 1e-7) - true.newton_schulz(g, JORDAN, 0.0))
    assert (np.abs(found - golden) <= LIMITS["eager"] * bound.B + eps).all()
    sigma = np.linalg.svd(found, compute_uv=False)
    assert [round(s, 6) for s in sigma] == [0.920395, 0.700027]
    polar = [
        [-0.5777918268249782, 0.11511669510440317, 0.8080252170337845],
        [0.7067460209916911, 0.5657574390510242, 0.4247688571103573],
    ]
    condition = float(np.linalg.cond(g))
    assert np.abs(function(g, true.CLASSICAL, 0.0) - polar).max() <= 64 * 12 * 3 * condition * F64.u


@schulz
def test_newton_schulz_of_nothing_is_nothing(function: Function) -> None:
    assert np.array_equal(function(np.zeros((2, 3)), JORDAN, 1e-8), np.zeros((2, 3)))


# -- the Omega rule ---------------------------------------------------------------------------------------------------


omega = both("omega")
OPTIMIZERS = st.sampled_from(("gd", "muon"))


def call(function: Function, p: Problem) -> tuple[np.ndarray, ...]:
    return function(*p.values())


def is_now(p: Problem, want: Any, function: Function) -> None:
    out = call(function, p)
    assert_equal_within(want, out[: len(want)], "omega", list(p.values()))


def autograd_loop(p: Problem, loss: Function, matrices: tuple[str, ...], momenta: tuple[str, ...]) -> list[np.ndarray]:
    """The recurrence with torch's gradient of the window's loss: nobody wrote a derivative."""
    given = {name: torch.from_numpy(x) if isinstance(x, np.ndarray) else x for name, x in p.items()}
    keys, values = (torch.cat([given[f"{x}_window"], given[x]], 1) for x in "kv")
    weights, state = [given[m] for m in matrices], [given[m] for m in momenta]
    c = p["gamma"].shape[-1]
    for t in range(p["q"].shape[1]):
        if t % p["chunk_size"] == 0:
            start = [w.clone().requires_grad_() for w in weights]
        total = torch.zeros((), dtype=torch.float64)
        for j in range(c):
            at = c - 1 + t - j
            total = total + (given["gamma"][:, t, :, j] * loss(start, keys[:, at], values[:, at])).sum()
        found = torch.autograd.grad(total, start, allow_unused=False)
        alpha, eta, theta = (given[x][:, t, :, None, None] for x in ("alpha", "eta", "theta"))
        into, out = (eta, 1) if p["lr_inside_momentum"] else (1, eta)
        state = [theta * s + into * g for s, g in zip(state, found, strict=True)]
        weights = [alpha * w - out * s for w, s in zip(weights, state, strict=True)]
    return [x.numpy() for x in (*weights, *state)]


def linear_loss(start: list[torch.Tensor], k: torch.Tensor, v: torch.Tensor, dot: bool) -> torch.Tensor:
    predicted = (k[..., None, :] @ start[0])[..., 0, :]
    return -(predicted * v).sum(-1) if dot else 0.5 * ((predicted - v) ** 2).sum(-1)


@omega
@given(seed=seeds, size=sizes, chunk=chunks, objective=objectives, inside=places)
def test_the_written_gradient_is_autograds_gradient_of_the_windows_loss(
    function: Function, seed: int, size: Sizes, chunk: int, objective: str, inside: bool
) -> None:
    p = problem(seed, size, chunk_size=chunk, objective=objective, lr_inside_momentum=inside)
    want = autograd_loop(p, lambda *a: linear_loss(*a, objective == "dot"), ("memory",), ("momentum",))
    out = call(function, p)
    assert_equal_within([out[0], *want], out, "omega", list(p.values()))


@omega
@given(seed=seeds, size=sizes)
def test_without_steps_the_memory_decays_and_is_read(function: Function, seed: int, size: Sizes) -> None:
    p = problem(seed, size, eta=0)
    decayed = np.cumprod(p["alpha"], axis=1)[..., None, None] * p["memory"][:, None]
    is_now(p, [np.einsum("bthp,bthpv->bthv", p["q"], decayed), decayed[:, -1]], function)


@omega
@given(seed=seeds, size=sizes)
def test_one_hot_keys_recall_the_last_value_stored_under_them(function: Function, seed: int, size: Sizes) -> None:
    """η = 1, c = 1 and small integers: exact."""
    p = problem(seed, size | {"c": 1}, alpha=1, eta=1, theta=0, gamma=1, memory=0, momentum=0)
    which = np.random.default_rng(seed).integers(0, size["P"], p["k"].shape[:3])
    p |= {"k": np.eye(size["P"])[which], "q": np.eye(size["P"])[which], "v": np.rint(4 * p["v"])}
    out, memory, _ = call(function, p)
    assert np.array_equal(out, p["v"])
    for b, h in np.ndindex(size["B"], size["H"]):
        last = {int(i): t for t, i in enumerate(which[b, :, h])}
        for i in range(size["P"]):
            wanted = p["v"][b, last[i], h] if i in last else np.zeros(size["V"])
            assert np.array_equal(memory[b, h, i], wanted)


@omega
@given(seed=seeds, size=sizes, chunk=chunks, optimizer=OPTIMIZERS)
def test_a_read_before_the_update_is_what_the_token_before_would_have_read(
    function: Function, seed: int, size: Sizes, chunk: int, optimizer: str
) -> None:
    p = problem(seed, size | {"T": size["T"] + 1}, chunk_size=chunk, optimizer=optimizer, read_before_update=True)
    later = p | {"q": np.concatenate([p["q"][:, 1:], p["q"][:, :1]], axis=1), "read_before_update": False}
    before = call(function, p)
    bound = allowed("omega", list(p.values()), size["P"] + size["c"])[0]
    found, wanted = before[0][:, 1:], call(function, later)[0][:, :-1]
    assert (np.abs(found - wanted) <= 2 * LIMITS["eager"] * bound.B[:, 1:]).all()
    first = np.einsum("bhp,bhpv->bhv", p["q"][:, 0], p["memory"])
    assert (np.abs(before[0][:, 0] - first) <= 2 * LIMITS["eager"] * bound.B[:, 0]).all()


@omega
@given(seed=seeds, size=sizes, chunk=chunks, eta=st.floats(0.05, 0.5))
def test_where_a_constant_step_stands_does_not_matter_to_gradient_descent(
    function: Function, seed: int, size: Sizes, chunk: int, eta: float
) -> None:
    """Outer: M ← α M − η S. Inner: S holds η g. A momentum to start from is scaled along."""
    p = problem(seed, size, chunk_size=chunk, eta=eta)
    inner = p | {"lr_inside_momentum": True, "momentum": eta * p["momentum"]}
    out, memory, momentum = call(function, inner)
    is_now(p, [out, memory, momentum / eta], function)


@omega
@given(seed=seeds, size=sizes, chunk=chunks, k=st.integers(-3, 3))
def test_a_constant_step_inside_newton_schulz_does_nothing(
    function: Function, seed: int, size: Sizes, chunk: int, k: int
) -> None:
    """The paper's eq. 57-58: NS(η S) = NS(S). Powers of two, and an ε that is nothing beside them."""
    p = problem(seed, size, chunk_size=chunk, eta=1, optimizer="muon", lr_inside_momentum=True, momentum=0)
    scaled = changed(p, eta=2.0**k)
    seen = 1e-8 * 2.0**5 / np.abs(call(function, p)[2]).max()  # ε beside the smallest momentum, as a relative change
    out, memory, momentum = call(function, scaled)
    bound = allowed("omega", list(p.values()), size["P"] + size["c"])
    for found, wanted, b in zip((out, memory), call(function, p), bound, strict=False):
        noise = 2 * LIMITS["eager"] * b.B * (1 + seen / F64.u)  # ε enters like a rounding of that size
        assert (np.abs(found - wanted) <= noise).all()
    assert (
        np.abs(momentum - 2.0**k * call(function, p)[2])
        <= 2 * LIMITS["eager"] * bound[2].B * (1 + seen / F64.u) * 2.0**k
    ).all()


@omega
@given(seed=seeds, size=sizes, chunk=chunks, optimizer=OPTIMIZERS)
def test_a_neutral_token_leaves_memory_and_momentum_alone(
    function: Function, seed: int, size: Sizes, chunk: int, optimizer: str
) -> None:
    """γ = 0, α = θ = 1 and no step. With η inside the momentum the weight outside would have to vanish."""
    p = problem(seed, size, alpha=1, eta=0, theta=1, gamma=0, chunk_size=chunk, optimizer=optimizer)
    assert_same((p["memory"], p["momentum"]), call(function, p)[1:])
    if optimizer == "gd":
        moved = call(function, p | {"lr_inside_momentum": True})
        assert not np.array_equal(moved[1], p["memory"])


@omega
@given(seed=seeds, size=sizes, chunk=chunks, clip=st.floats(0.01, 0.5))
def test_a_clip_holds_every_element_of_the_gradient(
    function: Function, seed: int, size: Sizes, chunk: int, clip: float
) -> None:
    p = problem(seed, size, alpha=1, eta=1, theta=0, chunk_size=chunk, clip=clip)
    one = tokens(p, slice(0, 1))
    moved = np.abs(call(function, one)[2])
    assert (moved <= clip).all()
    free = np.abs(call(function, one | {"clip": None})[2])
    assert ((moved == clip) == (free >= clip)).all()
    assert_same(call(function, p | {"clip": 1e6}), call(function, p | {"clip": 2e6}))


@omega
@given(seed=seeds, size=sizes, chunk=chunks)
def test_muon_cannot_make_the_memory_larger_than_eta_over_one_minus_alpha(
    function: Function, seed: int, size: Sizes, chunk: int
) -> None:
    """|U|₂ ≤ 1.2024, the polynomial's top, so ‖M‖₂ ≤ 1.2024 η/(1 − α) from an empty memory."""
    p = problem(seed, size, alpha=0.5, eta=1, memory=0, optimizer="muon", chunk_size=chunk)
    p |= {"k": 1e3 * p["k"], "v": 1e3 * p["v"]}
    top = landing(1e-4)[1] / (1 - 0.5)
    bound = allowed("omega", list(p.values()), size["P"] + size["c"])[1]
    off = LIMITS["eager"] * np.linalg.norm(bound.B, axis=(-2, -1))
    found = np.linalg.norm(call(function, p)[1], ord=2, axis=(-2, -1))
    assert (found <= top * (1 + 2e-6) + off).all()  # the top lies between two points of a grid of 2e-6


@omega
@given(seed=seeds, size=sizes)
def test_a_chunk_of_one_makes_muon_by_token_and_by_chunk_the_same_read_before(
    function: Function, seed: int, size: Sizes
) -> None:
    p = problem(seed, size, optimizer="muon", read_before_update=True)
    is_now(p, call(function, p | {"optimizer": "muon_chunk"}), function)


@omega
@given(seed=seeds, size=sizes, chunk=st.integers(1, 4))
def test_muon_by_chunk_reads_the_memory_of_its_chunks_start(
    function: Function, seed: int, size: Sizes, chunk: int
) -> None:
    p = problem(seed, size, optimizer="muon_chunk", chunk_size=chunk)
    out, M = call(function, p)[0], p["memory"]
    state = p
    bound = allowed("omega", list(p.values()), size["P"] + size["c"])[0]
    for at in range(0, size["T"], chunk):
        part = slice(at, min(at + chunk, size["T"]))
        wanted = np.einsum("bthp,bhpv->bthv", p["q"][:, part], M)
        assert (np.abs(out[:, part] - wanted) <= 2 * LIMITS["eager"] * bound.B[:, part]).all()
        piece = tokens(p, part) | {x: state[x] for x in ("memory", "momentum", "k_window", "v_window")}
        found = call(function, piece)
        state, M = carried(piece, found), found[1]


@omega
@given(seed=seeds, size=sizes, objective=objectives, optimizer=OPTIMIZERS)
def test_a_chunk_longer_than_the_sequence_is_as_long_as_it(
    function: Function, seed: int, size: Sizes, objective: str, optimizer: str
) -> None:
    p = problem(seed, size, objective=objective, optimizer=optimizer, chunk_size=size["T"])
    is_now(p, call(function, p | {"chunk_size": size["T"] + 5}), function)


@omega
@given(seed=seeds, size=sizes, k=st.integers(-5, 5), chunk=chunks)
def test_from_an_empty_memory_gradient_descent_is_linear_in_the_values(
    function: Function, seed: int, size: Sizes, k: int, chunk: int
) -> None:
    """Bit for bit, since the factor is a power of two."""
    p = problem(seed, size, memory=0, momentum=0, chunk_size=chunk)
    scaled = p | {x: 2.0**k * p[x] for x in ("v", "v_window")}
    assert_same([2.0**k * x for x in call(function, p)], call(function, scaled))


@omega
@given(seed=seeds, size=sizes)
def test_the_norm_average_starts_ten_times_too_long(function: Function, seed: int, size: Sizes) -> None:
    """m_1 = 0.1 ‖g_1‖, so that the first step has length ten whatever the gradient; only ε keeps 0/0 away."""
    p = problem(seed, size | {"T": 1}, alpha=1, eta=1, optimizer="norm_ema", momentum=0)
    step = np.linalg.norm(call(function, p)[1] - p["memory"], axis=(-2, -1))
    length = np.linalg.norm(call(function, p)[2], axis=(-2, -1))
    want = length / ((1 - 0.9) * length + 1e-8)
    bound = allowed("omega", list(p.values()), size["P"] + size["c"])[1]
    assert (
        np.abs(step - want) <= 2 * LIMITS["eager"] * np.linalg.norm(bound.B, axis=(-2, -1)) + 8 * F64.u * want
    ).all()


# -- two layers -------------------------------------------------------------------------------------------------------


mlp = both("omega_mlp")


def mlp_loss(start: list[torch.Tensor], k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    w1, w2 = start
    hidden = torch.nn.functional.silu((w2 @ k[..., None])[..., 0])
    return 0.5 * ((k + (w1 @ hidden[..., None])[..., 0] - v) ** 2).sum(-1)


small = st.fixed_dictionaries({x: st.integers(1, 2) for x in "BH"} | {x: st.integers(1, 3) for x in "PVc"})


@mlp
@given(seed=seeds, size=small, T=st.integers(1, 4), N=st.integers(1, 4), chunk=chunks, inside=places)
def test_the_written_gradients_of_two_layers_are_autograds(
    function: Function, seed: int, size: Sizes, T: int, N: int, chunk: int, inside: bool
) -> None:
    p = mlp_problem(seed, size | {"T": T}, N, chunk_size=chunk, lr_inside_momentum=inside)
    out = call(function, p)
    want = autograd_loop(p, mlp_loss, MLP[:2], MLP[2:])
    assert_equal_within([out[0], *want], out, "omega_mlp", list(p.values()))


@mlp
@given(seed=seeds, size=small, T=st.integers(1, 4), N=st.integers(1, 4), inside=places)
def test_from_zero_outer_weights_one_chunk_of_two_layers_is_a_linear_memory_on_hidden_features(
    function: Function, seed: int, size: Sizes, T: int, N: int, inside: bool
) -> None:
    """Where Ŵ1 = 0 the inner weights have no gradient: o = q + omega(σ(W2 q), σ(W2 k), v − k), M = W1ᵀ."""
    p = mlp_problem(seed, size | {"T": T}, N, chunk_size=T, lr_inside_momentum=inside, alpha=1)
    p = p | {x: 0 * p[x] for x in ("w1", "s1", "s2")}

    def hidden(x: np.ndarray) -> np.ndarray:
        z = np.einsum("bhnp,bthp->bthn", p["w2"], x)
        return z / (1 + np.exp(-z))

    linear = problem(seed, size | {"T": T, "P": N, "V": size["P"]}, memory=0, momentum=0)
    linear |= {
        x: p[x] for x in ("alpha", "eta", "theta", "gamma", "chunk_size", "lr_inside_momentum", "read_before_update")
    }
    linear |= {"q": hidden(p["q"]), "k": hidden(p["k"]), "k_window": hidden(p["k_window"])}
    linear |= {"v": p["v"] - p["k"], "v_window": p["v_window"] - p["k_window"]}
    o, memory, momentum = true.omega(*linear.values())
    turned = [np.swapaxes(x, -1, -2) for x in (memory, momentum)]
    want = [p["q"] + o, turned[0], p["w2"], turned[1], 0 * p["s2"]]
    assert_equal_within(want, call(function, p), "omega_mlp", list(p.values()))


@mlp
@given(seed=seeds, size=small, T=st.integers(1, 3), chunk=st.integers(1, 2), N=st.integers(1, 3))
def test_two_layers_stream_see_no_future_and_mix_no_batches(
    function: Function, seed: int, size: Sizes, T: int, chunk: int, N: int
) -> None:
    p = mlp_problem(seed, size | {"B": 2, "T": T + chunk}, N, chunk_size=chunk)
    whole = call(function, p)
    head = tokens(p, slice(None, chunk))
    first = call(function, head)
    assert_same([whole[0][:, :chunk]], [first[0]])
    window = {x: carried(head, (first[0], None, None))[x] for x in ("k_window", "v_window")}  # type: ignore[arg-type]
    second = call(function, tokens(p, slice(chunk, None)) | window | dict(zip(MLP, first[1:], strict=True)))
    assert_same(whole, (np.concatenate([first[0], second[0]], axis=1), *second[1:]))
    other = {name: np.concatenate([x[:1], x[1:] / 2]) if isinstance(x, np.ndarray) else x for name, x in p.items()}
    assert_same([x[:1] for x in whole], [x[:1] for x in call(function, other)])


# -- attention --------------------------------------------------------------------------------------------------------


attention = both("atlas_attention")
MODE = (2, "l2", "muon", False, False, None)


def attention_problem(seed: int, T: int = 5) -> list[np.ndarray]:
    p = problem(seed, {"B": 2, "T": T, "H": 2, "P": 3, "V": 2, "c": 2})
    return [p[x] for x in ("q", "k", "v", "alpha", "eta", "theta", "gamma")]


@attention
@given(seed=seeds)
def test_attention_sees_the_past_and_not_the_future(function: Function, seed: int) -> None:
    """Another key or value at token 1 changes nothing before it and something after it."""
    arguments = attention_problem(seed)
    rest = (true.taylor_coefficients(2), 10.0, *MODE)
    plain = function(*arguments, *rest)
    for which in (1, 2):
        other = list(arguments)
        other[which] = arguments[which].copy()
        other[which][:, 1] += 1
        moved = function(*other, *rest)
        assert np.array_equal(plain[:, :1], moved[:, :1])
        assert (plain[:, 2:] != moved[:, 2:]).any(axis=(1, 3)).all()


@attention
@given(seed=seeds, degree=st.integers(0, 3))
def test_attention_is_the_omega_rule_on_features_of_length_about_one(
    function: Function, seed: int, degree: int
) -> None:
    q, k, v, alpha, eta, theta, gamma = attention_problem(seed)
    coefficients = true.taylor_coefficients(degree)
    P = (degree + 1) * q.shape[-1]
    phi_q, phi_k = (true.elementwise_features(x, coefficients, 10.0) / math.sqrt(P) for x in (q, k))
    empty = np.zeros((2, 2, P, 2))
    window = np.zeros((2, 1, 2, P)), np.zeros((2, 1, 2, 2))
    want = true.omega(phi_q, phi_k, v, alpha, eta, theta, gamma, empty, empty, *window, *MODE)[0]
    arguments = [q, k, v, alpha, eta, theta, gamma, coefficients, 10.0, *MODE]
    assert_equal_within([want], [function(*arguments)], "atlas_attention", arguments)
