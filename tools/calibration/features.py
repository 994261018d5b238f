"""Random Fourier features for the calibration: fused and eager, forward and backward, and mutants."""

from __future__ import annotations

from functools import partial
from math import pi, sqrt
from typing import Any

import numpy as np
import torch

from trueness.tools.calibration.subjects import (
    HALF,
    TILE,
    Subject,
    Variant,
    always,
    gradients,
    length,
    magnitude,
    tf32,
    wrong,
)
from trueness.tools.spec import registry

Tensor = torch.Tensor
COSF = 2.0**-21.19  # largest absolute error of CUDA's __cosf on [−π, π] (CUDA programming guide, intrinsic functions)


def draw_features(generator: np.random.Generator, index: int) -> tuple[Any, ...]:
    """x, W, b: any width, phases x W of a typical size between 0.1 and 30."""
    n, d, width = length(generator, 1, 64), length(generator, 1, 256), length(generator, 2, 512)
    size, phase = magnitude(generator, -1, 1), magnitude(generator, -1, 1.5)
    x = size * generator.standard_normal((n, d))
    w = phase / (size * sqrt(d)) * generator.standard_normal((d, width))
    return x, w, generator.uniform(0, 2 * pi, width)


def draw_features_backward(generator: np.random.Generator, index: int) -> tuple[Any, ...]:
    x, w, b = draw_features(generator, index)
    return magnitude(generator, -2, 1) * generator.standard_normal((len(x), len(b))), x, w, b


