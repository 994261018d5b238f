"""The generic checks: each is written once and runs for every formula, implementation and dtype.

A check is a function ``check(trial) -> Verdict``. It is registered with the sentence it stands for and with what it
needs of an implementation (a framework, a claim, a gradient, a device); where that is missing, the verdict is a skip
that says why. The functions live in check_*.py, one file per kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, settings

from trueness.tools.run.frameworks import Rejected, guess, unsupported
from trueness.tools.run.trial import Reading, Trial
from trueness.tools.spec import inputs
from trueness.tools.spec.model import Case, Verdict

__all__ = ["CHECKS", "Check", "Failed", "check", "run", "search", "settings_for"]


@dataclass(frozen=True)
class Check:
    name: str
    sentence: str
    function: Callable[[Trial], Verdict]
    frameworks: tuple[str, ...] = ("torch", "numpy", "jax")
    claim: str = ""
    cuda: bool = False
    independent: bool = False
    """says something even of an implementation whose values are wrong"""


CHECKS: dict[str, Check] = {}


def check(name: str, sentence: str, **needs: Any) -> Callable[[Callable[[Trial], Verdict]], Callable[[Trial], Verdict]]:
    """Register a check under ``name``."""

    def register(function: Callable[[Trial], Verdict]) -> Callable[[Trial], Verdict]:
        CHECKS[name] = Check(name, sentence, function, **needs)
        return function

    return register


class Failed(Exception):
    """A case on which the implementation is wrong."""

    def __init__(self, case: Case, message: str, reading: Reading | None = None) -> None:
        super().__init__(message)
        self.case, self.message, self.reading = case, message, reading


def why_not(entry: Check, trial: Trial) -> str:
    """Why ``entry`` does not apply to this trial; empty when it does."""
    implementation = trial.implementation
    if entry.cuda and not torch.cuda.is_available():
        return "no CUDA device"
    if entry.cuda and trial.device != "cuda":
        return "runs with --device cuda"
    for key in (entry.name, f"{entry.name} {trial.dtype}"):
        if key in implementation.waived:
            return implementation.waived[key]
    if trial.framework not in entry.frameworks:
        return f"not for {trial.framework} callables"
    if entry.claim and entry.claim not in implementation.claims:
        return f"{entry.claim} is not claimed"
    return ""


def excluded(trial: Trial) -> str:
    """Why this implementation is not tried in this dtype or on this device at all; empty when it is."""
    implementation, formula = trial.implementation, trial.formula
    if "reference" in implementation.claims:
        return ""
    if trial.dtype not in formula.dtypes:
        return formula.without.get(trial.dtype, f"{formula.name} is not defined in {trial.dtype}")
    if trial.dtype not in implementation.dtypes:
        return implementation.only or f"{implementation.name} does not take {trial.dtype}"
    if trial.device not in implementation.devices:
        return f"{implementation.name} runs on {' and '.join(implementation.devices)} only"
    return unsupported(trial.framework, trial.dtype, trial.device)


def run(entry: Check, trial: Trial) -> Verdict:
    """The verdict of one check; a skip carries its reason, and what the implementation raises is its verdict."""
    reason = excluded(trial) or why_not(entry, trial)
    if reason:
        return trial.verdict(entry.name, True, skipped=reason)
    try:
        return entry.function(trial)
    except Failed as failure:
        return failed(entry.name, trial, failure)
    except Rejected as rejection:
        return trial.verdict(entry.name, False, message=str(rejection))


def failed(name: str, trial: Trial, failure: Failed, **fields: Any) -> Verdict:
    """The verdict of a failing case, with everything a reader needs to see it again."""
    reading = failure.reading
    if reading is not None:
        fields = {
            "T": reading.T,
            "where": reading.where,
            "output": reading.output,
            "got": reading.got,
            "want": reading.want,
            "width": reading.width,
            "limit": trial.limit,
            **fields,
        }
    case = failure.case.to_json()
    fields.setdefault("reproduction", reproduction(trial, case, name))
    return trial.verdict(name, False, message=failure.message, case=case, **fields)


def reproduction(trial: Trial, case: str, name: str) -> str:
    """A Python text that shows the failure again when it is pasted."""
    lines = ["import trueness"]
    target = repr(trial.implementation.name)
    module, _, attribute = trial.implementation.name.partition(":")
    if trial.implementation.origin == "user" and attribute.isidentifier() and module.replace(".", "").isidentifier():
        lines.append(f"from {module} import {attribute}")
        target = attribute
    options = {"dtype": trial.dtype, "device": trial.device if trial.device != "cpu" else "", "case": case}
    if trial.implementation.origin == "user":
        told = guess(trial.function or trial.implementation.load()) != trial.framework
        options |= {"framework": trial.framework if told else ""}
        options |= {"limit": trial.implementation.limit if trial.implementation.limit != "fused" else ""}
    chosen = "".join(f", {key}={value!r}" for key, value in options.items() if value)
    only = "" if name == "value" else f", checks=[{name!r}]"
    lines.append(f"print(trueness.check({trial.formula.name!r}, {target}{chosen}{only}))")
    return "\n".join(lines)


def settings_for(examples: int) -> settings:
    """Hypothesis as the project uses it: derandomized, without a database, without a clock."""
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )


def search(trial: Trial, body: Callable[[Case], None], layouts: Sequence[str] = ("contiguous",)) -> int:
    """Run ``body`` on drawn cases and return their number; the shrunk case arrives as Failed.

    A trial of no examples is about the one case that was asked for.
    """
    count = 0

    def one(case: Case) -> None:
        nonlocal count
        count += 1
        trial.heartbeat(case.to_json())
        try:
            body(case)
        except Rejected as rejection:
            raise Failed(case, str(rejection)) from None

    if not trial.examples:
        for case in trial.stored:
            one(case)
        return count
    if trial.only is not None:
        one(trial.only)
        return count
    settings_for(trial.examples)(given(inputs.cases(trial.formula, layouts))(one))()
    return count
