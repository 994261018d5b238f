"""Evidence for ATLAS-02, -04e, -10b, -22, FSB-03b and FSB-04: in continuous time, and for the rival schedules."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from trueness.properties._lib.within import F64, bound
from trueness.reference import diffusion as true
from trueness.regressions.diffusion import schedules, sde
from trueness.tools.arithmetic.bounds import LIMITS

RATES = (1000, 1e-4, 0.02)
KARRAS = (0.002, 80.0, 7.0)
U = np.linspace(0, 1, 1001)


def allowed(law: Any, *arguments: Any) -> Any:
    """What rounding does to ``law(*arguments)`` in float64."""
    return LIMITS["eager"] * bound(law, *arguments).B


# -- the Schrödinger bridge -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share, total", [(0.99, 1.0001), (0.5, 1.5), (0.1, 9.1), (1.56225589751601e-4, 6400)])
def test_the_scale_of_the_bridge_breaks_unit_variance_ATLAS_02a(share: float, total: float) -> None:
    table = np.array([share])
    assert f"{(share + sde.snr_sigmas(table) ** 2)[0]:.5g}" == f"{total:.5g}"
    assert abs(share + true.sigmas(table)[0] ** 2 - 1) <= 4 * F64.u
    ratio = sde.snr_sigmas(table) / true.sigmas(table)
    assert abs(ratio[0] * math.sqrt(share) - 1) <= 8 * F64.u, "off by 1/√ᾱ"


def test_the_old_bridge_had_a_clamped_diffusion_ATLAS_02b() -> None:
    t = np.array([0.3])
    f, g2 = true.cosine_sde_coefficients(t)
    assert f"{f[0]:.4f} {g2[0]:.4f}" == "-0.8112 1.6224"
    old_f, old_g2 = sde.exploding_sign(t, 0.008)
    assert f"{old_f[0]:.3f}" == "-3.807" and old_g2[0] == 0
    exploding = g2 / true.cosine_alphas_cumprod(t)
    assert f"{exploding[0]:.3f}" == "2.062", "its sign was lost: it was −2.062 before the clamp"


def test_variance_one_is_kept_by_the_truth_and_by_no_variant_ATLAS_02b_ATLAS_02c() -> None:
    """dv/dt = 2 f v + g² at v = 1; f = g = 0 keeps it as well, but then nothing becomes noise."""
    t = np.array([0.3, 0.5, 0.8])
    f, g2 = true.cosine_sde_coefficients(t)
    assert (2 * f + g2 == 0).all()
    f, g2 = sde.exploding_sign(t, 0.008)
    assert (2 * f + g2 < -0.5).all()
    f, g2 = sde.clamped_orientation(t, *KARRAS)
    assert (f == 0).all() and (g2 == 0).all()


def test_the_clamp_stops_the_solver_of_a_schedule_that_runs_the_other_way_ATLAS_02c() -> None:
    t = np.array([0.5])
    share = true.karras_alphas_cumprod
    slope = (share(t + 1e-30j).imag / 1e-30 / share(t))[0]
    assert f"{-slope:.3f}" == "-15.456"
    assert true.karras_sde_coefficients(t)[1][0] > 15 > sde.clamped_orientation(t, *KARRAS)[1][0] == 0


def test_the_score_has_a_say_and_pulls_towards_the_data_ATLAS_02d_ATLAS_02f_ATLAS_02g() -> None:
    """For N(0, 1) the score is −x and nothing moves; each variant moves it."""
    x, f, g2 = np.array([[1.0]]), np.array([-0.5]), np.array([1.0])
    assert true.probability_flow_drift(x, -x, f, g2) == 0
    for variant, drift in ((sde.without_score, -0.5), (sde.score_added, -1.0), (sde.whole_diffusion, 0.5)):
        assert variant(x, -x, f, g2) == drift


def test_a_central_difference_is_off_where_it_is_one_sided_ATLAS_02e() -> None:
    t = np.array([0.0, 0.3])
    off = sde.central_difference(t, 0.008)[1] / true.cosine_sde_coefficients(t)[1] - 1
    assert f"{off[0]:.1%} {off[1]:.1e}" == "6.2% -1.6e-06"


def test_the_score_of_normal_data_is_minus_x_ATLAS_02h() -> None:
    """x_t of N(0, 1) is N(0, 1), and ε = √(1 − ᾱ) x is the mean of z given x_t."""
    x, t, table = np.array([[0.7]]), np.array([0]), np.array([0.1])
    eps = np.sqrt(1 - table) * x
    assert abs(true.score_from_eps(eps, t, table)[0, 0] + 0.7) <= 4 * F64.u
    assert abs(sde.snr_score(eps, t, table)[0, 0] / -0.7 - math.sqrt(0.1)) <= 8 * F64.u


# -- schedules --------------------------------------------------------------------------------------------------------


def test_the_missing_offset_moves_the_schedule_most_at_a_third_ATLAS_04e() -> None:
    gap = np.abs(schedules.without_offset(U, 0.008) - true.cosine_alphas_cumprod(U))
    assert f"{gap.max():.2e} at {U[gap.argmax()]}" == "7.14e-03 at 0.354"
    last = np.cos(np.pi / 2) ** 2
    assert f"{last:.1e}" == "3.7e-33", "as a grid of times it ends at 0, where ATLAS-10 says it must not"


def test_the_first_time_of_the_toolkits_sampler_is_clean_ATLAS_10b() -> None:
    times = true.timesteps(10, end=0.01)
    sigma = true.karras_sigmas(times)
    assert times[0] == 1 and f"{sigma[0]:.3f} {sigma[-1]:.2f}" == "0.002 75.73"
    assert f"{true.karras_alphas_cumprod(times)[0]:.6f}" == "0.999996"
    left = [math.sqrt(1 - share) for share in (true.cosine_alphas_cumprod(0.01), true.linear_alphas_cumprod(0.01))]
    assert [f"{x:.4f}" for x in left] == ["0.0251", "0.0446"], "0.01 is a coarse end for a schedule that is clean at 0"


def test_the_clamps_of_the_toolkit_never_bite_ATLAS_22k() -> None:
    share = true.karras_alphas_cumprod(U)
    assert share.min() > 1e-4 and (1 - share).min() > 1e-6, "it clamps both at 1e-8"
    sigma = true.karras_sigmas(U)
    assert (np.diff(sigma) < 0).all() and (np.diff(schedules.turned_around(U, *KARRAS)) > 0).all()


def test_without_the_exponent_half_of_the_way_is_half_of_the_noise_ATLAS_22l() -> None:
    half = np.array([0.5])
    assert f"{schedules.evenly_spaced_sigma(half, *KARRAS)[0]:.3f}" == "40.001"
    assert f"{true.karras_sigmas(half)[0]:.6f}" == "2.515219"


def test_scaling_by_a_share_that_forgets_the_square_leaves_no_unit_variance_ATLAS_22m() -> None:
    """x/√(1 + σ²) of x = x_0 + σ z has unit variance: ᾱ (1 + σ²) = 1."""
    t = np.array([0.0, 0.5])
    sigma = true.karras_sigmas(t)
    assert (np.abs(true.karras_alphas_cumprod(t) * (1 + sigma**2) - 1) <= 4 * F64.u).all()
    assert (schedules.deviation_for_variance(t, *KARRAS) * (1 + sigma**2) > 2).all()


def test_one_minus_t_is_worse_for_the_linear_schedule_FSB_03b() -> None:
    linear = np.abs(true.linear_alphas_cumprod(U) - schedules.one_minus_time(U, *RATES))
    cosine = np.abs(true.cosine_alphas_cumprod(U) - (1 - U))
    assert f"{linear.max():.3f} at {U[linear.argmax()]:.2f}" == "0.424 at 0.47"
    assert f"{cosine.max():.4f} at {U[cosine.argmax()]:.3f}" == "0.1070 at 0.776"
    discrete = true.alphas_cumprod(true.linear_betas(1000))
    assert f"{np.abs(discrete - (1 - np.arange(1, 1001) / 1000)).max():.4f}" == "0.4246"
    off = []
    for share in (discrete, true.alphas_cumprod(true.cosine_betas(1000))):
        right, fallback = (1e-4 + 1e-3 * (1 - a) for a in (share, 1 - np.arange(1, 1001) / 1000))
        off.append(f"{np.abs(fallback / right - 1).max():.3f}")
    assert off == ["0.449", "0.582"], "and the Fisher floor with it"


def test_the_signal_share_without_normalisation_does_not_start_at_one_FSB_04() -> None:
    start = np.zeros(1)
    assert f"{schedules.not_normalised(start, 0.008)[0]:.7f}" == "0.9998446"
    assert f"{1 - schedules.not_normalised(start, 0.008)[0]:.2e}" == "1.55e-04"
    assert true.cosine_alphas_cumprod(start)[0] == 1


def test_the_exponent_is_the_integral_of_beta_FSB_04b() -> None:
    """Simpson's rule is exact for a polynomial of degree 2, so that one panel gives ∫β but for rounding."""
    u = np.array([0.25, 0.5, 1.0])

    def beta(t: Any) -> Any:
        return true.quadratic_sde_coefficients(t)[1]

    def simpson(u: Any) -> Any:
        return np.exp(-u / 6 * (beta(0 * u) + 4 * beta(u / 2) + beta(u)))

    assert (np.abs(true.quadratic_alphas_cumprod(u) - simpson(u)) <= allowed(simpson, u)).all()
    assert (schedules.not_integrated(u, *RATES) < 0.9 * simpson(u)).all()


