"""The identities of the Omega rule backward, and its other forms: where two rules are one, their gradients are.

Gradients of the optimized rule are held against autograd through another formulation, or against each other, within
the bound of the reference's own backward. I5 (a series that is cut off), I10 and I16 (true at a point, or in the limit)
and I12 (but for ε) say nothing about gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from trueness.properties.atlas_memory.flat import optimized as fast
from trueness.properties.atlas_memory.flat import reference as true
from trueness.properties.atlas_memory.problems import (
    F64,
    Problem,
    allowed,
    assert_equal_within,
    changed,
    given,
    objectives,
    places,
    problem,
    reads,
    seeds,
)
from trueness.tools.arithmetic.bounds import LIMITS

Sizes = dict[str, int]
Tensors = dict[str, torch.Tensor]
sizes = st.fixed_dictionaries(
    {"B": st.just(1), "T": st.integers(1, 5), "H": st.integers(1, 2), "P": st.integers(1, 3)}
    | {"V": st.integers(1, 2), "c": st.integers(1, 3)}
)
STATE = ("memory", "momentum", "k_window", "v_window")


def natives(p: Problem) -> dict[str, Any]:
    return {n: torch.from_numpy(x.copy()).requires_grad_() if isinstance(x, np.ndarray) else x for n, x in p.items()}


def cotangents(p: Problem, seed: int) -> list[np.ndarray]:
    generator = np.random.default_rng(seed + 1)
    return [generator.standard_normal(x.shape) for x in (p["v"], p["memory"], p["memory"])]


def pulled(function: Callable[..., Any], p: Problem, g: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """By name the gradients by all tensors of p, of ``function(**p)``"""
    x = natives(p)
    leaves = {n: y for n, y in x.items() if isinstance(y, torch.Tensor)}
    outputs = function(**x)
    seeds_of = [torch.from_numpy(y.copy()) for y in g[: len(outputs)]]
    found = torch.autograd.grad(outputs, list(leaves.values()), seeds_of, allow_unused=True, materialize_grads=True)
    return {n: y.numpy() for n, y in zip(leaves, found, strict=True)}


def same_gradients(
    p: Problem, g: Sequence[np.ndarray], want: dict[str, np.ndarray], found: dict[str, np.ndarray], *but: str
) -> None:
    """Two honest gradients of one function, within the bound of the reference's backward at p"""
    arguments = [*g, *p.values()]
    reduction = p["q"].shape[-1] + p["q"].shape[1] + p["gamma"].shape[-1]
    tensors = [n for n, x in p.items() if isinstance(x, np.ndarray)]
    for name, bound in zip(tensors, allowed("omega_vjp", arguments, reduction), strict=True):
        if name not in but:
            off = np.abs(want[name] - found[name])
            assert (off <= 2 * LIMITS["eager"] * bound.B).all(), f"{name}: {off.max()}"


def gated_delta_rule(**p: Any) -> tuple[torch.Tensor, ...]:
    M, outs = p["memory"], []
    for t in range(p["q"].shape[1]):
        k, v, q = (p[x][:, t, :, None, :] for x in "kvq")
        alpha, eta = (p[x][:, t, :, None, None] for x in ("alpha", "eta"))
        M = alpha * M
        M = M - eta / alpha * k.mT @ (k @ M - alpha * v)
        outs.append((q @ M)[..., 0, :])
    return torch.stack(outs, 1), M


@given(seed=seeds, size=sizes)
def test_I2a_backward_it_is_the_gated_delta_rule(seed: int, size: Sizes) -> None:
    p = problem(seed, size | {"c": 1}, theta=0, gamma=1, momentum=0)
    g = cotangents(p, seed)
    g[2] = 0 * g[2]
    want = pulled(gated_delta_rule, p, g)
    same_gradients(p, g, want, pulled(fast.omega, p, g), "theta", "gamma", "momentum", "k_window", "v_window")


def delta_rule(**p: Any) -> tuple[torch.Tensor, ...]:
    """M + η k (v − Mᵀk)ᵀ, by outer products"""
    M, outs = p["memory"], []
    for t in range(p["q"].shape[1]):
        k, v, q, eta = p["k"][:, t], p["v"][:, t], p["q"][:, t], p["eta"][:, t]
        error = v - torch.einsum("bhpv,bhp->bhv", M, k)
        M = M + torch.einsum("bhp,bhv->bhpv", eta[..., None] * k, error)
        outs.append(torch.einsum("bhpv,bhp->bhv", M, q))
    return torch.stack(outs, 1), M


