"""Complex-step arithmetic: the directional derivative of a NumPy function, exact to rounding.

    J(x) v = Im f(x + i h v) / h,        h = 1e-30        (Squire & Trapp 1998, eq. 2.1)

No difference is taken, so nothing cancels and h may be so small that h² vanishes. It holds for analytic functions
only, and for branches that complex numbers order by their real part (maximum, minimum, clip, comparisons).
An operation that is not analytic, such as abs, is refused instead of returning a wrong number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trueness.tools.arithmetic.base import Arithmetic

STEP = 1e-30
ANALYTIC = frozenset(
    "add subtract multiply divide negative positive power square reciprocal exp exp2 expm1 log log2 log10 log1p "
    "sqrt sin cos tan sinh cosh tanh arcsin arccos arctan arcsinh arccosh arctanh matmul vecdot "
    "maximum minimum clip greater greater_equal less less_equal equal not_equal isnan isfinite isinf".split()
)


class ComplexStep(Arithmetic):
    """A complex array that refuses operations under which the complex step would be silently wrong."""

    called = "complex step"

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if ufunc.__name__ not in ANALYTIC:
            raise TypeError(
                f"complex step: np.{ufunc.__name__} is not analytic, so its complex step would be silently wrong; "
                "write the reference with analytic operations, or name another oracle for its derivative."
            )
        self.refuse_writing(ufunc, method, kwargs)
        if ufunc.__name__ == "clip":  # has no complex loop
            value, low, high = inputs
            return np.minimum(np.maximum(value, low), high)
        plain = [np.asarray(x) if isinstance(x, ComplexStep) else x for x in inputs]
        result = getattr(ufunc, method)(*plain, **kwargs)
        complex_valued = np.asarray(result).dtype.kind == "c"
        return np.asarray(result).view(ComplexStep) if complex_valued else result

    def astype(self, dtype: Any, *args: Any, **kwargs: Any) -> Any:
        if np.dtype(dtype).kind != "c":
            raise TypeError(f"complex step: a cast to {np.dtype(dtype)} would lose the derivative.")
        return super().astype(dtype, *args, **kwargs)

    @property  # type: ignore[misc]
    def real(self) -> Any:
        raise TypeError("complex step: .real is not analytic; a reference may not look at it.")

    @property  # type: ignore[misc]
    def imag(self) -> Any:
        raise TypeError("complex step: .imag is not analytic; a reference may not look at it.")


def directional_derivative(
    function: Callable[..., Any], arguments: Sequence[Any], directions: Sequence[Any | None]
) -> tuple[np.ndarray, ...]:
    """J v of ``function`` at ``arguments``; a direction of None holds that argument fixed. One array per output."""
    moved = [
        x if v is None else (np.asarray(x) + 1j * STEP * np.asarray(v)).view(ComplexStep)
        for x, v in zip(arguments, directions, strict=True)
    ]
    outputs = function(*moved)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return tuple(np.asarray(np.asarray(y).imag / STEP) for y in outputs)
