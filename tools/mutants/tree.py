"""The mutants of one function: every one change of its syntax tree by the rules, with a description.

Left alone are the docstring, annotations, decorators, and guards: ``if …: raise`` says which arguments are refused, and
no case of a run has such.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType
from typing import Any

from trueness.tools.mutants.rules import exchanged, replacements

SITE = "__never_evaluated__"
"""the name of the attribute that is asked for where a mutant stands, to see whether that place is ever evaluated"""
ROUNDS = 1000
"""of a ``while`` in a mutant; a reference needs a few"""
WIDTH = 56
Path = tuple[tuple[str, int | None], ...]


@dataclass(frozen=True)
class Mutant:
    """One change: of which function, in which of its lines, the node that is replaced, and by what."""

    function: str
    line: int
    what: str
    path: Path
    node: ast.AST

    @property
    def key(self) -> str:
        """What names it as long as its line does not change."""
        return f"{self.function}: {self.what}"

    def __str__(self) -> str:
        return f"{self.function}, line {self.line}: {self.what}"


def child(node: Any, step: tuple[str, int | None]) -> Any:
    name, index = step
    found = getattr(node, name)
    return found if index is None else found[index]


def at(tree: ast.AST, path: Path) -> Any:
    for step in path:
        tree = child(tree, step)
    return tree


@contextmanager
def changed(tree: ast.AST, path: Path, node: ast.AST) -> Iterator[None]:
    """The tree with another node at ``path``; afterwards it is what it was."""
    parent, (name, index) = at(tree, path[:-1]), path[-1]
    before = child(parent, path[-1])
    place = parent.__dict__ if index is None else getattr(parent, name)
    place[name if index is None else index] = node
    try:
        yield
    finally:
        place[name if index is None else index] = before


# -- where ------------------------------------------------------------------------------------------------------------


def is_guard(node: ast.AST) -> bool:
    """Whether a statement only refuses arguments."""
    return isinstance(node, ast.If) and not node.orelse and all(isinstance(s, ast.Raise) for s in node.body)


def places(node: ast.AST, path: Path = ()) -> Iterator[tuple[Path, ast.AST]]:
    """Every node that may be changed, outer ones first."""
    for name, value in ast.iter_fields(node):
        if name in ("decorator_list", "annotation", "returns", "ctx"):
            continue
        items = list(enumerate(value)) if isinstance(value, list) else [(None, value)]
        for index, item in items:
            documentation = isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant)
            if isinstance(item, (ast.Raise, ast.JoinedStr)) or documentation or not isinstance(item, ast.AST):
                continue
            if is_guard(item) or (isinstance(item, ast.keyword) and item.arg == "strict"):
                continue
            here: Path = (*path, (name, index))
            yield here, item
            yield from places(item, here)


def statements(tree: ast.FunctionDef, path: Path, node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in place of a statement."""
    if isinstance(node, ast.If):
        for always in (True, False):
            yield ast.If(ast.Constant(always), node.body, node.orelse)
    if isinstance(node, ast.While):
        yield ast.Pass()
    if isinstance(node, ast.AugAssign) or (isinstance(node, ast.Assign) and bound_before(tree, node)):
        yield ast.Pass()
    if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple):
        for i in range(len(node.value.elts) - 1):
            yield ast.Return(ast.Tuple(exchanged(node.value.elts, i), ast.Load()))


def bound_before(tree: ast.FunctionDef, statement: ast.Assign) -> bool:
    """Whether the function goes on without an assignment: every name has a value before, and elements are kept."""
    arguments = tree.args
    known = {a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.lineno < statement.lineno:
            known.add(node.id)
    targets = [n for t in statement.targets for n in ast.walk(t) if isinstance(n, ast.Name)]
    return all(n.id in known for n in targets)


# -- mutants ----------------------------------------------------------------------------------------------------------


def mutants(tree: ast.FunctionDef | ast.Assign, function: str) -> list[Mutant]:
    """Every mutant of a function, or of a constant of its module, as long as no two have the same text."""
    seen = {ast.dump(tree)}
    counted: dict[str, int] = {}
    found = []
    every = list(places(tree))
    inside: Path | None = None
    for path, node in every:
        if inside is not None and path[: len(inside)] == inside:
            continue  # the 1 of −1
        inside = path if isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant) else None
        news: list[ast.AST] = list(replacements(node))
        if isinstance(node, ast.stmt) and isinstance(tree, ast.FunctionDef):
            news += statements(tree, path, node)
        for new in news:
            shown = context(tree, path)
            before = text(at(tree, shown))
            with changed(tree, path, new):
                dump, after = ast.dump(tree), text(at(tree, shown))
            if dump in seen:
                continue
            seen.add(dump)
            what = f"{before} -> {after}" if after != "pass" else f"without {before}"
            counted[what] = counted.get(what, 0) + 1
            if counted[what] > 1:
                what += f" ({counted[what]})"
            line = getattr(node, "lineno", None) or line_of(tree, path)
            found.append(Mutant(function, line - tree.lineno + 1, what, path, new))
    return found


