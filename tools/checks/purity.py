"""A call leaves its inputs alone, returns memory of its own, and says the same again: one pass over the drawn cases.

The three checks read one observation, made when the first of them runs. Every case is called twice; then the first
cases are called again in reversed order, so that state kept between calls shows where it depends on their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from trueness.tools.checks.contract import MUTABLE, simplest, typical
from trueness.tools.checks.core import Failed, check, search
from trueness.tools.checks.ladder import ladder_of, longest
from trueness.tools.run import frameworks
from trueness.tools.run.frameworks import Rejected
from trueness.tools.run.trial import Trial
from trueness.tools.spec.model import Case, Verdict

DETERMINISM, UNCHANGED, ALIASING = "determinism", "inputs unchanged", "no aliasing"
VIEW = "view"  # a policy (tools/checks/policy_table.py)


# -- memory -----------------------------------------------------------------------------------------------------------


def contents(value: Any) -> Any:
    """The bytes of an array, the value of anything else."""
    if isinstance(value, torch.Tensor):
        packed = value.detach().clone(memory_format=torch.contiguous_format)  # one number may have stride 0
        return packed.flatten().view(torch.uint8).cpu().numpy().tobytes()
    if isinstance(value, (list, tuple)):
        return [contents(v) for v in value]
    return value.tobytes() if isinstance(value, np.ndarray) else value


def state(value: Any) -> Any:
    """What a call must leave as it was: contents, shape, strides; of a tensor its whole storage, version and flag."""
    if isinstance(value, torch.Tensor):
        storage = torch.empty(0, dtype=torch.uint8, device=value.device).set_(value.untyped_storage())
        return contents(storage), value._version, tuple(value.shape), value.stride(), value.requires_grad
    if isinstance(value, (list, tuple)):
        return [state(v) for v in value]
    return (contents(value), value.shape, value.strides) if isinstance(value, np.ndarray) else value


def difference(before: Any, after: Any) -> str:
    """How a state has changed, as the rest of a sentence; empty where it has not."""
    if before == after:
        return ""
    if isinstance(before, tuple) and len(before) == 5 and before[0] == after[0]:
        if before[2:4] != after[2:4]:
            return "changed the shape or the strides of"
        return "changed requires_grad of" if before[4] != after[4] else "wrote the same bits again to"
    return "wrote to"


def written(names: Sequence[str], natives: Sequence[Any], before: Sequence[Any], what: str = "its input") -> str:
    """The sentence about the first of ``natives`` that is no longer in the state it was in; empty if all are."""
    for name, x, old in zip(names, natives, before, strict=True):
        if change := difference(old, state(x)):
            version = (
                f" (its version went from {old[1]} to {x._version})" if change.startswith("wrote the same") else ""
            )
            return f"{change} {what} {name}{version}."
    return ""


def extent(array: Any) -> tuple[int, int]:
    """The addresses between which the memory of an array lies, that of whatever it is a view of."""
    if isinstance(array, torch.Tensor):
        storage = array.untyped_storage()
        return storage.data_ptr(), storage.data_ptr() + storage.nbytes()
    if not isinstance(array, np.ndarray):  # a number: it has no memory to share
        return 0, 0
    owner: Any = array
    while True:  # through views of views, those made by as_strided and by memoryview among them
        base = owner.obj if isinstance(owner, memoryview) else getattr(owner, "base", None)
        if isinstance(base, torch.Tensor):
            return extent(base)
        if not any(isinstance(base, np.ndarray) or hasattr(base, name) for name in ("base", "obj")):
            break
        owner = base
    found = owner if isinstance(owner, np.ndarray) else array
    low, high = np.lib.array_utils.byte_bounds(found)
    return (low, high) if found.size else (0, 0)


def overlap(a: Any, b: Any) -> bool:
    (low, high), (least, most) = extent(a), extent(b)
    return low < most and least < high


def elements_overlap(a: Any, b: Any) -> bool:
    """Whether two arrays have an element in common: two halves of one allocation have none."""
    if not overlap(a, b):
        return False
    if isinstance(a, np.ndarray):
        return bool(np.shares_memory(a, b))
    if a.element_size() != b.element_size():
        return True
    first, second = (element_addresses(x) for x in (a, b))
    return bool(np.intersect1d(first, second).size)


def element_addresses(tensor: torch.Tensor) -> np.ndarray:
    """The address of every element of a tensor."""
    found = np.full((), tensor.data_ptr(), np.int64)
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        found = found[..., None] + np.arange(length) * stride * tensor.element_size()
    return found


def shared(outs: Sequence[Any], others: Sequence[tuple[str, Any]], what: str = "output") -> str:
    """The sentence about the first of ``outs`` that shares memory with one of the others; empty if none does."""
    for k, out in enumerate(outs):
        for name, other in others:
            if out is other and len(np.shape(out)):
                return f"{what} {k} is the same object as {name}."
            if overlap(out, other):
                return f"{what} {k} shares memory with {name}."
    return ""


def within(outs: Sequence[Any]) -> str:
    """The sentence about two outputs of one call with an element in common; empty if there are none."""
    for k, out in enumerate(outs):
        for j, other in enumerate(outs[:k]):
            if elements_overlap(out, other):
                return f"output {k} shares memory with output {j}."
    return ""


def same(a: Any, b: Any) -> bool:
    """Whether two results agree bit by bit; one NaN is as good as another."""
    if contents(a) == contents(b):
        return True
    x, y = frameworks.to_float64(a), frameworks.to_float64(b)
    return np.array_equal(x, y, equal_nan=True) and np.array_equal(np.signbit(x[x == x]), np.signbit(y[y == y]))


def unlike(first: Sequence[Any], second: Sequence[Any]) -> str:
    """Where two results differ and how; empty where they do not."""
    for k, (a, b) in enumerate(zip(first, second, strict=True)):
        if not same(a, b):
            x, y = frameworks.to_float64(a), frameworks.to_float64(b)
            numbers = ~(np.isnan(x) & np.isnan(y))
            at = tuple(int(i) for i in np.argwhere(numbers & ((x != y) | (np.signbit(x) != np.signbit(y))))[0])
            index = f"[{', '.join(map(str, at))}]" if at else ""
            return f"output{f' {k}' if len(first) > 1 else ''}{index} was {x[at]:.17g}, then {y[at]:.17g}"
    return ""


# -- the pass ---------------------------------------------------------------------------------------------------------


@dataclass
class Observation:
    """cases: how many were called twice; again: how many a third time; found: check → a case on which it fails; view:
    the sentence about an output that is a view of an input, where that is a policy."""

    cases: int = 0
    again: int = 0
    view: str = ""
    found: dict[str, Failed] = field(default_factory=dict)
    rejection: Rejected | None = None


def kept(outs: Sequence[Any], framework: str) -> list[Any]:
    """Copies of the outputs: what is returned may be overwritten by the next call."""
    if framework == "torch":
        return [y.detach().clone() for y in outs]
    return [np.array(y) for y in outs]


def items(names: Sequence[str], natives: Sequence[Any]) -> list[tuple[str, Any]]:
    pairs = zip(names, natives, strict=True)
    return [(f"its input {n}", item) for n, x in pairs for item in (x if isinstance(x, (list, tuple)) else [x])]


def look(trial: Trial, case: Case, earlier: Sequence[Any] = ()) -> tuple[dict[str, str], list[Any], list[Any]]:
    """Call ``case`` twice: check → sentence where one fails, a copy of the first outputs, and all outputs."""
    values = trial.arguments_f64(case)
    names = [a.name for a in trial.formula.arguments]
    natives = trial.arguments(values)
    mutable = trial.framework in MUTABLE
    before = [state(x) for x in natives] if mutable else []
    outs = trial.accepted(trial.invoke(natives), values)
    said: dict[str, str] = {}
    if mutable and (sentence := written(names, natives, before)):
        said[UNCHANGED] = sentence
    first = kept(outs, trial.framework)
    try:
        again = trial.accepted(trial.invoke(trial.arguments(values) if UNCHANGED in said else natives), values)
    except Rejected as rejection:
        said[DETERMINISM] = f"the same case gave different results on call 2: it {rejection}"
        again = []
    if again and (where := unlike(first, again)):
        said[DETERMINISM] = f"the same case gave different results on call 2: {where}."
    if mutable:
        given = items(names, natives)
        viewed = "" if trial.strict or UNCHANGED in said else shared(outs, given)
        results = earlier if viewed else [*again, *earlier]  # two views of one input share memory
        others = [*([] if viewed else given), *((f"output {k} of an earlier call", y) for k, y in enumerate(results))]
        if sentence := shared(outs, others) or within(outs):
            said[ALIASING] = sentence
        elif viewed:
            said[VIEW] = viewed
    return said, first, [*outs, *again]


def observe(trial: Trial) -> Observation:
    """The observation of this trial, made once."""
    if trial.observed is None:
        trial.observed = made(trial)
    return trial.observed  # type: ignore[no-any-return]


def made(trial: Trial) -> Observation:
    seen = Observation()
    first: list[tuple[Case, list[Any]]] = []
    earlier: list[Any] = []  # kept alive, so that no output is given their memory

    def body(case: Case) -> None:
        try:
            said, copies, outs = look(trial, case, earlier)
        except Rejected as rejection:  # left to the value check, which runs on these very cases
            seen.rejection = rejection
            return
        seen.cases += 1
        seen.view = seen.view or said.pop(VIEW, "")
        for name, sentence in said.items():
            seen.found.setdefault(name, Failed(case, sentence))
        first.append((case, copies))
        earlier[:] = [*earlier, *outs][-8:]

    fewer = trial
    if trial.interpreted:  # an interpreted kernel takes a thousand times as long
        fewer = replace(trial, examples=max(1, trial.examples // 3))
    search(fewer, body)
    if trial.replay is None:  # small ones first: a workspace that has grown shows when they are called again
        body(typical(trial))
        if not trial.interpreted:
            body(typical(trial, length=129))
        for rung in longest(ladder_of(trial, simplest(trial)).rungs) if trial.paths and not trial.interpreted else ():
            body(rung.case)
    if DETERMINISM not in seen.found:
        in_another_order(trial, first[: max(1, fewer.examples // 3)], seen)
    return seen


def in_another_order(trial: Trial, first: Sequence[tuple[Case, list[Any]]], seen: Observation) -> None:
    """Call the first cases again, the last of them first."""
    for case, copies in reversed(first):
        values = trial.arguments_f64(case)
        try:
            where = unlike(copies, trial.accepted(trial.invoke(trial.arguments(values)), values))
        except Rejected as rejection:
            where = f"it {rejection}".rstrip(".")
        seen.again += 1
        if where:
            message = f"the same case gave different results on call 3, after calls on other cases: {where}."
            seen.found[DETERMINISM] = Failed(case, message)
            return


def verdict(trial: Trial, name: str) -> Verdict:
    seen = observe(trial)
    if name in seen.found:
        raise smaller(trial, name, seen.found[name])
    if not seen.cases and seen.rejection is not None:
        raise seen.rejection
    if name == ALIASING and seen.view:
        return trial.passed(name, cases=seen.cases, message=f"a policy of its own: {seen.view}", policies=(VIEW,))
    return trial.passed(name, cases=seen.cases + (seen.again if name == DETERMINISM else 0))


def smaller(trial: Trial, name: str, failure: Failed) -> Failed:
    """The same failure on a shrunk case; itself where it does not show on the drawn cases alone."""

    def body(case: Case) -> None:
        said = look(trial, case)[0]
        if name in said:
            raise Failed(case, said[name])

    try:
        search(trial, body)
    except Failed as found:
        return found
    return failure


@check(DETERMINISM, "calls on the same input give the same bits, at once and in another order", independent=True)
def determinism(trial: Trial) -> Verdict:
    return verdict(trial, DETERMINISM)


@check(UNCHANGED, "no input is written to, not even with the same bits", frameworks=MUTABLE, independent=True)
def inputs_unchanged(trial: Trial) -> Verdict:
    return verdict(trial, UNCHANGED)


@check(ALIASING, "an output shares memory with no input and no other output", frameworks=MUTABLE, independent=True)
def no_aliasing(trial: Trial) -> Verdict:
    return verdict(trial, ALIASING)
