"""Laws of the Nyström approximation: K − K̃ is positive semidefinite, and everything else follows from it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

from trueness.properties.kernels.test_laws import F64, assert_is, both, bound, cloud, given, seeds
from trueness.reference import kernels as true
from trueness.tools.arithmetic.bounds import LIMITS

regs = st.sampled_from((0.0, 1e-6, 1e-2, 1.0))


def apart(seed: int, points: int) -> np.ndarray:
    """Points in the plane, some 1.5 apart from each other: their Gaussian kernel of length 1 is well conditioned."""
    side = math.ceil(math.sqrt(points))
    lattice = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2)[:points] * 1.5
    return np.random.default_rng(seed).permutation(lattice + 0.2 * cloud(seed, points, 2))


def allowed(x: np.ndarray, z: np.ndarray, reg: float) -> float:
    """What rounding may do to an eigenvalue of K − K̃ (Weyl)."""
    B = LIMITS["eager"] * bound(true.nystrom, x, z, 1.0, reg, reduction=len(z)).B
    return float(np.linalg.norm(B)) + len(x) * len(x) * F64.u


def smallest(matrix: np.ndarray) -> float:
    return float(np.linalg.eigvalsh((matrix + matrix.T) / 2)[0])


@both
@given(seed=seeds, m=st.integers(1, 7), reg=regs)
def test_what_is_missing_is_positive_semidefinite(side: Any, seed: int, m: int, reg: float) -> None:
    x = apart(seed, 9)
    missing = true.gaussian(x, x, lengthscale=1.0) - side("nystrom")(x, x[:m], 1.0, reg)
    assert smallest(missing) >= -allowed(x, x[:m], reg)


@both
@given(seed=seeds, m=st.integers(1, 9))
def test_without_a_ridge_the_rows_of_the_landmarks_are_exact(side: Any, seed: int, m: int) -> None:
    """and all of them when every point is a landmark"""
    x = apart(seed, 9)
    found, K = side("nystrom")(x, x[:m], 1.0, 0.0), true.gaussian(x, x, lengthscale=1.0)

    def law(x: Any, z: Any, length: Any, reg: Any) -> Any:
        return true.nystrom(x, z, lengthscale=length, reg=reg)[:m]

    assert_is(K[:m], found[:m], law, x, x[:m], 1.0, 0.0, reduction=m)
    rest = np.abs(K - found)[m:, m:]
    assert m == 9 or rest.max() > 1e3 * allowed(x, x[:m], 0.0), "and no others"


@both
@given(seed=seeds, m=st.integers(1, 7), reg=regs)
def test_one_more_landmark_never_makes_any_direction_worse(side: Any, seed: int, m: int, reg: float) -> None:
    x = apart(seed, 9)
    fewer, more = (side("nystrom")(x, x[:k], 1.0, reg) for k in (m, m + 1))
    assert smallest(more - fewer) >= -allowed(x, x[:m], reg) - allowed(x, x[: m + 1], reg)


@both
@given(seed=seeds, m=st.integers(1, 7))
def test_less_ridge_never_makes_any_direction_worse(side: Any, seed: int, m: int) -> None:
    x = apart(seed, 9)
    stiff, free = (side("nystrom")(x, x[:m], 1.0, reg) for reg in (0.1, 1e-3))
    assert smallest(free - stiff) >= -allowed(x, x[:m], 0.1) - allowed(x, x[:m], 1e-3)


@both
@given(seed=seeds, m=st.integers(1, 9), reg=regs)
def test_the_trace_bounds_both_norms_of_the_error(side: Any, seed: int, m: int, reg: float) -> None:
    x = apart(seed, 9)
    missing = true.gaussian(x, x, lengthscale=1.0) - true.nystrom(x, x[:m], lengthscale=1.0, reg=reg)
    trace = side("nystrom_trace_bound")(x, x[:m], 1.0, reg)
    tolerance = 3 * allowed(x, x[:m], reg)
    assert trace + tolerance >= np.linalg.norm(missing) >= np.linalg.norm(missing, 2) - tolerance
    assert_is(np.trace(missing), trace, true.nystrom_trace_bound, x, x[:m], 1.0, reg, reduction=m)


@both
@given(seed=seeds, m=st.integers(1, 6), reg=regs)
def test_the_features_are_a_square_root_of_the_approximation(side: Any, seed: int, m: int, reg: float) -> None:
    x = apart(seed, 9)
    found = side("nystrom_features")(x, x[:m], 1.0, reg)
    assert_is(side("nystrom")(x, x[:m], 1.0, reg), found @ found.T, true.nystrom, x, x[:m], 1.0, reg, reduction=m)
    direct = true.gaussian(x, x[:m], lengthscale=1.0)
    inverse = np.linalg.pinv(true.gaussian(x[:m], x[:m], lengthscale=1.0) + reg * np.eye(m))
    assert_is(direct @ inverse @ direct.T, found @ found.T, true.nystrom, x, x[:m], 1.0, reg, reduction=m * m)


def test_the_median_error_falls_and_the_theorem_of_drineas_and_mahoney_holds() -> None:
    """Uniform points, landmarks drawn with replacement: rates are statements about medians only."""
    x, generator = np.random.default_rng(0).random((200, 1)), np.random.default_rng(1)
    K = true.gaussian(x, x, lengthscale=0.05)
    eigenvalues = np.linalg.eigvalsh(K)[::-1]
    medians = []
    for m in (5, 10, 20):
        errors = []
        for _ in range(9):
            z = np.unique(x[generator.integers(0, 200, m)], axis=0)
            missing = K - true.nystrom(x, z, lengthscale=0.05, reg=1e-9)
            errors.append((np.linalg.norm(missing, 2), np.linalg.norm(missing)))
        counts = np.array([float(m)])
        assert (
            max(e for e, _ in errors)
            <= eigenvalues[m] + true.drineas_mahoney_spectral(counts, points=200, delta=0.1)[0]
        )
        best = math.sqrt((eigenvalues[m:] ** 2).sum())
        assert (
            max(e for _, e in errors) <= best + true.drineas_mahoney_frobenius(counts, points=200, rank=m, delta=0.1)[0]
        )
        medians.append(np.median([e for e, _ in errors]))
    assert medians[0] > medians[1] > medians[2]
