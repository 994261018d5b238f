"""Laws of LoRA, on the reference, on the optimized version and on peers; its noise exactly, over all masks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from trueness.optimized import adapters as fast
from trueness.properties import adapters as declared
from trueness.reference import adapters as true
from trueness.tools.arithmetic.bounds import LIMITS, bounds
from trueness.tools.arithmetic.formats import precision
from trueness.tools.checks.core import settings_for

F64 = precision("float64")
FORMULAS = {formula.name: formula for formula in declared.FORMULAS}
lora, merge, unmerge = (FORMULAS[f"adapters.{name}"].reference for name in ("lora", "merge", "unmerge"))  # positional
seeds = st.integers(0, 2**16)
alphas, shares = st.floats(0.5, 32), st.sampled_from((0.0, 0.1, 0.5, 0.9))


def given(**strategies: Any) -> Callable[[Any], Any]:
    """As everywhere in the project: derandomized, without a clock."""
    return lambda law: settings_for(30)(hypothesis.given(**strategies)(law))


def ours(name: str) -> Callable[..., np.ndarray]:
    function = FORMULAS[f"adapters.{name}"].bind(getattr(fast, name))

    def call(*arguments: Any) -> np.ndarray:
        natives = [torch.from_numpy(np.array(a)) if isinstance(a, np.ndarray) else a for a in arguments]
        return function(*natives).numpy()  # type: ignore[no-any-return]

    return call


def both(name: str) -> Any:
    return pytest.mark.parametrize(
        "function", [FORMULAS[f"adapters.{name}"].reference, ours(name)], ids=["reference", "ours"]
    )


def drawn(seed: int, batch: tuple[int, ...] = (4,)) -> list[np.ndarray]:
    """x, W_0, A, B of r = 2, in = 5, out = 3, and a mask."""
    generator = np.random.default_rng(seed)
    return [generator.standard_normal(s) for s in ((*batch, 5), (3, 5), (2, 5), (3, 2))] + [
        generator.random((*batch, 5)) < 0.7
    ]


def rounding(function: Callable[..., Any], *arguments: Any, reduction: int = 8) -> np.ndarray:
    units = [F64.u if isinstance(a, float) or np.asarray(a).dtype.kind == "f" else 0.0 for a in arguments]
    return LIMITS["eager"] * bounds(function, list(arguments), units, F64, reduction)[0].B  # type: ignore[no-any-return]


def close(left: Any, right: Any, *allowed: Any) -> bool:
    return bool((np.abs(left - right) <= sum(allowed)).all())


@both("lora")
@given(seed=seeds, alpha=alphas)
def test_with_nothing_dropped_the_layer_is_its_merged_matrix(function: Any, seed: int, alpha: float) -> None:
    x, weight, lora_A, lora_B, mask = drawn(seed)
    arguments = (x, weight, lora_A, lora_B, np.ones_like(mask), alpha, 0.0)
    merged = merge(weight, lora_A, lora_B, alpha)
    allowed = np.abs(x) @ rounding(merge, weight, lora_A, lora_B, alpha).T
    assert close(function(*arguments), x @ merged.T, rounding(lora, *arguments), allowed)


@both("lora")
@given(seed=seeds, alpha=alphas, p=shares)
def test_a_new_adapter_adds_nothing_whatever_the_mask(function: Any, seed: int, alpha: float, p: float) -> None:
    """B = 0."""
    x, weight, lora_A, lora_B, mask = drawn(seed)
    got = function(x, weight, lora_A, 0 * lora_B, mask, alpha, p)
    assert close(got, x @ weight.T, rounding(lora, x, weight, lora_A, 0 * lora_B, mask, alpha, p))


@both("lora")
@given(seed=seeds, alpha=alphas, p=shares)
def test_what_is_dropped_reaches_the_frozen_path_alone(function: Any, seed: int, alpha: float, p: float) -> None:
    x, weight, lora_A, lora_B, mask = drawn(seed)
    moved = np.where(mask, x, x + 1)
    arguments = (weight, lora_A, lora_B, mask, alpha, p)
    change = function(moved, *arguments) - function(x, *arguments)
    allowed = [rounding(lora, v, *arguments) for v in (x, moved)]
    assert close(change, (moved - x) @ weight.T, *allowed, 8 * F64.u * np.abs(moved) @ np.abs(weight).T)


@both("lora")
@given(seed=seeds, alpha=alphas, p=shares)
def test_the_adapters_change_lies_in_the_columns_of_b(function: Any, seed: int, alpha: float, p: float) -> None:
    """Whatever the mask: the direction orthogonal to both columns of B is untouched."""
    x, weight, lora_A, lora_B, mask = drawn(seed)
    normal = np.cross(lora_B[:, 0], lora_B[:, 1])
    arguments = (x, weight, lora_A, lora_B, mask, alpha, p)
    change = (function(*arguments) - x @ weight.T) @ normal
    size = np.abs(function(*arguments) - x @ weight.T) @ (np.abs(normal) + np.abs(lora_B).max() ** 2)
    allowed = (rounding(lora, *arguments) + 8 * F64.u * np.abs(x) @ np.abs(weight).T) @ np.abs(normal)
    assert close(change, 0, allowed, 8 * F64.u * size)


@both("lora")
@given(seed=seeds, alpha=alphas, p=shares)
def test_rows_do_not_see_each_other(function: Any, seed: int, alpha: float, p: float) -> None:
    x, weight, lora_A, lora_B, mask = drawn(seed, (2, 3))
    whole = function(x, weight, lora_A, lora_B, mask, alpha, p)
    assert whole.shape == (2, 3, 3)
    alone = function(x[1, 2], weight, lora_A, lora_B, mask[1, 2], alpha, p)
    allowed = rounding(lora, x, weight, lora_A, lora_B, mask, alpha, p)[1, 2]
    assert close(whole[1, 2], alone, allowed, rounding(lora, x[1, 2], weight, lora_A, lora_B, mask[1, 2], alpha, p))


@both("unmerge")
@given(seed=seeds, alpha=alphas)
def test_unmerging_gives_the_frozen_weight_back_but_for_two_additions(function: Any, seed: int, alpha: float) -> None:
    """Both compute the same Δ; the sum and the difference round once each, to u of what they are."""
    _, weight, lora_A, lora_B, _ = drawn(seed)
    add = merge if function is unmerge else ours("merge")
    merged = add(weight, lora_A, lora_B, alpha)
    back = function(merged, lora_A, lora_B, alpha)
    assert close(back, weight, F64.u * (np.abs(merged) + np.abs(back)))


# -- the noise, exactly -----------------------------------------------------------------------------------------------


def fractions(*rows: tuple[int, ...]) -> np.ndarray:
    return np.array([[Fraction(v, 4) for v in row] for row in rows])


X = fractions((3, -2, 5))[0]
WEIGHT = fractions((1, 2, -4), (0, 3, 1), (2, -1, 6))
LORA_A = fractions((4, -8, 2), (1, 5, -3))
LORA_B = fractions((2, -1), (3, 4), (-2, 6))
ALPHA = Fraction(3)


def place_input(keep: np.ndarray, p: Fraction) -> np.ndarray:
    """The reference itself, on rational numbers."""
    return lora(X, WEIGHT, LORA_A, LORA_B, keep, ALPHA, p)  # type: ignore[no-any-return]


def place_middle(keep: np.ndarray, p: Fraction) -> np.ndarray:
    adapter = np.where(keep, (X @ LORA_A.T) / (1 - p), 0) @ LORA_B.T
    return X @ WEIGHT.T + adapter * (ALPHA / 2)  # type: ignore[no-any-return]


def place_output(keep: np.ndarray, p: Fraction) -> np.ndarray:
    adapter = np.where(keep, (X @ LORA_A.T @ LORA_B.T) / (1 - p), 0)
    return X @ WEIGHT.T + adapter * (ALPHA / 2)  # type: ignore[no-any-return]


def moments(place: Any, width: int, p: Fraction) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance over all 2^width masks, each with its probability: no sampling, no rounding."""
    outcomes = []
    for bits in itertools.product((True, False), repeat=width):
        probability = math.prod(((1 - p) if b else p) for b in bits)
        outcomes.append((probability, place(np.array(bits), p)))
    mean = sum(q * h for q, h in outcomes)
    return mean, sum(q * np.multiply.outer(h - mean, h - mean) for q, h in outcomes)


