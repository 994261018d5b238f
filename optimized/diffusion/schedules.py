"""Noise schedules: β, ᾱ and σ, by step and in continuous time.

    ᾱ_t = ∏_{s≤t} (1 − β_s)        (Ho, Jain & Abbeel 2020 (2006.11239), before eq. 4)

Tables are computed in float64 and rounded once. Sources: Ho et al. 2020; Nichol & Dhariwal 2021 (2102.09672); Karras et
al. 2022 (2206.00364).
"""

from __future__ import annotations

import math
from typing import Any

import torch

from trueness.optimized._lib.validation import require_count, require_floating
from trueness.optimized.diffusion.validation import (
    Device,
    require_number,
    require_offset,
    require_rates,
    require_table,
)

__all__ = [
    "alphas_cumprod",
    "cosine_alphas_cumprod",
    "cosine_betas",
    "karras_alphas_cumprod",
    "karras_sigmas",
    "linear_alphas_cumprod",
    "linear_betas",
    "quadratic_alphas_cumprod",
    "quadratic_betas",
    "scaled_linear_betas",
    "sigmas",
    "sigmoid_betas",
    "timesteps",
]


def linear_betas(
    steps: int,
    *,
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    dtype: torch.dtype = torch.float64,
    device: Device = None,
) -> torch.Tensor:
    """β_i = β_1 + (β_T − β_1) i / (T − 1)        (Ho et al. 2020 §4: β_1 = 10⁻⁴, β_T = 0.02, T = 1000)

    steps       T    int      number of steps, at least 1
    beta_start  β_1  number   noise variance of the first step, in (0, 1)
    beta_end    β_T  number   noise variance of the last step
    returns     β    (T,)     β_1 alone for T = 1
    raises      ValueError    if steps < 1 or a β lies outside (0, 1)
    """
    return (beta_start + (beta_end - beta_start) * _share(steps, beta_start, beta_end)).to(device=device, dtype=dtype)


