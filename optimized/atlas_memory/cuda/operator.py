"""The Omega rule with gradient descent on CUDA: the terms without the memory in torch, the rest in Triton.

``omega`` computes the weights of every chunk with plain torch operations, which autograd differentiates, and passes
them to the operator ``trueness::omega``, whose gradient is ``trueness::omega_backward``. For the gradient of every
token a triangular system is solved for all tiles at once (the UT transform), which makes it another chunk rule:

    U = X M − Y S − Z,    (I + L) [X Y Z] = w ∘ [a₋ K   f₋ K   V]

float16 and bfloat16 tokens are read as they are; everything in between is float32.
"""

from __future__ import annotations

from typing import Any

import torch

from trueness.optimized._lib.dispatch import under_functorch
from trueness.optimized.atlas_memory import chunking as _chunking
from trueness.optimized.atlas_memory.config import OmegaConfig
from trueness.optimized.atlas_memory.state import OmegaState, Tokens

PRECISIONS = ("tf32x3", "ieee", "tf32")
MODES = {"dot": 0, "l2": 1, "exact": 2}
EXACT = MODES["exact"]
WIDEST = 512  # features whose states a program holds without a spill
TILE = 64  # tokens, or rows of a system that is solved
Tensors = tuple[torch.Tensor, ...]


def cuda_supported(tokens: Tokens, config: OmegaConfig) -> bool:
    """Whether the kernels compute a call: plain descent on CUDA, in float32 or narrower, outside of torch.func"""
    q, v = tokens.q, tokens.v
    heads, width = q.shape[2:]
    rows = max(config.chunk_size, TILE) + tokens.gamma.shape[-1]
    return (
        q.is_cuda
        and q.dtype != torch.float64
        and config.plain_descent
        and 1 <= width <= WIDEST
        and v.shape[-1] > 0
        and rows * heads * max(width, v.shape[-1]) < 2**31  # offsets inside a chunk
        and not under_functorch()
    )


