"""Atlas memory: polynomial features, the Omega rule, Newton–Schulz, and the attention made of them.

    S_t = θ_t S_{t−1} + ∇L_t(M̂),    M_t = α_t M_{t−1} − η_t NS(S_t),    o_t = φ(q_t)ᵀ M_t
    L_t(M) = Σ_{j<c} γ_{t,j} ℓ(M; φ(k_{t−j}), v_{t−j})

Behrouz et al. 2025, ATLAS: Learning to Optimally Memorize the Context at Test Time (2505.23735), eq. 9, 15-16, 32-33.
M̂ is the memory at the start of the chunk of C tokens that t lies in: all gradients of a chunk are taken there, those of
older tokens in the window too. C changes the values: it belongs to the model, and C = 1 is eq. 15, token by token.
Memories are (P, V): the prediction of a token is the row φᵀM, the transpose of the paper's. ℓ = ½|φᵀM − v|²: the
paper's |·|² is twice it, and the 2 goes into η. Its eq. 11, 28 and 30 have the wrong sign before the value.
Batch entries and heads never mix.
"""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import numpy as np

JORDAN = ((3.4445, -4.7750, 2.0315),) * 5
CLASSICAL = ((15 / 8, -5 / 4, 3 / 8),) * 12
LACT = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
)
EPS = 1e-8
DECAY = 0.9


@dataclass(frozen=True)
class OmegaConfig:
    """Which Omega rule.

    chunk_size          C  int   tokens whose gradients are taken at one memory, at least 1
    objective                    "l2": ½|kᵀM − v|², or "dot": −⟨kᵀM, v⟩
    optimizer                    "gd": U_t = S_t; "muon": U_t = NS(S_t); "muon_chunk": U_t = NS(S at the end of t's
                                 chunk), and every token of the chunk reads M̂; "norm_ema": U_t = i_t g_t/(m_t + ε),
                                 m_t = 0.9 m_{t−1} + 0.1 ‖g_t‖_F from m_0 = 0 in every call. ε = 10⁻⁸, NS by JORDAN
    lr_inside_momentum     bool  False: i_t = 1, w_t = η_t (eq. 32); True: i_t = η_t, w_t = 1 (eq. 12-13)
    read_before_update     bool  False: o_t = q_tᵀ M_t (eq. 29); True: o_t = q_tᵀ M_{t−1}; ignored by "muon_chunk"
    clip                         None, or a positive number that bounds every element of a gradient
    """

    chunk_size: int = 16
    _: KW_ONLY
    objective: str = "l2"
    optimizer: str = "gd"
    lr_inside_momentum: bool = False
    read_before_update: bool = False
    clip: float | None = None


class OmegaState(NamedTuple):
    """Before the first token of a call of ``omega``, or after the last.

    memory    M_t  (B, H, P, V)    memory
    momentum  S_t  (B, H, P, V)    momentum
    k_window       (B, c−1, H, P)  features of the last c − 1 tokens, zeros where there are none
    v_window       (B, c−1, H, V)  their values
    """

    memory: Any
    momentum: Any
    k_window: Any
    v_window: Any


class SeparableState(NamedTuple):
    """Before the first token of a call of ``omega_separable``, or after the last.

    memory, momentum, k_window, v_window  as in ``OmegaState``
    source_window                         (B, c−1, H)  weights of the last c − 1 tokens
    """

    memory: Any
    momentum: Any
    k_window: Any
    v_window: Any
    source_window: Any


class OmegaMlpState(NamedTuple):
    """Before the first token of a call of ``omega_mlp``, or after the last.

    w1        W1  (B, H, V, N)    outer weights
    w2        W2  (B, H, N, V)    inner weights
    s1        S1  (B, H, V, N)    momentum of W1
    s2        S2  (B, H, N, V)    momentum of W2
    k_window      (B, c−1, H, V)  the last c − 1 keys, zeros where there are none
    v_window      (B, c−1, H, V)  their values
    """

    w1: Any
    w2: Any
    s1: Any
    s2: Any
    k_window: Any
    v_window: Any


def _head(gate):
    """gate (B, H) as (B, H, 1, 1), so that it multiplies a memory"""
    return gate[..., None, None]


def _sum(a, b):
    """⟨a, b⟩ over the two axes of a memory"""
    return np.sum(a * b, axis=(-2, -1))


def _row(x, m):
    """xᵀM (..., V) of x (..., P) and M (..., P, V)"""
    return (x[..., None, :] @ m)[..., 0, :]


def _column(m, x):
    """M x (..., P) of M (..., P, V) and x (..., V)"""
    return (m @ x[..., :, None])[..., 0]


def _outer(x, e):
    """x eᵀ (..., P, V)"""
    return x[..., :, None] * e[..., None, :]


# -- features ---------------------------------------------------------------------------------------------------------


def taylor_coefficients(degree):
    """a_i = 1/i!        (Behrouz et al. 2025 eq. 5)

    degree   p  int     highest power, at least 0
    returns  a  (p+1,)  Taylor's of exp
    """
    return np.array([1 / math.factorial(i) for i in range(degree + 1)])


def window_weights(window, *, decay=0.1):
    """γ_j = exp(−λ j) / Σ_i exp(−λ i)

    window   c  int     tokens in the window, at least 1
    decay    λ  number  per token of age, ≥ 0
    returns  γ  (c,)    weight by age, the youngest first; their sum is 1
    """
    weights = np.exp(-decay * np.arange(window))
    return weights / np.sum(weights)


def elementwise_features(x, coefficients, *, clamp=10.0):
    """φ(x) = [a_0 1; a_1 x̂; a_2 x̂²; …; a_p x̂^p],  x̂ = min(max(x, −κ), κ), powers element by element

    With a_i = 1/i! its kernel is φ(x)ᵀφ(y) = Σ_d Σ_i (x̂_d ŷ_d)^i/(i!)², which tends to Σ_d ₀F₁(; 1; x̂_d ŷ_d) and not to
    exp(xᵀy); with a_i = 1/√i! it is Σ_d exp(x̂_d ŷ_d).

    x             x  (..., D)       keys or queries
    coefficients  a  (p+1,)         of the powers 0 … p
    clamp         κ  number         bound on |x_d|, > 0
    returns       φ  (..., (p+1)D)  power by power; the first D are a_0
    """
    powers = _powers(x, coefficients, clamp)
    return np.concatenate([a * x_i for a, x_i in zip(coefficients, powers, strict=True)], axis=-1)


