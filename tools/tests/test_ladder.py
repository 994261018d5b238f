"""The ladder and the unusual values: faults that small independent inputs do not show, and right programs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

import trueness
from trueness.tools.arithmetic.noise import TooCostly
from trueness.tools.checks import CHECKS, contract
from trueness.tools.checks.core import run
from trueness.tools.checks.ladder import BEYOND, Ladder, affordable, alternatives, ladder, ladder_of, length_of, listed
from trueness.tools.checks.value import multiple
from trueness.tools.run.plan import Request, groups, leading
from trueness.tools.run.trial import Trial
from trueness.tools.spec import inputs, registry
from trueness.tools.spec.inputs import Real, Scalar
from trueness.tools.spec.model import Case, Formula, Implementation
from trueness.tools.spec.tables import FORMATS, PROFILES
from trueness.tools.triton.interpreter import few_programs


def softmax(scores: torch.Tensor, mask: torch.Tensor, centred: bool = True) -> torch.Tensor:
    """Zero in a row without keys; ``centred``: its maximum subtracted."""
    scores = scores.masked_fill(~mask, -math.inf)
    top = scores.amax(-1, keepdim=True).clamp(min=-1e30) if centred else 0.0
    weights = torch.exp(scores - top) * mask
    return weights / weights.sum(-1, keepdim=True).clamp(min=1e-37)


def attention(q: Any, k: Any, v: Any, mask: Any, keys: int | None = None, centred: bool = True) -> Any:
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    return softmax(scores[..., :keys], mask[..., :keys], centred) @ v[..., :keys, :]


def first_64_keys(q: Any, k: Any, v: Any, mask: Any) -> Any:
    return attention(q, k, v, mask, keys=64)


def without_maximum(q: Any, k: Any, v: Any, mask: Any) -> Any:
    return attention(q, k, v, mask, centred=False)


class Backward64(torch.autograd.Function):
    """silu whose backward leaves out every column from the 65th on."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:  # type: ignore[override]
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        found = g * s * (1 + x * (1 - s))
        found[..., 64:] = 0
        return found


def backward_64(x: Any) -> Any:
    return Backward64.apply(x)  # type: ignore[no-untyped-call]


def one_pass(x: Any, weight: Any, bias: Any, eps: float) -> Any:
    mean = x.mean(-1, keepdim=True)
    variance = (x * x).mean(-1, keepdim=True) - mean * mean
    return (x - mean) / torch.sqrt(variance.clamp(min=0) + eps) * weight + bias


def two_pass(x: Any, weight: Any, bias: Any, eps: float) -> Any:
    mean = x.mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(((x - mean) ** 2).mean(-1, keepdim=True) + eps) * weight + bias


def index_in_int8(table: Any, window: int) -> Any:
    y, x = torch.arange(window**2) // window, torch.arange(window**2) % window
    row, column = y[:, None] - y + window - 1, x[:, None] - x + window - 1
    index = (row * (2 * window - 1) + column).to(torch.int8).long()
    return table[index % len(table)].permute(2, 0, 1).contiguous()


def sixty_four_blocks(score: Any, alpha: float) -> Any:
    """A launch of 64 blocks of 1024."""
    whole = score.contiguous().flatten()
    out = torch.zeros_like(whole)
    out[: 64 * 1024] = (whole * whole + (1e-4 + 1e-3 * (1 - alpha)))[: 64 * 1024]
    return out.view(score.shape)


def by_expansion(x: Any, y: Any, lengthscale: float) -> Any:
    square = (x * x).sum(-1)[:, None] - 2 * x @ y.T + (y * y).sum(-1)
    return torch.exp(-square / (2 * lengthscale**2))


def verdict(formula: str, function: Any, check: str = "value", dtype: str = "float32") -> Any:
    (found,) = trueness.check(formula, function, dtype=dtype, profile="quick", checks=(check,)).verdicts
    return found


WRONG = (
    ("attention.masked_attention", first_64_keys, "value", "right up to J = 64, wrong from J = 65 on; 64 = 2⁶"),
    ("attention.silu", backward_64, "gradient", "right up to N = 64, wrong from N = 65 on"),
    ("attention.relative_position_bias", index_in_int8, "value", "right up to window = 6, wrong from window = 7 on"),
    ("attention.masked_attention", without_maximum, "value", ""),
    ("attention.layer_norm", one_pass, "value", ""),
    ("kernels.gaussian", by_expansion, "value", ""),
    ("fisher.diagonal", sixty_four_blocks, "value", ""),
)


