"""Evidence for MEM-01 … MEM-10, MEM-13, MEM-14, MEM-36: what the memory learns, and what only looks like it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.special
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from trueness.properties.atlas_memory.flat import optimized as fast
from trueness.properties.atlas_memory.flat import reference as true
from trueness.regressions.atlas_memory import BUGS, features, optimizers, windows
from trueness.regressions.atlas_memory.common import (
    ATTENTION,
    FOUR_AXES,
    FULL,
    MLP,
    OMEGA,
    PICARD,
    SEPARABLE,
    TAYLOR,
    YOUNG,
    discriminating_input,
    first_key_is_nan,
    known,
)
from trueness.tools.arithmetic.bounds import LIMITS, bounds
from trueness.tools.arithmetic.formats import precision

F64 = precision("float64")
WRONG = {b.id: b.variant for b in BUGS}


def allowed(function: Callable[..., Any], *arguments: Any, reduction: int = 8) -> list[np.ndarray]:
    """How far an honest float64 computation of every output may be off."""
    units = [F64.u if isinstance(a, float) or np.asarray(a).dtype.kind == "f" else 0.0 for a in arguments]
    return [LIMITS["eager"] * b.B for b in bounds(function, arguments, units, F64, reduction)]


def call(id: str, **other: Any) -> Any:
    """The wrong variant of one entry about omega, at the discriminating_input."""
    variant = WRONG[id]
    assert variant is not None
    return variant(*discriminating_input(**other))


def truth(**other: Any) -> Any:
    return true.omega(*discriminating_input(**other))


def sequence(T: int, seed: int = 0, **other: Any) -> dict[str, Any]:
    """A longer problem: unit keys of eight features, four values, one head, from an empty memory."""
    generator = np.random.default_rng(seed)
    q, k, v = (generator.standard_normal((1, T, 1, n)) for n in (8, 8, 4))
    k = k / np.sqrt((k * k).sum(-1, keepdims=True))
    gates = {name: np.full((1, T, 1), value) for name, value in (("alpha", 1.0), ("eta", 0.5), ("theta", 0.0))}
    empty, window = np.zeros((1, 1, 8, 4)), {"k_window": np.zeros((1, 0, 1, 8)), "v_window": np.zeros((1, 0, 1, 4))}
    state = {"memory": empty, "momentum": empty, **window, "gamma": np.ones((1, T, 1, 1)), "chunk_size": 1}
    return known(**{"q": q, "k": k, "v": v, **gates, **state, **other})


def outputs(p: dict[str, Any]) -> np.ndarray:
    return np.asarray(true.omega(*(p[name] for name in OMEGA))[0])


# -- MEM-01: the module that the changelog is about -------------------------------------------------------------------


class Pointwise(torch.nn.Module):
    """What the project's attention computes, before and after: y = W_o concat_h MLP(φ(W_q x)_h)[: head width]."""

    def __init__(self, width: int, heads: int, hidden: int, degree: int, all_at_once: bool) -> None:
        super().__init__()
        self.heads, self.degree, self.all_at_once = heads, degree, all_at_once
        each = width // heads
        self.q, self.k, self.v, self.o = (torch.nn.Linear(width, width, bias=False) for _ in range(4))
        self.inner = torch.nn.Linear((degree + 1) * each, hidden)
        self.outer = torch.nn.Linear(hidden, (degree + 1) * each)
        self.register_buffer("coefficients", fast.taylor_coefficients(degree))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.all_at_once:
            return self.tokens(x)
        return torch.cat([self.tokens(x[:, t : t + 1]) for t in range(x.shape[1])], 1)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        query, _, _ = (project(x).unflatten(-1, (self.heads, -1)) for project in (self.q, self.k, self.v))
        phi = fast.elementwise_features(query, self.coefficients, 10.0)
        return self.o(self.outer(torch.relu(self.inner(phi)))[..., : query.shape[-1]].flatten(-2))


def pair(T: int = 12, width: int = 12) -> tuple[Pointwise, Pointwise, torch.Tensor]:
    """The loop, the parallel module with the same weights, and two sequences."""
    torch.manual_seed(0)
    loop = Pointwise(width, 3, 8, 3, all_at_once=False).double()
    parallel = Pointwise(width, 3, 8, 3, all_at_once=True).double()
    parallel.load_state_dict(loop.state_dict())
    return loop, parallel, torch.randn(2, T, width, dtype=torch.float64)


