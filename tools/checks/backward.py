"""The backward beside its value: strided inputs and cotangents, only some inputs, what it writes to, repetition."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from trueness.tools.checks.contract import simplest, typical
from trueness.tools.checks.core import Failed, check, search
from trueness.tools.checks.gradients import (
    as_natives,
    cotangents_for,
    differentiable,
    for_gradient,
    gradients,
    has_truth,
    judge,
    pulled,
    require_grad,
)
from trueness.tools.checks.ladder import ladder_of, longest
from trueness.tools.checks.layouts import describe, laid_out
from trueness.tools.checks.purity import difference, overlap, same, state
from trueness.tools.checks.value import place_of
from trueness.tools.run import frameworks
from trueness.tools.run.frameworks import Rejected
from trueness.tools.run.trial import Trial
from trueness.tools.spec import inputs
from trueness.tools.spec.model import Case, Verdict

NEEDS: dict[str, Any] = {"frameworks": ("torch",), "claim": "gradient"}


def require_gradient(
    trial: Trial,
    case: Case,
    values: Sequence[Any],
    cotangents: Sequence[np.ndarray],
    what: str,
    usual: Trial | None = None,
    **options: Any,
) -> None:
    """Fail where a gradient is beyond the limit and a plain one is not: each check answers for what it looks at.

    usual  the trial by which a plain one is taken, where that is another
    """
    try:
        found = gradients(trial, values, cotangents, **options)
        reading = judge(trial, values, cotangents, found, options.get("wanted"))
        if reading.T <= trial.limit:
            return
        message = (
            f"{what}: {place_of(trial, 'gradient', reading)} is {reading.got:.9g}, the reference {reading.want:.9g}; "
            f"T = {reading.T:.3g}."
        )
        failure = Failed(case, message, reading)
    except Rejected as rejection:
        failure = Failed(case, f"{what}: {rejection}")
    try:
        plain = judge(trial, values, cotangents, gradients(usual or trial, values, cotangents))
    except Rejected:
        return  # left to the gradient check
    if plain.T <= trial.limit:
        raise failure


def strided(trial: Trial, cotangents: Sequence[np.ndarray]) -> Iterator[tuple[str, list[Any]]]:
    """(layout, the same cotangents in it), where it changes one of them."""
    for kind in inputs.LAYOUTS:
        if kind != "expanded" and any(frameworks.changes(g.shape, kind, trial.framework) for g in cotangents):
            yield kind, as_natives(trial, cotangents, kind)


@check(
    "gradient layouts",
    "strided inputs, strided and expanded cotangents, and inputs of which one requires grad: the same gradient",
    **NEEDS,
)
def gradient_layouts(trial: Trial) -> Verdict:
    if not has_truth(trial):
        return trial.skipped("gradient layouts", trial.formula.no_gradient)
    trial = for_gradient(trial)
    case = trial.replay or typical(trial)
    values = trial.arguments_f64(case)
    cotangents = cotangents_for(trial, values, case.seed)
    names = [a.name for a in trial.formula.arguments]
    count = 0
    for kind, back in strided(trial, cotangents) if trial.paths and not trial.interpreted else ():
        require_gradient(trial, case, values, cotangents, f"with a cotangent that is {kind}", back=back)
        count += 1
    ones = [np.ones(g.shape) for g in cotangents]  # what y.sum().backward() passes: one number for all
    expanded = [g.flatten()[0].expand(g.shape) if g.numel() else g for g in as_natives(trial, ones)]
    require_gradient(trial, case, values, ones, "with a cotangent expanded from one number", back=expanded)
    wanted = differentiable(trial)
    step = -(-len(wanted) // 2) if trial.interpreted else 1  # which is slow
    for i in wanted[::step] if len(wanted) > 1 and trial.paths else []:
        what = f"where only {names[i]} requires grad"
        trial.heartbeat(what)
        require_gradient(trial, case, values, cotangents, what, wanted=[i])
        count += 1
    for laid in [trial.replay] if trial.replay is not None else laid_out(trial) if trial.paths else ():
        only = laid.layout.partition(": ")[2]
        along = inputs.expanded_axis(laid.layout)
        if (only and names.index(only) not in wanted) or (along is not None and (along or only)):
            continue
        trial.heartbeat(laid.to_json())
        given = trial.arguments_f64(laid)
        seeds = cotangents_for(trial, given, laid.seed)
        both = dict(strided(trial, seeds)).get(laid.layout) if trial.interpreted else None
        what = describe(laid.layout) + (" and such a cotangent" if both else "")
        require_gradient(trial, laid, given, seeds, what, layout=laid.layout, back=both)
        count += 1
    return trial.passed("gradient layouts", cases=count + 1)


@check(
    "gradient contract",
    "the backward writes to no input and no cotangent, returns memory of its own, and says the same again",
    independent=True,
    **NEEDS,
)
def gradient_contract(trial: Trial) -> Verdict:
    if not differentiable(trial):
        return trial.skipped("gradient contract", trial.formula.no_gradient or "no argument has a gradient")
    if trial.interpreted and not trial.paths:
        return trial.skipped("gradient contract", "of an interpreted kernel, looked at in one format")
    looked = 0

    def body(case: Case) -> None:
        nonlocal looked
        values = trial.arguments_f64(case)
        try:
            sentence = look(trial, values, cotangents_for(trial, values, case.seed))
        except Rejected:
            return  # left to the gradient check
        if sentence:
            raise Failed(case, sentence)
        looked += sentence is not None

    if trial.replay is None:
        for case in [typical(trial), *(longer(trial) if trial.paths else ())]:
            trial.heartbeat(case.to_json())
            body(case)
    if trial.replay is not None or (trial.paths and not trial.interpreted):
        search(replace(trial, examples=max(1, trial.examples // 3)), body)  # values are not at stake
    if not looked:
        return trial.skipped("gradient contract", "there is no backward to look at: no output requires grad")
    return trial.passed("gradient contract", cases=looked)


def longer(trial: Trial) -> Iterator[Case]:
    """Cases of more than one block: sums over blocks may come in another order."""
    yield typical(trial, length=129)
    if not trial.interpreted:
        yield from (rung.case for rung in longest(ladder_of(trial, simplest(trial)).rungs))


def look(trial: Trial, values: Sequence[Any], cotangents: Sequence[np.ndarray]) -> str | None:
    """The sentence about what a backward does that it may not; empty if nothing, None where there is no backward."""
    natives, back = trial.arguments(values), as_natives(trial, cotangents)
    wanted = differentiable(trial)
    outs = require_grad(trial, natives, values, wanted)
    if not any(y.requires_grad for y in outs):
        return None
    names = [a.name for a in trial.formula.arguments]
    watched = [*zip([f"its input {n}" for n in names], natives, strict=True)]
    watched += [("its cotangent" if len(back) == 1 else f"the cotangent of output {k}", g) for k, g in enumerate(back)]
    watched += [("its output" if len(outs) == 1 else f"its output {k}", y) for k, y in enumerate(outs)]
    before = [state(x) for _, x in watched]
    sources = [natives[i] for i in wanted]
    first = pulled(outs, sources, back, retain_graph=True)
    for (name, x), old in zip(watched, before, strict=True):
        if change := difference(old, state(x)):
            return f"the backward {change} {name}."
    held = [(n, x) for n, x in watched if "cotangent" not in n and isinstance(x, torch.Tensor)]
    for i, g in zip(wanted, first, strict=True):
        for name, x in held:  # a gradient is added to and clipped in place
            if overlap(g, x):
                return f"the gradient of {names[i]} shares memory with {name}."
    kept = [g.clone() for g in first]
    try:
        again = pulled(outs, sources, back)
    except Rejected:  # it gives up what it has saved; a second use is refused, not wrong
        again = kept
    once_more = trial.arguments(values)
    fresh = pulled(require_grad(trial, once_more, values, wanted), [once_more[i] for i in wanted], back)
    for what, others in (("of a second backward through the same graph", again), ("of a second call", fresh)):
        for i, a, b in zip(wanted, kept, others, strict=True):
            if not same(a, b):
                return f"the gradient of {names[i]} has other bits {what}: {apart(a, b)}."
    return ""


def apart(a: torch.Tensor, b: torch.Tensor) -> str:
    """Where two gradients differ."""
    x, y = frameworks.to_float64(a), frameworks.to_float64(b)
    at = tuple(int(i) for i in np.argwhere((x != y) | (np.signbit(x) != np.signbit(y)))[0])
    return f"[{', '.join(map(str, at))}] was {x[at]:.17g}, then {y[at]:.17g}"
