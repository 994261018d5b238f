"""The arithmetic of fisher, and its chunked evaluation on the CPU.

    F = s² + ε        d = s/F        x' = a x + b s/F

ε, a and b are numbers, or differ between the samples: then they are the rows of a table (3, B) in float64. s² + ε is
one fused multiply-add (torch.addcmul) with and without chunks, so that results do not depend on the chunk size.
"""

from __future__ import annotations

import math

import torch

from trueness.optimized._lib.dtypes import HALVES, compute_dtype
from trueness.optimized._lib.elementwise import apply_in_chunks
from trueness.optimized._lib.workspace import Workspace

ROOT = 1e18  # beyond it s² may overflow float32 and ε is negligible: s/(s² + ε) is 1/s
Table = torch.Tensor | None
Number = float | torch.Tensor


def saturate_cast(value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """``value`` in ``dtype``; half formats saturate at their largest number."""
    if dtype not in HALVES:
        return value
    largest = torch.finfo(dtype).max
    return value.clamp(-largest, largest).to(dtype)


def scalar_like(value: float, like: torch.Tensor) -> torch.Tensor:
    """A tensor without axes, in the dtype and on the device of ``like``."""
    return torch.full((), value, dtype=like.dtype, device=like.device)


def over_samples(row: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(B,) numbers as (B, 1, ..., 1), to be multiplied by ``like`` (B, ...)."""
    return row.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))


def coefficients(table: Table, values: tuple[float, ...], like: torch.Tensor) -> tuple[Number, ...]:
    """ε, then a and b if given: ``values``, or the rows of the table."""
    return values if table is None else tuple(over_samples(row, like) for row in table[: len(values)])


def add_square(eps: Number, s: torch.Tensor, sign: float = 1.0) -> torch.Tensor:
    """ε ± s², rounded once if the processor has a fused multiply-add"""
    return torch.addcmul(eps if isinstance(eps, torch.Tensor) else scalar_like(eps, s), s, s, value=sign)


def divide_by_fisher(s: torch.Tensor, fisher: torch.Tensor, b: Number | None = None) -> torch.Tensor:
    """b s/F, computed as b/s where s² overflows; ±inf goes through the equation."""
    numerator, limit = (s, 1 / s) if b is None else (b * s, b / s)
    return torch.where((s.abs() > ROOT) & s.isfinite(), limit, numerator / fisher)


def _columns(table: Table, count: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    return () if table is None else tuple(row.to(compute_dtype(dtype)) for row in table[:count])


# -- chunks -----------------------------------------------------------------------------------------------------------


def value_in_chunks(
    score: torch.Tensor, eps: float, step: bool, table: Table, out: torch.Tensor | None = None
) -> torch.Tensor:
    """F, or d = s/F for ``step``; ``out`` may be the score itself."""
    workspace, number = Workspace(score), torch.tensor(eps, dtype=compute_dtype(score.dtype))

    def body(s: torch.Tensor, y: torch.Tensor, e: torch.Tensor = number) -> None:
        fisher = torch.addcmul(e, s, s, out=workspace("fisher", s.shape, s.dtype) if step else y)
        if step and fisher.amax() < math.inf:
            torch.div(s, fisher, out=y)
        elif step:
            y.copy_(divide_by_fisher(s, fisher))

    return apply_in_chunks(body, (score,), out, _columns(table, 1, score.dtype), one_pass=not step)


def grad_in_chunks(
    grad: torch.Tensor, score: torch.Tensor, eps: float, b: float, step: bool, table: Table
) -> torch.Tensor:
    """The gradient by s: 2 s ḡ, or b ḡ (ε − s²)/F² for ``step``."""
    workspace, number = Workspace(score), torch.tensor(eps, dtype=compute_dtype(score.dtype))

    def body(s: torch.Tensor, g: torch.Tensor, y: torch.Tensor, *columns: torch.Tensor) -> None:
        if not step:
            torch.mul(s, g, out=y).mul_(2)
            return
        e = columns[0] if columns else number
        fisher = torch.addcmul(e, s, s, out=workspace("fisher", s.shape, s.dtype))
        torch.addcmul(e, s, s, value=-1, out=y).div_(fisher).mul_(g).div_(fisher)
        if len(columns) > 2 or b != 1:
            y.mul_(columns[2] if len(columns) > 2 else b)

    return apply_in_chunks(body, (score, grad), None, _columns(table, 3, score.dtype), saturate=False)


def drift_in_chunks(
    x: torch.Tensor,
    score: torch.Tensor,
    eps: float,
    a: float,
    b: float,
    table: Table,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """a x + b s/F; ``out`` may be x or the score."""
    workspace, number = Workspace(score), torch.tensor(eps, dtype=compute_dtype(score.dtype))

    def body(x: torch.Tensor, s: torch.Tensor, y: torch.Tensor, *columns: torch.Tensor) -> None:
        e, factor_x, factor_s = columns or (number, a, b)
        fisher = torch.addcmul(e, s, s, out=workspace("fisher", s.shape, s.dtype))
        scaled = torch.mul(x, factor_x, out=workspace("a x", s.shape, s.dtype))  # type: ignore[call-overload]
        if not fisher.amax() < math.inf:
            torch.add(scaled, divide_by_fisher(s, fisher, factor_s), out=y)
        elif columns:
            step = torch.mul(s, factor_s, out=workspace("b s", s.shape, s.dtype))  # type: ignore[call-overload]
            torch.add(scaled, step.div_(fisher), out=y)
        else:
            torch.addcdiv(scaled, s, fisher, value=b, out=y)

    return apply_in_chunks(body, (x, score), out, _columns(table, 3, score.dtype))
