"""Known bugs of sampling: the loop and its modes, DDIM, and what a changelog says was done and tested."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from trueness.reference import diffusion as true
from trueness.regressions._lib.commands import show
from trueness.regressions.diffusion.sources import DDIM, DIFFIT, HOMEWORK
from trueness.tools.spec.model import Bug


def ddim_with(direction: Any = None, recompute: bool | None = None, to_one: bool = True) -> Any:
    """``ddim_step`` with another weight of ε, a fixed ``recompute_eps``, or the data at ᾱ_0 instead of 1."""

    def variant(
        x_t: Any, t: Any, t_prev: Any, eps: Any, noise: Any, alphas_cumprod: Any, eta: Any, clip: Any, again: Any
    ) -> Any:
        before = t_prev if to_one else np.maximum(t_prev, 0)
        if not to_one and (t <= before).any():  # the first step then goes nowhere, and its formula says so
            moved = np.where(t <= before, -1, before)
            still = true.ddim_step(
                x_t, t, moved, eps, alphas_cumprod, noise=noise, eta=eta, clip=clip, recompute_eps=again
            )
            there = at_first(x_t, t, eps, alphas_cumprod, clip, again)
            return np.where(true._per_sample(t <= before, x_t), there, still)
        again = again if recompute is None else recompute
        right = true.ddim_step(
            x_t, t, before, eps, alphas_cumprod, noise=noise, eta=eta, clip=clip, recompute_eps=again
        )
        if direction is None:
            return right
        a, b, sigma = true.ddim_coefficients(t, before, alphas_cumprod, eta=eta)
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


# -- discriminating inputs --------------------------------------------------------------------------------------------

LINEAR = true.alphas_cumprod(true.linear_betas(1000))
COSINE = true.alphas_cumprod(true.cosine_betas(1000))
ONE, ZERO = np.ones((1, 1)), np.zeros((1, 1))
FROM, TO, LAST = np.array([500]), np.array([480]), np.array([-1])


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
        "A checkpoint of step n that resumes at n takes step n twice. Ours stores the next step.",
        "real bug, wrong fix",
    ),
    process(
        "DDPM-02d",
        "forward(x_0, noise) ignores its noise",
        "forward takes the noise as an argument",
        "It draws its own. A caller who fixes the noise, to compare two models, compares them on different noise.",
        "real bug, wrong fix",
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
        "Here recompute_eps=False, the default of diffusers, keeps ε.",
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
)