class Launches(TorchDispatchMode):
    """How many operators are called."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_the_loop_and_the_parallel_module_are_the_same_function_of_each_token_MEM_01() -> None:
    loop, parallel, x = pair()
    reduction = max(p.shape[-1] for p in loop.parameters())
    with torch.no_grad():
        magnitude = sum(float(p.abs().sum()) for p in loop.parameters())
        difference = float((loop(x) - parallel(x)).abs().max())
        largest = float(parallel(x).abs().max())
    assert difference <= 4 * reduction * F64.u * max(largest, 1.0) * magnitude, "only the order of sums differs"
    jacobian = torch.autograd.functional.jacobian(parallel, x[:1])[0, :, :, 0]  # (T, width, T, width)
    off = ~torch.eye(x.shape[1], dtype=torch.bool)
    assert (jacobian.movedim(2, 1)[off] == 0).all(), "no token sees another"
    assert (jacobian.movedim(2, 1)[~off] != 0).any()


def test_keys_and_values_of_the_module_get_no_gradient_and_its_memory_never_moves_MEM_01() -> None:
    for module in pair()[:2]:
        x = pair()[2]
        before = [p.clone() for p in module.parameters()]
        first, second = module(x), module(x)
        assert torch.equal(first, second)
        first.sum().backward()
        assert module.k.weight.grad is None and module.v.weight.grad is None
        assert module.q.weight.grad is not None
        assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_parallel_saves_launches_and_no_arithmetic_MEM_01(record_property: Callable[[str, object], None]) -> None:
    """T times fewer operator calls for the same floating-point operations: the ratio of times is that of overhead."""
    T = 128
    loop, parallel, x = pair(T, width=48)
    flops, launches = [], []
    for module in (loop, parallel):
        with torch.no_grad(), FlopCounterMode(display=False) as counted:
            module(x)
        flops.append(counted.get_total_flops())
        with torch.no_grad(), Launches() as called:
            module(x)
        launches.append(called.count)
    assert flops[0] == flops[1] > 0
    assert launches[0] >= T * launches[1], "one set of launches for every token"
    ratio = fastest(loop, x) / fastest(parallel, x)
    record_property("times faster", ratio)
    print(f"parallel is {ratio:.1f} times faster for {T} tokens; claimed: about 100")


def fastest(module: Pointwise, x: torch.Tensor, runs: int = 7) -> float:
    """Seconds of the fastest call, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds = []
    try:
        with torch.no_grad():
            for _ in range(runs):
                start = time.perf_counter()
                module(x)
                seconds.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return min(seconds)


