"""Real input: the handwritten digits that ship with scikit-learn, and the score of a mixture fitted to them."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np

NOISE_LEVELS = (0.9999, 0.9, 0.5, 0.1)  # ᾱ
IMAGES, SPREAD = 16, 0.02


def available() -> bool:
    """Whether scikit-learn is installed."""
    return importlib.util.find_spec("sklearn") is not None


@cache
def table() -> tuple[np.ndarray, np.ndarray]:
    """Images (1797, 64), 0 … 16, and labels (1797,), read without importing sklearn, which takes seconds."""
    spec = importlib.util.find_spec("sklearn")
    assert spec is not None and spec.origin is not None
    path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if path.exists():
        rows = np.loadtxt(path, delimiter=",")
        return rows[:, :-1], rows[:, -1]
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)  # type: ignore[no-any-return]


def digits() -> np.ndarray:
    """(1797, 64) grey values scaled to [−1, 1]"""
    return table()[0] / 8.0 - 1.0  # type: ignore[no-any-return]


@cache
def mixture() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights (K,), means (K, 64) and covariances (K, 64, 64): one Gaussian for each of the ten digits, by its label.

    The maximum-likelihood fit for known labels, in closed form.
    """
    labels = table()[1]
    groups = [digits()[labels == k] for k in range(10)]
    weights = np.array([len(g) / len(labels) for g in groups])
    means = np.stack([g.mean(0) for g in groups])
    covariances = np.stack([np.cov(g.T, bias=True) + SPREAD * np.eye(64) for g in groups])
    return weights, means, covariances


def noised(alpha: float) -> np.ndarray:
    """x_t = √ᾱ x₀ + √(1 − ᾱ) z for the first IMAGES digits (IMAGES, 64)"""
    noise = np.random.default_rng(0).standard_normal((IMAGES, 64))
    return np.sqrt(alpha) * digits()[:IMAGES] + np.sqrt(1 - alpha) * noise  # type: ignore[no-any-return]


@cache
def mixture_scores() -> dict[float, np.ndarray]:
    """ᾱ → ∇ log p_ᾱ(x_t) (IMAGES, 8, 8) at noised digits, exact for the fitted mixture

    p_ᾱ = Σ_k π_k N(√ᾱ μ_k, ᾱ Σ_k + (1 − ᾱ) I),   ∇ log p = −Σ_k r_k(x) C_k⁻¹ (x − √ᾱ μ_k)
    """
    found = {}
    for alpha in NOISE_LEVELS:
        x = noised(alpha)
        logs, pulls = [], []
        for weight, mean, covariance in zip(*mixture(), strict=True):
            c = alpha * covariance + (1 - alpha) * np.eye(64)
            away = x - np.sqrt(alpha) * mean
            pull = np.linalg.solve(c, away.T).T
            logs.append(np.log(weight) - 0.5 * (np.sum(away * pull, 1) + np.linalg.slogdet(c)[1]))
            pulls.append(-pull)
        likelihood = np.exp(np.stack(logs) - np.max(logs, 0))
        share = likelihood / likelihood.sum(0)
        found[alpha] = np.einsum("kn,knd->nd", share, np.stack(pulls)).reshape(IMAGES, 8, 8)
    return found
