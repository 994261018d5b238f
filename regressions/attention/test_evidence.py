"""Evidence for ATLAS-13 and DIFFIT-01 … DIFFIT-16: what the reports claim of attention, re-expressed and measured."""

from __future__ import annotations

import builtins
import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trueness.optimized import attention as fast
from trueness.reference import attention as true
from trueness.regressions import attention as wrong
from trueness.tools.arithmetic.bounds import LIMITS, bounds
from trueness.tools.arithmetic.formats import precision

F64 = precision("float64")


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
    arguments = (wrong.QUERIES, wrong.KEYS, wrong.VALUES, wrong.PADDED)
    assert (wrong.inverted(*arguments) == 99).all()
    assert (np.abs(true.masked_attention(*arguments)) <= 3).all()


def test_a_row_without_keys_is_nan_without_a_guard_and_zero_with_it_ATLAS_13b() -> None:
    arguments = (wrong.QUERIES, wrong.KEYS, wrong.VALUES, wrong.BLANK)
    q, k, v, mask = (torch.from_numpy(a) for a in arguments)
    plain = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~mask, -torch.inf).softmax(-1) @ v
    assert plain[0, 1].isnan().all() and np.isnan(wrong.without_guard(*arguments)[0, 1]).all()
    for found in (true.masked_attention(*arguments), fast.masked_attention(q, k, v, mask).numpy()):
        assert (found[0, 1] == 0).all() and np.isfinite(found).all()


def test_a_row_without_keys_has_finite_gradients_ATLAS_13b() -> None:
    q, k, v, mask = (torch.from_numpy(a) for a in (wrong.QUERIES, wrong.KEYS, wrong.VALUES, wrong.BLANK))
    inputs = [a.clone().requires_grad_() for a in (q, k, v)]
    gradients = torch.autograd.grad(fast.masked_attention(*inputs, mask).sum(), inputs)
    assert all(g.isfinite().all() for g in gradients)
    assert (gradients[0][0, 1] == 0).all() and (gradients[2][0, 2] == 0).all()


@pytest.mark.parametrize("asked, blank", [(True, "nan"), (False, "0.0")])
def test_torch_multihead_answers_a_row_without_keys_as_it_is_asked_for_weights_ATLAS_13b(
    asked: bool, blank: str
) -> None:
    """One module, one input, two results: the argument should only say what else is returned."""
    module = torch.nn.MultiheadAttention(4, 1, bias=False, batch_first=True, dtype=torch.float64)
    q, k, mask = (torch.from_numpy(a) for a in (wrong.QUERIES, wrong.KEYS, wrong.BLANK))
    out, _ = module(q, k, k, attn_mask=~mask, need_weights=asked)
    assert {str(float(x)) for x in out.detach()[0, 1].abs()} == {blank}


def test_an_added_mask_hides_a_key_by_a_factor_e_only_ATLAS_13c() -> None:
    one, values = np.ones((1, 1, 1)), np.array([[[1.0], [0.0]]])
    share = wrong.added(one, np.ones((1, 2, 1)), values, np.array([[[True, False]]]))
    odds = float((share / (1 - share))[0, 0, 0])
    assert f"{odds:.12f}" == f"{np.e:.12f}"
    assert true.masked_attention(one, np.ones((1, 2, 1)), values, np.array([[[True, False]]])) == 1


def test_choosing_a_mask_with_or_raises_ATLAS_13d() -> None:
    context = {"context_mask": torch.ones(2, 3, dtype=torch.bool), "mask": None}
    with pytest.raises(RuntimeError, match="Boolean value of Tensor with more than one value is ambiguous"):
        context.get("context_mask") or context.get("mask")
    found = context["context_mask"] if context["context_mask"] is not None else context["mask"]
    assert found is context["context_mask"]


# -- modules ----------------------------------------------------------------------------------------------------------


def models() -> dict[str, tuple[torch.nn.Module, tuple[torch.Tensor, ...]]]:
    """Every module of the family, with input."""
    torch.manual_seed(0)
    tokens, images, time = torch.randn(2, 4, 4, 8), torch.randn(2, 8, 4, 4), torch.randn(2, 6)
    pictures, steps, labels = torch.randn(2, 1, 8, 8), torch.tensor([3, 700]), torch.tensor([0, 9])
    return {
        "TMSA": (fast.TMSA(8, 2, 2, 6), (tokens, time)),
        "DiffiTBlock": (fast.DiffiTBlock(8, 2, 2, 6), (tokens, time)),
        "DiffiTResBlock": (fast.DiffiTResBlock(8, 2, 2, 6, groups=4), (images, time)),
        "DiffiT": (fast.DiffiT(8, 1, 16, (1, 2), heads=2, classes=10, groups=4), (pictures, steps, labels)),
        "LatentDiffiT": (fast.LatentDiffiT(8, 1, 16, heads=2, classes=10), (pictures, steps, labels)),
    }


