"""The blocks of DiffiT: the transformer block of tokens and the ResBlock of feature maps."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from trueness.optimized._lib.dtypes import upcast
from trueness.optimized.attention.normalization import gelu_tanh, group_norm, layer_norm, silu
from trueness.optimized.attention.self_attention import tmsa
from trueness.optimized.attention.validation import require_like, require_shape, require_weights
from trueness.optimized.attention.weights import DiffiTBlockWeights, DiffiTResBlockWeights, TMSAWeights

Tensor = torch.Tensor


def diffit_block(
    x: Tensor, t: Tensor, weights: DiffiTBlockWeights, *, window: int, num_heads: int, eps: float = 1e-6
) -> Tensor:
    """x̂ = TMSA(LN(x), x_t) + x,  y = MLP(LN(x̂)) + x̂,  MLP(z) = GELU(z W_1 + b_1) W_2 + b_2

    (Hatamizadeh et al. 2023 eq. 7-8, with the GELU of gelu_tanh.)

    x          x    (B, H, W, C)        spatial tokens, any floating dtype
    t          x_t  (B, E)              time tokens
    weights         DiffiTBlockWeights
    window     w    int                 side of a window, divides H and W
    num_heads       int                 divides C
    eps        ε    number              of both LayerNorms
    returns    y    (B, H, W, C)        dtype of x
    raises     ValueError as tmsa and layer_norm, or if a weight of the MLP does not fit
    """
    require_shape(x, "x", "(B, H, W, C)", 4)
    require_weights(weights, DiffiTBlockWeights)
    channels = x.shape[3]
    require_shape(weights.w_1, "w_1", "(C, M)", 2)
    hidden = weights.w_1.shape[1]
    mlp = {"w_1": (channels, hidden), "b_1": (hidden,), "w_2": (hidden, channels), "b_2": (channels,)}
    require_like(x, **{name: (getattr(weights, name), shape) for name, shape in mlp.items()})
    dtype, x, t, weights = x.dtype, upcast(x), upcast(t), _upcast_block(weights)
    normal = layer_norm(x, weights.norm1_weight, weights.norm1_bias, eps=eps)
    hat = tmsa(normal, t, weights.tmsa, window=window, num_heads=num_heads) + x
    inner = layer_norm(hat, weights.norm2_weight, weights.norm2_bias, eps=eps) @ weights.w_1 + weights.b_1
    return (gelu_tanh(inner) @ weights.w_2 + weights.b_2 + hat).to(dtype)


def diffit_resblock(
    x: Tensor,
    t: Tensor,
    weights: DiffiTResBlockWeights,
    *,
    window: int,
    num_heads: int,
    groups: int = 8,
    eps: float = 1e-6,
) -> Tensor:
    """x̂ = Conv3×3(Swish(GN(x))),  y = DiffiT-Block(x̂, x_t) + x        (Hatamizadeh et al. 2023 eq. 9-10)

    x          x    (B, C, H, W)           images or feature maps, any floating dtype
    t          x_t  (B, E)                 time tokens
    weights         DiffiTResBlockWeights
    window     w    int                    side of a window, divides H and W
    num_heads       int                    divides C
    groups     G    int                    of the GroupNorm, divides C
    eps        ε    number                 of all three normalisations
    returns    y    (B, C, H, W)           dtype of x; nothing is applied after the sum
    raises     ValueError as group_norm and diffit_block, or if the convolution does not keep C channels
    """
    require_shape(x, "x", "(B, C, H, W)", 4)
    require_weights(weights, DiffiTResBlockWeights)
    require_weights(weights.block, DiffiTBlockWeights)
    channels = x.shape[1]
    kernel, shift = weights.kernel, weights.kernel_bias
    require_like(x, kernel=(kernel, (channels, channels, 3, 3)), kernel_bias=(shift, (channels,)))
    wide, gain, bias = upcast(x), upcast(weights.norm_weight), upcast(weights.norm_bias)
    normal = silu(group_norm(wide, gain, bias, groups=groups, eps=eps))
    hat = F.conv2d(normal, upcast(kernel), upcast(shift), padding=1).movedim(1, -1)
    block = diffit_block(hat, upcast(t), _upcast_block(weights.block), window=window, num_heads=num_heads, eps=eps)
    total: Tensor = block.movedim(-1, 1) + wide
    return total.to(x.dtype)


def _upcast_block(weights: DiffiTBlockWeights) -> DiffiTBlockWeights:
    require_weights(weights.tmsa, TMSAWeights)
    tmsa_weights = TMSAWeights(*map(upcast, weights.tmsa))
    others = {n: upcast(w) for n, w in weights._asdict().items() if n != "tmsa"}
    return DiffiTBlockWeights(tmsa=tmsa_weights, **others)
