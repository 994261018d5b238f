"""Known wrong variants of the family atlas_memory: MEM-01 … MEM-10, MEM-13, MEM-14 and MEM-36."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from trueness.reference import atlas_memory as true
from trueness.regressions._lib.commands import show
from trueness.tools.spec.model import UNDOCUMENTED, Bug

CHANGELOG = "Atlas memory (davidbasilefilho/atlas), changelog of 2025-07-17"
PAPER = "Behrouz et al. 2025, ATLAS (2505.23735)"
JORDAN = "Jordan et al. 2024, Muon"
OMEGA = tuple(inspect.signature(true.omega).parameters)
MLP = tuple(inspect.signature(true.omega_mlp).parameters)
VARLEN = tuple(inspect.signature(true.omega_varlen).parameters)
SEPARABLE = tuple(inspect.signature(true.omega_separable).parameters)
PICARD = tuple(inspect.signature(true.omega_picard).parameters)
ATTENTION = tuple(inspect.signature(true.atlas_attention).parameters)
Arguments = dict[str, Any]


def named(names: tuple[str, ...], wrong: Callable[[Arguments], Any]) -> Callable[..., Any]:
    """``wrong``, which takes its arguments by name in one dictionary, with the signature of the reference."""

    def variant(*arguments: Any) -> Any:
        return wrong(dict(zip(names, arguments, strict=True)))

    variant.__doc__ = wrong.__doc__
    return variant


def omega(p: Arguments, **other: Any) -> Any:
    return true.omega(**{**p, **other})


def recurrence(p: Arguments, gradient: Callable[..., Any], update: Callable[..., Any]) -> Any:
    """omega with another ``gradient(t, M̂, keys, values)``, or another ``update(S, g, i)``"""
    keys, values = (np.concatenate([p[f"{x}_window"], p[x]], axis=1) for x in "kv")
    one = np.ones(p["eta"].shape)
    into, out = (one, p["eta"]) if p["placement"] == "outer" else (p["eta"], one)
    M, S, reads = p["memory"], p["momentum"], []
    M_hat = M
    for t in range(p["q"].shape[1]):
        M_hat = M if t % p["chunk_size"] == 0 else M_hat
        g = clipped(gradient(t, M_hat, keys, values), math.inf if p["clip"] is None else p["clip"])
        S = true._head(p["theta"][:, t]) * S + true._head(into[:, t]) * g
        before = M
        M = true._head(p["alpha"][:, t]) * M - true._head(out[:, t]) * update(S, g, into[:, t])
        reads = [*reads, true._row(p["q"][:, t], M if p["read"] == "post" else before)]
    return np.stack(reads, axis=1), M, S


def the_momentum(S: Any, g: Any, into: Any) -> Any:
    return S


def clipped(x: Any, limit: float) -> Any:
    return np.minimum(np.maximum(x, -limit), limit)


def windowed(p: Arguments, term: Callable[..., Any]) -> Callable[..., Any]:
    """The gradient Σ_j γ_{t,j} term(number of the token, k, v, M̂)"""
    window = p["gamma"].shape[-1]

    def gradient(t: int, M_hat: Any, keys: Any, values: Any) -> Any:
        tokens = [window - 1 + t - j for j in range(window)]
        terms = [term(i, keys[:, i], values[:, i], M_hat) for i in tokens]
        return sum(true._head(p["gamma"][:, t, :, j]) * term for j, term in enumerate(terms))

    return gradient


def residual(p: Arguments) -> Callable[..., Any]:
    """k (kᵀM̂ − v)ᵀ, or −k vᵀ"""
    squares = p["objective"] == "l2"
    return lambda _, k, v, M_hat: true._outer(k, true._row(k, M_hat) - v if squares else -v)


def is_descent(p: Arguments) -> bool:
    """Gradient descent on squared errors: where only the gradient differs"""
    return p["optimizer"] == "gd" and p["objective"] == "l2"


# -- MEM-01: what the memory sees -------------------------------------------------------------------------------------


def never_updated(p: Arguments) -> Any:
    """o_t = q_tᵀ M_0: the memory is read and never written, so that keys and values do not matter"""
    memory = p["memory"][:, None]
    return true._row(p["q"], np.concatenate([memory] * p["q"].shape[1], axis=1)), p["memory"], p["momentum"]


def never_updated_mlp(p: Arguments) -> Any:
    """o_t = f(q_t; W_0): the project's own module, pointwise in the tokens"""
    w1, w2 = p["w1"][:, None], p["w2"][:, None]
    o = p["q"] + true._column(w1, true._silu(true._column(w2, p["q"])))
    return o, p["w1"], p["w2"], p["s1"], p["s2"]


def never_updated_attention(p: Arguments) -> Any:
    """An empty memory that is never written reads as nothing"""
    return 0 * p["v"]


def one_token_ahead(p: Arguments) -> Any:
    """Token t learns from token t + 1 before it is read"""
    return omega(p, **{x: np.concatenate([p[x][:, 1:], p[x][:, -1:]], axis=1) for x in ("k", "v")})


def reads_the_end(p: Arguments) -> Any:
    """o_t = q_tᵀ M_T: every token reads the memory of the last one"""
    _, M, S = omega(p)
    return true._row(p["q"], np.concatenate([M[:, None]] * p["q"].shape[1], axis=1)), M, S


def batch_mean(p: Arguments) -> Any:
    """Keys and values are averaged over the batch before they are stored"""

    def mean(x: Any) -> Any:
        return np.concatenate([np.sum(x, axis=0, keepdims=True) / x.shape[0]] * x.shape[0], axis=0)

    return omega(p, **{x: mean(p[x]) for x in ("k", "v", "k_window", "v_window")})


def other_read(p: Arguments) -> Any:
    """M_{t−1} is read where M_t was asked for, and the other way round"""
    return omega(p, read="pre" if p["read"] == "post" else "post")


def token_by_token(p: Arguments) -> Any:
    """C = 1 whatever was asked for"""
    return omega(p, chunk_size=1)


def one_linearisation(p: Arguments) -> Any:
    """C = T: all gradients of a call are taken at the memory it starts from"""
    return omega(p, chunk_size=p["q"].shape[1])


