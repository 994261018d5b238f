"""The ladder: cases in which one axis is long, beyond the tiles, blocks and index types that a kernel may have.

Drawn cases are small, so that they shrink. A kernel takes another path where a length passes its tile, its block or
the range of an index. So each symbolic length alone is long, the others small and pairwise different; then all are
equal, scalars lie at the ends of what they allow, and a formula that works element by element is given more than 2^20
elements. What the reference costs on a case is counted, not timed, and limits the length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from hypothesis import strategies as st

from trueness.tools.arithmetic.base import is_inexact
from trueness.tools.arithmetic.bounds import outputs
from trueness.tools.arithmetic.counted import with_count
from trueness.tools.arithmetic.formats import precision
from trueness.tools.arithmetic.noise import Counter, TooCostly
from trueness.tools.run.trial import Trial
from trueness.tools.spec import inputs
from trueness.tools.spec.inputs import PALETTE, Index, Made, Mask, Real, Table
from trueness.tools.spec.model import Case, Formula
from trueness.tools.spec.tables import LONG

SHORTER = (200, 100, 65, 45, 33, 27, 19, 13)
"""lengths tried where a longer one costs too much; behind tiles of 16 and of 8 they leave a part of one"""
BEYOND = 2**12 + 3
"""a length for axes along which it is cheap: more than 64 blocks of 64"""
TOGETHER = (40, 24, 10)
"""lengths of all axes at scalars far from the usual ones, of which the first that is affordable is tried"""
BESIDE = (9, 40)
"""lengths of the other axes beside a long sum, of which the first is taken with which it has LONG results"""
FAR = 700.0
"""a mean, in units of the spread, around which sums of squares lose the spread in float32"""
SMALL = -4.0
"""a decimal exponent of magnitudes, as far as an argument may have it"""
LISTED = 8
"""values of a scalar that are tried one by one"""
FLAT = 2**20 + 5
FLAT_IN_OTHERS = 2**17 + 5
"""elements of the flat case in float32, and in another format that is verified alone"""


@dataclass(frozen=True)
class Rung:
    """A case, the axis that is long in it, and the length of that axis in the case it grew from."""

    case: Case
    axis: str = ""
    base: int = 0

    @property
    def length(self) -> int:
        return length_of(self.case, self.axis) if self.axis else 0

    def at(self, length: int) -> Case:
        """The same case with another length of its axis."""
        return with_length(self.case, self.axis, length)


@dataclass(frozen=True)
class Ladder:
    """The rungs of one formula, and axis → why it is not longer than its base."""

    rungs: tuple[Rung, ...]
    unreached: Mapping[str, str]


def with_length(case: Case, axis: str, length: int) -> Case:
    if axis in case.scalars:
        return replace(case, scalars={**case.scalars, axis: length})
    return with_lengths(case, {axis: length})


def with_lengths(case: Case, lengths: Mapping[str, int]) -> Case:
    """The same case with other lengths of several symbols."""
    return replace(case, sizes={**case.sizes, **{n: (k,) if n == "..." else k for n, k in lengths.items()}})


def length_of(case: Case, axis: str) -> int:
    if axis in case.scalars:
        return int(case.scalars[axis])
    length = case.sizes[axis]
    return int(np.prod(length)) if isinstance(length, tuple) else int(length)


def base(formula: Formula, scalars: Mapping[str, Any], seed: int = 1) -> Case:
    """Small lengths, pairwise different where their spans allow it."""
    sizes: dict[str, Any] = {}
    taken: set[int] = set()
    for name, (low, high) in inputs.symbols(formula).items():
        free = [n for n in range(max(low, 1), high + 1) if n not in taken and n > 1] or [max(low, min(2, high))]
        taken.add(free[0])
        sizes[name] = (free[0],) if name == "..." else free[0]
    return Case(sizes=sizes, seed=seed, spread=1.0, scalars=dict(scalars))


def least(formula: Formula, case: Case) -> Case:
    """The same case with every length as short as its span lets it be, and not empty."""
    return with_lengths(case, {n: max(low, 1) for n, (low, _) in inputs.symbols(formula).items()})


def read(formula: Formula, case: Case) -> float:
    """How many elements the tensors have, told by their shapes: an evaluation reads each of them."""
    shapes = [inputs.shape_of(a.dims, case) for a in formula.arguments if hasattr(a, "dims")]
    return float(sum(np.prod(shape, dtype=float) for shape in shapes))


def affordable(function: Callable[..., Any], arguments: Sequence[Any], budget: float) -> bool:
    """Whether one evaluation reads no more elements than ``budget``, each operation counted as 500 of them at least,
    and returns no more: a product of two short matrices may be a large one."""
    counter = Counter(budget)
    moved = [with_count(x, counter) if is_inexact(x) else x for x in arguments]
    try:
        with np.errstate(all="ignore"):
            found = function(*moved)
    except TooCostly:
        return False
    return sum(np.size(y) for y in (found if isinstance(found, tuple) else (found,))) <= budget


def ladder(
    formula: Formula,
    scalars: Mapping[str, Any],
    lengths: Sequence[int],
    budget: float,
    largest: int | None = None,
    companies: int | None = None,
) -> Ladder:
    """The ladder of ``formula`` up to ``lengths`` and to ``budget`` of work.

    largest    most elements of a tensor
    companies  in how many companies of other scalars an axis is long; None: in all that there are
    """
    start = base(formula, scalars)
    others = [replace(start, scalars=s) for s in others_of(formula, scalars)[:companies]]
    unreached: dict[str, str] = {}
    rungs: list[Rung] = []

    def trouble(case: Case, budget: float = budget) -> str:
        """Why a case is left out; empty where it is affordable."""
        costly = f"its reference costs more than {budget:g}"
        try:
            if read(formula, case) > budget:
                return costly
            values = inputs.values(formula, case, "float64")
            if largest is not None and max((np.size(v) for v in values), default=0) > largest:
                return f"more than {largest} elements"
            return "" if affordable(formula.reference, values, budget) else costly
        except Exception as error:  # the declaration does not allow this length
            return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"

    for axis in inputs.symbols(formula):
        limit = formula.reach.get(axis, max(lengths))
        if isinstance(limit, str):
            unreached[axis] = limit
            continue
        reached: list[int] = []
        for length in sorted({min(n, limit) for n in (*lengths, *SHORTER)}, reverse=True):
            if length <= length_of(start, axis) or (reached and length not in lengths):
                continue
            reason = trouble(with_length(start, axis, length))
            if reason:
                unreached.setdefault(axis, reason)
                continue
            reached.append(length)
            rungs.append(Rung(with_length(start, axis, length), axis, length_of(start, axis)))
        if reached and max(reached) == min(max(lengths), limit):
            unreached.pop(axis, None)
        small = length_of(start, axis)
        company: list[Rung] = []
        for length in [n for n in (reached[-1] + 1, reached[-1]) if n <= limit] if reached else ():
            found = [with_length(one, axis, length) for one in others]
            company = company or [Rung(case, axis, small) for case in found if not trouble(case)]
        if company:  # with one element beyond the whole tiles of the shortest length, which is left out
            rungs[len(rungs) - (len(reached) > 1) :] = company
        if formula.reach.get(axis, BEYOND) == BEYOND and not trouble(with_length(start, axis, BEYOND), budget / 2):
            rungs.append(Rung(with_length(start, axis, BEYOND), axis, small))
    more = [*map(Rung, equal(formula, start)), *map(Rung, ends(formula, start)), *far(formula, start)]
    more += map(Rung, inner(formula, start, lengths))
    more += map(Rung, alternatives(formula, start))
    for rung in more:
        reason = trouble(rung.case)
        if reason and rung.axis and not trouble(case := least(formula, rung.case)):
            reason, rung = "", replace(rung, case=case)
        if not reason:
            rungs.append(rung)
        elif rung.axis:
            unreached[rung.axis] = reason
    for case, value in extreme(formula, start):
        if trouble(case):  # a window that is larger than the image
            rungs += islice((Rung(c) for n in TOGETHER for c in together(formula, case, n) if not trouble(c)), 1)
            continue
        if type(value) is int:
            continue
        longer = [
            with_length(case, axis, min(lengths)) for axis in inputs.symbols(formula) if axis not in formula.reach
        ]
        rungs += [Rung(c) for c in longer if not trouble(c)]
    return Ladder(tuple(rungs), unreached)


def scalars_of(formula: Formula) -> dict[str, st.SearchStrategy[Any]]:
    return {name: s for a in formula.arguments for name, s in a.scalars().items()}


def others_of(formula: Formula, scalars: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Another value for every number that is one of a list, and for everything that is one of a list."""
    numbers, all_ = dict(scalars), dict(scalars)
    for name, strategy in scalars_of(formula).items():
        left = [v for v in listed(strategy) if name in scalars and v != scalars[name]]
        all_.update({name: left[-1]} if left else {})
        numbers.update({name: left[-1]} if left and type(left[-1]) in (int, float) else {})
    return [s for s in ({} if numbers == all_ else numbers, all_) if s and s != scalars]


