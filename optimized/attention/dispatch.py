"""Windowed attention between its projections, by whichever path fits: strips on the CPU, an operator on CUDA.

    y = (softmax((q + q_t)(k + k_t)ᵀ/√d + B) v + v_t) W_o,   (q, k, v) = x W,   both normed where gains are given

Under torch.compile and functorch's transforms, and where the backward is itself differentiated, torch's own operations
and gradients serve.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch

from trueness.optimized._lib.dispatch import under_functorch
from trueness.optimized._lib.dtypes import autocast_disabled, compute_dtype, upcast
from trueness.optimized._lib.matmul import has_bfloat16
from trueness.optimized._lib.memory import in_large_pages
from trueness.optimized._lib.validation import require_out
from trueness.optimized.attention import cpu as windows

Tensor = torch.Tensor


def exact_in(x: Tensor) -> AbstractContextManager[Any]:
    """No autocast inside; there is none on the meta device."""
    return autocast_disabled(x) if x.device.type in ("cpu", "cuda") else nullcontext()


class Size(NamedTuple):
    """What is not a tensor: the side of a window, the heads, the ε of the norms."""

    window: int
    heads: int
    eps: float = 0.0


def attend(
    x: Tensor,
    w_qkv: Tensor,
    time: Tensor | None,
    gain: Tensor | None,
    bias: Tensor,
    w_o: Tensor,
    size: Size,
    out: Tensor | None,
) -> Tensor:
    """y in the dtype of ``x``, into ``out`` if it is given.

    x      (B, H, W, I)       tokens; the products' inputs and weights have one dtype, the rest its wide format
    w_qkv  (I, 3C)            of q, k and v
    time   (B, 2 or 3, C)     q_t and v_t of every image, and k_t where gains are given; or None
    gain   (2, d)             of the norms of q and k; or None
    bias   (heads, w², w²)
    w_o    (C, C)
    """
    tensors = (x, w_qkv, time, gain, bias, w_o)
    given = [a for a in tensors if a is not None]
    if out is not None:
        require_out(out, _like(x, w_o, any(a.requires_grad for a in given)))
    with exact_in(x):
        if _traced(given):
            return _into(out, plain(*tensors, size))
        if x.is_cuda and x.dtype != torch.float64:
            return _into(out, _on_cuda(*tensors, size))
        if torch.is_grad_enabled() and any(a.requires_grad for a in given):
            return _Windows.apply(*tensors, size)  # type: ignore[no-any-return, no-untyped-call]
        if out is None or not out.is_contiguous():
            return _into(out, _run(*tensors, size, _fresh(x, w_o)))
        return _run(*tensors, size, out)


def _like(x: Tensor, w_o: Tensor, requires_grad: bool) -> Tensor:
    """What ``out`` must be like: no memory is taken."""
    like = x.new_empty(()).expand(*x.shape[:3], w_o.shape[1])
    return like.requires_grad_() if requires_grad else like


def _fresh(x: Tensor, w_o: Tensor) -> Tensor:
    return in_large_pages(torch.empty(*x.shape[:3], w_o.shape[1], dtype=x.dtype, device=x.device))


def _into(out: Tensor | None, y: Tensor) -> Tensor:
    return y if out is None else out.copy_(y)


def _traced(tensors: list[Tensor]) -> bool:
    """Whether somebody watches operation by operation: a compiler, a transform, forward mode, a subclass."""
    return (
        torch.compiler.is_compiling()
        or under_functorch()
        or torch.autograd.forward_ad._current_level >= 0
        or any(type(a) not in (Tensor, torch.nn.Parameter) for a in tensors)
    )


def plain(
    x: Tensor,
    w_qkv: Tensor,
    time: Tensor | None,
    gain: Tensor | None,
    bias: Tensor,
    w_o: Tensor,
    size: Size,
) -> Tensor:
    """The same in torch's own operations, differentiable as often as one likes."""
    window, heads, eps = size
    batch, height, width = x.shape[:3]
    z = upcast(x) @ upcast(w_qkv)
    grid = z.reshape(batch, height // window, window, width // window, window, 3, heads, -1)
    pieces = grid.permute(5, 0, 1, 3, 6, 2, 4, 7).flatten(2, 3).flatten(4, 5)  # 3 b n h w² d
    q, k, v = pieces.unbind(0)
    moments = [] if time is None else [m.view(batch, 1, heads, 1, -1) for m in time.unbind(1)]
    if time is not None:
        q = q + moments[0]
        k = k + moments[2] if len(moments) == 3 else k
    if gain is not None:
        q, k = (g * a * torch.rsqrt(a.square().mean(-1, keepdim=True) + eps) for g, a in ((gain[0], q), (gain[1], k)))
    p = torch.softmax((q * (1 / math.sqrt(q.shape[-1]))) @ k.mT + bias, -1)
    heads_out = p @ v if time is None else p @ v + moments[1]
    o = heads_out.unflatten(3, (window, window)).unflatten(1, (height // window, width // window))
    mixed = o.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, height, width, -1)
    y: Tensor = mixed @ upcast(w_o)
    return y.to(x.dtype)


def _natively(x: Tensor) -> torch.dtype:
    """The dtype of the products: that of the tokens where the processor multiplies it, adding in float32."""
    if x.dtype == torch.bfloat16 and has_bfloat16():
        return x.dtype
    return compute_dtype(x.dtype)


def _run(
    x: Tensor,
    w_qkv: Tensor,
    time: Tensor | None,
    gain: Tensor | None,
    bias: Tensor,
    w_o: Tensor,
    size: Size,
    out: Tensor,
    kept: windows.ToKeep | None = None,
    most: int | None = None,
) -> Tensor:
    dtype = _natively(x)
    weights = w_qkv.to(dtype), time, gain, bias, w_o.to(dtype)
    return windows.forward(x, *weights, *size, most or windows.tokens_at_once(x, dtype), out, kept)


class _Windows(torch.autograd.Function):
    """Keeps the tokens, q k v, the output of the heads and the bias; probabilities where they are no larger than q."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        x, w_qkv, time, gain, bias, w_o, size = arguments
        dtype = _natively(x)
        kept = windows.to_keep(x, w_o.shape[0], dtype, size.window, size.heads)
        ctx.most = windows.tokens_at_once(x, dtype)
        y = _run(x, w_qkv, time, gain, bias, w_o, size, _fresh(x, w_o), kept, ctx.most)
        ctx.save_for_backward(*arguments[:-1], *kept)
        ctx.size = size
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        tensors: Any = ctx.saved_tensors[:6]
        kept = windows.ToKeep(*ctx.saved_tensors[6:])
        x, w_qkv, time, gain, bias, w_o = tensors
        wanted = [i for i, needed in enumerate(ctx.needs_input_grad[:6]) if needed]
        with exact_in(grad):
            if torch.is_grad_enabled():
                y = plain(x, w_qkv, time, gain, bias, w_o, ctx.size)
                pulled = torch.autograd.grad(y, [tensors[i] for i in wanted], grad, create_graph=True)
                found: dict[int, Any] = dict(zip(wanted, pulled, strict=True))
            else:
                dtype, (window, heads, eps) = _natively(x), ctx.size
                weights = w_qkv.to(dtype), time, gain, bias, w_o.to(dtype)
                gradients: tuple[Any, ...] = windows.backward(grad, x, *weights, window, heads, eps, ctx.most, kept)
                found = dict(enumerate(gradients))
        cast = [None if found.get(i) is None else found[i].to(tensors[i].dtype) for i in range(6)]
        return *cast, None


def _on_cuda(*arguments: Any) -> Tensor:
    from trueness.optimized.attention.cuda.operator import module

    return module(*arguments)
