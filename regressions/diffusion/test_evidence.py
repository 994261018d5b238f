"""Evidence for ATLAS-01, -04, -10 and DDPM-01 … DDPM-09: no-ops are the same bits, wrong variants break a law."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trueness.optimized import diffusion as fast
from trueness.properties.diffusion.laws import COSINE, LINEAR, flat
from trueness.reference import diffusion as true
from trueness.regressions import diffusion as wrong
from trueness.tools.arithmetic.bounds import LIMITS, bounds
from trueness.tools.arithmetic.formats import precision

F64 = precision("float64")
FLOAT32 = torch.cumprod(1 - torch.from_numpy(COSINE).float(), 0)


# -- ATLAS ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share, total", [(0.99, 1.0001), (0.5, 1.5), (0.1, 9.1)])
def test_noise_of_the_wrong_scale_breaks_unit_variance_ATLAS_01(share: float, total: float) -> None:
    one, start, table = np.ones((1, 1)), np.array([0]), np.array([share])

    def variance(q_sample: Any) -> float:
        return float((q_sample(one, start, 0 * one, table) ** 2 + q_sample(0 * one, start, one, table) ** 2)[0, 0])

    assert round(variance(wrong.snr_sigma), 4) == total
    assert round(variance(true.q_sample), 15) == 1


def test_without_the_offset_the_first_noise_is_too_small_ATLAS_04a() -> None:
    assert f"{wrong.without_offset(1000, 0.008, 0.999)[0]:.4g}" == "2.467e-06"
    assert f"{COSINE[0]:.4e} {COSINE[499]:.4e}" == "4.1284e-05 3.1459e-03"
    assert (COSINE == 0.999).sum() == 1
    assert true.cosine_alphas_cumprod(np.zeros(1), s=0.0)[0] == 1, "s = 0 preserves the signal at t = 0 as well"
    u = np.linspace(0, 1, 100_001)
    gap = np.abs(true.cosine_alphas_cumprod(u, s=0.0) - true.cosine_alphas_cumprod(u))
    assert f"{gap.max():.2e} at {u[gap.argmax()]:.3f}" == "7.14e-03 at 0.354"


def test_clean_data_is_not_quite_clean_ATLAS_04b() -> None:
    assert f"{wrong.not_normalised(np.zeros(1), 0.008)[0]:.9f}" == "0.999844591"
    assert true.cosine_alphas_cumprod(np.zeros(1))[0] == 1


@pytest.mark.parametrize(
    "variant, moved, gap", [(wrong.tutorial_clip, 13, "3.8e-04"), (wrong.clipped_below, 191, "8.2e-02")]
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
    assert wrong.down_to_zero(10, 0.01)[-1] == 0 < true.timesteps(10, end=0.01)[-1]
    with pytest.raises(ValueError, match="end was 0"):
        fast.timesteps(10, end=0)


# -- the homework -----------------------------------------------------------------------------------------------------


def column(c: torch.Tensor) -> torch.Tensor:
    return c[:, None]


def test_the_old_and_the_new_forward_process_are_the_same_bits_DDPM_01() -> None:
    """Before: ᾱ is looked up and one root is taken. After: a table of roots is looked up."""
    t = torch.arange(1000)
    x_0, noise = torch.randn(2, 1000, 16, generator=torch.Generator().manual_seed(0))
    before = torch.sqrt(column(FLOAT32[t])) * x_0 + torch.sqrt(column((1 - FLOAT32)[t])) * noise
    after = column(FLOAT32.sqrt()[t]) * x_0 + column((1 - FLOAT32).sqrt()[t]) * noise
    assert torch.equal(before, after)


def test_a_fourth_root_breaks_unit_variance_DDPM_01() -> None:
    one, start, table = np.ones((1, 1)), np.array([0]), np.array([0.5])
    a, b = wrong.fourth_root(one, start, 0 * one, table), wrong.fourth_root(0 * one, start, one, table)
    assert f"{(a**2 + b**2)[0, 0]:.5f}" == "1.41421"
    assert wrong.fourth_root(one, start, 0 * one, np.array([1 / 16])) == 0.5 == 2 * np.sqrt(1 / 16)


def train(folder: Path, steps: int, interval: int, fid: bool, only_with_fid: bool) -> None:
    """The shape of the homework's loop: a checkpoint every ``interval`` steps, holding the next step."""
    for step in range(steps):
        if (step + 1) % interval == 0 or step + 1 == steps:
            if fid or not only_with_fid:
                torch.save({"step": step + 1}, folder / "model.pt")


@pytest.mark.parametrize("steps", [3, 10])
def test_training_without_fid_leaves_no_checkpoint_DDPM_02(tmp_path: Path, steps: int) -> None:
    train(tmp_path, steps, 5, fid=False, only_with_fid=True)
    assert not (tmp_path / "model.pt").exists(), "as it was, and as it still is"
    for fid in (False, True):
        train(tmp_path, steps, 5, fid=fid, only_with_fid=False)
        assert torch.load(tmp_path / "model.pt")["step"] == steps
        (tmp_path / "model.pt").unlink()


