"""Every family's Triton kernels on more than 2³¹ elements, interpreted, and copies of them with 32-bit offsets."""

from __future__ import annotations

import pytest

from trueness.properties._lib.far_interpreted import PROBLEMS
from trueness.properties._lib.interpreted import printed

pytest.importorskip("triton", reason="triton is not installed: pip install triton")


def test_the_last_of_more_than_two_to_the_31_elements_equals_a_call_on_it_alone() -> None:
    assert printed("_lib/far_interpreted.py") == [f"{name}: right" for name in PROBLEMS]


def test_offsets_of_32_bits_are_rejected() -> None:
    assert printed("_lib/far_interpreted.py", "--narrow") == [f"{name}: wrong" for name in PROBLEMS]
