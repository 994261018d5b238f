"""Evidence for MEM-11, MEM-12 and MEM-15 … MEM-23: what is stored, what is lost, and what a batch looks like."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from trueness.optimized import sequences as fast
from trueness.properties import sequences as declared
from trueness.properties._lib.laws import Versions
from trueness.reference import sequences as true
from trueness.regressions import sequences as wrong

HEADS, WIDTH, DEGREE = 2, 24, 3
flat = Versions(true, fast, declared.FORMULAS).reference


def spans(windows: Any) -> list[tuple[int, int]]:
    return [(int(a), int(b)) for a, b in zip(*windows, strict=True)]


def lost(windows: Any, n: int) -> int:
    """How many of n tokens lie in no window."""
    return n - len({t for a, b in spans(windows) for t in range(a, b)})


# -- ring buffer ------------------------------------------------------------------------------------------------------


def test_features_of_three_powers_do_not_fit_a_buffer_of_one_MEM_11a() -> None:
    features = torch.ones(1, 1, HEADS, (DEGREE + 1) * WIDTH)
    assert features.shape[-1] == 96
    naive = torch.zeros(4, HEADS, WIDTH)
    with pytest.raises(RuntimeError, match="expanded size"):
        naive[0] = features[0, 0]
    small, position = torch.zeros(1, 4, HEADS, WIDTH), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"rows had shape \(1, 1, 2, 96\); it must be \(1, m, 2, 24\)"):
        fast.ring_push(small, position, features)
    held = fast.RingBuffer(1, 4, HEADS, (DEGREE + 1) * WIDTH)
    held.push(features)
    assert torch.equal(held.read()[0][:, :1], features)


def test_slots_are_in_order_until_the_buffer_wraps_MEM_11b() -> None:
    c = 4
    for n in range(1, 3 * c):
        buffer, position = np.zeros((1, c, 1)), np.zeros(1, np.int64)
        for k in range(n):
            buffer, position = true.ring_push(buffer, position, np.full((1, 1, 1), 1.0 + k))
        newest = [1.0 + k for k in range(max(0, n - c), n)]
        stored = wrong.as_stored(buffer, position)[0][0, : len(newest), 0].tolist()
        assert true.ring_read(buffer, position)[0][0, : len(newest), 0].tolist() == newest
        assert np.roll(buffer[0, :, 0], -(n % c))[c - len(newest) :].tolist() == newest or n < c
        assert (stored == newest) == (n <= c or n % c == 0)
        assert sorted(stored) == newest, "nothing is missing: only the order is wrong"


def test_a_weight_that_decays_with_age_lands_on_the_wrong_row_MEM_11b() -> None:
    buffer, position = true.ring_push(np.zeros((1, 4, 1)), np.zeros(1, np.int64), np.arange(5.0).reshape(1, 5, 1))
    decay = np.exp(-0.1 * np.arange(4))[::-1]  # the newest row weighs 1
    (right, _), (slots, _) = true.ring_read(buffer, position), wrong.as_stored(buffer, position)
    assert right[0, np.argmax(decay), 0] == 4 != slots[0, np.argmax(decay), 0]


def test_what_one_sample_pushes_reaches_another_MEM_11c() -> None:
    buffer, position = np.zeros((2, 2, 1)), np.zeros(2, np.int64)

    def other(push: Callable[..., Any], mine: float) -> float:
        return float(push(buffer, position, np.array([[[mine]], [[5.0]]]))[0][1, 0, 0])

    assert other(wrong.one_for_all, 1.0) != other(wrong.one_for_all, 2.0)
    assert other(true.ring_push, 1.0) == other(true.ring_push, 2.0) == 5.0


class Activation:
    """What a step of the network leaves for its backward."""


class Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, kept: Activation) -> torch.Tensor:  # type: ignore[override]
        ctx.kept = kept
        return 2 * x

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        return 2 * grad, None


@pytest.mark.parametrize("capacity, steps", [(4, 3), (4, 12)])
def test_stored_rows_keep_every_graph_of_the_past_alive_unless_they_are_detached_MEM_12(
    capacity: int, steps: int
) -> None:
    def alive(push: Callable[[torch.Tensor], None]) -> int:
        """How many activations are left when every name but the buffer's is gone."""
        weight, seen = torch.ones(1, 2, 3, requires_grad=True), []
        for _ in range(steps):
            kept = Activation()
            seen.append(weakref.ref(kept))
            push(Layer.apply(weight, kept))  # type: ignore[no-untyped-call]
            del kept
        gc.collect()
        return sum(r() is not None for r in seen)

    held = fast.RingBuffer(1, capacity, 3)
    state = [torch.zeros(1, capacity, 3), torch.zeros(1, dtype=torch.int64)]

    def attached(rows: torch.Tensor) -> None:
        state[:] = fast.ring_push(state[0], state[1], rows)

    assert alive(attached) == steps, "also of rows that were overwritten long ago: memory grows with every step"
    assert alive(held.push) == 0
    assert state[0].requires_grad and not held.rows.requires_grad
    assert torch.equal(state[0].detach(), held.rows)


