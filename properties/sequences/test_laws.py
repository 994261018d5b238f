"""Laws of the family sequences, on the reference and on the optimized version, and its classes in a DataLoader."""

from __future__ import annotations

import copy
import pickle
from collections import deque
from functools import partial
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from trueness.optimized import sequences as fast
from trueness.properties._lib import laws
from trueness.properties.sequences import FORMULAS
from trueness.reference import sequences as true

VOCABULARY = 9
VERSIONS = laws.Versions(true, fast, FORMULAS)
flat, ours, both = VERSIONS.reference, VERSIONS.ours, VERSIONS.both
given = partial(laws.given, 40)


@st.composite
def windows(draw: Any) -> tuple[int, int, int, int]:
    length = draw(st.integers(1, 40))
    return draw(st.integers(0, 200)), length, draw(st.integers(1, length)), draw(st.integers(1, length))


ragged = st.lists(st.lists(st.integers(0, VOCABULARY - 1), max_size=6).map(lambda w: np.array(w, np.int64)), max_size=5)


# -- windows ----------------------------------------------------------------------------------------------------------


@both("sliding_windows")
@given(case=windows())
def test_every_token_lies_in_some_window(function: Any, case: Any) -> None:
    starts, stops = function(*case)
    assert set().union(*(range(a, b) for a, b in zip(starts, stops, strict=True))) == set(range(case[0]))


@both("sliding_windows")
@given(case=windows())
def test_no_window_leaves_the_text_or_is_shorter_than_asked_for(function: Any, case: Any) -> None:
    n, length, _, least = case
    starts, stops = function(*case)
    assert (starts >= 0).all() and (stops <= n).all()
    assert (stops - starts <= length).all() and (stops - starts >= min(least, n)).all()
    assert ((stops - starts)[:-1] == length).all(), "only the last one may be short"


@both("sliding_windows")
@given(case=windows())
def test_starts_are_a_stride_apart_but_for_the_last(function: Any, case: Any) -> None:
    starts, stops = function(*case)
    steps = np.diff(starts)
    assert (steps[:-1] == case[2]).all() and (steps > 0).all() and (steps <= case[2]).all()
    assert (np.diff(stops) > 0).all(), "no window lies inside of another"


@both("sliding_windows")
@given(case=windows())
def test_a_last_window_moves_only_where_it_would_be_too_short(function: Any, case: Any) -> None:
    n, length, step, least = case
    starts, _ = function(*case)
    if len(starts) > 1 and starts[-1] - starts[-2] < step:
        assert n - (starts[-2] + step) < least and starts[-1] == n - length


@both("sliding_windows")
@given(case=windows())
def test_full_windows_are_those_of_numpy(function: Any, case: Any) -> None:
    n, length, step, _ = case
    hypothesis.assume(n >= length)
    starts, _ = function(n, length, step, length)
    view = np.lib.stride_tricks.sliding_window_view(np.arange(n), length)[::step, 0]
    assert starts[: len(view)].tolist() == view.tolist() and len(starts) - len(view) in (0, 1)


@both("stride")
@given(length=st.integers(1, 500), overlap=st.floats(0, 1, exclude_max=True))
def test_consecutive_windows_share_the_overlap_rounded_down(function: Any, length: int, overlap: float) -> None:
    step = function(length, overlap)
    assert 1 <= step <= length
    assert step == 1 or length - step == int(length * overlap)


def test_strides_of_the_documented_cases() -> None:
    for stride in (true.stride, fast.stride):
        assert [stride(50, 0.5), stride(50, 0.0), stride(50, 0.99), stride(1, 0.5)] == [25, 50, 1, 1]


@pytest.mark.parametrize(
    "arguments, name",
    [((-1, 5, 1, 1), "n"), ((9, 0, 1, 1), "length"), ((9, 5, 0, 1), "stride"), ((9, 5, 6, 1), "stride"),
     ((9, 5, 1, 0), "min_length"), ((9, 5, 1, 6), "min_length"), ((9.0, 5, 1, 1), "n"), ((9, True, 1, 1), "length")],
)  # fmt: skip
def test_windows_that_cannot_be_are_refused_by_name(arguments: Any, name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} was .*; it must be an integer"):
        VERSIONS.optimized.sliding_windows(*arguments)


