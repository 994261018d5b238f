"""The Omega rule on a stream: calls of any number of tokens that give what one call of all of them gives.

A chunk's gradients are taken at the memory it started with, M̂, so a stream that stops within a chunk keeps M̂ and the
position beside memory, momentum and window. Within one chunk squared errors are the objective "dot" on the residuals,
k (kᵀM̂ − v)ᵀ = −k (v − M̂ᵀk)ᵀ: the tokens up to the end of a chunk that is under way, and those after the last whole
chunk, are computed that way, the whole chunks between them by ``atlas_memory.omega``'s own forms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from trueness.optimized._lib.dtypes import autocast_disabled, upcast
from trueness.optimized.atlas_memory import dispatch as _omega
from trueness.optimized.atlas_memory import materialized as _dense
from trueness.optimized.atlas_memory import validation as _require
from trueness.optimized.atlas_memory.cuda import step_operator as _step_operator
from trueness.optimized.atlas_memory.muon import newton_schulz
from trueness.optimized.atlas_memory.streaming import step as _step
from trueness.optimized.atlas_memory.streaming.base import Shapes, Stream, Tokens, later, over

Step = Callable[[Tokens, "OmegaState", "OmegaStream", bool], tuple[torch.Tensor, "OmegaState"]]


class OmegaState(NamedTuple):
    """What one call leaves to the next: float32, or float64 for float64 tokens, so that nothing is rounded in between.

    memory, momentum    (B, H, P, V)    M and S after the last token; of "muon_chunk" M at the start of its chunk
    k_window, v_window  (B, c−1, H, ·)  the last c − 1 tokens
    start               (B, H, P, V)    M̂ of the chunk that is under way; of no meaning at position 0
    norm                (B, H)          m of "norm_ema"
    kept, moved         (B, H)          of "muon_chunk": ∏ α and Σ A w of the chunk so far
    position            int             tokens of the chunk that is under way, 0 … C − 1
    """

    memory: torch.Tensor
    momentum: torch.Tensor
    k_window: torch.Tensor
    v_window: torch.Tensor
    start: torch.Tensor
    norm: torch.Tensor
    kept: torch.Tensor
    moved: torch.Tensor
    position: int

    def detach(self) -> OmegaState:
        """The same numbers without their history: for truncated backpropagation through time."""
        bare = (x.detach() if isinstance(x, torch.Tensor) else x for x in self)
        return OmegaState(*bare)  # type: ignore[arg-type]


class OmegaStream(Stream[OmegaState]):
    """``omega`` for tokens that come in pieces: however they are split, the reads and the end are those of one call.

        rule = OmegaStream(16, optimizer="muon")
        state = rule.begin(memory, momentum, k_window, v_window)
        o, state = rule(q, k, v, alpha, eta, theta, gamma, state)       # any number of tokens, again and again
        memory, momentum = rule.end(state)

    chunk_size, objective, optimizer, placement, read, clip  as in ``omega``
    """

    kind = OmegaState
    axes = ("B T H P", "B T H P", "B T H V")

    def __init__(
        self,
        chunk_size: int,
        objective: str = "l2",
        optimizer: str = "gd",
        placement: str = "outer",
        read: str = "post",
        clip: float | None = None,
    ) -> None:
        _require.require_modes(chunk_size, objective, optimizer, placement, read, clip)
        self.chunk_size, self.objective, self.optimizer = chunk_size, objective, optimizer
        self.placement, self.read, self.clip = placement, read, clip

    def begin(
        self, memory: torch.Tensor, momentum: torch.Tensor, k_window: torch.Tensor, v_window: torch.Tensor
    ) -> OmegaState:
        """The state before the first token, of what ``omega`` takes: (B, H, P, V) twice, (B, c−1, H, P) and (…, V)."""
        shapes = {"memory": (memory, "B H P V"), "momentum": (momentum, "B H P V")}
        _require.require_shapes(
            shapes | {"k_window": (k_window, "B n H P"), "v_window": (v_window, "B n H V")}, "memory"
        )
        M, S, k, v = (
            upcast(x).clone(memory_format=torch.contiguous_format) for x in (memory, momentum, k_window, v_window)
        )
        norm, kept, moved = (M.new_full(M.shape[:2], x) for x in (0.0, 1.0, 0.0))
        return OmegaState(M, S, k, v, M, norm, kept, moved, 0)

    def end(self, state: OmegaState) -> tuple[torch.Tensor, torch.Tensor]:
        """Memory and momentum of a call that ends here: Muon by chunk updates once more if a chunk is under way."""
        if self.optimizer != "muon_chunk" or not state.position:
            return state.memory, state.momentum
        with autocast_disabled(state.memory):
            return self._updated(state).memory, state.momentum

    def _shapes(self, known: dict[str, int], state: OmegaState) -> Shapes:
        B, H, P, V, c = (known[n] for n in "BHPVc")
        shapes: Shapes = {"memory": (B, H, P, V), "momentum": (B, H, P, V)}
        return shapes | {"k_window": (B, c - 1, H, P), "v_window": (B, c - 1, H, V)}

    def _written(self, old: OmegaState, new: OmegaState) -> OmegaState:
        owned = ("momentum", "k_window", "v_window") + ("memory",) * (self.optimizer != "muon_chunk")
        start = new.start.clone() if new.start is old.memory else new.start
        return over(old, new._replace(start=start), owned)

    # -- one token ----------------------------------------------------------------------------------------------------

    def _one(self, tokens: Tokens, state: OmegaState, inplace: bool) -> tuple[torch.Tensor, OmegaState]:
        """No chunk at all: the recurrence as it is written."""
        step = _step_operator.step if _step_operator.takes(tokens, state, self) else _step.step
        return self.by(step, tokens, state, inplace)

    def by(self, step: Step, tokens: Tokens, state: OmegaState, inplace: bool) -> tuple[torch.Tensor, OmegaState]:
        """One token, computed by ``step``; no checks."""
        o, state = step(tokens, self._begun(state, inplace), self, inplace)
        return o, self._turned(state, 1)

    def _begun(self, state: OmegaState, inplace: bool) -> OmegaState:
        """The state with M̂ = M where a chunk begins"""
        if state.position or self.chunk_size == 1:
            return state
        return state._replace(start=state.memory.clone() if inplace else state.memory)

    # -- several ------------------------------------------------------------------------------------------------------

    def _several(self, tokens: Tokens, state: OmegaState) -> tuple[torch.Tensor, OmegaState]:
        length, size = tokens[0].shape[1], self.chunk_size
        plain = self.optimizer == "gd" and self.clip is None
        if size == 1 or (self.objective == "dot" and self.optimizer != "muon_chunk"):
            o, state = self._whole(tokens, state)
            return o, state._replace(position=(state.position + length) % size)
        head = min(-state.position % size, length)
        whole = (length - head) // size * size
        reads = []
        for part, at, end in (
            (self._part, 0, head),
            (self._whole, head, head + whole),
            (self._part, head + whole, length),
        ):
            if at < end:
                part = self._part if plain and end - at <= size else part  # one chunk needs no preparation of many
                o, state = part(tuple(x[:, at:end] for x in tokens), state)
                reads.append(o)
        return reads[0] if len(reads) == 1 else torch.cat(reads, 1), state

    def _modes(self, size: int, objective: str) -> tuple[int, str, str, str, str, float | None]:
        return size, objective, self.optimizer, self.placement, self.read, self.clip

    def _whole(self, tokens: Tokens, state: OmegaState) -> tuple[torch.Tensor, OmegaState]:
        """Chunks from their first token to their last"""
        before = state.memory, state.momentum, state.k_window, state.v_window
        o, M, S, m = _omega.carried(tokens, before, state.norm, None, *self._modes(self.chunk_size, self.objective))
        return o, self._moved(tokens, state)._replace(memory=M, momentum=S, norm=m, start=M)

    def _part(self, tokens: Tokens, state: OmegaState) -> tuple[torch.Tensor, OmegaState]:
        """Tokens of one chunk, not all of it"""
        start = state.start if state.position else state.memory
        q, k, v, alpha, eta, theta, gamma = tokens
        k_window, v_window = state.k_window, state.v_window
        if self.objective == "l2":
            v, v_window = v - by_head(k, start), v_window - by_head(k_window, start)
        after = self._moved(tokens, state)._replace(start=start)
        plain = self.optimizer == "gd" and self.clip is None
        if plain or self.optimizer == "muon_chunk":
            into, out = (eta, torch.ones_like(eta)) if self.placement == "inner" else (torch.ones_like(eta), eta)
            dots = q, k, v, alpha, into, out, theta, gamma, k_window, v_window
            (piece,) = _dense.pieces(dots, q.shape[1])
        if plain:
            o, M, S = _dense.descent(piece, -piece.v, state.memory, state.momentum, self.read == "post")
            return o.movedim(2, 1), self._turned(after._replace(memory=M, momentum=S), q.shape[1])
        if self.optimizer == "muon_chunk":
            modes = _dense.Modes(False, "muon", False, self.clip)
            S, kept, moved = _dense.pending(piece, -piece.v, state.momentum, modes)
            fresh = not state.position
            one = kept[..., 0, 0]
            after = after._replace(
                momentum=S,
                kept=one if fresh else one * state.kept,
                moved=moved[..., 0, 0] if fresh else one * state.moved + moved[..., 0, 0],
            )
            return by_head(q, start), self._turned(after, q.shape[1])
        before = state.memory, state.momentum, k_window, v_window
        residuals = q, k, v, alpha, eta, theta, gamma
        o, M, S, m = _omega.carried(residuals, before, state.norm, None, *self._modes(q.shape[1], "dot"))
        return o, self._turned(after._replace(memory=M, momentum=S, norm=m), q.shape[1])

    def _moved(self, tokens: Tokens, state: OmegaState) -> OmegaState:
        """The state with the window after these tokens"""
        _, k, v, *_ = tokens
        return state._replace(k_window=later(state.k_window, k), v_window=later(state.v_window, v))

    def _turned(self, state: OmegaState, length: int) -> OmegaState:
        """The state ``length`` tokens later in its chunk; where it ends there Muon by chunk updates the memory."""
        position = (state.position + length) % self.chunk_size
        if not position and self.optimizer == "muon_chunk":
            state = self._updated(state)
        return state._replace(position=position)

    def _updated(self, state: OmegaState) -> OmegaState:
        U = newton_schulz(state.momentum)
        kept, moved = state.kept[..., None, None], state.moved[..., None, None]
        return state._replace(memory=kept * state.memory - moved * U)


def by_head(x: torch.Tensor, M: torch.Tensor) -> torch.Tensor:
    """xᵀ M (B, T, H, V) of x (B, T, H, P) and M (B, H, P, V)"""
    return (x.transpose(1, 2) @ M).transpose(1, 2)
