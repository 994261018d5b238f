"""Laws of the family metrics, on the reference and on the optimized version, and what independent oracles say."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from trueness.optimized import metrics as fast
from trueness.properties._lib import laws
from trueness.properties._lib.laws import F64
from trueness.properties.metrics import FORMULAS
from trueness.reference import metrics as true
from trueness.tools.arithmetic.bounds import LIMITS

DIGITS = 40
IGNORED = -100
VERSIONS = laws.Versions(true, fast, FORMULAS)
flat, ours, both = VERSIONS.reference, VERSIONS.ours, VERSIONS.both
given = partial(laws.given, 20)
bound, assert_within = partial(laws.bound, reduction=64), partial(laws.assert_within, reduction=64)
seeds = st.integers(0, 2**16)
sizes = st.integers(1, 5)


def covariance(generator: np.random.Generator, d: int, rank: int) -> np.ndarray:
    factor = generator.standard_normal((d, rank))
    return factor @ factor.T


def rotation(generator: np.random.Generator, d: int) -> np.ndarray:
    return np.linalg.qr(generator.standard_normal((d, d)))[0]


def gaussians(seed: int, d: int, rank: int | None = None) -> tuple[np.ndarray, ...]:
    generator = np.random.default_rng(seed)
    ranks = [rank or d, rank or d + 1]
    pairs = [(generator.standard_normal(d), covariance(generator, d, r)) for r in ranks]
    return (*pairs[0], *pairs[1])


# -- Fréchet distance -------------------------------------------------------------------------------------------------


@both("frechet_distance")
@given(seed=seeds, d=sizes, rank=sizes)
def test_nothing_is_apart_from_itself(function: Any, seed: int, d: int, rank: int) -> None:
    """σ_i(Σ^½ Σ^½) sums to tr Σ: what is left is d roundings of the norm on either side, and √d of the sums."""
    mean, sigma, _, _ = gaussians(seed, d, min(rank, d))
    left = function(mean, sigma, mean, sigma)
    assert 0 <= left <= 8 * d**2 * F64.u * np.trace(sigma)


@both("frechet_distance")
@given(seed=seeds, d=sizes)
def test_the_distance_is_symmetric_and_never_negative(function: Any, seed: int, d: int) -> None:
    m1, s1, m2, s2 = gaussians(seed, d)
    there, back = function(m1, s1, m2, s2), function(m2, s2, m1, s1)
    assert there >= 0
    assert_within(there, back, true.frechet_distance, m1, s1, m2, s2)


@both("frechet_distance")
@given(seed=seeds, d=sizes)
def test_a_common_rotation_changes_nothing(function: Any, seed: int, d: int) -> None:
    m1, s1, m2, s2 = gaussians(seed, d)
    q = rotation(np.random.default_rng([seed, 1]), d)

    def law(m1: Any, s1: Any, m2: Any, s2: Any, q: Any) -> Any:
        return true.frechet_distance(q @ m1, q @ s1 @ q.T, q @ m2, q @ s2 @ q.T)

    turned = function(q @ m1, q @ s1 @ q.T, q @ m2, q @ s2 @ q.T)
    assert_within(function(m1, s1, m2, s2), turned, law, m1, s1, m2, s2, q)


@both("frechet_distance")
@given(seed=seeds, d=sizes)
def test_a_common_shift_changes_nothing_and_one_of_a_mean_adds_its_square(function: Any, seed: int, d: int) -> None:
    m1, s1, m2, s2 = gaussians(seed, d)
    zero, shift = np.zeros(d), np.random.default_rng([seed, 1]).standard_normal(d)
    at_home = function(zero, s1, zero, s2)
    assert_within(at_home + np.sum(shift**2), function(shift, s1, zero, s2), true.frechet_distance, shift, s1, zero, s2)
    away = function(m1 + shift, s1, m2 + shift, s2)

    def law(m1: Any, s1: Any, m2: Any, s2: Any, shift: Any) -> Any:
        return true.frechet_distance(m1 + shift, s1, m2 + shift, s2)

    assert_within(function(m1, s1, m2, s2), away, law, m1, s1, m2, s2, shift)


@both("frechet_distance")
@given(seed=seeds, scale=st.floats(0.1, 10))
def test_the_distance_is_of_second_degree_in_the_unit(function: Any, seed: int, scale: float) -> None:
    m1, s1, m2, s2 = gaussians(seed, 3)

    def law(m1: Any, s1: Any, m2: Any, s2: Any, scale: Any) -> Any:
        return true.frechet_distance(scale * m1, scale**2 * s1, scale * m2, scale**2 * s2)

    scaled = function(scale * m1, scale**2 * s1, scale * m2, scale**2 * s2)
    assert_within(scale**2 * function(m1, s1, m2, s2), scaled, law, m1, s1, m2, s2, scale)


@both("frechet_distance")
@given(m=st.tuples(st.floats(-9, 9), st.floats(-9, 9)), s=st.tuples(st.floats(0, 9), st.floats(0, 9)))
def test_in_one_dimension_it_is_the_closed_form(function: Any, m: Any, s: Any) -> None:
    """(μ₁ − μ₂)² + (σ₁ − σ₂)²"""
    (m1, m2), (s1, s2) = (np.array([[x] for x in pair]) for pair in (m, s))
    arguments = m1, s1[:, None] ** 2, m2, s2[:, None] ** 2
    assert_within((m[0] - m[1]) ** 2 + (s[0] - s[1]) ** 2, function(*arguments), true.frechet_distance, *arguments)


@both("frechet_distance")
@given(seed=seeds, d=sizes)
def test_covariances_that_commute_have_the_closed_form(function: Any, seed: int, d: int) -> None:
    """Σ_i (√λ_i − √κ_i)² for common eigenvectors; a third of the eigenvalues are 0."""
    generator = np.random.default_rng(seed)
    q, zero = rotation(generator, d), np.zeros(d)
    values = generator.random((2, d)) * (generator.random((2, d)) > 1 / 3)

    def law(values: Any, q: Any) -> Any:
        return true.frechet_distance(zero, q * values[0] @ q.T, zero, q * values[1] @ q.T)

    found = function(zero, q * values[0] @ q.T, zero, q * values[1] @ q.T)
    assert_within(np.sum((np.sqrt(values[0]) - np.sqrt(values[1])) ** 2), found, law, values, q)


@both("frechet_distance")
@given(seed=seeds, d=st.integers(2, 6), rank=st.integers(1, 3))
def test_singular_covariances_have_a_finite_distance(function: Any, seed: int, d: int, rank: int) -> None:
    """Also of supports at right angles, where nothing is common: d² = tr Σ₁ + tr Σ₂."""
    arguments = gaussians(seed, d, min(rank, d - 1))
    assert np.isfinite(function(*arguments))
    apart = np.diag(np.arange(d) == 0).astype(float), np.diag(np.arange(d) == 1).astype(float)
    zero = np.zeros(d)
    assert function(zero, apart[0], zero, apart[1]) == 2
    assert function(zero, 0 * apart[0], zero, 0 * apart[1]) == 0


def forty_digits(m1: Any, s1: Any, m2: Any, s2: Any) -> float:
    """The paper's line, the roots by mpmath's own eigenvectors with forty digits."""
    with mpmath.workdps(DIGITS):

        def root(a: Any) -> Any:
            values, vectors = mpmath.eigsy(a)
            return vectors * mpmath.diag([mpmath.sqrt(max(x, 0)) for x in values]) * vectors.T

        one, two = mpmath.matrix(s1.tolist()), mpmath.matrix(s2.tolist())
        inner = root(one) * two * root(one)
        common = sum(mpmath.sqrt(max(x, 0)) for x in mpmath.eigsy((inner + inner.T) / 2, eigvals_only=True))
        apart = sum((mpmath.mpf(float(a)) - mpmath.mpf(float(b))) ** 2 for a, b in zip(m1, m2, strict=True))
        traces = sum(one[i, i] + two[i, i] for i in range(len(m1)))
        return float(apart + traces - 2 * common)


@both("frechet_distance")
@given(seed=seeds, d=st.integers(1, 4), singular=st.booleans())
def test_the_distance_is_its_forty_digit_value(function: Any, seed: int, d: int, singular: bool) -> None:
    """Of singular covariances with integers in them, so that they are singular exactly."""
    generator = np.random.default_rng(seed)
    rank = max(1, d - 1) if singular else d + 1
    factors = generator.integers(-3, 4, (2, d, rank)).astype(float)
    m1, m2 = generator.standard_normal((2, d))
    arguments = m1, factors[0] @ factors[0].T, m2, factors[1] @ factors[1].T
    assert_within(forty_digits(*arguments), function(*arguments), true.frechet_distance, *arguments)


def test_a_root_of_the_product_loses_half_of_the_digits_where_ours_does_not() -> None:
    """scipy.linalg.sqrtm(Σ₁Σ₂) of a covariance with itself, singular: the distance is 0."""
    linalg = pytest.importorskip("scipy.linalg")
    factor = np.random.default_rng(0).standard_normal((16, 4))
    sigma, zero = factor @ factor.T, np.zeros(16)
    root = np.asarray(linalg.sqrtm(sigma @ sigma)).real
    theirs = abs(2 * np.trace(sigma) - 2 * np.trace(root))
    mine = max(float(f(zero, sigma, zero, sigma)) for f in (true.frechet_distance, ours("frechet_distance")))
    assert mine <= 8 * 16**2 * F64.u * np.trace(sigma)
    assert theirs > 100 * mine


@pytest.mark.filterwarnings("ignore")
def test_a_root_of_a_singular_product_may_be_nan_in_scipy_where_ours_is_its_forty_digit_value() -> None:
    """Why the oracle in __init__.py first goes to the common support; FID code adds 10⁻⁶ to the diagonal."""
    linalg = pytest.importorskip("scipy.linalg")
    one = np.array([[0.0, 0.0, 0.0], [0.0, 1.0, -2.0], [0.0, -2.0, 4.0]])
    two = np.array([[13.0, 0.0, -6.0], [0.0, 13.0, 6.0], [-6.0, 6.0, 10.0]])
    assert np.isnan(linalg.sqrtm(one @ two)).any()
    arguments = np.zeros(3), one, np.zeros(3), two
    for function in (true.frechet_distance, ours("frechet_distance")):
        assert_within(forty_digits(*arguments), function(*arguments), true.frechet_distance, *arguments)


@both("frechet_distance")
@given(seed=seeds, at=st.sampled_from((1, 3)), value=st.sampled_from((np.nan, np.inf, -np.inf)))
def test_a_covariance_that_is_not_finite_gives_nan(function: Any, seed: int, at: int, value: float) -> None:
    arguments = [np.array(a) for a in gaussians(seed, 3)]
    arguments[at][1, 2] = value
    with np.errstate(all="ignore"):
        assert np.isnan(function(*arguments))


@both("mean_and_covariance")
@given(seed=seeds, d=sizes, n=st.integers(2, 9))
def test_a_covariance_is_that_of_differences_and_does_not_see_a_shift(function: Any, seed: int, d: int, n: int) -> None:
    """Σ = Σ_ij (x_i − x_j)(x_i − x_j)ᵀ / (2 N (N − 1)): no mean is needed."""
    x = np.random.default_rng(seed).standard_normal((n, d))
    differences = (x[:, None] - x[None]).reshape(-1, d)
    mean, sigma = function(x)

    def law(x: Any) -> Any:
        away = x[:, None] - x[None]
        flat = away.reshape(n * n, d)
        return flat.T @ flat / (2 * n * (n - 1))

    assert_within(differences.T @ differences / (2 * n * (n - 1)), sigma, law, x)
    assert np.array_equal(sigma, sigma.T)
    assert_within(np.mean(x, 0), mean, lambda x: np.sum(x, axis=0) / n, x)


def test_the_estimate_is_biased_upwards_for_few_samples() -> None:
    """E d² ≈ d/N + d (d + 1)/(4 (N − 1)) of N standard normals against the truth, within five standard errors.

    What the expansion leaves out is of the order d (d + 1)²/N².
    """
    d, runs, generator = 4, 100, np.random.default_rng(0)
    zero, one = np.zeros(d), np.eye(d)
    for n in (100, 1000):
        found = [
            float(true.frechet_distance(*true.mean_and_covariance(generator.standard_normal((n, d))), zero, one))
            for _ in range(runs)
        ]
        error = np.std(found, ddof=1) / math.sqrt(runs)
        assert np.mean(found) > 5 * error
        assert abs(np.mean(found) - d / n - d * (d + 1) / (4 * (n - 1))) < 5 * error + d * (d + 1) ** 2 / n**2


def test_torchmetrics_takes_the_same_distance_of_the_same_features() -> None:
    """Its whole metric, with the identity in place of Inception: sums of squares, then its own kernel."""
    fid = pytest.importorskip("torchmetrics.image.fid")

    class Identity(torch.nn.Module):
        num_features = 3

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1).double()  # of integers the metric would make its distance an integer, too

    metric = fid.FrechetInceptionDistance(feature=Identity(), normalize=False, input_img_size=(3, 1, 1))
    metric.set_dtype(torch.float64)
    generator = torch.Generator().manual_seed(0)
    sets = [torch.randint(0, 256, (40, 3, 1, 1), generator=generator, dtype=torch.uint8) for _ in range(2)]
    for real, pictures in zip((True, False), sets, strict=True):
        metric.update(pictures, real=real)
    features = [x.flatten(1).double() for x in sets]
    arguments = [a for x in features for a in fast.mean_and_covariance(x)]
    want = float(fast.frechet_distance(*arguments))
    plain = [a.numpy() for a in arguments]
    moments = 40 * 255**2 / 39  # Σ x² − N μ² cancels: their covariance carries the roundings of its terms
    slack = 40 * F64.u * moments * 2 * 3
    assert (
        abs(float(metric.compute()) - want) <= LIMITS["eager"] * float(bound(true.frechet_distance, *plain).B) + slack
    )


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
    assert_within(vocabulary, function(logits, labels, IGNORED), flat.perplexity, logits, labels, IGNORED)


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

    assert_within(function(logits, labels, IGNORED), function(logits + shift, labels, IGNORED), law, logits, shift)


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
    assert_within(total, padded, lambda logits: true.token_losses(logits, labels)[0], logits)


@both("corpus_perplexity")
@given(seed=seeds, parts=st.integers(1, 5))
def test_a_corpus_has_the_perplexity_of_its_tokens_however_it_is_cut(function: Any, seed: int, parts: int) -> None:
    logits, labels = text(seed, 6, 4, 5)
    cuts = np.sort(np.random.default_rng(seed).integers(0, 7, parts - 1))
    batches = [true.token_losses(z, w) for z, w in zip(np.split(logits, cuts), np.split(labels, cuts), strict=True)]
    losses, tokens = np.array([s for s, _ in batches]), np.array([n for _, n in batches])
    whole = true.perplexity(logits, labels)
    assert_within(whole, function(losses, tokens), flat.perplexity, logits, labels, IGNORED)


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
    assert_within(
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
    room=st.integers(0, 20),
    depth=st.integers(0, 100),
)
def test_the_needle_and_the_question_are_always_whole(
    function: Any, haystack: int, needle: int, question: int, room: int, depth: int
) -> None:
    parts = np.arange(haystack), np.arange(needle) + 100, np.arange(question) + 200
    prompt, start = function(*parts, needle + question + room, depth)
    assert len(prompt) == min(haystack, room) + needle + question
    assert prompt[start : start + needle].tolist() == parts[1].tolist()
    assert prompt[len(prompt) - question :].tolist() == parts[2].tolist()
    rest = np.delete(prompt, [*range(start, start + needle), *range(len(prompt) - question, len(prompt))])
    assert rest.tolist() == list(range(min(haystack, room))), "the haystack is in order and cut at its end alone"
    assert start == {0: 0, 100: len(rest)}.get(depth, start)


@given(haystack=st.integers(0, 20), depths=st.lists(st.integers(0, 100), min_size=2, max_size=5).map(sorted))
def test_a_deeper_needle_lies_deeper(haystack: int, depths: list[int]) -> None:
    parts = np.arange(haystack), np.array([100]), np.array([200])
    starts = [int(true.needle_prompt(*parts, length=15, depth=d)[1]) for d in depths]
    assert starts == sorted(starts)


# -- what is refused --------------------------------------------------------------------------------------------------

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
