"""Between float64 NumPy values and the arrays an implementation takes: torch, NumPy or JAX, in any memory layout."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import CellType, CodeType, ModuleType
from typing import Any

import numpy as np
import torch

from trueness.tools.arithmetic.formats import precision
from trueness.tools.spec.inputs import CONTIGUOUS, expanded_axis
from trueness.tools.spec.tables import DEFAULT_DEVICE


class Rejected(Exception):
    """The implementation failed without giving a value to compare; the message is the sentence to print."""


def lay_out(tensor: torch.Tensor, layout: str) -> torch.Tensor:
    """The same values at other addresses; a layout that the shape does not admit leaves the tensor contiguous."""
    axis = expanded_axis(layout)
    if axis is not None and tensor.ndim > axis and tensor.shape[axis] > 0:
        return tensor.narrow(axis, 0, 1).clone().expand(tensor.shape)
    if layout == "transposed" and tensor.ndim >= 2:
        return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == "reversed axes" and tensor.ndim >= 3:  # of two axes it is the transposed one
        axes = tuple(reversed(range(tensor.ndim)))
        return tensor.permute(axes).contiguous().permute(axes)
    if layout == "sliced" and tensor.ndim >= 1:
        return torch.stack([tensor, torch.full_like(tensor, 77)], -1).flatten(-2)[..., ::2]
    if layout == "padded" and tensor.ndim >= 2:
        return torch.cat([tensor, tensor.new_full((*tensor.shape[:-1], 3), 77)], -1)[..., : tensor.shape[-1]]
    if layout == "offset":
        return torch.cat([tensor.new_full((3,), 77), tensor.flatten()])[3:].view(tensor.shape)
    if layout == "channels_last" and tensor.ndim == 4:
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor


def changes(shape: tuple[int, ...], layout: str, framework: str) -> bool:
    """Whether an array of this shape lies in memory otherwise than a contiguous one."""
    if layout == "negative strides":
        return framework == "numpy" and max(shape, default=1) > 1 and 0 not in shape
    laid = lay_out(torch.empty(shape), layout)
    return bool(laid.numel()) and (not laid.is_contiguous() or laid.storage_offset() != 0)


def native(value: Any, real: bool, dtype: str, framework: str, device: str = "cpu", layout: str = CONTIGUOUS) -> Any:
    """``value`` as an array of ``framework``; ``real`` tensors in ``dtype``, tables in float64, indices in int64.

    A list or a tuple is taken item by item.
    """
    if isinstance(value, (list, tuple)):
        return type(value)(native(v, real, dtype, framework, device, layout) for v in value)
    if not isinstance(value, np.ndarray):
        return value
    tensor = torch.from_numpy(np.array(value, order="C"))
    tensor = tensor.to(precision(dtype).torch) if real else tensor
    tensor = lay_out(tensor.to(device), layout)
    if framework == "torch":
        return tensor
    if framework == "numpy":
        array: np.ndarray = tensor.numpy()
        return np.flip(np.flip(array).copy()) if layout == "negative strides" and array.ndim else array
    import jax.numpy as jnp

    return jnp.asarray(value).astype(getattr(jnp, dtype)) if real else jnp.asarray(value)


def unsupported(framework: str, dtype: str, device: str) -> str:
    """Why ``framework`` cannot hold ``dtype`` on ``device``; empty when it can."""
    if framework == "numpy" and not hasattr(np, dtype):
        return f"NumPy has no {dtype}"
    if framework != "torch" and device != DEFAULT_DEVICE:
        return f"{framework} implementations are run on the CPU"
    if framework == "jax" and dtype == "float64":
        jax = importlib.import_module("jax")
        if not jax.config.jax_enable_x64:
            return "JAX holds float64 only with JAX_ENABLE_X64=1"
    return ""


def type_name(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__.split('.')[0]}.{kind.__name__}"


def is_array(value: Any, framework: str) -> bool:
    if framework == "torch":
        return isinstance(value, torch.Tensor)
    if framework == "numpy":
        return isinstance(value, (np.ndarray, np.generic))
    jax = importlib.import_module("jax")
    return isinstance(value, jax.Array)


def returned(result: Any, framework: str, count: int) -> list[Any]:
    """``result`` as ``count`` arrays of ``framework``; Rejected names what was returned instead."""
    expected = {"torch": "torch.Tensor", "numpy": "numpy.ndarray", "jax": "jax.Array"}[framework]
    if count > 1:
        if not isinstance(result, tuple):
            raise Rejected(f"returned {article(type_name(result))}, expected a tuple of {count} {expected}s.")
        if len(result) != count:
            raise Rejected(f"returned a tuple of {len(result)}, expected {count} {expected}s.")
    parts = list(result) if count > 1 else [result]
    for part in parts:
        if not is_array(part, framework):
            raise Rejected(f"returned {article(type_name(part))}, expected a {expected}.")
    return parts


def article(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def dtype_name(array: Any) -> str:
    return str(array.dtype).removeprefix("torch.")


def to_float64(array: Any) -> np.ndarray:
    """Values of an output of any framework, in float64."""
    if isinstance(array, torch.Tensor):
        return np.array(array.detach().to(torch.float64).cpu().numpy())
    return np.array(np.asarray(array), dtype=np.float64)


GUESSED = ("jax", "torch", "numpy")  # a JAX function mentions NumPy, too


def guess(function: Callable[..., Any]) -> str:
    """The framework of a user's callable: what its annotations name, what its code uses, what its module imported."""
    layers = unwrapped(function)
    hints = " ".join(str(v) for f in layers for v in getattr(f, "__annotations__", {}).values())
    for framework in GUESSED:
        if framework in hints or (framework == "numpy" and "np." in hints):
            return framework
    for found in (used, imported):
        homes = {home for f in layers for home in found(f)}
        for framework in GUESSED:
            if framework in homes:
                return framework
    return "torch"


