"""Known wrong variants of the family metrics: perplexities, the needle in a haystack, and what FID is compared with."""

from __future__ import annotations

from typing import Any

import numpy as np

from trueness.reference import metrics as true
from trueness.regressions._lib.commands import show
from trueness.tools.spec.model import Bug

CHANGELOG = "Atlas memory (davidbasilefilho/atlas), changelog of 2025-07-17"
DIFFIT = "DiffiT-v2, changelog and README at 57f956f6"
JELINEK = "Jelinek et al. 1977; torchmetrics.text.Perplexity"
CHONG = "Heusel et al. 2017 (1706.08500); Chong & Forsyth 2020 (1911.07023)"


# -- perplexity -------------------------------------------------------------------------------------------------------


def clamped(logits: Any, labels: Any, ignore_index: int) -> Any:
    """exp(min(L, 10)) ≤ 22026.47"""
    return np.exp(np.minimum(true.cross_entropy(logits, labels, ignore_index), 10.0))


def by_sequence(logits: Any, labels: Any, ignore_index: int) -> Any:
    """exp of the mean over sequences of the mean over their tokens"""
    pairs = [true.token_losses(z, w, ignore_index) for z, w in zip(logits, labels, strict=True)]
    each = np.stack([total / count for total, count in pairs if count])
    return np.exp(np.sum(each) / len(each))


def by_batch(losses: Any, tokens: Any) -> Any:
    """exp of the mean over batches of their mean losses"""
    each = losses[tokens > 0] / tokens[tokens > 0]
    return np.exp(np.sum(each) / len(each))


def mean_of_perplexities(losses: Any, tokens: Any) -> Any:
    """the mean over batches of their perplexities"""
    each = np.exp(losses[tokens > 0] / tokens[tokens > 0])
    return np.sum(each) / len(each)


def capacity(logits: Any, labels: Any, ignore_index: int) -> Any:
    """−L, called the capacity of a memory"""
    return -true.cross_entropy(logits, labels, ignore_index)


# -- needle -----------------------------------------------------------------------------------------------------------


def of_the_likeliest(logits: Any, position: Any, answer: Any) -> Any:
    """log p of whatever is most likely"""
    score = logits[np.arange(len(logits)), position]
    likeliest, _ = true.needle_score(logits, position, np.argmax(np.asarray(score), axis=-1))
    return likeliest, true.needle_score(logits, position, answer)[1]


def at_the_end(logits: Any, position: Any, answer: Any) -> Any:
    """the score of the last place, wherever the needle's is"""
    return true.needle_score(logits, position * 0 + logits.shape[1] - 1, answer)


def ties_flatter(logits: Any, position: Any, answer: Any) -> Any:
    """1 + how many are strictly better: a model that knows nothing ranks first"""
    log_p, _ = true.needle_score(logits, position, answer)
    each = np.arange(len(logits))
    score = logits[each, position]
    return log_p, 1 + np.sum(score > score[each, answer][:, None], axis=-1)


def cut_off(haystack: Any, needle: Any, question: Any, length: int, depth: int) -> Any:
    """hidden in the whole haystack, then cut to the context"""
    start = len(haystack) * depth // 100
    whole = np.concatenate([haystack[:start], needle, haystack[start:], question])
    return whole[:length], np.array(start)


# -- Fréchet distance -------------------------------------------------------------------------------------------------


def biased(features: Any) -> Any:
    """Σ divided by N"""
    mean, covariance = true.mean_and_covariance(features)
    return mean, covariance * (len(features) - 1) / len(features)


def diagonal_only(mean_1: Any, covariance_1: Any, mean_2: Any, covariance_2: Any) -> Any:
    """only the variances are compared"""
    one, two = covariance_1 * np.eye(len(mean_1)), covariance_2 * np.eye(len(mean_1))
    return true.frechet_distance(mean_1, one, mean_2, two)


def without_a_root(mean_1: Any, covariance_1: Any, mean_2: Any, covariance_2: Any) -> Any:
    """tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)) without the root"""
    apart = mean_1 - mean_2
    eye = np.eye(len(mean_1))
    return np.sum(apart * apart) + np.sum((covariance_1 + covariance_2 - 2 * covariance_1 @ covariance_2) * eye)


# -- discriminating inputs --------------------------------------------------------------------------------------------

