"""What the calibration measures: a Subject (one formula, one direction), its correct Variants and its mutants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from trueness.tools.spec.tables import FORMATS, formats_by_precision

DTYPES = tuple(name for name in formats_by_precision() if name != "float64")
HALF = tuple(name for name in DTYPES if FORMATS[name].half)
TILE = 16  # of the tiled mutants


def always(*_: Any) -> bool:
    return True


@dataclass(frozen=True)
class Variant:
    """An implementation in torch.

    kind      "fused" or "eager": right, and held to that limit; "mutant": wrong; "reported": measured, held to nothing
    function  takes tensors in the dtype under test, and the subject's exact arguments as they are
    relevant  of the arguments of a case: whether the mistake can show on it at all (a mask it gets wrong, a last tile)
    """

    name: str
    kind: str
    function: Callable[..., Any]
    relevant: Callable[..., bool] = always
    dtypes: tuple[str, ...] = DTYPES


@dataclass(frozen=True)
class Subject:
    """A formula in one direction.

    reference  the NumPy function, or its vector-Jacobian product
    draw       (generator, index of the case) → arguments in float64
    exact      positions of arguments that are not rounded to the dtype: a mask, a scalar
    reduction  n of the bound, from the arguments
    """

    family: str
    direction: str
    reference: Callable[..., Any]
    draw: Callable[[np.random.Generator, int], tuple[Any, ...]]
    reduction: Callable[..., int]
    variants: tuple[Variant, ...]
    exact: tuple[int, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        return self.family, self.direction


def magnitude(generator: np.random.Generator, low: float, high: float) -> float:
    """Log-uniform between 10^low and 10^high."""
    return float(10 ** generator.uniform(low, high))


def length(generator: np.random.Generator, low: int, high: int) -> int:
    """An integer, log-uniform between ``low`` and ``high``."""
    return int(np.exp(generator.uniform(np.log(low), np.log(high + 1))))


def scattered(generator: np.random.Generator, shape: Sequence[int], low: float, high: float) -> np.ndarray:
    """Elements of random sign, each of its own log-uniform magnitude."""
    return generator.choice([-1.0, 1.0], shape) * 10 ** generator.uniform(low, high, shape)


def tf32(x: torch.Tensor) -> torch.Tensor:
    """float32 rounded to the 10 bits of mantissa that TF32 tensor cores read."""
    return ((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def gradients(function: Callable[..., torch.Tensor], cotangent: torch.Tensor, *wanted: torch.Tensor) -> Any:
    """The gradients autograd computes of ``function(*wanted)``."""
    leaves = [x.detach().clone().requires_grad_() for x in wanted]
    return torch.autograd.grad(function(*leaves), leaves, cotangent)


def wrong(
    function: Callable[..., Any], named: dict[str, Callable[..., bool]], only: dict[str, tuple[str, ...]]
) -> tuple[Variant, ...]:
    """Mutants of ``function`` by name and relevance; ``only`` lists the dtypes of those that do not exist in all."""
    return tuple(
        Variant(name, "mutant", partial(function, bug=name), relevant, only.get(name, ("float32", *HALF)))
        for name, relevant in named.items()
    )
