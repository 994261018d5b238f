"""Atlas memory, fast: polynomial features, the Omega rule in chunks, Newton–Schulz, and the attention made of them.

    S_t = θ_t S_{t−1} + ∇L_t(M̂),    M_t = α_t M_{t−1} − η_t NS(S_t),    o_t = φ(q_t)ᵀ M_t
    L_t(M) = Σ_{j<c} γ_{t,j} ℓ(M; φ(k_{t−j}), v_{t−j})

Behrouz et al. 2025, ATLAS: Learning to Optimally Memorize the Context at Test Time (2505.23735), eq. 9, 15-16, 32-33.
M̂ is the memory at the start of a chunk of C tokens; C belongs to the model, and C = 1 is the rule of every token. With
gradient descent a chunk is a handful of matrix products, the other optimisers write out one gradient a token.
float16 and bfloat16 are computed in float32 and rounded once. Differentiable by autograd; CPU and CUDA; any strides.
``AtlasAttention`` is the layer of a network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from trueness.optimized._lib.dtypes import autocast_disabled, upcast
from trueness.optimized._lib.validation import require_count, require_floating
from trueness.optimized.atlas_memory import dispatch as _omega
from trueness.optimized.atlas_memory import features as _features
from trueness.optimized.atlas_memory import muon as _muon
from trueness.optimized.atlas_memory import validation as _require
from trueness.optimized.atlas_memory import varlen as _varlen
from trueness.optimized.atlas_memory.gd import api as _descent
from trueness.optimized.atlas_memory.module import AtlasAttention, AtlasState
from trueness.optimized.atlas_memory.muon import CLASSICAL, EPS, JORDAN, LACT, POLAR_EXPRESS
from trueness.optimized.atlas_memory.streaming.linear import OmegaState, OmegaStream
from trueness.optimized.atlas_memory.streaming.mlp import OmegaMlpState, OmegaMlpStream

__all__ = [
    "CLASSICAL",
    "EPS",
    "JORDAN",
    "LACT",
    "POLAR_EXPRESS",
    "AtlasAttention",
    "AtlasState",
    "OmegaMlpState",
    "OmegaMlpStream",
    "OmegaState",
    "OmegaStream",
    "atlas_attention",
    "elementwise_features",
    "newton_schulz",
    "newton_schulz_lowrank",
    "omega",
    "omega_mlp",
    "omega_picard",
    "omega_separable",
    "omega_varlen",
    "taylor_coefficients",
    "tensor_features",
    "window_weights",
]

Device = torch.device | str | None


# -- features ---------------------------------------------------------------------------------------------------------


def taylor_coefficients(degree: int, *, dtype: torch.dtype = torch.float64, device: Device = None) -> torch.Tensor:
    """a_i = 1/i!        (Behrouz et al. 2025 eq. 5)

    degree   p  int     highest power, at least 0
    returns  a  (p+1,)  Taylor's of exp
    raises   ValueError if degree is not such an integer
    """
    require_count(degree, "degree", 0)
    return torch.tensor(_features.taylor(degree), dtype=torch.float64).to(device=device, dtype=dtype)


def window_weights(
    window: int, decay: float, *, dtype: torch.dtype = torch.float64, device: Device = None
) -> torch.Tensor:
    """γ_j = exp(−λ j) / Σ_i exp(−λ i)

    window   c  int     tokens in the window, at least 1
    decay    λ  number  per token of age, ≥ 0
    returns  γ  (c,)    weight by age, the youngest first; their sum is 1
    raises   ValueError if window is not such an integer or decay is negative
    """
    require_count(window, "window", 1)
    _require.require_not_negative(decay, "decay")
    weights = torch.exp(-decay * torch.arange(window, dtype=torch.float64))
    return (weights / weights.sum()).to(device=device, dtype=dtype)


def elementwise_features(x: torch.Tensor, coefficients: torch.Tensor, clamp: float) -> torch.Tensor:
    """φ(x) = [a_0 1; a_1 x̂; a_2 x̂²; …; a_p x̂^p],  x̂ = min(max(x, −κ), κ), powers element by element

    x             x  (..., D)       keys or queries; any floating dtype
    coefficients  a  (p+1,)         of the powers 0 … p
    clamp         κ  number         bound on |x_d|, > 0; no gradient beyond it
    returns       φ  (..., (p+1)D)  dtype of x, power by power; the first D are a_0
    raises        ValueError if x is not floating or has no axis, coefficients is not (p+1,), or clamp is not positive
    """
    _require_features(x)
    _require.require_coefficients(coefficients, x)
    _require.require_positive(clamp, "clamp")
    return _features.elementwise(x, coefficients, clamp)


def tensor_features(x: torch.Tensor, degree: int) -> torch.Tensor:
    """φ*(x) = [1; x; x⊗x/√2!; …; x^{⊗p}/√p!],  φ*(x)ᵀφ*(y) = Σ_{i≤p} (xᵀy)^i/i! → exp(xᵀy)        (eq. 22-23)

    x        x   (..., D)        keys or queries; any floating dtype
    degree   p   int             highest power, at least 0
    returns  φ*  (..., Σ_i D^i)  dtype of x, power by power, row-major
    raises   ValueError if x is not floating or has no axis, or degree is not such an integer
    """
    _require_features(x)
    require_count(degree, "degree", 0)
    return _features.tensor(x, degree)


def _require_features(x: torch.Tensor) -> None:
    require_floating(x, "x")
    if not x.ndim or not x.shape[-1]:
        raise ValueError(f"x had shape {tuple(x.shape)}; it must be (..., D) with D of at least 1.")


# -- Newton–Schulz ----------------------------------------------------------------------------------------------------


def newton_schulz(g: torch.Tensor, coefficients: Sequence[Sequence[float]], eps: float) -> torch.Tensor:
    """NS(G): X = G/(‖G‖_F + ε),  then X ← a X + (b A + c A²) X with A = X Xᵀ for every (a, b, c)

    In bfloat16 the rounding noise in the null space of a matrix of low rank would grow 3.4445⁵-fold: here it is
    computed in float32 or float64 whatever g is.

    g             G      (..., R, C)  a matrix or several; any floating dtype
    coefficients  a,b,c  (k, 3)       one row for every step: JORDAN, CLASSICAL or others
    eps           ε      number       ≥ 0; NS(0) = 0 if it is > 0
    returns       NS     (..., R, C)  dtype of g
    raises        ValueError if g is not floating or no matrix, coefficients has not three numbers a row, or eps < 0
    """
    require_floating(g, "g")
    if g.ndim < 2:
        raise ValueError(f"g had shape {tuple(g.shape)}; it must have at least the axes (R, C).")
    _require.require_steps(coefficients)
    _require.require_not_negative(eps, "eps")
    with autocast_disabled(g):
        return _muon.newton_schulz(upcast(g), coefficients, eps).to(g.dtype)


def newton_schulz_lowrank(
    x: torch.Tensor, y: torch.Tensor, coefficients: Sequence[Sequence[float]], eps: float
) -> torch.Tensor:
    """NS(Xᵀ Y) = Q_x NS(R_x R_yᵀ) Q_yᵀ,  Xᵀ = Q_x R_x,  Yᵀ = Q_y R_y: steps on r × r matrices, in float32 or float64

    x             X      (..., r, P)  rows, such as keys; any floating dtype
    y             Y      (..., r, V)  rows, such as their errors; like x, with the same axes before
    coefficients  a,b,c  (k, 3)       one row for every step: JORDAN, LACT, POLAR_EXPRESS, CLASSICAL or others
    eps           ε      number       ≥ 0; NS(0) = 0 if it is > 0
    returns       NS     (..., P, V)  dtype of x
    raises        ValueError if x or y is not floating, their axes differ, coefficients has not three numbers a row, or
                  eps < 0
    """
    require_floating(x, "x")
    require_floating(y, "y")
    if x.ndim < 2:
        raise ValueError(f"x had shape {tuple(x.shape)}; it must have at least the axes (r, P).")
    if y.shape[:-1] != x.shape[:-1]:
        shown = ", ".join(map(str, x.shape[:-1]))
        raise ValueError(f"y had shape {tuple(y.shape)}; it must be ({shown}, V), with the rows of x.")
    if y.dtype != x.dtype or y.device != x.device:
        raise ValueError(f"y was {y.dtype} on {y.device}; it must be like x, {x.dtype} on {x.device}.")
    _require.require_steps(coefficients)
    _require.require_not_negative(eps, "eps")
    with autocast_disabled(x):
        return _muon.newton_schulz_lowrank(upcast(x), upcast(y), coefficients, eps).to(x.dtype)


# -- the Omega rule ---------------------------------------------------------------------------------------------------


def omega(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    alpha: torch.Tensor,
    eta: torch.Tensor,
    theta: torch.Tensor,
    gamma: torch.Tensor,
    memory: torch.Tensor,
    momentum: torch.Tensor,
    k_window: torch.Tensor,
    v_window: torch.Tensor,
    chunk_size: int,
    objective: str,
    optimizer: str,
    placement: str,
    read: str,
    clip: float | None,
    *,
    tile: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """S_t = θ_t S_{t−1} + i_t g_t,  M_t = α_t M_{t−1} − w_t U_t,  o_t = q_tᵀ M_t        (eq. 9, 15-16, 32-33)

    g_t = Σ_{j<c} γ_{t,j} k_{t−j} (k_{t−j}ᵀ M̂ − v_{t−j})ᵀ, every element held in [−clip, clip] if there is a clip;
    for the objective "dot", −k vᵀ in place of k (kᵀM̂ − v)ᵀ. M̂ is the memory before the first token of the chunk.

    q           q   (B, T, H, P)    features of the queries; any floating dtype, and all tensors like it
    k           k   (B, T, H, P)    features of the keys
    v           v   (B, T, H, V)    values
    alpha       α   (B, T, H)       share of the memory that stays, in [0, 1]
    eta         η   (B, T, H)       step size, ≥ 0; 0 leaves the memory alone
    theta       θ   (B, T, H)       share of the momentum that stays, in [0, 1]
    gamma       γ   (B, T, H, c)    weight of token t − j at time t; not renormalised where the window is not full
    memory      M_0 (B, H, P, V)    memory before the first token
    momentum    S_0 (B, H, P, V)    momentum before the first token
    k_window        (B, c−1, H, P)  features of the last c − 1 tokens before the first, zeros where there are none
    v_window        (B, c−1, H, V)  their values
    chunk_size  C   int             tokens whose gradients are taken at one memory, at least 1: part of the model
    objective                       "l2": ½|kᵀM − v|², or "dot": −⟨kᵀM, v⟩
    optimizer                       "gd": U_t = S_t; "muon": U_t = NS(S_t); "muon_chunk": U_t = NS(S at the end of t's
                                    chunk), and every token of the chunk reads M̂; "norm_ema": U_t = i_t g_t/(m_t + ε),
                                    m_t = 0.9 m_{t−1} + 0.1 ‖g_t‖_F from m_0 = 0 in every call. ε = 10⁻⁸, NS by JORDAN
    placement                       "outer": i_t = 1, w_t = η_t (eq. 32); "inner": i_t = η_t, w_t = 1 (eq. 12-13)
    read                            "post": o_t = q_tᵀ M_t (eq. 29); "pre": o_t = q_tᵀ M_{t−1}; not looked at for
                                    "muon_chunk"
    clip                            None, or a positive number
    tile            int             tokens computed together where their number is not part of the model: for C = 1 and
                                    for "dot", with gradient descent; None chooses, and the result does not depend on it
    returns     o   (B, T, H, V)    dtype of q
                M_T (B, H, P, V)
                S_T (B, H, P, V)
    raises      ValueError if a tensor does not fit the others, or a mode is not one of those named
    """
    _require.require_shapes(
        {
            "q": (q, "B T H P"),
            "k": (k, "B T H P"),
            "v": (v, "B T H V"),
            "alpha": (alpha, "B T H"),
            "eta": (eta, "B T H"),
            "theta": (theta, "B T H"),
            "gamma": (gamma, "B T H c"),
            "memory": (memory, "B H P V"),
            "momentum": (momentum, "B H P V"),
            "k_window": (k_window, "B c-1 H P"),
            "v_window": (v_window, "B c-1 H V"),
        },
        "q",
    )
    _require.require_modes(chunk_size, objective, optimizer, placement, read, clip)
    require_count(1 if tile is None else tile, "tile", 1)
    tokens, state = (q, k, v, alpha, eta, theta, gamma), (memory, momentum, k_window, v_window)
    return _omega.run(*tokens, *state, chunk_size, objective, optimizer, placement, read, clip, tile)


def omega_varlen(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    alpha: torch.Tensor,
    eta: torch.Tensor,
    theta: torch.Tensor,
    gamma: torch.Tensor,
    memory: torch.Tensor,
    momentum: torch.Tensor,
    k_window: torch.Tensor,
    v_window: torch.Tensor,
    cu_seqlens: torch.Tensor,
    chunk_size: int,
    objective: str,
    optimizer: str,
    placement: str,
    read: str,
    clip: float | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """o, M_n, S_n = omega of tokens n_i … n_{i+1} − 1, for every sequence i by itself, n = cu_seqlens

    q           q   (1, T, H, P)    features of the queries, the sequences one after another; any floating dtype
    k           k   (1, T, H, P)    features of the keys
    v           v   (1, T, H, V)    values
    alpha       α   (1, T, H)       share of the memory that stays, in [0, 1]
    eta         η   (1, T, H)       step size, ≥ 0
    theta       θ   (1, T, H)       share of the momentum that stays, in [0, 1]
    gamma       γ   (1, T, H, c)    weight of token t − j at time t
    memory      M_0 (N, H, P, V)    memory before the first token of every sequence
    momentum    S_0 (N, H, P, V)    momentum before it
    k_window        (N, c−1, H, P)  features of the c − 1 tokens before it, zeros where there are none
    v_window        (N, c−1, H, V)  their values
    cu_seqlens  n   (N+1,)          int32 or int64: 0, T_1, T_1 + T_2, …, T. Best on the CPU: it is read there
    chunk_size  C   int             as in ``omega``, and so are
    objective, optimizer, placement, read, clip
    returns     o   (1, T, H, V)    dtype of q
                M   (N, H, P, V)    after the last token of every sequence; M_0 of one without tokens
                S   (N, H, P, V)
    raises      ValueError if a tensor does not fit the others, cu_seqlens does not rise from 0 to T, or a mode is not
                one of those named
    """
    _require.require_shapes(
        {
            "q": (q, "one T H P"),
            "k": (k, "one T H P"),
            "v": (v, "one T H V"),
            "alpha": (alpha, "one T H"),
            "eta": (eta, "one T H"),
            "theta": (theta, "one T H"),
            "gamma": (gamma, "one T H c"),
            "memory": (memory, "N H P V"),
            "momentum": (momentum, "N H P V"),
            "k_window": (k_window, "N c-1 H P"),
            "v_window": (v_window, "N c-1 H V"),
        },
        "q",
    )
    if q.shape[0] != 1:
        raise ValueError(f"q had shape {tuple(q.shape)}; it must be (1, T, H, P): the sequences stand in one row.")
    _require.require_modes(chunk_size, objective, optimizer, placement, read, clip)
    ends = _require.require_ends(cu_seqlens, q.shape[1], memory.shape[0])
    tokens = tuple(upcast(x) for x in (q, k, v, alpha, eta, theta, gamma))
    state = tuple(upcast(x) for x in (memory, momentum, k_window, v_window))
    with autocast_disabled(q):
        o, M, S = _varlen.run(tokens, state, ends, (chunk_size, objective, optimizer, placement, read, clip))
        return o.to(q.dtype), M.to(q.dtype), S.to(q.dtype)


# -- a memory of two layers -------------------------------------------------------------------------------------------


def omega_mlp(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    alpha: torch.Tensor,
    eta: torch.Tensor,
    theta: torch.Tensor,
    gamma: torch.Tensor,
    w1: torch.Tensor,
    w2: torch.Tensor,
    s1: torch.Tensor,
    s2: torch.Tensor,
    k_window: torch.Tensor,
    v_window: torch.Tensor,
    chunk_size: int,
    optimizer: str,
    placement: str,
    read: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """S_t = θ_t S_{t−1} + i_t g_t,  W_t = α_t W_{t−1} − w_t U_t,  o_t = f(q_t; W_t)        (eq. 42)

    The memory is f(x) = x + W1 σ(W2 x), σ(z) = z/(1 + e^{−z}).
    g_t = Σ_{j<c} γ_{t,j} ∇½|f(k_{t−j}) − v_{t−j}|² of both matrices at the weights before the first token of the chunk.

    q           q   (B, T, H, V)    queries; any floating dtype, and all tensors like it
    k           k   (B, T, H, V)    keys
    v           v   (B, T, H, V)    values
    alpha       α   (B, T, H)       share of the weights that stays, in [0, 1]
    eta         η   (B, T, H)       step size, ≥ 0
    theta       θ   (B, T, H)       share of the momentum that stays, in [0, 1]
    gamma       γ   (B, T, H, c)    weight of token t − j at time t
    w1          W1  (B, H, V, N)    outer weights before the first token
    w2          W2  (B, H, N, V)    inner weights
    s1          S1  (B, H, V, N)    momentum of W1
    s2          S2  (B, H, N, V)    momentum of W2
    k_window        (B, c−1, H, V)  the last c − 1 keys before the first token, zeros where there are none
    v_window        (B, c−1, H, V)  their values
    chunk_size  C   int             tokens whose gradients are taken at one set of weights, at least 1
    optimizer                       of each matrix, as in ``omega``: "gd", "muon" or "muon_chunk"
    placement                       "outer": i_t = 1, w_t = η_t; "inner": i_t = η_t, w_t = 1
    read                            "post": o_t = f(q_t; W_t); "pre": o_t = f(q_t; W_{t−1}); not looked at for
                                    "muon_chunk"
    returns     o   (B, T, H, V)    dtype of q
                W1, W2, S1, S2 after the last token
    raises      ValueError if a tensor does not fit the others, or a mode is not one of those named
    """
    _require.require_shapes(
        {
            "q": (q, "B T H V"),
            "k": (k, "B T H V"),
            "v": (v, "B T H V"),
            "alpha": (alpha, "B T H"),
            "eta": (eta, "B T H"),
            "theta": (theta, "B T H"),
            "gamma": (gamma, "B T H c"),
            "w1": (w1, "B H V N"),
            "w2": (w2, "B H N V"),
            "s1": (s1, "B H V N"),
            "s2": (s2, "B H N V"),
            "k_window": (k_window, "B c-1 H V"),
            "v_window": (v_window, "B c-1 H V"),
        },
        "q",
    )
    _require.require_modes(chunk_size, "l2", optimizer, placement, read, None)
    _require.require_layers(optimizer)
    tokens, state = (q, k, v, alpha, eta, theta, gamma), (w1, w2, s1, s2, k_window, v_window)
    return _omega.run_layers(*tokens, *state, chunk_size, optimizer, placement, read)


# -- attention --------------------------------------------------------------------------------------------------------


def atlas_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    alpha: torch.Tensor,
    eta: torch.Tensor,
    theta: torch.Tensor,
    gamma: torch.Tensor,
    coefficients: torch.Tensor,
    clamp: float,
    chunk_size: int,
    objective: str,
    optimizer: str,
    placement: str,
    read: str,
    clip: float | None,
) -> torch.Tensor:
    """o = omega(φ(q), φ(k), v, …) from an empty memory,  φ(x) = elementwise_features(x)/√P        (eq. 9, 29, 32-33)

    q             q  (B, T, H, D)  queries; any floating dtype, and all tensors like it
    k             k  (B, T, H, D)  keys
    v             v  (B, T, H, V)  values
    alpha         α  (B, T, H)     share of the memory that stays, in [0, 1]
    eta           η  (B, T, H)     step size, ≥ 0
    theta         θ  (B, T, H)     share of the momentum that stays, in [0, 1]
    gamma         γ  (B, T, H, c)  weight of token t − j at time t
    coefficients  a  (p+1,)        of the powers 0 … p
    clamp         κ  number        bound on the elements of q and k, > 0
    chunk_size    C  int           as in ``omega``, and so are
    objective, optimizer, placement, read, clip
    returns       o  (B, T, H, V)  dtype of q
    raises        ValueError if a tensor does not fit the others, or a mode is not one of those named
    """
    shapes = {"q": (q, "B T H D"), "k": (k, "B T H D"), "v": (v, "B T H V"), "alpha": (alpha, "B T H")}
    shapes |= {"eta": (eta, "B T H"), "theta": (theta, "B T H"), "gamma": (gamma, "B T H c")}
    _require.require_shapes(shapes, "q")
    _require.require_coefficients(coefficients, q)
    _require.require_positive(clamp, "clamp")
    _require.require_modes(chunk_size, objective, optimizer, placement, read, clip)
    dtype = q.dtype
    q, k, v, alpha, eta, theta, gamma, coefficients = (
        upcast(x) for x in (q, k, v, alpha, eta, theta, gamma, coefficients)
    )
    scale = math.sqrt(coefficients.shape[0] * q.shape[-1])
    phi_q, phi_k = (_features.elementwise(x, coefficients, clamp) / scale for x in (q, k))
    batch, _, heads, width = phi_k.shape
    memory = q.new_zeros(batch, heads, width, v.shape[-1])
    k_window, v_window = (q.new_zeros(batch, gamma.shape[-1] - 1, heads, n) for n in (width, v.shape[-1]))
    tokens = phi_q, phi_k, v, alpha, eta, theta, gamma
    modes = chunk_size, objective, optimizer, placement, read, clip
    return _omega.run(*tokens, memory, memory, k_window, v_window, *modes)[0].to(dtype)


# -- windows of separable weights, and sweeps in place of steps -------------------------------------------------------


def omega_separable(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    alpha: torch.Tensor,
    eta: torch.Tensor,
    theta: torch.Tensor,
    scale: torch.Tensor,
    source: torch.Tensor,
    memory: torch.Tensor,
    momentum: torch.Tensor,
    k_window: torch.Tensor,
    v_window: torch.Tensor,
    source_window: torch.Tensor,
    chunk_size: int,
    objective: str,
    placement: str,
    read: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``omega`` by gradient descent with γ_{t,j} = r_t u_{t−j}, at a cost that does not grow with the window

    The chunks that lie in all windows of a chunk enter as two matrices, Σ u k kᵀ and Σ u k vᵀ.

    q              q   (B, T, H, P)    as in ``omega``, and so are
    k, v, alpha, eta, theta, memory, momentum, k_window, v_window, chunk_size, objective, placement, read
    scale          r   (B, T, H)       weight of all that token t looks at
    source         u   (B, T, H)       weight of token t wherever it is looked at
    source_window      (B, c−1, H)     that of the last c − 1 tokens before the first
    returns        o   (B, T, H, V)    dtype of q
                   M_T (B, H, P, V)
                   S_T (B, H, P, V)
    raises         ValueError if a tensor does not fit the others, or a mode is not one of those named
    """
    _require.require_shapes(
        {
            "q": (q, "B T H P"),
            "k": (k, "B T H P"),
            "v": (v, "B T H V"),
            "alpha": (alpha, "B T H"),
            "eta": (eta, "B T H"),
            "theta": (theta, "B T H"),
            "scale": (scale, "B T H"),
            "source": (source, "B T H"),
            "memory": (memory, "B H P V"),
            "momentum": (momentum, "B H P V"),
            "k_window": (k_window, "B W H P"),
            "v_window": (v_window, "B W H V"),
            "source_window": (source_window, "B W H"),
        },
        "q",
    )
    _require.require_modes(chunk_size, objective, "gd", placement, read, None)
    tokens, state = (q, k, v, alpha, eta, theta, scale, source), (memory, momentum, k_window, v_window, source_window)
    return _descent.descend_separable(*tokens, *state, chunk_size, objective, placement, read)


