"""Known bugs of masked attention: an inversion that never was, a row without keys, a mask that is added."""

from __future__ import annotations

from typing import Any

import numpy as np

from trueness.reference import attention as true
from trueness.regressions.attention.entries import ATLAS, VASWANI, drawn, entry


def inverted(q: Any, k: Any, v: Any, mask: Any) -> Any:
    """attends where it must not"""
    return true.masked_attention(q, k, v, ~mask)


def without_guard(q: Any, k: Any, v: Any, mask: Any) -> Any:
    """softmax of a row of −∞ is 0/0"""
    seen = np.any(mask, -1, keepdims=True)
    return np.where(seen, true.masked_attention(q, k, v, mask), np.nan)


def added(q: Any, k: Any, v: Any, mask: Any) -> Any:
    """the mask's 0 and 1 are added to the logits"""
    return true._softmax(true._scores(q, k) + np.where(mask, 1.0, 0.0)) @ v


QUERIES, KEYS = drawn((1, 2, 4), (1, 3, 4))
VALUES = np.array([[[1.0, 2.0], [-3.0, 1.0], [99.0, 99.0]]])
PADDED = np.array([[[True, True, False], [True, True, False]]])
BLANK = np.array([[[True, True, False], [False, False, False]]])

MASK = "the attention mask was inverted; true now means attend"

BUGS = (
    entry(
        "ATLAS-13a",
        "attention goes where the mask forbids it",
        MASK,
        "no bug",
        "Before, the producer marked padding and the consumer filled where marked; after, the producer marks tokens "
        "and the consumer fills where not marked: the same bits. An inverted mask leaks a padded value of 99 at once.",
        "masked_attention",
        inverted,
        document=f"{ATLAS}, item 13",
        source=VASWANI,
        discriminating_input=(QUERIES, KEYS, VALUES, PADDED),
    ),
    entry(
        "ATLAS-13b",
        "a query that may see no key gets NaN",
        "the mask is fixed",
        "real bug, wrong fix",
        "softmax of a row of −∞ is NaN before and after the change. torch's MultiheadAttention returns NaN when asked "
        "for weights and 0 when not; scaled_dot_product_attention returns 0, as here.",
        "masked_attention",
        without_guard,
        document=f"{ATLAS}, item 13",
        source=VASWANI,
        discriminating_input=(QUERIES, KEYS, VALUES, BLANK),
    ),
    entry(
        "ATLAS-13c",
        "the mask's 0 and 1 are added to the logits",
        MASK,
        "no bug",
        "Nobody had it. A factor e between the seen and the hidden is all that is left of the mask.",
        "masked_attention",
        added,
        document=f"{ATLAS}, item 13",
        source=VASWANI,
        discriminating_input=(QUERIES, KEYS, VALUES, PADDED),
    ),
    entry(
        "ATLAS-13d",
        "a mask that is given raises before it is used",
        "masks can be passed as context_mask or mask",
        "real bug, wrong fix",
        "get('context_mask') or get('mask') asks a tensor for its truth value, which raises for more than one element, "
        "before and after the change; `is None` is what was meant.",
        document=f"{ATLAS}, item 13",
        source="torch: Boolean value of Tensor with more than one value is ambiguous",
    ),
)
