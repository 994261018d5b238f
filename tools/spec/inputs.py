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

LARGE = 1.5
"""decimal exponent of the magnitudes of a case that is ``large``: exp of it overflows, its square in float16 not"""
VALUES: tuple[dict[str, Any], ...] = (
    {"offset": 100.0},
    {"offset": -10.0},
    {"ties": "rows"},
    {"ties": "arguments"},
    {"zeros": 0.5},
    {"zeros": 1.0},
    {"large": True},
)
"""fields of Case in which elements differ from independent ones of mean 0"""
TILED = 8192
PALETTE = 1024
"""an axis longer than TILED repeats PALETTE columns, in a fixed irregular order: the reference sees each once"""
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

    def beyond(self) -> Mapping[str, Sequence[Any]]:
        """Scalar → values beyond those that are drawn, each tried alone."""
        return {}

    @abstractmethod
    def build(self, case: Case, generator: np.random.Generator) -> Any:
        """The value for ``case``, its elements drawn from ``generator``."""

    def unit(self, dtype: str) -> float:
        """The roundoff that stochastic arithmetic carries for this argument."""
        return 2.0**-53

    def put(self, array: np.ndarray, at: int, number: float) -> np.ndarray | None:
        """A copy with ``number`` at the flat index ``at``; None where that would leave the argument's domain."""
        changed = np.array(array)
        changed.flat[at] = number
        return changed


