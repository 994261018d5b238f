"""Plans a run: from a request to groups of jobs, each group for one process."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from trueness.tools.arithmetic.formats import precision
from trueness.tools.run import saved_cases
from trueness.tools.run.conclusion import REFERENCE
from trueness.tools.run.runner import Job, load_spec
from trueness.tools.spec import registry
from trueness.tools.spec.model import Case, Formula, Implementation
from trueness.tools.spec.tables import (
    DEFAULT_DEVICE,
    DEFAULT_PROFILE,
    DEVICES,
    FORMATS,
    POLICIES,
    PROFILES,
    require,
    user_claims,
)


@dataclass(frozen=True)
class Request:
    """What the caller wants verified."""

    formulas: tuple[str, ...] = ()
    impls: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = tuple(FORMATS)
    device: str = DEFAULT_DEVICE
    peers: bool | None = None
    profile: str = DEFAULT_PROFILE
    framework: str = ""
    limit: str = "fused"
    policy: str = ""
    claims: tuple[str, ...] = ()
    gradient: bool = True
    case: str = ""


def user_implementations(request: Request) -> list[tuple[Formula, str]]:
    """(formula, module:callable) of every --impl; ValueError names what is missing."""
    found = []
    for text in request.impls:
        name, equals, spec = text.rpartition("=")
        if not equals:
            if len(request.formulas) != 1:
                raise ValueError(f"--impl was {text!r}; say which formula: --impl FORMULA=module:callable.")
            name = request.formulas[0]
        found.append((registry.formula(name), spec))
    return found


def leading(dtypes: Sequence[str], *taken: Collection[str]) -> str:
    """The one of ``dtypes`` in which the cases go through all paths; float32 where all of ``taken`` have it."""
    return min((d for d in dtypes if all(d in t for t in taken)), key=lambda d: d != "float32", default="")


def paths(implementation: Implementation, dtype: str, firsts: Mapping[str, str]) -> bool:
    """Whether an implementation goes through all paths in ``dtype``: third parties are there to confirm the reference,
    on the longest lengths and on fewer cases."""
    return implementation.origin == "builtin" and dtype == firsts[implementation.name]


def groups(request: Request) -> list[list[Job]]:
    """Jobs that share a process, longest first; ValueError when the request itself is wrong."""
    dtypes = [precision(d).name for d in request.dtypes]
    require("profile", request.profile, PROFILES)
    device = DEVICES[require("device", request.device, DEVICES)]
    if not device.available():
        raise ValueError(
            f"device was {device.name!r}, but torch sees no {device.title}; `trueness doctor` says what is missing."
        )
    if request.policy:
        require("policy", request.policy, POLICIES)
    if request.case:
        Case.from_json(request.case)
    claims = user_claims(request.claims, request.gradient)
    given = user_implementations(request)
    if not given and (claims or not request.gradient):
        raise ValueError("claims are those of an implementation of yours; give it with --impl.")
    for _, spec in given:
        importable(spec)
    chosen = registry.select(list(request.formulas)) if request.formulas or not given else []
    chosen = list({f.name: f for f in [*chosen, *(f for f, _ in given)]}.values())
    others = bool(request.peers) or not given  # with --impl alone, the caller's is what counts

    def job(formula: Formula, name: str, dtype: str, **fields: object) -> Job:
        stored = () if request.case else saved_cases.load(formula.name)
        common: dict[str, object] = {"device": request.device, "profile": request.profile, "policy": request.policy}
        common |= {"case": request.case, "stored": stored}
        return Job(formula.name, name, dtype, **{**common, **fields})  # type: ignore[arg-type]

    plain: list[list[Job]] = []
    promised: dict[str, object] = {"claims": claims, "gradient": request.gradient}
    for formula, spec in given:
        options: dict[str, object] = {"user": True, "framework": request.framework, "limit": request.limit, **promised}
        first = leading(dtypes, formula.dtypes)
        plain.append([job(formula, spec, d, paths=d == first, **options) for d in dtypes])
    for formula in chosen:
        for d in [*dtypes, *(["float64"] if "float64" not in dtypes else [])]:
            ours = (
                [i for i in formula.implementations if i.origin == "builtin" or request.peers is not False]
                if others
                else []
            )
            firsts = {i.name: leading(dtypes, formula.dtypes, i.dtypes) for i in ours}
            same = [i for i in ours if not i.env]
            together = [job(formula, i.name, d, paths=paths(i, d, firsts)) for i in same if d in dtypes]
            if not request.case:
                together.insert(0, job(formula, REFERENCE, d, paths=d == (leading(dtypes, formula.dtypes) or d)))
            plain.append(together)
            for i in ours:
                if i.env and d in dtypes:
                    env = dict(i.env) if device.interpreted else {}
                    plain.append([job(formula, i.name, d, paths=paths(i, d, firsts), env=env)])
    return sorted((g for g in plain if g), key=lambda g: (not g[0].user, not g[0].env))


def importable(spec: str) -> None:
    """Refuse a ``module:callable`` that is not there; its import is left to the worker."""
    import importlib.util
    import os
    import sys

    module, _, attribute = spec.partition(":")
    if not module or not attribute:
        load_spec(spec)  # raises the sentence
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()  # a file that has just been written must be found
    try:
        missing = importlib.util.find_spec(module) is None
    except (ModuleNotFoundError, ValueError):  # no parent package, or a module without a spec such as __main__
        missing = True
    if missing:
        raise ValueError(f"--impl was {spec!r}: there is no module {module!r} here or installed.")
