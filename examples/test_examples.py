"""The examples as their users run them: a run that was left off and resumed reaches the state of one that was not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
SHORT = {
    "kernel_ridge": ["--splits", "1", "--features", "64"],
    "digits_diffit": ["--steps", "4", "--samples", "8"],
    "atlas_language_model": ["--steps", "4", "--letters", "1024"],
}
LAUNCHER = """
import json, multiprocessing, os, runpy, sys
import matplotlib.figure, sklearn.datasets, torch._dynamo  # most of what a run takes

def program(line, said):
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.dup2(2, 1)
    sys.argv, sys.path[0] = line, os.path.dirname(line[0])
    runpy.run_path(line[0], run_name="__main__")

for request in sys.stdin:
    process = multiprocessing.get_context("fork").Process(target=program, args=json.loads(request))
    process.start()
    process.join()
    print(process.exitcode, flush=True)
"""
"""Runs one program after the other, each in a process of its own that has nothing in it but imported libraries."""

Launch = Callable[..., int]


@pytest.fixture(scope="module")
def launch() -> Iterator[Launch]:
    """``launch(said, *line)`` runs a Python program and returns its exit status; it speaks into ``said``."""
    command = [sys.executable, "-c", LAUNCHER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdin is not None and launcher.stdout is not None
        requests, statuses = launcher.stdin, launcher.stdout

        def launch(said: Path, *line: str) -> int:
            requests.write(json.dumps([line, str(said)]) + "\n")
            requests.flush()
            return int(statuses.readline())

        yield launch


def state(launch: Launch, example: str, out: Path, *more: str) -> str:
    """The hash of the final state that a short run writes; empty when it was left off."""
    out.mkdir(exist_ok=True)
    said = out / "said.txt"
    status = launch(said, str(HERE / f"{example}.py"), "--out", str(out), *SHORT[example], *more)
    assert status in (0, 1) and "Traceback" not in said.read_text(), said.read_text()[-2000:]
    written = out / f"{example}.json"  # so short a run need not meet its lines, and then ends with 1
    return json.loads(written.read_text())["state"] if written.exists() else ""


@pytest.mark.parametrize("example", SHORT)
def test_a_run_left_off_and_resumed_reaches_the_same_state(example: str, tmp_path: Path, launch: Launch) -> None:
    whole = state(launch, example, tmp_path / "whole")
    assert whole, "nothing was written"
    assert state(launch, example, tmp_path / "halves", "--stop", "2") == ""
    assert state(launch, example, tmp_path / "halves") == whole
