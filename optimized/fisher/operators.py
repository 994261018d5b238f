"""Values and gradients of fisher in plain torch, and the operators that hand them to Triton kernels on CUDA.

The autograd functions serve the CPU: tiles where nobody watches, plain operations under transforms and traces; they
save the score alone. The operators ``trueness::fisher`` and ``trueness::fisher_drift`` serve CUDA.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from trueness.optimized._lib.dispatch import can_write_in_place
from trueness.optimized._lib.dtypes import upcast
from trueness.optimized._lib.elementwise import TILE
from trueness.optimized._lib.memory import to_dense
from trueness.optimized.fisher.cpu import (
    Table,
    beside,
    divided,
    drift_in_tiles,
    narrowed,
    numbers,
    pulled_in_tiles,
    square_plus,
    value_in_tiles,
)

# -- value and gradient ---------------------------------------------------------------------------------------------


def plain(score: torch.Tensor, eps: float, step: bool, table: Table = None, readable: bool = False) -> torch.Tensor:
    """The value in plain torch operations; ``readable`` says that values may be looked at, which saves operations."""
    s = upcast(score)
    (floors,) = numbers(table, (eps,), s)
    value = square_plus(floors, s)
    if step:
        value = s / value if readable and value.numel() and value.amax() < math.inf else divided(s, value)
    return narrowed(value, score.dtype)


def pulled(grad: torch.Tensor, score: torch.Tensor, eps: float, step: bool, table: Table = None) -> torch.Tensor:
    """The gradient by s in plain torch operations: 2 s ḡ, or ḡ (ε − s²)/F²; differentiable again."""
    s, g = upcast(score), upcast(grad)
    if step:
        (floors,) = numbers(table, (eps,), s)
        fisher = square_plus(floors, s)
        of_score = g * (square_plus(floors, s, -1.0) / fisher) / fisher
    else:
        of_score = 2 * s * g
    return of_score.to(score.dtype)


class Fisher(torch.autograd.Function):
    """Saves s alone; the saturation of half formats does not cut the gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(score: torch.Tensor, table: Table, eps: float, step: bool) -> torch.Tensor:
        if score.numel() > TILE and can_write_in_place(score):
            return value_in_tiles(score, eps, step, table)
        return plain(score, eps, step, table)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        score, table, ctx.eps, ctx.step = inputs
        ctx.save_for_backward(score, table)
        ctx.save_for_forward(score, table)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        score, table = ctx.saved_tensors
        if score.numel() > TILE and can_write_in_place(grad) and can_write_in_place(score):
            return pulled_in_tiles(grad, score, ctx.eps, 1.0, ctx.step, table), None, None, None
        return pulled(grad, score, ctx.eps, ctx.step, table), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, *_: Any) -> torch.Tensor:  # type: ignore[override]
        score, table = ctx.saved_tensors
        return pulled(tangent, score, ctx.eps, ctx.step, table)


@torch.library.custom_op("trueness::fisher_backward", mutates_args=(), device_types=("cpu", "cuda"))
def backward_operator(
    grad: torch.Tensor, score: torch.Tensor, eps: float, step: bool, table: torch.Tensor | None = None
) -> torch.Tensor:
    if score.is_cuda and score.dtype != torch.float64:
        from trueness.optimized.fisher import cuda as _fisher_triton

        return _fisher_triton.backward(grad, score, eps, step, table)
    return pulled(grad, to_dense(score, table is not None), eps, step, table)


@torch.library.custom_op("trueness::fisher", mutates_args=(), device_types=("cpu", "cuda"))
def operator(score: torch.Tensor, eps: float, step: bool, table: torch.Tensor | None = None) -> torch.Tensor:
    if score.is_cuda and score.dtype != torch.float64:
        from trueness.optimized.fisher import cuda as _fisher_triton

        return _fisher_triton.forward(score, eps, step, table=table)
    return plain(score, eps, step, table) if score.is_cuda else value_in_tiles(score, eps, step, table)


@operator.register_fake
def _(score: torch.Tensor, eps: float, step: bool, table: torch.Tensor | None = None) -> torch.Tensor:
    return torch.empty_like(to_dense(score, table is not None))


@backward_operator.register_fake
def _(
    grad: torch.Tensor, score: torch.Tensor, eps: float, step: bool, table: torch.Tensor | None = None
) -> torch.Tensor:
    return torch.empty_like(to_dense(score, table is not None))


