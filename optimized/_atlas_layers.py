"""A memory of two layers f(x) = x + W1 σ(W2 x) under the Omega rule, chunk by chunk; no checks.

With gradient descent no token's weights are written out: Z = K Ŵ2ᵀ, H = σ(Z), E = K + H Ŵ1ᵀ − V, D = (E Ŵ1) ∘ σ'(Z),
and both layers then move like a linear memory with errors E of features H, and D of K. Muon by token writes out one
gradient for each token of one chunk and layer, Muon by chunk none. The graph keeps the state before every chunk.
"""

from __future__ import annotations

import torch

from trueness.optimized import _atlas_dense as _dense
from trueness.optimized._atlas_chunks import decays
from trueness.optimized._atlas_dense import Modes, Piece
from trueness.optimized._atlas_muon import newton_schulz

Weights = tuple[torch.Tensor, torch.Tensor]
silu = torch.nn.functional.silu


def errors(piece: Piece, start: Weights) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """H, E, D of every row of the piece"""
    outer, inner = start
    z = piece.k @ inner.mT
    s = torch.sigmoid(z)
    h = z * s
    e = piece.k + h @ outer.mT - piece.v
    return h, e, (e @ outer) * (s * (1 + z * (1 - s)))


def run(
    piece: Piece, w1: torch.Tensor, w2: torch.Tensor, s1: torch.Tensor, s2: torch.Tensor, start: Weights, modes: Modes
) -> tuple[torch.Tensor, ...]:
    """o (B, H, C, V), W1, W2, S1, S2 after a piece whose gradients are taken at ``start``"""
    h, e, d = errors(piece, start)
    if modes.optimizer == "muon":
        return by_token(piece, (w1, w2), (s1, s2), ((e, h), (d, piece.k)), modes)
    q, k = piece.q, piece.k
    seen, end = _dense.course(piece, modes.post)
    if modes.optimizer == "muon_chunk":
        s1, s2 = (end.b * s + (end.up * x).mT @ y for s, x, y in ((s1, e, h), (s2, d, k)))
        kept, moved = _dense.weights_of(piece)
        o = q + silu(q @ start[1].mT) @ start[0].mT
        return o, kept * w1 - moved * newton_schulz(s1), kept * w2 - moved * newton_schulz(s2), s1, s2
    a, f, G = seen
    h_q = silu(a * (q @ w2.mT) - f * (q @ s2.mT) - (G * (q @ k.mT)) @ d)
    o = q + a * (h_q @ w1.mT) - f * (h_q @ s1.mT) - (G * (h_q @ h.mT)) @ e
    w1, s1 = end.a * w1 - end.f * s1 - (end.G * e).mT @ h, end.b * s1 + (end.up * e).mT @ h
    w2, s2 = end.a * w2 - end.f * s2 - (end.G * d).mT @ k, end.b * s2 + (end.up * d).mT @ k
    return o, w1, w2, s1, s2


def by_token(
    piece: Piece, w: Weights, s: Weights, pairs: tuple[Weights, Weights], modes: Modes
) -> tuple[torch.Tensor, ...]:
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


def all_chunks(
    tokens: tuple[torch.Tensor, ...], weights: Weights, momenta: Weights, size: int, modes: Modes
) -> tuple[torch.Tensor, Weights, Weights]:
    """o (B, T, H, V), (W1, W2), (S1, S2) of (q, k, v, alpha, into, out, theta, gamma, k_window, v_window)"""
    reads, w, s = [], weights, momenta
    for piece in _dense.pieces(tokens, size):
        o, *after = _dense.again(run, piece, *w, *s, w, modes)
        reads.append(o)
        w, s = (after[0], after[1]), (after[2], after[3])
    return torch.cat(reads, 2).movedim(2, 1), w, s
