"""What a training loop keeps between steps: accumulated gradients, the learning rate, the average of the weights.

    g = Σ_j n_j g_j / Σ_j n_j  →  g · min(1, c/(‖g‖ + 10⁻⁶))  →  lr = base · f(k)  →  optimiser step  →  average

in this order, once per optimiser step. Goyal et al. 2017 (1706.02677) §3 for the weighting; Pascanu, Mikolov & Bengio
2013 for clipping; Loshchilov & Hutter 2017 (1608.03983) eq. 5 for the cosine; Polyak & Juditsky 1992 for the average.

    accumulator = GradientAccumulator(optimizer, window=4, max_norm=1.0, schedule=WarmupCosine(...), ema=EMA(...))
    for x, y in loader:
        accumulator.backward(loss(model(x), y), samples=len(x))
    accumulator.flush()                                   # the last window, when it is short
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch

from trueness.optimized._lib.dtypes import upcast
from trueness.optimized._lib.validation import require_count
from trueness.optimized.training.norms import clip_factor, global_norm, require_max_norm


def require_schedule(warmup: int, total: int, floor: float) -> None:
    require_count(warmup, "warmup", 0)
    require_count(total, "total", 1)
    if warmup >= total:
        raise ValueError(f"warmup was {warmup}; it must be less than total, {total}.")
    if isinstance(floor, bool) or not isinstance(floor, (int, float)) or not 0 <= floor <= 1:
        raise ValueError(f"floor was {floor!r}; it must be a number in [0, 1].")


def require_decay(decay: float) -> None:
    if isinstance(decay, bool) or not isinstance(decay, (int, float)) or not 0 <= decay < 1:
        raise ValueError(f"decay was {decay!r}; it must be a number in [0, 1).")


def require_keys(state: Mapping[str, Any], keys: tuple[str, ...], name: str) -> None:
    """Refuse a state that has not just these keys."""
    if not isinstance(state, Mapping) or set(state) != set(keys):
        found = ", ".join(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
        raise ValueError(f"the state of {name} had {found or 'nothing'}; it must have {', '.join(keys)}.")


# -- learning rate ----------------------------------------------------------------------------------------------------


class WarmupCosine:
    """lr_k = base · f(k): linear from 0 over ``warmup`` updates, then half a cosine down to ``floor`` at ``total``.

    f(k) = k/W for k < W, then floor + (1 − floor)(1 + cos(π (k − W)/(T − W)))/2, and floor from T on.
    ``before_step`` sets the rate of the update that follows. Set after the update it would be one late: the first
    update at the full rate, the second at 0, and the peak never reached.

    optimizer         its param groups' rates at this moment are the base rates
    warmup    W  int  updates of the warm-up, ≥ 0, less than total
    total     T  int  updates in all
    floor             share of the base rate at the end, in [0, 1]
    raises    ValueError for anything else
    """

    def __init__(self, optimizer: torch.optim.Optimizer, warmup: int, total: int, floor: float = 0.0) -> None:
        require_schedule(warmup, total, floor)
        self.optimizer, self.warmup, self.total, self.floor = optimizer, warmup, total, floor
        self.base = [float(group["lr"]) for group in optimizer.param_groups]
        self.step = 0

    def factor(self, step: int) -> float:
        """f(step)"""
        if step < self.warmup:
            return step / self.warmup
        if step >= self.total:
            return self.floor
        share = (step - self.warmup) / (self.total - self.warmup)
        return self.floor + (1 - self.floor) * math.cos(math.pi / 2 * share) ** 2

    def before_step(self) -> list[float]:
        """Set the rate of the next update in every param group, count it, and return the rates."""
        rates = [base * self.factor(self.step) for base in self.base]
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        self.step += 1
        return rates

    KEYS = ("step", "base", "warmup", "total", "floor")

    def state_dict(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in self.KEYS}

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise ValueError unless ``load_state_dict`` would take ``state``; changes nothing."""
        require_keys(state, self.KEYS, "WarmupCosine")
        require_count(state["step"], "step", 0)
        require_schedule(state["warmup"], state["total"], state["floor"])
        if len(state["base"]) != len(self.base):
            raise ValueError(
                f"the state of WarmupCosine had {len(state['base'])} base rates; "
                f"it must have {len(self.base)}, one per param group."
            )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.check_state(state)
        for key in self.KEYS:
            setattr(self, key, list(state[key]) if key == "base" else state[key])


