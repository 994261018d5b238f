"""The harness of the comparisons: what is wrong is not timed, a missed goal is reported, memory is measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from comparisons.harness import Comparison, Contender, Prepared, Result, measure

from trueness.optimized import fisher


def scores(rng: Any) -> list[Any]:
    return [rng.standard_normal((300, 1000)), 0.5]


EAGER = Contender("torch eager", lambda s, alpha: lambda: s * s + fisher.floor(alpha))
PAIR = Comparison(
    name="fisher 300×1000",
    formula="fisher.diagonal",
    arguments=scores,
    ours=Contender("trueness", lambda s, alpha: lambda: fisher.diagonal(s, alpha)),
    peers=(EAGER,),
    goals={("torch eager", 1): 1e-6},
    extra=300_000 * 4 + (4 << 20),
)


def lines(pair: Comparison) -> list[Result]:
    return list(measure(Prepared(pair), 1, rounds=3))


def test_both_sides_are_judged_and_timed_on_the_same_tensors() -> None:
    ours, eager = lines(PAIR)
    assert (ours.side, eager.side) == ("trueness", "torch eager")
    assert ours.T is not None and 0 < ours.T <= 1.5
    assert eager.T is not None and ours.milliseconds and eager.milliseconds
    assert eager.ratio is not None and eager.goal == 1e-6 and eager.met and ours.met


def test_a_wrong_answer_is_told_and_not_timed() -> None:
    wrong = replace(PAIR, ours=Contender("trueness", lambda s, alpha: lambda: s.abs() + fisher.floor(alpha)))
    (line,) = lines(wrong)
    assert line.note.startswith("wrong") and line.milliseconds is None and not line.met


def test_a_missed_goal_is_told() -> None:
    assert [line.met for line in lines(replace(PAIR, goals={("torch eager", 1): 1e6}))] == [True, False]


def test_a_peer_that_is_not_installed_is_named() -> None:
    absent = replace(EAGER, needs=("no_such_module",))
    found = {line.side: line.note for line in lines(replace(PAIR, peers=(absent,)))}
    assert found["torch eager"] == "not run: no_such_module not installed"


def test_memory_beyond_what_is_allowed_is_told() -> None:
    def greedy(s: torch.Tensor, alpha: float) -> Any:
        return lambda: fisher.diagonal(s, alpha) + 0 * torch.ones(64 << 20, dtype=torch.uint8).amax()

    (ours, _) = lines(replace(PAIR, ours=Contender("trueness", greedy)))
    if ours.extra is None:
        pytest.skip("this system does not tell the peak of the resident set")
    assert ours.extra >= 64 << 20 and not ours.met


def test_gradients_are_judged_by_the_vjp() -> None:
    def backward(g: torch.Tensor, s: torch.Tensor, alpha: float) -> Any:
        leaf = s.clone().requires_grad_()
        return lambda: torch.autograd.grad(fisher.diagonal(leaf, alpha), leaf, g)

    def drawn(rng: Any) -> list[Any]:
        return [rng.standard_normal((300, 1000)), *scores(rng)]

    pair = replace(PAIR, arguments=drawn, ours=Contender("trueness", backward), peers=(), goals={}, gradient=True)
    (line,) = lines(pair)
    assert line.T is not None and line.T <= 1.5 and line.milliseconds
    half = replace(pair, ours=Contender("trueness", lambda g, s, alpha: lambda: (g * s,)))
    assert lines(half)[0].note.startswith("wrong")


def test_a_part_of_the_rows_can_be_judged() -> None:
    def rows(values: list[Any]) -> Any:
        return [values[0][:7], values[1]], lambda outs: [outs[0][:7]]

    assert lines(replace(PAIR, part=rows))[0].T is not None

    def broken(s: torch.Tensor, alpha: float) -> Any:
        return lambda: torch.cat([2 * s[:1], fisher.diagonal(s, alpha)[1:]])

    assert lines(replace(PAIR, part=rows, ours=Contender("trueness", broken)))[0].note.startswith("wrong")