MODULES = tuple(models())


@pytest.mark.parametrize("name", MODULES)
def test_a_forward_and_a_backward_pass_write_no_file_and_print_nothing_DIFFIT_01(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    opened: list[Any] = []
    plain = builtins.open
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(builtins, "open", lambda file, *a, **k: (opened.append(file), plain(file, *a, **k))[1])
    model, arguments = models()[name]
    model(*arguments).square().sum().backward()
    assert not opened and not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")
    Path("seen.txt").write_text("so that the check can fail")
    with open("seen.txt"):
        assert opened == ["seen.txt"] and list(tmp_path.iterdir())


def test_time_in_the_queries_alone_misses_a_constant_DIFFIT_02a() -> None:
    """and only that: what is missing is x_t W_vt W_o on every token."""
    x, t, *_, w_kt, w_vt, w_o, _, _, _ = wrong.TMSA
    missing = np.broadcast_to((t @ w_vt @ w_o)[:, None, None], x.shape)
    whole = wrong.only_queries(*wrong.TMSA) + missing
    assert_within(whole, lambda *a: true.tmsa(*a, 2, 2), *wrong.TMSA[:10])
    assert w_kt.any()


def test_with_one_head_the_root_of_all_channels_is_right_DIFFIT_02b() -> None:
    one_head = (*wrong.TMSA[:9], wrong.TMSA[9][:, :1], 2, 1)
    scaled = wrong.variant(channels=True)
    assert_within(scaled(*one_head), lambda *a: true.tmsa(*a, 2, 1), *one_head[:10])
    assert beyond(scaled(*wrong.TMSA), lambda *a: true.tmsa(*a, 2, 2), *wrong.TMSA[:10])


def test_a_bias_after_the_softmax_makes_rows_that_do_not_sum_to_one_DIFFIT_02c() -> None:
    x, t, *rest = wrong.TMSA
    same = (np.ones_like(x), t, *rest)  # all values equal: every mean of them is that value
    right, late = true.tmsa(*same), wrong.variant(after=True)(*same)
    without = (*same[:9], 0 * same[9], 2, 2)
    assert_within(right, lambda *a: true.tmsa(*a, 2, 2), *without[:10])
    assert beyond(late, lambda *a: true.tmsa(*a, 2, 2), *without[:10])


@pytest.mark.parametrize("repeat", [wrong.of_another, wrong.tiled], ids=["another image", "tiled"])
def test_the_time_of_another_image_shows_only_where_times_differ_DIFFIT_02d_DIFFIT_03b(repeat: Any) -> None:
    confused = wrong.variant(repeat=repeat)
    x, t, *rest = wrong.TMSA
    alike = (x, np.repeat(t[:1], 2, 0), *rest)
    assert np.array_equal(confused(*alike), wrong.variant()(*alike)), "two images at the same time"
    alone = (x[:1], t[:1], *rest)
    assert np.array_equal(confused(*alone), wrong.variant()(*alone)), "one image"
    assert beyond(confused(*wrong.TMSA), lambda *a: true.tmsa(*a, 2, 2), *wrong.TMSA[:10])


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
    x, t, *weights = wrong.drawn((2, 8, 8, 4), (2, 3), *[(4, 4)] * 3, *[(3, 4)] * 3, (4, 4), (225, 2))
    whole = (x, t, *weights, 8, 2)
    for variant in (wrong.variant(put_back=wrong.read_as_grid), wrong.variant(repeat=wrong.tiled)):
        assert np.array_equal(variant(*whole), wrong.variant()(*whole))
        assert beyond(variant(*wrong.TMSA), lambda *a: true.tmsa(*a, 2, 2), *wrong.TMSA[:10])


def test_reshaping_windows_moves_tokens_DIFFIT_03c() -> None:
    grid = np.arange(16.0).reshape(1, 4, 4, 1)
    windows = true.window_partition(grid, 2)
    assert np.array_equal(true.window_unpartition(windows, 2, 4, 4), grid)
    assert wrong.read_as_grid(windows, 2, 4, 4)[0, 0, :, 0].tolist() == [0, 1, 4, 5]
    one = true.window_partition(grid, 4)
    assert np.array_equal(wrong.read_as_grid(one, 4, 4, 4), grid), "one window does not show it"


# -- relative positions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window, used", [(2, 7), (3, 17), (4, 31)])
def test_rows_of_length_w_let_displacements_collide_DIFFIT_04a(window: int, used: int) -> None:
    assert len(np.unique(true.relative_position_index(window))) == (2 * window - 1) ** 2
    assert len(np.unique(wrong.rows_of_w(window))) == used < (2 * window - 1) ** 2


@pytest.mark.parametrize("window", [2, 3, 5])
def test_exchanging_the_axes_is_a_relabelling_of_the_table_DIFFIT_04b(window: int) -> None:
    side = 2 * window - 1
    relabelled = np.arange(side * side).reshape(side, side).T.reshape(-1)
    assert np.array_equal(relabelled[true.relative_position_index(window)], wrong.swapped(window))
    assert not np.array_equal(true.relative_position_index(window), wrong.swapped(window))


def test_a_bias_that_is_the_same_for_all_keys_has_no_effect_and_no_gradient_DIFFIT_04c() -> None:
    x, t, *rest = wrong.TMSA
    space, time, w_o, table, window, heads = rest[:3], rest[3:6], rest[6], rest[7], *rest[8:]
    windows = wrong.attended(x, t, space, time, w_o, wrong.of_the_query(table, window), window, heads)

    def none(*a: Any) -> Any:
        return wrong.attended(a[0], a[1], a[2:5], a[5:8], a[8], 0.0, window, heads)

    assert wrong.of_the_query(table, window).any()
    assert_within(windows, none, *wrong.TMSA[:9])
    logits = torch.randn(5, 5, dtype=torch.float64)
    row = torch.randn(5, 1, dtype=torch.float64, requires_grad=True)
    values = torch.randn(5, 3, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(((logits + row).softmax(-1) @ values).sum(), row)
    largest = float(values.abs().sum())  # each term of the sum that cancels is at most this, and there are five
    assert gradient.abs().max() <= 4 * 5 * F64.u * largest


def test_the_global_mode_is_attention_without_bias_DIFFIT_04d() -> None:
    assert beyond(wrong.without_bias(*wrong.TMSA), lambda *a: true.tmsa(*a, 2, 2), *wrong.TMSA[:10])
    flat = (*wrong.TMSA[:9], np.ones_like(wrong.TMSA[9]), 2, 2)
    assert_within(true.tmsa(*flat), lambda *a: wrong.without_bias(*a, 2, 2), *flat[:10])


def test_the_skew_is_right_on_and_below_the_diagonal_only_DIFFIT_05a() -> None:
    q, k, embedding = wrong.LOGITS
    n, d = q.shape
    zero = 0 * k
    skew, right = wrong.skewed(q, zero, embedding), true.relative_attention_logits(q, zero, embedding)
    lower = np.tri(n, dtype=bool)
    assert_within(np.where(lower, skew, right), true.relative_attention_logits, q, zero, embedding, reduction=d)
    assert [skew[i, i + 1] for i in range(n - 1)] == [0.0] * (n - 1), "just above: nothing"
    for i in range(n - 2):
        for j in range(i + 2, n):

            def next_row(q: Any, e: Any, i: int = i, j: int = j) -> Any:
                return np.sum(q[i + 1] * e[j - i - 2]) / np.sqrt(d)

            assert_within(skew[i, j], next_row, q, embedding, reduction=d)


def test_the_scale_shows_unless_the_width_is_one_DIFFIT_05b() -> None:
    narrow = [a[:, :1] for a in wrong.LOGITS]
    assert_within(wrong.unscaled(*narrow), true.relative_attention_logits, *narrow, reduction=1)
    assert beyond(wrong.unscaled(*wrong.LOGITS), true.relative_attention_logits, *wrong.LOGITS, reduction=3)


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


# -- names and presets ------------------------------------------------------------------------------------------------


def test_every_weight_has_the_name_of_its_symbol_DIFFIT_06() -> None:
    symbols = [p for p in inspect.signature(true.tmsa).parameters if p.startswith("w_") or p == "bias_table"]
    assert sorted(n for n, _ in models()["TMSA"][0].named_parameters()) == sorted(symbols)
    for name, equation in (("TMSA", "self-attention"), ("DiffiTBlock", "MLP(LN(x̂)) + x̂"), ("DiffiTResBlock", "+ x")):
        assert equation in (getattr(fast, name).__doc__ or "")


REPORTED = {
    "cifar10": {
        "width": 128,
        "multipliers": (1, 2, 2),
        "num_patches": 4,
        "window": 4,
        "batch": 512,
        "iterations": 390625,
    },
    "ffhq64": {
        "width": 128,
        "multipliers": (1, 2, 2, 2),
        "num_patches": 2,
        "window": 8,
        "batch": 256,
        "iterations": 781250,
    },
    "imagenet256": {
        "width": 1152,
        "multipliers": (),
        "num_patches": 2,
        "window": None,
        "batch": 256,
        "iterations": 3906250,
    },
}


@pytest.mark.parametrize("name, tokens", [("cifar10", 16), ("ffhq64", 4), ("imagenet256", 4)])
def test_a_grid_side_of_patches_leaves_no_window_DIFFIT_07(name: str, tokens: int) -> None:
    reported = REPORTED[name]
    side, window = reported["num_patches"], reported["window"]
    assert side**2 == tokens, "num_patches is the side of the grid, not the side of a patch"
    assert window is None or window >= side, "one window at most, or a window that is larger than the grid"
    ours = fast.PRESETS[name]
    cut = [(s // (ours.window or s)) ** 2 for s in ours.sides]
    assert ours.window is None or max(cut) > 1, "in ours there is something to cut"


@pytest.mark.parametrize("name", ["cifar10", "ffhq64", "imagenet256"])
def test_thousands_of_images_are_not_iterations_DIFFIT_07(name: str) -> None:
    preset = fast.PRESETS[name]
    claimed = 200_000 if preset.kimg == 200_000 else 1_000_000
    assert preset.batch == REPORTED[name]["batch"]
    assert preset.iterations == REPORTED[name]["iterations"]
    assert f"{preset.iterations / claimed:.2f}" == {512: "1.95", 256: "3.91"}[preset.batch]


def parameters(depth: int) -> int:
    preset = replace(fast.PRESETS["imagenet256"], blocks=depth)
    with torch.device("meta"):
        model = fast.LatentDiffiT(
            preset.resolution,
            preset.channels,
            preset.width,
            blocks=preset.blocks,
            heads=preset.heads,
            window=preset.window,
            patch=preset.patch,
            classes=preset.classes,
            learn_sigma=preset.learn_sigma,
        )
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("depth, millions", [(28, "561.04"), (30, "600.91")])
def test_the_published_size_belongs_to_depth_28_and_not_to_30_DIFFIT_07_DIFFIT_08(depth: int, millions: str) -> None:
    assert f"{parameters(depth) / 1e6:.2f}" == millions
    assert (round(parameters(depth) / 1e6) == 561) == (depth == 28 == fast.PRESETS["imagenet256"].blocks)


@pytest.mark.parametrize("name", fast.PRESETS)
def test_the_presets_keep_their_own_rules_DIFFIT_08(name: str) -> None:
    p = fast.PRESETS[name]
    rules = (p.resolution, p.width, p.multipliers, p.heads, p.window, p.patch)
    assert fast.inconsistencies(*rules) == []
    for i, other in ((0, p.resolution + 1), (3, 7), (4, 5)):
        broken = [*rules]
        broken[i] = other
        assert fast.inconsistencies(*broken), f"{rules} with {other} at {i} cannot be built"


@pytest.mark.parametrize("name, blocks", [("cifar10", 2 * 5), ("ffhq64", 4 * 7)])
def test_the_presets_of_images_can_be_built_DIFFIT_08(name: str, blocks: int) -> None:
    """Down and up at every stage but the last: 2 · 3 − 1 and 2 · 4 − 1 groups of ResBlocks."""
    p = fast.PRESETS[name]
    with torch.device("meta"):
        model = fast.DiffiT(
            p.resolution, p.channels, p.width, p.multipliers, blocks=p.blocks, heads=p.heads, window=p.window
        )
        x = torch.empty(2, p.channels, p.resolution, p.resolution)
        assert model(x, torch.empty(2)).shape == x.shape
    assert sum(isinstance(m, fast.DiffiTResBlock) for m in model.modules()) == blocks


def test_a_configuration_that_breaks_a_rule_is_refused_with_its_sentence_DIFFIT_08() -> None:
    with pytest.raises(ValueError, match="window was 5 on a stage of 32 × 32"):
        fast.DiffiT(32, 3, 64, window=5)
    with pytest.raises(ValueError, match="heads was 7 for a stage of 64 channels"):
        fast.DiffiT(32, 3, 64, heads=7)
    with pytest.raises(ValueError, match="cannot be halved 3 times"):
        fast.DiffiT(20, 3, 64, (1, 1, 1, 1), window=None)
    with pytest.raises(ValueError, match="patch was 3"):
        fast.LatentDiffiT(32, patch=3)


# -- blocks -----------------------------------------------------------------------------------------------------------


def zeroed(arguments: tuple[Any, ...], at: tuple[int, ...]) -> tuple[Any, ...]:
    return tuple(0 * a if i in at else a for i, a in enumerate(arguments))


def test_with_a_block_of_zeros_the_output_is_x_and_not_its_activation_DIFFIT_10() -> None:
    """Zero: the convolution, W_o, W_2 and b_2."""
    still = zeroed(wrong.RESBLOCK, (4, 5, 14, 20, 21))
    x = still[0]
    assert np.array_equal(true.diffit_resblock(*still), x)
    assert_within(wrong.activated_sum(*still), true.silu, x, reduction=1)
    assert beyond(x, true.silu, x, reduction=1)
    natives = [torch.from_numpy(np.array(a)) if isinstance(a, np.ndarray) else a for a in still]
    assert torch.equal(fast.diffit_resblock(*natives), natives[0])


def test_the_branch_of_a_resblock_does_not_see_a_constant_DIFFIT_10() -> None:
    """GroupNorm of one group removes it; after an activation of the sum it would be there."""
    moved = (wrong.RESBLOCK[0] + 8, *wrong.RESBLOCK[1:])

    def branch(x: Any, *rest: Any) -> Any:
        return true.diffit_resblock(x, *rest, 2, 2, 1, 1e-6) - x

    found = true.diffit_resblock(*moved) - moved[0]
    ratio = np.abs(found - branch(*wrong.RESBLOCK[:22]))
    units = [F64.u] * 22
    both = [bounds(branch, [x, *wrong.RESBLOCK[1:22]], units, F64, 100)[0].B for x in (wrong.RESBLOCK[0], moved[0])]
    assert (ratio <= LIMITS["eager"] * (both[0] + both[1])).all()
    shown = (wrong.activated_sum(*moved) - moved[0]) - (wrong.activated_sum(*wrong.RESBLOCK) - wrong.RESBLOCK[0])
    assert (np.abs(shown) > LIMITS["eager"] * (both[0] + both[1])).any()


@pytest.mark.parametrize("name", ["one norm", "residual from x", "post-norm"])
def test_the_wrong_order_of_norms_and_residuals_breaks_the_identity_or_the_scale_DIFFIT_11a_DIFFIT_11b_DIFFIT_11c(
    name: str,
) -> None:
    variant = wrong.block(name)
    whole = wrong.BLOCK
    assert beyond(variant(*whole), lambda *a: true.diffit_block(*a, 2, 2, 1e-6), *whole[:18], reduction=100)
    still = zeroed(whole, (10, 16, 17))  # W_o, W_2, b_2
    if name == "post-norm":
        assert not np.array_equal(variant(*still), still[0])
    no_mlp = zeroed(whole, (16, 17))
    attended = true.diffit_block(*no_mlp)
    if name == "residual from x":
        assert np.array_equal(variant(*no_mlp), no_mlp[0]), "what attention found is gone"
        assert not np.array_equal(attended, no_mlp[0])
    if name == "one norm":  # the input of the MLP keeps the scale of x̂: no norm removes it
        big = (1e3 * whole[0], *whole[1:])
        inner = [
            np.abs(f(*big) - true.diffit_block(*zeroed(big, (16, 17)))).max() for f in (true.diffit_block, variant)
        ]
        assert inner[1] > 30 * inner[0]


def test_the_two_gelus_differ_by_half_a_thousandth_DIFFIT_11d() -> None:
    x = np.linspace(-8, 8, 160_001)
    gap = np.abs(wrong.exact_gelu(x) - true.gelu_tanh(x))
    assert f"{gap.max():.1e}" == "4.7e-04"
    exact = torch.nn.functional.gelu(torch.from_numpy(x)).numpy()
    allowed = 8 * F64.u * np.maximum(np.abs(x), 1)  # erf to 2 ulp of 1 + erf ≤ 2, times x/2, in two libraries
    assert (np.abs(wrong.exact_gelu(x) - exact) <= allowed).all()


# -- the checklist ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODULES)
def test_what_a_checklist_asks_for_is_run_DIFFIT_13(name: str, tmp_path: Path) -> None:
    """Shape, finite gradients that reach every weight, the same from a saved state, the bits of a second call."""
    model, arguments = models()[name]
    for p in model.parameters():  # the head starts at zero, and nothing would reach what lies before it
        torch.nn.init.normal_(p, std=0.2, generator=torch.Generator().manual_seed(p.numel()))
    out = model(*arguments)
    assert out.shape == arguments[0].shape and out.isfinite().all()
    assert torch.equal(out, model(*arguments))
    out.square().sum().backward()
    for where, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), where
        assert "w_kt" in where or p.grad.any(), f"nothing reaches {where}"
    torch.save(model.state_dict(), tmp_path / "model.pt")
    other, _ = models()[name]
    other.load_state_dict(torch.load(tmp_path / "model.pt"))
    assert torch.equal(other(*arguments), out)


@pytest.mark.parametrize("name", ["DiffiT", "LatentDiffiT"])
def test_labels_matter_and_a_dropped_label_is_no_label_DIFFIT_13(name: str) -> None:
    model, (x, t, labels) = models()[name]
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2, generator=torch.Generator().manual_seed(p.numel()))
    with_labels, without = model(x, t, labels), model(x, t)
    assert not torch.equal(with_labels, without)
    mixed = model(x, t, labels, torch.tensor([True, False]))
    assert torch.equal(mixed[0], without[0]) and torch.equal(mixed[1], with_labels[1])
    assert not torch.equal(model(x, t + 100), without), "and so does time"


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_models_run_in_half_precision_DIFFIT_13(name: str, dtype: torch.dtype) -> None:
    model, arguments = models()[name]
    halves = [a.to(dtype) if a.is_floating_point() else a for a in arguments]
    out = model.to(dtype)(*halves)
    assert out.dtype == dtype and out.isfinite().all()


@pytest.mark.parametrize("name", ["DiffiT", "LatentDiffiT"])
def test_a_few_steps_of_training_lower_the_loss_DIFFIT_13(name: str) -> None:
    model, (x, t, labels) = models()[name]
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(12):
        loss = (model(x, t, labels) - noise).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] and all(np.isfinite(losses))


def test_the_denoiser_of_latents_that_was_missing_DIFFIT_16() -> None:
    """8 × 8 × 4 latents in patches of 2: 16 tokens; and the variance beside the mean where it is asked for."""
    for sigma, channels in ((False, 4), (True, 8)):
        model = fast.LatentDiffiT(8, 4, 16, heads=2, patch=2, learn_sigma=sigma)
        assert model(torch.randn(2, 4, 8, 8), torch.tensor([0, 999])).shape == (2, channels, 8, 8)
        assert model.positions.shape == (4, 4, 16)


def test_a_patch_goes_back_to_where_it_came_from_DIFFIT_16() -> None:
    """With one block of zeros and an identity for both ends, tokens are the pixels of their patch."""
    model = fast.LatentDiffiT(4, 1, 4, blocks=1, heads=1, patch=2)
    seen: list[torch.Tensor] = []
    model.out.register_forward_hook(lambda _, given, out: seen.append(out))
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    patches = x.reshape(1, 1, 2, 2, 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(1, 2, 2, 4)
    model.out.register_forward_hook(lambda *_: patches)
    assert torch.equal(model(x, torch.zeros(1)), x)
    assert seen[0].shape == patches.shape


@pytest.mark.parametrize("side, window", [(16, 4), (32, 4), (8, 8)])
def test_windows_shrink_attention_by_the_share_of_their_area_DIFFIT_16(side: int, window: int) -> None:
    channels = 16
    dense, cut = (fast.multiply_adds(side, side, channels, w) for w in (side, window))
    projections = 4 * side**2 * channels**2
    assert (cut - projections) * side**2 == (dense - projections) * window**2
