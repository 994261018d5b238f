"""The optimized families in the calibration: their implementations on drawn cases, and every known wrong variant.

Forward: our implementations and the eager peers are correct; the mutants are the ledger's variants, each also on the
input that was recorded with it. Backward: our gradients are correct; the mutants are mistakes planted into the
reference's gradient, one input at a time. Limits are the shipped ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
from hypothesis import given

from trueness.tools.arithmetic.bounds import AGAIN, LIMITS
from trueness.tools.arithmetic.formats import precision, round_to
from trueness.tools.calibration.record import Run
from trueness.tools.calibration.subjects import DTYPES
from trueness.tools.checks.contract import typical
from trueness.tools.checks.core import excluded, in_doubt, settings_for
from trueness.tools.checks.gradients import cotangents_for, differentiable, gradients
from trueness.tools.checks.value import unjudged
from trueness.tools.run.frameworks import Rejected
from trueness.tools.run.runner import missing, reference_as_implementation
from trueness.tools.run.trial import Trial
from trueness.tools.run.variants import as_torch
from trueness.tools.spec import inputs, registry
from trueness.tools.spec.model import Bug, Case, Formula, Implementation
from trueness.tools.spec.tables import CALIBRATION_PROFILES

FAMILIES = ("attention", "atlas_memory", "filters", "fisher", "kernels")

ZERO = {("attention.tmsa", "w_kt"): "the gradient by W_kt is 0, since k_t cancels in the softmax"}
"""(formula, argument) → why no mistake in that gradient can show"""

Arrays = list[np.ndarray]


def gain(gradients: Arrays, at: int) -> Arrays:
    return [1.01 * g if i == at else g for i, g in enumerate(gradients)]


def sign(gradients: Arrays, at: int) -> Arrays:
    return [-g if i == at else g for i, g in enumerate(gradients)]


def dropped(gradients: Arrays, at: int) -> Arrays:
    return [np.zeros_like(g) if i == at else g for i, g in enumerate(gradients)]


def last_missing(gradients: Arrays, at: int) -> Arrays:
    """The last row along the first axis was not written: a tile that was forgotten."""
    return [g * (np.arange(len(g)) < len(g) - 1).reshape(-1, *[1] * (g.ndim - 1)) if i == at else g
            for i, g in enumerate(gradients)]  # fmt: skip


PLANTED: dict[str, Callable[[Arrays, int], Arrays]] = {
    "gain of 1 %": gain,
    "sign": sign,
    "dropped": dropped,
    "last row missing": last_missing,
}


def formats(profile: str) -> tuple[str, ...]:
    """The dtypes in which the optimized families are measured."""
    return CALIBRATION_PROFILES[profile].dtypes or DTYPES


def formulas() -> list[Formula]:
    """Those of the optimized families."""
    return [f for f in registry.formulas().values() if f.family in FAMILIES]


def drawn(formula: Formula, count: int) -> Sequence[Case]:
    """``count`` cases, the same ones every time, in which no tensor is empty or a mere number."""
    return _drawn(formula.name, count)


@cache
def _drawn(name: str, count: int) -> tuple[Case, ...]:
    """Drawn once for both directions and every dtype: drawing took two fifths of a quick calibration."""
    formula = registry.formula(name)
    found: list[Case] = []

    @settings_for(10 * count)
    @given(inputs.cases(formula))
    def collect(case: Case) -> None:
        values = zip(formula.arguments, inputs.values(formula, case, "float64"), strict=True)
        if all(x.size and (x.ndim or not getattr(a, "dims", ())) for a, x in values if isinstance(x, np.ndarray)):
            found.append(case)

    collect()
    return tuple(found[-count:])


def judgeable(formula: Formula, dtype: str, count: int) -> Iterator[tuple[Case, list[Any]]]:
    """A typical case, which shows what a mistake changes, and the drawn ones that the value check judges."""
    trial = Trial(formula, reference_as_implementation(formula), dtype)
    for case in (typical(trial), *drawn(formula, count)):
        values = inputs.values(formula, case, dtype)
        if not unjudged(trial, case, values, trial.truth(values)):
            yield case, values


def correct(formula: Formula, dtype: str) -> Iterator[Implementation]:
    """Ours and the eager peers in torch that run here; no convention, nothing interpreted."""
    for implementation in formula.implementations:
        trial = Trial(formula, implementation, dtype)
        peer = implementation.origin == "third_party" and implementation.framework != "torch"
        elsewhere = implementation.convention or implementation.env or peer
        if not elsewhere and not missing(implementation) and not excluded(trial):
            yield implementation


def mutants(formula: Formula, dtype: str) -> list[Bug]:
    """The ledger's variants that this format can show."""
    return [b for b in registry.bugs_of(formula.name) if dtype not in b.invisible]


