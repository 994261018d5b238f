"""Value, gradient and second derivative: T against the limit, on drawn, stored, discriminating and real inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from trueness.tools.arithmetic.bounds import AGAIN, Bound
from trueness.tools.arithmetic.formats import precision, round_to
from trueness.tools.arithmetic.noise import TooCostly
from trueness.tools.checks.contract import simplest, typical
from trueness.tools.checks.core import Failed, check, failed, in_doubt, search
from trueness.tools.checks.gradients import (
    DETACHED,
    as_natives,
    by_turns,
    cotangents_for,
    differentiable,
    for_gradient,
    gradients,
    has_truth,
    judge,
    judge_along,
    pulled,
    require_grad,
)
from trueness.tools.checks.ladder import SHORTER, Rung, ladder_of, sums_of
from trueness.tools.run import frameworks
from trueness.tools.run.frameworks import Rejected
from trueness.tools.run.trial import Reading, Trial
from trueness.tools.spec import inputs
from trueness.tools.spec.model import Case, Verdict
from trueness.tools.spec.tables import SUPERSCRIPT, TRIED

GRADIENT = 5
"""times the work of a value that a gradient may cost on a long axis: two matrix products for one, and room"""
FAR_MEAN = 1
"""a mean beyond which gradients of half formats are not judged: a softmax saturates there, and what is left of its
derivative is the rounding of a row's sum"""

Measure = Callable[[Trial, Case], Reading | None]


def survey(trial: Trial, name: str, measure: Measure, long: bool = True) -> Verdict:
    """T of every case; the shrunk case if one is beyond the limit. ``long``: on the ladder, too."""
    samples: list[tuple[int, float]] = []
    worst: Reading | None = None
    found: Failed | None = None

    def body(case: Case) -> None:
        nonlocal worst
        reading = measure(trial, case)
        if reading is not None and trial.times == 1 and beyond(trial, reading) and may_be_chance(trial, reading):
            reading = measure(replace(trial, times=AGAIN), case)  # before a search makes the most of what is chance
        if reading is None:
            return
        samples.append((reading.size, reading.T))
        if reading.T > trial.limit:
            raise Failed(case, sentence(trial, case, reading, name), reading)
        if trial.stores(reading):
            raise Failed(case, not_fused(trial, reading), reading)
        if worst is None or reading.T > worst.T:
            worst = reading

    named: list[Case] = []
    if trial.replay is None:
        data = trial.data if trial.paths or name == "value" else ()
        odd = unusual(trial) if name == "value" or (trial.paths and not trial.interpreted) else []
        named = [*trial.stored, *(Case(named_input=key) for key in data), typical(trial), *odd]
    count = len(named)
    for case in named:
        found = found or failure_on(trial, case, body)
    try:
        count += search(trial, body)
    except Failed as failure:
        found = failure
    slow = trial.interpreted and not trial.paths and name != "value"
    if found is None and long and not slow and trial.replay is None:
        sums = sums_of(trial, simplest(trial)) if name == "value" else ()
        rungs = [*ladder_of(trial, simplest(trial)).rungs, *sums]
        count += len(rungs)
        for rung in rungs:
            found = climbed(trial, rung, body)
            if found is not None:
                break
    if found is not None:
        return failed(name, trial, found, cases=max(count, 1), samples=tuple(samples))
    if worst is None:
        return trial.skipped(name, "no case could be judged: every value leaves the format")
    return trial.passed(
        name,
        cases=count,
        T=worst.T,
        limit=trial.limit,
        where=worst.where,
        output=worst.output,
        got=worst.got,
        want=worst.want,
        width=worst.width,
        samples=tuple(samples),
    )


def beyond(trial: Trial, reading: Reading) -> bool:
    return reading.T > trial.limit or trial.stores(reading)


def may_be_chance(trial: Trial, reading: Reading) -> bool:
    """Whether a bound of few runs may be too narrow; where the reference is 0, they may all have taken one branch."""
    return in_doubt(reading.T, trial.limit) or reading.want == 0


def unjudged(trial: Trial, case: Case, values: Sequence[Any], truth: Sequence[Bound]) -> bool:
    """Whether unusual values lead out of the format: what becomes of an overflow is a policy, and not a value.

    Large magnitudes are left to the formats that resolve them: where a softmax saturates, the spread of a few runs with
    the roundoff of a half format says little about the next one.
    """
    out = not case.plain and (not all(np.isfinite(b.y).all() for b in truth) or trial.overflows(values))
    return out or (case.large and precision(trial.dtype).half)


def excused(trial: Trial, values: Sequence[Any], cotangents: Sequence[np.ndarray] = ()) -> bool:
    """Whether the equation, as it is written, overflows on the way, so that another program may do so elsewhere."""
    if trial.strict and "overflow" not in trial.formula.policies:
        return False
    return trial.overflows(values) or (bool(cotangents) and trial.overflows(values, cotangents))


