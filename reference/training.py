"""What happens between the gradient and the weights: accumulation, clipping, learning rate, averaging - and two rules.

    g = Σ_j n_j g_j / Σ_j n_j,    g ← g · min(1, c/(‖g‖ + 10⁻⁶)),    lr_k = base · f(k),    a ← a + (1 − d)(x − a)

Goyal et al. 2017 (1706.02677) §3 for the weighting of unequal parts; Pascanu, Mikolov & Bengio 2013 for clipping;
Loshchilov & Hutter 2017 (1608.03983) eq. 5 for the cosine; Polyak & Juditsky 1992 for averaging.
"""

import numpy as np


def _weights(counts, x):
    """n (K,) as (K, 1, …), so that it multiplies x (K, …)"""
    return counts.reshape(counts.shape + (1,) * (x.ndim - 1))


def _norm(x):
    """‖x‖ = √Σ x²"""
    return np.sqrt(np.sum(x * x))


# -- gradients --------------------------------------------------------------------------------------------------------


def accumulate(gradients, counts):
    """g = Σ_j n_j g_j / Σ_j n_j: the gradient of the mean loss over all samples of a window        (Goyal et al. §3)

    gradients  g_j  (K, ...)  gradient of the mean loss over each micro-batch; a last window may have fewer, K ≤ A
    counts     n_j  (K,)      samples in each micro-batch, integers of at least 1
    returns    g    (...)     unit of the gradients
    """
    return np.sum(_weights(counts, gradients) * gradients, axis=0) / np.sum(counts)


def accumulate_vjp(cotangent, gradients, counts):
    """∂/∂g_j ⟨ḡ, g⟩ = ḡ n_j / Σ n"""
    return _weights(counts, gradients) * cotangent / np.sum(counts)


def clip_by_global_norm(gradient, *, max_norm=1.0):
    """g' = g · min(1, c/(‖g‖ + 10⁻⁶))        (Pascanu et al. 2013 Alg. 1; 10⁻⁶ as torch has it)

    gradient  g   (...)   of all parameters together: one norm for all of them
    max_norm  c   number  largest norm, positive, unit of g
    returns   g'  (...)   the direction of g, of a norm below c
    """
    return gradient * _clip_factor(gradient, max_norm)


def _clip_factor(gradient, max_norm):
    """s = min(1, c/(‖g‖ + 10⁻⁶))"""
    return np.minimum(max_norm / (_norm(gradient) + 1e-6), 1.0)


def clip_by_global_norm_vjp(cotangent, gradient, max_norm):
    """s ḡ' − [‖g‖ + 10⁻⁶ > c] s/(‖g‖ + 10⁻⁶) ⟨ḡ', g⟩ g/‖g‖"""
    norm = _norm(gradient)
    factor = _clip_factor(gradient, max_norm)
    along = np.sum(cotangent * gradient) / np.where(norm > 0, norm, 1.0)
    bent = np.where(norm + 1e-6 > max_norm, factor / (norm + 1e-6) * along, 0.0)
    return factor * cotangent - bent * gradient


def clip_after_average(gradients, counts, *, max_norm=1.0):
    """g' = clip(Σ_j n_j g_j / Σ_j n_j): first the mean over the window's samples, then one clipping of it

    gradients  g_j  (K, ...)  gradient of the mean loss over each micro-batch
    counts     n_j  (K,)      samples in each micro-batch, integers of at least 1
    max_norm   c    number    largest norm of the mean, positive
    returns    g'   (...)
    """
    return clip_by_global_norm(accumulate(gradients, counts), max_norm=max_norm)


def clip_after_average_vjp(cotangent, gradients, counts, max_norm):
    """through the clipping, then through the mean"""
    pulled = clip_by_global_norm_vjp(cotangent, accumulate(gradients, counts), max_norm)
    return accumulate_vjp(pulled, gradients, counts)


