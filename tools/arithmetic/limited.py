"""Arithmetic of limited range: what the same equation gives where numbers beyond the largest overflow, or underflow.

A NumPy function is evaluated in float64, but every result beyond ``largest`` becomes ±∞, and every operand below
``tiny`` becomes 0. Nothing is rounded: it shows what a format's range does to an equation, not its digits.

With ``mark`` an overflow becomes NaN, which goes through all that uses it. A sum or a product of matrices is then
an overflow as soon as the sum of the absolute values is one, for it may be summed in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from trueness.tools.arithmetic.base import Arithmetic, is_inexact, wide
from trueness.tools.arithmetic.bounds import outputs


@dataclass(frozen=True)
class Range:
    """Which numbers there are.

    largest   the largest finite number
    tiny      the smallest number that is not flushed to 0
    mark      overflow is NaN
    products  the largest finite number among operands and results of matrix products, which kernels store in a format
    empty     −∞ − (−∞) is −∞ and 0/0 is 0: a softmax over logits that are all −∞ has weights of 0
    """

    largest: float = np.inf
    tiny: float = 0.0
    mark: bool = False
    products: float = np.inf
    empty: bool = False

    def flushed(self, plain: np.ndarray) -> np.ndarray:
        return np.where(np.abs(plain) < self.tiny, np.copysign(0.0, plain), plain) if self.tiny else plain

    def stored(self) -> Range:
        """The range of an operand or a result of a matrix product."""
        return replace(self, largest=min(self.largest, self.products))

    def capped(self, plain: np.ndarray, magnitude: np.ndarray) -> np.ndarray:
        """``plain`` with overflows; ``magnitude`` is |plain|, or the sum of absolute values it is the sum of."""
        if not np.isfinite(self.largest):
            return plain
        if self.mark:
            return np.where((magnitude > self.largest) & np.isfinite(magnitude), np.nan, plain)
        return np.where(np.abs(plain) > self.largest, np.copysign(np.inf, plain), plain)


class Limited(Arithmetic):
    """An array whose operations overflow and underflow as ``range`` says."""

    called = "arithmetic of limited range"
    range: Range = Range()

    def __array_finalize__(self, parent: Any) -> None:
        if isinstance(parent, Limited):
            self.range = parent.range

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        self.refuse_writing(ufunc, method, kwargs)
        limits = _range_of(inputs)
        plain = [_flushed(x, limits) for x in inputs]
        kept = limits
        if ufunc.__name__ == "matmul" and np.isfinite(limits.products):
            kept = limits.stored()
            plain = [kept.capped(x, np.abs(x)) for x in plain]
        result = getattr(ufunc, method)(*plain, **kwargs)
        if limits.empty and method == "__call__" and len(plain) == 2:
            result = _emptied(ufunc, plain[0], plain[1], result)
        magnitude = None
        sums = ufunc.__name__ in ("matmul", "vecdot") or (ufunc.__name__ == "add" and method != "__call__")
        if limits.mark and sums:
            magnitude = getattr(ufunc, method)(*[np.abs(x) for x in plain], **kwargs)
        return _wrap(result, limits, magnitude, kept)

    def kept(self, result: Any, inputs: Any) -> Any:
        return _wrap(result, _range_of(inputs))

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        limits = _range_of([*args, *kwargs.values()])
        if func.__module__ == "numpy.linalg":
            return _wrap(func(*[np.asarray(x) if isinstance(x, Limited) else x for x in args], **kwargs), limits)
        return _wrap(super().__array_function__(func, types, args, kwargs), limits)


def _emptied(ufunc: np.ufunc, a: np.ndarray, b: np.ndarray, result: Any) -> Any:
    """The result of a subtraction or a division, as a softmax without weights has it."""
    if ufunc.__name__ in ("subtract", "sub"):
        return np.where(np.isneginf(a) & np.isneginf(b), -np.inf, result)
    return np.where((a == 0) & (b == 0), 0.0, result) if ufunc.__name__ in ("divide", "div") else result


def _range_of(inputs: Sequence[Any]) -> Range:
    flat = [y for x in inputs for y in (x if isinstance(x, (list, tuple)) else [x])]
    return next(x.range for x in flat if isinstance(x, Limited))


def _flushed(operand: Any, limits: Range) -> Any:
    plain = np.asarray(operand)
    return limits.flushed(plain) if plain.dtype.kind == "f" else plain


def _wrap(result: Any, limits: Range, magnitude: Any = None, kept: Range | None = None) -> Any:
    """``result`` with overflows, in the range ``kept`` if one is given, as an array of range ``limits``."""
    if isinstance(result, tuple):
        made = [_wrap(r, limits) for r in result]
        return type(result)(*made) if hasattr(result, "_fields") else tuple(made)
    plain = np.asarray(result)
    if plain.dtype.kind == "c":
        return plain.view(Limited)
    if plain.dtype != np.float64:
        return plain if isinstance(result, np.ndarray) else result
    return limited((kept or limits).capped(plain, np.abs(plain if magnitude is None else magnitude)), limits)


def limited(values: Any, limits: Range) -> Limited:
    """``values`` (float64) as an array whose operations overflow and underflow as ``limits`` says."""
    array = wide(values).view(Limited)
    array.range = limits
    return array


def evaluate(function: Callable[..., Any], arguments: Sequence[Any], limits: Range) -> tuple[np.ndarray, ...]:
    """The outputs of ``function`` in this range; without limits they are those of plain float64."""
    free = limits == Range()
    moved = arguments if free else [limited(x, limits) if is_inexact(x) else x for x in arguments]
    with np.errstate(all="ignore"):
        found = outputs(function(*moved))
        return tuple(limits.flushed(np.asarray(y)) for y in found)
