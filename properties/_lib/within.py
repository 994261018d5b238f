"""The error of a float64 result in units of the derived bound, for laws and evidence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from trueness.tools.arithmetic.bounds import LIMITS, Bound, bounds
from trueness.tools.arithmetic.formats import precision

F64 = precision("float64")


def allowed_error(function: Callable[..., Any], *arguments: Any, reduction: int = 1) -> np.ndarray:
    """3 B, the largest error of a float64 evaluation of ``function`` that is accepted, element by element."""
    return LIMITS["eager"] * bound(function, *arguments, reduction=reduction).B  # type: ignore[no-any-return]


def error_ratio(out: Any, function: Callable[..., Any], *arguments: Any, reduction: int = 1) -> float:
    """T = max |out − y|/B, y the result of ``function`` in float64 and B the bound on its rounding errors"""
    ratio = bound(function, *arguments, reduction=reduction).ratio(np.asarray(out))
    return float(ratio.max(initial=0))


def assert_within(out: Any, function: Callable[..., Any], *arguments: Any, reduction: int = 1) -> None:
    """``out`` is ``function`` of the arguments, up to the rounding errors of an evaluation in float64."""
    ratio = error_ratio(out, function, *arguments, reduction=reduction)
    assert ratio <= LIMITS["eager"], f"T = {ratio}"


def bound(function: Callable[..., Any], *arguments: Any, reduction: int = 1) -> Bound:
    """The float64 bound of the first output of ``function``."""
    units = [F64.u if np.asarray(a).dtype.kind == "f" else 0.0 for a in arguments]
    with np.errstate(all="ignore"):
        return bounds(function, arguments, units, F64, reduction)[0]
