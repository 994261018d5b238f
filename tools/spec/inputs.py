"""What a formula's arguments are, and how a Case becomes their values.

Hypothesis draws sizes, a seed, magnitudes and scalars; the elements come from a generator seeded by the case. So a
failing case shrinks in a handful of steps, is one line of JSON, and is the same on every machine.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from trueness.tools.arithmetic.formats import precision, round_to
from trueness.tools.spec.model import Case, Formula

CONTIGUOUS = "contiguous"
LAYOUTS = ("transposed", "reversed axes", "sliced", "padded", "offset", "channels_last", "negative strides", "expanded")
"""how an array may lie in memory beside contiguous; tools/run/frameworks.py makes them"""
Sizes = Mapping[str, Any]
Dim = str | Callable[[Sizes], int]


@dataclass(frozen=True)
class Argument(ABC):
    """Base class of arguments: a name, and strategies for the scalars it needs in the case."""

    name: str

    tensor = False
    real = False
    differentiable = False
    expandable = False
    """``tensor``: an array; ``real``: in the dtype under test; ``differentiable``: the vjp returns its gradient;
    ``expandable``: it stays what it is if it is made equal along an axis"""

    def scalars(self) -> dict[str, st.SearchStrategy[Any]]:
        return {}

    def symbols(self) -> Mapping[str, tuple[int, int]]:
        return {}

    @abstractmethod
    def build(self, case: Case, generator: np.random.Generator) -> Any:
        """The value for ``case``, its elements drawn from ``generator``."""

    def unit(self, dtype: str) -> float:
        """The roundoff that stochastic arithmetic carries for this argument."""
        return 2.0**-53


@dataclass(frozen=True)
class Real(Argument):
    """A tensor in the dtype under test.

    dims        its axes: symbols; "..." is any number of axes; a function of the case's sizes and scalars is a length
    spans       symbol → (least, largest) length, also of symbols that only those functions mention
    decades     decimal exponents between which magnitudes are drawn
    gradient    whether the vjp returns a gradient for it
    unit_scale  standard normal whatever the case's scale (noise)
    positive    absolute values
    shortest    least length of its named axes
    """

    dims: tuple[Dim, ...] = ("...",)
    decades: tuple[float, float] = (-4.0, 2.0)
    gradient: bool = True
    unit_scale: bool = False
    positive: bool = False
    shortest: int = 1
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    tensor = True
    real = True
    expandable = True

    @property
    def differentiable(self) -> bool:  # type: ignore[override]
        return self.gradient

    def symbols(self) -> Mapping[str, tuple[int, int]]:
        return {**{d: (self.shortest, 8) for d in self.dims if isinstance(d, str)}, **self.spans}

    def build(self, case: Case, generator: np.random.Generator) -> np.ndarray:
        shape = shape_of(self.dims, case)
        values = generator.standard_normal(shape)
        if not self.unit_scale:
            exponent = case.scale + case.spread * (generator.random(shape) - 0.5)
            values = values * 10.0 ** np.clip(exponent, *self.decades)
        return np.abs(values) if self.positive else values

    def unit(self, dtype: str) -> float:
        return precision(dtype).u


@dataclass(frozen=True)
class Index(Argument):
    """A tensor of integers in [0, below); ``below`` is a number or the name of a scalar of the case."""

    dims: tuple[Dim, ...] = ()
    below: int | str = 1
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    tensor = True

    def symbols(self) -> Mapping[str, tuple[int, int]]:
        return {**{d: (1, 8) for d in self.dims if isinstance(d, str)}, **self.spans}

    def build(self, case: Case, generator: np.random.Generator) -> np.ndarray:
        high = case.scalars[self.below] if isinstance(self.below, str) else self.below
        return generator.integers(0, high, shape_of(self.dims, case))


@dataclass(frozen=True)
class Mask(Argument):
    """A tensor of truth values, each true with probability ``density``."""

    dims: tuple[Dim, ...] = ()
    density: float = 0.7
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    tensor = True
    expandable = True

    def symbols(self) -> Mapping[str, tuple[int, int]]:
        return {**{d: (1, 8) for d in self.dims if isinstance(d, str)}, **self.spans}

    def build(self, case: Case, generator: np.random.Generator) -> np.ndarray:
        return generator.random(shape_of(self.dims, case)) < self.density


@dataclass(frozen=True)
class Scalar(Argument):
    """A Python number drawn by Hypothesis; it has no gradient."""

    strategy: st.SearchStrategy[Any] = field(default_factory=lambda: st.floats(0, 1))

    def scalars(self) -> dict[str, st.SearchStrategy[Any]]:
        return {self.name: self.strategy}

    def build(self, case: Case, generator: np.random.Generator) -> Any:
        return case.scalars[self.name]


@dataclass(frozen=True)
class Table(Argument):
    """A float64 tensor made from scalars of the case (a schedule): exact, whatever the dtype under test.

    draws   name → strategy of the scalars that ``make(**scalars)`` takes
    """

    make: Callable[..., np.ndarray] = np.asarray
    draws: Mapping[str, st.SearchStrategy[Any]] = field(default_factory=dict)

    tensor = True

    def scalars(self) -> dict[str, st.SearchStrategy[Any]]:
        return dict(self.draws)

    def build(self, case: Case, generator: np.random.Generator) -> np.ndarray:
        return self.make(**{name: case.scalars[name] for name in self.draws})


@dataclass(frozen=True)
class Made(Argument):
    """Whatever ``make(known, generator)`` returns: a list of arrays, a tuple of strings. Not differentiable.

    make    takes the case's sizes and scalars in one mapping, and a generator
    draws   name → strategy of the scalars it needs
    array   True for one NumPy array in its own dtype, which implementations receive as their tensor
    """

    make: Callable[[Mapping[str, Any], np.random.Generator], Any] = lambda known, generator: None
    draws: Mapping[str, st.SearchStrategy[Any]] = field(default_factory=dict)
    array: bool = False
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def tensor(self) -> bool:  # type: ignore[override]
        return self.array

    def symbols(self) -> Mapping[str, tuple[int, int]]:
        return self.spans

    def scalars(self) -> dict[str, st.SearchStrategy[Any]]:
        return dict(self.draws)

    def build(self, case: Case, generator: np.random.Generator) -> Any:
        return self.make({**case.sizes, **case.scalars}, generator)


def shape_of(dims: Sequence[Dim], case: Case) -> tuple[int, ...]:
    """The lengths of ``dims``; the symbol "..." stands for a tuple of them."""
    known = {**case.sizes, **case.scalars}
    lengths = [d(known) if callable(d) else known[d] for d in dims]
    return tuple(n for length in lengths for n in (length if isinstance(length, tuple) else (length,)))


def dims_text(argument: Argument) -> str:
    """The axes of an argument as a reader sees them; a computed length is a dot."""
    return ", ".join("·" if callable(d) else d for d in getattr(argument, "dims", ()))


def symbols(formula: Formula) -> dict[str, tuple[int, int]]:
    return {d: span for a in formula.arguments for d, span in a.symbols().items()}


def cases(formula: Formula, layouts: Sequence[str] = ("contiguous",)) -> st.SearchStrategy[Case]:
    """The strategy of one formula's cases; it shrinks towards one element, seed 0, magnitude 1."""
    sizes = {
        d: st.lists(st.integers(1, 8), max_size=4).map(tuple) if d == "..." else st.integers(*span)
        for d, span in symbols(formula).items()
    }
    scalars = {name: s for a in formula.arguments for name, s in a.scalars().items()}
    return st.builds(
        Case,
        sizes=st.fixed_dictionaries(sizes),
        seed=st.integers(0, 2**16),
        scale=st.integers(-30, 20).map(lambda e: e / 10),
        spread=st.integers(0, 40).map(lambda e: e / 10),
        layout=st.sampled_from(list(layouts)),
        scalars=st.fixed_dictionaries(scalars),
    )