def stale_residuals(p: Arguments) -> Any:
    """A token's error is taken when it arrives and kept as long as it is in the window"""
    if not is_descent(p):
        return omega(p)
    errors: dict[int, Any] = {}

    def kept(i: int, k: Any, v: Any, M_hat: Any) -> Any:
        errors.setdefault(i, true._row(k, M_hat) - v)
        return true._outer(k, errors[i])

    return recurrence(p, windowed(p, kept), the_momentum)


# -- MEM-02 … MEM-05: features ----------------------------------------------------------------------------------------


def harmonic_coefficients(degree: int) -> Any:
    """a_i = 1/i, a_0 = 1"""
    return 1 / np.maximum(np.arange(degree + 1), 1)


def factorials_twice(x: Any, degree: int) -> Any:
    """x^{⊗i}/i! on both sides, so that the kernel is Σ (q·k)^i/(i!)²"""
    powers = true._tensors(x, degree)
    coefficients = true.taylor_coefficients(degree)
    return np.concatenate([a * x_i for a, x_i in zip(coefficients, powers, strict=True)], axis=-1)


def rooted_coefficients(x: Any, coefficients: Any, clamp: Any) -> Any:
    """√a_i on each side: the coefficients of the paper's kernel, not of the project's features"""
    return true.elementwise_features(x, np.sqrt(np.maximum(coefficients, -coefficients)), clamp)


def constant_of_width_one(x: Any, coefficients: Any, clamp: Any) -> Any:
    """One constant for all elements: 1 + p D features where the buffers have (p + 1) D"""
    phi, width = true.elementwise_features(x, coefficients, clamp), x.shape[-1]
    return np.concatenate([phi[..., :1], phi[..., width:]], axis=-1)


def clip_after_the_power(x: Any, coefficients: Any, clamp: Any) -> Any:
    """a_i clip(x^i): the terms are held and not x"""
    terms = [x * 0 + 1]
    for _ in range(len(coefficients) - 1):
        terms = [*terms, terms[-1] * x]
    held = [np.minimum(np.maximum(t, -clamp), clamp) for t in terms]
    return np.concatenate([a * t for a, t in zip(coefficients, held, strict=True)], axis=-1)


def no_clip(x: Any, coefficients: Any, clamp: Any) -> Any:
    """Powers of x however large"""
    return true.elementwise_features(x, coefficients, np.inf)


def unscaled_features(p: Arguments) -> Any:
    """φ(q) and φ(k) as they are, of a length that grows with D and p"""
    phi_q, phi_k, memory, k_window, v_window = true._empty(*(p[x] for x in ("q", "k", "v", "gamma")), *rest(p))
    scale = np.sqrt(float(phi_q.shape[-1]))
    state = {"memory": memory, "momentum": memory, "k_window": k_window, "v_window": v_window}
    features = {"q": scale * phi_q, "k": scale * phi_k}
    return true.omega(**{name: {**p, **state, **features}[name] for name in OMEGA})[0]


def rest(p: Arguments) -> tuple[Any, Any]:
    return p["coefficients"], p["clamp"]


def heads_unpacked_as_width(x: Any, coefficients: Any, clamp: Any) -> Any:
    """(B, T, H, D) unpacked three ways, (B, T, H D): the powers of all heads stand together"""
    if np.ndim(x) < 3:
        return true.elementwise_features(x, coefficients, clamp)
    *lead, heads, width = x.shape
    phi = true.elementwise_features(x.reshape(*lead, heads * width), coefficients, clamp)
    return phi.reshape(*lead, heads, len(coefficients) * width)


# -- MEM-06 and MEM-07: the window and its gradient -------------------------------------------------------------------


def weights_by_slot(p: Arguments) -> Any:
    """γ of the place in the ring buffer: token i has the weight of slot i mod c, however old it is"""
    gamma = p["gamma"]
    window = gamma.shape[-1]
    by_age = [
        np.stack([gamma[:, t, :, (t - j) % window] for j in range(window)], axis=-1) for t in range(len(gamma[0]))
    ]
    return omega(p, gamma=np.stack(by_age, axis=1))


def oldest_first(p: Arguments) -> Any:
    """γ read in the other direction: the oldest token weighs most"""
    return omega(p, gamma=p["gamma"][..., ::-1])


def renormalised_start(p: Arguments) -> Any:
    """Weights of the tokens of this call sum to one from its first token on"""
    gamma = p["gamma"]
    window = gamma.shape[-1]
    seen = [[float(j <= t) for j in range(window)] for t in range(gamma.shape[1])]
    held = gamma * np.array(seen)[None, :, None, :]
    return omega(p, gamma=held / np.sum(held, axis=-1, keepdims=True))


def weights_not_normalised(window: int, decay: Any) -> Any:
    """exp(−λ j): a plain sum over the window"""
    return np.exp(-decay * np.arange(window))


def minus_the_value(p: Arguments) -> Any:
    """k (kᵀM + v)ᵀ: the value term of eq. 11 as printed"""
    return omega(p, v=-p["v"], v_window=-p["v_window"])


def gram_on_the_other_side(p: Arguments) -> Any:
    """M k kᵀ for k kᵀ M, as eq. 11 is printed; defined for P = V alone, elsewhere left as it should be"""
    if not is_descent(p) or p["memory"].shape[-1] != p["memory"].shape[-2]:
        return omega(p)

    def turned(_: int, k: Any, v: Any, M_hat: Any) -> Any:
        return true._outer(true._column(M_hat, k), k) - true._outer(k, v)

    return recurrence(p, windowed(p, turned), the_momentum)


def twice_the_gradient(p: Arguments) -> Any:
    """|kᵀM − v|² without the half"""
    return omega(p, gamma=2 * p["gamma"])


# -- MEM-08 and MEM-09: Muon and clips --------------------------------------------------------------------------------


def norm_for_newton_schulz(p: Arguments) -> Any:
    """g over a moving average of its norm, where Newton–Schulz of the momentum belongs"""
    return omega(p, optimizer="norm_ema" if p["optimizer"] in ("muon", "muon_chunk") else p["optimizer"])


def norms_without_eps(p: Arguments) -> Any:
    """g/m: 0/0 until there is a first gradient"""
    return norm_average(p, lambda g: true._norm(g)[..., 0, 0], 0.0)


def one_norm_for_all(p: Arguments) -> Any:
    """One moving average for all matrices that are updated, whatever their batch entry or head"""
    return norm_average(p, lambda g: np.sqrt(np.sum(g * g)), true.EPS)


