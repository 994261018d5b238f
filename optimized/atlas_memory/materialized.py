"""The Omega rule for every optimiser: the gradients of one chunk are written out, (C, P, V), and treated as it asks.

    g_t = Σ_j γ_{tj} k_{t−j} e_{t−j}ᵀ,  S_t = b_t S + Σ_s Θ_{ts} i_s g_s,  M_t = a_t M − Σ_s A_{ts} w_s U_s

One chunk at a time is kept in this form, also for the way back: it is computed again from the state before it.
Muon by chunk without a clip writes out no gradient at all. Where θ = 0 a token's momentum has the rank of its window,
and Newton–Schulz needs no step on a (P, V) matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from trueness.optimized._lib.checkpoint import checkpointed
from trueness.optimized._lib.dispatch import under_functorch
from trueness.optimized.atlas_memory.chunking import band, decays, shifted
from trueness.optimized.atlas_memory.muon import EPS, THIN, newton_schulz, newton_schulz_lowrank

DECAY = 0.9


class Piece(NamedTuple):
    """One chunk of C tokens: (B, H, C, …); keys and values with the c − 1 tokens before it."""

    q: torch.Tensor  # (B, H, C, P)
    k: torch.Tensor  # (B, H, C + c − 1, P)
    v: torch.Tensor  # (B, H, C + c − 1, V)
    alpha: torch.Tensor  # (B, H, C)
    into: torch.Tensor
    out: torch.Tensor
    theta: torch.Tensor
    gamma: torch.Tensor  # (B, H, C, c)


class Modes(NamedTuple):
    squares: bool
    optimizer: str
    post: bool
    clip: float | None
    thin: bool = False


def laid(before: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    """(B, T, H, …) as (B, H, T, …), with ``before`` in front"""
    return (x if before is None else torch.cat([before, x], 1)).movedim(1, 2)


def windows(x: torch.Tensor, window: int) -> torch.Tensor:
    """(…, C + c − 1, D) as (…, C, c, D), the youngest token first"""
    return x.unfold(-2, window, 1).flip(-1).mT


def run(piece: Piece, M: torch.Tensor, S: torch.Tensor, m: torch.Tensor, modes: Modes) -> tuple[torch.Tensor, ...]:
    """o (B, H, C, V), M, S and the average norm m (B, H) after one chunk"""
    E = piece.k @ M - piece.v if modes.squares else -piece.v
    if modes.optimizer == "muon_chunk":
        S, kept, moved = pending(piece, E, S, modes)
        return piece.q @ M, kept * M - moved * newton_schulz(S), S, m
    window = piece.gamma.shape[-1]
    X, Y = windows(piece.k, window), piece.gamma[..., None] * windows(E, window)
    A = decays(piece.alpha) * piece.out[..., None, :]
    a, b = (x.cumprod(-1)[..., None, None] for x in (piece.alpha, piece.theta))
    if modes.thin:
        Y = piece.into[..., None, None] * Y
        U, last = newton_schulz_lowrank(X, Y), X[..., -1, :, :].mT @ Y[..., -1, :, :]
    else:
        g = held(X.mT @ Y, modes.clip)
        S_all = b * S[..., None, :, :] + along(decays(piece.theta) * piece.into[..., None, :], g)
        U, last = S_all, S_all[..., -1, :, :]
        if modes.optimizer == "muon":
            U = newton_schulz(S_all)
        if modes.optimizer == "norm_ema":
            norms = averages(torch.linalg.vector_norm(g, dim=(-2, -1)), m)
            U, m = (piece.into / (norms + EPS))[..., None, None] * g, norms[..., -1]
    M_all = a * M[..., None, :, :] - along(A, U)
    seen = M_all if modes.post else torch.cat([M[..., None, :, :], M_all[..., :-1, :, :]], -3)
    return (piece.q[..., None, :] @ seen)[..., 0, :], M_all[..., -1, :, :], last, m


def pending(
    piece: Piece, E: torch.Tensor, S: torch.Tensor, modes: Modes
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """S after the tokens of a piece that reads one memory, and the two weights of M ← kept M − moved NS(S)"""
    window, (b, last) = piece.gamma.shape[-1], added_up(piece)
    if modes.clip is None:
        added = (rows(last, piece.gamma).mT * piece.k).mT @ E
    else:
        g = held(windows(piece.k, window).mT @ (piece.gamma[..., None] * windows(E, window)), modes.clip)
        added = along(last, g)[..., 0, :, :]
    return b * S + added, *weights_of(piece)


def added_up(piece: Piece) -> tuple[torch.Tensor, torch.Tensor]:
    """b (B, H, 1, 1) and Θ_{Cs} i_s (B, H, 1, C): the momentum after the piece, of that before it and its gradients"""
    return piece.theta.prod(-1)[..., None, None], decays(piece.theta)[..., -1:, :] * piece.into[..., None, :]


class Seen(NamedTuple):
    """Weights with which the tokens of a piece see the state before it, and its gradients."""

    a: torch.Tensor  # (B, H, C, 1) of M
    f: torch.Tensor  # (B, H, C, 1) of S, taken away
    G: torch.Tensor  # (B, H, C, C + c − 1) of the rows' gradients, taken away


class End(NamedTuple):
    """Those of the state after the piece: M' = a M − f S − Σ G g, S' = b S + Σ up g."""

    a: torch.Tensor  # (B, H, 1, 1)
    f: torch.Tensor
    b: torch.Tensor
    G: torch.Tensor  # (B, H, C + c − 1, 1)
    up: torch.Tensor


def course(piece: Piece, post: bool) -> tuple[Seen, End]:
    """How gradient descent weighs what there was; with ``post`` a token sees its own update."""
    Th, A = decays(piece.theta), decays(piece.alpha) * piece.out[..., None, :]
    a, b = piece.alpha.cumprod(-1), piece.theta.cumprod(-1)
    f = (A @ b[..., None])[..., 0]
    both = rows(torch.cat([A @ Th, Th[..., -1:, :]], -2) * piece.into[..., None, :], piece.gamma)
    G, (a_end, f_end, b_end) = both[..., :-1, :], (x[..., -1, None, None] for x in (a, f, b))
    end = End(a_end, f_end, b_end, both[..., -2, :, None], both[..., -1, :, None])
    if not post:
        a, f, G = shifted(a, -1, 1.0), shifted(f, -1, 0.0), shifted(G, -2, 0.0)
    return Seen(a[..., None], f[..., None], G), end


def descent(
    piece: Piece, E: torch.Tensor, M: torch.Tensor, S: torch.Tensor, post: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradient descent without a clip, of one piece whose errors are E: o (B, H, C, V), M, S; no gradient written out.

    O = a Q M − f Q S − (G ∘ Q Kᵀ) E,  M' = a_C M − f_C S − Kᵀ G_C E,  S' = b_C S + Kᵀ R_C E
    """
    q, k, seen, end = piece.q, piece.k, *course(piece, post)
    o = seen.a * (q @ M) - seen.f * (q @ S) - (seen.G * (q @ k.mT)) @ E
    return o, end.a * M - end.f * S - k.mT @ (end.G * E), end.b * S + k.mT @ (end.up * E)


