"""Why a mutant may survive: reasons given by hand, each for a change and the formulas that keep it.

A reason that is not needed any more is an error, and so is a survivor without one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trueness.tools.mutants.record import Found, Row, Summary

SHIFT = (
    "exp(z − m)/Σ exp(z − m) does not depend on m. A mutant computes in float64, where exp overflows beyond 709: in "
    "float32 it does beyond 88, and the cases of large magnitudes reject a program without its maximum"
)
TRANSPOSED = "NS(Gᵀ)ᵀ = NS(G): the transposition saves work, and the difference is rounding"
SINGLE = (
    "a matrix of one element is normalised to ±1 but for ε: its derivative is what cancellation leaves of 0, and B as "
    "wide as the rounding of the norm. ρ knows the rounding of the input alone"
)
STATE = "the checks give every call its state; that zeros are taken where there is none is a law of the family"
LAST_STEP = "at k = T the cosine is cos²(π/2) = 3.7e-33 in place of 0: it shows where f_∞ = 0 alone"

TALL = "g.shape[-2] > g.shape[-1]"
LARGEST = "np.max(logits, axis=-1, keepdims=True)"
SOURCES = "omega_separable: np.zeros((len(q), c - 1, q.shape[2])) -> np."
OTHERS = (
    *("c + 1, q.shape[2]", "1 - c, q.shape[2]", "c, q.shape[2]", "-1, q.shape[2]", "c - 2, q.shape[2]"),
    *("c - 0, q.shape[2]", "c - -1, q.shape[2]"),
    *(f"c - 1, q.shape[{axis}]" for axis in (3, 1, 4, -2)),
)
LOGITS = f"token_losses_vjp: np.exp(logits - {LARGEST}) -> "
CUBE = "newton_schulz_vjp: np.where(n > 0, n, 1.0) * (n + eps) * (n + eps) -> np.where(n > 0, n, 1.0) * "
NS, LOWRANK = "atlas_memory.newton_schulz", "atlas_memory.newton_schulz_lowrank"
LOSSES = ("metrics.token_losses", "metrics.cross_entropy", "metrics.perplexity")
PULLED = tuple(f"{name}, gradient" for name in LOSSES)


def tall(function: str) -> tuple[str, ...]:
    """The changes of ``function`` by which another side of a matrix is transposed, or none."""
    others = ("g.shape[-2] < g.shape[-1]", "g.shape[-1] > g.shape[-1]", "g.shape[-2] > g.shape[-2]")
    return (f"{function}: if {TALL}: … -> if False: …", *(f"{function}: {TALL} -> {other}" for other in others))


GIVEN: Sequence[tuple[str, Sequence[str], Sequence[str]]] = (
    (
        SHIFT,
        ("attention.diffit_resblock",),
        ("_softmax: np.max(scores, -1, keepdims=True) -> np.min(scores, -1, keepdims=True)",),
    ),
    (
        SHIFT,
        LOSSES,
        (
            f"token_losses: {LARGEST} -> np.min(logits, axis=-1, keepdims=True)",
            f"token_losses: {LARGEST} -> np.max(logits, keepdims=True)",
        ),
    ),
    (
        SHIFT,
        PULLED,
        (
            f"{LOGITS}np.exp(logits + {LARGEST})",
            f"{LOGITS}np.exp(logits)",
            f"{LOGITS}np.exp(logits - np.min(logits, axis=-1, keepdims=True))",
            f"{LOGITS}np.exp(logits - np.max(logits, keepdims=True))",
        ),
    ),
    (TRANSPOSED, (NS, LOWRANK), tall("newton_schulz")),
    (TRANSPOSED, (f"{LOWRANK}, gradient",), tall("newton_schulz_vjp")),
    (SINGLE, (LOWRANK,), ("_iterates: [g / (_norm(g) + eps)] -> [g / (_norm(g) - eps)]",)),
    (
        SINGLE,
        (f"{LOWRANK}, gradient",),
        (
            "newton_schulz_vjp: pulled / (n + eps) -> pulled / (n - eps)",
            *(
                f"{CUBE}{x}"
                for x in ("(n - eps) * (n + eps)", "n * (n + eps)", "(n + eps) * (n - eps)", "(n + eps) * n")
            ),
        ),
    ),
    (
        STATE,
        ("atlas_memory.omega_separable",),
        (
            "omega: _zero_state(tokens, sequences) -> _zero_state(sequences, tokens)",
            f"{SOURCES}ones((len(q), c - 1, q.shape[2]))",
            *(f"{SOURCES}zeros((len(q), {other}))" for other in OTHERS),
        ),
    ),
    (
        STATE,
        ("atlas_memory.omega_picard",),
        ("omega_picard: _zero_state((q, k, v, gamma), len(q)) -> _zero_state(len(q), (q, k, v, gamma))",),
    ),
    (
        LAST_STEP,
        ("training.warmup_cosine_factor",),
        ("warmup_cosine_factor: step < total_steps -> step <= total_steps",),
    ),
)
"""(reason, formulas, changes); ``, gradient`` after a formula: its vector-Jacobian product"""
REASONS: Mapping[tuple[str, str], str] = {
    (formula, change): reason for reason, formulas, changes in GIVEN for formula in formulas for change in changes
}


def reason_of(row: Row, found: Found) -> str:
    return REASONS.get((row.name, found.key), "")


def problems(summary: Summary, given: Mapping[tuple[str, str], str] = REASONS) -> list[str]:
    """Survivors without a reason, and reasons of the formulas judged that belong to no survivor."""
    survivors = {(row.name, f.key): f for row, f in summary.survivors()}
    judged = {row.name for row in summary.rows}
    without = {place: f for place, f in survivors.items() if place not in given}
    stale = [place for place in given if place[0] in judged and place not in survivors]
    missing = [f"{name} · {f}: survived, {f.reason}" for (name, _), f in without.items()]
    return missing + [f"{name} · {change}: the reason is stale" for name, change in stale]
