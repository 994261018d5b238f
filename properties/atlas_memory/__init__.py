"""The formulas of the family atlas_memory: features, Newton–Schulz, the Omega rule in its modes, Atlas attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from hypothesis import strategies as st

from trueness.properties._lib import digits as _digits
from trueness.properties.atlas_memory import cuda
from trueness.properties.atlas_memory.flat import optimized as fast
from trueness.properties.atlas_memory.flat import reference as true
from trueness.tools.spec.inputs import Made, Real, Scalar, shape_of
from trueness.tools.spec.model import Case, Formula, Implementation

ATLAS = "Behrouz et al. 2025 (2505.23735)"
JORDAN = "Jordan et al. 2024, Muon: an optimizer for hidden layers in neural networks"
MADE_ONCE = "made once from numbers, and not learned from there"
CHUNKS = dict.fromkeys(
    ("not finite", "overflow", "spread", "masked", "rows"),
    "a chunk is matrix products under a mask, and 0 · NaN is NaN in all of it, in a token that reads no update, too: "
    "nothing is said about such input",
)
POWERS = (np.linspace(-1.0, 1.0, 2)[:, None] * np.linspace(0.99, 1.0, 3), np.linspace(0.5, 1.0, 130), 10.0)
SPANS = {
    "B": (1, 2),
    "T": (1, 3),
    "H": (1, 2),
    "P": (1, 4),
    "V": (1, 4),
    "c": (1, 2),
    "D": (1, 3),
    "N": (1, 3),
    "L": (1, 7),
}
SPANS |= {"w": (0, 5)}  # tokens of the past that a window looks at
# after five steps of JORDAN a rounding of bfloat16 has grown to the size of the result: they are tried on ``matrices``
STEPS = {"jordan": true.JORDAN[:2], "classical": true.CLASSICAL[:4], "none": ()}


# -- what is drawn ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gate(Real):
    """A tensor of numbers in [low, high), the same for every scale: a recurrence with larger gates would diverge."""

    low: float = 0.0
    high: float = 1.0

    def build(self, case: Case, generator: np.random.Generator) -> np.ndarray:
        return generator.uniform(self.low, self.high, shape_of(self.dims, case))


def drawn(name: str, *dims: Any) -> Real:
    spans = {d: SPANS[d] for d in dims if isinstance(d, str)}
    return Real(name, dims=dims, decades=(-1.0, 0.0), spans=spans)


def gate(name: str, low: float, high: float, *dims: Any) -> Gate:
    return Gate(name, dims=dims, spans={d: SPANS[d] for d in dims if isinstance(d, str)}, low=low, high=high)


def one(sizes: Mapping[str, Any]) -> int:
    return 1


def ends(sizes: Mapping[str, Any], generator: np.random.Generator) -> np.ndarray:
    """0, T_1, T_1 + T_2, …, L: lengths drawn by chance, some of them 0"""
    inner = generator.integers(0, sizes["L"], sizes["N"] - 1, endpoint=True)
    return np.array([0, *sorted(inner), sizes["L"]])


def before(sizes: Mapping[str, Any]) -> int:
    """How many tokens of the past a window looks at."""
    return int(sizes["c"]) - 1


SAME = "computed in float32 and rounded once by the very lines that atlas_memory.omega_muon tries in the half formats"
WIDE: dict[str, Any] = {"dtypes": ("float64", "float32"), "without": dict.fromkeys(("float16", "bfloat16"), SAME)}
LIKE = "computed in float32 and rounded once, as in bfloat16"
ONE_HALF: dict[str, Any] = {"dtypes": ("float64", "float32", "bfloat16"), "without": {"float16": LIKE}}
LINES = "by the lines of atlas_memory.omega_mlp and atlas_memory.newton_schulz, which are tried in it"
ONE: dict[str, Any] = {"dtypes": ("float32",), "without": dict.fromkeys(("float64", "float16", "bfloat16"), LINES)}
TOKEN = ("B", "T", "H")
GATES = (
    gate("alpha", 0.3, 1.0, *TOKEN),
    gate("eta", 0.1, 0.6, *TOKEN),
    gate("theta", 0.1, 0.9, *TOKEN),
    gate("gamma", 0.1, 0.6, *TOKEN, "c"),
)
ONE_ROW = tuple(replace(g, dims=(one, "L", *g.dims[2:]), spans={"L": SPANS["L"], **g.spans}) for g in GATES)
MODES = {
    "chunk_size": st.sampled_from((1, 2, 3)),
    "objective": st.sampled_from(("l2", "dot")),
    "lr_inside_momentum": st.booleans(),
    "read_before_update": st.booleans(),
}


def longest(width: str) -> Any:
    """A read sums over the features and, for each of them, over the tokens."""
    return lambda sizes: sizes[width] + sizes["T"] + sizes["c"]


def terms(*names: str) -> Any:
    def count(sizes: Mapping[str, Any]) -> int:
        return int(np.prod([np.prod(sizes[n], dtype=np.int64) for n in names], dtype=np.int64))

    return count


def matrices() -> dict[str, tuple[Any, ...]]:
    """All five steps, and what classical ones tend to: of one small matrix, and of gradients of handwritten digits."""
    found: dict[str, tuple[Any, ...]] = {
        "two by three": (np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), true.JORDAN, 1e-8)
    }
    if _digits.available():
        pixels = _digits.digits()[:60].reshape(5, 12, 64)
        gradients = np.swapaxes(pixels[..., 18:24], -1, -2) @ pixels[..., 34:38]
        found["digits"] = (gradients, true.JORDAN, 1e-8)
        found["digits, classical"] = (gradients, true.CLASSICAL, 1e-8)
    return found


def thin_matrices() -> dict[str, tuple[Any, ...]]:
    """Rows that are all but equal, as features with a constant block are, and every step of JORDAN."""
    if not _digits.available():
        return {}
    rows = _digits.digits()[:24].reshape(6, 4, 64)
    return {"digits beside a constant": (1 + rows[..., 18:34] / 256, rows[..., 34:42], true.JORDAN, 1e-8)}


def rows_of_digits(optimizer: str, clip: float | None, *chunk_sizes: int) -> Callable[[], dict[str, tuple[Any, ...]]]:
    """Two handwritten digits: rows are keys, queries and, one row later, values; eight tokens, windows of three."""

    def load() -> dict[str, tuple[Any, ...]]:
        if not _digits.available():
            return {}
        rows = _digits.digits()[:2].reshape(2, 8, 1, 8) / 4
        k, q, v = rows[..., :5], rows[..., 1:6], np.roll(rows[..., 2:6], -1, axis=1)
        alpha, eta, theta = (np.full((2, 8, 1), x) for x in (0.9, 0.3, 0.5))
        gamma = np.full((2, 8, 1, 3), 0.25)
        state = np.zeros((2, 1, 5, 4)), np.zeros((2, 1, 5, 4)), np.zeros((2, 2, 1, 5)), np.zeros((2, 2, 1, 4))
        tensors = q, k, v, alpha, eta, theta, gamma, *state
        modes = "l2", optimizer, True, False, clip
        return {f"digits, chunks of {size}": (*tensors, size, *modes) for size in chunk_sizes}

    return load


def layers_of_digits() -> dict[str, tuple[Any, ...]]:
    """The same rows for a memory of two layers, whose weights are pixels of a third digit."""
    if not _digits.available():
        return {}
    rows, weights = _digits.digits()[:2].reshape(2, 8, 1, 8) / 4, _digits.digits()[2:4] / 4
    q, k, v = rows[..., 1:5], rows[..., :4], np.roll(rows[..., 2:6], -1, axis=1)
    gates = (np.full((2, 8, 1), x) for x in (0.9, 0.3, 0.5))
    w1, w2 = weights[:, 20:32].reshape(2, 1, 4, 3), weights[:, 30:42].reshape(2, 1, 3, 4)
    state = w1, w2, 0.1 * w1, 0.1 * w2, np.zeros((2, 2, 1, 4)), np.zeros((2, 2, 1, 4))
    return {"digits, chunks of 3": (q, k, v, *gates, np.full((2, 8, 1, 3), 0.25), *state, 3, "gd", True, False)}


def muon_of_torch(g: Any, coefficients: Any, eps: float) -> Any:
    """torch's, matrix by matrix. It divides a bfloat16 argument in place, so it is given a copy."""
    import torch
    from torch.optim._muon import _zeropower_via_newtonschulz

    row = coefficients[0] if coefficients else (0.0, 0.0, 0.0)
    flat = g.reshape(-1, *g.shape[-2:]) if g.numel() else []
    found = [_zeropower_via_newtonschulz(m.clone(), tuple(row), len(coefficients), eps) for m in flat]
    return torch.stack(found).reshape(g.shape) if found else torch.empty_like(g)


