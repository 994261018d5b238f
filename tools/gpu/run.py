"""The run of tools/gpu: its sections, its report, its arguments."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from trueness.tools.gpu import timing
from trueness.tools.run.plan import Request, groups
from trueness.tools.run.pool import Progress, run_groups
from trueness.tools.run.runner import REFERENCE, Job
from trueness.tools.spec.model import Verdict

HERE = Path(__file__).resolve().parents[2]
SECTIONS = ("ceilings", "correctness", "timing")
BUDGET = 540.0  # seconds: one call of ten minutes with the start of the processes
SHARE = 0.55  # of it for correctness where timing follows
LIMIT = 300.0  # seconds without an answer after which a job has timed out
EVERY = 10.0  # seconds between two writings while verdicts come in
PACKAGES = ("torch", "triton", "numpy", "hypothesis", "scipy", "timm", "flash-linear-attention", "trueness")


class OutOfTime(Exception):
    """The budget of a section is spent."""


def versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


class Report:
    """The document as it grows, and its two files."""

    def __init__(self, out: Path, dry: bool, asked: Sequence[str], budget: float) -> None:
        self.out, self.written = out, 0.0
        out.mkdir(parents=True, exist_ok=True)
        self.document: dict[str, Any] = {
            "schema": 1,
            "dry_run": dry,
            "device": "none: dry run on the CPU" if dry else torch.cuda.get_device_name(0),
            "capability": None if dry else list(torch.cuda.get_device_capability(0)),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": versions(),
            "budget": budget,
            "sections": {name: "waiting" if name in asked else "not asked for" for name in SECTIONS},
            "ceilings": {},
            "correctness": {"jobs": 0, "of": 0, "verdicts": 0, "failed": [], "skipped": {}, "checks": {}},
            "timing": [],
        }
        self.write()

    def section(self, name: str, status: str) -> None:
        self.document["sections"][name] = status
        self.write()

    def write(self) -> None:
        """Both files, each in one step: who stops the run finds the ones before."""
        for name, text in (("gpu.json", json.dumps(self.document, indent=1) + "\n"), ("gpu.md", page(self.document))):
            fresh = self.out / f".{name}"
            fresh.write_text(text, "utf-8")
            fresh.replace(self.out / name)
        self.written = time.monotonic()

    @property
    def wrong(self) -> bool:
        stopped = any(s.startswith("stopped") for s in self.document["sections"].values())
        failed = bool(self.document["correctness"]["failed"])
        return stopped or failed or any(map(timing.bad, self.document["timing"]))


# -- sections ---------------------------------------------------------------------------------------------------------


def verify(report: Report, jobs: Sequence[Sequence[Job]], workers: int, until: float) -> str:
    """Run the jobs until the time is spent; the status of the section."""
    found = report.document["correctness"]
    found["of"] = sum(map(len, jobs))
    skipped, checks = Counter[str](), Counter[str]()

    def started(job: Job) -> None:
        if time.monotonic() > until:
            raise OutOfTime

    def finished(job: Job, verdicts: list[Verdict]) -> None:
        found["jobs"] += 1
        found["verdicts"] += len(verdicts)
        skipped.update(v.message for v in verdicts if v.skipped)
        checks.update(v.check for v in verdicts if not v.skipped)
        found["skipped"], found["checks"] = dict(skipped.most_common()), dict(checks.most_common())
        for v in verdicts:
            if not v.passed:
                place = {"formula": v.formula, "implementation": v.implementation, "dtype": v.dtype, "check": v.check}
                found["failed"].append({**place, "T": v.T, "message": v.message, "case": v.case})
                print(f"WRONG {v.formula} {v.implementation} {v.dtype} {v.check}: {v.message}", flush=True)
        if time.monotonic() - report.written > EVERY:
            report.write()

    try:
        run_groups(jobs, workers, LIMIT, Progress(started, finished))
    except OutOfTime:
        return f"stopped by the budget: {found['jobs']} of {found['of']} jobs were run"
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
    harness = importlib.import_module("pairs.harness")
    left = 0
    for case in cases:
        if time.monotonic() > until:
            left += 1
            continue
        for line in timing.measured(case, harness, dry):
            if only in line["case"]:
                report.document["timing"].append(line)
                print(row(line), flush=True)
        report.write()
        if not dry:
            torch.cuda.empty_cache()
    return f"stopped by the budget: {left} cases were not run" if left else "done"


# -- pages ------------------------------------------------------------------------------------------------------------


def text(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def row(line: dict[str, Any]) -> str:
    cells = [line["case"], line["dtype"], line["side"], text(line["T"], ".3g"), text(line["milliseconds"], ".4g")]
    return " | ".join([*cells, text(line["ratio"], ".3g"), text(line["goal"], "g"), line["status"]])


def page(document: dict[str, Any]) -> str:
    """The document for readers."""
    found = document["correctness"]
    lines = [f"# On a GPU: {document['device']}", ""]
    lines += [f"{document['date']}; {', '.join(f'{k} {v}' for k, v in document['versions'].items())}.", ""]
    lines += [f"- {name}: {status}" for name, status in document["sections"].items()]
    lines += [f"- {k}: {timing.NO_GPU if v is None else f'{v:.4g}'}" for k, v in document["ceilings"].items()]
    lines += ["", "## Correctness", ""]
    lines += [
        f"{found['jobs']} of {found['of']} jobs, {found['verdicts']} verdicts, {len(found['failed'])} failed.",
        "",
    ]
    lines += [
        f"- {f['formula']}, {f['implementation']}, {f['dtype']}, {f['check']}: {f['message']}" for f in found["failed"]
    ]
    lines += ["", "## Timing", ""]
    lines += ["T is that of the tensors that were timed. Ratio: median of time(peer)/time(ours), calls in turn.", ""]
    lines += ["| case | dtype | side | T | ms | ratio | goal | |", "|---|---|---|---|---|---|---|---|"]
    lines += [f"| {row(line)} |" for line in document["timing"]]
    return "\n".join(lines) + "\n"


# -- the command ------------------------------------------------------------------------------------------------------


def arguments_of(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python tools/gpu", description="Correctness and timing on a GPU.")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, tiny, kernels interpreted; no times")
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"sections, of {','.join(SECTIONS)}")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for all sections together")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or "."), help="a folder; $OUT")
    parser.add_argument("--formulas", nargs="*", default=[], help="formulas or families that are verified; all")
    parser.add_argument("--peers", action="store_true", help="verify the peers, too")
    parser.add_argument("--profile", default="quick", help="quick, ci or deep")
    parser.add_argument("--workers", type=int, default=max(1, min(6, (os.cpu_count() or 2) // 2)))
    parser.add_argument("--cases", type=Path, default=HERE / "asv_bench" / "cuda_cases.py", help="the file of CASES")
    parser.add_argument("--case", default="", help="timing of the cases whose name contains this text")
    found = parser.parse_args(given)
    found.sections = [name for name in found.only.split(",") if name]
    if unknown := [name for name in found.sections if name not in SECTIONS]:
        parser.error(f"--only was {unknown[0]!r}; allowed are {', '.join(SECTIONS)}.")
    return found


def main(given: Sequence[str] | None = None) -> int:
    """Run the sections; 0 when all is right and fast, 1 when something is not, 2 without a device."""
    asked = arguments_of(given)
    dry = asked.dry_run
    if not dry and not torch.cuda.is_available():
        print("trueness.tools.gpu: no CUDA device; nothing was run.", file=sys.stderr)
        return 2
    cases = timing.load(asked.cases) if "timing" in asked.sections else []
    begin = time.monotonic()
    until = begin + asked.budget
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)  # for the processes that judge
    report = Report(asked.out, dry, asked.sections, asked.budget)
    if "ceilings" in asked.sections:
        report.document["ceilings"] = timing.ceilings("cpu" if dry else "cuda", dry)
        report.section("ceilings", "done")
    if "correctness" in asked.sections:
        share = SHARE if "timing" in asked.sections else 1.0
        jobs = jobs_of(asked.formulas, dry, asked.peers, asked.profile)
        report.section("correctness", verify(report, jobs, asked.workers, begin + share * asked.budget))
    if "timing" in asked.sections:
        report.section("timing", run_timing(report, cases, dry, asked.case, until))
    for name, status in report.document["sections"].items():
        print(f"{name}: {status}")
    return 1 if report.wrong else 0
