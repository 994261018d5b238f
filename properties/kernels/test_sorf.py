"""Laws of structured features and of products with the Nyström approximation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from trueness.optimized import kernels as fast
from trueness.optimized.kernels import sorf as structured
from trueness.properties.kernels.test_laws import F64, assert_is, both, cloud, given, lengths, ours, reference, seeds
from trueness.reference import kernels as true

SIGMAS = 5


def signs(seed: int, blocks: int, q: int) -> np.ndarray:
    return 1.0 - 2.0 * np.random.default_rng(seed).integers(0, 2, (blocks, 3, q))


@pytest.mark.parametrize("q", [1, 2, 4, 8, 32, 64, 512])
def test_two_small_products_are_the_hadamard_matrix(q: int) -> None:
    """H is symmetric and its own inverse; by Sylvester's rule, and by the parity of i & j"""
    like = torch.empty(0, dtype=torch.float64)
    H = structured.hadamard(q, like)
    parity = np.array([[(-1) ** (i & j).bit_count() for j in range(q)] for i in range(q)])
    assert np.array_equal(H.numpy(), parity / math.sqrt(q)) and torch.equal(H, H.T)
    z, turn = torch.from_numpy(cloud(0, 5, q)), structured.Rotation(q, like)
    assert turn.high * turn.low == q and turn.low <= 2 * turn.high
    allowed = 2 * q * F64.u * (z.abs() @ H.abs())  # q products, added in any order, by either way
    moved, spare = z.clone(), torch.empty_like(z)
    turn.into(moved, spare)
    assert ((moved - z @ H).abs() <= allowed).all() and ((turn(z) - z @ H).abs() <= allowed).all()
    turn.into(moved, spare)
    assert ((moved - z).abs() <= allowed + 2 * q * F64.u * ((z.abs() @ H.abs()) @ H.abs())).all()


@both
@given(seed=seeds, d=st.integers(2, 8), length=lengths, less=st.integers(0, 1))
def test_structured_features_are_features_of_a_matrix_whose_columns_are_all_as_long(
    side: Any, seed: int, d: int, length: float, less: int
) -> None:
    """W by a product of dense matrices; for d = q its columns are √q/ℓ long, and orthogonal."""
    q = 1 << (d - 1).bit_length()
    x, D, b = cloud(seed, 4, d), signs(seed, 2, q), cloud(seed + 1, 1, 2 * q - less)[0]
    H = np.array([[(-1) ** (i & j).bit_count() for j in range(q)] for i in range(q)]) / math.sqrt(q)
    W = np.concatenate([(H @ np.diag(s[2]) @ H @ np.diag(s[1]) @ H @ np.diag(s[0])).T for s in D], 1)
    W = math.sqrt(q) * W[:d, : len(b)] / length
    found = side("structured_features")(x, D, b, length)
    assert_is(true.rff_features(x, W, b), found, true.structured_features, x, D, b, length, reduction=3 * q)
    if d == q and not less:
        inner = W[:, :q].T @ W[:, :q]
        assert (np.abs(inner - np.eye(q) * q / length**2) <= 8 * q * q * F64.u / length**2).all()


@pytest.mark.parametrize("r, direction", [(1.5, "axis"), (1.0, "diagonal"), (1.0, "any")])
def test_over_random_signs_the_kernel_is_the_gaussian_within_a_bias_that_falls_with_the_dimension(
    r: float, direction: str
) -> None:
    """Given y = H D₂ H D₁ δ/ℓ, z is Σ ± y_j with random signs D₃, so E cos z = ∏ cos y_j. |cos t − e^{−t²/2}| ≤ t⁴/8,
    and E Σ y_j⁴ ≤ 3 r⁴/q by the signs D₂, whence |E cos z − e^{−r²/2}| ≤ 3 r⁴/(8 q). A block's mean lies in [−1, 1].
    """
    q, blocks, length = 64, 1000, 0.7
    delta = {"axis": np.eye(q)[0], "diagonal": np.ones(q) / math.sqrt(q), "any": cloud(0, 1, q)[0]}[direction]
    delta = delta / np.linalg.norm(delta) * r * length
    D, ends = torch.from_numpy(signs(1, blocks, q)), torch.from_numpy(np.stack([np.zeros(q), delta]))
    features = [
        fast.structured_features(ends, D, torch.full((blocks * q,), b).double(), lengthscale=length)
        for b in (0, -np.pi / 2)
    ]
    paired = torch.cat(features, 1) * math.sqrt(0.5)  # cosine and sine
    found = float((paired[0] * paired[1]).sum())
    allowed = 3 * r**4 / (8 * q) + SIGMAS / math.sqrt(blocks)
    assert abs(found - math.exp(-(r**2) / 2)) <= allowed < 0.2


