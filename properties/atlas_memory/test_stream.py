"""Laws of the Omega rule on a stream, of one token at a time, and of the layer made of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from trueness.properties.atlas_memory.flat import STATE, TOKENS, advance, config
from trueness.properties.atlas_memory.flat import optimized as fast
from trueness.properties.atlas_memory.flat import reference as true
from trueness.properties.atlas_memory.problems import (
    Problem,
    each_mode,
    given,
    objectives,
    places,
    problem,
    reads,
    reduction,
    seeds,
    worst,
)
from trueness.tools.arithmetic.bounds import LIMITS, bounds
from trueness.tools.arithmetic.formats import precision, round_to

T = 7
sizes = st.fixed_dictionaries({x: st.integers(1, 2) for x in "BH"} | {x: st.integers(1, 3) for x in "PVc"})
cuts = st.sets(st.integers(1, T - 1)).map(lambda inner: [0, *sorted(inner), T])
# chunk size and cuts: whole chunks, parts of several tokens that begin, cross and end a chunk, and single tokens
ways = pytest.mark.parametrize(("chunk", "at"), [(1, (0, 1, 3, T)), (3, (0, 2, 4, 5, T)), (5, (0, 1, 2, T))])


def streamed(p: Problem, at: Sequence[int], tensors: dict[str, torch.Tensor], **how: Any) -> list[torch.Tensor]:
    """o, M_T, S_T of a stream that is cut ``at`` these tokens"""
    rule = fast.OmegaStream(config(p))
    state, found = rule.init_state(fast.OmegaState(*(tensors[name] for name in STATE))), []
    for start, end in pairwise(at):
        o, state = advance(rule, (tensors[name][:, start:end] for name in TOKENS), state, **how)
        found.append(o)
    return [torch.cat(found, 1), *rule.final_state(state)[:2]]


def native(p: Problem, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(p[name], dtype=dtype) for name in (*TOKENS, *STATE)}


# -- any split --------------------------------------------------------------------------------------------------------


@each_mode
@given(
    seed=seeds,
    size=sizes,
    chunk=st.integers(1, 5),
    objective=objectives,
    inside=places,
    before=reads,
    at=cuts,
)
def test_a_stream_cut_anywhere_is_one_call(
    optimizer: str,
    clip: float | None,
    seed: int,
    size: Any,
    chunk: int,
    objective: str,
    inside: bool,
    before: bool,
    at: Any,
) -> None:
    """Of the reference: whole chunks, parts of chunks and single tokens in any order."""
    p = problem(seed, size | {"T": T}, chunk_size=chunk, objective=objective, optimizer=optimizer)
    p |= {"lr_inside_momentum": inside, "read_before_update": before, "clip": clip}
    assert worst("omega", list(p.values()), streamed(p, at, native(p)), reduction(p)) <= LIMITS["fused"]


@each_mode
@given(
    seed=seeds,
    size=sizes,
    chunk=st.integers(1, 5),
    objective=objectives,
    inside=places,
    before=reads,
    at=cuts,
)
def test_so_are_its_gradients(
    optimizer: str,
    clip: float | None,
    seed: int,
    size: Any,
    chunk: int,
    objective: str,
    inside: bool,
    before: bool,
    at: Any,
) -> None:
    """By every tensor, through every state between two calls."""
    p = problem(seed, size | {"T": T}, chunk_size=chunk, objective=objective, optimizer=optimizer)
    p |= {"lr_inside_momentum": inside, "read_before_update": before, "clip": clip}
    leaves = {name: x.requires_grad_() for name, x in native(p).items()}
    out = streamed(p, at, leaves)
    generator = np.random.default_rng(seed)
    g = [generator.standard_normal(x.shape) for x in out]
    found = torch.autograd.grad(out, list(leaves.values()), [torch.from_numpy(x) for x in g], allow_unused=True)
    by_name = dict(zip(leaves, found, strict=True))
    order = [name for name in p if name in by_name]
    assert worst("omega_vjp", [*g, *p.values()], [by_name[x] for x in order], reduction(p)) <= LIMITS["fused"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@each_mode
@given(seed=seeds, size=sizes, chunk=st.integers(1, 5), at=cuts)
def test_a_stream_rounds_its_state_nowhere(
    optimizer: str, clip: float | None, dtype: str, seed: int, size: Any, chunk: int, at: Any
) -> None:
    """In bfloat16 too the state is float32: only the reads are rounded, and each of them once."""
    p = problem(seed, size | {"T": T}, chunk_size=chunk, optimizer=optimizer) | {"clip": clip}
    p = {name: round_to(x, dtype) if isinstance(x, np.ndarray) else x for name, x in p.items()}
    out = streamed(p, at, native(p, getattr(torch, dtype)))
    assert out[0].dtype == getattr(torch, dtype) and out[1].dtype == torch.float32
    fmt = precision(dtype)
    units = [fmt.u if isinstance(x, np.ndarray) else 0.0 for x in p.values()]
    found = bounds(true.omega, list(p.values()), units, fmt, reduction(p))
    assert max(b.ratio(x.double().numpy()).max() for b, x in zip(found, out, strict=True)) <= LIMITS["fused"]


def test_a_state_rounded_between_calls_is_not_one_call() -> None:
    """The law above can fail: memory and momentum in bfloat16 between two calls."""
    p = problem(3, {"B": 2, "T": T, "H": 2, "P": 3, "V": 3, "c": 2}, chunk_size=1)
    tensors, fmt = native(p, torch.float32), precision("float32")
    p = {name: tensors[name].double().numpy() if name in tensors else x for name, x in p.items()}
    rule = fast.OmegaStream(config(p))
    state = rule.init_state(fast.OmegaState(*(tensors[name] for name in STATE)))
    _, state = advance(rule, (tensors[name][:, :4] for name in TOKENS), state)
    state = state._replace(memory=state.memory.bfloat16().float(), momentum=state.momentum.bfloat16().float())
    _, state = advance(rule, (tensors[name][:, 4:] for name in TOKENS), state)
    units = [fmt.u if isinstance(x, np.ndarray) else 0.0 for x in p.values()]
    found = bounds(true.omega, list(p.values()), units, fmt, reduction(p))
    assert found[1].ratio(state.memory.double().numpy()).max() > LIMITS["eager"]


def test_a_stream_that_forgets_where_its_chunk_began_is_not_one_call() -> None:
    """And so it can for M̂ and the position."""
    p = problem(5, {"B": 1, "T": T, "H": 1, "P": 3, "V": 3, "c": 2}, chunk_size=4)
    rule, tensors = fast.OmegaStream(config(p)), native(p)
    for wrong in ("start", "position"):
        state, found = rule.init_state(fast.OmegaState(*(tensors[name] for name in STATE))), []
        for start, end in pairwise((0, 2, T)):
            o, state = advance(rule, (tensors[name][:, start:end] for name in TOKENS), state)
            found.append(o)
            if end == 2:
                state = state._replace(start=state.memory) if wrong == "start" else state._replace(position=0)
        assert (
            worst("omega", list(p.values()), [torch.cat(found, 1), *rule.final_state(state)[:2]], 3)
            > 2 * LIMITS["eager"]
        )


@ways
@each_mode
@given(seed=seeds, size=sizes)
def test_in_place_is_the_same_in_the_same_tensors(
    optimizer: str, clip: float | None, seed: int, size: Any, chunk: int, at: Any
) -> None:
    """And what ``init_state`` was given is left alone."""
    p = problem(seed, size | {"T": T}, chunk_size=chunk, optimizer=optimizer) | {"clip": clip}
    tensors = native(p)
    kept = {name: x.clone() for name, x in tensors.items()}
    found = streamed(p, at, tensors, inplace=True)
    assert worst("omega", list(p.values()), found, reduction(p)) <= LIMITS["fused"]
    assert all(torch.equal(tensors[name], kept[name]) for name in kept)
    rule = fast.OmegaStream(config(p))
    state = rule.init_state(fast.OmegaState(*(tensors[name] for name in STATE)))
    _, after = advance(rule, (tensors[name][:, :1] for name in TOKENS), state, inplace=True)
    same = ("momentum", "k_window", "v_window") if optimizer == "muon_chunk" else STATE
    assert all(getattr(after, name).data_ptr() == getattr(state, name).data_ptr() for name in same)


@ways
@each_mode
@given(seed=seeds, size=sizes, first=st.integers(0, 3))
def test_in_place_writes_over_one_state_alone(
    optimizer: str, clip: float | None, seed: int, size: Any, chunk: int, at: Any, first: int
) -> None:
    """Those before it can be taken up again: another way to go on from the same prompt."""
    p = problem(seed, size | {"T": T}, chunk_size=chunk, optimizer=optimizer) | {"clip": clip}
    rule, tensors = fast.OmegaStream(config(p)), native(p)
    states = [rule.init_state(fast.OmegaState(*(tensors[name] for name in STATE)))]
    parts = [[tensors[name][:, start:end] for name in TOKENS] for start, end in pairwise(at)]
    for part in parts[:first]:
        states.append(advance(rule, part, states[-1])[1])
    kept = [[x.clone() for x in state[:-1]] for state in states[:-1]]
    state = states[-1]
    for part in parts[first:]:
        _, state = advance(rule, part, state, inplace=True)
    for before, after in zip(kept, states, strict=False):
        assert all(torch.equal(x, y) for x, y in zip(before, after[:-1], strict=True))


@each_mode
@given(seed=seeds, size=sizes, chunk=st.integers(1, 5), at=cuts)
def test_heads_and_sequences_never_mix(
    optimizer: str, clip: float | None, seed: int, size: Any, chunk: int, at: Any
) -> None:
    """Another head, and another sequence, changed in every tensor: bit for bit the same in the first."""
    p = problem(seed, size | {"T": T, "B": 2, "H": 2}, chunk_size=chunk, optimizer=optimizer) | {"clip": clip}
    tensors = native(p)
    plain = streamed(p, at, tensors)
    for axis in ("batch", "head"):
        other = {name: x.clone() for name, x in tensors.items()}
        for name, x in other.items():
            heads = 1 if name in ("memory", "momentum") else 2
            x.select(0 if axis == "batch" else heads, 1).mul_(0.5)
        moved = streamed(p, at, other)
        for i, (a, b) in enumerate(zip(plain, moved, strict=True)):
            dim = 0 if axis == "batch" else (2 if i == 0 else 1)
            assert torch.equal(a.select(dim, 0), b.select(dim, 0))
        assert not torch.equal(plain[1], moved[1])


REFUSED: dict[str, Callable[[fast.OmegaStream, dict[str, Any], fast.OmegaStreamState], Any]] = {
    "state was dict": lambda rule, t, s: advance(rule, t.values(), {}),  # type: ignore[arg-type]
    "state.memory had shape": lambda rule, t, s: advance(rule, t.values(), s._replace(memory=s.memory[:1])),
    "state.k_window had shape": lambda rule, t, s: advance(rule, t.values(), s._replace(k_window=s.k_window[:, :0])),
    "state.position was 2; in chunks of 2": lambda rule, t, s: advance(rule, t.values(), s._replace(position=2)),
    "state.memory was torch.float64": lambda rule, t, s: advance(rule, (x.float() for x in t.values()), s),
    "k had shape": lambda rule, t, s: advance(rule, (t | {"k": t["k"][..., :1]}).values(), s),
    "inplace was True": lambda rule, t, s: advance(rule, (x.requires_grad_() for x in t.values()), s, inplace=True),
    "chunk_size was 0": lambda rule, t, s: fast.OmegaConfig(0),
    "optimizer was 'adam'": lambda rule, t, s: fast.OmegaConfig(optimizer="adam"),
    "momentum had shape": lambda rule, t, s: rule.init_state(
        fast.OmegaState(s.memory, s.momentum[:1], s.k_window, s.v_window)
    ),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_a_stream_refuses_what_does_not_fit(sentence: str) -> None:
    p = problem(0, {"B": 2, "T": 3, "H": 2, "P": 3, "V": 2, "c": 2}, chunk_size=2)
    tensors = native(p)
    rule = fast.OmegaStream(fast.OmegaConfig(2))
    state = rule.init_state(fast.OmegaState(*(tensors[name] for name in STATE)))
    with pytest.raises(ValueError, match=sentence):
        REFUSED[sentence](rule, {name: tensors[name] for name in TOKENS}, state)
