"""Gradient accumulation: one optimiser step per window of micro-batches.

    g = Σ_j n_j g_j / Σ_j n_j  →  g · min(1, c/(‖g‖ + 10⁻⁶))  →  lr = base_lr · f(k)  →  optimiser step  →  average

in this order, once per optimiser step. Goyal et al. 2017 (1706.02677) §3 for the weighting; Pascanu, Mikolov & Bengio
2013 for clipping.

    accumulator = GradientAccumulator(optimizer, window=4, max_norm=1.0, schedule=WarmupCosine(...), ema=EMA(...))
    for x, y in loader:
        accumulator.backward(loss(model(x), y), samples=len(x))
    accumulator.flush()                                   # the last window, when it is short
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch

from trueness.optimized._lib.validation import require_count
from trueness.optimized.training.ema import EMA
from trueness.optimized.training.norms import clip_factor, global_norm, require_max_norm
from trueness.optimized.training.schedule import WarmupCosine
from trueness.optimized.training.validation import require_keys

__all__ = ["GradientAccumulator"]


class GradientAccumulator:
    """One optimiser step per window of micro-batches, with the gradient of all of their samples.

    g = Σ_j n_j g_j / Σ_j n_j over the window's k ≤ ``window`` micro-batches, clipped after the division. ``flush``
    steps with what a short last window holds, so that N micro-batches make ⌈N/window⌉ steps and none is dropped.

    optimizer        its parameters are clipped and stepped
    window    A      micro-batches per optimiser step, ≥ 1
    max_norm  c      largest global norm of the averaged gradient, or None for no clipping
    schedule         ``before_step`` is called before every update (``WarmupCosine``)
    ema              ``update`` is called after every update (``EMA``)
    scaler           torch.amp.GradScaler: gradients are unscaled before the division and the clipping
    non_finite       of a gradient norm that is NaN or infinite, without a scaler and with ``max_norm``:
                     "raise" FloatingPointError, or "skip" the update; the weights do not change either way
    on_step          called with the number of optimiser steps after each of them
    raises           ValueError for anything else

    steps            optimiser steps taken
    skipped          windows whose update did not take place (overflow under a scaler, "skip")
    micro_batches    backward calls so far
    norm             ‖g‖ of the last window before clipping, or None
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        window: int,
        *,
        max_norm: float | None = None,
        schedule: WarmupCosine | None = None,
        ema: EMA | None = None,
        scaler: Any = None,
        non_finite: Literal["raise", "skip"] = "raise",
        on_step: Callable[[int], object] | None = None,
    ) -> None:
        self.window = require_count(window, "window", 1)
        if max_norm is not None:
            require_max_norm(max_norm)
        if non_finite not in ("raise", "skip"):
            raise ValueError(f"non_finite was {non_finite!r}; it must be 'raise' or 'skip'.")
        self.optimizer, self.max_norm, self.schedule, self.ema = optimizer, max_norm, schedule, ema
        self.scaler, self.non_finite, self.on_step = scaler, non_finite, on_step
        self.steps = self.skipped = self.micro_batches = self.pending = 0
        self.norm: float | None = None
        self._first = self._samples = 0

    def backward(self, loss: torch.Tensor, samples: int = 1) -> bool:
        """Add the gradient of ``loss``, the mean over ``samples`` samples; True if this completed a window.

        raises  ValueError if the loss is not one number or samples < 1
        """
        require_count(samples, "samples", 1)
        if loss.numel() != 1:
            raise ValueError(f"loss had shape {tuple(loss.shape)}; it must be one number, the mean over its samples.")
        if not self.pending:
            self._first, self._samples = samples, 0
            self.optimizer.zero_grad(set_to_none=True)
        weighted = loss if samples == self._first else loss * (samples / self._first)
        (self.scaler.scale(weighted) if self.scaler is not None else weighted).backward()
        self._samples += samples
        self.pending += 1
        self.micro_batches += 1
        if self.pending < self.window:
            return False
        self._update()
        return True

    def flush(self) -> bool:
        """Step with the micro-batches of an unfinished window; False if there were none."""
        if not self.pending:
            return False
        self._update()
        return True

    def discard(self) -> None:
        """Drop the micro-batches of an unfinished window."""
        self.micro_batches -= self.pending
        self.pending = 0
        self.optimizer.zero_grad(set_to_none=True)

    def _gradients(self) -> list[torch.Tensor]:
        return [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]

    @torch.no_grad()
    def _update(self) -> None:
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        gradients = self._gradients()
        weight = self._samples / self._first
        if weight != 1:
            for g in gradients:
                g.div_(weight)
        ready = True
        if self.max_norm is not None:
            self.norm = float(global_norm(gradients))
            if self.scaler is None and not math.isfinite(self.norm):
                ready = self._refuse_non_finite()
            factor = clip_factor(self.norm, self.max_norm)
            if factor < 1:
                for g in gradients:
                    g.mul_(factor)
        stepped = ready and self._step()
        self.pending = 0
        self.optimizer.zero_grad(set_to_none=True)
        if not stepped:
            self.skipped += 1
            return
        self.steps += 1
        if self.ema is not None:
            self.ema.update()
        if self.on_step is not None:
            self.on_step(self.steps)

    def _refuse_non_finite(self) -> bool:
        if self.non_finite == "skip":
            return False
        self.pending = 0
        self.optimizer.zero_grad(set_to_none=True)
        raise FloatingPointError(f"the norm of the gradient was {self.norm}; the weights were left as they were.")

    def _step(self) -> bool:
        """Set the learning rate and step; False if the scaler found an overflow and skipped the step."""
        before = self.schedule.state_dict() if self.schedule is not None else None
        if self.schedule is not None:
            self.schedule.before_step()
        if self.scaler is None:
            self.optimizer.step()
            return True
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scaler.get_scale() >= scale:
            return True
        if self.schedule is not None and before is not None:
            self.schedule.load_state_dict(before)
        return False

    COUNTS = ("steps", "skipped", "micro_batches")

    def state_dict(self) -> dict[str, int]:
        """The counts. Gradients of an unfinished window are not saved: save between windows.

        raises  RuntimeError inside of a window
        """
        if self.pending:
            raise RuntimeError(f"{self.pending} micro-batches were not stepped yet; call flush() before saving.")
        return {key: getattr(self, key) for key in self.COUNTS}

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise ValueError unless ``load_state_dict`` would take ``state``; changes nothing."""
        require_keys(state, self.COUNTS, "GradientAccumulator")
        for key in self.COUNTS:
            require_count(state[key], key, 0)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.check_state(state)
        self.discard()
        for key in self.COUNTS:
            setattr(self, key, state[key])