# -- windows ----------------------------------------------------------------------------------------------------------


def drawn(count: int = 3000) -> list[tuple[int, int, int, int]]:
    """(n, L, s, m) with m ≤ L, as the documented data set takes them."""
    generator = np.random.default_rng(0)
    found = []
    for _ in range(count):
        length = int(generator.integers(1, 60))
        step = true.stride(length, generator.integers(0, 90) / 100)
        found.append((int(generator.integers(1, 300)), length, step, int(generator.integers(1, length + 1))))
    return found


def test_neither_version_of_the_windows_leaves_the_text_MEM_15a(capsys: pytest.CaptureFixture[str]) -> None:
    bad = inside = more = same = 0
    for n, length, step, least in drawn():
        old, new = spans(wrong.before(n, length, step, least)), spans(wrong.after(n, length, step, least))
        bad += sum(not 0 <= a < b <= n or b - a > length or b - a < least for a, b in [*old, *new])
        same += old[: len(new)] == new
        inside += any(a > c and b == d for (c, d), (a, b) in pairwise(old))
        more += len(old) > len(new)
    with capsys.disabled():
        print(f"\n  3000 cases: {bad} windows out of range, {inside} cases with windows inside of the one before")
    assert bad == 0 and same == 3000 and inside == more > 0
    assert spans(wrong.before(100, 50, 25, 10)) == [(0, 50), (25, 75), (50, 100), (75, 100)]
    assert spans(wrong.after(100, 50, 25, 10)) == [(0, 50), (25, 75), (50, 100)]


def test_the_fix_loses_the_tail_just_as_before_MEM_15b(capsys: pytest.CaptureFixture[str]) -> None:
    cases = drawn()
    old, new, ours = (
        [lost(windows(*case), case[0]) for case in cases]
        for windows in (wrong.before, wrong.after, flat.sliding_windows)
    )
    with capsys.disabled():
        print(f"\n  3000 cases: old loses tokens in {np.count_nonzero(old)}, new in {np.count_nonzero(new)}", end="")
        print(f", ours in {np.count_nonzero(ours)}")
    assert old == new and np.count_nonzero(new) > 0 and not any(ours)
    assert lost(wrong.after(103, 50, 50, 10), 103) == 3
    assert spans(fast.sliding_windows(103, 50, stride=50, min_length=10)) == [(0, 50), (50, 100), (53, 103)]


def test_a_least_length_above_the_length_throws_the_text_away_MEM_15c() -> None:
    def first_kept(n: int, length: int, stride: int, min_length: int) -> Any:
        """The first window whatever its length, so that there is one."""
        rest = spans(wrong.after(n, length, stride, min_length))
        return wrong.pair(list(dict.fromkeys([(0, min(length, n)), *rest])))

    assert lost(wrong.after(100, 20, 20, 30), 100) == 100, "no window of 20 is long enough"
    assert lost(first_kept(100, 20, 20, 30), 100) == 80, "tokens 20 … 99"
    with pytest.raises(ValueError, match="min_length was 30; it must be an integer from 1 to 20, the length"):
        fast.sliding_windows(100, 20, stride=20, min_length=30)


def test_an_end_that_is_off_by_one_misses_the_last_full_window_MEM_15d() -> None:
    assert lost(wrong.off_by_one(100, 50, 25, 10), 100) == 25
    assert lost(wrong.after(100, 50, 25, 10), 100) == 0
    assert lost(wrong.off_by_one(50, 50, 25, 10), 50) == 50, "a text of one window has none"


