"""Observes Triton kernels under the interpreter: addresses, programs, and masks that cut a tile short.

    with watched() as record:
        ...                         # launches in a process that was started with TRITON_INTERPRET=1
    record.faults                   # sentences: an access outside of every tensor, a race, float atomics

The interpreter runs one program after another on real addresses, so an overrun is a silent write and a race has no
effect. Here every address of every active lane is checked before it is used: one outside of the tensors passed to the
launch stops it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trueness.tools.arithmetic.noise import TooCostly

Site = tuple[str, ...]


class Outside(Exception):
    """A kernel was about to access memory outside of its arguments."""


@dataclass
class Launch:
    """One launch: its grid, its tensors, and what each program read and wrote."""

    name: str
    regions: list[tuple[int, int]]
    grid: tuple[int, int, int] = (1, 1, 1)
    program: int = 0
    axes: set[int] = field(default_factory=set)
    reach: int = 0
    """elements between the first of a tensor and the farthest that was accessed"""
    read: list[tuple[np.ndarray, int]] = field(default_factory=list)
    written: list[tuple[np.ndarray, int]] = field(default_factory=list)

    @property
    def programs(self) -> int:
        return int(np.prod(self.grid))

    def race(self) -> str:
        """Which two programs access the same element; empty when none do."""
        if not self.written:
            return ""
        where, who = merged(self.written)
        meets = np.flatnonzero((where[1:] == where[:-1]) & (who[1:] != who[:-1]))
        if meets.size:
            return f"{self.name}: programs {who[meets[0]]} and {who[meets[0] + 1]} write the same element"
        if self.read:
            read, reader = merged(self.read)
            at = np.minimum(np.searchsorted(where, read), where.size - 1)
            meets = np.flatnonzero((where[at] == read) & (who[at] != reader))
            if meets.size:
                first = meets[0]
                return f"{self.name}: program {reader[first]} reads what program {who[at[first]]} writes"
        return ""


def merged(parts: list[tuple[np.ndarray, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Addresses in order, and the program of each; an address twice in one program is one."""
    addresses = np.concatenate([a for a, _ in parts])
    programs = np.concatenate([np.full(a.size, p) for a, p in parts])
    pairs = np.unique(np.stack([addresses.astype(np.int64), programs]), axis=1)
    return pairs[0], pairs[1]


@dataclass
class Record:
    """What was seen of all launches.

    only     of the number of programs along an axis: the few that are run of a launch too large to be interpreted
    bounds   comparison of a block with a bound → whether it was ever true for some lanes of a block and not for others
    """

    only: Callable[[int], list[int]] | None = None
    launches: list[Launch] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    bounds: dict[Site, bool] = field(default_factory=dict)

    @property
    def now(self) -> Launch:
        return self.launches[-1]


def span(tensor: torch.Tensor) -> tuple[int, int]:
    """The addresses from the first element of a view to the end of its last."""
    if not tensor.numel():
        return tensor.data_ptr(), tensor.data_ptr()
    last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()


def site() -> Site:
    """Where in the kernel's source, through its helpers, an operation is: outermost first.

    Empty for operations that Triton adds itself, the overflow checks of integer products.
    """
    import triton

    inside, places, frame = str(Path(triton.__file__).parent), [], sys._getframe(2)
    while frame is not None and frame.f_code.co_name != "watched_call":
        code = frame.f_code
        if "sanitize_overflow" in code.co_name:
            return ()
        if not code.co_filename.startswith(inside) and code.co_filename != __file__:
            places.append(f"{Path(code.co_filename).name} line {frame.f_lineno} ({frame.f_lasti})")
        frame = frame.f_back  # type: ignore[assignment]
    return tuple(reversed(places))


def bits(pointers: Any) -> int:
    return int(pointers.get_element_ty().primitive_bitwidth)


def interpreting() -> bool:
    """Whether Triton, which looks when it is imported, interprets the kernels of this process."""
    return os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")


