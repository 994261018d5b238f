"""What a run claims: as many cases and as far as was run, and nothing where nothing was judged."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from trueness.tools.report.terminal import exit_status
from trueness.tools.run.api import check
from trueness.tools.run.conclusion import conclusion
from trueness.tools.run.trial import longest_axis
from trueness.tools.spec.model import Verdict

RIGHT = Verdict("fisher.diagonal", "mine:fn", "float32", "value", "pass", T=0.25, cases=3, longest=129, origin="user")
SKIPPED = replace(RIGHT, check="gradient", status="skip", message="not differentiable", T=None, cases=0, longest=0)
WRONG = replace(RIGHT, check="shapes", status="fail", message="returned a list.")
REFERENCE = replace(RIGHT, implementation="reference", origin="builtin", cases=40, longest=8)


def test_the_conclusion_counts_what_ran_on_the_implementation_and_not_on_the_reference() -> None:
    other = replace(RIGHT, check="layouts", cases=4, longest=7)
    assert conclusion([RIGHT, other, SKIPPED, REFERENCE]) == "no fault found in 7 cases, lengths up to 129"
    assert conclusion([replace(RIGHT, cases=1, longest=0)]) == "no fault found in 1 case"
    assert conclusion([REFERENCE]) == "no fault found in 40 cases, lengths up to 8"


def test_nothing_judged_is_neither_right_nor_wrong() -> None:
    assert conclusion([SKIPPED, REFERENCE]) == "nothing was judged: not differentiable"
    assert [exit_status(v) for v in ([RIGHT, SKIPPED], [SKIPPED, REFERENCE], [RIGHT, WRONG], [])] == [0, 2, 1, 2]


def test_an_outcome_in_which_nothing_was_judged_is_falsy_and_says_why() -> None:
    outcome = check("sequences.shift", lambda *arguments: arguments[0], dtype="float32", profile="quick")
    assert not outcome and not outcome.failures
    assert str(outcome) == "nothing was judged: integers in, integers out: no dtype enters."


def test_an_outcome_says_how_far_it_looked() -> None:
    def fisher(score: Any, alpha: Any) -> Any:
        return score * score + (1e-4 + 1e-3 * (1 - alpha))

    case = '{"sizes": {"...": [2, 3]}, "scalars": {"alpha": 0.5}}'
    outcome = check("fisher.diagonal", fisher, dtype="float32", case=case)
    assert outcome
    assert str(outcome).startswith("no fault found in 2 cases, lengths up to 3: 2 checks passed, 0 skipped, worst T ")


def test_the_longest_axis_is_found_in_lists_too() -> None:
    assert longest_axis([torch.zeros(2, 5), 7, [torch.zeros(3), torch.zeros(0, 9)], torch.zeros(())]) == 9
    assert longest_axis([]) == longest_axis([3.5]) == 0
