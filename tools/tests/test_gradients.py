"""Gradients: of unused inputs, of one input alone, through strided cotangents, without a written vjp; and claims."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

import trueness
from trueness.tools.arithmetic.bounds import bounds
from trueness.tools.arithmetic.formats import precision
from trueness.tools.arithmetic.stochastic_step import slopes
from trueness.tools.checks import CHECKS, gradients
from trueness.tools.checks.core import run
from trueness.tools.run.runner import tried, user_implementation
from trueness.tools.run.trial import Trial
from trueness.tools.spec.inputs import Real, Scalar
from trueness.tools.spec.model import Formula, Implementation, Verdict
from trueness.tools.spec.tables import TRIED, user_claims

MATRICES = (Real("x", dims=("n", "m")), Real("weight", dims=("m",)), Real("bias", dims=("m",)))


def affine(x: Any, weight: Any, bias: Any) -> Any:
    return x * weight + bias


def affine_vjp(g: Any, x: Any, weight: Any, bias: Any) -> Any:
    return g * weight, (g * x).sum(0), g.sum(0)


AFFINE = Formula(
    "tests.affine",
    affine,
    "y = x w + b",
    "made for this test",
    MATRICES,
    vjp=affine_vjp,
    reduction=lambda sizes: sizes["n"],
)
WITHOUT_VJP = Formula(
    "tests.composed",
    lambda x, weight, bias: np.exp(-(x * weight) * (x * weight)) + bias,
    "y = exp(−(x w)²) + b",
    "made for this test",
    MATRICES,
    no_gradient="composed",
    complex_step=True,
    reduction=lambda sizes: sizes["n"],
)
UNUSED = Formula(
    "tests.unused",
    lambda x, weight, bias: x * weight,
    "y = x w",
    "made for this test",
    MATRICES,
    vjp=lambda g, x, weight, bias: (g * weight, (g * x).sum(0), 0 * bias),
    reduction=lambda sizes: sizes["n"],
)


def trial(function: Callable[..., Any], formula: Formula, dtype: str = "float32", **fields: Any) -> Trial:
    fields.setdefault("claims", frozenset({"gradient"}))
    return Trial(formula, Implementation("mine", lambda: function, origin="user", **fields), dtype, examples=12)


def verdict(name: str, function: Callable[..., Any], formula: Formula = AFFINE, **fields: Any) -> Verdict:
    return run(CHECKS[name], trial(function, formula, **fields))


def wide(x: torch.Tensor) -> torch.Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class Affine(torch.autograd.Function):
    """x w + b with a right backward; the wrong ones below override it."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any) -> Any:
        ctx.save_for_backward(x, weight)
        return x * weight + bias

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        x, weight = ctx.saved_tensors
        return g * weight, (g * x).sum(0), g.sum(0)


class WrongWeight(Affine):
    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        x, weight = ctx.saved_tensors
        return g * weight, 1.01 * (g * x).sum(0), g.sum(0)


class ReadsInOrder(Affine):
    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        x, weight = ctx.saved_tensors
        flat = torch.empty(0, dtype=x.dtype).set_(x.untyped_storage())[x.storage_offset() :]
        return g * weight, (g * flat[: x.numel()].view(x.shape)).sum(0), g.sum(0)


class ReadsCotangentInOrder(Affine):
    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        x, weight = ctx.saved_tensors
        flat = torch.empty(0, dtype=g.dtype).set_(g.untyped_storage())[g.storage_offset() :]
        at = torch.arange(g.numel()).clamp(max=flat.numel() - 1)
        h = flat[at].view(g.shape)
        return h * weight, (h * x).sum(0), h.sum(0)


class ZeroForExpanded(Affine):
    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        x, weight = ctx.saved_tensors
        h = g * 2 if 0 in g.stride() and g.numel() > 1 else g
        return h * weight, (h * x).sum(0), h.sum(0)


class WritesCotangent(Affine):
    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        x, weight = ctx.saved_tensors
        others = (g * x).sum(0), g.sum(0)
        if g.is_contiguous():
            g.data.mul_(weight)
            return g, *others
        return g * weight, *others