PAIRS = Implementation(
    "trueness, tiles of two",
    lambda: partial(fast.omega, tile=2),
    claims=frozenset({"gradient"}),
    dtypes=("float32",),
    only="what it shows is that the size of a tile changes nothing",
)


# -- declarations -----------------------------------------------------------------------------------------------------


def ours(name: str, *claims: str, **fields: Any) -> Implementation:
    return Implementation("trueness", lambda: getattr(fast, name), claims=frozenset(claims), **fields)


def omega(name: str, optimizers: tuple[str, ...], clips: Any, *more: Implementation, **fields: Any) -> Formula:
    """The Omega rule with these optimisers."""
    return Formula(
        name=f"atlas_memory.{name}",
        reference=true.omega,
        vjp=true.omega_vjp,
        equation="S_t = θ_t S_{t−1} + i_t g_t,  M_t = α_t M_{t−1} − w_t U_t,  o_t = q_tᵀ M_t",
        source=f"{ATLAS} eq. 9, 15-16, 32-33",
        policies=CHUNKS,
        arguments=(
            drawn("q", *TOKEN, "P"),
            drawn("k", *TOKEN, "P"),
            drawn("v", *TOKEN, "V"),
            *GATES,
            drawn("memory", "B", "H", "P", "V"),
            drawn("momentum", "B", "H", "P", "V"),
            drawn("k_window", "B", before, "H", "P"),
            drawn("v_window", "B", before, "H", "V"),
            Scalar("chunk_size", MODES["chunk_size"], far=(16,)),
            Scalar("objective", MODES["objective"]),
            Scalar("optimizer", st.sampled_from(optimizers)),
            Scalar("lr_inside_momentum", MODES["lr_inside_momentum"]),
            Scalar("read_before_update", MODES["read_before_update"]),
            Scalar("clip", clips),
        ),
        implementations=(ours("omega", "gradient", "autocast"), *more),
        reduction=longest("P"),
        **fields,
    )


