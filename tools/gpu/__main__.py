"""Runs everything that needs a GPU in one call: correctness, then timing; the results are written to $OUT.

    python tools/gpu                                 on a machine with CUDA, torch, NumPy, SciPy and hypothesis
    python tools/gpu --dry-run                       the same code on the CPU, tiny, kernels interpreted; no times
    python tools/gpu --only timing --budget 300      one section, and the seconds it may take

`trueness gpu` is the same command; this file runs without an installation and without click.

Correctness is every check of every implementation on CUDA (`trueness verify --device cuda`): values, contract, graph
capture and replay with other contents, more than 2³¹ elements, a side stream, repeatability, compute-sanitizer where it
is present. Timing is that of asv_bench/cuda_cases.py: medians, calls in turn, beside T on the same tensors, against the
installed peers, a device copy and a matrix product of the same process. gpu.json and gpu.md are rewritten as results
come in, so that an interrupted run keeps them. Status 1: something is wrong, too slow or impossibly fast; 2: invalid
request, or no device.
"""

from __future__ import annotations

import argparse
import atexit
import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[2]
FOLDERS = ("reference", "optimized", "properties", "regressions", "tools")

if not __package__:  # run as a file, perhaps in a checkout that is not installed: make a package of its folders
    sys.path[:] = [
        p for p in sys.path if Path(p or ".").resolve() not in (HERE, HERE / "tools", HERE / "tools" / "gpu")
    ]
    if importlib.util.find_spec("trueness") is None:
        home = Path(tempfile.mkdtemp(prefix="trueness-"))
        atexit.register(shutil.rmtree, home, ignore_errors=True)
        (home / "trueness").mkdir()
        (home / "trueness" / "__init__.py").symlink_to(HERE / "src" / "trueness" / "__init__.py")
        for folder in FOLDERS:
            (home / "trueness" / folder).symlink_to(HERE / folder)
        sys.path.insert(0, str(home))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command `trueness gpu` without click."""
    from trueness.tools.gpu.options import Options
    from trueness.tools.gpu.run import run  # torch, and everything else

    parser = argparse.ArgumentParser(prog="python tools/gpu", description="Correctness and timing on a GPU.")
    for f in fields(Options):
        kind: dict[str, Any] = {"action": "store_true"} if f.default is False else {"type": type(f.default)}
        parser.add_argument(f"--{f.name.replace('_', '-')}", default=f.default, help=f.metadata["help"], **kind)
    try:
        status: int = run(Options(**vars(parser.parse_args(arguments))))
    except ValueError as wrong:
        parser.error(str(wrong))
    return status


if __name__ == "__main__":
    sys.exit(main())
