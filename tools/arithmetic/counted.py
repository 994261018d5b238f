"""Arithmetic that only counts: what an evaluation would read, before much of it is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from trueness.tools.arithmetic.noise import Counter, TooCostly
from trueness.tools.arithmetic.stochastic import Stochastic, coarsest, stochastic


class Counted(Stochastic):
    """An array that counts what its operations read, and refuses one whose result alone is beyond the budget."""

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        noise = coarsest(inputs).roundoff.noise
        if method == "__call__" and isinstance(noise, Counter) and result_size(ufunc, inputs) > noise.budget:
            raise TooCostly
        return super().__array_ufunc__(ufunc, method, *inputs, **kwargs)


def result_size(ufunc: np.ufunc, inputs: Sequence[Any]) -> int:
    """How many elements the result has; 0 where that is not told by the shapes alone."""
    shapes = [np.shape(x) for x in inputs]
    try:
        if ufunc.signature is None:
            return math.prod(np.broadcast_shapes(*shapes))
        if ufunc is np.matmul and min(map(len, shapes)) > 1:
            return math.prod(np.broadcast_shapes(*(s[:-2] for s in shapes))) * shapes[0][-2] * shapes[1][-1]
    except ValueError:  # the operation itself says so
        pass
    return 0


def with_count(values: Any, counter: Counter) -> Counted:
    """``values`` (float64) as an array whose operations are counted."""
    return stochastic(values, 2.0**-24, 0.0, counter).view(Counted)
