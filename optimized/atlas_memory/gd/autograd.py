"""A call of the Omega rule piece by piece: one state a piece is kept, everything else is computed again backward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from trueness.optimized._lib.dispatch import under_functorch
from trueness.optimized._lib.dtypes import autocast_disabled, upcast
from trueness.optimized._lib.workspace import Workspace
from trueness.optimized.atlas_memory.chunk_terms import Parts
from trueness.optimized.atlas_memory.gd.recurrence import Rule, read, read_in_place, reverse, run, run_in_place

ELEMENTS = 1 << 18  # of the queries of one piece: what a piece computes with stays in the cache
DEVICE_ELEMENTS = 1 << 22  # elsewhere


class Sequences(NamedTuple):
    """What a call is given.

    tokens  (B, T, H, …) tensors, queries first
    late    pairs of (B, T, H, …) and (B, c − 1, H, …): tensors that windows look back on, and what was before them
    """

    tokens: tuple[torch.Tensor, ...]
    late: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    def flat(self) -> tuple[torch.Tensor, ...]:
        return (*self.tokens, *(x for pair in self.late for x in pair))

    @staticmethod
    def of(tensors: Sequence[torch.Tensor], tokens: int) -> Sequences:
        """The inverse of ``flat``"""
        rest = tensors[tokens:]
        return Sequences(tuple(tensors[:tokens]), tuple(zip(rest[::2], rest[1::2], strict=True)))

    def piece(self, start: int, stop: int) -> list[torch.Tensor]:
        """The tokens from ``start`` to ``stop``, and of the late tensors c − 1 more before them"""
        found = [x[:, start:stop] for x in self.tokens]
        for x, before in self.late:
            reach = before.shape[1]
            if start >= reach:
                found.append(x[:, start - reach : stop])
            else:
                found.append(torch.cat([before[:, start:], x[:, :stop]], 1))
        return found


def watched(x: torch.Tensor) -> bool:
    """Whether something must see single operations: a trace, a transform of functorch, forward mode, a subclass"""
    return (
        torch.compiler.is_compiling()
        or type(x) not in (torch.Tensor, torch.nn.Parameter)
        or under_functorch()
        or torch.autograd.forward_ad._current_level >= 0
    )


def pieces(q: torch.Tensor, rule: Rule) -> Iterator[tuple[int, int]]:
    """Whole chunks, as many as keep a piece of the queries small; never fewer tokens than the rule asks for"""
    B, T, H, P = q.shape
    most = ELEMENTS if q.device.type == "cpu" else DEVICE_ELEMENTS
    step = rule.size * max(most // max(B * H * rule.size * P, 1), -(-rule.least // rule.size), 1)
    return ((start, min(start + step, T)) for start in range(0, T, step))


def joined(memory: torch.Tensor, momentum: torch.Tensor) -> torch.Tensor:
    """[M, S] (B H, P, 2 V)"""
    return torch.cat([upcast(memory), upcast(momentum)], -1).flatten(0, 1)


def parted(state: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """M and S (B, H, P, V) like ``like``"""
    M, S = state.to(like.dtype).unflatten(0, like.shape[:2]).chunk(2, -1)
    return M.contiguous(), S.contiguous()


def as_tokens(x: torch.Tensor, batch: int, length: int) -> torch.Tensor:
    """(N, B H, C, V) as (B, T, H, V)"""
    return x.unflatten(1, (batch, -1)).movedim((1, 0, 3), (0, 1, 2)).flatten(1, 2)[:, :length]


def as_chunks(x: torch.Tensor, size: int) -> torch.Tensor:
    """(B, T, H, V) as (N, B H, C, V), zeros at the end"""
    more = -x.shape[1] % size
    x = torch.nn.functional.pad(x, (0, 0, 0, 0, 0, more)) if more else x
    return x.unflatten(1, (-1, size)).movedim((1, 0, 3), (0, 1, 2)).contiguous().flatten(1, 2)


def omega(
    rule: Rule, given: Sequences, memory: torch.Tensor, momentum: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """o (B, T, H, V), M and S after the last token, in the format of the queries"""
    flat = given.flat()
    if watched(memory):
        return at_once(rule, given, memory, momentum)
    if torch.is_grad_enabled() and any(x.requires_grad for x in (*flat, memory, momentum)):
        return Pieces.apply(rule, len(given.tokens), memory, momentum, *flat)  # type: ignore[no-any-return, no-untyped-call]
    o, state, _ = forward(rule, given, memory, momentum, keep=False)
    return o, *parted(state, memory)


def at_once(
    rule: Rule, given: Sequences, memory: torch.Tensor, momentum: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The whole sequence as one piece, in operations that autograd and compilers see"""
    B, T = given.tokens[0].shape[:2]
    with autocast_disabled(memory):
        parts = rule.prepare(*(upcast(x) for x in given.piece(0, T)))
        done = run(parts, joined(memory, momentum), rule)
        return as_tokens(read(parts, done), B, T).to(memory.dtype), *parted(done.states[-1], memory)


