"""Laws of the forward process and of one step back by DDPM, and what independent oracles say of them."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from trueness.optimized import diffusion as fast
from trueness.optimized._lib.validation import INTEGERS
from trueness.properties._lib.laws import assert_law, assert_refused
from trueness.properties._lib.within import F64, bound
from trueness.properties.diffusion import draws, peers
from trueness.properties.diffusion.laws import (
    COSINE,
    DIGITS,
    LINEAR,
    assert_prints,
    both,
    every,
    flat,
    given,
    ours,
    schedules,
    seeds,
)
from trueness.reference import diffusion as true
from trueness.tools.arithmetic.bounds import LIMITS, bounds
from trueness.tools.arithmetic.formats import precision, round_to

# -- forward process --------------------------------------------------------------------------------------------------


@both("q_sample")
@given(beta=schedules)
def test_data_of_unit_variance_keeps_unit_variance(function: Any, beta: np.ndarray) -> None:
    """a² + b² = 1: the weights of signal and noise lie on the unit circle, at every step."""
    alpha_bar, t = true.alphas_cumprod(beta), every(beta)
    one = np.ones(len(t))

    def law(alpha_bar: Any, q_sample: Any = true.q_sample) -> Any:
        return q_sample(one, t, 0 * one, alpha_bar) ** 2 + q_sample(0 * one, t, one, alpha_bar) ** 2

    assert_law(1, law(alpha_bar, function), law, alpha_bar)


@both("q_sample")
@given(seed=seeds, beta=schedules)
def test_noisy_data_lies_between_data_and_noise(function: Any, seed: int, beta: np.ndarray) -> None:
    x_0, noise = np.random.default_rng(seed).standard_normal((2, len(beta), 3))
    alpha_bar, t = true.alphas_cumprod(beta), every(beta)
    assert (np.abs(function(x_0, t, noise, alpha_bar)) <= (np.abs(x_0) + np.abs(noise)) * (1 + 4 * F64.u)).all()


@both("predict_x0")
@given(seed=seeds, beta=schedules)
def test_the_estimate_from_the_true_noise_is_the_data(function: Any, seed: int, beta: np.ndarray) -> None:
    x_0, noise = np.random.default_rng(seed).standard_normal((2, len(beta), 3))
    alpha_bar, t = true.alphas_cumprod(beta), every(beta)

    def law(x_0: Any, noise: Any, alpha_bar: Any, predict_x0: Any = true.predict_x0) -> Any:
        return predict_x0(true.q_sample(x_0, t, noise, alpha_bar), t, noise, alpha_bar)

    assert_law(x_0, law(x_0, noise, alpha_bar, function), law, x_0, noise, alpha_bar)


@both("p_losses")
@given(seed=seeds, beta=schedules)
def test_a_model_that_knows_the_data_has_no_loss(function: Any, seed: int, beta: np.ndarray) -> None:
    x_0, noise = np.random.default_rng(seed).standard_normal((2, len(beta), 3))
    alpha_bar, t = true.alphas_cumprod(beta), every(beta)

    def law(x_0: Any, noise: Any, alpha_bar: Any, p_losses: Any = true.p_losses) -> Any:
        signal, sigma = (true._per_sample(np.sqrt(c), x_0) for c in (alpha_bar, 1 - alpha_bar))
        return p_losses((true.q_sample(x_0, t, noise, alpha_bar) - signal * x_0) / sigma, noise)

    assert_law(0, law(x_0, noise, alpha_bar, function), law, x_0, noise, alpha_bar, reduction=x_0.size)
    assert function(x_0, x_0) == 0 < function(x_0, noise)


# -- one step back ----------------------------------------------------------------------------------------------------


def weights(posterior: Any, beta: Any, t: Any) -> Any:
    """c_0, c_t and β̃ as ``posterior`` uses them."""
    one = np.ones(len(t))
    (c_0, variance), (c_t, _) = posterior(one, 0 * one, t, beta), posterior(0 * one, one, t, beta)
    return c_0, c_t, variance


@both("posterior")
@given(beta=schedules)
def test_the_posterior_mean_of_a_clean_trajectory_stays_on_it(function: Any, beta: np.ndarray) -> None:
    """c_0 + c_t √ᾱ_t = √ᾱ_{t−1}"""
    t = every(beta)

    def law(beta: Any, posterior: Any = true.posterior) -> Any:
        c_0, c_t, _ = weights(posterior, beta, t)
        alpha_bar = true.alphas_cumprod(beta)
        return c_0 + c_t * np.sqrt(alpha_bar) - np.sqrt(np.concatenate([np.ones(1), alpha_bar[:-1]]))

    assert_law(0, law(beta, function), law, beta, reduction=len(beta))


@both("posterior")
@given(beta=schedules)
def test_a_step_back_from_the_marginal_reaches_the_marginal(function: Any, beta: np.ndarray) -> None:
    """β̃_t + c_t² (1 − ᾱ_t) = 1 − ᾱ_{t−1}"""
    t = every(beta)

    def law(beta: Any, posterior: Any = true.posterior) -> Any:
        _, c_t, variance = weights(posterior, beta, t)
        alpha_bar = true.alphas_cumprod(beta)
        return variance + c_t**2 * (1 - alpha_bar) - (1 - np.concatenate([np.ones(1), alpha_bar[:-1]]))

    assert_law(0, law(beta, function), law, beta, reduction=len(beta))


@pytest.mark.parametrize("beta", [LINEAR, COSINE], ids=["linear", "cosine"])
@pytest.mark.parametrize("posterior", [true.posterior, ours("posterior")], ids=["reference", "ours"])
def test_the_posterior_and_its_identities_at_forty_digits(posterior: Any, beta: np.ndarray) -> None:
    t = every(beta)
    want: tuple[list[float], ...] = ([], [], [])
    with mpmath.workdps(DIGITS):
        before = mpmath.mpf(1)
        for b in map(mpmath.mpf, beta.tolist()):
            now = before * (1 - b)
            c_0, c_t = mpmath.sqrt(before) * b / (1 - now), mpmath.sqrt(1 - b) * (1 - before) / (1 - now)
            variance = b * (1 - before) / (1 - now)
            rounding = 8 * mpmath.eps / b  # eight operations, and 1 − ᾱ, which at its smallest is β_0
            assert abs(c_0 + c_t * mpmath.sqrt(now) - mpmath.sqrt(before)) <= rounding
            assert abs(variance + c_t**2 * (1 - now) - (1 - before)) <= rounding
            for row, value in zip(want, (c_0, c_t, variance), strict=True):
                row.append(float(value))
            before = now
    for k, (found, values) in enumerate(zip(weights(posterior, beta, t), want, strict=True)):
        assert_law(values, found, lambda b, k=k: weights(true.posterior, b, t)[k], beta, reduction=len(beta))


@both("posterior")
@given(beta=schedules)
def test_the_first_posterior_is_the_data_without_variance(function: Any, beta: np.ndarray) -> None:
    start = np.array([0])
    c_0, c_t, variance = weights(function, beta, start)
    assert c_t[0] == 0 and variance[0] == 0
    assert_law(1, c_0, lambda b: weights(true.posterior, b, start)[0], beta, reduction=len(beta))


@both("posterior")
@given(beta=schedules.filter(lambda b: len(b) > 1))
def test_the_posterior_is_a_product_of_gaussians(function: Any, beta: np.ndarray) -> None:
    """1/β̃_t = α_t/β_t + 1/(1 − ᾱ_{t−1})"""
    t = every(beta)[1:]

    def law(beta: Any, posterior: Any = true.posterior) -> Any:
        before = true.alphas_cumprod(beta)[:-1]
        return weights(posterior, beta, t)[2] * ((1 - beta[1:]) / beta[1:] + 1 / (1 - before))

    assert_law(1, law(beta, function), law, beta, reduction=len(beta))


@both("p_sample")
@given(seed=seeds, beta=schedules)
def test_algorithm_2_is_the_posterior_at_the_estimate(function: Any, seed: int, beta: np.ndarray) -> None:
    """A clip that holds nothing back changes nothing."""
    x_t, eps, noise = np.random.default_rng(seed).standard_normal((3, len(beta), 2))
    t = every(beta)

    def law(x_t: Any, eps: Any, noise: Any, beta: Any, p_sample: Any = flat.p_sample, clip: Any = 1e9) -> Any:
        return p_sample(x_t, t, eps, noise, beta, clip)

    arguments = (x_t, eps, noise, beta)
    assert_law(law(*arguments, function, False), law(*arguments, function), law, *arguments, reduction=len(beta))


@both("p_sample")
@given(seed=seeds, beta=schedules, c=st.sampled_from((True, 0.5, 2.0)))
def test_the_last_step_returns_the_clipped_estimate_and_looks_at_no_noise(
    function: Any, seed: int, beta: np.ndarray, c: Any
) -> None:
    x_t, eps, noise = 3 * np.random.default_rng(seed).standard_normal((3, 1, 8))
    t, alpha_bar = np.array([0]), true.alphas_cumprod(beta)

    def law(x_t: Any, eps: Any, beta: Any) -> Any:
        return true.p_sample(x_t, t, eps, noise, beta, clip=c)

    want = np.clip(true.predict_x0(x_t, t, eps, alpha_bar), -float(c), float(c))
    assert_law(want, function(x_t, t, eps, noise, beta, c), law, x_t, eps, beta, reduction=len(beta))
    assert np.array_equal(function(x_t, t, eps, noise, beta, c), function(x_t, t, eps, noise * np.nan, beta, c))


GOLDEN_LINEAR = {
    0: (".9999", "1", "0", "0"),
    1: (".9997800920720721", ".54529149951027", ".45470849899056", "5.4531876613026e-5"),
    9: (".9981052047858346", ".14727371743086", ".85272622610236", "2.3818202782345e-4"),
    249: (".5240853738253605", ".0077166571822718", ".99188038450526", ".0050317208679173"),
    499: (".07858724288177824", ".003070071114265", ".99410667021017", ".010031355414614"),
    749: (".00335055043893678", "8.7896677427362e-4", ".99241069801285", ".015019250026007"),
    999: ("4.035829765375683e-5", "1.2835148717225e-4", ".98994867826752", ".019999983526561"),
}


@pytest.mark.parametrize("fused", [False, True], ids=["reference", "ours"])
def test_golden_values_of_the_linear_schedule_and_its_posterior(fused: bool) -> None:
    t = np.array(list(GOLDEN_LINEAR))
    one = np.ones((len(t), 1))
    for column in range(4):  # ᾱ, c_0, c_t, β̃

        def law(beta: Any, column: int = column) -> Any:
            return (true.alphas_cumprod(beta)[t], *true.posterior_coefficients(t, beta))[column]

        B = bound(law, LINEAR, reduction=1000).B
        if fused:
            mean_0, variance = ours("posterior")(one, 0 * one, t, LINEAR)
            mean_t, _ = ours("posterior")(0 * one, one, t, LINEAR)
            found = (ours("alphas_cumprod")(LINEAR)[t], mean_0[:, 0], mean_t[:, 0], variance[:, 0])[column]
        else:
            found = law(LINEAR)
        for row, out, b in zip(GOLDEN_LINEAR.values(), found, B, strict=True):
            assert_prints(row[column], out, b)


# -- the digits through the chain -------------------------------------------------------------------------------------


def test_diffusers_takes_the_noise_it_is_given() -> None:
    pytest.importorskip("diffusers")
    table = torch.from_numpy(true.alphas_cumprod(LINEAR))
    x, t = torch.zeros(1, 4, dtype=torch.float64), torch.tensor([500])
    noise = torch.arange(1.0, 5.0, dtype=torch.float64)[None]
    found, _ = peers.step(peers.scheduler(alphas_cumprod=table), x, t, x, noise)
    zero = np.zeros((1, 4))

    def law(beta: Any) -> Any:
        return true.p_sample(zero, t.numpy(), zero, noise.numpy(), beta)

    assert_law(law(LINEAR), found.numpy(), law, LINEAR, reduction=1000)


@pytest.mark.parametrize("clip", [False, True], ids=["unclipped", "clipped"])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize(
    "dtype, table",
    [("float32", torch.float64), ("float16", torch.float32), ("bfloat16", torch.float32)],
    ids=["float32, float64 tables", "float16, its own tables", "bfloat16, its own tables"],
)
def test_digits_walk_back_with_diffusers_step_by_step(dtype: str, table: Any, schedule: str, clip: bool) -> None:
    """From step 99 to 0; each step starts where diffusers' last one ended, and the model knows the digit."""
    pytest.importorskip("diffusers")
    pytest.importorskip("sklearn")
    fmt, generator = precision(dtype), np.random.default_rng(1)
    x_0, beta = draws.digits(schedule)["x_0"], draws.betas(100, schedule)
    alpha_bar, units = true.alphas_cumprod(beta), [fmt.u, 0.0, fmt.u, fmt.u, F64.u, 0.0]
    made = peers.scheduler(**peers.tables(torch.from_numpy(beta), table), clip_sample=clip)
    x = round_to(generator.standard_normal(x_0.shape), dtype)
    for i in reversed(range(100)):
        t = np.full(len(x), i)
        eps = round_to((x - math.sqrt(alpha_bar[i]) * x_0) / math.sqrt(1 - alpha_bar[i]), dtype)
        noise = round_to(generator.standard_normal(x.shape), dtype)
        allowed = bounds(flat.p_sample, [x, t, eps, noise, beta, clip], units, fmt, 1)[0]
        x_t, e, z = (torch.from_numpy(a).to(fmt.torch) for a in (x, eps, noise))
        steps = torch.from_numpy(t)
        found, _ = peers.step(made, e, steps, x_t, z)
        mine = fast.p_sample(x_t, steps, e, z, torch.from_numpy(beta), clip=clip)
        assert allowed.ratio(mine.double().numpy()).max() <= LIMITS["fused"], f"ours at step {i}"
        assert allowed.ratio(found.double().numpy()).max() <= LIMITS["eager"], f"diffusers at step {i}"
        x = found.double().numpy()
    assert np.corrcoef(x.ravel(), x_0.ravel())[0, 1] > 1 - fmt.u**0.5, "the chain ends at the digits"