def _powers(x, coefficients, clamp):
    """[1, x̂, x̂², …], as many as there are coefficients"""
    bounded = np.minimum(np.maximum(x, -clamp), clamp)
    powers = [np.ones(x.shape), bounded]
    for _ in range(len(coefficients) - 2):
        powers = [*powers, powers[-1] * bounded]
    return powers[: len(coefficients)]


def elementwise_features_vjp(cotangent, x, coefficients, clamp):
    """x̄_d = Σ_i i a_i x̂_d^{i−1} φ̄_{i,d} where |x_d| ≤ κ, else 0;  ā_i = Σ_d x̂_d^i φ̄_{i,d}, over all vectors"""
    powers = _powers(x, coefficients, clamp)
    width = x.shape[-1]
    blocks = [cotangent[..., i * width : (i + 1) * width] for i in range(len(powers))]
    pulled = np.zeros(x.shape)
    for i in range(1, len(powers)):
        pulled = pulled + i * coefficients[i] * powers[i - 1] * blocks[i]
    inside = (x >= -clamp) & (x <= clamp)
    by_coefficients = np.stack([np.sum(b * x_i) for b, x_i in zip(blocks, powers, strict=True)])
    return np.where(inside, pulled, 0.0), by_coefficients


def tensor_features(x, degree):
    """φ*(x) = [1; x; x⊗x/√2!; …; x^{⊗p}/√p!],  φ*(x)ᵀφ*(y) = Σ_{i≤p} (xᵀy)^i/i! → exp(xᵀy)        (eq. 22-23)

    x        x   (..., D)        keys or queries
    degree   p   int             highest power, at least 0
    returns  φ*  (..., Σ_i D^i)  power by power, row-major
    """
    return np.concatenate([x_i / math.sqrt(math.factorial(i)) for i, x_i in enumerate(_tensors(x, degree))], axis=-1)


def _tensors(x, degree):
    """[1, x, x⊗x, …], each with its axes made one"""
    found = [np.ones((*x.shape[:-1], 1))]
    for _ in range(degree):
        product = _outer(found[-1], x)
        found = [*found, product.reshape(*x.shape[:-1], product.shape[-2] * product.shape[-1])]
    return found


def tensor_features_vjp(cotangent, x, degree):
    """x̄ = Σ_i (x^{⊗i})-bar pulled through x^{⊗i} = x^{⊗(i−1)} ⊗ x, from the highest power down"""
    tensors = _tensors(x, degree)
    ends = [0, *np.cumsum([t.shape[-1] for t in tensors]).tolist()]
    pulled, higher = np.zeros(x.shape), np.zeros(tensors[-1].shape)
    for i in range(degree, 0, -1):
        total = higher + cotangent[..., ends[i] : ends[i + 1]] / math.sqrt(math.factorial(i))
        square = total.reshape(*tensors[i - 1].shape, x.shape[-1])
        pulled = pulled + _row(tensors[i - 1], square)
        higher = _column(square, x)
    return pulled


# -- Newton–Schulz ----------------------------------------------------------------------------------------------------


def newton_schulz(g, *, coefficients=JORDAN, eps=EPS):
    """NS(G): X = G/(‖G‖_F + ε),  then X ← a X + (b A + c A²) X with A = X Xᵀ for every (a, b, c)

    Every singular value goes through the polynomials p(s) = a s + b s³ + c s⁵; singular vectors stay. JORDAN (Jordan
    et al. 2024, Muon) lands in [0.68, 1.21] from normalised singular values of 0.002 on and converges nowhere;
    CLASSICAL goes to the polar factor, slowly for small singular values. A matrix with more rows than columns is
    transposed before and after.

    g             G      (..., R, C)  a matrix or several
    coefficients  a,b,c  (k, 3)       one row for every step
    eps           ε      number       ≥ 0; NS(0) = 0 if it is > 0
    returns       NS     (..., R, C)  with a number times G the same but for ε
    """
    if g.shape[-2] > g.shape[-1]:
        turned = newton_schulz(np.swapaxes(g, -1, -2), coefficients=coefficients, eps=eps)
        return np.swapaxes(turned, -1, -2)
    return _iterates(g, coefficients, eps)[-1]


def _norm(g):
    """‖G‖_F (..., 1, 1)"""
    return np.sqrt(np.sum(g * g, axis=(-2, -1), keepdims=True))


def _iterates(g, coefficients, eps):
    """X before the first step and after every step, of a matrix with no more rows than columns"""
    found = [g / (_norm(g) + eps)]
    for a, b, c in coefficients:
        x = found[-1]
        gram = x @ np.swapaxes(x, -1, -2)
        found = [*found, a * x + (b * gram + c * (gram @ gram)) @ x]
    return found


def newton_schulz_vjp(cotangent, g, coefficients, eps):
    """X̄ = a Ȳ + B Ȳ + (Ā + Āᵀ) X step by step back, B = b A + c A², Ā = b Ȳ Xᵀ + c (A Ȳ Xᵀ + Ȳ Xᵀ A)

    and Ḡ = X̄/(n + ε) − G ⟨X̄, G⟩/(n (n + ε)²), n = ‖G‖_F; the last term is 0 for G = 0
    """
    if g.shape[-2] > g.shape[-1]:
        turned = newton_schulz_vjp(np.swapaxes(cotangent, -1, -2), np.swapaxes(g, -1, -2), coefficients, eps)
        return np.swapaxes(turned, -1, -2)
    iterates = _iterates(g, coefficients, eps)
    pulled = cotangent
    for i in range(len(coefficients) - 1, -1, -1):
        (a, b, c), x = coefficients[i], iterates[i]
        gram = x @ np.swapaxes(x, -1, -2)
        by_b = pulled @ np.swapaxes(x, -1, -2)
        by_gram = b * by_b + c * (gram @ by_b + by_b @ gram)
        pulled = a * pulled + (b * gram + c * (gram @ gram)) @ pulled + (by_gram + np.swapaxes(by_gram, -1, -2)) @ x
    n = _norm(g)
    inner = np.sum(pulled * g, axis=(-2, -1), keepdims=True)
    return pulled / (n + eps) - g * np.where(n > 0, inner / (np.where(n > 0, n, 1.0) * (n + eps) * (n + eps)), 0.0)


def newton_schulz_lowrank(x, y, *, coefficients=JORDAN, eps=EPS):
    """NS(Xᵀ Y)

    A matrix of rank r at most, such as the gradient of r tokens. NS(Xᵀ Y) = Q_x NS(R_x R_yᵀ) Q_yᵀ, Xᵀ = Q_x R_x and
    Yᵀ = Q_y R_y, so that the steps need no matrix larger than r × r.

    x             X      (..., r, P)  rows, such as keys
    y             Y      (..., r, V)  rows, such as their errors
    coefficients  a,b,c  (k, 3)       one row for every step
    eps           ε      number       ≥ 0; NS(0) = 0 if it is > 0
    returns       NS     (..., P, V)
    """
    return newton_schulz(np.swapaxes(x, -1, -2) @ y, coefficients=coefficients, eps=eps)


