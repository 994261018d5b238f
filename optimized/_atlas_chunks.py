"""The Omega rule chunk by chunk: what the gates of a chunk multiply to, and the matrix forms of its recurrence.

Inside one chunk that starts with memory M and momentum S the recurrence is linear in what the tokens add:

    S_t = b_t S + Σ_s Θ_{ts} i_s g_s,        Θ_{ts} = ∏_{s<r≤t} θ_r
    M_t = a_t M − Σ_s A_{ts} w_s U_s,        A_{ts} = ∏_{s<r≤t} α_r

Products are taken of the gates themselves and not as differences of logarithms, so that a gate may be zero.
Everything here is laid out as (B, H, N, C, …): N chunks of C tokens; K and V carry the c − 1 tokens before a chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn.functional import pad

Step = Callable[[torch.Tensor], torch.Tensor]
DECAY, EPS = 0.9, 1e-8


class Chunks(NamedTuple):
    """All chunks of a call: tokens, products of gates, and the weights of the window."""

    q: torch.Tensor  # (B, H, N, C, P)
    k: torch.Tensor  # (B, H, N, E, P), E = C + c − 1
    v: torch.Tensor  # (B, H, N, E, V)
    A: torch.Tensor  # (B, H, N, C, C)
    Th: torch.Tensor  # (B, H, N, C, C)
    a: torch.Tensor  # (B, H, N, C)
    b: torch.Tensor  # (B, H, N, C)
    f: torch.Tensor  # (B, H, N, C)
    out: torch.Tensor  # (B, H, N, C)
    into: torch.Tensor  # (B, H, N, C)
    W: torch.Tensor  # (B, H, N, C, E): the window's weights as a band
    rho: torch.Tensor  # (B, H, N, C, C) = A diag(out) Th


def padded(x: torch.Tensor, length: int, value: float = 0.0) -> torch.Tensor:
    """x (B, T, H, …) with ``length`` further tokens of one value"""
    return pad(x, (0, 0) * (x.ndim - 2) + (0, length), value=value) if length else x


def split(x: torch.Tensor, size: int) -> torch.Tensor:
    """x (B, N C, H, …) as (B, H, N, C, …)"""
    return x.unflatten(1, (-1, size)).movedim(3, 1)


def overlapping(before: torch.Tensor, x: torch.Tensor, size: int) -> torch.Tensor:
    """(B, H, N, E, …): every chunk of x (B, N C, H, W) with the rows before it; ``before`` (B, c−1, H, W) leads"""
    rows = torch.cat([before, x], 1).unfold(1, size + before.shape[1], size)
    return rows.permute(0, 2, 1, 4, 3)


def decays(gate: torch.Tensor) -> torch.Tensor:
    """(…, C, C): ∏_{s<r≤t} gate_r for s ≤ t, else 0"""
    size = gate.shape[-1]
    rows = torch.arange(size, device=gate.device)
    later = rows[:, None] > rows[None, :]
    factors = torch.where(later, gate[..., :, None], torch.ones((), dtype=gate.dtype, device=gate.device))
    return factors.cumprod(-2).tril()


def band(gamma: torch.Tensor) -> torch.Tensor:
    """(…, C, C + c − 1): γ_{t,j} in row t at the column of token t − j"""
    size, window = gamma.shape[-2:]
    wide = size + window - 1
    return pad(gamma.flip(-1), (0, size)).flatten(-2)[..., : size * wide].unflatten(-1, (size, wide))


def chunks(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    alpha: torch.Tensor,
    eta: torch.Tensor,
    theta: torch.Tensor,
    gamma: torch.Tensor,
    k_window: torch.Tensor,
    v_window: torch.Tensor,
    chunk_size: int,
    placement: str,
) -> Chunks:
    """Everything about the chunks that no memory enters. The last one is filled up with tokens that change nothing."""
    length = q.shape[1]
    size = min(chunk_size, length)
    more = -length % size
    q, k, v, gamma, eta = (padded(x, more) for x in (q, k, v, gamma, eta))
    alpha, theta = padded(alpha, more, 1.0), padded(theta, more, 1.0)
    one = torch.ones_like(eta)
    if placement == "inner":
        into, out = eta, padded(one[:, :length], more)
    else:
        into, out = one, eta
    alpha, theta, into, out = (split(x, size) for x in (alpha, theta, into, out))
    A, Th = decays(alpha), decays(theta)
    a, b = alpha.cumprod(-1), theta.cumprod(-1)
    rho = (A * out[..., None, :]) @ Th
    f = ((A * out[..., None, :]) @ b[..., None])[..., 0]
    k, v = overlapping(k_window, k, size), overlapping(v_window, v, size)
    return Chunks(split(q, size), k, v, A, Th, a, b, f, out, into, band(split(gamma, size)), rho)


def joined(reads: list[torch.Tensor], length: int) -> torch.Tensor:
    """Reads (B, H, C, V) of every chunk as (B, T, H, V)"""
    return torch.cat(reads, 2)[:, :, :length].transpose(1, 2)


def shifted(x: torch.Tensor, dim: int, first: float) -> torch.Tensor:
    """x one token later along ``dim``: the state before a token instead of after it"""
    head = torch.full_like(x.narrow(dim, 0, 1), first)
    return torch.cat([head, x.narrow(dim, 0, x.shape[dim] - 1)], dim)


def linear(
    c: Chunks, M: torch.Tensor, S: torch.Tensor, objective: str, read: str
) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Gradient descent without a clip: U = S, and a chunk is a handful of products (attention-like, masked by G).

    E = K M − V,  O = a Q M − f Q S − (G ∘ Q Kᵀ) E,  M' = a_C M − f_C S − Kᵀ G_C E,  S' = b_C S + Kᵀ R_C E
    """
    W = c.W * c.into[..., None]
    G = c.rho @ W
    R_end = (c.Th[..., -1:, :] @ W).mT
    G_end = G[..., -1, :, None]
    down, up = (G_end * c.k).mT, (R_end * c.k).mT
    a, f, G_read = c.a[..., None], c.f[..., None], G
    if read == "pre":
        a, f, G_read = shifted(a, -2, 1.0), shifted(f, -2, 0.0), shifted(G, -2, 0.0)
    by_M, by_S, scores = a * c.q, f * c.q, G_read * (c.q @ c.k.mT)
    reads = []
    for n in range(c.q.shape[2]):
        E = c.k[:, :, n] @ M - c.v[:, :, n] if objective == "l2" else -c.v[:, :, n]
        reads.append(by_M[:, :, n] @ M - by_S[:, :, n] @ S - scores[:, :, n] @ E)
        a_end, b_end, f_end = (x[:, :, n, -1, None, None] for x in (c.a, c.b, c.f))
        M, S = a_end * M - f_end * S - down[:, :, n] @ E, b_end * S + up[:, :, n] @ E
    return reads, M, S