@pytest.mark.parametrize(("formula", "function", "check", "place"), WRONG, ids=[w[1].__name__ for w in WRONG])
def test_a_fault_beyond_small_inputs_is_found_in_the_quick_profile(
    formula: str, function: Any, check: str, place: str
) -> None:
    found = verdict(formula, function, check)
    assert found.status == "fail"
    assert place in found.message


@pytest.mark.parametrize(
    "formula, function", [("attention.masked_attention", attention), ("attention.layer_norm", two_pass)]
)
@pytest.mark.parametrize("check", ["value", "gradient"])
def test_a_right_program_passes(formula: str, function: Any, check: str) -> None:
    found = verdict(formula, function, check)
    assert found.status == "pass", found.message


def made(**fields: Any) -> Formula:
    arguments = fields.pop("arguments", (Real("x", dims=("n", "m")),))
    return Formula("made.up", fields.pop("reference", np.tanh), "=", "here", arguments, no_gradient="none", **fields)


def climbed(formula: Formula, budget: float = 1e6) -> Ladder:
    scalars = {n: 1 for a in formula.arguments for n in a.scalars()}
    return ladder(formula, scalars, (64, 300), budget)


def reached(found: Ladder) -> dict[str, list[int]]:
    longest: dict[str, list[int]] = {}
    for rung in found.rungs:
        if rung.axis:
            longest.setdefault(rung.axis, []).append(rung.length)
    return longest


def test_every_axis_is_long_alone_and_the_others_small_and_different() -> None:
    found = climbed(made())
    assert reached(found) == {"n": [300, 64, BEYOND], "m": [300, 64, BEYOND]}
    for rung in found.rungs:
        if rung.axis:
            (other,) = (length for axis, length in rung.case.sizes.items() if axis != rung.axis)
            assert isinstance(other, int) and other <= 8
    assert any(len(set(r.case.sizes.values())) == 1 for r in found.rungs if not r.axis), "all lengths equal"


def test_an_axis_is_as_long_as_the_work_of_the_reference_allows() -> None:
    def slow(x: Any) -> Any:
        total = x[:1]
        for k in range(1, len(x)):
            total = np.tanh(total + x[k : k + 1])
        return total

    found = climbed(made(reference=slow), budget=5e4)
    assert max(reached(found)["n"]) < 64 and reached(found)["m"] == [300, 64, BEYOND]
    assert climbed(made(reference=slow), budget=600).unreached["n"] == "its reference costs more than 600"


def test_what_is_too_much_to_read_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def values(*given: Any) -> list[Any]:
        found = build(*given)
        sizes.extend(map(np.size, found))
        return found

    build = inputs.values
    monkeypatch.setattr(inputs, "values", values)
    found = climbed(made(arguments=(Real("x", dims=("n", lambda known: known["n"])),)))
    assert reached(found) == {"n": [300, 64]} and max(sizes) == 300**2


def test_a_declared_reach_ends_the_ladder_and_a_reason_is_kept() -> None:
    found = climbed(made(reach={"n": 40, "m": "a letter has no more"}))
    assert reached(found) == {"n": [40]}
    assert found.unreached == {"m": "a letter has no more"}


def test_far_scalars_are_tried_alone_and_those_between_both_ends_together() -> None:
    arguments = (Real("x", dims=("n",)), Scalar("k", st.integers(1, 4), far=(50,)))
    found = climbed(made(reference=lambda x, k: np.tanh(x * k), arguments=arguments))
    assert [r.length for r in found.rungs if r.axis == "k"] == [50]
    assert {r.case.scalars["k"] for r in found.rungs} == {1, 4, 50}


@pytest.mark.parametrize("name", sorted(registry.formulas()))
def test_every_axis_of_every_formula_is_long_or_says_why_not(name: str) -> None:
    formula = registry.formula(name)
    trial = Trial(formula, Implementation("reference", lambda: formula.reference, "numpy"), "float32")
    found = ladder_of(trial, contract.simplest(trial))
    long = reached(found)
    for axis in inputs.symbols(formula):
        declared = formula.reach.get(axis)
        costly = found.unreached.get(axis, "").startswith("its reference costs")
        assert isinstance(declared, str) or costly or max(long.get(axis, [0])) >= min(12, declared or 12), (
            f"{axis}: {found.unreached.get(axis)}"
        )


