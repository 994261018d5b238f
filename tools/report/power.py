"""The table of sabotage: for every formula which faults apply, along which axes, and what rejects them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from trueness.tools.checks.core import search
from trueness.tools.checks.detection import Detection, detections_of_sabotage
from trueness.tools.run.conclusion import REFERENCE
from trueness.tools.run.runner import Job, reference_as_implementation, trial_for
from trueness.tools.spec.model import Case, Formula

COLUMNS = {
    "rejected": "rejected",
    "no change": "change nothing",
    "refused": "refused by the reference",
    "out of reach": "out of reach",
    "accepted": "ACCEPTED",
}
"""outcome → the heading of its column"""
Found = Mapping[str, Sequence[Detection]]


def survey(
    formulas: Iterable[Formula], dtype: str, profile: str, progress: Callable[[str], None] = lambda note: None
) -> dict[str, list[Detection]]:
    """Formula → what becomes of every sabotage of it, on the cases that the check ``power`` runs."""
    found = {}
    for formula in formulas:
        progress(formula.name)
        job = Job(formula.name, REFERENCE, dtype, profile=profile)
        trial = trial_for(job, reference_as_implementation(formula))
        drawn: list[Case] = []
        search(trial, drawn.append)
        found[formula.name] = detections_of_sabotage(trial, drawn)
    return found


def accepted(found: Found) -> list[tuple[str, Detection]]:
    """(formula, detection) of what no case rejects."""
    return [(name, d) for name, of_one in found.items() for d in of_one if d.outcome == "accepted"]


def render(found: Found, dtype: str, profile: str) -> str:
    """All of it as Markdown."""
    every = [d for of_one in found.values() for d in of_one]
    command = f"`trueness sabotage --dtype {dtype} --profile {profile} --write docs/sabotage.md`"
    lines = ["# Sabotage", "", f"{len(every)} faults of {len(found)} formulas in {dtype}, written by {command}.", ""]
    lines += [
        "How they are made: tools/checks/sabotage.py. A fault is rejected if T > 1.5 on some case of the run.",
        "",
    ]
    lines += ["## By kind", "", *table("kind", [(d.sabotage.kind, d) for d in every])]
    wrong = accepted(found)
    if wrong:
        lines += ["## Accepted: a program with this fault would pass", ""]
        lines += [f"- {name} · {d.sabotage}: {d.reason} (largest T {d.T:.3g})" for name, d in wrong] + [""]
    for name, of_one in found.items():
        lines += [f"## {name}", "", *table("place", [(place(d), d) for d in of_one])]
        reasons = Counter(d.reason for d in of_one if d.outcome == "out of reach")
        lines += [f"- out of reach: {reason} ({n})" for reason, n in reasons.items()] + ([""] if reasons else [])
    return "\n".join(lines)


def place(detection: Detection) -> str:
    """The argument, output or gradient of a sabotage, and its axis."""
    axis = detection.sabotage.axis
    return f"{detection.sabotage.place} along {axis.label}" if axis else detection.sabotage.place


def table(first: str, rows: Sequence[tuple[str, Detection]]) -> list[str]:
    """Outcomes counted by row, in the order in which rows appear, and their sum."""
    counted: dict[str, Counter[str]] = {}
    for row, detection in rows:
        for name in (row, "sum"):
            counted.setdefault(name, Counter())[detection.outcome] += 1
    counted["sum"] = counted.pop("sum", Counter())
    shown = [outcome for outcome in COLUMNS if counted["sum"][outcome] or outcome == "rejected"]
    head = [first, "apply", *(COLUMNS[outcome] for outcome in shown)]
    lines = [" | ".join(["", *head, ""]).strip(), "|".join(["", "---", *["---:"] * (len(shown) + 1), ""])]
    for name, of_row in counted.items():
        cells = [name, str(sum(of_row.values())), *(str(of_row[outcome] or "") for outcome in shown)]
        lines.append(" | ".join(["", *cells, ""]).strip())
    return [*lines, ""]
