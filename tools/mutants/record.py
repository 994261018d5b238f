"""What became of the mutants of one formula, as plain data that travels between processes, and of all."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from trueness.tools.mutants.judging import Outcome, Subject


@dataclass(frozen=True)
class Found:
    """One mutant: its function and change (``key``), the line in the function, the outcome, and what shows it."""

    key: str
    line: int
    outcome: Outcome
    reason: str

    def __str__(self) -> str:
        function, what = self.key.split(": ", 1)
        return f"{function}, line {self.line}: {what}"


@dataclass(frozen=True)
class Row:
    """The mutants of a formula, or of its vector-Jacobian product, in one format.

    module   of its functions
    seconds  of CPU time
    left_out  how many mutants were not judged for their cost
    """

    formula: str
    of_gradient: bool
    module: str
    dtype: str
    cases: int
    found: tuple[Found, ...]
    seconds: float
    left_out: int = 0

    @property
    def name(self) -> str:
        return f"{self.formula}, gradient" if self.of_gradient else self.formula


def row_of(name: str, of_gradient: bool, subject: Subject, spent: float = 0.0) -> Row:
    start = time.process_time()
    every = subject.judgements()
    found = tuple(Found(j.mutant.key, j.mutant.line, j.outcome, j.reason) for j in every)
    module, cases = subject.source.module.__name__, len(subject.samples)
    seconds = spent + time.process_time() - start
    return Row(name, of_gradient, module, subject.trial.dtype, cases, found, seconds)


@dataclass(frozen=True)
class Summary:
    """All rows, ``whole`` if these are all formulas."""

    rows: Sequence[Row]
    whole: bool = True

    @cached_property
    def reached(self) -> set[tuple[str, str]]:
        """(module, key) of every mutant that the cases of some formula evaluate."""
        return {(r.module, f.key) for r in self.rows for f in r.found if f.outcome != "unreached"}

    @cached_property
    def killed(self) -> set[tuple[str, str]]:
        return {(r.module, f.key) for r in self.rows for f in r.found if f.outcome == "killed"}

    def counted(self, row: Row) -> list[Found]:
        """The mutants of a row: without those that are evaluated by the cases of other formulas alone."""
        return [f for f in row.found if f.outcome != "unreached" or self.is_nowhere(row, f)]

    @cached_property
    def first(self) -> dict[tuple[str, str], str]:
        """(module, key) of every mutant → the first row that has it."""
        return {(r.module, f.key): r.name for r in reversed(self.rows) for f in r.found}

    def is_nowhere(self, row: Row, found: Found) -> bool:
        """Whether no formula evaluates a place, which is counted once; where not all are here, that is not known."""
        place = (row.module, found.key)
        return self.whole and place not in self.reached and self.first[place] == row.name

    def survivors(self) -> Iterator[tuple[Row, Found]]:
        for row in self.rows:
            yield from ((row, f) for f in self.counted(row) if f.outcome in ("survived", "unreached"))

    def only(self, outcome: str) -> dict[str, list[Found]]:
        """Module → mutants with this outcome that no formula kills, each once."""
        found: dict[str, dict[str, Found]] = {}
        for row in self.rows:
            for f in row.found:
                if f.outcome == outcome and (row.module, f.key) not in self.killed:
                    found.setdefault(row.module.rpartition(".")[2], {})[f.key] = f
        return {module: list(of_one.values()) for module, of_one in found.items()}

    def counts(self, row: Row) -> list[int]:
        found = self.counted(row)
        killed = [f.reason for f in found if f.outcome == "killed"]
        by_T = sum(r.startswith("T = ") for r in killed)
        by_shape = sum(r == "another shape" for r in killed)
        outcomes = [f.outcome for f in found]
        lived = outcomes.count("survived") + outcomes.count("unreached")
        others = [outcomes.count("equivalent"), outcomes.count("out of reach"), lived]
        return [len(found), by_T, by_shape, len(killed) - by_T - by_shape, *others]
