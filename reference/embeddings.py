"""The sinusoidal embedding of a timestep.

    e(t) = [sin(ω_i t), cos(ω_i t)],      ω_i = P^{−i/(h − shift)},   i = 0 … h − 1,   h = ⌊d/2⌋

Vaswani et al. 2017 (1706.03762) §3.5: P = 10⁴, shift 0, so that ω stops short of 1/P; as ADM, DiT. Ho et al. 2020 after
tensor2tensor, and the default of diffusers: shift 1, so that ω ends at 1/P. Both are right under their name; a network
trained with one and sampled with the other is not, so `shift` has no default.
"""

import numpy as np


def _frequencies(half, max_period, shift):
    """ω_i = P^{−i/(h − shift)}; the one frequency of h = 1 is 1 under either convention"""
    return np.exp(np.log(max_period) * (-np.arange(half) / max(half - shift, 1)))


def sinusoidal(t, dim, *, shift, order, max_period=10000.0):
    """e(t) = [sin(ω_i t), cos(ω_i t)],  ω_i = P^{−i/(h − shift)},  h = ⌊d/2⌋        (Vaswani et al. 2017 §3.5)

    t           t  (...)     time or position, in the unit that the network was trained with (steps, mostly 0 … 1000)
    dim         d  int       width, at least 2; of an odd width the last channel is 0
    shift          0 or 1    0: Vaswani et al., ADM, DiT;  1: tensor2tensor, DDPM
    order          "sin cos" or "cos sin": which half comes first (they are not interleaved)
    max_period  P  number    > 1
    returns     e  (..., d)  e·e = h for every t
    """
    angle = t[..., None] * _frequencies(dim // 2, max_period, shift)
    first, second = _ordered(np.sin(angle), np.cos(angle), order)
    return np.concatenate([first, second, 0 * first[..., : dim % 2]], axis=-1)


def _ordered(sin, cos, order):
    return (sin, cos) if order == "sin cos" else (cos, sin)


def sinusoidal_vjp(cotangent, t, dim, max_period, shift, order):
    """∂/∂t ⟨ē, e⟩ = Σ_i ω_i (ē_sin cos(ω_i t) − ē_cos sin(ω_i t))"""
    half = dim // 2
    frequencies = _frequencies(half, max_period, shift)
    angle = t[..., None] * frequencies
    by_sin, by_cos = _ordered(cotangent[..., :half], cotangent[..., half : 2 * half], order)
    return np.sum(frequencies * (by_sin * np.cos(angle) - by_cos * np.sin(angle)), axis=-1)
