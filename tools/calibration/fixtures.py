"""The reference of the calibration that no formula declares: attention with an additive bias and an additive mask.

    O = softmax(Q Kᵀ/√d + B + M) V        (Vaswani et al. 2017 eq. 1; B additive bias, M mask of 0 and −∞)

Plain NumPy in primitive operations, so that it runs in float64, complex-step and stochastic arithmetic, with its
explicit vector-Jacobian product.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def scores(q: Any, k: Any, bias: Any, mask: Any) -> Any:
    """S = Q Kᵀ/√d + B + M"""
    return q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]) + bias + mask


def attention(q: Any, k: Any, v: Any, bias: Any, mask: Any) -> Any:
    """O = softmax(S) V

    q, k, v  (H, N, d)   queries, keys, values of H heads
    bias  B  (H, N, N)   added to the scores
    mask  M  (N, N)      0 where query i sees key j, −∞ elsewhere; every query sees a key
    returns  (H, N, d)
    """
    s = scores(q, k, bias, mask)
    p = np.exp(s - s.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True) @ v


def attention_vjp(cotangent: Any, q: Any, k: Any, v: Any, bias: Any, mask: Any) -> tuple[Any, Any, Any]:
    """(dQ, dK, dV) with L = log Σ exp S, P = exp(S − L), Δ = rowsum(dO ∘ O), dS = P ∘ (dO Vᵀ − Δ)/√d

    Dao 2023, FlashAttention-2, Algorithm 2. P from L is not normalised again: its rounding is part of the formula.
    """
    s = scores(q, k, bias, mask)
    top = s.max(-1, keepdims=True)
    p = np.exp(s - (top + np.log(np.exp(s - top).sum(-1, keepdims=True))))
    delta = (cotangent * (p @ v)).sum(-1, keepdims=True)
    ds = p * (cotangent @ v.swapaxes(-1, -2) - delta) / np.sqrt(q.shape[-1])
    return ds @ k, ds.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ cotangent
