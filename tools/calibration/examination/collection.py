"""All programs of the examination, found in the modules of ``programs``, and the implementations of third parties."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import replace
from functools import cache
from typing import Any

from trueness.tools.calibration.examination import programs as _programs
from trueness.tools.calibration.examination.program import Program
from trueness.tools.spec import registry
from trueness.tools.spec.model import Formula, Implementation


@cache
def programs() -> dict[str, Program]:
    """Every program by its key; ValueError for one that is there twice."""
    found: dict[str, Program] = {}
    for module in pkgutil.iter_modules(_programs.__path__):
        loaded: Any = importlib.import_module(f"{_programs.__name__}.{module.name}")
        for program in getattr(loaded, "PROGRAMS", ()):
            if program.key in found:
                raise ValueError(f"{program.key} is there twice.")
            found[program.key] = program
    return found


class ThirdParty(Program):
    """A right program that is a third party's implementation in the registry, judged without its waivers."""

    declared: Implementation

    def implementation(self) -> Implementation:
        return replace(self.declared, waived={})


def third_party(formula: Formula, declared: Implementation) -> ThirdParty:
    """The implementation as a program; a convention it is known to differ by may be named."""
    names = (declared.convention,) if declared.convention else ()
    found = ThirdParty(
        formula.name,
        f"third party, {declared.name}",
        lambda *arguments, **options: declared.load()(*arguments, **options),
        dtypes=tuple(d for d in declared.dtypes if d in formula.dtypes),
        framework=declared.framework,
        limit=declared.limit,
        names=names,
    )
    object.__setattr__(found, "declared", declared)
    return found


@cache
def third_parties() -> dict[str, Program]:
    """Every third party of the registry by its key."""
    found = [
        third_party(formula, declared)
        for formula in registry.formulas().values()
        for declared in formula.implementations
        if declared.origin == "third_party"
    ]
    return {p.key: p for p in found}


@cache
def examined() -> dict[str, Program]:
    """What is examined, by attribute: programs and third parties."""
    return {p.attribute: p for p in (*programs().values(), *third_parties().values())}
