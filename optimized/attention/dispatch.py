"""Windowed attention with its projections, by the path that fits: strips on the CPU, an operator on CUDA.

    y = (softmax((q + q_t)(k + k_t)ᵀ/√d + B) v + v_t) W_o,   (q, k, v) = x W,   both normed where gains are given

Under torch.compile and functorch's transforms, and where the backward is itself differentiated, it is computed by
torch's own operations and gradients.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch

from trueness.optimized._lib.dispatch import needs_plain_ops
from trueness.optimized._lib.dtypes import autocast_disabled, compute_dtype, upcast
from trueness.optimized._lib.matmul import has_bfloat16
from trueness.optimized._lib.memory import in_large_pages
from trueness.optimized._lib.validation import require_out
from trueness.optimized.attention import cpu

Tensor = torch.Tensor


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Autocast is off inside; other devices, such as meta, have none."""
    return autocast_disabled(x) if x.device.type in ("cpu", "cuda") else nullcontext()


class WindowConfig(NamedTuple):
    """The options: the side of a window, the number of heads, and ε of the norms of q and k."""

    window: int
    num_heads: int
    eps: float = 0.0


def windowed_attention(
    x: Tensor,
    w_qkv: Tensor,
    time: Tensor | None,
    gain: Tensor | None,
    bias: Tensor,
    w_o: Tensor,
    config: WindowConfig,
    out: Tensor | None,
) -> Tensor:
    """y in the dtype of ``x``, into ``out`` if it is given.

    x      (B, H, W, I)       tokens; the products' inputs and weights have one dtype, the rest its wide format
    w_qkv  (I, 3C)            of q, k and v
    time   (B, 2 or 3, C)     q_t and v_t of every image, and k_t where gains are given; or None
    gain   (2, d)             of the norms of q and k; or None
    bias   (num_heads, w², w²)
    w_o    (C, C)
    """
    tensors = (x, w_qkv, time, gain, bias, w_o)
    given = [a for a in tensors if a is not None]
    if out is not None:
        require_out(out, _expected_out(x, w_o, any(a.requires_grad for a in given)))
    with without_autocast(x):
        if needs_plain_ops(*given):
            return _copy_into(out, plain(*tensors, config))
        if x.is_cuda and x.dtype != torch.float64:
            return _copy_into(out, _on_cuda(*tensors, config))
        if torch.is_grad_enabled() and any(a.requires_grad for a in given):
            return _Windows.apply(*tensors, config)  # type: ignore[no-any-return, no-untyped-call]
        if out is None or not out.is_contiguous():
            return _copy_into(out, _run(*tensors, config, _empty_out(x, w_o)))
        return _run(*tensors, config, out)


def _expected_out(x: Tensor, w_o: Tensor, requires_grad: bool) -> Tensor:
    """A tensor with the shape, dtype and device that ``out`` must have; it takes no memory."""
    like = x.new_empty(()).expand(*x.shape[:3], w_o.shape[1])
    return like.requires_grad_() if requires_grad else like


def _empty_out(x: Tensor, w_o: Tensor) -> Tensor:
    return in_large_pages(torch.empty(*x.shape[:3], w_o.shape[1], dtype=x.dtype, device=x.device))


def _copy_into(out: Tensor | None, y: Tensor) -> Tensor:
    return y if out is None else out.copy_(y)


def attend(qkv: Tensor, time: Tensor | None, bias: Tensor, config: WindowConfig) -> Tensor:
    """(softmax((q + q_t) kᵀ/√d + B) v + v_t) of the projected tokens (B, H, W, 3C), in their dtype (B, H, W, C).

    For projections that must be called as layers. time (B, 2, C) and bias (num_heads, w², w²) as in windowed_attention.
    """
    given = [a for a in (qkv, time, bias) if a is not None]
    with without_autocast(qkv):
        if qkv.is_cuda and qkv.dtype != torch.float64 and not needs_plain_ops(*given):
            from trueness.optimized.attention.cuda.operator import window_attention

            return window_attention(qkv, time, bias, config.window, config.num_heads)
        return _attend_plain(upcast(qkv), time, None, bias, config).to(qkv.dtype)


