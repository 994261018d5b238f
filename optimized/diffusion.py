"""Denoising diffusion, fast: noise schedules, the forward process, and one step back.

    q(x_t | x_0) = N(√ᾱ_t x_0, (1 − ᾱ_t) I),      ᾱ_t = ∏_{s≤t} (1 − β_s)        (Ho, Jain & Abbeel 2020, eq. 4)

Every step is a weighted sum of two or three tensors with one weight per sample. The weights are taken from float64
tables, in float64, and rounded last; float16 and bfloat16 data are summed in float32 and rounded once. Any strides, CPU
and CUDA. Sources: Ho et al. 2020 (2006.11239); Nichol & Dhariwal 2021 (2102.09672); Karras et al. 2022 (2206.00364).
The paper counts t = 1 … T; here t = 0 … T − 1, and ᾱ_{−1} = 1.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from trueness.optimized._elementwise import require_floating

__all__ = [
    "alphas_cumprod",
    "cosine_alphas_cumprod",
    "cosine_betas",
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

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
Device = torch.device | str | None


# -- what is refused --------------------------------------------------------------------------------------------------


def _require_count(steps: int, least: int) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < least:
        raise ValueError(f"steps was {steps!r}; it must be an integer of at least {least}.")


def _require_number(value: float, name: str, allowed: str, low: float, high: float) -> None:
    """Refuse what is not a number in (low, high); ``allowed`` says it in words."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low < value < high:
        raise ValueError(f"{name} was {value!r}; it must be {allowed}.")


def _require_offset(s: float) -> None:
    if isinstance(s, bool) or not isinstance(s, (int, float)) or not 0 <= s < math.inf:
        raise ValueError(f"s was {s!r}; it must be a finite number of at least 0.")


def _require_table(table: torch.Tensor, name: str) -> None:
    if not isinstance(table, torch.Tensor):
        raise ValueError(f"{name} was {type(table).__name__}; it must be a torch.Tensor of shape (T,) in float64.")
    if table.dtype != torch.float64:
        raise ValueError(f"{name} had dtype {table.dtype}; it must be float64, because 1 − ᾱ is lost in a shorter one.")
    if table.ndim != 1 or table.shape[0] < 1:
        raise ValueError(f"{name} had shape {tuple(table.shape)}; it must have shape (T,) with T of at least 1.")


def _require_alike(x: torch.Tensor, name: str, other: torch.Tensor, other_name: str) -> None:
    require_floating(other, other_name)
    if other.shape != x.shape or other.dtype != x.dtype or other.device != x.device:
        raise ValueError(
            f"{other_name} was {tuple(other.shape)} {other.dtype} on {other.device}; "
            f"it must be like {name}, {tuple(x.shape)} {x.dtype} on {x.device}."
        )


def _require_steps(t: torch.Tensor, x: torch.Tensor, name: str, table: torch.Tensor, table_name: str) -> None:
    """t (B,) of integers in [0, T). The range is read on the CPU only, where it costs no wait for the device."""
    if not isinstance(t, torch.Tensor):
        raise ValueError(f"t was {type(t).__name__}; it must be a torch.Tensor of integers, one per sample.")
    if t.dtype not in INTEGERS:
        raise ValueError(f"t had dtype {t.dtype}; it must be an integer type.")
    if x.ndim < 1 or t.ndim != 1 or t.shape[0] != x.shape[0]:
        raise ValueError(
            f"t had shape {tuple(t.shape)}; it must be ({x.shape[0] if x.ndim else 'B'},), "
            f"the first axis of {name} {tuple(x.shape)}."
        )
    if t.device != x.device or table.device != x.device:
        raise ValueError(
            f"t was on {t.device} and {table_name} on {table.device}; both must be on {x.device}, where {name} is."
        )
    if torch.compiler.is_compiling() or t.is_cuda or not t.shape[0]:
        return
    try:
        low, high = int(t.min()), int(t.max())
    except RuntimeError:  # under a transformation that knows no values: nothing to read
        return
    if low < 0 or high >= table.shape[0]:
        raise ValueError(
            f"t was between {low} and {high}; it must lie in [0, {table.shape[0]}), the length of {table_name}."
        )


def _bound(clip: bool | float) -> float | None:
    """None for no clipping, or the number at which x̂_0 is held."""
    if isinstance(clip, bool):
        return 1.0 if clip else None
    _require_number(clip, "clip", "False, True or a positive number", 0.0, math.inf)
    return clip


# -- weighted sums ----------------------------------------------------------------------------------------------------


def _in_place() -> bool:
    """Whether a sum may grow in place: not while tracing, nor under vmap, where a later term may have more axes."""
    return not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is None


