"""Shared by elementwise operators: argument checks, flat views of dense tensors, large pages, tiles in the cache."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator, Sequence

import torch

from trueness.optimized._lib.dtypes import HALVES

TILE = 1 << 19  # elements: what one tile leaves is still in the last cache when it is read again, and calls are few


def require_floating(tensor: object, name: str) -> torch.Tensor:
    """``tensor``, or one sentence on why it is refused."""
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(f"{name} was {type(tensor).__name__}; it must be a torch.Tensor.")
    if not tensor.is_floating_point():
        raise ValueError(f"{name} had dtype {tensor.dtype}; it must be float64, float32, float16 or bfloat16.")
    return tensor


def require_out(out: torch.Tensor, like: torch.Tensor, *others: torch.Tensor) -> None:
    """Refuse an ``out`` that cannot take the result, or that lies across an input without being it."""
    if out.shape != like.shape or out.dtype != like.dtype or out.device != like.device:
        raise ValueError(
            f"out was {tuple(out.shape)} {out.dtype} on {out.device}; "
            f"it must be {tuple(like.shape)} {like.dtype} on {like.device}."
        )
    inputs = (like, *others)
    if out.requires_grad or (torch.is_grad_enabled() and any(x.requires_grad for x in inputs)):
        raise ValueError("out was given where a gradient is wanted; call under torch.no_grad() or leave out= away.")
    if not torch.compiler.is_compiling() and any(across(out, x) for x in inputs):
        raise ValueError("out was a part of an input's memory; it must be an input itself or memory of its own.")


def across(out: torch.Tensor, x: torch.Tensor) -> bool:
    """Whether two tensors share memory without being the same view of it."""
    same = out.data_ptr() == x.data_ptr() and out.stride() == x.stride()
    return not same and meet(out, x)


def meet(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether the spans of memory of two tensors have an address in common."""
    first, last = ((t.data_ptr(), t.data_ptr() + reach(t)) for t in (a, b))
    return first[0] < last[1] and last[0] < first[1]


def reach(tensor: torch.Tensor) -> int:
    """Bytes from the first element of a tensor to the end of its last."""
    if not tensor.numel():
        return 0
    return (sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) + 1) * tensor.element_size()


def nobody_watches(tensor: torch.Tensor) -> bool:
    """Whether values may be read and written in place: on the CPU, no gradient wanted, no transform or trace."""
    return (
        not torch.compiler.is_compiling()
        and type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.device.type == "cpu"
        and not (torch.is_grad_enabled() and tensor.requires_grad)
        and not torch._C._are_functorch_transforms_active()
        and torch.autograd.forward_ad._current_level < 0
    )


# -- memory -----------------------------------------------------------------------------------------------------------

HUGE = 1 << 21  # bytes of a large page
WORTH = 1 << 23  # bytes from which on a fresh result is asked to lie in large pages
MADV_HUGEPAGE = 14  # of Linux' madvise


def in_large_pages(fresh: torch.Tensor) -> torch.Tensor:
    """``fresh``, its untouched memory advised to lie in pages of 2 MiB instead of 4 KiB: a hint to Linux, no more.

    The first touch of a page costs more than the arithmetic of an elementwise operation: 48 MB are 12 288 small pages
    or 24 large ones. Only whole large pages inside the tensor's own memory are advised; no allocator is told anything,
    no other tensor is affected, and where the hint is not understood nothing happens.
    """
    size = fresh.numel() * fresh.element_size()
    if size < WORTH or fresh.device.type != "cpu" or sys.platform != "linux":
        return fresh
    first = -(-fresh.data_ptr() // HUGE) * HUGE
    length = (fresh.data_ptr() + size) // HUGE * HUGE - first
    if length > 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), MADV_HUGEPAGE)
    return fresh


def dense(tensor: torch.Tensor) -> bool:
    """Whether every element of the storage span is used exactly once, in any order."""
    return torch.ops.aten.is_non_overlapping_and_dense(tensor)  # type: ignore[no-any-return]


def outermost(tensor: torch.Tensor) -> bool:
    """Whether the samples of a dense tensor, its first axis, lie one after the other."""
    return tensor.numel() == 0 or tensor.shape[0] == 1 or tensor.stride(0) * tensor.shape[0] == tensor.numel()


def flat(tensor: torch.Tensor) -> torch.Tensor:
    """A dense tensor as one axis in storage order, without a copy."""
    return tensor.as_strided((tensor.numel(),), (1,))


def compact(tensor: torch.Tensor, by_sample: bool = False) -> torch.Tensor:
    """``tensor``, copied where it has gaps or, with ``by_sample``, where its samples are interleaved."""
    source = tensor if dense(tensor) else tensor.contiguous()
    return source if not by_sample or outermost(source) else source.contiguous()


def in_order_of(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """``tensor``, copied where it does not lie in memory as the dense ``like`` does."""
    if dense(tensor) and tensor.stride() == like.stride():
        return tensor
    return torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)


def lined_up(
    tensors: Sequence[torch.Tensor], out: torch.Tensor | None, by_sample: bool = False
) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """(inputs, output, what to return): flat views in one storage order, and the output as the caller will see it.

    All are of one shape; with ``by_sample`` the first axis is the outermost in memory.
    """
    first = compact(tensors[0], by_sample)
    sources = [flat(first), *(flat(in_order_of(t, first)) for t in tensors[1:])]
    if out is not None and dense(out) and out.stride() == first.stride():
        return sources, flat(out), out
    result = in_large_pages(torch.empty_like(first))
    return sources, flat(result), result


# -- tiles ------------------------------------------------------------------------------------------------------------


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
    sources, target, result = lined_up(tensors, out, by_sample)
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
            tiles = [wide[: stop - start].copy_(tile) for wide, tile in zip(scratch, tiles, strict=False)]
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
