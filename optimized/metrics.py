"""How good a model is, fast: Fréchet distance of Gaussians, cross-entropy and perplexity, the needle in a haystack.

    d² = |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁^½ Σ₂ Σ₁^½)^½)        (Fréchet 1957; Dowson & Landau 1982 eq. 4)
    PPL = exp(−Σ_t log p(w_t) / n)                             (Jelinek et al. 1977)

float16 and bfloat16 are computed in float32 and rounded once; the Fréchet distance is computed in float64 for every
dtype, because the square root of a singular covariance loses half of the digits. Nothing is moved to the CPU and
nothing waits for a device; whether labels are in range is checked on the CPU only.
"""

from __future__ import annotations

import torch

from trueness.optimized._lib.dtypes import upcast
from trueness.optimized._lib.validation import (
    is_integer,
    require_floating,
    require_integer,
    require_range,
    require_shape,
    require_tokens,
)

__all__ = [
    "corpus_perplexity",
    "cross_entropy",
    "frechet_distance",
    "mean_and_covariance",
    "needle_prompt",
    "needle_score",
    "perplexity",
    "token_losses",
]


# -- Fréchet distance -------------------------------------------------------------------------------------------------


def mean_and_covariance(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """μ = Σ_i x_i / N,  Σ = Σ_i (x_i − μ)(x_i − μ)ᵀ / (N − 1)

    features  x  (N, d)  a row per sample, N at least 2; float64 for a distance worth reporting
    returns   μ  (d,)    mean
              Σ  (d, d)  unbiased covariance, symmetric; singular where N ≤ d
    raises    ValueError if features are not floating or not at least two rows
    """
    require_floating(features, "features")
    if features.ndim != 2 or features.shape[0] < 2:
        raise ValueError(f"features had shape {tuple(features.shape)}; it must be (N, d) with N of at least 2.")
    x = upcast(features)
    mean = x.mean(0)
    centred = x - mean
    with torch.autocast(x.device.type, enabled=False):
        covariance = centred.T @ centred / (len(x) - 1)
        covariance = (covariance + covariance.T) / 2  # a matrix product need not be symmetric to the last bit
    return mean.to(features.dtype), covariance.to(features.dtype)


def frechet_distance(
    mean_1: torch.Tensor, covariance_1: torch.Tensor, mean_2: torch.Tensor, covariance_2: torch.Tensor
) -> torch.Tensor:
    """d² = |μ₁ − μ₂|² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁^½ Σ₂ Σ₁^½)^½,  the last trace being Σ_i σ_i(Σ₁^½ Σ₂^½)

    mean_1        μ₁  (d,)    any floating dtype; the work is done in float64
    covariance_1  Σ₁  (d, d)  symmetric; negative eigenvalues, which come from rounding, count as 0
    mean_2        μ₂  (d,)    like mean_1
    covariance_2  Σ₂  (d, d)  like covariance_1
    returns       d²  ()      dtype of mean_1; never negative; NaN for a covariance that is not finite
    raises        ValueError  if an argument is not floating or the shapes do not match
    """
    for tensor, name in (
        (mean_1, "mean_1"),
        (covariance_1, "covariance_1"),
        (mean_2, "mean_2"),
        (covariance_2, "covariance_2"),
    ):
        require_floating(tensor, name)
    if mean_1.ndim != 1:
        raise ValueError(f"mean_1 had shape {tuple(mean_1.shape)}; it must be (d,).")
    d = mean_1.shape[0]
    require_shape(mean_2, "mean_2", (d,), "like mean_1")
    require_shape(covariance_1, "covariance_1", (d, d), "a row and a column for every element of mean_1")
    require_shape(covariance_2, "covariance_2", (d, d), "a row and a column for every element of mean_1")
    one, two = covariance_1.double(), covariance_2.double()
    difference = mean_1.double() - mean_2.double()
    with torch.autocast(mean_1.device.type, enabled=False):
        common = torch.linalg.svdvals(_factor(one).mT @ _factor(two)).sum()
        traces = one.trace() + two.trace()
        nan = (one * 0 + two * 0).sum()  # NaN unless both are finite, else 0
        distance: torch.Tensor = difference.square().sum() + (traces - 2 * common).clamp(min=0) + nan
    return distance.to(mean_1.dtype)


def _factor(covariance: torch.Tensor) -> torch.Tensor:
    """F with F Fᵀ = Σ: V max(Λ, 0)^½ of the finite part of (Σ + Σᵀ)/2"""
    finite = torch.where(covariance.isfinite(), covariance, 0.0)
    values, vectors = torch.linalg.eigh((finite + finite.mT) / 2)
    factor: torch.Tensor = vectors * values.clamp(min=0).sqrt()
    return factor


# -- language models --------------------------------------------------------------------------------------------------


def token_losses(
    logits: torch.Tensor, labels: torch.Tensor, *, ignore_index: int = -100
) -> tuple[torch.Tensor, torch.Tensor]:
    """S = −Σ_t log p_t(w_t),  log p_t(w) = z_tw − log Σ_v exp z_tv;  n = #{t : w_t ≠ ignored}

    logits        z  (..., V)  scores of every token of the vocabulary
    labels        w  (...)     the correct token, 0 … V − 1, or ``ignore_index``
    ignore_index     int       label that is left out, such as padding; −100 as in torch
    returns       S  ()        nats, dtype of logits; 0 where nothing counts
                  n  ()        int64, tokens that count: sums over batches weigh every token alike
    raises        ValueError   if logits are not floating, or labels do not fit them
    """
    total, count = _losses(logits, labels, ignore_index)
    return total.to(logits.dtype), count


def _losses(logits: torch.Tensor, labels: torch.Tensor, ignore_index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """S, for float16 and bfloat16 in float32, and n."""
    require_floating(logits, "logits")
    require_tokens(labels, "labels")
    if logits.ndim < 1 or logits.shape[-1] < 1:
        raise ValueError(f"logits had shape {tuple(logits.shape)}; its last axis must be a vocabulary.")
    require_shape(labels, "labels", tuple(logits.shape[:-1]), "a token for every row of logits")
    if not is_integer(ignore_index):
        raise ValueError(f"ignore_index was {ignore_index!r}; it must be an integer, such as -100.")
    require_range(labels, "labels", logits.shape[-1], "there is no such token in the vocabulary", ignore_index)
    scores = upcast(logits)
    counted = labels != ignore_index
    chosen = labels.long().masked_fill(~counted, 0)
    log_p = scores.log_softmax(-1).gather(-1, chosen[..., None])[..., 0]
    return torch.where(counted, -log_p, 0.0).sum(), counted.sum()


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, *, ignore_index: int = -100) -> torch.Tensor:
    """L = −Σ_t log p_t(w_t) / n, over the n tokens that count

    logits        z  (..., V)  scores of every token of the vocabulary
    labels        w  (...)     the correct token, 0 … V − 1, or ``ignore_index``
    ignore_index     int       label that is left out
    returns       L  ()        nats per token, dtype of logits; NaN where nothing counts, as 0/0 is
    raises        ValueError   if logits are not floating, or labels do not fit them
    """
    total, count = _losses(logits, labels, ignore_index)
    return (total / count).to(logits.dtype)


def perplexity(logits: torch.Tensor, labels: torch.Tensor, *, ignore_index: int = -100) -> torch.Tensor:
    """PPL = exp(−Σ_t log p_t(w_t) / n): every token weighs alike, whatever sequence it stands in

    logits        z    (..., V)  scores of every token of the vocabulary
    labels        w    (...)     the correct token, 0 … V − 1, or ``ignore_index``
    ignore_index       int       label that is left out
    returns       PPL  ()        V for equal scores, dtype of logits; NaN where nothing counts
    raises        ValueError     if logits are not floating, or labels do not fit them
    """
    total, count = _losses(logits, labels, ignore_index)
    return (total / count).exp().to(logits.dtype)


def corpus_perplexity(losses: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """PPL = exp(Σ_k S_k / Σ_k n_k), from the pairs that ``token_losses`` gives for every batch

    losses   S    (K,)  negative log-likelihood of a batch, summed over its tokens, nats
    tokens   n    (K,)  integers, tokens that counted in it; a batch of padding alone is (0, 0) and changes nothing
    returns  PPL  ()    the perplexity of all batches as one, dtype of losses; NaN for no token at all
    raises   ValueError if losses are not floating, tokens no integers, or there is not one for each
    """
    require_floating(losses, "losses")
    require_tokens(tokens, "tokens", 1)
    require_shape(losses, "losses", tuple(tokens.shape), "a loss for every count of tokens")
    require_range(tokens, "tokens", 2**62, "it counts tokens")
    return (upcast(losses).sum() / tokens.sum()).exp().to(losses.dtype)


# -- needle in a haystack ---------------------------------------------------------------------------------------------


def needle_score(
    logits: torch.Tensor, position: torch.Tensor, answer: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """log p = z_a − log Σ_v exp z_v of the right answer,  rank = #{v : not z_v < z_a}, both at the needle's position

    logits    z  (B, n, V)  scores at every position of the context
    position     (B,)       position whose next token is the answer, 0 … n − 1: the needle lies inside the context
    answer    a  (B,)       the correct token, 0 … V − 1
    returns      (B,)       log p, nats, dtype of logits: of the answer, not of whatever is most likely
                 (B,)       int64, 1 is best; what ties with the answer, or is NaN, counts against it
    raises       ValueError if the needle lies outside of the context, the answer outside of the vocabulary,
                            or the shapes do not match
    """
    require_floating(logits, "logits")
    if logits.ndim != 3 or not logits.shape[1] or not logits.shape[2]:
        raise ValueError(f"logits had shape {tuple(logits.shape)}; it must be (B, n, V) with n and V of at least 1.")
    batch, positions, size = logits.shape
    for tensor, name in ((position, "position"), (answer, "answer")):
        require_tokens(tensor, name, 1)
        require_shape(tensor, name, (batch,), "one for every sample")
    require_range(position, "position", positions, "the needle must lie inside of the context")
    require_range(answer, "answer", size, "there is no such token in the vocabulary")
    score = logits[torch.arange(batch, device=logits.device), position.long()]
    right = score.gather(-1, answer.long()[:, None])
    log_p = upcast(score).log_softmax(-1).gather(-1, answer.long()[:, None])[:, 0]
    return log_p.to(logits.dtype), (~(score < right)).sum(-1)


def needle_prompt(
    haystack: torch.Tensor, needle: torch.Tensor, question: torch.Tensor, *, length: int, depth: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """h₀ … h_{a−1} needle h_a … h_{k−1} question,  k = min(|h|, n − |needle| − |question|),  a = ⌊k · depth/100⌋

    haystack  h  (H,)  token ids to hide it in; cut at the end to what fits: it alone is cut
    needle       (K,)  token ids of the fact, whole, at least one
    question     (Q,)  token ids of the question, whole, at the end
    length    n  int   tokens of context there are, at least K + Q
    depth        int   per cent of the haystack before the needle, 0 … 100
    returns      (k + K + Q,)  int64, the prompt
                 ()            int64, a: where the needle begins
    raises       ValueError    if the needle and the question do not fit, or depth lies outside 0 … 100
    """
    for tensor, name in ((haystack, "haystack"), (needle, "needle"), (question, "question")):
        require_tokens(tensor, name, 1)
    if not len(needle):
        raise ValueError("needle was empty; there must be at least one token to look for.")
    whole = len(needle) + len(question)
    require_integer(length, "length", whole, None, f": needle and question are {whole} tokens, and are not cut")
    require_integer(depth, "depth", 0, 100, ", per cent")
    kept = min(len(haystack), length - whole)
    start = kept * depth // 100
    parts = (haystack[:start], needle, haystack[start:kept], question)
    prompt = torch.cat([part.long() for part in parts])
    return prompt, torch.tensor(start, device=prompt.device)
