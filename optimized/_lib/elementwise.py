"""Elementwise operations in tiles that fit the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from trueness.optimized._lib.dtypes import HALVES
from trueness.optimized._lib.memory import align_storage

TILE = 1 << 19  # elements: what one tile leaves is still in the last cache when it is read again, and calls are few


def pieces(size: int, samples: int | None) -> Iterator[tuple[int, int, slice]]:
    """(start, stop, samples) of tiles of at most TILE elements, each of whole samples or inside of one."""
    if samples is None:
        for start in range(0, size, TILE):
            stop = min(start + TILE, size)
            yield start, stop, slice(0, 1)
        return
    each = size // max(samples, 1)
    if each >= TILE:
        for k in range(samples):
            for start, last, _ in pieces(each, None):
                yield k * each + start, k * each + last, slice(k, k + 1)
    elif each:
        together = TILE // each
        for k in range(0, samples, together):
            last = min(k + together, samples)
            yield k * each, last * each, slice(k, last)


def tiled(
    body: Callable[..., None],
    tensors: Sequence[torch.Tensor],
    out: torch.Tensor | None = None,
    columns: Sequence[torch.Tensor] = (),
    saturate: bool = True,
    one_pass: bool = False,
) -> torch.Tensor:
    """``body(*inputs, output, *columns)`` tile by tile; half formats through float32, saturated and rounded once.

    columns   (B,) numbers of the samples, the first axis: a tile of several samples sees them as (samples, 1)
    one_pass  the body reads and writes everything once: with nothing to be found in the cache again, one tile is all
    """
    by_sample = bool(columns)
    sources, target, result = align_storage(tensors, out, by_sample)
    half = target.dtype in HALVES
    size, samples = target.numel(), len(columns[0]) if by_sample else None
    if half:
        scratch = [torch.empty(min(size, TILE), dtype=torch.float32) for _ in range(len(sources) + 1)]
    largest = torch.finfo(target.dtype).max
    whole = one_pass and not half and not by_sample
    for start, stop, of in [(0, size, slice(0, 1))] if whole else pieces(size, samples):
        place = target[start:stop]
        tiles = [source[start:stop] for source in sources]
        if half:
            tiles = [upcast[: stop - start].copy_(tile) for upcast, tile in zip(scratch, tiles, strict=False)]
        o = scratch[-1][: stop - start] if half else place
        if by_sample and of.stop - of.start > 1:
            rows = (of.stop - of.start, -1)
            body(*(t.view(rows) for t in tiles), o.view(rows), *(c[of, None] for c in columns))
        else:
            body(*tiles, o, *(c[of] for c in columns))
        if half:
            place.copy_(o.clamp_(-largest, largest) if saturate else o)
    if out is not None and result is not out:
        return out.copy_(result)
    return result