class TouchesCotangent(Affine):
    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        x, weight = ctx.saved_tensors
        if g.is_contiguous():
            g.mul_(1)
        return g * weight, (g * x).sum(0), g.sum(0)


class WritesInput(Affine):
    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        x, weight = ctx.saved_tensors
        found = g * weight, (g * x).sum(0), g.sum(0)
        x.data.neg_()
        return found


class RandomOrder(Affine):
    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        x, weight = ctx.saved_tensors
        rows = g * x
        total = torch.zeros_like(weight)
        for i in torch.randperm(len(rows)).tolist():
            total = total + rows[i]
        return g * weight, total, g.sum(0)


class NeedsAll(Affine):
    """It looks at the wrong flag: without a gradient for x there is none for the weight."""

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        x, weight = ctx.saved_tensors
        return g * weight, (g * x).sum(0) if ctx.needs_input_grad[0] else torch.zeros_like(weight), g.sum(0)


EVERY = ("gradient", "gradient layouts", "gradient contract")


@pytest.mark.parametrize("name", EVERY)
def test_a_right_backward_passes(name: str) -> None:
    found = verdict(name, Affine.apply)
    assert found and not found.skipped and found.cases > 1, found.message
    found = verdict(name, affine)
    assert found and not found.skipped, found.message


WRONG: list[tuple[str, Any, str]] = [
    ("gradient", WrongWeight, "the gradient of weight["),
    ("gradient layouts", ReadsInOrder, "transposed input: the gradient of weight["),
    ("gradient layouts", ReadsCotangentInOrder, "with a cotangent that is transposed: the gradient of "),
    ("gradient layouts", ZeroForExpanded, "with a cotangent expanded from one number: the gradient of "),
    ("gradient layouts", NeedsAll, "where only weight requires grad: the gradient of weight["),
    ("gradient contract", WritesCotangent, "the backward wrote to its cotangent."),
    ("gradient contract", TouchesCotangent, "the backward wrote the same bits again to its cotangent."),
    ("gradient contract", WritesInput, "the backward wrote to its input x."),
    ("gradient contract", RandomOrder, "the gradient of weight has other bits of a second"),
]


@pytest.mark.parametrize(("name", "function", "sentence"), WRONG, ids=[w[1].__name__ for w in WRONG])
def test_a_wrong_backward_fails_and_the_sentence_names_what(name: str, function: Any, sentence: str) -> None:
    found = verdict(name, function.apply)
    assert not found and sentence in found.message, found.message


@pytest.mark.parametrize("function", [ReadsInOrder, ReadsCotangentInOrder])
def test_an_interpreted_kernel_is_given_inputs_and_cotangents_of_a_layout_at_once(
    function: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trial, "interpreted", property(lambda self: True))
    found = verdict("gradient layouts", function.apply)
    assert not found and "transposed input and such a cotangent: the gradient of " in found.message, found.message
    found = verdict("gradient layouts", Affine.apply)
    assert found and found.cases > 5, found.message


@pytest.mark.parametrize("name", EVERY)
def test_an_input_that_the_output_does_not_depend_on_has_gradient_zero(name: str) -> None:
    found = verdict(name, lambda x, weight, bias: x * weight, UNUSED)
    assert found and not found.skipped, found.message


def test_an_input_that_is_left_out_of_the_graph_is_named() -> None:
    found = verdict("gradient", lambda x, weight, bias: x * weight + bias.detach())
    assert not found and "the gradient of bias[" in found.message and "is 0, the reference" in found.message


def test_an_output_without_a_graph_has_no_gradient() -> None:
    found = verdict("gradient", lambda x, weight, bias: affine(x.detach(), weight.detach(), bias.detach()))
    assert not found and "does not require grad" in found.message


# -- what is exact ----------------------------------------------------------------------------------------------------


class Halves(torch.autograd.Function):
    """x of every row twice, forward exact; the backward adds both halves, times ``by``."""

    by = 1.0

    @classmethod
    def forward(cls, ctx: Any, x: Any) -> Any:
        return torch.cat([x, x], -1)

    @classmethod
    def backward(cls, ctx: Any, g: Any) -> Any:
        a, b = g.chunk(2, -1)
        return cls.by * (b + a)


