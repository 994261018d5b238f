"""Policies for special values: what a right program may do with NaN, ±inf, overflow, subnormals, a row without keys.

The equation leaves these to its author. So the difference from the reference is classified: what a policy of the table
below explains is named, and only the rest is wrong. ``--policy strict`` demands the reference's own policy, except for
what the formula excuses (``Formula.policies``); it is the default for built-in implementations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from trueness.tools.arithmetic.formats import precision
from trueness.tools.checks.contract import typical
from trueness.tools.checks.core import Failed, check
from trueness.tools.checks.evaluations import Situation, put, scalars
from trueness.tools.checks.keys import rows_without_keys
from trueness.tools.checks.policy_table import FAULTS, POLICIES
from trueness.tools.run.frameworks import Rejected
from trueness.tools.run.trial import Reading, Trial
from trueness.tools.spec.inputs import Mask
from trueness.tools.spec.model import Case, Verdict

__all__ = ["FAULTS", "POLICIES", "extremes", "positions", "special_values"]


def extremes(dtype: str) -> list[float]:
    """NaN, infinities, zeros, subnormals, the smallest normal number and - in half formats - the largest."""
    fmt = precision(dtype)
    found = [np.nan, np.inf, -np.inf, 0.0, -0.0, 2 * fmt.eta, -2 * fmt.eta, fmt.tiny / 2, fmt.tiny]
    return [*found, fmt.max, -fmt.max] if fmt.half else found


def positions(size: int) -> list[int]:
    """The first, the last and an inner element."""
    return sorted({0, size // 2, size - 1}) if size else []


OTHERS = 3  # draws of the real scalars, of which the last is used: the first is the simplest


@dataclass
class Observed:
    """The policies that were seen, and the first place where each was."""

    trial: Trial
    seen: dict[str, str] = field(default_factory=dict)
    cases: int = 0

    def excused(self, policy: str) -> bool:
        """Whether ``policy`` is none of the implementation's faults."""
        return policy in self.trial.formula.policies or not (self.trial.strict or policy in FAULTS)

    def note(self, policy: str, situation: str) -> None:
        self.seen.setdefault(policy, situation)

    def verdict(self) -> Verdict:
        said = [f"{POLICIES[p].sentence} ({where})" for p, where in sorted(self.seen.items())]
        message = f"policies of its own: {'; '.join(said)}." if said else ""
        policies = tuple(sorted(self.seen))
        return self.trial.passed("special values", cases=self.cases, message=message, policies=policies)


# -- classification ---------------------------------------------------------------------------------------------------

Explain = Callable[[Situation, int, np.ndarray], np.ndarray]
"""Where output ``k`` of a situation, which came out as given, is explained by a policy."""


def not_finite(s: Situation, k: int, out: np.ndarray) -> np.ndarray:
    y = s.rounded[k].y
    opposite = np.isinf(out) & np.isinf(y) & (out != y) & (s.special != 0)
    if opposite.any():
        opposite &= ~s.sign_open(k)
    return ~np.isfinite(out) & ~np.isfinite(y) & ~opposite


def saturates(s: Situation, k: int, out: np.ndarray) -> np.ndarray:
    fmt, y = precision(s.trial.dtype), s.rounded[k].y
    if not fmt.half or s.rounded[k].free is None:
        return np.zeros(out.shape, bool)
    beyond = (np.abs(s.exact[k]) + s.roundoff(s.exact[k]) >= fmt.max) & (np.sign(out) == np.sign(y))
    stopped = beyond & (np.abs(out) == fmt.max) & np.isinf(y) & np.isfinite(s.exact[k])
    return np.asarray(stopped | (beyond & np.isinf(out) & (np.abs(y) == fmt.max)))


def flushes(s: Situation, k: int, out: np.ndarray) -> np.ndarray:
    found = np.zeros(out.shape, bool)
    for evaluation in s.flushing:
        found |= s.explains(k, out, evaluation[k])
    return found


def overflows(s: Situation, k: int, out: np.ndarray) -> np.ndarray:
    found = np.zeros(out.shape, bool)
    for evaluation in s.overflowing:
        found |= s.explains(k, out, evaluation[k]) & np.isfinite(s.exact[k])
    lost = ~np.isfinite(out) & np.isfinite(s.exact[k])
    if s.at_the_edge:  # any factor beyond 1 overflows, in any grouping of the operations
        return found | s.overflown[k] | (lost & (s.dependents[k] | s.reached[k]))
    return found | (lost & s.overflown[k]) if lost.any() else found


def has_no_effect(s: Situation, k: int, out: np.ndarray) -> np.ndarray:
    y = s.trial.stated_truth(s.base)[k]
    where = np.isfinite(out) & ~np.isfinite(s.rounded[k].y)
    return where & s.without_effect(k) & s.agrees(k, out, y.y) if where.any() else where


