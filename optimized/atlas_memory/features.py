"""Polynomial features of keys and queries, and Taylor's coefficients; what they refuse stands in ``atlas_memory``."""

from __future__ import annotations

import math

import torch

from trueness.optimized._lib.dtypes import upcast


def taylor(degree: int) -> list[float]:
    """1/i!, i = 0 … degree"""
    return [1 / math.factorial(i) for i in range(degree + 1)]


def elementwise(x: torch.Tensor, coefficients: torch.Tensor, clamp: float) -> torch.Tensor:
    """[a_0 1; a_1 x̂; …; a_p x̂^p], x̂ = x held in [−κ, κ], computed in float32 at least and rounded to the format of x"""
    bounded, weights = upcast(x).clamp(-clamp, clamp), upcast(coefficients)
    powers = [bounded.pow(0), bounded]  # not ones: autograd then knows that x was there
    for _ in range(len(coefficients) - 2):
        powers.append(powers[-1] * bounded)
    return torch.cat([a * x_i for a, x_i in zip(weights, powers, strict=False)], -1).to(x.dtype)


def tensor(x: torch.Tensor, degree: int) -> torch.Tensor:
    """[1; x; x⊗x/√2!; …; x^{⊗p}/√p!], likewise"""
    w = upcast(x)
    tensors = [w[..., :1].pow(0)]
    for _ in range(degree):
        tensors.append((tensors[-1][..., :, None] * w[..., None, :]).flatten(-2))
    return torch.cat([t / math.sqrt(math.factorial(i)) for i, t in enumerate(tensors)], -1).to(x.dtype)
