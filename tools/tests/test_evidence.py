"""The evidence runner: an entry is shown by a test that passed, and by nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from trueness.tools.ledger.evidence import rerun, selector, sort
from trueness.tools.report.markdown import firsts
from trueness.tools.spec.model import Bug

ENTRY = Bug(
    id="FSB-01",
    formula="",
    title="a title",
    document="a document",
    claim="a claim",
    verdict="process",
    source="a source",
    finding="a finding",
    evidence="pytest --pyargs shown_here -k FSB_01",
)
TESTS = """
import pytest

def test_right_FSB_01(): pass
def test_wrong_FSB_02(): assert 1 == 2
@pytest.mark.skip(reason="no device")
def test_skipped_FSB_03(): pass
def test_of_nobody(): assert 1 == 2
"""


def entry(name: str) -> Bug:
    return replace(ENTRY, id=name, evidence=f"pytest --pyargs shown_here -k {name.replace('-', '_')}")


def test_passing_failing_skipped_and_missing_evidence_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "shown_here"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "test_shown.py").write_text(TESTS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    told: list[tuple[int, int]] = []
    found = rerun([entry(f"FSB-0{n}") for n in (1, 2, 3, 4)], lambda done, total: told.append((done, total)))
    assert [bool(s) for s in found] == [True, False, False, False]
    assert found[0].sentence == ""
    assert found[1].sentence == "test_shown::test_wrong_FSB_02 failed"
    assert found[2].sentence == "1 tests, all skipped"
    assert found[3].sentence == "`pytest --pyargs shown_here -k FSB_04` runs no test"
    assert told[-1] == (3, 3)


def test_what_is_not_there_or_cannot_be_imported_shows_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "broken_here"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "test_broken.py").write_text("import nowhere_at_all\n\ndef test_it_FSB_01(): pass\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for package_name in ("nowhere_at_all", "broken_here"):
        try:
            (shown,) = rerun([replace(ENTRY, evidence=f"pytest --pyargs {package_name} -k FSB_01")])
        except RuntimeError as error:
            assert "could not be run" in str(error)
        else:
            assert not shown


@pytest.mark.parametrize("evidence", ["pytest", "look at it", "pytest --pyargs trueness.regressions"])
def test_evidence_that_selects_nothing_is_refused(evidence: str) -> None:
    with pytest.raises(ValueError, match="evidence was"):
        selector(replace(ENTRY, evidence=evidence))


def test_one_failure_outweighs_any_number_of_passes() -> None:
    (shown,) = sort([ENTRY], [("a_FSB_01", "passed"), ("b_fsb_01b", "failed"), ("c_FSB_011", "skipped")])
    assert not shown


def test_an_item_has_the_verdict_of_its_first_entry() -> None:
    entries = [replace(ENTRY, id=i, verdict=v) for i, v in (("FSB-02b", "no bug"), ("FSB-02a", "convention"))]
    assert [b.verdict for b in firsts([*entries, ENTRY])] == ["process", "convention"]