def forgiving(
    trial: Trial, values: Sequence[Any], judged: Callable[[Trial], Reading], cotangents: Sequence[np.ndarray] = ()
) -> Reading | None:
    """What is ``judged`` by the bound, beyond the limit by the lenient one; None where that is excused."""
    reading = judged(trial)
    if reading.T > trial.limit and (lenient := trial.lenient):
        reading = judged(lenient)
    return None if reading.T > trial.limit and excused(trial, values, cotangents) else reading


def failure_on(trial: Trial, case: Case, body: Callable[[Case], None]) -> Failed | None:
    """The failure of ``body`` on one case."""
    trial.heartbeat(case.to_json())
    try:
        body(case)
    except Failed as failure:
        return failure
    except Rejected as rejection:
        return Failed(case, str(rejection))
    return None


def climbed(trial: Trial, rung: Rung, body: Callable[[Case], None]) -> Failed | None:
    """The failure on one rung; for an interpreted kernel, on the longest that does not launch too many programs.

    A program that runs out of memory on a long axis is not wrong: it may hold a matrix where others hold a row.
    """

    def fitting(case: Case) -> None:
        try:
            body(case)
        except Rejected as rejection:
            if not out_of_memory(rejection.__cause__):
                raise

    if not trial.interpreted:
        found = failure_on(trial, rung.case, fitting)
        return found and bisected(trial, rung, found, fitting)
    from trueness.tools.triton.interpreter import few_programs

    def limited(case: Case) -> None:
        with few_programs(trial.profile.programs):
            fitting(case)

    shorter = [n for n in SHORTER[-3:] if rung.base < n < rung.length] if rung.axis else []
    for one in (rung, *(replace(rung, case=rung.at(n)) for n in shorter)):
        try:
            found = failure_on(trial, one.case, limited)
            return found and bisected(trial, one, found, limited)
        except TooCostly:
            continue
    return None


def out_of_memory(error: BaseException | None) -> bool:
    """Whether an exception says that memory does not suffice: NumPy's, torch's, or that of torch's CPU allocator."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


def unusual(trial: Trial) -> list[Case]:
    """Typical cases with an offset, ties, zeros and large magnitudes."""
    plain = typical(trial)
    return [replace(plain, **fields) for fields in inputs.VALUES]


def bisected(trial: Trial, rung: Rung, failure: Failed, body: Callable[[Case], None]) -> Failed:
    """The failure on the smallest length of the rung's axis that fails, as bisection finds it."""
    right, wrong = rung.base, rung.length
    if not rung.axis or failure_on(trial, rung.at(right), body) is not None:
        return failure
    while wrong - right > 1:
        middle = (right + wrong) // 2
        try:
            found = failure_on(trial, rung.at(middle), body)
        except ValueError:  # not every length between two that are allowed is so: a window must be odd
            return failure
        if found is None:
            right = middle
        else:
            wrong, failure = middle, found
    place = f"right up to {rung.axis} = {right}, wrong from {rung.axis} = {wrong} on{multiple(right)}"
    return Failed(failure.case, f"{place}: {failure.message}", failure.reading)


def multiple(length: int) -> str:
    """Which power of two divides a length, as the end of a clause; empty below 2³."""
    exponent = (length & -length).bit_length() - 1
    power = f"2{str(exponent).translate(SUPERSCRIPT)}"
    if exponent < 3:
        return ""
    return f"; {length} = {power}" if length == 2**exponent else f"; {length} is a multiple of {power}"


def sentence(trial: Trial, case: Case, reading: Reading, check: str = "value") -> str:
    """What is wrong, in one sentence, with the input beside it when it is small enough to read."""
    shown = [
        f"{a.name} = {v if isinstance(v, list) else np.array2string(np.asarray(v), precision=9, separator=', ')}"
        for a, v in zip(trial.formula.arguments, trial.arguments_f64(case), strict=True)
        if (sum(map(np.size, v)) if isinstance(v, list) else np.size(v)) <= 4
    ]
    given = f" for {', '.join(shown)}" if shown else ""
    return (
        f"{place_of(trial, check, reading)} is {reading.got:.9g}, the reference {reading.want:.9g}{given}: "
        f"T = {reading.T:.3g} of {trial.limit:g}."
    )


def not_fused(trial: Trial, reading: Reading) -> str:
    """Why a T within its limit does not make a fused program."""
    return (
        f"one in twenty elements errs by {reading.stored:.3g} times what a fused program may, which rounds to "
        f"{trial.dtype} only operands of products and the result: a sum or an intermediate is kept in {trial.dtype}. "
        f"If that is meant, its class is eager (--limit eager). T = {reading.T:.3g} of {trial.limit:g}."
    )


def place_of(trial: Trial, check: str, reading: Reading) -> str:
    """What the worst element belongs to: output[2], output 1[2], the gradient of weight[2]."""
    at = f"[{', '.join(map(str, reading.where))}]" if reading.where else ""
    names = [trial.formula.arguments[i].name for i in differentiable(trial)]
    if check == "gradient":
        return f"the gradient of {names[reading.output]}{at}"
    if check == "second derivative":
        seeds = reading.outputs - len(names)
        cotangent = "the cotangent" if seeds == 1 else f"the cotangent of output {reading.output}"
        by = cotangent if reading.output < seeds else names[reading.output - seeds]
        return f"the second derivative by {by}{at}"
    return f"output {reading.output}{at}" if reading.outputs > 1 else f"output{at}"


