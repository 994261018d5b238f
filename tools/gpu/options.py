"""The options of `trueness gpu`, declared once for click and for machines without it. Imports no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from trueness.tools.gpu.document import SECTIONS
from trueness.tools.spec.tables import PROFILES

HERE = Path(__file__).resolve().parents[2]
BUDGET = 540.0  # seconds: one call of ten minutes with the start of the processes


@dataclass(frozen=True)
class Options:
    """The options of `trueness gpu`; the metadata is their help."""

    dry_run: bool = field(default=False, metadata={"help": "on the CPU, tiny, kernels interpreted; no times"})
    only: str = field(default=",".join(SECTIONS), metadata={"help": "sections, separated by commas"})
    budget: float = field(default=BUDGET, metadata={"help": "seconds for all sections together"})
    out: str = field(default="", metadata={"help": "a folder; $OUT, or this one"})
    formulas: str = field(default="", metadata={"help": "formulas or families to verify, by commas; all"})
    peers: bool = field(default=False, metadata={"help": "verify third-party implementations, too"})
    profile: str = field(default="quick", metadata={"help": f"of {', '.join(PROFILES)}"})
    workers: int = field(default=max(1, min(6, (os.cpu_count() or 2) // 2)), metadata={"help": "worker processes"})
    cases: str = field(default=str(HERE / "asv_bench" / "cuda_cases.py"), metadata={"help": "the file of CASES"})
    case: str = field(default="", metadata={"help": "time the cases whose name contains this text"})
