"""Arithmetic that looks for the longest sum: the reduction length n of a bound, where nobody has declared it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trueness.tools.arithmetic.base import is_inexact, wide
from trueness.tools.arithmetic.stochastic import Roundoff, Stochastic, coarsest


class Longest:
    """The most terms of a sum of operands that carry a roundoff of ``u`` or more."""

    def __init__(self, u: float) -> None:
        self.u, self.terms = u, 1

    def moved(self, plain: np.ndarray, u: float, eta: float) -> np.ndarray:
        """Nothing is moved; this stands where a Noise does."""
        return plain


class Summed(Stochastic):
    """An array that tells a ``Longest`` of every sum that it is part of."""

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        found = super().__array_ufunc__(ufunc, method, *inputs, **kwargs)
        roundoff = coarsest(inputs).roundoff
        if isinstance(roundoff.noise, Longest) and roundoff.u >= roundoff.noise.u:
            roundoff.noise.terms = max(roundoff.noise.terms, terms(ufunc, method, inputs, found))
        return found


def terms(ufunc: Any, method: str, inputs: Sequence[Any], result: Any) -> int:
    """How many terms one element of a result adds up, or multiplies; 1 where it adds none.

    An operator that is no ufunc says it itself, by an attribute ``terms``.
    """
    if hasattr(ufunc, "terms"):
        return int(ufunc.terms)
    shape = np.shape(inputs[0])
    if ufunc.__name__ in ("matmul", "vecdot"):
        return shape[-1] if shape else 1
    if method == "accumulate":
        return max(shape, default=1)
    if method == "reduce" and ufunc.__name__ in ("add", "multiply"):
        return math.prod(shape) // max(np.size(result), 1)
    return 1


def longest_sum(function: Callable[..., Any], arguments: Sequence[Any], units: Sequence[float]) -> int:
    """The most terms of any sum in one evaluation of ``function``; ``units[i]`` is the roundoff of argument i.

    Sums of what is exact beside the others, such as a table in float64, do not count.
    """
    longest = Longest(max(units, default=0.0))

    def summed(x: Any, u: float) -> Any:
        array = wide(x).view(Summed)
        array.roundoff = Roundoff(u, 0.0, longest)  # type: ignore[arg-type]
        return array

    with np.errstate(all="ignore"):
        function(*[summed(x, u) if is_inexact(x) else x for x, u in zip(arguments, units, strict=True)])
    return longest.terms