def together(formula: Formula, start: Case, length: int) -> Iterator[Case]:
    """All lengths equal, as far as the declaration lets them."""
    spans = {n: span for n, span in inputs.symbols(formula).items() if n not in formula.reach}
    if spans and all(low <= length for low, _ in spans.values()):
        yield with_lengths(start, dict.fromkeys(spans, length))


def extreme(formula: Formula, start: Case) -> Iterator[tuple[Case, float]]:
    """Each scalar at a value beyond those that are drawn, for a case with room for its effect."""
    for name, values in {n: v for a in formula.arguments for n, v in a.beyond().items()}.items():
        for value in values:
            if type(value) in (int, float):
                yield replace(start, scalars={**start.scalars, name: value}, seed=3), value


def equal(formula: Formula, start: Case) -> Iterator[Case]:
    """All lengths equal: a wrong axis has the right length; and all of them long."""
    spans = {n: span for n, span in inputs.symbols(formula).items() if n not in formula.reach}
    if len(spans) < 2:
        return
    for length in (max(low for low, _ in spans.values()), 9):
        if all(low <= length for low, _ in spans.values()) and length > 1:
            yield replace(with_lengths(start, dict.fromkeys(spans, length)), seed=length)


def inner(formula: Formula, start: Case, lengths: Sequence[int]) -> Iterator[Case]:
    """Where a tensor has any number of axes: a second one that is long, and one that is shorter than all others."""
    if "..." in start.sizes and "..." not in formula.reach:
        yield replace(start, sizes={**start.sizes, "...": (2, max(lengths))}, seed=5)
        yield replace(start, sizes={**start.sizes, "...": (3, 2)}, seed=5)


