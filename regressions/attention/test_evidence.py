"""Evidence for ATLAS-13, DIFFIT-02 … 05, 10 … 12: what the reports claim of attention, expressed again and measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from trueness.optimized import attention as fast
from trueness.properties import attention as declared
from trueness.reference import attention as true
from trueness.regressions.attention import blocks, entries, masks, positions, self_attention
from trueness.tools.arithmetic.bounds import LIMITS, bounds
from trueness.tools.arithmetic.formats import precision

F64 = precision("float64")
FORMULAS = {formula.name: formula for formula in declared.FORMULAS}
tmsa, diffit_block, diffit_resblock = (  # all arguments by position
    FORMULAS[f"attention.{name}"].reference for name in ("tmsa", "diffit_block", "diffit_resblock")
)


def assert_within(out: Any, function: Any, *arguments: Any, reduction: int = 64) -> None:
    """``out`` lies within the float64 bound of ``function``."""
    units = [F64.u if np.asarray(a).dtype.kind == "f" else 0.0 for a in arguments]
    ratio = bounds(function, arguments, units, F64, reduction)[0].ratio(np.asarray(out))
    assert ratio.max(initial=0) <= LIMITS["eager"], f"T = {ratio.max()}"


def beyond(out: Any, function: Any, *arguments: Any, reduction: int = 64) -> bool:
    units = [F64.u if np.asarray(a).dtype.kind == "f" else 0.0 for a in arguments]
    return bool(bounds(function, arguments, units, F64, reduction)[0].ratio(np.asarray(out)).max() > LIMITS["eager"])


# -- masks ------------------------------------------------------------------------------------------------------------


def test_the_mask_before_and_after_the_inversion_gives_the_same_bits_ATLAS_13a() -> None:
    """Before: padding is marked and filled where marked. After: tokens are marked and filled where not marked."""
    tokens = torch.tensor([[5, 7, 0, 0], [3, 9, 2, 0]])
    q, k, v = torch.randn(3, 2, 4, 8, generator=torch.Generator().manual_seed(0))
    logits = q @ k.mT / 8**0.5
    before = logits.masked_fill((tokens == 0)[:, None], -torch.inf).softmax(-1) @ v
    after = logits.masked_fill(~(tokens != 0)[:, None], -torch.inf).softmax(-1) @ v
    assert torch.equal(before, after)
    mask = (tokens != 0)[:, None].expand(2, 4, 4)
    ours = fast.masked_attention(*(x.double() for x in (q, k, v)), mask)
    assert_within(ours.numpy(), true.masked_attention, *(x.double().numpy() for x in (q, k, v)), mask.numpy())


def test_an_inverted_mask_leaks_the_padding_ATLAS_13a() -> None:
    arguments = (masks.QUERIES, masks.KEYS, masks.VALUES, masks.PADDED)
    assert (masks.inverted(*arguments) == 99).all()
    assert (np.abs(true.masked_attention(*arguments)) <= 3).all()


def test_a_row_without_keys_is_nan_without_a_guard_and_zero_with_it_ATLAS_13b() -> None:
    arguments = (masks.QUERIES, masks.KEYS, masks.VALUES, masks.BLANK)
    q, k, v, mask = (torch.from_numpy(a) for a in arguments)
    plain = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~mask, -torch.inf).softmax(-1) @ v
    assert plain[0, 1].isnan().all() and np.isnan(masks.without_guard(*arguments)[0, 1]).all()
    for found in (true.masked_attention(*arguments), fast.masked_attention(q, k, v, mask).numpy()):
        assert (found[0, 1] == 0).all() and np.isfinite(found).all()


def test_a_row_without_keys_has_finite_gradients_ATLAS_13b() -> None:
    q, k, v, mask = (torch.from_numpy(a) for a in (masks.QUERIES, masks.KEYS, masks.VALUES, masks.BLANK))
    inputs = [a.clone().requires_grad_() for a in (q, k, v)]
    gradients = torch.autograd.grad(fast.masked_attention(*inputs, mask).sum(), inputs)
    assert all(g.isfinite().all() for g in gradients)
    assert (gradients[0][0, 1] == 0).all() and (gradients[2][0, 2] == 0).all()


@pytest.mark.parametrize("asked, blank", [(True, "nan"), (False, "0.0")])
def test_torch_multihead_answers_a_row_without_keys_as_it_is_asked_for_weights_ATLAS_13b(
    asked: bool, blank: str
) -> None:
    """One module, one input, two results: the argument should only say what else is returned. Ours: always 0."""
    module = torch.nn.MultiheadAttention(4, 1, bias=False, batch_first=True, dtype=torch.float64)
    q, k, mask = (torch.from_numpy(a) for a in (masks.QUERIES, masks.KEYS, masks.BLANK))
    out, _ = module(q, k, k, attn_mask=~mask, need_weights=asked)
    assert {str(float(x)) for x in out.detach()[0, 1].abs()} == {blank}
    assert (fast.masked_attention(q, k, k, mask)[0, 1] == 0).all()


def test_an_added_mask_hides_a_key_by_a_factor_e_only_ATLAS_13c() -> None:
    one, values = np.ones((1, 1, 1)), np.array([[[1.0], [0.0]]])
    share = masks.added(one, np.ones((1, 2, 1)), values, np.array([[[True, False]]]))
    odds = float((share / (1 - share))[0, 0, 0])
    assert f"{odds:.12f}" == f"{np.e:.12f}"
    assert true.masked_attention(one, np.ones((1, 2, 1)), values, np.array([[[True, False]]])) == 1


@pytest.mark.ledger_fact
def test_choosing_a_mask_with_or_raises_ATLAS_13d() -> None:
    context = {"context_mask": torch.ones(2, 3, dtype=torch.bool), "mask": None}
    with pytest.raises(RuntimeError, match="Boolean value of Tensor with more than one value is ambiguous"):
        context.get("context_mask") or context.get("mask")


def test_optional_tensors_are_told_from_none_and_not_by_their_truth_ATLAS_13d() -> None:
    """Labels of 0 and a dropping of nothing are false numbers, but they were given."""
    torch.manual_seed(0)
    model = fast.DiffiT(4, 1, 4, num_heads=2, classes=3, groups=2, window=2)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    x, t, zeros = torch.randn(2, 1, 4, 4), torch.tensor([3, 700]), torch.zeros(2, dtype=torch.long)
    labelled = model(x, t, zeros)
    assert not torch.equal(labelled, model(x, t))
    assert torch.equal(model(x, t, zeros, zeros.bool()), labelled)
    assert torch.equal(model(x, t, zeros, ~zeros.bool()), model(x, t))


# -- time-dependent self-attention ------------------------------------------------------------------------------------


def test_time_in_the_queries_alone_misses_a_constant_DIFFIT_02a() -> None:
    """and only that: what is missing is x_t W_vt W_o on every token."""
    x, t, *_, w_kt, w_vt, w_o, _, _, _ = self_attention.TMSA
    missing = np.broadcast_to((t @ w_vt @ w_o)[:, None, None], x.shape)
    whole = self_attention.only_queries(*self_attention.TMSA) + missing
    assert_within(whole, lambda *a: tmsa(*a, 2, 2), *self_attention.TMSA[:10])
    assert w_kt.any()


def test_with_one_head_the_root_of_all_channels_is_right_DIFFIT_02b() -> None:
    one_head = (*self_attention.TMSA[:9], self_attention.TMSA[9][:, :1], 2, 1)
    scaled = self_attention.variant(channels=True)
    assert_within(scaled(*one_head), lambda *a: tmsa(*a, 2, 1), *one_head[:10])
    assert beyond(scaled(*self_attention.TMSA), lambda *a: tmsa(*a, 2, 2), *self_attention.TMSA[:10])


def test_a_bias_after_the_softmax_makes_rows_that_do_not_sum_to_one_DIFFIT_02c() -> None:
    x, t, *rest = self_attention.TMSA
    same = (np.ones_like(x), t, *rest)  # all values equal: every mean of them is that value
    right, late = tmsa(*same), self_attention.variant(after=True)(*same)
    without = (*same[:9], 0 * same[9], 2, 2)
    assert_within(right, lambda *a: tmsa(*a, 2, 2), *without[:10])
    assert beyond(late, lambda *a: tmsa(*a, 2, 2), *without[:10])


@pytest.mark.parametrize("repeat", [self_attention.of_another, self_attention.tiled], ids=["another image", "tiled"])
def test_the_time_of_another_image_shows_only_where_times_differ_DIFFIT_02d_DIFFIT_03b(repeat: Any) -> None:
    confused = self_attention.variant(repeat=repeat)
    x, t, *rest = self_attention.TMSA
    alike = (x, np.repeat(t[:1], 2, 0), *rest)
    assert np.array_equal(confused(*alike), self_attention.variant()(*alike)), "two images at the same time"
    alone = (x[:1], t[:1], *rest)
    assert np.array_equal(confused(*alone), self_attention.variant()(*alone)), "one image"
    assert beyond(confused(*self_attention.TMSA), lambda *a: tmsa(*a, 2, 2), *self_attention.TMSA[:10])


# -- windows ----------------------------------------------------------------------------------------------------------


def as_reported(x: torch.Tensor, window: int, bias: torch.Tensor) -> torch.Tensor:
    """The shape logic of the report: partition, attention, and an unpartition behind its guard; then the residual."""
    batch, n, channels = x.shape
    side = int(n**0.5)
    h = x
    if window * window < n:
        h = fast.window_partition(x.view(batch, side, side, channels), window)
        n = window * window  # from here on n no longer is the number of tokens
    h = torch.softmax(h @ h.mT + bias, -1) @ h
    if window * window < int(n**0.5) ** 2:
        h = fast.window_unpartition(h, window, side, side).flatten(1, 2)
    return x + h


@pytest.mark.parametrize("tokens, window, found", [(64, 4, "64.*16"), (256, 4, "256.*16"), (4, 8, "4.*64")])
def test_windows_that_are_never_put_back_crash_DIFFIT_03a(tokens: int, window: int, found: str) -> None:
    x = torch.randn(1, tokens, 8)
    with pytest.raises(RuntimeError, match=found):
        as_reported(x, window, torch.zeros(window**2, window**2))


def test_a_test_with_one_window_cannot_fail_DIFFIT_12() -> None:
    """64 tokens and w = 8, as the report's test has it: no window is cut out, and every wrong variant passes."""
    assert as_reported(torch.randn(1, 64, 8), 8, torch.zeros(64, 64)).shape == (1, 64, 8)
    x, t, *weights = entries.drawn((2, 8, 8, 4), (2, 3), *[(4, 4)] * 3, *[(3, 4)] * 3, (4, 4), (225, 2))
    whole = (x, t, *weights, 8, 2)
    for variant in (
        self_attention.variant(put_back=self_attention.read_as_grid),
        self_attention.variant(repeat=self_attention.tiled),
    ):
        assert np.array_equal(variant(*whole), self_attention.variant()(*whole))
        assert beyond(variant(*self_attention.TMSA), lambda *a: tmsa(*a, 2, 2), *self_attention.TMSA[:10])