M = LORA_B @ LORA_A * (ALPHA / 2)
S_B = LORA_B * (ALPHA / 2)
ZERO = np.array([Fraction(0)] * 3)


def diagonal(v: np.ndarray) -> np.ndarray:
    return np.array([[a if i == j else Fraction(0) for j in range(len(v))] for i, a in enumerate(v)])


PLACES = {
    "input": (place_input, 3, lambda: M @ diagonal(X**2) @ M.T),
    "middle": (place_middle, 2, lambda: S_B @ diagonal((LORA_A @ X) ** 2) @ S_B.T),
    "output": (place_output, 3, lambda: diagonal((M @ X) ** 2)),
}


@pytest.mark.parametrize("p", [Fraction(1, 10), Fraction(1, 2), Fraction(3, 4)], ids=str)
@pytest.mark.parametrize("place", PLACES)
def test_the_noise_of_dropout_has_its_mean_and_covariance_exactly(place: str, p: Fraction) -> None:
    """q = p/(1 − p): input q M diag(x²) Mᵀ, middle q (sB) diag((A x)²) (sB)ᵀ, output q diag((M x)²); equal means."""
    function, width, covariance = PLACES[place]
    mean, found = moments(function, width, p)
    assert (mean == X @ (WEIGHT + M).T).all(), "so a test of means cannot tell the three apart"
    assert (found == covariance() * (p / (1 - p))).all()


