"""Time-dependent self-attention inside windows: one time token an image, one a position, normed queries and keys.

The three projections of space are one product. The gradients are derived by hand and compute the softmax again;
derivatives of derivatives are torch's own.
"""

from __future__ import annotations

import torch

from trueness.optimized._lib.dtypes import upcast
from trueness.optimized.attention.dispatch import WindowConfig, windowed_attention, without_autocast
from trueness.optimized.attention.validation import (
    require_eps,
    require_grid,
    require_heads,
    require_like,
    require_shape,
    require_weights,
)
from trueness.optimized.attention.weights import TMSAWeights
from trueness.optimized.attention.windows import relative_position_bias

Tensor = torch.Tensor


def tmsa(
    x: Tensor, t: Tensor, weights: TMSAWeights, *, window: int, num_heads: int, out: Tensor | None = None
) -> Tensor:
    """y = softmax(q kᵀ/√d + B) v W_o,  q = x_s W_qs + x_t W_qt,  k = x_s W_ks + x_t W_kt,  v = x_s W_vs + x_t W_vt

    (Hatamizadeh et al. 2023 eq. 3-6, inside windows; Liu et al. 2021 eq. 4 for B.) w = H = W is global attention.
    Computed as (softmax((x_s W_qs + x_t W_qt)(x_s W_ks)ᵀ/√d + B) x_s W_vs + x_t W_vt) W_o: what x_t W_kt adds to the
    scores is the same for all keys, and rows of probabilities sum to one. W_kt has no effect, and a gradient of 0.

    x          x_s  (B, H, W, C)  spatial tokens, any floating dtype
    t          x_t  (B, E)        time token of every image
    weights         TMSAWeights
    window     w    int           side of a window, divides H and W
    num_heads       int           divides C
    out             (B, H, W, C)  optional: where the result is written, no gradient then
    returns    y    (B, H, W, C)  dtype of x
    raises     ValueError if a shape, dtype or device does not fit x, window does not divide H and W, or num_heads not
               C, or out does not fit
    """
    require_shape(x, "x", "(B, H, W, C)", 4)
    require_shape(t, "t", "(B, E)", 2)
    _require_weights(x, t, (x.shape[0], t.shape[1]), weights, window, num_heads)
    with without_autocast(x):
        terms = folded_time([upcast(t) @ upcast(w) for w in weights[3:6]])
        bias = relative_position_bias(upcast(weights.bias_table), window)
        config = WindowConfig(window, num_heads)
        return windowed_attention(x, torch.cat(weights[:3], 1), terms, None, bias, weights.w_o, config, out)


def folded_time(terms: list[Tensor]) -> Tensor:
    """x_t W_qt and x_t W_vt (B, 2, C) from these two and x_t W_kt between them, which cancels in the softmax.

    It is multiplied by 0, so that its gradient is 0 and NaN or ∞ in it show.
    """
    q_t, k_t, v_t = terms
    return torch.stack([q_t + 0 * k_t, v_t], 1)


def tmsa_tokens(
    x: Tensor, t: Tensor, weights: TMSAWeights, *, window: int, num_heads: int, out: Tensor | None = None
) -> Tensor:
    """y = softmax(q kᵀ/√d + B) v W_o as in tmsa, with a time token of its own for every position

    (Hatamizadeh et al. 2023 eq. 3-6.) Nothing cancels: (x_s, x_t) and the weights of both are one product.

    x          x_s  (B, H, W, C)  spatial tokens, any floating dtype
    t          x_t  (B, H, W, E)  time tokens, one beside every spatial token
    weights         TMSAWeights
    window     w    int           side of a window, divides H and W
    num_heads       int           divides C
    out             (B, H, W, C)  optional: where the result is written, no gradient then
    returns    y    (B, H, W, C)  dtype of x
    raises     ValueError as tmsa
    """
    require_shape(x, "x", "(B, H, W, C)", 4)
    require_shape(t, "t", "(B, H, W, E)", 4)
    _require_weights(x, t, (*x.shape[:3], t.shape[3]), weights, window, num_heads)
    with without_autocast(x):
        w_qkv = torch.cat([torch.cat(weights[:3], 1), torch.cat(weights[3:6], 1)])
        bias = relative_position_bias(upcast(weights.bias_table), window)
        config = WindowConfig(window, num_heads)
        return windowed_attention(torch.cat([x, t], 3), w_qkv, None, None, bias, weights.w_o, config, out)


def tmsa_qk_norm(
    x: Tensor,
    t: Tensor,
    weights: TMSAWeights,
    q_gain: Tensor,
    k_gain: Tensor,
    *,
    window: int,
    num_heads: int,
    eps: float = 1e-6,
    out: Tensor | None = None,
) -> Tensor:
    """y = softmax(q̂ k̂ᵀ/√d + B) v W_o,  q̂ = g_q q/√(mean q² + ε),  k̂ likewise, head by head;  q, k, v as in tmsa

    (Henry et al. 2020, 2010.04245; Esser et al. 2024, 2403.03206 §5.3.2.) The norm depends on x_t W_kt, which therefore
    does not cancel.

    x          x_s  (B, H, W, C)  spatial tokens, any floating dtype
    t          x_t  (B, E)        time token of every image
    weights         TMSAWeights
    q_gain     g_q  (d,)          of the queries, the same for all heads
    k_gain     g_k  (d,)          of the keys
    window     w    int           side of a window, divides H and W
    num_heads       int           divides C
    eps        ε    number        positive
    out             (B, H, W, C)  optional: where the result is written, no gradient then
    returns    y    (B, H, W, C)  dtype of x
    raises     ValueError as tmsa, or if a gain does not fit, or eps is not positive
    """
    require_shape(x, "x", "(B, H, W, C)", 4)
    require_shape(t, "t", "(B, E)", 2)
    _require_weights(x, t, (x.shape[0], t.shape[1]), weights, window, num_heads)
    head_width = (x.shape[3] // num_heads,)
    require_like(x, q_gain=(q_gain, head_width), k_gain=(k_gain, head_width))
    require_eps(eps)
    with without_autocast(x):
        terms = torch.stack([upcast(t) @ upcast(w) for w in (weights.w_qt, weights.w_vt, weights.w_kt)], 1)
        gain = torch.stack([upcast(q_gain), upcast(k_gain)])
        bias = relative_position_bias(upcast(weights.bias_table), window)
        config = WindowConfig(window, num_heads, eps)
        return windowed_attention(x, torch.cat(weights[:3], 1), terms, gain, bias, weights.w_o, config, out)


def _require_weights(
    x: Tensor, t: Tensor, time_shape: tuple[int, ...], weights: TMSAWeights, window: int, num_heads: int
) -> None:
    """Refuse what does not fit the tokens ``x``."""
    channels = x.shape[3]
    require_weights(weights, TMSAWeights)
    require_grid(window, x.shape[1], x.shape[2])
    require_heads(num_heads, channels)
    square, from_time = (channels, channels), (t.shape[-1], channels)
    shapes = [square] * 3 + [from_time] * 3 + [square, ((2 * window - 1) ** 2, num_heads)]
    fields = {n: (w, s) for n, w, s in zip(weights._fields, weights, shapes, strict=True)}
    require_like(x, t=(t, time_shape), **fields)