def transitions(**p: Any) -> tuple[torch.Tensor, ...]:
    """(α I − η k kᵀ) M + η k vᵀ, the transition written out"""
    M, outs = p["memory"], []
    identity = torch.eye(M.shape[-2], dtype=M.dtype)
    for t in range(p["q"].shape[1]):
        k, v, q = (p[x][:, t, :, :, None] for x in "kvq")
        alpha, eta = (p[x][:, t, :, None, None] for x in ("alpha", "eta"))
        M = (alpha * identity - eta * (k @ k.mT)) @ M + eta * (k @ v.mT)
        outs.append((M.mT @ q)[..., 0])
    return torch.stack(outs, 1), M


def one_window(seed: int, size: Sizes, **given_: Any) -> tuple[Problem, list[np.ndarray]]:
    """A window of one without momentum, and cotangents of the reads and the memory"""
    p = problem(seed, size | {"c": 1}, theta=0, gamma=1, momentum=0, **given_)
    g = cotangents(p, seed)
    return p, [g[0], g[1], 0 * g[2]]


OTHERS = ("theta", "gamma", "momentum", "k_window", "v_window")


@given(seed=seeds, size=sizes)
def test_I1_backward_without_decay_it_is_the_delta_rule(seed: int, size: Sizes) -> None:
    p, g = one_window(seed, size, alpha=1)
    same_gradients(p, g, pulled(delta_rule, p, g), pulled(fast.omega, p, g), "alpha", *OTHERS)


@given(seed=seeds, size=sizes)
def test_I2b_backward_it_multiplies_the_memory_by_alpha_identity_minus_eta_kk(seed: int, size: Sizes) -> None:
    p, g = one_window(seed, size)
    same_gradients(p, g, pulled(transitions, p, g), pulled(fast.omega, p, g), *OTHERS)


@given(seed=seeds, size=sizes, theta=st.floats(0.1, 0.9))
def test_I8_backward_within_a_chunk_momentum_is_an_exponential_window(seed: int, size: Sizes, theta: float) -> None:
    T = size["T"]
    p = problem(seed, size | {"c": 1}, theta=theta, gamma=1, momentum=0, chunk_size=T)

    def windowed(**x: Any) -> Any:
        """θ = 0 and γ = θ^age instead"""
        weights = torch.tensor(theta, dtype=torch.float64) ** torch.arange(T)
        empty = {f"{n}_window": torch.zeros(size["B"], T - 1, *x[n].shape[2:], dtype=torch.float64) for n in "kv"}
        moved = {"theta": 0 * x["theta"], "gamma": weights.expand(*x["gamma"].shape[:3], T)}
        return fast.omega(**x | empty | moved)

    g = cotangents(p, seed)
    g[2] = 0 * g[2]
    same_gradients(p, g, pulled(windowed, p, g), pulled(fast.omega, p, g), *OTHERS)


@given(seed=seeds, d=st.integers(1, 5), degree=st.integers(0, 6))
def test_I17_backward_the_elementwise_map_has_the_gradients_of_its_kernel(seed: int, d: int, degree: int) -> None:
    """∂/∂q and ∂/∂a of φ(q)·φ(k) = Σ_i a_i² Σ_d (q_d k_d)^i, term by term"""
    generator = np.random.default_rng(seed)
    q, k = generator.uniform(-2, 2, (2, d))
    a, powers = generator.uniform(0.1, 1, degree + 1), np.arange(degree + 1)[:, None]
    x, y, b = (torch.from_numpy(z).requires_grad_() for z in (q, k, a))
    kernel = fast.elementwise_features(x, b, 10.0) @ fast.elementwise_features(y, b, 10.0)
    dq, da = torch.autograd.grad(kernel, [x, b])
    by_q = (a * a)[:, None] * powers * k * (q * k) ** np.maximum(powers - 1, 0)
    by_a = 2 * a[:, None] * (q * k) ** powers
    roundings = by_q.size + 4 * degree + 8
    assert (np.abs(dq.numpy() - by_q.sum(0)) <= roundings * F64.u * np.abs(by_q).sum(0)).all()
    assert (np.abs(da.numpy() - by_a.sum(1)) <= roundings * F64.u * np.abs(by_a).sum(1)).all()


