"""A worker process: takes jobs as lines of JSON, runs them, sends events back.

Whatever an implementation does - hang, crash, exit, print without end - happens here and not in the process that
reports. The pipes are private file descriptors: standard output and standard error belong to the implementation.

    python -m trueness.tools.worker JOBS_FD EVENTS_FD
"""

from __future__ import annotations

import json
import os
import resource
import sys
from typing import Any


def main(jobs_fd: int, events_fd: int) -> None:
    import torch

    from trueness.tools.frameworks import Rejected
    from trueness.tools.nouns import Verdict
    from trueness.tools.runner import Job, run_job

    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    events = os.fdopen(events_fd, "w")

    def emit(event: str, content: Any) -> None:
        events.write(json.dumps([event, content]) + "\n")
        events.flush()

    emit("ready", None)
    for line in os.fdopen(jobs_fd):
        job = Job.from_dict(json.loads(line))
        try:
            verdicts = run_job(job, emit)
        except (Rejected, ValueError) as error:
            verdicts = [
                Verdict(
                    job.formula,
                    job.implementation,
                    job.dtype,
                    "value",
                    False,
                    job.device,
                    "foreign",
                    message=str(error),
                )
            ]
        emit("done", [v.to_dict() for v in verdicts])


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
