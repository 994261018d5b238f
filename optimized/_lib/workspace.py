"""Memory that the pieces of one call use one after the other: what is freed between them is cleared again and again."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


class Workspace:
    """Memory by name, used again by every piece; of the largest that was asked for so far."""

    def __init__(self, like: torch.Tensor) -> None:
        self.like, self.held = like, dict[str, torch.Tensor]()

    def __call__(self, name: str, shape: Sequence[int], dtype: torch.dtype | None = None) -> torch.Tensor:
        """Contiguous and not initialized; ``dtype`` is that of the tensor the room was made for if not given."""
        size, place = math.prod(shape), self.held.get(name)
        dtype = dtype or self.like.dtype
        if place is None or place.numel() < size or place.dtype != dtype:
            place = self.held[name] = self.like.new_empty(size, dtype=dtype)
        return place[:size].view(shape)

    def copy(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """The elements of x, contiguous."""
        return self(name, x.shape, x.dtype).copy_(x)

    def product(self, name: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """x y of batches of matrices (…, n, m) and (…, m, l)"""
        out = self(name, (*x.shape[:-1], y.shape[-1]), x.dtype)
        torch.bmm(x.flatten(0, -3), y.flatten(0, -3), out=out.flatten(0, -3))
        return out
