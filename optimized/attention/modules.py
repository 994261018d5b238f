"""DiffiT as modules: they hold the weights; the equations are the functions of optimized/attention/functional.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from trueness.optimized._lib.validation import require_count
from trueness.optimized.attention import functional
from trueness.optimized.attention.presets import inconsistencies, stage_sides, stage_window
from trueness.optimized.attention.validation import require_group, require_heads, require_shape

Tensor = torch.Tensor
SPACE, TIME = ("w_qs", "w_ks", "w_vs"), ("w_qt", "w_kt", "w_vt")


def _weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(nn.init.xavier_uniform_(torch.empty(shape)))


class TMSA(nn.Module):
    """Time-dependent multi-head self-attention of (B, H, W, width) tokens and (B, time_width) time tokens.

    width, heads  channels and heads; heads divides width
    window        side of a window, divides H and W
    time_width    channels of the time token
    bias          whether q, k and v have one: kept as the row of a further, constant entry 1 of the time token
    """

    def __init__(self, width: int, heads: int, window: int, time_width: int, *, bias: bool = True) -> None:
        super().__init__()
        require_count(width, "width")
        require_count(window, "window")
        require_count(time_width, "time_width")
        require_heads(heads, width)
        self.heads, self.window, self.bias = heads, window, bias
        for name in SPACE:
            self.register_parameter(name, _weight(width, width))
        for name in TIME:
            weight = _weight(time_width, width)
            whole = torch.cat([weight.detach(), torch.zeros(1, width)]) if bias else weight.detach()
            self.register_parameter(name, nn.Parameter(whole))
        self.w_o = _weight(width, width)
        self.bias_table = nn.Parameter(nn.init.trunc_normal_(torch.empty((2 * window - 1) ** 2, heads), std=0.02))

    def weights(self) -> list[Tensor]:
        """The weights in the order of ``tmsa``."""
        return [getattr(self, name) for name in (*SPACE, *TIME, "w_o", "bias_table")]

    def token(self, t: Tensor) -> Tensor:
        """The time token as the weights expect it."""
        return torch.cat([t, t.new_ones(t.shape[0], 1)], 1) if self.bias else t

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        weights: list[Any] = [w.to(x.dtype) for w in self.weights()]
        weights += [self.window, self.heads]
        return functional.tmsa(x, self.token(t.to(x.dtype)), *weights)

    def extra_repr(self) -> str:
        return f"heads={self.heads}, window={self.window}, bias={self.bias}"


class DiffiTBlock(nn.Module):
    """x̂ = TMSA(LN(x), t) + x, y = MLP(LN(x̂)) + x̂ on (B, H, W, width) tokens.

    mlp_ratio  hidden channels of the MLP, in units of width
    eps        of both LayerNorms
    """

    def __init__(
        self, width: int, heads: int, window: int, time_width: int, *, mlp_ratio: int = 4, eps: float = 1e-6
    ) -> None:
        super().__init__()
        require_count(mlp_ratio, "mlp_ratio")
        self.eps = eps
        self.norm1, self.norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.tmsa = TMSA(width, heads, window, time_width)
        self.w_1, self.b_1 = _weight(width, mlp_ratio * width), nn.Parameter(torch.zeros(mlp_ratio * width))
        self.w_2, self.b_2 = _weight(mlp_ratio * width, width), nn.Parameter(torch.zeros(width))

    def weights(self) -> list[Tensor]:
        """The weights in the order of ``diffit_block``."""
        first = [self.norm1.weight, self.norm1.bias, *self.tmsa.weights()]
        return [*first, self.norm2.weight, self.norm2.bias, self.w_1, self.b_1, self.w_2, self.b_2]

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        weights: list[Any] = [w.to(x.dtype) for w in self.weights()]
        token = self.tmsa.token(t.to(x.dtype))
        weights += [self.tmsa.window, self.tmsa.heads, self.eps]
        return functional.diffit_block(x, token, *weights)


class DiffiTResBlock(nn.Module):
    """x̂ = Conv3×3(Swish(GN(x))), y = DiffiT-Block(x̂, t) + x on (B, width, H, W) feature maps.

    groups  of the GroupNorm; divides width
    """

    def __init__(
        self,
        width: int,
        heads: int,
        window: int,
        time_width: int,
        *,
        groups: int = 8,
        mlp_ratio: int = 4,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        require_group(groups, width)
        self.norm = nn.GroupNorm(groups, width, eps)
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.block = DiffiTBlock(width, heads, window, time_width, mlp_ratio=mlp_ratio, eps=eps)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        own = [self.norm.weight, self.norm.bias, self.conv.weight, self.conv.bias]
        weights: list[Any] = [w.to(x.dtype) for w in [*own, *self.block.weights()]]  # type: ignore[union-attr]
        tmsa = self.block.tmsa
        numbers: tuple[Any, ...] = (tmsa.window, tmsa.heads, self.norm.num_groups, self.norm.eps)
        return functional.diffit_resblock(x, tmsa.token(t.to(x.dtype)), *weights, *numbers)


class Conditioning(nn.Module):
    """The time token: an MLP of sines and cosines of t, plus an embedding of the label or of its absence."""

    def __init__(self, frequencies: int, width: int, classes: int) -> None:
        super().__init__()
        self.frequencies, self.classes = frequencies, classes
        self.mlp = nn.Sequential(nn.Linear(frequencies, width), nn.SiLU(), nn.Linear(width, width))
        self.labels = nn.Embedding(classes + 1, width) if classes else None  # the last one: no label

    def forward(self, t: Tensor, labels: Tensor | None, dropped: Tensor | None) -> Tensor:
        half = self.frequencies // 2
        rate = torch.exp(-math.log(10_000.0) / half * torch.arange(half, device=t.device))
        angle = t.float()[:, None] * rate
        first: Any = self.mlp[0]
        token: Tensor = self.mlp(torch.cat([angle.cos(), angle.sin()], 1).to(first.weight.dtype))
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
    resolution: int, width: int, multipliers: Sequence[int], heads: int, window: int | None, patch: int = 1
) -> None:
    found = inconsistencies(resolution, width, multipliers, heads, window, patch)
    if found:
        raise ValueError(found[0])


class DiffiT(nn.Module):
    """The U-shaped denoiser: ResBlocks at every stage on the way down, and again on the way up beside a skip.

    resolution   side of the (square) images
    channels     of the images; the output has as many
    width        channels of the first stage
    multipliers  width of every stage, in units of ``width``; the side halves from one to the next
    blocks       ResBlocks a stage and direction
    heads        attention heads, divide the width of every stage
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
        width: int = 64,
        multipliers: Sequence[int] = (1, 2),
        *,
        blocks: int = 1,
        heads: int = 4,
        window: int | None = 4,
        classes: int = 0,
        groups: int = 8,
        mlp_ratio: int = 4,
    ) -> None:
        super().__init__()
        _require_consistent(resolution, width, multipliers, heads, window)
        self.resolution, self.channels = resolution, channels
        sides, widths = stage_sides(resolution, len(multipliers)), [width * m for m in multipliers]
        time_width = 4 * width
        self.condition = Conditioning(width, time_width, classes)

        def stage(side: int, width: int) -> nn.ModuleList:
            w = stage_window(window, side)
            options = {"groups": groups, "mlp_ratio": mlp_ratio}
            return nn.ModuleList(DiffiTResBlock(width, heads, w, time_width, **options) for _ in range(blocks))

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
        width: int = 64,
        *,
        blocks: int = 2,
        heads: int = 4,
        window: int | None = None,
        patch: int = 2,
        classes: int = 0,
        learn_sigma: bool = False,
        frequencies: int = 256,
        mlp_ratio: int = 4,
    ) -> None:
        super().__init__()
        _require_consistent(resolution, width, (), heads, window, patch)
        if width % 4:
            raise ValueError(f"width was {width}; it must be a multiple of 4, for sines and cosines along two axes.")
        self.resolution, self.channels, self.patch = resolution, channels, patch
        side = resolution // patch
        w = stage_window(window, side)
        self.condition = Conditioning(frequencies, width, classes)
        self.embed = nn.Conv2d(channels, width, patch, stride=patch)
        self.blocks = nn.ModuleList(DiffiTBlock(width, heads, w, width, mlp_ratio=mlp_ratio) for _ in range(blocks))
        self.norm = nn.LayerNorm(width, 1e-6)
        self.out = nn.Linear(width, patch * patch * channels * (2 if learn_sigma else 1))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.register_buffer("positions", _positions(side, width), persistent=False)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None, dropped: Tensor | None = None) -> Tensor:
        _require_batch(x, t, labels, self.channels, self.resolution)
        token = self.condition(t, labels, dropped)
        h = self.embed(x).movedim(1, -1)
        h = h + self.positions.to(h.dtype)
        for block in self.blocks:
            h = block(h, token)
        y = self.out(self.norm(h)).unflatten(3, (self.patch, self.patch, -1))
        return y.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)  # type: ignore[no-any-return]


def _positions(side: int, width: int) -> Tensor:
    """(side, side, width): sines and cosines of the row in the first half of the channels, of the column after."""
    quarter = width // 4
    rate = torch.exp(-math.log(10_000.0) / quarter * torch.arange(quarter))
    angle = torch.arange(side)[:, None] * rate
    line = torch.cat([angle.sin(), angle.cos()], 1)
    return torch.cat([line[:, None].expand(side, side, -1), line[None].expand(side, side, -1)], 2)
