"""Known bugs of the family attention: an inversion that never was, windows not put back, biases that do nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from trueness.reference import attention as true
from trueness.regressions._lib.commands import show
from trueness.tools.spec.model import UNDOCUMENTED, Bug

ATLAS = "ATLAS (OT-diffusion-toolkit), changelog of 2025-11-20"
DIFFIT = "DiffiT-v2, improvement report at commit 57f956f6"
VASWANI = "Vaswani et al. 2017 (1706.03762) eq. 1"
SWIN = "Liu et al. 2021 (2103.14030)"
PAPER = "Hatamizadeh et al. 2023 (2312.02139)"


# -- masks ------------------------------------------------------------------------------------------------------------


def inverted(q: Any, k: Any, v: Any, mask: Any) -> Any:
    """attends where it must not"""
    return true.masked_attention(q, k, v, ~mask)


def without_guard(q: Any, k: Any, v: Any, mask: Any) -> Any:
    """softmax of a row of −∞ is 0/0"""
    seen = np.any(mask, -1, keepdims=True)
    return np.where(seen, true.masked_attention(q, k, v, mask), np.nan)


def added(q: Any, k: Any, v: Any, mask: Any) -> Any:
    """the mask's 0 and 1 are added to the logits"""
    return true._softmax(true._scores(q, k) + np.where(mask, 1.0, 0.0)) @ v


# -- time-dependent self-attention ------------------------------------------------------------------------------------


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
    """(B n, w², C): TMSA before the windows are put back, with room for what goes wrong"""
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
    return true.tmsa(x, t, qs, ks, vs, qt, 0 * kt, 0 * vt, o, table, window, heads)


def without_bias(
    x: Any, t: Any, qs: Any, ks: Any, vs: Any, qt: Any, kt: Any, vt: Any, o: Any, table: Any, window: int, heads: int
) -> Any:
    """B is constant over keys, and softmax does not see it"""
    return true.tmsa(x, t, qs, ks, vs, qt, kt, vt, o, 0 * table, window, heads)


def folded_tokens(*arguments: Any) -> Any:
    """W_kt left out, as if what time adds to the scores were the same for all keys"""
    x, t, qs, ks, vs, qt, kt, *rest = arguments
    return true.tmsa_tokens(x, t, qs, ks, vs, qt, 0 * kt, *rest)


def first_token(*arguments: Any) -> Any:
    """the time of the first position for all positions of an image"""
    x, t, *rest = arguments
    return true.tmsa_tokens(x, 0 * t + t[:, :1, :1], *rest)


def normed(wrong: str) -> Any:
    """tmsa_qk_norm with one thing wrong"""

    def variant(*arguments: Any) -> Any:
        x, t, qs, ks, vs, qt, kt, vt, o, q_gain, k_gain, table, window, heads, eps = arguments
        if wrong == "folded":
            return true.tmsa_qk_norm(x, t, qs, ks, vs, qt, 0 * kt, *arguments[7:])
        if wrong == "no norm":
            return true.tmsa(x, t, qs, ks, vs, qt, kt, vt, o, table, window, heads)
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


# -- relative positions -----------------------------------------------------------------------------------------------


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


# -- DiffiT -----------------------------------------------------------------------------------------------------------


def activated_sum(*arguments: Any) -> Any:
    """SiLU(DiffiT-Block(x̂, x_t) + x)"""
    return true.silu(true.diffit_resblock(*arguments))


def block(wrong: str) -> Any:
    """diffit_block with one thing wrong"""

    def variant(x: Any, t: Any, g_1: Any, c_1: Any, *rest: Any) -> Any:
        (*projections, g_2, c_2, w_1, b_1, w_2, b_2, window, heads, eps) = rest

        def attention(z: Any) -> Any:
            return true.tmsa(z, t, *projections, window, heads)

        def mlp(z: Any) -> Any:
            return true.gelu_tanh(z @ w_1 + b_1) @ w_2 + b_2

        if wrong == "post-norm":
            hat = true.layer_norm(attention(x) + x, g_1, c_1, eps)
            return true.layer_norm(mlp(hat) + hat, g_2, c_2, eps)
        hat = attention(true.layer_norm(x, g_1, c_1, eps)) + x
        inner = hat if wrong == "one norm" else true.layer_norm(hat, g_2, c_2, eps)
        return mlp(inner) + (x if wrong == "residual from x" else hat)

    return variant


def exact_gelu(x: Any) -> Any:
    """x Φ(x)"""
    plain = np.asarray(x, dtype=np.float64)
    return np.asarray(0.5 * plain * (1 + np.vectorize(math.erf, otypes=[float])(plain / math.sqrt(2))))


# -- discriminating inputs --------------------------------------------------------------------------------------------


def drawn(*shapes: tuple[int, ...], seed: int = 0) -> list[Any]:
    generator = np.random.default_rng(seed)
    return [generator.standard_normal(shape) for shape in shapes]


QUERIES, KEYS = drawn((1, 2, 4), (1, 3, 4))
VALUES = np.array([[[1.0, 2.0], [-3.0, 1.0], [99.0, 99.0]]])
PADDED = np.array([[[True, True, False], [True, True, False]]])
BLANK = np.array([[[True, True, False], [False, False, False]]])
TMSA = (*drawn((2, 2, 4, 4), (2, 3), *[(4, 4)] * 3, *[(3, 4)] * 3, (4, 4), (9, 2)), 2, 2)
BY_TOKEN = (TMSA[0], *drawn((2, 2, 4, 3), seed=3), *TMSA[2:])
NORMED = (*TMSA[:9], *drawn((2,), (2,), seed=4), *TMSA[9:], 1e-6)
LOGITS = tuple(drawn((4, 3), (4, 3), (7, 3)))
TABLE = (drawn((25, 2))[0], 3)
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


