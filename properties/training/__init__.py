"""The formulas of the family training: accumulation, clipping, warm-up, averaging, and the rules that are numbers."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from trueness.optimized import training as fast
from trueness.reference import training as true
from trueness.tools.spec.inputs import Made, Real, Scalar
from trueness.tools.spec.model import Formula, Implementation

GOYAL = "Goyal et al. 2017 (1706.02677) §3"
PASCANU = "Pascanu, Mikolov & Bengio 2013 (1211.5063) Alg. 1; ε = 10⁻⁶ as in torch.nn.utils.clip_grad_norm_"
COSINE = "Loshchilov & Hutter 2017 (1608.03983) eq. 5, after a linear warm-up (Goyal et al. 2017 §2.2)"
POLYAK = "Polyak & Juditsky 1992; exponential weights as in torch.optim.swa_utils.get_ema_multi_avg_fn"
ATLAS = "ATLAS easy_api.py and hardware.py, 2025-11-20"
WHOLE = "whole numbers: exact in every arithmetic; the laws count them"
NO_LEARNING = "a function of the settings: nothing is learned through it"


# -- what is drawn ----------------------------------------------------------------------------------------------------


def counts(known: Mapping[str, Any], generator: np.random.Generator) -> np.ndarray:
    """Samples of each micro-batch; the last may be short."""
    return generator.integers(1, 9, known["K"])


def steps(known: Mapping[str, Any], generator: np.random.Generator) -> np.ndarray:
    """Updates from the first to the one after the last, the end of the warm-up among them."""
    drawn = generator.integers(1, known["total_steps"] + 1, known["N"])
    return np.where(np.arange(known["N"]) == 1, known["warmup_steps"], drawn)


def elements(sizes: Mapping[str, Any]) -> int:
    return int(np.prod(sizes["..."], dtype=np.int64)) * sizes.get("N", 1)


# of one element alone the terms of a mean may cancel so far that zeros pass for it; of four they do not
FOUR = {"N": (4, 5)}
GRADIENTS = Real("gradients", dims=("K", "...", "N"), decades=(-4.0, 2.0), spans={"K": (1, 5), **FOUR})
COUNTS = Made("counts", make=counts, array=True)
TIERS = (8.0, 12.0, 16.0, 24.0)
MAX_NORM = Scalar("max_norm", st.sampled_from((0.01, 0.5, 1.0, 3.0)), far=(1e-4, 100.0))


# -- third parties ----------------------------------------------------------------------------------------------------


def torch_accumulate(gradients: Any, counts: Any) -> Any:
    """What autograd leaves in .grad after one backward per micro-batch, each loss weighted by its share."""
    w = torch.zeros(gradients.shape[1:], dtype=gradients.dtype, requires_grad=True)
    for g, n in zip(gradients, counts.tolist(), strict=True):
        ((w * g).sum() * (n / int(counts.sum()))).backward()
    assert w.grad is not None
    return w.grad


def torch_clip(gradient: Any, max_norm: float) -> Any:
    p = torch.nn.Parameter(torch.zeros_like(gradient))
    p.grad = gradient.clone()
    torch.nn.utils.clip_grad_norm_([p], max_norm)
    return p.grad


def torch_clip_after_average(gradients: Any, counts: Any, max_norm: float) -> Any:
    return torch_clip(torch_accumulate(gradients, counts), max_norm)


def scheduled(get: Any) -> Any:
    """The factor of a library's warm-up and cosine, with f_∞ + (1 − f_∞) f where it decays."""

    def call(step: Any, warmup_steps: int, total_steps: int, min_lr_ratio: float, *, dtype: Any, device: Any) -> Any:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        factor = get(optimizer, num_warmup_steps=warmup_steps, num_training_steps=total_steps).lr_lambdas[0]
        found = [
            factor(k) if k < warmup_steps else min_lr_ratio + (1 - min_lr_ratio) * factor(k) for k in step.tolist()
        ]
        return torch.tensor(found, dtype=dtype, device=device)

    return call


def diffusers_schedule() -> Any:
    from diffusers.optimization import get_cosine_schedule_with_warmup

    return scheduled(get_cosine_schedule_with_warmup)


def transformers_schedule() -> Any:
    from transformers import get_cosine_schedule_with_warmup

    return scheduled(get_cosine_schedule_with_warmup)


def swa_ema(average: Any, parameter: Any, decay: float) -> Any:
    from torch.optim.swa_utils import get_ema_multi_avg_fn

    a = average.clone()
    get_ema_multi_avg_fn(decay)([a], [parameter], 1)
    return a


# -- declarations -----------------------------------------------------------------------------------------------------


def ours(name: str, *claims: str, limit: Any = "fused") -> Implementation:
    return Implementation("trueness", lambda: getattr(fast, name), limit=limit, claims=frozenset(claims))


def number(name: str, limit: Any = "fused", kind: Any = None) -> Implementation:
    """A function that returns a Python number, as a tensor of the type asked for."""

    def load() -> Any:
        function = getattr(fast, name)

        @functools.wraps(function)
        def call(*arguments: Any, dtype: Any = None, device: Any = None, **options: Any) -> Any:
            return torch.tensor(function(*arguments, **options), dtype=kind or dtype, device=device)

        return call

    return Implementation("trueness", load, limit=limit)


def peer(name: str, load: Any, needs: tuple[str, ...] = (), **fields: Any) -> Implementation:
    return Implementation(
        name,
        load,
        limit="eager",
        needs=needs,
        dtypes=("float32",),
        only="registered in one dtype",
        devices=("cpu",),
        origin="third_party",
        **fields,
    )


