"""The Triton kernels of random features, backward: the angles are computed again, no rows × features are stored.

    ū = −c sin z   (of cos z with cotangent c),   c = ḡ sᵀ for φ s, or the cotangent of φ itself
    x̄ = ū Wᵀ   by rows (rows_kernel),   W̄ = xᵀ ū and b̄ = Σ_i ū_i   by features (columns_kernel)

Slabs and partial sums as in forward.py. More dimensions than one program holds are another axis of
programs, each of which makes the angles again.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from trueness.optimized.kernels.cuda.forward import Tile, angles, cosine, left_of, loaded, prepared, sine
from trueness.optimized.kernels.sincos import TURN

PRODUCT, COSINES, PAIRS = 0, 1, 2
"""what the cotangent is of: φ s, φ, or [cos, sin]"""


@triton.jit
def by_angle(
    turns, g, g_row, s, n, features, p, count, KIND: tl.constexpr, ROWS: tl.constexpr, FEATURES: tl.constexpr,
    P: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """ū of one tile: g at its first row (and column, unless PRODUCT), s at its first column; 0 outside."""
    rows, columns = tl.arange(0, ROWS), tl.arange(0, FEATURES)
    if KIND == 0:
        vectors = tl.arange(0, P)
        if P == 1:
            cotangent = loaded(g, g_row, rows, vectors, n, p) * loaded(s, count, vectors, columns, p, features)
        else:
            cotangent = tl.zeros((ROWS, FEATURES), tl.float32)
            for start in range(0, p, P):
                given = loaded(g + start, g_row, rows, vectors, n, p - start)
                weights = loaded(s, count, vectors, columns, p - start, features)
                cotangent = tl.dot(given, weights, cotangent, input_precision=PRECISION)
                s += P * count
        return -sine(turns) * cotangent
    else:
        scale = tl.load(s + columns, mask=columns < features, other=0.0)[None, :]
        pulled = -sine(turns) * loaded(g, g_row, rows, columns, n, features)
        if KIND == 2:
            pulled += cosine(turns) * loaded(g + count, g_row, rows, columns, n, features)
        return pulled * scale


@triton.jit
def rows_kernel(
    x, g, s, w, b, out, n, p, features, d, x_row, g_row, slab, turn,
    KIND: tl.constexpr, ROWS: tl.constexpr, FEATURES: tl.constexpr, K: tl.constexpr,
    P: tl.constexpr, D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """x̄ = 2π ū (W/2π)ᵀ of one slab of features, as (slab, n, d)."""
    row = tl.program_id(0).to(tl.int64) * ROWS
    part = tl.program_id(1).to(tl.int64)
    axis = tl.program_id(2).to(tl.int64) * D
    rows, columns, axes = tl.arange(0, ROWS), tl.arange(0, FEATURES), tl.arange(0, D)
    tall, deep = left_of(n, row, ROWS), left_of(d, axis, D)
    total = tl.zeros((ROWS, D), tl.float32)
    for start in range(part * slab, tl.minimum(part * slab + slab, features), FEATURES):
        wide = left_of(features, start, FEATURES)
        turns = angles(
            x + row * x_row, x_row, w + start, b + start, tall, wide, features, d, ROWS, FEATURES, K, PRECISION
        )
        across = 0 if KIND == 0 else start
        pulled = by_angle(
            turns,
            g + row * g_row + across,
            g_row,
            s + start,
            tall,
            wide,
            p,
            features,
            KIND,
            ROWS,
            FEATURES,
            P,
            PRECISION,
        )
        place = w + axis * features + start + (axes[None, :] * features + columns[:, None])
        frequencies = tl.load(place, mask=(axes < deep)[None, :] & (columns < wide)[:, None], other=0.0)
        total = tl.dot(pulled, frequencies, total, input_precision=PRECISION)
    mask = (rows < tall)[:, None] & (axes < deep)[None, :]
    out += (part * n + row) * d + axis
    tl.store(out + (rows[:, None] * d + axes[None, :]), total * turn, mask=mask)


@triton.jit
def columns_kernel(
    x, g, s, w, b, out, out_b, n, p, features, d, x_row, g_row, slab,
    KIND: tl.constexpr, ROWS: tl.constexpr, FEATURES: tl.constexpr, K: tl.constexpr,
    P: tl.constexpr, D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """W̄ = xᵀ ū and b̄ = Σ_i ū_i of one slab of rows, as (slab, d, features) and (slab, features)."""
    column = tl.program_id(0).to(tl.int64) * FEATURES
    part = tl.program_id(1).to(tl.int64)
    axis = tl.program_id(2).to(tl.int64) * D
    rows, columns, axes = tl.arange(0, ROWS), tl.arange(0, FEATURES), tl.arange(0, D)
    wide, deep = left_of(features, column, FEATURES), left_of(d, axis, D)
    across = column * 0 if KIND == 0 else column
    total = tl.zeros((D, FEATURES), tl.float32)
    offsets = tl.zeros((FEATURES,), tl.float32)
    for start in range(part * slab, tl.minimum(part * slab + slab, n), ROWS):
        tall = left_of(n, start, ROWS)
        turns = angles(
            x + start * x_row, x_row, w + column, b + column, tall, wide, features, d, ROWS, FEATURES, K, PRECISION
        )
        pulled = by_angle(
            turns, g + start * g_row + across, g_row, s + column, tall, wide, p, features, KIND, ROWS, FEATURES, P,
            PRECISION,
        )  # fmt: skip
        place = x + start * x_row + axis + (axes[:, None] + rows[None, :] * x_row)
        points = tl.load(place, mask=(axes < deep)[:, None] & (rows < tall)[None, :], other=0.0).to(tl.float32)
        total = tl.dot(points, pulled, total, input_precision=PRECISION)
        offsets += tl.sum(pulled, 0)
    mask = (axes < deep)[:, None] & (columns < wide)[None, :]
    out += (part * d + axis) * features + column
    tl.store(out + (axes[:, None] * features + columns[None, :]), total, mask=mask)
    if tl.program_id(2) == 0:
        tl.store(out_b + part * features + column + columns, offsets, mask=columns < wide)


# -- launching --------------------------------------------------------------------------------------------------------


def _constants(t: Tile, kind: int, p: int, d: int) -> dict[str, Any]:
    return t.constants(True, KIND=kind, P=t.columns(p, True) if kind == PRODUCT else 1, D=t.width(d))


def by_points(
    x: torch.Tensor, g: torch.Tensor, s: torch.Tensor, w: torch.Tensor, b: torch.Tensor, kind: int, t: Tile
) -> torch.Tensor:
    """x̄ (n, d) in float32. g (n, p) and s (p, D) where the cotangent is of φ s, else g (n, D or 2 D) and s (D,)."""
    x, g, s = prepared(x), prepared(g), s.contiguous()
    (n, d), p, count = x.shape, g.shape[1], w.shape[1]
    constants = _constants(t, kind, p, d)
    across = (triton.cdiv(n, t.rows), triton.cdiv(d, constants["D"]))
    parts, size = t.slabs(count, t.features, across[0] * across[1])
    out = torch.empty((parts, n, d), dtype=torch.float32, device=x.device)
    rows_kernel[(across[0], parts, across[1])](
        x, g, s, w, b, out, n, p, count, d, x.stride(0), g.stride(0), size, TURN, **constants, **t.options
    )  # fmt: skip
    return out[0] if parts == 1 else out.sum(0)


def by_frequencies(
    x: torch.Tensor, g: torch.Tensor, s: torch.Tensor, w: torch.Tensor, b: torch.Tensor, kind: int, t: Tile
) -> tuple[torch.Tensor, torch.Tensor]:
    """W̄ (d, D) and b̄ (D,) in float32, by angles and not by turns; arguments as `by_points`."""
    x, g, s = prepared(x), prepared(g), s.contiguous()
    (n, d), p, count = x.shape, g.shape[1], w.shape[1]
    constants = _constants(t, kind, p, d)
    across = (triton.cdiv(count, t.features), triton.cdiv(d, constants["D"]))
    parts, size = t.slabs(n, t.rows, across[0] * across[1])
    out = torch.empty((parts, d, count), dtype=torch.float32, device=x.device)
    out_b = torch.empty((parts, count), dtype=torch.float32, device=x.device)
    columns_kernel[(across[0], parts, across[1])](
        x, g, s, w, b, out, out_b, n, p, count, d, x.stride(0), g.stride(0), size, **constants, **t.options
    )  # fmt: skip
    return (out[0], out_b[0]) if parts == 1 else (out.sum(0), out_b.sum(0))
