"""MEM-06 and MEM-07: the window and its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from trueness.properties.atlas_memory.flat import reference as true
from trueness.regressions.atlas_memory.common import (
    CHANGELOG,
    OMEGA,
    PAPER,
    YOUNG,
    Arguments,
    discriminating_input,
    entry,
    is_descent,
    named,
    omega,
    recurrence,
    the_momentum,
    windowed,
)


def weights_by_slot(p: Arguments) -> Any:
    """γ of the place in the ring buffer: token i has the weight of slot i mod c, however old it is"""
    gamma = p["gamma"]
    window = gamma.shape[-1]
    by_age = [
        np.stack([gamma[:, t, :, (t - j) % window] for j in range(window)], axis=-1) for t in range(len(gamma[0]))
    ]
    return omega(p, gamma=np.stack(by_age, axis=1))


def oldest_first(p: Arguments) -> Any:
    """γ read in the other direction: the oldest token weighs most"""
    return omega(p, gamma=p["gamma"][..., ::-1])


def renormalised_start(p: Arguments) -> Any:
    """Weights of the tokens of this call sum to one from its first token on"""
    gamma = p["gamma"]
    window = gamma.shape[-1]
    seen = [[float(j <= t) for j in range(window)] for t in range(gamma.shape[1])]
    held = gamma * np.array(seen)[None, :, None, :]
    return omega(p, gamma=held / np.sum(held, axis=-1, keepdims=True))


def weights_not_normalised(window: int, decay: Any) -> Any:
    """exp(−λ j): a plain sum over the window"""
    return np.exp(-decay * np.arange(window))


def minus_the_value(p: Arguments) -> Any:
    """k (kᵀM + v)ᵀ: the value term of eq. 11 as printed"""
    return omega(p, v=-p["v"], v_window=-p["v_window"])


def gram_on_the_other_side(p: Arguments) -> Any:
    """M k kᵀ for k kᵀ M, as eq. 11 is printed; defined for P = V alone, elsewhere left as it should be"""
    if not is_descent(p) or p["memory"].shape[-1] != p["memory"].shape[-2]:
        return omega(p)

    def turned(_: int, k: Any, v: Any, M_hat: Any) -> Any:
        return true._outer(true._column(M_hat, k), k) - true._outer(k, v)

    return recurrence(p, windowed(p, turned), the_momentum)


def twice_the_gradient(p: Arguments) -> Any:
    """|kᵀM − v|² without the half"""
    return omega(p, gamma=2 * p["gamma"])


BUGS = (
    entry(
        "MEM-06",
        "a tensor taken for a list",
        "the Omega rule iterates over its context",
        "real bug, right fix",
        "`if context:` on a tensor of several elements raises RuntimeError; iterating a tensor yields views that keep "
        "its graph.",
        source="torch.Tensor.__bool__",
    ),
    entry(
        "MEM-06a",
        "weights by place in the ring buffer",
        "older tokens weigh less: exp(−0.1 j)",
        "real bug, wrong fix",
        "j is the slot and not the age. Once the buffer has wrapped around, the newest token has the weight of "
        "whatever slot it fell into.",
        "omega",
        named(OMEGA, weights_by_slot),
        discriminating_input(gamma=YOUNG),
        f"{PAPER} eq. 9",
    ),
    entry(
        "MEM-06b",
        "the oldest token weighs most",
        "older tokens weigh less: exp(−0.1 j)",
        "no bug",
        "Nobody's: the window in the other direction, as what the checks must reject.",
        "omega",
        named(OMEGA, oldest_first),
        discriminating_input(gamma=YOUNG),
        f"{PAPER} eq. 9",
    ),
    entry(
        "MEM-06c",
        "weights renormalised while the window fills",
        "weights sum to one",
        "convention",
        "Eq. 9 drops tokens before the first and does not rescale the others. Rescaled, the first token's step is as "
        "large as a whole window's.",
        "omega",
        named(OMEGA, renormalised_start),
        discriminating_input(),
        f"{PAPER} eq. 9",
    ),
    entry(
        "MEM-06d",
        "weights that do not sum to one",
        "weights exp(−0.1 j)/Σ",
        "no bug",
        "The project divides. A plain sum makes the step c times larger, and the memory diverges where the mean does "
        "not.",
        "window_weights",
        weights_not_normalised,
        (8, 0.125),
        CHANGELOG,
    ),
    entry(
        "MEM-07",
        "the value term with a minus sign",
        "eq. 11: M_t = … − Σ γ v φᵀ",
        "real bug, right fix",
        "An error of the paper's eq. 11 (also 28 and 30): gradient descent on ½|M φ − v|² adds + η v φᵀ.",
        "omega",
        named(OMEGA, minus_the_value),
        discriminating_input(),
        "the derivative of eq. 9, by autograd",
        PAPER,
    ),
    entry(
        "MEM-07a",
        "the Gram matrix on the other side",
        "eq. 11: (α I − Σ γ φ φᵀ) M_{t−1}",
        "real bug, right fix",
        "With the paper's M (d_v, d_φ) the Gram factor stands on the right; as printed the shapes fit for d_v = d_φ "
        "only, and the values are wrong.",
        "omega",
        named(OMEGA, gram_on_the_other_side),
        discriminating_input(),
        "the derivative of eq. 9, by autograd",
        PAPER,
    ),
    entry(
        "MEM-07b",
        "twice the gradient",
        "ℓ = |M φ − v|²",
        "convention",
        "Eq. 9 has no half, eq. 10 and 16 drop the 2 of its derivative. Here ℓ has the half and the 2 goes into η, so "
        "that c = 1 is the delta rule with β = η.",
        "omega",
        named(OMEGA, twice_the_gradient),
        discriminating_input(),
        "the derivative of eq. 9, by autograd",
        PAPER,
    ),
    entry(
        "MEM-07c",
        "the step size in the other place",
        "S_t = θ S_{t−1} + ∇, M_t = α M_{t−1} − η S_t",
        "convention",
        "Eq. 12-13 put η_t inside the momentum, eq. 32 outside. They agree for a constant step; otherwise an old "
        "gradient is weighed by its own η or by today's.",
        "omega",
        named(OMEGA, lambda p: omega(p, lr_inside_momentum=not p["lr_inside_momentum"])),
        discriminating_input(eta=np.broadcast_to(np.array([0.5, 0.125, 0.5, 0.25, 1.0])[None, :, None], (2, 5, 1))),
        f"{PAPER} eq. 12-13, 32",
        PAPER,
    ),
)
