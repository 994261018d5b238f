"""Mutants of references: what may be changed, what kills it, what only looks equivalent, and the table of all."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import strategies as st

from trueness.tools.arithmetic.formats import precision
from trueness.tools.checks.rounding import explained
from trueness.tools.cli import cli
from trueness.tools.mutants import page
from trueness.tools.mutants.command import judged
from trueness.tools.mutants.judging import Judgement, Subject
from trueness.tools.mutants.patching import Source
from trueness.tools.mutants.reasons import REASONS, problems
from trueness.tools.mutants.record import Summary, row_of
from trueness.tools.mutants.tree import mutants
from trueness.tools.run.runner import reference_as_implementation
from trueness.tools.run.trial import Trial
from trueness.tools.spec import registry
from trueness.tools.spec.calling import positional
from trueness.tools.spec.inputs import Real, Scalar
from trueness.tools.spec.model import Formula

PAGE = Path(__file__).resolve().parents[2] / "docs" / "mutants.md"
SAMPLED = ("fisher.diagonal_by_sample", "sequences.ring_push", "training.clip_by_global_norm", "diffusion.predict_x0")
"""formulas that are judged again here, none of whose places is left to the cases of another formula"""


# -- references of the tests: their text is changed -------------------------------------------------------------------


def squared(x: Any, y: Any) -> Any:
    d = x - y
    return d * d


def squared_vjp(g: Any, x: Any, y: Any) -> Any:
    return 2 * (x - y) * g, -2 * (x - y) * g


def bounded(x: Any) -> Any:
    return x * np.minimum(x, 9000)


def for_many(x: Any) -> Any:
    if np.size(x) > 10**9:
        return 3 * x
    return 2 * x


def doubled(x: Any, factor: float = 1.0, *, unused: float = 5.0) -> Any:
    found, count = x, 0
    while count < 3:
        found, count = found * 2, count + 1
    return found * factor if unused else found


def raised(x: Any) -> Any:
    """2 x"""
    if x.size < 0:
        raise ValueError(f"x had {x.size + 1} elements.")
    y: float = 2
    return y * x


def formula(reference: Callable[..., Any], *arguments: Any, **fields: Any) -> Formula:
    fields = {"no_gradient": "not at stake", "equation": "=", "source": "here", **fields}
    return Formula(f"made.{reference.__name__}_{len(arguments)}", reference, arguments=arguments, **fields)


def subject_of(declared: Formula, of_gradient: bool = False) -> Subject:
    trial = Trial(declared, reference_as_implementation(declared), "float32", examples=10)
    return Subject(trial, of_gradient=of_gradient)


def judge(declared: Formula, of_gradient: bool = False) -> dict[str, Judgement]:
    """What was changed → what became of it."""
    return {j.mutant.what: j for j in subject_of(declared, of_gradient).judgements()}


def made(function: Callable[..., Any]) -> list[str]:
    definition = Source(sys.modules[function.__module__]).definition(function.__name__)
    return [str(m) for m in mutants(definition, function.__name__)]


def first(text: str) -> list[str]:
    """The changes of one expression."""
    return [m.what.partition(" -> ")[2] for m in mutants(ast.parse(f"y = {text}").body[0], "y")]  # type: ignore[arg-type]


# -- what is changed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("a - b", ["a + b", "b - a", "a", "-b"]),
        ("a @ b", ["a * b", "b @ a"]),
        ("a < b", ["a <= b", "a > b"]),
        ("0.5", ["1.5", "-0.5", "1.0"]),
        ("-1", ["0", "-2", "1"]),
        ("x[a:]", ["x", "x[a + 1:]", "x[a - 1:]", "x[a:-1]", "x[:]", "x[a::-1]"]),
        ("np.sin(a)", ["np.cos(a)", "a"]),
        ("f(a, b)", ["f(b, a)"]),
        ("f(a, axis=b)", ["f(a)"]),
        ("a if b else c", ["a", "c"]),
        ("x.T", ["x"]),
        ("a and b", ["a or b", "a", "b"]),
    ],
)
def test_each_rule_changes_one_thing(text: str, changes: list[str]) -> None:
    assert first(text) == changes


def test_documentation_annotations_and_refusals_are_left_alone_and_lines_count_from_the_definition() -> None:
    found = made(raised)
    assert all(m.startswith(("raised, line 5: ", "raised, line 6: ")) for m in found), found
    assert "raised, line 6: y * x -> y / x" in found


def test_no_two_mutants_have_the_same_text() -> None:
    found = [m.what for m in mutants(ast.parse("y = x * x").body[0], "y")]  # type: ignore[arg-type]
    assert found == ["x * x -> x / x", "x * x -> x + x", "x * x -> x"]


# -- what becomes of it -----------------------------------------------------------------------------------------------


def test_a_mutant_is_killed_or_equivalent() -> None:
    found = judge(formula(squared, Real("x"), Real("y")))
    assert found["x - y -> y - x"].outcome == "equivalent"
    assert {what for what, j in found.items() if j.outcome != "killed"} == {"x - y -> y - x"}
    assert found["x - y -> x + y"].reason.startswith("T = ")


def test_a_gradient_has_mutants_of_its_own_functions() -> None:
    declared = formula(squared, Real("x"), Real("y"), vjp=squared_vjp, no_gradient="")
    found = judge(declared, of_gradient=True)
    both = "(2 * (x - y) * g, -2 * (x - y) * g) -> "
    assert found[f"{both}(2 * (x + y) * g, -2 * (x - y) * g)"].outcome == "killed"
    assert all(j.mutant.function == "squared_vjp" for j in found.values())


def test_weak_cases_leave_survivors_and_wider_ones_do_not() -> None:
    weak = judge(formula(bounded, Real("x", decades=(-4.0, -2.0))))
    survivors = {what for what, j in weak.items() if j.outcome == "survived"}
    assert {
        f"x * np.minimum(x, 9000) -> x * {c}" for c in ("np.minimum(x, 9001)", "np.minimum(x, 8999)", "x")
    } <= survivors
    assert "only inputs beyond those of the run show it" in weak["x * np.minimum(x, 9000) -> x * x"].reason
    wide = judge(formula(bounded, Real("x", decades=(-4.0, 5.0))))
    assert not {what for what, j in wide.items() if j.outcome == "survived"}


def test_what_no_case_evaluates_is_not_equivalent() -> None:
    found = judge(formula(for_many, Real("x")))
    assert found["3 * x -> 4 * x"].outcome == "unreached"
    assert found["2 * x -> 3 * x"].outcome == "killed"


def test_a_loop_that_never_ends_is_killed() -> None:
    found = judge(formula(doubled, Real("x")))
    assert found["(found * 2, count + 1) -> (found * 2, count)"].reason == "raises RecursionError"
    assert found["count < 3 -> count <= 3"].reason.startswith("T = ")


def test_a_default_makes_mutants_only_where_a_call_uses_it() -> None:
    assert judge(formula(doubled, Real("x")))["1.0 -> 2.0"].outcome == "killed"
    given = judge(formula(doubled, Real("x"), Scalar("factor", st.just(2.0))))
    assert "1.0 -> 2.0" not in given
    assert given["found * factor if unused else found -> found if unused else found"].outcome == "killed"


def test_a_mutant_is_in_place_for_the_time_of_a_call_wherever_the_function_is_bound() -> None:
    source = Source(sys.modules[doubled.__module__])
    mutant = next(m for m in source.mutants({"doubled": doubled}) if m.what == "1.0 -> 2.0")  # type: ignore[dict-item]
    bound = positional(doubled, ["x", "unused"])
    with source.applied(mutant):
        assert doubled(1.0) == bound(1.0, 5.0) == 16.0
    assert doubled(1.0) == bound(1.0, 5.0) == 8.0


def only_half(x: Any, nu: float) -> Any:
    if nu != 0.5:
        raise ValueError("nu must be 0.5")
    return nu * x


def test_a_scalar_that_may_not_be_moved_is_exact() -> None:
    x = np.array([1.0, -2.0])
    moved = explained(only_half, [x, 0.5], [2.0**-24] * 2, precision("float32"), 1)
    exact = explained(only_half, [x, 0.5], [2.0**-24, 0.0], precision("float32"), 1)
    assert np.array_equal(moved[0], exact[0])


# -- the table --------------------------------------------------------------------------------------------------------


def test_a_survivor_without_a_reason_and_a_stale_reason_are_problems() -> None:
    row = row_of("made.for_many_1", False, subject_of(formula(for_many, Real("x"))))
    without = problems(Summary([row]), {})
    assert any("for_many, line 3: 3 * x -> 4 * x: survived, no case evaluates it" in p for p in without)
    given = {(row.name, f.key): "more than the memory holds" for _, f in Summary([row]).survivors()}
    assert problems(Summary([row]), given) == []
    stale = {**given, (row.name, "for_many: 2 * x -> 3 * x"): "killed by now"}
    assert problems(Summary([row]), stale) == ["made.for_many_1 · for_many: 2 * x -> 3 * x: the reason is stale"]


def test_a_place_that_another_formula_evaluates_is_counted_there() -> None:
    few = row_of("made.for_many_1", False, subject_of(formula(for_many, Real("x"))))
    places = tuple(replace(f, outcome="killed") if f.outcome == "unreached" else f for f in few.found)
    many = replace(few, formula="made.for_more", found=places)
    assert Summary([few, many]).counts(few)[-1] == 0 < Summary([few]).counts(few)[-1]


def test_the_command_writes_the_table_of_a_formula(tmp_path: Path) -> None:
    written = tmp_path / "mutants.md"
    done = CliRunner().invoke(
        cli, ["mutate", "--references", "sequences.shift", "--write", str(written), "--jobs", "1"]
    )
    assert done.exit_code == 0, done.output
    assert re.search(r"^\| sequences.shift \| \d+ \|", written.read_text(encoding="utf-8"), re.M)
    assert "100.0 %" in done.output and " CPU seconds." in done.output


def rows_of_page() -> dict[str, list[str]]:
    """Name in the table → its lines, of the references and then of the vector-Jacobian products."""
    found: dict[str, list[str]] = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("| ") and not line.startswith(("| formula", "| ---")):
            found.setdefault(line.split(" | ")[0][2:], []).append(line)
    return found


needs_page = pytest.mark.skipif(not PAGE.is_file(), reason="installed from a wheel: the page is not here to be read")


@needs_page
def test_the_page_lists_every_formula_and_its_sums_are_right() -> None:
    rows = rows_of_page()
    total = rows.pop("**sum**")
    formulas = registry.formulas()
    assert set(rows) == set(formulas)
    assert {name for name, lines in rows.items() if len(lines) == 2} == {n for n, f in formulas.items() if f.vjp}
    for part, line in enumerate(total):
        of_part = [lines[part] for lines in rows.values() if len(lines) > part]
        columns = zip(*(map(int, x.split(" | ")[1:8]) for x in of_part), strict=True)
        assert [sum(c) for c in columns] == list(map(int, line.split(" | ")[1:8]))
    assert "NO REASON GIVEN" not in PAGE.read_text(encoding="utf-8")


@needs_page
def test_every_reason_belongs_to_a_survivor_of_the_page() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    for (name, key), reason in REASONS.items():
        function, what = key.split(": ", 1)
        of_mutant = [x for x in lines if x.startswith(f"- {name} · {function}, line ") and f"`{what}`: {reason}" in x]
        assert of_mutant, f"{name} · {key}: the reason is stale"


@needs_page
@pytest.mark.parametrize("name", SAMPLED)
def test_the_counts_of_the_page_are_found_again(name: str) -> None:
    rows = judged(name)
    assert rows_of_page()[name] == [page.cells(name, Summary([row]).counts(row)) for row in rows]
    assert problems(Summary(rows)) == []


@needs_page
def test_more_than_97_of_100_are_killed() -> None:
    for line in rows_of_page()["**sum**"]:
        assert float(line.split(" | ")[8].removesuffix(" % |")) >= 97
