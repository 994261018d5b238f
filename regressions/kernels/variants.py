"""Wrong variants of the kernels, as they were shipped or as the checks must reject them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from trueness.reference import kernels as true

# -- item 5: the bandwidth --------------------------------------------------------------------------------------------


def variance_gaussian(x: Any, y: Any, epsilon: Any) -> Any:
    """exp(−r²/(2 ε)): ε is the variance"""
    return true.gaussian(x, y, lengthscale=np.sqrt(epsilon))


def variance_frequencies(normal: Any, epsilon: Any) -> Any:
    """ω ~ N(0, ε⁻¹ I): ε is the variance"""
    return true.gaussian_frequencies(normal, lengthscale=np.sqrt(epsilon))


# -- item 6: the error of Nyström -------------------------------------------------------------------------------------


def root_of_points_per_landmark(x: Any, landmarks: Any, epsilon: Any, reg: Any) -> Any:
    """√(n/m), whatever the points are"""
    return np.array(math.sqrt(x.shape[0] / landmarks.shape[0]))


def inverse_root(x: Any, landmarks: Any, epsilon: Any, reg: Any) -> Any:
    """1/√m, whatever the points are"""
    return np.array(1 / math.sqrt(landmarks.shape[0]))


def spectral_as_frobenius(landmarks: Any, points: Any, rank: Any, delta: Any) -> Any:
    """m^{−1/2} where the theorem for the Frobenius norm has m^{−1/4}"""
    return true.drineas_mahoney_spectral(landmarks, points=points, delta=delta) * np.sqrt(16 * rank)


def rate_as_theorem(landmarks: Any, points: Any, delta: Any) -> Any:
    """1/√m in place of 2 η n/√m"""
    return true.nystrom_rate(landmarks)


# -- item 8: random features ------------------------------------------------------------------------------------------


def unit_variance_per_scale(x: Any, frequencies: Any, offsets: Any, weights: Any, counts: Any) -> Any:
    """every scale with √(2/D_s), whatever its share"""
    return true.rff_features_multiscale(x, frequencies, offsets, weights=np.ones(len(counts)), counts=counts)


def matvec_unit_variance_per_scale(
    x: Any, y: Any, v: Any, frequencies: Any, offsets: Any, weights: Any, counts: Any
) -> Any:
    """Σ_s K_s v: the kernels are added, not averaged"""
    return true.rff_matvec_multiscale(x, y, v, frequencies, offsets, weights=np.ones(len(counts)), counts=counts)


def one_constant(x: Any, frequencies: Any, offsets: Any, weights: Any, counts: Any) -> Any:
    """√(2/D) for all scales, D = Σ D_s: the share of a scale is that of its features"""
    return true.rff_features(x, frequencies, offsets)


def unit_columns(blocks: Any, radii: Any, epsilon: Any) -> Any:
    """orthonormal columns without the χ radii"""
    return true.orthogonal_frequencies(blocks, np.ones(radii.shape), lengthscale=epsilon)


def twice_gaussian(x: Any, frequencies: Any) -> Any:
    """√(2/J) [cos, sin] with J frequencies, where √(1/J) belongs"""
    return math.sqrt(2) * true.rff_features_paired(x, frequencies)


def root_of_log(counts: Any, points: Any, delta: Any) -> Any:
    """√(ln n/D)"""
    return np.sqrt(np.log(points) / counts)


def seeded_anew(x: Any, y: Any, v: Any, frequencies: Any, offsets: Any) -> Any:
    """every tile of two features draws the same two"""
    same = np.arange(offsets.shape[0]) % 2
    return true.rff_matvec(x, y, v, frequencies[:, same], offsets[same])


# -- tiles and structured features ------------------------------------------------------------------------------------


def last_tile_alone(x: Any, y: Any, v: Any, frequencies: Any, offsets: Any) -> Any:
    """the sums of y's tiles are overwritten and not added up: two points remain"""
    return true.rff_matvec(x, y[-2:], v[-2:], frequencies, offsets)


def scaled_by_the_tile(x: Any, y: Any, frequencies: Any, offsets: Any) -> Any:
    """2/D with the D of a tile of two features"""
    return true.rff_gram(x, y, frequencies, offsets) * offsets.shape[0] / 2


def without_the_root(x: Any, signs: Any, offsets: Any, epsilon: Any) -> Any:
    """rotations alone: frequencies of length 1/ε where √q/ε belongs"""
    return true.structured_features(x, signs, offsets, lengthscale=epsilon * math.sqrt(signs.shape[2]))


def signs_in_reverse(x: Any, signs: Any, offsets: Any, epsilon: Any) -> Any:
    """the signs of the last rotation first"""
    return true.structured_features(x, signs[:, ::-1], offsets, lengthscale=epsilon)


def without_the_inverse(x: Any, landmarks: Any, v: Any, epsilon: Any, reg: Any) -> Any:
    """K_xm K_mx v"""
    cross = true.gaussian(x, landmarks, lengthscale=epsilon)
    return cross @ (cross.T @ v)


# -- item 22: the Cauchy kernel ---------------------------------------------------------------------------------------


def damped_cosine(x: Any, frequencies: Any, offsets: Any) -> Any:
    """√(2/D) cos(p) exp(−min(|p|, 20)),  p = x W + b"""
    angle = x @ frequencies + offsets
    damped = np.exp(-np.minimum(np.maximum(angle, -angle), 20.0))
    return math.sqrt(2 / offsets.shape[0]) * np.cos(angle) * damped


def names_meet(uniform: Any, epsilon: Any) -> Any:
    """i.i.d. Cauchy frequencies, because the kernel is called Cauchy"""
    return true.laplacian_l1_frequencies(uniform, lengthscale=epsilon)


def laplacian_of_the_other_norm(x: Any, y: Any, epsilon: Any) -> Any:
    """exp(−‖x − y‖₁/ε)"""
    return true.laplacian_l1(x, y, lengthscale=epsilon)


def product_of_the_axes(x: Any, y: Any, epsilon: Any) -> Any:
    """∏_k 1/(1 + ((x_k − y_k)/ε)²)"""
    return true.cauchy_product(x, y, lengthscale=epsilon)
