"""What the verdicts of a run say together, in one sentence that claims no more than was run."""

from __future__ import annotations

from collections.abc import Sequence

from trueness.tools.spec.model import Verdict

REFERENCE = "reference"
"""the implementation that is the reference itself"""


def asked_for(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts on implementations; those on the reference where there are no others."""
    return [v for v in verdicts if v.implementation != REFERENCE] or list(verdicts)


def judged(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Those of checks that ran."""
    return [v for v in asked_for(verdicts) if not v.skipped]


def conclusion(verdicts: Sequence[Verdict]) -> str:
    """\"no fault found in N cases, lengths up to L", why nothing was judged, or how many checks found a fault."""
    asked, ran = asked_for(verdicts), judged(verdicts)
    faults = sum(not v.passed for v in verdicts)
    if faults:
        return f"{faults} of {sum(not v.skipped for v in verdicts)} checks found a fault"
    if not ran:
        reasons = dict.fromkeys(v.message for v in asked)
        return f"nothing was judged: {'; '.join(reasons) or 'no check was chosen'}"
    cases, longest = sum(v.cases for v in ran), max(v.longest for v in ran)
    found = f"no fault found in {cases} {'case' if cases == 1 else 'cases'}"
    return f"{found}, lengths up to {longest}" if longest else found
