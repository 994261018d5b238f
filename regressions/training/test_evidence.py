"""Evidence for ATLAS-07, -09 and -14 … -20: what was shipped, run beside what a user wants."""

from __future__ import annotations

import ast
import math
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trueness.optimized import training as fast
from trueness.optimized.training.memory import subjects
from trueness.properties._lib.flat import Flat
from trueness.properties.training import FORMULAS
from trueness.reference import training as true
from trueness.regressions.training import GRADIENTS
from trueness.regressions.training import variants as wrong

U = 2.0**-53
flat = Flat(FORMULAS)
heuristic, documented_estimate = flat(fast.legacy_memory_heuristic), flat(true.legacy_memory_heuristic)
HOME = Path(__file__).resolve().parents[2]


# -- ATLAS-07: accumulation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "window", "old"), [(10, 4, (2, 8)), (3, 4, (0, 0)), (8, 4, (2, 8))])
def test_the_rest_of_an_epoch_is_stepped_ATLAS_07a(n: int, window: int, old: tuple[int, int]) -> None:
    """Without ``flush`` only full windows are stepped, (steps, micro-batches that reached the weights)."""
    model = torch.nn.Linear(2, 1)
    accumulator = fast.GradientAccumulator(torch.optim.SGD(model.parameters(), lr=0.1), window)
    for _ in range(n):
        accumulator.backward(model(torch.ones(1, 2)).mean())
    assert (accumulator.steps, accumulator.micro_batches - accumulator.pending) == old
    assert accumulator.steps == int(wrong.remainder_dropped(n, window))
    accumulator.flush()
    assert (accumulator.steps, accumulator.micro_batches) == (math.ceil(n / window), n)


def gradients_of(model: torch.nn.Module, x: torch.Tensor, lengths: list[int]) -> np.ndarray:
    """The gradient of the mean loss of every micro-batch."""
    found = []
    for part in x.split(lengths):
        model.zero_grad()
        model(part).square().mean().backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).numpy())
    return np.stack(found)


