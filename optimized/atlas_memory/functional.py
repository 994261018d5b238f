"""The functions of atlas_memory: features, Newton–Schulz, the Omega rule in chunks, and the attention made of them.

    S_t = θ_t S_{t−1} + ∇L_t(M̂),    M_t = α_t M_{t−1} − η_t NS(S_t),    o_t = φ(q_t)ᵀ M_t
    L_t(M) = Σ_{j<c} γ_{t,j} ℓ(M; φ(k_{t−j}), v_{t−j})

Behrouz et al. 2025, ATLAS: Learning to Optimally Memorize the Context at Test Time (2505.23735), eq. 9, 15-16, 32-33.
M̂ is the memory at the start of a chunk of C tokens; C belongs to the model, and C = 1 is the rule of every token. With
gradient descent a chunk is a handful of matrix products, the other optimizers materialize one gradient per token.
float16 and bfloat16 are computed in float32 and rounded once. Differentiable by autograd; CPU and CUDA; any strides.
"""

from __future__ import annotations

import math

import torch

from trueness.optimized._lib.dtypes import autocast_disabled, upcast
from trueness.optimized._lib.validation import require_count, require_floating
from trueness.optimized.atlas_memory import dispatch as _dispatch
from trueness.optimized.atlas_memory import features as _features
from trueness.optimized.atlas_memory import muon as _muon
from trueness.optimized.atlas_memory import validation as _require
from trueness.optimized.atlas_memory import varlen as _varlen
from trueness.optimized.atlas_memory.config import OmegaConfig, require_descent, require_mlp
from trueness.optimized.atlas_memory.gd import api as _descent
from trueness.optimized.atlas_memory.muon import EPS, JORDAN
from trueness.optimized.atlas_memory.state import (
    OmegaMlpState,
    OmegaState,
    SeparableState,
    Tokens,
    shift_window,
    zero_state,
    zero_windows,
)

__all__ = [
    "atlas_attention",
    "elementwise_features",
    "newton_schulz",
    "newton_schulz_lowrank",
    "omega",
    "omega_mlp",
    "omega_picard",
    "omega_separable",
    "taylor_coefficients",
    "tensor_features",
    "window_weights",
]

Device = torch.device | str | None
Steps = _muon.Steps
Tensor = torch.Tensor
TOKENS = {"q": "B T H P", "k": "B T H P", "v": "B T H V", "alpha": "B T H", "eta": "B T H", "theta": "B T H"}


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
    window: int, *, decay: float = 0.1, dtype: torch.dtype = torch.float64, device: Device = None
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


def elementwise_features(x: torch.Tensor, coefficients: torch.Tensor, *, clamp: float = 10.0) -> torch.Tensor:
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


