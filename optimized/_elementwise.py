"""Shared by elementwise operators: argument checks, flat views of dense tensors, tiles that stay in the cache."""

from __future__ import annotations

from collections.abc import Callable

import torch

TILE = 1 << 17  # elements: float32 input, output and scratch of one tile fit a 2 MiB L2


def require_floating(tensor: object, name: str) -> torch.Tensor:
    """``tensor``, or one sentence on why it is refused."""
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(f"{name} was {type(tensor).__name__}; it must be a torch.Tensor.")
    if not tensor.is_floating_point():
        raise ValueError(f"{name} had dtype {tensor.dtype}; it must be float64, float32, float16 or bfloat16.")
    return tensor


def require_out(out: torch.Tensor, like: torch.Tensor) -> None:
    """Refuse an ``out`` that cannot take the result."""
    if out.shape != like.shape or out.dtype != like.dtype or out.device != like.device:
        raise ValueError(
            f"out was {tuple(out.shape)} {out.dtype} on {out.device}; "
            f"it must be {tuple(like.shape)} {like.dtype} on {like.device}."
        )
    if out.requires_grad or (torch.is_grad_enabled() and like.requires_grad):
        raise ValueError("out was given where a gradient is wanted; call under torch.no_grad() or leave out= away.")


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


def dense(tensor: torch.Tensor) -> bool:
    """Whether every element of the storage span is used exactly once, in any order."""
    return torch.ops.aten.is_non_overlapping_and_dense(tensor)  # type: ignore[no-any-return]


def flat(tensor: torch.Tensor) -> torch.Tensor:
    """A dense tensor as one axis in storage order, without a copy."""
    return tensor.as_strided((tensor.numel(),), (1,))


def aligned(tensor: torch.Tensor, out: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(input, output, what to return): flat views in one storage order, and the output as the caller will see it."""
    if out is not None:
        result = out
        if dense(out) and dense(tensor) and tensor.stride() == out.stride():
            return flat(tensor), flat(out), result
        fresh = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
        return flat(tensor.contiguous()), flat(fresh), fresh
    source = tensor if dense(tensor) else tensor.contiguous()
    result = torch.empty_like(source)
    return flat(source), flat(result), result


def tiled(body: Callable[..., None], score: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """``body(score32, out32)`` tile by tile; half formats through float32 scratch, saturated and rounded once."""
    source, target, result = aligned(score, out)
    half = score.dtype in (torch.float16, torch.bfloat16)
    size = source.numel()
    if half:
        wide = torch.empty(min(size, TILE), dtype=torch.float32, device=score.device)
        scratch = torch.empty_like(wide)
    for start in range(0, size, TILE):
        stop = min(start + TILE, size)
        if half:
            s, o = wide[: stop - start], scratch[: stop - start]
            s.copy_(source[start:stop])
            body(s, o)
            largest = torch.finfo(score.dtype).max
            target[start:stop].copy_(o.clamp_(-largest, largest))
        else:
            body(source[start:stop], target[start:stop])
    if out is not None and result is not out:
        out.copy_(result)
        return out
    return result
