"""The registry: the formulas of all families (properties) and their known bugs (regressions), found by module."""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache
from types import ModuleType

from trueness.tools.checks import CHECKS
from trueness.tools.checks.policy_table import POLICIES
from trueness.tools.spec.model import Bug, Formula
from trueness.tools.spec.tables import FORMATS, require


def _families(package_name: str) -> list[ModuleType]:
    package = importlib.import_module(f"trueness.{package_name}")
    names = [
        m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith(("test_", "conftest", "_"))
    ]
    return [importlib.import_module(f"trueness.{package_name}.{name}") for name in sorted(names)]


@cache
def formulas() -> dict[str, Formula]:
    """Every declared formula by name; ValueError for a declaration that names what does not exist."""
    return validated([f for module in _families("properties") for f in getattr(module, "FORMULAS", ())])


def validated(declared: Sequence[Formula]) -> dict[str, Formula]:
    """``declared`` by name; ValueError for a name given twice and for a waiver of a check that does not exist."""
    found: dict[str, Formula] = {}
    checks = {*CHECKS, *(f"{name} {dtype}" for name in CHECKS for dtype in FORMATS)}
    for f in declared:
        if f.name in found:
            raise ValueError(f"{f.name} is declared twice.")
        found[f.name] = f
        for policy in f.policies:
            require(f"{f.name}: policies", policy, POLICIES)
        for implementation in f.implementations:
            for waived in implementation.waived:
                if waived not in checks:
                    near = get_close_matches(waived, checks, 1)
                    hint = f" Did you mean {near[0]!r}?" if near else ""
                    raise ValueError(
                        f"{f.name}, {implementation.name}: waived was {waived!r}; it must be a check, or a check and "
                        f"a dtype.{hint}"
                    )
    return found


@cache
def bugs() -> dict[str, Bug]:
    """The ledger by id."""
    return {b.id: b for module in _families("regressions") for b in getattr(module, "BUGS", ())}


def bugs_of(formula: str) -> list[Bug]:
    """The known wrong variants of one formula."""
    return [b for b in bugs().values() if b.formula == formula and b.variant is not None]


def by_any_name() -> dict[str, Formula]:
    """Every declared formula by its name and by its former names."""
    return {**{old: f for f in formulas().values() for old in f.formerly}, **formulas()}


def formula(name: str) -> Formula:
    """The formula called ``name``; ValueError names the nearest. A former name answers with a FutureWarning."""
    renamed = by_any_name().get(name)
    if renamed is not None and name not in formulas():
        message = f"{name} is now called {renamed.name}; the former name will be removed in the next version."
        warnings.warn(message, FutureWarning, 2)
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
