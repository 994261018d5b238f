"""The verdicts of a run as rows of a table, as JSON and as JUnit XML."""

from __future__ import annotations

import json
import math
import platform
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

from junitparser import Failure, JUnitXml, Skipped, TestCase, TestSuite

from trueness.tools.spec.model import DTYPES, Bug, Formula, Verdict
from trueness.tools.spec.records import plain, to_record
from trueness.tools.spec.tables import DEFAULT_DEVICE, DEFAULT_PROFILE, ORIGINS
from trueness.tools.spec.versions import installed

SCHEMA_VERSION: Literal[2] = 2
MEASURED = ("value", "gradient", "second derivative")
SUBJECTS = ("reference", *ORIGINS)
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")

K = TypeVar("K")
Status = Literal["right", "wrong", "convention", "skipped"]


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Results:
    """The verdicts of a run and how they came about.

    formulas, bugs   the entries of the registry that the verdicts name
    seed             how the cases were drawn
    started          ISO 8601, UTC
    seconds          how long the run took
    """

    verdicts: Sequence[Verdict]
    formulas: Mapping[str, Formula] = field(default_factory=dict)
    bugs: Mapping[str, Bug] = field(default_factory=dict)
    profile: str = DEFAULT_PROFILE
    device: str = DEFAULT_DEVICE
    seed: str = "derandomized"
    versions: Mapping[str, str] = field(default_factory=installed)
    platform: str = field(default_factory=platform.platform)
    started: str = field(default_factory=now)
    seconds: float = 0.0

    def rows(self) -> list[Row]:
        return rows(self.verdicts, self.formulas)


@dataclass(frozen=True)
class Row:
    """One line of the table: an implementation of a formula in one dtype on one device.

    cases          over all checks
    T, limit       the worst of value, gradient and second derivative; None when none of them was measured
    detected, known  known wrong variants of the formula, and how many of them are rejected in this dtype
    invisible      those it lets pass for a reason that the ledger gives
    behaves_like   ids of known bugs
    status         right, wrong, convention or skipped; ``verdict`` is the same with its reason
    message        the first failing check's
    failing        names of the failing checks
    """

    formula: str
    implementation: str
    dtype: str
    device: str
    origin: str
    cases: int
    T: float | None
    limit: float | None
    passed: bool
    detected: int
    known: int
    invisible: int
    behaves_like: tuple[str, ...]
    status: Status
    verdict: str
    message: str
    failing: tuple[str, ...]


def badness(T: float) -> float:
    """Orders T with NaN, which nothing explains, at the wrong end."""
    return math.inf if math.isnan(T) else T


def grouped(verdicts: Iterable[Verdict], key: Callable[[Verdict], K]) -> dict[K, list[Verdict]]:
    groups: dict[K, list[Verdict]] = {}
    for v in verdicts:
        groups.setdefault(key(v), []).append(v)
    return groups


def origin_of(v: Verdict) -> str:
    return "reference" if v.implementation == "reference" else v.origin


def position(name: str, order: Sequence[str]) -> int:
    return order.index(name) if name in order else len(order)


def in_order(verdicts: Iterable[Verdict], formulas: Mapping[str, Formula] | None = None) -> list[Verdict]:
    """By formula, origin, implementation, dtype and device, in the order they are declared in; checks as they came."""
    declared = {name: [i.name for i in f.implementations] for name, f in (formulas or {}).items()}
    order = list(declared)

    def key(v: Verdict) -> tuple[Any, ...]:
        return (
            position(v.formula, order),
            v.formula,
            position(origin_of(v), SUBJECTS),
            position(v.implementation, declared.get(v.formula, ())),
            v.implementation,
            position(v.dtype, DTYPES),
            v.device,
        )

    return sorted(verdicts, key=key)


def detection_matrix(verdicts: Iterable[Verdict]) -> dict[tuple[str, str], Verdict]:
    """(formula, dtype) → the verdict that carries the detections."""
    return {(v.formula, v.dtype): v for v in verdicts if v.check == "known bugs" and v.detections}


def rows(verdicts: Iterable[Verdict], formulas: Mapping[str, Formula] | None = None) -> list[Row]:
    """One row per formula, implementation, dtype and device."""
    ordered = in_order(verdicts, formulas)
    detections = detection_matrix(ordered)
    subjects = grouped(ordered, lambda v: (v.formula, v.implementation, v.dtype, v.device))
    return [row(found, detections.get((name, dtype))) for (name, _, dtype, _), found in subjects.items()]


