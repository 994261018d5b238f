"""Shared argument validation: each helper raises ValueError with one sentence."""

from __future__ import annotations

import torch

from trueness.optimized._lib.memory import partially_overlaps

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


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
        raise ValueError("out was given where a gradient is wanted; call under torch.no_grad() or omit out=.")
    if not torch.compiler.is_compiling() and any(partially_overlaps(out, x) for x in inputs):
        raise ValueError("out was a part of an input's memory; it must be an input itself or memory of its own.")


def require_count(value: object, name: str, least: int = 1) -> int:
    """``value``, an integer of at least ``least``; ValueError names it otherwise. Traced sizes count as integers."""
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)) or value < least:
        raise ValueError(f"{name} was {value!r}; it must be an integer of at least {least}.")
    return value  # type: ignore[return-value]


def require_integer(value: object, name: str, least: int, most: int | None = None, why: str = "") -> int:
    """``value`` as an int in [least, most], or the sentence that refuses it."""
    allowed = f"at least {least}" if most is None else f"from {least} to {most}"
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        raise ValueError(f"{name} was {value!r}; it must be an integer {allowed}{why}.")
    return value


def require_tokens(tokens: object, name: str, ndim: int | None = None) -> torch.Tensor:
    """``tokens`` as a tensor of integers, or the sentence that refuses it."""
    if not isinstance(tokens, torch.Tensor):
        raise ValueError(f"{name} was {type(tokens).__name__}; it must be a torch.Tensor of integers.")
    if tokens.dtype not in INTEGERS:
        raise ValueError(f"{name} had dtype {tokens.dtype}; it must hold integers, such as int64.")
    if ndim is not None and tokens.ndim != ndim:
        raise ValueError(f"{name} had shape {tuple(tokens.shape)}; it must have {ndim} axis{'es'[: 2 * (ndim > 1)]}.")
    return tokens


def require_shape(tensor: torch.Tensor, name: str, shape: tuple[int, ...], why: str) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} had shape {tuple(tensor.shape)}; it must be {shape}, {why}.")


def require_range(tokens: torch.Tensor, name: str, below: int, what: str, also: int | None = None) -> None:
    """Refuse what lies outside [0, below) and is not ``also``; left to the kernel where looking would cost a wait."""
    if torch.compiler.is_compiling() or tokens.device.type != "cpu" or not tokens.numel():
        return
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return
    wrong = (tokens < 0) | (tokens >= below)
    if also is not None:
        wrong &= tokens != also
    if bool(wrong.any()):
        first = int(tokens[wrong][0])
        besides = "" if also is None else f", or {also}"
        raise ValueError(f"{name} held {first}; it must lie in 0 … {below - 1}{besides}: {what}.")
