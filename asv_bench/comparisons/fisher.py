"""Fisher diagonal and drift of 4×3×1024×1024, and what half precision and the gradients cost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from comparisons.harness import Comparison, Contender
from trueness.optimized import fisher

SHAPE = (4, 3, 1024, 1024)
BYTES = 4 * 4 * 3 * 1024 * 1024
SLACK = 12 << 20  # scratch of a few tiles, and what the allocator rounds up


def scores(rng: np.random.Generator) -> list[Any]:
    return [rng.standard_normal(SHAPE), 0.5]


def starts(rng: np.random.Generator) -> list[Any]:
    return [rng.standard_normal(SHAPE), rng.standard_normal(SHAPE), 0.5, 0.98, 0.02]


def samples(rng: np.random.Generator) -> list[Any]:
    alphas, a, b = rng.uniform(0, 1, 4), rng.uniform(0.9, 1.0, 4), rng.uniform(0.01, 0.1, 4)
    return [rng.standard_normal(SHAPE), rng.standard_normal(SHAPE), alphas, a, b]


def corner(values: list[Any]) -> Any:
    """16 rows of the first sample: every element is a formula of its own, and the rest would take minutes to bound."""

    def small(v: Any) -> Any:
        return v[:1, :, :16] if np.ndim(v) == 4 else v[:1] if np.ndim(v) else v

    return [small(v) for v in values], lambda outs: [small(y) for y in outs]


def into(call: Any) -> Any:
    """The same call with a result that is already there, its memory touched."""

    def prepare(first: torch.Tensor, *rest: Any) -> Any:
        out = torch.zeros_like(first)
        return lambda: call(first, *rest, out=out)

    return prepare


def plain(call: Any) -> Any:
    return lambda *arguments: lambda: call(*arguments)


def eager_drift(x: torch.Tensor, s: torch.Tensor, alpha: Any, a: Any, b: Any) -> torch.Tensor:
    """Six operations; numbers of the samples are put beside their samples."""
    if isinstance(alpha, torch.Tensor):
        alpha, a, b = (v.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1)) for v in (1e-4 + 1e-3 * (1 - alpha), a, b))
        return a * x + b * (s / (s * s + alpha))
    return a * x + b * (s / (s * s + fisher.floor(alpha)))


def copy_floor(first: torch.Tensor, *_: Any) -> Any:
    out = torch.zeros_like(first)
    return lambda: out.copy_(first)


def pulled(call: Any, inputs: int) -> Any:
    """Value and gradients of the first arguments, for a cotangent that comes first."""

    def prepare(cotangent: torch.Tensor, *arguments: Any) -> Any:
        leaves = [x.clone().requires_grad_() for x in arguments[:inputs]]
        rest = arguments[inputs:]
        return lambda: torch.autograd.grad(call(*leaves, *rest), leaves, cotangent)

    return prepare


EAGER = Contender("torch eager", plain(lambda s, alpha: s * s + fisher.floor(alpha)))
WIDE = Contender("torch eager in float32", plain(lambda s, alpha: (s.float() ** 2 + fisher.floor(alpha)).to(s.dtype)))
DRIFT = Contender("torch eager", plain(eager_drift))
COPY = Contender("copy", copy_floor, judged=False)
BOTH = tuple(("torch eager", threads) for threads in (1, 2))

MADE = (
    Comparison(
        "diagonal, fresh",
        "fisher.diagonal",
        scores,
        Contender("trueness", plain(fisher.diagonal)),
        (EAGER, COPY),
        goals=dict.fromkeys(BOTH, 1.9),
        extra=BYTES + SLACK,
    ),
    Comparison(
        "diagonal, out=",
        "fisher.diagonal",
        scores,
        Contender("trueness", into(fisher.diagonal)),
        (EAGER, COPY),
        goals=dict.fromkeys(BOTH, 10.0),
        extra=SLACK,
    ),
    Comparison(
        "drift step, fresh",
        "fisher.drift_step",
        starts,
        Contender("trueness", plain(fisher.drift_step)),
        (DRIFT, COPY),
        goals=dict.fromkeys(BOTH, 5.0),
        extra=BYTES + SLACK,
    ),
    Comparison(
        "drift step, out=",
        "fisher.drift_step",
        starts,
        Contender("trueness", into(fisher.drift_step)),
        (DRIFT, COPY),
        extra=SLACK,
    ),
    Comparison(
        "drift step by sample, fresh",
        "fisher.drift_step_by_sample",
        samples,
        Contender("trueness", plain(fisher.drift_step)),
        (DRIFT,),
        extra=BYTES + SLACK,
    ),
    *(
        Comparison(
            f"diagonal, {how}",
            "fisher.diagonal",
            scores,
            Contender("trueness", ours),
            (EAGER, WIDE),
            dtype=dtype,
        )
        for dtype in ("bfloat16", "float16")
        for how, ours in (("fresh", plain(fisher.diagonal)), ("out=", into(fisher.diagonal)))
    ),
    Comparison(
        "drift step, value and gradient",
        "fisher.drift_step",
        lambda rng: [rng.standard_normal(SHAPE), *starts(rng)],
        Contender("trueness", pulled(fisher.drift_step, 2)),
        (Contender("torch eager", pulled(eager_drift, 2)),),
        gradient=True,
    ),
)

COMPARISONS = tuple(replace(pair, part=corner) for pair in MADE)