def plain(
    x: Tensor,
    w_qkv: Tensor,
    time: Tensor | None,
    gain: Tensor | None,
    bias: Tensor,
    w_o: Tensor,
    config: WindowConfig,
) -> Tensor:
    """windowed_attention in torch's own operations, differentiable any number of times."""
    mixed = _attend_plain(upcast(x) @ upcast(w_qkv), time, gain, bias, config)
    y: Tensor = mixed @ upcast(w_o)
    return y.to(x.dtype)


def _attend_plain(qkv: Tensor, time: Tensor | None, gain: Tensor | None, bias: Tensor, config: WindowConfig) -> Tensor:
    """The same between the two projections: (B, H, W, 3C) → (B, H, W, C)"""
    window, num_heads, eps = config
    batch, height, width = qkv.shape[:3]
    grid = qkv.reshape(batch, height // window, window, width // window, window, 3, num_heads, -1)
    in_windows = grid.permute(5, 0, 1, 3, 6, 2, 4, 7).flatten(2, 3).flatten(4, 5)  # 3 b n h w² d
    q, k, v = in_windows.unbind(0)
    terms = [] if time is None else [m.view(batch, 1, num_heads, 1, -1) for m in time.unbind(1)]
    if time is not None:
        q = q + terms[0]
        k = k + terms[2] if len(terms) == 3 else k
    if gain is not None:
        q, k = (g * a * torch.rsqrt(a.square().mean(-1, keepdim=True) + eps) for g, a in ((gain[0], q), (gain[1], k)))
    p = torch.softmax((q * (1 / math.sqrt(q.shape[-1]))) @ k.mT + bias, -1)
    o = p @ v if time is None else p @ v + terms[1]
    o = o.unflatten(3, (window, window)).unflatten(1, (height // window, width // window))
    return o.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, height, width, -1)


def _product_dtype(x: Tensor) -> torch.dtype:
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
    config: WindowConfig,
    out: Tensor,
    saved: cpu.Saved | None = None,
    strip_tokens: int | None = None,
) -> Tensor:
    dtype = _product_dtype(x)
    weights = w_qkv.to(dtype), time, gain, bias, w_o.to(dtype)
    return cpu.forward(x, *weights, *config, strip_tokens or cpu.tokens_at_once(x, dtype), out, saved)


class _Windows(torch.autograd.Function):
    """Saves the tokens, q k v, the output of the heads and the bias; probabilities where they are no larger than q."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        x, w_qkv, time, gain, bias, w_o, config = arguments
        dtype = _product_dtype(x)
        saved = cpu.allocate_saved(x, w_o.shape[0], dtype, config.window, config.num_heads)
        ctx.strip_tokens = cpu.tokens_at_once(x, dtype)
        y = _run(x, w_qkv, time, gain, bias, w_o, config, _empty_out(x, w_o), saved, ctx.strip_tokens)
        ctx.save_for_backward(*arguments[:-1], *saved)
        ctx.config = config
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        tensors: Any = ctx.saved_tensors[:6]
        saved = cpu.Saved(*ctx.saved_tensors[6:])
        x, w_qkv, time, gain, bias, w_o = tensors
        wanted = [i for i, needed in enumerate(ctx.needs_input_grad[:6]) if needed]
        with without_autocast(grad):
            if torch.is_grad_enabled():
                y = plain(x, w_qkv, time, gain, bias, w_o, ctx.config)
                grads = torch.autograd.grad(y, [tensors[i] for i in wanted], grad, create_graph=True)
                found: dict[int, Any] = dict(zip(wanted, grads, strict=True))
            else:
                dtype, (window, num_heads, eps) = _product_dtype(x), ctx.config
                weights = w_qkv.to(dtype), time, gain, bias, w_o.to(dtype)
                gradients: tuple[Any, ...] = cpu.backward(
                    grad, x, *weights, window, num_heads, eps, ctx.strip_tokens, saved
                )
                found = dict(enumerate(gradients))
        cast = [None if found.get(i) is None else found[i].to(tensors[i].dtype) for i in range(6)]
        return *cast, None


def _on_cuda(*arguments: Any) -> Tensor:
    from trueness.optimized.attention.cuda.operator import project_and_attend

    return project_and_attend(*arguments)
