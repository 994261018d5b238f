"""When the weights of a layer may be read in place of calling it.

A layer may have become something else: an adapter, a quantized layer, one with hooks, a parametrization or sharded
weights. Then it must be called. Where it is torch's own and nothing observes it, its weights can go into a fused
product, and float16 and bfloat16 are computed in float32.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.module import _has_any_global_hook

from trueness.optimized.attention.normalization import group_norm

Tensor = torch.Tensor
PLAIN = (nn.Linear, nn.LayerNorm, nn.GroupNorm, nn.Conv2d)


def is_plain(layer: nn.Module) -> bool:
    """Whether calling ``layer`` is only its equation on its weights: torch's own class, no hook, no tensor subclass.

    A parametrization changes the class of the layer, pruning and weight normalization add a hook.
    """
    return (
        type(layer) in PLAIN
        and not (layer._forward_hooks or layer._forward_pre_hooks)
        and not (layer._backward_hooks or layer._backward_pre_hooks)
        and not _has_any_global_hook()
        and "forward" not in layer.__dict__
        and type(layer.weight) in (Tensor, nn.Parameter)
    )


def are_plain(layers: Iterable[nn.Module]) -> bool:
    return all(is_plain(layer) for layer in layers)


def leaves(module: nn.Module) -> list[nn.Module]:
    """The modules inside that have none inside of themselves."""
    return [m for m in module.modules() if next(m.children(), None) is None]


def call(layer: nn.Module, x: Tensor) -> Tensor:
    """``layer(x)``; a plain layer computes in the dtype of ``x``, whatever that of its weights."""
    return apply_plain(layer, x) if is_plain(layer) else layer(x)


def apply_plain(layer: Any, x: Tensor) -> Tensor:
    """The equation of a plain layer, in the dtype of ``x``."""
    weight: Tensor = layer.weight.to(x.dtype)
    bias: Any = None if layer.bias is None else layer.bias.to(x.dtype)
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, bias)
    if isinstance(layer, nn.LayerNorm):
        return F.layer_norm(x, layer.normalized_shape, weight, bias, layer.eps)
    if isinstance(layer, nn.GroupNorm):
        return group_norm(x, weight, bias, groups=layer.num_groups, eps=layer.eps)
    return layer._conv_forward(x, weight, bias)  # type: ignore[no-any-return]
