"""Elementwise operations in chunks that fit the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from trueness.optimized._lib.dtypes import HALVES
from trueness.optimized._lib.memory import align_storage

CHUNK = 1 << 19  # elements of a chunk: small enough to stay in the last-level cache, large enough to hide call overhead


def iter_chunks(size: int, samples: int | None) -> Iterator[tuple[int, int, slice]]:
    """(start, stop, samples) of chunks of at most CHUNK elements, each of whole samples or inside one sample."""
    if samples is None:
        for start in range(0, size, CHUNK):
            stop = min(start + CHUNK, size)
            yield start, stop, slice(0, 1)
        return
    each = size // max(samples, 1)
    if each >= CHUNK:
        for k in range(samples):
            for start, stop, _ in iter_chunks(each, None):
                yield k * each + start, k * each + stop, slice(k, k + 1)
    elif each:
        count = CHUNK // each
        for k in range(0, samples, count):
            last = min(k + count, samples)
            yield k * each, last * each, slice(k, last)


def apply_in_chunks(
    body: Callable[..., None],
    tensors: Sequence[torch.Tensor],
    out: torch.Tensor | None = None,
    columns: Sequence[torch.Tensor] = (),
    saturate: bool = True,
    one_pass: bool = False,
) -> torch.Tensor:
    """``body(*inputs, output, *columns)`` chunk by chunk; half formats through float32, saturated and rounded once.

    columns   (B,) numbers of the samples, the first axis: a chunk of several samples receives them as (samples, 1)
    one_pass  the body reads and writes every element once, so that nothing is reused and one chunk is enough
    """
    by_sample = bool(columns)
    sources, target, result = align_storage(tensors, out, by_sample)
    half = target.dtype in HALVES
    size, samples = target.numel(), len(columns[0]) if by_sample else None
    if half:
        buffers = [torch.empty(min(size, CHUNK), dtype=torch.float32) for _ in range(len(sources) + 1)]
    largest = torch.finfo(target.dtype).max
    whole = one_pass and not half and not by_sample
    for start, stop, of in [(0, size, slice(0, 1))] if whole else iter_chunks(size, samples):
        destination = target[start:stop]
        inputs = [source[start:stop] for source in sources]
        if half:
            inputs = [buffer[: stop - start].copy_(x) for buffer, x in zip(buffers, inputs, strict=False)]
        y = buffers[-1][: stop - start] if half else destination
        if by_sample and of.stop - of.start > 1:
            rows = (of.stop - of.start, -1)
            body(*(x.view(rows) for x in inputs), y.view(rows), *(c[of, None] for c in columns))
        else:
            body(*inputs, y, *(c[of] for c in columns))
        if half:
            destination.copy_(y.clamp_(-largest, largest) if saturate else y)
    if out is not None and result is not out:
        return out.copy_(result)
    return result
