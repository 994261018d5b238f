"""Half formats: which programs are told from a fused one, at which length of their sums.

References with sums of 64 to 512 terms run as fused programs (float32 throughout; operands of products stored, as
tensor cores take them), as an eager one (every result stored) and as the wrong one, whose accumulator is in the half
format (tools/calibration/sums.py); beside them the fused implementations that are declared. Inputs have mean 0, or as
large a mean as their deviation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import isqrt
from typing import Any

import numpy as np

from trueness.tools.arithmetic.formats import round_to
from trueness.tools.calibration.ledger import correct
from trueness.tools.calibration.record import HalfRun
from trueness.tools.calibration.subjects import HALF
from trueness.tools.calibration.sums import Way, computed
from trueness.tools.checks.contract import simplest
from trueness.tools.run.trial import Trial
from trueness.tools.spec import inputs, registry
from trueness.tools.spec.model import Case, Formula
from trueness.tools.spec.tables import CALIBRATION_PROFILES

LENGTHS = (64, 128, 256, 512)
SUMS: dict[str, tuple[str, Callable[[int], Mapping[str, Any]]]] = {
    "attention, keys": ("attention.masked_attention", lambda n: {"B": 1, "N": 8, "J": n, "d": 16, "e": 8}),
    "attention, head width": ("attention.masked_attention", lambda n: {"B": 1, "N": 8, "J": 16, "d": n, "e": 8}),
    "window attention, keys": (
        "attention.tmsa",
        lambda n: {"B": 1, "h": 1, "w": 1, "d": 8, "E": 8, "window": isqrt(n), "num_heads": 2},
    ),
    "layer norm": ("attention.layer_norm", lambda n: {"B": 2, "N": 8, "C": n}),
    "group norm": ("attention.group_norm", lambda n: {"B": 2, "c": 1, "H": 8, "W": n // 8, "groups": 2}),
    "kernel matvec": ("kernels.kernel_matvec", lambda n: {"n": 16, "m": n, "d": 3, "p": 4}),
    "random features": ("kernels.rff_features", lambda n: {"n": 8, "d": n, "D": 16}),
    "features matvec": ("kernels.rff_matvec", lambda n: {"n": 16, "m": 16, "d": 4, "D": n, "p": 4}),
    "LoRA": ("adapters.lora", lambda n: {"B": 8, "I": n, "O": 16, "R": 4}),
}
"""title → formula, and the lengths (and scalars) of its case for sums of n terms"""

WAYS: dict[str, tuple[str, Callable[[str], Way]]] = {
    "float32 throughout": ("fused", lambda dtype: Way()),
    "operands of products stored": ("fused", lambda dtype: Way(operands=dtype)),
    "every result stored": ("eager", lambda dtype: Way(results=dtype)),
    "accumulator in the half format": ("mutant", lambda dtype: Way(accumulator=dtype)),
}
"""program → its kind and how it computes"""


def trial_of(formula: Formula, dtype: str) -> Trial:
    return Trial(formula, formula.implementations[0], dtype)


def arguments(title: str, length: int, dtype: str, seed: int) -> tuple[Formula, list[Any]]:
    """The formula and its arguments in float64, rounded to ``dtype``; magnitudes and means take turns."""
    name, lengths = SUMS[title]
    formula = registry.formula(name)
    given = lengths(length)
    spans = inputs.symbols(formula)
    sizes = {d: given.get(d, low) for d, (low, _) in spans.items()}
    drawn = simplest(trial_of(formula, dtype))
    scalars = {name: given.get(name, value) for name, value in drawn.items()}
    generator = np.random.default_rng([seed, length])
    scale, spread = float(generator.choice([-1.0, 0.0, 0.3])), float(generator.choice([0.0, 0.0, 1.0, 2.0]))
    values = inputs.values(formula, Case(sizes=sizes, seed=seed, scale=scale, spread=spread, scalars=scalars), dtype)
    mean = (seed % 2) * 10.0**scale
    return formula, [
        round_to(v + mean, dtype) if a.real and not getattr(a, "positive", False) else v
        for a, v in zip(formula.arguments, values, strict=True)
    ]


def programs(formula: Formula, values: list[Any], dtype: str) -> Iterable[tuple[str, str, list[np.ndarray]]]:
    """Name, kind and outputs of every program on one case."""
    units = inputs.units(formula, dtype)
    for name, (kind, way) in WAYS.items():
        yield name, kind, computed(formula.reference, values, units, dtype, way(dtype))
    for implementation in correct(formula, dtype):
        if implementation.limit == "fused":
            yield implementation.name, "fused", Trial(formula, implementation, dtype).call(values)


def runs(profile: str, progress: Callable[[str], None] = lambda note: None) -> list[HalfRun]:
    """Every program on the cases of ``profile``: an even seed has mean 0."""
    found = []
    seeds = CALIBRATION_PROFILES[profile].half_seeds
    for title in SUMS:
        for length in LENGTHS:
            progress(f"half formats: {title}, sums of {length}")
            for dtype in HALF:
                for seed in range(seeds):
                    formula, values = arguments(title, length, dtype, seed)
                    trial = trial_of(formula, dtype)
                    truth = trial.truth(values)
                    for name, kind, outs in programs(formula, values, dtype):
                        reading = trial.judge(outs, truth)
                        found.append(HalfRun(title, length, dtype, name, kind, reading.T, reading.stored))
    return found
