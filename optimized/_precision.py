"""The working precision: float16 and bfloat16 are computed in float32 and rounded once."""

from __future__ import annotations

import torch

HALVES = (torch.float16, torch.bfloat16)


def wide(x: torch.Tensor) -> torch.Tensor:
    """Half formats in float32, the others as they are."""
    return x.float() if x.dtype in HALVES else x


def exact(x: torch.Tensor) -> torch.autocast:
    """No autocast inside: what is computed in float32 stays in float32."""
    return torch.autocast(x.device.type, enabled=False)
