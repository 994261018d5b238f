"""A known bug is recognized whatever computes it, and what is wrong in another way gets no name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from trueness.tools.arithmetic.bounds import LIMITS
from trueness.tools.checks.diagnosis import APART, Suspect, explains, names_of, suspects
from trueness.tools.run.api import check
from trueness.tools.run.runner import Job, trial_for, user_implementation
from trueness.tools.run.trial import Trial
from trueness.tools.run.variants import as_torch
from trueness.tools.spec import registry
from trueness.tools.spec.model import Case

Function = Callable[..., Any]


def names(formula: str, function: Function, dtype: str = "float32") -> tuple[str, ...]:
    """The names that the value check gives to ``function``, which it must reject."""
    (verdict,) = check(formula, function, dtype=dtype, profile="quick", checks=["value"]).verdicts
    assert not verdict.passed
    return verdict.bugs


def trial(formula: str, function: Function, dtype: str = "float32") -> Trial:
    return trial_for(Job(formula, "mine:f", dtype), user_implementation("mine:f", function))


# -- another arithmetic -----------------------------------------------------------------------------------------------


def exact_gelu(x: torch.Tensor) -> torch.Tensor:
    """x Φ(x) by erf: for x far below zero it cancels, as the ledger's variant in float64 does not"""
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("function", [exact_gelu, torch.nn.functional.gelu])
def test_the_exact_gelu_of_a_torch_program_has_the_name_of_the_numpy_one(function: Function, dtype: str) -> None:
    assert names("attention.gelu_tanh", lambda x: function(x), dtype) == ("DIFFIT-11d",)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * torch.sigmoid(1.702 * x),
        lambda x: exact_gelu(x) * 1.001,
        lambda x: exact_gelu(x) + 1e-5 * x,
        lambda x: torch.where(x > -1, exact_gelu(x), torch.nn.functional.gelu(x, approximate="tanh")),
        lambda x: (exact_gelu(x) + torch.nn.functional.gelu(x, approximate="tanh")) / 2,
    ],
)
def test_a_gelu_that_is_wrong_in_another_way_has_no_name(function: Function) -> None:
    assert names("attention.gelu_tanh", function) == ()


def test_the_bound_of_the_variant_alone_would_not_recognize_the_torch_program() -> None:
    subject = trial("attention.gelu_tanh", exact_gelu)
    values = subject.arguments_f64(Case(sizes={"...": (4,), "N": 6}, scale=0.5))
    outs = subject.call(values)
    variant = registry.bugs()["DIFFIT-11d"].variant
    assert variant is not None
    alone = subject.judge(outs, subject.bound_of(variant, values, "value", subject.formula.reduction))
    assert alone.T > LIMITS["eager"]
    assert explains(subject, variant, values, outs) is True
    assert explains(subject, variant, values, [y * 1.001 for y in outs]) is False


def test_a_program_between_reference_and_variant_has_no_name() -> None:
    """In bfloat16 much is within the bound of a variant: a name needs a result that is far from the reference."""
    subject = trial("attention.gelu_tanh", exact_gelu, "bfloat16")
    values = subject.arguments_f64(Case(sizes={"...": (4,), "N": 6}, scale=0.5))
    (truth,) = subject.truth(values)
    outs = {T: truth.y + T * truth.B for T in (2.0, APART - 0.5, APART + 0.5)}
    variants = {T: lambda x, y=y: y for T, y in outs.items()}
    for T, out in outs.items():
        assert subject.judge([out], [truth]).T > subject.limit
        suspect = Suspect((("the same", variants[T]),))
        assert names_of(subject, suspect, [(values, [out])]) == (["the same"] if T > APART else [])


# -- cases that are not defined ---------------------------------------------------------------------------------------


def mean_of_batches(losses: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """MEM-33b as it is written in practice: 0/0 for a batch without tokens, which the ledger's variant leaves out"""
    return torch.exp((losses.double() / tokens).mean()).to(losses.dtype)


def test_a_bug_is_recognized_though_the_program_is_not_defined_on_some_case() -> None:
    assert names("metrics.corpus_perplexity", mean_of_batches) == ("MEM-33b",)
    undefined = mean_of_batches(torch.tensor([1.0, 2.0]), torch.tensor([3, 0]))
    assert not undefined.isfinite(), "so this program has such cases"


@pytest.mark.parametrize(
    "function",
    [
        lambda losses, tokens: mean_of_batches(losses, tokens) * 1.001,
        lambda losses, tokens: losses.sum() * float("nan"),
        lambda losses, tokens: torch.exp((losses / tokens).max()),
    ],
)
def test_undefined_cases_excuse_nothing_else(function: Function) -> None:
    assert names("metrics.corpus_perplexity", function) == ()


def test_more_cases_must_be_compared_than_are_left_out() -> None:
    subject = trial("metrics.corpus_perplexity", mean_of_batches)
    variant = registry.bugs()["MEM-33b"].variant
    assert variant is not None
    full = [np.array([30.0, 1.0]), np.array([10, 1])]
    empty = [np.array([30.0, 1.0]), np.array([10, 0])]
    defined, undefined = (full, subject.call_unjudged(full)), (empty, subject.call_unjudged(empty))
    suspect = Suspect((("MEM-33b", variant),))
    assert names_of(subject, suspect, [defined, defined, undefined]) == ["MEM-33b"]
    assert names_of(subject, suspect, [defined, undefined]) == []
    assert names_of(subject, suspect, [defined, (full, [])]) == [], "it raised there"


# -- conventions ------------------------------------------------------------------------------------------------------


def embedding(**chosen: Callable[[Any], Any]) -> Function:
    """The reference with ``shift`` or ``order`` replaced by a function of what was asked for."""

    formula = registry.formula("embeddings.sinusoidal")

    def variant(t: Any, dim: int, max_period: float, shift: int, order: str) -> Any:
        given = {"shift": shift, "order": order}
        given |= {name: change(given[name]) for name, change in chosen.items()}
        return formula.reference(t, dim, max_period, *given.values())

    return as_torch(variant, formula)


def other(order: str) -> str:
    return {"sin cos": "cos sin", "cos sin": "sin cos"}[order]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (embedding(order=lambda _: "sin cos"), ("ATLAS-03d",)),
        (embedding(order=lambda _: "cos sin"), ("ATLAS-03d",)),
        (embedding(order=other), ("ATLAS-03d",)),
        (embedding(shift=lambda shift: 1 - shift), ("ATLAS-03", "ATLAS-03b")),
        (embedding(shift=lambda shift: 1), ("ATLAS-03",)),
        (embedding(shift=lambda shift: 2), ()),
        (embedding(order=other, shift=lambda shift: 1 - shift), ()),
    ],
)
def test_a_convention_is_recognized_in_both_directions(function: Function, expected: tuple[str, ...]) -> None:
    assert names("embeddings.sinusoidal", function) == expected


def test_only_conventions_of_one_item_explain_together() -> None:
    ours = registry.bugs_of("embeddings.sinusoidal")
    alone, together = suspects(ours)
    assert [s.variants[0][0] for s in alone] == [b.id for b in ours]
    assert [[name for name, _ in s.variants] for s in together] == [
        ["ATLAS-03", "ATLAS-03b", "ATLAS-03c", "ATLAS-03d", "ATLAS-03d"]
    ]
    assert suspects([replace(b, verdict="no bug") for b in ours])[1] == []