def takes_limit(s: Situation, k: int, out: np.ndarray) -> np.ndarray:
    where = np.isfinite(out) & ~np.isfinite(s.rounded[k].y) & bool(np.isinf(s.special))
    if not where.any() or not s.limits:
        return np.zeros(out.shape, bool)
    near, far = s.limits
    with np.errstate(invalid="ignore"):
        settled = np.abs(near[k] - far[k]) <= s.allowance(k, far[k])
    return where & settled & np.isfinite(far[k]) & s.agrees(k, out, far[k])


def weighs_nothing(s: Situation, k: int, out: np.ndarray) -> np.ndarray:
    if not np.isinf(s.special):
        return np.zeros(out.shape, bool)
    found = (out == 0) & np.isnan(s.rounded[k].y)
    for evaluation in s.weightless:
        found |= s.explains(k, out, evaluation[k])
    return np.asarray(found)


def unordered(s: Situation, k: int, out: np.ndarray) -> np.ndarray:
    whole = bool(s.trial.formula.outputs) and s.trial.formula.outputs[k] != "dtype"
    return s.dependents[k] if whole and np.isnan(s.special) else np.zeros(out.shape, bool)


def spread(s: Situation, k: int, out: np.ndarray) -> np.ndarray:
    """Where the special value made an output infinite or NaN that the reference keeps finite."""
    where = ~np.isfinite(out) & np.isfinite(s.rounded[k].y)
    if np.isfinite(s.special) and where.any():  # it may have become infinite on the way
        return where & (s.at_the_edge or any(o.any() for o in s.overflown))
    return where


def masked(s: Situation, k: int, out: np.ndarray) -> np.ndarray:
    where = spread(s, k, out)
    return where & s.dependents[k] if where.any() else where


def joined(s: Situation, k: int, out: np.ndarray) -> np.ndarray:
    where = spread(s, k, out)
    if s.at_the_edge and np.isfinite(out).any():  # where NaN reaches a result, the largest number takes its digits
        where = where | (np.isfinite(out) & ~np.isfinite(s.with_nan[k]))
    where = where & ~s.dependents[k]
    return where & s.connected[k] if where.any() else where


def same_entry(s: Situation, k: int, out: np.ndarray) -> np.ndarray:
    """Leaks that stay in one index of the leading axis: of the output, or of what depends on that index of others.

    The second, where sequences of any lengths lie in one row.
    """
    where = spread(s, k, out)
    own = np.zeros(out.shape, bool)
    shape = np.shape(s.base[s.changed])
    if not shape or not out.ndim or not where.any():
        return own
    if shape[0] == out.shape[0]:
        own[int(np.unravel_index(s.at, shape)[0])] = True
    else:
        own |= s.companions[k]
    return where & own if not (s.dependents[k] & ~own).any() else np.zeros(out.shape, bool)


def finite(s: Situation, k: int, out: np.ndarray) -> np.ndarray:
    return np.isfinite(out) & ~np.isfinite(s.rounded[k].y)


EXPLAINED: dict[str, Explain] = {
    "saturation": saturates,
    "not finite": not_finite,
    "overflow": overflows,
    "flush to zero": flushes,
    "no effect": has_no_effect,
    "limit": takes_limit,
    "no weight": weighs_nothing,
    "order": unordered,
    "masked": masked,
    "spread": joined,
    "rows": same_entry,
    "finite": finite,
}
"""In this order: what an earlier policy explains is not left to a later one."""


def classify(s: Situation, outs: Sequence[np.ndarray], observed: Observed) -> None:
    """Note the policies that explain ``outs``; Failed with what none of them excuses."""
    for k, (out, ratio) in enumerate(zip(outs, s.ratio(outs), strict=True)):
        left = ratio > s.trial.limit
        for policy, explain in EXPLAINED.items():
            if not left.any():
                break
            mine = left & explain(s, k, out)
            if mine.any():
                if not observed.excused(policy):
                    raise wrong(s, k, out, ratio, mine, policy)
                observed.note(policy, f"with {s.text}")
                left &= ~mine
        if left.any():
            raise wrong(s, k, out, ratio, left, "")


def wrong(s: Situation, k: int, out: np.ndarray, ratio: np.ndarray, where: np.ndarray, policy: str) -> Failed:
    """The failure at the worst element of ``where``."""
    at = tuple(int(i) for i in np.unravel_index(int(np.argmax(np.where(where, ratio, -1.0))), where.shape))
    got, want = float(out[at]), float(s.rounded[k].y[at])
    reading = Reading(float(ratio[at]), at, k, got, want, float(s.rounded[k].width[at]), ratio.size)
    place = f"[{', '.join(map(str, at))}]" if at else ""
    found = f"with {s.text}: output{place} is {got:.9g}, the reference {want:.9g}"
    return Failed(s.case, f"{found}; {reason(s, got, want, policy)}", reading)


