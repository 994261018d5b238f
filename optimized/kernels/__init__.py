"""Kernels, their random Fourier features, and the Nyström approximation, fast."""

from trueness.optimized.kernels import functional
from trueness.optimized.kernels.functional import *  # noqa: F403

__all__: list[str] = []
__all__ += functional.__all__
