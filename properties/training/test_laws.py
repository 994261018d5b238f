"""Laws of the family training: of its equations, and of the classes that apply them in a loop."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trueness.optimized import training as fast
from trueness.properties._lib.flat import Flat
from trueness.properties.training import FORMULAS
from trueness.reference import training as true

U = 2.0**-53
flat = Flat(FORMULAS)
LAWS = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**16)
sizes = st.lists(st.integers(1, 6), min_size=1, max_size=7)


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def run_fast(name: str, *arguments: Any) -> np.ndarray:
    """The optimized function in float64, on NumPy arrays."""
    moved = [torch.from_numpy(np.array(a)) if isinstance(a, np.ndarray) else a for a in arguments]
    return np.asarray(flat(getattr(fast, name))(*moved))


def both(name: str) -> Any:
    functions = [flat(getattr(true, name)), lambda *arguments: run_fast(name, *arguments)]
    return pytest.mark.parametrize("function", functions, ids=["reference", "ours"])


def parts(array: np.ndarray, lengths: list[int]) -> list[np.ndarray]:
    return np.split(array, np.cumsum(lengths)[:-1])


# -- accumulation -----------------------------------------------------------------------------------------------------


@both("steps_per_epoch")
@given(n=st.integers(0, 100), window=st.integers(1, 12))
@LAWS
def test_there_are_just_enough_steps_for_every_micro_batch(function: Any, n: int, window: int) -> None:
    steps = int(function(n, window))
    assert steps * window >= n > (steps - 1) * window or steps == n == 0
    assert steps == math.ceil(n / window)


@both("accumulate")
@given(seed=seeds, lengths=sizes)
@LAWS
def test_the_weighted_mean_of_parts_is_the_mean_of_the_whole(function: Any, seed: int, lengths: list[int]) -> None:
    """Summing S terms in any order rounds S times at most; dividing and weighting five times more."""
    samples = drawn(seed, sum(lengths), 3)
    means = np.stack([part.mean(0) for part in parts(samples, lengths)])
    rounding = (sum(lengths) + 5) * U * np.abs(samples).mean(0)
    assert (np.abs(function(means, np.array(lengths)) - samples.mean(0)) <= 2 * rounding).all()


@both("accumulate")
@given(seed=seeds, k=st.integers(1, 5), n=st.integers(1, 9))
@LAWS
def test_parts_of_one_size_need_no_weights_and_no_order(function: Any, seed: int, k: int, n: int) -> None:
    gradients = drawn(seed, k, 4)
    found = function(gradients, np.full(k, n))
    rounding = 2 * (k + 3) * U * np.abs(gradients).mean(0)
    assert (np.abs(found - gradients.mean(0)) <= rounding).all()
    assert (np.abs(found - function(gradients[::-1].copy(), np.full(k, n))) <= rounding).all()


class Linear(torch.nn.Module):
    """Loss of sample i: ⟨w, G_i⟩, whose gradient is row i of G."""

    def __init__(self, gradients: torch.Tensor) -> None:
        super().__init__()
        self.gradients = gradients
        self.w = torch.nn.Parameter(torch.zeros(gradients.shape[1], dtype=gradients.dtype))
        self.v = torch.nn.Parameter(torch.zeros(gradients.shape[1], dtype=gradients.dtype))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return (self.gradients[rows] @ (self.w - 2 * self.v)).mean()


@given(lengths=sizes, window=st.integers(1, 4))
@LAWS
def test_an_epoch_takes_every_sample_once_whatever_the_window(lengths: list[int], window: int) -> None:
    """Row i of the identity moves weight i alone, by 1 over the number of samples in its window."""
    total = sum(lengths)
    model = Linear(torch.eye(total, dtype=torch.float64))
    accumulator = fast.GradientAccumulator(torch.optim.SGD([model.w], lr=1.0), window)
    rows = parts(np.arange(total), lengths)
    stepped = [accumulator.backward(model(torch.from_numpy(r)), len(r)) for r in rows]
    assert accumulator.flush() == (len(lengths) % window != 0)
    assert not accumulator.flush()
    assert accumulator.steps == sum(stepped) + (len(lengths) % window != 0) == math.ceil(len(lengths) / window)
    assert accumulator.micro_batches == len(lengths)
    for start in range(0, len(lengths), window):
        members = np.concatenate(rows[start : start + window])
        moved = model.w.detach().numpy()[members]
        assert (np.abs(moved * len(members) + 1) <= 6 * U).all()


@given(seed=seeds, lengths=sizes, c=st.sampled_from((0.05, 1.0, 50.0)))
@LAWS
def test_a_window_of_unequal_parts_steps_with_the_clipped_gradient_of_all_its_samples(
    seed: int, lengths: list[int], c: float
) -> None:
    gradients = drawn(seed, sum(lengths), 3)
    model = Linear(torch.from_numpy(gradients))
    accumulator = fast.GradientAccumulator(torch.optim.SGD(model.parameters(), lr=1.0), 8, max_norm=c)
    for rows in parts(np.arange(len(gradients)), lengths):
        accumulator.backward(model(torch.from_numpy(rows)), len(rows))
    accumulator.flush()
    whole = np.stack([gradients.mean(0), -2 * gradients.mean(0)])
    norm = np.sqrt((whole**2).sum())
    want = true.clip_by_global_norm(whole, max_norm=c)
    found = -np.stack([model.w.detach().numpy(), model.v.detach().numpy()])
    count = 2 * (len(gradients) + 12) * U
    spread = 2 * np.abs(gradients).mean(0).max() * min(1.0, c / norm)
    # what cancels in the mean moves the norm, and with it every element
    lost = np.sqrt((np.abs(gradients).mean(0) ** 2).sum()) / np.sqrt((gradients.mean(0) ** 2).sum())
    assert (np.abs(found - want) <= count * (spread + np.abs(want) * lost)).all()
    assert accumulator.norm is not None
    assert abs(accumulator.norm - norm) <= count * norm * lost


def test_the_sequence_of_one_update_is_average_clip_rate_step_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Linear(torch.eye(3, dtype=torch.float64))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    schedule, ema = fast.WarmupCosine(optimizer, 2, 10), fast.EMA(model, 0.5)
    order: list[str] = []
    for owner, name in ((schedule, "before_step"), (optimizer, "step"), (ema, "update")):
        monkeypatch.setattr(owner, name, lambda *a, _name=name, **k: order.append(_name))
    accumulator = fast.GradientAccumulator(
        optimizer, 1, max_norm=0.1, schedule=schedule, ema=ema, on_step=lambda k: order.append(f"step {k}")
    )
    accumulator.backward(model(torch.arange(3)), 3)
    assert order == ["before_step", "step", "update", "step 1"]


class Scaler:
    """The behaviour of torch.amp.GradScaler that a loop sees, on the CPU."""

    def __init__(self, scale: float) -> None:
        self.factor, self.bad = scale, False

    def scale(self, loss: torch.Tensor) -> torch.Tensor:
        return loss * self.factor

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad.div_(self.factor)
                    self.bad |= not bool(p.grad.isfinite().all())

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        if not self.bad:
            optimizer.step()

    def update(self) -> None:
        self.factor, self.bad = (self.factor / 2 if self.bad else self.factor), False

    def get_scale(self) -> float:
        return self.factor


@pytest.mark.parametrize("scaler", [lambda: Scaler(1024.0), lambda: torch.amp.GradScaler("cpu", init_scale=1024.0)])
def test_gradients_are_unscaled_before_they_are_clipped(scaler: Any) -> None:
    """A power of two scales exactly: the weights are those of the run without a scaler, bit for bit."""
    weights = []
    for chosen in (None, scaler()):
        model = Linear(torch.from_numpy(drawn(0, 6, 4)).float())
        accumulator = fast.GradientAccumulator(
            torch.optim.SGD(model.parameters(), lr=1.0), 2, max_norm=0.3, scaler=chosen
        )
        for rows in ([0, 1, 2], [3], [4, 5]):
            accumulator.backward(model(torch.tensor(rows)), len(rows))
        accumulator.flush()
        weights.append(model.w.detach().clone())
        assert accumulator.steps == 2
    assert torch.equal(*weights)


def test_an_overflow_under_a_scaler_leaves_weights_rate_and_average() -> None:
    model = Linear(torch.full((1, 3), math.inf))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    schedule, ema = fast.WarmupCosine(optimizer, 2, 10), fast.EMA(model, 0.5)
    accumulator = fast.GradientAccumulator(optimizer, 1, max_norm=1.0, scaler=Scaler(8.0), schedule=schedule, ema=ema)
    accumulator.backward(model(torch.tensor([0])), 1)
    assert (accumulator.steps, accumulator.skipped, schedule.step, ema.updates) == (0, 1, 0, 0)
    assert not model.w.any()


@pytest.mark.parametrize("non_finite", ["raise", "skip"])
def test_a_norm_that_is_not_finite_never_reaches_the_weights(non_finite: Any) -> None:
    model = Linear(torch.full((1, 3), math.nan))
    accumulator = fast.GradientAccumulator(
        torch.optim.SGD(model.parameters(), lr=1.0), 1, max_norm=1.0, non_finite=non_finite
    )
    if non_finite == "raise":
        with pytest.raises(FloatingPointError, match="the norm of the gradient was nan"):
            accumulator.backward(model(torch.tensor([0])), 1)
    else:
        accumulator.backward(model(torch.tensor([0])), 1)
        assert accumulator.skipped == 1
    assert not model.w.any()
    assert accumulator.pending == accumulator.steps == 0


# -- clipping ---------------------------------------------------------------------------------------------------------


@both("clip_by_global_norm")
@given(seed=seeds, exponent=st.integers(-6, 6), c=st.sampled_from((0.01, 1.0, 30.0)))
@LAWS
def test_a_clipped_gradient_is_no_longer_than_c_and_points_the_same_way(
    function: Any, seed: int, exponent: int, c: float
) -> None:
    g = drawn(seed, 3, 5) * 10.0**exponent
    clipped = function(g, c)
    norms = [float(np.sqrt((x**2).sum())) for x in (g, clipped)]
    rounding = (g.size + 8) * U
    assert norms[1] <= c * (1 + rounding)
    assert (np.abs(clipped * norms[0] - g * norms[1]) <= 2 * rounding * np.abs(g) * norms[1]).all()
    if norms[0] <= c - 2e-6:
        assert (clipped == g).all(), "a short gradient is not touched"


@both("clip_by_global_norm")
@given(seed=seeds, c=st.sampled_from((0.01, 1.0, 30.0)))
@LAWS
def test_clipping_twice_is_clipping_once_up_to_the_floor_of_the_norm(function: Any, seed: int, c: float) -> None:
    """The second factor is at least c/(c + ε): ε = 10⁻⁶ is all that a second clipping may take."""
    once = function(drawn(seed, 12), c)
    twice = function(once, c)
    assert (np.abs(twice - once) <= (1e-6 / c + 40 * U) * np.abs(once)).all()


@both("clip_by_global_norm")
def test_a_gradient_of_zeros_stays_zero(function: Any) -> None:
    assert (function(np.zeros((2, 3)), 1.0) == 0).all()


def test_squares_neither_overflow_nor_vanish_in_float32() -> None:
    for size in (1e25, 1e-25):
        g = torch.full((4,), size)
        clipped = fast.clip_by_global_norm(g, max_norm=1.0)
        want = 0.5 if size > 1 else size
        assert torch.equal(clipped, torch.full((4,), want) if size > 1 else g)


# -- rate -------------------------------------------------------------------------------------------------------------

GOLDEN = [0, 0.4, 0.8, 0.990166, 0.914058, 0.775, 0.597038, 0.410942, 0.248891, 0.138905]


@both("warmup_cosine_factor")
def test_golden_values_of_the_warm_up_and_the_cosine(function: Any) -> None:
    found = function(np.arange(0, 20, 2), 5, 20, 0.1)
    assert [round(float(f), 6) for f in found] == GOLDEN
    first = function(np.arange(7), 5, 20, 0.0)
    assert [round(float(f), 3) for f in first] == [0, 0.2, 0.4, 0.6, 0.8, 1, 0.989]


@both("warmup_cosine_factor")
@given(warmup=st.integers(0, 20), more=st.integers(1, 40), least=st.floats(0, 1))
@LAWS
def test_the_factor_rises_to_one_at_the_end_of_the_warm_up_and_falls_to_its_least(
    function: Any, warmup: int, more: int, least: float
) -> None:
    total = warmup + more
    f = np.asarray(function(np.arange(total + 5), warmup, total, least))
    assert f[0] == (0 if warmup else 1), "the first update is not at the full rate"
    assert abs(f[warmup] - 1) <= 2 * U
    assert (np.diff(f[: warmup + 1]) > 0).all()
    assert (np.diff(f[warmup:]) <= 4 * U).all()
    assert (f[total:] == least).all()
    assert warmup == 0 or abs(f[warmup] - f[warmup - 1] - 1 / warmup) <= 4 * U, "no jump where the two parts meet"


@given(warmup=st.integers(0, 9), more=st.integers(1, 20), least=st.floats(0, 1))
@LAWS
def test_updates_run_at_the_rate_of_their_own_number(warmup: int, more: int, least: float) -> None:
    """What the optimizer saw when it stepped, in two param groups; SGD on a constant gradient moves by the rate."""
    weights = [torch.zeros(1, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": weights[:1], "lr": 0.5}, {"params": weights[1:], "lr": 2.0}])
    total = warmup + more
    schedule = fast.WarmupCosine(optimizer, warmup, total, least)
    used: list[list[float]] = [[], []]
    for _ in range(total + 2):
        for w in weights:
            w.grad = -torch.ones_like(w)
            w.data.zero_()
        schedule.before_step()
        optimizer.step()
        for seen, w in zip(used, weights, strict=True):
            seen.append(float(w.detach()))
    f = true.warmup_cosine_factor(np.arange(total + 2), warmup_steps=warmup, total_steps=total, min_lr_ratio=least)
    assert (np.abs(np.array(used) - np.array([[0.5], [2.0]]) * f) <= 6 * U * 2).all()


# -- average ----------------------------------------------------------------------------------------------------------


@both("ema_update")
@given(seed=seeds, decay=st.floats(0, 0.999), k=st.integers(1, 6))
@LAWS
def test_k_updates_towards_the_same_weights_are_one_with_the_decay_to_the_k(
    function: Any, seed: int, decay: float, k: int
) -> None:
    start, x = drawn(seed, 2, 4)
    a = start
    for _ in range(k):
        a = function(a, x, decay)
    rounding = 4 * (k + 1) * U * (np.abs(start) + np.abs(x))
    assert (np.abs(a - (decay**k * start + (1 - decay**k) * x)) <= rounding).all()


@both("ema_update")
@given(seed=seeds, decay=st.floats(0, 0.999))
@LAWS
def test_an_average_lies_between_and_rests_at_its_weights(function: Any, seed: int, decay: float) -> None:
    a, x = drawn(seed, 2, 4)
    found = function(a, x, decay)
    slack = 2 * U * (np.abs(a) + np.abs(x))
    assert (np.minimum(a, x) - slack <= found).all()
    assert (found <= np.maximum(a, x) + slack).all()
    assert (function(x, x, decay) == x).all()


def test_the_average_of_a_module_is_the_equation_once_per_update() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).double()
    ema = fast.EMA(model, 0.9)
    want = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    for k in range(5):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        model(torch.randn(4, 3, dtype=torch.float64))
        ema.update()
        for name, p in model.named_parameters():
            want[name] = true.ema_update(want[name], p.detach().numpy(), decay=0.9)
            size = np.abs(want[name]) + np.abs(p.detach().numpy())
            assert (np.abs(ema.average[name].numpy() - want[name]) <= 4 * (k + 1) * U * size.max()).all()
    assert torch.equal(ema.average["1.running_mean"], model[1].running_mean), "buffers are copied"
    assert int(ema.average["1.num_batches_tracked"]) == 5


def test_an_average_of_half_weights_moves_where_one_in_halves_stands_still() -> None:
    model = torch.nn.Linear(1, 1, bias=False).bfloat16()
    with torch.no_grad():
        model.weight.fill_(1.0)
    ema, stuck = fast.EMA(model, 0.999), torch.ones(1, 1, dtype=torch.bfloat16)
    with torch.no_grad():
        model.weight.fill_(2.0)
    for _ in range(1000):
        ema.update()
        stuck = fast.ema_update(stuck, model.weight.detach(), decay=0.999)
    assert float(stuck) == 1.0
    assert abs(float(ema.average["weight"]) - (2 - 0.999**1000)) <= 1000 * 2.0**-24 * 2
    assert ema.weights()["weight"].dtype == torch.bfloat16


def test_swapping_the_average_in_and_out_gives_the_same_bits_back_also_after_an_error() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    ema = fast.EMA(model, 0.5)
    with torch.no_grad():
        model[0].weight.mul_(3)
    own = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(KeyError), ema.averaged() as averaged:
        assert torch.equal(model[0].weight, ema.average["0.weight"])
        assert averaged is model and not torch.equal(model[0].weight, own["0.weight"])
        with pytest.raises(RuntimeError, match="twice"), ema.averaged():
            pass
        with pytest.raises(RuntimeError, match="inside averaged"):
            ema.update()
        raise KeyError
    assert all(torch.equal(v, own[k]) for k, v in model.state_dict().items())


def test_tied_weights_are_averaged_once() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    model[1].weight = model[0].weight
    ema = fast.EMA(model, 0.5)
    with torch.no_grad():
        model[0].weight.add_(1.0)
    ema.update()
    assert set(ema.average) == {"0.weight", "0.bias", "1.bias"}
    assert torch.equal(ema.weights()["0.weight"], ema.weights()["1.weight"])


# -- rules ------------------------------------------------------------------------------------------------------------

PROFILES = [(1, 512, 4), (2, 512, 8), (4, 1024, 12), (8, 1024, 16), (16, 1024, 32), (20, 1536, 48)]
settings_of_a_network = st.tuples(
    st.integers(1, 32), st.integers(16, 2048), st.integers(8, 512), st.integers(1, 8), st.integers(0, 64)
)


@both("legacy_memory_heuristic")
def test_golden_values_of_the_memory_heuristic(function: Any) -> None:
    """The documented profiles, 6 to 32 GB, in mixed precision; all but the first with a CLIP model."""
    found = [float(function(b, r, 192, 4, cache, True, b * r > 512)) for b, r, cache in PROFILES]
    assert found == [332.5, 595, 1490, 2510, 4590, 11920]


@both("legacy_memory_heuristic")
@given(numbers=settings_of_a_network, flags=st.tuples(st.booleans(), st.booleans()), at=st.integers(0, 4))
@LAWS
def test_the_memory_heuristic_never_falls_with_a_setting_and_is_linear_in_the_batch(
    function: Any, numbers: tuple[int, ...], flags: tuple[bool, bool], at: int
) -> None:
    def call(n: list[int] | tuple[int, ...]) -> float:
        return float(function(*n, *flags))

    more = [n + (i == at) for i, n in enumerate(numbers)]
    assert call(more) >= call(numbers)
    batch, resolution, channels, *_ = numbers
    slope = 500 * (0.5 if flags[0] else 1.0) * max(channels / 192, 0.5) * (resolution / 1024) ** 2
    rise = call([batch + 1, *numbers[1:]]) - call(numbers)
    assert abs(rise - slope) <= 16 * U * call([batch + 1, *numbers[1:]])
    assert float(function(*numbers, False, flags[1])) > float(function(*numbers, True, flags[1]))


@both("batch_size")
@given(a=st.floats(0, 100), b=st.floats(0, 100))
@LAWS
def test_more_free_memory_never_means_a_smaller_batch(function: Any, a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert int(function(low)) <= int(function(high))


@both("batch_size")
def test_tiers_begin_at_their_boundary(function: Any) -> None:
    table = {0: 1, 8: 2, 12: 4, 16: 8, 24: 16}
    assert {k: int(function(float(k))) for k in table} == table
    assert [int(function(math.nextafter(k, 0))) for k in (8, 12, 16, 24)] == [1, 2, 4, 8]


# -- what is refused --------------------------------------------------------------------------------------------------

X, N = torch.ones(2, 3), torch.tensor([1, 2])
SGD = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: fast.accumulate(X.long(), N), "gradients had dtype torch.int64"),
        (lambda: fast.accumulate(X[0, 0], N), r"gradients had shape \(\); it must be \(K, ...\)"),
        (lambda: fast.accumulate(X, N.float()), "counts was torch.float32"),
        (lambda: fast.accumulate(X, [1, 2]), "counts was list"),  # type: ignore[arg-type]
        (lambda: fast.accumulate(X, N[:1]), r"counts had shape \(1,\); it must be \(2,\)"),
        (lambda: fast.accumulate(X, N - 1), "counts had 0 in it"),
        (lambda: fast.clip_by_global_norm(X, max_norm=0.0), "max_norm was 0.0; it must be a positive, finite number"),
        (lambda: fast.clip_by_global_norm(X, max_norm=math.nan), "max_norm was nan"),
        (lambda: fast.clip_after_average(X, N, max_norm=math.inf), "max_norm was inf"),
        (lambda: fast.steps_per_epoch(-1, 2), "micro_batches was -1; it must be an integer of at least 0"),
        (lambda: fast.steps_per_epoch(3, 0), "window was 0; it must be an integer of at least 1"),
        (
            lambda: fast.warmup_cosine_factor(X, warmup_steps=1, total_steps=2, min_lr_ratio=0.0),
            "step was torch.float32",
        ),
        (
            lambda: fast.warmup_cosine_factor(N, warmup_steps=3, total_steps=3, min_lr_ratio=0.0),
            "warmup_steps was 3; it must be less than total_steps, 3",
        ),
        (
            lambda: fast.warmup_cosine_factor(N, warmup_steps=1, total_steps=3, min_lr_ratio=1.5),
            r"min_lr_ratio was 1.5; it must be a number in \[0, 1\]",
        ),
        (lambda: fast.ema_update(X, X.double(), decay=0.5), "parameter was .* it must be like average"),
        (lambda: fast.ema_update(X, X, decay=1.0), r"decay was 1.0; it must be a number in \[0, 1\)"),
        (
            lambda: fast.legacy_memory_heuristic(
                0, 64, base_channels=64, levels=1, kernel_cache=0, mixed_precision=True, clip_model=False
            ),
            "batch was 0",
        ),
        (lambda: fast.batch_size(-1.0), "free was -1.0; it must be a number of at least 0"),
        (lambda: fast.batch_size(math.nan), "free was nan"),
        (lambda: fast.GradientAccumulator(SGD, 0), "window was 0"),
        (lambda: fast.GradientAccumulator(SGD, 1, max_norm=-1.0), "max_norm was -1.0"),
        (lambda: fast.GradientAccumulator(SGD, 1, non_finite="ignore"), "non_finite was 'ignore'"),  # type: ignore[arg-type]
        (lambda: fast.GradientAccumulator(SGD, 1).backward(X), r"loss had shape \(2, 3\); it must be one number"),
        (lambda: fast.GradientAccumulator(SGD, 1).backward(X.sum(), 0), "samples was 0"),
        (lambda: fast.WarmupCosine(SGD, 5, 5), "warmup_steps was 5; it must be less than total_steps"),
        (lambda: fast.EMA(torch.nn.Linear(1, 1), 1.0), "decay was 1.0"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(call: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()
