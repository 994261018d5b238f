"""Kernels, their random Fourier features, and the Nyström approximation.

    k(x − y) = ∫ p(ω) e^{iω·(x−y)} dω ≈ φ(x)·φ(y),      φ(x) = √(2/D) cos(Wᵀx + b)        (Bochner; Rahimi & Recht 2007)

x (n, d) and y (m, d) are points in rows; ℓ is a length: the standard deviation of the Gaussian kernel and no variance.
All randomness is an argument. Rahimi & Recht 2007, Random Features for Large-Scale Kernel Machines, Alg. 1, Claim 1 and
Fig. 1; Rasmussen & Williams 2006, Gaussian Processes for Machine Learning, ch. 4; Yu et al. 2016 (1610.09072);
Sutherland & Schneider 2015 (1506.02785); Williams & Seeger 2001; Drineas & Mahoney 2005, JMLR 6:2153.
"""

import math

import numpy as np


def _differences(x, y):
    """x_i − y_j  (n, m, d)"""
    return x[:, None, :] - y[None, :, :]


def _squared_distances(x, y):
    """‖x_i − y_j‖²  (n, m)"""
    difference = _differences(x, y)
    return np.sum(difference * difference, axis=-1)


def _pulled(slope, x, y):
    """(Σ_j c_ij (x_i − y_j), −Σ_i c_ij (x_i − y_j)) for a slope c (n, m) or (n, m, d)"""
    slope = slope if slope.ndim == 3 else slope[:, :, None]
    by_pair = slope * _differences(x, y)
    return np.sum(by_pair, axis=1), -np.sum(by_pair, axis=0)


def _inverse(r):
    """1/r, and 0 at r = 0: where a cone has its tip the gradient is taken to be 0"""
    return np.where(r > 0, 1 / np.where(r > 0, r, 1.0), 0.0)


# -- kernel matrices --------------------------------------------------------------------------------------------------


def gaussian(x, y, *, lengthscale=1.0):
    """K_ij = exp(−‖x_i − y_j‖²/(2 ℓ²))        (Rahimi & Recht 2007 Fig. 1; ℓ is the standard deviation)

    x            x  (n, d)  points
    y            y  (m, d)  points
    lengthscale  ℓ  number  length scale, > 0, unit of x
    returns      K  (n, m)  1 at distance 0, e^{−1/2} at distance ℓ
    """
    return np.exp(-_squared_distances(x, y) / (2 * lengthscale * lengthscale))


def gaussian_vjp(cotangent, x, y, lengthscale):
    """by x and y: the slope −K̄ K/ℓ² times x_i − y_j"""
    return _pulled(-cotangent * gaussian(x, y, lengthscale=lengthscale) / (lengthscale * lengthscale), x, y)


def laplacian_l1(x, y, *, lengthscale=1.0):
    """K_ij = exp(−‖x_i − y_j‖₁/ℓ)        (Rahimi & Recht 2007 Fig. 1: its "Laplacian")

    x            x  (n, d)  points
    y            y  (m, d)  points
    lengthscale  ℓ  number  length scale, > 0, unit of x
    returns      K  (n, m)
    """
    difference = _differences(x, y)
    return np.exp(-np.sum(np.maximum(difference, -difference), axis=-1) / lengthscale)


def laplacian_l1_vjp(cotangent, x, y, lengthscale):
    """by x and y: −K̄ K sign(x_i − y_j)/ℓ, sign 0 at 0"""
    difference = _differences(x, y)
    sign = np.where(difference > 0, 1.0, np.where(difference < 0, -1.0, 0.0))
    by_pair = (-cotangent * laplacian_l1(x, y, lengthscale=lengthscale) / lengthscale)[:, :, None] * sign
    return np.sum(by_pair, axis=1), -np.sum(by_pair, axis=0)


def laplacian_l2(x, y, *, lengthscale=1.0):
    """K_ij = exp(−‖x_i − y_j‖₂/ℓ)        (Matérn with ν = 1/2, Rasmussen & Williams 2006 eq. 4.18: rotation-invariant)

    x            x  (n, d)  points
    y            y  (m, d)  points
    lengthscale  ℓ  number  length scale, > 0, unit of x
    returns      K  (n, m)
    """
    return np.exp(-np.sqrt(_squared_distances(x, y)) / lengthscale)


