"""The Gaussian filter of a periodic image, the blending of tiles and the grouped blur, on sizes that people have."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional

from comparisons.harness import Comparison, Contender
from trueness.optimized import filters

SLACK = 16 << 20  # a strip, and what the allocator rounds up
BLOCKS = 8 << 20  # of two threads, each its transforms and what the library sets up for them
BOTH = (1, 2)


# -- the Gaussian filter ----------------------------------------------------------------------------------------------


def images(sigma: float, *shape: int) -> Any:
    return lambda rng: [rng.standard_normal(shape), np.asarray(sigma)]


def first_plane(values: list[Any]) -> Any:
    """One plane of all: the bound of a transform by sums takes minutes a plane of this size."""
    cut = [v[:1] if np.ndim(v) == 3 else v for v in values]
    return cut, lambda outs: [y[:1] for y in outs]


def cached(x: torch.Tensor, sigma: Any) -> Any:
    """What a user writes: the filter of both axes made once, the transform of everything at once."""
    height, width = x.shape[-2:]
    gains = filters.gaussian_transfer(height, width, float(sigma), dtype=x.dtype)
    return lambda: torch.fft.irfft2(torch.fft.rfft2(x) * gains, s=(height, width))


def gaussian(out: bool) -> Any:
    def prepare(x: torch.Tensor, sigma: Any) -> Any:
        number = float(sigma)
        if not out:
            return lambda: filters.fft_gaussian(x, number)
        place = torch.zeros_like(x)
        return lambda: filters.fft_gaussian(x, number, out=place)

    return prepare


# -- tiles ------------------------------------------------------------------------------------------------------------


def tiles_of(lead: tuple[int, ...], side: int, tile: int, shared: int, window: str = "triangular") -> Any:
    """Tiles cut out of an image, each with noise of its own, so that neighbours disagree."""

    def arguments(rng: np.random.Generator) -> list[Any]:
        starts = filters.tile_starts(side, tile, shared / tile).numpy()
        rows, columns = (a.ravel() for a in np.meshgrid(starts, starts, indexing="ij"))
        return [rng.standard_normal((len(rows), *lead, tile, tile)), rows, columns, side, side, window]

    return arguments


def first_image(values: list[Any]) -> Any:
    """The first plane of all: planes do not mix."""
    return [values[0][:, :1], *values[1:]], lambda outs: [y[:1] for y in outs]


def blend(out: bool) -> Any:
    def prepare(tiles: torch.Tensor, rows: Any, columns: Any, height: int, width: int, window: str) -> Any:
        places = [int(i) for i in rows], [int(i) for i in columns]
        options = {"height": height, "width": width, "window": window}
        if not out:
            return lambda: filters.blend(tiles, *places, **options)
        image = torch.zeros((*tiles.shape[1:-2], height, width), dtype=tiles.dtype)
        return lambda: filters.blend(tiles, *places, **options, out=image)

    return prepare


def accumulate(tiles: torch.Tensor, rows: Any, columns: Any, height: int, width: int, window: str) -> Any:
    """Σ w t and Σ w in two images, one divided by the other."""
    h, w = tiles.shape[-2:]
    kind = {"dtype": tiles.dtype}
    weight = filters.tile_window(h, window, **kind)[:, None] * filters.tile_window(w, window, **kind)  # type: ignore[arg-type]
    places = list(zip((int(i) for i in rows), (int(i) for i in columns), strict=True))

    def call() -> torch.Tensor:
        total = tiles.new_zeros((*tiles.shape[1:-2], height, width))
        mass = tiles.new_zeros((height, width))
        for tile, (top, left) in zip(tiles, places, strict=True):
            total[..., top : top + h, left : left + w] += tile * weight
            mass[top : top + h, left : left + w] += weight
        return total / mass

    return call


def diffusers_loops(tiles: torch.Tensor, rows: Any, columns: Any, height: int, width: int, window: str) -> Any:
    """What `AutoencoderKL.tiled_decode` does after the decoder: its own blend_v and blend_h, slices and concatenations.

    They write into the tiles: these are a copy made before, so that no copying is timed, and from the second call on
    hold what is blended already.
    """
    from diffusers import AutoencoderKL

    model = AutoencoderKL.__new__(AutoencoderKL)
    tops = sorted({int(i) for i in rows})
    count, stride = len(tops), tops[1] - tops[0]
    shared, batches = tiles.shape[-1] - stride, tiles.clone().unflatten(1, (-1, 4))

    def call() -> torch.Tensor:
        grid = [[batches[count * i + j] for j in range(count)] for i in range(count)]
        found = []
        for i, row in enumerate(grid):
            pieces = []
            for j, tile in enumerate(row):
                if i:
                    tile = AutoencoderKL.blend_v(model, grid[i - 1][j], tile, shared)
                if j:
                    tile = AutoencoderKL.blend_h(model, row[j - 1], tile, shared)
                keep = [stride if k + 1 < count else tiles.shape[-1] for k in (i, j)]
                pieces.append(tile[..., : keep[0], : keep[1]])
            found.append(torch.cat(pieces, -1))
        return torch.cat(found, -2)

    return call


# -- blur -------------------------------------------------------------------------------------------------------------


def grouped(x: torch.Tensor, k: int, sigma: float) -> Any:
    """Two depthwise convolutions of torch on a reflected border."""
    taps = filters.gaussian_taps(k, sigma, dtype=x.dtype)
    channels, r, x = 3, k // 2, x.unflatten(0, (-1, 3))
    across, down = (taps.reshape(s).repeat(channels, 1, 1, 1) for s in ((1, 1, 1, k), (1, 1, k, 1)))

    def call() -> torch.Tensor:
        y = functional.conv2d(functional.pad(x, (r, r, 0, 0), mode="reflect"), across, groups=channels)
        y = functional.conv2d(functional.pad(y, (0, 0, r, r), mode="reflect"), down, groups=channels)
        return y.flatten(0, 1)

    return call


def top(values: list[Any]) -> Any:
    """The first plane of the images."""
    return [values[0][:1], *values[1:]], lambda outs: [y[:1] for y in outs]


LARGE, LATENTS = tiles_of((12,), 1024, 256, 64), tiles_of((8,), 160, 64, 16)  # 4×3 and 2×4 planes
ACCUMULATED = Contender("accumulate and divide", accumulate)
OUTPUT = 4 * 12 * 1024 * 1024

COMPARISONS = (
    *(
        Comparison(
            f"FFT Gaussian 12×1024×1024, σ = {sigma:g}, {'out=' if out else 'fresh'}",
            "filters.fft_gaussian",
            images(sigma, 12, 1024, 1024),
            Contender("trueness", gaussian(out)),
            (Contender("torch, filter cached", cached),),
            goals={("torch, filter cached", n): goal for n in BOTH},
            extra=(0 if out else OUTPUT) + BLOCKS,
            part=first_plane,
        )
        for sigma, goal in ((2.0, 2.3), (8.0, 3.0))
        for out in (False, True)
    ),
    *(
        Comparison(
            f"blend 4×3×1024×1024, tile 256, {'out=' if out else 'fresh'}",
            "filters.blend",
            LARGE,
            Contender("trueness", blend(out)),
            (ACCUMULATED,),
            goals={("accumulate and divide", n): 6.0 if out else 1.9 for n in BOTH},
            extra=(0 if out else OUTPUT) + SLACK,
            part=first_image,
        )
        for out in (False, True)
    ),
    Comparison(
        "blend latents 2×4×160×160, tile 64",
        "filters.blend",
        LATENTS,
        Contender("trueness", blend(False)),
        (Contender("diffusers loops", diffusers_loops, needs=("diffusers",), judged=False), ACCUMULATED),
        goals={("diffusers loops", n): 15.0 for n in BOTH},
        part=first_image,
    ),
    Comparison(
        "blur 4×3×512×512, k = 5",
        "filters.blur",
        lambda rng: [rng.standard_normal((12, 512, 512)), 5, 1.2],
        Contender("trueness", lambda x, k, sigma: lambda: filters.blur(x, k, sigma)),
        (Contender("torch, depthwise", grouped),),
        part=top,
    ),
)
