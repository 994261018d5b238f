"""The four DiffiT models of the paper as configurations, the rules a configuration has to keep, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trueness.optimized._lib.validation import require_count


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One model.

    resolution   side of the images it is given; of the latents, where it works on latents
    channels     of these images or latents
    embed_dim    channels of the first stage, or of all tokens of a flat model
    multipliers  channels of every stage, in units of ``embed_dim``; empty for a flat model
    blocks       DiffiT ResBlocks a stage, or transformer blocks of a flat model
    num_heads    attention heads
    window       side of the attention window; None for all tokens
    patch        side of the patch that becomes one token (1: every pixel)
    classes      number of labels; 0 without labels
    learn_sigma  whether the variance is predicted too, which doubles the output channels
    batch, thousands of images   how it is trained: iterations are 1000 · kimg / batch
    """

    resolution: int
    channels: int
    embed_dim: int
    multipliers: tuple[int, ...]
    blocks: int
    num_heads: int
    window: int | None
    patch: int = 1
    classes: int = 0
    learn_sigma: bool = False
    batch: int = 256
    kimg: int = 200_000

    @property
    def sides(self) -> tuple[int, ...]:
        """The side of the token grid at every stage."""
        return stage_sides(self.resolution // self.patch, max(len(self.multipliers), 1))

    @property
    def iterations(self) -> int:
        """Steps of the optimiser in ``kimg`` thousand images."""
        return self.kimg * 1000 // self.batch


PRESETS = {
    "cifar10": Preset(
        resolution=32,
        channels=3,
        embed_dim=128,
        multipliers=(1, 2, 2),
        blocks=2,
        num_heads=4,
        window=4,
        batch=512,
        kimg=200_000,
    ),
    "ffhq64": Preset(
        resolution=64,
        channels=3,
        embed_dim=128,
        multipliers=(1, 2, 2, 2),
        blocks=4,
        num_heads=4,
        window=8,
        batch=256,
        kimg=200_000,
    ),
    "imagenet256": Preset(
        resolution=32,
        channels=4,
        embed_dim=1152,
        multipliers=(),
        blocks=28,
        num_heads=16,
        window=None,
        patch=2,
        classes=1000,
        learn_sigma=True,
        kimg=1_000_000,
    ),
    "imagenet512": Preset(
        resolution=64,
        channels=4,
        embed_dim=1152,
        multipliers=(),
        blocks=28,
        num_heads=16,
        window=None,
        patch=2,
        classes=1000,
        learn_sigma=True,
        batch=512,
        kimg=1_000_000,
    ),
}


def stage_sides(resolution: int, stages: int) -> tuple[int, ...]:
    """resolution, resolution/2, … for that many stages."""
    return tuple(resolution // 2**i for i in range(stages))


def stage_window(window: int | None, side: int) -> int:
    """The window of a stage: the whole grid where it is None or the grid is smaller."""
    return side if window is None else min(window, side)


def inconsistencies(
    resolution: int,
    embed_dim: int,
    multipliers: Sequence[int],
    *,
    num_heads: int,
    window: int | None,
    patch: int = 1,
) -> list[str]:
    """Why a configuration cannot be built, one sentence each; empty when it can."""
    found: list[str] = []
    if resolution % patch:
        found.append(f"patch was {patch} on a side of {resolution}; it must divide it.")
        return found
    side, stages = resolution // patch, max(len(multipliers), 1)
    if side % 2 ** (stages - 1):
        found.append(f"multipliers has {stages} stages, but a side of {side} cannot be halved {stages - 1} times.")
        return found
    for each, m in zip(stage_sides(side, stages), multipliers or (1,), strict=True):
        if embed_dim * m % num_heads:
            found.append(f"num_heads was {num_heads} for a stage of {embed_dim * m} channels; it must divide them.")
        w = stage_window(window, each)
        if each % w:
            found.append(f"window was {w} on a stage of {each} × {each}; it must divide it.")
    return found


def multiply_adds(height: int, width: int, channels: int, window: int) -> int:
    """4 N C² + 2 N w² C for N = H W tokens: four projections of space, scores and mixing inside windows.

    With w² = N it is global attention; the two attention terms shrink by w²/(H W).
    """
    for value, name in ((height, "height"), (width, "width"), (channels, "channels"), (window, "window")):
        require_count(value, name)
    tokens = height * width
    return 4 * tokens * channels**2 + 2 * tokens * window**2 * channels
