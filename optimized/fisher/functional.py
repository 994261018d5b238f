"""Diagonal Fisher information of a score, fast: F = s² + ε(ᾱ), its smoothing, the step d = s/F and a x + b s/F.

    ε(ᾱ) = 10⁻⁴ + 10⁻³ (1 − ᾱ)

On CUDA a Triton kernel with its backward (operators ``trueness::fisher`` and ``trueness::fisher_drift``), on the CPU
vectorised torch in chunks that fit the cache. float16 and bfloat16 are computed in float32, rounded once, and saturate
at their largest number. NaN propagates.
Sources: Amari 1998; Martens 2020 §11. The score in x equals the score in the parameter for location families only.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch

from trueness.optimized._lib.dispatch import can_write_in_place
from trueness.optimized._lib.dtypes import upcast
from trueness.optimized._lib.elementwise import CHUNK
from trueness.optimized._lib.validation import require_choice, require_floating, require_out
from trueness.optimized.fisher.cpu import Table, drift_in_chunks, value_in_chunks
from trueness.optimized.fisher.operators import (
    Drift,
    Fisher,
    TracedDrift,
    TracedFisher,
    drift_operator,
    eager_drift,
    eager_value,
    operator,
)

__all__ = ["alpha_from_time", "binomial", "diagonal", "drift_step", "floor", "preconditioned_step", "smooth"]

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
    """ᾱ ≈ 1 − t, clipped to [0, 1]: the documented fallback for callers without a schedule. It warns.

    Exact only for β_i = 1/(T − i + 1). Off by up to 0.42 for the linear schedule and 0.11 for the cosine one.

    t        t  number  time, 0 (clean) to 1 (noise)
    returns  ᾱ
    """
    warnings.warn("alpha_from_time: 1 − t is not ᾱ; it is 0.42 off for the linear schedule.", UserWarning, stacklevel=2)
    return min(max(1 - t, 0), 1)


# -- arguments ------------------------------------------------------------------------------------------------------


def _is_per_sample(value: Any, name: str, score: torch.Tensor) -> bool:
    """Whether ``value`` holds one number for every sample of ``score``."""
    if not isinstance(value, torch.Tensor) or value.ndim == 0:
        return False
    samples = score.shape[0] if score.ndim else 0
    if value.shape != (samples,):
        raise ValueError(
            f"{name} was a tensor of shape {tuple(value.shape)}; it must be one number, "
            f"or ({samples},): one for each sample of the shape {tuple(score.shape)}."
        )
    if value.requires_grad:
        raise ValueError(f"{name} required a gradient, which is not implemented; it must be detached.")
    return True


def _as_float(value: Any, name: str) -> float:
    """``value`` as a number; traced numbers stay traced."""
    if torch.compiler.is_compiling() and isinstance(value, (float, int, torch.SymFloat, torch.SymInt)):
        return value  # type: ignore[return-value]
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} was {type(value).__name__}; it must be a number.") from None


def _coefficients(alpha: Any, score: torch.Tensor, a: Any = 1.0, b: Any = 1.0) -> tuple[float, float, float, Table]:
    """(ε, a, b, None), or a table (3, B) of their values for each sample if one of them is a tensor (B,)."""
    given = {"alpha": alpha, "a": a, "b": b}
    per_sample = {name for name, value in given.items() if _is_per_sample(value, name, score)}
    if not per_sample:
        return floor(alpha), _as_float(a, "a"), _as_float(b, "b"), None
    rows = [_row(value, name, score, name in per_sample) for name, value in given.items()]
    return 0.0, 1.0, 1.0, torch.stack([1e-4 + 1e-3 * (1 - rows[0]), rows[1], rows[2]])


def _row(value: Any, name: str, score: torch.Tensor, per_sample: bool) -> torch.Tensor:
    """(B,) in float64, on the device of ``score``; the range of ᾱ is checked on the CPU only."""
    if not per_sample:
        if name == "alpha":
            floor(value)
        return torch.full((score.shape[0],), _as_float(value, name), dtype=torch.float64, device=score.device)
    row: torch.Tensor = value.to(score.device, torch.float64)
    if name == "alpha" and can_write_in_place(row) and not bool(((row >= 0) & (row <= 1)).all()):
        raise ValueError(f"alpha held {row[~((row >= 0) & (row <= 1))][0].item()}; all must lie in [0, 1].")
    return row


def _apply(score: torch.Tensor, alpha: Any, step: bool, out: torch.Tensor | None) -> torch.Tensor:
    require_floating(score, "score")
    eps, _, _, table = _coefficients(alpha, score)
    if out is not None:
        require_out(out, score)
        if score.is_cuda and score.dtype != torch.float64:
            from trueness.optimized.fisher import cuda

            return cuda.forward(score, eps, step, out, table)
        if score.is_cuda:
            return out.copy_(eager_value(score, eps, step, table))
        return value_in_chunks(score, eps, step, table, out)
    if score.is_cuda and not torch.compiler.is_compiling():
        return operator(score, eps, step, table)  # type: ignore[no-any-return]
    if can_write_in_place(score):
        if score.numel() > CHUNK:
            return value_in_chunks(score, eps, step, table)
        return eager_value(score, eps, step, table, can_read_values=True)
    function = TracedFisher if torch.compiler.is_compiling() else Fisher
    return function.apply(score, table, eps, step)  # type: ignore[no-any-return, no-untyped-call]


def diagonal(score: torch.Tensor, alpha: float | torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """F = s² + ε(ᾱ)        (Amari 1998; Martens 2020 §11)

    score    s  (...)          gradient of the log density, 1/unit of x; any floating dtype, strides and device
    alpha    ᾱ  number or (B,) share of signal left, in [0, 1]; a tensor has one for each sample, the first axis of s
    out         (...)          optional output, without gradient; it may be the score itself
    returns  F  (...)          strictly positive, dtype of score, 1/unit² of x
    raises   ValueError        if score is not floating, alpha is None or outside [0, 1], or out does not fit
    """
    return _apply(score, alpha, False, out)


def preconditioned_step(
    score: torch.Tensor, alpha: float | torch.Tensor, *, out: torch.Tensor | None = None
) -> torch.Tensor:
    """d = s / (s² + ε(ᾱ)), in one pass        (natural gradient step, Amari 1998 eq. 3, with the diagonal F)

    score    s  (...)          gradient of the log density, 1/unit of x; any floating dtype, strides and device
    alpha    ᾱ  number or (B,) share of signal left, in [0, 1]; a tensor has one for each sample, the first axis of s
    out         (...)          optional output, without gradient; it may be the score itself
    returns  d  (...)          at most 1/(2√ε) in size, dtype of score, unit of x
    raises   ValueError        if score is not floating, alpha is None or outside [0, 1], or out does not fit
    """
    return _apply(score, alpha, True, out)


def drift_step(
    x: torch.Tensor,
    score: torch.Tensor,
    alpha: float | torch.Tensor,
    a: float | torch.Tensor,
    b: float | torch.Tensor,
    *,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """x' = a x + b s / (s² + ε(ᾱ)), in one pass        (explicit Euler step of a drift preconditioned by F)

    x        x  (B, ...)       where the step starts; any floating dtype, strides and device
    score    s  (B, ...)       gradient of the log density at x, shape, dtype and device of x
    alpha    ᾱ  number or (B,) share of signal left, in [0, 1]
    a           number or (B,) factor of x
    b           number or (B,) step size
    out         (B, ...)       optional output, without gradient; it may be x or the score itself
    returns  x' (B, ...)       dtype of x; half formats stop at their largest number
    raises   ValueError        if x is not floating, score is not like x, alpha is None or outside [0, 1], or out does
                               not fit
    """
    require_floating(x, "x")
    require_floating(score, "score")
    if score.shape != x.shape or score.dtype != x.dtype or score.device != x.device:
        raise ValueError(
            f"score was {tuple(score.shape)} {score.dtype} on {score.device}; "
            f"it must be {tuple(x.shape)} {x.dtype} on {x.device}, as x."
        )
    eps, a, b, table = _coefficients(alpha, score, a, b)
    if out is not None:
        require_out(out, x, score)
        if x.is_cuda and x.dtype != torch.float64:
            from trueness.optimized.fisher import cuda

            return cuda.drift(x, score, eps, a, b, table, out)
        if x.is_cuda:
            return out.copy_(eager_drift(x, score, eps, a, b, table))
        return drift_in_chunks(x, score, eps, a, b, table, out)
    if x.is_cuda and not torch.compiler.is_compiling():
        return drift_operator(x, score, eps, a, b, table)  # type: ignore[no-any-return]
    if x.numel() > CHUNK and can_write_in_place(x) and can_write_in_place(score):
        return drift_in_chunks(x, score, eps, a, b, table)
    function = TracedDrift if torch.compiler.is_compiling() else Drift
    if score is x and torch.compiler.is_compiling():  # the trace takes no tensor twice
        score = x.view_as(x)
    return function.apply(x, score, table, eps, a, b)  # type: ignore[no-any-return, no-untyped-call]


def binomial(
    n: int, padding: str, *, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """K (n, n): the taps [1, 2, 1]/4 as a matrix, the border filled by ``padding``.

    n        length of the axis
    padding  "zeros", "reflect", "replicate" or "circular"
    raises   ValueError for another padding, or "reflect" with n < 2
    """
    require_choice(padding, "padding", PADDINGS)
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
    padding     "zeros", "reflect", "replicate" or "circular": how the border is extended
    returns  F' (..., H, W)  dtype of fisher
    raises   ValueError if fisher is not floating or has fewer than two axes, or for another padding
    """
    require_floating(fisher, "fisher")
    if fisher.ndim < 2:
        raise ValueError(f"fisher had shape {tuple(fisher.shape)}; it must have at least the axes (H, W).")
    require_choice(padding, "padding", PADDINGS)
    return _taps(_taps(upcast(fisher), -1, padding), -2, padding).to(fisher.dtype)


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


diagonal.operator = operator  # type: ignore[attr-defined]
preconditioned_step.operator = operator  # type: ignore[attr-defined]
drift_step.operator = drift_operator  # type: ignore[attr-defined]
