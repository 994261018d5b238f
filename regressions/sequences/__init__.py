"""Known wrong variants of the family sequences: the ring buffer, windows, shifted pairs, and padded batches."""

from __future__ import annotations

from typing import Any

import numpy as np

from trueness.reference import sequences as true
from trueness.regressions._lib.commands import show
from trueness.tools.spec.model import Bug

CHANGELOG = "Atlas memory (davidbasilefilho/atlas), changelog of 2025-07-17"
BEHROUZ = "Behrouz et al. 2025, ATLAS (2505.23735) §3: the last c tokens"
WINDOWS = "the windows themselves: every token is to be seen"
CROSS_ENTROPY = "torch.nn.functional.cross_entropy: ignore_index = −100"
BENGIO = "Bengio et al. 2003 eq. 1"


# -- ring buffer ------------------------------------------------------------------------------------------------------


def as_stored(buffer: Any, position: Any) -> Any:
    """the first v slots, in the order of the slots"""
    mask = np.arange(buffer.shape[1]) < np.minimum(position, buffer.shape[1])[:, None]
    return np.where(mask[:, :, None], buffer, 0.0), mask


def one_for_all(buffer: Any, position: Any, rows: Any) -> Any:
    """the mean row of the batch goes into everybody's buffer"""
    shared = np.sum(rows, axis=0, keepdims=True) / len(rows) + 0 * rows
    return true.ring_push(buffer, position, shared)


# -- windows ----------------------------------------------------------------------------------------------------------


def pair(windows: list[tuple[int, int]]) -> Any:
    found = np.array(windows, dtype=np.int64).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def before(n: int, length: int, stride: int, min_length: int) -> Any:
    """a start wherever ``min_length`` tokens are left: windows that lie inside of the one before"""
    return pair([(i, min(i + length, n)) for i in range(0, n - min_length + 1, stride)])


def after(n: int, length: int, stride: int, min_length: int) -> Any:
    """stop at the first window that reaches the end; one that is too short is dropped, and its tokens with it"""
    found = []
    for start in range(0, n, stride):
        stop = min(start + length, n)
        if stop - start >= min_length:
            found.append((start, stop))
        if stop == n:
            break
    return pair(found)


def off_by_one(n: int, length: int, stride: int, min_length: int) -> Any:
    """range(0, n − L, s): the last full window is missing where it ends with the text"""
    return pair([(i, i + length) for i in range(0, n - length, stride)])


def repeated(n: int, length: int, stride: int, min_length: int) -> Any:
    """a short text is first repeated 2 + ⌊m/n⌋ times"""
    if 0 < n < min_length:
        n *= 2 + min_length // n
    return true.sliding_windows(n, length, stride, min_length)


# -- pairs and batches ------------------------------------------------------------------------------------------------


def unshifted(tokens: Any) -> Any:
    """every token is to predict itself"""
    return tokens[..., :-1], tokens[..., :-1]


def shifted_twice(tokens: Any) -> Any:
    """shifted here, and once more in the loss"""
    inputs, labels = true.shift(tokens)
    return inputs, np.concatenate([labels[..., 1:], labels[..., -1:]], axis=-1)


def dropped(sequences: Any, pad_id: int) -> Any:
    """sequences without a token do not become rows"""
    return true.collate([w for w in sequences if len(w)], pad_id)


def padded_with_zeros(sequences: Any, pad_id: int) -> Any:
    """labels are padded with token 0, which the loss then wants predicted"""
    ids, labels, mask = true.collate(sequences, pad_id)
    return ids, np.where(mask, labels, 0), mask


def by_id(sequences: Any, pad_id: int) -> Any:
    """a label is −100 wherever the token is the padding token, inside of a sequence too"""
    ids, labels, mask = true.collate(sequences, pad_id)
    return ids, np.where(ids == pad_id, true.IGNORED, labels), mask


def all_seen(sequences: Any, pad_id: int) -> Any:
    """the mask is true on padding"""
    ids, labels, mask = true.collate(sequences, pad_id)
    return ids, labels, mask | True


# -- discriminating inputs --------------------------------------------------------------------------------------------

ROWS = np.arange(8.0).reshape(2, 4, 1)
TOKENS = np.array([[5, 6, 7, 8]])
BATCH = [np.array([4, 3, 1]), np.zeros(0, np.int64), np.array([5])]

