"""Which known bug an implementation behaves like, and which bugs the checks reject."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from trueness.tools.arithmetic.bounds import LIMITS, outputs
from trueness.tools.arithmetic.formats import round_to
from trueness.tools.checks.core import search
from trueness.tools.run.frameworks import Rejected
from trueness.tools.run.trial import Trial
from trueness.tools.spec.model import Bug, Case, Verdict


def sample(trial: Trial, verdict: Verdict | None = None, examples: int = 12) -> list[Case]:
    """The inputs by which bugs are distinguished: discriminating ones, the failing one, and some that are drawn."""
    found = [Case(named_input=b.id) for b in trial.bugs if b.discriminating_input is not None]
    if verdict is not None and verdict.case:
        found.append(Case.from_json(verdict.case))
    search(replace(trial, examples=examples, replay=None), found.append)
    return found


def against(trial: Trial, bug: Bug, values: Sequence[Any], outs: Sequence[np.ndarray]) -> float:
    """T of ``outs`` when the wrong variant of ``bug`` is taken for the truth."""
    assert bug.variant is not None
    return trial.judge(outs, trial.bound_of(bug.variant, values, "value", trial.formula.reduction)).T


def behaves_like(trial: Trial, verdict: Verdict) -> list[str]:
    """Ids of the known bugs whose wrong variant explains every output, while the reference rejects some."""
    suspects = {b.id: b for b in trial.bugs}
    told_apart = dict.fromkeys(suspects, False)
    for case in sample(trial, verdict):
        try:
            values = trial.arguments_f64(case)
            outs = trial.call_unjudged(values)
        except Rejected:
            return []
        for name in list(suspects):
            bug = suspects[name]
            try:
                explains = against(trial, bug, values, outs) <= LIMITS["eager"]
            except Exception as error:  # a wrong variant may be undefined at this input: then it explains nothing
                trial.heartbeat(f"{name} at this input: {error}")
                explains = False
            if not explains:
                del suspects[name]
                continue
            told_apart[name] |= trial.judge(outs, trial.truth(values)).T > trial.limit
    return [name for name in suspects if told_apart[name]]


def detections(trial: Trial) -> dict[str, float]:
    """Bug → the largest T of its wrong variant, rounded to the dtype, over discriminating and drawn inputs."""
    worst = {b.id: 0.0 for b in trial.bugs}
    for case in sample(trial):
        values = trial.arguments_f64(case)
        truth = trial.truth(values)
        for bug in trial.bugs:
            try:
                outs = rounded_variant(trial, bug, values)
            except Exception as error:  # undefined at this input: it proves nothing
                trial.heartbeat(f"{bug.id} at this input: {error}")
                continue
            worst[bug.id] = max(worst[bug.id], trial.judge(outs, truth).T)
    return worst


def rounded_variant(trial: Trial, bug: Bug, values: Sequence[Any]) -> list[np.ndarray]:
    """The outputs of a wrong variant, each rounded once: the best that an implementation of the bug could do."""
    assert bug.variant is not None
    with np.errstate(all="ignore"):
        found = [np.asarray(y, dtype=float) for y in outputs(bug.variant(*values))]
        kinds = trial.formula.outputs or ("dtype",) * len(found)
        return [round_to(y, trial.dtype) if k == "dtype" else y for y, k in zip(found, kinds, strict=True)]
