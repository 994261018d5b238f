"""Diagonal Fisher information of a score, with an adaptive floor.

    F = s² + ε(ᾱ),        ε(ᾱ) = 10⁻⁴ + 10⁻³ (1 − ᾱ)

F_ii = E[(∂ log p / ∂θ_i)²] is the Fisher information (Amari 1998, Natural Gradient Works Efficiently in Learning;
Lehmann & Casella, Theory of Point Estimation §2.5). One sample s of the score stands for the expectation, so this is
the empirical Fisher (Martens 2020, §11); for location families the score in x equals the score in the parameter.
"""

import numpy as np

MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def floor(alpha):
    """ε(ᾱ) = 10⁻⁴ + 10⁻³ (1 − ᾱ)

    alpha  ᾱ  scalar  share of signal left, in [0, 1]
    returns   ε(ᾱ), between 1e-4 (ᾱ = 1) and 1.1e-3 (ᾱ = 0)
    """
    return 1e-4 + 1e-3 * (1 - alpha)


def alpha_from_time(t):
    """ᾱ ≈ 1 − t, clipped to [0, 1]: exact only for β_i = 1/(T − i + 1), and 0.42 off for the linear schedule.

    t        t  scalar  time, 0 (clean) to 1 (noise)
    returns  ᾱ
    """
    return np.clip(1 - t, 0, 1)


def _over_samples(number, x):
    """A number unchanged; (B,) numbers as (B, 1, ..., 1), to be multiplied by x (B, ...)"""
    return np.reshape(number, np.shape(number) + (1,) * (np.ndim(x) - 1)) if np.ndim(number) else number


def diagonal(score, alpha):
    """F = s² + ε(ᾱ)        (Amari 1998; Martens 2020 §11)

    score  s  (...)           gradient of the log density, 1/unit of x
    alpha  ᾱ  scalar or (B,)  share of signal left, in [0, 1]; a number, or one for each sample (first axis of s)
    returns F (...)           strictly positive, 1/unit² of x
    """
    return score * score + _over_samples(floor(alpha), score)


def diagonal_vjp(cotangent, score, alpha):
    """∂/∂s ⟨F̄, F⟩ = 2 s F̄"""
    return 2 * score * cotangent


def diagonal_second(h, cotangent, score, alpha):
    """∂⟨h, F̄-vjp⟩ by F̄ and by s: (2 s h, 2 F̄ h)"""
    return 2 * score * h, 2 * cotangent * h


def preconditioned_step(score, alpha):
    """d = s / F = s / (s² + ε(ᾱ))        (natural gradient step, Amari 1998 eq. 3, with the diagonal F)

    score  s  (...)           gradient of the log density, 1/unit of x
    alpha  ᾱ  scalar or (B,)  share of signal left, in [0, 1]
    returns d (...)           at most 1/(2√ε) in size, unit of x
    """
    return score / diagonal(score, alpha)


def preconditioned_step_vjp(cotangent, score, alpha):
    """∂/∂s ⟨d̄, d⟩ = d̄ (ε − s²) / F²"""
    fisher = diagonal(score, alpha)
    return cotangent * (_over_samples(floor(alpha), score) - score * score) / (fisher * fisher)


def preconditioned_step_second(h, cotangent, score, alpha):
    """∂⟨h, d̄-vjp⟩ by d̄ and by s: (h (ε − s²)/F², 2 s h d̄ (s² − 3 ε)/F³)"""
    fisher, square, eps = diagonal(score, alpha), score * score, _over_samples(floor(alpha), score)
    return h * (eps - square) / (fisher * fisher), 2 * score * h * cotangent * (square - 3 * eps) / fisher**3


def drift_step(x, score, alpha, a, b):
    """x' = a x + b s / (s² + ε(ᾱ))        (explicit Euler step of a drift preconditioned by the diagonal F)

    x      x  (B, ...)        where the step starts
    score  s  (B, ...)        gradient of the log density at x, 1/unit of x
    alpha  ᾱ  scalar or (B,)  share of signal left, in [0, 1]
    a         scalar or (B,)  factor of x
    b         scalar or (B,)  step size
    returns x' (B, ...)       unit of x
    """
    return _over_samples(a, x) * x + _over_samples(b, x) * preconditioned_step(score, alpha)


def drift_step_vjp(cotangent, x, score, alpha, a, b):
    """∂/∂x and ∂/∂s of ⟨x̄', x'⟩: (a x̄', b x̄' (ε − s²)/F²)"""
    return _over_samples(a, x) * cotangent, preconditioned_step_vjp(_over_samples(b, x) * cotangent, score, alpha)


def drift_step_second(h_x, h_score, cotangent, x, score, alpha, a, b):
    """∂⟨h, vjp⟩ by x̄', by x and by s: (a h_x + b h_s (ε − s²)/F², 0, 2 s h_s b x̄' (s² − 3 ε)/F³)"""
    by_cotangent, by_score = preconditioned_step_second(_over_samples(b, x) * h_score, cotangent, score, alpha)
    return _over_samples(a, x) * h_x + by_cotangent, 0 * x, by_score


def binomial(n, padding):
    """K (n, n): the taps [1, 2, 1]/4 as a matrix, the border filled by ``padding``."""
    return _taps(np.eye(n), 0, padding)


def smooth(fisher, padding):
    """F' = K_y F K_xᵀ: the 3×3 binomial filter [1 2 1]ᵀ[1 2 1]/16 over the last two axes

    fisher   F  (..., H, W)  any array
    padding     "zeros", "reflect", "replicate" or "circular": how the border is extended
    returns  F' (..., H, W)
    """
    return _taps(_taps(fisher, -1, padding), -2, padding)


def _taps(x, axis, padding):
    """(x₋₁ + 2 x + x₊₁)/4 along ``axis``, the border filled by ``padding``"""
    x = np.swapaxes(x, axis, -1)
    wide = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(1, 1)], mode=MODES[padding])
    return np.swapaxes((wide[..., :-2] + 2 * x + wide[..., 2:]) / 4, axis, -1)


def smooth_vjp(cotangent, fisher, padding):
    """∂/∂F ⟨F̄', F'⟩ = K_yᵀ F̄' K_x"""
    height, width = fisher.shape[-2:]
    return binomial(height, padding).T @ cotangent @ binomial(width, padding)
