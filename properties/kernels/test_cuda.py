"""Laws of the Triton kernels of random features, interpreted: whole tiles, every path, and broken kernels rejected."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from trueness.properties._lib.interpreted import interpreted
from trueness.reference import kernels as true
from trueness.tools.arithmetic.bounds import LIMITS, bounds
from trueness.tools.arithmetic.formats import precision, round_to

pytest.importorskip("triton", reason="triton is not installed: pip install triton")

WHOLE = """
import json, sys
import numpy as np, torch
from trueness.optimized.kernels.cuda import forward as kernels
from trueness.optimized.kernels.cuda import operators

compiled = kernels.Tile("ieee", k=(16, 16), dimensions=16)
found = {}
for p in (1, 20):
    g = torch.Generator().manual_seed(p)
    made = [torch.randn(s, generator=g) for s in ((66, 3), (65, 3), (65, p), (3, 34), (34,))]
    x, y, v, w, b = (t.requires_grad_(True) for t in made)
    cotangent = torch.randn(66, p, generator=g)
    kernels.tile = lambda *a, **k: compiled
    u, _ = operators.matvec(x, y, v, w, b)
    again, _ = operators.matvec(x, y, v, w, b)
    gradients = torch.autograd.grad(u, (x, y, v, w, b), cotangent)
    found[f"whole {p}"] = [t.detach().tolist() for t in (u, *gradients)]
    found[f"whole {p} bits"] = bool(torch.equal(u, again))
    found[f"arguments {p}"] = [t.detach().tolist() for t in (x, y, v, w, b, cotangent)]
print(json.dumps(found))
"""

BROKEN = """
import sys
from trueness.optimized.kernels.cuda import backward
from trueness.optimized.kernels.cuda import forward as kernels
from trueness.properties.kernels import cuda as declared
from trueness.tools.run.runner import Job, run_job

broken, formula, name, check = sys.argv[1:]
slabs = kernels.Tile.slabs
if broken == "turn":
    backward.TURN = 1.0
elif broken == "slab":
    kernels.Tile.slabs = lambda self, length, block, others: slabs(self, max(length - 1, 1), block, others)
candidate = getattr(declared, name)
for verdict in run_job(Job(formula, candidate.name, "float32", profile="quick", checks=(check,)), candidate=candidate):
    print(verdict.passed, verdict.message)
"""


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(interpreted(WHOLE).splitlines()[-1])
    return found


@pytest.mark.parametrize("p", [1, 20])
def test_the_tiles_that_are_compiled_are_right_too(whole: dict[str, Any], p: int) -> None:
    """64 × 32 with a partial tile at every end, for one vector, and for more than one program of them."""
    fmt = precision("float32")
    *arguments, cotangent = (np.array(a) for a in whole[f"arguments {p}"])
    units = [fmt.u] * 5
    truth = bounds(true.rff_matvec, arguments, units, fmt, 65 + 3 + 34)
    truth += bounds(true.rff_matvec_vjp, [cotangent, *arguments], [fmt.u, *units], fmt, 66 + 65 + 3 + 34 + p)
    for found, bound in zip(whole[f"whole {p}"], truth, strict=True):
        assert bound.ratio(np.array(found)).max() <= LIMITS["fused"]
    assert whole[f"whole {p} bits"]


@pytest.mark.parametrize(
    "broken, formula, name, check",
    [
        ("turn", "kernels.rff_features", "FEATURES", "gradient"),
        ("slab", "kernels.rff_matvec", "MATVEC", "value"),
        ("nothing", "kernels.rff_features", "FEATURES", "gradient"),
    ],
)
def test_a_broken_kernel_is_rejected(broken: str, formula: str, name: str, check: str) -> None:
    said = interpreted(BROKEN, broken, formula, name, check).splitlines()[-1]
    assert said.startswith("True") == (broken == "nothing"), said


# -- TF32, which the interpreter does not have ------------------------------------------------------------------------


def tf32(a: np.ndarray) -> np.ndarray:
    """The nearest number with 11 bits, ties away from zero: cvt.rna.tf32.f32."""
    bits = a.astype(np.float32).view(np.uint32)
    rounded: np.ndarray = ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)
    return rounded


def features(x: np.ndarray, w: np.ndarray, b: np.ndarray, parts: int) -> np.ndarray:
    """φ with x W by one or three products of TF32 parts, summed in float32."""
    turns = [(a.astype(np.float64) / (2 * np.pi)).astype(np.float32) for a in (w, b)]
    high_x, high_w = tf32(x), tf32(turns[0])
    z = high_x @ high_w
    if parts == 3:
        low_x, low_w = tf32(x - high_x), tf32(turns[0] - high_w)
        z = (low_x @ high_w + high_x @ low_w) + z
    z = z + turns[1]
    angle = 2 * np.pi * (z - np.floor(z + np.float32(0.5))).astype(np.float64)
    return (np.sqrt(2 / len(b)) * np.cos(angle)).astype(np.float32)


@pytest.mark.parametrize("d", [17, 64, 300])
def test_three_tf32_products_are_within_the_bound_and_one_is_not(d: int) -> None:
    fmt, generator = precision("float32"), np.random.default_rng(d)
    x, w, b = (
        generator.standard_normal((9, d)),
        generator.standard_normal((d, 31)),
        2 * np.pi * generator.random(31),
    )
    x, w, b = (round_to(a, "float32") for a in (x, w, b))
    truth = bounds(true.rff_features, [x, w, b], [fmt.u] * 3, fmt, d)[0]
    assert (
        truth.ratio(features(x.astype(np.float32), w.astype(np.float32), b.astype(np.float32), 3)).max()
        <= LIMITS["fused"]
    )
    assert (
        truth.ratio(features(x.astype(np.float32), w.astype(np.float32), b.astype(np.float32), 1)).max()
        > LIMITS["eager"]
    )
