"""Kernel matrices and random features: tiles of points, products over tiles of columns, and Nyström by Cholesky."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from trueness.tools.calibration.examination.program import HALVES, IN_JAX, Program, fault, sabotaged
from trueness.tools.calibration.examination.programs.common import Tensor, tf32, tiles, wide

TILE = 32


# -- kernel matrices --------------------------------------------------------------------------------------------------


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


# -- random features --------------------------------------------------------------------------------------------------


class Features(torch.autograd.Function):
    """√(2/D) cos(x W + b), tiles of features; the backward computes the angles again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor, fault: str) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x, w, b)
        ctx.fault = fault
        a, frequency, offset = wide(x), wide(w), wide(b)
        width = w.shape[1]
        if fault == "projection cut to TF32":
            a, frequency = tf32(a), tf32(frequency)
        found = []
        for j in tiles(width, TILE):
            at = slice(0, TILE) if fault == "frequencies of the first tile" and j.stop - j.start == TILE else j
            shift = offset[slice(0, j.stop - j.start)] if fault == "offsets of the first tile" else offset[j]
            found.append(torch.cos(a @ frequency[:, at] + shift))
        padded = -(-width // TILE) * TILE if fault == "scale of the padded width" and width > TILE else width
        out = math.sqrt(2 / padded) * torch.cat(found, 1)
        if fault == "rows beyond 256 not written":
            out[256:] = 0.0
        return out.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        x, w, b = ctx.saved_tensors
        fault = ctx.fault
        a, frequency, g = wide(x), wide(w), wide(grad)
        slope = -math.sqrt(2 / w.shape[1]) * g * torch.sin(a @ frequency + wide(b))
        rows = slice(0, 64 if fault == "gradient of W from 64 rows" else len(x))
        dx = slope @ frequency.T
        if fault == "gradient of x without the last tile" and w.shape[1] > TILE:
            dx = slope[:, : (w.shape[1] - 1) // TILE * TILE] @ frequency[:, : (w.shape[1] - 1) // TILE * TILE].T
        db = torch.zeros_like(slope[0]) if fault == "gradient of b dropped" else slope.sum(0)
        dw = a[rows].T @ slope[rows]
        return dx.to(x.dtype), dw.to(x.dtype), db.to(x.dtype), None


def features(x: Tensor, frequencies: Tensor, offsets: Tensor, *, fault: str = "") -> Tensor:
    return Features.apply(x, frequencies, offsets, fault)


def paired(x: Tensor, frequencies: Tensor, *, fault: str = "") -> Tensor:
    angle = wide(x) @ wide(frequencies)
    cos, sin = torch.cos(angle), torch.sin(angle)
    if fault == "sine of reduced angles":
        sin = torch.sin(angle.clamp(-4 * math.pi, 4 * math.pi))
    halves = (sin, cos) if fault == "sine first" else (cos, sin)
    if fault == "interleaved":
        return (torch.stack(halves, -1).flatten(-2) * math.sqrt(1 / angle.shape[1])).to(x.dtype)
    return (torch.cat(halves, 1) * math.sqrt(1 / angle.shape[1])).to(x.dtype)


def gram(x: Tensor, y: Tensor, frequencies: Tensor, offsets: Tensor, *, fault: str = "") -> Tensor:
    """φ(x) φ(y)ᵀ summed over tiles of features, φ never whole"""
    a, b, w, o = (wide(t) for t in (x, y, frequencies, offsets))
    width = w.shape[1]
    total = a.new_zeros((len(a), len(b)))
    for j in tiles(width, TILE):
        if fault == "last feature tile lost" and j.start and j.stop == width:
            continue
        part = torch.cos(a @ w[:, j] + o[j]) @ torch.cos(b @ w[:, j] + o[j]).T
        total = total + (part if fault != "tiles scaled by their own width" else part * (TILE / (j.stop - j.start)))
        if fault == "sum in the half format":
            total = total.to(x.dtype).to(total)
    if fault == "lower triangle mirrored" and len(a) == len(b):
        total = total.tril() + total.tril(-1).T
    return (2 / width * total).to(x.dtype)


def matvec(x: Tensor, y: Tensor, v: Tensor, frequencies: Tensor, offsets: Tensor, *, fault: str = "") -> Tensor:
    a, b, u, w, o = (wide(t) for t in (x, y, v, frequencies, offsets))
    pulled = w.new_zeros((w.shape[1], u.shape[1]))
    for j in tiles(len(b), TILE):
        if fault == "last rows of y lost" and j.start and j.stop - j.start < TILE:
            continue
        pulled = pulled + torch.cos(b[j] @ w + o).T @ u[j]
        if fault == "sum in the half format":
            pulled = pulled.to(x.dtype).to(pulled)
    if fault == "gradient of v dropped":
        pulled = pulled.detach() + 0 * pulled
    if fault == "features beyond 64 not read":
        pulled = torch.cat([pulled[:64], 0 * pulled[64:]])
    return (2 / w.shape[1] * torch.cos(a @ w + o) @ pulled).to(x.dtype)


# -- Nyström ----------------------------------------------------------------------------------------------------------


def factor(square: Tensor, fault: str) -> Tensor:
    """Cholesky by blocks of 16, the trailing part updated after every block"""
    size, block = len(square), 16
    left = square.clone()
    found = torch.zeros_like(square)
    for start in range(0, size, block):
        end = min(start + block, size)
        found[start:end, start:end] = torch.linalg.cholesky(left[start:end, start:end])
        if end == size:
            break
        below = torch.linalg.solve_triangular(found[start:end, start:end], left[end:, start:end].T, upper=False).T
        found[end:, start:end] = below
        if fault != "third block without its update" or start != block:
            left[end:, end:] = left[end:, end:] - below @ below.T
    return found


def nystrom_pieces(x: Tensor, z: Tensor, lengthscale: float, reg: float, fault: str) -> tuple[Tensor, Tensor]:
    a, b = wide(x).double(), wide(z).double()
    if fault == "32 landmarks":
        b = b[:32]
    reg = max(reg, 1e-3) if fault == "λ of 1e-3 at least" else reg
    reg = 0.0 if fault == "λ dropped" else reg
    cross, square = gaussian(a, b, lengthscale), gaussian(b, b, lengthscale)
    return cross, square + reg * torch.eye(len(b), dtype=b.dtype)


def nystrom(x: Tensor, landmarks: Tensor, lengthscale: float, reg: float, *, fault: str = "") -> Tensor:
    cross, square = nystrom_pieces(x, landmarks, lengthscale, reg, fault)
    half = torch.linalg.solve_triangular(factor(square, fault), cross.T, upper=False)
    return (half.T @ half).to(x.dtype)


def nystrom_matvec(
    x: Tensor, landmarks: Tensor, v: Tensor, lengthscale: float, reg: float, *, fault: str = ""
) -> Tensor:
    cross, square = nystrom_pieces(x, landmarks, lengthscale, reg, fault)
    rows = slice(0, len(x) // TILE * TILE if fault == "last rows not summed" and len(x) > TILE else len(x))
    pulled = cross[rows].T @ wide(v).double()[rows]
    if fault == "ten steps of conjugate gradients":
        return (cross @ conjugate_gradients(square, pulled, 10)).to(x.dtype)
    return (cross @ torch.cholesky_solve(pulled, factor(square, fault))).to(x.dtype)


def conjugate_gradients(matrix: Tensor, right: Tensor, steps: int) -> Tensor:
    """Column by column at once        (Hestenes & Stiefel 1952)"""
    found, rest = torch.zeros_like(right), right
    direction, square = rest, (rest * rest).sum(0)
    for _ in range(steps):
        turned = matrix @ direction
        length = square / (direction * turned).sum(0).clamp(min=torch.finfo(right.dtype).tiny)
        found, rest = found + length * direction, rest - length * turned
        following = (rest * rest).sum(0)
        direction = rest + following / square.clamp(min=torch.finfo(right.dtype).tiny) * direction
        square = following
    return found


# -- right programs of other algorithms -------------------------------------------------------------------------------


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
    """One factor per dimension"""
    a, b = wide(x), wide(y)
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


def features_by_addmm(x: Tensor, frequencies: Tensor, offsets: Tensor) -> Tensor:
    angle = torch.addmm(wide(offsets), wide(x), wide(frequencies))
    return (angle.cos() * math.sqrt(2 / offsets.shape[0])).to(x.dtype)


def features_as_sine(x: Tensor, frequencies: Tensor, offsets: Tensor) -> Tensor:
    """cos z = sin(z + π/2) in float64"""
    angle = x.double() @ frequencies.double() + offsets.double() + math.pi / 2
    return (torch.sin(angle) * math.sqrt(2 / offsets.shape[0])).to(x.dtype)


def features_by_jax(x: Any, frequencies: Any, offsets: Any) -> Any:
    import jax.numpy as jnp

    angle = jnp.matmul(x.astype(jnp.float32), frequencies.astype(jnp.float32), precision="highest")
    return (jnp.cos(angle + offsets.astype(jnp.float32)) * np.sqrt(2 / offsets.shape[0]).astype(np.float32)).astype(
        x.dtype
    )


def paired_as_complex(x: Tensor, frequencies: Tensor) -> Tensor:
    """e^{iz}, its real and its imaginary part"""
    wave = torch.polar(torch.ones_like(wide(x) @ wide(frequencies)), wide(x) @ wide(frequencies))
    return (torch.cat([wave.real, wave.imag], 1) / math.sqrt(frequencies.shape[1])).to(x.dtype)


def gram_by_einsum(x: Tensor, y: Tensor, frequencies: Tensor, offsets: Tensor) -> Tensor:
    left, right = (features_by_addmm(wide(t), wide(frequencies), wide(offsets)) for t in (x, y))
    return torch.einsum("id,jd->ij", left, right).to(x.dtype)


def matvec_by_gram(x: Tensor, y: Tensor, v: Tensor, frequencies: Tensor, offsets: Tensor) -> Tensor:
    """K̂ whole, then K̂ v, in float64"""
    return (gram_by_einsum(x.double(), y.double(), frequencies.double(), offsets.double()) @ v.double()).to(x.dtype)


def nystrom_by_eigh(x: Tensor, landmarks: Tensor, lengthscale: float, reg: float) -> Tensor:
    cross, square = nystrom_pieces(x, landmarks, lengthscale, reg, "")
    values, vectors = torch.linalg.eigh(square)
    turned = cross @ vectors
    return ((turned / values) @ turned.T).to(x.dtype)


def nystrom_by_solve(x: Tensor, landmarks: Tensor, lengthscale: float, reg: float) -> Tensor:
    cross, square = nystrom_pieces(x, landmarks, lengthscale, reg, "")
    return (cross @ torch.linalg.solve(square, cross.T)).to(x.dtype)


def nystrom_matvec_by_cg(x: Tensor, landmarks: Tensor, v: Tensor, lengthscale: float, reg: float) -> Tensor:
    """As many steps as float64 needs for λ of a half"""
    cross, square = nystrom_pieces(x, landmarks, lengthscale, reg, "")
    return (cross @ conjugate_gradients(square, cross.T @ wide(v).double(), 2 * len(square) + 40)).to(x.dtype)


def nystrom_matvec_by_scipy(x: Any, landmarks: Any, v: Any, lengthscale: float, reg: float) -> Any:
    from scipy.linalg import cho_factor, cho_solve
    from scipy.spatial.distance import cdist

    a, b = x.astype(np.float64), landmarks.astype(np.float64)
    cross, square = (np.exp(-cdist(p, b, "sqeuclidean") / (2 * lengthscale**2)) for p in (a, b))
    factored = cho_factor(square + reg * np.eye(len(b)))
    return (cross @ cho_solve(factored, cross.T @ v.astype(np.float64))).astype(x.dtype)


K = "kernels."
NEAR = {"scale": -1.0}
FAR = {"scale": 0.0, "spread": 0.0}

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
    Program(f"{K}gaussian", "expanded and centred in float64", gaussian_centred),
    Program(f"{K}gaussian", "one factor per dimension", gaussian_as_product),
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
    *sabotaged(
        f"{K}rff_features",
        "tiles of 32 features",
        features,
        {
            "frequencies of the first tile": fault("tile repeated", D=70),
            "offsets of the first tile": fault("tile repeated", D=70),
            "scale of the padded width": fault("last partial tile", D=40),
            "rows beyond 256 not written": fault("entries beyond n not read", n=300),
            "projection cut to TF32": fault("reduced inputs", dtypes=("float32",)),
            "gradient of W from 64 rows": fault("gradient of first rows", "gradient", n=70),
            "gradient of x without the last tile": fault("last partial tile", "gradient", D=40),
            "gradient of b dropped": fault("gradient dropped or scaled", "gradient"),
        },
    ),
    Program(f"{K}rff_features", "addmm", features_by_addmm),
    Program(f"{K}rff_features", "sine in float64", features_as_sine),
    Program(f"{K}rff_features", "JAX", features_by_jax, framework="jax", dtypes=IN_JAX),
    *sabotaged(
        f"{K}rff_features_paired",
        "both halves",
        paired,
        {
            "sine first": fault("order", names=()),
            "interleaved": fault("order"),
            "sine of reduced angles": fault("long sums and powers", d=60, factor=10.0),
        },
    ),
    Program(f"{K}rff_features_paired", "complex exponential", paired_as_complex),
    *sabotaged(
        f"{K}rff_gram",
        "sum over tiles of features",
        gram,
        {
            "last feature tile lost": fault("last partial tile", D=40),
            "tiles scaled by their own width": fault("last partial tile", D=40),
            "sum in the half format": fault("half accumulator", dtypes=HALVES, D=3000),
            "lower triangle mirrored": fault("wrong axis", n=5, m=5),
        },
    ),
    Program(f"{K}rff_gram", "einsum", gram_by_einsum),
    *sabotaged(
        f"{K}rff_matvec",
        "tiles of 32 rows",
        matvec,
        {
            "last rows of y lost": fault("last partial tile", m=40),
            "features beyond 64 not read": fault("entries beyond n not read", D=70),
            "sum in the half format": fault("half accumulator", dtypes=HALVES, m=3000),
            "gradient of v dropped": fault("gradient dropped or scaled", "gradient"),
        },
    ),
    Program(f"{K}rff_matvec", "the matrix whole, in float64", matvec_by_gram),
    *sabotaged(
        f"{K}nystrom",
        "Cholesky by blocks",
        nystrom,
        {
            "third block without its update": fault("state lost between blocks", m=50),
            "32 landmarks": fault("entries beyond n not read", m=40),
            "λ of 1e-3 at least": fault("far scalar", scalars={"reg": 1e-5}, n=6, m=4, factor=4.0, scale=0.0),
            "λ dropped": fault("epsilon", m=3, scalars={"reg": 0.5}, factor=4.0),
        },
    ),
    Program(f"{K}nystrom", "eigenvectors", nystrom_by_eigh),
    Program(f"{K}nystrom", "LU", nystrom_by_solve),
    *sabotaged(
        f"{K}nystrom_matvec",
        "Cholesky by blocks",
        nystrom_matvec,
        {
            "last rows not summed": fault("last partial tile", n=40),
            "third block without its update": fault("state lost between blocks", m=50),
            "ten steps of conjugate gradients": fault("far scalar", m=30, n=30, scalars={"reg": 1e-3}, factor=10.0),
        },
    ),
    Program(f"{K}nystrom_matvec", "conjugate gradients", nystrom_matvec_by_cg),
    Program(f"{K}nystrom_matvec", "SciPy Cholesky", nystrom_matvec_by_scipy, framework="numpy"),
)
