"""Every declared kernel, compiled ahead of time, keeps the rules; the kept table is current; a broken rule is seen."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("triton", reason="triton is not installed: pip install triton")

from trueness.tools.triton import table
from trueness.tools.triton.compile import Compiled, Kernel, needs_matrix, products, wrong

HOME = Path(__file__).resolve().parents[2]
OTHER = Path(os.environ.get("TRUENESS_TRITON") or HOME / "build" / f"triton-{table.OLDEST}")  # `make kernels` fills it

GOOD = Compiled(arch=80, registers=30, stack=0, spilled=0, shared=0, wide_loads=2, wide_stores=1, stores=1)
MODULE = """
import triton
import triton.language as tl

LIMIT = tl.constexpr({limit})


@triton.jit
def helper(x):
    return {helper}


@triton.jit
def kernel(x, out, n, BLOCK: tl.constexpr):
    {docstring}
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK){comment}
    tl.store(out + i, helper(tl.load(x + i)) + LIMIT, mask=i < n)
"""
BREAKING = """
import triton, triton.language as tl
from trueness.tools.triton.compile import compile_for, wrong

@triton.jit
def greedy(x, out, N: tl.constexpr):
    i = tl.arange(0, N)
    a = tl.load(x + i[:, None] * N + i[None, :])
    tl.store(out + i[:, None] * N + i[None, :], tl.dot(a, tl.dot(a, a, input_precision="ieee"), input_precision="ieee"))

@triton.jit
def square(x, out, N: tl.constexpr):
    i = tl.arange(0, N)
    a = tl.load(x + i[:, None] * N + i[None, :])
    tl.store(out + i[:, None] * N + i[None, :], tl.dot(a, a, input_precision="ieee"))

@triton.jit
def masked(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n), mask=i < n)

for kernel, n, warps, elementwise in ((greedy, None, 1, False), (square, None, 4, False), (masked, "i64", 4, True)):
    side = 32 if kernel is greedy else 64  # enough for one warp to spill; more takes the assembler half a minute
    arguments = {"x": "*bf16:16" if warps == 4 else "*fp32:16", "out": "*fp32:16", "n": n, "N": side, "BLOCK": 1024}
    c = compile_for(kernel, arguments, 80, num_warps=warps)
    print(kernel.fn.__name__, warps, c.fits, c.dots, c.matrix > 0, wrong(c, elementwise, warps, arguments))
