"""The Nyström approximation of the Gaussian kernel.

K̃ = K_xm (K_mm + λ I)⁻¹ K_mx,  K − K̃ positive semidefinite        (Williams & Seeger 2001)
"""

from __future__ import annotations

import math

import torch

from trueness.optimized._lib.checkpoint import checkpointed
from trueness.optimized._lib.dtypes import autocast_disabled, upcast
from trueness.optimized._lib.validation import is_number
from trueness.optimized.kernels.exact import gaussian_kernel
from trueness.optimized.kernels.validation import (
    blocks,
    require_count,
    require_matrix,
    require_points,
    require_positive,
    require_same_kind,
)

__all__ = [
    "nystrom",
    "nystrom_features",
    "nystrom_matvec",
    "nystrom_trace_bound",
]


def _nystrom_factor(landmarks: torch.Tensor, lengthscale: float, reg: float) -> torch.Tensor:
    """L of L Lᵀ = K_mm + λ I, in working precision."""
    require_positive(lengthscale, "lengthscale")
    if not is_number(reg) or not 0 <= reg < math.inf:
        raise ValueError(f"reg was {reg!r}; it must be a finite number of at least 0.")
    marks = upcast(landmarks)
    square = gaussian_kernel(marks, marks, lengthscale) + reg * torch.eye(
        marks.shape[0], dtype=marks.dtype, device=marks.device
    )
    factor, info = torch.linalg.cholesky_ex(square)
    if int(info):
        raise ValueError(f"reg was {reg!r}; it must be larger, because K_mm + reg I has no Cholesky factor.")
    return factor


def _nystrom_features(x: torch.Tensor, landmarks: torch.Tensor, lengthscale: float, reg: float) -> torch.Tensor:
    """F in working precision."""
    require_points(x, landmarks, ("x", "landmarks"))
    factor = _nystrom_factor(landmarks, lengthscale, reg)
    cross = gaussian_kernel(upcast(x), upcast(landmarks), lengthscale)
    solved: torch.Tensor = torch.linalg.solve_triangular(factor, cross.T, upper=False)
    return solved.T


def nystrom_features(
    x: torch.Tensor, landmarks: torch.Tensor, *, lengthscale: float = 1.0, reg: float = 1e-6
) -> torch.Tensor:
    """F = K_xm L⁻ᵀ,  L Lᵀ = K_mm + λ I (Cholesky), so that F Fᵀ = K_xm (K_mm + λ I)⁻¹ K_mx    (Williams & Seeger 2001)

    x            x  (n, d)  points, any floating dtype
    landmarks    z  (m, d)  the m points whose columns of the Gaussian kernel are used, like x
    lengthscale  ℓ  number  length scale, > 0
    reg          λ  number  added to the diagonal, ≥ 0
    returns      F  (n, m)  dtype of x
    raises       ValueError if an argument does not fit, or K_mm + λ I has no Cholesky factor
    """
    with autocast_disabled(x):
        return _nystrom_features(x, landmarks, lengthscale, reg).to(x.dtype, copy=True)


def nystrom(x: torch.Tensor, landmarks: torch.Tensor, *, lengthscale: float = 1.0, reg: float = 1e-6) -> torch.Tensor:
    """K̃ = K_xm (K_mm + λ I)⁻¹ K_mx        (Williams & Seeger 2001; with the Gaussian kernel)

    x            x  (n, d)  points, any floating dtype
    landmarks    z  (m, d)  the m points whose columns of the Gaussian kernel are used, like x
    lengthscale  ℓ  number  length scale, > 0
    reg          λ  number  added to the diagonal, ≥ 0; K − K̃ is positive semidefinite for every λ
    returns      K̃  (n, n)  dtype of x
    raises       ValueError if an argument does not fit, or K_mm + λ I has no Cholesky factor
    """
    with autocast_disabled(x):
        found = _nystrom_features(x, landmarks, lengthscale, reg)
        return (found @ found.T).to(x.dtype)


def nystrom_matvec(
    x: torch.Tensor,
    landmarks: torch.Tensor,
    v: torch.Tensor,
    *,
    lengthscale: float = 1.0,
    reg: float = 1e-6,
    row_tile: int | None = None,
) -> torch.Tensor:
    """u = K̃ v = K_xm (K_mm + λ I)⁻¹ (K_mx v): no matrix of n rows is ever stored

    x            x  (n, d)  points, any floating dtype
    landmarks    z  (m, d)  the m points whose columns of the Gaussian kernel are used, like x
    v            v  (n, p)  vectors in columns, like x
    lengthscale  ℓ  number  length scale, > 0
    reg          λ  number  added to the diagonal, ≥ 0
    row_tile        int     points whose rows of K_xm are in memory at a time; the backward computes them again
    returns      u  (n, p)  dtype of x, in O(n m (d + p) + m³)
    raises       ValueError if an argument does not fit, or K_mm + λ I has no Cholesky factor
    """
    require_points(x, landmarks, ("x", "landmarks"))
    require_matrix(v, "v", "(points, vectors)")
    if v.shape[0] != x.shape[0]:
        raise ValueError(f"v had {v.shape[0]} rows; it must have one for every point of x, {x.shape[0]}.")
    require_same_kind(x, "x", v=v)
    require_count(row_tile, "row_tile")

    def pull(x: torch.Tensor, marks: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return gaussian_kernel(marks, upcast(x), lengthscale) @ upcast(v)

    def push(x: torch.Tensor, marks: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return gaussian_kernel(upcast(x), marks, lengthscale) @ u

    with autocast_disabled(x):
        marks, factor = upcast(landmarks), _nystrom_factor(landmarks, lengthscale, reg)
        rows = blocks(x.shape[0], row_tile or max(1, (1 << 20) // max(1, landmarks.shape[0])))
        total = torch.zeros((), dtype=marks.dtype, device=x.device)
        for at in rows:
            total = total + checkpointed(pull, x[at], marks, v[at])
        solved = torch.cholesky_solve(total, factor)
        return torch.cat([checkpointed(push, x[at], marks, solved).to(x.dtype) for at in rows])


def nystrom_trace_bound(
    x: torch.Tensor, landmarks: torch.Tensor, *, lengthscale: float = 1.0, reg: float = 1e-6
) -> torch.Tensor:
    """tr(K − K̃) = Σ_i (1 − ‖F_i‖²) ≥ ‖K − K̃‖_F ≥ ‖K − K̃‖₂        (K − K̃ is positive semidefinite)

    x            x  (n, d)  points, any floating dtype
    landmarks    z  (m, d)  the m points whose columns of the Gaussian kernel are used, like x
    lengthscale  ℓ  number  length scale, > 0
    reg          λ  number  added to the diagonal, ≥ 0
    returns      ()         a bound that holds for these very points, in O(n m²); dtype of x
    raises       ValueError if an argument does not fit, or K_mm + λ I has no Cholesky factor
    """
    with autocast_disabled(x):
        found = _nystrom_features(x, landmarks, lengthscale, reg)
        return (1 - found.square().sum(1)).sum().to(x.dtype)
