"""Laws of the schedules in continuous time, of the VP-SDE and of its probability flow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from scipy import integrate

from trueness.optimized import diffusion as fast
from trueness.properties._lib.laws import assert_law, assert_refused
from trueness.properties._lib.within import F64
from trueness.properties.diffusion.laws import both, each, flat, given, schedules, seeds
from trueness.reference import diffusion as true
from trueness.tools.arithmetic.complex_step import directional_derivative

RATES = (1000, 1e-4, 0.02)
PAPER = (0.002, 80.0, 7.0)
T = np.linspace(0, 0.98, 50)
# name of a continuous schedule → (its own arguments, the direction of time in which noise grows)
CONTINUOUS = {"linear": (RATES, 1), "quadratic": (RATES, 1), "cosine": ((0.008,), 1), "karras": (PAPER, -1)}
kinds = pytest.mark.parametrize("kind", CONTINUOUS)


# -- the equation -----------------------------------------------------------------------------------------------------


@kinds
@each
def test_beta_is_minus_the_derivative_of_log_alpha_bar(version: Any, kind: str) -> None:
    """by complex step: d log ᾱ/dt = ᾱ'/ᾱ"""
    rest, sign = CONTINUOUS[kind]
    share = getattr(flat, f"{kind}_alphas_cumprod")
    (slope,) = directional_derivative(share, [T, *rest], [np.ones_like(T), *(None for _ in rest)])
    _, beta = version(f"{kind}_sde_coefficients")(T, *rest)

    def law(t: Any) -> Any:
        """as the schedule has it: rounding of ᾱ' and of ᾱ are those of β and of ᾱ"""
        return getattr(flat, f"{kind}_sde_coefficients")(t, *rest)[1] * (share(t, *rest) / share(t, *rest))

    assert_law(-sign * slope / share(T, *rest), beta, law, T)


@kinds
@each
def test_the_process_preserves_variance_one_and_adds_noise(version: Any, kind: str) -> None:
    """dv/dt = 2 f v + g² is 0 at v = 1, exactly, and β ≥ 0."""
    f, g_squared = version(f"{kind}_sde_coefficients")(T, *CONTINUOUS[kind][0])
    assert (2 * f + g_squared == 0).all() and (g_squared > 0).all()


@kinds
@each
def test_alpha_bar_is_the_exponential_of_the_integral_of_beta(version: Any, kind: str) -> None:
    """scipy.integrate.quad, to within its own estimate of its error."""
    rest, sign = CONTINUOUS[kind]
    share = version(f"{kind}_alphas_cumprod")
    for low, high in ((0.0, 0.3), (0.3, 0.9)):
        total, error = integrate.quad(lambda t: getattr(flat, f"{kind}_sde_coefficients")(t, *rest)[1], low, high)
        ends = share(np.array([low, high]), *rest)
        gap = -sign * np.log(ends[1] / ends[0])
        # ᾱ is exp of a number of the size of the integral, which carries its rounding
        assert abs(gap - total) <= error + 16 * F64.u * (1 + total)


@each
@pytest.mark.parametrize("kind", ["linear", "quadratic", "cosine"])
@pytest.mark.parametrize("deviation", [0.3, 1.0, 2.0])
def test_the_probability_flow_carries_normal_data_along_its_marginals(
    version: Any, kind: str, deviation: float
) -> None:
    """For N(0, s²) the score is −x/v, v = ᾱ s² + 1 − ᾱ, and x(t)/x(0) = √(v(t)/s²).

    A step of the solver errs by at most atol + rtol |x|; an error at x_k is carried to the end by x(1)/x_k.
    """
    rest, _ = CONTINUOUS[kind]
    rtol, atol, end = 1e-8, 1e-10, 0.98
    share, coefficients, drift = (
        version(name) for name in (f"{kind}_alphas_cumprod", f"{kind}_sde_coefficients", "probability_flow_drift")
    )

    def variance(t: float) -> float:
        now = share(np.array([t]), *rest)
        return float((now * deviation**2 + 1 - now)[0])

    def velocity(t: float, x: np.ndarray) -> np.ndarray:
        f, g_squared = coefficients(np.array([t]), *rest)
        moved: np.ndarray = drift(x[None], -x[None] / variance(t), f, g_squared)[0]
        return moved

    found = integrate.solve_ivp(velocity, (0, end), np.array([deviation]), rtol=rtol, atol=atol)
    path = found.y[0]
    want = variance(end) ** 0.5
    assert found.success and abs(path[-1] - want) <= ((atol + rtol * np.abs(path)) * np.abs(want / path)).sum()


