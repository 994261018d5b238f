"""The formulas of the family sequences: windows, shifted pairs, padded batches, and the ring buffer."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from hypothesis import strategies as st

from trueness.optimized import sequences as fast
from trueness.reference import sequences as true
from trueness.tools.spec.inputs import Index, Made, Real, Scalar
from trueness.tools.spec.model import Formula, Implementation

INTEGERS: dict[str, Any] = {
    "no_gradient": "integers have no derivative",
    "dtypes": ("float64",),
    "without": dict.fromkeys(("float32", "float16", "bfloat16"), "integers in, integers out: no dtype enters"),
    "special": "takes integers only",
}
COPIES = "elements are copied bit for bit, NaN, ±inf and subnormals too"
BENGIO = "Bengio et al. 2003, A Neural Probabilistic Language Model, eq. 1"
PAD, WORDS = 3, 7
LONGEST = 4


# -- drawn inputs ----------------------------------------------------------------------------------------------------


def ragged(known: Mapping[str, Any], generator: np.random.Generator) -> list[np.ndarray]:
    """B sequences of 0 … LONGEST tokens; ids below WORDS, so that the padding token occurs inside them."""
    return [generator.integers(0, WORDS, n) for n in generator.integers(0, LONGEST + 1, known["B"])]


def windows(*arguments: int) -> tuple[int, int, int, int]:
    """(n, length, stride, min_length), the last two within what the length allows."""
    n, length, step, least = arguments
    return n, length, 1 + step % length, 1 + least % length


# -- peers ------------------------------------------------------------------------------------------------------------


def numpy_shift(tokens: Any) -> Any:
    """The two columns of every pair that numpy.lib.stride_tricks.sliding_window_view finds."""
    if tokens.shape[-1] < 2:
        return tokens[..., 1:].copy(), tokens[..., 1:].copy()
    pairs = np.lib.stride_tricks.sliding_window_view(tokens, 2, axis=-1)
    return pairs[..., 0].copy(), pairs[..., 1].copy()


def numpy_windows(n: int, length: int, stride: int, min_length: int) -> Any:
    """Full windows as numpy.lib.stride_tricks.sliding_window_view has them, and what they leave as a last one."""
    tokens = np.arange(n)
    if n <= length:
        return tokens[:1], tokens[-1:] + 1
    full = np.lib.stride_tricks.sliding_window_view(tokens, length)[::stride]
    starts, left = list(full[:, 0]), n - 1 - full[-1, -1]
    if left:
        start = starts[-1] + stride
        starts.append(start if n - start >= min_length else n - length)
    found = np.array(starts)
    return found, np.minimum(found + length, n)


def loop_push(buffer: Any, position: Any, rows: Any) -> Any:
    """One row at a time into slot p mod c."""
    found, count = buffer.copy(), position.copy()
    for b in range(len(buffer)):
        for row in rows[b]:
            found[b, count[b] % buffer.shape[1]] = row
            count[b] += 1
    return found, count


def deque_read(buffer: Any, position: Any) -> Any:
    """collections.deque: the slots in the order in which they were written."""
    found, mask = np.zeros_like(buffer), np.zeros(buffer.shape[:2], bool)
    for b, p in enumerate(position):
        held = deque(range(min(p, buffer.shape[1])))
        held.rotate(-(int(p) % buffer.shape[1]) if p > buffer.shape[1] else 0)
        found[b, : len(held)], mask[b, : len(held)] = buffer[b, list(held)], True
    return found, mask


@cache
def tokenizer(pad_id: int = PAD) -> Any:
    """A tokenizer of seven words, made in memory, whose padding token is one of them."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({f"w{i}": i for i in range(WORDS)}, unk_token="w0"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token=f"w{pad_id}")


def with_labels() -> Any:
    """transformers.DataCollatorForTokenClassification: labels are padded with −100. It refuses an empty batch, so one
    row of the longest length is added and removed again."""
    from transformers import DataCollatorForTokenClassification

    return lambda sequences, pad_id: _batch(
        DataCollatorForTokenClassification(tokenizer(pad_id)), sequences, ("input_ids", "labels")
    )


def language_modelling() -> Any:
    """transformers.DataCollatorForLanguageModeling(mlm=False): every label that is the padding token becomes −100."""
    from transformers import DataCollatorForLanguageModeling

    return lambda sequences, pad_id: _batch(
        DataCollatorForLanguageModeling(tokenizer(pad_id), mlm=False), sequences, ("input_ids",)
    )


def _batch(collator: Any, sequences: Any, names: Any) -> Any:
    longest = max((len(w) for w in sequences), default=0)
    items = [w.tolist() for w in sequences] + [[0] * longest]
    made = collator([{name: w for name in names} for w in items])
    count = len(sequences)
    keys = ("input_ids", "labels", "attention_mask")
    ids, labels, mask = (made[key][:count].long().clone() for key in keys)
    return ids, labels, mask.bool()


