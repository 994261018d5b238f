"""Half formats: an accumulator in the half format is told from a fused program, which stores operands of products."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from trueness.tools.arithmetic.bounds import Bound, bounds
from trueness.tools.arithmetic.formats import precision, round_to
from trueness.tools.arithmetic.noise import Noise
from trueness.tools.arithmetic.products import products
from trueness.tools.calibration import halves
from trueness.tools.calibration.page import halves as page
from trueness.tools.calibration.record import Calibration, HalfRun, half_problems
from trueness.tools.calibration.sums import Way, computed
from trueness.tools.run.api import Outcome, check
from trueness.tools.spec.tables import LONG

HALF = ("float16", "bfloat16")


def normal(*shape: int, seed: int = 0, dtype: str = "float16") -> np.ndarray:
    return round_to(np.random.default_rng(seed).standard_normal(shape), dtype)


# -- programs of a user -----------------------------------------------------------------------------------------------


def fused(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    wide = x.float()
    mean = wide.mean(-1, keepdim=True)
    variance = ((wide - mean) ** 2).mean(-1, keepdim=True)
    return ((wide - mean) * torch.rsqrt(variance + eps) * weight.float() + bias.float()).to(x.dtype)


def narrow_sum(terms: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    total = torch.zeros_like(terms[..., :1])
    for k in range(terms.shape[-1]):
        total = (total + terms[..., k : k + 1]).to(dtype).float()
    return total


def narrow(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    """both sums in the format of x"""
    wide, n = x.float(), x.shape[-1]
    mean = narrow_sum(wide, x.dtype) / n
    variance = narrow_sum((wide - mean) ** 2, x.dtype) / n
    return ((wide - mean) * torch.rsqrt(variance + eps) * weight.float() + bias.float()).to(x.dtype)


def judged(function: Any, dtype: str, length: int, **options: Any) -> Outcome:
    case = f'{{"sizes": {{"B": 2, "N": 8, "C": {length}}}, "seed": 3, "scalars": {{"eps": 1e-06}}}}'
    return check("attention.layer_norm", function, dtype=dtype, case=case, checks=["value"], **options)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("length", [64, 128])
def test_an_accumulator_in_the_half_format_is_rejected_from_64_on(dtype: str, length: int) -> None:
    (wrong,) = judged(narrow, dtype, length).verdicts
    assert not wrong.passed
    if length == 64:
        assert wrong.T is not None and wrong.T < 1.5, "T alone accepts it"
        assert "times what a fused program may" in wrong.message and "--limit eager" in wrong.message
    assert judged(fused, dtype, length)


def test_the_class_eager_and_wide_formats_are_not_held_to_it() -> None:
    assert judged(narrow, "float16", 64, limit="eager")
    assert judged(fused, "float32", 64)
    assert judged(narrow, "float16", LONG - 1), "shorter sums are left to T"


def attending(q: Any, k: Any, v: Any, mask: Any, stored: bool = False) -> torch.Tensor:
    """An online softmax over tiles of 16 keys; ``stored``: its sums are kept in the format of q."""
    top = q.new_full((*q.shape[:-1], 1), -torch.inf, dtype=torch.float32)
    total, out = torch.zeros_like(top), q.new_zeros((*q.shape[:-1], v.shape[-1]), dtype=torch.float32)
    for at in (slice(i, i + 16) for i in range(0, k.shape[-2], 16)):
        scores = q.float() @ k[..., at, :].float().mT / q.shape[-1] ** 0.5
        scores = scores.masked_fill(~mask[..., at], -torch.inf)
        higher = torch.maximum(top, scores.amax(-1, keepdim=True))
        safe = higher.masked_fill(higher == -torch.inf, 0.0)
        weights, shrink = torch.exp(scores - safe), torch.exp(top - safe)
        total = total * shrink + weights.sum(-1, keepdim=True)
        out, top = out * shrink + weights @ v[..., at, :].float(), higher
        if stored:
            total, out = total.to(q.dtype).float(), out.to(q.dtype).float()
    return torch.where(total == 0, 0.0, out / total).to(q.dtype)


def attending_in_halves(q: Any, k: Any, v: Any, mask: Any) -> torch.Tensor:
    return attending(q, k, v, mask, stored=True)


def by_one_pass(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    wide = x.float()
    mean = wide.mean(-1, keepdim=True)
    variance = (wide**2).mean(-1, keepdim=True) - mean**2
    return ((wide - mean) * torch.rsqrt(variance.clamp(min=0) + eps) * weight.float() + bias.float()).to(x.dtype)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(
    ("formula", "right", "wrong", "place"),
    [
        ("attention.masked_attention", attending, attending_in_halves, "right up to J = "),
        ("attention.layer_norm", fused, by_one_pass, "right up to C = "),
    ],
)
def test_long_sums_have_many_results_around_0_and_around_a_far_mean(
    formula: str, right: Any, wrong: Any, place: str, dtype: str
) -> None:
    """The sums of an online softmax round once for a tile, the squares of a far mean lose their difference."""

    def value(function: Any, **options: Any) -> Any:
        (found,) = check(formula, function, dtype=dtype, profile="quick", checks=["value"], **options).verdicts
        return found

    found = value(wrong)
    assert found.status == "fail" and found.T < 1.5, found.message
    assert place in found.message and "times what a fused program may" in found.message
    assert value(right).passed and value(wrong, limit="eager").passed


# -- the bound --------------------------------------------------------------------------------------------------------


def attention(q: Any, k: Any, v: Any) -> Any:
    s = q @ k.swapaxes(-1, -2)
    p = np.exp(s - s.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True) @ v


def test_only_computed_operands_of_products_are_moved() -> None:
    q, k, v = (products(normal(4, 8, seed=i), 2.0**-11, 0.0, Noise(0)) for i in range(3))
    plain = [np.asarray(x) for x in (q, k, v)]
    assert np.array_equal(np.asarray(q @ k.swapaxes(-1, -2)), plain[0] @ plain[1].T), "arguments are half numbers"
    assert np.array_equal(np.asarray(np.moveaxis(q, 0, 1).sum(0)), np.moveaxis(plain[0], 0, 1).sum(0))
    assert np.array_equal(np.asarray(np.exp(q) * k), np.exp(plain[0]) * plain[1]), "there is no product of matrices"
    moved = np.asarray(np.exp(q) @ v.T) / (np.exp(plain[0]) @ plain[2].T)
    assert 0 < np.abs(moved - 1).max()


def test_the_narrow_bound_is_asked_for_and_only_for_long_sums_in_half_formats() -> None:
    arguments = [normal(4, 8, seed=i) for i in range(3)]

    def found(dtype: str, reduction: int, asked: bool) -> np.ndarray | None:
        fmt = precision(dtype)
        return bounds(attention, arguments, [fmt.u] * 3, fmt, reduction, fused=asked)[0].fused

    assert [found(d, n, a) is None for d, n, a in [("float16", 64, True), ("bfloat16", 64, True)]] == [False, False]
    assert found("float16", LONG - 1, True) is None
    assert found("float32", 64, True) is None
    assert found("float16", 64, False) is None
    inner, fmt = found("float16", 64, True), precision("float16")
    assert inner is not None and (inner < bounds(attention, arguments, [fmt.u] * 3, fmt, 64)[0].B).all()


def test_two_halves_may_be_merged_by_their_log_sum_exp_around_a_far_mean() -> None:
    """Scores are 4 million there, and rounded to a quarter: the spread in the half format tells nothing of that."""
    for dtype in HALF:
        fmt = precision(dtype)
        q, k, v = (round_to(normal(40, 9, seed=i) + 700, dtype) for i in range(3))
        (bound,) = bounds(attention, [q, k, v], [fmt.u] * 3, fmt, LONG, fused=True)
        scores, values = torch.from_numpy(q).float() @ torch.from_numpy(k).float().T, torch.from_numpy(v).float()
        parts = [(scores[:, at], values[at]) for at in (slice(0, 20), slice(20, None))]
        sums = torch.stack([torch.logsumexp(s, -1, keepdim=True) for s, _ in parts])
        shares = torch.exp(sums - torch.logaddexp(*sums))
        merged = sum(share * (torch.softmax(s, -1) @ x) for share, (s, x) in zip(shares, parts, strict=True))
        out = merged.to(getattr(torch, dtype)).double().numpy()  # type: ignore[union-attr]
        assert bound.stored(out) < 1


def test_a_twentieth_may_lie_beyond_and_few_elements_are_not_judged() -> None:
    y = np.zeros(100)
    bound = Bound(y, y + 10, fused=y + 1)
    out = np.where(np.arange(100) < 5, 8.0, 0.5)
    assert bound.stored(out) == 0.5
    assert bound.stored(np.where(np.arange(100) < 6, 8.0, 0.5)) == 8.0
    assert replace(bound, y=y[:63], B=bound.B[:63], fused=y[:63] + 1).stored(out[:63]) == 0.0
    assert replace(bound, fused=None).stored(out) == 0.0
    assert bound.stored(out * np.inf) == np.inf
    inside = bound.within(1.0, 2.0**-11, False)
    assert inside.fused is not None and (inside.fused == 1).all()


# -- the calibration --------------------------------------------------------------------------------------------------


def test_programs_made_of_a_reference_round_what_they_say() -> None:
    x = normal(3, 200)
    for dtype in HALF:
        x = normal(3, 200, dtype=dtype)
        units = [precision(dtype).u]
        terms = torch.from_numpy(x).float()
        sums = narrow_sum(terms, getattr(torch, dtype))[:, 0].double().numpy()
        for total in (lambda a: a.sum(-1), lambda a: a @ np.ones(200).view(type(a))):
            (found,) = computed(total, [x], units, dtype, Way(accumulator=dtype))
            assert np.array_equal(found, sums)
            (right,) = computed(total, [x], units, dtype, Way())
            assert not np.array_equal(right, sums)
            assert (np.abs(right - x.sum(-1)) <= precision(dtype).u * np.abs(x.sum(-1)) * (1 + 2.0**-7)).all()
    (stored,) = computed(lambda a: np.exp(a) - 1, [x], units, dtype, Way(results=dtype))
    assert np.array_equal(stored, round_to(round_to(np.exp(x), dtype) - 1, dtype))
    (operands,) = computed(lambda a: np.exp(a) @ a.T, [x], units, dtype, Way(operands=dtype))
    assert not np.array_equal(operands, computed(lambda a: np.exp(a) @ a.T, [x], units, dtype, Way())[0])


@pytest.mark.parametrize("title", halves.SUMS)
def test_every_sum_has_as_many_terms_as_it_says(title: str) -> None:
    for length in halves.LENGTHS[:2]:
        judged = 0
        for seed in range(4):
            formula, values = halves.arguments(title, length, "float16", seed)
            trial = halves.trial_of(formula, "float16")
            assert formula.reduction(trial.sizes(values)) >= LONG
            (bound,) = trial.truth(values)
            judged += bound.fused is not None
            assert bound.y.size >= LONG
        assert judged, "float32 itself shows in all of them"


RUN = HalfRun("a sum", 64, "float16", "float32 throughout", "fused", 0.3, 0.8)
WRONG = replace(RUN, program="accumulator", kind="mutant", stored=2.0)


def test_a_rejected_fused_program_and_an_accumulator_that_never_shows_are_problems() -> None:
    assert half_problems([RUN, WRONG]) == []
    for change in ({"stored": 1.1}, {"T": 1.6}):
        (sentence,) = half_problems([replace(RUN, **change), WRONG])  # type: ignore[arg-type]
        assert "the fused program “float32 throughout” was rejected" in sentence
    assert half_problems([RUN, replace(WRONG, stored=0.9)]) == [
        "a sum: no case shows an accumulator in the half format."
    ]


def test_the_page_shows_both_error_rates_before_and_after() -> None:
    eager = replace(RUN, kind="eager", stored=3.0)
    runs = (RUN, RUN, WRONG, replace(WRONG, stored=0.5), replace(WRONG, T=9.0), eager)
    lines = page(Calibration("quick", 1, (), {}, (), {}, 0, halves=runs)).splitlines()
    assert "| a sum | 64 | 2 | 0 | 0.80 | 3 | 66.7 | 33.3 | 100 |" in lines
    assert "| all | 64 | 2 | 0 | 0.80 | 3 | 66.7 | 33.3 | 100 |" in lines