def newton_schulz(g: torch.Tensor, *, coefficients: Steps = JORDAN, eps: float = EPS) -> torch.Tensor:
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
    x: torch.Tensor, y: torch.Tensor, *, coefficients: Steps = JORDAN, eps: float = EPS
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
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    alpha: Tensor,
    eta: Tensor,
    theta: Tensor,
    gamma: Tensor,
    config: OmegaConfig = OmegaConfig(),  # noqa: B008
    initial_state: OmegaState | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    tile: int | None = None,
) -> tuple[Tensor, OmegaState | None]:
    """S_t = θ_t S_{t−1} + i_t g_t,  M_t = α_t M_{t−1} − w_t U_t,  o_t = q_tᵀ M_t        (eq. 9, 15-16, 32-33)

    g_t = Σ_{j<c} γ_{t,j} k_{t−j} (k_{t−j}ᵀ M̂ − v_{t−j})ᵀ, every element bounded by [−clip, clip] if there is a clip;
    for the objective "dot", −k vᵀ in place of k (kᵀM̂ − v)ᵀ. M̂ is the memory before the first token of the chunk.

    q           q   (B, T, H, P)  features of the queries; any floating dtype, and all tensors like it
    k           k   (B, T, H, P)  features of the keys
    v           v   (B, T, H, V)  values
    alpha       α   (B, T, H)     share of the memory that stays, in [0, 1]
    eta         η   (B, T, H)     step size, ≥ 0; 0 leaves the memory alone
    theta       θ   (B, T, H)     share of the momentum that stays, in [0, 1]
    gamma       γ   (B, T, H, c)  weight of token t − j at time t; not renormalised where the window is not full
    config                        chunk size, objective, optimizer, …; see ``OmegaConfig``
    initial_state                 memory, momentum and window before the first token, zeros by default
    output_final_state            return the state after the last token; the next call begins a new chunk
    cu_seqlens  n   (N+1,)        int32 or int64: 0, T_1, T_1 + T_2, …, T. With it B = 1, and tokens n_i … n_{i+1} − 1
                                  are sequence i; states are (N, …). Best on the CPU, where it is read
    tile            int           tokens computed together where their number is not part of the model: for C = 1 and
                                  for "dot", with gradient descent, without cu_seqlens; None chooses, and the result
                                  does not depend on it
    returns     o   (B, T, H, V)  dtype of q
                state             ``OmegaState`` in the dtype of q, or None if not asked for; M_0 of an empty sequence
    raises      ValueError if a tensor does not fit the others, or cu_seqlens does not rise from 0 to T
    """
    tokens = Tokens(q, k, v, alpha, eta, theta, gamma)
    ends = None if cu_seqlens is None else _ends(cu_seqlens, q, initial_state)
    state = _checked(tokens, initial_state, None if ends is None else len(ends) - 1)
    require_count(1 if tile is None else tile, "tile", 1)
    if ends is None:
        o, M, S = _dispatch.run(tokens, state, config, tile)
    else:
        wide = Tokens._make(map(upcast, tokens)), OmegaState._make(map(upcast, state))
        with autocast_disabled(q):
            o, M, S = (x.to(q.dtype) for x in _varlen.run(*wide, ends, config))
    if not output_final_state:
        return o, None
    pairs = (state.k_window, k), (state.v_window, v)
    if ends is None:
        return o, OmegaState(M, S, *_final_windows(*pairs))
    with autocast_disabled(q):
        windows = [_varlen.final_window(window, x, ends) for window, x in pairs]
    return o, OmegaState(M, S, *windows)


