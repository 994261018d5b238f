"""The layer of a network made of the Omega rule: projections, gates, features, a norm, and the state of a stream."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, overload

import torch
from torch import nn

from trueness.optimized._lib.dtypes import upcast
from trueness.optimized._lib.validation import require_count, require_floating
from trueness.optimized.atlas_memory import features as _features
from trueness.optimized.atlas_memory import validation as _require
from trueness.optimized.atlas_memory.config import OmegaConfig, require_mlp
from trueness.optimized.atlas_memory.state import OmegaMlpState, OmegaMlpStreamState, OmegaState, OmegaStreamState
from trueness.optimized.atlas_memory.streaming.linear import OmegaStream
from trueness.optimized.atlas_memory.streaming.mlp import OmegaMlpStream


class AtlasState(NamedTuple):
    """The state of ``AtlasAttention`` between two calls."""

    omega: OmegaStreamState | OmegaMlpStreamState
    inputs: torch.Tensor  # (B, conv_size − 1, embed_dim): inputs that the convolution still needs

    def detach(self) -> AtlasState:
        """The same numbers without their history: for truncated backpropagation through time."""
        return AtlasState(self.omega.detach(), self.inputs.detach())


class AtlasAttention(nn.Module):
    """Causal attention by a memory that learns while it reads: y = W_o (norm(omega(φ(q), φ(k), v, …)) ∘ silu(W_g x))

    q, k and v are projections of a short causal convolution of x; q and k have a mean square of one in every head. The
    gates α, η, θ are sigmoids of projections of x, η times ``max_lr``; the weights γ of the window are learned for each
    head and sum to one, exp(−decay · age) at first. The coefficients of the features are learned, 1/i! at first.

    With memory="mlp" the memory is f(x) = x + W1 σ(W2 x) of the keys themselves; its initial weights are learned: at
    first W1 is zero, and W2 such that the hidden layer of a key, too, has a length of about one.

    embed_dim   of x and of the result
    num_heads   H; it must divide embed_dim
    config      of the Omega rule, as in ``omega`` and ``omega_mlp``
    degree      p of the features of a linear memory: P = (p + 1) embed_dim/num_heads
    window      c, tokens in every gradient
    max_lr      largest η
    decay       of the initial weights of the window
    clamp       κ of the features of a linear memory
    conv_size   taps of the causal convolution of x, 1 for none
    memory      "linear" or "mlp"
    hidden_dim  N of "mlp", 4 embed_dim/num_heads by default
    raises      ValueError if an argument is not one of those named

    All projections are ``nn.Linear`` and are called, so that they can be replaced: by adapters or quantized layers.
    ``updates = False`` sets η = 0: the memory stays as it is, and an empty linear one reads as zero - for ablations.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int = 4,
        *,
        config: OmegaConfig = OmegaConfig(),  # noqa: B008
        degree: int = 2,
        window: int = 4,
        max_lr: float = 1.0,
        decay: float = 0.1,
        clamp: float = 10.0,
        conv_size: int = 4,
        memory: str = "linear",
        hidden_dim: int | None = None,
    ) -> None:
        super().__init__()
        least = {"embed_dim": 1, "num_heads": 1, "degree": 0, "window": 1, "conv_size": 1}
        for value, name in zip((embed_dim, num_heads, degree, window, conv_size), least, strict=True):
            require_count(value, name, least[name])
        if embed_dim % num_heads:
            raise ValueError(f"num_heads was {num_heads}; it must divide embed_dim, {embed_dim}.")
        _require.require_positive(max_lr, "max_lr")
        _require.require_positive(clamp, "clamp")
        _require_memory(memory, hidden_dim, config)
        self.embed_dim, self.num_heads, self.window, self.conv_size = embed_dim, num_heads, window, conv_size
        self.max_lr, self.clamp, self.config, self.updates = max_lr, clamp, config, True
        self.stream = OmegaMlpStream(config) if memory == "mlp" else OmegaStream(config)
        self.conv = nn.Conv1d(embed_dim, embed_dim, conv_size, groups=embed_dim, bias=False)
        self.qkv_proj = nn.Linear(embed_dim, 3 * embed_dim, bias=False)
        self.gates_proj = nn.Linear(embed_dim, 3 * num_heads)
        self.g_proj = nn.Linear(embed_dim, embed_dim, bias=False)
        self.o_proj = nn.Linear(embed_dim, embed_dim, bias=False)
        self.norm = nn.RMSNorm(embed_dim // num_heads)
        head_dim = embed_dim // num_heads
        if memory == "mlp":
            rows = 4 * head_dim if hidden_dim is None else hidden_dim
            self.w1 = nn.Parameter(torch.zeros(num_heads, head_dim, rows))
            self.w2 = nn.Parameter(2 / math.sqrt(rows) * torch.randn(num_heads, rows, head_dim))
        else:
            self.coefficients = nn.Parameter(torch.tensor(_features.taylor(degree)))
        ages = torch.arange(window, dtype=torch.float32)
        self.window_logits = nn.Parameter((-decay * ages).expand(num_heads, window).clone())
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.weight[..., -1] = 1.0  # x itself at first
            self.gates_proj.weight.mul_(0.1)
            # α = 0.99, η = max_lr/4, θ = 0.1 at first
            self.gates_proj.bias.copy_(torch.tensor([4.6, -1.1, -2.2]).repeat_interleave(num_heads))

    def init_state(self, x: torch.Tensor) -> AtlasState:
        """The state before any token of a batch like x (B, T, embed_dim)."""
        batch, head_dim, like = x.shape[0], self.embed_dim // self.num_heads, upcast(x[:0])
        inputs = x.new_zeros(batch, self.conv_size - 1, self.embed_dim)
        if isinstance(self.stream, OmegaMlpStream):
            w1, w2 = (w.to(like.dtype).expand(batch, -1, -1, -1) for w in (self.w1, self.w2))
            return AtlasState(self.stream.init_state(OmegaMlpState.from_weights(w1, w2, self.window)), inputs)
        width = self.coefficients.shape[0] * head_dim
        memory = like.new_zeros(batch, self.num_heads, width, head_dim)
        k_window, v_window = (like.new_zeros(batch, self.window - 1, self.num_heads, n) for n in (width, head_dim))
        return AtlasState(self.stream.init_state(OmegaState(memory, memory, k_window, v_window)), inputs)

    @overload
    def forward(
        self,
        x: torch.Tensor,
        state: AtlasState | None = None,
        *,
        output_final_state: Literal[False] = False,
        inplace: bool = False,
    ) -> torch.Tensor: ...

    @overload
    def forward(
        self,
        x: torch.Tensor,
        state: AtlasState | None = None,
        *,
        output_final_state: Literal[True],
        inplace: bool = False,
    ) -> tuple[torch.Tensor, AtlasState]: ...

    def forward(
        self,
        x: torch.Tensor,
        state: AtlasState | None = None,
        *,
        output_final_state: bool = False,
        inplace: bool = False,
    ) -> torch.Tensor | tuple[torch.Tensor, AtlasState]:
        """y (B, T, embed_dim) of x (B, T, embed_dim), and with ``output_final_state`` the state after its tokens.

        However a sequence is split into calls, its outputs are those of one call, and so are their gradients as long as
        the state is not detached.

        state    of the tokens before x: ``init_state`` or that of the last call, None at the start of a sequence
        inplace  overwrite ``state``, where no gradient is wanted
        raises   ValueError if x or the state does not fit the layer
        """
        require_floating(x, "x")
        if x.ndim != 3 or x.shape[-1] != self.embed_dim or not x.shape[1]:
            raise ValueError(f"x had shape {tuple(x.shape)}; it must be (B, T, {self.embed_dim}), T at least 1.")
        before = self.init_state(x) if state is None else state
        inputs = torch.cat([before.inputs, x], 1)
        mixed = self.conv(inputs.mT).mT
        q, k, v = upcast(self.qkv_proj(mixed)).unflatten(-1, (3, self.num_heads, -1)).unbind(2)
        alpha, eta, theta = torch.sigmoid(upcast(self.gates_proj(x))).unflatten(-1, (3, self.num_heads)).unbind(2)
        eta = self.max_lr * eta if self.updates else torch.zeros_like(eta)
        gamma = upcast(self.window_logits).softmax(-1).expand(*x.shape[:2], -1, -1)
        # under autocast each may have its own format; a share of 0.99 needs more digits than bfloat16 has
        dtype = v.dtype
        phi_q, phi_k = self._features(q).to(dtype), self._features(k).to(dtype)
        gates = {"alpha": alpha.to(dtype), "eta": eta.to(dtype), "theta": theta.to(dtype), "gamma": gamma.to(dtype)}
        o, omega = self.stream(phi_q, phi_k, v, **gates, state=before.omega, inplace=inplace)  # type: ignore[arg-type]
        y = self.o_proj(self.norm(o.to(x.dtype)).flatten(-2) * nn.functional.silu(self.g_proj(x)))
        return (y, AtlasState(omega, inputs[:, x.shape[1] :])) if output_final_state else y

    def _features(self, x: torch.Tensor) -> torch.Tensor:
        """Keys or queries of length one, or their features, of about that length"""
        x = nn.functional.rms_norm(x, x.shape[-1:])
        if isinstance(self.stream, OmegaMlpStream):
            return x / math.sqrt(x.shape[-1])
        scale = math.sqrt(self.coefficients.shape[0] * x.shape[-1])
        return _features.elementwise(x, self.coefficients, self.clamp) / scale

    def extra_repr(self) -> str:
        return f"{self.embed_dim}, num_heads={self.num_heads}, window={self.window}, {self.config}"


def _require_memory(memory: str, hidden_dim: int | None, config: OmegaConfig) -> None:
    """A linear memory has no hidden layer, one of two layers no other objective and no clip."""
    if memory not in ("linear", "mlp"):
        raise ValueError(f"memory was {memory!r}; allowed are 'linear', 'mlp'.")
    if hidden_dim is not None:
        require_count(hidden_dim, "hidden_dim", 1)
    if memory == "linear" and hidden_dim is not None:
        raise ValueError(f"hidden_dim was {hidden_dim}; a linear memory has no hidden layer.")
    if memory == "mlp":
        require_mlp(config)
