"""What the law tests of the family diffusion share."""

from __future__ import annotations

from decimal import Decimal
from functools import partial

import numpy as np
from hypothesis import strategies as st

from trueness.optimized import diffusion as fast
from trueness.properties._lib import laws
from trueness.properties.diffusion import FORMULAS, draws
from trueness.reference import diffusion as true
from trueness.tools.arithmetic.bounds import LIMITS

DIGITS = 40
LINEAR = true.linear_betas(1000)
COSINE = true.cosine_betas(1000)
schedules = st.builds(draws.betas, steps=st.integers(1, 100), schedule=st.sampled_from(("linear", "cosine")))
seeds = st.integers(0, 2**16)
given = partial(laws.given, 20)

VERSIONS = laws.Versions(true, fast, FORMULAS)
flat, ours, both, each = VERSIONS.reference, VERSIONS.ours, VERSIONS.both, VERSIONS.each


def every(table: np.ndarray) -> np.ndarray:
    return np.arange(len(table))


def assert_prints(text: str, out: float, B: float) -> None:
    """``out`` is the printed number to half a unit of its last digit; a whole number is exact."""
    number = Decimal(text)
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)
    half = float(Decimal(5).scaleb(exponent - 1)) if "." in text else 0.0
    assert abs(out - float(number)) <= half + LIMITS["eager"] * B, (text, out)
