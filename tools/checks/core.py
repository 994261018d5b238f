"""The generic checks: each is written once and runs for every formula, implementation and dtype.

A check is a function ``check(trial) -> Verdict`` with a sentence that describes it and what it needs of an
implementation (a framework, a claim, a device); where that is missing, the verdict is a skip with the reason. There is
one module per kind; tools/checks/__init__.py lists all of them in the order they run in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Flaky

from trueness.tools.arithmetic.bounds import AGAIN
from trueness.tools.run.frameworks import Rejected, unsupported
from trueness.tools.run.trial import Reading, Trial
from trueness.tools.spec import inputs
from trueness.tools.spec.model import Case, Verdict
from trueness.tools.spec.tables import DEVICES, FRAMEWORKS

__all__ = ["Check", "Failed", "check", "failed", "run", "search", "settings_for"]


@dataclass(frozen=True)
class Check:
    name: str
    sentence: str
    function: Callable[[Trial], Verdict]
    frameworks: tuple[str, ...] = FRAMEWORKS
    claim: str = ""
    device: str = ""
    """the one device it runs on; empty: any"""
    independent: bool = False
    """meaningful even for an implementation whose values are wrong"""

    def __call__(self, trial: Trial) -> Verdict:
        return self.function(trial)


def check(name: str, sentence: str, **needs: Any) -> Callable[[Callable[[Trial], Verdict]], Check]:
    """Make a check of a function."""
    return lambda function: Check(name, sentence, function, **needs)


DOUBT = 16
"""times its limit: of bounds whose spread is that of two runs alone, one in 250 is as much too narrow"""


class Failed(Exception):
    """A case on which the implementation is wrong."""

    def __init__(self, case: Case, message: str, reading: Reading | None = None) -> None:
        super().__init__(message)
        self.case, self.message, self.reading = case, message, reading


def why_not(entry: Check, trial: Trial) -> str:
    """Why ``entry`` does not apply to this trial; empty when it does."""
    implementation = trial.implementation
    if entry.device and not DEVICES[entry.device].available():
        return f"no {DEVICES[entry.device].title}"
    if entry.device not in ("", trial.device):
        return f"runs with --device {entry.device}"
    for key in (entry.name, f"{entry.name} {trial.dtype}"):
        if key in implementation.waived:
            return implementation.waived[key]
    if trial.framework not in entry.frameworks:
        return f"not for {trial.framework} callables"
    if entry.claim and entry.claim not in implementation.claims:
        return f"{entry.claim} is not claimed"
    return ""


def excluded(trial: Trial) -> str:
    """Why this implementation is not verified in this dtype or on this device at all; empty when it is."""
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
    """The verdict of one check; a skip carries its reason, and an exception of the implementation is a failure."""
    trial.longest = 0
    return replace(_run(entry, trial), longest=trial.longest)


def _run(entry: Check, trial: Trial) -> Verdict:
    reason = excluded(trial) or why_not(entry, trial)
    if reason:
        return trial.skipped(entry.name, reason)
    verdict = judged(entry, trial)
    if trial.times > 1:
        return verdict
    surer = replace(trial, times=AGAIN, observed=None)
    known: list[str] = []  # cases whose bound is one of more runs by now
    while doubtful(verdict) and verdict.case and verdict.case not in known and len(known) < AGAIN:
        known.append(verdict.case)
        if not judged(entry, replace(surer, replay=Case.from_json(verdict.case))).passed:
            return verdict
        verdict = judged(entry, replace(trial, observed=None))
    return judged(entry, surer) if doubtful(verdict) else verdict


def judged(entry: Check, trial: Trial) -> Verdict:
    try:
        return entry.function(trial)
    except Failed as failure:
        return failed(entry.name, trial, failure)
    except Rejected as rejection:
        return trial.failed(entry.name, str(rejection))


def doubtful(verdict: Verdict) -> bool:
    """Whether a failure may be one of the bound."""
    return not verdict.passed and verdict.T is not None and in_doubt(verdict.T, verdict.limit or 0.0)


def in_doubt(T: float, limit: float) -> bool:
    """Whether a result is not farther beyond its limit than a bound of few runs may be too narrow by chance."""
    return T <= DOUBT * max(limit, 1.0)


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
    fields.setdefault("reproduction", trial.reproduction(name, case))
    return trial.failed(name, failure.message, case=case, **fields)


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


def search(trial: Trial, body: Callable[[Case], None], layouts: Sequence[str] = (inputs.CONTIGUOUS,)) -> int:
    """Run ``body`` on drawn cases, or on the one to replay, and return their number; Failed carries the shrunk case."""
    count = 0
    said: dict[str, list[str]] = {}
    last: list[Case] = []  # the one that failed last

    def one(case: Case) -> None:
        nonlocal count
        count += 1
        key = case.to_json()
        trial.heartbeat(key)
        try:
            body(case)
        except (Failed, Rejected) as failure:
            said.setdefault(key, []).append(str(failure))
            last[:] = [case]
            if isinstance(failure, Failed):
                raise
            raise Failed(case, str(failure)) from None
        said.setdefault(key, []).append("")

    if trial.replay is not None:
        one(trial.replay)
        return count
    try:
        settings_for(trial.examples)(given(inputs.cases(trial.formula, layouts))(one))()
    except Flaky:
        raise Failed(last[0], inconsistent(said[last[0].to_json()])) from None
    return count


def inconsistent(said: Sequence[str]) -> str:
    """The sentence about a case that failed on some calls and on others did not, ``said`` being what each call said."""
    k = next((i for i, text in enumerate(said) if bool(text) != bool(said[0])), len(said) - 1)
    failure = next((text for text in said if text), "")
    return f"the same case gave different results on call {k + 1}: once right, once {failure}"
