"""Newton–Schulz of one matrix or many, of products of thin ones, and its coefficients.

What is refused stands in ``atlas_memory``; everything here is float32 or float64: after five steps a rounding in the
null space has grown by the product of the slopes a, 485 times for JORDAN, 493 for LACT, 1026 for POLAR_EXPRESS.

Normalised singular values land in [0.6818, 1.1344] by JORDAN from 0.006 on, in [0.9778, 1.0318] by LACT from 0.007 on
(You et al., LaCT, 2505.23884), in [0.8764, 1.1236] by POLAR_EXPRESS from 0.001 on (Amsel et al. 2505.16932).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from trueness.optimized._lib.dispatch import under_functorch

JORDAN = ((3.4445, -4.7750, 2.0315),) * 5
CLASSICAL = ((15 / 8, -5 / 4, 3 / 8),) * 12
LACT = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
)
EPS = 1e-8
THIN = 2
Steps = Sequence[Sequence[float]]
Eps = float | torch.Tensor


def newton_schulz(g: torch.Tensor, coefficients: Steps = JORDAN, eps: Eps = EPS) -> torch.Tensor:
    """X = G/(‖G‖_F + ε), then X ← a X + (b A + c A²) X with A = X Xᵀ; an ε of every matrix is (…, 1, 1)"""
    if g.shape[-2] > g.shape[-1]:
        return newton_schulz(g.mT, coefficients, eps).mT
    if not g.numel():
        return g + 0
    flat = g.reshape(-1, *g.shape[-2:])
    eps = eps.reshape(-1, 1, 1) if isinstance(eps, torch.Tensor) else eps
    if torch.compiler.is_compiling() or under_functorch():
        return _steps(flat, coefficients, eps)[-1].reshape(g.shape)
    found: torch.Tensor = _NewtonSchulz.apply(flat, coefficients, eps)  # type: ignore[no-untyped-call]
    return found.reshape(g.shape)


def _normalised(g: torch.Tensor, eps: Eps) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """X, the largest element that G was divided by so that no square leaves the format, and ‖G‖ in that unit"""
    scale = _largest(g)
    x: torch.Tensor = g / scale
    norm = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
    return x / (norm + eps / scale), scale, norm


def _polynomial(x: torch.Tensor, b: float, c: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A = X Xᵀ and b A + c A²"""
    gram = x @ x.mT
    return gram, torch.baddbmm(gram, gram, gram, beta=b, alpha=c)


def _steps(g: torch.Tensor, coefficients: Steps, eps: Eps) -> list[torch.Tensor]:
    """X before the first step and after every step, of (n, R, C) with R ≤ C"""
    found = [_normalised(g, eps)[0]]
    for a, b, c in coefficients:
        x = found[-1]
        found.append(torch.baddbmm(x, _polynomial(x, b, c)[1], x, beta=a))
    return found


class _NewtonSchulz(torch.autograd.Function):
    """Keeps G alone; the steps are taken again on the way back.

    X̄ = a Ȳ + B Ȳ + (Ā + Āᵀ) X,  B = b A + c A²,  Ā = b Ȳ Xᵀ + c (A Ȳ Xᵀ + Ȳ Xᵀ A)
    """

    @staticmethod
    def forward(ctx: Any, g: torch.Tensor, coefficients: Steps, eps: Eps) -> torch.Tensor:
        ctx.save_for_backward(g)
        ctx.coefficients, ctx.eps = coefficients, eps
        x = _normalised(g, eps)[0]
        for a, b, c in coefficients:
            x = torch.baddbmm(x, _polynomial(x, b, c)[1], x, beta=a)
        return x

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (g,), (pulled,) = ctx.saved_tensors, cotangents
        iterates = _steps(g, ctx.coefficients, ctx.eps)
        for (a, b, c), x in zip(reversed(ctx.coefficients), iterates[-2::-1], strict=True):
            gram, polynomial = _polynomial(x, b, c)
            outer = pulled @ x.mT
            outer = outer + outer.mT
            by_gram = b * outer + c * (gram @ outer + outer @ gram)  # Ā + Āᵀ: A is symmetric
            pulled = torch.baddbmm(torch.baddbmm(pulled, polynomial, pulled, beta=a), by_gram, x)
        _, scale, norm = _normalised(g, ctx.eps)
        unit, workspace = g / scale, norm + ctx.eps / scale
        inner = (pulled * unit).sum((-2, -1), keepdim=True)
        along = torch.where(norm > 0, inner / (norm * workspace), torch.zeros_like(inner))
        return (pulled - unit * along) / (workspace * scale), None, None


def newton_schulz_lowrank(
    x: torch.Tensor, y: torch.Tensor, coefficients: Steps = JORDAN, eps: float = EPS
) -> torch.Tensor:
    """NS(Xᵀ Y) of X (..., r, P) and Y (..., r, V), whose steps see matrices of r × r: Q_x NS(R_x R_yᵀ) Q_yᵀ

    Xᵀ = Q_x R_x and Yᵀ = Q_y R_y. In the Gram matrices X Xᵀ and Y Yᵀ alone the same steps need no Q, but keys that are
    nearly equal - features with a constant block are - leave no digit of float32 in them. Not for r that is no smaller
    than P and V by ``THIN``, for nothing is gained there.
    """
    if not x.numel() * y.numel():
        return newton_schulz(x.mT @ y, coefficients, eps)
    plain = torch.compiler.is_compiling() or under_functorch()
    if plain or THIN * x.shape[-2] > min(x.shape[-1], y.shape[-1]):
        s_x, s_y = _largest(x), _largest(y)
        return newton_schulz((x / s_x).mT @ (y / s_y), coefficients, eps / s_x / s_y)
    found: torch.Tensor = _LowRank.apply(x, y, coefficients, eps)  # type: ignore[no-untyped-call]
    return found


