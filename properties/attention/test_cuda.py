"""The Triton kernels of windowed attention: 64 tokens, global attention in blocks, a head in two parts, breaks.

What `verify` draws are small windows: every program here has more tokens than 16, or more than one part.
"""

from __future__ import annotations

import pytest
import torch

from trueness.properties._lib.interpreted import printed

pytest.importorskip("triton", reason="triton is not installed: pip install triton")

# every line is one problem: what the kernels say, and their gradients, must be within the instrument's limit
RIGHT = (
    "float32 window 8 width 16",  # blocks of keys forward; rows of 16 queries and keys backward
    "bfloat16 window 8 width 16",  # a whole row of scores forward; rows of 32 backward
    "float32 window 4 width 72",  # 64 channels and 8 of 16
)
BLOCKS = (
    "float32 window 9 width 12",  # global attention: three blocks of queries and keys, the last with 17 of 32
    "bfloat16 window 9 width 12",
    "float16 window 9 width 12",
    "float32 window 5 width 72",  # one block of queries, two of keys; four windows of images for the bias
    "bfloat16 window 8 width 72",
)
HUGE = (  # float32 has no digit behind the point of such scores
    "float32 window 1 width 16 large",
    "float32 window 4 width 16 large",
    "bfloat16 window 5 width 16 large",
    "float32 window 4 width 16 equal",
    "bfloat16 window 9 width 12 equal",
)
WRONG = ("a channel lost", "a channel lost backward", "half of the tokens", "a block lost")
IN_BLOCKS = ("bias_kernel", "blocks_kernel", "blocks_queries_kernel", "keys_kernel")


def test_windows_of_64_tokens_and_heads_in_two_parts_are_right() -> None:
    assert printed("attention/interpreted.py", *RIGHT)[:-1] == [f"{name}: right" for name in RIGHT]


def test_the_backward_in_blocks_of_queries_and_keys_is_right_and_cut_short_at_every_bound() -> None:
    *said, cut = printed("attention/interpreted.py", *BLOCKS)
    assert said == [f"{name}: right" for name in BLOCKS]
    assert all(f"'{kernel}'" in cut for kernel in IN_BLOCKS), cut


def test_huge_scores_are_computed_again_as_they_were() -> None:
    """The backward had NaN where a product in another order was larger than the row's largest, and lost log₂ Σ."""
    assert printed("attention/interpreted.py", *HUGE)[:-1] == [f"{name}: right" for name in HUGE]


def test_broken_kernels_are_rejected() -> None:
    assert printed("attention/interpreted.py", *WRONG)[:-1] == [f"{name}: wrong" for name in WRONG]


@pytest.mark.parametrize("window", [4, 9])
def test_of_no_image_the_gradient_of_the_bias_is_zero(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is launched; memory that was not written would be NaN."""
    from trueness.optimized.attention.cuda import backward as back

    monkeypatch.setattr(torch, "empty", lambda *shape, **_: torch.zeros(*shape).fill_(torch.nan))
    grad, qkv, time = (torch.zeros(0, *shape) for shape in ((window, window, 32), (window, window, 96), (2, 32)))
    bias = torch.zeros(2, window**2, window**2)
    dqkv, dtime, dbias = back.backward(grad, qkv, time, bias, window, 2)
    assert dtime is not None and torch.equal(dbias, bias)
    assert dqkv.numel() == dtime.numel() == 0
