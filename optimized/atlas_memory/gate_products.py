"""What the gates of a chunk multiply to: the scalar part of the Omega rule, in which no memory enters.

Before a chunk stand memory M and momentum S. After its token t

    S_t = b_t S + Σ_s Θ_{ts} x_s,        M_t = a_t M − f_t S − Σ_s ρ_{ts} x_s,        ρ = A diag(w) Θ

where token s adds x_s and A, Θ are the products of the gates between two tokens. Two neighbouring pieces of a chunk at
a time are put together: of a token t in the later one and a token s in the earlier one

    ρ_{ts} = a_t ρ_{end,s} + f_t Θ_{end,s}

so that nothing is divided and no logarithm is taken: gates may be zero or negative.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn.functional import pad

from trueness.optimized._lib.workspace import Workspace


class Products(NamedTuple):
    """Of the gates of a chunk of C tokens."""

    rho: torch.Tensor  # (…, C, C): what token s does to the memory after token t
    a: torch.Tensor  # (…, C)
    b: torch.Tensor  # (…, C)
    f: torch.Tensor  # (…, C)
    down: torch.Tensor  # (…, C): the last row of ρ
    up: torch.Tensor  # (…, C): the last row of Θ


def products(
    alpha: torch.Tensor, theta: torch.Tensor, out: torch.Tensor, workspace: Workspace | None = None
) -> Products:
    """All of them, of the gates (…, C) of a chunk; ``out`` is w, the step outside of the momentum.

    With a room, where nobody watches, every ρ is put together there; its rows are not.
    """
    size = alpha.shape[-1]
    levels = max(size.bit_length() - 3, 0)
    piece = -(-size // 2**levels)
    more = piece * 2**levels - size
    if more:
        alpha, theta, out = pad(alpha, (0, more), value=1.0), pad(theta, (0, more), value=1.0), pad(out, (0, more))
    found = short(*(x.unflatten(-1, (-1, piece)) for x in (alpha, theta, out)))
    for _ in range(levels):
        found = merged(found, workspace)
    rho, *rows = (x.squeeze(-3 if i == 0 else -2) for i, x in enumerate(found))
    if not more:
        return Products(rho, *rows)
    return Products(rho[..., :size, :size], *(x[..., :size] for x in rows))


def short(alpha: torch.Tensor, theta: torch.Tensor, out: torch.Tensor) -> Products:
    """The products over pieces of a few tokens (…, m), token by token."""
    size = alpha.shape[-1]
    gates = list(zip(*(x.split(1, -1) for x in (alpha, theta, out)), strict=True))
    a, b, w = gates[0]
    f, one = w * b, torch.ones_like(w)
    down, up, heads, found = w, one, [(a, b, f)], [w]
    for alpha_t, theta_t, w in gates[1:]:
        up = torch.cat([theta_t * up, one], -1)
        down = torch.cat([alpha_t * down + w * up[..., :-1], w], -1)
        a, b = a * alpha_t, b * theta_t
        f = alpha_t * f + w * b
        heads.append((a, b, f))
        found.append(down)
    rho = torch.stack([pad(row, (0, size - row.shape[-1])) for row in found], -2)
    a, b, f = (torch.cat(x, -1) for x in zip(*heads, strict=True))
    return Products(rho, a, b, f, down, up)


def merged(x: Products, workspace: Workspace | None = None) -> Products:
    """Every two neighbouring pieces (…, 2 n, m) as one, (…, n, 2 m)."""
    rho, *rows = (y.unflatten(-3 if i == 0 else -2, (-1, 2)) for i, y in enumerate(x))
    (rho_1, rho_2), parts = rho.unbind(-3), [row.unbind(-2) for row in rows]
    (a_1, a_2), (b_1, b_2), (f_1, f_2), (down_1, down_2), (up_1, up_2) = parts
    (a, b, f), (a_end, b_end, f_end) = ([y[..., -1:] for y in half] for half in ((a_1, b_1, f_1), (a_2, b_2, f_2)))
    factors = a_2[..., None], down_1[..., None, :], f_2[..., None], up_1[..., None, :]
    return Products(
        joined(rho_1, rho_2, factors) if workspace is None else joined_in(workspace, rho_1, rho_2, factors),
        torch.cat([a_1, a_2 * a], -1),
        torch.cat([b_1, b_2 * b], -1),
        torch.cat([f_1, a_2 * f + f_2 * b], -1),
        torch.cat([a_end * down_1 + f_end * up_1, down_2], -1),
        torch.cat([b_end * up_1, up_2], -1),
    )


Factors = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def joined(upper: torch.Tensor, lower: torch.Tensor, factors: Factors) -> torch.Tensor:
    """The two blocks of a diagonal, and x y + z w below the first"""
    x, y, z, w = factors
    return torch.cat([pad(upper, (0, upper.shape[-1])), torch.cat([x * y + z * w, lower], -1)], -2)


def joined_in(workspace: Workspace, upper: torch.Tensor, lower: torch.Tensor, factors: Factors) -> torch.Tensor:
    """``joined`` in a room"""
    x, y, z, w = factors
    size = upper.shape[-1]
    found = workspace(f"rho {size}", (*upper.shape[:-2], 2 * size, 2 * size), upper.dtype)
    found[..., :size, :size].copy_(upper)
    found[..., :size, size:].zero_()
    torch.mul(x, y, out=found[..., size:, :size]).addcmul_(z, w)
    found[..., size:, size:].copy_(lower)
    return found
