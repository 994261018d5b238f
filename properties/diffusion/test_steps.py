"""Laws of DDIM and of guidance, on the reference and on the optimized version."""

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
from trueness.properties._lib.within import bound
from trueness.properties.diffusion.laws import (
    COSINE,
    DIGITS,
    LINEAR,
    assert_prints,
    both,
    each,
    flat,
    given,
    schedules,
    seeds,
)
from trueness.reference import diffusion as true

etas = st.sampled_from((0.0, 0.3, 1.0))
longer = schedules.filter(lambda beta: len(beta) > 1)


def jumps(seed: int, steps: int, count: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """(t, t_prev) with −1 ≤ t_prev < t."""
    generator = np.random.default_rng(seed)
    t = generator.integers(0, steps, count)
    return t, generator.integers(-1, t)


def signal(alpha_bar: Any, t: Any) -> Any:
    """ᾱ_t, 1 at t = −1."""
    return np.where(t < 0, 1.0, alpha_bar[np.maximum(t, 0)])


# -- DDIM -------------------------------------------------------------------------------------------------------------


@each
@given(seed=seeds, beta=longer)
def test_with_eta_one_and_adjacent_steps_ddim_is_ddpm(version: Any, seed: int, beta: np.ndarray) -> None:
    """The variance is β̃ and the mean that of Algorithm 2."""
    x_t, eps, noise = np.random.default_rng(seed).standard_normal((3, len(beta), 2))
    t = np.arange(len(beta))
    step = version("ddim_step")

    def law(x_t: Any, eps: Any, noise: Any, beta: Any, step: Any = flat.ddim_step) -> Any:
        return step(x_t, t, t - 1, eps, noise, true.alphas_cumprod(beta), 1.0, False, False)

    arguments = (x_t, eps, noise, beta)
    assert_law(
        version("p_sample")(x_t, t, eps, noise, beta, False), law(*arguments, step), law, *arguments, reduction=len(t)
    )

    def spread(beta: Any, coefficients: Any = flat.ddim_coefficients) -> Any:
        return coefficients(t, t - 1, true.alphas_cumprod(beta), 1.0)[2] ** 2

    variance = version("posterior_coefficients")(t, beta)[2]
    assert_law(variance, spread(beta, version("ddim_coefficients")), spread, beta, reduction=len(t))


@both("ddim_coefficients")
@given(seed=seeds, beta=schedules, eta=etas)
def test_every_eta_reaches_the_same_marginal(function: Any, seed: int, beta: np.ndarray, eta: float) -> None:
    """a² = ᾱ_p and b² + σ² = 1 − ᾱ_p"""
    t, p = jumps(seed, len(beta))

    def law(beta: Any, coefficients: Any = flat.ddim_coefficients) -> Any:
        alpha_bar = true.alphas_cumprod(beta)
        a, b, sigma = coefficients(t, p, alpha_bar, eta)
        return np.stack([a**2 - signal(alpha_bar, p), b**2 + sigma**2 - (1 - signal(alpha_bar, p))])

    assert_law(0, law(beta, function), law, beta, reduction=len(beta))


@both("ddim_step")
@given(seed=seeds, beta=schedules)
def test_a_deterministic_step_with_the_true_noise_is_the_forward_process(
    function: Any, seed: int, beta: np.ndarray
) -> None:
    t, p = jumps(seed, len(beta))
    x_0, noise = np.random.default_rng(seed).standard_normal((2, len(t), 3))

    def law(x_0: Any, noise: Any, beta: Any, step: Any = flat.ddim_step) -> Any:
        alpha_bar = true.alphas_cumprod(beta)
        x_t = true.q_sample(x_0, t, noise, alpha_bar)
        return step(x_t, t, p, noise, 0 * noise, alpha_bar, 0.0, False, False)

    share = signal(true.alphas_cumprod(beta), p)[:, None]
    want = np.sqrt(share) * x_0 + np.sqrt(1 - share) * noise
    assert_law(want, law(x_0, noise, beta, function), law, x_0, noise, beta, reduction=len(beta))


@both("ddim_step")
@given(seed=seeds, beta=schedules.filter(lambda beta: len(beta) > 2))
def test_two_deterministic_steps_with_one_prediction_are_one(function: Any, seed: int, beta: np.ndarray) -> None:
    x_t, eps = np.random.default_rng(seed).standard_normal((2, 1, 4))
    t, m, p = (np.array([k]) for k in (len(beta) - 1, len(beta) // 2, 0))

    def law(x_t: Any, eps: Any, beta: Any, step: Any = flat.ddim_step) -> Any:
        alpha_bar = true.alphas_cumprod(beta)
        half = step(x_t, t, m, eps, 0 * eps, alpha_bar, 0.0, False, False)
        return step(half, m, p, eps, 0 * eps, alpha_bar, 0.0, False, False)

    want = function(x_t, t, p, eps, 0 * eps, true.alphas_cumprod(beta), 0.0, False, False)
    assert_law(want, law(x_t, eps, beta, function), law, x_t, eps, beta, reduction=len(beta))


@both("ddim_step")
@given(seed=seeds, beta=schedules, clip=st.sampled_from((False, True, 0.5)), again=st.booleans())
def test_without_eta_or_at_the_data_no_noise_is_looked_at(
    function: Any, seed: int, beta: np.ndarray, clip: Any, again: bool
) -> None:
    t, p = jumps(seed, len(beta))
    x_t, eps, noise = np.random.default_rng(seed).standard_normal((3, len(t), 3))
    alpha_bar = true.alphas_cumprod(beta)
    for eta, to in ((0.0, p), (1.0, np.full_like(p, -1))):
        found = [function(x_t, t, to, eps, z, alpha_bar, eta, clip, again) for z in (noise, noise * np.nan)]
        assert np.array_equal(*found) and np.isfinite(found[0]).all()


@both("ddim_step")
@given(seed=seeds, beta=schedules, clip=st.sampled_from((True, 0.5, 2.0)), again=st.booleans(), eta=etas)
def test_the_step_to_the_data_is_the_clipped_estimate(
    function: Any, seed: int, beta: np.ndarray, clip: Any, again: bool, eta: float
) -> None:
    t, p = np.arange(len(beta)), np.full(len(beta), -1)
    x_t, eps = 3 * np.random.default_rng(seed).standard_normal((2, len(t), 3))

    def law(x_t: Any, eps: Any, beta: Any, step: Any = flat.ddim_step) -> Any:
        return step(x_t, t, p, eps, 0 * eps, true.alphas_cumprod(beta), eta, clip, again)

    estimate = true.predict_x0(x_t, t, eps, true.alphas_cumprod(beta))
    want = np.clip(estimate, -float(clip), float(clip))
    assert_law(want, law(x_t, eps, beta, function), law, x_t, eps, beta, reduction=len(beta))


@both("ddim_step")
@given(seed=seeds, beta=schedules, eta=etas)
def test_a_recomputed_prediction_is_the_one_whose_estimate_is_clipped(
    function: Any, seed: int, beta: np.ndarray, eta: float
) -> None:
    t, p = jumps(seed, len(beta))
    x_t, eps, noise = 3 * np.random.default_rng(seed).standard_normal((3, len(t), 3))

    def implied(x_t: Any, eps: Any, beta: Any) -> Any:
        alpha_bar = true.alphas_cumprod(beta)
        x_0 = np.clip(true.predict_x0(x_t, t, eps, alpha_bar), -1, 1)
        share = alpha_bar[t].reshape(-1, 1)
        return (x_t - np.sqrt(share) * x_0) / np.sqrt(1 - share)

    def law(x_t: Any, eps: Any, noise: Any, beta: Any, step: Any = flat.ddim_step) -> Any:
        again = implied(x_t, eps, beta)
        return step(x_t, t, p, again, noise, true.alphas_cumprod(beta), eta, False, False)

    want = function(x_t, t, p, eps, noise, true.alphas_cumprod(beta), eta, True, True)
    assert_law(want, law(x_t, eps, noise, beta, function), law, x_t, eps, noise, beta, reduction=len(beta))


@pytest.mark.parametrize("beta", [LINEAR, COSINE], ids=["linear", "cosine"])
@both("ddim_coefficients")
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_the_coefficients_are_the_printed_ones_at_forty_digits(function: Any, beta: np.ndarray, eta: float) -> None:
    t, p = (a.ravel() for a in np.meshgrid([999, 998, 500, 1], [-1, 0, 300, 480, 799, 997], indexing="ij"))
    t, p = t[p < t], p[p < t]
    want: tuple[list[float], ...] = ([], [], [])
    with mpmath.workdps(DIGITS):
        table, now = [], mpmath.mpf(1)
        for b in map(mpmath.mpf, beta.tolist()):
            now = now * (1 - b)
            table.append(now)
        for i, j in zip(t.tolist(), p.tolist(), strict=True):
            now, before = table[i], table[j] if j >= 0 else mpmath.mpf(1)
            sigma = mpmath.mpf(eta) * mpmath.sqrt((1 - before) / (1 - now)) * mpmath.sqrt(1 - now / before)
            rest = 1 - before - sigma**2
            for row, value in zip(want, (mpmath.sqrt(before), mpmath.sqrt(rest), sigma), strict=True):
                row.append(float(value))
    for k, (found, values) in enumerate(zip(function(t, p, true.alphas_cumprod(beta), eta), want, strict=True)):

        def law(beta: Any, k: int = k) -> Any:
            return true.ddim_coefficients(t, p, true.alphas_cumprod(beta), eta=eta)[k]

        assert_law(values, found, law, beta, reduction=len(beta))


GOLDEN_DDIM = {
    0.0: ("0", ".4076387292047148"),
    0.5: (".2101327165627111", ".4240860758995161"),
    1.0: (".4202654331254222", ".47613858016144306"),
}


@each
@pytest.mark.parametrize("eta", GOLDEN_DDIM)
def test_golden_values_of_ddim(version: Any, eta: float) -> None:
    t, p, zero = np.array([500]), np.array([480]), np.zeros((1, 1))
    x, eps = np.full((1, 1), 0.3), np.full((1, 1), -0.7)

    def estimate(x: Any, eps: Any, beta: Any, predict: Any = true.predict_x0) -> Any:
        return predict(x, t, eps, true.alphas_cumprod(beta))

    def mean(x: Any, eps: Any, beta: Any, step: Any = flat.ddim_step) -> Any:
        return step(x, t, p, eps, zero, true.alphas_cumprod(beta), eta, False, False)

    def deviation(beta: Any, coefficients: Any = flat.ddim_coefficients) -> Any:
        return coefficients(t, p, true.alphas_cumprod(beta), eta)[2]

    sigma, middle = GOLDEN_DDIM[eta]
    for text, law, name, arguments in (
        ("3.4856521869307104", estimate, "predict_x0", (x, eps, LINEAR)),
        (sigma, deviation, "ddim_coefficients", (LINEAR,)),
        (middle, mean, "ddim_step", (x, eps, LINEAR)),
    ):
        B = bound(law, *arguments, reduction=1000).B.item()
        assert_prints(text, law(*arguments, version(name)).item(), B)


# -- guidance ---------------------------------------------------------------------------------------------------------

weights = st.floats(-2, 8)


def predictions(seed: int) -> tuple[np.ndarray, np.ndarray]:
    cond, uncond = np.random.default_rng(seed).standard_normal((2, 2, 5, 3))
    return cond, uncond


@both("classifier_free_guidance")
@given(seed=seeds)
def test_weight_one_is_conditional_and_weight_zero_is_not(function: Any, seed: int) -> None:
    cond, uncond = predictions(seed)
    assert np.array_equal(function(cond, uncond, 0.0), uncond)
    assert_law(cond, function(cond, uncond, 1.0), lambda c, u: true.classifier_free_guidance(c, u, 1.0), cond, uncond)


@both("classifier_free_guidance_paper")
@given(seed=seeds)
def test_in_the_papers_form_weight_zero_is_conditional(function: Any, seed: int) -> None:
    cond, uncond = predictions(seed)
    assert np.array_equal(function(cond, uncond, 0.0), cond)
    assert np.array_equal(function(cond, uncond, -1.0), uncond)


@both("classifier_free_guidance")
@given(seed=seeds, w=weights)
def test_guidance_is_affine_in_its_weight_and_symmetric_in_its_roles(function: Any, seed: int, w: float) -> None:
    cond, uncond = predictions(seed)

    def line(c: Any, u: Any, w: Any) -> Any:
        return (1 - w) * u + w * c

    assert_law(line(cond, uncond, w), function(cond, uncond, w), line, cond, uncond, w)

    def exchanged(c: Any, u: Any, w: Any, guide: Any = true.classifier_free_guidance) -> Any:
        return guide(u, c, 1 - w)

    assert_law(function(cond, uncond, w), exchanged(cond, uncond, w, function), exchanged, cond, uncond, w)


@each
@given(seed=seeds, w=weights)
def test_the_papers_weight_is_smaller_by_one(version: Any, seed: int, w: float) -> None:
    cond, uncond = predictions(seed)

    def law(c: Any, u: Any, w: Any, guide: Any = true.classifier_free_guidance) -> Any:
        return guide(c, u, 1 + w)

    want = version("classifier_free_guidance_paper")(cond, uncond, w)
    assert_law(want, law(cond, uncond, w, version("classifier_free_guidance")), law, cond, uncond, w)


@pytest.mark.parametrize("name", ["classifier_free_guidance", "classifier_free_guidance_paper"])
@each
@given(seed=seeds, w=weights)
def test_where_the_condition_says_nothing_no_weight_does(version: Any, name: str, seed: int, w: float) -> None:
    cond, _ = predictions(seed)

    def law(c: Any, w: Any) -> Any:
        return getattr(true, name)(c, c, w)

    assert_law(cond, version(name)(cond, cond, w), law, cond, w)


@each
@given(seed=seeds, w=weights, channels=st.integers(1, 6))
def test_of_a_latent_three_channels_are_guided(version: Any, seed: int, w: float, channels: int) -> None:
    cond, uncond = np.random.default_rng(seed).standard_normal((2, 2, channels, 3))
    found = version("three_channel_guidance")(cond, uncond, w)
    whole = version("classifier_free_guidance")(cond, uncond, w)
    assert np.array_equal(found[:, :3], whole[:, :3]) and np.array_equal(found[:, 3:], cond[:, 3:])


@both("power_cosine_weight")
@given(steps=st.sampled_from((1, 1000, 7.5)), w_max=st.floats(1, 10), power=st.floats(0.5, 6))
def test_guidance_sets_in_towards_the_data(function: Any, steps: float, w_max: float, power: float) -> None:
    t = np.linspace(0, 1, 11) * steps
    t[-1] = steps
    w = function(t, steps, w_max, power)

    def start(w_max: Any) -> Any:
        return true.power_cosine_weight(np.zeros(1), steps=steps, w_max=w_max, power=power)

    assert_law(w_max, w[:1], start, w_max)
    B = bound(lambda w_max: true.power_cosine_weight(t, steps=steps, w_max=w_max, power=power), w_max).B
    assert (np.diff(w) <= B[1:] + B[:-1]).all() and w[-1] == 1


GOLDEN_WEIGHT = {0.0: "4.6", 250.0: "1.8184", 500.0: "1.0346", 750.0: "1.0001", 1000.0: "1"}


@both("power_cosine_weight")
def test_golden_values_of_the_power_cosine_weight(function: Any) -> None:
    t = np.array(list(GOLDEN_WEIGHT))
    B = bound(flat.power_cosine_weight, t, 1000, 4.6, 4.0).B
    for text, out, b in zip(GOLDEN_WEIGHT.values(), function(t, 1000, 4.6, 4.0), B, strict=True):
        assert_prints(text, out, b)


# -- validation --------------------------------------------------------------------------------------------------

X, STEPS, TABLE = torch.zeros(2, 3), torch.tensor([1, 4]), torch.linspace(0.9, 0.1, 5, dtype=torch.float64)


def ddim(**changed: Any) -> Any:
    given: dict[str, Any] = {"x_t": X, "t": STEPS, "t_prev": STEPS - 1, "eps": X, "noise": X, "alphas_cumprod": TABLE}
    return fast.ddim_step(**{**given, "eta": 0.0, "clip": False, "recompute_eps": False, **changed})


REFUSED = {
    "t_prev was as low as -2": lambda: ddim(t_prev=torch.tensor([-2, 0])),
    "t_prev was as low as 0 and came within 0 of t; it must lie in [−1, t)": lambda: ddim(t_prev=torch.tensor([0, 4])),
    "t_prev had dtype torch.uint8; it must be a signed": lambda: ddim(t_prev=torch.tensor([0, 1], dtype=torch.uint8)),
    "t_prev had dtype torch.float32": lambda: ddim(t_prev=torch.zeros(2)),
    "t_prev was (1,) on cpu; it must be like t": lambda: ddim(t_prev=torch.tensor([0])),
    "t_prev was int": lambda: ddim(t_prev=0),
    "t was between 1 and 5": lambda: ddim(t=torch.tensor([1, 5])),
    "eta was 1.1; it must be a number in [0, 1]": lambda: ddim(eta=1.1),
    "eta was True": lambda: ddim(eta=True),
    "clip was 0; it must be False, True or a positive number": lambda: ddim(clip=0),
    "noise was (2, 3) torch.float64": lambda: ddim(noise=X.double()),
    "alphas_cumprod had dtype torch.float32": lambda: ddim(alphas_cumprod=TABLE.float()),
    "eps_uncond was (3, 2)": lambda: fast.classifier_free_guidance(X, X.T, 1.0),
    "eps_cond had dtype torch.int64": lambda: fast.classifier_free_guidance_paper(X.long(), X, 1.0),
    "w was nan; it must be a finite number": lambda: fast.classifier_free_guidance(X, X, math.nan),
    "eps_cond had shape (2,); it must have an axis of channels": lambda: fast.three_channel_guidance(
        X[:, 0], X[:, 0], 1
    ),
    "power was 0; it must be a positive number": lambda: fast.power_cosine_weight(TABLE, power=0),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_bad_input_is_refused_in_one_sentence(sentence: str) -> None:
    assert_refused(REFUSED[sentence], sentence)
