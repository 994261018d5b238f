"""The identities I1 … I17 of the Omega rule: what it becomes in its limits, on the reference and on every version."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch.nn import functional

from trueness.properties.atlas_memory.flat import reference as true
from trueness.properties.atlas_memory.problems import (
    F64,
    Problem,
    assert_equal_within,
    assert_same,
    both,
    carried,
    changed,
    chunks,
    given,
    objectives,
    ours,
    places,
    problem,
    reads,
    seeds,
    sizes,
    tokens,
)

omega = both("omega")
Sizes = dict[str, int]


def call(function: Any, p: Problem) -> tuple[np.ndarray, ...]:
    return function(*p.values())


def is_now(p: Problem, want: Any, function: Any) -> None:
    """The outputs of ``function`` are ``want``, or its first output is, within the bound of the reference."""
    out = call(function, p)
    want = want if isinstance(want, tuple) else (want,)
    assert_equal_within(want, out[: len(want)], "omega", list(p.values()))


def row(x: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """xᵀ M for every batch and head: (B, H, P), (B, H, P, V) → (B, H, V)."""
    return np.einsum("bhp,bhpv->bhv", x, matrix)


def outer(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x[..., :, None] * y[..., None, :]


def wide(gate: np.ndarray) -> np.ndarray:
    return gate[..., None, None]


def attention(weight: np.ndarray, p: Problem) -> np.ndarray:
    """Σ_i weight[t, i] (q_t·k_i) v_i: (B, H, T, T) → (B, T, H, V)."""
    scores = np.einsum("bthp,bihp->bhti", p["q"], p["k"])
    return np.einsum("bhti,bihv->bthv", weight * scores, p["v"])


def products(gate: np.ndarray) -> np.ndarray:
    """L[t, s] = ∏_{r=s+1..t} gate_r for s ≤ t, else 0: (B, T, H) → (B, H, T, T)."""
    T = gate.shape[1]
    table = np.zeros((gate.shape[0], gate.shape[2], T, T))
    for t in range(T):
        for s in range(t + 1):
            table[:, :, t, s] = gate[:, s + 1 : t + 1].prod(axis=1)
    return table


def ages(T: int) -> np.ndarray:
    """t − i"""
    return np.arange(T)[:, None] - np.arange(T)[None, :]


# -- the delta rules --------------------------------------------------------------------------------------------------


@omega
@given(seed=seeds, size=sizes)
def test_I1_a_window_of_one_without_decay_and_momentum_is_the_delta_rule(function: Any, seed: int, size: Sizes) -> None:
    """DeltaNet: M ← M − β k (kᵀM − v), β = η"""
    p = problem(seed, size | {"c": 1}, alpha=1, theta=0, gamma=1)
    M, outs = p["memory"], []
    for t in range(size["T"]):
        k, v, q = (p[x][:, t] for x in "kvq")
        M = M - wide(p["eta"][:, t]) * outer(k, row(k, M) - v)
        outs.append(row(q, M))
    is_now(p, (np.stack(outs, axis=1), M), function)


def gated_delta_rule(p: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Gated DeltaNet with β = η/α and values α v: it decays before it erases, Omega after."""
    M, outs = p["memory"], []
    for t in range(p["q"].shape[1]):
        k, v, q = (p[x][:, t] for x in "kvq")
        alpha, eta = p["alpha"][:, t], p["eta"][:, t]
        M = wide(alpha) * M
        M = M - wide(eta / alpha) * outer(k, row(k, M) - alpha[..., None] * v)
        outs.append(row(q, M))
    return np.stack(outs, axis=1), M


@omega
@given(seed=seeds, size=sizes)
def test_I2a_with_decay_it_is_the_gated_delta_rule_of_beta_eta_over_alpha(
    function: Any, seed: int, size: Sizes
) -> None:
    p = problem(seed, size | {"c": 1}, theta=0, gamma=1)
    is_now(p, gated_delta_rule(p), function)


@omega
@given(seed=seeds, size=sizes)
def test_I2b_with_decay_it_multiplies_the_memory_by_alpha_identity_minus_eta_kk(
    function: Any, seed: int, size: Sizes
) -> None:
    """RWKV-7's form with scalar decay: M ← (α I − η k kᵀ) M + η k vᵀ"""
    p = problem(seed, size | {"c": 1}, theta=0, gamma=1)
    M, outs = p["memory"], []
    for t in range(size["T"]):
        k, v, q = (p[x][:, t] for x in "kvq")
        alpha, eta = wide(p["alpha"][:, t]), wide(p["eta"][:, t])
        M = (alpha * np.eye(size["P"]) - eta * outer(k, k)) @ M + eta * outer(k, v)
        outs.append(row(q, M))
    is_now(p, (np.stack(outs, axis=1), M), function)