def forward(
    rule: Rule, given: Sequences, memory: torch.Tensor, momentum: torch.Tensor, keep: bool
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """o, the state after the last token, and if they are kept the states before every piece"""
    q = given.tokens[0]
    B, T, H, _ = q.shape
    o = torch.empty((B, T, H, memory.shape[-1]), dtype=q.dtype, device=q.device)
    states = []
    with autocast_disabled(q):
        state = joined(memory, momentum)
        workspace = Workspace(state)
        for start, stop in pieces(q, rule):
            states += [state.clone()] if keep else []
            parts = rule.prepare(*(upcast(x) for x in given.piece(start, stop)), workspace=workspace)
            done = run_in_place(parts, state, rule, workspace)
            o[:, start:stop] = as_tokens(read_in_place(parts, done, workspace), B, stop - start)
            state = done.states[-1]
    return o, state, states


class Pieces(torch.autograd.Function):
    """The rule with its backward: memory for the arguments, their gradients and one state a piece."""

    @staticmethod
    def forward(
        ctx: Any, rule: Rule, tokens: int, memory: torch.Tensor, momentum: torch.Tensor, *flat: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        o, state, states = forward(rule, Sequences.of(flat, tokens), memory, momentum, keep=True)
        ctx.rule, ctx.tokens, ctx.kept = rule, tokens, len(states)
        ctx.save_for_backward(memory, momentum, *flat, *states)
        return o, *parted(state, memory)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        saved = ctx.saved_tensors
        arguments, states = saved[: len(saved) - ctx.kept], saved[len(saved) - ctx.kept :]
        if torch.is_grad_enabled():  # a gradient of this gradient is wanted
            again = at_once(ctx.rule, Sequences.of(arguments[2:], ctx.tokens), *arguments[:2])
            wanted = [x for x in arguments if x.requires_grad]
            found = iter(torch.autograd.grad(again, wanted, gradients, create_graph=True, allow_unused=True))
            return None, None, *(next(found) if x.requires_grad else None for x in arguments)
        with autocast_disabled(arguments[0]):
            return None, None, *backward(ctx.rule, ctx.tokens, arguments, states, gradients)


def backward(
    rule: Rule,
    tokens: int,
    arguments: Sequence[torch.Tensor],
    states: Sequence[torch.Tensor],
    gradients: Sequence[torch.Tensor],
) -> list[torch.Tensor]:
    """By memory, momentum and all sequences, piece by piece from the last"""
    memory, _, *flat = arguments
    given = Sequences.of(flat, tokens)
    found = [torch.empty_like(x) for x in given.tokens]
    late = [
        torch.zeros(
            (x.shape[0], before.shape[1] + x.shape[1], *x.shape[2:]), dtype=upcast(x[:0]).dtype, device=x.device
        )
        for x, before in given.late
    ]
    g_o, *g_ends = gradients
    g_state = joined(*g_ends)
    workspace = Workspace(g_state)
    for (start, stop), state in reversed(list(zip(pieces(given.tokens[0], rule), states, strict=True))):
        inputs = [upcast(x).detach().requires_grad_() for x in given.piece(start, stop)]
        with torch.enable_grad():
            prepared = rule.prepare(*inputs)
        parts = Parts._make(None if x is None else x.detach() for x in prepared)
        done = run_in_place(parts, state, rule, workspace)
        by_part, g_state = reverse(parts, done, as_chunks(upcast(g_o[:, start:stop]), rule.size), g_state, rule)
        outputs = [(x, by_part[name]) for name, x in prepared._asdict().items() if name in by_part]
        roots, seeds = zip(*((x, g) for x, g in outputs if x.requires_grad), strict=True)
        pulled = torch.autograd.grad(roots, inputs, seeds, allow_unused=True, materialize_grads=True)
        for x, g in zip(found, pulled[:tokens], strict=True):
            x[:, start:stop] = g
        for x, (_, before), g in zip(late, given.late, pulled[tokens:], strict=True):
            x[:, start : stop + before.shape[1]] += g
    ends = parted(g_state, memory)
    for x, (like, before) in zip(late, given.late, strict=True):
        reach = before.shape[1]
        found += [x[:, reach:].to(like.dtype), x[:, :reach].to(before.dtype)]
    return [*ends, *found]
