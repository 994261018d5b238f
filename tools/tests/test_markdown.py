"""The written pages say what the declarations say today, and all of the documented items are in the ledger."""

from __future__ import annotations

from pathlib import Path

import pytest

from trueness.tools.report import markdown
from trueness.tools.spec import registry

DOCS = Path(__file__).resolve().parents[2] / "docs"
DOCUMENTED = {"ATLAS": 22, "MEM": 36, "FSB": 10, "DDPM": 16, "DIFFIT": 16}

needs_checkout = pytest.mark.skipif(not DOCS.is_dir(), reason="installed from a wheel: docs/ is not here to be read")


@needs_checkout
def test_the_page_of_the_formulas_is_current() -> None:
    wanted = markdown.formulas(registry.formulas(), registry.bugs().values())
    assert (DOCS / "formulas.md").read_text("utf-8") == wanted, "run: trueness list --write docs/formulas.md"


@needs_checkout
def test_the_page_of_the_ledger_is_current() -> None:
    wanted = markdown.ledger(registry.bugs().values())
    assert (DOCS / "ledger.md").read_text("utf-8") == wanted, "run: trueness ledger --write docs/ledger.md"


def test_the_hundred_documented_items_are_all_there() -> None:
    found = [b.item for b in markdown.firsts(registry.bugs().values())]
    assert found == sorted(f"{name}-{n:02d}" for name, count in DOCUMENTED.items() for n in range(1, count + 1))
    assert len(found) == 100


def test_every_formula_says_how_its_reference_is_certified() -> None:
    page = markdown.formulas(registry.formulas(), registry.bugs().values())
    assert page.count("- **certificate:**") == page.count("\n### ") == len(registry.formulas())