# -- the inner-product objective: masked attention --------------------------------------------------------------------


def explicit_weights(p: Problem) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """a, f, G of M_t = a_t M_0 − f_t S_0 − Σ G[t, u] φ_u e_uᵀ; u counts the window's tokens first."""
    T, c = p["gamma"].shape[1], p["gamma"].shape[-1]
    eta, one = p["eta"], np.ones_like(p["eta"])
    w_in, w_out = (one, eta) if not p["lr_inside_momentum"] else (eta, one)
    A, Theta = products(p["alpha"]), products(p["theta"])
    scaled = A * np.moveaxis(w_out, 1, 2)[:, :, None, :]
    band = np.zeros((*scaled.shape[:3], T + c - 1))
    for t in range(T):
        for j in range(c):
            band[:, :, t, t - j + c - 1] = w_in[:, t] * p["gamma"][:, t, :, j]
    a, b = (np.moveaxis(np.cumprod(p[x], axis=1), 1, 2) for x in ("alpha", "theta"))
    f = np.einsum("bhts,bhs->bht", scaled, b)
    G = scaled @ Theta @ band
    if p["read_before_update"]:
        a = np.concatenate([np.ones_like(a[..., :1]), a[..., :-1]], axis=-1)
        f, G = (np.concatenate([np.zeros_like(x[:, :, :1]), x[:, :, :-1]], axis=2) for x in (f, G))
    return a, f, G


@omega
@given(seed=seeds, size=sizes, chunk=chunks, inside=places, before=reads)
def test_I3_the_dot_objective_is_masked_attention_whatever_the_chunk(
    function: Any, seed: int, size: Sizes, chunk: int, inside: bool, before: bool
) -> None:
    p = problem(seed, size, objective="dot", chunk_size=chunk, lr_inside_momentum=inside, read_before_update=before)
    a, f, G = explicit_weights(p)
    start = np.einsum("bhtp,bhpv->bhtv", np.moveaxis(p["q"], 1, 2), p["memory"])
    push = np.einsum("bhtp,bhpv->bhtv", np.moveaxis(p["q"], 1, 2), p["momentum"])
    keys, values = (np.moveaxis(np.concatenate([p[f"{x}_window"], p[x]], axis=1), 1, 2) for x in "kv")
    scores = np.moveaxis(p["q"], 1, 2) @ np.swapaxes(keys, -1, -2)
    out = a[..., None] * start - f[..., None] * push + (G * scores) @ values
    is_now(p, np.moveaxis(out, 2, 1), function)


@omega
@given(seed=seeds, size=sizes, chunk=chunks, decay=st.sampled_from(("none", "constant", "gated")))
def test_I3a_with_a_window_of_one_it_is_linear_attention_retnet_or_a_scalar_gate(
    function: Any, seed: int, size: Sizes, chunk: int, decay: str
) -> None:
    p = problem(seed, size | {"c": 1}, objective="dot", chunk_size=chunk, theta=0, gamma=1, memory=0, momentum=0)
    p = changed(p, **{"none": {"alpha": 1}, "constant": {"alpha": 0.75}, "gated": {}}[decay])
    T = size["T"]
    if decay == "gated":
        weight = products(p["alpha"])
    else:
        weight = np.where(ages(T) >= 0, p["alpha"].flat[0] ** np.maximum(ages(T), 0), 0)[None, None]
    weight = weight * np.moveaxis(p["eta"], 1, 2)[:, :, None, :]
    is_now(p, attention(weight, p), function)


def zero_window(p: Problem) -> Problem:
    return changed(p, k_window=0, v_window=0)


@omega
@given(seed=seeds, size=sizes, chunk=chunks)
def test_I3b_without_decay_a_window_does_not_evict_it_counts_every_token_up_to_c_times(
    function: Any, seed: int, size: Sizes, chunk: int
) -> None:
    """The paper's eq. 20: token i has the weight min(c, t − i + 1)"""
    given = {"alpha": 1, "eta": 1, "theta": 0, "gamma": 1, "memory": 0, "momentum": 0}
    p = zero_window(problem(seed, size, objective="dot", chunk_size=chunk, **given))
    weight = np.clip(ages(size["T"]) + 1, 0, size["c"])
    is_now(p, attention(weight[None, None], p), function)


