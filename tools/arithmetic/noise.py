"""The signs that stochastic arithmetic moves operands by: ξ and ξ' = ±1, constant on blocks of elements."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

GRAINS: tuple[int | None, ...] = (1, 8, 64, None)  # None: one sign for the whole operand
_XI = np.array([1.0, 1.0, -1.0, -1.0])  # the two signs that one draw of four stands for
_UNDERFLOW = np.array([1.0, -1.0, 1.0, -1.0])
Fields = tuple[Any, Any, Any]  # what an operand is multiplied by, and unless None what divided by, what is added to it
_WORDS = 1024  # drawn at a time, at least; four draws each


class Noise:
    """Signs, constant on blocks of ``grain`` elements, from one generator.

    They are drawn many at a time, for most operands are small: none is used twice.
    """

    def __init__(self, seed: int, grain: int | None = 1) -> None:
        self.generator, self.grain = np.random.default_rng(seed), grain
        self._drawn, self._used = np.zeros(0, np.uint8), 0
        self._signs: dict[tuple[float, float], Fields] = {}

    def _next(self, count: int) -> slice:
        """Where the next ``count`` draws lie; every operand begins a word of its own."""
        begin = self._used
        if begin + count > len(self._drawn):
            words = self.generator.integers(0, 2**32, max(_WORDS, -(-count // 4)), dtype=np.uint32)
            self._drawn = np.concatenate([self._drawn[begin:], words.view(np.uint8) >> 6])
            self._signs.clear()
            begin = 0
        self._used = begin + -(-count // 4) * 4
        return slice(begin, begin + count)

    def signs(self, u: float, eta: float, shape: tuple[int, ...]) -> Fields:
        """The fields of `fields` for every element; a single number where one block holds them all."""
        size = math.prod(shape)
        grain = self.grain or max(size, 1)
        at = self._next(-(-size // grain))
        if (u, eta) not in self._signs:
            factor, divisor, underflow = (None if f is None else f[self._drawn] for f in fields(u, eta))
            self._signs[u, eta] = factor, divisor, underflow
        factor, divisor, underflow = self._signs[u, eta]
        if 0 < size <= grain > 1:
            start = at.start
            return (
                factor[start],
                None if divisor is None else divisor[start],
                None if underflow is None else underflow[start],
            )

        def laid(field: Any) -> Any:
            if field is None:
                return None
            return (field[at] if grain == 1 else field[at].repeat(grain)[:size]).reshape(shape)

        return laid(factor), laid(divisor), laid(underflow)


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
