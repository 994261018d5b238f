"""The Triton kernels of the Omega rule: half formats, batches, long windows, torch's checks, and what a break costs."""

from __future__ import annotations

import pytest

from trueness.properties._lib.interpreted import printed

pytest.importorskip("triton", reason="triton is not installed: pip install triton")

# every line is one program: what the kernel says must be within the instrument's limit, or be rejected
RIGHT = (
    "float32 window 5 chunks 2 batch 2",
    "bfloat16 window 2 chunks 2 batch 1",
    "float16 window 2 exact batch 1",
    "float32 window 2 exact batch 2",
    "float32 window 2 chunks 2 batch 1 features 192",
    "float32 window 2 exact batch 1 features 256",
    "bfloat16 window 1 dot chunks 2 batch 1 features 192",
    "float16 window 2 chunks 4 batch 1 features 256",
    "float32 window 3 chunks 2 batch 2 decoder",
    "bfloat16 window 2 exact batch 1 features 192 decoder",
    "float16 window 1 dot chunks 2 batch 1 decoder",
    "opcheck",
)
WRONG = (
    "without halo",
    "halo's gradient lost",
    "momentum added",
    "no residual",
    "from an empty state",
    "one block of features updated",
    "one block of features in the gradient",
    "one block of features multiplied",
    "decoder that forgets its window",
    "decoder without residual",
)


def test_kernels_are_right_in_every_format_for_batches_and_for_windows_longer_than_a_chunk() -> None:
    assert printed("atlas_memory/interpreted.py", *RIGHT) == [f"{name}: right" for name in RIGHT]


def test_broken_kernels_are_rejected() -> None:
    assert printed("atlas_memory/interpreted.py", *WRONG) == [f"{name}: wrong" for name in WRONG]
