"""The ledger as a whole: every entry has a verdict and evidence that exists, every wrong variant dies in some dtype."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import pytest

from trueness.tools.ledger.evidence import selector
from trueness.tools.run.api import Outcome, check
from trueness.tools.run.variants import as_torch
from trueness.tools.spec import registry
from trueness.tools.spec.model import VERDICTS, Bug

BUGS = list(registry.bugs().values())
WITH_VARIANT = [b for b in BUGS if b.variant is not None]
DTYPES = ("float32", "float16", "bfloat16", "float64")


@pytest.mark.parametrize("bug", BUGS, ids=lambda b: b.id)
def test_an_entry_says_what_was_claimed_what_is_true_and_how_to_see_it(bug: Bug) -> None:
    assert bug.verdict in VERDICTS
    for text in (bug.title, bug.document, bug.claim, bug.source, bug.finding):
        assert text.strip()
    assert bug.formula == "" or bug.formula in registry.formulas()
    assert (bug.variant is None) == (bug.discriminating_input is None), "a wrong variant needs a discriminating input"


@pytest.mark.parametrize("bug", BUGS, ids=lambda b: b.id)
def test_the_evidence_command_selects_a_test_that_exists(bug: Bug) -> None:
    here = pathlib.Path(__file__).parent
    named = [t for f in here.glob("test_*.py") for t in re.findall(r"^def (test_\w+)", f.read_text(), re.M)]
    ids = [b.id.replace("-", "_") for b in BUGS if b.variant is not None]
    assert any(selector(bug) in name for name in [*named, *ids])


def judged(bug: Bug, function: Any) -> Outcome:
    """``function`` in torch's clothes, where our own implementation stands, in a dtype that can tell."""
    formula = registry.formula(bug.formula)
    dtype = next(d for d in DTYPES if d in formula.dtypes and d not in bug.invisible)
    return check(bug.formula, as_torch(function, formula), dtype=dtype, profile="quick", checks=["value"])


@pytest.mark.parametrize("bug", WITH_VARIANT, ids=lambda b: b.id.replace("-", "_"))
def test_the_wrong_variant_is_rejected_and_named(bug: Bug) -> None:
    outcome = judged(bug, bug.variant)
    assert not outcome
    assert bug.id in outcome.verdicts[0].bugs


@pytest.mark.parametrize("bug", {b.formula: b for b in WITH_VARIANT}.values(), ids=lambda b: b.formula)
def test_the_truth_in_the_same_clothes_is_accepted(bug: Bug) -> None:
    assert judged(bug, registry.formula(bug.formula).reference)


@pytest.mark.parametrize("bug", WITH_VARIANT, ids=lambda b: b.id)
def test_no_wrong_variant_is_invisible_everywhere(bug: Bug) -> None:
    """In the other dtypes the check ``known bugs`` rejects it, for every formula in every run."""
    assert set(registry.formula(bug.formula).dtypes) - set(bug.invisible)


def test_ids_are_unique_and_in_the_ledgers_form() -> None:
    ids = [b.id for b in BUGS]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"(ATLAS|MEM|FSB|DDPM|DIFFIT)-\d\d[a-z]?", i) for i in ids)
