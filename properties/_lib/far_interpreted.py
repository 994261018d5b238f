"""Run the Triton kernels, interpreted, on tensors of more than 2³¹ elements, and check the results at their end.

    TRITON_INTERPRET=1 python properties/_lib/far_interpreted.py "attention 9 × 9" "Omega rule, l2"
    TRITON_INTERPRET=1 python properties/_lib/far_interpreted.py --narrow …        # with offsets of 32 bits: wrong

All images, planes or sequences but the last are zero. They are stored in sparse files, and only the programs of the
last one are run: its results must equal, bit for bit, those of a call on it alone. Operators copy their arguments to
another layout, so that large offsets would not reach the kernels; so the functions that launch the kernels are called.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch

import trueness.optimized
from trueness.optimized.filters.fft import gaussian_factors
from trueness.optimized.filters.tiles import Grid, grid_of
from trueness.tools.checks.triton import Sparse
from trueness.tools.triton.interpreter import speed_up, watched

FAR = 2**31
SPARSE = 2**26  # elements from which on a tensor is stored in a file
FEW = 32  # if an axis has at most this many programs, all are run
HEADS = 4096  # of attention, so that few images suffice: one kernel of its backward reads all of them
NAMES = (
    "attention.cuda.common",
    "attention.cuda.forward",
    "attention.cuda.backward",
    "filters.cuda.kernels",
    "filters.cuda.planes",
    "atlas_memory.cuda.forward",
    "atlas_memory.cuda.backward",
    "atlas_memory.cuda.step",
    "kernels.cuda.forward",
)

Tensor = torch.Tensor
Run = Callable[["FarTensors", int], list[Tensor]]


def modules(narrow: bool, folder: Path) -> dict[str, Any]:
    """The modules of the kernels, or with ``narrow`` copies of them in ``folder`` whose offsets have 32 bits."""
    found: dict[str, Any] = {}
    for name in NAMES:
        full = f"trueness.optimized.{name}"
        if narrow:
            origin = Path(str(trueness.optimized.__file__)).parent.joinpath(*name.split(".")).with_suffix(".py")
            (folder / f"{name}.py").write_text(origin.read_text("utf-8").replace("tl.int64", "tl.int32"), "utf-8")
            spec = importlib.util.spec_from_file_location(full, folder / f"{name}.py")
            assert spec is not None and spec.loader is not None
            module: ModuleType = importlib.util.module_from_spec(spec)
            sys.modules[full] = module
            spec.loader.exec_module(module)
            package, _, leaf = full.rpartition(".")
            setattr(importlib.import_module(package), leaf, module)
        found[name] = importlib.import_module(full)
    return found


class FarTensors:
    """Makes the tensors of a run: zero but for the last entries, large ones in sparse files."""

    def __init__(self) -> None:
        self.sparse, self.generator = Sparse(), torch.Generator().manual_seed(1)

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        count = math.prod(shape)
        return torch.zeros(shape, dtype=dtype) if count < SPARSE else self.sparse.empty(count, dtype).view(shape)

    def drawn(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def last(self, value: Tensor, axes: dict[int, int]) -> Tensor:
        """Zeros whose last entry along ``axes``, axis → length, is ``value``, of length 1 along them."""
        shape = [axes.get(k, n) for k, n in enumerate(value.shape)]
        large = self.zeros(tuple(shape), value.dtype)
        large[tuple(slice(n - 1, n) if k in axes else slice(None) for k, n in enumerate(shape))] = value
        return large

    @contextmanager
    def in_files(self) -> Iterator[None]:
        """torch.empty and empty_like return zeros, in a file if they are large."""
        kept = torch.empty, torch.empty_like

        def empty(*shape: Any, dtype: torch.dtype = torch.float32, device: Any = None) -> Tensor:
            return self.zeros(tuple(shape[0]) if isinstance(shape[0], (tuple, list, torch.Size)) else shape, dtype)

        def empty_like(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
            return self.zeros(tuple(x.shape), dtype or x.dtype)

        vars(torch).update(empty=empty, empty_like=empty_like)
        try:
            yield
        finally:
            vars(torch).update(empty=kept[0], empty_like=kept[1])


# -- problems: the results of the last of many entries ----------------------------------------------------------------


def attention(kernels: dict[str, Any], window: int, side: int) -> Run:
    """One head of 64 channels, the last of many where there is more than one image."""

    def run(memory: FarTensors, images: int) -> list[Tensor]:
        heads, d, area = 1 if images == 1 else HEADS, 64, window * window
        many = {0: images, 4: heads}
        qkv = memory.last(memory.drawn(1, side, side, 3, 1, d), many).view(images, side, side, -1)
        time = memory.last(memory.drawn(1, 2, 1, d), {0: images, 2: heads}).view(images, 2, -1)
        bias = memory.last(memory.drawn(1, area, area), {0: heads})
        grad = memory.last(memory.drawn(1, side, side, 1, d), {0: images, 3: heads}).view(images, side, side, -1)
        o = kernels["attention.cuda.forward"].forward(qkv, time, bias, window, heads)
        of_qkv, of_time, of_bias = kernels["attention.cuda.backward"].backward(grad, qkv, time, bias, window, heads)
        return [
            o.view(images, side, side, heads, d)[-1, :, :, -1],
            of_qkv.view(images, side, side, 3, heads, d)[-1, :, :, :, -1],
            of_time.view(images, 2, heads, d)[-1, :, -1],
            of_bias[-1],
        ]

    return run


def grid() -> Grid:
    found = grid_of([0, 0, 6, 6], [0, 6, 0, 6], (14, 14), (8, 8), "triangular")
    assert found is not None
    return found


def blend(kernels: dict[str, Any]) -> Run:
    module = kernels["filters.cuda.kernels"]
    return lambda memory, planes: [module.blend(memory.last(memory.drawn(4, 1, 8, 8), {1: planes}), grid())[-1]]


def cut(kernels: dict[str, Any]) -> Run:
    module = kernels["filters.cuda.kernels"]
    return lambda memory, planes: [module.cut(memory.last(memory.drawn(1, 14, 14), {0: planes}), grid())[-1, -1]]


def scale(kernels: dict[str, Any]) -> Run:
    def run(memory: FarTensors, planes: int) -> list[Tensor]:
        spectrum = torch.view_as_complex(memory.last(memory.drawn(1, 8, 5, 2), {0: planes}))
        kernels["filters.cuda.kernels"].scale(spectrum, memory.drawn(8), memory.drawn(5))
        return [torch.view_as_real(spectrum[-1])]

    return run


def planes(kernels: dict[str, Any]) -> Run:
    module = kernels["filters.cuda.planes"]
    return lambda memory, count: [
        module.filtered(memory.last(memory.drawn(1, 8, 8), {0: count}), gaussian_factors(8, 8, 1.0))[-1]
    ]


def omega(kernels: dict[str, Any], mode: int) -> Run:
    """Two chunks of 64 tokens, 64 features and values; the window is 1, so that a row is a token in every mode."""

    def run(memory: FarTensors, batch: int) -> list[Tensor]:
        first = {0: batch}
        P, V, N, C = 64, 64, 2, 64
        layout = kernels["atlas_memory.cuda.forward"].Layout(batch, N * C, 1, P, V, N, C, C, 1, mode)
        q, k, v, grad = (memory.last(memory.drawn(1, N * C, 1, P) / 8, first) for _ in range(4))
        M, S, of_M, of_S = (memory.last(memory.drawn(1, 1, P, V) / 8, first) for _ in range(4))
        solved = tuple(memory.zeros((0,)) for _ in range(2))
        if mode == 2:
            v, *given = (memory.last(memory.drawn(1, 1, N, C, P) / 8, first) for _ in range(3))
            solved = tuple(given)
        shapes = (C, C), (2, C), (2, C), (3,)
        gates = tuple(memory.last(memory.drawn(1, 1, N, *shape) / 8, first) for shape in shapes)
        found = kernels["atlas_memory.cuda.forward"].forward(layout, (q, k, v, M, S), solved, gates, "ieee")
        kept, errors = found[3:5], found[5]
        pulled = kernels["atlas_memory.cuda.backward"].backward(
            layout, (grad, of_M, of_S), (q, k), solved, gates, kept, errors, "ieee"
        )
        return [x[-1] for x in (*found, *pulled) if x.numel()]

    return run


def step(kernels: dict[str, Any]) -> Run:
    def run(memory: FarTensors, batch: int) -> list[Tensor]:
        first = {0: batch}
        tokens = [memory.last(memory.drawn(1, 1, 1, 64) / 8, first) for _ in range(3)]
        tokens += [memory.last(memory.drawn(1, 1, 1) / 8, first) for _ in range(3)]
        tokens += [memory.last(memory.drawn(1, 1, 1, 2), first)]
        state = [memory.last(memory.drawn(1, 1, 64, 64) / 8, first) for _ in range(3)]
        state += [memory.last(memory.drawn(1, 1, 1, 64) / 8, first) for _ in range(2)]
        after = memory.zeros((batch, 1, 64, 64)), memory.zeros((batch, 1, 64, 64))
        read = kernels["atlas_memory.cuda.step"].step(tuple(tokens), tuple(state), after, True, False, True)
        return [read[-1], after[0][-1], after[1][-1]]

    return run


def features(kernels: dict[str, Any]) -> Run:
    """Only the results are large: rows of the arguments at large offsets are checked by `trueness verify`."""
    module = kernels["kernels.cuda.forward"]

    def run(memory: FarTensors, points: int) -> list[Tensor]:
        x, w, b = memory.last(memory.drawn(1, 8), {0: points}), memory.drawn(8, 4096), memory.drawn(4096)
        y, tile = memory.drawn(4096, 8), module.tile(memory.zeros((128, 8)), w)
        found = module.features(x, w, b, torch.ones(4096), True, tile)[-1, [4095, 8191]]
        return [found, module.gram(x, y, w[:, :16], b[:16], 1.0, tile)[-1, -1:]]

    return run


class Problem(NamedTuple):
    """A run, with how many entries to exceed 2³¹ elements, and with how few to compare; the programs of the last."""

    make: Callable[..., Run]
    of: tuple[Any, ...]
    far: int
    near: int = 1
    programs: int = 1


PROBLEMS = {
    "attention 4 × 4": Problem(attention, (4, 8), FAR // (8 * 8 * 3 * 64 * HEADS) + 2),
    "attention 9 × 9": Problem(attention, (9, 9), FAR // (9 * 9 * 3 * 64 * HEADS) + 2),
    "blend": Problem(blend, (), FAR // (4 * 8 * 8) + 2, programs=3),
    "cut": Problem(cut, (), FAR // (14 * 14) + 2, programs=3),
    "scale": Problem(scale, (), FAR // (8 * 5 * 2) + 2, programs=2),
    "small planes": Problem(planes, (), FAR // (8 * 8) + 2, near=2, programs=2),
    "Omega rule, l2": Problem(omega, (1,), FAR // (128 * 64) + 2, programs=2),
    "Omega rule, exact": Problem(omega, (2,), FAR // (128 * 64) + 2, programs=2),
    "Omega rule, one token": Problem(step, (), FAR // (64 * 64) + 2),
    "features and gram": Problem(features, (), FAR // 4096 + 2),
}


def right(problem: Problem, kernels: dict[str, Any]) -> tuple[bool, str]:
    """Whether the last of many entries equals the result of a call on it alone, and a description."""
    run = problem.make(kernels, *problem.of)
    memory = FarTensors()
    with memory.in_files():
        alone = [x.clone() for x in run(memory, problem.near)]
    memory = FarTensors()
    with memory.in_files(), watched(lambda n: list(range(n)[-problem.programs if n > FEW else 0 :])) as record:
        try:
            found = [x.clone() for x in run(memory, problem.far)]
        except Exception:  # an overrun is a rejection; any other error is not about offsets
            if not record.faults:
                raise
            return False, str(record.faults[:1])
    short = sorted({launch.name for launch in record.launches if launch.reach < FAR})
    same = all(torch.equal(a, b) for a, b in zip(alone, found, strict=True)) and all(x.any() for x in alone)
    return same and not record.faults and not short, f"{record.faults[:1]}, below 2³¹: {short}, same bits: {same}"


def main(arguments: list[str]) -> None:
    speed_up()
    with tempfile.TemporaryDirectory() as folder:  # Triton reads a kernel's source file at launch
        kernels = modules("--narrow" in arguments, Path(folder))
        for name in ("filters.cuda.kernels", "atlas_memory.cuda.forward"):  # use the compiled tile sizes
            kernels[name].interpreted = lambda: False
        for name in [a for a in arguments if a != "--narrow"] or PROBLEMS:
            found, why = right(PROBLEMS[name], kernels)
            print(f"{name}: {'right' if found else 'wrong'}", flush=True)
            print(f"{name}: {why}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
