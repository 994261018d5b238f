"""Nyström's approximation by a Cholesky factor of blocks, and by other factorisations."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from trueness.tools.calibration.examination.program import NARROW, Program, fault, sabotaged
from trueness.tools.calibration.examination.programs.common import Tensor, wide
from trueness.tools.calibration.examination.programs.kernels import gaussian

TILE = 32


def factor(square: Tensor, fault: str) -> Tensor:
    """Cholesky by blocks of 16, the trailing part updated after every block"""
    columns, left, start = [], square, 0
    while len(left):
        block = min(16, len(left))
        corner = torch.linalg.cholesky(left[:block, :block])
        below = torch.linalg.solve_triangular(corner, left[block:, :block].T, upper=False).T
        columns.append(torch.cat([square.new_zeros(start, block), corner, below]))
        left = left[block:, block:]
        if fault != "third block without its update" or start != 16:
            left = left - below @ below.T
        start += block
    return torch.cat(columns, 1)


def nystrom_pieces(x: Tensor, z: Tensor, lengthscale: float, reg: float, fault: str) -> tuple[Tensor, Tensor]:
    a, b = wide(x).double(), wide(z).double()
    if fault == "32 landmarks":
        b = b[:32]
    reg = max(reg, 1e-3) if fault == "λ of 1e-3 at least" else reg
    reg = 0.0 if fault == "λ dropped" else reg
    cross, square = gaussian(a, b, lengthscale), gaussian(b, b, lengthscale)
    return cross, square + reg * torch.eye(len(b), dtype=b.dtype)


def nystrom(x: Tensor, landmarks: Tensor, lengthscale: float, reg: float, *, fault: str = "") -> Tensor:
    cross, square = nystrom_pieces(x, landmarks, lengthscale, reg, fault)
    half = torch.linalg.solve_triangular(factor(square, fault), cross.T, upper=False)
    return (half.T @ half).to(x.dtype)


def nystrom_matvec(
    x: Tensor, landmarks: Tensor, v: Tensor, lengthscale: float, reg: float, *, fault: str = ""
) -> Tensor:
    cross, square = nystrom_pieces(x, landmarks, lengthscale, reg, fault)
    rows = slice(0, len(x) // TILE * TILE if fault == "last rows not summed" and len(x) > TILE else len(x))
    pulled = cross[rows].T @ wide(v).double()[rows]
    if fault == "ten steps of conjugate gradients":
        return (cross @ conjugate_gradients(square, pulled, 10)).to(x.dtype)
    return (cross @ torch.cholesky_solve(pulled, factor(square, fault))).to(x.dtype)


def conjugate_gradients(matrix: Tensor, right: Tensor, steps: int) -> Tensor:
    """Column by column at once        (Hestenes & Stiefel 1952)"""
    found, rest = torch.zeros_like(right), right
    least = torch.finfo(right.dtype).tiny ** 0.5  # its square divides in the derivative
    direction, square = rest, (rest * rest).sum(0)
    for _ in range(steps):
        turned = matrix @ direction
        length = square / (direction * turned).sum(0).clamp(min=least)
        found, rest = found + length * direction, rest - length * turned
        following = (rest * rest).sum(0)
        direction = rest + following / square.clamp(min=least) * direction
        square = following
    return found


# -- right programs of other algorithms --------------------------------------------------------------------------------


def nystrom_by_eigh(x: Tensor, landmarks: Tensor, lengthscale: float, reg: float) -> Tensor:
    cross, square = nystrom_pieces(x, landmarks, lengthscale, reg, "")
    values, vectors = torch.linalg.eigh(square)
    turned = cross @ vectors
    return ((turned / values) @ turned.T).to(x.dtype)


def nystrom_by_solve(x: Tensor, landmarks: Tensor, lengthscale: float, reg: float) -> Tensor:
    cross, square = nystrom_pieces(x, landmarks, lengthscale, reg, "")
    return (cross @ torch.linalg.solve(square, cross.T)).to(x.dtype)


def nystrom_matvec_by_cg(x: Tensor, landmarks: Tensor, v: Tensor, lengthscale: float, reg: float) -> Tensor:
    """As many steps as float64 needs for λ of a half"""
    cross, square = nystrom_pieces(x, landmarks, lengthscale, reg, "")
    return (cross @ conjugate_gradients(square, cross.T @ wide(v).double(), 2 * len(square) + 40)).to(x.dtype)


def nystrom_matvec_by_scipy(x: Any, landmarks: Any, v: Any, lengthscale: float, reg: float) -> Any:
    from scipy.linalg import cho_factor, cho_solve
    from scipy.spatial.distance import cdist

    a, b = x.astype(np.float64), landmarks.astype(np.float64)
    cross, square = (np.exp(-cdist(p, b, "sqeuclidean") / (2 * lengthscale**2)) for p in (a, b))
    factored = cho_factor(square + reg * np.eye(len(b)))
    return (cross @ cho_solve(factored, cross.T @ v.astype(np.float64))).astype(x.dtype)


K = "kernels."

PROGRAMS = (
    *sabotaged(
        f"{K}nystrom",
        "Cholesky by blocks",
        nystrom,
        {
            "third block without its update": fault("state lost between blocks", m=50),
            "32 landmarks": fault("entries beyond n not read", m=40),
            "λ of 1e-3 at least": fault("far scalar", scalars={"reg": 1e-5}, n=6, m=4, factor=4.0, scale=0.0),
            "λ dropped": fault("epsilon", m=3, scalars={"reg": 0.5}, factor=4.0),
        },
    ),
    Program(f"{K}nystrom", "eigenvectors", nystrom_by_eigh, gradient=False, dtypes=NARROW),
    Program(f"{K}nystrom", "LU", nystrom_by_solve),
    *sabotaged(
        f"{K}nystrom_matvec",
        "Cholesky by blocks",
        nystrom_matvec,
        {
            "last rows not summed": fault("last partial tile", n=40),
            "third block without its update": fault("state lost between blocks", m=50),
            "ten steps of conjugate gradients": fault("far scalar", m=30, n=30, scalars={"reg": 1e-3}, factor=10.0),
        },
    ),
    Program(f"{K}nystrom_matvec", "conjugate gradients", nystrom_matvec_by_cg, dtypes=NARROW),
    Program(f"{K}nystrom_matvec", "SciPy Cholesky", nystrom_matvec_by_scipy, framework="numpy"),
)
