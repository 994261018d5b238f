"""A call of the Omega rule in segments: the graph keeps one state per segment and recomputes the rest backward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from trueness.optimized._lib.dispatch import needs_plain_ops
from trueness.optimized._lib.dtypes import autocast_disabled, upcast
from trueness.optimized._lib.workspace import Workspace
from trueness.optimized.atlas_memory.chunk_terms import ChunkTerms
from trueness.optimized.atlas_memory.gd.recurrence import Plan, read, read_in_place, reverse, run, run_in_place

ELEMENTS = 1 << 18  # of the queries of one segment, so that its tensors stay in the cache
DEVICE_ELEMENTS = 1 << 22  # the same on other devices


class Sequences(NamedTuple):
    """The tensors of a call.

    tokens    (B, T, H, …) tensors, queries first
    windowed  pairs of (B, T, H, …) and (B, c − 1, H, …): tensors that a window looks back on, and their past
    """

    tokens: tuple[torch.Tensor, ...]
    windowed: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    def flat(self) -> tuple[torch.Tensor, ...]:
        return (*self.tokens, *(x for pair in self.windowed for x in pair))

    @staticmethod
    def of(tensors: Sequence[torch.Tensor], tokens: int) -> Sequences:
        """The inverse of ``flat``"""
        rest = tensors[tokens:]
        return Sequences(tuple(tensors[:tokens]), tuple(zip(rest[::2], rest[1::2], strict=True)))

    def segment(self, start: int, stop: int) -> list[torch.Tensor]:
        """The tokens from ``start`` to ``stop``, and of the windowed tensors c − 1 more before them"""
        found = [x[:, start:stop] for x in self.tokens]
        for x, before in self.windowed:
            reach = before.shape[1]
            if start >= reach:
                found.append(x[:, start - reach : stop])
            else:
                found.append(torch.cat([before[:, start:], x[:, :stop]], 1))
        return found


def iter_segments(q: torch.Tensor, plan: Plan) -> Iterator[tuple[int, int]]:
    """Start and stop of segments: whole chunks, few enough for the cache, but at least ``plan.least`` tokens"""
    B, T, H, P = q.shape
    most = ELEMENTS if q.device.type == "cpu" else DEVICE_ELEMENTS
    step = plan.size * max(most // max(B * H * plan.size * P, 1), -(-plan.least // plan.size), 1)
    return ((start, min(start + step, T)) for start in range(0, T, step))


def join_state(memory: torch.Tensor, momentum: torch.Tensor) -> torch.Tensor:
    """[M, S] (B H, P, 2 V)"""
    return torch.cat([upcast(memory), upcast(momentum)], -1).flatten(0, 1)


def split_state(state: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """M and S (B, H, P, V) like ``like``"""
    M, S = state.to(like.dtype).unflatten(0, like.shape[:2]).chunk(2, -1)
    return M.contiguous(), S.contiguous()


def to_tokens(x: torch.Tensor, batch: int, length: int) -> torch.Tensor:
    """(N, B H, C, V) as (B, T, H, V)"""
    return x.unflatten(1, (batch, -1)).movedim((1, 0, 3), (0, 1, 2)).flatten(1, 2)[:, :length]


def to_chunks(x: torch.Tensor, size: int) -> torch.Tensor:
    """(B, T, H, V) as (N, B H, C, V), zeros at the end"""
    more = -x.shape[1] % size
    x = torch.nn.functional.pad(x, (0, 0, 0, 0, 0, more)) if more else x
    return x.unflatten(1, (-1, size)).movedim((1, 0, 3), (0, 1, 2)).contiguous().flatten(1, 2)


def omega(
    plan: Plan, given: Sequences, memory: torch.Tensor, momentum: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """o (B, T, H, V), M and S after the last token, in the format of the queries"""
    flat = given.flat()
    if needs_plain_ops(memory):
        return unsegmented(plan, given, memory, momentum)
    if torch.is_grad_enabled() and any(x.requires_grad for x in (*flat, memory, momentum)):
        return SegmentedOmega.apply(plan, len(given.tokens), memory, momentum, *flat)  # type: ignore[no-any-return, no-untyped-call]
    o, state, _ = forward(plan, given, memory, momentum, keep=False)
    return o, *split_state(state, memory)


def unsegmented(
    plan: Plan, given: Sequences, memory: torch.Tensor, momentum: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The whole sequence as one segment, in operations that autograd and compilers see"""
    B, T = given.tokens[0].shape[:2]
    with autocast_disabled(memory):
        terms = plan.prepare(*(upcast(x) for x in given.segment(0, T)))
        done = run(terms, join_state(memory, momentum), plan)
        return to_tokens(read(terms, done), B, T).to(memory.dtype), *split_state(done.states[-1], memory)


