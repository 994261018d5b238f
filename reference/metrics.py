"""How good a model is: Fréchet distance of Gaussians, cross-entropy and perplexity, the needle in a haystack.

    d² = |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁^½ Σ₂ Σ₁^½)^½)        (Fréchet 1957; Dowson & Landau 1982 eq. 4)
    PPL = exp(−Σ_t log p(w_t) / n)                             (Jelinek et al. 1977)

Heusel et al. 2017 (1706.08500) take d² of Inception features of two sets of pictures and call it FID; the estimate is
biased upwards when the sets are small (Chong & Forsyth 2020, 1911.07023). Σ is unbiased: divided by N − 1.
"""

import numpy as np

# -- Fréchet distance -------------------------------------------------------------------------------------------------


def mean_and_covariance(features):
    """μ = Σ_i x_i / N,  Σ = Σ_i (x_i − μ)(x_i − μ)ᵀ / (N − 1)

    features  x  (N, d)  a row per sample, N at least 2
    returns   μ  (d,)    mean
              Σ  (d, d)  unbiased covariance; singular where N ≤ d
    """
    mean = np.sum(features, axis=0) / len(features)
    centred = features - mean
    return mean, centred.T @ centred / (len(features) - 1)


def mean_and_covariance_vjp(mean_cotangent, covariance_cotangent, features):
    """x̄_i = μ̄/N + (Σ̄ + Σ̄ᵀ)(x_i − μ)/(N − 1): the centred rows sum to 0"""
    mean = np.sum(features, axis=0) / len(features)
    both = covariance_cotangent + covariance_cotangent.T
    return mean_cotangent / len(features) + (features - mean) @ both / (len(features) - 1)


def frechet_distance(mean_1, covariance_1, mean_2, covariance_2):
    """d² = |μ₁ − μ₂|² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁^½ Σ₂ Σ₁^½)^½,  the last trace being Σ_i σ_i(Σ₁^½ Σ₂^½)

    The singular values of a product of roots avoid the root of a product, which loses half of the digits where Σ is
    singular. It is the squared 2-Wasserstein distance of two Gaussians.

    mean_1        μ₁  (d,)    in float64, whatever the dtype of the features
    covariance_1  Σ₁  (d, d)  symmetric; negative eigenvalues, which come from rounding, count as 0
    mean_2        μ₂  (d,)
    covariance_2  Σ₂  (d, d)
    returns       d²  ()      never negative; NaN for a covariance that is not finite
    """
    difference = mean_1 - mean_2
    traces = np.sum((covariance_1 + covariance_2) * np.eye(len(mean_1)))
    root_1, root_2 = _root(covariance_1), _root(covariance_2)
    common = np.sum(np.linalg.svd(root_1 @ root_2, compute_uv=False))
    nan = np.sum(covariance_1 * 0 + covariance_2 * 0)
    return np.sum(difference * difference) + np.maximum(traces - 2 * common, 0) + nan


def _root(covariance):
    """Σ^½ = V max(Λ, 0)^½ Vᵀ of the finite part of (Σ + Σᵀ)/2"""
    finite = np.where(np.isfinite(covariance), covariance, 0.0)
    values, vectors = np.linalg.eigh((finite + finite.T) / 2)
    return vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T


# -- language models --------------------------------------------------------------------------------------------------


def token_losses(logits, labels, *, ignore_index=-100):
    """S = −Σ_t log p_t(w_t),  log p_t(w) = z_tw − log Σ_v exp z_tv;  n = #{t : w_t ≠ ignored}

    logits        z  (..., V)  scores of every token of the vocabulary
    labels        w  (...)     the correct token, 0 … V − 1, or ``ignore_index``
    ignore_index     int       label that is left out, such as padding; −100 as in torch
    returns       S  ()        nats; 0 where nothing counts
                  n  ()        int64, tokens that count: sums over batches weigh every token alike
    """
    counts = labels != ignore_index
    chosen = _one_hot(labels, logits.shape[-1])
    largest = np.max(logits, axis=-1, keepdims=True)
    normaliser = largest[..., 0] + np.log(np.sum(np.exp(logits - largest), axis=-1))
    right = np.sum(np.where(chosen, logits, 0.0), axis=-1)
    return np.sum(np.where(counts, normaliser - right, 0.0)), np.sum(counts)


def _one_hot(labels, size):
    """(..., V): true at the label"""
    return labels[..., None] == np.arange(size)


def token_losses_vjp(loss_cotangent, count_cotangent, logits, labels, ignore_index):
    """S̄ (p_t − 1_w) where the token counts, 0 elsewhere"""
    powers = np.exp(logits - np.max(logits, axis=-1, keepdims=True))
    share = powers / np.sum(powers, axis=-1, keepdims=True)
    away = np.where(_one_hot(labels, logits.shape[-1]), share - 1, share)
    return np.where((labels != ignore_index)[..., None], loss_cotangent * away, 0.0)


