"""The examination in docs/calibration.md: every number was measured by the run that wrote it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from trueness.tools.calibration.examination.collection import examined
from trueness.tools.calibration.examination.program import KINDS
from trueness.tools.calibration.examination.rules import RULES
from trueness.tools.calibration.examination.run import TRUENESS, WITNESS, Record
from trueness.tools.calibration.page import percent, table
from trueness.tools.calibration.record import share
from trueness.tools.spec.tables import FORMATS

THIRD = "third party, "

INTRODUCTION = """\
## Examination

{wrong} wrong and {right} right programs, and {third} implementations of third parties without a waiver, are handed to
the verifier as a user's (tools/calibration/examination). A wrong program is sabotage of a working fast one: tiles,
blocks, online sums, backward passes. Before it counts it has to differ from the float64 reference by more than rounding
on an input of its own, its witness, where the same program without its fault does not; a format in which it does not
shows nothing and is left out. A *false accept* is a wrong program in which no fault is found, a *false reject* a right
one in which one is found, a *wrong name* a program said to behave like a known bug that it is not.
"""

FIELD = """\
### The rules of the field

The same programs, and the same formats, by the rules of other projects: each on normal inputs of the sizes that it
takes, its outputs and, where it looks at them, its gradients. False accepts, false rejects, in per cent; third parties
that are known to differ by a convention are left out.

{sources}
"""

BY_KIND = """\
### False accepts by kind of fault

Profile `{profile}`; of the wrong programs that the format can show.
"""


class Results:
    """The records by judge, without programs that a format cannot show and without skips."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.records = list(records)
        hidden = {(r.formula, r.program, r.dtype) for r in self.records if r.judge == WITNESS and r.kind and r.accepted}
        self.hidden = hidden
        self.counted = [
            r
            for r in self.records
            if r.judge != WITNESS and not r.skipped and (r.formula, r.program, r.dtype) not in hidden
        ]

    @property
    def dtypes(self) -> list[str]:
        found = {r.dtype for r in self.counted}
        return [d for d in FORMATS if d in found]

    @property
    def profiles(self) -> list[str]:
        found = dict.fromkeys(r.judge for r in self.counted if r.judge.startswith(TRUENESS))
        return [judge.removeprefix(TRUENESS) for judge in found]

    def of(self, judge: str, dtype: str, which: Callable[[Record], bool]) -> list[Record]:
        return [r for r in self.counted if (r.judge, r.dtype) == (judge, dtype) and which(r)]


def is_wrong(r: Record) -> bool:
    return bool(r.kind)


def is_right(r: Record) -> bool:
    return not r.kind and not r.program.startswith(THIRD)


def is_third(r: Record) -> bool:
    return not r.kind and r.program.startswith(THIRD)


def names_of(r: Record) -> set[str]:
    """The known bugs that a program may be called: those of its fault, or the convention of a third party."""
    program = examined().get(f"{r.formula} · {r.program}".replace(".", "/").replace(":", ";"))
    return set(program.names if program else ())


def wrongly_named(r: Record) -> bool:
    """Whether it was said to behave like a bug that it is not."""
    return bool(set(r.names) - names_of(r))


def differs(r: Record) -> bool:
    """Whether it is right by a convention of its own, so that a plain comparison has to reject it."""
    return is_third(r) and bool(names_of(r))


def counted(bad: Sequence[Record], of: Sequence[Record]) -> str:
    return f"{len(bad)} of {len(of)} ({percent(share(r in bad for r in of))} %)" if of else ""


def render(records: Sequence[Record]) -> str:
    """The whole section."""
    found = Results(records)
    programs = {(r.formula, r.program): r for r in found.records}.values()
    parts = [
        INTRODUCTION.format(
            wrong=sum(map(is_wrong, programs)), right=sum(map(is_right, programs)), third=sum(map(is_third, programs))
        ),
        outcome(found),
    ]
    if found.profiles:
        parts += [BY_KIND.format(profile=found.profiles[-1]), by_kind(found, found.profiles[-1])]
    if any(r.judge in RULES for r in found.counted):
        parts += [FIELD.format(sources=sources()), field(found)]
    return "\n".join([*parts, listed(found)])


def outcome(found: Results) -> str:
    """A row for every format and profile."""
    rows = []
    for dtype in found.dtypes:
        for profile in found.profiles:
            judge = f"{TRUENESS}{profile}"
            groups = [found.of(judge, dtype, which) for which in (is_wrong, is_right, is_third)]
            if not any(groups):
                continue
            wrong, right, third = groups
            everything = [*wrong, *right, *third]
            rows.append(
                [
                    FORMATS[dtype].short,
                    profile,
                    counted([r for r in wrong if r.accepted], wrong),
                    counted([r for r in right if not r.accepted], right),
                    counted([r for r in third if not r.accepted], third),
                    str(sum(map(wrongly_named, everything))),
                    str(sum(d == dtype for *_, d in found.hidden)),
                ]
            )
    return table(
        ["", "profile", "false accepts", "false rejects", "of third parties", "wrong names", "not to be seen"], rows
    )


