"""The command ``trueness mutate --references``: judge the mutants of every reference and write the table of them.

Each formula is judged in a worker process, in which a call of a mutant may take so much memory and time and no more:
one that asks for more is killed.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from trueness.tools.mutants import page, reasons
from trueness.tools.mutants.judging import Subject
from trueness.tools.mutants.record import Row, Summary, row_of
from trueness.tools.run.conclusion import REFERENCE
from trueness.tools.run.runner import Job, reference_as_implementation, trial_for
from trueness.tools.spec import registry

PROFILE = "quick"
SECONDS = 60
"""of one call of a mutant; the reference itself takes a fraction of one"""
MEMORY = 3 * 2**30
"""bytes that a worker may ask for beyond what it has when it begins"""
MOST = 400
"""mutants of a vector-Jacobian product that are judged where no formula is named; those of `omega_vjp` take minutes"""
FORMULAS = 16
"""for each worker of a pool, so that what it keeps does not fill the memory"""


def subject(name: str, of_gradient: bool = False, guard: Callable[[Callable[[], Any]], Any] | None = None) -> Subject:
    """The mutants of one formula on the cases of its quick run, in float32 where it has that."""
    formula = registry.formula(name)
    dtype = "float32" if "float32" in formula.dtypes else formula.dtypes[0]
    job = Job(name, REFERENCE, dtype, profile=PROFILE)
    trial = trial_for(job, reference_as_implementation(formula))
    return Subject(trial, guard or (lambda call: call()), of_gradient=of_gradient)


def judged(name: str, guard: Callable[[Callable[[], Any]], Any] | None = None, most: int | None = None) -> list[Row]:
    """The row of a formula, and that of its vector-Jacobian product if one is written; ``most``: mutants of that."""
    parts = [False, True] if registry.formula(name).vjp is not None else [False]
    rows = []
    for of_gradient in parts:
        start = time.process_time()
        chosen = subject(name, of_gradient, guard)
        if of_gradient and most is not None and len(chosen.mutants) > most:
            rows.append(
                Row(name, True, chosen.source.module.__name__, chosen.trial.dtype, 0, (), 0.0, len(chosen.mutants))
            )
        else:
            rows.append(row_of(name, of_gradient, chosen, time.process_time() - start))
    return rows


def within_limits(call: Callable[[], Any]) -> Any:
    """One call that ends after SECONDS with TimeoutError."""
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        return call()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def give_up(number: int, frame: Any) -> None:
    raise TimeoutError(f"longer than {SECONDS} s")


def end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def prepare() -> None:
    threading.Thread(target=end_with_parent, daemon=True).start()
    signal.signal(signal.SIGALRM, give_up)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def work(name: str, most: int | None) -> list[Row]:
    return judged(name, within_limits, most)


def survey(names: Sequence[str], jobs: int, most: int | None = None) -> Iterator[list[Row]]:
    """The rows of every formula, as they are ready."""
    context = multiprocessing.get_context("spawn")
    many = FORMULAS * jobs
    for some in (names[k : k + many] for k in range(0, len(names), many)):  # max_tasks_per_child may wait for ever
        with ProcessPoolExecutor(jobs, context, prepare) as pool:
            for done in as_completed([pool.submit(work, name, most) for name in some]):
                yield done.result()


def run(names: Sequence[str], write: str, jobs: int) -> int:
    """Print a line per formula and what survives; 1 where a mutant survives without a reason, or a reason is stale."""
    chosen = [f.name for f in registry.select(list(names))]
    rows: list[Row] = []
    for found in survey(chosen, jobs, None if names else MOST):
        rows += found
        for row in found:
            print(page.line(row), flush=True)
    order = {name: i for i, name in enumerate(chosen)}
    rows = sorted(rows, key=lambda r: (r.of_gradient, order[r.formula]))
    summary = Summary(rows, whole=not names)
    print(page.render(summary).split("\n## ", 1)[0], flush=True)
    problems = reasons.problems(summary)
    for problem in problems:
        print(problem)
    print(f"{sum(r.seconds for r in rows):.0f} CPU seconds.")
    if write:
        Path(write).write_text(page.render(summary), encoding="utf-8")
        print(f"written: {write}")
    return 1 if problems else 0
