"""Laws of the DiffiT blocks: identities, sublayers, and the backward against the complex step of the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from trueness.properties.attention.laws import (
    F64,
    assert_same,
    block_arguments,
    every,
    given,
    ours,
    seeds,
    true,
)
from trueness.tools.arithmetic import complex_step


@every("diffit_block")
@given(seed=seeds)
def test_a_block_whose_sublayers_end_in_zeros_is_the_identity(function: Any, seed: int) -> None:
    a = list(block_arguments(seed))
    for at in (10, 16, 17):  # W_o, W_2, b_2
        a[at] = 0 * a[at]
    assert np.array_equal(function(*a), a[0])


@every("diffit_block")
@given(seed=seeds)
def test_a_block_is_its_two_sublayers(function: Any, seed: int) -> None:
    """With the MLP at zero what is left is TMSA of the normalised tokens; and with W_o at zero the MLP of these."""
    a = list(block_arguments(seed))
    no_mlp, no_attention = list(a), list(a)
    no_mlp[16], no_mlp[17] = 0 * a[16], 0 * a[17]
    want = true.tmsa(true.layer_norm(a[0], a[2], a[3], 1e-6), a[1], *a[4:12], 2, 2) + a[0]
    assert_same(function(*no_mlp), want, true.diffit_block, tuple(no_mlp), tuple(no_mlp))
    no_attention[10] = 0 * a[10]
    hidden = torch.from_numpy(true.layer_norm(a[0], a[12], a[13], 1e-6) @ a[14] + a[15])
    want = torch.nn.functional.gelu(hidden, approximate="tanh").numpy() @ a[16] + a[17] + a[0]
    assert_same(function(*no_attention), want, true.diffit_block, tuple(no_attention), tuple(no_attention))


@pytest.mark.parametrize("image", [False, True], ids=["block", "resblock"])
def test_the_backward_of_a_block_is_the_complex_step_of_the_reference(image: bool) -> None:
    """⟨g, J v⟩ by complex step against ⟨Jᵀ g, v⟩ by torch, for every argument in turn."""
    a = block_arguments(0, image)
    true_f, fast_f = (true.diffit_resblock, ours.diffit_resblock) if image else (true.diffit_block, ours.diffit_block)
    real = [i for i, x in enumerate(a) if isinstance(x, np.ndarray)]
    natives = [torch.from_numpy(np.array(x)).requires_grad_() if i in real else x for i, x in enumerate(a)]
    generator = np.random.default_rng(1)
    g = generator.standard_normal(a[0].shape)
    gradients = torch.autograd.grad(fast_f(*natives), [natives[i] for i in real], torch.from_numpy(g))
    directions = {i: generator.standard_normal(a[i].shape) for i in real}
    pulled = {i: gradient.numpy() * directions[i] for i, gradient in zip(real, gradients, strict=True)}
    # as many roundings as there are sums and operations, on numbers of the size of all gradients together: that of
    # W_kt alone is 0, what is left of larger ones that cancel
    allowed = F64.u * g.size * sum(np.abs(p).sum() for p in pulled.values())
    for i in real:
        (jv,) = complex_step.directional_derivative(
            true_f, a, [directions[j] if j == i else None for j in range(len(a))]
        )
        assert abs(np.sum(g * jv) - pulled[i].sum()) <= allowed, f"argument {i}"
        assert allowed < 1e-6 * np.abs(pulled[i]).sum() or not jv.any(), f"argument {i}: the bound has no power"
