"""Tests that cannot fail are refused, by reading the source of every test.

`constant_assertions` finds assertions about literals. `unreached` finds regression tests that use nothing of this
project, so that no change of it could make them fail; evidence that is about a document or a library alone carries the
marker ``ledger_fact``.
"""

import ast
import builtins
from collections.abc import Iterator
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parents[2]
FOLDERS = ("properties", "regressions", "tools", "asv_bench", "examples")
MARKER = "ledger_fact"
MEASURES = ("trueness.tools.arithmetic.", "trueness.properties._lib.within.")  # what a test measures with
PURE_MODULES = frozenset({"math", "operator", "fractions", "cmath"})
SCALARS = frozenset({"abs", "bool", "complex", "float", "int", "len", "max", "min", "pow", "round", "str", "sum"})
PURE_BUILTINS = frozenset(dir(builtins)) - {"open", "input", "vars", "globals", "locals", "__import__"}

needs_checkout = pytest.mark.skipif(
    not (HOME / "pyproject.toml").is_file(), reason="installed from a wheel: there is no checkout to read"
)

Function = ast.FunctionDef | ast.AsyncFunctionDef
Scope = Function | ast.Module


# -- assertions of constants ------------------------------------------------------------------------------------------


def in_scope(scope: Scope) -> Iterator[ast.AST]:
    """The nodes of a function or module, without those of the functions and classes inside it."""
    waiting: list[ast.AST] = list(scope.body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            waiting += ast.iter_child_nodes(node)


def constants(scope: Scope, known: frozenset[str]) -> frozenset[str]:
    """The names that have a constant value wherever ``scope`` reads them; ``known`` are those of the scope around."""
    values: dict[str, list[ast.expr]] = {}
    bound = {a.arg for a in ast.walk(scope.args) if isinstance(a, ast.arg)} if isinstance(scope, Function) else set()
    simple: set[ast.Name] = set()
    for node in in_scope(scope):
        target = node.targets[0] if isinstance(node, ast.Assign) and len(node.targets) == 1 else None
        if isinstance(node, ast.Assign) and isinstance(target, ast.Name):
            simple.add(target)
            values.setdefault(target.id, []).append(node.value)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            bound |= {(a.asname or a.name).partition(".")[0] for a in node.names}
    for node in in_scope(scope):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node not in simple:
            bound.add(node.id)
    names = (known | values.keys()) - bound
    while wrong := {n for n in names & values.keys() if not all(is_fixed(v, frozenset(names)) for v in values[n])}:
        names -= wrong
    return frozenset(names)


def is_fixed(node: ast.expr, names: frozenset[str]) -> bool:
    """Whether a name bound to this constant expression keeps its value: no list, dictionary or iterator."""
    if isinstance(node, ast.BinOp | ast.UnaryOp | ast.BoolOp | ast.IfExp | ast.Tuple):
        return all(is_fixed(n, names) for n in ast.iter_child_nodes(node) if isinstance(n, ast.expr))
    if isinstance(node, ast.Call):
        function = node.func.value if isinstance(node.func, ast.Attribute) else node.func
        immutable = isinstance(function, ast.Name) and function.id in SCALARS | PURE_MODULES
    else:
        immutable = isinstance(node, ast.Constant | ast.Compare | ast.JoinedStr | ast.Name)
    return immutable and is_constant(node, names)


def is_constant(node: ast.expr, names: frozenset[str]) -> bool:
    """Whether an expression has one value: literals, ``names``, and builtins and mathematical functions of these."""
    own = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    own |= {a.arg for a in ast.walk(node) if isinstance(a, ast.arg)}
    allowed = names | own | PURE_BUILTINS | PURE_MODULES
    return all(n.id in allowed for n in ast.walk(node) if isinstance(n, ast.Name))


def constant_assertions(source: str) -> list[str]:
    """The assertions, as text, whose outcome is known from the source alone."""
    tree = ast.parse(source)
    found: list[str] = []

    def visit(scope: Scope, known: frozenset[str]) -> None:
        names = constants(scope, known)
        for node in in_scope(scope):
            if isinstance(node, ast.Assert) and is_constant(node.test, names):
                found.append(f"line {node.lineno}: {ast.unparse(node.test)}")
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                visit(node, names)
            elif isinstance(node, ast.ClassDef):
                visit(ast.Module(node.body, []), names)

    visit(tree, frozenset())
    return sorted(found)


# -- regression tests that reach nothing ------------------------------------------------------------------------------


def is_ours(module: str) -> bool:
    return module.partition(".")[0] == "trueness" and not f"{module}.".startswith(MEASURES)


def imported(tree: ast.AST) -> set[str]:
    """The names that are imported from this project, without its measuring instruments."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {a.asname or a.name for a in node.names if is_ours(f"{node.module}.{a.name}")}
        elif isinstance(node, ast.Import):
            found |= {(a.asname or a.name).partition(".")[0] for a in node.names if is_ours(a.name)}
    return found


def used(node: ast.AST) -> set[str]:
    """The names that a definition reads, the parameters of a function (its fixtures) among them."""
    found = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        found |= {a.arg for a in ast.walk(node.args) if isinstance(a, ast.arg)}
    fixtures = (c for c in ast.walk(node) if isinstance(c, ast.Call) and ast.unparse(c.func).endswith("usefixtures"))
    return found | {str(a.value) for c in fixtures for a in c.args if isinstance(a, ast.Constant)}


def runs_ours(node: ast.AST) -> bool:
    """Whether a definition imports from this project, or holds a program or a name of a module that does."""
    texts = (n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str))
    program = any("import trueness" in t or "from trueness" in t or t.startswith("trueness.") for t in texts)
    return program or bool(imported(node))


def unreached(source: str) -> dict[str, str]:
    """test → why it is refused: it reaches nothing of ours without the marker, or carries the marker and does."""
    tree = ast.parse(source)
    roots = imported(ast.Module([n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)], []))
    definitions: dict[str, ast.AST] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            definitions[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            definitions |= {
                n.id: node for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
            }
    reached = {name for name, node in definitions.items() if runs_ours(node)}
    while more := {n for n, d in definitions.items() if n not in reached and used(d) & (roots | reached)}:
        reached |= more
    refused: dict[str, str] = {}
    for name, definition in definitions.items():
        if not (name.startswith("test_") and isinstance(definition, ast.FunctionDef | ast.AsyncFunctionDef)):
            continue
        marked = any(MARKER in ast.unparse(d) for d in definition.decorator_list)
        if marked == (name in reached):
            refused[name] = "is marked, but uses this project" if marked else "uses nothing of this project"
    return refused


# -- wrong sources are rejected ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "assert 8 - 3 == 5 != 9 - 3",
        "assert True",
        "assert abs(-1) == 1, 'text'",
        "assert math.isclose(1e-6 / 1e-12, 1e6)",
        "n = 288\n    assert n % 12 == 0",
        "n = 2\n    m = 2 * n\n    assert all(k < m for k in range(n))",
        "top = max(2.0**k for k in range(9))\n    assert f'{top:.0f}' == '256'",
        "for _ in calls():\n        assert LIMIT == 3",
        "assert (lambda x: x + 1)(2) == 3",
    ],
)
def test_an_assertion_of_constants_is_found(body: str) -> None:
    assert constant_assertions(f"import math\nLIMIT = 1 + 2\ndef test_it():\n    {body}\n")


@pytest.mark.parametrize(
    "body",
    [
        "assert f(8) == 5",
        "assert value == 5",
        "n = f()\n    assert n == 5",
        "n = 2\n    n += f()\n    assert n == 5",
        "n, m = f()\n    assert n == 5",
        "for n in f():\n        assert n == 5",
        "with f() as n:\n        assert n == 5",
        "LIMIT = f()\n    assert LIMIT == 3",
        "assert [x for x in value] == []",
        "assert fast.LIMIT == 3",
        "found = []\n    found.append(f())\n    assert found == [1]",
        "found = {}\n    found['a'] = f()\n    assert found['a'] > 1",
        "numbers = iter([1])\n    f(numbers)\n    assert next(numbers) == 1",
        "n = 0\n    def inner():\n        nonlocal n\n        n = f()\n    assert value",
    ],
)
def test_an_assertion_of_something_computed_is_not(body: str) -> None:
    source = f"from trueness.optimized import fast\nLIMIT = 1 + 2\ndef test_it(value):\n    {body}\n"
    assert constant_assertions(source) == []


HEAD = """
import numpy as np, logging, pytest
from trueness.optimized import fisher as fast
from trueness.tools.arithmetic.formats import precision
U = precision("float64").u
def helper(x): return fast.diagonal(x, U)
@pytest.fixture
def given(): return helper(1)
TABLE = [helper]
SCRIPT = "from trueness.optimized import fisher"
"""


@pytest.mark.parametrize(
    "test",
    [
        "def test_it():\n    assert np.ones(1) == 1",
        "def test_it():\n    logging.getLogger('a').warning('b')",
        "def test_it():\n    assert np.exp(U) > 1",
        "def test_it():\n    def toy(x): return x\n    assert toy(np.ones(1)) == 1",
        "@pytest.mark.parametrize('x', [1, U])\ndef test_it(x):\n    assert np.exp(x) > 1",
        "@pytest.mark.ledger_fact\ndef test_it():\n    assert fast.floor(1.0) > 0",
    ],
)
def test_a_regression_test_that_reaches_nothing_or_is_marked_without_need_is_found(test: str) -> None:
    assert list(unreached(f"{HEAD}\n{test}\n")) == ["test_it"]


@pytest.mark.parametrize(
    "test",
    [
        "def test_it():\n    assert fast.floor(1.0) > 0",
        "def test_it():\n    assert helper(1) > 0",
        "def test_it(given):\n    assert given > 0",
        "@pytest.mark.usefixtures('given')\ndef test_it():\n    pass",
        "@pytest.mark.parametrize('f', TABLE)\ndef test_it(f):\n    assert f(1) > 0",
        "def test_it():\n    from trueness.reference import fisher\n    assert fisher.floor(1.0) > 0",
        "def test_it():\n    run(SCRIPT)",
        "def test_it(monkeypatch):\n    monkeypatch.setattr('trueness.optimized.fisher.floor', None)",
        "@pytest.mark.ledger_fact\ndef test_it():\n    assert np.ones(1) == 1",
    ],
)
def test_one_that_reaches_the_project_in_any_way_is_not(test: str) -> None:
    assert unreached(f"{HEAD}\n{test}\n") == {}


# -- the real files ---------------------------------------------------------------------------------------------------


def files_below(*folders: str) -> list[str]:
    return sorted(str(f.relative_to(HOME)) for folder in folders for f in (HOME / folder).rglob("test_*.py"))


@needs_checkout
@pytest.mark.parametrize("name", files_below(*FOLDERS))
def test_no_test_asserts_constants(name: str) -> None:
    assert constant_assertions((HOME / name).read_text("utf-8")) == []


@needs_checkout
@pytest.mark.parametrize("name", files_below("regressions"))
def test_every_regression_test_uses_this_project_or_is_marked(name: str) -> None:
    assert unreached((HOME / name).read_text("utf-8")) == {}
