"""Training, from the gradient to the weights and to the disk.

    g = Σ_j n_j g_j / Σ_j n_j,    g ← g · min(1, c/(‖g‖ + 10⁻⁶)),    lr_k = base · f(k),    a ← a + (1 − d)(x − a)

The equations are functions of tensors here; what a loop uses are the classes that apply them in the right order:

    GradientAccumulator   windows of micro-batches, the short last one included; clips after the average
    WarmupCosine, EMA     the rate, set before the update; the average of the weights, once per update
    Checkpointing, save_checkpoint, load_checkpoint, load_weights      resume to the identical state, or a refusal
    deterministic, seed, evaluating      reversible: generators and flags, the mode of every submodule
    FeatureCache          keyed by content
    precision, batch_size, estimate_memory, largest_batch      what a device can do, and whether a step fits
    graphable, Graphed    CUDA graphs for what may be captured
    override, JsonLines   settings from a command line; a log without a network

Goyal et al. 2017 (1706.02677) §3; Pascanu, Mikolov & Bengio 2013; Loshchilov & Hutter 2017 (1608.03983) eq. 5; Polyak &
Juditsky 1992.
"""

from __future__ import annotations

import math

import torch

from trueness.optimized._lib.dtypes import upcast
from trueness.optimized._lib.modes import evaluating
from trueness.optimized._lib.validation import require_count, require_floating
from trueness.optimized.training.checkpoints import (
    Checkpoint,
    CheckpointError,
    check_state,
    load_checkpoint,
    load_weights,
    replacing,
    save_checkpoint,
    select_weights,
)
from trueness.optimized.training.cuda_graphs import Eligibility, Graphed, graph_key, graphable
from trueness.optimized.training.determinism import deterministic, seed
from trueness.optimized.training.feature_cache import FeatureCache, content_key
from trueness.optimized.training.hardware import (
    Device,
    device_properties,
    has_bfloat16,
    has_float16,
    has_tf32,
    needs_loss_scaling,
    precision,
)
from trueness.optimized.training.memory import StepMemory, estimate_memory, largest_batch, measure_memory
from trueness.optimized.training.norms import EPS, require_max_norm
from trueness.optimized.training.optimization import (
    EMA,
    GradientAccumulator,
    WarmupCosine,
    require_decay,
    require_schedule,
)
from trueness.optimized.training.resume import Checkpointing
from trueness.optimized.training.rng import random_state, restore_random_state
from trueness.optimized.training.settings import JsonLines, override

__all__ = [
    "EMA",
    "Checkpoint",
    "CheckpointError",
    "Checkpointing",
    "Device",
    "Eligibility",
    "FeatureCache",
    "GradientAccumulator",
    "Graphed",
    "JsonLines",
    "StepMemory",
    "WarmupCosine",
    "accumulate",
    "batch_size",
    "check_state",
    "clip_after_average",
    "clip_by_global_norm",
    "content_key",
    "deterministic",
    "device_properties",
    "ema",
    "estimate_memory",
    "evaluating",
    "graph_key",
    "graphable",
    "has_bfloat16",
    "has_float16",
    "has_tf32",
    "largest_batch",
    "load_checkpoint",
    "load_weights",
    "measure_memory",
    "memory_estimate",
    "needs_loss_scaling",
    "override",
    "precision",
    "random_state",
    "replacing",
    "restore_random_state",
    "save_checkpoint",
    "seed",
    "select_weights",
    "steps_per_epoch",
    "warmup_cosine",
]

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
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


def clip_by_global_norm(gradient: torch.Tensor, max_norm: float) -> torch.Tensor:
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


def clip_after_average(gradients: torch.Tensor, counts: torch.Tensor, max_norm: float) -> torch.Tensor:
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


def warmup_cosine(
    step: torch.Tensor,
    warmup: int,
    total: int,
    floor: float,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """f(k) = k/W for k < W, then f_∞ + (1 − f_∞) cos²(π/2 · (k − W)/(T − W)), and f_∞ from T on

    cos²(φ/2) = (1 + cos φ)/2 of Loshchilov & Hutter 2017 eq. 5. ``WarmupCosine`` sets it before the update it is for.

    step     k    (...)   updates taken before this one, a tensor of integers of at least 0
    warmup   W    int     updates of the warm-up, at least 0, less than T
    total    T    int     updates in all
    floor    f_∞  number  share of the base rate at the end, in [0, 1]
    returns  f    (...)   factor of the base rate, 0 at k = 0, 1 at k = W; on the device of step unless one is given
    raises   ValueError   for anything else
    """
    if not isinstance(step, torch.Tensor) or step.dtype not in INTEGERS:
        kind = step.dtype if isinstance(step, torch.Tensor) else type(step).__name__
        raise ValueError(f"step was {kind}; it must be a torch.Tensor of integers, the updates taken before.")
    require_schedule(warmup, total, floor)
    k = step.double()
    share = (k - warmup).clamp(min=0) / (total - warmup)
    decayed = torch.where(k < total, floor + (1 - floor) * torch.cos(share * (math.pi / 2)) ** 2, floor)
    return torch.where(k < warmup, k / max(warmup, 1), decayed).to(device=device, dtype=dtype)


def ema(average: torch.Tensor, parameter: torch.Tensor, decay: float) -> torch.Tensor:
    """a' = a + (1 − d)(x − a), once per optimiser step        (Polyak & Juditsky 1992; exponential weights)

    average    a   (...)   average so far; ``EMA`` keeps it in float32 at least
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


def memory_estimate(
    batch: int,
    resolution: float,
    base_channels: int,
    levels: int,
    kernel_cache: int,
    mixed_precision: bool,
    clip_model: bool,
) -> float:
    """M = 300 c ℓ p + 500 b (r/1024)² max(c, ½) p + 100 + 5 k + (p = ½ ? 180 : 360 with a CLIP model)

    c = max(C/192, ½), ℓ = max(L/4, ½), p = ½ in mixed precision, else 1. A documented heuristic whose constants nobody
    measured; ``estimate_memory`` simulates the step of a real module and is calibrated.

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
    if isinstance(resolution, bool) or not isinstance(resolution, (int, float)) or not 0 < resolution < math.inf:
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
    if isinstance(free, bool) or not isinstance(free, (int, float)) or not free >= 0:
        raise ValueError(f"free was {free!r}; it must be a number of at least 0, the GiB that are free.")
    return 1 + sum(more for least, more in TIERS if free >= least)
