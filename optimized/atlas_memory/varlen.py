"""Sequences of any lengths in one row, (1, T_1 + … + T_N, H, …): a batch, filled up with tokens that do nothing.

Sequences whose lengths are within a factor of two of each other are one batch, so that at most half of what is
computed is filling, and the number of batches grows with the logarithm of the longest and not with N.
"""

from __future__ import annotations

from itertools import pairwise

import torch

from trueness.optimized.atlas_memory import dispatch as _omega

FILLING = (0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0)  # of q, k, v, alpha, eta, theta, gamma


def batches(lengths: list[int]) -> list[list[int]]:
    """Numbers of the sequences that are computed together, the longest first"""
    found: list[list[int]] = []
    longest = 0
    for i in sorted((i for i, n in enumerate(lengths) if n), key=lambda i: -lengths[i]):
        if not found or 2 * lengths[i] < longest:
            found.append([])
            longest = lengths[i]
        found[-1].append(i)
    return found


def run(
    tokens: tuple[torch.Tensor, ...],
    state: tuple[torch.Tensor, ...],
    ends: list[int],
    modes: tuple[int, str, str, str, str, float | None],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """o (1, T, H, V), M and S (N, H, P, V) of float32 or float64 tensors; sequence i is ends[i] … ends[i + 1]"""
    device, lengths = tokens[0].device, [b - a for a, b in pairwise(ends)]
    rows, memories, momenta = [tokens[2][0, :0]], [state[0][:0]], [state[1][:0]]
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
        laid = [filled(x[0], at, live, value) for x, value in zip(tokens, FILLING, strict=True)]
        chosen = torch.tensor(batch, device=device)
        before = [x.index_select(0, chosen) for x in state]
        o, M, S, _ = _omega.carried(tuple(laid), tuple(before), None, live.to(laid[0].dtype), *modes)
        rows.append(o.flatten(0, 1))
        memories.append(M)
        momenta.append(S)
        order += batch
    empty = [i for i, n in enumerate(lengths) if not n]
    none = torch.tensor(empty, dtype=torch.int64, device=device)
    memories.append(state[0].index_select(0, none))
    momenta.append(state[1].index_select(0, none))
    back = torch.tensor(order + empty, dtype=torch.int64).argsort().to(device)
    o = torch.cat(rows).index_select(0, where.to(device))[None]
    return o, torch.cat(memories).index_select(0, back), torch.cat(momenta).index_select(0, back)


def filled(x: torch.Tensor, at: torch.Tensor, live: torch.Tensor, value: float) -> torch.Tensor:
    """x (T, H, …) as (n, L, H, …), the token ``at`` every place or one value where none lives"""
    rows = x.index_select(0, at.flatten()).unflatten(0, at.shape)
    return torch.where(live.reshape(*live.shape, *(1,) * (rows.ndim - 2)), rows, rows.new_full((), value))
