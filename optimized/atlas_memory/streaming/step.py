"""One token of the Omega rule, as the recurrence is written: the step of a decoder, with no chunk and no mask.

Two products read the memory, two write: (c + 1) P V multiplications for errors and read, c P V for the gradient. In
place nothing of the size of the memory is allocated but the gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import torch

from trueness.optimized.atlas_memory.materialized import DECAY, held, rank_is_small
from trueness.optimized.atlas_memory.muon import EPS, newton_schulz, newton_schulz_lowrank

if TYPE_CHECKING:
    from trueness.optimized.atlas_memory.streaming.linear import OmegaState, OmegaStream
    from trueness.optimized.atlas_memory.streaming.mlp import OmegaMlpState

State = TypeVar("State", "OmegaState", "OmegaMlpState")


def step(
    tokens: tuple[torch.Tensor, ...], state: OmegaState, rule: OmegaStream, inplace: bool
) -> tuple[torch.Tensor, OmegaState]:
    """o (B, 1, H, V) and the state after one token; its position, and Muon's update by chunk, are the caller's."""
    keys, values = torch.cat([state.k_window, tokens[1]], 1), torch.cat([state.v_window, tokens[2]], 1)
    q, _, _, alpha, eta, theta, gamma = (x[:, 0] for x in tokens)  # (B, H, …)
    K, weights = keys.transpose(1, 2), gamma.flip(-1)[..., None]  # (B, H, c, P), the oldest first
    start = state.memory if rule.chunk_size == 1 else state.start
    E = -values.transpose(1, 2)
    E = E + K @ start if rule.objective == "l2" else E
    alpha, theta, eta = (x[..., None, None] for x in (alpha, theta, eta))
    into, out = (eta, None) if rule.placement == "inner" else (None, eta)
    M, S, norm, g = state.memory, state.momentum, state.norm, None
    if rule.optimizer == "norm_ema" or rule.clip is not None:
        g = held((weights * K).mT @ E, rule.clip)
        added = g if into is None else into * g
    else:
        weights = weights if into is None else weights * into
        added = K.mT @ (weights * E)
    if rule.optimizer == "muon_chunk":
        share, fresh = alpha[..., 0, 0], not state.position
        one = torch.ones_like(norm) if out is None else out[..., 0, 0]
        kept = share.clone() if fresh else share * state.kept  # no view of what the caller may change
        moved = one.clone() if fresh else share * state.moved + one
        S = S.mul_(theta).add_(added) if inplace else theta * S + added
        after = state._replace(momentum=S, start=start, kept=kept, moved=moved)
        return (q[..., None, :] @ start).transpose(1, 2), windowed(after, keys, values, inplace)
    o = None if rule.read == "post" else q[..., None, :] @ M
    thin = rule.optimizer == "muon" and rule.clip is None and rank_is_small(theta, K.shape[-2], *M.shape[-2:])
    S = S.mul_(theta).add_(added) if inplace else theta * S + added
    if rule.optimizer == "gd":
        U = S
    elif rule.optimizer == "muon":
        U = newton_schulz_lowrank(K, weights * E) if thin else newton_schulz(S)
    else:
        assert g is not None
        norm = DECAY * norm + (1 - DECAY) * torch.linalg.vector_norm(g, dim=(-2, -1))
        U = added / (norm + EPS)[..., None, None]
    if inplace:
        M = M.mul_(alpha).sub_(U) if out is None else M.mul_(alpha).addcmul_(out, U, value=-1)
    else:
        M = alpha * M - U if out is None else torch.addcmul(alpha * M, out, U, value=-1)
    o = q[..., None, :] @ M if o is None else o
    after = state._replace(memory=M, momentum=S, start=M if rule.chunk_size == 1 else state.start, norm=norm)
    return o.transpose(1, 2), windowed(after, keys, values, inplace)


def windowed(state: State, keys: torch.Tensor, values: torch.Tensor, inplace: bool) -> State:
    """The state with the last c − 1 of c tokens"""
    if keys.shape[1] == 1:
        return state
    if inplace:
        state.k_window.copy_(keys[:, 1:])
        state.v_window.copy_(values[:, 1:])
        return state
    return state._replace(k_window=keys[:, 1:], v_window=values[:, 1:])
