"""Every diff of CONTRIBUTING.md is complete: applied to a copy of the repository, it works as described."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from trueness.tools.ledger.mutate import shadow

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "CONTRIBUTING.md"
pytestmark = pytest.mark.skipif(not GUIDE.exists(), reason="needs a checkout with CONTRIBUTING.md")


def diffs() -> list[str]:
    return re.findall(r"```diff\n(.*?)```", GUIDE.read_text(), re.S)


def apply(diff: str, package: Path) -> None:
    """Add lines next to their context line, or at the end of the file if the diff has no context line."""
    for part in re.split(r"^--- a/.*\n", diff, flags=re.M)[1:]:
        name, _, body = part.partition("\n")
        path = package / name.removeprefix("+++ b/")
        text, pending, anchor = path.read_text(), "", ""
        for line in body.splitlines(keepends=True):
            if line.startswith("+"):
                pending += line[1:]
                continue
            context = line[1:]
            assert text.count(context) == 1, f"{path.name} holds {context!r} {text.count(context)} times"
            if line.startswith("-"):
                text, anchor = text.replace(context, f"\0{context}"), "replace"
                removed = context
                continue
            if anchor == "replace":
                first, _, pending = pending.partition("\n")
                text = text.replace(f"\0{removed}", first + "\n")
            text, pending = text.replace(context, pending + context), ""
            anchor = context
        if anchor == "replace":
            first, _, pending = pending.partition("\n")
            text, anchor = text.replace(f"\0{removed}", first + "\n"), ""
        text = text.replace(anchor, anchor + pending) if anchor else text + "\n\n" + pending
        path.write_text(text)


def ran(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(folder), "TRUENESS_EXAMPLES": str(folder / "examples")}
    python = [sys.executable, "-P", *command]
    return subprocess.run(python, cwd=folder, env=environment, capture_output=True, text=True)


CALL = ("-c", "from trueness.tools.cli import main; main()", "verify", "--dtype", "float32", "--profile", "quick")


def test_the_formula_is_verified_once_its_diff_is_applied(tmp_path: Path) -> None:
    apply(diffs()[0], shadow(ROOT, tmp_path))
    done = ran(tmp_path, *CALL, "fisher.root")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"fisher\.root .*right", done.stdout), done.stdout


def test_the_bug_is_named_once_its_diff_is_applied(tmp_path: Path) -> None:
    package = shadow(ROOT, tmp_path)
    apply(diffs()[1], package)
    (tmp_path / "mine.py").write_text(
        "def half(score, alpha):\n    return score * score + (1.1e-3 - 1e-3 * alpha) / 2\n"
    )
    done = ran(tmp_path, *CALL, "fisher.diagonal", "--impl", "mine:half")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "behaves like FSB-90" in done.stdout
    tests = ran(
        tmp_path,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        str(package / "regressions" / "fisher" / "test_evidence.py"),
        str(package / "regressions" / "test_ledger.py"),
        "-k",
        "FSB_90",
    )
    assert "2 passed" in tests.stdout, tests.stdout


def test_the_implementation_is_tried_once_its_line_is_added(tmp_path: Path) -> None:
    apply(diffs()[2], shadow(ROOT, tmp_path))
    done = ran(tmp_path, *CALL, "fisher.preconditioned_step", "--peers")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"torch again .*right", done.stdout), done.stdout
