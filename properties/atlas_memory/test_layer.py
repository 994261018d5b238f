"""Laws of AtlasAttention, the layer of a network made of the Omega rule."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import strategies as st

from trueness.optimized import adapters
from trueness.optimized import atlas_memory as fast
from trueness.properties.atlas_memory.problems import F64, given, seeds
from trueness.tools.arithmetic.bounds import LIMITS
from trueness.tools.arithmetic.formats import precision

each_memory = pytest.mark.parametrize("memory", ["linear", "mlp"])


def layer(seed: int, **given: Any) -> tuple[fast.AtlasAttention, torch.Tensor]:
    """A layer in float64 with weights that are not those of the start, and two sequences of six tokens."""
    torch.manual_seed(seed)
    options = {name: given.pop(name) for name in ("optimizer", "chunk_size") if name in given}
    config = fast.OmegaConfig(**{"chunk_size": 2} | options)
    made = fast.AtlasAttention(8, 2, config=config, **{"window": 3, "conv_size": 3} | given).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made, torch.randn(2, 6, 8, dtype=torch.float64)


def in_parts(made: fast.AtlasAttention, x: torch.Tensor, at: Sequence[int]) -> list[torch.Tensor]:
    """Output and end of a stream that is cut ``at`` these tokens, and the gradients of Σ y² by all parameters"""
    state, found = None, []
    for start, end in pairwise(at):
        y, state = made(x[:, start:end], state, output_final_state=True)
        found.append(y)
    assert state is not None
    y = torch.cat(found, 1)
    gradients = torch.autograd.grad((y * y).sum(), list(made.parameters()))
    return [y, *final(made, state), state.inputs, *gradients]


def final(made: fast.AtlasAttention, state: fast.AtlasState) -> list[torch.Tensor]:
    """Memory or weights, and momenta, after the last token"""
    end = made.stream.final_state(state.omega)  # type: ignore[arg-type]
    return list(end[:-2])


@torch.no_grad()
def spread(made: torch.nn.Module, x: torch.Tensor, runs: int = 4) -> torch.Tensor:
    """D of the output alone"""
    plain, kept = made(x), {k: v.clone() for k, v in made.state_dict().items()}
    total = torch.zeros_like(plain)
    for _ in range(runs):
        made.load_state_dict({k: moved_by_a_rounding(v) for k, v in kept.items()})
        total += (made(moved_by_a_rounding(x)) - plain) ** 2 / runs
    made.load_state_dict(kept)
    return total.mean(-1, keepdim=True).sqrt()


def moved_by_a_rounding(z: torch.Tensor) -> torch.Tensor:
    """Every element by one unit in the last place, up or down"""
    return z * (1 + 2 * F64.u * (2.0 * torch.randint(0, 2, z.shape, dtype=z.dtype) - 1))


def shaken(made: fast.AtlasAttention, x: torch.Tensor, runs: int = 2) -> list[torch.Tensor]:
    """D of all that ``in_parts`` gives: how far it moves when weights and inputs move by one unit in the last place."""
    plain = in_parts(made, x, (0, 6))
    total = [torch.zeros(())] * len(plain)
    kept, x_kept = {k: v.clone() for k, v in made.state_dict().items()}, x
    for _ in range(runs):
        made.load_state_dict({k: moved_by_a_rounding(v) for k, v in kept.items()})
        moved = in_parts(made, moved_by_a_rounding(x_kept), (0, 6))
        total = [t + (a - b) ** 2 / runs for t, a, b in zip(total, moved, plain, strict=True)]
    made.load_state_dict(kept)
    return [t.mean(-1, keepdim=True).sqrt() for t in total]


@each_memory
@given(
    seed=seeds,
    optimizer=st.sampled_from(("gd", "muon", "muon_chunk", "norm_ema")),
    chunk=st.integers(1, 4),
    at=st.sets(st.integers(1, 5)).map(lambda inner: [0, *sorted(inner), 6]),
)
def test_the_layer_streams_however_it_is_cut(memory: str, seed: int, optimizer: str, chunk: int, at: list[int]) -> None:
    """Forward and backward. What differs is the order in which sums are taken: the bound with n = P T."""
    optimizer = "gd" if (memory, optimizer) == ("mlp", "norm_ema") else optimizer
    made, x = layer(seed, optimizer=optimizer, chunk_size=chunk, memory=memory)
    whole, found, D = in_parts(made, x, (0, 6)), in_parts(made, x, at), shaken(made, x)
    n = 6 * max(whole[1].shape[-2:])
    for out, wanted, d in zip(found, whole, D, strict=True):
        bound = 2 * (F64.u * wanted.abs() + (1 + math.sqrt(n)) * d)
        assert ((out - wanted).abs() <= LIMITS["eager"] * bound).all()


@each_memory
def test_a_detached_state_has_its_numbers_and_no_history(memory: str) -> None:
    made, x = layer(0, memory=memory)
    _, state = made(x[:, :5], output_final_state=True)
    bare = state.detach()
    assert state.omega[0].requires_grad and bare.omega.position == state.omega.position == 1
    for a, b in zip((*state.omega[:-1], state.inputs), (*bare.omega[:-1], bare.inputs), strict=True):
        assert torch.equal(a, b) and not b.requires_grad


@each_memory
@given(seed=seeds)
def test_the_layer_decodes_in_place(memory: str, seed: int) -> None:
    made, x = layer(seed, memory=memory)
    with torch.no_grad():
        state, other = made.init_state(x), made.init_state(x)
        for t in range(6):
            y, state = made(x[:, t : t + 1], state, output_final_state=True)
            z, other = made(x[:, t : t + 1], other, output_final_state=True, inplace=True)
            assert torch.equal(y, z)


@each_memory
@given(seed=seeds, t=st.integers(0, 5))
def test_the_layer_sees_no_future_and_no_other_sequence(memory: str, seed: int, t: int) -> None:
    made, x = layer(seed, memory=memory)
    plain = made(x)
    other = x.clone()
    other[:, t:] += 1
    assert torch.equal(plain[:, :t], made(other)[:, :t])
    assert (plain[:, t:] != made(other)[:, t:]).any()
    other = x.clone()
    other[1] += 1
    assert torch.equal(plain[0], made(other)[0])


@given(seed=seeds)
def test_a_layer_without_updates_says_nothing(seed: int) -> None:
    made, x = layer(seed)
    made.updates = False
    assert not made(x).any()


@given(seed=seeds)
def test_two_layers_without_updates_are_a_function_of_every_token(seed: int) -> None:
    """f(q) of the first weights: other tokens before it change nothing, and do where the memory learns."""
    made, x = layer(seed, memory="mlp", conv_size=1)
    other = x.clone()
    other[:, :5] += 1
    assert not torch.equal(made(x)[:, 5], made(other)[:, 5])
    made.updates = False
    made.gates_proj.bias.data[:2] = 40.0  # α = 1
    assert torch.equal(made(x)[:, 5], made(other)[:, 5])


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"memory": "deep"}, "memory was 'deep'"),
        ({"hidden_dim": 4}, "hidden_dim was 4; a linear memory"),
        ({"memory": "mlp", "hidden_dim": 0}, "hidden_dim was 0"),
        ({"memory": "mlp", "config": fast.OmegaConfig(objective="dot")}, "objective was 'dot' and clip None"),
        ({"memory": "mlp", "config": fast.OmegaConfig(clip=0.5)}, "objective was 'l2' and clip 0.5"),
        ({"memory": "mlp", "config": fast.OmegaConfig(optimizer="norm_ema")}, "optimizer was 'norm_ema'"),
    ],
)
def test_a_layer_refuses_a_memory_that_there_is_not(given: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        fast.AtlasAttention(8, **given)


@each_memory
@given(seed=seeds)
def test_the_layers_weights_are_all_it_is(memory: str, seed: int) -> None:
    """A second layer that loads them gives the same, bit for bit; every one of them has a gradient."""
    made, x = layer(seed, memory=memory)
    other, _ = layer(seed + 1, memory=memory)
    assert not torch.equal(made(x), other(x))
    other.load_state_dict(made.state_dict())
    assert torch.equal(made(x), other(x))
    made(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in made.parameters())


@each_memory
@pytest.mark.parametrize("optimizer", ["gd", "muon"])
def test_under_autocast_the_layer_keeps_its_memory_in_float32(memory: str, optimizer: str) -> None:
    """What bfloat16 costs is the rounding of the projections: no more than if they alone are rounded."""
    made, x = layer(0, optimizer=optimizer, memory=memory)
    made, x = made.float(), x.float()
    plain = made(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, state = made(x, output_final_state=True)
    assert state.omega[0].dtype == torch.float32
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters())
    moved = []
    for _ in range(8):  # every weight and input by one unit of bfloat16
        other, _ = layer(0, optimizer=optimizer, memory=memory)
        with torch.no_grad():
            for p in other.parameters():
                p.mul_(1 + 2 * precision("bfloat16").u * (2.0 * torch.randint(0, 2, p.shape) - 1))
        moved.append(other.float()(x) - plain)
    D = torch.stack(moved).square().mean((0, -1), keepdim=True)[0].sqrt()
    bound = precision("bfloat16").u * plain.abs() + (1 + math.sqrt(x.shape[-1])) * D
    assert ((y - plain).abs() <= LIMITS["eager"] * bound).all()


# -- as a module of torch ---------------------------------------------------------------------------------------------

PROJECTIONS = ("qkv_proj", "gates_proj", "g_proj", "o_proj")


@each_memory
def test_adapters_find_the_projections_and_only_they_train(memory: str) -> None:
    made, x = layer(0, memory=memory)
    plain = made(x)
    for parameter in made.parameters():
        parameter.requires_grad_(False)
    assert sorted(adapters.adapt(made, PROJECTIONS, r=2, alpha=4.0)) == sorted(PROJECTIONS)
    n, D = 6 * x.shape[-1], spread(made, x)
    begin = (made(x) - plain).abs()
    assert (begin <= LIMITS["eager"] * (F64.u * plain.abs() + (1 + math.sqrt(n)) * D)).all(), "it begins at zero"
    trained = {name for name, p in made.named_parameters() if p.requires_grad}
    assert trained == {f"{name}.lora_{side}" for name in PROJECTIONS for side in "AB"}
    made(x).square().sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in made.parameters())
    factors: list[Any] = [made.get_submodule(name).lora_B for name in PROJECTIONS]
    assert all(b.grad.any() for b in factors), "a replaced layer is called"


@each_memory
def test_a_merged_layer_is_the_unmerged_one(memory: str) -> None:
    """Within what moving every weight and input by one unit in the last place changes, times √n of its sums"""
    made, x = layer(0, memory=memory)
    adapters.adapt(made, PROJECTIONS, r=2, alpha=4.0)
    adapted = [m for m in made.modules() if isinstance(m, adapters.LoRALinear)]
    with torch.no_grad():
        for m in adapted:
            m.lora_B.normal_()
        apart = made(x)
        D = spread(made, x)
        for m in adapted:
            m.merge()
        merged = made(x)
    n = 6 * 3 * x.shape[-1]
    bound = F64.u * apart.abs() + (1 + math.sqrt(n)) * D
    assert not torch.equal(apart, layer(0, memory=memory)[0](x))
    assert ((merged - apart).abs() <= 2 * LIMITS["eager"] * bound).all()


@each_memory
@pytest.mark.parametrize("optimizer", ["gd", "muon"])
def test_the_layer_is_one_graph(memory: str, optimizer: str) -> None:
    """torch.compile(fullgraph=True), forward and backward"""
    made, x = layer(0, memory=memory, optimizer=optimizer)
    compiled = torch.compile(made, fullgraph=True, backend="eager")
    y = compiled(x)
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters())
    n, D = 6 * x.shape[-1], spread(made, x)
    assert ((y - made(x)).abs() <= LIMITS["eager"] * (F64.u * y.abs() + (1 + math.sqrt(n)) * D)).all()


@each_memory
def test_the_layer_is_exported_for_one_length(memory: str) -> None:
    made, x = layer(0, memory=memory)
    exported = torch.export.export(made, (x,)).module()
    n, D = 6 * x.shape[-1], spread(made, x)
    y = made(x)
    assert ((exported(x) - y).abs() <= LIMITS["eager"] * (F64.u * y.abs() + (1 + math.sqrt(n)) * D)).all()


@each_memory
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_a_copy_is_a_layer_of_its_own(memory: str, copied: Any) -> None:
    made, x = layer(0, memory=memory)
    other = copied(made)
    assert torch.equal(other(x), made(x))
    y, state = made(x, output_final_state=True)
    resumed = copied(state.detach())
    assert torch.equal(made(x, resumed), made(x, state))
    with torch.no_grad():
        other.o_proj.weight.zero_()
    assert torch.equal(made(x), y) and not other(x).any()


def test_weights_are_where_rules_by_module_look_for_them() -> None:
    """Every matrix is the weight of a Linear or Conv1d, every scale that of a norm; the others are the rule's own."""
    made = fast.AtlasAttention(8, 2)
    kinds = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.RMSNorm)
    inside = {f"{n}.{p}" for n, m in made.named_modules() if isinstance(m, kinds) for p, _ in m.named_parameters()}
    assert {n for n, _ in made.named_parameters()} - inside == {"coefficients", "window_logits"}


