"""SiLU and GELU as a kernel launches them: blocks of 1024 elements over flat storage, with a backward."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from trueness.tools.calibration.examination.program import IN_JAX, Fault, Program, fault, sabotaged
from trueness.tools.calibration.examination.programs.common import Tensor, as_stored, overwrite, wide

BLOCK = 1024
_buffers: dict[Any, Tensor] = {}
Body = Callable[..., Tensor]


def launched(body: Body, tensors: Sequence[Tensor], fault: str) -> Tensor:
    """``body`` on every block of the flat tensors."""
    flat = [wide(t).reshape(-1) for t in tensors]
    n = flat[0].numel()
    out = torch.zeros_like(flat[0])
    count = -(-n // BLOCK)
    if fault == "last partial block not written" and n > BLOCK:
        count = n // BLOCK
    if fault == "64 blocks launched":
        count = min(count, 64)
    for i in range(count):
        at = slice(i * BLOCK, min((i + 1) * BLOCK, n))
        read = at
        if fault == "second block repeats the first" and i == 1 and at.stop - at.start == BLOCK:
            read = slice(0, BLOCK)
        if fault == "count of blocks in 8 bits":
            read = slice((i % 128) * BLOCK, (i % 128) * BLOCK + at.stop - at.start)
        out[at] = body(*(t[read] for t in flat))
    return out.reshape(tensors[0].shape)


class Launch(torch.autograd.Function):
    """A kernel for the value and one for every gradient."""

    @staticmethod
    def forward(ctx: Any, body: Body, slopes: Sequence[Body], fault: str, *tensors: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(*tensors)
        ctx.slopes, ctx.fault = slopes, fault
        if fault == "input cleared afterwards":
            found = launched(body, tensors, fault).to(tensors[0].dtype)
            overwrite(tensors[0], torch.zeros_like(tensors[0]))
            return found
        found = launched(body, tensors, fault).to(tensors[0].dtype)
        if fault == "result in a kept buffer":
            kept = _buffers.setdefault((found.shape, found.dtype), found)
            overwrite(kept, found)
            return kept.detach()
        return found

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        fault, tensors = ctx.fault, list(ctx.saved_tensors)
        if fault == "backward reads as stored":
            tensors = [as_stored(t) for t in tensors]
        if fault == "backward reads the cotangent as stored":
            grad = as_stored(grad)
        part = fault.removeprefix("backward: ")
        found: list[Tensor | None] = []
        for k, slope in enumerate(ctx.slopes):
            g = launched(lambda *t, slope=slope: slope(*t), [grad, *tensors], part if part != fault else "")
            if fault == "first gradient dropped" and k == 0:
                g = torch.zeros_like(g)
            if fault == "last gradient scaled" and k == len(ctx.slopes) - 1:
                g = g * 1.01
            found.append(g.to(tensors[0].dtype))
        if fault == "cotangent written":
            overwrite(grad, torch.zeros_like(grad))
        return None, None, None, *found


def common_faults(symbol: str, *, rest: tuple[int, ...] = ()) -> dict[str, Fault]:
    """Faults of launching, for a formula of any shape or of (..., N)."""

    def length(n: int) -> dict[str, Any]:
        return {"sizes": {symbol: (n,) if symbol == "..." else n, **({"...": rest} if symbol != "..." else {})}}

    return {
        "last partial block not written": fault("last partial tile", **length(1500)),
        "second block repeats the first": fault("tile repeated", **length(2500)),
        "64 blocks launched": fault("grid too small", **length(70000)),
        "count of blocks in 8 bits": fault("narrow index", **length(140000)),
        "result in a kept buffer": fault("aliasing", "aliasing", **length(9)),
        "input cleared afterwards": fault("written memory", "written", **length(9)),
        "backward reads as stored": fault("strided input", "strided gradient", **length(9)),
        "backward: last partial block not written": fault("last partial tile", "gradient", **length(1500)),
        "backward: 64 blocks launched": fault("gradient of first rows", "gradient", **length(70000)),
        "cotangent written": fault("written memory", "cotangent", **length(9)),
        "last gradient scaled": fault("gradient dropped or scaled", "gradient", **length(9)),
    }


def some(faults: dict[str, Fault], *names: str) -> dict[str, Fault]:
    return {n: faults[n] for n in names}


def silu(x: Tensor, *, fault: str = "") -> Tensor:
    def body(z: Tensor) -> Tensor:
        if fault == "e^x over 1 + e^x":
            return z * torch.exp(z) / (1 + torch.exp(z))
        if fault == "zero below −8":
            return torch.where(z < -8, 0.0, z * torch.sigmoid(z))
        if fault == "input cut to bfloat16":
            z = z.bfloat16().to(z)
        return z * torch.sigmoid(z)

    def slope(g: Tensor, z: Tensor) -> Tensor:
        s = torch.sigmoid(z)
        return g * s * (1 + (z if fault != "slope of the saved output" else z * s) * (1 - s))

    return Launch.apply(body, (slope,), fault, x)


def gelu(x: Tensor, *, fault: str = "") -> Tensor:
    cubic = {"0.0447 for 0.044715": 0.0447}.get(fault, 0.044715)
    root = {"0.79788 for √(2∕π)": 0.79788}.get(fault, math.sqrt(2 / math.pi))

    def inner(z: Tensor) -> Tensor:
        return root * (z + cubic * z * z * z)

    def body(z: Tensor) -> Tensor:
        if fault == "exact GELU":
            return 0.5 * z * (1 + torch.erf(z / math.sqrt(2)))
        if fault == "identity beyond 3":
            return torch.where(z > 3, z, 0.5 * z * (1 + torch.tanh(inner(z))))
        return 0.5 * z * (1 + torch.tanh(inner(z)))

    def slope(g: Tensor, z: Tensor) -> Tensor:
        h = torch.tanh(inner(z))
        three = 2 if fault == "slope of the cube with 2" else 3
        return g * (0.5 * (1 + h) + 0.5 * z * (1 - h * h) * root * (1 + three * cubic * z * z))

    return Launch.apply(body, (slope,), fault, x)


# -- right programs of other algorithms --------------------------------------------------------------------------------


def silu_of_tanh(x: Tensor) -> Tensor:
    """σ(x) = (1 + tanh(x/2))/2 loses digits for negative x; x/(1 + e^{−x}) does not."""
    return (wide(x) / (1 + torch.exp(-wide(x)))).to(x.dtype)


def torch_silu(x: Tensor) -> Tensor:
    return torch.nn.functional.silu(x)


def silu_by_logsigmoid(x: Tensor) -> Tensor:
    return (wide(x) * torch.exp(torch.nn.functional.logsigmoid(wide(x)))).to(x.dtype)


def silu_in_float64(x: Tensor) -> Tensor:
    return (x.double() * torch.sigmoid(x.double())).to(x.dtype)


def silu_by_jax(x: Any) -> Any:
    import jax

    return jax.nn.silu(x.astype(np.float32)).astype(x.dtype)


def gelu_by_sigmoid(x: Tensor) -> Tensor:
    """½ (1 + tanh u) = σ(2 u): nothing cancels for negative x."""
    z = wide(x)
    return (z * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (z + 0.044715 * z * z * z))).to(x.dtype)


def torch_gelu(x: Tensor) -> Tensor:
    return torch.nn.functional.gelu(x, approximate="tanh")


def gelu_in_float64(x: Tensor) -> Tensor:
    return torch.nn.functional.gelu(x.double(), approximate="tanh").to(x.dtype)


SILU, GELU = "attention.silu", "attention.gelu_tanh"
NAMED = common_faults("N")

PROGRAMS = (
    *sabotaged(
        SILU,
        "blocks of 1024",
        silu,
        {
            **NAMED,
            "e^x over 1 + e^x": fault("overflow", offset=100.0, N=9),
            "zero below −8": fault("long sums and powers", N=9, scale=1.0, dtypes=("float64", "float32")),
            "input cut to bfloat16": fault("reduced inputs", dtypes=("float32", "float16"), N=9),
            "slope of the saved output": fault("gradient dropped or scaled", "gradient", N=9),
        },
    ),
    Program(SILU, "x over 1 + e^−x", silu_of_tanh),
    Program(SILU, "torch silu", torch_silu),
    Program(SILU, "exp of logsigmoid", silu_by_logsigmoid),
    Program(SILU, "float64 inside", silu_in_float64),
    Program(SILU, "JAX silu", silu_by_jax, framework="jax", dtypes=IN_JAX),
    *sabotaged(
        GELU,
        "blocks of 1024",
        gelu,
        {
            **some(NAMED, "last partial block not written", "64 blocks launched", "backward reads as stored"),
            "0.0447 for 0.044715": fault("constant", N=9),
            "0.79788 for √(2∕π)": fault("constant", N=9),
            "exact GELU": fault("constant", N=9, names=("DIFFIT-11d",)),
            "identity beyond 3": fault("long sums and powers", N=300, scale=0.5),
            "slope of the cube with 2": fault("gradient dropped or scaled", "gradient", N=9),
        },
    ),
    Program(GELU, "by the sigmoid", gelu_by_sigmoid),
    Program(GELU, "torch gelu", torch_gelu),
    Program(GELU, "float64 inside", gelu_in_float64),
)
