"""Undocumented variants: sequences in one row, two layers, few rows, chunks, tiles and windows."""

from __future__ import annotations

from typing import Any

import numpy as np

from trueness.properties.atlas_memory.flat import MODES, STATE, TOKENS
from trueness.properties.atlas_memory.flat import reference as true
from trueness.regressions.atlas_memory.common import (
    JORDAN,
    MLP,
    OMEGA,
    PAPER,
    PICARD,
    SEPARABLE,
    VARLEN,
    Arguments,
    K,
    Q,
    V,
    discriminating_input,
    entry,
    in_one_row,
    is_descent,
    named,
    omega,
)
from trueness.tools.spec.model import UNDOCUMENTED

LINEARISED = "parallel training gives the sequential result"
MUON = "the memory is updated by the Muon optimiser"


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
        row, states = ([p[x] for x in names] for names in (TOKENS, STATE))
        tokens, (M, S, *windows) = true._sequence(i, ends, row, states)
        cut = min(-ends[i] % p["chunk_size"], tokens[0].shape[1])
        reads = []
        for part in (slice(None, cut), slice(cut, None)):
            some = [x[:, part] for x in tokens]
            if some[0].shape[1]:
                o, M, S = true.omega(*some, M, S, *windows, *(p[x] for x in MODES))
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
    keys, values = (np.concatenate([p[f"{x}_window"], p[x]], axis=1) for x in "kv")
    M, S, reads = p["memory"], p["momentum"], []
    for t in range(p["q"].shape[1]):
        eta, alpha, theta = (true._head(p[x][:, t]) for x in ("eta", "alpha", "theta"))
        into, out = (eta, 1.0) if p["lr_inside_momentum"] else (1.0, eta)
        ahead, before = alpha * M - out * (theta * S), M
        S = theta * S + into * true._windowed(keys, values, p["gamma"], t, ahead)
        M = alpha * M - out * S
        reads = [*reads, true._row(p["q"][:, t], before if p["read_before_update"] else M)]
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
    return true.omega(*(whole[name] for name in OMEGA))


def one_sweep_short(p: Arguments) -> Any:
    """The linearisation is counted as a sweep"""
    return true.omega_picard(**{**p, "sweeps": max(p["sweeps"] - 1, 0)})


def sweeps_over_the_whole_call(p: Arguments) -> Any:
    """One tile from the first token to the last"""
    return true.omega_picard(**{**p, "tile": p["q"].shape[1]})


BUGS = (
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
        discriminating_input(lr_inside_momentum=True),
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
