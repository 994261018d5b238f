"""Laws of the sinusoidal embedding, on the reference and on the optimized version, and what mpmath says."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from trueness.optimized import embeddings as fast
from trueness.properties._lib import laws
from trueness.properties._lib.within import F64
from trueness.properties.embeddings import FORMULAS, ORDERS
from trueness.reference import embeddings as true
from trueness.tools.arithmetic.bounds import LIMITS, bounds

times = st.floats(0, 1000)
dims, shifts, orders = st.integers(2, 40), st.sampled_from((0, 1)), st.sampled_from(ORDERS)


given = partial(laws.given, 40)
VERSIONS = laws.Versions(true, fast, FORMULAS)
both = VERSIONS.both("sinusoidal")


def rounding(t: np.ndarray, *rest: Any) -> np.ndarray:
    """How far two correct float64 implementations may differ."""
    units = [F64.u, 0.0, 0.0, 0.0, 0.0]
    return LIMITS["eager"] * bounds(VERSIONS.reference.sinusoidal, [t, *rest], units, F64, 1)[0].B  # type: ignore[no-any-return]


@both
@given(t=times, dim=dims, shift=shifts, order=orders)
def test_the_squared_norm_is_half_the_width_for_every_time(
    function: Any, t: float, dim: int, shift: int, order: str
) -> None:
    """Σ sin² + cos² = h. Whatever the angle was rounded to, only the functions and the sum of 2h squares round."""
    e = function(np.array([t]), dim, 1e4, shift, order)
    half = dim // 2
    assert abs((e * e).sum() - half) <= (2 * half + 4) * F64.u * half


@both
@given(t=times, h=times, dim=dims, shift=shifts)
def test_a_later_time_is_a_rotation_of_every_pair(function: Any, t: float, h: float, dim: int, shift: int) -> None:
    """e(t + h) = R(h) e(t), the angle sum of sine and cosine."""
    half = dim // 2
    arguments = [np.array([v]) for v in (t, h, t + h)]
    here, turn, there = (function(a, dim, 1e4, shift, "sin cos")[0] for a in arguments)
    allowed = sum(rounding(a, dim, 1e4, shift, "sin cos")[0].max() for a in arguments)
    sin, cos = here[:half], here[half : 2 * half]
    turned = [sin * turn[half : 2 * half] + cos * turn[:half], cos * turn[half : 2 * half] - sin * turn[:half]]
    assert (np.abs(np.concatenate(turned) - there[: 2 * half]) <= 2 * allowed + F64.u * (t + h) + 4 * F64.u).all()


@both
@given(dim=st.integers(4, 200))
def test_the_last_frequency_is_a_period_for_half_minus_one_and_short_of_it_for_half(function: Any, dim: int) -> None:
    """At a small time sin ω t is ω t but for (ω t)³/6: the ratio of the frequencies can be read off."""
    t, half = 2.0**-20, dim // 2
    for shift in (0, 1):
        sines = function(np.array([t]), dim, 1e4, shift, "sin cos")[0, :half]
        want = 1e4 ** (-(half - 1) / (half - shift)) if half > 1 else 1.0
        assert abs(sines[-1] / sines[0] - want) <= want * (t * t + 2 * math.log(1e4) * 8 * F64.u)
        assert shift == 0 or half == 1 or abs(want - 1e-4) <= 1e-4 * 16 * F64.u


@pytest.mark.parametrize(("dim", "half", "less"), [(4, 1e-2, 1e-4), (8, 1e-3, 1e-4), (128, 1.155e-4, 1e-4)])
def test_the_last_frequencies_of_both_conventions(dim: int, half: float, less: float) -> None:
    found = [true._frequencies(dim // 2, 1e4, shift)[-1] for shift in (0, 1)]
    assert [float(f"{f:.4g}") for f in found] == [half, less]


@both
@pytest.mark.parametrize(
    ("shift", "sines", "cosines"),
    [
        (
            0,
            [-0.5440211108893698, 0.8414709848078965, 0.09983341664682815, 0.009999833334166664],
            [-0.8390715290764524, 0.5403023058681398, 0.9950041652780258, 0.9999500004166653],
        ),
        (
            1,
            [-0.5440211108893698, 0.4476708347189573, 0.021542680272331655, 9.999998333333417e-4],
            [-0.8390715290764524, 0.8941984252625543, 0.9997679295349917, 0.9999995000000417],
        ),
    ],
)
def test_golden_embeddings_of_step_ten(function: Any, shift: int, sines: list[float], cosines: list[float]) -> None:
    t = np.array([10.0])
    for order, golden in (("sin cos", sines + cosines), ("cos sin", cosines + sines)):
        found = function(t, 8, 1e4, shift, order)
        assert (np.abs(found - golden) <= rounding(t, 8, 1e4, shift, order)).all()


@both
@given(t=times, dim=st.integers(2, 12), shift=shifts)
def test_the_embedding_is_its_forty_digit_value(function: Any, t: float, dim: int, shift: int) -> None:
    half = dim // 2
    with mpmath.workdps(40):
        angles = [mpmath.mpf(t) * mpmath.mpf(10000) ** (-mpmath.mpf(i) / max(half - shift, 1)) for i in range(half)]
        want = [float(mpmath.sin(a)) for a in angles] + [float(mpmath.cos(a)) for a in angles] + [0.0] * (dim % 2)
    at = np.array([t])
    angle_error = 8 * math.log(1e4) * F64.u * t  # of log P, the quotient, exp and the product, relative to the angle
    found = function(at, dim, 1e4, shift, "sin cos")
    assert (np.abs(found - want) <= rounding(at, dim, 1e4, shift, "sin cos") + angle_error).all()


@both
@given(t=times, dim=dims, shift=shifts, order=orders)
def test_the_last_channel_of_an_odd_width_is_zero_and_the_rest_is_the_even_width(
    function: Any, t: float, dim: int, shift: int, order: str
) -> None:
    dim = dim // 2 * 2
    even, odd = (function(np.array([t]), d, 1e4, shift, order) for d in (dim, dim + 1))
    assert (odd[..., -1] == 0).all() and (odd[..., :-1] == even).all()


@both
def test_the_smallest_widths_have_one_frequency_under_either_convention(function: Any) -> None:
    """Where diffusers divides 0 by half − 1 = 0 and returns NaN."""
    t = np.array([0.3, 7.0])
    for dim in (2, 3):
        for shift in (0, 1):
            e = function(t, dim, 1e4, shift, "sin cos")
            assert (np.abs(e[:, 0] - np.sin(t)) <= rounding(t, dim, 1e4, shift, "sin cos")[:, 0]).all()


@both
@given(t=st.floats(0, 100), h=st.floats(0.001, 1), dim=dims, shift=shifts)
def test_neighbouring_times_are_no_farther_apart_than_their_difference_allows(
    function: Any, t: float, h: float, dim: int, shift: int
) -> None:
    """|e(t + h) − e(t)| ≤ h √(Σ ω²), the length of the arcs."""
    here, there = (function(np.array([v]), dim, 1e4, shift, "sin cos") for v in (t, t + h))
    arc = h * math.sqrt((true._frequencies(dim // 2, 1e4, shift) ** 2).sum())
    allowed = [np.linalg.norm(rounding(np.array([v]), dim, 1e4, shift, "sin cos")) for v in (t, t + h)]
    assert np.linalg.norm(there - here) <= arc * (1 + 8 * F64.u) + sum(allowed) + F64.u * (t + h) * dim


# -- the optimized version alone ----------------------------------------------------------------------------


@given(shift=shifts, dim=st.integers(4, 64), dtype=st.sampled_from((torch.float32, torch.float16, torch.bfloat16)))
def test_steps_up_to_a_thousand_are_rounded_once_whatever_the_format(shift: int, dim: int, dtype: torch.dtype) -> None:
    """Bit for bit the float64 embedding, rounded: a float32 angle would be off by 1000 · 2⁻²⁴."""
    t = torch.tensor([0, 1, 17, 250, 999]).to(dtype)
    wide = fast.sinusoidal(t.double(), dim, shift=shift, order="sin cos")
    assert torch.equal(fast.sinusoidal(t, dim, shift=shift, order="sin cos"), wide.to(dtype))


def test_integer_steps_give_float32_unless_told_otherwise() -> None:
    t = torch.arange(5)
    e = fast.sinusoidal(t, 8, shift=0, order="sin cos")
    assert e.dtype == torch.float32 and torch.equal(e, fast.sinusoidal(t.float(), 8, shift=0, order="sin cos"))
    assert fast.sinusoidal(t, 8, shift=0, order="sin cos", dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_times_of_any_shape_get_one_axis_more(shape: tuple[int, ...]) -> None:
    assert fast.sinusoidal(torch.ones(shape), 7, shift=1, order="cos sin").shape == (*shape, 7)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: fast.sinusoidal(3.0, 8, shift=0, order="sin cos"), "t was float; it must be a torch.Tensor"),  # type: ignore[arg-type]
        (lambda: fast.sinusoidal(torch.ones(3, dtype=torch.bool), 8, shift=0, order="sin cos"), "t was torch.bool"),
        (
            lambda: fast.sinusoidal(torch.ones(3), 1, shift=0, order="sin cos"),
            "dim was 1; it must be an integer of at least 2",
        ),
        (lambda: fast.sinusoidal(torch.ones(3), 8, max_period=1.0, shift=0, order="sin cos"), "max_period was 1.0"),
        (lambda: fast.sinusoidal(torch.ones(3), 8, shift=2, order="sin cos"), r"shift was 2; it must be 0 \(Vaswani"),
        (lambda: fast.sinusoidal(torch.ones(3), 8, shift=0, order="interleaved"), "order was 'interleaved'"),
        (lambda: fast.sinusoidal(torch.ones(3), 8, shift=None, order="sin cos"), "shift was None"),  # type: ignore[arg-type]
    ],
)
def test_bad_input_is_refused_with_a_sentence(call: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()


def test_neither_convention_is_a_default() -> None:
    with pytest.raises(TypeError, match="shift"):
        fast.sinusoidal(torch.ones(3), 8)  # type: ignore[call-arg]
