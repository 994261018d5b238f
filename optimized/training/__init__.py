"""Training, from the gradient to the weights and to the disk."""

from trueness.optimized.training import functional
from trueness.optimized.training.functional import *  # noqa: F403

__all__: list[str] = []
__all__ += functional.__all__