def test_output_noise_is_uncorrelated_and_leaves_the_columns_of_b() -> None:
    p = Fraction(1, 2)
    normal = np.array(
        [
            LORA_B[1, 0] * LORA_B[2, 1] - LORA_B[2, 0] * LORA_B[1, 1],
            LORA_B[2, 0] * LORA_B[0, 1] - LORA_B[0, 0] * LORA_B[2, 1],
            LORA_B[0, 0] * LORA_B[1, 1] - LORA_B[1, 0] * LORA_B[0, 1],
        ]
    )
    assert (normal @ LORA_B == 0).all()
    covariance = {name: moments(function, width, p)[1] for name, (function, width, _) in PLACES.items()}
    across = {name: c[0, 1] for name, c in covariance.items()}
    assert across["output"] == 0 != across["input"]
    outside = {name: normal @ c @ normal for name, c in covariance.items()}
    assert outside["input"] == outside["middle"] == 0 < outside["output"]


@pytest.mark.parametrize("place", PLACES)
def test_every_sampled_map_has_at_most_the_rank_of_the_adapter(place: str) -> None:
    """So 'preserves the low-rank factorization' is true of all three, and decides nothing. Exact 3 × 3 determinants."""
    p = Fraction(1, 2)
    width = PLACES[place][1]
    for bits in itertools.product((True, False), repeat=width):
        keep = diagonal(np.array([Fraction(b) / (1 - p) for b in bits]))
        maps = {"input": lambda k: M @ k, "middle": lambda k: S_B @ k @ LORA_A, "output": lambda k: k @ M}
        assert determinant(maps[place](keep)) == 0


def determinant(m: np.ndarray) -> Fraction:
    return (  # type: ignore[no-any-return]
        m[0, 0] * (m[1, 1] * m[2, 2] - m[1, 2] * m[2, 1])
        - m[0, 1] * (m[1, 0] * m[2, 2] - m[1, 2] * m[2, 0])
        + m[0, 2] * (m[1, 0] * m[2, 1] - m[1, 1] * m[2, 0])
    )


# -- the layer --------------------------------------------------------------------------------------------------------


def layer(p: float = 0.5, dtype: torch.dtype = torch.float64) -> fast.LoRALinear:
    torch.manual_seed(0)
    made = fast.LoRALinear(torch.nn.Linear(6, 4, dtype=dtype), r=2, alpha=8, p=p)
    torch.nn.init.normal_(made.lora_B)
    return made


def test_a_new_layer_is_the_layer_it_wraps_and_only_its_factors_are_trained() -> None:
    base = torch.nn.Linear(6, 4)
    made = fast.LoRALinear(base, r=2, alpha=8)
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    u = precision("float32").u
    tolerance = 2 * 7 * u * (x.abs() @ base.weight.abs().T + base.bias.abs())
    assert ((made(x) - base(x)).abs() <= tolerance).all()
    assert [n for n, q in made.named_parameters() if q.requires_grad] == ["lora_A", "lora_B"]
    limit = math.sqrt(6 / ((1 + 5) * 6))  # kaiming, a = √5: √(6/((1 + a²) fan_in))
    assert made.lora_A.abs().max() <= limit * (1 + u) and made.lora_A.abs().max() > limit / 2
    assert (made.lora_B == 0).all()


