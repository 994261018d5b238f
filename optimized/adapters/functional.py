"""Low-rank adaptation of a linear map, fast.

    h = W_0 x + (α/r) B A dropout(x),      A (r, in),  B (out, r)

`lora`, `merge` and `unmerge` are the equations; `LoRALinear` is the layer, whose merging is undone bit for bit. Dropout
acts on the input of the adapter alone, and its mask is an argument. float16 and bfloat16 are summed in float32 and
rounded once. Source: Hu et al. 2021 (2106.09685) eq. 3, §4.1 and the code published with it.
"""

from __future__ import annotations

import math

import torch

from trueness.optimized._lib.dtypes import upcast
from trueness.optimized._lib.validation import is_number, require_floating

__all__ = ["lora", "merge", "unmerge"]


def _require_factors(weight: torch.Tensor, lora_A: torch.Tensor, lora_B: torch.Tensor, alpha: float) -> None:
    for tensor, name in ((weight, "weight"), (lora_A, "lora_A"), (lora_B, "lora_B")):
        require_floating(tensor, name)
        if tensor.ndim != 2:
            raise ValueError(f"{name} had shape {tuple(tensor.shape)}; it must have two axes.")
    rank, inputs = lora_A.shape
    if rank < 1:
        raise ValueError("lora_A had rank 0; it must have at least one row.")
    if weight.shape[1] != inputs:
        raise ValueError(f"lora_A had {inputs} columns; it must have {weight.shape[1]}, as weight has.")
    if tuple(lora_B.shape) != (weight.shape[0], rank):
        raise ValueError(f"lora_B had shape {tuple(lora_B.shape)}; it must be {(weight.shape[0], rank)}.")
    if not is_number(alpha) or not -math.inf < alpha < math.inf:
        raise ValueError(f"alpha was {alpha!r}; it must be a finite number.")


def lora(
    x: torch.Tensor,
    weight: torch.Tensor,
    lora_A: torch.Tensor,
    lora_B: torch.Tensor,
    *,
    mask: torch.Tensor | None = None,
    alpha: float = 1.0,
    p: float = 0.0,
) -> torch.Tensor:
    """h = W_0 x + (α/r) B A dropout(x)        (Hu et al. 2021 eq. 3; dropout on the input, as their code)

    x        x    (..., in)   input; any strides and device
    weight   W_0  (out, in)   frozen
    lora_A   A    (r, in)     trained
    lora_B   B    (out, r)    trained, 0 at the start
    mask          (..., in)   bool: true where an element of x is kept; None where nothing is dropped
    alpha    α    number      scale; the adapter counts α/r; 1 in their code
    p        p    number      share that is dropped, in [0, 1): what is kept is divided by 1 − p
    returns  h    (..., out)  dtype of x
    raises   ValueError       if a shape does not fit, mask is not bool, p lies outside [0, 1), or p > 0 without a mask
    """
    require_floating(x, "x")
    _require_factors(weight, lora_A, lora_B, alpha)
    if x.ndim < 1 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"x had shape {tuple(x.shape)}; its last axis must be {weight.shape[1]}, as weight has.")
    if mask is not None and (not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool or mask.shape != x.shape):
        found = f"{tuple(mask.shape)} {mask.dtype}" if isinstance(mask, torch.Tensor) else type(mask).__name__
        raise ValueError(f"mask was {found}; it must be a bool tensor of shape {tuple(x.shape)}, as x.")
    if not is_number(p) or not 0 <= p < 1:
        raise ValueError(f"p was {p!r}; it must be a number in [0, 1).")
    if mask is None and p:
        raise ValueError(f"p was {p!r} without a mask; it must be 0, or mask must say what is dropped.")
    with torch.autocast(x.device.type, enabled=False):
        y = upcast(x)
        dropped = y if mask is None else torch.where(mask, y / (1 - p), 0)
        adapter = dropped @ upcast(lora_A).mT @ upcast(lora_B).mT
        return (y @ upcast(weight).mT + adapter * (alpha / lora_A.shape[0])).to(x.dtype)


def merge(weight: torch.Tensor, lora_A: torch.Tensor, lora_B: torch.Tensor, *, alpha: float = 1.0) -> torch.Tensor:
    """W = W_0 + (α/r) B A        (Hu et al. 2021 §4.1: no additional latency)

    weight   W_0  (out, in)
    lora_A   A    (r, in)
    lora_B   B    (out, r)
    alpha    α    number
    returns  W    (out, in)  a new tensor, dtype of weight; x Wᵀ is the adapted map without dropout
    raises   ValueError      if a shape does not fit or alpha is not finite
    """
    _require_factors(weight, lora_A, lora_B, alpha)
    return _added(weight, lora_A, lora_B, alpha)


def unmerge(weight: torch.Tensor, lora_A: torch.Tensor, lora_B: torch.Tensor, *, alpha: float = 1.0) -> torch.Tensor:
    """W_0 = W − (α/r) B A: back to within the rounding of two additions; `LoRALinear` keeps W_0 instead

    weight   W    (out, in)  merged
    lora_A   A    (r, in)
    lora_B   B    (out, r)
    alpha    α    number
    returns  W_0  (out, in)  a new tensor, dtype of weight
    raises   ValueError      if a shape does not fit or alpha is not finite
    """
    _require_factors(weight, lora_A, lora_B, alpha)
    return _added(weight, lora_A, lora_B, -alpha)


def _added(weight: torch.Tensor, lora_A: torch.Tensor, lora_B: torch.Tensor, alpha: float) -> torch.Tensor:
    with torch.autocast(weight.device.type, enabled=False):
        change = upcast(lora_B) @ upcast(lora_A)
        return (upcast(weight) + change * (alpha / lora_A.shape[0])).to(weight.dtype)
