"""The arithmetic of fisher, and its tiles on the CPU.

    F = s² + ε        d = s/F        x' = a x + b s/F

ε, a and b are numbers, or one of each for every sample: then they come as a table (3, B) in float64. s² + ε is one
fused multiply-add (torch.addcmul), in tiles and beyond them, so that no bit of a result depends on the tiles.
"""

from __future__ import annotations

import math

import torch

from trueness.optimized._lib.dtypes import HALVES, compute_dtype
from trueness.optimized._lib.elementwise import TILE, apply_in_chunks

ROOT = 1e18  # beyond it s² leaves float32 and ε has long been lost: s/(s² + ε) is 1/s
Table = torch.Tensor | None
Number = float | torch.Tensor


def narrowed(value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """``value`` in ``dtype``; half formats stop at their largest number."""
    if dtype not in HALVES:
        return value
    largest = torch.finfo(dtype).max
    return value.clamp(-largest, largest).to(dtype)


def as_number(value: float, like: torch.Tensor) -> torch.Tensor:
    """A tensor without axes, in the dtype and on the device of ``like``."""
    return torch.full((), value, dtype=like.dtype, device=like.device)


def beside(row: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(B,) numbers of the samples, to be multiplied to (B, ...)."""
    return row.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))


def numbers(table: Table, given: tuple[float, ...], like: torch.Tensor) -> tuple[Number, ...]:
    """ε, then a and b where they are given: as they are, or from the table."""
    return given if table is None else tuple(beside(row, like) for row in table[: len(given)])


def square_plus(eps: Number, s: torch.Tensor, sign: float = 1.0) -> torch.Tensor:
    """ε ± s², rounded once where the machine can"""
    return torch.addcmul(eps if isinstance(eps, torch.Tensor) else as_number(eps, s), s, s, value=sign)


def divided(s: torch.Tensor, fisher: torch.Tensor, b: Number | None = None) -> torch.Tensor:
    """b s/F, which is b/s where s² has left the format; ±inf goes through the equation."""
    top, small = (s, 1 / s) if b is None else (b * s, b / s)
    return torch.where((s.abs() > ROOT) & s.isfinite(), small, top / fisher)


def _columns(table: Table, count: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    return () if table is None else tuple(row.to(compute_dtype(dtype)) for row in table[:count])


class Scratch:
    """Memory of a tile, made once a call."""

    def __init__(self, like: torch.Tensor) -> None:
        self.size, self.dtype = min(like.numel(), TILE), compute_dtype(like.dtype)
        self.blocks: list[torch.Tensor] = []

    def __call__(self, k: int, like: torch.Tensor) -> torch.Tensor:
        while len(self.blocks) <= k:
            self.blocks.append(torch.empty(self.size, dtype=self.dtype))
        return self.blocks[k][: like.numel()].view(like.shape)


# -- tiles ------------------------------------------------------------------------------------------------------------


def value_in_tiles(
    score: torch.Tensor, eps: float, step: bool, table: Table, out: torch.Tensor | None = None
) -> torch.Tensor:
    """F, or d = s/F for ``step``; ``out`` may be the score itself."""
    scratch = Scratch(score)
    number = torch.tensor(eps, dtype=scratch.dtype)

    def fill(s: torch.Tensor, o: torch.Tensor, e: torch.Tensor = number) -> None:
        fisher = torch.addcmul(e, s, s, out=scratch(0, s) if step else o)
        if step and fisher.amax() < math.inf:
            torch.div(s, fisher, out=o)
        elif step:
            o.copy_(divided(s, fisher))

    return apply_in_chunks(fill, (score,), out, _columns(table, 1, score.dtype), one_pass=not step)


def pulled_in_tiles(
    grad: torch.Tensor, score: torch.Tensor, eps: float, b: float, step: bool, table: Table
) -> torch.Tensor:
    """The gradient by s: 2 s ḡ, or b ḡ (ε − s²)/F² for ``step``."""
    scratch = Scratch(score)
    number = torch.tensor(eps, dtype=scratch.dtype)

    def fill(s: torch.Tensor, g: torch.Tensor, o: torch.Tensor, *columns: torch.Tensor) -> None:
        if not step:
            torch.mul(s, g, out=o).mul_(2)
            return
        e = columns[0] if columns else number
        fisher = torch.addcmul(e, s, s, out=scratch(0, s))
        torch.addcmul(e, s, s, value=-1, out=o).div_(fisher).mul_(g).div_(fisher)
        if len(columns) > 2 or b != 1:
            o.mul_(columns[2] if len(columns) > 2 else b)

    return apply_in_chunks(fill, (score, grad), None, _columns(table, 3, score.dtype), saturate=False)


def drift_in_tiles(
    x: torch.Tensor,
    score: torch.Tensor,
    eps: float,
    a: float,
    b: float,
    table: Table,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """a x + b s/F; ``out`` may be x or the score."""
    scratch = Scratch(score)
    number = torch.tensor(eps, dtype=scratch.dtype)

    def fill(x: torch.Tensor, s: torch.Tensor, o: torch.Tensor, *columns: torch.Tensor) -> None:
        e, of_x, of_s = columns or (number, a, b)
        fisher, scaled = torch.addcmul(e, s, s, out=scratch(0, s)), torch.mul(x, of_x, out=scratch(1, x))  # type: ignore[call-overload]
        if not fisher.amax() < math.inf:
            torch.add(scaled, divided(s, fisher, of_s), out=o)
        elif columns:
            torch.add(scaled, torch.mul(s, of_s, out=scratch(2, s)).div_(fisher), out=o)  # type: ignore[call-overload]
        else:
            torch.addcdiv(scaled, s, fisher, value=b, out=o)

    return apply_in_chunks(fill, (x, score), out, _columns(table, 3, score.dtype))
