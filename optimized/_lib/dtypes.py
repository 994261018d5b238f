"""The working precision: float16 and bfloat16 are computed in float32 and rounded once."""

from __future__ import annotations

import torch

HALVES = (torch.float16, torch.bfloat16)


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which numbers of ``dtype`` are computed."""
    return torch.float32 if dtype in HALVES else dtype


def upcast(x: torch.Tensor) -> torch.Tensor:
    """Half formats in float32, the others as they are."""
    return x.to(compute_dtype(x.dtype))


def autocast_disabled(x: torch.Tensor) -> torch.autocast:
    """A context without autocast on the device of ``x``, so that float32 results stay float32."""
    return torch.autocast(x.device.type, enabled=False)
