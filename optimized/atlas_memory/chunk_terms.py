"""Everything about some chunks of the Omega rule that no memory enters: laid out once, differentiable by autograd.

N chunks come first and G = B H second, so that all products of a piece of the sequence are one batch. A *row* is a
token whose error is taken: the C + c − 1 tokens that a chunk with one memory looks at, and for the exact rule every
token of every window.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn.functional import pad

from trueness.optimized._lib.workspace import Workspace
from trueness.optimized.atlas_memory.chunking import band, shifted
from trueness.optimized.atlas_memory.gate_products import products


class Parts(NamedTuple):
    """n rows for every chunk of C tokens; U are the rows' errors, M and S the state before the chunk.

    U = p (k M) − s (k S) − w v − coupling U,    o = a q M − f q S − (weight ∘ q kᵀ) U − y q D
    M ← a_end M − f_end S − kᵀ (down U) − y_end D,    S ← b_end S + kᵀ (up U) + x_end D,    D = gram M − sums
    """

    q: torch.Tensor  # (N, G, C, P)
    k: torch.Tensor  # (N, G, n, P)
    v: torch.Tensor  # (N, G, n, V)
    a: torch.Tensor  # (N, G, C)
    f: torch.Tensor  # (N, G, C)
    weight: torch.Tensor  # (N, G, C, n)
    a_end: torch.Tensor  # (N, G)
    b_end: torch.Tensor  # (N, G)
    f_end: torch.Tensor  # (N, G)
    down: torch.Tensor  # (N, G, n)
    up: torch.Tensor  # (N, G, n)
    p: torch.Tensor | None = None  # (N, G, n): of the exact rule; without it p = w = 1 and s = 0
    s: torch.Tensor | None = None
    w: torch.Tensor | None = None
    coupling: torch.Tensor | None = None  # (N, G, n, n), strictly lower; times k kᵀ
    gram: torch.Tensor | None = None  # (N, G, P, P): the whole chunks of a large window
    sums: torch.Tensor | None = None  # (N, G, P, V)
    y: torch.Tensor | None = None  # (N, G, C)
    y_end: torch.Tensor | None = None  # (N, G)
    x_end: torch.Tensor | None = None  # (N, G)


def whole(x: torch.Tensor, workspace: Workspace | None, name: str) -> torch.Tensor:
    """x, contiguous: in a room where there is one"""
    return x.contiguous() if workspace is None else workspace.copy(name, x)


def lay(x: torch.Tensor, size: int, workspace: Workspace | None = None, name: str = "") -> torch.Tensor:
    """x (B, N C, H, …) as (N, B H, C, …)"""
    return whole(x.unflatten(1, (-1, size)).movedim((1, 0, 3), (0, 1, 2)), workspace, name).flatten(1, 2)


def windows(
    x: torch.Tensor, step: int, length: int, workspace: Workspace | None = None, name: str = ""
) -> torch.Tensor:
    """x (B, (N − 1) step + length, H, W) as (N, B H, length, W): windows of neighbours"""
    if length == step:
        return lay(x, step, workspace, name)
    return whole(x.unfold(1, length, step).movedim((1, 0, 2, 4), (0, 1, 2, 3)), workspace, name).flatten(1, 2)


def longer(x: torch.Tensor, more: int) -> torch.Tensor:
    """x (B, T, H, W) with tokens of zeros"""
    return pad(x, (0, 0, 0, 0, 0, more)) if more else x


def filled(x: torch.Tensor, size: int, value: float = 0.0) -> torch.Tensor:
    """x (B, T, H, …) with tokens of one value up to a whole chunk"""
    more = -x.shape[1] % size
    return pad(x, (0, 0) * (x.ndim - 2) + (0, more), value=value) if more else x


class Gated(NamedTuple):
    """Gates of whole chunks: their products, and the two places of the step."""

    rho: torch.Tensor
    a: torch.Tensor
    b: torch.Tensor
    f: torch.Tensor
    down: torch.Tensor
    up: torch.Tensor
    into: torch.Tensor | None  # (N, G, C); None is 1


def gated(
    alpha: torch.Tensor,
    eta: torch.Tensor,
    theta: torch.Tensor,
    size: int,
    placement: str,
    workspace: Workspace | None = None,
) -> Gated:
    """A token that only fills the last chunk keeps memory and momentum: α = θ = 1 and w = 0, also where η is inside."""
    inner = placement == "inner"
    out = filled(torch.ones_like(eta) if inner else eta, size)
    a, b, w = (lay(x, size) for x in (filled(alpha, size, 1.0), filled(theta, size, 1.0), out))
    return Gated(*products(a, b, w, workspace), lay(filled(eta, size), size) if inner else None)


def read_at(g: Gated, weight: torch.Tensor, read: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """a, f and the rows' weights of the memory that a token reads: the one after it or the one before"""
    if read == "post":
        return g.a, g.f, weight
    return shifted(g.a, -1, 1.0), shifted(g.f, -1, 0.0), shifted(weight, -2, 0.0)


