"""Diagonal Fisher information of a score, fast: F = s² + ε(ᾱ), its smoothing, the step d = s/F and a x + b s/F."""

from trueness.optimized.fisher import functional
from trueness.optimized.fisher.functional import *  # noqa: F403

__all__: list[str] = []
__all__ += functional.__all__
