"""Structured frequencies: three rotations by signs and Hadamard matrices in place of a matrix of normal numbers.

    z_b = √q/ℓ · H D_b3 H D_b2 H D_b1 x̃        (SORF, Yu et al. 2016 eq. 6; q the power of two that holds d)

H is never formed: H_q = H_a ⊗ H_c rotates a row, laid out as a matrix (a, c), by two small matrix products, so that a
block of q frequencies costs 6 q (a + c) in place of 2 q d operations and three rows of signs in place of d q numbers.
"""

from __future__ import annotations

from typing import Any

import torch

from trueness.optimized._lib import matmul as products
from trueness.optimized._lib.dispatch import needs_plain_ops
from trueness.optimized._lib.dtypes import autocast_disabled, upcast
from trueness.optimized._lib.threads import parallel
from trueness.optimized._lib.workspace import Workspace
from trueness.optimized.kernels.autograd import needs_gradient
from trueness.optimized.kernels.cpu.tiles import cosine, plan, sine, slice_length, slices, sum_in_order, zeros


def power(*least: int) -> int:
    """The smallest power of two that is at least 1 and all of these."""
    found = 1
    while any(found < size for size in least):
        found *= 2
    return found


def hadamard(size: int, like: torch.Tensor) -> torch.Tensor:
    """H/√size, orthogonal and symmetric (Sylvester), for a power of two."""
    matrix = torch.ones(1, 1, dtype=torch.float64, device=like.device)
    while matrix.shape[0] < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return (matrix / size**0.5).to(upcast(like[:0]).dtype)


class Rotation:
    """z ↦ z H_q by two products; rows of q numbers are matrices of ``high`` × ``low``."""

    def __init__(self, q: int, like: torch.Tensor) -> None:
        self.high = 1
        while 4 * self.high * self.high <= q:
            self.high *= 2
        self.low = q // self.high
        self.left, self.right = hadamard(self.high, like), hadamard(self.low, like)

    def __call__(self, z: torch.Tensor) -> torch.Tensor:
        """Differentiable, in plain torch."""
        rows = z.shape[0]
        rotated = (z.reshape(rows * self.high, self.low) @ self.right).reshape(rows, self.high, self.low)
        return torch.matmul(self.left, rotated).reshape(rows, self.high * self.low)

    def into(self, z: torch.Tensor, spare: torch.Tensor) -> None:
        """In place, by way of ``spare`` of the same size."""
        rows = z.shape[0]
        matrix, other = z.view(rows * self.high, self.low), spare.view(rows * self.high, self.low)
        if products.prefers(z) and z.numel() * self.low >= products.SMALL:
            spare = products.pointwise(matrix, self.right)  # which is symmetric
        else:
            torch.mm(matrix, self.right, out=other)
        if self.high == 1:
            z.copy_(spare.view(z.shape))
            return
        shape = (rows, self.high, self.low)
        torch.bmm(self.left.expand(rows, self.high, self.high), spare.view(shape), out=z.view(shape))


def plain(
    x: torch.Tensor, signs: torch.Tensor, offsets: torch.Tensor, lengthscale: float, rotation: Rotation
) -> torch.Tensor:
    blocks, _, q = signs.shape
    points, diagonals = upcast(x), upcast(signs)
    padded = torch.cat([points, points.new_zeros(points.shape[0], q - points.shape[1])], 1)
    found = []
    for k in range(blocks):
        z = padded
        for sign in diagonals[k].unbind(0):
            z = rotation(z * sign)
        found.append(z)
    z = torch.cat(found, 1)[:, : offsets.shape[0]] * (q**0.5 / lengthscale)
    return (torch.cos(z + upcast(offsets)) * (2 / offsets.shape[0]) ** 0.5).to(x.dtype)


