"""The contents of the report, as data: the summary, a card per formula, the failures and the skips."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trueness.tools.checks.policy_table import POLICIES
from trueness.tools.report.results import (
    MEASURED,
    Results,
    Row,
    badness,
    detection_matrix,
    grouped,
    in_order,
    origin_of,
    position,
)
from trueness.tools.report.wording import names, number, plural, slug
from trueness.tools.run.conclusion import REFERENCE, conclusion
from trueness.tools.spec.inputs import Index, Real, Scalar, Table, dims_text
from trueness.tools.spec.model import DTYPES, Bug, Formula, Verdict
from trueness.tools.spec.tables import DEFAULT_DEVICE, LIMITS

if TYPE_CHECKING:
    from trueness.tools.report.plots import Picture

# -- summary --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """The counts on top of the page; a trial is a row of the table."""

    trials: int
    counts: dict[str, int]
    formulas: int
    implementations: int
    ran: int
    skipped: int
    cases: int
    conclusion: str
    detected: int
    known: int
    invisible: int
    closest: Row | None

    @property
    def wrong(self) -> int:
        return self.counts["wrong"]


def share(row: Row) -> float:
    """T as a part of its limit."""
    return badness(row.T or 0.0) / row.limit if row.limit else 0.0


def closest(rows: Iterable[Row]) -> Row | None:
    """The passing row that is nearest to its limit."""
    return max((r for r in rows if r.status == "right" and r.T is not None), key=share, default=None)


def summary(results: Results) -> Summary:
    rows = results.rows()
    detections = {(r.formula, r.dtype): r for r in rows}.values()
    return Summary(
        trials=len(rows),
        counts={s: sum(r.status == s for r in rows) for s in ("right", "wrong", "convention", "skipped")},
        formulas=len({r.formula for r in rows}),
        implementations=len({(r.formula, r.implementation) for r in rows if r.implementation != REFERENCE}),
        ran=sum(not v.skipped for v in results.verdicts),
        skipped=sum(v.skipped for v in results.verdicts),
        cases=sum(r.cases for r in rows),
        conclusion=conclusion(results.verdicts),
        detected=sum(r.detected for r in detections),
        known=sum(r.known for r in detections),
        invisible=sum(r.invisible for r in detections),
        closest=closest(rows),
    )


# -- a card per formula ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A line of a table with one cell per dtype."""

    head: str
    note: str
    cells: dict[str, Any]


@dataclass(frozen=True)
class Detection:
    T: float
    word: str
    reason: str = ""


@dataclass(frozen=True)
class Card:
    name: str
    anchor: str
    formula: Formula | None
    arguments: list[tuple[str, str]]
    rows: list[Row]
    dtypes: list[str]
    table: list[Line]
    certificates: list[tuple[str, str]]
    detections: list[Line]
    detection_limit: float
    checks: dict[str, list[Line]]
    policies: list[Line]
    pictures: list[Picture]

    @property
    def wrong(self) -> int:
        return sum(r.status == "wrong" for r in self.rows)

    @property
    def closest(self) -> Row | None:
        return closest(self.rows)


def cards(results: Results) -> list[Card]:
    rows = results.rows()
    by_formula = grouped(in_order(results.verdicts, results.formulas), lambda v: v.formula)
    return [
        card(results, name, found, [r for r in rows if r.formula == name], f"f{i}")
        for i, (name, found) in enumerate(by_formula.items())
    ]


def card(results: Results, name: str, found: Sequence[Verdict], rows: list[Row], key: str) -> Card:
    from trueness.tools.report.plots import (
        pictures,  # matplotlib is slow to import and only needed here
    )

    formula = results.formulas.get(name)
    dtypes = [d for d in DTYPES if any(r.dtype == d for r in rows)]
    detections = detection_matrix(found)
    reference = [v for v in found if v.implementation == REFERENCE]
    return Card(
        name=name,
        anchor=slug(name),
        formula=formula,
        arguments=[(a.name, meaning(a)) for a in formula.arguments] if formula else [],
        rows=rows,
        dtypes=dtypes,
        table=table([r for r in rows if r.implementation != REFERENCE]),
        certificates=certificates([v for v in reference if v.check != "known bugs" and not v.skipped and v.passed]),
        detections=matrix(detections, results.bugs),
        detection_limit=next((v.limit for v in detections.values() if v.limit is not None), LIMITS["eager"]),
        checks=checks_that_ran([v for v in found if v.implementation != REFERENCE]),
        policies=policies_seen(found),
        pictures=pictures(name, found, key),
    )


def certificates(reference: Sequence[Verdict]) -> list[tuple[str, str]]:
    """What the checks of the reference found, in words; dtypes that say the same together."""
    said: dict[tuple[str, str], list[str]] = {}
    for v in reference:
        T = f", T {number(v.T)} of {number(v.limit)}" if v.T is not None else ""
        said.setdefault((v.check, f"{v.message or 'holds'}{T}; {plural(v.cases, 'case')}"), []).append(v.dtype)
    several = {check for check in {c for c, _ in said} if sum(len(d) for (c, _), d in said.items() if c == check) > 1}
    return [(check, text + (f" in {names(d)}" if check in several else "")) for (check, text), d in said.items()]


def meaning(argument: Any) -> str:
    """What an argument is, in words."""
    axes = f"({dims_text(argument)}) " if getattr(argument, "dims", ()) else ""
    match argument:
        case Real():
            low, high = (f"{float(f'{10.0**e:.1g}'):g}" for e in argument.decades)
            size = "standard normal" if argument.unit_scale else f"magnitudes {low} to {high}"
            sign = ", not negative" if argument.positive else ""
            grad = "with a gradient" if argument.differentiable else "without a gradient"
            return f"{axes}in the dtype under test, {size}{sign}; {grad}"
        case Index():
            return f"{axes}integers from 0 to below {argument.below}"
        case Table():
            return f"float64 table made from {', '.join(argument.draws) or 'nothing'}"
        case Scalar():
            return "a scalar"
    return type(argument).__name__


