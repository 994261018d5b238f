"""Known wrong variants of the family fisher: the FastSB-OT changelog but FSB-04 (diffusion), -05 and -06 (filters)."""

from __future__ import annotations

import numpy as np

from trueness.reference import fisher as true
from trueness.regressions._lib.commands import show
from trueness.tools.spec.model import UNDOCUMENTED, Bug

DOCUMENT = "FastSB-OT kernels.py changelog, 2025-11-28"
MARTENS = "Amari 1998; Martens 2020 (1412.1193) §11"
SCORES = np.array([0.1, 10.0, -3.0, 0.0, 2.0, -0.003])


def absolute_score(score, alpha):
    """|s| + ε(ᾱ)"""
    return np.abs(score) + true.floor(alpha)


def swapped_floor(score, alpha):
    """s² + 1e-4 + 1e-3 ᾱ: the floor grows where it should fall"""
    return score * score + (1e-4 + 1e-3 * alpha)


def constant_floor(score, alpha):
    """s² + 1e-4: the noise level is ignored"""
    return score * score + 1e-4 + 0 * alpha


def no_floor(score, alpha):
    """s²: not positive at s = 0"""
    return score * score + 0 * alpha


def time_for_alpha(score, alpha):
    """The silent fallback: a caller who has t but not ᾱ gets 1 − t. For the linear schedule at t = 0.47, 1 − t is 0.53
    where ᾱ is 0.105; the same error of 0.4246 is applied to the ᾱ given here."""
    return true.diagonal(score, np.minimum(alpha + 0.4246, 1))


def tail_dropped(score, alpha):
    """A grid of n // BLOCK programs: the elements after the last full block are never written"""
    flat = true.diagonal(score, alpha).reshape(-1)
    block = 512 if flat.size > 512 else max(flat.size - 1, 1)
    written = np.arange(flat.size) < flat.size // block * block
    return np.where(written, flat, 0.0).reshape(np.shape(score))


def hidden_smoothing(score, alpha):
    """4-D input is convolved with [1 2 1]ᵀ[1 2 1]/16, zero padded, without being asked"""
    fisher = true.diagonal(score, alpha)
    return true.smooth(fisher, "zeros") if np.ndim(score) == 4 else fisher


def absolute_step(score, alpha):
    """s / (|s| + ε)"""
    return score / absolute_score(score, alpha)


def swapped_step(score, alpha):
    """s / (s² + 1e-4 + 1e-3 ᾱ)"""
    return score / swapped_floor(score, alpha)


def twice_damped_step(score, alpha):
    """s / (s² + ε + 1e-6): a second floor inside the step"""
    return score / (true.diagonal(score, alpha) + 1e-6)


def absolute_drift(x, score, alpha, a, b):
    """a x + b s / (|s| + ε)"""
    return a * x + b * absolute_step(score, alpha)


def downhill_drift(x, score, alpha, a, b):
    """a x − b s/F: the step goes down the density"""
    return true.drift_step(x, score, alpha, a, -b)


def drift_times_a(x, score, alpha, a, b):
    """a (x + b s/F): the step is multiplied as well"""
    return true.drift_step(x, score, alpha, a, a * b)


def floors_along_the_last_axis(score, alpha):
    """Numbers of the samples that meet the columns, as (B,) beside (..., B) broadcasts"""
    if np.ndim(score) < 2:
        return true.diagonal(score, alpha)
    columns = np.arange(np.shape(score)[-1]) % len(alpha)
    return score * score + true.floor(alpha)[columns]


def first_sample_for_all(x, score, alpha, a, b):
    """ᾱ, a and b of the first sample for every sample, as a number read from a batch of times"""
    return true.drift_step(x, score, alpha[:1], a[:1], b[:1])


def unpadded_average(fisher, padding):
    """Zero padding whatever was asked"""
    return true.smooth(fisher, "zeros")


def unnormalised_taps(fisher, padding):
    """[1 2 1]ᵀ[1 2 1]/9: divided by the number of taps and not by their sum"""
    return true.smooth(fisher, padding) * 16 / 9


