"""A wrong variant in place of the library's function is caught, the reference passes, and the function is restored."""

from __future__ import annotations

from dataclasses import replace

import pytest

from trueness.tools.ledger.mutate import ledger, pasted
from trueness.tools.spec import registry


def test_the_reference_passes_in_place_of_the_function_and_a_wrong_variant_does_not() -> None:
    formula, bug = registry.formula("fisher.diagonal"), registry.bugs()["FSB-01"]
    ours = formula.implementations[0].load()
    assert pasted(replace(bug, variant=formula.reference), ("float32",)) == ""
    assert pasted(bug, ("float32",)) == "float32"
    assert formula.implementations[0].load() is ours


def test_every_requested_entry_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert ledger(["FSB-01", "DDPM-01a"]) == 0
    assert capsys.readouterr().out.endswith("2 of 2 wrong variants caught: 100 %.\n")


def test_an_unknown_id_is_refused() -> None:
    with pytest.raises(ValueError, match=r"id was 'FSB-99'"):
        ledger(["FSB-99"])
