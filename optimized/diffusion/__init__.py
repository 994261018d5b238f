"""Denoising diffusion, fast: noise schedules, the forward process, and one step back."""

from trueness.optimized.diffusion import functional
from trueness.optimized.diffusion.functional import *  # noqa: F403

__all__: list[str] = []
__all__ += functional.__all__
