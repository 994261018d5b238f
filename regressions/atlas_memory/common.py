"""Wrong variants of atlas_memory take the arguments of their formula by name; what they share, and the inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from trueness.properties.atlas_memory.flat import ARGUMENTS, STATE, TOKENS
from trueness.properties.atlas_memory.flat import reference as true
from trueness.regressions._lib.commands import show
from trueness.tools.spec.model import Bug

CHANGELOG = "Atlas memory (davidbasilefilho/atlas), changelog of 2025-07-17"
PAPER = "Behrouz et al. 2025, ATLAS (2505.23735)"
JORDAN = "Jordan et al. 2024, Muon"
OMEGA, MLP, VARLEN = ARGUMENTS["omega"], ARGUMENTS["omega_mlp"], ARGUMENTS["omega_varlen"]
SEPARABLE, PICARD, ATTENTION = (ARGUMENTS[x] for x in ("omega_separable", "omega_picard", "atlas_attention"))
ORDER = {"lr_inside_momentum": False, "read_before_update": False}
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
    into, out = (p["eta"], one) if p["lr_inside_momentum"] else (one, p["eta"])
    M, S, reads = p["memory"], p["momentum"], []
    M_hat = M
    for t in range(p["q"].shape[1]):
        M_hat = M if t % p["chunk_size"] == 0 else M_hat
        g = clipped(gradient(t, M_hat, keys, values), math.inf if p["clip"] is None else p["clip"])
        S = true._head(p["theta"][:, t]) * S + true._head(into[:, t]) * g
        before = M
        M = true._head(p["alpha"][:, t]) * M - true._head(out[:, t]) * update(S, g, into[:, t])
        reads = [*reads, true._row(p["q"][:, t], before if p["read_before_update"] else M)]
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


# -- discriminating inputs ---------------------------------------------------------------------------------------------

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
    modes = {"chunk_size": 2, "objective": "l2", "optimizer": "gd", **ORDER, "clip": None}
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
    row = {x: found[x].reshape(1, 10, *found[x].shape[2:]) for x in TOKENS}
    state = {x: np.stack([found[x][0], found[x][0], found[x][1]]) for x in STATE}
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
