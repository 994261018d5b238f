"""Evidence for ATLAS-01, -04, -10 and DDPM-01 … DDPM-09: no-ops are the same bits, wrong variants break a law."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from trueness.optimized import diffusion as fast
from trueness.optimized import training
from trueness.properties.diffusion.laws import COSINE, LINEAR, flat
from trueness.reference import diffusion as true
from trueness.regressions.diffusion import schedules, steps, tables
from trueness.tools.arithmetic.bounds import LIMITS, bounds
from trueness.tools.arithmetic.formats import precision

F64 = precision("float64")


# -- ATLAS ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share, total", [(0.99, 1.0001), (0.5, 1.5), (0.1, 9.1)])
def test_noise_of_the_wrong_scale_breaks_unit_variance_ATLAS_01(share: float, total: float) -> None:
    one, start, table = np.ones((1, 1)), np.array([0]), np.array([share])

    def variance(q_sample: Any) -> float:
        return float((q_sample(one, start, 0 * one, table) ** 2 + q_sample(0 * one, start, one, table) ** 2)[0, 0])

    assert round(variance(steps.snr_sigma), 4) == total
    assert round(variance(true.q_sample), 15) == 1


def test_without_the_offset_the_first_noise_is_too_small_ATLAS_04a() -> None:
    assert f"{schedules.betas_without_offset(1000, 0.008, 0.999)[0]:.4g}" == "2.467e-06"
    assert f"{COSINE[0]:.4e} {COSINE[499]:.4e}" == "4.1284e-05 3.1459e-03"
    assert (COSINE == 0.999).sum() == 1
    assert true.cosine_alphas_cumprod(np.zeros(1), s=0.0)[0] == 1, "s = 0 preserves the signal at t = 0 as well"
    u = np.linspace(0, 1, 100_001)
    gap = np.abs(true.cosine_alphas_cumprod(u, s=0.0) - true.cosine_alphas_cumprod(u))
    assert f"{gap.max():.2e} at {u[gap.argmax()]:.3f}" == "7.14e-03 at 0.354"


def test_clean_data_is_not_quite_clean_ATLAS_04b() -> None:
    assert f"{schedules.not_normalised(np.zeros(1), 0.008)[0]:.9f}" == "0.999844591"
    assert true.cosine_alphas_cumprod(np.zeros(1))[0] == 1


@pytest.mark.parametrize(
    "variant, moved, gap", [(schedules.tutorial_clip, 13, "3.8e-04"), (schedules.clipped_below, 191, "8.2e-02")]
)
def test_clipping_small_betas_moves_the_whole_schedule_ATLAS_04c_ATLAS_04d(variant: Any, moved: int, gap: str) -> None:
    beta = variant(1000, 0.008, 0.999)
    assert (beta > COSINE)[:-1].sum() == moved
    assert f"{np.abs(true.alphas_cumprod(beta) - true.alphas_cumprod(COSINE)).max():.1e}" == gap


def test_clipping_alpha_at_a_thousandth_is_the_cap_of_beta_ATLAS_04d() -> None:
    uncapped = true.cosine_betas(1000, max_beta=1.0)
    assert np.allclose(1 - np.clip(1 - uncapped, 0.001, 1), COSINE, rtol=0, atol=F64.u)


def test_the_last_time_is_the_noisiest_of_its_own_schedule_ATLAS_10() -> None:
    sigma = true.karras_sigmas(np.array([0.0, 0.01, 1.0]))
    assert sigma.round(3).tolist() == [80.0, 75.733, 0.002], "t = 0 is noise and not data; nothing is divided by zero"
    assert schedules.down_to_zero(10, 0.01)[-1] == 0 < true.timesteps(10, end=0.01)[-1]
    with pytest.raises(ValueError, match="end was 0"):
        fast.timesteps(10, end=0)


# -- the homework -----------------------------------------------------------------------------------------------------


def column(c: torch.Tensor) -> torch.Tensor:
    return c[:, None]


@pytest.mark.ledger_fact
def test_the_old_and_the_new_forward_process_are_the_same_bits_DDPM_01() -> None:
    """Before: ᾱ is looked up and one root is taken. After: a table of roots is looked up."""
    table, t = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0), torch.arange(1000)
    x_0, noise = torch.randn(2, 1000, 16, generator=torch.Generator().manual_seed(0))
    before = torch.sqrt(column(table[t])) * x_0 + torch.sqrt(column((1 - table)[t])) * noise
    after = column(table.sqrt()[t]) * x_0 + column((1 - table).sqrt()[t]) * noise
    assert torch.equal(before, after)


def test_a_fourth_root_breaks_unit_variance_DDPM_01() -> None:
    one, start, table = np.ones((1, 1)), np.array([0]), np.array([0.5])
    a, b = steps.fourth_root(one, start, 0 * one, table), steps.fourth_root(0 * one, start, one, table)
    assert f"{(a**2 + b**2)[0, 0]:.5f}" == "1.41421"
    assert steps.fourth_root(one, start, 0 * one, np.array([1 / 16])) == 0.5 == 2 * np.sqrt(1 / 16)


class Stopped(Exception):
    """The run ends in the middle of a step."""


def run(path: Path, stop: int | None = None) -> list[int]:
    """The steps that a run of ten takes, saved every five by ``training.Checkpointing``, ended before step ``stop``."""
    model, taken = torch.nn.Linear(2, 2), []
    with training.Checkpointing(path, {"model": model}, every=5) as saved:
        for k in range(saved.step, 10):
            if k == stop:
                raise Stopped
            with torch.no_grad():
                model.weight += 1
            taken.append(k)
            saved.completed(k + 1)
    return taken


def test_a_run_leaves_a_checkpoint_whatever_else_is_computed_DDPM_02(tmp_path: Path) -> None:
    """Ours saves on leaving the block, after every fifth step and after an error; no other switch enters."""
    for stop in (None, 3, 7):
        path = tmp_path / f"{stop}.pt"
        with nullcontext() if stop is None else pytest.raises(Stopped):
            run(path, stop)
        model = torch.nn.Linear(2, 2)
        assert training.load_checkpoint(path, {"model": model}).step == (10 if stop is None else stop)


def test_a_resumed_run_takes_every_step_once_DDPM_02c(tmp_path: Path) -> None:
    """What is stored is the step to go on with; the step that was taken would be taken twice."""
    path = tmp_path / "run.pt"
    with pytest.raises(Stopped):
        run(path, 5)
    assert run(path) == [5, 6, 7, 8, 9]
    assert run(path) == [], "the run is complete"


def test_the_last_posterior_mean_is_the_estimate_bit_for_bit_DDPM_03() -> None:
    """With c_0 = 1 and c_t = 0; a table of the homework's kind has β_0 = 1 − ᾱ_0 by construction."""
    start = torch.zeros(1, dtype=torch.int64)
    x_0, x_t = torch.randn(2, 1, 64, generator=torch.Generator().manual_seed(0))
    for beta in (LINEAR, COSINE):
        mean, variance = fast.posterior(x_0, x_t, start, torch.from_numpy(beta))
        assert torch.equal(mean, x_0) and variance == 0
    linear = torch.from_numpy(LINEAR).float()
    assert f"{float(linear[0] / (1 - (1 - linear[0]))):.5f}" == "0.99983", "in float32 the estimate is better"