def form(config: OmegaConfig, window: int, tile: int | None = None) -> tuple[int, str]:
    """(size, mode) of ``omega``: where the number of tokens computed together is no part of the model it is chosen"""
    if not config.squared_error:
        return tile or TILE, "dot"
    return (tile or max(TILE // window, 1), "exact") if config.chunk_size == 1 else (config.chunk_size, "l2")


def omega(
    tokens: Tokens, state: OmegaState, size: int, mode: str, config: OmegaConfig, precision: str = "tf32x3"
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(o, M, S) of ``atlas_memory.omega`` with gradient descent and no clip, in tiles or chunks of ``size`` tokens

    mode       "l2" or "dot": the objective, with gradients at the start of a chunk; "exact": l2, at every token
    precision  of float32 products: "tf32x3" (three products of tensor cores, nearly float32), "ieee", or "tf32"
    """
    q, k, v, alpha, _, _, gamma = tokens
    memory, momentum, k_window, v_window = state
    length, window = q.shape[1], gamma.shape[-1]
    size = min(size, length)
    gates = prepared(tokens, size, config)
    keys = extended(k_window, k)
    if mode == "exact":
        (v, lead, lag), weights = solved(gates, k, v, (k_window, v_window), config.read_before_update)
    else:
        v = extended(v_window, v)
        lead = lag = alpha.new_empty(0, dtype=torch.float32)
        weights = chunked(gates, config.read_before_update)
    states = (x.float().contiguous() for x in (memory, momentum))
    tensors = (q.contiguous(), keys, v.contiguous(), lead, lag, *states, *(x.contiguous() for x in weights))
    o, M, S, *_ = _forward(*tensors, window, MODES[mode], precision)
    return o, M.to(q.dtype), S.to(q.dtype)


def extended(before: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """x (B, T, H, …) with the tokens before it; where there are none, a copy is only made for autograd"""
    return torch.cat([before, x], 1) if before.shape[1] or before.requires_grad else x.contiguous()


def prepared(tokens: Tokens, size: int, config: OmegaConfig) -> dict[str, torch.Tensor]:
    """Products of the gates of every chunk, in float32"""
    _, _, _, alpha, eta, theta, gamma = tokens
    more = -alpha.shape[1] % size
    one = _chunking.padded(torch.ones_like(eta, dtype=torch.float32), more)
    eta, gamma = _chunking.padded(eta.float(), more), _chunking.padded(gamma.float(), more)
    into, out = (eta, one) if config.lr_inside_momentum else (torch.ones_like(eta), eta)
    alpha, theta = _chunking.padded(alpha.float(), more, 1.0), _chunking.padded(theta.float(), more, 1.0)
    alpha, theta, into, out = (_chunking.split(x, size) for x in (alpha, theta, into, out))
    moved = _chunking.decays(alpha) * out[..., None, :]
    Th, a, b = _chunking.decays(theta), alpha.cumprod(-1), theta.cumprod(-1)
    f = (moved @ b[..., None])[..., 0]
    W = _chunking.split(gamma, size) * into[..., None]
    return {"Th": Th, "a": a, "b": b, "f": f, "W": W, "rho": moved @ Th}


def weights_of(gates: dict[str, torch.Tensor], G: torch.Tensor, up: torch.Tensor, before: bool) -> Tensors:
    """(weights, rows, columns, ends) of G and the last row of what S receives; reads one token later if ``before``"""
    last = torch.stack([gates[x][..., -1] for x in "abf"], -1)
    rows, a, f = torch.stack([G[..., -1, :], up], -2), gates["a"], gates["f"]
    if before:
        a, f, G = _chunking.shifted(a, -1, 1.0), _chunking.shifted(f, -1, 0.0), _chunking.shifted(G, -2, 0.0)
    return G, rows, torch.stack([a, f], -2), last


def chunked(gates: dict[str, torch.Tensor], before: bool) -> Tensors:
    """Weights for gradients at the start of a chunk; a row is a token of the chunk or of the window before it"""
    W = _chunking.band(gates["W"])
    return weights_of(gates, gates["rho"] @ W, (gates["Th"][..., -1:, :] @ W)[..., 0, :], before)


def solved(
    gates: dict[str, torch.Tensor],
    k: torch.Tensor,
    v: torch.Tensor,
    windows: tuple[torch.Tensor, torch.Tensor],
    before: bool,
) -> tuple[Tensors, Tensors]:
    """Z, X, Y and the weights for the gradient of every token; a row is a pair of a token t and an age j"""
    W = gates["W"]
    size, window = W.shape[-2:]
    more = W.shape[2] * size - k.shape[1]
    position = torch.arange(size, device=k.device)
    rows = (position[:, None] + window - 1 - torch.arange(window, device=k.device)).flatten()
    k, v = (
        _chunking.with_halo(x_window.float(), _chunking.padded(x.float(), more), size)[..., rows, :]
        for x_window, x in zip(windows, (k, v), strict=True)
    )
    w = W.flatten(-2)[..., None]
    wide = gates["rho"].repeat_interleave(window, -1)
    earlier = _chunking.shifted(gates["rho"], -2, 0.0).repeat_interleave(window, -1).repeat_interleave(window, -2)
    a, f = (
        _chunking.shifted(gates[x], -1, first).repeat_interleave(window, -1)[..., None]
        for x, first in (("a", 1.0), ("f", 0.0))
    )
    system = w * earlier * (k @ k.mT) + torch.eye(W[0, 0, 0].numel(), device=k.device)
    right = torch.cat([a * k, f * k, v], -1) * w
    found = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
    lead, lag, values = (x.contiguous() for x in found.split([k.shape[-1], k.shape[-1], v.shape[-1]], -1))
    up = gates["Th"][..., -1, :].repeat_interleave(window, -1)
    return (values, lead, lag), weights_of(gates, wide, up, before)


# -- operators --------------------------------------------------------------------------------------------------------


def _shapes(
    q: torch.Tensor, memory: torch.Tensor, weights: torch.Tensor, window: int, mode: int
) -> tuple[int, int, int, int, int, int, int, int, int, int]:
    B, T, H, P = q.shape
    N, C, R = weights.shape[2:]
    return B, T, H, P, memory.shape[-1], N, C, R, window, mode


@torch.library.custom_op("trueness::omega", mutates_args=(), device_types=("cpu", "cuda"))
def _forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    lead: torch.Tensor,
    lag: torch.Tensor,
    memory: torch.Tensor,
    momentum: torch.Tensor,
    weights: torch.Tensor,
    rows: torch.Tensor,
    columns: torch.Tensor,
    ends: torch.Tensor,
    window: int,
    mode: int,
    precision: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    from trueness.optimized.atlas_memory.cuda import forward as kernels

    layout = kernels.Layout(*_shapes(q, memory, weights, window, mode))
    gates = (weights, rows, columns, ends)
    o, M, S, states, U, spare = kernels.forward(layout, (q, k, v, memory, momentum), (lead, lag), gates, precision)
    return o, M, S, states, U, spare


@_forward.register_fake
def _(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    lead: torch.Tensor,
    lag: torch.Tensor,
    memory: torch.Tensor,
    momentum: torch.Tensor,
    weights: torch.Tensor,
    rows: torch.Tensor,
    columns: torch.Tensor,
    ends: torch.Tensor,
    window: int,
    mode: int,
    precision: str,
) -> Tensors:
    B, T, H, P, V, N, _, R, _, _ = _shapes(q, memory, weights, window, mode)
    last, kept = (memory.new_empty(s, dtype=torch.float32) for s in ((B, H, P, V), (B, H, N, P, V)))
    errors = memory.new_empty((B, H, N, R, V), dtype=torch.float32)
    return q.new_empty(B, T, H, V), last, torch.empty_like(last), kept, torch.empty_like(kept), errors


@torch.library.custom_op("trueness::omega_backward", mutates_args=(), device_types=("cpu", "cuda"))
def _backward(
    grad: torch.Tensor,
    grad_memory: torch.Tensor,
    grad_momentum: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    lead: torch.Tensor,
    lag: torch.Tensor,
    weights: torch.Tensor,
    rows: torch.Tensor,
    columns: torch.Tensor,
    ends: torch.Tensor,
    kept_memory: torch.Tensor,
    kept_momentum: torch.Tensor,
    errors: torch.Tensor,
    window: int,
    mode: int,
    precision: str,
) -> list[torch.Tensor]:
    from trueness.optimized.atlas_memory.cuda import backward as kernels
    from trueness.optimized.atlas_memory.cuda import forward

    layout = forward.Layout(*_shapes(q, grad_memory, weights, window, mode))
    grad_q, grad_k, grad_errors, *others = kernels.backward(
        layout,
        (grad, grad_memory, grad_momentum),
        (q, k),
        (lead, lag),
        (weights, rows, columns, ends),
        (kept_memory, kept_momentum),
        errors,
        precision,
    )
    grad_v = -grad_errors if mode == EXACT else -folded(grad_errors, k.shape[1], layout.size, window, False)
    grad_keys = folded(grad_k, k.shape[1], layout.size, window, mode == EXACT)
    grad_memory_0, grad_momentum_0, grad_lead, grad_lag, *gates = others
    return [
        grad_q.to(q.dtype),
        grad_keys.to(k.dtype),
        grad_v.to(v.dtype),
        grad_lead,
        grad_lag,
        grad_memory_0,
        grad_momentum_0,
        *gates,
    ]


@_backward.register_fake
def _(
    grad: torch.Tensor,
    grad_memory: torch.Tensor,
    grad_momentum: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    lead: torch.Tensor,
    lag: torch.Tensor,
    weights: torch.Tensor,
    rows: torch.Tensor,
    columns: torch.Tensor,
    ends: torch.Tensor,
    kept_memory: torch.Tensor,
    kept_momentum: torch.Tensor,
    errors: torch.Tensor,
    window: int,
    mode: int,
    precision: str,
) -> list[torch.Tensor]:
    like = (q, k, v, lead, lag, grad_memory, grad_momentum, weights, rows, columns, ends)
    return [torch.empty_like(x) for x in like]


def folded(x: torch.Tensor, long: int, size: int, window: int, pairs: bool) -> torch.Tensor:
    """Rows (B, H, N, R, W) as tokens (B, long, H, W): what several rows say of one token is added in a fixed order."""
    B, H, N, R, width = x.shape
    if pairs:
        x = x.reshape(B, H, N * size, window, width)
        tokens = x.new_zeros(B, H, N * size + window - 1, width)
        for j in range(window):
            tokens[:, :, window - 1 - j : window - 1 - j + N * size] += x[..., j, :]
    elif size == R:
        tokens = x.reshape(B, H, N * size, width)
    else:
        parts = -(-R // size)
        x = torch.nn.functional.pad(x, (0, 0, 0, parts * size - R)).unflatten(3, (parts, size))
        tokens = x.new_zeros(B, H, N + parts - 1, size, width)
        for j in range(parts):
            tokens[:, :, j : j + N] += x[:, :, :, j]
        tokens = tokens.flatten(2, 3)
    return tokens[:, :, :long].transpose(1, 2).contiguous()


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
    q, k, v, lead, lag, _, _, weights, rows, columns, ends, *ctx.modes = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[3:])
    ctx.save_for_backward(q, k, v, lead, lag, weights, rows, columns, ends, *output[3:])
    ctx.like = tuple((x.shape, x.dtype) for x in output[:3])


def _pull(ctx: Any, *grads: torch.Tensor | None) -> tuple[Any, ...]:
    saved = ctx.saved_tensors
    given = (
        saved[0].new_zeros(shape, dtype=dtype) if g is None else g.contiguous()
        for g, (shape, dtype) in zip(grads[:3], ctx.like, strict=True)
    )
    return (*_backward(*given, *saved, *ctx.modes), None, None, None)


_forward.register_autograd(_pull, setup_context=_save)
