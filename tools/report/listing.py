"""What is declared and what is here, on the command line: formulas, the ledger, one formula, this machine."""

from __future__ import annotations

import importlib.util
import inspect
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from trueness.tools.arithmetic.bounds import LIMITS
from trueness.tools.checks import CHECKS
from trueness.tools.report import markdown
from trueness.tools.report.terminal import console, require_writable_file
from trueness.tools.spec import registry
from trueness.tools.spec.inputs import dims_text
from trueness.tools.spec.model import Formula
from trueness.tools.spec.tables import DEVICES


def list_formulas(write: str | None = None) -> None:
    if write:
        require_writable_file(write)
        Path(write).write_text(markdown.formulas(registry.formulas(), registry.bugs().values()), encoding="utf-8")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("formula", "equation", "implementations", "bugs"):
        table.add_column(name, overflow="fold")
    for f in registry.formulas().values():
        names = ", ".join(i.name for i in f.implementations)
        table.add_row(f.name, escape(f.equation), escape(names), str(len(registry.bugs_of(f.name))))
    console().print(table)


def list_ledger(write: str | None = None) -> None:
    if write:
        require_writable_file(write)
        Path(write).write_text(markdown.ledger(registry.bugs().values()), encoding="utf-8")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("id", "formula", "verdict", "what"):
        table.add_column(name, overflow="fold", no_wrap=name in ("id", "verdict"))
    for bug in sorted(registry.bugs().values(), key=lambda b: b.id):
        table.add_row(bug.id, bug.formula or "–", bug.verdict, escape(bug.title))
    bugs = list(registry.bugs().values())
    out = console()
    out.print(table)
    out.print(
        f"{len(markdown.firsts(bugs))} items, {len(bugs)} entries; "
        "`trueness show FORMULA` gives claim, finding and evidence.",
        highlight=False,
    )


def show(name: str) -> None:
    formula = registry.formula(name)
    out = console()
    document = inspect.getdoc(formula.reference) or ""
    out.print(Panel(escape(document), title=f"{formula.name}", subtitle=escape(formula.source), title_align="left"))
    kind: Callable[[Any], str] = lambda a: type(a).__name__.lower()  # noqa: E731
    for a in formula.arguments:
        dims = f" ({dims_text(a)})" if getattr(a, "dims", ()) else ""
        out.print(f"  {a.name}: {kind(a)}{dims}{', differentiable' if a.differentiable else ''}", highlight=False)
    out.print(f"\nyour function f is called as  {call(formula)}", highlight=False, markup=False, soft_wrap=True)
    out.print("\nB = u |y| + (1 + √n · u_acc/u) · D + η,  T = max |out − y| / B;", highlight=False)
    limits = ", ".join(f"{k} T ≤ {v:g}" for k, v in LIMITS.items() if v)
    out.print(f"limits: {limits}; computed in {formula.working}; overflow: {formula.overflow}.", highlight=False)
    out.print(f"special values: {escape(formula.special)}.", highlight=False)
    for policy, reason in formula.policies.items():
        out.print(f"  excused: {policy}: {escape(reason)}.", highlight=False)
    out.print(f"gradient: {escape(formula.no_gradient or 'vector-Jacobian product proved by complex step')}.")
    out.print("\nimplementations", style="bold")
    for i in formula.implementations:
        claims = f"; claims {', '.join(sorted(i.claims))}" if i.claims else ""
        out.print(
            f"  {escape(i.name)}: {i.origin.replace('_', ' ')}, {i.framework}, {i.limit}{claims}", highlight=False
        )
    known = [b for b in registry.bugs().values() if b.formula == formula.name]
    out.print("\nknown bugs", style="bold")
    for b in known:
        out.print(f"  {b.id}: {escape(b.title)} [{b.verdict}]".replace("[", "\\[", 1), highlight=False)
        out.print(
            f"    claim: {escape(b.claim)}\n    found: {escape(b.finding)}\n    see: {escape(b.evidence)}",
            highlight=False,
        )
    if not known:
        out.print("  none known", highlight=False)


def call(formula: Formula) -> str:
    """The call of a torch function as the checks make it, with what another framework's is given instead."""
    names = [a.name for a in formula.arguments]
    given = {"dtype": "dtype=torch.float32", "device": 'device="cpu"'}
    text = f"f({', '.join([*names, *(given[k] for k in formula.keywords)])})"
    if not formula.keywords:
        return text
    both = "dtype" in formula.keywords
    text += "  (the dtype and the device under test" if both else "  (the device under test"
    return f"{text}; NumPy and JAX functions get {'dtype= alone' if both else 'no keyword'})"


def doctor() -> None:
    """Each line: a component, whether it is installed, and how to install it."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("what", "here", "purpose, and how to install it"):
        table.add_column(name, overflow="fold")

    def line(what: str, here: str, text: str) -> None:
        table.add_row(what, escape(here) or "[yellow]missing[/]", escape(text))

    line("Python", platform.python_version(), "3.11 or newer")
    line("torch", torch.__version__, "2.9 or newer")
    cuda = torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""
    line(
        "CUDA device",
        cuda,
        "graph capture, more than 2³¹ elements, side streams; --device cuda. Needs a CUDA build of torch",
    )
    sanitizer = shutil.which("compute-sanitizer") or ""
    line("compute-sanitizer", sanitizer, "memcheck of CUDA kernels; part of the CUDA toolkit")
    for module, text in (
        ("triton", "kernels, interpreted on the CPU; pip install triton (Linux)"),
        ("hypothesis", "draws the cases; pip install 'trueness[verify]'"),
        ("flint", "ball certificates; pip install 'trueness[verify]'"),
        ("scipy", "oracles; pip install 'trueness[verify]'"),
        ("matplotlib", "pictures of the report; pip install 'trueness[verify]'"),
        ("diffusers", "peer of the family diffusion; pip install 'trueness[peers]'"),
        ("sklearn", "real data (handwritten digits); pip install 'trueness[peers]'"),
        ("jax", "JAX implementations; pip install 'trueness[peers]'"),
        ("asv", "performance history; pip install 'trueness[dev]'"),
    ):
        line(module, "yes" if importlib.util.find_spec(module) else "", text)
    out = console()
    out.print(table)
    runnable = [c for c in CHECKS.values() if not c.device or DEVICES[c.device].available()]
    out.print(f"{len(runnable)} of {len(CHECKS)} generic checks can run here.", highlight=False)
    for c in CHECKS.values():
        if c not in runnable:
            out.print(f"  cannot: {c.name} ({c.sentence}): no {DEVICES[c.device].title}", highlight=False)
    out.print(f"{len(registry.formulas())} formulas, {len(registry.bugs())} ledger entries.", highlight=False)
