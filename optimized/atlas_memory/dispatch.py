"""The Omega rule: which form computes a call. No checks; what is refused stands in ``atlas_memory``."""

from __future__ import annotations

import torch

from trueness.optimized._lib.dtypes import autocast_disabled, upcast
from trueness.optimized.atlas_memory import materialized as _dense
from trueness.optimized.atlas_memory import mlp as _layers
from trueness.optimized.atlas_memory.cuda import operator as _operator
from trueness.optimized.atlas_memory.gd import api as _descent

Tensors = tuple[torch.Tensor, ...]


def run(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    alpha: torch.Tensor,
    eta: torch.Tensor,
    theta: torch.Tensor,
    gamma: torch.Tensor,
    memory: torch.Tensor,
    momentum: torch.Tensor,
    k_window: torch.Tensor,
    v_window: torch.Tensor,
    chunk_size: int,
    objective: str,
    optimizer: str,
    placement: str,
    read: str,
    clip: float | None,
    tile: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """o, M_T, S_T of ``atlas_memory.omega``"""
    tokens, state = (q, k, v, alpha, eta, theta, gamma), (memory, momentum, k_window, v_window)
    modes = chunk_size, objective, optimizer, placement, read, clip
    with autocast_disabled(q):
        if clip is None and _operator.takes(q, v, gamma, chunk_size, optimizer):
            size, mode = _operator.form(chunk_size, objective, gamma.shape[-1], tile)
            return _operator.omega(*tokens, *state, size, mode, placement, read)
        o, M, S, _ = carried(tuple(map(upcast, tokens)), tuple(map(upcast, state)), None, None, *modes, tile)
        return o.to(q.dtype), M.to(q.dtype), S.to(q.dtype)


def carried(
    tokens: Tensors,
    state: Tensors,
    norm: torch.Tensor | None,
    live: torch.Tensor | None,
    chunk_size: int,
    objective: str,
    optimizer: str,
    placement: str,
    read: str,
    clip: float | None,
    tile: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """o, M_T, S_T and the average norm m_T of float32 or float64 tensors, from a norm, 0 if None.

    tokens  q, k, v, α, η, θ, γ;  state  M, S, k_window, v_window
    live  (B, T), 1 for a token and 0 for one that only fills a row up: its γ must be 0, its α and θ 1
    """
    q, k, v, alpha, eta, theta, gamma = tokens
    M, S, k_window, v_window = state
    norm = torch.zeros_like(M[..., 0, 0]) if norm is None else norm
    if optimizer != "gd" or clip is not None:
        into, out = (eta, torch.ones_like(eta)) if placement == "inner" else (torch.ones_like(eta), eta)
        out = out if live is None else out * live[..., None]
        given = q, k, v, alpha, into, out, theta, gamma, k_window, v_window
        how = _dense.Modes(objective == "l2", optimizer, read == "post", clip)
        return _dense.all_chunks(given, M, S, norm, chunk_size, how)
    if live is not None and placement == "inner":
        gamma, eta, placement = gamma * eta[..., None], live[..., None].expand_as(eta), "outer"
    elif live is not None:
        eta = eta * live[..., None]
    tokens = q, k, v, alpha, eta, theta, gamma
    return *_descent.descend(tokens, state, chunk_size, objective, placement, read, tile), norm


def run_layers(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    alpha: torch.Tensor,
    eta: torch.Tensor,
    theta: torch.Tensor,
    gamma: torch.Tensor,
    w1: torch.Tensor,
    w2: torch.Tensor,
    s1: torch.Tensor,
    s2: torch.Tensor,
    k_window: torch.Tensor,
    v_window: torch.Tensor,
    chunk_size: int,
    optimizer: str,
    placement: str,
    read: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """o, W1, W2, S1, S2 of ``atlas_memory.omega_mlp``"""
    one = torch.ones_like(eta)
    into, out = (eta, one) if placement == "inner" else (one, eta)
    tokens = tuple(upcast(x) for x in (q, k, v, alpha, into, out, theta, gamma, k_window, v_window))
    modes = _dense.Modes(True, optimizer, read == "post", None)
    with autocast_disabled(q):
        before = _layers.begun((upcast(w1), upcast(w2)), (upcast(s1), upcast(s2)))
        o, after = _layers.all_chunks(tokens, before, chunk_size, modes)
        w, s = _layers.ended(after, modes), after.s
        return (o.to(q.dtype), w[0].to(q.dtype), w[1].to(q.dtype), s[0].to(q.dtype), s[1].to(q.dtype))