def line_of(tree: ast.AST, path: Path) -> int:
    """The line of the innermost node around ``path`` that has one."""
    return next(n.lineno for k in range(len(path), -1, -1) if hasattr(n := at(tree, path[:k]), "lineno"))


def lines_of(tree: ast.AST, path: Path) -> range:
    """The lines of the innermost statement around ``path``, in the file; empty outside of a body."""
    if path[0][0] != "body":
        return range(0)
    inside = (at(tree, path[:k]) for k in range(len(path), 0, -1))
    statement = next(n for n in inside if isinstance(n, ast.stmt))
    return range(statement.lineno, (statement.end_lineno or statement.lineno) + 1)


def context(tree: ast.AST, path: Path) -> Path:
    """The largest expression around a node that is short enough to be shown; the node itself where none is."""
    shown = path
    for k in range(len(path), 0, -1):
        node = at(tree, path[:k])
        if not isinstance(node, (ast.expr, ast.keyword, ast.Slice)) or len(ast.unparse(node)) > WIDTH:
            break
        shown = path[:k]
    return shown


def text(node: ast.AST) -> str:
    """A node on one line, cut where it is long."""
    if isinstance(node, ast.If):
        return f"if {text(node.test)}: …"
    whole = " ".join(ast.unparse(node).split())
    return whole if len(whole) <= 2 * WIDTH else whole[: 2 * WIDTH - 1] + "…"


# -- code -------------------------------------------------------------------------------------------------------------


class Bounded(ast.NodeTransformer):
    """Every ``while`` as a loop of at most ROUNDS rounds, after which it raises."""

    def visit_While(self, node: ast.While) -> ast.For:
        self.generic_visit(node)
        stop = ast.If(ast.UnaryOp(ast.Not(), node.test), [ast.Break()], [])
        rounds = ast.Call(ast.Name("range", ast.Load()), [ast.Constant(ROUNDS)], [])
        endless = ast.Raise(
            ast.Call(ast.Name("RecursionError", ast.Load()), [ast.Constant("a loop that never ends")], [])
        )
        return ast.For(ast.Name("_", ast.Store()), rounds, [stop, *node.body], [endless])


def raising(tree: ast.FunctionDef, path: Path) -> ast.FunctionDef:
    """The function that raises wherever the node at ``path`` is evaluated; where that is a default, if it is used."""
    made = copy.deepcopy(tree)
    never: ast.expr = ast.Attribute(ast.List([], ast.Load()), SITE, ast.Load())
    if path[0][0] == "body":
        place: ast.AST = ast.Expr(never) if isinstance(at(tree, path), ast.stmt) else never
        with changed(made, path, place):
            return copy.deepcopy(made)
    (_, (kind, index)) = path[:2]
    assert index is not None
    getattr(made.args, kind)[index] = ast.Constant(...)
    before = [*made.args.posonlyargs, *made.args.args]
    names = before[len(before) - len(made.args.defaults) :] if kind == "defaults" else made.args.kwonlyargs
    given = ast.Compare(ast.Name(names[index].arg, ast.Load()), [ast.Is()], [ast.Constant(...)])
    made.body.insert(0, ast.If(given, [ast.Expr(never)], []))
    return made


def module_of(tree: ast.stmt, filename: str) -> CodeType:
    """The code of a module of this statement alone."""
    if any(isinstance(node, ast.While) for node in ast.walk(tree)):
        tree = Bounded().visit(copy.deepcopy(tree))
    return compile(ast.fix_missing_locations(ast.Module([tree], [])), filename, "exec")
