"""Run programs in a new Python process with TRITON_INTERPRET=1, which Triton reads when it is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SPEED_UP = "from trueness.tools.triton.interpreter import speed_up; speed_up()"


def interpreted(script: str, *arguments: str) -> str:
    """The output of the program text ``script``; if it fails, so does the test, and shows the output."""
    return _ran("-c", f"{SPEED_UP}\n{script}", *arguments)


def printed(name: str, *arguments: str) -> list[str]:
    """The output of a file of ``properties``, line by line."""
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