def ends(formula: Formula, start: Case) -> Iterator[Case]:
    """Every scalar at its least, and every scalar at its greatest; the real ones near these, too; the least beside the
    smallest magnitudes, against which an ε counts; and each alone near its greatest where the others are near their
    least.
    """
    known = {name: in_order(bounds_of(s)) for name, s in scalars_of(formula).items()}
    for end in (0, -1):
        moved = {name: found[end] for name, found in known.items() if found}
        near = {n: found[end] + (found[~end] - found[end]) / 64 for n, found in known.items() if real(found)}
        for chosen in (moved, {**moved, **near} if near else {}):
            if chosen and any(chosen[n] != start.scalars[n] for n in chosen):
                yield replace(start, scalars={**start.scalars, **chosen}, seed=2)
        if moved and end == 0:
            yield replace(start, scalars={**start.scalars, **moved}, seed=2, scale=SMALL)
    spans = {name: found for name, found in known.items() if real(found) or whole(found)}
    for name in spans if len(spans) > 1 else ():
        chosen = {n: near_end(found, -1 if n == name else 0) for n, found in spans.items()}
        yield replace(start, scalars={**start.scalars, **chosen}, seed=7)


def in_order(values: Sequence[Any]) -> Sequence[Any]:
    return sorted(values) if all(isinstance(v, (int, float)) for v in values) else values


def near_end(span: Sequence[Any], end: int) -> Any:
    """A value near an end of an interval: a sixteenth of it from there, of integers at least one."""
    step = (span[~end] - span[end]) / 16
    return span[end] + (step if real(span) else int(np.copysign(max(abs(step), 1), step)))


def alternatives(formula: Formula, start: Case) -> Iterator[Case]:
    """Every scalar that is one of a list at each of its values, in more than one company.

    In the first round the k-th values of all lists meet. In each further one those lists are one value ahead whose
    number has a certain binary digit, so that any two lists are once in step and once not; and what was the longest
    axis is the shortest.
    """
    lists = {name: found for name, s in scalars_of(formula).items() if len(found := listed(s)) > 1}
    seen = []
    for digit in range(-1, max(len(lists) - 1, 1).bit_length()):
        case = start if digit < 0 else reversed_lengths(formula, start)
        for k in range(1 + max(map(len, lists.values()), default=-1)):
            ahead = [0 if digit < 0 else i >> digit & 1 for i in range(len(lists))]
            chosen = {n: found[(k + d) % len(found)] for (n, found), d in zip(lists.items(), ahead, strict=True)}
            if (case.sizes, chosen) not in seen:
                seen.append((case.sizes, chosen))
                yield replace(case, scalars={**start.scalars, **chosen}, seed=6)


