"""Dataclasses as JSON values and back: jobs and verdicts travel between processes this way, cases are stored.

Only the standard library is used: a machine with a GPU need not have more. Tuples become lists, and lists become tuples
again where the annotation is a tuple.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


def to_record(value: Any) -> dict[str, Any]:
    """The fields of a dataclass as a dictionary of JSON values."""
    return dataclasses.asdict(value)


def from_record(kind: type[T], data: Mapping[str, Any]) -> T:
    """The dataclass ``kind`` with these fields; TypeError for a field that it does not have or that is missing."""
    hints = _hints(kind)  # type: ignore[arg-type]  # mypy: a type is not Hashable
    return kind(**{name: _typed(hints.get(name, Any), value) for name, value in data.items()})


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _typed(hint: Any, value: Any) -> Any:
    """``value`` with its lists turned into the tuples of ``hint``."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for option in inner:
            if isinstance(value, list) == (typing.get_origin(option) is tuple):
                return _typed(option, value)
        return value
    if origin is tuple and isinstance(value, list):
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        return tuple(_typed(k, v) for k, v in zip(kinds, value, strict=True))
    if isinstance(value, Mapping) and len(inner) == 2:
        return {k: _typed(inner[1], v) for k, v in value.items()}
    return value


def plain(x: Any) -> Any:
    """``x`` in JSON's own types; the numbers JSON does not have become "nan", "inf" and "-inf"."""
    if isinstance(x, float):
        return x if math.isfinite(x) else str(x)
    if isinstance(x, (list, tuple)):
        return [plain(e) for e in x]
    if isinstance(x, Mapping):
        return {str(k): plain(v) for k, v in x.items()}
    return x
