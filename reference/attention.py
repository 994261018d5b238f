"""Attention of diffusion transformers: masks, windows, relative positions, time-dependent self-attention, DiffiT.

    O = softmax(Q Kᵀ/√d + B) V                                                   (Vaswani et al. 2017 eq. 1; B: eq. 4
                                                                                  of Liu et al. 2021)
    q = x_s W_qs + x_t W_qt,  k = x_s W_ks + x_t W_kt,  v = x_s W_vs + x_t W_vt  (Hatamizadeh et al. 2023 eq. 3-5)

Vaswani et al. 2017 (1706.03762); Liu et al. 2021, Swin (2103.14030); Huang et al. 2018, Music Transformer (1809.04281);
Hatamizadeh et al. 2023, DiffiT (2312.02139). Probabilities are exp(S − L) with L = log Σ exp S, as a kernel recomputes
them (Dao 2023, 2307.08691, Algorithm 2), so that their rounding is part of the formula. Tokens are (B, H, W, C).
"""

from typing import NamedTuple

import numpy as np


class TMSAWeights(NamedTuple):
    """The projections of time-dependent self-attention and its relative position bias; E is the width of x_t.

    w_qs        W_qs  (C, C)                  queries from space
    w_ks        W_ks  (C, C)                  keys from space
    w_vs        W_vs  (C, C)                  values from space
    w_qt        W_qt  (E, C)                  queries from time
    w_kt        W_kt  (E, C)                  keys from time
    w_vt        W_vt  (E, C)                  values from time
    w_o         W_o   (C, C)                  mixes the heads
    bias_table  T     ((2w − 1)², num_heads)  relative position bias
    """

    w_qs: np.ndarray
    w_ks: np.ndarray
    w_vs: np.ndarray
    w_qt: np.ndarray
    w_kt: np.ndarray
    w_vt: np.ndarray
    w_o: np.ndarray
    bias_table: np.ndarray


class DiffiTBlockWeights(NamedTuple):
    """The weights of a DiffiT transformer block.

    norm1_weight        (C,)         gain of the LayerNorm before TMSA
    norm1_bias          (C,)         its shift
    tmsa                TMSAWeights
    norm2_weight        (C,)         gain of the LayerNorm before the MLP
    norm2_bias          (C,)         its shift
    w_1           W_1   (C, M)       into the hidden layer, M = 4 C in the paper
    b_1           b_1   (M,)
    w_2           W_2   (M, C)       and out of it
    b_2           b_2   (C,)
    """

    norm1_weight: np.ndarray
    norm1_bias: np.ndarray
    tmsa: TMSAWeights
    norm2_weight: np.ndarray
    norm2_bias: np.ndarray
    w_1: np.ndarray
    b_1: np.ndarray
    w_2: np.ndarray
    b_2: np.ndarray


class DiffiTResBlockWeights(NamedTuple):
    """The weights of a DiffiT ResBlock.

    norm_weight        (C,)          gain of the GroupNorm
    norm_bias          (C,)          its shift
    kernel        K    (C, C, 3, 3)  of the convolution, output channels first
    kernel_bias        (C,)          its shift
    block              DiffiTBlockWeights
    """

    norm_weight: np.ndarray
    norm_bias: np.ndarray
    kernel: np.ndarray
    kernel_bias: np.ndarray
    block: DiffiTBlockWeights


# -- normalisation and activation -------------------------------------------------------------------------------------


def layer_norm(x, weight, bias, *, eps=1e-5):
    """y = w (x − μ)/√(σ² + ε) + b, mean and variance over the last axis        (Ba, Kiros & Hinton 2016, 1607.06450)

    x        x  (..., C)  tokens
    weight   w  (C,)      gain
    bias     b  (C,)      shift, unit of y
    eps      ε  number    keeps a constant token finite, unit² of x; 1e-5 in torch, 1e-6 in DiffiT
    returns  y  (..., C)
    """
    return weight * _normalised(x, -1, eps) + bias