def laplacian_l2_vjp(cotangent, x, y, lengthscale):
    """by x and y: the slope −K̄ K/(ℓ r) times x_i − y_j, 0 at r = 0"""
    inverse = _inverse(np.sqrt(_squared_distances(x, y)))
    return _pulled(-cotangent * laplacian_l2(x, y, lengthscale=lengthscale) * inverse / lengthscale, x, y)


def cauchy_product(x, y, *, lengthscale=1.0):
    """K_ij = ∏_k 1/(1 + ((x_ik − y_jk)/ℓ)²)        (Rahimi & Recht 2007 Fig. 1: its "Cauchy")

    x            x  (n, d)  points
    y            y  (m, d)  points
    lengthscale  ℓ  number  length scale, > 0, unit of x
    returns      K  (n, m)
    """
    scaled = _differences(x, y) / lengthscale
    return np.prod(1 / (1 + scaled * scaled), axis=-1)


def cauchy_product_vjp(cotangent, x, y, lengthscale):
    """by x and y: the slope −2 K̄ K/(ℓ² + (x_ik − y_jk)²) times x_ik − y_jk"""
    difference = _differences(x, y)
    weight = (-2 * cotangent * cauchy_product(x, y, lengthscale=lengthscale))[:, :, None]
    return _pulled(weight / (lengthscale * lengthscale + difference * difference), x, y)


def cauchy_radial(x, y, *, lengthscale=1.0):
    """K_ij = 1/(1 + ‖x_i − y_j‖²/ℓ²)        (the rational quadratic, Rasmussen & Williams 2006 eq. 4.19, α = 1)

    x            x  (n, d)  points
    y            y  (m, d)  points
    lengthscale  ℓ  number  length scale, > 0, unit of x; √2 times that of the book
    returns      K  (n, m)  1/2 at distance ℓ
    """
    return 1 / (1 + _squared_distances(x, y) / (lengthscale * lengthscale))


def cauchy_radial_vjp(cotangent, x, y, lengthscale):
    """by x and y: the slope −2 K̄ K²/ℓ² times x_i − y_j"""
    kernel = cauchy_radial(x, y, lengthscale=lengthscale)
    return _pulled(-2 * cotangent * kernel * kernel / (lengthscale * lengthscale), x, y)


def matern(x, y, *, lengthscale=1.0, nu=1.5):
    """K_ij = e^{−s} p(s),  s = √(2ν) r/ℓ,  p = 1, 1 + s, 1 + s + s²/3 for ν = 1/2, 3/2, 5/2 (R. & W. 2006 eq. 4.16-17)

    x            x  (n, d)  points
    y            y  (m, d)  points
    lengthscale  ℓ  number  length scale, > 0, unit of x
    nu           ν  number  smoothness: 0.5, 1.5 or 2.5
    returns      K  (n, m)
    raises       ValueError for another ν, which has no such closed form
    """
    if nu not in (0.5, 1.5, 2.5):
        raise ValueError(f"nu was {nu!r}; it must be 0.5, 1.5 or 2.5.")
    s = np.sqrt(2 * nu) * np.sqrt(_squared_distances(x, y)) / lengthscale
    if nu == 0.5:
        return np.exp(-s)
    return np.exp(-s) * (1 + s if nu == 1.5 else 1 + s + s * s / 3)


def matern_vjp(cotangent, x, y, lengthscale, nu):
    """by x and y: the slope K̄ e^{−s} (p′ − p) √(2ν)/ℓ times (x_i − y_j)/r; p′ = 0, 1, 1 + 2s/3 for ν = 1/2, 3/2, 5/2

    As the product rule has it, and automatic differentiation: where points are near, p′ − p cancels.
    """
    r = np.sqrt(_squared_distances(x, y))
    s = np.sqrt(2 * nu) * r / lengthscale
    if nu == 0.5:
        slope, p = 0.0, 1.0
    elif nu == 1.5:
        slope, p = 1.0, 1 + s
    else:
        slope, p = 1 + 2 * s / 3, 1 + s + s * s / 3
    along = cotangent * np.exp(-s) * (slope - p) * (np.sqrt(2 * nu) / lengthscale)
    return _pulled(along * _inverse(r), x, y)