@cache
def speed_up() -> None:
    """Spare Triton's interpreter work that has no effect; kernels then take a third of the time.

    It replaces the members of ``triton.language`` at every call of one jitted function from another, which the launch
    has done already; it computes in 64 bits whether integers overflow, for an assertion that is off; and it makes the
    same few types and shapes anew for every result.
    """
    try:
        from triton.runtime import interpreter
    except ImportError:  # there is nothing to interpret
        return
    if not hasattr(interpreter, "_LangPatchScope"):  # another version of Triton
        return
    original = interpreter._patch_lang
    replaced: set[int] = set()

    def patch(function: Any) -> Any:
        modules = languages(function)
        if modules <= replaced:
            return interpreter._LangPatchScope()
        scope, outermost = original(function), not replaced
        replaced.update(modules)
        if outermost:
            restore = scope.restore

            def restore_all() -> None:
                replaced.clear()
                restore()

            scope.restore = restore_all
        return scope

    interpreter._patch_lang = patch
    builder = interpreter.interpreter_builder
    builder.options = replace(builder.options, sanitize_overflow=builder.options.debug)
    remember_types()


def remember_types() -> None:
    """Make the type of a block, and the shape of a tensor, once for each element type and each length.

    A version of Triton whose objects hold something else keeps its own way.
    """
    from triton.language import core
    from triton.runtime import interpreter

    block, tensor = core.block_type, core.tensor
    make_block, make_tensor = block.__init__, tensor.__init__
    blocks: dict[Any, dict[str, Any]] = {}
    shapes: dict[Any, dict[str, Any]] = {}
    sample = block(core.float32, [2])
    if set(vars(tensor(None, sample))) != {"handle", "shape", "numel", "type", "dtype"}:
        return

    def block_init(self: Any, element_ty: Any, shape: Any) -> None:
        key = id(element_ty), *(n.value if isinstance(n, core.constexpr) else n for n in shape)
        if key not in blocks:
            make_block(self, element_ty, shape)
            blocks[key] = dict(vars(self))  # it holds the element type, so that no other gets its identity
        else:
            vars(self).update(blocks[key])

    def tensor_init(self: Any, handle: Any, type: Any) -> None:
        key = tuple(type.shape) if type.is_block() else ()
        if key not in shapes:
            make_tensor(self, handle, type)
            shapes[key] = {"shape": self.shape, "numel": self.numel}
        else:
            vars(self).update(shapes[key], handle=handle, type=type, dtype=type.scalar)

    block.__init__, tensor.__init__ = block_init, tensor_init
    interpreter._get_np_dtype = remembered(interpreter._get_np_dtype)


