"""Denoising diffusion, fast: noise schedules, the forward process, and one step back.

    q(x_t | x_0) = N(√ᾱ_t x_0, (1 − ᾱ_t) I),      ᾱ_t = ∏_{s≤t} (1 − β_s)        (Ho, Jain & Abbeel 2020, eq. 4)

Every step is a weighted sum of two or three tensors with one weight per sample. The weights are taken from float64
tables, in float64, and rounded last; float16 and bfloat16 data are summed in float32 and rounded once. Any strides, CPU
and CUDA. Sources: Ho et al. 2020 (2006.11239); Nichol & Dhariwal 2021 (2102.09672); Karras et al. 2022 (2206.00364).
The paper counts t = 1 … T; here t = 0 … T − 1, and ᾱ_{−1} = 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch

from trueness.optimized._diffusion_common import (
    clip_bound,
    in_place,
    per_sample,
    plus,
    require_alike,
    require_count,
    require_number,
    require_offset,
    require_previous,
    require_share,
    require_steps,
    require_table,
    weight,
    weighted_sum,
)
from trueness.optimized._diffusion_sampling import Model, Progress, device_of, normal, spaced, start, steps_of, walk
from trueness.optimized._elementwise import require_floating

__all__ = [
    "GaussianDiffusion",
    "alphas_cumprod",
    "cosine_alphas_cumprod",
    "cosine_betas",
    "ddim_coefficients",
    "ddim_step",
    "karras_sigmas",
    "linear_betas",
    "p_losses",
    "p_losses_l1",
    "p_sample",
    "posterior",
    "posterior_coefficients",
    "predict_x0",
    "q_sample",
    "sigmas",
    "timesteps",
]

Device = torch.device | str | None


# -- schedules --------------------------------------------------------------------------------------------------------


def linear_betas(
    steps: int, beta_1: float, beta_T: float, *, dtype: torch.dtype = torch.float64, device: Device = None
) -> torch.Tensor:
    """β_i = β_1 + (β_T − β_1) i / (T − 1)        (Ho et al. 2020 §4: β_1 = 10⁻⁴, β_T = 0.02, T = 1000)

    steps   T    int      number of steps, at least 1
    beta_1  β_1  number   noise variance of the first step, in (0, 1)
    beta_T  β_T  number   and of the last
    returns β    (T,)     β_1 alone for T = 1
    raises  ValueError    if steps < 1 or a β lies outside (0, 1)
    """
    require_count(steps, 1)
    require_number(beta_1, "beta_1", "a number in (0, 1)", 0, 1)
    require_number(beta_T, "beta_T", "a number in (0, 1)", 0, 1)
    share = torch.arange(steps, dtype=torch.float64) / max(steps - 1, 1)
    return (beta_1 + (beta_T - beta_1) * share).to(device=device, dtype=dtype)


def cosine_alphas_cumprod(
    u: torch.Tensor, s: float, *, dtype: torch.dtype = torch.float64, device: Device = None
) -> torch.Tensor:
    """ᾱ(u) = f(u)/f(0),  f(u) = cos²(π/2 · (u + s)/(1 + s))        (Nichol & Dhariwal 2021 eq. 17: s = 0.008)

    u  u  (...)   share of the way, 0 (clean) to 1 (noise); float64 or rounded to it
    s  s  number  offset that keeps the first β from vanishing, ≥ 0
    returns ᾱ (...)  1 at u = 0, 0 at u = 1; on the device of u unless ``device`` is given
    raises  ValueError if u is not floating or s < 0
    """
    require_floating(u, "u")
    require_offset(s)
    alpha_bar: torch.Tensor = _cosine_square(u.double(), s) / _cosine_square(0.0, s)
    return alpha_bar.to(device=device, dtype=dtype)


def _cosine_square(u: Any, s: float) -> Any:
    """f(u), of a tensor or a number"""
    angle = (u + s) / (1 + s) * (math.pi / 2)
    return (angle.cos() if isinstance(angle, torch.Tensor) else math.cos(angle)) ** 2


def cosine_betas(
    steps: int, s: float, beta_max: float, *, dtype: torch.dtype = torch.float64, device: Device = None
) -> torch.Tensor:
    """β_t = min(1 − ᾱ((t+1)/T)/ᾱ(t/T), β_max)        (Nichol & Dhariwal 2021 eq. 17: s = 0.008, β_max = 0.999)

    steps     T      int     number of steps, at least 1
    s         s      number  offset, ≥ 0
    beta_max  β_max  number  largest β, in (0, 1): ᾱ(1) = 0 would make the last one 1
    returns   β      (T,)    in (0, β_max]; no lower clip
    raises    ValueError     if steps < 1, s < 0 or beta_max lies outside (0, 1)
    """
    require_count(steps, 1)
    require_number(beta_max, "beta_max", "a number in (0, 1)", 0, 1)
    alpha_bar = cosine_alphas_cumprod(torch.arange(steps + 1, dtype=torch.float64) / steps, s)
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=beta_max).to(device=device, dtype=dtype)


def karras_sigmas(
    t: torch.Tensor,
    sigma_min: float,
    sigma_max: float,
    rho: float,
    *,
    dtype: torch.dtype = torch.float64,
    device: Device = None,
) -> torch.Tensor:
    """σ(t) = (σ_max^{1/ρ} + t (σ_min^{1/ρ} − σ_max^{1/ρ}))^ρ        (Karras et al. 2022 eq. 5)

    t          t      (...)   share of the way, 0 (noise) to 1 (clean); float64 or rounded to it
    sigma_min  σ_min  number  0.002 in the paper, > 0
    sigma_max  σ_max  number  80, > 0
    rho        ρ      number  7, > 0
    returns    σ      (...)   noise scale of x = x_0 + σ z; on the device of t unless ``device`` is given
    raises     ValueError     if t is not floating or a number is not positive
    """
    require_floating(t, "t")
    for value, name in ((sigma_min, "sigma_min"), (sigma_max, "sigma_max"), (rho, "rho")):
        require_number(value, name, "a positive number", 0, math.inf)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    sigma: torch.Tensor = (high + t.double() * (low - high)) ** rho
    return sigma.to(device=device, dtype=dtype)


def timesteps(steps: int, end: float, *, dtype: torch.dtype = torch.float64, device: Device = None) -> torch.Tensor:
    """t_i = 1 + (end − 1) i / (N − 1): from noise (1) to almost clean (end), for schedules that are clean at t = 0

    steps    N  int     number of times, at least 2
    end         number  last time, in (0, 1)
    returns  t  (N,)    strictly decreasing in float64
    raises   ValueError if steps < 2 or end lies outside (0, 1)
    """
    require_count(steps, 2)
    require_number(end, "end", "a number in (0, 1): at t = 0 there is no noise and no score", 0, 1)
    return (1 + (end - 1) * (torch.arange(steps, dtype=torch.float64) / (steps - 1))).to(device=device, dtype=dtype)


def alphas_cumprod(betas: torch.Tensor, *, dtype: torch.dtype = torch.float64, device: Device = None) -> torch.Tensor:
    """ᾱ_t = ∏_{s≤t} (1 − β_s)        (Ho et al. 2020, before eq. 4)

    betas    β  (T,)  noise variances in float64, in (0, 1)
    returns  ᾱ  (T,)  share of signal variance left, decreasing; leave it in float64 for ``q_sample`` and ``predict_x0``
    raises   ValueError if betas is not a float64 tensor of one axis
    """
    require_table(betas, "betas")
    return torch.cumprod(1 - betas, 0).to(device=device, dtype=dtype)


def sigmas(alphas_cumprod: torch.Tensor, *, dtype: torch.dtype = torch.float64, device: Device = None) -> torch.Tensor:
    """σ_t = √(1 − ᾱ_t): a standard deviation, not a variance        (Ho et al. 2020 eq. 4)

    alphas_cumprod  ᾱ  (T,)  in float64, in (0, 1)
    returns         σ  (T,)
    raises          ValueError if alphas_cumprod is not a float64 tensor of one axis
    """
    require_table(alphas_cumprod, "alphas_cumprod")
    return (1 - alphas_cumprod).sqrt().to(device=device, dtype=dtype)


# -- forward process --------------------------------------------------------------------------------------------------


def q_sample(x_0: torch.Tensor, t: torch.Tensor, noise: torch.Tensor, alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) z        (Ho et al. 2020 eq. 4)

    x_0             x_0  (B, ...)  clean data; any floating dtype, strides and device
    t               t    (B,)      step of every sample, 0 … T − 1
    noise           z    (B, ...)  standard normal, like x_0
    alphas_cumprod  ᾱ    (T,)      float64
    returns         x_t  (B, ...)  dtype of x_0
    raises          ValueError if x_0 is not floating, noise is not like it, ᾱ is not float64, or t is out of range
    """
    require_floating(x_0, "x_0")
    require_alike(x_0, "x_0", noise, "noise")
    require_table(alphas_cumprod, "alphas_cumprod")
    require_steps(t, x_0, "x_0", alphas_cumprod, "alphas_cumprod")
    alpha_bar = alphas_cumprod[t.long()]
    return weighted_sum(alpha_bar.sqrt(), x_0, (1 - alpha_bar).sqrt(), noise).to(x_0.dtype)


