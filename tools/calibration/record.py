"""What a calibration measured: every run, what follows from them, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from trueness.tools.arithmetic.bounds import LIMITS
from trueness.tools.calibration.subjects import DTYPES

SHIPPED, SAME = "as shipped", "as shipped, the same cases"
RIGHT = ("fused", "eager", "exact")


@dataclass(frozen=True)
class Run:
    """One variant on one case: its T by the shipped choices, or by another ``choice``."""

    family: str
    direction: str
    dtype: str
    variant: str
    kind: str
    T: float
    choice: str = SHIPPED

    @property
    def mutant(self) -> bool:
        return self.kind == "mutant"

    @property
    def limit(self) -> float:
        return LIMITS.get(self.kind, LIMITS["fused"])

    @property
    def accepted(self) -> bool:
        return self.T <= self.limit


@dataclass(frozen=True)
class HalfRun:
    """One program on one case: T, and by how much it exceeds what a fused program may (``Reading.stored``)."""

    title: str
    length: int
    dtype: str
    program: str
    kind: str
    T: float
    stored: float

    @property
    def by_T(self) -> bool:
        """Whether T alone rejects it as a fused program."""
        return self.T > LIMITS["fused"]

    @property
    def rejected(self) -> bool:
        """Whether it is rejected as a fused program."""
        return self.by_T or self.stored > 1


@dataclass(frozen=True)
class Summary:
    """All runs of one variant in one dtype: a correct one is held to ``limit``, a mutant should lie beyond it."""

    family: str
    direction: str
    dtype: str
    variant: str
    kind: str
    limit: float
    runs: int
    worst: float
    rejected: float
    """share of the runs beyond the limit: for a mutant its kill rate, for a correct one the false rejects"""


@dataclass(frozen=True)
class Acceptance:
    """What one limit on T, the same for everything, lets through."""

    family: str
    direction: str
    dtype: str
    limit: float
    fused: float
    correct: float
    mutants: float
    never_killed: tuple[str, ...]


@dataclass(frozen=True)
class Calibration:
    """What was measured. ``problems`` are sentences; it has passed when there are none."""

    profile: str
    cases: int
    runs: tuple[Run, ...]
    vacuous: dict[tuple[str, str, str], int]
    untried: tuple[tuple[str, str, str, str], ...]
    invisible: dict[tuple[str, str, str, str], str]
    choice_cases: int
    versions: dict[str, str] = field(default_factory=dict)
    ledger: tuple[Run, ...] = ()
    """the optimized families: what they ship, and the ledger's variants; a run's family is the name of its formula"""
    halves: tuple[HalfRun, ...] = ()

    @cached_property
    def shipped(self) -> tuple[Run, ...]:
        return tuple(r for r in self.runs if r.choice == SHIPPED)

    @cached_property
    def summaries(self) -> tuple[Summary, ...]:
        return summarised(self.shipped)

    @cached_property
    def families(self) -> tuple[Summary, ...]:
        """Of the runs in ``ledger``."""
        return summarised(self.ledger)

    @property
    def correct(self) -> tuple[Summary, ...]:
        return tuple(s for s in self.summaries if s.kind in RIGHT)

    @property
    def mutants(self) -> tuple[Summary, ...]:
        return tuple(s for s in self.summaries if s.kind == "mutant")

    @property
    def reported(self) -> tuple[Summary, ...]:
        return tuple(s for s in self.summaries if s.kind == "reported")

    @property
    def parts(self) -> tuple[tuple[str, str], ...]:
        """(family, direction), in the order they were measured."""
        return tuple(dict.fromkeys((r.family, r.direction) for r in self.shipped))

    def acceptance(self, limits: Sequence[float] = (1.0, 1.5, 3.0)) -> tuple[Acceptance, ...]:
        rows = []
        for family, direction in self.parts:
            for dtype in DTYPES:
                runs = [r for r in self.shipped if (r.family, r.direction, r.dtype) == (family, direction, dtype)]
                correct, wrong = [r for r in runs if r.kind in RIGHT], [r for r in runs if r.mutant]
                for limit in limits:
                    fused = share(r.T <= limit for r in correct if r.kind == "fused")
                    everything, mutants = share(r.T <= limit for r in correct), share(r.T <= limit for r in wrong)
                    alive = survivors(wrong, limit)
                    rows.append(Acceptance(family, direction, dtype, limit, fused, everything, mutants, alive))
        return tuple(rows)

    @cached_property
    def problems(self) -> tuple[str, ...]:
        found = []
        everything = (*self.summaries, *self.families)
        for s in (s for s in everything if s.kind in RIGHT):
            if s.worst > s.limit:
                what = f"{s.family} {s.direction}, {s.dtype}: the correct implementation “{s.variant}” ({s.kind})"
                found.append(f"{what} reached T = {s.worst:.3g}, limit {s.limit:g}.")
        for s in (s for s in everything if s.kind == "mutant"):
            key = (s.family, s.direction, s.dtype, s.variant)
            what = f"{s.family} {s.direction}, {s.dtype}: the mutant “{s.variant}”"
            if key in self.invisible and s.rejected:
                found.append(f"{what} is listed as invisible, but was killed (T = {s.worst:.3g}); strike it off.")
            if s.dtype == "float32" and key not in self.invisible and not s.rejected:
                found.append(f"{what} was never killed (T = {s.worst:.3g}, limit {s.limit:g}).")
        for family, direction, dtype, variant in self.untried:
            found.append(f"{family} {direction}, {dtype}: no case could show the mutant “{variant}”.")
        return (*found, *half_problems(self.halves))

    @property
    def passed(self) -> bool:
        return not self.problems


def half_problems(found: Iterable[HalfRun]) -> list[str]:
    """Every fused program that is rejected, and every sum whose half-format accumulator no case shows."""
    runs = list(found)
    sentences = [
        f"{r.title}, {r.dtype}, sums of {r.length}: the fused program “{r.program}” was rejected "
        f"(T = {r.T:.3g}, {r.stored:.3g} of B_fused)."
        for r in runs
        if r.kind == "fused" and r.rejected
    ]
    for title in dict.fromkeys(r.title for r in runs):
        wrong = [r for r in runs if r.title == title and r.kind == "mutant"]
        if not any(r.rejected for r in wrong):
            sentences.append(f"{title}: no case shows an accumulator in the half format.")
    return sentences


def summarised(runs: Iterable[Run]) -> tuple[Summary, ...]:
    groups: dict[tuple[str, str, str, str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.family, run.direction, run.dtype, run.variant, run.kind), []).append(run)
    return tuple(
        Summary(*key, runs[0].limit, len(runs), max(r.T for r in runs), share(not r.accepted for r in runs))
        for key, runs in groups.items()
    )


def share(truths: Iterable[bool]) -> float:
    """Share of true values; NaN of none."""
    values = list(truths)
    return sum(values) / len(values) if values else float("nan")


def survivors(runs: Iterable[Run], limit: float) -> tuple[str, ...]:
    """The mutants that no run put beyond ``limit``."""
    worst: dict[str, float] = {}
    for run in runs:
        worst[run.variant] = max(worst.get(run.variant, 0.0), run.T)
    return tuple(name for name, T in worst.items() if limit >= T)