def test_noise_is_added_at_the_last_step_DDPM_03() -> None:
    x, start = np.ones((1, 1)), np.array([0])

    def last(p_sample: Any, noise: float) -> float:
        return float(p_sample(x, start, 0 * x, noise * x, LINEAR, False)[0, 0])

    assert last(flat.p_sample, 1.0) == last(flat.p_sample, -1.0)
    assert last(steps.noise_at_the_end, 1.0) != last(steps.noise_at_the_end, -1.0)


@pytest.mark.parametrize("variant", [steps.swapped, steps.signal_of_this_step, steps.fixed_large])
def test_wrong_posterior_weights_leave_the_trajectory_or_the_marginal_DDPM_03_DDPM_08a(variant: Any) -> None:
    t = np.arange(1, 1000)
    one = np.ones(len(t))

    def residuals(beta: Any, posterior: Any = true.posterior) -> Any:
        (c_0, variance), (c_t, _) = posterior(one, 0 * one, t, beta), posterior(0 * one, one, t, beta)
        table = true.alphas_cumprod(beta)
        now, before = table[1:], table[:-1]
        return c_0 + c_t * np.sqrt(now) - np.sqrt(before), variance + c_t**2 * (1 - now) - (1 - before)

    allowed = bounds(residuals, [LINEAR], [F64.u], F64, len(LINEAR))
    assert all((np.abs(r) <= LIMITS["eager"] * b.B).all() for r, b in zip(residuals(LINEAR), allowed, strict=True))
    broken = [(np.abs(r) > LIMITS["eager"] * b.B) for r, b in zip(residuals(LINEAR, variant), allowed, strict=True)]
    assert np.logical_or(*broken).all(), "at every step one identity or the other sees it"