# -- that it learns ---------------------------------------------------------------------------------------------------


def pairs(generator: torch.Generator, n: int, chance: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Four keys with a value each, then the keys once more: which value was it? By chance, any other's."""
    first, again, table = (torch.stack([torch.randperm(4, generator=generator) for _ in range(n)]) for _ in range(3))
    one_hot, x = torch.eye(4), torch.zeros(n, 8, 8)
    x[:, :4, :4], x[:, :4, 4:], x[:, 4:, :4] = one_hot[first], one_hot[table.gather(1, first)], one_hot[again]
    y = table.gather(1, again)
    return x, torch.randint(0, 4, y.shape, generator=generator) if chance else y


@cache
def trained(memory: str, optimizer: str, chance: bool, updates: bool) -> torch.Tensor:
    """The loss of every one of 128 new sequences after twenty steps on others"""
    torch.manual_seed(0)
    made = fast.AtlasAttention(
        16, 2, config=fast.OmegaConfig(2, optimizer=optimizer), degree=1, window=1, conv_size=1, memory=memory
    )
    made.updates = updates
    net = torch.nn.ModuleList([torch.nn.Linear(8, 16), made, torch.nn.Linear(16, 4)])
    steps, generator = torch.optim.Adam(net.parameters(), lr=2e-2), torch.Generator().manual_seed(0)

    def loss(n: int) -> torch.Tensor:
        x, y = pairs(generator, n, chance)
        h = net[0](x)
        return torch.nn.functional.cross_entropy(net[2](h + made(h))[:, 4:].mT, y, reduction="none").mean(-1)

    for _ in range(20):
        steps.zero_grad()
        loss(24).mean().backward()
        steps.step()
    with torch.no_grad():
        return loss(128)


@each_memory
@pytest.mark.parametrize("optimizer", ["gd", "muon"])
def test_the_layer_learns_to_look_up_and_learns_nothing_from_chance(memory: str, optimizer: str) -> None:
    """Values drawn by chance, or a memory that is not written: log 4 and no less, within five standard errors."""
    found = trained(memory, optimizer, False, True)
    controls = [trained(memory, "gd", True, True), trained(memory, "gd", False, False)]
    error = float(found.std()) / math.sqrt(len(found))
    for other in controls:
        noise = float(other.std()) / math.sqrt(len(other))
        assert float(other.mean()) >= math.log(4) - 5 * noise
        fall, chance = math.log(4) - float(found.mean()), abs(math.log(4) - float(other.mean()))
        assert fall > 10 * chance + 5 * (error + 10 * noise)
