"""Denoising diffusion, fast: noise schedules, the forward process, and one step back.

    q(x_t | x_0) = N(√ᾱ_t x_0, (1 − ᾱ_t) I),      ᾱ_t = ∏_{s≤t} (1 − β_s)        (Ho, Jain & Abbeel 2020, eq. 4)

Every step is a weighted sum of two or three tensors with one weight per sample. The weights are taken from float64
tables, in float64, and rounded last; float16 and bfloat16 data are summed in float32 and rounded once. Any strides, CPU
and CUDA. Sources: Ho et al. 2020 (2006.11239); Nichol & Dhariwal 2021 (2102.09672); Karras et al. 2022 (2206.00364).
The paper counts t = 1 … T; here t = 0 … T − 1, and ᾱ_{−1} = 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch

from trueness.optimized._lib.validation import require_count, require_floating
from trueness.optimized.diffusion.sampling import Model, Progress, device_of, normal, spaced, start, steps_of, walk
from trueness.optimized.diffusion.validation import (
    clip_bound,
    in_place,
    per_sample,
    plus,
    require_alike,
    require_number,
    require_offset,
    require_previous,
    require_share,
    require_steps,
    require_table,
    require_weights,
    weight,
    weighted_sum,
)

__all__ = [
    "GaussianDiffusion",
    "alphas_cumprod",
    "classifier_free_guidance",
    "classifier_free_guidance_paper",
    "cosine_alphas_cumprod",
    "cosine_betas",
    "cosine_sde_coefficients",
    "ddim_coefficients",
    "ddim_step",
    "karras_alphas_cumprod",
    "karras_sde_coefficients",
    "karras_sigmas",
    "linear_alphas_cumprod",
    "linear_betas",
    "linear_sde_coefficients",
    "p_losses",
    "p_losses_l1",
    "p_sample",
    "posterior",
    "posterior_coefficients",
    "power_cosine_weight",
    "predict_x0",
    "probability_flow_drift",
    "q_sample",
    "quadratic_alphas_cumprod",
    "quadratic_betas",
    "quadratic_sde_coefficients",
    "scaled_linear_betas",
    "score_from_eps",
    "sigmas",
    "sigmoid_betas",
    "three_channel_guidance",
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
    return (beta_1 + (beta_T - beta_1) * _share(steps, beta_1, beta_T)).to(device=device, dtype=dtype)


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
    require_count(steps, "steps", 1)
    require_number(beta_max, "beta_max", "a number in (0, 1)", 0, 1)
    alpha_bar = cosine_alphas_cumprod(torch.arange(steps + 1, dtype=torch.float64) / steps, s)
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=beta_max).to(device=device, dtype=dtype)


def quadratic_betas(
    steps: int, beta_1: float, beta_T: float, *, dtype: torch.dtype = torch.float64, device: Device = None
) -> torch.Tensor:
    """β_i = β_1 + (β_T − β_1) (i/(T − 1))²: quadratic in i; for the square of a line see ``scaled_linear_betas``

    steps   T    int      number of steps, at least 1
    beta_1  β_1  number   noise variance of the first step, in (0, 1)
    beta_T  β_T  number   and of the last
    returns β    (T,)     β_1 alone for T = 1
    raises  ValueError    if steps < 1 or a β lies outside (0, 1)
    """
    return (beta_1 + (beta_T - beta_1) * _share(steps, beta_1, beta_T) ** 2).to(device=device, dtype=dtype)


def scaled_linear_betas(
    steps: int, beta_1: float, beta_T: float, *, dtype: torch.dtype = torch.float64, device: Device = None
) -> torch.Tensor:
    """β_i = (√β_1 + (√β_T − √β_1) i/(T − 1))²        (latent diffusion, Rombach et al. 2022 (2112.10752), their code)

    steps   T    int      number of steps, at least 1
    beta_1  β_1  number   noise variance of the first step, in (0, 1)
    beta_T  β_T  number   and of the last
    returns β    (T,)     β_1 alone for T = 1
    raises  ValueError    if steps < 1 or a β lies outside (0, 1)
    """
    share = _share(steps, beta_1, beta_T)
    first, last = math.sqrt(beta_1), math.sqrt(beta_T)
    return ((first + (last - first) * share) ** 2).to(device=device, dtype=dtype)


def sigmoid_betas(
    steps: int, beta_1: float, beta_T: float, *, dtype: torch.dtype = torch.float64, device: Device = None
) -> torch.Tensor:
    """β_i = β_1 + (β_T − β_1)/(1 + e^{−v_i}),  v_i = −6 + 12 i/(T − 1)        (Xu et al. 2022 (2203.02923), code)

    steps   T    int      number of steps, at least 1
    beta_1  β_1  number   lower limit, in (0, 1)
    beta_T  β_T  number   upper limit; neither is reached: 1/(1 + e⁶) = 0.0025 of the way is left at either end
    returns β    (T,)
    raises  ValueError    if steps < 1 or a β lies outside (0, 1)
    """
    v = 12 * _share(steps, beta_1, beta_T) - 6
    return (beta_1 + (beta_T - beta_1) * v.sigmoid()).to(device=device, dtype=dtype)


def _share(steps: int, beta_1: float, beta_T: float) -> torch.Tensor:
    """i/(T − 1) in float64, the arguments of a schedule of β being what they must be."""
    require_count(steps, "steps", 1)
    require_number(beta_1, "beta_1", "a number in (0, 1)", 0, 1)
    require_number(beta_T, "beta_T", "a number in (0, 1)", 0, 1)
    return torch.arange(steps, dtype=torch.float64) / max(steps - 1, 1)


def linear_alphas_cumprod(
    u: torch.Tensor,
    steps: float,
    beta_1: float,
    beta_T: float,
    *,
    dtype: torch.dtype = torch.float64,
    device: Device = None,
) -> torch.Tensor:
    """ᾱ(u) = exp(−T (β_1 u + (β_T − β_1) u²/2)): the limit of ``linear_betas`` for many steps        (Song 2021 eq. 29)

    u       u    (...)   share of the way, 0 (clean) to 1 (noise); float64 or rounded to it
    steps   T    number  steps that the β are counted in, 1000 for Ho et al., > 0
    beta_1  β_1  number  noise variance of the first step, > 0
    beta_T  β_T  number  and of the last, > 0
    returns ᾱ    (...)   1 at u = 0; on the device of u unless ``device`` is given
    raises  ValueError   if u is not floating or a number is not positive
    """
    require_floating(u, "u")
    _require_rates(steps, beta_1, beta_T)
    u = u.double()
    return torch.exp(-steps * (beta_1 * u + (beta_T - beta_1) * u**2 / 2)).to(device=device, dtype=dtype)


def quadratic_alphas_cumprod(
    u: torch.Tensor,
    steps: float,
    beta_1: float,
    beta_T: float,
    *,
    dtype: torch.dtype = torch.float64,
    device: Device = None,
) -> torch.Tensor:
    """ᾱ(u) = exp(−T (β_1 u + (β_T − β_1) u³/3)): the limit of ``quadratic_betas`` for many steps

    u       u    (...)   share of the way, 0 (clean) to 1 (noise); float64 or rounded to it
    steps   T    number  steps that the β are counted in, > 0
    beta_1  β_1  number  noise variance of the first step, > 0
    beta_T  β_T  number  and of the last, > 0
    returns ᾱ    (...)   1 at u = 0; on the device of u unless ``device`` is given
    raises  ValueError   if u is not floating or a number is not positive
    """
    require_floating(u, "u")
    _require_rates(steps, beta_1, beta_T)
    u = u.double()
    return torch.exp(-steps * (beta_1 * u + (beta_T - beta_1) * u**3 / 3)).to(device=device, dtype=dtype)


def _require_rates(steps: float, beta_1: float, beta_T: float) -> None:
    for value, name in ((steps, "steps"), (beta_1, "beta_1"), (beta_T, "beta_T")):
        require_number(value, name, "a positive number", 0, math.inf)


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
    sigma, _ = _karras(t, sigma_min, sigma_max, rho)
    return sigma.to(device=device, dtype=dtype)


def karras_alphas_cumprod(
    t: torch.Tensor,
    sigma_min: float,
    sigma_max: float,
    rho: float,
    *,
    dtype: torch.dtype = torch.float64,
    device: Device = None,
) -> torch.Tensor:
    """ᾱ(t) = 1/(1 + σ(t)²): the share of signal variance that makes x/√(1 + σ²) variance preserving; σ as Karras eq. 5

    t          t      (...)   share of the way, 0 (noise) to 1 (clean); float64 or rounded to it: ᾱ grows with t
    sigma_min  σ_min  number  0.002 in the paper, > 0
    sigma_max  σ_max  number  80, > 0
    rho        ρ      number  7, > 0
    returns    ᾱ      (...)   on the device of t unless ``device`` is given
    raises     ValueError     if t is not floating or a number is not positive
    """
    sigma, _ = _karras(t, sigma_min, sigma_max, rho)
    return (1 / (1 + sigma**2)).to(device=device, dtype=dtype)


def _karras(
    t: torch.Tensor, sigma_min: float, sigma_max: float, rho: float
) -> tuple[torch.Tensor, Callable[[], torch.Tensor]]:
    """σ(t) and what computes σ'(t), in float64."""
    require_floating(t, "t")
    for value, name in ((sigma_min, "sigma_min"), (sigma_max, "sigma_max"), (rho, "rho")):
        require_number(value, name, "a positive number", 0, math.inf)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    root: torch.Tensor = high + t.double() * (low - high)
    return root**rho, lambda: rho * (low - high) * root ** (rho - 1)


