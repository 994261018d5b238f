"""The calibration calibrated: it passes as it is, and fails for every reason it gives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from trueness.tools.arithmetic import bounds, stochastic
from trueness.tools.arithmetic.complex_step import directional_derivative
from trueness.tools.arithmetic.formats import precision
from trueness.tools.arithmetic.noise import Noise
from trueness.tools.calibration import features as calibration_features
from trueness.tools.calibration import fixtures as calibration_fixtures
from trueness.tools.calibration import ledger as calibration_ledger
from trueness.tools.calibration.page import number, percent, render
from trueness.tools.calibration.record import Calibration, Run
from trueness.tools.calibration.run import CHOICES, INVISIBLE, calibrate, subjects
from trueness.tools.calibration.subjects import Subject, Variant
from trueness.tools.spec import registry

CAUSAL = np.where(np.tri(5) > 0, 0.0, -np.inf)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def attention_arguments(mask: np.ndarray) -> list[Any]:
    return [*(normal(2, 5, 3, seed=i) for i in range(3)), normal(2, 5, 5), mask]


pytestmark = pytest.mark.xdist_group("calibration")  # one worker, for the calibration runs once


@pytest.fixture(scope="module")
def quick() -> Calibration:
    return calibrate("quick")


@pytest.fixture(scope="module")
def fisher() -> Subject:
    return next(s for s in subjects() if s.key == ("fisher", "forward"))


def only(subject: Subject, *variants: Variant) -> Subject:
    return replace(subject, variants=variants)


def chosen() -> tuple[Any, ...]:
    return *(vars(bounds)[name] for name in ("GRAINS", "RUNS", "spread")), stochastic.perturbed, torch.get_num_threads()


def truth(score: torch.Tensor, alpha: float) -> torch.Tensor:
    return score * score + 1e-4 + 1e-3 * (1 - alpha)


# -- fixtures -------------------------------------------------------------------------------------------------------


def transposed(cotangent: np.ndarray, pushed: np.ndarray, pulled: np.ndarray, direction: np.ndarray) -> bool:
    """⟨g, J v⟩ = ⟨Jᵀ g, v⟩ but for the roundings of both sums and of the terms in them."""
    left, right = cotangent * pushed, pulled * direction
    roundings = left.size + right.size
    return bool(abs(left.sum() - right.sum()) <= roundings * 2.0**-53 * (np.abs(left).sum() + np.abs(right).sum()))


@pytest.mark.parametrize("mask", [CAUSAL, np.zeros((5, 5))], ids=["causal", "no mask"])
def test_the_complex_step_proves_the_vjp_of_attention(mask: np.ndarray) -> None:
    arguments, cotangent = attention_arguments(mask), normal(2, 5, 3, seed=9)
    directions = [normal(2, 5, 3, seed=20 + i) for i in range(3)]
    pulled = calibration_fixtures.attention_vjp(cotangent, *arguments)
    for i, direction in enumerate(directions):
        moved: list[Any] = [None] * 5
        moved[i] = direction
        (pushed,) = directional_derivative(calibration_fixtures.attention, arguments, moved)
        assert transposed(cotangent, pushed, pulled[i], direction)


def test_the_complex_step_proves_the_vjp_of_random_features() -> None:
    arguments, cotangent, direction = [normal(4, 3), normal(3, 6), normal(6)], normal(4, 6), normal(4, 3, seed=1)
    forward, backward = calibration_features.subjects()
    (pushed,) = directional_derivative(forward.reference, arguments, [direction, None, None])
    pulled = backward.reference(cotangent, *arguments)
    assert transposed(cotangent, pushed, pulled, direction)


def test_attention_is_what_torch_computes_in_float64() -> None:
    arguments = attention_arguments(CAUSAL)
    q, k, v, bias, mask = map(torch.from_numpy, arguments)
    peer = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias + mask)
    units, fmt = [2.0**-53] * len(arguments), precision("float64")
    (bound,) = bounds.bounds(calibration_fixtures.attention, arguments, units, fmt, 5 + 3)  # keys + head width
    assert bound.ratio(peer.numpy()).max() <= bounds.LIMITS["eager"]


def test_a_mask_of_minus_infinity_survives_stochastic_arithmetic() -> None:
    noise = Noise(0)
    arguments = [stochastic.stochastic(x, 2.0**-8, 2.0**-134, noise) for x in attention_arguments(CAUSAL)]
    moved = np.asarray(calibration_fixtures.attention(*arguments))
    gradients = calibration_fixtures.attention_vjp(normal(2, 5, 3), *arguments)
    assert all(np.isfinite(np.asarray(x)).all() for x in (moved, *gradients))
    alone = attention_arguments(CAUSAL)[2][:, 0]  # row 0 sees key 0 alone: p = e/e, then p v
    assert (np.abs(moved[:, 0] - alone) <= 8 * 2.0**-8 * np.abs(alone)).all()


def test_without_noise_stochastic_arithmetic_is_float64_bitwise() -> None:
    arguments = attention_arguments(CAUSAL)
    plain = calibration_fixtures.attention_vjp(normal(2, 5, 3), *arguments)
    silent = [x.view(stochastic.Stochastic) for x in arguments]
    for a, b in zip(plain, calibration_fixtures.attention_vjp(normal(2, 5, 3), *silent), strict=True):
        assert np.array_equal(a, np.asarray(b))


# -- the calibration ------------------------------------------------------------------------------------------------


def test_the_quick_profile_passes(quick: Calibration) -> None:
    assert quick.problems == ()
    assert quick.passed


def test_everything_is_tried_in_every_dtype(quick: Calibration) -> None:
    tried = {(s.family, s.direction, s.variant, s.dtype) for s in quick.summaries}
    assert tried == {(*s.key, v.name, d) for s in subjects() for v in s.variants for d in v.dtypes}


def test_every_invisible_mutant_exists() -> None:
    known = {(*s.key, d, v.name) for s in subjects() for v in s.variants for d in v.dtypes if v.kind == "mutant"}
    assert set(INVISIBLE) <= known


def test_a_sabotaged_implementation_fails_it(fisher: Subject) -> None:
    bad = Variant("sabotaged", "fused", lambda s, a: 1.02 * truth(s, a))
    found = calibrate("quick", tried=[only(fisher, bad)], invisible={})
    assert not found.passed
    assert any("“sabotaged” (fused) reached T = " in problem for problem in found.problems)


def test_an_eager_peer_has_a_limit_of_its_own(fisher: Subject) -> None:
    def nearly(score: torch.Tensor, alpha: float) -> torch.Tensor:
        return truth(score.double(), alpha) * (1 + 6 * 2.0**-24)  # between 1.5 and 3 of what rounding explains

    kinds = [Variant(kind, kind, nearly, dtypes=("float32",)) for kind in ("fused", "eager")]
    found = calibrate("quick", tried=[only(fisher, *kinds)], invisible={})
    assert [s.worst for s in found.correct] == [pytest.approx(2.2, abs=0.6)] * 2
    assert [p.split("“")[1][:5] for p in found.problems] == ["fused"]


def test_a_mutant_that_is_the_truth_fails_it(fisher: Subject) -> None:
    found = calibrate("quick", tried=[only(fisher, Variant("no mutant", "mutant", truth))], invisible={})
    assert [p for p in found.problems if "“no mutant” was never killed" in p]
    assert not found.passed


def test_a_mutant_that_is_the_truth_passes_with_a_reason(fisher: Subject) -> None:
    reason = {("fisher", "forward", "float32", "no mutant"): "it is the truth"}
    found = calibrate("quick", tried=[only(fisher, Variant("no mutant", "mutant", truth))], invisible=reason)
    assert found.passed
    assert "| it is the truth |" in render(found)


def test_a_mutant_killed_though_listed_as_invisible_fails_it(fisher: Subject) -> None:
    reason = {("fisher", "forward", "float32", "half"): "nobody will notice"}
    mutant = Variant("half", "mutant", lambda s, a: truth(s, a) / 2)
    found = calibrate("quick", tried=[only(fisher, mutant)], invisible=reason)
    assert [p for p in found.problems if "listed as invisible, but was killed" in p]


def test_a_mutant_no_case_could_show_fails_it(fisher: Subject) -> None:
    mutant = Variant("unseen", "mutant", lambda s, a: truth(s, a) / 2, relevant=lambda *_: False)
    found = calibrate("quick", tried=[only(fisher, mutant)], invisible={})
    assert [p for p in found.problems if "no case could show the mutant “unseen”" in p]


def test_the_choices_are_put_back(fisher: Subject) -> None:
    before = chosen()
    found = calibrate("quick", tried=[only(fisher, Variant("fused", "fused", truth))])
    assert {r.choice for r in found.runs} >= set(CHOICES)
    assert chosen() == before


def test_a_run_says_how_far_it_is(fisher: Subject) -> None:
    notes: list[str] = []
    calibrate("quick", notes.append, tried=[only(fisher)])
    assert notes[0] == "fisher forward, float32: case 1 of 90"
    assert notes[-1] == "fisher forward, bfloat16: case 90 of 90"


def test_an_unknown_profile_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^profile was 'swift'; allowed are quick, full\.$"):
        calibrate("swift")


# -- the families and the ledger -------------------------------------------------------------------------------------


def test_every_float32_variant_of_the_families_is_tried_and_killed(quick: Calibration) -> None:
    killed = {s.variant for s in quick.families if s.kind == "mutant" and s.rejected}
    bugs = [b for f in calibration_ledger.formulas() if "float32" in f.dtypes for b in registry.bugs_of(f.name)]
    assert len(bugs) > 100
    assert {b.id for b in bugs if "float32" not in b.invisible} <= killed


def test_every_formula_of_the_families_is_tried_forward_and_backward(quick: Calibration) -> None:
    tried = {(s.family, s.direction) for s in quick.families if s.kind != "mutant"}
    for formula in calibration_ledger.formulas():
        assert (formula.name, "forward") in tried or not list(calibration_ledger.correct(formula, "float32"))
        if formula.vjp is not None and calibration_ledger.with_gradient(formula, "float32"):
            assert (formula.name, "backward") in tried


def problems_of(*runs: Run) -> tuple[str, ...]:
    return Calibration("quick", 1, (), {}, (), {}, 0, {}, runs).problems


def test_a_wrong_implementation_of_a_family_and_a_variant_that_lives_are_problems() -> None:
    assert problems_of(Run("kernels.rff_matvec", "forward", "float32", "trueness", "fused", 1.4)) == ()
    (wrong,) = problems_of(Run("kernels.rff_matvec", "forward", "float32", "trueness", "fused", 1.6))
    assert wrong.startswith("kernels.rff_matvec forward, float32: the correct implementation “trueness”")
    (alive,) = problems_of(Run("kernels.rff_matvec", "forward", "float32", "ATLAS-01", "mutant", 1.4))
    assert alive.endswith("“ATLAS-01” was never killed (T = 1.4, limit 1.5).")


@pytest.mark.parametrize("mistake", calibration_ledger.PLANTED)
def test_a_planted_mistake_changes_the_gradient_that_is_named_alone(mistake: str) -> None:
    right = [normal(3, 2, seed=1), normal(4, seed=2)]
    wrong = calibration_ledger.PLANTED[mistake](right, 1)
    assert np.array_equal(wrong[0], right[0]) and not np.array_equal(wrong[1], right[1])


# -- the page -------------------------------------------------------------------------------------------------------


def test_the_page_holds_every_number_that_was_measured(quick: Calibration) -> None:
    lines = render(quick).splitlines()
    for s in quick.correct:
        assert any(f"| {s.variant} | {s.kind} |" in line and number(s.worst) in line for line in lines), s
    for s in quick.mutants:
        cell = f"{percent(s.rejected)} % ({number(s.worst)})"
        assert any(line.startswith(f"| {s.variant} |") and cell in line for line in lines), s
    for a in quick.acceptance():
        cells = f"| {a.limit:g} | {percent(a.fused)} | {percent(a.correct)} | {percent(a.mutants)} |"
        assert any(cells in line for line in lines), a
    for choice in CHOICES:
        assert any(f"| {choice} |" in line for line in lines), choice


def test_the_page_says_what_wrote_it_and_how_it_ended(quick: Calibration) -> None:
    text = render(quick)
    assert "`trueness calibrate --write docs/calibration.md`" in text
    assert f"Profile `quick`: {quick.cases} seeded cases" in text
    assert "**Passed**" in text
    assert f"torch {torch.__version__}" in text


def test_the_page_of_a_failure_lists_its_problems(fisher: Subject) -> None:
    bad = Variant("sabotaged", "fused", lambda s, a: 1.02 * truth(s, a))
    found = calibrate("quick", tried=[only(fisher, bad)], invisible={})
    text = render(found)
    assert "**Failed:**" in text and "**Passed**" not in text
    assert all(f"- {problem}" in text for problem in found.problems)


@pytest.mark.parametrize(
    ("share", "shown"), [(0.0, "0"), (1.0, "100"), (1e-6, "< 0.1"), (1 - 1e-6, "> 99.9"), (0.125, "12.5")]
)
def test_a_share_is_never_rounded_to_all_or_nothing(share: float, shown: str) -> None:
    assert percent(share) == shown
