"""Known bugs of guidance: two counts of its weight, three channels of four, and the weight over time."""

from __future__ import annotations

from typing import Any

import numpy as np

from trueness.reference import diffusion as true
from trueness.regressions._lib.commands import show
from trueness.regressions.diffusion.sources import DIFFIT, DIT, GUIDANCE, HOMEWORK
from trueness.tools.spec.model import Bug


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
    return true.power_cosine_weight(steps - t, steps=steps, w_max=w_max, power=power)


def power_of_the_cosine(t: Any, steps: Any, w_max: Any, power: Any) -> Any:
    """((1 − cos(π (1 − t/T)))/2)^p: the power outside"""
    return 1 + (w_max - 1) * ((1 - np.cos(np.pi * (1 - t / steps))) / 2) ** power


# -- discriminating inputs --------------------------------------------------------------------------------------------

PAIR = (np.array([1.0, -0.5]), np.array([0.25, 2.0]))
LATENT = (np.arange(1.0, 5.0).reshape(1, 4), -np.arange(1.0, 5.0)[::-1].reshape(1, 4))

BUGS = (
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
