"""How it is timed: pairs of calls in turn, a, b, a, b, …, in one process on one thread; medians of the ratios."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.subjects import PEER, Refused, Subject, is_timed, subjects
from trueness.tools.arithmetic.formats import precision
from trueness.tools.run import frameworks
from trueness.tools.spec.model import Case

ROUNDS = 21
SAMPLE = 1e-3  # seconds that one sample lasts at least

Call = Callable[[], Any]


def seconds(call: Call, count: int, device: str, clock: Callable[[], float] = time.process_time) -> float:
    """How long one of ``count`` calls takes: CPU time of the process, which no neighbour adds to, or GPU wall time.

    On several threads the CPU time is the sum over them, and ``clock`` is time.perf_counter.
    """
    if device == "cpu":
        start = clock()
        for _ in range(count):
            call()
        return (clock() - start) / count
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(count):
        call()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / count


def enough(call: Call, device: str) -> int:
    """How many calls fill a sample; on the way the call is warmed up."""
    call()
    count = 1
    while (took := seconds(call, count, device)) * count < SAMPLE:
        count = max(2 * count, min(10 * count, int(SAMPLE / max(took, 1e-9)) + 1))
    return count


def ratios(first: Call, second: Call, device: str = "cpu", rounds: int = ROUNDS) -> list[float]:
    """time(first) / time(second), round by round."""
    a, b = enough(first, device), enough(second, device)
    enabled = gc.isenabled()
    gc.disable()
    try:
        return [seconds(first, a, device) / seconds(second, b, device) for _ in range(rounds)]
    finally:
        if enabled:
            gc.enable()


def copier(total: float, dtype: str, device: str) -> Call:
    """A copy that reads and writes ``total`` bytes together, in memory that is already mapped."""
    fmt = precision(dtype).torch
    source = torch.ones(max(1, round(total / (2 * fmt.itemsize))), dtype=fmt, device=device)
    target = torch.zeros_like(source)
    return lambda: target.copy_(source)


def possible(fractions: list[float]) -> float:
    """The fraction of the copy bandwidth that three rounds of four surpass.

    The lower quartile takes the spread of this very measurement into account: it is above 1 only where the call was
    faster than moving its bytes in three rounds of four, which noise that is symmetric does not do.
    """
    return statistics.quantiles(fractions, n=4)[0]


@dataclass(frozen=True)
class Finding:
    """What was found on one subject; a reason instead of a number where there is none."""

    skipped: str = ""
    refused: str = ""
    T: float | None = None
    ratio_to_eager: float | None = None
    no_ratio: str = ""
    copy_fraction: float | None = None
    case: Case | None = None


def find(subject: Subject, where: Path) -> Finding:
    """Judge, then time, then see that the answer is still the same; what is right lies in ``where`` for later runs."""
    if reason := subject.skipped():
        return Finding(skipped=reason)
    reading = None
    try:
        reading = subject.judged()
        subject.require_right()
        before = outputs(subject)
        save(subject, where)
        ratio, why = ratio_to_eager(subject)
        fraction = copy_fraction(subject)
        if any(a.tobytes() != b.tobytes() for a, b in zip(before, outputs(subject), strict=True)):
            raise Refused(f"{subject} changed its answer while it was timed.")
    except Refused as refusal:
        return Finding(refused=str(refusal), T=reading.T if reading else None)
    return Finding(T=reading.T, ratio_to_eager=ratio, no_ratio=why, copy_fraction=fraction, case=subject.case)


def ratio_to_eager(subject: Subject) -> tuple[float | None, str]:
    peer = subject.peer()
    if peer is None:
        return None, f"{subject.formula.name} declares no {PEER}"
    if reason := peer.skipped():
        return None, f"{PEER}: {reason}"
    try:
        peer.require_right()
    except Refused as refusal:
        return None, str(refusal)
    return statistics.median(ratios(subject.call, peer.call, subject.device)), ""


def copy_fraction(subject: Subject) -> float | None:
    total = subject.bytes()
    if not total:
        return None
    return possible(ratios(copier(total, subject.dtype, subject.device), subject.call, subject.device))


# -- the verdict, kept on disk between asv's processes --------------------------------------------------------------


def outputs(subject: Subject) -> list[np.ndarray]:
    count = len(subject.trial.truth(subject.values))
    return [frameworks.to_float64(a) for a in frameworks.returned(subject.call(), subject.trial.framework, count)]


def file_of(subject: Subject, where: Path) -> Path:
    return where / ("-".join(map(str, subject.key)).replace(" ", "_") + ".npz")


def save(subject: Subject, where: Path) -> None:
    """The bound of every output, so that a process that times need not compute it again."""
    truth = subject.trial.truth(subject.values)
    arrays = {f"y{i}": b.y for i, b in enumerate(truth)} | {f"B{i}": b.B for i, b in enumerate(truth)}
    np.savez(file_of(subject, where), **arrays)


def require_as_judged(subject: Subject, where: Path) -> None:
    """Refused unless what is about to be timed lies within the saved bound."""
    with np.load(file_of(subject, where)) as saved:
        count = len(saved.files) // 2
        arrays = frameworks.returned(subject.call(), subject.trial.framework, count)
        for i, array in enumerate(arrays):
            y, bound, out = saved[f"y{i}"], saved[f"B{i}"], frameworks.to_float64(array)
            right = (np.abs(out - y) <= subject.trial.limit * bound) | (out == y) | (np.isnan(out) & np.isnan(y))
            if out.shape != y.shape or not right.all():
                raise Refused(f"{subject} is wrong and is not timed.")


class Measured:
    """Base of all benchmarks: one process judges and pairs every subject of a commit, the others read what it found."""

    version = "1"  # another one, whenever what is measured changes: asv keeps histories of different versions apart
    timeout = 120

    def setup_cache(self) -> dict[tuple[str, str, str, int, str], Finding]:
        torch.set_num_threads(1)
        found = {s.key: find(s, Path.cwd()) for s in subjects(is_timed)}
        if told := os.environ.get("TRUENESS_BENCH_REFUSED"):
            Path(told).write_text("\n".join(f.refused for f in found.values() if f.refused), "utf-8")
        return found

    setup_cache.timeout = 1800  # type: ignore[attr-defined]
