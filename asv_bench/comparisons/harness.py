"""A comparison: one formula on tensors of a real size, our call and its peers', verified and timed in turn.

    ratio = median over rounds of time(peer) / time(ours)

One thread is timed by the CPU time of the process, several by the wall clock. Every answer is judged first: T of ours
must lie within its limit, T of a peer is printed. ``part`` picks the rows that are judged where all would take hours.
The memory of a call is the rise of the resident set's peak over what was resident before it.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.measure import SAMPLE, seconds
from threadpoolctl import threadpool_limits

from trueness.tools.arithmetic.bounds import Bound
from trueness.tools.arithmetic.formats import round_to
from trueness.tools.run import frameworks
from trueness.tools.run.timing import in_turn, median_ratio
from trueness.tools.run.trial import Trial
from trueness.tools.spec import registry
from trueness.tools.spec.model import Formula, Implementation

ROUNDS = 11

Call = Callable[[], Any]
Values = list[Any]
Part = Callable[[Values], tuple[Values, Callable[[list[np.ndarray]], list[np.ndarray]]]]


@dataclass(frozen=True)
class Contender:
    """One way to compute a pair's formula.

    prepare  takes the pair's tensors and scalars, returns the call that is timed and whose result is judged
    needs    importable modules without which it is not run
    judged   False for a floor that computes something else, such as the matrix products alone
    """

    name: str
    prepare: Callable[..., Call]
    needs: tuple[str, ...] = ()
    judged: bool = True

    def missing(self) -> str:
        absent = [m for m in self.needs if importlib.util.find_spec(m) is None]
        return f"{', '.join(absent)} not installed" if absent else ""


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    arguments  of a random generator: the reference's arguments in float64, or with ``gradient`` those of its vjp
    ours       what this project offers; the call of a pair with ``gradient`` returns the gradients in the vjp's order
    goals      (peer, threads) → how many times as fast as the peer ours must be
    extra      bytes that ours may add to the resident memory, its result included; None where it is not measured
    part       of the arguments: those of the judged part, and how to pick the same part of the outputs
    """

    name: str
    formula: str
    arguments: Callable[[np.random.Generator], Sequence[Any]]
    ours: Contender
    peers: tuple[Contender, ...]
    goals: Mapping[tuple[str, int], float] = field(default_factory=dict)
    dtype: str = "float32"
    gradient: bool = False
    extra: int | None = None
    part: Part | None = None
    limit: str = "fused"


@dataclass(frozen=True)
class Result:
    """What was found of one side of a pair."""

    pair: str
    dtype: str
    threads: int
    side: str
    T: float | None = None
    milliseconds: float | None = None
    ratio: float | None = None
    goal: float | None = None
    extra: float | None = None
    allowed: int | None = None
    note: str = ""
    family: str = ""

    @property
    def met(self) -> bool:
        slow = self.goal is not None and self.ratio is not None and self.ratio < self.goal
        large = self.allowed is not None and self.extra is not None and self.extra > self.allowed
        return not slow and not large and not self.note.startswith("wrong")


class Prepared:
    """A pair with its tensors and the bound of every output that is judged."""

    def __init__(self, pair: Comparison, device: str = "cpu") -> None:
        self.pair, self.device = pair, device
        self.formula: Formula = registry.formulas()[pair.formula]
        implementation = Implementation(pair.ours.name, lambda: lambda *_: None, limit=pair.limit)  # type: ignore[arg-type]
        self.trial = Trial(self.formula, implementation, pair.dtype, device)
        drawn = list(pair.arguments(np.random.default_rng(1)))
        before = len(drawn) - len(self.formula.arguments)
        reals = [True] * before + [a.real for a in self.formula.arguments]
        self.values = [round_to(v, pair.dtype) if r and np.ndim(v) else v for v, r in zip(drawn, reals, strict=True)]
        natives = [
            frameworks.native(v, r, pair.dtype, "torch", device, "contiguous")
            for v, r in zip(self.values, reals, strict=True)
        ]
        self.natives = natives
        judged, self.pick = pair.part(self.values) if pair.part else (self.values, lambda outs: outs)
        if pair.gradient:
            truth: list[Bound] = self.trial.truth_of_gradient(judged[before:], judged[:before])
        else:
            truth = self.trial.truth(judged)
        self.truth = self.pick_bounds(truth)

    def pick_bounds(self, truth: list[Bound]) -> list[Bound]:
        """Of the results of a part those that the part decides; ``pick`` says None for the others."""
        kept = self.pick([b.y for b in truth]) if self.pair.part else [b.y for b in truth]
        return [b for b, y in zip(truth, kept, strict=True) if y is not None]

    def T(self, call: Call) -> float:
        result = call()
        outs = list(result) if isinstance(result, (tuple, list)) else [result]
        arrays = [y for y in self.pick([frameworks.to_float64(y) for y in outs]) if y is not None]
        return float(self.trial.judge(arrays, self.truth).T)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Torch and the BLAS libraries on ``count`` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)