def torch_collate() -> Any:
    """torch.nn.utils.rnn.pad_sequence, which refuses an empty batch: again one row is added."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    def call(sequences: Any, pad_id: int) -> Any:
        rows = [*sequences, torch.zeros(max((len(w) for w in sequences), default=0), dtype=torch.int64)]

        def padded(items: Any, fill: Any) -> Any:
            return pad_sequence(items, batch_first=True, padding_value=fill)[:-1].clone()

        return padded(rows, pad_id), padded(rows, fast.IGNORED), padded([torch.ones_like(w) for w in rows], 0).bool()

    return call


# -- declarations -----------------------------------------------------------------------------------------------------


def ours(name: str, *claims: str) -> Implementation:
    return Implementation("trueness", lambda: getattr(fast, name), limit="exact", claims=frozenset(claims))


def peer(name: str, load: Any, framework: Any, *needs: str, **fields: Any) -> Implementation:
    return Implementation(
        name,
        load,
        framework,
        limit="exact",
        origin="third_party",
        needs=needs,
        dtypes=fields.pop("dtypes", ("float64",)),
        only="copies and integers: one dtype is enough",
        devices=("cpu",),
        **fields,
    )


BUFFER = Real("buffer", dims=("B", "c", "D"), spans={"B": (1, 3), "c": (1, 4), "D": (1, 3)})
POSITION = Index("position", dims=("B",), below=11)
COUNTS = {"length": st.integers(1, 12), "step": st.integers(0, 11), "least": st.integers(0, 11)}

FORMULAS = (
    Formula(
        name="sequences.sliding_windows",
        reference=true.sliding_windows,
        equation="a_i = i s,  b_i = min(a_i + L, n); a last window shorter than m begins at n − L",
        source="this project: the documented windows, and no token lost",
        real=lambda: {
            "fewer tokens than a window, at stride 1": (3, 5, 1, 2),
            "a last window of the least length": (11, 4, 3, 2),
        },
        arguments=(
            Scalar("n", st.integers(0, 60), far=(300, 70001)),
            Made(
                "length",
                make=lambda known, _: windows(0, known["length"], 0, 0)[1],
                draws=COUNTS,
                far={"length": (64, 300)},
            ),
            Made("stride", make=lambda known, _: windows(0, known["length"], known["step"], 0)[2]),
            Made("min_length", make=lambda known, _: windows(0, known["length"], 0, known["least"])[3]),
        ),
        implementations=(
            ours("sliding_windows"),
            peer(
                "numpy sliding_window_view",
                lambda: lambda *arguments, **_: numpy_windows(*arguments),
                "numpy",
            ),
        ),
        creates=True,
        outputs=("int64", "int64"),
        **INTEGERS,
    ),
    Formula(
        name="sequences.shift",
        reference=true.shift,
        equation="x_t = w_t,  y_t = w_{t+1}",
        source=BENGIO,
        arguments=(Index("tokens", dims=("...", "n"), below=50),),
        implementations=(
            ours("shift", "compile"),
            peer("numpy sliding_window_view", lambda: numpy_shift, "numpy"),
        ),
        outputs=("int64", "int64"),
        **INTEGERS,
    ),
    Formula(
        name="sequences.collate",
        reference=true.collate,
        equation="ids = w, label = w, mask = 1 for t < n_b;  pad, −100, 0 from there on",
        source="torch.nn.functional.cross_entropy, ignore_index = −100",
        arguments=(Made("sequences", make=ragged, spans={"B": (0, 4)}), Scalar("pad_id", st.integers(0, WORDS - 1))),
        implementations=(
            ours("collate"),
            peer("torch pad_sequence", torch_collate, "torch"),
            peer("transformers token classification", with_labels, "torch", "transformers", "tokenizers"),
            peer(
                "transformers language modelling",
                language_modelling,
                "torch",
                "transformers",
                "tokenizers",
                convention="MEM-22b",
            ),
        ),
        outputs=("int64", "int64", "bool"),
        **INTEGERS,
    ),
    Formula(
        name="sequences.ring_push",
        reference=true.ring_push,
        vjp=true.ring_push_vjp,
        equation="slot (p + j) mod c ← row j,  p' = p + m",
        source="a ring buffer; Behrouz et al. 2025 (2505.23735) §3 keep the last c tokens",
        arguments=(BUFFER, POSITION, Real("rows", dims=("B", "m", "D"), spans={"m": (0, 6)})),
        implementations=(
            ours("ring_push", "gradient", "autocast"),
            peer("loop", lambda: loop_push, "numpy", dtypes=("float32",)),
        ),
        outputs=("dtype", "int64"),
        special=COPIES,
    ),
    Formula(
        name="sequences.ring_read",
        reference=true.ring_read,
        vjp=true.ring_read_vjp,
        equation="row k = slot (p − v + k) mod c,  v = min(p, c)",
        source="a ring buffer; Behrouz et al. 2025 (2505.23735) §3 keep the last c tokens",
        arguments=(BUFFER, POSITION),
        implementations=(
            ours("ring_read", "gradient", "autocast"),
            peer("collections.deque", lambda: deque_read, "numpy", dtypes=("float32",)),
        ),
        outputs=("dtype", "bool"),
        special=f"{COPIES}; what was never pushed is 0",
    ),
)
