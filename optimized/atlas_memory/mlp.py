"""A memory of two layers f(x) = x + W1 σ(W2 x) under the Omega rule, chunk by chunk; no checks.

With gradient descent no token's weights are written out: Z = K Ŵ2ᵀ, H = σ(Z), E = K + H Ŵ1ᵀ − V, D = (E Ŵ1) ∘ σ'(Z),
and both layers then move like a linear memory with errors E of features H, and D of K. Muon by token writes out one
gradient for each token of one chunk and layer, Muon by chunk none. The graph keeps the state before every chunk.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from trueness.optimized._lib.checkpoint import checkpointed
from trueness.optimized.atlas_memory import materialized as _dense
from trueness.optimized.atlas_memory.chunking import decays
from trueness.optimized.atlas_memory.materialized import Modes, Piece
from trueness.optimized.atlas_memory.muon import newton_schulz

Pair = tuple[torch.Tensor, torch.Tensor]
silu = torch.nn.functional.silu


class Layers(NamedTuple):
    """What is left between two pieces."""

    w: Pair  # W1 (B, H, V, N) and W2 (B, H, N, V); of "muon_chunk" those at the start of the chunk
    s: Pair  # their momenta
    start: Pair  # Ŵ of the chunk that is under way; of no meaning at position 0
    share: Pair  # (B, H), of "muon_chunk": ∏ α and Σ A w of the chunk so far
    position: int  # tokens of the chunk that is under way


def begun(w: Pair, s: Pair) -> Layers:
    """Before the first token of a chunk"""
    return Layers(w, s, w, fresh(w[0]), 0)


def fresh(w: torch.Tensor) -> Pair:
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


def run(piece: Piece, w: Pair, s: Pair, start: Pair, share: Pair, ends: bool, modes: Modes) -> tuple[torch.Tensor, ...]:
    """o (B, H, C, V), W1, W2, S1, S2 and the share after a piece whose gradients are taken at ``start``

    ends  whether the chunk does: Muon by chunk then updates the weights
    """
    h, e, d = errors(piece.k, piece.v, start)
    if modes.optimizer == "muon":
        return *by_token(piece, w, s, ((e, h), (d, piece.k)), modes), *share
    if modes.optimizer == "muon_chunk":
        b, last = _dense.added_up(piece)
        up = _dense.rows(last, piece.gamma).mT
        s1, s2 = b * s[0] + (up * e).mT @ h, b * s[1] + (up * d).mT @ piece.k
        kept, moved = (x[..., 0, 0] for x in _dense.weights_of(piece))
        share = kept * share[0], kept * share[1] + moved
        o = read(piece.q, w)
        if ends:
            w, share = updated(w, (s1, s2), share), fresh(s1)
        return o, *w, s1, s2, *share
    (w1, w2), (s1, s2), q, k = w, s, piece.q, piece.k
    (a, f, G), end = _dense.course(piece, modes.post)
    h_q = silu(a * (q @ w2.mT) - f * (q @ s2.mT) - (G * (q @ k.mT)) @ d)
    o = q + a * (h_q @ w1.mT) - f * (h_q @ s1.mT) - (G * (h_q @ h.mT)) @ e
    w1, s1 = end.a * w1 - end.f * s1 - (end.G * e).mT @ h, end.b * s1 + (end.up * e).mT @ h
    w2, s2 = end.a * w2 - end.f * s2 - (end.G * d).mT @ k, end.b * s2 + (end.up * d).mT @ k
    return o, w1, w2, s1, s2, *share


def by_token(piece: Piece, w: Pair, s: Pair, pairs: tuple[Pair, Pair], modes: Modes) -> tuple[torch.Tensor, ...]:
    """Newton–Schulz of the momentum of every token: (C, V, N) and (C, N, V) are written out."""
    window = piece.gamma.shape[-1]
    Th, A = decays(piece.theta) * piece.into[..., None, :], decays(piece.alpha) * piece.out[..., None, :]
    a, b = (x.cumprod(-1)[..., None, None] for x in (piece.alpha, piece.theta))
    after, moved = [], []
    for weights, momentum, (x, y) in zip(w, s, pairs, strict=True):
        g = _dense.windows(x, window).mT @ (piece.gamma[..., None] * _dense.windows(y, window))
        S = b * momentum[..., None, :, :] + _dense.along(Th, g)
        after.append(a * weights[..., None, :, :] - _dense.along(A, newton_schulz(S)))
        moved.append(S[..., -1, :, :])
    (outer, inner), q = after, piece.q[..., None]
    if not modes.post:
        outer, inner = (torch.cat([x[..., None, :, :], y[..., :-1, :, :]], -3) for x, y in zip(w, after, strict=True))
    return (q + outer @ silu(inner @ q))[..., 0], after[0][..., -1, :, :], after[1][..., -1, :, :], *moved


def updated(w: Pair, s: Pair, share: Pair) -> Pair:
    """Muon's update by chunk, Ŵ ∏ α − NS(S) Σ A w"""
    kept, moved = (x[..., None, None] for x in share)
    return kept * w[0] - moved * newton_schulz(s[0]), kept * w[1] - moved * newton_schulz(s[1])


def all_chunks(
    tokens: tuple[torch.Tensor, ...], before: Layers, size: int, modes: Modes
) -> tuple[torch.Tensor, Layers]:
    """o (B, T, H, V) of (q, k, v, alpha, into, out, theta, gamma, k_window, v_window), and what is left after them"""
    reads, (w, s, start, share, position) = [], before
    for piece in _dense.pieces(tokens, size, position):
        start = start if position else w
        position = (position + piece.q.shape[2]) % size
        o, *after = checkpointed(run, piece, w, s, start, share, not position, modes)
        w, s, share = (after[0], after[1]), (after[2], after[3]), (after[4], after[5])
        reads.append(o)
    return torch.cat(reads, 2).movedim(2, 1), Layers(w, s, start, share, position)


def ended(after: Layers, modes: Modes) -> Pair:
    """The weights of a call that ends here: Muon by chunk updates them once more if a chunk is under way."""
    if modes.optimizer == "muon_chunk" and after.position:
        return checkpointed(updated, after.w, after.s, after.share)
    return after.w
