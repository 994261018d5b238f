"""Laws of Newton–Schulz beside those of its first coefficients: where the others land, and matrices of few rows."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from trueness.properties.atlas_memory.flat import optimized as fast
from trueness.properties.atlas_memory.flat import reference as true
from trueness.properties.atlas_memory.problems import F64, allowed, both, given, ours, problem, seeds
from trueness.tools.arithmetic.bounds import LIMITS, bounds
from trueness.tools.arithmetic.formats import precision, round_to

LISTS = {"JORDAN": true.JORDAN, "LACT": true.LACT, "POLAR_EXPRESS": true.POLAR_EXPRESS}


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


# -- where singular values land ---------------------------------------------------------------------------------------


@cache
def landing(name: str, smallest: float) -> tuple[float, float]:
    """Where all steps take singular values from ``smallest`` to 1, on a geometric grid of steps of 3e-6"""
    s = np.geomspace(smallest, 1, 3_000_001)
    for a, b, c in LISTS[name]:
        s = s * (a + s * s * (b + c * s * s))
    return float(s.min()), float(s.max())


@pytest.mark.parametrize(
    ("name", "smallest", "interval"),
    [
        ("LACT", 7e-3, "0.9778 1.0318"),
        ("LACT", 3e-3, "0.9778 1.1450"),
        ("POLAR_EXPRESS", 1e-3, "0.8764 1.1236"),
    ],
)
@both("newton_schulz")
@given(seed=seeds, r=st.integers(1, 5), c=st.integers(1, 5))
def test_the_other_lists_land_closer_to_one(
    function: Any, name: str, smallest: float, interval: str, seed: int, r: int, c: int
) -> None:
    """The intervals that the constants are documented with, of the polynomial and of every matrix."""
    low, high = landing(name, smallest)
    assert f"{low:.4f} {high:.4f}" == interval
    g, coefficients = normal(seed, r, c), LISTS[name]
    sigma = np.linalg.svd(g, compute_uv=False)
    bound = allowed("newton_schulz", [g, coefficients, 0.0], max(r, c))[0]
    off = LIMITS["eager"] * float(np.linalg.norm(bound.B))
    found = np.linalg.svd(function(g, coefficients, 0.0), compute_uv=False)[sigma >= smallest * np.linalg.norm(sigma)]
    assert found.size
    assert (found >= low - 1e-5 - off).all() and (found <= high + 1e-5 + off).all()


@pytest.mark.parametrize("name", LISTS)
def test_ours_are_the_same_lists(name: str) -> None:
    assert getattr(fast, name) == getattr(true, name)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("name", LISTS)
@given(seed=seeds, rank=st.integers(1, 3), n=st.sampled_from((8, 16)))
def test_no_format_sees_the_null_space_grow(name: str, dtype: str, seed: int, rank: int, n: int) -> None:
    """Small integers of low rank, exact in every format: float32 on the inside, whatever the matrix is given in."""
    generator = np.random.default_rng(seed)
    g = (generator.integers(-2, 3, (n, rank)) @ generator.integers(-2, 3, (rank, n))).astype(float)
    assert np.array_equal(round_to(g, dtype), g)
    fmt, coefficients = precision(dtype), LISTS[name]
    bound = bounds(true.newton_schulz, [g, coefficients, 1e-7], [fmt.u, 0.0, 0.0], fmt, n)[0]
    found = fast.newton_schulz(torch.from_numpy(g).to(getattr(torch, dtype)), coefficients, 1e-7)
    assert bound.ratio(found.double().numpy()).max() <= LIMITS["fused"]


# -- matrices of few rows ---------------------------------------------------------------------------------------------


@both("newton_schulz_lowrank")
@given(seed=seeds, r=st.integers(1, 3), P=st.integers(6, 9), V=st.integers(6, 9), equal=st.booleans())
def test_few_rows_are_newton_schulz_of_their_product(
    function: Any, seed: int, r: int, P: int, V: int, equal: bool
) -> None:
    """Also of rows that are equal, whose triangular factor has no inverse."""
    x, y = normal(seed, 2, r, P), normal(seed + 1, 2, r, V)
    x = np.repeat(x[:, :1], r, axis=1) if equal else x
    arguments = [x, y, true.JORDAN, 1e-8]
    ratio = allowed("newton_schulz_lowrank", arguments, r * P)[0].ratio(function(*arguments))
    assert ratio.max() <= LIMITS["fused"]
    plain = ours("newton_schulz")(np.swapaxes(x, -1, -2) @ y, true.JORDAN, 1e-8)
    assert allowed("newton_schulz_lowrank", arguments, r * P)[0].ratio(plain).max() <= LIMITS["eager"]


@given(seed=seeds, r=st.integers(1, 3), P=st.integers(6, 9), V=st.integers(6, 9), equal=st.booleans())
def test_so_are_their_gradients(seed: int, r: int, P: int, V: int, equal: bool) -> None:
    x, y, g = normal(seed, r, P), normal(seed + 1, r, V), normal(seed + 2, P, V)
    x = np.repeat(x[:1], r, axis=0) if equal else x
    leaves = [torch.from_numpy(z.copy()).requires_grad_() for z in (x, y)]
    found = torch.autograd.grad(fast.newton_schulz_lowrank(*leaves, true.JORDAN, 1e-8), leaves, torch.from_numpy(g))
    for bound, z in zip(allowed("newton_schulz_lowrank_vjp", [g, x, y, true.JORDAN, 1e-8], P * V), found, strict=True):
        assert bound.ratio(z.numpy()).max() <= LIMITS["fused"]


def test_in_gram_matrices_alone_no_digit_would_be_left() -> None:
    """Why it is done with Q: in float32, on keys that are all but equal, R ← a R + b B R + c B² R, B = R Kʸ Rᵀ Kˣ."""
    x = 1 + 1e-3 * normal(0, 4, 64)
    y = normal(1, 4, 64)
    truth = true.newton_schulz_lowrank(round_to(x, "float32"), round_to(y, "float32"), true.JORDAN, 0.0)
    a, b = (torch.tensor(z, dtype=torch.float32) for z in (x, y))

    def error(found: torch.Tensor) -> float:
        return float(np.linalg.norm(found.double().numpy() - truth) / np.linalg.norm(truth))

    kx, ky = a @ a.mT, b @ b.mT
    R = torch.eye(4) / (kx * ky).sum().sqrt()
    for p, q, s in true.JORDAN:
        B = R @ ky @ R.mT @ kx
        R = p * R + q * (B @ R) + s * (B @ B @ R)
    u = precision("float32").u
    assert error(fast.newton_schulz_lowrank(a, b, true.JORDAN, 0.0)) <= 64 * np.linalg.cond(x) * u
    assert error(a.mT @ R @ b) > 1e-2


@given(seed=seeds, r=st.integers(1, 2))
def test_a_small_feature_keeps_its_digits(seed: int, r: int) -> None:
    """In float32, with the first feature 1e-5 of the others; LAPACK's Q of the rows as they come has none of them."""
    fmt, columns = precision("float32"), 8
    x, y = (
        round_to(normal(seed, r, 6) * ([1e-5] + [1.0] * 5), "float32"),
        round_to(normal(seed + 1, r, columns), "float32"),
    )
    (bound,) = bounds(
        true.newton_schulz_lowrank, [x, y, true.JORDAN, 0.0], [fmt.u, fmt.u, 0.0, 0.0], fmt, r + 6 + columns
    )
    a, b = (torch.from_numpy(z).float() for z in (x, y))
    found = fast.newton_schulz_lowrank(a, b, true.JORDAN, 0.0)
    assert bound.ratio(found.double().numpy()).max() <= LIMITS["fused"]
    (q_x, r_x), (q_y, r_y) = torch.linalg.qr(a.mT), torch.linalg.qr(b.mT)
    plain = q_x @ fast.newton_schulz(r_x @ r_y.mT, true.JORDAN, 0.0) @ q_y.mT
    assert bound.ratio(plain.double().numpy())[0].max() > LIMITS["eager"]


