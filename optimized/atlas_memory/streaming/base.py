"""The common part of the streams: checks of a call, and in-place updates of its state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, Generic

import torch

from trueness.optimized._lib.dtypes import autocast_disabled, upcast
from trueness.optimized.atlas_memory import validation as _require
from trueness.optimized.atlas_memory.config import OmegaConfig
from trueness.optimized.atlas_memory.state import StreamState, Tokens

Shapes = dict[str, tuple[int, ...]]


class Stream(ABC, Generic[StreamState]):
    """A rule for tokens that come in parts: however they are split, outputs and final state are those of one call.

    kind  the type of its states, named tuples with a ``position`` in the current chunk
    axes  those of q, k and v
    """

    kind: ClassVar[type]
    axes: ClassVar[tuple[str, str, str]]
    config: OmegaConfig

    def __call__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        *,
        alpha: torch.Tensor,
        eta: torch.Tensor,
        theta: torch.Tensor,
        gamma: torch.Tensor,
        state: StreamState,
        inplace: bool = False,
    ) -> tuple[torch.Tensor, StreamState]:
        """o (B, T, H, V) in the dtype of q, and the state after the T tokens; T = 1 is one decoding step.

        q, k, v, alpha, eta, theta, gamma  as in one call of the function
        state    of ``init_state`` or of the last call
        inplace  overwrite the state, which must not be used again; a step of one token then allocates no state but,
                 once a chunk, a memory. Only where no gradient is wanted
        raises   ValueError if a tensor or the state does not fit the others
        """
        tokens: Tokens = Tokens(q, k, v, alpha, eta, theta, gamma)
        axes = (*self.axes, "B T H", "B T H", "B T H", "B T H c")
        known = _require.require_shapes(_require.with_axes(Tokens, tokens, axes), "q")
        if not isinstance(state, self.kind):
            what, name = type(state).__name__, self.kind.__name__
            raise ValueError(f"state was {what}; it must be an {name}, that of init_state or of the last call.")
        require_state(state, self._shapes(known, state), q, self.config.chunk_size)
        require_in_place(inplace, (*tokens, *state))
        tokens = Tokens._make(map(upcast, tokens))
        with autocast_disabled(q):
            if q.shape[1] == 1:
                o, after = self._one(tokens, state, inplace)
            else:
                o, after = self._several(tokens, state)
                after = self._overwritten(state, after) if inplace else after
        return o.to(q.dtype), after

    @abstractmethod
    def _shapes(self, known: dict[str, int], state: StreamState) -> Shapes:
        """The shapes of a state's tensors for tokens of these lengths"""

    @abstractmethod
    def _one(self, tokens: Tokens, state: StreamState, inplace: bool) -> tuple[torch.Tensor, StreamState]:
        """One token"""

    @abstractmethod
    def _several(self, tokens: Tokens, state: StreamState) -> tuple[torch.Tensor, StreamState]:
        """Any number of tokens"""

    @abstractmethod
    def _overwritten(self, old: StreamState, new: StreamState) -> StreamState:
        """``new`` in those tensors of ``old`` that no earlier state can share"""


def require_state(state: Any, shapes: Shapes, like: torch.Tensor, chunk_size: int) -> None:
    """A state for tokens like these"""
    dtype = upcast(like[:0]).dtype
    for name, shape in shapes.items():
        x = getattr(state, name)
        if x.shape != shape:
            raise ValueError(f"state.{name} had shape {tuple(x.shape)}; for these tokens it must be {shape}.")
        if x.device != like.device or x.dtype != dtype:
            raise ValueError(f"state.{name} was {x.dtype} on {x.device}; it must be {dtype} on {like.device}.")
    if not 0 <= state.position < chunk_size:
        raise ValueError(f"state.position was {state.position}; in chunks of {chunk_size} it must be less.")


def require_in_place(inplace: bool, tensors: Iterable[Any]) -> None:
    """Nothing that a gradient needs is overwritten."""
    tracked = (x.requires_grad for x in tensors if isinstance(x, torch.Tensor))
    if inplace and torch.is_grad_enabled() and any(tracked):
        raise ValueError("inplace was True where a gradient is wanted; call under torch.no_grad() or omit inplace=.")


def copy_state_into(old: StreamState, new: StreamState, owned: Iterable[str]) -> StreamState:
    """``new`` with the tensors named in ``owned`` copied into those of ``old``"""
    for name in owned:
        getattr(old, name).copy_(getattr(new, name))
    return new._replace(**{name: getattr(old, name) for name in owned})


def contiguous_copy(x: torch.Tensor) -> torch.Tensor:
    """x in float32 at least, as memory of its own"""
    return upcast(x).clone(memory_format=torch.contiguous_format)