KERNELS = {
    "gaussian": (gaussian, gaussian_vjp),
    "laplacian_l1": (laplacian_l1, laplacian_l1_vjp),
    "laplacian_l2": (laplacian_l2, laplacian_l2_vjp),
    "cauchy_product": (cauchy_product, cauchy_product_vjp),
    "cauchy_radial": (cauchy_radial, cauchy_radial_vjp),
}


def kernel_matvec(x, y, v, *, kernel="gaussian", lengthscale=1.0):
    """u = K(x, y) v: the exact product that random features approximate

    x            x  (n, d)  points
    y            y  (m, d)  points
    v            v  (m, p)  vectors in columns
    kernel          name    "gaussian", "laplacian_l1", "laplacian_l2", "cauchy_product" or "cauchy_radial"
    lengthscale  ℓ  number  length scale, > 0
    returns      u  (n, p)
    """
    function, _ = KERNELS[kernel]
    return function(x, y, lengthscale=lengthscale) @ v


def kernel_matvec_vjp(cotangent, x, y, v, kernel, lengthscale):
    """by x and y: the kernel's vjp of ū vᵀ; by v: Kᵀ ū"""
    function, vjp = KERNELS[kernel]
    by_x, by_y = vjp(cotangent @ v.T, x, y, lengthscale)
    return by_x, by_y, function(x, y, lengthscale=lengthscale).T @ cotangent


# -- random Fourier features ------------------------------------------------------------------------------------------


def rff_features(x, frequencies, offsets):
    """φ(x) = √(2/D) cos(x W + b)        (Rahimi & Recht 2007 Alg. 1; E φ(x)·φ(y) = k(x − y))

    x            x  (n, d)  points
    frequencies  W  (d, D)  columns from the kernel's spectral density, 1/unit of x
    offsets      b  (D,)    uniform on [0, 2π)
    returns      φ  (n, D)
    """
    return math.sqrt(2 / offsets.shape[0]) * np.cos(x @ frequencies + offsets)


def _angles_vjp(by_angle, x, frequencies):
    """by x, W and b, from the gradient by the angles x W + b"""
    return by_angle @ frequencies.T, x.T @ by_angle, np.sum(by_angle, axis=0)


def rff_features_vjp(cotangent, x, frequencies, offsets):
    """Ā = −√(2/D) φ̄ sin(x W + b), then (Ā Wᵀ, xᵀ Ā, Σ_i Ā_i)"""
    by_angle = -math.sqrt(2 / offsets.shape[0]) * cotangent * np.sin(x @ frequencies + offsets)
    return _angles_vjp(by_angle, x, frequencies)


def rff_features_paired(x, frequencies):
    """φ(x) = √(2/D) [cos(x W), sin(x W)],  D = 2 · columns of W        (Sutherland & Schneider 2015 eq. 1)

    x            x  (n, d)    points
    frequencies  W  (d, D/2)  columns from the kernel's spectral density, 1/unit of x
    returns      φ  (n, D)    φ(x)·φ(x) = 1 exactly
    """
    angle = x @ frequencies
    return math.sqrt(1 / frequencies.shape[1]) * np.concatenate([np.cos(angle), np.sin(angle)], axis=1)


def rff_features_paired_vjp(cotangent, x, frequencies):
    """Ā = √(2/D) (φ̄_sin cos(x W) − φ̄_cos sin(x W)), then (Ā Wᵀ, xᵀ Ā)"""
    half = frequencies.shape[1]
    angle = x @ frequencies
    by_angle = math.sqrt(1 / half) * (cotangent[:, half:] * np.cos(angle) - cotangent[:, :half] * np.sin(angle))
    return _angles_vjp(by_angle, x, frequencies)[:2]


def _hadamard(size):
    """H/√size by Sylvester: H_2q = [[H_q, H_q], [H_q, −H_q]]"""
    matrix = np.ones((1, 1))
    while matrix.shape[0] < size:
        matrix = np.concatenate(
            [np.concatenate([matrix, matrix], axis=1), np.concatenate([matrix, -matrix], axis=1)], axis=0
        )
    return matrix / math.sqrt(size)


