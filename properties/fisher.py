"""The formulas of the family fisher: diagonal, preconditioned step, smoothing."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from trueness.optimized import fisher as fast
from trueness.properties import _digits
from trueness.reference import fisher as true
from trueness.tools.inputs import Real, Scalar
from trueness.tools.nouns import Formula, Implementation

AMARI = "Amari 1998, Natural Gradient Works Efficiently in Learning; Martens 2020 (1412.1193) §11"
PADDINGS = ("zeros", "reflect", "replicate", "circular")
FULL = frozenset({"gradient", "double", "compile", "autocast", "vmap", "jvp", "graph", "huge"})
INTERPRETED = {"TRITON_INTERPRET": "1"}
HALF = "half formats stop at their largest number, ±inf included; NaN goes through; subnormals count as what they are"


def elements(sizes: Any) -> int:
    total = 1
    for n in sizes["..."]:
        total *= n
    return total


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


def operator(step: bool) -> Any:
    def call(score: Any, alpha: float) -> Any:
        return fast._operator(score, fast.floor(alpha), step)

    return call


def kernel(step: bool) -> Any:
    """The Triton kernels themselves, with their backward, whatever the device (interpreted on the CPU)."""
    import torch

    from trueness.optimized import _fisher_triton

    class Launch(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, score: Any, eps: float) -> Any:  # type: ignore[override]
            ctx.save_for_backward(score)
            ctx.eps = eps
            return _fisher_triton.forward(score, eps, step)

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:  # type: ignore[override]
            (score,) = ctx.saved_tensors
            return _fisher_triton.backward(grad, score, ctx.eps, step), None

    return lambda score, alpha: Launch.apply(score, fast.floor(alpha))


def kernels(step: bool) -> dict[str, Any]:
    """What tools/aot.py compiles: forward and backward, float32 and bfloat16, n of any remainder."""
    from trueness.optimized import _fisher_triton as t

    common = {"floor": "fp32", "limit": "fp32", "n": "i64", "STEP": step, "BLOCK": t.BLOCK}
    options = {"num_warps": t.WARPS}
    found: dict[str, Any] = {}
    for dtype in ("fp32", "fp16", "bf16"):
        pointers = {name: f"*{dtype}:16" for name in ("grad", "score", "out")}
        found[f"forward {dtype}"] = (t.forward_kernel, {**common, **pointers}, options)
        found[f"backward {dtype}"] = (t.backward_kernel, {**common, **pointers}, options)
    return found


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
        Implementation(
            "triton kernel",
            lambda: kernel(step),
            claims=frozenset({"gradient"}),
            needs=("triton",),
            env=INTERPRETED,
            dtypes=("float32", "float16", "bfloat16"),
            only="the kernel computes in float32",
            largest=4096,
            kernels=lambda: kernels(step),
        ),
        Implementation(
            "torch eager",
            lambda: lambda s, a: eager(s, true.floor(a)),
            limit="eager",
            claims=frozenset({"gradient"}),
            origin="peer",
            waived={"special values": "eager torch overflows to inf in half formats", **waived},
        ),
        Implementation(
            "numpy",
            lambda: numpy_eager,
            "numpy",
            limit="eager",
            origin="peer",
            waived={"special values": "eager NumPy overflows to inf in half formats"},
        ),
        Implementation(
            "jax",
            lambda: lambda s, a: eager(s, true.floor(a)),
            "jax",
            limit="eager",
            origin="peer",
            claims=frozenset({"gradient"}),
            needs=("jax",),
            waived={"special values": "XLA on the CPU flushes subnormals to zero", **waived},
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
