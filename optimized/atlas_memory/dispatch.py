"""The form that computes a call of the Omega rule. No argument checks."""

from __future__ import annotations

from dataclasses import replace

import torch

from trueness.optimized._lib.dtypes import autocast_disabled, upcast
from trueness.optimized.atlas_memory import materialized as _materialized
from trueness.optimized.atlas_memory import mlp as _mlp
from trueness.optimized.atlas_memory.chunking import learning_rates
from trueness.optimized.atlas_memory.config import OmegaConfig
from trueness.optimized.atlas_memory.cuda import operator as _operator
from trueness.optimized.atlas_memory.gd import api as _descent
from trueness.optimized.atlas_memory.state import OmegaMlpState, OmegaState, Tokens

Tensor = torch.Tensor


def run(
    tokens: Tokens, state: OmegaState, config: OmegaConfig, tile: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """o, M_T, S_T of ``atlas_memory.omega``, in the format of the tokens"""
    q = tokens.q
    with autocast_disabled(q):
        if _operator.cuda_supported(tokens, config):
            return _operator.omega(tokens, state, *_operator.form(config, tokens.gamma.shape[-1], tile), config)
        wide = Tokens._make(map(upcast, tokens)), OmegaState._make(map(upcast, state))
        o, M, S, _ = recur(*wide, config, tile=tile)
        return o.to(q.dtype), M.to(q.dtype), S.to(q.dtype)


def recur(
    tokens: Tokens,
    state: OmegaState,
    config: OmegaConfig,
    *,
    norm: Tensor | None = None,
    live: Tensor | None = None,
    size: int | None = None,
    tile: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """o, M_T, S_T and the average norm m_T of float32 or float64 tensors

    norm  m before the first token, 0 if None
    live  (B, T) is 1 at tokens and 0 at those that only fill up, whose α and θ are 1 and all else is 0; None is all 1
    size  tokens of a chunk in place of ``config.chunk_size``; for optimizers that materialize their gradients
    """
    M, S, k_window, v_window = state
    norm = torch.zeros_like(M[..., 0, 0]) if norm is None else norm
    eta = tokens.eta
    if not config.plain_descent:
        into, out = learning_rates(eta, config)
        out = out if live is None else out * live[..., None]
        chunks = _materialized.iter_chunks(tokens, (into, out), (k_window, v_window), size or config.chunk_size)
        low_rank = _materialized.has_low_rank(tokens, config, M)
        return _materialized.all_chunks(chunks, M, S, norm, config, low_rank)
    if live is not None and config.lr_inside_momentum:
        gamma = tokens.gamma * eta[..., None]
        tokens = tokens._replace(gamma=gamma, eta=live[..., None].expand_as(eta))
        config = replace(config, lr_inside_momentum=False)
    elif live is not None:
        tokens = tokens._replace(eta=eta * live[..., None])
    return *_descent.descend(tokens, state, config, tile), norm


def run_mlp(tokens: Tokens, state: OmegaMlpState, config: OmegaConfig) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """o, W1, W2, S1, S2 of ``atlas_memory.omega_mlp``, in the format of the tokens"""
    dtype = tokens.q.dtype
    tokens = Tokens._make(map(upcast, tokens))
    w1, w2, s1, s2, *windows = map(upcast, state)
    with autocast_disabled(tokens.q):
        rates = learning_rates(tokens.eta, config)
        before = _mlp.initial_layers((w1, w2), (s1, s2))
        o, after = _mlp.all_chunks(tokens, rates, (windows[0], windows[1]), before, config)
        w, s = _mlp.final_weights(after, config), after.s
        return o.to(dtype), w[0].to(dtype), w[1].to(dtype), s[0].to(dtype), s[1].to(dtype)
