"""Diagonal Fisher information of a score, fast: F = s² + ε(ᾱ), its smoothing, and the step d = s/F.

    ε(ᾱ) = 10⁻⁴ + 10⁻³ (1 − ᾱ)

The same call on CPU and CUDA: a Triton kernel and its backward on CUDA (operators ``trueness::fisher_diagonal`` and
``trueness::fisher_step``), vectorised torch in cache-sized tiles on the CPU. float16 and bfloat16 are computed in
float32, stop at their largest number and are rounded once. NaN goes through.
Sources: Amari 1998; Martens 2020 §11. The score in x is the parameter's score for location families only.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch

from trueness.optimized._elementwise import TILE, nobody_watches, require_floating, require_out, tiled

__all__ = ["alpha_from_time", "binomial", "diagonal", "floor", "preconditioned_step", "smooth"]

ROOT = 1e18  # beyond it s² leaves float32 and ε has long been lost: s/(s² + ε) is 1/s
PADDINGS = ("zeros", "reflect", "replicate", "circular")


def floor(alpha: float) -> float:
    """ε(ᾱ) = 10⁻⁴ + 10⁻³ (1 − ᾱ)

    alpha    ᾱ  number  share of signal left, in [0, 1]
    returns  ε, between 1e-4 (ᾱ = 1) and 1.1e-3 (ᾱ = 0), in float64
    raises   ValueError if alpha is None, not a number, or outside [0, 1]
    """
    if alpha is None:
        raise ValueError(
            "alpha was None; it must be the schedule's ᾱ in [0, 1] (alpha_from_time(t) approximates it and warns)."
        )
    if isinstance(alpha, torch.Tensor) and alpha.numel() != 1:
        raise ValueError(f"alpha was a tensor of shape {tuple(alpha.shape)}; it must be one number in [0, 1].")
    if not torch.compiler.is_compiling() and not isinstance(alpha, (float, int)):
        try:
            alpha = float(alpha)
        except (TypeError, ValueError):
            raise ValueError(f"alpha was {type(alpha).__name__}; it must be one number in [0, 1].") from None
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha was {alpha}; it must lie in [0, 1].")
    return 1e-4 + 1e-3 * (1 - alpha)


def alpha_from_time(t: float) -> float:
    """ᾱ ≈ 1 − t, cut to [0, 1]: the documented fallback where a schedule is not at hand. It warns.

    Exact only for β_i = 1/(T − i + 1). Off by up to 0.42 for the linear schedule and 0.11 for the cosine one.

    t        t  number  time, 0 (clean) to 1 (noise)
    returns  ᾱ
    """
    warnings.warn("alpha_from_time: 1 − t is not ᾱ; it is 0.42 off for the linear schedule.", UserWarning, stacklevel=2)
    return min(max(1 - t, 0), 1)


# -- kernels on the CPU ---------------------------------------------------------------------------------------------


def _fill_diagonal(s: torch.Tensor, o: torch.Tensor, eps: float) -> None:
    torch.mul(s, s, out=o).add_(eps)


def _fill_step(s: torch.Tensor, o: torch.Tensor, eps: float) -> None:
    torch.mul(s, s, out=o).add_(eps)
    if o.amax() < math.inf:
        torch.div(s, o, out=o)
    else:
        o.copy_(_divided(s, o))


def _cpu(score: torch.Tensor, eps: float, step: bool, out: torch.Tensor | None = None) -> torch.Tensor:
    fill = _fill_step if step else _fill_diagonal
    return tiled(lambda s, o: fill(s, o, eps), score, out)


def _divided(s: torch.Tensor, fisher: torch.Tensor) -> torch.Tensor:
    """s/F, which is 1/s where s² has left the format; ±inf goes through the equation."""
    return torch.where((s.abs() > ROOT) & s.isfinite(), 1 / s, s / fisher)


def _plain(score: torch.Tensor, eps: float, step: bool, readable: bool = False) -> torch.Tensor:
    """The value in plain torch operations; ``readable`` says that values may be looked at, which saves operations."""
    half = score.dtype in (torch.float16, torch.bfloat16)
    s = score.float() if half else score
    value = s * s + eps
    if step:
        value = s / value if readable and value.numel() and value.amax() < math.inf else _divided(s, value)
    if not half:
        return value
    largest = torch.finfo(score.dtype).max
    return value.clamp(-largest, largest).to(score.dtype)


def _pulled(grad: torch.Tensor, score: torch.Tensor, eps: float, step: bool) -> torch.Tensor:
    """The gradient by s in plain torch operations: 2 s ḡ, or ḡ (ε − s²)/F²; differentiable again."""
    half = score.dtype in (torch.float16, torch.bfloat16)
    s, g = (score.float(), grad.float()) if half else (score, grad)
    if step:
        square = s * s
        fisher = square + eps
        pulled = g * ((eps - square) / fisher) / fisher
    else:
        pulled = 2 * s * g
    return pulled.to(score.dtype)


class _Fisher(torch.autograd.Function):
    """Saves s alone; the saturation of half formats does not cut the gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(score: torch.Tensor, eps: float, step: bool) -> torch.Tensor:
        return _plain(score, eps, step)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        score, ctx.eps, ctx.step = inputs
        ctx.save_for_backward(score)
        ctx.save_for_forward(score)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        (score,) = ctx.saved_tensors
        return _pulled(grad, score, ctx.eps, ctx.step), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, *_: Any) -> torch.Tensor:  # type: ignore[override]
        (score,) = ctx.saved_tensors
        return _pulled(tangent, score, ctx.eps, ctx.step)