def omega_picard(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    alpha: torch.Tensor,
    eta: torch.Tensor,
    theta: torch.Tensor,
    gamma: torch.Tensor,
    memory: torch.Tensor,
    momentum: torch.Tensor,
    k_window: torch.Tensor,
    v_window: torch.Tensor,
    placement: str,
    read: str,
    tile: int,
    sweeps: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """M⁰_t = memories of a tile without gradients;  g^i_t = ∇L_t(M^i_{t−1}),  M^{i+1} = memories with the gradients g^i

    Picard's iteration for the rule of every token, ``omega`` with C = 1 on squared errors: between a linearisation at
    the tile's start (no sweep) and the rule itself (as many sweeps as the tile has tokens), in matrix products alone.

    q         q   (B, T, H, P)  as in ``omega``, and so are
    k, v, alpha, eta, theta, gamma, memory, momentum, k_window, v_window, placement, read
    tile      n   int           tokens that are run together, at least 1
    sweeps    s   int           at least 0; more than n change nothing
    returns   o   (B, T, H, V)  dtype of q
              M_T (B, H, P, V)
              S_T (B, H, P, V)
    raises    ValueError if a tensor does not fit the others, or a mode is not one of those named
    """
    _require.require_shapes(
        {
            "q": (q, "B T H P"),
            "k": (k, "B T H P"),
            "v": (v, "B T H V"),
            "alpha": (alpha, "B T H"),
            "eta": (eta, "B T H"),
            "theta": (theta, "B T H"),
            "gamma": (gamma, "B T H c"),
            "memory": (memory, "B H P V"),
            "momentum": (momentum, "B H P V"),
            "k_window": (k_window, "B c-1 H P"),
            "v_window": (v_window, "B c-1 H V"),
        },
        "q",
    )
    _require.require_modes(1, "l2", "gd", placement, read, None)
    require_count(tile, "tile", 1)
    require_count(sweeps, "sweeps", 0)
    tokens, state = (q, k, v, alpha, eta, theta, gamma), (memory, momentum, k_window, v_window)
    return _descent.descend_picard(*tokens, *state, placement, read, tile, sweeps)
