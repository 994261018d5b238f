"""The run of tools/gpu: its sections, its report, its arguments."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from trueness.tools.gpu import timing
from trueness.tools.gpu.document import NO_GPU, SECTIONS, Document, Failure, Sections, Timing
from trueness.tools.gpu.options import Options
from trueness.tools.run.conclusion import REFERENCE
from trueness.tools.run.plan import Request, groups
from trueness.tools.run.pool import Progress, run_groups
from trueness.tools.run.runner import Job
from trueness.tools.spec.model import Verdict
from trueness.tools.spec.records import plain, to_record
from trueness.tools.spec.tables import PROFILES, require

SHARE = 0.55  # of it for correctness where timing follows
LIMIT = 300.0  # seconds without an answer after which a job has timed out
EVERY = 10.0  # seconds between two writings while verdicts come in


class OutOfTime(Exception):
    """The budget of a section is spent."""


class Report:
    """The document as it grows, and its two files."""

    def __init__(self, out: Path, dry: bool, asked: Sequence[str], budget: float) -> None:
        self.out, self.written = out, 0.0
        out.mkdir(parents=True, exist_ok=True)
        self.document = Document(
            dry_run=dry,
            device="none: dry run on the CPU" if dry else torch.cuda.get_device_name(0),
            capability=None if dry else list(torch.cuda.get_device_capability(0)),
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            budget=budget,
            sections=Sections(**{name: "waiting" for name in asked}),
        )
        self.write()

    def section(self, name: str, status: str) -> None:
        setattr(self.document.sections, name, status)
        self.write()

    def write(self) -> None:
        """Both files, each in one step: who stops the run finds the ones before."""
        for name, text in (
            ("gpu.json", json.dumps(plain(to_record(self.document)), indent=1) + "\n"),
            ("gpu.md", page(self.document)),
        ):
            fresh = self.out / f".{name}"
            fresh.write_text(text, "utf-8")
            fresh.replace(self.out / name)
        self.written = time.monotonic()

    @property
    def wrong(self) -> bool:
        stopped = any(s.startswith("stopped") for s in vars(self.document.sections).values())
        failed = bool(self.document.correctness.failed)
        return stopped or failed or any(line.bad for line in self.document.timing)


# -- sections ---------------------------------------------------------------------------------------------------------


def verify(report: Report, jobs: Sequence[Sequence[Job]], workers: int, until: float) -> str:
    """Run the jobs until the time is spent; the status of the section."""
    found = report.document.correctness
    found.of = sum(map(len, jobs))
    skipped, checks = Counter[str](), Counter[str]()

    def started(job: Job) -> None:
        if time.monotonic() > until:
            raise OutOfTime

    def finished(job: Job, verdicts: list[Verdict]) -> None:
        found.jobs += 1
        found.verdicts += len(verdicts)
        skipped.update(v.message for v in verdicts if v.skipped)
        checks.update(v.check for v in verdicts if not v.skipped)
        found.skipped, found.checks = dict(skipped.most_common()), dict(checks.most_common())
        for v in verdicts:
            if not v.passed:
                place = (v.formula, v.implementation, v.dtype, v.check)
                found.failed.append(Failure(*place, v.T, v.message, v.case))
                print(f"WRONG {v.formula} {v.implementation} {v.dtype} {v.check}: {v.message}", flush=True)
        if time.monotonic() - report.written > EVERY:
            report.write()

    try:
        run_groups(jobs, workers, LIMIT, Progress(started, finished))
    except OutOfTime:
        return f"stopped by the budget: {found.jobs} of {found.of} jobs were run"
    return "done"


def jobs_of(formulas: Sequence[str], dry: bool, peers: bool, profile: str) -> list[list[Job]]:
    """Ours (and the peers) on the device; a dry run takes the declared kernels, interpreted, in float32."""
    request = Request(
        formulas=tuple(formulas),
        device="cpu" if dry else "cuda",
        peers=peers,
        profile=profile,
        dtypes=("float32",) if dry else Request.dtypes,
    )
    chosen = [[job for job in group if job.implementation != REFERENCE] for group in groups(request)]
    if dry:
        chosen = [[job for job in group if job.env] for group in chosen]
    return [group for group in chosen if group]


def run_timing(report: Report, cases: Iterable[Any], dry: bool, only: str, until: float) -> str:
    harness = importlib.import_module("comparisons.harness")
    left = 0
    for case in cases:
        if time.monotonic() > until:
            left += 1
            continue
        for line in timing.measured(case, harness, dry):
            if only in line.case:
                report.document.timing.append(line)
                print(row(line), flush=True)
        report.write()
        if not dry:
            torch.cuda.empty_cache()
    return f"stopped by the budget: {left} cases were not run" if left else "done"


# -- pages ------------------------------------------------------------------------------------------------------------


def text(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def row(line: Timing) -> str:
    cells = [line.case, line.dtype, line.side, text(line.T, ".3g"), text(line.milliseconds, ".4g")]
    return " | ".join([*cells, text(line.ratio, ".3g"), text(line.goal, "g"), line.status])


def page(document: Document) -> str:
    """The document for readers."""
    found = document.correctness
    lines = [f"# On a GPU: {document.device}", ""]
    lines += [f"{document.date}; {', '.join(f'{k} {v}' for k, v in document.versions.items())}.", ""]
    lines += [f"- {name}: {status}" for name, status in vars(document.sections).items()]
    lines += [f"- {k}: {NO_GPU if v is None else f'{v:.4g}'}" for k, v in document.ceilings.items()]
    lines += ["", "## Correctness", ""]
    lines += [
        f"{found.jobs} of {found.of} jobs, {found.verdicts} verdicts, {len(found.failed)} failed.",
        "",
    ]
    lines += [f"- {f.formula}, {f.implementation}, {f.dtype}, {f.check}: {f.message}" for f in found.failed]
    lines += ["", "## Timing", ""]
    lines += ["T is that of the tensors that were timed. Ratio: median of time(peer)/time(ours), calls in turn.", ""]
    lines += ["| case | dtype | side | T | ms | ratio | goal | |", "|---|---|---|---|---|---|---|---|"]
    lines += [f"| {row(line)} |" for line in document.timing]
    return "\n".join(lines) + "\n"


# -- the command ------------------------------------------------------------------------------------------------------


def run(options: Options) -> int:
    """Run the sections; 0 when all is right and fast, 1 when something is not, 2 without a device."""
    dry = options.dry_run
    sections = [require("--only", name, SECTIONS) for name in options.only.split(",") if name]
    require("--profile", options.profile, PROFILES)
    if not dry and not torch.cuda.is_available():
        print("trueness gpu: no CUDA device; nothing was run.", file=sys.stderr)
        return 2
    cases = timing.load(Path(options.cases)) if "timing" in sections else []
    begin = time.monotonic()
    until = begin + options.budget
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)  # for the worker processes
    report = Report(Path(options.out or os.environ.get("OUT") or "."), dry, sections, options.budget)
    if "ceilings" in sections:
        report.document.ceilings = timing.ceilings("cpu" if dry else "cuda", dry)
        report.section("ceilings", "done")
    if "correctness" in sections:
        share = SHARE if "timing" in sections else 1.0
        formulas = [name for name in options.formulas.split(",") if name]
        jobs = jobs_of(formulas, dry, options.peers, options.profile)
        report.section("correctness", verify(report, jobs, options.workers, begin + share * options.budget))
    if "timing" in sections:
        report.section("timing", run_timing(report, cases, dry, options.case, until))
    for name, status in vars(report.document.sections).items():
        print(f"{name}: {status}")
    return 1 if report.wrong else 0
