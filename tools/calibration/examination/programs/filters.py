"""Separable filters in tiles with a halo, Gaussian filters by FFT, blending of tiles, the binomial filter."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from trueness.tools.calibration.examination.program import Program, fault, sabotaged
from trueness.tools.calibration.examination.programs.common import Tensor, wide

TILE = 16


def taps_of(k: int, sigma: float) -> Tensor:
    j = torch.arange(k, dtype=torch.float64) - (k - 1) / 2
    taps = torch.exp(-(j * j) / (2 * sigma * sigma))
    return taps / taps.sum()


def reflected(i: Tensor, n: int) -> Tensor:
    """The pixel behind index i: the border is not repeated."""
    i = i.abs()
    return torch.where(i >= n, 2 * (n - 1) - i, i)


def along(x: Tensor, taps: Tensor, fault: str) -> Tensor:
    """Tiles of 16 pixels of the last axis, each with a halo of k//2 on both sides"""
    n, k = x.shape[-1], len(taps)
    half = k // 2
    found = []
    for start in range(0, n, TILE):
        end = min(start + TILE, n)
        place = torch.arange(start - half, end + half)
        if fault == "halo of the tile's own border" and n > TILE:
            place = start + reflected(place - start, end - start) if end - start > half else reflected(place, n)
        elif fault == "border pixel repeated":
            place = place.clamp(0, n - 1)
        elif fault == "border repeated in the last tile" and start:
            place = torch.where(place < 0, -place, place).clamp(max=n - 1)
        else:
            place = reflected(place, n)
        strip = x[..., place]
        found.append(sum(taps[j] * strip[..., j : j + end - start] for j in range(k)))
    return torch.cat(found, -1)


