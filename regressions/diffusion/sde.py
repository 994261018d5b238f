"""Known bugs of the schedules and of the equations in continuous time: the bridge, the rival schedules, 1 − t for ᾱ."""

from __future__ import annotations

from typing import Any

import numpy as np

from trueness.reference import diffusion as true
from trueness.regressions._lib.commands import show
from trueness.tools.spec.model import Bug

ATLAS = "ATLAS (OT-diffusion-toolkit), changelog of 2025-11-20"
FASTSB = "FastSB-OT kernels.py changelog, 2025-11-28"
SONG = "Song et al. 2021 (2011.13456) eq. 11 and 13"
COSINE = "Nichol & Dhariwal 2021 (2102.09672) eq. 17"
KARRAS = "Karras et al. 2022 (2206.00364) eq. 5"


# -- the Schrödinger bridge -------------------------------------------------------------------------------------------


def snr_sigmas(alphas_cumprod: Any) -> Any:
    """√((1 − ᾱ)/ᾱ): the noise scale of x/√ᾱ"""
    return np.sqrt(np.maximum((1 - alphas_cumprod) / alphas_cumprod, 1e-8))


def exploding_sign(t: Any, s: Any) -> Any:
    """f = −σ'/σ, g² = max(−2 σ σ', 0) of σ² = (1 − ᾱ)/ᾱ: the exploding process with the sign of its diffusion lost

    With β = −ᾱ'/ᾱ, (σ²)' = β/ᾱ, so that σ'/σ = β/(2 (1 − ᾱ)) and 2 σ σ' = β/ᾱ.
    """
    _, beta = true.cosine_sde_coefficients(t, s)
    alpha_bar = true.cosine_alphas_cumprod(t, s)
    return -beta / (2 * (1 - alpha_bar)), np.maximum(-beta / alpha_bar, 0)


def clamped_orientation(t: Any, sigma_min: Any, sigma_max: Any, rho: Any) -> Any:
    """β = max(−d log ᾱ/dt, 0) of an ᾱ that grows with t"""
    _, beta = true.karras_sde_coefficients(t, sigma_min, sigma_max, rho)
    clamped = np.maximum(-beta, 0)
    return -clamped / 2, clamped


def central_difference(t: Any, s: Any) -> Any:
    """β from ᾱ at t ± 10⁻³, held in [0, 1]"""
    before, after = np.maximum(t - 1e-3, 0), np.minimum(t + 1e-3, 1)
    slope = (true.cosine_alphas_cumprod(after, s) - true.cosine_alphas_cumprod(before, s)) / (after - before)
    beta = np.maximum(-slope / true.cosine_alphas_cumprod(t, s), 0)
    return -beta / 2, beta


def without_score(x: Any, score: Any, f: Any, g_squared: Any) -> Any:
    """f x: g² was clamped to 0"""
    return true.probability_flow_drift(x, score, f, 0 * g_squared)


def score_added(x: Any, score: Any, f: Any, g_squared: Any) -> Any:
    """f x + ½ g² ∇ log p"""
    return true.probability_flow_drift(x, score, f, -g_squared)


def whole_diffusion(x: Any, score: Any, f: Any, g_squared: Any) -> Any:
    """f x − g² ∇ log p: the drift of the reverse stochastic equation"""
    return true.probability_flow_drift(x, score, f, 2 * g_squared)


def snr_score(eps: Any, t: Any, alphas_cumprod: Any) -> Any:
    """−ε/√((1 − ᾱ)/ᾱ)"""
    return -eps / true._per_sample(snr_sigmas(alphas_cumprod)[t], eps)


# -- schedules --------------------------------------------------------------------------------------------------------


def without_offset(u: Any, s: Any) -> Any:
    """cos²(πu/2)"""
    return true.cosine_alphas_cumprod(u, 0.0)


def not_normalised(u: Any, s: Any) -> Any:
    """ᾱ(u) = f(u), without the division by f(0)"""
    return true._cosine_square(u, s)


def turned_around(t: Any, sigma_min: Any, sigma_max: Any, rho: Any) -> Any:
    """t = 0 read as clean, as the DDPM schedules have it"""
    return true.karras_sigmas(1 - t, sigma_min, sigma_max, rho)


def evenly_spaced_sigma(t: Any, sigma_min: Any, sigma_max: Any, rho: Any) -> Any:
    """ρ = 1, whatever was asked for"""
    return true.karras_sigmas(t, sigma_min, sigma_max, 1.0)


def deviation_for_variance(t: Any, sigma_min: Any, sigma_max: Any, rho: Any) -> Any:
    """1/(1 + σ)"""
    return 1 / (1 + true.karras_sigmas(t, sigma_min, sigma_max, rho))


