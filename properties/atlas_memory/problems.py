"""What the laws of the Omega rule share: drawn problems, the implementations, and the bound of one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from trueness.properties.atlas_memory.flat import MLP, STATE, TOKENS
from trueness.properties.atlas_memory.flat import optimized as fast
from trueness.properties.atlas_memory.flat import reference as true
from trueness.tools.arithmetic.bounds import LIMITS, Bound, bounds
from trueness.tools.arithmetic.formats import precision
from trueness.tools.checks.core import settings_for
from trueness.tools.run.trial import fingerprint

F64 = precision("float64")
EXAMPLES = 6
Problem = dict[str, Any]
_BOUNDS: dict[str, list[Bound]] = {}

seeds = st.integers(0, 2**16)
sizes = st.fixed_dictionaries(
    {"B": st.integers(1, 2), "T": st.integers(1, 7), "H": st.integers(1, 2), "P": st.integers(1, 4)}
    | {"V": st.integers(1, 3), "c": st.integers(1, 3)}
)
chunks = st.integers(1, 9)
objectives = st.sampled_from(("l2", "dot"))
places = st.booleans()
reads = st.booleans()
each_mode = pytest.mark.parametrize(
    ("optimizer", "clip"),
    [("gd", None), ("gd", 0.3), ("muon", None), ("muon_chunk", None), ("muon_chunk", 0.3), ("norm_ema", None)],
)


def given(**strategies: Any) -> Callable[[Any], Any]:
    """As everywhere in the project: derandomized, without a clock."""
    return lambda law: settings_for(EXAMPLES)(hypothesis.given(**strategies)(law))


def ours(name: str, **keywords: Any) -> Callable[..., Any]:
    """The optimized function on NumPy arrays, in float64."""

    def call(*arguments: Any) -> Any:
        natives = [torch.from_numpy(np.array(a)) if isinstance(a, np.ndarray) else a for a in arguments]
        result = getattr(fast, name)(*natives, **keywords)
        return tuple(y.numpy() for y in result) if isinstance(result, tuple) else result.numpy()

    return call


def both(name: str) -> Any:
    """A law holds of the reference and of every implementation of ours."""
    return pytest.mark.parametrize("function", [getattr(true, name), ours(name)], ids=["reference", "ours"])


def problem(seed: int, size: Mapping[str, int], **given: Any) -> Problem:
    """The arguments of ``omega`` by name, in order; a number given for a tensor fills it."""
    B, T, H, P, V, c = (size[name] for name in "BTHPVc")
    generator = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape)

    def uniform(low: float, high: float, *shape: int) -> np.ndarray:
        return generator.uniform(low, high, shape)

    weight = uniform(0.1, 1.0, B, T, H, c)
    drawn: Problem = {
        "q": normal(B, T, H, P),
        "k": normal(B, T, H, P) / np.sqrt(P),
        "v": normal(B, T, H, V),
        "alpha": uniform(0.6, 1.0, B, T, H),
        "eta": uniform(0.1, 0.5, B, T, H),
        "theta": uniform(0.0, 0.9, B, T, H),
        "gamma": weight / weight.sum(-1, keepdims=True),
        "memory": normal(B, H, P, V),
        "momentum": normal(B, H, P, V),
        "k_window": normal(B, c - 1, H, P) / np.sqrt(P),
        "v_window": normal(B, c - 1, H, V),
        "chunk_size": 1,
        "objective": "l2",
        "optimizer": "gd",
        "lr_inside_momentum": False,
        "read_before_update": False,
        "clip": None,
    }
    return changed(drawn, **given)


def mlp_problem(seed: int, size: Mapping[str, int], hidden: int, **given: Any) -> Problem:
    """The arguments of ``omega_mlp``, drawn like those of ``omega``."""
    p = problem(seed, dict(size) | {"V": size["P"]}, **given)
    B, H, P = size["B"], size["H"], size["P"]
    outer, inner = (B, H, P, hidden), (B, H, hidden, P)
    shapes = dict(zip(MLP, (outer, inner, outer, inner), strict=True))
    p |= {x: 0.5 * np.random.default_rng(seed + i).standard_normal(shapes[x]) for i, x in enumerate(MLP)}
    order = (*TOKENS, *MLP, "k_window", "v_window", "chunk_size", "optimizer")
    return {name: p[name] for name in (*order, "lr_inside_momentum", "read_before_update")}


def changed(drawn: Problem, **given: Any) -> Problem:
    """The same problem with some arguments replaced; a number given for a tensor fills it."""
    assert given.keys() <= drawn.keys()

    def like(old: Any, new: Any) -> Any:
        return np.full(old.shape, float(new)) if isinstance(old, np.ndarray) and np.ndim(new) == 0 else new

    return {name: like(old, given.get(name, old)) for name, old in drawn.items()}


def tokens(p: Problem, part: slice) -> Problem:
    """The problem of some of its tokens; state and window stay as they are."""
    return p | {name: p[name][:, part] for name in TOKENS}


def carried(p: Problem, outputs: Sequence[np.ndarray]) -> Problem:
    """State and window after a call, for the next one."""
    rest = p["gamma"].shape[-1] - 1
    keys, values = (np.concatenate([p[f"{x}_window"], p[x]], axis=1) for x in "kv")
    start = keys.shape[1] - rest
    state = {"memory": outputs[1], "momentum": outputs[2]}
    return p | state | {"k_window": keys[:, start:], "v_window": values[:, start:]}


def allowed(name: str, arguments: Sequence[Any], reduction: int) -> list[Bound]:
    """The float64 bound of every output of the reference, computed once for each input."""
    key = f"{name} {fingerprint([a for a in arguments if a is not None])} {reduction}"
    if key not in _BOUNDS:
        units = [F64.u if isinstance(a, float) or np.asarray(a).dtype.kind == "f" else 0.0 for a in arguments]
        with np.errstate(all="ignore"):
            _BOUNDS[key] = bounds(getattr(true, name), arguments, units, F64, reduction)
    return _BOUNDS[key]


def assert_equal_within(want: Sequence[Any], out: Sequence[Any], name: str, arguments: Sequence[Any]) -> None:
    """``out`` is ``want``: two honest computations of ``name(*arguments)``, each within the limit of the truth."""
    reduction = max(np.shape(a)[-1] for a in arguments if isinstance(a, np.ndarray) and a.ndim)
    for wanted, found, bound in zip(want, out, allowed(name, arguments, reduction), strict=False):
        assert np.shape(found) == np.shape(wanted)
        ratio = Bound(np.asarray(wanted), bound.B).ratio(np.asarray(found))
        assert ratio.max(initial=0) <= 2 * LIMITS["eager"], f"T = {ratio.max()}"


def assert_same(want: Sequence[Any], out: Sequence[Any]) -> None:
    """Equal, element for element."""
    for wanted, found in zip(want, out, strict=True):
        assert np.array_equal(wanted, found)


def reduction(p: Problem) -> int:
    return max(np.shape(p[name])[-1] for name in (*TOKENS, *STATE))


def worst(name: str, arguments: Sequence[Any], found: Sequence[torch.Tensor | None], n: int) -> float:
    """The largest T of the outputs of one call of the reference; a gradient that is None is zero."""
    ratios = []
    for bound, x in zip(allowed(name, arguments, n), found, strict=True):
        ratios.append(bound.ratio(np.zeros(bound.y.shape) if x is None else x.detach().numpy()).max(initial=0))
    return float(max(ratios))
