"""Every kind of sabotage is rejected, as a program by the checks and by the cases of a run; weak cases are told."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import strategies as st

import trueness
from trueness.tools.checks import CHECKS, detection
from trueness.tools.checks.core import run, search
from trueness.tools.checks.detection import Detection, detect, detections_of_sabotage
from trueness.tools.checks.sabotage import Sabotage
from trueness.tools.checks.samples import Evaluation
from trueness.tools.cli import cli
from trueness.tools.run.conclusion import REFERENCE
from trueness.tools.run.runner import Job, reference_as_implementation, trial_for
from trueness.tools.run.trial import Trial
from trueness.tools.run.variants import as_torch, plain
from trueness.tools.spec import registry
from trueness.tools.spec.inputs import Real, Scalar
from trueness.tools.spec.model import Case, Formula
from trueness.tools.spec.tables import PROFILES

PLANTED_IN = "kernels.rff_matvec"
SCALED = "kernels.gaussian"
KINDS = (
    "a scalar off by a factor",
    "cut to fewer bits",
    "dropped",
    "equal axes swapped",
    "index 0 serves for all",
    "only the first entries",
    "only the first entries are used",
    "storage order in place of strides",
    "the incomplete last tile is zero",
    "the incomplete last tile repeats the tile before",
    "the last element is not written",
    "the last element keeps the value of an earlier call",
    "the result of an earlier call",
)


def trial(
    formula: Formula, dtype: str = "float32", lengths: tuple[int, ...] = (64, 300), work: float = PROFILES["quick"].work
) -> Trial:
    profile = replace(PROFILES["quick"], name=f"up to {max(lengths)}", lengths=lengths, work=work)
    return Trial(formula, reference_as_implementation(formula), dtype, examples=10, profile=profile)


@cache
def detections(name: str) -> tuple[Detection, ...]:
    job = Job(name, REFERENCE, "float32", profile="quick")
    on = trial_for(job, reference_as_implementation(registry.formula(name)))
    drawn: list[Case] = []
    search(on, drawn.append)
    return tuple(detections_of_sabotage(on, drawn))


def formula(reference: Callable[..., Any], *arguments: Any, **fields: Any) -> Formula:
    fields = {"no_gradient": "not at stake", "equation": "=", "source": "here", **fields}
    return Formula(f"made.{reference.__name__}", reference, arguments=arguments, **fields)


def planted(formula: Formula, fault: Sabotage | None) -> Callable[..., Any]:
    """A torch program with a backward: the reference and its vjp in float64, rounded once, with ``fault``."""
    earlier: list[list[np.ndarray]] = []

    def spoil(function: Callable[..., Any], values: tuple[Any, ...], backward: bool) -> Any:
        true = function(*values)
        outs = [np.array(y, dtype=np.float64) for y in (true if isinstance(true, tuple) else (true,))]
        if fault is not None and fault.of_gradient == backward:
            found = fault.apply(function, values, list(outs), lambda: earlier[-1] if earlier else [])
            if not backward:
                earlier.append(outs)
            outs = outs if found is None else list(found)
        return tuple(outs) if isinstance(true, tuple) else outs[0]

    class Planted(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Any:  # type: ignore[override]
            ctx.arguments = arguments
            return as_torch(lambda *v: spoil(formula.reference, v, False), formula)(*arguments)

        @staticmethod
        def backward(ctx: Any, *cotangents: Any) -> Any:
            assert formula.vjp is not None
            values = tuple(plain(x) for x in (*cotangents, *ctx.arguments))
            found = spoil(formula.vjp, values, True)
            parts = iter(found if isinstance(found, tuple) else (found,))
            pairs = zip(formula.arguments, ctx.arguments, strict=True)
            return tuple(torch.from_numpy(next(parts)).to(x.dtype) if a.differentiable else None for a, x in pairs)

    return lambda *arguments: Planted.apply(*arguments)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("kind", KINDS)
def test_a_program_with_the_fault_is_rejected_and_so_is_the_fault_by_the_cases(kind: str) -> None:
    name = SCALED if kind == "a scalar off by a factor" else PLANTED_IN
    of_kind = [d for d in detections(name) if d.sabotage.kind == kind and d.outcome == "rejected"]
    chosen = {d.sabotage.of_gradient: d for d in of_kind}.values()
    assert chosen
    for d in chosen:
        program = planted(registry.formula(name), d.sabotage)
        checks = ("no stale cache",) if d.sabotage.target == "earlier" else ("value", "gradient")
        outcome = trueness.check(name, program, dtype="float32", profile="quick", checks=checks)
        assert not outcome, str(d.sabotage)


@pytest.mark.parametrize("name", [PLANTED_IN, SCALED])
def test_the_same_program_without_a_fault_is_right_and_no_fault_is_accepted(name: str) -> None:
    program = planted(registry.formula(name), None)
    checks = ("value", "gradient", "no stale cache")
    assert trueness.check(name, program, dtype="float32", profile="quick", checks=checks)
    assert not [d for d in detections(name) if d.outcome == "accepted"]


def test_the_list_of_kinds_is_complete() -> None:
    assert {d.sabotage.kind for name in (PLANTED_IN, SCALED) for d in detections(name)} == set(KINDS)


# -- what the check power says ----------------------------------------------------------------------------------------


def square(x: Any) -> Any:
    return x * x


def total(x: Any) -> Any:
    return (x * x).sum(-1)


def norm(x: Any) -> Any:
    return np.sqrt((x * x).sum(-1))


def first_of(x: Any, y: Any) -> Any:
    return x * x + 0 * y


def scaled(x: Any, factor: Any) -> Any:
    return x * factor


def power(on: Trial) -> Any:
    return run(CHECKS["power"], on)


def test_lengths_that_never_pass_8_have_no_power_over_tiles() -> None:
    made = formula(total, Real("x", dims=("B", "N")), reduction=lambda sizes: sizes["N"])
    assert power(trial(made))
    verdict = power(trial(made, lengths=(8,), work=4e3))
    assert not verdict
    assert "x along " in verdict.message
    assert ": the incomplete last tile is zero (16)" in verdict.message
    assert "no case of the run is longer than 9 along B" in verdict.message  # 9: the case of equal lengths


def test_a_reason_for_a_short_axis_is_counted_and_no_failure() -> None:
    reduction: Any = lambda sizes: sizes["N"]  # noqa: E731
    made = formula(norm, Real("x", dims=("B", "N")), reduction=reduction, reach={"N": "a tangent space"})
    verdict = power(trial(made))
    assert verdict
    assert re.search(r"out of reach \(N ≤ \d: a tangent space\)", verdict.message)


def test_an_argument_without_effect_is_no_failure() -> None:
    verdict = power(trial(formula(first_of, Real("x", dims=("N",)), Real("y", dims=("N",)))))
    assert verdict
    assert "change nothing" in verdict.message


def test_a_bound_that_is_too_wide_has_no_power(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Evaluation, "T", lambda self, found: 1.0)
    verdict = power(trial(formula(square, Real("x", dims=("N",)))))
    assert not verdict
    assert "× what rounding explains, T ≤ 1.5 on every case" in verdict.message


@pytest.mark.parametrize(("dtype", "outcome"), [("float32", "rejected"), ("bfloat16", None)])
def test_what_a_format_cannot_show_is_not_planted(dtype: str, outcome: str | None) -> None:
    made = formula(scaled, Real("x", dims=("N",)), Scalar("factor", st.floats(1, 2)))
    cases = [Case(sizes={"N": 5}, seed=k, scalars={"factor": 1.5}) for k in range(5)]
    found = {str(d.sabotage): d.outcome for d in detect(trial(made, dtype), cases)}
    assert found.get("factor: a scalar off by a factor (1.0001)") == outcome


def test_the_command_prints_the_table_and_fails_where_a_fault_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["sabotage", "fisher.smooth", "--profile", "quick"]
    right = CliRunner().invoke(cli, command)
    assert right.exit_code == 0
    assert "| fisher along H |" in right.output
    monkeypatch.setattr(detection, "LIMIT", np.inf)
    wrong = CliRunner().invoke(cli, command)
    assert wrong.exit_code == 1
    assert "accepted: fisher.smooth · fisher along" in wrong.output