def norm_average(p: Arguments, norm: Callable[..., Any], eps: float) -> Any:
    """omega with U_t = i_t g_t/(m_t + eps), m_t = 0.9 m_{t−1} + 0.1 norm(g_t)"""
    m = 0 * p["eta"][:, 0]

    def update(S: Any, g: Any, into: Any) -> Any:
        nonlocal m
        m = true.DECAY * m + (1 - true.DECAY) * norm(g)
        return true._head(into / (m + eps)) * g

    return recurrence(p, windowed(p, residual(p)), update)


def divided_by_a_norm(g: Any, coefficients: Any, eps: Any) -> Any:
    """G/(0.1 ‖G‖ + ε): the project's 'Muon' at its first step"""
    return g / (0.1 * true._norm(g) + eps)


def without_eps(g: Any, coefficients: Any, eps: Any) -> Any:
    """G/‖G‖: 0/0 where there is no gradient"""
    return true.newton_schulz(g, coefficients, 0.0)


def floored_norm(g: Any, coefficients: Any, eps: Any) -> Any:
    """X_0 = G/max(‖G‖, ε)"""
    x = g / np.maximum(true._norm(g), eps)
    for a, b, c in coefficients:
        gram = x @ np.swapaxes(x, -1, -2)
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x


def polar_factor(g: Any, coefficients: Any, eps: Any) -> Any:
    """The nearest semi-orthogonal matrix: where a convergent polynomial would lead"""
    return true.newton_schulz(g, true.CLASSICAL * 3, eps)


def scaled_by_the_shape(g: Any, coefficients: Any, eps: Any) -> Any:
    """NS(G) √max(1, R/C), which belongs to the step size"""
    rows, columns = g.shape[-2:]
    return true.newton_schulz(g, coefficients, eps) * np.sqrt(max(1.0, rows / columns))


def step_inside(p: Arguments) -> Any:
    """η inside of Newton–Schulz, where a constant one does nothing"""
    return omega(p, placement="inner" if p["optimizer"] == "muon" else p["placement"])


def tighter_clip(p: Arguments) -> Any:
    """±0.1 for ±1"""
    return omega(p, clip=0.1)


def no_gradient_clip(p: Arguments) -> Any:
    """The gradient however large"""
    return omega(p, clip=None)


def clipped_update(p: Arguments) -> Any:
    """The gradient held in ±0.1 and every update in ±0.01"""
    held = {**p, "clip": 0.1}
    return recurrence(held, windowed(p, residual(p)), lambda S, g, into: clipped(S, 0.01))


# -- MEM-10, MEM-13, MEM-14: what hides a failure ---------------------------------------------------------------------


def failures_passed_over(p: Arguments) -> Any:
    """A token whose gradient is not finite is passed over in silence"""
    whole = np.isfinite(np.sum(p["k"], axis=-1, keepdims=True)) & np.isfinite(np.sum(p["v"], axis=-1, keepdims=True))
    return omega(p, k=np.where(whole, p["k"], 0.0), v=np.where(whole, p["v"], 0.0))


def features_for_an_answer(p: Arguments) -> Any:
    """On failure the features of the query are the answer; here always"""
    _, M, S = omega(p)
    return np.concatenate([p["q"], 0 * p["v"]], axis=-1)[..., : p["v"].shape[-1]], M, S


def padded_head(p: Arguments) -> Any:
    """The last value is not stored: the output is filled up with a zero to the head's width"""
    o = true.atlas_attention(**p)
    return np.concatenate([o[..., :-1], 0 * o[..., -1:]], axis=-1)


# -- of many sequences, of two layers, of few rows --------------------------------------------------------------------


def window_across_sequences(p: Arguments) -> Any:
    """The window of a sequence reaches into the one before it in the row"""
    c, ends = p["gamma"].shape[-1], [int(n) for n in p["cu_seqlens"]]
    windows = {}
    for x in ("k", "v"):
        long = np.concatenate([p[f"{x}_window"][:1], p[x]], axis=1)
        windows[f"{x}_window"] = np.concatenate([long[:, n : n + c - 1] for n in ends[:-1]], axis=0)
    return true.omega_varlen(**{**p, **windows})


def chunks_across_sequences(p: Arguments) -> Any:
    """Chunks are counted from the start of the row: a sequence begins within one"""
    ends, found = [int(n) for n in p["cu_seqlens"]], []
    for i in range(len(ends) - 1):
        tokens, (M, S, *windows) = true._sequence(i, ends, *(p[x] for x in VARLEN[:11]))
        cut = min(-ends[i] % p["chunk_size"], tokens[0].shape[1])
        reads = []
        for part in (slice(None, cut), slice(cut, None)):
            some = [x[:, part] for x in tokens]
            if some[0].shape[1]:
                o, M, S = true.omega(*some, M, S, *windows, *(p[x] for x in VARLEN[12:]))
                long = (np.concatenate([w, x], axis=1) for w, x in zip(windows, some[1:3], strict=True))
                windows = [x[:, some[0].shape[1] :] for x in long]
                reads = [*reads, o]
        found = [*found, (np.concatenate([p["v"][:, :0], *reads], axis=1), M, S)]
    return tuple(np.concatenate(x, axis=a) for x, a in zip(zip(*found, strict=True), (1, 0, 0), strict=True))


def outer_newton_schulz_alone(p: Arguments) -> Any:
    """Newton–Schulz of the outer layer's momentum, and plain descent of the inner's"""
    o, w1, _, s1, s2 = true.omega_mlp(**p)
    return o, w1, true.omega_mlp(**{**p, "optimizer": "gd"})[2], s1, s2


def each_factor_by_itself(x: Any, y: Any, coefficients: Any, eps: Any) -> Any:
    """NS(X)ᵀ NS(Y): both factors made orthogonal, which forgets how they are weighted against each other"""
    return np.swapaxes(true.newton_schulz(x, coefficients, eps), -1, -2) @ true.newton_schulz(y, coefficients, eps)


# -- what chunks, tiles and windows get wrong --------------------------------------------------------------------------


