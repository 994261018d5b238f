"""How a function is called with the arguments of a formula.

A formula lists its arguments one by one, ``x, t, w_qs, …, window, heads``. A function may want some of them by keyword,
and some of them together in a NamedTuple or dataclass: ``tmsa(x, t, weights: TMSAWeights, *, window, heads)``.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any


def positional(function: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
    """``function`` as a function of the arguments ``names``, in this order and all by position.

    A parameter annotated as a NamedTuple or dataclass receives one made of the arguments that are called as its fields;
    a keyword-only parameter receives the argument of its name; the others receive what remains, in order. Tuples inside
    the result are unpacked. A function that takes all by position is returned as it is.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some builtins have no signature
        return function
    hints = _hints(function)
    structures: dict[str, tuple[Any, tuple[str, ...]]] = {}
    for parameter in parameters:
        found = _structure(hints.get(parameter.name))
        if found is not None and parameter.name not in names and set(found[1]) & set(names):
            structures[parameter.name] = found[0], tuple(n for n in found[1] if n in names)
    keywords = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name in names]
    if not structures and not keywords:
        return function
    taken = {n for _, fields in structures.values() for n in fields} | set(keywords)
    places = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        given = dict(zip(names, arguments, strict=True))
        built = {p: make(**{n: given[n] for n in fields}) for p, (make, fields) in structures.items()}
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


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations as objects; none where they cannot be read."""
    while isinstance(function, functools.partial):
        function = function.func
    try:
        return typing.get_type_hints(inspect.unwrap(function))
    except Exception:  # an annotation may name what is not importable here; then nothing is known of any
        return {}


def _structure(hint: Any) -> tuple[Any, tuple[str, ...]] | None:
    """The NamedTuple or dataclass that an annotation names, alone or beside None, and its fields."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    for option in options:
        if isinstance(option, type) and issubclass(option, tuple) and hasattr(option, "_fields"):
            return option, tuple(option._fields)
        if isinstance(option, type) and dataclasses.is_dataclass(option):
            return option, tuple(f.name for f in dataclasses.fields(option) if f.init)
    return None


def _flat(result: Any) -> Any:
    """A tuple whose items are no tuples; anything else as it is."""
    if not isinstance(result, tuple) or not any(isinstance(y, tuple) for y in result):
        return result
    return tuple(z for y in result for z in (_flat(y) if isinstance(y, tuple) else (y,)))
