"""The Omega rule for every optimizer: the gradients of one chunk are materialized, (C, P, V).

    g_t = Σ_j γ_{tj} k_{t−j} e_{t−j}ᵀ,  S_t = b_t S + Σ_s Θ_{ts} i_s g_s,  M_t = a_t M − Σ_s A_{ts} w_s U_s

One chunk at a time exists in this form, in the backward too, which recomputes it from the state before it. Muon by
chunk without a clip materializes no gradient. Where θ = 0 a token's momentum has the rank of its window, and
Newton–Schulz needs no step on a (P, V) matrix.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch

from trueness.optimized._lib.checkpoint import checkpointed
from trueness.optimized._lib.dispatch import under_functorch
from trueness.optimized.atlas_memory.chunking import band, decays, shifted
from trueness.optimized.atlas_memory.config import OmegaConfig
from trueness.optimized.atlas_memory.muon import EPS, THIN, newton_schulz, newton_schulz_lowrank
from trueness.optimized.atlas_memory.state import Tokens

DECAY = 0.9


class Chunk(NamedTuple):
    """One chunk of C tokens: (B, H, C, …); keys and values with the c − 1 tokens before it."""

    q: torch.Tensor  # (B, H, C, P)
    k: torch.Tensor  # (B, H, C + c − 1, P)
    v: torch.Tensor  # (B, H, C + c − 1, V)
    alpha: torch.Tensor  # (B, H, C)
    into: torch.Tensor
    out: torch.Tensor
    theta: torch.Tensor
    gamma: torch.Tensor  # (B, H, C, c)


def to_layers(before: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    """(B, T, H, …) as (B, H, T, …), with ``before`` in front"""
    return (x if before is None else torch.cat([before, x], 1)).movedim(1, 2)


def windows(x: torch.Tensor, window: int) -> torch.Tensor:
    """(…, C + c − 1, D) as (…, C, c, D), the youngest token first"""
    return x.unfold(-2, window, 1).flip(-1).mT


def run(
    chunk: Chunk, M: torch.Tensor, S: torch.Tensor, m: torch.Tensor, config: OmegaConfig, low_rank: bool
) -> tuple[torch.Tensor, ...]:
    """o (B, H, C, V), M, S and the average norm m (B, H) after one chunk"""
    E = chunk.k @ M - chunk.v if config.squared_error else -chunk.v
    if config.optimizer == "muon_chunk":
        S, kept, moved = pending_update(chunk, E, S, config.clip)
        return chunk.q @ M, kept * M - moved * newton_schulz(S), S, m
    window = chunk.gamma.shape[-1]
    X, Y = windows(chunk.k, window), chunk.gamma[..., None] * windows(E, window)
    A = decays(chunk.alpha) * chunk.out[..., None, :]
    a, b = (x.cumprod(-1)[..., None, None] for x in (chunk.alpha, chunk.theta))
    if low_rank:
        Y = chunk.into[..., None, None] * Y
        U, last = newton_schulz_lowrank(X, Y), X[..., -1, :, :].mT @ Y[..., -1, :, :]
    else:
        g = clipped(X.mT @ Y, config.clip)
        S_all = b * S[..., None, :, :] + weighted_sums(decays(chunk.theta) * chunk.into[..., None, :], g)
        U, last = S_all, S_all[..., -1, :, :]
        if config.optimizer == "muon":
            U = newton_schulz(S_all)
        if config.optimizer == "norm_ema":
            norms = norm_averages(torch.linalg.vector_norm(g, dim=(-2, -1)), m)
            U, m = (chunk.into / (norms + EPS))[..., None, None] * g, norms[..., -1]
    M_all = a * M[..., None, :, :] - weighted_sums(A, U)
    seen = torch.cat([M[..., None, :, :], M_all[..., :-1, :, :]], -3) if config.read_before_update else M_all
    return (chunk.q[..., None, :] @ seen)[..., 0, :], M_all[..., -1, :, :], last, m


def pending_update(
    chunk: Chunk, E: torch.Tensor, S: torch.Tensor, clip: float | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """S after the tokens of a chunk that reads one memory, and the two weights of M ← kept M − moved NS(S)"""
    window, (b, last) = chunk.gamma.shape[-1], momentum_weights(chunk)
    if clip is None:
        added = (rows(last, chunk.gamma).mT * chunk.k).mT @ E
    else:
        g = clipped(windows(chunk.k, window).mT @ (chunk.gamma[..., None] * windows(E, window)), clip)
        added = weighted_sums(last, g)[..., 0, :, :]
    return b * S + added, *update_weights(chunk)


def momentum_weights(chunk: Chunk) -> tuple[torch.Tensor, torch.Tensor]:
    """b (B, H, 1, 1) and Θ_{Cs} i_s (B, H, 1, C): weights of the momentum before a chunk and of its gradients"""
    return chunk.theta.prod(-1)[..., None, None], decays(chunk.theta)[..., -1:, :] * chunk.into[..., None, :]


class ReadWeights(NamedTuple):
    """Weights with which the tokens of a chunk read the state before it, and its gradients."""

    a: torch.Tensor  # (B, H, C, 1) of M
    f: torch.Tensor  # (B, H, C, 1) of S, subtracted
    G: torch.Tensor  # (B, H, C, C + c − 1) of the rows' gradients, subtracted


class EndWeights(NamedTuple):
    """Weights of the state after the chunk: M' = a M − f S − Σ G g, S' = b S + Σ up g."""

    a: torch.Tensor  # (B, H, 1, 1)
    f: torch.Tensor
    b: torch.Tensor
    G: torch.Tensor  # (B, H, C + c − 1, 1)
    up: torch.Tensor


def descent_weights(chunk: Chunk, read_before_update: bool) -> tuple[ReadWeights, EndWeights]:
    """Weights of gradient descent, for a memory that is read before or after a token's own update"""
    Th, A = decays(chunk.theta), decays(chunk.alpha) * chunk.out[..., None, :]
    a, b = chunk.alpha.cumprod(-1), chunk.theta.cumprod(-1)
    f = (A @ b[..., None])[..., 0]
    weights = rows(torch.cat([A @ Th, Th[..., -1:, :]], -2) * chunk.into[..., None, :], chunk.gamma)
    G, (a_end, f_end, b_end) = weights[..., :-1, :], (x[..., -1, None, None] for x in (a, f, b))
    end = EndWeights(a_end, f_end, b_end, weights[..., -2, :, None], weights[..., -1, :, None])
    if read_before_update:
        a, f, G = shifted(a, -1, 1.0), shifted(f, -1, 0.0), shifted(G, -2, 0.0)
    return ReadWeights(a[..., None], f[..., None], G), end


