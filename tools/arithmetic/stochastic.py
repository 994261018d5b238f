"""Stochastic arithmetic: how far an honest implementation with unit roundoff u may land.

Monte-Carlo arithmetic (Parker 1997) on a NumPy function. Every floating operand of every operation, constants
and scalars among them, becomes

    x (1 + u ξ) + η ξ',        ξ, ξ' = ±1, constant on blocks of ``grain`` elements

before the operation sees it. Coarse grains make errors coherent: a denominator that is wrong for a whole row.
An operand keeps its own u and an operation works at the coarsest u of its operands, as dtype promotion would have
it: a float64 table is exact to 2^-53 until it is combined with float16 data. Multiplying keeps −∞ masks and zeros.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from trueness.tools.arithmetic.base import Arithmetic, wide
from trueness.tools.arithmetic.noise import Counter, Noise

STABLE = ("eigh", "svd")  # of np.linalg: the exact answer for a matrix within u ‖A‖ of A (Higham 2002 §21)
COMPARISONS = frozenset("greater greater_equal less less_equal equal not_equal isnan isinf isfinite signbit".split())


class Roundoff(NamedTuple):
    """What an array is perturbed by whenever it is used; nothing unless there is a noise."""

    u: float = 0.0
    eta: float = 0.0
    noise: Noise | Counter | None = None


EXACT = Roundoff()


class Stochastic(Arithmetic):
    """An array that perturbs itself whenever it is used; ``array.view(Stochastic)`` at u = 0 is plain float64."""

    called = "stochastic arithmetic"
    roundoff: Roundoff = EXACT

    def __array_finalize__(self, parent: Any) -> None:
        if isinstance(parent, Stochastic):
            self.roundoff = parent.roundoff

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if kwargs or method == "at":
            self.refuse_writing(ufunc, method, kwargs)
        like = coarsest(inputs)
        compared = ufunc.__name__ in COMPARISONS
        plain = [np.asarray(x) if compared else perturbed(x, like.roundoff) for x in inputs]
        return wrap(getattr(ufunc, method)(*plain, **kwargs), like)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func.__module__ == "numpy.linalg" and func.__name__ in STABLE:
            matrix = coarsest(args)
            return wrap(func(matrix.stable(), *args[1:], **kwargs), matrix)
        return wrap(super().__array_function__(func, types, args, kwargs), coarsest([*args, *kwargs.values()]))

    def kept(self, result: Any, inputs: Any) -> Any:
        return wrap(result, coarsest(inputs))

    def stable(self) -> np.ndarray:
        """A + u ‖A‖ ξ: a matrix whose exact decomposition is what a backward stable routine may return for A."""
        plain, (u, _, noise) = np.asarray(self), self.roundoff
        if u == 0.0 or noise is None:
            return plain
        norm = np.sqrt(np.sum(plain * plain, axis=(-2, -1), keepdims=True))
        return plain + u * norm * (noise.moved(np.ones(plain.shape), 1.0, 0.0) - 1)


def stochastic(values: Any, u: float, eta: float, noise: Noise | Counter) -> Stochastic:
    """``values`` (float64) as an array that is perturbed by ``noise`` at every use."""
    array = wide(values).view(Stochastic)
    array.roundoff = Roundoff(u, eta, noise)
    return array


def coarsest(inputs: Any) -> Stochastic:
    """The operand of the largest u, among those inside of lists too."""
    found: Stochastic | None = None
    for x in inputs:  # a plain loop: it runs for every operation of every stochastic run
        if isinstance(x, Stochastic):
            if found is None or x.roundoff.u > found.roundoff.u:
                found = x
        elif isinstance(x, (list, tuple)):
            for y in x:
                if isinstance(y, Stochastic) and (found is None or y.roundoff.u > found.roundoff.u):
                    found = y
    assert found is not None, "an operation of stochastic arithmetic has a stochastic operand"
    return found


def wrap(result: Any, like: Stochastic) -> Any:
    if isinstance(result, tuple):
        return tuple(wrap(r, like) for r in result)
    plain = np.asarray(result)
    if plain.dtype not in (np.float64, np.complex128):
        return plain if isinstance(result, np.ndarray) else result
    array = plain.view(type(like))
    array.roundoff = like.roundoff
    return array


def perturbed(operand: Any, roundoff: Roundoff) -> Any:
    plain, (u, eta, noise) = np.asarray(operand), roundoff
    if u == 0.0 or noise is None or plain.dtype.kind not in "fc":
        return plain
    if plain.dtype.kind == "c":
        return noise.moved(plain.real, u, eta) + 1j * noise.moved(plain.imag, u, eta)
    return noise.moved(plain, u, eta)
