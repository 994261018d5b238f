"""The Fisher diagonal and its steps in blocks of 1024 elements, and with numbers of their own for every sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from trueness.tools.calibration.examination.program import IN_JAX, Program, fault, sabotaged
from trueness.tools.calibration.examination.programs.common import Tensor, wide
from trueness.tools.calibration.examination.programs.elementwise import Launch, common_faults, some


def floor(alpha: float, fault: str) -> float:
    if fault == "floor without its constant":
        return 1e-3 * (1 - alpha)
    if fault == "ᾱ for 1 − ᾱ":
        return 1e-4 + 1e-3 * alpha
    if fault == "ᾱ below 0.05 ignored" and alpha < 0.05:
        return 1e-4 + 1e-3
    return 1e-4 + 1e-3 * (1 - alpha)


def diagonal(score: Tensor, alpha: float, *, fault: str = "") -> Tensor:
    eps = floor(alpha, fault)

    def body(s: Tensor) -> Tensor:
        return torch.maximum(s * s, torch.full_like(s, eps)) if fault == "largest for sum" else s * s + eps

    def slope(g: Tensor, s: Tensor) -> Tensor:
        return 2 * s * g if fault != "slope without 2" else s * g

    return Launch.apply(body, (slope,), fault, score)


def step(score: Tensor, alpha: float, *, fault: str = "") -> Tensor:
    eps = floor(alpha, fault)

    def body(s: Tensor) -> Tensor:
        if fault == "s² F⁻¹ divided by s":
            return 1 / s * (s * s / (s * s + eps))
        return s / (s * s + eps)

    def slope(g: Tensor, s: Tensor) -> Tensor:
        f = s * s + eps
        if fault == "floor of the slope dropped":
            return -g * s * s / (f * f)
        return g * (eps - s * s) / (f * f)

    return Launch.apply(body, (slope,), fault, score)


def drift(x: Tensor, score: Tensor, alpha: float, a: float, b: float, *, fault: str = "") -> Tensor:
    eps = floor(alpha, fault)
    b = round(b, 2) if fault == "b to two digits" else b

    def body(y: Tensor, s: Tensor) -> Tensor:
        return (y if fault == "a of one" else a * y) + b * (s / (s * s + eps))

    def by_x(g: Tensor, y: Tensor, s: Tensor) -> Tensor:
        return a * g

    def by_score(g: Tensor, y: Tensor, s: Tensor) -> Tensor:
        f = s * s + eps
        return b * g * (eps - s * s) / (f * f)

    return Launch.apply(body, (by_x, by_score), fault, x, score)


def of_sample(number: Tensor, like: Tensor, fault: str) -> Tensor:
    """One number for each sample, in float32."""
    if fault == "number of the first sample":
        number = number[:1].expand(len(number))
    if fault == "numbers along the last axis" and like.shape[-1] == len(number):
        return wide(number.to(like.dtype))
    if fault == "numbers of 64 samples" and len(number) > 64:
        number = torch.cat([number[:64], number[63:64].expand(len(number) - 64)])
    return number.to(wide(like).dtype).reshape(-1, *[1] * (like.ndim - 1))


def diagonal_by_sample(score: Tensor, alpha: Tensor, *, fault: str = "") -> Tensor:
    s = wide(score)
    return (s * s + of_sample(1e-4 + 1e-3 * (1 - alpha), score, fault)).to(score.dtype)


def drift_by_sample(x: Tensor, score: Tensor, alpha: Tensor, a: Tensor, b: Tensor, *, fault: str = "") -> Tensor:
    eps, by_x, by_step = (of_sample(t, score, fault) for t in (1e-4 + 1e-3 * (1 - alpha), a, b))
    s = wide(score)
    if fault == "x detached":
        x = x.detach() + 0 * x
    return (by_x * wide(x) + by_step * s / (s * s + eps)).to(x.dtype)


# -- right programs of other algorithms --------------------------------------------------------------------------------


def addcmul(score: Tensor, alpha: float) -> Tensor:
    s = wide(score)
    return torch.addcmul(torch.full_like(s, 1.1e-3 - 1e-3 * alpha), s, s).to(score.dtype)


def diagonal_in_float64(score: Tensor, alpha: float) -> Tensor:
    return (score.double().square() + (1e-4 + 1e-3 * (1 - alpha))).to(score.dtype)


def step_by_reciprocal(score: Tensor, alpha: float) -> Tensor:
    s = wide(score)
    return (s * torch.reciprocal(torch.addcmul(torch.full_like(s, 1.1e-3 - 1e-3 * alpha), s, s))).to(score.dtype)


def step_in_float64(score: Tensor, alpha: float) -> Tensor:
    s = score.double()
    return (s / (s * s + (1e-4 + 1e-3 * (1 - alpha)))).to(score.dtype)


def step_by_jax(score: Any, alpha: float) -> Any:
    s = score.astype(np.float32)
    return (s / (s * s + np.float32(1e-4 + 1e-3 * (1 - alpha)))).astype(score.dtype)


def drift_by_lerp(x: Tensor, score: Tensor, alpha: float, a: float, b: float) -> Tensor:
    s = wide(score)
    moved = s / (s * s + (1e-4 + 1e-3 * (1 - alpha)))
    return torch.add(wide(x) * a, moved, alpha=b).to(x.dtype)


DIAGONAL, STEP, DRIFT = "fisher.diagonal", "fisher.preconditioned_step", "fisher.drift_step"
BY_SAMPLE, DRIFT_BY_SAMPLE = "fisher.diagonal_by_sample", "fisher.drift_step_by_sample"
FLAT = common_faults("...")

PROGRAMS = (
    *sabotaged(
        DIAGONAL,
        "blocks of 1024",
        diagonal,
        {
            **some(FLAT, "last partial block not written", "second block repeats the first", "64 blocks launched"),
            **some(FLAT, "result in a kept buffer", "input cleared afterwards", "cotangent written"),
            "floor without its constant": fault("epsilon", scale=-3.0),
            "ᾱ for 1 − ᾱ": fault("constant", scale=-3.0, scalars={"alpha": 0.9}, names=("FSB-02",)),
            "ᾱ below 0.05 ignored": fault("far scalar", scale=-3.0, scalars={"alpha": 0.04}),
            "largest for sum": fault("epsilon", scale=-2.0),
            "slope without 2": fault("gradient dropped or scaled", "gradient"),
        },
    ),
    Program(DIAGONAL, "addcmul", addcmul),
    Program(DIAGONAL, "float64 inside", diagonal_in_float64),
    *sabotaged(
        STEP,
        "blocks of 1024",
        step,
        {
            **some(FLAT, "last partial block not written", "count of blocks in 8 bits", "backward reads as stored"),
            "s² F⁻¹ divided by s": fault("ties and zeros", zeros=0.5, sizes={"...": (9,)}),
            "floor without its constant": fault("epsilon", scale=-3.0),
            "floor of the slope dropped": fault("gradient dropped or scaled", "gradient", scale=-2.0),
        },
    ),
    Program(STEP, "reciprocal", step_by_reciprocal),
    Program(STEP, "float64 inside", step_in_float64),
    Program(STEP, "JAX", step_by_jax, framework="jax", dtypes=IN_JAX),
    *sabotaged(
        DRIFT,
        "blocks of 1024",
        drift,
        {
            **some(FLAT, "last partial block not written", "64 blocks launched", "last gradient scaled"),
            **some(FLAT, "backward: last partial block not written"),
            "first gradient dropped": fault("gradient dropped or scaled", "gradient"),
            "b to two digits": fault("far scalar", scalars={"b": 0.014}),
            "a of one": fault("constant", scalars={"a": 1.25}),
        },
    ),
    Program(DRIFT, "torch add with alpha", drift_by_lerp),
    *sabotaged(
        BY_SAMPLE,
        "broadcast",
        diagonal_by_sample,
        {
            "number of the first sample": fault("wrong axis", B=4, scale=-3.0),
            "numbers along the last axis": fault("wrong axis", B=4, scale=-3.0, sizes={"...": (4,)}),
            "numbers of 64 samples": fault("entries beyond n not read", B=70, scale=-3.0),
        },
    ),
    *sabotaged(
        DRIFT_BY_SAMPLE,
        "broadcast",
        drift_by_sample,
        {
            "numbers along the last axis": fault("wrong axis", B=4, sizes={"...": (4,)}),
            "numbers of 64 samples": fault("entries beyond n not read", B=70),
            "x detached": fault("gradient dropped or scaled", "gradient"),
        },
    ),
)
