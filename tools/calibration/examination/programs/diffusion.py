"""One step of diffusion in blocks of 1024 elements with a table per sample, and guidance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from trueness.tools.calibration.examination.program import NARROW, Program, fault, sabotaged
from trueness.tools.calibration.examination.programs.common import Tensor, wide

BLOCK = 1024


def combined(tensors: Sequence[Tensor], factors: Sequence[Tensor], fault: str) -> Tensor:
    """Σ_k c_k[n] x_k, c_k one number per sample, in blocks that do not care where a sample begins"""
    like = tensors[0]
    batch = like.shape[0]
    each = like[0].numel() if batch else 0
    flat = [wide(t).reshape(-1) for t in tensors]
    n = flat[0].numel()
    numbers = [f.to(flat[0].dtype) for f in factors]
    if fault == "factors of 64 samples":
        numbers = [torch.cat([f[:64], f[:1].expand(max(batch - 64, 0))]) for f in numbers]
    out = []
    for start in range(0, n, BLOCK):
        at = torch.arange(start, min(start + BLOCK, n))
        sample = at // max(each, 1)
        if fault == "one factor per block":
            sample = sample[:1].expand_as(sample)
        if fault == "position in the sample in 8 bits" and each > 256:
            sample = (at // 256) % batch
        if fault == "factors along the last axis" and like.shape[-1] == batch:
            sample = at % batch
        part = sum(c[sample] * x[at] for c, x in zip(numbers, flat, strict=True))
        if fault == "last partial block not written" and start and len(at) < BLOCK:
            part = torch.zeros_like(part)
        if fault == "block index of 16 blocks" and start >= 16 * BLOCK:
            part = sum(c[sample] * x[at - 16 * BLOCK] for c, x in zip(numbers, flat, strict=True))
        out.append(part)
    return (torch.cat(out) if out else flat[0]).reshape(like.shape).to(like.dtype)


def steps_of(t: Tensor, fault: str) -> Tensor:
    return t.to(torch.int8).long() % 256 if fault == "step in 8 bits" else t


def table_of(alphas_cumprod: Tensor, t: Tensor, like: Tensor, fault: str) -> tuple[Tensor, Tensor]:
    """√ᾱ_t and √(1 − ᾱ_t)"""
    t = steps_of(t, fault)
    if fault == "1 − ᾱ from the rounded table":
        alphas_cumprod = alphas_cumprod.to(like.dtype).double()
    if fault == "100 steps":
        t = t.clamp(max=99)
    now = alphas_cumprod[t]
    return now.sqrt(), (1 - now).sqrt()


def q_sample(x_0: Tensor, t: Tensor, noise: Tensor, alphas_cumprod: Tensor, *, fault: str = "") -> Tensor:
    signal, sigma = table_of(alphas_cumprod, t, x_0, fault)
    if fault == "noise detached":
        noise = noise.detach() + 0 * noise
    return combined((x_0, noise), (signal, sigma), fault)


def predict_x0(x_t: Tensor, t: Tensor, eps: Tensor, alphas_cumprod: Tensor, *, fault: str = "") -> Tensor:
    signal, sigma = table_of(alphas_cumprod, t, x_t, fault)
    found = combined((x_t, eps), (1 / signal, -sigma / signal), fault)
    return found.clamp(-100, 100) if fault == "held at 100" else found


def posterior(x_0: Tensor, x_t: Tensor, t: Tensor, betas: Tensor, *, fault: str = "") -> tuple[Tensor, Tensor]:
    table = torch.cumprod(1 - betas, 0)
    if fault == "product in float32":
        table = torch.cumprod(1 - betas.float(), 0).double()
    before = torch.cat([torch.ones(1, dtype=torch.float64), table[:-1]])
    if fault == "ᾱ of step −1 as that of step 0":
        before[0] = table[0]
    beta, now, earlier = betas[t], table[t], before[t]
    c_0, c_t = earlier.sqrt() * beta / (1 - now), (1 - beta).sqrt() * (1 - earlier) / (1 - now)
    variance = beta * (1 - earlier) / (1 - now)
    if fault == "weights exchanged":
        c_0, c_t = c_t, c_0
    shape = (-1, *[1] * (x_0.ndim - 1))
    return combined((x_0, x_t), (c_0, c_t), fault), variance.to(x_0.dtype).reshape(shape)


def p_sample(
    x_t: Tensor, t: Tensor, eps: Tensor, noise: Tensor, betas: Tensor, clip: Any, *, fault: str = ""
) -> Tensor:
    table = torch.cumprod(1 - betas, 0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), table[:-1]])[t]
    beta, now = betas[t], table[t]
    variance = beta * (1 - before) / (1 - now)
    spread = variance.sqrt() if fault != "noise of √β" else beta.sqrt() * (t > 0)
    if fault == "no noise in the first ten steps":
        spread = spread * (t >= 10)
    shape = (-1, *[1] * (x_t.ndim - 1))
    if clip is False:
        mean = ((1 - beta).rsqrt(), -beta / (1 - now).sqrt() * (1 - beta).rsqrt())
        return combined((x_t, eps, noise), (*mean, spread), fault)
    c = 1.0 if clip is True or fault == "clip of 1" else clip
    x_0 = predict_x0(wide(x_t).double(), t, wide(eps).double(), table).clamp(-c, c)
    c_0, c_t = before.sqrt() * beta / (1 - now), (1 - beta).sqrt() * (1 - before) / (1 - now)
    parts = zip((c_0, c_t, spread), (x_0, x_t.double(), noise.double()), strict=True)
    return sum(f.reshape(shape) * y for f, y in parts).to(x_t.dtype)  # type: ignore[union-attr]


def ddim_step(
    x_t: Tensor, t: Tensor, t_prev: Tensor, eps: Tensor, noise: Tensor, alphas_cumprod: Tensor, eta: float, clip: Any,
    recompute_eps: bool, *, fault: str = "",
) -> Tensor:  # fmt: skip
    now = alphas_cumprod[t]
    clean = t_prev < 0
    if fault == "data have the ᾱ of step 0":
        clean = torch.zeros_like(clean)
    before = torch.where(clean, 1.0, alphas_cumprod[t_prev.clamp(min=0)])
    noisy = torch.where(clean, 0.0, 1 - before)
    if fault == "η of 1 for any":
        eta = float(eta > 0)
    kept = (1 - eta) * (1 + eta) * (1 - now) + eta * eta * now * noisy / before
    a, b = before.sqrt(), (noisy * kept / (1 - now)).sqrt()
    sigma = eta * (noisy / (1 - now) * (1 - now / before)).sqrt()
    shape = (-1, *[1] * (x_t.ndim - 1))
    a, b, sigma, signal, spread = (c.reshape(shape) for c in (a, b, sigma, now.sqrt(), (1 - now).sqrt()))
    x, e = x_t.double(), eps.double()
    x_0 = (x - spread * e) / signal
    if clip is not False:
        c = 1.0 if clip is True else clip
        x_0 = x_0.clamp(-c, c)
        if recompute_eps and fault != "ε kept":
            e = (x - signal * x_0) / spread
    if fault == "noise scaled by its square":
        sigma = sigma * sigma
    return (a * x_0 + b * e + torch.where(sigma > 0, sigma * noise.double(), 0.0)).to(x_t.dtype)


def guidance(eps_cond: Tensor, eps_uncond: Tensor, w: float, *, fault: str = "") -> Tensor:
    c, u = wide(eps_cond), wide(eps_uncond)
    if fault == "w of 8 at most":
        w = min(w, 8.0)
    if fault == "unconditional for w of 0 alone":
        return (c if w == 0 else u + w * (c - u)).to(eps_cond.dtype)
    if fault == "difference in bfloat16":
        return (u + w * (c - u).bfloat16().to(u)).to(eps_cond.dtype)
    if fault == "gradient by ε_u of 1 + w":
        return (u + w * (c - u) + 2 * w * (u - u.detach())).to(eps_cond.dtype)
    if fault == "writes into ε_u":
        found = u + w * (c - u)
        eps_uncond.data.copy_(found)
        return found.to(eps_cond.dtype)
    return (u + w * (c - u)).to(eps_cond.dtype)


def three_channels(eps_cond: Tensor, eps_uncond: Tensor, w: float, *, fault: str = "") -> Tensor:
    c, u = wide(eps_cond), wide(eps_uncond)
    n = 4 if fault == "four channels" and c.shape[1] > 4 else 3
    rest = u[:, n:] if fault == "others unconditional" else c[:, n:]
    return torch.cat([u[:, :n] + w * (c[:, :n] - u[:, :n]), rest], 1).to(eps_cond.dtype)


def score_from_eps(eps: Tensor, t: Tensor, alphas_cumprod: Tensor, *, fault: str = "") -> Tensor:
    _, sigma = table_of(alphas_cumprod, t, eps, fault)
    return combined((eps,), (-1 / sigma.clamp(min=0.05 if fault == "σ of 0.05 at least" else 0),), fault)


# -- right programs of other algorithms --------------------------------------------------------------------------------


def per_sample(number: Tensor, x: Tensor) -> Tensor:
    return number.reshape(-1, *[1] * (x.ndim - 1))


def q_sample_by_addcmul(x_0: Tensor, t: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    now = per_sample(alphas_cumprod[t], x_0)
    return torch.addcmul(now.sqrt() * x_0.double(), (1 - now).sqrt(), noise.double()).to(x_0.dtype)


def q_sample_by_angle(x_0: Tensor, t: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """√ᾱ = cos φ, √(1 − ᾱ) = sin φ"""
    angle = per_sample(torch.atan2((1 - alphas_cumprod[t]).sqrt(), alphas_cumprod[t].sqrt()), x_0)
    return (torch.cos(angle) * x_0.double() + torch.sin(angle) * noise.double()).to(x_0.dtype)


def numpy_predict_x0(x_t: Any, t: Any, eps: Any, alphas_cumprod: Any) -> Any:
    now = alphas_cumprod[t].reshape(-1, *[1] * (x_t.ndim - 1))
    return (x_t / np.sqrt(now) - eps * np.sqrt(1 / now - 1)).astype(x_t.dtype)


def guidance_by_lerp(eps_cond: Tensor, eps_uncond: Tensor, w: float) -> Tensor:
    return torch.lerp(wide(eps_uncond), wide(eps_cond), w).to(eps_cond.dtype)


def guidance_by_weights(eps_cond: Tensor, eps_uncond: Tensor, w: float) -> Tensor:
    """w ε_c + (1 − w) ε_u"""
    return (w * wide(eps_cond) + (1 - w) * wide(eps_uncond)).to(eps_cond.dtype)


def paper_by_lerp(eps_cond: Tensor, eps_uncond: Tensor, w: float) -> Tensor:
    return torch.lerp(eps_uncond.double(), eps_cond.double(), 1 + w).to(eps_cond.dtype)


D = "diffusion."
STEPS = {"steps": 40, "schedule": "linear"}
MANY = {"steps": 300, "schedule": "linear"}


def sampled(kind: str, looks: str = "value", **given: Any) -> Any:
    scalars = {**STEPS, **given.pop("scalars", {})}
    sizes = {"...": given.pop("shape")} if "shape" in given else {}
    return fault(kind, looks, scalars=scalars, sizes=sizes, **given)


PROGRAMS = (
    *sabotaged(
        f"{D}q_sample",
        "blocks of 1024",
        q_sample,
        {
            "one factor per block": sampled("wrong axis", B=3, shape=(7,)),
            "last partial block not written": sampled("last partial tile", B=2, shape=(700,)),
            "position in the sample in 8 bits": sampled("narrow index", B=3, shape=(300,)),
            "factors along the last axis": sampled("wrong axis", B=4, shape=(4,)),
            "factors of 64 samples": sampled("entries beyond n not read", B=70, shape=(2,)),
            "block index of 16 blocks": sampled("grid too small", B=2, shape=(9000,)),
            "step in 8 bits": sampled("narrow index", B=9, scalars=MANY),
            "100 steps": sampled("far scalar", B=9, scalars=MANY),
            "1 − ᾱ from the rounded table": sampled(
                "cancellation", B=60, dtypes=NARROW, names=("DDPM-07d", "DDPM-07e", "DDPM-07f")
            ),
            "noise detached": sampled("gradient dropped or scaled", "gradient", B=2),
        },
    ),
    Program(f"{D}q_sample", "addcmul in float64", q_sample_by_addcmul),
    Program(f"{D}q_sample", "cosine and sine", q_sample_by_angle, dtypes=NARROW),
    *sabotaged(
        f"{D}predict_x0",
        "blocks of 1024",
        predict_x0,
        {
            "one factor per block": sampled("wrong axis", B=3, shape=(7,)),
            "last partial block not written": sampled("last partial tile", B=2, shape=(700,)),
            "held at 100": sampled("long sums and powers", B=3, factor=300.0),
            "step in 8 bits": sampled("narrow index", B=9, scalars=MANY),
        },
    ),
    Program(f"{D}predict_x0", "NumPy", numpy_predict_x0, framework="numpy", limit="eager"),
    *sabotaged(
        f"{D}posterior",
        "blocks of 1024",
        posterior,
        {
            "product in float32": sampled(
                "cancellation", B=9, dtypes=("float64", "float32"), scalars=MANY, names=("DDPM-07h",)
            ),
            "ᾱ of step −1 as that of step 0": sampled("constant", B=60, names=("DDPM-08b",)),
            "weights exchanged": sampled("order", B=6, names=("DDPM-03b",)),
            "factors of 64 samples": sampled("entries beyond n not read", B=70, shape=(2,)),
        },
    ),
    *sabotaged(
        f"{D}p_sample",
        "blocks of 1024",
        p_sample,
        {
            "last partial block not written": sampled("last partial tile", B=2, shape=(700,), scalars={"clip": False}),
            "noise of √β": sampled("constant", B=6, scalars={"clip": False}),
            "no noise in the first ten steps": sampled("far scalar", B=20, scalars={"clip": False}),
            "clip of 1": sampled("far scalar", B=6, scalars={"clip": 0.5}),
        },
    ),
    *sabotaged(
        f"{D}ddim_step",
        "in float64",
        ddim_step,
        {
            "data have the ᾱ of step 0": sampled(
                "constant", B=60, scalars={"eta": 0.0, "clip": False}, names=("DDPM-10e",)
            ),
            "η of 1 for any": sampled("far scalar", B=6, scalars={"eta": 0.5, "clip": False}),
            "ε kept": sampled(
                "order", B=6, scalars={"clip": 0.5, "recompute_eps": True, "eta": 0.0}, names=("DDPM-10b",)
            ),
            "noise scaled by its square": sampled("reduction", B=6, scalars={"eta": 1.0, "clip": False}),
        },
    ),
    *sabotaged(
        f"{D}classifier_free_guidance",
        "difference",
        guidance,
        {
            "w of 8 at most": fault("far scalar", B=3, scalars={"w": 9.0}),
            "unconditional for w of 0 alone": fault("far scalar", B=3, scalars={"w": 0.0}),
            "difference in bfloat16": fault("reduced inputs", dtypes=("float32", "float16"), B=3, scalars={"w": 4.0}),
            "gradient by ε_u of 1 + w": fault("gradient dropped or scaled", "gradient", B=3, scalars={"w": 4.0}),
            "writes into ε_u": fault("written memory", "written", B=3, scalars={"w": 4.0}),
        },
    ),
    Program(f"{D}classifier_free_guidance", "lerp", guidance_by_lerp),
    Program(f"{D}classifier_free_guidance", "two weights", guidance_by_weights),
    Program(f"{D}classifier_free_guidance_paper", "lerp in float64", paper_by_lerp),
    *sabotaged(
        f"{D}three_channel_guidance",
        "concatenated",
        three_channels,
        {
            "four channels": fault("entries beyond n not read", C=6, scalars={"w": 4.0}),
            "others unconditional": fault("order", C=5, scalars={"w": 4.0}, names=("DIFFIT-14f",)),
        },
    ),
    *sabotaged(
        f"{D}score_from_eps",
        "blocks of 1024",
        score_from_eps,
        {
            "σ of 0.05 at least": sampled("far scalar", B=60),
            "step in 8 bits": sampled("narrow index", B=9, scalars=MANY),
        },
    ),
)