@pytest.mark.parametrize("function", [lambda x: x @ x.T, lambda x: (x - x[:, 0]) * 0.5])
def test_what_would_return_too_much_is_not_computed(function: Any) -> None:
    """10¹² elements would not fit in memory; a product reads far fewer than it makes."""
    assert affordable(function, [np.ones((10, 1))], 1e6)
    assert not affordable(function, [np.ones((10**6, 1))], 1e8)


def test_a_long_axis_repeats_columns_that_the_reference_sees_once() -> None:
    formula = registry.formula("fisher.diagonal")
    trial = Trial(formula, formula.implementations[0], "float32")
    cases = [r.case for r in ladder_of(trial, {"alpha": 0.5}).rungs if not r.axis]
    case = max(cases, key=lambda c: length_of(c, "..."))
    assert length_of(case, "...") > 2**20
    values = trial.arguments_f64(case)
    (bound,) = trial.truth(values)
    assert bound.y.shape == values[0].shape and np.unique(values[0]).size <= inputs.PALETTE
    assert np.array_equal(bound.y, np.asarray(formula.reference(*values)))


@pytest.mark.parametrize(
    ("function", "alone"),
    [(np.tanh, True), (np.cumsum, False), (lambda x: x - x.mean(-1, keepdims=True), False), (np.sum, False)],
)
def test_a_function_of_each_column_alone_is_told_from_others(function: Any, alone: bool) -> None:
    x = np.random.default_rng(0).standard_normal((3, 200))
    assert inputs.by_column(function, [x], 200) == alone


@pytest.mark.parametrize("field", inputs.VALUES, ids=str)
def test_unusual_values_are_what_the_case_says(field: dict[str, Any]) -> None:
    arguments = (Real("x", dims=("n", "d")), Real("y", dims=("m", "d")))
    formula = made(reference=lambda x, y: x, arguments=arguments)
    case = Case(sizes={"n": 40, "m": 30, "d": 5}, seed=3, spread=1.0, **field)
    x, y = inputs.values(formula, case, "float64")
    assert Case.from_json(case.to_json()) == case and not case.plain
    match field:
        case {"offset": offset}:
            assert np.sign(x.mean()) == np.sign(offset) and abs(x.mean()) > 3 * x.std()
        case {"ties": "rows"}:
            assert np.array_equal(x[::2], x[1::2]) and not np.array_equal(x[0], x[2])
        case {"ties": "arguments"}:
            assert np.array_equal(x[:30], y)
        case {"zeros": share}:
            assert abs((x == 0).mean() - share) < 0.2
        case {"large": True}:
            assert np.median(np.abs(x)) > 10


# -- longer, and in other company --------------------------------------------------------------------------------------


def of_lines(reference: Any, *more: Scalar, **fields: Any) -> Formula:
    return made(reference=reference, arguments=(Real("x", dims=("n", "m")), *more), **fields)


def judged(formula: Formula, function: Any, **fields: Any) -> Any:
    mine = Implementation("mine", lambda: function, "numpy", origin="user")
    return run(CHECKS["value"], Trial(formula, mine, "float64", examples=1, **{"profile": PROFILES["quick"], **fields}))


def test_a_cheap_axis_is_longer_than_64_blocks_of_64() -> None:
    """A grid of 64 blocks, at 4097 columns; sums along them, so that there is no flat case beside."""
    formula = of_lines(lambda x: np.cumsum(x, -1), reduction=lambda sizes: sizes["m"])
    assert judged(formula, lambda x: np.cumsum(x, -1)).passed
    found = judged(formula, lambda x: np.cumsum(np.where(np.arange(x.shape[-1]) < 4096, x, 0.0), -1))
    assert "right up to m = 4096, wrong from m = 4097 on; 4096 = 2¹²" in found.message
    assert BEYOND > 4096


def test_a_long_axis_meets_the_other_values_of_listed_scalars() -> None:
    """Wrong behind the 64th column for one choice alone, and that is not the typical one."""

    def scaled(x: Any, scale: float, kind: str) -> Any:
        return np.cumsum(x, -1) * (scale if kind == "plain" else -scale)

    def wrong(x: Any, scale: float, kind: str) -> Any:
        kept = np.arange(x.shape[-1]) < (64 if kind == "negative" else 10**9)
        return np.cumsum(np.where(kept, x, 0.0), -1) * (scale if kind == "plain" else -scale)

    scalars = (Scalar("scale", st.sampled_from((1.0, 2.0))), Scalar("kind", st.sampled_from(("plain", "negative"))))
    formula = of_lines(scaled, *scalars, reduction=lambda sizes: sizes["m"])
    assert judged(formula, scaled).passed
    assert "right up to m = 64, wrong from m = 65 on" in judged(formula, wrong).message


