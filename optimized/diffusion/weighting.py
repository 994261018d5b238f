"""Sums of tensors (B, …) with one weight per sample.

Weights are (B,) in float64. Sums are computed in float64 for float64 data and in float32 for all other formats.
"""

from __future__ import annotations

import torch

from trueness.optimized._lib.dispatch import under_functorch
from trueness.optimized._lib.dtypes import compute_dtype


def can_accumulate() -> bool:
    """Whether a sum may be updated in place: under no trace and no vmap, where a later term may have more axes."""
    return not torch.compiler.is_compiling() and not under_functorch()


def weight(c: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """c (B,) in float64 as (B, 1, …) in the dtype in which x is summed."""
    return per_sample(c.to(compute_dtype(x.dtype)), x)


def per_sample(c: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """c (B,) as (B, 1, …), so that it broadcasts against x (B, …)."""
    return c.reshape(c.shape + (1,) * (x.ndim - 1))


def add_weighted(total: torch.Tensor, c: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """total + c x. ``total`` is a temporary of the caller: it is updated in place where that is allowed."""
    if can_accumulate():
        return total.addcmul_(x, weight(c, x))
    return torch.addcmul(total, x, weight(c, x))


def weighted_sum(a: torch.Tensor, x: torch.Tensor, b: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """a x + b y in the dtype in which x is summed."""
    return add_weighted(x * weight(a, x), b, y)
