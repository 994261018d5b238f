"""The Triton kernels of fisher: value and backward of F = s² + ε and d = s/F, and of the drift a x + b s/F.

One axis, BLOCK elements per program. Only the last program is masked: the others load and store 16 bytes at a time for
any n. Offsets are 64-bit and arithmetic is float32. ``limit`` is the largest number of the output's format, at which
half formats saturate (infinite for float32). ε, a and b are runtime scalars, so that one compilation serves all values,
or rows of a table (3, B) with one number per sample; the samples are the outermost axis in memory.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl

from trueness.optimized._lib.dtypes import HALVES
from trueness.optimized._lib.memory import align_storage, flat_view, match_layout, to_dense

BLOCK = 1024
WARPS = 4


@triton.jit
def _saturated(value, limit):
    bounded = tl.minimum(tl.maximum(value, -limit), limit)
    return tl.where(value != value, value, bounded)


@triton.jit
def _value(s, floor, limit, STEP: tl.constexpr):
    fisher = s * s + floor
    if STEP:  # beyond 1e18 s² overflows, ε has long been lost, and s/F is 1/s; ±inf goes through the equation
        large = (tl.abs(s) > 1e18) & (tl.abs(s) < float("inf"))
        return _saturated(tl.where(large, 1.0 / s, s / fisher), limit)
    else:
        return _saturated(fisher, limit)


@triton.jit
def _drifted(x, s, floor, a, b, limit):
    large = (tl.abs(s) > 1e18) & (tl.abs(s) < float("inf"))
    return _saturated(a * x + tl.where(large, b / s, b * s / (s * s + floor)), limit)


@triton.jit
def _pullback(g, s, floor, STEP: tl.constexpr):
    if STEP:
        square = s * s
        fisher = square + floor
        return g * ((floor - square) / fisher) / fisher
    else:
        return 2.0 * s * g


@triton.jit
def forward_kernel(score, out, floor, limit, n, STEP: tl.constexpr, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    offs = start + tl.arange(0, BLOCK)
    if start + BLOCK <= n:
        s = tl.load(score + offs).to(tl.float32)
        tl.store(out + offs, _value(s, floor, limit, STEP))
    else:
        mask = offs < n
        s = tl.load(score + offs, mask=mask, other=0.0).to(tl.float32)
        tl.store(out + offs, _value(s, floor, limit, STEP), mask=mask)


@triton.jit
def backward_kernel(grad, score, out, floor, n, STEP: tl.constexpr, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    offs = start + tl.arange(0, BLOCK)
    if start + BLOCK <= n:
        g = tl.load(grad + offs).to(tl.float32)
        s = tl.load(score + offs).to(tl.float32)
        tl.store(out + offs, _pullback(g, s, floor, STEP))
    else:
        mask = offs < n
        g = tl.load(grad + offs, mask=mask, other=0.0).to(tl.float32)
        s = tl.load(score + offs, mask=mask, other=0.0).to(tl.float32)
        tl.store(out + offs, _pullback(g, s, floor, STEP), mask=mask)


@triton.jit
def drift_kernel(x, score, out, floor, a, b, limit, n, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    offs = start + tl.arange(0, BLOCK)
    if start + BLOCK <= n:
        s = tl.load(score + offs).to(tl.float32)
        at = tl.load(x + offs).to(tl.float32)
        tl.store(out + offs, _drifted(at, s, floor, a, b, limit))
    else:
        mask = offs < n
        s = tl.load(score + offs, mask=mask, other=0.0).to(tl.float32)
        at = tl.load(x + offs, mask=mask, other=0.0).to(tl.float32)
        tl.store(out + offs, _drifted(at, s, floor, a, b, limit), mask=mask)


@triton.jit
def drift_backward_kernel(grad, score, of_x, of_score, floor, a, b, n, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    offs = start + tl.arange(0, BLOCK)
    if start + BLOCK <= n:
        g = tl.load(grad + offs).to(tl.float32)
        s = tl.load(score + offs).to(tl.float32)
        tl.store(of_x + offs, a * g)
        tl.store(of_score + offs, b * _pullback(g, s, floor, True))
    else:
        mask = offs < n
        g = tl.load(grad + offs, mask=mask, other=0.0).to(tl.float32)
        s = tl.load(score + offs, mask=mask, other=0.0).to(tl.float32)
        tl.store(of_x + offs, a * g, mask=mask)
        tl.store(of_score + offs, b * _pullback(g, s, floor, True), mask=mask)


# -- one number per sample ---------------------------------------------------------------------------------------------


@triton.jit
def _samples(start, each, samples, BLOCK: tl.constexpr, SMALL: tl.constexpr):
    """Where a block's numbers stand, ``each`` elements to a sample: two places at most, unless samples are SMALL."""
    first = start // each
    within = (start - first * each).to(tl.int32) + tl.arange(0, BLOCK) if SMALL else start - first * each
    if SMALL:
        k = tl.minimum(first + within // each.to(tl.int32), samples - 1)
        return k, k, k
    else:
        return first, tl.minimum(first + 1, samples - 1), tl.arange(0, BLOCK) >= each - within


@triton.jit
def _number(row, here, after, late, SMALL: tl.constexpr):
    if SMALL:
        return tl.load(row + here)
    else:
        return tl.where(late, tl.load(row + after), tl.load(row + here))


@triton.jit
def sampled_kernel(
    x, score, out, table, limit, each, samples, n, KIND: tl.constexpr, BLOCK: tl.constexpr, SMALL: tl.constexpr
):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    offs = start + tl.arange(0, BLOCK)
    here, after, late = _samples(start, each, samples, BLOCK, SMALL)
    floor = _number(table, here, after, late, SMALL)
    a, b = floor, floor
    if KIND == 2:
        a = _number(table + samples, here, after, late, SMALL)
        b = _number(table + 2 * samples, here, after, late, SMALL)
    if start + BLOCK <= n:
        s = tl.load(score + offs).to(tl.float32)
        if KIND == 2:
            at = tl.load(x + offs).to(tl.float32)
            tl.store(out + offs, _drifted(at, s, floor, a, b, limit))
        else:
            tl.store(out + offs, _value(s, floor, limit, KIND == 1))
    else:
        mask = offs < n
        s = tl.load(score + offs, mask=mask, other=0.0).to(tl.float32)
        if KIND == 2:
            at = tl.load(x + offs, mask=mask, other=0.0).to(tl.float32)
            tl.store(out + offs, _drifted(at, s, floor, a, b, limit), mask=mask)
        else:
            tl.store(out + offs, _value(s, floor, limit, KIND == 1), mask=mask)  # of one sample each


@triton.jit
def sampled_backward_kernel(
    grad, score, of_x, of_score, table, each, samples, n, KIND: tl.constexpr, BLOCK: tl.constexpr, SMALL: tl.constexpr
):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    offs = start + tl.arange(0, BLOCK)
    here, after, late = _samples(start, each, samples, BLOCK, SMALL)
    floor = _number(table, here, after, late, SMALL)
    a, b = floor, floor
    if KIND == 2:
        a = _number(table + samples, here, after, late, SMALL)
        b = _number(table + 2 * samples, here, after, late, SMALL)
    if start + BLOCK <= n:
        g = tl.load(grad + offs).to(tl.float32)
        s = tl.load(score + offs).to(tl.float32)
        if KIND == 2:
            tl.store(of_x + offs, a * g)
            tl.store(of_score + offs, b * _pullback(g, s, floor, True))
        else:
            tl.store(of_score + offs, _pullback(g, s, floor, KIND == 1))
    else:
        mask = offs < n
        g = tl.load(grad + offs, mask=mask, other=0.0).to(tl.float32)
        s = tl.load(score + offs, mask=mask, other=0.0).to(tl.float32)
        if KIND == 2:
            tl.store(of_x + offs, a * g, mask=mask)
            tl.store(of_score + offs, b * _pullback(g, s, floor, True), mask=mask)
        else:
            tl.store(of_score + offs, _pullback(g, s, floor, KIND == 1), mask=mask)


# -- launches ---------------------------------------------------------------------------------------------------------


def _interpreted() -> bool:
    return bool(triton.knobs.runtime.interpret)


def _output_buffer(result: torch.Tensor) -> torch.Tensor:
    """The tensor a kernel writes: float32 under the interpreter, which truncates bfloat16 instead of rounding."""
    return torch.empty_like(result, dtype=torch.float32) if _interpreted() and result.element_size() == 2 else result


def _readable(source: torch.Tensor) -> torch.Tensor:
    """The tensor a kernel reads: float32 under the interpreter, which flushes bfloat16 subnormals."""
    return source.float() if _interpreted() and source.dtype == torch.bfloat16 else source


def _limit(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).max if dtype in HALVES else math.inf


def _table_arguments(table: torch.Tensor, n: int) -> dict[str, Any]:
    """The arguments of a kernel that reads ε, a and b from a table, in float32."""
    samples = table.shape[1]
    each = n // samples
    return {"table": table.float().contiguous(), "each": each, "samples": samples, "SMALL": each < BLOCK}


def _launch(
    tensors: tuple[torch.Tensor, torch.Tensor],
    numbers: tuple[float, ...],
    kind: int,
    out: torch.Tensor | None,
    table: torch.Tensor | None,
) -> torch.Tensor:
    """Value of ``kind`` 0 (F), 1 (d) or 2 (drift) of (x, score); in the dtype and the strides of the first."""
    dtype = tensors[0].dtype
    if dtype == torch.float64:
        raise ValueError("score had dtype torch.float64; the kernel computes in float32 (use the CPU path).")
    sources, target, result = align_storage(tensors if kind == 2 else tensors[1:], out, table is not None)
    n = target.numel()
    if n:
        buffer = _output_buffer(target)
        grid, common = (triton.cdiv(n, BLOCK),), {"BLOCK": BLOCK, "num_warps": WARPS}
        x, score = _readable(sources[0]), _readable(sources[-1])
        if table is not None:
            sampled_kernel[grid](
                x, score, buffer, limit=_limit(dtype), n=n, KIND=kind, **_table_arguments(table, n), **common
            )
        elif kind == 2:
            drift_kernel[grid](x, score, buffer, *numbers, _limit(dtype), n, **common)
        else:
            forward_kernel[grid](score, buffer, *numbers, _limit(dtype), n, STEP=kind == 1, **common)
        if buffer is not target:
            target.copy_(buffer)
    if out is not None and result is not out:
        return out.copy_(result)
    return result


def forward(
    score: torch.Tensor,
    floor: float,
    step: bool,
    out: torch.Tensor | None = None,
    table: torch.Tensor | None = None,
) -> torch.Tensor:
    """F, or d = s/F for ``step``; in the dtype and the strides of ``score``."""
    return _launch((score, score), (floor,), int(step), out, table)


def drift(
    x: torch.Tensor,
    score: torch.Tensor,
    floor: float,
    a: float,
    b: float,
    table: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """a x + b s/F; in the dtype and the strides of ``x``."""
    return _launch((x, score), (floor, a, b), 2, out, table)


def _pull(
    grad: torch.Tensor, score: torch.Tensor, numbers: tuple[float, ...], kind: int, table: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients (x̄, s̄) of ``kind``; without x, both are s̄."""
    like = to_dense(score, table is not None)
    grad_score = torch.empty_like(like)
    grad_x = torch.empty_like(like) if kind == 2 else grad_score
    n = like.numel()
    if n:
        g, s = _readable(flat_view(match_layout(grad, like))), _readable(flat_view(like))
        targets = [flat_view(grad_x), flat_view(grad_score)]
        buffers = [_output_buffer(target) for target in targets]
        grid, common = (triton.cdiv(n, BLOCK),), {"BLOCK": BLOCK, "num_warps": WARPS}
        if table is not None:
            sampled_backward_kernel[grid](g, s, *buffers, n=n, KIND=kind, **_table_arguments(table, n), **common)
        elif kind == 2:
            drift_backward_kernel[grid](g, s, *buffers, *numbers, n, **common)
        else:
            backward_kernel[grid](g, s, buffers[1], *numbers, n, STEP=kind == 1, **common)
        for target, buffer in zip(targets[kind != 2 :], buffers[kind != 2 :], strict=True):
            if buffer is not target:
                target.copy_(buffer)
    return grad_x, grad_score


def backward(
    grad: torch.Tensor, score: torch.Tensor, floor: float, step: bool, table: torch.Tensor | None = None
) -> torch.Tensor:
    """The gradient by s: 2 s ḡ, or ḡ (ε − s²)/F² for ``step``."""
    return _pull(grad, score, (floor,), int(step), table)[1]


def drift_backward(
    grad: torch.Tensor, score: torch.Tensor, floor: float, a: float, b: float, table: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients by x and by s: a ḡ and b ḡ (ε − s²)/F²."""
    return _pull(grad, score, (floor, a, b), 2, table)
