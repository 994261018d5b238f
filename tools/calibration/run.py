"""The evidence behind the bound: worst T of correct implementations, kill rates of mutants, effect of every choice.

    calibrate(profile) -> Calibration

Correct implementations, fused and eager, and mutants of attention, random Fourier features and the Fisher diagonal,
forward and backward, in float32, float16 and bfloat16, are compared with the bound on seeded inputs; then the
implementations of the optimized families, with every wrong variant of the ledger (tools/calibration/ledger.py). It
fails when a correct one exceeds its limit, or when a mutant that could have been detected survives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import torch

from trueness.tools.arithmetic import bounds as instrument
from trueness.tools.arithmetic import stochastic as arithmetic
from trueness.tools.arithmetic.bounds import LIMITS, Bound
from trueness.tools.arithmetic.formats import precision, round_to
from trueness.tools.calibration import attention as calibration_attention
from trueness.tools.calibration import features as calibration_features
from trueness.tools.calibration import fisher as calibration_fisher
from trueness.tools.calibration import halves as calibration_halves
from trueness.tools.calibration import ledger as calibration_ledger
from trueness.tools.calibration.record import SAME, SHIPPED, Calibration, Run
from trueness.tools.calibration.subjects import DTYPES, Subject, Variant
from trueness.tools.checks.core import in_doubt
from trueness.tools.spec.tables import CALIBRATION_PROFILES, require
from trueness.tools.spec.versions import installed

INVISIBLE = {
    ("attention", "forward", "float32", "l + 1e-6"): "l ≥ 1, so it is at most 1e-6 relative; 17 u, as B is for one key",
    ("attention", "forward", "float16", "l + 1e-6"): "l ≥ 1, so it is at most 1e-6 relative; u = 4.9e-4",
    ("attention", "forward", "bfloat16", "l + 1e-6"): "l ≥ 1, so it is at most 1e-6 relative; u = 3.9e-3",
    ("attention", "forward", "bfloat16", "l + 1e-3"): "l ≥ 1, so it is at most 1e-3 relative; u = 3.9e-3",
    ("random features", "forward", "bfloat16", "3.14 for π"): "5e-4 of the phase, whose rounding is u = 3.9e-3 of it",
    ("fisher", "forward", "float16", "gain of 1e-4"): "1e-4 < u = 4.9e-4",
    ("fisher", "forward", "bfloat16", "gain of 1e-4"): "1e-4 < u = 3.9e-3",
    ("fisher", "backward", "float16", "gain of 1e-4"): "1e-4 < u = 4.9e-4",
    ("fisher", "backward", "bfloat16", "gain of 1e-4"): "1e-4 < u = 3.9e-3",
}
"""(family, direction, dtype, mutant) → why that format cannot show the mistake. A killed entry is a failure."""

MEASURED_WITH = ("trueness", "numpy", "torch")

Progress = Callable[[str], None]


# -- choices --------------------------------------------------------------------------------------------------------


@contextmanager
def replaced(module: ModuleType, **values: Any) -> Iterator[None]:
    """``module`` with other values for some of its names."""
    kept = {name: getattr(module, name) for name in values}
    for name, value in values.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(module, name, value)


def pooling(always: bool, runs: int) -> Any:
    original = instrument.spread
    reduction = 2 if always else 1  # spread pools a reduction, and doubles the runs of what it does not pool

    def spread(f: Any, a: Any, units: Any, eta: float, n: int, **more: Any) -> Any:
        return original(f, a, units, eta, reduction, **more)

    return replaced(instrument, RUNS=runs, spread=spread)


def exact_scalars() -> Any:
    """Scalars and constants are exact; only arrays are perturbed."""
    original = arithmetic.perturbed

    def perturbed(operand: Any, like: Any) -> Any:
        return original(operand, like) if np.ndim(operand) else np.asarray(operand)

    return replaced(arithmetic, perturbed=perturbed)


CHOICES: dict[str, Callable[[], Any]] = {
    "pooled always": lambda: pooling(True, instrument.RUNS),
    "pooled never, twice the runs": lambda: pooling(False, instrument.RUNS),
    "pooled never, the same runs": lambda: pooling(False, instrument.RUNS // 2),
    "scalars exact": exact_scalars,
    "grain 1 alone": lambda: replaced(instrument, GRAINS=(1,)),
    "grain all alone": lambda: replaced(instrument, GRAINS=(None,)),
    "half the runs": lambda: replaced(instrument, RUNS=instrument.RUNS // 2),
    "twice the runs": lambda: replaced(instrument, RUNS=instrument.RUNS * 2),
}


# -- measuring ------------------------------------------------------------------------------------------------------


def subjects() -> tuple[Subject, ...]:
    """All subjects."""
    return (*calibration_attention.SUBJECTS, *calibration_features.subjects(), *calibration_fisher.subjects())


def calibrate(
    profile: str = "quick",
    progress: Progress = lambda note: None,
    tried: Sequence[Subject] | None = None,
    invisible: dict[tuple[str, str, str, str], str] | None = None,
) -> Calibration:
    """Measure every variant of every subject (``tried``; all by default) on the cases of ``profile``.

    progress  called after every case with a sentence: what was measured, and how far it is
    raises    ValueError for a profile that does not exist
    """
    chosen = CALIBRATION_PROFILES[require("profile", profile, CALIBRATION_PROFILES)]
    everything = tried is None
    tried = subjects() if tried is None else tried
    cases, again = chosen.cases, chosen.choice_cases
    invisible = INVISIBLE if invisible is None else invisible
    runs: list[Run] = []
    vacuous: dict[tuple[str, str, str], int] = {}
    done, total, threads = 0, len(tried) * len(DTYPES) * cases, torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for subject in tried:
            for dtype in DTYPES:
                for index in range(cases):
                    found, empty = one_case(subject, dtype, index, index < again)
                    runs += found
                    vacuous[*subject.key, dtype] = vacuous.get((*subject.key, dtype), 0) + empty
                    done += 1
                    progress(f"{subject.family} {subject.direction}, {dtype}: case {done} of {total}")
        ledger = calibration_ledger.runs(profile, progress) if everything else []
        halves = calibration_halves.runs(profile, progress) if everything else []
    finally:
        torch.set_num_threads(threads)
    seen = {(r.family, r.direction, r.dtype, r.variant) for r in runs}
    expected = ((*s.key, d, v.name) for s in tried for v in s.variants for d in v.dtypes)
    untried = [key for key in expected if key not in seen]
    if everything:
        shown = {(r.family, r.direction, r.dtype, r.variant) for r in ledger}
        untried += [key for key in calibration_ledger.expected(profile) if key not in shown]
    return Calibration(
        profile,
        cases,
        tuple(runs),
        vacuous,
        tuple(untried),
        invisible,
        again,
        installed(MEASURED_WITH),
        tuple(ledger),
        tuple(halves),
    )


def one_case(subject: Subject, dtype: str, index: int, again: bool) -> tuple[list[Run], bool]:
    """The runs of every variant on one case, and whether the case is vacuous: zeros would pass for a right answer.

    On a vacuous case the correct implementations are still measured; mutants are left out.
    """
    arguments = subject.draw(np.random.default_rng([index, sum(map(ord, " ".join(subject.key)))]), index)
    arguments = tuple(
        round_to(x, dtype) if isinstance(x, np.ndarray) and i not in subject.exact else x
        for i, x in enumerate(arguments)
    )
    make = partial(bound, subject, arguments, dtype)
    truth = make()
    zeros = [np.zeros(b.y.shape) for b in truth]
    vacuous = worst(zeros, truth) <= LIMITS["eager"]
    results = [
        (variant, call(variant, arguments, dtype))
        for variant in subject.variants
        if dtype in variant.dtypes and (variant.kind != "mutant" or (not vacuous and variant.relevant(*arguments)))
    ]

    def judged(truth: list[Bound], choice: str) -> list[Run]:
        """As a check judges: a result in doubt again, by a bound of more runs."""
        found: list[Run] = []
        surer: list[Bound] = []
        for variant, out in results:
            run = Run(*subject.key, dtype, variant.name, variant.kind, worst(out, truth), choice)
            if not run.accepted and in_doubt(run.T, run.limit):
                surer = surer or make(times=instrument.AGAIN)
                run = replace(run, T=worst(out, surer))
            found.append(run)
        return found

    runs = judged(truth, SHIPPED)
    if again:
        runs += judged(truth, SAME)
        for name, choice in CHOICES.items():
            with choice():
                runs += judged(make(), name)
    return runs, vacuous


def bound(subject: Subject, arguments: Sequence[Any], dtype: str, times: int = 1) -> list[Bound]:
    fmt = precision(dtype)
    units = [2.0**-53 if i in subject.exact else fmt.u for i in range(len(arguments))]
    with np.errstate(all="ignore"):
        found = instrument.bounds(subject.reference, arguments, units, fmt, subject.reduction(*arguments), times=times)
    return [b.within(fmt.max, fmt.u, False) for b in found]


def call(variant: Variant, arguments: Sequence[Any], dtype: str) -> list[np.ndarray]:
    """The outputs in float64 of one variant in torch."""
    native = [torch.from_numpy(x).to(precision(dtype).torch) if isinstance(x, np.ndarray) else x for x in arguments]
    result = variant.function(*native)
    return [y.detach().double().numpy() for y in (result if isinstance(result, tuple) else (result,))]


def worst(outs: Sequence[np.ndarray], truth: Sequence[Bound]) -> float:
    """T: the largest ratio over all outputs and elements."""
    return max(float(b.ratio(out).max(initial=0.0)) for out, b in zip(outs, truth, strict=True))