def linear(
    q: torch.Tensor,
    alpha: torch.Tensor,
    eta: torch.Tensor,
    theta: torch.Tensor,
    gamma: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    size: int,
    placement: str,
    read: str,
    workspace: Workspace | None = None,
) -> Parts:
    """All errors of a chunk at the memory before it. k and v have the c − 1 tokens before the first of q."""
    g = gated(alpha, eta, theta, size, placement, workspace)
    window = gamma.shape[-1]
    gamma = lay(filled(gamma, size), size)
    gamma = gamma if g.into is None else gamma * g.into[..., None]
    if window == 1:
        weight = g.rho * gamma.mT if workspace is None else g.rho.mul_(gamma.mT)
        down, up = g.down * gamma[..., 0], g.up * gamma[..., 0]
    else:
        W = band(gamma)
        weight = g.rho @ W if workspace is None else workspace.product("weight", g.rho, W)
        down, up = (torch.stack([g.down, g.up], -2) @ W).unbind(-2)
    more = -q.shape[1] % size
    k, v = (windows(longer(x, more), size, size + window - 1, workspace, name) for x, name in ((k, "k"), (v, "v")))
    a_end, b_end, f_end = (x[..., -1] for x in (g.a, g.b, g.f))
    a, f, read_weight = read_at(g, weight, read)
    return Parts(lay(filled(q, size), size, workspace, "q"), k, v, a, f, read_weight, a_end, b_end, f_end, down, up)


def exact(
    q: torch.Tensor,
    alpha: torch.Tensor,
    eta: torch.Tensor,
    theta: torch.Tensor,
    gamma: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    size: int,
    placement: str,
    read: str,
    workspace: Workspace | None = None,
) -> Parts:
    """Every error at the memory before its token: row (t, j) is token t − j at time t.

    (I + L) U = Y with L_{xy} = i_t γ_{tj} ρ_{t−1,t(y)} k_x·k_y, in which t(y) < t(x), and the memory only in Y: the UT
    transform of the delta rule, here with a window and momentum.
    """
    g = gated(alpha, eta, theta, size, placement, workspace)
    window, more = gamma.shape[-1], -q.shape[1] % size
    gamma = lay(filled(gamma, size), size)
    w = (gamma if g.into is None else gamma * g.into[..., None]).flatten(-2)
    k, v = (windows(longer(x, more), size, size + window - 1, workspace, name) for x, name in ((k, "k"), (v, "v")))
    rho, before = g.rho, shifted(g.rho, -2, 0.0)
    a_before, f_before, down, up = shifted(g.a, -1, 1.0), shifted(g.f, -1, 0.0), g.down, g.up
    coupling = before
    if window > 1:
        tokens = torch.arange(size, device=q.device)
        rows = (tokens[:, None] + window - 1 - torch.arange(window, device=q.device)).flatten()
        k, v = k[..., rows, :], v[..., rows, :]
        rho, before, down, up, a_before, f_before = (
            x.repeat_interleave(window, -1) for x in (rho, before, down, up, a_before, f_before)
        )
        coupling = before.repeat_interleave(window, -2)
    a_end, b_end, f_end = (x[..., -1] for x in (g.a, g.b, g.f))
    q = lay(filled(q, size), size, workspace, "q")
    a, f, weight = (g.a, g.f, rho) if read == "post" else (shifted(g.a, -1, 1.0), shifted(g.f, -1, 0.0), before)
    return Parts(
        q, k, v, a, f, weight, a_end, b_end, f_end, down, up, w * a_before, w * f_before, w, w[..., None] * coupling
    )
