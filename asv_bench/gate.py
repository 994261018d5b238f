"""Exit 1 if a commit is slower, less true, unmeasured or impossible beside another: asv_bench/gate.py BASE NEW

Reads asv's own results and compares the tracked numbers alone; seconds are for the curves. The rules are in `judge`.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
RESULTS = HERE / ".asv" / "results"

SLOWER = 1.25  # the ratio to eager repeats to 2 % on one machine, and is measured again before it counts
LESS_TRUE = 1.25  # T repeats bitwise; a factor leaves room for another order of the same operations
SMALL_T = 0.1  # below a tenth of the bound a growth is no loss
LIMIT_T = 1.5  # of a fused implementation
POSSIBLE = 1.05  # a copy measured against a copy stays below 1.02, on a busy machine too
SLOWER_THAN_COPY = 2.0  # the copy is a poor peer: it stays in the cache where a call asks for fresh memory


class Key(NamedTuple):
    """One tracked number: "T" of "fisher_diagonal[trueness, float32, 4096, cpu]"."""

    metric: str
    subject: str


Numbers = Mapping[Key, float | None]
"""None: the benchmark failed. NaN: it does not apply."""


class Finding(NamedTuple):
    text: str
    clock: str = ""
    """the subject, where the finding rests on a clock and deserves a second measurement"""


def judge(base: Numbers, new: Numbers) -> list[str]:
    """What is wrong with ``new`` beside ``base``, one sentence each; with no base, what is wrong by itself."""
    return [f.text for f in findings(base, new)]


def findings(base: Numbers, new: Numbers) -> list[Finding]:
    if not any(number(x) is not None for x in new.values()):
        return [Finding("nothing was measured")]
    found = []
    failed: dict[str, list[str]] = {}
    missing: dict[str, list[str]] = {}
    for key in sorted({**base, **new}):
        before, after = number(base.get(key)), number(new.get(key))
        if key in new and new[key] is None:
            failed.setdefault(key.subject, []).append(key.metric)
        elif after is None and before is not None:
            missing.setdefault(key.subject, []).append(f"{key.metric} (was {before:.3g})")
        elif after is not None:
            found += RULES.get(key.metric, nothing)(key, before, after, base, new)
    found += [Finding(f"failed: {', '.join(m)} of {subject}: refused or crashed") for subject, m in failed.items()]
    found += [Finding(f"missing: {', '.join(m)} of {subject}") for subject, m in missing.items()]
    return found


def number(x: float | None) -> float | None:
    return None if x is None or math.isnan(x) else x


def nothing(key: Key, before: float | None, after: float, base: Numbers, new: Numbers) -> list[Finding]:
    return []


def truth(key: Key, before: float | None, after: float, base: Numbers, new: Numbers) -> list[Finding]:
    if after > LIMIT_T:
        return [Finding(f"wrong: {key.subject} has T = {after:.3g}, the limit is {LIMIT_T}")]
    if before is not None and after > max(LESS_TRUE * before, SMALL_T):
        return [Finding(f"less true: {key.subject} has T = {after:.3g}, was {before:.3g}")]
    return []


def ratio(key: Key, before: float | None, after: float, base: Numbers, new: Numbers) -> list[Finding]:
    if not 0 < after < math.inf:
        return [Finding(f"impossible measurement: {key.subject} takes {after} times as long as eager", key.subject)]
    if before is not None and after > SLOWER * before:
        times = after / before
        text = f"slower: {key.subject} takes {after:.3g} × eager, was {before:.3g} × ({times:.2f} times as long)"
        return [Finding(text, key.subject)]
    return []


def copying(key: Key, before: float | None, after: float, base: Numbers, new: Numbers) -> list[Finding]:
    if not 0 < after <= POSSIBLE:
        text = f"impossible measurement: {key.subject} moves its bytes at {after:.3g} of the copy bandwidth"
        return [Finding(text, key.subject)]
    peer = Key("ratio_to_eager", key.subject)
    if (
        before is not None and before > SLOWER_THAN_COPY * after and number(new.get(peer)) is None
    ):  # then the copy is the peer
        text = f"slower: {key.subject} reaches {after:.3g} of the copy bandwidth, was {before:.3g}"
        return [Finding(text, key.subject)]
    return []


RULES = {"T": truth, "ratio_to_eager": ratio, "copy_fraction": copying}


# -- asv's files ----------------------------------------------------------------------------------------------------


def files(results: Path, commit: str) -> list[Path]:
    """asv's result files of one commit, the newest last."""
    return sorted(results.glob(f"*/{commit[:8]}-*.json"), key=lambda p: p.stat().st_mtime)


def read(results: Path, commit: str) -> dict[Key, float | None]:
    """The tracked numbers of one commit; empty if asv stored none."""
    found = files(results, commit)
    if not found:
        return {}
    data = json.loads(found[-1].read_text("utf-8"))
    numbers: dict[Key, float | None] = {}
    for name, row in data["results"].items():
        _, _, tail = name.partition(".")
        formula, _, method = tail.rpartition(".")
        if not method.startswith("track_"):
            continue
        entry = dict(zip(data["result_columns"], row, strict=False))
        places = list(product(*entry["params"]))
        for place, value in zip(places, entry["result"] or [None] * len(places), strict=True):
            subject = f"{formula}[{', '.join(p.strip(repr(chr(39))) for p in place)}]"
            numbers[Key(method.removeprefix("track_"), subject)] = value
    return numbers


def table(base: Numbers, new: Numbers) -> str:
    """Base → new for every subject, one line each."""
    metrics = list(RULES)
    rows = [("", *metrics)]
    for subject in dict.fromkeys(k.subject for k in sorted({**base, **new})):
        keys = [Key(m, subject) for m in metrics]
        if any(number(n.get(k)) is not None for k in keys for n in (base, new)):
            rows.append((subject, *(f"{shown(base, k)} → {shown(new, k)}" for k in keys)))
    widths = [max(len(r[i]) for r in rows) for i in range(len(metrics) + 1)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows)


def shown(numbers: Numbers, key: Key) -> str:
    if key not in numbers:
        return "-"
    value = numbers[key]
    return "failed" if value is None else "n/a" if math.isnan(value) else f"{value:.3g}"


def report(base: Numbers, new: Numbers) -> list[Finding]:
    """Print the table and what is wrong."""
    found = findings(base, new)
    if base or new:
        print(table(base, new))
    for finding in found:
        print(finding.text)
    measured = sum(number(x) is not None for x in new.values())
    print(f"gate: {len(found)} findings." if found else f"gate: {measured} numbers, nothing slower, nothing less true.")
    return found


def full(name: str) -> str:
    """The hash of a commit; its own name where git does not know it."""
    command = ["git", "-C", str(HERE), "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or name


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="commit to compare with")
    parser.add_argument("new", help="commit to judge")
    parser.add_argument("--results", type=Path, default=RESULTS, help="asv's results (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    base, new = (read(chosen.results, full(c)) for c in (chosen.base, chosen.new))
    if not base:
        print(f"{chosen.base} has no results: only what is wrong by itself can be seen.")
    return 1 if report(base, new) else 0


if __name__ == "__main__":
    sys.exit(main())