@each
@given(seed=seeds, beta=schedules, deviation=st.floats(0.2, 3))
def test_the_score_of_normal_data_follows_from_its_exact_prediction(
    version: Any, seed: int, beta: np.ndarray, deviation: float
) -> None:
    """E[z | x_t] = √(1 − ᾱ) x/v gives the score −x/v of N(0, v)."""
    x, t = np.random.default_rng(seed).standard_normal((len(beta), 3)), np.arange(len(beta))

    def law(x: Any, beta: Any, score: Any = true.score_from_eps) -> Any:
        share = true.alphas_cumprod(beta).reshape(-1, 1)
        eps = np.sqrt(1 - share) * x / (share * deviation**2 + 1 - share)
        return score(eps, t, true.alphas_cumprod(beta))

    share = true.alphas_cumprod(beta)[:, None]
    want = -x / (share * deviation**2 + 1 - share)
    assert_law(want, law(x, beta, version("score_from_eps")), law, x, beta, reduction=len(beta))


@both("probability_flow_drift")
@given(seed=seeds)
def test_nothing_moves_where_the_data_are_standard_normal(function: Any, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((4, 3))
    beta = np.array([0.1, 1.0, 7.5, 30.0])

    def law(x: Any, beta: Any, drift: Any = true.probability_flow_drift) -> Any:
        return drift(x, -x, -beta / 2, beta)

    assert_law(0, law(x, beta, function), law, x, beta)


@each
def test_golden_values_of_the_equation(version: Any) -> None:
    f, g_squared = version("cosine_sde_coefficients")(np.array([0.3]), 0.008)
    assert (f"{f[0]:.4f}", f"{g_squared[0]:.4f}") == ("-0.8112", "1.6224")
    _, beta = version("karras_sde_coefficients")(np.array([0.5]), *PAPER)
    assert f"{beta[0]:.3f}" == "15.456"
    sigma = [(1 - share(0.01)) ** 0.5 for share in (cosine(version), linear(version))]
    assert [f"{s:.4f}" for s in sigma] == ["0.0251", "0.0446"]


def cosine(version: Any) -> Any:
    return lambda t: version("cosine_alphas_cumprod")(np.array([t]), 0.008)[0]


def linear(version: Any) -> Any:
    return lambda t: version("linear_alphas_cumprod")(np.array([t]), *RATES)[0]


# -- validation --------------------------------------------------------------------------------------------------

X, TIME = torch.zeros(2, 3), torch.linspace(0, 0.9, 2, dtype=torch.float64)
REFUSED = {
    "steps was 0; it must be a positive number": lambda: fast.linear_sde_coefficients(TIME, steps=0),
    "t had dtype torch.int64": lambda: fast.quadratic_sde_coefficients(torch.tensor([0])),
    "s was -1; it must be a finite number": lambda: fast.cosine_sde_coefficients(TIME, s=-1),
    "sigma_min was 0": lambda: fast.karras_sde_coefficients(TIME, sigma_min=0),
    "eps was list": lambda: fast.score_from_eps([0.0], torch.tensor([0]), TIME),  # type: ignore[arg-type]
    "f was (3,) torch.float64 on cpu; it must be (2,)": lambda: fast.probability_flow_drift(
        X, X, torch.zeros(3, dtype=torch.float64), TIME
    ),
    "g_squared was (2,) torch.float32": lambda: fast.probability_flow_drift(X, X, TIME, TIME.float()),
    "g_squared was float": lambda: fast.probability_flow_drift(X, X, TIME, 1.0),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_bad_input_is_refused_in_one_sentence(sentence: str) -> None:
    assert_refused(REFUSED[sentence], sentence)