@dataclass(frozen=True)
class Real(Argument):
    """A tensor in the dtype under test.

    dims        its axes: symbols; "..." is any number of axes; a function of the case's sizes and scalars is a length
    spans       symbol → (least, largest) length, also of symbols that only those functions mention
    decades     decimal exponents between which magnitudes are drawn
    gradient    whether the vjp returns a gradient for it
    unit_scale  standard normal whatever the case's scale (noise)
    positive    absolute values
    domain      least and largest number it is defined for: no check puts in any other; its ends count if infinite
    shortest    least length of its named axes
    """

    dims: tuple[Dim, ...] = ("...",)
    decades: tuple[float, float] = (-4.0, 2.0)
    gradient: bool = True
    unit_scale: bool = False
    positive: bool = False
    shortest: int = 1
    domain: tuple[float, float] = (-np.inf, np.inf)
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
        if shape and shape[-1] > TILED:
            return self.elements(case, generator, (*shape[:-1], PALETTE))[..., columns(shape[-1])]
        return self.elements(case, generator, shape)

    def elements(self, case: Case, generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        values = generator.standard_normal(shape)
        if not self.unit_scale:
            scale = max(LARGE, self.decades[1]) if case.large else case.scale
            exponent = scale + case.spread * (generator.random(shape) - 0.5)
            values = values * 10.0 ** (exponent if case.large else np.clip(exponent, *self.decades))
            values += case.offset * 10.0 ** float(np.clip(case.scale, *self.decades))
        values = np.abs(values) if self.positive else values
        return self.special(values, case, generator)

    def special(self, values: np.ndarray, case: Case, generator: np.random.Generator) -> np.ndarray:
        """``values`` with the ties and the zeros of ``case``."""
        values = np.asarray(values)  # a number for a shape without axes
        if self.unit_scale or not values.size:
            return values
        if case.ties == "rows" and values.ndim:
            even = values[::2]
            values[1::2] = even[: len(values[1::2])]
        if case.zeros and not self.positive:
            values = np.where(generator.random(values.shape) < case.zeros, 0.0, values)
        return values

    def put(self, array: np.ndarray, at: int, number: float) -> np.ndarray | None:
        low, high = self.domain
        low = max(low, 0.0) if self.positive else low
        allowed = bool(np.isnan(number)) or low < number < high or (np.isinf(number) and number in (low, high))
        return super().put(array, at, number) if allowed else None

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
    """A Python number drawn by Hypothesis; it has no gradient.

    far   values beyond those that are drawn, each tried alone; of integers, bisection finds the least that fails
    """

    strategy: st.SearchStrategy[Any] = field(default_factory=lambda: st.floats(0, 1))
    far: Sequence[Any] = ()

    def beyond(self) -> Mapping[str, Sequence[Any]]:
        return {self.name: self.far} if self.far else {}

    def scalars(self) -> dict[str, st.SearchStrategy[Any]]:
        return {self.name: self.strategy}

    def build(self, case: Case, generator: np.random.Generator) -> Any:
        return case.scalars[self.name]


@dataclass(frozen=True)
class Table(Argument):
    """A float64 tensor made from scalars of the case (a schedule): exact, whatever the dtype under test.

    draws   name → strategy of the scalars that ``make(**scalars)`` takes
    far     name → values of them beyond those that are drawn
    """

    make: Callable[..., np.ndarray] = np.asarray
    draws: Mapping[str, st.SearchStrategy[Any]] = field(default_factory=dict)
    far: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    tensor = True

    def beyond(self) -> Mapping[str, Sequence[Any]]:
        return self.far

    def scalars(self) -> dict[str, st.SearchStrategy[Any]]:
        return dict(self.draws)

    def build(self, case: Case, generator: np.random.Generator) -> np.ndarray:
        return self.make(**{name: case.scalars[name] for name in self.draws})


@dataclass(frozen=True)
class Made(Argument):
    """Whatever ``make(known, generator)`` returns: a list of arrays, a tuple of strings. Not differentiable.

    make    takes the case's sizes and scalars in one mapping, and a generator
    draws   name → strategy of the scalars it needs
    far     name → values of them beyond those that are drawn
    array   True for one NumPy array in its own dtype, which implementations receive as their tensor
    """

    make: Callable[[Mapping[str, Any], np.random.Generator], Any] = lambda known, generator: None
    draws: Mapping[str, st.SearchStrategy[Any]] = field(default_factory=dict)
    array: bool = False
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    far: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def beyond(self) -> Mapping[str, Sequence[Any]]:
        return self.far

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


def columns(length: int) -> np.ndarray:
    """Which of PALETTE columns each column of a long axis repeats; the first ones are the columns themselves."""
    found = np.random.default_rng(length).integers(0, PALETTE, length)
    found[:PALETTE] = np.arange(PALETTE)
    return found


def standard_normal(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Normal numbers; an axis longer than TILED repeats its first columns."""
    if shape and shape[-1] > TILED:
        return generator.standard_normal((*shape[:-1], PALETTE))[..., columns(shape[-1])]
    return generator.standard_normal(shape)


def shortened(arguments: Sequence[Any]) -> tuple[list[Any], int]:
    """The first PALETTE columns of arguments that repeat them, and the length they had; 0 where none does."""
    lengths = {x.shape[-1] for x in arguments if isinstance(x, np.ndarray) and x.ndim and x.shape[-1] > TILED}
    if len(lengths) != 1:
        return list(arguments), 0
    length = lengths.pop()
    short: list[Any] = []
    for x in arguments:
        if isinstance(x, np.ndarray) and x.ndim and x.shape[-1] == length:
            short.append(x[..., :PALETTE])
            if not np.array_equal(short[-1][..., columns(length)], x, equal_nan=True):
                return list(arguments), 0
        else:
            short.append(x)
    return short, length


def by_column(function: Callable[..., Any], arguments: Sequence[Any], length: int) -> bool:
    """Whether ``function`` works on each column of the last axis alone, where that has ``length``."""
    chosen = np.random.default_rng(length).permutation(length)[: length // 7]

    def cut(x: Any) -> Any:
        return x[..., chosen] if isinstance(x, np.ndarray) and x.ndim and x.shape[-1] == length else x

    try:
        with np.errstate(all="ignore"):
            whole, part = function(*arguments), function(*map(cut, arguments))
    except ValueError:  # another argument's length belongs to this one's
        return False
    pairs = zip(*(y if isinstance(y, tuple) else (y,) for y in (whole, part)), strict=True)
    return all(
        np.ndim(y) > 0
        and np.shape(y)[-1] == length
        and np.allclose(cut(np.asarray(y)), z, rtol=2**-49, atol=0, equal_nan=True)
        for y, z in pairs
    )


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

    def with_values(chosen: Mapping[str, Any], **fields: Any) -> Case:
        return Case(**fields, **chosen)

    return st.builds(
        with_values,
        st.sampled_from([{}] * len(VALUES) + list(VALUES)),
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
        if case.ties == "arguments":
            tie(formula, drawn)
    return [rounded(a, x, case, dtype) for a, x in zip(formula.arguments, drawn, strict=True)]


def tie(formula: Formula, drawn: Sequence[Any]) -> None:
    """Copy rows of an argument into later ones of the same width; those of a noise, which keeps its scale, into any."""
    tensors = [(a, x) for a, x in zip(formula.arguments, drawn, strict=True) if type(a) is Real]
    for k, later in enumerate(tensors):
        for earlier in tensors[:k]:
            (_, y), (b, x) = (later, earlier) if later[0].unit_scale else (earlier, later)  # of y into x
            free = not b.positive and b.domain == (-np.inf, np.inf)
            if b.unit_scale or ((later[0].unit_scale or earlier[0].unit_scale) and not free):
                continue
            if x.ndim and x.ndim == y.ndim and x.shape[-1] == y.shape[-1]:
                common = tuple(slice(min(n, m)) for n, m in zip(x.shape, y.shape, strict=True))
                x[common] = y[common]


def rounded(argument: Argument, value: Any, case: Case, dtype: str) -> Any:
    if not argument.tensor:
        return value
    array = np.asarray(value)
    axis = expanded_axis(case.layout)
    if axis is not None and argument.expandable and array.ndim > axis and array.shape[axis]:
        array = np.broadcast_to(np.take(array, [0], axis), array.shape)
    return round_to(array, dtype) if argument.real else np.array(array)


def with_keys(formula: Formula, values: Sequence[Any]) -> list[Any]:
    """The same arguments, each row of a mask without a true element all true: what an axis repeats stays the same."""
    found = []
    for argument, value in zip(formula.arguments, values, strict=True):
        if isinstance(argument, Mask) and np.size(value) and np.ndim(value):
            value = value | ~np.any(value, -1, keepdims=True)
        found.append(value)
    return found


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
