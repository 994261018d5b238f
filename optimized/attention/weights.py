"""The weights of the functional forms: named tuples whose fields carry the symbols of the paper."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class TMSAWeights(NamedTuple):
    """The projections of time-dependent self-attention and its relative position bias; E is the width of x_t.

    Products are x W, so a weight is (in, out): the transpose of an ``nn.Linear``'s, ``linear.weight.mT``.

    w_qs        W_qs  (C, C)                  queries from space
    w_ks        W_ks  (C, C)                  keys from space
    w_vs        W_vs  (C, C)                  values from space
    w_qt        W_qt  (E, C)                  queries from time
    w_kt        W_kt  (E, C)                  keys from time
    w_vt        W_vt  (E, C)                  values from time
    w_o         W_o   (C, C)                  mixes the heads
    bias_table  T     ((2w − 1)², num_heads)  relative position bias
    """

    w_qs: Tensor
    w_ks: Tensor
    w_vs: Tensor
    w_qt: Tensor
    w_kt: Tensor
    w_vt: Tensor
    w_o: Tensor
    bias_table: Tensor


class DiffiTBlockWeights(NamedTuple):
    """The weights of a DiffiT transformer block.

    norm1_weight        (C,)         gain of the LayerNorm before TMSA
    norm1_bias          (C,)         its shift
    tmsa                TMSAWeights
    norm2_weight        (C,)         gain of the LayerNorm before the MLP
    norm2_bias          (C,)         its shift
    w_1           W_1   (C, M)       into the hidden layer, M = 4 C in the paper
    b_1           b_1   (M,)
    w_2           W_2   (M, C)       and out of it
    b_2           b_2   (C,)
    """

    norm1_weight: Tensor
    norm1_bias: Tensor
    tmsa: TMSAWeights
    norm2_weight: Tensor
    norm2_bias: Tensor
    w_1: Tensor
    b_1: Tensor
    w_2: Tensor
    b_2: Tensor


class DiffiTResBlockWeights(NamedTuple):
    """The weights of a DiffiT ResBlock.

    norm_weight        (C,)          gain of the GroupNorm
    norm_bias          (C,)          its shift
    kernel        K    (C, C, 3, 3)  of the convolution, output channels first
    kernel_bias        (C,)          its shift
    block              DiffiTBlockWeights
    """

    norm_weight: Tensor
    norm_bias: Tensor
    kernel: Tensor
    kernel_bias: Tensor
    block: DiffiTBlockWeights
