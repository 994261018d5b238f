"""The complex step in stochastic arithmetic: how far an honest gradient with unit roundoff u may land.

Every operand is moved by u relative to itself, its value and its derivative each on their own:

    x + i h t   →   x (1 + u ξ) + i h t (1 + u ξ')        ξ, ξ' = ±1

To move the tangent t of an intermediate number moves ⟨g, J v⟩ by u ξ' (adjoint · tangent), which is what a rounding of
its adjoint moves in a backward pass: the first-order spread is the same in both directions. So a formula needs no
written vjp for a bound on its gradient, only a reference of analytic operations (complex_step.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trueness.tools.arithmetic.complex_step import STEP, ComplexStep
from trueness.tools.arithmetic.stochastic import COMPARISONS, EXACT, Roundoff, Stochastic, perturbed, stochastic


class StochasticStep(ComplexStep):
    """A complex array whose real and imaginary parts are perturbed whenever it is used."""

    called = "stochastic complex step"
    roundoff: Roundoff = EXACT

    def __array_finalize__(self, parent: Any) -> None:
        if isinstance(parent, StochasticStep):
            self.roundoff = parent.roundoff

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        like = coarsest(inputs)
        moved = [np.asarray(x) if ufunc.__name__ in COMPARISONS else shaken(x, like.roundoff) for x in inputs]
        return wrap(super().__array_ufunc__(ufunc, method, *moved, **kwargs), like)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return wrap(super().__array_function__(func, types, args, kwargs), coarsest([*args, *kwargs.values()]))


def coarsest(inputs: Any) -> StochasticStep:
    """The operand of the largest u, among those inside of lists too."""
    flat = [y for x in inputs for y in (x if isinstance(x, (list, tuple)) else [x])]
    return max((x for x in flat if isinstance(x, StochasticStep)), key=lambda x: x.roundoff.u)


def wrap(result: Any, like: StochasticStep | Stochastic) -> Any:
    if isinstance(result, tuple):
        return tuple(wrap(r, like) for r in result)
    if np.asarray(result).dtype.kind != "c":
        return result
    array = np.asarray(result).view(StochasticStep)
    array.roundoff = like.roundoff
    return array


def shaken(operand: Any, roundoff: Roundoff) -> Any:
    plain = np.asarray(operand)
    if plain.dtype.kind != "c":
        return perturbed(plain, roundoff)
    return perturbed(plain.real, roundoff) + 1j * STEP * perturbed(plain.imag / STEP, roundoff)


def moved(argument: Any, direction: Any | None) -> Any:
    """An argument with its direction, in the arithmetic that it was given in; numbers stay numbers."""
    value = np.asarray(argument)
    if value.dtype.kind != "f" or (direction is None and not isinstance(argument, Stochastic)):
        return argument
    if not value.ndim and direction is None:
        return float(value)
    tangent = np.zeros(value.shape) if direction is None else np.asarray(direction)
    complex_valued = value + 1j * STEP * tangent
    return wrap(complex_valued, argument) if isinstance(argument, Stochastic) else complex_valued.view(ComplexStep)


def inner(cotangent: Any, output: Any) -> Any:
    """⟨g, Im y / h⟩, perturbed once more where the output is."""
    tangent = np.asarray(output).imag / STEP if np.asarray(output).dtype.kind == "c" else np.zeros(np.shape(output))
    if isinstance(output, StochasticStep) and output.roundoff.noise is not None:
        tangent = stochastic(tangent, output.roundoff.u, 0.0, output.roundoff.noise)
    return (np.asarray(cotangent) * tangent).sum()


@functools.cache
def slopes(function: Callable[..., Any], places: tuple[int, ...], outputs: int) -> Callable[..., Any]:
    """⟨g, J v⟩ with a direction v in each of the arguments ``places`` alone: a function of (v…, g…, arguments…)."""

    def run(*everything: Any) -> tuple[Any, ...]:
        directions, rest = everything[: len(places)], everything[len(places) :]
        cotangents, arguments = rest[:outputs], rest[outputs:]
        return tuple(
            slope(function, arguments, place, direction, cotangents)
            for place, direction in zip(places, directions, strict=True)
        )

    return run


def slope(
    function: Callable[..., Any], arguments: Sequence[Any], place: int, direction: Any, cotangents: Sequence[Any]
) -> Any:
    found = function(*[moved(x, direction if i == place else None) for i, x in enumerate(arguments)])
    parts = found if isinstance(found, tuple) else (found,)
    return sum(inner(g, y) for g, y in zip(cotangents, parts, strict=True))
