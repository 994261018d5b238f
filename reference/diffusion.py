"""Denoising diffusion: noise schedules, the forward process, and one step back.

    q(x_t | x_0) = N(√ᾱ_t x_0, (1 − ᾱ_t) I),      ᾱ_t = ∏_{s≤t} (1 − β_s)        (Ho, Jain & Abbeel 2020, eq. 4)
    q(x_{t−1} | x_t, x_0) = N(μ̃_t, β̃_t I)                                        (eq. 6-7)

Ho et al. 2020, Denoising Diffusion Probabilistic Models (2006.11239); Nichol & Dhariwal 2021 (2102.09672) for the
cosine schedule; Karras et al. 2022 (2206.00364) for σ(t); Song, Meng & Ermon 2021 (2010.02502) for DDIM; Song et al.
2021 (2011.13456) for the SDE; Ho & Salimans 2022 (2207.12598) for guidance. Ho et al. count t = 1 … T; here
t = 0 … T − 1, and ᾱ_{−1} = 1.
Tables are float64 whatever the data is: 1 − ᾱ taken after rounding ᾱ to float32 keeps 3 digits at t = 0.
"""

import numpy as np


def _per_sample(c, x):
    """c (B,) as (B, 1, …), so that it multiplies x (B, …)"""
    return c.reshape(c.shape + (1,) * (np.ndim(x) - 1))


# -- schedules --------------------------------------------------------------------------------------------------------


def linear_betas(steps, *, beta_start=1e-4, beta_end=0.02):
    """β_i = β_1 + (β_T − β_1) i / (T − 1)        (Ho et al. 2020 §4: β_1 = 10⁻⁴, β_T = 0.02, T = 1000)

    steps       T    int      number of steps, at least 1
    beta_start  β_1  number   noise variance of the first step, in (0, 1)
    beta_end    β_T  number   noise variance of the last step
    returns     β    (T,)     β_1 alone for T = 1
    """
    return beta_start + (beta_end - beta_start) * (np.arange(steps) / max(steps - 1, 1))


def cosine_alphas_cumprod(u, *, s=0.008):
    """ᾱ(u) = f(u)/f(0),  f(u) = cos²(π/2 · (u + s)/(1 + s))        (Nichol & Dhariwal 2021 eq. 17: s = 0.008)

    u  u  (...)   time, 0 (clean) to 1 (noise)
    s  s  number  offset that keeps the first β from vanishing, ≥ 0
    returns ᾱ (...)  1 at u = 0, 0 at u = 1
    """
    return _cosine_square(u, s) / _cosine_square(0, s)


def _cosine_square(u, s):
    """f(u) = cos²(π/2 · (u + s)/(1 + s))"""
    return np.cos((u + s) / (1 + s) * (np.pi / 2)) ** 2


def cosine_alphas_cumprod_vjp(cotangent, u, s):
    """∂/∂u ⟨ḡ, ᾱ⟩ = −ḡ π/(2 (1 + s)) sin(π (u + s)/(1 + s)) / f(0)"""
    return -cotangent * np.pi / (2 * (1 + s)) * np.sin((u + s) / (1 + s) * np.pi) / _cosine_square(0, s)


def cosine_betas(steps, *, s=0.008, max_beta=0.999):
    """β_t = min(1 − ᾱ((t+1)/T)/ᾱ(t/T), β_max)        (Nichol & Dhariwal 2021 eq. 17: s = 0.008, β_max = 0.999)

    steps     T      int     number of steps, at least 1
    s         s      number  offset, ≥ 0
    max_beta  β_max  number  largest β: ᾱ(1) = 0 would make the last one 1
    returns   β      (T,)    in (0, β_max]; no lower clip
    """
    alpha_bar = cosine_alphas_cumprod(np.arange(steps + 1) / steps, s=s)
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], max_beta)


def quadratic_betas(steps, *, beta_start=1e-4, beta_end=0.02):
    """β_i = β_1 + (β_T − β_1) (i/(T − 1))²: quadratic in i; for the square of a line see ``scaled_linear_betas``

    steps       T    int      number of steps, at least 1
    beta_start  β_1  number   noise variance of the first step, in (0, 1)
    beta_end    β_T  number   noise variance of the last step
    returns     β    (T,)     β_1 alone for T = 1
    """
    return beta_start + (beta_end - beta_start) * (np.arange(steps) / max(steps - 1, 1)) ** 2


