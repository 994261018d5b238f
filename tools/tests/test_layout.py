"""The layout of the repository: who may import whom, no import cycles, names of modules, the list of packages.

The rules are pure functions of source text and of names; the tests show each rule rejecting a wrong input, and then
read the real files. An import counts wherever it stands: at the top, inside a function, under TYPE_CHECKING, or as a
literal name given to `import_module`. `properties/test_mirror.py` compares the signatures of reference and optimized.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parents[2]
PACKAGES = ("reference", "optimized", "properties", "regressions", "tools")
IMPORT_FREE = ("properties", "regressions", "tools")
NOUNS = ("Bug", "Formula", "Implementation", "Verdict", "__version__", "bound", "check", "testing")

needs_checkout = pytest.mark.skipif(
    not (HOME / "pyproject.toml").is_file(),
    reason="installed from a wheel: the root of the checkout is not here to be read",
)


@dataclass(frozen=True)
class Rule:
    """What one package may import: packages of ours, and modules of others (None: any)."""

    ours: frozenset[str]
    others: frozenset[str] | None
    top_level: bool


NUMPY_ONLY = frozenset({"__future__", "collections.abc", "dataclasses", "math", "numpy", "typing"})
FAST = frozenset({"numpy", "torch", "triton"}) | sys.stdlib_module_names
TRUTH_SPEED_TOOLS = frozenset({"reference", "optimized", "tools"})

RULES = {
    "reference": Rule(frozenset(), NUMPY_ONLY, top_level=False),
    "optimized": Rule(frozenset({"optimized"}), FAST, top_level=False),
    "tools": Rule(frozenset({"tools"}), None, top_level=True),
    "properties": Rule(TRUTH_SPEED_TOOLS | {"properties"}, None, top_level=True),
    "regressions": Rule(TRUTH_SPEED_TOOLS | {"properties", "regressions"}, None, top_level=True),
    "asv_bench": Rule(TRUTH_SPEED_TOOLS, None, top_level=True),
    "examples": Rule(frozenset({"optimized"}), None, top_level=False),
    "src": Rule(frozenset({"tools"}), sys.stdlib_module_names, top_level=False),
}

REGISTRY = ("properties", "regressions")
COMPUTED = ""  # what is left of the name in import_module(f"trueness.{root}")
MAY_OPEN_REGISTRY = ("run/api.py", "cli.py", "pytest_plugin.py", "spec/registry.py")
DYNAMIC = ("import_module", "__import__", "find_spec")


def leading_text(node: ast.expr) -> str | None:
    """The literal text that an expression starts with: a string, an f-string, or `"literal" + anything`."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=[first, *_]):
            return leading_text(first)
        case ast.BinOp(left=left):
            return leading_text(left)
    return None


def package_of(root: str, filename: str) -> list[str]:
    """The package of a file of `root`, part by part: what its relative imports start from."""
    return ["trueness", *(() if root == "src" else (root, *Path(filename).parent.parts))]


def absolute(package: list[str], level: int, name: str) -> str:
    """The full dotted name of a relative import of `level` dots in a module of `package`."""
    return ".".join(package[: len(package) + 1 - level] + ([name] if name else [])) if level else name


def imports(package: list[str], tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every `(line, dotted name)` that a module of `package` imports."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                for alias in names:
                    yield node.lineno, alias.name
            case ast.ImportFrom(module=module, names=names, level=level):
                for alias in names:
                    yield node.lineno, f"{absolute(package, level, module or '')}.{alias.name}"
            case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called), args=[first, *_]):
                text = leading_text(first) if called in DYNAMIC else None
                if text is not None:
                    name = text.lstrip(".")
                    yield node.lineno, absolute(package, len(text) - len(name), name)
            case ast.Attribute(value=ast.Name(id="trueness"), attr=attr) if attr in PACKAGES:
                yield node.lineno, f"trueness.{attr}"


