"""The learning rate: a linear warm-up, then half a cosine.

lr_k = base_lr · f(k)        (Goyal et al. 2017 §2.2; Loshchilov & Hutter 2017, 1608.03983, eq. 5)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from trueness.optimized._lib.validation import require_count
from trueness.optimized.training.validation import require_keys, require_schedule

__all__ = ["WarmupCosine"]


class WarmupCosine:
    """lr_k = base_lr · f(k): linear from 0 over the warm-up, then half a cosine down to ``min_lr_ratio``.

    f(k) = k/W for k < W, then f_∞ + (1 − f_∞)(1 + cos(π (k − W)/(T − W)))/2, and f_∞ from T on.
    ``before_step`` sets the learning rate of the update that follows. If it were set after the update, the first update
    would run at the full rate, the second at 0, and the peak would never be reached.

    optimizer                its param groups' learning rates at construction are the base rates
    warmup_steps  W    int   updates of the warm-up, ≥ 0, less than total_steps
    total_steps   T    int   updates in all
    min_lr_ratio  f_∞        share of the base rate at the end, in [0, 1]
    raises        ValueError for anything else

    base_lrs                 the base rate of every param group
    step                     updates counted so far
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, warmup_steps: int, total_steps: int, min_lr_ratio: float = 0.0
    ) -> None:
        require_schedule(warmup_steps, total_steps, min_lr_ratio)
        self.optimizer, self.warmup_steps, self.total_steps = optimizer, warmup_steps, total_steps
        self.min_lr_ratio = min_lr_ratio
        self.base_lrs = [float(group["lr"]) for group in optimizer.param_groups]
        self.step = 0

    def factor(self, step: int) -> float:
        """f(step)"""
        if step < self.warmup_steps:
            return step / self.warmup_steps
        if step >= self.total_steps:
            return self.min_lr_ratio
        share = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        return self.min_lr_ratio + (1 - self.min_lr_ratio) * math.cos(math.pi / 2 * share) ** 2

    def before_step(self) -> list[float]:
        """Set the learning rate of the next update in every param group, count the update, and return the rates."""
        lrs = [base_lr * self.factor(self.step) for base_lr in self.base_lrs]
        for group, lr in zip(self.optimizer.param_groups, lrs, strict=True):
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr
        self.step += 1
        return lrs

    KEYS = ("step", "base_lrs", "warmup_steps", "total_steps", "min_lr_ratio")

    def state_dict(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in self.KEYS}

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise ValueError unless ``load_state_dict`` would take ``state``; changes nothing."""
        require_keys(state, self.KEYS, "WarmupCosine")
        require_count(state["step"], "step", 0)
        require_schedule(state["warmup_steps"], state["total_steps"], state["min_lr_ratio"])
        if len(state["base_lrs"]) != len(self.base_lrs):
            raise ValueError(
                f"the state of WarmupCosine had {len(state['base_lrs'])} base rates; "
                f"it must have {len(self.base_lrs)}, one per param group."
            )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.check_state(state)
        for key in self.KEYS:
            setattr(self, key, list(state[key]) if key == "base_lrs" else state[key])