def steps_per_epoch(micro_batches, window):
    """steps = ⌈N/A⌉: the last window may be short, and is stepped as well

    micro_batches  N  int   micro-batches in an epoch, at least 0
    window         A  int   micro-batches per optimiser step, at least 1
    returns        steps    int64
    """
    return np.asarray((micro_batches + window - 1) // window)


# -- learning rate and average ----------------------------------------------------------------------------------------


def warmup_cosine_factor(step, *, warmup_steps, total_steps, min_lr_ratio=0.0):
    """f(k) = k/W for k < W, then f_∞ + (1 − f_∞) cos²(π/2 · (k − W)/(T − W)), and f_∞ from T on

    cos²(φ/2) = (1 + cos φ)/2 of Loshchilov & Hutter 2017 eq. 5, without the cancellation at the end. f(k) belongs to
    the update that k updates went before: it is set before that update.

    step          k    (...)   updates taken before this one, integers of at least 0
    warmup_steps  W    int     updates of the warm-up, at least 0, less than total_steps
    total_steps   T    int     updates in all
    min_lr_ratio  f_∞  number  share of the base rate at the end, in [0, 1]
    returns       f    (...)   factor of the base rate, 0 at k = 0, 1 at k = W
    """
    share = np.maximum(step - warmup_steps, 0) / (total_steps - warmup_steps)
    decayed = np.where(
        step < total_steps, min_lr_ratio + (1 - min_lr_ratio) * np.cos(share * (np.pi / 2)) ** 2, min_lr_ratio
    )
    return np.where(step < warmup_steps, step / max(warmup_steps, 1), decayed)


def ema_update(average, parameter, *, decay=0.999):
    """a' = a + (1 − d)(x − a), once per optimiser step        (Polyak & Juditsky 1992; exponential weights)

    average    a   (...)   average so far
    parameter  x   (...)   weights after the step, unit of a
    decay      d   number  share of the old average that stays, in [0, 1)
    returns    a'  (...)
    """
    return average + (1 - decay) * (parameter - average)


def ema_update_vjp(cotangent, average, parameter, decay):
    """(d ā', (1 − d) ā')"""
    return decay * cotangent, (1 - decay) * cotangent


# -- rules ------------------------------------------------------------------------------------------------------------


def legacy_memory_heuristic(
    batch, resolution, *, base_channels=192, levels=4, kernel_cache=0, mixed_precision=False, clip_model=False
):
    """M = 300 c ℓ p + 500 b (r/1024)² max(c, ½) p + 100 + 5 k + (p = ½ ? 180 : 360 with a CLIP model)

    c = max(C/192, ½), ℓ = max(L/4, ½), p = ½ in mixed precision, else 1. A heuristic whose constants were
    neither derived nor measured. The parameters of a convolution grow with C², here they grow with C; attention, which
    grows with (r²)², is missing.

    batch            b  int     images at once
    resolution       r  number  side of an image, pixels
    base_channels    C  int     channels of the first level
    levels           L  int     levels of the network (length of its channel multipliers)
    kernel_cache     k  int     kernels held in a cache
    mixed_precision     bool    16-bit activations
    clip_model          bool    whether a CLIP model is loaded beside the network
    returns          M  ()      MB
    """
    p = 0.5 if mixed_precision else 1.0
    c, depth = np.maximum(np.asarray(base_channels) / 192, 0.5), np.maximum(np.asarray(levels) / 4, 0.5)
    images = batch * 500 * (resolution / 1024) ** 2 * c * p
    guide = (180.0 if mixed_precision else 360.0) if clip_model else 0.0
    return 300 * c * depth * p + images + (100 + 5 * kernel_cache) + guide


def batch_size(free):
    """b = 16 for free ≥ 24, 8 for free ≥ 16, 4 for free ≥ 12, 2 for free ≥ 8, else 1

    free     (...)   free device memory, GiB; not the card's total: a 24 GiB card never has 24 GiB free
    returns  b (...) images at once, int64
    """
    return 1 + np.where(free >= 8, 1, 0) + np.where(free >= 12, 2, 0) + 4 * (free >= 16) + 8 * (free >= 24)
