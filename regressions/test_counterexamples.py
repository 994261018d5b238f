"""For every check an implementation that fails this check and no other, which shows that the check can fail.

Every wrong implementation below is ``trueness.optimized.fisher.diagonal`` with one error, or a wrong formula for the
checks of the reference. All checks that apply are run on it, independently of their results.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch

from trueness.optimized import fisher as fast
from trueness.reference import fisher as true
from trueness.tools.checks import CHECKS
from trueness.tools.checks.core import run
from trueness.tools.run.runner import Job, reference_as_implementation, trial_for, wanted
from trueness.tools.run.trial import Trial
from trueness.tools.spec import registry
from trueness.tools.spec.inputs import Real, Scalar
from trueness.tools.spec.model import Bug, Formula, Implementation, Verdict

CLAIMS = frozenset("gradient double out opcheck compile autocast vmap jvp graph huge".split())
NO_DEVICE = not torch.cuda.is_available()


def ordinary(s: torch.Tensor) -> bool:
    """Whether this is an eager call on contiguous memory, where a wrong implementation may do what cannot be traced."""
    traced = torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(s)
    return not traced and not s.requires_grad and s.is_contiguous()


def optional_out(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """``function`` beside a right ``out=``, and with a right operator."""

    def call(s: torch.Tensor, a: float, *, out: torch.Tensor | None = None) -> torch.Tensor:
        return function(s, a) if out is None else fast.diagonal(s, a, out=out)

    call.operator = right_operator  # type: ignore[attr-defined]
    return call


# -- a right one, of which each wrong one differs in one thing --------------------------------------------------------


@torch.library.custom_op("trueness_tests::right", mutates_args=())
def right_operator(s: torch.Tensor, a: float) -> torch.Tensor:
    return s * s + fast.floor(a)


@right_operator.register_fake
def _(s: torch.Tensor, a: float) -> torch.Tensor:
    return torch.empty_like(s)


def _backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, None]:
    return 2 * ctx.saved_tensors[0] * g, None


right_operator.register_autograd(_backward, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0]))


class Square(torch.autograd.Function):
    """s² + ε with every derivative right; the wrong ones below override one of them."""

    generate_vmap_rule = True

    @staticmethod
    def forward(s: torch.Tensor, eps: float) -> torch.Tensor:
        return s * s + eps

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return 2 * ctx.saved_tensors[0] * g, None

    @staticmethod
    def jvp(ctx: Any, v: Any, _: Any) -> Any:
        return 2 * ctx.saved_tensors[0] * v


def through(square: Any) -> Callable[[], Callable[..., torch.Tensor]]:
    """An implementation through ``square``; torch.compile traces no function with a forward mode of its own."""

    def call(s: torch.Tensor, a: float) -> torch.Tensor:
        return fast.diagonal(s, a) if torch.compiler.is_compiling() else square.apply(s, fast.floor(a))

    return lambda: optional_out(call)


# -- what each one breaks ---------------------------------------------------------------------------------------------


def wrong_beyond_fifteen(s: torch.Tensor, a: float) -> torch.Tensor:
    """One percent too much where |s| > 15; the derivatives do not know."""
    y = fast.diagonal(s, a)
    return y + torch.where((s.abs() > 15) & s.isfinite(), 0.01 * y, 0.0).detach()


class GradientPlusConstant(Square):
    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return 2 * ctx.saved_tensors[0] * g + 0.01, None


class GradientOfContiguous(Square):
    """The forward reads strides, the backward reads the storage of its input in order."""

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        s = ctx.saved_tensors[0]
        if not s.is_contiguous():
            s = s.as_strided(s.shape, torch.empty(s.shape).stride())
        return 2 * s * g, None


class GradientInCotangent(Square):
    """The cotangent is scaled where it lies, and returned; what autograd itself makes is spared."""

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        if not ordinary(g):
            return 2 * ctx.saved_tensors[0] * g, None
        found = 2 * ctx.saved_tensors[0].detach() * g
        g.data.copy_(found)
        return found, None


class GradientOfDetached(Square):
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Any) -> Any:
        return 2 * ctx.saved_tensors[0] * g, None


class JvpTooLarge(Square):
    @staticmethod
    def jvp(ctx: Any, v: Any, _: Any) -> Any:
        return 2.02 * ctx.saved_tensors[0] * v


class JvpNotANumber(Square):
    @staticmethod
    def jvp(ctx: Any, v: Any, _: Any) -> Any:
        return v * torch.nan


class NoVmapRule(Square):
    generate_vmap_rule = False


def reads_storage_in_order(s: torch.Tensor, a: float) -> torch.Tensor:
    """Strides are ignored, as by a kernel that is handed a pointer and a length."""
    if not s.is_contiguous() and not s.requires_grad:
        return fast.diagonal(s.as_strided(s.shape, torch.empty(s.shape).stride()), a)
    return fast.diagonal(s, a)


def last_tile_missing(s: torch.Tensor, a: float) -> torch.Tensor:
    """A grid of (n + 62) // 64 programs for inputs of a few tiles: a last tile of one element is left out."""
    y = fast.diagonal(s, a)
    if not 64 < s.numel() < 200 or s.numel() % 64 != 1:
        return y
    written = torch.arange(s.numel()).view(s.shape) < s.numel() - 1
    return torch.where(written, y, torch.zeros_like(y))


