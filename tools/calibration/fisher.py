"""The Fisher diagonal for the calibration: fused and eager, forward and backward, and mutants."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from trueness.tools.calibration.subjects import Subject, Variant, always, gradients, length, scattered, wrong
from trueness.tools.spec import registry

Tensor = torch.Tensor


def draw_fisher(generator: np.random.Generator, index: int) -> tuple[Any, ...]:
    """score with log-uniform magnitudes, alpha."""
    n = length(generator, 1, 2000)
    return scattered(generator, (n,), -4, 1.3), float(generator.uniform(0, 1))


def draw_fisher_backward(generator: np.random.Generator, index: int) -> tuple[Any, ...]:
    score, alpha = draw_fisher(generator, index)
    return scattered(generator, score.shape, -2, 2), score, alpha


def floor(alpha: float, bug: str = "") -> float:
    """ε(ᾱ), or what ``bug`` makes of it."""
    return {
        "ε missing": 0.0,
        "ε constant": 1e-4,
        "ᾱ for 1 − ᾱ": 1e-4 + 1e-3 * alpha,
        "ε ten times": 10 * (1e-4 + 1e-3 * (1 - alpha)),
    }.get(bug, 1e-4 + 1e-3 * (1 - alpha))


def fisher_eager(score: Tensor, alpha: float) -> Tensor:
    return score * score + floor(alpha)


def fisher_rounded(score: Tensor, alpha: float) -> Tensor:
    """ε stored in the dtype as well."""
    return score * score + torch.tensor(floor(alpha), dtype=score.dtype)


def fisher_fused(score: Tensor, alpha: float, *, bug: str = "") -> Tensor:
    """float32 inside, rounded once."""
    s, eps = score.float(), floor(alpha, bug)
    square = s.abs() if bug == "|s| for s²" else s * s
    value = square.clamp(min=eps) if bug == "max for +" else square + eps
    return (value * {"gain of 2 %": 1.02, "gain of 1e-4": 1.0001}.get(bug, 1.0)).to(score.dtype)


def fisher_fma(score: Tensor, alpha: float) -> Tensor:
    """Computed in float64 and rounded once: what a fused multiply-add comes near."""
    return (score.double() ** 2 + floor(alpha)).to(score.dtype)


def fisher_backward_eager(g: Tensor, score: Tensor, alpha: float) -> Any:
    return gradients(lambda s: fisher_eager(s, alpha), g, score)[0]


def fisher_backward(g: Tensor, score: Tensor, alpha: float, *, bug: str = "") -> Tensor:
    """2 s ḡ, float32 inside, rounded once."""
    s, cotangent = score.float(), g.float()
    if bug == "ε in the gradient":
        s = s + floor(alpha)
    if bug == "gradient of |s|":
        s = s.sign() / 2
    if bug == "cotangent dropped":
        cotangent = torch.ones_like(cotangent)
    gain = {"factor 2 missing": 1.0, "gain of 2 %": 2.04, "gain of 1e-4": 2.0002, "sign": -2.0}.get(bug, 2.0)
    return (gain * s * cotangent).to(score.dtype)


def far(score: Any, alpha: float) -> bool:
    """ᾱ and 1 − ᾱ differ by a tenth or more."""
    return abs(2 * alpha - 1) > 0.1


def noisy(score: Any, alpha: float) -> bool:
    return alpha < 0.9


FISHER = {
    "ε missing": always,
    "ε constant": noisy,
    "ᾱ for 1 − ᾱ": far,
    "ε ten times": always,
    "max for +": always,
    "|s| for s²": always,
    "gain of 2 %": always,
    "gain of 1e-4": always,
}
FLOOR = ("ε missing", "ε constant", "ᾱ for 1 − ᾱ", "ε ten times", "max for +")  # show on small scores alone
FISHER_BACKWARD = (
    "factor 2 missing",
    "gain of 2 %",
    "gain of 1e-4",
    "ε in the gradient",
    "gradient of |s|",
    "cotangent dropped",
    "sign",
)


def subjects() -> tuple[Subject, ...]:
    """The reference and its vjp come from the registry."""
    fisher = registry.formula("fisher.diagonal")
    assert fisher.vjp is not None
    return (
        Subject(
            "fisher",
            "forward",
            fisher.reference,
            draw_fisher,
            lambda score, alpha: 1,
            (
                Variant("fused", "fused", fisher_fused),
                Variant("float64 inside", "fused", fisher_fma),
                Variant("eager", "eager", fisher_eager),
                Variant("eager, ε stored", "eager", fisher_rounded),
                *wrong(fisher_fused, FISHER, {}),
            ),
            exact=(1,),
        ),
        Subject(
            "fisher",
            "backward",
            fisher.vjp,
            draw_fisher_backward,
            lambda g, score, alpha: 1,
            (
                Variant("fused", "fused", fisher_backward),
                Variant("eager, autograd", "eager", fisher_backward_eager),
                *wrong(fisher_backward, {name: always for name in FISHER_BACKWARD}, {}),
            ),
            exact=(2,),
        ),
    )