def gates_from_logarithms(p: Arguments) -> Any:
    """∏ α as exp(Σ log α − Σ log α): −∞ − (−∞) from the first gate of 0 on"""
    with np.errstate(divide="ignore", invalid="ignore"):
        sums = np.stack([np.sum(np.log(p["alpha"][:, : t + 1]), axis=1) for t in range(p["alpha"].shape[1])], axis=1)
        earlier = np.concatenate([0 * sums[:, :1], sums[:, :-1]], axis=1)
        return omega(p, alpha=np.exp(sums - np.where(np.arange(sums.shape[1])[None, :, None] == 0, 0.0, earlier)))


def errors_one_row_late(p: Arguments) -> Any:
    """ρ of token t for that of t − 1: with C = 1 the error is taken after the decay and the momentum of its token"""
    if not is_descent(p) or p["chunk_size"] != 1:
        return omega(p)
    outer = p["placement"] == "outer"
    keys, values = (np.concatenate([p[f"{x}_window"], p[x]], axis=1) for x in "kv")
    M, S, reads = p["memory"], p["momentum"], []
    for t in range(p["q"].shape[1]):
        eta, alpha, theta = (true._head(p[x][:, t]) for x in ("eta", "alpha", "theta"))
        into, out = (1.0, eta) if outer else (eta, 1.0)
        ahead, before = alpha * M - out * (theta * S), M
        S = theta * S + into * true._windowed(keys, values, p["gamma"], t, ahead)
        M = alpha * M - out * S
        reads = [*reads, true._row(p["q"][:, t], M if p["read"] == "post" else before)]
    return np.stack(reads, axis=1), M, S


def filled_up_inside(p: Arguments) -> Any:
    """The last chunk is filled up with tokens of η = 0: inside of the momentum that stops no step"""
    length, more = p["q"].shape[1], -p["q"].shape[1] % p["chunk_size"]

    def filled(name: str, value: float) -> Any:
        return np.concatenate([p[name], np.full((p[name].shape[0], more, *p[name].shape[2:]), value)], axis=1)

    kept = {name: filled(name, 1.0) for name in ("alpha", "theta")}
    still = {name: filled(name, 0.0) for name in ("q", "k", "v", "eta", "gamma")}
    o, M, S = omega(p, **kept, **still)
    return o[:, :length], M, S


def own_chunk_whatever_the_window(p: Arguments) -> Any:
    """A token looks at all of its chunk before it, though its window is shorter"""
    gamma = true._separable(p["scale"], p["source"], p["source_window"])
    sources = np.concatenate([p["source_window"], p["source"]], axis=1)
    length, window = gamma.shape[1], gamma.shape[-1]
    more = max(p["chunk_size"] - window, 0)
    older = []
    for j in range(window, window + more):
        seen = [
            p["scale"][:, t] * sources[:, window - 1 + t - j] if j <= t % p["chunk_size"] else 0 * p["scale"][:, t]
            for t in range(length)
        ]
        older = [*older, np.stack(seen, axis=1)]
    wider = np.concatenate([gamma, *(x[..., None] for x in older)], axis=-1)
    before = {}
    for name in ("k_window", "v_window"):
        nothing = np.zeros((p[name].shape[0], more, *p[name].shape[2:]))
        before[name] = np.concatenate([nothing, p[name]], axis=1)
    whole = {**p, **before, "gamma": wider, "optimizer": "gd", "clip": None}
    return true.omega(**{name: whole[name] for name in OMEGA})


def one_sweep_short(p: Arguments) -> Any:
    """The linearisation is counted as a sweep"""
    return true.omega_picard(**{**p, "sweeps": max(p["sweeps"] - 1, 0)})


def sweeps_over_the_whole_call(p: Arguments) -> Any:
    """One tile from the first token to the last"""
    return true.omega_picard(**{**p, "tile": p["q"].shape[1]})


# -- discriminating inputs --------------------------------------------------------------------------------------------

Q = np.array([[1, 0, 0.5], [0.5, 1, 0], [0, 0.5, 1], [1, 1, 0], [0.5, 0, 1]])
K = np.array([[1, 0.5, 0], [0, 1, 0.5], [1, 0, 1], [0.5, 1, 0], [0, 0.5, 1]])
V = np.array([[1, -2, 0.5], [3, 0.5, -1], [-1, 2, 1.5], [0.5, 3, -2], [2, -1, 1]])
START = np.array([[0.5, -1, 2], [1, 0.25, -0.5], [-0.75, 1, 1.5]])
FULL = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])  # of rank two
FEATURES = np.array([0.5, -2.0, 11.0])
FOUR_AXES = np.arange(1.0, 13.0).reshape(1, 2, 2, 3) / 4
TAYLOR = true.taylor_coefficients(3)
YOUNG = np.broadcast_to(np.array([0.875, 0.125]), (2, 5, 1, 2))


def known(**other: Any) -> Arguments:
    """Two batch entries, the second in reverse: five tokens, one head, three features, a window of two, by name"""
    q, k, v = (np.stack([x, x[::-1]])[:, :, None] for x in (Q, K, V))
    gates = {name: np.full((2, 5, 1), value) for name, value in (("alpha", 0.75), ("eta", 0.5), ("theta", 0.5))}
    memory = np.stack([START, START])[:, None]
    state = {"memory": memory, "momentum": 0 * memory, "w1": memory / 2, "w2": memory, "s1": 0 * memory}
    state |= {"s2": 0 * memory, "k_window": np.zeros((2, 1, 1, 3)), "v_window": np.zeros((2, 1, 1, 3))}
    modes = {"chunk_size": 2, "objective": "l2", "optimizer": "gd", "placement": "outer", "read": "post", "clip": None}
    features = {"gamma": np.full((2, 5, 1, 2), 0.5), "coefficients": TAYLOR[:3], "clamp": 10.0}
    weights = {"scale": np.full((2, 5, 1), 0.5), "source": np.full((2, 5, 1), 1.0)}
    further = {**weights, "source_window": np.full((2, 1, 1), 1.0), "tile": 3, "sweeps": 1}
    return {"q": q, "k": k, "v": v, **gates, **state, **modes, **features, **further, **other}


def discriminating_input(names: tuple[str, ...] = OMEGA, **other: Any) -> tuple[Any, ...]:
    found = known(**other)
    return tuple(found[name] for name in names)


