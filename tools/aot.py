"""Compile Triton kernels for GPUs that are not here, and read what the assembler says of them.

The whole pipeline to machine code runs without a device or a driver. What is read: registers, stack, spilled bytes,
shared memory, and whether memory is accessed 16 bytes at a time. It must run in a process without TRITON_INTERPRET.

    python -m trueness.tools.aot        prints the table of every kernel that the registry's implementations declare
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHARED = {80: 163 * 1024, 86: 99 * 1024, 89: 99 * 1024, 90: 227 * 1024, 100: 227 * 1024}  # bytes a block may have


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

    @property
    def fits(self) -> bool:
        return self.spilled == 0 and self.shared <= SHARED[self.arch]


def compile_for(kernel: Any, arguments: Mapping[str, Any], arch: int, **options: Any) -> Compiled:
    """Compile ``kernel`` for sm_``arch``.

    arguments  parameter → type ("*bf16:16": a pointer divisible by 16, "i64", "fp32"), or the value of a constexpr
    options    num_warps, num_stages
    raises     RuntimeError under TRITON_INTERPRET, or when the assembler refuses the kernel
    """
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        raise RuntimeError("TRITON_INTERPRET is set; kernels of such a process are interpreted and cannot be compiled.")
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
    """What ptxas and cuobjdump say of a compiled kernel."""
    ptx = compiled.asm["ptx"]
    target = re.search(r"\.target\s+(\w+)", ptx)
    assert target is not None
    with tempfile.TemporaryDirectory() as folder:
        text, binary = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        text.write_text(ptx)
        binary.write_bytes(compiled.asm["cubin"])
        assembler = tools / ("ptxas-blackwell" if arch >= 100 and (tools / "ptxas-blackwell").exists() else "ptxas")
        log = said(assembler, "-v", f"--gpu-name={target[1]}", str(text), "-o", str(Path(folder, "out")))
        usage = said(tools / "cuobjdump", "-res-usage", str(binary))
        machine = said(tools / "cuobjdump", "-sass", str(binary))
    return Compiled(
        arch=arch,
        registers=number(r"REG:(\d+)", usage),
        stack=number(r"STACK:(\d+)", usage),
        spilled=number(r"(\d+) bytes spill stores", log) + number(r"(\d+) bytes spill loads", log),
        shared=int(compiled.metadata.shared),
        wide_loads=len(re.findall(r"LDG\.E\.(?:\w+\.)*128", machine)),
        wide_stores=len(re.findall(r"STG\.E\.(?:\w+\.)*128", machine)),
    )


def said(*command: Any) -> str:
    """Output of an assembler tool; RuntimeError with its words when it fails."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{Path(command[0]).name} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout + done.stderr


def number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"the assembler said nothing that matches {pattern!r}")
    return int(found[1])


def declared() -> list[tuple[str, Any, Mapping[str, Any], Mapping[str, Any]]]:
    """(name, kernel, arguments, options) of every kernel that an implementation of the registry declares."""
    from trueness.tools.registry import formulas

    found = []
    for formula in formulas().values():
        for implementation in formula.implementations:
            for name, (kernel, arguments, options) in implementation.kernels().items():
                found.append((f"{formula.name} {name}", kernel, arguments, options))
    return found


def main(architectures: tuple[int, ...] = (80, 90)) -> int:
    """Print one line per kernel and architecture; 1 when one spills or needs more shared memory than there is."""
    wrong = 0
    for name, kernel, arguments, options in declared():
        for arch in architectures:
            c = compile_for(kernel, arguments, arch, **options)
            wrong += not c.fits
            print(
                f"{name} sm_{arch}: {c.registers} registers, {c.spilled} bytes spilled, {c.shared} bytes shared, "
                f"{c.wide_loads} loads and {c.wide_stores} stores of 16 bytes{'' if c.fits else '  DOES NOT FIT'}"
            )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
