"""Memory layout: overlapping spans, dense tensors as one axis, large pages."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence

import torch

HUGE = 1 << 21  # bytes of a large page
MIN_BYTES = 1 << 23  # results smaller than this are not advised
MADV_HUGEPAGE = 14  # advice of Linux' madvise


def partially_overlaps(out: torch.Tensor, x: torch.Tensor) -> bool:
    """Whether two tensors share memory without being the same view of it."""
    same = out.data_ptr() == x.data_ptr() and out.stride() == x.stride()
    return not same and spans_overlap(out, x)


def spans_overlap(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether the memory spans of two tensors share an address."""
    first, last = ((t.data_ptr(), t.data_ptr() + span_bytes(t)) for t in (a, b))
    return first[0] < last[1] and last[0] < first[1]


def span_bytes(tensor: torch.Tensor) -> int:
    """Bytes from the first element of a tensor to the end of its last element."""
    if not tensor.numel():
        return 0
    return (sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) + 1) * tensor.element_size()


def in_large_pages(fresh: torch.Tensor) -> torch.Tensor:
    """``fresh``, after advising Linux to back its uninitialized memory with pages of 2 MiB instead of 4 KiB.

    The first touch of a page costs more than the arithmetic of an elementwise operation: 48 MB are 12 288 small pages
    or 24 large ones. Only whole large pages inside the tensor's own memory are advised; allocators and other tensors
    are not affected, and systems that do not know the advice ignore it.
    """
    size = fresh.numel() * fresh.element_size()
    if size < MIN_BYTES or fresh.device.type != "cpu" or sys.platform != "linux":
        return fresh
    first = -(-fresh.data_ptr() // HUGE) * HUGE
    length = (fresh.data_ptr() + size) // HUGE * HUGE - first
    if length > 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), MADV_HUGEPAGE)
    return fresh


def is_dense(tensor: torch.Tensor) -> bool:
    """Whether the elements fill their storage span without gaps or repetition, in any order of the axes."""
    return torch.ops.aten.is_non_overlapping_and_dense(tensor)  # type: ignore[no-any-return]


def samples_outermost(tensor: torch.Tensor) -> bool:
    """Whether the first axis (the samples) of a dense tensor is the outermost one in memory."""
    return tensor.numel() == 0 or tensor.shape[0] == 1 or tensor.stride(0) * tensor.shape[0] == tensor.numel()


def flat_view(tensor: torch.Tensor) -> torch.Tensor:
    """A dense tensor as one axis in storage order, without a copy."""
    return tensor.as_strided((tensor.numel(),), (1,))


def to_dense(tensor: torch.Tensor, by_sample: bool = False) -> torch.Tensor:
    """``tensor``, copied if it is not dense or, with ``by_sample``, if its samples are interleaved."""
    source = tensor if is_dense(tensor) else tensor.contiguous()
    return source if not by_sample or samples_outermost(source) else source.contiguous()


def match_layout(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """``tensor``, copied if its layout differs from that of the dense tensor ``like``."""
    if is_dense(tensor) and tensor.stride() == like.stride():
        return tensor
    return torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)


def align_storage(
    tensors: Sequence[torch.Tensor], out: torch.Tensor | None, by_sample: bool = False
) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """(flat inputs, flat output, result): views in one common storage order; the result has the shape of the inputs.

    All tensors have one shape; with ``by_sample`` the first axis is the outermost one in memory. The result is ``out``
    where its layout allows, otherwise a new tensor that the caller copies.
    """
    first = to_dense(tensors[0], by_sample)
    sources = [flat_view(first), *(flat_view(match_layout(t, first)) for t in tensors[1:])]
    if out is not None and is_dense(out) and out.stride() == first.stride():
        return sources, flat_view(out), out
    result = in_large_pages(torch.empty_like(first))
    return sources, flat_view(result), result
