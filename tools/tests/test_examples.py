"""The examples as their users run them: a run that was left off and resumed reaches the state of one that was not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from trueness.tools.tests.forked import Launcher, launcher

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "examples"
pytestmark = pytest.mark.skipif(
    not (ROOT / "pyproject.toml").is_file(), reason="installed from a wheel, which leaves the examples out"
)
SHORT = {
    "kernel_ridge": ["--splits", "1", "--features", "64"],
    "digits_diffit": ["--steps", "4", "--samples", "8"],
    "atlas_language_model": ["--steps", "4", "--letters", "1024"],
}
LIBRARIES = "import matplotlib.figure, sklearn.datasets, torch._dynamo"  # importing them is most of what a run takes


@pytest.fixture(scope="module")
def python() -> Iterator[Launcher]:
    with launcher(LIBRARIES) as found:
        yield found


def state(python: Launcher, example: str, out: Path, *more: str) -> str:
    """The hash of the final state that a short run writes; empty when it was left off."""
    done = python.run(str(HERE / f"{example}.py"), "--out", str(out), *SHORT[example], *more)
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr, done.stderr[-2000:]
    written = out / f"{example}.json"  # so short a run need not meet its lines, and then ends with 1
    return json.loads(written.read_text())["state"] if written.exists() else ""


@pytest.mark.parametrize("example", SHORT)
def test_a_run_left_off_and_resumed_reaches_the_same_state(example: str, tmp_path: Path, python: Launcher) -> None:
    whole = state(python, example, tmp_path / "whole")
    assert whole, "nothing was written"
    assert state(python, example, tmp_path / "halves", "--stop", "2") == ""
    assert state(python, example, tmp_path / "halves") == whole
