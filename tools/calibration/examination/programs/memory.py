"""Atlas memory: the Omega rule by blocks of tokens, features, and Newton–Schulz."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from trueness.tools.calibration.examination.program import IN_JAX, NARROW, Program, fault, sabotaged
from trueness.tools.calibration.examination.programs.common import Tensor, wide

BLOCK = 16
"""tokens that one program works on before it hands its state to the next"""


def omega(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    alpha: Tensor,
    eta: Tensor,
    theta: Tensor,
    gamma: Tensor,
    memory: Tensor,
    momentum: Tensor,
    k_window: Tensor,
    v_window: Tensor,
    chunk_size: int,
    objective: str,
    optimizer: str,
    lr_inside_momentum: bool,
    read_before_update: bool,
    clip: float | None,
    *,
    fault: str = "",
) -> tuple[Tensor, Tensor, Tensor]:
    """Token after token, the gradient of a token's window as one product; gradient descent alone"""
    storage = q.dtype
    q, k, v, alpha, eta, theta, gamma = (wide(t) for t in (q, k, v, alpha, eta, theta, gamma))
    M, S = wide(memory), wide(momentum)
    length, window = gamma.shape[1], gamma.shape[-1]
    keys = torch.cat([wide(k_window), k], 1)
    values = torch.cat([wide(v_window), v], 1)
    if fault == "window of the call before ignored" and window > 1:
        keys = torch.cat([0 * wide(k_window), k], 1)
    if fault == "gates of the first head":
        alpha, theta = alpha[..., :1].expand_as(alpha), theta[..., :1].expand_as(theta)
    if fault == "γ detached":
        gamma = gamma.detach() + 0 * gamma
    if fault == "window of eight tokens":
        gamma = torch.cat([gamma[..., :8], 0 * gamma[..., 8:]], -1)
    if fault == "64 features":
        mask = (torch.arange(q.shape[-1]) < 64).to(q)
        q, keys = q * mask, keys * mask
    reads, M_hat = [], M
    for t in range(length):
        start = t % chunk_size == 0
        if fault == "chunks begin anew with a block":
            start = (t % BLOCK) % chunk_size == 0
        if t and t % BLOCK == 0:
            if fault == "momentum not carried":
                S = torch.zeros_like(S)
            if fault == "memory kept in the half format":
                M, S = M.bfloat16().to(M), S.bfloat16().to(S)
        if start:
            M_hat = M
        rows = keys[:, t : t + window].flip(1).transpose(1, 2)  # (B, H, c, P), the youngest first
        targets = values[:, t : t + window].flip(1).transpose(1, 2)
        error = rows @ M_hat - targets if objective == "l2" else -targets
        if fault == "values of the second block for those of the first" and BLOCK <= t < 2 * BLOCK:
            targets = values[:, t - BLOCK : t - BLOCK + window].flip(1).transpose(1, 2)
            error = rows @ M_hat - targets if objective == "l2" else -targets
        g = rows.mT @ (gamma[:, t][..., None] * error)
        if clip is not None:
            g = g.clamp(-clip, clip)
        if fault == "gradient held at 8":
            g = g.clamp(-8.0, 8.0)
        before = M
        into, out = (
            (eta[:, t], torch.ones_like(eta[:, t])) if lr_inside_momentum else (torch.ones_like(eta[:, t]), eta[:, t])
        )
        S = theta[:, t][..., None, None] * S + into[..., None, None] * g
        keep = alpha[:, t][..., None, None]
        if fault == "decay missing in the last partial block" and length > BLOCK and t >= length // BLOCK * BLOCK:
            keep = torch.ones_like(keep)
        M = keep * M - out[..., None, None] * S
        read = before if read_before_update and fault != "always read after the update" else M
        if fault == "read before the update from token 32 on" and t >= 32:
            read = before
        reads.append((q[:, t][..., None, :] @ read)[..., 0, :])
    o = torch.stack(reads, 1)
    if fault == "final momentum of the block before" and length > BLOCK:
        S = S.detach() * 0 + S * theta[:, -1][..., None, None]
    return o.to(storage), M.to(storage), S.to(storage)


# -- features ---------------------------------------------------------------------------------------------------------


