"""The same numbers twice: seeds for every generator, flags for every library, and all of it put back afterwards."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from trueness.optimized._lib.validation import is_integer
from trueness.optimized.training.rng import random_state, restore_random_state

__all__ = ["deterministic", "seed"]

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def seed(value: int) -> None:
    """Seed the global generators of torch (CPU and every CUDA device), NumPy and Python.

    value   integer in [0, 2³²), what NumPy takes
    raises  ValueError for anything else
    """
    if not is_integer(value) or not 0 <= value < 2**32:
        raise ValueError(f"seed was {value!r}; it must be an integer in [0, 2**32).")
    torch.manual_seed(value)
    torch.cuda.manual_seed_all(value)
    np.random.seed(value)  # noqa: NPY002
    random.seed(value)


@contextmanager
def deterministic(value: int | None = None, *, strict: bool = True, restore_random: bool = True) -> Iterator[None]:
    """Inside the block the same program gives the same bits; on leaving everything is as it was, also after an error.

    Seeds torch, CUDA, NumPy and Python; with ``strict`` asks cuDNN for deterministic algorithms without benchmarking,
    torch for an error where an operation has none, and cuBLAS for a fixed workspace. The workspace is read by cuBLAS
    when it starts: enter the block before the first CUDA call, or set CUBLAS_WORKSPACE_CONFIG yourself. Python's hash
    seed cannot be changed in a running program.

    value           seed, an integer in [0, 2³²), or None to leave the generators where they are
    strict          False seeds only
    restore_random  whether the generators, too, go back to where they were
    raises          ValueError for another seed
    """
    before, numbers = _flags(), random_state() if restore_random else None
    try:
        if value is not None:
            seed(value)
        if strict:
            os.environ[WORKSPACE] = os.environ.get(WORKSPACE) or ":4096:8"
            torch.backends.cudnn.deterministic = True
            torch.backends.cudnn.benchmark = False
            torch.use_deterministic_algorithms(True)
        yield
    finally:
        _restore(before)
        if numbers is not None:
            restore_random_state(numbers)


def _flags() -> dict[str, Any]:
    return {
        "cudnn.deterministic": torch.backends.cudnn.deterministic,
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        "algorithms": torch.are_deterministic_algorithms_enabled(),
        "warn only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "workspace": os.environ.get(WORKSPACE),
    }


def _restore(flags: dict[str, Any]) -> None:
    torch.backends.cudnn.deterministic = flags["cudnn.deterministic"]
    torch.backends.cudnn.benchmark = flags["cudnn.benchmark"]
    torch.use_deterministic_algorithms(flags["algorithms"], warn_only=flags["warn only"])
    if flags["workspace"] is None:
        os.environ.pop(WORKSPACE, None)
    else:
        os.environ[WORKSPACE] = flags["workspace"]
