"""The generic checks with tiny chunk sizes, so that even the smallest input is computed in many chunks.

Chunk sizes are constants of `trueness.optimized`, and most of them exceed the inputs of the checks.
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
    "_lib.elementwise.CHUNK": 3,
    "filters.blending.CHUNK": 1,
    "filters.blending.SMALL": 0,
    "filters.blurring.CHUNK": 3,
    "filters.fft.SPECTRUM": 0,
    "filters.fft_blocked.BLOCK": 64,
    "fisher.operators.CHUNK": 3,
    "kernels.cuda.operators.FEATURE_TILE": 3,
    "kernels.cpu.tiles.COSINES": 8,
    "kernels.cpu.tiles.FEATURES": 3,
    "kernels.cpu.tiles.MIN_THREADED_COSINES": 1,
    "_lib.matmul.SMALL": 1,
    "fisher.functional.CHUNK": 3,
    "kernels.exact.ROW_TILE": 3,
}
CHECKS = ("value", "gradient", "shapes", "special values", "poisoned allocations", "out")
FAMILIES = ("atlas_memory", "attention", "filters", "fisher", "kernels")
WITH_HALVES = ("filters", "fisher", "kernels")  # families that convert half formats chunk by chunk


def builtin_jobs() -> list[Job]:
    """The jobs of the library's own implementations on the CPU."""
    requests = (
        Request(f, dtypes=(d,), peers=False, profile="quick")
        for d, f in (("float32", FAMILIES), ("bfloat16", WITH_HALVES))
    )
    jobs = [job for request in requests for group in groups(request) for job in group]
    # every length goes through many chunks: the longest are not needed, nor all choices of scalars
    return [
        replace(job, checks=CHECKS, paths=False)
        for job in jobs
        if job.implementation.startswith("trueness") and not job.env
    ]


def shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TINY.items():
        module, _, constant = name.rpartition(".")
        monkeypatch.setattr(importlib.import_module(f"trueness.optimized.{module}"), constant, value)


@pytest.mark.parametrize("job", builtin_jobs(), ids=lambda job: f"{job.formula}-{job.implementation}-{job.dtype}")
def test_small_chunks_give_right_results(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)
    failures = [describe(verdict) for verdict in run_job(job) if not verdict.passed]
    assert not failures, "\n" + "\n".join(failures)


def test_a_loop_that_repeats_its_first_chunk_is_found_with_tiny_chunks_only(monkeypatch: pytest.MonkeyPatch) -> None:
    blend_batch = blending.EvenGridBlend.blend_batch
    monkeypatch.setattr(blending.EvenGridBlend, "blend_batch", lambda self, plane: blend_batch(self, 0))
    job = Job("filters.blend", "trueness", "float32", profile="quick", checks=("value",))
    assert all(verdict.passed for verdict in run_job(job))
    shrink(monkeypatch)
    assert not all(verdict.passed for verdict in run_job(job))
