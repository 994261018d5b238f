"""A case of a run as the sabotages see it: the reference and its vjp on it, each computed once for all sabotages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from trueness.tools.arithmetic.bounds import Bound, outputs, pooled
from trueness.tools.arithmetic.formats import precision, round_to
from trueness.tools.checks.gradients import cotangents_of
from trueness.tools.checks.rounding import APART, SIGNS, explained
from trueness.tools.run.trial import Trial
from trueness.tools.spec.model import Case

MANY_SIGNS, NEAR = 64, 4
"""a change of up to so many units of what rounding explains is measured again, with so many random signs"""


class OtherShape(Exception):
    """A result of another shape, which is refused before any of its numbers is compared."""


@dataclass
class Evaluation:
    """One call of a reference or of its vjp, with its bound.

    kinds     the dtype of every output, "dtype" for the one under test
    saturate  whether outputs stop at the largest number of the format
    """

    trial: Trial
    function: Callable[..., Any]
    arguments: list[Any]
    reduction: int
    make_truth: Callable[[], list[Bound]]
    kinds: Sequence[str] = ()
    saturate: bool = False

    @cached_property
    def y(self) -> list[np.ndarray]:
        with np.errstate(all="ignore"):
            return list(outputs(self.function(*self.arguments)))

    @cached_property
    def truth(self) -> list[Bound]:
        return self.make_truth()

    @cached_property
    def rounding(self) -> list[np.ndarray]:
        """How far rounding explains that each output is from ``y``."""
        return self.rounding_by(SIGNS)

    @cached_property
    def closer(self) -> list[np.ndarray]:
        """The same from many more signs: with few of them the largest effect is missed by chance."""
        return self.rounding_by(MANY_SIGNS)

    def rounding_by(self, signs: int) -> list[np.ndarray]:
        fmt = precision(self.trial.dtype)
        unit = 2.0**-53 if self.trial.formula.working == "float64" else fmt.u
        found = explained(self.function, self.arguments, [unit] * len(self.arguments), fmt, self.reduction, signs)
        if self.reduction < 2:
            return found
        with np.errstate(all="ignore"):  # a row of sums shares its rounding, as in the bound
            return [np.maximum(r, np.sqrt(pooled(np.nan_to_num(r) ** 2))) for r in found]

    def same(self, found: Sequence[np.ndarray]) -> bool:
        """Whether a result is equal to ``y``; OtherShape where its shapes are not."""
        pairs = list(zip(found, self.y, strict=True))
        if any(a.shape != b.shape for a, b in pairs):
            raise OtherShape
        return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)

    def T(self, found: Sequence[np.ndarray]) -> float:
        """T of a result that is rounded once to the format."""
        fmt = precision(self.trial.dtype)
        if self.saturate and fmt.half:
            found = [np.clip(y, -fmt.max, fmt.max) for y in found]
        kinds = self.kinds or ("dtype",) * len(found)
        outs = [round_to(y, self.trial.dtype) if k == "dtype" else y for y, k in zip(found, kinds, strict=True)]
        return self.trial.judge(outs, self.truth).T

    def change(self, found: Sequence[np.ndarray]) -> float:
        """The largest change of an element, in units of what rounding explains in both results."""
        change = self.change_by(self.rounding, found)
        return self.change_by(self.closer, found) if 1 < change < NEAR else change

    def change_by(self, rounding: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> float:
        with np.errstate(all="ignore"):
            ratios = [np.abs(a - b) / (APART * r) for a, b, r in zip(found, self.y, rounding, strict=True)]
        return max((float(np.max(np.nan_to_num(r))) for r in ratios if r.size), default=0.0)


@dataclass
class Sample:
    """One case of the run; ``before`` is a case of the same shapes that was called earlier."""

    trial: Trial
    case: Case
    values: list[Any]
    before: Sample | None = None

    @cached_property
    def value(self) -> Evaluation:
        formula, trial = self.trial.formula, self.trial
        reduction = formula.reduction(trial.sizes(self.values))
        saturate = formula.overflow == "saturate"
        make = lambda: trial.truth(self.values)  # noqa: E731
        return Evaluation(trial, formula.reference, self.values, reduction, make, formula.outputs, saturate)

    @cached_property
    def cotangents(self) -> list[np.ndarray]:
        return cotangents_of([y.shape for y in self.value.y], self.case.seed, self.trial.dtype)

    @cached_property
    def gradient(self) -> Evaluation:
        formula, trial = self.trial.formula, self.trial
        assert formula.vjp is not None
        reduction = (formula.gradient_reduction or formula.reduction)(trial.sizes(self.values))
        make = lambda: trial.truth_of_gradient(self.values, self.cotangents)  # noqa: E731
        return Evaluation(trial, formula.vjp, [*self.cotangents, *self.values], reduction, make)

    @cached_property
    def work(self) -> int:
        return sum(map(size, self.values)) + sum(a.size for a in self.value.y)

    def earlier(self) -> list[np.ndarray]:
        """The outputs of the call before this one: of other elements of the same shapes."""
        return [] if self.before is None else self.before.value.y


def size(value: Any) -> int:
    return sum(map(size, value)) if isinstance(value, (list, tuple)) else int(np.size(value))
