"""DiffiT as modules: they hold the weights in torch's layers; the equations are the functions of this package."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from trueness.optimized._lib.dtypes import HALVES, upcast
from trueness.optimized._lib.validation import require_count
from trueness.optimized.attention.dispatch import WindowConfig, attend, windowed_attention, without_autocast
from trueness.optimized.attention.layers import apply_plain, are_plain, call, leaves
from trueness.optimized.attention.normalization import gelu_tanh, silu
from trueness.optimized.attention.presets import inconsistencies, stage_sides, stage_window
from trueness.optimized.attention.self_attention import folded_time
from trueness.optimized.attention.validation import require_grid, require_group, require_heads, require_shape
from trueness.optimized.attention.weights import DiffiTBlockWeights, DiffiTResBlockWeights, TMSAWeights
from trueness.optimized.attention.windows import relative_position_bias

Tensor = torch.Tensor


def _linear(inputs: int, outputs: int, *, bias: bool) -> nn.Linear:
    """nn.Linear with Xavier-uniform weights and a bias of zeros."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class TMSA(nn.Module):
    """Time-dependent multi-head self-attention of (B, H, W, embed_dim) tokens and (B, time_embed_dim) time tokens.

    embed_dim, num_heads  channels and heads; num_heads divides embed_dim
    window                side of a window, divides H and W
    time_embed_dim        channels of the time token
    bias                  whether q, k and v have one: that of the projections of time, w_qt, w_kt and w_vt

    The projections are nn.Linear. While all of them are just that, one fused product reads their weights; an adapter, a
    quantized layer or one with hooks is called.
    """

    def __init__(self, embed_dim: int, num_heads: int, window: int, time_embed_dim: int, *, bias: bool = True) -> None:
        super().__init__()
        require_count(embed_dim, "embed_dim")
        require_count(window, "window")
        require_count(time_embed_dim, "time_embed_dim")
        require_heads(num_heads, embed_dim)
        self.embed_dim, self.num_heads, self.window, self.time_embed_dim = embed_dim, num_heads, window, time_embed_dim
        self.w_qs = _linear(embed_dim, embed_dim, bias=False)
        self.w_ks = _linear(embed_dim, embed_dim, bias=False)
        self.w_vs = _linear(embed_dim, embed_dim, bias=False)
        self.w_qt = _linear(time_embed_dim, embed_dim, bias=bias)
        self.w_kt = _linear(time_embed_dim, embed_dim, bias=bias)
        self.w_vt = _linear(time_embed_dim, embed_dim, bias=bias)
        self.w_o = _linear(embed_dim, embed_dim, bias=False)
        self.bias_table = nn.Parameter(nn.init.trunc_normal_(torch.empty((2 * window - 1) ** 2, num_heads), std=0.02))

    def weights(self) -> TMSAWeights:
        """The weights of the functional form, for the time token (x_t, 1): its constant entry multiplies the biases."""
        time = [self.w_qt, self.w_kt, self.w_vt]
        w_qt, w_kt, w_vt = (w.weight.mT if w.bias is None else torch.cat([w.weight.mT, w.bias[None]]) for w in time)
        w_qs, w_ks, w_vs, w_o = (w.weight.mT for w in (self.w_qs, self.w_ks, self.w_vs, self.w_o))
        return TMSAWeights(w_qs, w_ks, w_vs, w_qt, w_kt, w_vt, w_o, self.bias_table)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self._require_tokens(x, t)
        space, time = [self.w_qs, self.w_ks, self.w_vs], [self.w_qt, self.w_kt, self.w_vt]
        config = WindowConfig(self.window, self.num_heads)
        t = t.to(x.dtype)
        with without_autocast(x):
            bias = relative_position_bias(upcast(self.bias_table.to(x.dtype)), self.window)
        if are_plain([*space, *time, self.w_o]):
            with without_autocast(x):
                terms = folded_time([apply_plain(w, upcast(t)) for w in time])
                w_qkv = torch.cat([w.weight.to(x.dtype) for w in space]).mT
                return windowed_attention(x, w_qkv, terms, None, bias, self.w_o.weight.to(x.dtype).mT, config, None)
        terms = folded_time([upcast(w(t)) for w in time])
        qkv = torch.cat([w(x) for w in space], -1)
        return self.w_o(attend(qkv, terms, bias, config)).to(x.dtype)  # type: ignore[no-any-return]

    def _require_tokens(self, x: Tensor, t: Tensor) -> None:
        require_shape(x, "x", "(B, H, W, C)", 4)
        require_shape(t, "t", "(B, E)", 2)
        if x.shape[3] != self.embed_dim:
            raise ValueError(f"x had {x.shape[3]} channels; it must have embed_dim = {self.embed_dim}.")
        if tuple(t.shape) != (x.shape[0], self.time_embed_dim):
            raise ValueError(f"t had shape {tuple(t.shape)}; it must be {(x.shape[0], self.time_embed_dim)}.")
        require_grid(self.window, x.shape[1], x.shape[2])

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, window={self.window}"