def entry(
    id: str, title: str, claim: str, verdict: str, finding: str, formula: str = "", variant: Any = None, **fields: Any
) -> Bug:
    """An entry of the DiffiT report."""
    fields.setdefault("source", f"{PAPER} eq. 3-6")
    fields.setdefault("document", DIFFIT)
    name = f"attention.{formula}" if formula else ""
    return Bug(
        id=id,
        title=title,
        claim=claim,
        verdict=verdict,
        finding=finding,
        formula=name,
        variant=variant,
        evidence=show(id.replace("-", "_")),
        **fields,
    )


MASK = "the attention mask was inverted; true now means attend"
EQUATIONS = "TMSA adds space and time in q, k and v, eq. 3-6"
WINDOWED = "window attention is implemented: partition, attention, unpartition"
GLOBAL = "proper relative position bias, per window and for global attention"
SKEW = "the skewed relative bias was functional and generally correct"
BLOCKS = "the transformer block matches eq. 7-8"

BUGS = (
    entry(
        "ATLAS-13a",
        "attention goes where the mask forbids it",
        MASK,
        "no bug",
        "Before, the producer marked padding and the consumer filled where marked; after, the producer marks tokens "
        "and the consumer fills where not marked: the same bits. An inverted mask leaks a padded value of 99 at once.",
        "masked_attention",
        inverted,
        document=f"{ATLAS}, item 13",
        source=VASWANI,
        discriminating_input=(QUERIES, KEYS, VALUES, PADDED),
    ),
    entry(
        "ATLAS-13b",
        "a query that may see no key gets NaN",
        "the mask is fixed",
        "real bug, wrong fix",
        "softmax of a row of −∞ is NaN before and after the change. torch's MultiheadAttention returns NaN when asked "
        "for weights and 0 when not; scaled_dot_product_attention returns 0, as here.",
        "masked_attention",
        without_guard,
        document=f"{ATLAS}, item 13",
        source=VASWANI,
        discriminating_input=(QUERIES, KEYS, VALUES, BLANK),
    ),
    entry(
        "ATLAS-13c",
        "the mask's 0 and 1 are added to the logits",
        MASK,
        "no bug",
        "Nobody had it. A factor e between the seen and the hidden is all that is left of the mask.",
        "masked_attention",
        added,
        document=f"{ATLAS}, item 13",
        source=VASWANI,
        discriminating_input=(QUERIES, KEYS, VALUES, PADDED),
    ),
    entry(
        "ATLAS-13d",
        "a mask that is given raises before it is used",
        "masks can be passed as context_mask or mask",
        "real bug, wrong fix",
        "get('context_mask') or get('mask') asks a tensor for its truth value, which raises for more than one element, "
        "before and after the change; `is None` is what was meant.",
        document=f"{ATLAS}, item 13",
        source="torch: Boolean value of Tensor with more than one value is ambiguous",
    ),
    entry(
        "DIFFIT-01",
        "a forward pass writes a debug file",
        "debug logging was removed",
        "process",
        "Whether the report's commit still logs cannot be seen any more. What a user wants is checked: our modules "
        "write no file and print nothing.",
        source="the repository at 598114c8",
    ),
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
    entry(
        "DIFFIT-06",
        "names and comments do not say which equation they are",
        "documentation and naming were improved",
        "process",
        "No formula. Checked of ours: every weight has the name of its symbol, every module names its equation.",
        source=PAPER,
    ),
    entry(
        "DIFFIT-07",
        "the presets contradict themselves",
        "presets match the paper's tables; 200K iterations; depth 30 with 561M parameters",
        "claim false",
        "num_patches is a grid side: 16, 4 and 4 tokens, so that windows are as large as the grid or larger. 200000 "
        "kimg are 390625 iterations at batch 512 and 781250 at 256. Depth 28 has 561.04M parameters, 30 has 600.91M.",
        source=f"{PAPER} §3-4; DiffiT-v2 presets",
    ),
    entry(
        "DIFFIT-08",
        "the supplementary tables were not checked",
        "all values agree with tables S.2 and S.3",
        "process",
        "Those tables could not be retrieved, so the claim is unverified either way. What can be tested is: the "
        "presets keep their own rules, and the published total of 561M parameters is met.",
        source=f"{PAPER}, supplement (not retrievable)",
    ),
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
    entry(
        "DIFFIT-12",
        "the window test has one window",
        "TMSA was verified by a test with 64 tokens and w = 8",
        "claim false",
        "8 × 8 tokens with w = 8 are one window: partition is the identity there, and windows that are never put back, "
        "or times that are tiled, pass. See DIFFIT-03.",
        source=f"{SWIN} §3.2",
    ),
    entry(
        "DIFFIT-13",
        "a checklist without a tick, and ready for production",
        "the implementation is production-ready",
        "claim false",
        "All six boxes of the testing list are empty. What such a list asks for is run here on our models: shapes, "
        "finite gradients in every weight, windows, labels, half precision, save and load.",
        source="the report itself",
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
        "DIFFIT-16",
        "known limitations: latents, sampling steps, distillation, memory",
        "four limitations are listed, among them that no latent model exists",
        "process",
        "No formula. The list contradicts the latent presets beside it. Ours has a latent model, and windows that cut "
        "the attention terms by w²/(H W).",
        source=PAPER,
    ),
)