def cross_entropy(logits, labels, *, ignore_index=-100):
    """L = −Σ_t log p_t(w_t) / n, over the n tokens that count

    logits        z  (..., V)  scores of every token of the vocabulary
    labels        w  (...)     the correct token, 0 … V − 1, or ``ignore_index``
    ignore_index     int       label that is left out
    returns       L  ()        nats per token; NaN where nothing counts, as 0/0 is
    """
    total, count = token_losses(logits, labels, ignore_index=ignore_index)
    return total / count


def cross_entropy_vjp(cotangent, logits, labels, ignore_index):
    """L̄/n (p_t − 1_w) where the token counts, 0 elsewhere"""
    count = np.sum(labels != ignore_index)
    return token_losses_vjp(cotangent / count, 0, logits, labels, ignore_index)


def perplexity(logits, labels, *, ignore_index=-100):
    """PPL = exp(−Σ_t log p_t(w_t) / n): every token weighs alike, whatever sequence it stands in

    logits        z    (..., V)  scores of every token of the vocabulary
    labels        w    (...)     the correct token, 0 … V − 1, or ``ignore_index``
    ignore_index       int       label that is left out
    returns       PPL  ()        V for equal scores; NaN where nothing counts
    """
    return np.exp(cross_entropy(logits, labels, ignore_index=ignore_index))


def perplexity_vjp(cotangent, logits, labels, ignore_index):
    """P̄ PPL ∂L/∂z"""
    value = perplexity(logits, labels, ignore_index=ignore_index)
    return cross_entropy_vjp(cotangent * value, logits, labels, ignore_index)


def corpus_perplexity(losses, tokens):
    """PPL = exp(Σ_k S_k / Σ_k n_k), from the pairs that ``token_losses`` gives for every batch

    losses   S    (K,)  negative log-likelihood of a batch, summed over its tokens, nats
    tokens   n    (K,)  integers, tokens that counted in it; a batch of padding alone is (0, 0) and changes nothing
    returns  PPL  ()    the perplexity of all batches as one; NaN for no token at all
    """
    return np.exp(np.sum(losses) / np.sum(tokens))


def corpus_perplexity_vjp(cotangent, losses, tokens):
    """P̄ PPL / Σ_k n_k for every batch"""
    return cotangent * corpus_perplexity(losses, tokens) / np.sum(tokens) + 0 * losses


# -- needle in a haystack ---------------------------------------------------------------------------------------------


def needle_score(logits, position, answer):
    """log p = z_a − log Σ_v exp z_v of the right answer,  rank = #{v : not z_v < z_a}, both at the needle's position

    logits    z  (B, n, V)  scores at every position of the context
    position     (B,)       position whose next token is the answer, 0 … n − 1: the needle lies inside the context
    answer    a  (B,)       the correct token, 0 … V − 1
    returns      (B,)       log p, nats: of the answer, not of whatever is most likely
                 (B,)       int64, 1 is best; what ties with the answer, or is NaN, counts against it
    """
    each = np.arange(len(logits))
    score = logits[each, position]
    right = score[each, answer][:, None]
    largest = np.max(score, axis=-1, keepdims=True)
    normaliser = largest + np.log(np.sum(np.exp(score - largest), axis=-1, keepdims=True))
    return (right - normaliser)[:, 0], np.sum(~(score < right), axis=-1)


def needle_score_vjp(log_cotangent, rank_cotangent, logits, position, answer):
    """ḡ (1_a − p) at the needle's position, 0 elsewhere"""
    each = np.arange(len(logits))
    score = logits[each, position]
    powers = np.exp(score - np.max(score, axis=-1, keepdims=True))
    share = powers / np.sum(powers, axis=-1, keepdims=True)
    away = np.where(_one_hot(answer, logits.shape[-1]), 1 - share, -share) * log_cotangent[:, None]
    here = np.arange(logits.shape[1]) == position[:, None]
    return np.where(here[:, :, None], away[:, None, :], 0.0)


def needle_prompt(haystack, needle, question, *, length, depth):
    """h₀ … h_{a−1} needle h_a … h_{k−1} question,  k = min(|h|, n − |needle| − |question|),  a = ⌊k · depth/100⌋

    haystack  h  (H,)  token ids to hide it in; cut at the end to what fits: it alone is cut
    needle       (K,)  token ids of the fact, whole
    question     (Q,)  token ids of the question, whole, at the end
    length    n  int   tokens of context there are, at least K + Q
    depth        int   per cent of the haystack before the needle, 0 … 100
    returns      (k + K + Q,)  int64, the prompt
                 ()            int64, a: where the needle begins
    """
    kept = min(len(haystack), length - len(needle) - len(question))
    start = kept * depth // 100
    return np.concatenate([haystack[:start], needle, haystack[start:kept], question]), np.array(start)