# -- operators ------------------------------------------------------------------------------------------------------


@torch.library.custom_op("trueness::fisher_backward", mutates_args=(), device_types=("cpu", "cuda"))
def _backward_operator(grad: torch.Tensor, score: torch.Tensor, eps: float, step: bool) -> torch.Tensor:
    if score.is_cuda and score.dtype != torch.float64:
        from trueness.optimized import _fisher_triton

        return _fisher_triton.backward(grad, score, eps, step)
    return _pulled(grad, score, eps, step)


@torch.library.custom_op("trueness::fisher", mutates_args=(), device_types=("cpu", "cuda"))
def _operator(score: torch.Tensor, eps: float, step: bool) -> torch.Tensor:
    if score.is_cuda and score.dtype != torch.float64:
        from trueness.optimized import _fisher_triton

        return _fisher_triton.forward(score, eps, step)
    return _cpu(score, eps, step)


@_operator.register_fake
def _(score: torch.Tensor, eps: float, step: bool) -> torch.Tensor:
    return torch.empty_like(score)


@_backward_operator.register_fake
def _(grad: torch.Tensor, score: torch.Tensor, eps: float, step: bool) -> torch.Tensor:
    return torch.empty_like(score)


def _save(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    score, ctx.eps, ctx.step = inputs
    ctx.save_for_backward(score)


def _operator_backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    (score,) = ctx.saved_tensors
    return _backward_operator(grad, score, ctx.eps, ctx.step), None, None


_operator.register_autograd(_operator_backward, setup_context=_save)


def _apply(score: torch.Tensor, alpha: float, step: bool, out: torch.Tensor | None) -> torch.Tensor:
    require_floating(score, "score")
    eps = floor(alpha)
    if out is not None:
        require_out(out, score)
        if score.is_cuda and score.dtype != torch.float64:
            from trueness.optimized import _fisher_triton

            return _fisher_triton.forward(score, eps, step, out)
        return _cpu(score, eps, step, out)
    if score.is_cuda and not torch.compiler.is_compiling():
        return _operator(score, eps, step)  # type: ignore[no-any-return]
    if nobody_watches(score):
        return _cpu(score, eps, step) if score.numel() > TILE else _plain(score, eps, step, readable=True)
    return _Fisher.apply(score, eps, step)  # type: ignore[no-any-return, no-untyped-call]


def diagonal(score: torch.Tensor, alpha: float, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """F = s² + ε(ᾱ)        (Amari 1998; Martens 2020 §11)

    score    s  (...)   gradient of the log density, 1/unit of x; any floating dtype, strides and device
    alpha    ᾱ  number  share of signal left, in [0, 1]
    out         (...)   optional: where the result is written, no gradient then
    returns  F  (...)   strictly positive, dtype of score, 1/unit² of x
    raises   ValueError if score is not floating, alpha is None or outside [0, 1], or out does not fit
    """
    return _apply(score, alpha, False, out)


def preconditioned_step(score: torch.Tensor, alpha: float, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """d = s / (s² + ε(ᾱ)), in one pass        (natural gradient step, Amari 1998 eq. 3, with the diagonal F)

    score    s  (...)   gradient of the log density, 1/unit of x; any floating dtype, strides and device
    alpha    ᾱ  number  share of signal left, in [0, 1]
    out         (...)   optional: where the result is written, no gradient then
    returns  d  (...)   at most 1/(2√ε) in size, dtype of score, unit of x
    raises   ValueError if score is not floating, alpha is None or outside [0, 1], or out does not fit
    """
    return _apply(score, alpha, True, out)


def binomial(
    n: int, padding: str, *, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """K (n, n): the taps [1, 2, 1]/4 as a matrix, the border filled by ``padding``.

    n        length of the axis
    padding  "zeros", "reflect", "replicate" or "circular"
    raises   ValueError for another padding, or "reflect" with n < 2
    """
    if padding not in PADDINGS:
        raise ValueError(f"padding was {padding!r}; allowed are {', '.join(PADDINGS)}.")
    if padding == "reflect" and n < 2:
        raise ValueError(f"padding was 'reflect' on an axis of length {n}; it needs at least 2.")
    rows = torch.arange(n, device=device)
    matrix = torch.zeros(n, n, dtype=dtype, device=device)
    for shift, tap in ((-1, 0.25), (0, 0.5), (1, 0.25)):
        at = rows + shift
        inside = (at >= 0) & (at < n)
        if padding == "circular":
            at = at % n if n else at
        elif padding == "replicate":
            at = at.clamp(0, max(n - 1, 0))
        elif padding == "reflect":
            at = torch.where(at < 0, -at, torch.where(at >= n, 2 * (n - 1) - at, at))
        weight = (
            torch.where(inside, tap, 0.0) if padding == "zeros" else torch.full_like(rows, tap, dtype=torch.float64)
        )
        if n:
            matrix.index_put_((rows, at.clamp(0, n - 1)), weight.to(dtype), accumulate=True)
    return matrix


def smooth(fisher: torch.Tensor, padding: str) -> torch.Tensor:
    """F' = K_y F K_xᵀ: the 3×3 binomial filter [1 2 1]ᵀ[1 2 1]/16 over the last two axes

    fisher   F  (..., H, W)  any floating tensor
    padding     "zeros", "reflect", "replicate" or "circular": what lies beyond the border
    returns  F' (..., H, W)  dtype of fisher
    raises   ValueError if fisher is not floating or has fewer than two axes, or for another padding
    """
    require_floating(fisher, "fisher")
    if fisher.ndim < 2:
        raise ValueError(f"fisher had shape {tuple(fisher.shape)}; it must have at least the axes (H, W).")
    if padding not in PADDINGS:
        raise ValueError(f"padding was {padding!r}; allowed are {', '.join(PADDINGS)}.")
    half = fisher.dtype in (torch.float16, torch.bfloat16)
    x = fisher.float() if half else fisher
    return _taps(_taps(x, -1, padding), -2, padding).to(fisher.dtype)


def _taps(x: torch.Tensor, axis: int, padding: str) -> torch.Tensor:
    """(x₋₁ + 2 x + x₊₁)/4 along ``axis``."""
    n = x.shape[axis]
    if n == 0:
        return x
    if padding == "reflect" and n < 2:
        raise ValueError(f"padding was 'reflect' on an axis of length {n}; it needs at least 2.")
    first, last = x.narrow(axis, 0, 1), x.narrow(axis, n - 1, 1)
    if padding == "zeros":
        before, after = torch.zeros_like(first), torch.zeros_like(first)
    elif padding == "replicate":
        before, after = first, last
    elif padding == "circular":
        before, after = last, first
    else:
        before, after = x.narrow(axis, 1, 1), x.narrow(axis, n - 2, 1)
    down = torch.cat([before, x.narrow(axis, 0, n - 1)], axis)
    up = torch.cat([x.narrow(axis, 1, n - 1), after], axis)
    return 0.25 * down + 0.25 * up + 0.5 * x  # scaled first, so that the sum cannot overflow


diagonal.operator = _operator  # type: ignore[attr-defined]
preconditioned_step.operator = _operator  # type: ignore[attr-defined]
