"""Normalizations and activations of transformers: LayerNorm, GroupNorm, SiLU, GELU by its tanh approximation."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from trueness.optimized._lib.dtypes import upcast
from trueness.optimized._lib.validation import require_floating
from trueness.optimized.attention.validation import require_eps, require_group, require_like, require_shape

Tensor = torch.Tensor


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, *, eps: float = 1e-5) -> Tensor:
    """y = w (x − μ)/√(σ² + ε) + b, mean and variance over the last axis        (Ba, Kiros & Hinton 2016, 1607.06450)

    x        x  (..., C)  tokens, any floating dtype
    weight   w  (C,)      gain
    bias     b  (C,)      shift
    eps      ε  number    positive
    returns  y  (..., C)  dtype of x
    raises   ValueError if weight or bias does not fit x, or eps is not positive
    """
    require_floating(x, "x")
    if x.ndim < 1:
        raise ValueError("x had no axes; it must have at least the axis (C,).")
    require_like(x, weight=(weight, x.shape[-1:]), bias=(bias, x.shape[-1:]))
    require_eps(eps)
    y = F.layer_norm(upcast(x), x.shape[-1:], upcast(weight), upcast(bias), eps)
    return y.to(x.dtype)


def group_norm(x: Tensor, weight: Tensor, bias: Tensor, *, groups: int, eps: float = 1e-5) -> Tensor:
    """y = w (x − μ)/√(σ² + ε) + b, mean and variance over C/G channels of one image        (Wu & He 2018, 1803.08494)

    x        x  (B, C, H, W)  images, any floating dtype
    weight   w  (C,)          gain of every channel
    bias     b  (C,)          shift
    groups   G  int           divides C
    eps      ε  number        positive
    returns  y  (B, C, H, W)  dtype of x
    raises   ValueError if weight or bias does not fit x, groups does not divide C, or eps is not positive
    """
    require_shape(x, "x", "(B, C, H, W)", 4)
    require_like(x, weight=(weight, x.shape[1:2]), bias=(bias, x.shape[1:2]))
    require_group(groups, x.shape[1])
    require_eps(eps)
    flat = upcast(x).reshape(x.shape[0], groups, -1)
    normal = F.layer_norm(flat, flat.shape[-1:], eps=eps).reshape(x.shape)
    y: Tensor = upcast(weight)[:, None, None] * normal + upcast(bias)[:, None, None]
    return y.to(x.dtype)


def silu(x: Tensor) -> Tensor:
    """y = x/(1 + e^{−x})        (Swish with β = 1, Ramachandran, Zoph & Le 2017, 1710.05941)

    x        x  (...)  any floating tensor
    returns  y  (...)  dtype of x
    raises   ValueError if x is not floating
    """
    return F.silu(upcast(require_floating(x, "x"))).to(x.dtype)


def gelu_tanh(x: Tensor) -> Tensor:
    """y = x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))        (Hendrycks & Gimpel 2016, 1606.08415 §2, the approximation)

    x        x  (...)  any floating tensor
    returns  y  (...)  dtype of x
    raises   ValueError if x is not floating
    """
    return F.gelu(upcast(require_floating(x, "x")), approximate="tanh").to(x.dtype)