def _largest(x: torch.Tensor) -> torch.Tensor:
    """What a matrix is divided by so that no square leaves the format"""
    largest: torch.Tensor = x.detach().abs().amax((-2, -1), keepdim=True)
    return torch.where((largest > 0) & largest.isfinite(), largest, torch.ones_like(largest))


class _Turned(NamedTuple):
    """Xᵀ = s_x Q_x R_x and Yᵀ = s_y Q_y R_y, core = R_x R_yᵀ, and ε in its unit"""

    s_x: torch.Tensor
    q_x: torch.Tensor
    r_x: torch.Tensor
    s_y: torch.Tensor
    q_y: torch.Tensor
    r_y: torch.Tensor
    core: torch.Tensor
    eps: torch.Tensor


def _turned(x: torch.Tensor, y: torch.Tensor, eps: Eps) -> _Turned:
    s_x, s_y = _largest(x), _largest(y)
    (q_x, r_x), (q_y, r_y) = _qr(x / s_x), _qr(y / s_y)
    return _Turned(s_x, q_x, r_x, s_y, q_y, r_y, r_x @ r_y.mT, eps / s_x / s_y)


def _qr(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Xᵀ = Q R, Householder's with the rows of Xᵀ from large to small: so a row's error is as small as the row is

    (Cox, Higham, Stability of Householder QR factorization for weighted least squares problems, 1998). In any other
    order a feature that is small beside the others keeps no digit.
    """
    order = x.abs().amax(-2).argsort(-1, descending=True)[..., None]
    q, r = torch.linalg.qr(x.mT.take_along_dim(order, -2))
    return torch.empty_like(q).scatter_(-2, order.expand_as(q), q), r


class _LowRank(torch.autograd.Function):
    """Keeps X and Y. With core = R_x R_yᵀ and N = NS(core) = L core = core K, L and K polynomials of coreᵀ's Grams:

        Q_xᵀ S̄ = c̄ Q_yᵀ + L Q_xᵀ Ū (1 − Q_y Q_yᵀ),    S̄ Q_y = Q_x c̄ + (1 − Q_x Q_xᵀ) Ū Q_y K

    where c̄ is the gradient by the core; X̄ = (S̄ Q_y R_y)ᵀ and Ȳ = R_xᵀ Q_xᵀ S̄. No derivative of Q and R is needed, so
    that a matrix without full rank has a gradient like any other.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, y: torch.Tensor, coefficients: Steps, eps: float) -> torch.Tensor:
        ctx.save_for_backward(x, y)
        ctx.coefficients, ctx.eps = coefficients, eps
        t = _turned(x, y, eps)
        return t.q_x @ (newton_schulz(t.core, coefficients, t.eps) @ t.q_y.mT)

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (x, y), (pulled,) = ctx.saved_tensors, cotangents
        t = _turned(x, y, ctx.eps)
        core = t.core.detach().requires_grad_()
        with torch.enable_grad():
            last = newton_schulz(core, ctx.coefficients, t.eps)
        left, right = t.q_x.mT @ pulled, pulled @ t.q_y  # (r, V) and (P, r)
        middle = left @ t.q_y
        (by_core,) = torch.autograd.grad(last, core, middle)
        by_left, by_right = _factors(core.detach(), ctx.coefficients, t.eps)
        on_left = by_core @ t.q_y.mT + by_left @ (left - middle @ t.q_y.mT)
        on_right = t.q_x @ by_core + (right - t.q_x @ middle) @ by_right
        return (on_right @ t.r_y).mT / t.s_x, t.r_x.mT @ on_left / t.s_y, None, None


def _factors(g: torch.Tensor, coefficients: Steps, eps: Eps) -> tuple[torch.Tensor, torch.Tensor]:
    """L and K with NS(G) = L G = G K: what the steps do to a cotangent outside of the space of G"""
    flat, eps = g.reshape(-1, *g.shape[-2:]), eps.reshape(-1, 1, 1) if isinstance(eps, torch.Tensor) else eps
    x, scale, norm = _normalised(flat, eps)
    workspace = (norm + eps / scale) * scale
    left, right = (torch.eye(n, dtype=g.dtype, device=g.device) / workspace for n in g.shape[-2:])
    for a, b, c in coefficients:
        polynomial = _polynomial(x, b, c)[1]
        left = torch.baddbmm(left, polynomial, left, beta=a)
        right = torch.baddbmm(right, right, _polynomial(x.mT, b, c)[1], beta=a)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return left.reshape(*g.shape[:-2], *left.shape[-2:]), right.reshape(*g.shape[:-2], *right.shape[-2:])
