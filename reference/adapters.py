"""Low-rank adaptation of a linear map.

    h = W_0 x + (α/r) B A dropout(x),      A (r, in),  B (out, r)

Hu et al. 2021, LoRA (2106.09685) eq. 3 and §4.1, and the code published with it: dropout acts on the input of the
adapter alone. W_0 is frozen, A starts as uniform noise and B at zero, so that adaptation starts at W_0. Rows are
samples here: x W_0ᵀ. The dropout mask is an argument.
"""

import numpy as np


def _dropped(x, mask, p):
    """x/(1 − p) where it is kept, 0 elsewhere"""
    return np.where(mask, x / (1 - p), 0)


def lora(x, weight, lora_A, lora_B, *, mask=None, alpha=1.0, p=0.0):
    """h = W_0 x + (α/r) B A dropout(x)        (Hu et al. 2021 eq. 3; dropout on the input, as their code)

    x        x    (..., in)   input
    weight   W_0  (out, in)   frozen
    lora_A   A    (r, in)     trained
    lora_B   B    (out, r)    trained, 0 at the start
    mask          (..., in)   true where an element of x is kept; None where nothing is dropped
    alpha    α    number      scale; the adapter counts α/r; 1 in their code
    p        p    number      share that is dropped, in [0, 1): what is kept is divided by 1 − p
    returns  h    (..., out)
    """
    adapter = (x if mask is None else _dropped(x, mask, p)) @ lora_A.T @ lora_B.T
    return x @ weight.T + adapter * (alpha / len(lora_A))


def lora_vjp(cotangent, x, weight, lora_A, lora_B, mask, alpha, p):
    """s = α/r,  d = dropout(x):  x̄ = h̄ W_0 + dropout(s h̄ B A),  W̄_0 = h̄ᵀ x,  Ā = s (h̄ B)ᵀ d,  B̄ = s h̄ᵀ (d Aᵀ)"""
    rows = cotangent.reshape(-1, len(weight))
    scaled = rows * (alpha / len(lora_A))
    inputs, kept = x.reshape(-1, weight.shape[1]), _dropped(x, mask, p).reshape(-1, weight.shape[1])
    through = scaled @ lora_B
    grad_x = (rows @ weight).reshape(x.shape) + _dropped((through @ lora_A).reshape(x.shape), mask, p)
    return grad_x, rows.T @ inputs, through.T @ kept, scaled.T @ (kept @ lora_A.T)


def merge(weight, lora_A, lora_B, *, alpha=1.0):
    """W = W_0 + (α/r) B A        (Hu et al. 2021 §4.1: no additional latency)

    weight   W_0  (out, in)
    lora_A   A    (r, in)
    lora_B   B    (out, r)
    alpha    α    number
    returns  W    (out, in)  x Wᵀ is the adapted map without dropout
    """
    return weight + (lora_B @ lora_A) * (alpha / len(lora_A))


def merge_vjp(cotangent, weight, lora_A, lora_B, alpha):
    """W̄_0 = W̄,  Ā = (α/r) Bᵀ W̄,  B̄ = (α/r) W̄ Aᵀ"""
    scaled = cotangent * (alpha / len(lora_A))
    return +cotangent, lora_B.T @ scaled, scaled @ lora_A.T


def unmerge(weight, lora_A, lora_B, *, alpha=1.0):
    """W_0 = W − (α/r) B A: back to within the rounding of two additions, not bit for bit

    weight   W    (out, in)  merged
    lora_A   A    (r, in)
    lora_B   B    (out, r)
    alpha    α    number
    returns  W_0  (out, in)
    """
    return weight - (lora_B @ lora_A) * (alpha / len(lora_A))


def unmerge_vjp(cotangent, weight, lora_A, lora_B, alpha):
    """W̄ = W̄_0,  Ā = −(α/r) Bᵀ W̄_0,  B̄ = −(α/r) W̄_0 Aᵀ"""
    scaled = cotangent * (alpha / len(lora_A))
    return +cotangent, -(lora_B.T @ scaled), -(scaled @ lora_A.T)
