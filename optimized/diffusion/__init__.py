"""Denoising diffusion, fast: noise schedules, the forward process, one step back, guidance, and samplers.

q(x_t | x_0) = N(√ᾱ_t x_0, (1 − ᾱ_t) I),      ᾱ_t = ∏_{s≤t} (1 − β_s)        (Ho, Jain & Abbeel 2020, eq. 4)
"""

from trueness.optimized.diffusion import gaussian, guidance, schedules, sde, steps
from trueness.optimized.diffusion.gaussian import *  # noqa: F403
from trueness.optimized.diffusion.guidance import *  # noqa: F403
from trueness.optimized.diffusion.schedules import *  # noqa: F403
from trueness.optimized.diffusion.sde import *  # noqa: F403
from trueness.optimized.diffusion.steps import *  # noqa: F403

__all__: list[str] = []
__all__ += gaussian.__all__
__all__ += guidance.__all__
__all__ += schedules.__all__
__all__ += sde.__all__
__all__ += steps.__all__
