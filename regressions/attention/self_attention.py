"""Known bugs of TMSA: windows not put back, times tiled over windows, biases and norms in the wrong place."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from trueness.properties import attention as declared
from trueness.reference import attention as true
from trueness.regressions.attention.entries import SWIN, VASWANI, drawn, entry
from trueness.tools.spec.model import UNDOCUMENTED

TRUE = {formula.name: formula.reference for formula in declared.FORMULAS}  # all arguments by position
tmsa, tmsa_tokens, tmsa_qk_norm = (TRUE[f"attention.{name}"] for name in ("tmsa", "tmsa_tokens", "tmsa_qk_norm"))


def attended(
    x: Any,
    t: Any,
    space: tuple[Any, ...],
    time: tuple[Any, ...],
    w_o: Any,
    bias: Any,
    window: int,
    heads: int,
    *,
    repeat: Any = np.repeat,
    scale: float | None = None,
    after: bool = False,
) -> Any:
    """(B n, w², C): TMSA before the windows are put back, with options for what goes wrong"""
    count = (x.shape[1] // window) * (x.shape[2] // window)
    moments = [repeat(t @ w, count, 0)[:, None] for w in time]
    parts = [true.window_partition(x, window) @ w + m for w, m in zip(space, moments, strict=True)]
    q, k, v = (true._split(part, heads) for part in parts)
    logits = q @ k.swapaxes(-1, -2) * (scale or 1 / math.sqrt(q.shape[-1]))
    p = true._softmax(logits) + bias if after else true._softmax(logits + bias)
    return true._merged(p @ v) @ w_o


def variant(**wrong: Any) -> Any:
    """tmsa with keywords of ``attended``; ``channels=True`` divides by √C"""

    def tmsa(
        x: Any,
        t: Any,
        qs: Any,
        ks: Any,
        vs: Any,
        qt: Any,
        kt: Any,
        vt: Any,
        o: Any,
        table: Any,
        window: int,
        heads: int,
    ) -> Any:
        options = dict(wrong)
        if options.pop("channels", False):
            options["scale"] = 1 / math.sqrt(x.shape[-1])
        put_back = options.pop("put_back", true.window_unpartition)
        bias = true.relative_position_bias(table, window)
        found = attended(x, t, (qs, ks, vs), (qt, kt, vt), o, bias, window, heads, **options)
        return put_back(found, window, x.shape[1], x.shape[2])

    return tmsa


def tiled(rows: Any, count: int, axis: int) -> Any:
    """1 2 1 2 where 1 1 2 2 belongs"""
    return np.tile(rows, (count, 1))


def of_another(rows: Any, count: int, axis: int) -> Any:
    """every image has the time of the one before it"""
    return np.repeat(np.roll(rows, 1, axis=0), count, axis=axis)


def read_as_grid(windows: Any, window: int, height: int, width: int) -> Any:
    """the rows of the windows, read as if they were the rows of the image"""
    return windows.reshape(-1, height, width, windows.shape[-1])


def only_queries(
    x: Any, t: Any, qs: Any, ks: Any, vs: Any, qt: Any, kt: Any, vt: Any, o: Any, table: Any, window: int, heads: int
) -> Any:
    """time reaches q alone"""
    return tmsa(x, t, qs, ks, vs, qt, 0 * kt, 0 * vt, o, table, window, heads)


def without_bias(
    x: Any, t: Any, qs: Any, ks: Any, vs: Any, qt: Any, kt: Any, vt: Any, o: Any, table: Any, window: int, heads: int
) -> Any:
    """B is constant over keys, and softmax does not see it"""
    return tmsa(x, t, qs, ks, vs, qt, kt, vt, o, 0 * table, window, heads)


def folded_tokens(*arguments: Any) -> Any:
    """W_kt left out, as if what time adds to the scores were the same for all keys"""
    x, t, qs, ks, vs, qt, kt, *rest = arguments
    return tmsa_tokens(x, t, qs, ks, vs, qt, 0 * kt, *rest)


def first_token(*arguments: Any) -> Any:
    """the time of the first position for all positions of an image"""
    x, t, *rest = arguments
    return tmsa_tokens(x, 0 * t + t[:, :1, :1], *rest)


def normed(wrong: str) -> Any:
    """tmsa_qk_norm with one thing wrong"""

    def variant(*arguments: Any) -> Any:
        x, t, qs, ks, vs, qt, kt, vt, o, q_gain, k_gain, table, window, heads, eps = arguments
        if wrong == "folded":
            return tmsa_qk_norm(x, t, qs, ks, vs, qt, 0 * kt, *arguments[7:])
        if wrong == "no norm":
            return tmsa(x, t, qs, ks, vs, qt, kt, vt, o, table, window, heads)
        q, k, v = (true._projected(x, t, s, m, window, heads) for s, m in ((qs, qt), (ks, kt), (vs, vt)))
        if wrong == "all channels":
            root = [np.sqrt(np.mean(a * a, (1, 3), keepdims=True) + eps) for a in (q, k)]
        elif wrong == "length":
            root = [np.sqrt(np.sum(a * a, -1, keepdims=True) + eps) for a in (q, k)]
        else:  # of what space gives alone
            alone = [true._projected(x, 0 * t, s, m, window, heads) for s, m in ((qs, qt), (ks, kt))]
            root = [np.sqrt(np.mean(a * a, -1, keepdims=True) + eps) for a in alone]
        p = true._softmax(
            true._scores(q_gain * q / root[0], k_gain * k / root[1]) + true.relative_position_bias(table, window)
        )
        return true.window_unpartition(true._merged(p @ v) @ o, window, x.shape[1], x.shape[2])

    return variant


TMSA = (*drawn((2, 2, 4, 4), (2, 3), *[(4, 4)] * 3, *[(3, 4)] * 3, (4, 4), (9, 2)), 2, 2)
BY_TOKEN = (TMSA[0], *drawn((2, 2, 4, 3), seed=3), *TMSA[2:])
NORMED = (*TMSA[:9], *drawn((2,), (2,), seed=4), *TMSA[9:], 1e-6)

EQUATIONS = "TMSA adds space and time in q, k and v, eq. 3-6"
WINDOWED = "window attention is implemented: partition, attention, unpartition"

BUGS = (
    entry(
        "DIFFIT-02a",
        "time reaches the queries alone",
        EQUATIONS,
        "no bug",
        "The projections of the report are those of the paper. Of the three time weights W_kt has no effect whatever, "
        "and W_vt adds one vector per image; dropping that vector is what this variant is rejected for.",
        "tmsa",
        only_queries,
        discriminating_input=TMSA,
    ),
    entry(
        "DIFFIT-02b",
        "logits are divided by √C instead of √d",
        EQUATIONS,
        "no bug",
        "Kept as what the checks must reject; with one head it is the same.",
        "tmsa",
        variant(channels=True),
        source=VASWANI,
        discriminating_input=TMSA,
    ),
    entry(
        "DIFFIT-02c",
        "the bias is added after the softmax",
        EQUATIONS,
        "no bug",
        "Kept as what the checks must reject: rows no longer sum to 1.",
        "tmsa",
        variant(after=True),
        source=f"{SWIN} eq. 4",
        discriminating_input=TMSA,
    ),
    entry(
        "DIFFIT-02d",
        "a window has the time of another image",
        EQUATIONS,
        "no bug",
        "Kept as what the checks must reject; visible only with two images at different times.",
        "tmsa",
        variant(repeat=of_another),
        discriminating_input=TMSA,
    ),
    *(
        entry(
            f"DIFFIT-02{letter}",
            title,
            "none: it could be written so",
            "no bug",
            finding,
            "tmsa_tokens",
            variant,
            document=UNDOCUMENTED,
            discriminating_input=BY_TOKEN,
        )
        for letter, variant, title, finding in (
            (
                "e",
                folded_tokens,
                "W_kt is folded away with a time token at every position",
                "What time adds to a key is then another number for every key, and softmax sees it.",
            ),
            (
                "f",
                first_token,
                "all positions have the time of the first",
                "Right for one time token an image, which is tmsa; visible only where times differ inside an image.",
            ),
        )
    ),
    *(
        entry(
            f"DIFFIT-02{letter}",
            title,
            "none: it could be written so",
            "no bug",
            finding,
            "tmsa_qk_norm",
            normed(wrong),
            document=UNDOCUMENTED,
            source="Henry et al. 2020 (2010.04245); Esser et al. 2024 (2403.03206) §5.3.2",
            discriminating_input=NORMED,
        )
        for letter, wrong, title, finding in (
            (
                "g",
                "folded",
                "W_kt is folded away before a norm of the keys",
                "The norm divides by a length that depends on x_t W_kt: it no longer cancels.",
            ),
            ("h", "no norm", "the norms are left out", "Queries and keys keep their lengths."),
            (
                "i",
                "all channels",
                "the norm is taken over all heads at once",
                "One length for all heads where every head has its own; with one head it is the same.",
            ),
            (
                "j",
                "length",
                "q/|q| for q/rms(q)",
                "A factor √d on queries and on keys, d on the scores, which other gains could make up for.",
            ),
            (
                "k",
                "space alone",
                "the length is that of x_s W_qs, before time is added",
                "The norm belongs after the sum of space and time.",
            ),
        )
    ),
    entry(
        "DIFFIT-03a",
        "windows are not put back",
        WINDOWED,
        "real bug, wrong fix",
        "The guard of unpartition compares w² with the token count after that was overwritten by w², so that it is "
        "never true: 64 tokens with w = 4 raise a shape error, 4 tokens with w = 8 another. Where shapes happen to "
        "fit, the rows of windows are read as rows of the image.",
        "tmsa",
        variant(put_back=read_as_grid),
        source=f"{SWIN} §3.2",
        discriminating_input=TMSA,
    ),
    entry(
        "DIFFIT-03b",
        "time tokens are tiled over the windows",
        WINDOWED,
        "real bug, wrong fix",
        "Windows are image-major: the token must be repeated, 1 1 2 2, and not tiled, 1 2 1 2. Visible only with two "
        "images at different times.",
        "tmsa",
        variant(repeat=tiled),
        source=f"{SWIN} §3.2",
        discriminating_input=TMSA,
    ),
    entry(
        "DIFFIT-03c",
        "unpartition is a reshape",
        WINDOWED,
        "real bug, wrong fix",
        "The inverse needs the two inner axes exchanged back.",
        "window_unpartition",
        read_as_grid,
        source=f"{SWIN} §3.2",
        discriminating_input=(drawn((4, 4, 1))[0], 2, 4, 4),
    ),
    entry(
        "DIFFIT-12",
        "the window test has one window",
        "TMSA was verified by a test with 64 tokens and w = 8",
        "claim false",
        "8 × 8 tokens with w = 8 are one window: partition is the identity there, and windows that are never put back, "
        "or times that are tiled, pass. See DIFFIT-03.",
        source=f"{SWIN} §3.2",
    ),
)
