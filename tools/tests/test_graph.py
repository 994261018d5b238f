"""Torch functions as references: the graph that is traced, its arithmetics, its gradient, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from trueness.tools.arithmetic.bounds import bounds, spread
from trueness.tools.arithmetic.formats import precision
from trueness.tools.arithmetic.limited import Range, evaluate
from trueness.tools.arithmetic.noise import Counter, Noise, TooCostly
from trueness.tools.arithmetic.stochastic import Stochastic, stochastic
from trueness.tools.arithmetic.sums import longest_sum
from trueness.tools.checks.contract import typical
from trueness.tools.closeness.assertions import assert_close_gradients
from trueness.tools.graph import decompositions, operators
from trueness.tools.graph.reference import TorchReference
from trueness.tools.graph.tracing import Untraceable
from trueness.tools.run.runner import Job, trial_for
from trueness.tools.spec import inputs, registry
from trueness.tools.spec.model import Implementation

U = 2.0**-24
Shapes = Sequence[tuple[int, ...]]


def written_in_place(x: torch.Tensor) -> torch.Tensor:
    y = torch.zeros_like(x)
    y[:, 0] = x[:, 1]
    y[1:] += x[:-1]
    return y.mul_(x).clamp_(-1)


class Doubled(torch.autograd.Function):
    """2x, whose backward is wrong on purpose: a reference is differentiated by what it does, not by what it says."""

    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
        return 3 * g


FUNCTIONS: dict[str, tuple[Callable[..., Any], Shapes]] = {
    "softmax": (lambda x: F.softmax(x, -1), [(3, 7)]),
    "log-softmax": (lambda x: F.log_softmax(x, 0), [(3, 7)]),
    "layer norm": (lambda x, w, b: F.layer_norm(x, (7,), w, b), [(3, 7), (7,), (7,)]),
    "group norm": (lambda x, w, b: F.group_norm(x, 2, w, b), [(3, 4, 5), (4,), (4,)]),
    "RMS norm": (lambda x, w: F.rms_norm(x, (7,), w, 1e-6), [(3, 7), (7,)]),
    "batch norm": (lambda x: F.batch_norm(x, x.new_zeros(4), x.new_ones(4), training=True), [(6, 4)]),
    "gelu": (F.gelu, [(3, 7)]),
    "silu": (F.silu, [(3, 7)]),
    "variance": (lambda x: x.var(-1), [(3, 7)]),
    "norm": (lambda x: x.norm(dim=-1), [(3, 7)]),
    "linear": (F.linear, [(3, 7), (5, 7), (5,)]),
    "convolution": (lambda x, w, b: F.conv2d(x, w, b, padding=1), [(2, 2, 5, 5), (3, 2, 3, 3), (3,)]),
    "transposed convolution": (lambda x, w: F.conv_transpose2d(x, w, stride=2), [(2, 2, 4, 4), (2, 3, 3, 3)]),
    "interpolation": (lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear"), [(1, 2, 5, 5)]),
    "attention": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), [(2, 2, 5, 4)] * 3),
    "cross entropy": (lambda x: F.cross_entropy(x, torch.tensor([0, 6, 2])), [(3, 7)]),
    "einsum": (lambda x, y: torch.einsum("bij,bkj->bik", x, y), [(2, 3, 4), (2, 5, 4)]),
    "cumulative sum": (lambda x: x.cumsum(-1), [(3, 7)]),
    "fft": (lambda x: torch.fft.rfft(x).abs(), [(3, 7)]),
    "solve": (torch.linalg.solve, [(4, 4), (4, 2)]),
    "gather": (lambda x: x.gather(1, torch.tensor([[0, 3], [1, 1], [6, 2]])), [(3, 7)]),
    "scatter": (lambda x: x.index_add(0, torch.tensor([0, 0]), x[1:]), [(3, 7)]),
    "written in place": (written_in_place, [(3, 7)]),
    "autograd function": (Doubled.apply, [(3, 7)]),
    "two outputs": (lambda x: (x.exp().sum(-1), x.argmax(-1)), [(3, 7)]),
}
EXAMPLES = pytest.mark.parametrize("name", FUNCTIONS)


def drawn(shapes: Shapes) -> list[np.ndarray]:
    """Elements that are float16 numbers, so that every format has the same ones."""
    generator = np.random.default_rng(3)
    return [generator.standard_normal(s).astype(np.float16).astype(np.float64) for s in shapes]


def tensors(arrays: Sequence[np.ndarray], dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    return [torch.from_numpy(a).to(dtype) for a in arrays]


def several(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)


def close(found: Any, wanted: Any) -> bool:
    """Equal to the rounding of some operations in float64."""
    a, b = np.asarray(found), np.asarray(wanted.detach())
    return a.shape == b.shape and bool(np.all(np.abs(a - b) <= 2.0**-44 * max(np.abs(b).max(initial=0.0), 1e-3)))


def with_units(x: np.ndarray, u: float) -> Stochastic:
    return stochastic(x, u, 0.0, Noise(0, 1))


@EXAMPLES
def test_a_graph_gives_the_value_of_its_function(name: str) -> None:
    function, shapes = FUNCTIONS[name]
    arrays = drawn(shapes)
    found = TorchReference(function, len(arrays))(*arrays)
    wanted = function(*tensors(arrays))
    assert [close(a, b) for a, b in zip(several(found), several(wanted), strict=True)] == [True] * len(several(wanted))


@EXAMPLES
def test_without_noise_the_arithmetic_is_float64_bit_by_bit(name: str) -> None:
    function, shapes = FUNCTIONS[name]
    arrays = drawn(shapes)
    reference = TorchReference(function, len(arrays))
    plain, moved = reference(*arrays), reference(*[with_units(a, 0.0) for a in arrays])
    for a, b in zip(several(plain), several(moved), strict=True):
        assert np.array_equal(np.asarray(a), np.asarray(b))


@EXAMPLES
def test_with_noise_every_rounded_result_moves(name: str) -> None:
    function, shapes = FUNCTIONS[name]
    arrays = drawn(shapes)
    exact = {"gather", "two outputs"}  # and of two outputs the second, which is an integer
    reference = TorchReference(function, len(arrays))
    plain, moved = (several(reference(*given)) for given in (arrays, [with_units(a, U) for a in arrays]))
    moves = not np.array_equal(np.asarray(plain[0]), np.asarray(moved[0]))
    assert moves == (name not in exact or name == "two outputs")
    assert np.max(np.abs(np.asarray(plain[0]) - np.asarray(moved[0]))) <= 2.0**-14 * np.abs(plain[0]).max()


@EXAMPLES
def test_the_gradient_is_that_of_float64_autograd(name: str) -> None:
    function, shapes = FUNCTIONS[name]
    arrays = drawn(shapes)
    leaves = [x.requires_grad_() for x in tensors(arrays)]
    out = several(function(*leaves))[0]
    seed = torch.from_numpy(np.random.default_rng(5).standard_normal(out.shape))
    wanted = torch.autograd.grad(out, leaves, seed)
    found = TorchReference(function, len(arrays)).vjp(seed.numpy(), *arrays)
    if name == "autograd function":
        assert close(found[0], 2 * seed), "a backward that is written by hand is an implementation, not the truth"
        return
    assert [close(a, b) for a, b in zip(found, wanted, strict=True)] == [True] * len(wanted)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@EXAMPLES
def test_torch_itself_is_within_the_bound(name: str, dtype: str) -> None:
    function, shapes = FUNCTIONS[name]
    if dtype == "bfloat16" and name in ("fft", "solve"):
        pytest.skip("torch has no such operator in bfloat16")
    fmt, arrays = precision(dtype), drawn(shapes)
    given = tensors(arrays, fmt.torch)
    arrays = [x.double().numpy() for x in given]
    reference, units = TorchReference(function, len(arrays)), [fmt.u] * len(arrays)
    n = longest_sum(reference, arrays, units)
    bound = bounds(reference, arrays, units, fmt, n)[0]
    actual = several(function(*[x.clone() for x in given]))[0].double().numpy()
    assert bound.ratio(actual).max() <= 1.5
    assert bound.ratio(actual + 64 * bound.B).max() > 1.5


def saturated() -> tuple[list[torch.Tensor], torch.Tensor]:
    """Query, key and value of an attention some of whose probabilities are 1 in float32, and a cotangent."""
    generator = torch.Generator().manual_seed(0)
    q, k, v, g = (torch.randn(1, 2, 9, 16, generator=generator) for _ in range(4))
    assert (torch.softmax(20 * q @ k.mT / 4, -1).max(-1).values == 1).any()
    return [20 * q, k, v], g


def test_the_backward_of_a_saturated_softmax_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the spread of p (g − Σ p g), which autograd through the maximum takes away, no honest kernel passes."""
    given, g = saturated()
    q, k, v = leaves = [x.requires_grad_() for x in given]
    found = torch.autograd.grad(F.scaled_dot_product_attention(q, k, v), leaves, g)
    assert 0 < assert_close_gradients(found, F.scaled_dot_product_attention, q, k, v, cotangents=g) <= 1.5
    monkeypatch.setattr(decompositions, "constant", lambda x: x)
    with pytest.raises(AssertionError, match=r"T = .*e\+"):
        assert_close_gradients(found, F.scaled_dot_product_attention, q, k, v, cotangents=g)


