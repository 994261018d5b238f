"""The attributes of this module are the implementations that are examined, so that a worker process can load them.

``trueness.tools.calibration.examination.subjects:ATTRIBUTE`` is a Program's, or a third party's without its waivers.
"""

from __future__ import annotations

from trueness.tools.calibration.examination.collection import examined
from trueness.tools.spec.model import Implementation


def __getattr__(attribute: str) -> Implementation:
    found = examined().get(attribute)
    if found is None:
        raise AttributeError(attribute)
    return found.implementation()
