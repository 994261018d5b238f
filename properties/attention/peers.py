"""Third parties of the family attention, called as ours are: torch, transformers, and all tokens at once."""

from __future__ import annotations

from typing import Any

import torch


def sdpa(q: Any, k: Any, v: Any, mask: Any) -> Any:
    """True means attend, as here; a row without keys is 0."""
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def multihead(q: Any, k: Any, v: Any, mask: Any, need_weights: bool = False) -> Any:
    """nn.MultiheadAttention with the identity for its projections: True means ignore.

    A row without keys is NaN where the weights are asked for, and 0 where they are not.

    It has one width for all: narrower tensors are filled with zeros, and its 1/√width is made up for.
    """
    wide = max(q.shape[-1], v.shape[-1])
    module = torch.nn.MultiheadAttention(wide, 1, bias=False, batch_first=True, dtype=q.dtype)
    with torch.no_grad():
        module.in_proj_weight.copy_(torch.eye(wide).repeat(3, 1))
        module.out_proj.weight.copy_(torch.eye(wide))
    filled = [torch.nn.functional.pad(a, (0, wide - a.shape[-1])) for a in (q, k, v)]
    filled[0] = filled[0] * (wide / q.shape[-1]) ** 0.5
    return module(*filled, attn_mask=~mask, need_weights=need_weights)[0][..., : v.shape[-1]]


def multihead_with_weights(q: Any, k: Any, v: Any, mask: Any) -> Any:
    return multihead(q, k, v, mask, need_weights=True)


def layer_norm(x: Any, weight: Any, bias: Any, eps: float) -> Any:
    return torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias, eps)


def group_norm(x: Any, weight: Any, bias: Any, groups: int, eps: float) -> Any:
    return torch.nn.functional.group_norm(x, groups, weight, bias, eps)


def gelu_tanh(x: Any) -> Any:
    return torch.nn.functional.gelu(x, approximate="tanh")


def new_gelu(x: Any) -> Any:
    from transformers.activations import NewGELUActivation

    return NewGELUActivation()(x)


def silu_of_expit(x: Any) -> Any:
    from scipy.special import expit

    return x * expit(x)


def swin_partition(x: Any, window: int) -> Any:
    from transformers.models.swin import modeling_swin

    return modeling_swin.window_partition(x, window).flatten(1, 2).clone()


def swin_unpartition(windows: Any, window: int, height: int, width: int) -> Any:
    from transformers.models.swin import modeling_swin

    squares = windows.reshape(-1, window, window, windows.shape[-1])
    return modeling_swin.window_reverse(squares, window, height, width).clone()


def swin_positions(window: int, heads: int = 1) -> Any:
    from transformers.models.swin import modeling_swin

    return modeling_swin.SwinRelativePositionBias(heads, (window, window))


def swin_index(window: int, **_: Any) -> Any:
    return swin_positions(window).relative_position_index.view(window * window, -1).clone()


def swin_bias(table: Any, window: int) -> Any:
    module = swin_positions(window, table.shape[1])
    return torch.func.functional_call(module, {"relative_position_bias_table": table}, ())[0].clone()


def swin_attention(
    x: Any, t: Any, qs: Any, ks: Any, vs: Any, qt: Any, kt: Any, vt: Any, o: Any, table: Any, window: int, heads: int
) -> Any:
    """transformers' SwinAttention, image by image: what time adds to q, k and v is a bias of their projections."""
    from transformers import SwinConfig
    from transformers.models.swin import modeling_swin

    class Windows(modeling_swin.SwinAttention):
        def __init__(self) -> None:
            config = SwinConfig(qkv_bias=True, attention_probs_dropout_prob=0.0)
            config._attn_implementation = "eager"
            super().__init__(config, x.shape[-1], heads, window)

    module = Windows()
    images = []
    for image, moment in zip(x, t, strict=True):
        weights = {f"{n}_proj.weight": w.mT for n, w in zip("qkvo", (qs, ks, vs, o), strict=True)}
        biases = {f"{n}_proj.bias": moment @ w for n, w in zip("qkv", (qt, kt, vt), strict=True)}
        biases["o_proj.bias"] = torch.zeros_like(o[0])
        given = {**weights, **biases, "relative_position_bias.relative_position_bias_table": table}
        found = torch.func.functional_call(module, given, (swin_partition(image[None], window),))[0]
        images.append(swin_unpartition(found, window, *image.shape[:2]))
    return torch.cat(images)


def dense(
    x: Any, t: Any, qs: Any, ks: Any, vs: Any, qt: Any, kt: Any, vt: Any, o: Any, table: Any, window: int, heads: int
) -> Any:
    """All tokens at once: keys of other windows are at −∞, and nothing is cut out or put back."""
    _, rows, columns, channels = x.shape
    y, z = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    y, z = y.flatten(), z.flatten()
    dy, dz = y[:, None] - y, z[:, None] - z
    same = (y[:, None] // window == y // window) & (z[:, None] // window == z // window)
    index = torch.where(same, (dy + window - 1) * (2 * window - 1) + dz + window - 1, 0)
    bias = table[index].permute(2, 0, 1).masked_fill(~same, -torch.inf)
    flat = x.flatten(1, 2)

    def head(space: Any, time: Any) -> Any:
        both = flat @ space + (t @ time)[:, None]
        return both.unflatten(2, (heads, channels // heads)).transpose(1, 2)

    out = torch.nn.functional.scaled_dot_product_attention(head(qs, qt), head(ks, kt), head(vs, vt), attn_mask=bias)
    return (out.transpose(1, 2).flatten(2) @ o).reshape(x.shape)
