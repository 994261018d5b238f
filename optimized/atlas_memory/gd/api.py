"""Gradient descent of the Omega rule without a clip: the plan of a call. No argument checks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from trueness.optimized.atlas_memory import chunk_terms as _terms
from trueness.optimized.atlas_memory.config import OmegaConfig
from trueness.optimized.atlas_memory.gd.autograd import Sequences, omega
from trueness.optimized.atlas_memory.gd.recurrence import Plan
from trueness.optimized.atlas_memory.state import OmegaState, SeparableState, Tokens

TILE = 64  # rows of a tile, where their number is not part of the model
Tensor = torch.Tensor
Outputs = tuple[Tensor, Tensor, Tensor]


def descend(tokens: Tokens, state: OmegaState, config: OmegaConfig, tile: int | None = None) -> Outputs:
    """o, M_T and S_T of ``atlas_memory.omega``; C = 1 and the inner product in tiles of any size"""
    squared, window = config.squared_error, tokens.gamma.shape[-1]
    exact = squared and config.chunk_size == 1
    if exact or not squared:
        size = tile or (max(TILE // window, 1) if exact else TILE)
    else:
        size = config.chunk_size
    size = min(size, tokens.q.shape[1])
    prepare = prepared_by(_terms.exact if exact else _terms.linear, size=size, config=config)
    return omega(Plan(prepare, size, squared), sequences(tokens, state), state.memory, state.momentum)


def descend_separable(tokens: Tokens, source: Tensor, state: SeparableState, config: OmegaConfig) -> Outputs:
    """o, M_T and S_T of ``atlas_memory.omega_separable``; a segment is never shorter than the window

    tokens  as in ``descend``, but for ``gamma``, which is the weight r (B, T, H)
    """
    squared, window = config.squared_error, state.k_window.shape[1] + 1
    size = min(config.chunk_size if squared else TILE, tokens.q.shape[1])
    prepare = prepared_by(_terms.separable, size=size, window=window, config=config)
    given = sequences(tokens, state, (source, state.source_window))
    return omega(Plan(prepare, size, squared, least=window), given, state.memory, state.momentum)


def descend_picard(tokens: Tokens, state: OmegaState, config: OmegaConfig, tile: int, sweeps: int) -> Outputs:
    """o, M_T and S_T of ``atlas_memory.omega_picard``; more sweeps than a tile has tokens change nothing"""
    size = min(tile, tokens.q.shape[1])
    prepare = prepared_by(_terms.exact, size=size, config=config)
    plan = Plan(prepare, size, True, min(sweeps, size))
    return omega(plan, sequences(tokens, state), state.memory, state.momentum)


def sequences(tokens: Tokens, state: OmegaState | SeparableState, *more: tuple[Tensor, Tensor]) -> Sequences:
    """The tensors of a call in the order in which ``prepared_by`` receives those of a segment"""
    q, k, v, *gates = tokens
    return Sequences((q, *gates), ((k, state.k_window), (v, state.v_window), *more))


def prepared_by(terms: Callable[..., _terms.ChunkTerms], **options: Any) -> Callable[..., _terms.ChunkTerms]:
    """``terms`` as a function of the flat tensors of a segment, with ``workspace`` as its only option"""
    return partial(_prepare, partial(terms, **options))


def _prepare(
    terms: Callable[..., _terms.ChunkTerms],
    q: Tensor,
    alpha: Tensor,
    eta: Tensor,
    theta: Tensor,
    gamma: Tensor,
    k: Tensor,
    v: Tensor,
    *more: Tensor,
    **workspace: Any,
) -> _terms.ChunkTerms:
    return terms(Tokens(q, k, v, alpha, eta, theta, gamma), *more, **workspace)