def reason(s: Situation, got: float, want: float, policy: str) -> str:
    """Why no policy excuses it."""
    if policy in FAULTS:
        return f"{POLICIES[policy].sentence}."
    if policy:
        return f"it {POLICIES[policy].sentence}, which is not the stated policy."
    if np.isfinite(want) and not np.isfinite(got):
        if np.isfinite(s.special):
            return "it is not finite, though nothing overflows on the way."
        return "NaN or ±inf leaks into a batch entry that does not depend on the element."
    if not np.isfinite(want) and not np.isfinite(got):
        return "the sign of the infinity is wrong."
    return "no policy explains it."


# -- probes -----------------------------------------------------------------------------------------------------------


def situations(trial: Trial, case: Case, specials: Sequence[float] = (), every: bool = True) -> Iterator[Situation]:
    """Special values at the position classes of every real argument; and NaN and ±inf where a mask hides them.

    NaN and ±inf are put at each position, all others at one; unless ``every``, NaN and ±inf too at one, and the largest
    numbers at each.
    """
    base = trial.arguments_f64(case)
    deep, largest = trial.profile.every_dtype, precision(trial.dtype).max
    for i, argument in enumerate(trial.formula.arguments):
        if not argument.real:
            continue
        places = positions(np.size(base[i]))
        for j, at in enumerate(places):
            for k, special in enumerate(specials or extremes(trial.dtype)):
                thin = np.isfinite(special) and not deep if every else abs(special) != largest
                if thin and (j + k) % len(places):
                    continue
                values = put(trial, base, i, at, special)
                if values is not None:
                    yield Situation(trial, case, base, values, i, at, special)
        yield from hidden(trial, case, base, i)


def other_scalars(trial: Trial, case: Case) -> Iterator[Case]:
    """The same case with its real scalars drawn anew: a weight that was 0 or 1 is another one."""
    last = scalars(trial, case, OTHERS)[-1]
    if last != case.scalars:
        yield replace(case, scalars=last)


def hidden(trial: Trial, case: Case, base: Sequence[Any], i: int) -> Iterator[Situation]:
    """NaN and ±inf in an inner element, under the mask of one false column that spares most of the output."""
    size = np.size(base[i])
    masks = [j for j, a in enumerate(trial.formula.arguments) if isinstance(a, Mask) and np.ndim(base[j])]
    found: dict[int, list[Any]] = {}
    for j in masks if size else ():
        for column in range(np.shape(base[j])[-1]):
            mask = np.ones_like(base[j])
            mask[..., column] = False
            covered = [mask if m == j else v for m, v in enumerate(base)]
            values = put(trial, covered, i, size // 2, np.nan)
            if values is not None:
                s = Situation(trial, case, covered, values, i, size // 2, np.nan)
                found.setdefault(sum(int(np.isfinite(y).sum()) for y in s.exact), covered)
    if len(found) < 2:  # no column makes a difference
        return
    best = found[max(found)]
    for special in (np.nan, np.inf, -np.inf):
        values = put(trial, best, i, size // 2, special)
        if values is not None:
            yield Situation(trial, case, best, values, i, size // 2, special)


def observe(s: Situation, observed: Observed) -> None:
    """One call of the implementation."""
    trial = s.trial
    trial.heartbeat(s.text)
    observed.cases += 1
    try:
        outs = trial.call(s.values, like=s.base)
    except Rejected as rejection:
        if not isinstance(rejection.__cause__, Exception):  # a wrong shape, or the end of the process
            raise Failed(s.case, f"with {s.text} it {rejection}") from None
        refusable = not np.isfinite(s.special) or not all(np.isfinite(y).all() for y in s.exact)
        if not refusable and not any(where.any() for where in s.overflown):
            raise Failed(s.case, f"with {s.text}, a finite number, it {rejection}") from None
        if not observed.excused("refuses"):
            raise Failed(s.case, f"with {s.text} it {rejection}") from None
        observed.note("refuses", f"with {s.text}")
        return
    classify(s, outs, observed)


@check("special values", "NaN, ±inf, subnormals and the edge of half formats follow the stated policy or a named one")
def special_values(trial: Trial) -> Verdict:
    if not any(a.real for a in trial.formula.arguments):
        return trial.skipped("special values", "takes no tensor that could hold a special value")
    observed = Observed(trial)
    few_of = () if trial.paths or precision(trial.dtype).half else (np.nan, np.inf, precision(trial.dtype).tiny / 2)
    found = list(situations(trial, typical(trial), few_of, trial.paths))  # where NaN goes does not depend on the format
    if trial.paths:
        for case in other_scalars(trial, typical(trial)):
            found += situations(trial, case, (np.nan, np.inf, -np.inf))
    few = 6 * trial.examples  # an interpreted kernel takes a thousand times as long
    step = -(-len(found) // few) if trial.interpreted else 1
    for s in found[::step]:
        observe(s, observed)
    for policy, note in rows_without_keys(trial, typical(trial)):
        observed.cases += 1
        if policy and not observed.excused(policy):
            raise Failed(typical(trial), f"{note}: it {POLICIES[policy].sentence}, which is not the stated policy.")
        if policy:
            observed.note(policy, note)
    return observed.verdict()