def timesteps(steps: int, end: float, *, dtype: torch.dtype = torch.float64, device: Device = None) -> torch.Tensor:
    """t_i = 1 + (end − 1) i / (N − 1): from noise (1) to almost clean (end), for schedules that are clean at t = 0

    steps    N  int     number of times, at least 2
    end         number  last time, in (0, 1)
    returns  t  (N,)    strictly decreasing in float64
    raises   ValueError if steps < 2 or end lies outside (0, 1)
    """
    require_count(steps, "steps", 2)
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


# -- guidance ---------------------------------------------------------------------------------------------------------


def classifier_free_guidance(eps_cond: torch.Tensor, eps_uncond: torch.Tensor, w: float) -> torch.Tensor:
    """ε = ε_u + w (ε_c − ε_u)        (as implementations count w: 0 is unconditional, 1 conditional)

    eps_cond    ε_c  (...)   noise predicted with the condition; any floating dtype, strides and device
    eps_uncond  ε_u  (...)   and without it, like eps_cond
    w           w    number  guidance scale; w = 1 + the w of Ho & Salimans
    returns     ε    (...)   dtype of eps_cond
    raises      ValueError   if eps_cond is not floating, eps_uncond is not like it, or w is not a finite number
    """
    _require_predictions(eps_cond, eps_uncond, w)
    return _guided(eps_cond, eps_uncond, w).to(eps_cond.dtype)