def newton_schulz_lowrank_vjp(cotangent, x, y, coefficients, eps):
    """X̄ = Y S̄ᵀ,  Ȳ = X S̄ with S̄ the gradient by S = Xᵀ Y"""
    pulled = newton_schulz_vjp(cotangent, np.swapaxes(x, -1, -2) @ y, coefficients, eps)
    return y @ np.swapaxes(pulled, -1, -2), x @ pulled


# -- the Omega rule ---------------------------------------------------------------------------------------------------


def omega(
    q,
    k,
    v,
    *,
    alpha,
    eta,
    theta,
    gamma,
    config: OmegaConfig = OmegaConfig(),
    initial_state: OmegaState | None = None,
    output_final_state=False,
    cu_seqlens=None,
):
    """S_t = θ_t S_{t−1} + i_t g_t,  M_t = α_t M_{t−1} − w_t U_t,  o_t = q_tᵀ M_t        (eq. 9, 15-16, 32-33)

    g_t = Σ_{j<c} γ_{t,j} k_{t−j} (k_{t−j}ᵀ M̂ − v_{t−j})ᵀ, every element bounded by [−clip, clip] if there is a clip;
    for the objective "dot", −k vᵀ in place of k (kᵀM̂ − v)ᵀ. M̂ is the memory before the first token of the chunk.

    q           q   (B, T, H, P)  features of the queries
    k           k   (B, T, H, P)  features of the keys
    v           v   (B, T, H, V)  values
    alpha       α   (B, T, H)     share of the memory that stays, in [0, 1]
    eta         η   (B, T, H)     step size, ≥ 0
    theta       θ   (B, T, H)     share of the momentum that stays, in [0, 1]
    gamma       γ   (B, T, H, c)  weight of token t − j at time t; not renormalised where the window is not full
    config                        chunk size, objective, optimizer, …; see ``OmegaConfig``
    initial_state                 memory, momentum and window before the first token, zeros by default
    output_final_state            return the state after the last token; the next call begins a new chunk
    cu_seqlens  n   (N+1,)        0, T_1, T_1 + T_2, …, T. With it B = 1, and tokens n_i … n_{i+1} − 1 are sequence i,
                                  by itself; states are (N, …), and a sequence may be empty
    returns     o   (B, T, H, V)
                state             ``OmegaState``, or None if not asked for
    """
    tokens = (q, k, v, alpha, eta, theta, gamma)
    if cu_seqlens is None:
        state = _zero_state(tokens, len(q)) if initial_state is None else initial_state
        o, state = _omega(tokens, state, config)
        return o, state if output_final_state else None
    sequences = len(cu_seqlens) - 1
    state = _zero_state(tokens, sequences) if initial_state is None else initial_state
    reads, states = [v[:, :0]], []
    for i in range(sequences):
        own, before = _sequence(i, cu_seqlens, tokens, state)
        o, after = _omega(own, before, config) if own[0].shape[1] else (v[:, :0], before)
        reads, states = [*reads, o], [*states, after]
    joined = OmegaState(*(np.concatenate(parts) for parts in zip(*states, strict=True)))
    return np.concatenate(reads, axis=1), joined if output_final_state else None


def _omega(tokens, state, config):
    """Outputs and final state of sequences of one length"""
    q, k, v, *_ = tokens
    modes = config.chunk_size, config.objective, config.optimizer, config.lr_inside_momentum, config.clip
    found = _tokens(*tokens[1:], *state, *modes)
    reads = [
        _row(q[:, t], _is_read(token, config.optimizer, config.read_before_update)) for t, token in enumerate(found)
    ]
    windows = _last(state.k_window, k), _last(state.v_window, v)
    return np.stack(reads, axis=1), OmegaState(found[-1]["M"], found[-1]["S"], *windows)


def _last(window, x):
    """The last c − 1 tokens of x, and of the window before it"""
    return np.concatenate([window, x], axis=1)[:, x.shape[1] :]


def _zero_state(tokens, batch):
    """The state before any token"""
    q, k, v, *_, gamma = tokens
    memory, before = np.zeros((batch, q.shape[2], q.shape[-1], v.shape[-1])), (batch, gamma.shape[-1] - 1, q.shape[2])
    return OmegaState(memory, memory, np.zeros((*before, k.shape[-1])), np.zeros((*before, v.shape[-1])))


def _sequence(i, cu_seqlens, tokens, state):
    """The tokens of sequence i, and the state before them"""
    start, end = int(cu_seqlens[i]), int(cu_seqlens[i + 1])
    return [x[:, start:end] for x in tokens], OmegaState(*(x[i : i + 1] for x in state))


def _is_read(token, optimizer, read_before_update):
    """The memory that a token reads."""
    if optimizer == "muon_chunk":
        return token["M̂"]
    return token["M before"] if read_before_update else token["M"]


def _tokens(
    k,
    v,
    alpha,
    eta,
    theta,
    gamma,
    memory,
    momentum,
    k_window,
    v_window,
    chunk_size,
    objective,
    optimizer,
    lr_inside_momentum,
    clip,
):
    """The recurrence token by token: all that happens at each of them, by name."""
    length, window = gamma.shape[1], gamma.shape[-1]
    keys, values = np.concatenate([k_window, k], axis=1), np.concatenate([v_window, v], axis=1)
    one = np.ones(eta.shape)
    into, out = (eta, one) if lr_inside_momentum else (one, eta)
    M, S, m = memory, momentum, np.zeros(one[:, 0].shape)
    found = []
    for t in range(length):
        if t % chunk_size == 0:
            M_hat, kept, moved = M, one[:, t], np.zeros(one[:, t].shape)
        raw = np.zeros(M.shape)
        for j in range(window):
            phi, value = keys[:, window - 1 + t - j], values[:, window - 1 + t - j]
            error = _row(phi, M_hat) - value if objective == "l2" else -value
            raw = raw + _head(gamma[:, t, :, j]) * _outer(phi, error)
        g = raw if clip is None else np.minimum(np.maximum(raw, -clip), clip)
        token = {"M̂": M_hat, "M before": M, "S before": S, "m before": m, "raw": raw, "g": g}
        token = {**token, "kept before": kept, "moved before": moved, "into": into[:, t], "out": out[:, t]}
        S = _head(theta[:, t]) * S + _head(into[:, t]) * g
        if optimizer == "muon_chunk":
            kept, moved = alpha[:, t] * kept, alpha[:, t] * moved + out[:, t]
            last = t % chunk_size == chunk_size - 1 or t == length - 1
            U = newton_schulz(S) if last else np.zeros(S.shape)
            M = _head(kept) * M_hat - _head(moved) * U if last else M_hat
        else:
            m = DECAY * m + (1 - DECAY) * _norm(g)[..., 0, 0] if optimizer == "norm_ema" else m
            U = _update(S, g, into[:, t], m, optimizer)
            M = _head(alpha[:, t]) * M - _head(out[:, t]) * U
        found = [*found, {**token, "M": M, "S": S, "m": m, "U": U, "kept": kept, "moved": moved}]
    return found


