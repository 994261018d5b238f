"""Adapting whole models: TMSA, DiffiT and AtlasAttention, by LoRALinear and by peft; LoRALinear in torch's tools."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from trueness.optimized import adapters, atlas_memory, attention
from trueness.properties._lib.modules import summation_bound


def atlas() -> nn.Module:
    """A small language model of one AtlasAttention: width 8, two heads."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.attention, self.head = (
                nn.Embedding(7, 8),
                atlas_memory.AtlasAttention(8, 2),
                nn.Linear(8, 7),
            )

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            x = self.embed(tokens)
            return self.head(x + self.attention(x))  # type: ignore[no-any-return]

    return Model()


MODELS: dict[str, tuple[Any, Any, list[str], list[str]]] = {  # how it is made, its input, names, the layers they name
    "TMSA": (
        lambda: attention.TMSA(6, 2, 2, 4),
        lambda: (torch.randn(2, 4, 4, 6), torch.randn(2, 4)),
        ["w_qs", "w_kt", "w_vt", "w_o"],
        ["w_qs", "w_kt", "w_vt", "w_o"],
    ),
    "DiffiT": (
        lambda: attention.DiffiT(4, 1, 4, num_heads=2, classes=3, groups=2, window=2, mlp_ratio=2),
        lambda: (torch.randn(2, 1, 4, 4), torch.tensor([3, 700]), torch.tensor([0, 2])),
        ["w_qs", "w_vs", "w_1", "mlp.0"],
        [
            *(f"{stage}.0.block.tmsa.w_qs" for stage in ("down.0", "down.1", "up.0")),
            *(f"{stage}.0.block.tmsa.w_vs" for stage in ("down.0", "down.1", "up.0")),
            *(f"{stage}.0.block.w_1" for stage in ("down.0", "down.1", "up.0")),
            "condition.mlp.0",
        ],
    ),
    "AtlasAttention": (
        atlas,
        lambda: (torch.tensor([[1, 2, 3, 4, 5], [6, 5, 0, 3, 2]]),),
        ["qkv_proj", "gates_proj", "g_proj", "o_proj"],
        ["attention.qkv_proj", "attention.gates_proj", "attention.g_proj", "attention.o_proj"],
    ),
}


def made(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...], list[str], list[str]]:
    """A model in float64 with random weights, its input, names to adapt, and the layers that they name."""
    torch.manual_seed(0)
    make, arguments, names, layers = MODELS[name]
    model = make().double()
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    inputs = tuple(a.double() if a.is_floating_point() else a for a in arguments())
    return model, inputs, names, layers


def learn(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    """Two steps of SGD on all parameters that require a gradient."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):  # A has no gradient before B has moved
        optimizer.zero_grad()
        model(*inputs).square().mean().backward()
        optimizer.step()


def assert_rounding(found: torch.Tensor, want: torch.Tensor, model: nn.Module) -> None:
    assert (found - want).abs().max() <= summation_bound(model, want)


@pytest.mark.parametrize("name", MODELS)
def test_adapted_layers_are_listed_and_start_as_what_they_were(name: str) -> None:
    model, inputs, names, layers = made(name)
    before = model(*inputs)
    assert adapters.adapt(model, names, r=2, alpha=4) == layers
    assert [n for n, m in model.named_modules() if isinstance(m, adapters.LoRALinear)] == sorted(
        layers, key=[n for n, _ in model.named_modules()].index
    )
    assert_rounding(model(*inputs), before, model)


@pytest.mark.parametrize("name", MODELS)
def test_only_the_adapters_train(name: str) -> None:
    model, inputs, names, layers = made(name)
    adapters.adapt(model, names, r=2, alpha=4)
    factors = {f"{layer}.{factor}" for layer in layers for factor in ("lora_A", "lora_B")}
    assert {n for n, p in model.named_parameters() if p.requires_grad} == factors
    before = {n: v.clone() for n, v in model.state_dict().items()}
    learn(model, inputs)
    moved = {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])}
    # x_t W_kt cancels in the softmax: its adapter has a gradient of exactly 0
    assert moved == {n for n in factors if "w_kt" not in n}


@pytest.mark.parametrize("name", MODELS)
def test_a_merged_model_is_the_adapted_one(name: str) -> None:
    model, inputs, names, _ = made(name)
    start = model(*inputs)
    adapters.adapt(model, names, r=2, alpha=4)
    learn(model, inputs)
    model.eval()
    adapted = model(*inputs)
    layers = [m for m in model.modules() if isinstance(m, adapters.LoRALinear)]
    for layer in layers:
        layer.merge()
    merged = model(*inputs)
    assert_rounding(merged, adapted, model)
    assert (merged - start).abs().max() > 1e6 * summation_bound(model, start), "the adapters do something"
    for layer in layers:
        layer.unmerge()
    assert torch.equal(model(*inputs), adapted)


def test_without_freezing_the_other_weights_train_too_and_a_second_call_keeps_the_first_adapters() -> None:
    model, _, _, _ = made("DiffiT")
    adapters.adapt(model, ["w_qs"], r=1, freeze=False)
    assert model.stem.weight.requires_grad and not model.down[0][0].block.tmsa.w_qs.base.weight.requires_grad  # type: ignore[union-attr,index]
    adapters.adapt(model, ["w_vs"], r=2)
    trained = {n.rpartition(".")[0].rpartition(".")[2] for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {"w_qs", "w_vs"}


def test_peft_adapts_a_diffit_and_merges_it() -> None:
    """Its layers are called, not bypassed: the output changes, only its factors train, merging changes no result."""
    peft = pytest.importorskip("peft")
    model, inputs, _, _ = made("DiffiT")
    before = model(*inputs)
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["w_qs", "w_vs", "w_1"])
    adapted = peft.get_peft_model(copy.deepcopy(model), config).double()
    assert_rounding(adapted(*inputs), before, model)
    assert {n.split(".")[-3] for n, p in adapted.named_parameters() if p.requires_grad} == {"lora_A", "lora_B"}
    learn(adapted, inputs)
    learned = adapted.eval()(*inputs)
    assert (learned - before).abs().max() > 1e6 * summation_bound(model, before)
    merged = adapted.merge_and_unload()
    assert not any("lora" in n for n in merged.state_dict())
    assert_rounding(merged(*inputs), learned, model)


# -- torch's tools ----------------------------------------------------------------------------------------------------


def lora_layer() -> tuple[adapters.LoRALinear, torch.Tensor]:
    torch.manual_seed(0)
    layer = adapters.LoRALinear(nn.Linear(6, 4, dtype=torch.float64), r=2, alpha=8)
    nn.init.normal_(layer.lora_B)
    return layer, torch.randn(5, 6, dtype=torch.float64)


def test_the_layer_compiles_and_is_exported() -> None:
    layer, x = lora_layer()
    want = layer(x)
    torch._dynamo.reset()
    assert_rounding(torch.compile(layer, backend="eager", fullgraph=True)(x), want, layer)
    assert_rounding(torch.export.export(layer.eval(), (x,)).module()(x), want, layer)


@pytest.mark.parametrize("merged", [False, True])
def test_the_layer_is_copied_pickled_and_saved_bit_for_bit(merged: bool) -> None:
    layer, x = lora_layer()
    if merged:
        layer.merge()
    want = layer(x)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = adapters.LoRALinear(nn.Linear(6, 4, dtype=torch.float64), r=2, alpha=8)
    other.load_state_dict(torch.load(file))
    if merged:
        other.merge()
    for same in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), other):
        assert torch.equal(same(x), want) and same.merged == merged
