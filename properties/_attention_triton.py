"""The Triton kernels of windowed attention as implementations: interpreted on the CPU, and compiled ahead of time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trueness.tools.nouns import Implementation

INTERPRETED = {"TRITON_INTERPRET": "1"}
FORMATS = ("float32", "float16", "bfloat16")
POINTERS = ("qkv", "out", "grad", "dqkv")
SUMS = ("time", "bias", "stats", "dtime", "dbias")
NUMBERS = ("columns", "width", "count", "heads")


def module(norm: bool) -> Any:
    """What CUDA runs: products of torch around the operator, whose kernels are interpreted on the CPU."""

    def call(x: Any, t: Any, qs: Any, ks: Any, vs: Any, qt: Any, kt: Any, vt: Any, w_o: Any, *rest: Any) -> Any:
        import torch

        from trueness.optimized import _attention_operator as operator
        from trueness.optimized import attention

        *gains, table, window, heads = rest[:-1] if norm else rest
        now = t.float()
        q_t, k_t, v_t = (now @ w.float() for w in (qt, kt, vt))
        time = torch.stack([q_t, v_t, k_t] if norm else [q_t + 0 * k_t, v_t], 1)
        gain = torch.stack([g.float() for g in gains]) if norm else None
        bias = attention.relative_position_bias(table.float(), window)
        size = (window, heads, rest[-1] if norm else 0.0)
        return operator.module(x, torch.cat([qs, ks, vs], 1), time, gain, bias, w_o, size)

    return call


def compiled(kernel: str, dtype: str, window: int, width: int) -> tuple[Any, Mapping[str, Any], Mapping[str, Any]]:
    """One kernel as tools/aot.py wants it."""
    import torch

    from trueness.optimized import _attention_triton as t

    formats = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    known = t.constants(window, width, formats[dtype])
    rows, warps = t.rows_of(t.shape(window)[0], formats[dtype])
    types: dict[str, Any] = {name: f"*{dtype}:16" for name in POINTERS} | {name: "*fp32:16" for name in SUMS}
    types |= {name: "i32" for name in NUMBERS} | {"channels": "i32:16", "scale": "fp32", "places": "i64"}
    arguments = {**types, **known, "TIME": True, "SPLITS": t.SPLITS, "ROWS": rows}
    if kernel == "blocks":
        arguments["TOKENS"] = t.BLOCK
    back = kernel in ("queries", "keys")
    return getattr(t, f"{kernel}_kernel"), arguments, {"num_warps": warps if back else 4, "num_stages": 1}


def kernels() -> dict[str, Any]:
    """4 × 4 and 8 × 8 windows of width 64, a width of 72, and global attention."""
    rows = [(k, d, w, 64) for d in ("bf16", "fp32") for w in (4, 8) for k in ("queries", "keys")]
    rows += [("forward", "bf16", 4, 64), ("forward", "bf16", 8, 64), ("forward", "fp32", 4, 64)]
    rows += [("blocks", "fp32", 8, 64), ("forward", "bf16", 8, 72), ("blocks", "bf16", 16, 72)]
    return {f"{k} {d} window={w} width={n}": compiled(k, d, w, n) for k, d, w, n in rows}


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
