"""Token sequences: windows that cover every token, shifted pairs, padded batches, and a ring buffer.

    window_i = [a_i, b_i),      a_i = i s,      b_i = min(a_i + L, n),      s = max(1, L − ⌊L · overlap⌋)

All functions copy, count or pad, so they are exact. ``torch.nn.functional.cross_entropy`` leaves the label −100 out of
the loss by default. Rows of unequal
length are padded on the right; x_{<t} predicts x_t (Bengio et al. 2003, A Neural Probabilistic Language Model, eq. 1).
"""

import numpy as np

IGNORED = -100


# -- windows ----------------------------------------------------------------------------------------------------------


def stride(length, overlap):
    """s = max(1, L − ⌊L · overlap⌋)

    length   L  int     tokens in a window, at least 1
    overlap     number  share of a window that the next one repeats, in [0, 1)
    returns  s  int     tokens from one start to the next
    """
    return max(1, length - int(length * overlap))


def sliding_windows(n, length, *, stride=None, min_length=None):
    """a_i = i s,  b_i = min(a_i + L, n),  i = 0, 1, … until b_i = n; a last window shorter than m is a = n − L instead

    n           n  int   tokens there are, at least 0
    length      L  int   tokens in a window, at least 1
    stride      s  int   tokens from one start to the next, 1 … L, so that nothing lies between two windows; None: L
    min_length  m  int   least tokens in a last window that keeps its place, 1 … L; None: L, every window is full
    returns     a  (W,)  int64, first token of every window, strictly increasing; none for n = 0
                b  (W,)  int64, one past its last token; every token lies in some window, and for n ≤ L in one
    """
    stride = length if stride is None else stride
    min_length = length if min_length is None else min_length
    if n == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    steps = -(-max(n - length, 0) // stride)
    starts = stride * np.arange(steps + 1)
    short = n - starts < min_length
    starts = np.where(short, max(n - length, 0), starts)
    return starts, np.minimum(starts + length, n)


# -- pairs and batches ------------------------------------------------------------------------------------------------


def shift(tokens):
    """x_t = w_t,  y_t = w_{t+1},  t = 0 … n − 2: every token is to predict the next

    tokens   w  (..., n)      token ids, n at least 1
    returns  x  (..., n − 1)  inputs: all but the last
             y  (..., n − 1)  labels: all but the first
    """
    return tokens[..., :-1], tokens[..., 1:]


def collate(sequences, pad_id):
    """ids_bt = w_bt, label_bt = w_bt, mask_bt = 1 for t < n_b;  ids = pad, label = −100, mask = 0 from there on

    sequences  w      list of B arrays (n_b,)  token ids; n_b may be 0, and B too
    pad_id            int                      what fills the ids; a token of this id inside a sequence is a token
    returns    ids    (B, N)                   int64, N = max n_b (0 for no sequence); row b is sequence b, always
               label  (B, N)                   int64
               mask   (B, N)                   bool, true on tokens
    """
    longest = max([len(w) for w in sequences], default=0)
    ids = [np.concatenate([w, np.full(longest - len(w), pad_id)]) for w in sequences]
    labels = [np.concatenate([w, np.full(longest - len(w), IGNORED)]) for w in sequences]
    mask = [np.arange(longest) < len(w) for w in sequences]
    shape = (len(sequences), longest)
    return tuple(np.array(rows, dtype).reshape(shape) for rows, dtype in ((ids, int), (labels, int), (mask, bool)))


# -- ring buffer ------------------------------------------------------------------------------------------------------


def ring_push(buffer, position, rows):
    """slot (p + j) mod c ← row j, j = 0 … m − 1, so that of c = capacity the last min(p + m, c) rows stay;  p' = p + m

    buffer    (B, c, ...)  stored rows; capacity c at least 1
    position  p  (B,)      rows that every sample has pushed so far, at least 0
    rows      (B, m, ...)  new rows, oldest first; m may exceed c
    returns   (B, c, ...)  the buffer afterwards
              p' (B,)      int64, p + m
    """
    capacity, count = buffer.shape[1], rows.shape[1]
    total = position[:, None] + count
    held = total - 1 - (total - 1 - np.arange(capacity)) % capacity
    fresh = held >= position[:, None]
    choice = np.where(fresh, held - position[:, None], count + np.arange(capacity))
    both = np.concatenate([rows, buffer], axis=1)
    return both[np.arange(len(buffer))[:, None], choice], position + count


def ring_push_vjp(buffer_cotangent, position_cotangent, buffer, position, rows):
    """by buffer: rows that were not overwritten; by rows: those that are still stored"""
    capacity, count = buffer.shape[1], rows.shape[1]
    each, trailing = np.arange(len(buffer))[:, None], [1] * (buffer.ndim - 2)
    age = (position[:, None] + count - 1 - np.arange(capacity)) % capacity
    kept = (age >= count).reshape([*age.shape, *trailing])
    number = np.arange(count)
    alive = (number >= count - capacity).reshape([1, count, *trailing])
    slots = (position[:, None] + number) % capacity
    return np.where(kept, buffer_cotangent, 0.0), np.where(alive, buffer_cotangent[each, slots], 0.0)


def ring_read(buffer, position):
    """row k = slot (p − v + k) mod c,  k = 0 … v − 1,  v = min(p, c): from the oldest to the newest;  0 from v on

    buffer    (B, c, ...)  a result of ``ring_push``
    position  p  (B,)      rows that every sample has pushed so far
    returns   (B, c, ...)  the rows in the order in which they were pushed
              (B, c)       bool, true on the first v
    """
    capacity = buffer.shape[1]
    valid = np.minimum(position, capacity)[:, None]
    slots = (position[:, None] - valid + np.arange(capacity)) % capacity
    mask = np.arange(capacity) < valid
    ordered = buffer[np.arange(len(buffer))[:, None], slots]
    return np.where(mask.reshape(mask.shape + (1,) * (buffer.ndim - 2)), ordered, 0.0), mask


def ring_read_vjp(rows_cotangent, mask_cotangent, buffer, position):
    """by buffer: the cotangent of row k goes to its slot"""
    capacity = buffer.shape[1]
    valid = np.minimum(position, capacity)[:, None]
    place = (np.arange(capacity) - position[:, None] + valid) % capacity
    held = (place < valid).reshape(place.shape + (1,) * (buffer.ndim - 2))
    return np.where(held, rows_cotangent[np.arange(len(buffer))[:, None], place], 0.0)