def nan_becomes_zero(s: torch.Tensor, a: float) -> torch.Tensor:
    return fast.diagonal(torch.nan_to_num(s, nan=0.0, posinf=torch.inf, neginf=-torch.inf), a)


def alternating() -> Callable[..., torch.Tensor]:
    """Every other call is one unit in the last place higher."""
    calls = [0]

    def call(s: torch.Tensor, a: float) -> torch.Tensor:
        y = fast.diagonal(s, a)
        calls[0] += ordinary(s)
        return torch.nextafter(y, torch.full_like(y, torch.inf)) if ordinary(s) and calls[0] % 2 else y

    return optional_out(call)


def negates_its_input(s: torch.Tensor, a: float) -> torch.Tensor:
    y = fast.diagonal(s, a)
    if ordinary(s):
        s.neg_()  # the square does not show it
    return y


def one_buffer() -> Callable[..., torch.Tensor]:
    """Results are handed out in a workspace that the next call overwrites."""
    buffers: dict[tuple[int, ...], torch.Tensor] = {}

    def call(s: torch.Tensor, a: float) -> torch.Tensor:
        y = fast.diagonal(s, a)
        if not ordinary(s):
            return y
        return buffers.setdefault(tuple(s.shape), torch.zeros_like(y)).copy_(y)

    return optional_out(call)


def remembers_its_input() -> Callable[..., torch.Tensor]:
    """The last result is kept for the last tensor, whatever has been written to it since."""
    last: list[tuple[torch.Tensor, float, torch.Tensor]] = []

    def call(s: torch.Tensor, a: float) -> torch.Tensor:
        if not ordinary(s):
            return fast.diagonal(s, a)
        if not last or last[0][0] is not s or last[0][1] != a:
            last[:] = [(s, a, fast.diagonal(s, a))]
        return last[0][2].clone()

    return optional_out(call)


def trusts_fresh_memory(s: torch.Tensor, a: float) -> torch.Tensor:
    """Adds up in a workspace that it takes to be zero: 64 MiB, which the system hands out as zero pages."""
    return fast.diagonal(s, a) + torch.empty(2**24, dtype=s.dtype, device=s.device)[12345]


def writes_one_too_many(s: torch.Tensor, a: float) -> torch.Tensor:
    """A vector store that is one element too long, done only where memory beyond the output is there to take it."""
    if not ordinary(s):
        return fast.diagonal(s, a)
    y = torch.empty_like(s).copy_(fast.diagonal(s, a))
    if y.untyped_storage().nbytes() > (y.storage_offset() + y.numel()) * y.element_size():
        y.as_strided((1,), (1,), y.storage_offset() + y.numel()).fill_(0)
    return y


def ignores_out() -> Callable[..., torch.Tensor]:
    def call(s: torch.Tensor, a: float, *, out: torch.Tensor | None = None) -> torch.Tensor:
        return fast.diagonal(s, a)

    call.operator = right_operator  # type: ignore[attr-defined]
    return call


@torch.library.custom_op("trueness_tests::wrong_fake", mutates_args=())
def wrong_fake(s: torch.Tensor, a: float) -> torch.Tensor:
    return s * s + fast.floor(a)


@wrong_fake.register_fake
def _(s: torch.Tensor, a: float) -> torch.Tensor:
    return torch.empty_like(s, dtype=torch.float64)


wrong_fake.register_autograd(_backward, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0]))


def wrong_operator() -> Callable[..., torch.Tensor]:
    call = optional_out(fast.diagonal)
    call.operator = wrong_fake  # type: ignore[attr-defined]
    return call


def breaks_the_graph(s: torch.Tensor, a: float) -> torch.Tensor:
    torch._dynamo.graph_break()
    return fast.diagonal(s, a)


def multiplies_matrices(s: torch.Tensor, a: float) -> torch.Tensor:
    """s² as a product of 1 × 1 matrices, which autocast rounds to bfloat16."""
    square = (s[..., None, None] @ s[..., None, None])[..., 0, 0]
    return square.to(s.dtype) + fast.floor(a)


# -- devices ----------------------------------------------------------------------------------------------------------


