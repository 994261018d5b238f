"""docs/calibration.md from a Calibration: every number on the page was measured by the run that wrote it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isnan

from trueness.tools.arithmetic.bounds import LIMITS, RUNS
from trueness.tools.arithmetic.noise import GRAINS
from trueness.tools.calibration.fisher import FLOOR
from trueness.tools.calibration.ledger import ZERO
from trueness.tools.calibration.record import RIGHT, SAME, SHIPPED, Calibration, Run, Summary, share, survivors
from trueness.tools.calibration.subjects import DTYPES
from trueness.tools.spec.tables import CALIBRATION_PROFILES, FORMATS, LONG

SHORT = {name: FORMATS[name].short for name in DTYPES}
LIMIT = LIMITS["fused"]

INTRODUCTION = """\
# Calibration of the bound

<!-- Written by `trueness calibrate --write docs/calibration.md`. Do not edit: run it again. -->

This page was written by `trueness calibrate --write docs/calibration.md`; every number on it was measured by that run.

An implementation is judged by

    B = u |y| + (1 + √n · u_acc/u) · D + η          T = max |out − y| / B

where D is the spread of the float64 reference under stochastic arithmetic (grains {grains}; {runs} runs each,
{more} where nothing is pooled). T ≤ {fused:g} passes a fused kernel, T ≤ {eager:g} an eager peer that stores its
intermediates in the dtype. These limits, the grains, the runs and the pooling are the chosen numbers of the project.
Here is what they let through and what they stop.

Profile `{profile}`: {cases} seeded cases per family, direction and dtype, magnitudes log-uniform. Attention: 5 to 400
keys and one case with a single key, heads 8 to 128 wide, additive bias, causal mask or none; n = keys + head width.
Random features: n = d, backward n = d + D. Fisher: n = 1. Versions: {versions}.

{outcome}
"""

CORRECT = """\
## Correct implementations

The largest T over all cases; it must not pass the limit. A T beyond it, but not 16 times, is that of a bound
of four times as many runs, as in the checks. A *fused* implementation computes in float32 and rounds once
(SDPA also rounds the probabilities), an *eager* one stores scores and probabilities in the dtype.
"""

REPORTED = """\
### Held to no limit

Neither a bug nor what a limit promises to accept. In parentheses: share of the cases beyond the limit {limit:g}.
*exp and sum stored*: autograd through exp, sum and division in the dtype, which stores 1/Σ² and loses it to underflow
and cancellation; `softmax` does not. *error of \\_\\_cosf*: 2^-21.19 absolute, as much as rounding a phase of 2π to
float32.
"""

ACCEPTANCE = """\
## What a limit accepts

One limit for everything, whatever its class. Correct runs should be 100 %. Mutant runs accepted are cases on which the
mistake is not larger than honest rounding; a mutant that no case puts beyond the limit is never killed.
"""

MUTANTS = """\
## Mutants

Kill rate, and largest T. The rate is the share of a mutant's relevant cases with T > {limit:g}; a case is relevant when
the mistake can show on it (a causal mask, a last tile, a maximum that grows) and zeros would not pass for the result.
"""

GAP = """\
### The gap in float32

Between the largest T of a correct fused implementation and the largest T of the weakest mutants.
"""

NEVER = """\
### Never killed

A mutant of float32 that is never killed fails the calibration unless it is listed with a reason; a listed one that is
killed fails it too. A half format cannot show a mistake below its u: the same kernel must be run in float32. Where no
reason stands, the mistake is about as large as honest rounding, and another machine or seed may kill it.
"""

FAMILIES = """\
## The optimized families

What they ship and their eager peers against the bound, with every wrong variant of the ledger on the input recorded
with it and on drawn cases ({cases} for every formula, direction and dtype); of the gradients, mistakes planted into the
reference's own, one input at a time: a gain of 1 %, the sign, a gradient dropped, its last row missing. T is the
largest of the correct ones. *Killed* counts the variants that some case put beyond the limit {limit:g} in float32. Not
planted: {zero}.
"""

HALVES = """\
## Half formats: accumulators

