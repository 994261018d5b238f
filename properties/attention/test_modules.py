"""The modules: weights in torch's layers, read or called; compiled, exported, copied, pickled, saved and quantized."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from trueness.optimized import attention as fast
from trueness.optimized.adapters import LoRALinear
from trueness.optimized.attention.layers import is_plain
from trueness.properties._lib.modules import summation_bound
from trueness.properties.attention.laws import F64, FORMULAS, assert_same, block_arguments
from trueness.reference import attention as reference
from trueness.tools.arithmetic.bounds import LIMITS, bounds

BLOCKS = {"TMSA": "tmsa", "DiffiTBlock": "diffit_block", "DiffiTResBlock": "diffit_resblock"}
MODELS = ("DiffiT", "LatentDiffiT")


def made(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """A small module with random weights, in float64, and input."""
    torch.manual_seed(0)
    if name in MODELS:
        x, steps, labels = torch.randn(2, 1, 4, 4), torch.tensor([3, 700]), torch.tensor([0, 2])
        arguments: tuple[torch.Tensor, ...] = (x.double(), steps, labels)
        options = {"groups": 2, "window": 2} if name == "DiffiT" else {"blocks": 1}
        module = getattr(fast, name)(4, 1, 4, num_heads=2, classes=3, mlp_ratio=2, **options)
    else:
        image = name == "DiffiTResBlock"
        arguments = tuple(torch.from_numpy(a) for a in block_arguments(0, image)[:2])
        module = getattr(fast, name)(6, 2, 2, 4, **({"groups": 2} if image else {}))
    for p in module.parameters():
        nn.init.normal_(p, std=0.5)
    return module.double(), arguments


def observe(module: nn.Module) -> None:
    """A hook on every layer that returns nothing: now each of them must be called."""
    for layer in module.modules():
        layer.register_forward_hook(lambda *_: None)


def flat_arguments(module: Any, arguments: tuple[torch.Tensor, ...]) -> tuple[Any, ...]:
    """The arguments of the module's formula, in order."""
    x, t = (a.detach().numpy() for a in arguments)
    leaves: list[np.ndarray] = []

    def unpack(weights: Any) -> None:
        for w in weights:
            unpack(w) if isinstance(w, tuple) else leaves.append(w.detach().numpy().copy())

    unpack(module.weights())
    numbers = {"TMSA": (2, 2), "DiffiTBlock": (2, 2, 1e-6), "DiffiTResBlock": (2, 2, 2, 1e-6)}[type(module).__name__]
    return (x, np.concatenate([t, np.ones((len(t), 1))], 1), *leaves, *numbers)


# -- equations --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("called", [False, True], ids=["read", "called"])
@pytest.mark.parametrize("name", BLOCKS)
def test_a_module_is_the_reference_of_its_weights_read_or_called(name: str, called: bool) -> None:
    """The bias of q, k and v is the row of a constant entry 1 of the time token."""
    module, arguments = made(name)
    a, function = flat_arguments(module, arguments), FORMULAS[BLOCKS[name]].reference
    if called:
        observe(module)
    assert_same(module(*arguments).detach().numpy(), function(*a), function, a, a)


