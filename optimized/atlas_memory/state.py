"""What goes into the Omega rule at every token, and what one call leaves to the next."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

import torch

Tensor = torch.Tensor


class Tokens(NamedTuple):
    """Queries, keys, values and gates of T tokens."""

    q: Tensor  # (B, T, H, P)
    k: Tensor  # (B, T, H, P)
    v: Tensor  # (B, T, H, V)
    alpha: Tensor  # (B, T, H)
    eta: Tensor  # (B, T, H)
    theta: Tensor  # (B, T, H)
    gamma: Tensor  # (B, T, H, c)


class OmegaState(NamedTuple):
    """Before the first token of a call of ``omega``, or after the last.

    memory    M_t  (B, H, P, V)    memory
    momentum  S_t  (B, H, P, V)    momentum
    k_window       (B, c−1, H, P)  features of the last c − 1 tokens, zeros where there are none
    v_window       (B, c−1, H, V)  their values
    """

    memory: Tensor
    momentum: Tensor
    k_window: Tensor
    v_window: Tensor


class SeparableState(NamedTuple):
    """Before the first token of a call of ``omega_separable``, or after the last.

    memory, momentum, k_window, v_window  as in ``OmegaState``
    source_window                         (B, c−1, H)  weights of the last c − 1 tokens
    """

    memory: Tensor
    momentum: Tensor
    k_window: Tensor
    v_window: Tensor
    source_window: Tensor


class OmegaMlpState(NamedTuple):
    """Before the first token of a call of ``omega_mlp``, or after the last.

    w1        W1  (B, H, V, N)    outer weights
    w2        W2  (B, H, N, V)    inner weights
    s1        S1  (B, H, V, N)    momentum of W1
    s2        S2  (B, H, N, V)    momentum of W2
    k_window      (B, c−1, H, V)  the last c − 1 keys, zeros where there are none
    v_window      (B, c−1, H, V)  their values
    """

    w1: Tensor
    w2: Tensor
    s1: Tensor
    s2: Tensor
    k_window: Tensor
    v_window: Tensor

    @classmethod
    def from_weights(cls, w1: Tensor, w2: Tensor, window: int = 1) -> OmegaMlpState:
        """These weights without momentum, and without tokens before the first; ``window`` is c"""
        batch, heads, width, _ = w1.shape
        k_window, v_window = (w1.new_zeros(batch, window - 1, heads, width) for _ in range(2))
        return cls(w1, w2, torch.zeros_like(w1), torch.zeros_like(w2), k_window, v_window)


class OmegaStreamState(NamedTuple):
    """Between two calls of ``OmegaStream``: float32, or float64 for float64 tokens, so that nothing is rounded there.

    memory, momentum    (B, H, P, V)    M and S after the last token; of "muon_chunk" M at the start of its chunk
    k_window, v_window  (B, c−1, H, ·)  the last c − 1 tokens
    start               (B, H, P, V)    M̂ of the current chunk; of no meaning at position 0
    norm                (B, H)          m of "norm_ema"
    kept, moved         (B, H)          of "muon_chunk": ∏ α and Σ A w of the chunk so far
    position            int             tokens of the current chunk so far, 0 … C − 1
    """

    memory: Tensor
    momentum: Tensor
    k_window: Tensor
    v_window: Tensor
    start: Tensor
    norm: Tensor
    kept: Tensor
    moved: Tensor
    position: int

    def detach(self) -> OmegaStreamState:
        """The same numbers without their history: for truncated backpropagation through time."""
        return OmegaStreamState(*_detached(self))


class OmegaMlpStreamState(NamedTuple):
    """Between two calls of ``OmegaMlpStream``: float32, or float64 for float64 tokens, so that nothing is rounded.

    w1, s1              (B, H, V, N)    W1 and S1 after the last token; of "muon_chunk" W1 at the start of its chunk
    w2, s2              (B, H, N, V)    W2 and S2, likewise
    start1, start2      like w1 and w2  Ŵ1, Ŵ2 of the current chunk; of no meaning at position 0, and of "muon_chunk",
                                        whose weights they are
    k_window, v_window  (B, c−1, H, V)  the last c − 1 tokens
    kept, moved         (B, H)          of "muon_chunk": ∏ α and Σ A w of the chunk so far
    position            int             tokens of the current chunk so far, 0 … C − 1
    """

    w1: Tensor
    w2: Tensor
    s1: Tensor
    s2: Tensor
    start1: Tensor
    start2: Tensor
    k_window: Tensor
    v_window: Tensor
    kept: Tensor
    moved: Tensor
    position: int

    def detach(self) -> OmegaMlpStreamState:
        """The same numbers without their history: for truncated backpropagation through time."""
        return OmegaMlpStreamState(*_detached(self))


def _detached(state: tuple[Any, ...]) -> list[Any]:
    return [x.detach() if isinstance(x, Tensor) else x for x in state]


StreamState = TypeVar("StreamState", OmegaStreamState, OmegaMlpStreamState)


def shift_window(window: Tensor, x: Tensor) -> Tensor:
    """The window (B, c−1, H, …) after the tokens x (B, T, H, …)"""
    size = window.shape[1]
    return torch.cat([window, x[:, -size:]], 1)[:, -size:] if size else window


def with_window(state: StreamState, keys: Tensor, values: Tensor, inplace: bool) -> StreamState:
    """The state after one token, whose window is the last c − 1 of c keys and values"""
    if keys.shape[1] == 1:
        return state
    if inplace:
        state.k_window.copy_(keys[:, 1:])
        state.v_window.copy_(values[:, 1:])
        return state
    return state._replace(k_window=keys[:, 1:], v_window=values[:, 1:])


def zero_state(tokens: Tokens, batch: int) -> OmegaState:
    """The state before any token of ``batch`` sequences"""
    q, v, heads = tokens.q, tokens.v, tokens.q.shape[2]
    memory, momentum = (q.new_zeros(batch, heads, q.shape[-1], v.shape[-1]) for _ in range(2))
    return OmegaState(memory, momentum, *zero_windows(tokens.k, v, tokens.gamma.shape[-1], batch))


def zero_windows(k: Tensor, v: Tensor, window: int, batch: int) -> tuple[Tensor, Tensor]:
    """Keys and values of the c − 1 tokens before the first, where there are none"""
    shape = batch, window - 1, k.shape[2]
    return k.new_zeros(*shape, k.shape[-1]), v.new_zeros(*shape, v.shape[-1])
