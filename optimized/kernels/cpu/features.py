"""Features themselves and their Gram matrix, tile by tile, and what goes back; no gradient is recorded here."""

from __future__ import annotations

import torch

from trueness.optimized._lib.dtypes import upcast
from trueness.optimized._lib.threads import parallel
from trueness.optimized.kernels.cpu.tiles import (
    PARTIAL,
    Angles,
    Optional,
    Plan,
    Scratch,
    Sums,
    cosine,
    filled,
    length,
    plan,
    sine,
    slices,
    summed,
    zeros,
)

Tiles = tuple[int | None, int | None]
Scale = torch.Tensor | float


def of(scale: Scale, tile: slice) -> Scale:
    return scale[tile] if isinstance(scale, torch.Tensor) else scale


def direct(out: torch.Tensor, working: torch.dtype) -> bool:
    """Whether angles may be written to ``out`` and turned into features there."""
    return out.dtype == working and out.stride(-1) == 1


def features(
    x: torch.Tensor, w: torch.Tensor, b: Optional, scale: Scale, tiles: Tiles, out: torch.Tensor
) -> torch.Tensor:
    """scale · cos(x W + b) into ``out``; [cos, sin] of x W, twice as many columns, where ``b`` is None."""
    w, columns = upcast(w), w.shape[1]
    b = None if b is None else upcast(b)
    by = plan(x.shape[0], columns, 1, x.device, *tiles)
    inside, angles = direct(out, w.dtype), Angles(w, b)

    def write(values: torch.Tensor, place: torch.Tensor, scale: Scale) -> None:
        values.mul_(scale)
        if values is not place:
            place.copy_(values)

    def work(start: int, stop: int) -> None:
        first = Scratch(x, by.rows, by.features if b is None or not inside else 0)
        second = Scratch(x, by.rows, by.features if b is None and not inside else 0)
        for at in slices(start, stop, by.rows):
            points = filled(upcast(x[at]), 1)
            for tile in slices(0, columns, by.features):
                shape, share = (length(at), length(tile)), of(scale, tile)
                place = out[at, tile]
                if b is not None:
                    z = angles(points, tile, place if inside else first.tile(*shape))
                    value = place if inside else z
                    cosine(z, value)
                    write(value, place, share)
                    continue
                z = angles(points, tile, first.tile(*shape))
                value = place if inside else second.tile(*shape)
                cosine(z, value)
                write(value, place, share)
                place = out[at, columns + tile.start : columns + tile.stop]
                value = place if inside else z
                sine(z, value)
                write(value, place, share)

    parallel(work, x.shape[0], by.threads)
    return out


def features_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    w: torch.Tensor,
    b: Optional,
    scale: Scale,
    tiles: Tiles,
    *,
    by_x: Optional,
    by_w: bool,
    by_scale: bool,
) -> Sums:
    """Ā = −scale φ̄ sin z, or scale (φ̄_sin cos z − φ̄_cos sin z) for pairs: Ā Wᵀ into ``by_x``, and xᵀ Ā, Σ Ā.

    ``by_scale`` asks for Σ φ̄ cos z, found in the field ``cosines``.
    """
    columns, angles = w.shape[1], Angles(w, b)
    chosen = plan(x.shape[0], columns, x.shape[1], x.device, *tiles)
    if by_w and (chosen.threads - 1) * w.numel() > PARTIAL:
        chosen = Plan(chosen.rows, chosen.features, 1)

    def work(start: int, stop: int) -> Sums:
        first, second = Scratch(x, chosen.rows, chosen.features), Scratch(x, chosen.rows, chosen.features)
        rows_of_x = Scratch(x, chosen.rows, x.shape[1] if by_x is not None else 0)
        ones = zeros(x, chosen.rows).fill_(1)
        own = Sums(
            zeros(x, *w.shape) if by_w else None,
            zeros(x, columns) if by_w else None,
            zeros(x, columns) if by_scale else None,
        )
        for at in slices(start, stop, chosen.rows):
            points, n = filled(upcast(x[at]), 1), length(at)
            for tile in slices(0, columns, chosen.features):
                z = angles(points, tile, first.tile(n, length(tile)))
                other, given = second.tile(n, length(tile)), upcast(grad[at, tile])
                if b is None or own.cosines is not None:
                    cosine(z, other)
                    if b is None:
                        other.mul_(upcast(grad[at, columns + tile.start : columns + tile.stop]))
                    elif own.cosines is not None:
                        own.cosines[tile].add_(other.mul_(given).sum(0))
                sine(z, z)
                z.mul_(given)
                if b is None:
                    torch.sub(other, z, out=z)
                else:
                    z.neg_()
                z.mul_(of(scale, tile))
                if by_x is not None:
                    rows_of_x.tile(n, x.shape[1]).addmm_(z, w[:, tile].T, beta=1 if tile.start else 0)
                if own.w is not None and own.b is not None:
                    own.w[:, tile].addmm_(points[:, : x.shape[1]].T, z)
                    own.b[tile].addmv_(z.T, ones[:n])
            if by_x is not None:
                by_x[at].copy_(rows_of_x.tile(n, x.shape[1]))
        return own

    parts = parallel(work, x.shape[0], chosen.threads)
    return Sums(
        summed([p.w for p in parts if p.w is not None]) if by_w else None,
        summed([p.b for p in parts if p.b is not None]) if by_w else None,
        summed([p.cosines for p in parts if p.cosines is not None]) if by_scale else None,
    )


