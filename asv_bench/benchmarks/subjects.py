"""What is timed: every declared implementation, on tensors of a chosen size that were judged first.

These helpers live beside the benchmarks, not in tools/: asv measures every commit with today's benchmarks, and an old
commit brings its own tools.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, settings

import trueness.optimized
from trueness.tools.arithmetic.formats import precision
from trueness.tools.checks.core import excluded
from trueness.tools.run import frameworks
from trueness.tools.run.frameworks import Rejected
from trueness.tools.run.runner import missing
from trueness.tools.run.trial import Reading, Trial
from trueness.tools.spec import inputs, registry
from trueness.tools.spec.model import Case, Formula, Implementation

FULL = os.environ.get("TRUENESS_BENCH") == "full"
SIZES = (
    (1 << 12, 1 << 16, 1 << 20) if FULL else (1 << 12, 1 << 18)
)  # elements: what a call costs, and what a byte costs
DTYPES = ("float32", "bfloat16", "float16", "float64") if FULL else ("float32", "bfloat16")
DEVICES = ("cpu", "cuda") if Path("/dev/nvidia0").exists() else ("cpu",)  # asking torch here would poison asv's forks
PEER = "torch eager"
NAMED_AXIS = 64


class Refused(Exception):
    """A subject that is not right is not timed; the message says what is wrong with it."""


def require_origin() -> None:
    """RuntimeError unless ``trueness`` was imported from the tree that is being benchmarked."""
    tree, found = os.environ.get("TRUENESS_BENCH_TREE"), Path(trueness.optimized.__file__).resolve()
    if tree and not found.is_relative_to(Path(tree).resolve()):
        raise RuntimeError(f"benchmarks of {tree} would have measured {found.parent}: another installation came first.")


require_origin()


# -- inputs of a size -----------------------------------------------------------------------------------------------


def case_of_size(formula: Formula, elements: int) -> Case:
    """A case of ``formula`` whose largest tensor has about ``elements`` elements; the same one every time."""
    spans = inputs.symbols(formula)
    named = [d for d in spans if d != "..."]
    axis = NAMED_AXIS if "..." in spans else max(1, round(elements ** (1 / max(len(named), 1))))
    sizes: dict[str, Any] = {d: max(spans[d][0], axis) for d in named}
    if "..." in spans:
        beside = [
            sum(d != "..." for d in a.dims) for a in formula.arguments if "..." in getattr(a, "dims", ())
        ]  # axes that the largest tensor has besides "..."
        sizes["..."] = (max(1, elements // axis ** max(beside)),)
    return Case(sizes=sizes, spread=2.0, scalars=typical_scalars(formula))


def typical_scalars(formula: Formula) -> dict[str, Any]:
    """One value for every scalar: the largest integer that is drawn, else what lies in the middle."""
    drawn: dict[str, list[Any]] = {}

    @settings(
        derandomize=True,
        database=None,
        max_examples=50,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs.cases(formula))
    def collect(case: Case) -> None:
        for name, value in case.scalars.items():
            drawn.setdefault(name, []).append(value)

    collect()
    return {name: representative(values) for name, values in drawn.items()}


def representative(values: list[Any]) -> Any:
    if all(type(v) is int for v in values):
        return max(values)
    if all(isinstance(v, (int, float)) for v in values):
        middle = (min(values) + max(values)) / 2
        return min(values, key=lambda v: abs(v - middle))
    return sorted(values, key=repr)[len(values) // 2]


# -- subjects -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Subject:
    """One implementation on tensors of one dtype and size on one device."""

    formula: Formula
    implementation: Implementation
    dtype: str
    elements: int
    device: str = "cpu"
    given: Case | None = None
    """the case, where it is known already"""

    def __str__(self) -> str:
        return f"{self.formula.name}[{self.implementation.name}, {self.dtype}, {self.elements}, {self.device}]"

    @property
    def key(self) -> tuple[str, str, str, int, str]:
        return self.formula.name, self.implementation.name, self.dtype, self.elements, self.device

    @cached_property
    def trial(self) -> Trial:
        return Trial(self.formula, self.implementation, self.dtype, self.device)

    @cached_property
    def case(self) -> Case:
        return self.given or case_of_size(self.formula, self.elements)

    @cached_property
    def values(self) -> list[Any]:
        """The arguments in float64."""
        return self.trial.arguments_f64(self.case)

    @cached_property
    def call(self) -> Callable[[], Any]:
        """The bare call on this subject's own tensors."""
        function, arguments, keywords = (
            self.trial.load(),
            self.trial.arguments(self.values),
            self.trial.keywords(),
        )
        return lambda: function(*arguments, **keywords)

    def skipped(self) -> str:
        """Why there is nothing to time here; empty if there is."""
        if self.device == "cuda" and not torch.cuda.is_available():
            return "no CUDA device"
        if self.device == "cpu" and self.implementation.env:
            return "interpreted: the time says nothing about the kernel"
        if self.device == "cpu" and self.elements > (self.implementation.largest or self.elements):
            return f"declared for at most {self.implementation.largest} elements"
        return missing(self.implementation) or excluded(self.trial)

    def judged(self) -> Reading:
        """The worst element of what ``call`` returns; Refused if it returns no such thing."""
        try:
            arrays = self.trial.accepted(self.call(), self.values)
        except Rejected as rejection:
            raise Refused(f"{self} is not timed: it {rejection}") from rejection
        except Exception as error:
            raise Refused(f"{self} is not timed: it raised {type(error).__name__}: {error}") from error
        return self.trial.judge([frameworks.to_float64(a) for a in arrays], self.trial.truth(self.values))

    def require_right(self) -> Reading:
        """``judged()``; Refused says where it is wrong."""
        reading = self.judged()
        if not reading.T <= self.trial.limit:
            raise Refused(
                f"{self} is wrong and is not timed: output{list(reading.where)} is {reading.got:.9g}, the reference "
                f"{reading.want:.9g}: T = {reading.T:.3g} of {self.trial.limit:g}."
            )
        return reading

    def bytes(self) -> float | None:
        """What one call must read and write at least, by the formula's cost model."""
        if self.formula.bytes is None:
            return None
        return self.formula.bytes(self.trial.sizes(self.values), precision(self.dtype).torch.itemsize)

    def peer(self) -> Subject | None:
        """The eager implementation in the same place, if the formula has one."""
        found = [i for i in self.formula.implementations if i.name == PEER]
        return Subject(self.formula, found[0], self.dtype, self.elements, self.device, self.case) if found else None