def _structured_frequencies(signs, dimensions, features, lengthscale):
    """W (d, D): √q/ℓ (H D_b3 H D_b2 H D_b1)ᵀ, one block beside the other, its first d rows"""
    size = signs.shape[2]
    rotation = _hadamard(size)
    blocks = [s[0][:, None] * (rotation @ (s[1][:, None] * (rotation @ (s[2][:, None] * rotation)))) for s in signs]
    return (math.sqrt(size) * np.concatenate(blocks, axis=1)[:dimensions, :features]) / lengthscale


def structured_features(x, signs, offsets, *, lengthscale=1.0):
    """φ(x) = √(2/D) cos(z + b),  z_b = √q/ℓ · H D_b3 H D_b2 H D_b1 x̃        (SORF, Yu et al. 2016 eq. 6)

    x            x  (n, d)     points; x̃ is x and zeros up to q numbers
    signs        D  (B, 3, q)  ±1, the diagonals of every block; q is a power of two, at least d
    offsets      b  (D,)       uniform on [0, 2π), D ≤ B q
    lengthscale  ℓ  number     standard deviation of the Gaussian kernel, > 0
    returns      φ  (n, D)
    """
    return rff_features(x, _structured_frequencies(signs, x.shape[1], offsets.shape[0], lengthscale), offsets)


def structured_features_vjp(cotangent, x, signs, offsets, lengthscale):
    """the vjp of ``rff_features`` by x and b; signs are drawn and not learned"""
    frequencies = _structured_frequencies(signs, x.shape[1], offsets.shape[0], lengthscale)
    by_x, _, by_b = rff_features_vjp(cotangent, x, frequencies, offsets)
    return by_x, by_b


def _shares(weights, counts):
    """2 w_s/D_s, once for every feature of scale s"""
    return np.repeat(2 * weights / np.array(counts, dtype=np.float64), counts)


def rff_features_multiscale(x, frequencies, offsets, *, weights, counts):
    """φ(x) = [√(2 w_s/D_s) cos(x W_s + b_s)]_s,  Σ w_s = 1: for k = Σ_s w_s k_s        (Rahimi & Recht 2007, linearity)

    x            x    (n, d)  points
    frequencies  W    (d, D)  the columns of all scales, one scale after the other
    offsets      b    (D,)    uniform on [0, 2π)
    weights      w    (S,)    share of every scale's kernel, summing to 1
    counts       D_s  tuple   number of features of every scale, summing to D
    returns      φ    (n, D)
    """
    return np.sqrt(_shares(weights, counts)) * np.cos(x @ frequencies + offsets)


def rff_features_multiscale_vjp(cotangent, x, frequencies, offsets, weights, counts):
    """Ā = −√(2 w_s/D_s) φ̄ sin(x W + b), then (Ā Wᵀ, xᵀ Ā, Σ_i Ā_i)"""
    by_angle = -np.sqrt(_shares(weights, counts)) * cotangent * np.sin(x @ frequencies + offsets)
    return _angles_vjp(by_angle, x, frequencies)


def rff_gram(x, y, frequencies, offsets):
    """K̂ = φ(x) φ(y)ᵀ = (2/D) cos(x W + b) cos(y W + b)ᵀ        (Rahimi & Recht 2007 Alg. 1)

    x            x  (n, d)  points
    y            y  (m, d)  points
    frequencies  W  (d, D)  columns from the kernel's spectral density
    offsets      b  (D,)    uniform on [0, 2π)
    returns      K̂  (n, m)  estimate of k(x_i − y_j)
    """
    return rff_features(x, frequencies, offsets) @ rff_features(y, frequencies, offsets).T


def rff_gram_vjp(cotangent, x, y, frequencies, offsets):
    """the vjp of φ(x) at K̄ φ(y), and of φ(y) at K̄ᵀ φ(x)"""
    left, right = rff_features(x, frequencies, offsets), rff_features(y, frequencies, offsets)
    by_x, by_w, by_b = rff_features_vjp(cotangent @ right, x, frequencies, offsets)
    by_y, also_w, also_b = rff_features_vjp(cotangent.T @ left, y, frequencies, offsets)
    return by_x, by_y, by_w + also_w, by_b + also_b


def _product(x, y, v, frequencies, offsets, shares):
    """cos(x W + b) (share · (cos(y W + b)ᵀ v))"""
    pulled = np.cos(y @ frequencies + offsets).T @ v
    return np.cos(x @ frequencies + offsets) @ (shares[:, None] * pulled)


