"""A memory of two layers on a stream: however the tokens are split, outputs and final state are those of one call.

A chunk's gradients are taken at the weights it started with, Ŵ1 and Ŵ2, so a stream that stops within a chunk keeps
them and its position. Several tokens are chunks, or parts of them, of ``mlp.all_chunks``; one token is the recurrence
as it is written, with no chunk and no mask.
"""

from __future__ import annotations

import torch

from trueness.optimized._lib.dtypes import autocast_disabled
from trueness.optimized.atlas_memory import mlp as _mlp
from trueness.optimized.atlas_memory import validation as _require
from trueness.optimized.atlas_memory.chunking import learning_rates
from trueness.optimized.atlas_memory.config import OmegaConfig, require_mlp
from trueness.optimized.atlas_memory.mlp import Layers, Pair
from trueness.optimized.atlas_memory.muon import newton_schulz
from trueness.optimized.atlas_memory.state import (
    OmegaMlpState,
    OmegaMlpStreamState,
    Tokens,
    shift_window,
    with_window,
)
from trueness.optimized.atlas_memory.streaming.base import Shapes, Stream, contiguous_copy, copy_state_into


class OmegaMlpStream(Stream[OmegaMlpStreamState]):
    """``omega_mlp`` for tokens that come in parts: however they are split, the results are those of one call.

        stream = OmegaMlpStream(OmegaConfig(optimizer="muon"))
        state = stream.init_state(OmegaMlpState.from_weights(w1, w2))
        o, state = stream(q, k, v, alpha=alpha, eta=eta, theta=theta, gamma=gamma, state=state)   # again and again
        w1, w2, s1, s2, k_window, v_window = stream.final_state(state)

    config  as in ``omega_mlp``
    """

    kind = OmegaMlpStreamState
    axes = ("B T H V", "B T H V", "B T H V")

    def __init__(self, config: OmegaConfig = OmegaConfig()) -> None:  # noqa: B008
        require_mlp(config)
        self.config = config

    def init_state(self, initial_state: OmegaMlpState) -> OmegaMlpStreamState:
        """The state before the first token, from what ``omega_mlp`` takes"""
        axes = ("B H V N", "B H N V", "B H V N", "B H N V", "B n H V", "B n H V")
        _require.require_shapes(_require.with_axes(OmegaMlpState, initial_state, axes), "w1")
        W1, W2, S1, S2, k, v = map(contiguous_copy, initial_state)
        return OmegaMlpStreamState(W1, W2, S1, S2, W1, W2, k, v, *_mlp.no_share(W1), 0)

    def final_state(self, state: OmegaMlpStreamState) -> OmegaMlpState:
        """The state of a call that ends here: Muon by chunk updates once more if a chunk is incomplete."""
        with autocast_disabled(state.w1):
            w1, w2 = _mlp.final_weights(to_layers(state), self.config)
        return OmegaMlpState(w1, w2, state.s1, state.s2, state.k_window, state.v_window)

    def _shapes(self, known: dict[str, int], state: OmegaMlpStreamState) -> Shapes:
        B, H, V, c = (known[n] for n in "BHVc")
        N = state.w1.shape[-1]
        outer, inner, window = (B, H, V, N), (B, H, N, V), (B, c - 1, H, V)
        shapes: Shapes = {"w1": outer, "w2": inner, "s1": outer, "s2": inner, "start1": outer, "start2": inner}
        return shapes | {"k_window": window, "v_window": window, "kept": (B, H), "moved": (B, H)}

    def _several(self, tokens: Tokens, state: OmegaMlpStreamState) -> tuple[torch.Tensor, OmegaMlpStreamState]:
        windows = state.k_window, state.v_window
        rates = learning_rates(tokens.eta, self.config)
        o, after = _mlp.all_chunks(tokens, rates, windows, to_layers(state), self.config)
        windows = shift_window(windows[0], tokens.k), shift_window(windows[1], tokens.v)
        return o, OmegaMlpStreamState(*after.w, *after.s, *after.start, *windows, *after.share, after.position)

    def _overwritten(self, old: OmegaMlpStreamState, new: OmegaMlpStreamState) -> OmegaMlpStreamState:
        owned = ["s1", "s2", "k_window", "v_window"]
        if self.config.optimizer != "muon_chunk":  # whose states share their weights within a chunk
            owned += ["w1", "w2"]
            if new.start1 is old.w1:
                new = new._replace(start1=new.start1.clone(), start2=new.start2.clone())
        return copy_state_into(old, new, owned)

    def _one(
        self, tokens: Tokens, state: OmegaMlpStreamState, inplace: bool
    ) -> tuple[torch.Tensor, OmegaMlpStreamState]:
        """The recurrence as it is written: products of the c rows of the window."""
        w, s, start, share, position = to_layers(state)
        chunked = self.config.optimizer == "muon_chunk"
        if chunked or self.config.chunk_size == 1:
            start = w
        elif not position:
            start = (w[0].clone(), w[1].clone()) if inplace else w
        keys, values = torch.cat([state.k_window, tokens.k], 1), torch.cat([state.v_window, tokens.v], 1)
        q, _, _, alpha, eta, theta, gamma = (x[:, 0] for x in tokens)  # (B, H, …)
        into, out = learning_rates(eta, self.config)
        k, weights, q = keys.transpose(1, 2), gamma.flip(-1)[..., None], q[..., None, :]  # the oldest of c rows first
        h, e, d = _mlp.errors(k, values.transpose(1, 2), start)
        g = (weights * e).mT @ h, (weights * d).mT @ k
        o = _mlp.read(q, w) if chunked or self.config.read_before_update else None
        s = moved_pair(s, theta, into, g, inplace)
        position = (position + 1) % self.config.chunk_size
        if chunked:
            share = alpha * share[0], alpha * share[1] + out
            if not position:
                w, share = _mlp.muon_update(w, s, share), _mlp.no_share(w[0])
        else:
            u = s if self.config.optimizer == "gd" else (newton_schulz(s[0]), newton_schulz(s[1]))
            w = moved_pair(w, alpha, -out, u, inplace)
        o = _mlp.read(q, w) if o is None else o
        after = OmegaMlpStreamState(*w, *s, *start, state.k_window, state.v_window, *share, position)
        return o.transpose(1, 2), with_window(after, keys, values, inplace)


def moved_pair(x: Pair, stays: torch.Tensor, step: torch.Tensor, y: Pair, inplace: bool) -> Pair:
    """x ← stays x + step y of both matrices; stays and step are (B, H)"""
    stays, step = stays[..., None, None], step[..., None, None]
    if inplace:
        return x[0].mul_(stays).addcmul_(step, y[0]), x[1].mul_(stays).addcmul_(step, y[1])
    return torch.addcmul(stays * x[0], step, y[0]), torch.addcmul(stays * x[1], step, y[1])


def to_layers(state: OmegaMlpStreamState) -> Layers:
    """The state without its window, as ``mlp.all_chunks`` takes it"""
    pairs = (state.w1, state.w2), (state.s1, state.s2), (state.start1, state.start2), (state.kept, state.moved)
    return Layers(*pairs, state.position)