def row(found: Sequence[Verdict], bugs: Verdict | None) -> Row:
    """The row of all the verdicts on one subject; ``bugs`` carries the detections of its formula and dtype.

    A verdict is falsy when it fails, so its presence is tested by ``is not None``.
    """
    measured = [v for v in found if v.check in MEASURED and v.T is not None]
    worst = max(measured, key=lambda v: badness(v.T or 0.0), default=None)
    failing = [v for v in found if not v.passed]
    status, text = status_of(found)
    detections = bugs.detections if bugs is not None else ()
    survivors = [bug for bug, T in detections if bugs is not None and badness(T) <= (bugs.limit or 0.0)]
    first = found[0]
    return Row(
        formula=first.formula,
        implementation=first.implementation,
        dtype=first.dtype,
        device=first.device,
        origin=origin_of(first),
        cases=sum(v.cases for v in found),
        T=worst.T if worst is not None else None,
        limit=next((v.limit for v in found if v.check in MEASURED and v.limit is not None), None),
        passed=not failing,
        detected=len(detections) - len(survivors),
        known=len(detections),
        invisible=len(survivors) if bugs is not None and bugs.passed else 0,
        behaves_like=tuple(dict.fromkeys(b for v in found for b in v.bugs)),
        status=status,
        verdict=text,
        message=failing[0].message if failing else "",
        failing=tuple(v.check for v in failing),
    )


def status_of(found: Sequence[Verdict]) -> tuple[Status, str]:
    """The verdict in one word, and with its reason."""
    if not all(v.passed for v in found):
        return "wrong", "wrong"
    if all(v.skipped for v in found):
        return "skipped", f"skipped: {found[0].message}"
    differs = [v.convention for v in found if v.status == "convention"]
    return ("convention", f"convention {differs[0]}") if differs else ("right", "right")


# -- JSON -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """How the verdicts came about."""

    profile: str = field(metadata={"description": "How many cases were drawn: a name of the table of profiles."})
    device: str
    seed: str = field(metadata={"description": 'How the cases were drawn; "derandomized": the same in every run.'})
    started: str = field(metadata={"description": "ISO 8601, UTC."})
    seconds: float = field(metadata={"minimum": 0, "finite": True})
    platform: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Document:
    """The verdicts of a run as `trueness verify --json FILE` writes them."""

    schema_version: Literal[2] = field(
        metadata={"description": "Increased when an old reader would misread a document."}
    )
    passed: bool = field(metadata={"description": "Whether no verdict is a failure."})
    run: Run
    verdicts: list[Verdict]


def schema() -> dict[str, Any]:
    """The JSON Schema of a ``Document``; verdicts.schema.json holds it."""
    from trueness.tools.spec.schema import schema_of  # msgspec

    found = schema_of(Document, title="The verdicts of a run of trueness")
    reasons = {"properties": {"status": {"enum": ["fail", "skip"]}}}  # as Verdict.__post_init__ demands
    found["$defs"]["Verdict"]["allOf"] = [{"if": reasons, "then": {"properties": {"message": {"minLength": 1}}}}]
    return found


def to_json(results: Results) -> str:
    """The run as a document of verdicts.schema.json."""
    run = Run(
        profile=results.profile,
        device=results.device,
        seed=results.seed,
        started=results.started,
        seconds=round(results.seconds, 3),
        platform=results.platform,
        versions=dict(results.versions),
    )
    verdicts = in_order(results.verdicts, results.formulas)
    document = Document(SCHEMA_VERSION, all(v.passed for v in verdicts), run, verdicts)
    return json.dumps(plain(to_record(document)), indent=1, allow_nan=False) + "\n"


# -- JUnit ----------------------------------------------------------------------------------------------------------


def printable(text: str) -> str:
    """``text`` with what XML may not hold, and what reorders the text around it, written as an escape."""
    return UNPRINTABLE.sub(lambda m: m.group().encode("unicode_escape").decode("ascii"), text)


def to_junit(results: Results) -> str:
    """JUnit XML: a suite per formula, a case per implementation, dtype and check."""
    document: Any = JUnitXml("trueness")
    for name, found in grouped(in_order(results.verdicts, results.formulas), lambda v: v.formula).items():
        suite = TestSuite(printable(name))
        suite.timestamp = results.started
        suite.add_property("profile", results.profile)
        suite.add_property("seed", results.seed)
        for package, version in results.versions.items():
            suite.add_property(f"version of {package}", version)
        suite.add_testcases([testcase(v) for v in found])
        document.add_testsuite(suite)
    document.update_statistics()
    text: str = document.tostring().decode("utf-8")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'


def testcase(v: Verdict) -> TestCase:
    where = "" if v.device == DEFAULT_DEVICE else f" · {v.device}"
    case = TestCase(printable(f"{v.implementation} · {v.dtype} · {v.check}{where}"), printable(v.formula))
    if not v.passed:
        failure = Failure(printable(v.message) or "failed", printable(v.check))
        like = [f"behaves like {bug}" for bug in v.bugs]
        again = ["to reproduce it:", v.reproduction] if v.reproduction else []
        failure.text = printable("\n".join([v.message, *like, *again]))
        case.result = [failure]
    elif v.skipped:
        case.result = [Skipped(printable(v.message))]
    return case
