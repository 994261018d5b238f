"""The exponential moving average of a module's weights.

a ← a + (1 − d)(x − a)        (Polyak & Juditsky 1992; exponential weights)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from trueness.optimized._lib.dtypes import upcast
from trueness.optimized._lib.validation import require_count
from trueness.optimized.training.checkpoints import differences
from trueness.optimized.training.validation import require_decay, require_keys

__all__ = ["EMA"]


class EMA:
    """a ← a + (1 − d)(x − a), once per optimiser step: the exponential moving average of a module's weights.

    The average is stored in float32 or wider: in bfloat16, a step of 10⁻⁴ of the difference is lost to rounding.
    Buffers (running means) and parameters that are not floating are copied.

    module        the module whose weights are averaged
    decay   d     in [0, 1); averages over about 1/(1 − d) steps
    raises  ValueError for a decay outside of [0, 1)
    """

    def __init__(self, module: torch.nn.Module, decay: float = 0.999) -> None:
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
        """Add the module's present weights to the average."""
        if self.swapped:
            raise RuntimeError("EMA.update was called inside averaged(); call it after the block.")
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
            raise RuntimeError("EMA.averaged was entered twice; the module already holds the average.")
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
