"""Sabotage: generic faults around any reference, by which the cases of a run are themselves tested.

A kernel goes wrong in a few typical ways: the last, incomplete tile is not read, one batch entry serves for all, a
tensor core rounds the operands. Each sabotage does one of these to one argument, output or gradient of a reference,
along one axis. Nothing is written per formula: what applies follows from the arguments as they are declared. A run
whose cases do not reject a sabotage would accept a kernel with this fault (tools/checks/detection.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal

import numpy as np

from trueness.tools.arithmetic.bounds import outputs
from trueness.tools.arithmetic.formats import precision
from trueness.tools.spec.model import Formula

TILES = (16, 32, 64, 128)
FIRST = (8, 16, 32, 64, 128, 256)
BLOCKS = (2**10, 2**16, 2**20)
"""lengths of a flat axis beyond which nothing is written: one block, 64 blocks of 1024, a grid of 1024 of them"""
FACTORS = (1.01, 1.0001)
OPERANDS = {"bfloat16": 8, "TF32": 11, "float32": 24}
"""name → bits of the significand to which operands may be cut"""

Array = np.ndarray
Change = Callable[[Array], Array]
Target = Literal["argument", "output", "gradient", "call"]


@dataclass(frozen=True)
class Axis:
    """An axis of an array whose rank may vary.

    label   its symbol, or its number
    at      index, counted from the end where it is negative; None: all axes as one
    rank    least rank of an array that has it
    symbol  the symbol that its length is, if it is one
    """

    label: str
    at: int | None
    rank: int
    symbol: str = ""

    def length(self, array: Array) -> int:
        """The length along this axis; 0 where there is none."""
        if np.ndim(array) < self.rank:
            return 0
        return int(np.size(array)) if self.at is None else int(np.shape(array)[self.at])

    def along(self, change: Callable[[Array], Array]) -> Change:
        """``change``, which acts along the first axis, along this one."""

        def changed(array: Array) -> Array:
            if array.ndim < self.rank:
                return array
            if self.at is None:
                return change(array.reshape(-1)).reshape(array.shape)
            return np.moveaxis(change(np.moveaxis(array, self.at, 0)), 0, self.at)

        return changed


@dataclass(frozen=True)
class Sabotage:
    """One fault: a kind, where, along which axis, and a parameter such as the length of a tile.

    target, index  the argument, the output, the gradient, or the call as a whole
    change         what is done to that array (or to all arguments, for a call)
    beyond         the length along the axis that a case must exceed for the fault to change anything
    """

    kind: str
    place: str
    axis: Axis | None
    parameter: float | str
    target: Target
    index: int
    change: Callable[[Any], Any] = field(compare=False, repr=False)
    beyond: int = 0

    def __str__(self) -> str:
        along = f" along {self.axis.label}" if self.axis else ""
        parameter = f" ({self.parameter})" if self.parameter != "" else ""
        return f"{self.place}{along}: {self.kind}{parameter}"

    def spoiled(self, values: Sequence[Any]) -> list[Any] | None:
        """The arguments that the reference is called with; None where they stay what they are."""
        if self.target == "call":
            return self.change(list(values))  # type: ignore[no-any-return]
        old = values[self.index]
        new = self.change(old)
        if np.array_equal(new, old, equal_nan=isinstance(new, np.ndarray) and new.dtype.kind == "f"):
            return None
        return [new if i == self.index else v for i, v in enumerate(values)]

    def apply(
        self,
        function: Callable[..., Any],
        values: Sequence[Any],
        true: Sequence[Array] | None = None,
        earlier: Callable[[], Sequence[Array]] = tuple,
    ) -> list[Array] | None:
        """The outputs of ``function`` with this fault; None where it does nothing to this call.

        true     the outputs of ``function(*values)``, where they are known
        earlier  returns the outputs of the call before
        """
        with np.errstate(all="ignore"):
            if self.target in ("argument", "call") and self.kind != EARLIER:
                spoiled = self.spoiled(values)
                return None if spoiled is None else list(outputs(function(*spoiled)))
            found = list(outputs(function(*values)) if true is None else true)
            if self.kind == EARLIER:
                before = list(earlier())
                same = [a.shape for a in before] == [a.shape for a in found]
                return before if same else None
            if self.kind in STALE:
                before = list(earlier())
                fits = len(before) == len(found) and before[self.index].shape == found[self.index].shape
                if not fits:
                    return None
                found[self.index] = self.change((found[self.index], before[self.index]))
                return found
            found[self.index] = self.change(found[self.index])
            return found


EARLIER = "the result of an earlier call"
STALE = ("the last element keeps the value of an earlier call",)


# -- what is done to one array, along its first axis -------------------------------------------------------------------


def tail(tile: int, repeat: bool) -> Change:
    """What lies beyond the last full tile reads as zero, or repeats the tile before; a single tile is right."""

    def change(array: Array) -> Array:
        n = len(array)
        start = n - n % tile
        if start in (0, n):
            return array
        made = array.copy()
        made[start:] = array[start - tile : n - tile] if repeat else 0
        return made

    return change


def head(count: int) -> Change:
    """Zeros from the entry ``count`` on."""

    def change(array: Array) -> Array:
        if len(array) <= count:
            return array
        made = array.copy()
        made[count:] = 0
        return made

    return change


def first_for_all(array: Array) -> Array:
    """Entry 0 in place of every entry."""
    return np.broadcast_to(array[:1], array.shape).copy() if len(array) > 1 else array


# -- what is done to a whole array ------------------------------------------------------------------------------------


def cut(digits: int) -> Change:
    """Rounded to a significand of ``digits`` bits, the exponent unlimited."""

    def change(array: Array) -> Array:
        significand, exponent = np.frexp(array)
        return np.ldexp(np.rint(significand * 2.0**digits) / 2.0**digits, exponent)

    return change


def in_storage_order(array: Array) -> Array:
    """A tensor that was stored with its last two axes exchanged, read as if it were contiguous."""
    if array.ndim < 2:
        return array
    return np.swapaxes(array, -1, -2).reshape(-1).reshape(array.shape)


def swapped(a: Axis, b: Axis) -> Change:
    """Two axes of equal length exchanged."""

    def change(array: Array) -> Array:
        if array.ndim < max(a.rank, b.rank) or array.shape[a.at] != array.shape[b.at]:  # type: ignore[index]
            return array
        return np.swapaxes(array, a.at, b.at)  # type: ignore[arg-type]

    return change


def without_last(array: Array) -> Array:
    """The last element is zero."""
    if not array.size:
        return array
    made = array.copy()
    made[(-1,) * array.ndim] = 0
    return made


def last_stale(pair: tuple[Array, Array]) -> Array:
    """The last element is that of the array before."""
    array, before = pair
    if not array.size:
        return array
    made = array.copy()
    made[(-1,) * array.ndim] = before[(-1,) * array.ndim]
    return made


def mean_of(array: Array) -> Array:
    return np.full_like(array, array.mean()) if array.size else array


# -- which apply ------------------------------------------------------------------------------------------------------


def axes_of(dims: Sequence[Any] | None, rank: int) -> list[Axis]:
    """The axes of an array with these dims; without dims by their numbers."""
    if dims is None:
        return [Axis(f"axis {k}", k, rank) for k in range(rank)]
    if "..." not in dims:
        return [_named(d, k, k, len(dims)) for k, d in enumerate(dims)]
    p, n = list(dims).index("..."), len(dims)
    found = [_named(d, k, k if k < p else k - n, n - 1) for k, d in enumerate(dims) if d != "..."]
    found.append(Axis("the first of ...", p, n, "..."))
    found.append(Axis("the last of ...", p - n, n + 1, "..."))
    if n == 1:
        found.append(Axis("all axes as one", None, 1, "..."))
    return found


def _named(dim: Any, number: int, at: int, rank: int) -> Axis:
    return Axis(dim, at, rank, dim) if isinstance(dim, str) else Axis(f"axis {number}", at, rank)


def output_axes(formula: Formula, ranks: Sequence[int]) -> list[Axis]:
    """The axes of an output: all where its rank is always the same, otherwise the first, the last and all as one."""
    if min(ranks) == max(ranks):
        return [Axis(f"axis {k}", k, ranks[0]) for k in range(ranks[0])]
    flat = all(tuple(a.dims) == ("...",) for a in formula.arguments if hasattr(a, "dims"))
    found = [Axis("its first axis", 0, 1), Axis("its last axis", -1, 2)]
    return [*found, Axis("all axes as one", None, 1)] if flat else found


def sabotages(
    formula: Formula, dtype: str, values: Sequence[Any], ranks: Sequence[Sequence[int]], gradient: bool = True
) -> list[Sabotage]:
    """Every sabotage of ``formula`` in ``dtype``; ``values`` are some arguments, ``ranks[k]`` the ranks of output k."""
    found: list[Sabotage] = []
    for i, (argument, value) in enumerate(zip(formula.arguments, values, strict=True)):
        if isinstance(value, np.ndarray):
            axes = axes_of(getattr(argument, "dims", None), value.ndim)
            found += of_argument(i, argument.name, value.dtype.kind == "f", argument.real, axes, dtype)
        elif isinstance(value, float):
            found += [
                Sabotage("a scalar off by a factor", argument.name, None, f, "argument", i, lambda x, f=f: x * f)
                for f in FACTORS
            ]
    for k, of_output in enumerate(ranks):
        name = "output" if len(ranks) == 1 else f"output {k}"
        found += of_result(k, name, output_axes(formula, of_output), dtype)
    found.append(Sabotage(EARLIER, "output", None, "", "call", 0, list))
    found += truncations(formula)
    if gradient and formula.vjp is not None:
        wanted = [a.name for a in formula.arguments if a.differentiable]
        found += [
            Sabotage("dropped", f"gradient of {name}", None, "zeros", "gradient", k, np.zeros_like)
            for k, name in enumerate(wanted)
        ]
    return found


def along_axes(axes: Sequence[Axis], place: str, target: Target, index: int) -> Iterator[Sabotage]:
    """The faults that act along one axis of an argument or an output."""
    for axis in axes:
        for t in TILES:
            for repeat in (False, True):
                kind = "the incomplete last tile " + ("repeats the tile before" if repeat else "is zero")
                yield Sabotage(kind, place, axis, t, target, index, axis.along(tail(t, repeat)), t)
        kind = "index 0 serves for all"
        yield Sabotage(kind, place, axis, "", target, index, axis.along(first_for_all), 1)
        if axis.at is None:
            for n in BLOCKS:
                kind = "only the first entries"
                yield Sabotage(kind, place, axis, n, target, index, axis.along(head(n)), n)
    plain = [axis for axis in axes if axis.at is not None]
    for a, b in combinations(plain, 2):
        if a.symbol != "..." or b.symbol != "...":
            both = Axis(f"{a.label} and {b.label}", None, max(a.rank, b.rank))
            yield Sabotage("equal axes swapped", place, both, "", target, index, swapped(a, b))


def of_argument(
    i: int, name: str, inexact: bool, real: bool, axes: Sequence[Axis], dtype: str
) -> Iterator[Sabotage]:
    """The faults in how one argument is read."""
    yield from along_axes(axes, name, "argument", i)
    yield Sabotage("dropped", name, None, "zeros", "argument", i, np.zeros_like)
    if inexact:
        yield Sabotage("dropped", name, None, "its mean", "argument", i, mean_of)
    if real:
        yield from cuts(name, "argument", i, dtype)
    if len(axes) > 1:
        yield Sabotage("storage order in place of strides", name, None, "", "argument", i, in_storage_order)


def of_result(k: int, name: str, axes: Sequence[Axis], dtype: str) -> Iterator[Sabotage]:
    """The faults in how one output is written."""
    yield from along_axes(axes, name, "output", k)
    for axis in axes:
        if axis.at is not None:
            for n in FIRST:
                yield Sabotage("only the first entries", name, axis, n, "output", k, axis.along(head(n)), n)
    yield Sabotage("the last element is not written", name, None, "zero", "output", k, without_last)
    yield Sabotage(STALE[0], name, None, "", "output", k, last_stale)
    yield from cuts(name, "output", k, dtype)


def cuts(name: str, target: Target, index: int, dtype: str) -> Iterator[Sabotage]:
    """An operand in a format with fewer bits than the one under test."""
    available = precision(dtype).digits
    for label, digits in OPERANDS.items():
        if digits < available and (digits == 24) == (available == 53):
            yield Sabotage("cut to fewer bits", name, None, label, target, index, cut(digits))


def truncations(formula: Formula) -> Iterator[Sabotage]:
    """Only the first n entries of a symbol are used, in all arguments that have this axis."""
    dims = [tuple(getattr(a, "dims", ())) for a in formula.arguments]
    for symbol in dict.fromkeys(d for of_one in dims for d in of_one if isinstance(d, str) and d != "..."):
        axes = [next((x for x in axes_of(d, len(d)) if x.symbol == symbol), None) for d in dims]
        for n in FIRST:
            shown = Axis(symbol, None, 0, symbol)
            change = truncation(axes, n)
            yield Sabotage("only the first entries are used", "arguments", shown, n, "call", 0, change, n)


def truncation(axes: Sequence[Axis | None], count: int) -> Callable[[list[Any]], list[Any] | None]:
    def change(values: list[Any]) -> list[Any] | None:
        if not any(axis and axis.length(v) > count for axis, v in zip(axes, values, strict=True)):
            return None
        made = []
        for axis, v in zip(axes, values, strict=True):
            for x in [axis] if axis is not None else []:
                v = x.along(lambda array: array[:count])(v)
            made.append(v)
        return made

    return change
