"""Evidence for MEM-30, MEM-33 … MEM-35, DIFFIT-09 and DIFFIT-15: what a number says, and what it hides."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from trueness.optimized import metrics as fast
from trueness.properties.metrics.laws import bound, flat
from trueness.reference import metrics as true
from trueness.regressions import metrics as wrong
from trueness.tools.arithmetic.bounds import LIMITS


def same(left: Any, right: Any, function: Any, *arguments: Any) -> bool:
    """Whether two numbers differ by no more than rounding does to ``function(*arguments)``."""
    allowed = LIMITS["eager"] * bound(function, *arguments).B
    return bool((np.abs(np.asarray(left) - right) <= allowed).all())


# -- perplexity -------------------------------------------------------------------------------------------------------


def test_a_capped_perplexity_cannot_tell_bad_from_hopeless_MEM_30() -> None:
    def sure_of(score: float) -> tuple[Any, Any, int]:
        return np.array([[[score, 0.0]]]), np.array([[1]]), -100

    capped, plain = ([f(*sure_of(s)) for s in (11.0, 16.0, 40.0)] for f in (wrong.clamped, flat.perplexity))
    assert [f"{p:.2f}" for p in capped] == ["22026.47"] * 3
    assert all(b > 100 * a for a, b in pairwise(plain))
    uniform = np.zeros((1, 1, 50257)), np.array([[1]]), -100
    assert wrong.clamped(*uniform) < 22027 < round(float(flat.perplexity(*uniform))) == 50257


def halves(logits: np.ndarray, labels: np.ndarray, width: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """One long text as rows of ``width`` tokens, the last row padded with ignored labels."""
    rows = []
    for start in range(0, len(labels), width):
        z, w = logits[start : start + width], labels[start : start + width]
        short = width - len(w)
        rows.append((np.pad(z, ((0, short), (0, 0))), np.pad(w, (0, short), constant_values=-100)))
    return rows


def test_weighting_by_sequences_depends_on_how_a_text_is_cut_MEM_33a() -> None:
    generator = np.random.default_rng(0)
    logits, labels = generator.standard_normal((10, 7)), generator.integers(0, 7, 10)
    right, by_sequence = [], []
    for width in (10, 9, 4, 3):
        z, w = (np.stack(x) for x in zip(*halves(logits, labels, width), strict=True))
        right.append(float(true.perplexity(z, w)))
        by_sequence.append(float(wrong.by_sequence(z, w, -100)))
    assert all(same(p, right[0], flat.perplexity, logits, labels, -100) for p in right)
    assert len({round(p, 3) for p in by_sequence}) == len(by_sequence)


def test_the_last_small_batch_counts_as_much_as_a_full_one_MEM_33b() -> None:
    losses, tokens = np.array([3.0 * 1000, 9.0]), np.array([1000, 1])
    assert f"{np.log(wrong.by_batch(losses, tokens)):.3f}" == "6.000"
    assert f"{np.log(true.corpus_perplexity(losses, tokens)):.3f}" == "3.006"
    want = true.corpus_perplexity(losses, tokens)
    found = fast.corpus_perplexity(torch.from_numpy(losses), torch.from_numpy(tokens))
    assert same(found, want, true.corpus_perplexity, losses, tokens)


def test_the_mean_of_perplexities_is_never_smaller_MEM_33c() -> None:
    """Jensen, where all batches have the same number of tokens."""
    generator = np.random.default_rng(0)
    for _ in range(100):
        losses, tokens = generator.random(5) * 20, np.full(5, 4)
        gap = wrong.mean_of_perplexities(losses, tokens) - true.corpus_perplexity(losses, tokens)
        assert gap > 0
    losses, tokens = np.array([4.0, 4.0, 4.0, 40.0]), np.full(4, 4)
    assert wrong.mean_of_perplexities(losses, tokens) > 100 * true.corpus_perplexity(losses, tokens)


# -- needle -----------------------------------------------------------------------------------------------------------


def test_a_model_that_is_sure_of_a_wrong_answer_scores_best_MEM_34a() -> None:
    sure, place, answer = np.array([[[40.0, 0.0, 0.0]]]), np.array([0]), np.array([2])
    assert np.exp(wrong.of_the_likeliest(sure, place, answer)[0][0]) == 1
    log_p, rank = true.needle_score(sure, place, answer)
    assert f"{log_p[0]:.6f}" == "-40.000000" and rank[0] == 3


def test_the_needle_and_the_question_are_cut_off_MEM_34b() -> None:
    haystack, needle, question, length, depth = wrong.PROMPT
    cut, start = wrong.cut_off(haystack, needle, question, length, depth)
    assert not np.isin([*needle, *question], cut).any() and start >= len(cut), "there is nothing to find"
    prompt, at = true.needle_prompt(haystack, needle, question, length=length, depth=depth)
    assert len(prompt) == length and prompt[at : at + 2].tolist() == needle.tolist() and prompt[-1] == 200
    with pytest.raises(ValueError, match="needle and question are 3 tokens, and are not cut"):
        fast.needle_prompt(*(torch.from_numpy(x) for x in (haystack, needle, question)), length=2, depth=depth)


def test_a_needle_outside_of_the_context_is_an_error_and_not_a_score_MEM_34c() -> None:
    logits = torch.from_numpy(wrong.NEEDLE)
    inside = torch.zeros(2, dtype=torch.int64)
    for outside in (2, -1):
        with pytest.raises(ValueError, match=f"position held {outside}; it must lie in 0 … 1: the needle"):
            fast.needle_score(logits, torch.tensor([0, outside]), inside)
    log_p, _ = true.needle_score(wrong.NEEDLE, wrong.PLACES, wrong.ANSWERS)
    last, _ = wrong.at_the_end(wrong.NEEDLE, wrong.PLACES, wrong.ANSWERS)
    assert (np.abs(log_p - last) > 0.5).all()


def test_a_model_that_knows_nothing_ranks_first_when_ties_count_for_it_MEM_34d() -> None:
    nothing = np.zeros((1, 1, 1000)), np.array([0]), np.array([123])
    assert wrong.ties_flatter(*nothing)[1][0] == 1 and true.needle_score(*nothing)[1][0] == 1000
    broken = np.full((1, 1, 1000), np.nan), np.array([0]), np.array([123])
    assert wrong.ties_flatter(*broken)[1][0] == 1 and true.needle_score(*broken)[1][0] == 1000


def test_ten_times_as_many_items_leave_the_capacity_where_it_was_MEM_35() -> None:
    """A memory that answers every question with probability one half, asked about 8 items and about 80."""
    logits, labels = np.zeros((1, 8, 2)), np.zeros((1, 8), np.int64)
    few = wrong.capacity(logits, labels, -100)
    many = wrong.capacity(np.tile(logits, (10, 1, 1)), np.tile(labels, (10, 1)), -100)
    assert same(few, many, flat.cross_entropy, logits, labels, -100)
    assert few == -true.cross_entropy(logits, labels) and f"{few:.6f}" == f"{-np.log(2):.6f}" and few < 0


# -- FID --------------------------------------------------------------------------------------------------------------


def bias(d: int, n: int) -> float:
    """E[d²] of n standard normal samples against their own distribution, to second order in 1/n.

    |μ̂|² gives d/n. With Σ̂ = I + E, tr(I + Σ̂ − 2 Σ̂^½) = tr E²/4 + O(E³), and E tr E² = d (d + 1)/(n − 1) (Wishart).
    """
    return d / n + d * (d + 1) / (4 * (n - 1))


def estimates(d: int, n: int, runs: int) -> np.ndarray:
    """Fréchet distance of ``runs`` sets of n samples to the distribution they are drawn from."""
    generator = torch.Generator().manual_seed(n)
    zero, one = torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64)
    sets = (torch.randn(n, d, generator=generator, dtype=torch.float64) for _ in range(runs))
    return np.array([float(fast.frechet_distance(*fast.mean_and_covariance(x), zero, one)) for x in sets])


def test_fid_is_biased_upwards_and_five_times_as_much_at_a_fifth_of_the_samples_DIFFIT_09a(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The third order is bounded by what E³ gives: d (d + 1)²/n² is left for it beside five standard errors."""
    d, runs, found = 8, 60, {}
    for n in (1000, 5000):
        samples = estimates(d, n, runs)
        error = samples.std(ddof=1) / np.sqrt(runs)
        found[n] = samples.mean(), error
        assert abs(samples.mean() - bias(d, n)) < 5 * error + d * (d + 1) ** 2 / n**2
        assert samples.mean() > 5 * error, "upwards, although nothing is wrong with the samples"
    ratio = found[1000][0] / found[5000][0]
    spread = ratio * np.hypot(*(e / m for m, e in found.values()))
    with capsys.disabled():
        print(f"\n  truth against itself, d = {d}: {found[1000][0]:.4f} with 1000 samples, ", end="")
        print(f"{found[5000][0]:.4f} with 5000: {ratio:.2f} times as much")
    assert abs(ratio - 5) < 5 * spread
    assert f"{bias(2048, 10_000) - bias(2048, 50_000):.0f}" == "84", "for 2048 features, all alike"