def table(rows: Sequence[Row]) -> list[Line]:
    """A line per implementation and device, a row in every cell."""
    lines: dict[tuple[str, str], Line] = {}
    for r in rows:
        device = "" if r.device == DEFAULT_DEVICE else f" on {r.device}"
        line = lines.setdefault(
            (r.implementation, r.device), Line(r.implementation, r.origin.replace("_", " ") + device, {})
        )
        line.cells[r.dtype] = r
    return list(lines.values())


def matrix(detections: dict[tuple[str, str], Verdict], bugs: Any) -> list[Line]:
    """A line per bug, a cell per dtype."""
    lines: dict[str, Line] = {}
    for (_, dtype), v in detections.items():
        for name, T in v.detections:
            bug: Bug | None = bugs.get(name)
            line = lines.setdefault(name, Line(name, bug.title if bug else "", {}))
            reason = bug.invisible.get(dtype, "") if bug else ""
            word = "detected" if badness(T) > (v.limit or 0.0) else "invisible" if reason or v.passed else "missed"
            line.cells[dtype] = Detection(T, word, reason if word == "invisible" else "")
    return [lines[name] for name in sorted(lines)]


def policies_seen(verdicts: Sequence[Verdict]) -> list[Line]:
    """A line per policy for special values; its cells are implementations, with the dtypes in which they have it."""
    lines: dict[str, Line] = {}
    for v in verdicts:
        for policy in v.policies:
            known = POLICIES.get(policy)
            line = lines.setdefault(policy, Line(policy, known.sentence if known else "", {}))
            line.cells.setdefault(v.implementation, []).append(v.dtype)
    return [lines[policy] for policy in sorted(lines)]


def checks_that_ran(verdicts: Sequence[Verdict]) -> dict[str, list[Line]]:
    """Implementation → a line per check, a verdict in every cell; what every dtype skips is left to the skips."""
    found: dict[str, list[Line]] = {}
    for (name, device, check), same in grouped(verdicts, lambda v: (v.implementation, v.device, v.check)).items():
        if not all(v.skipped for v in same):
            head = name if device == DEFAULT_DEVICE else f"{name} on {device}"
            found.setdefault(head, []).append(Line(head, check, {v.dtype: v for v in same}))
    return found


# -- failures and skips ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """A check that an implementation fails: the verdict that is shown, and the same in other dtypes."""

    check: str
    shown: Verdict
    others: list[Verdict]

    @property
    def dtypes(self) -> list[str]:
        return sorted({v.dtype for v in (self.shown, *self.others)}, key=DTYPES.index)


@dataclass(frozen=True)
class Failure:
    """Everything that is wrong with one implementation: what was measured first, then what else it fails."""

    formula: str
    anchor: str
    implementation: str
    origin: str
    bugs: list[tuple[str, Bug | None]]
    first: list[Fault]
    rest: list[Fault]


def failures(results: Results) -> list[Failure]:
    wrong = [v for v in in_order(results.verdicts, results.formulas) if not v.passed]
    found = []
    for (name, implementation), group in grouped(wrong, lambda v: (v.formula, v.implementation)).items():
        likes = [(b, results.bugs.get(b)) for b in dict.fromkeys(b for v in group for b in v.bugs)]
        faults = [fault(check, same) for check, same in grouped(group, lambda v: v.check).items()]
        faults.sort(key=lambda f: position(f.check, MEASURED))
        first = [f for f in faults if f.check in MEASURED] or faults[:1]
        rest = [f for f in faults if f not in first]
        found.append(Failure(name, slug(name), implementation, origin_of(group[0]), likes, first, rest))
    return found


def fault(check: str, same: Sequence[Verdict]) -> Fault:
    """float32 is shown where it fails: its numbers are the most familiar."""
    shown = min(same, key=lambda v: (not v.reproduction, v.dtype != "float32"))
    return Fault(check, shown, [v for v in same if v is not shown])


@dataclass(frozen=True)
class Skip:
    """A reason, how many checks were skipped for it, and which: (checks, dtypes, implementations by formula)."""

    reason: str
    count: int
    lines: list[tuple[list[str], list[str], list[tuple[str, list[str]]]]]


def skips(verdicts: Iterable[Verdict]) -> list[Skip]:
    """Skips by reason, the most frequent first; within one, those that agree in checks and dtypes together."""
    found = []
    for reason, group in grouped((v for v in verdicts if v.skipped), lambda v: v.message).items():
        merged: dict[tuple[tuple[str, ...], tuple[str, ...]], dict[str, list[str]]] = {}
        for (name, implementation), subject in grouped(group, lambda v: (v.formula, v.implementation)).items():
            for dtypes, checks in by_dtypes(subject).items():
                merged.setdefault((checks, dtypes), {}).setdefault(name, []).append(implementation)
        lines = [(list(c), list(d), list(subjects.items())) for (c, d), subjects in merged.items()]
        found.append(Skip(reason, len(group), lines))
    return sorted(found, key=lambda s: -s.count)


def by_dtypes(subject: Sequence[Verdict]) -> dict[tuple[str, ...], tuple[str, ...]]:
    """dtypes → the checks that are skipped in just these."""
    dtypes = {
        check: tuple(dict.fromkeys(v.dtype for v in g)) for check, g in grouped(subject, lambda v: v.check).items()
    }
    return {d: tuple(c for c, e in dtypes.items() if e == d) for d in dict.fromkeys(dtypes.values())}
