"""Kernels, their random Fourier features, and the Nyström approximation, fast.

    k(x − y) = ∫ p(ω) e^{iω·(x−y)} dω ≈ φ(x)·φ(y),      φ(x) = √(2/D) cos(Wᵀx + b)        (Bochner; Rahimi & Recht 2007)

x (n, d) and y (m, d) are points in rows; ε is a length: the standard deviation of the Gaussian kernel and no variance.
Distances are taken from differences, products with features in tiles: the n × D features of a product are never stored,
neither going forward nor going back. float16 and bfloat16 are computed in float32 and rounded once. The randomness is
drawn first, by ``sample_frequencies`` and ``sample_offsets``, so that a result does not depend on its tiles.
Sources: Rahimi & Recht 2007; Rasmussen & Williams 2006 ch. 4; Yu et al. 2016 (1610.09072); Williams & Seeger 2001;
Drineas & Mahoney 2005, JMLR 6:2153.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from trueness.optimized._lib.checkpoint import checkpointed
from trueness.optimized._lib.dtypes import autocast_disabled, upcast
from trueness.optimized._lib.validation import require_floating
from trueness.optimized.kernels import autograd as tiles
from trueness.optimized.kernels import sorf as structured
from trueness.optimized.kernels.sampling import (
    sample_frequencies,
    sample_offsets,
    sample_orthogonal_frequencies,
    sample_signs,
)
from trueness.optimized.kernels.validation import (
    blocks,
    distances,
    require_count,
    require_frequencies,
    require_matrix,
    require_place,
    require_points,
    require_positive,
    require_precision,
    require_same_kind,
    require_share,
    require_vector,
    smooth_matern,
)

__all__ = [
    "cauchy_product",
    "cauchy_product_frequencies",
    "cauchy_radial",
    "cauchy_radial_frequencies",
    "drineas_mahoney_frobenius",
    "drineas_mahoney_spectral",
    "features",
    "features_error_bound",
    "features_multiscale",
    "features_paired",
    "gaussian",
    "gaussian_frequencies",
    "gram",
    "kernel_matvec",
    "laplacian_l1",
    "laplacian_l1_frequencies",
    "laplacian_l2",
    "laplacian_l2_frequencies",
    "matern",
    "matern_frequencies",
    "matvec",
    "matvec_multiscale",
    "nystrom",
    "nystrom_features",
    "nystrom_matvec",
    "nystrom_rate",
    "nystrom_trace_bound",
    "orthogonal_frequencies",
    "sample_frequencies",
    "sample_offsets",
    "sample_orthogonal_frequencies",
    "sample_signs",
    "structured_features",
]

Device = torch.device | str | None
ROW_TILE = 4096  # of an exact kernel matrix


# -- kernel matrices --------------------------------------------------------------------------------------------------


def _gaussian(x: torch.Tensor, y: torch.Tensor, epsilon: float) -> torch.Tensor:
    return torch.exp(distances(x, y).square() * (-0.5 / epsilon**2))


def _laplacian_l1(x: torch.Tensor, y: torch.Tensor, epsilon: float) -> torch.Tensor:
    return torch.exp(distances(x, y, 1.0) / -epsilon)


def _laplacian_l2(x: torch.Tensor, y: torch.Tensor, epsilon: float) -> torch.Tensor:
    return torch.exp(distances(x, y) / -epsilon)


def _cauchy_product(x: torch.Tensor, y: torch.Tensor, epsilon: float) -> torch.Tensor:
    kernel = x.new_ones(x.shape[0], y.shape[0])
    for k in range(x.shape[1]):  # one axis at a time: no (n, m, d) array
        kernel = kernel / (1 + ((x[:, k, None] - y[None, :, k]) / epsilon).square())
    return kernel


def _cauchy_radial(x: torch.Tensor, y: torch.Tensor, epsilon: float) -> torch.Tensor:
    return torch.reciprocal(1 + torch.div(distances(x, y), epsilon).square())


Kernel = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]
KERNELS: dict[str, Kernel] = {
    "gaussian": _gaussian,
    "laplacian_l1": _laplacian_l1,
    "laplacian_l2": _laplacian_l2,
    "cauchy_product": _cauchy_product,
    "cauchy_radial": _cauchy_radial,
}


def _matrix(kernel: Kernel, x: torch.Tensor, y: torch.Tensor, epsilon: float) -> torch.Tensor:
    require_points(x, y)
    require_positive(epsilon, "epsilon")
    return kernel(upcast(x), upcast(y), epsilon).to(x.dtype)


def gaussian(x: torch.Tensor, y: torch.Tensor, epsilon: float) -> torch.Tensor:
    """K_ij = exp(−‖x_i − y_j‖²/(2 ε²))        (Rahimi & Recht 2007 Fig. 1; ε is the standard deviation)

    x        x  (n, d)  points, any floating dtype
    y        y  (m, d)  points, like x
    epsilon  ε  number  length scale, > 0, unit of x
    returns  K  (n, m)  dtype of x
    raises   ValueError if x and y do not fit together or epsilon is not a positive number
    """
    return _matrix(_gaussian, x, y, epsilon)


def laplacian_l1(x: torch.Tensor, y: torch.Tensor, epsilon: float) -> torch.Tensor:
    """K_ij = exp(−‖x_i − y_j‖₁/ε)        (Rahimi & Recht 2007 Fig. 1: its "Laplacian")

    x        x  (n, d)  points, any floating dtype
    y        y  (m, d)  points, like x
    epsilon  ε  number  length scale, > 0, unit of x
    returns  K  (n, m)  dtype of x; where coordinates are equal the gradient is 0
    raises   ValueError if x and y do not fit together or epsilon is not a positive number
    """
    return _matrix(_laplacian_l1, x, y, epsilon)


def laplacian_l2(x: torch.Tensor, y: torch.Tensor, epsilon: float) -> torch.Tensor:
    """K_ij = exp(−‖x_i − y_j‖₂/ε)        (Matérn with ν = 1/2, Rasmussen & Williams 2006 eq. 4.18: rotation-invariant)

    x        x  (n, d)  points, any floating dtype
    y        y  (m, d)  points, like x
    epsilon  ε  number  length scale, > 0, unit of x
    returns  K  (n, m)  dtype of x; where points are equal the gradient is 0
    raises   ValueError if x and y do not fit together or epsilon is not a positive number
    """
    return _matrix(_laplacian_l2, x, y, epsilon)


def cauchy_product(x: torch.Tensor, y: torch.Tensor, epsilon: float) -> torch.Tensor:
    """K_ij = ∏_k 1/(1 + ((x_ik − y_jk)/ε)²)        (Rahimi & Recht 2007 Fig. 1: its "Cauchy")

    x        x  (n, d)  points, any floating dtype
    y        y  (m, d)  points, like x
    epsilon  ε  number  length scale, > 0, unit of x
    returns  K  (n, m)  dtype of x
    raises   ValueError if x and y do not fit together or epsilon is not a positive number
    """
    return _matrix(_cauchy_product, x, y, epsilon)


def cauchy_radial(x: torch.Tensor, y: torch.Tensor, epsilon: float) -> torch.Tensor:
    """K_ij = 1/(1 + ‖x_i − y_j‖²/ε²)        (the rational quadratic, Rasmussen & Williams 2006 eq. 4.19, α = 1)

    x        x  (n, d)  points, any floating dtype
    y        y  (m, d)  points, like x
    epsilon  ε  number  length scale, > 0, unit of x; ℓ = ε/√2 of the book
    returns  K  (n, m)  dtype of x
    raises   ValueError if x and y do not fit together or epsilon is not a positive number
    """
    return _matrix(_cauchy_radial, x, y, epsilon)


def matern(x: torch.Tensor, y: torch.Tensor, epsilon: float, nu: float) -> torch.Tensor:
    """K_ij = e^{−s} p(s),  s = √(2ν) r/ε,  p = 1, 1 + s, 1 + s + s²/3 for ν = 1/2, 3/2, 5/2 (R. & W. 2006 eq. 4.16-17)

    x        x  (n, d)  points, any floating dtype
    y        y  (m, d)  points, like x
    epsilon  ε  number  length scale ℓ, > 0, unit of x
    nu       ν  number  smoothness: 0.5, 1.5 or 2.5
    returns  K  (n, m)  dtype of x
    raises   ValueError for another ν, if x and y do not fit together, or if epsilon is not a positive number
    """
    if nu not in (0.5, 1.5, 2.5):
        raise ValueError(f"nu was {nu!r}; it must be 0.5, 1.5 or 2.5.")
    if nu == 0.5:
        return _matrix(_laplacian_l2, x, y, epsilon)
    return _matrix(lambda a, b, length: smooth_matern(a, b, length, nu), x, y, epsilon)


def kernel_matvec(
    x: torch.Tensor, y: torch.Tensor, v: torch.Tensor, kernel: str, epsilon: float, *, row_tile: int | None = None
) -> torch.Tensor:
    """u = K(x, y) v: the exact product that random features approximate, a tile of rows of K at a time

    x         x  (n, d)  points, any floating dtype
    y         y  (m, d)  points, like x
    v         v  (m, p)  vectors in columns, like x
    kernel       name    "gaussian", "laplacian_l1", "laplacian_l2", "cauchy_product" or "cauchy_radial"
    epsilon   ε  number  length scale, > 0
    row_tile     int     rows of K in memory at a time; the backward makes them once more
    returns   u  (n, p)  dtype of x
    raises    ValueError for another kernel, or if an argument does not fit
    """
    require_points(x, y)
    _require_vectors(v, y)
    require_positive(epsilon, "epsilon")
    require_count(row_tile, "row_tile")
    if kernel not in KERNELS:
        raise ValueError(f"kernel was {kernel!r}; allowed are {', '.join(KERNELS)}.")
    matrix = KERNELS[kernel]

    def product(x: torch.Tensor, y: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return matrix(x, y, epsilon) @ v

    with autocast_disabled(x):
        left, right, vectors = upcast(x), upcast(y), upcast(v)
        parts = [checkpointed(product, left[rows], right, vectors) for rows in blocks(x.shape[0], row_tile or ROW_TILE)]
        return torch.cat(parts).to(x.dtype)


def _require_vectors(v: torch.Tensor, y: torch.Tensor) -> None:
    require_matrix(v, "v", "(points of y, vectors)")
    if v.shape[0] != y.shape[0]:
        raise ValueError(f"v had {v.shape[0]} rows; it must have one for every point of y, {y.shape[0]}.")
    require_same_kind(y, "y", v=v)


# -- random Fourier features ------------------------------------------------------------------------------------------


def _choices(row_tile: int | None, feature_tile: int | None, precision: str) -> tuple[int | None, int | None]:
    require_count(row_tile, "row_tile")
    require_count(feature_tile, "feature_tile")
    require_precision(precision)
    return row_tile, feature_tile


def features(
    x: torch.Tensor,
    frequencies: torch.Tensor,
    offsets: torch.Tensor,
    *,
    out: torch.Tensor | None = None,
    feature_tile: int | None = None,
    row_tile: int | None = None,
    precision: str = "ieee",
) -> torch.Tensor:
    """φ(x) = √(2/D) cos(x W + b)        (Rahimi & Recht 2007 Alg. 1; E φ(x)·φ(y) = k(x − y))

    x             x  (n, d)  points, any floating dtype
    frequencies   W  (d, D)  columns from the kernel's spectral density, like x
    offsets       b  (D,)    uniform on [0, 2π), like x
    out              (n, D)  optional: where the result is written, no gradient then
    feature_tile     int     features computed at a time
    row_tile         int     points they are computed for at a time
    precision        name    "ieee", or "tf32": on CUDA products of x and W keep 11 bits of every factor
    returns       φ  (n, D)  dtype of x
    raises        ValueError if the arguments do not fit together
    """
    require_frequencies(x, frequencies, offsets)
    chosen = _choices(row_tile, feature_tile, precision)
    require_place(out, (x.shape[0], frequencies.shape[1]), x, frequencies, offsets)
    return tiles.features(x, frequencies, offsets, math.sqrt(2 / offsets.shape[0]), chosen, out, precision)


def features_paired(
    x: torch.Tensor,
    frequencies: torch.Tensor,
    *,
    out: torch.Tensor | None = None,
    feature_tile: int | None = None,
    row_tile: int | None = None,
    precision: str = "ieee",
) -> torch.Tensor:
    """φ(x) = √(2/D) [cos(x W), sin(x W)],  D = 2 · columns of W        (Sutherland & Schneider 2015 eq. 1)

    x             x  (n, d)    points, any floating dtype
    frequencies   W  (d, D/2)  columns from the kernel's spectral density, like x
    out              (n, D)    optional: where the result is written, no gradient then
    feature_tile     int       columns of W computed at a time
    row_tile         int       points they are computed for at a time
    precision        name      "ieee", or "tf32": on CUDA products of x and W keep 11 bits of every factor
    returns       φ  (n, D)    dtype of x; φ(x)·φ(x) = 1
    raises        ValueError if the arguments do not fit together
    """
    require_frequencies(x, frequencies, None)
    chosen = _choices(row_tile, feature_tile, precision)
    require_place(out, (x.shape[0], 2 * frequencies.shape[1]), x, frequencies)
    return tiles.features(x, frequencies, None, math.sqrt(1 / frequencies.shape[1]), chosen, out, precision)


def structured_features(
    x: torch.Tensor,
    signs: torch.Tensor,
    offsets: torch.Tensor,
    epsilon: float,
    *,
    out: torch.Tensor | None = None,
    row_tile: int | None = None,
) -> torch.Tensor:
    """φ(x) = √(2/D) cos(z + b),  z_b = √q/ε · H D_b3 H D_b2 H D_b1 x̃        (SORF, Yu et al. 2016 eq. 6)

    x         x  (n, d)     points, any floating dtype; x̃ is x and zeros up to q numbers
    signs     D  (B, 3, q)  ±1, the diagonals of every block, like x; q is a power of two, at least d
    offsets   b  (D,)       uniform on [0, 2π), like x; D ≤ B q, and of the last block as many as are left
    epsilon   ε  number     standard deviation of the Gaussian kernel, > 0
    out          (n, D)     optional: where the result is written, no gradient then
    row_tile     int        points whose angles are computed at a time
    returns   φ  (n, D)     dtype of x; in O(n D log d) of memory-bound or O(n D √d) of matrix products
    raises    ValueError if the arguments do not fit together
    """
    require_matrix(x, "x", "(points, dimensions)")
    require_floating(signs, "signs")
    if signs.ndim != 3 or signs.shape[1] != 3 or structured.power(x.shape[1], signs.shape[2]) != signs.shape[2]:
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
    require_positive(epsilon, "epsilon")
    require_count(row_tile, "row_tile")
    require_place(out, (x.shape[0], offsets.shape[0]), x, offsets)
    return structured.features(x, signs, offsets, epsilon, row_tile, out)


def _require_scales(frequencies: torch.Tensor, weights: torch.Tensor, counts: Sequence[int]) -> None:
    for count in counts:
        require_count(count, "counts")
    if sum(counts) != frequencies.shape[1]:
        raise ValueError(f"counts were {tuple(counts)}; they must sum to the {frequencies.shape[1]} columns.")
    require_vector(weights, "weights", len(counts), "one for every scale")
    if weights.device != frequencies.device:
        raise ValueError(f"weights was on {weights.device}; it must be on {frequencies.device}, where frequencies is.")


def _shares(weights: torch.Tensor, counts: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """2 w_s/D_s, once for every feature of scale s, in the working precision of ``like``."""
    parts = [(2 * weights[s] / count).expand(count) for s, count in enumerate(counts)]
    return torch.cat(parts).to(upcast(like[:0]).dtype)


def features_multiscale(
    x: torch.Tensor,
    frequencies: torch.Tensor,
    offsets: torch.Tensor,
    weights: torch.Tensor,
    counts: Sequence[int],
    *,
    out: torch.Tensor | None = None,
    feature_tile: int | None = None,
    row_tile: int | None = None,
    precision: str = "ieee",
) -> torch.Tensor:
    """φ(x) = [√(2 w_s/D_s) cos(x W_s + b_s)]_s,  Σ w_s = 1: for k = Σ_s w_s k_s        (Rahimi & Recht 2007, linearity)

    x             x    (n, d)  points, any floating dtype
    frequencies   W    (d, D)  the columns of all scales, one scale after the other, like x
    offsets       b    (D,)    uniform on [0, 2π), like x
    weights       w    (S,)    share of every scale's kernel, summing to 1; best in float64
    counts        D_s  tuple   number of features of every scale, summing to D
    out                (n, D)  optional: where the result is written, no gradient then
    feature_tile       int     features computed at a time
    row_tile           int     points they are computed for at a time
    precision          name    "ieee", or "tf32": on CUDA products of x and W keep 11 bits of every factor
    returns       φ    (n, D)  dtype of x
    raises        ValueError if the arguments do not fit together
    """
    require_frequencies(x, frequencies, offsets)
    _require_scales(frequencies, weights, counts)
    chosen = _choices(row_tile, feature_tile, precision)
    require_place(out, (x.shape[0], frequencies.shape[1]), x, frequencies, offsets, weights)
    return tiles.features(x, frequencies, offsets, _shares(weights, counts, x).sqrt(), chosen, out, precision)


def gram(
    x: torch.Tensor,
    y: torch.Tensor,
    frequencies: torch.Tensor,
    offsets: torch.Tensor,
    *,
    out: torch.Tensor | None = None,
    feature_tile: int | None = None,
    row_tile: int | None = None,
    precision: str = "ieee",
) -> torch.Tensor:
    """K̂ = φ(x) φ(y)ᵀ = (2/D) cos(x W + b) cos(y W + b)ᵀ        (Rahimi & Recht 2007 Alg. 1), φ never stored

    x             x  (n, d)  points, any floating dtype
    y             y  (m, d)  points, like x
    frequencies   W  (d, D)  columns from the kernel's spectral density, like x
    offsets       b  (D,)    uniform on [0, 2π), like x
    out              (n, m)  optional: where the result is written, no gradient then
    feature_tile     int     features computed at a time
    row_tile         int     points they are computed for at a time; the backward makes every tile once more
    precision        name    "ieee", or "tf32": on CUDA products keep 11 bits of every factor
    returns       K̂  (n, m)  dtype of x
    raises        ValueError if the arguments do not fit together
    """
    require_points(x, y)
    require_frequencies(x, frequencies, offsets)
    chosen = _choices(row_tile, feature_tile, precision)
    require_place(out, (x.shape[0], y.shape[0]), x, y, frequencies, offsets)
    return tiles.gram(x, y, frequencies, offsets, chosen, out, precision)


def matvec(
    x: torch.Tensor,
    y: torch.Tensor,
    v: torch.Tensor,
    frequencies: torch.Tensor,
    offsets: torch.Tensor,
    *,
    out: torch.Tensor | None = None,
    feature_tile: int | None = None,
    row_tile: int | None = None,
    precision: str = "ieee",
) -> torch.Tensor:
    """u = φ(x) (φ(y)ᵀ v) ≈ K(x, y) v,  φ = √(2/D) cos(· W + b)        (Rahimi & Recht 2007 Alg. 1), φ never stored

    x             x  (n, d)  points, any floating dtype
    y             y  (m, d)  points, like x
    v             v  (m, p)  vectors in columns, like x
    frequencies   W  (d, D)  columns from the kernel's spectral density, like x
    offsets       b  (D,)    uniform on [0, 2π), like x
    out              (n, p)  optional: where the result is written, no gradient then
    feature_tile     int     features computed at a time
    row_tile         int     points they are computed for at a time; the backward makes every tile once more
    precision        name    "ieee", or "tf32": on CUDA products keep 11 bits of every factor
    returns       u  (n, p)  dtype of x; the tiles change the order of summation and nothing else
    raises        ValueError if the arguments do not fit together
    """
    require_points(x, y)
    _require_vectors(v, y)
    require_frequencies(x, frequencies, offsets)
    chosen = _choices(row_tile, feature_tile, precision)
    require_place(out, (x.shape[0], v.shape[1]), x, y, v, frequencies, offsets)
    count = frequencies.shape[1]
    shares = torch.full((count,), 2 / count, dtype=upcast(x[:0]).dtype, device=x.device)
    return tiles.matvec(x, y, v, frequencies, offsets, shares, chosen, out, precision)


def matvec_multiscale(
    x: torch.Tensor,
    y: torch.Tensor,
    v: torch.Tensor,
    frequencies: torch.Tensor,
    offsets: torch.Tensor,
    weights: torch.Tensor,
    counts: Sequence[int],
    *,
    out: torch.Tensor | None = None,
    feature_tile: int | None = None,
    row_tile: int | None = None,
    precision: str = "ieee",
) -> torch.Tensor:
    """u = φ(x) (φ(y)ᵀ v) ≈ Σ_s w_s K_s(x, y) v with the features of ``features_multiscale``, none of them stored

    x             x    (n, d)  points, any floating dtype
    y             y    (m, d)  points, like x
    v             v    (m, p)  vectors in columns, like x
    frequencies   W    (d, D)  the columns of all scales, one scale after the other, like x
    offsets       b    (D,)    uniform on [0, 2π), like x
    weights       w    (S,)    share of every scale's kernel, summing to 1; best in float64
    counts        D_s  tuple   number of features of every scale, summing to D
    out                (n, p)  optional: where the result is written, no gradient then
    feature_tile       int     features computed at a time
    row_tile           int     points they are computed for at a time
    precision          name    "ieee", or "tf32": on CUDA products keep 11 bits of every factor
    returns       u    (n, p)  dtype of x
    raises        ValueError if the arguments do not fit together
    """
    require_points(x, y)
    _require_vectors(v, y)
    require_frequencies(x, frequencies, offsets)
    _require_scales(frequencies, weights, counts)
    chosen = _choices(row_tile, feature_tile, precision)
    require_place(out, (x.shape[0], v.shape[1]), x, y, v, frequencies, offsets, weights)
    return tiles.matvec(x, y, v, frequencies, offsets, _shares(weights, counts, x), chosen, out, precision)


def _require_table(tensor: torch.Tensor, name: str) -> None:
    require_floating(tensor, name)
    if tensor.dtype != torch.float64:
        raise ValueError(f"{name} had dtype {tensor.dtype}; it must be float64: these are numbers of points.")


def features_error_bound(
    counts: torch.Tensor,
    points: int,
    delta: float,
    *,
    dtype: torch.dtype = torch.float64,
    device: Device = None,
) -> torch.Tensor:
    """t = √(8 ln(2 n²/δ)/D): P(max_ij |K̂_ij − K_ij| ≥ t) ≤ δ        (Hoeffding 1963 Thm 2, terms in [−2, 2])

    counts   D  (...)   number of features, float64
    points   n  int     number of points, so that n² pairs are compared
    delta    δ  number  probability that the bound does not hold, in (0, 1)
    dtype               of the result, which is computed in float64
    device              of the result; that of counts if not given
    returns  t  (...)
    raises   ValueError if counts is not float64, points is not a count, or delta is outside (0, 1)
    """
    _require_table(counts, "counts")
    require_count(points, "points")
    require_share(delta, "delta")
    return torch.sqrt(8 * math.log(2 * points * points / delta) / counts).to(device or counts.device, dtype, copy=True)


# -- frequencies from given draws -------------------------------------------------------------------------------------


def _require_columns(draws: torch.Tensor, name: str, extra: torch.Tensor | None = None, extra_name: str = "") -> None:
    require_matrix(draws, name, "(dimensions, features)")
    if extra is not None:
        require_vector(extra, extra_name, draws.shape[1], f"one for every column of {name}")
        require_same_kind(draws, name, **{extra_name: extra})


def _root(square: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """√ of a float64 vector, one number for every column, in working precision: the square may leave float32."""
    return torch.sqrt(square).to(upcast(like).dtype)


def gaussian_frequencies(normal: torch.Tensor, epsilon: float) -> torch.Tensor:
    """ω = g/ε ~ N(0, ε⁻² I): the spectral density of ``gaussian``        (Rahimi & Recht 2007 Fig. 1)

    normal   g  (d, D)  standard normal
    epsilon  ε  number  length scale, > 0
    returns  W  (d, D)  one frequency in every column, dtype of normal
    raises   ValueError if an argument does not fit
    """
    _require_columns(normal, "normal")
    require_positive(epsilon, "epsilon")
    return torch.div(upcast(normal), epsilon).to(normal.dtype)


def laplacian_l1_frequencies(uniform: torch.Tensor, epsilon: float) -> torch.Tensor:
    """ω = −cot(π u)/ε: i.i.d. Cauchy(0, 1/ε), the spectral density of ``laplacian_l1``  (Rahimi & Recht 2007 Fig. 1)

    uniform  u  (d, D)  uniform on (0, 1)
    epsilon  ε  number  length scale, > 0
    returns  W  (d, D)  dtype of uniform
    raises   ValueError if an argument does not fit
    """
    _require_columns(uniform, "uniform")
    require_positive(epsilon, "epsilon")
    angle = math.pi * upcast(uniform)
    return (-torch.cos(angle) / torch.sin(angle) / epsilon).to(uniform.dtype)


def laplacian_l2_frequencies(normal: torch.Tensor, denominator: torch.Tensor, epsilon: float) -> torch.Tensor:
    """ω = g/(g_0 ε): the multivariate Cauchy t_1, the spectral density of ``laplacian_l2``    (R. & W. 2006 eq. 4.15)

    normal       g    (d, D)  standard normal
    denominator  g_0  (D,)    standard normal, one for every column; its sign changes nothing
    epsilon      ε    number  length scale, > 0
    returns      W    (d, D)  dtype of normal
    raises       ValueError if an argument does not fit
    """
    _require_columns(normal, "normal", denominator, "denominator")
    require_positive(epsilon, "epsilon")
    return torch.div(upcast(normal), upcast(denominator) * epsilon).to(normal.dtype)


def cauchy_product_frequencies(uniform: torch.Tensor, epsilon: float) -> torch.Tensor:
    """ω = ln(2 u)/ε for u < 1/2, else −ln(2 (1 − u))/ε: Laplace(0, 1/ε), for ``cauchy_product``  (R. & R. 2007 Fig. 1)

    uniform  u  (d, D)  uniform on (0, 1)
    epsilon  ε  number  length scale, > 0
    returns  W  (d, D)  dtype of uniform
    raises   ValueError if an argument does not fit
    """
    _require_columns(uniform, "uniform")
    require_positive(epsilon, "epsilon")
    u = upcast(uniform)
    lower = u < 0.5
    tail = torch.log(2 * torch.where(lower, u, 1 - u)) / epsilon
    return torch.where(lower, tail, -tail).to(uniform.dtype)


def cauchy_radial_frequencies(normal: torch.Tensor, exponential: torch.Tensor, epsilon: float) -> torch.Tensor:
    """ω = √(2 u) g/ε: 1/(1 + r²) = ∫ e^{−u} e^{−u r²} du is a mixture of Gaussians, for ``cauchy_radial``

    normal       g  (d, D)  standard normal
    exponential  u  (D,)    exponential with mean 1, one for every column
    epsilon      ε  number  length scale, > 0
    returns      W  (d, D)  dtype of normal
    raises       ValueError if an argument does not fit
    """
    _require_columns(normal, "normal", exponential, "exponential")
    require_positive(epsilon, "epsilon")
    return torch.div(_root(2 * exponential.double(), normal) * upcast(normal), epsilon).to(normal.dtype)


def matern_frequencies(normal: torch.Tensor, chi_square: torch.Tensor, epsilon: float, nu: float) -> torch.Tensor:
    """ω = g √(2ν/c)/ε: the multivariate t with 2ν degrees of freedom, for ``matern``        (R. & W. 2006 eq. 4.15)

    normal      g  (d, D)  standard normal
    chi_square  c  (D,)    χ² with 2ν degrees of freedom, one for every column
    epsilon     ε  number  length scale, > 0
    nu          ν  number  smoothness, > 0
    returns     W  (d, D)  dtype of normal
    raises      ValueError if an argument does not fit
    """
    _require_columns(normal, "normal", chi_square, "chi_square")
    require_positive(epsilon, "epsilon")
    require_positive(nu, "nu")
    return torch.div(upcast(normal) * _root(torch.div(2 * nu, chi_square.double()), normal), epsilon).to(normal.dtype)


def orthogonal_frequencies(blocks: torch.Tensor, radii: torch.Tensor, epsilon: float) -> torch.Tensor:
    """W = [Q_1, Q_2, …] diag(ρ)/ε,  Q_b = Gram-Schmidt of block b        (orthogonal features, Yu et al. 2016 eq. 4-5)

    blocks   G  (B, d, d)  standard normal
    radii    ρ  (D,)       χ with d degrees of freedom, D ≤ B d: every column on its own is then N(0, ε⁻² I)
    epsilon  ε  number     length scale, > 0
    returns  W  (d, D)     the first D columns, dtype of blocks; those of one block are orthogonal
    raises   ValueError if the blocks are not square, do not hold D columns, or epsilon is not a positive number
    """
    require_floating(blocks, "blocks")
    require_floating(radii, "radii")
    require_positive(epsilon, "epsilon")
    if blocks.ndim != 3 or blocks.shape[1] != blocks.shape[2]:
        raise ValueError(f"blocks had shape {tuple(blocks.shape)}; it must be (B, d, d).")
    if radii.ndim != 1 or not 1 <= radii.shape[0] <= blocks.shape[0] * blocks.shape[1]:
        raise ValueError(
            f"radii had shape {tuple(radii.shape)}; it must be (D,) with D between 1 and the "
            f"{blocks.shape[0] * blocks.shape[1]} columns of blocks."
        )
    require_same_kind(blocks, "blocks", radii=radii)
    with autocast_disabled(blocks):
        q, r = torch.linalg.qr(upcast(blocks))
        sign = torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(q.dtype)  # Gram-Schmidt has R_jj > 0
        columns = (q * sign[:, None, :]).transpose(0, 1).flatten(1)[:, : radii.shape[0]]
        return torch.div(columns * upcast(radii), epsilon).to(blocks.dtype)


# -- Nyström ----------------------------------------------------------------------------------------------------------


def _nystrom_factor(landmarks: torch.Tensor, epsilon: float, reg: float) -> torch.Tensor:
    """L of L Lᵀ = K_mm + λ I, in working precision."""
    require_positive(epsilon, "epsilon")
    if isinstance(reg, bool) or not isinstance(reg, (int, float)) or not 0 <= reg < math.inf:
        raise ValueError(f"reg was {reg!r}; it must be a finite number of at least 0.")
    marks = upcast(landmarks)
    square = _gaussian(marks, marks, epsilon) + reg * torch.eye(marks.shape[0], dtype=marks.dtype, device=marks.device)
    factor, info = torch.linalg.cholesky_ex(square)
    if int(info):
        raise ValueError(f"reg was {reg!r}; it must be larger, because K_mm + reg I has no Cholesky factor.")
    return factor


def _nystrom_features(x: torch.Tensor, landmarks: torch.Tensor, epsilon: float, reg: float) -> torch.Tensor:
    """F in working precision."""
    require_points(x, landmarks, ("x", "landmarks"))
    factor = _nystrom_factor(landmarks, epsilon, reg)
    cross = _gaussian(upcast(x), upcast(landmarks), epsilon)
    solved: torch.Tensor = torch.linalg.solve_triangular(factor, cross.T, upper=False)
    return solved.T


def nystrom_features(x: torch.Tensor, landmarks: torch.Tensor, epsilon: float, reg: float) -> torch.Tensor:
    """F = K_xm L⁻ᵀ,  L Lᵀ = K_mm + λ I (Cholesky), so that F Fᵀ = K_xm (K_mm + λ I)⁻¹ K_mx    (Williams & Seeger 2001)

    x          x  (n, d)  points, any floating dtype
    landmarks  z  (m, d)  the m points whose columns of the Gaussian kernel are used, like x
    epsilon    ε  number  length scale, > 0
    reg        λ  number  added to the diagonal, ≥ 0
    returns    F  (n, m)  dtype of x
    raises     ValueError if an argument does not fit, or K_mm + λ I has no Cholesky factor
    """
    with autocast_disabled(x):
        return _nystrom_features(x, landmarks, epsilon, reg).to(x.dtype, copy=True)


def nystrom(x: torch.Tensor, landmarks: torch.Tensor, epsilon: float, reg: float) -> torch.Tensor:
    """K̃ = K_xm (K_mm + λ I)⁻¹ K_mx        (Williams & Seeger 2001; with the Gaussian kernel)

    x          x  (n, d)  points, any floating dtype
    landmarks  z  (m, d)  the m points whose columns of the Gaussian kernel are used, like x
    epsilon    ε  number  length scale, > 0
    reg        λ  number  added to the diagonal, ≥ 0; K − K̃ is positive semidefinite for every λ
    returns    K̃  (n, n)  dtype of x
    raises     ValueError if an argument does not fit, or K_mm + λ I has no Cholesky factor
    """
    with autocast_disabled(x):
        found = _nystrom_features(x, landmarks, epsilon, reg)
        return (found @ found.T).to(x.dtype)


def nystrom_matvec(
    x: torch.Tensor,
    landmarks: torch.Tensor,
    v: torch.Tensor,
    epsilon: float,
    reg: float,
    *,
    row_tile: int | None = None,
) -> torch.Tensor:
    """u = K̃ v = K_xm (K_mm + λ I)⁻¹ (K_mx v): no matrix of n rows is ever stored

    x          x  (n, d)  points, any floating dtype
    landmarks  z  (m, d)  the m points whose columns of the Gaussian kernel are used, like x
    v          v  (n, p)  vectors in columns, like x
    epsilon    ε  number  length scale, > 0
    reg        λ  number  added to the diagonal, ≥ 0
    row_tile      int     points whose rows of K_xm are in memory at a time; the backward makes them once more
    returns    u  (n, p)  dtype of x, in O(n m (d + p) + m³)
    raises     ValueError if an argument does not fit, or K_mm + λ I has no Cholesky factor
    """
    require_points(x, landmarks, ("x", "landmarks"))
    require_matrix(v, "v", "(points, vectors)")
    if v.shape[0] != x.shape[0]:
        raise ValueError(f"v had {v.shape[0]} rows; it must have one for every point of x, {x.shape[0]}.")
    require_same_kind(x, "x", v=v)
    require_count(row_tile, "row_tile")

    def pull(x: torch.Tensor, marks: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return _gaussian(marks, upcast(x), epsilon) @ upcast(v)

    def push(x: torch.Tensor, marks: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return _gaussian(upcast(x), marks, epsilon) @ u

    with autocast_disabled(x):
        marks, factor = upcast(landmarks), _nystrom_factor(landmarks, epsilon, reg)
        rows = blocks(x.shape[0], row_tile or max(1, (1 << 20) // max(1, landmarks.shape[0])))
        total = torch.zeros((), dtype=marks.dtype, device=x.device)
        for at in rows:
            total = total + checkpointed(pull, x[at], marks, v[at])
        solved = torch.cholesky_solve(total, factor)
        return torch.cat([checkpointed(push, x[at], marks, solved).to(x.dtype) for at in rows])


def nystrom_trace_bound(x: torch.Tensor, landmarks: torch.Tensor, epsilon: float, reg: float) -> torch.Tensor:
    """tr(K − K̃) = Σ_i (1 − ‖F_i‖²) ≥ ‖K − K̃‖_F ≥ ‖K − K̃‖₂        (K − K̃ is positive semidefinite)

    x          x  (n, d)  points, any floating dtype
    landmarks  z  (m, d)  the m points whose columns of the Gaussian kernel are used, like x
    epsilon    ε  number  length scale, > 0
    reg        λ  number  added to the diagonal, ≥ 0
    returns    ()         a bound that holds for these very points, in O(n m²); dtype of x
    raises     ValueError if an argument does not fit, or K_mm + λ I has no Cholesky factor
    """
    with autocast_disabled(x):
        found = _nystrom_features(x, landmarks, epsilon, reg)
        return (1 - found.square().sum(1)).sum().to(x.dtype)


def nystrom_rate(landmarks: torch.Tensor, *, dtype: torch.dtype = torch.float64, device: Device = None) -> torch.Tensor:
    """1/√m = m^{−1/2}: how the median of ‖K − K̃‖₂/n may fall with m random landmarks. A rate and not a bound

    landmarks  m  (...)  number of landmarks, ≥ 1, float64
    dtype                of the result, which is computed in float64
    device               of the result; that of landmarks if not given
    returns       (...)
    raises     ValueError if landmarks is not float64
    """
    _require_table(landmarks, "landmarks")
    return torch.rsqrt(landmarks).to(device or landmarks.device, dtype, copy=True)


def drineas_mahoney_spectral(
    landmarks: torch.Tensor,
    points: int,
    delta: float,
    *,
    dtype: torch.dtype = torch.float64,
    device: Device = None,
) -> torch.Tensor:
    """‖K − K̃‖₂ − ‖K − K_k‖₂ ≤ 2 η n/√m,  η = 1 + √(8 ln(1/δ)), with probability 1 − δ (Drineas & Mahoney 2005 Thm 3)

    landmarks  m  (...)   number of landmarks, drawn with replacement, uniformly as k(x, x) = 1; float64
    points     n  int     number of points
    delta      δ  number  probability that the bound does not hold, in (0, 1)
    dtype                 of the result, which is computed in float64
    device                of the result; that of landmarks if not given
    returns       (...)   what is added to the error of the best approximation of rank k
    raises     ValueError if landmarks is not float64, points is not a count, or delta is outside (0, 1)
    """
    _require_table(landmarks, "landmarks")
    require_count(points, "points")
    eta = 1 + math.sqrt(8 * math.log(1 / require_share(delta, "delta")))
    return (2 * eta * points / torch.sqrt(landmarks)).to(device or landmarks.device, dtype, copy=True)


def drineas_mahoney_frobenius(
    landmarks: torch.Tensor,
    points: int,
    rank: int,
    delta: float,
    *,
    dtype: torch.dtype = torch.float64,
    device: Device = None,
) -> torch.Tensor:
    """‖K − K̃‖_F − ‖K − K_k‖_F ≤ n (64 k η²/m)^{1/4},  η = 1 + √(8 ln(1/δ))        (Drineas & Mahoney 2005 Thm 3)

    landmarks  m  (...)   number of landmarks, drawn with replacement, uniformly as k(x, x) = 1; float64
    points     n  int     number of points
    rank       k  int     rank of the approximation, ≥ 1
    delta      δ  number  probability that the bound does not hold, in (0, 1)
    dtype                 of the result, which is computed in float64
    device                of the result; that of landmarks if not given
    returns       (...)   what is added to the error of the best approximation of rank k
    raises     ValueError if landmarks is not float64, points or rank is not a count, or delta is outside (0, 1)
    """
    _require_table(landmarks, "landmarks")
    require_count(points, "points")
    require_count(rank, "rank")
    eta = 1 + math.sqrt(8 * math.log(1 / require_share(delta, "delta")))
    fourth = torch.sqrt(torch.sqrt(64 * rank * eta * eta / landmarks))
    return (points * fourth).to(device or landmarks.device, dtype, copy=True)
