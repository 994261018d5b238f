"""Laws of the schedules, and what independent oracles say of them."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from trueness.optimized import diffusion as fast
from trueness.properties._lib.laws import assert_law, assert_refused
from trueness.properties._lib.within import F64, bound
from trueness.properties.diffusion.laws import (
    COSINE,
    DIGITS,
    LINEAR,
    VERSIONS,
    assert_prints,
    both,
    each,
    flat,
    given,
    schedules,
)
from trueness.reference import diffusion as true
from trueness.tools.arithmetic.bounds import LIMITS, bounds
from trueness.tools.arithmetic.complex_step import directional_derivative
from trueness.tools.arithmetic.formats import precision

RATES = (1000, 1e-4, 0.02)
PAPER = (0.002, 80.0, 7.0)

# -- schedules --------------------------------------------------------------------------------------------------------


@both("cosine_betas")
@given(steps=st.integers(1, 300), s=st.floats(0.001, 0.1), max_beta=st.floats(0.9, 0.999))
def test_cosine_betas_lie_above_zero_and_not_above_their_maximum(
    function: Any, steps: int, s: float, max_beta: float
) -> None:
    beta = function(steps, s, max_beta)
    assert (beta > 0).all() and (beta <= max_beta).all() and beta[-1] == max_beta


@both("alphas_cumprod")
@given(beta=schedules)
def test_the_share_of_signal_falls_strictly_between_one_and_zero(function: Any, beta: np.ndarray) -> None:
    alpha_bar = np.concatenate([[1.0], function(beta)])
    assert (np.diff(alpha_bar) < 0).all() and alpha_bar[-1] > 0


@both("alphas_cumprod")
@given(steps=st.integers(2, 200), s=st.floats(0.001, 0.1))
def test_cosine_betas_multiply_back_to_the_cosine_until_the_cap(function: Any, steps: int, s: float) -> None:
    def law(s: Any) -> Any:
        return true.alphas_cumprod(true.cosine_betas(steps, s=s))[:-1]

    found = function(true.cosine_betas(steps, s=s))[:-1]
    assert_law(true.cosine_alphas_cumprod(np.arange(1, steps) / steps, s=s), found, law, s, reduction=steps)


@both("cosine_alphas_cumprod")
@given(s=st.floats(0, 0.1), u=st.lists(st.floats(0, 1), min_size=1, max_size=5).map(np.array))
def test_the_cosine_is_its_forty_digit_value(function: Any, s: float, u: np.ndarray) -> None:
    with mpmath.workdps(DIGITS):

        def f(u: Any) -> Any:
            return mpmath.cos((mpmath.mpf(u) + mpmath.mpf(s)) / (1 + mpmath.mpf(s)) * mpmath.pi / 2) ** 2

        want = np.array([float(f(float(x)) / f(0)) for x in u])
    assert_law(want, function(u, s), flat.cosine_alphas_cumprod, u, s)
    assert function(np.zeros(1), s)[0] == 1


@both("linear_betas")
@given(steps=st.integers(2, 300), first=st.floats(1e-5, 1e-2), last=st.floats(1e-5, 0.9))
def test_linear_betas_are_evenly_spaced_from_the_first_to_the_last(
    function: Any, steps: int, first: float, last: float
) -> None:
    def law(first: Any, last: Any) -> Any:
        return true.linear_betas(steps, beta_start=first, beta_end=last)

    beta = function(steps, first, last)
    assert beta[0] == first
    assert_law(np.linspace(first, last, steps), beta, law, first, last)


@both("karras_sigmas")
@given(low=st.floats(1e-3, 0.1), high=st.floats(1, 100), rho=st.floats(1, 10))
def test_karras_sigmas_fall_from_the_largest_to_the_smallest(
    function: Any, low: float, high: float, rho: float
) -> None:
    t = np.linspace(0, 1, 20)
    sigma = function(t, low, high, rho)
    assert (np.diff(sigma) < 0).all()
    assert_law(high, sigma[:1], flat.karras_sigmas, t[:1], low, high, rho)
    assert_law(low, sigma[-1:], flat.karras_sigmas, t[-1:], low, high, rho)


@both("timesteps")
@given(steps=st.integers(2, 1000), end=st.floats(1e-3, 0.5))
def test_times_fall_from_one_and_never_below_their_end(function: Any, steps: int, end: float) -> None:
    t = function(steps, end)
    assert t[0] == 1 and (np.diff(t) < 0).all()
    assert_law(end, t[-1:], lambda end: true.timesteps(steps, end=end)[-1:], end)


def test_float32_times_stay_apart() -> None:
    t = fast.timesteps(1000, end=0.01, dtype=torch.float32)
    assert (t.diff() < -torch.finfo(torch.float32).eps).all() and t.dtype == torch.float32


@pytest.mark.parametrize(
    "function, vjp, point, rest",
    [
        (true.alphas_cumprod, true.alphas_cumprod_vjp, COSINE[:50], ()),
        (true.sigmas, true.sigmas_vjp, true.alphas_cumprod(LINEAR), ()),
        (flat.cosine_alphas_cumprod, true.cosine_alphas_cumprod_vjp, np.linspace(0.01, 0.99, 30), (0.008,)),
        (flat.karras_sigmas, true.karras_sigmas_vjp, np.linspace(0, 1, 30), (0.002, 80.0, 7.0)),
    ],
)
def test_the_complex_step_proves_the_vjp_of_a_schedule(function: Any, vjp: Any, point: Any, rest: Any) -> None:
    """and the vjp proves torch's backward."""
    generator = np.random.default_rng(0)
    g, v = generator.standard_normal((2, len(point)))
    (tangent,) = directional_derivative(function, [point, *rest], [v, *(None for _ in rest)])

    def law(g: Any, point: Any) -> Any:
        return np.sum(vjp(g, point, *rest) * v)

    assert_law(g @ tangent, law(g, point), law, g, point, reduction=len(point))
    x = torch.from_numpy(point.copy()).requires_grad_()
    (grad,) = torch.autograd.grad(getattr(VERSIONS.optimized, function.__name__)(x, *rest), x, torch.from_numpy(g))
    assert_law(vjp(g, point, *rest), grad.numpy(), vjp, g, point, *rest, reduction=len(point))