def _angles(
    points: torch.Tensor,
    signs: torch.Tensor,
    factor: float,
    b: torch.Tensor,
    rotation: Rotation,
    pair: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """√q/ℓ H D₃ H D₂ H D₁ x̃ + b of one block, in the first of the ``pair``."""
    z, spare = pair
    d = points.shape[1]
    torch.mul(points, signs[0, :d], out=z[:, :d])
    z[:, d:].zero_()
    rotation.into(z, spare)
    for sign in signs[1:]:
        z.mul_(sign)
        rotation.into(z, spare)
    angles = z[:, : b.shape[0]]
    return torch.add(b, angles, alpha=factor, out=angles)


def _blocks(signs: torch.Tensor, columns: int) -> list[tuple[int, slice]]:
    q = signs.shape[2]
    return [(k, slice(k * q, min((k + 1) * q, columns))) for k in range(-(-columns // q))]


def values(
    x: torch.Tensor,
    signs: torch.Tensor,
    offsets: torch.Tensor,
    lengthscale: float,
    rotation: Rotation,
    row_tile: int | None,
    out: torch.Tensor,
) -> torch.Tensor:
    q, columns, diagonals, b = signs.shape[2], offsets.shape[0], upcast(signs), upcast(offsets)
    by = plan(x.shape[0], q, x.shape[1], x.device, row_tile, q)

    def work(start: int, stop: int) -> None:
        workspace = Workspace(b)
        for at in slices(start, stop, by.rows):
            n = slice_length(at)
            points, z, spare = upcast(x[at]), workspace("angles", (n, q)), workspace("spare", (n, q))
            for k, tile in _blocks(signs, columns):
                angles = _angles(points, diagonals[k], q**0.5 / lengthscale, b[tile], rotation, (z, spare))
                cosine(angles, angles)
                if out.dtype == angles.dtype:
                    torch.mul(angles, (2 / columns) ** 0.5, out=out[at, tile])
                else:
                    out[at, tile].copy_(angles.mul_((2 / columns) ** 0.5))

    parallel(work, x.shape[0], by.threads)
    return out


def backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    signs: torch.Tensor,
    offsets: torch.Tensor,
    lengthscale: float,
    rotation: Rotation,
    row_tile: int | None,
    by_x: torch.Tensor | None,
) -> torch.Tensor:
    """Ā = −√(2/D) φ̄ sin z, rotated back through every block into ``by_x``; returns Σ Ā."""
    d, q, columns, diagonals, b = x.shape[1], signs.shape[2], offsets.shape[0], upcast(signs), upcast(offsets)
    by, factor = plan(x.shape[0], q, x.shape[1], x.device, row_tile, q), q**0.5 / lengthscale

    def work(start: int, stop: int) -> torch.Tensor:
        workspace = Workspace(b)
        ones, by_b = zeros(x, by.rows).fill_(1), zeros(x, columns)
        for at in slices(start, stop, by.rows):
            n = slice_length(at)
            points, total = upcast(x[at]), workspace("rows of x", (n, d)).zero_()
            z, spare = workspace("angles", (n, q)), workspace("spare", (n, q))
            for k, tile in _blocks(signs, columns):
                angles = _angles(points, diagonals[k], factor, b[tile], rotation, (z, spare))
                sine(angles, angles)
                angles.mul_(upcast(grad[at, tile])).mul_(-((2 / columns) ** 0.5))
                by_b[tile].addmv_(angles.T, ones[:n])
                if by_x is None:
                    continue
                z[:, slice_length(tile) :].zero_()
                for sign in diagonals[k].flip(0):
                    rotation.into(z, spare)
                    z.mul_(sign)
                total.add_(z[:, :d], alpha=factor)
            if by_x is not None:
                by_x[at].copy_(total)
        return by_b

    return sum_in_order(parallel(work, x.shape[0], by.threads))


class _Structured(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: torch.Tensor,
        signs: torch.Tensor,
        offsets: torch.Tensor,
        lengthscale: float,
        rotation: Rotation,
        row_tile: int | None,
    ) -> torch.Tensor:
        ctx.lengthscale, ctx.rotation, ctx.row_tile = lengthscale, rotation, row_tile
        ctx.save_for_backward(x, signs, offsets)
        return values(x, signs, offsets, lengthscale, rotation, row_tile, empty(x, offsets))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        x, signs, offsets = ctx.saved_tensors
        need_x, _, need_b = ctx.needs_input_grad[:3]
        with autocast_disabled(x):
            if torch.is_grad_enabled():
                with torch.enable_grad():
                    out = plain(x, signs, offsets, ctx.lengthscale, ctx.rotation)
                    chosen = [t for t, need in ((x, need_x), (offsets, need_b)) if need]
                    found = iter(torch.autograd.grad(out, chosen, grad, create_graph=True))
                return next(found) if need_x else None, None, next(found) if need_b else None, None, None, None
            by_x = torch.empty(x.shape, dtype=x.dtype, device=x.device) if need_x else None
            by_b = backward(grad, x, signs, offsets, ctx.lengthscale, ctx.rotation, ctx.row_tile, by_x)
            return by_x, None, by_b.to(offsets.dtype) if need_b else None, None, None, None


def empty(x: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    return torch.empty(x.shape[0], offsets.shape[0], dtype=x.dtype, device=x.device)


def features(
    x: torch.Tensor,
    signs: torch.Tensor,
    offsets: torch.Tensor,
    lengthscale: float,
    row_tile: int | None,
    out: torch.Tensor | None,
) -> torch.Tensor:
    """√(2/D) cos(z + b) with z of ``signs``; its gradients by x and b."""
    with autocast_disabled(x):
        rotation = Rotation(signs.shape[2], x)
        if needs_plain_ops(x, signs, offsets) or (torch.is_grad_enabled() and signs.requires_grad):
            found = plain(x, signs, offsets, lengthscale, rotation)
            return found if out is None else out.copy_(found)
        if needs_gradient(x, offsets):
            return _Structured.apply(x, signs, offsets, lengthscale, rotation, row_tile)  # type: ignore[no-any-return, no-untyped-call]
        return values(x, signs, offsets, lengthscale, rotation, row_tile, empty(x, offsets) if out is None else out)
