"""The documents and sources of the family attention, and an entry of the DiffiT report."""

from __future__ import annotations

from typing import Any

import numpy as np

from trueness.regressions._lib.commands import show
from trueness.tools.spec.model import Bug

ATLAS = "ATLAS (OT-diffusion-toolkit), changelog of 2025-11-20"
DIFFIT = "DiffiT-v2, improvement report at commit 57f956f6"
VASWANI = "Vaswani et al. 2017 (1706.03762) eq. 1"
SWIN = "Liu et al. 2021 (2103.14030)"
PAPER = "Hatamizadeh et al. 2023 (2312.02139)"


def entry(
    id: str, title: str, claim: str, verdict: str, finding: str, formula: str = "", variant: Any = None, **fields: Any
) -> Bug:
    """An entry of the DiffiT report."""
    fields.setdefault("source", f"{PAPER} eq. 3-6")
    fields.setdefault("document", DIFFIT)
    name = f"attention.{formula}" if formula else ""
    return Bug(
        id=id,
        title=title,
        claim=claim,
        verdict=verdict,
        finding=finding,
        formula=name,
        variant=variant,
        evidence=show(id.replace("-", "_")),
        **fields,
    )


def drawn(*shapes: tuple[int, ...], seed: int = 0) -> list[Any]:
    """Standard normal arrays."""
    generator = np.random.default_rng(seed)
    return [generator.standard_normal(shape) for shape in shapes]