# -- rival schedules --------------------------------------------------------------------------------------------------

BETAS = ("linear_betas", "quadratic_betas", "scaled_linear_betas", "sigmoid_betas")
ends = {"first": st.floats(1e-5, 1e-3), "last": st.floats(2e-3, 0.9)}


@pytest.mark.parametrize("name", BETAS)
@each
@given(steps=st.integers(2, 200), **ends)
def test_betas_grow_and_stay_between_their_ends(version: Any, name: str, steps: int, first: float, last: float) -> None:
    beta = version(name)(steps, first, last)
    B = bound(lambda a, b: getattr(flat, name)(steps, a, b), first, last).B
    assert (np.diff(beta) > 0).all()
    assert beta[0] >= first - B[0] and beta[-1] <= last + B[-1]
    if name == "sigmoid_betas":
        return

    def law(first: Any, last: Any) -> Any:
        return getattr(flat, name)(steps, first, last)[[0, -1]]

    assert_law(np.array([first, last]), beta[[0, -1]], law, first, last)
    assert_law(first, version(name)(1, first, last), lambda a, b: getattr(flat, name)(1, a, b), first, last)


@each
@given(steps=st.integers(1, 200), **ends)
def test_the_sigmoid_is_symmetric_about_its_middle(version: Any, steps: int, first: float, last: float) -> None:
    """β_i + β_{T−1−i} = β_1 + β_T"""

    def law(first: Any, last: Any, betas: Any = flat.sigmoid_betas) -> Any:
        beta = betas(steps, first, last)
        return beta + beta[::-1]

    if steps > 1:
        assert_law(first + last, law(first, last, version("sigmoid_betas")), law, first, last)


@each
@given(steps=st.integers(2, 200), **ends)
def test_the_log_odds_of_the_sigmoid_are_a_line_from_minus_six_to_six(
    version: Any, steps: int, first: float, last: float
) -> None:
    def law(first: Any, last: Any, betas: Any = flat.sigmoid_betas) -> Any:
        beta = betas(steps, first, last)
        return np.log((beta - first) / (last - beta))

    assert_law(np.linspace(-6, 6, steps), law(first, last, version("sigmoid_betas")), law, first, last)


@each
@given(steps=st.integers(2, 200), **ends)
def test_the_root_of_scaled_linear_betas_is_a_line(version: Any, steps: int, first: float, last: float) -> None:
    def law(first: Any, last: Any, betas: Any = flat.scaled_linear_betas) -> Any:
        return np.sqrt(betas(steps, first, last))

    want = true.linear_betas(steps, beta_start=first**0.5, beta_end=last**0.5)
    assert_law(want, law(first, last, version("scaled_linear_betas")), law, first, last)


@pytest.mark.parametrize("kind", ["linear", "quadratic"])
@each
def test_many_steps_approach_continuous_time(version: Any, kind: str) -> None:
    """log ∏ (1 − β) = −Σβ − Σβ²/2 − …; Σβ of a growing β lies within β_T of its integral.

    The rest is at most Σβ²/(2 (1 − β)); both fall like 1/n when every step is divided into n.
    """
    want = np.log(version(f"{kind}_alphas_cumprod")(np.ones(1), *RATES)[0])
    for n in (1, 2, 4, 8, 16):
        beta = version(f"{kind}_betas")(1000 * n, 1e-4 / n, 0.02 / n)
        allowed = beta.max() + (beta**2 / (2 * (1 - beta))).sum()
        assert allowed < 0.1 / n and abs(np.log(version("alphas_cumprod")(beta)[-1]) - want) <= allowed


