"""What the programs share: the format they compute in, tiles, and inputs that are cut."""

from __future__ import annotations

from collections.abc import Iterator

import torch

Tensor = torch.Tensor


def wide(x: Tensor) -> Tensor:
    """Half formats as float32; others as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def tiles(n: int, size: int) -> Iterator[slice]:
    """0 … n in tiles; the last may be shorter."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def full_tiles(n: int, size: int) -> int:
    """How many entries lie in full tiles; n where there is one tile only."""
    return n // size * size if n > size else n


def read_tile(x: Tensor, dim: int, at: slice, size: int, fault: str, repeated: str) -> Tensor:
    """The entries ``at`` of an axis; with the fault ``repeated`` a later full tile reads the one before it."""
    start = at.start - size if fault == repeated and at.start and at.stop - at.start == size else at.start
    return x.narrow(dim, start, at.stop - at.start)


def tf32(x: Tensor) -> Tensor:
    """float32 rounded to the 10 bits of mantissa that a TF32 tensor core reads; other formats as they are."""
    if x.dtype is not torch.float32:
        return x
    return ((x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def in_8_bits(n: int) -> int:
    """What is left of an index that is held in a signed byte."""
    return (n + 128) % 256 - 128


def as_stored(x: Tensor) -> Tensor:
    """What a kernel reads that takes elements in storage order, whatever the strides are."""
    store = torch.empty(0, dtype=x.dtype).set_(x.untyped_storage())
    at = (torch.arange(x.numel()) + int(x.storage_offset())).clamp(max=store.numel() - 1)
    return store[at].reshape(x.shape)


def overwrite(target: Tensor, values: Tensor) -> None:
    """Write behind autograd's back, as a kernel does."""
    target.data.copy_(values)
