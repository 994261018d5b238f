"""Timing on a GPU, of cases whose results were verified on the same tensors.

A case (asv_bench/cuda_cases.py) is a comparison of asv_bench/comparisons with goals for a GPU. Its calls are timed in
turn, a, b, a, b, …, by events, the L2 cache flushed before each; a ratio is the median over the rounds of
time(peer)/time(ours). The ceilings, a device copy and a matrix product, are measured in the same process. A wrong
implementation is refused and not timed. In a dry run the same code runs on the CPU on tiny tensors, without times.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from trueness.tools.gpu.document import NO_GPU, Timing
from trueness.tools.run import timing

ROUNDS = 21
WARM = 3
FLUSH = 256 << 20  # bytes, five times the L2 cache of an H100

Call = Callable[[], Any]


def load(path: Path) -> list[Any]:
    """The CASES of a file of cases; ValueError when it is not such a file."""
    if not path.is_file():
        raise ValueError(f"--cases was {str(path)!r}; it must be a file that defines CASES.")
    folder = str(path.resolve().parent)
    sys.path[:] = [folder, *(p for p in sys.path if p != folder)]
    spec = importlib.util.spec_from_file_location(f"_cases_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    found = getattr(module, "CASES", None)
    if found is None:
        raise ValueError(f"--cases was {str(path)!r}; it defines no CASES.")
    return list(found)


def timed(call: Call, device: str) -> float:
    """Seconds of one call; on a GPU by events, the L2 cache flushed before it."""
    if device == "cpu":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    torch.empty(FLUSH, dtype=torch.int8, device=device).zero_()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) * 1e-3


def in_turn(calls: Sequence[Call], device: str, rounds: int) -> list[list[float]]:
    """The seconds of every call, round by round."""
    for call in calls:
        for _ in range(WARM if device != "cpu" else 1):
            call()
    return timing.in_turn([lambda call=call: timed(call, device) for call in calls], rounds)  # type: ignore[misc]


def ceilings(device: str, dry: bool) -> dict[str, float | None]:
    """The rates of this device: bytes per second of a copy (reads and writes), FLOP per second of a matrix product."""
    n, side = (1 << 12, 64) if dry else (1 << 28, 8192)
    source = torch.randn(n, device=device)
    target = torch.empty_like(source)
    found: dict[str, float | None] = {}
    (seconds,) = in_turn([lambda: target.copy_(source)], device, 1 if dry else ROUNDS)
    found["copy, bytes/s"] = None if dry else 2 * source.nbytes / statistics.median(seconds)
    for dtype in (torch.bfloat16, torch.float32):
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        (seconds,) = in_turn([lambda a=a, b=b: a @ b], device, 1 if dry else 7)  # type: ignore[misc]
        found[f"matmul {str(dtype).removeprefix('torch.')}, FLOP/s"] = (
            None if dry else 2 * side**3 / statistics.median(seconds)
        )
    return found


def copier(total: float, dtype: torch.dtype, device: str) -> Call:
    """A copy that reads and writes ``total`` bytes together."""
    source = torch.randn(max(1, round(total / (2 * dtype.itemsize))), device=device).to(dtype)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def measured(case: Any, harness: Any, dry: bool, rounds: int = ROUNDS) -> Iterator[Timing]:
    """Every contender of a case: ours, the peers that have a goal, and the copy where the case declares its bytes."""
    device = "cpu" if dry else "cuda"
    try:
        pair = case.dry() if dry else case.pair()
    except (ImportError, LookupError) as missing:
        for side, goal in case.goals.items():
            yield Timing(str(missing), "", "", side, "not run: no such pair is declared", goal=goal)
        return
    goals = dict(case.goals)

    def line(side: str, status: str, **found: Any) -> Timing:
        return Timing(pair.name, pair.formula, pair.dtype, side, status, goal=goals.get(side), **found)

    try:
        prepared = harness.Prepared(pair, device)
        ours = pair.ours.prepare(*prepared.natives)
        T = prepared.T(ours)
    except Exception as error:
        yield line(pair.ours.name, f"failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
        return
    limit = prepared.trial.limit
    if not T <= limit:
        yield line(pair.ours.name, f"refused: T = {T:.3g} of {limit:g}", T=T, limit=limit)
        return
    sides: list[tuple[str, Call, float | None]] = []
    for peer in pair.peers:
        if peer.name not in goals:
            continue
        if reason := peer.missing():
            yield line(peer.name, f"not run: {reason}")
            continue
        try:
            call = peer.prepare(*prepared.natives)
            sides.append((peer.name, call, prepared.T(call) if peer.judged else None))
        except Exception as error:
            yield line(peer.name, f"not run: it raised {type(error).__name__}: {' '.join(str(error).split())[:200]}")
    for name in set(goals) - {p.name for p in pair.peers} - {case.COPY}:
        yield line(name, "not run: no peer of this name is declared")
    if case.COPY in goals:
        moved = case.bytes(prepared.values)
        sides.append((case.COPY, copier(moved, prepared.natives[0].dtype, device), None))
    times = in_turn([ours, *(call for _, call, _ in sides)], device, 1 if dry else rounds)
    again = prepared.T(ours)
    if again != T:
        yield line(
            pair.ours.name, f"refused: T was {T:.3g} before it was timed and {again:.3g} after", T=again, limit=limit
        )
        return
    own = None if dry else 1e3 * statistics.median(times[0])
    yield line(pair.ours.name, NO_GPU if dry else "timed", T=T, limit=limit, milliseconds=own)
    for (name, _, T_peer), theirs in zip(sides, times[1:], strict=True):
        if dry:
            yield line(name, NO_GPU, T=T_peer)
            continue
        ratio = timing.median_ratio(theirs, to=times[0])
        possible = name != case.COPY or ratio <= 1.05  # faster than its bytes can be moved: nothing was computed
        status = "impossible" if not possible else "met" if ratio >= goals[name] else "missed"
        yield line(name, status, T=T_peer, milliseconds=1e3 * statistics.median(theirs), ratio=ratio)
