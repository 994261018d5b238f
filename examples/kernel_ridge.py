"""Kernel ridge regression on the diabetes table: random Fourier features stand in for the exact kernel.

    (K + λ I) a = y,    ŷ(x) = k(x, X) a,    K ≈ φ(X) φ(X)ᵀ  with  φ(x) = √(2/D) cos(Wᵀx + b)    (Rahimi & Recht 2007)

Solved by conjugate gradients, one product φ(X)(φ(X)ᵀ p) a step, so that neither K nor φ(X) is ever stored; beside it
the exact kernel, solved by Cholesky. Width and ridge are chosen by the exact kernel on the training rows of each split.

    python examples/kernel_ridge.py
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click
import torch
from _run import Line, digest, report, run
from sklearn.datasets import load_diabetes

from trueness.optimized import kernels

SPLITS, FEATURES, ITERATIONS = 10, 8192, 40
WIDTHS, RIDGES = (2.0, 3.0, 4.5, 7.0, 10.0), (0.03, 0.1, 0.3, 1.0)
NAME = "kernel_ridge"


def table() -> tuple[torch.Tensor, torch.Tensor]:
    """442 patients: ten measurements with mean 0 and variance 1, and the progression of their illness."""
    x, y = (torch.from_numpy(a).double() for a in load_diabetes(return_X_y=True))
    return (x - x.mean(0)) / x.std(0), y


def halves(split: int, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows to learn from and rows to be judged on; the same for the same split."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(split))
    return order[: 3 * n // 4], order[3 * n // 4 :]


def rmse(prediction: torch.Tensor, y: torch.Tensor) -> float:
    return float((prediction - y).square().mean().sqrt())


def exact(x: torch.Tensor, y: torch.Tensor, points: torch.Tensor, width: float, ridge: float) -> torch.Tensor:
    """The prediction of the exact kernel at ``points``."""
    k = kernels.gaussian(x, x, lengthscale=width) + ridge * torch.eye(len(x), dtype=x.dtype)
    a = torch.cholesky_solve((y - y.mean())[:, None], torch.linalg.cholesky(k))
    return y.mean() + (kernels.gaussian(points, x, lengthscale=width) @ a)[:, 0]


def chosen(x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    """Width and ridge with the least error of the exact kernel on a quarter of the training rows."""
    learn, judge = halves(99, len(x))
    return min(
        ((w, r) for w in WIDTHS for r in RIDGES),
        key=lambda c: rmse(exact(x[learn], y[learn], x[judge], *c), y[judge]),
    )


class Solver:
    """Conjugate gradients on one split after the other; its state is the iterate and the errors so far."""

    def __init__(self, features: int) -> None:
        self.x, self.y = table()
        self.features = features
        self.errors: dict[str, list[float]] = {"exact": [], "features": [], "the mean": []}
        self.state: dict[str, torch.Tensor] = {}
        self.begin(0)

    def begin(self, split: int) -> None:
        """The problem of ``split``: its rows, width, ridge and random features."""
        self.learn, self.judge = halves(split, len(self.x))
        x, y = self.x[self.learn], self.y[self.learn]
        self.width, self.ridge = chosen(x, y)
        generator = torch.Generator().manual_seed(1000 + split)
        normal = torch.randn(x.shape[1], self.features, generator=generator, dtype=x.dtype)
        self.frequencies = kernels.gaussian_frequencies(normal, lengthscale=self.width)
        self.offsets = 2 * math.pi * torch.rand(self.features, generator=generator, dtype=x.dtype)
        r = y - y.mean()
        self.state = {"a": torch.zeros_like(r), "r": r.clone(), "p": r.clone()}

    def product(self, points: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """φ(points) (φ(X)ᵀ v)."""
        x = self.x[self.learn]
        return kernels.rff_matvec(points, x, v[:, None], self.frequencies, self.offsets)[:, 0]

    def step(self, k: int) -> str:
        """One iteration; the last one of a split judges it and begins the next."""
        a, r, p = (self.state[n] for n in ("a", "r", "p"))
        q = self.product(self.x[self.learn], p) + self.ridge * p
        rate = (r @ r) / (p @ q)
        a, rest = a + rate * p, r - rate * q
        self.state = {"a": a, "r": rest, "p": rest + ((rest @ rest) / (r @ r)) * p}
        if (k + 1) % ITERATIONS == 0:
            self.judged(a)
            self.begin((k + 1) // ITERATIONS % SPLITS)
        return f"split {k // ITERATIONS + 1}, residual {float(rest.norm()):.1e}"

    def judged(self, a: torch.Tensor) -> None:
        x, y, points, wanted = self.x[self.learn], self.y[self.learn], self.x[self.judge], self.y[self.judge]
        self.errors["features"].append(rmse(y.mean() + self.product(points, a), wanted))
        self.errors["exact"].append(rmse(exact(x, y, points, self.width, self.ridge), wanted))
        self.errors["the mean"].append(rmse(y.mean().expand_as(wanted), wanted))

    def state_dict(self) -> dict[str, Any]:
        return {"errors": {k: list(v) for k, v in self.errors.items()}, **self.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.errors = {k: list(v) for k, v in state["errors"].items()}
        self.begin(len(self.errors["exact"]) % SPLITS)
        self.state = {n: state[n].clone() for n in ("a", "r", "p")}


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("report/examples"), show_default=True)
@click.option("--splits", type=click.IntRange(1, SPLITS), default=SPLITS, show_default=True)
@click.option("--features", type=click.IntRange(1), default=FEATURES, show_default=True)
@click.option("--stop", type=int, default=None, help="Leave off after so many steps; the next run goes on from there.")
def main(out: Path, splits: int, features: int, stop: int | None) -> None:
    solver = Solver(features)
    if not run(NAME, out, {"solver": solver}, splits * ITERATIONS, solver.step, every=ITERATIONS // 2, stop=stop):
        return
    mean = {name: sum(found) / len(found) for name, found in solver.errors.items()}
    report(
        NAME,
        out,
        [
            Line("test RMSE of the features / of the exact kernel", mean["features"] / mean["exact"], "<", 1.02),
            Line("test RMSE of the exact kernel / of the mean", mean["exact"] / mean["the mean"], "<", 1.0),
        ],
        digest({"solver": solver}),
    )


if __name__ == "__main__":
    main()
