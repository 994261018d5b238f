"""Rates and bounds of the errors of random features and of the Nyström approximation.

Sources: Hoeffding 1963 Thm 2; Drineas & Mahoney 2005, JMLR 6:2153.
"""

from __future__ import annotations

import math

import torch

from trueness.optimized._lib.validation import require_floating
from trueness.optimized.kernels.validation import require_count, require_share

__all__ = [
    "drineas_mahoney_frobenius",
    "drineas_mahoney_spectral",
    "nystrom_rate",
    "rff_error_bound",
]

Device = torch.device | str | None


def _require_table(tensor: torch.Tensor, name: str) -> None:
    require_floating(tensor, name)
    if tensor.dtype != torch.float64:
        raise ValueError(f"{name} had dtype {tensor.dtype}; it must be float64: these are numbers of points.")


def rff_error_bound(
    counts: torch.Tensor,
    *,
    points: int,
    delta: float = 0.05,
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
    *,
    points: int,
    delta: float = 0.05,
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
    *,
    points: int,
    rank: int,
    delta: float = 0.05,
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