A kernel may add up in float32 and round once; it is wrong to add up in the half format. T is blind to that: D moves
every intermediate by u, as an eager program does. So where n and the elements are at least {long}, all but
a twentieth of the elements of a fused program must also lie within

    B_fused = u |y| + D_products + (1 + √n) · u_acc/u · D + η

where D_products is the spread when nothing but computed operands of products is moved. For every sum and length, over
{seeds} cases of each half format, odd ones with a mean: fused runs (references computed in float32, the same with the
operands of products stored, and what is declared as fused) and how many are rejected; the largest multiple of B_fused
that a twentieth of the elements exceeds; and of the runs with an accumulator in the half format the share accepted by
T ≤ {limit:g} alone (before), and with B_fused beside it (now). *Eager*: of the runs that store every result in the half
format, not their sums, the share rejected as fused; they are held to T ≤ {eager:g} alone if they claim no more. What is
still accepted is a sum whose errors the rest of the formula hides, such as scores before a softmax that sees one key.
"""

CHOICES = """\
## What every choice does

The first {cases} cases of each dtype, forward and backward, judged again with one choice changed, at the shipped
limits. A false reject is a correct run beyond its limit, a false accept a mutant run within {limit:g}. Pooling replaces
D along the last axis by its root mean square; as shipped, outputs of a reduction are pooled and others are not, so
*never* differs for attention and random features, *always* for Fisher (and random features of d = 1). The bound gives
what is not pooled twice the runs ({more} for {runs}). *Scalars exact*: scales, norms and ε are not perturbed.
"""

POOLED = """\
### Pooling and the floor of Fisher