def layer_norm_vjp(cotangent, x, weight, bias, eps):
    """(x̄, w̄, b̄):  x̄ = (ḡw − mean ḡw − x̂ mean(ḡw x̂))/√(σ² + ε),  w̄ = Σ ḡ x̂,  b̄ = Σ ḡ"""
    normal = _normalised(x, -1, eps)
    rows = (cotangent * normal).reshape(-1, x.shape[-1]), cotangent.reshape(-1, x.shape[-1])
    return _normalised_vjp(cotangent * weight, x, -1, eps), np.sum(rows[0], 0), np.sum(rows[1], 0)


def group_norm(x, weight, bias, *, groups, eps=1e-5):
    """y = w (x − μ)/√(σ² + ε) + b, mean and variance over C/G channels of one image        (Wu & He 2018, 1803.08494)

    x        x  (B, C, H, W)  images
    weight   w  (C,)          gain of every channel
    bias     b  (C,)          shift, unit of y
    groups   G  int           divides C; 8 in DiffiT
    eps      ε  number        keeps a constant group finite, unit² of x
    returns  y  (B, C, H, W)
    """
    normal = _normalised(x.reshape(x.shape[0], groups, -1), -1, eps).reshape(x.shape)
    return weight[:, None, None] * normal + bias[:, None, None]


def group_norm_vjp(cotangent, x, weight, bias, groups, eps):
    """(x̄, w̄, b̄) as of layer_norm, group by group"""
    flat = x.reshape(x.shape[0], groups, -1)
    normal = _normalised(flat, -1, eps).reshape(x.shape)
    pulled = _normalised_vjp((cotangent * weight[:, None, None]).reshape(flat.shape), flat, -1, eps)
    return pulled.reshape(x.shape), np.sum(cotangent * normal, (0, 2, 3)), np.sum(cotangent, (0, 2, 3))


def _normalised(x, axis, eps):
    """x̂ = (x − μ)/√(σ² + ε), the variance as the mean of squares"""
    centred = x - np.mean(x, axis=axis, keepdims=True)
    return centred / np.sqrt(np.mean(centred * centred, axis=axis, keepdims=True) + eps)


def _normalised_vjp(cotangent, x, axis, eps):
    """x̄ = (ḡ − mean ḡ − x̂ mean(ḡ x̂))/√(σ² + ε)"""
    centred = x - np.mean(x, axis=axis, keepdims=True)
    scale = np.sqrt(np.mean(centred * centred, axis=axis, keepdims=True) + eps)
    normal = centred / scale
    along = normal * np.mean(cotangent * normal, axis=axis, keepdims=True)
    return (cotangent - np.mean(cotangent, axis=axis, keepdims=True) - along) / scale


def silu(x):
    """y = x/(1 + e^{−x})        (Swish with β = 1, Ramachandran, Zoph & Le 2017, 1710.05941)

    x        x  (...)  any numbers
    returns  y  (...)  between −0.279 and x
    """
    return x / (1 + np.exp(-x))


def silu_vjp(cotangent, x):
    """x̄ = ȳ s (1 + x (1 − s)),  s = 1/(1 + e^{−x})"""
    s = 1 / (1 + np.exp(-x))
    return cotangent * s * (1 + x * (1 - s))


def gelu_tanh(x):
    """y = x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))        (Hendrycks & Gimpel 2016, 1606.08415 §2, the approximation)

    x        x  (...)  any numbers
    returns  y  (...)  at most 4.8e-4 from x Φ(x), the exact GELU, which needs the error function
    """
    return 0.5 * x * (1 + np.tanh(_cubic(x)))


def gelu_tanh_vjp(cotangent, x):
    """x̄ = ȳ ((1 + h)/2 + x/2 (1 − h²) √(2/π) (1 + 0.134145 x²)),  h = tanh(√(2/π) (x + 0.044715 x³))"""
    h = np.tanh(_cubic(x))
    slope = np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x * x)
    return cotangent * (0.5 * (1 + h) + 0.5 * x * (1 - h * h) * slope)


def _cubic(x):
    """√(2/π) (x + 0.044715 x³)"""
    return np.sqrt(2 / np.pi) * (x + 0.044715 * x * x * x)


# -- attention --------------------------------------------------------------------------------------------------------


