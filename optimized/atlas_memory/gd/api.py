"""Gradient descent of the Omega rule without a clip: which form computes a call. No checks."""

from __future__ import annotations

from functools import partial

import torch

from trueness.optimized.atlas_memory import chunk_terms as _parts
from trueness.optimized.atlas_memory.gd.autograd import Sequences, omega
from trueness.optimized.atlas_memory.gd.recurrence import Rule
from trueness.optimized.atlas_memory.gd.separable import separable

TILE = 64  # rows of a tile, where their number is not part of the model


def descend(
    tokens: tuple[torch.Tensor, ...],
    state: tuple[torch.Tensor, ...],
    chunk_size: int,
    objective: str,
    placement: str,
    read: str,
    tile: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """o, M_T and S_T of ``atlas_memory.omega``; C = 1 and the inner product in tiles of any size

    tokens  q, k, v, α, η, θ, γ;  state  M, S, k_window, v_window
    """
    q, k, v, alpha, eta, theta, gamma = tokens
    memory, momentum, k_window, v_window = state
    exact, window = chunk_size == 1 and objective == "l2", gamma.shape[-1]
    size = (tile or max(TILE // window if exact else TILE, 1)) if exact or objective == "dot" else chunk_size
    size = min(size, q.shape[1])
    prepare = partial(_parts.exact if exact else _parts.linear, size=size, placement=placement, read=read)
    given = Sequences((q, alpha, eta, theta, gamma), ((k, k_window), (v, v_window)))
    return omega(Rule(prepare, size, objective == "l2"), given, memory, momentum)


def descend_separable(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    alpha: torch.Tensor,
    eta: torch.Tensor,
    theta: torch.Tensor,
    scale: torch.Tensor,
    source: torch.Tensor,
    memory: torch.Tensor,
    momentum: torch.Tensor,
    k_window: torch.Tensor,
    v_window: torch.Tensor,
    source_window: torch.Tensor,
    chunk_size: int,
    objective: str,
    placement: str,
    read: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """o, M_T and S_T of ``atlas_memory.omega_separable``; a piece is never shorter than the window"""
    squares, window = objective == "l2", k_window.shape[1] + 1
    size = min(chunk_size if squares else TILE, q.shape[1])
    prepare = partial(separable, size=size, window=window, placement=placement, read=read, squares=squares)
    given = Sequences((q, alpha, eta, theta, scale), ((k, k_window), (v, v_window), (source, source_window)))
    return omega(Rule(prepare, size, squares, least=window), given, memory, momentum)


def descend_picard(
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
    placement: str,
    read: str,
    tile: int,
    sweeps: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """o, M_T and S_T of ``atlas_memory.omega_picard``; after as many sweeps as tokens nothing moves any more"""
    size = min(tile, q.shape[1])
    prepare = partial(_parts.exact, size=size, placement=placement, read=read)
    given = Sequences((q, alpha, eta, theta, gamma), ((k, k_window), (v, v_window)))
    return omega(Rule(prepare, size, True, min(sweeps, size)), given, memory, momentum)
