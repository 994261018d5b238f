"""Compiles Triton kernels for GPUs that are not present, and reads the assembler's report.

The whole pipeline to machine code runs without a device or a driver. What is read: registers, stack, spilled bytes,
shared memory, accesses of 16 bytes, and matrix instructions. It must run in a process without TRITON_INTERPRET.
``trueness kernels`` (tools/triton/command.py) does it for every kernel that an implementation declares.

The rules (``wrong``): nothing is spilled; shared memory and registers suffice for a block; an elementwise kernel
accesses memory 16 bytes at a time for every length, and leaves room for enough warps to hide the latency; a
product of matrices with 64 rows or more is done by matrix instructions, unless plain float32 is requested.
"""

from __future__ import annotations

import multiprocessing
import re
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trueness.tools.triton.interpreter import interpreting

ARCHITECTURES = (80, 90)
SHARED = {80: 163 * 1024, 86: 99 * 1024, 89: 99 * 1024, 90: 227 * 1024, 100: 227 * 1024}  # bytes a block may have
REGISTERS = 65536  # of a multiprocessor
RESIDENT = 48  # warps that an elementwise kernel leaves room for, so that others work while one waits for memory
ROWS = 64  # of a product from which on matrix instructions are demanded


@dataclass(frozen=True)
class Kernel:
    """One kernel as an implementation declares it; a tuple of the first three means the same.

    function     the jitted function
    arguments    parameter → type ("*bf16:16": a pointer divisible by 16, "i64", "fp32"), or the value of a constexpr
    options      num_warps, num_stages
    elementwise  whether the rules of an elementwise kernel hold; None: where all tensors of the formula are elementwise
    """

    function: Any
    arguments: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    elementwise: bool | None = None


@dataclass(frozen=True)
class Compiled:
    """What one kernel became on one architecture."""

    arch: int
    registers: int
    stack: int
    spilled: int
    shared: int
    wide_loads: int
    wide_stores: int
    matrix: int = 0
    """matrix instructions: HMMA, HGMMA and their likes"""
    dots: tuple[str, ...] = ()
    """every product of the kernel: "64x16x64 bf16 ieee", rows, inner and columns"""
    stores: int = 0
    """stores of whole blocks without a mask"""

    @property
    def fits(self) -> bool:
        return self.spilled == 0 and self.shared <= SHARED[self.arch]


def require_compiler() -> None:
    """RuntimeError in a process whose kernels are interpreted."""
    if interpreting():
        raise RuntimeError("TRITON_INTERPRET is set; kernels of such a process are interpreted and cannot be compiled.")