"""


def ran(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return subprocess.run([sys.executable, *command], env=clean | environment, capture_output=True, text=True)


def loaded(folder: Path, **changes: str) -> ModuleType:
    plain = {"limit": "1.0", "helper": "2.0 * x", "docstring": '"""Twice."""', "comment": ""}
    path = folder / f"module{len(list(folder.iterdir()))}.py"
    path.write_text(MODULE.format(**{**plain, **changes}))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- the kernels of the registry --------------------------------------------------------------------------------------


@pytest.mark.skipif(not (HOME / "docs").is_dir(), reason="installed from a wheel: the table is not here to be read")
def test_every_declared_kernel_keeps_the_rules_and_stands_in_the_table() -> None:
    other = ["--triton", str(OTHER)] if (OTHER / "triton").is_dir() else []
    done = ran("-m", "trueness.tools.cli", "kernels", "--check", str(HOME / "docs"), *other)
    assert done.returncode == 0, done.stderr
    assert "sm_80" in done.stdout and "sm_90" in done.stdout


@pytest.mark.skipif(not (HOME / "docs").is_dir(), reason="installed from a wheel: the page is not here to be read")
def test_the_page_is_what_the_rows_say() -> None:
    rows = table.read(str(HOME / "docs"))
    assert (HOME / "docs" / "kernels.md").read_text("utf-8") == table.page(rows)
    assert {r["arch"] for r in rows} == {80, 90}


def test_compiling_in_an_interpreting_process_is_refused() -> None:
    done = ran("-m", "trueness.tools.cli", "kernels", "--only", "fisher.diagonal forward fp32", TRITON_INTERPRET="1")
    assert done.returncode != 0
    assert "TRITON_INTERPRET is set" in done.stderr


def test_a_folder_without_triton_is_refused(tmp_path: Path) -> None:
    from trueness.tools.triton.command import under

    with pytest.raises(ValueError, match="must be a folder in which Triton was unpacked"):
        under(str(tmp_path))


# -- a broken rule is seen --------------------------------------------------------------------------------------------


def test_spills_and_narrow_accesses_of_compiled_kernels_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "breaking.py"
    path.write_text(BREAKING)
    done = ran(str(path))
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stdout + done.stderr
    assert lines[0].startswith("greedy 1 False ('32x32x32 f32 ieee', '32x32x32 f32 ieee') False ['spills "), lines[0]
    assert lines[1] == "square 4 True ('64x64x64 bf16 ieee',) True []"
    assert lines[2].startswith("masked 4 True () False ['loads nothing 16 bytes at a time'"), lines[2]


@pytest.mark.parametrize(
    ("change", "clause"),
    [
        ({"spilled": 4}, "spills 4 bytes"),
        ({"shared": 164 * 1024}, "shared memory"),
        ({"registers": 255}, "leaves room for 8 warps"),
        ({"wide_loads": 0}, "loads nothing 16 bytes at a time"),
        ({"wide_stores": 0}, "of 16 bytes"),
        ({"stores": 2}, "2 unmasked stores, and 1 of 16 bytes"),
        ({"dots": ("64x32x64 bf16 ieee",)}, "without a matrix instruction"),
        ({"dots": ("16x16x16 bf16 ieee", "128x32x64 f32 tf32x3")}, "without a matrix instruction"),
    ],
)
def test_each_rule_can_be_broken(change: dict[str, Any], clause: str) -> None:
    assert wrong(GOOD, True, 4, {"n": "i64"}) == []
    (found,) = wrong(replace(GOOD, **change), True, 4, {"n": "i64"})
    assert clause in found


def test_more_registers_than_a_block_has_are_seen() -> None:
    assert wrong(replace(GOOD, registers=255), False, 8, {}) == []
    assert "registers a block" in wrong(replace(GOOD, registers=255), False, 16, {})[0]


def test_a_length_that_must_be_divisible_is_no_elementwise_kernel() -> None:
    assert "divisible n" in wrong(GOOD, True, 4, {"n": "i64:16", "x": "*fp32:16"})[0]


def test_products_are_read_off_the_intermediate_text() -> None:
    text = """
    %4 = tt.dot %a, %b_17, %cst, inputPrecision = tf32x3 : tensor<64x32xf32> * tensor<32x128xf32> -> tensor<64x128xf32>
    %5 = tt.dot %a_8, %b_18, %cst : tensor<2x16x64xbf16> * tensor<2x64x8xbf16> -> tensor<2x16x8xf32> loc(#loc16)
    """
    assert list(products(text)) == ["64x32x128 f32 tf32x3", "16x64x8 bf16 ieee"]
    assert [needs_matrix(d) for d in ("64x32x128 f32 tf32x3", "32x64x8 bf16 ieee", "64x64x64 f32 ieee")] == [1, 0, 0]


# -- the table --------------------------------------------------------------------------------------------------------


def test_a_key_changes_with_the_machine_code_alone(tmp_path: Path) -> None:
    arguments = {"x": "*fp32:16", "out": "*fp32:16", "n": "i64", "BLOCK": 1024}

    def key(**changes: str) -> str:
        return table.key(Kernel(loaded(tmp_path, **changes).kernel, arguments, {"num_warps": 4}))

    same = key()
    assert same == key(comment="  # the flat offset") == key(docstring='"""Twice, said otherwise."""')
    assert len({same, key(limit="2.0"), key(helper="3.0 * x")}) == 3
    kernel = loaded(tmp_path).kernel
    assert table.key(Kernel(kernel, {**arguments, "BLOCK": 512}, {"num_warps": 4})) != same
    assert table.key(Kernel(kernel, arguments, {"num_warps": 8})) != same


def rows_of(kernel: Kernel) -> list[table.Row]:
    measured = {k: getattr(GOOD, k) for k in table.MEASURED}
    key = table.key(kernel)
    return [
        table.row("a kernel", kernel, version, key, arch, measured)
        for arch in (80, 90)
        for version in ("3.6.0", "3.7.1")
    ]


def test_a_table_that_is_not_current_is_seen(tmp_path: Path) -> None:
    arguments = {"x": "*fp32:16", "out": "*fp32:16", "n": "i64", "BLOCK": 1024}
    kernel = Kernel(loaded(tmp_path).kernel, arguments)
    rows, kernels = rows_of(kernel), [("a kernel", kernel)]
    assert table.differences(rows, rows, kernels) == []
    changed = Kernel(loaded(tmp_path, helper="3.0 * x").kernel, arguments)
    cases = {
        "no row under Triton 3.6.0": (rows, [r for r in rows if r["triton"] != "3.6.0"], kernels),
        "as it is declared": (rows, rows, [("a kernel", changed)]),
        "declared no more": (rows, rows, []),
        "something else than the table says": ([{**r, "registers": 31} for r in rows], rows, kernels),
        "spills 8 bytes": (rows, [{**r, "wrong": ["spills 8 bytes"]} for r in rows], kernels),
    }
    for sentence, (now, written, declared) in cases.items():
        found = table.differences(now, written, declared)
        assert any(sentence in f for f in found), found


def test_rows_of_another_triton_are_kept_while_their_kernels_are(tmp_path: Path) -> None:
    kernel = Kernel(loaded(tmp_path).kernel, {"x": "*fp32", "out": "*fp32", "n": "i64", "BLOCK": 1024})
    folder = tmp_path / "docs"
    folder.mkdir()
    rows = rows_of(kernel)
    table.write(str(folder), rows)
    table.write(str(folder), [r for r in rows if r["triton"] == "3.7.1"])
    assert table.read(str(folder)) == table.from_json(table.to_json(rows))
    table.write(str(folder), [{**r, "key": "another"} for r in rows if r["triton"] == "3.7.1"])
    assert {r["triton"] for r in table.read(str(folder))} == {"3.7.1"}