BUGS = (
    Bug(
        id="FSB-01",
        formula="fisher.diagonal",
        title="|score| where the Fisher information has score²",
        document=DOCUMENT,
        claim="the diagonal used |score|; score² is right",
        verdict="real bug, right fix",
        source=MARTENS,
        finding="E|s| is not the information: for N(μ, 2²) it is 0.399 where 1/σ² is 0.25. |s| is convex, not "
        "'non-convex' as the changelog says; what it lacks is smoothness at 0.",
        evidence=show("FSB-01"),
        variant=absolute_score,
        discriminating_input=(SCORES, 0.5),
    ),
    Bug(
        id="FSB-02",
        formula="fisher.diagonal",
        title="ᾱ where the floor has 1 − ᾱ",
        document=DOCUMENT,
        claim="ε must be 1e-4 + 1e-3 (1 − ᾱ)",
        verdict="real bug, right fix",
        source=DOCUMENT,
        finding="Every test of the changelog uses ᾱ = 0.5, where both floors are 6e-4: the swap was invisible to it.",
        evidence=show("FSB-02"),
        variant=swapped_floor,
        discriminating_input=(SCORES / 1000, 0.0),
    ),
    Bug(
        id="FSB-02b",
        formula="fisher.diagonal",
        title="a constant floor",
        document=UNDOCUMENTED,
        claim="ε must depend on ᾱ",
        verdict="no bug",
        source=DOCUMENT,
        finding="At ᾱ = 1 the constant is right; at ᾱ = 0 it is eleven times too small.",
        evidence=show("FSB-02b"),
        variant=constant_floor,
        discriminating_input=(SCORES / 1000, 0.0),
    ),
    Bug(
        id="FSB-03",
        formula="fisher.diagonal",
        title="1 − t in place of ᾱ, silently",
        document=DOCUMENT,
        claim="the fallback 1 − t is only correct for linear noise schedules, so it warns once",
        verdict="real bug, wrong fix",
        source="Ho et al. 2020 (2006.11239) §4; Nichol & Dhariwal 2021 (2102.09672) eq. 17",
        finding="The linear schedule is the worse case: |ᾱ − (1 − t)| reaches 0.4246 there and 0.107 for the cosine. "
        "alpha=None is refused here; alpha_from_time(t) keeps the fallback under a name that says so, and warns.",
        evidence=show("FSB-03"),
        variant=time_for_alpha,
        discriminating_input=(SCORES / 1000, 0.1054),
    ),
    Bug(
        id="FSB-07a",
        formula="fisher.diagonal",
        title="the elements after the last full block are dropped",
        document=DOCUMENT,
        claim="the Triton kernel agrees with the PyTorch path",
        verdict="real bug, right fix",
        source="the formula is elementwise",
        finding="A grid of n // BLOCK programs leaves n mod BLOCK elements unwritten; sizes that divide hide it.",
        evidence=show("FSB-07a"),
        variant=tail_dropped,
        discriminating_input=(np.linspace(-2, 2, 513), 0.5),
    ),
    Bug(
        id="FSB-07b",
        formula="",
        title="the Triton kernel took |score| while the PyTorch path squared",
        document=DOCUMENT,
        claim="Triton kernel uses score² (correct)",
        verdict="real bug, wrong fix",
        source=MARTENS,
        finding="At the fix commit the kernel computed |s| + ε: the fix created the inconsistency it claims to remove. "
        "The wrong variant is FSB-01's, reached by another path.",
        evidence=show("FSB-07b"),
    ),
    Bug(
        id="FSB-08",
        formula="fisher.diagonal",
        title="4-D input is smoothed without being asked",
        document=DOCUMENT,
        claim="fisher == s² + 6e-4 on (1, 3, 64, 64)",
        verdict="real bug, wrong fix",
        source="3×3 binomial filter",
        finding="Images get a different formula than vectors, and on one code path only. Here smoothing is its own "
        "function with the border as an argument.",
        evidence=show("FSB-08"),
        variant=hidden_smoothing,
        discriminating_input=(np.arange(1.0, 33.0).reshape(1, 2, 4, 4) / 8, 0.5),
    ),
    Bug(
        id="FSB-08b",
        formula="fisher.smooth",
        title="zero padding whatever padding was asked",
        document=DOCUMENT,
        claim="the border does not matter",
        verdict="convention",
        source="3×3 binomial filter",
        finding="With zero padding a constant 1 becomes 9/16 in the corners and 3/4 on the edges.",
        evidence=show("FSB-08b"),
        variant=unpadded_average,
        discriminating_input=(np.ones((4, 5)), "replicate"),
    ),
    Bug(
        id="FSB-08c",
        formula="fisher.smooth",
        title="taps divided by their number and not by their sum",
        document=UNDOCUMENTED,
        claim="the filter is an average",
        verdict="no bug",
        source="3×3 binomial filter",
        finding="[1 2 1]ᵀ[1 2 1] sums to 16; dividing by 9 amplifies by 16/9.",
        evidence=show("FSB-08c"),
        variant=unnormalised_taps,
        discriminating_input=(np.ones((4, 5)), "circular"),
    ),
    Bug(
        id="FSB-09",
        formula="fisher.diagonal",
        title="no floor: zero where the score is zero",
        document=DOCUMENT,
        claim="assert (fisher >= 0): must be positive",
        verdict="real bug, wrong fix",
        source=MARTENS,
        finding="≥ 0 accepts zero, and accepts |s| + ε as well. F ≥ ε > 0 is the law.",
        evidence=show("FSB-09"),
        variant=no_floor,
        discriminating_input=(SCORES / 1000, 0.5),
    ),
    Bug(
        id="FSB-10",
        formula="",
        title="'4/4 fixed' and 'tests recommended: 4'",
        document=DOCUMENT,
        claim="all four fixes are verified by the tests listed",
        verdict="claim false",
        source="the changelog's own tests",
        finding="The test of fix 1 evaluates |s| = 1 only, where |s| and s² are equal: it passes with the bug as well.",
        evidence=show("FSB-10"),
    ),
    Bug(
        id="FSB-01b",
        formula="fisher.preconditioned_step",
        title="a step preconditioned with |score|",
        document=DOCUMENT,
        claim="|score| gives better stability",
        verdict="real bug, right fix",
        source="Amari 1998 eq. 3",
        finding="s/(|s| + ε) is below 1 everywhere: the sign of s, not a natural gradient.",
        evidence=show("FSB-01b"),
        variant=absolute_step,
        discriminating_input=(SCORES, 0.5),
    ),
    Bug(
        id="FSB-02c",
        formula="fisher.preconditioned_step",
        title="ᾱ where the step's floor has 1 − ᾱ",
        document=DOCUMENT,
        claim="ε must be 1e-4 + 1e-3 (1 − ᾱ)",
        verdict="real bug, right fix",
        source=DOCUMENT,
        finding="At ᾱ = 0 the small steps are eleven times too long.",
        evidence=show("FSB-02c"),
        variant=swapped_step,
        discriminating_input=(SCORES / 1000, 0.0),
    ),
    Bug(
        id="FSB-01c",
        formula="fisher.preconditioned_step",
        title="a second floor of 1e-6 inside the step",
        document=DOCUMENT,
        claim="s/(F + 1e-6)",
        verdict="convention",
        source="Amari 1998 eq. 3",
        finding="F has its floor already; 1e-6 more changes the longest steps by 1 %.",
        evidence=show("FSB-01c"),
        variant=twice_damped_step,
        discriminating_input=(SCORES / 1000, 1.0),
        invisible={"bfloat16": "a change of 1 % is below the bound of a format with u = 0.4 %"},
    ),
    Bug(
        id="FSB-01d",
        formula="fisher.drift_step",
        title="a drift preconditioned with |score|",
        document=UNDOCUMENTED,
        claim="|score| gives better stability",
        verdict="no bug",
        source="Amari 1998 eq. 3",
        finding="As in the step alone: what is added is below b everywhere.",
        evidence=show("FSB-01d"),
        variant=absolute_drift,
        discriminating_input=(SCORES / 3, SCORES, 0.5, 0.9, 0.1),
    ),
    Bug(
        id="FSB-01e",
        formula="fisher.drift_step",
        title="a drift that walks down the density",
        document=UNDOCUMENTED,
        claim="x' = a x − b s/F",
        verdict="no bug",
        source="the score is the gradient of the log density: + goes up",
        finding="The sign is b's to give, not the formula's.",
        evidence=show("FSB-01e"),
        variant=downhill_drift,
        discriminating_input=(SCORES / 3, SCORES, 0.5, 0.9, 0.1),
    ),
    Bug(
        id="FSB-01f",
        formula="fisher.drift_step",
        title="a drift whose step is multiplied by a as well",
        document=UNDOCUMENTED,
        claim="x' = a (x + b s/F)",
        verdict="no bug",
        source="explicit Euler step",
        finding="The same where a = 1; otherwise the step is too short by a.",
        evidence=show("FSB-01f"),
        variant=drift_times_a,
        discriminating_input=(SCORES / 3, SCORES, 0.5, 0.9, 0.1),
    ),
    Bug(
        id="FSB-02d",
        formula="fisher.diagonal_by_sample",
        title="ᾱ of the samples along the last axis",
        document=UNDOCUMENTED,
        claim="(B,) broadcasts to (B, ...)",
        verdict="no bug",
        source="broadcasting aligns the last axes",
        finding="(B,) beside (B, n) meets the columns: silent where n is B, and an error elsewhere.",
        evidence=show("FSB-02d"),
        variant=floors_along_the_last_axis,
        discriminating_input=(np.outer([1.0, 2.0, 3.0], SCORES[:3]) / 1000, np.array([0.0, 0.5, 1.0])),
    ),
    Bug(
        id="FSB-02e",
        formula="fisher.drift_step_by_sample",
        title="the noise level of the first sample for the whole batch",
        document=UNDOCUMENTED,
        claim="one ᾱ for a batch",
        verdict="no bug",
        source=DOCUMENT,
        finding="Right while all samples are at one time, as in sampling; wrong in training, where times are drawn.",
        evidence=show("FSB-02e"),
        variant=first_sample_for_all,
        discriminating_input=(
            np.outer([1.0, 2.0, 3.0], SCORES),
            np.outer([1.0, 2.0, 3.0], SCORES) / 1000,
            np.array([0.0, 0.5, 1.0]),
            np.array([1.0, 0.9, 0.8]),
            np.array([0.1, 0.2, 0.4]),
        ),
    ),
)
