"""Laws of windows, relative positions, masks, normalizations and activations, and golden values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example
from hypothesis import strategies as st

from trueness.optimized import attention as fast
from trueness.properties.attention import peers
from trueness.properties.attention.laws import (
    F64,
    B_of,
    assert_same,
    every,
    few,
    given,
    on_arrays,
    ours,
    seeds,
    sides,
    true,
)
from trueness.reference import attention as reference
from trueness.tools.arithmetic.bounds import LIMITS, bounds
from trueness.tools.arithmetic.formats import precision, round_to
from trueness.tools.spec.model import DTYPES

# -- windows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "there, back",
    [
        (true.window_partition, true.window_unpartition),
        (on_arrays(fast.window_partition), on_arrays(fast.window_unpartition)),
        (on_arrays(peers.swin_partition), on_arrays(peers.swin_unpartition)),
    ],
    ids=["reference", "ours", "transformers"],
)
@given(seed=seeds, window=sides, rows=sides, columns=sides)
def test_putting_windows_back_is_the_inverse_of_cutting_them_out(
    there: Any, back: Any, seed: int, window: int, rows: int, columns: int
) -> None:
    x = np.random.default_rng(seed).standard_normal((2, rows * window, columns * window, 3))
    windows = there(x, window)
    assert np.array_equal(back(windows, window, *x.shape[1:3]), x)
    assert np.array_equal(there(back(windows, window, *x.shape[1:3]), window), windows)


@every("window_partition")
@given(seed=seeds, window=sides, rows=sides, columns=sides)
def test_every_token_of_a_window_comes_from_one_square_of_the_grid(
    function: Any, seed: int, window: int, rows: int, columns: int
) -> None:
    b, y, x = np.meshgrid(*(np.arange(n) for n in (2, rows * window, columns * window)), indexing="ij")
    places = np.stack([b, y // window, x // window, y % window, x % window], -1).astype(float)
    found = function(places, window)
    assert (found[:, :, :3] == found[:, :1, :3]).all(), "one image, one window row, one window column"
    order = found[:, 0, :3] @ np.array([rows * columns, columns, 1.0])
    assert np.array_equal(order, np.arange(len(found))), "images first, then window rows, then window columns"
    assert np.array_equal(found[0, :, 3] * window + found[0, :, 4], np.arange(window * window)), "row-major inside"


# -- relative positions -----------------------------------------------------------------------------------------------


@every("relative_position_index")
@pytest.mark.parametrize("window", [1, 2, 3, 4, 7, 8])
def test_the_index_depends_on_the_displacement_alone_and_uses_every_entry(function: Any, window: int) -> None:
    index = function(window)
    y, x = np.divmod(np.arange(window**2), window)
    pairs = np.stack([y[:, None] - y, x[:, None] - x, index], -1).reshape(-1, 3)
    unique = np.unique(pairs, axis=0)
    assert len(unique) == len(np.unique(pairs[:, :2], axis=0)) == (2 * window - 1) ** 2
    assert np.array_equal(np.unique(index), np.arange((2 * window - 1) ** 2))


@every("relative_position_index")
@pytest.mark.parametrize("window", [1, 2, 3, 4, 7, 8])
def test_exchanging_two_tokens_negates_their_displacement(function: Any, window: int) -> None:
    index = function(window)
    assert np.array_equal(index.T, (2 * window - 1) ** 2 - 1 - index)
    assert (np.diag(index) == ((2 * window - 1) ** 2 - 1) // 2).all()


@every("relative_position_index")
def test_golden_rows_of_the_relative_index(function: Any) -> None:
    assert function(2).tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]
    assert function(3)[0].tolist() == [12, 11, 10, 7, 6, 5, 2, 1, 0]
    assert function(3)[-1].tolist() == [24, 23, 22, 19, 18, 17, 14, 13, 12]


@every("relative_position_bias")
@given(seed=seeds, window=sides, heads=few)
def test_the_bias_reads_the_table_at_the_index(function: Any, seed: int, window: int, heads: int) -> None:
    table = np.random.default_rng(seed).standard_normal(((2 * window - 1) ** 2, heads))
    bias, index = function(table, window), true.relative_position_index(window)
    for i, j in np.ndindex(index.shape):
        assert (bias[:, i, j] == table[index[i, j]]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@example(seed=3, window=8, heads=2)  # 64 pairs of one displacement: too many to add up in a half format
@given(seed=seeds, window=sides, heads=few)
def test_the_backward_of_the_bias_adds_over_the_pairs_of_a_displacement(
    dtype: str, seed: int, window: int, heads: int
) -> None:
    """Within the bound of a fused kernel, which the generic check does not ask of an exact formula."""
    fmt, generator = precision(dtype), np.random.default_rng(seed)
    shapes = (heads, window**2, window**2), ((2 * window - 1) ** 2, heads)
    g, table = (round_to(generator.standard_normal(s), dtype) for s in shapes)
    leaf = torch.from_numpy(table).to(fmt.torch).requires_grad_()
    (found,) = torch.autograd.grad(fast.relative_position_bias(leaf, window), leaf, torch.from_numpy(g).to(fmt.torch))
    units = [fmt.u, fmt.u, 0.0]
    bound = bounds(reference.relative_position_bias_vjp, [g, table, window], units, fmt, window**2)[0]
    assert bound.ratio(found.double().numpy()).max() <= LIMITS["fused"]


# -- masks ------------------------------------------------------------------------------------------------------------


def masked_arguments(seed: int, keys: int = 5) -> tuple[np.ndarray, ...]:
    generator = np.random.default_rng(seed)
    q, k, v = (generator.standard_normal(s) for s in [(2, 3, 4), (2, keys, 4), (2, keys, 2)])
    return q, k, v, generator.random((2, 3, keys)) < 0.6


@every("masked_attention")
@given(seed=seeds, size=st.sampled_from([1e-3, 1.0, 1e3]))
def test_keys_and_values_that_nobody_may_see_do_not_matter(function: Any, seed: int, size: float) -> None:
    """Bit for bit."""
    q, k, v, mask = masked_arguments(seed)
    mask[:, :, 2] = False
    moved_k, moved_v = np.array(k), np.array(v)
    moved_k[:, 2] += size
    moved_v[:, 2] -= size
    assert np.array_equal(function(q, k, v, mask), function(q, moved_k, moved_v, mask))


@every("masked_attention")
@given(seed=seeds)
def test_masking_keys_is_leaving_them_out(function: Any, seed: int) -> None:
    q, k, v, mask = masked_arguments(seed)
    found = function(q, k, v, mask)
    for b, i in np.ndindex(mask.shape[:2]):
        seen = mask[b, i]
        if seen.any():
            one = (q[b : b + 1, i : i + 1], k[b : b + 1, seen], v[b : b + 1, seen])
            all_of_them = np.ones((1, 1, int(seen.sum())), dtype=bool)
            want = true.masked_attention(*one, all_of_them)
            assert_same(found[b, i], want[0, 0], true.masked_attention, (*one, all_of_them), (*one, all_of_them))
        else:
            assert (found[b, i] == 0).all()


@every("masked_attention")
@given(seed=seeds, size=st.sampled_from([0.0, 1.0, 99.0]))
def test_one_more_key_that_is_masked_changes_nothing(function: Any, seed: int, size: float) -> None:
    q, k, v, mask = masked_arguments(seed)
    more = [np.concatenate([a, np.full_like(a[:, :1], size)], 1) for a in (k, v)]
    wider = np.concatenate([mask, np.zeros_like(mask[:, :, :1])], 2)
    assert_same(function(q, *more, wider), function(q, k, v, mask), true.masked_attention, *2 * ((q, k, v, mask),))


@every("masked_attention")
@given(seed=seeds, value=st.sampled_from([1.0, -3.5, 1000.0]))
def test_the_weights_of_a_row_sum_to_one(function: Any, seed: int, value: float) -> None:
    """A mean of equal values is that value; a row without keys is 0."""
    q, k, v, mask = masked_arguments(seed)
    same = np.full_like(v, value)
    want = np.where(mask.any(-1, keepdims=True), value, 0.0) + 0 * same[:, :3]
    assert_same(function(q, k, same, mask), want, true.masked_attention, (q, k, same, mask))


@pytest.mark.parametrize("shape", [(2, 1, 1, 5), (1, 1, 3, 5), (3, 5), (5,)])
def test_a_mask_broadcasts(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 4, n, 6, generator=generator, dtype=torch.float64) for n in (3, 5, 5))
    mask = torch.rand(shape, generator=generator) < 0.5
    whole = mask.expand(2, 4, 3, 5)
    assert torch.equal(fast.masked_attention(q, k, v, mask), fast.masked_attention(q, k, v, whole))
    per_head = [a.flatten(0, 1).numpy() for a in (q, k, v, whole)]
    want = true.masked_attention(*per_head).reshape(2, 4, 3, 6)
    assert_same(
        fast.masked_attention(q, k, v, mask).flatten(0, 1).numpy(),
        want.reshape(8, 3, 6),
        true.masked_attention,
        tuple(per_head),
        tuple(per_head),
    )


def test_masked_attention_is_multihead_attention_with_the_opposite_mask() -> None:
    """nn.MultiheadAttention: true means ignore; with its identity projections, asked for weights or not."""
    q, k, v, mask = masked_arguments(0)
    mask[:, :, 0] = True
    natives = [torch.from_numpy(a) for a in (q, k, v, mask)]
    for asked in (False, True):
        found = peers.multihead(*natives, need_weights=asked).detach().numpy()
        assert_same(found, true.masked_attention(q, k, v, mask), true.masked_attention, *2 * ((q, k, v, mask),))
        opposite = peers.multihead(*natives[:3], ~natives[3], need_weights=asked).detach().numpy()
        assert not np.array_equal(found, opposite, equal_nan=True)


# -- normalization and activation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [true.layer_norm, on_arrays(ours.layer_norm)], ids=["reference", "ours"])
@given(seed=seeds, shift=st.sampled_from([-8.0, 1.0, 64.0]))
def test_layer_norm_does_not_see_a_constant_and_sums_to_its_bias(function: Any, seed: int, shift: float) -> None:
    generator = np.random.default_rng(seed)
    x, bias = generator.standard_normal((3, 6)), generator.standard_normal(6)
    plain, moved = (x, np.ones(6), bias, 1e-6), (x + shift, np.ones(6), bias, 1e-6)
    assert_same(function(*moved), function(*plain), true.layer_norm, plain, moved)
    off = np.abs((function(*plain) - bias).sum(-1))
    assert (off <= LIMITS["eager"] * B_of(true.layer_norm, *plain).sum(-1) + 6 * F64.u * np.abs(bias).sum()).all()


@pytest.mark.parametrize("function", [true.group_norm, on_arrays(ours.group_norm)], ids=["reference", "ours"])
@given(seed=seeds)
def test_group_norm_of_one_group_is_layer_norm_of_the_whole_image(function: Any, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((2, 3, 2, 2))
    a = (x, np.ones(3), np.zeros(3), 1, 1e-6)
    want = true.layer_norm(x.reshape(2, 12), np.ones(12), np.zeros(12), 1e-6).reshape(x.shape)
    assert_same(function(*a), want, true.group_norm, a, a)


@pytest.mark.parametrize("name", ["silu", "gelu_tanh"])
@given(seed=seeds)
def test_an_activation_minus_its_mirror_image_is_the_identity(name: str, seed: int) -> None:
    x = 3 * np.random.default_rng(seed).standard_normal(16)
    for function in (getattr(true, name), on_arrays(getattr(ours, name))):
        assert_same(function(x) - function(-x), x, getattr(true, name), (x,), (-x,))