def _weight(c: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """c (B,) float64 as (B, 1, …) in the type that x is summed in."""
    working = torch.float64 if x.dtype == torch.float64 else torch.float32
    return c.to(working).reshape(c.shape + (1,) * (x.ndim - 1))


def _plus(total: torch.Tensor, c: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """total + c x, in place where that is allowed; ``total`` is ours."""
    if _in_place():
        return total.addcmul_(x, _weight(c, x))
    return torch.addcmul(total, x, _weight(c, x))


def _sum(a: torch.Tensor, x: torch.Tensor, b: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """a x + b y, one weight per sample, in the working type."""
    return _plus(x * _weight(a, x), b, y)


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
    _require_count(steps, 1)
    _require_number(beta_1, "beta_1", "a number in (0, 1)", 0, 1)
    _require_number(beta_T, "beta_T", "a number in (0, 1)", 0, 1)
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
    _require_offset(s)
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
    _require_count(steps, 1)
    _require_number(beta_max, "beta_max", "a number in (0, 1)", 0, 1)
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
        _require_number(value, name, "a positive number", 0, math.inf)
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
    _require_count(steps, 2)
    _require_number(end, "end", "a number in (0, 1): at t = 0 there is no noise and no score", 0, 1)
    return (1 + (end - 1) * (torch.arange(steps, dtype=torch.float64) / (steps - 1))).to(device=device, dtype=dtype)


def alphas_cumprod(betas: torch.Tensor, *, dtype: torch.dtype = torch.float64, device: Device = None) -> torch.Tensor:
    """ᾱ_t = ∏_{s≤t} (1 − β_s)        (Ho et al. 2020, before eq. 4)

    betas    β  (T,)  noise variances in float64, in (0, 1)
    returns  ᾱ  (T,)  share of signal variance left, decreasing; leave it in float64 for ``q_sample`` and ``predict_x0``
    raises   ValueError if betas is not a float64 tensor of one axis
    """
    _require_table(betas, "betas")
    return torch.cumprod(1 - betas, 0).to(device=device, dtype=dtype)


def sigmas(alphas_cumprod: torch.Tensor, *, dtype: torch.dtype = torch.float64, device: Device = None) -> torch.Tensor:
    """σ_t = √(1 − ᾱ_t): a standard deviation, not a variance        (Ho et al. 2020 eq. 4)

    alphas_cumprod  ᾱ  (T,)  in float64, in (0, 1)
    returns         σ  (T,)
    raises          ValueError if alphas_cumprod is not a float64 tensor of one axis
    """
    _require_table(alphas_cumprod, "alphas_cumprod")
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
    _require_alike(x_0, "x_0", noise, "noise")
    _require_table(alphas_cumprod, "alphas_cumprod")
    _require_steps(t, x_0, "x_0", alphas_cumprod, "alphas_cumprod")
    alpha_bar = alphas_cumprod[t.long()]
    return _sum(alpha_bar.sqrt(), x_0, (1 - alpha_bar).sqrt(), noise).to(x_0.dtype)


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
    _require_alike(prediction, "prediction", noise, "noise")
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
    _require_alike(x_t, "x_t", eps, "eps")
    _require_table(alphas_cumprod, "alphas_cumprod")
    _require_steps(t, x_t, "x_t", alphas_cumprod, "alphas_cumprod")
    return _estimate(x_t, eps, alphas_cumprod[t.long()]).to(x_t.dtype)


def _estimate(x_t: torch.Tensor, eps: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
    """x̂_0 in the working type."""
    return _sum(alpha_bar.rsqrt(), x_t, -((1 - alpha_bar) / alpha_bar).sqrt(), eps)


def posterior_coefficients(t: torch.Tensor, betas: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """c_0 = √ᾱ_{t−1} β_t/(1 − ᾱ_t),  c_t = √α_t (1 − ᾱ_{t−1})/(1 − ᾱ_t),  β̃_t = β_t (1 − ᾱ_{t−1})/(1 − ᾱ_t)

    t        t  (B,)  step of every sample, 0 … T − 1
    betas    β  (T,)  float64
    returns  c_0, c_t, β̃  (B,) each, float64; 1, 0, 0 at t = 0, where ᾱ_{−1} = 1
    raises   ValueError if betas is not float64 or t is not integer or out of range
    """
    _require_table(betas, "betas")
    _require_steps(t, t, "t", betas, "betas")
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
    _require_alike(x_0, "x_0", x_t, "x_t")
    _require_table(betas, "betas")
    _require_steps(t, x_0, "x_0", betas, "betas")
    c_0, c_t, variance = _coefficients(t.long(), betas, torch.cumprod(1 - betas, 0))
    mean = _sum(c_0, x_0, c_t, x_t).to(x_0.dtype)
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
    _require_alike(x_t, "x_t", eps, "eps")
    _require_alike(x_t, "x_t", noise, "noise")
    _require_table(betas, "betas")
    _require_steps(t, x_t, "x_t", betas, "betas")
    c, t = _bound(clip), t.long()
    alpha_bar = torch.cumprod(1 - betas, 0)
    c_0, c_t, variance = _coefficients(t, betas, alpha_bar)
    if c is None:
        inverse, share = (1 - betas[t]).rsqrt(), betas[t] / (1 - alpha_bar[t]).sqrt()
        mean = _sum(inverse, x_t, -inverse * share, eps)
    else:
        x_0 = _estimate(x_t, eps, alpha_bar[t])
        x_0 = x_0.clamp_(-c, c) if _in_place() else x_0.clamp(-c, c)
        mean = _plus(x_0 * _weight(c_0, x_0), c_t, x_t)
    last = (t == 0).reshape(t.shape + (1,) * (x_t.ndim - 1))
    return _plus(mean, variance.sqrt(), noise.masked_fill(last, 0)).to(x_t.dtype)
