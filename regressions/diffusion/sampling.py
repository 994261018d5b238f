"""Known bugs of sampling: the loop and its modes, DDIM, guidance, and what a changelog says it has done and tested."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from trueness.reference import diffusion as true
from trueness.regressions._lib.commands import show
from trueness.tools.spec.model import Bug

HOMEWORK = "AFHQ diffusion homework (A3_PartB/diffusion.py), changelog of 2025-11-29"
DIFFIT = "DiffiT-v2, changelog of 2025-11"
HO = "Ho, Jain & Abbeel 2020 (2006.11239)"
DDIM = "Song, Meng & Ermon 2021 (2010.02502) eq. 12 and 16"
GUIDANCE = "Ho & Salimans 2022 (2207.12598) eq. 6"
DIT = "Peebles & Xie 2023 (2212.09748), code"


# -- one step ---------------------------------------------------------------------------------------------------------


def clipped_every_step(x_t: Any, t: Any, eps: Any, noise: Any, betas: Any, clip: Any) -> Any:
    """variance β_t, and x_{t−1} itself held in [−1, 1]"""
    mean = true.p_sample(x_t, t, eps, 0 * noise, betas, False)
    spread = np.where(true._per_sample(t, x_t) > 0, true._per_sample(np.sqrt(betas[t]), x_t) * noise, 0.0)
    return np.minimum(np.maximum(mean + spread, -1), 1)


def ddim_with(direction: Any = None, recompute: bool | None = None, to_one: bool = True) -> Any:
    """``ddim_step`` with another weight of ε, a fixed ``recompute_eps``, or the data at ᾱ_0 instead of 1."""

    def variant(
        x_t: Any, t: Any, t_prev: Any, eps: Any, noise: Any, alphas_cumprod: Any, eta: Any, clip: Any, again: Any
    ) -> Any:
        before = t_prev if to_one else np.maximum(t_prev, 0)
        if not to_one and (t <= before).any():  # the first step then goes nowhere, and its formula says so
            moved = np.where(t <= before, -1, before)
            still = true.ddim_step(x_t, t, moved, eps, noise, alphas_cumprod, eta, clip, again)
            there = at_first(x_t, t, eps, alphas_cumprod, clip, again)
            return np.where(true._per_sample(t <= before, x_t), there, still)
        again = again if recompute is None else recompute
        right = true.ddim_step(x_t, t, before, eps, noise, alphas_cumprod, eta, clip, again)
        if direction is None:
            return right
        a, b, sigma = true.ddim_coefficients(t, before, alphas_cumprod, eta)
        x_0 = true.predict_x0(x_t, t, eps, alphas_cumprod)
        if clip is not False:
            c = 1.0 if clip is True else clip
            x_0 = np.minimum(np.maximum(x_0, -c), c)
            eps = true._implied_eps(x_t, t, x_0, alphas_cumprod) if again else eps
        return right + true._per_sample(direction(a, b, sigma) - b, x_t) * eps

    return variant


def at_first(x_t: Any, t: Any, eps: Any, alphas_cumprod: Any, clip: Any, again: Any) -> Any:
    """√ᾱ_0 x̂_0 + √(1 − ᾱ_0) ε"""
    x_0 = true.predict_x0(x_t, t, eps, alphas_cumprod)
    if clip is not False:
        c = 1.0 if clip is True else clip
        x_0 = np.minimum(np.maximum(x_0, -c), c)
        eps = true._implied_eps(x_t, t, x_0, alphas_cumprod) if again else eps
    return true.q_sample(x_0, t, eps, alphas_cumprod)


def whole_noise(a: Any, b: Any, sigma: Any) -> Any:
    """√(1 − ᾱ_p), without − σ²"""
    return np.sqrt(b * b + sigma * sigma)


def as_printed(
    x_t: Any, t: Any, t_prev: Any, eps: Any, noise: Any, alphas_cumprod: Any, eta: Any, clip: Any, again: Any
) -> Any:
    """1 − ᾱ_p − σ² from a float32 table, subtracted as printed, and its root"""
    table = torch.from_numpy(np.array(alphas_cumprod, dtype=np.float64)).float()
    now = table[torch.from_numpy(np.array(t))]
    before = torch.cat([table, torch.ones(1)])[torch.from_numpy(np.array(t_prev))]  # −1 is the last one
    sigma = np.asarray(eta, dtype=np.float64).item() * ((1 - before) / (1 - now) * (1 - now / before)) ** 0.5
    root = ((1 - before - sigma**2) ** 0.5).double().numpy()
    return ddim_with(lambda a, b, sigma: root)(x_t, t, t_prev, eps, noise, alphas_cumprod, eta, clip, again)


# -- guidance ---------------------------------------------------------------------------------------------------------


def swapped_roles(function: Any) -> Any:
    """ε_c and ε_u exchanged"""
    return lambda eps_cond, eps_uncond, w: function(eps_uncond, eps_cond, w)


def first_three(eps_cond: Any, eps_uncond: Any, w: Any) -> Any:
    """Of images with channels only the first three are guided, unasked"""
    if np.ndim(eps_cond) < 2:
        return true.classifier_free_guidance(eps_cond, eps_uncond, w)
    return true.three_channel_guidance(eps_cond, eps_uncond, w)


def rest_without_condition(eps_cond: Any, eps_uncond: Any, w: Any) -> Any:
    """the channels that are not guided come from ε_u"""
    guided = true.classifier_free_guidance(eps_cond[:, :3], eps_uncond[:, :3], w)
    return np.concatenate([guided, eps_uncond[:, 3:]], axis=1)


def constant_weight(t: Any, steps: Any, w_max: Any, power: Any) -> Any:
    """w_max at every time"""
    return w_max + 0 * t


def weight_turned_around(t: Any, steps: Any, w_max: Any, power: Any) -> Any:
    """(t/T)^p: guided at the noisy end"""
    return true.power_cosine_weight(steps - t, steps, w_max, power)


def power_of_the_cosine(t: Any, steps: Any, w_max: Any, power: Any) -> Any:
    """((1 − cos(π (1 − t/T)))/2)^p: the power outside"""
    return 1 + (w_max - 1) * ((1 - np.cos(np.pi * (1 - t / steps))) / 2) ** power


# -- discriminating inputs --------------------------------------------------------------------------------------------

LINEAR = true.alphas_cumprod(true.linear_betas(1000, 1e-4, 0.02))
COSINE = true.alphas_cumprod(true.cosine_betas(1000, 0.008, 0.999))
ONE, ZERO = np.ones((1, 1)), np.zeros((1, 1))
FROM, TO, LAST = np.array([500]), np.array([480]), np.array([-1])
PAIR = (np.array([1.0, -0.5]), np.array([0.25, 2.0]))
LATENT = (np.arange(1.0, 5.0).reshape(1, 4), -np.arange(1.0, 5.0)[::-1].reshape(1, 4))


def process(id: str, title: str, claim: str, finding: str, verdict: str = "process", document: str = HOMEWORK) -> Bug:
    """An entry without a formula."""
    return Bug(
        id=id,
        formula="",
        title=title,
        document=document,
        claim=claim,
        verdict=verdict,
        source="the repository at 574bec2 and 20c5f24",
        finding=finding,
        evidence=show(id.replace("-", "_")),
    )


BUGS = (
    process(
        "DDPM-02b",
        "sampling leaves the model in eval mode",
        "sample() calls model.eval()",
        "It never calls train() again: from the first picture on, dropout and batch statistics stay off for the "
        "rest of the training. Nowhere documented.",
        "real bug, wrong fix",
    ),
    process(
        "DDPM-02c",
        "resuming repeats the last step",
        "the checkpoint holds the step it was written at",
        "A checkpoint of step n that resumes at n takes step n twice. What is stored must be the next step.",
        "real bug, wrong fix",
    ),
    process(
        "DDPM-02d",
        "forward(x_0, noise) ignores its noise",
        "forward takes the noise as an argument",
        "It draws its own. A caller who fixes the noise, to compare two models, compares them on different noise.",
        "real bug, wrong fix",
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
        "wrong, and the model is asked about data it never saw.",
        evidence=show("DDPM_06c"),
        variant=clipped_every_step,
        discriminating_input=(
            np.array([[3.0, -2.0, 0.5]]),
            np.array([500]),
            np.zeros((1, 3)),
            np.ones((1, 3)),
            true.linear_betas(1000, 1e-4, 0.02),
            False,
        ),
    ),
    process(
        "DDPM-09b",
        "a loop over T … 1",
        "t runs from T − 1 down to 0",
        "The paper counts from 1. With its numbers the first step reads past the table.",
        "no bug",
    ),
    process(
        "DDPM-09c",
        "a loop that stops before 0",
        "t runs from T − 1 down to 0",
        "The last noise of σ_0 stays on the result: with the exact model of N(0, ¼) the variance shows it.",
        "no bug",
    ),
    process(
        "DDPM-09d",
        "a loop that starts at T − 2",
        "t runs from T − 1 down to 0",
        "Invisible in the result where ᾱ_{T−1} is near 0: noise is noise at T − 2 as well. A start of another variance "
        "shows it.",
        "no bug",
    ),
    Bug(
        id="DDPM-10a",
        formula="diffusion.ddim_step",
        title="√(1 − ᾱ_p) for √(1 − ᾱ_p − σ²)",
        document=f"{HOMEWORK}: DDIM as an option",
        claim="x_p = √ᾱ_p x̂_0 + √(1 − ᾱ_p − σ²) ε + σ z",
        verdict="no bug",
        source=DDIM,
        finding="Without − σ² the noise is added on top: the variance of x_p is 1 + σ². Invisible at η = 0.",
        evidence=show("DDPM_10a"),
        variant=ddim_with(whole_noise),
        discriminating_input=(ZERO, FROM, TO, ONE, ZERO, LINEAR, 1.0, False, False),
    ),
    Bug(
        id="DDPM-10b",
        formula="diffusion.ddim_step",
        title="ε is kept although x̂_0 was clipped",
        document=f"{DIFFIT}: fallback sampler; diffusers' default",
        claim="x̂_0 is clamped to [−1, 1]",
        verdict="convention",
        source=DDIM,
        finding="Then x̂_0, ε and x_t no longer agree: the step leaves the trajectory that runs through x_t. "
        "Here recompute_eps is an argument without a default.",
        evidence=show("DDPM_10b"),
        variant=ddim_with(recompute=False),
        discriminating_input=(np.full((1, 1), 3.0), FROM, TO, ZERO, ZERO, LINEAR, 0.0, True, True),
    ),
    Bug(
        id="DDPM-10c",
        formula="diffusion.ddim_step",
        title="ε is taken from the clipped x̂_0 unasked",
        document="guided-diffusion; diffusers with use_clipped_model_output=True",
        claim="ε is derived again from the clipped x̂_0",
        verdict="convention",
        source=DDIM,
        finding="The other convention. It makes no difference where nothing is clipped.",
        evidence=show("DDPM_10c"),
        variant=ddim_with(recompute=True),
        discriminating_input=(np.full((1, 1), 3.0), FROM, TO, ZERO, ZERO, LINEAR, 0.0, True, False),
    ),
    Bug(
        id="DDPM-10d",
        formula="diffusion.ddim_step",
        title="the root of a negative rounding error",
        document="diffusers DDIMScheduler.step with η = 1 and few steps of the cosine schedule",
        claim="1 − ᾱ_p − σ² is subtracted as printed",
        verdict="real bug, wrong fix",
        source=DDIM,
        finding="At η = 1 the difference is ᾱ_t (1 − ᾱ_p)²/(ᾱ_p (1 − ᾱ_t)): of float32 tables nothing is left of it "
        "where ᾱ_t is small, and its sign is chance. Five steps of squaredcos_cap_v2, spaced to the end, give NaN.",
        evidence=show("DDPM_10d"),
        variant=as_printed,
        discriminating_input=(ONE, np.array([999]), np.array([799]), ONE, ONE, COSINE, 1.0, False, False),
    ),
    Bug(
        id="DDPM-10e",
        formula="diffusion.ddim_step",
        title="the data have the ᾱ of the first step",
        document="diffusers DDIMScheduler(set_alpha_to_one=False), as Stable Diffusion has it",
        claim="the last step goes to ᾱ_0",
        verdict="convention",
        source=f"{DDIM}: α_0 = 1",
        finding="The result keeps the noise of the first step, σ_0 = 0.01 on the linear schedule.",
        evidence=show("DDPM_10e"),
        variant=ddim_with(to_one=False),
        discriminating_input=(ONE, FROM, LAST, ONE, ZERO, LINEAR, 0.0, False, False),
    ),
    Bug(
        id="DDPM-11a",
        formula="diffusion.classifier_free_guidance",
        title="the predictions with and without the condition are exchanged",
        document=f"{HOMEWORK}: guidance as an option",
        claim="ε = ε_u + w (ε_c − ε_u)",
        verdict="no bug",
        source=GUIDANCE,
        finding="Exchanged, w > 1 pushes away from the condition. Invisible at w = ½.",
        evidence=show("DDPM_11a"),
        variant=swapped_roles(true.classifier_free_guidance),
        discriminating_input=(*PAIR, 4.0),
    ),
    Bug(
        id="DDPM-11b",
        formula="diffusion.classifier_free_guidance",
        title="the paper's form with the implementations' w",
        document="Ho & Salimans 2022 beside most code",
        claim="w is the guidance scale",
        verdict="convention",
        source=GUIDANCE,
        finding="The paper's w is smaller by 1: w = 0 is its conditional model. Two names here, none of them a "
        "default.",
        evidence=show("DDPM_11b"),
        variant=true.classifier_free_guidance_paper,
        discriminating_input=(*PAIR, 4.0),
    ),
    Bug(
        id="DDPM-11c",
        formula="diffusion.classifier_free_guidance_paper",
        title="the implementations' form with the paper's w",
        document="Ho & Salimans 2022 beside most code",
        claim="w is the guidance strength",
        verdict="convention",
        source=GUIDANCE,
        finding="The other way round: guidance is weaker than was asked for.",
        evidence=show("DDPM_11c"),
        variant=true.classifier_free_guidance,
        discriminating_input=(*PAIR, 3.0),
    ),
    process(
        "DDPM-12",
        "tables on another device than the data",
        "IMP 1: device handling is consistent",
        "What a user wants is either the right device or one sentence. A table elsewhere is refused before anything is "
        "computed, the sampler works where the model is, and one CPU generator gives the same numbers everywhere.",
    ),
    process(
        "DDPM-13",
        "a docstring that names another function",
        "IMP 2: docstrings are complete",
        "The TODO of p_sample was renamed to q_sample. Here each docstring begins with the equation of its own "
        "function, and the two functions do opposite things to the noise.",
    ),
    process(
        "DDPM-14",
        "TEST 1 was never run",
        "TEST 1: not ticked",
        "The forward process and a few training steps, run: the loss of a small network falls below that of knowing "
        "nothing.",
    ),
    process(
        "DDPM-15",
        "TEST 2 was never run",
        "TEST 2: not ticked",
        "Sampling, run: from noise to data in [−1, 1], and training goes on afterwards in the mode it was in.",
    ),
    process(
        "DDPM-16",
        "complete, at 4 of 10",
        "COMPLETE (4/10 core fixes done); all core fixes complete; the final re-runs are not ticked",
        "The list has eleven boxes. The applied fixes change no bit: a whole chain of 1000 steps comes out the same "
        "before and after, so that the re-runs could have shown nothing.",
        "claim false",
    ),
    Bug(
        id="DIFFIT-14a",
        formula="diffusion.power_cosine_weight",
        title="a constant guidance scale",
        document=f"{DIFFIT}: scale 4.6 for 256²; its README has 4.4, and 1.49 for 512²",
        claim="classifier-free guidance with scale 4.6",
        verdict="convention",
        source="DiffiT (2312.02139), code",
        finding="The official 256² model raises w from 1 to its maximum with (1 − t/T)⁴ under a cosine: at half of "
        "the way it is 1.03 and not 4.6. The 512² model takes a constant.",
        evidence=show("DIFFIT_14a"),
        variant=constant_weight,
        discriminating_input=(np.array([0.0, 250.0, 500.0]), 1000, 4.6, 4.0),
    ),
    Bug(
        id="DIFFIT-14b",
        formula="diffusion.classifier_free_guidance",
        title="only the first three channels are guided",
        document="DiT and the paper: eps[:, :3]",
        claim="guidance is applied to three channels",
        verdict="convention",
        source=DIT,
        finding="A latent has four. Stated in the paper, not in DiffiT-v2's head, which guides them all. Two names "
        "here.",
        evidence=show("DIFFIT_14b"),
        variant=first_three,
        discriminating_input=(*LATENT, 4.0),
    ),
    Bug(
        id="DIFFIT-14c",
        formula="diffusion.three_channel_guidance",
        title="all channels are guided",
        document=f"{DIFFIT}, head",
        claim="guidance as in the paper",
        verdict="convention",
        source=DIT,
        finding="The other way round.",
        evidence=show("DIFFIT_14c"),
        variant=true.classifier_free_guidance,
        discriminating_input=(*LATENT, 4.0),
    ),
    Bug(
        id="DIFFIT-14d",
        formula="diffusion.power_cosine_weight",
        title="the weight is largest at the noisy end",
        document=f"{DIFFIT}: guidance",
        claim="the power-cosine schedule",
        verdict="no bug",
        source="DiffiT (2312.02139), code",
        finding="w(0) = w_max and w(T) = 1. Turned around it is kept as what the checks must reject.",
        evidence=show("DIFFIT_14d"),
        variant=weight_turned_around,
        discriminating_input=(np.array([0.0, 250.0, 1000.0]), 1000, 4.6, 4.0),
    ),
    Bug(
        id="DIFFIT-14e",
        formula="diffusion.three_channel_guidance",
        title="the predictions with and without the condition are exchanged",
        document=f"{DIFFIT}: guidance",
        claim="ε_u + w (ε_c − ε_u)",
        verdict="no bug",
        source=GUIDANCE,
        finding="Exchanged, w > 1 pushes away from the condition.",
        evidence=show("DIFFIT_14e"),
        variant=swapped_roles(true.three_channel_guidance),
        discriminating_input=(*LATENT, 4.0),
    ),
    Bug(
        id="DIFFIT-14f",
        formula="diffusion.three_channel_guidance",
        title="the channels that are not guided come from the unconditional prediction",
        document="DiT: forward_with_cfg, whose second half of the batch has them so",
        claim="the rest passes through",
        verdict="no bug",
        source=DIT,
        finding="Of the half that is kept, the rest is the conditional prediction.",
        evidence=show("DIFFIT_14f"),
        variant=rest_without_condition,
        discriminating_input=(*LATENT, 4.0),
    ),
    Bug(
        id="DIFFIT-14g",
        formula="diffusion.power_cosine_weight",
        title="the power of the cosine for the cosine of the power",
        document=f"{DIFFIT}: guidance",
        claim="the power-cosine schedule",
        verdict="no bug",
        source="DiffiT (2312.02139), code",
        finding="The power is taken of 1 − t/T. Outside it would leave w(500) at 1.2 instead of 1.03. The same at p "
        "= 1.",
        evidence=show("DIFFIT_14g"),
        variant=power_of_the_cosine,
        discriminating_input=(np.array([250.0, 500.0]), 1000, 4.6, 4.0),
    ),
)