@omega
@given(seed=seeds, size=sizes, chunk=chunks)
def test_I4_with_full_forgetting_a_window_evicts(function: Any, seed: int, size: Sizes, chunk: int) -> None:
    given = {"alpha": 0, "eta": 1, "theta": 0, "gamma": 1}
    p = zero_window(problem(seed, size, objective="dot", chunk_size=chunk, **given))
    inside = (ages(size["T"]) >= 0) & (ages(size["T"]) < size["c"])
    is_now(p, attention(inside[None, None].astype(float), p), function)


DEGREE = 13


def softmax_problem(seed: int, T: int, c: int, forget: bool) -> tuple[Problem, np.ndarray, np.ndarray, np.ndarray]:
    """Tensor features of small queries and keys; values with a column of ones, which becomes the normaliser."""
    generator = np.random.default_rng(seed)
    q, k = generator.uniform(-0.7, 0.7, (2, 1, T, 1, 2))
    v = generator.standard_normal((1, T, 1, 3))
    ones = np.ones((1, T, 1, 1))
    size = {"B": 1, "T": T, "H": 1, "P": 1, "V": 4, "c": c}
    given = {"alpha": 0 if forget else 1, "eta": 1, "theta": 0, "gamma": 1}
    phi_q, phi_k = (true.tensor_features(x, DEGREE) for x in (q, k))
    P = phi_q.shape[-1]
    state = {name: np.zeros((1, 1, P, 4)) for name in ("memory", "momentum")}
    state |= {"k_window": np.zeros((1, c - 1, 1, P)), "v_window": np.zeros((1, c - 1, 1, 4))}
    p = problem(seed, size, objective="dot", **given) | state
    return p | {"q": phi_q, "k": phi_k, "v": np.concatenate([v, ones], axis=-1)}, q, k, v


