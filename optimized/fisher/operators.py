"""Values and gradients of fisher in torch operations, and the operators that launch Triton kernels on CUDA.

The autograd functions are for the CPU: chunks where values may be read and written in place, torch operations under
transforms and traces. They save only the score. The operators ``trueness::fisher`` and ``trueness::fisher_drift`` are
for CUDA.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from trueness.optimized._lib.dispatch import can_write_in_place
from trueness.optimized._lib.dtypes import upcast
from trueness.optimized._lib.elementwise import CHUNK
from trueness.optimized._lib.memory import to_dense
from trueness.optimized.fisher.cpu import (
    Table,
    add_square,
    coefficients,
    divide_by_fisher,
    drift_in_chunks,
    grad_in_chunks,
    over_samples,
    saturate_cast,
    value_in_chunks,
)

# -- value and gradient ---------------------------------------------------------------------------------------------


def eager_value(
    score: torch.Tensor, eps: float, step: bool, table: Table = None, can_read_values: bool = False
) -> torch.Tensor:
    """The value in torch operations; if values can be read, overflow of s² is handled only where it occurs."""
    s = upcast(score)
    (floors,) = coefficients(table, (eps,), s)
    value = add_square(floors, s)
    if step:
        value = (
            s / value if can_read_values and value.numel() and value.amax() < math.inf else divide_by_fisher(s, value)
        )
    return saturate_cast(value, score.dtype)


def eager_grad(grad: torch.Tensor, score: torch.Tensor, eps: float, step: bool, table: Table = None) -> torch.Tensor:
    """The gradient by s in torch operations, differentiable again: 2 s ḡ, or ḡ (ε − s²)/F²."""
    s, g = upcast(score), upcast(grad)
    if step:
        (floors,) = coefficients(table, (eps,), s)
        fisher = add_square(floors, s)
        grad_score = g * (add_square(floors, s, -1.0) / fisher) / fisher
    else:
        grad_score = 2 * s * g
    return grad_score.to(score.dtype)


class TracedFisher(torch.autograd.Function):
    """F or s/F for torch.compile, which traces no function with a forward mode of its own.

    Only s is saved; the saturation of half formats does not affect the gradient.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(score: torch.Tensor, table: Table, eps: float, step: bool) -> torch.Tensor:
        if score.numel() > CHUNK and can_write_in_place(score):
            return value_in_chunks(score, eps, step, table)
        return eager_value(score, eps, step, table)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        score, table, ctx.eps, ctx.step = inputs
        ctx.save_for_backward(score, table)
        ctx.save_for_forward(score, table)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        score, table = ctx.saved_tensors
        if score.numel() > CHUNK and can_write_in_place(grad) and can_write_in_place(score):
            return grad_in_chunks(grad, score, ctx.eps, 1.0, ctx.step, table), None, None, None
        return eager_grad(grad, score, ctx.eps, ctx.step, table), None, None, None


class Fisher(TracedFisher):
    """The same, in forward mode, too."""

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, *_: Any) -> torch.Tensor:  # type: ignore[override]
        score, table = ctx.saved_tensors
        return eager_grad(tangent, score, ctx.eps, ctx.step, table)


@torch.library.custom_op("trueness::fisher_backward", mutates_args=(), device_types=("cpu", "cuda"))
def backward_operator(
    grad: torch.Tensor, score: torch.Tensor, eps: float, step: bool, table: torch.Tensor | None = None
) -> torch.Tensor:
    if score.is_cuda and score.dtype != torch.float64:
        from trueness.optimized.fisher import cuda

        return cuda.backward(grad, score, eps, step, table)
    return eager_grad(grad, to_dense(score, table is not None), eps, step, table)


@torch.library.custom_op("trueness::fisher", mutates_args=(), device_types=("cpu", "cuda"))
def operator(score: torch.Tensor, eps: float, step: bool, table: torch.Tensor | None = None) -> torch.Tensor:
    if score.is_cuda and score.dtype != torch.float64:
        from trueness.optimized.fisher import cuda

        return cuda.forward(score, eps, step, table=table)
    return eager_value(score, eps, step, table) if score.is_cuda else value_in_chunks(score, eps, step, table)


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


def eager_drift(x: torch.Tensor, score: torch.Tensor, eps: float, a: float, b: float, table: Table) -> torch.Tensor:
    s = upcast(score)
    e, factor_x, factor_s = coefficients(table, (eps, a, b), s)
    return saturate_cast(factor_x * upcast(x) + divide_by_fisher(s, add_square(e, s), factor_s), x.dtype)


def eager_drift_grad(
    grad: torch.Tensor, score: torch.Tensor, eps: float, a: float, b: float, table: Table
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients by x and by s, differentiable again: a ḡ and b ḡ (ε − s²)/F²."""
    s, g = upcast(score), upcast(grad)
    e, factor_x, factor_s = coefficients(table, (eps, a, b), s)
    fisher = add_square(e, s)
    grad_score = factor_s * (g * (add_square(e, s, -1.0) / fisher) / fisher)
    return (factor_x * g).to(grad.dtype), grad_score.to(score.dtype)


class TracedDrift(torch.autograd.Function):
    """a x + b s/F for torch.compile. Only s is saved."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor, score: torch.Tensor, table: Table, eps: float, a: float, b: float) -> torch.Tensor:
        if score.numel() > CHUNK and can_write_in_place(x) and can_write_in_place(score):
            return drift_in_chunks(x, score, eps, a, b, table)
        return eager_drift(x, score, eps, a, b, table)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        _, score, table, *ctx.numbers = inputs
        ctx.save_for_backward(score, table)
        ctx.save_for_forward(score, table)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        score, table = ctx.saved_tensors
        eps, a, b = ctx.numbers
        if score.numel() > CHUNK and can_write_in_place(grad) and can_write_in_place(score):
            grad_x = torch.mul(grad, a if table is None else over_samples(table[1], upcast(grad)))
            grad_score = grad_in_chunks(grad, score, eps, b, True, table)
            return grad_x.to(grad.dtype), grad_score, None, None, None, None
        return *eager_drift_grad(grad, score, eps, a, b, table), None, None, None, None


class Drift(TracedDrift):
    """The same, in forward mode, too."""

    @staticmethod
    def jvp(ctx: Any, tangent_x: torch.Tensor, tangent_s: torch.Tensor, *_: Any) -> torch.Tensor:  # type: ignore[override]
        score, table = ctx.saved_tensors
        eps, a, b = ctx.numbers
        along_x = eager_drift_grad(tangent_x, score, eps, a, b, table)[0]
        along_s = eager_drift_grad(tangent_s, score, eps, a, b, table)[1]
        return along_x + along_s


@torch.library.custom_op("trueness::fisher_drift_backward", mutates_args=(), device_types=("cpu", "cuda"))
def drift_backward_operator(
    grad: torch.Tensor, score: torch.Tensor, eps: float, a: float, b: float, table: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    if score.is_cuda and score.dtype != torch.float64:
        from trueness.optimized.fisher import cuda

        return cuda.drift_backward(grad, score, eps, a, b, table)
    like = to_dense(score, table is not None)
    grad_x, grad_score = eager_drift_grad(grad, like, eps, a, b, table)
    return torch.empty_like(like).copy_(grad_x), grad_score


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
        from trueness.optimized.fisher import cuda

        return cuda.drift(x, score, eps, a, b, table)
    return drift_in_chunks(x, score, eps, a, b, table) if not score.is_cuda else eager_drift(x, score, eps, a, b, table)


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
