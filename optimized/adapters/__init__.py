"""Low-rank adaptation of linear layers."""

from trueness.optimized.adapters import functional
from trueness.optimized.adapters.functional import *  # noqa: F403
from trueness.optimized.adapters.layer import LoRALinear, adapt

__all__ = ["LoRALinear", "adapt"]
__all__ += functional.__all__
