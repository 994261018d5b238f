"""Pairs of the family kernels: products with random features, their gradients, features, structured features.

A product needs all points of y: its first rows are judged, and of its gradients the first rows of the gradient by x,
which need all of y, v, W and b as well. Features are judged in their first rows. scikit-learn is given the frequencies
and offsets in place of its own; gpytorch's RFFKernel computes cosine and sine, half the product for as many features,
so that it is a peer of the paired features and times another formula elsewhere.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from comparisons.harness import Call, Comparison, Contender
from trueness.optimized import kernels as fast
from trueness.tools.spec import registry

MANY = {"n": 16384, "d": 64, "D": 1024, "p": 8}
FLAT = {"n": 65536, "d": 2, "D": 512, "p": 1}
SIGNED = {"n": 1024, "d": 3072, "D": 8192}
EIGHT_MEBIBYTES = 8 << 20
JUDGED = 4


def points(size: dict[str, int], generator: np.random.Generator) -> np.ndarray:
    return generator.standard_normal((size["n"], size["d"]))


def frequencies(size: dict[str, int], generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Of a Gaussian kernel as wide as the cloud, and offsets."""
    w = generator.standard_normal((size["d"], size["D"])) / math.sqrt(size["d"])
    return w, 2 * np.pi * generator.random(size["D"])


def product(size: dict[str, int], gradient: bool) -> Any:
    def make(generator: np.random.Generator) -> list[Any]:
        v, cotangent = (generator.standard_normal((size["n"], size["p"])) for _ in range(2))
        drawn = [points(size, generator), points(size, generator), v, *frequencies(size, generator)]
        return [cotangent, *drawn] if gradient else drawn

    return make


def plain(size: dict[str, int], offset: bool = True) -> Any:
    def make(generator: np.random.Generator) -> list[Any]:
        w, b = frequencies(size, generator)
        return [points(size, generator), w, b] if offset else [points(size, generator), w]

    return make


