"""Where a user's callable can be imported from again: for its name, and for the text that reproduces a failure."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def spec_of(function: Callable[..., Any]) -> str:
    """module:callable; a script that runs as ``__main__`` has the name of its file."""
    name = getattr(function, "__qualname__", type(function).__name__)
    module = getattr(function, "__module__", None) or "__main__"
    return f"{_main_name() if module == '__main__' else module}:{name}"


def statement(function: Callable[..., Any], spec: str) -> tuple[list[str], str]:
    """The lines that import ``function``, called ``spec``, and the expression that then stands for it.

    A script is imported as a module from its folder, for in another process ``__main__`` is something else. What has
    no name to import it by, such as a lambda or a function in a function, is left to the reader.
    """
    module, _, attribute = spec.partition(":")
    if _holds(module, attribute, function) and module != "__main__":
        if attribute.isidentifier():
            return [f"from {module} import {attribute}"], attribute
        return [], repr(spec)
    if not (attribute.isidentifier() and _holds("__main__", attribute, function)):
        return ["# f: the function that was checked; it has no name that it could be imported by"], "f"
    file = _main_file()
    if file is None:  # a session: the name is still there
        return [], attribute
    if module != file.stem:  # python -m package.module
        return [f"from {module} import {attribute}"], attribute
    if not module.isidentifier():
        return ["import runpy", f"{attribute} = runpy.run_path({str(file)!r})[{attribute!r}]"], attribute
    folder = [] if file.parent == Path.cwd() else ["import sys", f"sys.path.insert(0, {str(file.parent)!r})"]
    return [*folder, f"from {module} import {attribute}"], attribute


def _holds(module: str, attribute: str, function: Callable[..., Any]) -> bool:
    """Whether ``module`` is loaded and has ``function`` under the name ``attribute``."""
    found: Any = sys.modules.get(module)
    for part in attribute.split("."):
        found = getattr(found, part, None)
    return found is function


def _main_file() -> Path | None:
    """The script that runs; None in an interactive session, under ``python -c`` and for a program on stdin."""
    name = getattr(sys.modules["__main__"], "__file__", None)
    path = Path(name).resolve() if name else None
    return path if path is not None and path.is_file() else None


def _main_name() -> str:
    """The name by which what runs as ``__main__`` can be imported; ``__main__`` where there is none."""
    declared = getattr(sys.modules["__main__"], "__spec__", None)
    if declared is not None:  # python -m
        return str(declared.name)
    file = _main_file()
    return file.stem if file is not None else "__main__"
