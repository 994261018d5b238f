"""Kernel matrices, and products with them.

    K_ij = k(x_i − y_j)

x (n, d) and y (m, d) are points in rows; ℓ is a length: the standard deviation of the Gaussian kernel, not a variance.
Distances are computed from differences. float16 and bfloat16 are computed in float32 and rounded once.
Sources: Rahimi & Recht 2007, Fig. 1; Rasmussen & Williams 2006 ch. 4.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from trueness.optimized._lib.checkpoint import checkpointed
from trueness.optimized._lib.dtypes import autocast_disabled, upcast
from trueness.optimized.kernels.validation import (
    blocks,
    distances,
    require_count,
    require_points,
    require_positive,
    require_vectors,
    smooth_matern,
)

__all__ = [
    "cauchy_product",
    "cauchy_radial",
    "gaussian",
    "kernel_matvec",
    "laplacian_l1",
    "laplacian_l2",
    "matern",
]

ROW_TILE = 4096  # of an exact kernel matrix


def gaussian_kernel(x: torch.Tensor, y: torch.Tensor, lengthscale: float) -> torch.Tensor:
    return torch.exp(distances(x, y).square() * (-0.5 / lengthscale**2))


def laplacian_l1_kernel(x: torch.Tensor, y: torch.Tensor, lengthscale: float) -> torch.Tensor:
    return torch.exp(distances(x, y, 1.0) / -lengthscale)


def laplacian_l2_kernel(x: torch.Tensor, y: torch.Tensor, lengthscale: float) -> torch.Tensor:
    return torch.exp(distances(x, y) / -lengthscale)


def cauchy_product_kernel(x: torch.Tensor, y: torch.Tensor, lengthscale: float) -> torch.Tensor:
    kernel = x.new_ones(x.shape[0], y.shape[0])
    for k in range(x.shape[1]):  # one axis at a time: no (n, m, d) array
        kernel = kernel / (1 + ((x[:, k, None] - y[None, :, k]) / lengthscale).square())
    return kernel


def cauchy_radial_kernel(x: torch.Tensor, y: torch.Tensor, lengthscale: float) -> torch.Tensor:
    return torch.reciprocal(1 + torch.div(distances(x, y), lengthscale).square())


Kernel = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]
KERNELS: dict[str, Kernel] = {
    "gaussian": gaussian_kernel,
    "laplacian_l1": laplacian_l1_kernel,
    "laplacian_l2": laplacian_l2_kernel,
    "cauchy_product": cauchy_product_kernel,
    "cauchy_radial": cauchy_radial_kernel,
}


def _matrix(kernel: Kernel, x: torch.Tensor, y: torch.Tensor, lengthscale: float) -> torch.Tensor:
    require_points(x, y)
    require_positive(lengthscale, "lengthscale")
    return kernel(upcast(x), upcast(y), lengthscale).to(x.dtype)


def gaussian(x: torch.Tensor, y: torch.Tensor, *, lengthscale: float = 1.0) -> torch.Tensor:
    """K_ij = exp(−‖x_i − y_j‖²/(2 ℓ²))        (Rahimi & Recht 2007 Fig. 1; ℓ is the standard deviation)

    x            x  (n, d)  points, any floating dtype
    y            y  (m, d)  points, like x
    lengthscale  ℓ  number  length scale, > 0, unit of x
    returns      K  (n, m)  dtype of x
    raises       ValueError if x and y do not fit together or lengthscale is not a positive number
    """
    return _matrix(gaussian_kernel, x, y, lengthscale)


def laplacian_l1(x: torch.Tensor, y: torch.Tensor, *, lengthscale: float = 1.0) -> torch.Tensor:
    """K_ij = exp(−‖x_i − y_j‖₁/ℓ)        (Rahimi & Recht 2007 Fig. 1: its "Laplacian")

    x            x  (n, d)  points, any floating dtype
    y            y  (m, d)  points, like x
    lengthscale  ℓ  number  length scale, > 0, unit of x
    returns      K  (n, m)  dtype of x; where coordinates are equal the gradient is 0
    raises       ValueError if x and y do not fit together or lengthscale is not a positive number
    """
    return _matrix(laplacian_l1_kernel, x, y, lengthscale)


def laplacian_l2(x: torch.Tensor, y: torch.Tensor, *, lengthscale: float = 1.0) -> torch.Tensor:
    """K_ij = exp(−‖x_i − y_j‖₂/ℓ)        (Matérn with ν = 1/2, Rasmussen & Williams 2006 eq. 4.18: rotation-invariant)

    x            x  (n, d)  points, any floating dtype
    y            y  (m, d)  points, like x
    lengthscale  ℓ  number  length scale, > 0, unit of x
    returns      K  (n, m)  dtype of x; where points are equal the gradient is 0
    raises       ValueError if x and y do not fit together or lengthscale is not a positive number
    """
    return _matrix(laplacian_l2_kernel, x, y, lengthscale)


def cauchy_product(x: torch.Tensor, y: torch.Tensor, *, lengthscale: float = 1.0) -> torch.Tensor:
    """K_ij = ∏_k 1/(1 + ((x_ik − y_jk)/ℓ)²)        (Rahimi & Recht 2007 Fig. 1: its "Cauchy")

    x            x  (n, d)  points, any floating dtype
    y            y  (m, d)  points, like x
    lengthscale  ℓ  number  length scale, > 0, unit of x
    returns      K  (n, m)  dtype of x
    raises       ValueError if x and y do not fit together or lengthscale is not a positive number
    """
    return _matrix(cauchy_product_kernel, x, y, lengthscale)


def cauchy_radial(x: torch.Tensor, y: torch.Tensor, *, lengthscale: float = 1.0) -> torch.Tensor:
    """K_ij = 1/(1 + ‖x_i − y_j‖²/ℓ²)        (the rational quadratic, Rasmussen & Williams 2006 eq. 4.19, α = 1)

    x            x  (n, d)  points, any floating dtype
    y            y  (m, d)  points, like x
    lengthscale  ℓ  number  length scale, > 0, unit of x; √2 times that of the book
    returns      K  (n, m)  dtype of x
    raises       ValueError if x and y do not fit together or lengthscale is not a positive number
    """
    return _matrix(cauchy_radial_kernel, x, y, lengthscale)


def matern(x: torch.Tensor, y: torch.Tensor, *, lengthscale: float = 1.0, nu: float = 1.5) -> torch.Tensor:
    """K_ij = e^{−s} p(s),  s = √(2ν) r/ℓ,  p = 1, 1 + s, 1 + s + s²/3 for ν = 1/2, 3/2, 5/2 (R. & W. 2006 eq. 4.16-17)

    x            x  (n, d)  points, any floating dtype
    y            y  (m, d)  points, like x
    lengthscale  ℓ  number  length scale, > 0, unit of x
    nu           ν  number  smoothness: 0.5, 1.5 or 2.5
    returns      K  (n, m)  dtype of x
    raises       ValueError for another ν, if x and y do not fit together, or if lengthscale is not a positive number
    """
    if nu not in (0.5, 1.5, 2.5):
        raise ValueError(f"nu was {nu!r}; it must be 0.5, 1.5 or 2.5.")
    if nu == 0.5:
        return _matrix(laplacian_l2_kernel, x, y, lengthscale)
    return _matrix(lambda a, b, length: smooth_matern(a, b, length, nu), x, y, lengthscale)


def kernel_matvec(
    x: torch.Tensor,
    y: torch.Tensor,
    v: torch.Tensor,
    *,
    kernel: str = "gaussian",
    lengthscale: float = 1.0,
    row_tile: int | None = None,
) -> torch.Tensor:
    """u = K(x, y) v: the exact product that random features approximate, a tile of rows of K at a time

    x            x  (n, d)  points, any floating dtype
    y            y  (m, d)  points, like x
    v            v  (m, p)  vectors in columns, like x
    kernel          name    "gaussian", "laplacian_l1", "laplacian_l2", "cauchy_product" or "cauchy_radial"
    lengthscale  ℓ  number  length scale, > 0
    row_tile        int     rows of K in memory at a time; the backward computes them again
    returns      u  (n, p)  dtype of x
    raises       ValueError for another kernel, or if an argument does not fit
    """
    require_points(x, y)
    require_vectors(v, y)
    require_positive(lengthscale, "lengthscale")
    require_count(row_tile, "row_tile")
    if kernel not in KERNELS:
        raise ValueError(f"kernel was {kernel!r}; allowed are {', '.join(KERNELS)}.")
    matrix = KERNELS[kernel]

    def product(x: torch.Tensor, y: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return matrix(x, y, lengthscale) @ v

    with autocast_disabled(x):
        left, right, vectors = upcast(x), upcast(y), upcast(v)
        parts = [checkpointed(product, left[rows], right, vectors) for rows in blocks(x.shape[0], row_tile or ROW_TILE)]
        return torch.cat(parts).to(x.dtype)