def _update(S, g, into, m, optimizer):
    """U_t"""
    if optimizer == "gd":
        return S
    if optimizer == "muon":
        return newton_schulz(S)
    return _head(into / (m + EPS)) * g


def omega_vjp(
    g_o,
    g_memory,
    g_momentum,
    q,
    k,
    v,
    alpha,
    eta,
    theta,
    gamma,
    memory,
    momentum,
    k_window,
    v_window,
    chunk_size,
    objective,
    optimizer,
    lr_inside_momentum,
    read_before_update,
    clip,
):
    """Backwards through the tokens: M̄, S̄, m̄ and the gradient by M̂, which joins M̄ where a chunk begins

    By q, k, v, α, η, θ, γ, M_0, S_0 and the window's keys and values, for all modes. The clip passes nothing outside.
    """
    arguments = (k, v, alpha, eta, theta, gamma, memory, momentum, k_window, v_window)
    tokens = _tokens(*arguments, chunk_size, objective, optimizer, lr_inside_momentum, clip)
    length, window = gamma.shape[1], gamma.shape[-1]
    keys, values = np.concatenate([k_window, k], axis=1), np.concatenate([v_window, v], axis=1)
    by_keys = [np.zeros(keys[:, 0].shape) for _ in range(keys.shape[1])]
    by_values = [np.zeros(values[:, 0].shape) for _ in range(values.shape[1])]
    by_q, by_alpha, by_theta, by_gamma, by_into, by_out = ([None] * length for _ in range(6))
    by_M, by_S, by_m = g_memory, g_momentum, np.zeros(alpha[:, 0].shape)
    by_hat, by_kept, by_moved = np.zeros(memory.shape), by_m, by_m
    for t in range(length - 1, -1, -1):
        token = tokens[t]
        seen = _outer(q[:, t], g_o[:, t])
        by_q[t] = _column(_is_read(token, optimizer, read_before_update), g_o[:, t])
        by_g = np.zeros(memory.shape)
        if optimizer == "muon_chunk":
            if t % chunk_size == chunk_size - 1 or t == length - 1:
                by_hat, by_kept = _head(token["kept"]) * by_M, _sum(by_M, token["M̂"])
                by_moved = -_sum(by_M, token["U"])
                by_S = by_S + newton_schulz_vjp(-_head(token["moved"]) * by_M, token["S"], JORDAN, EPS)
            by_hat = by_hat + seen
            by_alpha[t] = by_kept * token["kept before"] + by_moved * token["moved before"]
            by_out[t] = by_moved
            by_kept, by_moved = alpha[:, t] * by_kept, alpha[:, t] * by_moved
            by_into[t] = np.zeros(by_m.shape)
            by_M = np.zeros(memory.shape)
        else:
            by_M = by_M if read_before_update else by_M + seen
            by_alpha[t], by_out[t] = _sum(by_M, token["M before"]), -_sum(by_M, token["U"])
            by_U = -_head(token["out"]) * by_M
            by_M = _head(alpha[:, t]) * by_M + (seen if read_before_update else 0.0)
            by_into[t] = np.zeros(by_m.shape)
            if optimizer == "gd":
                by_S = by_S + by_U
            if optimizer == "muon":
                by_S = by_S + newton_schulz_vjp(by_U, token["S"], JORDAN, EPS)
            if optimizer == "norm_ema":
                g, m, into = token["g"], token["m"], token["into"]
                by_into[t] = _sum(by_U, g) / (m + EPS)
                by_m = by_m - into * _sum(by_U, g) / ((m + EPS) * (m + EPS))
                n = _norm(g)
                by_n = np.where(n > 0, _head((1 - DECAY) * by_m) / np.where(n > 0, n, 1.0), 0.0)
                by_g, by_m = _head(into / (m + EPS)) * by_U + by_n * g, DECAY * by_m
        by_theta[t] = _sum(by_S, token["S before"])
        by_into[t] = by_into[t] + _sum(by_S, token["g"])
        by_g, by_S = by_g + _head(token["into"]) * by_S, _head(theta[:, t]) * by_S
        if clip is not None:
            by_g = np.where((token["raw"] >= -clip) & (token["raw"] <= clip), by_g, 0.0)
        weights = []
        for j in range(window):
            i = window - 1 + t - j
            phi, value, weight = keys[:, i], values[:, i], gamma[:, t, :, j][..., None]
            error = _row(phi, token["M̂"]) - value if objective == "l2" else -value
            pulled = _row(phi, by_g)
            weights = [*weights, np.sum(pulled * error, axis=-1)]
            by_error = weight * pulled
            by_values[i] = by_values[i] - by_error
            by_keys[i] = by_keys[i] + weight * _column(by_g, error)
            if objective == "l2":
                by_keys[i] = by_keys[i] + _column(token["M̂"], by_error)
                by_hat = by_hat + _outer(phi, by_error)
        by_gamma[t] = np.stack(weights, axis=-1)
        if t % chunk_size == 0:
            by_M, by_hat = by_M + by_hat, np.zeros(memory.shape)
    gates = [np.stack(rows, axis=1) for rows in (by_alpha, by_into if lr_inside_momentum else by_out, by_theta)]
    by_keys, by_values = np.stack(by_keys, axis=1), np.stack(by_values, axis=1)
    return (
        np.stack(by_q, axis=1),
        by_keys[:, window - 1 :],
        by_values[:, window - 1 :],
        *gates,
        np.stack(by_gamma, axis=1),
        by_M,
        by_S,
        by_keys[:, : window - 1],
        by_values[:, : window - 1],
    )


