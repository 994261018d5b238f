"""The table of compiled kernels in the repository: kernels.json, and kernels.md for readers.

A row is one kernel on one architecture under one Triton. Its key is a digest of the kernel's syntax tree and those of
the jitted functions it calls, of its arguments and options: comments, names of files and line numbers do not count. A
row whose key is still the declared one need not be compiled again.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trueness.tools.triton.compile import ARCHITECTURES, Compiled, Kernel, compile_all, wrong

OLDEST = "3.6.0"  # the Triton that torch 2.11 ships; the table holds every kernel under it, too
Row = dict[str, Any]
MEASURED = ("registers", "stack", "spilled", "shared", "wide_loads", "wide_stores", "matrix", "dots", "stores")


# -- keys ------------------------------------------------------------------------------------------------------------


def key(kernel: Kernel) -> str:
    """Sixteen hexadecimal digits that change whenever the machine code may."""
    told = [*sources(kernel.function), sorted(kernel.arguments.items()), sorted(kernel.options.items())]
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]


def sources(function: Any) -> Iterator[str]:
    """The syntax of a jitted function and of those it calls, and the values of the constants that they name."""
    waiting, seen = [function], set()
    while waiting:
        jitted = waiting.pop(0)
        plain = jitted.fn
        if plain in seen:
            continue
        seen.add(plain)
        tree = ast.parse(textwrap.dedent(inspect.getsource(plain)))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                node.decorator_list = []
                first = node.body[0]
                if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and node.body[1:]:
                    node.body = node.body[1:]  # the docstring
        yield ast.dump(tree)
        for name, value in named(plain, tree):
            if hasattr(value, "fn") and callable(getattr(value, "fn", None)):
                home = str(getattr(value.fn, "__module__", ""))
                waiting += [] if home.split(".")[0] == "triton" else [value]
            elif isinstance(value, (int, float, str, bool)) or type(value).__name__ == "constexpr":
                yield f"{name} = {getattr(value, 'value', value)!r}"


def named(function: Any, tree: ast.AST) -> Iterator[tuple[str, Any]]:
    """Every global name, and attribute of a global module, that a function's source mentions, with its value."""
    space = function.__globals__
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in space:
            yield node.id, space[node.id]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in space:
            owner = space[node.value.id]
            if inspect.ismodule(owner) and owner.__name__.split(".")[0] != "triton" and hasattr(owner, node.attr):
                yield f"{node.value.id}.{node.attr}", getattr(owner, node.attr)


# -- rows ------------------------------------------------------------------------------------------------------------


def compiled_rows(kernels: Sequence[tuple[str, Kernel]], known: Sequence[Row] = ()) -> list[Row]:
    """One row per kernel and architecture under the Triton of this process; a known one is not compiled again."""
    import triton

    version = str(triton.__version__)
    have = {(r["key"], r["arch"]): r for r in known if r["triton"] == version}
    keys = {name: key(kernel) for name, kernel in kernels}
    missing: dict[tuple[str, int], tuple[Kernel, int]] = {}
    for name, kernel in kernels:
        for arch in ARCHITECTURES:
            if (keys[name], arch) not in have:
                missing[keys[name], arch] = kernel, arch
    fresh = dict(zip(missing, compile_all(missing.values()), strict=True))
    rows = []
    for name, kernel in kernels:
        for arch in ARCHITECTURES:
            place = keys[name], arch
            measured = asdict(fresh[place]) if place in fresh else have[place]
            rows.append(row(name, kernel, version, keys[name], arch, measured))
    return rows


def row(name: str, kernel: Kernel, version: str, digest: str, arch: int, measured: Mapping[str, Any]) -> Row:
    types = [t for t in kernel.arguments.values() if isinstance(t, str) and t.startswith("*")]
    pointers = list(dict.fromkeys(t.lstrip("*").partition(":")[0] for t in types))
    warps = int(kernel.options.get("num_warps", 4))
    found = {k: measured[k] for k in MEASURED}
    compiled = Compiled(arch=arch, **{**found, "dots": tuple(found["dots"])})
    return {
        "kernel": name,
        "function": kernel.function.fn.__name__,
        "dtype": " ".join(pointers),
        "arch": arch,
        "triton": version,
        "key": digest,
        "elementwise": bool(kernel.elementwise),
        "warps": warps,
        **found,
        "dots": list(found["dots"]),
        "wrong": wrong(compiled, bool(kernel.elementwise), warps, kernel.arguments),
    }


def label(row: Row) -> str:
    return f"{row['kernel']} sm_{row['arch']} triton {row['triton']}:"


