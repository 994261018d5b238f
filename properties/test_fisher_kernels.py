"""The Triton kernels of fisher, compiled ahead of time: no spills, few registers, 16 bytes an access."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="triton is not installed: pip install triton")

BUDGET = 40  # registers a thread: 48 warps an SM at 4 warps a block, so that memory latency is hidden
LINE = re.compile(
    r"(.+) sm_(\d+): (\d+) registers, (\d+) bytes spilled, (\d+) bytes shared, (\d+) loads and (\d+) stores"
)
SPILLS = """
import triton, triton.language as tl
from trueness.tools.aot import compile_for

@triton.jit
def greedy(x, out, N: tl.constexpr):
    i = tl.arange(0, N)
    a = tl.load(x + i[:, None] * N + i[None, :])
    tl.store(out + i[:, None] * N + i[None, :], tl.dot(a, tl.dot(a, a, input_precision="ieee"), input_precision="ieee"))

print(compile_for(greedy, {"x": "*fp32:16", "out": "*fp32:16", "N": 64}, 80, num_warps=1).fits)
"""


def ran(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *command], env=clean | environment, capture_output=True, text=True, timeout=600
    )


def test_every_kernel_compiles_for_ampere_and_hopper_without_a_spill() -> None:
    done = ran("-m", "trueness.tools.aot")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [m for line in done.stdout.splitlines() if (m := LINE.match(line))]
    assert {m[2] for m in lines} == {"80", "90"}
    assert len(lines) >= 24, "two formulas × forward and backward × three dtypes × two architectures"
    for m in lines:
        assert int(m[4]) == 0, f"{m[1]} spills on sm_{m[2]}"
        assert int(m[3]) <= BUDGET, f"{m[1]} takes {m[3]} registers on sm_{m[2]}"
        assert int(m[6]) > 0 and int(m[7]) > 0, f"{m[1]} has no 16-byte access on sm_{m[2]}"


def test_a_kernel_that_spills_is_seen(tmp_path: object) -> None:
    path = os.path.join(str(tmp_path), "greedy.py")
    with open(path, "w") as file:
        file.write(SPILLS)
    done = ran(path)
    assert done.stdout.strip() == "False", done.stdout + done.stderr


def test_compiling_in_an_interpreting_process_is_refused() -> None:
    done = ran("-m", "trueness.tools.aot", TRITON_INTERPRET="1")
    assert done.returncode != 0
    assert "TRITON_INTERPRET is set" in done.stderr
