"""Known bugs of the family kernels: ε or √ε, a rate called a bound, scales that add up, a "Cauchy" that is none."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from trueness.reference import kernels as true
from trueness.regressions._lib.commands import show
from trueness.tools.spec.model import UNDOCUMENTED, Bug

ATLAS = "ATLAS (OT-diffusion-toolkit), changelog of 2025-11-20"
RAHIMI = "Rahimi & Recht 2007, Alg. 1, Claim 1 and Fig. 1"


# -- item 5: the bandwidth --------------------------------------------------------------------------------------------


def variance_gaussian(x: Any, y: Any, epsilon: Any) -> Any:
    """exp(−r²/(2 ε)): ε is the variance"""
    return true.gaussian(x, y, np.sqrt(epsilon))


def variance_frequencies(normal: Any, epsilon: Any) -> Any:
    """ω ~ N(0, ε⁻¹ I): ε is the variance"""
    return true.gaussian_frequencies(normal, np.sqrt(epsilon))


# -- item 6: the error of Nyström -------------------------------------------------------------------------------------


def root_of_points_per_landmark(x: Any, landmarks: Any, epsilon: Any, reg: Any) -> Any:
    """√(n/m), whatever the points are"""
    return np.array(math.sqrt(x.shape[0] / landmarks.shape[0]))


def inverse_root(x: Any, landmarks: Any, epsilon: Any, reg: Any) -> Any:
    """1/√m, whatever the points are"""
    return np.array(1 / math.sqrt(landmarks.shape[0]))


def spectral_as_frobenius(landmarks: Any, points: Any, rank: Any, delta: Any) -> Any:
    """m^{−1/2} where the theorem for the Frobenius norm has m^{−1/4}"""
    return true.drineas_mahoney_spectral(landmarks, points, delta) * np.sqrt(16 * rank)


def rate_as_theorem(landmarks: Any, points: Any, delta: Any) -> Any:
    """1/√m in place of 2 η n/√m"""
    return true.nystrom_rate(landmarks)


# -- item 8: random features ------------------------------------------------------------------------------------------


def unit_variance_per_scale(x: Any, frequencies: Any, offsets: Any, weights: Any, counts: Any) -> Any:
    """every scale with √(2/D_s), whatever its share"""
    return true.features_multiscale(x, frequencies, offsets, np.ones(len(counts)), counts)


def matvec_unit_variance_per_scale(
    x: Any, y: Any, v: Any, frequencies: Any, offsets: Any, weights: Any, counts: Any
) -> Any:
    """Σ_s K_s v: the kernels are added, not averaged"""
    return true.matvec_multiscale(x, y, v, frequencies, offsets, np.ones(len(counts)), counts)


def one_constant(x: Any, frequencies: Any, offsets: Any, weights: Any, counts: Any) -> Any:
    """√(2/D) for all scales, D = Σ D_s: the share of a scale is that of its features"""
    return true.features(x, frequencies, offsets)


def unit_columns(blocks: Any, radii: Any, epsilon: Any) -> Any:
    """orthonormal columns without the χ radii"""
    return true.orthogonal_frequencies(blocks, np.ones(radii.shape), epsilon)


def twice_gaussian(x: Any, frequencies: Any) -> Any:
    """√(2/J) [cos, sin] with J frequencies, where √(1/J) belongs"""
    return math.sqrt(2) * true.features_paired(x, frequencies)


def root_of_log(counts: Any, points: Any, delta: Any) -> Any:
    """√(ln n/D)"""
    return np.sqrt(np.log(points) / counts)


def seeded_anew(x: Any, y: Any, v: Any, frequencies: Any, offsets: Any) -> Any:
    """every tile of two features draws the same two"""
    same = np.arange(offsets.shape[0]) % 2
    return true.matvec(x, y, v, frequencies[:, same], offsets[same])


# -- tiles and structured features ------------------------------------------------------------------------------------


def last_tile_alone(x: Any, y: Any, v: Any, frequencies: Any, offsets: Any) -> Any:
    """the sums of y's tiles are overwritten and not added up: two points remain"""
    return true.matvec(x, y[-2:], v[-2:], frequencies, offsets)


def scaled_by_the_tile(x: Any, y: Any, frequencies: Any, offsets: Any) -> Any:
    """2/D with the D of a tile of two features"""
    return true.gram(x, y, frequencies, offsets) * offsets.shape[0] / 2


def without_the_root(x: Any, signs: Any, offsets: Any, epsilon: Any) -> Any:
    """rotations alone: frequencies of length 1/ε where √q/ε belongs"""
    return true.structured_features(x, signs, offsets, epsilon * math.sqrt(signs.shape[2]))


