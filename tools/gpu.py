"""Everything that needs a GPU in one call: correctness, sanitizer, timing - written to $OUT as one JSON file.

    OUT=results python -m trueness.tools.gpu

Correctness is `trueness verify --device cuda` (the CUDA checks and compute-sanitizer among them). Timing is reported
beside the error measured on the same tensors: for every elementwise formula with a cost, the median of paired ratios to
the eager peer and the fraction of the copy bandwidth measured in the same process. Without a device: status 2.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from trueness.tools import registry
from trueness.tools.nouns import Case, Formula, Implementation
from trueness.tools.plan import Request, groups
from trueness.tools.pool import run_groups
from trueness.tools.results import Results, installed, plain, to_json
from trueness.tools.runner import Job, trial_for

SIZES = (1 << 20, 12_582_912, 1 << 26)
ROUNDS = 21


def timed(call: Any) -> float:
    """Milliseconds of one call by CUDA events, the L2 cache flushed before it."""
    torch.empty(256 << 20, dtype=torch.int8, device="cuda").zero_()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def copy_bandwidth(elements: int, dtype: torch.dtype) -> float:
    """Bytes a second of a device copy, read and write counted; median of ROUNDS."""
    source = torch.empty(elements, dtype=dtype, device="cuda").normal_()
    target = torch.empty_like(source)
    for _ in range(3):
        target.copy_(source)
    times = [timed(lambda: target.copy_(source)) for _ in range(ROUNDS)]
    return 2 * source.numel() * source.element_size() / (statistics.median(times) * 1e-3)


def timing(formula: Formula, ours: Implementation, eager: Implementation, dtype: str, elements: int) -> dict[str, Any]:
    """One line of the table: T of ours on these tensors, the paired ratio to eager, the fraction of copy bandwidth."""
    job = Job(formula.name, ours.name, dtype, "cuda")
    trial, peer = trial_for(job, ours), trial_for(job, eager)
    scalars = {a.name: 0.5 for a in formula.arguments if not a.tensor}
    case = Case(sizes={"...": (elements,)}, seed=1, spread=2.0, scalars=scalars)
    small = Case(sizes={"...": (65_537,)}, seed=1, spread=2.0, scalars=scalars)
    values = trial.values(small)
    reading = trial.judge(trial.call(values), trial.truth(values))
    if reading.T > trial.limit:
        return {"formula": formula.name, "dtype": dtype, "elements": elements, "T": reading.T, "refused": "wrong"}
    natives = trial.natives(trial.values(case))
    for _ in range(3):
        trial.invoke(natives)
        peer.invoke(natives)
    pairs = [(timed(lambda: trial.invoke(natives)), timed(lambda: peer.invoke(natives))) for _ in range(ROUNDS)]
    assert formula.bytes is not None
    moved = formula.bytes(case.sizes, natives[0].element_size())
    milliseconds = statistics.median(a for a, _ in pairs)
    fraction = moved / (milliseconds * 1e-3) / copy_bandwidth(elements, natives[0].dtype)
    return {
        "formula": formula.name,
        "implementation": ours.name,
        "dtype": dtype,
        "elements": elements,
        "T": reading.T,
        "limit": trial.limit,
        "milliseconds": milliseconds,
        "eager over ours": statistics.median(b / a for a, b in pairs),
        "fraction of copy bandwidth": fraction,
        "possible": fraction <= 1.05,
    }


def main() -> int:
    """Run everything and write $OUT/gpu.json; 1 when something is wrong, 2 without a device."""
    if not torch.cuda.is_available():
        print("trueness.tools.gpu: no CUDA device; nothing was run.", file=sys.stderr)
        return 2
    out = Path(os.environ.get("OUT", "."))
    out.mkdir(parents=True, exist_ok=True)
    verdicts = run_groups(groups(Request(device="cuda")), 4, 300.0)
    results = Results(verdicts, formulas=registry.formulas(), bugs=registry.bugs(), device="cuda")
    times = []
    for formula in registry.formulas().values():
        elementwise = [getattr(a, "dims", ()) for a in formula.arguments if a.tensor] == [("...",)]
        found = {i.name: i for i in formula.implementations}
        if elementwise and formula.bytes is not None and {"trueness", "torch eager"} <= set(found):
            for dtype in ("float32", "bfloat16"):
                times += [timing(formula, found["trueness"], found["torch eager"], dtype, n) for n in SIZES]
    document = {
        "device": torch.cuda.get_device_name(0),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": installed(),
        "timing": times,
        "verification": json.loads(to_json(results)),
    }
    (out / "gpu.json").write_text(json.dumps(plain(document), indent=1) + "\n")
    for line in times:
        print(line)
    failed = [v for v in verdicts if not v.passed]
    for v in failed:
        print(f"{v.formula} {v.implementation} {v.dtype} {v.check}: {v.message}")
    return 1 if failed or not all(t.get("possible", False) for t in times) else 0


if __name__ == "__main__":
    sys.exit(main())
