"""A Python of its own in which Triton kernels are interpreted: TRITON_INTERPRET counts when Triton is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def interpreted(script: str, *arguments: str) -> str:
    """What a program prints; a failing one fails the test with all that it printed. ``script`` is its text."""
    return _ran("-c", script, *arguments)


def printed(name: str, *arguments: str) -> list[str]:
    """The lines that a program of ``properties`` prints, likewise."""
    return _ran(str(Path(__file__).parents[1] / name), *arguments).splitlines()


def _ran(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-P", *arguments],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