def structured(generator: np.random.Generator) -> list[Any]:
    d, features = SIGNED["d"], SIGNED["D"]
    q = 1 << (d - 1).bit_length()
    signs = 1.0 - 2.0 * generator.integers(0, 2, (features // q, 3, q))
    x = points(SIGNED, generator)
    return [x, signs, 2 * np.pi * generator.random(features), math.sqrt(d)]


def rows(count: int, gradient: bool = False) -> Any:
    """The first points of x; of gradients the one by x alone."""

    def part(values: list[Any]) -> tuple[list[Any], Any]:
        first = 2 if gradient else 1
        few = [v[:count] if i < first else v for i, v in enumerate(values)]
        return few, lambda outs: [outs[0][:count], *(None for _ in outs[1:])]

    return part


# -- ours -------------------------------------------------------------------------------------------------------------


def ours(name: str, reuse: bool) -> Any:
    """The call; ``reuse`` writes to the same memory every time, as a loop would."""

    def prepare(*given: Any) -> Call:
        function = registry.formula(f"kernels.{name}").bind(getattr(fast, name))
        if not reuse:
            return lambda: function(*given)
        out = torch.empty_like(function(*given))
        return lambda: function(*given, out=out)

    return prepare


def pulled(function: Any) -> Any:
    """Value and gradients of a product."""

    def prepare(cotangent: Any, *given: Any) -> Call:
        leaves = [t.requires_grad_() for t in given]
        return lambda: torch.autograd.grad(function(*leaves), leaves, cotangent)

    return prepare


# -- who else computes it ---------------------------------------------------------------------------------------------


def eager_features(x: Any, w: Any, b: Any) -> Any:
    return torch.cos(x @ w + b) * math.sqrt(2 / w.shape[1])


def eager_paired(x: Any, w: Any) -> Any:
    z = x @ w
    return torch.cat([torch.cos(z), torch.sin(z)], -1) * math.sqrt(1 / w.shape[1])


def eager_product(x: Any, y: Any, v: Any, w: Any, b: Any) -> Any:
    return eager_features(x, w, b) @ (eager_features(y, w, b).T @ v)


def called(function: Any) -> Any:
    return lambda *given: lambda: function(*given)


def compiled(function: Any, wrap: Any) -> Any:
    def prepare(*given: Any) -> Call:
        call: Call = wrap(torch.compile(function))(*given)
        call()
        return call

    return prepare


def sampler(w: Any, b: Any) -> Any:
    from sklearn.kernel_approximation import RBFSampler

    made = RBFSampler(n_components=len(b)).fit(np.zeros((1, len(w)), np.float32))
    made.random_weights_, made.random_offset_ = w.numpy(), b.numpy()
    return made


def sklearn_features(x: Any, w: Any, b: Any) -> Call:
    made, points = sampler(w, b), x.numpy()
    return lambda: torch.from_numpy(made.transform(points))


def sklearn_product(x: Any, y: Any, v: Any, w: Any, b: Any) -> Call:
    made, left, right, vectors = sampler(w, b), x.numpy(), y.numpy(), v.numpy()
    return lambda: torch.from_numpy(made.transform(left) @ (made.transform(right).T @ vectors))


def rff_kernel(w: Any) -> Any:
    import gpytorch

    made = gpytorch.kernels.RFFKernel(num_samples=w.shape[1], num_dims=w.shape[0])
    made.randn_weights = w
    made.lengthscale = 1.0
    return made


def gpytorch_paired(x: Any, w: Any) -> Call:
    made = rff_kernel(w)

    def call() -> Any:
        with torch.no_grad():
            return made._featurize(x, normalize=True)

    return call


def gpytorch_product(x: Any, y: Any, v: Any, w: Any, b: Any) -> Call:
    """As many features, half of them sines, of half as many frequencies."""
    made = rff_kernel(w[:, : w.shape[1] // 2].contiguous())

    def call() -> Any:
        with torch.no_grad():
            return made._featurize(x, normalize=True) @ (made._featurize(y, normalize=True).T @ v)

    return call


def dense(x: Any, signs: Any, offsets: Any, lengthscale: float) -> Call:
    """Features with as many frequencies that have no structure."""
    w = torch.randn(x.shape[1], offsets.shape[0], generator=torch.Generator().manual_seed(0)) / lengthscale
    out = torch.empty(x.shape[0], offsets.shape[0])
    return lambda: fast.rff_features(x, w, offsets, out=out)


def compiler() -> tuple[str, ...]:
    """torch.compile on the CPU calls a C++ compiler when it runs."""
    import shutil

    return () if shutil.which("g++") or shutil.which("clang++") else ("a_compiler",)


EAGER, SKLEARN, COMPILE, GPYTORCH = "torch eager", "scikit-learn", "torch.compile", "gpytorch"


def sides(eager: Any, sklearn: Any, gpytorch: Any = None, judged: bool = True) -> tuple[Contender, ...]:
    found = [Contender(EAGER, called(eager))]
    if sklearn is not None:
        found.append(Contender(SKLEARN, sklearn, needs=("sklearn",)))
    found.append(Contender(COMPILE, compiled(eager, called), needs=compiler()))
    if gpytorch is not None:
        found.append(Contender(GPYTORCH, gpytorch, needs=("gpytorch",), judged=judged))
    return tuple(found)


def gradients() -> tuple[Contender, ...]:
    return Contender(EAGER, pulled(eager_product)), Contender(
        COMPILE, compiled(eager_product, pulled), needs=compiler()
    )


def text(size: dict[str, int]) -> str:
    return f"{size['n']}×{size['d']}, D {size['D']}, p {size['p']}"


COMPARISONS = (
    *(
        Comparison(
            f"matvec {text(size)}",
            formula="kernels.rff_matvec",
            arguments=product(size, gradient=False),
            ours=Contender("trueness", ours("rff_matvec", reuse=False)),
            peers=sides(eager_product, sklearn_product, gpytorch_product, judged=False),
            goals=goals,
            extra=EIGHT_MEBIBYTES,
            part=rows(JUDGED),
        )
        for size, goals in (
            (MANY, {(SKLEARN, 1): 1.9, (SKLEARN, 2): 3.0, (EAGER, 1): 6.0}),
            (FLAT, {(SKLEARN, 1): 1.9, (SKLEARN, 2): 3.0, (EAGER, 1): 6.0}),
        )
    ),
    *(
        Comparison(
            f"matvec, forward and backward, {text(size)}",
            formula="kernels.rff_matvec",
            arguments=product(size, gradient=True),
            ours=Contender("trueness", pulled(fast.rff_matvec)),
            peers=gradients(),
            goals={(EAGER, 1): 3.5},
            gradient=True,
            part=rows(JUDGED, gradient=True),
        )
        for size in (MANY, FLAT)
    ),
    Comparison(
        f"features with out= {MANY['n']}×{MANY['d']} → {MANY['D']}",
        formula="kernels.rff_features",
        arguments=plain(MANY),
        ours=Contender("trueness", ours("rff_features", reuse=True)),
        peers=sides(eager_features, sklearn_features),
        goals={(SKLEARN, 1): 1.7, (SKLEARN, 2): 1.7},
        part=rows(JUDGED),
    ),
    Comparison(
        f"paired features with out= {MANY['n']}×{MANY['d']} → {MANY['D']}",
        formula="kernels.rff_features_paired",
        arguments=plain({**MANY, "D": MANY["D"] // 2}, offset=False),
        ours=Contender("trueness", ours("rff_features_paired", reuse=True)),
        peers=sides(eager_paired, None, gpytorch_paired),
        part=rows(JUDGED),
    ),
    Comparison(
        f"structured features with out= {SIGNED['n']}×{SIGNED['d']} → {SIGNED['D']}",
        formula="kernels.structured_features",
        arguments=structured,
        ours=Contender("trueness", ours("structured_features", reuse=True)),
        peers=(Contender("dense features", dense, judged=False),),
        goals={("dense features", 1): 4.0},
        part=rows(1),
    ),
)
