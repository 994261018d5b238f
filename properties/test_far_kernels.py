"""Every family's Triton kernels on more than 2³¹ elements, interpreted; and what offsets of 32 bits would do there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trueness.properties._far_interpreted import PROBLEMS

pytest.importorskip("triton", reason="triton is not installed: pip install triton")

HERE = Path(__file__).with_name("_far_interpreted.py")


def judged(*arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-P", str(HERE), *arguments],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_the_last_of_more_than_two_to_the_31_elements_is_what_it_is_alone() -> None:
    assert judged() == [f"{name}: right" for name in PROBLEMS]


def test_offsets_of_32_bits_are_rejected() -> None:
    assert judged("--narrow") == [f"{name}: wrong" for name in PROBLEMS]
