"""What else the reference says about a special value: other evaluations of the equation, and what depends on it.

Nothing is judged here. A ``Situation`` is a case with one element replaced; everything about it is computed on demand,
because most implementations agree with the reference at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from hypothesis import given

from trueness.tools.arithmetic.bounds import Bound
from trueness.tools.arithmetic.formats import precision, round_to
from trueness.tools.arithmetic.limited import Range, evaluate
from trueness.tools.checks.core import settings_for
from trueness.tools.run.frameworks import Rejected
from trueness.tools.run.trial import Memory, Trial
from trueness.tools.spec import inputs
from trueness.tools.spec.model import Case
from trueness.tools.spec.tables import FORMATS

Outputs = tuple[np.ndarray, ...]
REDRAWS = 6  # of the other arguments, to find what depends on an element
_KNOWN = Memory()  # dependences: the same for every implementation of a formula


@dataclass
class Situation:
    """The arguments of ``case`` with ``special`` in the place of one element.

    base      the arguments without it
    values    the arguments with it
    changed   which argument
    at        flat index of the element
    """

    trial: Trial
    case: Case
    base: Sequence[Any]
    values: Sequence[Any]
    changed: int
    at: int
    special: float

    @property
    def text(self) -> str:
        index = np.unravel_index(self.at, np.shape(self.base[self.changed])) if np.ndim(self.base[self.changed]) else ()
        place = f"[{', '.join(map(str, index))}]" if index else ""
        number = "NaN" if np.isnan(self.special) else f"{self.special:g}"
        return f"{number} in {self.trial.formula.arguments[self.changed].name}{place}"

    # -- the reference itself -------------------------------------------------------------------------------------

    @cached_property
    def exact(self) -> Outputs:
        """The reference in float64, not rounded to the dtype."""
        return evaluate(self.trial.formula.reference, self.values, Range())

    @cached_property
    def rounded(self) -> list[Bound]:
        """The same in the range of the dtype, with a bound that is never too wide: one rounding."""
        return self.trial.fitted([Bound(y, self.roundoff(y)) for y in self.exact])

    def roundoff(self, y: np.ndarray) -> np.ndarray:
        fmt = precision(self.trial.dtype)
        with np.errstate(invalid="ignore", over="ignore"):
            return fmt.u * np.abs(y) + fmt.eta

    @cached_property
    def truth(self) -> list[Bound]:
        """The bound at the special value; it takes all runs of the stochastic reference."""
        return self.trial.stated_truth(self.values)

    @cached_property
    def anchor(self) -> list[Bound]:
        """The bounds at the smallest normal number in the same place: for zeros and subnormals they are the same."""
        fmt = precision(self.trial.dtype)
        values = put(self.trial, self.base, self.changed, self.at, fmt.tiny) if abs(self.special) < fmt.tiny else None
        return self.trial.stated_truth(self.values if values is None else values)

    def near_anchor(self, k: int, out: np.ndarray) -> np.ndarray:
        """T of every element by the bound of the anchor; infinite where the reference has moved away from it."""
        y, other = self.rounded[k].y, self.anchor[k]
        with np.errstate(invalid="ignore"):
            return np.where(np.abs(y - other.y) <= other.B, replace(self.rounded[k], B=other.B).ratio(out), np.inf)

    def near_itself(self, k: int, out: np.ndarray) -> np.ndarray:
        """T of every element; 0 where the largest number leaves no binary digit to be right, B ≥ |y|/2."""
        lost = self.at_the_edge & np.isfinite(out) & (self.truth[k].width >= 0.5)
        return np.where(lost, 0.0, self.truth[k].ratio(out))

    def ratio(self, outs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """T of every element, from the cheapest bound that explains it.

        Elements that the special value does not change have the bound they had without it.
        """
        found, limit = [], self.trial.limit
        known = self.trial.stated_truth(self.base)
        for k, (out, narrow, before) in enumerate(zip(outs, self.rounded, known, strict=True)):
            ratio = narrow.ratio(out)
            same = (narrow.y == before.y) | (np.isnan(narrow.y) & np.isnan(before.y))
            ratio = np.where(same, np.minimum(ratio, before.ratio(out)), ratio)
            for bound in (self.near_anchor, self.near_itself):
                if ((ratio > limit) & np.isfinite(narrow.y) & np.isfinite(out)).any():
                    ratio = np.minimum(ratio, bound(k, out))
            found.append(ratio)
        return found

    def allowance(self, k: int, y: np.ndarray) -> np.ndarray:
        """How far output ``k`` may be from another evaluation ``y`` of the equation."""
        with np.errstate(invalid="ignore", over="ignore"):
            width = np.maximum(finite_or_zero(self.trial.stated_truth(self.base)[k].B), finite_or_zero(self.truth[k].B))
            return np.asarray(self.trial.limit * (width + finite_or_zero(self.roundoff(y))))

    def agrees(self, k: int, out: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Where ``out`` is another evaluation ``y`` of output ``k``, or both are not finite."""
        both, neither = np.isfinite(out) & np.isfinite(y), ~np.isfinite(out) & ~np.isfinite(y)
        if not both.any():
            return neither
        with np.errstate(invalid="ignore"):
            near = np.abs(out - y) <= self.allowance(k, y)
        return np.where(both, near, neither)

    def explains(self, k: int, out: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Where ``out`` is the other evaluation ``y`` rather than the reference itself."""
        with np.errstate(invalid="ignore"):
            closer = np.abs(out - y) < np.abs(out - self.exact[k])
        other = closer | (np.isfinite(y) != np.isfinite(self.exact[k]))
        return self.agrees(k, out, y) & other if other.any() else other

    # -- the same equation in other ranges ------------------------------------------------------------------------

    @cached_property
    def ranges(self) -> list[float]:
        """The largest numbers of the formats that an implementation may compute in."""
        fmt = precision(self.trial.dtype)
        own = [fmt.max] if not fmt.half or self.trial.implementation.limit == "eager" else []
        return sorted({*own, *([FORMATS["float32"].max] if fmt.half else [])})

    @cached_property
    def narrow(self) -> list[Range]:
        """The ranges of these formats; kernels store operands and results of matrix products in their own."""
        fmt = precision(self.trial.dtype)
        stored = [Range(FORMATS["float32"].max, products=fmt.max)] if fmt.half else []
        return [*map(Range, self.ranges), *stored]

    @property
    def at_the_edge(self) -> bool:
        """Whether the special value is the largest number of a range, to the roundoff of the dtype."""
        wide = abs(self.special) * (1 + 2 * precision(self.trial.dtype).u)
        return bool(np.isfinite(self.special)) and any(wide >= largest for largest in self.ranges)

    @cached_property
    def with_nan(self) -> list[np.ndarray]:
        """What the implementation returns with NaN in the place of the special value; finite where it refuses that."""
        values = put(self.trial, self.base, self.changed, self.at, np.nan)
        try:
            found = None if values is None else self.trial.call(values)
        except Rejected:
            found = None
        return [np.zeros(y.shape) for y in self.exact] if found is None else found

    @cached_property
    def overflowing(self) -> list[Outputs]:
        """The reference where results beyond the range are ±∞."""
        return [y for limits in self.narrow for y in _attempt(self.trial, self.values, limits)]

    @cached_property
    def overflown(self) -> list[np.ndarray]:
        """Per output, the elements that a number beyond the range enters on the way, or would under a mask of all keys.

        The second, because a mask may be added to a number that has overflowed.
        """
        found = [np.zeros(y.shape, bool) for y in self.exact]
        masked = any(isinstance(a, inputs.Mask) for a in self.trial.formula.arguments)
        for values in [self.values, unmasked(self.trial, self.values)][: 1 + masked]:
            for limits in self.narrow:
                plain = _attempt(self.trial, values, Range())
                marked = _attempt(self.trial, values, replace(limits, mark=True))
                for k in range(len(found) if plain and marked else 0):
                    found[k] |= np.isnan(marked[0][k]) & ~np.isnan(plain[0][k])
        return found

    @cached_property
    def reached(self) -> list[np.ndarray]:
        """Per output, what NaN in the element's place reaches: a softmax over one key, too, which is always 1."""
        values = put(self.trial, self.base, self.changed, self.at, np.nan)
        nothing = tuple(np.zeros(y.shape) for y in self.exact)
        found = _attempt(self.trial, values, Range()) if values is not None else []
        return [np.isnan(y) for y in (found or [nothing])[0]]

    @cached_property
    def weightless(self) -> list[Outputs]:
        """The reference where a softmax over logits that are all −∞ has weights of 0."""
        return _attempt(self.trial, self.values, Range(empty=True))

    @cached_property
    def flushing(self) -> list[Outputs]:
        """The reference where numbers below the smallest normal one are 0: everywhere, and in the arguments alone."""
        fmt = precision(self.trial.dtype)
        found = []
        for tiny in sorted({fmt.tiny, *([FORMATS["float32"].tiny] if fmt.half else [])}):
            flush = Range(tiny=tiny).flushed
            real = [a.real for a in self.trial.formula.arguments]
            values = [flush(np.asarray(v)) if r else v for v, r in zip(self.values, real, strict=True)]
            found += [*_attempt(self.trial, self.values, Range(tiny=tiny)), *_attempt(self.trial, values, Range())]
        return found

    # -- what depends on the element ------------------------------------------------------------------------------

    @cached_property
    def dependents(self) -> list[np.ndarray]:
        """Per output, the elements that depend on the replaced one for some values of the other arguments."""
        return dependents(self.trial, self.case, self.base, self.changed, self.at)

    @cached_property
    def connected(self) -> list[np.ndarray]:
        """Per output, what depends on the same argument's elements as those do, and so on: a sequence, an image.

        The outputs of a reduction are rows, as they are for the bound: what reaches one element is in its whole row.
        """
        start = self.dependents
        if self.trial.formula.reduction(self.trial.sizes(self.base)) > 1:
            start = [np.broadcast_to(d.any(-1, keepdims=True), d.shape) if d.ndim > 1 else d for d in start]
        return connected(self.trial, self.case, self.base, self.changed, start)

    @cached_property
    def companions(self) -> list[np.ndarray]:
        """Per output, what depends on the element's leading index of any argument that has the same leading axis."""
        kinds = self.trial.formula.arguments
        axis = getattr(kinds[self.changed], "dims", ())[:1]
        index = int(np.unravel_index(self.at, np.shape(self.base[self.changed]))[0])
        found = [d.copy() for d in self.dependents]
        for j, (kind, value) in enumerate(zip(kinds, self.base, strict=True)):
            if not kind.real or getattr(kind, "dims", ())[:1] != axis or not np.size(value):
                continue
            inner = int(np.size(value) // len(value))
            for at in range(index * inner, (index + 1) * inner):
                moved = dependents(self.trial, self.case, self.base, j, at, 1)
                found = [a | b for a, b in zip(found, moved, strict=True)]
        return found

    @cached_property
    def replaced(self) -> list[Outputs]:
        """The reference for several finite numbers in the place of the special one."""
        argument, own = self.trial.formula.arguments[self.changed], np.asarray(self.base[self.changed])
        found = []
        for number in finite_numbers(float(own.flat[self.at])):
            array = argument.put(own, self.at, number)
            if array is not None:
                found += _attempt(self.trial, exchanged(self.base, self.changed, array), Range())
        return found

    @cached_property
    def limits(self) -> list[Outputs]:
        """The reference for larger and larger numbers of the sign of an infinity."""
        argument, own = self.trial.formula.arguments[self.changed], np.asarray(self.base[self.changed])
        found = []
        for exponent in (30, 60):
            array = argument.put(own, self.at, np.copysign(10.0**exponent, self.special))
            if array is not None:
                found += _attempt(self.trial, exchanged(self.base, self.changed, array), Range())
        return found if len(found) == 2 else []

    def sign_open(self, k: int) -> np.ndarray:
        """Where the bound does not tell the sign of what is multiplied by an infinity, so that either may come out."""
        number = np.copysign(np.sqrt(precision(self.trial.dtype).max), self.special)
        values = put(self.trial, self.base, self.changed, self.at, float(number))
        if values is None:
            return np.zeros(self.exact[k].shape, bool)
        bound = self.trial.stated_truth(values)[k]
        return np.asarray(self.trial.limit * bound.B >= np.abs(bound.y))

    def without_effect(self, k: int) -> np.ndarray:
        """Where output ``k`` is the same for every finite number in the element's place."""
        before = self.trial.stated_truth(self.base)[k]
        same = np.full(before.y.shape, len(self.replaced) > 1)
        for y in self.replaced:
            with np.errstate(invalid="ignore"):
                same &= np.abs(y[k] - before.y) <= before.B
        return same


def finite_or_zero(x: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(x), x, 0.0)


def finite_numbers(own: float) -> tuple[float, ...]:
    return (2 * own, -1.5 * own, own / 2, own + 1)


def exchanged(values: Sequence[Any], i: int, value: Any) -> list[Any]:
    return [value if j == i else v for j, v in enumerate(values)]


def unmasked(trial: Trial, values: Sequence[Any]) -> list[Any]:
    """The arguments with every mask true everywhere."""
    kinds = trial.formula.arguments
    return [np.ones_like(v) if isinstance(a, inputs.Mask) else v for a, v in zip(kinds, values, strict=True)]


def _attempt(trial: Trial, values: Sequence[Any], limits: Range) -> list[Outputs]:
    """The evaluation, unless a routine refuses the numbers."""
    try:
        return [evaluate(trial.formula.reference, values, limits)]
    except (ValueError, ArithmeticError, np.linalg.LinAlgError):
        return []


# -- dependence -----------------------------------------------------------------------------------------------------


def redrawn(trial: Trial, case: Case, base: Sequence[Any], count: int) -> list[tuple[list[Any], Outputs]]:
    """Other elements, other real scalars and other indices, under masks that are all true; and what these give."""

    def make() -> list[tuple[list[Any], Outputs]]:
        chosen = _redrawn(trial, case, base, count)
        return [(values, y) for values in chosen for y in _attempt(trial, values, Range())]

    key = f"redrawn {trial.formula.name} {id(trial.formula.reference)} {case.to_json()} {count}"
    return _KNOWN.get_or(key, make)  # type: ignore[no-any-return]


def _redrawn(trial: Trial, case: Case, base: Sequence[Any], count: int) -> list[list[Any]]:
    shapes = [np.shape(v) for v in base]
    found = [unmasked(trial, base)]
    for seed, chosen in enumerate(scalars(trial, case, count)):
        other = Case(sizes=case.sizes, seed=1000 + seed, scalars=chosen)
        values = unmasked(trial, inputs.values(trial.formula, other, trial.dtype))
        for j, a in enumerate(trial.formula.arguments):
            if isinstance(a, inputs.Index):
                below = other.scalars[a.below] if isinstance(a.below, str) else a.below
                values[j] = (np.asarray(base[j]) + 1 + seed) % below
        if [np.shape(v) for v in values] == shapes:
            found.append(values)
    return found


def scalars(trial: Trial, case: Case, count: int) -> list[dict[str, Any]]:
    """The case's scalars, its floats drawn anew; all others decide on shapes and branches."""

    def make() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []

        def keep(other: Case) -> None:
            moved = {n: v for n, v in other.scalars.items() if isinstance(v, float)}
            found.append({**case.scalars, **{n: v for n, v in moved.items() if isinstance(case.scalars.get(n), float)}})

        settings_for(count)(given(inputs.cases(trial.formula))(keep))()
        return (found * count)[:count] if found else [dict(case.scalars)] * count

    return _KNOWN.get_or(f"scalars {trial.formula.name} {id(trial.formula.reference)} {count} {case.to_json()}", make)  # type: ignore[no-any-return]


def dependents(
    trial: Trial, case: Case, base: Sequence[Any], i: int, at: int, redraws: int = REDRAWS
) -> list[np.ndarray]:
    """Per output, the elements that move with element ``at`` of argument ``i``."""

    def make() -> list[np.ndarray]:
        argument, found = trial.formula.arguments[i], None
        for values, before in redrawn(trial, case, base, redraws):
            own = np.asarray(values[i])
            for number in finite_numbers(float(own.flat[at]))[: 4 if redraws == REDRAWS else 1]:
                array = argument.put(own, at, number)
                if array is None:
                    continue
                for after in _attempt(trial, exchanged(values, i, array), Range()):
                    moved = [_differ(a, b) for a, b in zip(before, after, strict=True)]
                    found = moved if found is None else [a | b for a, b in zip(found, moved, strict=True)]
        return found if found is not None else [np.ones(b.y.shape, bool) for b in trial.truth(base)]

    key = f"{trial.formula.name} {id(trial.formula.reference)} {case.to_json()} {i} {at} {redraws}"
    return _KNOWN.get_or(key, make)  # type: ignore[no-any-return]


def _differ(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where two values differ by more than the rounding of a transform that mixes all of them."""
    with np.errstate(invalid="ignore"):
        apart = np.abs(a - b) > 1e-9 * np.maximum(np.abs(a), np.abs(b))
    return np.asarray(np.where(np.isfinite(a) & np.isfinite(b), apart, ~((a == b) | (np.isnan(a) & np.isnan(b)))))


def connected(trial: Trial, case: Case, base: Sequence[Any], i: int, start: Sequence[np.ndarray]) -> list[np.ndarray]:
    """``start`` and all outputs that share an element of argument ``i`` with it, directly or through others."""
    flat = np.concatenate([s.ravel() for s in start]).copy()
    own = [
        np.concatenate([d.ravel() for d in dependents(trial, case, base, i, at, 1)]) for at in range(np.size(base[i]))
    ]
    while True:
        grown = flat.copy()
        for sees in own:
            if (sees & grown).any():
                grown |= sees
        if (grown == flat).all():
            break
        flat = grown
    ends = np.cumsum([s.size for s in start])[:-1]
    return [part.reshape(s.shape) for part, s in zip(np.split(flat, ends), start, strict=True)]


def put(trial: Trial, base: Sequence[Any], i: int, at: int, number: float) -> list[Any] | None:
    """``base`` with ``number`` at element ``at`` of argument ``i``; None where that leaves its domain."""
    array = trial.formula.arguments[i].put(np.array(base[i]), at, number)
    return None if array is None else exchanged(base, i, round_to(array, trial.dtype))