def by_kind(found: Results, profile: str) -> str:
    rows = []
    for kind in KINDS:
        cells = []
        for dtype in found.dtypes:
            wrong = found.of(f"{TRUENESS}{profile}", dtype, lambda r, kind=kind: r.kind == kind)  # type: ignore[misc]
            cells.append(f"{sum(r.accepted for r in wrong)} of {len(wrong)}" if wrong else "")
        if any(cells):
            rows.append([kind, KINDS[kind], *cells])
    return table(["kind", "what it is", *(FORMATS[d].short for d in found.dtypes)], rows)


def field(found: Results) -> str:
    rows = []
    for judge in [*(f"{TRUENESS}{p}" for p in found.profiles), *RULES]:
        cells = []
        for dtype in found.dtypes:
            wrong = found.of(judge, dtype, is_wrong)
            right = found.of(judge, dtype, lambda r: not is_wrong(r) and not differs(r))
            accepts, rejects = share(r.accepted for r in wrong), share(not r.accepted for r in right)
            cells.append(f"{percent(accepts)} / {percent(rejects)}" if wrong or right else "")
        rows.append([judge, *cells])
    return table(["rule", *(FORMATS[d].short for d in found.dtypes)], rows)


def sources() -> str:
    return "\n".join(f"- {rule.name}: {rule.source}" for rule in RULES.values())


def listed(found: Results) -> str:
    """The wrong programs that were accepted and the right ones that were rejected, by the last profile."""
    if not found.profiles:
        return ""
    judge = f"{TRUENESS}{found.profiles[-1]}"
    accepted: dict[tuple[str, str, str], list[str]] = {}
    rejected: dict[tuple[str, str, str], list[str]] = {}
    for r in found.counted:
        short = FORMATS[r.dtype].short
        if r.judge == judge and is_wrong(r) and r.accepted:
            accepted.setdefault((r.formula, r.program, r.kind), []).append(short)
        if r.judge == judge and not is_wrong(r) and not r.accepted:
            rejected.setdefault((r.formula, r.program, f"{r.by}: {r.said}".replace("|", "∣")), []).append(short)
    parts = []
    for title, head, rows in (
        ("Wrong programs in which no fault is found", "kind", accepted),
        ("Right programs in which one is found", "reason", rejected),
    ):
        body = [[f, p, ", ".join(formats), why] for (f, p, why), formats in rows.items()]
        parts += [f"### {title}\n", table(["formula", "program", "formats", head], body) if body else "None.\n"]
    return "\n".join(parts)


def problems(records: Sequence[Record], most: dict[bool, float]) -> tuple[str, ...]:
    """What is more than it may be: false accepts beyond ``most[half format]``, any false reject, any wrong name."""
    found, sentences = Results(records), []
    for dtype in found.dtypes:
        for profile in found.profiles:
            judge, what = f"{TRUENESS}{profile}", f"examination, {dtype}, {profile}"
            wrong = found.of(judge, dtype, is_wrong)
            right = found.of(judge, dtype, lambda r: not is_wrong(r))
            accepts = share(r.accepted for r in wrong)
            if accepts > most[FORMATS[dtype].half]:
                sentences.append(f"{what}: {percent(accepts)} % of the wrong programs were accepted.")
            rejects = [r for r in right if not r.accepted]
            if rejects:
                sentences.append(f"{what}: {len(rejects)} of {len(right)} right programs were rejected.")
            named = [r for r in [*wrong, *right] if wrongly_named(r)]
            if named:
                sentences.append(f"{what}: {len(named)} programs were given a name that is not theirs.")
    return (*sentences, *dishonest(found.records))


def dishonest(records: Sequence[Record]) -> list[str]:
    """Programs that are not what they are said to be, by the reference."""
    compared = [r for r in records if r.judge == WITNESS]
    shows = {(r.formula, r.program) for r in compared if r.kind and not r.accepted}
    wrong = dict.fromkeys((r.formula, r.program) for r in compared if r.kind)
    found = [f"examination: {f}, {p}: its fault shows in no format." for f, p in wrong if (f, p) not in shows]
    right = [r for r in compared if not r.kind and not r.accepted]
    return [*found, *(f"examination: {r.formula}, {r.program}: it is no right program, {r.said}." for r in right)]