def _working(module: nn.Module, x: Tensor) -> Tensor:
    """``x`` in the dtype in which ``module`` computes: half formats in float32, unless a layer must be called."""
    return upcast(x) if x.dtype in HALVES and are_plain(leaves(module)) else x


class DiffiTBlock(nn.Module):
    """x̂ = TMSA(LN(x), t) + x, y = MLP(LN(x̂)) + x̂ on (B, H, W, embed_dim) tokens.

    embed_dim, num_heads, window, time_embed_dim  as in TMSA
    mlp_ratio  hidden channels of the MLP, in units of embed_dim
    eps        of both LayerNorms
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        window: int,
        time_embed_dim: int,
        *,
        mlp_ratio: int = 4,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        require_count(mlp_ratio, "mlp_ratio")
        self.norm1, self.norm2 = nn.LayerNorm(embed_dim, eps), nn.LayerNorm(embed_dim, eps)
        self.tmsa = TMSA(embed_dim, num_heads, window, time_embed_dim)
        self.w_1 = _linear(embed_dim, mlp_ratio * embed_dim, bias=True)
        self.w_2 = _linear(mlp_ratio * embed_dim, embed_dim, bias=True)

    def weights(self) -> DiffiTBlockWeights:
        """The weights of ``diffit_block``, for the time token (x_t, 1) as in TMSA."""
        first = (self.norm1.weight, self.norm1.bias, self.tmsa.weights(), self.norm2.weight, self.norm2.bias)
        return DiffiTBlockWeights(*first, self.w_1.weight.mT, self.w_1.bias, self.w_2.weight.mT, self.w_2.bias)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        dtype, x = x.dtype, _working(self, x)
        hat = self.tmsa(call(self.norm1, x), t) + x
        y = call(self.w_2, gelu_tanh(call(self.w_1, call(self.norm2, hat)))) + hat
        return y.to(dtype)  # type: ignore[no-any-return]


class DiffiTResBlock(nn.Module):
    """x̂ = Conv3×3(Swish(GN(x))), y = DiffiT-Block(x̂, t) + x on (B, embed_dim, H, W) feature maps.

    embed_dim, num_heads, window, time_embed_dim  as in TMSA
    groups     of the GroupNorm; divides embed_dim
    mlp_ratio  hidden channels of the MLP, in units of embed_dim
    eps        of all three normalizations
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        window: int,
        time_embed_dim: int,
        *,
        groups: int = 8,
        mlp_ratio: int = 4,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        require_group(groups, embed_dim)
        self.norm = nn.GroupNorm(groups, embed_dim, eps)
        self.conv = nn.Conv2d(embed_dim, embed_dim, 3, padding=1)
        self.block = DiffiTBlock(embed_dim, num_heads, window, time_embed_dim, mlp_ratio=mlp_ratio, eps=eps)

    def weights(self) -> DiffiTResBlockWeights:
        """The weights of ``diffit_resblock``, for the time token (x_t, 1) as in TMSA."""
        bias: Any = self.conv.bias
        return DiffiTResBlockWeights(self.norm.weight, self.norm.bias, self.conv.weight, bias, self.block.weights())

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        dtype, x = x.dtype, _working(self, x)
        hat = call(self.conv, silu(call(self.norm, x)))
        y = self.block(hat.movedim(1, -1), t).movedim(-1, 1) + x
        return y.to(dtype)  # type: ignore[no-any-return]


