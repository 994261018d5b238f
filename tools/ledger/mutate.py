"""Mutation tests of the library: wrong lines and wrong functions that the tests must detect.

Each mutation replaces one line of optimized/ in a copy of the repository, where the family's conformance tests and laws
must fail. A mutation that survives is a gap in the checks: exit status 1.

With ``--ledger`` every wrong variant of the ledger replaces the library's function in turn, and the value check must
reject it.

    trueness mutate [--only N …]
    trueness mutate --ledger [ID …]
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from trueness.tools.run.runner import DTYPES, Job, run_job
from trueness.tools.run.variants import as_torch
from trueness.tools.spec import registry
from trueness.tools.spec.model import Bug

PACKAGES = ("reference", "optimized", "properties", "regressions", "tools")


@dataclass(frozen=True)
class Mutation:
    """Replace ``line`` by ``wrong`` in optimized/``file``; ``family`` says which tests must fail."""

    file: str
    line: str
    wrong: str
    family: str
    what: str


MUTATIONS = (
    Mutation(
        "fisher/operators.py",
        "    value = add_square(floors, s)\n",
        "    value = s.abs() + floors\n",
        "fisher",
        "|s| for s²",
    ),
    Mutation(
        "fisher/functional.py",
        "    return 1e-4 + 1e-3 * (1 - alpha)\n",
        "    return 1e-4 + 1e-3 * alpha\n",
        "fisher",
        "ε(ᾱ) reversed",
    ),
    Mutation(
        "fisher/operators.py",
        "        grad_score = 2 * s * g\n",
        "        grad_score = s * g\n",
        "fisher",
        "a factor 2 in the gradient",
    ),
    Mutation(
        "fisher/operators.py",
        "        return drift_in_chunks(x, score, eps, a, b, table)\n",
        "        return drift_in_chunks(x, score, eps, a, b, None)\n",
        "fisher",
        "a drift that ignores the samples' own ε, a and b",
    ),
    Mutation(
        "fisher/cuda.py",
        "tl.arange(0, BLOCK) >= each - within\n",
        "tl.arange(0, BLOCK) > each - within\n",
        "fisher",
        "a kernel that gives a sample's first element to the sample before",
    ),
    Mutation(
        "fisher/cpu.py",
        "    return value.clamp(-largest, largest).to(dtype)\n",
        "    return value.to(dtype)\n",
        "fisher",
        "no saturation in half formats",
    ),
    Mutation(
        "_lib/elementwise.py",
        "        stop = min(start + CHUNK, size)\n",
        "        stop = min(start + CHUNK, size) - (start + CHUNK > size > 1)\n",
        "fisher",
        "the last element of the last chunk",
    ),
    Mutation(
        "_lib/memory.py",
        "    source = tensor if is_dense(tensor) else tensor.contiguous()\n",
        "    source = tensor\n",
        "fisher",
        "strided input read as if it were dense",
    ),
    Mutation(
        "fisher/cuda.py",
        "        return 2.0 * s * g\n",
        "        return 2.02 * s * g\n",
        "fisher",
        "1 % gain in the kernel's gradient",
    ),
    Mutation(
        "fisher/cuda.py",
        "        tl.store(out + offs, _value(s, floor, limit, STEP), mask=mask)\n",
        "        tl.store(out + offs, _value(s, floor, limit, STEP))\n",
        "fisher",
        "the store's mask: writes beyond the output",
    ),
    Mutation(
        "fisher/functional.py",
        "    return 0.25 * down + 0.25 * up + 0.5 * x",
        "    return 0.25 * down + 0.25 * up + 0.5 * x.roll(1, axis)",
        "fisher",
        "the filter's centre moved by one",
    ),
    Mutation(
        "fisher/functional.py",
        '    if padding == "zeros":\n',
        '    if padding in ("zeros", "circular"):\n',
        "fisher",
        "circular padding taken for zeros",
    ),
)


def shadow(root: Path, folder: Path) -> Path:
    """A copy of the packages as one importable package ``trueness`` under ``folder``."""
    package = folder / "trueness"
    shutil.copytree(root / "src" / "trueness", package)
    for name in PACKAGES:
        shutil.copytree(root / name, package / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "pyproject.toml", folder / "pyproject.toml")
    return package


def survives(mutation: Mutation, root: Path) -> tuple[bool, str]:
    """Whether the tests pass in spite of ``mutation``, and the line that says so."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        package = shadow(root, folder)
        target = package / "optimized" / mutation.file
        text = target.read_text()
        if mutation.line and text.count(mutation.line) != 1:
            return True, f"{mutation.file} holds the line {text.count(mutation.line)} times; correct MUTATIONS"
        if mutation.line:
            target.write_text(text.replace(mutation.line, mutation.wrong))
        tests = [package / "properties" / "test_conformance.py", package / "properties" / mutation.family]
        command = [sys.executable, "-P", "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider"]
        command += ["-k", mutation.family, "--rootdir", str(folder), "-c", str(folder / "pyproject.toml")]
        environment = os.environ | {"PYTHONPATH": str(folder), "TRUENESS_EXAMPLES": str(folder / "examples")}
        done = subprocess.run([*command, *map(str, tests)], cwd=folder, env=environment, capture_output=True, text=True)
        lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        verdict = lines[0] if lines else (done.stdout.strip().splitlines() or [done.stderr.strip()[-300:]])[-1]
        return done.returncode != 1, verdict