def in_one_row() -> tuple[Any, ...]:
    """Both entries of ``known`` one after the other, and an empty sequence between them"""
    found = known()
    row = {x: found[x].reshape(1, 10, *found[x].shape[2:]) for x in VARLEN[:7]}
    state = {x: np.stack([found[x][0], found[x][0], found[x][1]]) for x in VARLEN[7:11]}
    every = {**found, **row, **state, "cu_seqlens": np.array([0, 5, 5, 10])}
    return tuple(every[x] for x in VARLEN)


def first_key_is_nan() -> Any:
    return np.where(np.arange(5)[None, :, None, None] == 0, np.nan, known()["k"])


# -- the ledger -------------------------------------------------------------------------------------------------------


def entry(
    id: str,
    title: str,
    claim: str,
    verdict: str,
    finding: str,
    formula: str = "",
    variant: Callable[..., Any] | None = None,
    discriminating_input: Sequence[Any] | None = None,
    source: str = PAPER,
    document: str = CHANGELOG,
    invisible: Mapping[str, str] | None = None,
) -> Bug:
    return Bug(
        id=id,
        formula=f"atlas_memory.{formula}" if formula else "",
        title=title,
        document=document,
        claim=claim,
        verdict=verdict,
        source=source,
        finding=finding,
        evidence=show(id.replace("-", "_")),
        variant=variant,
        discriminating_input=discriminating_input,
        invisible=invisible or {},
    )


PARALLEL = "AtlasAttention processes all tokens in parallel, about 100 times faster"
LINEARISED = "parallel training gives the sequential result"
MUON = "the memory is updated by the Muon optimiser"
FAILURE = "a failed memory update no longer stops the forward pass"
CLAMPS = "the powers are clamped for stability: x to ±10, every term to ±1e6"

