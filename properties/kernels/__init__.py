"""The formulas of the family kernels: kernel matrices, random Fourier features, their frequencies, and Nyström."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from trueness.optimized import kernels as fast
from trueness.properties.kernels import cuda
from trueness.properties.kernels.inputs import (
    FREQUENCIES,
    LENGTHSCALE,
    OFFSETS,
    PAIR,
    SCALES,
    Drawn,
    V,
    drawn,
    inside,
    normal,
    points,
    power,
    real,
    spans,
    turns,
    widest,
)
from trueness.properties.kernels.peers import (
    bessel,
    cauchy_density,
    cdist,
    householder,
    laplacian_kernel,
    nystroem,
    process,
    quantile,
    rbf_kernel,
    sampler,
    scipy,
    sklearn,
)
from trueness.reference import kernels as true
from trueness.tools.spec.inputs import Real, Scalar, Table
from trueness.tools.spec.model import Formula, Implementation

RAHIMI = "Rahimi & Recht 2007, Random Features for Large-Scale Kernel Machines"
BOOK = "Rasmussen & Williams 2006, Gaussian Processes for Machine Learning"
DRINEAS = "Drineas & Mahoney 2005 (JMLR 6:2153) Thm 3"


# -- declarations -----------------------------------------------------------------------------------------------------

TOO_FAR = "an angle of 10³⁸ leaves float32, in which bfloat16 is computed; its cosine would have no digit right anyway"
ANGLES = {"overflow": TOO_FAR}
NO_FACTOR = {"refuses": "a landmark that is no number leaves no Cholesky factor, and is refused in one sentence"}
WHOLE_BLOCK = dict.fromkeys(
    ("masked", "spread", "limit", "overflow"),
    "NaN spreads over its whole block, as in LAPACK's QR; Gram-Schmidt spares what is before it",
)
LAST_BLOCK = {"less": "how many frequencies the last block lacks: fewer than a block has"}
PRODUCTS = {"overflow": "products of bfloat16's largest number overflow float32"}
NOT_LEARNED = "frequencies are drawn once and not learned"
COMPOSED = "differentiable by torch.autograd through its Cholesky factor; no backward of ours to prove"
HALVES = ("float16", "bfloat16")
NUMBERS = "a table of numbers of points, made once and not learned"


def ours(name: str, *claims: str, **fields: Any) -> Implementation:
    return Implementation("trueness", lambda: getattr(fast, name), claims=frozenset(claims), **fields)


def formula(name: str, *arguments: Any, peers: Any = (), claims: Any = ("gradient",), **fields: Any) -> Formula:
    if "no_gradient" in fields and not fields.get("complex_step"):
        claims = tuple(c for c in claims if c != "gradient")
    elif "no_gradient" not in fields:
        fields["vjp"] = getattr(true, f"{name}_vjp")
    return Formula(
        name=f"kernels.{name}",
        reference=getattr(true, name),
        arguments=arguments,
        implementations=(ours(name, *claims), *peers),
        **fields,
    )


def matrix(name: str, equation: str, source: str, *extra: Any, **fields: Any) -> Formula:
    return formula(
        name,
        *PAIR,
        LENGTHSCALE,
        *extra,
        equation=equation,
        source=source,
        reduction=widest("d"),
        gradient_reduction=widest("n", "m", "d"),
        **fields,
    )


def frequency(name: str, equation: str, source: str, *arguments: Any, **fields: Any) -> Formula:
    return formula(name, *arguments, equation=equation, source=source, no_gradient=NOT_LEARNED, claims=(), **fields)


def rate(name: str, equation: str, source: str, *arguments: Any, **fields: Any) -> Formula:
    return formula(
        name,
        *arguments,
        equation=equation,
        source=source,
        no_gradient=NUMBERS,
        claims=(),
        working="float64",
        creates=True,
        **fields,
    )


def whole_numbers(name: str) -> Table:
    return Table(name, make=lambda length: 3.0 * np.arange(1, length + 1) ** 2, draws={"length": st.integers(2, 6)})


G, G_0 = normal("normal", "d", "D", gradient=False), normal("denominator", "D", gradient=False)
U = replace(drawn("uniform", inside, "d", "D"), domain=(0.0, 1.0))
REG = Scalar("reg", st.sampled_from((1.0, 0.5)), far=(0.1, 8.0))
LANDMARKS = (points("x", "n"), points("landmarks", "m"), LENGTHSCALE, REG)
DELTA, POINTS = Scalar("delta", st.sampled_from((0.05, 0.3))), Scalar("points", st.integers(10, 1000), far=(100_000,))
NU = Scalar("nu", st.sampled_from((0.5, 1.5, 2.5)))

FORMULAS = (
    matrix(
        "gaussian",
        "K_ij = exp(−‖x_i − y_j‖²/(2 ℓ²))",
        f"{RAHIMI}, Fig. 1",
        claims=("gradient", "compile", "autocast", "vmap"),
        peers=(
            sklearn("rbf_kernel", rbf_kernel),
            sklearn("GP RBF", process("RBF")),
            scipy("cdist", cdist("sqeuclidean", lambda square, lengthscale: np.exp(-square / (2 * lengthscale**2)))),
        ),
        real=real("x", "y", "lengthscale"),
    ),
    matrix(
        "laplacian_l1",
        "K_ij = exp(−‖x_i − y_j‖₁/ℓ)",
        f"{RAHIMI}, Fig. 1",
        peers=(
            sklearn("laplacian_kernel", laplacian_kernel),
            scipy("cdist", cdist("cityblock", lambda r, lengthscale: np.exp(-r / lengthscale))),
        ),
        real=real("x", "y", "lengthscale"),
    ),
    matrix(
        "laplacian_l2",
        "K_ij = exp(−‖x_i − y_j‖₂/ℓ)",
        f"{BOOK} eq. 4.18",
        peers=(
            sklearn("GP Matern", process("Matern", nu=0.5)),
            scipy("cdist", cdist("euclidean", lambda r, lengthscale: np.exp(-r / lengthscale))),
            sklearn("laplacian_kernel", laplacian_kernel, convention="ATLAS-22d"),
        ),
        real=real("x", "y", "lengthscale"),
    ),
    matrix(
        "cauchy_product",
        "K_ij = ∏_k 1/(1 + ((x_ik − y_jk)/ℓ)²)",
        f"{RAHIMI}, Fig. 1",
        peers=(scipy("Cauchy density", cauchy_density),),
    ),
    matrix(
        "cauchy_radial",
        "K_ij = 1/(1 + ‖x_i − y_j‖²/ℓ²)",
        f"{BOOK} eq. 4.19 with α = 1",
        peers=(sklearn("GP RationalQuadratic", process("RationalQuadratic", 0.5**0.5, alpha=1.0)),),
        real=real("x", "y", "lengthscale"),
    ),
    matrix(
        "matern",
        "K_ij = e^{−s} p(s),  s = √(2ν) r/ℓ,  p = 1, 1 + s, 1 + s + s²/3",
        f"{BOOK} eq. 4.16-4.18",
        NU,
        peers=(
            sklearn("GP Matern", process("Matern")),
            scipy("Bessel K", bessel),
        ),
    ),
    formula(
        "kernel_matvec",
        *PAIR,
        V,
        Scalar("kernel", st.sampled_from(tuple(true.KERNELS))),
        LENGTHSCALE,
        equation="u = K(x, y) v",
        source="the definition",
        reduction=widest("m", "d"),
        gradient_reduction=widest("n", "m", "d", "p"),
        claims=("gradient", "autocast"),
        real=real("x", "y", "v", "gaussian", "lengthscale"),
    ),
    formula(
        "rff_features",
        points("x", "n"),
        FREQUENCIES,
        OFFSETS,
        formerly=("kernels.features",),
        equation="φ(x) = √(2/D) cos(x W + b)",
        source=f"{RAHIMI}, Alg. 1",
        reduction=widest("d"),
        gradient_reduction=widest("n", "d", "D"),
        claims=("gradient", "compile", "autocast", "vmap", "out"),
        policies=ANGLES,
        peers=(cuda.FEATURES, sklearn("RBFSampler", sampler)),
        real=real("x", "frequencies", "offsets"),
    ),
    formula(
        "rff_features_paired",
        points("x", "n"),
        FREQUENCIES,
        formerly=("kernels.features_paired",),
        equation="φ(x) = √(2/D) [cos(x W), sin(x W)]",
        source="Sutherland & Schneider 2015 (1506.02785) eq. 1",
        reduction=widest("d"),
        gradient_reduction=widest("n", "d", "D"),
        claims=("gradient", "autocast", "out"),
        policies=ANGLES,
        peers=(cuda.FEATURES_PAIRED,),
    ),
    formula(
        "rff_features_multiscale",
        points("x", "n"),
        *SCALES,
        formerly=("kernels.features_multiscale",),
        equation="φ(x) = [√(2 w_s/D_s) cos(x W_s + b_s)]_s",
        source=f"{RAHIMI}, Alg. 1, for a convex sum of kernels",
        reduction=widest("d"),
        gradient_reduction=widest("n", "d", "D"),
        claims=("gradient", "autocast", "out"),
        policies=ANGLES,
        peers=(cuda.FEATURES_MULTISCALE,),
    ),
    formula(
        "rff_gram",
        *PAIR,
        FREQUENCIES,
        OFFSETS,
        formerly=("kernels.gram",),
        equation="K̂ = φ(x) φ(y)ᵀ",
        source=f"{RAHIMI}, Alg. 1",
        reduction=widest("d", "D"),
        gradient_reduction=widest("n", "m", "d", "D"),
        claims=("gradient", "autocast", "out"),
        policies=ANGLES,
        peers=(
            cuda.GRAM,
            sklearn("RBFSampler", lambda x, y, *drawn: sampler(x, *drawn) @ sampler(y, *drawn).T),
        ),
    ),
    formula(
        "rff_matvec",
        *PAIR,
        V,
        FREQUENCIES,
        OFFSETS,
        formerly=("kernels.matvec",),
        equation="u = φ(x) (φ(y)ᵀ v)",
        source=f"{RAHIMI}, Alg. 1",
        reduction=widest("m", "d", "D"),
        gradient_reduction=widest("n", "m", "d", "D", "p"),
        claims=("gradient", "compile", "autocast", "out"),
        policies=ANGLES,
        peers=(
            cuda.MATVEC,
            sklearn("RBFSampler", lambda x, y, v, *drawn: sampler(x, *drawn) @ (sampler(y, *drawn).T @ v)),
        ),
        real=real("x", "y", "v", "frequencies", "offsets"),
    ),
    formula(
        "rff_matvec_multiscale",
        *PAIR,
        V,
        *SCALES,
        formerly=("kernels.matvec_multiscale",),
        equation="u = φ(x) (φ(y)ᵀ v),  φ of several scales",
        source=f"{RAHIMI}, Alg. 1, for a convex sum of kernels",
        reduction=widest("m", "d", "D"),
        gradient_reduction=widest("n", "m", "d", "D", "p"),
        claims=("gradient", "autocast", "out"),
        policies=ANGLES,
        peers=(cuda.MATVEC_MULTISCALE,),
    ),
    formula(
        "structured_features",
        points("x", "n"),
        Drawn(
            "signs",
            dims=("blocks", lambda known: 3, power),
            law=lambda generator, shape: 1.0 - 2.0 * generator.integers(0, 2, shape),
            gradient=False,
            spans={**spans("d"), "blocks": (2, 3)},
        ),
        Drawn(
            "offsets",
            dims=(lambda known: known["blocks"] * power(known) - known["less"],),
            law=turns,
            spans={"d": (2, 5), "less": (0, 1)},
        ),
        LENGTHSCALE,
        equation="φ(x) = √(2/D) cos(z + b),  z_b = √q/ℓ · H D_b3 H D_b2 H D_b1 x̃",
        source="Yu et al. 2016 (1610.09072) eq. 6",
        reduction=widest("d"),
        gradient_reduction=widest("n", "d", "D"),
        reach=LAST_BLOCK,
        claims=("gradient", "compile", "autocast", "out"),
        policies=ANGLES,
    ),
    rate(
        "rff_error_bound",
        "t = √(8 ln(2 n²/δ)/D)",
        "Hoeffding 1963 Thm 2 and the union bound over n² pairs",
        whole_numbers("counts"),
        POINTS,
        DELTA,
        formerly=("kernels.features_error_bound",),
    ),
    frequency("gaussian_frequencies", "ω = g/ℓ", f"{RAHIMI}, Fig. 1", G, LENGTHSCALE),
    frequency(
        "laplacian_l1_frequencies",
        "ω = −cot(π u)/ℓ",
        f"{RAHIMI}, Fig. 1",
        U,
        LENGTHSCALE,
        peers=(scipy("stats.cauchy.ppf", quantile("cauchy")),),
    ),
    frequency(
        "laplacian_l2_frequencies",
        "ω = g/(g_0 ℓ)",
        f"{BOOK} eq. 4.15 with ν = 1/2",
        G,
        G_0,
        LENGTHSCALE,
        policies=PRODUCTS,
    ),
    frequency(
        "cauchy_product_frequencies",
        "ω = ln(2 u)/ℓ for u < 1/2, else −ln(2 (1 − u))/ℓ",
        f"{RAHIMI}, Fig. 1",
        U,
        LENGTHSCALE,
        peers=(scipy("stats.laplace.ppf", quantile("laplace")),),
    ),
    frequency(
        "cauchy_radial_frequencies",
        "ω = √(2 u) g/ℓ",
        "1/(1 + r²) = ∫ e^{−u} e^{−u r²} du: a mixture of Gaussians",
        G,
        drawn("exponential", lambda generator, shape: generator.exponential(size=shape), "D"),
        LENGTHSCALE,
        policies=PRODUCTS,
    ),
    frequency(
        "matern_frequencies",
        "ω = g √(2ν/c)/ℓ",
        f"{BOOK} eq. 4.15",
        G,
        drawn("chi_square", lambda generator, shape: generator.chisquare(3, shape), "D"),
        LENGTHSCALE,
        NU,
        policies=PRODUCTS,
    ),
    frequency(
        "orthogonal_frequencies",
        "W = [Q_1, Q_2, …] diag(ρ)/ℓ",
        "Yu et al. 2016 (1610.09072) eq. 4-5",
        Real(
            "blocks",
            dims=("count", "d", "d"),
            unit_scale=True,
            gradient=False,
            spans={"count": (2, 3)},
        ),
        Drawn(
            "radii",
            dims=(lambda sizes: sizes["count"] * sizes["d"] - sizes["less"],),
            law=lambda generator, shape: 0.5 + np.abs(generator.standard_normal(shape)),
            gradient=False,
            spans={"d": (2, 3), "less": (0, 1)},
        ),
        LENGTHSCALE,
        reduction=widest("d"),
        reach=LAST_BLOCK,
        policies=WHOLE_BLOCK,
        peers=(scipy("linalg.qr", householder),),
    ),
    formula(
        "nystrom_features",
        *LANDMARKS,
        equation="F = K_xm L⁻ᵀ,  L Lᵀ = K_mm + λ I",
        source="Williams & Seeger 2001",
        reduction=widest("m", "d"),
        no_gradient=COMPOSED,
        complex_step=True,
        policies=NO_FACTOR,
    ),
    formula(
        "nystrom",
        *LANDMARKS,
        equation="K̃ = K_xm (K_mm + λ I)⁻¹ K_mx",
        source="Williams & Seeger 2001",
        reduction=widest("m", "d"),
        no_gradient=COMPOSED,
        complex_step=True,
        policies=NO_FACTOR,
        peers=(sklearn("Nystroem", nystroem),),
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
        complex_step=True,
        policies={**NO_FACTOR, "not finite": "K_mx v is summed before or after the factor, and ∞ − ∞ is NaN"},
    ),
    formula(
        "nystrom_trace_bound",
        *LANDMARKS,
        equation="tr(K − K̃) = Σ_i (1 − ‖F_i‖²) ≥ ‖K − K̃‖₂",
        source="the trace of a positive semidefinite matrix",
        reduction=widest("m", "d", "n"),
        no_gradient=COMPOSED,
        complex_step=True,
        policies=NO_FACTOR,
    ),
    rate("nystrom_rate", "1/√m: a rate and not a bound", f"{DRINEAS}, up to its constant", whole_numbers("landmarks")),
    rate("drineas_mahoney_spectral", "2 η n/√m", DRINEAS, whole_numbers("landmarks"), POINTS, DELTA),
    rate(
        "drineas_mahoney_frobenius",
        "n (64 k η²/m)^{1/4}",
        DRINEAS,
        whole_numbers("landmarks"),
        POINTS,
        Scalar("rank", st.integers(1, 5), far=(300,)),
        DELTA,
    ),
)
