"""The schedules of the family diffusion: β, ᾱ and σ in discrete and in continuous time."""

from __future__ import annotations

from hypothesis import strategies as st

from trueness.properties.diffusion.draws import (
    ALPHAS_CUMPROD,
    BETAS,
    HALVES,
    HO,
    SHARE,
    between,
    diffusers,
    schedule,
    share,
)
from trueness.properties.diffusion.peers import diffusers_alphas_cumprod, diffusers_betas
from trueness.tools.spec.inputs import Scalar, Table

SONG = "Song et al. 2021 (2011.13456)"
ENDS = (
    Scalar("steps", st.integers(1, 200)),
    Scalar("beta_start", st.floats(1e-5, 1e-3)),
    Scalar("beta_end", st.floats(2e-3, 0.5)),
)
# in continuous time T is a number like the others; ``length`` is how many times are drawn
LENGTH = {"length": st.integers(1, 40)}
LONG = {"length": (300, 1000)}
RATES = (
    Scalar("steps", st.sampled_from((1000, 100, 50.5))),
    Scalar("beta_start", st.floats(1e-5, 1e-3)),
    Scalar("beta_end", st.floats(2e-3, 0.05)),
)
KARRAS = (
    Scalar("sigma_min", st.floats(1e-3, 0.1)),
    Scalar("sigma_max", st.floats(1.0, 100.0)),
    Scalar("rho", st.sampled_from((7.0, 1.0, 3.0))),
)
OFFSET = Scalar("s", st.sampled_from((0.008, 0.02, 0.001)))
FLOAT32_TABLES = "its tables are float32"


def times(name: str) -> Table:
    """0 … 1, the ends included."""
    return Table(name, make=lambda length: share(length), draws=LENGTH, far=LONG)


def times_before_one(name: str) -> Table:
    return Table(name, make=lambda length: between(length), draws=LENGTH, far=LONG)


FORMULAS = (
    schedule(
        "linear_betas",
        "β_i = β_1 + (β_T − β_1) i/(T − 1)",
        f"{HO} §4",
        *ENDS,
        peers=(diffusers(diffusers_betas("linear"), convention="DDPM-07a"),),
    ),
    schedule(
        "cosine_alphas_cumprod",
        "ᾱ(u) = f(u)/f(0),  f(u) = cos²(π/2 · (u + s)/(1 + s))",
        "Nichol & Dhariwal 2021 (2102.09672) eq. 17",
        Table("u", make=share, draws=SHARE),
        Scalar("s", st.sampled_from((0.008, 0.02, 0.001))),
    ),
    schedule(
        "cosine_betas",
        "β_t = min(1 − ᾱ((t+1)/T)/ᾱ(t/T), β_max)",
        "Nichol & Dhariwal 2021 (2102.09672) eq. 17",
        Scalar("steps", st.integers(1, 200)),
        Scalar("s", st.sampled_from((0.008, 0.02, 0.001))),
        Scalar("max_beta", st.sampled_from((0.999, 0.99))),
    ),
    schedule(
        "karras_sigmas",
        "σ(t) = (σ_max^{1/ρ} + t (σ_min^{1/ρ} − σ_max^{1/ρ}))^ρ",
        "Karras et al. 2022 (2206.00364) eq. 5",
        Table("t", make=share, draws=SHARE),
        *KARRAS,
    ),
    schedule(
        "karras_alphas_cumprod",
        "ᾱ(t) = 1/(1 + σ(t)²)",
        "Karras et al. 2022 (2206.00364) eq. 5",
        times("t"),
        *KARRAS,
    ),
    schedule(
        "quadratic_betas",
        "β_i = β_1 + (β_T − β_1) (i/(T − 1))²",
        "FastSB-OT make_schedule",
        *ENDS,
    ),
    schedule(
        "scaled_linear_betas",
        "β_i = (√β_1 + (√β_T − √β_1) i/(T − 1))²",
        "Rombach et al. 2022 (2112.10752), their code",
        *ENDS,
        peers=(diffusers(diffusers_betas("scaled_linear"), dtypes=HALVES, only=FLOAT32_TABLES),),
    ),
    schedule(
        "sigmoid_betas",
        "β_i = β_1 + (β_T − β_1)/(1 + e^{−v_i}),  v_i = −6 + 12 i/(T − 1)",
        "Xu et al. 2022 (2203.02923), their code",
        *ENDS,
        peers=(diffusers(diffusers_betas("sigmoid"), dtypes=HALVES, only=FLOAT32_TABLES),),
    ),
    schedule(
        "linear_alphas_cumprod",
        "ᾱ(u) = exp(−T (β_1 u + (β_T − β_1) u²/2))",
        f"{SONG} eq. 29",
        times("u"),
        *RATES,
    ),
    schedule(
        "quadratic_alphas_cumprod",
        "ᾱ(u) = exp(−T (β_1 u + (β_T − β_1) u³/3))",
        "FastSB-OT make_schedule",
        times("u"),
        *RATES,
    ),
    schedule(
        "linear_sde_coefficients",
        "f = −β/2,  g² = β,  β(t) = T (β_1 + (β_T − β_1) t)",
        f"{SONG} eq. 11",
        times("t"),
        *RATES,
    ),
    schedule(
        "quadratic_sde_coefficients",
        "f = −β/2,  g² = β,  β(t) = T (β_1 + (β_T − β_1) t²)",
        f"{SONG} eq. 11",
        times("t"),
        *RATES,
    ),
    schedule(
        "cosine_sde_coefficients",
        "f = −β/2,  g² = β,  β(t) = π/(1 + s) · tan(π/2 · (t + s)/(1 + s))",
        f"{SONG} eq. 11; Nichol & Dhariwal 2021 (2102.09672) eq. 17",
        times_before_one("t"),
        OFFSET,
    ),
    schedule(
        "karras_sde_coefficients",
        "f = −β/2,  g² = β,  β(t) = −2 σ σ'/(1 + σ²)",
        f"{SONG} eq. 11; Karras et al. 2022 (2206.00364) eq. 5",
        times("t"),
        *KARRAS,
    ),
    schedule(
        "power_cosine_weight",
        "w(t) = 1 + (w_max − 1) (1 − cos(π (1 − t/T)^p))/2",
        "DiffiT (2312.02139), code",
        times("t"),
        Scalar("steps", st.sampled_from((1, 2.5))),
        Scalar("w_max", st.floats(1.0, 10.0)),
        Scalar("power", st.sampled_from((4.0, 1.0, 2.0))),
    ),
    schedule(
        "timesteps",
        "t_i = 1 + (end − 1) i/(N − 1)",
        "Song et al. 2021 (2011.13456) App. C",
        Scalar("steps", st.integers(2, 200)),
        Scalar("end", st.floats(1e-3, 0.1)),
    ),
    schedule(
        "alphas_cumprod",
        "ᾱ_t = ∏_{s≤t} (1 − β_s)",
        f"{HO}, before eq. 4",
        BETAS,
        peers=(diffusers(diffusers_alphas_cumprod, convention="DDPM-07b"),),
    ),
    schedule("sigmas", "σ_t = √(1 − ᾱ_t)", f"{HO} eq. 4", ALPHAS_CUMPROD),
)
