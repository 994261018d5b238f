"""The table of mutants, docs/mutants.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from trueness.tools.mutants.record import Found, Row

COLUMNS = ("made", "T", "shape", "exception", "equivalent", "out of reach", "survived")
COMMAND = "trueness mutate --references --write docs/mutants.md"
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


@dataclass(frozen=True)
class Summary:
    """All rows, ``whole`` if these are all formulas."""

    rows: Sequence[Row]
    whole: bool = True

    @cached_property
    def reached(self) -> set[tuple[str, str]]:
        """(module, key) of every mutant that the cases of some formula evaluate."""
        return {(r.module, f.key) for r in self.rows for f in r.found if f.outcome != "unreached"}

    @cached_property
    def killed(self) -> set[tuple[str, str]]:
        return {(r.module, f.key) for r in self.rows for f in r.found if f.outcome == "killed"}

    def counted(self, row: Row) -> list[Found]:
        """The mutants of a row: without those that are evaluated by the cases of other formulas alone."""
        return [f for f in row.found if f.outcome != "unreached" or self.is_nowhere(row, f)]

    def is_nowhere(self, row: Row, found: Found) -> bool:
        """Whether no formula evaluates a place; where not all are here, that is not known."""
        return self.whole and (row.module, found.key) not in self.reached

    def survivors(self) -> Iterator[tuple[Row, Found]]:
        for row in self.rows:
            yield from ((row, f) for f in self.counted(row) if f.outcome in ("survived", "unreached"))

    def only(self, outcome: str) -> dict[str, list[Found]]:
        """Module → mutants with this outcome that no formula kills, each once."""
        found: dict[str, dict[str, Found]] = {}
        for row in self.rows:
            for f in row.found:
                if f.outcome == outcome and (row.module, f.key) not in self.killed:
                    found.setdefault(row.module.rpartition(".")[2], {})[f.key] = f
        return {module: list(of_one.values()) for module, of_one in found.items()}

    def counts(self, row: Row) -> list[int]:
        found = self.counted(row)
        killed = [f.reason for f in found if f.outcome == "killed"]
        by_T = sum(r.startswith("T = ") for r in killed)
        by_shape = sum(r == "another shape" for r in killed)
        outcomes = [f.outcome for f in found]
        lived = outcomes.count("survived") + outcomes.count("unreached")
        others = [outcomes.count("equivalent"), outcomes.count("out of reach"), lived]
        return [len(found), by_T, by_shape, len(killed) - by_T - by_shape, *others]


def share(counts: Sequence[int]) -> str:
    """Killed, of those that are not equivalent."""
    made, killed, equivalent = counts[0], sum(counts[1:4]), counts[4]
    return f"{100 * killed / (made - equivalent):.1f} %" if made > equivalent else ""


def line(row: Row) -> str:
    """One row as it is printed while the command runs: before it is known what other formulas reach."""
    outcomes = [f.outcome for f in row.found]
    parts = [f"{outcomes.count(o)} {o}" for o in dict.fromkeys(outcomes)]
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
    from trueness.tools.mutants.reasons import reason_of

    values = [r for r in summary.rows if not r.of_gradient]
    gradients = [r for r in summary.rows if r.of_gradient]
    lines = [HEAD, *overview(summary)]
    lines += table("References", summary, values)
    if gradients:
        lines += table("Vector-Jacobian products", summary, gradients)
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
