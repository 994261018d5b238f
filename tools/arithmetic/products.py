"""The arithmetic of a fused kernel in a half format: float32 inside, only the operands of products stored.

Tensor cores take products of half-format matrices and add them in float32. So what was computed, such as the
probabilities of an attention, may be rounded before it is multiplied, and the result is rounded once at the end; sums
and everything between are as good as exact. The arguments are half-format numbers already.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from trueness.tools.arithmetic.base import wide
from trueness.tools.arithmetic.noise import Noise
from trueness.tools.arithmetic.stochastic import Roundoff, Stochastic, coarsest, perturbed, wrap

MOVES = frozenset("broadcast_to expand_dims flip moveaxis reshape rollaxis squeeze swapaxes transpose".split())


class Products(Stochastic):
    """An array that is perturbed only as an operand of a product (``@``), and only if it was computed."""

    called = "the arithmetic of products"
    given = False

    def __array_finalize__(self, parent: Any) -> None:
        super().__array_finalize__(parent)
        if isinstance(parent, Products):  # a view; what an operation returns comes from a plain array
            self.given = parent.given

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        self.refuse_writing(ufunc, method, kwargs)
        like = coarsest(inputs)
        stored = ufunc.__name__ == "matmul"
        plain = [
            perturbed(x, like.roundoff) if stored and not getattr(x, "given", False) else np.asarray(x) for x in inputs
        ]
        return wrap(getattr(ufunc, method)(*plain, **kwargs), like)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        result = super().__array_function__(func, types, args, kwargs)
        if func.__name__ in MOVES and args and isinstance(result, Products):
            result.given = getattr(args[0], "given", False)
        return result

    def kept(self, result: Any, inputs: Any) -> Any:
        found = super().kept(result, inputs)
        given = all(getattr(x, "given", True) for x in inputs)
        for part in found if isinstance(found, tuple) else (found,):
            if isinstance(part, Products):
                part.given = given
        return found

    def stable(self) -> np.ndarray:
        """A decomposition in float32 is as good as exact."""
        return np.asarray(self)


def products(values: Any, u: float, eta: float, noise: Noise) -> Products:
    """``values`` (float64) as an argument whose products are perturbed by ``noise``."""
    array = wide(values).view(Products)
    array.roundoff, array.given = Roundoff(u, eta, noise), True
    return array
