"""Known bugs of the equations in continuous time: the signs, the scale of the score, and the direction of time."""

from __future__ import annotations

from typing import Any

import numpy as np

from trueness.reference import diffusion as true
from trueness.regressions._lib.commands import show
from trueness.regressions.diffusion.sources import ATLAS, COSINE, KARRAS, SONG
from trueness.tools.spec.model import Bug


def snr_sigmas(alphas_cumprod: Any) -> Any:
    """√((1 − ᾱ)/ᾱ): the noise scale of x/√ᾱ"""
    return np.sqrt(np.maximum((1 - alphas_cumprod) / alphas_cumprod, 1e-8))


def exploding_sign(t: Any, s: Any) -> Any:
    """f = −σ'/σ, g² = max(−2 σ σ', 0) of σ² = (1 − ᾱ)/ᾱ: the exploding process with the sign of its diffusion lost

    With β = −ᾱ'/ᾱ, (σ²)' = β/ᾱ, so that σ'/σ = β/(2 (1 − ᾱ)) and 2 σ σ' = β/ᾱ.
    """
    _, beta = true.cosine_sde_coefficients(t, s=s)
    alpha_bar = true.cosine_alphas_cumprod(t, s=s)
    return -beta / (2 * (1 - alpha_bar)), np.maximum(-beta / alpha_bar, 0)


def clamped_orientation(t: Any, sigma_min: Any, sigma_max: Any, rho: Any) -> Any:
    """β = max(−d log ᾱ/dt, 0) of an ᾱ that grows with t"""
    _, beta = true.karras_sde_coefficients(t, sigma_min=sigma_min, sigma_max=sigma_max, rho=rho)
    clamped = np.maximum(-beta, 0)
    return -clamped / 2, clamped


def central_difference(t: Any, s: Any) -> Any:
    """β from ᾱ at t ± 10⁻³, held in [0, 1]"""
    before, after = np.maximum(t - 1e-3, 0), np.minimum(t + 1e-3, 1)
    slope = (true.cosine_alphas_cumprod(after, s=s) - true.cosine_alphas_cumprod(before, s=s)) / (after - before)
    beta = np.maximum(-slope / true.cosine_alphas_cumprod(t, s=s), 0)
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


# -- discriminating inputs --------------------------------------------------------------------------------------------

TIMES = np.array([0.0, 0.3, 0.5])
PAPER = (0.002, 80.0, 7.0)
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
)
