"""Runs the examination: every program before the verifier, before the rules of the field, and before its witness.

What was found is appended to a file of JSON lines as it is found, and is not run again: an interrupted examination goes
on where it was. Verdicts come from worker processes as a user's do (tools/run/pool.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from trueness.tools.calibration.examination.collection import examined, programs, third_parties
from trueness.tools.calibration.examination.fields import accepted
from trueness.tools.calibration.examination.honesty import agreement, examined_in, ordinary, shown
from trueness.tools.calibration.examination.program import Program, Witness
from trueness.tools.calibration.examination.rules import RULES
from trueness.tools.run.frameworks import unsupported
from trueness.tools.run.pool import Progress, run_groups
from trueness.tools.run.runner import Job
from trueness.tools.spec import registry
from trueness.tools.spec.model import Verdict
from trueness.tools.spec.records import from_record, to_record
from trueness.tools.spec.tables import DEFAULT_DEVICE

SUBJECTS = "trueness.tools.calibration.examination.subjects"
WITNESS = "witness"
TRUENESS = "trueness, "
LIMIT = 120.0  # seconds without an answer after which a program has timed out


@dataclass(frozen=True)
class Record:
    """What one judge said of one program in one format.

    judge     "trueness, PROFILE", the name of a rule, or "witness": the float64 reference, by which a right program is
              accepted on ordinary inputs, and a wrong one unless its fault shows on its witness
    accepted  the program was called right
    by        what rejected it: a check, or the output or gradient that a rule stumbled over
    said      its sentence
    names     known bugs that it was said to behave like
    """

    formula: str
    program: str
    kind: str
    dtype: str
    judge: str
    accepted: bool
    by: str = ""
    said: str = ""
    names: tuple[str, ...] = ()
    skipped: bool = False

    @property
    def place(self) -> tuple[str, str, str, str]:
        return self.formula, self.program, self.dtype, self.judge


@dataclass(frozen=True)
class Task:
    """A program, a format and a judge."""

    program: Program
    dtype: str
    judge: str

    @property
    def place(self) -> tuple[str, str, str, str]:
        return self.program.formula, self.program.name, self.dtype, self.judge

    def record(self, accepted: bool, **fields: Any) -> Record:
        p = self.program
        return Record(p.formula, p.name, p.kind, self.dtype, self.judge, accepted, **fields)


def tasks(dtypes: Sequence[str], profiles: Sequence[str], only: str = "", rules: bool = True) -> list[Task]:
    """Everything to be judged, program by program; ``only``: of those whose key contains it."""
    judges = [f"{TRUENESS}{p}" for p in profiles] + ([WITNESS, *RULES] if rules else [])
    return [
        Task(program, dtype, judge)
        for program in examined().values()
        if only in program.key
        for dtype in dtypes
        if dtype in program.dtypes and dtype in registry.formula(program.formula).dtypes
        for judge in judges
        if judge.startswith(TRUENESS) or not unsupported(program.framework, dtype, DEFAULT_DEVICE)
        if judge != WITNESS or compared_in(program, dtype)
    ]


def compared_in(program: Program, dtype: str) -> bool:
    """Whether the reference is asked: in every format of a wrong program, in the widest of a right one of ours."""
    ours = program.key not in third_parties()
    return ours and (not program.right or dtype == examined_in(program))


def examine(
    wanted: Sequence[Task],
    path: Path | None = None,
    workers: int = 2,
    note: Callable[[str], None] = lambda text: None,
) -> list[Record]:
    """The records of all ``wanted``; those in the file ``path`` are read, the others are made and appended to it."""
    known = {r.place: r for r in read(path)} if path else {}
    todo = [t for t in wanted if t.place not in known]

    def keep(found: Iterable[Record]) -> None:
        for record in found:
            known[record.place] = record
            note(f"{len(wanted) - sum(t.place not in known for t in todo)} of {len(wanted)}: {record.program}")
            if path:
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(to_record(record), ensure_ascii=False) + "\n")

    by_verifier([t for t in todo if t.judge.startswith(TRUENESS)], workers, keep)
    by_others([t for t in todo if not t.judge.startswith(TRUENESS)], workers, keep)
    return [known[t.place] for t in wanted if t.place in known]


def read(path: Path) -> list[Record]:
    """The records of a file, none where there is no file; a line that was cut short is left out."""
    found = []
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        try:
            found.append(from_record(Record, json.loads(line)))
        except json.JSONDecodeError:
            continue
    return found


# -- the verifier -----------------------------------------------------------------------------------------------------


def job_of(task: Task) -> Job:
    return Job(
        task.program.formula,
        f"{SUBJECTS}:{task.program.attribute}",
        task.dtype,
        profile=task.judge.removeprefix(TRUENESS),
        user=True,
        limit=task.program.limit,
        gradient=task.program.gradient,
        shared=True,
    )


def by_verifier(wanted: Sequence[Task], workers: int, keep: Callable[[list[Record]], None]) -> None:
    """Jobs of one formula and format in one process, where they share the bounds."""
    by_job = {(j.formula, j.implementation, j.dtype, j.profile): t for t in wanted for j in [job_of(t)]}
    ordered = sorted(wanted, key=lambda t: (t.program.formula, t.dtype, t.judge))
    groups = [
        [job_of(t) for t in some] for _, some in groupby(ordered, key=lambda t: (t.program.formula, t.dtype, t.judge))
    ]

    def finished(job: Job, verdicts: list[Verdict]) -> None:
        keep([judged(by_job[job.formula, job.implementation, job.dtype, job.profile], verdicts)])

    run_groups(groups, workers, LIMIT, Progress(finished=finished))


def judged(task: Task, verdicts: Sequence[Verdict]) -> Record:
    """A program is accepted if no check fails and some check was made."""
    failures = [v for v in verdicts if not v.passed]
    names = tuple(dict.fromkeys(b for v in verdicts for b in v.bugs))
    if failures:
        return task.record(False, by=failures[0].check, said=failures[0].message, names=names)
    skipped = all(v.skipped for v in verdicts)
    return task.record(True, said=verdicts[0].message if skipped else "", names=names, skipped=skipped)


# -- witnesses and rules ----------------------------------------------------------------------------------------------


def by_others(wanted: Sequence[Task], workers: int, keep: Callable[[list[Record]], None]) -> None:
    """Formula by formula, in processes of their own; an exception in one is raised when all others are kept."""
    ordered = sorted(wanted, key=lambda t: (t.program.formula, t.dtype))
    groups = [
        [(t.program.attribute, t.dtype, t.judge) for t in some]
        for _, some in groupby(ordered, key=lambda t: (t.program.formula, t.dtype))
    ]
    if not groups:
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=one_thread) as pool:
        errors = []
        for done in as_completed([pool.submit(compare, group) for group in groups]):
            if error := done.exception():
                errors.append(error)
            else:
                keep(done.result())
    if errors:
        raise errors[0]


def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def inputs_of(program: Program) -> list[Witness]:
    """The ordinary inputs of a right program, among them the sizes on which faults of its formula show."""
    return ordinary(registry.formula(program.formula), list(programs().values()))


def compare(places: Sequence[tuple[str, str, str]]) -> list[Record]:
    """The records of (attribute, dtype, judge), in this process."""
    found = []
    for attribute, dtype, judge in places:
        task = Task(examined()[attribute], dtype, judge)
        if judge == WITNESS and task.program.right:
            worst, limit = agreement(task.program, inputs_of(task.program), dtype)
            found.append(task.record(worst <= limit, said=f"T {worst:.3g} of {limit:g}"))
        elif judge == WITNESS:
            seen = shown(task.program, dtype)
            found.append(task.record(not seen.honest, said=f"T {seen.wrong:.3g}, without the fault {seen.right:.3g}"))
        else:
            passed, why = accepted(RULES[judge], task.program, dtype)
            found.append(task.record(passed, by=why))
    return found
