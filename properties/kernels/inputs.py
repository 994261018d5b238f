"""What the cases of the kernels are drawn from: points, frequencies, offsets, scales, and measured data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from trueness.properties._lib import digits as _digits
from trueness.tools.spec.inputs import Made, Real, Scalar, shape_of
from trueness.tools.spec.model import Case

SPANS = {"n": (2, 4), "m": (2, 4), "d": (1, 3), "D": (6, 8), "p": (4, 5)}


@dataclass(frozen=True)
class Drawn(Real):
    """A tensor in the dtype under test with elements from ``law(generator, shape)``, whatever the case's scale."""

    law: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray] = lambda generator, shape: np.zeros(shape)

    def build(self, case: Case, generator: np.random.Generator) -> np.ndarray:
        return self.law(generator, shape_of(self.dims, case))


def spans(*dims: Any) -> dict[str, tuple[int, int]]:
    return {d: SPANS[d] for d in dims if isinstance(d, str)}


def points(name: str, rows: str) -> Real:
    """So near to each other that no kernel is lost in bfloat16: the discriminating inputs are farther apart."""
    return Real(name, dims=(rows, "d"), decades=(-2.0, -0.5), spans=spans(rows, "d"))


def normal(name: str, *dims: Any, gradient: bool = True) -> Real:
    return Real(name, dims=dims, unit_scale=True, gradient=gradient, spans=spans(*dims))


def drawn(name: str, law: Any, *dims: Any, gradient: bool = False) -> Drawn:
    return Drawn(name, dims=dims, law=law, gradient=gradient, spans=spans(*dims))


def inside(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform on (0.03, 0.97): at the ends the quantiles are infinite."""
    return 0.03 + 0.94 * generator.random(shape)


def turns(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return 2 * np.pi * generator.random(shape)


LENGTHSCALE = Scalar("lengthscale", st.sampled_from((1.0, 0.8, 3.0)), far=(0.1, 30.0))
PAIR = (points("x", "n"), points("y", "m"))
V = normal("v", "m", "p")
FREQUENCIES, OFFSETS = normal("frequencies", "d", "D"), drawn("offsets", turns, "D", gradient=True)
COUNTS = Made(
    "counts",
    make=lambda known, generator: tuple(known["counts"]),
    draws={"counts": st.sampled_from([(6,), (2, 5), (4, 3), (3, 2, 2)])},
    far={"counts": ((300,), (70, 65), (33, 1, 64, 9, 40))},
)


def total(known: Mapping[str, Any]) -> int:
    return int(sum(known["counts"]))


def power(known: Mapping[str, Any]) -> int:
    """The power of two that holds d."""
    return 1 << (int(known["d"]) - 1).bit_length()


def shares(known: Mapping[str, Any], generator: np.random.Generator) -> np.ndarray:
    """w_s, unequal and summing to 1."""
    weights = 0.5 + generator.random(len(known["counts"]))
    return weights / weights.sum()


SCALES = (
    drawn("frequencies", lambda generator, shape: generator.standard_normal(shape), "d", total, gradient=True),
    drawn("offsets", turns, total, gradient=True),
    Made("weights", make=shares, array=True),
    COUNTS,
)


def widest(*symbols: str) -> Callable[[Mapping[str, Any]], int]:
    """The sum of these lengths: as many terms as are added up one after the other."""
    return lambda sizes: sum(int(sizes.get(s, 8)) for s in symbols)


# -- measured data ----------------------------------------------------------------------------------------------------


def real(*names: str) -> Callable[[], Mapping[str, Sequence[Any]]]:
    """Handwritten digits in [−1, 1]⁶⁴, six and five of them, and 40 features."""

    def load() -> Mapping[str, Sequence[Any]]:
        if not _digits.available():
            return {}
        pixels, generator = _digits.digits()[:11].reshape(11, 64), np.random.default_rng(0)
        known = {
            "x": pixels[:6],
            "y": pixels[6:],
            "v": generator.standard_normal((5, 3)),
            "lengthscale": 5.0,
            "gaussian": "gaussian",
            "frequencies": generator.standard_normal((64, 40)) / 5,
            "offsets": turns(generator, (40,)),
        }
        return {"digits": [known[n] for n in names]}

    return load