def test_merging_changes_no_stored_bit_and_unmerging_no_result() -> None:
    made = layer().eval()
    x = torch.randn(5, 6, dtype=torch.float64)
    before, state = made(x), {k: v.clone() for k, v in made.state_dict().items()}
    for _ in range(3):
        made.merge()
        assert made.merged
        arguments = [v.detach().numpy() for v in (x, made.base.weight, made.lora_A, made.lora_B)]
        allowed = rounding(lora, *arguments, np.ones((5, 6), bool), 8.0, 0.0)
        assert close(made(x).detach().numpy(), before.detach().numpy(), 2 * allowed + 4 * F64.u)
        made.unmerge()
    assert torch.equal(made(x), before)
    assert all(torch.equal(v, state[k]) for k, v in made.state_dict().items())


def test_a_merged_layer_can_be_moved_and_saved_like_any_other() -> None:
    made = layer().eval()
    made.merge()
    x = torch.randn(5, 6, dtype=torch.float64)
    wide = made(x)
    moved = made.to(torch.float32)(x.float()).double()
    tolerance = 16 * precision("float32").u * (x.abs() @ made.base.weight.double().abs().T + 32 * wide.abs().max())
    assert ((moved - wide).abs() <= tolerance).all()
    assert sorted(made.state_dict()) == ["base.bias", "base.weight", "lora_A", "lora_B"]


def test_merging_and_unmerging_the_weight_itself_drifts() -> None:
    """As peft and loralib do it: after a few hundred evaluations in float16 the frozen weight is another one."""
    weight, lora_A, lora_B = (
        torch.randn(s, generator=torch.Generator().manual_seed(0)) for s in ((8, 8), (2, 8), (8, 2))
    )
    half = [v.half() for v in (weight, lora_A, lora_B)]
    moved = half[0].clone()
    for _ in range(300):
        moved = fast.unmerge(fast.merge(moved, half[1], half[2], alpha=8.0), half[1], half[2], alpha=8.0)
    assert not torch.equal(moved, half[0])


def test_without_a_mask_nothing_is_dropped_and_alpha_is_one_as_in_loralib() -> None:
    x, weight, lora_A, lora_B, mask = drawn(0)
    natives = [torch.from_numpy(v) for v in (x, weight, lora_A, lora_B)]
    kept = torch.ones(4, 5, dtype=torch.bool)
    assert torch.equal(fast.lora(*natives), fast.lora(*natives, mask=kept, alpha=1.0, p=0.0))
    assert np.array_equal(
        true.lora(x, weight, lora_A, lora_B), lora(x, weight, lora_A, lora_B, np.ones_like(mask), 1.0, 0.0)
    )
    layers = pytest.importorskip("loralib.layers")
    assert layers.Linear(2, 2, r=2).lora_alpha == fast.LoRALinear(torch.nn.Linear(2, 2), r=2).alpha == 1


def test_in_training_the_layer_is_the_equation_with_its_mask() -> None:
    made = layer()
    x = torch.randn(5, 6, dtype=torch.float64)
    mask = torch.rand(5, 6) < 0.5
    want = fast.lora(x, made.base.weight, made.lora_A, made.lora_B, mask=mask, alpha=8.0, p=0.5) + made.base.bias
    assert torch.equal(made(x, mask), want)
    torch.manual_seed(3)
    drawn_once = made(x)
    torch.manual_seed(3)
    assert torch.equal(made(x), drawn_once)
    assert not torch.equal(made(x), drawn_once)
    assert torch.equal(made.eval()(x), made(x))


def test_the_layer_drops_the_share_it_was_told_to() -> None:
    """Of n zeros n p are expected, with standard deviation √(n p (1 − p))."""
    made = fast.LoRALinear(torch.nn.Linear(1, 1, bias=False, dtype=torch.float64), r=1, alpha=1, p=0.3)
    with torch.no_grad():
        made.base.weight.zero_(), made.lora_A.fill_(1), made.lora_B.fill_(1)
    n = 100_000
    torch.manual_seed(0)
    h = made(torch.ones(n, 1, dtype=torch.float64))
    assert set(h.flatten().tolist()) == {0.0, 1 / (1 - 0.3)}
    assert abs(int((h == 0).sum()) - n * 0.3) <= 5 * math.sqrt(n * 0.3 * 0.7)


