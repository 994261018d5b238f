"""Gaussian filters and the blending of overlapping tiles, fast."""

from trueness.optimized.filters import functional
from trueness.optimized.filters.functional import *  # noqa: F403

__all__: list[str] = []
__all__ += functional.__all__