def omega_varlen_vjp(
    g_o,
    g_memory,
    g_momentum,
    q,
    k,
    v,
    alpha,
    eta,
    theta,
    gamma,
    memory,
    momentum,
    k_window,
    v_window,
    cu_seqlens,
    chunk_size,
    objective,
    optimizer,
    lr_inside_momentum,
    read_before_update,
    clip,
):
    """``omega_vjp`` of every sequence by itself; M̄ and S̄ of one without tokens go through"""
    modes = chunk_size, objective, optimizer, lr_inside_momentum, read_before_update, clip
    row, states = (q, k, v, alpha, eta, theta, gamma), (memory, momentum, k_window, v_window)
    found = []
    for i in range(len(cu_seqlens) - 1):
        tokens, state = _sequence(i, cu_seqlens, row, states)
        g = g_o[:, int(cu_seqlens[i]) : int(cu_seqlens[i + 1])], g_memory[i : i + 1], g_momentum[i : i + 1]
        empty = (*tokens, g[1], g[2], 0 * state[2], 0 * state[3])
        found = [*found, omega_vjp(*g, *tokens, *state, *modes) if tokens[0].shape[1] else empty]
    return tuple(np.concatenate([parts[n] for parts in found], axis=1 if n < 7 else 0) for n in range(11))


# -- a memory of two layers -------------------------------------------------------------------------------------------


def omega_mlp(
    q,
    k,
    v,
    *,
    alpha,
    eta,
    theta,
    gamma,
    initial_state: OmegaMlpState,
    config: OmegaConfig = OmegaConfig(),
    output_final_state=False,
):
    """S_t = θ_t S_{t−1} + i_t g_t,  W_t = α_t W_{t−1} − w_t U_t,  o_t = f(q_t; W_t)        (eq. 42)

    The memory is f(x) = x + W1 σ(W2 x), σ(z) = z/(1 + e^{−z}).

    g_t = Σ_{j<c} γ_{t,j} ∇½|f(k_{t−j}) − v_{t−j}|² of both matrices at the weights before the first token of the chunk:
    with z = Ŵ2 k, e = f(k) − v and d = (Ŵ1ᵀe) σ'(z) it is e σ(z)ᵀ for W1 and d kᵀ for W2.

    q              q  (B, T, H, V)  queries
    k              k  (B, T, H, V)  keys
    v              v  (B, T, H, V)  values
    alpha          α  (B, T, H)     share of the weights that stays, in [0, 1]
    eta            η  (B, T, H)     step size, ≥ 0
    theta          θ  (B, T, H)     share of the momentum that stays, in [0, 1]
    gamma          γ  (B, T, H, c)  weight of token t − j at time t
    initial_state                   weights, momenta and window before the first token
    config                          as in ``omega``, each matrix with its own update; the objective is "l2", the
                                    optimizer "gd", "muon" or "muon_chunk", and there is no clip
    output_final_state              return the state after the last token; the next call begins a new chunk
    returns        o  (B, T, H, V)
                   state            ``OmegaMlpState``, or None if not asked for
    """
    arguments = (k, v, alpha, eta, theta, gamma, *initial_state)
    tokens = _mlp_tokens(*arguments, config.chunk_size, config.optimizer, config.lr_inside_momentum)
    reads = []
    for t, token in enumerate(tokens):
        outer, inner = _are_read(token, config.optimizer, config.read_before_update)
        reads = [*reads, q[:, t] + _column(outer, _silu(_column(inner, q[:, t])))]
    windows = _last(initial_state.k_window, k), _last(initial_state.v_window, v)
    state = OmegaMlpState(*tokens[-1]["W"], *tokens[-1]["S"], *windows)
    return np.stack(reads, axis=1), state if output_final_state else None


def _are_read(token, optimizer, read_before_update):
    """The weights that a token reads."""
    if optimizer == "muon_chunk":
        return token["Ŵ"]
    return token["W before"] if read_before_update else token["W"]


def _mlp_tokens(
    k, v, alpha, eta, theta, gamma, w1, w2, s1, s2, k_window, v_window, chunk_size, optimizer, lr_inside_momentum
):
    """The recurrence token by token: pairs of both layers, by name."""
    length, window = gamma.shape[1], gamma.shape[-1]
    keys, values = np.concatenate([k_window, k], axis=1), np.concatenate([v_window, v], axis=1)
    one = np.ones(eta.shape)
    into, out = (eta, one) if lr_inside_momentum else (one, eta)
    W, S, found = (w1, w2), (s1, s2), []
    for t in range(length):
        if t % chunk_size == 0:
            W_hat, kept, moved = W, one[:, t], np.zeros(one[:, t].shape)
        g1, g2 = np.zeros(w1.shape), np.zeros(w2.shape)
        for j in range(window):
            x, value = keys[:, window - 1 + t - j], values[:, window - 1 + t - j]
            z = _column(W_hat[1], x)
            e = x + _column(W_hat[0], _silu(z)) - value
            d = _row(e, W_hat[0]) * _silu_slope(z)
            weight = _head(gamma[:, t, :, j])
            g1, g2 = g1 + weight * _outer(e, _silu(z)), g2 + weight * _outer(d, x)
        token = {"Ŵ": W_hat, "W before": W, "S before": S, "g": (g1, g2), "into": into[:, t], "out": out[:, t]}
        token = {**token, "kept before": kept, "moved before": moved}
        S = tuple(_head(theta[:, t]) * s + _head(into[:, t]) * g for s, g in zip(S, (g1, g2), strict=True))
        U = S if optimizer == "gd" else tuple(newton_schulz(s) for s in S)
        if optimizer == "muon_chunk":
            kept, moved = alpha[:, t] * kept, alpha[:, t] * moved + out[:, t]
            last = t % chunk_size == chunk_size - 1 or t == length - 1
            W = tuple(_head(kept) * w - _head(moved) * u for w, u in zip(W_hat, U, strict=True)) if last else W_hat
        else:
            W = tuple(_head(alpha[:, t]) * w - _head(out[:, t]) * u for w, u in zip(W, U, strict=True))
        found = [*found, {**token, "W": W, "S": S, "U": U, "kept": kept, "moved": moved}]
    return found


def _silu(z):
    """σ(z) = z/(1 + e^{−z})"""
    return z / (1 + np.exp(-z))


def _silu_slope(z):
    """σ'(z) = s (1 + z (1 − s)), s = 1/(1 + e^{−z})"""
    s = 1 / (1 + np.exp(-z))
    return s * (1 + z * (1 - s))


def _silu_curve(z):
    """σ''(z) = s (1 − s) (2 + z (1 − 2 s))"""
    s = 1 / (1 + np.exp(-z))
    return s * (1 - s) * (2 + z * (1 - 2 * s))


