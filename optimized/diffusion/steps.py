"""The forward process, its loss, and one step back by DDPM and by DDIM.

    q(x_t | x_0) = N(√ᾱ_t x_0, (1 − ᾱ_t) I)        (Ho, Jain & Abbeel 2020 (2006.11239), eq. 4)

Every step is a weighted sum of two or three tensors with one weight per sample. The weights are computed in float64
from float64 tables and rounded last; float16 and bfloat16 data are summed in float32 and rounded once. Any strides, CPU
and CUDA. The paper counts t = 1 … T; here t = 0 … T − 1, and ᾱ_{−1} = 1.
"""

from __future__ import annotations

import torch

from trueness.optimized._lib.dtypes import upcast
from trueness.optimized._lib.validation import require_floating
from trueness.optimized.diffusion.validation import (
    clip_bound,
    require_alike,
    require_previous,
    require_share,
    require_steps,
    require_table,
)
from trueness.optimized.diffusion.weighting import add_weighted, can_accumulate, per_sample, weight, weighted_sum

__all__ = [
    "ddim_coefficients",
    "ddim_step",
    "p_losses",
    "p_losses_l1",
    "p_sample",
    "posterior",
    "posterior_coefficients",
    "predict_x0",
    "q_sample",
]


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

    prediction  ε_θ  (...)  noise predicted by the model from x_t and t
    noise       z    (...)  true noise, like prediction
    returns     L    ()     dtype of prediction, accumulated in float32 or float64; NaN for empty input
    raises      ValueError  if prediction is not floating or noise is not like it
    """
    difference = _difference(prediction, noise)
    return (difference * difference).mean().to(prediction.dtype)


def p_losses_l1(prediction: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """L = mean |ε_θ − z|: another convention, whose minimiser is the conditional median and not the score

    prediction  ε_θ  (...)  noise predicted by the model from x_t and t
    noise       z    (...)  true noise, like prediction
    returns     L    ()     dtype of prediction, accumulated in float32 or float64; NaN for empty input
    raises      ValueError  if prediction is not floating or noise is not like it
    """
    return _difference(prediction, noise).abs().mean().to(prediction.dtype)


def _difference(prediction: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """ε_θ − z, float16 and bfloat16 in float32."""
    require_floating(prediction, "prediction")
    require_alike(prediction, "prediction", noise, "noise")
    return upcast(prediction) - noise


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
    """x̂_0 in the dtype in which x_t is summed."""
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
    x_t: torch.Tensor,
    t: torch.Tensor,
    eps: torch.Tensor,
    noise: torch.Tensor,
    betas: torch.Tensor,
    *,
    clip: bool | float = True,
) -> torch.Tensor:
    """x_{t−1} = (x_t − β_t/√(1 − ᾱ_t) ε)/√α_t + √β̃_t z,  z = 0 at t = 0        (Ho et al. 2020 Alg. 2)

    With ``clip`` the estimate x̂_0 is clipped to [−c, c], and the mean is that of the posterior: μ̃_t(clip(x̂_0), x_t).

    x_t      x_t      (B, ...)  noisy data; any floating dtype, strides and device
    t        t        (B,)      step of every sample, 0 … T − 1
    eps      ε        (B, ...)  predicted noise, like x_t
    noise    z        (B, ...)  standard normal, like x_t; not read where t = 0
    betas    β        (T,)      float64
    clip     c                  False: Algorithm 2 as printed; True: c = 1, for data in [−1, 1]; or the number c
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
        x_0 = x_0.clamp_(-c, c) if can_accumulate() else x_0.clamp(-c, c)
        mean = add_weighted(x_0 * weight(c_0, x_0), c_t, x_t)
    last = (t == 0).reshape(t.shape + (1,) * (x_t.ndim - 1))
    return add_weighted(mean, variance.sqrt(), noise.masked_fill(last, 0)).to(x_t.dtype)


def ddim_coefficients(
    t: torch.Tensor, t_prev: torch.Tensor, alphas_cumprod: torch.Tensor, *, eta: float = 0.0
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
    """The coefficients. 1 − ᾱ_p − σ² is a product of factors ≥ 0, so that rounding cannot make it negative."""
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
    alphas_cumprod: torch.Tensor,
    *,
    noise: torch.Tensor | None = None,
    eta: float = 0.0,
    clip: bool | float = True,
    recompute_eps: bool = False,
) -> torch.Tensor:
    """x_p = √ᾱ_p x̂_0 + √(1 − ᾱ_p − σ²) ε + σ z        (Song et al. 2021 eq. 12; σ as in ``ddim_coefficients``)

    With ``clip`` the estimate x̂_0 is clipped to [−c, c]. The noise that belongs to it is
    ε' = (x_t − √ᾱ_t x̂_0)/√(1 − ᾱ_t); ``recompute_eps`` replaces ε by ε'.

    x_t             x_t  (B, ...)  noisy data; any floating dtype, strides and device
    t               t    (B,)      step of every sample, 0 … T − 1
    t_prev          p    (B,)      the step to go to, −1 … t − 1; −1 is the data
    eps             ε    (B, ...)  predicted noise, like x_t
    alphas_cumprod  ᾱ    (T,)      float64
    noise           z    (B, ...)  standard normal, like x_t; not read where σ = 0, may be omitted for η = 0
    eta             η    number    0 (deterministic) to 1
    clip            c              False: as printed; True: c = 1, for data in [−1, 1]; or the number c
    recompute_eps        bool      True: ε' and so x̂_0, ε and x_t agree (guided-diffusion); False: the model's ε is kept
    returns         x_p  (B, ...)  dtype of x_t
    raises          ValueError if x_t is not floating, eps or noise is not like it, ᾱ is not float64, t or t_prev is out
                    of range, η lies outside [0, 1], noise is missing for η > 0, or clip is neither a bool nor positive
    """
    require_floating(x_t, "x_t")
    require_alike(x_t, "x_t", eps, "eps")
    require_table(alphas_cumprod, "alphas_cumprod")
    require_steps(t, x_t, "x_t", alphas_cumprod, "alphas_cumprod")
    require_previous(t_prev, t)
    require_share(eta, "eta")
    if noise is not None:
        require_alike(x_t, "x_t", noise, "noise")
    elif eta:
        raise ValueError(f"noise was None; it must be given for eta = {eta}, which adds noise.")
    c, t = clip_bound(clip), t.long()
    alpha_bar = alphas_cumprod[t]
    a, b, sigma = _ddim(t, t_prev.long(), alphas_cumprod, eta)
    x_0 = _estimate(x_t, eps, alpha_bar)
    if c is not None:
        x_0 = x_0.clamp_(-c, c) if can_accumulate() else x_0.clamp(-c, c)
    if c is not None and recompute_eps:
        b = b / (1 - alpha_bar).sqrt()
        mean = add_weighted(x_0 * weight(a - b * alpha_bar.sqrt(), x_0), b, x_t)
    else:
        mean = add_weighted(x_0 * weight(a, x_0), b, eps)
    if noise is not None:
        mean = add_weighted(mean, sigma, noise.masked_fill(per_sample(sigma == 0, x_t), 0))
    return mean.to(x_t.dtype)