def classifier_free_guidance_paper(eps_cond: torch.Tensor, eps_uncond: torch.Tensor, w: float) -> torch.Tensor:
    """ε = (1 + w) ε_c − w ε_u        (Ho & Salimans 2022 eq. 6: −1 is unconditional, 0 conditional)

    eps_cond    ε_c  (...)   noise predicted with the condition; any floating dtype, strides and device
    eps_uncond  ε_u  (...)   and without it, like eps_cond
    w           w    number  guidance strength
    returns     ε    (...)   dtype of eps_cond
    raises      ValueError   if eps_cond is not floating, eps_uncond is not like it, or w is not a finite number
    """
    _require_predictions(eps_cond, eps_uncond, w)
    working = torch.float64 if eps_cond.dtype == torch.float64 else torch.float32
    return ((1 + w) * eps_cond.to(working) - w * eps_uncond.to(working)).to(eps_cond.dtype)


def three_channel_guidance(eps_cond: torch.Tensor, eps_uncond: torch.Tensor, w: float) -> torch.Tensor:
    """ε_k = ε_u,k + w (ε_c,k − ε_u,k) for channels k < 3, ε_k = ε_c,k for the others        (DiT, 2212.09748, code)

    eps_cond    ε_c  (B, C, ...)  noise predicted with the condition; any floating dtype, strides and device
    eps_uncond  ε_u  (B, C, ...)  and without it, like eps_cond
    w           w    number       guidance scale
    returns     ε    (B, C, ...)  of a latent with more than three channels, only the first three are guided
    raises      ValueError        if eps_cond is not floating or has no channels, eps_uncond is not like it, or w is not
                                  a finite number
    """
    _require_predictions(eps_cond, eps_uncond, w)
    if eps_cond.ndim < 2:
        raise ValueError(f"eps_cond had shape {tuple(eps_cond.shape)}; it must have an axis of channels, (B, C, ...).")
    guided = _guided(eps_cond[:, :3], eps_uncond[:, :3], w)
    return torch.cat([guided, eps_cond[:, 3:].to(guided.dtype)], 1).to(eps_cond.dtype)


