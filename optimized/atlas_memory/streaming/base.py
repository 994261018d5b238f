"""What the streams of every memory share: calls of any number of tokens, the state they are given, writing over it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, Generic, TypeVar

import torch

from trueness.optimized._lib.dtypes import autocast_disabled, upcast
from trueness.optimized.atlas_memory import validation as _require

Tokens = tuple[torch.Tensor, ...]
Shapes = dict[str, tuple[int, ...]]
State = TypeVar("State", bound=tuple[Any, ...])


class Stream(ABC, Generic[State]):
    """A rule for tokens that come in pieces: however they are split, the reads and the end are those of one call.

    kind  the type of its states, named tuples with a ``position`` in the chunk under way
    axes  those of q, k and v
    """

    kind: ClassVar[type]
    axes: ClassVar[tuple[str, str, str]]
    chunk_size: int

    def __call__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        alpha: torch.Tensor,
        eta: torch.Tensor,
        theta: torch.Tensor,
        gamma: torch.Tensor,
        state: State,
        *,
        inplace: bool = False,
    ) -> tuple[torch.Tensor, State]:
        """o (B, T, H, V) in the dtype of q, and the state after the T tokens; shapes as in one call, T at least 1.

        inplace  write the new state over the old one, which must not be used again, and over no state before it: when
                 one token comes nothing is allocated for it but, once a chunk, a memory; only where no gradient is
                 wanted
        """
        given = q, k, v, alpha, eta, theta, gamma
        names = ("q", "k", "v", "alpha", "eta", "theta", "gamma")
        axes = (*self.axes, "B T H", "B T H", "B T H", "B T H c")
        known = _require.require_shapes({n: (x, a) for n, x, a in zip(names, given, axes, strict=True)}, "q")
        if not isinstance(state, self.kind):
            what, name = type(state).__name__, self.kind.__name__
            raise ValueError(f"state was {what}; it must be an {name}, begin's or the last call's.")
        require_state(state, self._shapes(known, state), q, self.chunk_size)
        require_in_place(inplace, (*given, *state))
        tokens = tuple(upcast(x) for x in given)
        with autocast_disabled(q):
            if q.shape[1] == 1:
                o, after = self._one(tokens, state, inplace)
            else:
                o, after = self._several(tokens, state)
                after = self._written(state, after) if inplace else after
        return o.to(q.dtype), after

    @abstractmethod
    def _shapes(self, known: dict[str, int], state: State) -> Shapes:
        """What the tensors of a state for tokens of these lengths must look like"""

    @abstractmethod
    def _one(self, tokens: Tokens, state: State, inplace: bool) -> tuple[torch.Tensor, State]:
        """One token"""

    @abstractmethod
    def _several(self, tokens: Tokens, state: State) -> tuple[torch.Tensor, State]:
        """Any number of tokens"""

    @abstractmethod
    def _written(self, old: State, new: State) -> State:
        """``new`` in the tensors of ``old`` that no state before it can hold too"""


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
    """Nothing that a gradient needs is written over."""
    watched = (x.requires_grad for x in tensors if isinstance(x, torch.Tensor))
    if inplace and torch.is_grad_enabled() and any(watched):
        raise ValueError("inplace was True where a gradient is wanted; call under torch.no_grad() or leave it away.")


def over(old: State, new: State, owned: Iterable[str]) -> State:
    """``new`` with these tensors in the memory that they have in ``old``"""
    for name in owned:
        getattr(old, name).copy_(getattr(new, name))
    return new._replace(**{name: getattr(old, name) for name in owned})  # type: ignore[attr-defined, no-any-return]


def later(window: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The window (B, c−1, H, ·) after the tokens x (B, T, H, ·)"""
    size = window.shape[1]
    return torch.cat([window, x[:, -size:]], 1)[:, -size:] if size else window
