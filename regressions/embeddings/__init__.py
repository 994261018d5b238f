"""Known bugs of the family embeddings: two conventions, and what mixes them."""

from __future__ import annotations

from typing import Any

import numpy as np

from trueness.reference import embeddings as true
from trueness.regressions._lib.commands import show
from trueness.tools.spec.model import Bug

ATLAS = "ATLAS (OT-diffusion-toolkit), changelog of 2025-11-20"
VASWANI = "Vaswani et al. 2017 (1706.03762) §3.5; Ho et al. 2020 after tensor2tensor"


def always_shift_one(t: Any, dim: int, max_period: float, shift: int, order: str) -> Any:
    """half − 1, whatever ``shift`` is"""
    return true.sinusoidal(t, dim, max_period=max_period, shift=1, order=order)


def always_shift_zero(t: Any, dim: int, max_period: float, shift: int, order: str) -> Any:
    """half, whatever ``shift`` is"""
    return true.sinusoidal(t, dim, max_period=max_period, shift=0, order=order)


def interleaved(t: Any, dim: int, max_period: float, shift: int, order: str) -> Any:
    """sin, cos, sin, cos, …: as the paper's formula counts channels, and as no diffusion code does"""
    e, half = true.sinusoidal(t, dim, max_period=max_period, shift=shift, order=order), dim // 2
    pairs = np.stack([e[..., :half], e[..., half : 2 * half]], axis=-1).reshape((*e.shape[:-1], 2 * half))
    return np.concatenate([pairs, e[..., 2 * half :]], axis=-1)


def always_sin_first(t: Any, dim: int, max_period: float, shift: int, order: str) -> Any:
    """sines first, whatever ``order`` is"""
    return true.sinusoidal(t, dim, max_period=max_period, shift=shift, order="sin cos")


def always_cos_first(t: Any, dim: int, max_period: float, shift: int, order: str) -> Any:
    """cosines first, whatever ``order`` is"""
    return true.sinusoidal(t, dim, max_period=max_period, shift=shift, order="cos sin")


def unit_time(t: Any, dim: int, max_period: float, shift: int, order: str) -> Any:
    """t/1000: time in [0, 1] where the frequencies are made for steps"""
    return true.sinusoidal(t / 1000, dim, max_period=max_period, shift=shift, order=order)


STEPS = np.array([1.0, 10.0, 0.5])

BUGS = (
    Bug(
        id="ATLAS-03",
        formula="embeddings.sinusoidal",
        title="half − 1 where the network was trained with half",
        document=ATLAS,
        claim="the divisor half − 1 is an off-by-one error",
        verdict="convention",
        source=VASWANI,
        finding="half: Vaswani, ADM, DiT. half − 1: tensor2tensor, DDPM, the default of diffusers, and another of the "
        "five changelogs. Only mixing them is wrong: of 8 channels the last frequency is 1e-3 or 1e-4.",
        evidence=show("ATLAS-03"),
        variant=always_shift_one,
        discriminating_input=(STEPS, 8, 10000.0, 0, "sin cos"),
    ),
    Bug(
        id="ATLAS-03b",
        formula="embeddings.sinusoidal",
        title="half where the network was trained with half − 1",
        document=ATLAS,
        claim="the divisor half is the right one",
        verdict="convention",
        source=VASWANI,
        finding="The change itself mixes the two for whoever loads weights trained before it.",
        evidence=show("ATLAS-03b"),
        variant=always_shift_zero,
        discriminating_input=(STEPS, 8, 10000.0, 1, "sin cos"),
    ),
    Bug(
        id="ATLAS-03c",
        formula="embeddings.sinusoidal",
        title="sines and cosines interleaved",
        document="Vaswani et al. 2017 §3.5 writes channel 2i and 2i + 1",
        claim="PE(pos, 2i) = sin, PE(pos, 2i + 1) = cos",
        verdict="convention",
        source=VASWANI,
        finding="A permutation of channels: right for a network trained with it. tensor2tensor, DDPM, ADM, DiT and "
        "diffusers concatenate.",
        evidence=show("ATLAS-03c"),
        variant=interleaved,
        discriminating_input=(STEPS, 8, 10000.0, 0, "sin cos"),
    ),
    Bug(
        id="ATLAS-03d",
        formula="embeddings.sinusoidal",
        title="sines first where cosines were asked for, or the reverse",
        document="diffusers: flip_sin_to_cos",
        claim="the order of the halves does not matter",
        verdict="convention",
        source="DiT (2212.09748) and ADM put cosines first, Ho et al. 2020 sines",
        finding="Both exist, so the order is an argument without a default.",
        evidence=show("ATLAS-03d"),
        variant=always_sin_first,
        reverse=(always_cos_first,),
        discriminating_input=(STEPS, 8, 10000.0, 0, "cos sin"),
    ),
    Bug(
        id="ATLAS-03e",
        formula="embeddings.sinusoidal",
        title="time in [0, 1] without the usual factor 1000",
        document=ATLAS,
        claim="the time embedding is now correct",
        verdict="real bug, wrong fix",
        source="Ho et al. 2020: t counts 1000 steps; Song et al. 2021 multiply continuous time by 999 or 1000",
        finding="Only frequencies above 0.1, a quarter of them, move by more than 0.1 over the whole trajectory: the "
        "network hardly sees the time. Undocumented and unfixed.",
        evidence=show("ATLAS-03e"),
        variant=unit_time,
        discriminating_input=(STEPS, 8, 10000.0, 0, "sin cos"),
    ),
)
