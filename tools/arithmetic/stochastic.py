"""Stochastic arithmetic: how far an honest implementation with unit roundoff u may land.

Monte-Carlo arithmetic (Parker 1997) on a NumPy function. Every floating operand of every operation, constants
and scalars among them, becomes

    x (1 + u ξ) + η ξ',        ξ, ξ' = ±1, constant on blocks of ``grain`` elements

before the operation sees it. Coarse grains make errors coherent: a denominator that is wrong for a whole row.
An operand keeps its own u and an operation works at the coarsest u of its operands, as dtype promotion would have
it: a float64 table is exact to 2^-53 until it is combined with float16 data. Multiplying keeps −∞ masks and zeros.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from trueness.tools.arithmetic.base import Arithmetic
from trueness.tools.arithmetic.noise import Counter, Noise

STABLE = ("eigh", "svd")  # of np.linalg: the exact answer for a matrix within u ‖A‖ of A (Higham 2002 §21)
COMPARISONS = frozenset("greater greater_equal less less_equal equal not_equal isnan isinf isfinite signbit".split())


class Stochastic(Arithmetic):
    """An array that perturbs itself whenever it is used; ``array.view(Stochastic)`` at u = 0 is plain float64."""

    called = "stochastic arithmetic"
    u: float = 0.0
    eta: float = 0.0
    noise: Noise | Counter | None = None

    def __array_finalize__(self, parent: Any) -> None:
        if isinstance(parent, Stochastic):
            self.u, self.eta, self.noise = parent.u, parent.eta, parent.noise

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        self.refuse_writing(ufunc, method, kwargs)
        like = coarsest(inputs)
        plain = [np.asarray(x) if ufunc.__name__ in COMPARISONS else perturbed(x, like) for x in inputs]
        return wrap(getattr(ufunc, method)(*plain, **kwargs), like)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func.__module__ == "numpy.linalg" and func.__name__ in STABLE:
            matrix = coarsest(args)
            return wrap(func(matrix.stable(), *args[1:], **kwargs), matrix)
        return wrap(super().__array_function__(func, types, args, kwargs), coarsest([*args, *kwargs.values()]))

    def stable(self) -> np.ndarray:
        """A + u ‖A‖ ξ: a matrix whose exact decomposition is what a backward stable routine may return for A."""
        plain = np.asarray(self)
        if self.u == 0.0 or self.noise is None:
            return plain
        norm = np.sqrt(np.sum(plain * plain, axis=(-2, -1), keepdims=True))
        return plain + self.u * norm * (self.noise.signs(1.0, 0.0, plain.shape)[0] - 1)


def stochastic(values: Any, u: float, eta: float, noise: Noise | Counter) -> Stochastic:
    """``values`` (float64) as an array that is perturbed by ``noise`` at every use."""
    array = np.array(values, dtype=np.float64).view(Stochastic)
    array.u, array.eta, array.noise = u, eta, noise
    return array


def coarsest(inputs: Any) -> Stochastic:
    """The operand of the largest u, among those inside of lists too."""
    found: Stochastic | None = None
    for x in inputs:  # a plain loop: it runs for every operation of every stochastic run
        if isinstance(x, Stochastic):
            if found is None or x.u > found.u:
                found = x
        elif isinstance(x, (list, tuple)):
            for y in x:
                if isinstance(y, Stochastic) and (found is None or y.u > found.u):
                    found = y
    assert found is not None, "an operation of stochastic arithmetic has a stochastic operand"
    return found


def wrap(result: Any, like: Stochastic) -> Any:
    if isinstance(result, tuple):
        return tuple(wrap(r, like) for r in result)
    plain = np.asarray(result)
    if plain.dtype != np.float64:
        return plain if isinstance(result, np.ndarray) else result
    array = plain.view(type(like))
    array.u, array.eta, array.noise = like.u, like.eta, like.noise
    return array


def perturbed(operand: Any, like: Stochastic) -> Any:
    plain = np.asarray(operand)
    if plain.dtype.kind != "f" or like.u == 0.0 or like.noise is None:
        return plain
    factor, divisor, underflow = like.noise.signs(like.u, like.eta, plain.shape)
    moved = plain * factor
    if divisor is not None:
        moved = moved / divisor
    if underflow is None:
        return moved
    moved = moved + underflow
    return np.where(moved * plain <= 0, 0.0, moved)  # zeros stay; an underflow reaches zero, never the other side
