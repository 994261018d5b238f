"""The Triton kernels of windowed attention: 64 tokens, global attention in blocks of keys, a head in two parts, breaks.

What `verify` draws are small windows: every program here has more tokens than 16, or more than one part.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed: pip install triton")

HERE = Path(__file__).with_name("_attention_interpreted.py")
# every line is one problem: what the kernels say, and their gradients, must be within the instrument's limit
RIGHT = (
    "float32 window 8 width 16",  # blocks of keys forward; rows of 16 queries and keys backward
    "bfloat16 window 8 width 16",  # a whole row of scores forward; rows of 32 backward
    "float32 window 9 width 16",  # global attention: three blocks of keys, the last with 17 of 32
    "float32 window 4 width 72",  # 64 channels and 8 of 16
)
WRONG = ("a channel lost", "half of the tokens")


def judged(*problems: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-P", str(HERE), *problems],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_large_windows_global_attention_and_heads_in_two_parts_are_right() -> None:
    assert judged(*RIGHT) == [f"{name}: right" for name in RIGHT]


def test_broken_kernels_are_rejected() -> None:
    assert judged(*WRONG) == [f"{name}: wrong" for name in WRONG]
