"""The Omega rule: which form computes a call. No checks; what is refused stands in ``atlas_memory``."""

from __future__ import annotations

import torch

from trueness.optimized import _atlas_chunks as _chunks
from trueness.optimized._atlas_muon import newton_schulz
from trueness.optimized._precision import exact, wide


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
    dtype, length, plain = q.dtype, q.shape[1], optimizer == "gd" and clip is None
    tiled = plain and (objective == "dot" or chunk_size == 1)
    size = (tile or max(64 // gamma.shape[-1], 1)) if tiled else chunk_size
    q, k, v, alpha, eta, theta, gamma, M, S, k_window, v_window = (
        wide(x) for x in (q, k, v, alpha, eta, theta, gamma, memory, momentum, k_window, v_window)
    )
    with exact(q):
        parts = _chunks.chunks(q, k, v, alpha, eta, theta, gamma, k_window, v_window, size, placement)
        if tiled and objective == "l2":
            reads, M, S = _chunks.exact(parts, M, S, read)
        elif plain:
            reads, M, S = _chunks.linear(parts, M, S, objective, read)
        else:
            step = (lambda x: x) if optimizer == "gd" else newton_schulz
            reads, M, S = _chunks.dense(parts, M, S, objective, optimizer, read, clip, step)
        return _chunks.joined(reads, length).to(dtype), M.to(dtype), S.to(dtype)
