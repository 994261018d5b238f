"""Training, from the gradient to the weights and to the disk.

The equations are functions of tensors (``accumulate``, ``clip_by_global_norm``, ``warmup_cosine_factor``,
``ema_update``); a training loop uses the classes that apply them in the right order:

    GradientAccumulator   windows of micro-batches, the short last one included; clips after the average
    WarmupCosine, EMA     the learning rate, set before the update; the average of the weights, once per update
    Checkpointing, save_checkpoint, load_checkpoint, load_weights      resume to the identical state, or a refusal
    deterministic, seed, evaluating      reversible: generators and flags, the mode of every submodule
    FeatureCache          keyed by content
    precision, batch_size, estimate_memory, largest_batch      what a device can do, and whether a step fits
    graphable, Graphed    CUDA graphs for what may be captured
"""

from trueness.optimized._lib.modes import evaluating
from trueness.optimized.training import (
    accumulator,
    checkpoints,
    cuda_graphs,
    determinism,
    ema,
    feature_cache,
    functional,
    hardware,
    memory,
    resume,
    rng,
    schedule,
)
from trueness.optimized.training.accumulator import *  # noqa: F403
from trueness.optimized.training.checkpoints import *  # noqa: F403
from trueness.optimized.training.cuda_graphs import *  # noqa: F403
from trueness.optimized.training.determinism import *  # noqa: F403
from trueness.optimized.training.ema import *  # noqa: F403
from trueness.optimized.training.feature_cache import *  # noqa: F403
from trueness.optimized.training.functional import *  # noqa: F403
from trueness.optimized.training.hardware import *  # noqa: F403
from trueness.optimized.training.memory import *  # noqa: F403
from trueness.optimized.training.resume import *  # noqa: F403
from trueness.optimized.training.rng import *  # noqa: F403
from trueness.optimized.training.schedule import *  # noqa: F403

__all__: list[str] = ["evaluating"]
__all__ += accumulator.__all__
__all__ += checkpoints.__all__
__all__ += cuda_graphs.__all__
__all__ += determinism.__all__
__all__ += ema.__all__
__all__ += feature_cache.__all__
__all__ += functional.__all__
__all__ += hardware.__all__
__all__ += memory.__all__
__all__ += resume.__all__
__all__ += rng.__all__
__all__ += schedule.__all__
