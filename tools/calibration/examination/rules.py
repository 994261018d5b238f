"""The rules by which other projects accept a kernel, each on the inputs and outputs that it looks at itself.

A rule compares one tensor: what the program gave, an eager result in the same format, and the float64 reference. Its
numbers are those of its project, and are written down here; nothing of this project is held to them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from trueness.tools.spec.tables import FORMATS

Tensor = torch.Tensor


@dataclass(frozen=True)
class Compared:
    """One output or gradient: of the program, eager in the format, and the reference in float64."""

    out: Tensor
    eager: Tensor
    true: Tensor
    dtype: str
    gradient: bool

    @property
    def half(self) -> bool:
        return FORMATS[self.dtype].half


@dataclass(frozen=True)
class Rule:
    """How a project decides.

    lengths   to which axes are set, one case each
    trials    seeds of every case
    gradient  whether gradients are compared, too
    pulled    magnitude of the cotangent
    source    where the rule is written
    """

    name: str
    accepts: Callable[[Compared], bool]
    lengths: tuple[int, ...]
    source: str
    trials: int = 1
    gradient: bool = True
    pulled: float = 1.0


def kernelbench(c: Compared) -> bool:
    tolerance = 1e-2 if c.half else 1e-4
    return torch.allclose(c.eager, c.out, atol=tolerance, rtol=tolerance)


def flashinfer_bench(c: Compared) -> bool:
    out, true = c.out.float(), c.true.float()
    error = (out - true).abs()
    if bool(torch.isnan(out).any()) or bool(torch.isinf(out).any()):  # its evaluator refuses both first
        return False
    wrong = (error > 1e-2) & (error / (true.abs() + 1e-8) > 1e-2)
    return not out.numel() or 1 - float(wrong.float().mean()) >= 0.95


def flash_linear_attention(c: Compared) -> bool:
    if not c.out.numel():
        return True
    error = c.true - c.out.double()
    if float(error.abs().max()) <= 1e-6:
        return True
    ratio = error.square().mean().sqrt() / (c.true.square().mean().sqrt() + 1e-8)
    return not bool(torch.isnan(c.out).any()) and float(ratio) < 0.005


def liger(c: Compared) -> bool:
    atol, rtol = (1e-2, 5e-2) if c.half else (1e-5, 1e-5)
    same_nan = torch.equal(torch.isnan(c.out), torch.isnan(c.eager))
    return same_nan and torch.allclose(c.out, c.eager, atol=atol, rtol=rtol, equal_nan=True)


def natten(c: Compared) -> bool:
    atol = {"float16": 1e-2, "bfloat16": 5e-2}.get(c.dtype, 1e-2 if c.gradient else 1e-4)
    return torch.allclose(c.out.double(), c.true, atol=atol, rtol=0)


def twice_eager(c: Compared) -> bool:
    if not c.out.numel():
        return True
    allowed = 2 * float((c.eager.double() - c.true).abs().max()) + 1e-5
    return float((c.out.double() - c.true).abs().max()) <= allowed


def dynamo(c: Compared) -> bool:
    from torch._dynamo.utils import same

    tolerance = 1e-3 if c.half else 1e-4
    return bool(
        same(c.eager, c.out, c.true, cos_similarity=False, tol=tolerance, equal_nan=True, log_error=lambda *_: None)
    )


RULES = {
    rule.name: rule
    for rule in (
        Rule("KernelBench", kernelbench, (128,), "src/eval.py: allclose, 1e-4 and 1e-2", trials=5, gradient=False),
        Rule(
            "FlashInfer-Bench",
            flashinfer_bench,
            (7, 64, 128),
            "bench/utils.py: 95 % of the elements within 1e-2 absolute or relative",
            gradient=False,
        ),
        Rule("fla", flash_linear_attention, (63, 128), "fla/utils.py, assert_close: RMS of the error below 0.005"),
        Rule("Liger", liger, (64, 123), "test/utils.py, assert_verbose_allclose: 1e-5 and 1e-5; 1e-2 and 5e-2"),
        Rule("NATTEN", natten, (32, 128), "tests/utils.py: atol alone, cotangents of 0.05", pulled=0.05),
        Rule("2 × eager", twice_eager, (113, 128), "flash-attention, tests/test_flash_attn.py"),
        Rule("dynamo same", dynamo, (128,), "torch/_dynamo/utils.py, same, against float64"),
    )
}


def compared(out: np.ndarray, eager: np.ndarray, true: np.ndarray, dtype: str, gradient: bool) -> Compared:
    """Arrays in float64 as the tensors that a project would hold."""
    kind = FORMATS[dtype].torch
    return Compared(
        torch.from_numpy(out.copy()).to(kind),
        torch.from_numpy(eager.copy()).to(kind),
        torch.from_numpy(true.copy()),
        dtype,
        gradient,
    )
