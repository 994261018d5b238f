"""The formulas of the family attention: masks, windows, relative positions, time-dependent self-attention, DiffiT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from hypothesis import strategies as st

from trueness.optimized import attention as fast
from trueness.properties.attention import cuda, peers
from trueness.reference import attention as true
from trueness.tools.spec.inputs import Made, Mask, Real, Scalar
from trueness.tools.spec.model import DTYPES, Formula, Implementation

VASWANI = "Vaswani et al. 2017 (1706.03762)"
SWIN = "Liu et al. 2021, Swin Transformer (2103.14030)"
DIFFIT = "Hatamizadeh et al. 2023, DiffiT (2312.02139)"
BY_PARTS = "its parts are checked one by one; a law compares torch's backward of the whole with the complex step"
SQUARES = {"overflow": "the square of bfloat16's largest number overflows float32"}
PRODUCTS = {"overflow": "products of bfloat16's largest number overflow float32"}
BLOCKS = {**PRODUCTS, "not finite": "∞ − ∞ and 0 · ∞ arise in one order of its sums and products, and not in another"}
Sizes = Mapping[str, Any]

# -- what is drawn ----------------------------------------------------------------------------------------------------

WINDOW = Scalar("window", st.integers(1, 3), far=(9,))
NUM_HEADS = Scalar("num_heads", st.integers(1, 2), far=(9,))
EPS = Scalar("eps", st.sampled_from((1e-6, 1e-5, 1e-3)))
GRID = {"h": (3, 3), "w": (1, 2), "B": (1, 2)}  # one window alone has no power; a kernel takes four at a time
WIDTHS = {"d": (2, 3), "E": (1, 4), "M": (1, 5)}
NORMED = {"B": (1, 2), "N": (1, 4), "C": (2, 12)}
GROUPED = {"B": (1, 2), "c": (1, 3), "H": (2, 3), "W": (1, 3)}
KEYED = {"B": (1, 2), "N": (1, 6), "J": (1, 8), "d": (1, 8), "e": (1, 4)}
MAGNITUDES, WEIGHTS = (-2.0, 0.4), (-2.0, 0.0)


def height(s: Sizes) -> int:
    return int(s["h"] * s["window"])


def width(s: Sizes) -> int:
    return int(s["w"] * s["window"])


def count(s: Sizes) -> int:
    return int(s["B"] * s["h"] * s["w"])


def area(s: Sizes) -> int:
    return int(s["window"] ** 2)


def rows(s: Sizes) -> int:
    return int((2 * s["window"] - 1) ** 2)


def heads(s: Sizes) -> int:
    return int(s["num_heads"])


def channels(s: Sizes) -> int:
    return int(s["num_heads"] * s["d"])


def head_width(s: Sizes) -> int:
    return int(s["d"])


def grouped(s: Sizes) -> int:
    return int(s["groups"] * s["c"])


def both_ways(s: Sizes) -> int:
    return int(2 * s["N"] - 1)


def weight(name: str, *dims: Any) -> Real:
    return Real(name, dims=dims, decades=WEIGHTS, spans=WIDTHS)


TIME = Real("t", dims=("B", "E"), decades=MAGNITUDES, spans={**GRID, **WIDTHS})
TOKENS = Real("x", dims=("B", height, width, channels), decades=MAGNITUDES, spans={**GRID, **WIDTHS})
PROJECTIONS = (
    *(weight(f"w_{name}s", channels, channels) for name in "qkv"),
    *(weight(f"w_{name}t", "E", channels) for name in "qkv"),
    weight("w_o", channels, channels),
    Real("bias_table", dims=(rows, heads), decades=MAGNITUDES, spans=WIDTHS),
)
BLOCK = (
    weight("norm1_weight", channels),
    weight("norm1_bias", channels),
    *PROJECTIONS,
    weight("norm2_weight", channels),
    weight("norm2_bias", channels),
    weight("w_1", channels, "M"),
    weight("b_1", "M"),
    weight("w_2", "M", channels),
    weight("b_2", channels),
)


def tokens_reduction(s: Sizes) -> int:
    """The lengths of the sums one after another: channels of space and time, keys, channels again."""
    c = s.get("num_heads", 1) * 3
    return int(2 * c + s.get("E", 4) + s["window"] ** 2)


# -- implementations --------------------------------------------------------------------------------------------------


def ours(name: str, *claims: str, limit: Any = "fused", **fields: Any) -> Implementation:
    return Implementation(
        "trueness", lambda: getattr(fast, name), limit=limit, claims=frozenset({"gradient", *claims}), **fields
    )


def peer(name: str, call: Any, *dtypes: str, only: str, gradient: bool = True, **fields: Any) -> Implementation:
    fields.setdefault("limit", "eager")
    claims = frozenset({"gradient"} if gradient else ())
    return Implementation(name, lambda: call, origin="third_party", dtypes=dtypes, only=only, claims=claims, **fields)


def index(window: int, *, dtype: Any = None, device: Any = None) -> Any:
    """The table is of integers, whatever the dtype under test."""
    return fast.relative_position_index(window, device=device)


DENSE = {"rows": "windows may be a mask over all tokens, and 0 · NaN and 0 · ∞ of other windows' values are NaN"}
ADDS = {f"gradient {d}": "a sum over pairs, which has roundings: a law compares it with its bound" for d in DTYPES}
LEAKS = "NaN and ±inf go through the equation: 0 times a masked value that is NaN or ±inf is NaN"
TWO_DTYPES = "an oracle for the formula: a wide and a half format are enough"
ONE_DTYPE = "an oracle for the formula: one dtype is enough"
HALF = ("float16", "bfloat16")
NATIVE = "float32 is what ours calls; here its own half formats are checked"


def transformers(name: str, call: Any, **fields: Any) -> Implementation:
    return peer(name, call, "float32", only=ONE_DTYPE, needs=("transformers",), devices=("cpu",), **fields)


# -- declarations -----------------------------------------------------------------------------------------------------

FORMULAS = (
    Formula(
        name="attention.layer_norm",
        reference=true.layer_norm,
        vjp=true.layer_norm_vjp,
        equation="y = w (x − μ)/√(σ² + ε) + b, over the last axis",
        source="Ba, Kiros & Hinton 2016 (1607.06450) eq. 4",
        arguments=(
            Real("x", dims=("B", "N", "C"), decades=(-3.0, 1.0), spans=NORMED),
            Real("weight", dims=("C",), decades=WEIGHTS, spans=NORMED),
            Real("bias", dims=("C",), decades=WEIGHTS, spans=NORMED),
            EPS,
        ),
        implementations=(
            ours("layer_norm"),
            # its bias gradient is summed in the half format: T is 3.4 after 300 rows of 3
            peer("torch layer_norm", peers.layer_norm, *HALF, only=NATIVE, gradient=False),
        ),
        reduction=lambda s: s["C"],
        policies=SQUARES,
        gradient_reduction=lambda s: s["C"] + s["B"] * s["N"],
    ),
    Formula(
        name="attention.group_norm",
        reference=true.group_norm,
        vjp=true.group_norm_vjp,
        equation="y = w (x − μ)/√(σ² + ε) + b, over C/G channels of one image",
        source="Wu & He 2018 (1803.08494) eq. 1-3",
        arguments=(
            Real("x", dims=("B", grouped, "H", "W"), decades=(-3.0, 1.0), spans=GROUPED),
            Real("weight", dims=(grouped,), decades=WEIGHTS, spans=GROUPED),
            Real("bias", dims=(grouped,), decades=WEIGHTS, spans=GROUPED),
            Scalar("groups", st.integers(1, 2)),
            EPS,
        ),
        implementations=(
            ours("group_norm"),
            peer("torch group_norm", peers.group_norm, "float16", "bfloat16", only=NATIVE),
        ),
        reduction=lambda s: 4 * s["H"] * s["W"],
        policies=SQUARES,
        gradient_reduction=lambda s: (4 + s["B"]) * s["H"] * s["W"],
    ),
    Formula(
        name="attention.silu",
        reference=true.silu,
        vjp=true.silu_vjp,
        equation="y = x/(1 + e^{−x})",
        source="Ramachandran, Zoph & Le 2017 (1710.05941)",
        arguments=(Real("x", dims=("...", "N"), decades=(-3.0, 1.0), shortest=4),),
        implementations=(
            ours("silu", "compile"),
            peer("torch silu", torch.nn.functional.silu, "float16", "bfloat16", only=NATIVE),
            Implementation(
                "scipy expit",
                lambda: peers.silu_of_expit,
                "numpy",
                limit="eager",
                dtypes=("float32",),
                only=ONE_DTYPE,
                origin="third_party",
                needs=("scipy",),
            ),
        ),
    ),
    Formula(
        name="attention.gelu_tanh",
        reference=true.gelu_tanh,
        vjp=true.gelu_tanh_vjp,
        equation="y = x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))",
        source="Hendrycks & Gimpel 2016 (1606.08415) §2",
        # numbers below −3 alone would let zeros pass: 1 + tanh cancels there
        arguments=(Real("x", dims=("...", "N"), decades=(-3.0, 0.2), shortest=6),),
        implementations=(
            ours("gelu_tanh", "compile"),
            peer("torch gelu", peers.gelu_tanh, "float16", "bfloat16", only=NATIVE),
            peer("transformers NewGELU", peers.new_gelu, "float32", only=ONE_DTYPE, needs=("transformers",)),
        ),
    ),
    Formula(
        name="attention.masked_attention",
        reference=true.masked_attention,
        vjp=true.masked_attention_vjp,
        equation="O = P V,  P = exp(S − L) where M and 0 elsewhere,  S = Q Kᵀ/√d,  L = log Σ_M exp S",
        source=f"{VASWANI} eq. 1; a row that may see no key is 0",
        arguments=(
            Real("q", dims=("B", "N", "d"), decades=MAGNITUDES, spans=KEYED),
            Real("k", dims=("B", "J", "d"), decades=MAGNITUDES, spans=KEYED),
            Real("v", dims=("B", "J", "e"), decades=MAGNITUDES, spans=KEYED),
            Mask("mask", dims=("B", "N", "J"), spans=KEYED),
        ),
        implementations=(
            ours("masked_attention", "compile"),
            peer("torch scaled_dot_product_attention", peers.sdpa, "float32", "float16", only=TWO_DTYPES),
            peer("torch MultiheadAttention", peers.multihead, "float32", only=ONE_DTYPE),
            peer(
                "torch MultiheadAttention, asked for weights",
                peers.multihead_with_weights,
                "float32",
                only=ONE_DTYPE,
                convention="ATLAS-13b",
            ),
        ),
        reduction=lambda s: s["J"] + s["d"],
        special=LEAKS,
        policies=PRODUCTS,
    ),
    Formula(
        name="attention.relative_attention_logits",
        reference=true.relative_attention_logits,
        equation="S_ij = q_i·(k_j + E_{N−1+j−i})/√d",
        source="Shaw et al. 2018 (1803.02155) eq. 5; Huang et al. 2018 (1809.04281) eq. 3",
        arguments=(
            Real("q", dims=("N", "d"), decades=MAGNITUDES, spans={"N": (1, 6)}),
            Real("k", dims=("N", "d"), decades=MAGNITUDES, spans={"N": (1, 6)}),
            Real("embedding", dims=(both_ways, "d"), decades=MAGNITUDES),
        ),
        implementations=(ours("relative_attention_logits"),),
        no_gradient="kept for comparison with the bias of eq. 4; linear in each argument",
        complex_step=True,
        reduction=lambda s: 2 * s["d"],
        policies=PRODUCTS,
    ),
    Formula(
        name="attention.window_partition",
        reference=true.window_partition,
        vjp=true.window_partition_vjp,
        equation="X_{(b n_H + r) n_W + c, i w + j} = x_{b, r w + i, c w + j}",
        source=f"{SWIN} §3.2",
        arguments=(Real("x", dims=("B", height, width, "C"), spans={**GRID, "C": (1, 4)}), WINDOW),
        implementations=(
            ours("window_partition", "vmap", limit="exact"),
            transformers("transformers Swin", peers.swin_partition, limit="exact"),
        ),
    ),
    Formula(
        name="attention.window_unpartition",
        reference=true.window_unpartition,
        vjp=true.window_unpartition_vjp,
        equation="x = the inverse of window_partition",
        source=f"{SWIN} §3.2",
        arguments=(
            Real("windows", dims=(count, area, "C"), spans={**GRID, "C": (1, 4)}),
            WINDOW,
            Made("height", make=lambda known, generator: height(known), spans=GRID),
            Made("width", make=lambda known, generator: width(known), spans=GRID),
        ),
        implementations=(
            ours("window_unpartition", "vmap", limit="exact"),
            transformers("transformers Swin", peers.swin_unpartition, limit="exact"),
        ),
    ),
    Formula(
        name="attention.relative_position_index",
        reference=true.relative_position_index,
        equation="r(i, j) = (y_i − y_j + w − 1)(2w − 1) + (x_i − x_j + w − 1)",
        source=f"{SWIN} §3.2",
        arguments=(Scalar("window", st.integers(1, 8), far=(12, 24)),),
        implementations=(
            Implementation("trueness", lambda: index, limit="exact"),
            transformers("transformers Swin", peers.swin_index, limit="exact"),
        ),
        no_gradient="a table of integers",
        outputs=("int64",),
        creates=True,
    ),
    Formula(
        name="attention.relative_position_bias",
        reference=true.relative_position_bias,
        vjp=true.relative_position_bias_vjp,
        equation="B_hij = T_{r(i, j), h}",
        source=f"{SWIN} eq. 4",
        arguments=(Real("table", dims=(rows, "heads"), spans={"heads": (1, 3)}), WINDOW),
        implementations=(
            Implementation(
                "trueness", lambda: fast.relative_position_bias, limit="exact", claims=frozenset({"compile", "vmap"})
            ),
            transformers("transformers Swin", peers.swin_bias, limit="exact", waived=ADDS),
        ),
    ),
    Formula(
        name="attention.tmsa",
        reference=true.tmsa,
        vjp=true.tmsa_vjp,
        equation="y = softmax(q kᵀ/√d + B) v W_o,  q = x_s W_qs + x_t W_qt,  k and v likewise",
        source=f"{DIFFIT} eq. 3-6; {SWIN} eq. 4",
        arguments=(TOKENS, TIME, *PROJECTIONS, WINDOW, NUM_HEADS),
        implementations=(
            ours("tmsa", "compile", "out", "autocast", "vmap", "jvp"),
            cuda.implementation(False, cuda.kernels),
            peer("dense scaled_dot_product_attention", peers.dense, "float32", only=ONE_DTYPE),
            transformers("transformers SwinAttention", peers.swin_attention),
        ),
        reduction=tokens_reduction,
        policies={**BLOCKS, **DENSE},
        gradient_reduction=lambda s: tokens_reduction(s) + 16 * s["window"] ** 2,
    ),
    Formula(
        name="attention.tmsa_tokens",
        reference=true.tmsa_tokens,
        vjp=true.tmsa_tokens_vjp,
        equation="y = softmax(q kᵀ/√d + B) v W_o,  q = x_s W_qs + x_t W_qt,  x_t at every position",
        source=f"{DIFFIT} eq. 3-6; {SWIN} eq. 4",
        arguments=(
            TOKENS,
            Real("t", dims=("B", height, width, "E"), decades=MAGNITUDES, spans={**GRID, **WIDTHS}),
            *PROJECTIONS,
            WINDOW,
            NUM_HEADS,
        ),
        implementations=(ours("tmsa_tokens", "out"),),
        reduction=tokens_reduction,
        policies=BLOCKS,
        gradient_reduction=lambda s: tokens_reduction(s) + 16 * s["window"] ** 2,
    ),
    Formula(
        name="attention.tmsa_qk_norm",
        reference=true.tmsa_qk_norm,
        vjp=true.tmsa_qk_norm_vjp,
        equation="y = softmax(q̂ k̂ᵀ/√d + B) v W_o,  q̂ = g_q q/√(mean q² + ε),  k̂ likewise",
        source="Henry et al. 2020 (2010.04245); Esser et al. 2024 (2403.03206) §5.3.2; Zhang & Sennrich 2019 eq. 4",
        arguments=(
            TOKENS,
            TIME,
            *PROJECTIONS[:-1],
            weight("q_gain", head_width),
            weight("k_gain", head_width),
            PROJECTIONS[-1],
            WINDOW,
            NUM_HEADS,
            EPS,
        ),
        implementations=(
            ours("tmsa_qk_norm", "out"),
            cuda.implementation(True),
        ),
        reduction=tokens_reduction,
        policies=BLOCKS,
        gradient_reduction=lambda s: tokens_reduction(s) + 16 * s["window"] ** 2,
    ),
    Formula(
        name="attention.diffit_block",
        reference=true.diffit_block,
        equation="x̂ = TMSA(LN(x), x_t) + x,  y = MLP(LN(x̂)) + x̂",
        source=f"{DIFFIT} eq. 7-8",
        arguments=(TOKENS, TIME, *BLOCK, WINDOW, NUM_HEADS, EPS),
        implementations=(ours("diffit_block"),),
        no_gradient=BY_PARTS,
        complex_step=True,
        reduction=tokens_reduction,
        policies=BLOCKS,
    ),
    Formula(
        name="attention.diffit_resblock",
        reference=true.diffit_resblock,
        equation="x̂ = Conv3×3(Swish(GN(x))),  y = DiffiT-Block(x̂, x_t) + x",
        source=f"{DIFFIT} eq. 9-10",
        arguments=(
            Real("x", dims=("B", channels, height, width), decades=MAGNITUDES, spans={**GRID, **WIDTHS}),
            TIME,
            weight("norm_weight", channels),
            weight("norm_bias", channels),
            weight("kernel", channels, channels, lambda s: 3, lambda s: 3),
            weight("kernel_bias", channels),
            *BLOCK,
            WINDOW,
            NUM_HEADS,
            Scalar("groups", st.just(1)),
            EPS,
        ),
        implementations=(ours("diffit_resblock"),),
        no_gradient=BY_PARTS,
        complex_step=True,
        reduction=lambda s: tokens_reduction(s) + 54,
        policies={**BLOCKS, "no effect": "a convolution may leave out the zeros that it pads with"},
    ),
)