class Conditioning(nn.Module):
    """The time token: an MLP of sines and cosines of t, plus an embedding of the label or of its absence."""

    def __init__(self, frequencies: int, embed_dim: int, classes: int) -> None:
        super().__init__()
        self.frequencies, self.classes = frequencies, classes
        self.mlp = nn.Sequential(nn.Linear(frequencies, embed_dim), nn.SiLU(), nn.Linear(embed_dim, embed_dim))
        self.labels = nn.Embedding(classes + 1, embed_dim) if classes else None  # the last one: no label

    def forward(self, t: Tensor, labels: Tensor | None, dropped: Tensor | None) -> Tensor:
        half = self.frequencies // 2
        rate = torch.exp(-math.log(10_000.0) / half * torch.arange(half, device=t.device))
        angle = t.float()[:, None] * rate
        dtype = next((p.dtype for p in self.parameters() if p.is_floating_point()), torch.float32)
        token: Tensor = self.mlp(torch.cat([angle.cos(), angle.sin()], 1).to(dtype))
        if self.labels is None:
            if labels is not None:
                raise ValueError("labels were given to a model without classes; build it with classes=…")
            return token
        absent = torch.full_like(t, self.classes, dtype=torch.long)
        chosen = absent if labels is None else labels.long()
        if dropped is not None:
            chosen = torch.where(dropped, absent, chosen)
        return token + self.labels(chosen)


def _require_batch(x: Tensor, t: Tensor, labels: Tensor | None, channels: int, resolution: int) -> None:
    require_shape(x, "x", "(B, C, H, W)", 4)
    if tuple(x.shape[1:]) != (channels, resolution, resolution):
        raise ValueError(f"x had shape {tuple(x.shape)}; it must be (B, {channels}, {resolution}, {resolution}).")
    if tuple(t.shape) != (x.shape[0],):
        raise ValueError(f"t had shape {tuple(t.shape)}; it must be ({x.shape[0]},), one time per image.")
    if labels is not None and tuple(labels.shape) != (x.shape[0],):
        raise ValueError(f"labels had shape {tuple(labels.shape)}; it must be ({x.shape[0]},), one per image.")


def _require_consistent(
    resolution: int, embed_dim: int, multipliers: Sequence[int], num_heads: int, window: int | None, patch: int = 1
) -> None:
    found = inconsistencies(resolution, embed_dim, multipliers, num_heads=num_heads, window=window, patch=patch)
    if found:
        raise ValueError(found[0])


class DiffiT(nn.Module):
    """The U-shaped denoiser: ResBlocks at every stage on the way down, and again on the way up beside a skip.

    resolution   side of the (square) images
    channels     of the images; the output has as many
    embed_dim    channels of the first stage
    multipliers  channels of every stage, in units of ``embed_dim``; the side halves from one to the next
    blocks       ResBlocks a stage and direction
    num_heads    attention heads, divide the channels of every stage
    window       side of the attention window, divides the side of every stage; None for the whole grid
    classes      number of labels; 0 for a model without
    groups       of the GroupNorms
    mlp_ratio    hidden channels of the MLPs

    ``model(x, t)`` or ``model(x, t, labels)`` or, in training, ``model(x, t, labels, dropped)``: x (B, C, H, W), t (B,)
    steps, labels (B,) integers or None for none, dropped (B,) true where the label is withheld (classifier-free
    guidance learns the unconditional score from these; the paper drops 10 %). The output starts as 0.
    """

    def __init__(
        self,
        resolution: int,
        channels: int = 3,
        embed_dim: int = 64,
        multipliers: Sequence[int] = (1, 2),
        *,
        blocks: int = 1,
        num_heads: int = 4,
        window: int | None = 4,
        classes: int = 0,
        groups: int = 8,
        mlp_ratio: int = 4,
    ) -> None:
        super().__init__()
        _require_consistent(resolution, embed_dim, multipliers, num_heads, window)
        self.resolution, self.channels = resolution, channels
        sides, widths = stage_sides(resolution, len(multipliers)), [embed_dim * m for m in multipliers]
        time_embed_dim = 4 * embed_dim
        self.condition = Conditioning(embed_dim, time_embed_dim, classes)

        def stage(side: int, width: int) -> nn.ModuleList:
            w = stage_window(window, side)
            options = {"groups": groups, "mlp_ratio": mlp_ratio}
            return nn.ModuleList(DiffiTResBlock(width, num_heads, w, time_embed_dim, **options) for _ in range(blocks))

        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(stage(s, w) for s, w in zip(sides, widths, strict=True))
        pairs = list(pairwise(widths))
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairs)
        self.grow = nn.ModuleList(nn.Conv2d(b, a, 3, padding=1) for a, b in reversed(pairs))
        self.join = nn.ModuleList(nn.Conv2d(2 * a, a, 1) for a, _ in reversed(pairs))
        self.up = nn.ModuleList(stage(s, w) for s, w in list(zip(sides, widths, strict=True))[-2::-1])
        self.head = nn.Sequential(
            nn.GroupNorm(groups, widths[0]), nn.SiLU(), nn.Conv2d(widths[0], channels, 3, padding=1)
        )
        last = self.head[2]
        nn.init.zeros_(last.weight)  # type: ignore[arg-type]
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None, dropped: Tensor | None = None) -> Tensor:
        _require_batch(x, t, labels, self.channels, self.resolution)
        token = self.condition(t, labels, dropped)
        h, skips = self.stem(x), []
        for i, stage in enumerate(self.down):
            h = self.shrink[i - 1](h) if i else h
            for block in stage:  # type: ignore[attr-defined]
                h = block(h, token)
            skips.append(h)
        skips.pop()
        for grow, join, stage in zip(self.grow, self.join, self.up, strict=True):
            h = grow(nn.functional.interpolate(h, scale_factor=2.0, mode="nearest"))
            h = join(torch.cat([h, skips.pop()], 1))
            for block in stage:  # type: ignore[attr-defined]
                h = block(h, token)
        return self.head(h)  # type: ignore[no-any-return]