# -- golden values: 40-digit mpmath, as many digits as are printed ----------------------------------------------------


GOLDEN_COSINE = {
    0.001: ".9999587157751782",
    0.01: ".9993687184016585",
    0.1: ".9720927371139692",
    0.25: ".8470121613269047",
    0.5: ".4938435904406377",
    0.75: ".1442721023857357",
    0.9: ".02409172414008586",
    0.999: "2.428766907034468e-6",
}
GOLDEN_KARRAS = {
    0.0: ("80", "1.56225589751601e-4"),
    0.01: ("75.7332722348228", "1.74321455200992e-4"),
    0.25: ("17.5278319646441", ".00324438428392784"),
    0.5: ("2.51521897614716", ".136494053367261"),
    0.75: (".169752756268764", ".971991105980511"),
    0.99: (".00255213827038218", ".999993486632673"),
    1.0: (".002", ".999996000016"),
}


@both("cosine_alphas_cumprod")
def test_golden_values_of_the_cosine_schedule(function: Any) -> None:
    u = np.array(list(GOLDEN_COSINE))
    B = bound(flat.cosine_alphas_cumprod, u, 0.008).B
    for text, out, b in zip(GOLDEN_COSINE.values(), function(u, 0.008), B, strict=True):
        assert_prints(text, out, b)


@each
def test_golden_values_of_the_karras_schedule(version: Any) -> None:
    t = np.array(list(GOLDEN_KARRAS))
    for k, name in enumerate(("karras_sigmas", "karras_alphas_cumprod")):
        B = bound(getattr(flat, name), t, *PAPER).B
        for printed, out, b in zip(GOLDEN_KARRAS.values(), version(name)(t, *PAPER), B, strict=True):
            assert_prints(printed[k], out, b)
    assert (np.diff(version("karras_alphas_cumprod")(np.linspace(0, 1, 50), *PAPER)) > 0).all(), "t = 0 is noise"


# -- diffusers ---------------------------------------------------------------------------------------------------------


def test_diffusers_cosine_betas_are_the_reference_rounded_once() -> None:
    diffusers = pytest.importorskip("diffusers")
    made = diffusers.DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2").betas
    single = precision("float32")
    allowed = bounds(lambda s: true.cosine_betas(1000, s=s), [0.008], [F64.u], single, 1)[0]
    assert allowed.ratio(made.double().numpy()).max() <= LIMITS["fused"]
    assert torch.equal(made, fast.cosine_betas(1000, dtype=torch.float32))


# -- validation --------------------------------------------------------------------------------------------------

TABLE = torch.linspace(0.9, 0.1, 5, dtype=torch.float64)
REFUSED = {
    "betas was list": lambda: fast.alphas_cumprod([0.1]),  # type: ignore[arg-type]
    "betas had shape (0,)": lambda: fast.alphas_cumprod(TABLE[:0]),
    "steps was 0; it must be an integer of at least 1": lambda: fast.linear_betas(0),
    "steps was 1; it must be an integer of at least 2": lambda: fast.timesteps(1, end=0.01),
    "steps was 2.5": lambda: fast.cosine_betas(2.5),  # type: ignore[arg-type]
    "beta_start was 0": lambda: fast.linear_betas(10, beta_start=0),
    "beta_end was 1.0; it must be a number in (0, 1)": lambda: fast.linear_betas(10, beta_end=1.0),
    "max_beta was nan": lambda: fast.cosine_betas(10, max_beta=math.nan),
    "s was -0.1; it must be a finite number of at least 0": lambda: fast.cosine_betas(10, s=-0.1),
    "end was 0": lambda: fast.timesteps(10, end=0),
    "u had dtype torch.int64": lambda: fast.cosine_alphas_cumprod(torch.tensor([0])),
    "rho was 0; it must be a positive number": lambda: fast.karras_sigmas(TABLE, rho=0),
    "steps was 0": lambda: fast.sigmoid_betas(0, beta_start=1e-4, beta_end=0.02),
    "beta_start was -0.1": lambda: fast.quadratic_betas(10, beta_start=-0.1),
    "beta_end was 1": lambda: fast.scaled_linear_betas(10, beta_end=1),
    "u had dtype torch.int32": lambda: fast.linear_alphas_cumprod(torch.tensor([0], dtype=torch.int32)),
    "beta_end was 0; it must be a positive number": lambda: fast.quadratic_alphas_cumprod(TABLE, beta_end=0),
    "rho was nan": lambda: fast.karras_alphas_cumprod(TABLE, rho=float("nan")),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_bad_input_is_refused_in_one_sentence(sentence: str) -> None:
    assert_refused(REFUSED[sentence], sentence)