def sizes_of(formula: Formula) -> tuple[int, ...]:
    """The sizes a formula is timed at: none to choose where it takes scalars alone."""
    return SIZES if inputs.symbols(formula) else (0,)


def timed_formulas() -> list[Formula]:
    """Those that say what a call costs, and the tables, which have no size to be chosen."""
    found = registry.formulas().values()
    return [f for f in found if f.bytes is not None or (f.creates and not f.outputs and not inputs.symbols(f))]


def is_ours(implementation: Implementation) -> bool:
    return implementation.origin == "builtin"


def is_timed(implementation: Implementation) -> bool:
    return is_ours(implementation) or implementation.name == PEER or FULL


def subjects(wanted: Callable[[Implementation], bool] = is_ours) -> Iterator[Subject]:
    """Everything that could be timed, in the order of the declarations; one at a time, since each holds its tensors."""
    for formula in timed_formulas():
        for elements, dtype, device in product(sizes_of(formula), DTYPES, DEVICES):
            for implementation in filter(wanted, formula.implementations):
                yield Subject(formula, implementation, dtype, elements, device)


def class_name(formula: Formula) -> str:
    return formula.name.replace(".", "_")


def params(formula: Formula, wanted: Callable[[Implementation], bool]) -> list[list[Any]]:
    """What asv varies for one formula."""
    names = [i.name for i in formula.implementations if wanted(i)]
    return [names, list(DTYPES), list(sizes_of(formula)), list(DEVICES)]


PARAM_NAMES = ["implementation", "dtype", "elements", "device"]