def test_our_layer_mixes_the_past_and_trains_keys_and_values_MEM_01() -> None:
    torch.manual_seed(0)
    layer = fast.AtlasAttention(12, 3, window=2, conv_size=1, config=fast.OmegaConfig(2)).double()
    x = torch.randn(1, 6, 12, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(layer, x)[0, :, :, 0].abs().amax((1, 3))  # (T, T)
    assert (jacobian.triu(1) == 0).all()
    assert (jacobian.tril() != 0)[torch.ones(6, 6).tril().bool()].all()
    layer(x).square().sum().backward()
    assert layer.qkv_proj.weight.grad is not None
    assert all((part != 0).any() for part in layer.qkv_proj.weight.grad.chunk(3))


@pytest.mark.parametrize("id", ["MEM-01a", "MEM-13"])
def test_another_key_or_value_changes_nothing_that_is_read_MEM_01a_MEM_13(id: str) -> None:
    """Discriminating input of the fact sheet: change k_1, read y_L."""
    moved = {name: known()[name] + (np.arange(5) == 0)[None, :, None, None] for name in ("k", "v")}
    for name, other in moved.items():
        assert np.array_equal(call(id)[0], call(id, **{name: other})[0])
        assert (truth()[0] != truth(**{name: other})[0])[:, -1].any()


def test_a_feed_forward_layer_reads_weights_that_never_move_MEM_01b() -> None:
    variant = WRONG["MEM-01b"]
    arguments = discriminating_input(MLP)
    _, *weights = variant(*arguments)
    assert all(np.array_equal(a, b) for a, b in zip(weights, arguments[7:11], strict=True))
    assert all((a != b).any() for a, b in zip(true.omega_mlp(*arguments)[1:], arguments[7:11], strict=True))


def test_an_empty_memory_that_is_never_written_says_nothing_MEM_01c() -> None:
    arguments = discriminating_input(ATTENTION)
    assert not WRONG["MEM-01c"](*arguments).any()
    layer = fast.AtlasAttention(8, 2, conv_size=1).double()
    x = torch.randn(1, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert layer(x).abs().max() > 0
    layer.updates = False
    assert layer(x).abs().max() == 0


@pytest.mark.parametrize("id", ["MEM-01d", "MEM-01e"])
def test_the_future_shows_in_the_past_MEM_01d_MEM_01e(id: str) -> None:
    later = {"v": known()["v"] + (np.arange(5) == 3)[None, :, None, None]}
    assert np.array_equal(truth()[0][:, :3], truth(**later)[0][:, :3])
    assert (call(id)[0] != call(id, **later)[0])[:, :3].any()


def test_one_sample_finds_anothers_text_in_its_memory_MEM_01f() -> None:
    other = known()["v"] + (np.arange(2) == 1)[:, None, None, None]
    assert np.array_equal(truth()[0][0], truth(v=other)[0][0])
    assert (call("MEM-01f")[0][0] != call("MEM-01f", v=other)[0][0]).any()


def test_from_an_empty_memory_the_first_output_tells_when_it_was_read_MEM_01g() -> None:
    empty = {"memory": 0 * known()["memory"], "k": known()["q"]}
    assert truth(**empty)[0][:, 0].any()
    assert not call("MEM-01g", **empty)[0][:, 0].any()


def test_chunks_and_tokens_agree_for_one_token_or_the_inner_product_only_MEM_01h() -> None:
    """L = 12: the gap grows with the chunk for squared errors and is rounding for the inner product."""
    exact, gaps = outputs(sequence(12)), []
    for C in (1, 2, 4, 12):
        gaps.append(float(np.abs(outputs(sequence(12, chunk_size=C)) - exact).max()))
        dot = sequence(12, objective="dot", chunk_size=C)
        bound = allowed(true.omega, *(dot[name] for name in OMEGA))[0]
        assert (np.abs(outputs(dot) - outputs(sequence(12, objective="dot"))) <= bound).all()
    assert gaps[0] == 0
    assert 0 < gaps[1] < gaps[2] < gaps[3]
    print(f"largest difference from the token loop at C = 1, 2, 4, 12: {[round(g, 3) for g in gaps]}")


def test_the_linearisation_costs_percents_to_more_than_everything_MEM_01h() -> None:
    """The fact sheet: d = 64, unit keys, α = 0.99, γ = 1/c. Relative RMS error 3 % at C = 16, η/(1 − θ) = 0.1."""

    def rms(eta: float, C: int) -> float:
        generator = np.random.default_rng(0)
        T, d, c = 256, 64, 16
        q, k, v = generator.standard_normal((3, 1, T, 1, d))
        k = k / np.sqrt((k * k).sum(-1, keepdims=True))
        gates = {
            "alpha": np.full((1, T, 1), 0.99),
            "eta": np.full((1, T, 1), eta / 2),
            "theta": np.full((1, T, 1), 0.5),
        }
        empty, window = np.zeros((1, 1, d, d)), np.zeros((1, c - 1, 1, d))
        state = {"memory": empty, "momentum": empty, "k_window": window, "v_window": window}
        p = known(**{"q": q, "k": k, "v": v, **gates, **state, "gamma": np.full((1, T, 1, c), 1 / c)})
        exact, linear = (
            fast.omega(*(torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in arguments))[0]
            for arguments in ([{**p, "chunk_size": n}[name] for name in OMEGA] for n in (1, C))
        )
        return float(((linear - exact).square().mean() / exact.square().mean()).sqrt())

    found = {(eta, C): rms(eta, C) for eta, C in ((0.1, 16), (0.1, 64), (1.0, 16), (1.0, 128))}
    assert found[0.1, 16] < found[0.1, 64] < found[1.0, 128] and found[0.1, 16] < found[1.0, 16] < found[1.0, 128]
    assert f"{found[0.1, 16]:.0%}" in ("2%", "3%", "4%") and found[1.0, 128] > 1
    print({key: f"{value:.0%}" for key, value in found.items()})


def test_one_linearisation_from_an_empty_memory_is_the_inner_product_bit_for_bit_MEM_01i() -> None:
    empty = {"memory": 0 * known()["memory"]}
    squared, dot = call("MEM-01i", **empty), call("MEM-01i", **empty, objective="dot")
    assert all(np.array_equal(a, b) for a, b in zip(squared, dot, strict=True))
    assert (truth(**empty)[0] != truth(**empty, objective="dot")[0]).any()


def test_stored_gradients_differ_as_soon_as_a_window_reaches_over_a_chunks_start_MEM_01j() -> None:
    whole = {"chunk_size": 5}
    assert np.array_equal(call("MEM-01j", **whole)[0], truth(**whole)[0])
    assert (call("MEM-01j")[0] != truth()[0]).any()
    alone = {"gamma": np.ones((2, 5, 1, 1)), "k_window": np.zeros((2, 0, 1, 3)), "v_window": np.zeros((2, 0, 1, 3))}
    assert np.array_equal(call("MEM-01j", **alone)[0], truth(**alone)[0])


# -- MEM-02 … MEM-05: features ----------------------------------------------------------------------------------------


def test_the_factorial_of_a_float_tensor_raises_MEM_02() -> None:
    with pytest.raises(TypeError, match="only integer tensors"):
        math.factorial(torch.tensor(3.0))  # type: ignore[arg-type]
    assert fast.taylor_coefficients(3).tolist() == true.taylor_coefficients(3).tolist() == [1, 1, 1 / 2, 1 / 6]
    assert true.taylor_coefficients(170)[-1] > 0


def test_factorials_on_both_sides_never_reach_the_exponential_MEM_02a() -> None:
    """|kernel − exp(q·k)| at q·k = 0.5: the roots' error vanishes, 1/i! on both sides stalls at e^½ − I_0(2√½)."""
    x, y = np.array([1.0, 0.5]), np.array([0.25, 0.5])

    def gap(features: Callable[..., Any], degree: int) -> float:
        return abs(float(features(x, degree) @ features(y, degree)) - math.exp(0.5))

    assert f"{gap(true.tensor_features, 3):.1e} {gap(true.tensor_features, 6):.1e}" == "2.9e-03 1.7e-06"
    stall = math.exp(0.5) - scipy.special.i0(2 * math.sqrt(0.5))
    assert f"{stall:.4f}" == "0.0826"
    for degree in (6, 9, 12):
        rest = 0.5 ** (degree + 1) / math.factorial(degree + 1) * math.exp(0.5)
        roundings = 2 ** (degree + 2) * F64.u * math.exp(0.5)
        assert gap(true.tensor_features, degree) <= rest + roundings
        assert abs(gap(features.factorials_twice, degree) - stall) <= rest + roundings


def test_the_elementwise_kernels_have_their_own_names_MEM_02b() -> None:
    """At one element, where products and inner product agree: 0F1 with 1/i!, exp with the roots."""
    x, a = np.array([0.5]), true.taylor_coefficients(12)
    plain = float(np.sum(true.elementwise_features(x, a, 10.0) ** 2))
    rooted = float(np.sum(features.rooted_coefficients(x, a, 10.0) ** 2))
    rest = 0.25**13 / math.factorial(13)
    assert abs(plain - scipy.special.hyp0f1(1.0, 0.25)) <= rest + 64 * F64.u * plain
    assert abs(rooted - math.exp(0.25)) <= rest * 2 + 64 * F64.u * rooted
    two = np.array([0.5, 0.5])
    over_elements = float(np.sum(features.rooted_coefficients(two, a, 10.0) ** 2))
    summed = 2 * math.exp(0.25)
    assert abs(over_elements - summed) <= 64 * F64.u * summed, "a sum of exp, not exp of a sum"


def test_a_constant_of_width_one_does_not_fit_and_width_d_adds_no_rank_MEM_03() -> None:
    d, p = 24, 3
    x = np.random.default_rng(0).uniform(-1, 1, (400, d))
    narrow = features.constant_of_width_one(x, TAYLOR, 10.0)
    full = true.elementwise_features(x, TAYLOR, 10.0)
    assert (narrow.shape[-1], full.shape[-1]) == (73, 96) == (1 + p * d, (p + 1) * d)
    with pytest.raises(RuntimeError, match="must match the size"):
        torch.zeros(96) + torch.from_numpy(narrow[0])
    assert np.linalg.matrix_rank(full) == np.linalg.matrix_rank(narrow) == 73
    assert math.comb(d + p, p) == 2925, "all monomials of degree three and less, which the paper counts"
    small = true.elementwise_features(x[:, :3], TAYLOR[:3], 10.0)
    assert (small.shape[-1], np.linalg.matrix_rank(small)) == (9, 7)


def test_the_clamp_to_a_million_changes_no_bit_MEM_04() -> None:
    x = np.linspace(-20, 20, 401)[:, None]
    largest = np.abs(true.elementwise_features(x, true.taylor_coefficients(63), 10.0)).max()
    assert f"{largest:.2f}" == "2755.73"
    for degree in (3, 10, 30):
        phi = true.elementwise_features(x, true.taylor_coefficients(degree), 10.0)
        assert np.array_equal(np.clip(phi, -1e6, 1e6), phi)
    assert np.abs(features.no_clip(1e3 + 0 * x, true.taylor_coefficients(10), 10.0)).max() > 1e6


def test_a_clamped_power_is_flat_inside_of_the_box_MEM_04a() -> None:
    x = torch.tensor([5.0], dtype=torch.float64, requires_grad=True)
    fast.elementwise_features(x, torch.from_numpy(TAYLOR), 10.0)[2].backward()
    assert x.grad is not None and x.grad.item() == 5.0
    a, b = (features.clip_after_the_power(np.array([s]), TAYLOR, 10.0)[2] for s in (5.0, 6.0))
    assert a == b == 5.0


def test_features_that_are_not_scaled_make_the_memory_diverge_MEM_04b() -> None:
    """Squared errors, one head of 16, steps that are right for unit vectors. Clamped or not, |φ|² ≥ 16."""
    generator = np.random.default_rng(0)
    T, D = 64, 16
    q, k, v = generator.standard_normal((3, 1, T, 1, D))
    gates = {"alpha": np.ones((1, T, 1)), "eta": np.full((1, T, 1), 0.5), "theta": np.zeros((1, T, 1))}
    modes = {"optimizer": "gd", "chunk_size": 4, "gamma": np.ones((1, T, 1, 1)), "coefficients": TAYLOR}
    arguments = discriminating_input(ATTENTION, q=q, k=k, v=v, **gates, **modes)
    bounded = np.abs(true.atlas_attention(*arguments)).max()
    unbounded = np.abs(WRONG["MEM-04b"](*arguments)).max()
    assert bounded < 100 < 1e20 < unbounded


def test_three_names_for_four_axes_raise_and_flattened_heads_change_places_MEM_05() -> None:
    x = torch.from_numpy(FOUR_AXES)
    with pytest.raises(ValueError, match="too many values to unpack"):
        _batch, _length, _width = x.shape
    good = fast.elementwise_features(x, torch.from_numpy(TAYLOR), 10.0).numpy()
    bad = features.heads_unpacked_as_width(FOUR_AXES, TAYLOR, 10.0)
    assert good.shape == bad.shape and not np.array_equal(good, bad)
    assert np.array_equal(np.sort(good, axis=None), np.sort(bad, axis=None)), "every number is there, elsewhere"


# -- MEM-06 and MEM-07: the window and its gradient -------------------------------------------------------------------


def test_a_window_is_a_tensor_whose_every_row_keeps_its_graph_MEM_06() -> None:
    """`if context:` raises for a tensor of several elements; ours is sliced, and every token of it has a gradient."""
    window = torch.ones(2, 3, 1, 3, dtype=torch.float64, requires_grad=True)
    with pytest.raises(RuntimeError, match="ambiguous"):
        bool(window)
    other = {"gamma": np.full((2, 5, 1, 4), 0.25), "v_window": np.ones((2, 3, 1, 3))}
    arguments = natives(**other, k_window=np.ones((2, 3, 1, 3)))
    arguments[OMEGA.index("k_window")] = window
    fast.omega(*arguments)[0].sum().backward()
    assert window.grad is not None and (window.grad != 0).any(-1).all()


def test_weights_by_slot_are_weights_by_age_until_the_buffer_wraps_and_then_not_MEM_06a() -> None:
    """Four tokens in a buffer of four: the last token's window is read in slot order, and the newest weighs least."""
    window, T = 4, 8
    by_slot = true.window_weights(window, 0.1)
    ages = [[(t - slot) % window for slot in range(window)] for t in range(T)]
    newest = [by_slot[row.index(0)] for row in ages]
    assert newest[0] == by_slot.max() and newest[3] == by_slot.min()
    assert newest == [by_slot[t % window] for t in range(T)], "the newest token's weight goes round with the buffer"
    young = {"gamma": YOUNG}
    assert (call("MEM-06a", **young)[0] != truth(**young)[0]).any()
    even = {"gamma": np.full((2, 5, 1, 2), 0.5)}
    assert np.array_equal(call("MEM-06a", **even)[0], truth(**even)[0]), "equal weights hide it"


def test_a_reversed_window_forgets_the_newest_token_MEM_06b() -> None:
    only_now = {"gamma": np.broadcast_to(np.array([1.0, 0.0]), (2, 5, 1, 2)), "eta": np.ones((2, 5, 1))}
    first = {**only_now, "memory": 0 * known()["memory"]}
    assert truth(**first)[0][:, 0].any()
    assert not call("MEM-06b", **first)[0][:, 0].any()


def test_renormalised_weights_make_the_first_step_as_large_as_a_full_windows_MEM_06c() -> None:
    empty = {"memory": 0 * known()["memory"]}
    assert np.array_equal(call("MEM-06c", **empty)[0][:, 0], 2 * truth(**empty)[0][:, 0])
    full = {"k_window": known()["k"][:, 2:3], "v_window": known()["v"][:, 2:3]}
    assert (call("MEM-06c", **full)[0] != truth(**full)[0]).any()


def test_a_plain_sum_over_the_window_diverges_where_the_mean_does_not_MEM_06d() -> None:
    """c = 16, C = 64 and steps of 0.3: the fact sheet's table of divergence, at its setting of θ = 0.9, α = 1."""
    generator = np.random.default_rng(0)
    T, d, c = 512, 16, 16
    q, k, v = (torch.from_numpy(x) for x in generator.standard_normal((3, 1, T, 1, d)))
    k = k / k.norm(dim=-1, keepdim=True)
    one, empty, window = torch.ones(1, T, 1).double(), torch.zeros(1, 1, d, d).double(), torch.zeros(1, c - 1, 1, d)
    window = window.double()
    largest = {}
    for name, weights in (("sum", windows.weights_not_normalised(c, 0.1)), ("mean", true.window_weights(c, 0.1))):
        gamma = torch.from_numpy(weights).expand(1, T, 1, c)
        gates = (one, 0.03 * one, 0.9 * one, gamma, empty, empty, window, window)
        largest[name] = fast.omega(q, k, v, *gates, 64, "l2", "gd", False, False, None)[0].abs().max().item()
    assert largest["mean"] < 100 < 1e4 < largest["sum"]
    print(largest)


def loss(M: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """½|kᵀM − v|²"""
    return 0.5 * ((k @ M - v) ** 2).sum()


@pytest.mark.parametrize("id", ["MEM-07", "MEM-07a", "MEM-07b"])
def test_one_step_follows_autograd_and_not_the_printed_equation_MEM_07_MEM_07a_MEM_07b(id: str) -> None:
    p = {name: x[:1] if isinstance(x, np.ndarray) else x for name, x in known().items()}
    one = {name: p[name][:, :1] for name in ("q", "k", "v", "alpha", "eta", "theta")}
    one |= {"gamma": np.ones((1, 1, 1, 1)), "k_window": np.zeros((1, 0, 1, 3)), "v_window": np.zeros((1, 0, 1, 3))}
    arguments = [{**p, **one}[name] for name in OMEGA]
    M = torch.from_numpy(p["memory"][0, 0].copy()).requires_grad_()
    k, v = (torch.from_numpy(one[x][0, 0, 0]) for x in "kv")
    (gradient,) = torch.autograd.grad(loss(M, k, v), M)
    wanted = (0.75 * M - 0.5 * gradient).detach().numpy()
    assert (np.abs(true.omega(*arguments)[1][0, 0] - wanted) <= allowed(true.omega, *arguments)[1][0, 0]).all()
    variant = WRONG[id]
    assert variant is not None
    assert (variant(*arguments)[1][0, 0] != wanted).any()


def test_the_printed_gram_factor_fits_only_square_memories_MEM_07a() -> None:
    """(α I − φ φᵀ) M needs d_v = d_φ: with two values for three features it has no shape, and the rule has."""
    narrow = {"memory": known()["memory"][..., :2], "momentum": known()["momentum"][..., :2]}
    narrow |= {name: known()[name][..., :2] for name in ("v", "v_window")}
    o, M, _ = truth(**narrow)
    assert (o.shape[-1], M.shape[-2:]) == (2, (3, 2))
    phi, value_by_feature = known()["k"][0, 0, 0], M[0, 0].T
    with pytest.raises(ValueError, match="matmul"):
        (np.eye(3) - np.outer(phi, phi)) @ value_by_feature


def test_the_places_of_the_step_size_agree_only_for_a_constant_one_MEM_07c() -> None:
    same = {"eta": np.full((2, 5, 1), 0.5)}
    bound = allowed(true.omega, *discriminating_input(**same))
    assert (np.abs(call("MEM-07c", **same)[0] - truth(**same)[0]) <= bound[0]).all()
    changing = {"eta": np.broadcast_to(np.array([0.5, 0.125, 0.5, 0.25, 1.0])[None, :, None], (2, 5, 1))}
    gap = np.abs(call("MEM-07c", **changing)[0] - truth(**changing)[0])
    assert (gap > allowed(true.omega, *discriminating_input(**changing))[0]).any()


# -- MEM-08 and MEM-09: Muon and clips --------------------------------------------------------------------------------


def test_a_clipped_gradient_over_its_norm_is_a_sign_and_not_muon_MEM_08() -> None:
    """The project's rule: m ← 0.9 m + 0.1 ‖g‖, Δ = clip(g, ±0.1)/(m + 1e-8). Every |g| > 0.1 here."""
    g = np.random.default_rng(0).uniform(0.2, 2, (4, 4)) * np.sign(np.random.default_rng(1).standard_normal((4, 4)))
    update = np.clip(g, -0.1, 0.1) / (0.1 * np.sqrt((g * g).sum()) + 1e-8)
    cosine = (update * np.sign(g)).sum() / np.sqrt((update**2).sum() * 16)
    assert abs(cosine - 1) <= 64 * F64.u
    muon = true.newton_schulz(g, true.JORDAN, 1e-8)
    assert (muon * np.sign(g)).sum() / np.sqrt((muon**2).sum() * 16) < 0.95


def test_a_norm_leaves_singular_values_as_unequal_as_they_were_MEM_08a() -> None:
    """The fact sheet's input: a gradient of rank two. Newton–Schulz brings both into [0.68, 1.14]."""
    singular = {
        name: np.linalg.svd(function(FULL, true.JORDAN, 1e-8), compute_uv=False)
        for name, function in (("truth", true.newton_schulz), ("wrong", optimizers.divided_by_a_norm))
    }
    assert ((singular["truth"] > 0.68) & (singular["truth"] < 1.14)).all()
    before = np.linalg.svd(FULL, compute_uv=False)
    ratio = singular["wrong"][0] / singular["wrong"][1]
    assert abs(ratio - before[0] / before[1]) <= 64 * F64.u * ratio**2
    length = np.sqrt(np.sum(optimizers.divided_by_a_norm(FULL, true.JORDAN, 0.0) ** 2))
    assert abs(length - 10) <= 16 * F64.u * 10, "ten times the length it will have later"


def test_without_eps_a_zero_gradient_is_not_a_number_MEM_08b_MEM_08c() -> None:
    nothing = np.zeros((2, 3))
    with np.errstate(invalid="ignore", divide="ignore"):
        assert np.isnan(optimizers.without_eps(nothing, true.JORDAN, 1e-8)).all()
        still = {"optimizer": "norm_ema", "k": np.zeros((2, 5, 1, 3))}
        assert np.isnan(call("MEM-08c", **still)[1]).all()
    assert not true.newton_schulz(nothing, true.JORDAN, 1e-8).any()
    assert np.isfinite(truth(**still)[1]).all()


def test_a_shared_average_makes_one_head_depend_on_another_MEM_08d() -> None:
    mode = {"optimizer": "norm_ema"}
    louder = {**mode, "v": known()["v"] * np.array([1.0, 10.0])[:, None, None, None]}
    assert np.array_equal(truth(**mode)[1][0], truth(**louder)[1][0])
    assert (call("MEM-08d", **mode)[1][0] != call("MEM-08d", **louder)[1][0]).any()


def test_more_steps_of_jordans_polynomial_come_no_nearer_to_the_polar_factor_MEM_08e() -> None:
    g = np.diag(np.linspace(0.05, 1, 12))
    polar = scipy.linalg.polar(g)[0]
    errors = {
        k: float(np.linalg.norm(true.newton_schulz(g, true.JORDAN[:1] * k, 0.0) - polar, 2)) for k in (5, 10, 20, 50)
    }
    assert all(0.25 < e < 0.33 for e in errors.values())
    classical = float(np.linalg.norm(true.newton_schulz(g, true.CLASSICAL[:1] * 20, 0.0) - polar, 2))
    cubic = float(np.linalg.norm(true.newton_schulz(g, ((1.5, -0.5, 0.0),) * 40, 0.0) - polar, 2))
    assert max(classical, cubic) <= 40 * 12 * 8 * F64.u, "forty steps of a few roundings of twelve products each"
    print(errors)


def test_a_constant_step_inside_newton_schulz_has_no_effect_MEM_08f() -> None:
    """Bit for bit at powers of two; what is left of ε is one part in 10⁸ of one rounding's reach."""
    g = np.random.default_rng(0).standard_normal((3, 3))
    for eta in (2.0**-6, 2.0**3):
        assert np.array_equal(true.newton_schulz(eta * g, true.JORDAN, 0.0), true.newton_schulz(g, true.JORDAN, 0.0))
    mode = {"optimizer": "muon", "lr_inside_momentum": False}
    small, large = ({**mode, "eta": np.full((2, 5, 1), eta)} for eta in (0.25, 0.5))
    moved = np.abs(call("MEM-08f", **small)[1] - call("MEM-08f", **large)[1]).max()
    assert moved < 1e-6 < np.abs(truth(**small)[1] - truth(**large)[1]).max()


def test_torchs_muon_scales_its_step_by_the_shape_MEM_08g() -> None:
    """One step from zero momentum: lr √max(1, rows/columns) NS(g), in bfloat16."""
    tall = FULL.T
    for g in (FULL, tall):
        weight = torch.nn.Parameter(torch.zeros(g.shape, dtype=torch.float64))
        weight.grad = torch.from_numpy(g.copy())
        muon = torch.optim.Muon([weight], lr=1.0, weight_decay=0.0, momentum=0.0, nesterov=False)
        muon.step()
        bfloat = precision("bfloat16")
        bound = bounds(optimizers.scaled_by_the_shape, [g, true.JORDAN, 1e-7], [bfloat.u, 0, 0], bfloat, 6)[0]
        assert bound.ratio(-weight.detach().numpy()).max() <= LIMITS["eager"]
    plain, scaled = (f(tall, true.JORDAN, 1e-7) for f in (true.newton_schulz, optimizers.scaled_by_the_shape))
    assert np.array_equal(scaled, plain * np.sqrt(1.5))


def test_a_floor_and_a_summand_differ_where_a_gradient_is_as_small_as_they_MEM_08h() -> None:
    large, small = FULL, FULL * 2.0**-10
    near = optimizers.floored_norm(large, true.JORDAN, 1e-8) - true.newton_schulz(large, true.JORDAN, 1e-8)
    far = optimizers.floored_norm(small, true.JORDAN, 2.0**-7) - true.newton_schulz(small, true.JORDAN, 2.0**-7)
    assert np.abs(near).max() < 1e-6 < 1e-2 < np.abs(far).max()


def test_a_clip_of_a_tenth_is_not_a_clip_of_one_MEM_09_MEM_09a_MEM_09b() -> None:
    """One token, no momentum, no decay, η = 1: the memory moves by at most the clip."""
    still = {name: np.full((2, 5, 1), value) for name, value in (("alpha", 1.0), ("eta", 1.0), ("theta", 0.0))}
    one = {name: x[:, :1] for name, x in {**known(), **still}.items() if name in ("q", "k", "v", *still)}
    one |= {"gamma": np.ones((2, 1, 1, 2)), "v": 16 * known()["v"][:, :1], "clip": 1.0}
    start = known()["memory"]

    def step(result: Any) -> float:
        return float(np.abs(result[1] - start).max())

    assert step(truth(**one)) == 1.0
    assert abs(step(call("MEM-09", **one)) - 0.1) <= 4 * F64.u
    assert abs(step(call("MEM-09a", **one)) - 0.01) <= 4 * F64.u
    assert step(call("MEM-09b", **one)) > 1.0


# -- MEM-10 … MEM-36: what hides a failure ----------------------------------------------------------------------------


def swallowing(loss_of: Callable[[torch.Tensor], torch.Tensor], memory: torch.Tensor) -> dict[str, torch.Tensor]:
    """The project's shape: an empty dictionary whatever goes wrong."""
    try:
        return {"memory": torch.autograd.grad(loss_of(memory), memory)[0]}
    except Exception:
        return {}


def natives(**other: Any) -> list[Any]:
    return [torch.from_numpy(np.array(a)) if isinstance(a, np.ndarray) else a for a in discriminating_input(**other)]


def test_a_swallowed_failure_leaves_the_memory_as_it_was_MEM_10() -> None:
    memory = torch.ones(3, 3, requires_grad=True)
    assert swallowing(lambda m: m.square().sum(), memory)
    assert swallowing(lambda m: m.detach().square().sum(), memory) == {}, "no graph"
    assert swallowing(lambda m: (m @ torch.ones(4)).sum(), memory) == {}, "wrong shapes"
    with pytest.raises(ValueError, match="k had shape"):
        fast.omega(*natives(k=known()["k"][..., :2]))
    broken = natives(k=first_key_is_nan())
    assert fast.omega(*broken)[0].isnan().all(), "not a number stays visible"
    assert np.isfinite(call("MEM-10", k=first_key_is_nan())[0]).all(), "and is passed over there"


def test_the_inner_step_stays_differentiable_MEM_10() -> None:
    """create_graph=False cuts the outer loss off from the keys that the memory learned from."""
    key = torch.ones(3, requires_grad=True)
    memory = torch.ones(3, 2, requires_grad=True)
    for create, reaches in ((False, False), (True, True)):
        (g,) = torch.autograd.grad(((key @ memory) ** 2).sum(), memory, create_graph=create)
        assert g.requires_grad is reaches
    arguments = natives()
    arguments[1].requires_grad_()
    fast.omega(*arguments)[0][:, -1].sum().backward()
    assert arguments[1].grad is not None and arguments[1].grad[:, 0].any(), "the last output, by the first key"


def test_features_for_an_answer_look_like_one_MEM_13() -> None:
    """A bare except that returns φ(q): shape, dtype and finiteness are right, the memory has no say in it."""
    found = call("MEM-13")[0]
    assert found.shape == truth()[0].shape and np.isfinite(found).all()
    assert np.array_equal(found, known()["q"])
    with pytest.raises(ValueError, match="memory had shape"):
        fast.omega(*natives(memory=known()["memory"][..., :2, :]))


def test_what_is_cut_off_never_gets_a_gradient_and_what_is_padded_says_nothing_MEM_14() -> None:
    padded = WRONG["MEM-14"](*discriminating_input(ATTENTION))
    assert not padded[..., -1].any()
    assert true.atlas_attention(*discriminating_input(ATTENTION))[..., -1].any()
    narrow = discriminating_input(ATTENTION, v=known()["v"][..., :2])
    assert true.atlas_attention(*narrow).shape[-1] == 2, "the width of the output is that of the values"
    torch.manual_seed(0)
    layer = fast.AtlasAttention(6, 2, window=2, config=fast.OmegaConfig(2)).double()
    layer(torch.randn(2, 7, 6).double()).square().sum().backward()
    for name in ("qkv_proj", "g_proj", "o_proj", "gates_proj"):
        rows = layer.get_submodule(name).weight.grad
        assert (rows != 0).any(-1).all(), f"a row of {name} is cut off"


@pytest.mark.parametrize("width", [24, 36, 40])
def test_a_layer_is_made_for_exactly_the_heads_that_divide_its_width_MEM_36(width: int) -> None:
    """The project's 128 and 12 heads among them: refused when the layer is made, and not by a view deep inside."""
    with pytest.raises(ValueError, match="num_heads was 12; it must divide embed_dim, 128"):
        fast.AtlasAttention(128, num_heads=12)
    for heads in range(1, width + 1):
        if width % heads:
            with pytest.raises(ValueError, match=f"num_heads was {heads}; it must divide embed_dim, {width}"):
                fast.AtlasAttention(width, heads)
        else:
            assert fast.AtlasAttention(width, heads)(torch.zeros(1, 2, width)).shape == (1, 2, width)


# -- chunks, tiles and windows ----------------------------------------------------------------------------------------


def test_a_gate_of_zero_has_no_logarithm_MEM_01s() -> None:
    gates = np.broadcast_to(np.array([0.75, 0.0, 0.75, 0.5, 0.75])[None, :, None], (2, 5, 1))
    wrong_reads, true_reads = call("MEM-01s", alpha=gates)[0], truth(alpha=gates)[0]
    assert np.isnan(wrong_reads[:, 2:]).all() and np.isfinite(true_reads).all()
    assert (
        np.abs(wrong_reads[:, :1] - true_reads[:, :1])
        <= allowed(true.omega, *discriminating_input(alpha=gates))[0][:, :1]
    ).all()


def test_a_row_late_is_right_for_the_first_token_without_momentum_and_decay_MEM_01t() -> None:
    free = {"alpha": np.ones((2, 5, 1)), "theta": np.zeros((2, 5, 1)), "chunk_size": 1}
    assert all(np.array_equal(a, b) for a, b in zip(call("MEM-01t", **free), truth(**free), strict=True))
    assert (call("MEM-01t", chunk_size=1)[0] != truth(chunk_size=1)[0]).any()


def test_a_filled_up_chunk_keeps_its_reads_and_moves_its_memory_MEM_01u() -> None:
    """One token more than two chunks: the sixth adds −S to the memory that is handed on; outside nothing happens"""
    reads, memory, momentum = call("MEM-01u", lr_inside_momentum=True)
    want = truth(lr_inside_momentum=True)
    assert np.array_equal(reads, want[0]) and np.array_equal(momentum, want[2])
    assert np.array_equal(memory, want[1] - want[2])
    assert np.array_equal(call("MEM-01u")[1], truth()[1])


def test_a_window_as_long_as_the_chunk_sees_all_of_it_MEM_06s() -> None:
    variant = WRONG["MEM-06s"]
    assert variant is not None
    for chunk_size, same in ((2, True), (4, False)):
        arguments = discriminating_input(SEPARABLE, chunk_size=chunk_size)
        found, want = variant(*arguments)[0], true.omega_separable(*arguments)[0]
        assert np.array_equal(found, want) is same


@pytest.mark.parametrize("id", ["MEM-01v", "MEM-01w"])
def test_sweeps_and_tiles_of_picards_iteration_are_part_of_it_MEM_01v_MEM_01w(id: str) -> None:
    """The first token of a call needs no sweep; the last one differs"""
    variant = WRONG[id]
    assert variant is not None
    arguments = discriminating_input(PICARD)
    found, want = variant(*arguments)[0], true.omega_picard(*arguments)[0]
    assert np.array_equal(found[:, 0], want[:, 0])
    assert (found[:, -1] != want[:, -1]).any()
