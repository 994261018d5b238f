"""Known bugs of float32 tables: what is lost where ᾱ is near 1 or near 0."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from trueness.reference import diffusion as true
from trueness.regressions._lib.commands import show
from trueness.tools.spec.model import Bug


def plain(x: Any) -> Any:
    """x without the arithmetic it carries: a table that was rounded no longer depends on how."""
    return np.asarray(x, dtype=np.float64)


def cast(x: Any, dtype: torch.dtype = torch.float32) -> Any:
    """x rounded to ``dtype``, in float64."""
    return torch.from_numpy(plain(x).copy()).to(dtype).double().numpy()


def float32_linspace(steps: int, beta_start: Any, beta_end: Any) -> Any:
    """torch.linspace in float32"""
    return torch.linspace(float(plain(beta_start)), float(plain(beta_end)), steps, dtype=torch.float32).double().numpy()


def float32_alphas_cumprod(betas: Any) -> Any:
    """∏ (1 − β) of β in float32"""
    return torch.cumprod(1 - torch.from_numpy(plain(betas).copy()).float(), 0).double().numpy()


def float32_sigmas(alphas_cumprod: Any) -> Any:
    """√(1 − ᾱ) of ᾱ in float32"""
    return np.sqrt(1 - cast(alphas_cumprod))


def q_sample_after_cast(dtype: torch.dtype) -> Any:
    """√ᾱ x_0 + √(1 − ᾱ) z with ᾱ, √ᾱ and √(1 − ᾱ) in ``dtype``"""

    def variant(x_0: Any, t: Any, noise: Any, alphas_cumprod: Any) -> Any:
        alpha_bar = cast(cast(alphas_cumprod), dtype)[t]
        signal, sigma = cast(np.sqrt(alpha_bar), dtype), cast(np.sqrt(cast(1 - alpha_bar, dtype)), dtype)
        return true._per_sample(signal, x_0) * x_0 + true._per_sample(sigma, x_0) * noise

    return variant


def q_sample_float32_table(x_0: Any, t: Any, noise: Any, alphas_cumprod: Any) -> Any:
    """ᾱ in float32, the rest in the type of the data"""
    return true.q_sample(x_0, t, noise, cast(alphas_cumprod))


def root(c: Any) -> Any:
    """√c as torch has it for single float32 numbers: not always the nearest"""
    return np.array([float(number**0.5) for number in torch.from_numpy(c)], dtype=np.float32)


def float32_coefficients(t: Any, betas: Any) -> Any:
    """√ᾱ, √(1 − ᾱ), c_0, c_t, β̃ and √β̃ of float32 tables, in float32, β taken back from ᾱ"""
    table = float32_alphas_cumprod(betas).astype(np.float32)
    now, one = table[t], np.float32(1)
    before = np.where(t > 0, table[np.maximum(t - 1, 0)], one)
    noisy, alpha = one - now, now / before
    beta = one - alpha
    c_0, c_t = root(before) * beta / noisy, root(alpha) * (one - before) / noisy
    variance = np.where(t > 0, np.maximum((one - before) / noisy * beta, np.float32(1e-20)), np.float32(0))
    return tuple(c.astype(np.float64) for c in (root(now), root(noisy), c_0, c_t, variance, root(variance)))


def float32_predict_x0(x_t: Any, t: Any, eps: Any, alphas_cumprod: Any) -> Any:
    """√ᾱ and √(1 − ᾱ) of ᾱ in float32, in float32"""
    alpha_bar = cast(alphas_cumprod)[t].astype(np.float32)
    signal, sigma = root(alpha_bar).astype(np.float64), root(1 - alpha_bar).astype(np.float64)
    return (x_t - true._per_sample(sigma, x_t) * eps) / true._per_sample(signal, x_t)


def float32_posterior(x_0: Any, x_t: Any, t: Any, betas: Any) -> Any:
    _, _, c_0, c_t, variance, _ = float32_coefficients(t, betas)
    return true._per_sample(c_0, x_0) * x_0 + true._per_sample(c_t, x_t) * x_t, true._per_sample(variance, x_t)


def float32_p_sample(x_t: Any, t: Any, eps: Any, noise: Any, betas: Any, clip: Any) -> Any:
    signal, sigma, c_0, c_t, _, deviation = (true._per_sample(c, x_t) for c in float32_coefficients(t, betas))
    x_0 = (x_t - sigma * eps) / signal
    if clip is not False:
        c = 1.0 if clip is True else clip
        x_0 = np.minimum(np.maximum(x_0, -c), c)
    return c_0 * x_0 + c_t * x_t + np.where(true._per_sample(t, x_t) > 0, deviation * noise, 0.0)


# -- discriminating inputs --------------------------------------------------------------------------------------------

LINEAR = true.linear_betas(1000)
ONE, ZERO, START = np.ones((1, 1)), np.zeros((1, 1)), np.array([0])
SMOOTH_HALVES = {
    "float16": "2.6e-4 relative is below its rounding",
    "bfloat16": "2.6e-4 relative is below its rounding",
}
ALL_HALVES = {d: "float32 holds more digits than it shows" for d in ("float16", "bfloat16")}

BUGS = (
    *(
        Bug(
            id=f"DDPM-07{letter}",
            formula=f"diffusion.{formula}",
            title=title,
            document=document,
            claim="schedules are kept in float32",
            verdict="convention",
            source="float64 tables, cast last; 1 − ᾱ before the cast",
            finding=finding,
            evidence=show(f"DDPM_07{letter}"),
            variant=variant,
            discriminating_input=discriminating_input,
            invisible=invisible,
        )
        for letter, formula, title, document, finding, variant, discriminating_input, invisible in (
            (
                "a",
                "linear_betas",
                "the linear β are made in float32",
                "diffusers DDPMScheduler",
                "Right to float32's rounding; what is lost is lost where 1 − β is multiplied up.",
                float32_linspace,
                (1000, 1e-4, 0.02),
                {"float32": "torch.linspace is right to its rounding", **ALL_HALVES},
            ),
            (
                "b",
                "alphas_cumprod",
                "ᾱ is multiplied up from float32 β",
                "diffusers DDPMScheduler; the homework",
                "The product inherits the rounding of every 1 − β: ᾱ is off by 1.3e-5 relative at the end of the "
                "cosine schedule, where 1 − β = 0.001 has kept 5 digits.",
                float32_alphas_cumprod,
                (true.cosine_betas(1000),),
                ALL_HALVES,
            ),
            (
                "c",
                "sigmas",
                "σ is taken from ᾱ in float32",
                "diffusers DDPMScheduler; the homework",
                "1 − ᾱ of a rounded ᾱ keeps 3 digits at the start: σ_0 is off by 2.6e-4 relative.",
                float32_sigmas,
                (true.alphas_cumprod(true.cosine_betas(1000)),),
                SMOOTH_HALVES,
            ),
            (
                "d",
                "q_sample",
                "1 − ᾱ is taken after ᾱ was rounded to float32",
                "diffusers DDPMScheduler.add_noise",
                "The noise of the first step is off by 8e-5 relative on the linear schedule, 2.6e-4 on the cosine one.",
                q_sample_float32_table,
                (ZERO, START, ONE, true.alphas_cumprod(LINEAR)),
                SMOOTH_HALVES,
            ),
            (
                "e",
                "q_sample",
                "1 − ᾱ is taken after ᾱ was rounded to float16",
                "diffusers DDPMScheduler.add_noise with float16 data",
                "ᾱ_0 = 0.9999 becomes 1: the first steps add no noise at all.",
                q_sample_after_cast(torch.float16),
                (ZERO, START, ONE, true.alphas_cumprod(LINEAR)),
                {},
            ),
            (
                "f",
                "q_sample",
                "1 − ᾱ is taken after ᾱ was rounded to bfloat16",
                "diffusers DDPMScheduler.add_noise with bfloat16 data",
                "ᾱ above 0.998 becomes 1: of the linear schedule the first nine steps add no noise at all.",
                q_sample_after_cast(torch.bfloat16),
                (ZERO, START, ONE, true.alphas_cumprod(LINEAR)),
                {},
            ),
            (
                "g",
                "predict_x0",
                "√ᾱ and √(1 − ᾱ) are taken in float32",
                "diffusers DDPMScheduler.step",
                "x̂_0 inherits 8e-5 of the noise of the first step.",
                float32_predict_x0,
                (ZERO, START, ONE, true.alphas_cumprod(LINEAR)),
                SMOOTH_HALVES,
            ),
            (
                "h",
                "posterior",
                "β is taken back from ᾱ in float32",
                "diffusers DDPMScheduler.step",
                "c_0 and β̃ of the first steps are off by up to 4e-4 relative; c_0 = 1 at t = 0 is kept.",
                float32_posterior,
                (ONE, ZERO, np.array([1]), LINEAR),
                ALL_HALVES,
            ),
            (
                "i",
                "p_sample",
                "one step back in float32 tables",
                "diffusers DDPMScheduler.step",
                "The estimate inherits the noise's 8e-5 of the first step, and the mean the posterior's 4e-4.",
                float32_p_sample,
                (ZERO, START, ONE, ZERO, LINEAR, False),
                ALL_HALVES,
            ),
        )
    ),
)
