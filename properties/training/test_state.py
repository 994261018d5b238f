"""The classes of the training loop are copied, pickled and saved as torch's schedulers and modules are."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch

from trueness.optimized import training as fast


class Loop:
    """A model and what is updated with it."""

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
        with torch.no_grad():
            for p in self.model.parameters():
                p.copy_(torch.randn(p.shape, generator=generator))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.schedule = fast.WarmupCosine(self.optimizer, warmup_steps=2, total_steps=9, min_lr_ratio=0.1)
        self.ema = fast.EMA(self.model, decay=0.9)
        self.accumulator = fast.GradientAccumulator(
            self.optimizer, 2, max_norm=1.0, schedule=self.schedule, ema=self.ema
        )

    def step(self) -> None:
        x = torch.arange(12.0).reshape(4, 3)
        for rows in (x[:2], x[2:]):
            self.accumulator.backward(self.model(rows).square().mean(), len(rows))

    def numbers(self) -> list[Any]:
        """Weights, average, rate and counts."""
        tensors = [*self.model.state_dict().values(), *self.ema.average.values()]
        counts = [self.schedule.step, self.ema.updates, self.accumulator.steps, self.accumulator.norm]
        return [*(t.tolist() for t in tensors), self.optimizer.param_groups[0]["lr"], *counts]


def by_pickle(loop: Loop) -> Loop:
    found: Loop = pickle.loads(pickle.dumps(loop))
    return found


def by_torch(loop: Loop) -> Loop:
    file = io.BytesIO()
    torch.save(loop, file)
    file.seek(0)
    found: Loop = torch.load(file, weights_only=False)
    return found


def by_state(loop: Loop) -> Loop:
    """A new loop that loads the states, each through a file that is read without running code."""
    found = Loop(seed=1)
    for name in ("model", "optimizer", "schedule", "ema", "accumulator"):
        file = io.BytesIO()
        torch.save(getattr(loop, name).state_dict(), file)
        file.seek(0)
        getattr(found, name).load_state_dict(torch.load(file, weights_only=True))
    found.accumulator.norm = loop.accumulator.norm  # a measurement of the last step, not a state
    return found


COPIES: dict[str, Callable[[Loop], Loop]] = {
    "deepcopy": copy.deepcopy,
    "pickle": by_pickle,
    "torch.save": by_torch,
    "state_dict": by_state,
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_copy_goes_on_to_the_same_bits_and_leaves_the_original_alone(copied: Callable[[Loop], Loop]) -> None:
    loop = Loop()
    for _ in range(2):
        loop.step()
    before, twin = loop.numbers(), copied(loop)
    assert twin.numbers() == before
    for _ in range(2):
        twin.step()
    assert loop.numbers() == before, "nothing is shared"
    for _ in range(2):
        loop.step()
    assert twin.numbers() == loop.numbers() != before


@pytest.mark.parametrize("name", ["schedule", "ema"])
def test_a_copy_alone_brings_its_own_optimizer_or_module(name: str) -> None:
    """As deepcopy of a torch scheduler does."""
    loop = Loop()
    loop.step()
    twin, before = copy.deepcopy(getattr(loop, name)), loop.numbers()
    if name == "ema":
        assert twin.module is not loop.model
        with torch.no_grad():
            twin.module[0].weight.add_(1.0)
        twin.update()
        assert not torch.equal(twin.average["0.weight"], loop.ema.average["0.weight"])
    else:
        assert twin.optimizer is not loop.optimizer
        assert twin.before_step() == [0.1 * loop.schedule.factor(1)]
    assert loop.numbers() == before


def test_the_state_of_a_schedule_has_the_names_of_its_arguments() -> None:
    assert Loop().schedule.state_dict() == {
        "step": 0,
        "base_lrs": [0.1],
        "warmup_steps": 2,
        "total_steps": 9,
        "min_lr_ratio": 0.1,
    }


def test_a_copied_cache_forgets_nothing_and_shares_nothing() -> None:
    cache = fast.FeatureCache(torch.cos, size=2)
    x = torch.arange(3.0)
    cache(x)
    twin = copy.deepcopy(cache)
    assert torch.equal(twin(x), torch.cos(x)) and (twin.hits, cache.hits) == (1, 0)
    twin.clear()
    cache(x)
    assert (len(twin), len(cache), cache.hits) == (0, 1, 1)


def test_a_copied_wrapper_of_graphs_calls_its_own_module() -> None:
    graphed = fast.Graphed(torch.nn.Linear(2, 2).eval(), inputs=1)
    twin, x = copy.deepcopy(graphed), torch.ones(1, 2)
    before = graphed(x)
    with torch.no_grad():
        twin.module.weight.zero_()  # type: ignore[union-attr,operator]
    assert torch.equal(graphed(x), before) and not torch.equal(twin(x), before)
