"""Chunks of a sequence: padding, splitting, the two places of the step size, and the products of a chunk's gates.

The layout is (B, H, N, C, …): N chunks of C tokens. Products are taken of the gates themselves and not as differences
of logarithms, so that a gate may be zero.
"""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from trueness.optimized.atlas_memory.config import OmegaConfig


def learning_rates(eta: torch.Tensor, config: OmegaConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """i, the step size inside the momentum, and w, the one outside: one of them is η and the other 1"""
    one = torch.ones_like(eta)
    return (eta, one) if config.lr_inside_momentum else (one, eta)


def padded(x: torch.Tensor, length: int, value: float = 0.0) -> torch.Tensor:
    """x (B, T, H, …) with ``length`` more tokens of one value"""
    return pad(x, (0, 0) * (x.ndim - 2) + (0, length), value=value) if length else x


def split(x: torch.Tensor, size: int) -> torch.Tensor:
    """x (B, N C, H, …) as (B, H, N, C, …)"""
    return x.unflatten(1, (-1, size)).movedim(3, 1)


def with_halo(before: torch.Tensor, x: torch.Tensor, size: int) -> torch.Tensor:
    """(B, H, N, C + c − 1, W): every chunk of x (B, N C, H, W) with the c − 1 rows before it, at first ``before``"""
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
    columns = size + window - 1
    return pad(gamma.flip(-1), (0, size)).flatten(-2)[..., : size * columns].unflatten(-1, (size, columns))


def shifted(x: torch.Tensor, dim: int, first: float) -> torch.Tensor:
    """x moved by one token along ``dim``, ``first`` in front: the value before a token instead of after it"""
    head = torch.full_like(x.narrow(dim, 0, 1), first)
    return torch.cat([head, x.narrow(dim, 0, x.shape[dim] - 1)], dim)
