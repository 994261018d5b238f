"""Every generic check × every formula × every implementation × every dtype."""

from __future__ import annotations

import pytest

from trueness.tools.run.api import describe
from trueness.tools.run.plan import Request, groups
from trueness.tools.run.pool import run_groups
from trueness.tools.run.runner import Job, run_job
from trueness.tools.spec.model import Verdict


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    impls = tuple(metafunc.config.getoption("--impl"))
    profile = metafunc.config.getoption("--trueness-profile")
    jobs = [job for group in groups(Request(impls=impls, profile=profile)) for job in group]
    metafunc.parametrize(
        "job", jobs, ids=lambda job: f"{job.formula}-{job.implementation}-{job.dtype}".replace(" ", "_")
    )


def test_implementation_is_right(job: Job) -> None:
    """In this process, unless the job needs an environment or comes from outside: then in a worker."""
    verdicts: list[Verdict] = run_groups([[job]], 1) if job.env or job.user else run_job(job)
    assert verdicts, "no check ran"
    failures = [describe(v) for v in verdicts if not v.passed]
    assert not failures, "\n" + "\n".join(failures)
    if all(v.skipped for v in verdicts):
        pytest.skip(verdicts[0].message)