def values(formula: Formula, case: Case, dtype: str, data: Mapping[str, Sequence[Any]] | None = None) -> list[Any]:
    """The arguments of ``case`` in float64, real tensors rounded to ``dtype``; ``data`` holds the named inputs."""
    if case.named_input:
        drawn = list((data or {})[case.named_input])
    else:
        drawn = [a.build(case, np.random.default_rng([case.seed, i])) for i, a in enumerate(formula.arguments)]
    return [rounded(a, x, case, dtype) for a, x in zip(formula.arguments, drawn, strict=True)]


def rounded(argument: Argument, value: Any, case: Case, dtype: str) -> Any:
    if not argument.tensor:
        return value
    array = np.asarray(value)
    axis = expanded_axis(case.layout)
    if axis is not None and argument.expandable and array.ndim > axis and array.shape[axis]:
        array = np.broadcast_to(np.take(array, [0], axis), array.shape)
    return round_to(array, dtype) if argument.real else np.array(array)


def expanded_axis(layout: str) -> int | None:
    """The axis along which an expanded layout repeats: 1 of "expanded 1"; None for another layout."""
    kind, _, axis = layout.partition(":")[0].partition(" ")
    return int(axis or 0) if kind == "expanded" else None


def layout_of(argument: Argument, layout: str) -> str:
    """The layout of one argument where a case says "transposed", or "transposed: x" for the argument x alone."""
    kind, _, only = layout.partition(": ")
    applies = argument.tensor and only in ("", argument.name)
    return kind if applies and (argument.expandable or expanded_axis(kind) is None) else CONTIGUOUS


def units(formula: Formula, dtype: str) -> list[float]:
    """The roundoff of every argument: the dtype's for tensors under test, float64's for tables and scalars."""
    return [2.0**-53 if formula.working == "float64" else a.unit(dtype) for a in formula.arguments]
