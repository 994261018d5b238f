"""Views of a few planes (H, W) of images (..., H, W) at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch


def iter_planes(count: int, *tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Views (p, H, W) with p ≤ ``count`` of tensors of one shape (..., H, W); nothing of an empty tensor."""
    x = tensors[0]
    if 0 in x.shape:
        return
    if x.ndim == 2:
        yield tuple(t[None] for t in tensors)
        return
    if x.ndim > 3:
        try:
            tensors = tuple(t.view(-1, *x.shape[-2:]) for t in tensors)
        except RuntimeError:  # the planes are interleaved in memory
            for k in range(len(x)):
                yield from iter_planes(count, *(t[k] for t in tensors))
            return
    for k in range(0, len(tensors[0]), count):
        yield tuple(t[k : k + count] for t in tensors)
