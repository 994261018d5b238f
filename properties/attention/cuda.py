"""The Triton kernels of windowed attention as implementations: interpreted on the CPU, and compiled ahead of time."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from trueness.tools.spec.model import Implementation

INTERPRETED = {"TRITON_INTERPRET": "1"}
FORMATS = ("float32", "float16", "bfloat16")
SHORT = {"torch.float32": "fp32", "torch.float16": "fp16", "torch.bfloat16": "bf16"}
POINTERS = ("qkv", "out", "grad", "dqkv")
SUMS = ("time", "bias", "stats", "dtime", "dbias")
NUMBERS = ("columns", "width", "count", "heads", "pairs")


def module(norm: bool) -> Any:
    """The path of CUDA: products of torch around the operator, whose kernels are interpreted on the CPU."""

    def call(x: Any, t: Any, qs: Any, ks: Any, vs: Any, qt: Any, kt: Any, vt: Any, w_o: Any, *rest: Any) -> Any:
        import torch

        from trueness.optimized import attention
        from trueness.optimized.attention.cuda import operator

        *gains, table, window, num_heads = rest[:-1] if norm else rest
        q_t, k_t, v_t = (t.float() @ w.float() for w in (qt, kt, vt))
        time = torch.stack([q_t, v_t, k_t] if norm else [q_t + 0 * k_t, v_t], 1)
        gain = torch.stack([g.float() for g in gains]) if norm else None
        bias = attention.relative_position_bias(table.float(), window)
        config = (window, num_heads, rest[-1] if norm else 0.0)
        return operator.project_and_attend(x, torch.cat([qs, ks, vs], 1), time, gain, bias, w_o, config)

    return call


def compiled(kernel: str, dtype: Any, window: int, width: int) -> tuple[Any, Mapping[str, Any], Mapping[str, Any]]:
    """One kernel as tools/triton/compile.py wants it."""
    from trueness.optimized.attention.cuda import backward as back
    from trueness.optimized.attention.cuda import common, forward

    types: dict[str, Any] = {name: f"*{SHORT[str(dtype)]}:16" for name in POINTERS}
    types |= {name: "*fp32:16" for name in SUMS} | {name: "i32" for name in NUMBERS}
    given = types | {"channels": "i32:16", "scale": "fp32", "TIME": True, "SPLITS": back.SPLITS}
    if kernel in ("forward", "blocks"):
        given |= common.constants(window, width, dtype)
        given |= {"TOKENS": forward.BLOCK} if kernel == "blocks" else {}
        return getattr(forward, f"{kernel}_kernel"), given, {"num_warps": 4, "num_stages": 1}
    plan = back.plan_of(window, width, dtype)
    given |= back.constants_of(plan, window, width, dtype) | (back.BIAS if kernel == "bias" else {})
    warps = given.pop("num_warps", plan.warps)
    return getattr(back, f"{kernel}_kernel"), given, {"num_warps": warps, "num_stages": 1}


def kernels() -> dict[str, Any]:
    """4 × 4 and 8 × 8 windows, and global attention of 9 × 9 and 16 × 16 tokens; widths 64 and 72."""
    import torch

    from trueness.optimized.attention.cuda import backward as back

    half, single = torch.bfloat16, torch.float32
    rows = [("forward", half, 4, 64), ("forward", half, 8, 64), ("forward", single, 4, 64)]
    rows += [("blocks", single, 8, 64), ("forward", half, 8, 72), ("blocks", half, 16, 72)]
    sizes = ((4, 64), (8, 64), (4, 72), (5, 72), (8, 72), (9, 64), (16, 64), (16, 72))
    for dtype, (window, width) in itertools.product((half, torch.float16, single), sizes):
        in_blocks = back.plan_of(window, width, dtype).in_blocks
        names = ("blocks_queries", "keys", "bias") if in_blocks else ("queries", "keys")
        rows += [(name, dtype, window, width) for name in names]
    return {f"{k} {SHORT[str(d)]} window={w} width={n}": compiled(k, d, w, n) for k, d, w, n in rows}


def implementation(norm: bool, table: Any = dict, **fields: Any) -> Implementation:
    return Implementation(
        "triton kernel",
        lambda: module(norm),
        claims=frozenset({"gradient"}),
        needs=("triton",),
        env=INTERPRETED,
        dtypes=FORMATS,
        only="the kernel computes in float32",
        largest=4096,
        kernels=table,
        **fields,
    )
