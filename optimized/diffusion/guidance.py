"""Classifier-free guidance and its weight over time (Ho & Salimans 2022, 2207.12598).

ε = ε_u + w (ε_c − ε_u)
"""

from __future__ import annotations

import math

import torch

from trueness.optimized._lib.dtypes import upcast
from trueness.optimized._lib.validation import require_floating
from trueness.optimized.diffusion.validation import Device, require_alike, require_number

__all__ = [
    "classifier_free_guidance",
    "classifier_free_guidance_paper",
    "power_cosine_weight",
    "three_channel_guidance",
]


def classifier_free_guidance(eps_cond: torch.Tensor, eps_uncond: torch.Tensor, w: float) -> torch.Tensor:
    """ε = ε_u + w (ε_c − ε_u)        (as implementations count w: 0 is unconditional, 1 conditional)

    eps_cond    ε_c  (...)   noise predicted with the condition; any floating dtype, strides and device
    eps_uncond  ε_u  (...)   noise predicted without it, like eps_cond
    w           w    number  guidance scale; w = 1 + the w of Ho & Salimans
    returns     ε    (...)   dtype of eps_cond
    raises      ValueError   if eps_cond is not floating, eps_uncond is not like it, or w is not a finite number
    """
    _require_predictions(eps_cond, eps_uncond, w)
    return _guided(eps_cond, eps_uncond, w).to(eps_cond.dtype)


def classifier_free_guidance_paper(eps_cond: torch.Tensor, eps_uncond: torch.Tensor, w: float) -> torch.Tensor:
    """ε = (1 + w) ε_c − w ε_u        (Ho & Salimans 2022 eq. 6: −1 is unconditional, 0 conditional)

    eps_cond    ε_c  (...)   noise predicted with the condition; any floating dtype, strides and device
    eps_uncond  ε_u  (...)   noise predicted without it, like eps_cond
    w           w    number  guidance strength
    returns     ε    (...)   dtype of eps_cond
    raises      ValueError   if eps_cond is not floating, eps_uncond is not like it, or w is not a finite number
    """
    _require_predictions(eps_cond, eps_uncond, w)
    return ((1 + w) * upcast(eps_cond) - w * upcast(eps_uncond)).to(eps_cond.dtype)


def three_channel_guidance(eps_cond: torch.Tensor, eps_uncond: torch.Tensor, w: float = 4.0) -> torch.Tensor:
    """ε_k = ε_u,k + w (ε_c,k − ε_u,k) for channels k < 3, ε_k = ε_c,k for the others        (DiT, 2212.09748, code)

    eps_cond    ε_c  (B, C, ...)  noise predicted with the condition; any floating dtype, strides and device
    eps_uncond  ε_u  (B, C, ...)  noise predicted without it, like eps_cond
    w           w    number       guidance scale
    returns     ε    (B, C, ...)  of a latent with more than three channels, only the first three are guided
    raises      ValueError        if eps_cond is not floating or has no channels, eps_uncond is not like it, or w is not
                                  a finite number
    """
    _require_predictions(eps_cond, eps_uncond, w)
    if eps_cond.ndim < 2:
        raise ValueError(f"eps_cond had shape {tuple(eps_cond.shape)}; it must have an axis of channels, (B, C, ...).")
    guided = _guided(eps_cond[:, :3], eps_uncond[:, :3], w)
    return torch.cat([guided, eps_cond[:, 3:].to(guided.dtype)], 1).to(eps_cond.dtype)


def _require_predictions(eps_cond: torch.Tensor, eps_uncond: torch.Tensor, w: float) -> None:
    require_floating(eps_cond, "eps_cond")
    require_alike(eps_cond, "eps_cond", eps_uncond, "eps_uncond")
    require_number(w, "w", "a finite number", -math.inf, math.inf)


def _guided(eps_cond: torch.Tensor, eps_uncond: torch.Tensor, w: float) -> torch.Tensor:
    """ε_u + w (ε_c − ε_u), float16 and bfloat16 in float32."""
    base = upcast(eps_uncond)
    return base + w * (upcast(eps_cond) - base)


def power_cosine_weight(
    t: torch.Tensor,
    *,
    steps: float = 1000,
    w_max: float = 4.6,
    power: float = 4.0,
    dtype: torch.dtype = torch.float64,
    device: Device = None,
) -> torch.Tensor:
    """w(t) = 1 + (w_max − 1) (1 − cos(π (1 − t/T)^p))/2        (DiffiT, 2312.02139, code: p = 4)

    t        t      (...)   time, 0 (clean) to T (noise); float64 or rounded to it
    steps    T      number  > 0
    w_max    w_max  number  scale at t = 0
    power    p      number  the larger, the later guidance sets in, > 0
    returns  w      (...)   1 at t = T: early steps are not guided; on the device of t unless ``device`` is given
    raises   ValueError     if t is not floating, steps or power is not positive, or w_max is not finite
    """
    require_floating(t, "t")
    require_number(steps, "steps", "a positive number", 0, math.inf)
    require_number(power, "power", "a positive number", 0, math.inf)
    require_number(w_max, "w_max", "a finite number", -math.inf, math.inf)
    left: torch.Tensor = (1 - t.double() / steps) ** power
    return (1 + (w_max - 1) * (1 - torch.cos(math.pi * left)) / 2).to(device=device, dtype=dtype)
