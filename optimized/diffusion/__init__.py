"""Denoising diffusion, fast: noise schedules, the forward process, and one step back."""

from trueness.optimized.diffusion import schedules
from trueness.optimized.diffusion.schedules import *  # noqa: F403

__all__: list[str] = []
__all__ += schedules.__all__
