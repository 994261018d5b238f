"""A NumPy function of the ledger as a torch implementation, so that it can replace the built-in one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from trueness.tools.spec.model import Formula


def as_torch(function: Callable[..., Any], formula: Formula) -> Callable[..., Any]:
    """``function``, a variant of ``formula``, on tensors: computed in float64 and rounded once."""

    def implementation(*arguments: Any, dtype: torch.dtype | None = None, device: Any = None) -> Any:
        target = dtype or next(
            (x.dtype for a, x in zip(formula.arguments, arguments, strict=True) if a.real), torch.float64
        )
        result = function(*(plain(x) for x in arguments))
        parts: Sequence[Any] = result if isinstance(result, tuple) else (result,)
        kinds = formula.outputs or ("dtype",) * len(parts)
        made = [
            torch.from_numpy(np.array(y)).to(target if kind == "dtype" else getattr(torch, kind))
            for y, kind in zip(parts, kinds, strict=True)
        ]
        return tuple(made) if isinstance(result, tuple) else made[0]

    return implementation


def plain(value: Any) -> Any:
    """Tensors as NumPy arrays, floating ones in float64; lists and tuples item by item."""
    if isinstance(value, (list, tuple)):
        return type(value)(plain(v) for v in value)
    if not isinstance(value, torch.Tensor):
        return value
    value = value.detach()
    return (value.double() if value.is_floating_point() else value).numpy()
