"""Evidence for FSB-01 … FSB-10 but FSB-04 … -06: truth accepted, wrong variants rejected, claims measured."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from trueness.optimized import fisher as fast
from trueness.reference import fisher as true
from trueness.regressions._lib.variants import variants
from trueness.regressions.fisher import BUGS

U = 2.0**-53
variant = variants(BUGS)


def test_absolute_score_and_square_agree_only_where_the_score_is_one_FSB_01():
    ones = np.array([1.0, -1.0])
    absolute = variant("FSB-01")
    assert (absolute(ones, 0.5) == true.diagonal(ones, 0.5)).all()
    assert (
        abs(absolute(np.array([0.1]), 0.9)[0] - 0.1002) < 1e-12 < abs(true.diagonal(np.array([0.1]), 0.9)[0] - 0.1002)
    )


def test_the_swapped_floor_is_invisible_at_alpha_one_half_FSB_02():
    swapped = variant("FSB-02")
    x = np.linspace(-2, 2, 9)
    assert (swapped(x, 0.5) == true.diagonal(x, 0.5)).all()
    assert (swapped(x, 0.0) != true.diagonal(x, 0.0)).all()


def test_one_minus_t_is_worse_for_the_linear_schedule_than_for_the_cosine_one_FSB_03():
    """The claim is that the fallback is right for linear schedules; measured, it is four times as wrong there."""
    steps = 1000
    u = np.arange(1, steps + 1) / steps
    linear = np.cumprod(1 - np.linspace(1e-4, 2e-2, steps))
    cosine = np.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    fallback = true.alpha_from_time(u)
    worst_linear, worst_cosine = np.abs(linear - fallback).max(), np.abs(cosine - fallback).max()
    assert 0.42 < worst_linear < 0.43
    assert 0.10 < worst_cosine < 0.11
    # β_i = 1/(T − i + 1) is the schedule for which 1 − t is exact
    exact = np.cumprod(1 - 1 / np.arange(steps, 0, -1))
    assert np.abs(exact - fallback).max() <= 2 * steps * U  # one rounding for every factor and its 1 − β


def test_the_fallback_has_to_be_called_by_its_name_and_warns_FSB_03():
    """The documented fix logs a line, which is no warning and which nobody who uses the library sees."""
    with pytest.warns(UserWarning, match="1 − t is not ᾱ"):
        assert fast.alpha_from_time(0.25) == 0.75
    with pytest.raises(ValueError, match="alpha was None"):
        fast.diagonal(torch.ones(2), None)


def test_sizes_around_a_block_keep_their_tail_FSB_07a():
    for n in (1, 31, 511, 512, 513, 1023, 1024, 1025):
        x = torch.arange(1, n + 1, dtype=torch.float32)
        assert torch.equal(fast.diagonal(x, 1.0), x * x + 1e-4), n


def test_the_documented_kernel_took_the_absolute_score_FSB_07b():
    """At the fix commit the kernel computed |s| + ε: 10.5 off where |s| is 3.78."""
    s = np.array([3.7798])
    absolute = variant("FSB-01")
    assert abs(true.diagonal(s, 0.5)[0] - absolute(s, 0.5)[0]) > 10


def test_image_shaped_input_gets_the_same_formula_as_a_vector_FSB_08():
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(fast.diagonal(x, 0.5).flatten(), fast.diagonal(x.flatten(), 0.5))
    hidden = variant("FSB-08")
    smoothed, plain = hidden(x.double().numpy(), 0.5), true.diagonal(x.double().numpy(), 0.5)
    close = np.abs(smoothed - plain) <= 1e-3 * plain
    assert close.mean() < 0.01, "the changelog's own test, fisher == s² + 6e-4 at 0.1 %, holds almost nowhere"


def test_the_border_is_an_argument_FSB_08b():
    """Zero padding lowers a constant on the border and nowhere else; the other paddings keep it."""
    ones, inside = torch.ones(4, 5), torch.zeros(4, 5, dtype=torch.bool)
    inside[1:-1, 1:-1] = True
    assert torch.equal(fast.smooth(ones, "zeros") == ones, inside)
    for padding in ("reflect", "replicate", "circular"):
        assert torch.equal(fast.smooth(ones, padding), ones)


def test_the_taps_sum_to_one_FSB_08c():
    assert true.binomial(7, "circular").sum(0).tolist() == [1.0] * 7


def test_not_negative_is_not_positive_FSB_09():
    none = variant("FSB-09")
    zero = np.zeros(3)
    assert (none(zero, 0.5) >= 0).all() and not (none(zero, 0.5) > 0).any()
    assert (fast.diagonal(torch.zeros(3), 1.0) > 0).all()
    assert (fast.diagonal(torch.zeros(3, dtype=torch.float16), 1.0) > 0).all()


def test_the_recommended_test_passes_with_the_bug_FSB_10():
    """At |s| = 1 the documented test accepts |s| as well; at any other score the two differ."""
    absolute, s = variant("FSB-01"), np.array([0.5, 2.0])
    assert np.array_equal(absolute(np.ones(4), 0.5), true.diagonal(np.ones(4), 0.5))
    assert (np.abs(absolute(s, 0.5) - true.diagonal(s, 0.5)) >= 0.25 - U).all()


def test_the_step_with_absolute_score_is_hardly_more_than_a_sign_FSB_01b():
    s = np.geomspace(1e-3, 1e3, 50)
    wrong = variant("FSB-01b")
    assert (wrong(s, 1.0) < 1).all()
    right = true.preconditioned_step(np.array([0.01]), 1.0)[0]
    assert abs(right - 50) <= 6 * U * 50


def test_a_drift_with_absolute_score_never_adds_more_than_b_FSB_01d():
    s = np.geomspace(1e-3, 1e3, 50)
    assert (variant("FSB-01d")(0 * s, s, 1.0, 1.0, 0.1) < 0.1).all()
    assert true.drift_step(np.zeros(1), np.array([0.01]), 1.0, 1.0, 0.1)[0] > 4.9


def test_a_drift_goes_the_way_of_its_score_FSB_01e():
    s = np.array([0.3, -0.3])
    for out in (
        true.drift_step(0 * s, s, 0.5, 1.0, 0.1),
        fast.drift_step(*map(torch.tensor, (0 * s, s)), 0.5, 1.0, 0.1),
    ):
        assert (np.sign(np.asarray(out)) == np.sign(s)).all()
    assert (np.sign(variant("FSB-01e")(0 * s, s, 0.5, 1.0, 0.1)) == -np.sign(s)).all()


def test_the_step_of_a_drift_is_not_multiplied_by_a_FSB_01f():
    s = np.array([0.3])
    assert true.drift_step(0 * s, s, 0.5, 0.25, 0.5) == true.drift_step(0 * s, s, 0.5, 1.0, 0.5)
    assert variant("FSB-01f")(0 * s, s, 0.5, 0.25, 0.5) == variant("FSB-01f")(0 * s, s, 0.5, 1.0, 0.5) / 4


def test_numbers_of_the_samples_stand_beside_the_first_axis_FSB_02d():
    """Of a square input the last axis fits as well, and only the values tell."""
    alpha, x = torch.tensor([0.0, 0.5, 1.0]), torch.zeros(3, 3)
    assert torch.equal(fast.diagonal(x, alpha), fast.diagonal(x.mT.contiguous(), alpha))
    found = fast.diagonal(x, alpha)
    assert torch.equal(found, found[:, :1].expand(3, 3)) and found[0, 0] > 10 * found[2, 0]
    with pytest.raises(ValueError, match=r"alpha was a tensor of shape \(3,\); it must be one number, or \(4,\)"):
        fast.diagonal(torch.zeros(4, 3), alpha)


def test_every_sample_has_its_own_noise_level_FSB_02e():
    x, s = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)).unbind(0)
    alpha, a, b = torch.tensor([[0.0, 0.5, 1.0], [1.0, 0.9, 0.8], [0.1, 0.2, 0.4]], dtype=torch.float64)
    found = fast.drift_step(x, s, alpha, a, b)
    one = fast.drift_step(x, s, float(alpha[0]), float(a[0]), float(b[0]))
    assert torch.equal(found[0], one[0]) and not (found[1:] == one[1:]).all(1).any()
