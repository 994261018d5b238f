"""Laws of random Fourier features: exact ones over evenly spaced offsets, statistical ones at five known sigmas."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from scipy import special
from torch.utils._python_dispatch import TorchDispatchMode

from trueness.optimized import kernels as fast
from trueness.optimized.kernels.cpu.tiles import COSINES
from trueness.properties.kernels.test_laws import (
    F64,
    KINDS,
    assert_is,
    both,
    bound,
    cloud,
    given,
    kinds,
    lengths,
    reference,
    seeds,
)
from trueness.reference import kernels as true
from trueness.tools.arithmetic.bounds import LIMITS

SIGMAS, MANY = 5, 20_000
SHAPES = st.tuples(st.integers(1, 4), st.integers(3, 6))  # frequencies, offsets for each


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def evenly(frequencies: np.ndarray, offsets: int) -> tuple[np.ndarray, np.ndarray]:
    """Every frequency with ``offsets`` evenly spaced offsets: their mean over b is then exact, not an estimate."""
    turns = 2 * np.pi * np.arange(offsets) / offsets
    return np.repeat(frequencies, offsets, axis=1), np.tile(turns, frequencies.shape[1])


# -- exact laws -------------------------------------------------------------------------------------------------------


@both
@given(seed=seeds, shape=SHAPES)
def test_over_evenly_spaced_offsets_the_features_are_the_paired_ones(side: Any, seed: int, shape: Any) -> None:
    """(2/J) Σ_j cos(a + b_j) cos(c + b_j) = cos(a − c) for J ≥ 3"""
    x, y, W = cloud(seed, 4, 2), cloud(seed + 1, 3, 2), cloud(seed + 2, 2, shape[0])
    want = true.rff_features_paired(x, W) @ true.rff_features_paired(y, W).T
    frequencies, offsets = evenly(W, shape[1])
    found = side("rff_gram")(x, y, frequencies, offsets)
    assert_is(want, found, true.rff_gram, x, y, frequencies, offsets, reduction=offsets.size)


@both
@given(seed=seeds)
def test_paired_features_have_length_one(side: Any, seed: int) -> None:
    x, W = cloud(seed, 5, 3), cloud(seed + 1, 3, 7)
    found = side("rff_features_paired")(x, W)
    J = W.shape[1]  # cos² + sin², J of them, each with four roundings and those of their sum
    assert (np.abs((found * found).sum(1) - 1) <= (4 + J) * 2 * F64.u).all()


@both
@given(seed=seeds, weights=st.lists(st.floats(0.1, 1.0), min_size=1, max_size=4).map(lambda w: np.array(w) / sum(w)))
def test_over_all_offsets_the_diagonal_of_several_scales_is_one(side: Any, seed: int, weights: np.ndarray) -> None:
    """… and the Gram matrix is the convex sum Σ w_s cos(W_sᵀ(x − y)), whatever the numbers of features are."""
    x = cloud(seed, 4, 2)
    parts = [(cloud(seed + s, 2, 1 + s % 3), 3 + s) for s in range(len(weights))]
    drawn = [evenly(W, J) for W, J in parts]
    frequencies, offsets = np.concatenate([d[0] for d in drawn], 1), np.concatenate([d[1] for d in drawn])
    counts = tuple(d[1].size for d in drawn)
    found = side("rff_features_multiscale")(x, frequencies, offsets, weights, counts)

    def law(x: Any, frequencies: Any, offsets: Any, weights: Any) -> Any:
        features = true.rff_features_multiscale(x, frequencies, offsets, weights=weights, counts=counts)
        return features @ features.T

    pairs = [true.rff_features_paired(x, W) for W, _ in parts]
    want = sum(w * (p @ p.T) for w, p in zip(weights, pairs, strict=True))
    assert_is(want, found @ found.T, law, x, frequencies, offsets, weights, reduction=offsets.size)
    assert_is(1, np.diag(found @ found.T), lambda *a: np.diagonal(law(*a)), x, frequencies, offsets, weights)


@both
@given(seed=seeds, counts=st.sampled_from([(5,), (3, 4), (2, 2, 3)]))
def test_scales_that_weigh_as_many_as_they_have_features_are_plain_features(side: Any, seed: int, counts: Any) -> None:
    D = sum(counts)
    arguments = cloud(seed, 4, 2), cloud(seed + 1, 2, D), cloud(seed + 2, 1, D)[0]
    found = side("rff_features_multiscale")(*arguments, np.array(counts) / D, counts)
    assert_is(true.rff_features(*arguments), found, true.rff_features, *arguments, reduction=2)


@both
@given(seed=seeds)
def test_a_product_with_features_is_the_gram_matrix_times_the_vectors(side: Any, seed: int) -> None:
    x, y, v = cloud(seed, 5, 2), cloud(seed + 1, 4, 2), cloud(seed + 2, 4, 3)
    W, b = cloud(seed + 3, 2, 9), cloud(seed + 4, 1, 9)[0]
    assert_is(
        true.rff_gram(x, y, W, b) @ v, side("rff_matvec")(x, y, v, W, b), true.rff_matvec, x, y, v, W, b, reduction=13
    )
    found = side("rff_features")(x, W, b)
    assert_is(side("rff_gram")(x, x, W, b), found @ found.T, true.rff_gram, x, x, W, b, reduction=9)


@both
@given(seed=seeds)
def test_one_scale_of_weight_one_is_the_plain_product(side: Any, seed: int) -> None:
    drawn = cloud(seed, 5, 2), cloud(seed + 1, 4, 2), cloud(seed + 2, 4, 3), cloud(seed + 3, 2, 6), cloud(seed, 1, 6)[0]
    found = side("rff_matvec_multiscale")(*drawn, np.ones(1), (6,))
    assert_is(true.rff_matvec(*drawn), found, true.rff_matvec, *drawn, reduction=10)


@both
@given(seed=seeds)
def test_the_gram_matrix_of_features_is_positive_semidefinite(side: Any, seed: int) -> None:
    x, W, b = cloud(seed, 8, 2), cloud(seed + 1, 2, 5), cloud(seed + 2, 1, 5)[0]
    allowed = np.linalg.norm(LIMITS["eager"] * bound(true.rff_gram, x, x, W, b, reduction=5).B)
    values = np.linalg.eigvalsh(side("rff_gram")(x, x, W, b))
    assert values[0] >= -(allowed + len(x) * F64.u * values[-1])


# -- tiles ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("feature_tile", [1, 3, 7, 16, 100])
@pytest.mark.parametrize("row_tile", [1, 2, 5, 100])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_product_does_not_depend_on_its_tiles(feature_tile: int, row_tile: int, dtype: torch.dtype) -> None:
    """nor do its gradients: any tiling is within the bound of the same reference"""
    from trueness.tools.arithmetic.bounds import bounds
    from trueness.tools.arithmetic.formats import precision

    fmt = precision(str(dtype).removeprefix("torch."))
    drawn = [cloud(k, *shape) for k, shape in enumerate([(5, 2), (4, 2), (4, 3), (2, 16), (1, 16), (5, 3)])]
    natives = [torch.from_numpy(a).to(dtype) for a in drawn]
    natives[4] = natives[4][0]
    leaves = [a.clone().requires_grad_() for a in natives[:5]]
    out = fast.rff_matvec(*leaves, feature_tile=feature_tile, row_tile=row_tile)
    found = [out, *torch.autograd.grad(out, leaves, natives[5])]
    values = [a.double().numpy() for a in natives]
    with np.errstate(all="ignore"):
        truth = bounds(true.rff_matvec, values[:5], [fmt.u] * 5, fmt, 16 + 4)
        truth += bounds(true.rff_matvec_vjp, [values[5], *values[:5]], [fmt.u] * 6, fmt, 16 + 4)
    for a, b in zip(found, truth, strict=True):
        assert b.ratio(a.detach().double().numpy()).max() <= LIMITS["fused"]


class Largest(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def largest(call: Any) -> int:
    with Largest() as mode:
        call()
    return mode.elements


def test_neither_the_product_nor_its_backward_ever_holds_the_features() -> None:
    n, D, d = 768, 2048, 8
    x, v = torch.zeros(n, d, requires_grad=True), torch.zeros(n, 1, requires_grad=True)
    W, b = torch.zeros(d, D, requires_grad=True), torch.zeros(D, requires_grad=True)

    def tiled() -> None:
        fast.rff_matvec(x, x, v, W, b, feature_tile=32, row_tile=32).sum().backward()

    assert largest(tiled) == d * D < n * D / 40, "the frequencies are the largest tensor there is"
    assert largest(lambda: fast.rff_matvec(x, x, v, W, b).sum().backward()) == COSINES, "one tile of the default size"


def test_the_graph_keeps_no_feature_for_the_backward() -> None:
    """It keeps the arguments, and for every frequency its share and what was pulled before and after it: no cosine."""
    n, D, storages = 96, 512, dict[int, int]()
    x, v = torch.zeros(n, 2, requires_grad=True), torch.zeros(n, 1, requires_grad=True)
    W, b = torch.zeros(2, D, requires_grad=True), torch.zeros(D, requires_grad=True)

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()  # a view keeps the whole of it, and two views keep it once
        storages[storage.data_ptr()] = storage.nbytes() // tensor.element_size()
        return tensor

    def kept(call: Any) -> int:
        storages.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            result = call()  # held, so that no storage is freed and counted under another's address
        assert result.requires_grad
        return sum(storages.values())

    arguments = sum(t.numel() for t in (x, v, W, b))
    assert kept(lambda: fast.rff_matvec(x, x, v, W, b, feature_tile=64, row_tile=32)) <= arguments + 3 * D < n * D
    assert kept(lambda: fast.rff_features(x, W, b)) <= arguments, (
        "nor of features that are the result: they are made again"
    )
    assert kept(lambda: torch.cos(x @ W + b)) >= n * D, "what plain autograd keeps"


def test_the_draws_do_not_know_of_tiles_or_of_the_dtype() -> None:
    for name, nu in KINDS:
        options = {"nu": nu[0]} if nu else {}
        wide, narrow = (
            fast.sample_frequencies(name, 3, 10, lengthscale=0.7, generator=generator(), dtype=dtype, **options)
            for dtype in (torch.float64, torch.float16)
        )
        assert wide.shape == (3, 10) and torch.equal(wide.half(), narrow)
        assert not torch.equal(wide[:, :5], wide[:, 5:])
    assert torch.equal(fast.sample_offsets(10, generator=generator()), fast.sample_offsets(10, generator=generator()))
    W = fast.sample_orthogonal_frequencies(3, 10, lengthscale=0.7, generator=generator(), dtype=torch.float64)
    inner = (W[:, :3].T @ W[:, :3]).fill_diagonal_(0)
    assert W.shape == (3, 10) and inner.abs().max() <= 9 * F64.u * float(W.square().sum())


# -- statistical laws, at five sigmas of the known variance -----------------------------------------------------------

POINTS = np.array([[0.0, 0.0, 0.0], [0.3, -0.4, 1.2], [0.5, 0.1, -0.2], [-0.7, 0.9, 0.4]])


def drawn(name: str, nu: Any, features: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    options = {"nu": nu[0]} if nu else {}
    source = generator(seed)
    W = fast.sample_frequencies(name, 3, features, lengthscale=0.9, generator=source, dtype=torch.float64, **options)
    return W.numpy(), fast.sample_offsets(features, generator=source, dtype=torch.float64).numpy()


def kernel(name: str, nu: Any, scale: float = 1.0) -> np.ndarray:
    """k(s δ) for every pair of POINTS; s = 2 is what the variances need."""
    return reference(name)(scale * POINTS, scale * POINTS, 0.9, *nu)


def offset_variance(k: np.ndarray, k2: np.ndarray) -> np.ndarray:
    """of 2 cos(a + b) cos(c + b): 1 + k(2δ)/2 − k(δ)²        (Sutherland & Schneider 2015 eq. 4)"""
    return 1 + k2 / 2 - k * k


def paired_variance(k: np.ndarray, k2: np.ndarray) -> np.ndarray:
    """of cos(ω·δ): (1 + k(2δ))/2 − k(δ)²        (eq. 3)"""
    return (1 + k2) / 2 - k * k


@both
@kinds()
def test_features_estimate_their_kernel_within_five_sigmas(name: str, nu: Any, side: Any) -> None:
    W, b = drawn(name, nu, MANY)
    k, k2 = kernel(name, nu), kernel(name, nu, 2.0)
    sigma = np.sqrt(offset_variance(k, k2) / MANY)
    assert SIGMAS * sigma.max() < 0.06
    assert (np.abs(side("rff_gram")(POINTS, POINTS, W, b) - k) <= SIGMAS * sigma).all()
    found = side("rff_features_paired")(POINTS, W)
    sigma = np.sqrt(np.maximum(paired_variance(k, k2), 0) / MANY)
    assert (np.abs(found @ found.T - k) <= SIGMAS * sigma + 2 * MANY * F64.u).all()


@kinds()
def test_the_variance_of_one_feature_is_the_known_one(name: str, nu: Any) -> None:
    """so that the five sigmas are five: (z − k)² lies in [0, 9], hence its mean within 5 · 4.5/√N of the variance"""
    W, b = drawn(name, nu, MANY, seed=1)
    angle = POINTS @ W
    k, k2 = kernel(name, nu), kernel(name, nu, 2.0)
    z = 2 * np.cos(angle + b)[:, None] * np.cos(angle + b)[None]
    allowed = SIGMAS * 4.5 / math.sqrt(MANY)
    assert (np.abs(((z - k[..., None]) ** 2).mean(-1) - offset_variance(k, k2)) <= allowed).all()
    z = np.cos(angle[:, None] - angle[None])
    allowed = SIGMAS * 2 / math.sqrt(MANY)  # here (z − k)² lies in [0, 4]
    assert (np.abs(((z - k[..., None]) ** 2).mean(-1) - paired_variance(k, k2)) <= allowed).all()


@kinds()
def test_frequencies_of_another_kernel_are_found_out(name: str, nu: Any) -> None:
    """The gap to every other kernel of the family is wider than what chance allows."""
    W, b = drawn(name, nu, MANY)
    found = true.rff_gram(POINTS, POINTS, W, b)
    for other, other_nu in KINDS:
        k, k2 = kernel(other, other_nu), kernel(other, other_nu, 2.0)
        off = (np.abs(found - k) > SIGMAS * np.sqrt(offset_variance(k, k2) / MANY)).any()
        same = {name, other} == {"laplacian_l2", "matern"} and (*nu, *other_nu) == (0.5,)
        assert off == ((name, nu) != (other, other_nu) and not same), other


@given(seed=seeds, length=lengths)
def test_the_mean_length_of_the_features_is_one_at_every_point(seed: int, length: float) -> None:
    """E φ(x)·φ(x) = 1; a term 2 cos² has variance 1/2 over the offsets"""
    W = fast.sample_frequencies("gaussian", 3, 2000, lengthscale=length, generator=generator(seed), dtype=torch.float64)
    b = fast.sample_offsets(2000, generator=generator(seed + 1), dtype=torch.float64)
    found = fast.rff_features(torch.from_numpy(cloud(seed, 4, 3)), W, b).square().sum(1)
    assert ((found - 1).abs() <= SIGMAS * math.sqrt(0.5 / 2000)).all()


@pytest.mark.parametrize("d", [2, 3, 8])
def test_orthogonal_frequencies_have_the_gaussian_kernel_only_with_their_radii(d: int) -> None:
    """Without: ₀F₁(; d/2; −r²/(4 ℓ²)), by scipy. A mean over a block lies in [−1, 1], and blocks are independent."""
    blocks, length = 4000, 0.9
    source = np.random.default_rng(0)
    G = source.standard_normal((blocks, d, d))
    radii = np.sqrt(source.chisquare(d, blocks * d))
    delta = np.full((1, d), length / math.sqrt(d))  # at distance ℓ
    zero, allowed = np.zeros((1, d)), SIGMAS / math.sqrt(blocks)

    def estimate(radii: Any) -> float:
        W = true.orthogonal_frequencies(G, radii, lengthscale=length)
        return float((true.rff_features_paired(delta, W) @ true.rff_features_paired(zero, W).T)[0, 0])

    bare = special.hyp0f1(d / 2, -0.25)
    assert abs(estimate(radii) - math.exp(-0.5)) <= allowed < bare - math.exp(-0.5)
    assert abs(estimate(np.ones(blocks * d)) - bare) <= allowed


@both
@given(seed=seeds, d=st.integers(1, 4), length=lengths)
def test_orthogonal_frequencies_of_one_block_are_orthogonal_and_as_long_as_their_radii(
    side: Any, seed: int, d: int, length: float
) -> None:
    G, radii = cloud(seed, d, d)[None], 0.5 + np.abs(cloud(seed + 1, 1, d)[0])
    W = side("orthogonal_frequencies")(G, radii, length)
    lost = np.linalg.cond(G[0])  # Gram-Schmidt loses orthogonality in proportion to it (Björck 1967)
    wanted = np.diag((radii / length) ** 2)
    assert (np.abs(W.T @ W - wanted) <= 8 * d * d * F64.u * lost * wanted.max()).all()


@pytest.mark.parametrize("counts", [250, 1000])
def test_the_largest_error_over_all_pairs_keeps_its_bound(counts: int) -> None:
    """Twenty times, where five per cent may not: at most five of twenty, by the binomial's five sigmas."""
    n, delta, x = 100, 0.05, cloud(0, 100, 5)
    K = true.gaussian(x, x, lengthscale=1.0)
    t = float(true.rff_error_bound(np.array([float(counts)]), points=n, delta=delta)[0])
    errors = []
    for seed in range(20):
        source = np.random.default_rng(seed)
        W, b = source.standard_normal((5, counts)), 2 * np.pi * source.random(counts)
        errors.append(np.abs(true.rff_gram(x, x, W, b) - K).max())
    most = 20 * delta + SIGMAS * math.sqrt(20 * delta * (1 - delta))
    assert sum(e >= t for e in errors) <= most and np.mean(errors) > t / 4, "a bound, and not an idle one"


