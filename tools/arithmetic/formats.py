"""The floating-point formats under test: unit roundoff, smallest half-step, largest value.

u    unit roundoff: half the distance from 1 to the next number
eta  half the smallest subnormal: the largest absolute error of a rounding that underflows
u_acc  unit roundoff of the accumulator an honest kernel uses (float32 for the half formats)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Precision:
    name: str
    u: float
    eta: float
    max: float
    u_acc: float

    @property
    def half(self) -> bool:
        return self.name in ("float16", "bfloat16")

    @property
    def torch(self) -> torch.dtype:
        return getattr(torch, self.name)  # type: ignore[no-any-return]


def _precision(name: str) -> Precision:
    info = torch.finfo(getattr(torch, name))
    u = info.eps / 2
    subnormal = info.tiny * info.eps
    return Precision(name, u, subnormal / 2, info.max, min(u, 2.0**-24))


PRECISIONS = {name: _precision(name) for name in ("float64", "float32", "float16", "bfloat16")}


def precision(name: str) -> Precision:
    """The format called ``name``; ValueError names the four that exist."""
    if name not in PRECISIONS:
        raise ValueError(f"dtype was {name!r}; allowed are {', '.join(PRECISIONS)}.")
    return PRECISIONS[name]


def round_to(values: np.ndarray, dtype: str) -> np.ndarray:
    """``values`` rounded once to ``dtype`` (ties to even), returned in float64."""
    wide = torch.from_numpy(np.array(values, dtype=np.float64, order="C"))  # a writable copy; 0-d stays 0-d
    return wide.to(precision(dtype).torch).to(torch.float64).numpy()