# -- validation --------------------------------------------------------------------------------------------------

X, STEPS, TABLE = torch.zeros(2, 3), torch.tensor([0, 4]), torch.linspace(0.9, 0.1, 5, dtype=torch.float64)
REFUSED = {
    "x_0 had dtype torch.int64": lambda: fast.q_sample(X.long(), STEPS, X, TABLE),
    "x_0 was list": lambda: fast.q_sample([0.0], STEPS, X, TABLE),  # type: ignore[arg-type]
    "noise was (2, 4) torch.float32": lambda: fast.q_sample(X, STEPS, torch.zeros(2, 4), TABLE),
    "noise was (2, 3) torch.float16": lambda: fast.q_sample(X, STEPS, X.half(), TABLE),
    "eps had dtype torch.int32": lambda: fast.predict_x0(X, STEPS, X.int(), TABLE),
    "x_t was (2, 3) torch.float64": lambda: fast.posterior(X, X.double(), STEPS, TABLE),
    "t was between 0 and 5; it must lie in [0, 5)": lambda: fast.q_sample(X, torch.tensor([0, 5]), X, TABLE),
    "t was between -1 and 0": lambda: fast.predict_x0(X, torch.tensor([0, -1]), X, TABLE),
    "t had dtype torch.float32": lambda: fast.q_sample(X, STEPS.float(), X, TABLE),
    "t had dtype torch.bool": lambda: fast.q_sample(X, STEPS.bool(), X, TABLE),
    "t had shape (1,); it must be (2,)": lambda: fast.q_sample(X, STEPS[:1], X, TABLE),
    "t was int": lambda: fast.q_sample(X, 3, X, TABLE),  # type: ignore[arg-type]
    "alphas_cumprod had dtype torch.float32": lambda: fast.q_sample(X, STEPS, X, TABLE.float()),
    "alphas_cumprod had shape (5, 1)": lambda: fast.q_sample(X, STEPS, X, TABLE[:, None]),
    "clip was -1.0; it must be False, True or a positive number": lambda: fast.p_sample(
        X, STEPS, X, X, TABLE, clip=-1.0
    ),
    "clip was None": lambda: fast.p_sample(X, STEPS, X, X, TABLE, clip=None),  # type: ignore[arg-type]
    "noise was (3, 2)": lambda: fast.p_losses(X, X.T),
    "prediction had dtype torch.int64": lambda: fast.p_losses(X.long(), X.long()),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_bad_input_is_refused_in_one_sentence(sentence: str) -> None:
    assert_refused(REFUSED[sentence], sentence)


@pytest.mark.parametrize("integer", INTEGERS, ids=str)
def test_steps_may_have_any_integer_type(integer: torch.dtype) -> None:
    assert torch.equal(fast.q_sample(X, STEPS.to(integer), X + 1, TABLE), fast.q_sample(X, STEPS, X + 1, TABLE))


def test_steps_that_vmap_leaves_alone_are_still_checked() -> None:
    def noisy(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return fast.q_sample(x, t, x, TABLE)

    over_x = torch.vmap(noisy, in_dims=(0, None))
    assert torch.equal(over_x(X[None] + 1, STEPS)[0], noisy(X + 1, STEPS))
    with pytest.raises(ValueError, match=r"t was between 0 and 5; it must lie in \[0, 5\)"):
        over_x(X[None], torch.tensor([0, 5]))
    over_both = torch.vmap(noisy)
    assert torch.equal(over_both(X[None] + 1, STEPS[None])[0], noisy(X + 1, STEPS))
