"""The functions of a reference, and how one of them becomes a mutant for the time of a call.

A mutant takes the place of the code of its function, in the function itself: whoever has imported it, bound it to the
arguments of a formula or put it into a table of functions calls the mutant.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

import numpy as np

from trueness.tools.mutants.tree import SITE, Mutant, changed, module_of, mutants, raising

Functions = dict[str, FunctionType]


def innermost(function: Callable[..., Any]) -> Callable[..., Any]:
    """What a function that only arranges arguments calls in the end."""
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        else:
            cells = [c.cell_contents for c in getattr(function, "__closure__", None) or ()]
            inner = [c for c in cells if isinstance(c, FunctionType)]
            if "<locals>" not in getattr(function, "__qualname__", "") or len(inner) != 1:
                return function
            function = inner[0]


Lines = frozenset[int]


def executed(function: Callable[..., Any], values: Sequence[Any], module: ModuleType) -> tuple[set[str], Lines]:
    """The functions of ``module`` that a call enters, by name, and the lines of its file that it executes."""
    there = {f.__code__: f.__name__ for f in vars(module).values() if isinstance(f, FunctionType)}
    filename = inspect.getfile(module)
    entered: set[str] = set()
    lines: set[int] = set()

    def note(frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename != filename:
            return None
        if event == "call" and frame.f_code in there:
            entered.add(there[frame.f_code])
        lines.add(frame.f_lineno)
        return note

    before = sys.gettrace()
    sys.settrace(note)
    try:
        with np.errstate(all="ignore"):
            function(*values)
    finally:
        sys.settrace(before)
    return entered, frozenset(lines)


def named(functions: set[str], module: ModuleType) -> Functions:
    """These functions of ``module``, and those of it that they name."""
    known = {n: f for n, f in vars(module).items() if isinstance(f, FunctionType) and f.__module__ == module.__name__}
    found = {n: f for n, f in known.items() if n in functions}
    other = {name for f in found.values() for name in f.__code__.co_names}
    return {n: f for n, f in known.items() if n in functions | other}


class Never:
    """In place of a constant, raises at its first use."""

    __array_ufunc__ = None

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name=SITE)


def never(*arguments: Any) -> Any:
    raise AttributeError(name=SITE)


for operation in "add sub mul truediv floordiv mod pow matmul".split():
    setattr(Never, f"__{operation}__", never)
    setattr(Never, f"__r{operation}__", never)
for operation in "neg iter len getitem float int bool eq lt le gt ge index contains hash".split():
    setattr(Never, f"__{operation}__", never)


@dataclass
class Source:
    """The text of a module whose functions are changed."""

    module: ModuleType
    tree: ast.Module = field(init=False)

    def __post_init__(self) -> None:
        self.tree = ast.parse(Path(inspect.getfile(self.module)).read_text(encoding="utf-8"))

    def definition(self, name: str) -> ast.FunctionDef | ast.Assign:
        for node in self.tree.body:
            if isinstance(node, ast.FunctionDef) and node.name == name:
                return node
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
                return node
        raise ValueError(f"{name} is not defined in {self.module.__name__} itself.")

    def constants(self, functions: Functions) -> list[str]:
        """The constants of the module that these functions name, in their bodies or as defaults."""
        defined = {
            t.id for n in self.tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)
        }
        named = {n.id for name in functions for n in ast.walk(self.definition(name)) if isinstance(n, ast.Name)}
        return sorted(defined & named)

    def mutants(self, functions: Functions) -> list[Mutant]:
        """Every mutant of the functions and of the constants that they name."""
        names = [*functions, *self.constants(functions)]
        return [m for name in names for m in mutants(self.definition(name), name)]

    @contextmanager
    def applied(self, mutant: Mutant) -> Iterator[None]:
        """The module with this mutant in it, and afterwards without."""
        with self.replaced(mutant.function, self.code(mutant)):
            yield

    def code(self, mutant: Mutant) -> CodeType:
        definition = self.definition(mutant.function)
        with changed(definition, mutant.path, mutant.node):
            return module_of(definition, f"<mutant of {mutant.function}>")

    def without(self, mutant: Mutant) -> AbstractContextManager[None]:
        """The module in which evaluating the place of ``mutant`` raises what ``is_evaluated`` knows."""
        definition = self.definition(mutant.function)
        if not isinstance(definition, ast.FunctionDef):
            return self.constant(mutant.function, Never())
        code = module_of(raising(definition, mutant.path), f"<place in {mutant.function}>")
        return self.replaced(mutant.function, code)

    @contextmanager
    def replaced(self, name: str, code: CodeType) -> Iterator[None]:
        """What the module calls ``name`` as ``code`` defines it."""
        old = vars(self.module)[name]
        scope: dict[str, Any] = {}
        exec(code, vars(self.module), scope)
        with (
            exchanged_function(old, scope[name]) if isinstance(old, FunctionType) else self.constant(name, scope[name])
        ):
            yield

    @contextmanager
    def constant(self, name: str, new: Any) -> Iterator[None]:
        """Another value of a constant, in the defaults of the module's functions, too."""
        old = vars(self.module)[name]
        functions = [f for f in vars(self.module).values() if isinstance(f, FunctionType)]
        kept = [(f, f.__defaults__, f.__kwdefaults__) for f in functions]
        vars(self.module)[name] = new
        for f in functions:
            if f.__defaults__:
                f.__defaults__ = tuple(new if d is old else d for d in f.__defaults__)
            if f.__kwdefaults__:
                f.__kwdefaults__ = {k: new if d is old else d for k, d in f.__kwdefaults__.items()}
        try:
            yield
        finally:
            vars(self.module)[name] = old
            for f, defaults, keywords in kept:
                f.__defaults__, f.__kwdefaults__ = defaults, keywords


@contextmanager
def exchanged_function(old: FunctionType, new: FunctionType) -> Iterator[None]:
    """The code and the defaults of ``new`` in ``old``."""
    kept = old.__code__, old.__defaults__, old.__kwdefaults__
    old.__code__, old.__defaults__, old.__kwdefaults__ = new.__code__, new.__defaults__, new.__kwdefaults__
    try:
        yield
    finally:
        old.__code__, old.__defaults__, old.__kwdefaults__ = kept


def is_evaluated(error: BaseException) -> bool:
    """Whether an exception says that the place of a mutant was evaluated."""
    return isinstance(error, AttributeError) and error.name == SITE
