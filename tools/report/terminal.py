"""Runs on the command line: a verification, the ledger's evidence, the calibration; progress, tables, exit status."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from trueness.tools.report import markdown
from trueness.tools.report.html import require_writable, write_report
from trueness.tools.report.results import Results, Row, now, to_json, to_junit
from trueness.tools.run import pool, saved_cases
from trueness.tools.run.api import describe, held
from trueness.tools.run.conclusion import conclusion, judged
from trueness.tools.run.plan import Request, groups
from trueness.tools.run.runner import DTYPES, Job
from trueness.tools.spec import registry
from trueness.tools.spec.model import VERDICTS, Verdict
from trueness.tools.spec.tables import CALIBRATION_PROFILES, DEFAULT_DEVICE

COLOURS = {"right": "green", "wrong": "bold red", "convention": "yellow", "skipped": "dim"}


def console(stderr: bool = False) -> Console:
    wide = Console(stderr=stderr)
    return wide if wide.is_terminal else Console(stderr=stderr, width=160, soft_wrap=False)


# -- verify ---------------------------------------------------------------------------------------------------------


def verify(
    formulas: Sequence[str],
    impls: Sequence[str],
    dtypes: Sequence[str],
    device: str,
    peers: bool | None,
    profile: str,
    report: str | None,
    junit: str | None,
    json_file: str | None,
    jobs: int,
    timeout: float,
    framework: str | None,
    limit: str,
    policy: str | None,
    case: str,
    claims: Sequence[str] = (),
    no_gradient: bool = False,
) -> int:
    """Run the request, print the table, write the requested files; the exit status."""
    wanted = tuple(formulas), tuple(impls), tuple(dtypes) or DTYPES
    promised = tuple(claims), not no_gradient
    request = Request(*wanted, device, peers, profile, framework or "", limit, policy or "", *promised, case)
    planned = groups(request)
    if report:
        require_writable(report)
    for file in (junit, json_file):
        if file:
            require_writable_file(file)
    started, date = time.monotonic(), now()
    verdicts = run_with_progress(planned, jobs, timeout)
    names = list(dict.fromkeys(job.formula for group in planned for job in group))
    results = Results(
        verdicts,
        formulas={name: registry.formula(name) for name in registry.formulas() if name in names},
        bugs=registry.bugs(),
        profile=profile,
        device=device,
        started=date,
        seconds=time.monotonic() - started,
    )
    kept = [path for v in verdicts if (path := saved_cases.store(v)) is not None]
    out = console()
    out.print(verdict_table(results.rows()))
    for verdict in verdicts:
        if not verdict.passed:
            out.print(escape(describe(verdict)), style="red", highlight=False, soft_wrap=True)
    for verdict in verdicts:
        if verdict.policies and verdict.origin == "user":
            out.print(
                f"{verdict.formula} · {verdict.implementation} · {verdict.dtype}: {verdict.message}",
                markup=False,
                highlight=False,
            )
    for line in held(verdicts):
        out.print(escape(line), highlight=False, soft_wrap=True)
    if kept:
        out.print(f"failing cases stored under {saved_cases.directory()}: {len(set(kept))}", highlight=False)
    if json_file:
        Path(json_file).write_text(to_json(results), encoding="utf-8")
    if junit:
        Path(junit).write_text(to_junit(results), encoding="utf-8")
    if report:
        out.print(f"report: {write_report(results, report)}", highlight=False)
    out.print(summary(results), highlight=False)
    return exit_status(verdicts)


def exit_status(verdicts: Sequence[Verdict]) -> int:
    """0: no fault was found; 1: one was found; 2: nothing was judged."""
    if not all(v.passed for v in verdicts):
        return 1
    return 0 if judged(verdicts) else 2


def require_writable_file(name: str) -> None:
    """Refuse a file that cannot be written before anything is computed."""
    path = Path(name)
    if path.is_dir():
        raise ValueError(f"the file to write was {name!r}, which is a directory.")
    require_writable(str(path.parent))


def run_with_progress(planned: Sequence[Sequence[Job]], jobs: int, timeout: float) -> list[Verdict]:
    """Run the groups; on a terminal with a bar, elsewhere silently."""
    total = sum(len(group) for group in planned)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=total)

        def started(job: Job) -> None:
            bar.update(task, description=f"{job.formula} · {job.implementation} · {job.dtype}")

        def finished(job: Job, found: list[Verdict]) -> None:
            bar.advance(task)
            if any(not v.passed for v in found):
                bar.console.print(f"[red]wrong[/]: {escape(job.formula)} · {escape(job.implementation)} · {job.dtype}")

        return pool.run_groups(planned, jobs, timeout, pool.Progress(started, finished))


def verdict_table(rows: Sequence[Row]) -> Table:
    """formula · implementation · dtype · cases · worst T of limit · bugs detected k/k · verdict"""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("formula", overflow="fold", max_width=34)
    table.add_column("implementation", overflow="fold", max_width=32)
    table.add_column("dtype", no_wrap=True)
    for name in ("cases", "worst T of limit", "bugs detected"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold", min_width=24)
    before = ""
    for row, dtypes in folded(rows):
        of = "–"
        if row.T is not None and row.limit is not None:
            of = f"{row.T:.{'2f' if row.T < 1000 else '1e'}} of {row.limit:g}"
        detected = f"{row.detected}/{row.known - row.invisible}" if row.known else "–"
        detected += f" ({row.invisible} invisible)" if row.invisible else ""
        colour = COLOURS[row.status]
        verdict = escape(row.verdict)
        if row.status == "wrong":
            like = f", behaves like {', '.join(row.behaves_like)}" if row.behaves_like else ""
            verdict = f"wrong: {escape(', '.join(row.failing))}{like}"
        if row.device != DEFAULT_DEVICE:
            verdict += f" on {row.device}"
        table.add_row(
            escape(row.formula) if row.formula != before else "",
            escape(row.implementation),
            dtypes,
            str(row.cases) if row.cases else "–",
            of,
            detected,
            f"[{colour}]{verdict}[/]",
        )
        before = row.formula
    return table


def folded(rows: Sequence[Row]) -> list[tuple[Row, str]]:
    """Every row with its dtype; the dtypes in which an implementation is skipped for one reason make one row."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        alone = (row.dtype,) if row.status != "skipped" else ()
        groups.setdefault((row.formula, row.implementation, row.device, row.verdict, *alone), []).append(row)
    subjects = [(row.formula, row.implementation, row.device) for row in rows]
    found = []
    for group in groups.values():
        row = group[0]
        everywhere = len(group) == subjects.count((row.formula, row.implementation, row.device))
        found.append((row, row.dtype if len(group) == 1 else "all" if everywhere else "the others"))
    return found