# -- the same formulas in NumPy ---------------------------------------------------------------------------------------

BOTH = [
    ("fisher.diagonal", "torch eager"),
    ("fisher.preconditioned_step", "torch eager"),
    ("diffusion.posterior", "torch eager"),
    ("diffusion.p_losses", "torch eager"),
    ("attention.layer_norm", "torch layer_norm"),
    ("attention.gelu_tanh", "torch gelu"),
    ("attention.masked_attention", "torch scaled_dot_product_attention"),
    ("kernels.rff_gram", "trueness"),
    ("metrics.cross_entropy", "torch cross_entropy"),
    ("training.clip_by_global_norm", "torch.nn.utils.clip_grad_norm_"),
]


@pytest.mark.parametrize(("formula", "implementation"), BOTH)
def test_the_bounds_of_a_torch_and_of_a_numpy_reference_agree(formula: str, implementation: str) -> None:
    declared = registry.formula(formula)
    chosen: Implementation = next(i for i in declared.implementations if i.name == implementation)
    trial = trial_for(Job(formula, implementation, "float32"), chosen)
    values = trial.arguments_f64(typical(trial))
    function, keywords = trial.load(), {k: torch.float64 for k in trial.keywords() if k == "dtype"}
    numbers = [i for i, v in enumerate(values) if isinstance(v, (int, float))]
    reference = TorchReference(lambda *a: function(*a, **keywords), len(values), numbers)
    units, fmt = inputs.units(declared, "float32"), precision("float32")
    n = longest_sum(declared.reference, values, units)
    of_numpy, of_torch = (bounds(f, values, units, fmt, n, times=4) for f in (declared.reference, reference))
    for a, b in zip(of_torch, of_numpy, strict=True):
        assert np.all(np.abs(a.y - b.y) <= b.B * 2.0**-24)
        counted = np.isfinite(a.B) & np.isfinite(b.B) & (b.B > 0)
        assert not counted.any() or 0.5 <= np.median(a.B[counted] / b.B[counted]) <= 2.0