def elementwise_features(x: Tensor, coefficients: Tensor, clamp: float, *, fault: str = "") -> Tensor:
    """Powers one after the other"""
    held = min(clamp, 8.0) if fault == "held at 8" else clamp
    a = wide(coefficients)
    z = wide(x).clamp(-held, held)
    if fault == "clamped in passing" and clamp < 1:
        z = wide(x) + (z - wide(x)).detach()
    powers, current = [], torch.ones_like(z)
    for i in range(len(a)):
        powers.append((a[i] if fault != "powers from the fifth on missing" or i < 5 else 0 * a[i]) * current)
        current = current * z
    if fault == "powers side by side":
        return torch.stack(powers, -1).flatten(-2).to(x.dtype)
    if fault == "coefficients detached":
        powers = [p - (a[i] - a[i].detach()) * 0 if i == 0 else p for i, p in enumerate(powers)]
        powers[-1] = a[-1].detach() * z ** (len(a) - 1) + 0 * a[-1]
    return torch.cat(powers, -1).to(x.dtype)


def tensor_features(x: Tensor, degree: int, *, fault: str = "") -> Tensor:
    z = wide(x)
    found, current = [z.new_ones((*z.shape[:-1], 1))], z.new_ones((*z.shape[:-1], 1))
    for i in range(1, degree + 1):
        current = (current[..., :, None] * z[..., None, :]).flatten(-2)
        factor = math.factorial(min(i, 4)) if fault == "4! from the fourth power on" else math.factorial(i)
        found.append(current / (factor if fault == "without the root" else math.sqrt(factor)))
    return torch.cat(found, -1).to(x.dtype)


# -- Newton–Schulz ----------------------------------------------------------------------------------------------------


def newton_schulz(g: Tensor, coefficients: Any, eps: float, *, fault: str = "") -> Tensor:
    z = wide(g)
    tall = z.shape[-2] > z.shape[-1]
    if tall:
        z = z.mT
    if fault == "norm of the largest row":
        norm = z.square().sum(-1, keepdim=True).amax(-2, keepdim=True).sqrt()
    else:
        axes = (-2, -1) if fault != "norm of all matrices" else tuple(range(z.ndim))
        square = z.square().sum(axes, keepdim=True)
        norm = torch.where(square == 0, 0.0, torch.where(square == 0, 1.0, square).sqrt())
    x = z / (norm + eps)
    for i, (a, b, c) in enumerate(coefficients):
        if fault == "two steps" and i == 2:
            break
        gram = x @ x.mT
        if fault == "products in bfloat16":
            gram = gram.bfloat16().to(gram)
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    if fault == "tall matrices not turned back for squares" and z.shape[-1] == z.shape[-2]:
        return x.mT.to(g.dtype)
    return (x.mT if tall else x).to(g.dtype)


def newton_schulz_lowrank(x: Tensor, y: Tensor, coefficients: Any, eps: float, *, fault: str = "") -> Tensor:
    rows = slice(0, 8 if fault == "rank of eight" else x.shape[-2])
    return newton_schulz(wide(x)[..., rows, :].mT @ wide(y)[..., rows, :], coefficients, eps).to(x.dtype)


def window_weights(window: int, decay: float, *, dtype: Any, device: Any = None, fault: str = "") -> Tensor:
    j = torch.arange(window, dtype=torch.float64)
    weights = torch.exp(-decay * j)
    if fault == "32 tokens":
        weights = torch.where(j < 32, weights, 0.0)
    if fault == "decay of 1 at most":
        weights = torch.exp(-min(decay, 1.0) * j)
    if fault == "geometric sum of an infinite window":
        return (weights * (1 - math.exp(-decay)) if decay > 1 else weights / weights.sum()).to(dtype)
    return (weights / weights.sum()).to(dtype)


# -- right programs of other algorithms -------------------------------------------------------------------------------


def features_by_powers(x: Tensor, coefficients: Tensor, clamp: float) -> Tensor:
    """All powers from one cumulative product"""
    z = wide(x).clamp(-clamp, clamp)
    steps = torch.stack([torch.ones_like(z), *[z] * (len(coefficients) - 1)], -2)
    return (torch.cumprod(steps, -2) * wide(coefficients)[:, None]).flatten(-2).to(x.dtype)


def features_by_jax(x: Any, coefficients: Any, clamp: float) -> Any:
    import jax.numpy as jnp

    z = jnp.clip(x.astype(jnp.float32), -clamp, clamp)
    a = coefficients.astype(jnp.float32)
    powers = [jnp.ones_like(z)]
    for _ in range(len(a) - 1):
        powers.append(powers[-1] * z)
    return jnp.concatenate([a[i] * p for i, p in enumerate(powers)], -1).astype(x.dtype)