def synchronises(s: torch.Tensor, a: float) -> torch.Tensor:
    """Asks the device for a number in mid-call, which a graph cannot capture."""
    y = fast.diagonal(s, a)
    return y * 1 if bool(torch.isnan(y).any()) else y


def counts_in_int32(s: torch.Tensor, a: float) -> torch.Tensor:
    y = fast.diagonal(s, a)
    return y if y.numel() < 2**31 else torch.cat([y[: 2**31 - 1], torch.zeros_like(y[2**31 - 1 :])])


def works_on_a_stream_of_its_own(s: torch.Tensor, a: float) -> torch.Tensor:
    """Starts before its input is there: nobody told its stream to wait."""
    if not s.is_cuda or s.requires_grad:
        return fast.diagonal(s, a)
    with torch.cuda.stream(torch.cuda.Stream()):
        return fast.diagonal(s, a)


def adds_in_any_order(s: torch.Tensor, a: float) -> torch.Tensor:
    """One in the last place more where a sum by atomics, in the order in which the blocks end, says so."""
    y = fast.diagonal(s, a)
    if not s.is_cuda or y.numel() < 1000 or not ordinary(s):
        return y
    terms = 1e3 * torch.sin(12.9898 * torch.arange(1 << 20, device=s.device))
    total = torch.zeros(1, device=s.device).index_add_(
        0, torch.zeros(1 << 20, dtype=torch.int64, device=s.device), terms
    )
    return torch.where((total.view(torch.int32) & 1).bool(), torch.nextafter(y, torch.full_like(y, torch.inf)), y)