def series_bound(p: Problem, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> float:
    """How far the normalised output may lie from softmax.

    A weight differs from eˢ by the rest of its series, s^(n+1)/(n+1)!·e^|s|, and by the roundings of P products and of
    2n powers of Σ|q_d k_d| ≤ m; a normaliser is at least e^(−m) for every token.
    """
    m = float(np.einsum("bthd,bihd->bhti", np.abs(q), np.abs(k)).max())
    rest = m ** (DEGREE + 1) / math.factorial(DEGREE + 1) * math.exp(m)
    roundings = (p["q"].shape[-1] + 4 * DEGREE + q.shape[1] + 16) * F64.u * math.exp(m)
    return 2 * (rest + roundings) * math.exp(m) * float(np.abs(v).max())


def softmax(q: np.ndarray, k: np.ndarray, v: np.ndarray, **mask: Any) -> np.ndarray:
    """torch's attention, unscaled: (B, T, H, D) → (B, T, H, V)."""
    heads_first = (torch.from_numpy(np.moveaxis(x, 1, 2).copy()) for x in (q, k, v))
    return np.moveaxis(functional.scaled_dot_product_attention(*heads_first, scale=1.0, **mask).numpy(), 2, 1)


@omega
@given(seed=seeds, T=st.integers(1, 6))
def test_I5_tensor_features_and_a_normaliser_make_it_softmax_attention(function: Any, seed: int, T: int) -> None:
    p, q, k, v = softmax_problem(seed, T, 1, forget=False)
    out = call(function, p)[0]
    want = softmax(q, k, v, is_causal=True)
    assert (np.abs(out[..., :3] / out[..., 3:] - want) <= series_bound(p, q, k, v)).all()


@omega
@given(seed=seeds, T=st.integers(1, 6), c=st.integers(1, 4))
def test_I5b_with_full_forgetting_it_is_sliding_window_softmax_attention(
    function: Any, seed: int, T: int, c: int
) -> None:
    p, q, k, v = softmax_problem(seed, T, c, forget=True)
    out = call(function, p)[0]
    inside = torch.from_numpy((ages(T) >= 0) & (ages(T) < c))
    want = softmax(q, k, v, attn_mask=inside)
    assert (np.abs(out[..., :3] / out[..., 3:] - want) <= series_bound(p, q, k, v)).all()


# -- objectives, windows, momentum ------------------------------------------------------------------------------------


@omega
@given(seed=seeds, size=sizes, inside=places, optimizer=st.sampled_from(("gd", "muon")))
def test_I6_one_chunk_from_an_empty_memory_makes_no_delta_correction(
    function: Any, seed: int, size: Sizes, inside: bool, optimizer: str
) -> None:
    """With C ≥ T every error is taken at M_0 = 0, where the residual is −v: squared error is the inner product."""
    given = {"memory": 0, "momentum": 0, "chunk_size": size["T"], "lr_inside_momentum": inside, "optimizer": optimizer}
    squared, dot = (call(function, problem(seed, size, objective=o, **given)) for o in ("l2", "dot"))
    assert_same(squared, dot)


@omega
@given(seed=seeds, size=sizes, chunk=chunks, objective=objectives, optimizer=st.sampled_from(("gd", "muon")))
def test_I7_weights_of_age_zero_alone_are_a_window_of_one(
    function: Any, seed: int, size: Sizes, chunk: int, objective: str, optimizer: str
) -> None:
    p = problem(seed, size, objective=objective, chunk_size=chunk, optimizer=optimizer)
    only = changed(p, gamma=p["gamma"] * (np.arange(size["c"]) == 0))
    alone = p | {"gamma": p["gamma"][..., :1], "k_window": p["k_window"][:, :0], "v_window": p["v_window"][:, :0]}
    if function is true.omega:
        assert_same(call(function, alone), call(function, only))
    is_now(alone, call(function, only), function)


@omega
@given(seed=seeds, size=sizes, theta=st.floats(0.1, 0.9), optimizer=st.sampled_from(("gd", "muon")))
def test_I8_within_a_chunk_momentum_is_an_exponential_window(
    function: Any, seed: int, size: Sizes, theta: float, optimizer: str
) -> None:
    T = size["T"]
    given = {"momentum": 0, "chunk_size": T, "optimizer": optimizer}
    p = problem(seed, size | {"c": T}, theta=0, gamma=np.broadcast_to(theta ** np.arange(T), (1, T)), **given)
    p["gamma"] = np.broadcast_to(p["gamma"], (size["B"], T, size["H"], T)).copy()
    p = zero_window(p)
    one = p | {"gamma": np.ones((size["B"], T, size["H"], 1)), "k_window": p["k_window"][:, :0]}
    one = changed(one, theta=theta) | {"v_window": p["v_window"][:, :0]}
    is_now(p, call(function, one), function)


@omega
@given(seed=seeds, size=sizes, chunk=chunks, inside=places, optimizer=st.sampled_from(("gd", "muon")))
def test_I10_a_memory_that_knows_every_value_does_not_move(
    function: Any, seed: int, size: Sizes, chunk: int, inside: bool, optimizer: str
) -> None:
    """Small integers, so that every product is exact; Newton-Schulz of 0 is 0 because of its ε."""
    p = problem(seed, size, alpha=1, momentum=0, chunk_size=chunk, lr_inside_momentum=inside, optimizer=optimizer)
    p |= {name: np.rint(2 * p[name]) for name in ("q", "k", "memory", "k_window")}
    p |= {x: np.einsum("bthp,bhpv->bthv", p[y], p["memory"]) for x, y in (("v", "k"), ("v_window", "k_window"))}
    read = np.einsum("bthp,bhpv->bthv", p["q"], p["memory"])
    want = read, p["memory"], 0 * p["memory"]
    if function is true.omega:
        assert_same(want, call(function, p))
    is_now(p, want, function)


# -- invariances ------------------------------------------------------------------------------------------------------


def rotated(p: Problem, Q: np.ndarray) -> Problem:
    """φ → φ Q and M → Qᵀ M"""
    rows = {name: p[name] @ Q for name in ("q", "k", "k_window")}
    return p | rows | {name: Q.T @ p[name] for name in ("memory", "momentum")}


@omega
@given(seed=seeds, size=sizes, chunk=chunks, optimizer=st.sampled_from(("gd", "muon")))
def test_I11_only_the_inner_products_of_features_matter(
    function: Any, seed: int, size: Sizes, chunk: int, optimizer: str
) -> None:
    p = problem(seed, size, chunk_size=chunk, optimizer=optimizer)
    Q = np.linalg.qr(np.random.default_rng(seed + 1).standard_normal((size["P"], size["P"])))[0]
    out, memory, momentum = call(function, rotated(p, Q))
    is_now(p, (out, Q @ memory, Q @ momentum), function)


def fifth_iterate(x: float) -> float:
    """p(p(p(p(p(x))))) of Jordan's quintic: what five steps do to one singular value."""
    for _ in range(5):
        x = x * (3.4445 + x * x * (-4.7750 + 2.0315 * x * x))
    return x


def test_I12_the_fifth_iterate_of_one_has_its_documented_value() -> None:
    """Five steps of seven roundings each; |p′| ≤ 3.4445 carries them on, here p′(p^i(1)) < 1 mostly."""
    assert abs(fifth_iterate(1.0) - 0.6964364094697522) <= 35 * F64.u * 3.4445


@omega
@given(seed=seeds, size=sizes)
def test_I12_muon_with_a_window_of_one_and_no_momentum_is_a_normalised_delta_rule(
    function: Any, seed: int, size: Sizes
) -> None:
    """The gradient φ eᵀ has one singular value n = |φ||e|, so M ← α M − η r φ̂ êᵀ with r = p⁵(n/(n + ε)) ≈ 0.696"""
    p = problem(seed, size | {"c": 1}, theta=0, gamma=1, optimizer="muon")
    M, outs = p["memory"], []
    for t in range(size["T"]):
        k, v, q = (p[x][:, t] for x in "kvq")
        e = row(k, M) - v
        length = np.sqrt((k * k).sum(-1) * (e * e).sum(-1))
        r = np.vectorize(fifth_iterate)(length / (length + true.EPS))
        M = wide(p["alpha"][:, t]) * M - wide(p["eta"][:, t] * r / length) * outer(k, e)
        outs.append(row(q, M))
    is_now(p, (np.stack(outs, axis=1), M), function)


# -- pieces -----------------------------------------------------------------------------------------------------------


MODES = st.sampled_from(("gd", "muon", "muon_chunk"))


@omega
@given(seed=seeds, size=sizes, block=st.integers(1, 4), objective=objectives, before=reads)
def test_I13_the_exact_rule_does_not_depend_on_how_many_tokens_a_call_has(
    function: Any, seed: int, size: Sizes, block: int, objective: str, before: bool
) -> None:
    """C = 1: every token is a boundary, and blocks of any size give what one call of all gives."""
    p = problem(seed, size, objective=objective, read_before_update=before)
    state, outs = p, []
    for at in range(0, size["T"], block):
        piece = tokens(p, slice(at, at + block)) | {x: state[x] for x in CARRIED}
        found = call(function, piece)
        state, outs = carried(piece, found), [*outs, found[0]]
    is_now(p, (np.concatenate(outs, axis=1), *found[1:]), function)


@given(seed=seeds, size=sizes, tile=st.integers(1, 9), objective=objectives, inside=places, before=reads)
def test_I13_tiles_of_any_size_give_the_same(
    seed: int, size: Sizes, tile: int, objective: str, inside: bool, before: bool
) -> None:
    """A tile is a matter of speed and a chunk is not: C = 1 for squared errors, any C for the inner product."""
    p = problem(seed, size, objective=objective, lr_inside_momentum=inside, read_before_update=before)
    p |= {"chunk_size": 1 + seed % 3 if objective == "dot" else 1}
    is_now(p, call(true.omega, p), ours("omega", tile=tile))


@omega
@given(seed=seeds, size=sizes, chunk=st.integers(1, 3), pieces=st.integers(1, 2), optimizer=MODES)
def test_I14_two_calls_split_at_a_chunk_boundary_are_one(
    function: Any, seed: int, size: Sizes, chunk: int, pieces: int, optimizer: str
) -> None:
    at = pieces * chunk
    p = problem(seed, size | {"T": at + size["T"]}, chunk_size=chunk, optimizer=optimizer)
    whole = call(function, p)
    head = tokens(p, slice(None, at))
    first = call(function, head)
    second = call(function, tokens(p, slice(at, None)) | {x: carried(head, first)[x] for x in CARRIED})
    pieces_of_it = (np.concatenate([first[0], second[0]], axis=1), *second[1:])
    if function is true.omega:
        assert_same(whole, pieces_of_it)
    is_now(p, pieces_of_it, function)


CARRIED = ("memory", "momentum", "k_window", "v_window")


@omega
@given(seed=seeds, size=sizes, chunk=chunks, optimizer=MODES, objective=objectives, before=reads)
def test_I15_what_comes_later_changes_nothing_before_it(
    function: Any, seed: int, size: Sizes, chunk: int, optimizer: str, objective: str, before: bool
) -> None:
    p = problem(seed, size, chunk_size=chunk, optimizer=optimizer, objective=objective, read_before_update=before)
    other = problem(seed + 1, size)
    t = size["T"] // 2
    mixed = p | {
        x: np.concatenate([p[x][:, :t], other[x][:, t:]], axis=1)
        for x in ("q", "k", "v", "alpha", "eta", "theta", "gamma")
    }
    assert_same((call(function, p)[0][:, :t],), (call(function, mixed)[0][:, :t],))


def permuted(p: Problem, axis: str, order: np.ndarray) -> Problem:
    """Batches or heads in another order; state has the heads second, everything else third."""

    def take(name: str, x: Any) -> Any:
        if not isinstance(x, np.ndarray):
            return x
        return np.take(x, order, axis=0 if axis == "B" else 1 if name in ("memory", "momentum") else 2)

    return {name: take(name, x) for name, x in p.items()}


@omega
@pytest.mark.parametrize("axis", ["B", "H"])
@given(seed=seeds, size=sizes, chunk=chunks, optimizer=MODES)
def test_I15_batches_and_heads_never_see_each_other(
    function: Any, axis: str, seed: int, size: Sizes, chunk: int, optimizer: str
) -> None:
    p = problem(seed, size | {axis: 3}, chunk_size=chunk, optimizer=optimizer)
    order = np.array([2, 0, 1])
    whole = dict(zip(("o", "memory", "momentum"), call(function, p), strict=True))
    assert_same(tuple(permuted(whole, axis, order).values()), call(function, permuted(p, axis, order)))
    alone = call(function, permuted(p, axis, order[:1]))
    assert_same(tuple(permuted(whole, axis, order[:1]).values()), alone)


@omega
@given(seed=seeds, c=st.integers(1, 3), more=st.integers(0, 2), V=st.integers(1, 3))
def test_I16_periodic_keys_lead_to_the_interpolant_of_least_norm(
    function: Any, seed: int, c: int, more: int, V: int
) -> None:
    """Gradient descent of ½|K M − V|² with step 1/λ_max multiplies the error by 1 − σ²_min/σ²_max a step."""
    generator = np.random.default_rng(seed)
    left, right = (np.linalg.qr(generator.standard_normal((n, n)))[0] for n in (c, c + more))
    sigma = np.linspace(0.8, 1.0, c)
    K, values = (left * sigma) @ right[:c], generator.standard_normal((c, V))
    rate = 1 - (sigma.min() / sigma.max()) ** 2
    T = c + math.ceil(math.log(F64.u) / math.log(rate)) if c > 1 else 2
    size = {"B": 1, "T": T, "H": 1, "P": c + more, "V": V, "c": c}
    given = {"alpha": 1, "eta": 1 / sigma.max() ** 2, "theta": 0, "gamma": 1, "memory": 0, "momentum": 0}
    p = zero_window(problem(seed, size, **given))
    order = np.arange(T) % c
    p |= {"k": K[order][None, :, None], "v": values[order][None, :, None]}
    least = np.linalg.pinv(K) @ values
    scale = np.linalg.norm(values) / sigma.min()
    roundings = (4 * c * (c + more) + 16) * F64.u * scale  # of one step; (1 − rate)⁻¹ of them add up, and pinv has some
    assert np.abs(call(function, p)[1][0, 0] - least).max() <= F64.u * scale + roundings / (1 - rate)


# -- the elementwise map ----------------------------------------------------------------------------------------------


@both("elementwise_features")
@given(seed=seeds, d=st.integers(1, 5), degree=st.integers(0, 6))
def test_I17_the_elementwise_map_has_the_kernel_sum_of_squared_coefficients_times_powers(
    function: Any, seed: int, d: int, degree: int
) -> None:
    """φ(q)·φ(k) = Σ_i a_i² Σ_d (q_d k_d)^i, and not (q·k)^i"""
    generator = np.random.default_rng(seed)
    q, k = generator.uniform(-2, 2, (2, d))
    a = generator.uniform(0.1, 1, degree + 1)
    kernel = function(q, a, 10.0) @ function(k, a, 10.0)
    terms = (a * a)[:, None] * (q * k) ** np.arange(degree + 1)[:, None]
    roundings = terms.size + 4 * degree + 8
    assert abs(kernel - terms.sum()) <= roundings * F64.u * np.abs(terms).sum()
