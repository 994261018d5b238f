"""The formulas of the family diffusion: the forward process, the posterior and one step back, beside its schedules."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st

from trueness.properties.diffusion.draws import (
    ALL_CLIPPED,
    ALPHAS_CUMPROD,
    BETAS,
    DRAWS,
    FULL,
    HALF_ROWS,
    HALVES,
    HO,
    LOST_DIGITS,
    RIGHT_TABLE,
    WIDE,
    T,
    data,
    diffusers,
    earlier,
    elements,
    later,
    ours,
    peer,
    rates,
    real,
)
from trueness.properties.diffusion.peers import (
    diffusers_ddim_step,
    diffusers_defaults,
    diffusers_guidance,
    diffusers_p_sample,
    diffusers_posterior,
    diffusers_predict_x0,
    diffusers_q_sample,
    eager_mean,
    eager_p_sample,
    eager_posterior,
    eager_predict_x0,
    eager_q_sample,
)
from trueness.properties.diffusion.schedules import FORMULAS as SCHEDULE_FORMULAS
from trueness.reference import diffusion as true
from trueness.tools.spec.inputs import Made, Real, Scalar
from trueness.tools.spec.model import Formula

# with one element ε_θ may be so close to z that zero passes for the loss; with four it is not
LOSS = (
    Real("prediction", dims=("...", "N"), decades=(-4.0, 1.0), shortest=4),
    Real("noise", dims=("...", "N"), unit_scale=True, shortest=4),
)

GUIDANCE = "Ho & Salimans 2022 (2207.12598) eq. 6"
W = Scalar("w", st.sampled_from((4.0, 1.5, 0.0, 7.5)), far=(1.0, 12.5, 40.0))
PREDICTIONS = (data("eps_cond", True), data("eps_uncond", True), W)
CHANNELS = {"B": (1, 3), "C": (1, 6)}
PAPERS_W = Scalar("w", st.sampled_from((3.0, 0.5, -0.5, 6.5)), far=(0.0, 12.5, 40.0))
PAPERS = (data("eps_cond", True), data("eps_uncond", True), PAPERS_W)
AS_PRINTED = "1 − ᾱ_p − σ² as printed has lost digits that float64 shows; float32 is enough for an oracle"
ONE_FORMAT = "one format is enough for an oracle"
PRODUCTS = {"overflow": "products and differences of bfloat16's largest number overflow float32"}

FORMULAS = (
    *SCHEDULE_FORMULAS,
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
            diffusers(diffusers_posterior(torch.float64), RIGHT_TABLE, dtypes=("float32", *HALVES), only=LOST_DIGITS),
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
            diffusers(diffusers_p_sample(torch.float64), RIGHT_TABLE, dtypes=("float32", *HALVES), only=LOST_DIGITS),
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
    Formula(
        name="diffusion.ddim_step",
        policies=PRODUCTS,
        reference=true.ddim_step,
        vjp=true.ddim_step_vjp,
        equation="x_p = √ᾱ_p x̂_0 + √(1 − ᾱ_p − σ²) ε + σ z,  σ = η √((1 − ᾱ_p)/(1 − ᾱ_t)) √(1 − ᾱ_t/ᾱ_p)",
        source="Song, Meng & Ermon 2021 (2010.02502) eq. 12 and 16",
        arguments=(
            data("x_t"),
            Made("t", make=later, draws=DRAWS, array=True),
            Made("t_prev", make=earlier, draws=DRAWS, array=True),
            data("eps", True),
            data("noise", True),
            ALPHAS_CUMPROD,
            Scalar("eta", st.sampled_from((0.0, 1.0, 0.5))),
            Scalar("clip", st.sampled_from((False, True, 0.5, 2.0))),
            Scalar("recompute_eps", st.booleans()),
        ),
        implementations=(
            ours("ddim_step", "gradient", "autocast", "vmap"),
            diffusers(
                diffusers_ddim_step(),
                RIGHT_TABLE,
                dtypes=("float32",),
                only=AS_PRINTED,
            ),
            diffusers(
                diffusers_ddim_step(False),
                "diffusers, set_alpha_to_one=False",
                convention="DDPM-10e",
                dtypes=("float32",),
                only=ONE_FORMAT,
            ),
        ),
        real=lambda: {
            f"{name}, {clip}, η = {eta}": (*values, eta, clip == "clip", True)
            for clip, eta in (("no clip", 0.5), ("clip", 1.0), ("clip", 0.0))
            for name, values in real("x_t", "t", "t_prev", "eps", "z", "alphas_cumprod")().items()
        },
    ),
    Formula(
        name="diffusion.classifier_free_guidance",
        policies=PRODUCTS,
        reference=true.classifier_free_guidance,
        vjp=true.classifier_free_guidance_vjp,
        equation="ε = ε_u + w (ε_c − ε_u)",
        source=GUIDANCE,
        arguments=PREDICTIONS,
        implementations=(
            ours("classifier_free_guidance", *FULL),
            peer("diffusers", diffusers_guidance(False), needs=("diffusers",), dtypes=("float32",), only=ONE_FORMAT),
        ),
        bytes=lambda sizes, item: 3 * item * elements(sizes),
        flops=lambda sizes: 3 * elements(sizes),
        real=real("noise", "eps", "guidance"),
    ),
    Formula(
        name="diffusion.classifier_free_guidance_paper",
        reference=true.classifier_free_guidance_paper,
        vjp=true.classifier_free_guidance_paper_vjp,
        equation="ε = (1 + w) ε_c − w ε_u",
        source=GUIDANCE,
        arguments=PAPERS,
        implementations=(
            ours("classifier_free_guidance_paper", "gradient", "autocast", "vmap"),
            peer(
                "diffusers, original formulation",
                diffusers_guidance(True),
                needs=("diffusers",),
                dtypes=("float32",),
                only=ONE_FORMAT,
            ),
        ),
        real=real("noise", "eps", "guidance"),
    ),
    Formula(
        name="diffusion.three_channel_guidance",
        policies=PRODUCTS,
        reference=true.three_channel_guidance,
        vjp=true.three_channel_guidance_vjp,
        equation="ε_k = ε_u,k + w (ε_c,k − ε_u,k) for k < 3,  ε_k = ε_c,k for the others",
        source="Peebles & Xie 2023 (2212.09748), code",
        arguments=(
            Real("eps_cond", dims=("B", "C", "..."), unit_scale=True, spans=CHANNELS),
            Real("eps_uncond", dims=("B", "C", "..."), unit_scale=True, spans=CHANNELS),
            W,
        ),
        implementations=(ours("three_channel_guidance", "gradient", "autocast", "vmap"),),
    ),
    Formula(
        name="diffusion.score_from_eps",
        reference=true.score_from_eps,
        vjp=true.score_from_eps_vjp,
        equation="∇ log p_t(x_t) = −ε/√(1 − ᾱ_t)",
        source="Song et al. 2021 (2011.13456) eq. 7 and 13 with Ho et al. 2020 eq. 14",
        arguments=(data("eps", True), T, ALPHAS_CUMPROD),
        implementations=(ours("score_from_eps", "gradient", "autocast", "vmap"),),
        real=real("eps", "t", "alphas_cumprod"),
    ),
    Formula(
        name="diffusion.probability_flow_drift",
        reference=true.probability_flow_drift,
        vjp=true.probability_flow_drift_vjp,
        equation="dx/dt = f x − ½ g² ∇ log p",
        source="Song et al. 2021 (2011.13456) eq. 13",
        arguments=(
            data("x"),
            data("score"),
            Made("f", make=lambda known, generator: -rates(known, generator) / 2, array=True),
            Made("g_squared", make=rates, array=True),
        ),
        implementations=(ours("probability_flow_drift", "gradient", "autocast", "vmap"),),
    ),
)
