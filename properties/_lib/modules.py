"""How far two evaluations of one module may lie apart."""

from __future__ import annotations

import torch

from trueness.tools.arithmetic.formats import precision


def summation_bound(module: torch.nn.Module, results: torch.Tensor) -> torch.Tensor:
    """What another order of summation may change: a rounding for every weight, on the largest number of ``results``.

    In float64. A result is a sum of products with all weights, each of which enters once for every token.
    """
    size: torch.Tensor = results.detach().abs().max().clamp(min=1)
    return precision("float64").u * size * sum(p.numel() for p in module.parameters())
