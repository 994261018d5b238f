"""The examination's own honesty, sampled: its wrong programs are wrong, its right ones right, and each is told so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from trueness.tools.arithmetic.formats import precision
from trueness.tools.calibration.examination.collection import programs
from trueness.tools.calibration.examination.honesty import agreement, examined_in, ordinary, shown
from trueness.tools.calibration.examination.program import KINDS, Program, Witness, fault
from trueness.tools.spec import registry

ALL = tuple(programs().values())
WRONG, RIGHT = [p for p in ALL if not p.right], [p for p in ALL if p.right]


def first_of(kind: str) -> Program:
    """The first wrong program of a kind."""
    return next(p for p in WRONG if p.kind == kind)


def narrowest_shown(program: Program) -> str:
    """float32 where it is examined in it, else the widest of its formats."""
    return "float32" if "float32" in program.dtypes else min(program.dtypes, key=lambda d: precision(d).u)


def test_every_kind_has_a_program() -> None:
    assert {p.kind for p in WRONG} == set(KINDS)


def test_every_program_belongs_to_a_formula_that_exists() -> None:
    assert {p.formula for p in ALL} <= set(registry.formulas())


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_program_differs_on_its_witness_and_without_its_fault_does_not(kind: str) -> None:
    program = first_of(kind)
    assert shown(program, narrowest_shown(program)).honest


@pytest.mark.parametrize("program", RIGHT[::12], ids=lambda p: p.key)
def test_a_right_program_agrees_with_the_reference(program: Program) -> None:
    worst, limit = agreement(program, ordinary(registry.formula(program.formula), ())[:2], examined_in(program))
    assert worst <= limit


def test_a_program_called_wrong_that_is_right_is_found_out() -> None:
    program = first_of("last partial tile")
    assert program.right_without is not None
    assert not shown(replace(program, function=program.right_without), "float32").honest


def test_a_program_called_right_that_is_wrong_is_found_out() -> None:
    program = first_of("constant")
    assert program.witness is not None
    worst, limit = agreement(program, [program.witness], "float32")
    assert worst > limit


def test_a_witness_of_a_symbol_that_does_not_exist_is_refused() -> None:
    program = replace(first_of("last partial tile"), witness=Witness({"Q": 40}))
    with pytest.raises(ValueError, match=r"^sizes were \['Q'\]; "):
        shown(program, "float32")


def test_a_wrong_program_needs_a_witness_and_a_kind_that_exists() -> None:
    with pytest.raises(ValueError, match="a wrong program needs a kind and a witness"):
        Program("attention.silu", "wrong", abs, kind="constant")
    with pytest.raises(ValueError, match="kind was 'bad luck'"):
        Program("attention.silu", "wrong", abs, kind="bad luck", witness=fault("constant").witness)
