"""Laws of the blend: strips, whole grids and plain sums are one image, and equal tiles give back their value."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from trueness.optimized import filters as fast
from trueness.optimized.filters import blending
from trueness.optimized.filters import tiles as grids
from trueness.properties.filters import WINDOWS
from trueness.reference import filters as true
from trueness.tools.arithmetic.formats import precision

F64 = precision("float64")
GRIDS = pytest.mark.parametrize(
    ("side", "tile", "overlap"),
    [((40, 64), 16, 0.25), ((41, 39), 16, 0.3), ((30, 30), 8, 0.75), ((16, 50), 16, 0.5), ((400, 500), 128, 0.25)],
)


@pytest.fixture(params=["fewest calls", "least memory"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planes of an even grid as small ones are put together, and as large ones are."""
    monkeypatch.setattr(blending, "SMALL", math.inf if request.param == "fewest calls" else 0)


BOTH_WAYS = pytest.mark.usefixtures("way")


def tiles_at(side: tuple[int, int], tile: int, overlap: float) -> tuple[list[int], list[int]]:
    starts = [fast.tile_starts(n, min(tile, n), overlap).tolist() for n in side]
    places = [(r, c) for r in starts[0] for c in starts[1]]
    return [r for r, _ in places], [c for _, c in places]


@BOTH_WAYS
@GRIDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("window", WINDOWS)
def test_equal_tiles_give_back_their_value_bit_for_bit(
    side: tuple[int, int], tile: int, overlap: float, dtype: torch.dtype, window: str
) -> None:
    """Weights that sum to one to rounding would not do that: 3.7 (w₁ + w₂) is not 3.7."""
    rows, columns = tiles_at(side, tile, overlap)
    tiles = torch.full((len(rows), 2, min(tile, side[0]), min(tile, side[1])), 3.7, dtype=dtype)
    assert (fast.blend(tiles, rows, columns, height=side[0], width=side[1], window=window) == tiles[0, 0, 0, 0]).all()
    with torch.no_grad():
        y = fast.tiled(
            lambda t: torch.full_like(t, 3.7), torch.zeros(2, *side, dtype=dtype), tile, overlap=overlap, window=window
        )
    assert (y == tiles[0, 0, 0, 0]).all()


@BOTH_WAYS
@GRIDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strips_one_by_one_all_at_once_and_plain_sums_are_one_blend(
    side: tuple[int, int], tile: int, overlap: float, dtype: torch.dtype
) -> None:
    """Four paths: even grids at once, strips tile by tile, sums, sums of a place taken twice (which is no grid)."""
    rows, columns = tiles_at(side, tile, overlap)
    shape = (len(rows), 2, min(tile, side[0]), min(tile, side[1]))
    tiles = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    places, options = (rows, columns), {"height": side[0], "width": side[1], "window": "hann"}
    want = true.blend(tiles.double().numpy(), np.array(rows), np.array(columns), **options)
    u = precision({torch.float32: "float32", torch.bfloat16: "bfloat16"}[dtype]).u
    allowed = (u if dtype == torch.bfloat16 else 0) * np.abs(want) + 64 * 2.0**-24 * float(tiles.abs().max())
    numbers = iter(tiles)
    with torch.no_grad():
        streamed = fast.tiled(lambda t: next(numbers), torch.zeros(2, *side), tile, overlap=overlap, window="hann")
    again = [*range(len(rows)), *range(len(rows))]
    twice = fast.blend(tiles[again], *([place[k] for k in again] for place in places), **options)
    order = list(reversed(range(len(rows))))
    backwards = fast.blend(tiles[order], *([place[k] for k in order] for place in places), **options)
    found = [fast.blend(tiles, *places, **options), streamed, twice, backwards]
    found.append(fast.blend(tiles, *places, **options, out=torch.full((2, *side), math.nan, dtype=dtype)))
    found.append(fast.blend(tiles.clone().requires_grad_(), *places, **options).detach())
    for y in found:
        assert (np.abs(y.double().numpy() - want) <= allowed).all()


