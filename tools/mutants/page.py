"""The table of mutants, docs/mutants.md."""

from __future__ import annotations

from collections.abc import Sequence

from trueness.tools.mutants.reasons import reason_of
from trueness.tools.mutants.record import Found, Row, Summary

COLUMNS = ("made", "T", "shape", "exception", "equivalent", "out of reach", "survived")
COMMAND = "trueness mutate --references --write docs/mutants.md"
NAMED = "trueness mutate --references FORMULA"
HEAD = f"""# Mutants of the references

One change of the syntax tree of a reference each, in the function itself or in one that it calls: an operator, a
constant, a bound of a slice, an axis, the order of operands and of arguments, a term, a keyword, a statement, or a
function taken for another (tools/mutants/rules.py). Each is judged as an implementation, on the cases of
`trueness verify --profile quick`. Written by `{COMMAND}`.

- **killed** by T > 1.5 on some case, by another shape, or by an exception
- **equivalent**: no result changes by more than the rounding of float64, neither on the cases nor on probes beyond them
  (more cases, other magnitudes, the numbers that are written in the function)
- **out of reach**: no result changes by more than the rounding of the format explains
- **survived**: a program with this fault would pass

A default that no call of the checks uses makes no mutant, and neither does a refusal of arguments. Where a function
serves several formulas, a place that only the cases of others evaluate is counted there.
"""


def share(counts: Sequence[int]) -> str:
    """Killed, of those that are not equivalent."""
    made, killed, equivalent = counts[0], sum(counts[1:4]), counts[4]
    return f"{100 * killed / (made - equivalent):.1f} %" if made > equivalent else ""


def line(row: Row) -> str:
    """One row as it is printed while the command runs: before it is known what other formulas reach."""
    outcomes = [f.outcome for f in row.found]
    parts = [f"{outcomes.count(o)} {o}" for o in dict.fromkeys(outcomes)]
    parts += [f"{row.left_out} not judged"] if row.left_out else []
    return f"{row.name}: {', '.join(parts) or 'none made'}, {row.seconds:.1f} CPU s"


def table(title: str, summary: Summary, rows: Sequence[Row]) -> list[str]:
    head = ["formula", *COLUMNS, "killed of non-equivalent"]
    lines = [f"## {title}", "", f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
    every = [summary.counts(row) for row in rows]
    for row, counts in zip(rows, every, strict=True):
        lines.append(cells(row.formula, counts))
    total = [sum(column) for column in zip(*every, strict=True)] or [0] * len(COLUMNS)
    return [*lines, cells("**sum**", total), ""]


def cells(name: str, counts: Sequence[int]) -> str:
    return f"| {' | '.join([name, *(str(n) for n in counts), share(counts)])} |"


def render(summary: Summary) -> str:
    """The page."""
    values = [r for r in summary.rows if not r.of_gradient]
    gradients = [r for r in summary.rows if r.of_gradient]
    lines = [HEAD, *overview(summary)]
    lines += table("References", summary, values)
    if gradients:
        lines += table("Vector-Jacobian products", summary, gradients)
    left = [f"{row.formula} ({row.left_out})" for row in summary.rows if row.left_out]
    if left:
        lines += [f"Not judged here for their cost, `{NAMED}` does: {', '.join(left)}.", ""]
    lines += ["## Survivors", ""]
    for row, f in summary.survivors():
        lines.append(f"- {row.name} · {code(f)}: {reason_of(row, f) or 'NO REASON GIVEN: ' + f.reason}")
    for outcome, title in (("equivalent", "Equivalent"), ("out of reach", "Out of reach")):
        lines += ["", f"## {title}, and killed by the cases of no formula", ""]
        for module, found in summary.only(outcome).items():
            lines += [f"- {module} · {code(f)}" for f in found]
    return "\n".join(lines) + "\n"


def overview(summary: Summary) -> list[str]:
    every = [summary.counts(row) for row in summary.rows]
    total = [sum(column) for column in zip(*every, strict=True)] or [0] * len(COLUMNS)
    killed = sum(total[1:4])
    formulas = len({r.formula for r in summary.rows})
    return [
        f"{total[0]} mutants of {formulas} formulas: {killed} killed, {total[4]} equivalent, {total[5]} out of reach, "
        f"{total[6]} survived: **{share(total)}** of those that are not equivalent are killed.",
        "",
    ]


def code(found: Found) -> str:
    function, what = found.key.split(": ", 1)
    return f"{function}, line {found.line}: `{what}`"
