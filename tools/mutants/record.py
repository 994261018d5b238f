"""What became of the mutants of one formula, as plain data that travels between processes."""

from __future__ import annotations

import time
from dataclasses import dataclass

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
    """

    formula: str
    of_gradient: bool
    module: str
    dtype: str
    cases: int
    found: tuple[Found, ...]
    seconds: float

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
