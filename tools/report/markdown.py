"""The formulas and the ledger as Markdown pages: docs/formulas.md and docs/ledger.md are written by these."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from trueness.tools.spec.model import Bug, Formula, Implementation


def firsts(bugs: Iterable[Bug]) -> list[Bug]:
    """One entry per documented item, the first, which carries the item's verdict."""
    return list({b.item: b for b in sorted(bugs, key=lambda b: b.id, reverse=True)}.values())[::-1]


def ledger(bugs: Iterable[Bug]) -> str:
    """Per entry its claim, verdict, finding, source and evidence."""
    entries = sorted(bugs, key=lambda b: b.id)
    counts = f"{len(firsts(entries))} items in {len(entries)} entries"
    written = "written by `trueness ledger --write docs/ledger.md`; `trueness ledger --check` runs all of the evidence"
    lines = ["# The ledger", "", f"{counts}, {written}.", ""]
    for b in entries:
        lines += [f"## {b.id}: {b.title}", "", f"*{b.verdict}* · {b.formula or 'no formula'} · {b.document}", ""]
        lines += [f"- **claim:** {b.claim}", f"- **found:** {b.finding}", f"- **source:** {b.source}"]
        lines += [f"- **invisible in {dtype}:** {why}" for dtype, why in b.invisible.items()]
        lines += [f"- **evidence:** `{b.evidence}`", ""]
    return "\n".join(lines)


def formulas(declared: Mapping[str, Formula], bugs: Iterable[Bug]) -> str:
    """Per formula its equation, source, certificate, implementations and their conventions."""
    known = list(bugs)
    lines = ["# The formulas", "", f"{len(declared)}, written by `trueness list --write docs/formulas.md`.", ""]
    family = ""
    for f in declared.values():
        if f.family != family:
            family = f.family
            lines += [f"## {family}", ""]
        mine = [b.id for b in known if b.formula == f.name]
        lines += [f"### {f.name}", "", f"    {f.equation}", "", f"{f.source}.", ""]
        lines += [f"- **arguments:** {', '.join(a.name for a in f.arguments) or 'none'}"]
        lines += [f"- **certificate:** {f.ball or 'the digits of the reference are certified by ball arithmetic'}"]
        lines += [f"- **gradient:** {f.no_gradient or 'a vector-Jacobian product, proved by the complex step'}"]
        lines += [f"- **{dtype}:** {why}" for dtype, why in f.without.items()]
        lines += [f"- **{i.name}:** {standing(i)}" for i in f.implementations]
        lines += [f"- **known bugs:** {', '.join(mine)}"] if mine else []
        lines += [""]
    return "\n".join(lines)


def standing(implementation: Implementation) -> str:
    """Origin, framework, limit, dtypes and convention of an implementation."""
    parts: list[str] = [implementation.origin.replace("_", " "), implementation.framework, implementation.limit]
    if len(implementation.dtypes) < 4:
        parts.append(f"{' and '.join(implementation.dtypes)} only")
    if implementation.convention:
        parts.append(f"convention {implementation.convention}")
    return ", ".join(parts)
