"""The layer of a network made of the Omega rule: projections, gates, features, a norm, and the state of a stream."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from trueness.optimized._lib.dtypes import upcast
from trueness.optimized._lib.validation import require_count, require_floating
from trueness.optimized.atlas_memory import features as _features
from trueness.optimized.atlas_memory import validation as _require
from trueness.optimized.atlas_memory.streaming.linear import OmegaState, OmegaStream
from trueness.optimized.atlas_memory.streaming.mlp import OmegaMlpState, OmegaMlpStream


class AtlasState(NamedTuple):
    """What one call of ``AtlasAttention.stream`` leaves to the next."""

    omega: OmegaState | OmegaMlpState
    inputs: torch.Tensor  # (B, convolution − 1, width): what the convolution still looks back at

    def detach(self) -> AtlasState:
        """The same numbers without their history: for truncated backpropagation through time."""
        return AtlasState(self.omega.detach(), self.inputs.detach())


class AtlasAttention(torch.nn.Module):
    """Causal attention by a memory that learns while it reads: y = W_o (norm(omega(φ(q), φ(k), v, …)) ∘ silu(W_g x))

    q, k and v are projections of a short causal convolution of x; q and k have a mean square of one in every head. The
    gates α, η, θ are sigmoids of projections of x, η times ``rate``; the weights γ of the window are learned for every
    head and sum to one, exp(−decay · age) at first. The coefficients of the features are learned from 1/i! on.

    With memory="mlp" the memory is f(x) = x + W1 σ(W2 x) of the keys themselves, whose first W1 and W2 are learned. W1
    is zero at first, and W2 such that the hidden layer of a key, too, has a length of about one.

    width        of x and of the result
    heads        H; it must divide width
    degree       p of the features: P = (p + 1) width/heads
    window       c, tokens in every gradient
    chunk_size   C, tokens whose gradients are taken at one memory: part of the model, as c is
    rate         largest η
    convolution  taps of the causal convolution of x, 1 for none
    memory       "linear" or "mlp"
    hidden       N of "mlp", 4 width/heads by default
    optimizer, placement, read                as in ``omega`` and ``omega_mlp``
    objective, clip, degree, clamp            of a linear memory alone: as in ``omega`` and ``elementwise_features``

    ``updates = False`` sets η = 0: the memory stays as it is, and from an empty linear one nothing is read - for
    ablations.
    """

    def __init__(
        self,
        width: int,
        heads: int = 4,
        *,
        degree: int = 2,
        window: int = 4,
        chunk_size: int = 16,
        rate: float = 1.0,
        decay: float = 0.1,
        clamp: float = 10.0,
        convolution: int = 4,
        objective: str = "l2",
        optimizer: str = "gd",
        placement: str = "outer",
        read: str = "post",
        clip: float | None = None,
        memory: str = "linear",
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        least = {"width": 1, "heads": 1, "degree": 0, "window": 1, "convolution": 1}
        for value, name in zip((width, heads, degree, window, convolution), least, strict=True):
            require_count(value, name, least[name])
        if width % heads:
            raise ValueError(f"heads was {heads}; it must divide width, {width}.")
        _require.require_positive(rate, "rate")
        _require.require_positive(clamp, "clamp")
        self.heads, self.window, self.clamp, self.rate = heads, window, clamp, rate
        _require_memory(memory, hidden, objective, clip)
        self.rule: OmegaStream | OmegaMlpStream
        if memory == "mlp":
            self.rule = OmegaMlpStream(chunk_size, optimizer, placement, read)
        else:
            self.rule = OmegaStream(chunk_size, objective, optimizer, placement, read, clip)
        self.updates = True
        self.qkv = torch.nn.Linear(width, 3 * width, bias=False)
        self.gates = torch.nn.Linear(width, 3 * heads)
        self.gate = torch.nn.Linear(width, width, bias=False)
        self.norm = torch.nn.Parameter(torch.ones(width))
        self.out = torch.nn.Linear(width, width, bias=False)
        self.taps = torch.nn.Parameter(torch.zeros(convolution, width))
        each = width // heads
        if memory == "mlp":
            rows = 4 * each if hidden is None else hidden
            self.outer = torch.nn.Parameter(torch.zeros(heads, each, rows))
            self.inner = torch.nn.Parameter(2 / math.sqrt(rows) * torch.randn(heads, rows, each))
        else:
            self.coefficients = torch.nn.Parameter(torch.tensor(_features.taylor(degree)))
        ages = torch.arange(window, dtype=torch.float32)
        self.weights = torch.nn.Parameter((-decay * ages).expand(heads, window).clone())
        with torch.no_grad():
            self.taps[-1] = 1.0  # x itself at first
            self.gates.weight.mul_(0.1)
            # α = 0.99, η = rate/4, θ = 0.1 at first
            self.gates.bias.copy_(torch.tensor([4.6, -1.1, -2.2]).repeat_interleave(heads))

    def empty(self, x: torch.Tensor) -> AtlasState:
        """The state before any token of a batch like x (B, T, width)."""
        batch, _, width = x.shape
        each, like = width // self.heads, upcast(x[:0])
        inputs = x.new_zeros(batch, self.taps.shape[0] - 1, width)
        if isinstance(self.rule, OmegaMlpStream):
            w1, w2 = (w.to(like.dtype).expand(batch, -1, -1, -1) for w in (self.outer, self.inner))
            window = like.new_zeros(batch, self.window - 1, self.heads, each)
            return AtlasState(
                self.rule.begin(w1, w2, torch.zeros_like(w1), torch.zeros_like(w2), window, window), inputs
            )
        features = self.coefficients.shape[0] * each
        memory = like.new_zeros(batch, self.heads, features, each)
        windows = (like.new_zeros(batch, self.window - 1, self.heads, n) for n in (features, each))
        return AtlasState(self.rule.begin(memory, memory, *windows), inputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, T, width) → (B, T, width), every sequence from an empty memory."""
        return self.stream(x, None)[0]

    def stream(
        self, x: torch.Tensor, state: AtlasState | None, *, inplace: bool = False
    ) -> tuple[torch.Tensor, AtlasState]:
        """The next tokens of sequences whose state is ``state``, None at their start, and the state after them.

        However a sequence is split, its outputs are those of one call, and so are their gradients as long as the state
        is not detached. ``inplace`` writes the new state over the old one, where no gradient is wanted.
        """
        require_floating(x, "x")
        if x.ndim != 3 or x.shape[-1] != self.norm.shape[0] or not x.shape[1]:
            raise ValueError(f"x had shape {tuple(x.shape)}; it must be (B, T, {self.norm.shape[0]}), T at least 1.")
        before = self.empty(x) if state is None else state
        long = torch.cat([before.inputs, x], 1)
        taps = self.taps.shape[0]
        mixed = sum((long[:, i : i + x.shape[1]] * self.taps[i] for i in range(taps)), torch.zeros_like(x))
        q, k, v = upcast(self.qkv(mixed)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        alpha, eta, theta = torch.sigmoid(upcast(self.gates(x))).unflatten(-1, (3, self.heads)).unbind(2)
        eta = self.rate * eta if self.updates else torch.zeros_like(eta)
        gamma = upcast(self.weights).softmax(-1).expand(*x.shape[:2], -1, -1)
        phi_q, phi_k = self._features(q), self._features(k)
        # under autocast every one may have its own format; a share of 0.99 needs more digits than bfloat16 has
        phi_q, phi_k, alpha, eta, theta, gamma = (y.to(v.dtype) for y in (phi_q, phi_k, alpha, eta, theta, gamma))
        tokens = phi_q, phi_k, v, alpha, eta, theta, gamma
        o, omega = self.rule(*tokens, before.omega, inplace=inplace)  # type: ignore[arg-type]
        o = torch.nn.functional.rms_norm(o, o.shape[-1:]).flatten(-2).to(x.dtype) * self.norm
        y = self.out(o * torch.nn.functional.silu(self.gate(x)))
        return y, AtlasState(omega, long[:, x.shape[1] :])

    def _features(self, x: torch.Tensor) -> torch.Tensor:
        """What the memory is asked with: keys or queries of length one, or features of about that"""
        x = torch.nn.functional.rms_norm(x, x.shape[-1:])
        if isinstance(self.rule, OmegaMlpStream):
            return x / math.sqrt(x.shape[-1])
        scale = math.sqrt(self.coefficients.shape[0] * x.shape[-1])
        return _features.elementwise(x, self.coefficients, self.clamp) / scale


def _require_memory(memory: str, hidden: int | None, objective: str, clip: float | None) -> None:
    """A linear memory has no hidden layer, one of two layers no other objective and no clip."""
    if memory not in ("linear", "mlp"):
        raise ValueError(f"memory was {memory!r}; allowed are 'linear', 'mlp'.")
    if hidden is not None:
        require_count(hidden, "hidden", 1)
    if memory == "linear" and hidden is not None:
        raise ValueError(f"hidden was {hidden}; a linear memory has no hidden layer.")
    if memory == "mlp" and (objective != "l2" or clip is not None):
        raise ValueError(f"objective was {objective!r} and clip {clip!r}; a memory of two layers has 'l2' and None.")