def weights_of(piece: Piece) -> tuple[torch.Tensor, torch.Tensor]:
    """∏ α and Σ_s A_s w_s (B, H, 1, 1): what stays of the memory, and how far one update for all tokens goes"""
    moved = (decays(piece.alpha)[..., -1, :] * piece.out).sum(-1)
    return piece.alpha.prod(-1)[..., None, None], moved[..., None, None]


def rows(weights: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
    """(…, n, C + c − 1): weights (…, n, C) of the gradients of C tokens as those of their windows' rows"""
    return weights @ band(gamma)


def held(g: torch.Tensor, clip: float | None) -> torch.Tensor:
    return g if clip is None else g.clamp(-clip, clip)


def along(weights: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Σ_s weights_{ts} x_s of x (…, C, P, V)"""
    found: torch.Tensor = (weights @ x.flatten(-2)).unflatten(-1, x.shape[-2:])
    return found


def averages(norms: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
    """m_t = 0.9 m_{t−1} + 0.1 ‖g_t‖ (…, C) from m (…)"""
    ages = torch.arange(norms.shape[-1], dtype=norms.dtype, device=norms.device)
    powers = (DECAY ** (ages[:, None] - ages[None, :]).clamp(min=0)).tril()
    return DECAY ** (ages + 1) * m[..., None] + (1 - DECAY) * (powers @ norms[..., None])[..., 0]


def rank_is_small(theta: torch.Tensor, window: int, rows: int, columns: int) -> bool:
    """Whether no momentum is kept, so that S_t has the rank of its window; not asked where nobody may look."""
    if THIN * window > min(rows, columns) or torch.compiler.is_compiling():
        return False
    if under_functorch() or (torch.is_grad_enabled() and theta.requires_grad):
        return False
    if theta.is_cuda and torch.cuda.is_current_stream_capturing():
        return False
    return not bool(theta.any())


def all_chunks(
    tokens: tuple[torch.Tensor, ...], M: torch.Tensor, S: torch.Tensor, m: torch.Tensor, size: int, modes: Modes
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """o (B, T, H, V), M, S, m of tokens as ``pieces`` takes them"""
    if modes.optimizer == "muon" and modes.clip is None:
        theta, gamma = tokens[6], tokens[7]
        modes = modes._replace(thin=rank_is_small(theta, gamma.shape[-1], M.shape[-2], M.shape[-1]))
    reads = []
    for piece in pieces(tokens, size):
        o, M, S, m = checkpointed(run, piece, M, S, m, modes)
        reads.append(o)
    return torch.cat(reads, 2).movedim(2, 1), M, S, m


def pieces(tokens: tuple[torch.Tensor, ...], size: int, position: int = 0) -> Iterator[Piece]:
    """The chunks of (q, k, v, alpha, into, out, theta, gamma, k_window, v_window); the last one may be shorter.

    ``position`` tokens of the first chunk came before.
    """
    q, k, v, alpha, into, out, theta, gamma, k_window, v_window = tokens
    keys, values, halo = laid(k_window, k), laid(v_window, v), gamma.shape[-1] - 1
    rest = [laid(None, x) for x in (alpha, into, out, theta, gamma)]
    q = laid(None, q)
    for chunk in range(-position, q.shape[2], size):
        start = max(chunk, 0)
        here = min(chunk + size, q.shape[2]) - start
        wide = (x.narrow(2, start, here + halo) for x in (keys, values))
        yield Piece(q.narrow(2, start, here), *wide, *(x.narrow(2, start, here) for x in rest))