# -- what else runs on a graph ----------------------------------------------------------------------------------------


def test_the_work_of_a_torch_reference_is_counted() -> None:
    x = np.ones((40, 50))
    reference = TorchReference(lambda x: x @ x.T, 1)
    counter = Counter()
    reference(stochastic(x, U, 0.0, counter))
    assert 2 * x.size <= counter.spent <= 3 * x.size
    with pytest.raises(TooCostly):
        reference(stochastic(x, U, 0.0, Counter(x.size)))


def test_an_overflow_on_the_way_is_seen() -> None:
    reference = TorchReference(lambda x: (x * x).sqrt(), 1)
    (plain,), (small,) = (evaluate(reference, [np.array([1e3, 1.0])], r) for r in (Range(), Range(65504.0)))
    assert plain[0] == 1e3 and np.isinf(small[0]) and small[1] == 1


def test_numbers_are_numbers_in_every_arithmetic() -> None:
    """A Python number decides about shapes and branches, and is an operand that rounds where it multiplies."""

    def scaled(x: torch.Tensor, factor: float) -> torch.Tensor:
        return x * factor if factor > 0 else x

    reference = TorchReference(scaled, 2, numbers=[1])
    x = np.ones(3)
    assert list(reference(x, 0.1)) == [0.1] * 3
    assert np.array_equal(reference(x, np.float64(-1.0)), x)
    spreads = spread(reference, [x, 0.1], [U, 2.0**-53], 0.0, 1)[1]
    assert (spreads[0] > U / 10).all()


def test_an_integer_factor_does_not_round() -> None:
    """The tracer writes 2 as 2.0."""
    doubled, scaled = (
        spread(TorchReference(f, 1), [np.ones(999)], [U], 0.0, 1)[1][0] for f in (lambda x: 2 * x, lambda x: 2.1 * x)
    )
    assert (doubled == 2 * U * 2).all()  # the root of four block sizes, each ± 2 u
    assert (scaled / 2.1).mean() > 1.2 * (doubled / 2).mean()


@pytest.mark.parametrize(
    ("function", "shapes", "n"),
    [
        (lambda x, y: x @ y, [(2, 30, 7), (2, 7, 40)], 7),
        (lambda x: x.sum(), [(30, 7)], 210),
        (lambda x: x.mean(-1), [(30, 7)], 7),
        (lambda x: x.cumsum(0), [(30, 7)], 30),
        (lambda x, w: F.conv2d(x, w), [(1, 3, 9, 9), (5, 3, 2, 2)], 12),
        (lambda x, w: F.conv_transpose2d(x, w), [(1, 3, 9, 9), (3, 5, 2, 2)], 12),
        (lambda x, w, b: F.linear(x, w, b), [(30, 7), (5, 7), (5,)], 7),
        (lambda x: torch.fft.fft(x).real, [(3, 32)], 32),
        (lambda x: x.index_add(0, torch.tensor([0, 0]), x[1:]), [(3, 2)], 3),
        (lambda x: 2 * x + x.amax(), [(30, 7)], 1),
    ],
)
def test_the_longest_sum_is_read_off_the_graph(function: Callable[..., Any], shapes: Shapes, n: int) -> None:
    arrays = drawn(shapes)
    assert longest_sum(TorchReference(function, len(arrays)), arrays, [U] * len(arrays)) == n