# -- the Gram matrix --------------------------------------------------------------------------------------------------


def gram(
    x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, b: torch.Tensor, tiles: Tiles, out: torch.Tensor
) -> torch.Tensor:
    """(2/D) cos(x W + b) cos(y W + b)ᵀ into ``out``; on either side one tile of features is there at a time."""
    columns, angles = w.shape[1], Angles(upcast(w), upcast(b))
    by = plan(x.shape[0], columns, 1, x.device, *tiles)
    once = by.features == columns

    def work(start: int, stop: int) -> None:
        left, right = Scratch(x, by.rows, by.features), Scratch(x, by.rows, by.features)
        block = Scratch(x, by.rows, by.rows)

        def tile_of(points: torch.Tensor, scratch: Scratch, at: slice, tile: slice) -> torch.Tensor:
            z = angles(points, tile, scratch.tile(length(at), length(tile)))
            cosine(z, z)
            return z

        for at in slices(start, stop, by.rows):
            points = filled(upcast(x[at]), 1)
            kept = tile_of(points, left, at, slice(0, columns)) if once else None
            for to in slices(0, y.shape[0], by.rows):
                others, result = filled(upcast(y[to]), 1), block.tile(length(at), length(to))
                for tile in slices(0, columns, by.features):
                    mine = tile_of(points, left, at, tile) if kept is None else kept
                    theirs = tile_of(others, right, to, tile)
                    result.addmm_(mine, theirs.T, beta=1 if tile.start else 0, alpha=2 / columns)
                out[at, to].copy_(result)

    parallel(work, x.shape[0], by.threads if x.shape[0] >= by.threads else 1)
    return out


def gram_side(
    grad: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor,
    w: torch.Tensor,
    b: torch.Tensor,
    tiles: Tiles,
    *,
    by_x: Optional,
    by_w: bool,
) -> Sums:
    """Ā = −(2/D) sin(x W + b) · (K̄ cos(y W + b)): Ā Wᵀ into ``by_x``, and xᵀ Ā, Σ Ā."""
    columns, angles = w.shape[1], Angles(w, b)
    chosen = plan(x.shape[0], columns, x.shape[1], x.device, *tiles)
    if by_w and (chosen.threads - 1) * w.numel() > PARTIAL:
        chosen = Plan(chosen.rows, chosen.features, 1)

    def work(start: int, stop: int) -> Sums:
        first, second = Scratch(x, chosen.rows, chosen.features), Scratch(x, chosen.rows, chosen.features)
        rows_of_x = Scratch(x, chosen.rows, x.shape[1] if by_x is not None else 0)
        ones = zeros(x, chosen.rows).fill_(1)
        own = Sums(zeros(x, *w.shape) if by_w else None, zeros(x, columns) if by_w else None, None)
        for at in slices(start, stop, chosen.rows):
            points, n = filled(upcast(x[at]), 1), length(at)
            for tile in slices(0, columns, chosen.features):
                slope = second.tile(n, length(tile)).zero_()
                for to in slices(0, y.shape[0], chosen.rows):
                    z = angles(filled(upcast(y[to]), 1), tile, first.tile(length(to), length(tile)))
                    cosine(z, z)
                    slope.addmm_(upcast(grad[at, to]), z)
                z = angles(points, tile, first.tile(n, length(tile)))
                sine(z, z)
                z.mul_(slope).mul_(-2 / columns)
                if by_x is not None:
                    rows_of_x.tile(n, x.shape[1]).addmm_(z, w[:, tile].T, beta=1 if tile.start else 0)
                if own.w is not None and own.b is not None:
                    own.w[:, tile].addmm_(points[:, : x.shape[1]].T, z)
                    own.b[tile].addmv_(z.T, ones[:n])
            if by_x is not None:
                by_x[at].copy_(rows_of_x.tile(n, x.shape[1]))
        return own

    parts = parallel(work, x.shape[0], chosen.threads)
    return Sums(
        summed([p.w for p in parts if p.w is not None]) if by_w else None,
        summed([p.b for p in parts if p.b is not None]) if by_w else None,
        None,
    )
