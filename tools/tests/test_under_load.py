"""The tests of isolation pass on a machine that is busy, and leave no process behind there either."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from trueness.tools.tests.processes import HAS_PROC, none_left

TESTS = Path(__file__).with_name("test_user_implementations.py")
CHOSEN = (  # one test of every kind, as few workers as that takes
    "test_a_hang_is_ended_by_the_time_limit[spins]",
    "test_what_a_module_does_when_it_is_imported_is_its_verdict[hangs]",
    "test_a_slow_one_is_ended_though_it_answers",
    "test_a_worker_that_died_between_jobs_costs_the_next_job_nothing",
    "test_no_worker_outlives_who_asked[SIGINT]",
    "test_no_worker_is_started_after_an_interrupt[before]",
    "test_no_worker_is_started_after_an_interrupt[while]",
)
BUSY = """
import ctypes, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: not even a killed pytest leaves it
print("busy", flush=True)
while True:
    pass
"""


@pytest.fixture
def one_processor() -> Iterator[None]:
    """What is started meanwhile shares one processor: two busy processes load it like four on two of them."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.fixture
def busy_processes(one_processor: None) -> Iterator[list[subprocess.Popen[bytes]]]:
    with ExitStack() as stack:
        busy = []
        for _ in range(2):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE))
            stack.callback(process.kill)
            busy.append(process)
        for process in busy:
            assert process.stdout is not None and process.stdout.readline() == b"busy\n"
        yield busy


@pytest.mark.skipif(not HAS_PROC, reason="needs /proc")
def test_isolation_beside_busy_processes(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    with none_left():
        busy = request.getfixturevalue("busy_processes")
        command = [sys.executable, "-P", "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "-q"]
        command += [
            f"--basetemp={tmp_path / 'inside'}",
            "--import-mode=importlib",
            *(f"{TESTS}::{name}" for name in CHOSEN),
        ]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert all(process.poll() is None for process in busy), "the machine was not busy all the time"
        for process in busy:
            process.kill()
            process.wait()
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"^{len(CHOSEN)} passed", done.stdout, re.M), done.stdout