def unwrapped(function: Any) -> list[Any]:
    """``function`` and the callables it wraps: partials, decorators, jit, bound methods, instances with __call__."""
    layers: list[Any] = []
    waiting = [function]
    while waiting:
        layer = waiting.pop(0)
        if layer is None or any(layer is f for f in layers):
            continue
        layers.append(layer)
        names = ("func", "__func__", "__wrapped__", "_torchdynamo_orig_callable")
        waiting += [getattr(layer, name, None) for name in names]
        waiting += [c.cell_contents for c in getattr(layer, "__closure__", None) or () if c != CellType()]
        waiting += [] if hasattr(layer, "__code__") else [vars(type(layer)).get("__call__")]
    return [f for f in layers if callable(f)]


def home(value: Any) -> str:
    """The top-level package of a module, function or class."""
    name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
    return str(name).split(".")[0]


def used(function: Any) -> set[str]:
    """The packages of a callable's type and of the global names its code mentions, through its module's functions."""
    names, seen = getattr(function, "__globals__", {}), set()
    homes = {home(kind).replace("jaxlib", "jax") for kind in type(function).__mro__}
    codes = [getattr(function, "__code__", None)]
    while codes:
        code = codes.pop()
        if code is None or code in seen:
            continue
        seen.add(code)
        codes += [c for c in code.co_consts if isinstance(c, CodeType)]
        for value in (names[n] for n in code.co_names if n in names):
            homes.add(home(value))
            codes.append(getattr(value, "__code__", None) if getattr(value, "__globals__", None) is names else None)
    return homes


def imported(function: Any) -> set[str]:
    """The packages of everything a function's module has, and of the function itself."""
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    names = {**vars(module)} if module else {}
    names.update(getattr(function, "__globals__", {}))
    return {home(function), *(home(v) for v in names.values() if isinstance(v, ModuleType) or callable(v))}


def cast_keywords(framework: str, dtype: str, device: str) -> dict[str, Any]:
    """The keywords of a callable that creates tensors: ``dtype``, and for torch ``device``."""
    if framework == "torch":
        return {"dtype": precision(dtype).torch, "device": device}
    if framework == "numpy":
        return {"dtype": np.dtype(dtype)}
    import jax.numpy as jnp

    return {"dtype": getattr(jnp, dtype)}