def features_eager(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return sqrt(2 / w.shape[-1]) * torch.cos(x @ w + b)


def features_fused(x: Tensor, w: Tensor, b: Tensor, *, tile: int = 1 << 20, bug: str = "") -> Tensor:
    """float32 inside, summed over tiles of d, rounded once."""
    z = phase(x, w, b, tile, bug)
    width = w.shape[-1]
    if bug == "3.14 for π":
        z = z - 6.28 * torch.round(z / 6.28)
    value = torch.sin(z) if bug == "sin for cos" else torch.cos(z)
    if bug == "error of __cosf":
        value = value + COSF * (1 - 2 * (torch.arange(value.numel()).view(value.shape) * 7 % 11 % 2))
    if bug == "last tile of D zero":
        value[..., (width - 1) // TILE * TILE :] = 0.0
    norm = {"√(1/D)": 1 / width, "√(2/(D − 1))": 2 / (width - 1), "√(2/D padded)": 2 / (width + -width % TILE)}
    return (sqrt(norm.get(bug, 2 / width)) * value).to(x.dtype)


def phase(x: Tensor, w: Tensor, b: Tensor, tile: int, bug: str) -> Tensor:
    """x W + b in float32."""
    dtype, d, width = x.dtype, x.shape[-1], w.shape[-1]
    x, w, b = x.float(), w.float(), b.float()
    if bug == "TF32 inputs":
        x, w = tf32(x), tf32(w)
    if bug == "bfloat16 projection":
        x, w = x.bfloat16().float(), w.bfloat16().float()
    if bug == "σ 10 % off":
        w = w / 1.1
    if bug == "phase off by one":
        b = b.roll(1)
    if bug == "phase off by one in the last tile":
        start = (width - 1) // TILE * TILE
        b = torch.cat([b[:start], b[start:].roll(1)])
    tile = TILE if bug in ("last tile of d dropped", "low-precision accumulator") else tile
    z = torch.zeros(x.shape[0], width)
    starts = range(0, d, tile)
    for start in starts[: -1 if bug == "last tile of d dropped" else None]:
        z = z + x[:, start : start + tile] @ w[start : start + tile]
        z = z.to(dtype).float() if bug == "low-precision accumulator" else z
    return z if bug == "no phase" else z + b


def features_backward_eager(g: Tensor, x: Tensor, w: Tensor, b: Tensor) -> Any:
    return gradients(lambda x: features_eager(x, w, b), g, x)[0]


def features_backward(g: Tensor, x: Tensor, w: Tensor, b: Tensor, *, tile: int = 1 << 20, bug: str = "") -> Tensor:
    """float32 inside, summed over tiles of D, rounded once."""
    dtype, width = x.dtype, w.shape[-1]
    z = phase(x, w, b, tile, bug)
    side = torch.cos(z) if bug == "cos for sin" else torch.sin(z)
    scale = {"√(2/D) forgotten": 1.0, "√(1/D)": sqrt(1 / width), "gain of 1 %": 1.01 * sqrt(2 / width)}
    pulled = (1 if bug == "sign" else -1) * scale.get(bug, sqrt(2 / width)) * g.float() * side
    wide = tf32(w.float()) if bug == "TF32 inputs" else w.float()
    tile = TILE if bug == "last tile of D dropped" else tile
    dx = torch.zeros(x.shape, dtype=torch.float32)
    starts = range(0, width, tile)
    for start in starts[: -1 if bug == "last tile of D dropped" else None]:
        dx = dx + pulled[:, start : start + tile] @ wide[:, start : start + tile].mT
    return dx.to(dtype)


def deep(x: Any, w: Any, b: Any) -> bool:
    return bool(x.shape[-1] > TILE)


def broad(x: Any, w: Any, b: Any) -> bool:
    return bool(w.shape[-1] > 2)


def ragged(x: Any, w: Any, b: Any) -> bool:
    return bool(w.shape[-1] % TILE)


def shifted(x: Any, w: Any, b: Any) -> bool:
    return bool((w.shape[-1] - 1) % TILE)


def winding(x: Any, w: Any, b: Any) -> bool:
    """Some phase lies beyond π and is reduced."""
    return bool((np.abs(x @ w + b) > 4).any())


SINGLE = ("float32",)
LOWER = {"TF32 inputs": SINGLE, "bfloat16 projection": SINGLE, "low-precision accumulator": HALF}
FEATURES = {
    "√(1/D)": always,
    "√(2/(D − 1))": always,
    "√(2/D padded)": ragged,
    "no phase": always,
    "sin for cos": always,
    "phase off by one": broad,
    "phase off by one in the last tile": shifted,
    "last tile of d dropped": deep,
    "last tile of D zero": always,
    "3.14 for π": winding,
    "σ 10 % off": always,
    "TF32 inputs": always,
    "bfloat16 projection": always,
    "low-precision accumulator": deep,
}
FEATURES_BACKWARD = {
    "sign": always,
    "cos for sin": always,
    "√(2/D) forgotten": broad,
    "√(1/D)": always,
    "no phase": always,
    "gain of 1 %": always,
    "last tile of D dropped": always,
    "σ 10 % off": always,
    "TF32 inputs": always,
    "bfloat16 projection": always,
}


def subjects() -> tuple[Subject, ...]:
    """The reference and its vjp come from the registry; of the gradients that by x is measured."""
    formula = registry.by_any_name()["kernels.features"]
    vjp = formula.vjp
    assert vjp is not None

    def gradient(*arguments: Any) -> Any:
        return vjp(*arguments)[0]

    return (
        Subject(
            "random features",
            "forward",
            formula.reference,
            draw_features,
            lambda x, w, b: int(x.shape[-1]),
            (
                Variant("fused", "fused", features_fused),
                Variant("fused, tile 32 of d", "fused", partial(features_fused, tile=32)),
                Variant("eager", "eager", features_eager),
                Variant("error of __cosf", "reported", partial(features_fused, bug="error of __cosf"), always, SINGLE),
                *wrong(features_fused, FEATURES, LOWER),
            ),
        ),
        Subject(
            "random features",
            "backward",
            gradient,
            draw_features_backward,
            lambda g, x, w, b: int(sum(w.shape)),
            (
                Variant("fused", "fused", features_backward),
                Variant("fused, tile 32 of D", "fused", partial(features_backward, tile=32)),
                Variant("eager, autograd", "eager", features_backward_eager),
                *wrong(
                    features_backward,
                    {name: (lambda g, *a, r=relevant: r(*a)) for name, relevant in FEATURES_BACKWARD.items()},
                    LOWER,
                ),
            ),
        ),
    )