def scaled_linear_betas(steps, *, beta_start=1e-4, beta_end=0.02):
    """β_i = (√β_1 + (√β_T − √β_1) i/(T − 1))²        (latent diffusion, Rombach et al. 2022 (2112.10752), their code)

    steps       T    int      number of steps, at least 1
    beta_start  β_1  number   noise variance of the first step, in (0, 1)
    beta_end    β_T  number   noise variance of the last step
    returns     β    (T,)     β_1 alone for T = 1
    """
    first, last = np.sqrt(beta_start), np.sqrt(beta_end)
    return (first + (last - first) * (np.arange(steps) / max(steps - 1, 1))) ** 2


def sigmoid_betas(steps, *, beta_start=1e-7, beta_end=2e-3):
    """β_i = β_1 + (β_T − β_1)/(1 + e^{−v_i}),  v_i = −6 + 12 i/(T − 1)        (Xu et al. 2022 (2203.02923), code)

    steps       T    int      number of steps, at least 1
    beta_start  β_1  number   lower limit, in (0, 1)
    beta_end    β_T  number   upper limit; neither is reached: 1/(1 + e⁶) = 0.0025 of the way is left at either end
    returns     β    (T,)
    """
    v = 12 * (np.arange(steps) / max(steps - 1, 1)) - 6
    return beta_start + (beta_end - beta_start) / (1 + np.exp(-v))


def linear_alphas_cumprod(u, *, steps=1000, beta_start=1e-4, beta_end=0.02):
    """ᾱ(u) = exp(−T (β_1 u + (β_T − β_1) u²/2)): the limit of ``linear_betas`` for many steps        (Song 2021 eq. 29)

    u           u    (...)   time, 0 (clean) to 1 (noise)
    steps       T    number  steps that the β are counted in, 1000 for Ho et al.
    beta_start  β_1  number  noise variance of the first step
    beta_end    β_T  number  noise variance of the last step
    returns     ᾱ    (...)   1 at u = 0
    """
    return np.exp(-steps * (beta_start * u + (beta_end - beta_start) * u**2 / 2))


def quadratic_alphas_cumprod(u, *, steps=1000, beta_start=1e-4, beta_end=0.02):
    """ᾱ(u) = exp(−T (β_1 u + (β_T − β_1) u³/3)): the limit of ``quadratic_betas`` for many steps

    u           u    (...)   time, 0 (clean) to 1 (noise)
    steps       T    number  steps that the β are counted in
    beta_start  β_1  number  noise variance of the first step
    beta_end    β_T  number  noise variance of the last step
    returns     ᾱ    (...)   1 at u = 0
    """
    return np.exp(-steps * (beta_start * u + (beta_end - beta_start) * u**3 / 3))


def karras_sigmas(t, *, sigma_min=0.002, sigma_max=80.0, rho=7.0):
    """σ(t) = (σ_max^{1/ρ} + t (σ_min^{1/ρ} − σ_max^{1/ρ}))^ρ        (Karras et al. 2022 eq. 5)

    t          t      (...)   time, 0 (noise) to 1 (clean): the other way round than the DDPM schedules
    sigma_min  σ_min  number  0.002 in the paper
    sigma_max  σ_max  number  80
    rho        ρ      number  7
    returns    σ      (...)   noise scale of x = x_0 + σ z; ᾱ = 1/(1 + σ²)
    """
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return (high + t * (low - high)) ** rho


def karras_sigmas_vjp(cotangent, t, sigma_min, sigma_max, rho):
    """∂/∂t ⟨ḡ, σ⟩ = ḡ ρ (σ_min^{1/ρ} − σ_max^{1/ρ}) (σ_max^{1/ρ} + t (σ_min^{1/ρ} − σ_max^{1/ρ}))^{ρ−1}"""
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return cotangent * rho * (low - high) * (high + t * (low - high)) ** (rho - 1)


