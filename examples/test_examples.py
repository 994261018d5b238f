"""The examples as their users run them: a run that was left off and resumed reaches the state of one that was not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
SHORT = {
    "kernel_ridge": ["--splits", "1"],
    "digits_diffit": ["--steps", "6", "--samples", "8"],
    "atlas_language_model": ["--steps", "6"],
}


def state(example: str, out: Path, *more: str) -> str:
    """The hash of the final state that a short run writes; empty when it was left off."""
    command = [sys.executable, str(HERE / f"{example}.py"), "--out", str(out), *SHORT[example], *more]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr[-2000:]  # so short a run need not meet its lines
    written = out / f"{example}.json"
    return json.loads(written.read_text())["state"] if written.exists() else ""


@pytest.mark.parametrize("example", SHORT)
def test_a_run_left_off_and_resumed_reaches_the_same_state(example: str, tmp_path: Path) -> None:
    whole = state(example, tmp_path / "whole")
    assert state(example, tmp_path / "halves", "--stop", "3") == ""
    assert state(example, tmp_path / "halves") == whole