def tensor_features_by_kron(x: Any, degree: int) -> Any:
    rows = x.reshape(-1, x.shape[-1]).astype(np.float64)
    found = []
    for row in rows:
        parts, power = [np.ones(1)], np.ones(1)
        for i in range(1, degree + 1):
            power = np.kron(power, row)
            parts.append(power / math.sqrt(math.factorial(i)))
        found.append(np.concatenate(parts))
    width = sum(x.shape[-1] ** i for i in range(degree + 1))
    return np.array(found).reshape(*x.shape[:-1], width).astype(x.dtype)


def newton_schulz_by_svd(g: Any, coefficients: Any, eps: float) -> Any:
    """The singular values go through the polynomials, in float64; LAPACK would not come back from NaN"""
    if not np.isfinite(g).all():
        raise ValueError("array must not contain infs or NaNs")
    u, s, vt = np.linalg.svd(g.astype(np.float64), full_matrices=False)
    s = s / (np.sqrt((s * s).sum(-1, keepdims=True)) + eps)
    for a, b, c in coefficients:
        s = a * s + b * s**3 + c * s**5
    return ((u * s[..., None, :]) @ vt).astype(g.dtype)


def newton_schulz_right(g: Tensor, coefficients: Any, eps: float) -> Tensor:
    """X (a I + b XᵀX + c (XᵀX)²): the Gram matrix on the other side, in float64"""
    x = g.double() / (torch.linalg.matrix_norm(g.double(), keepdim=True) + eps)
    one = torch.eye(g.shape[-1], dtype=torch.float64)
    for a, b, c in coefficients:
        gram = x.mT @ x
        x = x @ (a * one + b * gram + c * (gram @ gram))
    return x.to(g.dtype)


def window_weights_by_softmax(window: int, decay: float, *, dtype: Any, device: Any = None) -> Tensor:
    return torch.softmax(-decay * torch.arange(window, dtype=torch.float64), 0).to(dtype)


def omega_in_float64(*arguments: Any) -> Any:
    wider = [a.double() if isinstance(a, torch.Tensor) else a for a in arguments]
    return tuple(y.to(arguments[0].dtype) for y in omega(*wider))


def omega_by_einsum(*arguments: Any) -> Any:
    """The gradient of a window by einsum, the memories of all tokens stacked and read at once"""
    q, k, v, alpha, eta, theta, gamma, memory, momentum, k_window, v_window, *modes = arguments
    chunk_size, objective, _, inside, before, clip = modes
    storage, work = q.dtype, wide(q).dtype
    q, k, v, alpha, eta, theta, gamma, M, S = (
        t.to(work) for t in (q, k, v, alpha, eta, theta, gamma, memory, momentum)
    )
    keys, values = torch.cat([k_window.to(work), k], 1), torch.cat([v_window.to(work), v], 1)
    window, seen, hat = gamma.shape[-1], [], M
    one = torch.ones_like(eta)
    into, out = (eta, one) if inside else (one, eta)
    for t in range(q.shape[1]):
        hat = M if t % chunk_size == 0 else hat
        ages = torch.arange(window - 1 + t, t - 1, -1)
        phi, target = keys[:, ages], values[:, ages]
        error = (torch.einsum("bjhp,bhpv->bjhv", phi, hat) if objective == "l2" else 0) - target
        g = torch.einsum("bhj,bjhp,bjhv->bhpv", gamma[:, t], phi, error)
        g = g if clip is None else torch.minimum(torch.maximum(g, g.new_tensor(-clip)), g.new_tensor(clip))
        S = torch.einsum("bh,bhpv->bhpv", theta[:, t], S) + torch.einsum("bh,bhpv->bhpv", into[:, t], g)
        earlier, M = M, torch.einsum("bh,bhpv->bhpv", alpha[:, t], M) - torch.einsum("bh,bhpv->bhpv", out[:, t], S)
        seen.append(earlier if before else M)
    return torch.einsum("bthp,tbhpv->bthv", q, torch.stack(seen)).to(storage), M.to(storage), S.to(storage)


A = "atlas_memory."
GD: dict[str, Any] = {"optimizer": "gd", "objective": "l2", "lr_inside_momentum": False, "read_before_update": False}
GD |= {"clip": None, "chunk_size": 1}
LONG: dict[str, Any] = {"T": 40, "scale": -1.0, "spread": 0.0}


def recurrent(kind: str, looks: str = "value", **given: Any) -> Any:
    scalars = {**GD, **given.pop("scalars", {})}
    return fault(kind, looks, scalars=scalars, **{**LONG, **given})