@pytest.mark.parametrize("p", [0.0, 0.5])
def test_the_layers_gradients_are_those_of_the_equation(p: float) -> None:
    made = layer(p)
    x = torch.randn(5, 6, dtype=torch.float64)
    mask = torch.rand(5, 6) < 0.5 if p else torch.ones(5, 6, dtype=torch.bool)
    made(x, mask if p else None).sum().backward()
    values = [v.detach().numpy() for v in (x, made.base.weight, made.lora_A, made.lora_B)]
    arguments = [np.ones((5, 4)), *values, mask.numpy(), 8.0, p]
    units = [F64.u] * 5 + [0.0, F64.u, F64.u]
    allowed = [LIMITS["eager"] * b.B for b in bounds(true.lora_vjp, arguments, units, F64, 30)]
    for found, want, tolerance in zip(
        (made.lora_A.grad, made.lora_B.grad), true.lora_vjp(*arguments)[2:], allowed[2:], strict=True
    ):
        assert found is not None and close(found.numpy(), want, tolerance)
    assert made.base.weight.grad is None


@pytest.mark.parametrize("call", [declared.peft_forward, declared.loralib_forward], ids=["peft", "loralib"])
@given(seed=seeds, p=st.sampled_from((0.1, 0.5)))
def test_peers_drop_the_adapters_input_too(call: Any, seed: int, p: float) -> None:
    """In float64: both are the reference, and neither of the two other placements."""
    values = drawn(seed)
    x, weight, lora_A, lora_B, mask = (torch.from_numpy(v).clone() for v in values)
    if call is declared.loralib_forward:  # makes its layer in float32
        torch.set_default_dtype(torch.float64)
    try:
        found = call(x, weight, lora_A, lora_B, mask, 8.0, p).numpy()
    finally:
        torch.set_default_dtype(torch.float32)
    assert close(found, lora(*values, 8.0, p), rounding(lora, *values, 8.0, p))


# -- adapting a model -------------------------------------------------------------------------------------------------


def network() -> torch.nn.Module:
    block = torch.nn.ModuleDict({"query": torch.nn.Linear(4, 4), "value": torch.nn.Linear(4, 4)})
    return torch.nn.ModuleDict({"first": block, "head": torch.nn.Linear(4, 2)})


def test_the_layers_that_are_named_are_adapted_and_no_others() -> None:
    model = network()
    assert fast.adapt(model, ["query", "head"], r=1, alpha=2) == ["first.query", "head"]
    kinds = {
        name: type(m).__name__ for name, m in model.named_modules() if name in ("first.query", "first.value", "head")
    }
    assert kinds == {"first.query": "LoRALinear", "first.value": "Linear", "head": "LoRALinear"}
    with pytest.raises(ValueError, match="names had 'key'"):
        fast.adapt(network(), ["query", "key"], r=1, alpha=2)


EYE, ROW = torch.eye(3), torch.ones(1, 3)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: fast.lora(ROW, EYE, ROW, ROW, mask=ROW.bool(), alpha=1.0, p=0.0),
            r"lora_B had shape \(1, 3\); it must be \(3, 1\)",
        ),
        (
            lambda: fast.lora(ROW, EYE, EYE[:, :2], EYE, mask=ROW.bool(), alpha=1.0, p=0.0),
            "lora_A had 2 columns; it must have 3",
        ),
        (lambda: fast.lora(ROW[:, :2], EYE, ROW, ROW.T, mask=ROW.bool()), r"x had shape \(1, 2\)"),
        (lambda: fast.lora(ROW, EYE, ROW, ROW.T, mask=ROW), r"mask was \(1, 3\) torch.float32"),
        (
            lambda: fast.lora(ROW, EYE, ROW, ROW.T, mask=ROW.bool(), alpha=1.0, p=1.0),
            r"p was 1.0; it must be a number in \[0, 1\)",
        ),
        (lambda: fast.lora(ROW, EYE, ROW, ROW.T, mask=ROW.bool(), alpha=math.nan), "alpha was nan"),
        (lambda: fast.lora(ROW, EYE, ROW, ROW.T, p=0.5), "p was 0.5 without a mask"),
        (lambda: fast.merge(EYE, ROW[:0], ROW.T[:, :0]), "lora_A had rank 0"),
        (lambda: fast.unmerge(EYE, ROW[0], ROW.T), r"lora_A had shape \(3,\); it must have two axes"),
        (lambda: fast.LoRALinear(torch.nn.Conv1d(1, 1, 1), 1), "base was Conv1d"),  # type: ignore[arg-type]
        (lambda: fast.LoRALinear(torch.nn.Linear(2, 2), 0), "r was 0"),
        (lambda: fast.LoRALinear(torch.nn.Linear(2, 2), 1, p=1.0), "p was 1.0"),
        (lambda: fast.LoRALinear(torch.nn.Linear(3, 2), 1)(ROW, ROW.bool()), "mask was given, but nothing"),
        (lambda: fast.adapt(network(), [], 1), "names was empty"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(call: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()