def beside_one(x: Any, p: float, q: float) -> Any:
    """Wrong where p alone is near its greatest."""
    return np.tanh(x * p + q) + (0.01 if p > 1.8 and q < 0.3 else 0.0)


def with_epsilon(x: Any, eps: float, least: float = 0.0) -> Any:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + max(eps, least))


def test_each_scalar_is_near_its_greatest_where_the_others_are_near_their_least() -> None:
    formula = of_lines(lambda x, p, q: np.tanh(x * p + q), *(Scalar(n, st.floats(0.0, 2.0)) for n in "pq"))
    found = judged(formula, beside_one)
    assert "p = 1.875, q = 0.125" in found.message
    assert judged(formula, formula.reference).passed


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_least_scalars_meet_the_smallest_magnitudes(dtype: str) -> None:
    """ε = 1e-6 beside squares of 1e-6: an implementation that raises it to 1e-5 is told by no other case."""
    formula = of_lines(with_epsilon, Scalar("eps", st.sampled_from((1e-3, 1e-6))), reduction=lambda sizes: sizes["m"])
    (found,) = [r for r in climbed(formula).rungs if r.case.scale]
    assert (found.case.scale, found.case.scalars["eps"]) == (-4.0, 1e-6)
    raised = Implementation("mine", lambda: lambda x, eps: with_epsilon(x, eps, 1e-5).astype(x.dtype), "numpy")
    trial = Trial(formula, raised, dtype)
    values = trial.arguments_f64(found.case)
    assert trial.judge(trial.call(values), trial.truth(values)).T > 10


def test_a_far_scalar_that_costs_too_much_is_tried_with_the_least_lengths() -> None:
    arguments = (
        Real("x", dims=("n", "m"), spans={"n": (1, 8), "m": (3, 8)}),
        Scalar("k", st.integers(1, 2), far=(40,)),
    )

    def powers(x: Any, k: int) -> Any:
        return np.tanh(x[..., None] * np.arange(1.0, 1 + k**2)).sum(-1)

    (rung,) = [r for r in climbed(made(reference=powers, arguments=arguments), 1.5e4).rungs if r.axis == "k"]
    assert rung.length == 40 and rung.case.sizes == {"n": 1, "m": 3}


@pytest.mark.parametrize(("error", "right"), [(MemoryError, True), (RuntimeError, False)])
def test_a_program_that_lacks_memory_on_a_long_axis_is_not_wrong(error: type[Exception], right: bool) -> None:
    def program(x: Any, most: int = 200) -> Any:
        if max(x.shape) > most:
            raise error("more than there is")
        return np.tanh(x)

    assert judged(of_lines(np.tanh), program).passed is right
    assert not judged(of_lines(np.tanh), lambda x: program(x, 3)).passed, "drawn cases are small, and it is wrong there"


def test_of_several_formats_one_goes_through_all_paths() -> None:
    """float32 where it is there; the others keep the longest length of every axis, where roundoff adds up."""
    assert leading(("float64", "float32"), ("float32", "float64")) == "float32"
    assert leading(("float64", "bfloat16"), ("bfloat16",)) == "bfloat16"
    jobs = [job for group in groups(Request(formulas=("attention.silu",), peers=False)) for job in group]
    named = {job.implementation for job in jobs}
    assert all(sum(j.paths for j in jobs if j.implementation == name) == 1 for name in named)
    for dtypes, first in ((tuple(FORMATS), "float32"), (("float16",), "float16")):
        given = groups(Request(formulas=("attention.silu",), impls=("json:loads",), dtypes=dtypes))[0]
        assert [job.dtype for job in given if job.paths] == [first]


def test_third_parties_confirm_the_reference_and_one_that_is_given_goes_through_all_paths() -> None:
    jobs = [job for group in groups(Request(formulas=("fisher.diagonal",), peers=True)) for job in group]
    theirs = {i.name for i in registry.formula("fisher.diagonal").implementations if i.origin == "third_party"}
    assert theirs and {j.paths for j in jobs if j.implementation in theirs} == {False}
    given = groups(Request(formulas=("fisher.diagonal",), impls=("json:loads",), dtypes=("float32",), peers=False))
    assert [j.paths for j in given[0] if j.implementation == "json:loads"] == [True]


