"""Known bugs of the forward process, its loss and one step back by DDPM."""

from __future__ import annotations

from typing import Any

import numpy as np

from trueness.reference import diffusion as true
from trueness.regressions._lib.commands import show
from trueness.regressions.diffusion.sources import ATLAS, DIFFIT, HO, HOMEWORK
from trueness.tools.spec.model import Bug


def snr_sigma(x_0: Any, t: Any, noise: Any, alphas_cumprod: Any) -> Any:
    """√ᾱ x_0 + √((1 − ᾱ)/ᾱ) z: the noise scale of x/√ᾱ on a signal that is scaled by √ᾱ"""
    alpha_bar = alphas_cumprod[t]
    sigma = np.sqrt(np.maximum((1 - alpha_bar) / alpha_bar, 1e-8))
    return true._per_sample(np.sqrt(alpha_bar), x_0) * x_0 + true._per_sample(sigma, x_0) * noise


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
    return true.p_sample(x_t, t, eps, noise, betas, clip=clip) + added


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
    """x̂_0 clipped to [−1, 1] whatever ``clip`` is"""
    return true.p_sample(x_t, t, eps, noise, betas)


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


def clipped_every_step(x_t: Any, t: Any, eps: Any, noise: Any, betas: Any, clip: Any) -> Any:
    """variance β_t, and x_{t−1} itself clipped to [−1, 1]"""
    mean = true.p_sample(x_t, t, eps, 0 * noise, betas, clip=False)
    spread = np.where(true._per_sample(t, x_t) > 0, true._per_sample(np.sqrt(betas[t]), x_t) * noise, 0.0)
    return np.minimum(np.maximum(mean + spread, -1), 1)


# -- discriminating inputs --------------------------------------------------------------------------------------------

LINEAR = true.linear_betas(1000)
HALF_WAY = np.array([0.5])
ONE, ZERO, START = np.ones((1, 1)), np.zeros((1, 1)), np.array([0])

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
        finding="The only entry that would change what the program does is the one that was not applied. Ours saves on "
        "leaving the block, whatever else is computed.",
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
        discriminating_input=(ONE, ZERO, np.array([49]), true.cosine_betas(50)),
    ),
    Bug(
        id="DDPM-04",
        formula="",
        title="three unused table look-ups",
        document=f"{HOMEWORK}, OPT 1",
        claim="9 extractions became 5, sampling is about 30 % faster",
        verdict="claim false",
        source="counting",
        finding="The listing has 8. Three look-ups are three numbers for every sample and step, beside the operations "
        "of a network: of two small convolutions 0.0007 %.",
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
        finding="A parameter called x_0 received x_t; the change is its name. A model that is really given x_0 cannot "
        "know the noise, and its loss says so.",
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
        "Here clip=True is the default, as in diffusers; clip=False is Algorithm 2 as printed.",
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
    Bug(
        id="DDPM-06c",
        formula="diffusion.p_sample",
        title="x itself is clipped to [−1, 1] at every step",
        document=f"{DIFFIT}: fallback sampler",
        claim="a DDPM step with σ² = β",
        verdict="real bug, wrong fix",
        source=f"{HO} eq. 4 and Alg. 2",
        finding="x_t of unit variance leaves the step with variance 0.516: the marginals of every later step are "
        "wrong, and the model is called with data it was not trained on.",
        evidence=show("DDPM_06c"),
        variant=clipped_every_step,
        discriminating_input=(
            np.array([[3.0, -2.0, 0.5]]),
            np.array([500]),
            np.zeros((1, 3)),
            np.ones((1, 3)),
            true.linear_betas(1000),
            False,
        ),
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
)
