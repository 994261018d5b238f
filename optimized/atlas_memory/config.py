"""The options of the Omega rule, in one frozen dataclass."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from trueness.optimized._lib.validation import require_count
from trueness.optimized.atlas_memory.validation import require_choice, require_flag, require_positive


@dataclass(frozen=True)
class OmegaConfig:
    """Which Omega rule: all options that belong to the model, and none that only chooses how it is computed.

    chunk_size          C  int   tokens whose gradients are taken at one memory, at least 1: part of the model
    objective                    "l2": ½|kᵀM − v|², or "dot": −⟨kᵀM, v⟩
    optimizer                    "gd": U_t = S_t; "muon": U_t = NS(S_t); "muon_chunk": U_t = NS(S at the end of t's
                                 chunk), and every token of the chunk reads M̂; "norm_ema": U_t = i_t g_t/(m_t + ε),
                                 m_t = 0.9 m_{t−1} + 0.1 ‖g_t‖_F from m_0 = 0 in every call. ε = 10⁻⁸, NS by JORDAN
    lr_inside_momentum     bool  False: i_t = 1, w_t = η_t (eq. 32); True: i_t = η_t, w_t = 1 (eq. 12-13)
    read_before_update     bool  False: o_t = q_tᵀ M_t (eq. 29); True: o_t = q_tᵀ M_{t−1}; ignored by "muon_chunk"
    clip                         None, or a positive number that bounds every element of a gradient
    raises              ValueError if an option is not one of those named
    """

    chunk_size: int = 16
    _: KW_ONLY
    objective: str = "l2"
    optimizer: str = "gd"
    lr_inside_momentum: bool = False
    read_before_update: bool = False
    clip: float | None = None

    def __post_init__(self) -> None:
        require_count(self.chunk_size, "chunk_size", 1)
        require_choice(self.objective, "objective")
        require_choice(self.optimizer, "optimizer")
        require_flag(self.lr_inside_momentum, "lr_inside_momentum")
        require_flag(self.read_before_update, "read_before_update")
        if self.clip is not None:
            require_positive(self.clip, "clip")

    @property
    def squared_error(self) -> bool:
        """Whether the objective is ½|kᵀM − v|²"""
        return self.objective == "l2"

    @property
    def plain_descent(self) -> bool:
        """Whether an update is linear in the gradients: no Newton–Schulz, no norm and no clip"""
        return self.optimizer == "gd" and self.clip is None


def require_mlp(config: OmegaConfig) -> None:
    """A memory of two layers has one objective, no clip, and no average of norms."""
    if config.optimizer == "norm_ema":
        raise ValueError("optimizer was 'norm_ema'; a memory of two layers has 'gd', 'muon' and 'muon_chunk'.")
    if not config.squared_error or config.clip is not None:
        given = f"objective was {config.objective!r} and clip {config.clip!r}"
        raise ValueError(f"{given}; a memory of two layers has 'l2' and None.")


def require_descent(config: OmegaConfig) -> None:
    """Separable weights are for gradient descent without a clip."""
    if not config.plain_descent:
        given = f"optimizer was {config.optimizer!r} and clip {config.clip!r}"
        raise ValueError(f"{given}; with separable weights they must be 'gd' and None.")
