"""What the law tests of the family metrics share."""

from __future__ import annotations

from functools import partial

from hypothesis import strategies as st

from trueness.optimized import metrics as fast
from trueness.properties._lib import laws, within
from trueness.properties.metrics import FORMULAS
from trueness.reference import metrics as true

seeds = st.integers(0, 2**16)
given = partial(laws.given, 20)
bound, assert_law = partial(within.bound, reduction=64), partial(laws.assert_law, reduction=64)

VERSIONS = laws.Versions(true, fast, FORMULAS)
flat, ours, both = VERSIONS.reference, VERSIONS.ours, VERSIONS.both
