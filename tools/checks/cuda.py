"""Checks that need a CUDA device: graph capture, more than 2³¹ elements, a side stream, compute-sanitizer.

Without a device each is a skip with the reason "no CUDA device".
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from trueness.tools.arithmetic.formats import precision
from trueness.tools.checks.contract import require_agreement, typical
from trueness.tools.checks.core import Failed, check
from trueness.tools.checks.gradients import cotangents_for, gradients
from trueness.tools.run import frameworks
from trueness.tools.run.trial import Trial
from trueness.tools.spec.model import Verdict

CUDA: dict[str, Any] = {"frameworks": ("torch",), "device": "cuda"}


@check("graph capture", "a captured CUDA graph replays to the right values on new input", claim="graph", **CUDA)
def graph_capture(trial: Trial) -> Verdict:
    case = typical(trial, length=129)
    static = trial.arguments(trial.arguments_f64(case))
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            trial.invoke(static)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = trial.invoke(static)
    values = trial.arguments_f64(typical(trial, length=129, seed=2))
    for x, fresh in zip(static, trial.arguments(values), strict=True):
        if isinstance(x, torch.Tensor):
            x.copy_(fresh)
    graph.replay()
    torch.cuda.synchronize()
    outs = [frameworks.to_float64(y) for y in trial.accepted(captured, values)]
    require_agreement(trial, case, outs, values, "replayed from a CUDA graph")
    return trial.passed("graph capture", cases=1)


@contextmanager
def alone() -> Iterator[None]:
    """One process at a time where a check takes most of the device's memory; what it took is given back."""
    with Path(tempfile.gettempdir(), "trueness-device-memory.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            torch.cuda.empty_cache()


@check("int32 overflow", "more than 2³¹ elements are addressed correctly", claim="huge", **CUDA)
def int32_overflow(trial: Trial) -> Verdict:
    """The tail beyond 2³¹ elements is compared with a call on the tail alone (elementwise formulas claim this)."""
    with alone():
        return beyond_int32(trial)


def beyond_int32(trial: Trial) -> Verdict:
    size, tail = 2**31 + 4096, 4096
    case = typical(trial)
    need = 3 * size * torch.finfo(precision(trial.dtype).torch).bits // 8
    if torch.cuda.mem_get_info()[0] < need:
        return trial.skipped("int32 overflow", f"needs {need >> 30} GiB of free device memory")
    natives = trial.arguments(trial.arguments_f64(case))
    for i, argument in enumerate(trial.formula.arguments):
        if argument.real:
            natives[i] = torch.full((size,), 0.5, dtype=precision(trial.dtype).torch, device="cuda")
            natives[i][-tail:].normal_()
    whole = trial.invoke(natives)
    parts = trial.invoke([x[-tail:].clone() if isinstance(x, torch.Tensor) else x for x in natives])
    if not torch.equal(whole[-tail:], parts):
        raise Failed(case, "elements beyond 2³¹ differ from a call on them alone.")
    return trial.passed("int32 overflow", cases=1)


@check("side stream", "on a stream of the caller's the result is complete when that stream is", **CUDA)
def side_stream(trial: Trial) -> Verdict:
    """The input gets its content late, on that stream: a kernel on another stream would read what was there before."""
    case = typical(trial, length=129)
    values = trial.arguments_f64(case)
    natives, late = trial.arguments(trial.arguments_f64(typical(trial, length=129, seed=2))), trial.arguments(values)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        for i, x in enumerate(natives):
            natives[i] = x.copy_(late[i]) if isinstance(x, torch.Tensor) else late[i]
        result = trial.invoke(natives)
        copies = [y.cpu() for y in trial.accepted(result, values)]
    require_agreement(trial, case, [frameworks.to_float64(y) for y in copies], values, "on a side stream")
    return trial.passed("side stream", cases=1)


@check("repeatability", "on a device that is busy sixteen calls and their gradients give the same bits", **CUDA)
def repeatability(trial: Trial) -> Verdict:
    """Another stream keeps the device busy, so that blocks end in another order every time, which reveals atomics."""
    case = typical(trial, length=129)
    values = trial.arguments_f64(case)
    gradient = "gradient" in trial.implementation.claims and trial.formula.vjp is not None
    cotangents = cotangents_for(trial, values, case.seed) if gradient else []
    load, busy = torch.cuda.Stream(), torch.randn(1024, 1024, device="cuda")
    first: list[Any] = []
    for k in range(16):
        with torch.cuda.stream(load):
            for _ in range(k):
                busy @ busy
        found = trial.call(values)
        found += gradients(trial, values, cotangents) if gradient else []
        first = first or [y.tobytes() for y in found]
        if first != [y.tobytes() for y in found]:
            raise Failed(case, f"call {k + 1} gave other bits than the first on the same input.")
    return trial.passed("repeatability", cases=16)


@check("compute-sanitizer", "compute-sanitizer memcheck finds no error", **CUDA)
def compute_sanitizer(trial: Trial) -> Verdict:
    """A process of its own, without the caching allocator, which would hide an overrun inside its pool."""
    case = typical(trial, length=129)
    binary = shutil.which("compute-sanitizer")
    if binary is None:
        return trial.skipped("compute-sanitizer", "compute-sanitizer is not on the PATH")
    if trial.implementation.origin == "user" and ":" not in trial.implementation.name:
        return trial.skipped("compute-sanitizer", "a callable without a module cannot be started again")
    name = repr(trial.implementation.name)
    program = (
        "import trueness; from trueness.tools.run.runner import load_spec; trueness.check("
        f"{trial.formula.name!r}, {name if trial.implementation.origin != 'user' else f'load_spec({name})'}, "
        f"dtype={trial.dtype!r}, device='cuda', case={case.to_json()!r})"
    )
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    command = [binary, "--tool", "memcheck", "--error-exitcode", "9", sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    if done.returncode == 9:
        lines = [line for line in done.stdout.splitlines() if "Invalid" in line or "ERROR SUMMARY" in line]
        raise Failed(case, f"compute-sanitizer: {' '.join(lines[:2])}")
    if done.returncode:
        raise Failed(case, f"the process under compute-sanitizer ended with status {done.returncode}.")
    return trial.passed("compute-sanitizer", cases=1)
