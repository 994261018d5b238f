"""How a function is called with the arguments of a formula.

A formula lists its arguments one by one, ``x, t, w_qs, …, window, num_heads``. A function may want some of them by
keyword, and some of them together in a NamedTuple or dataclass: ``tmsa(x, t, weights: TMSAWeights, *, window, …)``. A
field of a structure may be a structure itself.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple


def positional(function: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
    """``function`` as a function of the arguments ``names``, in this order and all by position.

    A parameter annotated as a NamedTuple or dataclass receives one made of the arguments that are called as its fields,
    or as the fields of the structures in it; a keyword-only parameter receives the argument of its name; the others
    receive what remains, in order. Tuples inside the result are unpacked. A function that takes all by position is
    returned as it is.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some builtins have no signature
        return function
    hints = _hints(function)
    structures: dict[str, _Structure] = {}
    for parameter in parameters:
        found = None if parameter.name in names else _structure(hints.get(parameter.name), names)
        if found is not None:
            structures[parameter.name] = found
    keywords = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name in names]
    if not structures and not keywords:
        return function
    taken = {n for structure in structures.values() for n in structure.names()} | set(keywords)
    places = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        given = dict(zip(names, arguments, strict=True))
        built = {p: structure.build(given) for p, structure in structures.items()}
        by_keyword = {n: given[n] for n in keywords} | {p: v for p, v in built.items() if p not in places}
        rest = iter([v for n, v in given.items() if n not in taken])
        by_place: list[Any] = []
        for place in places:
            if place in built:
                by_place.append(built[place])
            else:
                try:
                    by_place.append(next(rest))
                except StopIteration:  # what is left has defaults, and the structures behind it go by name
                    by_keyword |= {p: v for p, v in built.items() if p in places[len(by_place) :]}
                    break
        return _flat(function(*by_place, *rest, **by_keyword, **options))

    return call


def takes_keyword(function: Callable[..., Any], name: str) -> bool:
    """Whether ``function`` can be given ``name`` by keyword; True where its signature cannot be read.

    A wrapper that takes ``**options`` passes them to what it wraps.
    """
    try:
        parameters = inspect.signature(function, follow_wrapped=False).parameters.values()
    except (TypeError, ValueError):
        return True
    if any(p.name == name and p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters):
        return True
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        return False
    inner = getattr(function, "__wrapped__", None)
    return inner is None or takes_keyword(inner, name)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations as objects; none where they cannot be read."""
    while isinstance(function, functools.partial):
        function = function.func
    try:
        return typing.get_type_hints(inspect.unwrap(function))
    except Exception:  # an annotation may name what is not importable here; then nothing is known of any
        return {}


class _Structure(NamedTuple):
    """A NamedTuple or dataclass, and its fields that are arguments or hold some."""

    make: Callable[..., Any]
    fields: Mapping[str, _Structure | None]

    def names(self) -> list[str]:
        return [n for name, inner in self.fields.items() for n in (inner.names() if inner else [name])]

    def build(self, given: Mapping[str, Any]) -> Any:
        return self.make(**{name: inner.build(given) if inner else given[name] for name, inner in self.fields.items()})


def _structure(hint: Any, names: Sequence[str]) -> _Structure | None:
    """The NamedTuple or dataclass that an annotation names, alone or beside None, if arguments belong into it."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    for option in options:
        if isinstance(option, type) and issubclass(option, tuple) and hasattr(option, "_fields"):
            every = tuple(option._fields)
        elif isinstance(option, type) and dataclasses.is_dataclass(option):
            every = tuple(f.name for f in dataclasses.fields(option) if f.init)
        else:
            continue
        hints = _hints(option)
        inner = {n: None if n in names else _structure(hints.get(n), names) for n in every}
        fields = {n: structure for n, structure in inner.items() if n in names or structure}
        return _Structure(option, fields) if fields else None
    return None


def _flat(result: Any) -> Any:
    """A tuple whose items are no tuples; anything else as it is."""
    if not isinstance(result, tuple) or not any(isinstance(y, tuple) for y in result):
        return result
    return tuple(z for y in result for z in (_flat(y) if isinstance(y, tuple) else (y,)))
