"""Laws of the Triton kernels of filters, interpreted: whole blocks, copies, adjoints, and broken kernels rejected."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton", reason="triton is not installed: pip install triton")

LAWS = """
import json, torch
from trueness.optimized import _filters_operators as operators, _filters_triton as kernels

g = torch.Generator().manual_seed(0)
rows, columns = [0, 0, 0, 5, 5, 5], [0, 90, 130, 0, 90, 130]
tiles = torch.randn(6, 2, 9, 100, generator=g).requires_grad_(True)
image = torch.randn(2, 14, 230, generator=g)
half = kernels._block
found = {}
for name, block in (("half", half), ("whole", lambda r, c: {"ROWS": kernels.ROWS, "COLUMNS": kernels.COLUMNS})):
    kernels._block = block
    y = operators.blend(tiles, rows, columns, 14, 230, "hann")
    (back,) = torch.autograd.grad(y, tiles, image)
    found[name] = [y.tolist(), back.tolist()]
    found["alone"] = bool(torch.equal(y[:, :5, :90], tiles[0, :, :5, :90]))
    left = float((y.detach().double() * image.double()).sum())
    right = float((tiles.detach().double() * back.double()).sum())
    size = float((y.detach().double() * image.double()).abs().sum())
    found["adjoint"] = [left, right, size]
try:
    operators.blend(tiles, [0, 0, 0, 5, 5, 4], columns, 14, 230, "hann")
    found["refused"] = ""
except ValueError as error:
    found["refused"] = str(error)
print(json.dumps(found))
"""

BROKEN = """
import sys
from trueness.optimized import _filters_tiles as places, _filters_triton as kernels
from trueness.properties import _filters_triton as declared
from trueness.tools.runner import Job, run_job

broken, formula, name = sys.argv[1:]
nearest, table = kernels._nearest, kernels._table
if broken == "last tile":
    kernels._nearest = lambda axis: (nearest(axis)[0], max(nearest(axis)[1] - 1, 1))
elif broken == "next row":
    kernels._table = lambda values, dtype, device: table(values, dtype, device).roll(1)
candidate = getattr(declared, name)
job = Job(formula, candidate.name, "float32", profile="quick", checks=("value",))
for verdict in run_job(job, candidate=candidate):
    print(verdict.passed, verdict.message)
"""


def interpreted(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, *arguments],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def laws() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(interpreted(LAWS).splitlines()[-1])
    return found


def test_blocks_change_no_bit(laws: dict[str, Any]) -> None:
    """8 × 128, as compiled, with a partial block at every end, against blocks of half of every axis."""
    for half, whole in zip(laws["half"], laws["whole"], strict=True):
        assert np.array_equal(half, whole)


def test_a_pixel_of_one_tile_is_copied(laws: dict[str, Any]) -> None:
    assert laws["alone"]


def test_cutting_is_the_adjoint_of_blending(laws: dict[str, Any]) -> None:
    """⟨blend t, g⟩ = ⟨t, cut g⟩, but for the roundings of four products and sums in float32"""
    left, right, size = laws["adjoint"]
    assert abs(left - right) <= 8 * 2.0**-24 * 4 * size


def test_tiles_that_are_no_grid_are_refused(laws: dict[str, Any]) -> None:
    assert "no grid" in laws["refused"]


@pytest.mark.parametrize(
    "broken, formula, name",
    [
        ("last tile", "filters.blend", "BLEND"),
        ("next row", "filters.fft_gaussian", "FFT_GAUSSIAN"),
        ("nothing", "filters.blend", "BLEND"),
        ("nothing", "filters.fft_gaussian", "FFT_GAUSSIAN"),
    ],
)
def test_a_broken_kernel_is_rejected(broken: str, formula: str, name: str) -> None:
    said = interpreted(BROKEN, broken, formula, name).splitlines()[-1]
    assert said.startswith("True") == (broken == "nothing"), said