@given(case=windows(), overlap=st.floats(0, 1, exclude_max=True))
def test_the_data_set_gives_the_tokens_of_its_windows(case: Any, overlap: float) -> None:
    n, length, _, least = case
    hypothesis.assume(n > 0)
    tokens = torch.arange(n) + 7
    data = fast.SlidingWindows(tokens, length, overlap=overlap, min_length=least)
    starts, stops = true.sliding_windows(n, length, stride=true.stride(length, overlap), min_length=least)
    assert len(data) == len(starts)
    assert [w.tolist() for w in data] == [list(range(a + 7, b + 7)) for a, b in zip(starts, stops, strict=True)]
    assert data[-1].tolist() == data[len(data) - 1].tolist()
    with pytest.raises(IndexError, match=f"there are {len(data)} windows"):
        data[len(data)]


# -- pairs and batches ------------------------------------------------------------------------------------------------


@both("shift")
@given(rows=st.integers(1, 3), n=st.integers(1, 9), seed=st.integers(0, 99))
def test_every_label_is_the_next_input(function: Any, rows: int, n: int, seed: int) -> None:
    tokens = np.random.default_rng(seed).integers(0, VOCABULARY, (rows, n))
    inputs, labels = function(tokens)
    assert inputs.shape == labels.shape == (rows, n - 1)
    assert np.array_equal(inputs[:, 1:], labels[:, :-1])
    assert np.array_equal(np.concatenate([inputs, tokens[:, -1:]], 1), tokens)
    assert np.array_equal(np.concatenate([tokens[:, :1], labels], 1), tokens)


@both("collate")
@given(batch=ragged)
def test_row_b_is_item_b_whatever_is_empty(function: Any, batch: Any) -> None:
    ids, labels, mask = function(batch, 0)
    assert len(ids) == len(batch) and ids.shape == labels.shape == mask.shape
    assert ids.dtype == labels.dtype == np.int64 and mask.dtype == bool
    for w, row, label, seen in zip(batch, ids, labels, mask, strict=True):
        assert row[seen].tolist() == label[seen].tolist() == w.tolist()


@both("collate")
@given(batch=ragged, pad_id=st.integers(0, VOCABULARY - 1))
def test_the_mask_counts_tokens_and_the_rest_is_padding(function: Any, batch: Any, pad_id: int) -> None:
    ids, labels, mask = function(batch, pad_id)
    assert mask.sum(1).tolist() == [len(w) for w in batch]
    assert (ids[~mask] == pad_id).all() and (labels[~mask] == -100).all() and (labels[mask] >= 0).all()
    assert not mask.size or mask.any(0).all(), "no column is padding alone"


