"""Laws of losses and perplexities of language models, and of the needle in a haystack."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from trueness.optimized import metrics as fast
from trueness.properties._lib.within import F64
from trueness.properties.metrics.laws import assert_law, both, bound, flat, given, ours, seeds
from trueness.reference import metrics as true
from trueness.tools.arithmetic.bounds import LIMITS

IGNORED = -100


# -- language models --------------------------------------------------------------------------------------------------


def text(seed: int, rows: int, length: int, vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, vocabulary, (rows, length))
    ignored = generator.random(labels.shape) < 0.3
    ignored[0, 0] = False
    return generator.standard_normal((rows, length, vocabulary)), np.where(ignored, IGNORED, labels)


@both("perplexity")
@given(vocabulary=st.integers(1, 60), level=st.floats(-30, 30), seed=seeds)
def test_a_uniform_guess_has_the_vocabulary_for_its_perplexity(
    function: Any, vocabulary: int, level: float, seed: int
) -> None:
    _, labels = text(seed, 2, 3, vocabulary)
    logits = np.full((2, 3, vocabulary), level)
    assert_law(vocabulary, function(logits, labels, IGNORED), flat.perplexity, logits, labels, IGNORED)


@both("perplexity")
@given(seed=seeds, vocabulary=st.integers(2, 9))
def test_perplexity_lies_between_one_and_what_the_worst_token_gives(function: Any, seed: int, vocabulary: int) -> None:
    logits, labels = text(seed, 2, 3, vocabulary)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    each = np.take_along_axis(log_p, np.maximum(labels, 0)[..., None], -1)[..., 0][labels != IGNORED]
    found = function(logits, labels, IGNORED)
    slack = LIMITS["eager"] * bound(flat.perplexity, logits, labels, IGNORED).B
    assert 1 - slack <= np.exp(-each.max()) - slack <= found <= np.exp(-each.min()) + slack


@both("perplexity")
@given(seed=seeds)
def test_a_constant_added_to_all_scores_changes_nothing(function: Any, seed: int) -> None:
    logits, labels = text(seed, 2, 3, 5)
    shift = np.random.default_rng([seed, 1]).standard_normal((2, 3, 1))

    def law(logits: Any, shift: Any) -> Any:
        return true.perplexity(logits + shift, labels)

    assert_law(function(logits, labels, IGNORED), function(logits + shift, labels, IGNORED), law, logits, shift)


@both("token_losses")
@given(seed=seeds, rows=st.integers(1, 4), length=st.integers(1, 5), width=st.integers(0, 3))
def test_ignored_labels_add_nothing_whatever_their_scores_are(
    function: Any, seed: int, rows: int, length: int, width: int
) -> None:
    logits, labels = text(seed, rows, length, 5)
    wide = np.pad(logits, ((0, 0), (0, width), (0, 0)), constant_values=np.nan)
    more = np.pad(labels, ((0, 0), (0, width)), constant_values=IGNORED)
    (total, count), (padded, same) = function(logits, labels, IGNORED), function(wide, more, IGNORED)
    assert count == same == (labels != IGNORED).sum()
    assert_law(total, padded, lambda logits: true.token_losses(logits, labels)[0], logits)


@both("corpus_perplexity")
@given(seed=seeds, parts=st.integers(1, 5))
def test_a_corpus_has_the_perplexity_of_its_tokens_however_it_is_cut(function: Any, seed: int, parts: int) -> None:
    logits, labels = text(seed, 6, 4, 5)
    cuts = np.sort(np.random.default_rng(seed).integers(0, 7, parts - 1))
    batches = [true.token_losses(z, w) for z, w in zip(np.split(logits, cuts), np.split(labels, cuts), strict=True)]
    losses, tokens = np.array([s for s, _ in batches]), np.array([n for _, n in batches])
    whole = true.perplexity(logits, labels)
    assert_law(whole, function(losses, tokens), flat.perplexity, logits, labels, IGNORED)


@both("perplexity")
def test_weights_of_tokens_are_not_weights_of_sequences(function: Any) -> None:
    logits = np.zeros((2, 4, 4))
    logits[1] = [9.0, 0.0, 0.0, 0.0]
    labels = np.array([[0, 1, 2, 3], [1, IGNORED, IGNORED, IGNORED]])
    found = np.log(function(logits, labels, IGNORED))
    rows = [np.log(function(z[None], w[None], IGNORED)) for z, w in zip(logits, labels, strict=True)]
    by_tokens, by_sequences = (4 * rows[0] + rows[1]) / 5, (rows[0] + rows[1]) / 2
    assert abs(found - by_tokens) <= 16 * F64.u * by_tokens
    assert abs(found - by_sequences) > 1


@pytest.mark.parametrize("name", ["cross_entropy", "perplexity"])
def test_where_nothing_counts_there_is_no_mean_and_the_sum_is_zero(name: str) -> None:
    logits, labels = np.zeros((2, 3, 4)), np.full((2, 3), IGNORED)
    with np.errstate(invalid="ignore"):
        for function in (getattr(flat, name), ours(name)):
            assert np.isnan(function(logits, labels, IGNORED))
        assert all(f(logits, labels, IGNORED) == (0, 0) for f in (flat.token_losses, ours("token_losses")))
        nothing = np.zeros(1), np.zeros(1, np.int64)
        assert all(np.isnan(f(*nothing)) for f in (true.corpus_perplexity, ours("corpus_perplexity")))
        beside = np.array([3.0, 0.0]), np.array([2, 0])
        assert all(f(*beside) == np.exp(1.5) for f in (true.corpus_perplexity, ours("corpus_perplexity")))


def test_a_batch_of_padding_leaves_no_trace_in_the_gradient() -> None:
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    total, count = fast.token_losses(logits, torch.full((2, 3), IGNORED))
    total.backward()  # type: ignore[no-untyped-call]
    assert int(count) == 0 and logits.grad is not None and not logits.grad.any()


# -- needle in a haystack ---------------------------------------------------------------------------------------------


@both("needle_score")
@given(seed=seeds, places=st.integers(1, 4), vocabulary=st.integers(1, 7))
def test_ranks_are_a_permutation_and_follow_the_log_likelihood(
    function: Any, seed: int, places: int, vocabulary: int
) -> None:
    generator = np.random.default_rng(seed)
    logits = np.repeat(generator.standard_normal((1, places, vocabulary)), vocabulary, 0)
    position = np.full(vocabulary, generator.integers(0, places))
    log_p, rank = function(logits, position, np.arange(vocabulary))
    assert sorted(rank) == list(range(1, vocabulary + 1))
    assert (np.argsort(rank) == np.argsort(-log_p)).all() and rank.dtype == np.int64
    assert_law(
        1,
        np.exp(log_p).sum(),
        lambda z: np.sum(np.exp(true.needle_score(z, position, np.arange(vocabulary))[0])),
        logits,
    )


@both("needle_score")
@given(seed=seeds)
def test_only_the_scores_at_the_needle_matter(function: Any, seed: int) -> None:
    generator = np.random.default_rng(seed)
    logits, position, answer = generator.standard_normal((2, 3, 5)), np.array([0, 2]), np.array([1, 4])
    other = np.where((np.arange(3) == position[:, None])[:, :, None], logits, 7.0)
    assert all(
        np.array_equal(a, b)
        for a, b in zip(function(logits, position, answer), function(other, position, answer), strict=True)
    )


@both("needle_prompt")
@given(
    haystack=st.integers(0, 20),
    needle=st.integers(1, 4),
    question=st.integers(0, 3),
    spare=st.integers(0, 20),
    depth=st.integers(0, 100),
)
def test_the_needle_and_the_question_are_always_whole(
    function: Any, haystack: int, needle: int, question: int, spare: int, depth: int
) -> None:
    parts = np.arange(haystack), np.arange(needle) + 100, np.arange(question) + 200
    prompt, start = function(*parts, needle + question + spare, depth)
    assert len(prompt) == min(haystack, spare) + needle + question
    assert prompt[start : start + needle].tolist() == parts[1].tolist()
    assert prompt[len(prompt) - question :].tolist() == parts[2].tolist()
    rest = np.delete(prompt, [*range(start, start + needle), *range(len(prompt) - question, len(prompt))])
    assert rest.tolist() == list(range(min(haystack, spare))), "the haystack is in order and cut at its end alone"
    assert start == {0: 0, 100: len(rest)}.get(depth, start)


@given(haystack=st.integers(0, 20), depths=st.lists(st.integers(0, 100), min_size=2, max_size=5).map(sorted))
def test_a_deeper_needle_lies_deeper(haystack: int, depths: list[int]) -> None:
    parts = np.arange(haystack), np.array([100]), np.array([200])
    starts = [int(true.needle_prompt(*parts, length=15, depth=d)[1]) for d in depths]
    assert starts == sorted(starts)


# -- validation --------------------------------------------------------------------------------------------------

LOGITS, LABELS = torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64)
MEAN, SIGMA = torch.zeros(2), torch.eye(2)
PARTS = torch.arange(4), torch.arange(2), torch.arange(1)


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: fast.mean_and_covariance(torch.zeros(1, 3)), r"features had shape \(1, 3\); it must be \(N, d\)"),
        (lambda: fast.mean_and_covariance(torch.zeros(4, 3).long()), "features had dtype torch.int64"),
        (lambda: fast.frechet_distance(MEAN, SIGMA, MEAN[:1], SIGMA), r"mean_2 had shape \(1,\); it must be \(2,\)"),
        (lambda: fast.frechet_distance(MEAN, SIGMA[:1], MEAN, SIGMA), r"covariance_1 had shape \(1, 2\)"),
        (lambda: fast.frechet_distance(SIGMA, SIGMA, MEAN, SIGMA), r"mean_1 had shape \(2, 2\); it must be \(d,\)"),
        (
            lambda: fast.perplexity(LOGITS, LABELS + 4),
            "labels held 4; it must lie in 0 … 3, or -100",
        ),
        (
            lambda: fast.perplexity(LOGITS, LABELS - 1),
            "labels held -1; it must lie in 0 … 3, or -100",
        ),
        (
            lambda: fast.cross_entropy(LOGITS, LABELS[:1]),
            r"labels had shape \(1, 3\); it must be \(2, 3\)",
        ),
        (lambda: fast.cross_entropy(LOGITS, LABELS.float()), "labels had dtype torch.float32"),
        (lambda: fast.token_losses(LOGITS, LABELS, ignore_index=None), "ignore_index was None"),  # type: ignore[arg-type]
        (lambda: fast.corpus_perplexity(MEAN, torch.ones(3).long()), r"losses had shape \(2,\); it must be \(3,\)"),
        (lambda: fast.corpus_perplexity(MEAN, torch.tensor([1, -1])), "tokens held -1"),
        (lambda: fast.needle_score(LOGITS, LABELS[:, 0] + 3, LABELS[:, 0]), "position held 3; it must lie in 0 … 2"),
        (lambda: fast.needle_score(LOGITS, LABELS[:, 0], LABELS[:, 0] + 4), "answer held 4; it must lie in 0 … 3"),
        (lambda: fast.needle_prompt(*PARTS, length=2, depth=50), "length was 2; it must be an integer at least 3"),
        (lambda: fast.needle_prompt(*PARTS, length=9, depth=101), "depth was 101; it must be an integer from 0 to 100"),
        (lambda: fast.needle_prompt(PARTS[0], PARTS[1][:0], PARTS[2], length=9, depth=5), "needle was empty"),
    ],
)
def test_what_cannot_be_is_refused_by_name(call: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()
