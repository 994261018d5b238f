"""The equations between the gradient and the weights, as functions of tensors, and two rules for memory.

    g = Σ_j n_j g_j / Σ_j n_j,    g ← g · min(1, c/(‖g‖ + 10⁻⁶)),    lr_k = base_lr · f(k),    a ← a + (1 − d)(x − a)

Goyal et al. 2017 (1706.02677) §3; Pascanu, Mikolov & Bengio 2013; Loshchilov & Hutter 2017 (1608.03983) eq. 5; Polyak &
Juditsky 1992.
"""

from __future__ import annotations

import math

import torch

from trueness.optimized._lib.dtypes import upcast
from trueness.optimized._lib.validation import INTEGERS, is_number, require_count, require_floating
from trueness.optimized.training.norms import EPS, require_max_norm
from trueness.optimized.training.validation import require_decay, require_schedule

__all__ = [
    "accumulate",
    "batch_size",
    "clip_after_average",
    "clip_by_global_norm",
    "ema_update",
    "legacy_memory_heuristic",
    "steps_per_epoch",
    "warmup_cosine_factor",
]

TIERS = ((8.0, 1), (12.0, 2), (16.0, 4), (24.0, 8))  # GiB free, images more


# -- gradients --------------------------------------------------------------------------------------------------------


