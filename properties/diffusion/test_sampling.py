"""The samplers of GaussianDiffusion: their steps, the mode of the model, their random numbers, and their result."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from trueness.optimized import diffusion as fast
from trueness.optimized.diffusion.sampling import spaced_timesteps
from trueness.properties._lib.laws import assert_refused
from trueness.reference import diffusion as true
from trueness.tools.arithmetic.bounds import LIMITS
from trueness.tools.arithmetic.formats import precision

F64 = precision("float64")
T = 20
BETAS = fast.linear_betas(T, beta_start=1e-3, beta_end=0.4)
PROCESS = fast.GaussianDiffusion(BETAS)
SHAPE = (2, 3)


class Zero(nn.Module):
    """Predicts no noise, and records the steps it was called with and its mode."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.live = nn.BatchNorm1d(3), nn.Dropout(0.5)
        self.frozen.eval()
        self.steps: list[int] = []
        self.modes: list[bool] = []

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        assert t.dtype == torch.int64 and t.shape == x.shape[:1] and not torch.is_grad_enabled()
        self.steps.append(int(t[0]))
        self.modes.append(any(m.training for m in self.modules()))
        return torch.zeros_like(x)


def ddpm(model: Any, **options: Any) -> torch.Tensor:
    return PROCESS.ddpm(model, SHAPE, **{"clip": True, "generator": torch.Generator().manual_seed(0), **options})


def ddim(model: Any, steps: int = 5, eta: float = 0.0, **options: Any) -> torch.Tensor:
    given = {"clip": True, "recompute_eps": True, "generator": torch.Generator().manual_seed(0), **options}
    return PROCESS.ddim(model, SHAPE, steps=steps, eta=eta, **given)


def test_the_loop_asks_for_every_step_from_the_last_to_the_first() -> None:
    model, seen = Zero(), []
    ddpm(model, progress=lambda done, total: seen.append((done, total)))
    assert model.steps == list(range(T - 1, -1, -1))
    assert seen == [(k, T) for k in range(1, T + 1)]


@pytest.mark.parametrize("steps", range(1, T + 1))
def test_fewer_steps_are_evenly_spaced_and_keep_both_ends(steps: int) -> None:
    times = spaced_timesteps(T, steps)
    gaps = -np.diff(times)
    assert times[0] == T - 1 and (steps == 1 or times[-1] == 0) and len(times) == steps
    assert (gaps >= 1).all() and (steps < 2 or gaps.max() - gaps.min() <= 1)
    model = Zero()
    ddim(model, steps)
    assert model.steps == times


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("sample", [ddpm, ddim])
def test_every_part_of_the_model_is_left_in_the_mode_it_was_in(sample: Any, training: bool) -> None:
    model = Zero()
    model.train(training)
    model.frozen.eval()
    sample(model)
    assert not any(model.modes), "in eval mode while sampling"
    assert (model.training, model.frozen.training, model.live.training) == (training, False, training)


def test_the_mode_is_restored_when_sampling_fails() -> None:
    model = Zero()

    def fail(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ddpm(model, progress=fail)
    assert model.training and not model.frozen.training


@pytest.mark.parametrize("sample", [ddpm, ddim])
def test_a_generator_decides_every_random_number(sample: Any) -> None:
    torch.manual_seed(1)
    first = sample(Zero())
    torch.manual_seed(2)
    assert torch.equal(first, sample(Zero()))
    other = sample(Zero(), generator=torch.Generator().manual_seed(1))
    assert not torch.equal(first, other)


def test_without_noise_the_start_decides_everything() -> None:
    x_T = torch.randn(SHAPE)
    first = ddim(Zero(), x_T=x_T, generator=None)
    assert torch.equal(first, ddim(Zero(), x_T=x_T, generator=None))
    kept = x_T.clone()
    ddpm(Zero(), x_T=x_T)
    assert torch.equal(x_T, kept), "the start is left alone"


def knows(value: float) -> Any:
    """The model of data that is always ``value``."""

    def model(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        share = PROCESS.alphas_cumprod[t][:, None]
        return (x - share.sqrt() * value) / (1 - share).sqrt()

    return model


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 7, T])
def test_a_model_that_knows_the_data_ends_at_the_data(eta: float, steps: int) -> None:
    x = ddim(knows(0.5), steps, eta, dtype=torch.float64)
    y = ddpm(knows(0.5), dtype=torch.float64)
    # the last step divides what it subtracts by √(1 − ᾱ_0), and so does the model
    allowed = LIMITS["eager"] * 2 * F64.u / float(1 - PROCESS.alphas_cumprod[0])
    assert (x - 0.5).abs().max() <= allowed and (y - 0.5).abs().max() <= allowed


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_samples_have_the_asked_type_whatever_the_model_returns(dtype: torch.dtype) -> None:
    assert ddpm(lambda x, t: torch.zeros_like(x, dtype=torch.float32), dtype=dtype).dtype == dtype