FORMULAS = (
    Formula(
        name="training.accumulate",
        reference=true.accumulate,
        vjp=true.accumulate_vjp,
        equation="g = Σ_j n_j g_j / Σ_j n_j",
        source=GOYAL,
        arguments=(GRADIENTS, COUNTS),
        implementations=(
            ours("accumulate", "gradient", "autocast"),
            peer("torch autograd", lambda: torch_accumulate),
        ),
        reduction=lambda sizes: sizes["K"],
    ),
    Formula(
        name="training.clip_by_global_norm",
        reference=true.clip_by_global_norm,
        vjp=true.clip_by_global_norm_vjp,
        equation="g' = g · min(1, c/(‖g‖ + 10⁻⁶))",
        source=PASCANU,
        arguments=(Real("gradient", decades=(-4.0, 2.0)), MAX_NORM),
        implementations=(
            ours("clip_by_global_norm", "gradient", "compile", "autocast"),
            peer("torch.nn.utils.clip_grad_norm_", lambda: torch_clip),
        ),
        reduction=elements,
    ),
    Formula(
        name="training.clip_after_average",
        reference=true.clip_after_average,
        vjp=true.clip_after_average_vjp,
        equation="g' = clip(Σ_j n_j g_j / Σ_j n_j, c)",
        source=f"{GOYAL}; {PASCANU}",
        arguments=(GRADIENTS, COUNTS, MAX_NORM),
        implementations=(
            ours("clip_after_average", "gradient"),
            peer("torch autograd, clip_grad_norm_", lambda: torch_clip_after_average),
        ),
        reduction=lambda sizes: sizes["K"] * elements(sizes),
    ),
    Formula(
        name="training.steps_per_epoch",
        reference=true.steps_per_epoch,
        no_gradient="whole numbers",
        equation="steps = ⌈N/A⌉",
        source=GOYAL,
        arguments=(
            Scalar("micro_batches", st.integers(0, 40), far=(300, 70001)),
            Scalar("window", st.integers(1, 9), far=(64, 300)),
        ),
        implementations=(number("steps_per_epoch", "exact", torch.int64),),
        outputs=("int64",),
        working="float64",
        creates=True,
        ball=WHOLE,
    ),
    Formula(
        name="training.warmup_cosine_factor",
        formerly=("training.warmup_cosine",),
        reference=true.warmup_cosine_factor,
        no_gradient=NO_LEARNING,
        equation="f(k) = k/W for k < W, then f_∞ + (1 − f_∞)(1 + cos(π (k − W)/(T − W)))/2",
        source=COSINE,
        arguments=(
            Made("step", make=steps, array=True, spans={"N": (4, 9)}),
            Scalar("warmup_steps", st.integers(0, 20)),
            Scalar("total_steps", st.integers(21, 60), far=(300, 100_000)),
            Scalar("min_lr_ratio", st.sampled_from((0.0, 0.1, 0.01, 0.5))),
        ),
        implementations=(
            ours("warmup_cosine_factor"),
            peer("diffusers", diffusers_schedule, ("diffusers",), convention="MEM-28c"),
            peer("transformers", transformers_schedule, ("transformers",), convention="MEM-28c"),
        ),
        working="float64",
        creates=True,
    ),
    Formula(
        name="training.ema_update",
        formerly=("training.ema",),
        reference=true.ema_update,
        vjp=true.ema_update_vjp,
        equation="a' = a + (1 − d)(x − a)",
        source=POLYAK,
        arguments=(
            Real("average", dims=("...", "N"), decades=(-4.0, 2.0), spans=FOUR),
            Real("parameter", dims=("...", "N"), decades=(-4.0, 2.0), spans=FOUR),
            Scalar("decay", st.sampled_from((0.0, 0.5, 0.9, 0.99)), far=(0.9999,)),
        ),
        implementations=(
            ours("ema_update", "gradient", "compile", "autocast", "vmap", "jvp"),
            peer("torch.optim.swa_utils", lambda: swa_ema),
        ),
    ),
    Formula(
        name="training.legacy_memory_heuristic",
        formerly=("training.memory_estimate",),
        reference=true.legacy_memory_heuristic,
        no_gradient=NO_LEARNING,
        equation="M = 300 c ℓ p + 500 b (r/1024)² max(c, ½) p + 100 + 5 k + (p = ½ ? 180 : 360 with a CLIP model)",
        source=f"{ATLAS}: a heuristic; nothing derives its constants",
        arguments=(
            Scalar("batch", st.integers(1, 20)),
            Scalar("resolution", st.sampled_from((64.0, 100.0, 256.0, 512.0, 1024.0, 1536.0))),
            Scalar("base_channels", st.sampled_from((32, 64, 96, 128, 192, 256, 384))),
            Scalar("levels", st.integers(1, 6), far=(12,)),
            Scalar("kernel_cache", st.integers(0, 48)),
            Scalar("mixed_precision", st.booleans()),
            Scalar("clip_model", st.booleans()),
        ),
        implementations=(number("legacy_memory_heuristic"),),
        working="float64",
        creates=True,
    ),
    Formula(
        name="training.batch_size",
        reference=true.batch_size,
        no_gradient="whole numbers",
        equation="b = 16, 8, 4, 2, 1 from 24, 16, 12, 8, 0 GiB free",
        source=f"{ATLAS}: a heuristic; nothing derives its tiers",
        arguments=(
            Scalar("free", st.floats(0, 80), far=[x for tier in TIERS for x in (tier - 0.5, tier, tier + 0.5)]),
        ),
        implementations=(number("batch_size", "exact", torch.int64),),
        outputs=("int64",),
        working="float64",
        creates=True,
        ball=WHOLE,
    ),
)
