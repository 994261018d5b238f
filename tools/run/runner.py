"""Jobs and how they are run: the trial of a job, its checks in order, and the known bug that a failure behaves like."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from trueness.tools.checks import CHECKS
from trueness.tools.checks.contract import typical
from trueness.tools.checks.core import excluded, run
from trueness.tools.checks.diagnosis import behaves_like
from trueness.tools.checks.keys import has_own_policy
from trueness.tools.run.conclusion import REFERENCE
from trueness.tools.run.frameworks import Rejected, guess
from trueness.tools.run.subject import Subject
from trueness.tools.run.trial import Trial, reraise_as_rejected
from trueness.tools.spec import registry
from trueness.tools.spec.inputs import Mask
from trueness.tools.spec.model import Case, Formula, Implementation, Verdict
from trueness.tools.spec.records import to_record
from trueness.tools.spec.tables import (
    AUTO,
    DEFAULT_DEVICE,
    DEFAULT_PROFILE,
    FORMATS,
    PROFILES,
    TRIED,
    USER_CLAIMS,
    require,
    user_claims,
)
from trueness.tools.triton.interpreter import interpreting, speed_up

REPLAYED = ("value", "gradient")
"""the checks that one given case is run through, unless others are asked for"""
FORWARD_ONLY = "forward only, as was said (--no-gradient)"
GRADIENT_CHECKS = tuple(name for name, c in CHECKS.items() if c.claim == "gradient")
BLOCKING_CHECKS = {
    "no stale cache": "not checked: its results are stale",
    "value": "not checked: its values are wrong",
}
DTYPES = tuple(FORMATS)


@dataclass(frozen=True)
class Job:
    """One implementation of one formula in one dtype, as plain data that travels to a worker."""

    formula: str
    implementation: str
    dtype: str
    device: str = DEFAULT_DEVICE
    profile: str = DEFAULT_PROFILE
    user: bool = False
    framework: str = ""
    limit: str = "fused"
    policy: str = ""
    claims: tuple[str, ...] = ()
    gradient: bool = True
    case: str = ""
    checks: tuple[str, ...] = ()
    stored: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    paths: bool = True
    """whether its cases go through all paths of a kernel; of several formats, one does (Trial.paths)"""
    shared: bool = False
    """a callable of ours, although given as a user's: it may share its process with others"""

    @property
    def subject(self) -> Subject:
        origin = "user" if self.user else "builtin"
        place = (self.formula, self.implementation, self.dtype, self.device)
        return Subject(*place, origin, self.framework, self.limit, self.policy)


# -- implementations ------------------------------------------------------------------------------------------------


def reference_as_implementation(formula: Formula) -> Implementation:
    """The reference itself is checked: for its certificates and for the power of its generator."""
    return Implementation(REFERENCE, lambda: formula.reference, "numpy", claims=frozenset({"reference"}))


