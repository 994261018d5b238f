"""The formulas of the family fisher: diagonal, preconditioned step, drift, smoothing."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from trueness.optimized import fisher as fast
from trueness.optimized.fisher import operators
from trueness.properties._lib import digits as _digits
from trueness.reference import fisher as true
from trueness.tools.spec.inputs import Made, Real, Scalar
from trueness.tools.spec.model import Formula, Implementation

AMARI = "Amari 1998, Natural Gradient Works Efficiently in Learning; Martens 2020 (1412.1193) §11"
PADDINGS = ("zeros", "reflect", "replicate", "circular")
FULL = frozenset({"gradient", "double", "compile", "autocast", "vmap", "jvp", "graph", "huge"})
INTERPRETED = {"TRITON_INTERPRET": "1"}
BY_SAMPLE = frozenset({"gradient", "double", "compile", "autocast", "jvp", "out"})
HALF = "half formats stop at their largest number, ±inf included; NaN goes through; subnormals count as what they are"


def elements(sizes: Any) -> int:
    total = 1
    for n in sizes["..."]:
        total *= n
    return total


def each(name: str, low: float, high: float) -> Made:
    """One number in float64 for every sample."""
    return Made(name, lambda known, generator: generator.uniform(low, high, known["B"]), array=True)


def scores_of_digits() -> dict[str, tuple[Any, ...]]:
    """The score of a mixture fitted to handwritten digits, at several noise levels."""
    if not _digits.available():
        return {}
    return {f"digits ᾱ={alpha}": (score, alpha) for alpha, score in _digits.mixture_scores().items()}


def fisher_of_digits() -> dict[str, tuple[Any, ...]]:
    """Their Fisher diagonal, to be smoothed."""
    if not _digits.available():
        return {}
    scores = _digits.mixture_scores().items()
    return {f"digits ᾱ={alpha}": (true.diagonal(s, alpha), p) for (alpha, s), p in zip(scores, PADDINGS, strict=True)}


def floors(alpha: Any) -> Any:
    """The table of the operators: ε, a = 1 and b = 1 of every sample."""
    import torch

    return torch.stack([fast.floor(0.0) - 1e-3 * alpha, torch.ones_like(alpha), torch.ones_like(alpha)])


def two_noise_levels(*of_samples: Any, start: bool = False) -> Any:
    """Two samples: the digits and 15 of their mirror images, their score at two noise levels; more than a tile each."""

    def mirrored(digits: Any) -> Any:
        return np.concatenate([digits, np.flip(digits, -1)])[:31]

    def load() -> dict[str, tuple[Any, ...]]:
        if not _digits.available():
            return {}
        levels = list(_digits.mixture_scores().items())[1:3]
        scores = np.stack([mirrored(score) for _, score in levels])
        noised = np.stack([mirrored(_digits.noised(alpha).reshape(-1, 8, 8)) for alpha, _ in levels])
        alphas = np.array([alpha for alpha, _ in levels])
        return {"digits": (*((noised, scores) if start else (scores,)), alphas, *map(np.array, of_samples))}

    return load


def operator(step: bool) -> Any:
    def call(score: Any, alpha: Any) -> Any:
        tall = not isinstance(alpha, float)
        return operators.operator(score, 0.0 if tall else fast.floor(alpha), step, floors(alpha) if tall else None)

    return call


def drift_operator() -> Any:
    def call(x: Any, score: Any, alpha: Any, a: Any, b: Any) -> Any:
        if isinstance(alpha, float):
            return operators.drift_operator(x, score, fast.floor(alpha), a, b)
        table = floors(alpha)
        table[1], table[2] = a, b
        return operators.drift_operator(x, score, 0.0, 1.0, 1.0, table)

    return call


def kernel(drift: bool = False, step: bool = False) -> Any:
    """The Triton kernels themselves, with their backward, whatever the device (interpreted on the CPU)."""
    import torch

    from trueness.optimized.fisher import cuda as t

    class Launch(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, score: Any, numbers: Any, table: Any) -> Any:  # type: ignore[override]
            ctx.save_for_backward(score)
            ctx.numbers, ctx.table = numbers, table
            return t.drift(x, score, *numbers, table) if drift else t.forward(score, numbers[0], step, table=table)

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:  # type: ignore[override]
            (score,) = ctx.saved_tensors
            if drift:
                return *t.drift_backward(grad, score, *ctx.numbers, ctx.table), None, None
            return None, t.backward(grad, score, ctx.numbers[0], step, ctx.table), None, None

    def call(*arguments: Any) -> Any:
        x, (score, alpha, *rest) = (arguments[0], arguments[1:]) if drift else (None, arguments)
        if isinstance(alpha, float):
            return Launch.apply(x, score, (fast.floor(alpha), *rest), None)
        table = floors(alpha)
        if drift:
            table[1], table[2] = rest
        return Launch.apply(x, score, (0.0, 1.0, 1.0), table)

    return call


def kernels(kind: int, by_sample: bool = False) -> dict[str, Any]:
    """What tools/triton/compile.py compiles of ``kind`` 0 (F), 1 (d), 2 (drift): three formats, n of any remainder."""
    from trueness.optimized.fisher import cuda as t

    numbers = {name: "fp32" for name in ("floor", "a", "b", "limit")}
    lengths = {"n": "i64", "each": "i64", "samples": "i64", "table": "*fp32:16"}
    common = {**numbers, **lengths, "BLOCK": t.BLOCK, "STEP": kind == 1, "KIND": kind}
    options = {"num_warps": t.WARPS}
    if by_sample:
        both = (t.sampled_kernel, t.sampled_backward_kernel)
    elif kind == 2:
        both = (t.drift_kernel, t.drift_backward_kernel)
    else:
        both = (t.forward_kernel, t.backward_kernel)
    found: dict[str, Any] = {}
    for dtype in ("fp32", "bf16") if by_sample else ("fp32", "fp16", "bf16"):
        pointers = {name: f"*{dtype}:16" for name in ("x", "grad", "score", "out", "of_x", "of_score")}
        for small in (False, True) if by_sample else (False,):
            name = f"{dtype}{', small samples' if small else ''}"
            found[f"forward {name}"] = (both[0], {**common, **pointers, "SMALL": small}, options)
            found[f"backward {name}"] = (both[1], {**common, **pointers, "SMALL": small}, options)
    return found


def interpreted(load: Any, compiled: Any) -> Implementation:
    return Implementation(
        "triton kernel",
        load,
        claims=frozenset({"gradient"}),
        needs=("triton",),
        env=INTERPRETED,
        dtypes=("float32", "float16", "bfloat16"),
        only="the kernel computes in float32",
        largest=4096,
        kernels=compiled,
    )


def drift_eager(x: Any, score: Any, alpha: Any, a: Any, b: Any) -> Any:
    """Six operations; the numbers of the samples beside their samples."""
    if not isinstance(alpha, float):
        alpha, a, b = (v.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1)) for v in (1e-4 + 1e-3 * (1 - alpha), a, b))
        return a * x + b * (score / (score * score + alpha))
    return a * x + b * (score / (score * score + true.floor(alpha)))


OVERFLOWS = {
    "gradient float16": "autograd of s/F stores 1/F² in float16, which overflows at 65504",
}


def family(name: str, step: bool, eager: Any) -> tuple[Implementation, ...]:
    """The implementations of an elementwise formula of this family."""

    def numpy_eager(score: Any, alpha: float) -> Any:
        return eager(score, score.dtype.type(true.floor(alpha)))

    waived = {"gradient float16": "autograd of s/F stores 1/F² in float16, which overflows at 65504"} if step else {}
    return (
        Implementation("trueness", lambda: getattr(fast, name), claims=FULL | {"out"}),
        Implementation(
            "trueness operator", lambda: operator(step), claims=frozenset({"gradient", "compile", "autocast"})
        ),
        interpreted(lambda: kernel(step=step), lambda: kernels(int(step))),
        Implementation(
            "torch eager",
            lambda: lambda s, a: eager(s, true.floor(a)),
            limit="eager",
            claims=frozenset({"gradient"}),
            origin="third_party",
            waived=waived,
        ),
        Implementation(
            "numpy",
            lambda: numpy_eager,
            "numpy",
            limit="eager",
            origin="third_party",
        ),
        Implementation(
            "jax",
            lambda: lambda s, a: eager(s, true.floor(a)),
            "jax",
            limit="eager",
            origin="third_party",
            claims=frozenset({"gradient"}),
            needs=("jax",),
            waived=waived,
        ),
    )


FORMULAS = (
    Formula(
        name="fisher.diagonal",
        reference=true.diagonal,
        vjp=true.diagonal_vjp,
        second=true.diagonal_second,
        equation="F = s² + ε(ᾱ),  ε(ᾱ) = 10⁻⁴ + 10⁻³ (1 − ᾱ)",
        source=AMARI,
        arguments=(Real("score", decades=(-4, 1.3)), Scalar("alpha")),
        implementations=family("diagonal", False, lambda s, eps: s * s + eps),
        overflow="saturate",
        special=HALF,
        real=scores_of_digits,
        bytes=lambda sizes, item: 2 * item * elements(sizes),
        flops=lambda sizes: 2 * elements(sizes),
    ),
    Formula(
        name="fisher.preconditioned_step",
        reference=true.preconditioned_step,
        vjp=true.preconditioned_step_vjp,
        second=true.preconditioned_step_second,
        equation="d = s / (s² + ε(ᾱ))",
        source="Amari 1998 eq. 3 with the diagonal F",
        real=scores_of_digits,
        arguments=(Real("score", decades=(-4, 1.3)), Scalar("alpha")),
        implementations=family("preconditioned_step", True, lambda s, eps: s / (s * s + eps)),
        bytes=lambda sizes, item: 2 * item * elements(sizes),
        flops=lambda sizes: 3 * elements(sizes),
    ),
    Formula(
        name="fisher.drift_step",
        reference=true.drift_step,
        vjp=true.drift_step_vjp,
        second=true.drift_step_second,
        equation="x' = a x + b s / (s² + ε(ᾱ))",
        source="explicit Euler step; Amari 1998 eq. 3 with the diagonal F",
        arguments=(
            Real("x", decades=(-4, 2)),
            Real("score", decades=(-4, 1.3)),
            Scalar("alpha"),
            Scalar("a", st.floats(0.5, 1.5)),
            Scalar("b", st.floats(0.01, 2.0)),
        ),
        implementations=(
            Implementation("trueness", lambda: fast.drift_step, claims=(FULL - {"graph", "huge"}) | {"out"}),
            Implementation("trueness operator", drift_operator, claims=frozenset({"gradient", "compile"})),
            interpreted(lambda: kernel(drift=True), lambda: kernels(2)),
            Implementation(
                "torch eager",
                lambda: drift_eager,
                limit="eager",
                claims=frozenset({"gradient"}),
                origin="third_party",
                waived=OVERFLOWS,
            ),
        ),
        overflow="saturate",
        special=HALF,
        bytes=lambda sizes, item: 3 * item * elements(sizes),
        flops=lambda sizes: 6 * elements(sizes),
    ),
    Formula(
        name="fisher.diagonal_by_sample",
        reference=true.diagonal,
        vjp=true.diagonal_vjp,
        second=true.diagonal_second,
        equation="F = s² + ε(ᾱ_n) of sample n",
        source=AMARI,
        arguments=(Real("score", dims=("B", "..."), decades=(-4, 1.3)), each("alpha", 0, 1)),
        implementations=(
            Implementation("trueness", lambda: fast.diagonal, claims=BY_SAMPLE),
            Implementation("trueness operator", lambda: operator(False), claims=frozenset({"gradient"})),
            interpreted(lambda: kernel(), lambda: kernels(0, by_sample=True)),
        ),
        overflow="saturate",
        special=HALF,
        real=two_noise_levels(),
    ),
    Formula(
        name="fisher.drift_step_by_sample",
        reference=true.drift_step,
        vjp=true.drift_step_vjp,
        second=true.drift_step_second,
        equation="x' = a_n x + b_n s / (s² + ε(ᾱ_n)) of sample n",
        source="explicit Euler step; Amari 1998 eq. 3 with the diagonal F",
        arguments=(
            Real("x", dims=("B", "..."), decades=(-4, 2)),
            Real("score", dims=("B", "..."), decades=(-4, 1.3)),
            each("alpha", 0, 1),
            each("a", 0.5, 1.5),
            each("b", 0.01, 2),
        ),
        implementations=(
            Implementation("trueness", lambda: fast.drift_step, claims=BY_SAMPLE),
            Implementation("trueness operator", drift_operator, claims=frozenset({"gradient"})),
            interpreted(lambda: kernel(drift=True), lambda: kernels(2, by_sample=True)),
            Implementation("torch eager", lambda: drift_eager, limit="eager", origin="third_party", waived=OVERFLOWS),
        ),
        overflow="saturate",
        special=HALF,
        real=two_noise_levels((1.0, 0.98), (0.02, 0.5), start=True),
    ),
    Formula(
        name="fisher.smooth",
        reference=true.smooth,
        vjp=true.smooth_vjp,
        equation="F' = K_y F K_xᵀ,  K = tridiag(1, 2, 1)/4",
        source="3×3 binomial filter; the border is an argument",
        arguments=(
            Real("fisher", dims=("...", "H", "W"), decades=(-4, 2), shortest=2),
            Scalar("padding", st.sampled_from(PADDINGS)),
        ),
        implementations=(
            Implementation(
                "trueness", lambda: fast.smooth, claims=frozenset({"gradient", "compile", "autocast", "vmap", "jvp"})
            ),
        ),
        reduction=lambda sizes: 9,
        real=fisher_of_digits,
        bytes=lambda sizes, item: 2 * item * elements(sizes) * sizes["H"] * sizes["W"],
        flops=lambda sizes: 8 * elements(sizes) * sizes["H"] * sizes["W"],
    ),
)
