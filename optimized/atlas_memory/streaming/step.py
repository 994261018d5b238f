"""One token of the Omega rule, as the recurrence is written: one decoding step, with no chunk and no mask.

Two products read the memory, two write: (c + 1) P V multiplications for errors and read, c P V for the gradient. In
place nothing of the size of the memory is allocated but the gradient.
"""

from __future__ import annotations

import torch

from trueness.optimized.atlas_memory.config import OmegaConfig
from trueness.optimized.atlas_memory.materialized import DECAY, clipped, rank_is_small
from trueness.optimized.atlas_memory.muon import EPS, newton_schulz, newton_schulz_lowrank
from trueness.optimized.atlas_memory.state import OmegaStreamState, Tokens, with_window


def step(
    tokens: Tokens, state: OmegaStreamState, config: OmegaConfig, inplace: bool
) -> tuple[torch.Tensor, OmegaStreamState]:
    """o (B, 1, H, V) and the state after one token; the caller counts the position and updates by chunk."""
    keys, values = torch.cat([state.k_window, tokens.k], 1), torch.cat([state.v_window, tokens.v], 1)
    q, _, _, alpha, eta, theta, gamma = (x[:, 0] for x in tokens)  # (B, H, …)
    K, weights = keys.transpose(1, 2), gamma.flip(-1)[..., None]  # (B, H, c, P), the oldest first
    start = state.memory if config.chunk_size == 1 else state.start
    E = -values.transpose(1, 2)
    E = E + K @ start if config.squared_error else E
    alpha, theta, eta = (x[..., None, None] for x in (alpha, theta, eta))
    into, out = (eta, None) if config.lr_inside_momentum else (None, eta)
    M, S, norm, g = state.memory, state.momentum, state.norm, None
    if config.optimizer == "norm_ema" or config.clip is not None:
        g = clipped((weights * K).mT @ E, config.clip)
        added = g if into is None else into * g
    else:
        weights = weights if into is None else weights * into
        added = K.mT @ (weights * E)
    if config.optimizer == "muon_chunk":
        share, fresh = alpha[..., 0, 0], not state.position
        one = torch.ones_like(norm) if out is None else out[..., 0, 0]
        kept = share.clone() if fresh else share * state.kept  # no view of what the caller may change
        moved = one.clone() if fresh else share * state.moved + one
        S = S.mul_(theta).add_(added) if inplace else theta * S + added
        after = state._replace(momentum=S, start=start, kept=kept, moved=moved)
        return (q[..., None, :] @ start).transpose(1, 2), with_window(after, keys, values, inplace)
    o = q[..., None, :] @ M if config.read_before_update else None
    low_rank = config.optimizer == "muon" and config.clip is None and rank_is_small(theta, K.shape[-2], *M.shape[-2:])
    S = S.mul_(theta).add_(added) if inplace else theta * S + added
    if config.optimizer == "gd":
        U = S
    elif config.optimizer == "muon":
        U = newton_schulz_lowrank(K, weights * E) if low_rank else newton_schulz(S)
    else:
        assert g is not None
        norm = DECAY * norm + (1 - DECAY) * torch.linalg.vector_norm(g, dim=(-2, -1))
        U = added / (norm + EPS)[..., None, None]
    if inplace:
        M = M.mul_(alpha).sub_(U) if out is None else M.mul_(alpha).addcmul_(out, U, value=-1)
    else:
        M = alpha * M - U if out is None else torch.addcmul(alpha * M, out, U, value=-1)
    o = q[..., None, :] @ M if o is None else o
    after = state._replace(memory=M, momentum=S, start=M if config.chunk_size == 1 else state.start, norm=norm)
    return o.transpose(1, 2), with_window(after, keys, values, inplace)
