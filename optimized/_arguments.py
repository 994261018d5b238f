"""What every family refuses in the same words."""

from __future__ import annotations

import torch


def require_count(value: object, name: str, least: int = 1) -> int:
    """``value``, an integer of at least ``least``; ValueError names it otherwise. Traced sizes count as integers."""
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)) or value < least:
        raise ValueError(f"{name} was {value!r}; it must be an integer of at least {least}.")
    return value  # type: ignore[return-value]
