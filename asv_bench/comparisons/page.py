"""docs/speed.md from the lines that were measured: every number on the page is of the run that wrote it."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from comparisons.harness import Result

HEAD = """\
# Speed, beside trueness

<!-- Written by `python asv_bench/comparisons --heap {heap} --write FILE`. Do not edit: run it again. -->

Ours and its peers on the same tensors in one process, in turn, each called once before it is timed; the ratio is the
median over the rounds of the peer's time by ours, so 2 says that ours took half as long. One thread is timed by the CPU
time of the process, two by the wall clock. T is the largest error in units of the bound, on the tensors that were
timed; ours is not timed unless it is within 1.5. *Extra* is the rise of the resident memory's peak during a call, its
result included, and what is allowed. A floor computes something else, such as the matrix products alone, and has no T.
Times are of one machine on one day; ratios are what carries over.

{state}

{processor}; {versions}.

**CUDA: not run on a GPU.** `trueness gpu` measures the same there and writes its own table.

{outcome}
"""


STATES = {
    "fresh": """\
Every family had a process of its own, with the allocator as it comes: large memory goes back to the system after every
call and is cleared page by page when it is asked for again. Whoever makes large temporaries pays for that, our fresh
results lie in large pages and pay less. What the arithmetic alone takes: [speed_kept.md](speed_kept.md).""",
    "kept": """\
Every family had a process of its own, in which the allocator gives nothing back to the system: once warm, fresh memory
costs nothing. So a program fares that has such a heap by chance. Goals are meant for the allocator as it comes,
[speed.md](speed.md); here they are judged all the same.""",
}


def processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def number(x: float | None, text: str) -> str:
    return "" if x is None else format(x, text)


def cells(line: Result) -> list[str]:
    """One line of a table, for the terminal and for the page."""
    extra = number(None if line.extra is None else line.extra / 2**20, ".1f")
    if line.allowed is not None and line.extra is not None:
        extra += f" of {line.allowed / 2**20:.1f}"
    return [
        str(line.threads),
        line.side,
        number(line.T, ".3f"),
        number(line.milliseconds, ".3f"),
        number(line.ratio, ".2f"),
        "" if line.goal is None else f"≥ {line.goal:g}",
        extra,
        line.note or ("" if line.met else "MISSED"),
    ]


COLUMNS = ("threads", "side", "T", "ms", "peer / ours", "goal", "extra MB", "")


def page(lines: Sequence[Result], versions: Mapping[str, str], heap: str = "fresh") -> str:
    missed = [line for line in lines if not line.met]
    goals = sum(line.goal is not None and line.ratio is not None for line in lines)
    outcome = f"{len(lines)} lines, {goals} goals on the ratio, {len(missed)} missed."
    told = ", ".join(f"{name} {v}" for name, v in versions.items())
    text = [HEAD.format(processor=processor(), versions=told, outcome=outcome, heap=heap, state=STATES[heap])]
    for title in dict.fromkeys((line.family, line.pair, line.dtype) for line in lines):
        here = [line for line in lines if (line.family, line.pair, line.dtype) == title]
        text.append(f"## {title[0]}: {title[1]}, {title[2]}\n\n{table(cells(line) for line in here)}")
    return "\n".join(text)


def table(rows: Iterable[Sequence[str]]) -> str:
    head = f"| {' | '.join(COLUMNS)} |\n|" + "---|" * len(COLUMNS)
    return "\n".join([head, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"