def _final_windows(*pairs: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Windows (B, c−1, H, …) after the tokens beside them"""
    with autocast_disabled(pairs[0][1]):
        return [shift_window(window, x) for window, x in pairs]


def _ends(cu_seqlens: Tensor, q: Tensor, state: OmegaState | None) -> list[int]:
    """Where the sequences of one row begin and end"""
    _require.require_shapes({"q": (q, "B T H P")}, "q")
    if q.shape[0] != 1:
        raise ValueError(f"q had shape {tuple(q.shape)}; with cu_seqlens it must be (1, T, H, P).")
    sequences = None if state is None else _fields_of(state, OmegaState)[0].shape[0]
    return _require.require_ends(cu_seqlens, q.shape[1], sequences)


def _checked(tokens: Tokens, state: OmegaState | None, sequences: int | None = None) -> OmegaState:
    """The initial state of these tokens, after checking their shapes; (N, …) for N sequences in one row"""
    shapes = {name: (x, TOKENS.get(name, "B T H c")) for name, x in zip(Tokens._fields, tokens, strict=True)}
    if state is None:
        _require.require_shapes(shapes, "q")
        return zero_state(tokens, tokens.q.shape[0] if sequences is None else sequences)
    batch = "B" if sequences is None else "N"
    axes = (f"{batch} H P V", f"{batch} H P V", f"{batch} c-1 H P", f"{batch} c-1 H V")
    states = _require.with_axes(OmegaState, _fields_of(state, OmegaState), axes)
    _require.require_shapes(shapes | states, "q")
    return state


def _fields_of(state: object, kind: type[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    if not isinstance(state, kind):
        raise ValueError(f"initial_state was {type(state).__name__}; it must be an {kind.__name__}.")
    return state


# -- a memory of two layers -------------------------------------------------------------------------------------------


def omega_mlp(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    alpha: Tensor,
    eta: Tensor,
    theta: Tensor,
    gamma: Tensor,
    initial_state: OmegaMlpState,
    config: OmegaConfig = OmegaConfig(),  # noqa: B008
    output_final_state: bool = False,
) -> tuple[Tensor, OmegaMlpState | None]:
    """S_t = θ_t S_{t−1} + i_t g_t,  W_t = α_t W_{t−1} − w_t U_t,  o_t = f(q_t; W_t)        (eq. 42)

    The memory is f(x) = x + W1 σ(W2 x), σ(z) = z/(1 + e^{−z}).
    g_t = Σ_{j<c} γ_{t,j} ∇½|f(k_{t−j}) − v_{t−j}|² of both matrices at the weights before the first token of the chunk.

    q              q  (B, T, H, V)  queries; any floating dtype, and all tensors like it
    k              k  (B, T, H, V)  keys
    v              v  (B, T, H, V)  values
    alpha          α  (B, T, H)     share of the weights that stays, in [0, 1]
    eta            η  (B, T, H)     step size, ≥ 0
    theta          θ  (B, T, H)     share of the momentum that stays, in [0, 1]
    gamma          γ  (B, T, H, c)  weight of token t − j at time t
    initial_state                   weights, momenta and window before the first token: ``OmegaMlpState``, of weights
                                    alone ``OmegaMlpState.from_weights(w1, w2, window)``
    config                          as in ``omega``, each matrix with its own update; the objective is "l2", the
                                    optimizer "gd", "muon" or "muon_chunk", and there is no clip
    output_final_state              return the state after the last token; the next call begins a new chunk
    returns        o  (B, T, H, V)  dtype of q
                   state            ``OmegaMlpState``, or None if not asked for
    raises         ValueError if a tensor does not fit the others, or the configuration is none for two layers
    """
    tokens = Tokens(q, k, v, alpha, eta, theta, gamma)
    axes = ("B T H V", "B T H V", "B T H V", "B T H", "B T H", "B T H", "B T H c")
    state_axes = ("B H V N", "B H N V", "B H V N", "B H N V", "B c-1 H V", "B c-1 H V")
    states = _require.with_axes(OmegaMlpState, _fields_of(initial_state, OmegaMlpState), state_axes)
    _require.require_shapes(_require.with_axes(Tokens, tokens, axes) | states, "q")
    require_mlp(config)
    o, *weights = _dispatch.run_mlp(tokens, initial_state, config)
    if not output_final_state:
        return o, None
    windows = _final_windows((initial_state.k_window, k), (initial_state.v_window, v))
    return o, OmegaMlpState(*weights, *windows)


# -- attention --------------------------------------------------------------------------------------------------------


def atlas_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    alpha: Tensor,
    eta: Tensor,
    theta: Tensor,
    gamma: Tensor,
    coefficients: Tensor,
    clamp: float = 10.0,
    config: OmegaConfig = OmegaConfig(),  # noqa: B008
) -> Tensor:
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
    config                         as in ``omega``
    returns       o  (B, T, H, V)  dtype of q
    raises        ValueError if a tensor does not fit the others
    """
    tokens = Tokens(q, k, v, alpha, eta, theta, gamma)
    axes = ("B T H D", "B T H D", "B T H V", "B T H", "B T H", "B T H", "B T H c")
    _require.require_shapes(_require.with_axes(Tokens, tokens, axes), "q")
    _require.require_coefficients(coefficients, q)
    _require.require_positive(clamp, "clamp")
    dtype = q.dtype
    tokens, coefficients = Tokens._make(map(upcast, tokens)), upcast(coefficients)
    scale = math.sqrt(coefficients.shape[0] * q.shape[-1])
    phi_q, phi_k = (_features.elementwise(x, coefficients, clamp) / scale for x in (tokens.q, tokens.k))
    tokens = tokens._replace(q=phi_q, k=phi_k)
    return _dispatch.run(tokens, zero_state(tokens, q.shape[0]), config)[0].to(dtype)


# -- windows of separable weights, and sweeps in place of steps -------------------------------------------------------


def omega_separable(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    alpha: Tensor,
    eta: Tensor,
    theta: Tensor,
    scale: Tensor,
    source: Tensor,
    window: int | None = None,
    config: OmegaConfig = OmegaConfig(),  # noqa: B008
    initial_state: SeparableState | None = None,
    output_final_state: bool = False,
) -> tuple[Tensor, SeparableState | None]:
    """``omega`` by gradient descent with γ_{t,j} = r_t u_{t−j}, at a cost that does not grow with the window

    The chunks that lie in all windows of a chunk enter as two matrices, Σ u k kᵀ and Σ u k vᵀ.

    q              q  (B, T, H, P)  as in ``omega``, and so are
    k, v, alpha, eta, theta, config, output_final_state; the optimizer is "gd", and there is no clip
    scale          r  (B, T, H)     weight of all that token t looks at
    source         u  (B, T, H)     weight of token t wherever it is looked at
    window         c  int           tokens in a window, at least 1; by default that of initial_state, without one 1
    initial_state                   memory, momentum and window before the first token, zeros by default
    returns        o  (B, T, H, V)  dtype of q
                   state            ``SeparableState``, or None if not asked for
    raises         ValueError if a tensor does not fit the others, or the configuration is not one of gradient descent
    """
    shapes = {n: (x, TOKENS[n]) for n, x in zip(TOKENS, (q, k, v, alpha, eta, theta), strict=True)}
    shapes |= {"scale": (scale, "B T H"), "source": (source, "B T H")}
    require_count(1 if window is None else window, "window", 1)
    if initial_state is None:
        _require.require_shapes(shapes, "q")
        tokens = Tokens(q, k, v, alpha, eta, theta, scale)
        c, batch = 1 if window is None else window, q.shape[0]
        memory, momentum = (q.new_zeros(batch, q.shape[2], q.shape[-1], v.shape[-1]) for _ in range(2))
        state = SeparableState(
            memory, momentum, *zero_windows(k, v, c, batch), source.new_zeros(batch, c - 1, q.shape[2])
        )
    else:
        axes = ("B H P V", "B H P V", "B W H P", "B W H V", "B W H")
        given = _fields_of(initial_state, SeparableState)
        states = _require.with_axes(SeparableState, given, axes)
        found = _require.require_shapes(shapes | states, "q")
        tokens, state = Tokens(q, k, v, alpha, eta, theta, scale), initial_state
        if window is not None and window != found["W"] + 1:
            raise ValueError(f"window was {window}; with this initial_state it must be {found['W'] + 1}.")
    require_descent(config)
    o, M, S = _descent.descend_separable(tokens, source, state, config)
    if not output_final_state:
        return o, None
    pairs = (state.k_window, k), (state.v_window, v), (state.source_window, source)
    return o, SeparableState(M, S, *_final_windows(*pairs))


def omega_picard(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    alpha: Tensor,
    eta: Tensor,
    theta: Tensor,
    gamma: Tensor,
    tile: int,
    sweeps: int,
    lr_inside_momentum: bool = False,
    read_before_update: bool = False,
    initial_state: OmegaState | None = None,
    output_final_state: bool = False,
) -> tuple[Tensor, OmegaState | None]:
    """M⁰_t = memories of a tile without gradients;  g^i_t = ∇L_t(M^i_{t−1}),  M^{i+1} = memories with the gradients g^i

    Picard's iteration for the rule of every token, ``omega`` with C = 1 on squared errors by gradient descent: between
    a linearisation at the tile's start (no sweep) and the rule itself (a sweep for every token of the tile), by matrix
    products alone.

    q        q   (B, T, H, P)  as in ``omega``, and so are
    k, v, alpha, eta, theta, gamma, initial_state, output_final_state
    tile     n   int           tokens that are run together, at least 1
    sweeps   s   int           at least 0; more than n change nothing
    lr_inside_momentum, read_before_update    as in ``OmegaConfig``
    returns  o   (B, T, H, V)  dtype of q
             state             ``OmegaState``, or None if not asked for
    raises   ValueError if a tensor does not fit the others, or an option is not one of those named
    """
    tokens = Tokens(q, k, v, alpha, eta, theta, gamma)
    state = _checked(tokens, initial_state)
    config = OmegaConfig(1, lr_inside_momentum=lr_inside_momentum, read_before_update=read_before_update)
    require_count(tile, "tile", 1)
    require_count(sweeps, "sweeps", 0)
    o, M, S = _descent.descend_picard(tokens, state, config, tile, sweeps)
    if not output_final_state:
        return o, None
    return o, OmegaState(M, S, *_final_windows((state.k_window, k), (state.v_window, v)))
