"""Frequencies from given draws: columns from the spectral density of a kernel.

    k(x − y) = ∫ p(ω) e^{iω·(x−y)} dω        (Bochner)

Sources: Rahimi & Recht 2007, Fig. 1; Rasmussen & Williams 2006 eq. 4.15; Yu et al. 2016 (1610.09072).
"""

from __future__ import annotations

import math

import torch

from trueness.optimized._lib.dtypes import autocast_disabled, upcast
from trueness.optimized._lib.validation import require_floating
from trueness.optimized.kernels.validation import require_matrix, require_positive, require_same_kind, require_vector

__all__ = [
    "cauchy_product_frequencies",
    "cauchy_radial_frequencies",
    "gaussian_frequencies",
    "laplacian_l1_frequencies",
    "laplacian_l2_frequencies",
    "matern_frequencies",
    "orthogonal_frequencies",
]


def _require_columns(draws: torch.Tensor, name: str, extra: torch.Tensor | None = None, extra_name: str = "") -> None:
    require_matrix(draws, name, "(dimensions, features)")
    if extra is not None:
        require_vector(extra, extra_name, draws.shape[1], f"one for every column of {name}")
        require_same_kind(draws, name, **{extra_name: extra})


def _root(square: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """√ of a float64 vector, one number for every column, in working precision: the square may leave float32."""
    return torch.sqrt(square).to(upcast(like).dtype)


def gaussian_frequencies(normal: torch.Tensor, *, lengthscale: float = 1.0) -> torch.Tensor:
    """ω = g/ℓ ~ N(0, ℓ⁻² I): the spectral density of ``gaussian``        (Rahimi & Recht 2007 Fig. 1)

    normal       g  (d, D)  standard normal
    lengthscale  ℓ  number  length scale, > 0
    returns      W  (d, D)  one frequency in every column, dtype of normal
    raises       ValueError if an argument does not fit
    """
    _require_columns(normal, "normal")
    require_positive(lengthscale, "lengthscale")
    return torch.div(upcast(normal), lengthscale).to(normal.dtype)


def laplacian_l1_frequencies(uniform: torch.Tensor, *, lengthscale: float = 1.0) -> torch.Tensor:
    """ω = −cot(π u)/ℓ: i.i.d. Cauchy(0, 1/ℓ), the spectral density of ``laplacian_l1``  (Rahimi & Recht 2007 Fig. 1)

    uniform      u  (d, D)  uniform on (0, 1)
    lengthscale  ℓ  number  length scale, > 0
    returns      W  (d, D)  dtype of uniform
    raises       ValueError if an argument does not fit
    """
    _require_columns(uniform, "uniform")
    require_positive(lengthscale, "lengthscale")
    angle = math.pi * upcast(uniform)
    return (-torch.cos(angle) / torch.sin(angle) / lengthscale).to(uniform.dtype)


def laplacian_l2_frequencies(
    normal: torch.Tensor, denominator: torch.Tensor, *, lengthscale: float = 1.0
) -> torch.Tensor:
    """ω = g/(g_0 ℓ): the multivariate Cauchy t_1, the spectral density of ``laplacian_l2``    (R. & W. 2006 eq. 4.15)

    normal       g    (d, D)  standard normal
    denominator  g_0  (D,)    standard normal, one for every column; its sign changes nothing
    lengthscale  ℓ    number  length scale, > 0
    returns      W    (d, D)  dtype of normal
    raises       ValueError if an argument does not fit
    """
    _require_columns(normal, "normal", denominator, "denominator")
    require_positive(lengthscale, "lengthscale")
    return torch.div(upcast(normal), upcast(denominator) * lengthscale).to(normal.dtype)


def cauchy_product_frequencies(uniform: torch.Tensor, *, lengthscale: float = 1.0) -> torch.Tensor:
    """ω = ln(2 u)/ℓ for u < 1/2, else −ln(2 (1 − u))/ℓ: Laplace(0, 1/ℓ), for ``cauchy_product``  (R. & R. 2007 Fig. 1)

    uniform      u  (d, D)  uniform on (0, 1)
    lengthscale  ℓ  number  length scale, > 0
    returns      W  (d, D)  dtype of uniform
    raises       ValueError if an argument does not fit
    """
    _require_columns(uniform, "uniform")
    require_positive(lengthscale, "lengthscale")
    u = upcast(uniform)
    lower = u < 0.5
    tail = torch.log(2 * torch.where(lower, u, 1 - u)) / lengthscale
    return torch.where(lower, tail, -tail).to(uniform.dtype)


def cauchy_radial_frequencies(
    normal: torch.Tensor, exponential: torch.Tensor, *, lengthscale: float = 1.0
) -> torch.Tensor:
    """ω = √(2 u) g/ℓ: 1/(1 + r²) = ∫ e^{−u} e^{−u r²} du is a mixture of Gaussians, for ``cauchy_radial``

    normal       g  (d, D)  standard normal
    exponential  u  (D,)    exponential with mean 1, one for every column
    lengthscale  ℓ  number  length scale, > 0
    returns      W  (d, D)  dtype of normal
    raises       ValueError if an argument does not fit
    """
    _require_columns(normal, "normal", exponential, "exponential")
    require_positive(lengthscale, "lengthscale")
    return torch.div(_root(2 * exponential.double(), normal) * upcast(normal), lengthscale).to(normal.dtype)


def matern_frequencies(
    normal: torch.Tensor, chi_square: torch.Tensor, *, lengthscale: float = 1.0, nu: float = 1.5
) -> torch.Tensor:
    """ω = g √(2ν/c)/ℓ: the multivariate t with 2ν degrees of freedom, for ``matern``        (R. & W. 2006 eq. 4.15)

    normal       g  (d, D)  standard normal
    chi_square   c  (D,)    χ² with 2ν degrees of freedom, one for every column
    lengthscale  ℓ  number  length scale, > 0
    nu           ν  number  smoothness, > 0
    returns      W  (d, D)  dtype of normal
    raises       ValueError if an argument does not fit
    """
    _require_columns(normal, "normal", chi_square, "chi_square")
    require_positive(lengthscale, "lengthscale")
    require_positive(nu, "nu")
    return torch.div(upcast(normal) * _root(torch.div(2 * nu, chi_square.double()), normal), lengthscale).to(
        normal.dtype
    )


def orthogonal_frequencies(blocks: torch.Tensor, radii: torch.Tensor, *, lengthscale: float = 1.0) -> torch.Tensor:
    """W = [Q_1, Q_2, …] diag(ρ)/ℓ,  Q_b = Gram-Schmidt of block b        (orthogonal features, Yu et al. 2016 eq. 4-5)

    blocks       G  (B, d, d)  standard normal
    radii        ρ  (D,)       χ with d degrees of freedom, D ≤ B d: every column on its own is then N(0, ℓ⁻² I)
    lengthscale  ℓ  number     length scale, > 0
    returns      W  (d, D)     the first D columns, dtype of blocks; those of one block are orthogonal
    raises       ValueError if the blocks are not square, do not hold D columns, or lengthscale is not a positive number
    """
    require_floating(blocks, "blocks")
    require_floating(radii, "radii")
    require_positive(lengthscale, "lengthscale")
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
        return torch.div(columns * upcast(radii), lengthscale).to(blocks.dtype)