# data left at the last step, and a start of variance 9: a step that is missing can be seen at either end
SHORT = fast.GaussianDiffusion(fast.linear_betas(T, beta_start=0.05, beta_end=0.1))


def normal_chain(variance: float, steps: list[int], kind: str) -> float:
    """The variance at the end of the chain for data N(0, variance) and its exact model, step by step in float64.

    ε = √(1 − ᾱ) x/(ᾱ v + 1 − ᾱ) is linear, so that every step multiplies the variance and adds that of its noise.
    """
    betas = SHORT.betas.numpy()
    table, one, v = true.alphas_cumprod(betas), np.ones((1, 1)), 9.0
    for t, p in zip(steps, [*steps[1:], -1], strict=True):
        now, before = np.array([t]), np.array([p])
        eps = one * math.sqrt(1 - table[t]) / (table[t] * variance + 1 - table[t])

        def step(x: Any, e: Any, z: Any, now: Any = now, before: Any = before) -> float:
            if kind == "ddpm":
                return float(true.p_sample(x, now, e, z, betas, clip=False)[0, 0])
            return float(true.ddim_step(x, now, before, e, table, noise=z, eta=1.0, clip=False)[0, 0])

        v = step(one, eps, 0 * one) ** 2 * v + step(0 * one, 0 * eps, one) ** 2
    return v


