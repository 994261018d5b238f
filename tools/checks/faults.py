"""What a sabotage does to an array: along one of its axes, or to the whole of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray
Change = Callable[[Array], Array]


@dataclass(frozen=True)
class Axis:
    """An axis of an array whose rank may vary.

    label   its symbol, or its number
    at      index, counted from the end where it is negative; None: all axes as one
    rank    least rank of an array that has it
    symbol  the symbol that its length is, if it is one
    """

    label: str
    at: int | None
    rank: int
    symbol: str = ""

    def length(self, array: Array) -> int:
        """The length along this axis; 0 where there is none."""
        if np.ndim(array) < self.rank:
            return 0
        return int(np.size(array)) if self.at is None else int(np.shape(array)[self.at])

    def along(self, change: Callable[[Array], Array]) -> Change:
        """``change``, which acts along the first axis, along this one."""

        def changed(array: Array) -> Array:
            if array.ndim < self.rank:
                return array
            if self.at is None:
                return change(array.reshape(-1)).reshape(array.shape)
            return np.moveaxis(change(np.moveaxis(array, self.at, 0)), 0, self.at)

        return changed


def axes_of(dims: Sequence[Any] | None, rank: int) -> list[Axis]:
    """The axes of an array with these dims; without dims by their numbers."""
    if dims is None:
        return [Axis(f"axis {k}", k, rank) for k in range(rank)]
    if "..." not in dims:
        return [_named(d, k, k, len(dims)) for k, d in enumerate(dims)]
    p, n = list(dims).index("..."), len(dims)
    found = [_named(d, k, k if k < p else k - n, n - 1) for k, d in enumerate(dims) if d != "..."]
    found.append(Axis("the first of ...", p, n, "..."))
    found.append(Axis("the last of ...", p - n, n + 1, "..."))
    if n == 1:
        found.append(Axis("all axes as one", None, 1, "..."))
    return found


def _named(dim: Any, number: int, at: int, rank: int) -> Axis:
    return Axis(dim, at, rank, dim) if isinstance(dim, str) else Axis(f"axis {number}", at, rank)


# -- what is done to one array, along its first axis -------------------------------------------------------------------


def tail(tile: int, repeat: bool) -> Change:
    """What lies beyond the last full tile reads as zero, or repeats the tile before; a single tile is right."""

    def change(array: Array) -> Array:
        n = len(array)
        start = n - n % tile
        if start in (0, n):
            return array
        made = array.copy()
        made[start:] = array[start - tile : n - tile] if repeat else 0
        return made

    return change


def head(count: int) -> Change:
    """Zeros from the entry ``count`` on."""

    def change(array: Array) -> Array:
        if len(array) <= count:
            return array
        made = array.copy()
        made[count:] = 0
        return made

    return change


def first_for_all(array: Array) -> Array:
    """Entry 0 in place of every entry."""
    return np.broadcast_to(array[:1], array.shape).copy() if len(array) > 1 else array


# -- what is done to a whole array ------------------------------------------------------------------------------------


def cut(digits: int) -> Change:
    """Rounded to a significand of ``digits`` bits, the exponent unlimited."""

    def change(array: Array) -> Array:
        significand, exponent = np.frexp(array)
        return np.ldexp(np.rint(significand * 2.0**digits) / 2.0**digits, exponent)

    return change


def in_storage_order(array: Array) -> Array:
    """A tensor that was stored with its last two axes exchanged, read as if it were contiguous."""
    if array.ndim < 2:
        return array
    return np.swapaxes(array, -1, -2).reshape(-1).reshape(array.shape)


def swapped(a: Axis, b: Axis) -> Change:
    """Two axes of equal length exchanged."""

    def change(array: Array) -> Array:
        if array.ndim < max(a.rank, b.rank) or array.shape[a.at] != array.shape[b.at]:  # type: ignore[index]
            return array
        return np.swapaxes(array, a.at, b.at)  # type: ignore[arg-type]

    return change


def without_last(array: Array) -> Array:
    """The last element is zero."""
    if not array.size:
        return array
    made = array.copy()
    made[(-1,) * array.ndim] = 0
    return made


def last_stale(k: int) -> Callable[[tuple[list[Array], list[Array]]], list[Array]]:
    """The last element of output k is that of the call before."""

    def change(pair: tuple[list[Array], list[Array]]) -> list[Array]:
        found, before = list(pair[0]), pair[1]
        if found[k].size:
            found[k] = found[k].copy()
            found[k][(-1,) * found[k].ndim] = before[k][(-1,) * found[k].ndim]
        return found

    return change


def mean_of(array: Array) -> Array:
    return np.full_like(array, array.mean()) if array.size else array
