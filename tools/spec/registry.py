"""Opens the registry: every family's formulas (properties) and known bugs (regressions), found by their modules."""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from difflib import get_close_matches
from functools import cache
from types import ModuleType

from trueness.tools.spec.model import Bug, Formula


def _families(room: str) -> list[ModuleType]:
    package = importlib.import_module(f"trueness.{room}")
    names = [
        m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith(("test_", "conftest", "_"))
    ]
    return [importlib.import_module(f"trueness.{room}.{name}") for name in sorted(names)]


@cache
def formulas() -> dict[str, Formula]:
    """Every declared formula by name."""
    return {f.name: f for module in _families("properties") for f in getattr(module, "FORMULAS", ())}


@cache
def bugs() -> dict[str, Bug]:
    """The ledger so far by id."""
    return {b.id: b for module in _families("regressions") for b in getattr(module, "BUGS", ())}


def bugs_of(formula: str) -> list[Bug]:
    """The known wrong variants of one formula."""
    return [b for b in bugs().values() if b.formula == formula and b.variant is not None]


def formula(name: str) -> Formula:
    """The formula called ``name``; ValueError names the nearest. A former name answers with a FutureWarning."""
    renamed = next((f for f in formulas().values() if name in f.formerly), None)
    if renamed is not None and name not in formulas():
        warnings.warn(f"{name} is now called {renamed.name}; this name goes with the next version.", FutureWarning, 2)
        return renamed
    if name not in formulas():
        near = get_close_matches(name, formulas(), 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(f"formula was {name!r}, which is not declared.{hint} `trueness list` prints all.")
    return formulas()[name]


def select(names: list[str]) -> list[Formula]:
    """Formulas by name or by family; all of them for no name."""
    chosen: list[Formula] = []
    for name in names:
        family = [f for f in formulas().values() if f.family == name]
        chosen += family or [formula(name)]
    return chosen or list(formulas().values())
