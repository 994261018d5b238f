"""The floating-point formats under test (tools/spec/tables.py), and rounding to them."""

from __future__ import annotations

import numpy as np
import torch

from trueness.tools.spec.tables import FORMATS, Format, require

__all__ = ["Format", "precision", "round_to"]


def precision(name: str) -> Format:
    """The format called ``name``; ValueError names those that exist."""
    return FORMATS[require("dtype", name, FORMATS)]


def round_to(values: np.ndarray, dtype: str) -> np.ndarray:
    """``values`` rounded once to ``dtype`` (ties to even), returned in float64."""
    wide = torch.from_numpy(np.array(values, dtype=np.float64, order="C"))  # a writable copy; 0-d stays 0-d
    return wide.to(precision(dtype).torch).to(torch.float64).numpy()
