"""Integers in stochastic arithmetic: exact, until they become floating-point numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from trueness.tools.arithmetic.noise import Counter, Noise
from trueness.tools.arithmetic.stochastic import EXACT, Roundoff, Stochastic


class Whole(np.ndarray):
    """An array of integers whose operations are exact, unless they make floating-point numbers: these round."""

    roundoff: Roundoff = EXACT

    def __array_finalize__(self, parent: Any) -> None:
        self.roundoff = getattr(parent, "roundoff", EXACT)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        plain = [x.view(np.ndarray) if isinstance(x, Whole) else x for x in inputs]
        found = getattr(ufunc, method)(*plain, **kwargs)
        kind = found.dtype.kind if type(found) in (np.ndarray, np.float64, np.int64) else ""
        if kind not in ("f", "i"):
            return found
        kept: type[Stochastic | Whole] = Stochastic if kind == "f" else Whole
        array: Any = np.asarray(found).view(kept)
        array.roundoff = self.roundoff
        return array


def whole(values: np.ndarray, noise: Noise | Counter) -> Whole:
    """``values`` (integers) as an array whose first floating-point results are perturbed as those of float64."""
    array = np.array(values).view(Whole)
    array.roundoff = Roundoff(2.0**-53, 0.0, noise)
    return array


def is_integer(x: Any) -> bool:
    """Whether an argument is an array of integers; a Python number decides about lengths and stays one."""
    return isinstance(x, np.ndarray) and x.dtype.kind == "i"