def compile_for(kernel: Any, arguments: Mapping[str, Any], arch: int, **options: Any) -> Compiled:
    """Compile ``kernel`` for sm_``arch``.

    arguments  parameter → type ("*bf16:16": a pointer divisible by 16, "i64", "fp32"), or the value of a constexpr
    options    num_warps, num_stages
    raises     RuntimeError under TRITON_INTERPRET, or when the assembler refuses the kernel
    """
    require_compiler()
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}
    for parameter in kernel.params:
        value = arguments[parameter.name]
        if parameter.is_constexpr:
            signature[parameter.name], constants[parameter.name] = "constexpr", value
            continue
        signature[parameter.name], _, divisor = value.partition(":")
        if divisor:
            attributes[(parameter.num,)] = [["tt.divisibility", int(divisor)]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    options = {"enable_fp_fusion": True, **options}
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    return read(compiled, arch, tools)


def read(compiled: Any, arch: int, tools: Path) -> Compiled:
    """The reports of ptxas and cuobjdump on a compiled kernel."""
    ptx = compiled.asm["ptx"]
    target = re.search(r"\.target\s+(\w+)", ptx)
    assert target is not None
    with tempfile.TemporaryDirectory() as folder:
        text, binary = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        text.write_text(ptx)
        binary.write_bytes(compiled.asm["cubin"])
        assembler = tools / ("ptxas-blackwell" if arch >= 100 and (tools / "ptxas-blackwell").exists() else "ptxas")
        usage = said(tools / "cuobjdump", "-res-usage", str(binary))
        machine = said(tools / "cuobjdump", "-sass", str(binary))
        spilled = 0
        if stack := number(r"STACK:(\d+)", usage):  # a spill is a stack; only then is it assembled again
            log = said(assembler, "-v", f"--gpu-name={target[1]}", str(text), "-o", str(Path(folder, "out")))
            spilled = number(r"(\d+) bytes spill stores", log) + number(r"(\d+) bytes spill loads", log)
    return Compiled(
        arch=arch,
        registers=number(r"REG:(\d+)", usage),
        stack=stack,
        spilled=spilled,
        shared=int(compiled.metadata.shared),
        wide_loads=len(re.findall(r"LDG\.E\.(?:\w+\.)*128", machine)),
        wide_stores=len(re.findall(r"STG\.E\.(?:\w+\.)*128", machine)),
        matrix=len(re.findall(r"\b[HDIQ]G?MMA\b", machine)),
        dots=tuple(products(compiled.asm["ttir"])),
        stores=len(re.findall(r"tt\.store %[\w#]+, %[\w#]+ (?:\{[^}]*\} )?: tensor<", compiled.asm["ttir"])),
    )


def products(ttir: str) -> Iterable[str]:
    """Every tt.dot of the first intermediate text: "rows x inner x columns", what is multiplied, and how precisely."""
    pattern = r"tt\.dot ([^:]*): tensor<([\dx]+)x(\w+)> \* tensor<([\dx]+)x\w+>"
    for operands, left, dtype, right in re.findall(pattern, ttir):
        asked = re.search(r"inputPrecision = (\w+)", operands)
        rows, inner = left.split("x")[-2:]
        yield f"{rows}x{inner}x{right.split('x')[-1]} {dtype} {asked[1] if asked else 'ieee'}"


def said(*command: Any) -> str:
    """Output of an assembler tool; RuntimeError with its words when it fails."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{Path(command[0]).name} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout + done.stderr


def number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"the assembler's report has nothing that matches {pattern!r}")
    return int(found[1])


# -- declared kernels, and the rules they must keep ------------------------------------------------------------------


def declared(only: str = "") -> list[tuple[str, Kernel]]:
    """(name, kernel) of every kernel that an implementation of the registry declares; ``elementwise`` is decided."""
    from trueness.tools.spec.registry import formulas

    found = []
    for formula in formulas().values():
        tensors = [getattr(a, "dims", ()) for a in formula.arguments if a.tensor]
        elementwise = bool(tensors) and all(dims == ("...",) for dims in tensors)
        for implementation in formula.implementations:
            for label, given in implementation.kernels().items():
                kernel = given if isinstance(given, Kernel) else Kernel(*given)
                decided = elementwise if kernel.elementwise is None else kernel.elementwise
                name = f"{formula.name} {label}"
                if only in name:
                    found.append((name, Kernel(kernel.function, kernel.arguments, kernel.options, decided)))
    return found


def one_of_each(kernels: Iterable[tuple[str, Kernel]]) -> list[tuple[str, Kernel]]:
    """The first kernel declared of every jitted function."""
    found: dict[Any, tuple[str, Kernel]] = {}
    for name, kernel in kernels:
        found.setdefault(kernel.function.fn, (name, kernel))
    return list(found.values())


def needs_matrix(dot: str) -> bool:
    """Whether a product, as ``Compiled.dots`` writes it, is one for the matrix units."""
    shape, dtype, precision = dot.split()
    plain = dtype in ("f32", "f64") and precision == "ieee"
    return int(shape.split("x")[0]) >= ROWS and not plain


def wrong(c: Compiled, elementwise: bool, warps: int, arguments: Mapping[str, Any]) -> list[str]:
    """The rules that a compiled kernel breaks, one clause each; empty when it keeps them all."""
    found = []
    if c.spilled:
        found.append(f"spills {c.spilled} bytes")
    if c.shared > SHARED[c.arch]:
        found.append(f"needs {c.shared} bytes of shared memory where a block has {SHARED[c.arch]}")
    if c.registers * 32 * warps > REGISTERS:
        found.append(f"needs {c.registers * 32 * warps} registers a block where there are {REGISTERS}")
    if elementwise:
        exact = [n for n, t in arguments.items() if isinstance(t, str) and re.fullmatch(r"[iu]\d+:\d+", t)]
        if exact:
            found.append(f"is declared for a divisible {exact[0]}, and so for some lengths only")
        if not c.wide_loads:
            found.append("loads nothing 16 bytes at a time")
        if c.wide_stores < max(c.stores, 1):
            found.append(f"has {c.stores} unmasked stores, and {c.wide_stores} of 16 bytes")
        warps_resident = REGISTERS // (32 * (-(-c.registers // 8) * 8))
        if warps_resident < RESIDENT:
            found.append(f"takes {c.registers} registers, which leaves room for {warps_resident} warps of {RESIDENT}")
    if any(map(needs_matrix, c.dots)) and not c.matrix:
        found.append(f"multiplies {c.dots[0]} without a matrix instruction")
    return found


# -- all of them -----------------------------------------------------------------------------------------------------

_TASKS: list[tuple[Kernel, int]] = []  # inherited by the forked workers: a kernel cannot be sent to one


def _compile(task: int) -> Compiled:
    kernel, arch = _TASKS[task]
    return compile_for(kernel.function, kernel.arguments, arch, **kernel.options)


def compile_all(tasks: Iterable[tuple[Kernel, int]], workers: int = 2) -> list[Compiled]:
    """``compile_for`` of every (kernel, architecture), ``workers`` processes side by side."""
    _TASKS[:] = tasks
    if not _TASKS:
        return []
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        return pool.map(_compile, range(len(_TASKS)), chunksize=1)