def test_an_overlap_of_one_raises_about_range_and_not_about_overlap_MEM_16() -> None:
    def step(overlap: float) -> int:
        return 50 - int(50 * overlap)

    with pytest.raises(ValueError, match=r"range\(\) arg 3 must not be zero"):
        wrong.before(100, 50, step(1.0), 10)
    assert spans(wrong.before(100, 50, step(1.5), 10)) == [], "this is the empty data set"
    assert len(spans(wrong.after(100, 50, max(1, step(1.0)), 10))) == 51
    for overlap in (1, 1.0, 1.5, -0.1, True, "half", float("nan")):
        with pytest.raises(ValueError, match=r"overlap was .*; it must be a number in \[0, 1\)"):
            fast.stride(50, overlap)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"overlap was 1\.5"):
        fast.SlidingWindows(torch.arange(100), 50, overlap=1.5)


def test_no_example_is_made_up_where_there_is_none_MEM_17() -> None:
    """The fallback trains: its loss falls on a text that nobody gave."""

    def fallback(text: torch.Tensor) -> torch.Tensor:
        return text if len(text) else torch.arange(20) % 5

    with pytest.raises(ValueError, match="tokens was empty"):
        fast.SlidingWindows(torch.zeros(0, dtype=torch.int64), 4)
    torch.manual_seed(0)
    model = torch.nn.Embedding(5, 5)
    optimiser = torch.optim.SGD(model.parameters(), 1.0)
    inputs, labels = fast.shift(fallback(torch.zeros(0, dtype=torch.int64)))
    losses = []
    for _ in range(20):
        loss = torch.nn.functional.cross_entropy(model(inputs), labels)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2, "and no word of warning"
    assert len(fast.SlidingWindows(torch.arange(3), 4)) == 1, "a short text is one short window"


