"""Laws of time-dependent self-attention: windows, what time adds, biases, permutations, operations counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from trueness.optimized import attention as fast
from trueness.properties.attention.laws import (
    B_of,
    assert_same,
    changed,
    every,
    few,
    given,
    ours,
    seeds,
    tmsa_arguments,
    true,
)
from trueness.tools.arithmetic.bounds import LIMITS


@every("tmsa")
@given(seed=seeds, window=st.integers(1, 2), heads=few)
def test_one_window_is_global_attention(function: Any, seed: int, window: int, heads: int) -> None:
    """Without a bias: attention of every token to every token, head by head."""
    a = tmsa_arguments(seed, window, heads=heads)
    a = changed(a, bias_table=0 * a[9])
    x, t, w_qs, w_ks, w_vs, w_qt, w_kt, w_vt, w_o = a[:9]

    def part(space: Any, time: Any, h: int) -> Any:
        chosen = slice(3 * h, 3 * h + 3)
        return x.reshape(2, window**2, -1) @ space[:, chosen] + (t @ time[:, chosen])[:, None]

    everything = np.ones((2, window**2, window**2), dtype=bool)
    found = [
        true.masked_attention(part(w_qs, w_qt, h), part(w_ks, w_kt, h), part(w_vs, w_vt, h), everything)
        for h in range(heads)
    ]
    whole = (np.concatenate(found, -1) @ w_o).reshape(x.shape)
    assert_same(function(*a), whole, true.tmsa, a, a)


@every("tmsa", "dense")  # which adds zeros of all other windows, in an order of its own
@given(seed=seeds, window=st.integers(1, 2), size=st.sampled_from([1e-3, 1.0, 1e3]))
def test_a_window_does_not_see_the_others(function: Any, seed: int, window: int, size: float) -> None:
    a = tmsa_arguments(seed, window, rows=2, columns=2)
    before = function(*a)
    moved = np.array(a[0])
    moved[0, :window, window:] += size
    after = function(*changed(a, x=moved))
    elsewhere = np.ones(before.shape[:3], dtype=bool)
    elsewhere[0, :window, window:] = False
    assert np.array_equal(after[elsewhere], before[elsewhere])
    assert (after[0, :window, window:] != before[0, :window, window:]).any()


@every("tmsa")
@given(seed=seeds, window=st.integers(1, 2))
def test_a_bias_that_is_constant_over_keys_has_no_effect(function: Any, seed: int, window: int) -> None:
    a = tmsa_arguments(seed, window, columns=2)
    constant = changed(a, bias_table=np.broadcast_to(a[9][:1], a[9].shape).copy())
    without = changed(a, bias_table=0 * a[9])
    assert_same(function(*constant), function(*without), true.tmsa, constant, without)


@every("tmsa")
@given(seed=seeds, window=st.integers(1, 2), size=st.sampled_from([0.1, 1.0, 3.0]))
def test_what_time_adds_to_the_keys_has_no_effect(function: Any, seed: int, window: int, size: float) -> None:
    """q·k_t is the same for all keys of an image."""
    a = tmsa_arguments(seed, window, columns=2)
    other = changed(a, w_kt=size * np.random.default_rng([seed, 1]).standard_normal(a[6].shape))
    assert_same(function(*a), function(*other), true.tmsa, a, other)


@every("tmsa")
@given(seed=seeds, window=st.integers(1, 2))
def test_what_time_adds_to_the_values_is_added_to_the_result(function: Any, seed: int, window: int) -> None:
    a = tmsa_arguments(seed, window, columns=2)
    still = changed(a, w_vt=0 * a[7])
    added = (a[1] @ a[7] @ a[8])[:, None, None]
    assert_same(function(*a), function(*still) + added, true.tmsa, a, still)


@every("tmsa")
def test_what_time_adds_to_the_queries_matters(function: Any) -> None:
    a = tmsa_arguments(0, 2, columns=2)
    still = changed(a, w_qt=0 * a[5])
    gap = np.abs(function(*a) - function(*still)).max()
    assert gap > 1e6 * LIMITS["eager"] * max(B_of(true.tmsa, *b).max() for b in (a, still))


@every("tmsa")
@given(seed=seeds, window=st.integers(1, 3))
def test_without_a_bias_permuting_tokens_permutes_the_result(function: Any, seed: int, window: int) -> None:
    a = tmsa_arguments(seed, window)
    a = changed(a, bias_table=0 * a[9])
    order = np.random.default_rng([seed, 1]).permutation(window**2)

    def permuted(x: np.ndarray) -> np.ndarray:
        return x.reshape(2, window**2, -1)[:, order].reshape(x.shape)

    moved = changed(a, x=permuted(a[0]))
    allowed = permuted(B_of(true.tmsa, *a)) + B_of(true.tmsa, *moved)
    assert (np.abs(function(*moved) - permuted(function(*a))) <= LIMITS["eager"] * allowed).all()


def test_with_a_bias_it_does_not() -> None:
    a = tmsa_arguments(0, 2)
    turned = changed(a, x=a[0][:, ::-1].copy())
    assert (np.abs(true.tmsa(*turned)[:, ::-1] - true.tmsa(*a)) > 1e6 * B_of(true.tmsa, *a)).any()


@pytest.mark.parametrize("side, window", [(4, 2), (4, 4), (8, 2), (8, 4), (8, 8)])
def test_the_counted_operations_are_the_formulas_and_fall_with_the_window(side: int, window: int) -> None:
    """torch counts two operations for each product and sum: 2 (4 N C² + 2 N w² C), and 3 E C for time."""
    x, t, *weights = tmsa_arguments(0, window, side // window, side // window, batch=1)
    natives = [torch.from_numpy(w) for w in weights[:8]]
    with FlopCounterMode(display=False) as counter:
        ours.tmsa(torch.from_numpy(x), torch.from_numpy(t), *natives, window, 2)
    C, E = x.shape[-1], t.shape[-1]
    assert counter.get_total_flops() == 2 * (fast.multiply_adds(side, side, C, window) + 3 * E * C)
