"""The contract beside the value: shapes, caches, memory hygiene (see also layouts.py, purity.py, policies.py)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from hypothesis import given

from trueness.tools.arithmetic.bounds import outputs
from trueness.tools.arithmetic.formats import precision
from trueness.tools.checks.core import Failed, check, settings_for
from trueness.tools.checks.ladder import bounds_of, listed, scalars_of
from trueness.tools.run import frameworks
from trueness.tools.run.frameworks import Rejected
from trueness.tools.run.trial import Trial
from trueness.tools.spec import inputs
from trueness.tools.spec.model import Case, Verdict

PLAIN: dict[str, Any] = {"scale": 0.0, "spread": 1.0}
GUARD = 64  # elements before and after every allocation
MUTABLE = ("torch", "numpy")


def typical(trial: Trial, length: int = 5, seed: int = 1) -> Case:
    """A case of middling size: every symbol a different small length, scalars as they were drawn once."""
    names = inputs.symbols(trial.formula)
    sizes: dict[str, Any] = {}
    for k, (name, (low, high)) in enumerate(names.items()):
        dots = (3, length, 4) if len(names) == 1 else (length,)
        sizes[name] = dots if name == "..." else min(max(low, length - 1 + k), high)
    return Case(sizes=sizes, seed=seed, scalars=simplest(trial), **PLAIN)


INSIDE = 0.375
"""where a typical number stands between the ends of its interval"""


def simplest(trial: Trial) -> dict[str, Any]:
    """The scalars of typical cases: from the middle of what is allowed, the same in every process.

    What Hypothesis draws depends on the constants of the modules that are loaded, so it stands only where the strategy
    does not say what it allows.
    """
    if trial.scalars is None:
        found: dict[str, Any] = {}

        def keep(case: Case) -> None:
            found.update(case.scalars)

        settings_for(2)(given(inputs.cases(trial.formula))(keep))()
        known = {name: middle(s) for name, s in scalars_of(trial.formula).items()}
        trial.scalars = {**found, **{name: values[0] for name, values in known.items() if values and name in found}}
    return dict(trial.scalars)


def middle(strategy: Any) -> tuple[Any, ...]:
    """The number in the middle of a list, of two counts the larger; the first of a list of others; True of truth
    values; a number inside of an interval; empty where the strategy shows none of these."""
    found = listed(strategy)
    if found and all(type(v) in (int, float) for v in found):
        counts = all(type(v) is int for v in found)
        return (sorted(found)[len(found) // 2 if counts else (len(found) - 1) // 2],)
    if found:
        return (True if set(found) == {False, True} else found[0],)
    ends = bounds_of(strategy)
    if len(ends) != 2 or not all(type(v) in (int, float) for v in ends):
        return ()
    low, high = ends
    return (low + (high - low + 1) // 2,) if type(low) is int else (low + (high - low) * INSIDE,)


def agree(trial: Trial, case: Case, outs: Sequence[np.ndarray], values: Sequence[Any], what: str) -> None:
    """Fail when ``outs`` are beyond the limit at ``values``."""
    reading = trial.judge(outs, trial.truth(values))
    if reading.T > trial.limit:
        place = f"[{', '.join(map(str, reading.where))}]"
        message = f"{what}: output{place} is {reading.got:.9g}, the reference {reading.want:.9g}; T = {reading.T:.3g}."
        raise Failed(case, message, reading)


def require_agreement(trial: Trial, case: Case, outs: Sequence[np.ndarray], values: Sequence[Any], what: str) -> None:
    """The same, where a plain call is within the limit: so that each check answers for what it looks at alone."""
    try:
        agree(trial, case, outs, values, what)
    except Failed:
        try:
            agree(trial, case, trial.call(values), values, "a plain call")
        except (Failed, Rejected):
            return  # left to the value check, which runs on these very cases
        raise


def odd_sizes(trial: Trial) -> list[dict[str, Any]]:
    """Empty, one, primes, one off a power of two, more than one tile."""
    names = inputs.symbols(trial.formula)
    dots: list[tuple[int, ...]] = [(), (1,), (0,), (7,), (127,), (129,), (3, 0, 2), (1, 1, 1, 1), (2, 3, 5, 7)]
    chosen: list[dict[str, Any]] = []
    for k, shape in enumerate(dots if "..." in names else [(1,), (2,), (3,), (5,)]):
        lengths = {n: min(max(low, (1, 2, 3, 5)[k % 4]), high) for n, (low, high) in names.items() if n != "..."}
        chosen.append({**lengths, **({"...": shape} if "..." in names else {})})
    if list(names) == ["..."]:  # elementwise: more than one tile, and a ragged end
        chosen.append({"...": (min(4099, trial.implementation.largest or 4099),)})
    return chosen


@check("shapes", "empty, one-element, odd and not-a-multiple-of-a-tile shapes give the reference's shape and value")
def shapes(trial: Trial) -> Verdict:
    count = 0
    for sizes in odd_sizes(trial):
        case = Case(sizes=sizes, seed=count, scalars=simplest(trial), **PLAIN)
        values = trial.arguments_f64(case)
        trial.heartbeat(case.to_json())
        count += 1
        try:
            agree(trial, case, trial.call(values), values, f"for sizes {sizes}")
        except Rejected as rejection:
            raise Failed(case, f"for sizes {sizes} it {rejection}") from None
    return trial.passed("shapes", cases=count)


def resembles(trial: Trial, outs: Sequence[np.ndarray], values: Sequence[Any], like: Sequence[Any]) -> bool:
    """Whether ``outs`` are as near the reference at ``values`` as the bound at ``like``, of the same kind, allows.

    Enough to tell a result of other numbers, without a bound of its own.
    """
    with np.errstate(all="ignore"):
        y = outputs(trial.formula.reference(*values))
    known = trial.truth(like)
    if any(a.shape != b.y.shape for a, b in zip(y, known, strict=True)):
        return False
    return trial.judge(outs, [replace(b, y=a, free=None) for a, b in zip(y, known, strict=True)]).T <= trial.limit


@check(
    "no stale cache",
    "the same storage with new content, and freed storage used again, give new results",
    frameworks=MUTABLE,
)
def no_stale_cache(trial: Trial) -> Verdict:
    """Kills caches keyed by pointer, shape, a sum or a few samples: one element of the input is changed in place."""
    case = typical(trial, length=129)
    values = trial.arguments_f64(case)
    real = [i for i, a in enumerate(trial.formula.arguments) if a.real]
    if not real:
        return trial.skipped("no stale cache", "takes no tensor that could be keyed by pointer")
    natives, before = trial.arguments(values), list(values)
    first = [frameworks.to_float64(y) for y in trial.accepted(trial.invoke(natives), values)]
    if trial.judge(first, trial.truth(values)).T > trial.limit:
        return trial.skipped("no stale cache", "its first value is wrong already")

    def compare(what: str) -> None:
        outs = [frameworks.to_float64(y) for y in trial.accepted(trial.invoke(natives), before)]
        if not resembles(trial, outs, values, before):
            require_agreement(trial, case, outs, values, what)

    fresh = trial.arguments_f64(typical(trial, length=129, seed=2))
    for i in real:
        for at in {0, values[i].size // 2, values[i].size - 1} if values[i].size else ():
            changed = trial.formula.arguments[i].put(values[i], at, float(fresh[i].flat[at]))
            values[i] = values[i] if changed is None else changed
        natives[i][...] = frameworks.native(values[i], True, trial.dtype, trial.framework, trial.device)
        compare("after an in-place change of its input")
    for seed in range(3, 9):
        values = trial.arguments_f64(typical(trial, length=129, seed=seed))
        del natives  # the next input may take its storage
        natives = trial.arguments(values)
        compare("in storage that an earlier call's input had freed")
    return trial.passed("no stale cache", cases=10)


class GuardedAllocator:
    """While active, every ``empty`` array is filled with NaN and has ``GUARD`` known elements on either side."""

    def __init__(self) -> None:
        self.blocks: list[tuple[Any, int]] = []

    def poisoned(self, make: Any, *args: Any, **kwargs: Any) -> Any:
        plain: Any = make(*args, **kwargs)
        block: Any
        if isinstance(plain, np.ndarray):
            block = np.full(plain.size + 2 * GUARD, 7, plain.dtype)
            inner: Any = np.lib.stride_tricks.as_strided(block[GUARD:], plain.shape, plain.strides)
        else:
            block = torch.full((plain.untyped_storage().nbytes() // plain.element_size() + 2 * GUARD,), 7).to(plain)
            inner = block.as_strided(plain.shape, plain.stride(), GUARD)
        floating = plain.dtype.is_floating_point if isinstance(plain, torch.Tensor) else plain.dtype.kind == "f"
        if floating:
            inner[...] = float("nan")
        self.blocks.append((block, plain.numel() if isinstance(plain, torch.Tensor) else plain.size))
        return inner

    def overwritten(self) -> int:
        """How many guard elements no longer hold what was put there."""
        found = 0
        for block, size in self.blocks:
            guards = [block[:GUARD], block[GUARD + size :][:GUARD]]
            sevens = (
                np.full(GUARD, 7, block.dtype) if isinstance(block, np.ndarray) else guards[0].new_full((GUARD,), 7)
            )
            found += sum(int((g != sevens).sum()) for g in guards)
        return found


@contextmanager
def guarded_allocations() -> Iterator[GuardedAllocator]:
    """Replace torch.empty, empty_like, new_empty and np.empty, np.empty_like while a candidate runs."""
    guard = GuardedAllocator()
    places = [(torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty"), (np, "empty"), (np, "empty_like")]
    originals = [(owner, name, getattr(owner, name)) for owner, name in places]
    try:
        for owner, name, make in originals:
            setattr(owner, name, lambda *a, _make=make, **k: guard.poisoned(_make, *a, **k))
        yield guard
    finally:
        for owner, name, make in originals:
            setattr(owner, name, make)


@check("poisoned allocations", "no result depends on uninitialised memory", frameworks=MUTABLE)
def poisoned_allocations(trial: Trial) -> Verdict:
    case = typical(trial)
    values = trial.arguments_f64(case)
    trial.truth(values)
    with guarded_allocations():
        result = trial.invoke(trial.arguments(values))
    outs = [frameworks.to_float64(y) for y in trial.accepted(result, values)]
    require_agreement(trial, case, outs, values, "with NaN in every uninitialised allocation")
    return trial.passed("poisoned allocations", cases=1)


@check("red zones", "nothing is written around an output", frameworks=MUTABLE, independent=True)
def red_zones(trial: Trial) -> Verdict:
    count = 0
    for length in (5, 127, 129):
        case = typical(trial, length=length)
        natives = trial.arguments(trial.arguments_f64(case))
        with guarded_allocations() as guard:
            trial.invoke(natives)
        count += 1
        if guard.overwritten():
            raise Failed(case, f"wrote {guard.overwritten()} elements outside of what it had allocated.")
    return trial.passed("red zones", cases=count)


@check(
    "out", "out= receives the result, is returned, and nothing around it is touched", frameworks=("torch",), claim="out"
)
def out_argument(trial: Trial) -> Verdict:
    case = typical(trial, length=129)
    values = trial.arguments_f64(case)
    shape = trial.truth(values)[0].y.shape
    size = int(np.prod(shape))
    block = torch.full((size + 2 * GUARD,), 7.0, dtype=precision(trial.dtype).torch, device=trial.device)
    target = block[GUARD : GUARD + size].view(shape)
    result = trial.invoke(trial.arguments(values), out=target)
    if result is not target:
        raise Failed(case, "did not return the tensor given as out=.")
    require_agreement(trial, case, [frameworks.to_float64(target)], values, "with out=")
    changed = int((block[:GUARD] != 7).sum() + (block[GUARD + size :] != 7).sum())
    if changed:
        raise Failed(case, f"wrote {changed} elements around out=.")
    return trial.passed("out", cases=1)
