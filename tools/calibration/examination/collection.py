"""All programs of the examination, found in the modules of ``programs``, and the implementations of third parties."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Any

from trueness.tools.calibration.examination import programs as _programs
from trueness.tools.calibration.examination.program import Program


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