def reads_beyond_its_input(s: torch.Tensor, a: float) -> torch.Tensor:
    """A kernel launched over one block too many, whose results nobody looks at."""
    if s.is_cuda and ordinary(s):
        from trueness.optimized.fisher.cuda import BLOCK, forward_kernel

        n = s.numel() + BLOCK
        scratch = torch.empty(n, dtype=s.dtype, device=s.device)
        forward_kernel[(-(-n // BLOCK),)](s, scratch, 0.0, float("inf"), n, STEP=False, BLOCK=BLOCK)
    return fast.diagonal(s, a)


WRONG: dict[str, Callable[[], Callable[..., torch.Tensor]]] = {
    "value": lambda: optional_out(wrong_beyond_fifteen),
    "gradient": through(GradientPlusConstant),
    "second derivative": through(GradientOfDetached),
    "gradient layouts": through(GradientOfContiguous),
    "gradient contract": through(GradientInCotangent),
    "layouts": lambda: optional_out(reads_storage_in_order),
    "shapes": lambda: optional_out(last_tile_missing),
    "special values": lambda: optional_out(nan_becomes_zero),
    "determinism": alternating,
    "inputs unchanged": lambda: optional_out(negates_its_input),
    "no aliasing": one_buffer,
    "no stale cache": remembers_its_input,
    "poisoned allocations": lambda: optional_out(trusts_fresh_memory),
    "red zones": lambda: optional_out(writes_one_too_many),
    "out": ignores_out,
    "opcheck": wrong_operator,
    "compile": lambda: optional_out(breaks_the_graph),
    "autocast": lambda: optional_out(multiplies_matrices),
    "vmap": through(NoVmapRule),
    "jvp": through(JvpTooLarge),
}

ON_A_DEVICE: dict[str, Callable[[], Callable[..., torch.Tensor]]] = {
    "graph capture": lambda: optional_out(synchronises),
    "int32 overflow": lambda: optional_out(counts_in_int32),
    "side stream": lambda: optional_out(works_on_a_stream_of_its_own),
    "repeatability": lambda: optional_out(adds_in_any_order),
    "compute-sanitizer": lambda: optional_out(reads_beyond_its_input),
}


def verdicts_on(load: Callable[[], Callable[..., Any]], device: str = "cpu") -> list[Verdict]:
    """Every check that applies to an implementation with all claims, none left out because another failed."""
    name = f"{__name__}:reads_beyond_its_input"  # which a process under compute-sanitizer loads anew
    subject = Implementation(name, load, claims=CLAIMS, devices=("cpu", "cuda"), origin="user")
    job = Job("fisher.diagonal", subject.name, "float32", device, "quick")
    function = load()
    trial = trial_for(job, replace(subject, load=lambda: function))
    return [run(CHECKS[name], trial) for name in wanted(job, subject)]


def failing(verdicts: list[Verdict]) -> dict[str, str]:
    return {v.check: v.message for v in verdicts if not v.passed}


def test_the_one_that_they_all_differ_from_is_right() -> None:
    found = verdicts_on(through(Square))
    assert failing(found) == {}
    assert {v.check for v in found if not v.skipped} == set(WRONG)


@pytest.mark.parametrize("check", WRONG)
def test_an_implementation_fails_this_check_and_no_other(check: str) -> None:
    found = failing(verdicts_on(WRONG[check]))
    assert set(found) == {check}, found


@pytest.mark.parametrize("check", ON_A_DEVICE)
def test_a_check_of_the_device_is_skipped_without_one_and_fails_with_one(check: str) -> None:
    found = {v.check: v for v in verdicts_on(ON_A_DEVICE[check], "cpu" if NO_DEVICE else "cuda")}
    if NO_DEVICE:
        assert found[check].message == "no CUDA device"
    else:
        assert {name for name, v in found.items() if not v.passed} == {check}


# -- the checks of interpreted kernels --------------------------------------------------------------------------------

INTERPRETED = ("kernel memory", "kernel tiles", "kernel offsets")


def test_a_kernel_fails_these_checks_and_no_other() -> None:
    """All in one process, which was started so that it interprets kernels."""
    pytest.importorskip("triton", reason="triton is not installed: pip install triton")
    command = [sys.executable, "-P", "-W", "ignore", "-m", "trueness.regressions._lib.wrong_kernels"]
    done = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {name: set(f["failing"]) for name, f in found.items()} == {n: set(f["wanted"]) for n, f in found.items()}
    assert {check for f in found.values() for check in f["failing"]} == set(INTERPRETED)


# -- the checks of a reference ----------------------------------------------------------------------------------------


def cancelling(score: Any, alpha: Any) -> Any:
    """Ten digits are lost in a sum and a difference; what is left is enough to tell zeros from right."""
    return ((score * score + 1e6) - 1e6) + true.floor(alpha)


def vjp_too_large(cotangent: Any, score: Any, alpha: Any) -> Any:
    return 2.02 * score * cotangent


def vjp_not_a_number(cotangent: Any, score: Any, alpha: Any) -> Any:
    return score * cotangent * np.nan


@dataclass(frozen=True)
class Zero(Real):
    """A generator whose tensors are all zero."""

    def build(self, case: Any, generator: np.random.Generator) -> np.ndarray:
        return np.zeros_like(super().build(case, generator))


def square(score: Any, alpha: Any) -> Any:
    return score * score


def formula(**changes: Any) -> Formula:
    plain = Formula(
        "fisher.counterexample",
        true.diagonal,
        "F = s² + ε(ᾱ)",
        "none",
        (Real("score", decades=(-4, 1.3)), Scalar("alpha")),
        vjp=true.diagonal_vjp,
    )
    return replace(plain, **changes)


def bug(variant: Callable[..., Any]) -> Bug:
    return Bug("FSB-99", "fisher.counterexample", "", "", "", "real bug, right fix", "", "", "", variant)


@dataclass(frozen=True)
class WrongReference:
    formula: Formula
    bugs: tuple[Bug, ...] = field(default=(bug(lambda score, alpha: np.abs(score) + true.floor(alpha)),))


WRONG_REFERENCE = {
    "ball certificate": WrongReference(formula(reference=cancelling)),
    "complex-step certificate": WrongReference(formula(vjp=vjp_too_large)),
    "power": WrongReference(formula(reference=square, arguments=(Zero("score"), Scalar("alpha"))), ()),
    "known bugs": WrongReference(formula(), (bug(true.diagonal),)),
}


def test_not_a_number_is_never_within_a_bound() -> None:
    assert set(failing(verdicts_on(through(JvpNotANumber)))) == {"jvp"}
    wrong = formula(vjp=vjp_not_a_number)
    trial = Trial(wrong, reference_as_implementation(wrong), "float64", examples=10)
    assert not run(CHECKS["complex-step certificate"], trial)
    wrong = formula(reference=lambda score, alpha: score * np.nan)
    trial = Trial(wrong, reference_as_implementation(wrong), "float64", examples=10)
    assert not run(CHECKS["ball certificate"], trial)
    assert not run(CHECKS["power"], trial)


@pytest.mark.parametrize("check", ["", *WRONG_REFERENCE])
def test_a_formula_fails_this_check_of_references_and_no_other(check: str) -> None:
    wrong = WRONG_REFERENCE[check] if check else WrongReference(formula())
    trial = Trial(wrong.formula, reference_as_implementation(wrong.formula), "float64", bugs=wrong.bugs, examples=10)
    found = failing([run(CHECKS[name], trial) for name in WRONG_REFERENCE])
    assert set(found) == {check} - {""}, found


def test_every_check_has_an_implementation_that_fails_it() -> None:
    registry.formulas()
    assert {*WRONG, *ON_A_DEVICE, *INTERPRETED, *WRONG_REFERENCE} == set(CHECKS)