def refusal(root: str, filename: str, name: str) -> str | None:
    """Why a module of `root` may not import `name`, or None if it may."""
    rule = RULES[root]
    parts = name.split(".")
    if parts[0] in PACKAGES:
        return f"imports {name}: write trueness.{name}, or it is a second module with the same text"
    if parts[0] != "trueness":
        permitted = rule.others is None or any(".".join(parts[:n]) in rule.others for n in range(1, len(parts) + 1))
        return None if permitted else f"imports {name}: {root} may not"
    if len(parts) == 1 or parts[1] in (*NOUNS, "*"):
        return None if rule.top_level else f"imports {name}: {root} may not go through the top-level package"
    if root == "tools" and filename in MAY_OPEN_REGISTRY and parts[1] in (*REGISTRY, COMPUTED):
        return None
    return None if parts[1] in rule.ours else f"imports {name}: {root} may not import trueness.{parts[1]}"


def documentation(tree: ast.AST) -> set[ast.AST]:
    """The string nodes that stand alone as a statement: docstrings."""
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def mentions(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every string that is, or begins, the dotted name of a registry root."""
    prose = documentation(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in prose:
            found = re.match(rf"trueness\.({'|'.join(REGISTRY)})(?!\w)", node.value)
            if found:
                yield node.lineno, found.group()


def violations(root: str, filename: str, source: str) -> list[str]:
    """The sentences that are wrong with one file's imports; empty if it keeps the rules of its package."""
    tree = ast.parse(source)
    found = []
    package = package_of(root, filename)
    for line, name in imports(package, tree):
        why = refusal(root, filename, name)
        if why:
            found.append(f"{root}/{filename}:{line} {why}")
    if root == "tools" and filename not in MAY_OPEN_REGISTRY and not filename.startswith("tests/"):
        who = ", ".join(MAY_OPEN_REGISTRY)
        for line, name in mentions(tree):
            found.append(f"{root}/{filename}:{line} names {name}: only {who} open the registry")
    if filename == "__init__.py" and root in IMPORT_FREE and any(imports(package, tree)):
        found.append(f"{root}/__init__.py imports something: it must stay free to import")
    return sorted(set(found))


def module_name(root: str, filename: str) -> str:
    """trueness.optimized.fisher for optimized/fisher/__init__.py"""
    parts = Path(filename).with_suffix("").parts
    return ".".join(("trueness", root, *(parts[:-1] if parts[-1] == "__init__" else parts)))


def import_graph(files: Mapping[tuple[str, str], str]) -> dict[str, set[str]]:
    """(root, filename) → source  as  module → modules of ours that it names in an import, its own packages excepted."""
    names = {module_name(*place) for place in files}
    graph: dict[str, set[str]] = {}
    for (root, filename), source in files.items():
        here = module_name(root, filename)
        graph[here] = set()
        for _, name in imports(package_of(root, filename), ast.parse(source)):
            parts = name.split(".")
            known = [".".join(parts[:n]) for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in names]
            graph[here] |= set(known[:1]) - {here}
    return graph


def cycle(files: Mapping[tuple[str, str], str]) -> str:
    """One import cycle as `a → b → a`; empty if there is none."""
    try:
        TopologicalSorter(import_graph(files)).prepare()
    except CycleError as error:
        return " → ".join(reversed(error.args[1]))
    return ""


def misnamed(filenames: Iterable[str]) -> list[str]:
    """The files of a root whose name starts with that of a package beside or above them: the package says it already.

    A package counts by its name and by its first word: atlas_memory/atlas_stream.py, _atlas_stream.py beside it, and
    atlas_memory/test_atlas_stream.py are all refused.
    """
    paths = [Path(f) for f in filenames]
    packages = {folder for p in paths for folder in p.parents if folder != Path(".")}
    found = []
    for path in paths:
        near = [f.name for f in packages if f in path.parents or f.parent == path.parent]
        words = {w.strip("_") for name in near for w in (name, name.strip("_").split("_")[0])} - {"", "lib", "tests"}
        stem = path.stem.removeprefix("test_").lstrip("_")
        if any(stem.startswith(f"{word}_") for word in words):
            found.append(path.as_posix())
    return sorted(found)


def package_differences(filenames: Iterable[str], listed: Iterable[str]) -> list[str]:
    """What is wrong between the folders that hold Python files and the packages that pyproject.toml lists."""
    there = {".".join(("trueness", *Path(f).parent.parts)) for f in filenames}
    missing = [f"{name} is not listed in pyproject.toml: the wheel would lack it" for name in there - set(listed)]
    return sorted(
        [*missing, *(f"{name} is listed in pyproject.toml: it has no folder" for name in set(listed) - there)]
    )


def sources(root: str) -> list[Path]:
    """The Python files of a root, without hidden folders and caches."""
    folder = HOME / ("src/trueness" if root == "src" else root)
    found = folder.rglob("*.py")
    hidden = (".", "__pycache__")
    return sorted(p for p in found if not any(s.startswith(hidden) for s in p.relative_to(folder).parts))


def label(path: Path) -> str:
    return path.relative_to(HOME).as_posix()


WRONG = {
    "reference/fisher.py": [
        "import torch",
        "import scipy.special",
        "import collections",
        "import functools",
        "import trueness",
        "from . import diffusion",
        "from .diffusion import alpha_bar",
        "from trueness.reference import diffusion",
        "from trueness.tools.spec.model import Formula",
        "def f():\n    import torch",
        "if TYPE_CHECKING:\n    from torch import Tensor",
        "numpyish = __import__('scipy')",
    ],
    "optimized/fisher/functional.py": [
        "from trueness.reference import fisher",
        "from trueness import reference",
        "from ...reference.fisher import diagonal",
        "from ... import reference",
        "import trueness.properties.fisher as answers",
        "from trueness.tools import bounds",
        "from trueness import check",
        "import trueness\ntrueness.reference.fisher",
        "import importlib\nimportlib.import_module('trueness.reference.fisher')",
        "import_module('...reference.fisher', __package__)",
        "import_module(f'trueness.reference.{name}')",
        "import_module('trueness.reference.' + name)",
        "import scipy",
        "from hypothesis import given",
        "import reference.fisher",
        "import_module(f'trueness.{root}')",
    ],
    "tools/checks/core.py": [
        "from trueness.reference import fisher",
        "from trueness.optimized import fisher",
        "from trueness.properties import fisher",
        "import trueness.regressions.fisher",
        "where = 'trueness.properties'",
        "where = f'trueness.regressions.{family}'",
        "import_module(f'trueness.{root}.{family}')",
    ],
    "tools/cli.py": [
        "from trueness.reference import fisher",
    ],
    "tools/spec/registry.py": [
        "import_module('trueness.optimized.fisher')",
    ],
    "tools/tests/test_checks.py": [
        "import trueness.properties.fisher",
    ],
    "tools/__init__.py": [
        "from trueness.tools.run.api import check",
        "import os",
    ],
    "properties/fisher/__init__.py": [
        "from trueness.regressions import fisher",
        "from ...regressions.fisher import squared",
    ],
    "properties/fisher/test_laws.py": [
        "from properties.fisher import FORMULAS",
    ],
    "properties/__init__.py": [
        "import trueness.properties.fisher",
    ],
    "regressions/fisher/__init__.py": [
        "from tools.nouns import Bug",
    ],
    "regressions/__init__.py": [
        "from . import fisher",
    ],
    "asv_bench/benchmarks/fisher.py": [
        "from trueness.properties import fisher",
        "import trueness.regressions",
    ],
    "asv_bench/history.py": [
        "from optimized import fisher",
    ],
    "examples/digits.py": [
        "from trueness.reference import diffusion",
        "from trueness.tools import registry",
        "import trueness",
    ],
    "src/__init__.py": [
        "import torch",
        "import numpy",
        "from trueness.optimized import fisher",
    ],
}

RIGHT = {
    "reference/fisher.py": [
        "from __future__ import annotations\nimport math\nimport numpy as np",
        "from collections.abc import Callable\nfrom numpy.typing import NDArray",
        "from dataclasses import dataclass\nfrom typing import Any",
    ],
    "optimized/fisher/functional.py": [
        "import torch, triton\nimport triton.language as tl\nfrom functools import partial",
        "from . import _launch\nfrom ._launch import grid\nfrom trueness.optimized import _launch",
    ],
    "tools/checks/core.py": [
        "import flint\nimport torch\nfrom trueness.tools.arithmetic.bounds import bound\nimport trueness",
        "'''As trueness.properties says.'''",
        "advice = 'run pytest --pyargs trueness.properties'",
    ],
    "tools/spec/registry.py": [
        "import_module(f'trueness.properties.{family}')",
        "import_module(f'trueness.{root}')",
    ],
    "tools/cli.py": [
        "import trueness.regressions",
    ],
    "tools/tests/test_cli.py": [
        "command = ['--pyargs', 'trueness.properties']",
    ],
    "properties/fisher/__init__.py": [
        "from trueness.reference import fisher\nfrom trueness.optimized import fisher as fast",
    ],
    "properties/fisher/test_laws.py": [
        "import scipy\nfrom trueness import Formula\nfrom trueness.tools import bounds",
        "from trueness.properties.fisher import DIAGONAL",
    ],
    "regressions/fisher/__init__.py": [
        "from trueness.properties.fisher import DIAGONAL\nfrom trueness import Bug",
    ],
    "asv_bench/benchmarks/fisher.py": [
        "from trueness.tools.spec.registry import formulas\nimport torch\nimport benchmarks",
    ],
    "examples/digits.py": [
        "import sklearn\nfrom _run import report\nfrom trueness.optimized import diffusion",
    ],
    "src/__init__.py": [
        "from trueness.tools.run.api import check\nfrom importlib.metadata import version",
    ],
    "tools/subject.py": [
        "import_module(name)",
    ],
}


@pytest.mark.parametrize(("path", "source"), [(path, s) for path, wrong in WRONG.items() for s in wrong])
def test_a_wrong_import_is_rejected(path: str, source: str) -> None:
    root, _, filename = path.partition("/")
    assert violations(root, filename, source)


@pytest.mark.parametrize(("path", "source"), [(path, s) for path, right in RIGHT.items() for s in right])
def test_a_right_import_is_accepted(path: str, source: str) -> None:
    root, _, filename = path.partition("/")
    assert violations(root, filename, source) == []


CYCLES = {
    "plainly": {
        ("tools", "a.py"): "from trueness.tools import b",
        ("tools", "b.py"): "from trueness.tools.a import f",
    },
    "for the type checker": {
        ("optimized", "x/a.py"): "if TYPE_CHECKING:\n    from trueness.optimized.x.b import State",
        ("optimized", "x/b.py"): "from trueness.optimized.x import a",
    },
    "inside a function": {
        ("optimized", "x/a.py"): "from trueness.optimized.x.b import g",
        ("optimized", "x/b.py"): "def g():\n    from . import c",
        ("optimized", "x/c.py"): "def h():\n    import trueness.optimized.x.a",
    },
    "through the package": {
        ("optimized", "x/__init__.py"): "from trueness.optimized.x.a import f",
        ("optimized", "x/a.py"): "from trueness.optimized.x import g",
    },
}


@pytest.mark.parametrize("files", CYCLES.values(), ids=CYCLES)
def test_an_import_cycle_is_rejected(files: dict[tuple[str, str], str]) -> None:
    assert cycle(files).count("→") == len(files)


def test_imports_in_one_direction_are_no_cycle() -> None:
    files = {
        ("optimized", "x/__init__.py"): "from trueness.optimized.x import a\nfrom trueness.optimized.x.b import *",
        ("optimized", "x/a.py"): "from trueness.optimized._lib import threads\nfrom trueness.optimized.x import b",
        ("optimized", "x/b.py"): "import torch",
        ("optimized", "_lib/threads.py"): "",
    }
    assert cycle(files) == ""


@pytest.mark.parametrize(
    "filenames",
    [
        ["atlas_memory/__init__.py", "_atlas_stream.py"],
        ["atlas_memory/__init__.py", "atlas_memory/atlas_stream.py"],
        ["fisher/__init__.py", "fisher/_fisher_tiles.py"],
        ["fisher/__init__.py", "fisher/cuda/fisher_kernel.py"],
        ["fisher/__init__.py", "fisher/test_fisher_laws.py"],
        ["checks/core.py", "check_value.py", "checks_value.py"],
    ],
    ids=lambda names: names[-1],
)
def test_a_module_named_with_its_packages_prefix_is_rejected(filenames: list[str]) -> None:
    assert misnamed(filenames) == filenames[-1:]


def test_a_name_that_only_looks_like_a_prefix_is_accepted() -> None:
    names = ["fisher/__init__.py", "fisher/fishery.py", "fisher/test_laws.py", "test_conformance.py", "fisher/cuda.py"]
    assert misnamed(names) == []


@pytest.mark.parametrize(
    ("filenames", "listed", "what"),
    [
        (["tools/a.py", "tools/run/b.py"], ["trueness.tools"], "the wheel would lack it"),
        (["tools/a.py"], ["trueness.tools", "trueness.tools.run"], "it has no folder"),
    ],
)
def test_a_difference_between_folders_and_packages_is_rejected(
    filenames: list[str], listed: list[str], what: str
) -> None:
    (found,) = package_differences(filenames, listed)
    assert what in found and "trueness.tools.run" in found


def all_sources() -> dict[tuple[str, str], str]:
    """(root, filename) → source of every Python file of the five packages."""
    return {
        (root, p.relative_to(HOME / root).as_posix()): p.read_text("utf-8") for root in PACKAGES for p in sources(root)
    }


def test_there_is_no_import_cycle() -> None:
    assert cycle(all_sources()) == ""


@pytest.mark.parametrize("root", PACKAGES)
def test_no_module_repeats_the_name_of_its_package(root: str) -> None:
    assert misnamed(p.relative_to(HOME / root).as_posix() for p in sources(root)) == []


@needs_checkout
def test_pyproject_lists_the_packages_that_there_are() -> None:
    settings = tomllib.loads((HOME / "pyproject.toml").read_text("utf-8"))
    files = [label(p) for root in PACKAGES for p in sources(root)]
    listed = [name for name in settings["tool"]["setuptools"]["packages"] if name != "trueness"]
    assert package_differences(files, listed) == []


def test_every_package_says_what_it_is_for() -> None:
    doors = {p.parent / "__init__.py" for root in PACKAGES for p in sources(root)}
    found = [label(p) for p in doors if not p.is_file() or not ast.get_docstring(ast.parse(p.read_text("utf-8")))]
    assert found == []


@pytest.mark.parametrize("root", PACKAGES)
def test_every_file_keeps_the_rules_of_its_package(root: str) -> None:
    files = sources(root)
    assert HOME / root / "__init__.py" in files
    found = [v for p in files for v in violations(root, p.relative_to(HOME / root).as_posix(), p.read_text("utf-8"))]
    assert found == []


@needs_checkout
@pytest.mark.parametrize("root", ["asv_bench", "examples", "src"])
def test_every_file_beside_the_packages_keeps_its_rules(root: str) -> None:
    found = [v for p in sources(root) for v in violations(root, p.name, p.read_text("utf-8"))]
    assert found == []


@needs_checkout
def test_no_folder_at_the_root_shadows_the_install() -> None:
    assert not (HOME / "trueness").exists()


@needs_checkout
def test_the_top_level_package_is_nothing_but_an_entry() -> None:
    door = HOME / "src" / "trueness"
    assert {p.name for p in door.iterdir()} - {"__pycache__"} == {"__init__.py", "testing.py", "py.typed"}
