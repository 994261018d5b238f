"""Paired ratios, and T on the same tensors:  python asv_bench/pairs [FAMILY …] [--threads 1 2] [--write FILE]

Prints one line for every side of every pair. Status 1 when a goal is missed or an answer is wrong.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from dataclasses import asdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(p for p in sys.path if Path(p).resolve() not in (HERE, HERE.parent.parent))]


def families() -> list[str]:
    return sorted(p.stem for p in HERE.glob("*.py") if p.stem not in ("__init__", "__main__", "harness", "page"))


def main() -> int:
    from rich.console import Console
    from rich.table import Table

    from pairs.harness import ROUNDS, Line, Prepared, measure
    from pairs.page import COLUMNS, cells, page
    from trueness.tools.results import installed

    parser = argparse.ArgumentParser(prog="python asv_bench/pairs", description=__doc__)
    parser.add_argument("family", nargs="*", default=families(), help=f"of {', '.join(families())}")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", default="", help="pairs whose name contains this")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path, help="where the lines are written, too")
    parser.add_argument("--write", type=Path, help="the page of all lines, docs/speed.md")
    asked = parser.parse_args()
    if unknown := set(asked.family) - set(families()):
        parser.error(f"family was {', '.join(sorted(unknown))}; allowed are {', '.join(families())}.")
    console = Console(width=None if sys.stdout.isatty() else 150)
    lines: list[Line] = []
    for family in asked.family:
        for pair in importlib.import_module(f"pairs.{family}").PAIRS:
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
        asked.write.write_text(page(lines, installed()), "utf-8")
    missed = [line for line in lines if not line.met]
    goals = sum(line.goal is not None and line.ratio is not None for line in lines)
    console.print(f"{len(lines)} lines, {goals} goals, {len(missed)} missed.")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