def summary(results: Results) -> str:
    """One line: how many of each, what was found, and how long it took."""
    counts: dict[str, int] = {}
    for row in results.rows():
        counts[row.status] = counts.get(row.status, 0) + 1
    parts = [f"{counts[s]} {s}" for s in ("right", "convention", "wrong", "skipped") if s in counts]
    found = "" if "wrong" in counts else f"; {conclusion(results.verdicts)}"
    counted = f"{len(results.formulas)} formulas: {', '.join(parts)}{found}"
    return f"{counted}; {results.seconds:.0f} s, profile {results.profile}."


# -- ledger, calibrate -------------------------------------------------------------------------------------------------


def check_ledger() -> int:
    """Re-run all evidence; a table of the verdicts, and every entry that is not confirmed; 1 when there is one."""
    from trueness.tools.ledger import evidence  # junitparser

    bugs = sorted(registry.bugs().values(), key=lambda b: b.id)
    started = time.monotonic()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console(stderr=True), transient=True) as bar:
        task = bar.add_task("evidence", total=None)
        found = evidence.rerun(bugs, lambda done, total: bar.update(task, completed=done, total=total))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("verdict", "items", "entries", "confirmed", "tests"):
        table.add_column(name, justify="left" if name == "verdict" else "right", no_wrap=True)
    for verdict in VERDICTS:
        mine = [s for s in found if s.bug.verdict == verdict]
        tests = {name for s in mine for name in s.passed}
        items = [b for b in markdown.firsts(bugs) if b.verdict == verdict]
        table.add_row(verdict, str(len(items)), str(len(mine)), str(sum(map(bool, mine))), str(len(tests)))
    out = console()
    out.print(table)
    for s in found:
        if not s:
            out.print(f"{s.bug.id}: {escape(s.sentence)}", style="red", highlight=False, soft_wrap=True)
    seconds = time.monotonic() - started
    out.print(
        f"{len(markdown.firsts(bugs))} items, {len(bugs)} entries: {sum(map(bool, found))} confirmed, "
        f"{sum(not s for s in found)} not; {sum(b.variant is not None for b in bugs)} wrong variants; {seconds:.0f} s.",
        highlight=False,
    )
    return 0 if all(found) else 1


def calibrate(
    profile: str,
    write: str | None,
    examination: bool = False,
    only: str = "",
    dtypes: Sequence[str] = (),
    records: str = "",
    jobs: int = 2,
) -> int:
    from trueness.tools.calibration import run as calibration
    from trueness.tools.calibration.examination import command
    from trueness.tools.calibration.page import render

    if only and not examination:
        raise ValueError("--only was given without --examination.")
    if write:
        require_writable_file(write)
    parts: list[str] = []
    problems: list[str] = []
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), console=console(True), transient=True
    ) as bar:
        task = bar.add_task("calibrating", total=None)

        def note(text: object) -> None:
            bar.update(task, description=str(text))

        if not examination:
            found = calibration.calibrate(profile, progress=note)
            parts.append(render(found))
            problems += found.problems
        if examination or CALIBRATION_PROFILES[profile].examined:
            section, wrong = command.run(profile, only, dtypes, records, jobs, note)
            parts.append(section)
            problems += wrong
    out = console()
    text = "\n".join(parts)
    out.print(text, highlight=False, markup=False)
    for problem in problems:
        out.print(problem, highlight=False, markup=False)
    if write:
        Path(write).write_text(text, encoding="utf-8")
        out.print(f"written: {write}", highlight=False)
    return 1 if problems else 0


def sabotage(names: Sequence[str], dtype: str, profile: str, write: str | None) -> int:
    """Print what becomes of every sabotage; 1 when no case of a run rejects one."""
    from trueness.tools.report import power

    if write:
        require_writable_file(write)
    chosen = registry.select(list(names))
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=console(True)
    ) as bar:
        task = bar.add_task("sabotage", total=len(chosen))
        found = power.survey(chosen, dtype, profile, lambda name: bar.update(task, description=name, advance=1))
    out = console()
    text = power.render(found, dtype, profile)
    out.print(text if len(chosen) < 10 else text.split("\n## ", 2)[1], highlight=False, markup=False)
    for name, d in power.accepted(found):
        out.print(f"accepted: {name} · {d.sabotage}: {d.reason}", highlight=False, markup=False)
    if write:
        Path(write).write_text(text, encoding="utf-8")
        out.print(f"written: {write}", highlight=False)
    return 1 if power.accepted(found) else 0
