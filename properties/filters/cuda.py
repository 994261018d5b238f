"""The Triton kernels of filters as implementations: interpreted on the CPU, and compiled ahead of time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trueness.tools.spec.model import Implementation

INTERPRETED = {"TRITON_INTERPRET": "1"}
FORMATS = ("float32", "float16", "bfloat16")


def _blend() -> Any:
    from trueness.optimized.filters.cuda import operators

    def call(tiles: Any, rows: Any, columns: Any, height: int, width: int, window: str) -> Any:
        return operators.blend(tiles, rows.tolist(), columns.tolist(), height, width, window)

    return call


def _fft_gaussian() -> Any:
    from trueness.optimized.filters.cuda import operators

    def call(x: Any, sigma: Any) -> Any:
        return operators.fft_gaussian(x, sigma)

    call.operator = operators.fft_gaussian  # type: ignore[attr-defined]
    return call


def _transformed() -> Any:
    """By the transform however small the planes are: where they fit a product, the operator does not take it."""
    import torch

    from trueness.optimized.filters import fft
    from trueness.optimized.filters.cuda import kernels, operators

    class Filter(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, sigma: Any) -> Any:
            ctx.save_for_backward(x, sigma)
            return kernels.fft_filter(x, fft.gaussian_factors(*x.shape[-2:], float(sigma)))

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            x, sigma = ctx.saved_tensors
            return Filter.apply(grad, sigma.detach()), operators.fft_gaussian_slope(grad, x, sigma)

    return Filter.apply


def _of_blend() -> dict[str, Any]:
    from trueness.optimized.filters.cuda import kernels as t

    block = {"ROWS": t.ROWS, "COLUMNS": t.COLUMNS}
    numbers = {n: "i32:16" for n in ("height", "width", "h", "w")} | {n: "i32" for n in ("down", "across", "planes")}
    tables = {n: "*i32:16" for n in ("which", "first_y", "first_x", "starts_y", "starts_x", "of_y", "of_x")}
    shares = {"shares_y": "*fp32:16", "shares_x": "*fp32:16", "rows": "i64:16"}
    found: dict[str, Any] = {}
    for dtype in ("fp32", "bf16"):
        types = {**tables, **shares, **numbers, **{n: f"*{dtype}:16" for n in ("tiles", "image", "out")}, **block}
        for most in (2, 3):
            cover = {"MOST_Y": most, "MOST_X": most}
            found[f"gather {dtype}, {most} tiles an axis"] = (
                t.blend_kernel,
                {**types, **cover},
                {"num_warps": t.WARPS},
            )
        found[f"cut {dtype}"] = (t.cut_kernel, types, {"num_warps": t.WARPS})
    return found


def _of_fft() -> dict[str, Any]:
    from trueness.optimized.filters.cuda import kernels as t

    types: dict[str, Any] = {n: "*fp32:16" for n in ("spectrum", "gains_y", "gains_x")}
    types |= {"rows": "i64", "height": "i32", "ROWS": t.ROWS, "COLUMNS": t.COLUMNS}
    return {
        f"scale, {name}": (t.scale_kernel, {**types, "width": width}, {"num_warps": t.WARPS})
        for name, width in (("any width", "i32"), ("width divisible by 16", "i32:16"))
    }


def _of_planes() -> dict[str, Any]:
    from trueness.optimized.filters.cuda import planes as t

    found: dict[str, Any] = {}
    for dtype, sizes in (("fp32", (16, 32, 64)), ("bf16", (64,))):
        for columns in sizes:
            for name, number in (("up to", "i32"), ("of", "i32:16")):
                types = {"x": f"*{dtype}:16", "out": f"*{dtype}:16", "first": "*fp32:16", "rows": "i64"}
                types |= {n: number for n in ("height", "width", "together")}
                tile = {"ROWS": t.LARGEST, "COLUMNS": columns, "PART": t.PART, "PRECISION": "tf32x3"}
                options = {"num_warps": t.WARPS}
                found[f"planes {dtype}, rows {name} {columns}"] = (t.planes_kernel, {**types, **tile}, options)
    return found


def _implementation(
    load: Callable[[], Any], kernels: Callable[[], dict[str, Any]], *claims: str, name: str = "triton kernel"
) -> Implementation:
    return Implementation(
        name,
        load,
        claims=frozenset({"gradient", *claims}),
        needs=("triton",),
        env=INTERPRETED,
        dtypes=FORMATS,
        only="the kernel computes in float32",
        largest=4096,
        kernels=kernels,
    )


BLEND = _implementation(_blend, _of_blend)
FFT_GAUSSIAN = _implementation(_fft_gaussian, _of_planes, "opcheck")
TRANSFORMED = _implementation(_transformed, _of_fft, name="triton kernel, transformed")
