"""A memory of two layers on a stream: however the tokens are split, reads and end are those of one call of them all.

A chunk's gradients are taken at the weights it started with, Ŵ1 and Ŵ2, so a stream that stops within a chunk keeps
them and its position. Several tokens are the pieces of ``_atlas_layers``; one token is the recurrence as it is written,
with no chunk and no mask.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from trueness.optimized._lib.dtypes import autocast_disabled, upcast
from trueness.optimized.atlas_memory import mlp as _layers
from trueness.optimized.atlas_memory import validation as _require
from trueness.optimized.atlas_memory.materialized import Modes
from trueness.optimized.atlas_memory.mlp import Layers, Pair
from trueness.optimized.atlas_memory.muon import newton_schulz
from trueness.optimized.atlas_memory.streaming.base import Shapes, Stream, Tokens, later, over
from trueness.optimized.atlas_memory.streaming.step import windowed


class OmegaMlpState(NamedTuple):
    """What one call leaves to the next: float32, or float64 for float64 tokens, so that nothing is rounded in between.

    w1, s1              (B, H, V, N)    W1 and S1 after the last token; of "muon_chunk" W1 at the start of its chunk
    w2, s2              (B, H, N, V)    W2 and S2, likewise
    start1, start2      like w1 and w2  Ŵ1, Ŵ2 of the chunk that is under way; of no meaning at position 0, and of
                                        "muon_chunk", whose weights they are
    k_window, v_window  (B, c−1, H, V)  the last c − 1 tokens
    kept, moved         (B, H)          of "muon_chunk": ∏ α and Σ A w of the chunk so far
    position            int             tokens of the chunk that is under way, 0 … C − 1
    """

    w1: torch.Tensor
    w2: torch.Tensor
    s1: torch.Tensor
    s2: torch.Tensor
    start1: torch.Tensor
    start2: torch.Tensor
    k_window: torch.Tensor
    v_window: torch.Tensor
    kept: torch.Tensor
    moved: torch.Tensor
    position: int

    def detach(self) -> OmegaMlpState:
        """The same numbers without their history: for truncated backpropagation through time."""
        bare = (x.detach() if isinstance(x, torch.Tensor) else x for x in self)
        return OmegaMlpState(*bare)  # type: ignore[arg-type]


class OmegaMlpStream(Stream[OmegaMlpState]):
    """``omega_mlp`` for tokens that come in pieces: however they are split, reads and end are those of one call.

        rule = OmegaMlpStream(16, optimizer="muon")
        state = rule.begin(w1, w2, s1, s2, k_window, v_window)
        o, state = rule(q, k, v, alpha, eta, theta, gamma, state)       # any number of tokens, again and again
        w1, w2, s1, s2 = rule.end(state)

    chunk_size, optimizer, placement, read  as in ``omega_mlp``
    """

    kind = OmegaMlpState
    axes = ("B T H V", "B T H V", "B T H V")

    def __init__(self, chunk_size: int, optimizer: str = "gd", placement: str = "outer", read: str = "post") -> None:
        _require.require_modes(chunk_size, "l2", optimizer, placement, read, None)
        _require.require_layers(optimizer)
        self.chunk_size, self.optimizer, self.placement, self.read = chunk_size, optimizer, placement, read
        self._modes = Modes(True, optimizer, read == "post", None)

    def begin(
        self,
        w1: torch.Tensor,
        w2: torch.Tensor,
        s1: torch.Tensor,
        s2: torch.Tensor,
        k_window: torch.Tensor,
        v_window: torch.Tensor,
    ) -> OmegaMlpState:
        """The state before the first token, of what ``omega_mlp`` takes; the window is (B, c−1, H, V)."""
        shapes = {"w1": (w1, "B H V N"), "w2": (w2, "B H N V"), "s1": (s1, "B H V N"), "s2": (s2, "B H N V")}
        _require.require_shapes(shapes | {"k_window": (k_window, "B n H V"), "v_window": (v_window, "B n H V")}, "w1")
        given = (w1, w2, s1, s2, k_window, v_window)
        W1, W2, S1, S2, k, v = (upcast(x).clone(memory_format=torch.contiguous_format) for x in given)
        return OmegaMlpState(W1, W2, S1, S2, W1, W2, k, v, *_layers.fresh(W1), 0)

    def end(self, state: OmegaMlpState) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """W1, W2, S1, S2 of a call that ends here: Muon by chunk updates once more if a chunk is under way."""
        with autocast_disabled(state.w1):
            return *_layers.ended(laid(state), self._modes), state.s1, state.s2

    def _shapes(self, known: dict[str, int], state: OmegaMlpState) -> Shapes:
        B, H, V, c = (known[n] for n in "BHVc")
        N = state.w1.shape[-1]
        outer, inner, window = (B, H, V, N), (B, H, N, V), (B, c - 1, H, V)
        shapes: Shapes = {"w1": outer, "w2": inner, "s1": outer, "s2": inner, "start1": outer, "start2": inner}
        return shapes | {"k_window": window, "v_window": window, "kept": (B, H), "moved": (B, H)}

    def _several(self, tokens: Tokens, state: OmegaMlpState) -> tuple[torch.Tensor, OmegaMlpState]:
        q, k, v, alpha, eta, theta, gamma = tokens
        one = torch.ones_like(eta)
        into, out = (eta, one) if self.placement == "inner" else (one, eta)
        given = q, k, v, alpha, into, out, theta, gamma, state.k_window, state.v_window
        o, after = _layers.all_chunks(given, laid(state), self.chunk_size, self._modes)
        windows = later(state.k_window, k), later(state.v_window, v)
        return o, OmegaMlpState(*after.w, *after.s, *after.start, *windows, *after.share, after.position)

    def _written(self, old: OmegaMlpState, new: OmegaMlpState) -> OmegaMlpState:
        owned = ["s1", "s2", "k_window", "v_window"]
        if self.optimizer != "muon_chunk":  # which has the same weights in all states of one chunk
            owned += ["w1", "w2"]
            if new.start1 is old.w1:
                new = new._replace(start1=new.start1.clone(), start2=new.start2.clone())
        return over(old, new, owned)

    def _one(self, tokens: Tokens, state: OmegaMlpState, inplace: bool) -> tuple[torch.Tensor, OmegaMlpState]:
        """The recurrence as it is written: the products are of the c rows of the window."""
        w, s, start, share, position = laid(state)
        chunked = self.optimizer == "muon_chunk"
        if chunked or self.chunk_size == 1:
            start = w
        elif not position:
            start = (w[0].clone(), w[1].clone()) if inplace else w
        keys, values = torch.cat([state.k_window, tokens[1]], 1), torch.cat([state.v_window, tokens[2]], 1)
        q, _, _, alpha, eta, theta, gamma = (x[:, 0] for x in tokens)  # (B, H, …)
        one = torch.ones_like(eta)
        into, out = (eta, one) if self.placement == "inner" else (one, eta)
        k, weights, q = keys.transpose(1, 2), gamma.flip(-1)[..., None], q[..., None, :]  # the oldest of c rows first
        h, e, d = _layers.errors(k, values.transpose(1, 2), start)
        g = (weights * e).mT @ h, (weights * d).mT @ k
        o = _layers.read(q, w) if chunked or self.read == "pre" else None
        s = moved(s, theta, into, g, inplace)
        position = (position + 1) % self.chunk_size
        if chunked:
            share = alpha * share[0], alpha * share[1] + out
            if not position:
                w, share = _layers.updated(w, s, share), _layers.fresh(w[0])
        else:
            u = s if self.optimizer == "gd" else (newton_schulz(s[0]), newton_schulz(s[1]))
            w = moved(w, alpha, -out, u, inplace)
        o = _layers.read(q, w) if o is None else o
        after = OmegaMlpState(*w, *s, *start, state.k_window, state.v_window, *share, position)
        return o.transpose(1, 2), windowed(after, keys, values, inplace)


def moved(x: Pair, stays: torch.Tensor, step: torch.Tensor, y: Pair, inplace: bool) -> Pair:
    """x ← stays x + step y of both matrices; stays and step are (B, H)"""
    stays, step = stays[..., None, None], step[..., None, None]
    if inplace:
        return x[0].mul_(stays).addcmul_(step, y[0]), x[1].mul_(stays).addcmul_(step, y[1])
    return torch.addcmul(stays * x[0], step, y[0]), torch.addcmul(stays * x[1], step, y[1])


def laid(state: OmegaMlpState) -> Layers:
    """The state without its window, as a piece takes it"""
    pairs = (state.w1, state.w2), (state.s1, state.s2), (state.start1, state.start2), (state.kept, state.moved)
    return Layers(*pairs, state.position)