BUGS = (
    entry(
        "MEM-01",
        "a 'parallel' memory that mixes no tokens",
        PARALLEL,
        "claim false",
        "Loop and parallel module compute the same pointwise function of each token, with the same arithmetic: "
        "the off-token Jacobian is 0, key and value projections get no gradient, the second call returns the first's "
        "output. What is saved is the launching of kernels token by token: about 10 times on one core at width 288, "
        "60 at width 48, where there is less to compute.",
    ),
    entry(
        "MEM-01a",
        "the memory is never updated",
        PARALLEL,
        "real bug, wrong fix",
        "No revision of the project calls its update rule. Before and after the fix keys and values change nothing.",
        "omega",
        named(OMEGA, never_updated),
        discriminating_input(),
        f"{PAPER} eq. 9, 15, 32-33",
    ),
    entry(
        "MEM-01b",
        "a memory of two layers is never updated",
        PARALLEL,
        "real bug, wrong fix",
        "The project's own shape of memory, y = MLP(φ(q)): without an update it is a feed-forward layer.",
        "omega_mlp",
        named(MLP, never_updated_mlp),
        discriminating_input(MLP),
        f"{PAPER} eq. 42",
    ),
    entry(
        "MEM-01c",
        "attention on a memory that is never written",
        PARALLEL,
        "real bug, wrong fix",
        "From an empty memory, without updates, nothing is ever read.",
        "atlas_attention",
        named(ATTENTION, never_updated_attention),
        discriminating_input(ATTENTION),
        f"{PAPER} eq. 9, 29",
    ),
    entry(
        "MEM-01d",
        "a token learns from the one after it",
        "processing in parallel keeps causality",
        "no bug",
        "The project is causal because it mixes nothing. A peer's default convolution does leak one future token; the "
        "leak is kept as what the checks must reject.",
        "omega",
        named(OMEGA, one_token_ahead),
        discriminating_input(),
        f"{PAPER} eq. 9",
    ),
    entry(
        "MEM-01e",
        "every token reads the last token's memory",
        "processing in parallel keeps causality",
        "no bug",
        "Not the project's: a port of the paper (Todd_Atlas) reads the final memory everywhere, so that token 0 knows "
        "the end.",
        "omega",
        named(OMEGA, reads_the_end),
        discriminating_input(),
        f"{PAPER} eq. 29",
    ),
    entry(
        "MEM-01f",
        "keys and values are averaged over the batch",
        "one context buffer serves the batch",
        "real bug, wrong fix",
        "Before the fix every token's batch mean was stored, after it that of the last token: either way one sample's "
        "memory holds another's text. It went unseen because the buffer is never read.",
        "omega",
        named(OMEGA, batch_mean),
        discriminating_input(),
        f"{PAPER} eq. 9: one memory per sequence",
    ),
    entry(
        "MEM-01g",
        "the memory is read before its update instead of after",
        "o_t = M_t(φ(q_t))",
        "convention",
        "Eq. 29 reads M_t, atlas-rnn M_{t−1}. From an empty memory the first output is 0 in one and not in the other. "
        "Here read is an argument without a default.",
        "omega",
        named(OMEGA, other_read),
        discriminating_input(),
        f"{PAPER} eq. 29",
    ),
    entry(
        "MEM-01h",
        "the chunk size is taken for a matter of speed",
        LINEARISED,
        "claim false",
        "With squared errors C changes the values: 3 % of the output at C = 16 and small steps, more than the output "
        "itself at C = 128 and large ones. Equality with the token loop holds for C = 1 and for the inner product.",
        "omega",
        named(OMEGA, token_by_token),
        discriminating_input(),
        f"{PAPER} eq. 15-16",
    ),
    entry(
        "MEM-01i",
        "one linearisation for the whole call",
        LINEARISED,
        "claim false",
        "From an empty memory the squared error then is the inner product: no delta correction at all. "
        "atlas-rnn does so, and titans-pytorch unless batch_size is given.",
        "omega",
        named(OMEGA, one_linearisation),
        discriminating_input(),
        f"{PAPER} eq. 16",
    ),
    entry(
        "MEM-01j",
        "old tokens of the window keep the error of their arrival",
        "a window of gradients is the gradient of the window",
        "convention",
        "Eq. 16 takes the whole window's gradient at the current chunk's memory; atlas-rnn stores gradients and adds "
        "them up. The two differ as soon as a window reaches over a chunk's start.",
        "omega",
        named(OMEGA, stale_residuals),
        discriminating_input(),
        f"{PAPER} eq. 16",
    ),
    entry(
        "MEM-02",
        "factorial of a float tensor",
        "coefficients 1/i! failed with a TypeError and are fixed",
        "real bug, right fix",
        "math.factorial of a float tensor raises TypeError; of an integer it is exact up to i = 170 in float64.",
        source=f"{PAPER} eq. 5",
    ),
    entry(
        "MEM-02a",
        "1/i! on the features of both sides",
        "coefficients 1/i! make the kernel that of exp",
        "real bug, wrong fix",
        "The coefficients of eq. 5 belong to the kernel; features carry their roots (eq. 22). With 1/i! on both sides "
        "the kernel is Σ (q·k)^i/(i!)², and stays 8.3e-2 below exp at q·k = 0.5 however many powers there are.",
        "tensor_features",
        factorials_twice,
        (np.array([0.5, -1.0]), 3),
        f"{PAPER} eq. 5, 22",
    ),
    entry(
        "MEM-02c",
        "1/i for 1/i!",
        "coefficients 1/i! are those of exp",
        "no bug",
        "Nobody shipped it: it shows that the check of the coefficients can fail, from the second power on.",
        "taylor_coefficients",
        harmonic_coefficients,
        (3,),
        f"{PAPER} eq. 5",
    ),
    entry(
        "MEM-02b",
        "roots of the coefficients in the elementwise map",
        "coefficients 1/i! on the features",
        "convention",
        "With 1/i! the elementwise kernel is Σ_d 0F1(; 1; q_d k_d), with 1/√i! it is Σ_d exp(q_d k_d). Both are right "
        "under their name; neither is exp(q·k).",
        "elementwise_features",
        rooted_coefficients,
        (FEATURES / 11, TAYLOR, 10.0),
        "scipy.special.hyp0f1",
    ),
    entry(
        "MEM-03",
        "a constant of width one",
        "the constant term has width head_dim",
        "real bug, right fix",
        "1 + p d features do not fit buffers of (p + 1) d. The d constants of the fix have rank one: they are one "
        "constant of weight √d and add no capacity.",
        "elementwise_features",
        constant_of_width_one,
        (FEATURES, TAYLOR, 10.0),
    ),
    entry(
        "MEM-04",
        "a second clamp that never acts",
        CLAMPS,
        "no bug",
        "With x in ±10 and coefficients 1/i! no term exceeds 10^10/10! = 2755.7: the clamp to ±1e6 changes no bit. "
        "Kept as a wrong variant: features without any clamp.",
        "elementwise_features",
        no_clip,
        (FEATURES * 2, TAYLOR, 10.0),
        "max_i 10^i/i!",
    ),
    entry(
        "MEM-04a",
        "the power is clamped and not its base",
        CLAMPS,
        "no bug",
        "Not the project's. x^i held in ±10 is flat from |x| = 10^(1/i) on, so that higher powers say less and less.",
        "elementwise_features",
        clip_after_the_power,
        (FEATURES, TAYLOR, 10.0),
        CHANGELOG,
    ),
    entry(
        "MEM-04b",
        "features that grow with their number",
        "clamping makes the memory stable",
        "claim false",
        "What diverges is the step and not the power: the constant block makes |φ|² ≥ D, and with steps that suit unit "
        "vectors the memory grows without bound. Here features are divided by √P.",
        "atlas_attention",
        named(ATTENTION, unscaled_features),
        discriminating_input(ATTENTION),
        "gradient descent needs a step below 2/λ_max",
    ),
    entry(
        "MEM-05",
        "four axes unpacked as three",
        "polynomial features take 3-D and 4-D input",
        "real bug, right fix",
        "batch, length, width = x.shape raises ValueError for (B, T, H, D). Flattening heads into width instead puts "
        "the powers of all heads together and hands them back to the wrong heads.",
        "elementwise_features",
        heads_unpacked_as_width,
        (FOUR_AXES, TAYLOR, 10.0),
        "φ acts on the last axis",
    ),
    entry(
        "MEM-06",
        "a tensor taken for a list",
        "the Omega rule iterates over its context",
        "real bug, right fix",
        "`if context:` on a tensor of several elements raises RuntimeError; iterating a tensor yields views that keep "
        "its graph.",
        source="torch.Tensor.__bool__",
    ),
    entry(
        "MEM-06a",
        "weights by place in the ring buffer",
        "older tokens weigh less: exp(−0.1 j)",
        "real bug, wrong fix",
        "j is the slot and not the age. Once the buffer has wrapped around, the newest token has the weight of "
        "whatever slot it fell into.",
        "omega",
        named(OMEGA, weights_by_slot),
        discriminating_input(gamma=YOUNG),
        f"{PAPER} eq. 9",
    ),
    entry(
        "MEM-06b",
        "the oldest token weighs most",
        "older tokens weigh less: exp(−0.1 j)",
        "no bug",
        "Nobody's: the window in the other direction, as what the checks must reject.",
        "omega",
        named(OMEGA, oldest_first),
        discriminating_input(gamma=YOUNG),
        f"{PAPER} eq. 9",
    ),
    entry(
        "MEM-06c",
        "weights renormalised while the window fills",
        "weights sum to one",
        "convention",
        "Eq. 9 drops tokens before the first and does not rescale the others. Rescaled, the first token's step is as "
        "large as a whole window's.",
        "omega",
        named(OMEGA, renormalised_start),
        discriminating_input(),
        f"{PAPER} eq. 9",
    ),
    entry(
        "MEM-06d",
        "weights that do not sum to one",
        "weights exp(−0.1 j)/Σ",
        "no bug",
        "The project divides. A plain sum makes the step c times larger, and the memory diverges where the mean does "
        "not.",
        "window_weights",
        weights_not_normalised,
        (8, 0.125),
        CHANGELOG,
    ),
    entry(
        "MEM-07",
        "the value term with a minus sign",
        "eq. 11: M_t = … − Σ γ v φᵀ",
        "real bug, right fix",
        "An error of the paper's eq. 11 (also 28 and 30): gradient descent on ½|M φ − v|² adds + η v φᵀ.",
        "omega",
        named(OMEGA, minus_the_value),
        discriminating_input(),
        "the derivative of eq. 9, by autograd",
        PAPER,
    ),
    entry(
        "MEM-07a",
        "the Gram matrix on the other side",
        "eq. 11: (α I − Σ γ φ φᵀ) M_{t−1}",
        "real bug, right fix",
        "With the paper's M (d_v, d_φ) the Gram factor stands on the right; as printed the shapes fit for d_v = d_φ "
        "only, and the values are wrong.",
        "omega",
        named(OMEGA, gram_on_the_other_side),
        discriminating_input(),
        "the derivative of eq. 9, by autograd",
        PAPER,
    ),
    entry(
        "MEM-07b",
        "twice the gradient",
        "ℓ = |M φ − v|²",
        "convention",
        "Eq. 9 has no half, eq. 10 and 16 drop the 2 of its derivative. Here ℓ has the half and the 2 goes into η, so "
        "that c = 1 is the delta rule with β = η.",
        "omega",
        named(OMEGA, twice_the_gradient),
        discriminating_input(),
        "the derivative of eq. 9, by autograd",
        PAPER,
    ),
    entry(
        "MEM-07c",
        "the step size in the other place",
        "S_t = θ S_{t−1} + ∇, M_t = α M_{t−1} − η S_t",
        "convention",
        "Eq. 12-13 put η_t inside the momentum, eq. 32 outside. They agree for a constant step; otherwise an old "
        "gradient is weighed by its own η or by today's.",
        "omega",
        named(OMEGA, lambda p: omega(p, placement="inner" if p["placement"] == "outer" else "outer")),
        discriminating_input(eta=np.broadcast_to(np.array([0.5, 0.125, 0.5, 0.25, 1.0])[None, :, None], (2, 5, 1))),
        f"{PAPER} eq. 12-13, 32",
        PAPER,
    ),
    entry(
        "MEM-08",
        "a moving average of norms called Muon",
        MUON,
        "claim false",
        "The project divides the clipped gradient by a moving average of its norm. On gradients of ordinary size that "
        "is their sign; the singular values of a rank-two gradient stay as unequal as they were.",
        "omega_muon",
        named(OMEGA, norm_for_newton_schulz),
        discriminating_input(optimizer="muon"),
        JORDAN,
    ),
    entry(
        "MEM-08a",
        "division by a norm in place of Newton–Schulz",
        MUON,
        "claim false",
        "The first step is G/(0.1 ‖G‖), ten times too long, because the average starts at 0.",
        "newton_schulz",
        divided_by_a_norm,
        (FULL, true.JORDAN, 1e-8),
        JORDAN,
    ),
    entry(
        "MEM-08b",
        "no ε: 0/0 for a zero gradient",
        MUON,
        "no bug",
        "The project has 1e-8. Without it a token that the memory already knows turns everything after it into NaN.",
        "newton_schulz",
        without_eps,
        (np.zeros((2, 3)), true.JORDAN, 1e-8),
        JORDAN,
    ),
    entry(
        "MEM-08c",
        "no ε beside the average of norms",
        MUON,
        "no bug",
        "m starts at 0; without ε a first gradient of 0 is 0/0.",
        "omega_norm_ema",
        named(OMEGA, norms_without_eps),
        discriminating_input(optimizer="norm_ema", k=np.zeros((2, 5, 1, 3))),
        CHANGELOG,
    ),
    entry(
        "MEM-08d",
        "one average for all matrices",
        MUON,
        "claim false",
        "One scalar is shared by all parameters in the order in which they come, so that a step depends on the other "
        "matrices and on their order.",
        "omega_norm_ema",
        named(OMEGA, one_norm_for_all),
        discriminating_input(optimizer="norm_ema"),
        JORDAN,
    ),
    entry(
        "MEM-08e",
        "the exact polar factor",
        "k → ∞ steps give the nearest semi-orthogonal matrix",
        "claim false",
        "Not with Jordan's coefficients, whose polynomial has no attracting fixed point at 1: the distance is about "
        "0.3 after 5, 10, 20 and 50 steps. With (15/8, −5/4, 3/8) it is true.",
        "newton_schulz",
        polar_factor,
        (FULL, true.JORDAN, 1e-8),
        "scipy.linalg.polar",
        PAPER,
    ),
    entry(
        "MEM-08f",
        "the step size inside of Newton–Schulz",
        "S_t = θ S_{t−1} + η_t ∇, M_t = α M_{t−1} + NS(S_t)  (eq. 57-58)",
        "real bug, right fix",
        "NS(η S) = NS(S): a constant step has no effect there, and training cannot choose it. Eq. 32-33 have it "
        "outside.",
        "omega_muon",
        named(OMEGA, step_inside),
        discriminating_input(optimizer="muon"),
        f"{PAPER} eq. 32-33",
        PAPER,
    ),
    entry(
        "MEM-08g",
        "√(rows/columns) on the update",
        "lr is scaled by √max(1, rows/columns)",
        "convention",
        "torch.optim.Muon has it as adjust_lr_fn='original': a factor of the step size, not of Newton–Schulz.",
        "newton_schulz",
        scaled_by_the_shape,
        (FULL.T, true.JORDAN, 1e-8),
        JORDAN,
        "torch.optim.Muon",
    ),
    entry(
        "MEM-08h",
        "ε as a floor of the norm",
        "G/max(‖G‖, ε)",
        "convention",
        "torch.optim.Muon. The two differ where a gradient is no larger than ε.",
        "newton_schulz",
        floored_norm,
        (FULL / 2**10, true.JORDAN[:1], 2.0**-7),
        JORDAN,
        "torch.optim.Muon",
    ),
    entry(
        "MEM-09",
        "gradients clipped at ±0.1",
        "gradients are clamped to ±1.0",
        "claim false",
        "The commit that carries this text clamps to ±0.1; ±1.0 stood in the revisions before it.",
        "omega_clip",
        named(OMEGA, tighter_clip),
        discriminating_input(clip=1.0),
        "the repository at 7c57936 and c0532c3",
    ),
    entry(
        "MEM-09a",
        "updates clipped at ±0.01 as well",
        "gradients are clamped to ±1.0",
        "claim false",
        "The same commit holds every update in ±0.01: the memory cannot move by more, whatever the step size.",
        "omega_clip",
        named(OMEGA, clipped_update),
        discriminating_input(clip=1.0),
        "the repository at c0532c3",
    ),
    entry(
        "MEM-09b",
        "no clip",
        "gradients are clamped to ±1.0",
        "no bug",
        "Some clip was there in every revision; none is kept as what the checks must reject.",
        "omega_clip",
        named(OMEGA, no_gradient_clip),
        discriminating_input(clip=0.5),
        "the repository at 7c57936 and c0532c3",
    ),
    entry(
        "MEM-10",
        "a failed gradient is passed over",
        FAILURE,
        "real bug, wrong fix",
        "`except: return {}` hides every error, of shapes and of types too, and the memory silently stays as it was. "
        "The same commit made the inner step undifferentiable (create_graph=False). Here wrong input is refused, and "
        "NaN goes through the equation.",
        "omega",
        named(OMEGA, failures_passed_over),
        discriminating_input(k=first_key_is_nan()),
        "errors should never pass silently",
    ),
    entry(
        "MEM-13",
        "features of the query for an answer",
        FAILURE,
        "real bug, wrong fix",
        "When the memory fails the polynomial features of the query are returned: finite, plausible, and wrong.",
        "omega",
        named(OMEGA, features_for_an_answer),
        discriminating_input(),
        f"{PAPER} eq. 29",
    ),
    entry(
        "MEM-14",
        "an output cut or padded to the head's width",
        "the head's output has width head_dim: slice, or pad with zeros",
        "real bug, wrong fix",
        "What is cut off costs parameters that never get a gradient, what is padded is a head that says 0. The width "
        "of the output is that of the values.",
        "atlas_attention",
        named(ATTENTION, padded_head),
        discriminating_input(ATTENTION),
        f"{PAPER} eq. 29",
    ),
    entry(
        "MEM-36",
        "heads that do not divide the width",
        "dimension mismatches between heads and width are fixed",
        "process",
        "128 // 12 = 10 and 10 · 12 = 120: the view of 128 numbers as 12 heads of 10 raises RuntimeError deep inside. "
        "Here the layer refuses it with one sentence when it is made.",
        source="128 = 12 · 10 + 8",
    ),
    entry(
        "MEM-06q",
        "a window that reaches into the sequence before",
        "sequences in one row are independent",
        "no bug",
        "Whoever pads nothing and counts tokens from the start of the row gives a sequence its neighbour's last keys.",
        "omega_varlen",
        named(VARLEN, window_across_sequences),
        in_one_row(),
        f"{PAPER} eq. 9",
        UNDOCUMENTED,
    ),
    entry(
        "MEM-06r",
        "chunks counted from the start of the row",
        "sequences in one row are independent",
        "no bug",
        "A chunk belongs to the model: a sequence whose first chunk is cut short learns something else.",
        "omega_varlen",
        named(VARLEN, chunks_across_sequences),
        in_one_row(),
        f"{PAPER} eq. 16",
        UNDOCUMENTED,
    ),
    entry(
        "MEM-08q",
        "Muon for one layer of two",
        MUON,
        "no bug",
        "Every matrix of the memory has a momentum, and Newton–Schulz is of each of them.",
        "omega_mlp_muon",
        named(MLP, outer_newton_schulz_alone),
        discriminating_input(MLP, optimizer="muon"),
        f"{PAPER} eq. 32-33, 42",
        UNDOCUMENTED,
    ),
    entry(
        "MEM-08r",
        "Newton–Schulz factor by factor",
        MUON,
        "no bug",
        "The singular values of XᵀY are not those of X and Y: right only where both have orthogonal rows.",
        "newton_schulz_lowrank",
        each_factor_by_itself,
        (K[:2] + 0.25 * Q[:2], V[:2], true.JORDAN[:2], true.EPS),
        JORDAN,
        UNDOCUMENTED,
    ),
    entry(
        "MEM-01s",
        "products of gates as differences of logarithms",
        LINEARISED,
        "no bug",
        "−∞ − (−∞) is not a number: a token that forgets everything ends the sequence. fla's chunk form of Titans has "
        "it for α = 1, which there is the share that is forgotten.",
        "omega",
        named(OMEGA, gates_from_logarithms),
        discriminating_input(alpha=np.broadcast_to(np.array([0.75, 0.0, 0.75, 0.5, 0.75])[None, :, None], (2, 5, 1))),
        f"{PAPER} eq. 9",
        UNDOCUMENTED,
    ),
    entry(
        "MEM-01t",
        "the exact rule's errors one row late",
        LINEARISED,
        "no bug",
        "The error of token t is that of M_{t−1}: the row of ρ before it. With its own row it is taken after the decay "
        "and the momentum of t, a look ahead that is another rule.",
        "omega",
        named(OMEGA, errors_one_row_late),
        discriminating_input(chunk_size=1),
        f"{PAPER} eq. 15",
        UNDOCUMENTED,
    ),
    entry(
        "MEM-01u",
        "a chunk filled up with steps of 0 inside of the momentum",
        LINEARISED,
        "no bug",
        "With η inside, the step outside is 1: a token with η = 0 takes no gradient and still moves the memory by its "
        "momentum. What must vanish is the outer step.",
        "omega",
        named(OMEGA, filled_up_inside),
        discriminating_input(placement="inner"),
        f"{PAPER} eq. 12-13",
        UNDOCUMENTED,
    ),
    entry(
        "MEM-06s",
        "a chunk longer than the window, seen whole",
        "whole chunks of a window enter as two matrices",
        "no bug",
        "The chunk's own tokens are in the window only while they are younger than c.",
        "omega_separable",
        named(SEPARABLE, own_chunk_whatever_the_window),
        discriminating_input(SEPARABLE, chunk_size=4),
        f"{PAPER} eq. 9",
        UNDOCUMENTED,
    ),
    entry(
        "MEM-01v",
        "the linearisation counted as a sweep",
        LINEARISED,
        "no bug",
        "No sweep is the linearisation at the tile's start; the first one takes the gradients at what came of it.",
        "omega_picard",
        named(PICARD, one_sweep_short),
        discriminating_input(PICARD),
        "Picard's iteration",
        UNDOCUMENTED,
    ),
    entry(
        "MEM-01w",
        "one tile for the whole call",
        LINEARISED,
        "no bug",
        "Every tile starts at the memory that the tile before it ends with; over the whole call a few sweeps know "
        "nothing of the later tokens' errors.",
        "omega_picard",
        named(PICARD, sweeps_over_the_whole_call),
        discriminating_input(PICARD),
        "Picard's iteration",
        UNDOCUMENTED,
    ),
)