def omega_mlp(name: str, optimizers: tuple[str, ...], **fields: Any) -> Formula:
    """A memory of two layers with these optimisers."""
    return Formula(
        name=f"atlas_memory.{name}",
        reference=true.omega_mlp,
        vjp=true.omega_mlp_vjp,
        equation="S_t = θ_t S_{t−1} + i_t g_t,  W_t = α_t W_{t−1} − w_t U_t,  o_t = q_t + W1 σ(W2 q_t)",
        source=f"{ATLAS} eq. 42",
        policies=CHUNKS,
        arguments=(
            drawn("q", *TOKEN, "V"),
            drawn("k", *TOKEN, "V"),
            drawn("v", *TOKEN, "V"),
            *GATES,
            drawn("w1", "B", "H", "V", "N"),
            drawn("w2", "B", "H", "N", "V"),
            drawn("s1", "B", "H", "V", "N"),
            drawn("s2", "B", "H", "N", "V"),
            drawn("k_window", "B", before, "H", "V"),
            drawn("v_window", "B", before, "H", "V"),
            Scalar("chunk_size", MODES["chunk_size"], far=(16,)),
            Scalar("optimizer", st.sampled_from(optimizers)),
            Scalar("lr_inside_momentum", MODES["lr_inside_momentum"]),
            Scalar("read_before_update", MODES["read_before_update"]),
        ),
        implementations=(ours("omega_mlp", "gradient", "autocast"),),
        reduction=lambda sizes: sizes["V"] + sizes["N"] + sizes["T"] + sizes["c"],
        reach={"V": "with wider layers the weights diverge within three tokens", "T": 9},
        real=layers_of_digits if "gd" in optimizers else None,  # Muon's steps would take most of all checks' time
        **fields,
    )


