"""Arguments that are masks, lists or of computed length, and outputs that are integers or truth values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from trueness.tools.arithmetic.bounds import bounds
from trueness.tools.arithmetic.formats import precision
from trueness.tools.arithmetic.noise import Noise
from trueness.tools.arithmetic.stochastic import stochastic
from trueness.tools.checks import CHECKS, contract, diagnosis
from trueness.tools.checks import value as check_value
from trueness.tools.checks.core import Failed, run, search
from trueness.tools.run.trial import Trial
from trueness.tools.run.variants import as_torch
from trueness.tools.spec import inputs
from trueness.tools.spec.inputs import Index, Made, Mask, Real, Scalar
from trueness.tools.spec.model import Bug, Case, Formula, Implementation, Verdict

DTYPES = ("float64", "float32", "float16", "bfloat16")
CONTRACT = [name for name, entry in CHECKS.items() if entry.function.__module__ == contract.__name__]
LARGE = 100_000  # beyond float16's largest number, and no number of bfloat16's


def formula(reference: Callable[..., Any], *arguments: Any, **fields: Any) -> Formula:
    fields = {"no_gradient": "integers", "equation": "=", "source": "here", **fields}
    return Formula("made.up", reference, arguments=arguments, **fields)


def trial(made: Formula, function: Callable[..., Any], dtype: str = "float32", framework: Any = "torch") -> Trial:
    implementation = Implementation("mine", lambda: function, framework, limit="eager")
    return Trial(made, implementation, dtype, examples=10)


def reference_trial(made: Formula, dtype: str = "float64", *bugs: Bug) -> Trial:
    implementation = Implementation("reference", lambda: made.reference, "numpy", claims=frozenset({"reference"}))
    data = {b.id: b.discriminating_input for b in bugs if b.discriminating_input is not None}
    return Trial(made, implementation, dtype, bugs=bugs, data=data, examples=10)


def bug(variant: Callable[..., Any], discriminating_input: Any) -> Bug:
    text: Any = dict.fromkeys(("title", "document", "claim", "source", "finding", "evidence"), "here")
    return Bug(
        "FSB-99", "made.up", verdict="no bug", variant=variant, discriminating_input=discriminating_input, **text
    )


def verdict(name: str, on: Trial) -> Verdict:
    return run(CHECKS[name], on)


# -- arguments --------------------------------------------------------------------------------------------------------


def test_a_mask_is_true_as_often_as_its_density_says() -> None:
    n, density = 4096, 0.25
    mask = Mask("mask", dims=("n",), density=density).build(Case(sizes={"n": n}), np.random.default_rng(0))
    assert mask.dtype == bool and mask.shape == (n,)
    assert abs(mask.sum() - n * density) < 5 * np.sqrt(n * density * (1 - density))
    for edge in (0.0, 1.0):
        drawn = Mask("mask", dims=("n",), density=edge).build(Case(sizes={"n": n}), np.random.default_rng(0))
        assert (drawn == bool(edge)).all()


def test_a_computed_length_follows_sizes_and_scalars() -> None:
    window = Real("x", dims=("B", lambda known: known["w"] ** 2 * known["k"]), spans={"w": (2, 3)})
    case = Case(sizes={"B": 2, "w": 3}, scalars={"k": 4})
    assert window.build(case, np.random.default_rng(0)).shape == (2, 36)
    assert window.symbols() == {"B": (1, 8), "w": (2, 3)}
    for kind in (Index("x", dims=window.dims, below=5), Mask("x", dims=window.dims)):
        assert np.shape(kind.build(case, np.random.default_rng(0))) == (2, 36)
    assert inputs.dims_text(window) == "B, ·"


def test_every_drawn_case_has_the_symbols_that_only_functions_mention() -> None:
    made = formula(
        lambda x, k: x.sum(-1),
        Real("x", dims=(lambda known: 2 * known["w"] + known["k"],), spans={"w": (1, 3)}),
        Scalar("k", st.integers(0, 2)),
    )
    seen = set()

    def body(case: Case) -> None:
        x, k = inputs.values(made, case, "float32")
        assert x.shape == (2 * case.sizes["w"] + k,)
        seen.add((case.sizes["w"], k))

    assert search(reference_trial(made), body) == 10
    assert len(seen) > 1


def lists(known: Mapping[str, Any], generator: np.random.Generator) -> list[np.ndarray]:
    return [generator.integers(1, 9, n) for n in generator.integers(0, 4, known["B"])]


LENGTHS = formula(
    lambda items: np.array([len(x) for x in items], dtype=np.int64),
    Made("items", make=lists, spans={"B": (0, 4)}),
    outputs=("int64",),
)


def torch_lengths(items: list[torch.Tensor]) -> torch.Tensor:
    return torch.tensor([len(x) for x in items], dtype=torch.int64)


def test_a_list_is_the_same_list_for_the_same_case_and_reaches_torch_item_by_item() -> None:
    case = Case(sizes={"B": 4}, seed=3)
    first, again = (inputs.values(LENGTHS, case, "float16")[0] for _ in range(2))
    assert [x.tolist() for x in first] == [x.tolist() for x in again]
    natives = trial(LENGTHS, torch_lengths).arguments([first])[0]
    assert isinstance(natives, list) and all(x.dtype == torch.int64 for x in natives)


def test_an_array_that_is_made_arrives_as_a_tensor_in_its_own_dtype() -> None:
    argument = Made("labels", make=lambda known, generator: generator.integers(0, 3, known["n"]), array=True)
    made = formula(lambda labels: labels, argument, outputs=("int64",))
    value = inputs.values(made, Case(sizes={"n": 5}), "bfloat16")
    assert argument.tensor and not argument.real and not argument.differentiable
    assert trial(made, lambda labels: labels).arguments(value)[0].dtype == torch.int64


# -- outputs ----------------------------------------------------------------------------------------------------------

COUNTED = formula(
    lambda n, mask: (np.arange(n) + LARGE, ~mask),
    Scalar("n", st.integers(1, 6)),
    Mask("mask", dims=("k",)),
    outputs=("int64", "bool"),
)


@pytest.mark.parametrize("dtype", DTYPES)
def test_integers_and_truth_values_are_judged_to_the_last_one_in_every_dtype(dtype: str) -> None:
    def right(n: int, mask: torch.Tensor) -> Any:
        return torch.arange(n) + LARGE, ~mask

    assert verdict("value", trial(COUNTED, right, dtype))
    for at, wrong in enumerate(
        (lambda n, mask: (torch.arange(n) + LARGE + 1, ~mask), lambda n, mask: (torch.arange(n) + LARGE, mask.clone()))
    ):
        found = verdict("value", trial(COUNTED, wrong, dtype))
        assert not found and found.T == np.inf and found.output == at


def test_an_integer_that_comes_back_as_a_float_is_named() -> None:
    found = verdict("value", trial(COUNTED, lambda n, mask: ((torch.arange(n) + LARGE).float(), ~mask)))
    assert not found and "returned dtype float32 where int64 belongs" in found.message


def test_only_what_tips_a_comparison_moves_a_count() -> None:
    def count(x: Any) -> Any:
        return np.sum(x * 3 > 3)

    fmt = precision("float32")
    far, near = (bounds(count, [np.array([2.0, x])], [fmt.u], fmt, 1, [True])[0] for x in (0.0, 1.0))
    assert far.B == 0 and near.B > 0
    assert bounds(count, [np.array([2.0, 0.0])], [fmt.u], fmt, 1)[0].B > 0


@pytest.mark.parametrize("name", CONTRACT)
def test_the_contract_holds_for_lists_in_and_integers_out(name: str) -> None:
    assert verdict(name, trial(LENGTHS, torch_lengths)), verdict(name, trial(LENGTHS, torch_lengths)).message


@pytest.mark.parametrize("name", CONTRACT)
def test_the_contract_holds_for_masks_in_and_out(name: str) -> None:
    found = verdict(name, trial(COUNTED, lambda n, mask: (torch.arange(n) + LARGE, ~mask)))
    assert found, found.message


FIRST = formula(
    lambda items: items[0] + 0, Made("items", make=lambda known, g: [g.integers(0, 9, 5)]), outputs=("int64",)
)


def test_writing_to_an_item_of_a_list_is_seen() -> None:
    def writes(items: list[torch.Tensor]) -> torch.Tensor:
        return items[0].add_(0).clone().add_(items[0].zero_())

    assert not verdict("inputs unchanged", trial(FIRST, writes))
    assert verdict("inputs unchanged", trial(FIRST, lambda items: items[0].clone()))


def test_returning_an_item_of_a_list_is_seen() -> None:
    assert not verdict("no aliasing", trial(FIRST, lambda items: items[0]))
    assert verdict("no aliasing", trial(FIRST, lambda items: items[0].clone()))


def test_a_bool_allocation_has_red_zones_of_its_own_kind() -> None:
    def through_empty(n: int, mask: torch.Tensor) -> Any:
        flipped = torch.empty(mask.shape, dtype=torch.bool)
        flipped[...] = ~mask
        return torch.arange(n) + LARGE, flipped

    def beyond(n: int, mask: torch.Tensor) -> Any:
        numbers, flipped = through_empty(n, mask)
        flipped.as_strided((1,), (1,), flipped.storage_offset() + flipped.numel())[...] = False
        return numbers, flipped

    assert verdict("red zones", trial(COUNTED, through_empty))
    assert not verdict("red zones", trial(COUNTED, beyond))


def test_a_row_that_is_given_keys_keeps_what_an_axis_repeats() -> None:
    masked = formula(lambda mask: np.where(mask, 1.0, 0.0), Mask("mask", dims=("N", "J")))
    for mask in (np.zeros((2, 3), bool), np.array([[False, False], [True, False]])):
        (found,) = inputs.with_keys(masked, [mask])
        assert found.any(-1).all() and (found[mask.any(-1)] == mask[mask.any(-1)]).all()
        for axis in (0, 1):
            repeated = (mask == mask.take([0], axis)).all()
            assert not repeated or (found == found.take([0], axis)).all()


def test_an_allocation_of_records_has_red_zones_too() -> None:
    """As in scikit-learn, whose heaps are arrays of records."""

    def through_records(x: np.ndarray, over: int = 0) -> np.ndarray:
        heap = np.empty(x.size, [("key", "f8"), ("at", "i8")])
        for at in range(x.size + over):
            np.lib.stride_tricks.as_strided(heap, (x.size + over,))[at] = (x.flat[min(at, x.size - 1)], at)
        return heap["key"].astype(x.dtype).reshape(x.shape)

    double = formula(lambda x: x + 0, Real("x"))
    assert verdict("red zones", trial(double, through_records, framework="numpy"))
    assert not verdict("red zones", trial(double, lambda x: through_records(x, 1), framework="numpy"))


def test_a_callable_that_creates_integers_is_told_the_device_but_no_dtype() -> None:
    made = formula(lambda n: np.arange(n), Scalar("n", st.integers(0, 5)), outputs=("int64",), creates=True)

    def arange(n: int, *, device: str) -> torch.Tensor:
        return torch.arange(n, device=device)

    assert trial(made, arange).keywords() == {"device": "cpu"}
    assert trial(made, np.arange, framework="numpy").keywords() == {}
    assert verdict("value", trial(made, arange))


def test_the_message_about_a_list_shows_it() -> None:
    found = verdict("value", trial(LENGTHS, lambda items: torch_lengths(items) + 1))
    assert not found and "items = [array([" in found.message


# -- the reference ----------------------------------------------------------------------------------------------------


def test_the_ball_certificate_takes_integers_as_exact() -> None:
    found = verdict("ball certificate", reference_trial(LENGTHS))
    assert found and found.message == "integers: nothing is rounded"
    mixed = formula(
        lambda x: (x * x, np.sum(x > 0)), Real("x", dims=("n",)), outputs=("dtype", "int64"), no_gradient="a test"
    )
    found = verdict("ball certificate", reference_trial(mixed))
    assert found and "digits certified" in found.message


def test_the_ball_certificate_sees_a_count_that_float64_gets_wrong() -> None:
    tipped = formula(lambda x: np.sum((x + 1e30) - 1e30 > 0), Real("x", dims=("n",), positive=True), outputs=("int64",))
    with pytest.raises((Failed, ArithmeticError)):
        CHECKS["ball certificate"].function(reference_trial(tipped))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_variant_with_more_rows_dies_and_is_named(dtype: str) -> None:
    wrong = bug(lambda items: np.array([len(x) for x in items if len(x)], dtype=np.int64), ([np.ones(2), np.ones(0)],))
    found = verdict("known bugs", reference_trial(LENGTHS, dtype, wrong))
    assert found and dict(found.detections)[wrong.id] == np.inf
    assert wrong.variant is not None and wrong.discriminating_input is not None
    standing = trial(LENGTHS, as_torch(wrong.variant, LENGTHS), dtype)
    standing.bugs, standing.data = (wrong,), {wrong.id: wrong.discriminating_input}
    assert diagnosis.behaves_like(standing, verdict("value", standing)) == [wrong.id]


def test_a_variant_that_is_undefined_somewhere_is_judged_where_it_is_defined() -> None:
    longest = bug(lambda items: np.full(len(items), max(len(x) for x in items)), ([np.ones(2), np.ones(1)],))
    never = bug(lambda items: np.array([len(x) for x in items] + [max(())]), ([np.ones(1)],))
    assert dict(verdict("known bugs", reference_trial(LENGTHS, "float64", longest)).detections)[longest.id] == np.inf
    assert not verdict("known bugs", reference_trial(LENGTHS, "float64", never))


def test_the_integers_of_a_variant_are_not_rounded_to_the_dtype() -> None:
    same = bug(COUNTED.reference, (3, np.array([True])))
    found = verdict("known bugs", reference_trial(COUNTED, "bfloat16", same))
    assert not found and dict(found.detections)[same.id] == 0


def test_the_gradient_of_a_value_beside_a_count_is_judged() -> None:
    def both(x: Any) -> Any:
        return (x * x).sum(), (x > 0).sum()

    made = formula(
        both,
        Real("x", dims=("n",)),
        outputs=("dtype", "int64"),
        vjp=lambda value, count, x: 2 * value * x,
        reduction=lambda sizes: sizes["n"],
    )
    right = Trial(made, Implementation("mine", lambda: both, claims=frozenset({"gradient"})), "float32", examples=10)
    assert verdict("gradient", right) and verdict("complex-step certificate", reference_trial(made))
    wrong = Implementation("mine", lambda: lambda x: ((x * x.detach()).sum(), (x > 0).sum()))
    found = check_value.gradient(Trial(made, wrong, "float32", examples=10))
    assert not found and found.check == "gradient"


# -- decompositions ---------------------------------------------------------------------------------------------------


def test_a_decomposition_is_taken_of_a_matrix_within_u_of_its_norm() -> None:
    a, u = np.diag([1.0, 0.0]), 2.0**-24
    moved = stochastic(a, u, 0.0, Noise(0)).stable()
    assert (np.abs(moved - a) == u).all(), "zeros move too: an error of a decomposition scales with the whole matrix"
    assert np.array_equal(stochastic(a, 0.0, 0.0, Noise(0)).stable(), a)


@pytest.mark.parametrize("routine", [np.linalg.eigh, lambda a: np.linalg.svd(a, compute_uv=False)])
def test_eigenvalues_and_singular_values_move_by_no_more_than_the_norm_allows(routine: Any) -> None:
    """Weyl: |λ(A + E) − λ(A)| ≤ ‖E‖₂ ≤ n u ‖A‖_F; and float64's own rounding is far below float32's u."""
    generator, u = np.random.default_rng(0), 2.0**-24
    a = generator.standard_normal((4, 4))
    a = a + a.T

    def first(x: Any) -> Any:
        return routine(x)[0] if isinstance(routine(x), tuple) else routine(x)

    exact = np.asarray(first(a))
    found = [np.asarray(first(stochastic(a, u, 0.0, Noise(seed)))) for seed in range(20)]
    worst = max(np.abs(x - exact).max() for x in found)
    assert 0 < worst <= 4 * u * np.linalg.norm(a) * (1 + u)
    assert np.asarray(first(stochastic(a, 0.0, 0.0, Noise(0)))).tobytes() == exact.tobytes()


def test_ties_make_an_argument_equal_to_its_noise_and_leave_the_noise_what_it_is() -> None:
    def loss(prediction: Any, noise: Any, share: Any) -> Any:
        return prediction - noise + 0 * share

    arguments = (Real("prediction"), Real("noise", unit_scale=True), Real("share", domain=(0.0, 1.0), positive=True))
    formula = Formula("made.loss", loss, "=", "here", arguments, no_gradient="not at stake")
    plain, tied = (
        inputs.values(formula, Case(sizes={"...": (4,)}, ties=ties), "float64") for ties in ("", "arguments")
    )
    assert np.array_equal(tied[0], plain[1])
    assert np.array_equal(tied[1], plain[1])
