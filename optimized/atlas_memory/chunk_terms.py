"""The terms of a segment of chunks that do not depend on the memory, differentiable by autograd.

The layout is (N, G, …): N chunks first and G = B H second, so that all products of a segment are one batch. A *row* is
a token whose error is taken: one of the C + c − 1 tokens that a chunk with one memory looks at, and for the exact rule
one token of one window.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn.functional import pad

from trueness.optimized._lib.workspace import Workspace
from trueness.optimized.atlas_memory.chunking import band, padded, shifted
from trueness.optimized.atlas_memory.config import OmegaConfig
from trueness.optimized.atlas_memory.gate_products import gate_products
from trueness.optimized.atlas_memory.state import Tokens

Tensor = torch.Tensor


class ChunkTerms(NamedTuple):
    """n rows for every chunk of C tokens; U are the rows' errors, M and S the state before the chunk.

    U = p (k M) − s (k S) − w v − coupling U,    o = a q M − f q S − (weight ∘ q kᵀ) U − y q D
    M ← a_end M − f_end S − kᵀ (down U) − y_end D,    S ← b_end S + kᵀ (up U) + x_end D,    D = gram M − sums
    """

    q: Tensor  # (N, G, C, P)
    k: Tensor  # (N, G, n, P)
    v: Tensor  # (N, G, n, V)
    a: Tensor  # (N, G, C)
    f: Tensor  # (N, G, C)
    weight: Tensor  # (N, G, C, n)
    a_end: Tensor  # (N, G)
    b_end: Tensor  # (N, G)
    f_end: Tensor  # (N, G)
    down: Tensor  # (N, G, n)
    up: Tensor  # (N, G, n)
    p: Tensor | None = None  # (N, G, n): of the exact rule; without it p = w = 1 and s = 0
    s: Tensor | None = None
    w: Tensor | None = None
    coupling: Tensor | None = None  # (N, G, n, n), strictly lower; times k kᵀ
    gram: Tensor | None = None  # (N, G, P, P): the whole chunks of a large window
    sums: Tensor | None = None  # (N, G, P, V)
    y: Tensor | None = None  # (N, G, C)
    y_end: Tensor | None = None  # (N, G)
    x_end: Tensor | None = None  # (N, G)


def contiguous(x: Tensor, workspace: Workspace | None, name: str) -> Tensor:
    """x, contiguous: in a buffer of the workspace if there is one"""
    return x.contiguous() if workspace is None else workspace.copy(name, x)


def to_chunks(x: Tensor, size: int, workspace: Workspace | None = None, name: str = "") -> Tensor:
    """x (B, N C, H, …) as (N, B H, C, …)"""
    return contiguous(x.unflatten(1, (-1, size)).movedim((1, 0, 3), (0, 1, 2)), workspace, name).flatten(1, 2)


def to_windows(x: Tensor, step: int, length: int, workspace: Workspace | None = None, name: str = "") -> Tensor:
    """x (B, (N − 1) step + length, H, W) as (N, B H, length, W): overlapping chunks"""
    if length == step:
        return to_chunks(x, step, workspace, name)
    return contiguous(x.unfold(1, length, step).movedim((1, 0, 2, 4), (0, 1, 2, 3)), workspace, name).flatten(1, 2)


def pad_to_chunks(x: Tensor, size: int, value: float = 0.0) -> Tensor:
    """x (B, T, H, …) with tokens of one value up to a whole chunk"""
    return padded(x, -x.shape[1] % size, value)


class Gates(NamedTuple):
    """The products of the gates of whole chunks, and the step size inside the momentum."""

    rho: Tensor
    a: Tensor
    b: Tensor
    f: Tensor
    down: Tensor
    up: Tensor
    into: Tensor | None  # (N, G, C); None is 1


def chunk_gates(
    alpha: Tensor, eta: Tensor, theta: Tensor, size: int, config: OmegaConfig, workspace: Workspace | None = None
) -> Gates:
    """Padding tokens leave memory and momentum alone: α = θ = 1 and w = 0, also where η is inside."""
    inside = config.lr_inside_momentum
    out = pad_to_chunks(torch.ones_like(eta) if inside else eta, size)
    padded_gates = pad_to_chunks(alpha, size, 1.0), pad_to_chunks(theta, size, 1.0), out
    a, b, w = (to_chunks(x, size) for x in padded_gates)
    return Gates(*gate_products(a, b, w, workspace), to_chunks(pad_to_chunks(eta, size), size) if inside else None)


def read_weights(g: Gates, weight: Tensor, config: OmegaConfig) -> tuple[Tensor, Tensor, Tensor]:
    """a, f and the rows' weights of the memory that a token reads: the one before it or the one after"""
    if config.read_before_update:
        return shifted(g.a, -1, 1.0), shifted(g.f, -1, 0.0), shifted(weight, -2, 0.0)
    return g.a, g.f, weight