SAME_LINES = "computed in float32 and rounded once by the very lines that atlas_memory.omega tries in the half formats"
FORMS: dict[str, Any] = {
    "dtypes": ("float64", "float32"),
    "without": dict.fromkeys(("float16", "bfloat16"), SAME_LINES),
}
STATE = (drawn("memory", "B", "H", "P", "V"), drawn("momentum", "B", "H", "P", "V"))
WINDOWS = (drawn("k_window", "B", before, "H", "P"), drawn("v_window", "B", before, "H", "V"))

SEPARABLE = Formula(
    name="atlas_memory.omega_separable",
    reference=true.omega_separable,
    vjp=true.omega_separable_vjp,
    equation="omega with γ_{t,j} = r_t u_{t−j}",
    source=f"{ATLAS} eq. 9, 15",
    policies=CHUNKS,
    arguments=(
        drawn("q", *TOKEN, "P"),
        drawn("k", *TOKEN, "P"),
        drawn("v", *TOKEN, "V"),
        *GATES[:3],
        gate("scale", 0.1, 0.6, *TOKEN),
        gate("source", 0.2, 1.0, *TOKEN),
        *STATE,
        drawn("k_window", "B", "w", "H", "P"),
        drawn("v_window", "B", "w", "H", "V"),
        gate("source_window", 0.2, 1.0, "B", "w", "H"),
        *(
            Scalar(name, MODES[name])
            for name in ("chunk_size", "objective", "lr_inside_momentum", "read_before_update")
        ),
    ),
    implementations=(ours("omega_separable", "gradient", "autocast"),),
    reduction=lambda sizes: sizes["P"] + sizes["T"] + sizes["w"],
    **FORMS,
)
PICARD = Formula(
    name="atlas_memory.omega_picard",
    reference=true.omega_picard,
    vjp=true.omega_picard_vjp,
    equation="M⁰ without gradients;  g^i_t = ∇L_t(M^i_{t−1}),  M^{i+1} with the gradients g^i",
    source="Picard's iteration of Behrouz et al. 2025 (2505.23735) eq. 15",
    policies=CHUNKS,
    arguments=(
        drawn("q", *TOKEN, "P"),
        drawn("k", *TOKEN, "P"),
        drawn("v", *TOKEN, "V"),
        *GATES,
        *STATE,
        *WINDOWS,
        *(Scalar(name, MODES[name]) for name in ("lr_inside_momentum", "read_before_update")),
        Scalar("tile", st.integers(1, 3), far=(16,)),
        Scalar("sweeps", st.integers(0, 2)),
    ),
    implementations=(ours("omega_picard", "gradient", "autocast"),),
    reduction=longest("P"),
    **FORMS,
)

