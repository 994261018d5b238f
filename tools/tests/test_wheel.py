"""What an install contains, and what an import costs."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parents[2]
PACKAGES = ("reference", "optimized", "properties", "regressions", "tools")
NOT_SOURCE = {"build", "dist", "report"}  # folders at the root that commands write

needs_checkout = pytest.mark.skipif(
    not (HOME / "pyproject.toml").is_file(),
    reason="installed from a wheel: there is no checkout here to build another one from",
)


def strays(names: list[str]) -> list[str]:
    """The entries of a wheel that belong neither to the namespace nor to its metadata."""
    return [n for n in names if not re.match(r"trueness/|trueness-[^/]+\.dist-info/", n)]


def test_strays_are_seen() -> None:
    good = ["trueness/__init__.py", "trueness/tools/cli.py", "trueness-0.1.0.dist-info/METADATA"]
    bad = [
        "tools/cli.py",
        "asv_bench/history.py",
        "conftest.py",
        "src/trueness/__init__.py",
        "trueness-0.1.0.data/x",
    ]
    assert strays(good + bad) == bad


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source, so that no leftovers of an earlier build get in, and none of this one stay."""
    copy = tmp_path_factory.mktemp("checkout") / "source"
    hidden = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info")
    shutil.copytree(HOME, copy, ignore=lambda f, names: hidden(f, names) | (NOT_SOURCE if Path(f) == HOME else set()))
    return copy