def masked_attention(**p: Any) -> tuple[torch.Tensor, ...]:
    """(G ∘ Q Kᵀ) V from an empty memory, G by running sums over the recurrence of one token's weight"""
    T, c = p["gamma"].shape[1], p["gamma"].shape[-1]
    into, out = (p["eta"], 1 + 0 * p["eta"]) if p["lr_inside_momentum"] else (1 + 0 * p["eta"], p["eta"])
    k, v = torch.cat([p["k_window"], p["k"]], 1), torch.cat([p["v_window"], p["v"]], 1)
    columns = []
    for u in range(T + c - 1):
        S = M = 0 * p["eta"][:, 0]
        rows = []
        for t in range(T):
            before, age = M, t + c - 1 - u
            x = into[:, t] * p["gamma"][:, t, :, age] if 0 <= age < c else 0
            S = p["theta"][:, t] * S + x
            M = p["alpha"][:, t] * M + out[:, t] * S
            rows.append(before if p["read_before_update"] else M)
        columns.append(torch.stack(rows, 1))
    weight = torch.stack(columns, -1)  # (B, T, H, T + c − 1)
    scores = torch.einsum("bthp,buhp->bthu", p["q"], k)
    return (torch.einsum("bthu,buhv->bthv", weight * scores, v),)


@given(seed=seeds, size=sizes, chunk=st.integers(1, 6), inside=places, before=reads)
def test_I3_backward_the_dot_objective_is_masked_attention(
    seed: int, size: Sizes, chunk: int, inside: bool, before: bool
) -> None:
    given_ = {"objective": "dot", "chunk_size": chunk, "lr_inside_momentum": inside, "read_before_update": before}
    p = problem(seed, size, memory=0, momentum=0, **given_)
    g = cotangents(p, seed)
    g[1:] = [0 * g[1], 0 * g[2]]
    same_gradients(p, g, pulled(masked_attention, p, g), pulled(fast.omega, p, g), "memory", "momentum")


@given(seed=seeds, size=sizes, inside=places, before=reads)
def test_I6_backward_one_chunk_from_an_empty_memory_is_the_inner_product(
    seed: int, size: Sizes, inside: bool, before: bool
) -> None:
    """But for the gradient by the memory, which squared errors see"""
    given_ = {
        "memory": 0,
        "momentum": 0,
        "chunk_size": size["T"],
        "lr_inside_momentum": inside,
        "read_before_update": before,
    }
    p = problem(seed, size, objective="l2", **given_)
    g = cotangents(p, seed)
    dot = pulled(fast.omega, p | {"objective": "dot"}, g)
    same_gradients(p, g, dot, pulled(fast.omega, p, g), "memory")


@given(seed=seeds, size=sizes, chunk=st.integers(1, 6), objective=objectives)
def test_I7_backward_weights_of_age_zero_are_a_window_of_one(
    seed: int, size: Sizes, chunk: int, objective: str
) -> None:
    p = problem(seed, size, objective=objective, chunk_size=chunk)
    alone = p | {"gamma": p["gamma"][..., :1], "k_window": p["k_window"][:, :0], "v_window": p["v_window"][:, :0]}
    g = cotangents(p, seed)
    found = pulled(fast.omega, changed(p, gamma=p["gamma"] * (np.arange(size["c"]) == 0)), g)
    assert all(not found[x].any() for x in ("k_window", "v_window"))
    found |= {"gamma": found["gamma"][..., :1], "k_window": alone["k_window"], "v_window": alone["v_window"]}
    same_gradients(alone, g, pulled(fast.omega, alone, g), found)


@given(seed=seeds, size=sizes, chunk=st.integers(1, 6))
def test_I11_backward_gradients_turn_with_the_features(seed: int, size: Sizes, chunk: int) -> None:
    p = problem(seed, size, chunk_size=chunk)
    Q = np.linalg.qr(np.random.default_rng(seed + 1).standard_normal((size["P"], size["P"])))[0]
    g = cotangents(p, seed)
    rows, states = ("q", "k", "k_window"), ("memory", "momentum")
    turned = p | {n: p[n] @ Q for n in rows} | {n: Q.T @ p[n] for n in states}
    found = pulled(fast.omega, turned, [g[0], Q.T @ g[1], Q.T @ g[2]])
    back = {n: found[n] @ Q.T for n in rows} | {n: Q @ found[n] for n in states}
    same_gradients(p, g, pulled(fast.omega, p, g), found | back)


