"""Matrix products on the CPU, by oneDNN where it is faster than MKL.

``torch.mm`` of float32 calls MKL, which uses AVX-512 on Intel processors only; oneDNN uses it wherever the processor
supports it. bfloat16 products accumulate in float32 and are rounded once, if the processor has such instructions.
"""

from __future__ import annotations

from typing import Any

import torch

SMALL = 1 << 20  # multiplications below which the overhead of a oneDNN call exceeds its gain

Tensor = torch.Tensor


def _onednn() -> Any:
    """The operator x wᵀ + b that torch.compile emits, or None if torch was built without oneDNN."""
    available = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return torch.ops.mkldnn._linear_pointwise if available else None


ONEDNN = _onednn()


def has_bfloat16() -> bool:
    """Whether the processor has bfloat16 multiplication."""
    return ONEDNN is not None and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def prefers(x: Tensor) -> bool:
    """Whether oneDNN is faster for large products of tensors like ``x``."""
    return ONEDNN is not None and x.dtype == torch.float32 and x.device.type == "cpu"


def pointwise(x: Tensor, weight: Tensor, b: Tensor | None = None) -> Tensor:
    """x weightᵀ + b by oneDNN, in a new tensor."""
    y: Tensor = ONEDNN(x, weight, b, "none", [], "")
    return y


def product(x: Tensor, w: Tensor, out: Tensor | None = None) -> Tensor:
    """x w over the last axis of ``x``, into ``out`` if it is given; not differentiable.

    float32 goes through oneDNN. torch.mm of bfloat16 already does; it writes into ``out`` and reads strided input.
    """
    if out is not None and out.dtype == x.dtype == torch.bfloat16 and out.is_contiguous():
        torch.mm(x.flatten(0, -2), w, out=out.view(-1, w.shape[1]))
        return out
    if prefers(x) and x.numel() * w.shape[1] >= SMALL:
        y = pointwise(x, w.mT)
    else:
        y = torch.mm(x.flatten(0, -2), w).view(*x.shape[:-1], w.shape[1])  # x @ w may copy w for every row
    return y if out is None else out.copy_(y)