def load_spec(spec: str) -> Any:
    """The callable or Implementation of ``module:attribute``; the module may lie in the current directory.

    ValueError when there is none; Rejected when the import of its module fails.
    """
    module, _, attribute = spec.partition(":")
    if not module or not attribute:
        raise ValueError(f"--impl was {spec!r}; it must look like module:callable or FORMULA=module:callable.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = reraise_as_rejected(importlib.import_module, module)
    except Rejected as rejection:
        cause = rejection.__cause__
        name = getattr(cause, "name", None) if isinstance(cause, ModuleNotFoundError) else None
        if name and (module == name or module.startswith(name + ".")):
            raise ValueError(f"--impl was {spec!r}: there is no module {name!r} here or installed.") from None
        raise Rejected(f"importing {module} {rejection}") from cause
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ValueError(f"--impl was {spec!r}: module {module!r} has no attribute {attribute!r}.")
        found = getattr(found, part)
    if not callable(found) and not isinstance(found, Implementation):
        raise ValueError(f"--impl was {spec!r}: {attribute!r} is {type(found).__name__}, not a callable.")
    return found


def user_implementation(
    name: str,
    function: Callable[..., Any],
    framework: str = "",
    limit: str = "fused",
    claims: Sequence[str] = (),
    gradient: bool = True,
) -> Implementation:
    """A user's callable as an implementation: its gradient is verified where its framework has one."""
    chosen: Any = framework or guess(function)
    held: Any = limit
    given = set(user_claims(claims, gradient))
    tries = frozenset(USER_CLAIMS) if AUTO in given else frozenset[str]()
    given = (given - {AUTO}) | tries | {"gradient"}
    without = "NumPy callables have no gradient" if chosen == "numpy" else "" if gradient else FORWARD_ONLY
    if without:
        given -= {"gradient", "double"}
    waived = dict.fromkeys(GRADIENT_CHECKS, without) if without else {}
    return Implementation(
        name,
        lambda: function,
        chosen,
        held,
        frozenset(given),
        tries - {"gradient"} if without else tries,
        waived=waived,
        origin="user",
    )


def implementation(job: Job) -> Implementation:
    """The implementation a job names, loaded from the registry or from the user's module."""
    formula = registry.formula(job.formula)
    if job.implementation == REFERENCE:
        return reference_as_implementation(formula)
    if job.user:
        found = load_spec(job.implementation)
        if isinstance(found, Implementation):
            return found
        options = (job.framework, job.limit, job.claims, job.gradient)
        return user_implementation(job.implementation, found, *options)
    for candidate in formula.implementations:
        if candidate.name == job.implementation:
            return candidate
    names = ", ".join(i.name for i in formula.implementations)
    raise ValueError(f"implementation was {job.implementation!r}; {job.formula} has {names}.")


def missing(candidate: Implementation) -> str:
    """Why a declared implementation cannot run here: a package that is not installed."""
    for module in candidate.needs:
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed: pip install 'trueness[peers]'"
    return ""


def trial_for(job: Job, candidate: Implementation, heartbeat: Callable[[str], None] = lambda note: None) -> Trial:
    formula = registry.formula(job.formula)
    known = registry.bugs_of(job.formula)
    data: dict[str, Sequence[Any]] = {b.id: b.discriminating_input for b in known if b.discriminating_input is not None}
    data.update(formula.real() if formula.real is not None else {})
    stored = [Case.from_json(text) for text in job.stored]
    profile = PROFILES[job.profile]
    trial = Trial(
        formula,
        candidate,
        job.dtype,
        job.device,
        known,
        data,
        profile.examples,
        stored=stored,
        replay=Case.from_json(job.case) if job.case else None,
        profile=profile,
        heartbeat=heartbeat,
        policy=job.policy,
        paths=job.paths or profile.every_dtype,
    )
    most = profile.interpreted if trial.interpreted else profile.examples
    return replace(trial, examples=most if trial.paths else -(-most // 2))


# -- running --------------------------------------------------------------------------------------------------------


def run_job(
    job: Job,
    emit: Callable[[str, Any], None] = lambda event, content: None,
    candidate: Implementation | None = None,
) -> list[Verdict]:
    """Every check of one job, the value first; a failing value is diagnosed."""
    candidate = candidate or implementation(job)
    if interpreting():
        speed_up()
    trial = trial_for(job, candidate, lambda note: emit("case", note))
    reason = missing(candidate)
    if reason or (excluded(trial) and job.implementation != REFERENCE):
        return [trial.skipped("value", reason or excluded(trial))]
    if not trial.strict and any(isinstance(a, Mask) for a in trial.formula.arguments):
        emit("check", "special values")
        trial.keyed = has_own_policy(trial, typical(trial))
    verdicts: list[Verdict] = []
    blocked = ""
    for name in wanted(job, candidate):
        emit("check", name)
        if blocked and not CHECKS[name].independent:
            verdicts.append(trial.skipped(name, blocked))
            continue
        verdict = run(CHECKS[name], trial)
        if name == "value" and not verdict.passed:
            verdict = replace(verdict, bugs=tuple(behaves_like(trial, verdict)))
            if candidate.convention in verdict.bugs:  # it explains everything; the other checks compare with it
                verdict = replace(verdict, bugs=(candidate.convention,))
                variant = registry.bugs()[candidate.convention].variant
                assert variant is not None
                trial = replace(trial, formula=replace(trial.formula, reference=variant))
        verdict = tried(candidate, verdict)
        verdicts.append(verdict)
        emit("verdict", to_record(verdict))
        if not verdict.passed and not job.case and name in BLOCKING_CHECKS and candidate.convention not in verdict.bugs:
            blocked = BLOCKING_CHECKS[name]
        if name == "value" and not verdict.passed and job.user and verdict.T is None:
            break  # it cannot even be called
    return by_convention(trial, verdicts)


def tried(candidate: Implementation, verdict: Verdict) -> Verdict:
    """A claim that is only tried and does not hold is reported; a wrong gradient stays wrong."""
    claim = CHECKS[verdict.check].claim
    if verdict.passed or claim not in candidate.tries or claim == "gradient":
        return verdict
    return replace(verdict, status="skip", message=f"{TRIED}{verdict.message}", case="", reproduction="", cases=0)


def wanted(job: Job, candidate: Implementation) -> list[str]:
    """The names of the checks of a job, in order."""
    if job.checks:
        return [require("check", name, CHECKS) for name in job.checks]
    if job.case:
        return list(REPLAYED)
    about_reference = [n for n, c in CHECKS.items() if c.claim == "reference"]
    if job.implementation == REFERENCE:
        return about_reference if job.dtype == "float64" else ["power", "known bugs"]
    return [n for n in CHECKS if n not in about_reference]


def by_convention(trial: Trial, verdicts: list[Verdict]) -> list[Verdict]:
    """A peer that is known to differ by a convention passes only if it differs in just that way, or not at all."""
    name = trial.implementation.convention
    if not name:
        return verdicts
    judged: list[Verdict] = []
    for v in verdicts:
        if v.check == "value" and not v.passed and name in v.bugs:
            title = registry.bugs()[name].title
            v = replace(v, status="convention", convention=name, message=f"{name}: {title}. {v.message}")
        elif v.check == "gradient" and not v.passed and any(w.check == "value" and name in w.bugs for w in judged):
            v = replace(v, status="convention", convention=name, message=f"{name}, in the gradient. {v.message}")
        judged.append(v)
    return judged
