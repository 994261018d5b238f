"""How the report writes numbers, counts and lists."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from trueness.tools.report.results import MEASURED, position
from trueness.tools.spec.tables import SUPERSCRIPT


def number(x: float | None) -> str:
    """Three digits of ``x``, in powers of ten where that is shorter."""
    if x is None:
        return "–"
    if not math.isfinite(x):
        return "NaN" if math.isnan(x) else "∞" if x > 0 else "−∞"
    if x and not 1e-3 <= abs(x) < 1e5:
        mantissa, _, exponent = f"{x:.2e}".partition("e")
        return f"{mantissa} × 10{str(int(exponent)).translate(SUPERSCRIPT)}"
    return f"{x:.0f}" if abs(x) >= 100 else f"{x:.3g}"


def exact(x: float | None) -> str:
    return "–" if x is None else f"{x:.9g}"


def plural(n: int, one: str, many: str = "") -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}".replace(",", "\u202f")


def names(words: Iterable[str]) -> str:
    return ", ".join(words)


def several(words: Sequence[str], shown: int = 3) -> str:
    """The first of ``words``, the measured checks among them foremost, and how many more there are."""
    first = sorted(words, key=lambda w: position(w, MEASURED))
    more = len(first) - shown
    return names(first) if more <= 1 else f"{names(first[:shown])} and {more} more"


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