def forward(
    plan: Plan, given: Sequences, memory: torch.Tensor, momentum: torch.Tensor, keep: bool
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """o, the state after the last token, and with ``keep`` the states before every segment"""
    q = given.tokens[0]
    B, T, H, _ = q.shape
    o = torch.empty((B, T, H, memory.shape[-1]), dtype=q.dtype, device=q.device)
    states = []
    with autocast_disabled(q):
        state = join_state(memory, momentum)
        workspace = Workspace(state)
        for start, stop in iter_segments(q, plan):
            states += [state.clone()] if keep else []
            terms = plan.prepare(*(upcast(x) for x in given.segment(start, stop)), workspace=workspace)
            done = run_in_place(terms, state, plan, workspace)
            o[:, start:stop] = to_tokens(read_in_place(terms, done, workspace), B, stop - start)
            state = done.states[-1]
    return o, state, states


class SegmentedOmega(torch.autograd.Function):
    """The rule with its backward: memory for the arguments, their gradients and one state per segment."""

    @staticmethod
    def forward(
        ctx: Any, plan: Plan, tokens: int, memory: torch.Tensor, momentum: torch.Tensor, *flat: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        o, state, states = forward(plan, Sequences.of(flat, tokens), memory, momentum, keep=True)
        ctx.plan, ctx.tokens, ctx.kept = plan, tokens, len(states)
        ctx.save_for_backward(memory, momentum, *flat, *states)
        return o, *split_state(state, memory)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        saved = ctx.saved_tensors
        arguments, states = saved[: len(saved) - ctx.kept], saved[len(saved) - ctx.kept :]
        if torch.is_grad_enabled():  # a gradient of this gradient is wanted
            outputs = unsegmented(ctx.plan, Sequences.of(arguments[2:], ctx.tokens), *arguments[:2])
            wanted = [x for x in arguments if x.requires_grad]
            found = iter(torch.autograd.grad(outputs, wanted, gradients, create_graph=True, allow_unused=True))
            return None, None, *(next(found) if x.requires_grad else None for x in arguments)
        with autocast_disabled(arguments[0]):
            return None, None, *backward(ctx.plan, ctx.tokens, arguments, states, gradients)


def backward(
    plan: Plan,
    tokens: int,
    arguments: Sequence[torch.Tensor],
    states: Sequence[torch.Tensor],
    gradients: Sequence[torch.Tensor],
) -> list[torch.Tensor]:
    """Gradients by memory, momentum and all sequences, segment by segment from the last"""
    memory, _, *flat = arguments
    given = Sequences.of(flat, tokens)
    found = [torch.empty_like(x) for x in given.tokens]
    found_windowed = [
        torch.zeros(
            (x.shape[0], before.shape[1] + x.shape[1], *x.shape[2:]), dtype=upcast(x[:0]).dtype, device=x.device
        )
        for x, before in given.windowed
    ]
    g_o, *g_ends = gradients
    g_state = join_state(*g_ends)
    workspace = Workspace(g_state)
    for (start, stop), state in reversed(list(zip(iter_segments(given.tokens[0], plan), states, strict=True))):
        inputs = [upcast(x).detach().requires_grad_() for x in given.segment(start, stop)]
        with torch.enable_grad():
            prepared = plan.prepare(*inputs)
        terms = ChunkTerms._make(None if x is None else x.detach() for x in prepared)
        done = run_in_place(terms, state, plan, workspace)
        by_term, g_state = reverse(terms, done, to_chunks(upcast(g_o[:, start:stop]), plan.size), g_state, plan)
        outputs = [(x, by_term[name]) for name, x in prepared._asdict().items() if name in by_term]
        roots, seeds = zip(*((x, g) for x, g in outputs if x.requires_grad), strict=True)
        pulled = torch.autograd.grad(roots, inputs, seeds, allow_unused=True, materialize_grads=True)
        for x, g in zip(found, pulled[:tokens], strict=True):
            x[:, start:stop] = g
        for x, (_, before), g in zip(found_windowed, given.windowed, pulled[tokens:], strict=True):
            x[:, start : stop + before.shape[1]] += g
    ends = split_state(g_state, memory)
    for x, (like, before) in zip(found_windowed, given.windowed, strict=True):
        reach = before.shape[1]
        found += [x[:, reach:].to(like.dtype), x[:, :reach].to(before.dtype)]
    return [*ends, *found]
