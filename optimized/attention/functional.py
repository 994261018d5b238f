"""Attention of diffusion transformers, fast: masks, windows, relative positions, time-dependent self-attention, DiffiT.

    q = x_s W_qs + x_t W_qt,  k = x_s W_ks + x_t W_kt,  v = x_s W_vs + x_t W_vt,  y = softmax(q kᵀ/√d + B) v W_o
                                                                                  (Hatamizadeh et al. 2023 eq. 3-6)

Windows are cut out, attended to strip by strip and put back; the three projections of space are one product.

The gradients of tmsa, tmsa_tokens and tmsa_qk_norm are derived by hand and compute the softmax again; all others, and
derivatives of derivatives, are torch's own. float16 and bfloat16 are computed in float32 and rounded once, except by
these three: where the processor multiplies bfloat16, and on CUDA for both formats, products take and return the format
(sums inside are float32), so that q, k, v, q kᵀ, the probabilities that meet v, the output of the heads and their
gradients are rounded to it, too; softmax, bias, norms and sums over strips are float32. The kernels of CUDA do not
round q kᵀ.

The modules TMSA, DiffiTBlock, DiffiTResBlock, DiffiT and LatentDiffiT hold the weights and call these functions;
PRESETS are the paper's four models. Sources: Vaswani et al. 2017 (1706.03762); Liu et al. 2021 (2103.14030); Huang et
al. 2018 (1809.04281); Hatamizadeh et al. 2023 (2312.02139).
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from trueness.optimized._lib.dtypes import upcast
from trueness.optimized._lib.validation import require_count, require_floating
from trueness.optimized.attention.dispatch import Size, attend, exact_in
from trueness.optimized.attention.validation import (
    require_grid,
    require_group,
    require_heads,
    require_like,
    require_shape,
    require_table,
)

__all__ = [
    "diffit_block",
    "diffit_resblock",
    "gelu_tanh",
    "group_norm",
    "layer_norm",
    "masked_attention",
    "relative_attention_logits",
    "relative_position_bias",
    "relative_position_index",
    "silu",
    "tmsa",
    "tmsa_qk_norm",
    "tmsa_tokens",
    "window_partition",
    "window_unpartition",
]

Tensor = torch.Tensor


# -- normalisation and activation -------------------------------------------------------------------------------------


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
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
    _require_eps(eps)
    y = F.layer_norm(upcast(x), x.shape[-1:], upcast(weight), upcast(bias), eps)
    return y.to(x.dtype)


def group_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
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
    _require_eps(eps)
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


def _require_eps(eps: float) -> None:
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not 0 < eps < math.inf:
        raise ValueError(f"eps was {eps!r}; it must be a positive finite number.")


# -- attention --------------------------------------------------------------------------------------------------------


def masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """O = P V,  P_ij = exp(S_ij − L_i) where M_ij and 0 elsewhere,  S = Q Kᵀ/√d        (Vaswani et al. 2017 eq. 1)

    A query that may see no key has output 0. A mask of keys (B, J) is meant for all heads and queries as
    ``mask[:, None, None]``, one of pairs (B, N, J) for all heads as ``mask[:, None]``.

    q        Q  (..., N, d)  queries, any floating dtype
    k        K  (..., J, d)  keys
    v        V  (..., J, e)  values
    mask     M  (..., N, J)  bool, true where query i may see key j; it broadcasts
    returns  O  (..., N, e)  dtype of q
    raises   ValueError if the shapes do not fit, or mask is not of bool
    """
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        require_floating(tensor, name)
        if tensor.ndim < 2 or tensor.dtype != q.dtype or tensor.device != q.device:
            raise ValueError(
                f"{name} was {tuple(tensor.shape)} {tensor.dtype} on {tensor.device}; "
                f"it must have the axes (..., length, width), in {q.dtype} on {q.device} like q."
            )
    if q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        raise ValueError(
            f"q, k, v had shapes {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}; "
            "q and k must share their width, k and v their length."
        )
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"mask was {kind}; it must be a torch.bool tensor, true where a query may see a key.")
    if mask.device != q.device:
        raise ValueError(f"mask was on {mask.device}; it must be on {q.device}, where q is.")
    scores = _scores(upcast(q), upcast(k))
    try:
        mask = mask.expand(scores.shape)
    except RuntimeError:
        raise ValueError(
            f"mask had shape {tuple(mask.shape)}; it must broadcast to (..., N, J) = {tuple(scores.shape)}."
        ) from None
    p = torch.softmax(scores.masked_fill(~mask, -math.inf), -1)
    p = torch.where(mask.any(-1, keepdim=True), p, 0.0)  # else softmax of a row of −∞ is NaN
    out: Tensor = p @ upcast(v)
    return out.to(q.dtype)


def _scores(q: Tensor, k: Tensor) -> Tensor:
    """S = Q Kᵀ/√d"""
    return (q * (1 / math.sqrt(q.shape[-1]))) @ k.mT


def relative_attention_logits(q: Tensor, k: Tensor, embedding: Tensor) -> Tensor:
    """S_ij = q_i·(k_j + E_{N−1+j−i})/√d        (Shaw et al. 2018 eq. 5; scaled as in Huang et al. 2018 eq. 3)

    q·Eᵀ is computed once for all 2N − 1 offsets, and each row read from where its own offset 0 stands.

    q          Q  (..., N, d)  queries, any floating dtype
    k          K  (..., N, d)  keys
    embedding  E  (2N − 1, d)  of the offset j − i = −(N − 1) … N − 1
    returns    S  (..., N, N)  dtype of q
    raises     ValueError if the shapes do not fit
    """
    require_floating(q, "q")
    if q.ndim < 2:
        raise ValueError(f"q had shape {tuple(q.shape)}; it must have the axes (..., N, d).")
    n, d = q.shape[-2:]
    require_like(q, k=(k, q.shape), embedding=(embedding, (2 * n - 1, d)))
    scaled = upcast(q) * (1 / math.sqrt(d))
    at = torch.arange(n, device=q.device)
    offset = (n - 1 + at - at[:, None]).expand(*q.shape[:-1], n)
    relative = torch.gather(scaled @ upcast(embedding).mT, -1, offset)
    scores: Tensor = scaled @ upcast(k).mT + relative
    return scores.to(q.dtype)


# -- windows and relative positions -----------------------------------------------------------------------------------


def window_partition(x: Tensor, window: int) -> Tensor:
    """X_{(b n_H + r) n_W + c, i w + j} = x_{b, r w + i, c w + j}:  (B, H, W, C) → (B n_H n_W, w², C)

    x        x  (B, H, W, C)        tokens of a grid, any dtype
    window   w  int                 side of a window, divides H and W
    returns  X  (B n_H n_W, w², C)  a copy: images first, then window rows, then window columns; row-major inside
    raises   ValueError if x has not four axes, or window does not divide H and W
    """
    if not isinstance(x, Tensor) or x.ndim != 4:
        shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x was {shape}; it must be a tensor of shape (B, H, W, C).")
    require_grid(window, x.shape[1], x.shape[2])
    return _cut(x, window)


def _cut(x: Tensor, window: int) -> Tensor:
    batch, height, width, channels = x.shape
    rows, columns = height // window, width // window
    grid: Tensor = x.unflatten(1, (rows, window)).unflatten(3, (columns, window)).transpose(2, 3)
    copy = grid.clone(memory_format=torch.contiguous_format)
    return copy.view(batch * rows * columns, window * window, channels)


def window_unpartition(windows: Tensor, window: int, height: int, width: int) -> Tensor:
    """x = the inverse of window_partition:  (B n_H n_W, w², C) → (B, H, W, C)

    windows  X  (B n_H n_W, w², C)  images first, then window rows, then window columns; any dtype
    window   w  int                 side of a window
    height   H  int                 rows of the grid, a multiple of w
    width    W  int                 columns of the grid, a multiple of w
    returns  x  (B, H, W, C)        a copy
    raises   ValueError if window does not divide height and width, or windows are not whole images
    """
    require_grid(window, height, width)
    count = (height // window) * (width // window)
    if not isinstance(windows, Tensor) or windows.ndim != 3 or windows.shape[1] != window * window:
        shape = tuple(windows.shape) if isinstance(windows, Tensor) else type(windows).__name__
        raise ValueError(f"windows was {shape}; it must be a tensor of shape (B n_H n_W, {window * window}, C).")
    if windows.shape[0] % count:
        raise ValueError(f"windows had {windows.shape[0]} rows; it must have a multiple of n_H n_W = {count}.")
    return _put_back(windows, window, height, width)


def _put_back(windows: Tensor, window: int, height: int, width: int) -> Tensor:
    rows, columns, channels = height // window, width // window, windows.shape[-1]
    batch = windows.shape[0] // (rows * columns)
    grid = windows.reshape(batch, rows, columns, window, window, channels).transpose(2, 3)
    return grid.clone(memory_format=torch.contiguous_format).view(batch, height, width, channels)


def relative_position_index(window: int, *, device: torch.device | str | None = None) -> Tensor:
    """r(i, j) = (y_i − y_j + w − 1)(2w − 1) + (x_i − x_j + w − 1)        (Liu et al. 2021 §3.2)

    window   w  int       side of a window, at least 1
    device                where the table is made
    returns  r  (w², w²)  int64, every number from 0 to (2w − 1)² − 1
    raises   ValueError if window is not an integer of at least 1
    """
    require_count(window, "window")
    at = torch.arange(window * window, device=device)
    y, x = at // window, at % window
    return (y[:, None] - y + (window - 1)) * (2 * window - 1) + (x[:, None] - x + (window - 1))


def relative_position_bias(table: Tensor, window: int) -> Tensor:
    """B_hij = T_{r(i, j), h}        (Liu et al. 2021 eq. 4)

    table    T  ((2w − 1)², heads)  one number per displacement and head, any floating dtype
    window   w  int                 side of a window
    returns  B  (heads, w², w²)     dtype of table
    raises   ValueError if table has not (2w − 1)² rows
    """
    require_count(window, "window")
    require_table(table, window)
    return table[relative_position_index(window, device=table.device)].permute(2, 0, 1).contiguous()


# -- time-dependent self-attention ------------------------------------------------------------------------------------


def tmsa(
    x: Tensor,
    t: Tensor,
    w_qs: Tensor,
    w_ks: Tensor,
    w_vs: Tensor,
    w_qt: Tensor,
    w_kt: Tensor,
    w_vt: Tensor,
    w_o: Tensor,
    bias_table: Tensor,
    window: int,
    heads: int,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """y = softmax(q kᵀ/√d + B) v W_o,  q = x_s W_qs + x_t W_qt,  k = x_s W_ks + x_t W_kt,  v = x_s W_vs + x_t W_vt

    (Hatamizadeh et al. 2023 eq. 3-6, inside windows; Liu et al. 2021 eq. 4 for B.) w = H = W is global attention.
    Computed as (softmax((x_s W_qs + x_t W_qt)(x_s W_ks)ᵀ/√d + B) x_s W_vs + x_t W_vt) W_o: what x_t W_kt adds to the
    scores is the same for all keys, and rows of probabilities sum to one.

    x           x_s   (B, H, W, C)        spatial tokens, any floating dtype
    t           x_t   (B, E)              time token of every image
    w_qs        W_qs  (C, C)              queries from space
    w_ks        W_ks  (C, C)              keys from space
    w_vs        W_vs  (C, C)              values from space
    w_qt        W_qt  (E, C)              queries from time
    w_kt        W_kt  (E, C)              keys from time: has no effect, and a gradient of 0 but for rounding
    w_vt        W_vt  (E, C)              values from time
    w_o         W_o   (C, C)              mixes the heads
    bias_table  T     ((2w − 1)², heads)  relative position bias
    window      w     int                 side of a window, divides H and W
    heads             int                 divides C
    out               (B, H, W, C)        optional: where the result is written, no gradient then
    returns     y     (B, H, W, C)        dtype of x
    raises      ValueError if a shape, dtype or device does not fit x, window does not divide H and W, or heads not C,
                or out does not fit
    """
    require_shape(x, "x", "(B, H, W, C)", 4)
    require_shape(t, "t", "(B, E)", 2)
    space = (w_qs, w_ks, w_vs)
    _require_projections(x, t, (x.shape[0], t.shape[1]), space, (w_qt, w_kt, w_vt), w_o, bias_table, window, heads)
    with exact_in(x):
        now = upcast(t)
        q_t = now @ upcast(w_qt) + 0 * (now @ upcast(w_kt))  # 0 times it: NaN and ∞ show, and its gradient is 0
        time = torch.stack([q_t, now @ upcast(w_vt)], 1)
        bias = relative_position_bias(upcast(bias_table), window)
        return attend(x, torch.cat(space, 1), time, None, bias, w_o, Size(window, heads), out)


def tmsa_tokens(
    x: Tensor,
    t: Tensor,
    w_qs: Tensor,
    w_ks: Tensor,
    w_vs: Tensor,
    w_qt: Tensor,
    w_kt: Tensor,
    w_vt: Tensor,
    w_o: Tensor,
    bias_table: Tensor,
    window: int,
    heads: int,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """y = softmax(q kᵀ/√d + B) v W_o as in tmsa, with a time token of its own for every position

    (Hatamizadeh et al. 2023 eq. 3-6.) Nothing cancels: (x_s, x_t) meet their weights in one product.

    x           x_s   (B, H, W, C)        spatial tokens, any floating dtype
    t           x_t   (B, H, W, E)        time tokens, one beside every spatial token
    w_qs        W_qs  (C, C)              queries from space
    w_ks        W_ks  (C, C)              keys from space
    w_vs        W_vs  (C, C)              values from space
    w_qt        W_qt  (E, C)              queries from time
    w_kt        W_kt  (E, C)              keys from time
    w_vt        W_vt  (E, C)              values from time
    w_o         W_o   (C, C)              mixes the heads
    bias_table  T     ((2w − 1)², heads)  relative position bias
    window      w     int                 side of a window, divides H and W
    heads             int                 divides C
    out               (B, H, W, C)        optional: where the result is written, no gradient then
    returns     y     (B, H, W, C)        dtype of x
    raises      ValueError as tmsa
    """
    require_shape(x, "x", "(B, H, W, C)", 4)
    require_shape(t, "t", "(B, H, W, E)", 4)
    space, time = (w_qs, w_ks, w_vs), (w_qt, w_kt, w_vt)
    _require_projections(x, t, (*x.shape[:3], t.shape[3]), space, time, w_o, bias_table, window, heads)
    with exact_in(x):
        w_qkv = torch.cat([torch.cat(space, 1), torch.cat(time, 1)])
        bias = relative_position_bias(upcast(bias_table), window)
        return attend(torch.cat([x, t], 3), w_qkv, None, None, bias, w_o, Size(window, heads), out)


def tmsa_qk_norm(
    x: Tensor,
    t: Tensor,
    w_qs: Tensor,
    w_ks: Tensor,
    w_vs: Tensor,
    w_qt: Tensor,
    w_kt: Tensor,
    w_vt: Tensor,
    w_o: Tensor,
    q_gain: Tensor,
    k_gain: Tensor,
    bias_table: Tensor,
    window: int,
    heads: int,
    eps: float,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """y = softmax(q̂ k̂ᵀ/√d + B) v W_o,  q̂ = g_q q/√(mean q² + ε),  k̂ likewise, head by head;  q, k, v as in tmsa

    (Henry et al. 2020, 2010.04245; Esser et al. 2024, 2403.03206 §5.3.2.) x_t W_kt stays: the norm does not let it out.

    x           x_s   (B, H, W, C)        spatial tokens, any floating dtype
    t           x_t   (B, E)              time token of every image
    w_qs        W_qs  (C, C)              queries from space
    w_ks        W_ks  (C, C)              keys from space
    w_vs        W_vs  (C, C)              values from space
    w_qt        W_qt  (E, C)              queries from time
    w_kt        W_kt  (E, C)              keys from time
    w_vt        W_vt  (E, C)              values from time
    w_o         W_o   (C, C)              mixes the heads
    q_gain      g_q   (d,)                of the queries, the same for all heads
    k_gain      g_k   (d,)                of the keys
    bias_table  T     ((2w − 1)², heads)  relative position bias
    window      w     int                 side of a window, divides H and W
    heads             int                 divides C
    eps         ε     number              positive
    out               (B, H, W, C)        optional: where the result is written, no gradient then
    returns     y     (B, H, W, C)        dtype of x
    raises      ValueError as tmsa, or if a gain does not fit, or eps is not positive
    """
    require_shape(x, "x", "(B, H, W, C)", 4)
    require_shape(t, "t", "(B, E)", 2)
    space, time = (w_qs, w_ks, w_vs), (w_qt, w_kt, w_vt)
    _require_projections(x, t, (x.shape[0], t.shape[1]), space, time, w_o, bias_table, window, heads)
    width = (x.shape[3] // heads,)
    require_like(x, q_gain=(q_gain, width), k_gain=(k_gain, width))
    _require_eps(eps)
    with exact_in(x):
        moments = torch.stack([upcast(t) @ upcast(w) for w in (w_qt, w_vt, w_kt)], 1)
        gain = torch.stack([upcast(q_gain), upcast(k_gain)])
        bias = relative_position_bias(upcast(bias_table), window)
        return attend(x, torch.cat(space, 1), moments, gain, bias, w_o, Size(window, heads, eps), out)


def _require_projections(
    x: Tensor,
    t: Tensor,
    of_time: tuple[int, ...],
    space: tuple[Tensor, ...],
    time: tuple[Tensor, ...],
    w_o: Tensor,
    bias_table: Tensor,
    window: int,
    heads: int,
) -> None:
    """Refuse what does not fit the tokens ``x``."""
    channels = x.shape[3]
    require_grid(window, x.shape[1], x.shape[2])
    require_heads(heads, channels)
    require_like(
        x,
        t=(t, of_time),
        **{f"w_{n}s": (w, (channels, channels)) for n, w in zip("qkv", space, strict=True)},
        **{f"w_{n}t": (w, (t.shape[-1], channels)) for n, w in zip("qkv", time, strict=True)},
        w_o=(w_o, (channels, channels)),
        bias_table=(bias_table, ((2 * window - 1) ** 2, heads)),
    )


# -- DiffiT -----------------------------------------------------------------------------------------------------------


def diffit_block(
    x: Tensor,
    t: Tensor,
    norm1_weight: Tensor,
    norm1_bias: Tensor,
    w_qs: Tensor,
    w_ks: Tensor,
    w_vs: Tensor,
    w_qt: Tensor,
    w_kt: Tensor,
    w_vt: Tensor,
    w_o: Tensor,
    bias_table: Tensor,
    norm2_weight: Tensor,
    norm2_bias: Tensor,
    w_1: Tensor,
    b_1: Tensor,
    w_2: Tensor,
    b_2: Tensor,
    window: int,
    heads: int,
    eps: float,
) -> Tensor:
    """x̂ = TMSA(LN(x), x_t) + x,  y = MLP(LN(x̂)) + x̂,  MLP(z) = GELU(z W_1 + b_1) W_2 + b_2

    (Hatamizadeh et al. 2023 eq. 7-8, with the GELU of gelu_tanh.)

    x             (B, H, W, C)  spatial tokens, any floating dtype
    t             (B, E)        time tokens
    norm1_weight, norm1_bias    (C,)    of the LayerNorm before TMSA
    w_qs … bias_table           as in tmsa
    norm2_weight, norm2_bias    (C,)    of the LayerNorm before the MLP
    w_1, b_1, w_2, b_2          (C, M), (M,), (M, C), (C,)
    window        w  int        side of a window, divides H and W
    heads         int           divides C
    eps           ε  number     of both LayerNorms
    returns       (B, H, W, C)  dtype of x
    raises        ValueError as tmsa and layer_norm, or if a weight of the MLP does not fit
    """
    require_shape(x, "x", "(B, H, W, C)", 4)
    channels = x.shape[3]
    require_shape(w_1, "w_1", "(C, M)", 2)
    hidden = w_1.shape[1]
    require_like(
        x, w_1=(w_1, (channels, hidden)), b_1=(b_1, (hidden,)), w_2=(w_2, (hidden, channels)), b_2=(b_2, (channels,))
    )
    dtype = x.dtype
    x, t, norm1_weight, norm1_bias, w_qs, w_ks, w_vs, w_qt, w_kt, w_vt, w_o, bias_table = map(
        upcast, (x, t, norm1_weight, norm1_bias, w_qs, w_ks, w_vs, w_qt, w_kt, w_vt, w_o, bias_table)
    )
    norm2_weight, norm2_bias, w_1, b_1, w_2, b_2 = map(upcast, (norm2_weight, norm2_bias, w_1, b_1, w_2, b_2))
    normal = layer_norm(x, norm1_weight, norm1_bias, eps)
    hat = tmsa(normal, t, w_qs, w_ks, w_vs, w_qt, w_kt, w_vt, w_o, bias_table, window, heads) + x
    inner = gelu_tanh(layer_norm(hat, norm2_weight, norm2_bias, eps) @ w_1 + b_1)
    return (inner @ w_2 + b_2 + hat).to(dtype)


def diffit_resblock(
    x: Tensor,
    t: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    kernel: Tensor,
    kernel_bias: Tensor,
    norm1_weight: Tensor,
    norm1_bias: Tensor,
    w_qs: Tensor,
    w_ks: Tensor,
    w_vs: Tensor,
    w_qt: Tensor,
    w_kt: Tensor,
    w_vt: Tensor,
    w_o: Tensor,
    bias_table: Tensor,
    norm2_weight: Tensor,
    norm2_bias: Tensor,
    w_1: Tensor,
    b_1: Tensor,
    w_2: Tensor,
    b_2: Tensor,
    window: int,
    heads: int,
    groups: int,
    eps: float,
) -> Tensor:
    """x̂ = Conv3×3(Swish(GN(x))),  y = DiffiT-Block(x̂, x_t) + x        (Hatamizadeh et al. 2023 eq. 9-10)

    x             (B, C, H, W)  images or feature maps, any floating dtype
    t             (B, E)        time tokens
    norm_weight, norm_bias      (C,)    of the GroupNorm
    kernel        (C, C, 3, 3)  of the convolution, output channels first; zeros beyond the border
    kernel_bias   (C,)
    norm1_weight … b_2          as in diffit_block
    window        w  int        side of a window, divides H and W
    heads         int           divides C
    groups        G  int        of the GroupNorm, divides C
    eps           ε  number     of all three normalisations
    returns       (B, C, H, W)  dtype of x; nothing is applied after the sum
    raises        ValueError as group_norm and diffit_block, or if the convolution does not keep C channels
    """
    require_shape(x, "x", "(B, C, H, W)", 4)
    channels = x.shape[1]
    require_like(x, kernel=(kernel, (channels, channels, 3, 3)), kernel_bias=(kernel_bias, (channels,)))
    normal = silu(group_norm(upcast(x), upcast(norm_weight), upcast(norm_bias), groups, eps))
    hat = F.conv2d(normal, upcast(kernel), upcast(kernel_bias), padding=1)
    norm1_weight, norm1_bias, w_qs, w_ks, w_vs, w_qt, w_kt, w_vt, w_o, bias_table = map(
        upcast, (norm1_weight, norm1_bias, w_qs, w_ks, w_vs, w_qt, w_kt, w_vt, w_o, bias_table)
    )
    norm2_weight, norm2_bias, w_1, b_1, w_2, b_2 = map(upcast, (norm2_weight, norm2_bias, w_1, b_1, w_2, b_2))
    attended = (norm1_weight, norm1_bias, w_qs, w_ks, w_vs, w_qt, w_kt, w_vt, w_o, bias_table)
    fed = (norm2_weight, norm2_bias, w_1, b_1, w_2, b_2)
    block = diffit_block(hat.movedim(1, -1), upcast(t), *attended, *fed, window, heads, eps)
    total: Tensor = block.movedim(-1, 1) + upcast(x)
    return total.to(x.dtype)
