"""The formulas of the family metrics: Fréchet distance, losses and perplexities, needle scoring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from trueness.optimized import metrics as fast
from trueness.reference import metrics as true
from trueness.tools.spec.inputs import Made, Real, Scalar
from trueness.tools.spec.model import Case, Formula, Implementation

FRECHET = "Fréchet 1957; Dowson & Landau 1982 eq. 4; Heusel et al. 2017 (1706.08500)"
JELINEK = "Jelinek et al. 1977"
IGNORED = -100
ROOTS = (
    "eigenvectors and singular values are not computed in balls; "
    "scipy.linalg.sqrtm and mpmath with 40 digits (test_frechet.py) are the other oracles"
)


# -- drawn inputs ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Covariance(Real):
    """2^k G Gᵀ with small integers in G (d, r): positive semidefinite, in every format exactly; singular for r < d."""

    expandable = False  # equal rows would leave it neither symmetric nor positive

    def build(self, case: Case, generator: np.random.Generator) -> np.ndarray:
        d = case.sizes["d"]
        factor = generator.integers(-3, 4, (d, generator.integers(1, d + 2)))
        return factor @ factor.T * 2.0 ** round(case.scale)

    def put(self, array: np.ndarray, at: int, number: float) -> np.ndarray | None:
        """The number at both places of a pair; 0 and the smallest numbers, as a variance, with row and column of 0."""
        i, j = np.unravel_index(at, array.shape)
        changed = np.array(array)
        if i == j and abs(number) < array[i, i]:
            changed[i], changed[:, i] = 0.0, 0.0
        changed[i, j] = changed[j, i] = number
        if np.isfinite(changed).all():
            least = float(np.linalg.eigvalsh(changed).min())
            return changed if least >= -len(changed) * np.finfo(float).eps * np.abs(changed).max() else None
        return changed if np.isnan(number) or (i == j and number > 0) else None


def far_means() -> dict[str, tuple[Any, ...]]:
    """Statistics of 130 features whose means are what keeps them apart; the covariances are regular."""
    generator = np.random.default_rng(0)
    means, factors = generator.integers(-8, 9, (2, 130)) * 1.0, generator.integers(-3, 4, (2, 130, 8))
    first, second = (8 * np.eye(130) + factor @ factor.T for factor in factors)
    return {"130 features, means far apart": (means[0], first, means[1], second)}


def labels(known: Mapping[str, Any], generator: np.random.Generator) -> np.ndarray:
    """Tokens of a vocabulary of V, a third of them ignored, the first never."""
    found = generator.integers(0, known["V"], (known["B"], known["L"]))
    ignored = generator.random(found.shape) < 1 / 3
    found[0, 0], ignored[0, 0] = known["V"] - 1 if known["V"] - 1 != known["ignore_index"] else 0, False
    return np.where(ignored, known["ignore_index"], found)


def room(known: Mapping[str, Any], generator: np.random.Generator) -> int:
    """A length of context for the needle, the question, and from none of the haystack up to more than all of it."""
    return int(known["K"] + known["Q"] + known["H"] * known["ninths"] // 9)


def tokens(below: int) -> Any:
    """(K,) counts, at least one token in all."""

    def make(known: Mapping[str, Any], generator: np.random.Generator) -> np.ndarray:
        found = generator.integers(0, below, known["K"])
        found[0] = below - 1
        return found

    return make


def ids(symbol: str, first: int) -> Any:
    """Token ids from ``first`` on, so that a prompt shows the origin of each."""
    return lambda known, generator: first + generator.integers(0, 50, known[symbol])


# -- peers ------------------------------------------------------------------------------------------------------------


def scipy_frechet() -> Any:
    """The trace of scipy.linalg.sqrtm(Σ₁Σ₂), on their common support: of a singular product sqrtm may be NaN.

    With orthonormal U and W of the ranges of Σ₁ and of UᵀΣ₂U, both factors of WᵀUᵀΣ₂U W · WᵀUᵀΣ₁U W are regular, and
    its eigenvalues are those of Σ₁Σ₂ that are not 0.
    """
    from scipy.linalg import orth, sqrtm

    def call(mean_1: Any, covariance_1: Any, mean_2: Any, covariance_2: Any) -> Any:
        one, two = covariance_1.astype(float), covariance_2.astype(float)
        apart = mean_1.astype(float) - mean_2.astype(float)
        first = orth(one)
        inner = first.T @ two @ first
        second = orth(inner)
        common = second.T @ inner @ second @ second.T @ first.T @ one @ first @ second
        root = np.trace(np.asarray(sqrtm(common)).real) if common.size else 0.0
        return mean_1.dtype.type(apart @ apart + np.trace(one) + np.trace(two) - 2 * root)

    return call


def torchmetrics_frechet() -> Any:
    """The kernel of torchmetrics, in float64 and cast at the end, as FrechetInceptionDistance.compute does."""
    from torchmetrics.image.fid import _compute_fid

    return lambda *arguments: _compute_fid(*(a.double() for a in arguments)).to(arguments[0].dtype)


def numpy_covariance(features: Any) -> Any:
    """numpy.mean and numpy.cov, in float64"""
    mean, covariance = np.mean(features, 0, dtype=float), np.atleast_2d(np.cov(features, rowvar=False))
    return mean.astype(features.dtype), covariance.astype(features.dtype)


def torch_covariance(features: Any) -> Any:
    return features.mean(0), torch.cov(features.T).reshape(features.shape[1], features.shape[1])


def torch_losses(logits: Any, labels: Any, ignore_index: int) -> Any:
    flat = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    total = torch.nn.functional.cross_entropy(*flat, ignore_index=ignore_index, reduction="sum")
    return total, (labels != ignore_index).sum()


def torch_cross_entropy(logits: Any, labels: Any, ignore_index: int) -> Any:
    flat = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    return torch.nn.functional.cross_entropy(*flat, ignore_index=ignore_index)


def torchmetrics_perplexity() -> Any:
    from torchmetrics.functional.text import perplexity

    return lambda logits, labels, ignore_index: perplexity(logits, labels, ignore_index=ignore_index)


def torchmetrics_accumulated() -> Any:
    """torchmetrics.text.Perplexity, updated row by row and computed once: the tokens of all batches as one."""
    from torchmetrics.text import Perplexity

    def call(logits: Any, labels: Any, ignore_index: int) -> Any:
        metric = Perplexity(ignore_index=ignore_index)
        for z, w in zip(logits, labels, strict=True):
            metric.update(z[None], w[None])
        return metric.compute()

    return call


def scipy_needle() -> Any:
    from scipy.special import log_softmax
    from scipy.stats import rankdata

    def call(logits: Any, position: Any, answer: Any) -> Any:
        each = np.arange(len(logits))
        score = logits[each, position]
        log_p = log_softmax(score.astype(float), axis=-1)[each, answer]
        return log_p.astype(logits.dtype), rankdata(-score, "max", axis=-1)[each, answer].astype(np.int64)

    return call


# -- declarations -----------------------------------------------------------------------------------------------------


def ours(name: str, *claims: str, **fields: Any) -> Implementation:
    return Implementation("trueness", lambda: getattr(fast, name), claims=frozenset(claims), **fields)


def peer(name: str, load: Any, framework: Any = "torch", *needs: str, **fields: Any) -> Implementation:
    claims = frozenset({"gradient"} if fields.pop("gradient", False) else ())
    return Implementation(
        name,
        load,
        framework,
        limit="eager",
        claims=claims,
        origin="third_party",
        needs=needs,
        dtypes=("float32",),
        only="one dtype is enough for a third party",
        devices=("cpu",),
        **fields,
    )


SIZES = {"B": (2, 3), "L": (3, 4), "V": (3, 5)}
LOGITS = Real("logits", dims=("B", "L", "V"), decades=(-3.0, 0.5), spans=SIZES)
LABELS = Made("labels", make=labels, array=True)
IGNORE = Scalar("ignore_index", st.sampled_from((IGNORED, -1, 2)))  # 2 is a token of every vocabulary
D = {"d": (1, 4)}
FINITE = "NaN and ±inf in a covariance give NaN, in a mean they go through; subnormals count as what they are"
NAN_COUNTS = "NaN and ±inf go through the equation, except at labels that are ignored"

FORMULAS = (
    Formula(
        name="metrics.mean_and_covariance",
        reference=true.mean_and_covariance,
        vjp=true.mean_and_covariance_vjp,
        equation="μ = Σ_i x_i/N,  Σ = Σ_i (x_i − μ)(x_i − μ)ᵀ/(N − 1)",
        source=FRECHET,
        arguments=(Real("features", dims=("N", "d"), decades=(-2.0, 1.0), spans={"N": (2, 6), "d": (1, 4)}),),
        implementations=(
            ours("mean_and_covariance", "gradient", "autocast", "vmap", "compile"),
            peer("numpy", lambda: numpy_covariance, "numpy"),
            peer("torch.cov", lambda: torch_covariance, gradient=True),
        ),
        reduction=lambda sizes: sizes["N"],
        policies={"overflow": "products of bfloat16's largest number overflow float32"},
    ),
    Formula(
        name="metrics.frechet_distance",
        reference=true.frechet_distance,
        no_gradient="a measure, not a loss: the root has no derivative at a singular covariance",
        equation="d² = |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁^½ Σ₂ Σ₁^½)^½)",
        source=FRECHET,
        arguments=(
            Real("mean_1", dims=("d",), decades=(-2.0, 1.0), spans=D),
            Covariance("covariance_1", dims=("d", "d"), spans=D),
            Real("mean_2", dims=("d",), decades=(-2.0, 1.0), spans=D),
            Covariance("covariance_2", dims=("d", "d"), spans=D),
        ),
        implementations=(
            ours("frechet_distance", "autocast"),
            peer("scipy.linalg.sqrtm", scipy_frechet, "numpy", "scipy"),
            peer("torchmetrics", torchmetrics_frechet, "torch", "torchmetrics"),
        ),
        reduction=lambda sizes: 4 * sizes["d"],
        working="float64",
        ball=ROOTS,
        special=FINITE,
        real=far_means,
    ),
    Formula(
        name="metrics.token_losses",
        reference=true.token_losses,
        vjp=true.token_losses_vjp,
        equation="S = −Σ_t log p_t(w_t),  n = #{t : w_t ≠ ignored}",
        source=JELINEK,
        arguments=(LOGITS, LABELS, IGNORE),
        implementations=(
            ours("token_losses", "gradient", "autocast"),
            peer("torch cross_entropy", lambda: torch_losses, gradient=True),
        ),
        reduction=lambda sizes: sizes["B"] * sizes["L"],
        outputs=("dtype", "int64"),
        special=NAN_COUNTS,
    ),
    Formula(
        name="metrics.cross_entropy",
        reference=true.cross_entropy,
        vjp=true.cross_entropy_vjp,
        equation="L = −Σ_t log p_t(w_t)/n",
        source=JELINEK,
        arguments=(LOGITS, LABELS, IGNORE),
        implementations=(
            ours("cross_entropy", "gradient", "autocast", "compile"),
            peer("torch cross_entropy", lambda: torch_cross_entropy, gradient=True),
        ),
        reduction=lambda sizes: sizes["B"] * sizes["L"],
        special=NAN_COUNTS,
    ),
    Formula(
        name="metrics.perplexity",
        reference=true.perplexity,
        vjp=true.perplexity_vjp,
        equation="PPL = exp(−Σ_t log p_t(w_t)/n)",
        source=JELINEK,
        arguments=(LOGITS, LABELS, IGNORE),
        implementations=(
            ours("perplexity", "gradient", "autocast"),
            peer("torchmetrics", torchmetrics_perplexity, "torch", "torchmetrics"),
            peer("torchmetrics, row by row", torchmetrics_accumulated, "torch", "torchmetrics"),
        ),
        reduction=lambda sizes: sizes["B"] * sizes["L"],
        special=NAN_COUNTS,
    ),
    Formula(
        name="metrics.corpus_perplexity",
        reference=true.corpus_perplexity,
        vjp=true.corpus_perplexity_vjp,
        equation="PPL = exp(Σ_k S_k/Σ_k n_k)",
        source=JELINEK,
        arguments=(
            Real("losses", dims=("K",), decades=(-1.0, 1.0), positive=True, spans={"K": (1, 5)}),
            Made("tokens", make=tokens(9), array=True),
        ),
        implementations=(ours("corpus_perplexity", "gradient", "autocast"),),
        reduction=lambda sizes: sizes["K"],
    ),
    Formula(
        name="metrics.needle_score",
        reference=true.needle_score,
        vjp=true.needle_score_vjp,
        equation="log p = z_a − log Σ_v exp z_v,  rank = #{v : not z_v < z_a}, at the needle's position",
        source="log-likelihood of the answer (Jelinek et al. 1977); rank with ties against it",
        arguments=(
            LOGITS,
            Made("position", make=lambda k, g: g.integers(0, k["L"], k["B"]), array=True),
            Made("answer", make=lambda k, g: g.integers(0, k["V"], k["B"]), array=True),
        ),
        implementations=(
            ours("needle_score", "gradient", "autocast"),
            peer(
                "scipy",
                scipy_needle,
                "numpy",
                "scipy",
            ),
        ),
        reduction=lambda sizes: sizes["V"],
        outputs=("dtype", "int64"),
        special="NaN and ±inf go through the log-likelihood; a NaN counts against the answer's rank",
    ),
    Formula(
        name="metrics.needle_prompt",
        reference=true.needle_prompt,
        no_gradient="integers have no derivative",
        equation="h₀ … h_{a−1} needle h_a … h_{k−1} question,  k = min(|h|, n − |needle| − |question|)",
        source="this project: of all parts the haystack alone is cut",
        arguments=(
            Made("haystack", make=ids("H", 0), array=True, spans={"H": (0, 40)}),
            Made("needle", make=ids("K", 100), array=True, spans={"K": (1, 3)}),
            Made("question", make=ids("Q", 200), array=True, spans={"Q": (0, 2)}),
            Made("length", make=room, draws={"ninths": st.integers(0, 12)}),
            Scalar("depth", st.integers(0, 100)),
        ),
        implementations=(ours("needle_prompt", limit="exact"),),
        outputs=("int64", "int64"),
        dtypes=("float64",),
        without=dict.fromkeys(("float32", "float16", "bfloat16"), "integers in, integers out: no dtype enters"),
        special="takes integers only",
    ),
)
