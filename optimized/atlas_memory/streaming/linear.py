"""The Omega rule on a stream: calls of any number of tokens give what one call of all of them gives.

A chunk's gradients are taken at the memory it started with, M̂, so a stream that stops within a chunk keeps M̂ and its
position beside memory, momentum and window. Within one chunk squared errors are the objective "dot" on the residuals,
k (kᵀM̂ − v)ᵀ = −k (v − M̂ᵀk)ᵀ: the tokens up to the end of the current chunk, and those after the last whole chunk, are
computed that way, the whole chunks between them by the forms of ``atlas_memory.omega``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from trueness.optimized._lib.dtypes import autocast_disabled
from trueness.optimized.atlas_memory import dispatch as _dispatch
from trueness.optimized.atlas_memory import materialized as _materialized
from trueness.optimized.atlas_memory import validation as _require
from trueness.optimized.atlas_memory.chunking import learning_rates
from trueness.optimized.atlas_memory.config import OmegaConfig
from trueness.optimized.atlas_memory.cuda import step_operator as _step_operator
from trueness.optimized.atlas_memory.muon import newton_schulz
from trueness.optimized.atlas_memory.state import OmegaState, OmegaStreamState, Tokens, shift_window
from trueness.optimized.atlas_memory.streaming import step as _step
from trueness.optimized.atlas_memory.streaming.base import Shapes, Stream, contiguous_copy, copy_state_into

Step = Callable[[Tokens, OmegaStreamState, OmegaConfig, bool], tuple[torch.Tensor, OmegaStreamState]]


class OmegaStream(Stream[OmegaStreamState]):
    """``omega`` for tokens that come in parts: however they are split, outputs and final state are those of one call.

        stream = OmegaStream(OmegaConfig(optimizer="muon"))
        state = stream.init_state(OmegaState(memory, momentum, k_window, v_window))
        o, state = stream(q, k, v, alpha=alpha, eta=eta, theta=theta, gamma=gamma, state=state)   # again and again
        memory, momentum, k_window, v_window = stream.final_state(state)

    config  as in ``omega``
    """

    kind = OmegaStreamState
    axes = ("B T H P", "B T H P", "B T H V")

    def __init__(self, config: OmegaConfig = OmegaConfig()) -> None:  # noqa: B008
        self.config = config
        self._residuals = replace(config, objective="dot")

    def init_state(self, initial_state: OmegaState) -> OmegaStreamState:
        """The state before the first token, from what ``omega`` takes: (B, H, P, V) twice, (B, c−1, H, P) and (…, V)"""
        axes = ("B H P V", "B H P V", "B n H P", "B n H V")
        _require.require_shapes(_require.with_axes(OmegaState, initial_state, axes), "memory")
        M, S, k, v = map(contiguous_copy, initial_state)
        norm, kept, moved = (M.new_full(M.shape[:2], x) for x in (0.0, 1.0, 0.0))
        return OmegaStreamState(M, S, k, v, M, norm, kept, moved, 0)

    def final_state(self, state: OmegaStreamState) -> OmegaState:
        """The state of a call that ends here: Muon by chunk updates once more if a chunk is incomplete."""
        memory = state.memory
        if self.config.optimizer == "muon_chunk" and state.position:
            with autocast_disabled(memory):
                memory = self._updated(state).memory
        return OmegaState(memory, state.momentum, state.k_window, state.v_window)

    def _shapes(self, known: dict[str, int], state: OmegaStreamState) -> Shapes:
        B, H, P, V, c = (known[n] for n in "BHPVc")
        shapes: Shapes = {"memory": (B, H, P, V), "momentum": (B, H, P, V)}
        return shapes | {"k_window": (B, c - 1, H, P), "v_window": (B, c - 1, H, V)}

    def _overwritten(self, old: OmegaStreamState, new: OmegaStreamState) -> OmegaStreamState:
        owned = ("momentum", "k_window", "v_window") + ("memory",) * (self.config.optimizer != "muon_chunk")
        start = new.start.clone() if new.start is old.memory else new.start
        return copy_state_into(old, new._replace(start=start), owned)

    # -- one token ----------------------------------------------------------------------------------------------------

    def _one(self, tokens: Tokens, state: OmegaStreamState, inplace: bool) -> tuple[torch.Tensor, OmegaStreamState]:
        supported = _step_operator.cuda_supported(tokens, state, self.config)
        return self.one_by(_step_operator.step if supported else _step.step, tokens, state, inplace)

    def one_by(
        self, step: Step, tokens: Tokens, state: OmegaStreamState, inplace: bool
    ) -> tuple[torch.Tensor, OmegaStreamState]:
        """One token, computed by ``step``; no argument checks."""
        o, state = step(tokens, self._with_start(state, inplace), self.config, inplace)
        return o, self._advanced(state, 1)

    def _with_start(self, state: OmegaStreamState, inplace: bool) -> OmegaStreamState:
        """The state with M̂ = M where a chunk begins"""
        if state.position or self.config.chunk_size == 1:
            return state
        return state._replace(start=state.memory.clone() if inplace else state.memory)

    # -- several ------------------------------------------------------------------------------------------------------

    def _several(self, tokens: Tokens, state: OmegaStreamState) -> tuple[torch.Tensor, OmegaStreamState]:
        config, length, size = self.config, tokens.q.shape[1], self.config.chunk_size
        if size == 1 or (not config.squared_error and config.optimizer != "muon_chunk"):
            o, state = self._whole_chunks(tokens, state)
            return o, state._replace(position=(state.position + length) % size)
        head = min(-state.position % size, length)
        whole = (length - head) // size * size
        reads = []
        for compute, start, end in (
            (self._part_of_chunk, 0, head),
            (self._whole_chunks, head, head + whole),
            (self._part_of_chunk, head + whole, length),
        ):
            if start < end:
                if config.plain_descent and end - start <= size:  # a single chunk is cheapest without preparation
                    compute = self._part_of_chunk
                o, state = compute(Tokens._make(x[:, start:end] for x in tokens), state)
                reads.append(o)
        return reads[0] if len(reads) == 1 else torch.cat(reads, 1), state

    def _whole_chunks(self, tokens: Tokens, state: OmegaStreamState) -> tuple[torch.Tensor, OmegaStreamState]:
        """Chunks from their first token to their last"""
        before = OmegaState(state.memory, state.momentum, state.k_window, state.v_window)
        o, M, S, m = _dispatch.recur(tokens, before, self.config, norm=state.norm)
        return o, shifted_windows(tokens, state)._replace(memory=M, momentum=S, norm=m, start=M)

    def _part_of_chunk(self, tokens: Tokens, state: OmegaStreamState) -> tuple[torch.Tensor, OmegaStreamState]:
        """Tokens of one chunk, not all of it"""
        config, length = self.config, tokens.q.shape[1]
        start = state.start if state.position else state.memory
        windows = state.k_window, state.v_window
        after = shifted_windows(tokens, state)._replace(start=start)
        if config.squared_error:
            windows = windows[0], windows[1] - by_head(windows[0], start)
            tokens = tokens._replace(v=tokens.v - by_head(tokens.k, start))
        if not config.plain_descent and config.optimizer != "muon_chunk":
            before = OmegaState(state.memory, state.momentum, *windows)
            o, M, S, m = _dispatch.recur(tokens, before, self._residuals, norm=state.norm, size=length)
            return o, self._advanced(after._replace(memory=M, momentum=S, norm=m), length)
        rates = learning_rates(tokens.eta, config)
        (chunk,) = _materialized.iter_chunks(tokens, rates, windows, length)
        if config.plain_descent:
            M, S = state.memory, state.momentum
            o, M, S = _materialized.descent(chunk, -chunk.v, M, S, config.read_before_update)
            return o.movedim(2, 1), self._advanced(after._replace(memory=M, momentum=S), length)
        S, kept, moved = _materialized.pending_update(chunk, -chunk.v, state.momentum, config.clip)
        kept, moved = kept[..., 0, 0], moved[..., 0, 0]
        if state.position:
            kept, moved = kept * state.kept, kept * state.moved + moved
        after = after._replace(momentum=S, kept=kept, moved=moved)
        return by_head(tokens.q, start), self._advanced(after, length)

    def _advanced(self, state: OmegaStreamState, length: int) -> OmegaStreamState:
        """The state ``length`` tokens later in its chunk; Muon by chunk updates the memory where the chunk ends."""
        position = (state.position + length) % self.config.chunk_size
        if not position and self.config.optimizer == "muon_chunk":
            state = self._updated(state)
        return state._replace(position=position)

    def _updated(self, state: OmegaStreamState) -> OmegaStreamState:
        U = newton_schulz(state.momentum)
        kept, moved = state.kept[..., None, None], state.moved[..., None, None]
        return state._replace(memory=kept * state.memory - moved * U)


def shifted_windows(tokens: Tokens, state: OmegaStreamState) -> OmegaStreamState:
    """The state with the window after these tokens"""
    k_window, v_window = shift_window(state.k_window, tokens.k), shift_window(state.v_window, tokens.v)
    return state._replace(k_window=k_window, v_window=v_window)


def by_head(x: torch.Tensor, M: torch.Tensor) -> torch.Tensor:
    """xᵀ M (B, T, H, V) of x (B, T, H, P) and M (B, H, P, V)"""
    return (x.transpose(1, 2) @ M).transpose(1, 2)
