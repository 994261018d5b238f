"""Attention of diffusion transformers: masks, windows, relative positions, TMSA, DiffiT."""

from trueness.optimized.attention import functional
from trueness.optimized.attention.functional import *  # noqa: F403
from trueness.optimized.attention.modules import TMSA, DiffiT, DiffiTBlock, DiffiTResBlock, LatentDiffiT
from trueness.optimized.attention.presets import PRESETS, Preset, inconsistencies, multiply_adds

__all__ = [
    "PRESETS",
    "TMSA",
    "DiffiT",
    "DiffiTBlock",
    "DiffiTResBlock",
    "LatentDiffiT",
    "Preset",
    "inconsistencies",
    "multiply_adds",
]
__all__ += functional.__all__
