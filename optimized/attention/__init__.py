"""Attention of diffusion transformers, fast: masks, windows, relative positions, time-dependent self-attention, DiffiT.

    q = x_s W_qs + x_t W_qt,  k = x_s W_ks + x_t W_kt,  v = x_s W_vs + x_t W_vt,  y = softmax(q kᵀ/√d + B) v W_o
                                                                                  (Hatamizadeh et al. 2023 eq. 3-6)

Windows are cut out, attended to strip by strip and put back; the three projections of space are one product.

The gradients of tmsa, tmsa_tokens and tmsa_qk_norm are derived by hand and compute the softmax again; all others, and
derivatives of derivatives, are torch's own. float16 and bfloat16 are computed in float32 and rounded once, except by
these three: where the processor multiplies bfloat16, and on CUDA for both formats, products take and return the format
(sums inside are float32), so that q, k, v, q kᵀ, the probabilities that multiply v, the output of the heads and their
gradients are rounded to it, too; softmax, bias, norms and sums over strips are float32. The kernels of CUDA do not
round q kᵀ.

The modules TMSA, DiffiTBlock, DiffiTResBlock, DiffiT and LatentDiffiT hold their weights in nn.Linear, nn.LayerNorm,
nn.GroupNorm and nn.Conv2d, so that adapters, quantization, sharding and weight decay rules find them; PRESETS are the
paper's four models. Sources: Vaswani et al. 2017 (1706.03762); Liu et al. 2021 (2103.14030); Huang et al. 2018
(1809.04281); Hatamizadeh et al. 2023 (2312.02139).
"""

from trueness.optimized.attention.blocks import diffit_block, diffit_resblock
from trueness.optimized.attention.dot_product import masked_attention, relative_attention_logits
from trueness.optimized.attention.modules import TMSA, DiffiT, DiffiTBlock, DiffiTResBlock, LatentDiffiT
from trueness.optimized.attention.normalization import gelu_tanh, group_norm, layer_norm, silu
from trueness.optimized.attention.presets import PRESETS, Preset, inconsistencies, multiply_adds
from trueness.optimized.attention.self_attention import tmsa, tmsa_qk_norm, tmsa_tokens
from trueness.optimized.attention.weights import DiffiTBlockWeights, DiffiTResBlockWeights, TMSAWeights
from trueness.optimized.attention.windows import (
    relative_position_bias,
    relative_position_index,
    window_partition,
    window_unpartition,
)

__all__ = [
    "PRESETS",
    "TMSA",
    "DiffiT",
    "DiffiTBlock",
    "DiffiTBlockWeights",
    "DiffiTResBlock",
    "DiffiTResBlockWeights",
    "LatentDiffiT",
    "Preset",
    "TMSAWeights",
    "diffit_block",
    "diffit_resblock",
    "gelu_tanh",
    "group_norm",
    "inconsistencies",
    "layer_norm",
    "masked_attention",
    "multiply_adds",
    "relative_attention_logits",
    "relative_position_bias",
    "relative_position_index",
    "silu",
    "tmsa",
    "tmsa_qk_norm",
    "tmsa_tokens",
    "window_partition",
    "window_unpartition",
]
