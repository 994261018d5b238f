"""What the rules of the field say of a program: on normal inputs of the sizes that each project takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np

from trueness.tools.arithmetic.bounds import outputs
from trueness.tools.arithmetic.formats import round_to
from trueness.tools.calibration.examination.eager import eagerly
from trueness.tools.calibration.examination.honesty import pulled as backward
from trueness.tools.calibration.examination.honesty import trial_of
from trueness.tools.calibration.examination.program import Program
from trueness.tools.calibration.examination.rules import Rule, compared
from trueness.tools.checks.contract import simplest
from trueness.tools.checks.gradients import gradients
from trueness.tools.run import frameworks
from trueness.tools.run.frameworks import Rejected
from trueness.tools.run.trial import Memory, Trial, fingerprint
from trueness.tools.spec import inputs
from trueness.tools.spec.inputs import Real
from trueness.tools.spec.model import Case, Formula

FEW = {"B": 2, "h": 4, "w": 2, "heads": 4, "degrees": 4, "K": 4, "less": 0, "R": 4}
WIDTHS = ("d", "D", "P", "V", "C", "E", "M", "e", "p", "I", "O")
WIDEST = 64
OWN: dict[str, dict[str, int]] = {
    "atlas_memory": {"H": 2, "N": 2, "c": 2, "P": 16, "V": 16, "D": 16, "r": 8},
    "attention.group_norm": {"c": 8, "H": 16, "W": 16},
    "attention.relative_attention_logits": {"d": 64},
    "attention.tmsa": {"d": 16, "E": 16},
    "filters": {"C": 3},
    "fisher.smooth": {"...": 4},
    "kernels.nystrom": {"m": 32},
}
"""family or formula → lengths of axes that a project would keep short, or whose reference takes long"""

_KNOWN = Memory()


def lengths(formula: Formula, length: int) -> dict[str, Any]:
    """Every axis at ``length``, but batches, heads and widths."""
    own: dict[str, int] = {}
    for name, few in OWN.items():
        if formula.name.startswith(name):
            own |= few
    found: dict[str, Any] = {}
    names = inputs.symbols(formula)
    for name in names:
        if name == "...":
            found[name] = (length, length) if len(names) == 1 else (own.get(name, length),)
        elif name in own or name in FEW:
            found[name] = own.get(name, FEW.get(name, 1))
        else:
            found[name] = min(length, WIDEST) if name in WIDTHS else length
    return found


def normal(formula: Formula) -> Formula:
    """The formula with standard normal tensors, whatever magnitudes it is tried with otherwise."""
    found = copy(formula)  # not replace, which would bind the reference once more
    arguments = tuple(replace(a, unit_scale=True) if type(a) is Real else a for a in formula.arguments)
    object.__setattr__(found, "arguments", arguments)
    return found


def accepted(rule: Rule, program: Program, dtype: str) -> tuple[bool, str]:
    """Whether the project would accept the program in ``dtype``, and what it stumbled over."""
    trial = trial_of(program, dtype)
    trial = replace(trial, formula=normal(trial.formula), scalars=simplest(trial))
    with_gradient = rule.gradient and trial.formula.vjp is not None and "gradient" in trial.implementation.claims
    for length in rule.lengths:
        for seed in range(rule.trials):
            case = Case(lengths(trial.formula, length), seed, scalars=dict(trial.scalars or {}))
            values = trial.arguments_f64(case)
            try:
                if not agrees(rule, trial, trial.formula.reference, values, [], unjudged(trial, values)):
                    return False, f"output, lengths of {length}"
                if with_gradient:
                    pulled = cotangents(trial, values, seed, rule.pulled)
                    found = gradients_of(trial, values, pulled)
                    assert trial.formula.vjp is not None
                    if not agrees(rule, trial, trial.formula.vjp, values, pulled, found):
                        return False, f"gradient, lengths of {length}"
            except Rejected as rejection:
                return False, str(rejection)
    return True, ""


def unjudged(trial: Trial, values: Sequence[Any]) -> list[np.ndarray]:
    """The outputs, without a bound being made."""
    result = trial.invoke(trial.arguments(values))
    count = len(known(trial, trial.formula.reference, values, [])[0])
    return [frameworks.to_float64(y) for y in frameworks.returned(result, trial.framework, count)]


def gradients_of(trial: Trial, values: Sequence[Any], pulled: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The gradients, zero where an output does not depend on an input."""
    if trial.framework != "torch":
        return gradients(trial, values, pulled)
    *_, found = backward(trial, values, pulled)
    return [frameworks.to_float64(g) for g in found]


def known(
    trial: Trial, function: Callable[..., Any], values: Sequence[Any], pulled: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The float64 reference, and the eager result in the format."""
    arguments = [*pulled, *values]
    key = f"{trial.formula.name} {function.__name__} {trial.dtype} {fingerprint(arguments)}"
    real = [True] * len(pulled) + [a.real for a in trial.formula.arguments]

    def compute() -> tuple[list[np.ndarray], list[np.ndarray]]:
        with np.errstate(all="ignore"):
            true = [np.asarray(y, dtype=np.float64) for y in outputs(function(*arguments))]
        return true, eagerly(function, arguments, real, trial.dtype)

    return _KNOWN.get_or(key, compute)  # type: ignore[no-any-return]


def cotangents(trial: Trial, values: Sequence[Any], seed: int, size: float) -> list[np.ndarray]:
    generator = np.random.default_rng([seed, 3000])
    true, _ = known(trial, trial.formula.reference, values, [])
    return [round_to(size * generator.standard_normal(y.shape), trial.dtype) for y in true]


def agrees(
    rule: Rule,
    trial: Trial,
    function: Callable[..., Any],
    values: Sequence[Any],
    pulled: Sequence[np.ndarray],
    found: Sequence[np.ndarray],
) -> bool:
    true, eager = known(trial, function, values, pulled)
    if any(o.shape != y.shape for o, y in zip(found, true, strict=True)):
        return False
    kinds = zip(found, eager, true, strict=True)
    return all(rule.accepts(compared(o, e, y, trial.dtype, bool(pulled))) for o, e, y in kinds)
