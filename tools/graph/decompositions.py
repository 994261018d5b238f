"""How operators are taken apart: torch's own decompositions, and those that have to be written otherwise.

The maximum that a softmax subtracts has no derivative here. The result does not depend on it, but autograd's gradient
through it would: it takes the rounding of the largest element's gradient away again, so that a saturated softmax would
have no spread, and no kernel that computes p (g − Σ p g) could pass.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch._decomp import decomposition_table

from trueness.tools.graph.operators import name_of

Table = dict[Any, Callable[..., Any]]
OPENED = ("native_layer_norm", "native_group_norm")
"""operators whose parts are written as references of torch, beside those of its decompositions"""
KEPT = frozenset(
    "cumsum cumprod _to_copy dropout native_dropout slice_scatter select_scatter diagonal_scatter as_strided_scatter "
    "index_fill index_copy fill constant_pad_nd complex polar".split()
)
"""operators that are not taken apart: a cumulative sum as a masked sum costs the square of its length, and what is
written into a part of a tensor would be written in place"""
aten = torch.ops.aten


def softmax(x: torch.Tensor, dim: int, half_to_float: bool) -> torch.Tensor:
    e = (x - largest(x, [dim])).exp()
    return e / e.sum(dim, keepdim=True)


def log_softmax(x: torch.Tensor, dim: int, half_to_float: bool) -> torch.Tensor:
    z = x - largest(x, [dim])
    return z - z.exp().sum(dim, keepdim=True).log()


def logsumexp(x: torch.Tensor, dim: list[int], keepdim: bool = False) -> torch.Tensor:
    m = largest(x, dim)
    m = torch.where(m.isinf(), 0, m)
    y = (x - m).exp().sum(dim, keepdim=True).log() + m
    return y if keepdim else y.squeeze(tuple(dim))


def largest(x: torch.Tensor, dim: list[int]) -> torch.Tensor:
    return constant(x.amax(dim, keepdim=True)) if x.numel() else x.new_zeros(())


def constant(x: torch.Tensor) -> torch.Tensor:
    """x without a derivative: as the bits of integers. The tracer takes ``detach`` for an alias, which has one."""
    return x.view(torch.int64).view(torch.float64)


def copied(into: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    """What was written into the whole of a tensor; torch has no derivative of it."""
    return source.to(into.dtype).expand_as(into).clone()


OURS: Table = {
    aten._softmax.default: softmax,
    aten._log_softmax.default: log_softmax,
    aten.logsumexp.default: logsumexp,
    aten.copy.default: copied,
}


@cache
def parts() -> Table:
    """The decompositions after which a function is differentiated."""
    of_torch: Table = {
        target: function
        for target, function in decomposition_table.items()
        if (function.__module__ == "torch._decomp.decompositions" or name_of(target) in OPENED)
        and name_of(target) not in KEPT
    }
    return of_torch | OURS


@cache
def elementary() -> Table:
    """The decompositions into operations that round once."""
    of_torch: Table = {
        target: function for target, function in decomposition_table.items() if name_of(target) not in KEPT
    }
    return of_torch | OURS