FORMULAS = (
    SEPARABLE,
    PICARD,
    Formula(
        name="atlas_memory.taylor_coefficients",
        reference=true.taylor_coefficients,
        equation="a_i = 1/i!",
        source=f"{ATLAS} eq. 5",
        arguments=(Scalar("degree", st.integers(0, 30)),),
        implementations=(ours("taylor_coefficients", limit="exact"),),
        no_gradient=MADE_ONCE,
        working="float64",
        creates=True,
        dtypes=("float64",),
        without=dict.fromkeys(("float32", "float16", "bfloat16"), "bit for bit in float64; elsewhere its rounding"),
    ),
    Formula(
        name="atlas_memory.window_weights",
        reference=true.window_weights,
        equation="γ_j = exp(−λ j) / Σ_i exp(−λ i)",
        source=f"{ATLAS} eq. 9; λ = 0.1 in the documented project",
        arguments=(Scalar("window", st.integers(1, 40), far=(300,)), Scalar("decay", st.floats(0.0, 2.0))),
        implementations=(ours("window_weights"),),
        no_gradient=MADE_ONCE,
        working="float64",
        creates=True,
        reduction=lambda sizes: sizes["window"],
        real=lambda: {"300 tokens, λ = 0.1": (300, 0.1)},
    ),
    Formula(
        name="atlas_memory.elementwise_features",
        reference=true.elementwise_features,
        vjp=true.elementwise_features_vjp,
        equation="φ(x) = [a_0 1; a_1 x̂; …; a_p x̂^p],  x̂ = min(max(x, −κ), κ)",
        policies={"overflow": "a power may overflow before its coefficient is multiplied to it"},
        source=f"{ATLAS} eq. 5, element by element as the documented project has it",
        arguments=(
            Real("x", dims=("...", "D"), decades=(-2.0, 1.3), spans={"D": (1, 4)}),
            Real("coefficients", dims=("degrees",), decades=(-1.0, 1.0), spans={"degrees": (1, 5)}),
            Scalar("clamp", st.sampled_from((10.0, 2.0, 0.5))),
        ),
        real=lambda: {"130 powers of numbers near ±1": POWERS},
        implementations=(ours("elementwise_features", "gradient", "compile", "autocast"),),
        gradient_reduction=terms("...", "D", "degrees"),
    ),
    Formula(
        name="atlas_memory.tensor_features",
        reference=true.tensor_features,
        vjp=true.tensor_features_vjp,
        equation="φ*(x) = [1; x; x⊗x/√2!; …; x^{⊗p}/√p!]",
        source=f"{ATLAS} eq. 22-23",
        policies={"overflow": "a product that just fits may overflow before its coefficient is multiplied to it"},
        arguments=(
            Real("x", dims=("...", "D"), decades=(-2.0, 0.7), spans={"D": (1, 4)}),
            Scalar("degree", st.integers(0, 4), far=(7,)),
        ),
        implementations=(ours("tensor_features", "gradient", "autocast"),),
        gradient_reduction=lambda sizes: sum(sizes["D"] ** i for i in range(sizes["degree"] + 1)),
    ),
    Formula(
        name="atlas_memory.newton_schulz",
        reference=true.newton_schulz,
        vjp=true.newton_schulz_vjp,
        equation="X = G/(‖G‖_F + ε);  X ← a X + (b A + c A²) X,  A = X Xᵀ",
        source=JORDAN,
        arguments=(
            Real("g", dims=("...", "R", "C"), decades=(-4.0, 1.0), spans={"R": (1, 4), "C": (1, 5)}),
            Made(
                "coefficients",
                make=lambda known, _: STEPS[known["steps"]],
                draws={"steps": st.sampled_from(tuple(STEPS))},
            ),
            Scalar("eps", st.sampled_from((1e-8, 1e-7))),
        ),
        implementations=(
            ours("newton_schulz", "gradient", "autocast"),
            Implementation(
                "torch.optim.Muon",
                lambda: muon_of_torch,
                limit="eager",
                dtypes=("bfloat16",),
                only="it computes in bfloat16 whatever it is given",
                origin="third_party",
                convention="MEM-08h",
            ),
        ),
        real=matrices,
        reduction=terms("R", "C"),
    ),
    Formula(
        name="atlas_memory.newton_schulz_lowrank",
        reference=true.newton_schulz_lowrank,
        vjp=true.newton_schulz_lowrank_vjp,
        equation="NS(Xᵀ Y) = Q_x NS(R_x R_yᵀ) Q_yᵀ",
        source=JORDAN,
        arguments=(
            Real("x", dims=("...", "r", "P"), decades=(-2.0, 1.0), spans={"r": (1, 3), "P": (1, 8)}),
            Real("y", dims=("...", "r", "V"), decades=(-2.0, 1.0), spans={"V": (1, 8)}),
            Made(
                "coefficients",
                make=lambda known, _: STEPS[known["steps"]],
                draws={"steps": st.sampled_from(tuple(STEPS))},
            ),
            Scalar("eps", st.sampled_from((1e-8, 1e-7))),
        ),
        implementations=(ours("newton_schulz_lowrank", "gradient", "autocast"),),
        real=thin_matrices,
        reduction=terms("r", "P", "V"),
    ),
    omega("omega", ("gd",), st.none(), PAIRS, real=rows_of_digits("gd", None, 3, 1)),
    cuda.small(omega("omega_kernel", ("gd",), st.none())),
    omega("omega_clip", ("gd",), st.sampled_from((0.1, 0.5)), real=rows_of_digits("gd", 0.1, 3), **WIDE),
    omega("omega_muon", ("muon", "muon_chunk"), st.none(), real=rows_of_digits("muon", None, 3), **ONE_HALF),
    omega(
        "omega_norm_ema", ("norm_ema",), st.sampled_from((None, 0.5)), real=rows_of_digits("norm_ema", None, 3), **WIDE
    ),
    Formula(
        name="atlas_memory.omega_varlen",
        reference=true.omega_varlen,
        vjp=true.omega_varlen_vjp,
        equation="o, M_n, S_n = omega of tokens n_i … n_{i+1} − 1, for every sequence i by itself",
        source=f"{ATLAS} eq. 9, 15-16, 32-33",
        policies=CHUNKS,
        arguments=(
            *(drawn(name, one, "L", "H", width) for name, width in (("q", "P"), ("k", "P"), ("v", "V"))),
            *ONE_ROW,
            drawn("memory", "N", "H", "P", "V"),
            drawn("momentum", "N", "H", "P", "V"),
            drawn("k_window", "N", before, "H", "P"),
            drawn("v_window", "N", before, "H", "V"),
            Made("cu_seqlens", make=ends, array=True, spans={"L": SPANS["L"], "N": SPANS["N"]}),
            Scalar("chunk_size", MODES["chunk_size"], far=(16,)),
            Scalar("objective", MODES["objective"]),
            Scalar("optimizer", st.sampled_from(("gd", "muon", "muon_chunk", "norm_ema"))),
            Scalar("lr_inside_momentum", MODES["lr_inside_momentum"]),
            Scalar("read_before_update", MODES["read_before_update"]),
            Scalar("clip", st.sampled_from((None, 0.5))),
        ),
        implementations=(ours("omega_varlen", "gradient"),),
        reduction=lambda sizes: sizes["P"] + sizes["L"] + sizes["c"],
        **WIDE,
    ),
    omega_mlp("omega_mlp", ("gd",), **ONE_HALF),
    omega_mlp("omega_mlp_muon", ("muon", "muon_chunk"), **ONE),
    Formula(
        name="atlas_memory.atlas_attention",
        reference=true.atlas_attention,
        vjp=true.atlas_attention_vjp,
        equation="o = omega(φ(q), φ(k), v, …) from an empty memory,  φ(x) = elementwise_features(x)/√P",
        source=f"{ATLAS} eq. 9, 29, 32-33",
        policies=CHUNKS,
        arguments=(
            drawn("q", *TOKEN, "D"),
            drawn("k", *TOKEN, "D"),
            drawn("v", *TOKEN, "V"),
            *GATES,
            Gate("coefficients", dims=("degrees",), spans={"degrees": (1, 4)}, low=0.2, high=1.5),
            Scalar("clamp", st.sampled_from((10.0, 0.5))),
            Scalar("chunk_size", MODES["chunk_size"], far=(16,)),
            Scalar("objective", MODES["objective"]),
            Scalar("optimizer", st.sampled_from(("gd",))),
            Scalar("lr_inside_momentum", MODES["lr_inside_momentum"]),
            Scalar("read_before_update", st.sampled_from((False,))),
            Scalar("clip", st.none()),
        ),
        implementations=(ours("atlas_attention", "gradient", "autocast"),),
        reduction=lambda sizes: sizes["D"] * sizes["degrees"] + sizes["T"] + sizes["c"],
        gradient_reduction=terms("B", "T", "H", "D", "degrees"),
    ),
)
