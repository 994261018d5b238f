"""The formula of the family embeddings: the sinusoidal timestep embedding, in both conventions."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from trueness.optimized import embeddings as fast
from trueness.reference import embeddings as true
from trueness.tools.spec.inputs import Real, Scalar
from trueness.tools.spec.model import Formula, Implementation

ORDERS = ("sin cos", "cos sin")
FLOAT32 = "computes in float32, whatever dtype the timesteps have"


def steps() -> dict[str, tuple[Any, ...]]:
    """Steps of a sampler of 1000 and the width of a small network, in both conventions; and an odd width."""
    t = np.array([0.0, 1.0, 20.0, 250.0, 981.0, 999.0])
    even = {f"1000 steps, shift {shift}": (t, 64, 10000.0, shift, "sin cos") for shift in (0, 1)}
    return {**even, "1000 steps, odd width": (t, 65, 10000.0, 0, "sin cos")}


def diffusers(t: Any, dim: int, max_period: float, shift: int, order: str) -> Any:
    from diffusers.models.embeddings import get_timestep_embedding

    flip = order == "cos sin"
    return get_timestep_embedding(
        t,
        dim,
        flip_sin_to_cos=flip,
        downscale_freq_shift=shift,
        max_period=max_period,  # type: ignore[arg-type]
    )


def diffusers_defaults(t: Any, dim: int, max_period: float, shift: int, order: str) -> Any:
    """With its default frequencies: half − 1."""
    return diffusers(t, dim, max_period, 1, order)


def peer(name: str, call: Any, **fields: Any) -> Implementation:
    return Implementation(
        name,
        lambda: call,
        limit="eager",
        claims=frozenset({"gradient"}),
        dtypes=("float32",),
        only=FLOAT32,
        origin="third_party",
        needs=("diffusers",),
        **fields,
    )


FORMULAS = (
    Formula(
        name="embeddings.sinusoidal",
        reference=true.sinusoidal,
        vjp=true.sinusoidal_vjp,
        equation="e(t) = [sin(ω_i t), cos(ω_i t)],  ω_i = P^{−i/(h − shift)},  h = ⌊d/2⌋",
        source="Vaswani et al. 2017 (1706.03762) §3.5, shift 0; tensor2tensor and Ho et al. 2020, shift 1",
        arguments=(
            Real("t", dims=("B",), decades=(-2.0, 1.3), spans={"B": (1, 5)}),
            Scalar("dim", st.integers(4, 11), far=(64, 301)),
            Scalar("max_period", st.sampled_from((10000.0, 100.0))),
            Scalar("shift", st.sampled_from((0, 1))),
            Scalar("order", st.sampled_from(ORDERS)),
        ),
        implementations=(
            Implementation(
                "trueness",
                lambda: fast.sinusoidal,
                claims=frozenset({"gradient", "compile", "autocast", "vmap", "jvp"}),
            ),
            peer("diffusers", diffusers),
            peer("diffusers defaults", diffusers_defaults, convention="ATLAS-03"),
        ),
        reduction=lambda sizes: int(sizes["dim"]),
        real=steps,
    ),
)