def karras_alphas_cumprod(t, *, sigma_min=0.002, sigma_max=80.0, rho=7.0):
    """ᾱ(t) = 1/(1 + σ(t)²): the share of signal variance that makes x/√(1 + σ²) variance preserving; σ as Karras eq. 5

    t          t      (...)   time, 0 (noise) to 1 (clean): ᾱ grows with t
    sigma_min  σ_min  number  0.002 in the paper
    sigma_max  σ_max  number  80
    rho        ρ      number  7
    returns    ᾱ      (...)
    """
    return 1 / (1 + karras_sigmas(t, sigma_min=sigma_min, sigma_max=sigma_max, rho=rho) ** 2)


def timesteps(steps, *, end=1e-3):
    """t_i = 1 + (end − 1) i / (N − 1): from noise (1) to almost clean (end), for schedules that are clean at t = 0

    steps    N  int     number of times, at least 2
    end         number  last time, in [0, 1); Song et al. 2021 (2011.13456) App. C sample down to 10⁻³
    returns  t  (N,)    strictly decreasing
    """
    return 1 + (end - 1) * (np.arange(steps) / (steps - 1))


def alphas_cumprod(betas):
    """ᾱ_t = ∏_{s≤t} (1 − β_s)        (Ho et al. 2020, before eq. 4)

    betas    β  (T,)  noise variances, in (0, 1)
    returns  ᾱ  (T,)  share of signal variance left, decreasing
    """
    return np.multiply.accumulate(1 - betas)


def alphas_cumprod_vjp(cotangent, betas):
    """∂/∂β_s ⟨ḡ, ᾱ⟩ = −Σ_{t≥s} ḡ_t ᾱ_t / (1 − β_s)"""
    return -np.add.accumulate((cotangent * alphas_cumprod(betas))[::-1])[::-1] / (1 - betas)


def sigmas(alphas_cumprod):
    """σ_t = √(1 − ᾱ_t): a standard deviation, not a variance        (Ho et al. 2020 eq. 4)

    alphas_cumprod  ᾱ  (T,)  in (0, 1)
    returns         σ  (T,)
    """
    return np.sqrt(1 - alphas_cumprod)


def sigmas_vjp(cotangent, alphas_cumprod):
    """∂/∂ᾱ ⟨ḡ, σ⟩ = −ḡ / (2 σ)"""
    return -cotangent / (2 * np.sqrt(1 - alphas_cumprod))


# -- forward process --------------------------------------------------------------------------------------------------


def q_sample(x_0, t, noise, alphas_cumprod):
    """x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) z        (Ho et al. 2020 eq. 4)

    x_0             x_0  (B, ...)  clean data
    t               t    (B,)      step of every sample, 0 … T − 1
    noise           z    (B, ...)  standard normal
    alphas_cumprod  ᾱ    (T,)      float64
    returns         x_t  (B, ...)
    """
    signal, sigma = np.sqrt(alphas_cumprod[t]), np.sqrt(1 - alphas_cumprod[t])
    return _per_sample(signal, x_0) * x_0 + _per_sample(sigma, x_0) * noise


def q_sample_vjp(cotangent, x_0, t, noise, alphas_cumprod):
    """(√ᾱ_t ḡ, √(1 − ᾱ_t) ḡ)"""
    signal, sigma = np.sqrt(alphas_cumprod[t]), np.sqrt(1 - alphas_cumprod[t])
    return _per_sample(signal, x_0) * cotangent, _per_sample(sigma, x_0) * cotangent


def p_losses(prediction, noise):
    """L = mean (ε_θ − z)²        (L_simple, Ho et al. 2020 eq. 14)

    prediction  ε_θ  (...)  noise predicted by the model from x_t and t
    noise       z    (...)  true noise
    returns     L    ()     its minimiser is the conditional mean, so that score = −ε_θ/σ
    """
    difference = prediction - noise
    return np.sum(difference * difference) / difference.size


def p_losses_vjp(cotangent, prediction, noise):
    """(2 ḡ (ε_θ − z)/N, −2 ḡ (ε_θ − z)/N)"""
    pulled = 2 * cotangent * (prediction - noise) / prediction.size
    return pulled, -pulled