def test_the_last_posterior_mean_is_the_estimate_bit_for_bit_DDPM_03() -> None:
    """In the homework's float32 cosine tables: β_0 = 1 − ᾱ_0 by construction."""
    beta = 1 - FLOAT32[:1]
    c_0, c_t = beta * torch.ones(1).sqrt() / (1 - FLOAT32[:1]), (1 - torch.ones(1)) * (1 - beta).sqrt() / beta
    x_0, x_t = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(c_0 * x_0 + c_t * x_t, x_0)
    linear = torch.from_numpy(LINEAR).float()
    assert f"{float(linear[0] / (1 - (1 - linear[0]))):.5f}" == "0.99983", "there the estimate is the better answer"


def test_noise_is_added_at_the_last_step_DDPM_03() -> None:
    x, start = np.ones((1, 1)), np.array([0])

    def last(p_sample: Any, noise: float) -> float:
        return float(p_sample(x, start, 0 * x, noise * x, LINEAR, False)[0, 0])

    assert last(flat.p_sample, 1.0) == last(flat.p_sample, -1.0)
    assert last(wrong.noise_at_the_end, 1.0) != last(wrong.noise_at_the_end, -1.0)


@pytest.mark.parametrize("variant", [wrong.swapped, wrong.signal_of_this_step, wrong.fixed_large])
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
    tables, t = torch.rand(3, 1000), torch.tensor([500])
    layer = torch.nn.Conv2d(64, 64, 3, padding=1)
    x = torch.zeros(1, 64, 64, 64)

    def seconds(call: Any) -> float:
        times = []
        for _ in range(9):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return min(times)

    with torch.no_grad():
        look_ups = seconds(lambda: [table.gather(0, t).reshape(1, 1, 1, 1) for table in tables])
        network = 20 * seconds(lambda: layer(x))
    with capsys.disabled():
        print(f"\n  three look-ups {look_ups * 1e6:.1f} µs, twenty convolutions {network * 1e3:.1f} ms: ", end="")
        print(f"{look_ups / network:.4%} where 30 % was claimed")
    assert look_ups < 0.30 * network / 30, "not a thirtieth of what was claimed"
    assert 8 - 3 == 5 != 9 - 3, "and the listing has eight extractions"


def test_renaming_the_argument_of_the_model_changed_no_bit_DDPM_05a() -> None:
    generator = torch.Generator().manual_seed(0)
    x_0, noise = torch.randn(2, 8, 3, generator=generator)
    model = torch.nn.Linear(3, 3)

    def before(x_0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        x_0 = fast.q_sample(x_0, t, noise, torch.from_numpy(LINEAR))
        return fast.p_losses_l1(model(x_0), noise)

    def after(x_0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        x_t = fast.q_sample(x_0, t, noise, torch.from_numpy(LINEAR))
        return fast.p_losses_l1(model(x_t), noise)

    t = torch.arange(8) * 100
    assert torch.equal(before(x_0, noise, t), after(x_0, noise, t))


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
    assert wrong.always_clipped(one, start, zero, zero, LINEAR, False) < 1.001 < 3
    assert true.p_sample(one, start, zero, zero, LINEAR, clip=False) > 3


def test_dividing_by_the_variance_does_not_return_the_data_DDPM_06b() -> None:
    x_0, start, table = np.ones((1, 1)), np.array([0]), np.array([0.25])
    x_t = true.q_sample(x_0, start, x_0, table)
    assert wrong.divided_by_variance(x_t, start, x_0, table) == 2 == 2 * true.predict_x0(x_t, start, x_0, table)


def test_float32_tables_lose_digits_where_there_is_little_noise_DDPM_07b_DDPM_07c() -> None:
    table = true.alphas_cumprod(COSINE)
    off = np.abs(wrong.float32_alphas_cumprod(COSINE) / table - 1).max()
    sigma = abs(wrong.float32_sigmas(table)[0] / true.sigmas(table)[0] - 1)
    assert f"{off:.1e} {sigma:.1e}" == "1.3e-05 2.6e-04", "hundreds and thousands of float32 roundings"


@pytest.mark.parametrize("dtype, silent", [(torch.float16, 1), (torch.bfloat16, 9)])
def test_the_first_steps_add_no_noise_in_half_precision_DDPM_07e_DDPM_07f(dtype: torch.dtype, silent: int) -> None:
    table = true.alphas_cumprod(LINEAR)
    t = np.arange(1000)
    added = wrong.q_sample_after_cast(dtype)(np.zeros((1000, 1)), t, np.ones((1000, 1)), table)
    assert (added[:silent] == 0).all() and (true.sigmas(table)[:silent] > 0.0099).all()


def test_the_clipped_variance_differs_only_where_no_noise_is_added_DDPM_08b() -> None:
    t = np.arange(1000)
    one = np.ones(1000)
    _, clipped = wrong.second_for_first(one, one, t, LINEAR)
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
