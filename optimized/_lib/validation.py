"""Shared argument validation: each helper raises ValueError with one sentence."""

from __future__ import annotations

import torch

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


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
