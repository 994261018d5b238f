"""The Triton kernels of fisher: value and backward of F = s² + ε and of d = s/F, one kernel each.

Flat, BLOCK elements a program; full blocks are unmasked, so that they load and store 16 bytes at a time whatever n is,
and the last program alone is masked. Offsets are 64-bit. Arithmetic is float32; ``limit`` is the largest number of the
output's format (infinite for float32), at which half formats stop. ε is a runtime scalar: one compilation serves all.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from trueness.optimized._elementwise import aligned, dense, flat

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


def _interpreted() -> bool:
    return bool(triton.knobs.runtime.interpret)


def _stored(result: torch.Tensor) -> torch.Tensor:
    """Where the kernel writes: the interpreter truncates a bfloat16 store, so it writes float32, cast by torch."""
    return torch.empty_like(result, dtype=torch.float32) if _interpreted() and result.element_size() == 2 else result


def _loaded(source: torch.Tensor) -> torch.Tensor:
    """What the kernel reads: the interpreter flushes bfloat16 subnormals, so there torch widens them first."""
    return source.float() if _interpreted() and source.dtype == torch.bfloat16 else source


def forward(score: torch.Tensor, floor: float, step: bool, out: torch.Tensor | None = None) -> torch.Tensor:
    """F, or d = s/F for ``step``; in the dtype and the strides of ``score``."""
    if score.dtype == torch.float64:
        raise ValueError("score had dtype torch.float64; the kernel computes in float32 (use the CPU path).")
    source, target, result = aligned(score, out)
    n = source.numel()
    if n:
        half = score.dtype in (torch.float16, torch.bfloat16)
        limit = torch.finfo(score.dtype).max if half else math.inf
        place = _stored(target)
        grid = (triton.cdiv(n, BLOCK),)
        forward_kernel[grid](_loaded(source), place, floor, limit, n, STEP=step, BLOCK=BLOCK, num_warps=WARPS)
        if place is not target:
            target.copy_(place)
    if out is not None and result is not out:
        out.copy_(result)
        return out
    return result


def backward(grad: torch.Tensor, score: torch.Tensor, floor: float, step: bool) -> torch.Tensor:
    """The gradient by s: 2 s ḡ, or ḡ (ε − s²)/F² for ``step``."""
    source = score if dense(score) else score.contiguous()
    result = torch.empty_like(source)
    aligned_grad = grad
    if not (dense(grad) and grad.stride() == source.stride()):
        aligned_grad = torch.empty_like(source, dtype=grad.dtype).copy_(grad)
    n = source.numel()
    if n:
        target = flat(result)
        place = _stored(target)
        grid = (triton.cdiv(n, BLOCK),)
        backward_kernel[grid](
            _loaded(flat(aligned_grad)), _loaded(flat(source)), place, floor, n, STEP=step, BLOCK=BLOCK, num_warps=WARPS
        )
        if place is not target:
            target.copy_(place)
    return result
