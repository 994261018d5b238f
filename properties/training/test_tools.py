"""Laws of the tools around a training loop: feature cache, determinism, hardware rules, graphs, modes, memory."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trueness.optimized import training as fast
from trueness.optimized.training.memory import calibrate, subjects, table

LAWS = settings(max_examples=25, deadline=None)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: graphs are captured on one")


# -- feature cache ----------------------------------------------------------------------------------------------------

WEIGHTS = torch.arange(1.0, 13).reshape(4, 3)


def features(x: torch.Tensor) -> torch.Tensor:
    return torch.cos(x.double() @ WEIGHTS.double())


def changed(x: torch.Tensor, how: str, at: int) -> torch.Tensor:
    """Another input that a careless key would take for the same."""
    if how == "rows permuted":
        return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(at))]
    if how == "edited in place":
        x[at % len(x), at % 4] += 1
        return x
    if how == "freed and made again":
        shape, kind = x.shape, x.dtype
        del x
        return torch.full(shape, float(at), dtype=kind)
    if how == "another type":
        return x.double() if x.dtype == torch.float32 else x.float()
    return x.clone() if how == "a copy" else x.t().contiguous().t()


HOW = st.sampled_from(
    ("rows permuted", "edited in place", "freed and made again", "another type", "a copy", "another layout")
)


@given(moves=st.lists(st.tuples(HOW, st.integers(0, 30)), min_size=1, max_size=12), size=st.integers(1, 3))
@LAWS
def test_a_cached_result_is_the_fresh_one_whatever_happens_to_the_input(moves: Any, size: int) -> None:
    cache = fast.FeatureCache(features, size=size)
    x = torch.arange(24.0).reshape(6, 4)
    for how, at in moves:
        x = changed(x, how, at)
        assert torch.equal(cache(x), features(x))
        assert len(cache) <= size
    assert cache.hits + cache.misses == len(moves)


def test_content_is_found_again_in_a_copy_and_in_another_layout_and_in_nothing_else() -> None:
    x = torch.arange(6.0).reshape(2, 3)
    assert fast.content_key(x) == fast.content_key(x.clone()) == fast.content_key(x.t().contiguous().t())
    others = [x.reshape(3, 2), x.view(torch.int32), x + 0.0 * (x == 0) - (x == 5) * 2.0**-20, x[:1], -x, x.double()]
    assert len({fast.content_key(y) for y in (x, *others)}) == len(others) + 1
    assert fast.content_key(x, "a") != fast.content_key(x, "b") != fast.content_key(x)
    assert fast.content_key(torch.zeros(1)) != fast.content_key(-torch.zeros(1)), "bits, and not values"


def test_the_least_recently_used_is_forgotten_first() -> None:
    calls: list[float] = []
    cache = fast.FeatureCache(lambda x: calls.append(float(x)) or x.clone(), size=2)  # type: ignore[func-returns-value]
    for value in (1.0, 2.0, 1.0, 3.0, 1.0, 2.0):
        cache(torch.tensor(value))
    assert calls == [1.0, 2.0, 3.0, 2.0]
    cache.clear()
    assert len(cache) == 0


def test_writing_to_what_was_returned_does_not_reach_the_next_caller() -> None:
    cache = fast.FeatureCache(features)
    x = torch.ones(2, 4)
    for _ in range(3):
        found = cache(x)
        assert torch.equal(found, features(x))
        found.zero_()


def test_an_edit_of_the_features_own_weights_is_seen() -> None:
    weights = torch.ones(4, 3)
    x = torch.ones(2, 4)
    cache = fast.FeatureCache(lambda x: x @ weights, version=(weights, "cos"))
    assert torch.equal(cache(x), x @ weights)
    weights[0, 0] = 5
    assert torch.equal(cache(x), x @ weights)
    stale = fast.FeatureCache(lambda x: x @ weights, version="cos")
    before = stale(x)
    weights[0, 0] = 6
    assert torch.equal(stale(x), before), "what version does not name is not seen"


def test_a_gradient_flows_and_nothing_of_it_is_kept() -> None:
    weights = torch.ones(4, 3, requires_grad=True)
    cache = fast.FeatureCache(lambda x: x @ weights)
    for _ in range(2):
        cache(torch.ones(2, 4)).sum().backward()
    x = torch.ones(2, 4, requires_grad=True)
    cache(x).sum().backward()
    assert weights.grad is not None
    assert x.grad is not None
    assert len(cache) == 0


@pytest.mark.parametrize("x", [torch.ones(2, 2).to_sparse(), torch.ones(2, device="meta")])
def test_content_that_cannot_be_read_is_refused(x: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="it must be strided and have data"):
        fast.FeatureCache(features)(x)


# -- determinism ------------------------------------------------------------------------------------------------------


def draws() -> list[float]:
    return [float(torch.rand(())), float(np.random.rand()), random.random()]  # noqa: NPY002


@given(seed=st.integers(0, 2**32 - 1))
@LAWS
def test_the_same_seed_gives_the_same_draws_and_the_block_leaves_none_behind(seed: int) -> None:
    with fast.deterministic(1, strict=False):
        before = fast.random_state()
        found = []
        for _ in range(2):
            draws()  # the second block is entered with other numbers
            with fast.deterministic(seed):
                found.append(draws())
            draws()
        assert found[0] == found[1]
        fast.restore_random_state(before)
        want = draws()
        fast.restore_random_state(before)
        with fast.deterministic(seed):
            draws()
        assert draws() == want


def test_blocks_nest_and_a_block_may_leave_the_numbers_where_they_are() -> None:
    with fast.deterministic(1, strict=False):
        with fast.deterministic(2):
            inner = draws()
            with fast.deterministic(strict=False):
                between = draws()
            assert draws() == between, "the inner block drew, and gave back"
        with fast.deterministic(2, restore_random=False):
            assert draws() == inner
        assert draws() == between, "the stream goes on from the block"


def test_a_block_that_cannot_be_entered_changes_nothing() -> None:
    before = torch.get_rng_state()
    with (
        pytest.raises(ValueError, match=r"seed was -1; it must be an integer in \[0, 2\*\*32\)"),
        fast.deterministic(-1),
    ):
        pass
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.are_deterministic_algorithms_enabled()


# -- hardware ---------------------------------------------------------------------------------------------------------


def test_a_newer_device_can_do_whatever_an_older_one_can() -> None:
    every = [(major, minor) for major in range(1, 21) for minor in range(10)]
    for rule in (fast.has_float16, fast.has_bfloat16, fast.has_tf32):
        answers = [rule(c) for c in every]
        assert answers == sorted(answers)
    for c in every:
        assert fast.has_bfloat16(c) <= fast.has_float16(c)
        assert (fast.precision(c) == torch.bfloat16) == fast.has_tf32(c) == (c >= (8, 0))
        assert fast.needs_loss_scaling(fast.precision(c)) == ((7, 0) <= c < (8, 0))


def test_the_properties_of_the_host_are_read() -> None:
    found = fast.device_properties("cpu")
    assert found.capability is None
    assert 0 <= found.free <= found.total
    assert fast.precision(found.capability) == torch.float32
    assert fast.batch_size(found.free) in (1, 2, 4, 8, 16)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: fast.precision((8,)), r"capability was \(8,\); it must be \(major, minor\)"),  # type: ignore[arg-type]
        (lambda: fast.precision((8, -1)), r"capability was \(8, -1\)"),
        (lambda: fast.device_properties("meta"), "device was meta; it must be a CUDA device or the CPU"),
        (lambda: fast.FeatureCache(features, size=0), "size was 0; it must be an integer of at least 1"),
        (lambda: fast.FeatureCache(features)(3), "x was int; it must be a torch.Tensor"),  # type: ignore[arg-type]
        (lambda: fast.graphable(torch.nn.Identity(), inputs=0), "inputs was 0"),
        (lambda: fast.Graphed(torch.nn.Identity(), warm_up=1), "size was 16 and warm_up 1"),
        (lambda: fast.estimate_memory(torch.nn.Identity(), [], states=-1), "states was -1"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(call: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()


# -- graphs and modes -------------------------------------------------------------------------------------------------


class Denoiser(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.drop = torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3), torch.nn.Dropout(0.5)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.drop(self.norm(self.layer(x))) + t[:, None]


def test_the_key_of_a_graph_tells_shape_type_mode_of_every_part_and_autocast() -> None:
    model = Denoiser().eval()
    x, t = torch.ones(2, 3), torch.ones(2)
    keys = [fast.graph_key(model, x, t), fast.graph_key(model, x[:1], t[:1]), fast.graph_key(model, x.double(), t)]
    with torch.autocast("cpu", torch.bfloat16):
        keys.append(fast.graph_key(model, x, t))
    model.norm.train()
    keys.append(fast.graph_key(model, x, t))
    model.train()
    keys.append(fast.graph_key(model, x, t))
    assert len(set(keys)) == len(keys)
    model.eval()
    assert fast.graph_key(model, x + 1, t) == keys[0]


def test_where_nothing_can_be_captured_the_module_is_called_and_the_reason_given() -> None:
    model = Denoiser().eval()
    graphed = fast.Graphed(model)
    x, t = torch.ones(2, 3), torch.ones(2)
    assert torch.equal(graphed(x, t), model(x, t))
    assert graphed.why == "its arguments are not all CUDA tensors"
    one = fast.Graphed(model.layer)
    assert torch.equal(one(x), model.layer(x))
    assert one.why == "it takes 1 arguments (input), not 2"
    assert fast.graphable(model.layer, inputs=1)
    assert fast.graphable(print).reason == "it takes *args"


@needs_cuda
def test_a_replayed_graph_gives_what_the_module_gives() -> None:
    model = Denoiser().eval().cuda()
    graphed = fast.Graphed(model)
    for n in (4, 2, 4):
        x, t = torch.randn(n, 3, device="cuda"), torch.randn(n, device="cuda")
        found = graphed(x, t)
        assert graphed.why == ""
        assert torch.equal(found, model(x, t).detach())
        with torch.no_grad():
            model.layer.weight.mul_(1.5)


@pytest.mark.parametrize("fail", [False, True])
def test_every_submodule_comes_back_in_its_own_mode(fail: bool) -> None:
    model = Denoiser().train()
    model.norm.eval()  # frozen statistics, which model.train() would wake
    modes = {name: part.training for name, part in model.named_modules()}
    try:
        with fast.evaluating(model) as quiet:
            assert not any(part.training for part in quiet.modules())
            if fail:
                raise KeyError
    except KeyError:
        pass
    assert {name: part.training for name, part in model.named_modules()} == modes
    assert set(modes.values()) == {True, False}


# -- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dense", "attention", "recurrent"])
def test_the_simulated_step_is_the_measured_one_where_kernels_have_no_workspace(name: str) -> None:
    """Byte for byte, at the allocator."""
    make, inputs = subjects()[name]
    module = make()
    given_inputs = inputs(5)
    assert fast.estimate_memory(module, given_inputs).step == fast.measure_memory(module, given_inputs)


def test_the_calibrated_estimate_is_nearer_than_the_simulation_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """On convolutions, whose kernels copy: the error on modules that the fit has not seen is printed."""
    convolutional = {k: v for k, v in subjects().items() if k not in ("dense", "attention", "recurrent")}
    found = calibrate((2, 8), convolutional)
    with capsys.disabled():
        print("\n" + "\n".join(f"  {line}" for line in table(found).splitlines()))
    alone = max(abs(simulated / measured - 1) for _, _, measured, simulated, _ in found.rows)
    fitted = max(abs(estimated / measured - 1) for _, _, measured, _, estimated in found.rows)
    assert fitted <= alone
    assert found.error <= alone, "also for a module left out of the fit"


def test_an_optimizers_state_is_counted() -> None:
    model = torch.nn.Linear(64, 64)
    x = [torch.ones(2, 64)]
    found = fast.estimate_memory(model, x, states=2)
    assert found.states == 2 * found.weights == 2 * 4 * (64 * 64 + 64)
    measured = fast.measure_memory(model, x, optimizer=torch.optim.Adam(model.parameters()))
    # Adam keeps one number per parameter beside its two moments, and makes temporaries of the largest parameter
    assert found.states + found.weights <= measured <= found.states + found.step + 64
    assert fast.estimate_memory(model, x).states == 0


def test_nothing_of_the_size_of_a_step_is_allocated_to_estimate_it() -> None:
    model = torch.nn.Linear(8, 8)
    found = fast.estimate_memory(model, lambda: [torch.empty(2**40, 8)])
    assert found.step >= 2 * 2**40 * 8 * 4
    assert model.weight.grad is None


@given(free=st.integers(0, 10**7))
@settings(max_examples=10, deadline=None)
def test_the_largest_batch_fits_and_the_next_does_not(free: int) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))

    def make(batch: int) -> list[torch.Tensor]:
        return [torch.empty(batch, 16)]

    def step(batch: int) -> int:
        return fast.estimate_memory(model, lambda: make(batch)).step

    largest = fast.largest_batch(model, make, free)
    assert largest == 0 or step(largest) <= free
    assert step(largest + 1) > free
