"""Timing of calls against each other: a, b, a, b, …, so that a slow phase of the machine affects all of them."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Sequence


def in_turn(samples: Sequence[Callable[[], float]], rounds: int) -> list[list[float]]:
    """Seconds of every sample, round by round; the garbage collector does not run meanwhile."""
    times: list[list[float]] = [[] for _ in samples]
    enabled = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            for sample, found in zip(samples, times, strict=True):
                found.append(sample())
    finally:
        if enabled:
            gc.enable()
    return times


def median_ratio(times: Sequence[float], to: Sequence[float]) -> float:
    """The median over the rounds of times / to."""
    return statistics.median(a / b for a, b in zip(times, to, strict=True))
