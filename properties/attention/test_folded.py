"""Laws of TMSA with x_t W_kt folded away, forward and backward; of where that is wrong; the operator for CUDA."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from trueness.optimized.attention import cpu
from trueness.optimized.attention.cuda import operator
from trueness.properties.attention.laws import F64, changed, ours, tmsa_arguments, true
from trueness.reference import attention as reference
from trueness.tools.arithmetic.bounds import LIMITS, bounds

NAMES = ("x", "t", "w_qs", "w_ks", "w_vs", "w_qt", "w_kt", "w_vt", "w_o", "bias_table")
WINDOWS = ((1, 2, 2), (2, 2, 1), (4, 1, 2), (8, 1, 1), (9, 1, 1))  # side, rows and columns; one window is global


def leaves(a: tuple[Any, ...]) -> list[Any]:
    return [torch.from_numpy(x.copy()).requires_grad_() if isinstance(x, np.ndarray) else x for x in a]


def pulled(a: tuple[Any, ...], g: np.ndarray) -> list[torch.Tensor]:
    natives = leaves(a)
    return list(torch.autograd.grad(ours.tmsa(*natives), natives[:10], torch.from_numpy(g)))


@pytest.mark.parametrize("window, rows, columns", WINDOWS)
def test_the_folded_form_and_its_gradients_are_the_literal_ones(window: int, rows: int, columns: int) -> None:
    a = tmsa_arguments(0, window, rows, columns)
    g = np.random.default_rng(1).standard_normal(a[0].shape)
    units = [F64.u] * 10 + [0.0, 0.0]
    (value,) = bounds(true.tmsa, a, units, F64, 64 + window**2)
    assert value.ratio(ours.tmsa(*leaves(a)).detach().numpy()).max() <= LIMITS["fused"]
    gradients = bounds(reference.tmsa_vjp, (g, *a), [F64.u, *units], F64, 64 + 16 * window**2)
    for name, bound, found in zip(NAMES, gradients, pulled(a, g), strict=True):
        assert bound.ratio(found.numpy()).max() <= LIMITS["fused"], name


def test_the_gradient_of_w_kt_is_zero_and_that_of_w_vt_is_that_of_an_output_bias() -> None:
    a = tmsa_arguments(0, 2, columns=2)
    g = np.random.default_rng(1).standard_normal(a[0].shape)
    found = dict(zip(NAMES, pulled(a, g), strict=True))
    assert (found["w_kt"] == 0).all()
    assert (found["w_qt"] != 0).any()
    want = a[1].T @ (g.sum((1, 2)) @ a[8].T)
    size = np.abs(a[1]).T @ (np.abs(g).sum((1, 2)) @ np.abs(a[8]).T)
    assert (np.abs(found["w_vt"].numpy() - want) <= 64 * F64.u * size).all(), "of sums of 2, 8 and 6 terms"


@pytest.mark.parametrize("value", [np.nan])
def test_what_cancels_still_shows_when_it_is_no_number(value: float) -> None:
    a = tmsa_arguments(0, 2)
    broken = changed(a, w_kt=np.full_like(a[6], value))
    assert np.isnan(true.tmsa(*broken)).all()
    assert ours.tmsa(*leaves(broken)).isnan().all()


def test_with_norms_or_a_time_token_at_every_position_w_kt_matters() -> None:
    a = leaves(tmsa_arguments(0, 2, columns=2))
    gains = [torch.ones(3, dtype=torch.float64)] * 2
    by_token = [a[0], torch.randn(*a[0].shape[:3], 4, dtype=torch.float64), *a[2:]]
    for y in (ours.tmsa_tokens(*by_token), ours.tmsa_qk_norm(*a[:9], *gains, *a[9:], 1e-6)):
        (gradient,) = torch.autograd.grad(y.square().sum(), a[6])
        assert gradient.abs().min() > 0


def test_a_time_token_repeated_at_every_position_is_one_for_the_image() -> None:
    a = leaves(tmsa_arguments(0, 2, columns=2))
    everywhere = a[1][:, None, None].expand(*a[0].shape[:3], -1)
    found, want = ours.tmsa_tokens(a[0], everywhere, *a[2:]), ours.tmsa(*a)
    natives = [x.detach().numpy() if isinstance(x, torch.Tensor) else x for x in a]
    bound = bounds(true.tmsa, natives, [F64.u] * 10 + [0.0, 0.0], F64, 64)[0]
    assert (np.abs((found - want).detach().numpy()) <= 2 * LIMITS["fused"] * bound.B).all()


@pytest.mark.parametrize("name", ["tmsa", "tmsa_qk_norm"])
def test_the_backward_can_be_differentiated(name: str) -> None:
    a = leaves(tmsa_arguments(0, 2, heads=1, batch=1))
    if name == "tmsa_qk_norm":
        a = [*a[:9], *(torch.ones(3, dtype=torch.float64, requires_grad=True) for _ in "qk"), *a[9:], 1e-3]
    chosen = [i for i, x in enumerate(a) if isinstance(x, torch.Tensor)]

    def call(*tensors: Any) -> Any:
        full = list(a)
        for i, x in zip(chosen, tensors, strict=True):
            full[i] = x
        return getattr(ours, name)(*full)

    assert torch.autograd.gradgradcheck(call, [a[i] for i in chosen], fast_mode=True)


def test_blocks_of_queries_give_what_all_queries_give(monkeypatch: pytest.MonkeyPatch) -> None:
    a = tmsa_arguments(0, 4)
    g = np.random.default_rng(1).standard_normal(a[0].shape)
    units = [F64.u] * 11 + [0.0, 0.0]
    gradients = bounds(reference.tmsa_vjp, (g, *a), units, F64, 320)
    monkeypatch.setattr(cpu, "SCORES", 200)
    for name, bound, found in zip(NAMES, gradients, pulled(a, g), strict=True):
        assert bound.ratio(found.numpy()).max() <= LIMITS["fused"], name


def test_opcheck_accepts_the_operator_of_cuda() -> None:
    generator = torch.Generator().manual_seed(0)
    qkv, time, bias = (
        torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_()
        for s in [(2, 4, 4, 12), (2, 2, 4), (2, 4, 4)]
    )
    torch.library.opcheck(operator.window_attention, (qkv, time, bias, 2, 2))
    assert torch.autograd.gradcheck(lambda *t: operator.window_attention(*t, 2, 2), (qkv, time, bias), fast_mode=True)
