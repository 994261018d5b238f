"""Runs jobs in worker processes, with a time limit, and turns the death of a worker into a verdict.

It guards against accidents: a hang, a crash, an exit, a flood of output, exhausted memory, a left-behind process. It is
no sandbox: a malicious callable runs with the rights of whoever started it, in one process with the checks.
"""

from __future__ import annotations

import json
import os
import queue
import secrets
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trueness.tools.run.runner import Job
from trueness.tools.run.worker import EXIT_PIPE_CLOSED
from trueness.tools.spec.model import Verdict
from trueness.tools.spec.records import from_record, to_record
from trueness.tools.spec.tables import DEVICES

START_LIMIT = 600.0  # seconds for a worker's imports, on a busy machine as well
TIMEOUT_FACTOR = 10  # a user's job may take this many time limits in all
GRACE = 2.0  # seconds between asking a worker to end and killing it
FLOOD = 16 * 2**20  # bytes an implementation may print
MEMORY = int(0.75 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))  # bytes a CPU worker may allocate
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""for NumPy's matrix products, unless the caller's environment says otherwise: there is a worker for every core, and
the threads of one take the cores from the others; a complex product of 12 × 576 and 576 × 64 took 400 times as long"""
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**30)}
"""for glibc, which gives the memory of a large array back to the system when it is freed: the pages of the next one are
cleared again, which takes longer than most operations on it"""
MARK = "TRUENESS_WORKER"  # in the environment of a worker and of whatever it starts


class Gone(Exception):
    """The worker process has ended; the message says how."""


class TimedOut(Gone):
    """It was killed because it did not answer."""


class Clock:
    """The time that limits are counted in. A test replaces it by one that an event moves."""

    def now(self) -> float:
        return time.monotonic()

    def wait(self, readable: selectors.BaseSelector, seconds: float) -> list[int]:
        """The file descriptors that can be read, none if ``seconds`` pass before one can."""
        return [key.fd for key, _ in readable.select(seconds)] if seconds > 0 else []


CLOCK = Clock()


class Worker:
    """One worker process, the pipes to it, and what it printed last."""

    def __init__(self, env: Mapping[str, str], memory: int = 0) -> None:
        jobs_read, self.jobs = os.pipe()
        self.events, events_write = os.pipe()
        self.mark = secrets.token_hex(16)
        descriptors = [str(jobs_read), str(events_write)]
        try:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "trueness.tools.run.worker",
                    *descriptors,
                    str(memory),
                    str(os.getpid()),
                    json.dumps(sys.path),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(jobs_read, events_write),
                env={**ONE_THREAD, **KEEP_MEMORY, **os.environ, "PYTHONUNBUFFERED": "1", **env, MARK: self.mark},
                start_new_session=True,
            )
        except BaseException:
            os.close(self.jobs)
            os.close(self.events)
            raise
        finally:
            os.close(jobs_read)
            os.close(events_write)
        assert self.process.stdout is not None
        self.output = self.process.stdout.fileno()
        self.readable = selectors.DefaultSelector()
        for descriptor in (self.events, self.output):
            self.readable.register(descriptor, selectors.EVENT_READ)
        self.buffer, self.printed, self.tail, self.closed = b"", 0, b"", False

    def send(self, request: dict[str, Any]) -> None:
        line = (json.dumps(request) + "\n").encode()
        try:
            while line:
                line = line[os.write(self.jobs, line) :]
        except BrokenPipeError:
            raise Gone(self.exit_message()) from None

    def receive(self, limit: float) -> tuple[str, Any]:
        """The next event; TimedOut after ``limit`` seconds without one, Gone if there will be none."""
        until = CLOCK.now() + limit
        while b"\n" not in self.buffer:
            ready = CLOCK.wait(self.readable, until - CLOCK.now())
            if not ready:
                self.end(0)
                raise TimedOut(f"timed out: no answer within {limit:.3g} s")
            if self.output in ready:
                self._hear()
            if self.events in ready:
                chunk = os.read(self.events, 2**16)
                if not chunk:
                    raise Gone(self.exit_message())
                self.buffer += chunk
        line, _, self.buffer = self.buffer.partition(b"\n")
        try:
            event, content = json.loads(line)
        except ValueError:
            self.end(0)
            raise Gone("wrote into a file descriptor that is not its own") from None
        return event, content

    def _hear(self) -> None:
        """Read what was printed, keep the end of it, and stop a flood."""
        chunk = os.read(self.output, 2**16)
        if not chunk:
            self.readable.unregister(self.output)
        self.printed += len(chunk)
        self.tail = (self.tail + chunk)[-400:]
        if self.printed > FLOOD:
            self.end(0)
            raise Gone(f"printed more than {FLOOD >> 20} MiB and was stopped")

    def end(self, grace: float = GRACE) -> int | None:
        """The exit status within ``grace`` seconds, None if it had to be killed; what it started ends with it."""
        if grace and is_exiting(self.process.pid):  # what is left is not its own time
            grace = START_LIMIT
        try:
            status: int | None = self.process.wait(grace) if grace else self.process.poll()
        except subprocess.TimeoutExpired:
            status = None
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for _ in range(10):  # a process may have been started while the others were looked for
            strays = marked(self.mark)
            for pid in strays:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not strays:
                break
        return status

    def exit_message(self) -> str:
        """How the worker ended, in one sentence without its full stop."""
        status = self.end()
        os.set_blocking(self.output, False)
        with suppress(BlockingIOError, KeyError, Gone):
            while self.output in self.readable.get_map():
                self._hear()
        line = self.tail.decode(errors="replace").strip().split("\n")[-1]
        words = "".join(c if c.isprintable() else " " for c in line).strip()
        last = f"; the last line it printed was “{words[:200]}”" if words else ""
        if status is None or status == EXIT_PIPE_CLOSED:
            return "closed file descriptors that are not its own"
        if status == -signal.SIGKILL:
            return "was killed by the system (SIGKILL, most likely out of memory)"
        if status < 0:
            return f"crashed with {signal.Signals(-status).name}{last}"
        return f"ended its process with exit status {status}{last}"

    def close(self) -> None:
        """End the worker and close its pipes; may be called more than once."""
        if self.closed:
            return
        self.closed = True
        os.close(self.jobs)
        self.end()
        self.readable.close()
        os.close(self.events)
        assert self.process.stdout is not None
        self.process.stdout.close()


def is_exiting(pid: int) -> bool:
    """Whether a process has ended or is about to (the kernel's flag PF_EXITING); False where there is no /proc."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return after_name[0] in "ZX" or bool(int(after_name[6]) & 4)


def marked(mark: str) -> list[int]:
    """Processes that left their worker's group but still have its mark in their environment; none without /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


@dataclass
class Progress:
    """Callbacks for the start and the end of every job."""

    started: Callable[[Job], None] = lambda job: None
    finished: Callable[[Job, list[Verdict]], None] = lambda job, verdicts: None


@dataclass
class WorkerSlot:
    """The one worker process of a thread: reused for jobs that may share a process, replaced when it has died."""

    memory: int
    worker: Worker | None = None
    fits: Any = None
    starting: threading.Lock = field(default_factory=threading.Lock)
    stopped: bool = False

    def run(self, job: Job, limit: float) -> tuple[list[Verdict], bool]:
        """The verdicts of ``job``, and whether it timed out."""
        alone = job.user and not job.shared
        fits = (dict(job.env), job.device, (job.formula, job.implementation) if alone else ())
        if fits != self.fits:
            self.clear()
        used = self.worker is not None
        if self.worker is None:
            with self.starting:
                if self.stopped:
                    raise Gone("the run was interrupted")
                memory = self.memory if DEVICES[job.device].memory_limit else 0
                self.worker, self.fits = Worker(job.env, memory), fits
        verdicts, end = run_in(self.worker, job, limit, fresh=not used)
        if end is not None:
            self.clear()
        if end is not None and used and not verdicts:  # an earlier job broke the worker
            return self.run(job, limit)
        return verdicts, isinstance(end, TimedOut)

    def stop(self) -> None:
        """End the worker and start no other; called from another thread."""
        with self.starting:
            self.stopped = True
        if (worker := self.worker) is not None:
            worker.end(0)

    def clear(self) -> None:
        if self.worker is not None:
            self.worker.close()
        self.worker, self.fits = None, None


def run_groups(
    groups: Sequence[Sequence[Job]],
    workers: int = 2,
    limit: float = 60.0,
    progress: Progress | None = None,
    memory: int = MEMORY,
) -> list[Verdict]:
    """Run groups of jobs, each group in one process (restarted when it dies), ``workers`` of them side by side.

    limit    seconds without an answer after which an implementation has timed out
    memory   bytes that a worker on the CPU may allocate, 0 for no limit
    raises   ValueError for a request that no worker can fulfil, such as a callable that is not there
    """
    progress = progress or Progress()
    waiting: queue.Queue[Sequence[Job]] = queue.Queue()
    for group in groups:
        waiting.put(group)
    verdicts: list[Verdict] = []
    lock = threading.Lock()
    errors: list[BaseException] = []
    slots = [WorkerSlot(memory) for _ in range(min(workers, max(len(groups), 1)))]

    def serve(slot: WorkerSlot) -> None:
        try:
            while not errors:
                try:
                    group = waiting.get_nowait()
                except queue.Empty:
                    break
                slow: dict[tuple[str, str], str] = {}
                for job in group:
                    if errors:
                        break
                    progress.started(job)
                    key = (job.formula, job.implementation)
                    if key in slow:
                        found = [job.subject.verdict("value", "skip", f"not run: it timed out in {slow[key]}")]
                    else:
                        found, late = slot.run(job, limit)
                        if late and job.user:
                            slow[key] = job.dtype
                    with lock:
                        verdicts.extend(found)
                        progress.finished(job, found)
        except BaseException as error:
            errors.append(error)
        finally:
            slot.clear()

    threads = [threading.Thread(target=serve, args=(slot,), daemon=True) for slot in slots]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException as interrupt:  # Ctrl-C: the workers have sessions of their own and get no signal
        errors.insert(0, interrupt)
        for slot in slots:
            slot.stop()
        for thread in threads:
            if thread.ident is not None:
                thread.join()
    if errors:
        raise errors[0]
    return verdicts


def run_in(worker: Worker, job: Job, limit: float, fresh: bool) -> tuple[list[Verdict], Gone | None]:
    """The verdicts of one job in ``worker``, and how the worker ended if it did.

    A worker that ends before it has answered at all has no verdicts to show, unless it is fresh.
    """
    done: list[Verdict] = []
    current, case, answered, until = "", "", fresh, float("inf")
    try:
        if fresh:
            current = "starting"
            worker.receive(START_LIMIT)
        worker.send(to_record(job))
        event, content = worker.receive(START_LIMIT)  # the preparation does not count as the implementation's time
        current, answered = "", True
        if job.user:
            until = CLOCK.now() + TIMEOUT_FACTOR * limit
        while event != "done":
            if event == "check":
                current, case = content, ""
            elif event == "case":
                case = content if content.startswith("{") else ""
            elif event == "verdict":
                done.append(from_record(Verdict, content))
            elif event == "refused":
                raise ValueError(content)
            if CLOCK.now() > until:
                worker.end(0)
                raise TimedOut(f"timed out: not done after {TIMEOUT_FACTOR * limit:.3g} s")
            event, content = worker.receive(limit)
        return [from_record(Verdict, v) for v in content], None
    except Gone as end:
        if not answered:
            return [], end
        where = {"starting": "before its worker process was ready", "": "while it was being loaded"}
        message = f"{end}, {where.get(current, f'in the check “{current}”')}."
        check = current if current not in where else "value"
        again = job.subject.reproduction(check, case, limit) if job.user else ""
        return [*done, job.subject.verdict(check, "fail", message, case=case, reproduction=again)], end
