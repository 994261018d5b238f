"""Measure commits with asv, judge each by the one before it, write HTML: asv_bench/history.py [BASE NEW …]

Without commits: HEAD~1 and HEAD. Every commit is laid out in a temporary folder as its own pyproject.toml maps it, and
is imported from there; today's benchmarks measure all of them. Works without network. Exit 1 as the gate says.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path

import gate

HERE = Path(__file__).resolve().parent
HTML = HERE / ".asv" / "html"


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", "-C", str(HERE), *arguments], check=True, stdout=subprocess.PIPE).stdout


def asv(*arguments: str, **environment: str) -> int:
    command = [sys.executable, "-m", "asv", *arguments]
    return subprocess.run(command, cwd=HERE, env={**os.environ, **environment}).returncode


def commits(names: list[str], last: int) -> list[str]:
    """Hashes, oldest first. ValueError says which name is no commit."""
    if last:
        return git("log", f"-{last}", "--reverse", "--format=%H", "--", "../optimized").decode().split()
    if not names:
        return git("log", "-2", "--first-parent", "--reverse", "--format=%H").decode().split()
    found = [gate.full(n) for n in names]
    for name, commit in zip(names, found, strict=True):
        if len(commit) < 40:
            raise ValueError(f"commit was {name!r}, which this repository does not have.")
    return found


def lay_out(commit: str, folder: Path) -> None:
    """The packages of one commit in ``folder``, importable from there: what a wheel of it would hold."""
    with tempfile.TemporaryDirectory() as checkout:
        top = git("rev-parse", "--show-toplevel").decode().strip()
        with tarfile.open(fileobj=io.BytesIO(git("-C", top, "archive", commit))) as tree:
            tree.extractall(checkout, filter="data")
        setup = tomllib.loads((Path(checkout) / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
        for package, source in sorted(setup["package-dir"].items()):
            shutil.copytree(Path(checkout) / source, folder.joinpath(*package.split(".")), dirs_exist_ok=True)


def measure(commit: str, bench: str, size: str, again: bool = False) -> bool:
    """Let asv measure one commit; False if it could not. Numbers of an earlier run never stand in for missing ones."""
    if not again:
        for stale in gate.files(gate.RESULTS, commit):
            stale.unlink()
    with tempfile.TemporaryDirectory(prefix="trueness-") as folder:
        lay_out(commit, Path(folder))
        refused = Path(folder) / "refused.txt"
        where = {"ASV_PYTHONPATH": folder, "TRUENESS_BENCH_TREE": folder, "TRUENESS_BENCH": size}
        chosen = ["--bench", bench] if bench else []
        status = asv(
            *("run", "--set-commit-hash", commit, "--no-pull", "--launch-method", "forkserver", *chosen),
            **where,
            TRUENESS_BENCH_REFUSED=str(refused),
        )
        if refused.is_file():
            print(refused.read_text("utf-8"))
    return status in (0, 2)  # 2: some benchmarks failed, which the gate names


def judged(base: str | None, new: str) -> list[gate.Finding]:
    print(f"\n== gate: {base[:8] if base else 'nothing'} → {new[:8]}")
    return gate.report(gate.read(gate.RESULTS, base) if base else {}, gate.read(gate.RESULTS, new))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commits", nargs="*", help="commits, oldest first (default: HEAD~1 HEAD)")
    parser.add_argument("--last", type=int, default=0, metavar="N", help="the last N commits that touch optimized/")
    parser.add_argument("--bench", default="", metavar="REGEX", help="only benchmarks whose name matches")
    parser.add_argument("--full", action="store_true", help="more sizes, all dtypes, all peers")
    chosen = parser.parse_args(arguments)
    try:
        order = commits(chosen.commits, chosen.last)
    except ValueError as error:
        parser.error(str(error))
    if not order:
        parser.error("there is no such commit.")
    if git("status", "--porcelain", "--untracked-files=no").strip():
        print("Uncommitted changes are not measured.")
    if len(order) == 1:
        print("One commit alone: there is nothing to be slower than.")

    sys.stdout.reconfigure(line_buffering=True)  # in order with what asv writes
    size = "full" if chosen.full else "quick"
    asv("machine", "--yes")
    measured = []
    for commit in order:
        print(f"\n== {git('log', '-1', '--format=%h %s', commit).decode().strip()}", flush=True)
        if measure(commit, chosen.bench, size):
            measured.append(commit)
        else:
            print(f"{commit[:8]} could not be measured.")

    wrong = order[-1] not in measured
    for base, new in zip([None, *measured], measured, strict=False):
        if base is None and len(measured) > 1:
            continue
        found = judged(base, new)
        doubtful = {f.clock for f in found if f.clock}
        if doubtful:
            print("\n== a clock complains: once more, and only what both measurements say counts")
            for commit in filter(None, (base, new)):
                measure(commit, "^tracked", size, again=True)
            found = [f for f in judged(base, new) if not f.clock or f.clock in doubtful]
            print(f"gate: {len(found)} findings confirmed.", *(f.text for f in found), sep="\n")
        wrong = wrong or bool(found)
    asv("publish")
    print(f"\nhistory: {HTML / 'index.html'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
