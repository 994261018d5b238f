"""``trueness.check``: verify one implementation of one formula in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from trueness.tools.arithmetic.formats import precision
from trueness.tools.checks import CHECKS
from trueness.tools.run.conclusion import conclusion, judged
from trueness.tools.run.frameworks import Rejected
from trueness.tools.run.importing import spec_of
from trueness.tools.run.plan import importable, leading
from trueness.tools.run.pool import run_groups
from trueness.tools.run.runner import DTYPES, Job, run_job, user_implementation
from trueness.tools.spec import registry
from trueness.tools.spec.model import Case, Implementation, Verdict
from trueness.tools.spec.tables import (
    DEFAULT_DEVICE,
    DEFAULT_PROFILE,
    DEVICES,
    FRAMEWORKS,
    LIMITS,
    POLICIES,
    PROFILES,
    TRIED,
    USER_CLAIMS,
    require,
    user_claims,
)


@dataclass(frozen=True)
class Outcome:
    """The verdicts on an implementation. Truthy if all pass and one was judged at all.

    Printing it shows what fails and how to reproduce it, or in how many cases, up to which length, no fault was found.
    """

    verdicts: tuple[Verdict, ...]

    def __bool__(self) -> bool:
        return all(self.verdicts) and bool(judged(self.verdicts))

    @property
    def failures(self) -> tuple[Verdict, ...]:
        return tuple(v for v in self.verdicts if not v.passed)

    def __str__(self) -> str:
        if self.failures:
            lines = [describe(v) for v in self.failures]
        else:
            found, ran = conclusion(self.verdicts), judged(self.verdicts)
            worst = max((v.T for v in ran if v.T is not None), default=0.0)
            counts = f": {len(ran)} checks passed, {len(self.verdicts) - len(ran)} skipped, worst T {worst:.2f}"
            lines = [f"{found}{counts if ran else ''}."]
        return "\n".join([*lines, *held(self.verdicts)])


def held(verdicts: Iterable[Verdict]) -> list[str]:
    """A line for each implementation of a user and dtype: which claims were tried, and what holds."""
    lines: dict[str, tuple[list[str], list[str]]] = {}
    for v in verdicts:
        claim = CHECKS[v.check].claim if v.check in CHECKS else ""
        if v.origin != "user" or claim not in USER_CLAIMS:
            continue
        holds, not_held = lines.setdefault(f"{v.formula} · {v.implementation} · {v.dtype}", ([], []))
        if v.skipped and v.message.startswith(TRIED):
            not_held.append(f"{claim} ({v.message.removeprefix(TRIED).rstrip('.')})")
        elif v.passed and not v.skipped and claim not in holds:
            holds.append(claim)
    return [
        f"{who}: claims that hold: {', '.join(holds) or 'none'}" + (f"; that do not: {'; '.join(no)}" if no else "")
        for who, (holds, no) in lines.items()
        if no or set(holds) - {"gradient"}
    ]


def describe(verdict: Verdict) -> str:
    """A failing verdict as text."""
    lines = [f"{verdict.formula} · {verdict.implementation} · {verdict.dtype} · {verdict.check}: {verdict.message}"]
    known = registry.bugs()
    lines += [f"  behaves like {bug} ({known[bug].verdict}): {known[bug].title}" for bug in verdict.bugs]
    if verdict.reproduction:
        lines += ["  to reproduce it:", *(f"    {line}" for line in verdict.reproduction.splitlines())]
    return "\n".join(lines)


def check(
    formula: str,
    implementation: Callable[..., Any] | str,
    *,
    dtype: str | Sequence[str] = DTYPES,
    device: str = DEFAULT_DEVICE,
    profile: str = DEFAULT_PROFILE,
    case: str = "",
    checks: Sequence[str] = (),
    framework: str = "",
    limit: str = "fused",
    policy: str = "",
    claims: str | Sequence[str] = (),
    gradient: bool = True,
    timeout: float = 60.0,
) -> Outcome:
    """Verify ``implementation`` against the reference of ``formula``.

    formula         its name, such as "fisher.diagonal"
    implementation  a callable on torch, NumPy or JAX arrays; or "module:callable", which runs in a process of its own
                    and may hang or crash there; or the name of an implementation that the formula declares
    dtype           one or several of float64, float32, float16, bfloat16
    profile         how many cases are drawn: quick, ci, deep
    case            one case to run again, as a failing verdict printed it
    checks          names of checks; all of them unless given
    framework       "torch", "numpy" or "jax" where it cannot be guessed
    limit           "fused" (T ≤ 1.5), "eager" (T ≤ 3) or "exact"
    policy          "observe" names what it does with special values; "strict" demands the reference's own policies, and
                    is the default for built-in implementations
    claims          what a callable of yours promises beyond the value: gradient, compile, double, autocast, vmap, jvp,
                    out, opcheck; "auto" tries each and reports what holds
    gradient        False for a callable that is forward only
    returns         Outcome, truthy if no fault was found; falsy, too, if nothing was judged
    raises          ValueError for an unknown formula, dtype, profile, check, claim or implementation
    """
    declared = registry.formula(formula)
    dtypes = [precision(d).name for d in ([dtype] if isinstance(dtype, str) else dtype)]
    require("profile", profile, PROFILES)
    require("device", device, DEVICES)
    require("framework", framework or FRAMEWORKS[0], FRAMEWORKS)
    require("limit", limit, LIMITS)
    if policy:
        require("policy", policy, POLICIES)
    if case:
        Case.from_json(case)
    name = implementation if isinstance(implementation, str) else getattr(implementation, "__qualname__", "callable")
    outside = isinstance(implementation, str) and ":" in implementation
    if outside:
        importable(name)
    promised = user_claims([claims] if isinstance(claims, str) else claims, gradient)
    declared_one = isinstance(implementation, str) and not outside
    if declared_one and (promised or not gradient):
        raise ValueError(f"claims are those of a callable of yours; {name!r} has its own.")
    options: dict[str, Any] = {"framework": framework, "limit": limit, "claims": promised, "gradient": gradient}
    held = [i.dtypes for i in declared.implementations if declared_one and i.name == name]
    first = leading(dtypes, declared.dtypes, *held)
    common: dict[str, Any] = {"policy": policy, "case": case, "checks": tuple(checks), **options}
    jobs = [Job(declared.name, name, d, device, profile, outside, paths=d == first, **common) for d in dtypes]
    if outside:
        return Outcome(tuple(run_groups([jobs], 1, timeout)))
    candidate: Implementation | None = None
    if not isinstance(implementation, str):
        candidate = user_implementation(spec_of(implementation), implementation, **options)
    try:
        return Outcome(tuple(v for job in jobs for v in run_job(job, candidate=candidate)))
    except Rejected as rejection:
        raise ValueError(str(rejection)) from rejection