@given(seed=seeds, size=sizes, tile=st.integers(1, 6), inside=places, before=reads, objective=objectives)
def test_I13_backward_tiles_of_any_size_give_the_same(
    seed: int, size: Sizes, tile: int, inside: bool, before: bool, objective: str
) -> None:
    p = problem(seed, size, lr_inside_momentum=inside, read_before_update=before, objective=objective)
    g = cotangents(p, seed)
    want = dict(zip(pulled(fast.omega, p, g), true.omega_vjp(*g, *p.values()), strict=True))
    same_gradients(p, g, want, pulled(lambda **x: fast.omega(**x, tile=tile), p, g))


@given(seed=seeds, size=sizes, chunk=st.integers(1, 2))
def test_I14_backward_two_calls_are_one(seed: int, size: Sizes, chunk: int) -> None:
    """Gradients go through memory, momentum and window from call to call"""
    p = problem(seed, size | {"T": chunk + size["T"]}, chunk_size=chunk)
    g = cotangents(p, seed)

    def split(**x: Any) -> tuple[torch.Tensor, ...]:
        c = x["gamma"].shape[-1] - 1
        names = ("q", "k", "v", "alpha", "eta", "theta", "gamma")
        o, M, S = fast.omega(**x | {n: x[n][:, :chunk] for n in names})
        window = {f"{n}_window": torch.cat([x[f"{n}_window"], x[n][:, :chunk]], 1)[:, chunk:] for n in "kv"}
        assert all(w.shape[1] == c for w in window.values())
        rest = {n: x[n][:, chunk:] for n in names}
        second, M, S = fast.omega(**x | rest | window | {"memory": M, "momentum": S})
        return torch.cat([o, second], 1), M, S

    same_gradients(p, g, pulled(split, p, g), pulled(fast.omega, p, g))


@given(seed=seeds, size=sizes, chunk=st.integers(1, 6), objective=objectives, before=reads)
def test_I15_backward_an_output_owes_nothing_to_what_comes_later(
    seed: int, size: Sizes, chunk: int, objective: str, before: bool
) -> None:
    p = problem(seed, size | {"T": size["T"] + 1}, chunk_size=chunk, objective=objective, read_before_update=before)
    t = (size["T"] + 1) // 2
    g = cotangents(p, seed)
    g[0][:, t:], g[1][:], g[2][:] = 0, 0, 0
    found = pulled(fast.omega, p, g)
    assert all(not found[n][:, t:].any() for n in ("q", "k", "v", "alpha", "eta", "theta", "gamma"))
    first = pulled(fast.omega, p, [g[0] * (np.arange(size["H"]) == 0)[:, None], *g[1:]])
    assert all(not first[n][:, :, 1:].any() for n in ("q", "k", "v", "alpha", "eta", "theta", "gamma"))


# -- pieces, other forms ----------------------------------------------------------------------------------------------


@given(seed=seeds, size=sizes, chunk=st.integers(1, 3), inside=places, before=reads)
def test_pieces_of_any_length_give_the_same(seed: int, size: Sizes, chunk: int, inside: bool, before: bool) -> None:
    """One chunk a piece, and all of them in one"""
    from trueness.optimized.atlas_memory.gd import autograd as pieces

    p = problem(
        seed, size | {"T": 3 * chunk + 1}, chunk_size=chunk, lr_inside_momentum=inside, read_before_update=before
    )
    g, most = cotangents(p, seed), pieces.ELEMENTS
    try:
        pieces.ELEMENTS = 1
        short = pulled(fast.omega, p, g)
    finally:
        pieces.ELEMENTS = most
    same_gradients(p, g, pulled(fast.omega, p, g), short)


@given(seed=seeds, size=sizes, chunk=st.integers(1, 3), inside=places, before=reads)
def test_operations_one_by_one_give_what_the_written_backward_gives(
    seed: int, size: Sizes, chunk: int, inside: bool, before: bool
) -> None:
    """Under a transform of functorch every operation is seen: autograd of those is the other way to the gradients"""
    p = problem(seed, size, chunk_size=chunk, lr_inside_momentum=inside, read_before_update=before)
    g = cotangents(p, seed)
    x = natives(p)
    leaves = {n: y for n, y in x.items() if isinstance(y, torch.Tensor)}

    def of_leaves(y: Tensors) -> torch.Tensor:
        o, M, S = fast.omega(**{**x, **y})
        a, b, c = ((out * torch.from_numpy(pulled)).sum() for out, pulled in zip((o, M, S), g, strict=True))
        return a + b + c

    found = {n: y.detach().numpy() for n, y in torch.func.grad(of_leaves)(leaves).items()}
    same_gradients(p, g, found, pulled(fast.omega, p, g))