def _require_predictions(eps_cond: torch.Tensor, eps_uncond: torch.Tensor, w: float) -> None:
    require_floating(eps_cond, "eps_cond")
    require_alike(eps_cond, "eps_cond", eps_uncond, "eps_uncond")
    require_number(w, "w", "a finite number", -math.inf, math.inf)


def _guided(eps_cond: torch.Tensor, eps_uncond: torch.Tensor, w: float) -> torch.Tensor:
    """ε_u + w (ε_c − ε_u) in the working type."""
    working = torch.float64 if eps_cond.dtype == torch.float64 else torch.float32
    base = eps_uncond.to(working)
    return base + w * (eps_cond.to(working) - base)


def power_cosine_weight(
    t: torch.Tensor,
    steps: float,
    w_max: float,
    power: float,
    *,
    dtype: torch.dtype = torch.float64,
    device: Device = None,
) -> torch.Tensor:
    """w(t) = 1 + (w_max − 1) (1 − cos(π (1 − t/T)^p))/2        (DiffiT, 2312.02139, code: p = 4)

    t        t      (...)   time, 0 (clean) to T (noise); float64 or rounded to it
    steps    T      number  > 0
    w_max    w_max  number  scale at t = 0
    power    p      number  the larger, the later the guidance sets in, > 0
    returns  w      (...)   1 at t = T: early steps are not guided; on the device of t unless ``device`` is given
    raises   ValueError     if t is not floating, steps or power is not positive, or w_max is not finite
    """
    require_floating(t, "t")
    require_number(steps, "steps", "a positive number", 0, math.inf)
    require_number(power, "power", "a positive number", 0, math.inf)
    require_number(w_max, "w_max", "a finite number", -math.inf, math.inf)
    left: torch.Tensor = (1 - t.double() / steps) ** power
    return (1 + (w_max - 1) * (1 - torch.cos(math.pi * left)) / 2).to(device=device, dtype=dtype)


# -- in continuous time -----------------------------------------------------------------------------------------------


