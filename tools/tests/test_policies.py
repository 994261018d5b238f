"""The policies for special values: each is named where it is observed, and refused where the stated one is demanded.

Every program here is right on ordinary input but for the last ones, which no policy excuses.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

import trueness
from trueness.tools.checks import CHECKS, policies
from trueness.tools.checks.contract import typical
from trueness.tools.checks.core import run
from trueness.tools.checks.policy_table import FAULTS, POLICIES
from trueness.tools.report.html import to_html
from trueness.tools.report.results import Results
from trueness.tools.report.sections import policies_seen
from trueness.tools.run.trial import Trial
from trueness.tools.spec import registry
from trueness.tools.spec.inputs import Mask, Real, Scalar
from trueness.tools.spec.model import Formula, Implementation, Verdict

Function = Callable[..., Any]


def formula(reference: Function, *arguments: Any, **fields: Any) -> Formula:
    return Formula(
        "made.up",
        reference,
        equation="–",
        source="–",
        arguments=arguments,
        no_gradient="not at stake",
        **fields,
    )


def judged(declared: Formula | str, function: Function, dtype: str, policy: str = "", **fields: Any) -> Verdict:
    """The verdict of the check on a user's program."""
    chosen = registry.formula(declared) if isinstance(declared, str) else declared
    subject = Implementation("mine", lambda: function, origin="user", **fields)
    return run(CHECKS["special values"], Trial(chosen, subject, dtype, examples=10, policy=policy))


VECTOR = Real("x", dims=("N",), decades=(-1.0, 0.5))
ROWS = Real("x", dims=("B", "N"), decades=(-1.0, 0.5))


# -- programs that are right ------------------------------------------------------------------------------------------


def scaled_dot_product(q: Any, k: Any, v: Any, mask: Any) -> Any:
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def logits(q: Any, k: Any) -> Any:
    return (
        q.float() @ k.float().mT / math.sqrt(q.shape[-1])
        if q.dtype != torch.float64
        else q @ k.mT / math.sqrt(q.shape[-1])
    )


def online_softmax(q: Any, k: Any, v: Any, mask: Any) -> Any:
    """Keys two by two, with a running maximum; a row without keys divides 0 by 0."""
    wide = logits(q, k).masked_fill(~mask, -math.inf)
    values = v.to(wide.dtype)
    largest = torch.full_like(wide[..., :1], -math.inf)
    total, out = torch.zeros_like(largest), torch.zeros_like(wide[..., :1] * values[..., :1, :])
    for start in range(0, wide.shape[-1], 2):
        block = wide[..., start : start + 2]
        new = torch.maximum(largest, block.amax(-1, keepdim=True))
        shift = torch.where(new == -math.inf, torch.zeros_like(new), new)
        weights, kept = torch.exp(block - shift), torch.exp(largest - shift)
        total = total * kept + weights.sum(-1, keepdim=True)
        out = out * kept + weights @ values[..., start : start + 2, :]
        largest = new
    return (out / total).to(q.dtype)


def fisher_cast_at_the_end(score: Any, alpha: float) -> Any:
    wide = score if score.dtype == torch.float64 else score.float()
    return (wide.square() + (1e-4 + 1e-3 * (1 - alpha))).to(score.dtype)


def welford(x: Any, weight: Any, bias: Any, eps: float) -> Any:
    """LayerNorm with Welford's recurrence for mean and variance."""
    wide = x if x.dtype == torch.float64 else x.float()
    mean, square = torch.zeros_like(wide[..., :1]), torch.zeros_like(wide[..., :1])
    for n in range(wide.shape[-1]):
        delta = wide[..., n : n + 1] - mean
        mean = mean + delta / (n + 1)
        square = square + delta * (wide[..., n : n + 1] - mean)
    normed = (wide - mean) * torch.rsqrt(square / wide.shape[-1] + eps)
    return (normed * weight + bias).to(x.dtype)


