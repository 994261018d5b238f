"""``trueness.bound``, ``trueness.testing.assert_close`` and ``assert_close_gradients`` on functions of one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import trueness
from trueness.testing import assert_close, assert_close_gradients
from trueness.tools.arithmetic.formats import precision

FORMATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
ROWS, WIDTH = 37, 300  # no multiple of a tile


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def rms_norm_in_numpy(x: np.ndarray, weight: np.ndarray, eps: float = 1e-6) -> np.ndarray:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1) @ v


def layer_norm(x: torch.Tensor) -> torch.Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()


def swiglu(x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    return F.silu(gate) * x


def inside(function: Callable[..., Any], *given: torch.Tensor) -> Any:
    """What a fused kernel does: computes in float32, or in float64, and rounds the result."""
    wide = torch.float64 if given[0].dtype == torch.float64 else torch.float32
    return function(*(x.to(wide) for x in given)).to(given[0].dtype)


def drawn(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32, scale: float = 1.0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [(scale * torch.randn(s, generator=generator)).to(dtype) for s in shapes]


RIGHT: list[tuple[Callable[..., Any], Callable[..., Any], list[tuple[int, ...]]]] = [
    (rms_norm, lambda x, w: F.rms_norm(x, (WIDTH,), w, 1e-6), [(ROWS, WIDTH), (WIDTH,)]),
    (rms_norm_in_numpy, lambda x, w: F.rms_norm(x, (WIDTH,), w, 1e-6), [(ROWS, WIDTH), (WIDTH,)]),
    (attention, F.scaled_dot_product_attention, [(2, 70, 32), (2, 130, 32), (2, 130, 48)]),
    (layer_norm, lambda x: F.layer_norm(x, (WIDTH,)), [(ROWS, WIDTH)]),
    (swiglu, lambda x, g: x * g / (1 + torch.exp(-g)), [(ROWS, WIDTH), (ROWS, WIDTH)]),
]
WRONG: list[tuple[Callable[..., Any], Callable[..., Any], list[tuple[int, ...]]]] = [
    (rms_norm, lambda x, w: rms_norm(x, w, 1e-5), [(ROWS, WIDTH), (WIDTH,)]),
    (rms_norm_in_numpy, lambda x, w: rms_norm(x, w, 1e-5), [(ROWS, WIDTH), (WIDTH,)]),
    (attention, lambda q, k, v: torch.softmax(q @ k.mT / 31**0.5, -1) @ v, [(2, 70, 32), (2, 130, 32), (2, 130, 48)]),
    (attention, lambda q, k, v: attention(q, k[:, :128], v[:, :128]), [(2, 70, 32), (2, 130, 32), (2, 130, 48)]),
    (layer_norm, lambda x: (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-5).sqrt(), [(ROWS, WIDTH)]),
    (swiglu, lambda x, g: F.gelu(g) * x, [(ROWS, WIDTH), (ROWS, WIDTH)]),
]


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize(("reference", "candidate", "shapes"), RIGHT)
def test_another_program_for_the_same_function_is_close(
    reference: Any, candidate: Any, shapes: Any, dtype: torch.dtype
) -> None:
    given = drawn(*shapes, dtype=dtype)
    assert assert_close(inside(candidate, *given), reference, *given) <= 1.5


@pytest.mark.parametrize(("reference", "candidate", "shapes"), WRONG)
def test_a_wrong_program_is_not(reference: Any, candidate: Any, shapes: Any) -> None:
    given = drawn(*shapes)
    with pytest.raises(AssertionError, match="T = "):
        assert_close(inside(candidate, *given), reference, *given)


@pytest.mark.parametrize(("reference", "candidate", "shapes"), [r for r in RIGHT if r[0] is not rms_norm_in_numpy])
def test_gradients_of_torch_are_close_and_of_a_wrong_scale_are_not(reference: Any, candidate: Any, shapes: Any) -> None:
    given = [x.requires_grad_() for x in drawn(*shapes)]
    out = candidate(*given)
    seed = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad(out, given, seed)
    assert 0 < assert_close_gradients(found, reference, *given, cotangents=seed) <= 1.5
    for i in range(len(found)):
        scaled = [g * (1 + 1e-3 * (k == i)) for k, g in enumerate(found)]
        with pytest.raises(AssertionError, match=rf"Worst: gradient {i}\["):
            assert_close_gradients(scaled, reference, *given, cotangents=seed)


def test_a_gradient_of_a_numpy_reference_needs_its_vjp() -> None:
    x = torch.randn(5, requires_grad=True)
    (found,) = torch.autograd.grad(x.square().sum(), x)
    with pytest.raises(ValueError, match="vjp was not given"):
        assert_close_gradients(found, lambda x: np.sum(x * x), x, framework="numpy")
    assert (
        assert_close_gradients(found, lambda x: np.sum(x * x), x, vjp=lambda g, x: 2 * g * x, framework="numpy") <= 1.5
    )


def test_a_module_is_its_own_reference_with_its_parameters() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(20, 30), torch.nn.BatchNorm1d(30), torch.nn.GELU(), torch.nn.Linear(30, 5)
    )
    state = {name: x.clone() for name, x in model.state_dict().items()}
    x = torch.randn(7, 20)
    expected = model(x)
    model.load_state_dict(state)
    assert assert_close(expected, model, x) <= 1.5
    assert all(torch.equal(x, state[name]) for name, x in model.state_dict().items()), "the statistics were moved"
    found = torch.autograd.grad(model(x).square().sum(), [*model.parameters()])
    model.load_state_dict(state)
    seed = 2 * model(x).detach()
    model.load_state_dict(state)
    assert assert_close_gradients([None, *found], model, x, cotangents=seed) <= 1.5
    with pytest.raises(ValueError, match="actual has 2 gradients; the inputs have 1 floating-point tensors, or 7 with"):
        assert_close_gradients([None, found[0]], model, x, cotangents=seed)


def test_inputs_may_be_structures_numbers_and_arrays_of_other_dtypes() -> None:
    x, y = drawn((4, 5), (4, 5), dtype=torch.bfloat16)
    index = torch.tensor([3, 0])

    def reference(
        pair: dict[str, Any], index: torch.Tensor, *, scale: float = 0.3
    ) -> tuple[torch.Tensor, torch.Tensor]:
        total = scale * pair["x"] + pair["more"][0]
        return total[index], total.argmax(-1)

    total = (0.3 * x.float() + y.float()).bfloat16()
    wide = 0.3 * x.double() + y.double()
    T = assert_close((total[index], wide.argmax(-1)), reference, {"x": x, "more": [y]}, index)
    assert T <= 1.5
    with pytest.raises(AssertionError, match=r"output 1\[2\] is"):
        wrong = wide.argmax(-1)
        wrong[2] = (wrong[2] + 1) % 5
        assert_close((total[index], wrong), reference, {"x": x, "more": [y]}, index)


def test_complex_numbers_have_two_parts() -> None:
    (x,) = drawn((3, 32))
    assert 0 < assert_close(torch.fft.rfft(x), torch.fft.rfft, x) <= 1.5
    z = torch.fft.rfft(x)
    assert assert_close(torch.fft.irfft(z, n=32), lambda z: torch.fft.irfft(z, n=32), z) <= 1.5
    with pytest.raises(AssertionError, match=r"output\[\d, \d+, 1\]"):
        assert_close(torch.fft.rfft(x).conj(), torch.fft.rfft, x)


def test_the_message_says_how_many_where_and_by_how_much() -> None:
    x, w = drawn((ROWS, WIDTH), (WIDTH,))
    wrong = F.rms_norm(x, (WIDTH,), w, 1e-6)
    wrong[5, 280:] = 0
    with pytest.raises(AssertionError) as raised:
        assert_close(wrong, rms_norm, x, w)
    lines = str(raised.value).splitlines()
    assert lines[0] == "The output is not close to the reference's."
    assert lines[2] == "Elements beyond the limit: 20 of 11100 (0.2%)"
    assert lines[3].startswith("Worst: output[5, 2") and " is 0, the reference " in lines[3]
    assert lines[3].endswith(" of 1.5") and len(lines) == 4
    with pytest.raises(AssertionError, match=r"^mine$"):
        assert_close(wrong, rms_norm, x, w, msg="mine")
    with pytest.raises(AssertionError, match=r"(?s)^step 3: The output .* of 1\.5$"):
        assert_close(wrong, rms_norm, x, w, msg=lambda text: f"step 3: {text}")


def test_a_half_accumulator_is_told_from_a_fused_program() -> None:
    x, w = drawn((70, 1000), (1000,), dtype=torch.float16)
    total = torch.zeros(70, 1, dtype=torch.float16)
    for part in (x.float() ** 2).split(125, -1):
        total = total + part.sum(-1, keepdim=True).half()
    stored = (x * torch.rsqrt(total.float() / 1000 + 1e-6) * w).half()
    with pytest.raises(AssertionError, match="an intermediate is kept in the half format"):
        assert_close(stored, rms_norm, x, w)
    assert assert_close(stored, rms_norm, x, w, limit="eager") <= 3


def test_a_result_that_was_never_rounded_like_its_inputs_is_explained() -> None:
    (x,) = drawn((9, 40), dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    x = x + 1e-9 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    result = F.softmax(100 * x.float(), -1)
    with pytest.raises(AssertionError, match="The inputs are in float64 and the result in float32"):
        assert_close(result, lambda x: F.softmax(100 * x, -1), x)
    assert assert_close(result, lambda x: F.softmax(100 * x, -1), x.float()) <= 1.5


def test_an_overflow_and_a_nan_agree_with_the_reference_or_do_not() -> None:
    x = torch.tensor([300.0, float("nan"), 1.0, float("inf")], dtype=torch.float16)
    square = x * x
    assert torch.isinf(square[0])
    assert assert_close(square, lambda x: x * x, x) <= 1.5
    square[1] = 3
    with pytest.raises(AssertionError, match=r"output\[1\] is 3, the reference nan"):
        assert_close(square, lambda x: x * x, x)


def test_exact_means_bit_by_bit() -> None:
    (x,) = drawn((4, 5))
    assert assert_close(x.T.clone(), lambda x: x.T, x, limit="exact") == 0
    with pytest.raises(AssertionError, match="of 0"):
        assert_close(x.T * (1 + 2.0**-23), lambda x: x.T, x, limit="exact")


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (
            lambda x: assert_close(x[:2], torch.exp, x),
            AssertionError,
            "The shape of output is not the reference's: (2,)",
        ),
        (
            lambda x: assert_close((x, x), torch.exp, x),
            AssertionError,
            "The number of results is not the reference's: 2",
        ),
        (lambda x: assert_close(1.0, torch.exp, x), ValueError, "actual was float; it must be a tensor or an array"),
        (
            lambda x: assert_close(x, cast(Any, "torch.exp"), x),
            ValueError,
            "reference was str; it must be a function or an nn.Module",
        ),
        (lambda x: assert_close(x, torch.exp, x, limit="loose"), ValueError, "limit was 'loose'; allowed are"),
        (lambda x: assert_close(x, torch.exp, x, framework="jax"), ValueError, "framework was 'jax'; allowed are"),
        (lambda x: assert_close(x, lambda x: [x], x), ValueError, "the reference returned list"),
        (lambda x: assert_close(x, lambda x: [x], x, framework="numpy"), ValueError, "the reference returned a list"),
        (lambda x: trueness.bound(torch.exp, x, dtype="float8"), ValueError, "dtype was 'float8'; allowed are"),
        (lambda x: trueness.bound(torch.exp, x).ratio(x[:2]), ValueError, "actual had shapes [(2,)]; those of the"),
        (lambda x: assert_close_gradients([None], torch.exp, x, cotangents=x), ValueError, "actual has no gradient"),
        (
            lambda x: assert_close_gradients([x], torch.exp, x),
            ValueError,
            "cotangents were not given; the reference returns",
        ),
        (
            lambda x: assert_close_gradients([x], torch.exp, x, cotangents=x[:2]),
            ValueError,
            "cotangents had shapes [(2,)]",
        ),
        (
            lambda x: assert_close_gradients([x, x], torch.exp, x, cotangents=x),
            ValueError,
            "actual has 2 gradients; the",
        ),
        (
            lambda x: assert_close(x, torch.exp, x.to_sparse()),
            ValueError,
            "an input was a tensor of layout torch.sparse_coo",
        ),
    ],
)
def test_what_cannot_be_judged_is_said_in_a_sentence(call: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error) as raised:
        call(torch.ones(3))
    assert said in str(raised.value)


def test_the_bound_of_a_function_of_ones_own() -> None:
    (x,) = drawn((9, 40), dtype=torch.bfloat16)
    found = trueness.bound(lambda x: F.softmax(x, -1), x)
    assert found.reduction == 40
    assert found.ratio(F.softmax(x.float(), -1).bfloat16()) <= 1.5
    rounding = 2.0**-53 * (2 + 1 / precision("bfloat16").u)  # of y + 2 B, in units of a B that is u |y| at least
    assert abs(found.ratio(found.value[0] + 2 * found.tolerance[0]) - 2) <= 2 * rounding
    in_float32 = trueness.bound(lambda x: F.softmax(x, -1), x, dtype=torch.float32)
    assert (in_float32.tolerance[0] < found.tolerance[0]).all()


def test_the_reference_may_change_between_two_calls() -> None:
    """Nothing is kept of a function that closes over what may change."""
    weight = torch.ones(3)
    x = torch.ones(3)
    assert assert_close(x * weight, lambda x: x * weight, x) <= 1.5
    weight += 1
    assert assert_close(x * weight, lambda x: x * weight, x) <= 1.5
