"""Diffusion in continuous time: coefficients of the variance preserving SDE, the score, and the probability flow.

dx = f x dt + g dw,      dx/dt = f x − ½ g² ∇ log p        (Song et al. 2021 (2011.13456), eq. 5 and 13)
"""

from __future__ import annotations

import math

import torch

from trueness.optimized._lib.validation import require_floating
from trueness.optimized.diffusion.schedules import karras_root
from trueness.optimized.diffusion.validation import (
    Device,
    require_alike,
    require_offset,
    require_rates,
    require_steps,
    require_table,
    require_weights,
)
from trueness.optimized.diffusion.weighting import weight, weighted_sum

__all__ = [
    "cosine_sde_coefficients",
    "karras_sde_coefficients",
    "linear_sde_coefficients",
    "probability_flow_drift",
    "quadratic_sde_coefficients",
    "score_from_eps",
]


def linear_sde_coefficients(
    t: torch.Tensor,
    *,
    steps: float = 1000,
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    dtype: torch.dtype = torch.float64,
    device: Device = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """f = −β/2,  g² = β,  β(t) = −d log ᾱ/dt = T (β_1 + (β_T − β_1) t)        (Song et al. 2021, 2011.13456, eq. 11)

    t           t    (...)   time, 0 (clean) to 1 (noise); float64 or rounded to it
    steps       T    number  steps that the β are counted in; 0.1 and 20 are T β_1 and T β_T in the paper
    beta_start  β_1  number  noise variance of the first step, > 0
    beta_end    β_T  number  noise variance of the last step, > 0
    returns     f    (...)   drift of dx = f x dt + g dw
                g²   (...)   squared diffusion; both on the device of t unless ``device`` is given
    raises      ValueError   if t is not floating or a number is not positive
    """
    require_floating(t, "t")
    require_rates(steps, beta_start, beta_end)
    return _preserving(steps * (beta_start + (beta_end - beta_start) * t.double()), dtype, device)


def quadratic_sde_coefficients(
    t: torch.Tensor,
    *,
    steps: float = 1000,
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    dtype: torch.dtype = torch.float64,
    device: Device = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """f = −β/2,  g² = β,  β(t) = −d log ᾱ/dt = T (β_1 + (β_T − β_1) t²)

    t           t    (...)   time, 0 (clean) to 1 (noise); float64 or rounded to it
    steps       T    number  steps that the β are counted in, > 0
    beta_start  β_1  number  noise variance of the first step, > 0
    beta_end    β_T  number  noise variance of the last step, > 0
    returns     f    (...)   drift of dx = f x dt + g dw
                g²   (...)   squared diffusion; both on the device of t unless ``device`` is given
    raises      ValueError   if t is not floating or a number is not positive
    """
    require_floating(t, "t")
    require_rates(steps, beta_start, beta_end)
    return _preserving(steps * (beta_start + (beta_end - beta_start) * t.double() ** 2), dtype, device)


def cosine_sde_coefficients(
    t: torch.Tensor, *, s: float = 0.008, dtype: torch.dtype = torch.float64, device: Device = None
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
    *,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    dtype: torch.dtype = torch.float64,
    device: Device = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """f = −β/2,  g² = β,  β(t) = d log ᾱ/dt = −2 σ σ'/(1 + σ²), of ᾱ = 1/(1 + σ²): noise grows as t falls from 1 to 0

    t          t      (...)   time, 0 (noise) to 1 (clean); float64 or rounded to it
    sigma_min  σ_min  number  0.002 in the paper, > 0
    sigma_max  σ_max  number  80, > 0
    rho        ρ      number  7, > 0
    returns    f      (...)   drift of dx = f x dτ + g dw in the time τ = 1 − t, in which noise is added
               g²     (...)   squared diffusion; both on the device of t unless ``device`` is given
    raises     ValueError     if t is not floating or a number is not positive
    """
    root, step = karras_root(t, sigma_min, sigma_max, rho)
    sigma, slope = root**rho, rho * step * root ** (rho - 1)
    return _preserving(-2 * sigma * slope / (1 + sigma**2), dtype, device)


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
