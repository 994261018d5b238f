"""Features and their Gram matrix, tile by tile, with their backwards; these functions record no gradients."""

from __future__ import annotations

import torch

from trueness.optimized._lib.dtypes import upcast
from trueness.optimized._lib.threads import parallel
from trueness.optimized._lib.workspace import Workspace
from trueness.optimized.kernels.cpu.tiles import (
    MAX_PARTIAL_SUMS,
    Angles,
    Optional,
    Plan,
    Sums,
    cosine,
    pad_thin,
    plan,
    sine,
    slice_length,
    slices,
    sum_in_order,
    zeros,
)

Tiles = tuple[int | None, int | None]
Scale = torch.Tensor | float


def scale_of(scale: Scale, tile: slice) -> Scale:
    return scale[tile] if isinstance(scale, torch.Tensor) else scale


def can_hold_angles(out: torch.Tensor, working: torch.dtype) -> bool:
    """Whether angles may be written to ``out`` and replaced by features in place."""
    return out.dtype == working and out.stride(-1) == 1


def features(
    x: torch.Tensor, w: torch.Tensor, b: Optional, scale: Scale, tiles: Tiles, out: torch.Tensor
) -> torch.Tensor:
    """scale · cos(x W + b) into ``out``; [cos, sin] of x W, twice as many columns, where ``b`` is None."""
    w, columns = upcast(w), w.shape[1]
    b = None if b is None else upcast(b)
    by = plan(x.shape[0], columns, 1, x.device, *tiles)
    inside, angles = can_hold_angles(out, w.dtype), Angles(w, b)

    def write(values: torch.Tensor, place: torch.Tensor, scale: Scale) -> None:
        values.mul_(scale)
        if values is not place:
            place.copy_(values)

    def work(start: int, stop: int) -> None:
        workspace = Workspace(w)
        for at in slices(start, stop, by.rows):
            points = pad_thin(upcast(x[at]), 1)
            for tile in slices(0, columns, by.features):
                shape, share = (slice_length(at), slice_length(tile)), scale_of(scale, tile)
                place = out[at, tile]
                if b is not None:
                    z = angles(points, tile, place if inside else workspace("angles", shape))
                    value = place if inside else z
                    cosine(z, value)
                    write(value, place, share)
                    continue
                z = angles(points, tile, workspace("angles", shape))
                value = place if inside else workspace("values", shape)
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

    With ``by_scale`` the field ``cosines`` is Σ φ̄ cos z.
    """
    columns, angles = w.shape[1], Angles(w, b)
    chosen = plan(x.shape[0], columns, x.shape[1], x.device, *tiles)
    if by_w and (chosen.threads - 1) * w.numel() > MAX_PARTIAL_SUMS:
        chosen = Plan(chosen.rows, chosen.features, 1)

    def work(start: int, stop: int) -> Sums:
        workspace = Workspace(w)
        ones = zeros(x, chosen.rows).fill_(1)
        own = Sums(
            zeros(x, *w.shape) if by_w else None,
            zeros(x, columns) if by_w else None,
            zeros(x, columns) if by_scale else None,
        )
        for at in slices(start, stop, chosen.rows):
            points, n = pad_thin(upcast(x[at]), 1), slice_length(at)
            for tile in slices(0, columns, chosen.features):
                z = angles(points, tile, workspace("angles", (n, slice_length(tile))))
                other, given = workspace("other", (n, slice_length(tile))), upcast(grad[at, tile])
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
                z.mul_(scale_of(scale, tile))
                if by_x is not None:
                    workspace("rows of x", (n, x.shape[1])).addmm_(z, w[:, tile].T, beta=1 if tile.start else 0)
                if own.w is not None and own.b is not None:
                    own.w[:, tile].addmm_(points[:, : x.shape[1]].T, z)
                    own.b[tile].addmv_(z.T, ones[:n])
            if by_x is not None:
                by_x[at].copy_(workspace("rows of x", (n, x.shape[1])))
        return own

    parts = parallel(work, x.shape[0], chosen.threads)
    return Sums(
        sum_in_order([p.w for p in parts if p.w is not None]) if by_w else None,
        sum_in_order([p.b for p in parts if p.b is not None]) if by_w else None,
        sum_in_order([p.cosines for p in parts if p.cosines is not None]) if by_scale else None,
    )


# -- the Gram matrix --------------------------------------------------------------------------------------------------


def gram(
    x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, b: torch.Tensor, tiles: Tiles, out: torch.Tensor
) -> torch.Tensor:
    """(2/D) cos(x W + b) cos(y W + b)ᵀ into ``out``; one tile of features of each side is in memory at a time."""
    w, columns = upcast(w), w.shape[1]
    angles = Angles(w, upcast(b))
    by = plan(x.shape[0], columns, 1, x.device, *tiles)
    once = by.features == columns

    def work(start: int, stop: int) -> None:
        workspace = Workspace(w)

        def tile_of(points: torch.Tensor, name: str, at: slice, tile: slice) -> torch.Tensor:
            z = angles(points, tile, workspace(name, (slice_length(at), slice_length(tile))))
            cosine(z, z)
            return z

        for at in slices(start, stop, by.rows):
            points = pad_thin(upcast(x[at]), 1)
            kept = tile_of(points, "left", at, slice(0, columns)) if once else None
            for to in slices(0, y.shape[0], by.rows):
                others, result = pad_thin(upcast(y[to]), 1), workspace("block", (slice_length(at), slice_length(to)))
                for tile in slices(0, columns, by.features):
                    mine = tile_of(points, "left", at, tile) if kept is None else kept
                    theirs = tile_of(others, "right", to, tile)
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
    if by_w and (chosen.threads - 1) * w.numel() > MAX_PARTIAL_SUMS:
        chosen = Plan(chosen.rows, chosen.features, 1)

    def work(start: int, stop: int) -> Sums:
        workspace = Workspace(w)
        ones = zeros(x, chosen.rows).fill_(1)
        own = Sums(zeros(x, *w.shape) if by_w else None, zeros(x, columns) if by_w else None, None)
        for at in slices(start, stop, chosen.rows):
            points, n = pad_thin(upcast(x[at]), 1), slice_length(at)
            for tile in slices(0, columns, chosen.features):
                slope = workspace("other", (n, slice_length(tile))).zero_()
                for to in slices(0, y.shape[0], chosen.rows):
                    place = workspace("angles", (slice_length(to), slice_length(tile)))
                    z = angles(pad_thin(upcast(y[to]), 1), tile, place)
                    cosine(z, z)
                    slope.addmm_(upcast(grad[at, to]), z)
                z = angles(points, tile, workspace("angles", (n, slice_length(tile))))
                sine(z, z)
                z.mul_(slope).mul_(-2 / columns)
                if by_x is not None:
                    workspace("rows of x", (n, x.shape[1])).addmm_(z, w[:, tile].T, beta=1 if tile.start else 0)
                if own.w is not None and own.b is not None:
                    own.w[:, tile].addmm_(points[:, : x.shape[1]].T, z)
                    own.b[tile].addmv_(z.T, ones[:n])
            if by_x is not None:
                by_x[at].copy_(workspace("rows of x", (n, x.shape[1])))
        return own

    parts = parallel(work, x.shape[0], chosen.threads)
    return Sums(
        sum_in_order([p.w for p in parts if p.w is not None]) if by_w else None,
        sum_in_order([p.b for p in parts if p.b is not None]) if by_w else None,
        None,
    )