# -- average of the weights -------------------------------------------------------------------------------------------


class EMA:
    """a ← a + (1 − d)(x − a), once per optimiser step: the exponential moving average of a module's weights.

    It is kept in float32 at least: in bfloat16, a step of 10⁻⁴ of the difference is lost to rounding. Buffers (running
    means) and parameters that are not floating are copied as they are.

    module        what is averaged
    decay   d     in [0, 1); averages over about 1/(1 − d) steps
    raises  ValueError for a decay outside of [0, 1)
    """

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        require_decay(decay)
        self.module, self.decay, self.updates = module, decay, 0
        self.average = {name: upcast(x).clone() for name, x in self._named()}
        self.swapped = False

    def _named(self) -> Iterator[tuple[str, torch.Tensor]]:
        """What is in the module's state: parameters (each once) and persistent buffers."""
        persistent = self.module.state_dict(keep_vars=True)
        for name, x in (*self.module.named_parameters(), *self.module.named_buffers()):
            if name in persistent:
                yield name, x.detach()

    @torch.no_grad()
    def update(self) -> None:
        """Take the module's weights of this optimiser step into the average."""
        if self.swapped:
            raise RuntimeError("EMA.update was called inside of averaged(); leave the block first.")
        parameters = {name for name, _ in self.module.named_parameters()}
        for name, x in self._named():
            if name in parameters and x.is_floating_point():
                self.average[name].lerp_(upcast(x), 1 - self.decay)
            else:
                self.average[name].copy_(x)
        self.updates += 1

    @contextmanager
    def averaged(self) -> Iterator[torch.nn.Module]:
        """The module with the average for weights; on leaving, its own weights bit for bit, also after an error."""
        if self.swapped:
            raise RuntimeError("EMA.averaged was entered twice; the weights are the average already.")
        own = {name: x.clone() for name, x in self._named()}
        self.swapped = True
        try:
            self._put(self.average)
            yield self.module
        finally:
            self._put(own)
            self.swapped = False

    @torch.no_grad()
    def _put(self, values: Mapping[str, torch.Tensor]) -> None:
        for name, x in self._named():
            x.copy_(values[name])

    def weights(self) -> dict[str, torch.Tensor]:
        """The average under every name of the module's state dict, in its dtypes: what to save for inference."""
        addresses = {id(x): name for name, x in (*self.module.named_parameters(), *self.module.named_buffers())}
        found = {}
        for name, x in self.module.state_dict(keep_vars=True).items():
            known = isinstance(x, torch.Tensor) and id(x) in addresses
            found[name] = self.average[addresses[id(x)]].to(x.dtype, copy=True) if known else x
        return found

    def state_dict(self) -> dict[str, Any]:
        return {"decay": self.decay, "updates": self.updates, "average": dict(self.average)}

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise ValueError unless ``load_state_dict`` would take ``state``; changes nothing."""
        from trueness.optimized.training.checkpoints import differences

        require_keys(state, ("decay", "updates", "average"), "EMA")
        require_decay(state["decay"])
        require_count(state["updates"], "updates", 0)
        found = differences(self.average, state["average"])
        if found:
            raise ValueError(f"the state of EMA does not fit: {found}.")

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.check_state(state)
        self.decay, self.updates = state["decay"], state["updates"]
        for name, x in self.average.items():
            x.copy_(state["average"][name])


# -- accumulation -----------------------------------------------------------------------------------------------------


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
                     "raise" FloatingPointError, or "skip" the update; weights are left alone either way
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
        """Forget the micro-batches of an unfinished window."""
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
        """Set the rate and update; False where the scaler found an overflow and left the weights alone."""
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
        """The counts; gradients of an unfinished window are not in it: save between windows.

        raises  RuntimeError inside of a window
        """
        if self.pending:
            raise RuntimeError(f"{self.pending} micro-batches wait for their step; save after it, or flush() first.")
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
