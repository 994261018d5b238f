"""Kernels, their random Fourier features, and the Nyström approximation."""

from trueness.optimized.kernels import bounds, exact, frequencies, low_rank, rff, sampling
from trueness.optimized.kernels.bounds import *  # noqa: F403
from trueness.optimized.kernels.exact import *  # noqa: F403
from trueness.optimized.kernels.frequencies import *  # noqa: F403
from trueness.optimized.kernels.low_rank import *  # noqa: F403
from trueness.optimized.kernels.rff import *  # noqa: F403
from trueness.optimized.kernels.sampling import *  # noqa: F403

__all__: list[str] = []
__all__ += bounds.__all__
__all__ += exact.__all__
__all__ += frequencies.__all__
__all__ += low_rank.__all__
__all__ += rff.__all__
__all__ += sampling.__all__