def p_losses_l1(prediction, noise):
    """L = mean |ε_θ − z|: another convention, whose minimiser is the conditional median and not the score

    prediction  ε_θ  (...)  noise predicted by the model from x_t and t
    noise       z    (...)  true noise
    returns     L    ()
    """
    difference = prediction - noise
    return np.sum(np.maximum(difference, -difference)) / difference.size


def p_losses_l1_vjp(cotangent, prediction, noise):
    """(ḡ sign(ε_θ − z)/N, −ḡ sign(ε_θ − z)/N), sign 0 at 0"""
    difference = prediction - noise
    sign = np.where(difference > 0, 1.0, np.where(difference < 0, -1.0, 0.0))
    pulled = cotangent * sign / prediction.size
    return pulled, -pulled


# -- one step back ----------------------------------------------------------------------------------------------------


def predict_x0(x_t, t, eps, alphas_cumprod):
    """x̂_0 = (x_t − √(1 − ᾱ_t) ε) / √ᾱ_t        (Ho et al. 2020 eq. 15); not clipped, see ``p_sample``

    x_t             x_t  (B, ...)  noisy data
    t               t    (B,)      step of every sample, 0 … T − 1
    eps             ε    (B, ...)  predicted noise
    alphas_cumprod  ᾱ    (T,)      float64
    returns         x̂_0  (B, ...)  the inverse of ``q_sample`` when ε is the true noise
    """
    signal, sigma = np.sqrt(alphas_cumprod[t]), np.sqrt(1 - alphas_cumprod[t])
    return (x_t - _per_sample(sigma, x_t) * eps) / _per_sample(signal, x_t)


def predict_x0_vjp(cotangent, x_t, t, eps, alphas_cumprod):
    """(ḡ/√ᾱ_t, −√(1 − ᾱ_t) ḡ/√ᾱ_t)"""
    signal, sigma = np.sqrt(alphas_cumprod[t]), np.sqrt(1 - alphas_cumprod[t])
    pulled = cotangent / _per_sample(signal, x_t)
    return pulled, -_per_sample(sigma, x_t) * pulled


def posterior_coefficients(t, betas):
    """c_0 = √ᾱ_{t−1} β_t/(1 − ᾱ_t),  c_t = √α_t (1 − ᾱ_{t−1})/(1 − ᾱ_t),  β̃_t = β_t (1 − ᾱ_{t−1})/(1 − ᾱ_t)

    t        t  (B,)  step of every sample, 0 … T − 1
    betas    β  (T,)  float64
    returns  c_0, c_t, β̃  (B,) each; 1, 0, 0 at t = 0, where ᾱ_{−1} = 1
    """
    alpha_bar = alphas_cumprod(betas)
    previous = np.concatenate([np.ones(1), alpha_bar[:-1]])[t]
    beta, alpha_bar = betas[t], alpha_bar[t]
    return (
        np.sqrt(previous) * beta / (1 - alpha_bar),
        np.sqrt(1 - beta) * (1 - previous) / (1 - alpha_bar),
        beta * (1 - previous) / (1 - alpha_bar),
    )


def posterior(x_0, x_t, t, betas):
    """μ̃_t = c_0 x_0 + c_t x_t and β̃_t, of q(x_{t−1} | x_t, x_0)        (Ho et al. 2020 eq. 6-7)

    x_0      x_0  (B, ...)     clean data
    x_t      x_t  (B, ...)     noisy data
    t        t    (B,)         step of every sample, 0 … T − 1
    betas    β    (T,)         float64
    returns  μ̃    (B, ...)     mean
             β̃    (B, 1, ...)  variance of every sample ("fixed small"), ready to multiply x; 0 at t = 0
    """
    c_0, c_t, variance = posterior_coefficients(t, betas)
    return _per_sample(c_0, x_0) * x_0 + _per_sample(c_t, x_t) * x_t, _per_sample(variance, x_t)


