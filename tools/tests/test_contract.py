"""What a call may not do beside its value, seen on small programs that do just that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from trueness.tools.checks import CHECKS
from trueness.tools.checks.core import inconsistent, run
from trueness.tools.checks.layouts import laid_out
from trueness.tools.checks.purity import contents, elements_overlap, extent, observe, overlap
from trueness.tools.run.trial import Trial
from trueness.tools.spec import inputs
from trueness.tools.spec.inputs import Real, Scalar
from trueness.tools.spec.model import Case, Formula, Implementation, Verdict


def square(x: Any) -> Any:
    return x * x


SQUARE = Formula("tests.square", square, "y = x²", "made for this test", (Real("x"),), no_gradient="not looked at here")
PAIRS = Formula(
    "tests.pairs",
    lambda x, w: x * w,
    "y = x w",
    "made for this test",
    (Real("x", dims=("n", "m")), Real("w", dims=("n", "m"))),
    no_gradient="not looked at here",
)


def trial(function: Callable[..., Any], formula: Formula = SQUARE, framework: Any = "torch", **fields: Any) -> Trial:
    mine = Implementation("mine", lambda: function, framework, origin="user", **fields)
    return Trial(formula, mine, "float32", examples=12)


def verdict(name: str, function: Callable[..., Any], *more: Any, **fields: Any) -> Verdict:
    return run(CHECKS[name], trial(function, *more, **fields))


PURITY = ("determinism", "inputs unchanged", "no aliasing")


@pytest.mark.parametrize("name", [*PURITY, "layouts"])
@pytest.mark.parametrize("framework", ["torch", "numpy"])
def test_a_plain_square_passes(name: str, framework: str) -> None:
    found = verdict(name, square, SQUARE, framework)
    assert found and found.cases > 1, found.message


# -- inputs -----------------------------------------------------------------------------------------------------------


def test_adding_zero_to_an_input_is_seen_by_its_version() -> None:
    def adds_zero(x: torch.Tensor) -> torch.Tensor:
        x.add_(0)
        return x * x

    found = verdict("inputs unchanged", adds_zero)
    assert not found and "wrote the same bits again to its input x (its version went from" in found.message


def test_writing_on_some_cases_only_is_seen() -> None:
    def writes(x: torch.Tensor) -> torch.Tensor:
        y = x * x
        if x.ndim == 3:
            x.data.neg_()
        return y

    found = verdict("inputs unchanged", writes)
    assert not found and found.message == "wrote to its input x." and '"sizes"' in found.case


def test_asking_for_a_gradient_of_the_callers_tensor_is_seen() -> None:
    found = verdict("inputs unchanged", lambda x: x.requires_grad_() * x)
    assert not found and "requires_grad" in found.message


def test_a_write_between_the_elements_of_a_strided_input_is_seen() -> None:
    def spills(x: torch.Tensor) -> torch.Tensor:
        y = x * x
        if x.numel() and x.untyped_storage().nbytes() > x.numel() * x.element_size():
            torch.empty(0, dtype=x.dtype).set_(x.untyped_storage())[-1] = 5
        return y

    found = verdict("layouts", spills)
    assert not found and "wrote to its input x" in found.message


# -- aliasing ---------------------------------------------------------------------------------------------------------


def a_view_of_a_view(x: torch.Tensor) -> torch.Tensor:
    return x.mul_(x).unsqueeze(0).transpose(0, -1).transpose(0, -1)[0]


def test_a_view_of_a_view_of_the_input_is_seen() -> None:
    found = verdict("no aliasing", a_view_of_a_view)
    assert not found and found.message == "output 0 shares memory with its input x."


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[...],
        lambda x: np.lib.stride_tricks.as_strided(x, x.shape, x.strides),
        lambda x: np.frombuffer(memoryview(x).cast("B"), np.float32).reshape(x.shape),
        lambda x: x.view()[...].reshape(x.shape),
    ],
)
def test_a_view_of_a_numpy_input_is_seen(view: Any) -> None:
    def returns_it(x: np.ndarray) -> Any:
        if not x.size or not x.ndim:
            return np.asarray(x * x)
        np.multiply(x, x, out=x)
        return view(x)

    found = verdict("no aliasing", returns_it, SQUARE, "numpy")
    assert not found and "shares memory with its input x" in found.message


TRANSPOSED = Formula(
    "made.transposed", lambda x: x.T, "y = xᵀ", "made for this test", (Real("x", dims=("n", "m")),), no_gradient="none"
)


@pytest.mark.parametrize(("policy", "expected"), [("observe", True), ("strict", False)])
def test_a_view_of_an_untouched_input_is_a_policy(policy: str, expected: bool) -> None:
    """So torch's rearrangements answer; a view that was written to is a fault under every policy."""
    found = run(CHECKS["no aliasing"], replace(trial(lambda x: x.mT, TRANSPOSED), policy=policy))
    assert found.passed is expected and (found.policies == ("view",)) is expected, found
    written = run(CHECKS["no aliasing"], replace(trial(lambda x: x.mul_(1).mT, TRANSPOSED), policy=policy))
    assert not written.passed


