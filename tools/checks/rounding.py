"""What rounding explains: how far a result may move without any fault, from the formula and its input alone.

A program in a format of unit roundoff u rounds every operand of each of its m operations, and its sums of n terms in an
order of its own. To first order this is as if each input had been off by a factor 1 ± m u, and more by the factor
1 + √n of a sum (Higham 2002 §3.1; Higham & Mary 2019), before the equation was evaluated exactly and rounded once:

    ρ_i = u |y_i| + m (1 + √n · u_acc/u) u Σ_a max_ξ |∂y_i/∂x_a · (ξ x_a)| + η            ξ = ±1 for every element

The sum over the arguments a takes the worst case; within an argument all signs equal and some random ones are tried.
The derivative is a difference of the reference in float64. A right program is within ρ of y, one with a fault within ρ
of its own y', and a limit L on T accepts what is within L ρ of y. No comparison tells them apart unless y and y' are
more than (1 + L) ρ apart: less is not a change.

No bound of tools/arithmetic/bounds.py enters, so the two can contradict each other: where a change is larger and T does
not show it on any case, the run has no power.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trueness.tools.arithmetic.base import is_inexact
from trueness.tools.arithmetic.bounds import outputs
from trueness.tools.arithmetic.noise import Counter
from trueness.tools.arithmetic.stochastic import stochastic
from trueness.tools.spec.tables import LIMITS, Format

STEP = 2.0**-26  # relative: half the digits of float64, where its truncation and its rounding are alike
SIGNS = 3
APART = 1 + LIMITS["fused"]


class Operands(Counter):
    """Counts the operands that a function reads."""

    count = 0

    def moved(self, plain: np.ndarray, u: float, eta: float) -> np.ndarray:
        self.count += 1
        return plain


def operands(function: Callable[..., Any], values: Sequence[Any]) -> int:
    """How many floating operands the operations of ``function`` read; each may be rounded."""
    counter = Operands()
    moved = [stochastic(x, 2.0**-24, 0.0, counter) if is_inexact(x) else x for x in values]
    with np.errstate(all="ignore"):
        function(*moved)
    return max(counter.count, 1)


def explained(
    function: Callable[..., Any],
    values: Sequence[Any],
    units: Sequence[float],
    fmt: Format,
    reduction: int,
    signs: int = SIGNS,
) -> list[np.ndarray]:
    """ρ of every output; ``units[i]`` is the roundoff of argument i, 0 for one that is exact.

    An argument that the function refuses to see moved, as the ν of a kernel, is exact, too.
    """
    generator = np.random.default_rng(5)
    total: list[np.ndarray] = []
    with np.errstate(all="ignore"):
        y = outputs(function(*values))
        total = [np.zeros(a.shape) for a in y]
        for i, x in enumerate(values):
            if not is_inexact(x) or not units[i]:
                continue
            worst = [np.zeros(a.shape) for a in y]
            for k in range(1 + signs):
                sign = generator.choice([-1.0, 1.0], np.shape(x)) if k and np.ndim(x) else 1.0
                moved = [x * (1 + STEP * sign) if j == i else v for j, v in enumerate(values)]
                try:
                    found = outputs(function(*moved))
                except ValueError:  # only certain numbers are allowed here: an exact one
                    break
                steps = [np.nan_to_num(np.abs(a - b) / STEP) for a, b in zip(found, y, strict=True)]
                worst = [np.maximum(w, s) for w, s in zip(worst, steps, strict=True)]
            total = [t + units[i] * w for t, w in zip(total, worst, strict=True)]
        working = max([*units, fmt.u])
        grow = operands(function, values) * (1 + np.sqrt(reduction) * min(1.0, fmt.u_acc / working))
        return [fmt.u * np.abs(a) + grow * t + fmt.eta for a, t in zip(y, total, strict=True)]
