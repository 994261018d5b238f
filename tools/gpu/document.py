"""gpu.json: what a run on a GPU writes. gpu.schema.json is generated from these types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from trueness.tools.spec.versions import PACKAGES, installed

SECTIONS = ("ceilings", "correctness", "timing")
NO_GPU = "not run on a GPU"
PEERS = ("timm", "flash-linear-attention")
SECTION = r"^(waiting|not selected|done|stopped by the budget: .*)$"
STATUS = rf"^(timed|met|missed|impossible|{NO_GPU}|(refused|failed|not run): .+)$"


@dataclass
class Failure:
    """A failed check."""

    formula: str
    implementation: str
    dtype: str
    check: str
    T: float | None
    message: str
    case: str


@dataclass
class Correctness:
    """Counts of jobs and verdicts; skips by reason, checks by name."""

    jobs: int = field(default=0, metadata={"minimum": 0})
    of: int = field(default=0, metadata={"minimum": 0})
    verdicts: int = field(default=0, metadata={"minimum": 0})
    failed: list[Failure] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict, metadata={"minimum": 1})
    checks: dict[str, int] = field(default_factory=dict, metadata={"minimum": 1})


@dataclass
class Timing:
    """One contender of one case: T on the tensors that were timed, and the median time."""

    case: str = field(metadata={"minLength": 1})
    formula: str
    dtype: str
    side: str = field(metadata={"minLength": 1})
    status: str = field(metadata={"pattern": STATUS})
    T: float | None = field(default=None, metadata={"minimum": 0})
    limit: float | None = field(default=None, metadata={"finite": True})
    milliseconds: float | None = field(default=None, metadata={"minimum": 0, "finite": True})
    ratio: float | None = field(default=None, metadata={"minimum": 0, "finite": True})
    goal: float | None = field(default=None, metadata={"minimum": 0, "finite": True})

    @property
    def bad(self) -> bool:
        """A wrong answer, an impossible speed, or a goal that was missed."""
        return self.status.split(":")[0] in ("refused", "failed", "impossible", "missed")


@dataclass
class Sections:
    """How far every section is."""

    ceilings: str = field(default="not selected", metadata={"pattern": SECTION})
    correctness: str = field(default="not selected", metadata={"pattern": SECTION})
    timing: str = field(default="not selected", metadata={"pattern": SECTION})


@dataclass
class Document:
    """The whole run."""

    dry_run: bool
    device: str = field(metadata={"minLength": 1})
    capability: list[int] | None
    date: str
    budget: float = field(metadata={"minimum": 0, "finite": True})
    sections: Sections = field(default_factory=Sections)
    ceilings: dict[str, float | None] = field(default_factory=dict, metadata={"minimum": 0, "finite": True})
    correctness: Correctness = field(default_factory=Correctness)
    timing: list[Timing] = field(default_factory=list)
    versions: Mapping[str, str] = field(default_factory=lambda: installed((*PACKAGES, *PEERS)))
    schema: Literal[2] = 2


def schema() -> dict[str, Any]:
    """The JSON Schema of a ``Document``: a dry run holds no time."""
    from trueness.tools.spec.schema import schema_of  # msgspec

    found = schema_of(Document, title="gpu.json of tools/gpu")
    none = {"type": "null"}
    untimed = {
        "milliseconds": none,
        "ratio": none,
        "status": {"pattern": rf"^({NO_GPU}|(refused|failed|not run): .+)$"},
    }
    dry = {"ceilings": {"additionalProperties": none}, "timing": {"items": {"properties": untimed}}}
    found["allOf"] = [{"if": {"properties": {"dry_run": {"const": True}}}, "then": {"properties": dry}}]
    return found
