"""How tensors lie in memory: spans that overlap, dense tensors as one axis, large pages."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence

import torch

HUGE = 1 << 21  # bytes of a large page
WORTH = 1 << 23  # bytes from which on a fresh result is asked to lie in large pages
MADV_HUGEPAGE = 14  # of Linux' madvise


def partially_overlaps(out: torch.Tensor, x: torch.Tensor) -> bool:
    """Whether two tensors share memory without being the same view of it."""
    same = out.data_ptr() == x.data_ptr() and out.stride() == x.stride()
    return not same and spans_overlap(out, x)


def spans_overlap(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether the spans of memory of two tensors have an address in common."""
    first, last = ((t.data_ptr(), t.data_ptr() + span_bytes(t)) for t in (a, b))
    return first[0] < last[1] and last[0] < first[1]


def span_bytes(tensor: torch.Tensor) -> int:
    """Bytes from the first element of a tensor to the end of its last."""
    if not tensor.numel():
        return 0
    return (sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) + 1) * tensor.element_size()


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


def to_dense(tensor: torch.Tensor, by_sample: bool = False) -> torch.Tensor:
    """``tensor``, copied where it has gaps or, with ``by_sample``, where its samples are interleaved."""
    source = tensor if dense(tensor) else tensor.contiguous()
    return source if not by_sample or outermost(source) else source.contiguous()


def in_order_of(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """``tensor``, copied where it does not lie in memory as the dense ``like`` does."""
    if dense(tensor) and tensor.stride() == like.stride():
        return tensor
    return torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)


def align_storage(
    tensors: Sequence[torch.Tensor], out: torch.Tensor | None, by_sample: bool = False
) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """(inputs, output, what to return): flat views in one storage order, and the output as the caller will see it.

    All are of one shape; with ``by_sample`` the first axis is the outermost in memory.
    """
    first = to_dense(tensors[0], by_sample)
    sources = [flat(first), *(flat(in_order_of(t, first)) for t in tensors[1:])]
    if out is not None and dense(out) and out.stride() == first.stride():
        return sources, flat(out), out
    result = in_large_pages(torch.empty_like(first))
    return sources, flat(result), result
