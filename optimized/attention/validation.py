"""Argument validation of the attention family."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from trueness.optimized._lib.validation import is_number, require_count, require_floating


def require_grid(window: int, height: int, width: int) -> None:
    """Refuse a window that does not divide the grid: nothing is padded, nothing is shifted."""
    require_count(window, "window")
    if height % window or width % window:
        raise ValueError(f"window was {window} on a grid of {height} × {width}; it must divide both sides.")


def require_heads(num_heads: int, channels: int) -> None:
    require_count(num_heads, "num_heads")
    if channels % num_heads:
        raise ValueError(f"num_heads was {num_heads} for {channels} channels; it must divide them.")


def require_group(groups: int, channels: int) -> None:
    require_count(groups, "groups")
    if channels % groups:
        raise ValueError(f"groups was {groups} for {channels} channels; it must divide them.")


def require_shape(x: torch.Tensor, name: str, axes: str, ndim: int) -> None:
    require_floating(x, name)
    if x.ndim != ndim:
        raise ValueError(f"{name} had shape {tuple(x.shape)}; it must have the axes {axes}.")


def require_table(table: torch.Tensor, window: int) -> None:
    require_floating(table, "table")
    rows = (2 * window - 1) ** 2
    if table.ndim != 2 or table.shape[0] != rows:
        raise ValueError(f"table had shape {tuple(table.shape)}; it must be ((2w − 1)², heads) = ({rows}, heads).")


def require_like(x: torch.Tensor, **fields: tuple[torch.Tensor, Sequence[int]]) -> None:
    """Refuse a tensor whose shape is not the one given, or whose dtype or device is not that of ``x``."""
    for name, (tensor, shape) in fields.items():
        require_floating(tensor, name)
        if tuple(tensor.shape) != tuple(shape):
            raise ValueError(f"{name} had shape {tuple(tensor.shape)}; it must be {tuple(shape)}.")
        if tensor.dtype != x.dtype or tensor.device != x.device:
            raise ValueError(
                f"{name} was {tensor.dtype} on {tensor.device}; "
                f"it must be {x.dtype} on {x.device} like the first argument."
            )


def require_eps(eps: float) -> None:
    if not is_number(eps) or not 0 < eps < math.inf:
        raise ValueError(f"eps was {eps!r}; it must be a positive finite number.")


def require_weights(weights: object, kind: type) -> None:
    if not isinstance(weights, kind):
        raise ValueError(f"weights was {type(weights).__name__}; it must be {kind.__name__}.")