def omega_mlp_vjp(
    g_o,
    g_w1,
    g_w2,
    g_s1,
    g_s2,
    q,
    k,
    v,
    alpha,
    eta,
    theta,
    gamma,
    w1,
    w2,
    s1,
    s2,
    k_window,
    v_window,
    chunk_size,
    optimizer,
    lr_inside_momentum,
    read_before_update,
):
    """Backwards through the tokens: W̄, S̄ and the gradient by Ŵ, which joins W̄ where a chunk begins

    By q, k, v, α, η, θ, γ, W1, W2, S1, S2 and the window's keys and values.
    """
    arguments = (k, v, alpha, eta, theta, gamma, w1, w2, s1, s2, k_window, v_window)
    tokens = _mlp_tokens(*arguments, chunk_size, optimizer, lr_inside_momentum)
    length, window = gamma.shape[1], gamma.shape[-1]
    keys, values = np.concatenate([k_window, k], axis=1), np.concatenate([v_window, v], axis=1)
    by_keys = [np.zeros(keys[:, 0].shape) for _ in range(keys.shape[1])]
    by_values = [np.zeros(values[:, 0].shape) for _ in range(values.shape[1])]
    by_q, by_alpha, by_theta, by_gamma, by_into, by_out = ([None] * length for _ in range(6))
    by_W, by_S = [g_w1, g_w2], [g_s1, g_s2]
    by_hat = [np.zeros(w1.shape), np.zeros(w2.shape)]
    by_kept, by_moved = np.zeros(alpha[:, 0].shape), np.zeros(alpha[:, 0].shape)
    for t in range(length - 1, -1, -1):
        token = tokens[t]
        outer, inner = _are_read(token, optimizer, read_before_update)
        z = _column(inner, q[:, t])
        by_z = _row(g_o[:, t], outer) * _silu_slope(z)
        by_q[t] = g_o[:, t] + _row(by_z, inner)
        seen = [_outer(g_o[:, t], _silu(z)), _outer(by_z, q[:, t])]
        if optimizer == "muon_chunk":
            if t % chunk_size == chunk_size - 1 or t == length - 1:
                by_hat = [_head(token["kept"]) * w for w in by_W]
                by_kept = _sum(by_W[0], token["Ŵ"][0]) + _sum(by_W[1], token["Ŵ"][1])
                by_moved = -_sum(by_W[0], token["U"][0]) - _sum(by_W[1], token["U"][1])
                by_U = [-_head(token["moved"]) * w for w in by_W]
                by_S = [
                    s + newton_schulz_vjp(u, x, JORDAN, EPS) for s, u, x in zip(by_S, by_U, token["S"], strict=True)
                ]
            by_hat = [a + b for a, b in zip(by_hat, seen, strict=True)]
            by_alpha[t] = by_kept * token["kept before"] + by_moved * token["moved before"]
            by_out[t] = by_moved
            by_kept, by_moved = alpha[:, t] * by_kept, alpha[:, t] * by_moved
            by_W = [np.zeros(w1.shape), np.zeros(w2.shape)]
        else:
            by_W = by_W if read_before_update else [a + b for a, b in zip(by_W, seen, strict=True)]
            by_alpha[t] = _sum(by_W[0], token["W before"][0]) + _sum(by_W[1], token["W before"][1])
            by_out[t] = -_sum(by_W[0], token["U"][0]) - _sum(by_W[1], token["U"][1])
            by_U = [-_head(token["out"]) * w for w in by_W]
            if optimizer == "muon":
                by_U = [newton_schulz_vjp(u, s, JORDAN, EPS) for u, s in zip(by_U, token["S"], strict=True)]
            by_S = [s + u for s, u in zip(by_S, by_U, strict=True)]
            by_W = [_head(alpha[:, t]) * w for w in by_W]
            by_W = [a + b for a, b in zip(by_W, seen, strict=True)] if read_before_update else by_W
        by_theta[t] = _sum(by_S[0], token["S before"][0]) + _sum(by_S[1], token["S before"][1])
        by_into[t] = _sum(by_S[0], token["g"][0]) + _sum(by_S[1], token["g"][1])
        by_g1, by_g2 = (_head(token["into"]) * s for s in by_S)
        by_S = [_head(theta[:, t]) * s for s in by_S]
        weights = []
        for j in range(window):
            i = window - 1 + t - j
            x, weight, (outer, inner) = keys[:, i], gamma[:, t, :, j][..., None], token["Ŵ"]
            z = _column(inner, x)
            h, slope = _silu(z), _silu_slope(z)
            e = x + _column(outer, h) - values[:, i]
            u = _row(e, outer)
            by_e, by_d = _column(by_g1, h), _column(by_g2, x)
            weights = [*weights, np.sum(by_e * e, axis=-1) + np.sum(by_d * u * slope, axis=-1)]
            by_u = weight * by_d * slope
            by_e = weight * by_e + _column(outer, by_u)
            by_h = weight * _row(e, by_g1) + _row(by_e, outer)
            by_z = by_h * slope + weight * by_d * u * _silu_curve(z)
            by_hat = [by_hat[0] + _outer(e, by_u) + _outer(by_e, h), by_hat[1] + _outer(by_z, x)]
            by_values[i] = by_values[i] - by_e
            by_keys[i] = by_keys[i] + weight * _row(u * slope, by_g2) + by_e + _row(by_z, inner)
        by_gamma[t] = np.stack(weights, axis=-1)
        if t % chunk_size == 0:
            by_W = [a + b for a, b in zip(by_W, by_hat, strict=True)]
            by_hat = [np.zeros(w1.shape), np.zeros(w2.shape)]
    gates = [np.stack(rows, axis=1) for rows in (by_alpha, by_into if lr_inside_momentum else by_out, by_theta)]
    by_keys, by_values = np.stack(by_keys, axis=1), np.stack(by_values, axis=1)
    windows = by_keys[:, : window - 1], by_values[:, : window - 1]
    tokenwise = np.stack(by_q, axis=1), by_keys[:, window - 1 :], by_values[:, window - 1 :]
    return *tokenwise, *gates, np.stack(by_gamma, axis=1), *by_W, *by_S, *windows


# -- attention --------------------------------------------------------------------------------------------------------


def atlas_attention(
    q,
    k,
    v,
    *,
    alpha,
    eta,
    theta,
    gamma,
    coefficients,
    clamp=10.0,
    config: OmegaConfig = OmegaConfig(),
):
    """o = omega(φ(q), φ(k), v, …) from an empty memory,  φ(x) = elementwise_features(x)/√P        (eq. 9, 29, 32-33)

    Divided by √P the features have a length of about one, whatever D and p are; without it the constant block alone
    makes |φ|² ≥ D, and steps that suit unit vectors diverge.

    q             q  (B, T, H, D)  queries
    k             k  (B, T, H, D)  keys
    v             v  (B, T, H, V)  values
    alpha         α  (B, T, H)     share of the memory that stays, in [0, 1]
    eta           η  (B, T, H)     step size, ≥ 0
    theta         θ  (B, T, H)     share of the momentum that stays, in [0, 1]
    gamma         γ  (B, T, H, c)  weight of token t − j at time t
    coefficients  a  (p+1,)        of the powers 0 … p
    clamp         κ  number        bound on the elements of q and k, > 0
    config                         as in ``omega``
    returns       o  (B, T, H, V)
    """
    phi_q, phi_k = _scaled_features(q, coefficients, clamp), _scaled_features(k, coefficients, clamp)
    return omega(phi_q, phi_k, v, alpha=alpha, eta=eta, theta=theta, gamma=gamma, config=config)[0]


