"""The sinusoidal embedding of a timestep, fast.

    e(t) = [sin(ω_i t), cos(ω_i t)],      ω_i = P^{−i/(h − shift)},   i = 0 … h − 1,   h = ⌊d/2⌋

Angles are computed in float64 and only sines and cosines are rounded: at t = 1000 a float32 angle is off by 3e-5.
Sources: Vaswani et al. 2017 (1706.03762) §3.5 for shift 0; tensor2tensor and Ho et al. 2020 for shift 1.
"""

from __future__ import annotations

import math

import torch

from trueness.optimized._lib.validation import require_count

__all__ = ["sinusoidal"]

ORDERS = ("sin cos", "cos sin")


def sinusoidal(
    t: torch.Tensor,
    dim: int,
    *,
    shift: int,
    order: str,
    max_period: float = 10000.0,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """e(t) = [sin(ω_i t), cos(ω_i t)],  ω_i = P^{−i/(h − shift)},  h = ⌊d/2⌋        (Vaswani et al. 2017 §3.5)

    t           t  (...)     time or position, floating or integer, in the unit that the network was trained with
    dim         d  int       width, at least 2; of an odd width the last channel is 0
    shift          0 or 1    0: Vaswani et al., ADM, DiT;  1: tensor2tensor, DDPM. No default: both are in use
    order          "sin cos" (Vaswani et al., DDPM) or "cos sin" (ADM, DiT): which half comes first. No default either
    max_period  P  number    > 1
    dtype                    of the result; that of t, or float32 for integers
    returns     e  (..., d)  e·e = h for every t
    raises      ValueError   if t is no tensor of real numbers, dim < 2, max_period ≤ 1, or for another shift or order
    """
    if not isinstance(t, torch.Tensor) or t.is_complex() or t.dtype == torch.bool:
        found = t.dtype if isinstance(t, torch.Tensor) else type(t).__name__
        raise ValueError(f"t was {found}; it must be a torch.Tensor of floating or integer numbers.")
    require_count(dim, "dim", 2)
    if not isinstance(max_period, (int, float)) or not 1 < max_period < math.inf:
        raise ValueError(f"max_period was {max_period!r}; it must be a finite number above 1.")
    if isinstance(shift, bool) or shift not in (0, 1):
        raise ValueError(f"shift was {shift!r}; it must be 0 (Vaswani, ADM, DiT) or 1 (tensor2tensor, DDPM).")
    if order not in ORDERS:
        raise ValueError(f"order was {order!r}; allowed are {' and '.join(map(repr, ORDERS))}.")
    if dtype is None:
        dtype = t.dtype if t.is_floating_point() else torch.float32
    half = dim // 2
    i = torch.arange(half, dtype=torch.float64, device=t.device)
    angle = t.double()[..., None] * torch.exp(math.log(max_period) * (-i / max(half - shift, 1)))
    parts = [angle.sin(), angle.cos()] if order == "sin cos" else [angle.cos(), angle.sin()]
    if dim % 2:
        parts.append(0 * angle[..., :1])
    return torch.cat(parts, -1).to(dtype)
