"""Windowed attention on CUDA: the projections are torch's, what lies between them is one operator with its backward.

``trueness::window_attention`` takes (B, H, W, 3C) as the first projection writes it and returns (B, H, W, C) for the
second.
"""

from __future__ import annotations

import os
from typing import Any

import torch

from trueness.optimized.attention import cpu

Tensor = torch.Tensor
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def cuda_supported(qkv: Tensor) -> bool:
    """Whether the kernels run: on CUDA, and where Triton interprets them."""
    return qkv.dtype in DTYPES and (qkv.is_cuda or os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"))


def _strips(qkv: Tensor, time: Tensor | None, bias: Tensor, window: int, num_heads: int) -> Tensor:
    out = torch.empty(*qkv.shape[:3], qkv.shape[3] // 3, dtype=qkv.dtype, device=qkv.device)
    return cpu.core(qkv, time, bias, window, num_heads, out)


@torch.library.custom_op("trueness::window_attention", mutates_args=(), device_types=("cpu", "cuda"))
def window_attention(qkv: Tensor, time: Tensor | None, bias: Tensor, window: int, num_heads: int) -> Tensor:
    if cuda_supported(qkv):
        from trueness.optimized.attention.cuda import forward

        return forward.forward(qkv, time, bias, window, num_heads)
    return _strips(qkv, time, bias, window, num_heads)


@torch.library.custom_op("trueness::window_attention_backward", mutates_args=(), device_types=("cpu", "cuda"))
def window_attention_backward(
    grad: Tensor, qkv: Tensor, time: Tensor | None, bias: Tensor, window: int, num_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of qkv, time (empty where there is none) and bias."""
    if cuda_supported(qkv):
        from trueness.optimized.attention.cuda import backward

        dqkv, dtime, dbias = backward.backward(grad, qkv, time, bias, window, num_heads)
    else:
        dqkv, dtime, dbias = cpu.core_gradients(grad, qkv, time, bias, window, num_heads)
    return dqkv, bias.new_empty(0) if dtime is None else dtime, dbias


@window_attention.register_fake
def _(qkv: Tensor, time: Tensor | None, bias: Tensor, window: int, num_heads: int) -> Tensor:
    return qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3)


@window_attention_backward.register_fake
def _(
    grad: Tensor, qkv: Tensor, time: Tensor | None, bias: Tensor, window: int, num_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    dtime = bias.new_empty(0) if time is None else torch.empty_like(time, memory_format=torch.contiguous_format)
    return qkv.new_empty(qkv.shape), dtime, bias.new_empty(bias.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    qkv, time, bias, ctx.window, ctx.num_heads = inputs
    ctx.save_for_backward(qkv, time, bias)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    qkv, time, bias = ctx.saved_tensors
    dqkv, dtime, dbias = window_attention_backward(grad, qkv, time, bias, ctx.window, ctx.num_heads)
    return dqkv, None if time is None else dtime, dbias, None, None


window_attention.register_autograd(_backward, setup_context=_save)


def project_and_attend(
    x: Tensor, w_qkv: Tensor, time: Tensor | None, gain: Tensor | None, bias: Tensor, w_o: Tensor, config: Any
) -> Tensor:
    """y of the tokens: product, operator, product; half formats in their own products, which add in float32."""
    window, num_heads, eps = config
    qkv = x @ w_qkv
    if gain is not None:
        qkv, time = normalize_qk(qkv, time, gain, num_heads, eps)
    mixed: Tensor = window_attention(qkv, time, bias, window, num_heads)
    return mixed @ w_o


def normalize_qk(
    qkv: Tensor, time: Tensor | None, gain: Tensor, num_heads: int, eps: float
) -> tuple[Tensor, Tensor | None]:
    """q, k and v with time added to q and k and these normalized; and v_t, which is added to the result."""
    pieces = list(qkv.unflatten(3, (3, num_heads, -1)).unbind(3))
    for i in range(2):
        a = pieces[i].to(gain.dtype)
        if time is not None:
            a = a + time[:, 2 * i].view(-1, 1, 1, *a.shape[3:])
        a = gain[i] * (a * torch.rsqrt(a.square().mean(-1, keepdim=True) + eps))
        pieces[i] = a.to(qkv.dtype)
    left = None if time is None else torch.stack([torch.zeros_like(time[:, 1]), time[:, 1]], 1)
    return torch.stack(pieces, 3).flatten(3), left