def guidance_by_lerp(eps_cond: Any, eps_uncond: Any, w: float) -> Any:
    wide = (eps_cond, eps_uncond) if eps_cond.dtype == torch.float64 else (eps_cond.float(), eps_uncond.float())
    return torch.lerp(wide[1], wide[0], w).to(eps_cond.dtype)


RIGHT: dict[str, tuple[str, Function, dict[str, set[str]]]] = {
    "scaled_dot_product_attention": (
        "attention.masked_attention",
        scaled_dot_product,
        {"float32": {"masked"}, "float16": {"masked"}, "bfloat16": {"masked", "overflow"}},
    ),
    "online softmax": (
        "attention.masked_attention",
        online_softmax,
        {"float32": {"row of NaN"}, "bfloat16": {"overflow", "row of NaN"}},
    ),
    "cast at the end": ("fisher.diagonal", fisher_cast_at_the_end, {"float16": {"saturation"}}),
    "Welford": ("attention.layer_norm", welford, {"bfloat16": {"overflow"}}),
    "lerp": ("diffusion.classifier_free_guidance", guidance_by_lerp, {"float32": {"not finite"}}),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_program_is_right_in_all_formats_and_its_policies_are_named(name: str) -> None:
    declared, function, named = RIGHT[name]
    checks = ("value", "gradient", "shapes", "special values")
    found = trueness.check(declared, function, checks=checks, profile="quick")
    assert found, str(found)
    for v in found.verdicts:
        if v.check == "special values" and v.dtype in named:
            assert set(v.policies) >= named[v.dtype], (v.dtype, v.policies)
            assert all(POLICIES[p].sentence in v.message for p in v.policies)


# -- a program for every policy ---------------------------------------------------------------------------------------


def wide(x: Any) -> Any:
    return x.double() if x.dtype == torch.float64 else x.float()


def rounded(function: Function) -> Function:
    """``function`` in float32 or float64, its result in the dtype of the first argument."""
    return lambda x, *rest: function(wide(x), *(wide(a) if isinstance(a, torch.Tensor) else a for a in rest)).to(
        x.dtype
    )


def softmax_weighted(a: Any, x: Any) -> Any:
    """Σ_n p_n x_n,  p = softmax(a x)"""
    s = a[:, None] * x
    p = np.exp(s - np.max(s, -1, keepdims=True))
    return (p * x).sum(-1) / p.sum(-1)


def safe_softmax_weighted(a: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """0 where all logits are −∞, as torch's scaled_dot_product_attention has it"""
    s = a[:, None] * x
    none = (s == -math.inf).all(-1)
    p = torch.softmax(torch.where(none[:, None], torch.zeros_like(s), s), -1)
    return torch.where(none, torch.zeros_like(none, dtype=s.dtype), (p * x).sum(-1))


def masked_sum(v: Any, mask: Any) -> Any:
    """Σ_n v_n where the mask is true"""
    return np.where(mask, v, 0.0).sum(-1)


def masked_mean_of_rows(v: Any, mask: Any) -> Any:
    """The mean of the values where the mask is true; 0 where it nowhere is"""
    return np.where(mask, v, 0.0).sum(-1) / np.maximum(mask.sum(-1), 1)


def mean_of_rows(empty: Callable[[Any, Any], Any]) -> Function:
    """The same, a row without a true element as ``empty`` has it."""

    def call(v: Any, mask: Any) -> Any:
        count = mask.sum(-1)
        mean = torch.where(mask, wide(v), torch.zeros_like(wide(v))).sum(-1) / count.clamp(min=1)
        return torch.where(count == 0, empty(wide(v), mask), mean).to(v.dtype)

    return call


def scan(x: Any) -> Any:
    return np.cumsum(x, -1)


def scan_by_product(x: torch.Tensor) -> torch.Tensor:
    return x @ torch.ones(x.shape[-1], x.shape[-1], dtype=x.dtype).triu()


def rank(x: Any) -> Any:
    """The number of elements that are not less"""
    return (~(x[..., None] > x[..., None, :])).sum(-1)


def flushed(x: torch.Tensor) -> torch.Tensor:
    tiny = torch.finfo(x.dtype).tiny
    return torch.where(x.abs() < tiny, torch.zeros_like(x), x)


def finite_only(x: torch.Tensor) -> torch.Tensor:
    if not torch.isfinite(x).all():
        raise ValueError("x must be finite")
    return 2 * x


WEIGHT = Scalar("w", st.just(0.0))
GUIDED = formula(lambda x, z, w: x + w * z, VECTOR, Real("z", dims=("N",)), WEIGHT)
SCAN = formula(scan, ROWS, reduction=lambda sizes: sizes["N"])
DOUBLE = formula(lambda x: 2.0 * x, ROWS)
MEANS = formula(
    masked_mean_of_rows, Real("v", dims=("B", "N")), Mask("mask", dims=("B", "N")), reduction=lambda sizes: sizes["N"]
)
TWO_SUMS = formula(lambda v, z: v.sum(-1) - z.sum(-1), ROWS, Real("z", dims=("B", "N")), reduction=lambda s: 2 * s["N"])
HAVE: dict[str, tuple[Formula, Function, str]] = {
    "not finite": (
        TWO_SUMS,
        lambda v, z: (v - z.sum(-1, keepdim=True) / v.shape[-1]).sum(-1) + 0 * v.sum(-1),
        "float32",
    ),
    "overflow": (
        formula(lambda x: x / np.sqrt((x * x).sum(-1, keepdims=True)), ROWS, reduction=lambda s: s["N"]),
        rounded(lambda x: x / x.square().sum(-1, keepdim=True).sqrt()),
        "bfloat16",
    ),
    "saturation": (formula(lambda x: x * x, VECTOR, overflow="saturate"), rounded(torch.square), "float16"),
    "flush to zero": (formula(lambda x: 0.5 * x, VECTOR), lambda x: 0.5 * flushed(x), "float32"),
    "masked": (
        formula(masked_sum, ROWS, Mask("mask", dims=("B", "N")), reduction=lambda s: s["N"]),
        lambda v, mask: (v * mask).sum(-1),
        "float32",
    ),
    "spread": (SCAN, scan_by_product, "float32"),
    "no effect": (GUIDED, lambda x, z, w: x.clone(), "float32"),
    "no weight": (
        formula(
            softmax_weighted,
            Real("a", dims=("B",), decades=(-1.0, 0.0)),
            Real("x", dims=("B", "N"), decades=(-1.0, 0.0), positive=True),
            reduction=lambda s: s["N"],
        ),
        safe_softmax_weighted,
        "float32",
    ),
    "limit": (
        formula(lambda x: x * np.exp(-x), Real("x", dims=("N",), decades=(-1.0, 0.0), positive=True)),
        lambda x: torch.where(x == math.inf, torch.zeros_like(x), x * torch.exp(-x)),
        "float32",
    ),
    "order": (
        formula(rank, ROWS, outputs=("int64",)),
        lambda x: (x[..., None] <= x[..., None, :]).sum(-1),
        "float32",
    ),
    "refuses": (DOUBLE, finite_only, "float32"),
    "row of zeros": (
        formula(
            lambda v, mask: np.where(mask, v, 0.0).sum(-1) / mask.sum(-1),
            ROWS,
            Mask("mask", dims=("B", "N")),
            reduction=lambda s: s["N"],
        ),
        mean_of_rows(lambda v, mask: torch.zeros_like(v[..., 0])),
        "float32",
    ),
    "row of NaN": (MEANS, mean_of_rows(lambda v, mask: torch.full_like(v[..., 0], math.nan)), "float32"),
    "row of all keys": (MEANS, mean_of_rows(lambda v, mask: v.mean(-1)), "float32"),
}


def large_negative_mask(q: Any, k: Any, v: Any, mask: Any) -> Any:
    """A mask of the least number of the format, added: all weights are equal in a row without keys."""
    wide = logits(q, k)
    bias = torch.where(mask, 0.0, torch.finfo(wide.dtype).min).to(wide.dtype)
    return (torch.softmax(wide + bias, -1) @ v.to(wide.dtype)).to(q.dtype)


@pytest.mark.parametrize("policy", HAVE)
def test_a_policy_is_named_where_it_is_observed_and_refused_where_it_is_not_the_stated_one(policy: str) -> None:
    declared, function, dtype = HAVE[policy]
    seen = judged(declared, function, dtype, "observe")
    assert seen.passed, seen.message
    assert policy in seen.policies and POLICIES[policy].sentence in seen.message, seen
    refused = judged(declared, function, dtype, "strict")
    assert not refused.passed
    assert not refused.policies
    excused = replace(declared, policies=dict.fromkeys(seen.policies, "excused for everybody"))
    assert judged(excused, function, dtype, "strict").passed, "the formula excuses it, under strict too"


def test_a_row_of_means_is_named_and_refused() -> None:
    seen = judged("attention.masked_attention", large_negative_mask, "float32")
    assert seen.passed and "row of means" in seen.policies, seen
    refused = judged("attention.masked_attention", large_negative_mask, "float32", "strict")
    assert not refused.passed


def test_every_policy_has_a_program_here() -> None:
    assert {*HAVE, "row of means", "view", *FAULTS} == set(POLICIES)  # views: test_contract.py


def in_dtype(declared: Formula) -> Function:
    """The reference; NumPy divides a float32 by an int64 in float64."""
    if declared.outputs:
        return declared.reference
    return lambda x, *rest: declared.reference(x, *rest).astype(x.dtype)


def test_the_reference_itself_has_no_policy_of_its_own() -> None:
    for declared, _, dtype in HAVE.values():
        if dtype == "float32":
            found = judged(declared, in_dtype(declared), dtype, framework="numpy", limit="eager")
            assert found.passed and not found.policies and not found.message, found


# -- what no policy excuses -------------------------------------------------------------------------------------------


def into_the_next_row(x: torch.Tensor) -> torch.Tensor:
    """NaN of a row is NaN in the next one, too."""
    return torch.cumsum(x, -1) + 0 * x.roll(1, 0)


BLOCKS = formula(
    lambda x: x.reshape(*x.shape[:-1], -1, 2).sum(-1),
    Real("x", dims=("B", lambda s: 2 * s["n"]), spans={"n": (2, 3), "B": (2, 3)}),
)
WRONG: dict[str, tuple[Formula | str, Function, str]] = {
    "leaks into the next batch entry": (SCAN, into_the_next_row, "leaks into a batch entry"),
    "leaks into another row": (
        BLOCKS,
        lambda x: x.unflatten(-1, (-1, 2)).sum(-1) + 0 * x.sum(-1, keepdim=True),
        "leaks into rows",
    ),
    "a finite number for NaN": (
        DOUBLE,
        lambda x: 2 * torch.nan_to_num(x, posinf=math.inf, neginf=-math.inf),
        "finite number",
    ),
    "a finite number for inf": (DOUBLE, lambda x: (2 * x).clamp(-1e30, 1e30), "finite number"),
    "raises on 0": (
        DOUBLE,
        lambda x: 2 * x if (x != 0).all() else 1 // 0,
        "a finite number, it raised ZeroDivisionError",
    ),
    "NaN for 0": (DOUBLE, lambda x: torch.where(x == 0, math.nan, 2 * x), "nothing overflows on the way"),
    "the wrong infinity": (DOUBLE, lambda x: torch.where(x.isinf(), -2 * x, 2 * x), "sign of the infinity"),
    "wrong for subnormal numbers": (DOUBLE, lambda x: torch.where(x.abs() < 1e-38, x, 2 * x), "no policy explains it"),
    "changes what does not depend on it": (
        DOUBLE,
        lambda x: torch.where(x.isnan().any(), x, 2 * x) + 0 * x,
        "no policy explains it",
    ),
    "another shape for NaN": (DOUBLE, lambda x: x[:1] if x.isnan().any() else 2 * x, "returned shape"),
    "a row without keys is 7": (MEANS, mean_of_rows(lambda v, mask: v[..., 0] * 0 + 7), "no policy explains"),
    "a row without keys harms others": (
        MEANS,
        lambda v, mask: mean_of_rows(lambda a, b: a[..., 0] * 0)(v, mask) + (~mask).all(-1).any(),
        "results of other rows",
    ),
}


@pytest.mark.parametrize("policy", ["observe", "strict"])
@pytest.mark.parametrize("name", WRONG)
def test_what_no_policy_excuses_is_refused(name: str, policy: str) -> None:
    declared, function, said = WRONG[name]
    found = judged(declared, function, "float32", policy)
    assert not found.passed
    assert said in found.message, found.message


@pytest.mark.parametrize("policy", ["observe", "strict"])
def test_an_overflow_of_a_half_format_is_not_excused_where_the_range_of_float32_suffices(policy: str) -> None:
    """In float16 nothing overflows in float32, unless the implementation says that it computes in float16."""
    declared = formula(lambda x: x * x / 1e6, VECTOR)
    eager = judged(declared, lambda x: x * x / 1e6, "float16", "observe", limit="eager")
    assert eager.passed and "overflow" in eager.policies, eager
    assert not judged(declared, lambda x: x * x / 1e6, "float16", policy).passed


def test_an_overflow_may_show_where_the_element_is_read_and_has_no_effect() -> None:
    """A softmax over one key is 1; with the largest number the product before it is ∞ − ∞, and only there."""
    declared = formula(lambda x: np.exp(x - x), VECTOR)
    found = judged(declared, lambda x: (2 * x.float() - 2 * x.float()).exp().to(x.dtype), "bfloat16", "observe")
    assert found.passed and "overflow" in found.policies, found
    elsewhere = judged(declared, lambda x: ((2 * x.float()).sum() * 0).exp().to(x.dtype).expand_as(x) + 0, "bfloat16")
    assert not elsewhere.passed


def centred_gaussian(x: torch.Tensor, y: torch.Tensor, lengthscale: float, blind: bool = False) -> torch.Tensor:
    """Squares expanded around the mean of y, which takes all digits beside 3.4e38; ``blind``: a mean without NaN."""
    a, b = x.double(), y.double()
    m = (b.nan_to_num(0, 0, 0) if blind else b).mean(0)
    a, b = a - m, b - m
    square = (a * a).sum(-1)[:, None] - 2 * a @ b.T + (b * b).sum(-1)
    return torch.exp(-square.clamp(min=0) / (2 * lengthscale**2)).to(x.dtype)


def test_where_nan_spreads_the_largest_number_may_take_all_digits() -> None:
    """A program that lets NaN reach all rows loses them to 3.4e38, too; one that keeps NaN out may not."""
    found = judged("kernels.gaussian", centred_gaussian, "bfloat16", "observe")
    assert found.passed and "spread" in found.policies, found
    hidden = judged("kernels.gaussian", partial(centred_gaussian, blind=True), "bfloat16", "observe")
    assert not hidden.passed and "3.38953e+38" in hidden.message, hidden


@pytest.mark.parametrize(("limit", "right"), [("eager", True), ("fused", False)])
def test_an_eager_gradient_in_float16_may_overflow_where_a_reciprocal_does(limit: Any, right: bool) -> None:
    """torch differentiates 1/F to g/F/F: beyond 65504 where F is 0.0036."""
    declared = replace(
        formula(lambda x: 1e-3 * x / (x * x + 1e-3), Real("x", dims=("N",), decades=(-3.0, -2.0))),
        vjp=lambda g, x: 1e-3 * g * (1e-3 - x * x) / (x * x + 1e-3) ** 2,
    )

    def program(x: torch.Tensor) -> torch.Tensor:
        return Overflowing.apply(x)  # type: ignore[no-untyped-call]

    subject = Implementation("mine", lambda: program, limit=limit, claims=frozenset({"gradient"}), origin="user")
    assert run(CHECKS["gradient"], Trial(declared, subject, "float16", examples=10)).passed is right


class Overflowing(torch.autograd.Function):
    """1e-3 x/F, F = x² + 1e-3, whose backward has 1/F² in float16."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        ctx.save_for_backward(x)
        return (1e-3 * x.float() / (x.float().square() + 1e-3)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        fisher = x.float().square() + 1e-3
        slope = 1e-3 * (1e-3 - x.float().square()) / fisher**2
        return (g.float() * slope * torch.where((fisher**-2).to(x.dtype).isinf(), torch.inf, 1.0)).to(x.dtype)


SMALL = Real("x", dims=("N",), decades=(-44.0, -38.0))


@pytest.mark.parametrize(("dtype", "right"), [("float32", True), ("bfloat16", True), ("float16", False)])
def test_a_subnormal_number_may_be_zero_but_not_one_of_float16(dtype: str, right: bool) -> None:
    """XLA flushes what it computes on the CPU in float32 and bfloat16; float16 is computed in float32."""
    declared = formula(lambda x: 3.0 * x, replace(SMALL, decades=(-7.0, -5.0)) if dtype == "float16" else SMALL)
    for policy, expected in (("observe", right), ("strict", False)):
        for function, still in ((lambda x: 3.0 * flushed(x), expected), (lambda x: 3.0 * x, True)):
            subject = Implementation("mine", partial(lambda f: f, function), origin="user")
            found = run(CHECKS["value"], Trial(declared, subject, dtype, examples=10, policy=policy))
            assert found.passed is still, (policy, found.message)
    wrong = Implementation("mine", lambda: lambda x: 2.0 * x, origin="user")
    assert not run(CHECKS["value"], Trial(declared, wrong, dtype, examples=10, policy="observe")).passed


def test_a_residual_is_kept_where_a_softmax_has_no_weights() -> None:
    """x + Σ p v is x where all logits are −∞; any other number there is a fault."""
    declared = formula(
        lambda r, a, x: r + softmax_weighted(a, x),
        Real("r", dims=("B",)),
        Real("a", dims=("B",), decades=(-1.0, 0.0)),
        Real("x", dims=("B", "N"), decades=(-1.0, 0.0), positive=True),
        reduction=lambda s: s["N"],
    )

    def program(r: Any, a: Any, x: Any, without: float = 1.0) -> Any:
        empty = (a[:, None] * x == -math.inf).all(-1)
        return torch.where(empty, without * r, r) + safe_softmax_weighted(a, x)

    found = judged(declared, program, "float32", "observe")
    assert found.passed and "no weight" in found.policies, found
    assert not judged(declared, lambda r, a, x: program(r, a, x, 2.0), "float32", "observe").passed


@pytest.mark.parametrize(("leak", "right"), [((-1,), True), ((-2, -1), False)])
def test_a_leak_may_stay_in_one_sequence_of_a_row_of_sequences(leak: tuple[int, ...], right: bool) -> None:
    """NaN in what is not used of sequence n, where the outputs of all sequences lie in one row: where it is excused."""
    pairs = (Real("a", dims=("N", "M"), shortest=2), Real("b", dims=("N", "M"), shortest=2))
    declared = formula(lambda a, b: (a[:, :1] * b).reshape(-1), *pairs, policies={"rows": "for this test"})

    def program(a: Any, b: Any) -> Any:
        return (a[:, :1] * b + 0 * a.sum(leak, keepdim=True)).reshape(-1)

    found = judged(declared, program, "float32", "observe")
    assert found.passed is right, found
    assert not right or "rows" in found.policies


# -- the domain of arguments ------------------------------------------------------------------------------------------


def test_a_special_value_stays_in_the_domain_of_its_argument() -> None:
    positive, open_interval = Real("x", positive=True), Real("u", domain=(0.0, 1.0))
    x = np.full(3, 0.5)
    assert positive.put(x, 0, -1.0) is None and positive.put(x, 0, 0.0) is None
    assert positive.put(x, 0, -math.inf) is None and positive.put(x, 0, math.inf) is not None
    assert open_interval.put(x, 0, 1.0) is None and open_interval.put(x, 0, math.inf) is None
    for argument in (positive, open_interval):
        changed = argument.put(x, 1, math.nan)
        assert changed is not None and np.isnan(changed[1]) and not np.isnan(x).any(), "a copy"


def test_a_covariance_stays_symmetric_and_positive_semidefinite() -> None:
    declared = registry.formula("metrics.frechet_distance")
    trial = Trial(declared, declared.implementations[0], "float32")
    seen = 0
    for s in policies.situations(trial, typical(trial)):
        for i in (1, 3):
            c = s.values[i]
            assert np.array_equal(c, c.T, equal_nan=True), s.text
            if np.isfinite(c).all():
                assert np.linalg.eigvalsh(c).min() >= -1e-12 * np.abs(c).max(), s.text
        seen += s.changed in (1, 3)
    assert seen > 10


def frechet(mean_1: Any, covariance_1: Any, mean_2: Any, covariance_2: Any) -> Any:
    """d² in float64, each root by torch.linalg.eigh, which reads one triangle of a symmetric matrix."""
    m1, c1, m2, c2 = (a.double() for a in (mean_1, covariance_1, mean_2, covariance_2))

    def root(c: Any) -> Any:
        if not torch.isfinite(c).all():
            return torch.full_like(c, math.nan)
        w, u = torch.linalg.eigh(c)
        return (u * w.clamp(min=0).sqrt()) @ u.T

    r = root(c1) @ root(c2)
    t = torch.linalg.svdvals(r).sum() if torch.isfinite(r).all() else torch.tensor(math.nan).double()
    return ((m1 - m2).square().sum() + c1.trace() + c2.trace() - 2 * t).to(mean_1.dtype)


def test_a_program_that_relies_on_symmetry_is_right() -> None:
    found = judged("metrics.frechet_distance", frechet, "float32", "strict")
    assert found.passed, found.message


# -- who is held to what ----------------------------------------------------------------------------------------------


def test_no_implementation_carries_a_waiver_for_special_values() -> None:
    for declared in registry.formulas().values():
        for implementation in declared.implementations:
            assert not [name for name in implementation.waived if name.startswith("special values")], declared.name


def test_builtin_implementations_are_strict_and_all_others_are_observed() -> None:
    declared = registry.formula("fisher.diagonal")
    origins = {i.origin: Trial(declared, i, "float32").strict for i in declared.implementations}
    assert origins == {"builtin": True, "third_party": False}
    user = Implementation("mine", lambda: fisher_cast_at_the_end, origin="user")
    assert not Trial(declared, user, "float16").strict
    assert Trial(declared, user, "float16", policy="strict").strict


def test_strict_reaches_a_user_through_check_and_its_reproduction_says_so() -> None:
    options: dict[str, Any] = {"dtype": "float16", "profile": "quick", "checks": ("special values",)}
    assert trueness.check("fisher.diagonal", fisher_cast_at_the_end, **options)
    found = trueness.check("fisher.diagonal", fisher_cast_at_the_end, policy="strict", **options)
    assert not found
    assert "policy='strict'" in found.failures[0].reproduction
    with pytest.raises(ValueError, match="policy was 'lenient'"):
        trueness.check("fisher.diagonal", fisher_cast_at_the_end, policy="lenient", **options)


def test_a_formula_may_excuse_only_what_is_a_policy() -> None:
    with pytest.raises(ValueError, match=r"made\.up: policies was 'leniency'"):
        registry.validated([replace(DOUBLE, policies={"leniency": "because"})])


@pytest.mark.parametrize(
    ("policy", "excuses", "expected"),
    [("observe", {}, True), ("strict", {}, False), ("strict", {"not finite": "∞ − ∞"}, True)],
)
def test_an_overflow_may_end_in_nan_in_the_value_check_too(policy: str, excuses: Any, expected: bool) -> None:
    """∞ − ∞ is NaN where the reference, in another order, has ∞: an excuse of the formula, and otherwise observed."""
    declared = formula(lambda x: 1e5 * x, VECTOR, policies=excuses)
    subject = Implementation("mine", lambda: np.asarray, "numpy", origin="user")
    trial = Trial(declared, subject, "float16", policy=policy)
    truth = trial.truth([np.array([1.0, 1e-3])])
    for found, right in (([np.nan, 100.0], expected), ([np.inf, 100.0], True), ([np.nan, np.nan], False)):
        assert (trial.judge([np.array(found)], truth).T <= trial.limit) is right


def test_an_overflow_at_the_edge_may_end_either_way_unless_strict() -> None:
    """The value check, too: s² + ε cast at the end is inf where the reference stops at 65504."""
    declared = formula(lambda x: 1e5 * x, VECTOR, overflow="saturate")
    program = rounded(lambda x: 1e5 * x)
    subject = Implementation("mine", lambda: program, origin="user")
    for policy, expected in (("observe", True), ("strict", False)):
        trial = Trial(declared, subject, "float16", examples=10, policy=policy)
        assert run(CHECKS["value"], trial).passed is expected, policy


# -- who has it -------------------------------------------------------------------------------------------------------

SEEN = {
    "saturation": ("fisher.diagonal", "torch eager", "float16"),
    "flush to zero": ("fisher.preconditioned_step", "jax", "float32"),
    "masked": ("attention.masked_attention", "torch scaled_dot_product_attention", "float32"),
    "row of NaN": ("attention.masked_attention", "torch MultiheadAttention, asked for weights", "float32"),
    "overflow": ("attention.layer_norm", "torch layer_norm", "bfloat16"),
    "refuses": ("kernels.gaussian", "scikit-learn rbf_kernel", "float32"),
    "no weight": ("attention.tmsa", "dense scaled_dot_product_attention", "float32"),
    "not finite": ("diffusion.classifier_free_guidance_paper", "diffusers, original formulation", "float32"),
}


@pytest.mark.parametrize("policy", SEEN)
def test_the_table_names_who_has_it(policy: str) -> None:
    declared, name, dtype = SEEN[policy]
    chosen = next(i for i in registry.formula(declared).implementations if i.name == name)
    for module in chosen.needs:
        pytest.importorskip(module)
    found = run(CHECKS["special values"], Trial(registry.formula(declared), chosen, dtype, examples=10))
    assert found.passed and policy in found.policies, found


# -- where they are shown ---------------------------------------------------------------------------------------------


def test_the_report_shows_who_has_which_policy() -> None:
    seen = [judged("fisher.diagonal", fisher_cast_at_the_end, dtype) for dtype in ("float16", "bfloat16", "float32")]
    (line,) = policies_seen(seen)
    assert (line.head, line.note) == ("saturation", POLICIES["saturation"].sentence)
    assert line.cells == {"mine": ["float16", "bfloat16"]}
    assert not policies_seen([v for v in seen if not v.policies])


def test_the_page_has_a_table_of_policies() -> None:
    declared = registry.formula("fisher.diagonal")
    seen = judged(declared, fisher_cast_at_the_end, "float16")
    page = to_html(Results([seen], formulas={declared.name: declared}))
    assert "Policies for special values" in page and POLICIES["saturation"].sentence in page