def linear_sde_coefficients(
    t: torch.Tensor,
    steps: float,
    beta_1: float,
    beta_T: float,
    *,
    dtype: torch.dtype = torch.float64,
    device: Device = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """f = −β/2,  g² = β,  β(t) = −d log ᾱ/dt = T (β_1 + (β_T − β_1) t)        (Song et al. 2021, 2011.13456, eq. 11)

    t       t    (...)   time, 0 (clean) to 1 (noise); float64 or rounded to it
    steps   T    number  steps that the β are counted in; 0.1 and 20 are T β_1 and T β_T in the paper
    beta_1  β_1  number  noise variance of the first step, > 0
    beta_T  β_T  number  and of the last, > 0
    returns f    (...)   drift of dx = f x dt + g dw
            g²   (...)   squared diffusion; both on the device of t unless ``device`` is given
    raises  ValueError   if t is not floating or a number is not positive
    """
    require_floating(t, "t")
    _require_rates(steps, beta_1, beta_T)
    return _preserving(steps * (beta_1 + (beta_T - beta_1) * t.double()), dtype, device)


def quadratic_sde_coefficients(
    t: torch.Tensor,
    steps: float,
    beta_1: float,
    beta_T: float,
    *,
    dtype: torch.dtype = torch.float64,
    device: Device = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """f = −β/2,  g² = β,  β(t) = −d log ᾱ/dt = T (β_1 + (β_T − β_1) t²)

    t       t    (...)   time, 0 (clean) to 1 (noise); float64 or rounded to it
    steps   T    number  steps that the β are counted in, > 0
    beta_1  β_1  number  noise variance of the first step, > 0
    beta_T  β_T  number  and of the last, > 0
    returns f    (...)   drift of dx = f x dt + g dw
            g²   (...)   squared diffusion; both on the device of t unless ``device`` is given
    raises  ValueError   if t is not floating or a number is not positive
    """
    require_floating(t, "t")
    _require_rates(steps, beta_1, beta_T)
    return _preserving(steps * (beta_1 + (beta_T - beta_1) * t.double() ** 2), dtype, device)


def cosine_sde_coefficients(
    t: torch.Tensor, s: float, *, dtype: torch.dtype = torch.float64, device: Device = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """f = −β/2,  g² = β,  β(t) = −d log ᾱ/dt = π/(1 + s) · tan(π/2 · (t + s)/(1 + s))

    t  t  (...)   time, 0 (clean) up to but not 1 (noise), where β is infinite; float64 or rounded to it
    s  s  number  offset of the cosine schedule, ≥ 0
    returns f    (...)   drift of dx = f x dt + g dw
            g²   (...)   squared diffusion; both on the device of t unless ``device`` is given
    raises  ValueError   if t is not floating or s < 0
    """
    require_floating(t, "t")
    require_offset(s)
    return _preserving(math.pi / (1 + s) * torch.tan((t.double() + s) / (1 + s) * (math.pi / 2)), dtype, device)


def karras_sde_coefficients(
    t: torch.Tensor,
    sigma_min: float,
    sigma_max: float,
    rho: float,
    *,
    dtype: torch.dtype = torch.float64,
    device: Device = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """f = −β/2,  g² = β,  β(t) = d log ᾱ/dt = −2 σ σ'/(1 + σ²), of ᾱ = 1/(1 + σ²): noise grows as t falls from 1 to 0

    t          t      (...)   share of the way, 0 (noise) to 1 (clean); float64 or rounded to it
    sigma_min  σ_min  number  0.002 in the paper, > 0
    sigma_max  σ_max  number  80, > 0
    rho        ρ      number  7, > 0
    returns    f      (...)   drift of dx = f x dτ + g dw in the time τ = 1 − t, in which noise is added
               g²     (...)   squared diffusion; both on the device of t unless ``device`` is given
    raises     ValueError     if t is not floating or a number is not positive
    """
    sigma, slope = _karras(t, sigma_min, sigma_max, rho)
    return _preserving(-2 * sigma * slope() / (1 + sigma**2), dtype, device)


def _preserving(beta: torch.Tensor, dtype: torch.dtype, device: Device) -> tuple[torch.Tensor, torch.Tensor]:
    """(−β/2, β), rounded."""
    return (-beta / 2).to(device=device, dtype=dtype), beta.to(device=device, dtype=dtype)


def score_from_eps(eps: torch.Tensor, t: torch.Tensor, alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """∇ log p_t(x_t) = −ε/√(1 − ᾱ_t)        (Song et al. 2021 with Ho et al. 2020 eq. 14: ε is the mean of z given x_t)

    eps             ε  (B, ...)  predicted noise; any floating dtype, strides and device
    t               t  (B,)      step of every sample, 0 … T − 1
    alphas_cumprod  ᾱ  (T,)      float64
    returns         ∇ log p (B, ...)  dtype of eps
    raises          ValueError   if eps is not floating, ᾱ is not float64, or t is out of range
    """
    require_floating(eps, "eps")
    require_table(alphas_cumprod, "alphas_cumprod")
    require_steps(t, eps, "eps", alphas_cumprod, "alphas_cumprod")
    score: torch.Tensor = eps * weight(-(1 - alphas_cumprod[t.long()]).rsqrt(), eps)
    return score.to(eps.dtype)


def probability_flow_drift(
    x: torch.Tensor, score: torch.Tensor, f: torch.Tensor, g_squared: torch.Tensor
) -> torch.Tensor:
    """dx/dt = f x − ½ g² ∇ log p        (Song et al. 2021, 2011.13456, eq. 13)

    x          x        (B, ...)  data at time t; any floating dtype, strides and device
    score      ∇ log p  (B, ...)  score at x and t, like x
    f          f        (B,)      drift coefficient, float64
    g_squared  g²       (B,)      squared diffusion, float64
    returns    dx/dt    (B, ...)  the ordinary differential equation with the marginals of the SDE; dtype of x
    raises     ValueError         if x is not floating, score is not like it, or f or g_squared is not (B,) in float64
    """
    require_floating(x, "x")
    require_alike(x, "x", score, "score")
    for value, name in ((f, "f"), (g_squared, "g_squared")):
        require_weights(value, name, x)
    return weighted_sum(f, x, -g_squared / 2, score).to(x.dtype)


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
