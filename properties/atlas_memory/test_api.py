"""The public functions as users call them: configuration, states, sequences in one row, and what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from trueness.optimized import atlas_memory as fast
from trueness.properties.atlas_memory.flat import GATES, STATE
from trueness.properties.atlas_memory.problems import assert_equal_within, mlp_problem, problem
from trueness.reference import atlas_memory as true

SIZE = {"B": 2, "T": 7, "H": 2, "P": 3, "V": 2, "c": 3}


def drawn(**given: Any) -> tuple[list[torch.Tensor], dict[str, torch.Tensor], fast.OmegaState]:
    """q, k, v; the gates by name; a state"""
    p = {name: torch.from_numpy(x) for name, x in problem(1, SIZE | given).items() if isinstance(x, np.ndarray)}
    return [p[x] for x in "qkv"], {x: p[x] for x in GATES}, fast.OmegaState(*(p[x] for x in STATE))


def assert_same_rule(
    want: Sequence[torch.Tensor],
    out: Sequence[torch.Tensor],
    tokens: list[torch.Tensor],
    gates: dict[str, torch.Tensor],
    state: fast.OmegaState,
    config: fast.OmegaConfig = fast.OmegaConfig(),  # noqa: B008
) -> None:
    """Outputs, memories and momenta of two honest computations of one call"""
    tensors = [x.numpy() for x in (*tokens, *gates.values(), *state)]
    arguments = [*tensors, *dataclasses.astuple(config)]
    assert_equal_within([x.numpy() for x in want], [x.numpy() for x in out], "omega", arguments)


def test_the_options_of_both_sides_are_the_same() -> None:
    ours, theirs = ([(f.name, f.default) for f in dataclasses.fields(x.OmegaConfig)] for x in (fast, true))
    assert ours == theirs
    for name in ("OmegaState", "SeparableState", "OmegaMlpState"):
        assert getattr(fast, name)._fields == getattr(true, name)._fields


def test_without_a_state_a_call_begins_with_zeros() -> None:
    tokens, gates, state = drawn()
    zeros = fast.OmegaState(*(torch.zeros_like(x) for x in state))
    o, end = fast.omega(*tokens, **gates)
    want, _ = fast.omega(*tokens, **gates, initial_state=zeros)
    assert end is None and torch.equal(o, want)
    assert not torch.equal(o, fast.omega(*tokens, **gates, initial_state=state)[0])


@pytest.mark.parametrize("optimizer", ["gd", "muon", "muon_chunk"])
def test_the_final_state_is_the_initial_one_of_the_next_call(optimizer: str) -> None:
    """At the end of a chunk: the window bit for bit, and the rest within the bound of one call"""
    tokens, gates, first = drawn()
    state = first
    config = fast.OmegaConfig(4, optimizer=optimizer)
    whole, last = fast.omega(*tokens, **gates, config=config, initial_state=state, output_final_state=True)
    reads = []
    for part in (slice(0, 4), slice(4, 7)):
        some, each = [x[:, part] for x in tokens], {n: x[:, part] for n, x in gates.items()}
        o, state = fast.omega(*some, **each, config=config, initial_state=state, output_final_state=True)  # type: ignore[assignment]
        reads.append(o)
    assert last is not None
    found = [torch.cat(reads, 1), state.memory, state.momentum]
    assert_same_rule([whole, last.memory, last.momentum], found, tokens, gates, first, config)
    assert torch.equal(state.k_window, last.k_window) and torch.equal(state.v_window, last.v_window)
    assert torch.equal(last.k_window, tokens[1][:, -2:]) and torch.equal(last.v_window, tokens[2][:, -2:])


def test_sequences_in_one_row_end_with_the_windows_of_their_own() -> None:
    tokens, gates, _ = drawn(B=1, T=9)
    ends = torch.tensor([0, 1, 1, 9])
    before = drawn(B=3, T=1)[2]
    rows = {"config": fast.OmegaConfig(2), "initial_state": before, "output_final_state": True}
    o, end = fast.omega(*tokens, **gates, **rows, cu_seqlens=ends)  # type: ignore[arg-type]
    assert end is not None
    for i, (start, stop) in enumerate([(0, 1), (1, 1), (1, 9)]):
        own = fast.OmegaState(*(x[i : i + 1] for x in before))
        found = [x[i : i + 1] for x in end]
        if start == stop:
            assert all(torch.equal(x, y) for x, y in zip(found, own, strict=True))
            continue
        part = slice(start, stop)
        some, each = [x[:, part] for x in tokens], {n: x[:, part] for n, x in gates.items()}
        want, state = fast.omega(*some, **each, **rows | {"initial_state": own})  # type: ignore[arg-type]
        assert state is not None
        out = [o[:, part], *found[:2]]
        assert_same_rule([want, *state[:2]], out, some, each, own, rows["config"])  # type: ignore[arg-type]
        assert all(torch.equal(x, y) for x, y in zip(found[2:], state[2:], strict=True))
    shapes = [tuple(x.shape) for x in fast.omega(*tokens, **gates, cu_seqlens=ends, output_final_state=True)[1] or ()]
    assert shapes == [tuple(x.shape) for x in before], "without a state there are as many as sequences"


def test_two_layers_begin_with_their_weights() -> None:
    p = mlp_problem(0, SIZE | {"V": 3}, 4)
    given = {name: torch.from_numpy(x) for name, x in p.items() if isinstance(x, np.ndarray)}
    tokens, gates = [given[x] for x in "qkv"], {x: given[x] for x in GATES}
    state = fast.OmegaMlpState.from_weights(given["w1"], given["w2"], window=3)
    o, end = fast.omega_mlp(*tokens, **gates, initial_state=state, output_final_state=True)
    assert o.shape == tokens[0].shape and end is not None
    assert [x.shape for x in end] == [x.shape for x in state]
    assert torch.equal(end.k_window, tokens[1][:, -2:])
    assert (end.s1 != 0).any() and not state.s1.any()


def test_separable_windows_are_as_long_as_they_are_said_to_be() -> None:
    tokens, gates, state = drawn()
    rest = {x: gates[x] for x in GATES[:3]}
    weights = {"scale": gates["eta"], "source": gates["alpha"]}
    o, end = fast.omega_separable(*tokens, **rest, **weights, window=3, output_final_state=True)
    assert end is not None and end.source_window.shape[1] == 2
    assert torch.equal(end.source_window, gates["alpha"][:, -2:])
    sources = torch.nn.functional.pad(gates["alpha"], (0, 0, 2, 0))
    gamma = torch.stack([gates["eta"] * sources[:, 2 - j : 9 - j] for j in range(3)], -1)
    want, _ = fast.omega(*tokens, **rest, gamma=gamma)
    zeros = fast.OmegaState(*(torch.zeros_like(x) for x in state))
    assert_same_rule([want], [o], tokens, rest | {"gamma": gamma}, zeros)
    with pytest.raises(ValueError, match="window was 2; with this initial_state it must be 3"):
        fast.omega_separable(*tokens, **rest, **weights, window=2, initial_state=end)


CONFIGS: dict[str, dict[str, Any]] = {
    "chunk_size was 0; it must be an integer": {"chunk_size": 0},
    "chunk_size was True": {"chunk_size": True},
    "objective was 'l1'; allowed are 'l2', 'dot'": {"objective": "l1"},
    "optimizer was 'adam'; allowed are 'gd', 'muon', 'muon_chunk', 'norm_ema'": {"optimizer": "adam"},
    "lr_inside_momentum was 'inner'; it must be True or False": {"lr_inside_momentum": "inner"},
    "read_before_update was 1; it must be True or False": {"read_before_update": 1},
    "clip was 0.0; it must be a positive number": {"clip": 0.0},
}


@pytest.mark.parametrize("sentence", CONFIGS)
def test_a_configuration_refuses_what_there_is_not(sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        fast.OmegaConfig(**CONFIGS[sentence])


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        fast.OmegaConfig().chunk_size = 2  # type: ignore[misc]


CALLS: dict[str, dict[str, Any]] = {
    "initial_state was tuple; it must be an OmegaState": {"initial_state": ()},
    "tile was 0; it must be an integer": {"tile": 0},
    "with cu_seqlens it must be \\(1, T, H, P\\)": {"cu_seqlens": torch.tensor([0, 7])},
    "eta had shape": {"eta": torch.zeros(1)},
}


@pytest.mark.parametrize("sentence", CALLS)
def test_a_call_refuses_what_does_not_fit(sentence: str) -> None:
    tokens, gates, _ = drawn()
    with pytest.raises(ValueError, match=sentence):
        fast.omega(*tokens, **gates | CALLS[sentence])