def posterior_vjp(mean_cotangent, variance_cotangent, x_0, x_t, t, betas):
    """(c_0 μ̄, c_t μ̄): the variance does not depend on the data"""
    c_0, c_t, _ = posterior_coefficients(t, betas)
    return _per_sample(c_0, x_0) * mean_cotangent, _per_sample(c_t, x_t) * mean_cotangent


def p_sample(x_t, t, eps, noise, betas, *, clip=True):
    """x_{t−1} = (x_t − β_t/√(1 − ᾱ_t) ε)/√α_t + √β̃_t z,  z = 0 at t = 0        (Ho et al. 2020 Alg. 2)

    With ``clip`` the estimate x̂_0 is clipped to [−c, c], and the mean is that of the posterior: μ̃_t(clip(x̂_0), x_t).

    x_t      x_t      (B, ...)  noisy data
    t        t        (B,)      step of every sample, 0 … T − 1
    eps      ε        (B, ...)  predicted noise
    noise    z        (B, ...)  standard normal; not read where t = 0
    betas    β        (T,)      float64
    clip     c                  False: Algorithm 2 as printed; True: c = 1, for data in [−1, 1]; or the number c
    returns  x_{t−1}  (B, ...)
    """
    alpha_bar = alphas_cumprod(betas)
    _, _, variance = posterior_coefficients(t, betas)
    spread = np.where(_per_sample(t, x_t) > 0, _per_sample(np.sqrt(variance), x_t) * noise, 0.0)
    if clip is False:
        share = betas[t] / np.sqrt(1 - alpha_bar[t])
        return (x_t - _per_sample(share, x_t) * eps) / _per_sample(np.sqrt(1 - betas[t]), x_t) + spread
    c = 1.0 if clip is True else clip
    x_0 = np.minimum(np.maximum(predict_x0(x_t, t, eps, alpha_bar), -c), c)
    mean, _ = posterior(x_0, x_t, t, betas)
    return mean + spread


def p_sample_vjp(cotangent, x_t, t, eps, noise, betas, clip):
    """by x_t, ε and z: no gradient passes where x̂_0 was clipped"""
    alpha_bar = alphas_cumprod(betas)
    c_0, c_t, variance = posterior_coefficients(t, betas)
    by_noise = np.where(_per_sample(t, x_t) > 0, _per_sample(np.sqrt(variance), x_t) * cotangent, 0.0)
    if clip is False:
        share = betas[t] / np.sqrt(1 - alpha_bar[t])
        pulled = cotangent / _per_sample(np.sqrt(1 - betas[t]), x_t)
        return pulled, -_per_sample(share, x_t) * pulled, by_noise
    c = 1.0 if clip is True else clip
    x_0 = predict_x0(x_t, t, eps, alpha_bar)
    inside = (x_0 >= -c) & (x_0 <= c)
    by_x0 = np.where(inside, _per_sample(c_0, x_t) * cotangent, 0.0)
    by_xt, by_eps = predict_x0_vjp(by_x0, x_t, t, eps, alpha_bar)
    return by_xt + _per_sample(c_t, x_t) * cotangent, by_eps, by_noise


def ddim_coefficients(t, t_prev, alphas_cumprod, *, eta=0.0):
    """a = √ᾱ_p,  b = √(1 − ᾱ_p − σ²),  σ = η √((1 − ᾱ_p)/(1 − ᾱ_t)) √(1 − ᾱ_t/ᾱ_p)        (Song et al. 2021 eq. 12, 16)

    The difference under the second root is written as a product of factors ≥ 0,
    (1 − ᾱ_p − σ²) (1 − ᾱ_t) = (1 − ᾱ_p) ((1 − η²)(1 − ᾱ_t) + η² ᾱ_t (1 − ᾱ_p)/ᾱ_p): as printed its digits are lost, and
    for small ᾱ_t its sign.

    t               t  (B,)    step of every sample, 0 … T − 1
    t_prev          p  (B,)    the step to go to, −1 … t − 1; −1 is the data, ᾱ_{−1} = 1
    alphas_cumprod  ᾱ  (T,)    float64
    eta             η  number  0 (deterministic) to 1 (the variance β̃ of DDPM, if p = t − 1)
    returns  a, b, σ   (B,)    each; 1, 0, 0 at p = −1
    """
    clean, now = t_prev < 0, alphas_cumprod[t]
    before = np.where(clean, 1.0, alphas_cumprod[np.maximum(t_prev, 0)])
    noisy = np.where(clean, 0.0, 1 - before)
    kept = (1 - eta) * (1 + eta) * (1 - now) + eta * eta * now * noisy / before
    return (
        np.sqrt(before),
        np.sqrt(noisy * kept / (1 - now)),
        eta * np.sqrt(noisy / (1 - now) * (1 - now / before)),
    )