def line(row: Row) -> str:
    """One row for the terminal."""
    return (
        f"{label(row)} {row['registers']} registers, {row['spilled']} bytes spilled, {row['shared']} bytes shared, "
        f"{row['wide_loads']} loads and {row['wide_stores']} stores of 16 bytes, {row['matrix']} matrix instructions"
        + "".join(f"  WRONG: {clause}" for clause in row["wrong"])
    )


def differences(rows: Sequence[Row], written: Sequence[Row], kernels: Sequence[tuple[str, Kernel]]) -> list[str]:
    """The differences between ``written`` and the table of the current kernels; empty when there are none.

    rows     compiled just now, under one Triton or more; compared number by number where the table has that Triton
    kernels  all that are declared: under each of its versions of Triton, the table must hold exactly these
    """
    again = "; write it anew with --write"
    versions = {r["triton"] for r in written}
    found = [f"the table has no row under Triton {OLDEST}{again}"] if OLDEST not in versions else []
    current = {(name, arch): key(kernel) for name, kernel in kernels for arch in ARCHITECTURES}
    for version in sorted(versions):
        had = {(r["kernel"], r["arch"]): r for r in written if r["triton"] == version}
        for name, arch in sorted({n for n in current if n not in had or had[n]["key"] != current[n]}):
            found.append(f"{name} sm_{arch} is not in the table under Triton {version} as it is declared{again}")
        found += [
            f"{name} sm_{arch} is in the table and declared no more{again}" for name, arch in set(had) - set(current)
        ]
        for r in had.values():
            found += [f"{label(r)} {clause}" for clause in r["wrong"]]
        for r in (r for r in rows if r["triton"] == version and (r["kernel"], r["arch"]) in had):
            if r != had[r["kernel"], r["arch"]]:
                found.append(f"{label(r)} now compiles to something else than the table says{again}")
    return found


# -- files -----------------------------------------------------------------------------------------------------------


def to_json(rows: Sequence[Row]) -> str:
    ordered = sorted(rows, key=lambda r: (r["kernel"], r["arch"], r["triton"]))
    return "[\n" + ",\n".join(json.dumps(r) for r in ordered) + "\n]\n"


def from_json(text: str) -> list[Row]:
    return list(json.loads(text))


def read(folder: str) -> list[Row]:
    """The rows written in ``folder``; none where there is no table."""
    path = Path(folder, "kernels.json")
    return from_json(path.read_text("utf-8")) if path.is_file() else []


def write(folder: str, rows: Sequence[Row]) -> None:
    """Both files; rows of another Triton that still belong to a declared kernel are kept."""
    versions = {r["triton"] for r in rows}
    keys = {(r["kernel"], r["key"], r["arch"]) for r in rows}
    kept = [r for r in read(folder) if r["triton"] not in versions and (r["kernel"], r["key"], r["arch"]) in keys]
    everything = [*rows, *kept]
    Path(folder, "kernels.json").write_text(to_json(everything), "utf-8")
    Path(folder, "kernels.md").write_text(page(everything), "utf-8")


HEAD = """# The kernels, compiled

Every Triton kernel that an implementation declares, compiled for Ampere (sm_80) and Hopper (sm_90) on a machine without
a GPU, and what the assembler says of it. Nothing here was run on a GPU.
`trueness kernels --write docs` writes this page; continuous integration compiles all of it again and compares.

No kernel spills, none needs more shared memory than a block has, elementwise kernels access memory 16 bytes at a time
whatever their length is, and products of matrices of 64 rows or more are done by matrix instructions, unless plain
float32 (`ieee`) was asked for. "16 B" counts load and store instructions of 16 bytes, "matrix" HMMA and HGMMA. Where a
number differs between the versions of Triton, both stand in the order of the head line.
"""


def page(rows: Sequence[Row]) -> str:
    """The table as Markdown: one line per kernel, dtype and architecture, the versions of Triton side by side."""
    versions = sorted({r["triton"] for r in rows})
    grouped: dict[tuple[str, int], list[Row]] = {}
    for r in sorted(rows, key=lambda r: (r["kernel"], r["arch"], r["triton"])):
        grouped.setdefault((r["kernel"], r["arch"]), []).append(r)
    lines = [
        HEAD,
        f"Triton {' and '.join(versions)}; {len(grouped)} lines.\n",
        "| kernel | pointers | sm | warps | registers | spilled | shared | 16 B loads | 16 B stores | matrix |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (name, arch), group in grouped.items():
        cells = [beside(group, k) for k in ("registers", "spilled", "shared", "wide_loads", "wide_stores", "matrix")]
        first = group[0]
        lines.append(f"| {name} | {first['dtype']} | {arch} | {first['warps']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def beside(group: Sequence[Row], name: str) -> str:
    values = [str(r[name]) for r in group]
    return values[0] if len(set(values)) == 1 else " / ".join(values)
