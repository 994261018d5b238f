"""How much memory a training step takes: simulated without allocating it, and calibrated against what was measured.

    total = weights + optimizer state + peak of (gradients + saved activations + temporaries)

``estimate_memory`` runs the real module's forward and backward on tensors without data and adds up the storages that
are alive. That is every byte that PyTorch's operators hand out; what stays unseen is the workspace inside a kernel.
Convolutions have one, for reordered copies: WORKSPACE of the bytes they touch, fitted by ``calibrate`` on modules whose
peak was measured at the allocator. ``python -m trueness.optimized.training.memory`` measures, fits and
prints the errors.
"""

from __future__ import annotations

import copy
import statistics
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trueness.optimized._lib.validation import require_count

__all__ = ["StepMemory", "estimate_memory", "largest_batch", "measure_memory"]

WORKSPACE = 0.6
"""Share of the bytes touched by a convolution that its kernel copies: see ``calibrate``. oneDNN on a x86 CPU."""

Inputs = Sequence[torch.Tensor] | Callable[[], Sequence[torch.Tensor]]
Loss = Callable[[Any], torch.Tensor]


def mean_square(output: Any) -> torch.Tensor:
    """The loss where none is given: mean of the squares of the first tensor that a module returns."""
    first = next(x for x in tree_leaves(output) if isinstance(x, torch.Tensor))
    return first.square().mean()


