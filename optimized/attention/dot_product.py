"""Dot-product attention: with a mask, and the logits of attention with relative positions."""

from __future__ import annotations

import math

import torch

from trueness.optimized._lib.dtypes import upcast
from trueness.optimized._lib.validation import require_floating
from trueness.optimized.attention.validation import require_like

Tensor = torch.Tensor


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
