"""The ledger as a whole: entries are complete, and the value check rejects and names every wrong variant."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import trueness.regressions
from trueness.tools.ledger.evidence import selector
from trueness.tools.run.api import Outcome, check
from trueness.tools.run.variants import as_torch
from trueness.tools.spec import registry
from trueness.tools.spec.model import Bug

BUGS = list(registry.bugs().values())
WITH_VARIANT = [b for b in BUGS if b.variant is not None]
ONE_OF_EACH_FORMULA = list({b.formula: b for b in WITH_VARIANT}.values())
DTYPES = ("float32", "float16", "bfloat16", "float64")
ID = re.compile(r"(ATLAS|MEM|FSB|DDPM|DIFFIT)-\d\d[a-z]?")


def declared() -> list[Bug]:
    """The entries of every module below regressions, before the registry makes a dictionary of them."""
    package = trueness.regressions
    names = [m.name for m in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    modules = [importlib.import_module(n) for n in names if "test_" not in n and "._lib" not in n]
    values = [v for module in modules for v in vars(module).values() if isinstance(v, (tuple, list))]
    return list({id(b): b for value in values for b in value if isinstance(b, Bug)}.values())


def evidence() -> list[str]:
    """The names of all test functions below this folder."""
    trees = [ast.parse(f.read_text("utf-8")) for f in Path(__file__).parent.rglob("test_*.py")]
    return [n.name for t in trees for n in ast.walk(t) if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")]


def defects(bugs: Sequence[Bug], tests: Sequence[str]) -> list[str]:
    """What is wrong with the declarations of ``bugs``, whose evidence is among the test functions ``tests``."""
    found = [f"{id}: declared {n} times" for id, n in Counter(b.id for b in bugs).items() if n > 1]
    for bug in bugs:
        formula = registry.formulas().get(bug.formula)
        rules = {
            "the id has another form": ID.fullmatch(bug.id),
            "a text is empty": all(t.strip() for t in (bug.title, bug.document, bug.claim, bug.source, bug.finding)),
            "its formula is not declared": formula or not bug.formula,
            "a variant needs a formula and a discriminating input": (bug.variant is None)
            == (bug.discriminating_input is None)
            and (bug.formula or bug.variant is None),
            "no test function is its evidence": bug.variant or any(selector(bug) in name for name in tests),
            "it is invisible in every dtype": bug.variant is None
            or not formula
            or set(formula.dtypes) - set(bug.invisible),
        }
        found += [f"{bug.id}: {rule}" for rule, kept in rules.items() if not kept]
    return found


def outcome_of(bug: Bug, function: Any) -> Outcome:
    """The value check of ``function`` in place of our implementation, judged as ours, in a dtype that shows the bug."""
    formula = registry.formula(bug.formula)
    dtype = next(d for d in DTYPES if d in formula.dtypes and d not in bug.invisible)
    return check(
        bug.formula, as_torch(function, formula), dtype=dtype, profile="quick", policy="strict", checks=["value"]
    )


def test_the_entries_are_complete() -> None:
    assert defects(declared(), evidence()) == []


def test_the_registry_has_every_entry() -> None:
    assert sorted(b.id for b in declared()) == sorted(registry.bugs())


@pytest.mark.parametrize(
    ("change", "defect"),
    [
        ({"id": "FSB-1"}, "the id has another form"),
        ({"finding": " "}, "a text is empty"),
        ({"formula": "fisher.diagnoal"}, "its formula is not declared"),
        ({"discriminating_input": None}, "a variant needs a formula and a discriminating input"),
        ({"formula": ""}, "a variant needs a formula and a discriminating input"),
        ({"variant": None, "discriminating_input": None, "evidence": "-k FSB_99"}, "no test function is its evidence"),
        ({"invisible": dict.fromkeys(DTYPES, "a reason")}, "it is invisible in every dtype"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_incomplete_entry_is_refused(change: dict[str, Any], defect: str) -> None:
    wrong = replace(registry.bugs()["FSB-01"], **change)
    assert defects([wrong], ["test_of_FSB_01"]) == [f"{wrong.id}: {defect}"]


def test_an_id_declared_twice_is_refused() -> None:
    """In the registry, a dictionary, the second of two would replace the first."""
    bug = registry.bugs()["FSB-01"]
    assert defects([bug, replace(bug, title="another")], []) == ["FSB-01: declared 2 times"]


def test_an_unknown_verdict_is_refused() -> None:
    with pytest.raises(ValueError, match="verdict was 'perhaps'"):
        replace(registry.bugs()["FSB-01"], verdict="perhaps")


@pytest.mark.parametrize("bug", WITH_VARIANT, ids=lambda b: b.id.replace("-", "_"))
def test_the_wrong_variant_is_rejected_and_named(bug: Bug) -> None:
    outcome = outcome_of(bug, bug.variant)
    assert not outcome
    assert bug.id in outcome.verdicts[0].bugs


@pytest.mark.parametrize("bug", ONE_OF_EACH_FORMULA, ids=lambda b: b.formula)
def test_the_reference_in_place_of_the_variant_is_accepted(bug: Bug) -> None:
    """So an entry whose function is right would be refused by the test above."""
    assert outcome_of(bug, registry.formula(bug.formula).reference)
