"""Random Fourier features: the features themselves, their Gram matrix, and products with it.

    k(x − y) = ∫ p(ω) e^{iω·(x−y)} dω ≈ φ(x)·φ(y),      φ(x) = √(2/D) cos(Wᵀx + b)        (Bochner; Rahimi & Recht 2007)

Features are computed in tiles: the n × D features of a product are never stored, neither in the forward nor in the
backward. float16 and bfloat16 are computed in float32 and rounded once. The randomness is drawn first, by
``sample_frequencies`` and ``sample_offsets``, so that a result does not depend on its tiles.
Sources: Rahimi & Recht 2007, Alg. 1; Sutherland & Schneider 2015 (1506.02785); Yu et al. 2016 (1610.09072).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from trueness.optimized._lib.dtypes import upcast
from trueness.optimized._lib.validation import require_floating
from trueness.optimized.kernels import autograd, sorf
from trueness.optimized.kernels.validation import (
    require_count,
    require_frequencies,
    require_matrix,
    require_out,
    require_points,
    require_positive,
    require_precision,
    require_same_kind,
    require_vector,
    require_vectors,
)

__all__ = [
    "rff_features",
    "rff_features_multiscale",
    "rff_features_paired",
    "rff_gram",
    "rff_matvec",
    "rff_matvec_multiscale",
    "structured_features",
]


def _choices(row_tile: int | None, feature_tile: int | None, precision: str) -> tuple[int | None, int | None]:
    require_count(row_tile, "row_tile")
    require_count(feature_tile, "feature_tile")
    require_precision(precision)
    return row_tile, feature_tile


def rff_features(
    x: torch.Tensor,
    frequencies: torch.Tensor,
    offsets: torch.Tensor,
    *,
    feature_tile: int | None = None,
    row_tile: int | None = None,
    precision: str = "ieee",
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """φ(x) = √(2/D) cos(x W + b)        (Rahimi & Recht 2007 Alg. 1; E φ(x)·φ(y) = k(x − y))

    x             x  (n, d)  points, any floating dtype
    frequencies   W  (d, D)  columns from the kernel's spectral density, like x
    offsets       b  (D,)    uniform on [0, 2π), like x
    feature_tile     int     features computed at a time
    row_tile         int     points they are computed for at a time
    precision        name    "ieee", or "tf32": on CUDA products of x and W keep 11 bits of every factor
    out              (n, D)  optional: where the result is written, no gradient then
    returns       φ  (n, D)  dtype of x
    raises        ValueError if the arguments do not fit together
    """
    require_frequencies(x, frequencies, offsets)
    chosen = _choices(row_tile, feature_tile, precision)
    require_out(out, (x.shape[0], frequencies.shape[1]), x, frequencies, offsets)
    return autograd.features(x, frequencies, offsets, math.sqrt(2 / offsets.shape[0]), chosen, out, precision)


def rff_features_paired(
    x: torch.Tensor,
    frequencies: torch.Tensor,
    *,
    feature_tile: int | None = None,
    row_tile: int | None = None,
    precision: str = "ieee",
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """φ(x) = √(2/D) [cos(x W), sin(x W)],  D = 2 · columns of W        (Sutherland & Schneider 2015 eq. 1)

    x             x  (n, d)    points, any floating dtype
    frequencies   W  (d, D/2)  columns from the kernel's spectral density, like x
    feature_tile     int       columns of W computed at a time
    row_tile         int       points they are computed for at a time
    precision        name      "ieee", or "tf32": on CUDA products of x and W keep 11 bits of every factor
    out              (n, D)    optional: where the result is written, no gradient then
    returns       φ  (n, D)    dtype of x; φ(x)·φ(x) = 1
    raises        ValueError if the arguments do not fit together
    """
    require_frequencies(x, frequencies, None)
    chosen = _choices(row_tile, feature_tile, precision)
    require_out(out, (x.shape[0], 2 * frequencies.shape[1]), x, frequencies)
    return autograd.features(x, frequencies, None, math.sqrt(1 / frequencies.shape[1]), chosen, out, precision)


def structured_features(
    x: torch.Tensor,
    signs: torch.Tensor,
    offsets: torch.Tensor,
    *,
    lengthscale: float = 1.0,
    row_tile: int | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """φ(x) = √(2/D) cos(z + b),  z_b = √q/ℓ · H D_b3 H D_b2 H D_b1 x̃        (SORF, Yu et al. 2016 eq. 6)

    x            x  (n, d)     points, any floating dtype; x̃ is x and zeros up to q numbers
    signs        D  (B, 3, q)  ±1, the diagonals of every block, like x; q is a power of two, at least d
    offsets      b  (D,)       uniform on [0, 2π), like x; D ≤ B q, and of the last block as many as are left
    lengthscale  ℓ  number     standard deviation of the Gaussian kernel, > 0
    row_tile        int        points whose angles are computed at a time
    out             (n, D)     optional: where the result is written, no gradient then
    returns      φ  (n, D)     dtype of x; in O(n D log d) of memory-bound or O(n D √d) of matrix products
    raises       ValueError if the arguments do not fit together
    """
    require_matrix(x, "x", "(points, dimensions)")
    require_floating(signs, "signs")
    if signs.ndim != 3 or signs.shape[1] != 3 or sorf.power(x.shape[1], signs.shape[2]) != signs.shape[2]:
        raise ValueError(
            f"signs had shape {tuple(signs.shape)}; it must be (B, 3, q) with q a power of two of at least "
            f"{max(x.shape[1], 1)}, the dimensions of x."
        )
    require_floating(offsets, "offsets")
    q = signs.shape[2]
    if offsets.ndim != 1 or not (signs.shape[0] - 1) * q < offsets.shape[0] <= signs.shape[0] * q:
        raise ValueError(
            f"offsets had shape {tuple(offsets.shape)}; it must be (D,) with D of at most the "
            f"{signs.shape[0] * q} frequencies of signs, and of more than those without the last block."
        )
    require_same_kind(x, "x", signs=signs, offsets=offsets)
    require_positive(lengthscale, "lengthscale")
    require_count(row_tile, "row_tile")
    require_out(out, (x.shape[0], offsets.shape[0]), x, offsets)
    return sorf.features(x, signs, offsets, lengthscale, row_tile, out)


def _require_scales(frequencies: torch.Tensor, weights: torch.Tensor, counts: Sequence[int]) -> None:
    for count in counts:
        require_count(count, "counts")
    if sum(counts) != frequencies.shape[1]:
        raise ValueError(f"counts were {tuple(counts)}; they must sum to the {frequencies.shape[1]} columns.")
    require_vector(weights, "weights", len(counts), "one for every scale")
    if weights.device != frequencies.device:
        raise ValueError(f"weights was on {weights.device}; it must be on {frequencies.device}, where frequencies is.")


def shares_by_feature(weights: torch.Tensor, counts: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """2 w_s/D_s, once for every feature of scale s, in the working precision of ``like``."""
    parts = [(2 * weights[s] / count).expand(count) for s, count in enumerate(counts)]
    return torch.cat(parts).to(upcast(like[:0]).dtype)


def rff_features_multiscale(
    x: torch.Tensor,
    frequencies: torch.Tensor,
    offsets: torch.Tensor,
    *,
    weights: torch.Tensor,
    counts: Sequence[int],
    feature_tile: int | None = None,
    row_tile: int | None = None,
    precision: str = "ieee",
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """φ(x) = [√(2 w_s/D_s) cos(x W_s + b_s)]_s,  Σ w_s = 1: for k = Σ_s w_s k_s        (Rahimi & Recht 2007, linearity)

    x             x    (n, d)  points, any floating dtype
    frequencies   W    (d, D)  the columns of all scales, one scale after the other, like x
    offsets       b    (D,)    uniform on [0, 2π), like x
    weights       w    (S,)    share of every scale's kernel, summing to 1; best in float64
    counts        D_s  tuple   number of features of every scale, summing to D
    feature_tile       int     features computed at a time
    row_tile           int     points they are computed for at a time
    precision          name    "ieee", or "tf32": on CUDA products of x and W keep 11 bits of every factor
    out                (n, D)  optional: where the result is written, no gradient then
    returns       φ    (n, D)  dtype of x
    raises        ValueError if the arguments do not fit together
    """
    require_frequencies(x, frequencies, offsets)
    _require_scales(frequencies, weights, counts)
    chosen = _choices(row_tile, feature_tile, precision)
    require_out(out, (x.shape[0], frequencies.shape[1]), x, frequencies, offsets, weights)
    return autograd.features(
        x, frequencies, offsets, shares_by_feature(weights, counts, x).sqrt(), chosen, out, precision
    )


def rff_gram(
    x: torch.Tensor,
    y: torch.Tensor,
    frequencies: torch.Tensor,
    offsets: torch.Tensor,
    *,
    feature_tile: int | None = None,
    row_tile: int | None = None,
    precision: str = "ieee",
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """K̂ = φ(x) φ(y)ᵀ = (2/D) cos(x W + b) cos(y W + b)ᵀ        (Rahimi & Recht 2007 Alg. 1), φ never stored

    x             x  (n, d)  points, any floating dtype
    y             y  (m, d)  points, like x
    frequencies   W  (d, D)  columns from the kernel's spectral density, like x
    offsets       b  (D,)    uniform on [0, 2π), like x
    feature_tile     int     features computed at a time
    row_tile         int     points they are computed for at a time; the backward computes every tile again
    precision        name    "ieee", or "tf32": on CUDA products keep 11 bits of every factor
    out              (n, m)  optional: where the result is written, no gradient then
    returns       K̂  (n, m)  dtype of x
    raises        ValueError if the arguments do not fit together
    """
    require_points(x, y)
    require_frequencies(x, frequencies, offsets)
    chosen = _choices(row_tile, feature_tile, precision)
    require_out(out, (x.shape[0], y.shape[0]), x, y, frequencies, offsets)
    return autograd.gram(x, y, frequencies, offsets, chosen, out, precision)


def rff_matvec(
    x: torch.Tensor,
    y: torch.Tensor,
    v: torch.Tensor,
    frequencies: torch.Tensor,
    offsets: torch.Tensor,
    *,
    feature_tile: int | None = None,
    row_tile: int | None = None,
    precision: str = "ieee",
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """u = φ(x) (φ(y)ᵀ v) ≈ K(x, y) v,  φ = √(2/D) cos(· W + b)        (Rahimi & Recht 2007 Alg. 1), φ never stored

    x             x  (n, d)  points, any floating dtype
    y             y  (m, d)  points, like x
    v             v  (m, p)  vectors in columns, like x
    frequencies   W  (d, D)  columns from the kernel's spectral density, like x
    offsets       b  (D,)    uniform on [0, 2π), like x
    feature_tile     int     features computed at a time
    row_tile         int     points they are computed for at a time; the backward computes every tile again
    precision        name    "ieee", or "tf32": on CUDA products keep 11 bits of every factor
    out              (n, p)  optional: where the result is written, no gradient then
    returns       u  (n, p)  dtype of x; the tiles change the order of summation and nothing else
    raises        ValueError if the arguments do not fit together
    """
    require_points(x, y)
    require_vectors(v, y)
    require_frequencies(x, frequencies, offsets)
    chosen = _choices(row_tile, feature_tile, precision)
    require_out(out, (x.shape[0], v.shape[1]), x, y, v, frequencies, offsets)
    count = frequencies.shape[1]
    shares = torch.full((count,), 2 / count, dtype=upcast(x[:0]).dtype, device=x.device)
    return autograd.matvec(x, y, v, frequencies, offsets, shares, chosen, out, precision)


def rff_matvec_multiscale(
    x: torch.Tensor,
    y: torch.Tensor,
    v: torch.Tensor,
    frequencies: torch.Tensor,
    offsets: torch.Tensor,
    *,
    weights: torch.Tensor,
    counts: Sequence[int],
    feature_tile: int | None = None,
    row_tile: int | None = None,
    precision: str = "ieee",
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """u = φ(x) (φ(y)ᵀ v) ≈ Σ_s w_s K_s(x, y) v with the features of ``rff_features_multiscale``, none of them stored

    x             x    (n, d)  points, any floating dtype
    y             y    (m, d)  points, like x
    v             v    (m, p)  vectors in columns, like x
    frequencies   W    (d, D)  the columns of all scales, one scale after the other, like x
    offsets       b    (D,)    uniform on [0, 2π), like x
    weights       w    (S,)    share of every scale's kernel, summing to 1; best in float64
    counts        D_s  tuple   number of features of every scale, summing to D
    feature_tile       int     features computed at a time
    row_tile           int     points they are computed for at a time
    precision          name    "ieee", or "tf32": on CUDA products keep 11 bits of every factor
    out                (n, p)  optional: where the result is written, no gradient then
    returns       u    (n, p)  dtype of x
    raises        ValueError if the arguments do not fit together
    """
    require_points(x, y)
    require_vectors(v, y)
    require_frequencies(x, frequencies, offsets)
    _require_scales(frequencies, weights, counts)
    chosen = _choices(row_tile, feature_tile, precision)
    require_out(out, (x.shape[0], v.shape[1]), x, y, v, frequencies, offsets, weights)
    return autograd.matvec(x, y, v, frequencies, offsets, shares_by_feature(weights, counts, x), chosen, out, precision)