def test_one_rotation_is_not_enough() -> None:
    """The bound above is one that a wrong distribution breaks: along an axis H D₁ alone has the kernel cos r."""
    q, blocks, length, r = 64, 1000, 0.7, 1.5
    D = signs(1, blocks, q)
    H = np.array([[(-1) ** (i & j).bit_count() for j in range(q)] for i in range(q)]) / math.sqrt(q)
    delta = r * length * np.eye(q)[0]
    z = math.sqrt(q) / length * ((D[:, 0] * delta) @ H)
    assert abs(np.cos(z).mean() - math.cos(r)) <= 64 * F64.u
    assert abs(math.cos(r) - math.exp(-(r**2) / 2)) > 3 * r**4 / (8 * q) + SIGMAS / math.sqrt(blocks)


def test_signs_are_drawn_in_whole_blocks() -> None:
    drawn = fast.sample_signs(5, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert drawn.shape == (3, 3, 8) and set(drawn.unique().tolist()) == {-1.0, 1.0}
    again = fast.sample_signs(5, 20, generator=torch.Generator().manual_seed(0), dtype=torch.bfloat16)
    assert torch.equal(again.double(), drawn)


# -- Nyström ----------------------------------------------------------------------------------------------------------


@both
@given(seed=seeds, m=st.integers(1, 6), reg=st.sampled_from((1e-2, 1.0)))
def test_a_product_with_the_nystrom_approximation_is_that_with_its_matrix(
    side: Any, seed: int, m: int, reg: float
) -> None:
    x, v = 2 * cloud(seed, 9, 2), cloud(seed + 1, 9, 3)

    def law(*a: Any) -> Any:
        return true.nystrom(a[0], a[1], lengthscale=a[3], reg=a[4]) @ a[2]

    found = side("nystrom_matvec")(x, x[:m], v, 1.0, reg)
    assert_is(law(x, x[:m], v, 1.0, reg), found, law, x, x[:m], v, 1.0, reg, reduction=m * 9)


@pytest.mark.parametrize("rows", [1, 2, 4, 100])
def test_it_does_not_depend_on_the_tile_and_neither_do_its_gradients(rows: int) -> None:
    """Gradients by those of the matrix times v, to 64 roundings in a row of numbers below 100, λ = 1."""
    leaves = [torch.from_numpy(a).requires_grad_() for a in (cloud(0, 9, 2), cloud(1, 4, 2), cloud(2, 9, 3))]
    x, z, v = leaves
    want = torch.autograd.grad((fast.nystrom(x, z, lengthscale=1.0, reg=1.0) @ v).square().sum(), leaves)
    found = torch.autograd.grad(
        fast.nystrom_matvec(x, z, v, lengthscale=1.0, reg=1.0, row_tile=rows).square().sum(), leaves
    )
    for a, b in zip(found, want, strict=True):
        assert b.abs().max() < 100 and ((a - b).abs() <= 64 * 9 * 100 * F64.u).all()
    arguments = [a.detach().numpy() for a in leaves]
    value = ours("nystrom_matvec")(*arguments, 1.0, 1.0, row_tile=rows)
    assert_is(
        reference("nystrom_matvec")(*arguments, 1.0, 1.0),
        value,
        true.nystrom_matvec,
        *arguments,
        1.0,
        1.0,
        reduction=36,
    )
