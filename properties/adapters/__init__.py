"""The formulas of the family adapters: LoRA with its dropout mask, merging and unmerging."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from trueness.optimized import adapters as fast
from trueness.properties._lib import digits as _digits
from trueness.reference import adapters as true
from trueness.tools.spec.inputs import Mask, Real, Scalar
from trueness.tools.spec.model import Formula, Implementation

HU = "Hu et al. 2021 (2106.09685)"
TORCH = frozenset({"gradient", "autocast", "vmap"})
SPANS = {"I": (1, 5), "O": (1, 4), "R": (1, 3)}
FLOAT32 = "a layer is built for every call; one dtype is enough"


def matrix(name: str, *dims: str) -> Real:
    return Real(name, dims=dims, decades=(-2.0, 1.0), unit_scale=True, spans={d: SPANS[d] for d in dims})


X = Real("x", dims=("B", "I"), decades=(-2.0, 1.0), spans={"B": (1, 4), "I": SPANS["I"]})
WEIGHT, LORA_A, LORA_B = matrix("weight", "O", "I"), matrix("lora_A", "R", "I"), matrix("lora_B", "O", "R")
ALPHA = Scalar("alpha", st.floats(0.5, 32.0), far=(256.0,))


# -- peers ------------------------------------------------------------------------------------------------------------


class Given(torch.nn.Module):
    """Dropout whose mask is not drawn but given."""

    def __init__(self, mask: Any, p: float) -> None:
        super().__init__()
        self.mask, self.p = mask, p

    def forward(self, x: Any) -> Any:
        return x * self.mask / (1 - self.p)


def peft_layer(weight: Any, lora_A: Any, lora_B: Any, alpha: float, dropout: Any) -> Any:
    from peft import LoraConfig
    from peft.tuners.lora.layer import Linear

    outputs, inputs = weight.shape
    base = torch.nn.Linear(inputs, outputs, bias=False, dtype=weight.dtype)
    config = LoraConfig(r=len(lora_A), lora_alpha=alpha, lora_dropout=0.5)  # type: ignore[arg-type]
    layer: Any = Linear(base, "default", config, r=len(lora_A), lora_alpha=alpha)  # type: ignore[arg-type]
    base.weight.data = weight.detach().clone()
    layer.lora_A["default"].weight.data = lora_A.detach().clone()
    layer.lora_B["default"].weight.data = lora_B.detach().clone()
    layer.lora_dropout["default"] = dropout
    return layer


def peft_forward(x: Any, weight: Any, lora_A: Any, lora_B: Any, mask: Any, alpha: float, p: float) -> Any:
    return peft_layer(weight, lora_A, lora_B, alpha, Given(mask, p))(x).detach()


def peft_merge(weight: Any, lora_A: Any, lora_B: Any, alpha: float) -> Any:
    layer = peft_layer(weight, lora_A, lora_B, alpha, torch.nn.Identity())
    layer.merge()
    return layer.get_base_layer().weight.detach()


def peft_unmerge(weight: Any, lora_A: Any, lora_B: Any, alpha: float) -> Any:
    """A layer that says it is merged, on the merged weight."""
    layer = peft_layer(weight, lora_A, lora_B, alpha, torch.nn.Identity())
    layer.merged_adapters.append("default")
    layer.unmerge()
    return layer.get_base_layer().weight.detach()


def loralib_layer(weight: Any, lora_A: Any, lora_B: Any, alpha: float) -> Any:
    from loralib.layers import Linear

    outputs, inputs = weight.shape
    layer: Any = Linear(inputs, outputs, r=len(lora_A), lora_alpha=alpha, lora_dropout=0.5, bias=False)
    layer.weight.data = weight.detach().clone()
    layer.lora_A.data = lora_A.detach().clone()
    layer.lora_B.data = lora_B.detach().clone()
    return layer


def loralib_forward(x: Any, weight: Any, lora_A: Any, lora_B: Any, mask: Any, alpha: float, p: float) -> Any:
    layer = loralib_layer(weight, lora_A, lora_B, alpha)
    layer.lora_dropout = Given(mask, p)
    return layer(x).detach()


def loralib_merge(weight: Any, lora_A: Any, lora_B: Any, alpha: float) -> Any:
    layer = loralib_layer(weight, lora_A, lora_B, alpha)
    layer.eval()  # merges
    return layer.weight.detach()


def loralib_unmerge(weight: Any, lora_A: Any, lora_B: Any, alpha: float) -> Any:
    layer = loralib_layer(weight, lora_A, lora_B, alpha)
    layer.merged = True
    layer.train()  # unmerges
    return layer.weight.detach()


def peer(name: str, call: Any, waived: Mapping[str, str] | None = None) -> Implementation:
    return Implementation(
        name,
        lambda: call,
        limit="eager",
        dtypes=("float32",),
        only=FLOAT32,
        origin="third_party",
        needs=(name,),
        waived=waived or {},
    )


# -- measured data ----------------------------------------------------------------------------------------------------


def digits() -> dict[str, tuple[Any, ...]]:
    """Eight digits through a map of rank 2 away from a random one."""
    if not _digits.available():
        return {}
    generator = np.random.default_rng(0)
    weight, lora_A, lora_B = (generator.standard_normal(s) / 8 for s in ((5, 64), (2, 64), (5, 2)))
    x = _digits.digits()[:8]
    return {"digits": (x, weight, lora_A, lora_B, generator.random(x.shape) < 0.9, 16.0, 0.1)}


FORMULAS = (
    Formula(
        name="adapters.lora",
        reference=true.lora,
        vjp=true.lora_vjp,
        equation="h = W_0 x + (α/r) B A dropout(x)",
        source=f"{HU} eq. 3; dropout on the adapter's input as in its code and in peft",
        arguments=(
            X,
            WEIGHT,
            LORA_A,
            LORA_B,
            Mask("mask", dims=("B", "I"), spans={"B": (1, 4), "I": SPANS["I"]}),
            ALPHA,
            Scalar("p", st.sampled_from((0.1, 0.5, 0.0))),
        ),
        implementations=(
            Implementation("trueness", lambda: fast.lora, claims=TORCH | {"compile"}),
            peer("peft", peft_forward),
            peer("loralib", loralib_forward),
        ),
        reduction=lambda sizes: int(sizes["I"]) + int(sizes["R"]),
        gradient_reduction=lambda sizes: int(sizes["B"]) * int(sizes["I"]) + int(sizes["O"]),
        real=digits,
        policies=dict.fromkeys(("overflow", "not finite"), "bfloat16's largest number is float32's, which A x passes"),
    ),
    *(
        Formula(
            name=f"adapters.{name}",
            reference=getattr(true, name),
            vjp=getattr(true, f"{name}_vjp"),
            equation=equation,
            source=f"{HU} §4.1",
            arguments=(WEIGHT, LORA_A, LORA_B, ALPHA),
            implementations=(
                Implementation("trueness", lambda name=name: getattr(fast, name), claims=TORCH),
                peer("peft", peft),
                peer("loralib", loralib),
            ),
            reduction=lambda sizes: int(sizes["R"]),
            gradient_reduction=lambda sizes: max(int(sizes["O"]), int(sizes["I"])),
        )
        for name, equation, peft, loralib in (
            ("merge", "W = W_0 + (α/r) B A", peft_merge, loralib_merge),
            ("unmerge", "W_0 = W − (α/r) B A", peft_unmerge, loralib_unmerge),
        )
    ),
)
