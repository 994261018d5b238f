"""Triton kernels of F = s² + ε with one error each, and the checks of interpreted kernels that detect it.

    TRITON_INTERPRET=1 python -m trueness.regressions._lib.wrong_kernels    # JSON: checks that must fail, those that do

All of them return the right values for ordinary input, so that the value check alone does not detect them.
"""

from __future__ import annotations

import json
from typing import Any

import torch
import triton
import triton.language as tl

from trueness.optimized.fisher import floor
from trueness.tools.checks import CHECKS
from trueness.tools.checks.core import run
from trueness.tools.run.runner import Job, trial_for
from trueness.tools.spec.model import Implementation
from trueness.tools.triton.interpreter import speed_up

CHECKED = ("value", "kernel memory", "kernel tiles", "kernel offsets")


@triton.jit
def flat_kernel(x, out, eps, n, STEP: tl.constexpr, WIDE: tl.constexpr, MASKED: tl.constexpr, BLOCK: tl.constexpr):
    program = tl.program_id(0)
    if WIDE:
        program = program.to(tl.int64)
    at = program * STEP + tl.arange(0, BLOCK)
    s = tl.load(x + at, mask=at < n, other=0.0).to(tl.float32)
    if MASKED:
        tl.store(out + at, s * s + eps, mask=at < n)
    else:
        tl.store(out + at, s * s + eps)


@triton.jit
def rows_kernel(x, out, eps, stride, n, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    far = row.to(tl.int64) * stride if WIDE else row * stride
    s = tl.load(x + far + at, mask=at < n, other=0.0)
    tl.store(out + row.to(tl.int64) * n + at, s * s + eps, mask=at < n)


@triton.jit
def last_kernel(x, out, eps, n, LANES: tl.constexpr, BLOCK: tl.constexpr):
    """Lanes beyond the end write the last element again, with different values."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    s = tl.load(x + tl.where(at < n, at, n - 1), mask=at < n + LANES, other=0.0)
    tl.store(out + tl.where(at < n, at, n - 1), (s * s + eps) * tl.where(at < n, 1.0, 1.0000001), mask=at < n + LANES)


@triton.jit
def atomic_kernel(x, out, eps, n, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    s = tl.load(x + at, mask=at < n, other=0.0)
    tl.atomic_add(out + at, s * s + eps, mask=at < n)


@triton.jit
def reading_kernel(x, out, eps, n, BLOCK: tl.constexpr):
    """The second program reads a result of the first, although their order is not defined."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    s = tl.load(x + at, mask=at < n, other=0.0)
    before = tl.load(out + at - 1, mask=(at > 0) & (at < n), other=0.0)
    tl.store(out + at, s * s + eps + 0.0 * tl.where(before == before, 0.0, 0.0), mask=at < n)


def flat(step: int = 1024, wide: bool = True, masked: bool = True, block: int = 1024, padded: bool = False) -> Any:
    """A function over tiles at a distance of ``step``."""

    def call(score: torch.Tensor, alpha: float) -> torch.Tensor:
        source = score.contiguous().flatten()
        size = -(-max(source.numel(), 1) // block) * block
        x = torch.nn.functional.pad(source, (0, size - source.numel())) if padded and source.numel() < 2**28 else source
        out = (
            torch.empty_like(x) if masked else torch.empty(size)[: x.numel()]
        )  # padded, so that unmasked stores stay inside
        n = x.numel()
        if n:
            flat_kernel[(-(-n // step),)](x, out, floor(alpha), n, STEP=step, WIDE=wide, MASKED=masked, BLOCK=block)
        return out[: source.numel()].view(score.shape)

    return call


def rows(wide: bool) -> Any:
    """A function that goes row by row along the first axis, with any stride; the other axes must be dense."""

    def call(score: torch.Tensor, alpha: float) -> torch.Tensor:
        if score.ndim < 2 or not score[0].is_contiguous() or not score.numel():
            return flat()(score, alpha)
        out, n = torch.empty(score.shape), score[0].numel()
        grid = (score.shape[0], -(-n // 256))
        rows_kernel[grid](score, out, floor(alpha), score.stride(0), n, WIDE=wide, BLOCK=256)
        return out

    return call


def through(kernel: Any, **more: Any) -> Any:
    def call(score: torch.Tensor, alpha: float) -> torch.Tensor:
        x = score.contiguous().flatten()
        out = torch.empty_like(x)
        if x.numel() < 2**28:
            out.zero_()
        if x.numel():
            kernel[(-(-x.numel() // 1024),)](x, out, floor(alpha), x.numel(), BLOCK=1024, **more)
        return out.view(score.shape)

    return call


WRONG: dict[str, tuple[set[str], Any]] = {
    "right": (set(), flat()),
    "right, far rows": (set(), rows(wide=True)),
    "stores without a mask": ({"kernel memory", "kernel offsets"}, flat(masked=False)),
    "tiles that overlap": ({"kernel memory"}, flat(step=1023)),
    "lanes that meet": ({"kernel memory"}, through(last_kernel, LANES=4)),
    "reads another program's result": ({"kernel memory"}, through(reading_kernel)),
    "adds with atomics": ({"kernel memory"}, through(atomic_kernel)),
    "many programs": ({"kernel tiles"}, flat(step=32, block=32)),
    "one program": ({"kernel tiles"}, flat(step=8192, block=8192)),
    "no partial tile": ({"kernel tiles"}, flat(padded=True)),
    "tiles counted in int32": ({"kernel offsets"}, flat(wide=False)),
    "rows counted in int32": ({"kernel offsets"}, rows(wide=False)),
}


def failing(call: Any, dtype: str = "float32") -> dict[str, str]:
    """check → message, of the checks that fail."""
    subject = Implementation("subject", lambda: call, largest=4096)
    trial = trial_for(Job("fisher.diagonal", "subject", dtype, profile="quick"), subject)
    verdicts = [run(CHECKS[name], trial) for name in CHECKED]
    return {v.check: v.message for v in verdicts if not v.passed or v.skipped}


if __name__ == "__main__":
    speed_up()
    found = {name: {"wanted": sorted(wanted), "failing": failing(call)} for name, (wanted, call) in WRONG.items()}
    print(json.dumps(found))
