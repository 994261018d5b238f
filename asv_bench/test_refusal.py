"""What is wrong is refused before any clock starts, and what is right repeats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import measure, subjects
from benchmarks.subjects import Refused, Subject

from trueness.tools.spec import registry

pytest_plugins = ["pytester"]


def diagonal(function: Any) -> Subject:
    formula = registry.formula("fisher.diagonal")
    implementation = replace(formula.implementations[0], name="candidate", load=lambda: function)
    return Subject(formula, implementation, "float32", 64)


class Counted:
    """A callable that counts its calls."""

    def __init__(self, function: Any) -> None:
        self.function, self.calls = function, 0

    def __call__(self, *arguments: Any) -> Any:
        self.calls += 1
        return self.function(*arguments)


def floor(alpha: float) -> float:
    return 1e-4 + 1e-3 * (1 - alpha)


WRONG = {
    "the absolute score": (lambda s, a: s.abs() + floor(a), "is wrong and is not timed: output"),
    "half precision inside": (lambda s, a: (s.bfloat16() ** 2 + floor(a)).float(), "T = .* of 1.5"),
    "the wrong dtype": (lambda s, a: s.double() ** 2 + floor(a), "it returned dtype float64"),
    "an exception": (lambda s, a: 1 / 0, "it raised ZeroDivisionError"),
    "nothing": (lambda s, a: None, "it returned a NoneType"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_implementation_is_never_timed(name: str, tmp_path: Path) -> None:
    function, sentence = WRONG[name]
    wrong = Counted(function)
    finding = measure.find(diagonal(wrong), tmp_path)
    assert wrong.calls <= 2  # judged, and judged: no clock ran
    assert finding.ratio_to_eager is finding.copy_fraction is None
    with pytest.raises(Refused, match=sentence):
        diagonal(function).require_right()


def test_an_answer_that_changes_while_it_is_timed_is_refused(tmp_path: Path) -> None:
    wearing = Counted(lambda s, a: s * s + floor(a) * (1 if wearing.calls < 9 else 2))
    finding = measure.find(diagonal(wearing), tmp_path)
    assert "changed its answer" in finding.refused


def test_what_is_right_is_timed(tmp_path: Path) -> None:
    subject = diagonal(lambda s, a: s * s + floor(a))
    finding = measure.find(subject, tmp_path)
    assert finding.refused == ""
    assert finding.ratio_to_eager is not None
    assert finding.copy_fraction is not None
    measure.require_as_judged(subject, tmp_path)


def test_a_saved_bound_refuses_another_answer(tmp_path: Path) -> None:
    right = diagonal(lambda s, a: s * s + floor(a))
    right.require_right()
    measure.save(right, tmp_path)
    with pytest.raises(Refused, match="is wrong and is not timed"):
        measure.require_as_judged(diagonal(lambda s, a: s.abs() + floor(a)), tmp_path)


def test_a_copy_is_as_fast_as_a_copy() -> None:
    first, second = (measure.copier(1 << 16, "float32", "cpu") for _ in range(2))
    assert 0.5 < measure.possible(measure.ratios(first, second)) < 1.05


def test_skipping_the_work_is_impossible() -> None:
    ready = torch.ones(1 << 18)
    subject = replace(diagonal(lambda s, a: ready), elements=1 << 18)
    fraction = measure.copy_fraction(subject)
    assert fraction is not None
    assert fraction > 1.05


@pytest.mark.parametrize("elements", [1 << 12, 1 << 18])
def test_every_timed_formula_has_a_case_of_every_size(elements: int) -> None:
    for formula in subjects.timed_formulas():
        case = subjects.case_of_size(formula, elements)
        assert case == subjects.case_of_size(formula, elements)
        if subjects.inputs.symbols(formula):
            values = Subject(formula, formula.implementations[0], "float32", elements).values
            largest = max(getattr(v, "size", 1) for v in values)
            assert elements / 2 <= largest <= elements * 2, formula.name


def test_another_installation_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUENESS_BENCH_TREE", str(tmp_path))
    with pytest.raises(RuntimeError, match="another installation came first"):
        subjects.require_origin()


def test_pytest_refuses_to_time_what_is_wrong(pytester: pytest.Pytester) -> None:
    pytest.importorskip("pytest_benchmark")
    pytester.makepyfile(
        f"""
        import sys
        from dataclasses import replace

        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import pytest
        from pytest_benchmarks import Subject, right, test_speed
        from trueness.tools.spec import registry

        formula = registry.formula("fisher.diagonal")
        wrong = replace(formula.implementations[0], name="wrong", load=lambda: lambda s, a: s.abs())
        one = Subject(formula, wrong, "float32", 64)
        test_speed.pytestmark = [pytest.mark.parametrize("subject", [one]).mark]
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*fisher.diagonal?wrong, float32, 64, cpu? is wrong and is not timed*"])
    result.stdout.no_fnmatch_line("*benchmark: 1 tests*")  # the table of times