def ddim_step(x_t, t, t_prev, eps, alphas_cumprod, *, noise=None, eta=0.0, clip=True, recompute_eps=False):
    """x_p = √ᾱ_p x̂_0 + √(1 − ᾱ_p − σ²) ε + σ z        (Song et al. 2021 eq. 12; σ as in ``ddim_coefficients``)

    With ``clip`` the estimate x̂_0 is clipped to [−c, c]. The noise that belongs to it is
    ε' = (x_t − √ᾱ_t x̂_0)/√(1 − ᾱ_t); ``recompute_eps`` replaces ε by ε'.

    x_t             x_t  (B, ...)  noisy data
    t               t    (B,)      step of every sample, 0 … T − 1
    t_prev          p    (B,)      the step to go to, −1 … t − 1; −1 is the data
    eps             ε    (B, ...)  predicted noise
    alphas_cumprod  ᾱ    (T,)      float64
    noise           z    (B, ...)  standard normal; not read where σ = 0, may be omitted for η = 0
    eta             η    number    0 (deterministic) to 1
    clip            c              False: as printed; True: c = 1, for data in [−1, 1]; or the number c
    recompute_eps        bool      True: ε' and so x̂_0, ε and x_t agree (guided-diffusion); False: the model's ε is kept
    returns         x_p  (B, ...)
    """
    a, b, sigma = (_per_sample(c, x_t) for c in ddim_coefficients(t, t_prev, alphas_cumprod, eta=eta))
    x_0, direction = predict_x0(x_t, t, eps, alphas_cumprod), eps
    if clip is not False:
        c = 1.0 if clip is True else clip
        x_0 = np.minimum(np.maximum(x_0, -c), c)
        if recompute_eps:
            direction = _implied_eps(x_t, t, x_0, alphas_cumprod)
    mean = a * x_0 + b * direction
    return mean if noise is None else mean + np.where(sigma > 0.0, sigma * noise, 0.0)


def _implied_eps(x_t, t, x_0, alphas_cumprod):
    """ε = (x_t − √ᾱ_t x_0)/√(1 − ᾱ_t)"""
    signal, sigma = np.sqrt(alphas_cumprod[t]), np.sqrt(1 - alphas_cumprod[t])
    return (x_t - _per_sample(signal, x_t) * x_0) / _per_sample(sigma, x_t)


def ddim_step_vjp(cotangent, x_t, t, t_prev, eps, noise, alphas_cumprod, eta, clip, recompute_eps):
    """by x_t, ε and z: no gradient passes where x̂_0 was clipped"""
    a, b, sigma = (_per_sample(c, x_t) for c in ddim_coefficients(t, t_prev, alphas_cumprod, eta=eta))
    by_x0, by_direction = a * cotangent, b * cotangent
    by_noise = np.where(sigma > 0.0, sigma * cotangent, 0.0)
    if clip is False:
        by_xt, by_eps = predict_x0_vjp(by_x0, x_t, t, eps, alphas_cumprod)
        return by_xt, by_eps + by_direction, by_noise
    c = 1.0 if clip is True else clip
    x_0 = predict_x0(x_t, t, eps, alphas_cumprod)
    inside = (x_0 >= -c) & (x_0 <= c)
    if not recompute_eps:
        by_xt, by_eps = predict_x0_vjp(np.where(inside, by_x0, 0.0), x_t, t, eps, alphas_cumprod)
        return by_xt, by_eps + by_direction, by_noise
    signal, spread = np.sqrt(alphas_cumprod[t]), np.sqrt(1 - alphas_cumprod[t])
    implied = by_direction / _per_sample(spread, x_t)
    by_xt, by_eps = predict_x0_vjp(
        np.where(inside, by_x0 - _per_sample(signal, x_t) * implied, 0.0), x_t, t, eps, alphas_cumprod
    )
    return by_xt + implied, by_eps, by_noise


