"""Mean and covariance of blocks of samples, and the Fréchet distance."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from trueness.tools.calibration.examination.program import HALVES, Program, fault, sabotaged
from trueness.tools.calibration.examination.programs.common import Tensor, tiles, wide

ROWS = 16
"""samples in one block"""


def mean_and_covariance(features: Tensor, *, fault: str = "") -> tuple[Tensor, Tensor]:
    """Blocks of 16 samples, merged        (Chan, Golub & LeVeque 1983)"""
    x = wide(features)
    n, d = x.shape
    if fault == "one pass":
        mean = x.mean(0)
        return mean.to(features.dtype), ((x.T @ x - n * mean[:, None] * mean) / (n - 1)).to(features.dtype)
    end = n // ROWS * ROWS if fault == "last block of samples lost" and n > ROWS else n
    mean, scatter, count = x.new_zeros(d), x.new_zeros((d, d)), 0
    for at in tiles(end, ROWS):
        part = x[at]
        its_mean = part.mean(0)
        apart, total = its_mean - mean, count + len(part)
        centred = part - its_mean
        scatter = scatter + centred.T @ centred
        if fault != "blocks merged without their distance":
            scatter = scatter + apart[:, None] * apart * (count * len(part) / total)
        mean = mean + apart * (len(part) / total)
        if fault == "moments in the half format":
            mean, scatter = mean.to(features.dtype).to(x), scatter.to(features.dtype).to(x)
        count = total
    divisor = count if fault == "divided by N" else count - 1
    if fault == "upper triangle alone":
        scatter = torch.triu(scatter)
    return mean.to(features.dtype), (scatter / divisor).to(features.dtype)


def frechet_distance(
    mean_1: Tensor, covariance_1: Tensor, mean_2: Tensor, covariance_2: Tensor, *, fault: str = ""
) -> Tensor:
    if fault == "means of two dimensions":
        mean_1, mean_2 = mean_1[:2], mean_2[:2]
    if fault == "diagonals alone":
        covariance_1, covariance_2 = (torch.diag(torch.diag(c)) for c in (covariance_1, covariance_2))
    if fault == "1e-6 on the diagonals":
        more = 1e-6 * torch.eye(len(mean_1), dtype=torch.float64)
        covariance_1, covariance_2 = covariance_1.double() + more, covariance_2.double() + more
        return frechet_by_eigh(mean_1, covariance_1, mean_2, covariance_2)
    return frechet_by_eigh(mean_1, covariance_1, mean_2, covariance_2)


# -- right programs of other algorithms -------------------------------------------------------------------------------


def covariance_by_welford(features: Tensor) -> tuple[Tensor, Tensor]:
    """Sample after sample        (Welford 1962)"""
    x = wide(features)
    mean, scatter = torch.zeros_like(x[0]), x.new_zeros((x.shape[1], x.shape[1]))
    for i, row in enumerate(x):
        apart = row - mean
        mean = mean + apart / (i + 1)
        scatter = scatter + apart[:, None] * (row - mean)
    scatter = (scatter + scatter.T) / 2
    return mean.to(features.dtype), (scatter / (len(x) - 1)).to(features.dtype)


def covariance_by_qr(features: Any) -> tuple[Any, Any]:
    """RᵀR of the centred samples, in float64"""
    x = features.astype(np.float64)
    r: Any = np.linalg.qr(x - x.mean(0), mode="r")
    return x.mean(0).astype(features.dtype), (r.T @ r / (len(x) - 1)).astype(features.dtype)


def frechet_by_eigh(mean_1: Tensor, covariance_1: Tensor, mean_2: Tensor, covariance_2: Tensor) -> Tensor:
    """tr (Σ₁^½ Σ₂ Σ₁^½)^½ by the singular values of Σ₁^½ Σ₂^½, as products of eigenvectors"""

    def root(c: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh((c.double() + c.double().T) / 2)
        return vectors * values.clamp(min=0).sqrt() @ vectors.T

    common = torch.linalg.svdvals(root(covariance_1) @ root(covariance_2)).sum()
    traces = covariance_1.double().trace() + covariance_2.double().trace()
    apart = (mean_1.double() - mean_2.double()).square().sum()
    return (apart + (traces - 2 * common).clamp(min=0)).to(mean_1.dtype)


M = "metrics."
LARGE = {"scale": 0.0, "spread": 0.0}

PROGRAMS = (
    *sabotaged(
        f"{M}mean_and_covariance",
        "blocks of samples merged",
        mean_and_covariance,
        {
            "one pass": fault("cancellation", N=6, offset=100.0, **LARGE),
            "last block of samples lost": fault("last partial tile", N=20),
            "blocks merged without their distance": fault("running value not rescaled", N=40),
            "divided by N": fault("reduction", N=5, names=("DIFFIT-09b",)),
            "upper triangle alone": fault("order", N=5, d=3),
            "moments in the half format": fault("half accumulator", dtypes=HALVES, N=3000, d=2),
        },
    ),
    Program(f"{M}mean_and_covariance", "Welford", covariance_by_welford),
    Program(f"{M}mean_and_covariance", "NumPy QR in float64", covariance_by_qr, framework="numpy"),
    *sabotaged(
        f"{M}frechet_distance",
        "roots by eigenvectors",
        frechet_distance,
        {
            "means of two dimensions": fault("entries beyond n not read", d=4),
            "diagonals alone": fault("wrong axis", d=3, names=("DIFFIT-09c",)),
            "1e-6 on the diagonals": fault("epsilon", d=3, scale=-2.0, dtypes=("float64", "float32")),
        },
    ),
)
