"""Known bugs of the family diffusion: the noise scale, the schedules, float32 tables, and a changelog of no-ops."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from trueness.reference import diffusion as true
from trueness.regressions._lib.commands import show
from trueness.regressions.diffusion import sampling as _diffusion_sampling
from trueness.regressions.diffusion import sde
from trueness.tools.spec.model import Bug

ATLAS = "ATLAS (OT-diffusion-toolkit), changelog of 2025-11-20"
HOMEWORK = "AFHQ diffusion homework (A3_PartB/diffusion.py), changelog of 2025-11-29"
HO = "Ho, Jain & Abbeel 2020 (2006.11239)"
COSINE = "Nichol & Dhariwal 2021 (2102.09672) eq. 17"


def plain(x: Any) -> Any:
    """x without the arithmetic it carries: a table that was rounded no longer depends on how."""
    return np.asarray(x, dtype=np.float64)


def cast(x: Any, dtype: torch.dtype = torch.float32) -> Any:
    """x rounded to ``dtype``, in float64."""
    return torch.from_numpy(plain(x).copy()).to(dtype).double().numpy()


# -- ATLAS ------------------------------------------------------------------------------------------------------------


def snr_sigma(x_0: Any, t: Any, noise: Any, alphas_cumprod: Any) -> Any:
    """√ᾱ x_0 + √((1 − ᾱ)/ᾱ) z: the noise scale of x/√ᾱ on a signal that is scaled by √ᾱ"""
    alpha_bar = alphas_cumprod[t]
    sigma = np.sqrt(np.maximum((1 - alpha_bar) / alpha_bar, 1e-8))
    return true._per_sample(np.sqrt(alpha_bar), x_0) * x_0 + true._per_sample(sigma, x_0) * noise


def without_offset(steps: int, s: Any, beta_max: Any) -> Any:
    """s = 0, whatever was asked for"""
    return true.cosine_betas(steps, 0.0, beta_max)


def not_normalised(u: Any, s: Any) -> Any:
    """ᾱ(u) = f(u), without the division by f(0)"""
    return true._cosine_square(u, s)


def tutorial_clip(steps: int, s: Any, beta_max: Any) -> Any:
    """β held in [10⁻⁴, 0.9999]"""
    return np.minimum(np.maximum(true.cosine_betas(steps, s, 0.9999), 1e-4), 0.9999)


def clipped_below(steps: int, s: Any, beta_max: Any) -> Any:
    """β held above 10⁻³: the limits of α read as limits of β"""
    return np.maximum(true.cosine_betas(steps, s, beta_max), 1e-3)


def down_to_zero(steps: int, end: Any) -> Any:
    """linspace(1, 0, N)"""
    return true.timesteps(steps, 0.0)


# -- the homework -----------------------------------------------------------------------------------------------------


def fourth_root(x_0: Any, t: Any, noise: Any, alphas_cumprod: Any) -> Any:
    """√√ᾱ x_0 + √√(1 − ᾱ) z"""
    signal, sigma = np.sqrt(np.sqrt(alphas_cumprod[t])), np.sqrt(np.sqrt(1 - alphas_cumprod[t]))
    return true._per_sample(signal, x_0) * x_0 + true._per_sample(sigma, x_0) * noise


def variance_for_sigma(x_0: Any, t: Any, noise: Any, alphas_cumprod: Any) -> Any:
    """√ᾱ x_0 + (1 − ᾱ) z"""
    signal, variance = np.sqrt(alphas_cumprod[t]), 1 - alphas_cumprod[t]
    return true._per_sample(signal, x_0) * x_0 + true._per_sample(variance, x_0) * noise


def noise_at_the_end(x_t: Any, t: Any, eps: Any, noise: Any, betas: Any, clip: Any) -> Any:
    """z is added at t = 0 as well, with variance β_0"""
    last = true._per_sample(t == 0, x_t)
    added = np.where(last, true._per_sample(np.sqrt(betas[t]), x_t) * noise, 0.0)
    return true.p_sample(x_t, t, eps, noise, betas, clip) + added


def swapped(x_0: Any, x_t: Any, t: Any, betas: Any) -> Any:
    """μ̃ = c_t x_0 + c_0 x_t"""
    mean, variance = true.posterior(x_t, x_0, t, betas)
    return mean, variance


def signal_of_this_step(x_0: Any, x_t: Any, t: Any, betas: Any) -> Any:
    """c_0 with √ᾱ_t where √ᾱ_{t−1} belongs"""
    alpha_bar = true.alphas_cumprod(betas)[t]
    _, c_t, variance = true.posterior_coefficients(t, betas)
    c_0 = np.sqrt(alpha_bar) * betas[t] / (1 - alpha_bar)
    return true._per_sample(c_0, x_0) * x_0 + true._per_sample(c_t, x_t) * x_t, true._per_sample(variance, x_t)


def always_clipped(x_t: Any, t: Any, eps: Any, noise: Any, betas: Any, clip: Any) -> Any:
    """x̂_0 held in [−1, 1] unasked"""
    return true.p_sample(x_t, t, eps, noise, betas, True)


def divided_by_variance(x_t: Any, t: Any, eps: Any, alphas_cumprod: Any) -> Any:
    """x̂_0 divided by ᾱ instead of √ᾱ"""
    signal = true._per_sample(np.sqrt(alphas_cumprod[t]), x_t)
    return true.predict_x0(x_t, t, eps, alphas_cumprod) / signal


def fixed_large(x_0: Any, x_t: Any, t: Any, betas: Any) -> Any:
    """the variance β_t instead of β̃_t"""
    mean, _ = true.posterior(x_0, x_t, t, betas)
    return mean, true._per_sample(betas[t], x_t)


def second_for_first(x_0: Any, x_t: Any, t: Any, betas: Any) -> Any:
    """the variance of t = 1 at t = 0 too, so that its logarithm exists"""
    mean, _ = true.posterior(x_0, x_t, t, betas)
    _, _, variance = true.posterior_coefficients(np.maximum(t, min(1, len(betas) - 1)), betas)
    return mean, true._per_sample(variance, x_t)


# -- float32 tables ---------------------------------------------------------------------------------------------------


def float32_linspace(steps: int, beta_1: Any, beta_T: Any) -> Any:
    """torch.linspace in float32"""
    return torch.linspace(float(plain(beta_1)), float(plain(beta_T)), steps, dtype=torch.float32).double().numpy()


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

LINEAR = true.linear_betas(1000, 1e-4, 0.02)
HALF_WAY = np.array([0.5])
ONE, ZERO, START = np.ones((1, 1)), np.zeros((1, 1)), np.array([0])
SMOOTH_HALVES = {
    "float16": "2.6e-4 relative is below its rounding",
    "bfloat16": "2.6e-4 relative is below its rounding",
}
ALL_HALVES = {d: "float32 holds more digits than it shows" for d in ("float16", "bfloat16")}

BUGS = (
    Bug(
        id="ATLAS-01",
        formula="diffusion.q_sample",
        title="the noise scale of x/√ᾱ is added to a signal scaled by √ᾱ",
        document=f"{ATLAS}, item 1",
        claim="training used an SNR formula for sigma; sigma² = 1 − ᾱ is right",
        verdict="real bug, right fix",
        source=f"{HO} eq. 4",
        finding="√((1 − ᾱ)/ᾱ) is the right scale for x/√ᾱ (Karras et al. 2022) and wrong beside √ᾱ x_0: the variance "
        "is 9.1 instead of 1 at ᾱ = 0.1. The changelog calls σ a variance; it is a standard deviation.",
        evidence=show("ATLAS_01"),
        variant=snr_sigma,
        discriminating_input=(ONE, START, ONE, np.array([0.1])),
    ),
    Bug(
        id="ATLAS-04a",
        formula="diffusion.cosine_betas",
        title="the cosine schedule lacks its offset s",
        document=f"{ATLAS}, item 4",
        claim="cos²(πu/2) does not preserve the signal at t = 0; s = 0.008 does",
        verdict="real bug, right fix",
        source=COSINE,
        finding="Without s the first β is 2.5e-6 instead of 4.1e-5. The reason given is wrong: s = 0 has ᾱ(0) = 1 too; "
        "s keeps the first noise level from being too small.",
        evidence=show("ATLAS_04a"),
        variant=without_offset,
        discriminating_input=(1000, 0.008, 0.999),
    ),
    Bug(
        id="ATLAS-04b",
        formula="diffusion.cosine_alphas_cumprod",
        title="the cosine ᾱ is not divided by its value at 0",
        document="FastSB-OT kernels, changelog of 2025-11-28, docstring of the adaptive floor",
        claim="the cosine schedule is ᾱ = cos²(π/2 · (t + s)/(1 + s))",
        verdict="claim false",
        source=COSINE,
        finding="Clean data would have ᾱ = 0.99984 and not 1. The β do not show it: it cancels in their ratio.",
        evidence=show("ATLAS_04b"),
        variant=not_normalised,
        discriminating_input=(np.array([0.0, 0.25]), 0.008),
        invisible={"float16": "1.6e-4 is below its rounding", "bfloat16": "1.6e-4 is below its rounding"},
    ),
    Bug(
        id="ATLAS-04c",
        formula="diffusion.cosine_betas",
        title="β is held in [1e-4, 0.9999]",
        document="DiffiT-v2 fallback scheduler, and a common tutorial",
        claim="betas are clipped to [0.0001, 0.9999]",
        verdict="convention",
        source=COSINE,
        finding="It moves 13 of 1000 β from below and the last one from above; ᾱ by 4e-4 at most, but σ_1 is 0.0100 "
        "instead of 0.0064. A table made so must not meet a sampler that assumes eq. 17.",
        evidence=show("ATLAS_04c"),
        variant=tutorial_clip,
        discriminating_input=(1000, 0.008, 0.999),
    ),
    Bug(
        id="ATLAS-04d",
        formula="diffusion.cosine_betas",
        title="β is held above 1e-3",
        document=f"{HOMEWORK}: alpha clipped to [0.001, 1]",
        claim="the schedule is clipped at 0.001",
        verdict="no bug",
        source=COSINE,
        finding="The clip is on α, so it is β ≤ 0.999 as in eq. 17. Read as a clip of β it would move 191 of 1000 and "
        "ᾱ by 0.08; that variant is kept as what the checks must reject.",
        evidence=show("ATLAS_04d"),
        variant=clipped_below,
        discriminating_input=(1000, 0.008, 0.999),
    ),
    Bug(
        id="ATLAS-10",
        formula="diffusion.timesteps",
        title="the times end at 0 instead of just above it",
        document=f"{ATLAS}, item 10",
        claim="t = 0 divides by zero; ending at 0.01 keeps the noise close to zero",
        verdict="claim false",
        source="Karras et al. 2022 (2206.00364) eq. 5; Song et al. 2021 (2011.13456) App. C",
        finding="In its own schedule t = 0 is the most noise (σ = 80, and 75.7 at 0.01) and nothing is divided by "
        "zero. Ending above 0 is right only where t = 0 is clean.",
        evidence=show("ATLAS_10"),
        variant=down_to_zero,
        discriminating_input=(10, 0.01),
    ),
    Bug(
        id="DDPM-01a",
        formula="diffusion.q_sample",
        title="a root of a root: ᾱ^¼ for √ᾱ",
        document=f"{HOMEWORK}, FIX 1 (critical)",
        claim="q_sample took the fourth root of ᾱ, so the noise level was wrong",
        verdict="no bug",
        source=f"{HO} eq. 4",
        finding="The old code takes ᾱ and one root, the new one takes a table of roots: the same bits. The fourth root "
        "would give a total variance of 1.41; it is kept as what the checks must reject.",
        evidence=show("DDPM_01"),
        variant=fourth_root,
        discriminating_input=(np.ones((2, 1)), np.array([0, 1]), np.ones((2, 1)), np.array([1 / 2, 1 / 16])),
    ),
    Bug(
        id="DDPM-01b",
        formula="diffusion.q_sample",
        title="1 − ᾱ for its root",
        document=f"{HOMEWORK}, FIX 1 (critical)",
        claim="q_sample took a wrong root, so the noise level was wrong",
        verdict="no bug",
        source=f"{HO} eq. 4",
        finding="The other way to miscount the roots; nobody had it.",
        evidence=show("DDPM_01"),
        variant=variance_for_sigma,
        discriminating_input=(ONE, START, ONE, HALF_WAY),
    ),
    Bug(
        id="DDPM-02",
        formula="",
        title="a training run without FID leaves no checkpoint",
        document=f"{HOMEWORK}, FIX 2",
        claim="checkpoints are saved whether or not FID is computed (ticked, and marked as skipped)",
        verdict="process",
        source="the repository at 574bec2 and 20c5f24",
        finding="The only entry that would change what the program does is the one that was not applied.",
        evidence=show("DDPM_02"),
    ),
    Bug(
        id="DDPM-03a",
        formula="diffusion.p_sample",
        title="noise is added at the last step",
        document=f"{HOMEWORK}, FIX 3",
        claim="the last reverse step did not return the estimate of x_0",
        verdict="no bug",
        source=f"{HO} Alg. 2",
        finding="At t = 0 the posterior has c_0 = 1, c_t = 0 and no variance, so the old mean is the estimate, bit "
        "for bit. With a float32 linear table c_0 would be 0.99983. Noise of variance β_0 is kept as what the checks "
        "must reject.",
        evidence=show("DDPM_03"),
        variant=noise_at_the_end,
        discriminating_input=(ONE, START, ZERO, ONE, LINEAR, False),
    ),
    Bug(
        id="DDPM-03b",
        formula="diffusion.posterior",
        title="the weights of x_0 and x_t are swapped",
        document=f"{HOMEWORK}, FIX 3",
        claim="the posterior mean was wrong",
        verdict="no bug",
        source=f"{HO} eq. 7",
        finding="It was right. Swapped weights break c_0 + c_t √ᾱ_t = √ᾱ_{t−1}.",
        evidence=show("DDPM_03"),
        variant=swapped,
        discriminating_input=(ONE, ZERO, np.array([500]), LINEAR),
    ),
    Bug(
        id="DDPM-03c",
        formula="diffusion.posterior",
        title="√ᾱ_t for √ᾱ_{t−1} in the weight of x_0",
        document=f"{HOMEWORK}, FIX 3",
        claim="the posterior mean was wrong",
        verdict="no bug",
        source=f"{HO} eq. 7",
        finding="It was right. The weight would be off by √α_t, which is 1 % at the end of the linear schedule.",
        evidence=show("DDPM_03"),
        variant=signal_of_this_step,
        discriminating_input=(ONE, ZERO, np.array([49]), true.cosine_betas(50, 0.008, 0.999)),
    ),
    Bug(
        id="DDPM-04",
        formula="",
        title="three unused table look-ups",
        document=f"{HOMEWORK}, OPT 1",
        claim="9 extractions became 5, sampling is about 30 % faster",
        verdict="claim false",
        source="counting and measuring",
        finding="The listing has 8. Three look-ups are some 10 µs beside a network of hundreds of milliseconds: 0.002 "
        "%.",
        evidence=show("DDPM_04"),
    ),
    Bug(
        id="DDPM-05a",
        formula="",
        title="the model is shown x_0 instead of x_t",
        document=f"{HOMEWORK}, OPT 2",
        claim="p_losses passed x_0 to the model; it now passes x_t",
        verdict="no bug",
        source=f"{HO} eq. 14, Alg. 1",
        finding="A parameter called x_0 received x_t: renamed, the losses are the same bits. A model that is really "
        "shown x_0 cannot know the noise, and its loss says so.",
        evidence=show("DDPM_05a"),
    ),
    Bug(
        id="DDPM-05b",
        formula="diffusion.p_losses",
        title="the mean absolute error for the mean square",
        document=f"{HOMEWORK}, p_losses",
        claim="the loss is F.l1_loss",
        verdict="convention",
        source=f"{HO} eq. 14",
        finding="Both are used. The minimiser of L1 is the conditional median, so that score = −ε/σ no longer follows.",
        evidence=show("DDPM_05b"),
        variant=true.p_losses_l1,
        discriminating_input=(np.array([3.0, -1.0]), np.zeros(2)),
    ),
    Bug(
        id="DDPM-06a",
        formula="diffusion.p_sample",
        title="x̂_0 is clipped to [−1, 1] unasked",
        document="diffusers DDPMScheduler: clip_sample=True; the homework clamps as well",
        claim="the estimate of x_0 is clamped to the range of images",
        verdict="convention",
        source=f"{HO} Alg. 2 has no clip; their code has",
        finding="Right for images in [−1, 1] and wrong for anything else: N(0, 1) data comes out with variance 0.516. "
        "Here clip is an argument without a default.",
        evidence=show("DDPM_06a"),
        variant=always_clipped,
        discriminating_input=(np.full((1, 1), 3.0), np.array([10]), ZERO, ZERO, LINEAR, False),
    ),
    Bug(
        id="DDPM-06b",
        formula="diffusion.predict_x0",
        title="x̂_0 is divided by ᾱ instead of √ᾱ",
        document=f"{HOMEWORK}, x_0 estimate",
        claim="x̂_0 = (x_t − √(1 − ᾱ) ε)/√ᾱ, clamped",
        verdict="no bug",
        source=f"{HO} eq. 15",
        finding="The estimate is right. The missing root is kept as what the checks must reject.",
        evidence=show("DDPM_06b"),
        variant=divided_by_variance,
        discriminating_input=(ONE, START, ZERO, np.array([0.25])),
    ),
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
                (true.cosine_betas(1000, 0.008, 0.999),),
                ALL_HALVES,
            ),
            (
                "c",
                "sigmas",
                "σ is taken from ᾱ in float32",
                "diffusers DDPMScheduler; the homework",
                "1 − ᾱ of a rounded ᾱ keeps 3 digits at the start: σ_0 is off by 2.6e-4 relative.",
                float32_sigmas,
                (true.alphas_cumprod(true.cosine_betas(1000, 0.008, 0.999)),),
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
    Bug(
        id="DDPM-08a",
        formula="diffusion.posterior",
        title="the variance is β_t instead of β̃_t",
        document="diffusers variance_type='fixed_large'; the homework has fixed_small",
        claim="either variance may be used",
        verdict="convention",
        source=f"{HO} §3.2",
        finding="β_t is optimal for x_0 ~ N(0, I), β̃_t for a single x_0. With the mean of eq. 7 only β̃_t satisfies "
        "variance + c_t² (1 − ᾱ_t) = 1 − ᾱ_{t−1}.",
        evidence=show("DDPM_08a"),
        variant=fixed_large,
        discriminating_input=(ONE, ONE, np.array([1]), LINEAR),
    ),
    Bug(
        id="DDPM-08b",
        formula="diffusion.posterior",
        title="the variance of t = 1 stands at t = 0",
        document="guided-diffusion: posterior_log_variance_clipped",
        claim="the log variance is clipped because the variance is 0 at the beginning",
        verdict="convention",
        source=f"{HO} eq. 7",
        finding="Harmless where no noise is added at t = 0; added there, it would be noise on the result.",
        evidence=show("DDPM_08b"),
        variant=second_for_first,
        discriminating_input=(ONE, ONE, START, LINEAR),
    ),
    Bug(
        id="DDPM-09",
        formula="",
        title="a sampling loop that misses the first or the last step",
        document=f"{HOMEWORK}, sample()",
        claim="t runs from T − 1 down to 0 and the result is (x + 1)/2",
        verdict="process",
        source=f"{HO} Alg. 2",
        finding="The loop is right, and the clamp keeps the result in [0, 1]. T … 1 reads past the table; stopping at "
        "1 returns a sample that is still noisy.",
        evidence=show("DDPM_09"),
    ),
    *sde.BUGS,
    *_diffusion_sampling.BUGS,
)
