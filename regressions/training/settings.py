"""Settings from a command line, and a log that needs no network: small, without dependencies.

settings = override({"model": {"width": 64}, "lr": 1e-3}, ["model.width=128", "lr=3e-4"])
with JsonLines("run.jsonl") as log:
    log(step=1, loss=0.7)
"""

from __future__ import annotations

import ast
import copy
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any


def override(settings: Mapping[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """A copy of ``settings`` with every "a.b=value" of ``changes`` applied; later ones win, the original is left alone.

    A value is read as the type that stands there (a float also from "1"); None takes any literal or string. What is not
    there cannot be set: a misspelt name is an error, not a new setting.

    settings  names to values, nested
    changes   "name=value", nested names with dots
    raises    ValueError naming the change, if it has no =, names no setting, or is of another type
    """
    found = copy.deepcopy(dict(settings))
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise ValueError(f"{change!r} was no override; write name=value.")
        *path, last = name.strip().split(".")
        place: Any = found
        for part in path:
            place = place.get(part) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last not in place or isinstance(place[last], dict):
            raise ValueError(f"{change!r} names no setting; there are {', '.join(_names(found))}.")
        place[last] = _read(text.strip(), place[last], change)
    return found


def _names(settings: Mapping[str, Any], before: str = "") -> list[str]:
    return [
        name
        for key, value in settings.items()
        for name in (_names(value, f"{before}{key}.") if isinstance(value, dict) else [f"{before}{key}"])
    ]


def _read(text: str, old: Any, change: str) -> Any:
    if isinstance(old, str):
        return text
    words = {"true": True, "false": False, "none": None}
    try:
        value = words[text.lower()] if text.lower() in words else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if old is None or type(value) is type(old):
        return value
    if isinstance(old, float) and type(value) is int:
        return float(value)
    raise ValueError(f"{change!r} was {type(value).__name__}; the setting is {type(old).__name__}.")


class JsonLines:
    """One JSON object per line, in a local file that can be read at any moment, also after a crash.

    Numbers that JSON does not have (NaN, ±inf) are written as strings. Appends, so that a resumed run goes on.

    path    the file; its folder must exist
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file = self.path.open("a", encoding="utf-8")

    def __call__(self, **values: Any) -> None:
        """Write one line, and hand it to the system at once."""
        self._file.write(json.dumps({k: _number(v) for k, v in values.items()}) + "\n")
        self._file.flush()

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _number(value: Any) -> Any:
    """A tensor or NumPy number as Python's; what JSON cannot say as a string."""
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
