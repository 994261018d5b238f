"""Evidence for DDPM-02b … DDPM-16 and DIFFIT-14: the loop, DDIM, guidance, and what was ticked without being run."""

from __future__ import annotations

import inspect
import math
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from torch import nn

from trueness.optimized import diffusion as fast
from trueness.properties.diffusion.laws import COSINE, LINEAR, flat
from trueness.properties.diffusion.peers import ddim_scheduler
from trueness.reference import diffusion as true
from trueness.regressions.diffusion import guidance, sampling, steps
from trueness.tools.arithmetic.formats import precision

F64 = precision("float64")
T = 20
BETAS = fast.linear_betas(T, beta_start=0.05, beta_end=0.1)
PROCESS = fast.GaussianDiffusion(BETAS)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def no_noise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(x)


class Network(nn.Module):
    """Small, with a part that is different in training."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Dropout(0.1), nn.Linear(64, 2))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.body(torch.cat([x, t[:, None].to(x) / T], 1))
        return out


# -- the changelog's own blind spots ----------------------------------------------------------------------------------


def sample_and_forget(model: nn.Module) -> None:
    """As it was: eval() before, nothing after."""
    model.eval()
    PROCESS.ddpm(model, (1, 2), clip=True, generator=seeded(0))


def test_sampling_must_not_end_the_training_mode_DDPM_02b() -> None:
    model = Network()
    PROCESS.ddpm(model, (1, 2), clip=True, generator=seeded(0))
    assert all(part.training for part in model.modules())
    sample_and_forget(model)
    assert not any(part.training for part in model.modules()), "from here on dropout is off"


def test_the_noise_that_is_given_is_the_noise_that_is_used_DDPM_02d() -> None:
    x_0, t = torch.zeros(4, 2), torch.full((4,), 10)
    noise = torch.randn(4, 2, generator=seeded(0))

    def ignoring(x_0: torch.Tensor, t: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return fast.q_sample(x_0, t, torch.randn(x_0.shape, generator=seeded(1)), PROCESS.alphas_cumprod)

    given = fast.q_sample(x_0, t, noise, PROCESS.alphas_cumprod)
    assert torch.equal(given, fast.q_sample(x_0, t, noise, PROCESS.alphas_cumprod))
    assert not torch.equal(given, fast.q_sample(x_0, t, -noise, PROCESS.alphas_cumprod))
    assert torch.equal(ignoring(x_0, t, noise), ignoring(x_0, t, -noise)), "as it was"


def test_clipping_x_at_every_step_halves_its_variance_DDPM_06c() -> None:
    """For N(0, 1) the exact model is ε = √(1 − ᾱ) x, and with σ² = β the step √α x + √β z is N(0, 1) again - unless
    it is clipped, and E min(1, max(−1, x))² = 1 − 2 φ(1)."""
    with mpmath.workdps(40):
        closed = mpmath.nstr(1 - 2 * mpmath.npdf(1), 16)
    assert closed == "0.5160585509617133"
    line = np.linspace(-7, 7, 561)
    weight = np.exp(-line * line / 2) / math.sqrt(2 * math.pi) * (line[1] - line[0])
    x, z = (a.reshape(1, -1) for a in np.meshgrid(line, line))
    weights, t = np.outer(weight, weight).reshape(1, -1), np.array([500])
    eps = math.sqrt(1 - true.alphas_cumprod(LINEAR)[500]) * x

    def variance(step: Any) -> str:
        return f"{float((weights * step**2).sum()):.4f}"

    free = true.p_sample(x, t, eps, 0 * z, LINEAR, clip=False) + math.sqrt(LINEAR[500]) * z
    assert variance(free) == "1.0000"
    assert variance(steps.clipped_every_step(x, t, eps, z, LINEAR, False))[:5] == closed[:5]


# -- the loop ---------------------------------------------------------------------------------------------------------


def walked(times: list[int]) -> torch.Tensor:
    """The chain over ``times`` with the exact model of N(0, ¼), from N(0, 9): variance tells every step."""
    table, generator = PROCESS.alphas_cumprod, seeded(0)
    x = 3 * torch.randn(100_000, 1, generator=generator, dtype=torch.float64)
    for i in times:
        t = torch.full((len(x),), i)
        share = table[t][:, None]
        eps = (1 - share).sqrt() * x / (share / 4 + 1 - share)
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        x = fast.p_sample(x, t, eps, noise, BETAS, clip=False)
    return x


def test_a_loop_in_the_papers_numbers_reads_past_the_table_DDPM_09b() -> None:
    x, first = torch.zeros(1, 1), torch.tensor([T])
    with pytest.raises(ValueError, match=r"t was between 20 and 20; it must lie in \[0, 20\)"):
        fast.p_sample(x, first, x, x, BETAS, clip=False)
    with pytest.raises(IndexError):
        walked(list(range(T, 0, -1)))


@pytest.mark.parametrize(
    "times", [list(range(T - 1, 0, -1)), list(range(T - 2, -1, -1))], ids=["without 0", "without T − 1"]
)
def test_a_loop_that_misses_a_step_ends_with_another_variance_DDPM_09c_DDPM_09d(times: list[int]) -> None:
    whole, short = (float(walked(t).var()) for t in (list(range(T - 1, -1, -1)), times))
    deviation = whole * math.sqrt(2 / 99_999)
    assert abs(whole - short) > 5 * math.sqrt(2) * deviation, "five standard deviations of the difference"
    table = true.alphas_cumprod(LINEAR)
    assert math.sqrt(table[999]) < 0.0064, "with 1000 steps the first one starts from noise, whichever it is"


# -- DDIM -------------------------------------------------------------------------------------------------------------


def moments(step: Any, eta: float) -> tuple[float, float, float]:
    """The weights of x_0, z_t and z in x_p, when ε is the noise of x_t."""
    table = true.alphas_cumprod(LINEAR)
    one, zero, t, p = np.ones((1, 1)), np.zeros((1, 1)), np.array([500]), np.array([480])

    def go(x_0: Any, eps: Any, z: Any) -> float:
        return float(step(true.q_sample(x_0, t, eps, table), t, p, eps, z, table, eta, False, False)[0, 0])

    return go(one, zero, zero), go(zero, one, zero), go(zero, zero, one)


def test_without_minus_sigma_squared_the_marginal_is_too_wide_DDPM_10a() -> None:
    share = true.alphas_cumprod(LINEAR)[480]
    for eta in (0.0, 0.5, 1.0):
        a, b, sigma = moments(flat.ddim_step, eta)
        # weights of ε go through (1 − ᾱ_t)/ᾱ_t = 12 on their way to x̂_0 and back
        assert abs(a * a + b * b + sigma * sigma - 1) <= 3 * 24 * F64.u
        assert abs(a * a - share) <= 3 * 24 * F64.u
    _, b, sigma = moments(sampling.ddim_with(sampling.whole_noise), 1.0)
    assert f"{sigma:.4f}" == "0.4203" and b * b + sigma * sigma > 1 - share + 0.17
    assert moments(sampling.ddim_with(sampling.whole_noise), 0.0) == moments(flat.ddim_step, 0.0), "invisible at η = 0"


def test_the_two_ways_with_a_clipped_estimate_agree_where_nothing_is_clipped_DDPM_10b_DDPM_10c() -> None:
    table, t, p = true.alphas_cumprod(LINEAR), np.array([500]), np.array([480])
    zero, far = np.zeros((1, 1)), np.full((1, 1), 3.0)

    def both(x: Any) -> list[float]:
        return [
            float(true.ddim_step(x, t, p, zero, table, noise=zero, clip=True, recompute_eps=again)[0, 0])
            for again in (True, False)
        ]

    kept = both(0.01 * far)
    assert abs(kept[0] - kept[1]) <= 16 * F64.u
    again, model = both(far)
    assert again - model > 2, "3 is not explained by x̂_0 = 1 and no noise"
    x_0 = (far - math.sqrt(1 - table[500]) * (far - math.sqrt(table[500])) / math.sqrt(1 - table[500])) / math.sqrt(
        table[500]
    )
    assert abs(x_0[0, 0] - 1) <= 64 * F64.u, "ε' is the noise for which x̂_0 is 1"
    for recompute in (True, False):
        variant = sampling.ddim_with(recompute=recompute)
        same = [float(variant(far, t, p, zero, zero, table, 0.0, True, again)[0, 0]) for again in (True, False)]
        assert same[0] == same[1], "it does not ask"


def test_five_steps_of_the_cosine_schedule_are_nan_in_diffusers_DDPM_10d() -> None:
    DDIMScheduler = pytest.importorskip("diffusers").DDIMScheduler
    made = DDIMScheduler(beta_schedule="squaredcos_cap_v2", timestep_spacing="trailing")
    made.set_timesteps(5)
    assert made.timesteps[0] == 999
    x = torch.ones(1, 4)
    assert made.step(x, 999, x, eta=1.0).prev_sample.isnan().all()
    table = torch.from_numpy(true.alphas_cumprod(true.cosine_betas(1000)))
    t, p = torch.tensor([999]), torch.tensor([799])
    assert fast.ddim_step(x, t, p, x, table, noise=x, eta=1.0, clip=False).isfinite().all()
    exact = table[999] * (1 - table[799]) ** 2 / (table[799] * (1 - table[999]))
    root = fast.ddim_coefficients(t, p, table, eta=1.0)[1]
    assert abs(root[0] ** 2 / exact - 1) <= 16 * F64.u and f"{exact:.1e}" == "2.1e-08"


def test_the_last_step_ends_at_the_data_and_not_at_the_first_noise_DDPM_10e() -> None:
    table = torch.from_numpy(true.alphas_cumprod(LINEAR))
    x_0, noise = torch.zeros(1, 4, dtype=torch.float64), torch.ones(1, 4, dtype=torch.float64)
    t, p = torch.tensor([500]), torch.tensor([-1])
    x_t = fast.q_sample(x_0, t, noise, table)
    ours = fast.ddim_step(x_t, t, p, noise, table, noise=noise, clip=False)
    assert ours.abs().max() <= 4 * 4 * F64.u  # σ/√ᾱ = 3.4, subtracted from itself
    pytest.importorskip("diffusers")
    ends = []
    for to_one in (True, False):
        made = ddim_scheduler(table, False, to_one)
        made.num_inference_steps = 1
        made.register_to_config(num_train_timesteps=501)
        ends.append(float(made.step(noise, 500, x_t, eta=0.0).prev_sample.max()))
    assert abs(ends[0]) <= 4 * 4 * F64.u and f"{ends[1]:.4f}" == "0.0100"


# -- guidance ---------------------------------------------------------------------------------------------------------


def test_guidance_in_both_forms_and_with_its_roles_exchanged_DDPM_11a_DDPM_11b_DDPM_11c() -> None:
    cond, uncond = np.array([1.0, -0.5]), np.array([0.25, 2.0])
    assert (true.classifier_free_guidance(cond, uncond, 1.0) == cond).all()
    assert (true.classifier_free_guidance_paper(cond, uncond, 0.0) == cond).all()
    exchanged = guidance.swapped_roles(true.classifier_free_guidance)
    assert (exchanged(cond, uncond, 1.0) == uncond).all()
    assert (exchanged(cond, uncond, 0.5) == true.classifier_free_guidance(cond, uncond, 0.5)).all(), "invisible at ½"
    same = true.classifier_free_guidance(cond, uncond, 4.0)
    assert (true.classifier_free_guidance_paper(cond, uncond, 3.0) == same).all(), "w = 1 + the paper's w"
    assert (true.classifier_free_guidance_paper(cond, uncond, 4.0) != same).all()


def test_half_of_the_way_the_guidance_is_hardly_there_DIFFIT_14a_DIFFIT_14d_DIFFIT_14g() -> None:
    t = np.array([0.0, 250.0, 500.0, 750.0, 1000.0])
    assert true.power_cosine_weight(t).round(4).tolist() == [4.6, 1.8184, 1.0346, 1.0001, 1.0]
    assert (guidance.constant_weight(t, 1000, 4.6, 4.0) == 4.6).all()
    assert guidance.weight_turned_around(t, 1000, 4.6, 4.0).round(4).tolist() == [1.0, 1.0001, 1.0346, 1.8184, 4.6]
    assert guidance.power_of_the_cosine(t, 1000, 4.6, 4.0).round(3).tolist()[2] == 1.225


def test_three_channels_of_a_latent_are_not_all_of_it_DIFFIT_14b_DIFFIT_14c_DIFFIT_14e_DIFFIT_14f() -> None:
    cond, uncond = guidance.LATENT
    all_of_it, three = true.classifier_free_guidance(cond, uncond, 4.0), true.three_channel_guidance(cond, uncond, 4.0)
    assert (all_of_it[:, :3] == three[:, :3]).all()
    assert three[0, 3] == cond[0, 3] != all_of_it[0, 3]
    assert guidance.rest_without_condition(cond, uncond, 4.0)[0, 3] == uncond[0, 3]
    assert (true.classifier_free_guidance(cond[:, :3], uncond[:, :3], 4.0) == three[:, :3]).all(), "as of an image"


# -- what was ticked --------------------------------------------------------------------------------------------------


def test_a_table_on_another_device_is_refused_before_anything_is_computed_DDPM_12() -> None:
    x, t, table = torch.zeros(2, 3), torch.tensor([0, 4]), PROCESS.alphas_cumprod
    for wrongly in (lambda: fast.q_sample(x, t, x, table.to("meta")), lambda: fast.q_sample(x, t.to("meta"), x, table)):
        with pytest.raises(ValueError, match=r"both must be on cpu, where x_0 is\."):
            wrongly()
    moved = PROCESS.to("meta")
    assert moved.betas.device.type == moved.alphas_cumprod.device.type == "meta"
    far = fast.q_sample(x.to("meta"), t.to("meta"), x.to("meta"), moved.alphas_cumprod)
    assert far.device.type == "meta", "the result is where the data is"
    seen: list[str] = []

    class Elsewhere(Network):
        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            seen.extend((x.device.type, t.device.type))
            return torch.zeros_like(x)

    x = PROCESS.ddpm(Elsewhere().to("meta"), (1, 2), clip=True, generator=seeded(0))
    assert x.device.type == "meta"
    assert seen[:2] == ["meta", "meta"], "the sampler went to the model, with a CPU generator"


@pytest.mark.parametrize("name", ["q_sample", "p_sample", "predict_x0", "posterior", "ddim_step"])
def test_a_docstring_begins_with_the_equation_of_its_own_function_DDPM_13(name: str) -> None:
    left = {
        "q_sample": "x_t = ",
        "p_sample": "x_{t−1} = ",
        "predict_x0": "x̂_0 = ",
        "posterior": "μ̃_t = ",
        "ddim_step": "x_p = ",
    }
    texts = [inspect.getdoc(getattr(side, name)) or "" for side in (true, fast)]
    assert all(text.startswith(left[name]) for text in texts)
    assert texts[0].splitlines()[0] == texts[1].splitlines()[0], "both versions state the same equation"


def test_q_sample_adds_the_noise_that_p_sample_takes_away_DDPM_13() -> None:
    x_0, noise = np.ones((1, 4)), np.full((1, 4), 0.5)
    start, table = np.array([0]), true.alphas_cumprod(LINEAR)
    noisy = true.q_sample(x_0, start, noise, table)
    clean = true.p_sample(noisy, start, noise, noise, LINEAR, clip=False)
    assert (np.abs(clean - x_0) <= 16 * F64.u / (1 - table[0])).all() and (noisy != x_0).all()


def trained(steps: int) -> tuple[Network, list[float]]:
    """Two points, learned for ``steps`` steps."""
    torch.manual_seed(0)
    model, generator, losses = Network(), seeded(0), []
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    x_0 = torch.tensor([[0.5, -0.5], [-0.5, 0.5]]).repeat(64, 1)
    for _ in range(steps):
        x_t, t, noise = PROCESS.training_pair(x_0, generator=generator)
        loss = fast.p_losses(model(x_t, t), noise)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return model, losses


def test_training_learns_more_than_nothing_DDPM_14() -> None:
    """A model that says nothing has loss E z² = 1; the mean of 20 losses of 256 numbers has a deviation of 0.02."""
    _, losses = trained(300)
    deviation = math.sqrt(2 / (20 * 256))
    assert np.mean(losses[-20:]) < 1 - 5 * deviation
    assert np.mean(losses[-20:]) < np.mean(losses[:20]) - 5 * math.sqrt(2) * deviation


def test_sampling_ends_in_the_range_of_the_data_and_training_goes_on_DDPM_15() -> None:
    model, _ = trained(300)
    x = PROCESS.ddpm(model, (64, 2), clip=True, generator=seeded(1))
    assert (x.abs() <= 1).all() and ((x + 1) / 2 >= 0).all()
    untrained = PROCESS.ddpm(no_noise, (64, 2), clip=True, generator=seeded(1))

    def distance(x: torch.Tensor) -> torch.Tensor:
        return torch.cdist(x, torch.tensor([[0.5, -0.5], [-0.5, 0.5]])).min(1).values

    near, far = distance(x), distance(untrained)
    assert far.mean() - near.mean() > 5 * math.sqrt(float(near.var() + far.var()) / 64)  # of their difference
    assert all(part.training for part in model.modules())


def chain(last: Any) -> torch.Tensor:
    """The homework's 1000 float32 steps by ``p_sample``, with ``last`` for the step at t = 0."""
    betas, generator = torch.from_numpy(COSINE), seeded(0)
    x = torch.randn(1, 16, generator=generator)
    for i in range(999, -1, -1):
        eps, t = x / (1 + x.abs()), torch.tensor([i])  # any model
        if i == 0:
            return last(x, t, eps, betas)
        x = fast.p_sample(x, t, eps, torch.randn(x.shape, generator=generator), betas, clip=True)
    return x


def posterior_mean(x: torch.Tensor, t: torch.Tensor, eps: torch.Tensor, betas: torch.Tensor) -> torch.Tensor:
    """Before: the mean of the posterior at t = 0."""
    return fast.p_sample(x, t, eps, torch.zeros_like(x), betas, clip=True)


def estimate(x: torch.Tensor, t: torch.Tensor, eps: torch.Tensor, betas: torch.Tensor) -> torch.Tensor:
    """After: x̂_0 is returned at t = 0."""
    return fast.predict_x0(x, t, eps, fast.alphas_cumprod(betas)).clamp(-1, 1)


def test_a_chain_of_a_thousand_steps_is_the_same_bits_before_and_after_DDPM_16() -> None:
    before = chain(posterior_mean)
    assert torch.equal(before, chain(estimate)) and before.abs().max() > 0
