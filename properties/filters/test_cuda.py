"""Laws of the Triton kernels of filters, interpreted: whole blocks, copies, adjoints, and broken kernels rejected."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from trueness.properties._lib.interpreted import interpreted

pytest.importorskip("triton", reason="triton is not installed: pip install triton")

LAWS = """
import json, torch
from trueness.optimized.filters.cuda import kernels, operators

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

PLANES = """
import json, torch
from trueness.optimized.filters import fft as transforms
from trueness.optimized.filters.cuda import kernels as large, operators, planes as small

def compiled(height, width):
    watched, small.interpreted = small.interpreted, lambda: False
    try:
        return half(height, width)
    finally:
        small.interpreted = watched

def matrix(k):
    i = torch.arange(len(k))
    return k[(i[:, None] - i).abs()]

g = torch.Generator().manual_seed(0)
half, found = small.block, {"wrong": [], "adjoint": [], "alone": []}
for shape in ((5, 17, 20), (2, 64, 64), (3, 1, 64), (70, 1, 1), (3, 40, 33)):
    x, other = torch.randn(2, *shape, generator=g)
    for sigma in (0.0, 0.6, 5.0):
        height, width = shape[-2:]
        factors = transforms.gaussian_factors(height, width, sigma)
        rows = small.first_rows(factors, width)
        k_y, k_x = matrix(rows[:height]), matrix(rows[height:])
        wanted = transforms.apply_factors(x.double(), factors)
        room = (height + width + 4) * 2.0**-24 * (k_y.abs() @ x.double().abs() @ k_x.abs())
        for small.block in (half, compiled):
            y, back = (operators.fft_gaussian(v, torch.tensor(sigma)) for v in (x, other))
            found["wrong"].append(float(((y - wanted).abs() / room).max()))
            size = (other.double().abs() * (k_y.abs() @ x.double().abs() @ k_x.abs())).sum()
            gap = (y.double() * other.double() - x.double() * back.double()).sum().abs()
            found["adjoint"].append(float(gap / size) / (2 * (height + width + 4) * 2.0**-24))
            for bad in (float("nan"), float("inf"), -float("inf")):
                spoilt = x.clone()
                spoilt[1, -1, 0] = bad
                z = operators.fft_gaussian(spoilt, torch.tensor(sigma))
                kept = [k for k in range(len(x)) if k != 1]
                found["alone"].append(bool(z[1].isnan().all()) and torch.equal(z[kept], y[kept]))
small.block, called = half, []
one, two = small.filtered, large.fft_filter
small.filtered, large.fft_filter = (lambda *a: called.append("planes") or one(*a)), (
    lambda *a: called.append("transform") or two(*a)
)
for size in ((64, 64), (65, 64), (1, 65)):
    operators.fft_gaussian(torch.ones(size), torch.tensor(1.0))
found["called"] = list(called)
last = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
found["kept"] = operators.fft_gaussian(last, torch.tensor(1.0)).is_contiguous(memory_format=torch.channels_last)
found["empty"] = list(operators.fft_gaussian(torch.ones(0, 3, 4), torch.tensor(1.0)).shape)
print(json.dumps(found))
"""

BROKEN = """
import sys
from trueness.optimized.filters.cuda import kernels, planes
from trueness.properties.filters import cuda as declared
from trueness.tools.run.runner import Job, run_job

broken, formula, name = sys.argv[1:]
covering, table = kernels._covering_tiles, kernels._to_device
if broken == "last tile":
    kernels._covering_tiles = lambda axis: (covering(axis)[0], max(covering(axis)[1] - 1, 1))
elif broken == "next row":
    kernels._to_device = planes._to_device = lambda values, dtype, device: table(values, dtype, device).roll(1)
elif broken == "next plane":
    block = planes.block
    planes.block = lambda height, width: (height + 1, block(height, width)[1])
candidate = getattr(declared, name)
job = Job(formula, candidate.name, "float32", profile="quick", checks=("value",))
for verdict in run_job(job, candidate=candidate):
    print(verdict.passed, verdict.message)
"""


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


@pytest.fixture(scope="module")
def planes() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(interpreted(PLANES).splitlines()[-1])
    return found


def test_two_circulant_products_are_the_filter(planes: dict[str, Any]) -> None:
    """|e| ≤ (H + W + 4) u |K_y| |x| |K_x|, in tiles of one or two planes and in those that are compiled."""
    assert len(planes["wrong"]) == 30 and max(planes["wrong"]) <= 1


def test_the_filter_of_small_planes_is_its_own_adjoint(planes: dict[str, Any]) -> None:
    """⟨K x, g⟩ = ⟨x, K g⟩, within the same bound of both"""
    assert max(planes["adjoint"]) <= 1


def test_what_is_not_finite_spreads_over_its_plane_and_no_other(planes: dict[str, Any]) -> None:
    assert all(planes["alone"])


def test_planes_of_up_to_64_go_to_the_kernel_of_products(planes: dict[str, Any]) -> None:
    assert planes["called"] == ["planes", "transform", "transform"]
    assert planes["kept"] and planes["empty"] == [0, 3, 4]


@pytest.mark.parametrize(
    "broken, formula, name",
    [
        ("last tile", "filters.blend", "BLEND"),
        ("next row", "filters.fft_gaussian", "FFT_GAUSSIAN"),
        ("next row", "filters.fft_gaussian", "TRANSFORMED"),
        ("next plane", "filters.fft_gaussian", "FFT_GAUSSIAN"),
        ("nothing", "filters.blend", "BLEND"),
        ("nothing", "filters.fft_gaussian", "FFT_GAUSSIAN"),
        ("nothing", "filters.fft_gaussian", "TRANSFORMED"),
    ],
)
def test_a_broken_kernel_is_rejected(broken: str, formula: str, name: str) -> None:
    said = interpreted(BROKEN, broken, formula, name).splitlines()[-1]
    assert said.startswith("True") == (broken == "nothing"), said
