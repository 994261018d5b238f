"""Runs the evidence of the whole ledger again: which entries are confirmed, by how many tests, and which are not."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from junitparser import JUnitXml

from trueness.tools.spec.model import Bug

PACKAGE = re.compile(r"--pyargs (\S+)")
SELECTOR = re.compile(r"-k ['\"]?(\w+)")
RAN = (0, 1, 5)  # pytest's status: all passed, some failed, none selected
OUTCOME = re.compile(r"\b(PASSED|FAILED|ERROR|SKIPPED)\b")
SELECTED = re.compile(r"(\d+) (?:tests? )?selected|collected (\d+) items?$|\[(\d+) items?\]")


@dataclass(frozen=True)
class Shown:
    """What the evidence command of one entry printed: the names of its tests by outcome."""

    bug: Bug
    passed: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.passed) and not self.failed

    @property
    def sentence(self) -> str:
        """Why the entry is not confirmed; empty if it is."""
        if self.failed:
            return f"{self.failed[0]} failed"
        if not self.passed:
            return f"{len(self.skipped)} tests, all skipped" if self.skipped else f"`{self.bug.evidence}` runs no test"
        return ""


def selector(bug: Bug) -> str:
    """The expression by which an entry's command chooses its tests; ValueError when it names none."""
    found = SELECTOR.search(bug.evidence)
    if not found:
        raise ValueError(f"{bug.id}: evidence was {bug.evidence!r}; it must select tests: pytest --pyargs … -k NAME.")
    return found[1]


def package(bug: Bug) -> str:
    """The package whose tests an entry's command runs."""
    found = PACKAGE.search(bug.evidence)
    if not found:
        raise ValueError(f"{bug.id}: evidence was {bug.evidence!r}; it must name a package: pytest --pyargs PACKAGE.")
    return found[1]


def sort(bugs: Iterable[Bug], outcomes: Iterable[tuple[str, str]]) -> list[Shown]:
    """Which outcomes (name of a test, passed | failed | skipped) belong to which entry, as pytest's -k would choose."""
    by_outcome: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": []}
    for name, outcome in outcomes:
        by_outcome[outcome].append(name)

    def mine(bug: Bug, outcome: str) -> tuple[str, ...]:
        return tuple(n for n in by_outcome[outcome] if selector(bug).lower() in n.lower())

    return [Shown(b, mine(b, "passed"), mine(b, "failed"), mine(b, "skipped")) for b in bugs]


def rerun(bugs: Sequence[Bug], progress: Callable[[int, int], None] = lambda done, total: None) -> list[Shown]:
    """Run the tests that the entries' commands select, together in one pytest, and say what each entry has to show.

    ``progress(done, total)`` is called after every test. RuntimeError when pytest could not run at all.
    """
    packages = sorted({package(b) for b in bugs})
    chosen = " or ".join(sorted({selector(b) for b in bugs}))
    with tempfile.TemporaryDirectory() as folder:
        junit = Path(folder) / "junit.xml"
        command = [sys.executable, "-P", "-m", "pytest", "-v", "-p", "no:cacheprovider", "--import-mode=importlib"]
        command += ["-n", "2"] if importlib.util.find_spec("xdist") else []
        command += [f"--junitxml={junit}", "-k", chosen, "--pyargs", *packages]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder
        ) as process:
            assert process.stdout is not None
            last, done, total = "", 0, 0
            for line in process.stdout:
                last = line.strip() or last
                if count := SELECTED.search(line.strip()):
                    total = int(next(g for g in count.groups() if g))
                if OUTCOME.search(line) and not line.startswith(("FAILED", "ERROR")):  # those sum up
                    done += 1
                    progress(done, max(done, total))
        if process.wait() not in RAN or not junit.exists():
            raise RuntimeError(f"the evidence could not be run: {last}")
        return sort(bugs, outcomes(junit))


def outcomes(junit: Path) -> list[tuple[str, str]]:
    """(name of the test, passed | failed | skipped) of a JUnit file."""
    found = []
    for suite in JUnitXml.fromfile(str(junit)):
        for case in suite:
            outcome = "skipped" if case.is_skipped else "passed" if case.is_passed else "failed"
            found.append((f"{case.classname}::{case.name}", outcome))
    return found