def linear(tokens: Tokens, size: int, config: OmegaConfig, workspace: Workspace | None = None) -> ChunkTerms:
    """All errors of a chunk at the memory before it. k and v include the c − 1 tokens before the first of q."""
    q, k, v, alpha, eta, theta, gamma = tokens
    g = chunk_gates(alpha, eta, theta, size, config, workspace)
    window = gamma.shape[-1]
    gamma = to_chunks(pad_to_chunks(gamma, size), size)
    gamma = gamma if g.into is None else gamma * g.into[..., None]
    if window == 1:
        weight = g.rho * gamma.mT if workspace is None else g.rho.mul_(gamma.mT)
        down, up = g.down * gamma[..., 0], g.up * gamma[..., 0]
    else:
        W = band(gamma)
        weight = g.rho @ W if workspace is None else workspace.product("weight", g.rho, W)
        down, up = (torch.stack([g.down, g.up], -2) @ W).unbind(-2)
    k, v = rows_of_chunks(k, v, -q.shape[1] % size, size, window, workspace)
    a_end, b_end, f_end = (x[..., -1] for x in (g.a, g.b, g.f))
    a, f, read_weight = read_weights(g, weight, config)
    q = to_chunks(pad_to_chunks(q, size), size, workspace, "q")
    return ChunkTerms(q, k, v, a, f, read_weight, a_end, b_end, f_end, down, up)


def rows_of_chunks(
    k: Tensor, v: Tensor, more: int, size: int, window: int, workspace: Workspace | None
) -> tuple[Tensor, Tensor]:
    """Keys and values of the C + c − 1 tokens that every chunk looks at, after padding by ``more`` tokens"""
    length = size + window - 1
    return (
        to_windows(padded(k, more), size, length, workspace, "k"),
        to_windows(padded(v, more), size, length, workspace, "v"),
    )


def exact(tokens: Tokens, size: int, config: OmegaConfig, workspace: Workspace | None = None) -> ChunkTerms:
    """Every error at the memory before its token: row (t, j) is token t − j at time t.

    (I + L) U = Y with L_{xy} = i_t γ_{tj} ρ_{t−1,t(y)} k_x·k_y, in which t(y) < t(x), and the memory only in Y: the UT
    transform of the delta rule, here with a window and momentum. k and v include the c − 1 tokens before q's first.
    """
    q, k, v, alpha, eta, theta, gamma = tokens
    g = chunk_gates(alpha, eta, theta, size, config, workspace)
    window = gamma.shape[-1]
    gamma = to_chunks(pad_to_chunks(gamma, size), size)
    w = (gamma if g.into is None else gamma * g.into[..., None]).flatten(-2)
    k, v = rows_of_chunks(k, v, -q.shape[1] % size, size, window, workspace)
    rho, before = g.rho, shifted(g.rho, -2, 0.0)
    a_before, f_before, down, up = shifted(g.a, -1, 1.0), shifted(g.f, -1, 0.0), g.down, g.up
    coupling = before
    if window > 1:
        position = torch.arange(size, device=q.device)
        rows = (position[:, None] + window - 1 - torch.arange(window, device=q.device)).flatten()
        k, v = k[..., rows, :], v[..., rows, :]
        rho, before, down, up, a_before, f_before = (
            x.repeat_interleave(window, -1) for x in (rho, before, down, up, a_before, f_before)
        )
        coupling = before.repeat_interleave(window, -2)
    a_end, b_end, f_end = (x[..., -1] for x in (g.a, g.b, g.f))
    q = to_chunks(pad_to_chunks(q, size), size, workspace, "q")
    a, f, weight = g.a, g.f, rho
    if config.read_before_update:
        a, f, weight = shifted(g.a, -1, 1.0), shifted(g.f, -1, 0.0), before
    p, s, couplings = w * a_before, w * f_before, w[..., None] * coupling
    return ChunkTerms(q, k, v, a, f, weight, a_end, b_end, f_end, down, up, p, s, w, couplings)