def test_a_repeated_text_is_in_both_halves_of_a_split_MEM_18() -> None:
    text = list(range(7))
    last = spans(wrong.repeated(len(text), 50, 25, 50))[-1]
    repeated = text * (last[1] // len(text))
    assert len(repeated) == last[1] == 63, "nine times the text"
    half = len(repeated) // 2
    grams = [{tuple(part[i : i + 7]) for i in range(len(part) - 6)} for part in (repeated[:half], repeated[half:])]
    assert grams[1] <= grams[0], "the held-out half stands in the training half word for word"
    windows = fast.SlidingWindows(torch.tensor(text), 50)
    assert [w.tolist() for w in windows] == [text]
    assert last == (13, 63), "tokens that do not exist"


# -- pairs and batches ------------------------------------------------------------------------------------------------


def test_copying_the_input_is_the_best_model_of_labels_that_are_not_shifted_MEM_19a() -> None:
    tokens = np.random.default_rng(0).integers(0, 9, (4, 32))

    def hits(pairs: Any) -> float:
        return float((pairs[0] == pairs[1]).mean())

    assert hits(wrong.unshifted(tokens)) == 1
    n, p = 4 * 31, 1 / 9
    assert abs(hits(true.shift(tokens)) - p) < 5 * np.sqrt(p * (1 - p) / n), "no better than guessing"
    assert true.shift(tokens)[0].shape == (4, 31), "a window of L gives L − 1 pairs"


def test_shifting_twice_asks_for_the_token_after_the_next_MEM_19b() -> None:
    tokens = np.arange(6)[None]
    inputs, labels = true.shift(tokens)
    assert (labels - inputs == 1).all()
    inputs, labels = wrong.shifted_twice(tokens)
    assert (labels - inputs)[:, :-1].min() == 2


def before(batch: list[list[int]]) -> torch.Tensor:
    longest = max(len(w) for w in batch)
    return torch.tensor([w + [0] * (longest - len(w)) for w in batch])


def after(batch: list[list[int]]) -> torch.Tensor:
    kept = [w for w in batch if w]
    return before(kept) if kept else torch.empty(0, 0)


def test_an_empty_batch_crashes_first_here_then_in_the_embedding_MEM_20() -> None:
    embedding = torch.nn.Embedding(9, 4)
    with pytest.raises(ValueError, match="max"):
        before([])
    assert after([]).dtype == torch.float32
    with pytest.raises(RuntimeError, match="scalar type"):
        embedding(after([]))
    ids, labels, mask = fast.collate([], 0)
    assert ids.shape == labels.shape == mask.shape == (0, 0)
    assert (ids.dtype, labels.dtype, mask.dtype) == (torch.int64, torch.int64, torch.bool)
    logits = embedding(ids) @ embedding.weight.T
    total = torch.nn.functional.cross_entropy(logits.reshape(-1, 9), labels.reshape(-1), reduction="sum")
    assert total.item() == 0


def test_sequences_without_a_token_keep_their_row_MEM_21() -> None:
    batch = [[4, 3, 1], [], [5]]
    assert len(after(batch)) == 2
    names = ["first", "second", "third"]
    found = dict(zip(names, after(batch).tolist(), strict=False))
    assert found["second"][0] == 5, "the third item's tokens under the second item's name"
    ids, labels, mask = fast.collate([torch.tensor(w, dtype=torch.int64) for w in batch], 0)
    assert ids.shape == (3, 3) and (labels[1] == -100).all() and mask.sum(1).tolist() == [3, 0, 1]
    made = fast.Collator(0)(batch)
    assert torch.equal(made["input_ids"], ids) and made["attention_mask"].sum(1).tolist() == [3, 0, 1]


def test_every_sequence_empty_is_still_a_batch_of_integers_MEM_21() -> None:
    ids, labels, mask = fast.collate([torch.zeros(0, dtype=torch.int64)] * 2, 0)
    assert ids.shape == labels.shape == mask.shape == (2, 0) and ids.dtype == torch.int64


def loss_of(batch: Any, logits_of: Any) -> torch.Tensor:
    ids, labels, _ = (torch.from_numpy(np.array(x)) for x in batch)
    return torch.nn.functional.cross_entropy(logits_of(ids).reshape(-1, 9), labels.reshape(-1))


def test_labels_padded_with_a_token_reward_padding_MEM_22a() -> None:
    """A model that always says 0 is praised for every row that is short."""

    def says_zero(ids: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.zeros_like(ids), 9) * 10.0

    short = [np.array([4, 3]), np.array([5])]
    long = [*short, *[np.zeros(0, np.int64)] * 5]
    right, padded = (
        [float(loss_of(c(b, 0), says_zero)) for b in (short, long)] for c in (true.collate, wrong.padded_with_zeros)
    )
    assert right[0] == right[1] > padded[0] > padded[1]
    _, labels, _ = fast.collate([torch.tensor([], dtype=torch.int64)] * 2 + [torch.tensor([1])], 0)
    assert (labels[:2] == -100).all(), "−100 as before and as after"
    everything = torch.nn.functional.cross_entropy(torch.zeros(2, 9), labels[:2, 0])
    assert everything.isnan(), "and a batch of padding alone has no mean loss"


def test_an_end_of_text_that_pads_is_never_learned_MEM_22b() -> None:
    """transformers' collator goes by id; ours by length."""
    pytest.importorskip("transformers")
    end = declared.PAD
    text = [torch.tensor([4, 1, end]), torch.tensor([5, end])]
    by_id = declared.language_modelling()(text, end)[1]
    assert not (by_id == end).any()
    assert (fast.collate(text, end)[1] == end).sum() == 2
    assert np.array_equal(by_id.numpy(), wrong.by_id([w.numpy() for w in text], end)[1])


def test_a_mask_that_is_true_everywhere_counts_padding_MEM_22c() -> None:
    batch = [np.array([4, 3, 1]), np.array([5])]
    assert true.collate(batch, 0)[2].sum() == 4 != wrong.all_seen(batch, 0)[2].sum()


def test_text_comes_back_from_a_tokenizer_and_not_from_its_stand_in_MEM_23() -> None:
    pytest.importorskip("transformers")
    text = "w1 w5 w2"

    def stand_in(text: str) -> list[int]:
        return [ord(c) % 50 for c in text]

    made = declared.tokenizer()
    assert made.decode(made.encode(text)) == text
    other = text.translate({ord("w"): chr(ord("w") + 50)})
    assert other != text and stand_in(other) == stand_in(text), "two texts, one sequence of ids"


def test_a_tokenizer_without_a_padding_token_is_refused_before_the_first_batch_MEM_23() -> None:
    class Bare:
        pad_token_id = None

    assert (Bare.pad_token_id or 0) == 0, "the fallback: token 0, whatever it means"
    with pytest.raises(ValueError, match="pad_id was None; it must be an integer at least 0; a tokenizer without"):
        fast.Collator(Bare.pad_token_id)  # type: ignore[arg-type]
