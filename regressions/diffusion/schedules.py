"""Known bugs of the schedules: offsets, clips, ends, and schedules that share a name."""

from __future__ import annotations

from typing import Any

import numpy as np

from trueness.reference import diffusion as true
from trueness.regressions._lib.commands import show
from trueness.regressions.diffusion.sources import ATLAS, COSINE, FASTSB, HOMEWORK, KARRAS, SONG
from trueness.tools.spec.model import Bug


def betas_without_offset(steps: int, s: Any, max_beta: Any) -> Any:
    """s = 0, whatever s is given"""
    return true.cosine_betas(steps, s=0.0, max_beta=max_beta)


def tutorial_clip(steps: int, s: Any, max_beta: Any) -> Any:
    """β clipped to [10⁻⁴, 0.9999]"""
    return np.minimum(np.maximum(true.cosine_betas(steps, s=s, max_beta=0.9999), 1e-4), 0.9999)


def clipped_below(steps: int, s: Any, max_beta: Any) -> Any:
    """β clipped to at least 10⁻³: the limits of α read as limits of β"""
    return np.maximum(true.cosine_betas(steps, s=s, max_beta=max_beta), 1e-3)


def down_to_zero(steps: int, end: Any) -> Any:
    """linspace(1, 0, N)"""
    return true.timesteps(steps, end=0.0)


def without_offset(u: Any, s: Any) -> Any:
    """cos²(πu/2)"""
    return true.cosine_alphas_cumprod(u, s=0.0)


def not_normalised(u: Any, s: Any) -> Any:
    """ᾱ(u) = f(u), without the division by f(0)"""
    return true._cosine_square(u, s)


def turned_around(t: Any, sigma_min: Any, sigma_max: Any, rho: Any) -> Any:
    """t = 0 read as clean, as the DDPM schedules have it"""
    return true.karras_sigmas(1 - t, sigma_min=sigma_min, sigma_max=sigma_max, rho=rho)


def evenly_spaced_sigma(t: Any, sigma_min: Any, sigma_max: Any, rho: Any) -> Any:
    """ρ = 1, whatever ρ is given"""
    return true.karras_sigmas(t, sigma_min=sigma_min, sigma_max=sigma_max, rho=1.0)


def deviation_for_variance(t: Any, sigma_min: Any, sigma_max: Any, rho: Any) -> Any:
    """1/(1 + σ)"""
    return 1 / (1 + true.karras_sigmas(t, sigma_min=sigma_min, sigma_max=sigma_max, rho=rho))


def one_minus_time(u: Any, steps: Any, beta_start: Any, beta_end: Any) -> Any:
    """1 − u"""
    return 1 - u


def not_integrated(u: Any, steps: Any, beta_start: Any, beta_end: Any) -> Any:
    """exp(−T β(u) u): the last β for all that came before"""
    return np.exp(-steps * (beta_start + (beta_end - beta_start) * u**2) * u)


def square_of_a_line(steps: int, beta_start: Any, beta_end: Any) -> Any:
    """(√β_1 + (√β_T − √β_1) i/(T − 1))²"""
    return true.scaled_linear_betas(steps, beta_start=beta_start, beta_end=beta_end)


def quadratic_in_the_step(steps: int, beta_start: Any, beta_end: Any) -> Any:
    """β_1 + (β_T − β_1) (i/(T − 1))²"""
    return true.quadratic_betas(steps, beta_start=beta_start, beta_end=beta_end)


def reaching_its_ends(steps: int, beta_start: Any, beta_end: Any) -> Any:
    """the sigmoid stretched so that the first β is β_1 and the last β_T"""
    low, high = 1 / (1 + np.exp(6.0)), 1 / (1 + np.exp(-6.0))
    share = (true.sigmoid_betas(steps, beta_start=0.0, beta_end=1.0) - low) / (high - low)
    return beta_start + (beta_end - beta_start) * share


def per_step(coefficients: Any) -> Any:
    """β of one step where the β of unit time belongs"""

    def variant(t: Any, steps: Any, beta_start: Any, beta_end: Any) -> Any:
        return coefficients(t, steps=1, beta_start=beta_start, beta_end=beta_end)

    return variant


# -- discriminating inputs --------------------------------------------------------------------------------------------

TIMES = np.array([0.0, 0.3, 0.5])
PAPER = (0.002, 80.0, 7.0)
RATES = (1000, 1e-4, 0.02)

BUGS = (
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
        variant=betas_without_offset,
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
        variant=square_of_a_line,
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
        variant=quadratic_in_the_step,
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
