"""The shared validation of arguments: what is allowed comes back, everything else is refused in one sentence."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from trueness.optimized._lib import validation

NAN = math.nan
FRACTION = {"allowed": "a number in [0, 1)", "least": 0, "below": 1}
OPEN = {"allowed": "a number in (0, 1]", "above": 0, "most": 1}


@pytest.mark.parametrize(
    ("require", "values", "options"),
    [
        (validation.require_count, (1, 7), {}),
        (validation.require_count, (0,), {"least": 0}),
        (validation.require_integer, (-3, 0, 2**70), {}),
        (validation.require_integer, (2, 5), {"least": 2, "most": 5}),
        (validation.require_number, (0, 0.5), FRACTION),
        (validation.require_number, (1e-300, 1), OPEN),
        (validation.require_positive, (5e-324, 3), {}),
        (validation.require_not_negative, (0, 0.0, 1e308), {}),
        (validation.require_flag, (True, False), {}),
        (validation.require_choice, ("a", "b"), {"choices": ("a", "b")}),
    ],
)
def test_an_allowed_value_is_returned_unchanged(
    require: Callable[..., Any], values: tuple[Any, ...], options: dict[str, Any]
) -> None:
    for value in values:
        assert require(value, "x", **options) is value


@pytest.mark.parametrize(
    ("require", "values", "options", "sentence"),
    [
        (validation.require_count, (0, True, 2.0, None), {}, "it must be an integer of at least 1."),
        (validation.require_integer, (True, 1.0, "1"), {}, "it must be an integer."),
        (validation.require_integer, (1, False), {"least": 2}, "it must be an integer at least 2."),
        (
            validation.require_integer,
            (1, 6),
            {"least": 2, "most": 5, "why": ", n"},
            "it must be an integer from 2 to 5, n.",
        ),
        (validation.require_number, (1, -0.1, NAN, True, "0"), FRACTION, "it must be a number in [0, 1)."),
        (validation.require_number, (0, 1.1, math.inf), OPEN, "it must be a number in (0, 1]."),
        (validation.require_positive, (0, -1, NAN, math.inf, None), {}, "it must be a finite number above 0."),
        (validation.require_not_negative, (-1, NAN, math.inf), {}, "it must be a finite number of at least 0."),
        (validation.require_flag, (1, 0, "yes", None), {}, "it must be True or False."),
        (validation.require_choice, ("c", None), {"choices": ("a", "b")}, "allowed are a, b."),
    ],
)
def test_any_other_value_is_refused_in_one_sentence(
    require: Callable[..., Any], values: tuple[Any, ...], options: dict[str, Any], sentence: str
) -> None:
    for value in values:
        with pytest.raises(ValueError) as refused:
            require(value, "x", **options)
        assert str(refused.value) == f"x was {value!r}; {sentence}"
