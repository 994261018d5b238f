"""The gate names what is worse, and exits 1 for it."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import gate
import pytest
from gate import Key, judge

HERE = "fisher_diagonal[trueness, float32, 4096, cpu]"
RATIO, TRUTH, COPY = (Key(metric, HERE) for metric in ("ratio_to_eager", "T", "copy_fraction"))
GOOD = {TRUTH: 0.4, RATIO: 0.8, COPY: 0.6}


def test_an_equal_commit_passes() -> None:
    assert judge(GOOD, GOOD) == []


def test_a_commit_without_a_predecessor_passes() -> None:
    assert judge({}, GOOD) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({RATIO: 1.01}, "slower: .* takes 1.01 × eager, was 0.8"),
        ({TRUTH: 0.6}, "less true: .* has T = 0.6, was 0.4"),
        ({TRUTH: 1.6}, "wrong: .* has T = 1.6, the limit is 1.5"),
        ({TRUTH: math.inf}, "wrong: .* has T = inf"),
        ({RATIO: None}, "failed: ratio_to_eager of .*: refused or crashed"),
        ({RATIO: math.nan}, r"missing: ratio_to_eager \(was 0.8\) of "),
        ({COPY: 1.2}, "impossible measurement: .* at 1.2 of the copy bandwidth"),
        ({COPY: 0.0}, "impossible measurement"),
        ({RATIO: 0.0}, "impossible measurement"),
    ],
)
def test_what_is_worse_is_named(change: dict[Key, float | None], sentence: str) -> None:
    found = judge(GOOD, {**GOOD, **change})
    assert len(found) == 1
    assert re.search(sentence, found[0])


def test_a_number_that_vanishes_is_missing() -> None:
    assert len(judge(GOOD, {k: v for k, v in GOOD.items() if k != TRUTH})) == 1


@pytest.mark.parametrize("new", [{}, {TRUTH: math.nan}, {TRUTH: None}])
def test_measuring_nothing_is_no_success(new: dict[Key, float | None]) -> None:
    assert judge(GOOD, new) == ["nothing was measured"]
    assert judge({}, new) == ["nothing was measured"]


@pytest.mark.parametrize(
    "change", [{RATIO: 0.99}, {TRUTH: 0.49}, {COPY: 1.04}, {COPY: 0.1}, {RATIO: 0.1}, {TRUTH: 0.0}]
)
def test_noise_and_progress_are_not_named(change: dict[Key, float | None]) -> None:
    assert judge(GOOD, {**GOOD, **change}) == []


def test_a_subject_that_fails_is_one_finding() -> None:
    other = Key("T", "fisher_smooth[trueness, float32, 4096, cpu]")
    assert len(judge(GOOD, {**dict.fromkeys(GOOD), other: 0.1})) == 1


def test_a_small_error_may_grow() -> None:
    assert judge({**GOOD, TRUTH: 0.01}, {**GOOD, TRUTH: 0.09}) == []


def test_without_an_eager_peer_the_copy_is_the_peer() -> None:
    alone = {TRUTH: 0.4, RATIO: math.nan, COPY: 0.6}
    assert judge(alone, {**alone, COPY: 0.35}) == []
    assert "slower" in judge(alone, {**alone, COPY: 0.25})[0]


def test_a_number_that_never_applied_is_not_missed() -> None:
    assert judge({**GOOD, RATIO: math.nan}, {**GOOD, RATIO: math.nan}) == []


# -- from asv's own files -------------------------------------------------------------------------------------------


def stored(results: Path, commit: str, **values: float | None) -> None:
    rows = {
        f"tracked.fisher_diagonal.track_{metric}": [[value], [["'trueness'"], ["'float32'"], ["4096"], ["'cpu'"]], "1"]
        for metric, value in values.items()
    }
    rows["timed.fisher_diagonal.time_call"] = [[1e-5], [["'trueness'"], ["'float32'"], ["4096"], ["'cpu'"]], "1"]
    file = results / "machine" / f"{commit[:8]}-existing-py.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"result_columns": ["result", "params", "version"], "results": rows}))


OLD, NEW = "a" * 40, "b" * 40


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({"T": 0.4, "ratio_to_eager": 0.8}, 0),
        ({"T": 0.4, "ratio_to_eager": 1.2}, 1),
        ({"T": 0.9, "ratio_to_eager": 0.8}, 1),
        ({"T": 0.4}, 1),
        ({"T": 0.4, "ratio_to_eager": 0.8, "copy_fraction": 3.0}, 1),
        ({"T": None, "ratio_to_eager": None}, 1),
        ({}, 1),
    ],
)
def test_the_exit_status_is_the_verdict(tmp_path: Path, values: dict[str, float | None], status: int) -> None:
    stored(tmp_path, OLD, T=0.4, ratio_to_eager=0.8)
    stored(tmp_path, NEW, **values)
    assert gate.main([OLD, NEW, "--results", str(tmp_path)]) == status


def test_a_commit_without_results_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored(tmp_path, OLD, T=0.4)
    assert gate.main([OLD, NEW, "--results", str(tmp_path)]) == 1
    assert "nothing was measured" in capsys.readouterr().out


def test_asv_parameters_become_one_name(tmp_path: Path) -> None:
    stored(tmp_path, OLD, T=0.4)
    assert gate.read(tmp_path, OLD) == {TRUTH: 0.4}


def test_a_benchmark_that_failed_as_a_whole_is_none(tmp_path: Path) -> None:
    stored(tmp_path, OLD, T=0.4)
    file = next(tmp_path.rglob("*.json"))
    data = json.loads(file.read_text())
    data["results"]["tracked.fisher_diagonal.track_T"][0] = None
    file.write_text(json.dumps(data))
    assert gate.read(tmp_path, OLD) == {TRUTH: None}
