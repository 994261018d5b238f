"""Evidence for ATLAS-03: two conventions that agree nowhere but in their first channel, and a time too small to see."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trueness.optimized import embeddings as fast
from trueness.properties._lib.laws import Versions
from trueness.properties.embeddings import FORMULAS
from trueness.reference import embeddings as true
from trueness.regressions import embeddings as wrong
from trueness.tools.arithmetic.bounds import LIMITS, bounds
from trueness.tools.arithmetic.formats import precision

U32 = precision("float32").u
flat = Versions(true, fast, FORMULAS).reference


def frequencies(dim: int, shift: int) -> np.ndarray:
    return true._frequencies(dim // 2, 1e4, shift)


@pytest.mark.parametrize(("dim", "half", "less"), [(4, "1e-02", "1e-04"), (8, "1e-03", "1e-04")])
def test_half_and_half_minus_one_end_at_other_frequencies_ATLAS_03(dim: int, half: str, less: str) -> None:
    assert [f"{frequencies(dim, shift)[-1]:.0e}" for shift in (0, 1)] == [half, less]
    assert frequencies(dim, 0)[0] == frequencies(dim, 1)[0] == 1


def test_both_conventions_are_in_diffusers_ATLAS_03_ATLAS_03b() -> None:
    """So neither is an error; the shift is, where weights of the other are loaded."""
    embeddings = pytest.importorskip("diffusers.models.embeddings")
    t = torch.tensor([0.0, 1.0, 20.0])
    for shift in (0, 1):
        theirs = embeddings.get_timestep_embedding(t, 16, downscale_freq_shift=shift).double().numpy()
        arguments = [t.double().numpy(), 16, 1e4, shift, "sin cos"]
        allowed = LIMITS["eager"] * bounds(flat.sinusoidal, arguments, [U32, 0, 0, 0, 0], precision("float32"), 16)[0].B
        assert (np.abs(theirs - flat.sinusoidal(*arguments)) <= allowed).all()
        assert np.abs(theirs - true.sinusoidal(t.double().numpy(), 16, shift=1 - shift, order="sin cos")).max() > 0.5


def test_diffusers_divides_zero_by_zero_for_the_smallest_width_ATLAS_03() -> None:
    """A defect of the package at half = 1 with its default; one frequency is 1 under either convention."""
    embeddings = pytest.importorskip("diffusers.models.embeddings")
    theirs = embeddings.get_timestep_embedding(torch.ones(1), 2)
    assert theirs.isnan().all()
    assert fast.sinusoidal(torch.ones(1), 2, shift=1, order="sin cos").isfinite().all()


def test_float32_angles_lose_three_digits_at_step_a_thousand_ATLAS_03() -> None:
    """What diffusers computes at t = 999 is off by thousands of its last digits; ours is rounded once."""
    embeddings = pytest.importorskip("diffusers.models.embeddings")
    t = torch.tensor([999.0])
    exact = true.sinusoidal(np.array([999.0]), 256, shift=0, order="sin cos")
    theirs = embeddings.get_timestep_embedding(t, 256, downscale_freq_shift=0).double().numpy()
    ours = fast.sinusoidal(t, 256, shift=0, order="sin cos").double().numpy()
    assert np.abs(ours - exact).max() <= U32 * 1.0001 < 100 * U32 < np.abs(theirs - exact).max() < 1000 * U32


def test_interleaving_is_a_permutation_of_the_channels_ATLAS_03c() -> None:
    t = np.array([3.0, 0.25])
    whole, pairs = (f(t, 9, 1e4, 0, "sin cos") for f in (flat.sinusoidal, wrong.interleaved))
    assert (pairs[:, [0, 2, 4, 6, 1, 3, 5, 7, 8]] == whole).all() and (pairs != whole).any()


def test_the_order_of_the_halves_is_an_argument_ATLAS_03d() -> None:
    t = np.array([3.0])
    sin_first, cos_first = (true.sinusoidal(t, 8, shift=0, order=order) for order in ("sin cos", "cos sin"))
    assert (np.roll(sin_first, 4, -1) == cos_first).all()
    assert (wrong.always_sin_first(t, 8, 1e4, 0, "cos sin") == sin_first).all()


def test_over_a_unit_of_time_three_quarters_of_the_channels_stand_still_ATLAS_03e() -> None:
    """Channels of sines that move by more than 0.1 between t = 0 and any t ≤ 1: those of a frequency above 0.1."""
    t = np.linspace(0, 1, 1001)
    sines = true.sinusoidal(t, 256, shift=0, order="sin cos")[:, :128]
    moving = np.ptp(sines, axis=0) > 0.1
    assert 0.24 < moving.mean() < 0.26
    steps = true.sinusoidal(1000 * t, 256, shift=0, order="sin cos")[:, :128]
    assert (np.ptp(steps, axis=0) > 0.1).all()