def _scaled_features(x, coefficients, clamp):
    """φ(x)/√P"""
    return elementwise_features(x, coefficients, clamp=clamp) / math.sqrt(len(coefficients) * x.shape[-1])


def atlas_attention_vjp(
    cotangent,
    q,
    k,
    v,
    alpha,
    eta,
    theta,
    gamma,
    coefficients,
    clamp,
    chunk_size,
    objective,
    optimizer,
    lr_inside_momentum,
    read_before_update,
    clip,
):
    """By q, k, v, α, η, θ, γ and a: through ``omega`` and, twice, through the features"""
    phi_q, phi_k = _scaled_features(q, coefficients, clamp), _scaled_features(k, coefficients, clamp)
    state = _zero_state((phi_q, phi_k, v, gamma), len(q))
    zeros = np.zeros(state.memory.shape)
    modes = chunk_size, objective, optimizer, lr_inside_momentum, read_before_update, clip
    tensors = phi_q, phi_k, v, alpha, eta, theta, gamma, *state
    by_q, by_k, *others = omega_vjp(cotangent, zeros, zeros, *tensors, *modes)
    scale = math.sqrt(len(coefficients) * q.shape[-1])
    by_q, a_q = elementwise_features_vjp(by_q / scale, q, coefficients, clamp)
    by_k, a_k = elementwise_features_vjp(by_k / scale, k, coefficients, clamp)
    return by_q, by_k, *others[:5], a_q + a_k


# -- windows of separable weights, and sweeps in place of steps -------------------------------------------------------


def omega_separable(
    q,
    k,
    v,
    *,
    alpha,
    eta,
    theta,
    scale,
    source,
    window=None,
    config: OmegaConfig = OmegaConfig(),
    initial_state: SeparableState | None = None,
    output_final_state=False,
):
    """omega by gradient descent with γ_{t,j} = r_t u_{t−j}        (eq. 9, 15)

    A weight of the token that looks back times one of the token that is seen. Windows of any length c may then be
    computed at a cost that does not grow with c.

    q              q  (B, T, H, P)  as in ``omega``, and so are
    k, v, alpha, eta, theta, config, output_final_state; the optimizer is "gd", and there is no clip
    scale          r  (B, T, H)     weight of all that token t looks at
    source         u  (B, T, H)     weight of token t wherever it is looked at
    window         c  int           tokens in a window, at least 1; by default that of initial_state, without one 1
    initial_state                   memory, momentum and window before the first token, zeros by default
    returns        o  (B, T, H, V)
                   state            ``SeparableState``, or None if not asked for
    """
    c = 1 if window is None else window
    before = np.zeros((len(q), c - 1, q.shape[2])) if initial_state is None else initial_state.source_window
    gamma = _separable(scale, source, before)
    state = None if initial_state is None else OmegaState(*initial_state[:4])
    gates = {"alpha": alpha, "eta": eta, "theta": theta, "gamma": gamma}
    o, after = omega(q, k, v, **gates, config=config, initial_state=state, output_final_state=True)
    return o, SeparableState(*after, _last(before, source)) if output_final_state else None


def _separable(scale, source, source_window):
    """γ_{t,j} = r_t u_{t−j} (B, T, H, c)"""
    before, length = source_window.shape[1], source.shape[1]
    sources = np.concatenate([source_window, source], axis=1)
    return np.stack([scale * sources[:, before - j : before - j + length] for j in range(before + 1)], axis=-1)


def omega_separable_vjp(
    g_o,
    g_memory,
    g_momentum,
    q,
    k,
    v,
    alpha,
    eta,
    theta,
    scale,
    source,
    memory,
    momentum,
    k_window,
    v_window,
    source_window,
    chunk_size,
    objective,
    lr_inside_momentum,
    read_before_update,
):
    """r̄_t = Σ_j γ̄_{t,j} u_{t−j},  ū_i = Σ_j γ̄_{i+j,j} r_{i+j}, the others as in ``omega``"""
    before, length = source_window.shape[1], source.shape[1]
    gamma, state = _separable(scale, source, source_window), (memory, momentum, k_window, v_window)
    modes = chunk_size, objective, "gd", lr_inside_momentum, read_before_update, None
    found = omega_vjp(g_o, g_memory, g_momentum, q, k, v, alpha, eta, theta, gamma, *state, *modes)
    sources, by_gamma = np.concatenate([source_window, source], axis=1), found[6]
    by_scale, by_sources = np.zeros(scale.shape), np.zeros(sources.shape)
    for j in range(before + 1):
        by_age = by_gamma[..., j]
        by_scale = by_scale + by_age * sources[:, before - j : before - j + length]
        earlier, later = sources[:, : before - j], sources[:, before - j + length :]
        by_sources = by_sources + np.concatenate([0 * earlier, by_age * scale, 0 * later], axis=1)
    return (*found[:6], by_scale, by_sources[:, before:], *found[7:], by_sources[:, :before])


def omega_picard(
    q,
    k,
    v,
    *,
    alpha,
    eta,
    theta,
    gamma,
    tile,
    sweeps,
    lr_inside_momentum=False,
    read_before_update=False,
    initial_state: OmegaState | None = None,
    output_final_state=False,
):
    """M⁰_t = memories of a tile without gradients;  g^i_t = ∇L_t(M^i_{t−1}),  M^{i+1} = memories with the gradients g^i

    Picard's iteration for the rule of every token, ``omega`` with C = 1 on squared errors by gradient descent, tile by
    tile: the tile is run once without gradients and then ``sweeps`` + 1 times with those at the memories of the run
    before. No sweep is a linearisation at the tile's start, decayed; token t is exact after t − 1 sweeps.

    q        q  (B, T, H, P)  as in ``omega``, and so are
    k, v, alpha, eta, theta, gamma, initial_state, output_final_state
    tile     n  int           tokens that are run together, at least 1
    sweeps   s  int           at least 0
    lr_inside_momentum, read_before_update   as in ``OmegaConfig``
    returns  o  (B, T, H, V)
             state            ``OmegaState``, or None if not asked for
    """
    before = _zero_state((q, k, v, gamma), len(q)) if initial_state is None else initial_state
    tokens = _swept(k, v, alpha, eta, theta, gamma, *before, lr_inside_momentum, tile, sweeps)
    read_from = "M before" if read_before_update else "M"
    reads = [_row(q[:, t], token[-1][read_from]) for t, token in enumerate(tokens)]
    windows = _last(before.k_window, k), _last(before.v_window, v)
    state = OmegaState(tokens[-1][-1]["M"], tokens[-1][-1]["S"], *windows)
    return np.stack(reads, axis=1), state if output_final_state else None


