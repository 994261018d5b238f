"""A reference with its inputs as a function of arrays and numbers by position, and that of its gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.func import functional_call
from torch.utils._pytree import tree_flatten, tree_unflatten

from trueness.tools.arithmetic.bounds import Bound, bounds, outputs
from trueness.tools.arithmetic.formats import precision
from trueness.tools.arithmetic.sums import longest_sum
from trueness.tools.closeness.values import as_float64, has_dtype, is_real, same_shapes, several, unit_of
from trueness.tools.graph.reference import TorchReference
from trueness.tools.run import frameworks
from trueness.tools.spec.tables import FORMATS, FRAMEWORKS, require


@dataclass(frozen=True)
class Arguments:
    """Values in float64, and the roundoff that each carries."""

    values: list[Any]
    units: list[float]


class Call:
    """A reference and its inputs: the function of arrays and numbers by position that its value is."""

    def __init__(self, reference: Callable[..., Any], inputs: Sequence[Any], framework: str) -> None:
        if not callable(reference):
            raise ValueError(f"reference was {type(reference).__name__}; it must be a function or an nn.Module.")
        chosen = framework or ("torch" if isinstance(reference, torch.nn.Module) else frameworks.guess(reference))
        self.framework = require("framework", chosen, [f for f in FRAMEWORKS if f != "jax"])
        leaves, form = tree_flatten(tuple(inputs))
        module = reference if isinstance(reference, torch.nn.Module) else torch.nn.Module()
        parameters = dict(module.named_parameters())
        state = {**parameters, **dict(module.named_buffers())}
        every = [*leaves, *state.values()]
        self.arguments = Arguments([as_float64(x) for x in every], [unit_of(x) for x in every])
        self.real_inputs = sum(map(is_real, self.arguments.values[: len(leaves)]))
        self.parameters = len(parameters)

        def call(*values: Any) -> Any:
            given = tree_unflatten(list(values[: len(leaves)]), form)
            if not state:
                return reference(*given)
            return functional_call(module, dict(zip(state, values[len(leaves) :], strict=True)), given)

        numbers = [i for i, x in enumerate(every) if isinstance(x, (int, float)) and not isinstance(x, bool)]
        self.traced = TorchReference(call, len(every), numbers)
        self.function = in_parts(self.traced if self.framework == "torch" else returning_arrays(call))
        self.names = [frameworks.dtype_name(x) for x in every if has_dtype(x)]

    @property
    def real(self) -> int:
        """How many gradients there are: of the inputs, and of the parameters of a module."""
        return self.real_inputs + self.parameters

    @property
    def coarsest(self) -> str:
        """The coarsest format among the inputs; float32 where there is none."""
        known = [FORMATS[n] for n in self.names if n in FORMATS]
        return max(known, key=lambda f: f.u).name if known else "float32"

    def value(self) -> tuple[np.ndarray, ...]:
        with np.errstate(all="ignore"):
            return outputs(self.function(*self.arguments.values))

    def shapes(self) -> list[tuple[int, ...]]:
        return [y.shape for y in self.value()]

    def longest_sum(self) -> int:
        return longest_sum(self.function, self.arguments.values, self.arguments.units)

    def expected_of(self, names: Sequence[str], fused: bool = False, times: int = 1) -> list[Bound]:
        """The bound of every output, in the format of the implementation's."""
        return chosen_by_format(self.function, self.arguments, names, fused, times)

    def cotangents(self, given: Any) -> Arguments:
        """The cotangents in float64; ones for a scalar output."""
        value = self.function(*self.arguments.values)
        shapes = [np.shape(y) for y in several(value) if is_real(y)]
        if given is None:
            if shapes != [()]:
                raise ValueError(f"cotangents were not given; the reference returns shapes {shapes}, not one scalar.")
            return Arguments([np.ones(())], [2.0**-53])
        seeds = several(given)
        same_shapes("cotangents", [tuple(g.shape) for g in seeds], shapes)
        return Arguments([as_float64(g) for g in seeds], [unit_of(g) for g in seeds])

    def gradients(self, vjp: Callable[..., Any] | None) -> Callable[..., Any]:
        return in_parts(returning_arrays(vjp) if vjp is not None else self.traced.vjp)

    def hint(self, found: Sequence[Any]) -> str:
        """What may be wrong with the inputs themselves."""
        finest = min((FORMATS[n].u for n in self.names if n in FORMATS), default=0.0)
        names = [frameworks.dtype_name(y) for y in found]
        wider = names and self.names and all(finest < FORMATS[n].u for n in names if n in FORMATS)
        if not wider or self.coarsest in names:
            return ""
        return (
            f"\nThe inputs are in {self.coarsest} and the result in {names[0]}: the reference must be given what the "
            "implementation was given, rounded as it was."
        )


def chosen_by_format(
    function: Callable[..., Any],
    given: Arguments,
    names: Sequence[str],
    fused: bool = False,
    times: int = 1,
    places: Sequence[int] | None = None,
) -> list[Bound]:
    """The bounds of the outputs at ``places`` (all unless given), each in the format of its name."""
    chosen = range(len(names)) if places is None else places
    reduction = longest_sum(function, given.values, given.units)
    found: dict[str, list[Bound]] = {}
    for name in dict.fromkeys(names):
        fmt = precision(name if name in FORMATS else "float64")
        whole = () if name in FORMATS else [True] * len(outputs(function(*given.values)))
        with np.errstate(all="ignore"):
            made = bounds(function, given.values, given.units, fmt, reduction, whole, fused and fmt.half, times)
        found[name] = [b.within(fmt.max, fmt.u, False).either_overflow() for b in made]
    return [replace(found[name][i], unsigned=True) for name, i in zip(names, chosen, strict=True)]


def returning_arrays(function: Callable[..., Any]) -> Callable[..., Any]:
    """A NumPy function that may return nothing but an array or a tuple of them."""

    def call(*arguments: Any) -> Any:
        result = function(*arguments)
        wrong = [type(y).__name__ for y in several(result) if not isinstance(y, (np.ndarray, np.generic, float, int))]
        if wrong or isinstance(result, list):
            raise ValueError(
                f"the reference returned {wrong[0] if wrong else 'a list'}; it must return an array or a tuple of them."
            )
        return result

    return call


def in_parts(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose complex results have real and imaginary parts along a further axis."""

    def call(*arguments: Any) -> Any:
        result = function(*arguments)
        return tuple(map(parts, result)) if isinstance(result, tuple) else parts(result)

    return call


def parts(y: Any) -> Any:
    return np.stack([y.real, y.imag], -1) if np.iscomplexobj(y) else y