def test_a_format_beside_another_has_the_longest_cases_alone() -> None:
    formula = of_lines(lambda x: np.cumsum(x, -1), reduction=lambda sizes: sizes["m"])
    wrong = Implementation("mine", lambda: lambda x: np.cumsum(np.where(np.arange(x.shape[-1]) < 200, x, 0.0), -1))
    thin = Trial(formula, replace(wrong, framework="numpy"), "float64", examples=1, paths=False)
    whole = ladder_of(replace(thin, paths=True), {}).rungs
    assert {r.length for r in ladder_of(thin, {}).rungs} == {max(r.length for r in whole if r.length != BEYOND)}
    assert not run(CHECKS["value"], thin).passed


def test_an_interpreted_kernel_is_given_what_it_can_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a longer axis the interpreter would take minutes, so the next shorter length is tried."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    launched: list[int] = []

    def kernel(x: Any, right_up_to: int = 27) -> Any:
        if len(x) > 27:
            raise TooCostly
        launched.append(len(x))
        return np.where(np.arange(len(x)) < right_up_to, x * x, 0.0)

    formula = Formula("made.square", lambda x: x * x, "=", "here", (Real("x", dims=("n",)),), no_gradient="none")
    implementation = Implementation("mine", lambda: kernel, "numpy", origin="user")
    trial = Trial(formula, implementation, "float64", examples=1, profile=PROFILES["quick"])
    assert run(CHECKS["value"], trial).passed and max(launched) == 27
    found = run(CHECKS["value"], replace(trial, function=lambda x: kernel(x, 16)))
    assert "right up to n = 16, wrong from n = 17 on; 16 = 2⁴" in found.message


def test_programs_are_counted_before_they_run() -> None:
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    builder = interpreter.interpreter_builder
    with few_programs(8):
        builder.set_grid_dim(2, 2, 2)
        with pytest.raises(TooCostly):
            builder.set_grid_dim(1, 1, 1)
    builder.set_grid_dim(1, 1, 1)


def test_a_power_of_two_is_named() -> None:
    assert [multiple(n) for n in (64, 96, 65, 4)] == ["; 64 = 2⁶", "; 96 is a multiple of 2⁵", "", ""]


def test_the_deep_profile_goes_through_all_steps_of_two() -> None:
    lengths = PROFILES["deep"].lengths
    assert {15, 16, 17, 255, 256, 257, 511, 512, 513} <= set(lengths)


def test_a_failure_that_length_does_not_explain_keeps_its_own_sentence() -> None:
    formula = registry.formula("attention.silu")
    wrong = Implementation("mine", lambda: lambda x: 1.01 * x * torch.sigmoid(x), origin="user")
    assert "wrong from" not in run(CHECKS["value"], Trial(formula, wrong, "float32", examples=10)).message


# -- scalars that are one of a list ------------------------------------------------------------------------------------


def chosen_by(x: Any, kind: str, scale: float, before: bool, inside: bool) -> Any:
    y = np.tanh(x) / scale if kind == "tanh" else x / scale
    return y + 2 * before + 3 * inside


CHOICES = (
    Scalar("kind", st.sampled_from(("none", "also none", "tanh"))),
    Scalar("scale", st.sampled_from((1.0, 0.5, 2.0, 3.0))),
    Scalar("before", st.booleans()),
    Scalar("inside", st.booleans()),
)


def test_any_two_scalars_of_a_list_are_tried_in_more_than_one_company() -> None:
    formula = Formula("made.chosen", chosen_by, "=", "here", (Real("x", dims=("n",)), *CHOICES), no_gradient="none")
    start = {"kind": "none", "scale": 1.0, "before": False, "inside": False}
    met = [case.scalars for case in alternatives(formula, Case(sizes={"n": 3}, scalars=start))]
    for a in CHOICES:
        values = set(listed(a.strategy))
        assert {scalars[a.name] for scalars in met} == values
        for b in (b for b in CHOICES if b is not a):
            for value in values:
                assert len({scalars[b.name] for scalars in met if scalars[a.name] == value}) > 1


def test_a_program_that_is_wrong_for_one_choice_alone_is_rejected() -> None:
    def wrong(x: Any, kind: str, scale: float, before: bool, inside: bool) -> Any:
        return chosen_by(x, kind, 1.0 if kind == "tanh" else scale, before, inside)

    formula = Formula("made.chosen", chosen_by, "=", "here", (Real("x", dims=("n",)), *CHOICES), no_gradient="none")
    assert judged(formula, chosen_by).passed
    assert not judged(formula, wrong).passed
