"""Atlas memory, fast: polynomial features, the Omega rule in chunks, Newton–Schulz, and the attention made of them."""

from trueness.optimized.atlas_memory import functional
from trueness.optimized.atlas_memory.functional import *  # noqa: F403

__all__: list[str] = []
__all__ += functional.__all__