def _product_vjp(cotangent, x, y, v, frequencies, offsets, shares):
    """by x, y, v, W and b"""
    left, right = x @ frequencies + offsets, y @ frequencies + offsets
    pulled = shares[:, None] * (np.cos(right).T @ v)
    pushed = shares[:, None] * (np.cos(left).T @ cotangent)
    by_x, by_w, by_b = _angles_vjp(-np.sin(left) * (cotangent @ pulled.T), x, frequencies)
    by_y, also_w, also_b = _angles_vjp(-np.sin(right) * (v @ pushed.T), y, frequencies)
    return by_x, by_y, np.cos(right) @ pushed, by_w + also_w, by_b + also_b


def rff_matvec(x, y, v, frequencies, offsets):
    """u = φ(x) (φ(y)ᵀ v) ≈ K(x, y) v,  φ = √(2/D) cos(· W + b)        (Rahimi & Recht 2007 Alg. 1)

    x            x  (n, d)  points
    y            y  (m, d)  points
    v            v  (m, p)  vectors in columns
    frequencies  W  (d, D)  columns from the kernel's spectral density
    offsets      b  (D,)    uniform on [0, 2π)
    returns      u  (n, p)  in O((n + m) D (d + p)) and not O(n m)
    """
    return _product(x, y, v, frequencies, offsets, _shares(np.ones(1), offsets.shape))


def rff_matvec_vjp(cotangent, x, y, v, frequencies, offsets):
    """by x, y, v, W and b: every angle twice, for φ(x) and for φ(y)"""
    return _product_vjp(cotangent, x, y, v, frequencies, offsets, _shares(np.ones(1), offsets.shape))


def rff_matvec_multiscale(x, y, v, frequencies, offsets, *, weights, counts):
    """u = φ(x) (φ(y)ᵀ v) ≈ Σ_s w_s K_s(x, y) v with the features of ``rff_features_multiscale``

    x            x    (n, d)  points
    y            y    (m, d)  points
    v            v    (m, p)  vectors in columns
    frequencies  W    (d, D)  the columns of all scales, one scale after the other
    offsets      b    (D,)    uniform on [0, 2π)
    weights      w    (S,)    share of every scale's kernel, summing to 1
    counts       D_s  tuple   number of features of every scale, summing to D
    returns      u    (n, p)
    """
    return _product(x, y, v, frequencies, offsets, _shares(weights, counts))


def rff_matvec_multiscale_vjp(cotangent, x, y, v, frequencies, offsets, weights, counts):
    """by x, y, v, W and b: the same with every scale's own share"""
    return _product_vjp(cotangent, x, y, v, frequencies, offsets, _shares(weights, counts))


def rff_error_bound(counts, *, points, delta=0.05):
    """t = √(8 ln(2 n²/δ)/D): P(max_ij |K̂_ij − K_ij| ≥ t) ≤ δ        (Hoeffding 1963 Thm 2, terms in [−2, 2])

    counts   D  (...)   number of features
    points   n  number  number of points, so that n² pairs are compared
    delta    δ  number  probability that the bound does not hold, in (0, 1)
    returns  t  (...)
    """
    return np.sqrt(8 * np.log(2 * points * points / delta) / counts)


# -- frequencies from given draws -------------------------------------------------------------------------------------


def gaussian_frequencies(normal, *, lengthscale=1.0):
    """ω = g/ℓ ~ N(0, ℓ⁻² I): the spectral density of ``gaussian``        (Rahimi & Recht 2007 Fig. 1)

    normal       g  (d, D)  standard normal
    lengthscale  ℓ  number  length scale, > 0
    returns      W  (d, D)  one frequency in every column, 1/unit of x
    """
    return normal / lengthscale


def laplacian_l1_frequencies(uniform, *, lengthscale=1.0):
    """ω = −cot(π u)/ℓ: i.i.d. Cauchy(0, 1/ℓ), the spectral density of ``laplacian_l1``  (Rahimi & Recht 2007 Fig. 1)

    uniform      u  (d, D)  uniform on (0, 1)
    lengthscale  ℓ  number  length scale, > 0
    returns      W  (d, D)
    """
    angle = np.pi * uniform
    return -np.cos(angle) / np.sin(angle) / lengthscale


