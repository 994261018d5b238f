"""``trueness calibrate --examination``: the examination alone, and what `trueness calibrate` adds to its page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from trueness.tools.calibration.examination.page import problems, render
from trueness.tools.calibration.examination.run import examine, tasks
from trueness.tools.spec.tables import CALIBRATION_PROFILES, FORMATS, require

MOST = {False: 0.02, True: 0.05}
"""the share of wrong programs that may be accepted: in a wide format, in a half format"""


def run(
    profile: str,
    only: str = "",
    dtypes: Sequence[str] = (),
    records: str = "",
    workers: int = 2,
    note: Callable[[str], None] = lambda text: None,
) -> tuple[str, tuple[str, ...]]:
    """The section as Markdown, and what is wrong with the result in sentences.

    profile  of the calibration: in which profiles the programs are verified
    only     programs whose formula and name contain this text
    dtypes   formats; all unless given
    records  file of JSON lines that keeps what was found, so that an interrupted examination goes on
    raises   ValueError where ``only`` fits no program
    """
    chosen = CALIBRATION_PROFILES[require("profile", profile, CALIBRATION_PROFILES)]
    wanted = tasks(dtypes or tuple(FORMATS), chosen.verified, only)
    if not wanted:
        raise ValueError(f"only was {only!r}: no program of the examination has it in its formula or name.")
    found = examine(wanted, Path(records) if records else None, workers, note)
    return render(found), problems(found, MOST)