def p_losses(prediction: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """L = mean (ε_θ − z)²        (L_simple, Ho et al. 2020 eq. 14)

    prediction  ε_θ  (...)  what the model says the noise was, given x_t and t
    noise       z    (...)  what it was, like prediction
    returns     L    ()     dtype of prediction, accumulated in float32 or float64; NaN for empty input
    raises      ValueError  if prediction is not floating or noise is not like it
    """
    difference = _difference(prediction, noise)
    return (difference * difference).mean().to(prediction.dtype)


def p_losses_l1(prediction: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """L = mean |ε_θ − z|: another convention, whose minimiser is the conditional median and not the score

    prediction  ε_θ  (...)  what the model says the noise was, given x_t and t
    noise       z    (...)  what it was, like prediction
    returns     L    ()     dtype of prediction, accumulated in float32 or float64; NaN for empty input
    raises      ValueError  if prediction is not floating or noise is not like it
    """
    return _difference(prediction, noise).abs().mean().to(prediction.dtype)


def _difference(prediction: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """ε_θ − z in the working type."""
    require_floating(prediction, "prediction")
    require_alike(prediction, "prediction", noise, "noise")
    working = torch.float64 if prediction.dtype == torch.float64 else torch.float32
    return prediction.to(working) - noise


# -- one step back ----------------------------------------------------------------------------------------------------


def predict_x0(x_t: torch.Tensor, t: torch.Tensor, eps: torch.Tensor, alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """x̂_0 = (x_t − √(1 − ᾱ_t) ε) / √ᾱ_t        (Ho et al. 2020 eq. 15); not clipped, see ``p_sample``

    x_t             x_t  (B, ...)  noisy data; any floating dtype, strides and device
    t               t    (B,)      step of every sample, 0 … T − 1
    eps             ε    (B, ...)  predicted noise, like x_t
    alphas_cumprod  ᾱ    (T,)      float64
    returns         x̂_0  (B, ...)  the inverse of ``q_sample`` when ε is the true noise; dtype of x_t
    raises          ValueError if x_t is not floating, eps is not like it, ᾱ is not float64, or t is out of range
    """
    require_floating(x_t, "x_t")
    require_alike(x_t, "x_t", eps, "eps")
    require_table(alphas_cumprod, "alphas_cumprod")
    require_steps(t, x_t, "x_t", alphas_cumprod, "alphas_cumprod")
    return _estimate(x_t, eps, alphas_cumprod[t.long()]).to(x_t.dtype)


def _estimate(x_t: torch.Tensor, eps: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
    """x̂_0 in the working type."""
    return weighted_sum(alpha_bar.rsqrt(), x_t, -((1 - alpha_bar) / alpha_bar).sqrt(), eps)


def posterior_coefficients(t: torch.Tensor, betas: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """c_0 = √ᾱ_{t−1} β_t/(1 − ᾱ_t),  c_t = √α_t (1 − ᾱ_{t−1})/(1 − ᾱ_t),  β̃_t = β_t (1 − ᾱ_{t−1})/(1 − ᾱ_t)

    t        t  (B,)  step of every sample, 0 … T − 1
    betas    β  (T,)  float64
    returns  c_0, c_t, β̃  (B,) each, float64; 1, 0, 0 at t = 0, where ᾱ_{−1} = 1
    raises   ValueError if betas is not float64 or t is not integer or out of range
    """
    require_table(betas, "betas")
    require_steps(t, t, "t", betas, "betas")
    return _coefficients(t.long(), betas, torch.cumprod(1 - betas, 0))


def _coefficients(
    t: torch.Tensor, betas: torch.Tensor, alpha_bar: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    previous = torch.where(t > 0, alpha_bar[(t - 1).clamp(min=0)], 1.0)
    beta, noisy = betas[t], 1 - alpha_bar[t]
    return previous.sqrt() * beta / noisy, (1 - beta).sqrt() * (1 - previous) / noisy, beta * (1 - previous) / noisy


def posterior(
    x_0: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor, betas: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """μ̃_t = c_0 x_0 + c_t x_t and β̃_t, of q(x_{t−1} | x_t, x_0)        (Ho et al. 2020 eq. 6-7)

    x_0      x_0  (B, ...)     clean data; any floating dtype, strides and device
    x_t      x_t  (B, ...)     noisy data, like x_0
    t        t    (B,)         step of every sample, 0 … T − 1
    betas    β    (T,)         float64
    returns  μ̃    (B, ...)     mean
             β̃    (B, 1, ...)  variance of every sample ("fixed small"), ready to multiply x; 0 at t = 0
    raises   ValueError if x_0 is not floating, x_t is not like it, betas is not float64, or t is out of range
    """
    require_floating(x_0, "x_0")
    require_alike(x_0, "x_0", x_t, "x_t")
    require_table(betas, "betas")
    require_steps(t, x_0, "x_0", betas, "betas")
    c_0, c_t, variance = _coefficients(t.long(), betas, torch.cumprod(1 - betas, 0))
    mean = weighted_sum(c_0, x_0, c_t, x_t).to(x_0.dtype)
    return mean, variance.reshape(variance.shape + (1,) * (x_0.ndim - 1)).to(x_0.dtype)


def p_sample(
    x_t: torch.Tensor, t: torch.Tensor, eps: torch.Tensor, noise: torch.Tensor, betas: torch.Tensor, clip: bool | float
) -> torch.Tensor:
    """x_{t−1} = (x_t − β_t/√(1 − ᾱ_t) ε)/√α_t + √β̃_t z,  z = 0 at t = 0        (Ho et al. 2020 Alg. 2)

    With ``clip`` the estimate x̂_0 is first held in [−c, c], and the mean is that of the posterior: μ̃_t(clip(x̂_0), x_t).

    x_t      x_t      (B, ...)  noisy data; any floating dtype, strides and device
    t        t        (B,)      step of every sample, 0 … T − 1
    eps      ε        (B, ...)  predicted noise, like x_t
    noise    z        (B, ...)  standard normal, like x_t; not looked at where t = 0
    betas    β        (T,)      float64
    clip     c                  False: Algorithm 2 as printed; True: c = 1; or the number c
    returns  x_{t−1}  (B, ...)  dtype of x_t
    raises   ValueError if x_t is not floating, eps or noise is not like it, betas is not float64, t is out of range,
             or clip is neither a bool nor positive
    """
    require_floating(x_t, "x_t")
    require_alike(x_t, "x_t", eps, "eps")
    require_alike(x_t, "x_t", noise, "noise")
    require_table(betas, "betas")
    require_steps(t, x_t, "x_t", betas, "betas")
    c, t = clip_bound(clip), t.long()
    alpha_bar = torch.cumprod(1 - betas, 0)
    c_0, c_t, variance = _coefficients(t, betas, alpha_bar)
    if c is None:
        inverse, share = (1 - betas[t]).rsqrt(), betas[t] / (1 - alpha_bar[t]).sqrt()
        mean = weighted_sum(inverse, x_t, -inverse * share, eps)
    else:
        x_0 = _estimate(x_t, eps, alpha_bar[t])
        x_0 = x_0.clamp_(-c, c) if in_place() else x_0.clamp(-c, c)
        mean = plus(x_0 * weight(c_0, x_0), c_t, x_t)
    last = (t == 0).reshape(t.shape + (1,) * (x_t.ndim - 1))
    return plus(mean, variance.sqrt(), noise.masked_fill(last, 0)).to(x_t.dtype)


def ddim_coefficients(
    t: torch.Tensor, t_prev: torch.Tensor, alphas_cumprod: torch.Tensor, eta: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """a = √ᾱ_p,  b = √(1 − ᾱ_p − σ²),  σ = η √((1 − ᾱ_p)/(1 − ᾱ_t)) √(1 − ᾱ_t/ᾱ_p)        (Song et al. 2021 eq. 12, 16)

    t               t  (B,)    step of every sample, 0 … T − 1
    t_prev          p  (B,)    the step to go to, −1 … t − 1; −1 is the data, ᾱ_{−1} = 1
    alphas_cumprod  ᾱ  (T,)    float64
    eta             η  number  0 (deterministic) to 1 (the variance β̃ of DDPM, if p = t − 1)
    returns  a, b, σ   (B,)    each, float64; 1, 0, 0 at p = −1
    raises   ValueError        if ᾱ is not float64, t or t_prev is not integer or out of range, or η lies outside [0, 1]
    """
    require_table(alphas_cumprod, "alphas_cumprod")
    require_steps(t, t, "t", alphas_cumprod, "alphas_cumprod")
    require_previous(t_prev, t)
    require_share(eta, "eta")
    return _ddim(t.long(), t_prev.long(), alphas_cumprod, eta)


def _ddim(
    t: torch.Tensor, t_prev: torch.Tensor, alphas_cumprod: torch.Tensor, eta: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The difference 1 − ᾱ_p − σ² as a product of what is not negative: no root of a negative rounding error."""
    now = alphas_cumprod[t]
    before = torch.where(t_prev < 0, 1.0, alphas_cumprod[t_prev.clamp(min=0)])
    noisy = 1 - before
    kept = (1 - eta) * (1 + eta) * (1 - now) + eta * eta * now * noisy / before
    return (
        before.sqrt(),
        (noisy * kept / (1 - now)).sqrt(),
        eta * (noisy / (1 - now) * (1 - now / before)).sqrt(),
    )


def ddim_step(
    x_t: torch.Tensor,
    t: torch.Tensor,
    t_prev: torch.Tensor,
    eps: torch.Tensor,
    noise: torch.Tensor,
    alphas_cumprod: torch.Tensor,
    eta: float,
    clip: bool | float,
    recompute_eps: bool,
) -> torch.Tensor:
    """x_p = √ᾱ_p x̂_0 + √(1 − ᾱ_p − σ²) ε + σ z        (Song et al. 2021 eq. 12; σ as in ``ddim_coefficients``)

    With ``clip`` the estimate x̂_0 is first held in [−c, c]. What it then implies about the noise is
    ε' = (x_t − √ᾱ_t x̂_0)/√(1 − ᾱ_t); ``recompute_eps`` says whether ε' takes the place of ε.

    x_t             x_t  (B, ...)  noisy data; any floating dtype, strides and device
    t               t    (B,)      step of every sample, 0 … T − 1
    t_prev          p    (B,)      the step to go to, −1 … t − 1; −1 is the data
    eps             ε    (B, ...)  predicted noise, like x_t
    noise           z    (B, ...)  standard normal, like x_t; not looked at where σ = 0
    alphas_cumprod  ᾱ    (T,)      float64
    eta             η    number    0 (deterministic) to 1
    clip            c              False: as printed; True: c = 1; or the number c
    recompute_eps        bool      True: x̂_0, ε' and x_t agree (guided-diffusion); False: the model's ε is kept
    returns         x_p  (B, ...)  dtype of x_t
    raises          ValueError if x_t is not floating, eps or noise is not like it, ᾱ is not float64, t or t_prev is out
                    of range, η lies outside [0, 1], or clip is neither a bool nor positive
    """
    require_floating(x_t, "x_t")
    require_alike(x_t, "x_t", eps, "eps")
    require_alike(x_t, "x_t", noise, "noise")
    require_table(alphas_cumprod, "alphas_cumprod")
    require_steps(t, x_t, "x_t", alphas_cumprod, "alphas_cumprod")
    require_previous(t_prev, t)
    require_share(eta, "eta")
    c, t = clip_bound(clip), t.long()
    alpha_bar = alphas_cumprod[t]
    a, b, sigma = _ddim(t, t_prev.long(), alphas_cumprod, eta)
    x_0 = _estimate(x_t, eps, alpha_bar)
    if c is not None:
        x_0 = x_0.clamp_(-c, c) if in_place() else x_0.clamp(-c, c)
    if c is not None and recompute_eps:
        b = b / (1 - alpha_bar).sqrt()
        mean = plus(x_0 * weight(a - b * alpha_bar.sqrt(), x_0), b, x_t)
    else:
        mean = plus(x_0 * weight(a, x_0), b, eps)
    return plus(mean, sigma, noise.masked_fill(per_sample(sigma == 0, x_t), 0)).to(x_t.dtype)


# -- training and sampling --------------------------------------------------------------------------------------------


class GaussianDiffusion:
    """A noise schedule with what a training loop and a sampler take from it.

        diffusion = GaussianDiffusion(cosine_betas(1000, 0.008, 0.999))
        x_t, t, noise = diffusion.training_pair(x_0, generator)
        loss = p_losses(model(x_t, t), noise)
        x = diffusion.ddpm(model, (16, 1, 8, 8), clip=True, generator=generator)

    A model is any callable ``model(x_t, t) → ε``, t (B,) in int64. A torch.nn.Module is put into eval mode while it
    samples and afterwards every part of it is as it was, also when sampling fails. Random numbers are drawn where the
    generator lives and then moved, so that a CPU generator gives the same numbers on every device.
    """

    def __init__(self, betas: torch.Tensor) -> None:
        """betas (T,) in float64; ValueError otherwise."""
        require_table(betas, "betas")
        self.betas = betas
        self.alphas_cumprod = alphas_cumprod(betas)

    @property
    def steps(self) -> int:
        return int(self.betas.shape[0])

    def to(self, device: Device) -> GaussianDiffusion:
        """The same schedule with its tables on ``device``."""
        return GaussianDiffusion(self.betas.to(device))

    def training_pair(
        self, x_0: torch.Tensor, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(x_t, t, noise) of Ho et al. 2020 Alg. 1: t uniform in 0 … T − 1, one per sample; x_t by ``q_sample``.

        x_0  (B, ...)  clean data, floating, on any device; ValueError otherwise
        """
        require_floating(x_0, "x_0")
        if x_0.ndim < 1:
            raise ValueError("x_0 had shape (); it must have a first axis of samples, (B, ...).")
        home = x_0.device if generator is None else generator.device
        t = torch.randint(self.steps, x_0.shape[:1], generator=generator, device=home).to(x_0.device)
        noise = normal(x_0.shape, x_0.dtype, x_0.device, generator)
        return q_sample(x_0, t, noise, self.alphas_cumprod.to(x_0.device)), t, noise

    def ddpm(
        self,
        model: Model,
        shape: Sequence[int],
        *,
        clip: bool | float,
        x_T: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
        device: Device = None,
        progress: Progress | None = None,
    ) -> torch.Tensor:
        """x_0 of Ho et al. 2020 Alg. 2: every step from T − 1 down to 0, the last one without noise.

        model      ε_θ(x_t, t)
        shape      (B, ...) of the samples
        clip       of ``p_sample``: True for data in [−1, 1]
        x_T        the noise to start from; drawn unless it is given
        generator  of all random numbers; torch's own unless it is given
        device     where to sample; where the model's parameters are unless it is given
        progress   called as progress(done, total) after every step
        """

        def step(x: torch.Tensor, eps: torch.Tensor, t: int, t_prev: int) -> torch.Tensor:
            noise = normal(x.shape, x.dtype, x.device, generator) if t else torch.zeros_like(x)
            return p_sample(x, steps_of(x, t), eps, noise, betas, clip)

        where = device_of(model, device)
        betas = self.betas.to(where)
        pairs = [(t, t - 1) for t in range(self.steps - 1, -1, -1)]
        x = start(shape, x_T, dtype, where, generator)
        return walk(model, x, pairs, step, progress)

    def ddim(
        self,
        model: Model,
        shape: Sequence[int],
        *,
        steps: int,
        eta: float,
        clip: bool | float,
        recompute_eps: bool,
        x_T: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
        device: Device = None,
        progress: Progress | None = None,
    ) -> torch.Tensor:
        """x_0 of Song et al. 2021 eq. 12 over ``steps`` of the T times, evenly spaced from T − 1 to 0, then to x_0.

        steps  1 … T; eta, clip and recompute_eps as in ``ddim_step``; the rest as in ``ddpm``
        """

        def step(x: torch.Tensor, eps: torch.Tensor, t: int, t_prev: int) -> torch.Tensor:
            noise = normal(x.shape, x.dtype, x.device, generator) if eta and t_prev >= 0 else torch.zeros_like(x)
            now, before = steps_of(x, t), steps_of(x, t_prev)
            return ddim_step(x, now, before, eps, noise, table, eta, clip, recompute_eps)

        require_share(eta, "eta")
        where = device_of(model, device)
        table = self.alphas_cumprod.to(where)
        times = [*spaced(self.steps, steps), -1]
        x = start(shape, x_T, dtype, where, generator)
        return walk(model, x, list(pairwise(times)), step, progress)
