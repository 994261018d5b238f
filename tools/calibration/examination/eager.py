"""The reference as an eager program in a format would compute it: every operation rounded to the format.

The rules of the field compare with, or measure by, an eager implementation in the dtype under test. This one is made of
the reference for every formula alike: sums and products have a wide accumulator, every result is stored in the format.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trueness.tools.arithmetic.base import Arithmetic
from trueness.tools.arithmetic.bounds import outputs
from trueness.tools.arithmetic.formats import round_to


class Eager(Arithmetic):
    """An array whose every result is rounded to ``dtype``."""

    called = "eager arithmetic"
    dtype_name = "float64"

    def __array_finalize__(self, parent: Any) -> None:
        if isinstance(parent, Eager):
            self.dtype_name = parent.dtype_name

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        self.refuse_writing(ufunc, method, kwargs)
        return stored(getattr(ufunc, method)(*(np.asarray(x) for x in inputs), **kwargs), self.dtype_name)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func.__module__ == "numpy.linalg":
            return stored(func(*(np.asarray(x) for x in args), **kwargs), self.dtype_name)
        return stored(super().__array_function__(func, types, args, kwargs), self.dtype_name)


def stored(result: Any, dtype: str) -> Any:
    """The result in the format; truth values and integers as they are."""
    if isinstance(result, tuple):
        return tuple(stored(r, dtype) for r in result)
    plain = np.asarray(result)
    return eager(plain, dtype) if plain.dtype == np.float64 else result


def eager(values: Any, dtype: str) -> Eager:
    """``values`` rounded to ``dtype``, as an array that keeps to it."""
    array = round_to(np.asarray(values, dtype=np.float64), dtype).view(Eager)
    array.dtype_name = dtype
    return array


def eagerly(
    function: Callable[..., Any], arguments: Sequence[Any], real: Sequence[bool], dtype: str
) -> list[np.ndarray]:
    """The outputs of ``function`` in the format, in float64; ``real`` says which arguments are held in it."""
    given = [eager(x, dtype) if r else x for x, r in zip(arguments, real, strict=True)]
    with np.errstate(all="ignore"):
        return [round_to(np.asarray(y, dtype=np.float64), dtype) for y in outputs(function(*given))]