# -- guidance ---------------------------------------------------------------------------------------------------------


def classifier_free_guidance(eps_cond, eps_uncond, w):
    """ε = ε_u + w (ε_c − ε_u)        (as implementations count w: 0 is unconditional, 1 conditional)

    eps_cond    ε_c  (...)   noise predicted with the condition
    eps_uncond  ε_u  (...)   noise predicted without it
    w           w    number  guidance scale; w = 1 + the w of Ho & Salimans
    returns     ε    (...)
    """
    return eps_uncond + w * (eps_cond - eps_uncond)


def classifier_free_guidance_vjp(cotangent, eps_cond, eps_uncond, w):
    """(w ḡ, (1 − w) ḡ)"""
    return w * cotangent, (1 - w) * cotangent


def classifier_free_guidance_paper(eps_cond, eps_uncond, w):
    """ε = (1 + w) ε_c − w ε_u        (Ho & Salimans 2022 eq. 6: −1 is unconditional, 0 conditional)

    eps_cond    ε_c  (...)   noise predicted with the condition
    eps_uncond  ε_u  (...)   noise predicted without it
    w           w    number  guidance strength
    returns     ε    (...)
    """
    return (1 + w) * eps_cond - w * eps_uncond


def classifier_free_guidance_paper_vjp(cotangent, eps_cond, eps_uncond, w):
    """((1 + w) ḡ, −w ḡ)"""
    return (1 + w) * cotangent, -w * cotangent


def three_channel_guidance(eps_cond, eps_uncond, w=4.0):
    """ε_k = ε_u,k + w (ε_c,k − ε_u,k) for channels k < 3, ε_k = ε_c,k for the others        (DiT, 2212.09748, code)

    eps_cond    ε_c  (B, C, ...)  noise predicted with the condition
    eps_uncond  ε_u  (B, C, ...)  noise predicted without it
    w           w    number       guidance scale
    returns     ε    (B, C, ...)  of a latent with more than three channels, only the first three are guided
    """
    guided = classifier_free_guidance(eps_cond[:, :3], eps_uncond[:, :3], w)
    return np.concatenate([guided, eps_cond[:, 3:]], axis=1)


def three_channel_guidance_vjp(cotangent, eps_cond, eps_uncond, w):
    """(w ḡ, (1 − w) ḡ) in the first three channels, (ḡ, 0) in the others"""
    by_cond, by_uncond = classifier_free_guidance_vjp(cotangent[:, :3], eps_cond, eps_uncond, w)
    rest = cotangent[:, 3:]
    return np.concatenate([by_cond, rest], axis=1), np.concatenate([by_uncond, 0 * rest], axis=1)


def power_cosine_weight(t, *, steps=1000, w_max=4.6, power=4.0):
    """w(t) = 1 + (w_max − 1) (1 − cos(π (1 − t/T)^p))/2        (DiffiT, 2312.02139, code: p = 4)

    t        t      (...)   time, 0 (clean) to T (noise)
    steps    T      number
    w_max    w_max  number  scale at t = 0
    power    p      number  the larger, the later guidance sets in
    returns  w      (...)   1 at t = T: early steps are not guided
    """
    return 1 + (w_max - 1) * (1 - np.cos(np.pi * (1 - t / steps) ** power)) / 2


# -- in continuous time -----------------------------------------------------------------------------------------------


def linear_sde_coefficients(t, *, steps=1000, beta_start=1e-4, beta_end=0.02):
    """f = −β/2,  g² = β,  β(t) = −d log ᾱ/dt = T (β_1 + (β_T − β_1) t)        (Song et al. 2021, 2011.13456, eq. 11)

    t           t    (...)   time, 0 (clean) to 1 (noise)
    steps       T    number  steps that the β are counted in; 0.1 and 20 are T β_1 and T β_T in the paper
    beta_start  β_1  number  noise variance of the first step
    beta_end    β_T  number  noise variance of the last step
    returns     f    (...)   drift of dx = f x dt + g dw
                g²   (...)   squared diffusion
    """
    beta = steps * (beta_start + (beta_end - beta_start) * t)
    return -beta / 2, beta