def test_a_gradient_of_the_gradient_goes_through_single_operations() -> None:
    """Directional second derivatives, by gradcheck's differences"""
    p = natives(problem(3, {"B": 1, "T": 3, "H": 1, "P": 2, "V": 1, "c": 2}, chunk_size=2))
    names = [n for n, x in p.items() if isinstance(x, torch.Tensor)]
    call = lambda *x: fast.omega(**p | dict(zip(names, x, strict=True)))  # noqa: E731
    assert torch.autograd.gradgradcheck(call, [p[n] for n in names])


def test_one_graph_holds_the_rule() -> None:
    """torch.compile(fullgraph=True, dynamic=True) without a break: of the exact rule, windows and a filled-up tile"""
    p = problem(5, {"B": 1, "T": 3, "H": 2, "P": 3, "V": 2, "c": 2})
    compiled = torch.compile(fast.omega, fullgraph=True, dynamic=True, backend="eager")
    found = compiled(*(torch.from_numpy(x) if isinstance(x, np.ndarray) else x for x in p.values()), tile=2)
    assert_equal_within(true.omega(*p.values()), [x.numpy() for x in found], "omega", list(p.values()))


@given(seed=seeds, size=sizes, chunk=st.integers(1, 3), w=st.integers(0, 7), objective=objectives, before=reads)
def test_separable_weights_are_weights(
    seed: int, size: Sizes, chunk: int, w: int, objective: str, before: bool
) -> None:
    """Windows of up to eight tokens over chunks of up to three: whole chunks in between, forward and backward"""
    p = problem(seed, size | {"c": w + 1, "T": 5}, chunk_size=chunk, objective=objective, read_before_update=before)
    generator = np.random.default_rng(seed)
    scale, sources = generator.uniform(0.1, 1, (1, 5, size["H"])), generator.uniform(0.1, 1, (1, 5 + w, size["H"])) / 4
    p["gamma"] = np.stack([scale * sources[:, w - j : w - j + 5] for j in range(w + 1)], -1)
    g = cotangents(p, seed)

    def separable(**x: Any) -> Any:
        tokens = [x[n] for n in ("q", "k", "v", "alpha", "eta", "theta")]
        weights = [torch.from_numpy(y.copy()) for y in (scale, sources[:, w:])]
        state = [x[n] for n in STATE]
        before = torch.from_numpy(sources[:, :w].copy())
        modes = [x[n] for n in ("chunk_size", "objective", "lr_inside_momentum", "read_before_update")]
        return fast.omega_separable(*tokens, *weights, *state, before, *modes)

    same_gradients(p, g, pulled(fast.omega, p, g), pulled(separable, p, g), "gamma")
    out = [y.detach().numpy() for y in separable(**natives(p))]
    assert_equal_within(true.omega(*p.values()), out, "omega", list(p.values()))


@given(seed=seeds, size=sizes, tile=st.integers(1, 5), inside=places, before=reads)
def test_as_many_sweeps_as_tokens_are_the_exact_rule(
    seed: int, size: Sizes, tile: int, inside: bool, before: bool
) -> None:
    p = problem(seed, size, lr_inside_momentum=inside, read_before_update=before)
    g = cotangents(p, seed)

    def picard(sweeps: int) -> Callable[..., Any]:
        def call(**x: Any) -> Any:
            tensors = [x[n] for n in ("q", "k", "v", "alpha", "eta", "theta", "gamma", *STATE)]
            return fast.omega_picard(*tensors, inside, before, tile, sweeps)

        return call

    same_gradients(p, g, pulled(fast.omega, p, g), pulled(picard(tile), p, g))


@given(seed=seeds)
def test_every_sweep_comes_nearer_to_the_exact_rule(seed: int) -> None:
    """Unit keys and small steps: ‖L‖ ≤ η (n − 1)/(1 − θ) = ½ in a tile of six, and what is missing is Lˢ⁺¹ U"""
    size = {"B": 1, "T": 6, "H": 1, "P": 4, "V": 2, "c": 1}
    p = problem(seed, size, alpha=1, eta=0.05, theta=0.5, gamma=1, momentum=0)
    p["k"] = p["k"] / np.linalg.norm(p["k"], axis=-1, keepdims=True)
    tensors = [torch.from_numpy(p[n]) for n in ("q", "k", "v", "alpha", "eta", "theta", "gamma", *STATE)]
    exact = torch.from_numpy(true.omega(*p.values())[1])
    off = [float((fast.omega_picard(*tensors, False, False, 6, s)[1] - exact).norm()) for s in range(5)]
    assert all(later < earlier for earlier, later in pairwise(off))