@pytest.mark.parametrize("weights", [(1 / 3, 1 / 3, 1 / 3), (0.2, 0.3, 0.5)])
def test_features_of_several_lengths_estimate_the_convex_sum_of_their_kernels(weights: Any) -> None:
    lengths, counts, source = (0.5, 1.0, 2.0), (6000, 7000, 8000), generator()
    drawn = [
        fast.sample_frequencies("gaussian", 3, D, lengthscale=e, generator=source, dtype=torch.float64)
        for e, D in zip(lengths, counts, strict=True)
    ]
    b = fast.sample_offsets(sum(counts), generator=source, dtype=torch.float64)
    x = torch.from_numpy(POINTS)
    found = fast.rff_features_multiscale(
        x, torch.cat(drawn, 1), b, weights=torch.tensor(weights, dtype=torch.float64), counts=counts
    )
    k, variance = np.zeros((4, 4)), np.zeros((4, 4))
    for w, e, D in zip(weights, lengths, counts, strict=True):
        one, two = true.gaussian(POINTS, POINTS, lengthscale=e), true.gaussian(2 * POINTS, 2 * POINTS, lengthscale=e)
        k, variance = k + w * one, variance + w * w * offset_variance(one, two) / D
    assert (np.abs((found @ found.T).numpy() - k) <= SIGMAS * np.sqrt(variance)).all()
