"""What becomes of the mutants of one formula on the cases of a run.

Each mutant is called on the cases that the value check draws, the cheapest first, until one rejects it. One that gives
the same bits on all of them is equivalent only if its place is evaluated at all and if it gives the same on probes,
too: more cases, and arguments of other magnitudes than those that are drawn.

    killed       T beyond the limit on some case, another shape, or an exception
    equivalent   no result changes by more than the rounding of float64
    out of reach  no result changes by more than the rounding of the format
    survived     anything else: a program with this fault would pass
    unreached    its place is not evaluated on any case
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from hypothesis import given

from trueness.tools.arithmetic.bounds import outputs
from trueness.tools.arithmetic.formats import precision
from trueness.tools.checks.contract import typical
from trueness.tools.checks.core import search, settings_for
from trueness.tools.checks.detection import LIMIT, cases_of_run
from trueness.tools.checks.gradients import cotangents_for
from trueness.tools.checks.rounding import explained, operands
from trueness.tools.checks.samples import Evaluation, OtherShape, Sample
from trueness.tools.checks.value import unjudged
from trueness.tools.mutants.patching import Functions, Lines, Source, executed, innermost, is_evaluated, named
from trueness.tools.mutants.rules import number
from trueness.tools.mutants.tree import Mutant, lines_of
from trueness.tools.run.trial import Trial
from trueness.tools.spec.inputs import VALUES, Real, Scalar, cases, values
from trueness.tools.spec.model import Case

Outcome = Literal["killed", "equivalent", "out of reach", "survived", "unreached"]
PROBES = (48, 24)
"""cases beyond those of a run: of a reference of few operands, and of one that reads more than MANY"""
MANY = 500
MAGNITUDES = (1e-3, 30.0, 1e3)
"""factors of real arguments in a probe"""
Probe = tuple[list[Any], list[np.ndarray], list[np.ndarray]]
Guard = Callable[[Callable[[], Any]], Any]


@dataclass(frozen=True)
class Judgement:
    """What became of one mutant, and what shows it."""

    mutant: Mutant
    outcome: Outcome
    reason: str = ""
    dtype: str = ""
    """the format in whose cases it was killed"""


@dataclass
class Subject:
    """A formula whose mutants are judged: its trial and the cases of its run.

    guard  runs a call of a mutant, and may bound what it takes
    """

    trial: Trial
    guard: Guard = lambda call: call()
    drawn: Sequence[Case] | None = None
    of_gradient: bool = False

    def __post_init__(self) -> None:
        self.source = Source(sys.modules[innermost(self.function).__module__])

    @property
    def function(self) -> Callable[..., Any]:
        formula = self.trial.formula
        return formula.vjp if self.of_gradient and formula.vjp is not None else formula.reference

    @cached_property
    def samples(self) -> list[Sample]:
        """The cases of the run, the cheapest first."""
        drawn = list(self.drawn or ())
        if self.drawn is None:
            search(self.trial, drawn.append)
        every = [Sample(self.trial, c, self.trial.arguments_f64(c)) for c in cases_of_run(self.trial, drawn)]
        return sorted(every, key=lambda s: s.work)

    @cached_property
    def traced(self) -> list[tuple[Sample, Evaluation, set[str], Lines]]:
        """For every case the functions that are entered and the lines that are executed; without those cases that
        cost more memory than there is, as the matrix of a filter of 2^20 columns does."""
        found = []
        for sample in self.samples:
            evaluation = sample.gradient if self.of_gradient else sample.value
            try:
                found.append((sample, evaluation, *executed(self.function, evaluation.arguments, self.source.module)))
            except MemoryError:
                continue
        return found

    @property
    def evaluations(self) -> list[tuple[Sample, Evaluation]]:
        return [(sample, evaluation) for sample, evaluation, _, _ in self.traced]

    @cached_property
    def functions(self) -> Functions:
        """The functions whose mutants are judged: of a vjp those that the reference does not call."""
        found = named({name for _, _, names, _ in self.traced for name in names}, self.source.module)
        if not self.of_gradient:
            return found
        of_value = replace(self, of_gradient=False).functions
        return {name: f for name, f in found.items() if name not in of_value}

    @cached_property
    def mutants(self) -> list[Mutant]:
        return self.source.mutants(self.functions)

    def judgements(self) -> list[Judgement]:
        """What becomes of every mutant; a default that no call uses makes none."""
        every = [self.judge(m) for m in self.mutants]
        return [j for j in every if j.outcome != "unreached" or j.mutant.path[0][0] == "body"]

    # -- one call ---------------------------------------------------------------------------------------------------

    def call(self, arguments: Sequence[Any]) -> list[np.ndarray]:
        """What the function gives, as it is now."""

        def run() -> list[np.ndarray]:
            with np.errstate(all="ignore"):
                return list(outputs(self.function(*arguments)))

        return self.guard(run)  # type: ignore[no-any-return]

    @cached_property
    def probes(self) -> list[Probe]:
        """(arguments, outputs, how far the rounding of float64 moves these) of inputs beyond those of the run."""
        found = []
        for arguments in probes(self.trial, literals(self.source, self.functions)):
            if self.of_gradient:
                try:
                    arguments = [*cotangents_for(self.trial, arguments, 0), *arguments]
                except Exception:  # outside of the formula's domain
                    continue
            try:
                y = self.call(arguments)
            except Exception:  # outside of the formula's domain
                continue
            if all(np.isfinite(a).all() for a in y):
                found.append((arguments, y, float64_rounding(self.trial, self.function, arguments)))
        return found

    def judge(self, mutant: Mutant) -> Judgement:
        """What becomes of one mutant."""
        code = self.source.code(mutant)

        @contextmanager
        def applied() -> Iterator[None]:
            with self.source.replaced(mutant.function, code):
                yield

        visible = wide = 0.0
        differs = False
        for sample, evaluation in self.reaching(mutant):
            try:
                with applied():
                    found = self.call(evaluation.arguments)
                if evaluation.same(found):
                    continue
                if not evaluation.kinds and within(found, evaluation.y, self.unseen):
                    differs = True
                    wide = max(wide, self.change_in_float64(evaluation, found))
                    continue
                T, judged = evaluation.T(found), True
            except OtherShape:
                T, judged = np.inf, False
                reason = "another shape"
            except Exception as error:
                T, judged = np.inf, False
                reason = f"raises {type(error).__name__}"
            if not sample.case.plain and unjudged(self.trial, sample.case, sample.values, sample.value.truth):
                continue
            if T > LIMIT:
                return Judgement(mutant, "killed", f"T = {T:.3g}" if judged else reason, self.trial.dtype)
            differs = True
            visible = max(visible, evaluation.change(found))
            if visible <= 1:
                wide = max(wide, self.change_in_float64(evaluation, found))
        if visible > 1:
            text = f"it changes a result by {visible:.3g} × what rounding explains, T ≤ {LIMIT:g} on every case"
            return Judgement(mutant, "survived", text)
        if wide > 1:
            return Judgement(mutant, "out of reach", "no change beyond the rounding of the format")
        if not self.is_reached(mutant):
            return Judgement(mutant, "unreached", "no case evaluates it")
        known = self.probes  # evaluated before the mutant is in place
        with applied():
            shown = self.shown_by(known)
        if shown:
            return Judgement(mutant, "survived", shown)
        return Judgement(mutant, "equivalent", "to the rounding of float64" if differs else "the same bits")

    def reaching(self, mutant: Mutant) -> list[tuple[Sample, Evaluation]]:
        """The cases that execute the statement in which a mutant stands; all for a constant and for a default."""
        lines = lines_of(self.source.definition(mutant.function), mutant.path)
        return [(s, e) for s, e, _, executed in self.traced if not lines or not executed.isdisjoint(lines)]

    @property
    def unseen(self) -> float:
        """A relative change that leaves T ≤ 5/4: with the one rounding it is 5/4 of u |y|, and B is u |y| at least."""
        return precision(self.trial.dtype).u / 4

    def change_in_float64(self, evaluation: Evaluation, found: Sequence[np.ndarray]) -> float:
        if within(found, evaluation.y, 2.0**-52):
            return 1.0
        key = id(evaluation)
        kept = self.__dict__.setdefault("_rounding", {})
        if key not in kept:
            kept[key] = float64_rounding(self.trial, self.function, evaluation.arguments)
        return change(found, evaluation.y, kept[key])

    def is_reached(self, mutant: Mutant) -> bool:
        """Whether some case evaluates the place of a mutant."""
        kept = self.__dict__.setdefault("_reached", {})
        key = (mutant.function, mutant.path if mutant.function in self.functions else ())
        if key not in kept:
            with self.source.without(mutant):
                kept[key] = any(self.evaluates(e.arguments) for _, e in self.reaching(mutant))
        return bool(kept[key])

    def evaluates(self, arguments: Sequence[Any]) -> bool:
        try:
            self.call(arguments)
        except Exception as error:
            return is_evaluated(error)
        return False

    def shown_by(self, known: Sequence[Probe]) -> str:
        """What a probe shows of the mutant that is in place now; empty where there is no difference."""
        for arguments, y, rounding in known:
            try:
                found = self.call(arguments)
            except Exception as error:
                return f"only inputs beyond those of the run show it: raises {type(error).__name__}"
            if [a.shape for a in found] != [b.shape for b in y]:
                return "only inputs beyond those of the run show it: another shape"
            far = change(found, y, rounding)
            if far > 1 or not all(np.isfinite(a).all() for a in found):
                return f"only inputs beyond those of the run show it: {far:.3g} × the rounding of float64"
        return ""


def within(found: Sequence[np.ndarray], y: Sequence[np.ndarray], factor: float) -> bool:
    """Whether no element is farther from ``y`` than this share of it."""
    with np.errstate(all="ignore"):
        return all(np.all((a == b) | (np.abs(a - b) <= factor * np.abs(b))) for a, b in zip(found, y, strict=True))


def change(found: Sequence[np.ndarray], y: Sequence[np.ndarray], rounding: Sequence[np.ndarray]) -> float:
    """The largest change of an element in units of what rounding explains in both results."""
    with np.errstate(all="ignore"):
        ratios = [np.where(a == b, 0, np.abs(a - b) / (2 * r)) for a, b, r in zip(found, y, rounding, strict=True)]
    return max((float(np.max(np.nan_to_num(r, nan=0.0))) for r in ratios if r.size), default=0.0)


def float64_rounding(trial: Trial, function: Callable[..., Any], arguments: Sequence[Any]) -> list[np.ndarray]:
    """How far the rounding of float64 moves each output; all of the result where an argument has no rounding."""
    fmt = precision("float64")
    reduction = trial.formula.reduction(trial.sizes(arguments[-len(trial.formula.arguments) :]))
    return explained(function, arguments, [fmt.u] * len(arguments), fmt, reduction)


def literals(source: Source, functions: Functions) -> list[float]:
    """The numbers that are written in the functions, where a comparison may tip, and those a little beside them."""
    nodes = [n for name in functions for n in ast.walk(source.definition(name))]
    found = {float(x) for n in nodes if (x := number(n)) is not None}
    return sorted({x + d for x in found for d in (-0.5, 0.0, 0.5)})


def probes(trial: Trial, written: Sequence[float]) -> Iterator[list[Any]]:
    """Arguments beyond those of a run: more cases, real arguments of other magnitudes within their domain, and the
    numbers ``written`` in the functions."""
    formula = trial.formula
    found: list[Case] = []

    def keep(case: Case) -> None:
        found.append(case)

    costly = operands(formula.reference, trial.arguments_f64(typical(trial))) > MANY
    settings_for(PROBES[costly])(given(cases(formula))(keep))()
    for case in found:
        yield values(formula, case, "float64")
    for case in found[-2 if costly else -4 :]:
        for fields in VALUES:
            yield values(formula, replace(case, **fields), "float64")
        for factor in MAGNITUDES:
            arguments = values(formula, replace(case, zeros=0.0), "float64")
            yield [scaled(a, x, factor) for a, x in zip(formula.arguments, arguments, strict=True)]
    generator = np.random.default_rng(7)
    for case in found[-2:]:
        arguments = values(formula, case, "float64")
        for i, a in enumerate(formula.arguments):
            for x in numbers_for(a, arguments[i], written, generator):
                yield [x if j == i else y for j, y in enumerate(arguments)]


def numbers_for(argument: Any, value: Any, written: Sequence[float], generator: np.random.Generator) -> Iterator[Any]:
    """The numbers ``written`` in place of those of an argument: in a real array all at once, as a scalar each."""
    if type(argument) is Real and not argument.unit_scale and np.size(value):
        low, high = max(argument.domain[0], 0.0 if argument.positive else -np.inf), argument.domain[1]
        allowed = [x for x in written if low < x < high]
        yield from [generator.choice(allowed, np.shape(value))] if allowed else []
    elif isinstance(argument, Scalar) and type(value) is float:
        low, high = ends_of(argument.strategy)
        yield from (x for x in written if low <= x <= high)


def scaled(argument: Any, value: Any, factor: float) -> Any:
    """A plain real argument times ``factor`` where its domain holds that; any other as it is."""
    if type(argument) is not Real or argument.unit_scale:
        return value
    low, high = argument.domain
    moved = value * factor
    return moved if np.all((moved > low) & (moved < high)) else value


def ends_of(strategy: Any) -> tuple[float, float]:
    """The interval of a strategy of floats, of the widest where there are several; empty where it is a list."""
    inner = getattr(strategy, "wrapped_strategy", strategy)
    parts = [ends_of(s) for s in getattr(inner, "element_strategies", ())]
    if parts:
        return min(low for low, _ in parts), max(high for _, high in parts)
    if hasattr(inner, "min_value") and hasattr(inner, "max_value"):
        return float(inner.min_value), float(inner.max_value)
    return np.inf, -np.inf