def test_reshaping_windows_moves_tokens_DIFFIT_03c() -> None:
    grid = np.arange(16.0).reshape(1, 4, 4, 1)
    windows = true.window_partition(grid, 2)
    assert np.array_equal(true.window_unpartition(windows, 2, 4, 4), grid)
    assert self_attention.read_as_grid(windows, 2, 4, 4)[0, 0, :, 0].tolist() == [0, 1, 4, 5]
    one = true.window_partition(grid, 4)
    assert np.array_equal(self_attention.read_as_grid(one, 4, 4, 4), grid), "one window does not show it"


# -- relative positions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window, used", [(2, 7), (3, 17), (4, 31)])
def test_rows_of_length_w_let_displacements_collide_DIFFIT_04a(window: int, used: int) -> None:
    assert len(np.unique(true.relative_position_index(window))) == (2 * window - 1) ** 2
    assert len(np.unique(positions.rows_of_w(window))) == used < (2 * window - 1) ** 2


@pytest.mark.parametrize("window", [2, 3, 5])
def test_exchanging_the_axes_is_a_relabelling_of_the_table_DIFFIT_04b(window: int) -> None:
    side = 2 * window - 1
    relabelled = np.arange(side * side).reshape(side, side).T.reshape(-1)
    assert np.array_equal(relabelled[true.relative_position_index(window)], positions.swapped(window))
    assert not np.array_equal(true.relative_position_index(window), positions.swapped(window))