def one_minus_time(u: Any, steps: Any, beta_1: Any, beta_T: Any) -> Any:
    """1 − u"""
    return 1 - u


def not_integrated(u: Any, steps: Any, beta_1: Any, beta_T: Any) -> Any:
    """exp(−T β(u) u): the last β for all that came before"""
    return np.exp(-steps * (beta_1 + (beta_T - beta_1) * u**2) * u)


def reaching_its_ends(steps: int, beta_1: Any, beta_T: Any) -> Any:
    """the sigmoid stretched so that the first β is β_1 and the last β_T"""
    low, high = 1 / (1 + np.exp(6.0)), 1 / (1 + np.exp(-6.0))
    share = (true.sigmoid_betas(steps, 0.0, 1.0) - low) / (high - low)
    return beta_1 + (beta_T - beta_1) * share


def per_step(coefficients: Any) -> Any:
    """β of one step where the β of unit time belongs"""

    def variant(t: Any, steps: Any, beta_1: Any, beta_T: Any) -> Any:
        return coefficients(t, 1, beta_1, beta_T)

    return variant


# -- discriminating inputs --------------------------------------------------------------------------------------------

TIMES = np.array([0.0, 0.3, 0.5])
PAPER = (0.002, 80.0, 7.0)
RATES = (1000, 1e-4, 0.02)
ONE = np.ones((1, 1))

