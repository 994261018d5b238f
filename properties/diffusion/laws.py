"""What the law tests of the family diffusion share: the two rooms side by side, and the bound of a law."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from trueness.optimized import diffusion as fast
from trueness.properties.diffusion import draws
from trueness.reference import diffusion as true
from trueness.tools.arithmetic.bounds import LIMITS, Bound, bounds
from trueness.tools.arithmetic.formats import precision
from trueness.tools.checks.core import settings_for

F64 = precision("float64")
DIGITS, EXAMPLES = 40, 20
LINEAR = true.linear_betas(1000, 1e-4, 0.02)
COSINE = true.cosine_betas(1000, 0.008, 0.999)
schedules = st.builds(draws.betas, steps=st.integers(1, 100), schedule=st.sampled_from(("linear", "cosine")))
seeds = st.integers(0, 2**16)


def given(**strategies: Any) -> Callable[[Any], Any]:
    """As everywhere in the project: derandomized, without a clock."""
    return lambda law: settings_for(EXAMPLES)(hypothesis.given(**strategies)(law))


def ours(name: str) -> Callable[..., Any]:
    """The optimized function on NumPy arrays."""

    def call(*arguments: Any) -> Any:
        natives = [torch.from_numpy(np.array(a)) if isinstance(a, np.ndarray) else a for a in arguments]
        result = getattr(fast, name)(*natives)
        return tuple(y.numpy() for y in result) if isinstance(result, tuple) else result.numpy()

    return call


def both(name: str) -> Any:
    pair = [getattr(true, name), ours(name)]
    return pytest.mark.parametrize("function", pair, ids=["reference", "ours"])


def bound(function: Callable[..., Any], *arguments: Any, reduction: int = 1) -> Bound:
    """The float64 bound of the first output."""
    units = [F64.u if np.asarray(a).dtype.kind == "f" else 0.0 for a in arguments]
    with np.errstate(all="ignore"):
        return bounds(function, arguments, units, F64, reduction)[0]


def assert_is(want: Any, out: Any, law: Callable[..., Any], *arguments: Any, reduction: int = 1) -> None:
    """``out`` is ``want`` to within what rounding does to ``law(*arguments)``."""
    allowed = LIMITS["eager"] * bound(law, *arguments, reduction=reduction).B
    assert (np.abs(np.asarray(out) - want) <= allowed).all()


def every(table: np.ndarray) -> np.ndarray:
    return np.arange(len(table))


def assert_prints(text: str, out: float, B: float) -> None:
    """``out`` is the printed number to half a unit of its last digit; a whole number is exact."""
    number = Decimal(text)
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)
    half = float(Decimal(5).scaleb(exponent - 1)) if "." in text else 0.0
    assert abs(out - float(number)) <= half + LIMITS["eager"] * B, (text, out)