def laplacian_l2_frequencies(normal, denominator, *, lengthscale=1.0):
    """ω = g/(g_0 ℓ): the multivariate Cauchy t_1, the spectral density of ``laplacian_l2``    (R. & W. 2006 eq. 4.15)

    normal       g    (d, D)  standard normal
    denominator  g_0  (D,)    standard normal, one for every column; its sign changes nothing
    lengthscale  ℓ    number  length scale, > 0
    returns      W    (d, D)
    """
    return normal / (denominator * lengthscale)


def cauchy_product_frequencies(uniform, *, lengthscale=1.0):
    """ω = ln(2 u)/ℓ for u < 1/2, else −ln(2 (1 − u))/ℓ: Laplace(0, 1/ℓ), for ``cauchy_product``  (R. & R. 2007 Fig. 1)

    uniform      u  (d, D)  uniform on (0, 1)
    lengthscale  ℓ  number  length scale, > 0
    returns      W  (d, D)
    """
    lower = uniform < 0.5
    return np.where(lower, 1.0, -1.0) * np.log(2 * np.where(lower, uniform, 1 - uniform)) / lengthscale


def cauchy_radial_frequencies(normal, exponential, *, lengthscale=1.0):
    """ω = √(2 u) g/ℓ: 1/(1 + r²) = ∫ e^{−u} e^{−u r²} du is a mixture of Gaussians, for ``cauchy_radial``

    normal       g  (d, D)  standard normal
    exponential  u  (D,)    exponential with mean 1, one for every column
    lengthscale  ℓ  number  length scale, > 0
    returns      W  (d, D)
    """
    return np.sqrt(2 * exponential) * normal / lengthscale


def matern_frequencies(normal, chi_square, *, lengthscale=1.0, nu=1.5):
    """ω = g √(2ν/c)/ℓ: the multivariate t with 2ν degrees of freedom, for ``matern``        (R. & W. 2006 eq. 4.15)

    normal       g  (d, D)  standard normal
    chi_square   c  (D,)    χ² with 2ν degrees of freedom, one for every column
    lengthscale  ℓ  number  length scale, > 0
    nu           ν  number  smoothness, > 0
    returns      W  (d, D)
    """
    return normal * np.sqrt(2 * nu / chi_square) / lengthscale


def orthogonal_frequencies(blocks, radii, *, lengthscale=1.0):
    """W = [Q_1, Q_2, …] diag(ρ)/ℓ,  Q_b = Gram-Schmidt of block b        (orthogonal features, Yu et al. 2016 eq. 4-5)

    blocks       G  (B, d, d)  standard normal
    radii        ρ  (D,)       χ with d degrees of freedom, D ≤ B d: every column on its own is then N(0, ℓ⁻² I)
    lengthscale  ℓ  number     length scale, > 0
    returns      W  (d, D)     the first D columns; those of one block are orthogonal
    """
    columns = [q for block in blocks for q in _orthonormal(block)]
    return np.stack(columns[: radii.shape[0]], axis=1) * radii / lengthscale


def _orthonormal(block):
    """the columns of a square matrix after Gram-Schmidt: q_j = (g_j − Σ_{k<j} (q_k·g_j) q_k)/‖·‖"""
    done = []
    for j in range(block.shape[1]):
        rest = block[:, j]
        for q in done:
            rest = rest - np.sum(q * rest) * q
        done = [*done, rest / np.sqrt(np.sum(rest * rest))]
    return done


# -- Nyström ----------------------------------------------------------------------------------------------------------


def nystrom_features(x, landmarks, *, lengthscale=1.0, reg=1e-6):
    """F = K_xm L⁻ᵀ,  L Lᵀ = K_mm + λ I (Cholesky), so that F Fᵀ = K_xm (K_mm + λ I)⁻¹ K_mx    (Williams & Seeger 2001)

    x            x  (n, d)  points
    landmarks    z  (m, d)  the m points whose columns of the Gaussian kernel are used
    lengthscale  ℓ  number  length scale, > 0
    reg          λ  number  added to the diagonal, ≥ 0
    returns      F  (n, m)
    """
    left = gaussian(x, landmarks, lengthscale=lengthscale)  # what is left to factor: columns of K_xm and of K_mm
    square = gaussian(landmarks, landmarks, lengthscale=lengthscale)
    columns = []
    for _ in range(landmarks.shape[0]):
        pivot = np.sqrt(square[0, 0] + reg)
        column, below = left[:, 0] / pivot, square[1:, 0] / pivot
        left, square = left[:, 1:] - column[:, None] * below, square[1:, 1:] - below[:, None] * below
        columns = [*columns, column]
    return np.stack(columns, axis=1)


