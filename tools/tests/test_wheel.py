"""What an install contains, and what an import costs."""

import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parents[2]
ROOMS = ("reference", "optimized", "properties", "regressions", "tools")
BUILT = {"build", "dist", "report"}  # folders at the root; tools/report is a package

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
    everywhere = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info")

    def ignored(folder: str, names: list[str]) -> set[str]:
        return everywhere(folder, names) | (BUILT if Path(folder) == HOME else set())

    shutil.copytree(HOME, copy, ignore=ignored)
    return copy


@pytest.fixture(scope="module")
def wheel(checkout: Path) -> zipfile.ZipFile:
    out = checkout.parent / "wheel"
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w"]
    built = subprocess.run([*command, str(out), str(checkout)], capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    (path,) = out.iterdir()
    return zipfile.ZipFile(path)


@needs_checkout
def test_the_wheel_contains_the_namespace_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    assert strays(wheel.namelist()) == []


@needs_checkout
def test_the_wheel_contains_every_file_of_every_package(wheel: zipfile.ZipFile, checkout: Path) -> None:
    expected = {"trueness/__init__.py", "trueness/py.typed"}
    for room in ROOMS:
        expected |= {f"trueness/{p.relative_to(checkout).as_posix()}" for p in (checkout / room).rglob("*.py")}
    for room, pattern in (("tools", "*.html.j2"), ("tools", "*.json"), ("regressions", "*.json")):
        expected |= {f"trueness/{p.relative_to(checkout).as_posix()}" for p in (checkout / room).rglob(pattern)}
    assert {n for n in wheel.namelist() if n.startswith("trueness/")} == expected


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
        timeout=120,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    rows = re.findall(r"^import time: +\d+ \| +(\d+) \| ( *)(\S+)$", run.stderr, flags=re.MULTILINE)
    return [(len(indent) // 2, int(cumulative), name) for cumulative, indent, name in rows]


def roots(rows: list[tuple[int, int, str]]) -> set[str]:
    return {name.split(".")[0] for _, _, name in rows}


def cost(rows: list[tuple[int, int, str]], package: str) -> int:
    """The microseconds of a package and of all that it pulled in, each counted once."""
    return sum(us for depth, us, name in rows if depth == 0 and name.split(".")[0] == package)


def test_import_times_sees_what_is_imported_and_what_it_costs(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time, json.decoder\ntime.sleep(0.06)\n")
    rows = import_times(f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import slow", tmp_path)
    assert {"slow", "json"} <= roots(rows)
    assert 60_000 <= cost(rows, "slow") < 60_000_000
    assert cost(rows, "json") == 0


def test_trueness_is_imported_without_torch_and_numpy(tmp_path: Path) -> None:
    rows = import_times("import trueness", tmp_path)
    assert "trueness" in roots(rows)
    assert roots(rows).isdisjoint({"torch", "numpy", "msgspec"})


def test_the_optimized_package_imports_no_instrument(tmp_path: Path) -> None:
    rows = import_times("import trueness.optimized.fisher", tmp_path)
    assert "trueness.optimized.fisher" in {name for _, _, name in rows}
    assert roots(rows).isdisjoint({"scipy", "hypothesis", "matplotlib", "flint", "msgspec"})
    ours = {".".join(name.split(".")[:2]) for _, _, name in rows if name.startswith("trueness.")}
    assert ours == {"trueness.optimized"}


def test_the_pytest_plugin_costs_less_than_50_ms(tmp_path: Path) -> None:
    """pytest is there already when it loads a plugin, so it is not the plugin's to pay for."""
    runs = [import_times("import pytest; import trueness.tools.pytest_plugin", tmp_path) for _ in range(5)]
    for rows in runs:
        assert "trueness.tools.pytest_plugin" in {name for _, _, name in rows}
        assert roots(rows).isdisjoint({"torch", "numpy", "msgspec"})
    assert min(cost(rows, "trueness") for rows in runs) < 50_000


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
    call = subprocess.run(
        [sys.executable, "-P", "-c", hide + "import trueness; trueness.check"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert "trueness.check needs hypothesis: pip install 'trueness[verify]'" in call.stderr
    fast = hide + "import torch; from trueness.optimized import diffusion, fisher; fisher.diagonal(torch.ones(2), 0.5)"
    assert subprocess.run([sys.executable, "-P", "-c", fast], cwd=tmp_path).returncode == 0