def test_a_sum_of_exact_numbers_does_not_count() -> None:
    """A table in float64 beside float32 data is as good as exact."""
    table, x = np.linspace(0.1, 0.9, 50), np.ones(3)
    numpy_one = lambda t, x: np.cumprod(t)[[3, 4, 5]] * x  # noqa: E731
    torch_one = TorchReference(lambda t, x: t.cumprod(0)[3:6] * x, 2)
    for function in (numpy_one, torch_one):
        assert longest_sum(function, [table, x], [2.0**-53, U]) == 1
        assert longest_sum(function, [table, x], [U, U]) == 50


@pytest.mark.parametrize(
    ("function", "n"),
    [
        (lambda a, b: a @ b, 6),
        (lambda a, b: a.sum(), 30),
        (lambda a, b: a.mean(0), 5),
        (lambda a, b: np.cumsum(a, 0), 6),
        (lambda a, b: np.prod(a, axis=1), 6),
        (lambda a, b: 2 * a + np.max(b), 1),
    ],
)
def test_the_longest_sum_of_a_numpy_function_is_seen_as_it_runs(function: Callable[..., Any], n: int) -> None:
    assert longest_sum(function, [np.ones((5, 6)), np.ones((6, 4))], [U, U]) == n


def test_operators_that_round_nothing_do_not_round() -> None:
    """On numbers with a full mantissa bits are kept or exchanged."""
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((4, 4)))
    kept = set(x.flatten().abs().tolist()) | {0.0}
    for name in (
        "abs",
        "neg",
        "relu",
        "sgn",
        "flip",
        "roll",
        "t",
        "amax",
        "amin",
        "clone",
        "tril",
        "triu",
        "diagonal",
        "squeeze",
    ):
        assert name in operators.EXACT
        made = {"flip": lambda: x.flip(0), "roll": lambda: x.roll(1), "sgn": lambda: x.sgn() * x}.get(
            name, getattr(x, name)
        )()
        assert set(made.abs().flatten().tolist()) <= kept, name
    assert operators.EXACT.isdisjoint({*operators.PRODUCTS, *operators.SUMS, "add", "sub", "mul", "div", "exp", "lerp"})


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: x if x.sum() > 0 else -x, "looks at the values of its tensors"),
        (lambda x: x * x.max().item(), "looks at the values of its tensors"),
        (lambda x: x[x > 0], "looks at the values of its tensors"),
        (lambda x: F.dropout(x), "draws random numbers (aten.bernoulli.p)"),
        (lambda x: x + torch.rand(2, 3), "draws random numbers (aten.rand.default)"),
        (lambda x: [x], "returned list; it must return a tensor or a tuple of tensors"),
        (lambda x: (x, 1.0), "returned a tuple with float in it; it must return a tensor or a tuple of tensors"),
        (lambda x: x @ x, "raised RuntimeError on float64 tensors: "),
    ],
)
def test_what_cannot_be_a_reference_is_refused_in_a_sentence(
    function: Callable[..., Any], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Untraceable) as raised:
        TorchReference(function, 1)(np.ones((2, 3)))
    assert said in str(raised.value) and str(raised.value).startswith("the reference ")
    assert capfd.readouterr() == ("", ""), "torch's log says it a second time"


def test_a_cast_of_the_reference_rounds_nothing() -> None:
    """A kernel may have it elsewhere, or nowhere; to round is what the bound allows it."""
    (x,) = drawn([(3, 7)])
    cast, plain = TorchReference(lambda x: x.bfloat16().exp().to(x.dtype), 1), TorchReference(torch.exp, 1)
    assert np.array_equal(cast(x), plain(x))


def test_what_a_reference_detaches_has_no_gradient() -> None:
    x = np.array([1.0, 2.0])
    reference = TorchReference(lambda x: x.detach() * x + (x * x).detach(), 1)
    assert list(reference(x)) == [2.0, 8.0]
    assert list(reference.vjp(np.ones(2), x)[0]) == [1.0, 2.0]


def test_a_reference_that_writes_to_its_input_leaves_it_alone() -> None:
    x = np.ones(3)
    assert list(TorchReference(lambda x: x.mul_(2) + 1, 1)(x)) == [3.0] * 3
    assert list(x) == [1.0] * 3


def test_the_default_dtype_is_what_it_was() -> None:
    TorchReference(lambda x: x * torch.ones(3), 1)(np.ones(3))
    assert torch.get_default_dtype() == torch.float32
