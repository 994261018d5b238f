"""Newton–Schulz of one matrix or many, and its coefficients; what it refuses stands in ``atlas_memory``."""

from __future__ import annotations

from collections.abc import Sequence

import torch

JORDAN = ((3.4445, -4.7750, 2.0315),) * 5
CLASSICAL = ((15 / 8, -5 / 4, 3 / 8),) * 12
EPS = 1e-8
Steps = Sequence[Sequence[float]]


def newton_schulz(g: torch.Tensor, coefficients: Steps = JORDAN, eps: float = EPS) -> torch.Tensor:
    """X = G/(‖G‖_F + ε), then X ← a X + (b A + c A²) X with A = X Xᵀ; g is float32 or float64"""
    if g.shape[-2] > g.shape[-1]:
        return newton_schulz(g.mT, coefficients, eps).mT
    largest: torch.Tensor = g.detach().abs().amax((-2, -1), keepdim=True)
    scale = torch.where((largest > 0) & largest.isfinite(), largest, torch.ones_like(largest))
    x: torch.Tensor = g / scale  # so that no square leaves the format
    x = x / (torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True) + eps / scale)
    for a, b, c in coefficients:
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x
