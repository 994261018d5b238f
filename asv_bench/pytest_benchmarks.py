"""The operators under pytest-benchmark: pytest asv_bench/pytest_benchmarks.py

What is not right is not timed: the value check runs first, on the very tensors.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from benchmarks import subjects
from benchmarks.subjects import Refused, Subject


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def right(subject: Subject) -> Subject:
    """The subject, judged on the tensors it will be timed on."""
    if reason := subject.skipped():
        pytest.skip(reason)
    try:
        subject.require_right()
    except Refused as refusal:
        pytest.fail(str(refusal), pytrace=False)
    return subject


@pytest.mark.parametrize("subject", list(subjects.subjects(subjects.is_timed)), ids=str)
def test_speed(right: Subject, benchmark: Any) -> None:
    def call() -> None:
        right.call()
        if right.device == "cuda":
            torch.cuda.synchronize()

    benchmark.group = f"{right.formula.name} {right.dtype} {right.elements} {right.device}"
    benchmark.extra_info["T"] = right.judged().T
    benchmark(call)
