"""Shared argument validation: each helper returns its argument or raises ValueError, "X was Y; it must be Z."."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from trueness.optimized._lib.memory import partially_overlaps

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def require_floating(tensor: object, name: str) -> torch.Tensor:
    """A tensor of a floating dtype."""
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(f"{name} was {type(tensor).__name__}; it must be a torch.Tensor.")
    if not tensor.is_floating_point():
        raise ValueError(f"{name} had dtype {tensor.dtype}; it must be float64, float32, float16 or bfloat16.")
    return tensor


def require_out(out: torch.Tensor, like: torch.Tensor, *others: torch.Tensor) -> None:
    """An ``out`` like ``like`` that needs no gradient and overlaps no input without being that input."""
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


def is_integer(value: object) -> bool:
    """Whether ``value`` is an int and no bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether ``value`` is an int or float and no bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def require_count(value: object, name: str, least: int = 1) -> int:
    """An integer of at least ``least``; sizes traced by torch.compile count as integers."""
    if not (is_integer(value) or isinstance(value, torch.SymInt)) or value < least:  # type: ignore[operator]
        raise ValueError(f"{name} was {value!r}; it must be an integer of at least {least}.")
    return value  # type: ignore[return-value]


def require_integer(value: object, name: str, least: int | None = None, most: int | None = None, why: str = "") -> int:
    """An integer in [least, most], without a limit where it is None; ``why`` ends the sentence."""
    low, high = -math.inf if least is None else least, math.inf if most is None else most
    if not is_integer(value) or not low <= value <= high:  # type: ignore[operator]
        limits = "" if least is None else f" at least {least}" if most is None else f" from {least} to {most}"
        raise ValueError(f"{name} was {value!r}; it must be an integer{limits}{why}.")
    return value  # type: ignore[return-value]


def require_number(
    value: object,
    name: str,
    allowed: str,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    below: float = math.inf,
    most: float = math.inf,
) -> float:
    """A number with above < value < below and least ≤ value ≤ most, which excludes NaN and, by default, ±inf."""
    if not (is_number(value) and above < value < below and least <= value <= most):  # type: ignore[operator]
        raise ValueError(f"{name} was {value!r}; it must be {allowed}.")
    return value  # type: ignore[return-value]


def require_positive(value: object, name: str, allowed: str = "a finite number above 0") -> float:
    """A number in (0, ∞)."""
    return require_number(value, name, allowed, above=0)


def require_not_negative(value: object, name: str, allowed: str = "a finite number of at least 0") -> float:
    """A number in [0, ∞)."""
    return require_number(value, name, allowed, least=0)


def require_flag(value: object, name: str) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} was {value!r}; it must be True or False.")
    return value


def require_choice(value: object, name: str, choices: Sequence[str]) -> str:
    """One of the strings ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} was {value!r}; allowed are {', '.join(choices)}.")
    return value  # type: ignore[return-value]


def require_tokens(tokens: object, name: str, ndim: int | None = None) -> torch.Tensor:
    """A tensor of integers, with ``ndim`` axes where that is given."""
    if not isinstance(tokens, torch.Tensor):
        raise ValueError(f"{name} was {type(tokens).__name__}; it must be a torch.Tensor of integers.")
    if tokens.dtype not in INTEGERS:
        raise ValueError(f"{name} had dtype {tokens.dtype}; it must hold integers, such as int64.")
    if ndim is not None and tokens.ndim != ndim:
        raise ValueError(f"{name} had shape {tuple(tokens.shape)}; it must have {ndim} axis{'es'[: 2 * (ndim > 1)]}.")
    return tokens


def require_shape(tensor: torch.Tensor, name: str, shape: tuple[int, ...], why: str) -> None:
    """A tensor of the shape ``shape``."""
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} had shape {tuple(tensor.shape)}; it must be {shape}, {why}.")


def require_range(tokens: torch.Tensor, name: str, below: int, what: str, also: int | None = None) -> None:
    """Values in [0, below) or equal to ``also``; not checked on CUDA, where reading values would synchronize."""
    if torch.compiler.is_compiling() or tokens.device.type != "cpu" or not tokens.numel():
        return
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return
    wrong = (tokens < 0) | (tokens >= below)
    if also is not None:
        wrong &= tokens != also
    if bool(wrong.any()):
        first = int(tokens[wrong][0])
        alternative = "" if also is None else f", or {also}"
        raise ValueError(f"{name} held {first}; it must lie in 0 … {below - 1}{alternative}: {what}.")
