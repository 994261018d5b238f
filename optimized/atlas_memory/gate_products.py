"""Products of the gates of a chunk: the scalar part of the Omega rule, which does not depend on the memory.

With memory M and momentum S before the chunk, after its token t

    S_t = b_t S + Σ_s Θ_{ts} x_s,        M_t = a_t M − f_t S − Σ_s ρ_{ts} x_s,        ρ = A diag(w) Θ

where token s adds x_s and A, Θ are the products of the gates between two tokens. The chunk is built from blocks, two
neighbouring ones at a time: for a token t of the later block and a token s of the earlier one

    ρ_{ts} = a_t ρ_{end,s} + f_t Θ_{end,s}

There is no division and no logarithm: gates may be zero or negative.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn.functional import pad

from trueness.optimized._lib.workspace import Workspace


class GateProducts(NamedTuple):
    """Products of the gates of a chunk of C tokens."""

    rho: torch.Tensor  # (…, C, C): the effect of token s on the memory after token t
    a: torch.Tensor  # (…, C)
    b: torch.Tensor  # (…, C)
    f: torch.Tensor  # (…, C)
    down: torch.Tensor  # (…, C): the last row of ρ
    up: torch.Tensor  # (…, C): the last row of Θ


def gate_products(
    alpha: torch.Tensor, theta: torch.Tensor, out: torch.Tensor, workspace: Workspace | None = None
) -> GateProducts:
    """All products of the gates (…, C) of a chunk; ``out`` is w, the step size outside the momentum.

    With a workspace (no autograd, no tracing) every ρ is assembled in it; the rows are not.
    """
    size = alpha.shape[-1]
    levels = max(size.bit_length() - 3, 0)
    block = -(-size // 2**levels)
    more = block * 2**levels - size
    if more:
        alpha, theta, out = pad(alpha, (0, more), value=1.0), pad(theta, (0, more), value=1.0), pad(out, (0, more))
    found = block_products(*(x.unflatten(-1, (-1, block)) for x in (alpha, theta, out)))
    for _ in range(levels):
        found = merge_blocks(found, workspace)
    rho, *rows = (x.squeeze(-3 if i == 0 else -2) for i, x in enumerate(found))
    if not more:
        return GateProducts(rho, *rows)
    return GateProducts(rho[..., :size, :size], *(x[..., :size] for x in rows))


def block_products(alpha: torch.Tensor, theta: torch.Tensor, out: torch.Tensor) -> GateProducts:
    """The products within blocks of a few tokens (…, m), token by token."""
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
    return GateProducts(rho, a, b, f, down, up)


def merge_blocks(x: GateProducts, workspace: Workspace | None = None) -> GateProducts:
    """Every two neighbouring blocks (…, 2 n, m) as one, (…, n, 2 m)."""
    rho, *rows = (y.unflatten(-3 if i == 0 else -2, (-1, 2)) for i, y in enumerate(x))
    (rho_1, rho_2), halves = rho.unbind(-3), [row.unbind(-2) for row in rows]
    (a_1, a_2), (b_1, b_2), (f_1, f_2), (down_1, down_2), (up_1, up_2) = halves
    (a, b, f), (a_end, b_end, f_end) = ([y[..., -1:] for y in half] for half in ((a_1, b_1, f_1), (a_2, b_2, f_2)))
    factors = a_2[..., None], down_1[..., None, :], f_2[..., None], up_1[..., None, :]
    return GateProducts(
        block_triangle(rho_1, rho_2, factors)
        if workspace is None
        else block_triangle_in(workspace, rho_1, rho_2, factors),
        torch.cat([a_1, a_2 * a], -1),
        torch.cat([b_1, b_2 * b], -1),
        torch.cat([f_1, a_2 * f + f_2 * b], -1),
        torch.cat([a_end * down_1 + f_end * up_1, down_2], -1),
        torch.cat([b_end * up_1, up_2], -1),
    )


Factors = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def block_triangle(upper: torch.Tensor, lower: torch.Tensor, factors: Factors) -> torch.Tensor:
    """[upper 0; x y + z w, lower]"""
    x, y, z, w = factors
    return torch.cat([pad(upper, (0, upper.shape[-1])), torch.cat([x * y + z * w, lower], -1)], -2)


def block_triangle_in(workspace: Workspace, upper: torch.Tensor, lower: torch.Tensor, factors: Factors) -> torch.Tensor:
    """``block_triangle`` in a buffer of the workspace"""
    x, y, z, w = factors
    size = upper.shape[-1]
    found = workspace(f"rho {size}", (*upper.shape[:-2], 2 * size, 2 * size), upper.dtype)
    found[..., :size, :size].copy_(upper)
    found[..., :size, size:].zero_()
    torch.mul(x, y, out=found[..., size:, :size]).addcmul_(z, w)
    found[..., size:, size:].copy_(lower)
    return found
