"""The signs that stochastic arithmetic moves operands by: ξ and ξ' = ±1, constant on blocks of elements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

GRAINS: tuple[int | None, ...] = (1, 8, 64, None)  # None: one sign for the whole operand
_XI = np.array([1.0, 1.0, -1.0, -1.0])  # the two signs that one draw of four stands for
_UNDERFLOW = np.array([1.0, -1.0, 1.0, -1.0])
Fields = tuple[Any, Any, Any]  # what an operand is multiplied by, and unless None what divided by, what is added to it
CALL = 500
"""elements that one operation on a small array takes as long as"""
_BYTES = 2048  # drawn at a time, at least; four draws each
_DRAWS = np.arange(256)[:, None] >> np.arange(0, 8, 2) & 3  # of every byte


class TooCostly(BaseException):
    """A function has cost more than its budget; no Exception, so that the function itself does not handle it."""


class Counter:
    """Counts the elements that operations read: the work of a function, the same on every machine.

    It stands where a Noise does and moves nothing. A call costs what it does whatever its size.
    """

    def __init__(self, budget: float = math.inf) -> None:
        self.spent, self.budget = 0.0, budget

    def add(self, size: int) -> None:
        self.spent += size + CALL
        if self.spent > self.budget:
            raise TooCostly

    def moved(self, plain: np.ndarray, u: float, eta: float) -> np.ndarray:
        self.add(plain.size)
        return plain


class Noise:
    """Signs, constant on blocks of ``grain`` elements, from one generator.

    They are drawn many at a time, for most operands are small: none is used twice.

    smallest  the smallest operand but 0 that was moved, if ``watching``
    """

    def __init__(self, seed: int | Sequence[int], grain: int | None = 1, watching: bool = False) -> None:
        self.watching, self.smallest = watching, math.inf
        self.generator, self.grain = np.random.default_rng(seed), grain
        self._drawn, self._used = np.zeros(0, np.uint8), 0  # bytes
        self._signs: dict[tuple[float, float], Fields] = {}
        self.counter = Counter()

    def moved(self, plain: np.ndarray, u: float, eta: float) -> Any:
        """x (1 + u ξ) + η ξ': zeros stay; an underflow reaches zero, never the other side."""
        factor, divisor, underflow = self.signs(u, eta, plain.shape)
        found = np.asarray(plain * factor)
        if divisor is not None:
            found /= divisor
        if underflow is None:
            return found
        if self.watching:
            self.smallest = min(self.smallest, float(np.abs(plain).min(where=plain != 0, initial=math.inf)))
        found += underflow
        np.copyto(found, 0.0, where=found * plain <= 0)
        return found

    def signs(self, u: float, eta: float, shape: tuple[int, ...]) -> Fields:
        """The fields of `fields` for every element; a single number where one block holds them all."""
        size = math.prod(shape)  # a plain sequence of statements: it runs for every operand of every run
        self.counter.add(size)
        grain = self.grain or max(size, 1)
        count = -(-size // grain)
        needed = -(-count // 4)  # every operand begins a byte of its own
        if self._used + needed > len(self._drawn):
            self._draw(needed)
        begin = 4 * self._used
        self._used += needed
        factor, divisor, underflow = self._signs.get((u, eta)) or self._looked_up(u, eta)
        place = begin if 0 < size <= grain > 1 else slice(begin, begin + count)
        return (
            laid(factor, place, grain, shape, size),
            divisor if divisor is None else laid(divisor, place, grain, shape, size),
            underflow if underflow is None else laid(underflow, place, grain, shape, size),
        )

    def _draw(self, needed: int) -> None:
        """Put at least ``needed`` bytes at the beginning; those that are left come first."""
        drawn = np.frombuffer(self.generator.bytes(max(_BYTES, needed)), np.uint8)
        self._drawn, self._used = np.concatenate([self._drawn[self._used :], drawn]), 0
        self._signs.clear()

    def _looked_up(self, u: float, eta: float) -> Fields:
        taken = (None if f is None else f[_DRAWS].take(self._drawn, axis=0).ravel() for f in fields(u, eta))
        factor, divisor, underflow = taken
        found = self._signs[u, eta] = factor, divisor, underflow
        return found


def laid(field: np.ndarray, place: int | slice, grain: int, shape: tuple[int, ...], size: int) -> Any:
    """The number at ``place``; or one for every block of ``grain`` elements, in the shape of the operand."""
    found = field[place]
    if not isinstance(place, slice):
        return found
    if grain != 1:
        found = found.repeat(grain)[:size]
    return found if len(shape) == 1 else found.reshape(shape)


def fields(u: float, eta: float) -> Fields:
    """1 + u ξ for each of the four draws, and η ξ' unless η is 0.

    1 + 2^-53 is no float64: it would be 1, and noise to one side alone has a mean that adds up in a sum. So at the
    roundoff of float64 there is one to multiply and one to divide by. Any step lands a whole unit in the last
    place away, u |x| to 2 u |x|; with half of the draws still, the mean square is that of ± u |x| again. (Of a power of
    two the step down is half the step up; nothing else has a mean.)
    """
    underflow = eta * _UNDERFLOW if eta else None
    if 1 + u > 1:
        return 1 + u * _XI, None, underflow
    return np.array([1, 1, 1, 1 - u]), np.array([1 - u, 1, 1, 1]), underflow