def remembered(of_type: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same function of a type, computed once for each element type."""
    known: dict[str, Any] = {}

    def found(kind: Any) -> Any:
        name = kind.scalar.name
        if name not in known:
            known[name] = of_type(kind)
        return known[name]

    return found


@lru_cache(maxsize=1024)
def languages(function: Any) -> frozenset[int]:
    """The modules ``triton.language`` and ``triton.language.core`` that the globals of a function hold, by identity."""
    from triton import language

    return frozenset(id(m) for m in function.__globals__.values() if m is language or m is language.core)


@contextmanager
def few_programs(most: int) -> Iterator[None]:
    """TooCostly before the launch that would make the programs interpreted inside more than ``most``."""
    from triton.runtime import interpreter

    builder, spent = interpreter.InterpreterBuilder, 0
    original = builder.set_grid_dim

    def counted(self: Any, *dims: int) -> Any:
        nonlocal spent
        spent += int(np.prod(dims))
        if spent > most:
            raise TooCostly
        return original(self, *dims)

    builder.set_grid_dim = counted
    try:
        yield
    finally:
        builder.set_grid_dim = original


@contextmanager
def watched(only: Callable[[int], list[int]] | None = None) -> Iterator[Record]:
    """Record every launch of an interpreted kernel; one that leaves its tensors raises Outside inside of it."""
    from triton.runtime import interpreter

    record = Record(only)
    builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
    kept: list[tuple[Any, str, Any]] = []

    def replaced(owner: Any, name: str) -> Callable[[Callable[..., Any]], None]:
        original = getattr(owner, name)
        kept.append((owner, name, original))

        def put(make: Callable[..., Any]) -> None:
            setattr(owner, name, make(original))

        return put

    def touched(pointers: Any, mask: Any, what: str) -> np.ndarray:
        launch = record.now
        addresses: np.ndarray = np.asarray(pointers.data)[np.asarray(mask.data, bool)].astype(np.int64)
        size = max(1, bits(pointers) // 8)
        inside = np.zeros(addresses.shape, bool)
        for begin, end in launch.regions:
            within = (addresses >= begin) & (addresses + size <= end)
            if within.any():
                launch.reach = max(launch.reach, int(addresses[within].max() - begin) // size)
            inside |= within
        if not inside.all():
            count = int((~inside).sum())
            place = " <- ".join(reversed([p.rpartition(" (")[0] for p in site()]))
            sentence = f"{launch.name}: {what} {count} elements outside of every tensor it was given ({place})"
            record.faults.append(sentence)
            raise Outside(sentence)
        return addresses

    @replaced(builder, "create_masked_load")
    def _(original: Any) -> Any:
        def load(self: Any, ptrs: Any, mask: Any, *rest: Any) -> Any:
            record.now.read.append((np.unique(touched(ptrs, mask, "reads")), record.now.program))
            return original(self, ptrs, mask, *rest)

        return load

    @replaced(builder, "create_masked_store")
    def _(original: Any) -> Any:
        def store(self: Any, ptrs: Any, value: Any, mask: Any, *rest: Any) -> Any:
            addresses = touched(ptrs, mask, "writes")
            once, at = np.unique(addresses, return_inverse=True)
            if once.size < addresses.size:
                values = np.broadcast_to(value.data, np.shape(ptrs.data))[np.asarray(mask.data, bool)]
                first = np.zeros(once.size, values.dtype)
                first[at] = values
                if not np.array_equal(first[at], values, equal_nan=values.dtype.kind == "f"):
                    record.faults.append(
                        f"{record.now.name}: two lanes of one store write different values to one place"
                    )
            record.now.written.append((once, record.now.program))
            return original(self, ptrs, value, mask, *rest)

        return store

    @replaced(builder, "create_atomic_rmw")
    def _(original: Any) -> Any:
        def atomic(self: Any, op: Any, ptr: Any, val: Any, mask: Any, *rest: Any) -> Any:
            touched(ptr, mask, "adds to")
            if np.asarray(val.data).dtype.kind == "f":
                record.faults.append(f"{record.now.name}: an atomic operation on floating numbers, in no fixed order")
            return original(self, op, ptr, val, mask, *rest)

        return atomic

    @replaced(builder, "create_get_program_id")
    def _(original: Any) -> Any:
        def program_id(self: Any, axis: int) -> Any:
            record.now.axes.add(axis)
            return original(self, axis)

        return program_id

    for name in ("SLE", "SLT", "SGE", "SGT", "ULE", "ULT", "UGE", "UGT"):

        @replaced(builder, f"create_icmp{name}")
        def _(original: Any) -> Any:
            def compare(self: Any, lhs: Any, rhs: Any) -> Any:
                result = original(self, lhs, rhs)
                one = [np.ptp(x.data) == 0 if x.data.size else True for x in (lhs, rhs)]
                if result.data.size > 1 and one[0] != one[1] and (places := site()):
                    where = (record.now.name, *places)
                    mixed = bool(result.data.any()) and not bool(result.data.all())
                    record.bounds[where] = record.bounds.get(where, False) or mixed
                return result

            return compare

    chosen: list[list[int]] = []

    @replaced(builder, "set_grid_dim")
    def _(original: Any) -> Any:
        return lambda self, *dims: original(self, *record.now.grid)

    @replaced(builder, "set_grid_idx")
    def _(original: Any) -> Any:
        def place(self: Any, x: int, y: int, z: int) -> None:
            if chosen:
                x, y, z = (of[k] for of, k in zip(chosen, (x, y, z), strict=True))
            record.now.program = (x * record.now.grid[1] + y) * record.now.grid[2] + z
            original(self, x, y, z)

        return place

    @replaced(executor, "__call__")
    def _(original: Any) -> Any:
        def watched_call(self: Any, *args: Any, **kwargs: Any) -> Any:
            tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)]
            launch = Launch(self.fn.__name__, [span(t) for t in tensors])
            record.launches.append(launch)
            whole = self.grid

            def grid(values: Any) -> tuple[int, ...]:
                told = tuple(whole(values) if callable(whole) else whole)
                launch.grid = (*told, 1, 1, 1)[:3]
                chosen[:] = [record.only(n) for n in launch.grid] if record.only else []
                return tuple(map(len, chosen)) if chosen else told

            self.grid = grid
            try:
                return original(self, *args, **kwargs)
            finally:
                self.grid = whole
                if sentence := launch.race():
                    record.faults.append(sentence)
                launch.read.clear()
                launch.written.clear()

        return watched_call

    try:
        yield record
    finally:
        for owner, name, original in reversed(kept):
            setattr(owner, name, original)