@pytest.mark.parametrize("called", [False, True], ids=["read", "called"])
def test_the_gradients_of_tmsa_are_those_of_the_reference_read_or_called(called: bool) -> None:
    module, arguments = made("TMSA")
    a = flat_arguments(module, arguments)
    if called:
        observe(module)
    leaves = [x.clone().requires_grad_() for x in arguments]
    g = torch.from_numpy(np.random.default_rng(1).standard_normal(a[0].shape))
    layers: list[Any] = [getattr(module, n) for n in reference.TMSAWeights._fields[:7]]
    wanted = [*leaves, *(layer.weight for layer in layers), *(layer.bias for layer in layers[3:6]), module.bias_table]
    found = [d.numpy() for d in torch.autograd.grad(module(*leaves), wanted, g)]  # type: ignore[arg-type]
    space, time, w_o, biases = found[2:5], found[5:8], found[8], found[9:12]
    rows = [np.concatenate([w.T, b[None]]) for w, b in zip(time, biases, strict=True)]
    flat = [found[0], None, *(w.T for w in space), *rows, w_o.T, found[12]]
    gradients = bounds(reference.tmsa_vjp, (g.numpy(), *a), [F64.u] * 11 + [0.0, 0.0], F64, 320)
    for bound, got in zip(gradients, flat, strict=True):
        assert got is None or bound.ratio(got).max() <= LIMITS["eager"]
    assert gradients[1].ratio(np.concatenate([found[1], gradients[1].y[:, -1:]], 1)).max() <= LIMITS["eager"]


@pytest.mark.parametrize("name", [*BLOCKS, *MODELS])
def test_reading_and_calling_have_the_same_gradients_in_every_weight(name: str) -> None:
    module, arguments = made(name)
    twin = copy.deepcopy(module)
    observe(twin)
    y, z = module(*arguments), twin(*arguments)
    g = torch.randn(y.shape, dtype=torch.float64)
    both = [torch.autograd.grad(o, list(m.parameters()), g) for o, m in ((y, module), (z, twin))]
    allowed = summation_bound(module, torch.cat([d.flatten() for d in both[0]]))
    for (where, _), left, right in zip(module.named_parameters(), *both, strict=True):
        assert (left - right).abs().max() <= allowed, where


# -- what must be called ----------------------------------------------------------------------------------------------


def doubled(layer: Any) -> nn.Module:
    """A layer of another class with twice the output."""

    class Doubled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    other = Doubled(layer.in_features, layer.out_features, bias=layer.bias is not None)
    other.load_state_dict(layer.state_dict())
    return other.double()


def with_hook(layer: nn.Module) -> nn.Module:
    layer.register_forward_hook(lambda module, given, out: 2 * out)
    return layer


def with_pre_hook(layer: nn.Module) -> nn.Module:
    layer.register_forward_pre_hook(lambda module, given: (2 * given[0],))
    return layer


def with_parametrization(layer: nn.Module) -> nn.Module:
    class Twice(nn.Module):
        def forward(self, w: torch.Tensor) -> torch.Tensor:
            return 2 * w

    parametrize.register_parametrization(layer, "weight", Twice())
    return layer


def with_other_forward(layer: Any) -> nn.Module:
    plain = layer.forward
    layer.forward = lambda x: 2 * plain(x)
    return layer  # type: ignore[no-any-return]


def with_adapter(layer: Any) -> nn.Module:
    """Merged factors B A = W: twice the weight."""
    adapter = LoRALinear(layer, r=layer.in_features, alpha=layer.in_features)
    with torch.no_grad():
        adapter.lora_A.copy_(torch.eye(layer.in_features))
        adapter.lora_B.copy_(layer.weight)
    return adapter


CHANGES = (doubled, with_hook, with_pre_hook, with_parametrization, with_other_forward, with_adapter)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("projection", ["w_qs", "w_ks", "w_vs", "w_o"])
def test_a_projection_that_became_something_else_is_never_bypassed(
    projection: str, change: Callable[[nn.Module], nn.Module]
) -> None:
    """Each change doubles what a projection returns; so does doubling its weight."""
    module, arguments = made("TMSA")
    want = copy.deepcopy(module)
    before = module(*arguments)
    with torch.no_grad():
        getattr(want, projection).weight.mul_(2)
    setattr(module, projection, change(getattr(module, projection)))
    assert not is_plain(getattr(module, projection))
    a, function = flat_arguments(want, arguments), FORMULAS["tmsa"].reference
    assert_same(module(*arguments).detach().numpy(), function(*a), function, a, a)
    assert not torch.equal(module(*arguments), before)


