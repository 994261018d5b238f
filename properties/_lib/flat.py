"""Functions with keyword-only parameters as functions of the arguments of their formulas, all by position."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from trueness.tools.spec.calling import positional
from trueness.tools.spec.model import Formula


class Flat:
    """``flat(function)`` takes the arguments of the formula called like the function by position.

    A function that belongs to no formula is returned as it is.

    formulas   the formulas of one family
    """

    def __init__(self, formulas: Iterable[Formula]) -> None:
        self.arguments = {f.name.partition(".")[2]: [a.name for a in f.arguments] for f in formulas}

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        names = self.arguments.get(getattr(function, "__name__", ""))
        return function if names is None else positional(function, names)
