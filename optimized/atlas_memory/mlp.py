"""A memory of two layers f(x) = x + W1 σ(W2 x) under the Omega rule, chunk by chunk. No argument checks.

With gradient descent no token's weights are materialized: Z = K Ŵ2ᵀ, H = σ(Z), E = K + H Ŵ1ᵀ − V, D = (E Ŵ1) ∘ σ'(Z),
and both layers then move like a linear memory with errors E of features H, and D of K. Muon by token materializes one
gradient for each token of one chunk and layer, Muon by chunk none. The graph keeps the state before every chunk.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from trueness.optimized._lib.checkpoint import checkpointed
from trueness.optimized.atlas_memory import materialized as _materialized
from trueness.optimized.atlas_memory.chunking import decays
from trueness.optimized.atlas_memory.config import OmegaConfig
from trueness.optimized.atlas_memory.materialized import Chunk
from trueness.optimized.atlas_memory.muon import newton_schulz
from trueness.optimized.atlas_memory.state import Tokens

Pair = tuple[torch.Tensor, torch.Tensor]
silu = torch.nn.functional.silu


class Layers(NamedTuple):
    """The state between two chunks, or two parts of one."""

    w: Pair  # W1 (B, H, V, N) and W2 (B, H, N, V); of "muon_chunk" those at the start of the chunk
    s: Pair  # their momenta
    start: Pair  # Ŵ of the current chunk; of no meaning at position 0
    share: Pair  # (B, H), of "muon_chunk": ∏ α and Σ A w of the chunk so far
    position: int  # tokens of the current chunk so far


def initial_layers(w: Pair, s: Pair) -> Layers:
    """Before the first token of a chunk"""
    return Layers(w, s, w, no_share(w[0]), 0)


def no_share(w: torch.Tensor) -> Pair:
    """∏ α and Σ A w of no token"""
    return w.new_ones(w.shape[:2]), w.new_zeros(w.shape[:2])


def read(x: torch.Tensor, w: Pair) -> torch.Tensor:
    """f(x) of rows x (…, V)"""
    return x + silu(x @ w[1].mT) @ w[0].mT


def errors(k: torch.Tensor, v: torch.Tensor, start: Pair) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """H, E, D of rows"""
    outer, inner = start
    z = k @ inner.mT
    s = torch.sigmoid(z)
    h = z * s
    e = k + h @ outer.mT - v
    return h, e, (e @ outer) * (s * (1 + z * (1 - s)))


def run(
    chunk: Chunk, w: Pair, s: Pair, start: Pair, share: Pair, ends: bool, config: OmegaConfig
) -> tuple[torch.Tensor, ...]:
    """o (B, H, C, V), W1, W2, S1, S2 and the share after (a part of) a chunk whose gradients are taken at ``start``

    ends  whether the chunk is complete: Muon by chunk then updates the weights
    """
    h, e, d = errors(chunk.k, chunk.v, start)
    if config.optimizer == "muon":
        return *muon_by_token(chunk, w, s, ((e, h), (d, chunk.k)), config), *share
    if config.optimizer == "muon_chunk":
        b, last = _materialized.momentum_weights(chunk)
        up = _materialized.rows(last, chunk.gamma).mT
        s1, s2 = b * s[0] + (up * e).mT @ h, b * s[1] + (up * d).mT @ chunk.k
        kept, moved = (x[..., 0, 0] for x in _materialized.update_weights(chunk))
        share = kept * share[0], kept * share[1] + moved
        o = read(chunk.q, w)
        if ends:
            w, share = muon_update(w, (s1, s2), share), no_share(s1)
        return o, *w, s1, s2, *share
    (w1, w2), (s1, s2), q, k = w, s, chunk.q, chunk.k
    (a, f, G), end = _materialized.descent_weights(chunk, config.read_before_update)
    h_q = silu(a * (q @ w2.mT) - f * (q @ s2.mT) - (G * (q @ k.mT)) @ d)
    o = q + a * (h_q @ w1.mT) - f * (h_q @ s1.mT) - (G * (h_q @ h.mT)) @ e
    w1, s1 = end.a * w1 - end.f * s1 - (end.G * e).mT @ h, end.b * s1 + (end.up * e).mT @ h
    w2, s2 = end.a * w2 - end.f * s2 - (end.G * d).mT @ k, end.b * s2 + (end.up * d).mT @ k
    return o, w1, w2, s1, s2, *share


def muon_by_token(
    chunk: Chunk, w: Pair, s: Pair, pairs: tuple[Pair, Pair], config: OmegaConfig
) -> tuple[torch.Tensor, ...]:
    """Newton–Schulz of the momentum of every token: (C, V, N) and (C, N, V) are materialized."""
    window = chunk.gamma.shape[-1]
    Th, A = decays(chunk.theta) * chunk.into[..., None, :], decays(chunk.alpha) * chunk.out[..., None, :]
    a, b = (x.cumprod(-1)[..., None, None] for x in (chunk.alpha, chunk.theta))
    after, moved = [], []
    for weights, momentum, (x, y) in zip(w, s, pairs, strict=True):
        g = _materialized.windows(x, window).mT @ (chunk.gamma[..., None] * _materialized.windows(y, window))
        S = b * momentum[..., None, :, :] + _materialized.weighted_sums(Th, g)
        after.append(a * weights[..., None, :, :] - _materialized.weighted_sums(A, newton_schulz(S)))
        moved.append(S[..., -1, :, :])
    (outer, inner), q = after, chunk.q[..., None]
    if config.read_before_update:
        outer, inner = (torch.cat([x[..., None, :, :], y[..., :-1, :, :]], -3) for x, y in zip(w, after, strict=True))
    return (q + outer @ silu(inner @ q))[..., 0], after[0][..., -1, :, :], after[1][..., -1, :, :], *moved


def muon_update(w: Pair, s: Pair, share: Pair) -> Pair:
    """Muon's update by chunk, Ŵ ∏ α − NS(S) Σ A w"""
    kept, moved = (x[..., None, None] for x in share)
    return kept * w[0] - moved * newton_schulz(s[0]), kept * w[1] - moved * newton_schulz(s[1])


def all_chunks(
    tokens: Tokens, rates: Pair, windows: Pair, before: Layers, config: OmegaConfig
) -> tuple[torch.Tensor, Layers]:
    """o (B, T, H, V) and the state after the tokens; rates and windows as in ``iter_chunks``"""
    size = config.chunk_size
    reads, (w, s, start, share, position) = [], before
    for chunk in _materialized.iter_chunks(tokens, rates, windows, size, position):
        start = start if position else w
        position = (position + chunk.q.shape[2]) % size
        o, *after = checkpointed(run, chunk, w, s, start, share, not position, config)
        w, s, share = (after[0], after[1]), (after[2], after[3]), (after[4], after[5])
        reads.append(o)
    return torch.cat(reads, 2).movedim(2, 1), Layers(w, s, start, share, position)


def final_weights(after: Layers, config: OmegaConfig) -> Pair:
    """The weights of a call that ends here: Muon by chunk updates them once more if a chunk is incomplete."""
    if config.optimizer == "muon_chunk" and after.position:
        return checkpointed(muon_update, after.w, after.s, after.share)
    return after.w
