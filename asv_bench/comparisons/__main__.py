"""Paired ratios, and T on the same tensors:  python asv_bench/comparisons [FAMILY …] [--threads 1 2] [--write FILE]

Prints one line for every side of every pair. Status 1 when a goal is missed or an answer is wrong. Several families are
run in a process each: what one leaves in the allocator's hands makes the peers of the next up to three times as fast,
since memory that was given back to the system is cleared by it before it is used again. ``--heap kept`` gives nothing
back in the first place.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(p for p in sys.path if Path(p).resolve() not in (HERE, HERE.parent.parent))]


KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_TOP_PAD_": str(1 << 26)}
"""glibc takes all memory from its heap, and gives none of it back to the system."""


def families() -> list[str]:
    return sorted(p.stem for p in HERE.glob("*.py") if p.stem not in ("__init__", "__main__", "harness", "page"))


def elsewhere(family: str, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """The lines of a family from a process of its own, whose tables are shown as they come."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "lines.json"
        options = ["--only", asked.only, "--rounds", str(asked.rounds), "--heap", asked.heap, "--json", str(found)]
        command = [sys.executable, str(HERE), family, "--threads", *map(str, asked.threads), *options]
        environment = {**os.environ, **(KEPT if asked.heap == "kept" else {})}
        ended = subprocess.run(command, env=environment, check=False)
        if not found.exists():
            raise SystemExit(f"{family} ended with status {ended.returncode} and no lines.")
        lines: list[dict[str, Any]] = json.loads(found.read_text("utf-8"))["lines"]
        return lines


def main() -> int:
    from rich.console import Console
    from rich.table import Table

    from comparisons.harness import ROUNDS, Prepared, Result, measure
    from comparisons.page import COLUMNS, cells, page
    from trueness.tools.spec.versions import installed

    parser = argparse.ArgumentParser(prog="python asv_bench/comparisons", description=__doc__)
    parser.add_argument("family", nargs="*", default=families(), help=f"of {', '.join(families())}")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", default="", help="comparisons whose name contains this")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path, help="where the lines are written, too")
    parser.add_argument(
        "--heap", choices=("fresh", "kept"), default="fresh", help="as the allocator is, or never shrunk"
    )
    parser.add_argument("--write", type=Path, help="the page of all lines, docs/speed.md")
    asked = parser.parse_args()
    if unknown := set(asked.family) - set(families()):
        parser.error(f"family was {', '.join(sorted(unknown))}; allowed are {', '.join(families())}.")
    console = Console(width=None if sys.stdout.isatty() else 150)
    lines: list[Result] = []
    own = len(asked.family) == 1 and (asked.heap == "fresh" or KEPT.items() <= os.environ.items())
    for family in asked.family:
        if not own:
            lines += [Result(**line) for line in elsewhere(family, asked)]
            continue
        for pair in importlib.import_module(f"comparisons.{family}").COMPARISONS:
            if asked.only not in pair.name:
                continue
            prepared = Prepared(pair)
            table = Table(title=f"{family}: {pair.name}, {pair.dtype}", title_justify="left")
            for head in COLUMNS:
                table.add_column(head, justify="left" if head in ("side", "") else "right")
            for count in asked.threads:
                for line in measure(prepared, count, asked.rounds, family):
                    lines.append(line)
                    table.add_row(*cells(line))
            console.print(table)
    if asked.json:
        document = {"versions": installed(), "lines": [asdict(line) for line in lines]}
        asked.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    if asked.write:
        asked.write.write_text(page(lines, installed(), asked.heap), "utf-8")
    missed = [line for line in lines if not line.met]
    goals = sum(line.goal is not None and line.ratio is not None for line in lines)
    console.print(f"{len(lines)} lines, {goals} goals, {len(missed)} missed.")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
