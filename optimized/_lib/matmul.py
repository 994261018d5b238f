"""Matrix products on the CPU: oneDNN's kernels where MKL's are slower.

``torch.mm`` of float32 calls MKL, which keeps its AVX-512 kernels to one maker's processors; oneDNN asks the processor
what it can. bfloat16 products add in float32 and are rounded once, where the processor has instructions for them.
"""

from __future__ import annotations

from typing import Any

import torch

SMALL = 1 << 20  # multiplications below which a call of oneDNN costs more than it saves

Tensor = torch.Tensor


def _onednn() -> Any:
    """The operator x wᵀ + b that torch's own compiler emits, or None where torch was built without it."""
    available = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return torch.ops.mkldnn._linear_pointwise if available else None


ONEDNN = _onednn()


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 by itself."""
    return ONEDNN is not None and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def prefers(x: Tensor) -> bool:
    """Whether oneDNN is the quicker one for products of such numbers, if they are large enough."""
    return ONEDNN is not None and x.dtype == torch.float32 and x.device.type == "cpu"


def pointwise(x: Tensor, turned: Tensor, b: Tensor | None = None) -> Tensor:
    """x turnedᵀ + b by oneDNN, in memory of its own."""
    found: Tensor = ONEDNN(x, turned, b, "none", [], "")
    return found


def product(x: Tensor, w: Tensor, out: Tensor | None = None) -> Tensor:
    """x w over the last axis of ``x``, into ``out`` if it is given; not differentiable, float32 through oneDNN.

    torch.mm of bfloat16 is oneDNN's already; it writes where it is told, and reads transposed tokens where they lie.
    """
    if out is not None and out.dtype == x.dtype == torch.bfloat16 and out.is_contiguous():
        torch.mm(x.flatten(0, -2), w, out=out.view(-1, w.shape[1]))
        return out
    if prefers(x) and x.numel() * w.shape[1] >= SMALL:
        y = pointwise(x, w.mT)
    else:
        y = torch.mm(x.flatten(0, -2), w).view(*x.shape[:-1], w.shape[1])  # x @ w may copy w for every row
    return y if out is None else out.copy_(y)
