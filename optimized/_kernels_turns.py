"""Cosine and sine of an angle in turns: reduced without error, then one odd polynomial on a quarter of a turn.

    u = z/(2π),   r = u − ⌊u + ½⌋ ∈ [−½, ½]        (exact)
    cos z = S(¼ − |r|),   sin z = ±S(min(|r|, ½ − |r|)) with the sign of r,   S(t) = t Q(t²) ≈ sin 2πt for |t| ≤ ¼

A matrix W and offsets b are divided by 2π once, in float64. There is no table, no slow path for large angles, and no
argument for which it is wrong; the error of an angle of many turns is that of computing x W + b.
Q is the minimax polynomial of degree 4 for the relative error of S, found by Remez's exchange:
properties/test_kernels_turns.py computes its error and shows that no other polynomial of this degree has less of it.
"""

from __future__ import annotations

import math

import torch

TURN = 2 * math.pi
SINE = (6.283185273790785853, -41.341677478391525208, 81.602231242727416094, -76.574992181999050013, 39.71091814380457753)
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


def _reduced(turns: torch.Tensor) -> torch.Tensor:
    return turns - torch.floor(turns + 0.5)


def cosine(turns: torch.Tensor) -> torch.Tensor:
    """cos 2πu for float32 ``turns`` of any size."""
    return _quarter(0.25 - _reduced(turns).abs())


def sine(turns: torch.Tensor) -> torch.Tensor:
    """sin 2πu for float32 ``turns`` of any size, with a small relative error also where the sine is small."""
    r = _reduced(turns)
    return _quarter(torch.copysign(torch.minimum(r.abs(), 0.5 - r.abs()), r))
