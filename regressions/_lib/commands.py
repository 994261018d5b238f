"""How the evidence of an entry is run."""

from __future__ import annotations


def show(id: str) -> str:
    """The command that runs every test whose name holds ``id``: FSB-01, or FSB_01 as the names have it."""
    return f"pytest --pyargs trueness.regressions -k {id.replace('-', '_')}"