@pytest.fixture(scope="module")
def wheel(checkout: Path) -> zipfile.ZipFile:
    out = checkout.parent / "wheel"
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w"]
    built = subprocess.run([*command, str(out), str(checkout)], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (path,) = out.iterdir()
    return zipfile.ZipFile(path)


@needs_checkout
def test_the_wheel_contains_the_namespace_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    assert strays(wheel.namelist()) == []


@needs_checkout
def test_the_wheel_contains_every_module_of_every_package(wheel: zipfile.ZipFile, checkout: Path) -> None:
    """A folder is a package if it has an __init__.py, at any depth; its data files are those that are no modules."""
    expected = {"trueness/__init__.py", "trueness/testing.py", "trueness/py.typed"}
    for package in PACKAGES:
        for folder in {path.parent for path in (checkout / package).rglob("__init__.py")}:
            for path in folder.iterdir():
                if path.suffix in (".py", ".j2", ".json"):
                    expected.add(f"trueness/{path.relative_to(checkout).as_posix()}")
    expected |= {f"trueness/regressions/examples/{p.name}" for p in (checkout / "regressions/examples").glob("*.json")}
    assert {n for n in wheel.namelist() if n.startswith("trueness/")} == expected
    nested = {"trueness/optimized/atlas_memory/cuda/forward.py", "trueness/tools/report/report.html.j2"}
    assert nested <= expected, "the test looks into no nested folder"


@needs_checkout
def test_the_wheel_needs_torch_and_numpy_alone(wheel: zipfile.ZipFile) -> None:
    (metadata,) = (n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
    wanted = Parser().parsestr(wheel.read(metadata).decode()).get_all("Requires-Dist", [])
    always = {re.split(r"\W", w)[0]: w for w in wanted if "extra ==" not in w}
    assert set(always) == {"numpy", "torch", "triton"}
    assert {name for name, w in always.items() if ";" in w} == {"triton"}


@needs_checkout
def test_the_wheel_brings_the_command_and_the_plugin(wheel: zipfile.ZipFile) -> None:
    (points,) = (n for n in wheel.namelist() if n.endswith(".dist-info/entry_points.txt"))
    lines = wheel.read(points).decode().split("\n")
    assert "trueness = trueness.tools.cli:main" in lines[lines.index("[console_scripts]") :]
    assert "trueness = trueness.tools.pytest_plugin" in lines[lines.index("[pytest11]") :]


def import_times(program: str, folder: Path) -> list[tuple[int, int, str]]:
    """What Python itself says of every import in `program`: `(depth, cumulative microseconds, module)`."""
    run = subprocess.run(
        [sys.executable, "-P", "-X", "importtime", "-c", program],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    rows = re.findall(r"^import time: +\d+ \| +(\d+) \| ( *)(\S+)$", run.stderr, flags=re.MULTILINE)
    return [(len(indent) // 2, int(cumulative), name) for cumulative, indent, name in rows]


def roots(rows: list[tuple[int, int, str]]) -> set[str]:
    return {name.split(".")[0] for _, _, name in rows}


def test_import_times_sees_every_import_and_its_depth(tmp_path: Path) -> None:
    (tmp_path / "outer.py").write_text("import json.decoder\n")
    rows = import_times(f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import outer", tmp_path)
    depth = {name: depth for depth, _, name in rows}
    assert depth["json.decoder"] > depth["outer"] == 0
    assert {"outer", "json"} <= roots(rows)


def test_the_package_itself_imports_neither_torch_nor_numpy(tmp_path: Path) -> None:
    rows = import_times("import trueness", tmp_path)
    assert "trueness" in roots(rows)
    assert roots(rows).isdisjoint({"torch", "numpy", "msgspec"})


def test_importing_fisher_imports_no_instrument_no_triton_and_no_other_family(tmp_path: Path) -> None:
    rows = import_times("import trueness.optimized.fisher", tmp_path)
    modules = {name for _, _, name in rows}
    assert "trueness.optimized.fisher" in modules
    assert roots(rows).isdisjoint({"scipy", "hypothesis", "matplotlib", "flint", "msgspec", "triton"})
    assert unrelated(modules, "fisher") == set()


def unrelated(modules: set[str], family: str) -> set[str]:
    """The modules of ours, and of Triton, that a family of ``optimized`` does not need."""
    allowed = ("trueness.optimized._lib", f"trueness.optimized.{family}")
    return {
        name
        for name in modules - {"trueness", "trueness.optimized"}
        if name.split(".")[0] in ("trueness", "triton") and not any(f"{name}.".startswith(f"{a}.") for a in allowed)
    }


def test_what_a_family_does_not_need_is_seen() -> None:
    ours = "trueness.optimized"
    needed = {"torch", "trueness", ours, f"{ours}.fisher", f"{ours}.fisher.cpu", f"{ours}._lib.dtypes"}
    surplus = {"triton", "triton.language", "trueness.tools", f"{ours}.fisher_matrix", f"{ours}.kernels.cpu"}
    assert unrelated(needed | surplus, "fisher") == surplus


EACH_FAMILY = """
import importlib, os, pkgutil, sys
import torch
import trueness.optimized

before = set(sys.modules)
for family in sorted(m.name for m in pkgutil.iter_modules(trueness.optimized.__path__) if not m.name.startswith("_")):
    sys.stdout.flush()
    child = os.fork()  # torch is imported once; every family is imported by a process that has imported no other
    if child == 0:
        importlib.import_module(f"trueness.optimized.{family}")
        print(family, *sorted(set(sys.modules) - before), flush=True)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(f"{family} cannot be imported")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_importing_a_family_imports_no_other_and_no_triton(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-P", "-c", EACH_FAMILY], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    imported = {line.split()[0]: set(line.split()[1:]) for line in done.stdout.splitlines()}
    assert {"adapters", "atlas_memory", "attention", "diffusion", "fisher", "training"} <= set(imported)
    assert all(f"trueness.optimized.{family}" in modules for family, modules in imported.items())
    assert {f: sorted(u) for f, modules in imported.items() if (u := unrelated(modules, f))} == {}


def test_the_pytest_plugin_imports_its_tables_and_no_other_package(tmp_path: Path) -> None:
    """Every pytest run of whoever installs this package imports the plugin; pytest itself is there by then."""
    rows = import_times("import pytest; import trueness.tools.pytest_plugin", tmp_path)
    ours = {name for _, _, name in rows if name.split(".")[0] == "trueness"}
    tools = {f"trueness.tools{name}" for name in ("", ".pytest_plugin", ".spec", ".spec.tables")}
    assert ours == {"trueness", *tools}
    assert roots(rows).isdisjoint({"torch", "numpy", "msgspec"})
    assert roots(rows) - roots(import_times("import pytest", tmp_path)) <= {"trueness", *sys.stdlib_module_names}


def test_without_the_verify_extra_one_sentence_says_what_to_install(tmp_path: Path) -> None:
    """A process in which click and hypothesis cannot be found stands for a machine that has torch and NumPy alone."""
    hide = (
        "import sys\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('click', 'hypothesis', 'rich', 'flint'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
    )
    line = [sys.executable, "-P", "-c", hide + "from trueness.tools.cli import main; main()", "list"]
    command = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path)
    assert command.returncode == 2
    assert command.stderr == "trueness: the command line needs the verify extra: pip install 'trueness[verify]'\n"
    for text, name in (("import trueness; trueness.check", "check"), ("import trueness.testing", "testing")):
        line = [sys.executable, "-P", "-c", hide + text]
        call = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path)
        assert f"trueness.{name} needs hypothesis: pip install 'trueness[verify]'" in call.stderr
    fast = hide + "import torch; from trueness.optimized import diffusion, fisher; fisher.diagonal(torch.ones(2), 0.5)"
    assert subprocess.run([sys.executable, "-P", "-c", fast], cwd=tmp_path).returncode == 0