def signs_in_reverse(x: Any, signs: Any, offsets: Any, epsilon: Any) -> Any:
    """the signs of the last rotation first"""
    return true.structured_features(x, signs[:, ::-1], offsets, epsilon)


def without_the_inverse(x: Any, landmarks: Any, v: Any, epsilon: Any, reg: Any) -> Any:
    """K_xm K_mx v"""
    cross = true.gaussian(x, landmarks, epsilon)
    return cross @ (cross.T @ v)


# -- item 22: the Cauchy kernel ---------------------------------------------------------------------------------------


def damped_cosine(x: Any, frequencies: Any, offsets: Any) -> Any:
    """√(2/D) cos(p) exp(−min(|p|, 20)),  p = x W + b"""
    angle = x @ frequencies + offsets
    damped = np.exp(-np.minimum(np.maximum(angle, -angle), 20.0))
    return math.sqrt(2 / offsets.shape[0]) * np.cos(angle) * damped


def names_meet(uniform: Any, epsilon: Any) -> Any:
    """i.i.d. Cauchy frequencies, because the kernel is called Cauchy"""
    return true.laplacian_l1_frequencies(uniform, epsilon)


# -- discriminating inputs --------------------------------------------------------------------------------------------

ORIGIN, ONE = np.zeros((1, 1)), np.ones((1, 1))
FAR_APART = 10.0 * np.arange(6.0)[:, None]
AXIS = np.eye(2)[:1]
THIRD = (np.zeros((1, 2)), np.ones((2, 6)), np.zeros(6), np.full(3, 1 / 3), (2, 2, 2))

