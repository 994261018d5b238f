"""MEM-10, MEM-13, MEM-14 and MEM-36: what hides a failure."""

from __future__ import annotations

from typing import Any

import numpy as np

from trueness.properties.atlas_memory.flat import reference as true
from trueness.regressions.atlas_memory.common import (
    ATTENTION,
    OMEGA,
    PAPER,
    Arguments,
    discriminating_input,
    entry,
    first_key_is_nan,
    named,
    omega,
)

FAILURE = "a failed memory update no longer stops the forward pass"


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


BUGS = (
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
)