VOCABULARY = 3
SURE = np.zeros((2, 2, VOCABULARY))
SURE[..., 0] = 16.0  # and the right token is another one: a loss of 16 nats
WRONG = np.ones((2, 2), np.int64)
UNEVEN = np.array([[[0.0, 2.0, 0.0]] * 3, [[0.0, 1.0, 3.0]] * 3])
UNEVEN_LABELS = np.array([[1, 1, 1], [0, -100, -100]])
BATCHES = (np.array([30.0, 1.0]), np.array([10, 1]))
NEEDLE = np.array([[[3.0, 1.0, 0.0], [0.0, 0.0, 0.0]], [[0.0, 0.0, 2.0], [1.0, 2.0, 4.0]]])
PLACES, ANSWERS = np.array([0, 0]), np.array([1, 0])
PROMPT = (np.arange(20), np.array([100, 101]), np.array([200]), 10, 90)
CORRELATED = (np.zeros(2), np.array([[2.0, 1.0], [1.0, 2.0]]), np.zeros(2), np.array([[2.0, -1.0], [-1.0, 3.0]]))

BUGS = (
    Bug(
        id="MEM-30",
        formula="metrics.perplexity",
        title="perplexity stops at 22026.47",
        document=f"{CHANGELOG}, training log",
        claim="perplexity = exp(min(loss, 10))",
        verdict="convention",
        source=JELINEK,
        finding="A cap for a plot: a loss of 10 and one of 16 read the same. A vocabulary of 50257 starts at 10.82, so "
        "an untrained model already sits on the cap. Ours is not capped.",
        evidence=show("MEM_30"),
        variant=clamped,
        discriminating_input=(SURE, WRONG, -100),
        invisible={
            "bfloat16": "a score of 16 is uncertain by 1/32 there, and every step on the way to e^16 adds as much"
        },
    ),
    Bug(
        id="MEM-33a",
        formula="metrics.perplexity",
        title="sequences weigh alike, however many tokens they have",
        document=f"{CHANGELOG}, evaluation",
        claim="perplexity is exp of the average loss",
        verdict="real bug, wrong fix",
        source=JELINEK,
        finding="A sequence of one token weighs as much as one of a thousand; the number changes with how a text is "
        "cut. Untouched by the fix. Weighted by tokens it does not depend on the cut.",
        evidence=show("MEM_33a"),
        variant=by_sequence,
        discriminating_input=(UNEVEN, UNEVEN_LABELS, -100),
    ),
    Bug(
        id="MEM-33b",
        formula="metrics.corpus_perplexity",
        title="batches weigh alike, however many tokens they have",
        document=f"{CHANGELOG}, evaluation",
        claim="perplexity is exp of the average loss",
        verdict="real bug, wrong fix",
        source=JELINEK,
        finding="The same one level up: the last, smaller batch counts as much as a full one.",
        evidence=show("MEM_33b"),
        variant=by_batch,
        discriminating_input=BATCHES,
    ),
    Bug(
        id="MEM-33c",
        formula="metrics.corpus_perplexity",
        title="the mean of perplexities",
        document=f"{CHANGELOG}, evaluation",
        claim="perplexity is exp of the average loss",
        verdict="real bug, wrong fix",
        source=JELINEK,
        finding="exp is convex, so the mean of perplexities is never below the perplexity (Jensen), and one bad batch "
        "rules it.",
        evidence=show("MEM_33c"),
        variant=mean_of_perplexities,
        discriminating_input=BATCHES,
    ),
    Bug(
        id="MEM-34a",
        formula="metrics.needle_score",
        title="the needle's score is that of the likeliest token",
        document=f"{CHANGELOG}, evaluation",
        claim="the needle-in-a-haystack test is fixed",
        verdict="claim false",
        source="log-likelihood of the answer (Jelinek et al. 1977)",
        finding="The largest probability rewards being sure, right or wrong: a model that is sure of a wrong answer "
        "scores 1. The difference between the versions touches plotting only.",
        evidence=show("MEM_34a"),
        variant=of_the_likeliest,
        discriminating_input=(NEEDLE, PLACES, ANSWERS),
    ),
    Bug(
        id="MEM-34b",
        formula="metrics.needle_prompt",
        title="the needle is cut off with the context",
        document=f"{CHANGELOG}, evaluation",
        claim="the needle-in-a-haystack test is fixed",
        verdict="claim false",
        source="the answer must stand in what the model is shown",
        finding="Hidden at 90 % of 20 tokens and cut to 10, neither needle nor question is left, and the model is "
        "scored all the same. Ours cuts the haystack alone.",
        evidence=show("MEM_34b"),
        variant=cut_off,
        discriminating_input=PROMPT,
    ),
    Bug(
        id="MEM-34c",
        formula="metrics.needle_score",
        title="the score is read at the last place of the context",
        document=f"{CHANGELOG}, evaluation",
        claim="the needle-in-a-haystack test is fixed",
        verdict="claim false",
        source="log-likelihood of the answer (Jelinek et al. 1977)",
        finding="Right only where the answer follows the last token and nothing is padded. Kept as what the checks "
        "must reject.",
        evidence=show("MEM_34c"),
        variant=at_the_end,
        discriminating_input=(NEEDLE, PLACES, ANSWERS),
    ),
    Bug(
        id="MEM-34d",
        formula="metrics.needle_score",
        title="a tie counts for the answer",
        document="the usual rank: one more than the number of better ones",
        claim="rank 1 means that the answer was found",
        verdict="convention",
        source="rank with ties for, against, or halved: three names for one word",
        finding="A model whose scores are all equal ranks first with ties for it, last with ties against it. Ours "
        "counts them against it.",
        evidence=show("MEM_34d"),
        variant=ties_flatter,
        discriminating_input=(0 * NEEDLE, PLACES, ANSWERS),
    ),
    Bug(
        id="MEM-35",
        formula="metrics.cross_entropy",
        title="a memory's capacity is a cross-entropy with its sign turned",
        document=f"{CHANGELOG}, evaluation",
        claim="memory capacity is measured",
        verdict="claim false",
        source=JELINEK,
        finding="−L is the log-likelihood per token: it is at most 0, and ten times as many items in memory leave it "
        "where it was. It is no number of items.",
        evidence=show("MEM_35"),
        variant=capacity,
        discriminating_input=(UNEVEN, UNEVEN_LABELS, -100),
    ),
    Bug(
        id="DIFFIT-09a",
        formula="",
        title="FID of 10 000 samples beside FID of 50 000",
        document=f"{DIFFIT}, training commands (fid10k_full)",
        claim="FID-10K < 2.0 matches the paper",
        verdict="claim false",
        source=CHONG,
        finding="The estimate is biased upwards by d/N + d(d + 1)/(4(N − 1)) for a standard normal of d dimensions, "
        "measured within five standard errors: five times as much at 10 000 as at 50 000.",
        evidence=show("DIFFIT_09a"),
    ),
    Bug(
        id="DIFFIT-09b",
        formula="metrics.mean_and_covariance",
        title="the covariance is divided by N",
        document=f"{DIFFIT}, training commands (fid10k_full)",
        claim="FID-10K < 2.0 matches the paper",
        verdict="no bug",
        source=CHONG,
        finding="It would shrink every covariance by 1/N and add to the bias. Nobody had it.",
        evidence=show("DIFFIT_09b"),
        variant=biased,
        discriminating_input=(np.array([[0.0, 1.0], [2.0, 0.0], [1.0, 5.0]]),),
    ),
    Bug(
        id="DIFFIT-09c",
        formula="metrics.frechet_distance",
        title="only the variances are compared",
        document=f"{DIFFIT}, training commands (fid10k_full)",
        claim="FID-10K < 2.0 matches the paper",
        verdict="no bug",
        source=CHONG,
        finding="A shortcut that cannot see a correlation. Nobody had it.",
        evidence=show("DIFFIT_09c"),
        variant=diagonal_only,
        discriminating_input=CORRELATED,
    ),
    Bug(
        id="DIFFIT-09d",
        formula="metrics.frechet_distance",
        title="the root is left out",
        document=f"{DIFFIT}, training commands (fid10k_full)",
        claim="FID-10K < 2.0 matches the paper",
        verdict="no bug",
        source=CHONG,
        finding="The same for covariances of 1 and 0, where a test would pass. Nobody had it.",
        evidence=show("DIFFIT_09d"),
        variant=without_a_root,
        discriminating_input=CORRELATED,
    ),
    Bug(
        id="DIFFIT-15",
        formula="",
        title="FID targets without a sample size or a measurement",
        document=f"{DIFFIT}, expected results",
        claim="FID 1.95 (CIFAR-10), 2.22 (FFHQ-64), 1.73 (ImageNet-256)",
        verdict="process",
        source=CHONG,
        finding="They are the paper's numbers and no run of that repository shows them. What a target needs is N: a "
        "perfect generator, judged by samples of the truth itself, gets different numbers at different N.",
        evidence=show("DIFFIT_15"),
    ),
)
