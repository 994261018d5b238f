"""Known bugs of relative positions: indices that collide, biases that softmax does not see, a skew, a scale."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from trueness.reference import attention as true
from trueness.regressions.attention.entries import SWIN, drawn, entry
from trueness.regressions.attention.self_attention import TMSA, without_bias


def displacement(window: int) -> tuple[Any, Any]:
    y, x = np.divmod(np.arange(window * window), window)
    return y[:, None] - y + window - 1, x[:, None] - x + window - 1


def rows_of_w(window: int) -> Any:
    """(dy + w − 1) w + (dx + w − 1)"""
    dy, dx = displacement(window)
    return dy * window + dx


def swapped(window: int) -> Any:
    """(dx + w − 1)(2w − 1) + (dy + w − 1)"""
    dy, dx = displacement(window)
    return dx * (2 * window - 1) + dy


def of_the_query(table: Any, window: int) -> Any:
    """B_hij = T_ih: the same for all keys"""
    n = window * window
    return np.moveaxis(table[:n], -1, 0)[:, :, None] + np.zeros(n)


def raster(table: Any, window: int) -> Any:
    """B_hij = T_{i − j + N − 1, h}: 2N − 1 offsets along the raster"""
    n = window * window
    return np.moveaxis(table[np.arange(n)[:, None] - np.arange(n) + n - 1], -1, 0)


def skewed(q: Any, k: Any, embedding: Any) -> Any:
    """Q Eᵀ, a column of zeros before it, read again with rows of another length: right for j ≤ i only"""
    n = q.shape[0]
    relative = q @ embedding[:n].swapaxes(0, 1)
    framed = np.concatenate([0 * relative[:, :1], relative], 1)
    return (q @ k.swapaxes(0, 1) + framed.reshape(n + 1, n)[1:]) / math.sqrt(q.shape[-1])


def unscaled(q: Any, k: Any, embedding: Any) -> Any:
    """q·k/√d + q·E"""
    n = q.shape[0]
    offset = n - 1 + np.arange(n) - np.arange(n)[:, None]
    return true._scores(q, k) + np.sum(q[:, None] * embedding[offset], -1)


LOGITS = tuple(drawn((4, 3), (4, 3), (7, 3)))
TABLE = (drawn((25, 2))[0], 3)

GLOBAL = "proper relative position bias, per window and for global attention"
SKEW = "the skewed relative bias was functional and generally correct"

BUGS = (
    entry(
        "DIFFIT-04a",
        "rows of the relative index have length w",
        GLOBAL,
        "no bug",
        "The report has 2w − 1. With w different displacements collide: of (2w − 1)² entries some are never used.",
        "relative_position_index",
        rows_of_w,
        source=f"{SWIN} §3.2",
        discriminating_input=(3,),
    ),
    entry(
        "DIFFIT-04b",
        "dx and dy are exchanged",
        GLOBAL,
        "no bug",
        "A relabelling of the table, harmless to a model trained from scratch, wrong for weights of another.",
        "relative_position_index",
        swapped,
        source=f"{SWIN} §3.2",
        discriminating_input=(2,),
    ),
    entry(
        "DIFFIT-04c",
        "the bias is the same for all keys",
        GLOBAL,
        "real bug, wrong fix",
        "The global mode adds T_i to the whole row i. Softmax does not see what is constant over keys: no effect, and "
        "a gradient of 0.",
        "relative_position_bias",
        of_the_query,
        source=f"{SWIN} eq. 4",
        discriminating_input=TABLE,
    ),
    entry(
        "DIFFIT-04d",
        "global attention has no relative bias",
        GLOBAL,
        "real bug, wrong fix",
        "What the constant rows of DIFFIT-04c come to: attention as if there were no bias.",
        "tmsa",
        without_bias,
        source=f"{SWIN} eq. 4",
        discriminating_input=TMSA,
    ),
    entry(
        "DIFFIT-05a",
        "above the diagonal the bias is of the next query",
        SKEW,
        "claim false",
        "The skew of Huang et al. is for causal attention. For j = i + 1 it gives 0, for j > i + 1 the product of "
        "q_{i+1} with an embedding of the past; diffusion attends both ways.",
        "relative_attention_logits",
        skewed,
        source="Huang et al. 2018 (1809.04281) §3.4.1",
        discriminating_input=LOGITS,
    ),
    entry(
        "DIFFIT-05b",
        "the relative logits are not scaled",
        SKEW,
        "claim false",
        "q·k/√d + q·E where (q·k + q·E)/√d belongs; with d = 1 it is the same.",
        "relative_attention_logits",
        unscaled,
        source="Huang et al. 2018 (1809.04281) eq. 3",
        discriminating_input=LOGITS,
    ),
    entry(
        "DIFFIT-05c",
        "displacements along the raster collide",
        SKEW,
        "claim false",
        "i − j along the raster has 2w² − 1 values where the plane has (2w − 1)² displacements, 31 for 49 at w = 4: "
        "the end of a row and the start of the next count as neighbours.",
        "relative_position_bias",
        raster,
        source=f"{SWIN} §3.2",
        discriminating_input=TABLE,
    ),
)