def test_two_schedules_that_are_both_called_quadratic_differ_between_their_ends_FSB_04c_FSB_04d() -> None:
    a, b = true.quadratic_betas(1000), true.scaled_linear_betas(1000)
    assert abs(a[0] - b[0]) <= 4 * F64.u * a[0] and abs(a[-1] - b[-1]) <= 4 * F64.u * a[-1]
    assert f"{np.abs(a - b).max():.1e}" == "6.6e-04"


def test_the_sigmoid_does_not_reach_its_ends_FSB_04e() -> None:
    beta, stretched = true.sigmoid_betas(1000, beta_start=1e-4, beta_end=0.02), schedules.reaching_its_ends(*RATES)
    assert f"{beta[0]:.3e} {(beta[0] - 1e-4) / (0.02 - 1e-4):.4f}" == "1.492e-04 0.0025"
    assert abs(stretched[0] - 1e-4) <= 8 * F64.u * 0.02 and abs(stretched[-1] - 0.02) <= 8 * F64.u * 0.02


@pytest.mark.parametrize("kind", ["linear", "quadratic"])
def test_beta_of_unit_time_counts_every_step_FSB_04f_FSB_04g(kind: str) -> None:
    exact = getattr(true, f"{kind}_sde_coefficients")
    one = np.array([1.0])
    assert abs(exact(one)[1][0] - 20) <= 8 * F64.u * 20
    assert abs(schedules.per_step(exact)(one, *RATES)[1][0] - 0.02) <= 8 * F64.u * 0.02
