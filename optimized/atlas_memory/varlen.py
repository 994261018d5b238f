"""Sequences of any lengths in one row, (1, T_1 + … + T_N, H, …), computed as padded batches.

Sequences whose lengths are within a factor of two of each other form one batch, so that at most half of what is
computed is padding, and the number of batches grows with the logarithm of the longest length and not with N.
"""

from __future__ import annotations

from itertools import pairwise

import torch

from trueness.optimized.atlas_memory import dispatch as _dispatch
from trueness.optimized.atlas_memory.config import OmegaConfig
from trueness.optimized.atlas_memory.state import OmegaState, Tokens

PADDING = (0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0)  # of q, k, v, alpha, eta, theta, gamma


def batches(lengths: list[int]) -> list[list[int]]:
    """Indices of the sequences that are computed together, the longest first"""
    found: list[list[int]] = []
    longest = 0
    for i in sorted((i for i, n in enumerate(lengths) if n), key=lambda i: -lengths[i]):
        if not found or 2 * lengths[i] < longest:
            found.append([])
            longest = lengths[i]
        found[-1].append(i)
    return found


def run(
    tokens: Tokens, state: OmegaState, ends: list[int], config: OmegaConfig
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """o (1, T, H, V), M and S (N, H, P, V) of float32 or float64 tensors; sequence i is ends[i] … ends[i + 1]"""
    device, lengths = tokens.q.device, [b - a for a, b in pairwise(ends)]
    rows, memories, momenta = [tokens.v[0, :0]], [state.memory[:0]], [state.momentum[:0]]
    where, order, done = torch.zeros(ends[-1], dtype=torch.int64), [], 0
    for batch in batches(lengths):
        n = torch.tensor([lengths[i] for i in batch])
        first = torch.tensor([ends[i] for i in batch])
        longest = int(n[0])
        steps = torch.arange(longest)
        live = steps[None, :] < n[:, None]
        at = torch.where(live, first[:, None] + steps, 0)
        where[at[live]] = done + (torch.arange(len(batch))[:, None] * longest + steps)[live]
        done += len(batch) * longest
        at, live = at.to(device), live.to(device)
        padded = Tokens._make(padded_rows(x[0], at, live, value) for x, value in zip(tokens, PADDING, strict=True))
        chosen = torch.tensor(batch, device=device)
        before = OmegaState._make(x.index_select(0, chosen) for x in state)
        o, M, S, _ = _dispatch.recur(padded, before, config, live=live.to(padded.q.dtype))
        rows.append(o.flatten(0, 1))
        memories.append(M)
        momenta.append(S)
        order += batch
    empty = [i for i, n in enumerate(lengths) if not n]
    none = torch.tensor(empty, dtype=torch.int64, device=device)
    memories.append(state.memory.index_select(0, none))
    momenta.append(state.momentum.index_select(0, none))
    back = torch.tensor(order + empty, dtype=torch.int64).argsort().to(device)
    o = torch.cat(rows).index_select(0, where.to(device))[None]
    return o, torch.cat(memories).index_select(0, back), torch.cat(momenta).index_select(0, back)


def padded_rows(x: torch.Tensor, at: torch.Tensor, live: torch.Tensor, value: float) -> torch.Tensor:
    """x (T, H, …) as (n, L, H, …), token ``at`` in every place, or one value where ``live`` is False"""
    rows = x.index_select(0, at.flatten()).unflatten(0, at.shape)
    return torch.where(live.reshape(*live.shape, *(1,) * (rows.ndim - 2)), rows, rows.new_full((), value))


def final_window(window: torch.Tensor, x: torch.Tensor, ends: list[int]) -> torch.Tensor:
    """The last c − 1 tokens of every sequence, (N, c−1, H, …), of x (1, T, H, …) and the window before it"""
    N, size = window.shape[:2]
    at = [
        N * size + t if t >= start else (i + 1) * size + t - start
        for i, (start, stop) in enumerate(pairwise(ends))
        for t in range(stop - size, stop)
    ]
    both = torch.cat([window.flatten(0, 1), x[0]])
    return both.index_select(0, torch.tensor(at, dtype=torch.int64, device=x.device)).unflatten(0, (N, size))