def test_a_bias_that_is_the_same_for_all_keys_has_no_effect_and_no_gradient_DIFFIT_04c() -> None:
    x, t, *rest = self_attention.TMSA
    space, time, w_o, table, window, heads = rest[:3], rest[3:6], rest[6], rest[7], *rest[8:]
    windows = self_attention.attended(x, t, space, time, w_o, positions.of_the_query(table, window), window, heads)

    def none(*a: Any) -> Any:
        return self_attention.attended(a[0], a[1], a[2:5], a[5:8], a[8], 0.0, window, heads)

    assert positions.of_the_query(table, window).any()
    assert_within(windows, none, *self_attention.TMSA[:9])
    logits = torch.randn(5, 5, dtype=torch.float64)
    row = torch.randn(5, 1, dtype=torch.float64, requires_grad=True)
    values = torch.randn(5, 3, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(((logits + row).softmax(-1) @ values).sum(), row)
    largest = float(values.abs().sum())  # each term of the sum that cancels is at most this, and there are five
    assert gradient.abs().max() <= 4 * 5 * F64.u * largest


def test_the_global_mode_is_attention_without_bias_DIFFIT_04d() -> None:
    assert beyond(
        self_attention.without_bias(*self_attention.TMSA), lambda *a: tmsa(*a, 2, 2), *self_attention.TMSA[:10]
    )
    flat = (*self_attention.TMSA[:9], np.ones_like(self_attention.TMSA[9]), 2, 2)
    assert_within(tmsa(*flat), lambda *a: self_attention.without_bias(*a, 2, 2), *flat[:10])


def test_the_skew_is_right_on_and_below_the_diagonal_only_DIFFIT_05a() -> None:
    q, k, embedding = positions.LOGITS
    n, d = q.shape
    zero = 0 * k
    skew, right = positions.skewed(q, zero, embedding), true.relative_attention_logits(q, zero, embedding)
    lower = np.tri(n, dtype=bool)
    assert_within(np.where(lower, skew, right), true.relative_attention_logits, q, zero, embedding, reduction=d)
    assert [skew[i, i + 1] for i in range(n - 1)] == [0.0] * (n - 1), "just above: nothing"
    for i in range(n - 2):
        for j in range(i + 2, n):

            def next_row(q: Any, e: Any, i: int = i, j: int = j) -> Any:
                return np.sum(q[i + 1] * e[j - i - 2]) / np.sqrt(d)

            assert_within(skew[i, j], next_row, q, embedding, reduction=d)


def test_the_scale_shows_unless_the_width_is_one_DIFFIT_05b() -> None:
    narrow = [a[:, :1] for a in positions.LOGITS]
    assert_within(positions.unscaled(*narrow), true.relative_attention_logits, *narrow, reduction=1)
    assert beyond(positions.unscaled(*positions.LOGITS), true.relative_attention_logits, *positions.LOGITS, reduction=3)


@pytest.mark.parametrize("window, along, plane", [(4, 31, 49), (8, 127, 225)])
def test_offsets_along_the_raster_collide_DIFFIT_05c(window: int, along: int, plane: int) -> None:
    n = window * window
    offset = np.arange(n)[:, None] - np.arange(n)
    assert len(np.unique(offset)) == along
    index = true.relative_position_index(window)
    assert len(np.unique(index)) == plane
    last, first, second = window - 1, 0, window  # the end of row 0, its start, the start of row 1
    assert offset[last, first] == offset[window + last, window] != offset[second, last]
    assert offset[second, last] == 1 == offset[1, 0], "one step down and w − 1 back counts as one step right"
    assert index[second, last] != index[1, 0]


# -- blocks -----------------------------------------------------------------------------------------------------------


def zeroed(arguments: tuple[Any, ...], at: tuple[int, ...]) -> tuple[Any, ...]:
    return tuple(0 * a if i in at else a for i, a in enumerate(arguments))


def test_with_a_block_of_zeros_the_output_is_x_and_not_its_activation_DIFFIT_10() -> None:
    """Zero: the convolution, W_o, W_2 and b_2."""
    still = zeroed(blocks.RESBLOCK, (4, 5, 14, 20, 21))
    x = still[0]
    assert np.array_equal(diffit_resblock(*still), x)
    assert_within(blocks.activated_sum(*still), true.silu, x, reduction=1)
    assert beyond(x, true.silu, x, reduction=1)
    natives = [torch.from_numpy(np.array(a)) if isinstance(a, np.ndarray) else a for a in still]
    ours = FORMULAS["attention.diffit_resblock"].bind(fast.diffit_resblock)
    assert torch.equal(ours(*natives), natives[0])


def test_the_branch_of_a_resblock_does_not_see_a_constant_DIFFIT_10() -> None:
    """GroupNorm of one group removes it; after an activation of the sum it would be there."""
    moved = (blocks.RESBLOCK[0] + 8, *blocks.RESBLOCK[1:])

    def branch(x: Any, *rest: Any) -> Any:
        return diffit_resblock(x, *rest, 2, 2, 1, 1e-6) - x

    found = diffit_resblock(*moved) - moved[0]
    ratio = np.abs(found - branch(*blocks.RESBLOCK[:22]))
    units = [F64.u] * 22
    both = [bounds(branch, [x, *blocks.RESBLOCK[1:22]], units, F64, 100)[0].B for x in (blocks.RESBLOCK[0], moved[0])]
    assert (ratio <= LIMITS["eager"] * (both[0] + both[1])).all()
    shown = (blocks.activated_sum(*moved) - moved[0]) - (blocks.activated_sum(*blocks.RESBLOCK) - blocks.RESBLOCK[0])
    assert (np.abs(shown) > LIMITS["eager"] * (both[0] + both[1])).any()


@pytest.mark.parametrize("name", ["one norm", "residual from x", "post-norm"])
def test_the_wrong_order_of_norms_and_residuals_breaks_the_identity_or_the_scale_DIFFIT_11a_DIFFIT_11b_DIFFIT_11c(
    name: str,
) -> None:
    variant = blocks.block(name)
    whole = blocks.BLOCK
    assert beyond(variant(*whole), lambda *a: diffit_block(*a, 2, 2, 1e-6), *whole[:18], reduction=100)
    still = zeroed(whole, (10, 16, 17))  # W_o, W_2, b_2
    if name == "post-norm":
        assert not np.array_equal(variant(*still), still[0])
    no_mlp = zeroed(whole, (16, 17))
    attended = diffit_block(*no_mlp)
    if name == "residual from x":
        assert np.array_equal(variant(*no_mlp), no_mlp[0]), "what attention found is gone"
        assert not np.array_equal(attended, no_mlp[0])
    if name == "one norm":  # the input of the MLP keeps the scale of x̂: no norm removes it
        big = (1e3 * whole[0], *whole[1:])
        inner = [np.abs(f(*big) - diffit_block(*zeroed(big, (16, 17)))).max() for f in (diffit_block, variant)]
        assert inner[1] > 30 * inner[0]


def test_the_two_gelus_differ_by_half_a_thousandth_DIFFIT_11d() -> None:
    x = np.linspace(-8, 8, 160_001)
    gap = np.abs(blocks.exact_gelu(x) - true.gelu_tanh(x))
    assert f"{gap.max():.1e}" == "4.7e-04"
    exact = torch.nn.functional.gelu(torch.from_numpy(x)).numpy()
    allowed = 8 * F64.u * np.maximum(np.abs(x), 1)  # erf to 2 ulp of 1 + erf ≤ 2, times x/2, in two libraries
    assert (np.abs(blocks.exact_gelu(x) - exact) <= allowed).all()
