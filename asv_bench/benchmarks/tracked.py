"""What the gate compares: T, the ratio to the eager peer, the fraction of the copy bandwidth."""

from __future__ import annotations

from typing import Any

from benchmarks.measure import Finding, Measured
from benchmarks.subjects import PARAM_NAMES, Refused, class_name, is_ours, params, timed_formulas


class _Tracked(Measured):
    formula: Any
    param_names = PARAM_NAMES

    def setup(self, found: Any, *params: Any) -> None:
        self.finding: Finding = found[(self.formula.name, *params)]
        if self.finding.skipped:
            raise NotImplementedError(self.finding.skipped)

    def told(self, number: float | None, why: str) -> float:
        if self.finding.refused:
            raise Refused(self.finding.refused)
        return number if number is not None else self.nothing(why)

    def nothing(self, why: str) -> float:
        print(f"not applicable: {why}")
        return float("nan")

    def track_T(self, *_: Any) -> float:
        """The worst error in units of the bound, on the tensors that were timed; told even where it is too large."""
        if self.finding.T is None:
            raise Refused(self.finding.refused)
        return self.finding.T

    def track_ratio_to_eager(self, *_: Any) -> float:
        """time / time of plain torch, the two called in turn."""
        return self.told(self.finding.ratio_to_eager, self.finding.no_ratio)

    def track_copy_fraction(self, *_: Any) -> float:
        """Bytes that must move / (time × measured copy bandwidth); above 1 something was not computed."""
        return self.told(self.finding.copy_fraction, "the formula declares no bytes")

    track_T.unit = "of the bound"  # type: ignore[attr-defined]
    track_ratio_to_eager.unit = "× eager"  # type: ignore[attr-defined]
    track_copy_fraction.unit = "of copy"  # type: ignore[attr-defined]


for _formula in timed_formulas():
    globals()[class_name(_formula)] = type(
        class_name(_formula), (_Tracked,), {"formula": _formula, "params": params(_formula, is_ours)}
    )
