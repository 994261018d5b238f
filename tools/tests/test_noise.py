"""The signs of stochastic arithmetic: even, independent, used once, and without a mean in every precision."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from trueness.tools.arithmetic.bounds import AGAIN, CHANCE, RUNS, bounds
from trueness.tools.arithmetic.formats import precision
from trueness.tools.arithmetic.noise import GRAINS, Noise, TooCostly
from trueness.tools.arithmetic.stochastic import Stochastic, stochastic
from trueness.tools.checks.contract import simplest
from trueness.tools.checks.core import Check, run
from trueness.tools.checks.ladder import BEYOND, base, with_length
from trueness.tools.checks.value import measure_gradient
from trueness.tools.run.trial import Trial
from trueness.tools.spec import registry
from trueness.tools.spec.model import Case, Implementation, Verdict
from trueness.tools.spec.tables import PROFILES

U, ETA = 2.0**-24, 2.0**-150


@pytest.mark.parametrize(
    ("grain", "shape", "found"), [(8, (3, 7), (3, 7)), (64, (0, 3), (0, 3)), (None, (3, 7), ()), (None, (), ())]
)
def test_a_grain_may_leave_a_ragged_end(grain: int | None, shape: tuple[int, ...], found: tuple[int, ...]) -> None:
    factor, divisor, underflow = Noise(0, grain).signs(U, ETA, shape)
    assert np.shape(factor) == np.shape(underflow) == found and divisor is None


def test_the_two_fields_of_signs_are_independent_and_even() -> None:
    factor, _, second = Noise(0).signs(1.0, 1.0, (20_000,))
    first = factor - 1
    assert set(first) == set(second) == {-1.0, 1.0}
    assert abs(first.mean()) < 0.03 and abs(second.mean()) < 0.03 and abs((first * second).mean()) < 0.03


@pytest.mark.parametrize("grain", [1, 8, None])
@pytest.mark.parametrize("u", [2.0**-8, U, 2.0**-53], ids=["bfloat16", "float32", "float64"])
def test_noise_has_no_mean_and_the_size_of_u(u: float, grain: int | None) -> None:
    """Else it adds up in a sum of n like n, where roundings add up like √n: float64 cannot hold 1 + 2^-53."""
    noise, x = Noise(0, grain), np.random.default_rng(1).uniform(1, 2, (4000, 16))
    moved = [np.asarray(np.positive(stochastic(row, u, 0.0, noise))) for row in x]
    away = (np.stack(moved) - x) / x / u
    assert abs(away.mean()) < 5 / np.sqrt(away.size / (grain or 16))
    assert 0.95 < np.sqrt((away**2).mean()) < 1.05


@pytest.mark.parametrize("grain", [1, 8, None])
def test_no_sign_is_used_twice(grain: int | None) -> None:
    """Operands of every size, of two precisions in turn: their signs in a row repeat nowhere, and are even."""
    noise, sizes = Noise(0, grain), np.random.default_rng(1).integers(1, 400, 2000)
    fields = [noise.signs([U, 2 * U][k % 2], 0.0, (size,))[0] > 1 for k, size in enumerate(sizes)]
    row = np.concatenate([np.ravel(f)[:: grain or 1] for f in fields])
    words = np.packbits(row[: row.size // 64 * 64]).view(np.uint64)
    assert len(np.unique(words)) == len(words)
    assert abs(row.mean() - 0.5) < 3 / np.sqrt(row.size)


def test_at_the_roundoff_of_float64_too_a_number_underflows_by_eta() -> None:
    moved = np.asarray(np.positive(stochastic(np.full(4000, 1e-3), 2.0**-53, 1e-4, Noise(0))))
    assert set(np.round((moved - 1e-3) / 1e-4)) == {-1.0, 1.0}


def test_nothing_is_certain_where_rounding_leaves_the_domain_in_every_run() -> None:
    """exp(x − x) of x = 10¹⁰ is 1; with x rounded on each side it is 0 or ∞ half of the time.

    Where some runs stay in the domain, they say how far a result may be.
    """
    fmt = precision("float32")

    def ones(x: np.ndarray) -> np.ndarray:
        return np.log(np.exp(x - x))

    def many(x: np.ndarray) -> np.ndarray:
        return sum((ones(x) for _ in range(40)), 0.0 * x)

    for function, number, certain in ((many, 1e10, False), (many, 1e3, True), (ones, 1e10, True)):
        (bound,) = bounds(function, [np.full(64, number)], [fmt.u], fmt, 1)
        assert np.isfinite(bound.B).all() if certain else np.isinf(bound.B).all()


def test_an_element_on_a_scale_of_its_own_has_a_bound_of_its_own() -> None:
    """Features of one scale are few and large, those of another many and small: they share a row, and no size."""
    fmt, generator = precision("float32"), np.random.default_rng(5)
    size = np.where(np.arange(128) == 33, 1.0, 0.01)
    x, w = generator.standard_normal((2, 3)), generator.standard_normal((3, 128))

    def features(x: np.ndarray, w: np.ndarray) -> np.ndarray:
        return size * np.cos(x @ w)

    def bound_of(function: Any) -> np.ndarray:
        return bounds(function, [x, w], [fmt.u, fmt.u], fmt, 3)[0].B

    alone = bound_of(lambda x, w: features(x, w)[:, 33:34])
    assert (bound_of(features)[:, 33:34] > alone / 2 / math.sqrt(CHANCE)).all()
    even = bound_of(lambda x, w: np.cos(x @ w))
    assert np.median(even, -1).max() < 1.5 * np.median(even, -1).min(), "where sizes are alike the row shares its bound"


def test_the_bound_of_a_tiny_number_is_as_wide_as_that_of_any_other() -> None:
    """exp(−562) is 10⁻²⁴⁴, whose square underflows; its relative error is 562 times the roundoff all the same."""
    fmt = precision("float64")
    (bound,) = bounds(lambda x: np.exp(x), [np.array([-562.0, -10.0])], [fmt.u], fmt, 1)
    assert bound.width[0] > bound.width[1] > fmt.u


@pytest.mark.parametrize(("dtype", "right"), [("float32", True), ("bfloat16", True), ("float64", False)])
def test_a_sum_may_carry_the_rounding_of_float64_where_the_reference_is_zero(dtype: str, right: bool) -> None:
    """A transform in float64 leaves some 1e-16 of the largest element where a sum leaves nothing."""
    x, fmt, left = np.array([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]]), precision(dtype), 12 * 2.0**-53
    (sums,) = bounds(lambda x: x.sum(-1, keepdims=True), [x], [fmt.u], fmt, 3)
    for size, expected in ((1, right), (1000, False)):
        assert bool(sums.ratio(np.array([[size * left], [6.0]]))[0, 0] <= 1) is expected
    (alone,) = bounds(lambda x: x + x, [x], [fmt.u], fmt, 1)
    assert alone.ratio(np.array([[0.0, left, 0.0], [2.0, 4.0, 6.0]]))[0, 1] > 1.5, "there is no sum"


# -- a result in doubt ------------------------------------------------------------------------------------------------


def test_a_result_near_its_limit_is_judged_again_by_a_bound_of_more_runs() -> None:
    """A check whose bound is too narrow by chance; one that is far beyond is not asked again.

    A bound of more runs is remembered, and serves the check when it goes on; else everything is asked again.
    """
    asked: list[int] = []

    def verdict(trial: Trial, narrow: float, wide: float, remembered: bool) -> Verdict:
        asked.append(trial.times)
        T = wide if trial.times > 1 or (remembered and AGAIN in asked) else narrow
        outcome = trial.passed if T <= trial.limit else partial(trial.failed, message="beyond", case=Case().to_json())
        return outcome("chance", T=T, limit=trial.limit)

    subject = Trial(registry.formula("fisher.diagonal"), Implementation("mine", lambda: np.asarray), "float32")
    for narrow, wide, remembered, times, status in (
        (1.0, 9.0, True, [1], "pass"),
        (2.0, 1.0, True, [1, AGAIN, 1], "pass"),
        (2.0, 1.0, False, [1, AGAIN, 1, AGAIN], "pass"),
        (2.0, 1.6, True, [1, AGAIN], "fail"),
        (30.0, 1.0, True, [1], "fail"),
        (np.inf, 1.0, True, [1], "fail"),
    ):
        asked.clear()
        found = run(Check("chance", "", partial(verdict, narrow=narrow, wide=wide, remembered=remembered)), subject)
        assert (asked, found.status, found.T) == (
            times,
            status,
            wide if status == "pass" and len(times) > 1 else narrow,
        )


def test_more_runs_are_more_and_as_many_as_are_said() -> None:
    calls = 0

    def mean(x: Any) -> Any:
        nonlocal calls
        calls += 1
        return x.mean(-1)

    fmt = precision("float32")
    made = []
    for times in (1, AGAIN):
        calls = 0
        bounds(mean, [np.ones((3, 5))], [fmt.u], fmt, 5, times=times)
        made.append(calls - 1)
    assert made == [RUNS * len(GRAINS), AGAIN * RUNS * len(GRAINS)]


def test_a_bound_of_more_runs_is_used_once_it_is_known() -> None:
    subject = Trial(registry.formula("fisher.diagonal"), Implementation("mine", lambda: np.asarray), "float32")
    values = subject.arguments_f64(Case(sizes={"...": (5,)}, seed=11, scalars={"alpha": 0.5}))
    few = subject.truth(values)[0].B
    more = replace(subject, times=AGAIN).truth(values)[0].B
    assert (few != more).any() and np.array_equal(subject.truth(values)[0].B, more)


def test_a_gradient_that_costs_too_much_on_a_long_axis_is_not_judged() -> None:
    """blur's vjp multiplies by matrices of W × W: shorter axes are judged, and a budget stops the first run."""
    formula = registry.formula("filters.blur")
    subject = Trial(formula, formula.implementations[0], "float32", profile=PROFILES["ci"])
    start = base(formula, simplest(subject))
    judged = {n: measure_gradient(subject, with_length(start, "W", n)) for n in (64, BEYOND)}
    assert judged[64] is not None and judged[BEYOND] is None
    calls = []

    def counted(x: Any) -> Any:
        calls.append(type(x))
        return x @ x

    fmt = precision("float32")
    with pytest.raises(TooCostly):
        bounds(counted, [np.ones((50, 50))], [fmt.u], fmt, 50, budget=2000.0)
    assert calls == [np.ndarray, Stochastic], "the value, and the run that costs too much"


