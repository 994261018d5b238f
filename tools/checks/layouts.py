"""Every memory layout of every argument alone, and of all together: the same values at other addresses.

One or two cases serve all; a layout counts only where it changes the strides or the offset of the array.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from trueness.tools.checks.contract import MUTABLE, PLAIN, require_agreement, simplest, typical
from trueness.tools.checks.core import Failed, check, search
from trueness.tools.checks.purity import state, written
from trueness.tools.run import frameworks
from trueness.tools.run.frameworks import Rejected
from trueness.tools.run.trial import Trial
from trueness.tools.spec import inputs
from trueness.tools.spec.model import Case, Verdict

RANK = 4  # what channels_last needs


def roomy(trial: Trial) -> Case:
    """A case of rank 4 where the formula allows it, no length below 2 and no two alike."""
    names = inputs.symbols(trial.formula)
    lengths = {n: min(max(low, 2 + k), high) for k, (n, (low, high)) in enumerate(names.items()) if n != "..."}
    if "..." not in names:
        return Case(sizes=lengths, seed=3, scalars=simplest(trial), **PLAIN)
    others = max(sum(d != "..." for d in getattr(a, "dims", ())) for a in trial.formula.arguments)
    dots = (3, 2, 4, 5)[: max(RANK - others, 1)]
    return Case(sizes={**lengths, "...": dots}, seed=3, scalars=simplest(trial), **PLAIN)


def laid_out(trial: Trial) -> Iterator[Case]:
    """The cases: layout × (all arguments, each alone) on the first case in which the layout changes something."""
    bases = [(c, trial.arguments_f64(c)) for c in (typical(trial), roomy(trial))]
    tensors = [(i, a) for i, a in enumerate(trial.formula.arguments) if a.tensor]
    alone = tensors if len(tensors) > 1 and trial.paths and not trial.interpreted else []  # which is slow
    axes = range(max((np.ndim(v) for _, values in bases for v in values if isinstance(v, np.ndarray)), default=0))
    kinds = [k for k in inputs.LAYOUTS if k != "expanded"] + [f"expanded {axis}" for axis in axes]
    for kind in kinds:
        for chosen in [tensors, *([one] for one in alone)]:
            layout = kind if len(chosen) == len(tensors) else f"{kind}: {chosen[0][1].name}"
            for case, values in bases:
                if any(changes(trial, a, values[i], layout) for i, a in chosen):
                    yield replace(case, layout=layout)
                    break


def changes(trial: Trial, argument: inputs.Argument, value: Any, layout: str) -> bool:
    kind = inputs.layout_of(argument, layout)
    return isinstance(value, np.ndarray) and frameworks.changes(value.shape, kind, trial.framework)


def describe(layout: str) -> str:
    """with transposed input, with transposed weight, with x expanded along axis 1"""
    kind, _, name = layout.partition(": ")
    axis = inputs.expanded_axis(kind)
    if axis is not None:
        return f"with {name or 'input'} expanded along axis {axis}"
    return f"with {kind} {name or 'input'}" if kind != "offset" else f"with {name or 'input'} at an offset"


def compare(trial: Trial, case: Case) -> None:
    values = trial.arguments_f64(case)
    natives = trial.arguments(values, case.layout)
    before = [state(x) for x in natives]
    try:
        outs = [frameworks.to_float64(y) for y in trial.accepted(trial.invoke(natives), values)]
    except Rejected as rejection:
        try:
            trial.call(values)
        except Rejected:
            return  # left to the value check
        raise Failed(case, f"{describe(case.layout)}: {rejection}") from None
    require_agreement(trial, case, outs, values, describe(case.layout))
    names = [a.name for a in trial.formula.arguments]
    if (sentence := written(names, natives, before)) and not writes(trial, values):
        raise Failed(case, f"{describe(case.layout)}: {sentence}")


def writes(trial: Trial, values: Sequence[Any]) -> bool:
    """Whether a plain call writes to its inputs: then another check says so."""
    natives = trial.arguments(values)
    before = [state(x) for x in natives]
    trial.invoke(natives)
    return before != [state(x) for x in natives]


def smaller(trial: Trial, failure: Failed) -> Failed:
    """The same layout on the smallest drawn case on which it fails."""
    layout = failure.case.layout

    def body(case: Case) -> None:
        values = trial.arguments_f64(case)
        if any(changes(trial, a, v, layout) for a, v in zip(trial.formula.arguments, values, strict=True)):
            compare(trial, replace(case, layout=layout))

    try:
        search(trial, body)
    except Failed as found:
        return found
    return failure


def first_failure(cases: Sequence[Case], body: Any, trial: Trial) -> Failed | None:
    """The failure of the first of ``cases`` that fails."""
    for case in cases:
        trial.heartbeat(case.to_json())
        try:
            body(trial, case)
        except Failed as failure:
            return failure
    return None


@check("layouts", "transposed, sliced, padded, expanded, offset and channels-last input: the same", frameworks=MUTABLE)
def layouts(trial: Trial) -> Verdict:
    if trial.replay is not None:
        compare(trial, trial.replay)
        return trial.passed("layouts", cases=1)
    chosen = list(laid_out(trial))
    if not chosen:
        return trial.skipped("layouts", "takes no array whose layout could change")
    failure = first_failure(chosen, compare, trial)
    if failure is not None:
        raise smaller(trial, failure)
    return trial.passed("layouts", cases=len(chosen))