def reversed_lengths(formula: Formula, start: Case) -> Case:
    """The lengths of the symbols in the opposite order; the same where their spans do not allow it."""
    spans = inputs.symbols(formula)
    lengths = [length_of(start, n) for n in spans]
    found = dict(zip(spans, reversed(lengths), strict=True))
    if any(not low <= found[n] <= high for n, (low, high) in spans.items()):
        return start
    return with_lengths(start, found)


def listed(strategy: Any) -> tuple[Any, ...]:
    """The values of a strategy that chooses from a list or is a truth value; empty for others and for long lists."""
    inner = getattr(strategy, "wrapped_strategy", strategy)
    if type(inner).__name__ == "BooleansStrategy":
        return (False, True)
    elements = () if getattr(inner, "_transformations", ()) else tuple(getattr(inner, "elements", ()))
    return elements if len(elements) <= LISTED else ()


def far(formula: Formula, start: Case) -> Iterator[Rung]:
    """Each scalar alone at the values beyond those that are drawn."""
    for name, values in {n: v for a in formula.arguments for n, v in a.beyond().items()}.items():
        for value in values:
            case = replace(start, scalars={**start.scalars, name: value}, seed=3)
            yield Rung(case, name, start.scalars[name]) if counted(value, start.scalars[name]) else Rung(case)


def counted(value: Any, usual: Any) -> bool:
    """Whether a value is a larger count than the usual one, so that a failure can be bisected."""
    return type(value) is int and type(usual) is int and usual < value


def real(ends: Sequence[Any]) -> bool:
    """Whether these are the ends of an interval of floats."""
    return len(ends) == 2 and all(type(v) is float and np.isfinite(v) for v in ends)


def whole(ends: Sequence[Any]) -> bool:
    """Whether these are the ends of an interval of integers that has more than two."""
    return len(ends) == 2 and all(type(v) is int for v in ends) and ends[1] - ends[0] > 1


def bounds_of(strategy: Any) -> tuple[Any, ...]:
    """The ends of an interval of numbers, the elements of a list; empty for other strategies."""
    inner = getattr(strategy, "wrapped_strategy", strategy)
    if getattr(inner, "_transformations", ()):  # sampled_from(…).map(…): its elements are not the values
        return ()
    if hasattr(inner, "min_value") and hasattr(inner, "max_value"):  # floats
        return inner.min_value, inner.max_value
    if getattr(inner, "start", None) is not None and getattr(inner, "end", None) is not None:  # integers
        return inner.start, inner.end
    elements = getattr(inner, "elements", ())
    return tuple(elements) if all(isinstance(e, (int, float, str)) for e in elements) else ()


_LADDERS: dict[Any, Ladder] = {}


def ladder_of(trial: Trial, scalars: Mapping[str, Any]) -> Ladder:
    """The ladder of a trial: by its profile, and the same for all implementations of a formula but small ones."""
    formula, profile, largest = trial.formula, trial.profile, trial.implementation.largest
    interpreted = trial.interpreted
    key = (formula.name, formula.reference, profile.name, largest, interpreted)
    if key not in _LADDERS:
        lengths = profile.lengths[:1] if interpreted else profile.lengths
        _LADDERS[key] = ladder(formula, scalars, lengths, profile.work, largest, 1 if interpreted else None)
    found = _LADDERS[key]
    if not trial.paths:
        return replace(found, rungs=tuple(longest(found.rungs)))
    elements = FLAT if trial.dtype == "float32" or profile.every_dtype else FLAT_IN_OTHERS
    many = flat(formula, scalars, elements) if largest is None else None
    return replace(found, rungs=(*found.rungs, *([Rung(many)] if many else [])))


_SUMS: dict[Any, list[Rung]] = {}


def sums_of(trial: Trial, scalars: Mapping[str, Any]) -> list[Rung]:
    """For a fused program in a half format: long sums with so many results that it is held to B_fused.

    For every axis along which sums grow, its longest length on the ladder, around 0 and around a mean of ``FAR``.
    """
    formula, chosen = trial.formula, trial.implementation
    if not precision(trial.dtype).half or chosen.limit != "fused" or chosen.largest is not None:
        return []
    key = (formula.name, formula.reference, trial.profile.name, trial.interpreted, trial.dtype)
    if key not in _SUMS:
        found = [beside(trial, rung) for rung in longest(ladder_of(trial, scalars).rungs)]
        both = [replace(rung, case=replace(rung.case, offset=mean)) for rung in found if rung for mean in (0.0, FAR)]
        _SUMS[key] = [rung for rung in both if is_held(trial, rung.case)]
    return _SUMS[key]