BUGS = (
    Bug(
        id="ATLAS-02a",
        formula="diffusion.sigmas",
        title="the bridge takes √((1 − ᾱ)/ᾱ) for σ",
        document=f"{ATLAS}, item 2",
        claim="sigma is √(1 − ᾱ)",
        verdict="real bug, right fix",
        source="Ho, Jain & Abbeel 2020 (2006.11239) eq. 4",
        finding="Right for x/√ᾱ, wrong for x: at ᾱ = 0.1 σ is 3 instead of 0.949.",
        evidence=show("ATLAS_02a"),
        variant=snr_sigmas,
        discriminating_input=(np.array([0.99, 0.5, 0.1]),),
    ),
    Bug(
        id="ATLAS-02b",
        formula="diffusion.cosine_sde_coefficients",
        title="the sign of the exploding process is lost, and g² is clamped to 0",
        document=f"{ATLAS}, item 2",
        claim="f = −β/2 and g² = β replace f = −σ'/σ and g² = −2 σ σ'",
        verdict="real bug, right fix",
        source=SONG,
        finding="At t = 0.3 g² was −2.06 and became 0: the score had no say in the drift. The changelog names the "
        "noise scale only; with the right sign, g² = +2.06, the old pair would have been a process as well.",
        evidence=show("ATLAS_02b"),
        variant=exploding_sign,
        discriminating_input=(np.array([0.3, 0.5]), 0.008),
    ),
    Bug(
        id="ATLAS-02c",
        formula="diffusion.karras_sde_coefficients",
        title="an ᾱ that grows with t has its β clamped to 0",
        document=f"{ATLAS}, item 2, with its own schedule",
        claim="β = −d log ᾱ/dt, held at or above 0",
        verdict="real bug, wrong fix",
        source=f"{SONG}; {KARRAS}",
        finding="In the toolkit's own schedule t = 0 is the noise: −ᾱ'/ᾱ is −15.46 at t = 0.5 and the clamp makes "
        "f = g = 0 everywhere. The fixed solver does not move.",
        evidence=show("ATLAS_02c"),
        variant=clamped_orientation,
        discriminating_input=(TIMES, *PAPER),
    ),
    Bug(
        id="ATLAS-02d",
        formula="diffusion.probability_flow_drift",
        title="the drift without the score",
        document=f"{ATLAS}, item 2",
        claim="the drift is f x − ½ g² score",
        verdict="real bug, right fix",
        source=SONG,
        finding="What was left when g² was clamped to 0.",
        evidence=show("ATLAS_02d"),
        variant=without_score,
        discriminating_input=(ONE, ONE, np.array([-0.5]), np.array([1.0])),
    ),
    Bug(
        id="ATLAS-02e",
        formula="diffusion.cosine_sde_coefficients",
        title="β by a central difference of width 10⁻³",
        document=f"{ATLAS}, item 2",
        claim="β is computed from ᾱ(t ± 0.001), clipped to [0, 1]",
        verdict="real bug, wrong fix",
        source=COSINE,
        finding="Right to 1.6e-6 at t = 0.3, but at t = 0, where the difference is one-sided, β is 6 % too large. The "
        "closed form costs less.",
        evidence=show("ATLAS_02e"),
        variant=central_difference,
        discriminating_input=(TIMES, 0.008),
    ),
    Bug(
        id="ATLAS-02f",
        formula="diffusion.probability_flow_drift",
        title="the score is added instead of subtracted",
        document=f"{ATLAS}, item 2: g² = −2 σ σ' before its clamp",
        claim="the drift is f x − ½ g² score",
        verdict="real bug, right fix",
        source=SONG,
        finding="A negative g² turns the sign of the score.",
        evidence=show("ATLAS_02f"),
        variant=score_added,
        discriminating_input=(ONE, ONE, np.array([-0.5]), np.array([1.0])),
    ),
    Bug(
        id="ATLAS-02g",
        formula="diffusion.probability_flow_drift",
        title="g² where the ordinary equation has ½ g²",
        document=f"{ATLAS}, item 2",
        claim="the drift is f x − ½ g² score",
        verdict="no bug",
        source=f"{SONG}; eq. 6 has the whole g²",
        finding="The factor is right. That of the reverse stochastic equation is kept as what the checks must reject.",
        evidence=show("ATLAS_02g"),
        variant=whole_diffusion,
        discriminating_input=(ONE, ONE, np.array([-0.5]), np.array([1.0])),
    ),
    Bug(
        id="ATLAS-02h",
        formula="diffusion.score_from_eps",
        title="the score is divided by √((1 − ᾱ)/ᾱ)",
        document=f"{ATLAS}, item 2",
        claim="score = −ε/σ with σ = √(1 − ᾱ)",
        verdict="real bug, right fix",
        source=SONG,
        finding="The score of x_t is too small by √ᾱ: to a third at ᾱ = 0.1.",
        evidence=show("ATLAS_02h"),
        variant=snr_score,
        discriminating_input=(ONE, np.array([0]), np.array([0.1])),
    ),
    Bug(
        id="ATLAS-04e",
        formula="diffusion.cosine_alphas_cumprod",
        title="ᾱ = cos²(πu/2), without the offset",
        document=f"{ATLAS}, item 4",
        claim="the offset s = 0.008 was missing",
        verdict="real bug, right fix",
        source=COSINE,
        finding="ᾱ moves by 7e-3 at most, at u = 0.354. The schedule defines a noise level; the toolkit uses it as a "
        "grid of times, whose last one is 3.7e-33.",
        evidence=show("ATLAS_04e"),
        variant=without_offset,
        discriminating_input=(np.array([0.354]), 0.008),
    ),
    Bug(
        id="ATLAS-10b",
        formula="",
        title="the sampler starts at the clean end, from pure noise",
        document=f"{ATLAS}, item 10",
        claim="times run from 1.0 down to 0.01",
        verdict="real bug, wrong fix",
        source=KARRAS,
        finding="With the toolkit's own schedule σ(1) = 0.002: the first step believes the noise to be data. And for a "
        "schedule that is clean at 0, an end of 0.01 leaves σ = 0.025 (cosine) or 0.045 (linear) on the result.",
        evidence=show("ATLAS_10b"),
    ),
    Bug(
        id="ATLAS-22k",
        formula="diffusion.karras_sigmas",
        title="t = 0 is taken for the clean end",
        document=f"{ATLAS}, item 22 (noise.py)",
        claim="the schedule is that of Karras et al.",
        verdict="no bug",
        source=KARRAS,
        finding="σ(0) = 80 is the noise: the other way round than every DDPM schedule. The reading that ATLAS-10 and "
        "ATLAS-02 assume is kept as what the checks must reject.",
        evidence=show("ATLAS_22k"),
        variant=turned_around,
        discriminating_input=(np.array([0.0, 0.25, 1.0]), *PAPER),
    ),
    Bug(
        id="ATLAS-22l",
        formula="diffusion.karras_sigmas",
        title="σ is spaced evenly, ρ = 1",
        document=f"{ATLAS}, item 22 (noise.py)",
        claim="ρ = 7",
        verdict="no bug",
        source=KARRAS,
        finding="The exponent is there. Without it σ(0.5) would be 40 instead of 2.5.",
        evidence=show("ATLAS_22l"),
        variant=evenly_spaced_sigma,
        discriminating_input=(np.array([0.5]), *PAPER),
    ),
    Bug(
        id="ATLAS-22m",
        formula="diffusion.karras_alphas_cumprod",
        title="ᾱ = 1/(1 + σ) instead of 1/(1 + σ²)",
        document=f"{ATLAS}, item 22 (noise.py)",
        claim="ᾱ = 1/(1 + σ²)",
        verdict="no bug",
        source=f"{KARRAS}: x/√(1 + σ²) has unit variance",
        finding="The square is there. Without it ᾱ(0) would be 1/81.",
        evidence=show("ATLAS_22m"),
        variant=deviation_for_variance,
        discriminating_input=(np.array([0.0, 0.25]), *PAPER),
    ),
    Bug(
        id="FSB-03b",
        formula="diffusion.linear_alphas_cumprod",
        title="1 − t for the ᾱ of the linear schedule",
        document=FASTSB,
        claim="the fallback ᾱ = 1 − t is only correct for linear noise schedules",
        verdict="claim false",
        source="Ho, Jain & Abbeel 2020 (2006.11239) §4",
        finding="For the linear schedule it is wrong by up to 0.424, at t = 0.47; for the cosine one by 0.107. It "
        "is right for β_i = 1/(T − i + 1) alone.",
        evidence=show("FSB_03b"),
        variant=one_minus_time,
        discriminating_input=(np.array([0.47]), *RATES),
    ),
    Bug(
        id="FSB-04",
        formula="diffusion.cosine_alphas_cumprod",
        title="the cosine ᾱ without its normalisation f(0)",
        document=FASTSB,
        claim="ᾱ = cos²(((u + s)/(1 + s)) π/2)",
        verdict="real bug, wrong fix",
        source=COSINE,
        finding="Without /f(0), ᾱ(0) is 0.9998446 and not 1. The same variant as ATLAS-04b, documented a second time.",
        evidence=show("FSB_04"),
        variant=not_normalised,
        discriminating_input=(np.array([0.0, 0.25]), 0.008),
        invisible={"float16": "1.6e-4 is below its rounding", "bfloat16": "1.6e-4 is below its rounding"},
    ),
    Bug(
        id="FSB-04b",
        formula="diffusion.quadratic_alphas_cumprod",
        title="β(u) u in the exponent instead of ∫β",
        document=FASTSB,
        claim="the quadratic schedule has ᾱ = exp(−T (β_0 u + (β_1 − β_0) u³/3))",
        verdict="no bug",
        source="the integral of β_0 + (β_1 − β_0) u²",
        finding="The third is there. Without it ᾱ would be that of a process that was always as noisy as it is now.",
        evidence=show("FSB_04b"),
        variant=not_integrated,
        discriminating_input=(np.array([0.5]), *RATES),
    ),
    Bug(
        id="FSB-04c",
        formula="diffusion.quadratic_betas",
        title="the square of a line for a quadratic β",
        document="diffusers: scaled_linear; elsewhere called quadratic",
        claim="the quadratic schedule",
        verdict="convention",
        source="Rombach et al. 2022 (2112.10752), their code",
        finding="(√β_1 + …)² and β_1 + (…)² share their ends and differ in between by up to 6.6e-4 of 0.02. Two names.",
        evidence=show("FSB_04c"),
        variant=true.scaled_linear_betas,
        discriminating_input=RATES,
    ),
    Bug(
        id="FSB-04d",
        formula="diffusion.scaled_linear_betas",
        title="a quadratic β for the square of a line",
        document="diffusers: scaled_linear; elsewhere called quadratic",
        claim="the quadratic schedule",
        verdict="convention",
        source="Rombach et al. 2022 (2112.10752), their code",
        finding="The other way round.",
        evidence=show("FSB_04d"),
        variant=true.quadratic_betas,
        discriminating_input=RATES,
    ),
    Bug(
        id="FSB-04e",
        formula="diffusion.sigmoid_betas",
        title="a sigmoid that reaches its ends",
        document=FASTSB,
        claim="β = sigmoid(linspace(−6, 6, T)) (β_1 − β_0) + β_0",
        verdict="no bug",
        source="Xu et al. 2022 (2203.02923), their code; diffusers",
        finding="As written the first β is 0.0025 of the way above β_0: half as large again for 1e-4 … 0.02. "
        "Stretched to its ends it is another schedule.",
        evidence=show("FSB_04e"),
        variant=reaching_its_ends,
        discriminating_input=RATES,
    ),
    *(
        Bug(
            id=f"FSB-04{letter}",
            formula=f"diffusion.{formula}",
            title="the β of one step for the β of unit time",
            document=FASTSB,
            claim="ᾱ = exp(−T ∫β): the β are counted per step",
            verdict="no bug",
            source=SONG,
            finding="The factor T is there: without it β(1) would be 0.02 instead of 20.",
            evidence=show(f"FSB_04{letter}"),
            variant=per_step(coefficients),
            discriminating_input=(TIMES, *RATES),
        )
        for letter, formula, coefficients in (
            ("f", "linear_sde_coefficients", true.linear_sde_coefficients),
            ("g", "quadratic_sde_coefficients", true.quadratic_sde_coefficients),
        )
    ),
)