def cosine_alphas_cumprod(
    u: torch.Tensor, *, s: float = 0.008, dtype: torch.dtype = torch.float64, device: Device = None
) -> torch.Tensor:
    """ᾱ(u) = f(u)/f(0),  f(u) = cos²(π/2 · (u + s)/(1 + s))        (Nichol & Dhariwal 2021 eq. 17: s = 0.008)

    u  u  (...)   time, 0 (clean) to 1 (noise); float64 or rounded to it
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
    steps: int,
    *,
    s: float = 0.008,
    max_beta: float = 0.999,
    dtype: torch.dtype = torch.float64,
    device: Device = None,
) -> torch.Tensor:
    """β_t = min(1 − ᾱ((t+1)/T)/ᾱ(t/T), β_max)        (Nichol & Dhariwal 2021 eq. 17: s = 0.008, β_max = 0.999)

    steps     T      int     number of steps, at least 1
    s         s      number  offset, ≥ 0
    max_beta  β_max  number  largest β, in (0, 1): ᾱ(1) = 0 would make the last one 1
    returns   β      (T,)    in (0, β_max]; no lower clip
    raises    ValueError     if steps < 1, s < 0 or max_beta lies outside (0, 1)
    """
    require_count(steps, "steps", 1)
    require_number(max_beta, "max_beta", "a number in (0, 1)", 0, 1)
    alpha_bar = cosine_alphas_cumprod(torch.arange(steps + 1, dtype=torch.float64) / steps, s=s)
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=max_beta).to(device=device, dtype=dtype)


def quadratic_betas(
    steps: int,
    *,
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    dtype: torch.dtype = torch.float64,
    device: Device = None,
) -> torch.Tensor:
    """β_i = β_1 + (β_T − β_1) (i/(T − 1))²: quadratic in i; for the square of a line see ``scaled_linear_betas``

    steps       T    int      number of steps, at least 1
    beta_start  β_1  number   noise variance of the first step, in (0, 1)
    beta_end    β_T  number   noise variance of the last step
    returns     β    (T,)     β_1 alone for T = 1
    raises      ValueError    if steps < 1 or a β lies outside (0, 1)
    """
    return (beta_start + (beta_end - beta_start) * _share(steps, beta_start, beta_end) ** 2).to(
        device=device, dtype=dtype
    )


def scaled_linear_betas(
    steps: int,
    *,
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    dtype: torch.dtype = torch.float64,
    device: Device = None,
) -> torch.Tensor:
    """β_i = (√β_1 + (√β_T − √β_1) i/(T − 1))²        (latent diffusion, Rombach et al. 2022 (2112.10752), their code)

    steps       T    int      number of steps, at least 1
    beta_start  β_1  number   noise variance of the first step, in (0, 1)
    beta_end    β_T  number   noise variance of the last step
    returns     β    (T,)     β_1 alone for T = 1
    raises      ValueError    if steps < 1 or a β lies outside (0, 1)
    """
    share = _share(steps, beta_start, beta_end)
    first, last = math.sqrt(beta_start), math.sqrt(beta_end)
    return ((first + (last - first) * share) ** 2).to(device=device, dtype=dtype)


def sigmoid_betas(
    steps: int,
    *,
    beta_start: float = 1e-7,
    beta_end: float = 2e-3,
    dtype: torch.dtype = torch.float64,
    device: Device = None,
) -> torch.Tensor:
    """β_i = β_1 + (β_T − β_1)/(1 + e^{−v_i}),  v_i = −6 + 12 i/(T − 1)        (Xu et al. 2022 (2203.02923), code)

    steps       T    int      number of steps, at least 1
    beta_start  β_1  number   lower limit, in (0, 1)
    beta_end    β_T  number   upper limit; neither is reached: 1/(1 + e⁶) = 0.0025 of the way is left at either end
    returns     β    (T,)
    raises      ValueError    if steps < 1 or a β lies outside (0, 1)
    """
    v = 12 * _share(steps, beta_start, beta_end) - 6
    return (beta_start + (beta_end - beta_start) * v.sigmoid()).to(device=device, dtype=dtype)


def _share(steps: int, beta_start: float, beta_end: float) -> torch.Tensor:
    """i/(T − 1) in float64, after validation of the arguments of a schedule of β."""
    require_count(steps, "steps", 1)
    require_number(beta_start, "beta_start", "a number in (0, 1)", 0, 1)
    require_number(beta_end, "beta_end", "a number in (0, 1)", 0, 1)
    return torch.arange(steps, dtype=torch.float64) / max(steps - 1, 1)


def linear_alphas_cumprod(
    u: torch.Tensor,
    *,
    steps: float = 1000,
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    dtype: torch.dtype = torch.float64,
    device: Device = None,
) -> torch.Tensor:
    """ᾱ(u) = exp(−T (β_1 u + (β_T − β_1) u²/2)): the limit of ``linear_betas`` for many steps        (Song 2021 eq. 29)

    u           u    (...)   time, 0 (clean) to 1 (noise); float64 or rounded to it
    steps       T    number  steps that the β are counted in, 1000 for Ho et al., > 0
    beta_start  β_1  number  noise variance of the first step, > 0
    beta_end    β_T  number  noise variance of the last step, > 0
    returns     ᾱ    (...)   1 at u = 0; on the device of u unless ``device`` is given
    raises      ValueError   if u is not floating or a number is not positive
    """
    require_floating(u, "u")
    require_rates(steps, beta_start, beta_end)
    u = u.double()
    return torch.exp(-steps * (beta_start * u + (beta_end - beta_start) * u**2 / 2)).to(device=device, dtype=dtype)


def quadratic_alphas_cumprod(
    u: torch.Tensor,
    *,
    steps: float = 1000,
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    dtype: torch.dtype = torch.float64,
    device: Device = None,
) -> torch.Tensor:
    """ᾱ(u) = exp(−T (β_1 u + (β_T − β_1) u³/3)): the limit of ``quadratic_betas`` for many steps

    u           u    (...)   time, 0 (clean) to 1 (noise); float64 or rounded to it
    steps       T    number  steps that the β are counted in, > 0
    beta_start  β_1  number  noise variance of the first step, > 0
    beta_end    β_T  number  noise variance of the last step, > 0
    returns     ᾱ    (...)   1 at u = 0; on the device of u unless ``device`` is given
    raises      ValueError   if u is not floating or a number is not positive
    """
    require_floating(u, "u")
    require_rates(steps, beta_start, beta_end)
    u = u.double()
    return torch.exp(-steps * (beta_start * u + (beta_end - beta_start) * u**3 / 3)).to(device=device, dtype=dtype)


def karras_sigmas(
    t: torch.Tensor,
    *,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    dtype: torch.dtype = torch.float64,
    device: Device = None,
) -> torch.Tensor:
    """σ(t) = (σ_max^{1/ρ} + t (σ_min^{1/ρ} − σ_max^{1/ρ}))^ρ        (Karras et al. 2022 eq. 5)

    t          t      (...)   time, 0 (noise) to 1 (clean); float64 or rounded to it
    sigma_min  σ_min  number  0.002 in the paper, > 0
    sigma_max  σ_max  number  80, > 0
    rho        ρ      number  7, > 0
    returns    σ      (...)   noise scale of x = x_0 + σ z; on the device of t unless ``device`` is given
    raises     ValueError     if t is not floating or a number is not positive
    """
    root, _ = karras_root(t, sigma_min, sigma_max, rho)
    return (root**rho).to(device=device, dtype=dtype)


def karras_alphas_cumprod(
    t: torch.Tensor,
    *,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    dtype: torch.dtype = torch.float64,
    device: Device = None,
) -> torch.Tensor:
    """ᾱ(t) = 1/(1 + σ(t)²): the share of signal variance that makes x/√(1 + σ²) variance preserving; σ as Karras eq. 5

    t          t      (...)   time, 0 (noise) to 1 (clean); float64 or rounded to it: ᾱ grows with t
    sigma_min  σ_min  number  0.002 in the paper, > 0
    sigma_max  σ_max  number  80, > 0
    rho        ρ      number  7, > 0
    returns    ᾱ      (...)   on the device of t unless ``device`` is given
    raises     ValueError     if t is not floating or a number is not positive
    """
    root, _ = karras_root(t, sigma_min, sigma_max, rho)
    return (1 / (1 + (root**rho) ** 2)).to(device=device, dtype=dtype)


def karras_root(t: torch.Tensor, sigma_min: float, sigma_max: float, rho: float) -> tuple[torch.Tensor, float]:
    """r(t) = σ_max^{1/ρ} + t Δ, in float64, and Δ = σ_min^{1/ρ} − σ_max^{1/ρ}: σ = r^ρ and σ' = ρ Δ r^{ρ−1}"""
    require_floating(t, "t")
    for value, name in ((sigma_min, "sigma_min"), (sigma_max, "sigma_max"), (rho, "rho")):
        require_number(value, name, "a positive number", 0, math.inf)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return high + t.double() * (low - high), low - high


def timesteps(
    steps: int, *, end: float = 1e-3, dtype: torch.dtype = torch.float64, device: Device = None
) -> torch.Tensor:
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
