"""Random features in autograd: plain torch operations under tracing and transforms, else tiles with their own backward.

The arguments are saved for the backward, and for a product vᵀ cos(y W + b); features are not. A backward that is to be
differentiated again is computed in plain torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from trueness.optimized._lib.dispatch import needs_plain_ops, under_functorch
from trueness.optimized._lib.dtypes import autocast_disabled, upcast
from trueness.optimized.kernels.cpu import features as tiled
from trueness.optimized.kernels.cpu.features import Scale, Tiles
from trueness.optimized.kernels.cpu.tiles import matvec as tiled_matvec
from trueness.optimized.kernels.cpu.tiles import matvec_side
from trueness.optimized.kernels.cuda import operators

Tensors = tuple[torch.Tensor | None, ...]


def cuda_supported(*tensors: Any) -> bool:
    """Whether the CUDA kernels support it: all on CUDA, none in float64, no transform or forward mode."""
    given = [t for t in tensors if isinstance(t, torch.Tensor)]
    return (
        all(t.is_cuda and t.dtype != torch.float64 for t in given)
        and (torch.compiler.is_compiling() or not needs_plain_ops(*given))
        and not under_functorch()
    )


def needs_gradient(*tensors: Any) -> bool:
    """Whether autograd records the call."""
    return torch.is_grad_enabled() and any(isinstance(t, torch.Tensor) and t.requires_grad for t in tensors)


# -- the equations in plain torch -------------------------------------------------------------------------------------


def cosines(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.cos(torch.addmm(upcast(b), upcast(x), upcast(w)))


def plain_features(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, scale: Scale) -> torch.Tensor:
    if b is not None:
        return (cosines(x, w, b) * scale).to(x.dtype)
    z = upcast(x) @ upcast(w)
    return (torch.cat([torch.cos(z), torch.sin(z)], 1) * scale).to(x.dtype)


def plain_gram(x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (cosines(x, w, b) @ cosines(y, w, b).T * (2 / w.shape[1])).to(x.dtype)


def plain_matvec(
    x: torch.Tensor, y: torch.Tensor, v: torch.Tensor, w: torch.Tensor, b: torch.Tensor, shares: torch.Tensor
) -> torch.Tensor:
    return (cosines(x, w, b) @ (shares[:, None] * (cosines(y, w, b).T @ upcast(v)))).to(x.dtype)


def differentiable_gradients(
    plain: Callable[..., torch.Tensor], arguments: Any, needed: Any, grad: torch.Tensor
) -> list[Any]:
    """Gradients that can be differentiated again, None where none is needed."""
    with torch.enable_grad():
        chosen = [a for a, w in zip(arguments, needed, strict=True) if w]
        found = iter(torch.autograd.grad(plain(*arguments), chosen, grad, create_graph=True))
    return [next(found) if w else None for w in needed]


def _empty_like(x: torch.Tensor) -> torch.Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _cast(x: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor | None:
    return None if x is None else x.to(like.dtype)


def _add(first: torch.Tensor | None, second: torch.Tensor | None) -> torch.Tensor | None:
    return second if first is None else first if second is None else first.add_(second)


# -- tiles, with a backward -------------------------------------------------------------------------------------------


class _Features(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor, b: Any, scale: Scale, tiles: Tiles) -> torch.Tensor:  # type: ignore[override]
        ctx.number = None if isinstance(scale, torch.Tensor) else scale
        ctx.tiles, ctx.offset = tiles, b is not None
        ctx.save_for_backward(x, w, b, scale if ctx.number is None else None)
        return _features(x, w, b, scale, tiles)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        x, w, b, shares = ctx.saved_tensors
        scale = shares if ctx.number is None else ctx.number
        need_x, need_w, need_b, need_scale, _ = ctx.needs_input_grad
        with autocast_disabled(x):
            if torch.is_grad_enabled():
                return *differentiable_gradients(plain_features, (x, w, b, scale), ctx.needs_input_grad[:4], grad), None
            by_x = _empty_like(x) if need_x else None
            sums = tiled.features_backward(
                grad,
                x,
                upcast(w),
                None if b is None else upcast(b),
                scale,
                ctx.tiles,
                by_x=by_x,
                by_w=need_w or need_b,
                by_scale=need_scale,
            )
            by_b = None if b is None else _cast(sums.b, b)
            return by_x, _cast(sums.w, w), by_b, sums.cosines, None


class _Gram(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, b: torch.Tensor, tiles: Tiles
    ) -> torch.Tensor:
        ctx.tiles = tiles
        ctx.save_for_backward(x, y, w, b)
        return _gram(x, y, w, b, tiles)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        x, y, w, b = ctx.saved_tensors
        need_x, need_y, need_w, need_b, _ = ctx.needs_input_grad
        with autocast_disabled(x):
            if torch.is_grad_enabled():
                return *differentiable_gradients(plain_gram, (x, y, w, b), ctx.needs_input_grad[:4], grad), None
            shared = need_w or need_b
            by_x, by_y = (_empty_like(t) if need else None for t, need in ((x, need_x), (y, need_y)))
            wide_w, wide_b, by_w, by_b = upcast(w), upcast(b), None, None
            if need_x or shared:
                one = tiled.gram_side(grad, x, y, wide_w, wide_b, ctx.tiles, by_x=by_x, by_w=shared)
                by_w, by_b = one.w, one.b
            if need_y or shared:
                two = tiled.gram_side(grad.T, y, x, wide_w, wide_b, ctx.tiles, by_x=by_y, by_w=shared)
                by_w, by_b = _add(by_w, two.w), _add(by_b, two.b)
            return by_x, by_y, _cast(by_w, w), _cast(by_b, b), None


class _Matvec(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: torch.Tensor,
        y: torch.Tensor,
        v: torch.Tensor,
        w: torch.Tensor,
        b: torch.Tensor,
        shares: torch.Tensor,
        tiles: Tiles,
    ) -> torch.Tensor:
        out, total = _matvec(x, y, v, w, b, shares, tiles)
        ctx.tiles = tiles
        ctx.save_for_backward(x, y, v, w, b, shares, total)
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        x, y, v, w, b, shares, total = ctx.saved_tensors
        need_x, need_y, need_v, need_w, need_b, need_shares, _ = ctx.needs_input_grad
        with autocast_disabled(x):
            if torch.is_grad_enabled():
                arguments = x, y, v, w, b, shares
                return *differentiable_gradients(plain_matvec, arguments, ctx.needs_input_grad[:6], grad), None
            by_x, by_y, by_v = (_empty_like(t) if need else None for t, need in ((x, need_x), (y, need_y), (v, need_v)))
            left = dict(by_x=by_x, by_w=need_w or need_b, products=None)
            right = dict(by_x=by_y, by_w=need_w or need_b, products=by_v)
            back = need_y or need_v or need_w or need_b
            wide_w, wide_b = upcast(w), upcast(b)
            slope = total * shares
            one = matvec_side(x, grad, slope, wide_w, wide_b, ctx.tiles, sums=back or need_shares, **left)  # type: ignore[arg-type]
            by_w, by_b = one.w, one.b
            if back:
                assert one.cosines is not None
                two = matvec_side(y, v, one.cosines * shares, wide_w, wide_b, ctx.tiles, sums=False, **right)  # type: ignore[arg-type]
                by_w, by_b = _add(by_w, two.w), _add(by_b, two.b)
            by_shares = (total * one.cosines).sum(0) if need_shares and one.cosines is not None else None
            return by_x, by_y, by_v, _cast(by_w, w), _cast(by_b, b), by_shares, None


# -- values -----------------------------------------------------------------------------------------------------------


def _features(
    x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, scale: Scale, tiles: Tiles, out: Any = None
) -> torch.Tensor:
    columns = w.shape[1] if b is not None else 2 * w.shape[1]
    out = torch.empty(x.shape[0], columns, dtype=x.dtype, device=x.device) if out is None else out
    return tiled.features(x, w, b, scale, tiles, out)


def _gram(
    x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, b: torch.Tensor, tiles: Tiles, out: Any = None
) -> torch.Tensor:
    out = torch.empty(x.shape[0], y.shape[0], dtype=x.dtype, device=x.device) if out is None else out
    return tiled.gram(x, y, w, b, tiles, out)


def _matvec(
    x: torch.Tensor,
    y: torch.Tensor,
    v: torch.Tensor,
    w: torch.Tensor,
    b: torch.Tensor,
    shares: torch.Tensor,
    tiles: Tiles,
    out: Any = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    out = torch.empty(x.shape[0], v.shape[1], dtype=x.dtype, device=x.device) if out is None else out
    return out, tiled_matvec(x, y, v, w, b, shares, tiles, out)


def _launch_features(
    x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, scale: Scale, out: Any, precision: str
) -> torch.Tensor:
    scales, fast = scale if isinstance(scale, torch.Tensor) else None, precision == "tf32"  # a number is √(2/D)
    if out is not None:
        return operators.features_into(x, w, b, scales, fast, out)
    if b is None:
        return operators.features_paired(x, w, fast)  # type: ignore[no-any-return]
    return operators.features(x, w, b, scales, fast)  # type: ignore[no-any-return]


# -- what rff.py calls ------------------------------------------------------------------------------------------------


def features(
    x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, scale: Scale, tiles: Tiles, out: Any, precision: str
) -> torch.Tensor:
    """scale · cos(x W + b), or the pairs [cos, sin] without ``b``."""
    with autocast_disabled(x):
        if cuda_supported(x, w, b, scale) and not needs_gradient(scale):
            return _launch_features(x, w, b, scale, out, precision)
        if needs_plain_ops(x, w, b, scale):
            found = plain_features(x, w, b, scale)
            return found if out is None else out.copy_(found)  # type: ignore[no-any-return]
        if needs_gradient(x, w, b, scale):
            return _Features.apply(x, w, b, scale, tiles)  # type: ignore[no-any-return, no-untyped-call]
        return _features(x, w, b, scale, tiles, out)


def gram(
    x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, b: torch.Tensor, tiles: Tiles, out: Any, precision: str
) -> torch.Tensor:
    """(2/D) cos(x W + b) cos(y W + b)ᵀ"""
    with autocast_disabled(x):
        if cuda_supported(x, y, w, b):
            found: torch.Tensor = operators.gram(x, y, w, b, precision == "tf32")
            return found if out is None else out.copy_(found)  # type: ignore[no-any-return]
        if needs_plain_ops(x, y, w, b):
            found = plain_gram(x, y, w, b)
            return found if out is None else out.copy_(found)  # type: ignore[no-any-return]
        if needs_gradient(x, y, w, b):
            return _Gram.apply(x, y, w, b, tiles)  # type: ignore[no-any-return, no-untyped-call]
        return _gram(x, y, w, b, tiles, out)


def matvec(
    x: torch.Tensor,
    y: torch.Tensor,
    v: torch.Tensor,
    w: torch.Tensor,
    b: torch.Tensor,
    shares: torch.Tensor,
    tiles: Tiles,
    out: Any,
    precision: str,
) -> torch.Tensor:
    """cos(x W + b) (share · (cos(y W + b)ᵀ v))"""
    with autocast_disabled(x):
        if cuda_supported(x, y, v, w, b, shares):
            found: torch.Tensor = operators.matvec(x, y, v, w, b, shares, precision == "tf32")[0]
            return found if out is None else out.copy_(found)  # type: ignore[no-any-return]
        if needs_plain_ops(x, y, v, w, b, shares):
            found = plain_matvec(x, y, v, w, b, shares)
            return found if out is None else out.copy_(found)  # type: ignore[no-any-return]
        if needs_gradient(x, y, v, w, b, shares):
            return _Matvec.apply(x, y, v, w, b, shares, tiles)  # type: ignore[no-any-return, no-untyped-call]
        return _matvec(x, y, v, w, b, shares, tiles, out)[0]