def dense(
    c: Chunks,
    M: torch.Tensor,
    S: torch.Tensor,
    objective: str,
    optimizer: str,
    read: str,
    clip: float | None,
    step: Step,
) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Any optimiser: the gradient of every token of a chunk is written out, (C, P, V), and treated as it asks.

    g_t = Σ_u W_{tu} K_u E_uᵀ,  S_t = b_t S + Σ_s Θ_{ts} i_s g_s,  M_t = a_t M − Σ_s A_{ts} w_s U_s,  o_t = q_tᵀ M_t
    """
    size = c.q.shape[3]
    Th, A = c.Th * c.into[..., None, :], c.A * c.out[..., None, :]
    ages = torch.arange(size, dtype=M.dtype, device=M.device)
    m = torch.zeros_like(M[..., 0, 0])
    powers = torch.tensor(DECAY, dtype=M.dtype, device=M.device) ** (ages[:, None] - ages[None, :]).clamp(min=0)
    powers = powers.tril()
    reads = []
    for n in range(c.q.shape[2]):
        k, q = c.k[:, :, n], c.q[:, :, n]
        E = k @ M - c.v[:, :, n] if objective == "l2" else -c.v[:, :, n]
        g = (c.W[:, :, n][..., None] * k[..., None, :, :]).mT @ E[..., None, :, :]
        g = g if clip is None else g.clamp(-clip, clip)
        a, b = c.a[:, :, n][..., None, None], c.b[:, :, n][..., None, None]
        S_all = b * S[..., None, :, :] + (Th[:, :, n] @ g.flatten(-2)).unflatten(-1, g.shape[-2:])
        before = M
        if optimizer == "muon_chunk":
            S = S_all[..., -1, :, :]
            M = a[..., -1, :, :] * M - A[:, :, n, -1].sum(-1)[..., None, None] * step(S)
            reads.append(q @ before)
            continue
        if optimizer == "norm_ema":
            norms = torch.linalg.vector_norm(g, dim=(-2, -1))
            ema = DECAY ** (ages + 1) * m[..., None] + (1 - DECAY) * (powers @ norms[..., None])[..., 0]
            U, m = (c.into[:, :, n] / (ema + EPS))[..., None, None] * g, ema[..., -1]
        else:
            U = step(S_all)
        M_all = a * M[..., None, :, :] - (A[:, :, n] @ U.flatten(-2)).unflatten(-1, U.shape[-2:])
        M, S = M_all[..., -1, :, :], S_all[..., -1, :, :]
        seen = M_all if read == "post" else torch.cat([before[..., None, :, :], M_all[..., :-1, :, :]], -3)
        reads.append((q[..., None, :] @ seen)[..., 0, :])
    return reads, M.clone(), S.clone()


def layers(
    c: Chunks, w1: torch.Tensor, w2: torch.Tensor, s1: torch.Tensor, s2: torch.Tensor, read: str
) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A memory of two layers in its dual form: no token's weights are written out.

    Z = K W2ᵀ,  H = σ(Z),  E = K + H W1ᵀ − V,  D = (E W1) ∘ σ'(Z);  then both layers move like a linear memory
    """
    silu = torch.nn.functional.silu
    W = c.W * c.into[..., None]
    G, R_end = c.rho @ W, (c.Th[..., -1:, :] @ W).mT
    G_end = G[..., -1, :, None]
    a, f, G_read = c.a[..., None], c.f[..., None], G
    if read == "pre":
        a, f, G_read = shifted(a, -2, 1.0), shifted(f, -2, 0.0), shifted(G, -2, 0.0)
    reads = []
    for n in range(c.q.shape[2]):
        k, q = c.k[:, :, n], c.q[:, :, n]
        z = k @ w2.mT
        s = torch.sigmoid(z)
        h = z * s
        e = k + h @ w1.mT - c.v[:, :, n]
        d = (e @ w1) * (s * (1 + z * (1 - s)))
        a_n, f_n, G_n = a[:, :, n], f[:, :, n], G_read[:, :, n]
        h_q = silu(a_n * (q @ w2.mT) - f_n * (q @ s2.mT) - (G_n * (q @ k.mT)) @ d)
        reads.append(q + a_n * (h_q @ w1.mT) - f_n * (h_q @ s1.mT) - (G_n * (h_q @ h.mT)) @ e)
        a_end, b_end, f_end = (x[:, :, n, -1, None, None] for x in (c.a, c.b, c.f))
        down, up = G_end[:, :, n], R_end[:, :, n]
        w1, s1 = a_end * w1 - f_end * s1 - (down * e).mT @ h, b_end * s1 + (up * e).mT @ h
        w2, s2 = a_end * w2 - f_end * s2 - (down * d).mT @ k, b_end * s2 + (up * d).mT @ k
    return reads, w1, w2, s1, s2