def separable(
    tokens: Tokens,
    source: Tensor,
    size: int,
    window: int,
    config: OmegaConfig,
    workspace: Workspace | None = None,
) -> ChunkTerms:
    """Windows of separable weights γ_{t,j} = r_t u_{t−j}: the whole chunks of a window enter as two matrices.

    Of the c tokens of a window some chunks lie in the windows of all tokens of a chunk. They enter its gradients as

        r_t (H M − B),        H = Σ_i u_i k_i k_iᵀ,        B = Σ_i u_i k_i v_iᵀ

    and only the oldest tokens and the chunk's own are rows: the cost does not depend on c. The ``gamma`` of the tokens
    is r (B, T, H); k, v and the source u include the c − 1 tokens before the first of q.
    """
    q, k, v, alpha, eta, theta, scale = tokens
    g = chunk_gates(alpha, eta, theta, size, config, workspace)
    whole = max(window // size - 1, 0)  # chunks that lie in all windows of a chunk
    old = window - 1 - whole * size  # tokens before them
    more, source = -q.shape[1] % size, source[..., None]
    k, v, source = (padded(x, more) for x in (k, v, source))
    number, position = (q.shape[1] + more) // size, torch.arange(size, device=q.device)
    own = [to_chunks(x[:, window - 1 :], size) for x in (k, v, source)]
    rows = own
    if old:
        oldest = (to_windows(x[:, : old + (number - 1) * size], size, old) for x in (k, v, source))
        rows = [torch.cat(pair, -2) for pair in zip(oldest, own, strict=True)]
    age = position[:, None] - torch.cat([torch.arange(old, device=q.device) - (window - 1), position])
    mask = ((age >= 0) & (age < window)).to(q.dtype)
    r = to_chunks(pad_to_chunks(scale, size), size)
    r = r if g.into is None else r * g.into
    u = rows[2][..., 0]
    rho = g.rho * r[..., None, :]
    weight = (rho @ mask) * u[..., None, :]
    last = torch.stack([g.down, g.up], -2) * r[..., None, :]
    down, up = ((last @ mask) * u[..., None, :]).unbind(-2)
    a_end, b_end, f_end = (x[..., -1] for x in (g.a, g.b, g.f))
    a, f, read_weight = read_weights(g, weight, config)
    q = to_chunks(pad_to_chunks(q, size), size, workspace, "q")
    terms = ChunkTerms(q, rows[0], rows[1], a, f, read_weight, a_end, b_end, f_end, down, up)
    if not whole:
        return terms
    start, stop = window - 1 - whole * size, window - 1 + (number - 1) * size
    k, v, source = (to_chunks(x[:, start:stop], size) for x in (k, v, source))
    weighted = (k * source).mT
    y = rho.sum(-1)
    y_end, x_end = last.sum(-1).unbind(-1)
    return terms._replace(
        gram=running_sums(weighted @ k, whole) if config.squared_error else None,
        sums=running_sums(weighted @ v, whole),
        y=pad(y[..., :-1], (1, 0)) if config.read_before_update else y,
        y_end=y_end,
        x_end=x_end,
    )


def running_sums(x: Tensor, count: int) -> Tensor:
    """Σ of ``count`` neighbours along the first axis, (N + count − 1, …) → (N, …)

    Blocks of ``count`` are summed from either end, and every sum is the end of one and the start of the next: no
    difference of long sums, in which a small one would lose its digits.
    """
    number = x.shape[0] - count + 1
    if count == 1:
        return x
    blocks = pad(x, (0, 0) * (x.ndim - 1) + (0, -x.shape[0] % count)).unflatten(0, (-1, count))
    starts = blocks.cumsum(1).flatten(0, 1)[count - 1 : count - 1 + number]
    ends = blocks.flip(1).cumsum(1).flip(1)
    inside = torch.arange(count, device=x.device).view(-1, *(1,) * (x.ndim - 1)) > 0
    return starts + torch.where(inside, ends, torch.zeros_like(ends)).flatten(0, 1)[:number]