def descent(
    chunk: Chunk, E: torch.Tensor, M: torch.Tensor, S: torch.Tensor, read_before_update: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradient descent without a clip, of a chunk whose errors are E: o (B, H, C, V), M, S; no gradient materialized.

    O = a Q M − f Q S − (G ∘ Q Kᵀ) E,  M' = a_C M − f_C S − Kᵀ G_C E,  S' = b_C S + Kᵀ R_C E
    """
    q, k, seen, end = chunk.q, chunk.k, *descent_weights(chunk, read_before_update)
    o = seen.a * (q @ M) - seen.f * (q @ S) - (seen.G * (q @ k.mT)) @ E
    return o, end.a * M - end.f * S - k.mT @ (end.G * E), end.b * S + k.mT @ (end.up * E)


def update_weights(chunk: Chunk) -> tuple[torch.Tensor, torch.Tensor]:
    """∏ α and Σ_s A_s w_s (B, H, 1, 1): the share of the memory that stays, and the weight of one update for all"""
    moved = (decays(chunk.alpha)[..., -1, :] * chunk.out).sum(-1)
    return chunk.alpha.prod(-1)[..., None, None], moved[..., None, None]


def rows(weights: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
    """(…, n, C + c − 1): weights (…, n, C) of the gradients of C tokens as those of their windows' rows"""
    return weights @ band(gamma)


def clipped(g: torch.Tensor, clip: float | None) -> torch.Tensor:
    return g if clip is None else g.clamp(-clip, clip)


def weighted_sums(weights: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Σ_s weights_{ts} x_s of x (…, C, P, V)"""
    found: torch.Tensor = (weights @ x.flatten(-2)).unflatten(-1, x.shape[-2:])
    return found


def norm_averages(norms: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
    """m_t = 0.9 m_{t−1} + 0.1 ‖g_t‖ (…, C) from m (…)"""
    ages = torch.arange(norms.shape[-1], dtype=norms.dtype, device=norms.device)
    powers = (DECAY ** (ages[:, None] - ages[None, :]).clamp(min=0)).tril()
    return DECAY ** (ages + 1) * m[..., None] + (1 - DECAY) * (powers @ norms[..., None])[..., 0]


def has_low_rank(tokens: Tokens, config: OmegaConfig, M: torch.Tensor) -> bool:
    """Whether Muon's momentum has the rank of its window, which is small beside the memory"""
    if config.optimizer != "muon" or config.clip is not None:
        return False
    return rank_is_small(tokens.theta, tokens.gamma.shape[-1], M.shape[-2], M.shape[-1])


def rank_is_small(theta: torch.Tensor, window: int, rows: int, columns: int) -> bool:
    """Whether θ = 0, so that S_t has the rank of its window; False where values cannot be inspected."""
    if THIN * window > min(rows, columns) or torch.compiler.is_compiling():
        return False
    if under_functorch() or (torch.is_grad_enabled() and theta.requires_grad):
        return False
    if theta.is_cuda and torch.cuda.is_current_stream_capturing():
        return False
    return not bool(theta.any())


def all_chunks(
    chunks: Iterable[Chunk], M: torch.Tensor, S: torch.Tensor, m: torch.Tensor, config: OmegaConfig, low_rank: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """o (B, T, H, V), M, S, m after all chunks"""
    reads = []
    for chunk in chunks:
        o, M, S, m = checkpointed(run, chunk, M, S, m, config, low_rank)
        reads.append(o)
    return torch.cat(reads, 2).movedim(2, 1), M, S, m


def iter_chunks(
    tokens: Tokens,
    rates: tuple[torch.Tensor, torch.Tensor],
    windows: tuple[torch.Tensor, torch.Tensor],
    size: int,
    position: int = 0,
) -> Iterator[Chunk]:
    """The chunks of a sequence; the last one may be shorter, and so may the first, ``position`` tokens into its chunk

    rates    step sizes inside and outside the momentum, as ``learning_rates`` gives them
    windows  keys and values of the c − 1 tokens before the first
    """
    keys, values, halo = to_layers(windows[0], tokens.k), to_layers(windows[1], tokens.v), tokens.gamma.shape[-1] - 1
    gates = [to_layers(None, x) for x in (tokens.alpha, *rates, tokens.theta, tokens.gamma)]
    q = to_layers(None, tokens.q)
    for first in range(-position, q.shape[2], size):
        start = max(first, 0)
        length = min(first + size, q.shape[2]) - start
        wide = (x.narrow(2, start, length + halo) for x in (keys, values))
        yield Chunk(q.narrow(2, start, length), *wide, *(x.narrow(2, start, length) for x in gates))