OMEGA_FAULTS = {
    "momentum not carried": recurrent("state lost between blocks"),
    "chunks begin anew with a block": recurrent("state lost between blocks", scalars={"chunk_size": 3}),
    "values of the second block for those of the first": recurrent("tile repeated"),
    "decay missing in the last partial block": recurrent("last partial tile"),
    "final momentum of the block before": recurrent("last partial tile"),
    "read before the update from token 32 on": recurrent("long sums and powers"),
    "window of eight tokens": recurrent("entries beyond n not read", c=10, T=12),
    "64 features": recurrent("entries beyond n not read", P=70, T=4),
    "gates of the first head": recurrent("wrong axis", H=2, T=4),
    "window of the call before ignored": recurrent("state lost between blocks", c=2, T=4),
    "always read after the update": recurrent("order", T=4, scalars={"read_before_update": True}, names=()),
    "gradient held at 8": recurrent("long sums and powers", T=4, scale=0.0, spread=0.0, factor=6.0),
    "memory kept in the half format": recurrent("reduced inputs", dtypes=("float32",)),
    "γ detached": recurrent("gradient dropped or scaled", "gradient", T=3),
}

PROGRAMS = (
    *sabotaged(f"{A}omega", "blocks of 16 tokens", omega, OMEGA_FAULTS),
    Program(f"{A}omega", "float64 inside", omega_in_float64),
    Program(f"{A}omega", "einsum, read at once", omega_by_einsum),
    Program(f"{A}omega_clip", "blocks of 16 tokens", omega, dtypes=("float64", "float32")),
    *sabotaged(
        f"{A}elementwise_features",
        "power by power",
        elementwise_features,
        {
            "powers from the fifth on missing": fault("long sums and powers", degrees=8, D=2),
            "held at 8": fault("long sums and powers", scalars={"clamp": 10.0}, degrees=2, D=3, offset=9.0),
            "clamped in passing": fault(
                "gradient dropped or scaled", "gradient", scalars={"clamp": 0.5}, D=4, degrees=3
            ),
            "powers side by side": fault("order", degrees=3, D=3),
            "coefficients detached": fault("gradient dropped or scaled", "gradient", degrees=3, D=3),
        },
    ),
    Program(f"{A}elementwise_features", "cumulative product", features_by_powers),
    Program(f"{A}elementwise_features", "JAX", features_by_jax, framework="jax", dtypes=IN_JAX),
    *sabotaged(
        f"{A}tensor_features",
        "outer products",
        tensor_features,
        {
            "4! from the fourth power on": fault("long sums and powers", D=2, scalars={"degree": 6}),
            "without the root": fault("reduction", D=2, scalars={"degree": 3}, names=("MEM-02a",)),
        },
    ),
    Program(f"{A}tensor_features", "NumPy kron", tensor_features_by_kron, framework="numpy"),
    *sabotaged(
        f"{A}newton_schulz",
        "Gram matrix",
        newton_schulz,
        {
            "two steps": fault("long sums and powers", R=3, C=4, scalars={"steps": "classical"}),
            "norm of the largest row": fault("reduction", R=3, C=4, scalars={"steps": "jordan"}),
            "norm of all matrices": fault("wrong axis", R=3, C=4, sizes={"...": (3,)}, scalars={"steps": "jordan"}),
            "products in bfloat16": fault("reduced inputs", dtypes=("float32",), R=3, C=4, scalars={"steps": "jordan"}),
            "tall matrices not turned back for squares": fault("wrong axis", R=4, C=4, scalars={"steps": "jordan"}),
        },
    ),
    Program(f"{A}newton_schulz", "singular values", newton_schulz_by_svd, framework="numpy", dtypes=NARROW),
    Program(f"{A}newton_schulz", "Gram matrix on the right, in float64", newton_schulz_right),
    *sabotaged(
        f"{A}newton_schulz_lowrank",
        "the product whole",
        newton_schulz_lowrank,
        {"rank of eight": fault("entries beyond n not read", r=10, P=12, V=12, scalars={"steps": "jordan"})},
    ),
    *sabotaged(
        f"{A}window_weights",
        "exponentials",
        window_weights,
        {
            "32 tokens": fault("entries beyond n not read", scalars={"window": 40, "decay": 0.05}),
            "decay of 1 at most": fault("far scalar", scalars={"window": 5, "decay": 1.7}),
            "geometric sum of an infinite window": fault("far scalar", scalars={"window": 6, "decay": 1.7}),
        },
    ),
    Program(f"{A}window_weights", "softmax", window_weights_by_softmax),
)