@BOTH_WAYS
@pytest.mark.parametrize("chunk", [1, 2 * 40 * 64, 1 << 20])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_planes_by_turns_are_planes_at_once(
    monkeypatch: pytest.MonkeyPatch, chunk: int, overlap: float, dtype: torch.dtype
) -> None:
    """One after the other, two and one of three, and all three, however many threads share a turn."""
    monkeypatch.setattr(blending, "CHUNK", -(-chunk // torch.get_num_threads()))
    rows, columns = tiles_at((40, 64), 16, overlap)
    tiles = torch.randn((len(rows), 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(dtype)
    places, options = (rows, columns), {"height": 40, "width": 64, "window": "hann"}
    want = true.blend(tiles.double().numpy(), np.array(rows), np.array(columns), **options)
    u = precision({torch.float32: "float32", torch.bfloat16: "bfloat16"}[dtype]).u
    allowed = (u if dtype == torch.bfloat16 else 0) * np.abs(want) + 64 * 2.0**-24 * float(tiles.abs().max())
    out = torch.full((3, 40, 64), math.nan, dtype=dtype)
    for y in (fast.blend(tiles, *places, **options), fast.blend(tiles, *places, **options, out=out)):
        assert (np.abs(y.double().numpy() - want) <= allowed).all()
    assert (fast.blend(torch.full_like(tiles, 3.7), *places, **options) == torch.tensor(3.7, dtype=dtype)).all()
    stride = columns[1] - columns[0]
    edges = {stride // 2, stride - 1, stride, 15 - stride, 15}  # where two meet m + α (t − m) is nan in one half
    inside = [i for i in edges if 0 <= i < 16]
    for row, column in itertools.product(inside, inside):
        odd = tiles.clone()
        odd[rows.count(0) + 1, 1, row, column] = math.inf
        tall = true.blend(odd.double().numpy(), np.array(rows), np.array(columns), **options)
        found = fast.blend(odd, *places, **options).double().numpy()
        assert np.array_equal(found == math.inf, tall == math.inf)
        assert np.isfinite(found[tall != math.inf]).all()


@BOTH_WAYS
@GRIDS
@pytest.mark.parametrize("special", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_stays_in_its_tile(side: tuple[int, int], tile: int, overlap: float, special: float) -> None:
    rows, columns = tiles_at(side, tile, overlap)
    shape = (len(rows), 1, min(tile, side[0]), min(tile, side[1]))
    tiles = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    tiles[len(rows) // 2, 0, 0, 1] = tiles[len(rows) // 2, 0, 5, -1] = special
    want = true.blend(
        tiles.double().numpy(), np.array(rows), np.array(columns), height=side[0], width=side[1], window="hann"
    )
    numbers = iter(tiles)
    with torch.no_grad():
        streamed = fast.tiled(lambda t: next(numbers), torch.zeros(1, *side), tile, overlap=overlap, window="hann")
    for y in (fast.blend(tiles, rows, columns, height=side[0], width=side[1], window="hann"), streamed):
        assert np.array_equal(np.isfinite(y.numpy()), np.isfinite(want))
        assert np.array_equal(y.numpy()[~np.isfinite(want)], want[~np.isfinite(want)], equal_nan=True)


def test_the_weights_of_a_pixel_sum_to_one_along_each_axis() -> None:
    for length, tile, overlap in ((40, 16, 0.25), (41, 16, 0.3), (30, 8, 0.75)):
        starts = fast.tile_starts(length, tile, overlap).tolist()
        axis = grids.Axis(starts, length, grids.window(tile, "hann"))
        total = np.zeros(length)
        for start, share in zip(starts, axis.shares, strict=True):
            total[start : start + tile] += share
        assert (np.abs(total - 1) <= len(starts) * F64.u).all()


def test_the_gradient_of_a_blend_can_be_differentiated_again() -> None:
    rows, columns = tiles_at((9, 11), 4, 0.5)
    tiles = torch.randn(len(rows), 1, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(
        lambda t: fast.blend(t, rows, columns, height=9, width=11, window="hann"), (tiles,)
    )


def test_streaming_keeps_the_image_and_one_strip() -> None:
    """The largest allocation beside the image is the rows that two rows of tiles share."""
    from torch.profiler import ProfilerActivity, profile

    x = torch.zeros(1, 512, 512)
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        fast.tiled(lambda t: t, x, 128, overlap=0.25, window="triangular")
    sizes = sorted((e.cpu_memory_usage for e in watched.events() if e.name == "aten::empty"), reverse=True)
    assert sizes[0] == x.numel() * 4 and sizes[1] <= 512 * 32 * 4