@pytest.mark.parametrize("kind, steps", [("ddpm", T), ("ddim", T), ("ddim", 5)])
def test_normal_data_come_out_with_the_variance_of_the_chain(kind: str, steps: int) -> None:
    """The chain is linear and its variance known: the sample variance lies within 5 of its standard deviations."""
    count, variance = 200_000, 0.25
    table = SHORT.alphas_cumprod

    def model(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        share = table[t][:, None]
        return (1 - share).sqrt() * x / (share * variance + 1 - share)

    options: Any = {"clip": False, "generator": torch.Generator().manual_seed(0), "dtype": torch.float64}
    options["x_T"] = 3 * torch.randn(count, 1, generator=options["generator"], dtype=torch.float64)
    if kind == "ddpm":
        x = SHORT.ddpm(model, (count, 1), **options)
    else:
        x = SHORT.ddim(model, (count, 1), steps=steps, eta=1.0, recompute_eps=False, **options)
    want = normal_chain(variance, spaced_timesteps(T, steps), kind)
    deviation = want * math.sqrt(2 / (count - 1))  # of the sample variance of normal data
    assert abs(float(x.var()) - want) <= 5 * deviation
    for wrong in (spaced_timesteps(T, steps)[1:], spaced_timesteps(T, steps)[:-1]):
        assert abs(normal_chain(variance, wrong, kind) - want) > 10 * deviation, "a missing step would be seen"


def test_a_training_pair_is_the_forward_process_at_uniform_steps() -> None:
    x_0 = torch.randn(4000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x_t, t, noise = PROCESS.training_pair(x_0, generator=torch.Generator().manual_seed(1))
    assert torch.equal(x_t, fast.q_sample(x_0, t, noise, PROCESS.alphas_cumprod))
    counts = torch.bincount(t, minlength=T).double()
    expected = len(x_0) / T
    assert len(counts) == T and (counts - expected).abs().max() <= 5 * math.sqrt(expected * (1 - 1 / T))
    assert abs(float(noise.var()) - 1) <= 5 * math.sqrt(2 / (noise.numel() - 1))
    again = PROCESS.training_pair(x_0, generator=torch.Generator().manual_seed(1))
    assert all(torch.equal(a, b) for a, b in zip(again, (x_t, t, noise), strict=True))


REFUSED = {
    "betas had dtype torch.float32": lambda: fast.GaussianDiffusion(BETAS.float()),
    "steps was 0; it must be an integer of 1 to 20": lambda: ddim(Zero(), 0),
    "steps was 21": lambda: ddim(Zero(), 21),
    "eta was 1.5; it must be a number in [0, 1]": lambda: ddim(Zero(), eta=1.5),
    "shape was ()": lambda: PROCESS.ddpm(Zero(), (), clip=True),
    "x_T was (3,)": lambda: ddpm(Zero(), x_T=torch.zeros(3)),
    "model returned (2, 1)": lambda: ddpm(lambda x, t: x[:, :1]),
    "model returned tuple": lambda: ddpm(lambda x, t: (x, x)),
    "x_0 had dtype torch.int64": lambda: PROCESS.training_pair(torch.zeros(2, dtype=torch.int64)),
    "x_0 had shape ()": lambda: PROCESS.training_pair(torch.zeros(())),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_bad_input_is_refused_in_one_sentence(sentence: str) -> None:
    assert_refused(REFUSED[sentence], sentence)


# -- the object -------------------------------------------------------------------------------------------------------

COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda process: pickle.loads(pickle.dumps(process)),
    "to the same device": lambda process: process.to("cpu"),
}


@pytest.mark.parametrize("copied", COPIES)
def test_a_copy_samples_the_same_numbers(copied: str) -> None:
    process = COPIES[copied](PROCESS)
    assert type(process) is fast.GaussianDiffusion and process.steps == T
    assert torch.equal(process.betas, PROCESS.betas) and torch.equal(process.alphas_cumprod, PROCESS.alphas_cumprod)
    for sample in (
        lambda p: p.ddpm(Zero(), SHAPE, generator=torch.Generator().manual_seed(0)),
        lambda p: p.ddim(Zero(), SHAPE, steps=5, eta=1.0, generator=torch.Generator().manual_seed(0)),
    ):
        assert torch.equal(sample(process), sample(PROCESS))


@pytest.mark.parametrize("copied", ["deepcopy", "pickle"])
def test_a_copy_has_tables_of_its_own(copied: str) -> None:
    process = COPIES[copied](PROCESS)
    process.alphas_cumprod.zero_()
    assert PROCESS.alphas_cumprod.all()


@pytest.mark.parametrize(
    "device",
    [
        "meta",
        pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")),
    ],
)
def test_moving_returns_a_copy_and_leaves_the_tables_of_the_original_where_they_are(device: str) -> None:
    moved = PROCESS.to(device)
    assert moved is not PROCESS and moved.steps == T
    assert {moved.betas.device.type, moved.alphas_cumprod.device.type} == {device}
    assert moved.betas.dtype == moved.alphas_cumprod.dtype == torch.float64
    assert {PROCESS.betas.device.type, PROCESS.alphas_cumprod.device.type} == {"cpu"}
    if device == "cuda":
        assert torch.equal(moved.alphas_cumprod.cpu(), PROCESS.alphas_cumprod), "moved, not computed again"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_defaults_are_those_of_ddim_for_images(dtype: torch.dtype) -> None:
    """50 steps, η = 0, x̂_0 clipped to [−1, 1], ε of the model kept: as the scheduler of diffusers has them."""
    process = fast.GaussianDiffusion(fast.linear_betas(100))
    x_T = 5 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=dtype)
    told = process.ddim(Zero(), SHAPE, steps=50, eta=0.0, clip=True, recompute_eps=False, x_T=x_T, dtype=dtype)
    assert torch.equal(process.ddim(Zero(), SHAPE, x_T=x_T, dtype=dtype), told)
    free = process.ddim(Zero(), SHAPE, clip=False, x_T=x_T, dtype=dtype)
    assert told.abs().max() <= 1 < free.abs().max()