BUGS = (
    Bug(
        id="ATLAS-05a",
        formula="kernels.gaussian",
        title="ε is a variance in one place and a standard deviation in another",
        document=f"{ATLAS}, item 5",
        claim="the Gaussian kernel lacked a square: exp(−r²/(2 ε)) is now exp(−r²/(2 ε²))",
        verdict="convention",
        source=f"{RAHIMI}; with C = r²/2 the Gibbs kernel exp(−C/ε) of Cuturi 2013 is the old form",
        finding="Before, every operator took ε as the variance, and they agreed. Only k(ε) = e^{−1/2} and k(c r; c ε) "
        "= k(r; ε) tell the two apart; at ε = 1 they are the same. What breaks results is to mix them.",
        evidence=show("ATLAS_05a"),
        variant=variance_gaussian,
        discriminating_input=(ORIGIN, ONE, 0.5),
    ),
    Bug(
        id="ATLAS-05d",
        formula="kernels.gaussian_frequencies",
        title="the features keep ε as a variance when the kernel no longer does",
        document=f"{ATLAS}, item 5",
        claim="frequencies are N(0, ε⁻² I); they were N(0, ε⁻¹ I)",
        verdict="convention",
        source=RAHIMI,
        finding="Right beside exp(−r²/(2 ε)) and wrong beside exp(−r²/(2 ε²)): the features then approximate a kernel "
        "of another width.",
        evidence=show("ATLAS_05d"),
        variant=variance_frequencies,
        discriminating_input=(np.ones((2, 3)), 0.25),
    ),
    Bug(
        id="ATLAS-05e",
        formula="",
        title="two operators mean different kernels by the same scales",
        document=f"{ATLAS}, items 5 and 8: fft.py and rff.py",
        claim="one list of scale factors serves every operator",
        verdict="convention",
        source=RAHIMI,
        finding="fft.py multiplies the width by s and weighs by s/Σs; rff.py multiplies the frequencies by s, so the "
        "width is ε/s, and weighs equally. For (½, 1, 2) the two kernels are up to 0.17 apart.",
        evidence=show("ATLAS_05e"),
    ),
    Bug(
        id="ATLAS-06a",
        formula="kernels.nystrom_trace_bound",
        title="√(n/m) is called a bound",
        document=f"{ATLAS}, item 6, the state before",
        claim="the error of Nyström is bounded by √(n/m)",
        verdict="real bug, wrong fix",
        source="Drineas & Mahoney 2005; Williams & Seeger 2001",
        finding="For points far apart K = I, and tr(K − K̃) = n − m. The formula falls with the landmarks m, other "
        "than the changelog says, and grows with the points n as the true absolute error does.",
        evidence=show("ATLAS_06a"),
        variant=root_of_points_per_landmark,
        discriminating_input=(FAR_APART, FAR_APART[:2], 1.0, 1e-3),
    ),
    Bug(
        id="ATLAS-06b",
        formula="kernels.nystrom_trace_bound",
        title="1/√m is called a bound",
        document=f"{ATLAS}, item 6, the fix",
        claim="the error of Nyström is bounded by 1/√m",
        verdict="real bug, wrong fix",
        source="Drineas & Mahoney 2005; K − K̃ is positive semidefinite, so its trace bounds its norm",
        finding="For K = I the error is 1 for every m < n. On 800 uniform points of the square, ε = 0.05, m = 80, "
        "it is 10.9 where the formula says 0.11. At most it is a rate of the error divided by n; tr(K − K̃) is a bound.",
        evidence=show("ATLAS_06b"),
        variant=inverse_root,
        discriminating_input=(FAR_APART, FAR_APART[:2], 1.0, 1e-3),
    ),
    Bug(
        id="ATLAS-06c",
        formula="kernels.drineas_mahoney_frobenius",
        title="one rate for both norms",
        document=f"{ATLAS}, item 6",
        claim="1/√m is the rate of the Frobenius norm too",
        verdict="claim false",
        source="Drineas & Mahoney 2005 Thm 3",
        finding="The theorem has m^{−1/2} for the spectral norm and m^{−1/4} for the Frobenius norm.",
        evidence=show("ATLAS_06c"),
        variant=spectral_as_frobenius,
        discriminating_input=(np.array([100.0, 6400.0]), 800, 4, 0.1),
    ),
    Bug(
        id="ATLAS-06d",
        formula="kernels.drineas_mahoney_spectral",
        title="the theorem without its n and its constant",
        document=f"{ATLAS}, item 6",
        claim="Drineas & Mahoney prove 1/√m",
        verdict="claim false",
        source="Drineas & Mahoney 2005 Thm 3",
        finding="For k(x, x) = 1 they add 2 η n/√m to the best error of rank k: 1/√m is the shape of it, with neither "
        "the number of points nor the constant.",
        evidence=show("ATLAS_06d"),
        variant=rate_as_theorem,
        discriminating_input=(np.array([100.0]), 800, 0.1),
    ),
    Bug(
        id="ATLAS-08a",
        formula="kernels.features_multiscale",
        title="the kernels of the scales are added instead of averaged",
        document=f"{ATLAS}, item 8",
        claim="every scale must be normalised by its own √(2/D_s)",
        verdict="claim false",
        source=RAHIMI,
        finding="Every scale then has unit variance, and their sum has the diagonal S: 3 for three scales. The fix is "
        "the bug, and it was taken back later. The constant before it was right; see ATLAS-08b.",
        evidence=show("ATLAS_08a"),
        variant=unit_variance_per_scale,
        discriminating_input=THIRD,
    ),
    Bug(
        id="ATLAS-08b",
        formula="kernels.features_multiscale",
        title="one constant √(2/D) for all scales",
        document=f"{ATLAS}, item 8, the state before",
        claim="the constant √(2/D) gives wrong kernels for several scales",
        verdict="no bug",
        source=RAHIMI,
        finding="Bit for bit the right features when w_s = D_s/D, as the split into equal parts has it. With other "
        "weights it would answer for the number of features instead; that is kept as what the checks must reject.",
        evidence=show("ATLAS_08b"),
        variant=one_constant,
        discriminating_input=(np.zeros((1, 2)), np.ones((2, 6)), np.zeros(6), np.array([0.2, 0.8]), (3, 3)),
    ),
    Bug(
        id="ATLAS-08c",
        formula="kernels.orthogonal_frequencies",
        title="orthogonal frequencies all have the same length",
        document=f"{ATLAS}, rff.py: orthogonal=True, the default; not in the changelog",
        claim="the columns of Q are frequencies of the Gaussian kernel",
        verdict="real bug, wrong fix",
        source="Yu et al. 2016 (1610.09072) eq. 4-5",
        finding="Without χ_d radii the kernel is ₀F₁(; d/2; −r²/(4 ε²)): at r = ε it is 0.842 for d = 3 and 0.99984 "
        "for d = 3072, where 0.607 is right. Nobody fixed it; the radii are an argument here.",
        evidence=show("ATLAS_08c"),
        variant=unit_columns,
        discriminating_input=(np.eye(3)[None], np.array([1.2, 1.6, 2.1]), 0.5),
    ),
    Bug(
        id="ATLAS-08d",
        formula="kernels.features_paired",
        title='a "Laplacian" that is twice the Gaussian',
        document=f"{ATLAS}, rff.py: kernel_type='laplacian'; not in the changelog",
        claim="Gaussian frequencies with cosine and sine are features of the Laplacian kernel",
        verdict="real bug, wrong fix",
        source="Sutherland & Schneider 2015 (1506.02785) eq. 1",
        finding="J frequencies make 2 J features, so the constant is √(1/J). With √(2/J) the diagonal is 2, and the "
        "kernel is 2 exp(−r²/(2 ε²)), not exp(−‖·‖/ε).",
        evidence=show("ATLAS_08d"),
        variant=twice_gaussian,
        discriminating_input=(AXIS, np.ones((2, 3))),
    ),
    Bug(
        id="ATLAS-08e",
        formula="kernels.features_error_bound",
        title="√(ln n/D) is called a bound",
        document=f"{ATLAS}, rff.py: the error that is reported",
        claim="the largest error of the features is √(ln n/D)",
        verdict="claim false",
        source="Hoeffding 1963 Thm 2; Rahimi & Recht 2007 Claim 1",
        finding="For n = 200, d = 5, D = 1000 it says 0.073, and the largest error is 0.13 in the mean. Hoeffding and "
        "the union bound give 0.338 with probability 95 %.",
        evidence=show("ATLAS_08e"),
        variant=root_of_log,
        discriminating_input=(np.array([1000.0]), 200, 0.05),
    ),
    Bug(
        id="ATLAS-08f",
        formula="kernels.matvec",
        title="a generator seeded anew for every tile makes all tiles equal",
        document="a trap of tiled features; nobody is known to have shipped it",
        claim="each tile may draw its own frequencies from the same seed",
        verdict="no bug",
        source="the frequencies of Rahimi & Recht 2007 Alg. 1 are independent",
        finding="D features then have the variance of one tile, however large D is. Kept as what the checks must "
        "reject: here all draws are made before the tiles.",
        evidence=show("ATLAS_08f"),
        variant=seeded_anew,
        discriminating_input=(ORIGIN, ONE, ONE, np.arange(1.0, 7.0)[None], np.zeros(6)),
    ),
    Bug(
        id="ATLAS-08g",
        formula="kernels.matvec_multiscale",
        title="the operator is S times too large",
        document=f"{ATLAS}, item 8: what the fix does to apply()",
        claim="every scale must be normalised by its own √(2/D_s)",
        verdict="claim false",
        source=RAHIMI,
        finding="What ATLAS-08a does to the features, seen in the product K v that the library computes with them.",
        evidence=show("ATLAS_08g"),
        variant=matvec_unit_variance_per_scale,
        discriminating_input=(THIRD[0], THIRD[0], ONE, *THIRD[1:]),
    ),
    Bug(
        id="ATLAS-08h",
        formula="kernels.matvec",
        title="the sums of the tiles are overwritten",
        document=UNDOCUMENTED,
        claim="φ(y)ᵀv of the last tile is φ(y)ᵀv",
        verdict="no bug",
        source=f"{RAHIMI}; the sum over y is over all of its points",
        finding="What is left is the product with the points of the last tile: right where all points fit into one.",
        evidence=show("ATLAS_08h"),
        variant=last_tile_alone,
        discriminating_input=(ORIGIN, np.arange(4.0)[:, None], np.ones((4, 1)), np.ones((1, 2)), np.zeros(2)),
    ),
    Bug(
        id="ATLAS-08i",
        formula="kernels.gram",
        title="every tile of features is scaled by its own number",
        document=UNDOCUMENTED,
        claim="2/D may be taken inside of the tile",
        verdict="no bug",
        source=RAHIMI,
        finding="The diagonal is then the number of tiles: right where all features fit into one.",
        evidence=show("ATLAS_08i"),
        variant=scaled_by_the_tile,
        discriminating_input=(ORIGIN, ONE, np.ones((1, 6)), np.zeros(6)),
    ),
    Bug(
        id="ATLAS-08j",
        formula="kernels.structured_features",
        title="a rotation has columns of length one",
        document=UNDOCUMENTED,
        claim="H D H D H D is a matrix of frequencies as it is",
        verdict="no bug",
        source="Yu et al. 2016 (1610.09072) eq. 6 has √q before it",
        finding="The kernel is that of length ε √q: it tends to one with the dimension, as in ATLAS-08c.",
        evidence=show("ATLAS_08j"),
        variant=without_the_root,
        discriminating_input=(np.ones((1, 2)), np.ones((2, 3, 2)), np.zeros(4), 1.0),
    ),
    Bug(
        id="ATLAS-08k",
        formula="kernels.structured_features",
        title="the three diagonals are taken in reverse",
        document=UNDOCUMENTED,
        claim="the order of H D_3 H D_2 H D_1 does not matter",
        verdict="no bug",
        source="Yu et al. 2016 (1610.09072) eq. 6",
        finding="Drawn signs have the same distribution in either order; features of given signs, and a backward that "
        "turns them back in the wrong order, do not.",
        evidence=show("ATLAS_08k"),
        variant=signs_in_reverse,
        discriminating_input=(
            np.array([[1.0, 2.0]]),
            np.array([[[1.0, -1.0], [1.0, 1.0], [1.0, 1.0]]] * 2),
            np.array([0.0, 1.0, 2.0, 3.0]),
            1.0,
        ),
    ),
    Bug(
        id="ATLAS-06e",
        formula="kernels.nystrom_matvec",
        title="the inverse of the landmarks' kernel is left out",
        document=UNDOCUMENTED,
        claim="K_xm K_mx v is a product with the Nyström approximation",
        verdict="no bug",
        source="Williams & Seeger 2001",
        finding="Right only where the landmarks are so far apart that K_mm is the identity, and λ is zero.",
        evidence=show("ATLAS_06e"),
        variant=without_the_inverse,
        discriminating_input=(0.5 * FAR_APART, 0.05 * FAR_APART[:2], np.ones((6, 1)), 1.0, 0.5),
    ),
    Bug(
        id="ATLAS-22a",
        formula="kernels.features",
        title="damped cosines stand for the Cauchy kernel",
        document=f"{ATLAS}, item 22, the state before",
        claim="the Cauchy kernel has no Fourier features, so it was removed",
        verdict="real bug, wrong fix",
        source=f"{RAHIMI}; Bochner's theorem",
        finding="cos(p) exp(−min(|p|, 20)) has the diagonal 0.12 and is features of nothing. Both Cauchy kernels have "
        "a spectral density: Laplace frequencies for the product, √(2u) g/ε for the radial one.",
        evidence=show("ATLAS_22a"),
        variant=damped_cosine,
        discriminating_input=(np.zeros((1, 1)), np.ones((1, 4)), np.array([0.5, 1.0, 2.0, 6.0])),
    ),
    Bug(
        id="ATLAS-22c",
        formula="kernels.cauchy_product_frequencies",
        title="Cauchy frequencies stand for the Cauchy kernel",
        document=f"{ATLAS}, rff.py at 2536e5f: kernel_type='cauchy'",
        claim="features of the Cauchy kernel have Cauchy-distributed frequencies",
        verdict="real bug, wrong fix",
        source=RAHIMI,
        finding="The names cross over: Cauchy frequencies belong to the L1 Laplacian, Laplace frequencies to the "
        "Cauchy product. Measured, they are 0.3 off both Cauchy kernels, and off the L1 Laplacian by chance alone.",
        evidence=show("ATLAS_22c"),
        variant=names_meet,
        discriminating_input=(np.array([[0.1, 0.3, 0.8]]), 1.0),
    ),
    Bug(
        id="ATLAS-22d",
        formula="kernels.laplacian_l2",
        title="the Laplacian of the L1 norm and that of the L2 norm share a name",
        document=f"{ATLAS}: nystrom.py, direct.py, fft.py take L2; scikit-learn's laplacian_kernel takes L1",
        claim="exp(−‖x − y‖/ε) is the Laplacian kernel",
        verdict="convention",
        source=f"{RAHIMI} has L1; Rasmussen & Williams 2006 eq. 4.18 has L2",
        finding="Both are positive definite; they agree on a line only. Their frequencies are i.i.d. Cauchy and "
        "multivariate Cauchy. Here each has its own name.",
        evidence=show("ATLAS_22d"),
        variant=true.laplacian_l1,
        discriminating_input=(np.zeros((1, 2)), np.ones((1, 2)), 1.0),
    ),
    Bug(
        id="ATLAS-22e",
        formula="kernels.cauchy_radial",
        title="the product of Cauchy kernels and the radial one share a name",
        document=f"{ATLAS}: nystrom.py, direct.py, fft.py take the radial one; Rahimi & Recht's Fig. 1 the product",
        claim="1/(1 + r²/ε²) is the Cauchy kernel",
        verdict="convention",
        source=f"{RAHIMI} has the product",
        finding="Both are positive definite; they agree on a line only, and their frequencies differ. Here each has "
        "its own name.",
        evidence=show("ATLAS_22e"),
        variant=true.cauchy_product,
        discriminating_input=(np.zeros((1, 2)), np.ones((1, 2)), 1.0),
    ),
)
