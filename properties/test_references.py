"""Requirements of every reference: it runs in all four arithmetics. Certificates: check “reference” of a run."""

from __future__ import annotations

import ast
import inspect

import numpy as np
import pytest

from trueness.tools.arithmetic.base import is_inexact
from trueness.tools.arithmetic.bounds import outputs
from trueness.tools.arithmetic.noise import Noise
from trueness.tools.arithmetic.stochastic import stochastic
from trueness.tools.checks.core import search
from trueness.tools.run.runner import Job, implementation, trial_for
from trueness.tools.spec import registry
from trueness.tools.spec.model import Case, Formula

FORMULAS = list(registry.formulas().values())


def drawn(formula: Formula, examples: int = 5) -> list[list[object]]:
    """Arguments of a few drawn cases in float64."""
    job = Job(formula.name, "reference", "float64")
    trial = trial_for(job, implementation(job))
    trial.examples = examples
    found: list[Case] = []
    search(trial, found.append)
    return [trial.arguments_f64(case) for case in found]


def as_stochastic(arguments: list[object], u: float) -> list[object]:
    """The arguments, floating ones as stochastic arrays of unit roundoff ``u``."""
    noise = Noise(0, 1)
    return [stochastic(x, u, 0.0, noise) if is_inexact(x) else x for x in arguments]


def raw(argument: object) -> object:
    """The bytes of an argument, for lists of every item."""
    return [raw(x) for x in argument] if isinstance(argument, (list, tuple)) else np.array(argument).tobytes()


def exact(formula: Formula) -> bool:
    """Whether the formula only moves or counts elements, without rounding."""
    return all(i.limit == "exact" for i in formula.implementations)


@pytest.mark.parametrize("formula", FORMULAS, ids=lambda f: f.name)
def test_stochastic_arithmetic_without_roundoff_is_float64_bit_for_bit(formula: Formula) -> None:
    for arguments in drawn(formula):
        with np.errstate(over="ignore"):  # of large magnitudes
            plain = outputs(formula.reference(*arguments))
            still = outputs(formula.reference(*as_stochastic(arguments, 0.0)))
        for a, b in zip(plain, still, strict=True):
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize("formula", FORMULAS, ids=lambda f: f.name)
def test_stochastic_arithmetic_with_roundoff_moves_the_result(formula: Formula) -> None:
    """Otherwise D is zero and the bound is the final rounding alone, which is right only for exact formulas."""
    different = 0
    for arguments in drawn(formula):
        with np.errstate(all="ignore"):  # a perturbed argument may leave the domain
            plain = outputs(formula.reference(*arguments))
            shaken = outputs(formula.reference(*as_stochastic(arguments, 2.0**-11)))
        different += any((np.asarray(a) != np.asarray(b)).any() for a, b in zip(plain, shaken, strict=True))
    assert bool(different) != exact(formula)


@pytest.mark.parametrize("formula", FORMULAS, ids=lambda f: f.name)
def test_a_reference_leaves_its_arguments_alone(formula: Formula) -> None:
    for arguments in drawn(formula, 2):
        before = raw(arguments)
        formula.reference(*arguments)
        assert raw(arguments) == before


@pytest.mark.parametrize("formula", FORMULAS, ids=lambda f: f.name)
def test_a_reference_gives_its_equation_and_its_symbols(formula: Formula) -> None:
    function = getattr(formula.reference, "flattened", formula.reference)
    text = inspect.getdoc(function) or ""
    assert "=" in text or "≈" in text, "no equation"
    assert "returns" in text
    for name in inspect.signature(function).parameters:
        assert name in text, f"{name} is not explained"
    tree = ast.parse(inspect.getsource(function))
    assert not [n for n in ast.walk(tree) if isinstance(n, ast.AugAssign)], "in-place updates break three arithmetics"


@pytest.mark.parametrize("formula", FORMULAS, ids=lambda f: f.name)
def test_an_exception_has_a_reason(formula: Formula) -> None:
    assert formula.vjp is not None or formula.no_gradient
    for dtype in {"float64", "float32", "float16", "bfloat16"} - set(formula.dtypes):
        assert formula.without.get(dtype), f"no reason is given for leaving {dtype} out"
    assert formula.source and formula.equation and formula.special
    assert any(i.origin == "builtin" for i in formula.implementations)