def test_memory_that_another_storage_object_holds_is_seen() -> None:
    x = torch.arange(8.0)
    assert overlap(torch.from_numpy(x.numpy()[2:]), x) and not overlap(x, x.clone())
    assert extent(torch.empty(0)) == (0, 0) or not overlap(torch.empty(0), x)


def test_one_number_with_stride_0_has_contents() -> None:
    """As the gradient of a sum, which is expanded from one number."""
    one = torch.ones(()).expand(1)
    assert one.stride() == (0,) and contents(one) == contents(torch.ones(1)) != contents(torch.zeros(1))


def test_two_halves_of_one_allocation_have_no_element_in_common() -> None:
    both = torch.zeros(4, 2)
    assert overlap(both[:, 0], both[:, 1]) and not elements_overlap(both[:, 0], both[:, 1])
    assert elements_overlap(both[:, 0], both[1:])


def test_two_buffers_by_turns_are_seen() -> None:
    kept: list[torch.Tensor] = [torch.zeros(1 << 16) for _ in range(3)]

    def by_turns(x: torch.Tensor) -> torch.Tensor:
        kept.append(kept.pop(0))
        return kept[0][: x.numel()].view(x.shape).copy_(x * x)

    found = verdict("no aliasing", by_turns)
    assert not found and "of an earlier call" in found.message


# -- repetition -------------------------------------------------------------------------------------------------------


def test_state_that_shows_only_in_another_order_is_seen() -> None:
    """Two calls in a row agree; once a larger case has come, a smaller one is rounded otherwise."""
    largest = [0]

    def remembers(x: torch.Tensor) -> torch.Tensor:
        largest[0] = max(largest[0], x.numel())
        y = x * x
        return y if largest[0] <= x.numel() else torch.nextafter(y, torch.full_like(y, torch.inf))

    found = verdict("determinism", remembers)
    assert not found and "the same case gave different results on call 3, after calls on other cases" in found.message


def test_every_other_call_is_seen_and_not_called_an_internal_error() -> None:
    calls = [0]

    def alternates(x: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        return x * x if calls[0] % 2 else torch.nextafter(x * x, torch.full_like(x, torch.inf))

    found = verdict("determinism", alternates)
    assert not found and "the same case gave different results on call" in found.message


def test_a_value_that_is_wrong_only_once_is_named_as_that() -> None:
    calls = [0]

    def wrong_once(x: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        return x * x + (100 if calls[0] == 9 else 0)

    found = verdict("value", wrong_once)
    assert not found and found.message.startswith("the same case gave different results on call 2: once right, once ")
    assert "Flaky" not in found.message


def test_the_call_that_differs_is_counted() -> None:
    assert "on call 3" in inconsistent(["", "", "wrong"]) and "on call 2" in inconsistent(["wrong", ""])


def test_one_pass_serves_the_three_checks() -> None:
    calls = [0]

    def counted(x: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        return x * x

    made = trial(counted)
    assert all(run(CHECKS[name], made) for name in PURITY)
    seen = observe(made)
    assert calls[0] == 2 * seen.cases + seen.again


def test_an_interpreted_kernel_is_called_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    many = observe(trial(square)).cases
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert 0 < observe(trial(square)).cases < many


# -- layouts ----------------------------------------------------------------------------------------------------------


def test_every_layout_is_tried_where_it_changes_something() -> None:
    kinds = {c.layout.partition(" ")[0] if c.layout.startswith("exp") else c.layout for c in laid_out(trial(square))}
    assert kinds == {*inputs.LAYOUTS} - {"negative strides"}
    numpy = {c.layout for c in laid_out(trial(square, SQUARE, "numpy"))}
    assert "negative strides" in numpy


def test_one_argument_alone_is_laid_out_otherwise() -> None:
    """It assumes that both lie alike."""

    def wrong(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        if x.is_contiguous() and not w.is_contiguous():
            return x * w.as_strided(w.shape, x.stride())
        return x * w

    found = verdict("layouts", wrong, PAIRS)
    assert not found and "w: output[" in found.message.replace("input", "w") and ": w" in found.case


@pytest.mark.parametrize("axis", [0, 1])
def test_an_input_expanded_along_any_axis_is_tried(axis: int) -> None:
    def wrong(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return x * w + (1 if x.ndim > axis and x.stride(axis) == 0 and x.shape[axis] > 1 else 0)

    found = verdict("layouts", wrong, PAIRS)
    assert not found and f"expanded along axis {axis}" in found.message


def test_a_failing_layout_is_replayed_from_its_case() -> None:
    def wrong(x: torch.Tensor) -> torch.Tensor:
        return x * x if x.is_contiguous() else x.reshape(-1)[:1].expand(x.shape) * 1

    found = verdict("layouts", wrong)
    assert not found
    again = trial(wrong)
    again.replay = Case.from_json(found.case)
    assert not run(CHECKS["layouts"], again)


def test_numbers_alone_have_no_layout() -> None:
    line = Formula(
        "tests.line",
        lambda n: np.arange(float(n)),
        "y = 0 … n",
        "made for this test",
        (Scalar("n", st.integers(1, 4)),),
        no_gradient="numbers",
        creates=True,
    )
    found = verdict("layouts", lambda n, dtype, device: torch.arange(n, dtype=dtype), line)
    assert found.skipped and "no array" in found.message
