"""The generic checks again where every cache is tiny: then the smallest input is computed in many pieces.

How much is computed at a time are constants of `trueness.optimized`; the inputs of the checks stay below most of them.
"""

from __future__ import annotations

import importlib
from dataclasses import replace

import pytest

from trueness.optimized.filters import blending
from trueness.tools.run.api import describe
from trueness.tools.run.plan import Request, groups
from trueness.tools.run.runner import Job, run_job

TINY = {
    "atlas_memory.gd.api.TILE": 3,
    "atlas_memory.gd.autograd.ELEMENTS": 1,
    "attention.cpu.SCORES": 1,
    "attention.cpu.STRIP": 1,
    "_lib.elementwise.TILE": 3,
    "filters.blending.CHUNK": 1,
    "filters.blending.SMALL": 0,
    "filters.blurring.TILE": 3,
    "filters.fft.SPECTRUM": 0,
    "filters.fft_blocked.BLOCK": 64,
    "fisher.operators.TILE": 3,
    "fisher.cpu.TILE": 3,
    "kernels.cuda.operators.FEATURE_TILE": 3,
    "kernels.cpu.tiles.COSINES": 8,
    "kernels.cpu.tiles.FEATURES": 3,
    "kernels.cpu.tiles.MIN_THREADED_COSINES": 1,
    "_lib.matmul.SMALL": 1,
    "fisher.functional.TILE": 3,
    "kernels.exact.ROW_TILE": 3,
}
CHECKS = ("value", "gradient", "shapes", "special values", "poisoned allocations", "out")
FAMILIES = ("atlas_memory", "attention", "filters", "fisher", "kernels")
WIDER = ("filters", "fisher", "kernels")  # families that hold a piece of a half format in float32 apart


def ours() -> list[Job]:
    """What this project offers for the CPU."""
    requests = (
        Request(f, dtypes=(d,), peers=False, profile="quick") for d, f in (("float32", FAMILIES), ("bfloat16", WIDER))
    )
    jobs = [job for request in requests for group in groups(request) for job in group]
    return [replace(job, checks=CHECKS) for job in jobs if job.implementation.startswith("trueness") and not job.env]


def shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TINY.items():
        module, _, constant = name.rpartition(".")
        monkeypatch.setattr(importlib.import_module(f"trueness.optimized.{module}"), constant, value)


@pytest.mark.parametrize("job", ours(), ids=lambda job: f"{job.formula}-{job.implementation}-{job.dtype}")
def test_small_pieces_make_no_difference(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)
    failures = [describe(verdict) for verdict in run_job(job) if not verdict.passed]
    assert not failures, "\n" + "\n".join(failures)


def test_a_loop_that_forgets_where_it_is_is_right_until_caches_are_tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    put = blending.Even.put
    monkeypatch.setattr(blending.Even, "put", lambda self, plane: put(self, 0))
    job = Job("filters.blend", "trueness", "float32", profile="quick", checks=("value",))
    assert all(verdict.passed for verdict in run_job(job))
    shrink(monkeypatch)
    assert not all(verdict.passed for verdict in run_job(job))
