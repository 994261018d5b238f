"""The global norm of many gradients, and the factor that clips them.

    ‖g‖ = √(Σ_p Σ_i g_{p,i}²),        s = min(1, c/(‖g‖ + ε)),  ε = 10⁻⁶

Squares are summed in float64: in float32 they vanish below 10⁻²³ and overflow above 10¹⁹.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from trueness.optimized._lib.validation import is_number

EPS = 1e-6


def require_max_norm(max_norm: float) -> None:
    if not is_number(max_norm) or not 0 < max_norm < math.inf:
        raise ValueError(f"max_norm was {max_norm!r}; it must be a positive, finite number.")


def norm(gradient: torch.Tensor) -> torch.Tensor:
    """‖g‖ of one tensor, in float64."""
    return torch.linalg.vector_norm(gradient, dtype=torch.float64)


def global_norm(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """‖g‖ of all tensors together, in float64 on the device of the first; 0 for none."""
    if not gradients:
        return torch.zeros((), dtype=torch.float64)
    device = gradients[0].device
    return torch.linalg.vector_norm(torch.stack([norm(g).to(device) for g in gradients]))


def clip_factor(norm: float, max_norm: float) -> float:
    """s = min(1, c/(‖g‖ + ε)); 0 for an infinite norm, NaN for one that is not a number."""
    return math.nan if math.isnan(norm) else min(1.0, max_norm / (norm + EPS))
