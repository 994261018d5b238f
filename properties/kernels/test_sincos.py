"""The polynomial of _kernels_turns: its error, that no other has less of it, and what float32 makes of it."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch

from trueness.optimized.kernels import sincos as turns
from trueness.tools.arithmetic.formats import precision

F32 = precision("float32")
POINTS = 400


def error(t: mpmath.mpf) -> mpmath.mpf:
    """t Q(t²)/sin 2πt − 1; its limit at 0"""
    Q = sum(mpmath.mpf(c) * t ** (2 * k) for k, c in enumerate(turns.SINE))
    return (t * Q / mpmath.sin(2 * mpmath.pi * t) if t else turns.SINE[0] / (2 * mpmath.pi)) - 1


def extremes() -> list[mpmath.mpf]:
    """The largest error of every run of one sign, on a grid that ends where the interval does."""
    with mpmath.workdps(30):
        found: list[mpmath.mpf] = []
        for k in range(POINTS + 1):
            e = error(mpmath.mpf(k) / (4 * POINTS))
            if not found or (e > 0) != (found[-1] > 0):
                found.append(e)
            elif abs(e) > abs(found[-1]):
                found[-1] = e
        return found


def test_the_error_is_the_one_that_is_stated_and_a_fraction_of_float32s_roundoff() -> None:
    worst = float(max(abs(e) for e in extremes()))
    grid = (math.pi / 2 / POINTS * 10) ** 2 / 8  # between two points an extreme of ten turns' curvature is flatter
    assert worst <= turns.ERROR <= worst * (1 + grid) + 1e-3 * worst < F32.u / 8


def test_no_other_polynomial_of_the_degree_has_less_error() -> None:
    """de la Vallée-Poussin: six alternating extremes, so that the best of five coefficients is at least the least."""
    found = extremes()
    assert len(found) == len(turns.SINE) + 1
    assert min(abs(e) for e in found) >= 0.999 * turns.ERROR


def sine_of(u: np.ndarray) -> np.ndarray:
    """sin 2πu in float64: whole and half turns are taken away without error."""
    r = u - np.round(u)
    return np.sin(2 * np.pi * np.where(np.abs(r) > 0.25, np.copysign(0.5 - np.abs(r), r), r))


def roundings() -> float:
    """First order: coefficient k goes through 3 k + 3 roundings, and is relatively largest where t = ¼ and S = 1."""
    return sum(abs(c) * 0.25 ** (2 * k + 1) * (3 * k + 3) for k, c in enumerate(turns.SINE)) * F32.u + turns.ERROR


@pytest.mark.parametrize("size", [0.1, 1.0, 1e3, 1e6, 2.0**23, 1e9])
def test_cosine_and_sine_are_right_for_any_number_of_turns(size: float) -> None:
    """|a − ½| is rounded once more, by at most u/4 of it, which moves the cosine by 2π u/4."""
    u = torch.from_numpy(size * np.random.default_rng(0).standard_normal(20_000)).float()
    exact, wanted = u.double().numpy(), sine_of(u.double().numpy())
    off = np.abs(turns.cosine(u).double().numpy() - sine_of(0.25 - np.abs(exact - np.round(exact))))
    assert (off <= roundings() + np.pi / 2 * F32.u).all() and roundings() < 10 * F32.u
    assert (np.abs(turns.sine(u).double().numpy() - wanted) <= roundings() * np.abs(wanted)).all()


def test_whole_and_quarter_turns_and_what_is_no_number() -> None:
    u = torch.tensor([0.0, 1.0, -7.0, 2.0**23 + 1, 0.25, -0.75, 0.5, -0.5, 1e30, math.inf, math.nan])
    cosine, sine = turns.cosine(u), turns.sine(u)
    assert cosine[:9].tolist() == [1, 1, 1, 1, 0, 0, -1, -1, 1]
    assert sine[:9].tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0]
    assert cosine[9:].isnan().all() and sine[9:].isnan().all()


def test_angles_become_turns_by_one_rounding() -> None:
    w = torch.from_numpy(np.random.default_rng(0).standard_normal(1000)).float()
    exact = w.double().numpy() / (2 * np.pi)
    assert (
        np.abs(turns.in_turns(w).double().numpy() - exact) <= F32.u * (1 + 4 * 2.0**-53 / F32.u) * np.abs(exact)
    ).all()
