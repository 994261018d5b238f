"""Which processes a test has started, and whether one of them outlives it. Without /proc nothing is seen."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

HAS_PROC = os.path.isdir("/proc/self")
SET_SUBREAPER, GET_SUBREAPER = 36, 37  # of prctl: orphans become children of this process and so are still seen
EXITING = 4  # PF_EXITING among the flags of /proc/PID/stat
FOREVER = 3600.0  # seconds; for a wait that only ends in time if the program is right, however busy the machine is


@dataclass(frozen=True)
class Process:
    """One entry of /proc. A process is known by its number and the time it was started at."""

    pid: int
    parent: int
    started: int
    ends: bool
    command: str

    @classmethod
    def read(cls, pid: int) -> Process:
        """Raises OSError when there is no such process."""
        folder = Path(f"/proc/{pid}")
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        ends = fields[0] in "ZX" or bool(int(fields[6]) & EXITING) or _killed((folder / "status").read_text())
        command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        return cls(pid, int(fields[1]), int(fields[19]), ends, command)


def _killed(status: str) -> bool:
    """Whether SIGKILL has been sent already: such a process ends as soon as it gets a processor."""
    pending = [line.split()[1] for line in status.splitlines() if line.startswith(("SigPnd", "ShdPnd"))]
    return any(int(mask, 16) >> (signal.SIGKILL - 1) & 1 for mask in pending)


def descendants(pid: int) -> dict[tuple[int, int], Process]:
    """The children of a process, their children and so on, by number and starting time."""
    children: dict[int, list[Process]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            process = Process.read(int(entry.name))
            children.setdefault(process.parent, []).append(process)
    found, parents = {}, [pid]
    while parents:
        for process in children.get(parents.pop(), []):
            found[process.pid, process.started] = process
            parents.append(process.pid)
    return found


def running(before: set[tuple[int, int]]) -> list[Process]:
    """The descendants of this process that are neither among ``before`` nor ending; those that end are awaited."""
    left = [process for key, process in descendants(os.getpid()).items() if key not in before]
    for process in left:
        if process.ends:
            wait_for_end(process.pid)
            with suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)  # an orphan that came to us
    return [process for process in left if not process.ends]


def wait_for_end(pid: int) -> None:
    """Return when the process has ended, at once when there is none."""
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            select.select([descriptor], [], [])
        finally:
            os.close(descriptor)


def wait_until(condition: Callable[[], bool], *, alive: Callable[[], bool] = lambda: True) -> None:
    """Wait for an event that another process causes; AssertionError when that process ends without causing it."""
    while not condition():
        still = alive()
        if condition():
            return
        assert still, "the process ended before the event"
        time.sleep(0.01)


@contextmanager
def none_left() -> Iterator[Callable[[], list[Process]]]:
    """Fail when something started inside is still running at the end; a call of the value says what is running now."""
    if not HAS_PROC:
        yield lambda: []
        return
    before = set(descendants(os.getpid()))
    libc, former = ctypes.CDLL(None), ctypes.c_int()
    libc.prctl(GET_SUBREAPER, ctypes.byref(former), 0, 0, 0)
    libc.prctl(SET_SUBREAPER, 1, 0, 0, 0)
    try:
        yield lambda: running(before)
    finally:
        libc.prctl(SET_SUBREAPER, former.value, 0, 0, 0)
        left = running(before)
        for process in left:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
    assert not left, f"left running: {', '.join(f'{process.pid} ({process.command[:60]})' for process in left)}"
