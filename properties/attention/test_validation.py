"""Bad input is refused with one sentence."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trueness.optimized import attention as fast

TOKENS, TIME = torch.zeros(2, 4, 4, 6), torch.zeros(2, 3)
WEIGHTS = fast.TMSAWeights(
    *[torch.zeros(6, 6)] * 3, *[torch.zeros(3, 6)] * 3, w_o=torch.zeros(6, 6), bias_table=torch.zeros(9, 2)
)


def tmsa(x: Any, t: Any, window: Any, num_heads: int, weights: Any = WEIGHTS) -> Any:
    return fast.tmsa(x, t, weights, window=window, num_heads=num_heads)


Q, K, MASK = torch.zeros(2, 3, 4), torch.zeros(2, 5, 4), torch.ones(2, 3, 5, dtype=torch.bool)


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: tmsa(TOKENS, TIME, 3, 2), "window was 3 on a grid of 4 × 4"),
        (lambda: tmsa(TOKENS, TIME, 2, 4), "num_heads was 4 for 6 channels"),
        (
            lambda: tmsa(TOKENS, TIME, 4, 2),
            r"bias_table had shape \(9, 2\); it must be \(49, 2\)",
        ),
        (
            lambda: tmsa(TOKENS, TIME[:1], 2, 2),
            r"t had shape \(1, 3\); it must be \(2, 3\)",
        ),
        (lambda: tmsa(TOKENS, TIME.half(), 2, 2), "t was torch.float16"),
        (lambda: tmsa(TOKENS.int(), TIME, 2, 2), "x had dtype torch.int32"),
        (lambda: tmsa(TOKENS, TIME, True, 2), "window was True"),
        (
            lambda: fast.tmsa(TOKENS, TIME, tuple(WEIGHTS), window=2, num_heads=2),
            "weights was tuple; it must be TMSAWeights",
        ),
        (lambda: fast.TMSA(6, 2, 3, 3)(TOKENS, TIME), "window was 3 on a grid of 4 × 4"),
        (lambda: fast.TMSA(8, 2, 2, 3)(TOKENS, TIME), "x had 6 channels; it must have embed_dim = 8"),
        (lambda: fast.TMSA(6, 2, 2, 4)(TOKENS, TIME), r"t had shape \(2, 3\); it must be \(2, 4\)"),
        (lambda: fast.TMSA(6, 4, 2, 3), "num_heads was 4 for 6 channels"),
        (lambda: fast.masked_attention(Q, K, K, MASK.float()), "mask was torch.float32"),
        (lambda: fast.masked_attention(Q, K, K, None), "mask was NoneType"),
        (lambda: fast.masked_attention(Q, K, K, MASK[..., :4]), r"mask had shape \(2, 3, 4\)"),
        (lambda: fast.masked_attention(Q, K[..., :3], K, MASK), "q and k must share their width"),
        (lambda: fast.masked_attention(Q, K, K.double(), MASK), "v was .* torch.float64"),
        (lambda: fast.window_partition(TOKENS[0], 2), r"x was \(4, 4, 6\)"),
        (lambda: fast.window_unpartition(torch.zeros(3, 4, 6), 2, 4, 4), "windows had 3 rows"),
        (lambda: fast.window_unpartition(torch.zeros(4, 3, 6), 2, 4, 4), r"windows was \(4, 3, 6\)"),
        (lambda: fast.relative_position_index(0), "window was 0"),
        (lambda: fast.relative_position_bias(torch.zeros(4, 2), 2), r"table had shape \(4, 2\)"),
        (lambda: fast.relative_attention_logits(Q, Q, Q), r"embedding had shape .* it must be \(5, 4\)"),
        (lambda: fast.layer_norm(Q, Q, Q[0, 0]), "weight had shape"),
        (lambda: fast.layer_norm(Q, Q[0, 0], Q[0, 0], eps=0), "eps was 0"),
        (lambda: fast.group_norm(torch.zeros(1, 6, 2, 2), torch.ones(6), torch.ones(6), groups=4), "groups was 4"),
        (lambda: fast.silu([1.0]), "x was list"),
        (lambda: fast.DiffiT(8)(torch.zeros(2, 3, 4, 4), torch.zeros(2)), r"x had shape \(2, 3, 4, 4\)"),
        (lambda: fast.DiffiT(8)(torch.zeros(2, 3, 8, 8), torch.zeros(1)), r"t had shape \(1,\)"),
        (lambda: fast.DiffiT(8)(torch.zeros(2, 3, 8, 8), torch.zeros(2), torch.zeros(2)), "without classes"),
        (lambda: fast.multiply_adds(4, 4, 0, 2), "channels was 0"),
    ],
)
def test_bad_input_is_refused_with_one_sentence(call: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()