def count_for(call: Call, device: str, clock: Callable[[], float]) -> int:
    """How many calls fill ten samples: the first one after other code is up to three times as slow as the next ones."""
    for _ in range(2):
        call()
    took = seconds(call, 1, device, clock)
    return max(1, int(10 * SAMPLE / max(took, 1e-9)))


def resident(field_name: str) -> int:
    """Bytes, from the line of /proc/self/status: VmRSS is now, VmHWM the peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field_name + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{field_name} is not in /proc/self/status")


def memory(call: Call) -> int | None:
    """Bytes by which the resident set rises at most during a call; None where the system does not tell."""
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    call()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    reset.write_text("5")
    before = resident("VmRSS")
    result = call()
    rise = resident("VmHWM") - before
    del result
    return max(rise, 0)


def measure(prepared: Prepared, count: int, rounds: int = ROUNDS, family: str = "") -> Iterator[Result]:
    """Every contender on ``count`` threads; a wrong one of ours is reported and not timed."""
    pair, device = prepared.pair, prepared.device
    clock = time.process_time if count == 1 else time.perf_counter
    where = {"pair": pair.name, "dtype": pair.dtype, "threads": count, "family": family}
    with threads(count):
        ours = pair.ours.prepare(*prepared.natives)
        found = prepared.T(ours)
        if not found <= prepared.trial.limit:
            yield Result(**where, side=pair.ours.name, T=found, note=f"wrong: T = {found:.3g} and is not timed")
            return
        sides: list[tuple[Contender, Call, float | None]] = []
        for peer in pair.peers:
            if reason := peer.missing():
                yield Result(
                    **where, side=peer.name, goal=pair.goals.get((peer.name, count)), note=f"not run: {reason}"
                )
                continue
            try:
                call = peer.prepare(*prepared.natives)
                sides.append((peer, call, prepared.T(call) if peer.judged else None))
            except Exception as error:  # a peer that cannot run here must not end the run
                said = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
                yield Result(**where, side=peer.name, goal=pair.goals.get((peer.name, count)), note=f"not run: {said}")
        calls = [ours, *(call for _, call, _ in sides)]
        counts = [count_for(call, device, clock) for call in calls]

        def sample(call: Call, n: int) -> float:
            call()  # after other code the first call is slow, whoever it is
            return seconds(call, n, device, clock)

        times = in_turn([partial(sample, call, n) for call, n in zip(calls, counts, strict=True)], rounds)
        extra = memory(ours) if pair.extra is not None and device == "cpu" else None
        mine = times[0]
        yield Result(
            **where,
            side=pair.ours.name,
            T=found,
            milliseconds=1e3 * statistics.median(mine),
            extra=extra,
            allowed=pair.extra,
        )
        for (peer, _, T), theirs in zip(sides, times[1:], strict=True):
            yield Result(
                **where,
                side=peer.name,
                T=T,
                milliseconds=1e3 * statistics.median(theirs),
                ratio=median_ratio(theirs, to=mine),
                goal=pair.goals.get((peer.name, count)),
            )