BUGS = (
    Bug(
        id="MEM-11a",
        formula="",
        title="the context buffer has rows of d_h where polynomial features need (p + 1) d_h",
        document=f"{CHANGELOG}, context buffer",
        claim="the buffer had the wrong size for polynomial features",
        verdict="real bug, right fix",
        source=BEHROUZ,
        finding="A row of 96 does not go into a buffer of 24. Ours says so in one sentence before anything is copied.",
        evidence=show("MEM_11a"),
    ),
    Bug(
        id="MEM-11b",
        formula="sequences.ring_read",
        title="slots are read in the order of the slots, not of time",
        document=f"{CHANGELOG}, context buffer",
        claim="the first min(p, c) slots are the context",
        verdict="real bug, wrong fix",
        source=BEHROUZ,
        finding="Right until the buffer is full; from then on the newest row stands before older ones, and weights "
        "that decay with age decay with the slot instead. Rolling by p mod c gives back the order.",
        evidence=show("MEM_11b"),
        variant=as_stored,
        discriminating_input=(ROWS, np.array([5, 6])),
    ),
    Bug(
        id="MEM-11c",
        formula="sequences.ring_push",
        title="one buffer for the whole batch, filled with the mean of its rows",
        document=f"{CHANGELOG}, context buffer",
        claim="keys and values are stored for the context window",
        verdict="real bug, wrong fix",
        source=BEHROUZ,
        finding="What one sample pushes changes what another reads. A buffer with a row per sample does not leak.",
        evidence=show("MEM_11c"),
        variant=one_for_all,
        discriminating_input=(np.zeros((2, 4, 1)), np.array([0, 3]), ROWS[:, :2]),
    ),
    Bug(
        id="MEM-12",
        formula="",
        title="rows are stored with their graph",
        document=f"{CHANGELOG}, context buffer",
        claim="stored tensors must be detached",
        verdict="real bug, right fix",
        source="torch.Tensor.detach; weakref shows what is alive",
        finding="Without detaching every step of the past stays alive: after n pushes n graphs. Detached, none.",
        evidence=show("MEM_12"),
    ),
    Bug(
        id="MEM-15a",
        formula="sequences.sliding_windows",
        title="windows that lie inside of the one before",
        document=f"{CHANGELOG}, sliding window dataset",
        claim="the sliding window had an off-by-one error",
        verdict="claim false",
        source=WINDOWS,
        finding="In 3000 drawn cases neither version leaves the text by one token. The old one adds windows that the "
        "one before contains: [75, 100) after [50, 100).",
        evidence=show("MEM_15a"),
        variant=before,
        discriminating_input=(100, 50, 25, 10),
    ),
    Bug(
        id="MEM-15b",
        formula="sequences.sliding_windows",
        title="a tail shorter than the least length is lost",
        document=f"{CHANGELOG}, sliding window dataset",
        claim="the sliding windows are fixed",
        verdict="real bug, wrong fix",
        source=WINDOWS,
        finding="Old and new lose the same tokens in the same cases. A last window moved back to n − L loses none.",
        evidence=show("MEM_15b"),
        variant=after,
        discriminating_input=(103, 50, 50, 10),
    ),
    Bug(
        id="MEM-15c",
        formula="",
        title="a least length above the length: one window, and the rest of the text is gone",
        document=f"{CHANGELOG}, sliding window dataset",
        claim="the sliding windows are fixed",
        verdict="real bug, wrong fix",
        source=WINDOWS,
        finding="For 100 tokens, L = 20 and m = 30 the new version keeps tokens 0 … 19, or nothing. Such a request "
        "contradicts itself; ours refuses it.",
        evidence=show("MEM_15c"),
    ),
    Bug(
        id="MEM-15d",
        formula="sequences.sliding_windows",
        title="an end that is off by one: the last full window is missing",
        document=f"{CHANGELOG}, sliding window dataset",
        claim="the sliding window had an off-by-one error",
        verdict="no bug",
        source=WINDOWS,
        finding="What the claim describes; nobody had it. Kept as what the checks must reject.",
        evidence=show("MEM_15d"),
        variant=off_by_one,
        discriminating_input=(100, 50, 25, 10),
    ),
    Bug(
        id="MEM-16",
        formula="",
        title="an overlap of 1 or more",
        document=f"{CHANGELOG}, sliding window dataset",
        claim="a step of 0 gave an empty data set; it is now at least 1",
        verdict="claim false",
        source="range(): its third argument must not be zero",
        finding="A step of 0 raised ValueError about range(); only a negative one gave an empty set. With a step of at "
        "least 1, overlap = 1 turns 100 tokens into 51 windows of 50. Ours refuses the overlap by name.",
        evidence=show("MEM_16"),
    ),
    Bug(
        id="MEM-17",
        formula="",
        title="examples are made up where there are none",
        document=f"{CHANGELOG}, data set fallback",
        claim="fallback examples are used when no window could be made",
        verdict="process",
        source="a loss is about the data that were given",
        finding="A run on made-up examples has a falling loss and says nothing. Ours refuses an empty text, and a "
        "short one is one short window.",
        evidence=show("MEM_17"),
    ),
    Bug(
        id="MEM-18",
        formula="sequences.sliding_windows",
        title="a short text is repeated until it fills a window",
        document=f"{CHANGELOG}, data set fallback",
        claim="short texts are repeated 2 + ⌊m/n⌋ times",
        verdict="real bug, wrong fix",
        source=WINDOWS,
        finding="The same tokens are counted up to m + 2 times, and after a split the held-out half stands in the "
        "training half word for word. One short window, padded, needs no repetition.",
        evidence=show("MEM_18"),
        variant=repeated,
        discriminating_input=(5, 50, 25, 50),
    ),
    Bug(
        id="MEM-19a",
        formula="sequences.shift",
        title="labels that are the inputs",
        document=f"{CHANGELOG}, data set items",
        claim="inputs are seq[:-1] and labels seq[1:]",
        verdict="no bug",
        source=BENGIO,
        finding="So they are, and a window of L gives L − 1 pairs. Not shifted, copying the input is the best model.",
        evidence=show("MEM_19a"),
        variant=unshifted,
        discriminating_input=(TOKENS,),
    ),
    Bug(
        id="MEM-19b",
        formula="sequences.shift",
        title="labels that are shifted twice",
        document=f"{CHANGELOG}, data set items",
        claim="inputs are seq[:-1] and labels seq[1:]",
        verdict="no bug",
        source=BENGIO,
        finding="What happens where the model shifts its labels too, as causal models of transformers do: then the "
        "batch must not be shifted.",
        evidence=show("MEM_19b"),
        variant=shifted_twice,
        discriminating_input=(TOKENS,),
    ),
    Bug(
        id="MEM-20",
        formula="",
        title="an empty batch comes back as floats",
        document=f"{CHANGELOG}, collate function",
        claim="an empty batch no longer crashes",
        verdict="real bug, wrong fix",
        source="torch.nn.functional.embedding takes integers",
        finding="Before, max() of nothing raised. After, the tensors are float32 and the embedding raises instead. "
        "Ours has shape (0, 0) and int64, and goes through an embedding and a loss.",
        evidence=show("MEM_20"),
    ),
    Bug(
        id="MEM-21",
        formula="sequences.collate",
        title="sequences without a token lose their row",
        document=f"{CHANGELOG}, collate function",
        claim="zero-length sequences are handled",
        verdict="real bug, wrong fix",
        source="row b of a batch is item b",
        finding="Three items become two rows, and whatever else is per item (labels, weights, states of a memory) is "
        "one off from there on. Ours keeps the row, all padding.",
        evidence=show("MEM_21"),
        variant=dropped,
        discriminating_input=(BATCH, 0),
    ),
    Bug(
        id="MEM-22a",
        formula="sequences.collate",
        title="labels padded with a token",
        document=f"{CHANGELOG}, collate function",
        claim="padding tokens were used incorrectly; −100 is right",
        verdict="claim false",
        source=CROSS_ENTROPY,
        finding="Both versions pad labels with −100; their outputs are the same. Padded with 0, the loss falls with "
        "the amount of padding: that variant is kept as what the checks must reject.",
        evidence=show("MEM_22a"),
        variant=padded_with_zeros,
        discriminating_input=(BATCH, 0),
    ),
    Bug(
        id="MEM-22b",
        formula="sequences.collate",
        title="every padding id is ignored, inside of a sequence too",
        document="transformers 5, DataCollatorForLanguageModeling(mlm=False)",
        claim="labels of padding tokens are −100",
        verdict="convention",
        source=CROSS_ENTROPY,
        finding="Right while the padding token occurs nowhere else. Where it is the end-of-text token, as is common, "
        "no text ever ends in training. Ours goes by length and not by id.",
        evidence=show("MEM_22b"),
        variant=by_id,
        discriminating_input=(BATCH, 3),
    ),
    Bug(
        id="MEM-22c",
        formula="sequences.collate",
        title="the mask counts padding as tokens",
        document=f"{CHANGELOG}, collate function",
        claim="padding tokens were used incorrectly; −100 is right",
        verdict="claim false",
        source=CROSS_ENTROPY,
        finding="The other way to get padding wrong; nobody had it.",
        evidence=show("MEM_22c"),
        variant=all_seen,
        discriminating_input=(BATCH, 0),
    ),
    Bug(
        id="MEM-23",
        formula="",
        title="a stand-in tokenizer, and a padding id of 0 for one that has none",
        document=f"{CHANGELOG}, MockTokenizer",
        claim="a mock tokenizer is used when the real one cannot be loaded",
        verdict="process",
        source="text must come back from its tokens",
        finding="With ids from character codes the text does not come back, and training goes on all the same. "
        "Ours takes the padding id as an argument and refuses None.",
        evidence=show("MEM_23"),
    ),
)