def blur(x: Tensor, k: int, sigma: float, *, fault: str = "") -> Tensor:
    taps = taps_of(k, sigma).to(wide(x).dtype)
    if fault == "nine taps at most" and k > 9:
        taps = taps[(k - 9) // 2 : (k + 9) // 2]
        taps = taps / taps.sum()
    if fault == "σ of 2 at most":
        taps = taps_of(k, min(sigma, 2.0)).to(taps)
    if fault == "taps not normalised after rounding":
        taps = taps.bfloat16().to(taps)
    z = wide(x)
    rows = along(z, taps, fault)
    if fault == "columns filtered with the rows' result of the first channel":
        rows = rows[:1].expand_as(rows) if rows.shape[-1] == rows.shape[-2] else rows
    out = along(rows.mT, taps, fault).mT
    if fault == "eight channels":
        out = torch.cat([out[:8], z[8:]])
    if fault == "gradient through the rows alone":
        out = out.detach() + (rows - rows.detach())
    return out.to(x.dtype)


# -- in frequency -----------------------------------------------------------------------------------------------------


def frequencies(n: int) -> Tensor:
    return torch.fft.fftfreq(n, dtype=torch.float64)


def fft_gaussian(x: Tensor, sigma: Tensor, *, fault: str = "") -> Tensor:
    """rfft2, the gains, irfft2"""
    z = wide(x)
    height, width = x.shape[-2:]
    f_y, f_x = frequencies(height).to(z), torch.fft.rfftfreq(width, dtype=torch.float64).to(z)
    s = wide(sigma).to(z)
    if fault == "σ detached":
        s = s.detach() + 0 * s
    if fault == "height for width":
        f_x = f_x * (width / height)
    square = f_y[:, None] ** 2 + f_x**2
    gains = torch.exp(-2 * math.pi**2 * s * s * square)
    if fault == "gains of 64 rows" and height > 64:
        gains = torch.cat([gains[:64], torch.ones_like(gains[64:])])
    if fault == "Nyquist dropped" and width % 2 == 0:
        gains = torch.cat([gains[:, :-1], 0 * gains[:, -1:]], 1)
    spectrum = torch.fft.rfft2(z) * gains
    if fault == "odd width lost":
        out = torch.fft.irfft2(spectrum)
        out = torch.nn.functional.pad(out, (0, width - out.shape[-1])) if out.shape[-1] < width else out
    else:
        out = torch.fft.irfft2(spectrum, s=(height, width))
    return out.to(x.dtype)


def fft_operator(x: Tensor, epsilon: float, *, fault: str = "") -> Tensor:
    """The sampled kernel's transform, axis by axis"""
    z = wide(x)
    for axis in (-2, -1):
        n = x.shape[axis]
        r = torch.arange(n, dtype=torch.float64)
        r = torch.where(2 * r < n, r, r - n)
        if fault == "kernel cut at 16":
            r = torch.where(r.abs() > 16, torch.full_like(r, math.inf), r)
        if fault == "one-sided for even lengths" and n % 2 == 0 and n > 8:
            r = torch.where(r == -n / 2, torch.full_like(r, math.inf), r)
        taps = torch.exp(-(r * r) / (2 * epsilon * epsilon))
        gains = torch.fft.fft(taps / taps.sum()).real.to(z)
        if fault == "magnitude of the gains" and n > 1:
            gains = gains.abs().clamp(min=1e-3)
        shape = [-1 if a == axis else 1 for a in (-2, -1)]
        z = torch.fft.ifft(torch.fft.fft(z, dim=axis) * gains.reshape(shape), dim=axis).real
    return z.to(x.dtype)


# -- blending and smoothing -------------------------------------------------------------------------------------------


def window_of(n: int, kind: str) -> Tensor:
    i = torch.arange(n, dtype=torch.float64)
    if kind == "triangular":
        return (2 * torch.minimum(i + 1, n - i) - (1 - n % 2)) / (n + n % 2)
    return torch.sin(math.pi * (i + 1) / (n + 1)) ** 2


def blend(
    tiles: Tensor, rows: Tensor, columns: Tensor, height: int, width: int, window: str, *, fault: str = ""
) -> Tensor:
    """Tile after tile added into one image and one mass"""
    h, w = tiles.shape[-2:]
    z = wide(tiles)
    weights = (window_of(h, window)[:, None] * window_of(w, window)).to(z)
    total, mass = z.new_zeros((*tiles.shape[1:-2], height, width)), z.new_zeros((height, width))
    for k, (top, left) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
        if fault == "32 tiles" and k >= 32:
            break
        at = (..., slice(top, top + h), slice(left, left + w))
        share = weights
        if fault == "last tile unweighted" and k == len(tiles) - 1 and k:
            share = torch.ones_like(weights)
        part = torch.zeros_like(total)
        part[at] = share * z[k]
        total = total + part
        mass[at[1:]] = mass[at[1:]] + (weights if fault != "mass counted" else torch.ones_like(weights))
    return (total / mass.clamp(min=torch.finfo(z.dtype).tiny)).to(tiles.dtype)


PADDINGS = {"reflect": "reflect", "replicate": "replicate", "circular": "circular"}


def smooth(fisher: Tensor, padding: str, *, fault: str = "") -> Tensor:
    """[1 2 1]/4 along both axes by slices of a padded image"""
    x = wide(fisher)
    flat = x.reshape(-1, 1, *x.shape[-2:])
    if fault == "circular rows from the other end" and padding == "circular" and x.shape[-2] > 8:
        wide_image = torch.nn.functional.pad(flat, (1, 1, 0, 0), mode="circular")
        wide_image = torch.nn.functional.pad(wide_image, (0, 0, 1, 1), mode="replicate")
    elif padding == "zeros":
        wide_image = torch.nn.functional.pad(flat, (1, 1, 1, 1))
    else:
        wide_image = torch.nn.functional.pad(flat, (1, 1, 1, 1), mode=PADDINGS[padding])
    rows = wide_image[..., :-2, :] + 2 * wide_image[..., 1:-1, :] + wide_image[..., 2:, :]
    out = (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 16
    if fault == "last row of the second block" and x.shape[-2] > TILE:
        out = torch.cat([out[..., : 2 * TILE - 1, :], flat[..., 2 * TILE - 1 :, :]], -2)
    if fault == "gain of 1 + 1e-4":
        out = out * (1 + 1e-4)
    return out.reshape(x.shape).to(fisher.dtype)


# -- right programs of other algorithms -------------------------------------------------------------------------------


def blur_as_convolution(x: Tensor, k: int, sigma: float) -> Tensor:
    z = wide(x)[:, None]
    taps = taps_of(k, sigma).to(z)
    half = k // 2
    z = torch.nn.functional.pad(z, (half, half, half, half), mode="reflect")
    return torch.nn.functional.conv2d(z, (taps[:, None] * taps)[None, None])[:, 0].to(x.dtype)


def blur_as_matrices(x: Tensor, k: int, sigma: float) -> Tensor:
    """K_y x K_xᵀ, K by folding every tap back into the image"""

    def matrix(n: int) -> Tensor:
        found = torch.zeros(n, n, dtype=torch.float64)
        for j, tap in enumerate(taps_of(k, sigma)):
            found[torch.arange(n), reflected(torch.arange(n) + j - k // 2, n)] += tap
        return found.to(wide(x))

    return (matrix(x.shape[-2]) @ wide(x) @ matrix(x.shape[-1]).T).to(x.dtype)


def blur_by_unfold(x: Tensor, k: int, sigma: float) -> Tensor:
    z, half = wide(x), k // 2
    taps = taps_of(k, sigma).to(z)
    z = torch.nn.functional.pad(z, (half, half, half, half), mode="reflect")
    return torch.einsum("chwij,i,j->chw", z.unfold(-2, k, 1).unfold(-2, k, 1), taps, taps).to(x.dtype)


def fft_by_full_transform(x: Tensor, sigma: Tensor) -> Tensor:
    """Complex FFT in float64"""
    z, s = x.double(), sigma.double()
    square = frequencies(x.shape[-2])[:, None] ** 2 + frequencies(x.shape[-1]) ** 2
    return torch.fft.ifft2(torch.fft.fft2(z) * torch.exp(-2 * math.pi**2 * s * s * square)).real.to(x.dtype)


def fft_as_circulant(x: Tensor, sigma: Tensor) -> Tensor:
    """The two circulant matrices whose eigenvalues are the gains"""
    z, s = wide(x).double(), wide(sigma).double()

    def matrix(n: int) -> Tensor:
        i, f = torch.arange(n, dtype=torch.float64), frequencies(n)
        gains = torch.exp(-2 * math.pi**2 * s * s * f * f)
        waves = torch.cos(2 * math.pi * (i[:, None] - i)[..., None] * f)
        return (waves * gains).sum(-1) / n

    return (matrix(x.shape[-2]) @ z @ matrix(x.shape[-1]).T).to(x.dtype)


def fft_operator_in_space(x: Tensor, epsilon: float) -> Tensor:
    """Every shift of the image, weighed: a direct circular convolution"""
    z = wide(x)
    for axis in (-2, -1):
        n = x.shape[axis]
        r = torch.arange(n, dtype=torch.float64)
        r = torch.where(2 * r < n, r, r - n)
        taps = torch.exp(-(r * r) / (2 * epsilon * epsilon))
        taps = (taps / taps.sum()).to(z)
        z = torch.stack([taps[i] * z.roll(i, axis) for i in range(n)]).sum(0)
    return z.to(x.dtype)


def numpy_fft_operator(x: Any, epsilon: float) -> Any:
    z = x.astype(np.float64)
    for axis in (-2, -1):
        n = x.shape[axis]
        r = np.fft.fftfreq(n, 1 / n)
        taps = np.exp(-(r * r) / (2 * epsilon * epsilon))
        shape = [-1 if a == axis else 1 for a in (-2, -1)]
        gains = np.fft.fft(taps / taps.sum()).real.reshape(shape)
        z = np.fft.ifft(np.fft.fft(z, axis=axis) * gains, axis=axis).real
    return z.astype(x.dtype)


def blend_in_float64(tiles: Tensor, rows: Tensor, columns: Tensor, height: int, width: int, window: str) -> Tensor:
    return blend(tiles.double(), rows, columns, height, width, window).to(tiles.dtype)


def smooth_as_convolution(fisher: Tensor, padding: str) -> Tensor:
    x = wide(fisher)
    flat = x.reshape(-1, 1, *x.shape[-2:])
    taps = torch.tensor([0.25, 0.5, 0.25], dtype=x.dtype)
    mode = {"zeros": "constant"}.get(padding, padding)
    padded = torch.nn.functional.pad(flat, (1, 1, 1, 1), mode=mode)
    return torch.nn.functional.conv2d(padded, (taps[:, None] * taps)[None, None]).reshape(x.shape).to(fisher.dtype)


F = "filters."
PLAIN = {"k": 5, "sigma": 1.3}

PROGRAMS = (
    *sabotaged(
        f"{F}blur",
        "tiles of 16 with a halo",
        blur,
        {
            "halo of the tile's own border": fault("last partial tile", H=20, W=40, scalars=PLAIN),
            "border pixel repeated": fault("constant", H=9, W=9, scalars=PLAIN, names=("ATLAS-21f",)),
            "border repeated in the last tile": fault("last partial tile", H=9, W=24, scalars=PLAIN),
            "nine taps at most": fault("long sums and powers", H=20, W=20, scalars={"k": 13, "sigma": 3.0}),
            "σ of 2 at most": fault("far scalar", H=9, W=9, scalars={"k": 5, "sigma": 2.9}),
            "taps not normalised after rounding": fault("reduced inputs", dtypes=("float32",), scalars=PLAIN, H=9, W=9),
            "eight channels": fault("entries beyond n not read", C=10, H=9, W=9, scalars=PLAIN),
            "gradient through the rows alone": fault("gradient dropped or scaled", "gradient", H=9, W=8, scalars=PLAIN),
            "columns filtered with the rows' result of the first channel": fault(
                "wrong axis", C=3, H=9, W=9, scalars=PLAIN
            ),
        },
    ),
    Program(f"{F}blur", "one convolution", blur_as_convolution),
    Program(f"{F}blur", "two matrices", blur_as_matrices),
    Program(f"{F}blur", "unfold and einsum", blur_by_unfold),
    *sabotaged(
        f"{F}fft_gaussian",
        "real FFT",
        fft_gaussian,
        {
            "σ detached": fault("gradient dropped or scaled", "gradient", H=6, W=7),
            "height for width": fault("wrong axis", H=6, W=9),
            "gains of 64 rows": fault("entries beyond n not read", H=70, W=4),
            "Nyquist dropped": fault("constant", H=5, W=6, scale=-1.0),
            "odd width lost": fault("wrong axis", H=5, W=7),
        },
    ),
    Program(f"{F}fft_gaussian", "complex FFT in float64", fft_by_full_transform),
    Program(f"{F}fft_gaussian", "circulant matrices", fft_as_circulant),
    *sabotaged(
        f"{F}fft_operator",
        "transform of the sampled kernel",
        fft_operator,
        {
            "kernel cut at 16": fault("long sums and powers", H=6, W=50, scalars={"epsilon": 30.0}),
            "one-sided for even lengths": fault("wrong axis", H=10, W=12, scalars={"epsilon": 3.0}),
            "magnitude of the gains": fault("epsilon", H=30, W=30, scalars={"epsilon": 3.0}),
        },
    ),
    Program(f"{F}fft_operator", "circular shifts", fft_operator_in_space),
    Program(f"{F}fft_operator", "NumPy FFT in float64", numpy_fft_operator, framework="numpy"),
    *sabotaged(
        f"{F}blend",
        "image and mass",
        blend,
        {
            "32 tiles": fault(
                "entries beyond n not read", scalars={"height": 30, "width": 30, "tile": 4, "overlap": 0.3}
            ),
            "last tile unweighted": fault(
                "last partial tile", scalars={"height": 7, "width": 7, "tile": 3, "overlap": 0.3}
            ),
            "mass counted": fault("reduction", scalars={"height": 7, "width": 7, "tile": 3, "overlap": 0.6}),
        },
    ),
    Program(f"{F}blend", "float64 inside", blend_in_float64),
    *sabotaged(
        "fisher.smooth",
        "slices",
        smooth,
        {
            "circular rows from the other end": fault("wrong axis", H=12, W=5, scalars={"padding": "circular"}),
            "last row of the second block": fault("last partial tile", H=40, W=5, scalars={"padding": "zeros"}),
            "gain of 1 + 1e-4": fault("constant", H=5, W=5, dtypes=("float64", "float32")),
        },
    ),
    Program("fisher.smooth", "one convolution", smooth_as_convolution),
)
