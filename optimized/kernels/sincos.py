"""Cosine and sine of an angle in turns: reduced without error, then one odd polynomial on a quarter of a turn.

    u = z/(2π),   a = |u| − ⌊|u|⌋ ∈ [0, 1)        (exact, however large u is)
    cos z = S(|a − ½| − ¼),   sin z = S(max(min(a, ½ − a), a − 1)) sgn u,   S(t) = t Q(t²) ≈ sin 2πt for |t| ≤ ¼

u − ⌊u + ½⌋ would not do: u + ½ is rounded, and for odd u between 2²³ and 2²⁴ a whole turn is left over.

A matrix W and offsets b are divided by 2π once, in float64. There is no table, no slow path for large angles, and no
argument for which it is wrong; the error of an angle of many turns is that of computing x W + b.
Q is the minimax polynomial of degree 4 for the relative error of S, found by Remez's exchange:
properties/kernels/test_sincos.py computes its error and shows that no other polynomial of this degree has less of it.
"""

from __future__ import annotations

import math

import torch

TURN = 2 * math.pi
SINE = (
    6.283185273790785853,
    -41.341677478391525208,
    81.602231242727416094,
    -76.574992181999050013,
    39.71091814380457753,
)
"""Q: the coefficients of 1, t², t⁴, t⁶, t⁸"""
ERROR = 5.314e-9
"""max |t Q(t²)/sin 2πt − 1| on (0, ¼], before anything is rounded: a tenth of float32's roundoff"""


def in_turns(angles: torch.Tensor) -> torch.Tensor:
    """``angles``/(2π), divided in float64 and rounded once to the dtype of ``angles``."""
    return (angles.double() / TURN).to(angles.dtype)


def _quarter(t: torch.Tensor) -> torch.Tensor:
    square = t * t
    value = torch.full_like(t, SINE[-1])
    for c in SINE[-2::-1]:
        value = torch.addcmul(torch.full_like(t, c), value, square)
    return value * t


def _part(turns: torch.Tensor) -> torch.Tensor:
    size = turns.abs()
    return size - torch.floor(size)


def cosine(turns: torch.Tensor) -> torch.Tensor:
    """cos 2πu for float32 ``turns`` of any size."""
    return _quarter((_part(turns) - 0.5).abs() - 0.25)


def sine(turns: torch.Tensor) -> torch.Tensor:
    """sin 2πu for float32 ``turns`` of any size, with a small relative error also where the sine is small."""
    a = _part(turns)
    return _quarter(torch.maximum(torch.minimum(a, 0.5 - a), a - 1) * torch.where(turns < 0, -1.0, 1.0))