def quadratic_sde_coefficients(t, *, steps=1000, beta_start=1e-4, beta_end=0.02):
    """f = −β/2,  g² = β,  β(t) = −d log ᾱ/dt = T (β_1 + (β_T − β_1) t²)

    t           t    (...)   time, 0 (clean) to 1 (noise)
    steps       T    number  steps that the β are counted in
    beta_start  β_1  number  noise variance of the first step
    beta_end    β_T  number  noise variance of the last step
    returns     f    (...)   drift of dx = f x dt + g dw
                g²   (...)   squared diffusion
    """
    beta = steps * (beta_start + (beta_end - beta_start) * t**2)
    return -beta / 2, beta


def cosine_sde_coefficients(t, *, s=0.008):
    """f = −β/2,  g² = β,  β(t) = −d log ᾱ/dt = π/(1 + s) · tan(π/2 · (t + s)/(1 + s))

    t  t  (...)   time, 0 (clean) up to but not 1 (noise), where β is infinite
    s  s  number  offset of the cosine schedule
    returns f    (...)   drift of dx = f x dt + g dw
            g²   (...)   squared diffusion
    """
    beta = np.pi / (1 + s) * np.tan((t + s) / (1 + s) * (np.pi / 2))
    return -beta / 2, beta


def karras_sde_coefficients(t, *, sigma_min=0.002, sigma_max=80.0, rho=7.0):
    """f = −β/2,  g² = β,  β(t) = d log ᾱ/dt = −2 σ σ'/(1 + σ²), of ᾱ = 1/(1 + σ²): noise grows as t falls from 1 to 0

    t          t      (...)   time, 0 (noise) to 1 (clean)
    sigma_min  σ_min  number  0.002 in the paper
    sigma_max  σ_max  number  80
    rho        ρ      number  7
    returns    f      (...)   drift of dx = f x dτ + g dw in the time τ = 1 − t, in which noise is added
               g²     (...)   squared diffusion
    """
    sigma = karras_sigmas(t, sigma_min=sigma_min, sigma_max=sigma_max, rho=rho)
    beta = -2 * sigma * karras_sigmas_vjp(1.0, t, sigma_min, sigma_max, rho) / (1 + sigma**2)
    return -beta / 2, beta


def score_from_eps(eps, t, alphas_cumprod):
    """∇ log p_t(x_t) = −ε/√(1 − ᾱ_t)        (Song et al. 2021 with Ho et al. 2020 eq. 14: ε is the mean of z given x_t)

    eps             ε  (B, ...)  predicted noise
    t               t  (B,)      step of every sample, 0 … T − 1
    alphas_cumprod  ᾱ  (T,)      float64
    returns         ∇ log p (B, ...)
    """
    return -eps / _per_sample(np.sqrt(1 - alphas_cumprod[t]), eps)


def score_from_eps_vjp(cotangent, eps, t, alphas_cumprod):
    """−ḡ/√(1 − ᾱ_t)"""
    return (-cotangent / _per_sample(np.sqrt(1 - alphas_cumprod[t]), eps),)


def probability_flow_drift(x, score, f, g_squared):
    """dx/dt = f x − ½ g² ∇ log p        (Song et al. 2021, 2011.13456, eq. 13)

    x          x        (B, ...)  data at time t
    score      ∇ log p  (B, ...)  score at x and t
    f          f        (B,)      drift coefficient, float64
    g_squared  g²       (B,)      squared diffusion, float64
    returns    dx/dt    (B, ...)  the ordinary differential equation with the marginals of the SDE
    """
    return _per_sample(f, x) * x - _per_sample(g_squared, x) / 2 * score


def probability_flow_drift_vjp(cotangent, x, score, f, g_squared):
    """(f ḡ, −½ g² ḡ)"""
    return _per_sample(f, x) * cotangent, -_per_sample(g_squared, x) / 2 * cotangent
