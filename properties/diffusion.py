"""The formulas of the family diffusion: schedules, the forward process, the posterior and one step back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any
from unittest import mock

import numpy as np
import torch
from hypothesis import strategies as st

from trueness.optimized import diffusion as fast
from trueness.properties import _digits
from trueness.reference import diffusion as true
from trueness.tools.inputs import Index, Real, Scalar, Table
from trueness.tools.nouns import Formula, Implementation

HO = "Ho, Jain & Abbeel 2020 (2006.11239)"
SCHEDULES = {
    "linear": lambda steps: true.linear_betas(steps, 1e-4, 0.02),
    "cosine": lambda steps: true.cosine_betas(steps, 0.008, 0.999),
}
DRAWS = {"steps": st.integers(1, 40), "schedule": st.sampled_from(tuple(SCHEDULES))}
MADE_ONCE = "a schedule is made once and not learned; the laws prove its vjp where it has one"
FULL = frozenset({"gradient", "compile", "autocast", "vmap", "graph"})


# -- what is drawn ----------------------------------------------------------------------------------------------------


def betas(steps: int, schedule: str) -> np.ndarray:
    return SCHEDULES[schedule](steps)


def alphas_cumprod(steps: int, schedule: str) -> np.ndarray:
    return true.alphas_cumprod(betas(steps, schedule))


def share(steps: int) -> np.ndarray:
    """0 … 1, the ends included."""
    return np.linspace(0, 1, steps)


def data(name: str, noise: bool = False) -> Real:
    return Real(name, dims=("B", "..."), decades=(-4.0, 1.0), unit_scale=noise)


T = Index("t", dims=("B",), below="steps")
BETAS = Table("betas", make=betas, draws=DRAWS)
ALPHAS_CUMPROD = Table("alphas_cumprod", make=alphas_cumprod, draws=DRAWS)
SHARE = {"steps": DRAWS["steps"]}


def elements(sizes: Mapping[str, Any]) -> int:
    return int(np.prod(sizes["..."], dtype=np.int64)) * int(sizes.get("B", 1)) * int(sizes.get("N", 1))


# -- measured data ----------------------------------------------------------------------------------------------------


@cache
def digits(schedule: str) -> dict[str, Any]:
    """Eight handwritten digits in [−1, 1] on their way through 100 steps, and a prediction that is 10 % off."""
    generator = np.random.default_rng(0)
    x_0 = _digits.digits()[:8].reshape(8, 8, 8)
    noise, z, error = (generator.standard_normal(x_0.shape) for _ in range(3))
    beta = betas(100, schedule)
    alpha_bar = true.alphas_cumprod(beta)
    t = np.array([0, 1, 5, 20, 50, 80, 98, 99])
    x_t = true.q_sample(x_0, t, noise, alpha_bar)
    known = {"x_0": x_0, "t": t, "noise": noise, "z": z, "x_t": x_t, "betas": beta, "alphas_cumprod": alpha_bar}
    return {**known, "eps": noise + 0.1 * error, "no clip": False, "clip": True}


def real(*names: str) -> Callable[[], Mapping[str, Sequence[Any]]]:
    def load() -> Mapping[str, Sequence[Any]]:
        if not _digits.available():
            return {}
        return {f"digits, {kind} schedule": [digits(kind)[n] for n in names] for kind in SCHEDULES}

    return load


# -- textbook versions ------------------------------------------------------------------------------------------------


def column(c: Any, x: Any) -> Any:
    """c (B,) as (B, 1, …) in the type of x, torch or NumPy."""
    cast = c.to(x.dtype) if isinstance(x, torch.Tensor) else c.astype(x.dtype)
    return cast.reshape((*c.shape, *(1,) * (x.ndim - 1)))


def eager_q_sample(x_0: Any, t: Any, noise: Any, alphas_cumprod: Any) -> Any:
    return column(alphas_cumprod[t] ** 0.5, x_0) * x_0 + column((1 - alphas_cumprod[t]) ** 0.5, x_0) * noise


def eager_mean(x: Any) -> Any:
    """np.mean, NaN without a warning for no elements."""
    total = np.add.reduce(x, axis=None, dtype=np.result_type(x, np.float32))
    return (total / x.size).astype(x.dtype)


def eager_predict_x0(x_t: Any, t: Any, eps: Any, alphas_cumprod: Any) -> Any:
    return (x_t - column((1 - alphas_cumprod[t]) ** 0.5, x_t) * eps) / column(alphas_cumprod[t] ** 0.5, x_t)


def eager_posterior(x_0: Any, x_t: Any, t: Any, betas: Any) -> Any:
    c_0, c_t, variance = eager_coefficients(t, betas)
    return column(c_0, x_0) * x_0 + column(c_t, x_t) * x_t, column(variance, x_t)


def eager_coefficients(t: Any, betas: Any) -> Any:
    alpha_bar = torch.cumprod(1 - betas, 0)
    previous = torch.cat([torch.ones_like(alpha_bar[:1]), alpha_bar[:-1]])
    variance = betas * (1 - previous) / (1 - alpha_bar)
    c_0 = betas * previous.sqrt() / (1 - alpha_bar)
    c_t = (1 - previous) * (1 - betas).sqrt() / (1 - alpha_bar)
    return c_0[t], c_t[t], variance[t]


def eager_p_sample(x_t: Any, t: Any, eps: Any, noise: Any, betas: Any, clip: Any) -> Any:
    alpha_bar = torch.cumprod(1 - betas, 0)
    if clip is False:
        share = betas / (1 - alpha_bar).sqrt()
        mean = (x_t - column(share[t], x_t) * eps) / column((1 - betas[t]).sqrt(), x_t)
        variance = column(eager_coefficients(t, betas)[2], x_t)
    else:
        x_0 = eager_predict_x0(x_t, t, eps, alpha_bar).clamp(-float(clip), float(clip))
        mean, variance = eager_posterior(x_0, x_t, t, betas)
    return mean + column(t > 0, x_t) * variance.sqrt() * noise


# -- diffusers --------------------------------------------------------------------------------------------------------


def scheduler(betas: Any = None, alphas_cumprod: Any = None, **options: Any) -> Any:
    """A DDPMScheduler on given betas, as it makes its tables; or on a given ᾱ, taken as it is."""
    from diffusers import DDPMScheduler

    if betas is not None:
        return DDPMScheduler(num_train_timesteps=len(betas), trained_betas=betas.tolist(), **options)
    made: Any = DDPMScheduler(num_train_timesteps=len(alphas_cumprod), **options)
    made.alphas_cumprod = alphas_cumprod
    return made


def step(made: Any, output: Any, t: Any, x_t: Any, noise: Any) -> tuple[Any, Any]:
    """(x_{t−1}, x̂_0) of ``DDPMScheduler.step``, one sample at a time, its random numbers replaced by ``noise``."""
    from diffusers.schedulers import scheduling_ddpm

    rows = [a.reshape(a.shape[0], 1) if a.ndim == 1 else a.flatten(1) for a in (output, x_t, noise)]
    previous, estimate = [], []
    for i, (out, x, z) in enumerate(zip(*rows, strict=True)):
        with mock.patch.object(scheduling_ddpm, "randn_tensor", lambda *_, z=z, **__: z[None]):
            result = made.step(out[None], int(t[i]), x[None])
        previous.append(result.prev_sample)
        estimate.append(result.pred_original_sample)
    return torch.cat(previous).reshape(x_t.shape), torch.cat(estimate).reshape(x_t.shape)


def diffusers_linear_betas(steps: int, beta_1: float, beta_T: float, *, dtype: Any, device: Any) -> Any:
    from diffusers import DDPMScheduler

    made: Any = DDPMScheduler(num_train_timesteps=steps, beta_start=beta_1, beta_end=beta_T, beta_schedule="linear")
    return made.betas.to(device=device, dtype=dtype, copy=True)


def diffusers_alphas_cumprod(betas: Any, *, dtype: Any, device: Any) -> Any:
    return scheduler(betas).alphas_cumprod.to(device=device, dtype=dtype, copy=True)


def diffusers_q_sample(table: Any) -> Any:
    return lambda x_0, t, noise, alphas_cumprod: scheduler(alphas_cumprod=alphas_cumprod.to(table)).add_noise(
        x_0, noise, t
    )


def diffusers_predict_x0(table: Any) -> Any:
    def call(x_t: Any, t: Any, eps: Any, alphas_cumprod: Any) -> Any:
        return step(scheduler(alphas_cumprod=alphas_cumprod.to(table), clip_sample=False), eps, t, x_t, eps)[1]

    return call


def tables(betas: Any, table: Any) -> dict[str, Any]:
    """What diffusers makes of betas, or the right table where float64 is asked for."""
    return {"betas": betas} if table is torch.float32 else {"alphas_cumprod": torch.cumprod(1 - betas, 0)}


def diffusers_posterior(table: Any) -> Any:
    def call(x_0: Any, x_t: Any, t: Any, betas: Any) -> Any:
        made = scheduler(**tables(betas, table), clip_sample=False, prediction_type="sample")
        mean, _ = step(made, x_0, t, x_t, torch.zeros_like(x_t))
        variance = torch.stack([made._get_variance(int(i)) if i > 0 else torch.zeros(()) for i in t])
        return mean, column(variance, x_t)  # step() adds none at t = 0, whatever _get_variance says

    return call


def diffusers_p_sample(table: Any) -> Any:
    def call(x_t: Any, t: Any, eps: Any, noise: Any, betas: Any, clip: Any) -> Any:
        options = {"clip_sample": clip is not False, "clip_sample_range": float(clip) or 1.0}
        return step(scheduler(**tables(betas, table), **options), eps, t, x_t, noise)[0]

    return call


def diffusers_defaults(x_t: Any, t: Any, eps: Any, noise: Any, betas: Any, clip: Any) -> Any:
    """As whoever passes no options has it: x̂_0 is clipped to [−1, 1]."""
    return step(scheduler(betas), eps, t, x_t, noise)[0]


def diffusers(call: Any, name: str = "diffusers", **fields: Any) -> Implementation:
    return Implementation(
        name, lambda: call, limit="eager", needs=("diffusers",), devices=("cpu",), origin="peer", **fields
    )


RIGHT_TABLE = "diffusers, float64 table"
TAKES_BACK = "β taken back from ᾱ has lost digits that float64 shows"
ALL_CLIPPED = "in float32 and float64 its tables show as well: see diffusers"
HALVES = ("float16", "bfloat16")
WIDE = ("float32", "float64")


# -- declarations -----------------------------------------------------------------------------------------------------


def ours(name: str, *claims: str) -> Implementation:
    return Implementation("trueness", lambda: getattr(fast, name), claims=frozenset(claims))


def peer(name: str, call: Any, framework: Any = "torch", **fields: Any) -> Implementation:
    claims = frozenset({"gradient"}) if framework == "torch" else frozenset[str]()
    return Implementation(name, lambda: call, framework, limit="eager", claims=claims, origin="peer", **fields)


def schedule(name: str, equation: str, source: str, *arguments: Any, peers: Any = (), **fields: Any) -> Formula:
    """A table: computed in float64, rounded once."""
    return Formula(
        name=f"diffusion.{name}",
        reference=getattr(true, name),
        equation=equation,
        source=source,
        arguments=arguments,
        implementations=(ours(name), *peers),
        no_gradient=MADE_ONCE,
        working="float64",
        creates=True,
        **fields,
    )


HALF_ROWS = "half formats have rows of their own: diffusers float16, diffusers bfloat16"
# of one element alone ε_θ may come so near to z that zeros pass for the loss; of four it does not
LOSS = (
    Real("prediction", dims=("...", "N"), decades=(-4.0, 1.0), shortest=4),
    Real("noise", dims=("...", "N"), unit_scale=True, shortest=4),
)

FORMULAS = (
    schedule(
        "linear_betas",
        "β_i = β_1 + (β_T − β_1) i/(T − 1)",
        f"{HO} §4",
        Scalar("steps", st.integers(1, 200)),
        Scalar("beta_1", st.floats(1e-5, 1e-3)),
        Scalar("beta_T", st.floats(2e-3, 0.5)),
        peers=(diffusers(diffusers_linear_betas, convention="DDPM-07a"),),
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
        Scalar("beta_max", st.sampled_from((0.999, 0.99))),
    ),
    schedule(
        "karras_sigmas",
        "σ(t) = (σ_max^{1/ρ} + t (σ_min^{1/ρ} − σ_max^{1/ρ}))^ρ",
        "Karras et al. 2022 (2206.00364) eq. 5",
        Table("t", make=share, draws=SHARE),
        Scalar("sigma_min", st.floats(1e-3, 0.1)),
        Scalar("sigma_max", st.floats(1.0, 100.0)),
        Scalar("rho", st.sampled_from((7.0, 1.0, 3.0))),
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
    Formula(
        name="diffusion.q_sample",
        reference=true.q_sample,
        vjp=true.q_sample_vjp,
        equation="x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) z",
        source=f"{HO} eq. 4",
        arguments=(data("x_0"), T, data("noise", True), ALPHAS_CUMPROD),
        implementations=(
            ours("q_sample", *FULL),
            peer("torch eager", eager_q_sample),
            peer("numpy", eager_q_sample, "numpy"),
            diffusers(diffusers_q_sample(torch.float32), convention="DDPM-07d", dtypes=WIDE, only=HALF_ROWS),
            diffusers(
                diffusers_q_sample(torch.float32),
                "diffusers float16",
                convention="DDPM-07e",
                dtypes=("float16",),
                only="ᾱ is cast to the dtype of the data",
            ),
            diffusers(
                diffusers_q_sample(torch.float32),
                "diffusers bfloat16",
                convention="DDPM-07f",
                dtypes=("bfloat16",),
                only="ᾱ is cast to the dtype of the data",
            ),
            diffusers(
                diffusers_q_sample(torch.float64),
                RIGHT_TABLE,
                dtypes=("float64",),
                only="add_noise casts ᾱ to the dtype of the data before it takes 1 − ᾱ",
            ),
        ),
        bytes=lambda sizes, item: 3 * item * elements(sizes),
        flops=lambda sizes: 3 * elements(sizes),
        real=real("x_0", "t", "noise", "alphas_cumprod"),
    ),
    Formula(
        name="diffusion.p_losses",
        reference=true.p_losses,
        vjp=true.p_losses_vjp,
        equation="L = mean (ε_θ − z)²",
        source=f"{HO} eq. 14",
        arguments=LOSS,
        implementations=(
            ours("p_losses", *FULL),
            peer("torch eager", torch.nn.functional.mse_loss),
            peer("numpy", lambda p, z: eager_mean((p - z) ** 2), "numpy"),
        ),
        reduction=elements,
        gradient_reduction=lambda sizes: 1,
        bytes=lambda sizes, item: 2 * item * elements(sizes),
        flops=lambda sizes: 3 * elements(sizes),
        real=real("eps", "noise"),
    ),
    Formula(
        name="diffusion.p_losses_l1",
        reference=true.p_losses_l1,
        vjp=true.p_losses_l1_vjp,
        equation="L = mean |ε_θ − z|",
        source="least absolute deviations: the minimiser is the conditional median",
        arguments=LOSS,
        implementations=(
            ours("p_losses_l1", *FULL),
            peer("torch eager", torch.nn.functional.l1_loss),
            peer("numpy", lambda p, z: eager_mean(np.abs(p - z)), "numpy"),
        ),
        reduction=elements,
        gradient_reduction=lambda sizes: 1,
        bytes=lambda sizes, item: 2 * item * elements(sizes),
        flops=lambda sizes: 3 * elements(sizes),
        real=real("eps", "noise"),
    ),
    Formula(
        name="diffusion.predict_x0",
        reference=true.predict_x0,
        vjp=true.predict_x0_vjp,
        equation="x̂_0 = (x_t − √(1 − ᾱ_t) ε)/√ᾱ_t",
        source=f"{HO} eq. 15",
        arguments=(data("x_t"), T, data("eps", True), ALPHAS_CUMPROD),
        implementations=(
            ours("predict_x0", *FULL),
            peer("torch eager", eager_predict_x0),
            peer("numpy", eager_predict_x0, "numpy"),
            diffusers(diffusers_predict_x0(torch.float32), convention="DDPM-07g"),
            diffusers(diffusers_predict_x0(torch.float64), RIGHT_TABLE),
        ),
        bytes=lambda sizes, item: 3 * item * elements(sizes),
        flops=lambda sizes: 3 * elements(sizes),
        real=real("x_t", "t", "eps", "alphas_cumprod"),
    ),
    Formula(
        name="diffusion.posterior",
        reference=true.posterior,
        vjp=true.posterior_vjp,
        equation="μ̃_t = (√ᾱ_{t−1} β_t x_0 + √α_t (1 − ᾱ_{t−1}) x_t)/(1 − ᾱ_t),  β̃_t = β_t (1 − ᾱ_{t−1})/(1 − ᾱ_t)",
        source=f"{HO} eq. 6-7",
        arguments=(data("x_0"), data("x_t"), T, BETAS),
        implementations=(
            ours("posterior", *FULL),
            peer("torch eager", eager_posterior),
            diffusers(diffusers_posterior(torch.float32), convention="DDPM-07h"),
            diffusers(diffusers_posterior(torch.float64), RIGHT_TABLE, dtypes=("float32", *HALVES), only=TAKES_BACK),
        ),
        bytes=lambda sizes, item: 3 * item * elements(sizes),
        flops=lambda sizes: 3 * elements(sizes),
        real=real("x_0", "x_t", "t", "betas"),
    ),
    Formula(
        name="diffusion.p_sample",
        reference=true.p_sample,
        vjp=true.p_sample_vjp,
        equation="x_{t−1} = (x_t − β_t/√(1 − ᾱ_t) ε)/√α_t + √β̃_t z,  z = 0 at t = 0",
        source=f"{HO} Alg. 2; with clip eq. 7 and 15",
        arguments=(
            data("x_t"),
            T,
            data("eps", True),
            data("noise", True),
            BETAS,
            Scalar("clip", st.sampled_from((False, True, 0.5, 2.0))),
        ),
        implementations=(
            ours("p_sample", *FULL),
            peer("torch eager", eager_p_sample),
            diffusers(diffusers_p_sample(torch.float32), convention="DDPM-07i"),
            diffusers(diffusers_p_sample(torch.float64), RIGHT_TABLE, dtypes=("float32", *HALVES), only=TAKES_BACK),
            diffusers(diffusers_defaults, "diffusers defaults", convention="DDPM-06a", dtypes=HALVES, only=ALL_CLIPPED),
        ),
        bytes=lambda sizes, item: 4 * item * elements(sizes),
        flops=lambda sizes: 8 * elements(sizes),
        real=lambda: {
            f"{name}, {clip}": values
            for clip in ("no clip", "clip")
            for name, values in real("x_t", "t", "eps", "z", "betas", clip)().items()
        },
    ),
)
