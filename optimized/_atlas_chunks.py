"""The Omega rule chunk by chunk: what the gates of a chunk multiply to, and the matrix forms of its recurrence.

Inside one chunk that starts with memory M and momentum S the recurrence is linear in what the tokens add:

    S_t = b_t S + Σ_s Θ_{ts} i_s g_s,        Θ_{ts} = ∏_{s<r≤t} θ_r
    M_t = a_t M − Σ_s A_{ts} w_s U_s,        A_{ts} = ∏_{s<r≤t} α_r

Products are taken of the gates themselves and not as differences of logarithms, so that a gate may be zero.
Everything here is laid out as (B, H, N, C, …): N chunks of C tokens; K and V carry the c − 1 tokens before a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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


def along(*tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """The tensors chunk by chunk; unbound at once, so that a gradient is put together once and not added N times."""
    return zip(*(x.unbind(2) for x in tensors), strict=True)


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
    ends = (x[..., -1, None, None] for x in (c.a, c.b, c.f))
    for k, v, q_M, q_S, weights, down_n, up_n, a_end, b_end, f_end in along(
        c.k, c.v, by_M, by_S, scores, down, up, *ends
    ):
        E = k @ M - v if objective == "l2" else -v
        reads.append(q_M @ M - q_S @ S - weights @ E)
        M, S = a_end * M - f_end * S - down_n @ E, b_end * S + up_n @ E
    return reads, M, S


def exact(
    c: Chunks, M: torch.Tensor, S: torch.Tensor, read: str
) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Gradient descent on l2 with every gradient at the memory before its token: C = 1, in tiles of any size.

    One row U_x for every token t and every j of its window, x = (t, j), of key and value k_x, v_x of token t − j:

        U_x = i_t γ_{tj} (k_xᵀ M_{t−1} − v_x),    M_{t−1} = a_{t−1} M − f_{t−1} S − Σ_{y before t} ρ_{t−1,t(y)} k_y U_yᵀ

    so that (I + L) U = Y with a strictly lower L that no memory enters: all systems are solved at once, for the columns
    that M, S and the values multiply (the UT transform of the delta rule, here with a window and momentum).
    """
    size, wide = c.W.shape[-2:]
    window = wide - size + 1
    ages = torch.arange(window, device=M.device)
    tokens = torch.arange(size, device=M.device)
    rows = (tokens[:, None] + window - 1 - ages).flatten()  # of every (t, j), in K and V
    weights = (c.W * c.into[..., None])[..., tokens.repeat_interleave(window), rows][..., None]
    k, v = c.k[..., rows, :], c.v[..., rows, :]
    rho, rho_before = (x.repeat_interleave(window, -1) for x in (c.rho, shifted(c.rho, -2, 0.0)))
    a_before, f_before = (
        shifted(x, -1, first).repeat_interleave(window, -1)[..., None] for x, first in ((c.a, 1.0), (c.f, 0.0))
    )
    lower = weights * rho_before.repeat_interleave(window, -2) * (k @ k.mT)
    columns = torch.cat([a_before * k, f_before * k, v], -1) * weights
    identity = torch.eye(lower.shape[-1], dtype=M.dtype, device=M.device)
    solved = torch.linalg.solve_triangular(lower + identity, columns, upper=False, unitriangular=True)
    by_M, by_S, by_v = solved.split([k.shape[-1], k.shape[-1], v.shape[-1]], -1)
    down = (rho[..., -1, :, None] * k).mT
    up = (c.Th[..., -1, :].repeat_interleave(window, -1)[..., None] * k).mT
    a, f = c.a[..., None], c.f[..., None]
    if read == "pre":
        a, f, rho = shifted(a, -2, 1.0), shifted(f, -2, 0.0), rho_before
    q_M, q_S, scores = a * c.q, f * c.q, rho * (c.q @ k.mT)
    reads = []
    ends = (x[..., -1, None, None] for x in (c.a, c.b, c.f))
    for U_M, U_S, U_v, o_M, o_S, weights_n, down_n, up_n, a_end, b_end, f_end in along(
        by_M, by_S, by_v, q_M, q_S, scores, down, up, *ends
    ):
        U = U_M @ M - U_S @ S - U_v
        reads.append(o_M @ M - o_S @ S - weights_n @ U)
        M, S = a_end * M - f_end * S - down_n @ U, b_end * S + up_n @ U
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
    gates = (c.a[..., None, None], c.b[..., None, None], c.into, Th, A)
    for q, k, v, W, a, b, into, Th_n, A_n in along(c.q, c.k, c.v, c.W, *gates):
        E = k @ M - v if objective == "l2" else -v
        g = (W[..., None] * k[..., None, :, :]).mT @ E[..., None, :, :]
        g = g if clip is None else g.clamp(-clip, clip)
        S_all = b * S[..., None, :, :] + (Th_n @ g.flatten(-2)).unflatten(-1, g.shape[-2:])
        before = M
        if optimizer == "muon_chunk":
            S = S_all[..., -1, :, :]
            M = a[..., -1, :, :] * M - A_n[..., -1, :].sum(-1)[..., None, None] * step(S)
            reads.append(q @ before)
            continue
        if optimizer == "norm_ema":
            norms = torch.linalg.vector_norm(g, dim=(-2, -1))
            ema = DECAY ** (ages + 1) * m[..., None] + (1 - DECAY) * (powers @ norms[..., None])[..., 0]
            U, m = (into / (ema + EPS))[..., None, None] * g, ema[..., -1]
        else:
            U = step(S_all)
        M_all = a * M[..., None, :, :] - (A_n @ U.flatten(-2)).unflatten(-1, U.shape[-2:])
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
    ends = (x[..., -1, None, None] for x in (c.a, c.b, c.f))
    for q, k, v, a_n, f_n, G_n, down, up, a_end, b_end, f_end in along(
        c.q, c.k, c.v, a, f, G_read, G_end, R_end, *ends
    ):
        z = k @ w2.mT
        s = torch.sigmoid(z)
        h = z * s
        e = k + h @ w1.mT - v
        d = (e @ w1) * (s * (1 + z * (1 - s)))
        h_q = silu(a_n * (q @ w2.mT) - f_n * (q @ s2.mT) - (G_n * (q @ k.mT)) @ d)
        reads.append(q + a_n * (h_q @ w1.mT) - f_n * (h_q @ s1.mT) - (G_n * (h_q @ h.mT)) @ e)
        w1, s1 = a_end * w1 - f_end * s1 - (down * e).mT @ h, b_end * s1 + (up * e).mT @ h
        w2, s2 = a_end * w2 - f_end * s2 - (down * d).mT @ k, b_end * s2 + (up * d).mT @ k
    return reads, w1, w2, s1, s2
