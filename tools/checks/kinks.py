"""Kinks: where the derivatives from both sides differ, every value between them is a right gradient.

At the bound of a clamp the equation, torch and JAX choose differently (1, 1 and ½ of the slope), and so at x = y for
|x − y|. Each choice is an element of the generalized gradient (Clarke, Optimization and Nonsmooth Analysis, §1.2). So
the gradient is evaluated beside the point, too: where it jumps by more than its bound, what lies between is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from trueness.tools.arithmetic.bounds import Bound, outputs
from trueness.tools.run.trial import Trial
from trueness.tools.spec.inputs import Real

STEP = 2.0**-40
"""by how much of itself a number is moved: far less than what two numbers of a format under test differ by"""
SIDES = 8
"""random choices of a side for every number, besides all up and all down"""


def sides(trial: Trial, values: Sequence[Any]) -> list[list[Any]]:
    """The arguments with every real number moved by STEP of itself: all up, all down, each at random."""
    real = [i for i, a in enumerate(trial.formula.arguments) if type(a) is Real and np.size(values[i])]
    found = []
    for side in range(2 + SIDES):
        moved = list(values)
        for i in real:
            up = np.random.default_rng([side, i]).choice([-1.0, 1.0], np.shape(values[i]))
            moved[i] = np.asarray(values[i]) * (1 + STEP * (up if side > 1 else 1 - 2 * side))
        found.append(moved)
    return found


def forgiven(
    trial: Trial,
    values: Sequence[Any],
    cotangents: Sequence[np.ndarray],
    found: Sequence[np.ndarray],
    truth: Sequence[Bound],
    places: Sequence[int],
) -> list[Bound]:
    """The bounds ``truth`` of gradients, at a kink around what of the generalized gradient is nearest to ``found``.

    places  where these gradients are among those of the vector-Jacobian product
    """
    vjp = trial.formula.vjp
    assert vjp is not None
    low = high = [b.y for b in truth]
    with np.errstate(all="ignore"):
        for moved in sides(trial, values):
            there = outputs(vjp(*cotangents, *moved))
            low = [np.fmin(a, there[p]) for a, p in zip(low, places, strict=True)]
            high = [np.fmax(a, there[p]) for a, p in zip(high, places, strict=True)]
        return [
            replace(b, y=np.where(h - w > b.B, np.clip(g, w, h), b.y))
            for b, g, w, h in zip(truth, found, low, high, strict=True)
        ]
