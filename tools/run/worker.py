"""A worker process: takes jobs as lines of JSON, runs them, sends events back.

Whatever an implementation does - hang, crash, exit, print without end - happens here and not in the process that
reports. The pipes are private file descriptors: standard output and standard error belong to the implementation.

    python -P -m trueness.tools.run.worker JOBS_FD EVENTS_FD MEMORY PARENT_PID SYS_PATH
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from typing import Any

EXIT_PIPE_CLOSED = 86  # exit status of a worker whose pipes were closed under it


def main(jobs_fd: int, events_fd: int, memory: int, parent: int, path: list[str]) -> None:
    follow_parent(parent)
    import numpy as np
    import torch

    from trueness.tools.run.frameworks import Rejected
    from trueness.tools.run.runner import Job, implementation, run_job, wanted
    from trueness.tools.spec import registry
    from trueness.tools.spec.records import from_record, to_record

    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    sys.path += [p for p in path if p not in sys.path]
    myself, write, dumps, leave = os.getpid(), os.write, json.dumps, os._exit

    def emit(event: str, content: Any) -> None:
        if os.getpid() != myself:
            leave(0)  # a fork of an implementation came back out of its call
        line = (dumps([event, content]) + "\n").encode()
        try:
            while line:
                line = line[write(events_fd, line) :]
        except OSError:
            leave(EXIT_PIPE_CLOSED)

    def lone(job: Job, message: str) -> list[dict[str, Any]]:
        return [to_record(job.subject.verdict("value", "fail", message))]

    instruments = snapshot_callables(np, torch)
    emit("ready", None)
    for line in os.fdopen(jobs_fd):
        job = from_record(Job, json.loads(line))
        found: list[dict[str, Any]]
        try:
            formula = registry.formula(job.formula)
            if formula.real is not None:
                formula.real()  # cached; does not count as the implementation's time
            emit("prepared", None)
            candidate = implementation(job)
            wanted(job, candidate)
        except ValueError as error:
            emit("refused", str(error))
            continue
        except Rejected as rejection:
            emit("done", lone(job, str(rejection)))
            continue
        try:
            found = [to_record(v) for v in run_job(job, emit, candidate)]
        except Rejected as rejection:
            found = lone(job, str(rejection))
        except Exception as error:
            said = " ".join(str(error).split())[:300]
            found = lone(job, f"internal error in trueness: {type(error).__name__}: {said}")
        changed = [name for name, (owner, key, what) in instruments.items() if vars(owner).get(key) is not what]
        if changed:
            some = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
            found = lone(job, f"replaced {some}, which the checks use: no verdict of this process counts.")
        emit("done", found)
        if changed:
            break
    leave(0)  # without waiting for threads that an implementation may have started


def follow_parent(parent: int) -> None:
    """Ask Linux to kill this process when its parent dies, even in the middle of a hang; elsewhere nothing happens."""
    import ctypes

    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        return
    if os.getppid() != parent:  # it died before the request
        os._exit(0)


def snapshot_callables(*libraries: Any) -> dict[str, tuple[Any, str, Any]]:
    """The callables that the checks use (NumPy, torch's conversions, our own functions), to detect a replacement."""
    ours = [m for name, m in sys.modules.items() if name.startswith("trueness.tools.")]
    classes = [c for m in ours for c in vars(m).values() if isinstance(c, type) and c.__module__ == m.__name__]
    owners = [libraries[0], *ours, *classes]
    found = {
        f"{owner.__name__}.{key}": (owner, key, what)
        for owner in owners
        for key, what in vars(owner).items()
        if callable(what)
    }
    for name in ("equal", "from_numpy", "finfo", "isnan"):
        found[f"torch.{name}"] = (libraries[1], name, getattr(libraries[1], name))
    return found


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), json.loads(sys.argv[5]))
