"""What the laws of the family attention share: functions of flat arguments, drawn arguments, comparison in bounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from trueness.optimized import attention as fast
from trueness.properties import attention as declared
from trueness.properties.attention import peers
from trueness.tools.arithmetic.bounds import LIMITS, bounds
from trueness.tools.arithmetic.formats import precision
from trueness.tools.checks.core import settings_for

F64 = precision("float64")
FORMULAS = {formula.name.removeprefix("attention."): formula for formula in declared.FORMULAS}
# the functions of reference and optimized with the formulas' flat arguments, all by position
true = SimpleNamespace(**{name: formula.reference for name, formula in FORMULAS.items()})
ours = SimpleNamespace(**{name: formula.bind(getattr(fast, name)) for name, formula in FORMULAS.items()})
seeds = st.integers(0, 2**16)
sides, few = st.integers(1, 3), st.integers(1, 2)


def given(**strategies: Any) -> Callable[[Any], Any]:
    """As everywhere in the project: derandomized, without a clock."""
    return lambda law: settings_for(10)(hypothesis.given(**strategies)(law))


def on_arrays(function: Callable[..., Any]) -> Callable[..., Any]:
    """A torch function on NumPy arrays."""

    def call(*arguments: Any) -> Any:
        natives = [torch.from_numpy(np.array(a)) if isinstance(a, np.ndarray) else a for a in arguments]
        return function(*natives).numpy()

    return call


PEERS: Mapping[str, Mapping[str, Callable[..., Any]]] = {
    "masked_attention": {"torch SDPA": peers.sdpa},
    "tmsa": {"dense": peers.dense},
    "window_partition": {"transformers": peers.swin_partition},
    "relative_position_index": {"transformers": lambda w: peers.swin_index(w)},
    "relative_position_bias": {"transformers": peers.swin_bias},
}


def every(name: str, *without: str) -> Any:
    """Parametrize a law over the reference, ours, and third parties that have the formula."""
    pairs = {"reference": getattr(true, name), "ours": on_arrays(getattr(ours, name))}
    pairs.update({k: on_arrays(f) for k, f in PEERS.get(name, {}).items() if k not in without})
    return pytest.mark.parametrize("function", pairs.values(), ids=pairs)


def B_of(function: Callable[..., Any], *arguments: Any) -> np.ndarray:
    """The float64 bound of the first output; sums of up to 64 terms."""
    units = [F64.u if np.asarray(a).dtype.kind == "f" else 0.0 for a in arguments]
    return bounds(function, arguments, units, F64, 64)[0].B


def assert_same(a: np.ndarray, b: np.ndarray, function: Callable[..., Any], *inputs: tuple[Any, ...]) -> None:
    """``a`` and ``b`` differ by no more than the roundings of ``function`` at all ``inputs`` together."""
    allowed = LIMITS["eager"] * sum(B_of(function, *arguments) for arguments in inputs)
    assert (np.abs(a - b) <= allowed).all()


def tmsa_arguments(
    seed: int, window: int, rows: int = 1, columns: int = 1, heads: int = 2, batch: int = 2
) -> tuple[Any, ...]:
    generator = np.random.default_rng(seed)
    C, E = 3 * heads, 4
    shapes = [(batch, rows * window, columns * window, C), (batch, E), *[(C, C)] * 3, *[(E, C)] * 3, (C, C)]
    return (*(0.7 * generator.standard_normal(s) for s in [*shapes, ((2 * window - 1) ** 2, heads)]), window, heads)


def changed(arguments: tuple[Any, ...], **by_name: Any) -> tuple[Any, ...]:
    names = ["x", "t", "w_qs", "w_ks", "w_vs", "w_qt", "w_kt", "w_vt", "w_o", "bias_table", "window", "num_heads"]
    return tuple(by_name.get(n, a) for n, a in zip(names, arguments, strict=True))


def block_arguments(seed: int, image: bool = False) -> tuple[Any, ...]:
    """Of diffit_block, or with ``image`` of diffit_resblock."""
    x, t, *projections = tmsa_arguments(seed, 2, columns=2)
    window, heads = projections.pop(-2), projections.pop(-1)
    generator = np.random.default_rng([seed, 1])
    C = x.shape[-1]
    norms = [generator.standard_normal(C) for _ in range(4)]
    mlp = [generator.standard_normal(s) for s in [(C, 5), (5,), (5, C), (C,)]]
    inner = (*norms[:2], *projections, *norms[2:], *mlp)
    if not image:
        return (x, t, *inner, window, heads, 1e-6)
    front = [generator.standard_normal(s) for s in [(C,), (C,), (C, C, 3, 3), (C,)]]
    return (np.moveaxis(x, -1, 1).copy(), t, *front, *inner, window, heads, 2, 1e-6)
