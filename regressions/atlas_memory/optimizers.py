"""MEM-08 and MEM-09: Muon and clips."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from trueness.properties.atlas_memory.flat import reference as true
from trueness.regressions.atlas_memory.common import (
    CHANGELOG,
    FULL,
    JORDAN,
    OMEGA,
    PAPER,
    Arguments,
    clipped,
    discriminating_input,
    entry,
    named,
    omega,
    recurrence,
    residual,
    windowed,
)

MUON = "the memory is updated by the Muon optimiser"


def norm_for_newton_schulz(p: Arguments) -> Any:
    """g over a moving average of its norm, where Newton–Schulz of the momentum belongs"""
    return omega(p, optimizer="norm_ema" if p["optimizer"] in ("muon", "muon_chunk") else p["optimizer"])


def norms_without_eps(p: Arguments) -> Any:
    """g/m: 0/0 until there is a first gradient"""
    return norm_average(p, lambda g: true._norm(g)[..., 0, 0], 0.0)


def one_norm_for_all(p: Arguments) -> Any:
    """One moving average for all matrices that are updated, whatever their batch entry or head"""
    return norm_average(p, lambda g: np.sqrt(np.sum(g * g)), true.EPS)


def norm_average(p: Arguments, norm: Callable[..., Any], eps: float) -> Any:
    """omega with U_t = i_t g_t/(m_t + eps), m_t = 0.9 m_{t−1} + 0.1 norm(g_t)"""
    m = 0 * p["eta"][:, 0]

    def update(S: Any, g: Any, into: Any) -> Any:
        nonlocal m
        m = true.DECAY * m + (1 - true.DECAY) * norm(g)
        return true._head(into / (m + eps)) * g

    return recurrence(p, windowed(p, residual(p)), update)


def divided_by_a_norm(g: Any, coefficients: Any, eps: Any) -> Any:
    """G/(0.1 ‖G‖ + ε): the project's 'Muon' at its first step"""
    return g / (0.1 * true._norm(g) + eps)


def without_eps(g: Any, coefficients: Any, eps: Any) -> Any:
    """G/‖G‖: 0/0 where there is no gradient"""
    return true.newton_schulz(g, coefficients, 0.0)


def floored_norm(g: Any, coefficients: Any, eps: Any) -> Any:
    """X_0 = G/max(‖G‖, ε)"""
    x = g / np.maximum(true._norm(g), eps)
    for a, b, c in coefficients:
        gram = x @ np.swapaxes(x, -1, -2)
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x


def polar_factor(g: Any, coefficients: Any, eps: Any) -> Any:
    """The nearest semi-orthogonal matrix: where a convergent polynomial would lead"""
    return true.newton_schulz(g, true.CLASSICAL * 3, eps)


def scaled_by_the_shape(g: Any, coefficients: Any, eps: Any) -> Any:
    """NS(G) √max(1, R/C), which belongs to the step size"""
    rows, columns = g.shape[-2:]
    return true.newton_schulz(g, coefficients, eps) * np.sqrt(max(1.0, rows / columns))


def step_inside(p: Arguments) -> Any:
    """η inside of Newton–Schulz, where a constant one does nothing"""
    return omega(p, lr_inside_momentum=p["optimizer"] == "muon" or p["lr_inside_momentum"])


def tighter_clip(p: Arguments) -> Any:
    """±0.1 for ±1"""
    return omega(p, clip=0.1)


def no_gradient_clip(p: Arguments) -> Any:
    """The gradient however large"""
    return omega(p, clip=None)


def clipped_update(p: Arguments) -> Any:
    """The gradient held in ±0.1 and every update in ±0.01"""
    held = {**p, "clip": 0.1}
    return recurrence(held, windowed(p, residual(p)), lambda S, g, into: clipped(S, 0.01))


