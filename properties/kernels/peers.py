"""Third-party implementations of the kernels: scikit-learn and scipy, in float64 and rounded once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from trueness.tools.spec.model import Implementation

DOUBLE = "it computes in float64; rounded once, it is told apart from right only in float32"


def peer(name: str, call: Any, package: str, **fields: Any) -> Implementation:
    """An oracle that computes in float64, cast to float32 on the way in and out."""

    def rounded(*arguments: Any) -> Any:
        wide = [a.astype(np.float64) if isinstance(a, np.ndarray) else a for a in arguments]
        return call(*wide).astype(np.float32)

    return Implementation(
        name,
        lambda: rounded,
        "numpy",
        limit="eager",
        dtypes=("float32",),
        only=DOUBLE,
        needs=(package,),
        devices=("cpu",),
        origin="third_party",
        **fields,
    )


def sklearn(name: str, call: Any, **fields: Any) -> Implementation:
    return peer(f"scikit-learn {name}", call, "sklearn", **fields)


def scipy(name: str, call: Any, **fields: Any) -> Implementation:
    return peer(f"scipy {name}", call, "scipy", **fields)


def rbf_kernel(x: Any, y: Any, lengthscale: float) -> Any:
    from sklearn.metrics.pairwise import rbf_kernel as kernel

    return kernel(x, y, gamma=1 / (2 * lengthscale**2))


def laplacian_kernel(x: Any, y: Any, lengthscale: float) -> Any:
    from sklearn.metrics.pairwise import laplacian_kernel as kernel

    return kernel(x, y, gamma=1 / lengthscale)


def process(name: str, scale: float = 1.0, **options: Any) -> Any:
    """A kernel of sklearn.gaussian_process with length scale ℓ · scale."""

    def call(x: Any, y: Any, lengthscale: float, *nu: float) -> Any:
        from sklearn.gaussian_process import kernels

        given = {"nu": nu[0]} if nu else options
        return getattr(kernels, name)(length_scale=lengthscale * scale, **given)(x, y)

    return call


def cdist(metric: str, profile: Callable[[Any, float], Any]) -> Any:
    def call(x: Any, y: Any, lengthscale: float) -> Any:
        from scipy.spatial import distance

        return profile(distance.cdist(x, y, metric), lengthscale)

    return call


def cauchy_density(x: Any, y: Any, lengthscale: float) -> Any:
    from scipy import stats

    return np.prod(np.pi * stats.cauchy.pdf((x[:, None] - y[None]) / lengthscale), -1)


def bessel(x: Any, y: Any, lengthscale: float, nu: float) -> Any:
    """2^{1−ν}/Γ(ν) s^ν K_ν(s): Matérn for every ν, R. & W. 2006 eq. 4.14; 1 at s = 0"""
    from scipy import special
    from scipy.spatial import distance

    s = math.sqrt(2 * nu) * distance.cdist(x, y) / lengthscale
    with np.errstate(invalid="ignore"):
        return np.where(s == 0, 1.0, 2 ** (1 - nu) / special.gamma(nu) * s**nu * special.kv(nu, s))


def sampler(x: Any, frequencies: Any, offsets: Any) -> Any:
    """RBFSampler with the given frequencies and offsets in place of its own."""
    from sklearn.kernel_approximation import RBFSampler

    made = RBFSampler(n_components=len(offsets)).fit(x)
    made.random_weights_, made.random_offset_ = frequencies, offsets
    return made.transform(x)


def nystroem_features(x: Any, landmarks: Any, lengthscale: float, reg: float) -> Any:
    """The feature map of Nystroem on given kernel values: K_xm (K_mm + λ I)^{−1/2}, up to a rotation."""
    from sklearn.kernel_approximation import Nystroem

    square = rbf_kernel(landmarks, landmarks, lengthscale) + reg * np.eye(len(landmarks))
    made = Nystroem(kernel="precomputed", n_components=len(landmarks), random_state=0).fit(square)
    return made.transform(rbf_kernel(x, landmarks, lengthscale))


def nystroem(x: Any, landmarks: Any, lengthscale: float, reg: float) -> Any:
    found = nystroem_features(x, landmarks, lengthscale, reg)
    return found @ found.T


def quantile(law: str) -> Any:
    def call(uniform: Any, lengthscale: float) -> Any:
        from scipy import stats

        return getattr(stats, law).ppf(uniform, scale=1 / lengthscale)

    return call


def householder(blocks: Any, radii: Any, lengthscale: float) -> Any:
    from scipy import linalg

    pairs = [linalg.qr(block) for block in blocks]
    columns = [q * np.where(np.diag(r) < 0, -1.0, 1.0) for q, r in pairs]
    return np.concatenate(columns, axis=1)[:, : len(radii)] * radii / lengthscale