def pasted(bug: Bug, dtypes: Sequence[str] = DTYPES) -> str:
    """The first dtype in which the value check rejects ``bug`` in place of the library's function; empty if none does.

    If the implementation is declared through an adapter, the adapter is replaced as well.
    ValueError if the formula has no implementation in the library.
    """
    formula = registry.formula(bug.formula)
    assert bug.variant is not None
    wrong = as_torch(bug.variant, formula)
    ours = next((i for i in formula.implementations if i.origin == "builtin" and not i.env), None)
    if ours is None:
        raise ValueError(f"{formula.name} has no implementation in the library.")
    function = ours.load()
    module, name = sys.modules[function.__module__], function.__name__
    in_module = getattr(module, name, None) is function
    if in_module:
        setattr(module, name, wrong)
    candidate = ours if in_module and ours.load() is wrong else replace(ours, load=lambda: wrong)
    try:
        for dtype in dtypes:
            if dtype in formula.dtypes and dtype not in bug.invisible:
                job = Job(formula.name, ours.name, dtype, profile="quick", checks=("value",))
                if not all(run_job(job, candidate=candidate)):
                    return dtype
        return ""
    finally:
        if in_module:
            setattr(module, name, function)


def ledger(ids: Sequence[str]) -> int:
    """Try every wrong variant in place of the library's function and print one line each; 1 if one passes."""
    bugs = [b for b in registry.bugs().values() if b.variant is not None and (not ids or b.id in ids)]
    unknown = sorted(set(ids) - {b.id for b in bugs})
    if unknown:
        raise ValueError(f"id was {unknown[0]!r}; that is no entry with a wrong variant, `trueness ledger` prints all.")
    alive = 0
    for bug in sorted(bugs, key=lambda b: b.id):
        dtype = pasted(bug)
        alive += not dtype
        where = f"in {dtype}" if dtype else "PASSES"
        print(f"{'caught  ' if dtype else 'SURVIVED'} {bug.id:<12} {bug.formula} {where}: {bug.title}", flush=True)
    print(f"{len(bugs) - alive} of {len(bugs)} wrong variants caught: {100 * (1 - alive / max(len(bugs), 1)):.0f} %.")
    return 1 if alive else 0


def run(only: Sequence[int] = ()) -> int:
    """Try the mutations, two at a time, and print one line each; 1 when one survives."""
    root = Path(__file__).resolve().parents[2]
    if not (root / "src" / "trueness").is_dir():
        print("trueness mutate needs a checkout: it changes a copy of its files.", file=sys.stderr)
        return 2
    chosen = [MUTATIONS[n] for n in only] or list(MUTATIONS)
    alive = 0
    for family in sorted({m.family for m in chosen}):  # a copy that fails unbroken would kill everything
        passed, line = survives(Mutation(f"{family}/functional.py", "", "", family, "nothing changed"), root)
        if not passed:
            print(f"the unbroken copy fails: {line}", file=sys.stderr)
            return 2
    with ThreadPoolExecutor(2) as pool:
        for mutation, (lived, line) in zip(chosen, pool.map(lambda m: survives(m, root), chosen), strict=True):
            alive += lived
            print(
                f"{'SURVIVED' if lived else 'killed  '} {mutation.file}: {mutation.what}\n         {line}", flush=True
            )
    print(f"{len(chosen) - alive} of {len(chosen)} mutations killed.")
    return 1 if alive else 0