class LatentDiffiT(nn.Module):
    """The flat denoiser: patches become tokens, DiffiT blocks act on all of them, tokens become patches again.

    patch        side of a patch; it divides ``resolution``
    blocks       number of transformer blocks (the paper's ImageNet models have 28)
    learn_sigma  doubles the output channels: the second half is meant for the variance

    The other arguments and the call are those of DiffiT.
    """

    positions: Tensor

    def __init__(
        self,
        resolution: int,
        channels: int = 4,
        embed_dim: int = 64,
        *,
        blocks: int = 2,
        num_heads: int = 4,
        window: int | None = None,
        patch: int = 2,
        classes: int = 0,
        learn_sigma: bool = False,
        frequencies: int = 256,
        mlp_ratio: int = 4,
    ) -> None:
        super().__init__()
        _require_consistent(resolution, embed_dim, (), num_heads, window, patch)
        if embed_dim % 4:
            raise ValueError(
                f"embed_dim was {embed_dim}; it must be a multiple of 4, for sines and cosines along two axes."
            )
        self.resolution, self.channels, self.patch = resolution, channels, patch
        side = resolution // patch
        w = stage_window(window, side)
        self.condition = Conditioning(frequencies, embed_dim, classes)
        self.embed = nn.Conv2d(channels, embed_dim, patch, stride=patch)
        self.blocks = nn.ModuleList(
            DiffiTBlock(embed_dim, num_heads, w, embed_dim, mlp_ratio=mlp_ratio) for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(embed_dim, 1e-6)
        self.out = nn.Linear(embed_dim, patch * patch * channels * (2 if learn_sigma else 1))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.register_buffer("positions", _positions(side, embed_dim), persistent=False)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None, dropped: Tensor | None = None) -> Tensor:
        _require_batch(x, t, labels, self.channels, self.resolution)
        token = self.condition(t, labels, dropped)
        h = self.embed(x).movedim(1, -1)
        h = h + self.positions.to(h.dtype)
        for block in self.blocks:
            h = block(h, token)
        y = self.out(self.norm(h)).unflatten(3, (self.patch, self.patch, -1))
        return y.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)  # type: ignore[no-any-return]


def _positions(side: int, embed_dim: int) -> Tensor:
    """(side, side, embed_dim): sines and cosines of the row in the first half of the channels, of the column after."""
    quarter = embed_dim // 4
    rate = torch.exp(-math.log(10_000.0) / quarter * torch.arange(quarter))
    angle = torch.arange(side)[:, None] * rate
    line = torch.cat([angle.sin(), angle.cos()], 1)
    return torch.cat([line[:, None].expand(side, side, -1), line[None].expand(side, side, -1)], 2)
