"""Buffers reused between the steps of one call: newly allocated memory would be cleared by the system each time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


class Workspace:
    """Buffers by name; a buffer grows to the largest size requested so far and is reused by later requests."""

    def __init__(self, like: torch.Tensor) -> None:
        self.like, self.buffers = like, dict[str, torch.Tensor]()

    def __call__(self, name: str, shape: Sequence[int], dtype: torch.dtype | None = None) -> torch.Tensor:
        """A contiguous, uninitialized tensor; ``dtype`` defaults to that of ``like``."""
        size, buffer = math.prod(shape), self.buffers.get(name)
        dtype = dtype or self.like.dtype
        if buffer is None or buffer.numel() < size or buffer.dtype != dtype:
            buffer = self.buffers[name] = self.like.new_empty(size, dtype=dtype)
        return buffer[:size].view(shape)

    def copy(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """The elements of x, contiguous."""
        return self(name, x.shape, x.dtype).copy_(x)

    def product(self, name: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """x y of batches of matrices (…, n, m) and (…, m, l)"""
        out = self(name, (*x.shape[:-1], y.shape[-1]), x.dtype)
        torch.bmm(x.flatten(0, -3), y.flatten(0, -3), out=out.flatten(0, -3))
        return out
