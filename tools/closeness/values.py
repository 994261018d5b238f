"""Tensors and arrays of any framework, device and dtype as float64 arrays, with the roundoff that they carry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from trueness.tools.graph.tracing import WIDE
from trueness.tools.run import frameworks
from trueness.tools.spec.tables import FORMATS

REAL_OF = {"complex64": "float32", "complex128": "float64", "complex32": "float16"}


def has_dtype(x: Any) -> bool:
    return hasattr(x, "dtype") and hasattr(x, "shape")


def is_real(x: Any) -> bool:
    return isinstance(x, (np.ndarray, np.generic)) and x.dtype.kind == "f"


def as_float64(x: Any) -> Any:
    """An array or a tensor in float64, integers and truth values as they are; anything else as it is."""
    if isinstance(x, torch.Tensor):
        if x.layout != torch.strided or x.is_quantized:
            raise ValueError(f"an input was a tensor of layout {x.layout} and dtype {x.dtype}; it must be dense.")
        wide = x.detach().cpu().resolve_conj().resolve_neg()
        return wide.to(WIDE.get(wide.dtype, wide.dtype)).numpy()
    if not has_dtype(x):
        return x
    plain = np.asarray(x)
    return plain if plain.dtype.kind in "biuc" else plain.astype(np.float64)


def unit_of(x: Any) -> float:
    """The roundoff of an argument: of its format, of float64 where it has none."""
    name = REAL_OF.get(frameworks.dtype_name(x), frameworks.dtype_name(x)) if has_dtype(x) else ""
    return FORMATS[name].u if name in FORMATS else 2.0**-53


def arrays_of(actual: Any, optional: bool = False) -> list[Any]:
    """What an implementation returned; ``optional``: None may stand for one of several."""
    found = several(actual)
    wrong = [type(y).__name__ for y in found if not has_dtype(y) and not (optional and y is None)]
    if wrong:
        raise ValueError(f"actual was {wrong[0]}; it must be a tensor or an array, or a tuple of them.")
    return [real_parts(y) for y in found]


def real_parts(y: Any) -> Any:
    """A complex tensor or array with its parts along a further axis; anything else as it is."""
    if isinstance(y, torch.Tensor):
        return torch.view_as_real(y.detach().resolve_conj()) if y.is_complex() else y
    return np.stack([y.real, y.imag], -1) if has_dtype(y) and np.asarray(y).dtype.kind == "c" else y


def name_of_dtype(dtype: Any) -> str:
    return dtype if isinstance(dtype, str) else str(dtype).removeprefix("torch.")


def several(result: Any) -> list[Any]:
    return list(result) if isinstance(result, (tuple, list)) else [result]


def same_shapes(name: str, found: Sequence[tuple[int, ...]], wanted: Sequence[tuple[int, ...]]) -> None:
    if [tuple(s) for s in found] != [tuple(s) for s in wanted]:
        raise ValueError(
            f"{name} had shapes {[*map(tuple, found)]}; those of the reference are {[*map(tuple, wanted)]}."
        )
