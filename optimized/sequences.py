"""Token sequences: windows that cover every token, shifted pairs, padded batches, and a ring buffer.

    window_i = [a_i, b_i),      a_i = i s,      b_i = min(a_i + L, n),      s = max(1, L − ⌊L · overlap⌋)

Integers are int64, elements are copied bit for bit, and a batch has one row for each sequence, also for an empty one.
``SlidingWindows`` and ``Collator`` are made for a ``DataLoader``; ``RingBuffer`` is a module on ``ring_push`` and
``ring_read`` that keeps no graph alive.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from trueness.optimized._lib.validation import is_number, require_integer, require_range, require_shape, require_tokens

__all__ = [
    "IGNORED",
    "Collator",
    "RingBuffer",
    "SlidingWindows",
    "collate",
    "ring_push",
    "ring_read",
    "shift",
    "sliding_windows",
    "stride",
]

IGNORED = -100
Device = torch.device | str | None


# -- windows ----------------------------------------------------------------------------------------------------------


def stride(length: int, overlap: float) -> int:
    """s = max(1, L − ⌊L · overlap⌋)

    length   L  int     tokens in a window, at least 1
    overlap     number  share of a window that the next one repeats, in [0, 1)
    returns  s  int     tokens from one start to the next
    raises   ValueError if length < 1 or overlap lies outside [0, 1)
    """
    require_integer(length, "length", 1)
    if not is_number(overlap) or not 0 <= overlap < 1:
        raise ValueError(f"overlap was {overlap!r}; it must be a number in [0, 1): with 1 windows would not advance.")
    return max(1, length - math.floor(length * overlap))


def sliding_windows(
    n: int, length: int, *, stride: int | None = None, min_length: int | None = None, device: Device = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """a_i = i s,  b_i = min(a_i + L, n),  i = 0, 1, … until b_i = n; a last window shorter than m is a = n − L instead

    n           n  int   tokens there are, at least 0
    length      L  int   tokens in a window, at least 1
    stride      s  int   tokens from one start to the next, 1 … L, so that nothing lies between two windows; None: L
    min_length  m  int   least tokens in a last window that keeps its place, 1 … L; None: L, every window is full
    returns     a  (W,)  int64, first token of every window, strictly increasing; none for n = 0
                b  (W,)  int64, one past its last token; every token lies in some window, and for n ≤ L in one
    raises      ValueError if a number is no integer in its range
    """
    require_integer(n, "n", 0)
    require_integer(length, "length", 1)
    stride, min_length = length if stride is None else stride, length if min_length is None else min_length
    require_integer(stride, "stride", 1, length, ", the length: a longer step would leave tokens out")
    require_integer(min_length, "min_length", 1, length, ", the length: no window could be long enough")
    starts = torch.arange(0, max(n - length, 0) + stride if n else 0, stride, dtype=torch.int64, device=device)
    if n and n - int(starts[-1]) < min_length:
        starts[-1] = max(n - length, 0)
    return starts, (starts + length).clamp(max=n)


class SlidingWindows(torch.utils.data.Dataset[torch.Tensor]):
    """The windows of one sequence as a data set: item i is a view of tokens a_i … b_i − 1.

    tokens      (n,)    integers; not repeated to fill a window; an empty sequence raises ValueError
    length      int     tokens in a window, at least 1
    overlap     number  share of a window that the next one repeats, in [0, 1)
    min_length  int     least tokens in a last window that keeps its place; ``length`` unless given
    raises      ValueError as in ``stride`` and ``sliding_windows``, and for no tokens at all
    """

    def __init__(
        self, tokens: torch.Tensor, length: int, *, overlap: float = 0.0, min_length: int | None = None
    ) -> None:
        self.tokens: torch.Tensor = require_tokens(tokens, "tokens", 1)
        if not len(tokens):
            raise ValueError("tokens was empty; it must hold at least one token.")
        step = stride(length, overlap)
        self.starts, self.stops = sliding_windows(len(tokens), length, stride=step, min_length=min_length)

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> torch.Tensor:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index was {index}; there are {len(self)} windows.")
        window: torch.Tensor = self.tokens[int(self.starts[index]) : int(self.stops[index])]
        return window


# -- pairs and batches ------------------------------------------------------------------------------------------------


def shift(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x_t = w_t,  y_t = w_{t+1},  t = 0 … n − 2: every token is to predict the next

    tokens   w  (..., n)      token ids, n at least 1
    returns  x  (..., n − 1)  inputs: all but the last, in new memory
             y  (..., n − 1)  labels: all but the first
    raises   ValueError       if tokens are no integers or there is none
    """
    require_tokens(tokens, "tokens")
    if tokens.ndim < 1 or tokens.shape[-1] < 1:
        raise ValueError(f"tokens had shape {tuple(tokens.shape)}; its last axis must hold at least one token.")
    return tokens[..., :-1].clone(), tokens[..., 1:].clone()


