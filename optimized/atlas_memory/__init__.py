"""Atlas memory, fast: polynomial features, the Omega rule in chunks, Newton–Schulz, and the attention made of them.

``omega`` is the rule, ``OmegaConfig`` its options, ``OmegaStream`` the rule token by token, and ``AtlasAttention`` the
layer of a network.
"""

from trueness.optimized.atlas_memory.config import OmegaConfig
from trueness.optimized.atlas_memory.functional import (
    atlas_attention,
    elementwise_features,
    newton_schulz,
    newton_schulz_lowrank,
    omega,
    omega_mlp,
    omega_picard,
    omega_separable,
    taylor_coefficients,
    tensor_features,
    window_weights,
)
from trueness.optimized.atlas_memory.module import AtlasAttention, AtlasState
from trueness.optimized.atlas_memory.muon import CLASSICAL, EPS, JORDAN, LACT, POLAR_EXPRESS
from trueness.optimized.atlas_memory.state import (
    OmegaMlpState,
    OmegaMlpStreamState,
    OmegaState,
    OmegaStreamState,
    SeparableState,
)
from trueness.optimized.atlas_memory.streaming.linear import OmegaStream
from trueness.optimized.atlas_memory.streaming.mlp import OmegaMlpStream

__all__ = [
    "CLASSICAL",
    "EPS",
    "JORDAN",
    "LACT",
    "POLAR_EXPRESS",
    "AtlasAttention",
    "AtlasState",
    "OmegaConfig",
    "OmegaMlpState",
    "OmegaMlpStream",
    "OmegaMlpStreamState",
    "OmegaState",
    "OmegaStream",
    "OmegaStreamState",
    "SeparableState",
    "atlas_attention",
    "elementwise_features",
    "newton_schulz",
    "newton_schulz_lowrank",
    "omega",
    "omega_mlp",
    "omega_picard",
    "omega_separable",
    "taylor_coefficients",
    "tensor_features",
    "window_weights",
]
