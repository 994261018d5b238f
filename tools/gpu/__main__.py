"""Everything that needs a GPU in one call, written to $OUT: correctness, then timing. Nothing need be installed.

    python tools/gpu                                 on a machine with CUDA, torch, NumPy, SciPy and hypothesis
    python tools/gpu --dry-run                       the same code on the CPU, tiny, kernels interpreted; no times
    python tools/gpu --only timing --budget 300      one section, and the seconds it may take

Correctness is every check of every implementation on CUDA (`trueness verify --device cuda`): values, contract, graph
capture and replay with other contents, more than 2³¹ elements, a side stream, repeatability, compute-sanitizer where it
is present. Timing is that of asv_bench/cuda_cases.py: medians, calls in turn, beside T on the same tensors, against the
peers present there, a device copy and a matrix product of the same process. gpu.json and gpu.md are written anew after
every verdict and every line, so that a run that is stopped keeps what it had. Status 1: something is wrong, too slow or
impossibly fast; 2: no device.
"""

from __future__ import annotations

import atexit
import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
ROOMS = ("reference", "optimized", "properties", "regressions", "tools")

if not __package__:  # run as a file, perhaps of a checkout that nobody installed: its rooms become a package
    sys.path[:] = [
        p for p in sys.path if Path(p or ".").resolve() not in (HERE, HERE / "tools", HERE / "tools" / "gpu")
    ]
    if importlib.util.find_spec("trueness") is None:
        home = Path(tempfile.mkdtemp(prefix="trueness-"))
        atexit.register(shutil.rmtree, home, ignore_errors=True)
        (home / "trueness").mkdir()
        (home / "trueness" / "__init__.py").symlink_to(HERE / "src" / "trueness" / "__init__.py")
        for room in ROOMS:
            (home / "trueness" / room).symlink_to(HERE / room)
        sys.path.insert(0, str(home))


def main(given: Sequence[str] | None = None) -> int:
    """Run the sections; 0 when all is right and fast, 1 when something is not, 2 without a device."""
    from trueness.tools.gpu import run as gpu_run  # which imports torch, and all else

    status: int = gpu_run.main(given)
    return status


if __name__ == "__main__":
    sys.exit(main())