def test_a_hook_for_all_modules_is_seen() -> None:
    module, arguments = made("TMSA")
    seen: list[nn.Module] = []
    handle = nn.modules.module.register_module_forward_hook(lambda layer, *_: seen.append(layer))
    try:
        module(*arguments)
    finally:
        handle.remove()
    assert {module.w_qs, module.w_vt, module.w_o} <= set(seen)
    seen.clear()
    module(*arguments)
    assert not seen


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", MODELS)
def test_dynamic_quantization_reaches_the_layers(name: str) -> None:
    """int8 weights change the result; the model still runs and its linear layers are quantized ones."""
    module, (x, t, labels) = made(name)
    module, x = module.float(), x.float()
    quantized = torch.ao.quantization.quantize_dynamic(copy.deepcopy(module), {nn.Linear}, dtype=torch.qint8)
    kinds = {type(m) for n, m in quantized.named_modules() if n.endswith(("w_qs", "w_o", "w_1"))}
    assert kinds == {torch.ao.nn.quantized.dynamic.Linear}
    found, plain = quantized(x, t, labels), module(x, t, labels)
    assert found.shape == plain.shape and found.isfinite().all() and not torch.equal(found, plain)


@pytest.mark.parametrize("name", [*BLOCKS, *MODELS])
def test_weights_are_where_tools_look_for_them(name: str) -> None:
    """A rule "decay what belongs to nn.Linear or nn.Conv2d" finds every matrix but the table of biases."""
    module, _ = made(name)
    matrices = {id(m.weight) for m in module.modules() if isinstance(m, (nn.Linear, nn.Conv2d, nn.Embedding))}
    left = [n for n, p in module.named_parameters() if p.ndim >= 2 and id(p) not in matrices]
    assert all(n.endswith("bias_table") for n in left), left


# -- torch's tools ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("called", [False, True], ids=["read", "called"])
@pytest.mark.parametrize("name", [*BLOCKS, *MODELS])
def test_a_module_compiles_without_a_graph_break(name: str, called: bool) -> None:
    module, arguments = made(name)
    if called:
        for layer in [m for m in module.modules() if isinstance(m, nn.Linear)]:
            layer.register_forward_hook(lambda *_: None)
    want = module(*arguments)
    torch._dynamo.reset()
    found = torch.compile(module, backend="eager", fullgraph=True)(*arguments)
    assert (found - want).abs().max() <= summation_bound(module, want)


@pytest.mark.parametrize("name", [*BLOCKS, *MODELS])
def test_a_module_is_exported(name: str) -> None:
    module, arguments = made(name)
    want = module(*arguments)
    found = torch.export.export(module.eval(), arguments).module()(*arguments)
    assert (found - want).abs().max() <= summation_bound(module, want)


@pytest.mark.parametrize("name", [*BLOCKS, *MODELS])
def test_a_module_is_copied_pickled_and_saved_bit_for_bit(name: str) -> None:
    module, arguments = made(name)
    want = module(*arguments)
    other, _ = made(name)
    for p in other.parameters():
        nn.init.zeros_(p)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file))
    for same in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), other):
        assert torch.equal(same(*arguments), want)
        assert {p.data_ptr() for p in same.parameters()}.isdisjoint(p.data_ptr() for p in module.parameters())


@pytest.mark.parametrize("name", ["DiffiTBlock", "DiffiTResBlock"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_block_in_half_precision_is_the_block_in_float32_rounded_once(name: str, dtype: torch.dtype) -> None:
    """Bit for bit while its layers are plain; layers that must be called compute in the format."""
    module, arguments = made(name)
    halves = [a.to(dtype) for a in arguments]
    module = module.to(dtype)
    want = copy.deepcopy(module).float()(*(a.float() for a in halves)).to(dtype)
    assert torch.equal(module(*halves), want)
    observe(module)
    found = module(*halves)
    assert found.dtype == dtype and found.isfinite().all() and not torch.equal(found, want)
