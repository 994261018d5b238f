"""One decoding step on CUDA, where no gradient is wanted: the operators around one kernel.

``trueness::omega_step`` returns a new memory and momentum, ``trueness::omega_step_`` overwrites the old ones.
"""

from __future__ import annotations

from typing import Any

import torch

from trueness.optimized._lib.dispatch import under_functorch
from trueness.optimized.atlas_memory.config import OmegaConfig
from trueness.optimized.atlas_memory.state import OmegaStreamState, Tokens, with_window

WIDEST = 512  # features, all of which a program holds
Tensor = torch.Tensor


def cuda_supported(tokens: Tokens, state: OmegaStreamState, config: OmegaConfig) -> bool:
    """Whether the kernel computes this token"""
    memory = state.memory
    return (
        memory.is_cuda
        and memory.dtype == torch.float32
        and config.plain_descent
        and 1 <= memory.shape[-2] <= WIDEST
        and memory.shape[-1] > 0
        and not (torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in (*tokens, *state)))
        and not under_functorch()
    )


def step(
    tokens: Tokens, state: OmegaStreamState, config: OmegaConfig, inplace: bool
) -> tuple[Tensor, OmegaStreamState]:
    """``streaming.step.step`` in one launch, and two for the window"""
    tokens = Tokens._make(x.contiguous() for x in tokens)
    start = state.memory if config.chunk_size == 1 else state.start
    before = start.contiguous(), state.k_window.contiguous(), state.v_window.contiguous()
    modes = config.squared_error, config.lr_inside_momentum, not config.read_before_update
    if inplace and state.memory.is_contiguous() and state.momentum.is_contiguous():
        o, M, S = omega_step_(*tokens, state.memory, state.momentum, *before, *modes), state.memory, state.momentum
    else:
        o, M, S = omega_step(*tokens, state.memory.contiguous(), state.momentum.contiguous(), *before, *modes)
    keys, values = torch.cat([state.k_window, tokens.k], 1), torch.cat([state.v_window, tokens.v], 1)
    after = state._replace(memory=M, momentum=S, start=M if config.chunk_size == 1 else state.start)
    return o, with_window(after, keys, values, inplace)


@torch.library.custom_op("trueness::omega_step", mutates_args=(), device_types=("cpu", "cuda"))
def omega_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    alpha: Tensor,
    eta: Tensor,
    theta: Tensor,
    gamma: Tensor,
    memory: Tensor,
    momentum: Tensor,
    start: Tensor,
    k_window: Tensor,
    v_window: Tensor,
    squares: bool,
    inner: bool,
    post: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    from trueness.optimized.atlas_memory.cuda import step as kernel

    tokens, state = (q, k, v, alpha, eta, theta, gamma), (memory, momentum, start, k_window, v_window)
    after = torch.empty_like(memory), torch.empty_like(momentum)
    return kernel.step(tokens, state, after, squares, inner, post), *after


@omega_step.register_fake
def _(*given: Any) -> tuple[Tensor, Tensor, Tensor]:
    v, memory, momentum = given[2], *given[7:9]
    return memory.new_empty(v.shape), torch.empty_like(memory), torch.empty_like(momentum)


@torch.library.custom_op("trueness::omega_step_", mutates_args=("memory", "momentum"), device_types=("cpu", "cuda"))
def omega_step_(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    alpha: Tensor,
    eta: Tensor,
    theta: Tensor,
    gamma: Tensor,
    memory: Tensor,
    momentum: Tensor,
    start: Tensor,
    k_window: Tensor,
    v_window: Tensor,
    squares: bool,
    inner: bool,
    post: bool,
) -> Tensor:
    from trueness.optimized.atlas_memory.cuda import step as kernel

    tokens, state = (q, k, v, alpha, eta, theta, gamma), (memory, momentum, start, k_window, v_window)
    return kernel.step(tokens, state, (memory, momentum), squares, inner, post)


@omega_step_.register_fake
def _(*given: Any) -> Tensor:
    v, memory = given[2], given[7]
    fresh: Tensor = memory.new_empty(v.shape)
    return fresh