def collate(
    sequences: Sequence[torch.Tensor], pad_id: int, *, device: Device = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ids_bt = w_bt, label_bt = w_bt, mask_bt = 1 for t < n_b;  ids = pad, label = −100, mask = 0 from there on

    sequences  w      list of B tensors (n_b,)  token ids; n_b may be 0, and B too
    pad_id            int                       what fills the ids; a token of this id inside a sequence is a token
    returns    ids    (B, N)                    int64, N = max n_b (0 for no sequence); row b is sequence b, always
               label  (B, N)                    int64
               mask   (B, N)                    bool, true on tokens
    raises     ValueError if a sequence is no row of integers, or pad_id is no integer
    """
    require_integer(pad_id, "pad_id", 0, None, "; a tokenizer without a padding token must be given one")
    rows = [_row(item, f"sequences[{b}]") for b, item in enumerate(sequences)]
    target = device if device is not None else (rows[0].device if rows else None)
    shape = (len(rows), max((len(w) for w in rows), default=0))
    ids = torch.full(shape, pad_id, dtype=torch.int64, device=target)
    labels = torch.full(shape, IGNORED, dtype=torch.int64, device=target)
    mask = torch.zeros(shape, dtype=torch.bool, device=target)
    for b, w in enumerate(rows):
        ids[b, : len(w)] = w
        labels[b, : len(w)] = w
        mask[b, : len(w)] = True
    return ids, labels, mask


def _row(item: Any, name: str) -> torch.Tensor:
    """One sequence as a tensor; an empty list has no dtype of its own and counts as integers."""
    if isinstance(item, (list, tuple)):
        item = torch.tensor(item, dtype=torch.int64 if not item else None)
    row: torch.Tensor = require_tokens(item, name, 1)
    return row


class Collator:
    """``collate`` for a ``DataLoader``: items in, a dictionary of tensors out.

    pad_id   int  id of the padding token; None, from a tokenizer without one, raises ValueError here
    returns  {"input_ids", "labels", "attention_mask"}, the mask in int64

    An item is a row of integers, or a mapping that has one under "input_ids".
    """

    def __init__(self, pad_id: int) -> None:
        self.pad_id = require_integer(
            pad_id, "pad_id", 0, None, "; a tokenizer without a padding token must be given one"
        )

    def __call__(self, items: Sequence[Any]) -> dict[str, torch.Tensor]:
        rows = [item["input_ids"] if isinstance(item, Mapping) else item for item in items]
        ids, labels, mask = collate(rows, self.pad_id)
        return {"input_ids": ids, "labels": labels, "attention_mask": mask.long()}


# -- ring buffer ------------------------------------------------------------------------------------------------------


def ring_push(buffer: torch.Tensor, position: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """slot (p + j) mod c ← row j, j = 0 … m − 1, so that of c = capacity the last min(p + m, c) rows stay;  p' = p + m

    buffer    (B, c, ...)  stored rows; capacity c at least 1; any dtype
    position  p  (B,)      rows that every sample has pushed so far, at least 0
    rows      (B, m, ...)  new rows, oldest first, like buffer; m may exceed c
    returns   (B, c, ...)  the buffer afterwards, in new memory
              p' (B,)      int64, p + m
    raises    ValueError   if the shapes or dtypes do not match
    """
    _require_ring(buffer, position)
    expected = (buffer.shape[0], *buffer.shape[2:])
    if not isinstance(rows, torch.Tensor) or rows.ndim < 2 or (rows.shape[0], *rows.shape[2:]) != expected:
        shape = tuple(rows.shape) if isinstance(rows, torch.Tensor) else type(rows).__name__
        text = ", ".join(map(str, (expected[0], "m", *expected[1:])))
        raise ValueError(f"rows had shape {shape}; it must be ({text}), a row of the buffer for every sample.")
    if rows.dtype != buffer.dtype or rows.device != buffer.device:
        raise ValueError(
            f"rows was {rows.dtype} on {rows.device}; it must be {buffer.dtype} on {buffer.device}, like the buffer."
        )
    capacity, count = buffer.shape[1], rows.shape[1]
    total = position.long() + count
    newest = rows[:, max(count - capacity, 0) :]
    first = total - newest.shape[1]
    slots = (first[:, None] + torch.arange(newest.shape[1], device=buffer.device)) % capacity
    index = slots.reshape(slots.shape + (1,) * (buffer.ndim - 2)).expand(newest.shape)
    return buffer.scatter(1, index, newest), total


def ring_read(buffer: torch.Tensor, position: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """row k = slot (p − v + k) mod c,  k = 0 … v − 1,  v = min(p, c): from the oldest to the newest;  0 from v on

    buffer    (B, c, ...)  a result of ``ring_push``
    position  p  (B,)      rows that every sample has pushed so far
    returns   (B, c, ...)  the rows in the order in which they were pushed
              (B, c)       bool, true on the first v
    raises    ValueError   if the shapes do not match
    """
    _require_ring(buffer, position)
    capacity = buffer.shape[1]
    number = torch.arange(capacity, device=buffer.device)
    total = position.long()[:, None]
    valid = total.clamp(max=capacity)
    slots, mask = (total - valid + number) % capacity, number < valid
    trailing = (1,) * (buffer.ndim - 2)
    ordered = buffer.gather(1, slots.reshape(slots.shape + trailing).expand(buffer.shape))
    return ordered.masked_fill(~mask.reshape(mask.shape + trailing), 0), mask


def _require_ring(buffer: torch.Tensor, position: torch.Tensor) -> None:
    if not isinstance(buffer, torch.Tensor) or buffer.ndim < 2 or buffer.shape[1] < 1:
        shape = tuple(buffer.shape) if isinstance(buffer, torch.Tensor) else type(buffer).__name__
        raise ValueError(f"buffer had shape {shape}; it must be (B, c, ...) with a capacity c of at least 1.")
    require_tokens(position, "position", 1)
    require_shape(position, "position", (buffer.shape[0],), "a count for every sample of the buffer")
    require_range(position, "position", 2**62, "it counts rows")


class RingBuffer(torch.nn.Module):
    """The last ``capacity`` rows of every sample, in the order in which they came.

    batch     B    int    samples; each has its own rows and count
    capacity  c    int    rows that are stored of each, at least 1
    row       ...  ints   shape of one row, such as heads and features

    Rows are detached and copied: neither a graph nor a tensor of the caller is kept alive. The content is part of the
    ``state_dict``, and ``to`` moves it.
    """

    rows: torch.Tensor
    position: torch.Tensor

    def __init__(
        self, batch: int, capacity: int, *row: int, dtype: torch.dtype | None = None, device: Device = None
    ) -> None:
        super().__init__()
        for value, name, least in ((batch, "batch", 0), (capacity, "capacity", 1), *((n, "row", 0) for n in row)):
            require_integer(value, name, least)
        self.register_buffer("rows", torch.zeros(batch, capacity, *row, dtype=dtype, device=device))
        self.register_buffer("position", torch.zeros(batch, dtype=torch.int64, device=device))

    @torch.no_grad()
    def push(self, rows: torch.Tensor) -> None:
        """Store ``rows`` (B, m, ...), oldest first; the oldest stored rows are overwritten."""
        self.rows, self.position = ring_push(self.rows, self.position, rows.detach())

    @torch.no_grad()
    def read(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows (B, c, ...) from oldest to newest, 0 in empty slots, and a mask (B, c) of the filled ones."""
        return ring_read(self.rows, self.position)

    @torch.no_grad()
    def reset(self) -> None:
        """Empty the buffer."""
        self.rows, self.position = torch.zeros_like(self.rows), torch.zeros_like(self.position)

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Push, then read."""
        self.push(rows)
        return self.read()

    def extra_repr(self) -> str:
        batch, capacity, *row = self.rows.shape
        return f"batch={batch}, capacity={capacity}, row={tuple(row)}"
