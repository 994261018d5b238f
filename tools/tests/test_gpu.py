"""tools/gpu without a GPU: its dry run runs everything, claims no time, and refuses what is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import jsonschema
import pytest
import torch

from trueness.tools.gpu import run as gpu_run
from trueness.tools.gpu import timing as gpu_timing
from trueness.tools.gpu.document import NO_GPU, Timing, schema
from trueness.tools.spec.records import to_record
from trueness.tools.spec.schema import as_file

HOME = Path(__file__).resolve().parents[2]
SCHEMA = schema()

needs_checkout = pytest.mark.skipif(
    not (HOME / "asv_bench").is_dir(), reason="installed from a wheel: the cases are not here to be read"
)
WRONG_CASES = """
import cuda_cases
from comparisons.harness import Contender
from dataclasses import replace

def wrong(tiny):
    pair = cuda_cases.diagonal("float32")(tiny)
    return replace(pair, ours=Contender("trueness", cuda_cases.quiet(lambda s, alpha: abs(s) + 1e-3)))

def raising(tiny):
    pair = cuda_cases.diagonal("float32")(tiny)
    return replace(pair, ours=Contender("trueness", cuda_cases.quiet(lambda s, alpha: s @ s @ s)))

def missing(tiny):
    raise LookupError("a pair that nobody declares")

CASES = [
    cuda_cases.Case(wrong, {"torch eager": 1.0}),
    cuda_cases.Case(raising, {"torch eager": 1.0}),
    cuda_cases.Case(missing, {"a peer": 1.0}),
    cuda_cases.Case(cuda_cases.diagonal("float32"), {"nobody": 1.0}),
]
"""
BLOCKED = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent}:
            raise ModuleNotFoundError(f"no module named {{name}}", name=name)

sys.meta_path.insert(0, Absent())
"""


def ran(out: Path, *arguments: str, **environment: str) -> tuple[int, dict[str, Any], str]:
    command = [sys.executable, str(HOME / "tools" / "gpu"), *arguments]
    clean = {k: v for k, v in os.environ.items() if k not in ("OUT", "TRITON_INTERPRET")}
    done = subprocess.run(command, env={**clean, "OUT": str(out), **environment}, capture_output=True, text=True)
    path = out / "gpu.json"
    return done.returncode, json.loads(path.read_text("utf-8")) if path.is_file() else {}, done.stdout + done.stderr


def valid(document: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker()).validate(document)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
@needs_checkout
def test_without_a_device_it_ends_with_status_2_and_one_sentence(tmp_path: Path) -> None:
    status, document, said = ran(tmp_path)
    assert (status, document) == (2, {})
    assert said == "trueness gpu: no CUDA device; nothing was run.\n"


@needs_checkout
def test_a_dry_run_runs_everything_and_claims_no_time(tmp_path: Path) -> None:
    """Where what only continuous integration has - python-flint, junitparser, msgspec, click - is not installed."""
    (tmp_path / "sitecustomize.py").write_text(
        BLOCKED.format(absent=("click", "flint", "junitparser", "jsonschema", "msgspec", "rich"))
    )
    status, document, said = ran(
        tmp_path / "out", "--dry-run", "--formulas", "fisher.diagonal", PYTHONPATH=str(tmp_path)
    )
    assert status == 0, said
    valid(document)
    assert set(document["sections"].values()) == {"done"}
    found = document["correctness"]
    assert found["jobs"] == found["of"] > 0 and not found["failed"]
    assert {"value", "gradient", "kernel memory", "kernel tiles", "kernel offsets"} <= set(found["checks"])
    judged = [line for line in document["timing"] if line["side"] == "trueness"]
    assert len(judged) >= 12 and all(0 < line["T"] <= line["limit"] for line in judged)
    assert {s for line in document["timing"] if not (s := line["status"]).endswith("not installed")} == {
        "not run on a GPU"
    }
    assert sum(line["goal"] is not None for line in document["timing"]) >= 14
    page = (tmp_path / "out" / "gpu.md").read_text("utf-8")
    assert all(line["case"] in page for line in document["timing"])


@needs_checkout
def test_a_wrong_implementation_is_refused_in_a_dry_run(tmp_path: Path) -> None:
    path = tmp_path / "wrong_cases.py"
    path.write_text(WRONG_CASES)
    arguments = ["--dry-run", "--only", "timing", "--cases", str(path)]
    status, document, said = ran(tmp_path / "out", *arguments, PYTHONPATH=str(HOME / "asv_bench"))
    assert status == 1, said
    valid(document)
    assert document["sections"] == {"ceilings": "not selected", "correctness": "not selected", "timing": "done"}
    heads = [line["status"].split(":")[0] for line in document["timing"]]
    assert heads == ["refused", "failed", "not run", "not run", "not run on a GPU"], document["timing"]
    assert document["timing"][0]["T"] > document["timing"][0]["limit"]


