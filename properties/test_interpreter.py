"""What is spared in Triton's interpreter changes no bit of a result, and nothing that a launch finds or leaves."""

from __future__ import annotations

import json

import pytest

from trueness.properties._lib import interpreted as programs

interpreter = pytest.importorskip("triton.runtime.interpreter")
SPED_UP = pytest.mark.skipif(
    not hasattr(interpreter, "_LangPatchScope"),
    reason="this version of Triton replaces its language otherwise, and its interpreter is left as it is",
)

LAUNCHES = """
import json, sys

import torch
from triton import language
from triton.runtime import interpreter

sys.path.insert(0, FOLDER)
import kernels

calls = 0
replacing = interpreter._patch_builtin

def counted(*rest):
    global calls
    calls += 1
    return replacing(*rest)

interpreter._patch_builtin = counted
before = language.load, language.tensor.__add__
x, y = torch.linspace(-3.0, 5.0, 40), torch.zeros(2, 64)
found = []
for _ in range(2):
    kernels.kernel[(2,)](x, y, 40, BLOCK=32)
    found.append(calls)
    assert before == (language.load, language.tensor.__add__)
print(json.dumps([found, y.view(torch.int32).tolist()]))
"""

KERNELS = """
import triton
import triton.language as tl


@triton.jit
def at(x, i, n):
    return tl.load(x + i, mask=i < n, other=0.0)


@triton.jit
def kernel(x, y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = at(x, i, n)
    for k in range(3):
        row += tl.exp(at(x, i + k, n)) - tl.sum(at(x, i - i + k, n), 0) / BLOCK
    tl.store(y + i, row, mask=i < n)
"""


WITHOUT_TRITON = """
import sys

sys.modules["triton"] = None  # as where it is not installed
from trueness.tools.run.runner import Job, run_job

jobs = [Job("fisher.diagonal", name, "float32", profile="quick", checks=("value",)) for name in sys.argv[1:]]
print([v.status for job in jobs for v in run_job(job)])
"""


def test_where_triton_is_not_installed_the_rest_is_verified_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "SPEED_UP", "")
    assert programs.interpreted(WITHOUT_TRITON, "trueness", "triton kernel").strip() == "['pass', 'skip']"


@pytest.fixture(scope="module")
def launches(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("kernels")
    (folder / "kernels.py").write_text(KERNELS)
    return LAUNCHES.replace("FOLDER", repr(str(folder)))


@SPED_UP
def test_the_language_is_replaced_once_a_launch_and_the_results_are_the_same(
    launches: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first, second), fast = json.loads(programs.interpreted(launches))
    monkeypatch.setattr(programs, "SPEED_UP", "")
    (slow_first, slow_second), slow = json.loads(programs.interpreted(launches))
    assert fast == slow and any(any(row) for row in fast)
    assert first <= 8 and second <= 20, "once a launch for each of the two modules, and both by the functions of one"
    assert slow_first >= 4 * first and slow_second >= 2 * slow_first - first