BUGS = (
    entry(
        "MEM-08",
        "a moving average of norms called Muon",
        MUON,
        "claim false",
        "The project divides the clipped gradient by a moving average of its norm. On gradients of ordinary size that "
        "is their sign; the singular values of a rank-two gradient stay as unequal as they were.",
        "omega_muon",
        named(OMEGA, norm_for_newton_schulz),
        discriminating_input(optimizer="muon"),
        JORDAN,
    ),
    entry(
        "MEM-08a",
        "division by a norm in place of Newton–Schulz",
        MUON,
        "claim false",
        "The first step is G/(0.1 ‖G‖), ten times too long, because the average starts at 0.",
        "newton_schulz",
        divided_by_a_norm,
        (FULL, true.JORDAN, 1e-8),
        JORDAN,
    ),
    entry(
        "MEM-08b",
        "no ε: 0/0 for a zero gradient",
        MUON,
        "no bug",
        "The project has 1e-8. Without it a token that the memory already knows turns everything after it into NaN.",
        "newton_schulz",
        without_eps,
        (np.zeros((2, 3)), true.JORDAN, 1e-8),
        JORDAN,
    ),
    entry(
        "MEM-08c",
        "no ε beside the average of norms",
        MUON,
        "no bug",
        "m starts at 0; without ε a first gradient of 0 is 0/0.",
        "omega_norm_ema",
        named(OMEGA, norms_without_eps),
        discriminating_input(optimizer="norm_ema", k=np.zeros((2, 5, 1, 3))),
        CHANGELOG,
    ),
    entry(
        "MEM-08d",
        "one average for all matrices",
        MUON,
        "claim false",
        "One scalar is shared by all parameters in the order in which they come, so that a step depends on the other "
        "matrices and on their order.",
        "omega_norm_ema",
        named(OMEGA, one_norm_for_all),
        discriminating_input(optimizer="norm_ema"),
        JORDAN,
    ),
    entry(
        "MEM-08e",
        "the exact polar factor",
        "k → ∞ steps give the nearest semi-orthogonal matrix",
        "claim false",
        "Not with Jordan's coefficients, whose polynomial has no attracting fixed point at 1: the distance is about "
        "0.3 after 5, 10, 20 and 50 steps. With (15/8, −5/4, 3/8) it is true.",
        "newton_schulz",
        polar_factor,
        (FULL, true.JORDAN, 1e-8),
        "scipy.linalg.polar",
        PAPER,
    ),
    entry(
        "MEM-08f",
        "the step size inside of Newton–Schulz",
        "S_t = θ S_{t−1} + η_t ∇, M_t = α M_{t−1} + NS(S_t)  (eq. 57-58)",
        "real bug, right fix",
        "NS(η S) = NS(S): a constant step has no effect there, and training cannot choose it. Eq. 32-33 have it "
        "outside.",
        "omega_muon",
        named(OMEGA, step_inside),
        discriminating_input(optimizer="muon"),
        f"{PAPER} eq. 32-33",
        PAPER,
    ),
    entry(
        "MEM-08g",
        "√(rows/columns) on the update",
        "lr is scaled by √max(1, rows/columns)",
        "convention",
        "torch.optim.Muon has it as adjust_lr_fn='original': a factor of the step size, not of Newton–Schulz.",
        "newton_schulz",
        scaled_by_the_shape,
        (FULL.T, true.JORDAN, 1e-8),
        JORDAN,
        "torch.optim.Muon",
    ),
    entry(
        "MEM-08h",
        "ε as a floor of the norm",
        "G/max(‖G‖, ε)",
        "convention",
        "torch.optim.Muon. The two differ where a gradient is no larger than ε.",
        "newton_schulz",
        floored_norm,
        (FULL / 2**10, true.JORDAN[:1], 2.0**-7),
        JORDAN,
        "torch.optim.Muon",
    ),
    entry(
        "MEM-09",
        "gradients clipped at ±0.1",
        "gradients are clamped to ±1.0",
        "claim false",
        "The commit that carries this text clamps to ±0.1; ±1.0 stood in the revisions before it.",
        "omega_clip",
        named(OMEGA, tighter_clip),
        discriminating_input(clip=1.0),
        "the repository at 7c57936 and c0532c3",
    ),
    entry(
        "MEM-09a",
        "updates clipped at ±0.01 as well",
        "gradients are clamped to ±1.0",
        "claim false",
        "The same commit holds every update in ±0.01: the memory cannot move by more, whatever the step size.",
        "omega_clip",
        named(OMEGA, clipped_update),
        discriminating_input(clip=1.0),
        "the repository at c0532c3",
    ),
    entry(
        "MEM-09b",
        "no clip",
        "gradients are clamped to ±1.0",
        "no bug",
        "Some clip was there in every revision; none is kept as what the checks must reject.",
        "omega_clip",
        named(OMEGA, no_gradient_clip),
        discriminating_input(clip=0.5),
        "the repository at 7c57936 and c0532c3",
    ),
)