def is_held(trial: Trial, case: Case) -> bool:
    """Whether there is a B_fused: around a far mean a softmax may saturate, which says nothing about its sums."""
    return any(bound.fused is not None for bound in trial.stated_truth(trial.arguments_f64(case)))


def beside(trial: Trial, rung: Rung) -> Rung | None:
    """The rung, shorter if need be, with longer other axes, so that it has LONG results; None if no sum grows on it."""
    fixed = {rung.axis, *trial.formula.reach}
    others = {name: low for name, (low, _) in inputs.symbols(trial.formula).items() if name not in fixed}
    for length in (rung.length, *(n for n in SHORTER if LONG <= n < rung.length)):
        for other in BESIDE:
            case = with_lengths(rung.at(length), {name: max(low, other) for name, low in others.items()})
            if long_sums(trial, case, rung):
                return replace(rung, case=case)
    return None


def long_sums(trial: Trial, case: Case, rung: Rung) -> bool:
    """Whether a case is affordable, and its sums are many, long, and shorter where the axis of the rung is."""
    formula, budget = trial.formula, trial.profile.work
    try:
        if read(formula, case) > budget:
            return False
        short = inputs.values(formula, with_length(case, rung.axis, rung.base), trial.dtype)
        values = inputs.values(formula, case, trial.dtype)
        n = formula.reduction(trial.sizes(values))
        if n < LONG or n <= formula.reduction(trial.sizes(short)):
            return False
        if not affordable(formula.reference, values, budget):
            return False
        with np.errstate(all="ignore"):
            return max(y.size for y in outputs(formula.reference(*values))) >= LONG
    except Exception:  # the declaration does not allow these lengths together
        return False


def longest(rungs: Sequence[Rung]) -> Iterator[Rung]:
    """The first of the longest rungs of every axis, but BEYOND: the sums in which roundoff adds up."""
    most: dict[str, Rung] = {}
    for rung in rungs:
        if rung.axis and rung.length != BEYOND and (rung.axis not in most or rung.length > most[rung.axis].length):
            most[rung.axis] = rung
    yield from most.values()


# -- the flat case ----------------------------------------------------------------------------------------------------


def flat(formula: Formula, scalars: Mapping[str, Any], elements: int) -> Case | None:
    """One case of more than ``elements`` elements for a formula that works column by column; None for another one."""
    symbol = last_symbol(formula)
    if not symbol or symbol in formula.reach:
        return None
    key = (formula.name, formula.reference, elements)
    if key not in _FLAT:
        _FLAT[key] = _flat(formula, scalars, symbol, elements)
    return _FLAT[key]


_FLAT: dict[Any, Case | None] = {}


def _flat(formula: Formula, scalars: Mapping[str, Any], symbol: str, elements: int) -> Case | None:
    start = base(formula, scalars, seed=4)
    small = with_length(start, symbol, PALETTE)
    try:
        values = inputs.values(formula, small, "float64")
        if not inputs.by_column(formula.reference, values, PALETTE):
            return None
        rows = max(np.size(v) for v in values) // PALETTE
        case = with_length(start, symbol, -(-elements // rows))
    except Exception:  # the declaration does not allow this length
        return None
    return case if length_of(case, symbol) > inputs.TILED else None


def last_symbol(formula: Formula) -> str:
    """The symbol that is the last axis of every tensor that has it; empty where there is none."""
    candidates: set[str] = set()
    for a in formula.arguments:
        dims = getattr(a, "dims", ())
        if type(a) is Real and dims and isinstance(dims[-1], str):
            candidates.add(dims[-1])
    for a in formula.arguments:
        dims = getattr(a, "dims", ())
        if isinstance(a, (Made, Table)):
            candidates -= set(a.symbols())
        for symbol in list(candidates):
            computed = any(callable(d) for d in dims)
            inside = symbol in dims and (symbol in dims[:-1] or type(a) is not Real or isinstance(a, (Index, Mask)))
            if inside or computed:
                candidates.discard(symbol)
    return min(candidates, default="") if len(candidates) == 1 else ""
