"""Kernel matrices in tiles of points, and products with them a tile of columns at a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from trueness.tools.calibration.examination.program import HALVES, IN_JAX, NARROW, Program, fault, sabotaged
from trueness.tools.calibration.examination.programs.common import Tensor, tf32, tiles, wide

TILE = 32


def squares(x: Tensor, y: Tensor, fault: str) -> Tensor:
    """‖x_i − y_j‖², tile by tile"""
    if fault == "64 dimensions":
        x, y = x[:, :64], y[:, :64]
    if fault == "TF32 inputs":
        x, y = tf32(x), tf32(y)
    if fault == "points cut to bfloat16":
        x, y = x.bfloat16().to(x), y.bfloat16().to(y)
    if fault == "expanded square":
        return ((x * x).sum(-1)[:, None] + (y * y).sum(-1) - 2 * x @ y.T).clamp(min=0)
    n, m = len(x), len(y)
    rows = []
    for i in tiles(n, TILE):
        cells = []
        for j in tiles(m, TILE):
            right = y[j]
            if fault == "second column tile repeats the first" and j.start == TILE and j.stop == 2 * TILE:
                right = y[:TILE]
            if fault == "last row tile takes the rows before" and i.start and i.stop - i.start < TILE:
                left = x[i.start - TILE : i.stop - TILE]
            else:
                left = x[i]
            cells.append((left[:, None] - right).square().sum(-1))
        rows.append(torch.cat(cells, 1))
    found = torch.cat(rows)
    if fault == "columns beyond 128 wrap":
        found = found[:, torch.arange(m) % 128]
    return found


def gaussian(x: Tensor, y: Tensor, lengthscale: float, *, fault: str = "") -> Tensor:
    a, b = wide(x), wide(y)
    if fault == "gradient of y dropped":
        b = b.detach() + 0 * b
    if fault == "gradient of x from 64 columns":
        detached = squares(a.detach(), b[64:], fault) if len(b) > 64 else squares(a, b[64:], fault)
        square = torch.cat([squares(a, b[:64], fault), detached], 1)
    else:
        square = squares(a, b, fault)
    return torch.exp(-square / (2 * lengthscale**2)).to(x.dtype)


def laplacian_l1(x: Tensor, y: Tensor, lengthscale: float, *, fault: str = "") -> Tensor:
    a, b = wide(x), wide(y)
    total = a.new_zeros((len(a), len(b)))
    for d in range(x.shape[1] if fault != "8 dimensions" else min(x.shape[1], 8)):
        apart = a[:, None, d] - b[None, :, d]
        total = total + (torch.sqrt(apart * apart) if fault == "root of the square" else apart.abs())
    total = total.clamp(max=20 * lengthscale) if fault == "distance held at 20 lengths" else total
    return torch.exp(-total / lengthscale).to(x.dtype)


def laplacian_l2(x: Tensor, y: Tensor, lengthscale: float, *, fault: str = "") -> Tensor:
    square = squares(wide(x), wide(y), fault)
    if fault == "root at zero":
        return torch.exp(-torch.sqrt(square) / lengthscale).to(x.dtype)
    if fault == "1e-6 under the root":
        return torch.exp(-torch.sqrt(square + 1e-6) / lengthscale).to(x.dtype)
    zero = square == 0
    root = torch.where(zero, 0.0, torch.sqrt(torch.where(zero, 1.0, square)))
    return torch.exp(-root / lengthscale).to(x.dtype)


def cauchy_product(x: Tensor, y: Tensor, lengthscale: float, *, fault: str = "") -> Tensor:
    a, b = wide(x) / lengthscale, wide(y) / lengthscale
    found = a.new_ones((len(a), len(b)))
    for d in range(x.shape[1] if fault != "4 dimensions" else min(x.shape[1], 4)):
        apart = a[:, None, d] - b[None, :, d]
        factor = 1 / (1 + apart * apart)
        found = factor if fault == "last dimension alone" and d else found * factor
    return found.to(x.dtype)


def matern(x: Tensor, y: Tensor, lengthscale: float, nu: float, *, fault: str = "") -> Tensor:
    square = squares(wide(x), wide(y), fault)
    zero = square == 0
    r = torch.where(zero, 0.0, torch.sqrt(torch.where(zero, 1.0, square)))
    s = math.sqrt(2 * (1.5 if fault == "scale of ν = 3∕2" else nu)) * r / lengthscale
    if nu == 0.5:
        return torch.exp(-s).to(x.dtype)
    third = 0.333 if fault == "0.333 for a third" else 1 / 3
    factor = 1 + s + (s * s * third if nu == 2.5 else 0)
    return (factor * torch.exp(-s)).to(x.dtype)


def of_kernel(name: str, x: Tensor, y: Tensor, lengthscale: float) -> Tensor:
    named = {"gaussian": gaussian, "laplacian_l1": laplacian_l1, "laplacian_l2": laplacian_l2}
    if name in named:
        return named[name](x, y, lengthscale)
    if name == "cauchy_product":
        return cauchy_product(x, y, lengthscale)
    return 1 / (1 + squares(x, y, "") / lengthscale**2)


def kernel_matvec(x: Tensor, y: Tensor, v: Tensor, kernel: str, lengthscale: float, *, fault: str = "") -> Tensor:
    """K v, a tile of columns at a time; K is never whole."""
    a, b, w = wide(x), wide(y), wide(v)
    m = len(b)
    total = a.new_zeros((len(a), w.shape[1]))
    end = m // TILE * TILE if fault == "last column tile not added" and m > TILE else m
    for j in tiles(end, TILE):
        part = of_kernel(kernel, a, b[j], lengthscale) @ w[j]
        if fault == "tiles overwrite the sum":
            total = part
        elif fault == "sum in the half format":
            total = (total + part).to(x.dtype).to(total)
        else:
            total = total + part
    if fault == "16 vectors":
        total = torch.cat([total[:, :16], 0 * total[:, 16:]], 1)
    if fault == "Laplacian for long lengths" and lengthscale > 2 and kernel == "gaussian":
        total = of_kernel("laplacian_l2", a, b, lengthscale) @ w
    return total.to(x.dtype)


# -- right programs of other algorithms --------------------------------------------------------------------------------


def gaussian_by_cdist(x: Tensor, y: Tensor, lengthscale: float) -> Tensor:
    r = torch.cdist(wide(x), wide(y), compute_mode="donot_use_mm_for_euclid_dist")
    return torch.exp(-0.5 * (r / lengthscale) ** 2).to(x.dtype)


def gaussian_centred(x: Tensor, y: Tensor, lengthscale: float) -> Tensor:
    """‖x‖² + ‖y‖² − 2 x·y in float64, the points moved to their mean first"""
    a, b = x.double(), y.double()
    middle = b.mean(0, keepdim=True)
    a, b = a - middle, b - middle
    square = ((a * a).sum(-1)[:, None] + (b * b).sum(-1) - 2 * a @ b.T).clamp(min=0)
    return torch.exp(-square / (2 * lengthscale**2)).to(x.dtype)


def gaussian_as_product(x: Tensor, y: Tensor, lengthscale: float) -> Tensor:
    """One factor per dimension; in float64, for each factor near 1 is rounded"""
    a, b = x.double(), y.double()
    found = a.new_ones((len(a), len(b)))
    for d in range(x.shape[1]):
        found = found * torch.exp(-((a[:, None, d] - b[None, :, d]) ** 2) / (2 * lengthscale**2))
    return found.to(x.dtype)


def gaussian_by_scipy(x: Any, y: Any, lengthscale: float) -> Any:
    from scipy.spatial.distance import cdist

    return np.exp(-cdist(x.astype(np.float64), y.astype(np.float64), "sqeuclidean") / (2 * lengthscale**2)).astype(
        x.dtype
    )


def gaussian_by_jax(x: Any, y: Any, lengthscale: float) -> Any:
    import jax
    import jax.numpy as jnp

    def one(a: Any, b: Any) -> Any:
        return jnp.exp(-jnp.sum((a - b) ** 2) / (2 * lengthscale**2))

    found = jax.vmap(lambda a: jax.vmap(lambda b: one(a, b))(y.astype(jnp.float32)))(x.astype(jnp.float32))
    return found.astype(x.dtype)


def l1_by_cdist(x: Tensor, y: Tensor, lengthscale: float) -> Tensor:
    return torch.exp(-torch.cdist(wide(x), wide(y), p=1) / lengthscale).to(x.dtype)


def product_by_logarithm(x: Tensor, y: Tensor, lengthscale: float) -> Tensor:
    square = ((wide(x)[:, None] - wide(y)) / lengthscale).square()
    return torch.exp(-torch.log1p(square).sum(-1)).to(x.dtype)


K = "kernels."
NEAR = {"scale": -1.0}

PROGRAMS = (
    *sabotaged(
        f"{K}gaussian",
        "tiles of 32",
        gaussian,
        {
            "second column tile repeats the first": fault("tile repeated", m=64, **NEAR),
            "last row tile takes the rows before": fault("last partial tile", n=40, **NEAR),
            "columns beyond 128 wrap": fault("narrow index", m=140, **NEAR),
            "64 dimensions": fault("entries beyond n not read", d=70, **NEAR),
            "TF32 inputs": fault("reduced inputs", dtypes=("float32",), d=3),
            "points cut to bfloat16": fault("reduced inputs", dtypes=("float32", "float16"), d=3),
            "expanded square": fault("cancellation", offset=100.0, d=3, **NEAR),
            "gradient of y dropped": fault("gradient dropped or scaled", "gradient"),
            "gradient of x from 64 columns": fault("gradient of first rows", "gradient", m=70),
        },
    ),
    Program(f"{K}gaussian", "torch cdist", gaussian_by_cdist),
    Program(f"{K}gaussian", "expanded and centred in float64", gaussian_centred, dtypes=NARROW),
    Program(f"{K}gaussian", "one factor per dimension", gaussian_as_product, dtypes=NARROW),
    Program(f"{K}gaussian", "SciPy cdist", gaussian_by_scipy, framework="numpy"),
    Program(f"{K}gaussian", "JAX vmap", gaussian_by_jax, framework="jax", dtypes=IN_JAX),
    *sabotaged(
        f"{K}laplacian_l1",
        "dimension by dimension",
        laplacian_l1,
        {
            "8 dimensions": fault("entries beyond n not read", d=12, **NEAR),
            "root of the square": fault("ties and zeros", "gradient", ties="arguments", n=4, m=4),
            "distance held at 20 lengths": fault(
                "long sums and powers", d=60, factor=10.0, dtypes=("float64", "float32")
            ),
        },
    ),
    Program(f"{K}laplacian_l1", "torch cdist", l1_by_cdist),
    *sabotaged(
        f"{K}laplacian_l2",
        "tiles of 32",
        laplacian_l2,
        {
            "root at zero": fault("ties and zeros", "gradient", ties="arguments", n=4, m=4),
            "1e-6 under the root": fault("epsilon", ties="arguments", n=4, m=4, dtypes=("float64", "float32")),
            "last row tile takes the rows before": fault("last partial tile", n=40, **NEAR),
            "expanded square": fault("cancellation", offset=100.0, d=3, **NEAR),
        },
    ),
    *sabotaged(
        f"{K}cauchy_product",
        "dimension by dimension",
        cauchy_product,
        {
            "4 dimensions": fault("entries beyond n not read", d=6),
            "last dimension alone": fault("state lost between blocks", d=3),
        },
    ),
    Program(f"{K}cauchy_product", "sum of logarithms", product_by_logarithm),
    *sabotaged(
        f"{K}matern",
        "tiles of 32",
        matern,
        {
            "scale of ν = 3∕2": fault("constant", scalars={"nu": 2.5}),
            "0.333 for a third": fault(
                "constant", scalars={"nu": 2.5, "lengthscale": 0.8}, dtypes=("float64", "float32")
            ),
            "second column tile repeats the first": fault("tile repeated", m=64),
        },
    ),
    *sabotaged(
        f"{K}kernel_matvec",
        "tiles of 32 columns",
        kernel_matvec,
        {
            "last column tile not added": fault("last partial tile", m=40, scalars={"kernel": "gaussian"}),
            "tiles overwrite the sum": fault("state lost between blocks", m=40, scalars={"kernel": "gaussian"}),
            "16 vectors": fault("entries beyond n not read", p=20, scalars={"kernel": "gaussian"}),
            "sum in the half format": fault("half accumulator", dtypes=HALVES, m=2000, scalars={"kernel": "gaussian"}),
            "Laplacian for long lengths": fault("far scalar", scalars={"kernel": "gaussian", "lengthscale": 3.0}),
        },
    ),
)
