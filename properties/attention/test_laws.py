"""Laws of the family attention, on the reference and on every implementation, golden values, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from trueness.optimized import attention as fast
from trueness.properties.attention import peers
from trueness.reference import attention as true
from trueness.tools.arithmetic import complex_step
from trueness.tools.arithmetic.bounds import LIMITS, bounds
from trueness.tools.arithmetic.formats import precision, round_to
from trueness.tools.checks.core import settings_for
from trueness.tools.spec.model import DTYPES

F64 = precision("float64")
seeds = st.integers(0, 2**16)
sides, few = st.integers(1, 3), st.integers(1, 2)


def given(**strategies: Any) -> Callable[[Any], Any]:
    """As everywhere in the project: derandomized, without a clock."""
    return lambda law: settings_for(10)(hypothesis.given(**strategies)(law))


def on_arrays(function: Callable[..., Any]) -> Callable[..., Any]:
    """A torch function on NumPy arrays."""

    def call(*arguments: Any) -> Any:
        natives = [torch.from_numpy(np.array(a)) if isinstance(a, np.ndarray) else a for a in arguments]
        return function(*natives).numpy()

    return call


PEERS: Mapping[str, Mapping[str, Callable[..., Any]]] = {
    "masked_attention": {"torch SDPA": peers.sdpa},
    "tmsa": {"dense": peers.dense},
    "window_partition": {"transformers": peers.swin_partition},
    "relative_position_index": {"transformers": lambda w: peers.swin_index(w)},
    "relative_position_bias": {"transformers": peers.swin_bias},
}


def every(name: str, *without: str) -> Any:
    """Parametrize a law over the reference, ours, and who else has the formula."""
    pairs = {"reference": getattr(true, name), "ours": on_arrays(getattr(fast, name))}
    pairs.update({k: on_arrays(f) for k, f in PEERS.get(name, {}).items() if k not in without})
    return pytest.mark.parametrize("function", pairs.values(), ids=pairs)


def B_of(function: Callable[..., Any], *arguments: Any) -> np.ndarray:
    """The float64 bound of the first output; sums of up to 64 terms."""
    units = [F64.u if np.asarray(a).dtype.kind == "f" else 0.0 for a in arguments]
    return bounds(function, arguments, units, F64, 64)[0].B


def assert_same(a: np.ndarray, b: np.ndarray, function: Callable[..., Any], *inputs: tuple[Any, ...]) -> None:
    """``a`` and ``b`` differ by no more than the roundings of ``function`` at all ``inputs`` together."""
    allowed = LIMITS["eager"] * sum(B_of(function, *arguments) for arguments in inputs)
    assert (np.abs(a - b) <= allowed).all()


def tmsa_arguments(
    seed: int, window: int, rows: int = 1, columns: int = 1, heads: int = 2, batch: int = 2
) -> tuple[Any, ...]:
    generator = np.random.default_rng(seed)
    C, E = 3 * heads, 4
    shapes = [(batch, rows * window, columns * window, C), (batch, E), *[(C, C)] * 3, *[(E, C)] * 3, (C, C)]
    return (*(0.7 * generator.standard_normal(s) for s in [*shapes, ((2 * window - 1) ** 2, heads)]), window, heads)


def changed(arguments: tuple[Any, ...], **by_name: Any) -> tuple[Any, ...]:
    names = ["x", "t", "w_qs", "w_ks", "w_vs", "w_qt", "w_kt", "w_vt", "w_o", "bias_table", "window", "heads"]
    return tuple(by_name.get(n, a) for n, a in zip(names, arguments, strict=True))


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
    bound = bounds(true.relative_position_bias_vjp, [g, table, window], units, fmt, window**2)[0]
    assert bound.ratio(found.double().numpy()).max() <= LIMITS["fused"]


@every("tmsa")
@given(seed=seeds, window=st.integers(1, 2))
def test_a_bias_that_is_constant_over_keys_has_no_effect(function: Any, seed: int, window: int) -> None:
    a = tmsa_arguments(seed, window, columns=2)
    constant = changed(a, bias_table=np.broadcast_to(a[9][:1], a[9].shape).copy())
    without = changed(a, bias_table=0 * a[9])
    assert_same(function(*constant), function(*without), true.tmsa, constant, without)


# -- time -------------------------------------------------------------------------------------------------------------


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


# -- normalisation and activation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [true.layer_norm, on_arrays(fast.layer_norm)], ids=["reference", "ours"])
@given(seed=seeds, shift=st.sampled_from([-8.0, 1.0, 64.0]))
def test_layer_norm_does_not_see_a_constant_and_sums_to_its_bias(function: Any, seed: int, shift: float) -> None:
    generator = np.random.default_rng(seed)
    x, bias = generator.standard_normal((3, 6)), generator.standard_normal(6)
    plain, moved = (x, np.ones(6), bias, 1e-6), (x + shift, np.ones(6), bias, 1e-6)
    assert_same(function(*moved), function(*plain), true.layer_norm, plain, moved)
    off = np.abs((function(*plain) - bias).sum(-1))
    assert (off <= LIMITS["eager"] * B_of(true.layer_norm, *plain).sum(-1) + 6 * F64.u * np.abs(bias).sum()).all()


@pytest.mark.parametrize("function", [true.group_norm, on_arrays(fast.group_norm)], ids=["reference", "ours"])
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
    for function in (getattr(true, name), on_arrays(getattr(fast, name))):
        assert_same(function(x) - function(-x), x, getattr(true, name), (x,), (-x,))


# -- DiffiT -----------------------------------------------------------------------------------------------------------


def block_arguments(seed: int, image: bool = False) -> tuple[Any, ...]:
    """Of diffit_block, or with ``image`` of diffit_resblock."""
    x, t, *projections = tmsa_arguments(seed, 2, columns=2)
    window, heads = projections.pop(-2), projections.pop(-1)
    generator = np.random.default_rng([seed, 1])
    C = x.shape[-1]
    norms = [generator.standard_normal(C) for _ in range(4)]
    mlp = [generator.standard_normal(s) for s in [(C, 5), (5,), (5, C), (C,)]]
    inner = (*norms[:2], *projections, *norms[2:], *mlp)
    if not image:
        return (x, t, *inner, window, heads, 1e-6)
    front = [generator.standard_normal(s) for s in [(C,), (C,), (C, C, 3, 3), (C,)]]
    return (np.moveaxis(x, -1, 1).copy(), t, *front, *inner, window, heads, 2, 1e-6)


@every("diffit_block")
@given(seed=seeds)
def test_a_block_whose_sublayers_end_in_zeros_is_the_identity(function: Any, seed: int) -> None:
    a = list(block_arguments(seed))
    for at in (10, 16, 17):  # W_o, W_2, b_2
        a[at] = 0 * a[at]
    assert np.array_equal(function(*a), a[0])


@every("diffit_block")
@given(seed=seeds)
def test_a_block_is_its_two_sublayers(function: Any, seed: int) -> None:
    """With the MLP at zero what is left is TMSA of the normalised tokens; and with W_o at zero the MLP of these."""
    a = list(block_arguments(seed))
    no_mlp, no_attention = list(a), list(a)
    no_mlp[16], no_mlp[17] = 0 * a[16], 0 * a[17]
    want = true.tmsa(true.layer_norm(a[0], a[2], a[3], 1e-6), a[1], *a[4:12], 2, 2) + a[0]
    assert_same(function(*no_mlp), want, true.diffit_block, tuple(no_mlp), tuple(no_mlp))
    no_attention[10] = 0 * a[10]
    hidden = torch.from_numpy(true.layer_norm(a[0], a[12], a[13], 1e-6) @ a[14] + a[15])
    want = torch.nn.functional.gelu(hidden, approximate="tanh").numpy() @ a[16] + a[17] + a[0]
    assert_same(function(*no_attention), want, true.diffit_block, tuple(no_attention), tuple(no_attention))


@pytest.mark.parametrize("image", [False, True], ids=["block", "resblock"])
def test_the_backward_of_a_block_is_the_complex_step_of_the_reference(image: bool) -> None:
    """⟨g, J v⟩ by complex step against ⟨Jᵀ g, v⟩ by torch, for every argument in turn."""
    a = block_arguments(0, image)
    true_f, fast_f = (true.diffit_resblock, fast.diffit_resblock) if image else (true.diffit_block, fast.diffit_block)
    real = [i for i, x in enumerate(a) if isinstance(x, np.ndarray)]
    natives = [torch.from_numpy(np.array(x)).requires_grad_() if i in real else x for i, x in enumerate(a)]
    generator = np.random.default_rng(1)
    g = generator.standard_normal(a[0].shape)
    gradients = torch.autograd.grad(fast_f(*natives), [natives[i] for i in real], torch.from_numpy(g))
    directions = {i: generator.standard_normal(a[i].shape) for i in real}
    pulled = {i: gradient.numpy() * directions[i] for i, gradient in zip(real, gradients, strict=True)}
    # as many roundings as there are sums and operations, on numbers of the size of all gradients together: that of
    # W_kt alone is 0, what is left of larger ones that cancel
    allowed = F64.u * g.size * sum(np.abs(p).sum() for p in pulled.values())
    for i in real:
        (jv,) = complex_step.directional_derivative(
            true_f, a, [directions[j] if j == i else None for j in range(len(a))]
        )
        assert abs(np.sum(g * jv) - pulled[i].sum()) <= allowed, f"argument {i}"
        assert allowed < 1e-6 * np.abs(pulled[i]).sum() or not jv.any(), f"argument {i}: the bound has no power"


@pytest.mark.parametrize("name", ["TMSA", "DiffiTBlock", "DiffiTResBlock"])
def test_a_module_is_the_reference_of_its_weights(name: str) -> None:
    """With the bias of q, k and v as the row of a constant time entry."""
    torch.manual_seed(0)
    module = getattr(fast, name)(6, 2, 2, 4, **({"groups": 2} if name == "DiffiTResBlock" else {})).double()
    with torch.no_grad():
        for p in module.parameters():
            p.normal_(std=0.5)
    x, t = block_arguments(0, name == "DiffiTResBlock")[:2]
    token = np.concatenate([t, np.ones((2, 1))], 1)
    tmsa = {"TMSA": module, "DiffiTBlock": getattr(module, "tmsa", None)}.get(name) or module.block.tmsa
    own = (
        [] if name != "DiffiTResBlock" else [module.norm.weight, module.norm.bias, module.conv.weight, module.conv.bias]
    )
    rest = module.block.weights() if name == "DiffiTResBlock" else module.weights()
    weights = [w.detach().numpy() for w in [*own, *rest]]
    numbers = {"TMSA": (2, 2), "DiffiTBlock": (2, 2, 1e-6), "DiffiTResBlock": (2, 2, 2, 1e-6)}[name]
    reference = {"TMSA": true.tmsa, "DiffiTBlock": true.diffit_block, "DiffiTResBlock": true.diffit_resblock}[name]
    a = (x, token, *weights, *numbers)
    found = module(torch.from_numpy(x), torch.from_numpy(t)).detach().numpy()
    assert_same(found, reference(*a), reference, a, a)
    assert tmsa.bias and tmsa.w_qt.shape == (5, 6)


@pytest.mark.parametrize("side, window", [(4, 2), (4, 4), (8, 2), (8, 4), (8, 8)])
def test_the_counted_operations_are_the_formulas_and_fall_with_the_window(side: int, window: int) -> None:
    """torch counts two operations for each product and sum: 2 (4 N C² + 2 N w² C), and 3 E C for time."""
    x, t, *weights = tmsa_arguments(0, window, side // window, side // window, batch=1)
    natives = [torch.from_numpy(w) for w in weights[:8]]
    with FlopCounterMode(display=False) as counter:
        fast.tmsa(torch.from_numpy(x), torch.from_numpy(t), *natives, window, 2)
    C, E = x.shape[-1], t.shape[-1]
    assert counter.get_total_flops() == 2 * (fast.multiply_adds(side, side, C, window) + 3 * E * C)


# -- what is refused --------------------------------------------------------------------------------------------------


TOKENS, TIME = torch.zeros(2, 4, 4, 6), torch.zeros(2, 3)
WEIGHTS = (*[torch.zeros(6, 6)] * 3, *[torch.zeros(3, 6)] * 3, torch.zeros(6, 6), torch.zeros(9, 2))
Q, K, MASK = torch.zeros(2, 3, 4), torch.zeros(2, 5, 4), torch.ones(2, 3, 5, dtype=torch.bool)


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: fast.tmsa(TOKENS, TIME, *WEIGHTS, 3, 2), "window was 3 on a grid of 4 × 4"),
        (lambda: fast.tmsa(TOKENS, TIME, *WEIGHTS, 2, 4), "heads was 4 for 6 channels"),
        (lambda: fast.tmsa(TOKENS, TIME, *WEIGHTS, 4, 2), r"bias_table had shape \(9, 2\); it must be \(49, 2\)"),
        (lambda: fast.tmsa(TOKENS, TIME[:1], *WEIGHTS, 2, 2), r"t had shape \(1, 3\); it must be \(2, 3\)"),
        (lambda: fast.tmsa(TOKENS, TIME.half(), *WEIGHTS, 2, 2), "t was torch.float16"),
        (lambda: fast.tmsa(TOKENS.int(), TIME, *WEIGHTS, 2, 2), "x had dtype torch.int32"),
        (lambda: fast.tmsa(TOKENS, TIME, *WEIGHTS, True, 2), "window was True"),
        (lambda: fast.masked_attention(Q, K, K, MASK.float()), "mask was torch.float32"),
        (lambda: fast.masked_attention(Q, K, K, None), "mask was NoneType"),
        (lambda: fast.masked_attention(Q, K, K, MASK[..., :4]), r"mask had shape \(2, 3, 4\)"),
        (lambda: fast.masked_attention(Q, K[..., :3], K, MASK), "q and k must share their width"),
        (lambda: fast.masked_attention(Q, K, K.double(), MASK), "v was .* torch.float64"),
        (lambda: fast.window_partition(TOKENS[0], 2), r"x was \(4, 4, 6\)"),
        (lambda: fast.window_unpartition(torch.zeros(3, 4, 6), 2, 4, 4), "windows had 3 rows"),
        (lambda: fast.window_unpartition(torch.zeros(4, 3, 6), 2, 4, 4), r"windows was \(4, 3, 6\)"),
        (lambda: fast.relative_position_index(0), "window was 0"),
        (lambda: fast.relative_position_bias(torch.zeros(4, 2), 2), r"table had shape \(4, 2\)"),
        (lambda: fast.relative_attention_logits(Q, Q, Q), r"embedding had shape .* it must be \(5, 4\)"),
        (lambda: fast.layer_norm(Q, Q, Q[0, 0], 1e-6), "weight had shape"),
        (lambda: fast.layer_norm(Q, Q[0, 0], Q[0, 0], 0), "eps was 0"),
        (lambda: fast.group_norm(torch.zeros(1, 6, 2, 2), torch.ones(6), torch.ones(6), 4, 1e-6), "groups was 4"),
        (lambda: fast.silu([1.0]), "x was list"),
        (lambda: fast.DiffiT(8)(torch.zeros(2, 3, 4, 4), torch.zeros(2)), r"x had shape \(2, 3, 4, 4\)"),
        (lambda: fast.DiffiT(8)(torch.zeros(2, 3, 8, 8), torch.zeros(1)), r"t had shape \(1,\)"),
        (lambda: fast.DiffiT(8)(torch.zeros(2, 3, 8, 8), torch.zeros(2), torch.zeros(2)), "without classes"),
        (lambda: fast.multiply_adds(4, 4, 0, 2), "channels was 0"),
    ],
)
def test_bad_input_is_refused_with_one_sentence(call: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()
