"""The bound: how far a correctly rounded result may be from the reference, computed from the formula on the same input.

    B = u |y| + (1 + √n · u_acc/u) · D + η          T = max_i |out_i − y_i| / B_i

y    the float64 reference on inputs already rounded to the dtype under test
D    spread of the reference under stochastic arithmetic: D² = Σ_grains mean_k (f_k − y)²
n    the formula's reduction length; outputs of a reduction share D along the last axis (root mean square), and along
     the last two where the last has fewer than FEW of at least MANY elements: the more elements there are, the farther
     out lies the smallest of estimates from few runs. An element whose mean square is more than twice as large keeps
     half of it. B is at least 2^-51 of the largest element then, but in float64, in which a program may compute
u, η, u_acc   of the dtype under test (tools/arithmetic/formats.py)

A fused program in a half format computes in float32: it may round the operands of products, and the result once. Where
its sums are long it is held to a narrower bound beside, in which nothing else is rounded to the format:

    B_fused = u |y| + D_products + (1 + √n) · D_acc + η

D_products   spread under the arithmetic of products (tools/arithmetic/products.py)
D_acc        spread with the roundoff u_acc of what is computed, which is not u_acc/u · D where a softmax saturates

All but a twentieth of its elements lie within B_fused; an accumulator in the half format errs by u √n. Where D_acc of
any element exceeds u times the standard deviation of the results, float32 shows, too, and there is no B_fused.

T ≤ 1 is explained by rounding. The limits (tools/spec/tables.py), the grains and the number of runs are the only chosen
numbers of the project; ``trueness calibrate`` prints the false accepts and false rejects they lead to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from trueness.tools.arithmetic.base import is_inexact
from trueness.tools.arithmetic.formats import Format
from trueness.tools.arithmetic.noise import GRAINS, Counter, Noise
from trueness.tools.arithmetic.products import products
from trueness.tools.arithmetic.stochastic import stochastic
from trueness.tools.arithmetic.whole import is_integer, whole
from trueness.tools.spec.tables import FUSED_SHARE, LIMITS, LONG

__all__ = ["LIMITS", "RUNS", "Bound", "bounds", "outputs", "spread"]

COSTLY = 5e5  # elements and calls of one evaluation (tools/arithmetic/noise.py)
FEW, MANY = 8, 512  # elements along an axis, and in all
CHANCE = 2  # so many times the mean square of its row an element's own may be by chance, in few runs
CHANCE_FUSED = 16  # the same for B_fused
WIDE = 2.0**-51  # of the largest element: the rounding of float64, in which a program may compute what it then rounds
EPSILON = 2.0**-55  # what is added to a number and is smaller by this factor leaves it as it is in float64
RUNS = 2  # per grain; without a reduction there is no axis to pool over, and twice as many are made
AGAIN = 4  # times as many before a result that is not far beyond its limit is called wrong (tools/checks/core.py)


@dataclass(frozen=True)
class Bound:
    """The reference's value ``y`` and the bound ``B`` around it, for one output."""

    y: np.ndarray
    B: np.ndarray
    may_overflow: np.ndarray | None = None
    """where |y| is so near the largest number that rounding may exceed it"""
    fused: np.ndarray | None = None
    """B_fused; None where sums are short, where the format is wide, and where nobody asked for it"""
    free: Bound | None = None
    """the same without a largest number, from before ``within``"""
    largest: float = np.inf
    saturable: bool = False
    """whether the largest number itself counts as an overflow"""
    unsigned: bool = False
    """whether NaN and ±inf stand for each other"""

    def ratio(self, out: np.ndarray) -> np.ndarray:
        """T of every element; 0 where both agree that there is no finite number, infinite where only one does."""
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            ratio = np.abs(out - self.y) / self.B
            if self.free is not None:  # a value that just overflows may as well not
                below = np.isinf(self.y) & np.isfinite(self.free.y) & np.isfinite(out)
                ratio = np.where(below, np.abs(out - self.free.y) / self.free.B, ratio)
        same = (out == self.y) | (np.isnan(out) & np.isnan(self.y))
        if self.unsigned:
            same |= ~np.isfinite(out) & ~np.isfinite(self.y)
        if self.may_overflow is not None:
            same |= self.may_overflow & np.isinf(out) & (np.sign(out) == np.sign(self.y))
            if self.saturable:
                same |= self.may_overflow & (np.abs(out) == self.largest) & (np.sign(out) == np.sign(self.y))
        return np.where(same, 0.0, np.where(np.isfinite(ratio), ratio, np.inf))

    def stored(self, out: np.ndarray) -> float:
        """|out − y| / B_fused, exceeded by a twentieth of the elements; 0 where there are too few, or no B_fused."""
        if self.fused is None or self.y.size < LONG:
            return 0.0
        ratio = replace(self, B=self.fused).ratio(out)
        return float(np.quantile(ratio, FUSED_SHARE, method="lower"))

    def either_overflow(self) -> Bound:
        """The same where an overflow may be ±inf as well as the largest number."""
        if self.free is None:
            return self
        with np.errstate(invalid="ignore"):
            beyond = np.isfinite(self.free.y) & (np.abs(self.free.y) + self.free.B >= self.largest)
        return replace(self, may_overflow=beyond, saturable=True)

    def within(self, largest: float, u: float, saturate: bool) -> Bound:
        """The same bound in a format whose largest number is ``largest``: beyond it lies ±inf, or that number."""
        y = np.clip(self.y, -largest, largest) if saturate else self.y
        y = np.where(np.abs(y) >= largest * (1 + u), np.copysign(np.inf, y), y) if not saturate else y
        with np.errstate(invalid="ignore"):
            edge = np.isfinite(y) & (np.abs(y) + self.B >= largest) & (not saturate)
        fused = None if self.fused is None else np.where(np.isfinite(y), self.fused, 0.0)
        return Bound(y, np.where(np.isfinite(y), self.B, 0.0), edge, fused, self, largest)

    def at_columns(self, chosen: np.ndarray) -> Bound:
        """The bound of an output that repeats these columns of its last axis."""
        edge, fused = (None if x is None else x[..., chosen] for x in (self.may_overflow, self.fused))
        return Bound(self.y[..., chosen], self.B[..., chosen], edge, fused)

    @property
    def width(self) -> np.ndarray:
        """B / |y|: the relative width of the bound."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return np.where(self.y == 0, np.inf, self.B / np.abs(self.y))


def outputs(result: Any) -> tuple[np.ndarray, ...]:
    """One array or a tuple of them, as a tuple of float64 arrays."""
    arrays = [np.asarray(y) for y in (result if isinstance(result, tuple) else (result,))]
    return tuple(a.astype(np.float64) if a.dtype.kind in "biu" else a for a in arrays)


def spread(
    function: Callable[..., Any],
    arguments: Sequence[Any],
    units: Sequence[float],
    eta: float,
    reduction: int,
    seed: int = 0,
    carried: Callable[[Any, float, float, Noise], Any] = stochastic,
    chance: float = CHANCE,
    times: int = 1,
    budget: float = np.inf,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The value y of every output and its spread D; ``units[i]`` is the roundoff carried by argument i.

    D is infinite where every run left the formula's domain: then rounding alone may do so, and nothing is certain.

    carried  makes an array that perturbs itself of an argument, its roundoff, η and the noise
    chance   an element whose mean square is larger than that of its row by this factor keeps its own, divided by it
    times    how many times as many runs are made
    budget   TooCostly is raised where one run costs more
    """
    truth = outputs(function(*arguments))
    most = times * (RUNS if reduction > 1 else 2 * RUNS)
    spent, underflow = 0.0, eta
    fine = max(units, default=0.0) <= 2.0**-53  # so that what is made of integers may count
    total = [np.zeros(y.shape) for y in truth]
    seen = [~np.isfinite(y) for y in truth]  # where a run has shown how far the value moves
    with np.errstate(all="ignore"):
        for place, grain in enumerate(GRAINS):  # each with signs of its own, for small operands are one block of any
            noise = Noise((seed, place), grain, watching=grain == GRAINS[0])
            deviations: list[list[np.ndarray]] = []
            while len(deviations) < runs(most, spent):
                noise.counter = Counter(budget)
                moved = [
                    carried(x, u, underflow if u > 2.0**-53 else 0.0, noise) if is_inexact(x) else x
                    for x, u in zip(arguments, units, strict=True)
                ]
                if fine:
                    moved = [whole(x, noise) if is_integer(x) else x for x in moved]
                deviations.append([f - y for f, y in zip(outputs(function(*moved)), truth, strict=True)])
                spent = spent or noise.counter.spent
                if noise.watching and noise.smallest > eta / EPSILON:
                    underflow = 0.0
                noise.watching = False
            for i in range(len(truth)):
                found = np.stack([np.asarray(d[i]) for d in deviations])
                total[i] = total[i] + mean_square(found)
                seen[i] |= np.isfinite(found).any(0)
        spreads = [np.sqrt(np.maximum(pooled(t), t / chance) if reduction > 1 else t) for t in total]
        return list(truth), [np.where(s, d, np.inf).astype(float) for s, d in zip(seen, spreads, strict=True)]