def _swept(k, v, alpha, eta, theta, gamma, memory, momentum, k_window, v_window, lr_inside_momentum, tile, sweeps):
    """For every token what happens at it in each run, the first of which has no gradients."""
    one, length = np.ones(eta.shape), eta.shape[1]
    into, out = (eta, one) if lr_inside_momentum else (one, eta)
    keys, values = np.concatenate([k_window, k], axis=1), np.concatenate([v_window, v], axis=1)
    found = []
    for start in range(0, length, tile):
        part = range(start, min(start + tile, length))
        g, runs = [np.zeros(memory.shape) for _ in part], []
        for _ in range(sweeps + 2):
            M, S, run = memory, momentum, []
            for t, g_t in zip(part, g, strict=True):
                token = {"M before": M, "S before": S, "g": g_t}
                S = _head(theta[:, t]) * S + _head(into[:, t]) * g_t
                M = _head(alpha[:, t]) * M - _head(out[:, t]) * S
                run = [*run, {**token, "M": M, "S": S}]
            g = [_windowed(keys, values, gamma, t, token["M before"]) for t, token in zip(part, run, strict=True)]
            runs = [*runs, run]
        memory, momentum = M, S
        found = [*found, *(list(token) for token in zip(*runs, strict=True))]
    return found


def _windowed(keys, values, gamma, t, M):
    """Σ_j γ_{t,j} k (kᵀM − v)ᵀ, k and v of token t − j"""
    window, total = gamma.shape[-1], np.zeros(M.shape)
    for j in range(window):
        phi, value = keys[:, window - 1 + t - j], values[:, window - 1 + t - j]
        total = total + _head(gamma[:, t, :, j]) * _outer(phi, _row(phi, M) - value)
    return total


def omega_picard_vjp(
    g_o,
    g_memory,
    g_momentum,
    q,
    k,
    v,
    alpha,
    eta,
    theta,
    gamma,
    memory,
    momentum,
    k_window,
    v_window,
    lr_inside_momentum,
    read_before_update,
    tile,
    sweeps,
):
    """Tile by tile from the last, and run by run: each run's M̄_{t−1} comes from the gradients of the run after it"""
    tokens = _swept(
        k, v, alpha, eta, theta, gamma, memory, momentum, k_window, v_window, lr_inside_momentum, tile, sweeps
    )
    one, length, window = np.ones(eta.shape), eta.shape[1], gamma.shape[-1]
    into, out = (eta, one) if lr_inside_momentum else (one, eta)
    keys, values = np.concatenate([k_window, k], axis=1), np.concatenate([v_window, v], axis=1)
    by_keys = [np.zeros(keys[:, 0].shape) for _ in range(keys.shape[1])]
    by_values = [np.zeros(values[:, 0].shape) for _ in range(values.shape[1])]
    by_q = [_column(token[-1]["M before" if read_before_update else "M"], g_o[:, t]) for t, token in enumerate(tokens)]
    gates = np.zeros(eta[:, 0].shape)
    by_alpha, by_theta, by_into, by_out = ([gates for _ in range(length)] for _ in range(4))
    by_gamma = [np.zeros(gamma[:, 0].shape) for _ in range(length)]
    by_M, by_S = g_memory, g_momentum
    for start in range(((length - 1) // tile) * tile, -1, -tile):
        part = range(min(start + tile, length) - 1, start - 1, -1)
        seen = {t: _outer(q[:, t], g_o[:, t]) for t in part}
        after = {t: np.zeros(memory.shape) if read_before_update else seen[t] for t in part}
        ahead = {t: seen[t] if read_before_update else np.zeros(memory.shape) for t in part}
        start_M, start_S = np.zeros(memory.shape), np.zeros(memory.shape)
        for run in range(sweeps + 1, -1, -1):
            next_ahead = {}
            for t in part:
                token = tokens[t][run]
                by_M = by_M + after[t]
                by_alpha[t] = by_alpha[t] + _sum(by_M, token["M before"])
                by_out[t] = by_out[t] - _sum(by_M, token["S"])
                by_S = by_S - _head(out[:, t]) * by_M
                by_theta[t] = by_theta[t] + _sum(by_S, token["S before"])
                by_into[t] = by_into[t] + _sum(by_S, token["g"])
                by_g = _head(into[:, t]) * by_S
                by_M, by_S = _head(alpha[:, t]) * by_M + ahead[t], _head(theta[:, t]) * by_S
                if run > 0:
                    earlier, total, weights = tokens[t][run - 1]["M before"], np.zeros(memory.shape), []
                    for j in range(window):
                        i = window - 1 + t - j
                        phi, weight = keys[:, i], gamma[:, t, :, j][..., None]
                        error, pulled = _row(phi, earlier) - values[:, i], _row(phi, by_g)
                        weights = [*weights, np.sum(pulled * error, axis=-1)]
                        by_values[i] = by_values[i] - weight * pulled
                        by_keys[i] = by_keys[i] + weight * (_column(by_g, error) + _column(earlier, pulled))
                        total = total + _outer(phi, weight * pulled)
                    by_gamma[t] = by_gamma[t] + np.stack(weights, axis=-1)
                    next_ahead[t] = total
            start_M, start_S = start_M + by_M, start_S + by_S
            by_M, by_S = np.zeros(memory.shape), np.zeros(memory.shape)
            after, ahead = {t: np.zeros(memory.shape) for t in part}, next_ahead
        by_M, by_S = start_M, start_S
    by_keys, by_values = np.stack(by_keys, axis=1), np.stack(by_values, axis=1)
    by_eta = by_into if lr_inside_momentum else by_out
    return (
        np.stack(by_q, axis=1),
        by_keys[:, window - 1 :],
        by_values[:, window - 1 :],
        *(np.stack(rows, axis=1) for rows in (by_alpha, by_eta, by_theta, by_gamma)),
        by_M,
        by_S,
        by_keys[:, : window - 1],
        by_values[:, : window - 1],
    )