def accumulate(gradients: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """g = Σ_j n_j g_j / Σ_j n_j: the gradient of the mean loss over all samples of a window        (Goyal et al. §3)

    gradients  g_j  (K, ...)  gradient of the mean loss over each micro-batch; a last window may have fewer, K ≤ A
    counts     n_j  (K,)      samples in each micro-batch, integers of at least 1
    returns    g    (...)     dtype of gradients, summed in float32 or float64
    raises     ValueError     if gradients is not floating or has no first axis, or counts is not K integers ≥ 1
    """
    return _mean(gradients, counts).to(gradients.dtype)


def _mean(gradients: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    require_floating(gradients, "gradients")
    if gradients.ndim < 1 or gradients.shape[0] < 1:
        raise ValueError(f"gradients had shape {tuple(gradients.shape)}; it must be (K, ...) with K of at least 1.")
    if not isinstance(counts, torch.Tensor) or counts.dtype not in INTEGERS:
        kind = counts.dtype if isinstance(counts, torch.Tensor) else type(counts).__name__
        raise ValueError(f"counts was {kind}; it must be a torch.Tensor of integers, the samples of each micro-batch.")
    if tuple(counts.shape) != (gradients.shape[0],):
        raise ValueError(
            f"counts had shape {tuple(counts.shape)}; it must be ({gradients.shape[0]},), one per gradient."
        )
    if not torch.compiler.is_compiling() and counts.device.type == "cpu" and int(counts.min()) < 1:
        raise ValueError(f"counts had {int(counts.min())} in it; every micro-batch must have at least 1 sample.")
    x = upcast(gradients)
    n = counts.to(device=x.device, dtype=x.dtype)
    share = n / n.sum()  # first, so that n g cannot overflow where g does not
    return (x * share.reshape(share.shape + (1,) * (x.ndim - 1))).sum(0)


def clip_by_global_norm(gradient: torch.Tensor, *, max_norm: float = 1.0) -> torch.Tensor:
    """g' = g · min(1, c/(‖g‖ + 10⁻⁶))        (Pascanu et al. 2013 Alg. 1; 10⁻⁶ as torch has it)

    gradient  g   (...)   of all parameters together; ``GradientAccumulator`` takes one norm over many tensors
    max_norm  c   number  largest norm, positive, unit of g
    returns   g'  (...)   dtype of gradient; squares are summed in float64, so that no norm overflows
    raises    ValueError  if gradient is not floating or max_norm is not positive and finite
    """
    require_floating(gradient, "gradient")
    require_max_norm(max_norm)
    return _clipped(upcast(gradient), max_norm).to(gradient.dtype)


def _clipped(x: torch.Tensor, max_norm: float) -> torch.Tensor:
    norm = torch.linalg.vector_norm(x, dtype=torch.float64)
    return x * (max_norm / (norm + EPS)).clamp(max=1.0).to(x.dtype)


def clip_after_average(gradients: torch.Tensor, counts: torch.Tensor, *, max_norm: float = 1.0) -> torch.Tensor:
    """g' = clip(Σ_j n_j g_j / Σ_j n_j): first the mean over the window's samples, then one clipping of it

    gradients  g_j  (K, ...)  gradient of the mean loss over each micro-batch
    counts     n_j  (K,)      samples in each micro-batch, integers of at least 1
    max_norm   c    number    largest norm of the mean, positive
    returns    g'   (...)     dtype of gradients, rounded once
    raises     ValueError     as ``accumulate`` and ``clip_by_global_norm``
    """
    require_max_norm(max_norm)
    return _clipped(_mean(gradients, counts), max_norm).to(gradients.dtype)


def steps_per_epoch(micro_batches: int, window: int) -> int:
    """steps = ⌈N/A⌉: the last window may be short, and is stepped as well

    micro_batches  N  int   micro-batches in an epoch, at least 0
    window         A  int   micro-batches per optimiser step, at least 1
    returns        steps    int
    raises         ValueError for anything else
    """
    return -(-require_count(micro_batches, "micro_batches", 0) // require_count(window, "window", 1))


# -- learning rate and average ----------------------------------------------------------------------------------------


def warmup_cosine_factor(
    step: torch.Tensor,
    *,
    warmup_steps: int,
    total_steps: int,
    min_lr_ratio: float = 0.0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """f(k) = k/W for k < W, then f_∞ + (1 − f_∞) cos²(π/2 · (k − W)/(T − W)), and f_∞ from T on

    cos²(φ/2) = (1 + cos φ)/2 of Loshchilov & Hutter 2017 eq. 5. ``WarmupCosine`` sets it before the update it is for.

    step          k    (...)   updates taken before this one, a tensor of integers of at least 0
    warmup_steps  W    int     updates of the warm-up, at least 0, less than total_steps
    total_steps   T    int     updates in all
    min_lr_ratio  f_∞  number  share of the base rate at the end, in [0, 1]
    returns       f    (...)   factor of the base rate, 0 at k = 0, 1 at k = W
    raises        ValueError   for anything else
    """
    if not isinstance(step, torch.Tensor) or step.dtype not in INTEGERS:
        kind = step.dtype if isinstance(step, torch.Tensor) else type(step).__name__
        raise ValueError(f"step was {kind}; it must be a torch.Tensor of integers, the updates taken before.")
    require_schedule(warmup_steps, total_steps, min_lr_ratio)
    k = step.double()
    share = (k - warmup_steps).clamp(min=0) / (total_steps - warmup_steps)
    decayed = torch.where(
        k < total_steps, min_lr_ratio + (1 - min_lr_ratio) * torch.cos(share * (math.pi / 2)) ** 2, min_lr_ratio
    )
    return torch.where(k < warmup_steps, k / max(warmup_steps, 1), decayed).to(device=device, dtype=dtype)


def ema_update(average: torch.Tensor, parameter: torch.Tensor, *, decay: float = 0.999) -> torch.Tensor:
    """a' = a + (1 − d)(x − a), once per optimiser step        (Polyak & Juditsky 1992; exponential weights)

    average    a   (...)   average so far; ``EMA`` stores it in float32 or wider
    parameter  x   (...)   weights after the step, like average
    decay      d   number  share of the old average that stays, in [0, 1)
    returns    a'  (...)   dtype of average
    raises     ValueError  if average is not floating, parameter is not like it, or decay lies outside of [0, 1)
    """
    require_floating(average, "average")
    require_floating(parameter, "parameter")
    if (parameter.shape, parameter.dtype, parameter.device) != (average.shape, average.dtype, average.device):
        raise ValueError(
            f"parameter was {tuple(parameter.shape)} {parameter.dtype} on {parameter.device}; "
            f"it must be like average, {tuple(average.shape)} {average.dtype} on {average.device}."
        )
    require_decay(decay)
    a, x = upcast(average), upcast(parameter)
    return (a + (1 - decay) * (x - a)).to(average.dtype)


# -- rules ------------------------------------------------------------------------------------------------------------


def legacy_memory_heuristic(
    batch: int,
    resolution: float,
    *,
    base_channels: int = 192,
    levels: int = 4,
    kernel_cache: int = 0,
    mixed_precision: bool = False,
    clip_model: bool = False,
) -> float:
    """M = 300 c ℓ p + 500 b (r/1024)² max(c, ½) p + 100 + 5 k + (p = ½ ? 180 : 360 with a CLIP model)

    c = max(C/192, ½), ℓ = max(L/4, ½), p = ½ in mixed precision, else 1. A documented heuristic, for
    comparison: its constants were never measured. ``estimate_memory`` simulates the step of a real module.

    batch            b  int     images at once
    resolution       r  number  side of an image, pixels
    base_channels    C  int     channels of the first level
    levels           L  int     levels of the network (length of its channel multipliers)
    kernel_cache     k  int     kernels held in a cache
    mixed_precision     bool    16-bit activations
    clip_model          bool    whether a CLIP model is loaded beside the network
    returns          M  float   MB
    raises           ValueError for counts that are no integers or too small, and a resolution that is not positive
    """
    require_count(batch, "batch", 1)
    if not is_number(resolution) or not 0 < resolution < math.inf:
        raise ValueError(f"resolution was {resolution!r}; it must be a positive number of pixels.")
    require_count(kernel_cache, "kernel_cache", 0)
    p = 0.5 if mixed_precision else 1.0
    c = max(require_count(base_channels, "base_channels", 1) / 192, 0.5)
    depth = max(require_count(levels, "levels", 1) / 4, 0.5)
    guide = (180.0 if mixed_precision else 360.0) if clip_model else 0.0
    return 300 * c * depth * p + batch * 500 * (resolution / 1024) ** 2 * c * p + (100 + 5 * kernel_cache) + guide


def batch_size(free: float) -> int:
    """b = 16 for free ≥ 24, 8 for free ≥ 16, 4 for free ≥ 12, 2 for free ≥ 8, else 1

    free     number  free device memory, GiB; not the card's total: a 24 GiB card never has 24 GiB free
    returns  b       images at once
    raises   ValueError if free is not a number of at least 0
    """
    if not is_number(free) or not free >= 0:
        raise ValueError(f"free was {free!r}; it must be a number of at least 0, the GiB that are free.")
    return 1 + sum(more for least, more in TIERS if free >= least)
