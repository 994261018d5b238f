"""MEM-01: what the memory sees, and when it is read."""

from __future__ import annotations

from typing import Any

import numpy as np

from trueness.properties.atlas_memory.flat import reference as true
from trueness.regressions.atlas_memory.common import (
    ATTENTION,
    MLP,
    OMEGA,
    PAPER,
    Arguments,
    discriminating_input,
    entry,
    is_descent,
    named,
    omega,
    recurrence,
    the_momentum,
    windowed,
)

PARALLEL = "AtlasAttention processes all tokens in parallel, about 100 times faster"
LINEARISED = "parallel training gives the sequential result"


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
    return omega(p, read_before_update=not p["read_before_update"])


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
        "Here read_before_update chooses, False by default.",
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
)