class PeakMeter(TorchDispatchMode):
    """Counts the bytes of all storages that operators create while it is active, and the most that lived at once.

    workspace   share of a convolution's bytes that is added while it runs
    """

    def __init__(self, workspace: float = 0.0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.workspace, self.now, self.peak = workspace, 0, 0
        self._seen: set[int] = set()

    def _watch(self, values: Any, own: bool) -> None:
        for x in tree_leaves(values):
            if isinstance(x, torch.Tensor) and x.layout == torch.strided:
                storage = x.untyped_storage()
                if storage._cdata not in self._seen:
                    size = storage.nbytes() if own else 0
                    self._seen.add(storage._cdata)
                    self.now += size
                    weakref.finalize(storage, self._freed, storage._cdata, size)

    def _freed(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._watch((args, kwargs), own=False)  # what was there before is not counted
        out = func(*args, **(kwargs or {}))
        self._watch(out, own=True)
        extra = 0.0
        if self.workspace and "convolution" in str(func):
            touched = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)]
            extra = self.workspace * sum(x.numel() * x.element_size() for x in touched)
        self.peak = max(self.peak, self.now + int(extra))
        return out


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one training step.

    weights   parameters and buffers
    states    what the optimizer keeps
    step      most that gradients, saved activations and temporaries take at once
    """

    weights: int
    states: int
    step: int

    @property
    def total(self) -> int:
        return self.weights + self.states + self.step


def estimate_memory(
    module: torch.nn.Module,
    inputs: Inputs,
    *,
    loss: Loss = mean_square,
    states: int = 0,
    workspace: float = WORKSPACE,
) -> StepMemory:
    """The memory of forward, backward and update of ``module``, simulated: nothing of that size is allocated.

    module     a real module; it is neither run nor changed
    inputs     its arguments, or a function that makes them (called where tensors have no data: a batch of any size)
    loss       output → one number
    states     tensors of a parameter's size that the optimizer keeps: 2 for Adam, 1 for momentum, 0 for SGD
    workspace  share of a convolution's bytes that its kernel copies
    returns    StepMemory in bytes
    raises     ValueError if states is negative; whatever the forward raises on tensors without data, if it reads values
    """
    require_count(states, "states", 0)
    parameters = list(module.parameters())
    fake = FakeTensorMode()
    twins: dict[int, Any] = {
        id(p): torch.nn.Parameter(fake.from_tensor(p.detach()), requires_grad=p.requires_grad) for p in parameters
    }
    twins.update({id(b): fake.from_tensor(b.detach()) for b in module.buffers()})
    twin = copy.deepcopy(module, twins)
    for p in twin.parameters():
        p.grad = None
    meter = PeakMeter(workspace)
    with fake:
        given = inputs() if callable(inputs) else [fake.from_tensor(x) for x in inputs]
        with meter:
            loss(twin(*given)).backward()
    trained = [p.numel() * p.element_size() for p in parameters if p.requires_grad]
    update = sum(trained) + 2 * max(trained, default=0) if states else 0  # gradients, and two temporaries
    weights = sum(x.numel() * x.element_size() for x in (*parameters, *module.buffers()))
    return StepMemory(weights, states * sum(trained), max(meter.peak, update))


def measure_memory(
    module: torch.nn.Module,
    inputs: Sequence[torch.Tensor],
    *,
    loss: Loss = mean_square,
    optimizer: torch.optim.Optimizer | None = None,
) -> int:
    """Peak bytes of two training steps beyond the weights, at the allocator: workspaces of kernels included.

    On the CPU from the profiler's record of every allocation, on CUDA from the allocator's own count.
    """

    def run() -> None:
        for _ in range(2):
            loss(module(*inputs)).backward()
            if optimizer is not None:
                optimizer.step()
            module.zero_grad(set_to_none=True)

    if any(x.is_cuda for x in inputs):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        run()
    events = watched.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    now = peak = 0
    for _, size in changes:
        now += size
        peak = max(peak, now)
    return peak


def largest_batch(
    module: torch.nn.Module, make: Callable[[int], Sequence[torch.Tensor]], free: float, **options: Any
) -> int:
    """The largest batch whose estimated step fits into ``free`` bytes beside the weights that are there; 0 if none.

    module   as in ``estimate_memory``, which also takes ``options``
    make     batch → arguments of the module
    free     bytes
    """

    def fits(batch: int) -> bool:
        found = estimate_memory(module, lambda: make(batch), **options)
        return found.states + found.step <= free

    if not fits(1):
        return 0
    low, high = 1, 2
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


# -- calibration ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Calibration:
    """What was measured, and how far the estimate is off.

    workspace   the fitted share
    rows        (name, batch, measured, simulated without workspace, estimated with it), bytes
    held_out    name → relative error of the estimate when the module itself is left out of the fit, worst batch
    """

    workspace: float
    rows: tuple[tuple[str, int, int, int, int], ...]
    held_out: Mapping[str, float]

    @property
    def error(self) -> float:
        """The largest relative error of a module that was not in the fit."""
        return max(self.held_out.values())


Subjects = Mapping[str, tuple[Callable[[], torch.nn.Module], Callable[[int], Sequence[torch.Tensor]]]]


def subjects() -> Subjects:
    """Real modules that the calibration runs on: dense, convolutional, recurrent, attention."""
    nn = torch.nn

    def convolutional(width: int) -> torch.nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            nn.GroupNorm(4, width),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.BatchNorm2d(2 * width),
            nn.SiLU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(2 * width, 3, 3, padding=1),
        )

    def plain() -> torch.nn.Module:
        return nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.SiLU(), nn.Conv2d(32, 32, 3, padding=1), nn.SiLU())

    return {
        "dense": (
            lambda: nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 8)),
            lambda batch: [torch.randn(batch, 64)],
        ),
        "attention": (
            lambda: nn.TransformerEncoderLayer(64, 4, 128, batch_first=True),
            lambda batch: [torch.randn(batch, 32, 64)],
        ),
        "recurrent": (lambda: nn.GRU(32, 64, batch_first=True), lambda batch: [torch.randn(batch, 12, 32)]),
        "convolutions": (plain, lambda batch: [torch.randn(batch, 3, 32, 32)]),
        "small U": (lambda: convolutional(16), lambda batch: [torch.randn(batch, 3, 32, 32)]),
        "wide U": (lambda: convolutional(48), lambda batch: [torch.randn(batch, 3, 24, 24)]),
        "1-d": (
            lambda: nn.Sequential(nn.Conv1d(8, 64, 5, padding=2), nn.ReLU(), nn.Conv1d(64, 64, 5, padding=2)),
            lambda batch: [torch.randn(batch, 8, 256)],
        ),
    }


def calibrate(batches: Sequence[int] = (2, 8, 24), chosen: Subjects | None = None) -> Calibration:
    """Measure every module at every batch, fit the workspace, and tell the error on modules left out of the fit.

    The estimate is linear in the workspace nearly everywhere, so the share of one row is (measured − simulated at 0) /
    (simulated at 1 − simulated at 0), and the fit is the median over the rows where a workspace makes a difference.
    """
    chosen = chosen or subjects()
    found: dict[tuple[str, int], tuple[int, int, int]] = {}
    for name, (make, inputs) in chosen.items():
        module = make()
        for batch in batches:
            ends = [
                estimate_memory(module, lambda n=batch, make=inputs: make(n), workspace=w).step  # type: ignore[misc]
                for w in (0.0, 1.0)
            ]
            found[name, batch] = (measure_memory(module, inputs(batch)), ends[0], ends[1])

    def fit(without: str) -> float:
        shares = [(m - a) / (b - a) for (name, _), (m, a, b) in found.items() if b > a and name != without]
        return statistics.median(shares) if shares else 0.0

    def estimate(at: tuple[str, int], share: float) -> int:
        name, batch = at
        module, inputs = chosen[name][0](), chosen[name][1]
        return estimate_memory(module, lambda: inputs(batch), workspace=share).step

    share = fit("")
    rows = tuple((name, b, m, a, estimate((name, b), share)) for (name, b), (m, a, _) in found.items())
    held_out = {
        name: max(abs(estimate((name, b), fit(name)) / found[name, b][0] - 1) for b in batches) for name in chosen
    }
    return Calibration(share, rows, held_out)


def table(found: Calibration) -> str:
    """The calibration as text."""
    lines = [f"{'module':14}{'batch':>6}{'measured':>12}{'simulated':>12}{'estimated':>12}{'error':>9}"]
    for name, batch, measured, simulated, estimated in found.rows:
        sizes = "".join(f"{n / 2**20:9.2f} MB" for n in (measured, simulated, estimated))
        lines.append(f"{name:14}{batch:6}{sizes}{estimated / measured - 1:+9.1%}")
    left = ", ".join(f"{name} {error:.1%}" for name, error in found.held_out.items())
    lines.append(f"workspace {found.workspace:.2f} of a convolution's bytes; errors of modules left out of the fit:")
    return "\n".join([*lines, left])


if __name__ == "__main__":
    print(table(calibrate()))