def nystrom(x, landmarks, *, lengthscale=1.0, reg=1e-6):
    """K̃ = K_xm (K_mm + λ I)⁻¹ K_mx        (Williams & Seeger 2001; with the Gaussian kernel)

    x            x  (n, d)  points
    landmarks    z  (m, d)  the m points whose columns of the Gaussian kernel are used
    lengthscale  ℓ  number  length scale, > 0
    reg          λ  number  added to the diagonal, ≥ 0; K − K̃ is positive semidefinite for every λ
    returns      K̃  (n, n)
    """
    found = nystrom_features(x, landmarks, lengthscale=lengthscale, reg=reg)
    return found @ found.T


def nystrom_matvec(x, landmarks, v, *, lengthscale=1.0, reg=1e-6):
    """u = K̃ v = K_xm (K_mm + λ I)⁻¹ (K_mx v)        (Williams & Seeger 2001)

    x            x  (n, d)  points
    landmarks    z  (m, d)  the m points whose columns of the Gaussian kernel are used
    v            v  (n, p)  vectors in columns
    lengthscale  ℓ  number  length scale, > 0
    reg          λ  number  added to the diagonal, ≥ 0
    returns      u  (n, p)
    """
    found = nystrom_features(x, landmarks, lengthscale=lengthscale, reg=reg)
    return found @ (found.T @ v)


def nystrom_trace_bound(x, landmarks, *, lengthscale=1.0, reg=1e-6):
    """tr(K − K̃) = Σ_i (1 − ‖F_i‖²) ≥ ‖K − K̃‖_F ≥ ‖K − K̃‖₂        (K − K̃ is positive semidefinite)

    x            x  (n, d)  points
    landmarks    z  (m, d)  the m points whose columns of the Gaussian kernel are used
    lengthscale  ℓ  number  length scale, > 0
    reg          λ  number  added to the diagonal, ≥ 0
    returns      ()         a bound that holds for these very points, in O(n m²)
    """
    found = nystrom_features(x, landmarks, lengthscale=lengthscale, reg=reg)
    return np.sum(1 - np.sum(found * found, axis=1))


def nystrom_rate(landmarks):
    """1/√m = m^{−1/2}: how the median of ‖K − K̃‖₂/n may fall with m random landmarks. A rate and not a bound

    landmarks  m  (...)  number of landmarks, ≥ 1
    returns       (...)
    """
    return 1 / np.sqrt(landmarks)


def drineas_mahoney_spectral(landmarks, *, points, delta=0.05):
    """‖K − K̃‖₂ − ‖K − K_k‖₂ ≤ 2 η n/√m,  η = 1 + √(8 ln(1/δ)), with probability 1 − δ (Drineas & Mahoney 2005 Thm 3)

    landmarks  m  (...)   number of landmarks, drawn with replacement, uniformly as k(x, x) = 1
    points     n  number  number of points
    delta      δ  number  probability that the bound does not hold, in (0, 1)
    returns       (...)   what is added to the error of the best approximation of rank k
    """
    return 2 * (1 + np.sqrt(8 * np.log(1 / delta))) * points / np.sqrt(landmarks)


def drineas_mahoney_frobenius(landmarks, *, points, rank, delta=0.05):
    """‖K − K̃‖_F − ‖K − K_k‖_F ≤ n (64 k η²/m)^{1/4},  η = 1 + √(8 ln(1/δ))        (Drineas & Mahoney 2005 Thm 3)

    landmarks  m  (...)   number of landmarks, drawn with replacement, uniformly as k(x, x) = 1
    points     n  number  number of points
    rank       k  int     rank of the approximation, ≥ 1
    delta      δ  number  probability that the bound does not hold, in (0, 1)
    returns       (...)   what is added to the error of the best approximation of rank k
    """
    eta = 1 + np.sqrt(8 * np.log(1 / delta))
    return points * np.sqrt(np.sqrt(64 * rank * eta * eta / landmarks))
