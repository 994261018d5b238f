"""The command ``trueness kernels``: compile every declared kernel and keep the table of kernels current."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from trueness.tools.triton import compile as ahead
from trueness.tools.triton import table


def under(triton: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``trueness kernels`` with these arguments in a process that imports Triton from the folder given."""
    if not Path(triton, "triton", "__init__.py").is_file():
        raise ValueError(f"--triton was {triton!r}; it must be a folder in which Triton was unpacked.")
    path = os.pathsep.join(filter(None, [str(Path(triton).resolve()), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-P", "-m", "trueness.tools.cli", "kernels", *arguments]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, text=True, stdout=subprocess.PIPE)


def run(
    triton: str = "", only: str = "", write: str = "", check: str = "", every: bool = False, json: bool = False
) -> int:
    """Print one line per kernel and architecture; 1 when a rule is broken or the table is not current.

    triton  folder of another Triton, under which the kernels are compiled as well
    only    kernels whose name contains this text
    write   folder whose kernels.json and kernels.md are brought up to date
    check   folder whose table is compared: every row by its key, and one kernel of every function by compiling it
    every   compile all kernels for ``check``
    json    print the rows as JSON
    """
    ahead.require_compiler()
    kernels = ahead.declared(only)
    chosen = ahead.one_of_each(kernels) if check and not every else kernels
    rows = table.compiled_rows(chosen, table.read(write) if write else [])
    if triton:
        given = {"only": only, "write": write, "check": check}
        options = [f"--{name}={value}" for name, value in given.items() if value]
        done = under(triton, "--json", *options, *(["--all"] if every else []))
        if not done.stdout:
            return done.returncode or 1
        rows += table.from_json(done.stdout)
    if json:
        print(table.to_json(rows))
        return 0
    broken = [f"{table.label(row)} {clause}" for row in rows for clause in row["wrong"]]
    for row in rows:
        print(table.line(row))
    if write:
        table.write(write, rows)
    if check:
        broken += table.differences(rows, table.read(check), kernels)
    for sentence in broken:
        print(sentence, file=sys.stderr)
    return 1 if broken else 0
