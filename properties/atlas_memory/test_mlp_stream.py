"""Laws of a memory of two layers on a stream, and of one token at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from trueness.properties.atlas_memory.flat import MLP, TOKENS, advance, config
from trueness.properties.atlas_memory.flat import optimized as fast
from trueness.properties.atlas_memory.flat import reference as true
from trueness.properties.atlas_memory.problems import Problem, given, mlp_problem, seeds
from trueness.tools.arithmetic.bounds import LIMITS, bounds
from trueness.tools.arithmetic.formats import precision, round_to

STATE = (*MLP, "k_window", "v_window")
T = 7
sizes = st.fixed_dictionaries({x: st.integers(1, 2) for x in "BH"} | {x: st.integers(1, 3) for x in "PVc"})
hidden = st.integers(1, 4)
chunks = st.integers(1, 5)
cuts = st.sets(st.integers(1, T - 1)).map(lambda inner: [0, *sorted(inner), T])
# chunk size and cuts: whole chunks, parts of several tokens that begin, cross and end a chunk, and single tokens
ways = pytest.mark.parametrize(("chunk", "at"), [(1, (0, 1, 3, T)), (3, (0, 2, 4, 5, T)), (5, (0, 1, 2, T))])
optimizers = pytest.mark.parametrize("optimizer", ["gd", "muon", "muon_chunk"])
places = pytest.mark.parametrize("inside", [False, True])
reads = pytest.mark.parametrize("before", [False, True])
formats = st.sampled_from(("float64", "float32"))


def drawn(seed: int, size: Any, N: int, dtype: str = "float64", **modes: Any) -> Problem:
    """T tokens whose numbers are of this format"""
    p = mlp_problem(seed, size | {"T": T}, N, **modes)
    return {name: round_to(x, dtype) if isinstance(x, np.ndarray) else x for name, x in p.items()}


def native(p: Problem, dtype: str = "float64") -> dict[str, torch.Tensor]:
    return {name: torch.tensor(p[name], dtype=getattr(torch, dtype)) for name in (*TOKENS, *STATE)}


def streamed(p: Problem, at: Sequence[int], tensors: dict[str, torch.Tensor], **how: Any) -> list[torch.Tensor]:
    """o, W1, W2, S1, S2 of a stream that is cut ``at`` these tokens"""
    rule = fast.OmegaMlpStream(config(p))
    state, found = rule.init_state(fast.OmegaMlpState(*(tensors[name] for name in STATE))), []
    for start, end in pairwise(at):
        o, state = advance(rule, (tensors[name][:, start:end] for name in TOKENS), state, **how)
        found.append(o)
    return [torch.cat(found, 1), *rule.final_state(state)[:4]]


def worst(
    function: Callable[..., Any], given: Sequence[Any], found: Sequence[torch.Tensor | None], n: int, dtype: str
) -> float:
    """The largest T of the outputs of one call of the reference; a gradient that is None is zero."""
    fmt = precision(dtype)
    units = [fmt.u if isinstance(x, np.ndarray) else 0.0 for x in given]
    ratios = []
    for bound, x in zip(bounds(function, given, units, fmt, n), found, strict=True):
        ratios.append(bound.ratio(np.zeros(bound.y.shape) if x is None else x.detach().double().numpy()))
    return float(max(ratio.max(initial=0) for ratio in ratios))


def longest(p: Problem) -> int:
    """The longest sum, as the formula has it: V + N + T + c"""
    return p["w1"].shape[-2] + p["w1"].shape[-1] + T + p["gamma"].shape[-1]


# -- any split --------------------------------------------------------------------------------------------------------


@optimizers
@places
@reads
@given(dtype=formats, seed=seeds, size=sizes, N=hidden, chunk=chunks, at=cuts)
def test_two_layers_cut_anywhere_are_one_call(
    optimizer: str, inside: bool, before: bool, dtype: str, seed: int, size: Any, N: int, chunk: int, at: Any
) -> None:
    """Of the reference: whole chunks, parts of chunks and single tokens in any order."""
    p = drawn(
        seed,
        size,
        N,
        dtype,
        chunk_size=chunk,
        optimizer=optimizer,
        lr_inside_momentum=inside,
        read_before_update=before,
    )
    out = streamed(p, at, native(p, dtype))
    assert all(x.dtype == getattr(torch, dtype) for x in out)
    assert worst(true.omega_mlp, list(p.values()), out, longest(p), dtype) <= LIMITS["fused"]


@optimizers
@places
@reads
@given(dtype=formats, seed=seeds, size=sizes, N=hidden, chunk=chunks, at=cuts)
def test_so_are_their_gradients(
    optimizer: str, inside: bool, before: bool, dtype: str, seed: int, size: Any, N: int, chunk: int, at: Any
) -> None:
    """By every tensor, through every state between two calls."""
    p = drawn(
        seed,
        size,
        N,
        dtype,
        chunk_size=chunk,
        optimizer=optimizer,
        lr_inside_momentum=inside,
        read_before_update=before,
    )
    leaves = {name: x.requires_grad_() for name, x in native(p, dtype).items()}
    out = streamed(p, at, leaves)
    generator = np.random.default_rng(seed)
    g = [round_to(generator.standard_normal(x.shape), dtype) for x in out]
    pulled = [torch.tensor(x, dtype=getattr(torch, dtype)) for x in g]
    found = torch.autograd.grad(out, list(leaves.values()), pulled, allow_unused=True)
    assert worst(true.omega_mlp_vjp, [*g, *p.values()], found, longest(p), dtype) <= LIMITS["fused"]


@optimizers
@given(seed=seeds, size=sizes, N=hidden, chunk=chunks)
def test_token_by_token_is_one_call(optimizer: str, seed: int, size: Any, N: int, chunk: int) -> None:
    """No chunk at all: the step of a decoder, and in place the same bit for bit."""
    p = drawn(seed, size, N, chunk_size=chunk, optimizer=optimizer)
    found, again = (streamed(p, range(T + 1), native(p), inplace=x) for x in (False, True))
    assert worst(true.omega_mlp, list(p.values()), found, longest(p), "float64") <= LIMITS["fused"]
    assert all(torch.equal(x, y) for x, y in zip(found, again, strict=True))


@optimizers
@given(seed=seeds, size=sizes, N=hidden, chunk=chunks, at=cuts)
def test_the_state_of_half_precision_is_float32(
    optimizer: str, seed: int, size: Any, N: int, chunk: int, at: Any
) -> None:
    """Of bfloat16 tokens only the reads are rounded, and each of them once."""
    p = drawn(seed, size, N, "bfloat16", chunk_size=chunk, optimizer=optimizer)
    o, *end = streamed(p, at, native(p, "bfloat16"))
    wide = streamed(p, at, native(p, "float32"))
    assert o.dtype == torch.bfloat16 and torch.equal(o, wide[0].bfloat16())
    assert all(x.dtype == torch.float32 and torch.equal(x, y) for x, y in zip(end, wide[1:], strict=True))


# -- that the laws can fail -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "wrong"),
    [("gd", "start"), ("gd", "position"), ("muon", "start"), ("muon_chunk", "share"), ("muon_chunk", "position")],
)
def test_a_stream_that_forgets_its_chunk_is_not_one_call(optimizer: str, wrong: str) -> None:
    """Ŵ, the sums that wait for the end of the chunk, or the position"""
    p = drawn(5, {"B": 1, "H": 1, "P": 3, "V": 3, "c": 2}, 4, chunk_size=4, optimizer=optimizer)
    rule, tensors = fast.OmegaMlpStream(config(p)), native(p)
    state, found = rule.init_state(fast.OmegaMlpState(*(tensors[name] for name in STATE))), []
    for start, end in pairwise((0, 2, T)):
        o, state = advance(rule, (tensors[name][:, start:end] for name in TOKENS), state)
        found.append(o)
        if end == 2:
            forgets = {
                "start": {"start1": state.w1, "start2": state.w2},
                "share": {"kept": torch.ones_like(state.kept), "moved": torch.zeros_like(state.moved)},
                "position": {"position": 0},
            }
            state = state._replace(**forgets[wrong])
    out = [torch.cat(found, 1), *rule.final_state(state)[:4]]
    assert worst(true.omega_mlp, list(p.values()), out, longest(p), "float64") > 2 * LIMITS["eager"]


# -- what a state is --------------------------------------------------------------------------------------------------


@ways
@optimizers
@given(seed=seeds, size=sizes, N=hidden)
def test_in_place_is_the_same(optimizer: str, seed: int, size: Any, N: int, chunk: int, at: Any) -> None:
    """Whatever the pieces are; and what ``init_state`` was given is left alone."""
    p = drawn(seed, size, N, chunk_size=chunk, optimizer=optimizer)
    tensors = native(p)
    given = {name: x.clone() for name, x in tensors.items()}
    found = streamed(p, at, tensors, inplace=True)
    assert worst(true.omega_mlp, list(p.values()), found, longest(p), "float64") <= LIMITS["fused"]
    assert all(torch.equal(tensors[name], given[name]) for name in given)


@optimizers
@given(seed=seeds, size=sizes, N=hidden)
def test_within_a_chunk_a_token_in_place_needs_no_new_state(optimizer: str, seed: int, size: Any, N: int) -> None:
    """Weights, their start, momenta and window lie where they lay."""
    p = drawn(seed, size, N, chunk_size=T, optimizer=optimizer)
    rule, tensors = fast.OmegaMlpStream(config(p)), native(p)
    _, state = advance(
        rule,
        (tensors[name][:, :1] for name in TOKENS),
        rule.init_state(fast.OmegaMlpState(*(tensors[x] for x in STATE))),
        inplace=True,
    )
    where = [x.data_ptr() for x in state[:8]]
    for t in range(1, T - 1):
        _, state = advance(rule, (tensors[name][:, t : t + 1] for name in TOKENS), state, inplace=True)
        assert where == [x.data_ptr() for x in state[:8]]


@ways
@optimizers
@given(seed=seeds, size=sizes, N=hidden, first=st.integers(0, 3))
def test_in_place_writes_over_one_state_alone(
    optimizer: str, seed: int, size: Any, N: int, chunk: int, at: Any, first: int
) -> None:
    """Those before it can be taken up again: another way to go on from the same prompt."""
    p = drawn(seed, size, N, chunk_size=chunk, optimizer=optimizer)
    rule, tensors = fast.OmegaMlpStream(config(p)), native(p)
    states = [rule.init_state(fast.OmegaMlpState(*(tensors[name] for name in STATE)))]
    parts = [[tensors[name][:, start:end] for name in TOKENS] for start, end in pairwise(at)]
    for part in parts[:first]:
        states.append(advance(rule, part, states[-1])[1])
    kept = [[x.clone() for x in state[:-1]] for state in states[:-1]]
    state = states[-1]
    for part in parts[first:]:
        _, state = advance(rule, part, state, inplace=True)
    for before, after in zip(kept, states, strict=False):
        assert all(torch.equal(x, y) for x, y in zip(before, after[:-1], strict=True))


@optimizers
@given(seed=seeds, size=sizes, N=hidden, chunk=chunks, at=cuts)
def test_heads_and_sequences_never_mix(optimizer: str, seed: int, size: Any, N: int, chunk: int, at: Any) -> None:
    """Another head, and another sequence, changed in every tensor: bit for bit the same in the first."""
    p = drawn(seed, size | {"B": 2, "H": 2}, N, chunk_size=chunk, optimizer=optimizer)
    tensors = native(p)
    plain = streamed(p, at, tensors)
    for axis in ("batch", "head"):
        other = {name: x.clone() for name, x in tensors.items()}
        for name, x in other.items():
            x.select(0 if axis == "batch" else (1 if name in MLP else 2), 1).mul_(0.5)
        moved = streamed(p, at, other)
        for i, (a, b) in enumerate(zip(plain, moved, strict=True)):
            dim = 0 if axis == "batch" else (2 if i == 0 else 1)
            assert torch.equal(a.select(dim, 0), b.select(dim, 0))
        assert not torch.equal(plain[1], moved[1])


def test_a_detached_state_has_its_numbers_and_no_history() -> None:
    p = drawn(1, {"B": 1, "H": 2, "P": 2, "V": 2, "c": 2}, 3, chunk_size=4, optimizer="muon_chunk")
    rule, tensors = fast.OmegaMlpStream(config(p)), native(p)
    leaves = {name: x.requires_grad_() for name, x in tensors.items()}
    _, state = advance(
        rule,
        (leaves[name][:, :5] for name in TOKENS),
        rule.init_state(fast.OmegaMlpState(*(leaves[name] for name in STATE))),
    )
    bare = state.detach()
    assert bare.position == state.position == 1
    for a, b in zip(state[:-1], bare[:-1], strict=True):
        assert a.requires_grad and torch.equal(a, b) and not b.requires_grad


def test_a_long_prompt_is_not_kept_for_its_window() -> None:
    tensors = native(drawn(0, {"B": 1, "H": 1, "P": 2, "V": 2, "c": 2}, 2))
    M, windows = torch.zeros(1, 1, 2, 2, dtype=torch.float64), [tensors[name] for name in STATE[4:]]
    one = fast.OmegaConfig(1)
    mlp, linear = fast.OmegaMlpStream(one), fast.OmegaStream(one)
    two_layers = mlp.init_state(fast.OmegaMlpState(*(tensors[name] for name in STATE)))
    for rule, start in ((mlp, two_layers), (linear, linear.init_state(fast.OmegaState(M, M, *windows)))):
        _, state = advance(rule, (tensors[name] for name in TOKENS), start)
        assert torch.equal(state.k_window, tensors["k"][:, -1:])
        assert state.k_window.untyped_storage().nbytes() < tensors["k"].untyped_storage().nbytes()


# -- what is refused --------------------------------------------------------------------------------------------------


def linear() -> fast.OmegaStreamState:
    """The state of another rule"""
    M, window = torch.zeros(2, 2, 3, 3, dtype=torch.float64), torch.zeros(2, 1, 2, 3, dtype=torch.float64)
    return fast.OmegaStream(fast.OmegaConfig(2)).init_state(fast.OmegaState(M, M, window, window))


REFUSED: dict[str, Callable[[fast.OmegaMlpStream, dict[str, Any], fast.OmegaMlpStreamState], Any]] = {
    "state was dict; it must be an OmegaMlpStreamState": lambda rule, t, s: advance(rule, t.values(), {}),  # type: ignore[arg-type]
    "state was OmegaStreamState; it": lambda rule, t, s: advance(rule, t.values(), linear()),  # type: ignore[arg-type]
    "state was OmegaMlpStreamState; it": lambda rule, t, s: advance(
        fast.OmegaStream(fast.OmegaConfig(2)), t.values(), s
    ),  # type: ignore[arg-type]
    "state.position was 1; in chunks of 1": lambda rule, t, s: advance(
        fast.OmegaMlpStream(fast.OmegaConfig(1)), t.values(), one_on(rule, t, s)
    ),
    "state.w1 had shape": lambda rule, t, s: advance(rule, t.values(), s._replace(w1=s.w1[:1])),
    "state.s2 had shape": lambda rule, t, s: advance(rule, t.values(), s._replace(s2=s.s2[..., :1])),
    "state.start2 had shape": lambda rule, t, s: advance(rule, t.values(), s._replace(start2=s.start1)),
    "state.k_window had shape": lambda rule, t, s: advance(rule, t.values(), s._replace(k_window=s.k_window[:, :0])),
    "state.kept had shape": lambda rule, t, s: advance(rule, t.values(), s._replace(kept=s.kept[:1])),
    "state.w1 was torch.float64": lambda rule, t, s: advance(rule, (x.float() for x in t.values()), s),
    "v had shape": lambda rule, t, s: advance(rule, (t | {"v": t["v"][..., :1]}).values(), s),
    "inplace was True": lambda rule, t, s: advance(rule, (x.requires_grad_() for x in t.values()), s, inplace=True),
    "chunk_size was 0": lambda rule, t, s: fast.OmegaConfig(0),
    "optimizer was 'norm_ema'; a memory of two": lambda rule, t, s: fast.OmegaMlpStream(
        fast.OmegaConfig(optimizer="norm_ema")
    ),
    "read_before_update was 'both'": lambda rule, t, s: fast.OmegaConfig(read_before_update="both"),
    "w2 had shape": lambda rule, t, s: rule.init_state(
        fast.OmegaMlpState(s.w1, s.w1, s.s1, s.s2, s.k_window, s.v_window)
    ),
    "v_window had shape": lambda rule, t, s: rule.init_state(
        fast.OmegaMlpState(*s[:4], s.k_window, s.v_window[..., :1])
    ),
}


def one_on(rule: fast.OmegaMlpStream, t: dict[str, Any], state: fast.OmegaMlpStreamState) -> fast.OmegaMlpStreamState:
    """The state one token later"""
    return advance(rule, (x[:, :1] for x in t.values()), state)[1]


@pytest.mark.parametrize("sentence", REFUSED)
def test_a_stream_of_two_layers_refuses_what_does_not_fit(sentence: str) -> None:
    p = drawn(0, {"B": 2, "H": 2, "P": 3, "V": 3, "c": 2}, 4)
    tensors = native(p)
    rule = fast.OmegaMlpStream(fast.OmegaConfig(2))
    state = rule.init_state(fast.OmegaMlpState(*(tensors[name] for name in STATE)))
    with pytest.raises(ValueError, match=sentence):
        REFUSED[sentence](rule, {name: tensors[name] for name in TOKENS}, state)