@needs_checkout
def test_a_spent_budget_stops_the_run_and_keeps_what_it_has(tmp_path: Path) -> None:
    status, document, said = ran(tmp_path, "--dry-run", "--only", "ceilings,timing", "--budget", "1e-9")
    assert status == 1, said
    valid(document)
    assert document["sections"]["ceilings"] == "done" and document["ceilings"]
    assert document["sections"]["timing"].startswith("stopped by the budget: 12 cases")


def test_the_file_of_the_schema_is_the_generated_one() -> None:
    text = resources.files("trueness.tools.gpu").joinpath("gpu.schema.json").read_text("utf-8")
    assert text == as_file(SCHEMA), "run: trueness schemas"


def test_both_launchers_have_the_same_options() -> None:
    from trueness.tools.cli import gpu

    done = subprocess.run([sys.executable, str(HOME / "tools" / "gpu"), "--help"], capture_output=True, text=True)
    named = {option.opts[0] for option in gpu.params}
    assert named and all(name in done.stdout for name in named)


def test_the_schema_lets_no_time_of_a_dry_run_pass(tmp_path: Path) -> None:
    report = gpu_run.Report(tmp_path, True, ["timing"], 1.0)
    report.document.timing = [Timing("c", "f", "d", "s", NO_GPU, T=0.5, limit=1.5)]
    document = to_record(report.document)
    valid(document)
    for change in ({"milliseconds": 1.0}, {"ratio": 2.0}, {"status": "met"}):
        with pytest.raises(jsonschema.ValidationError):
            valid({**document, "timing": [{**document["timing"][0], **change}]})
    valid({**document, "dry_run": False, "timing": [{**document["timing"][0], "ratio": 2.0, "status": "met"}]})


class Harness:
    """Calls that take so many 1024ths of a second, on a clock that they set: its sums are exact."""

    now = 0.0

    @staticmethod
    def call(ticks: float) -> Any:
        def passes() -> None:
            Harness.now += ticks / 1024

        return passes

    class Prepared:
        def __init__(self, pair: Any, device: str) -> None:
            self.trial, self.natives, self.values = SimpleNamespace(limit=1.5), (torch.zeros(4),), [torch.zeros(4)]

        def T(self, call: Any) -> float:
            return 0.5


def test_goals_are_judged_and_what_is_faster_than_a_copy_is_impossible(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code that runs on a GPU, with a clock of its own in the place of events."""
    peers = [
        SimpleNamespace(name=n, missing=str, judged=True, prepare=lambda x, m=m: Harness.call(m))
        for n, m in (("fast", 4.0), ("slow", 40.0))
    ]
    ours = SimpleNamespace(name="trueness", prepare=lambda x: Harness.call(10.0))
    pair = SimpleNamespace(name="a pair", formula="f", dtype="float32", ours=ours, peers=peers)
    copied = {"ticks": 9.5}

    class Case:
        COPY = "device copy"
        goals: ClassVar = {"fast": 0.5, "slow": 2.0, "device copy": 0.9}

        def pair(self) -> Any:
            return pair

        def bytes(self, values: Any) -> float:
            return 1.0

    def timed(call: Any, device: str) -> float:
        before = Harness.now
        call()
        return Harness.now - before

    monkeypatch.setattr(gpu_timing, "timed", timed)
    monkeypatch.setattr(gpu_timing, "copier", lambda total, dtype, device: Harness.call(copied["ticks"]))

    def found() -> dict[str, Any]:
        return {line.side: line for line in gpu_timing.measured(Case(), Harness, dry=False, rounds=3)}

    lines = found()
    assert {side: line.status for side, line in lines.items()} == {
        "trueness": "timed",
        "fast": "missed",
        "slow": "met",
        "device copy": "met",
    }
    assert lines["trueness"].milliseconds == 1e4 / 1024 and lines["slow"].ratio == 4.0
    assert [side for side, line in lines.items() if line.bad] == ["fast"]
    copied["ticks"] = 20.0
    assert found()["device copy"].status == "impossible"
    copied["ticks"] = 8.0
    assert found()["device copy"].status == "missed"
