"""Validation of schedules, decays, numbers and states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trueness.optimized._lib.validation import is_number, require_count


def require_schedule(warmup_steps: int, total_steps: int, min_lr_ratio: float) -> None:
    """0 ≤ warmup_steps < total_steps, min_lr_ratio in [0, 1]."""
    require_count(warmup_steps, "warmup_steps", 0)
    require_count(total_steps, "total_steps", 1)
    if warmup_steps >= total_steps:
        raise ValueError(f"warmup_steps was {warmup_steps}; it must be less than total_steps, {total_steps}.")
    if not is_number(min_lr_ratio) or not 0 <= min_lr_ratio <= 1:
        raise ValueError(f"min_lr_ratio was {min_lr_ratio!r}; it must be a number in [0, 1].")


def require_decay(decay: float) -> None:
    """A number in [0, 1)."""
    if not is_number(decay) or not 0 <= decay < 1:
        raise ValueError(f"decay was {decay!r}; it must be a number in [0, 1).")


def require_keys(state: Mapping[str, Any], keys: tuple[str, ...], name: str) -> None:
    """A mapping with exactly these keys."""
    if not isinstance(state, Mapping) or set(state) != set(keys):
        found = ", ".join(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
        raise ValueError(f"the state of {name} had {found or 'nothing'}; it must have {', '.join(keys)}.")
