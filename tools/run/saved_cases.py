"""Failing cases stored as files, one JSON object each: the next run of the formula starts with them."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from trueness.tools.spec.model import Verdict


def directory() -> Path:
    """Where cases are stored: $TRUENESS_EXAMPLES, regressions/examples in a checkout, .trueness/examples elsewhere."""
    if named := os.environ.get("TRUENESS_EXAMPLES"):
        return Path(named)
    root = Path(__file__).resolve().parents[2]
    if (root / "pyproject.toml").exists() and (root / "regressions").is_dir():
        return root / "regressions" / "examples"
    return Path(".trueness") / "examples"


def store(verdict: Verdict) -> Path | None:
    """Store the case of a failing verdict; None where there is nothing to store."""
    if verdict.passed or not verdict.case or verdict.case == "{}" or "named_input" in json.loads(verdict.case):
        return None
    content = {"formula": verdict.formula, "dtype": verdict.dtype, "check": verdict.check, "case": verdict.case}
    content |= {"implementation": verdict.implementation, "message": verdict.message}
    name = hashlib.blake2b((verdict.formula + verdict.case).encode(), digest_size=6).hexdigest()
    path = directory() / f"{verdict.formula}-{name}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return path


def load(formula: str) -> tuple[str, ...]:
    """The cases stored for one formula, in the order of their names."""
    files = sorted(directory().glob(f"{formula}-*.json"))
    return tuple(dict.fromkeys(json.loads(path.read_text())["case"] for path in files))