@check("value", "the output lies within the bound of the reference")
def value(trial: Trial) -> Verdict:
    def measure(trial: Trial, case: Case) -> Reading | None:
        values = trial.arguments_f64(case)
        truth = trial.truth(values)
        if unjudged(trial, case, values, truth):
            return None
        outs = trial.call(values)
        return forgiving(trial, values, lambda by: by.judge(outs, by.truth(values)))

    return survey(trial, "value", measure)


@check("gradient", "every gradient lies within the bound of the reference's", claim="gradient")
def gradient(trial: Trial) -> Verdict:
    """The bound of the vector-Jacobian product; of slopes by complex step where none is written."""
    if not has_truth(trial):
        return trial.skipped("gradient", trial.formula.no_gradient or "no argument has a gradient")
    if "gradient" in trial.implementation.tries and (reason := without_graph(trial)):
        return trial.skipped("gradient", reason)
    trial = for_gradient(trial)
    whole = typical(trial)

    def measure(trial: Trial, case: Case) -> Reading | None:
        return measure_gradient(trial, case, everything=case == whole)

    return survey(trial, "gradient", measure)


def measure_gradient(trial: Trial, case: Case, everything: bool = True) -> Reading | None:
    values = trial.arguments_f64(case)
    truth = trial.truth(values)
    if unjudged(trial, case, values, truth) or (trial.any_order and not all(np.isfinite(b.y).all() for b in truth)):
        return None
    if precision(trial.dtype).half and abs(case.offset) > FAR_MEAN:
        return None
    cotangents = cotangents_for(trial, values, case.seed)
    wanted = by_turns(trial, case, everything)
    found = dict(zip(differentiable(trial), gradients(trial, values, cotangents), strict=True))
    chosen = [found[i] for i in wanted]
    limited = replace(trial, work=GRADIENT * trial.profile.work)
    try:
        return forgiving(limited, values, lambda by: judge(by, values, cotangents, chosen, wanted), cotangents)
    except TooCostly:
        return None


def without_graph(trial: Trial) -> str:
    """Why a gradient that is only tried for cannot be taken; empty where it can."""
    values = trial.arguments_f64(typical(trial))
    try:
        gradients(trial, values, cotangents_for(trial, values, 0))
    except Rejected as rejection:
        return f"{TRIED}{rejection}" if str(rejection) == DETACHED else ""
    return ""


@check(
    "second derivative",
    "double backward lies within the bound of the reference's derivative of its vector-Jacobian product",
    frameworks=("torch",),
    claim="double",
)
def second_derivative(trial: Trial) -> Verdict:
    """The bound of ``second``, or of slopes of the vector-Jacobian product by complex step for a user's callable."""
    formula = trial.formula
    if formula.second is None and (formula.vjp is None or trial.implementation.origin != "user"):
        return trial.skipped("second derivative", f"{formula.name} has no second derivative declared")

    def measure(trial: Trial, case: Case) -> Reading | None:
        values = trial.arguments_f64(case)
        cotangents = cotangents_for(trial, values, case.seed)
        generator = np.random.default_rng([case.seed, 2000])
        wanted = differentiable(trial)
        h = [round_to(generator.standard_normal(np.shape(values[i])), trial.dtype) for i in wanted]
        if unjudged(trial, case, values, trial.truth(values)):
            return None
        found = double_backward(trial, values, cotangents, h)
        if formula.second is not None:
            return trial.judge(found, trial.truth_of_second(values, cotangents, h))
        places = [*range(len(cotangents)), *[len(cotangents) + i for i in wanted]]
        assert formula.vjp is not None
        return judge_along(trial, formula.vjp, [*cotangents, *values], h, found, places)

    try:
        return survey(trial, "second derivative", measure, long=trial.profile.every_dtype)
    except TypeError as refusal:  # the complex step refuses an operation that is not analytic
        if "complex step" not in str(refusal):
            raise
        return trial.skipped("second derivative", f"{formula.name} has no second derivative declared; {refusal}")


def double_backward(
    trial: Trial, values: Sequence[Any], cotangents: Sequence[np.ndarray], h: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """torch's gradient of ⟨h, vjp(ȳ, x)⟩ with respect to every ȳ and every differentiable x."""
    natives = trial.arguments(values)
    wanted = differentiable(trial)
    sources = [natives[i] for i in wanted]
    back = as_natives(trial, cotangents)
    for g in back:
        g.requires_grad_(True)
    outs = require_grad(trial, natives, values, wanted)
    if not any(y.requires_grad for y in outs):
        raise Rejected(DETACHED)
    inner = pulled(outs, sources, back, create_graph=True)
    live = [k for k, g in enumerate(inner) if g.requires_grad]
    if not live:
        raise Rejected("claims double backward, but its gradient does not require grad.")
    seeds = as_natives(trial, h)
    leaves = [*back, *sources]
    found = pulled([inner[k] for k in live], leaves, [seeds[k] for k in live])
    return [frameworks.to_float64(g) for g in found]
