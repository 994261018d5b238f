"""Runs jobs in worker processes, with a time limit, and turns the death of a worker into a verdict."""

from __future__ import annotations

import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trueness.tools.nouns import Verdict
from trueness.tools.runner import Job

START_LIMIT = 120.0  # seconds for a worker's imports
FLOOD = 16 * 2**20  # bytes an implementation may print


class Gone(Exception):
    """The worker is no more; the message says how it ended."""


class Worker:
    """One worker process and the three pipes to it."""

    def __init__(self, env: Mapping[str, str], limit: float) -> None:
        jobs_read, jobs_write = os.pipe()
        events_read, events_write = os.pipe()
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **env}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "trueness.tools.worker", str(jobs_read), str(events_write)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(jobs_read, events_write),
            env=environment,
            start_new_session=True,
        )
        os.close(jobs_read)
        os.close(events_write)
        self.jobs, self.events, self.limit = os.fdopen(jobs_write, "w"), events_read, limit
        self.buffer, self.printed, self.tail = b"", 0, b""
        threading.Thread(target=self._drain, daemon=True).start()

    def _drain(self) -> None:
        """Read what the implementation prints, keep the end of it, and stop a flood."""
        assert self.process.stdout is not None
        while chunk := self.process.stdout.read1(2**16):  # type: ignore[attr-defined]
            self.printed += len(chunk)
            self.tail = (self.tail + chunk)[-2000:]
            if self.printed > FLOOD:
                self.kill()

    def kill(self) -> None:
        """End the worker and whatever it started."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def close(self) -> None:
        self.jobs.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()
            self.process.wait()
        os.close(self.events)

    def send(self, request: dict[str, Any]) -> None:
        try:
            self.jobs.write(json.dumps(request) + "\n")
            self.jobs.flush()
        except BrokenPipeError:
            raise Gone(self.epitaph()) from None

    def receive(self, limit: float) -> tuple[str, Any]:
        """The next event; Gone after ``limit`` seconds without one."""
        deadline = time.monotonic() + limit
        while b"\n" not in self.buffer:
            ready, _, _ = select.select([self.events], [], [], max(deadline - time.monotonic(), 0))
            if not ready:
                self.kill()
                self.process.wait()
                raise Gone(self.epitaph() if self.printed > FLOOD else f"timed out: no answer within {limit:g} s.")
            chunk = os.read(self.events, 2**16)
            if not chunk:
                raise Gone(self.epitaph())
            self.buffer += chunk
        line, _, self.buffer = self.buffer.partition(b"\n")
        event, content = json.loads(line)
        return event, content

    def epitaph(self) -> str:
        """How the worker ended, in one sentence."""
        status = self.process.wait()
        if self.printed > FLOOD:
            return f"printed more than {FLOOD >> 20} MiB and was stopped."
        if status == -signal.SIGKILL:
            return "was killed by the system (SIGKILL, most likely out of memory)."
        if status < 0:
            return f"crashed with {signal.Signals(-status).name}."
        return f"ended the process with status {status} (os._exit)."


@dataclass
class Progress:
    """What the caller is told while jobs run."""

    started: Callable[[Job], None] = lambda job: None
    finished: Callable[[Job, list[Verdict]], None] = lambda job, verdicts: None


def run_groups(
    groups: Sequence[Sequence[Job]], workers: int = 2, limit: float = 60.0, progress: Progress | None = None
) -> list[Verdict]:
    """Run groups of jobs, each group in one process (started anew when it dies), ``workers`` of them side by side."""
    progress = progress or Progress()
    waiting: queue.Queue[Sequence[Job]] = queue.Queue()
    for group in groups:
        waiting.put(group)
    verdicts: list[Verdict] = []
    lock = threading.Lock()
    errors: list[BaseException] = []

    def serve() -> None:
        kept: tuple[Mapping[str, str], Worker] | None = None
        try:
            while not errors:
                try:
                    group = waiting.get_nowait()
                except queue.Empty:
                    break
                for job in group:
                    if kept is not None and (dict(kept[0]) != dict(job.env) or job.foreign):
                        kept[1].close()
                        kept = None
                    worker = kept[1] if kept else Worker(job.env, limit)
                    progress.started(job)
                    found, alive = run_in(worker, job, limit, fresh=kept is None)
                    kept = (job.env, worker) if alive else None
                    if not alive:
                        worker.close()
                    with lock:
                        verdicts.extend(found)
                        progress.finished(job, found)
        except BaseException as error:
            errors.append(error)
        finally:
            if kept is not None:
                kept[1].close()

    threads = [threading.Thread(target=serve, daemon=True) for _ in range(min(workers, max(len(groups), 1)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return verdicts


def run_in(worker: Worker, job: Job, limit: float, fresh: bool) -> tuple[list[Verdict], bool]:
    """The verdicts of one job in ``worker``, and whether the worker is still alive."""
    done: list[Verdict] = []
    current, case = "value", ""
    try:
        if fresh:
            worker.receive(START_LIMIT)
        worker.send(job.to_dict())
        while True:
            event, content = worker.receive(limit)
            if event == "check":
                current, case = content, ""
            elif event == "case":
                case = content
            elif event == "verdict":
                done.append(Verdict.from_dict(content))
            elif event == "done":
                return [Verdict.from_dict(v) for v in content], True
    except Gone as end:
        origin = "foreign" if job.foreign else "ours"
        at = f" It was in the check “{current}”{f' on {case}' if case.startswith('{') else ''}."
        message = str(end) + at
        stopped = Verdict(
            job.formula,
            job.implementation,
            job.dtype,
            current,
            False,
            job.device,
            origin,  # type: ignore[arg-type]
            message=message,
            case=case if case.startswith("{") else "",
        )
        return [*done, stopped], False
