"""Argument validation that the modules of this family share: each helper raises ValueError with one sentence."""

from __future__ import annotations

import math

import torch

from trueness.optimized._lib.validation import INTEGERS, is_number, require_floating

Device = torch.device | str | None


def require_number(value: float, name: str, allowed: str, low: float, high: float) -> None:
    """A number in (low, high); ``allowed`` describes it in the message."""
    if not is_number(value) or not low < value < high:
        raise ValueError(f"{name} was {value!r}; it must be {allowed}.")


def require_offset(s: float) -> None:
    if not is_number(s) or not 0 <= s < math.inf:
        raise ValueError(f"s was {s!r}; it must be a finite number of at least 0.")


def require_table(table: torch.Tensor, name: str) -> None:
    if not isinstance(table, torch.Tensor):
        raise ValueError(f"{name} was {type(table).__name__}; it must be a torch.Tensor of shape (T,) in float64.")
    if table.dtype != torch.float64:
        raise ValueError(
            f"{name} had dtype {table.dtype}; it must be float64, because 1 − ᾱ loses digits in a shorter one."
        )
    if table.ndim != 1 or table.shape[0] < 1:
        raise ValueError(f"{name} had shape {tuple(table.shape)}; it must have shape (T,) with T of at least 1.")


def require_alike(x: torch.Tensor, name: str, other: torch.Tensor, other_name: str) -> None:
    require_floating(other, other_name)
    if other.shape != x.shape or other.dtype != x.dtype or other.device != x.device:
        raise ValueError(
            f"{other_name} was {tuple(other.shape)} {other.dtype} on {other.device}; "
            f"it must be like {name}, {tuple(x.shape)} {x.dtype} on {x.device}."
        )


def require_steps(t: torch.Tensor, x: torch.Tensor, name: str, table: torch.Tensor, table_name: str) -> None:
    """t (B,) of integers in [0, T). The range is checked on the CPU only, where it needs no synchronisation."""
    if not isinstance(t, torch.Tensor):
        raise ValueError(f"t was {type(t).__name__}; it must be a torch.Tensor of integers, one per sample.")
    if t.dtype not in INTEGERS:
        raise ValueError(f"t had dtype {t.dtype}; it must be an integer type.")
    if x.ndim < 1 or t.ndim != 1 or t.shape[0] != x.shape[0]:
        raise ValueError(
            f"t had shape {tuple(t.shape)}; it must be ({x.shape[0] if x.ndim else 'B'},), "
            f"the first axis of {name} {tuple(x.shape)}."
        )
    if t.device != x.device or table.device != x.device:
        raise ValueError(
            f"t was on {t.device} and {table_name} on {table.device}; both must be on {x.device}, where {name} is."
        )
    if not _readable(t):
        return
    low, high = int(t.min()), int(t.max())
    if low < 0 or high >= table.shape[0]:
        raise ValueError(
            f"t was between {low} and {high}; it must lie in [0, {table.shape[0]}), the length of {table_name}."
        )


def _readable(t: torch.Tensor) -> bool:
    """Whether the values of t can be read without waiting for a device: on the CPU, not traced or batched."""
    plain = t.is_cpu and type(t) is torch.Tensor and t.shape[0] > 0
    return plain and not torch.compiler.is_compiling() and not torch._C._functorch.is_functorch_wrapped_tensor(t)


def require_weights(c: torch.Tensor, name: str, x: torch.Tensor) -> None:
    """c (B,) in float64, one number per sample of x."""
    if not isinstance(c, torch.Tensor):
        raise ValueError(f"{name} was {type(c).__name__}; it must be a torch.Tensor in float64, one number per sample.")
    if c.dtype != torch.float64 or x.ndim < 1 or tuple(c.shape) != tuple(x.shape[:1]) or c.device != x.device:
        raise ValueError(
            f"{name} was {tuple(c.shape)} {c.dtype} on {c.device}; it must be "
            f"({x.shape[0] if x.ndim else 'B'},) torch.float64 on {x.device}, the first axis of x {tuple(x.shape)}."
        )


def require_previous(t_prev: torch.Tensor, t: torch.Tensor) -> None:
    """t_prev (B,) of integers in [−1, t); the range is checked on the CPU only."""
    if not isinstance(t_prev, torch.Tensor):
        raise ValueError(f"t_prev was {type(t_prev).__name__}; it must be a torch.Tensor of integers, one per sample.")
    if t_prev.dtype not in INTEGERS or not t_prev.dtype.is_signed:
        raise ValueError(f"t_prev had dtype {t_prev.dtype}; it must be a signed integer type, because −1 is the data.")
    if t_prev.shape != t.shape or t_prev.device != t.device:
        raise ValueError(
            f"t_prev was {tuple(t_prev.shape)} on {t_prev.device}; it must be like t, {tuple(t.shape)} on {t.device}."
        )
    if not _readable(t):
        return
    low, gap = int(t_prev.min()), int((t.long() - t_prev.long()).min())
    if low < -1 or gap < 1:
        raise ValueError(f"t_prev was as low as {low} and came within {gap} of t; it must lie in [−1, t).")


def require_share(value: float, name: str) -> None:
    """A number in [0, 1]."""
    if not is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"{name} was {value!r}; it must be a number in [0, 1].")


def clip_bound(clip: bool | float) -> float | None:
    """The number at which x̂_0 is clipped, or None for no clipping."""
    if isinstance(clip, bool):
        return 1.0 if clip else None
    require_number(clip, "clip", "False, True or a positive number", 0.0, math.inf)
    return clip


def require_rates(steps: float, beta_start: float, beta_end: float) -> None:
    for value, name in ((steps, "steps"), (beta_start, "beta_start"), (beta_end, "beta_end")):
        require_number(value, name, "a positive number", 0, math.inf)
