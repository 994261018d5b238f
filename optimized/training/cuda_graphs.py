"""CUDA graphs: which modules may be captured, under which key, and the replay itself.

A graph replays kernels on fixed addresses: it sees no new shapes, no Python, and no argument that was not captured. So
a module is eligible only if its forward takes just the tensors that are copied into the graph. What a signature cannot
tell is whether the forward branches on data: that is the caller's to know.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from trueness.optimized._lib.validation import require_count

__all__ = ["Eligibility", "Graphed", "graph_key", "graphable"]

POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class Eligibility:
    """Whether a forward may be captured, and the reason if not. Truthy if it may."""

    eligible: bool
    reason: str = ""

    def __bool__(self) -> bool:
        return self.eligible


def graphable(module: torch.nn.Module | Callable[..., Any], inputs: int = 2) -> Eligibility:
    """Whether the forward takes exactly ``inputs`` positional arguments, (x, t) by default, and nothing else.

    An optional third argument counts: a caller may pass it, and the graph would replay without it. Keyword-only
    arguments with a default do not count, because ``Graphed`` never passes them. A bound method does not show self,
    so (x, t) are two parameters and not three.

    module   a module, or any callable
    inputs   tensors that are copied into the graph, ≥ 1
    returns  Eligibility, with the reason if it is not
    raises   ValueError for fewer than one input
    """
    require_count(inputs, "inputs", 1)
    forward = module.forward if isinstance(module, torch.nn.Module) else module
    try:
        parameters = inspect.signature(forward).parameters.values()
    except (TypeError, ValueError):
        return Eligibility(False, "its signature cannot be read")
    for p in parameters:
        if p.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            return Eligibility(False, f"it takes {'**' if p.kind == inspect.Parameter.VAR_KEYWORD else '*'}{p.name}")
        if p.kind == inspect.Parameter.KEYWORD_ONLY and p.default is inspect.Parameter.empty:
            return Eligibility(False, f"it needs the keyword {p.name}")
    positional = [p.name for p in parameters if p.kind in POSITIONAL]
    if len(positional) != inputs:
        return Eligibility(False, f"it takes {len(positional)} arguments ({', '.join(positional)}), not {inputs}")
    return Eligibility(True)


def graph_key(module: torch.nn.Module, *tensors: torch.Tensor) -> tuple[Any, ...]:
    """What a captured graph is good for: shape, dtype and device of every tensor, and the mode of every submodule.

    Also whether autocast is on and in which dtype: the captured kernels have it built in.
    """
    kind = tensors[0].device.type if tensors else "cpu"
    cast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    described = tuple((tuple(x.shape), x.dtype, x.device) for x in tensors)
    return (*described, tuple(part.training for part in module.modules()), cast)


class Graphed:
    """``module`` under no_grad, replayed from a CUDA graph where it is eligible, called as it is everywhere else.

    module   its parameters are read at replay from where they were at capture: edit them in place, do not replace them
    inputs   tensors that it takes
    size     graphs kept, one per key, the least recently used forgotten first
    warm_up  calls before a capture, ≥ 2: libraries choose algorithms and workspaces in them
    raises   ValueError for a size below 1 or fewer than 2 warm-up calls

    ``why`` says why the last call was not replayed, "" if it was. Outputs are copies.
    """

    def __init__(self, module: torch.nn.Module, inputs: int = 2, size: int = 16, warm_up: int = 2) -> None:
        if size < 1 or warm_up < 2:
            raise ValueError(f"size was {size} and warm_up {warm_up}; they must be at least 1 and 2.")
        self.module, self.inputs, self.size, self.warm_up = module, inputs, size, warm_up
        self.eligible = graphable(module, inputs)
        self.why = ""
        self._graphs: OrderedDict[Any, tuple[Any, list[torch.Tensor], torch.Tensor]] = OrderedDict()

    @torch.no_grad()
    def __call__(self, *tensors: torch.Tensor) -> torch.Tensor:
        self.why = self._reason(tensors)
        if self.why:
            result: torch.Tensor = self.module(*tensors)
            return result
        addresses = tuple(p.data_ptr() for p in (*self.module.parameters(), *self.module.buffers()))
        key = (graph_key(self.module, *tensors), addresses)
        if key not in self._graphs:
            self._graphs[key] = self._capture(tensors)
            if len(self._graphs) > self.size:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        graph, inside, out = self._graphs[key]
        for held, x in zip(inside, tensors, strict=True):
            held.copy_(x)
        graph.replay()
        return out.clone()

    def _reason(self, tensors: tuple[torch.Tensor, ...]) -> str:
        if not self.eligible:
            return self.eligible.reason
        if len(tensors) != self.inputs:
            return f"it was given {len(tensors)} tensors, not {self.inputs}"
        if not all(isinstance(x, torch.Tensor) and x.is_cuda for x in tensors):
            return "its arguments are not all CUDA tensors"
        return "it is in training mode" if any(part.training for part in self.module.modules()) else ""

    def _capture(self, tensors: tuple[torch.Tensor, ...]) -> tuple[Any, list[torch.Tensor], torch.Tensor]:
        inside = [x.clone() for x in tensors]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(self.warm_up):
                self.module(*inside)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out: torch.Tensor = self.module(*inside)
        return graph, inside, out
