"""The layer of LoRA, and the function that replaces linear layers by it."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from trueness.optimized._lib.validation import require_count
from trueness.optimized.adapters.functional import lora, merge


class LoRALinear(nn.Module):
    """h = W_0 x + b + (α/r) B A dropout(x): a frozen linear layer with a trained low-rank addition.

    A starts as kaiming-uniform noise (a = √5, as nn.Linear) and B at zero, so that the layer starts as ``base``. In
    eval mode, or with p = 0, nothing is dropped. ``merge`` computes W_0 + (α/r) B A once, beside W_0: ``unmerge``
    gives back every bit, and the state dict is the same before and after.

    base   the linear layer to be adapted; its weight and bias are frozen, not copied
    r      rank, at least 1
    alpha  α, the adapter counts α/r; 1 in the code of the paper
    p      share of the input that the adapter does not see in training, in [0, 1)
    raises ValueError if base is no nn.Linear, r < 1, alpha is not finite, or p lies outside [0, 1)
    """

    def __init__(self, base: nn.Linear, r: int, *, alpha: float = 1.0, p: float = 0.0) -> None:
        super().__init__()
        if not isinstance(base, nn.Linear):
            raise ValueError(f"base was {type(base).__name__}; it must be a torch.nn.Linear.")
        require_count(r, "r", 1)
        if not math.isfinite(alpha):
            raise ValueError(f"alpha was {alpha!r}; it must be a finite number.")
        if not 0 <= p < 1:
            raise ValueError(f"p was {p!r}; it must be a number in [0, 1).")
        self.base, self.r, self.alpha, self.p = base, r, float(alpha), float(p)
        made = {"dtype": base.weight.dtype, "device": base.weight.device}
        self.lora_A = nn.Parameter(torch.empty((r, base.in_features), **made))  # type: ignore[call-overload]
        self.lora_B = nn.Parameter(torch.zeros((base.out_features, r), **made))  # type: ignore[call-overload]
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        for parameter in base.parameters():
            parameter.requires_grad_(False)
        self._merged: torch.Tensor | None
        self.register_buffer("_merged", None, persistent=False)  # moves with the layer, and is not saved

    @property
    def merged(self) -> bool:
        return self._merged is not None

    def merge(self) -> None:
        """Use W_0 + (α/r) B A from now on, without dropout and without gradients of A and B until ``unmerge``."""

        with torch.no_grad():
            self._merged = merge(self.base.weight, self.lora_A, self.lora_B, alpha=self.alpha)

    def unmerge(self) -> None:
        """Back to W_0 and its addition, bit for bit."""
        self._merged = None

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """h (..., out) of x (..., in); ``mask`` (..., in) takes the place of the drawn one."""

        if self._merged is not None:
            return nn.functional.linear(x, self._merged, self.base.bias)
        p = self.p if self.training else 0.0
        if mask is None and p:
            mask = torch.rand(x.shape, device=x.device) >= p
        elif mask is not None and not p:
            raise ValueError("mask was given, but nothing is dropped: the layer is in eval mode or p is 0.")
        h = lora(x, self.base.weight, self.lora_A, self.lora_B, mask=mask, alpha=self.alpha, p=p)
        return h if self.base.bias is None else h + self.base.bias

    def extra_repr(self) -> str:
        return f"r={self.r}, alpha={self.alpha:g}, p={self.p:g}, merged={self.merged}"


def adapt(
    model: nn.Module, names: Iterable[str], r: int, *, alpha: float = 1.0, p: float = 0.0, freeze: bool = True
) -> list[str]:
    """Replace by LoRALinear every nn.Linear whose name is, or ends with a dot and, one of ``names``.

    model        any module; its layers are replaced in place, their weights are not copied
    names        such as ["w_qs", "w_vs"] of a DiffiT, or ["qkv"] of an AtlasAttention
    r, alpha, p  as in LoRALinear
    freeze       whether only adapters train: all other parameters of the model stop requiring gradients
    returns      the full names of the layers replaced, in the order of ``names``
    raises       ValueError if a name matches no linear layer, or ``names`` is empty
    """
    wanted = list(names)
    if not wanted:
        raise ValueError("names was empty; it must name the linear layers to adapt.")
    found: dict[str, nn.Linear] = {}
    for name in wanted:
        matches = {
            full: layer
            for full, layer in model.named_modules()
            if isinstance(layer, nn.Linear) and full and (full == name or full.endswith(f".{name}"))
        }
        if not matches:
            raise ValueError(f"names had {name!r}; it must name a torch.nn.Linear inside of the model.")
        found |= matches
    if freeze:
        _freeze_all_but_adapters(model)
    for full, layer in found.items():
        parent, _, last = full.rpartition(".")
        setattr(model.get_submodule(parent), last, LoRALinear(layer, r, alpha=alpha, p=p))
    return list(found)


def _freeze_all_but_adapters(model: nn.Module) -> None:
    adapters = [m for m in model.modules() if isinstance(m, LoRALinear)]
    trained = {id(factor) for m in adapters for factor in (m.lora_A, m.lora_B)}
    for parameter in model.parameters():
        if id(parameter) not in trained:
            parameter.requires_grad_(False)