def losses(batch: Any, embedding: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The losses that cross_entropy counts, and their number, of a model that sees each token by itself."""
    ids, labels, _ = (torch.from_numpy(np.array(x)) for x in batch)
    logits = embedding[ids].reshape(-1, VOCABULARY)
    each = torch.nn.functional.cross_entropy(logits, labels.reshape(-1), reduction="none")
    counted = each[labels.reshape(-1) != -100]
    return counted, len(counted)


@both("collate")
@given(batch=ragged, pad_id=st.integers(0, VOCABULARY - 1), seed=st.integers(0, 99))
def test_the_loss_does_not_depend_on_how_much_is_padded_or_with_what(
    function: Any, batch: Any, pad_id: int, seed: int
) -> None:
    """Bit for bit, token by token: alone, together, and beside a longer one."""
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(VOCABULARY, VOCABULARY, generator=generator, dtype=torch.float64)
    together, count = losses(function(batch, pad_id), embedding)
    longer, more = losses(function([*batch, np.zeros(9, np.int64)], 0), embedding)
    alone = [losses(function([w], pad_id), embedding)[0] for w in batch]
    assert torch.equal(together, longer[: more - 9]) and count == sum(len(w) for w in batch)
    assert torch.equal(together, torch.cat([*alone, together[:0]]))


def test_a_batch_of_padding_alone_has_no_mean_loss() -> None:
    empty: Any = [[], []]
    _, labels, _ = fast.collate(empty, 0)
    assert labels.shape == (2, 0)
    all_ignored = torch.full((3,), fast.IGNORED)
    assert torch.nn.functional.cross_entropy(torch.zeros(3, 5), all_ignored).isnan()


@pytest.mark.parametrize(
    "batch, pad_id, sentence",
    [([torch.ones(2)], 0, r"sequences\[0\] had dtype torch.float32; it must hold integers"),
     ([[1], torch.ones(2, 2, dtype=torch.int64)], 0, r"sequences\[1\] had shape \(2, 2\); it must have 1 axis\."),
     (["text"], 0, r"sequences\[0\] was str; it must be a torch.Tensor of integers"),
     ([[1]], None, "pad_id was None"), ([[1]], -1, "pad_id was -1"), ([[1.5]], 0, r"sequences\[0\] had dtype")],
)  # fmt: skip
def test_batches_that_cannot_be_are_refused_by_name(batch: Any, pad_id: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        fast.collate(batch, pad_id)


def test_windows_and_collator_feed_a_data_loader_in_this_process_and_in_others() -> None:
    data = fast.SlidingWindows(torch.arange(23), 10, overlap=0.5, min_length=2)
    found = []
    for workers in (0, 1):
        loader = torch.utils.data.DataLoader(data, batch_size=2, collate_fn=fast.Collator(99), num_workers=workers)
        found.append([{k: v.tolist() for k, v in batch.items()} for batch in loader])
    assert found[0] == found[1]
    assert [len(b["input_ids"]) for b in found[0]] == [2, 2]
    assert found[0][1]["input_ids"][1] == [*range(15, 23), 99, 99]
    assert found[0][1]["attention_mask"][1] == [1] * 8 + [0] * 2
    assert pickle.loads(pickle.dumps(data))[1].tolist() == data[1].tolist()


def test_a_collator_takes_mappings_lists_and_tensors_alike() -> None:
    rows = [[1, 2, 3], [4]]
    mixed = [{"input_ids": tuple(rows[0])}, rows[1]]
    kinds = (rows, [torch.tensor(w) for w in rows], [{"input_ids": w} for w in rows], mixed)
    made = [fast.Collator(0)(items) for items in kinds]
    assert all(torch.equal(m[k], made[0][k]) for m in made for k in ("input_ids", "labels", "attention_mask"))


# -- ring buffer ------------------------------------------------------------------------------------------------------


@both("ring_push")
@given(
    capacity=st.integers(1, 5),
    pushes=st.lists(st.integers(0, 7), max_size=5),
    first=st.lists(st.integers(0, 9), min_size=1, max_size=3),
)
def test_the_last_rows_are_held_in_order_for_every_sample(
    function: Any, capacity: int, pushes: list[int], first: list[int]
) -> None:
    """Against collections.deque, with samples that have already pushed different numbers of rows."""
    read = flat.ring_read if function is true.ring_push else ours("ring_read")
    buffer, position = np.zeros((len(first), capacity, 2, 3)), np.zeros(len(first), np.int64)
    held: list[deque[np.ndarray]] = [deque(maxlen=capacity) for _ in first]
    generator = np.random.default_rng(0)
    for b, count in enumerate(first):  # one sample at a time
        rows = generator.standard_normal((1, count, 2, 3))
        buffer[b : b + 1], position[b : b + 1] = function(buffer[b : b + 1], position[b : b + 1], rows)
        held[b].extend(rows[0])
    for count in pushes:  # and all together
        rows = generator.standard_normal((len(first), count, 2, 3))
        buffer, position = function(buffer, position, rows)
        for queue, new in zip(held, rows, strict=True):
            queue.extend(new)
    ordered, mask = read(buffer, position)
    total = [n + sum(pushes) for n in first]
    assert position.tolist() == total and mask.sum(1).tolist() == [min(n, capacity) for n in total]
    for queue, rows, seen in zip(held, ordered, mask, strict=True):
        assert np.array_equal(rows[seen], np.array([*queue]).reshape(-1, 2, 3)) and not rows[~seen].any()


@both("ring_push")
@given(capacity=st.integers(1, 4), left=st.integers(0, 6), right=st.integers(0, 6), start=st.integers(0, 9))
def test_pushing_in_two_parts_is_pushing_at_once(
    function: Any, capacity: int, left: int, right: int, start: int
) -> None:
    generator = np.random.default_rng(0)
    buffer, position = generator.standard_normal((2, capacity, 3)), np.array([start, 2 * start])
    rows = generator.standard_normal((2, left + right, 3))
    whole = function(buffer, position, rows)
    parts = function(*function(buffer, position, rows[:, :left]), rows[:, left:])
    assert all(np.array_equal(a, b) for a, b in zip(whole, parts, strict=True))


@both("ring_push")
@given(capacity=st.integers(1, 4), count=st.integers(0, 6), seed=st.integers(0, 99))
def test_samples_do_not_see_each_other(function: Any, capacity: int, count: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    buffer, position = generator.standard_normal((3, capacity, 2)), generator.integers(0, 9, 3)
    rows = generator.standard_normal((3, count, 2))
    order = np.array([2, 0, 1])
    together = function(buffer, position, rows)
    turned = function(buffer[order], position[order], rows[order])
    assert all(np.array_equal(a[order], b) for a, b in zip(together, turned, strict=True))


def test_the_module_keeps_state_moves_it_and_forgets_it() -> None:
    held = fast.RingBuffer(2, 3, 4, dtype=torch.float64)
    rows = torch.arange(2 * 5 * 4, dtype=torch.float64).reshape(2, 5, 4).requires_grad_()
    found, mask = held(rows)
    assert torch.equal(found, rows.detach()[:, -3:]) and mask.all() and not found.requires_grad
    with torch.no_grad():
        rows.zero_()
    assert found.any() and held.read()[0].any(), "the caller's tensor may change afterwards"
    again = fast.RingBuffer(2, 3, 4, dtype=torch.float64)
    again.load_state_dict(held.state_dict())
    assert torch.equal(again.read()[0], found)
    assert held.float().rows.dtype == torch.float32 and held.position.dtype == torch.int64
    held.reset()
    assert not held.read()[1].any() and "capacity=3" in repr(held)


def filled() -> fast.RingBuffer:
    """A buffer of capacity 3 that holds two rows of either sample."""
    buffer = fast.RingBuffer(2, 3, 4)
    buffer.push(torch.arange(16.0).reshape(2, 2, 4))
    return buffer


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda buffer: pickle.loads(pickle.dumps(buffer)),
    "compile": lambda buffer: torch.compile(buffer, backend="aot_eager", fullgraph=True),
    "export": lambda buffer: torch.export.export(buffer, (torch.ones(2, 2, 4),)).module(),
}


@pytest.mark.parametrize("copied", COPIES)
def test_a_buffer_that_is_copied_compiled_or_exported_goes_on_from_its_rows(copied: str) -> None:
    buffer, expected = COPIES[copied](filled()), filled()
    for k in range(3):
        rows = torch.full((2, 2, 4), 100.0 + k)
        assert all(torch.equal(a, b) for a, b in zip(buffer(rows), expected(rows), strict=True))


@pytest.mark.parametrize("copied", ["deepcopy", "pickle"])
def test_a_copy_of_a_buffer_has_rows_of_its_own(copied: str) -> None:
    buffer = filled()
    copy_of_it = COPIES[copied](buffer)
    buffer.reset()
    assert copy_of_it.read()[1].sum() == 4 and not buffer.read()[1].any()


@pytest.mark.parametrize(
    "call, sentence",
    [(lambda b, p, r: fast.ring_push(b, p, r[:1]), r"rows had shape \(1, 2, 4\); it must be \(2, m, 4\)"),
     (lambda b, p, r: fast.ring_push(b, p, r.double()), "rows was torch.float64 on cpu; it must be torch.float32"),
     (lambda b, p, r: fast.ring_push(b, p[:1], r), r"position had shape \(1,\); it must be \(2,\)"),
     (lambda b, p, r: fast.ring_push(b, p - 1, r), "position held -1"),
     (lambda b, p, r: fast.ring_push(b, p.float(), r), "position had dtype torch.float32"),
     (lambda b, p, r: fast.ring_read(b[:, :0], p), r"buffer had shape \(2, 0, 4\)"),
     (lambda b, p, r: fast.RingBuffer(2, 0, 4), "capacity was 0; it must be an integer at least 1")],
)  # fmt: skip
def test_buffers_that_cannot_be_are_refused_by_name(call: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call(torch.zeros(2, 3, 4), torch.zeros(2, dtype=torch.int64), torch.zeros(2, 2, 4))
