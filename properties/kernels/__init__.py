"""The formulas of the family kernels: kernel matrices, random Fourier features, their frequencies, and Nyström."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from trueness.optimized import kernels as fast
from trueness.properties._lib import digits as _digits
from trueness.properties.kernels import cuda
from trueness.reference import kernels as true
from trueness.tools.spec.inputs import Made, Real, Scalar, Table, shape_of
from trueness.tools.spec.model import Case, Formula, Implementation

RAHIMI = "Rahimi & Recht 2007, Random Features for Large-Scale Kernel Machines"
BOOK = "Rasmussen & Williams 2006, Gaussian Processes for Machine Learning"
DRINEAS = "Drineas & Mahoney 2005 (JMLR 6:2153) Thm 3"
SPANS = {"n": (2, 4), "m": (2, 4), "d": (1, 3), "D": (6, 8), "p": (4, 5)}


# -- what is drawn ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawn(Real):
    """A tensor in the dtype under test with elements from ``law(generator, shape)``, whatever the case's scale."""

    law: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray] = lambda generator, shape: np.zeros(shape)

    def build(self, case: Case, generator: np.random.Generator) -> np.ndarray:
        return self.law(generator, shape_of(self.dims, case))


def spans(*dims: Any) -> dict[str, tuple[int, int]]:
    return {d: SPANS[d] for d in dims if isinstance(d, str)}


def points(name: str, rows: str) -> Real:
    """So near to each other that no kernel is lost in bfloat16: the discriminating inputs are farther apart."""
    return Real(name, dims=(rows, "d"), decades=(-2.0, -0.5), spans=spans(rows, "d"))


def normal(name: str, *dims: Any, gradient: bool = True) -> Real:
    return Real(name, dims=dims, unit_scale=True, gradient=gradient, spans=spans(*dims))


def drawn(name: str, law: Any, *dims: Any, gradient: bool = False) -> Drawn:
    return Drawn(name, dims=dims, law=law, gradient=gradient, spans=spans(*dims))


