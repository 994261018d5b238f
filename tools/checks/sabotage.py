"""Sabotage: generic faults around any reference, by which the cases of a run are themselves tested.

A kernel goes wrong in a few typical ways: the last, incomplete tile is not read, one batch entry serves for all, a
tensor core rounds the operands. Each sabotage does one of these to one argument, output or gradient of a reference,
along one axis. Nothing is written per formula: what applies follows from the arguments as they are declared. A run
whose cases do not reject a sabotage would accept a kernel with this fault (tools/checks/detection.py).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from typing import Any, Literal

import numpy as np

from trueness.tools.arithmetic.bounds import outputs
from trueness.tools.arithmetic.formats import precision
from trueness.tools.checks.faults import (
    Array,
    Axis,
    axes_of,
    cut,
    first_for_all,
    head,
    in_storage_order,
    last_stale,
    mean_of,
    swapped,
    tail,
    without_last,
)
from trueness.tools.spec.model import Formula

TILES = (16, 32, 64, 128)
FIRST = (8, 16, 32, 64, 128, 256)
BETWEEN = (32, 128)
"""lengths of tiles and of first entries that only the profile ``deep`` tries: 16, 64 and 256 lie around them"""
CLEAR = 8
"""by how many digits an operand is cut at least: a row of a half format may err by more than three"""
BLOCKS = (2**10, 2**16, 2**20)
"""lengths of a flat axis beyond which nothing is written: one block, 64 blocks of 1024, a grid of 1024 of them"""
FACTORS, COARSE = (1.01, 1.0001), (1.1,)
"""by which a scalar is off; and in half formats, where a row may err by a hundredth"""
OF_DIGITS = ("cut to fewer bits", "a scalar off by a factor")
"""kinds whose effect depends on the digits of a format"""
OPERANDS = {"bfloat16": 8, "TF32": 11, "float32": 24}
"""name → bits of the significand to which operands may be cut"""

Target = Literal["argument", "arguments", "output", "earlier"]


@dataclass(frozen=True)
class Sabotage:
    """One fault: a kind, where, along which axis, and a parameter such as the length of a tile.

    target, index  the argument or output that is changed; all arguments; the outputs, by those of an earlier call
    change         what is done to that array, to the list of arguments, or to the outputs of this and an earlier call
    beyond         the length along the axis that a case must exceed for the fault to change anything
    of_gradient    of the vjp: its arguments are the cotangents before all others, its outputs the gradients
    """

    kind: str
    place: str
    axis: Axis | None
    parameter: float | str
    target: Target
    index: int
    change: Callable[[Any], Any] = field(compare=False, repr=False)
    beyond: int = 0
    of_gradient: bool = False

    def __str__(self) -> str:
        along = f" along {self.axis.label}" if self.axis else ""
        parameter = f" ({self.parameter})" if self.parameter != "" else ""
        return f"{self.place}{along}: {self.kind}{parameter}"

    def spoiled(self, values: Sequence[Any]) -> list[Any] | None:
        """The arguments that the reference is called with; None where they stay what they are."""
        if self.target == "arguments":
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
            if self.target in ("argument", "arguments"):
                spoiled = self.spoiled(values)
                return None if spoiled is None else list(outputs(function(*spoiled)))
            found = list(outputs(function(*values)) if true is None else true)
            if self.target == "earlier":
                before = list(earlier())
                alike = [a.shape for a in before] == [a.shape for a in found]
                return self.change((found, before)) if alike else None
            found[self.index] = self.change(found[self.index])
            return found


# -- which apply ------------------------------------------------------------------------------------------------------


def output_axes(formula: Formula, ranks: Sequence[int]) -> list[Axis]:
    """The axes of an output: all where its rank is always the same, otherwise the first, the last and all as one."""
    if min(ranks) == max(ranks):
        return [Axis(f"axis {k}", k, ranks[0]) for k in range(ranks[0])]
    flat = all(tuple(a.dims) == ("...",) for a in formula.arguments if hasattr(a, "dims"))
    found = [Axis("its first axis", 0, 1), Axis("its last axis", -1, 2)]
    return [*found, Axis("all axes as one", None, 1)] if flat else found


def sabotages(formula: Formula, dtype: str, values: Sequence[Any], ranks: Sequence[Sequence[int]]) -> list[Sabotage]:
    """Every sabotage of ``formula`` in ``dtype``; ``values`` are some arguments, ``ranks[k]`` the ranks of output k."""
    found: list[Sabotage] = []
    for i, (argument, value) in enumerate(zip(formula.arguments, values, strict=True)):
        if isinstance(value, np.ndarray):
            axes = axes_of(getattr(argument, "dims", None), value.ndim)
            found += of_argument(i, argument.name, value.dtype.kind == "f", argument.real, axes, dtype)
        elif isinstance(value, float):
            kind, factors = "a scalar off by a factor", COARSE if precision(dtype).half else FACTORS
            found += [Sabotage(kind, argument.name, None, f, "argument", i, partial(operator.mul, f)) for f in factors]
    for k, of_output in enumerate(ranks):
        name = "output" if len(ranks) == 1 else f"output {k}"
        found += of_result(k, name, output_axes(formula, of_output), dtype)
    found.append(Sabotage("the result of an earlier call", "output", None, "", "earlier", 0, lambda pair: pair[1]))
    found += truncations(formula)
    if formula.vjp is not None:
        found += of_vjp(formula, values, ranks)
    return found


def of_vjp(formula: Formula, values: Sequence[Any], ranks: Sequence[Sequence[int]]) -> Iterator[Sabotage]:
    """The faults of a backward: a gradient that is not computed, not to its end, or from a part of the cotangents."""
    wanted = [(a, v) for a, v in zip(formula.arguments, values, strict=True) if a.differentiable]
    for k, (argument, value) in enumerate(wanted):
        name = f"gradient of {argument.name}"
        yield Sabotage("dropped", name, None, "zeros", "output", k, np.zeros_like, of_gradient=True)
        yield from ends(axes_of(getattr(argument, "dims", None), np.ndim(value)), name, "output", k)
    for k, of_output in enumerate(ranks):
        name = "cotangent" if len(ranks) == 1 else f"cotangent {k}"
        yield from ends(output_axes(formula, of_output), name, "argument", k)


def ends(axes: Sequence[Axis], place: str, target: Target, index: int) -> Iterator[Sabotage]:
    """The end of an axis is missing in an array of the vjp."""
    for axis in axes:
        for t in TILES if axis.at is not None else ():
            kind, change = "the incomplete last tile is zero", axis.along(tail(t, repeat=False))
            yield Sabotage(kind, place, axis, t, target, index, change, t, of_gradient=True)
        for n in FIRST if axis.at is not None else BLOCKS:
            change = axis.along(head(n))
            yield Sabotage("only the first entries", place, axis, n, target, index, change, n, of_gradient=True)


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


def of_argument(i: int, name: str, inexact: bool, real: bool, axes: Sequence[Axis], dtype: str) -> Iterator[Sabotage]:
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
    kind = "the last element keeps the value of an earlier call"
    yield Sabotage(kind, name, None, "", "earlier", k, last_stale(k))
    yield from cuts(name, "output", k, dtype)


def cuts(name: str, target: Target, index: int, dtype: str) -> Iterator[Sabotage]:
    """An operand in a format with fewer bits than the one under test."""
    available = precision(dtype).digits
    for label, digits in OPERANDS.items():
        if digits <= available - CLEAR and (digits == 24) == (available == 53):
            yield Sabotage("cut to fewer bits", name, None, label, target, index, cut(digits))


def truncations(formula: Formula) -> Iterator[Sabotage]:
    """Only the first n entries of a symbol are used, in all arguments that have this axis."""
    dims = [tuple(getattr(a, "dims", ())) for a in formula.arguments]
    for symbol in dict.fromkeys(d for of_one in dims for d in of_one if isinstance(d, str) and d != "..."):
        axes = [[x for x in axes_of(d, len(d)) if x.symbol == symbol] for d in dims]
        for n in FIRST:
            change = truncation(axes, n)
            kind = "only the first entries are used"
            yield Sabotage(kind, "arguments", Axis(symbol, 0, 0, symbol), n, "arguments", 0, change, n)


def truncation(axes: Sequence[Sequence[Axis]], count: int) -> Callable[[list[Any]], list[Any] | None]:
    """The arguments cut to ``count`` entries along these axes of theirs; None where they are no longer."""

    def change(values: list[Any]) -> list[Any] | None:
        if not any(axis.length(v) > count for of_one, v in zip(axes, values, strict=True) for axis in of_one):
            return None
        made = []
        for of_one, v in zip(axes, values, strict=True):
            for axis in of_one:
                v = axis.along(lambda array: array[:count])(v)
            made.append(v)
        return made

    return change