def test_dividing_by_n_shrinks_every_covariance_DIFFIT_09b() -> None:
    """E Σ̂ = (N − 1)/N Σ: measured for N = 2, where it is half."""
    generator, runs = np.random.default_rng(0), 4000
    pairs = generator.standard_normal((runs, 2, 1))
    unbiased, biased = (np.array([f(x)[1][0, 0] for x in pairs]) for f in (true.mean_and_covariance, wrong.biased))
    deviation = np.sqrt(2 / runs)  # the variance of (x₁ − x₂)²/2, which is χ² of one degree of freedom, is 2
    assert abs(unbiased.mean() - 1) < 5 * deviation and abs(biased.mean() - 0.5) < 2.5 * deviation


def test_variances_alone_do_not_see_a_correlation_DIFFIT_09c() -> None:
    zero, one, turned = np.zeros(2), np.array([[1.0, 0.9], [0.9, 1.0]]), np.array([[1.0, -0.9], [-0.9, 1.0]])
    assert wrong.diagonal_only(zero, one, zero, turned) == 0 < 1 < true.frechet_distance(zero, one, zero, turned)


def test_covariances_of_one_and_zero_do_not_see_the_missing_root_DIFFIT_09d() -> None:
    zero = np.zeros(2)
    blind = zero, np.diag([1.0, 0.0]), zero, np.diag([1.0, 1.0])
    assert same(wrong.without_a_root(*blind), true.frechet_distance(*blind), true.frechet_distance, *blind)
    twice = zero, 2 * np.eye(2), zero, 2 * np.eye(2)
    assert wrong.without_a_root(*twice) < -7, "no distance is negative"


def test_a_perfect_generator_has_another_fid_at_another_sample_size_DIFFIT_15(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """So that 1.95, 2.22 and 1.73 say nothing without N: N alone moves the number by more than they differ."""
    d, runs = 32, 8
    means = {n: estimates(d, n, runs) for n in (100, 400, 1600)}
    with capsys.disabled():
        print("\n  truth against itself:", ", ".join(f"{m.mean():.3f} with {n}" for n, m in means.items()))
    for few, many in pairwise(means.values()):
        assert few.min() > many.max(), "every estimate of fewer samples is above every one of more"
    targets = {"CIFAR-10": 1.95, "FFHQ-64": 2.22, "ImageNet-256": 1.73}
    assert means[100].mean() - means[400].mean() > max(targets.values()) - min(targets.values())
    exact = estimates(2, 100_000, 1)[0]
    assert 0 <= exact < 10 * bias(2, 100_000), "with many samples of few dimensions little is left of it"
