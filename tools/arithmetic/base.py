"""Base class of the stochastic, complex-step and ball arrays: no operation bypasses the arithmetic.

A single element stays an array of its class (NumPy would return a plain number, exact from there on), a mean is a sum
and a division, and in-place operations and library routines are refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np

INSIDE = frozenset("dot inner outer vdot einsum tensordot kron convolve correlate interp linspace logspace".split())
LIBRARIES = ("numpy.linalg", "numpy.fft")


class Arithmetic(np.ndarray):
    """An array whose every operation goes through ``__array_ufunc__``."""

    called = "this arithmetic"

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        if isinstance(found, Arithmetic):
            return found
        return super().__getitem__((*key, ...) if isinstance(key, tuple) else (key, ...))

    def __float__(self) -> float:
        raise TypeError(f"{self.called}: a reference may not turn an argument into a Python float.")

    def mean(self, axis: Any = None, dtype: Any = None, out: Any = None, *, keepdims: bool = False) -> Any:  # type: ignore[override]
        """Σ x / n, as NumPy computes it, but not in place."""
        total = self.sum(axis=axis, keepdims=keepdims)
        return total / (self.size / total.size if total.size else np.nan)

    def kept(self, result: Any, inputs: Any) -> Any:
        """``result`` of an operation on ``inputs`` that rounds nothing, in this arithmetic."""
        raise TypeError(f"{self.called}: operations of torch are not defined in it.")

    def dot(self, *_: Any) -> Any:  # type: ignore[override]
        raise TypeError(f"{self.called}: dot is computed inside of NumPy; write it with @.")

    def refuse_writing(self, ufunc: np.ufunc, method: str, kwargs: Any) -> None:
        if method == "at" or kwargs.get("out") is not None:
            raise TypeError(f"{self.called}: a reference may not use np.{ufunc.__name__} in place.")

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func.__name__ in INSIDE or func.__module__.startswith(LIBRARIES):
            name = f"{func.__module__}.{func.__name__}".replace("numpy", "np", 1)
            raise TypeError(f"{self.called}: {name} is computed inside of NumPy; write it with ufuncs, @ and sums.")
        return super().__array_function__(func, types, args, kwargs)


def is_inexact(x: Any) -> bool:
    """Whether an argument can carry a rounding: a float or a complex number, or an array of them."""
    return isinstance(x, (float, complex)) or (isinstance(x, (np.ndarray, np.generic)) and x.dtype.kind in "fc")


def wide(values: Any) -> np.ndarray:
    """A copy of ``values`` in float64, or in complex128 where they are complex."""
    return np.array(values, dtype=np.complex128 if np.iscomplexobj(values) else np.float64)