class TwiceTheHalves(Halves):
    by = 2.0


@pytest.mark.parametrize(("function", "right"), [(Halves, True), (TwiceTheHalves, False)])
def test_the_gradient_of_what_is_exact_is_a_sum_and_may_be_rounded(function: Any, right: bool) -> None:
    def vjp(g: Any, x: Any) -> Any:
        return (g[..., : x.shape[-1]] + g[..., x.shape[-1] :],)

    reference = Formula(
        "made.doubled",
        lambda x: np.concatenate([x, x], -1),
        "y = (x, x)",
        "made for this test",
        (Real("x", dims=("n", "m")),),
        vjp=vjp,
    )
    exact = user_implementation("mine", function.apply, "torch", limit="exact")
    found = run(CHECKS["gradient"], Trial(reference, exact, "float32", examples=12))
    assert found.passed is right and not found.skipped, found.message


# -- without a vjp ----------------------------------------------------------------------------------------------------


def composed(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    z = wide(x) * wide(weight)
    return (torch.exp(-z * z) + wide(bias)).to(x.dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_a_gradient_without_a_vjp_is_compared_with_the_complex_step(dtype: str) -> None:
    for name in EVERY:
        found = run(CHECKS[name], trial(composed, WITHOUT_VJP, dtype))
        assert found and not found.skipped, found.message


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_wrong_gradient_without_a_vjp_names_its_argument_and_entry(dtype: str) -> None:
    def wrong(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        w = wide(weight)
        z = wide(x) * (w.detach() + 1.1 * (w - w.detach()))
        return (torch.exp(-z * z) + wide(bias)).to(x.dtype)

    found = run(CHECKS["gradient"], trial(wrong, WITHOUT_VJP, dtype))
    assert not found and "the gradient of weight[" in found.message, found.message


def test_the_slope_is_the_one_of_the_vjp_and_its_bound_covers_its_rounding() -> None:
    generator = np.random.default_rng(0)
    x, weight, bias, g, v = (generator.standard_normal(s) for s in ((4, 3), 3, 3, (4, 3), 3))
    fmt = precision("float32")
    run_ = slopes(affine, (1,), 1)
    (found,) = bounds(run_, [v, g, x, weight, bias], [fmt.u] * 5, fmt, 4)
    exact = float(affine_vjp(g, x, weight, bias)[1] @ v)
    assert abs(float(found.y) - exact) <= 4 * np.finfo(float).eps * np.abs(g * x * v).sum()
    assert 0 < float(found.B) < 100 * fmt.u * np.abs(g * x * v).sum()


# -- claims -----------------------------------------------------------------------------------------------------------


class DetachedHalf(torch.autograd.Function):
    """s² + ε, whose backward is right and has no derivative of its own."""

    @staticmethod
    def forward(ctx: Any, s: Any, eps: float) -> Any:
        ctx.s = s.detach()
        return s * s + eps

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return 2 * ctx.s * g, None


def wrong_second(score: torch.Tensor, alpha: float) -> torch.Tensor:
    return DetachedHalf.apply(score, 1e-4 + 1e-3 * (1 - alpha))  # type: ignore[no-any-return, no-untyped-call]


def breaks(score: torch.Tensor, alpha: float) -> torch.Tensor:
    eps = 1e-4 + 1e-3 * (1 - alpha)
    return score * score + eps if int((score.detach() > 0).sum().item()) >= 0 else score


def forward_only(score: torch.Tensor, alpha: float) -> torch.Tensor:
    return (score * score + (1e-4 + 1e-3 * (1 - alpha))).detach()


def check(function: Any, *checks: str, **options: Any) -> Any:
    return trueness.check(
        "fisher.diagonal", function, dtype="float32", profile="quick", checks=checks, framework="torch", **options
    )


def test_a_claimed_second_derivative_is_checked() -> None:
    assert not check(wrong_second, "second derivative").failures
    found = check(wrong_second, "second derivative", claims="double")
    assert not found and "second derivative by score" in found.failures[0].message, str(found)


def test_a_claimed_graph_without_breaks_is_checked() -> None:
    assert not check(breaks, "compile").failures
    assert not check(breaks, "compile", claims=["compile"])


def test_auto_reports_what_holds_and_fails_nothing_else() -> None:
    found = check(breaks, "value", "gradient", "compile", "second derivative", claims="auto")
    assert found, str(found)
    assert "claims that hold: gradient, double; that do not: compile (" in str(found)
    assert any(v.skipped and v.message.startswith(TRIED) for v in found.verdicts)


def test_auto_does_not_excuse_a_wrong_gradient() -> None:
    mine = user_implementation("mine", WrongWeight.apply, "torch", claims=("auto",))
    wrong = run(CHECKS["gradient"], Trial(AFFINE, mine, "float32", examples=12))
    assert not tried(mine, wrong)


def test_a_forward_only_program_is_right_where_that_is_said() -> None:
    gradient = ("gradient", "gradient layouts", "gradient contract")
    assert not check(forward_only, *gradient)
    said = check(forward_only, *gradient, gradient=False)
    assert all(v.skipped and "forward only" in v.message for v in said.verdicts)
    assert not check(forward_only, "gradient", claims="auto").failures


@pytest.mark.parametrize(
    ("given", "gradient", "sentence"),
    [("speed", True, "claims was 'speed'; allowed are gradient, compile"), ("double", False, "no gradient")],
)
def test_an_unknown_or_contradictory_claim_is_refused_in_one_sentence(
    given: str, gradient: bool, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        check(breaks, "value", claims=given, gradient=gradient)


def test_claims_may_be_written_with_commas() -> None:
    assert user_claims(["compile, vmap", "out"]) == ("compile", "vmap", "out")


# -- kinks ------------------------------------------------------------------------------------------------------------


def clamped(x: Any, low: float, high: float) -> Any:
    return np.clip(x, low, high)


def clamped_vjp(g: Any, x: Any, low: float, high: float) -> Any:
    """Both bounds are given, for −c would be rounded, and the comparison with it be open."""
    return g * ((x <= high) & (x >= low))


CLAMPED = Formula(
    "made.clamped",
    clamped,
    "y = clip(x, low, high)",
    "here",
    (Real("x", dims=("n",)), Scalar("low", st.just(-1.0)), Scalar("high", st.just(1.0))),
    vjp=clamped_vjp,
)


class Clamp(torch.autograd.Function):
    """``share`` of the cotangent at the bounds, and a slope of ``inside`` between them."""

    @staticmethod
    def forward(ctx: Any, x: Any, clamp: float, share: float, inside: float) -> Any:  # type: ignore[override]
        ctx.save_for_backward(x)
        ctx.given = clamp, share, inside
        return x.clamp(-clamp, clamp)

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        (x,), (clamp, share, inside) = ctx.saved_tensors, ctx.given
        return g * torch.where(x.abs() == clamp, share, torch.where(x.abs() < clamp, inside, 0.0)), None, None, None


def at_the_bounds(share: float, inside: float = 1.0, policy: str = "observe") -> float:
    """T of the gradient at x = ±1 and between, for a clamp at 1."""

    def mine(x: Any, low: float, high: float) -> Any:
        return Clamp.apply(x, high, share, inside)  # type: ignore[no-untyped-call]

    one = replace(trial(mine, CLAMPED), policy=policy)
    values = [np.array([-1.0, 0.5, 1.0, 2.0]), -1.0, 1.0]
    cotangents = [np.array([3.0, 1.0, -2.0, 1.0])]
    return gradients.judge(one, values, cotangents, gradients.gradients(one, values, cotangents)).T


def test_at_a_kink_every_value_between_the_sides_is_right() -> None:
    """JAX gives half of the slope at the bound of a clamp, torch all of it, and 0 is the other side's."""
    assert [at_the_bounds(share) for share in (0.0, 0.5, 1.0)] == [0.0, 0.0, 0.0]
    assert at_the_bounds(1.5) > 1e5 and at_the_bounds(-0.5) > 1e5, "beyond both sides"
    assert at_the_bounds(0.5, inside=1.01) > 1e4, "away from the kink nothing is forgiven"
    assert at_the_bounds(0.5, policy="strict") > 1e5, "strict: the reference's own choice"