def masked_attention(q, k, v, mask):
    """O = P V,  P_ij = exp(S_ij − L_i) where M_ij and 0 elsewhere,  S = Q Kᵀ/√d,  L_i = log Σ_{j: M_ij} exp S_ij

    (Vaswani et al. 2017 eq. 1 and §3.2.3.) A query that may see no key has output 0.

    q        Q  (..., N, d)  queries
    k        K  (..., J, d)  keys, at least one
    v        V  (..., J, e)  values
    mask     M  (..., N, J)  true where query i may see key j
    returns  O  (..., N, e)  a weighted mean of the values seen, their unit
    """
    return _masked_softmax(_scores(q, k), mask) @ v


def masked_attention_vjp(cotangent, q, k, v, mask):
    """(Q̄, K̄, V̄):  Δ = rowsum(Ō ∘ O),  S̄ = P ∘ (Ō Vᵀ − Δ)/√d        (Dao 2023, Algorithm 2)"""
    p = _masked_softmax(_scores(q, k), mask)
    ds = _scores_vjp(cotangent, p, v) / np.sqrt(q.shape[-1])
    return ds @ k, ds.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ cotangent


def _scores(q, k):
    """S = Q Kᵀ/√d"""
    return q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])


def _softmax(scores):
    """P = exp(S − L),  L = log Σ exp S"""
    top = np.max(scores, -1, keepdims=True)
    return np.exp(scores - (top + np.log(np.sum(np.exp(scores - top), -1, keepdims=True))))


def _masked_softmax(scores, mask):
    """The same over the keys that a row may see; 0 for all others, and for a row that sees none"""
    some = np.any(mask, -1, keepdims=True)
    top = np.where(some, np.max(np.where(mask, scores, -np.inf), -1, keepdims=True), 0.0)
    total = np.sum(np.where(mask, np.exp(np.where(mask, scores, top) - top), 0.0), -1, keepdims=True)
    logsum = top + np.log(np.where(some, total, 1.0))
    return np.where(mask, np.exp(np.where(mask, scores, logsum) - logsum), 0.0)


def _scores_vjp(cotangent, p, v):
    """S̄ = P ∘ (Ō Vᵀ − rowsum(Ō ∘ P V))"""
    delta = np.sum(cotangent * (p @ v), -1, keepdims=True)
    return p * (cotangent @ v.swapaxes(-1, -2) - delta)


def relative_attention_logits(q, k, embedding):
    """S_ij = q_i·(k_j + E_{N−1+j−i})/√d        (Shaw et al. 2018 eq. 5; scaled as in Huang et al. 2018 eq. 3)

    q          Q  (..., N, d)    queries
    k          K  (..., N, d)    keys
    embedding  E  (2N − 1, d)    of the offset j − i = −(N − 1) … N − 1; causal attention needs only the first N
    returns    S  (..., N, N)    logits of all pairs
    """
    n = q.shape[-2]
    offset = n - 1 + np.arange(n) - np.arange(n)[:, None]
    relative = np.sum(q[..., :, None, :] * embedding[offset], -1)
    return (q @ k.swapaxes(-1, -2) + relative) / np.sqrt(q.shape[-1])


# -- windows and relative positions -----------------------------------------------------------------------------------