Kill rate of the mistakes in ε(ᾱ), which show on small scores alone, on the same cases: with log-uniform magnitudes the
large elements, pooled, excuse the small ones. In parentheses: the median T.
"""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def number(T: float) -> str:
    if not T >= 100:
        return "–" if isnan(T) else f"{T:.2f}"
    digits, _, exponent = f"{T:.1e}".partition("e")
    return f"{digits}e{int(exponent)}" if exponent else "∞"


def percent(share: float) -> str:
    """To a tenth, and 0 or 100 only if it is."""
    if isnan(share):
        return "–"
    shown = f"{100 * share:.1f}".removesuffix(".0")
    return {"0": "< 0.1", "100": "> 99.9"}.get(shown, shown) if 0 < share < 1 else shown


def title(family: str, direction: str) -> str:
    return f"{family}, {direction}"


def render(found: Calibration) -> str:
    """The whole page."""
    return (
        "\n".join(
            [
                introduction(found),
                CORRECT,
                correct(found),
                REPORTED.format(limit=LIMIT) + "\n" + reported(found) if found.reported else "",
                ACCEPTANCE,
                acceptance(found),
                MUTANTS.format(limit=LIMIT),
                *(mutants(found, part) for part in found.parts),
                GAP,
                gap(found),
                NEVER,
                never(found),
                FAMILIES.format(cases=CALIBRATION_PROFILES[found.profile].ledger_cases, limit=LIMIT, zero=zero())
                + "\n"
                + families(found)
                if found.ledger
                else "",
                HALVES.format(
                    long=LONG,
                    limit=LIMIT,
                    eager=LIMITS["eager"],
                    seeds=CALIBRATION_PROFILES[found.profile].half_seeds,
                )
                + "\n"
                + halves(found)
                if found.halves
                else "",
                CHOICES.format(cases=found.choice_cases, limit=LIMIT, runs=RUNS, more=2 * RUNS),
                choices(found),
                POOLED + "\n" + pooled(found) if ("fisher", "forward") in found.parts else "",
            ]
        ).rstrip()
        + "\n"
    )


def introduction(found: Calibration) -> str:
    outcome = "**Passed**: every correct run within its limit, every mutant of float32 killed that can be seen."
    if not found.passed:
        outcome = "**Failed:**\n\n" + "\n".join(f"- {p}" for p in found.problems)
    return INTRODUCTION.format(
        grains=", ".join("all" if g is None else str(g) for g in GRAINS),
        runs=RUNS,
        more=2 * RUNS,
        fused=LIMIT,
        eager=LIMITS["eager"],
        profile=found.profile,
        cases=found.cases,
        versions=", ".join(f"{name} {v}" for name, v in found.versions.items()),
        outcome=outcome,
    )


def by_variant(summaries: Iterable[Summary]) -> dict[tuple[str, str, str, str], dict[str, Summary]]:
    """(family, direction, variant, kind) → dtype → summary."""
    rows: dict[tuple[str, str, str, str], dict[str, Summary]] = {}
    for s in summaries:
        rows.setdefault((s.family, s.direction, s.variant, s.kind), {})[s.dtype] = s
    return rows


def correct(found: Calibration) -> str:
    return table(
        ["", "implementation", "class", "limit", *SHORT.values(), "cases"],
        [
            [
                title(family, direction),
                variant,
                kind,
                f"{LIMITS[kind]:g}",
                *(number(by[d].worst) if d in by else "" for d in DTYPES),
                str(sum(s.runs for s in by.values())),
            ]
            for (family, direction, variant, kind), by in by_variant(found.correct).items()
        ],
    )


def killed(by: dict[str, Summary], dtype: str) -> str:
    return f"{percent(by[dtype].rejected)} % ({number(by[dtype].worst)})" if dtype in by else ""


def reported(found: Calibration) -> str:
    return table(
        ["", "implementation", *SHORT.values()],
        [
            [
                title(family, direction),
                variant,
                *(f"{number(by[d].worst)} ({percent(by[d].rejected)} %)" if d in by else "" for d in DTYPES),
            ]
            for (family, direction, variant, _), by in by_variant(found.reported).items()
        ],
    )


def acceptance(found: Calibration) -> str:
    return table(
        ["", "dtype", "limit", "correct fused, %", "all correct, %", "mutant runs, %", "mutants never killed"],
        [
            [
                title(a.family, a.direction),
                SHORT[a.dtype],
                f"{a.limit:g}",
                percent(a.fused),
                percent(a.correct),
                percent(a.mutants),
                ", ".join(a.never_killed) or "none",
            ]
            for a in found.acceptance()
        ],
    )


def mutants(found: Calibration, part: tuple[str, str]) -> str:
    rows = {key: by for key, by in by_variant(found.mutants).items() if key[:2] == part}
    body = [[variant, *(killed(by, d) for d in DTYPES)] for (_, _, variant, _), by in rows.items()]
    empty = [found.vacuous.get((*part, d), 0) for d in DTYPES]
    note = f"\nCases on which zeros would pass, left out: {', '.join(map(str, empty))}.\n" if any(empty) else ""
    return f"### {title(*part).capitalize()}\n\n{table(['mutant', *SHORT.values()], body)}{note}"


def gap(found: Calibration) -> str:
    rows = []
    for part in found.parts:
        right = max(
            (
                s.worst
                for s in found.correct
                if (s.family, s.direction) == part and (s.kind, s.dtype) == ("fused", "float32")
            ),
            default=float("nan"),
        )
        wrong = sorted(
            (s.worst, s.variant) for s in found.mutants if (s.family, s.direction, s.dtype) == (*part, "float32")
        )
        weakest = [f"{name} ({number(T)})" for T, name in wrong[:3]]
        rows.append([title(*part), number(right), *weakest, *[""] * (3 - len(weakest))])
    return table(["", "worst correct fused", "weakest mutant", "second", "third"], rows)


def never(found: Calibration) -> str:
    rows = [
        [
            title(s.family, s.direction),
            SHORT[s.dtype],
            s.variant,
            number(s.worst),
            found.invisible.get((s.family, s.direction, s.dtype, s.variant), ""),
        ]
        for s in found.mutants
        if not s.rejected
    ]
    return table(["", "dtype", "mutant", "largest T", "reason"], rows) if rows else "None.\n"


def zero() -> str:
    return "; ".join(f"{argument} of {formula}: {why}" for (formula, argument), why in ZERO.items())


def families(found: Calibration) -> str:
    """A row for every formula and direction."""
    rows = []
    for part in dict.fromkeys((s.family, s.direction) for s in found.families):
        here = [s for s in found.families if (s.family, s.direction) == part]
        right = {d: [s.worst for s in here if s.kind in RIGHT and s.dtype == d] for d in DTYPES}
        wrong = [s for s in here if s.kind == "mutant" and s.dtype == "float32"]
        weakest = min(((s.worst, s.variant) for s in wrong), default=None)
        rows.append(
            [
                title(*part),
                *(number(max(right[d])) if right[d] else "" for d in DTYPES),
                f"{sum(s.rejected > 0 for s in wrong)} of {len(wrong)}",
                f"{weakest[1]} ({number(weakest[0])})" if weakest else "",
            ]
        )
    return table(["", *(f"T {name}" for name in SHORT.values()), "killed", "weakest (its largest T)"], rows)


def halves(found: Calibration) -> str:
    """A row for every sum and length, and one over all of them for every length."""
    rows = []
    titles = list(dict.fromkeys(r.title for r in found.halves))
    for title in [*titles, "all"]:
        for length in dict.fromkeys(r.length for r in found.halves):
            here = [r for r in found.halves if r.length == length and title in (r.title, "all")]
            fused, eager, wrong = ([r for r in here if r.kind == kind] for kind in ("fused", "eager", "mutant"))
            rows.append(
                [
                    title,
                    str(length),
                    str(len(fused)),
                    str(sum(r.rejected for r in fused)),
                    number(max(r.stored for r in fused)),
                    str(len(wrong)),
                    percent(share(not r.by_T for r in wrong)),
                    percent(share(not r.rejected for r in wrong)),
                    percent(share(r.rejected for r in eager)),
                ]
            )
    head = ["sum", "n", "fused runs", "rejected", "largest, of B_fused"]
    return table([*head, "wrong runs", "accepted before, %", "now, %", "eager rejected as fused, %"], rows)


def worst(runs: Iterable[Run]) -> str:
    found = [r.T for r in runs]
    return number(max(found)) if found else "–"


def choices(found: Calibration) -> str:
    rows = []
    for family in dict.fromkeys(family for family, _ in found.parts):
        for choice in dict.fromkeys(r.choice for r in found.runs if r.choice != SHIPPED):
            runs = [r for r in found.runs if r.choice == choice and r.family == family]
            right, wrong = [r for r in runs if r.kind in RIGHT], [r for r in runs if r.mutant]
            alive = survivors((r for r in wrong if r.dtype == "float32"), LIMIT)
            rows.append(
                [
                    family,
                    choice,
                    worst(r for r in right if r.kind == "fused"),
                    worst(r for r in right if r.kind == "eager"),
                    percent(share(not r.accepted for r in right)),
                    *(percent(share(r.accepted for r in wrong if r.dtype == d)) for d in DTYPES),
                    ", ".join(alive) or "none",
                ]
            )
    head = ["family", "choice", "worst fused", "worst eager", "false rejects, %"]
    accepts = [f"false accepts {name}, %" for name in SHORT.values()]
    return table([*head, *accepts, "never killed, fp32"], rows)


def pooled(found: Calibration) -> str:
    rows = []
    runs = [r for r in found.runs if (r.family, r.direction) == ("fisher", "forward") and r.mutant]
    for name in FLOOR:
        for label, choice in (("not pooled, as shipped", SAME), ("pooled", "pooled always")):
            cells = []
            for dtype in DTYPES:
                some = sorted(r.T for r in runs if (r.variant, r.choice, r.dtype) == (name, choice, dtype))
                median = some[len(some) // 2] if some else float("nan")
                cells.append(f"{percent(share(T > LIMIT for T in some))} % ({number(median)})")
            rows.append([name, label, *cells])
    return table(["mutant", "D", *SHORT.values()], rows)
