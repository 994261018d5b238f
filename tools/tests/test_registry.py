"""Tests of the registry: names of formulas, former names, names that are not there."""

from __future__ import annotations

import warnings

import pytest

from trueness.tools.spec import registry

FORMER = [(old, f.name) for f in registry.formulas().values() for old in f.formerly]


@pytest.mark.parametrize("old, new", FORMER)
def test_a_former_name_is_accepted_with_a_warning_that_names_the_new_one(old: str, new: str) -> None:
    with pytest.warns(FutureWarning, match=f"{old} is now called {new}") as said:
        found = registry.formula(old)
    assert found is registry.formulas()[new] and len(said) == 1


def test_a_former_name_is_accepted_where_formulas_are_selected() -> None:
    with pytest.warns(FutureWarning, match=r"kernels\.matvec is now called kernels\.rff_matvec"):
        (found,) = registry.select(["kernels.matvec"])
    assert found.name == "kernels.rff_matvec"


def test_a_current_name_does_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert registry.formula("kernels.rff_matvec").name == "kernels.rff_matvec"


def test_no_former_name_is_the_name_or_the_former_name_of_another_formula() -> None:
    olds = [old for old, _ in FORMER]
    assert olds and len(set(olds)) == len(olds) and not set(olds) & set(registry.formulas())


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ValueError, match=r"which is not declared\. Did you mean kernels\.rff_matvec\?"):
        registry.formula("kernels.rff_matvek")
