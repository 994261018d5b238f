"""Pairs of the family attention: windowed TMSA with its projections, 4 × 4 and 8 × 8 windows, and its gradients.

Windows do not see each other, so that the first rows of windows of the first image are judged, and of the gradients
that of these tokens. Swin's window attention is written as timm 1.0 has it; the module itself is timed where timm is
installed, with what time adds in the place of a bias of its projection.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from comparisons.harness import Call, Comparison, Contender
from trueness.optimized import attention as fast

WIDTH, HEADS, TIME = 256, 4, 128
GRIDS = {4: (8, 32), 8: (2, 64)}  # window → (images, side): 8192 tokens both times


def drawn(window: int, gradient: bool) -> Any:
    batch, side = GRIDS[window]

    def make(generator: np.random.Generator) -> list[Any]:
        x, t = generator.standard_normal((batch, side, side, WIDTH)), generator.standard_normal((batch, TIME))
        space = [generator.standard_normal((WIDTH, WIDTH)) / WIDTH**0.5 for _ in range(3)]
        time = [generator.standard_normal((TIME, WIDTH)) / TIME**0.5 for _ in range(3)]
        w_o = generator.standard_normal((WIDTH, WIDTH)) / WIDTH**0.5
        table = generator.standard_normal(((2 * window - 1) ** 2, HEADS))
        cotangent = [generator.standard_normal(x.shape)] if gradient else []
        return [*cotangent, x, t, *space, *time, w_o, table, window, HEADS]

    return make


def first_rows(window: int, gradient: bool) -> Any:
    """The first row of windows of the first image; of the gradients that of its tokens."""

    def part(values: list[Any]) -> tuple[list[Any], Any]:
        at = 1 if gradient else 0
        few = [v[:1, :window] if i <= at else v for i, v in enumerate(values)]
        few[at + 1] = values[at + 1][:1]

        def pick(outs: list[Any]) -> list[Any]:
            return [outs[0][:1, :window], *(None for _ in outs[1:])]

        return few, pick

    return part


# -- the contenders --------------------------------------------------------------------------------------------------


def bias_of(table: Any, window: int) -> Any:
    return table[fast.relative_position_index(window)].permute(2, 0, 1)


def partition(x: Any, window: int) -> Any:
    """As in timm's and in Microsoft's Swin."""
    b, h, w, c = x.shape
    x = x.view(b, h // window, window, w // window, window, c)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, window * window, c)


def reverse(windows: Any, window: int, h: int, w: int) -> Any:
    c = windows.shape[-1]
    x = windows.view(-1, h // window, w // window, window, window, c)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, h, w, c)


def tmsa(x: Any, t: Any, *weights: Any) -> Any:
    *tensors, window, num_heads = weights
    return fast.tmsa(x, t, fast.TMSAWeights(*tensors), window=window, num_heads=num_heads)


def eager(*arguments: Any) -> Any:
    """The equation, literally: three projections of space, three of time."""
    x, t, *weights, w_o, table, window, heads = arguments
    _, h, w, c = x.shape
    tokens, count = partition(x, window), (h // window) * (w // window)

    def head(space: Any, time: Any) -> Any:
        both = tokens @ space + (t @ time).repeat_interleave(count, 0)[:, None]
        return both.unflatten(2, (heads, c // heads)).transpose(1, 2)

    q, k, v = (head(weights[i], weights[3 + i]) for i in range(3))
    p = torch.softmax(q @ k.mT / (c // heads) ** 0.5 + bias_of(table, window), -1)
    return reverse((p @ v).transpose(1, 2).flatten(2) @ w_o, window, h, w)


def swin(fused: bool) -> Any:
    """timm's WindowAttention between partition and reverse, time added to the output of its projection."""

    def call(*arguments: Any) -> Any:
        x, t, qs, ks, vs, qt, kt, vt, w_o, table, window, heads = arguments
        _, h, w, c = x.shape
        tokens, count = partition(x, window), (h // window) * (w // window)
        moment = (t @ torch.cat([qt, kt, vt], 1)).repeat_interleave(count, 0)[:, None]
        qkv = F.linear(tokens, torch.cat([qs, ks, vs], 1).mT) + moment
        n, length, _ = qkv.shape
        q, k, v = qkv.reshape(n, length, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        bias = bias_of(table, window).contiguous()[None]
        if fused:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        else:
            scores = (q * (c // heads) ** -0.5) @ k.transpose(-2, -1)
            mixed = (scores + bias).softmax(-1) @ v
        return reverse(F.linear(mixed.transpose(1, 2).reshape(n, length, -1), w_o.mT), window, h, w)

    return call


def timm_module(*arguments: Any) -> Any:
    from timm.models.swin_transformer import WindowAttention

    x, t, qs, ks, vs, qt, kt, vt, w_o, table, window, heads = arguments
    _, h, w, c = x.shape
    count = (h // window) * (w // window)

    class Projection(torch.nn.Module):
        def forward(self, tokens: Any) -> Any:
            moment = (t @ torch.cat([qt, kt, vt], 1)).repeat_interleave(count, 0)[:, None]
            return F.linear(tokens, torch.cat([qs, ks, vs], 1).mT) + moment

    module = WindowAttention(c, num_heads=heads, window_size=(window, window), qkv_bias=False).to(x.dtype).eval()
    module.qkv = Projection()
    weights = {"relative_position_bias_table": table, "proj.weight": w_o.mT, "proj.bias": torch.zeros_like(w_o[0])}

    def call(*_: Any) -> Any:
        tokens = partition(x, window)
        return reverse(torch.func.functional_call(module, weights, (tokens,)), window, h, w)

    return call


def products(one: Any) -> Any:
    """The four products of tokens with weights, and nothing else: a module cannot be faster than its products."""

    def prepare(*arguments: Any) -> Call:
        x, w_qkv, w_o = arguments[0], torch.cat(arguments[2:5], 1), arguments[8]
        tokens = x.flatten(0, 2)
        return lambda: (one(tokens, w_qkv), one(tokens, w_o))

    return prepare


def onednn(x: Any, w: Any) -> Any:
    return torch.ops.mkldnn._linear_pointwise(x, w.mT, None, "none", [], "")


def forward(function: Any) -> Any:
    def prepare(*arguments: Any) -> Call:
        def call() -> Any:
            with torch.no_grad():
                return function(*arguments)

        return call

    return prepare


def both(function: Any) -> Any:
    """Forward and backward: the gradients of the tokens, of time, of all weights and of the table."""

    def prepare(cotangent: Any, *arguments: Any) -> Call:
        leaves = [a.detach().requires_grad_() if isinstance(a, torch.Tensor) else a for a in arguments]
        wanted = [a for a in leaves if isinstance(a, torch.Tensor)]

        def call() -> Any:
            return torch.autograd.grad(function(*leaves), wanted, cotangent)

        return call

    return prepare


def module(*arguments: Any) -> Call:
    with torch.no_grad():
        function = timm_module(*arguments)
    return forward(function)(*arguments)


def compiled(*arguments: Any) -> Call:
    return forward(torch.compile(eager))(*arguments)


ONEDNN = "the four products alone (oneDNN)"
MM = "the four products alone (torch.mm)"
TIMM, EQUATION, SDPA, EAGER = "timm", "timm's equation", "SDPA with a bias", "torch eager"


def pair(window: int, dtype: str) -> Comparison:
    floor, best = (0.8, 1.0) if dtype == "float32" else (None, 1.0)
    goals = {(name, n): best for name in (TIMM, EQUATION, SDPA, EAGER, "torch.compile") for n in (1, 2)}
    if floor:
        goals |= {(MM, n): floor for n in (1, 2)}
    return Comparison(
        f"TMSA, {window} × {window} windows",
        "attention.tmsa",
        drawn(window, False),
        Contender("trueness", forward(tmsa)),
        (
            Contender(EAGER, forward(eager)),
            Contender(EQUATION, forward(swin(False))),
            Contender(TIMM, module, needs=("timm",)),
            Contender(SDPA, forward(swin(True))),
            Contender("torch.compile", compiled),
            Contender(MM, products(torch.mm), judged=False),
            Contender(ONEDNN, products(onednn), judged=False),
        ),
        goals,
        dtype=dtype,
        part=first_rows(window, False),
        extra=48 << 20,
    )


def gradient_pair(window: int, dtype: str) -> Comparison:
    return Comparison(
        f"TMSA with its gradients, {window} × {window} windows",
        "attention.tmsa",
        drawn(window, True),
        Contender("trueness", both(tmsa)),
        (
            Contender(EAGER, both(eager)),
            Contender(EQUATION, both(swin(False))),
            Contender(SDPA, both(swin(True))),
        ),
        {(name, n): 1.0 for name in (EQUATION, EAGER, SDPA) for n in (1, 2)},
        dtype=dtype,
        gradient=True,
        part=first_rows(window, True),
    )


COMPARISONS = tuple(make(w, d) for make in (pair, gradient_pair) for d in ("float32", "bfloat16") for w in (4, 8))
