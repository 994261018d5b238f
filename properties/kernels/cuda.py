"""The Triton kernels of random features as implementations: interpreted on the CPU, and compiled ahead of time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from trueness.tools.spec.model import Implementation

INTERPRETED = {"TRITON_INTERPRET": "1"}
FORMATS = ("float32", "float16", "bfloat16")
POINTERS = ("x", "y", "v", "g", "s", "w", "b", "out", "out_b", "scales")
NUMBERS = ("n", "m", "p", "features", "d", "slab")
ROWS = ("x_row", "y_row", "v_row", "g_row", "out_row")


def _multiscale(name: str) -> Callable[[], Any]:
    """With the shares or the amplitudes of every feature in the place of weights and counts."""

    def load() -> Any:
        from trueness.optimized.kernels import rff
        from trueness.optimized.kernels.cuda import operators

        def call(*arguments: Any) -> Any:
            *tensors, weights, counts = arguments
            shares = rff.shares_by_feature(weights, counts, tensors[0])
            if name == "features":
                return operators.features(*tensors, shares.sqrt())
            return operators.matvec(*tensors, shares)[0]

        return call

    return load


def _plain(name: str) -> Callable[[], Any]:
    def load() -> Any:
        from trueness.optimized.kernels.cuda import operators

        operator = getattr(operators, name)

        def call(*arguments: Any) -> Any:
            found = operator(*arguments)
            return found[0] if isinstance(found, tuple) else found

        call.operator = operator  # type: ignore[attr-defined]
        return call

    return load


def _compiled(kernel: str, dtype: str, d: int, **constants: Any) -> Callable[[], tuple[Any, ...]]:
    """(kernel, argument types, options) for points of ``d`` dimensions."""

    def load() -> tuple[Any, ...]:
        from trueness.optimized.kernels.cuda import backward, forward

        tile = forward.compiled(d)
        found = getattr(backward if kernel in OF_BACKWARD else forward, kernel)
        types = {name: "*fp32:16" for name in POINTERS}
        types |= {"x": f"*{dtype}:16", "y": f"*{dtype}:16", "v": f"*{dtype}:16", "g": f"*{dtype}:16"}
        types |= {name: "i32:16" for name in (*NUMBERS, *ROWS)} | {"scale": "fp32", "turn": "fp32"}
        if kernel in ("features_kernel", "gram_kernel"):
            types["out"] = f"*{dtype}:16"
        if kernel in OF_BACKWARD:
            constants["D"] = tile.width(d)
        return found, {**types, **tile.constants(kernel in OF_BACKWARD, **constants)}, tile.options

    return load


OF_BACKWARD = ("rows_kernel", "columns_kernel")
PRODUCT, COSINES, PAIRS = 0, 1, 2


def _table(*rows: tuple[str, Callable[[], tuple[Any, ...]]]) -> Callable[[], dict[str, Any]]:
    return lambda: {name: load() for name, load in rows}


def _of_matvec() -> Callable[[], dict[str, Any]]:
    rows = []
    for d in (2, 64):
        for p, width in ((1, 1), (8, 16)):
            rows += [(f"pull d={d} P={p}", _compiled("pull_kernel", "fp32", d, P=width))]
            rows += [(f"push d={d} P={p}", _compiled("push_kernel", "fp32", d, P=width))]
            rows += [(f"rows d={d} P={p}", _compiled("rows_kernel", "fp32", d, KIND=PRODUCT, P=width))]
            rows += [(f"columns d={d} P={p}", _compiled("columns_kernel", "fp32", d, KIND=PRODUCT, P=width))]
    return _table(*rows, ("pull bf16 d=64 P=8", _compiled("pull_kernel", "bf16", 64, P=16)))


def _of_features(kind: int, *formats: str) -> Callable[[], dict[str, Any]]:
    rows = []
    for dtype in formats:
        for d in (2, 64):
            rows += [(f"features {dtype} d={d}", _compiled("features_kernel", dtype, d, PAIRED=kind == PAIRS))]
    rows += [("rows fp32 d=64", _compiled("rows_kernel", "fp32", 64, KIND=kind, P=1))]
    return _table(*rows, ("columns fp32 d=64", _compiled("columns_kernel", "fp32", 64, KIND=kind, P=1)))


def _implementation(
    load: Callable[[], Any],
    kernels: Callable[[], dict[str, Any]],
    *claims: str,
    formats: tuple[str, ...] = ("float32",),
) -> Implementation:
    return Implementation(
        "triton kernel",
        load,
        claims=frozenset({"gradient", *claims}),
        needs=("triton",),
        env=INTERPRETED,
        dtypes=formats,
        only="the kernel computes in float32; half formats are loaded by the lines that kernels.rff_features tries",
        largest=4096,
        kernels=kernels,
    )


FEATURES = _implementation(_plain("features"), _of_features(COSINES, "fp32", "bf16"), "opcheck", formats=FORMATS)
FEATURES_PAIRED = _implementation(_plain("features_paired"), _of_features(PAIRS, "fp32"), "opcheck")
GRAM = _implementation(
    _plain("gram"), _table(*((f"gram d={d}", _compiled("gram_kernel", "fp32", d)) for d in (2, 64))), "opcheck"
)
MATVEC = _implementation(_plain("matvec"), _of_matvec(), "opcheck", "compile", "autocast")
FEATURES_MULTISCALE = _implementation(_multiscale("features"), dict)
SAME = "the kernels of kernels.rff_matvec, tried there"
MATVEC_MULTISCALE = replace(
    _implementation(_multiscale("matvec"), dict),
    waived=dict.fromkeys(("kernel memory", "kernel tiles", "kernel offsets", "no stale cache"), SAME),
)