def save_score(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    score, ctx.eps, ctx.step, table = inputs
    ctx.save_for_backward(score, table)


def operator_backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    score, table = ctx.saved_tensors
    return backward_operator(grad, score, ctx.eps, ctx.step, table), None, None, None


operator.register_autograd(operator_backward, setup_context=save_score)


# -- drift ------------------------------------------------------------------------------------------------------------


def drift_plain(x: torch.Tensor, score: torch.Tensor, eps: float, a: float, b: float, table: Table) -> torch.Tensor:
    at, s = upcast(x), upcast(score)
    e, of_x, of_s = numbers(table, (eps, a, b), s)
    return narrowed(of_x * at + divided(s, square_plus(e, s), of_s), x.dtype)


def drift_pulled(
    grad: torch.Tensor, score: torch.Tensor, eps: float, a: float, b: float, table: Table
) -> tuple[torch.Tensor, torch.Tensor]:
    """x̄ = a ḡ and s̄ = b ḡ (ε − s²)/F², differentiable again"""
    s, g = upcast(score), upcast(grad)
    e, of_x, of_s = numbers(table, (eps, a, b), s)
    fisher = square_plus(e, s)
    of_score = of_s * (g * (square_plus(e, s, -1.0) / fisher) / fisher)
    return (of_x * g).to(grad.dtype), of_score.to(score.dtype)


class Drift(torch.autograd.Function):
    """Saves s alone."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor, score: torch.Tensor, table: Table, eps: float, a: float, b: float) -> torch.Tensor:
        if score.numel() > TILE and can_write_in_place(x) and can_write_in_place(score):
            return drift_in_tiles(x, score, eps, a, b, table)
        return drift_plain(x, score, eps, a, b, table)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        _, score, table, *ctx.numbers = inputs
        ctx.save_for_backward(score, table)
        ctx.save_for_forward(score, table)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        score, table = ctx.saved_tensors
        eps, a, b = ctx.numbers
        if score.numel() > TILE and can_write_in_place(grad) and can_write_in_place(score):
            of_x = torch.mul(grad, ctx.numbers[1] if table is None else beside(table[1], upcast(grad)))
            of_s = pulled_in_tiles(grad, score, ctx.numbers[0], ctx.numbers[2], True, table)
            return of_x.to(grad.dtype), of_s, None, None, None, None
        return *drift_pulled(grad, score, eps, a, b, table), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, of_x: torch.Tensor, of_s: torch.Tensor, *_: Any) -> torch.Tensor:  # type: ignore[override]
        score, table = ctx.saved_tensors
        eps, a, b = ctx.numbers
        along_x = drift_pulled(of_x, score, eps, a, b, table)[0]
        along_s = drift_pulled(of_s, score, eps, a, b, table)[1]
        return along_x + along_s


@torch.library.custom_op("trueness::fisher_drift_backward", mutates_args=(), device_types=("cpu", "cuda"))
def drift_backward_operator(
    grad: torch.Tensor, score: torch.Tensor, eps: float, a: float, b: float, table: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    if score.is_cuda and score.dtype != torch.float64:
        from trueness.optimized.fisher import cuda as _fisher_triton

        return _fisher_triton.drift_backward(grad, score, eps, a, b, table)
    like = to_dense(score, table is not None)
    of_x, of_s = drift_pulled(grad, like, eps, a, b, table)
    return torch.empty_like(like).copy_(of_x), of_s


@torch.library.custom_op("trueness::fisher_drift", mutates_args=(), device_types=("cpu", "cuda"))
def drift_operator(
    x: torch.Tensor,
    score: torch.Tensor,
    eps: float,
    a: float,
    b: float,
    table: torch.Tensor | None = None,
) -> torch.Tensor:
    if score.is_cuda and score.dtype != torch.float64:
        from trueness.optimized.fisher import cuda as _fisher_triton

        return _fisher_triton.drift(x, score, eps, a, b, table)
    return drift_in_tiles(x, score, eps, a, b, table) if not score.is_cuda else drift_plain(x, score, eps, a, b, table)


@drift_operator.register_fake
def _(
    x: torch.Tensor, score: torch.Tensor, eps: float, a: float, b: float, table: torch.Tensor | None = None
) -> torch.Tensor:
    return torch.empty_like(to_dense(x, table is not None))


@drift_backward_operator.register_fake
def _(
    grad: torch.Tensor, score: torch.Tensor, eps: float, a: float, b: float, table: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    like = to_dense(score, table is not None)
    return torch.empty_like(like), torch.empty_like(like)


def save_drift(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    _, score, *ctx.numbers, table = inputs
    ctx.save_for_backward(score, table)


def drift_operator_backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    score, table = ctx.saved_tensors
    return *drift_backward_operator(grad, score, *ctx.numbers, table), None, None, None, None


drift_operator.register_autograd(drift_operator_backward, setup_context=save_drift)
