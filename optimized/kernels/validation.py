"""Argument validation, distances and tiles, shared by the modules of kernels."""

from __future__ import annotations

import math
from typing import Any

import torch

from trueness.optimized._lib import validation
from trueness.optimized._lib.validation import is_number, require_floating
from trueness.optimized._lib.validation import require_positive as require_positive

# -- validation ------------------------------------------------------------------------------------------------------


def require_matrix(tensor: object, name: str, axes: str) -> torch.Tensor:
    """A floating tensor of two axes, called ``axes`` in the sentence that refuses it."""
    found = require_floating(tensor, name)
    if found.ndim != 2:
        raise ValueError(f"{name} had shape {tuple(found.shape)}; it must have the axes {axes}.")
    return found


def require_vector(tensor: object, name: str, length: int, of: str) -> torch.Tensor:
    """A floating tensor of one axis, as long as ``of``."""
    found = require_floating(tensor, name)
    if found.shape != (length,):
        raise ValueError(f"{name} had shape {tuple(found.shape)}; it must be ({length},), {of}.")
    return found


def require_same_kind(first: torch.Tensor, name: str, **others: torch.Tensor) -> None:
    """All in one dtype on one device."""
    for other, tensor in others.items():
        if tensor.dtype != first.dtype or tensor.device != first.device:
            raise ValueError(
                f"{other} was {tensor.dtype} on {tensor.device}; "
                f"it must be like {name}, {first.dtype} on {first.device}."
            )


def require_points(x: torch.Tensor, y: torch.Tensor, names: tuple[str, str] = ("x", "y")) -> None:
    """x (n, d) and y (m, d)."""
    first, second = names
    require_matrix(x, first, "(points, dimensions)")
    require_matrix(y, second, "(points, dimensions)")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"{second} had {y.shape[1]} dimensions; it must have as many as {first}, {x.shape[1]}.")
    require_same_kind(x, first, **{second: y})


def require_vectors(v: torch.Tensor, y: torch.Tensor) -> None:
    """v (m, p), one row for every point of y."""
    require_matrix(v, "v", "(points of y, vectors)")
    if v.shape[0] != y.shape[0]:
        raise ValueError(f"v had {v.shape[0]} rows; it must have one for every point of y, {y.shape[0]}.")
    require_same_kind(y, "y", v=v)


def require_frequencies(x: torch.Tensor, frequencies: torch.Tensor, offsets: torch.Tensor | None) -> None:
    """x (n, d), frequencies (d, D) and offsets (D,)."""
    require_matrix(x, "x", "(points, dimensions)")
    require_matrix(frequencies, "frequencies", "(dimensions, features)")
    if frequencies.shape[0] != x.shape[1] or not frequencies.shape[1]:
        raise ValueError(
            f"frequencies had shape {tuple(frequencies.shape)}; "
            f"it must be ({x.shape[1]}, D) with D of at least 1, for x of {x.shape[1]} dimensions."
        )
    require_same_kind(x, "x", frequencies=frequencies)
    if offsets is not None:
        require_vector(offsets, "offsets", frequencies.shape[1], "one for every column of frequencies")
        require_same_kind(x, "x", offsets=offsets)


def require_share(value: float, name: str) -> float:
    """A number between 0 and 1."""
    if not is_number(value) or not 0 < value < 1:
        raise ValueError(f"{name} was {value!r}; it must lie in (0, 1).")
    return value


def require_count(value: int | None, name: str) -> None:
    """An integer of at least 1, or None where there is a default."""
    if value is not None:
        validation.require_count(value, name)


def require_precision(precision: str) -> None:
    """How CUDA multiplies."""
    if precision not in ("ieee", "tf32"):
        raise ValueError(f"precision was {precision!r}; it must be 'ieee' or 'tf32'.")


def require_out(out: torch.Tensor | None, shape: tuple[int, ...], x: torch.Tensor, *others: torch.Tensor) -> None:
    """An ``out`` that can take a result of this shape like ``x``, where no gradient is recorded."""
    if out is None:
        return
    if not isinstance(out, torch.Tensor):
        raise ValueError(f"out was {type(out).__name__}; it must be a torch.Tensor.")
    if tuple(out.shape) != shape or out.dtype != x.dtype or out.device != x.device:
        raise ValueError(
            f"out was {tuple(out.shape)} {out.dtype} on {out.device}; it must be {shape} {x.dtype} on {x.device}."
        )
    if out.requires_grad or (torch.is_grad_enabled() and any(t.requires_grad for t in (x, *others))):
        raise ValueError("out was given where a gradient is wanted; call under torch.no_grad() or omit out=.")


# -- working precision ------------------------------------------------------------------------------------------------


def distances(x: torch.Tensor, y: torch.Tensor, p: float = 2.0) -> torch.Tensor:
    """‖x_i − y_j‖_p  (n, m), from differences: ‖x‖² + ‖y‖² − 2 x·y would cancel."""
    return torch.cdist(x, y, p=p, compute_mode="donot_use_mm_for_euclid_dist")


class _Matern(torch.autograd.Function):
    """e^{−s} p(s) of r², whose slope by r² has no difference that cancels and no 1/r."""

    generate_vmap_rule = True

    @staticmethod
    def forward(square: torch.Tensor, lengthscale: float, nu: float) -> torch.Tensor:
        s = torch.sqrt(square) * (math.sqrt(2 * nu) / lengthscale)
        return torch.exp(-s) * (1 + s if nu == 1.5 else 1 + s + s * s / 3)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        square, ctx.lengthscale, ctx.nu = inputs
        ctx.save_for_backward(square)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        (square,) = ctx.saved_tensors
        s = torch.sqrt(square) * (math.sqrt(2 * ctx.nu) / ctx.lengthscale)
        slope = torch.exp(-s) * (3.0 if ctx.nu == 1.5 else 5 * (1 + s) / 3)
        return grad * slope * (-0.5 / ctx.lengthscale**2), None, None


def smooth_matern(x: torch.Tensor, y: torch.Tensor, lengthscale: float, nu: float) -> torch.Tensor:
    """Matérn with ν = 3/2 or 5/2; where the square of a finite distance has left the format the kernel is 0."""
    square = distances(x, y).square()
    kernel = _Matern.apply(square, lengthscale, nu)  # type: ignore[no-untyped-call]
    finite = x.isfinite().all(-1)[..., :, None] & y.isfinite().all(-1)[..., None, :]
    return torch.where(finite & square.isinf(), 0.0, kernel)


# -- tiles ------------------------------------------------------------------------------------------------------------


def blocks(length: int, size: int) -> list[slice]:
    """0 … length in slices of ``size``; one empty slice for no elements."""
    return [slice(start, min(start + size, length)) for start in range(0, max(length, 1), size)]
