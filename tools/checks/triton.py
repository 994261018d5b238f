"""Checks of a Triton kernel under the interpreter: its addresses, its tiles, its offsets beyond 2³¹.

They apply in a process that was started with TRITON_INTERPRET=1 (an implementation's ``env``) and to what launches
kernels there; elsewhere each is a skip. One dtype is enough, since addresses do not depend on it; the deep
profile runs them in all.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch

from trueness.tools.arithmetic.formats import precision
from trueness.tools.checks.contract import PLAIN, odd_sizes, simplest, typical
from trueness.tools.checks.core import Failed, check, search
from trueness.tools.checks.gradients import differentiable
from trueness.tools.checks.ladder import alternatives
from trueness.tools.run import frameworks
from trueness.tools.run.frameworks import Rejected
from trueness.tools.run.trial import Trial
from trueness.tools.spec.model import Case, Verdict
from trueness.tools.triton.interpreter import Launch, Record, interpreting, watched

MOST = 32  # programs of a launch: what is interpreted one after another
DRAWN = 3  # cases drawn beside the typical and the odd ones
LISTED = 6  # cases of scalars that are one of a list
STRIDE = 2**30 + 8  # elements between rows: a 32-bit number, whose double is none
TAIL = 1000  # elements that are computed and compared, the last tile not full
HUGE = 2**31 + TAIL


def why_not(trial: Trial) -> str:
    """Why nothing can be watched here; empty when it can."""
    if not interpreting():
        return "no Triton kernel is interpreted in this process"
    if trial.dtype != "float32" and not trial.profile.every_dtype:
        return "run in float32; in every dtype by the deep profile"
    return ""


def cases_of(trial: Trial) -> list[Case]:
    """The typical ones, the odd ones, a few of other scalars, and a few that are drawn."""
    found = [typical(trial), typical(trial, length=129), *listed_of(trial)]
    found += [Case(sizes=sizes, seed=k, scalars=simplest(trial), **PLAIN) for k, sizes in enumerate(odd_sizes(trial))]
    few = Trial(trial.formula, trial.implementation, trial.dtype, trial.device, examples=DRAWN)
    search(few, found.append)
    return found


def listed_of(trial: Trial) -> list[Case]:
    return list(islice(alternatives(trial.formula, typical(trial)), LISTED))


def run_once(trial: Trial, case: Case) -> None:
    """One call and, where it is claimed, its backward, on contiguous input; the value check compares the results."""
    natives = trial.arguments(trial.arguments_f64(case))
    pulled = "gradient" in trial.implementation.claims and trial.formula.vjp is not None
    wanted = [natives[i] for i in differentiable(trial)] if pulled else []
    for x in wanted:
        x.requires_grad_(True)
    result = trial.invoke(natives)
    outs = [y for y in (result if isinstance(result, tuple) else (result,)) if y.requires_grad]
    if wanted and outs:
        torch.autograd.grad(outs, wanted, [torch.randn_like(y) for y in outs], allow_unused=True)


@dataclass
class Watched:
    """The trial that was watched last, and what its launches did: two checks look at the same run."""

    trial: Trial | None = None
    found: list[tuple[Case, Record]] = field(default_factory=list)


_LAST = Watched()


def seen(trial: Trial) -> list[tuple[Case, Record]]:
    """Every case with what its launches did."""
    if _LAST.trial is not trial:
        _LAST.trial, _LAST.found = trial, list(watch(trial))
    return _LAST.found


def watch(trial: Trial) -> Iterator[tuple[Case, Record]]:
    listed = listed_of(trial)
    for case in cases_of(trial):
        trial.heartbeat(case.to_json())
        with watched() as record:
            try:
                run_once(trial, case)
            except Exception:  # an overrun ends the launch; other exceptions are left to the value check
                if not record.faults:
                    continue
        if case in listed and any(launch.programs > MOST for launch in record.launches):
            continue  # a window that divides an axis into more programs than the typical one
        yield case, record


@check(
    "kernel memory",
    "an interpreted kernel touches only the tensors it was given, and no two of its programs write the same element",
    frameworks=("torch",),
    independent=True,
)
def kernel_memory(trial: Trial) -> Verdict:
    if reason := why_not(trial):
        return trial.skipped("kernel memory", reason)
    count = launches = 0
    for case, record in seen(trial):
        if record.faults:
            raise Failed(case, record.faults[0] + ".")
        count, launches = count + 1, launches + len(record.launches)
    if not launches:
        return nothing(trial, "kernel memory")
    return trial.passed("kernel memory", cases=count)


def nothing(trial: Trial, name: str) -> Verdict:
    """No kernel was launched: a skip, or a failure where kernels are declared."""
    if trial.implementation.kernels is not dict:
        return trial.failed(name, message="declares Triton kernels and launched none of them.")
    return trial.skipped(name, "launches no Triton kernel")


@check(
    "kernel tiles",
    f"in at most {MOST} programs a launch, every bound cuts a tile short once and every axis has a second program",
    frameworks=("torch",),
    independent=True,
)
def kernel_tiles(trial: Trial) -> Verdict:
    """Coverage of the cases: every mask is used with a partial tile, every offset with a second program."""
    if reason := why_not(trial):
        return trial.skipped("kernel tiles", reason)
    cut: dict[Any, bool] = {}
    widest: dict[tuple[str, int], int] = {}
    count, last = 0, typical(trial)
    for case, record in seen(trial):
        count, last = count + 1, case
        for place, mixed in record.bounds.items():
            cut[place] = cut.get(place, False) or mixed
        for launch in record.launches:
            if launch.programs > MOST:
                raise Failed(case, f"{launch.name} took {launch.programs} programs, more than {MOST}.")
            for axis in launch.axes:
                widest[launch.name, axis] = max(widest.get((launch.name, axis), 0), launch.grid[axis])
    if not widest:
        return nothing(trial, "kernel tiles")
    whole = sorted({f"{p[0]} ({p[-1].rpartition(' (')[0]})" for p, mixed in cut.items() if not mixed})
    if whole:
        raise Failed(last, f"in {count} cases no tile was cut short at the bound of {', '.join(whole)}.")
    single = sorted(f"{name}, axis {axis}" for (name, axis), most in widest.items() if most < 2)
    if single:
        raise Failed(last, f"in {count} cases there was no second program along {'; '.join(single)}.")
    return trial.passed("kernel tiles", cases=count)


# -- offsets beyond 2³¹ -----------------------------------------------------------------------------------------------


class Sparse:
    """Tensors in files without content: only the pages that are touched take memory."""

    def __init__(self) -> None:
        self.held: list[Any] = []

    def empty(self, elements: int, dtype: torch.dtype) -> torch.Tensor:
        size = elements * dtype.itemsize
        file = tempfile.TemporaryFile()  # the mapping outlives it
        file.truncate(size)
        memory = mmap.mmap(file.fileno(), size)
        if hasattr(mmap, "MADV_RANDOM"):
            memory.madvise(mmap.MADV_RANDOM)  # what is not touched is not read ahead
        self.held.append((file, memory))
        return torch.from_numpy(np.frombuffer(memory, np.uint8)).view(dtype)

    def spread(self, tensor: torch.Tensor) -> torch.Tensor:
        """The same values, the rows of the first axis of two or more ``STRIDE`` elements apart."""
        axes = [k for k, n in enumerate(tensor.shape) if n > 2]
        if not axes:
            return tensor
        strides = list(torch.empty(tensor.shape).stride())
        strides[axes[0]] = STRIDE
        length = (tensor.shape[axes[0]] - 1) * STRIDE + tensor.numel()
        far = self.empty(length, tensor.dtype).as_strided(tensor.shape, strides)
        return far.copy_(tensor)


@contextmanager
def sparse_results(sparse: Sparse) -> Iterator[None]:
    """A huge ``torch.empty_like`` uses sparse memory, so that it fits on a small machine."""
    original = torch.empty_like

    def made(tensor: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        if tensor.numel() < 2**28:
            return original(tensor, **kwargs)
        return sparse.empty(tensor.numel(), kwargs.get("dtype") or tensor.dtype).view(tensor.shape)

    setattr(torch, "empty_like", made)  # noqa: B010 - to the type checker it is a constant
    try:
        yield
    finally:
        setattr(torch, "empty_like", original)  # noqa: B010


def first_and_last(programs: int) -> list[int]:
    """The first program of many and the last sixteen, which reach beyond 2³¹ elements."""
    return [0, *range(programs - MOST, programs)] if programs > 2 * MOST else list(range(programs))


@check(
    "kernel offsets",
    "an interpreted kernel addresses elements beyond 2³¹ correctly",
    frameworks=("torch",),
)
def kernel_offsets(trial: Trial) -> Verdict:
    """Rows far apart; and where the formula is elementwise, more elements than 2³¹, of which the ends are computed.

    The real kernels on real addresses: the memory between is never touched. float32, since half formats are interpreted
    through a copy.
    """
    if reason := why_not(trial):
        return trial.skipped("kernel offsets", reason)
    if trial.dtype != "float32":
        return trial.skipped("kernel offsets", "interpreted through a copy in float32")
    case = typical(trial)
    natives = trial.arguments(trial.arguments_f64(case))
    plain = arrays(trial.invoke(natives))
    sparse = Sparse()
    far = [
        sparse.spread(x) if a.real and isinstance(x, torch.Tensor) else x
        for a, x in zip(trial.formula.arguments, natives, strict=True)
    ]
    launches = same(trial, case, far, plain, "rows 2³⁰ elements apart")
    if elementwise(trial):
        launches += huge(trial, case, natives, sparse)
    if not launches:
        return nothing(trial, "kernel offsets")
    if all(launch.reach < 2**31 for launch in launches):
        return trial.skipped("kernel offsets", "its kernels get copies, which end before element 2³¹")
    return trial.passed("kernel offsets", cases=2 if elementwise(trial) else 1)


def elementwise(trial: Trial) -> bool:
    return all(getattr(a, "dims", ()) == ("...",) for a in trial.formula.arguments if a.tensor)


def arrays(result: Any) -> list[torch.Tensor]:
    return list(result) if isinstance(result, tuple) else [result]


def same(trial: Trial, case: Case, natives: Sequence[Any], plain: Sequence[torch.Tensor], what: str) -> list[Launch]:
    """Launches made; Failed when these arguments give other bits than ``plain``, or leave their memory."""
    with watched() as record:
        try:
            outs = arrays(trial.invoke(natives))
        except Rejected as rejection:
            raise Failed(case, f"with {what}: {record.faults[0] if record.faults else rejection}.") from None
    for a, b in zip(outs, plain, strict=True):
        if not np.array_equal(frameworks.to_float64(a), frameworks.to_float64(b), equal_nan=True):
            raise Failed(case, f"with {what} it gives other values than without.")
    return record.launches


def huge(trial: Trial, case: Case, natives: Sequence[Any], sparse: Sparse) -> list[Launch]:
    """The tail of more than 2³¹ elements is what a call on the tail alone gives."""
    given, small = list(natives), list(natives)
    generator = torch.Generator().manual_seed(1)
    for i, argument in enumerate(trial.formula.arguments):
        if argument.real:
            given[i] = sparse.empty(HUGE, precision(trial.dtype).torch)
            given[i][-TAIL:] = torch.randn(TAIL, generator=generator)
            small[i] = given[i][-TAIL:].clone()
    plain = arrays(trial.invoke(small))
    with watched(first_and_last) as record, sparse_results(sparse):
        try:
            outs = arrays(trial.invoke(given))
        except Rejected as rejection:
            raise Failed(case, f"of {HUGE} elements: {record.faults[0] if record.faults else rejection}.") from None
    for a, b in zip(outs, plain, strict=True):
        if not np.array_equal(frameworks.to_float64(a.flatten()[-TAIL:]), frameworks.to_float64(b.flatten())):
            raise Failed(case, f"of {HUGE} elements the last {TAIL} differ from a call on them alone.")
    return record.launches