def expected(profile: str) -> list[tuple[str, str, str, str]]:
    """Every mutant that some case must show: all variants that the format can, all mistakes in all gradients."""
    found = []
    for formula in formulas():
        for dtype in formats(profile):
            if dtype not in formula.dtypes:
                continue
            found += [(formula.name, "forward", dtype, bug.id) for bug in mutants(formula, dtype)]
            if formula.vjp is not None and with_gradient(formula, dtype):
                for a in formula.arguments:
                    if a.differentiable and (formula.name, a.name) not in ZERO:
                        mistakes = [
                            m
                            for m, plant in PLANTED.items()
                            if (getattr(a, "dims", ()) or plant is not last_missing)
                            and (dtype == "float32" or plant is not gain)  # 1 % is a few roundings of a half format
                        ]
                        found += [(formula.name, "backward", dtype, f"{m}, {a.name}") for m in mistakes]
    return found


def runs(profile: str, progress: Callable[[str], None] = lambda note: None) -> list[Run]:
    """All runs: the family of a run is the name of its formula."""
    found: list[Run] = []
    for formula in formulas():
        for dtype in formats(profile):
            if dtype not in formula.dtypes:
                continue
            progress(f"{formula.name}, {dtype}")
            found += forward(formula, dtype, CALIBRATION_PROFILES[profile].ledger_cases)
            if formula.vjp is not None:
                found += backward(formula, dtype, CALIBRATION_PROFILES[profile].ledger_cases)
    return found


def forward(formula: Formula, dtype: str, count: int) -> list[Run]:
    bugs = mutants(formula, dtype)
    values = [v for _, v in judgeable(formula, dtype, count)]
    recorded = [recorded_input(formula, bug, dtype) for bug in bugs]
    found = []
    for implementation in correct(formula, dtype):
        trial = Trial(formula, implementation, dtype)
        for v in [*values, *recorded]:
            outs = trial.call(v)
            T = surely(trial, lambda by, outs=outs, v=v: by.judge(outs, by.truth(v)).T)  # type: ignore[misc]
            found.append(Run(formula.name, "forward", dtype, implementation.name, implementation.limit, T))
    for bug, decisive in zip(bugs, recorded, strict=True):
        assert bug.variant is not None
        variant = Implementation(bug.id, partial(as_torch, bug.variant, formula))
        trial = Trial(formula, variant, dtype)
        for v in [decisive, *values]:
            found.append(Run(formula.name, "forward", dtype, bug.id, "mutant", judged(trial, v)))
    return found


def judged(trial: Trial, values: Sequence[Any]) -> float:
    """T of a wrong variant; one that raises is as wrong as can be."""
    try:
        outs = trial.call_unjudged(values)
        return surely(trial, lambda by: by.judge(outs, by.truth(values)).T)
    except Rejected:
        return float("inf")


def surely(trial: Trial, judge: Callable[[Trial], float]) -> float:
    """T as a check finds it: one in doubt again, by a bound of more runs."""
    T = judge(trial)
    return judge(replace(trial, times=AGAIN)) if T > trial.limit and in_doubt(T, trial.limit) else T


def recorded_input(formula: Formula, bug: Bug, dtype: str) -> list[Any]:
    assert bug.discriminating_input is not None
    return [
        inputs.rounded(a, v, Case(), dtype) for a, v in zip(formula.arguments, bug.discriminating_input, strict=True)
    ]


def with_gradient(formula: Formula, dtype: str) -> list[Implementation]:
    """Of the correct ones ours, where a gradient is claimed."""
    ours = [i for i in correct(formula, dtype) if i.origin == "builtin" and "gradient" in i.claims]
    return [i for i in ours if not {"gradient", f"gradient {dtype}"} & set(i.waived)]


def backward(formula: Formula, dtype: str, count: int) -> list[Run]:
    found = []
    ours = with_gradient(formula, dtype)
    saturates = precision(dtype).max
    for case, values in judgeable(formula, dtype, count):
        for implementation in ours:
            trial = Trial(formula, implementation, dtype)
            cotangents = cotangents_for(trial, values, case.seed)
            truth = trial.truth_of_gradient(values, cotangents)
            outs = gradients(trial, values, cotangents)

            def judge(by: Trial, outs: Arrays = outs, v: Any = values, g: Any = cotangents) -> float:
                return by.judge(outs, by.truth_of_gradient(v, g)).T

            T = surely(trial, judge)
            found.append(Run(formula.name, "backward", dtype, implementation.name, implementation.limit, T))
        if not ours:
            continue
        names = [formula.arguments[i].name for i in differentiable(trial)]
        right = [round_to(np.clip(b.y, -saturates, saturates), dtype) for b in truth]
        for at, name in enumerate(names):
            if not right[at].size or (formula.name, name) in ZERO:
                continue
            with np.errstate(divide="ignore", invalid="ignore"):  # zero within zero
                size = np.nan_to_num(np.abs(right[at]) / truth[at].B)
            for mistake, plant in PLANTED.items():
                share = 0.01 if plant is gain else 1.0  # of the gradient that the mistake moves at least
                here = size[-1:] if size.ndim else size
                if plant is last_missing and not size.ndim:
                    continue  # a number has no last row
                if (share * (here if plant is last_missing else size) > 2 * LIMITS["fused"]).any():
                    T = float(trial.judge(plant(right, at), truth).T)
                    found.append(Run(formula.name, "backward", dtype, f"{mistake}, {name}", "mutant", T))
    return found