def test_what_is_made_of_integers_rounds_as_float64_does() -> None:
    """Without a floating-point argument there was no spread, and another order of the same operations was wrong."""
    fmt, step = precision("float64"), np.arange(29)

    def decay(step: np.ndarray) -> Any:
        return np.cos(step / 28 * (np.pi / 2)) ** 2

    other = np.array([math.cos(math.pi / 2 * k / 28) ** 2 for k in range(29)])
    (bound,) = bounds(decay, [step], [fmt.u], fmt, 1)
    assert np.abs(other - bound.y).max() > 0 and bound.ratio(other).max() <= 1.5
    assert bound.ratio(other * (1 + 2.0**-40))[:-1].min() > 1.5


def test_integers_stay_integers_beside_stochastic_numbers() -> None:
    """As indices, as counts and in comparisons."""
    fmt, table = precision("float64"), np.linspace(1.0, 2.0, 9)

    def chosen(table: np.ndarray, index: np.ndarray) -> Any:
        kept = np.where(index > 3, 2 * index - 1, 0) // 2
        return table[kept] * np.eye(9)[kept].sum(-1)

    (bound,) = bounds(chosen, [table, np.array([1, 5, 4])], [fmt.u, fmt.u], fmt, 1)
    assert np.array_equal(bound.y, table[[0, 4, 3]]) and (bound.B < 32 * fmt.u * bound.y).all()