@pytest.fixture
def micro_batches() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of micro-batches of 4, 4 and 1 samples, their counts, and the gradient of all nine at once."""
    with fast.deterministic(0, strict=False):
        model = torch.nn.Linear(3, 2).double()
    x = torch.randn(9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = gradients_of(model, x, [9])[0]
    return gradients_of(model, x, [4, 4, 1]), np.array([4, 4, 1]), whole


def test_a_short_window_divided_by_the_full_one_is_too_small_ATLAS_07b(micro_batches: Any) -> None:
    gradients, counts, whole = micro_batches
    short = wrong.divided_by_window(gradients, counts)
    assert (np.abs(short / whole - 3 / 4) <= 64 * U * np.abs(gradients).max() / np.abs(whole)).all()


def test_the_mean_of_means_is_not_the_gradient_of_the_samples_ATLAS_07d(
    micro_batches: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    gradients, counts, whole = micro_batches
    rounding = 64 * U * np.abs(gradients).max()
    assert (np.abs(true.accumulate(gradients, counts) - whole) <= rounding).all()
    off = np.linalg.norm(wrong.mean_of_means(gradients, counts) - whole) / np.linalg.norm(whole)
    assert (np.abs(wrong.mean_of_means(gradients, counts) - whole) > rounding).all()
    with capsys.disabled():
        print(f"\n  micro-batches of 4, 4 and 1: the mean of means is {off:.0%} off the gradient of the nine samples")
    same = np.full(3, 4)
    equal = wrong.mean_of_means(gradients, same) - true.accumulate(gradients, same)
    assert (np.abs(equal) <= rounding).all(), "parts of one size are the blind spot"


def test_clipped_before_the_division_no_update_is_longer_than_c_over_k_ATLAS_07c() -> None:
    gradients, counts = GRADIENTS, np.array([2, 2, 2])
    late, early = (f(gradients, counts, 0.5) for f in (flat(true.clip_after_average), wrong.clipped_before_dividing))
    norms = [float(np.sqrt((g**2).sum())) for g in (late, early)]
    assert norms[1] <= 0.5 / 3 < norms[0] <= 0.5


def test_an_outlier_weighs_less_when_every_part_is_clipped_ATLAS_07f() -> None:
    gradients, counts = np.array([[100.0, 0.0], [0.0, 1.0]]), np.array([1, 1])
    together, apart = (f(gradients, counts, 1.0) for f in (flat(true.clip_after_average), wrong.each_clipped))
    assert together[0] > 99 * together[1]
    assert apart[0] < 2 * apart[1], "another direction"


def test_decay_to_the_power_of_the_window_is_that_many_updates_ATLAS_07e() -> None:
    stays = wrong.decay_of_the_window(np.ones(1), np.zeros(1), 0.9999)  # the share of the old average
    assert f"{float(stays[0]):.8f}" == "0.99960006"
    a, x = np.array([1.0]), np.array([2.0])
    four = a
    for _ in range(4):
        four = true.ema_update(four, x, decay=0.9999)
    assert abs(float((wrong.decay_of_the_window(a, x, 0.9999) - four)[0])) <= 16 * U * 2
    assert float(true.ema_update(a, x, decay=0.9999)[0]) - 1 < 0.26 * (float(four[0]) - 1), "a quarter of the way"


def test_with_the_weights_swapped_the_average_is_the_last_step_ATLAS_07g() -> None:
    a = np.array([0.0])
    for x in (1.0, -1.0, 1.0, -1.0):
        a = wrong.swapped_decay(a, np.array([x]), 0.99)
    assert a[0] < -0.97
    a = np.array([0.0])
    for x in (1.0, -1.0, 1.0, -1.0):
        a = true.ema_update(a, np.array([x]), decay=0.99)
    assert abs(a[0]) < 0.02


# -- ATLAS-09: the feature cache --------------------------------------------------------------------------------------


def described(x: torch.Tensor) -> tuple[Any, ...]:
    return (tuple(x.shape), x.dtype, str(x.device))


KEYS: dict[str, Callable[[torch.Tensor], Any]] = {
    "a": lambda x: (float(x.double().sum()), *described(x)),
    "b": lambda x: (x.data_ptr(), *described(x)),
    "c": lambda x: (x.flatten()[:: max(1, x.numel() // 256)].numpy().tobytes(), *described(x)),
    "d": lambda x: (x.data_ptr(), float(x.flatten()[:4].sum()), *described(x)),
}


class Keyed:
    """A cache as it was shipped, with the key of one of the variants."""

    def __init__(self, compute: Any, key: Any) -> None:
        self.compute, self.key, self.kept = compute, key, {}

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        key = self.key(x)
        if key not in self.kept:
            self.kept[key] = self.compute(x)
        return self.kept[key]


def features(x: torch.Tensor) -> torch.Tensor:
    return torch.cos(x @ torch.arange(1.0, 1 + x.shape[1] * 3).reshape(x.shape[1], 3))


def permuted(cache: Any) -> Iterator[torch.Tensor]:
    """Integers, whose sum has no rounding, in another order."""
    x = torch.arange(600.0).reshape(100, 6)
    yield x
    yield x.flip(0).contiguous()


def edited(cache: Any) -> Iterator[torch.Tensor]:
    """The same storage with another element."""
    x = torch.arange(600.0).reshape(100, 6)
    yield x
    x[50, 3] += 1
    yield x


def freed(cache: Any) -> Iterator[torch.Tensor]:
    """Memory that is handed out again: small batches from a pool, one after the other."""
    pool = np.empty((100, 6), np.float32)
    for k in range(100):
        x = torch.from_numpy(pool).fill_(float(k % 7))
        x[0] = 1.0
        yield x
        del x


def edited_between_samples(cache: Any) -> Iterator[torch.Tensor]:
    """A copy that differs in one element of thousands."""
    x = torch.arange(6000.0).reshape(1000, 6)
    yield x
    y = x.clone()
    y[500, 1] += 1
    yield y


PROBES = {f.__name__: f for f in (permuted, edited, freed, edited_between_samples)}
KILLED = {"a": ["permuted"], "b": ["edited", "freed"], "c": ["edited_between_samples"], "d": ["edited", "freed"]}


def stale(cache: Any, probe: Any) -> int:
    """How many results are not those of a fresh computation."""
    return sum(not torch.equal(cache(x), features(x)) for x in probe(cache))


@pytest.mark.parametrize("letter", KEYS)
def test_a_cache_that_does_not_look_at_the_content_returns_old_features_ATLAS_09a_ATLAS_09b_ATLAS_09c_ATLAS_09d(
    letter: str,
) -> None:
    for name in KILLED[letter]:
        assert stale(Keyed(features, KEYS[letter]), PROBES[name]), f"{name} does not detect key {letter}"
        assert not stale(fast.FeatureCache(features), PROBES[name])


@pytest.mark.parametrize("name", PROBES)
def test_a_cache_keyed_by_content_returns_fresh_features_ATLAS_09b(name: str) -> None:
    cache = fast.FeatureCache(features)
    assert stale(cache, PROBES[name]) == 0
    assert cache.hits == (93 if name == "freed" else 0), "and it does remember"


def test_an_address_is_no_identifier_ATLAS_09b(capsys: pytest.CaptureFixture[str]) -> None:
    seen: set[int] = set()
    keys: set[Any] = set()
    again = 0
    for k in range(100):
        x = torch.full((1000,), float(k))
        again += x.data_ptr() in seen
        seen.add(x.data_ptr())
        keys.add(fast.content_key(x))
        del x
    with capsys.disabled():
        print(f"\n  of 100 tensors, each freed before the next, {again} had an address that had been seen before")
    assert again
    assert len(keys) == 100, "the keys of contents are all different"


def test_an_edit_in_place_keeps_address_and_samples_ATLAS_09d() -> None:
    score = torch.full((1000,), 0.463)
    cache = Keyed(lambda s: s * s + 6e-4, KEYS["d"])
    first = cache(score)
    score[100] = 100.0
    assert cache(score)[100] == first[0], "where 10000.0006 is right"
    assert round(float(fast.FeatureCache(lambda s: s.double() ** 2 + 6e-4)(score)[100]), 4) == 10000.0006


# -- ATLAS-14: the memory estimate ------------------------------------------------------------------------------------


def network(channels: int) -> torch.nn.Module:
    nn = torch.nn
    inner = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.GroupNorm(4, channels), nn.SiLU())
    return nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), inner, nn.Conv2d(channels, 3, 3, padding=1))


def test_no_constant_of_the_heuristics_survives_a_measurement_ATLAS_14(capsys: pytest.CaptureFixture[str]) -> None:
    """Ratio of estimate to measured peak: a reliable estimate may be off by a factor, but by the same one."""
    ratios: dict[str, list[float]] = {"old formula": [], "new formula": [], "simulated step": []}
    for batch, side, channels in ((1, 64, 32), (4, 64, 32), (1, 128, 32), (1, 64, 96)):
        model, x = network(channels), torch.zeros(batch, 3, side, side)
        measured = fast.measure_memory(model, [x]) + sum(p.numel() * 4 for p in model.parameters())
        settings = (batch, side, channels, 1, 0, False, False)
        ratios["old formula"].append(float(wrong.old_estimate(*settings)) * 2**20 / measured)
        ratios["new formula"].append(heuristic(*settings) * 2**20 / measured)
        ratios["simulated step"].append(fast.estimate_memory(model, [x]).total / measured)
    spread = {name: max(r) / min(r) for name, r in ratios.items()}
    with capsys.disabled():
        print()
        for name, found in ratios.items():
            print(f"  {name:15} estimate/measured {min(found):7.2f} … {max(found):7.2f}, ", end="")
            print(f"a factor {spread[name]:.2f} apart")
    assert spread["simulated step"] < min(spread["old formula"], spread["new formula"])
    assert max(abs(math.log(r)) for r in ratios["simulated step"]) < min(
        abs(math.log(r)) for name in ("old formula", "new formula") for r in ratios[name]
    )


def test_weights_of_convolutions_grow_with_the_square_of_the_channels_ATLAS_14() -> None:
    def weights(c: int) -> int:
        return sum(p.numel() for _ in range(3) for p in torch.nn.Conv2d(c, c, 3).parameters())

    assert (weights(192), weights(384)) == (995904, 3982464)
    fixed = (64, 4, 0, True, False)

    def parameters(function: Any, c: int) -> float:
        """The estimate for no pixels: what is left is parameters and the constant 100."""
        return float(function(0, fixed[0], c, *fixed[1:])) - 100

    assert parameters(documented_estimate, 384) == 2 * parameters(documented_estimate, 192)
    assert parameters(wrong.width_squared, 384) == 4 * parameters(wrong.width_squared, 192)


def test_estimates_of_the_smaller_profiles_went_down_ATLAS_14() -> None:
    profiles = [(1, 512, 4), (2, 512, 8), (4, 1024, 12), (8, 1024, 16), (16, 1024, 32), (20, 1536, 48)]
    old = [float(wrong.old_estimate(b, r, 192, 4, k, True, False)) for b, r, k in profiles]
    new = [
        fast.legacy_memory_heuristic(
            b, r, base_channels=192, levels=4, kernel_cache=k, mixed_precision=True, clip_model=b * r > 512
        )
        for b, r, k in profiles
    ]
    assert old == [400, 650, 1150, 2150, 4150, 5150]
    assert [n < o for n, o in zip(new, old, strict=True)] == [True, True, False, False, False, False]


# -- ATLAS-15: checkpoints --------------------------------------------------------------------------------------------


def test_weights_that_do_not_fit_are_not_skipped_in_silence_ATLAS_15a() -> None:
    trained, fresh = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    renamed = {f"module.{k}": v for k, v in trained.state_dict().items()}
    before = fresh.weight.clone()
    fresh.load_state_dict(renamed, strict=False)
    assert torch.equal(fresh.weight, before), "loaded without an error, and still random"
    fits = {k: v for k, v in torch.nn.Linear(3, 4).state_dict().items() if v.shape == fresh.state_dict()[k].shape}
    fresh.load_state_dict(fits, strict=False)
    assert torch.equal(fresh.weight, before), "and so are weights of another shape, once they are filtered out"
    for state in (renamed, torch.nn.Linear(3, 4).state_dict(), trained.double().state_dict()):
        with pytest.raises(fast.CheckpointError, match="does not fit model"):
            fast.check_state(fresh, state, "model")


def test_the_average_is_found_under_the_name_it_was_saved_under_ATLAS_15b(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    ema = fast.EMA(model, 0.5)
    with torch.no_grad():
        model.weight.add_(1.0)
    torch.save({"model": model.state_dict(), "ema": ema.weights()}, tmp_path / "theirs.pt")

    def as_it_was(saved: dict[str, Any]) -> Any:
        return saved.get("model") if "ema_model" not in saved else saved["ema_model"]

    chosen = as_it_was(torch.load(tmp_path / "theirs.pt", weights_only=True))
    assert torch.equal(chosen["weight"], model.weight), "the last weights, and nobody is told"
    fresh = torch.nn.Linear(2, 2)
    assert fast.load_weights(tmp_path / "theirs.pt", fresh, which="ema") == "ema"
    assert torch.equal(fresh.weight, ema.average["weight"])


# -- ATLAS-16: hardware -----------------------------------------------------------------------------------------------


def test_no_new_tier_is_lower_and_four_ranges_are_doubled_ATLAS_16a() -> None:
    free = np.arange(0, 40, 0.25)
    old, new = wrong.old_tiers(free), true.batch_size(free)
    assert (new >= old).all(), "conservative would be the other way"
    doubled = free[new == 2 * old]
    edges = [float(x) for k, x in enumerate(doubled) if k == 0 or doubled[k - 1] != x - 0.25]
    assert edges == [8, 12, 16, 24]
    assert set(np.unique(new / old)) == {1.0, 2.0}


CAPABILITIES = [(major, minor) for major in range(3, 13) for minor in range(10)]


def test_bfloat16_only_where_it_is_in_hardware_ATLAS_16b() -> None:
    """torch.cuda.is_bf16_supported() counts emulation, and so sends a Turing card, 7.5, to bfloat16."""
    assert fast.precision((7, 5)) == torch.float16
    chosen = {c: fast.precision(c) for c in CAPABILITIES}
    assert all((dtype == torch.bfloat16) == (c >= (8, 0)) for c, dtype in chosen.items())
    assert fast.precision(None) == torch.float32


# -- ATLAS-17: CUDA graphs --------------------------------------------------------------------------------------------


class Plain(torch.nn.Module):
    def forward(self, x: Any, t: Any) -> Any:
        return x


class Conditioned(torch.nn.Module):
    def forward(self, x: Any, t: Any, cond: Any) -> Any:
        return x + cond


class Masked(torch.nn.Module):
    def forward(self, x: Any, t: Any, cond: Any, mask: Any) -> Any:
        return x + cond


class Optional(torch.nn.Module):
    def forward(self, x: Any, t: Any, cond: Any = None) -> Any:
        return x if cond is None else x + cond


class KeywordOnly(torch.nn.Module):
    def forward(self, x: Any, t: Any, *, cond: Any) -> Any:
        return x


class Tuned(torch.nn.Module):
    def forward(self, x: Any, t: Any, *, scale: float = 1.0) -> Any:
        return x


class Anything(torch.nn.Module):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return args[0]


class AlsoKeywords(torch.nn.Module):
    def forward(self, x: Any, t: Any, **kwargs: Any) -> Any:
        return x


class One(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return x


def documented(module: torch.nn.Module) -> bool:
    """The fix: more than three parameters, self, x and t, turn graphs off."""
    import inspect

    return len(inspect.signature(module.forward).parameters) <= 3


@pytest.mark.parametrize(
    ("module", "eligible", "fix"),
    [
        (Plain, True, True),
        (Tuned, True, True),
        (Conditioned, False, True),
        (Optional, False, True),
        (KeywordOnly, False, True),
        (Anything, False, True),
        (AlsoKeywords, False, True),
        (One, False, True),
        (Masked, False, False),
    ],
)
def test_a_network_with_a_condition_is_not_captured_ATLAS_17(module: Any, eligible: bool, fix: bool) -> None:
    found = fast.graphable(module())
    assert bool(found) == eligible
    assert eligible or found.reason
    assert documented(module()) == fix


@pytest.mark.parametrize("module", [Conditioned, Masked, Optional])
def test_a_network_with_a_condition_is_called_with_the_condition_it_is_given_ATLAS_17(module: Any) -> None:
    """A replay would return the output for the condition at capture, whatever is passed later."""
    graphed, x = fast.Graphed(module().eval()), torch.zeros(1)
    rest = [torch.zeros(1)] * (module is Masked)
    for condition in (torch.ones(1), torch.full((1,), 2.0)):
        assert torch.equal(graphed(x, x, condition, *rest), x + condition)
        assert graphed.why.startswith("it takes ")


# -- ATLAS-18: determinism --------------------------------------------------------------------------------------------


def draws() -> tuple[float, float, float]:
    return float(torch.rand(())), float(np.random.rand()), random.random()  # noqa: NPY002


def seeded_as_it_was(value: int) -> None:
    torch.manual_seed(value)
    np.random.seed(value)  # noqa: NPY002
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def test_all_three_generators_are_seeded_ATLAS_18a() -> None:
    found = []
    with fast.deterministic():  # puts back what follows
        for seed in (seeded_as_it_was, fast.seed):
            for _ in range(2):
                seed(5)
                found.append(draws())
    assert found[0][:2] == found[1][:2]
    assert found[0][2] != found[1][2], "Python's own was forgotten"
    assert found[2] == found[3]


def flags() -> tuple[Any, ...]:
    return (
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    )


def test_determinism_ends_with_its_block_ATLAS_18b(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before, state = flags(), fast.random_state()
    with fast.deterministic():
        seeded_as_it_was(5)
        assert torch.backends.cudnn.deterministic, "and nothing in that function turns it off again"
    for leave in (False, True):
        try:
            with fast.deterministic(3):
                assert flags() == (True, False, True, False, ":4096:8")
                draws()
                if leave:
                    raise KeyError
        except KeyError:
            pass
        assert flags() == before
    after = fast.random_state()
    assert torch.equal(state["torch"], after["torch"])
    assert state["python"] == after["python"]
    assert torch.equal(state["numpy"]["state"]["key"]["__array__"], after["numpy"]["state"]["key"]["__array__"])


# -- ATLAS-19, ATLAS-20: files that parse -----------------------------------------------------------------------------


def unparsable(files: Any) -> list[str]:
    found = []
    for path in files:
        try:
            ast.parse(path.read_text("utf-8"), str(path))
        except SyntaxError as error:
            found.append(f"{path.name}:{error.lineno}")
    return found


@pytest.mark.ledger_fact
def test_every_file_of_the_package_parses_ATLAS_19_ATLAS_20(tmp_path: Path) -> None:
    folders = [HOME / name for name in ("reference", "optimized", "properties", "regressions", "tools")]
    files = [p for folder in folders for p in folder.rglob("*.py")]
    assert HOME / "optimized" / "kernels" / "rff.py" in files, "packages are searched, too"
    assert unparsable(files) == []
    (tmp_path / "rff.py").write_text("x = (1,\n")
    (tmp_path / "nystrom.py").write_text("y = 1)\n")
    assert unparsable(sorted(tmp_path.iterdir())) == ["nystrom.py:1", "rff.py:1"]


def test_the_modules_of_the_calibration_are_real_ATLAS_14() -> None:
    """Each of them has weights that a step gives a gradient to."""
    for make, inputs in subjects().values():
        model = make()
        output = model(*inputs(2))
        (output[0] if isinstance(output, tuple) else output).square().mean().backward()
        assert all(p.grad is not None for p in model.parameters())
