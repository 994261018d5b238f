"""A formula's arguments reach a function by position, by keyword, or together in a structure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import pytest

from trueness.tools.spec.calling import positional

NAMES = ("x", "w", "b", "eps", "mode")


class Weights(NamedTuple):
    w: int
    b: int


@dataclass(frozen=True)
class Config:
    eps: float = 0.0
    mode: str = "plain"


def plain(x: Any, w: Any, b: Any, eps: Any, mode: Any) -> Any:
    return x, w, b, eps, mode


def other_names(a: Any, c: Any, d: Any, e: Any, f: Any) -> Any:
    return a, c, d, e, f


def keywords(x: Any, w: Any, b: Any, *, eps: Any = 0.0, mode: Any = "plain", out: Any = None) -> Any:
    return x, w, b, eps, mode


def keywords_of_other_places(x: Any, w: Any, *, mode: Any, b: Any, eps: Any) -> Any:
    return x, w, b, eps, mode


def weights(x: Any, weights: Weights, *, eps: Any, mode: Any) -> Any:
    return x, weights.w, weights.b, eps, mode


def all_structures(x: Any, *, weights: Weights | None = None, config: Config = Config()) -> Any:
    assert weights is not None
    return x, weights.w, weights.b, config.eps, config.mode


def two_words(a: Any, *, weights: Weights, config: Config) -> Any:
    return (a, Weights(*weights)), config.eps, config.mode


@pytest.mark.parametrize(
    "function",
    [plain, other_names, keywords, keywords_of_other_places, weights, all_structures, partial(keywords, out=1)],
)
def test_every_argument_arrives_in_its_place(function: Any) -> None:
    assert positional(function, NAMES)(1, 2, 3, 4.0, "five") == (1, 2, 3, 4.0, "five")


def test_tuples_inside_a_result_are_unpacked() -> None:
    assert positional(two_words, NAMES)(1, 2, 3, 4.0, "five") == (1, 2, 3, 4.0, "five")


def test_a_function_of_positions_alone_is_returned_as_it_is() -> None:
    assert positional(plain, NAMES) is plain
    assert positional(max, NAMES) is max


def test_options_go_through() -> None:
    assert positional(lambda x, *, eps, out: (x, eps, out), ("x", "eps"))(1, 2, out=3) == (1, 2, 3)


def test_a_missing_argument_is_an_error_of_the_function() -> None:
    with pytest.raises(TypeError, match="missing"):
        positional(lambda x, y, *, eps: None, ("x", "eps"))(1, 2)