def test_three_look_ups_cost_nothing_beside_a_network_DDPM_04(capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers looked up in three tables, beside the multiplications that sampling with a small network takes."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.Conv2d(16, 3, 3, padding=1))
    process, batch = fast.GaussianDiffusion(fast.linear_betas(10)), 2
    with FlopCounterMode(display=False) as counted:
        process.ddpm(lambda x, t: network(x), (batch, 3, 16, 16))
    look_ups, operations = 3 * batch * process.steps, counted.get_total_flops()
    with capsys.disabled():
        print(f"\n  {look_ups} numbers looked up, {operations} operations of a network of two layers: ", end="")
        print(f"{look_ups / operations:.6%} where 30 % was claimed")
    assert 0 < look_ups < 1e-5 * operations


def test_a_model_that_is_shown_the_data_cannot_tell_the_step_DDPM_05a() -> None:
    """With a model that returns its input the loss depends on t, unless the model was shown x_0."""
    x_0, noise = np.random.default_rng(0).standard_normal((2, 1, 16))
    table = true.alphas_cumprod(LINEAR)
    shown = [float(true.p_losses(true.q_sample(x_0, np.array([t]), noise, table), noise)) for t in (0, 500, 999)]
    assert shown[0] > shown[1] > shown[2]
    assert float(true.p_losses(x_0, noise)) > shown[0], "x_0 says nothing about the noise at any step"


def test_the_minimiser_of_the_absolute_loss_is_the_median_DDPM_05b() -> None:
    noise = np.array([0.0, 0.0, 9.0])
    guesses = np.linspace(0, 9, 91)
    best = [
        guesses[np.argmin([loss(g + 0 * noise, noise) for g in guesses])] for loss in (true.p_losses, true.p_losses_l1)
    ]
    assert best == [np.mean(noise), np.median(noise)]


def test_clipping_unasked_halves_the_variance_of_normal_data_DDPM_06a() -> None:
    """∫ min(1, max(−1, x))² φ(x) dx = 0.516058…, by quadrature"""
    x = np.linspace(-12, 12, 2_400_001)
    density = np.exp(-x * x / 2) / np.sqrt(2 * np.pi)
    assert f"{np.trapezoid(np.clip(x, -1, 1) ** 2 * density, x):.10f}" == "0.5160585510"
    one, zero = np.full((1, 1), 3.0), np.zeros((1, 1))
    start = np.array([0])
    assert steps.always_clipped(one, start, zero, zero, LINEAR, False) < 1.001 < 3
    assert true.p_sample(one, start, zero, zero, LINEAR, clip=False) > 3


def test_dividing_by_the_variance_does_not_return_the_data_DDPM_06b() -> None:
    x_0, start, table = np.ones((1, 1)), np.array([0]), np.array([0.25])
    x_t = true.q_sample(x_0, start, x_0, table)
    assert steps.divided_by_variance(x_t, start, x_0, table) == 2 == 2 * true.predict_x0(x_t, start, x_0, table)


def test_float32_tables_lose_digits_where_there_is_little_noise_DDPM_07b_DDPM_07c() -> None:
    table = true.alphas_cumprod(COSINE)
    off = np.abs(tables.float32_alphas_cumprod(COSINE) / table - 1).max()
    sigma = abs(tables.float32_sigmas(table)[0] / true.sigmas(table)[0] - 1)
    assert f"{off:.1e} {sigma:.1e}" == "1.3e-05 2.6e-04", "hundreds and thousands of float32 roundings"


@pytest.mark.parametrize("dtype, silent", [(torch.float16, 1), (torch.bfloat16, 9)])
def test_the_first_steps_add_no_noise_in_half_precision_DDPM_07e_DDPM_07f(dtype: torch.dtype, silent: int) -> None:
    table = true.alphas_cumprod(LINEAR)
    t = np.arange(1000)
    added = tables.q_sample_after_cast(dtype)(np.zeros((1000, 1)), t, np.ones((1000, 1)), table)
    assert (added[:silent] == 0).all() and (true.sigmas(table)[:silent] > 0.0099).all()


def test_the_clipped_variance_differs_only_where_no_noise_is_added_DDPM_08b() -> None:
    t = np.arange(1000)
    one = np.ones(1000)
    _, clipped = steps.second_for_first(one, one, t, LINEAR)
    _, right = true.posterior(one, one, t, LINEAR)
    assert np.array_equal(clipped[1:], right[1:]) and right[0] == 0 < clipped[0]


def sample(loop: Any, beta: np.ndarray) -> np.ndarray:
    """The chain with the exact model of data that is always 0.5."""
    generator, table = np.random.default_rng(0), true.alphas_cumprod(beta)
    x = generator.standard_normal((1, 256))
    for i in loop:
        t = np.array([i])
        eps = (x - np.sqrt(table[t]) * 0.5) / np.sqrt(1 - table[t])
        x = true.p_sample(x, t, eps, generator.standard_normal(x.shape), beta)
    return x


def test_a_loop_that_misses_a_step_reads_past_the_table_or_stays_noisy_DDPM_09() -> None:
    beta = true.linear_betas(50, beta_start=1e-3, beta_end=0.4)
    result = sample(reversed(range(50)), beta)
    allowed = LIMITS["eager"] * 50 * F64.u / (1 - true.alphas_cumprod(beta)[0])
    assert np.abs(result - 0.5).max() <= allowed and ((result + 1) / 2 <= 1).all()
    assert np.abs(sample(reversed(range(1, 50)), beta) - 0.5).std() > 1000 * allowed
    with pytest.raises(IndexError):
        sample(range(50, 0, -1), beta)