def inside(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform on (0.03, 0.97): at the ends the quantiles are infinite."""
    return 0.03 + 0.94 * generator.random(shape)


def turns(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return 2 * np.pi * generator.random(shape)


EPSILON = Scalar("epsilon", st.sampled_from((1.0, 0.8, 3.0)))
PAIR = (points("x", "n"), points("y", "m"))
V = normal("v", "m", "p")
FREQUENCIES, OFFSETS = normal("frequencies", "d", "D"), drawn("offsets", turns, "D", gradient=True)
COUNTS = Made(
    "counts",
    make=lambda known, generator: tuple(known["counts"]),
    draws={"counts": st.sampled_from([(6,), (2, 5), (4, 3), (3, 2, 2)])},
)


def total(known: Mapping[str, Any]) -> int:
    return int(sum(known["counts"]))


def power(known: Mapping[str, Any]) -> int:
    """The power of two that holds d."""
    return 1 << (int(known["d"]) - 1).bit_length()


def shares(known: Mapping[str, Any], generator: np.random.Generator) -> np.ndarray:
    """w_s, unequal and summing to 1."""
    weights = 0.5 + generator.random(len(known["counts"]))
    return weights / weights.sum()


SCALES = (
    drawn("frequencies", lambda generator, shape: generator.standard_normal(shape), "d", total, gradient=True),
    drawn("offsets", turns, total, gradient=True),
    Made("weights", make=shares, array=True),
    COUNTS,
)


def widest(*symbols: str) -> Callable[[Mapping[str, Any]], int]:
    """The sum of these lengths: as many terms as are added up one after the other."""
    return lambda sizes: sum(int(sizes.get(s, 8)) for s in symbols)


# -- measured data ----------------------------------------------------------------------------------------------------


def real(*names: str) -> Callable[[], Mapping[str, Sequence[Any]]]:
    """Handwritten digits in [−1, 1]⁶⁴, six and five of them, and 40 features."""

    def load() -> Mapping[str, Sequence[Any]]:
        if not _digits.available():
            return {}
        pixels, generator = _digits.digits()[:11].reshape(11, 64), np.random.default_rng(0)
        known = {
            "x": pixels[:6],
            "y": pixels[6:],
            "v": generator.standard_normal((5, 3)),
            "epsilon": 5.0,
            "gaussian": "gaussian",
            "frequencies": generator.standard_normal((64, 40)) / 5,
            "offsets": turns(generator, (40,)),
        }
        return {"digits": [known[n] for n in names]}

    return load


# -- third-party software ---------------------------------------------------------------------------------------------

DOUBLE = "it computes in float64; rounded once, it is told apart from right only in float32"
RECORDS = {"red zones": "scikit-learn allocates records inside, whose guards are no numbers to compare"}
REFUSES = {"special values": "scikit-learn refuses NaN and infinity"}


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
    return peer(f"scikit-learn {name}", call, "sklearn", waived={**REFUSES, **fields.pop("waived", {})}, **fields)


def scipy(name: str, call: Any, **fields: Any) -> Implementation:
    return peer(f"scipy {name}", call, "scipy", **fields)


def rbf_kernel(x: Any, y: Any, epsilon: float) -> Any:
    from sklearn.metrics.pairwise import rbf_kernel as kernel

    return kernel(x, y, gamma=1 / (2 * epsilon**2))


def laplacian_kernel(x: Any, y: Any, epsilon: float) -> Any:
    from sklearn.metrics.pairwise import laplacian_kernel as kernel

    return kernel(x, y, gamma=1 / epsilon)


def process(name: str, scale: float = 1.0, **options: Any) -> Any:
    """A kernel of sklearn.gaussian_process with length scale ε · scale."""

    def call(x: Any, y: Any, epsilon: float, *nu: float) -> Any:
        from sklearn.gaussian_process import kernels

        given = {"nu": nu[0]} if nu else options
        return getattr(kernels, name)(length_scale=epsilon * scale, **given)(x, y)

    return call


def cdist(metric: str, profile: Callable[[Any, float], Any]) -> Any:
    def call(x: Any, y: Any, epsilon: float) -> Any:
        from scipy.spatial import distance

        return profile(distance.cdist(x, y, metric), epsilon)

    return call


def cauchy_density(x: Any, y: Any, epsilon: float) -> Any:
    from scipy import stats

    return np.prod(np.pi * stats.cauchy.pdf((x[:, None] - y[None]) / epsilon), -1)


def bessel(x: Any, y: Any, epsilon: float, nu: float) -> Any:
    """2^{1−ν}/Γ(ν) s^ν K_ν(s): Matérn for every ν, R. & W. 2006 eq. 4.14; 1 at s = 0"""
    from scipy import special
    from scipy.spatial import distance

    s = math.sqrt(2 * nu) * distance.cdist(x, y) / epsilon
    with np.errstate(invalid="ignore"):
        return np.where(s == 0, 1.0, 2 ** (1 - nu) / special.gamma(nu) * s**nu * special.kv(nu, s))


def sampler(x: Any, frequencies: Any, offsets: Any) -> Any:
    """RBFSampler with the given frequencies and offsets in place of its own."""
    from sklearn.kernel_approximation import RBFSampler

    made = RBFSampler(n_components=len(offsets)).fit(x)
    made.random_weights_, made.random_offset_ = frequencies, offsets
    return made.transform(x)


def nystroem_features(x: Any, landmarks: Any, epsilon: float, reg: float) -> Any:
    """The feature map of Nystroem on given kernel values: K_xm (K_mm + λ I)^{−1/2}, up to a rotation."""
    from sklearn.kernel_approximation import Nystroem

    square = rbf_kernel(landmarks, landmarks, epsilon) + reg * np.eye(len(landmarks))
    made = Nystroem(kernel="precomputed", n_components=len(landmarks), random_state=0).fit(square)
    return made.transform(rbf_kernel(x, landmarks, epsilon))


def nystroem(x: Any, landmarks: Any, epsilon: float, reg: float) -> Any:
    found = nystroem_features(x, landmarks, epsilon, reg)
    return found @ found.T


def quantile(law: str) -> Any:
    def call(uniform: Any, epsilon: float) -> Any:
        from scipy import stats

        return getattr(stats, law).ppf(uniform, scale=1 / epsilon)

    return call


def householder(blocks: Any, radii: Any, epsilon: float) -> Any:
    from scipy import linalg

    pairs = [linalg.qr(block) for block in blocks]
    columns = [q * np.where(np.diag(r) < 0, -1.0, 1.0) for q, r in pairs]
    return np.concatenate(columns, axis=1)[:, : len(radii)] * radii / epsilon


# -- declarations -----------------------------------------------------------------------------------------------------

TOO_FAR = "an angle of 10³⁸ leaves float32, in which bfloat16 is computed; its cosine would have no digit right anyway"
ANGLES = {"special values bfloat16": TOO_FAR}
NO_FACTOR = {"special values": "a landmark that is no number leaves no Cholesky factor, and is refused in one sentence"}
WHOLE_BLOCK = {
    "special values": "NaN spreads over its whole block, as in LAPACK's QR; Gram-Schmidt spares what is before it"
}
NOT_LEARNED = "frequencies are drawn once and not learned"
COMPOSED = "differentiable by torch.autograd through its Cholesky factor; no backward of ours to prove"
HALVES = ("float16", "bfloat16")
NUMBERS = "a table of numbers of points, made once and not learned"


def ours(name: str, *claims: str, **fields: Any) -> Implementation:
    return Implementation("trueness", lambda: getattr(fast, name), claims=frozenset(claims), **fields)


def formula(name: str, *arguments: Any, peers: Any = (), claims: Any = ("gradient",), **fields: Any) -> Formula:
    waived = fields.pop("waived", {})
    if "no_gradient" in fields:
        claims = tuple(c for c in claims if c != "gradient")
    else:
        fields["vjp"] = getattr(true, f"{name}_vjp")
    return Formula(
        name=f"kernels.{name}",
        reference=getattr(true, name),
        arguments=arguments,
        implementations=(ours(name, *claims, waived=waived), *peers),
        **fields,
    )


def matrix(name: str, equation: str, source: str, *extra: Any, **fields: Any) -> Formula:
    return formula(
        name,
        *PAIR,
        EPSILON,
        *extra,
        equation=equation,
        source=source,
        reduction=widest("d"),
        gradient_reduction=widest("n", "m", "d"),
        **fields,
    )


def frequency(name: str, equation: str, source: str, *arguments: Any, **fields: Any) -> Formula:
    return formula(name, *arguments, equation=equation, source=source, no_gradient=NOT_LEARNED, claims=(), **fields)


def rate(name: str, equation: str, source: str, *arguments: Any) -> Formula:
    return formula(
        name,
        *arguments,
        equation=equation,
        source=source,
        no_gradient=NUMBERS,
        claims=(),
        working="float64",
        creates=True,
    )


def whole_numbers(name: str) -> Table:
    return Table(name, make=lambda length: 3.0 * np.arange(1, length + 1) ** 2, draws={"length": st.integers(2, 6)})


G, G_0 = normal("normal", "d", "D", gradient=False), normal("denominator", "D", gradient=False)
U = drawn("uniform", inside, "d", "D")
LANDMARKS = (points("x", "n"), points("landmarks", "m"), EPSILON, Scalar("reg", st.sampled_from((1.0, 0.5))))
DELTA, POINTS = Scalar("delta", st.sampled_from((0.05, 0.3))), Scalar("points", st.integers(10, 1000))
NU = Scalar("nu", st.sampled_from((0.5, 1.5, 2.5)))

FORMULAS = (
    matrix(
        "gaussian",
        "K_ij = exp(−‖x_i − y_j‖²/(2 ε²))",
        f"{RAHIMI}, Fig. 1",
        claims=("gradient", "compile", "autocast", "vmap"),
        peers=(
            sklearn("rbf_kernel", rbf_kernel),
            sklearn("GP RBF", process("RBF")),
            scipy("cdist", cdist("sqeuclidean", lambda square, epsilon: np.exp(-square / (2 * epsilon**2)))),
        ),
        real=real("x", "y", "epsilon"),
    ),
    matrix(
        "laplacian_l1",
        "K_ij = exp(−‖x_i − y_j‖₁/ε)",
        f"{RAHIMI}, Fig. 1",
        peers=(
            sklearn("laplacian_kernel", laplacian_kernel),
            scipy("cdist", cdist("cityblock", lambda r, epsilon: np.exp(-r / epsilon))),
        ),
        real=real("x", "y", "epsilon"),
    ),
    matrix(
        "laplacian_l2",
        "K_ij = exp(−‖x_i − y_j‖₂/ε)",
        f"{BOOK} eq. 4.18",
        peers=(
            sklearn("GP Matern", process("Matern", nu=0.5)),
            scipy("cdist", cdist("euclidean", lambda r, epsilon: np.exp(-r / epsilon))),
            sklearn("laplacian_kernel", laplacian_kernel, convention="ATLAS-22d"),
        ),
        real=real("x", "y", "epsilon"),
    ),
    matrix(
        "cauchy_product",
        "K_ij = ∏_k 1/(1 + ((x_ik − y_jk)/ε)²)",
        f"{RAHIMI}, Fig. 1",
        peers=(scipy("Cauchy density", cauchy_density),),
    ),
    matrix(
        "cauchy_radial",
        "K_ij = 1/(1 + ‖x_i − y_j‖²/ε²)",
        f"{BOOK} eq. 4.19 with α = 1",
        peers=(sklearn("GP RationalQuadratic", process("RationalQuadratic", 0.5**0.5, alpha=1.0)),),
        real=real("x", "y", "epsilon"),
    ),
    matrix(
        "matern",
        "K_ij = e^{−s} p(s),  s = √(2ν) r/ε,  p = 1, 1 + s, 1 + s + s²/3",
        f"{BOOK} eq. 4.16-4.18",
        NU,
        peers=(
            sklearn("GP Matern", process("Matern")),
            scipy("Bessel K", bessel, waived={"special values": "∞ · K_ν(∞) = ∞ · 0 is NaN"}),
        ),
    ),
    formula(
        "kernel_matvec",
        *PAIR,
        V,
        Scalar("kernel", st.sampled_from(tuple(true.KERNELS))),
        EPSILON,
        equation="u = K(x, y) v",
        source="the definition",
        reduction=widest("m", "d"),
        gradient_reduction=widest("n", "m", "d", "p"),
        claims=("gradient", "autocast"),
        real=real("x", "y", "v", "gaussian", "epsilon"),
    ),
    formula(
        "features",
        points("x", "n"),
        FREQUENCIES,
        OFFSETS,
        equation="φ(x) = √(2/D) cos(x W + b)",
        source=f"{RAHIMI}, Alg. 1",
        reduction=widest("d"),
        gradient_reduction=widest("n", "d", "D"),
        claims=("gradient", "compile", "autocast", "vmap", "out"),
        waived=ANGLES,
        peers=(cuda.FEATURES, sklearn("RBFSampler", sampler)),
        real=real("x", "frequencies", "offsets"),
    ),
    formula(
        "features_paired",
        points("x", "n"),
        FREQUENCIES,
        equation="φ(x) = √(2/D) [cos(x W), sin(x W)]",
        source="Sutherland & Schneider 2015 (1506.02785) eq. 1",
        reduction=widest("d"),
        gradient_reduction=widest("n", "d", "D"),
        claims=("gradient", "autocast", "out"),
        waived=ANGLES,
        peers=(cuda.FEATURES_PAIRED,),
    ),
    formula(
        "features_multiscale",
        points("x", "n"),
        *SCALES,
        equation="φ(x) = [√(2 w_s/D_s) cos(x W_s + b_s)]_s",
        source=f"{RAHIMI}, Alg. 1, for a convex sum of kernels",
        reduction=widest("d"),
        gradient_reduction=widest("n", "d", "D"),
        claims=("gradient", "autocast", "out"),
        waived=ANGLES,
        peers=(cuda.FEATURES_MULTISCALE,),
    ),
    formula(
        "gram",
        *PAIR,
        FREQUENCIES,
        OFFSETS,
        equation="K̂ = φ(x) φ(y)ᵀ",
        source=f"{RAHIMI}, Alg. 1",
        reduction=widest("d", "D"),
        gradient_reduction=widest("n", "m", "d", "D"),
        claims=("gradient", "autocast", "out"),
        waived=ANGLES,
        peers=(
            cuda.GRAM,
            sklearn("RBFSampler", lambda x, y, *drawn: sampler(x, *drawn) @ sampler(y, *drawn).T),
        ),
    ),
    formula(
        "matvec",
        *PAIR,
        V,
        FREQUENCIES,
        OFFSETS,
        equation="u = φ(x) (φ(y)ᵀ v)",
        source=f"{RAHIMI}, Alg. 1",
        reduction=widest("m", "d", "D"),
        gradient_reduction=widest("n", "m", "d", "D", "p"),
        claims=("gradient", "compile", "autocast", "out"),
        waived=ANGLES,
        peers=(
            cuda.MATVEC,
            sklearn("RBFSampler", lambda x, y, v, *drawn: sampler(x, *drawn) @ (sampler(y, *drawn).T @ v)),
        ),
        real=real("x", "y", "v", "frequencies", "offsets"),
    ),
    formula(
        "matvec_multiscale",
        *PAIR,
        V,
        *SCALES,
        equation="u = φ(x) (φ(y)ᵀ v),  φ of several scales",
        source=f"{RAHIMI}, Alg. 1, for a convex sum of kernels",
        reduction=widest("m", "d", "D"),
        gradient_reduction=widest("n", "m", "d", "D", "p"),
        claims=("gradient", "autocast", "out"),
        waived=ANGLES,
        peers=(cuda.MATVEC_MULTISCALE,),
    ),
    formula(
        "structured_features",
        points("x", "n"),
        Drawn(
            "signs",
            dims=(lambda known: 2, lambda known: 3, power),
            law=lambda generator, shape: 1.0 - 2.0 * generator.integers(0, 2, shape),
            gradient=False,
            spans=spans("d"),
        ),
        Drawn(
            "offsets",
            dims=(lambda known: 2 * power(known) - known["less"],),
            law=turns,
            spans={"d": (2, 5), "less": (0, 1)},
        ),
        EPSILON,
        equation="φ(x) = √(2/D) cos(z + b),  z_b = √q/ε · H D_b3 H D_b2 H D_b1 x̃",
        source="Yu et al. 2016 (1610.09072) eq. 6",
        reduction=widest("d"),
        gradient_reduction=widest("n", "d", "D"),
        claims=("gradient", "compile", "autocast", "out"),
        waived=ANGLES,
    ),
    rate(
        "features_error_bound",
        "t = √(8 ln(2 n²/δ)/D)",
        "Hoeffding 1963 Thm 2 and the union bound over n² pairs",
        whole_numbers("counts"),
        POINTS,
        DELTA,
    ),
    frequency("gaussian_frequencies", "ω = g/ε", f"{RAHIMI}, Fig. 1", G, EPSILON),
    frequency(
        "laplacian_l1_frequencies",
        "ω = −cot(π u)/ε",
        f"{RAHIMI}, Fig. 1",
        U,
        EPSILON,
        waived={
            f"special values {half}": "draws lie in (0, 1); far outside the cotangent has no digit" for half in HALVES
        },
        peers=(
            scipy("stats.cauchy.ppf", quantile("cauchy"), waived={"special values": "ppf is NaN outside of [0, 1]"}),
        ),
    ),
    frequency("laplacian_l2_frequencies", "ω = g/(g_0 ε)", f"{BOOK} eq. 4.15 with ν = 1/2", G, G_0, EPSILON),
    frequency(
        "cauchy_product_frequencies",
        "ω = ln(2 u)/ε for u < 1/2, else −ln(2 (1 − u))/ε",
        f"{RAHIMI}, Fig. 1",
        U,
        EPSILON,
        peers=(
            scipy("stats.laplace.ppf", quantile("laplace"), waived={"special values": "ppf is NaN outside of [0, 1]"}),
        ),
    ),
    frequency(
        "cauchy_radial_frequencies",
        "ω = √(2 u) g/ε",
        "1/(1 + r²) = ∫ e^{−u} e^{−u r²} du: a mixture of Gaussians",
        G,
        drawn("exponential", lambda generator, shape: generator.exponential(size=shape), "D"),
        EPSILON,
    ),
    frequency(
        "matern_frequencies",
        "ω = g √(2ν/c)/ε",
        f"{BOOK} eq. 4.15",
        G,
        drawn("chi_square", lambda generator, shape: generator.chisquare(3, shape), "D"),
        EPSILON,
        NU,
    ),
    frequency(
        "orthogonal_frequencies",
        "W = [Q_1, Q_2, …] diag(ρ)/ε",
        "Yu et al. 2016 (1610.09072) eq. 4-5",
        normal("blocks", lambda sizes: 2, lambda sizes: sizes["d"], lambda sizes: sizes["d"], gradient=False),
        Drawn(
            "radii",
            dims=(lambda sizes: 2 * sizes["d"] - sizes["less"],),
            law=lambda generator, shape: 0.5 + np.abs(generator.standard_normal(shape)),
            gradient=False,
            spans={"d": (2, 4), "less": (0, 1)},
        ),
        EPSILON,
        reduction=widest("d"),
        waived=WHOLE_BLOCK,
        peers=(scipy("linalg.qr", householder, waived=WHOLE_BLOCK),),
    ),
    formula(
        "nystrom_features",
        *LANDMARKS,
        equation="F = K_xm L⁻ᵀ,  L Lᵀ = K_mm + λ I",
        source="Williams & Seeger 2001",
        reduction=widest("m", "d"),
        no_gradient=COMPOSED,
        waived=NO_FACTOR,
    ),
    formula(
        "nystrom",
        *LANDMARKS,
        equation="K̃ = K_xm (K_mm + λ I)⁻¹ K_mx",
        source="Williams & Seeger 2001",
        reduction=widest("m", "d"),
        no_gradient=COMPOSED,
        waived=NO_FACTOR,
        peers=(sklearn("Nystroem", nystroem, waived=RECORDS),),
    ),
    formula(
        "nystrom_matvec",
        *LANDMARKS[:2],
        normal("v", "n", "p"),
        *LANDMARKS[2:],
        equation="u = K_xm (K_mm + λ I)⁻¹ (K_mx v)",
        source="Williams & Seeger 2001",
        reduction=widest("m", "d", "n"),
        no_gradient=COMPOSED,
        waived=NO_FACTOR,
    ),
    formula(
        "nystrom_trace_bound",
        *LANDMARKS,
        equation="tr(K − K̃) = Σ_i (1 − ‖F_i‖²) ≥ ‖K − K̃‖₂",
        source="the trace of a positive semidefinite matrix",
        reduction=widest("m", "d", "n"),
        no_gradient=COMPOSED,
        waived=NO_FACTOR,
    ),
    rate("nystrom_rate", "1/√m: a rate and not a bound", f"{DRINEAS}, up to its constant", whole_numbers("landmarks")),
    rate("drineas_mahoney_spectral", "2 η n/√m", DRINEAS, whole_numbers("landmarks"), POINTS, DELTA),
    rate(
        "drineas_mahoney_frobenius",
        "n (64 k η²/m)^{1/4}",
        DRINEAS,
        whole_numbers("landmarks"),
        POINTS,
        Scalar("rank", st.integers(1, 5)),
        DELTA,
    ),
)
