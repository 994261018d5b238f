"""Known bugs of the DiffiT blocks: an activation of the residual sum, norms and residuals elsewhere, two GELUs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from trueness.reference import attention as true
from trueness.regressions.attention.entries import PAPER, drawn, entry
from trueness.regressions.attention.self_attention import TMSA, TRUE, tmsa

diffit_resblock = TRUE["attention.diffit_resblock"]


def activated_sum(*arguments: Any) -> Any:
    """SiLU(DiffiT-Block(x̂, x_t) + x)"""
    return true.silu(diffit_resblock(*arguments))


def block(wrong: str) -> Any:
    """diffit_block with one thing wrong"""

    def variant(x: Any, t: Any, g_1: Any, c_1: Any, *rest: Any) -> Any:
        (*projections, g_2, c_2, w_1, b_1, w_2, b_2, window, heads, eps) = rest

        def attention(z: Any) -> Any:
            return tmsa(z, t, *projections, window, heads)

        def mlp(z: Any) -> Any:
            return true.gelu_tanh(z @ w_1 + b_1) @ w_2 + b_2

        if wrong == "post-norm":
            hat = true.layer_norm(attention(x) + x, g_1, c_1, eps=eps)
            return true.layer_norm(mlp(hat) + hat, g_2, c_2, eps=eps)
        hat = attention(true.layer_norm(x, g_1, c_1, eps=eps)) + x
        inner = hat if wrong == "one norm" else true.layer_norm(hat, g_2, c_2, eps=eps)
        return mlp(inner) + (x if wrong == "residual from x" else hat)

    return variant


def exact_gelu(x: Any) -> Any:
    """x Φ(x)"""
    plain = np.asarray(x, dtype=np.float64)
    return np.asarray(0.5 * plain * (1 + np.vectorize(math.erf, otypes=[float])(plain / math.sqrt(2))))


BLOCK = (*TMSA[:2], *drawn((4,), (4,)), *TMSA[2:10], *drawn((4,), (4,), (4, 8), (8,), (8, 4), (4,), seed=1), 2, 2, 1e-6)
RESBLOCK = (
    np.moveaxis(TMSA[0], -1, 1).copy(),
    TMSA[1],
    *drawn((4,), (4,), (4, 4, 3, 3), (4,), seed=2),
    *BLOCK[2:18],
    2,
    2,
    1,
    1e-6,
)
TAIL = (np.array([-3.0, -2.5, -2.2, -1.0, 2.5, 0.5]),)
SMALL = {d: "5e-4 on numbers of size 2 is below its rounding" for d in ("float16", "bfloat16")}

BLOCKS = "the transformer block matches eq. 7-8"

BUGS = (
    entry(
        "DIFFIT-10",
        "SiLU is applied after the residual sum",
        "the ResBlock matches eq. 9-10",
        "claim false",
        "The quoted listing stops one line before the extra SiLU. With a block of zeros the output is SiLU(x), not x.",
        "diffit_resblock",
        activated_sum,
        source=f"{PAPER} eq. 9-10",
        discriminating_input=RESBLOCK,
    ),
    *(
        entry(
            f"DIFFIT-11{letter}",
            title,
            BLOCKS,
            "no bug",
            finding,
            "diffit_block",
            block(wrong),
            source=f"{PAPER} eq. 7-8",
            discriminating_input=BLOCK,
        )
        for letter, wrong, title, finding in (
            (
                "a",
                "one norm",
                "the MLP sees tokens that were not normalised",
                "The quoted x + ffn(x) is right because the LayerNorm sits inside ffn. Without it this is the result.",
            ),
            (
                "b",
                "residual from x",
                "the second residual starts from x",
                "Kept as what the checks must reject: attention would reach the output only through the MLP.",
            ),
            (
                "c",
                "post-norm",
                "the norms stand after the sums",
                "Kept as what the checks must reject: eq. 7-8 normalise before each sub-layer.",
            ),
        )
    ),
    entry(
        "DIFFIT-11d",
        "the exact GELU for its tanh approximation",
        "the MLP is Linear, GELU, Linear",
        "convention",
        "Both are called GELU; they differ by 4.7e-4 at most. Weights of one in the other lose digits in float32.",
        "gelu_tanh",
        exact_gelu,
        source="Hendrycks & Gimpel 2016 (1606.08415) §2",
        discriminating_input=TAIL,
        invisible=SMALL,
    ),
)