def window_partition(x, window):
    """X_{(b n_H + r) n_W + c, i w + j} = x_{b, r w + i, c w + j}:  (B, H, W, C) → (B n_H n_W, w², C)

    (Liu et al. 2021 §3.2.) Images first, then window rows, then window columns; row-major inside.

    x        x  (B, H, W, C)        tokens of a grid; w divides H and W
    window   w  int                 side of a window, at least 1
    returns  X  (B n_H n_W, w², C)  the same numbers, n_H = H/w, n_W = W/w
    """
    batch, height, width, channels = x.shape
    grid = x.reshape(batch, height // window, window, width // window, window, channels)
    return grid.swapaxes(2, 3).reshape(-1, window * window, channels)


def window_partition_vjp(cotangent, x, window):
    """x̄ is the cotangent, put back"""
    return window_unpartition(cotangent, window, x.shape[1], x.shape[2])


def window_unpartition(windows, window, height, width):
    """x = the inverse of window_partition:  (B n_H n_W, w², C) → (B, H, W, C)

    windows  X  (B n_H n_W, w², C)  images first, then window rows, then window columns
    window   w  int                 side of a window
    height   H  int                 rows of the grid, a multiple of w
    width    W  int                 columns of the grid, a multiple of w
    returns  x  (B, H, W, C)        the same numbers
    """
    grid = windows.reshape(-1, height // window, width // window, window, window, windows.shape[-1])
    return grid.swapaxes(2, 3).reshape(-1, height, width, windows.shape[-1])


def window_unpartition_vjp(cotangent, windows, window, height, width):
    """X̄ is the cotangent, in windows"""
    return window_partition(cotangent, window)


def relative_position_index(window):
    """r(i, j) = (y_i − y_j + w − 1)(2w − 1) + (x_i − x_j + w − 1)        (Liu et al. 2021 §3.2)

    window   w  int       side of a window, at least 1
    returns  r  (w², w²)  integers, every number from 0 to (2w − 1)² − 1
    """
    y, x = np.divmod(np.arange(window * window), window)
    return (y[:, None] - y + window - 1) * (2 * window - 1) + (x[:, None] - x + window - 1)


def relative_position_bias(table, window):
    """B_hij = T_{r(i, j), h}        (Liu et al. 2021 eq. 4)

    table    T  ((2w − 1)², heads)  one number per displacement and head
    window   w  int                 side of a window
    returns  B  (heads, w², w²)     added to the logits q·k/√d
    """
    return np.moveaxis(table[relative_position_index(window)], -1, 0)


def relative_position_bias_vjp(cotangent, table, window):
    """T̄_rh = Σ_{i, j: r(i, j) = r} B̄_hij"""
    chosen = np.arange(table.shape[0])[:, None] == relative_position_index(window).reshape(-1)
    return np.where(chosen, 1.0, 0.0) @ cotangent.reshape(cotangent.shape[0], -1).swapaxes(0, 1)


# -- time-dependent self-attention ------------------------------------------------------------------------------------


def tmsa(x, t, weights: TMSAWeights, *, window, num_heads):
    """y = softmax(q kᵀ/√d + B) v W_o,  q = x_s W_qs + x_t W_qt,  k = x_s W_ks + x_t W_kt,  v = x_s W_vs + x_t W_vt

    (Hatamizadeh et al. 2023 eq. 3-6, inside windows; Liu et al. 2021 eq. 4 for B.) One time token for all
    positions of an image, repeated for each of its windows. w = H = W is global attention.

    x           x_s   (B, H, W, C)        spatial tokens; w divides H and W
    t           x_t   (B, E)              time token of every image
    weights           TMSAWeights
    window      w     int                 side of a window
    num_heads         int                 divides C; d = C/num_heads
    returns     y     (B, H, W, C)
    """
    q = _projected(x, t, weights.w_qs, weights.w_qt, window, num_heads)
    k = _projected(x, t, weights.w_ks, weights.w_kt, window, num_heads)
    v = _projected(x, t, weights.w_vs, weights.w_vt, window, num_heads)
    p = _softmax(_scores(q, k) + relative_position_bias(weights.bias_table, window))
    return window_unpartition(_merged(p @ v) @ weights.w_o, window, x.shape[1], x.shape[2])


def tmsa_vjp(cotangent, x, t, w_qs, w_ks, w_vs, w_qt, w_kt, w_vt, w_o, bias_table, window, num_heads):
    """Gradients of x, t, the seven weights and the table        (Dao 2023, Algorithm 2, for the softmax)"""
    q = _projected(x, t, w_qs, w_qt, window, num_heads)
    k = _projected(x, t, w_ks, w_kt, window, num_heads)
    v = _projected(x, t, w_vs, w_vt, window, num_heads)
    p = _softmax(_scores(q, k) + relative_position_bias(bias_table, window))
    out, back = _merged(p @ v), window_partition(cotangent, window)
    do = _split(back @ w_o.swapaxes(0, 1), num_heads)
    ds = _scores_vjp(do, p, v)
    root = np.sqrt(q.shape[-1])
    space = window_partition(x, window)
    dq, dk, dv = _merged(ds @ k / root), _merged(ds.swapaxes(-1, -2) @ q / root), _merged(p.swapaxes(-1, -2) @ do)
    dqt, dkt, dvt = (np.sum(g.reshape(x.shape[0], -1, g.shape[-1]), 1) for g in (dq, dk, dv))
    dx = dq @ w_qs.swapaxes(0, 1) + dk @ w_ks.swapaxes(0, 1) + dv @ w_vs.swapaxes(0, 1)
    return (
        window_unpartition(dx, window, x.shape[1], x.shape[2]),
        dqt @ w_qt.swapaxes(0, 1) + dkt @ w_kt.swapaxes(0, 1) + dvt @ w_vt.swapaxes(0, 1),
        _outer(space, dq),
        _outer(space, dk),
        _outer(space, dv),
        t.swapaxes(0, 1) @ dqt,
        t.swapaxes(0, 1) @ dkt,
        t.swapaxes(0, 1) @ dvt,
        _outer(out, back),
        relative_position_bias_vjp(np.sum(ds, 0), bias_table, window),
    )


def tmsa_tokens(x, t, weights: TMSAWeights, *, window, num_heads):
    """y = softmax(q kᵀ/√d + B) v W_o as in tmsa, with a time token of its own for every position

    (Hatamizadeh et al. 2023 eq. 3-6.) What time adds to a key then differs from key to key: W_kt has an effect.

    x           x_s   (B, H, W, C)        spatial tokens; w divides H and W
    t           x_t   (B, H, W, E)        time tokens, one beside every spatial token
    weights           TMSAWeights
    window      w     int                 side of a window
    num_heads         int                 divides C; d = C/num_heads
    returns     y     (B, H, W, C)
    """
    q = _projected_tokens(x, t, weights.w_qs, weights.w_qt, window, num_heads)
    k = _projected_tokens(x, t, weights.w_ks, weights.w_kt, window, num_heads)
    v = _projected_tokens(x, t, weights.w_vs, weights.w_vt, window, num_heads)
    p = _softmax(_scores(q, k) + relative_position_bias(weights.bias_table, window))
    return window_unpartition(_merged(p @ v) @ weights.w_o, window, x.shape[1], x.shape[2])


def tmsa_tokens_vjp(cotangent, x, t, w_qs, w_ks, w_vs, w_qt, w_kt, w_vt, w_o, bias_table, window, num_heads):
    """Gradients of x, t, the seven weights and the table, as of tmsa"""
    space_and_time = (w_qs, w_qt), (w_ks, w_kt), (w_vs, w_vt)
    q, k, v = (_projected_tokens(x, t, s, m, window, num_heads) for s, m in space_and_time)
    dw_o, dtable, dq, dk, dv = _attended_vjp(cotangent, q, k, v, w_o, bias_table, window)
    space, time = window_partition(x, window), window_partition(t, window)
    dx = dq @ w_qs.swapaxes(0, 1) + dk @ w_ks.swapaxes(0, 1) + dv @ w_vs.swapaxes(0, 1)
    dt = dq @ w_qt.swapaxes(0, 1) + dk @ w_kt.swapaxes(0, 1) + dv @ w_vt.swapaxes(0, 1)
    return (
        window_unpartition(dx, window, x.shape[1], x.shape[2]),
        window_unpartition(dt, window, x.shape[1], x.shape[2]),
        *(_outer(space, g) for g in (dq, dk, dv)),
        *(_outer(time, g) for g in (dq, dk, dv)),
        dw_o,
        dtable,
    )


def tmsa_qk_norm(x, t, weights: TMSAWeights, q_gain, k_gain, *, window, num_heads, eps=1e-6):
    """y = softmax(q̂ k̂ᵀ/√d + B) v W_o,  q̂ = g_q q/√(mean q² + ε),  k̂ likewise, head by head;  q, k, v as in tmsa

    (Henry et al. 2020, 2010.04245: queries and keys are normalised; Esser et al. 2024, 2403.03206 §5.3.2: by their root
    mean square, with learned gains.) The norm follows the sum of space and time, so that W_kt has an effect.

    x           x_s   (B, H, W, C)        spatial tokens; w divides H and W
    t           x_t   (B, E)              time token of every image
    weights           TMSAWeights
    q_gain      g_q   (d,)                of the queries, the same for all heads
    k_gain      g_k   (d,)                of the keys
    window      w     int                 side of a window
    num_heads         int                 divides C; d = C/num_heads
    eps         ε     number              keeps a query of zeros finite, unit² of q
    returns     y     (B, H, W, C)
    """
    q = _rms_norm(_projected(x, t, weights.w_qs, weights.w_qt, window, num_heads), q_gain, eps)
    k = _rms_norm(_projected(x, t, weights.w_ks, weights.w_kt, window, num_heads), k_gain, eps)
    v = _projected(x, t, weights.w_vs, weights.w_vt, window, num_heads)
    p = _softmax(_scores(q, k) + relative_position_bias(weights.bias_table, window))
    return window_unpartition(_merged(p @ v) @ weights.w_o, window, x.shape[1], x.shape[2])


def tmsa_qk_norm_vjp(
    cotangent, x, t, w_qs, w_ks, w_vs, w_qt, w_kt, w_vt, w_o, q_gain, k_gain, bias_table, window, num_heads, eps
):
    """Gradients of x, t, the seven weights, the two gains and the table        (Zhang & Sennrich 2019 for the norm)"""
    q = _projected(x, t, w_qs, w_qt, window, num_heads)
    k = _projected(x, t, w_ks, w_kt, window, num_heads)
    v = _projected(x, t, w_vs, w_vt, window, num_heads)
    qn, kn = _rms_norm(q, q_gain, eps), _rms_norm(k, k_gain, eps)
    dw_o, dtable, gq, gk, dv = _attended_vjp(cotangent, qn, kn, v, w_o, bias_table, window)
    dq_heads, dq_gain = _rms_norm_vjp(_split(gq, num_heads), q, q_gain, eps)
    dk_heads, dk_gain = _rms_norm_vjp(_split(gk, num_heads), k, k_gain, eps)
    dq, dk = _merged(dq_heads), _merged(dk_heads)
    space = window_partition(x, window)
    moments = [np.sum(g.reshape(x.shape[0], -1, g.shape[-1]), 1) for g in (dq, dk, dv)]
    dx = dq @ w_qs.swapaxes(0, 1) + dk @ w_ks.swapaxes(0, 1) + dv @ w_vs.swapaxes(0, 1)
    return (
        window_unpartition(dx, window, x.shape[1], x.shape[2]),
        moments[0] @ w_qt.swapaxes(0, 1) + moments[1] @ w_kt.swapaxes(0, 1) + moments[2] @ w_vt.swapaxes(0, 1),
        *(_outer(space, g) for g in (dq, dk, dv)),
        *(t.swapaxes(0, 1) @ m for m in moments),
        dw_o,
        dq_gain,
        dk_gain,
        dtable,
    )


def _attended_vjp(cotangent, q, k, v, w_o, bias_table, window):
    """What q, k and v (n, heads, w², d) receive, heads merged, and the gradients of W_o and of the table"""
    p = _softmax(_scores(q, k) + relative_position_bias(bias_table, window))
    out, back = _merged(p @ v), window_partition(cotangent, window)
    do = _split(back @ w_o.swapaxes(0, 1), q.shape[1])
    ds = _scores_vjp(do, p, v)
    root = np.sqrt(q.shape[-1])
    table = relative_position_bias_vjp(np.sum(ds, 0), bias_table, window)
    dq, dk, dv = ds @ k / root, ds.swapaxes(-1, -2) @ q / root, p.swapaxes(-1, -2) @ do
    return _outer(out, back), table, _merged(dq), _merged(dk), _merged(dv)


def _rms_norm(a, gain, eps):
    """g a/√(mean a² + ε) over the last axis        (Zhang & Sennrich 2019, 1910.07467 eq. 4)"""
    return gain * (a / np.sqrt(np.mean(a * a, -1, keepdims=True) + eps))


def _rms_norm_vjp(cotangent, a, gain, eps):
    """ā = (ḡg − n mean(ḡg n))/rms and Σ ḡ n, n = a/rms"""
    rms = np.sqrt(np.mean(a * a, -1, keepdims=True) + eps)
    normal, pulled = a / rms, cotangent * gain
    inner = (pulled - normal * np.mean(pulled * normal, -1, keepdims=True)) / rms
    return inner, np.sum((cotangent * normal).reshape(-1, a.shape[-1]), 0)


def _projected_tokens(x, t, w_s, w_t, window, heads):
    """The same with a time token for every position"""
    return _split(window_partition(x, window) @ w_s + window_partition(t, window) @ w_t, heads)


def _projected(x, t, w_s, w_t, window, heads):
    """x_s W_s + x_t W_t in windows, heads apart: (B n, heads, w², d)"""
    count = (x.shape[1] // window) * (x.shape[2] // window)
    time = np.repeat(t @ w_t, count, axis=0)
    return _split(window_partition(x, window) @ w_s + time[:, None], heads)


def _split(tokens, heads):
    """(n, N, C) → (n, heads, N, C/heads)"""
    n, length, channels = tokens.shape
    return tokens.reshape(n, length, heads, channels // heads).swapaxes(1, 2)


def _merged(heads):
    """(n, heads, N, d) → (n, N, heads d)"""
    n, count, length, d = heads.shape
    return heads.swapaxes(1, 2).reshape(n, length, count * d)


def _outer(tokens, cotangent):
    """Σ over all tokens of a ⊗ b: the gradient of a weight"""
    rows = tokens.reshape(-1, tokens.shape[-1])
    return rows.swapaxes(0, 1) @ cotangent.reshape(-1, cotangent.shape[-1])


# -- DiffiT -----------------------------------------------------------------------------------------------------------


def diffit_block(x, t, weights: DiffiTBlockWeights, *, window, num_heads, eps=1e-6):
    """x̂ = TMSA(LN(x), x_t) + x,  y = MLP(LN(x̂)) + x̂        (Hatamizadeh et al. 2023 eq. 7-8)

    MLP(z) = GELU(z W_1 + b_1) W_2 + b_2 with the GELU of gelu_tanh.

    x          x    (B, H, W, C)        spatial tokens
    t          x_t  (B, E)              time tokens
    weights         DiffiTBlockWeights
    window     w    int                 side of a window
    num_heads       int                 divides C
    eps        ε    number              of both LayerNorms
    returns    y    (B, H, W, C)
    """
    normal = layer_norm(x, weights.norm1_weight, weights.norm1_bias, eps=eps)
    hat = tmsa(normal, t, weights.tmsa, window=window, num_heads=num_heads) + x
    hidden = layer_norm(hat, weights.norm2_weight, weights.norm2_bias, eps=eps) @ weights.w_1 + weights.b_1
    return gelu_tanh(hidden) @ weights.w_2 + weights.b_2 + hat


def diffit_resblock(x, t, weights: DiffiTResBlockWeights, *, window, num_heads, groups=8, eps=1e-6):
    """x̂ = Conv3×3(Swish(GN(x))),  y = DiffiT-Block(x̂, x_t) + x        (Hatamizadeh et al. 2023 eq. 9-10)

    x          x    (B, C, H, W)           images or feature maps
    t          x_t  (B, E)                 time tokens
    weights         DiffiTResBlockWeights
    window     w    int                    side of a window
    num_heads       int                    divides C
    groups     G    int                    of the GroupNorm, divides C; 8 in the paper's code
    eps        ε    number                 of all three normalisations
    returns    y    (B, C, H, W)           nothing is applied after the sum
    """
    normal = group_norm(x, weights.norm_weight, weights.norm_bias, groups=groups, eps=eps)
    hat = np.moveaxis(_conv3x3(silu(normal), weights.kernel, weights.kernel_bias), 1, -1)
    block = diffit_block(hat, t, weights.block, window=window, num_heads=num_heads, eps=eps)
    return np.moveaxis(block, -1, 1) + x


def _conv3x3(x, kernel, bias):
    """y_o(p) = Σ_{c, δ} K_oc(δ) x_c(p + δ) + b_o,  δ ∈ {−1, 0, 1}², x = 0 beyond the border"""
    batch, channels, height, width = x.shape
    framed = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    shifted = [framed[:, :, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    columns = np.stack(shifted, 2).reshape(batch, channels * 9, height * width)
    y = kernel.reshape(kernel.shape[0], -1) @ columns + bias[:, None]
    return y.reshape(batch, -1, height, width)
