"""A reference as a program that computes in float32 and keeps something of it in a half format: machine-made programs.

Every result is rounded to ``Way.results``, and a sum or product is added up one term after another in an accumulator of
``Way.accumulator``. So the text of any reference becomes a fused kernel, one with tensor cores, an eager program, and
the wrong one of whom this is about: a kernel whose accumulator is in the half format.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trueness.tools.arithmetic.base import Arithmetic, is_inexact
from trueness.tools.arithmetic.bounds import outputs
from trueness.tools.arithmetic.formats import round_to
from trueness.tools.arithmetic.stochastic import COMPARISONS

WIDE = "float32"


@dataclass(frozen=True)
class Way:
    """The formats of the results, of the accumulators, and of the operands of products; all float32 unless given."""

    results: str = WIDE
    accumulator: str = WIDE
    operands: str = WIDE


class Sums(Arithmetic):
    """An array whose operations round as ``way`` says."""

    called = "the arithmetic of sums"
    way = Way()

    def __array_finalize__(self, parent: Any) -> None:
        if isinstance(parent, Sums):
            self.way = parent.way

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        self.refuse_writing(ufunc, method, kwargs)
        flat = [y for x in inputs for y in (x if isinstance(x, (list, tuple)) else [x])]
        way = next(x.way for x in flat if isinstance(x, Sums))
        plain = [np.asarray(x) for x in inputs]
        floats = all(x.dtype.kind == "f" for x in plain)
        if ufunc.__name__ in COMPARISONS:
            return getattr(ufunc, method)(*plain, **kwargs)
        if ufunc is np.matmul and floats:
            left, right = (round_to(x, way.operands) for x in plain)
            return rounded(product(left, right, way.accumulator), way)
        if ufunc is np.add and method == "reduce" and floats:
            return rounded(total(plain[0], way.accumulator, kwargs.get("axis", 0), kwargs.get("keepdims", False)), way)
        result = getattr(ufunc, method)(*plain, **kwargs)
        return tuple(rounded(r, way) for r in result) if isinstance(result, tuple) else rounded(result, way)


def rounded(result: Any, way: Way) -> Any:
    """``result`` rounded to the format of results, as an array of this arithmetic."""
    plain = np.asarray(result)
    if plain.dtype != np.float64:
        return result
    array = round_to(plain, way.results).view(Sums)
    array.way = way
    return array


def total(terms: np.ndarray, accumulator: str, axis: Any, keepdims: bool) -> np.ndarray:
    """The sum along ``axis``, one term after another."""
    axes = range(terms.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    chosen = [a % terms.ndim for a in axes]
    others = [a for a in range(terms.ndim) if a not in chosen]
    rows = terms.transpose([*others, *chosen]).reshape([*(terms.shape[a] for a in others), -1])
    found = added((rows[..., k] for k in range(rows.shape[-1])), rows.shape[:-1], accumulator)
    return found.reshape([1 if a in chosen else terms.shape[a] for a in range(terms.ndim)]) if keepdims else found


def product(left: np.ndarray, right: np.ndarray, accumulator: str) -> np.ndarray:
    """``left @ right``, each element the sum of one exact product after another."""
    a, b = np.atleast_2d(left), right[:, None] if right.ndim == 1 else right
    shape = (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
    found = added((a[..., :, k, None] * b[..., None, k, :] for k in range(a.shape[-1])), shape, accumulator)
    found = found[..., 0, :] if left.ndim == 1 else found
    return found[..., 0] if right.ndim == 1 else found


def added(terms: Any, shape: Sequence[int], accumulator: str) -> np.ndarray:
    found = np.zeros(tuple(shape))
    for term in terms:
        found = round_to(found + term, accumulator)
    return found


def computed(
    function: Callable[..., Any], arguments: Sequence[Any], units: Sequence[float], dtype: str, way: Way
) -> list[np.ndarray]:
    """The outputs of ``function`` computed in this way, rounded to ``dtype``; float64 tables stay as they are."""

    def carried(value: Any, unit: float) -> Any:
        if not is_inexact(value) or unit <= 2.0**-53:
            return value
        array = np.array(value, dtype=np.float64).view(Sums)
        array.way = way
        return array

    given = [carried(x, u) for x, u in zip(arguments, units, strict=True)]
    with np.errstate(all="ignore"):
        return [round_to(np.asarray(y), dtype) for y in outputs(function(*given))]