@given(seed=seeds, c=st.integers(1, 2), chunk=st.integers(1, 4))
def test_without_momentum_muon_takes_the_short_way_and_says_the_same(seed: int, c: int, chunk: int) -> None:
    """θ = 0: the way of few rows; θ with a gradient: the other one."""
    p = problem(seed, {"B": 1, "T": 5, "H": 2, "P": 5, "V": 4, "c": c}, theta=0, optimizer="muon", chunk_size=chunk)
    bound = allowed("omega", list(p.values()), 5 + c)
    tensors = {n: torch.from_numpy(x.copy()) if isinstance(x, np.ndarray) else x for n, x in p.items()}
    short = fast.omega(*tensors.values())
    long = fast.omega(*(tensors | {"theta": tensors["theta"].requires_grad_()}).values())
    for b, s, x in zip(bound, short, long, strict=True):
        assert max(b.ratio(z.detach().numpy()).max() for z in (s, x)) <= LIMITS["fused"]
    assert any((s != x).any() for s, x in zip(short, long, strict=True))


REFUSED: dict[str, tuple[Any, ...]] = {
    "x had shape": (torch.ones(3), torch.ones(3), true.JORDAN, 1e-8),
    "y had shape": (torch.ones(2, 3), torch.ones(3, 3), true.JORDAN, 1e-8),
    "y was torch.float64": (torch.ones(2, 3), torch.ones(2, 3).double(), true.JORDAN, 1e-8),
    "coefficients was": (torch.ones(2, 3), torch.ones(2, 3), ((1.0, 2.0),), 1e-8),
    "eps was -1": (torch.ones(2, 3), torch.ones(2, 3), true.JORDAN, -1.0),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_few_rows_refuse_what_does_not_fit(sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        fast.newton_schulz_lowrank(*REFUSED[sentence])


def test_the_steps_grow_a_small_singular_value_by_their_slopes() -> None:
    """485, 493 and 1026 times: what stands at the constants."""
    slopes = {name: math.prod(a for a, _, _ in steps) for name, steps in LISTS.items()}
    assert [round(slopes[name]) for name in LISTS] == [485, 493, 1026]
    assert F64.u * max(slopes.values()) < 1e-12