def runs(most: int, spent: float) -> int:
    """How many runs of a grain are made where one costs ``spent``: half as many for costly ones, whose elements are
    the sample."""
    return most if spent <= COSTLY else max(most // 2, 1)


def mean_square(deviations: np.ndarray) -> np.ndarray:
    """Mean over runs of the square; a run that left the formula's domain does not count.

    Where squares would underflow they are taken in numpy.longdouble, as far as it has a larger range.
    """
    finite = np.isfinite(deviations)
    kept = np.where(finite, deviations, 0.0)
    if ((np.abs(kept) < np.sqrt(np.finfo(np.float64).tiny)) & (kept != 0)).any():
        kept = kept.astype(np.longdouble)
    return np.asarray(kept.__pow__(2).sum(0) / np.maximum(finite.sum(0), 1))


def pooled(square: np.ndarray) -> np.ndarray:
    """The mean along the last axis; along the last two where there are many elements, but few along the last."""
    if square.ndim == 0 or square.size == 0:
        return square
    few = square.ndim > 1 and square.shape[-1] < FEW and square.size >= MANY
    return np.broadcast_to(square.mean((-2, -1) if few else -1, keepdims=True), square.shape)


def largest_of(y: np.ndarray) -> float:
    """The largest magnitude of a finite element."""
    return float(np.max(np.abs(y), where=np.isfinite(y), initial=0.0))


def bounds(
    function: Callable[..., Any],
    arguments: Sequence[Any],
    units: Sequence[float],
    fmt: Format,
    reduction: int,
    whole: Sequence[bool] = (),
    fused: bool = False,
    times: int = 1,
    budget: float = np.inf,
) -> list[Bound]:
    """The bound of every output of ``function`` in format ``fmt``; with B_fused where ``fused`` asks for it.

    ``times`` as many runs are made as otherwise; TooCostly is raised where one costs more than ``budget``.

    In float64 the reference is itself one float64 run, so its own rounding is added: B counts twice.
    An output that is ``whole`` (integers, truth values) is not rounded: only what may tip a comparison moves it.
    """
    working = max([u for u in units if u > 0.0], default=fmt.u)
    share = min(1.0, fmt.u_acc / working)
    grow = 1 + np.sqrt(reduction) * share
    truth, spreads = spread(function, arguments, units, fmt.eta, reduction, times=times, budget=budget)
    both = 2.0 if fmt.name == "float64" else 1.0
    last = [0.0 if w else 1.0 for w in whole] or [1.0] * len(truth)
    narrow: list[np.ndarray | None] = [None] * len(truth)
    if fused and fmt.half and reduction >= LONG:
        inside = [min(u, fmt.u_acc) for u in units]
        narrower: dict[str, Any] = {"carried": products, "chance": CHANCE_FUSED, "times": times}
        stored = spread(function, arguments, units, fmt.eta, reduction, **narrower)[1]
        accumulated = spread(function, arguments, inside, fmt.eta, reduction, times=times)[1]
        narrow = [
            s + (1 + np.sqrt(reduction)) * a if told(a, y, fmt.u) else None
            for s, a, y in zip(stored, accumulated, truth, strict=True)
        ]
    with np.errstate(invalid="ignore", over="ignore"):
        found = []
        for y, d, k, inner in zip(truth, spreads, last, narrow, strict=True):
            once = k * (fmt.u * np.abs(y) + fmt.eta)
            least = WIDE * largest_of(y) if k and reduction > 1 and fmt.u > 2.0**-53 else 0.0
            held = None if inner is None else once + inner
            found.append(Bound(y, np.maximum(both * (once + grow * d), least), None, held))
        return found


def told(accumulated: np.ndarray, y: np.ndarray, u: float) -> bool:
    """Whether the roundoff of float32 is small against that of the half format, so that one is told from the other."""
    finite = y[np.isfinite(y)]
    return bool(finite.size and np.max(accumulated, initial=0.0) <= u * np.std(finite))
