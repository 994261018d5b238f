"""Checks of the reference: ball certificate, complex-step certificate of its vjp, and the power of its generator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from trueness.tools.arithmetic import complex_step
from trueness.tools.arithmetic.bounds import LIMITS, bounds, outputs
from trueness.tools.arithmetic.formats import precision
from trueness.tools.checks.core import Failed, check, search
from trueness.tools.checks.detection import detections_of_sabotage, summary, would_pass
from trueness.tools.checks.diagnosis import detections
from trueness.tools.checks.gradients import differentiable
from trueness.tools.run.trial import Trial
from trueness.tools.spec.model import Case, Verdict

REFERENCE = {"frameworks": ("numpy",), "claim": "reference"}
FEW = 8  # balls are slow: cases per certificate
DRAWN = 4 * FEW  # of which as many are used
SMALL = 64  # and so are large arrays


def small_cases(trial: Trial, body: Callable[[Case, list[Any]], None]) -> int:
    """Run ``body`` on FEW of the drawn cases of at most SMALL elements per argument, without ties and poles."""
    count = 0

    def one(case: Case) -> None:
        nonlocal count
        if count == FEW or not case.plain:
            return
        values = trial.arguments_f64(case)
        sizes = [np.size(v) for a, v in zip(trial.formula.arguments, values, strict=True) if a.real]
        if max(sizes, default=0) <= SMALL:
            count += 1
            body(case, values)

    search(replace(trial, examples=DRAWN), one)
    if not count:
        raise Failed(Case(), f"none of {DRAWN} drawn cases had at most {SMALL} elements per argument.")
    return count


@check("ball certificate", "the float64 reference is certified by ball arithmetic", **REFERENCE)
def ball_certificate(trial: Trial) -> Verdict:
    """(1) the 53-bit enclosure holds the float64 value; (2) the true value, a ball at 256 bits, rounds to the same
    float32: |float64 − truth| ≤ u₃₂ |y| / 2. The message gives the digits certified and the widest enclosure."""
    if trial.formula.ball:
        return trial.skipped("ball certificate", trial.formula.ball)
    from trueness.tools.arithmetic.balls import enclose  # python-flint, which a machine with a GPU need not have

    fmt = precision("float32")
    digits, widest = [], [0.0]

    def body(case: Case, values: list[Any]) -> None:
        found = outputs(trial.formula.reference(*values))
        loose = enclose(trial.formula.reference, values, bits=53, widen=2.0**-53)
        exact = enclose(trial.formula.reference, values, bits=256)
        outer: Any
        truth: Any
        for y, outer, truth in zip(found, loose, exact, strict=True):
            if truth.dtype.kind in "biu":  # counts and masks carry no rounding: they are the same or wrong
                if not np.array_equal(y, truth):
                    raise Failed(case, f"balls give {truth}, float64 gives {y}.")
                continue
            for at in np.ndindex(y.shape):
                error = float(abs(truth[at] - y[at]).upper())
                scale = float(abs(truth[at]).upper())
                if not outer[at].contains(truth[at] * 0 + y[at]):
                    raise Failed(case, f"the enclosure {outer[at]} does not hold the float64 value {y[at]!r}.")
                if not error <= fmt.u * scale / 2 + fmt.eta:  # so that NaN fails
                    raise Failed(
                        case, f"float64 gives {y[at]!r}, the true value is {truth[at]}: too few digits for float32."
                    )
                digits.append(-np.log10(error / scale) if error and scale else 17.0)
                widest.append(float(outer[at].rad()) / scale if scale else 0.0)

    count = small_cases(trial, body)
    message = "integers: nothing is rounded"
    if digits:
        message = f"{min(digits):.1f} digits certified, widest enclosure {max(widest):.1e}"
    return trial.passed("ball certificate", cases=count, message=message)


@check("complex-step certificate", "the complex step proves the reference's vjp (and its derivative)", **REFERENCE)
def complex_step_certificate(trial: Trial) -> Verdict:
    """⟨g, J v⟩ by complex step of the reference equals ⟨vjp(g), v⟩ for random g, v, within the float64 bound."""
    formula = trial.formula
    if formula.vjp is None:
        return trial.skipped("complex-step certificate", formula.no_gradient)
    worst = [0.0]

    def body(case: Case, values: list[Any]) -> None:
        generator = np.random.default_rng([case.seed, 3000])
        wanted = differentiable(trial)
        g = [generator.standard_normal(y.shape) for y in outputs(formula.reference(*values))]
        T = transposition(formula.reference, formula.vjp, values, g, wanted, generator)  # type: ignore[arg-type]
        if formula.second is not None:
            h = [generator.standard_normal(np.shape(values[i])) for i in wanted]
            n = len(g)
            both = [*range(n), *[n + i for i in wanted]]
            T = max(T, transposition(formula.vjp, formula.second, [*g, *values], h, both, generator))  # type: ignore[arg-type]
        worst.append(T)
        if T > LIMITS["eager"]:
            raise Failed(case, f"⟨g, J v⟩ and ⟨vjp(g), v⟩ differ by T = {T:.3g}: the vjp is not the derivative.")

    count = small_cases(trial, body)
    return trial.passed("complex-step certificate", cases=count, T=max(worst), limit=LIMITS["eager"])


def transposition(
    function: Callable[..., Any],
    vjp: Callable[..., Any],
    arguments: Sequence[Any],
    g: Sequence[np.ndarray],
    wanted: Sequence[int],
    generator: np.random.Generator,
) -> float:
    """T of ⟨g, J v⟩ − ⟨vjp(g), v⟩ in float64, both sides with their own bound."""
    directions: list[Any] = [None] * len(arguments)
    for i in wanted:
        directions[i] = generator.standard_normal(np.shape(arguments[i]))

    def forward(*moved: Any) -> Any:
        return sum(np.sum(a * b) for a, b in zip(g, _tuple(function(*moved)), strict=True))

    def backward(*moved: Any) -> Any:
        pulled = _tuple(vjp(*moved[: len(g)], *moved[len(g) :]))
        return sum(np.sum(a * directions[i]) for i, a in zip(wanted, pulled, strict=True))

    left = float(complex_step.directional_derivative(forward, arguments, directions)[0])
    fmt = precision("float64")
    everything = [*g, *arguments]
    units = [2.0**-53] * len(everything)
    n = sum(int(np.size(arguments[i])) for i in wanted)
    right = bounds(backward, everything, units, fmt, max(n, 1))[0]
    # the terms of the inner product may cancel: each carries its own rounding
    terms = [np.abs(a * directions[i]) for i, a in zip(wanted, _tuple(vjp(*everything)), strict=True)]
    rounding = fmt.u * np.sqrt(n) * float(sum(t.sum() for t in terms))
    off, allowed = float(abs(left - right.y)), float(2 * right.B + rounding)
    if not np.isfinite(off):
        return np.inf
    return off / allowed if allowed else (0.0 if off == 0 else np.inf)


def _tuple(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)


TRIVIAL: dict[str, Callable[[list[np.ndarray], list[Any]], list[np.ndarray]]] = {
    "zeros": lambda truth, values: [np.zeros_like(y) for y in truth],
    "the mean": lambda truth, values: [np.full_like(y, y.mean()) for y in truth],
    "a copy of an input": lambda truth, values: [copy_of(y, values) for y in truth],
}


def copy_of(y: np.ndarray, values: list[Any]) -> np.ndarray:
    same = [np.asarray(v, dtype=float) for v in values if isinstance(v, np.ndarray) and v.shape == y.shape]
    return same[0] if same else np.zeros_like(y)


@check(
    "power",
    "the cases of a run can tell right from wrong: zeros, the mean, an input, every sabotage and every bug fail",
    **REFERENCE,
)
def power(trial: Trial) -> Verdict:
    """Zeros must fail on every case; the mean and a copy of an input on some case of the run; every sabotage on some
    case, unless it changes nothing (tools/checks/detection.py). Bugs: see known_bugs."""
    detected = dict.fromkeys(TRIVIAL, 0)
    eager, largest = LIMITS["eager"], 0
    drawn: list[Case] = []

    def body(case: Case) -> None:
        nonlocal largest
        values = trial.arguments_f64(case)
        truth = trial.truth(values)
        y = [b.y for b in truth]
        if not sum(a.size for a in y):
            return
        drawn.append(case)
        largest = max(largest, *(a.size for a in y))
        for name, answer in TRIVIAL.items():
            reading = trial.judge(answer(y, values), truth)
            detected[name] += reading.T > eager
            if name == "zeros" and case.plain and reading.T <= eager and any(a.any() for a in y):
                raise Failed(
                    case, f"zeros would pass this case (T = {reading.T:.3g}): the generator has no power.", reading
                )

    count = search(trial, body)
    if largest == 1:  # the mean of one number is that number
        detected.pop("the mean")
    for name, n in detected.items():
        if not n:
            return trial.failed("power", cases=count, message=f"{name} would pass every case of the generator.")
    message = ", ".join(f"{k} {n}/{count}" for k, n in detected.items())
    if trial.replay is not None:
        return trial.passed("power", cases=count, message=message)
    found = detections_of_sabotage(trial, drawn)
    accepted = [d for d in found if d.outcome == "accepted"]
    if accepted:
        fields = {"T": accepted[0].T, "limit": LIMITS["fused"]} if accepted[0].case else {}
        return trial.failed("power", cases=count, message=would_pass(accepted), **fields)
    return trial.passed("power", cases=count, message=f"{message}; {summary(found)}")


@check(
    "known bugs",
    "every known wrong variant is rejected, unless the ledger explains why this dtype cannot show it",
    **REFERENCE,
)
def known_bugs(trial: Trial) -> Verdict:
    if not trial.bugs:
        return trial.skipped("known bugs", "no wrong variant of this formula is known")
    worst = detections(trial)
    undetected = [b for b in trial.bugs if worst[b.id] <= LIMITS["eager"]]
    missed = [b.id for b in undetected if trial.dtype not in b.invisible]
    fields = {"detections": tuple(worst.items()), "limit": LIMITS["eager"], "cases": len(worst)}
    if missed:
        return trial.failed("known bugs", message=f"{', '.join(missed)} would pass in {trial.dtype}.", **fields)
    message = "; ".join(f"{b.id}: {b.invisible[trial.dtype]}" for b in undetected)
    return trial.passed("known bugs", message=message, **fields)
