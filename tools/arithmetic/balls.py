"""Ball arithmetic: a rigorous enclosure of the true value of a NumPy function (Johansson 2017, Arb).

The same text runs on object arrays of ``flint.arb``. Two runs of it certify a float64 reference:

    truth      at 256 bits: a ball so small that |float64 − truth| is the reference's real error
    enclosure  at 53 bits, each result widened by the unit roundoff of float64 (two for elementary functions):
               holds the true value and whatever a float64 evaluation may return

maximum, minimum and clip act on whole balls; a comparison that a ball's width leaves open is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from flint import arb, ctx

from trueness.tools.arithmetic.base import Arithmetic, is_inexact

ROUNDING = frozenset("add subtract multiply divide sqrt square reciprocal matmul".split())
EXACT = frozenset("negative positive maximum minimum".split())
COMPARISONS = frozenset("greater greater_equal less less_equal equal not_equal".split())


class Ball(Arithmetic):
    """An object array of arb; ``widen`` is the relative error added after each rounded operation."""

    called = "ball arithmetic"
    widen: float = 0.0

    def __array_finalize__(self, parent: Any) -> None:
        self.widen = getattr(parent, "widen", 0.0)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        self.refuse_writing(ufunc, method, kwargs)
        name = ufunc.__name__
        if name == "clip":
            return np.minimum(np.maximum(inputs[0], inputs[1]), inputs[2])
        plain = [balls(x) for x in inputs]
        if name in COMPARISONS:
            return objects(np.frompyfunc(_decided(ufunc), 2, 1)(*plain)).astype(bool)
        if name in ("maximum", "minimum"):
            chosen = np.frompyfunc(arb.max if name == "maximum" else arb.min, 2, 1)
            result = one_axis_at_a_time(chosen, plain[0], **kwargs) if method == "reduce" else chosen(*plain)
        else:
            result = getattr(ufunc, method)(*plain, **kwargs)
        steps = {"reduce": plain[0].size, "accumulate": plain[0].size}.get(method, 1)
        steps *= plain[0].shape[-1] * 2 if name == "matmul" else 1
        growth = 0.0 if name in EXACT else self.widen * steps * (1 if name in ROUNDING else 2)
        return wrap(result, self.widen, growth, plain if name in ("add", "subtract", "matmul") and steps > 1 else ())

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        result = super().__array_function__(func, types, args, kwargs)
        return wrap(result, self.widen, 0.0, ()) if np.asarray(result).dtype == object else result


def one_axis_at_a_time(
    chosen: Any, result: Any, axis: Any = 0, dtype: Any = None, keepdims: bool = False, where: Any = True
) -> Any:
    """A reduction that NumPy does not know to be reorderable."""
    if where is not True:
        raise TypeError("ball arithmetic: a reference may not use where= in a maximum or minimum.")
    axes = range(result.ndim) if axis is None else np.atleast_1d(axis) % result.ndim
    for k in sorted(axes, reverse=True):
        result = chosen.reduce(result, axis=k, keepdims=keepdims)
    return result


def _decided(ufunc: np.ufunc) -> Callable[[Any, Any], bool]:
    def compare(a: arb, b: arb) -> bool:
        if a.overlaps(b) and not (a.is_exact() and b.is_exact()):
            raise ArithmeticError(f"ball arithmetic: {a} and {b} overlap, so np.{ufunc.__name__} cannot be decided.")
        return bool(ufunc(a, b))

    return compare


def balls(values: Any) -> np.ndarray:
    """``values`` as a plain object array of exact balls (what already is a ball stays one)."""
    plain = np.asarray(values)
    if plain.dtype.kind not in "fO":
        return plain
    return objects(np.frompyfunc(lambda x: x if isinstance(x, arb) else arb(float(x)), 1, 1)(plain.astype(object)))


def objects(result: Any) -> np.ndarray:
    """NumPy returns a bare arb for zero dimensions; here it is an array of zero dimensions."""
    return result if isinstance(result, np.ndarray) else np.array(result, dtype=object)


def wrap(result: Any, widen: float, growth: float, terms: Sequence[np.ndarray]) -> Ball:
    array = np.array(result, dtype=object)
    if growth:
        # a sum's rounding error scales with its terms, not with what is left after they cancel
        scale = max((abs(x) for t in terms for x in np.ravel(t)), default=arb(0), key=float)
        extra = scale * len(np.ravel(terms[0])) if len(terms) else arb(0)
        array = np.frompyfunc(lambda x: x + arb(0, growth * float((abs(x) + extra).upper())), 1, 1)(array)
    ball = objects(array).view(Ball)
    ball.widen = widen
    return ball


@contextmanager
def working_precision(bits: int) -> Iterator[None]:
    before, ctx.prec = ctx.prec, bits
    try:
        yield
    finally:
        ctx.prec = before


def enclose(function: Callable[..., Any], arguments: Sequence[Any], *, bits: int, widen: float = 0.0) -> list[Any]:
    """Every output of ``function`` as an array of arb; integers and strings are passed as they are."""
    with working_precision(bits):
        moved = [wrap(balls(x), widen, 0.0, ()) if is_inexact(x) else x for x in arguments]
        outputs = function(*moved)
        return [balls(y) for y in (outputs if isinstance(outputs, tuple) else (outputs,))]
