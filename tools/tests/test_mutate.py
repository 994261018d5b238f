"""The paste test: a wrong variant in our function's place is caught, the truth there passes, and ours comes back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from trueness.tools.ledger.mutate import ledger, pasted
from trueness.tools.spec import registry


def test_the_truth_in_our_place_passes_and_a_wrong_variant_does_not() -> None:
    formula, bug = registry.formula("fisher.diagonal"), registry.bugs()["FSB-01"]
    ours = formula.implementations[0].load()
    assert pasted(replace(bug, variant=formula.reference), ("float32",)) == ""
    assert pasted(bug, ("float32",)) == "float32"
    assert formula.implementations[0].load() is ours


def test_every_one_that_was_asked_for_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert ledger(["FSB-01", "DDPM-01a"]) == 0
    assert capsys.readouterr().out.endswith("2 of 2 wrong variants caught: 100 %.\n")


def test_an_id_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"id was 'FSB-99'"):
        ledger(["FSB-99"])
