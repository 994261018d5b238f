"""Any function as a reference: the bound around its value, and assertions in the manner of ``torch.testing``.

    B = u |y| + (1 + √n · u_acc/u) · D + η          T = max |actual − y| / B

The reference is evaluated in float64 on the inputs as they are, D is its spread under stochastic arithmetic, n the most
terms of any of its sums. Nobody gives a tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.func import functional_call
from torch.utils._pytree import tree_flatten, tree_unflatten

from trueness.tools.arithmetic.bounds import AGAIN, Bound, bounds, outputs
from trueness.tools.arithmetic.formats import precision
from trueness.tools.arithmetic.sums import longest_sum
from trueness.tools.checks.core import in_doubt
from trueness.tools.graph.reference import TorchReference
from trueness.tools.graph.tracing import WIDE
from trueness.tools.run import frameworks
from trueness.tools.run.trial import Reading, Trial
from trueness.tools.spec.tables import FORMATS, FRAMEWORKS, LIMITS, require

REAL_OF = {"complex64": "float32", "complex128": "float64", "complex32": "float16"}
Message = str | Callable[[str], str]


@dataclass(frozen=True)
class Expected:
    """What a correct implementation may return.

    value      the reference's outputs in float64
    tolerance  B of every element of every output
    reduction  n, the most terms of any sum
    """

    value: tuple[np.ndarray, ...]
    tolerance: tuple[np.ndarray, ...]
    reduction: int
    bounds: tuple[Bound, ...]

    def ratio(self, actual: Any) -> float:
        """T: the largest |actual − value| in units of its tolerance; at most 1.5 for a fused program, 3 for an eager
        one. Infinite where only one of the two is finite."""
        found = [frameworks.to_float64(y) for y in several(actual)]
        same_shapes("actual", [y.shape for y in found], [y.shape for y in self.value])
        return Trial.judge(found, self.bounds).T


def bound(
    reference: Callable[..., Any],
    *inputs: Any,
    dtype: str | torch.dtype = "",
    framework: str = "",
) -> Expected:
    """The reference's value on these inputs, and how far a correct implementation may be from it.

    reference  a function of torch tensors or an nn.Module, or a function of NumPy arrays; it returns a tensor or array,
               or a tuple of them
    inputs     what it takes, as an implementation is given it: tensors or arrays of any device and dtype, numbers,
               lists, tuples and dicts of them
    dtype      of the implementation's result; the coarsest one of the inputs unless given
    framework  "torch" or "numpy" where it cannot be guessed
    returns    Expected
    raises     ValueError, in one sentence, for a reference that cannot be evaluated so: it draws random numbers, looks
               at the values of its tensors, returns a list
    """
    call = Call(reference, inputs, framework)
    return call.expected(precision(name_of_dtype(dtype) if dtype else call.coarsest).name)


def assert_close(
    actual: Any,
    reference: Callable[..., Any],
    *inputs: Any,
    limit: str = "fused",
    framework: str = "",
    msg: Message | None = None,
) -> float:
    """Assert that ``actual`` is as close to ``reference(*inputs)`` as rounding explains.

    actual     what the implementation returned: a tensor or array of any device, or a tuple of them; its dtype is the
               format that is judged
    reference  a function of torch tensors or an nn.Module (which holds the parameters that the implementation used), or
               a function of NumPy arrays
    inputs     the inputs as the implementation was given them, rounded to its dtype
    limit      "fused" (T ≤ 1.5: rounds intermediates to float32 at most), "eager" (T ≤ 3: stores them in its dtype) or
               "exact" (T = 0)
    framework  "torch" or "numpy" where it cannot be guessed
    msg        a text in place of the message, or a function that is given the message and returns another one
    returns    T
    raises     AssertionError if T is beyond the limit, or the shapes are not those of the reference; ValueError as for
               ``bound``
    """
    require("limit", limit, LIMITS)
    call = Call(reference, inputs, framework)
    found = arrays_of(actual)

    def expected(times: int) -> list[Bound]:
        return call.expected_of([frameworks.dtype_name(y) for y in found], limit == "fused", times)

    return judged("output", found, call.shapes(), expected, limit, msg, call.hint(found))


def assert_close_gradients(
    actual: Any,
    reference: Callable[..., Any],
    *inputs: Any,
    cotangents: Any = None,
    vjp: Callable[..., Any] | None = None,
    limit: str = "fused",
    framework: str = "",
    msg: Message | None = None,
) -> float:
    """Assert that gradients are as close to those of ``reference`` as rounding explains.

    actual      for every floating-point tensor among the inputs, in their order, its gradient, or None where it was not
                asked for; for an nn.Module those of its parameters may follow, in the order of ``parameters()``
    reference   as for ``assert_close``; it is differentiated after its softmaxes and norms were taken apart, whatever
                autograd functions it is made of
    inputs      as for ``assert_close``
    cotangents  ∂L/∂output for every floating-point output, as they were given to ``backward``; not needed where the
                only output is a scalar
    vjp         for a NumPy reference, its gradients: ``vjp(*cotangents, *inputs)``
    limit, framework, msg, returns, raises   as for ``assert_close``
    """
    require("limit", limit, LIMITS)
    call = Call(reference, inputs, framework)
    if call.framework == "numpy" and vjp is None:
        raise ValueError("vjp was not given; a reference in NumPy needs its vjp(*cotangents, *inputs) for gradients.")
    found = arrays_of(actual, optional=True)
    seeds = call.cotangents(cotangents)
    pulled = call.gradients(vjp)
    count, every = call.real_inputs, call.real
    if len(found) not in (count, every):
        also = f", or {every} with the parameters" if every != count else ""
        raise ValueError(
            f"actual has {len(found)} gradients; the inputs have {count} floating-point tensors{also}. Give None for "
            "one that was not asked for."
        )
    kept = [i for i, g in enumerate(found) if g is not None]
    if not kept:
        raise ValueError("actual has no gradient: all of them are None.")

    def expected(times: int) -> list[Bound]:
        names = [frameworks.dtype_name(found[i]) for i in kept]
        given = Arguments([*seeds.values, *call.arguments.values], [*seeds.units, *call.arguments.units])
        return chosen_by_format(pulled, given, names, times=times, places=kept)

    shapes = [np.shape(x) for x in call.arguments.values if is_real(x)]
    given = [found[i] for i in kept]
    return judged("gradient", given, [shapes[i] for i in kept], expected, limit, msg, call.hint(given), names=kept)


# -- evaluating a reference -------------------------------------------------------------------------------------------


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

    def expected(self, dtype: str) -> Expected:
        found = self.expected_of([dtype] * len(self.value()))
        n = longest_sum(self.function, self.arguments.values, self.arguments.units)
        return Expected(tuple(b.y for b in found), tuple(b.B for b in found), n, tuple(found))

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
        whole = [name not in FORMATS] * len(outputs(function(*given.values)))
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


def has_dtype(x: Any) -> bool:
    return hasattr(x, "dtype") and hasattr(x, "shape")


def is_real(x: Any) -> bool:
    return isinstance(x, (np.ndarray, np.generic)) and x.dtype.kind == "f"


def as_float64(x: Any) -> Any:
    """An array or a tensor in float64, integers and truth values as they are; anything else as it is."""
    if isinstance(x, torch.Tensor):
        if x.layout != torch.strided or x.is_quantized:
            raise ValueError(f"an input was a tensor of layout {x.layout} and dtype {x.dtype}; it must be dense.")
        wide = x.detach().cpu().resolve_conj().resolve_neg()
        return wide.to(WIDE.get(wide.dtype, wide.dtype)).numpy()
    if not has_dtype(x):
        return x
    plain = np.asarray(x)
    return plain if plain.dtype.kind in "biuc" else plain.astype(np.float64)


def unit_of(x: Any) -> float:
    """The roundoff of an argument: of its format, of float64 where it has none."""
    name = REAL_OF.get(frameworks.dtype_name(x), frameworks.dtype_name(x)) if has_dtype(x) else ""
    return FORMATS[name].u if name in FORMATS else 2.0**-53


def arrays_of(actual: Any, optional: bool = False) -> list[Any]:
    """What an implementation returned; ``optional``: None may stand for one of several."""
    found = several(actual)
    wrong = [type(y).__name__ for y in found if not has_dtype(y) and not (optional and y is None)]
    if wrong:
        raise ValueError(f"actual was {wrong[0]}; it must be a tensor or an array, or a tuple of them.")
    return [real_parts(y) for y in found]


def real_parts(y: Any) -> Any:
    """A complex tensor or array with its parts along a further axis; anything else as it is."""
    if isinstance(y, torch.Tensor):
        return torch.view_as_real(y.detach().resolve_conj()) if y.is_complex() else y
    return np.stack([y.real, y.imag], -1) if has_dtype(y) and np.asarray(y).dtype.kind == "c" else y


def name_of_dtype(dtype: Any) -> str:
    return dtype if isinstance(dtype, str) else str(dtype).removeprefix("torch.")


def several(result: Any) -> list[Any]:
    return list(result) if isinstance(result, (tuple, list)) else [result]


# -- judging ----------------------------------------------------------------------------------------------------------


def judged(
    what: str,
    found: Sequence[Any],
    shapes: Sequence[tuple[int, ...]],
    expected: Callable[[int], list[Bound]],
    limit: str,
    msg: Message | None,
    hint: str,
    names: Sequence[int] = (),
) -> float:
    """T of ``found``; AssertionError beyond the limit. A T that is not far beyond is judged by a bound of more runs."""
    places = names or range(len(found))
    title = [f"{what} {i}" if len(found) > 1 or what == "gradient" else what for i in places]
    different = [*shape_differences(title, found, shapes)]
    if different:
        raise AssertionError(worded("\n".join(different), msg))
    highest = LIMITS[limit]
    values = [frameworks.to_float64(y) for y in found]
    truth = expected(1)
    reading = Trial.judge(values, truth)
    if over(reading, limit) and in_doubt(reading.T, highest):
        truth = expected(AGAIN)
        reading = Trial.judge(values, truth)
    if over(reading, limit):
        raise AssertionError(worded(message(title, values, truth, reading, highest) + hint, msg))
    return reading.T


def over(reading: Reading, limit: str) -> bool:
    return reading.T > LIMITS[limit] or (limit == "fused" and reading.stored > 1)


def shape_differences(title: Sequence[str], found: Sequence[Any], shapes: Sequence[tuple[int, ...]]) -> Iterator[str]:
    if len(found) != len(shapes):
        yield f"The number of results is not the reference's: {len(found)}, and not {len(shapes)}."
        return
    for name, y, shape in zip(title, found, shapes, strict=True):
        if tuple(y.shape) != tuple(shape):
            yield f"The shape of {name} is not the reference's: {tuple(y.shape)}, and not {tuple(shape)}."


def same_shapes(name: str, found: Sequence[tuple[int, ...]], wanted: Sequence[tuple[int, ...]]) -> None:
    if [tuple(s) for s in found] != [tuple(s) for s in wanted]:
        raise ValueError(
            f"{name} had shapes {[*map(tuple, found)]}; those of the reference are {[*map(tuple, wanted)]}."
        )


def message(
    title: Sequence[str], values: Sequence[np.ndarray], truth: Sequence[Bound], reading: Reading, limit: float
) -> str:
    """What is beyond the limit, where the worst of it is, and by how much."""
    ratios = [b.ratio(y) for b, y in zip(truth, values, strict=True)]
    many, size = sum(int((r > limit).sum()) for r in ratios), sum(r.size for r in ratios)
    at = f"[{', '.join(map(str, reading.where))}]" if reading.where else ""
    B = float(truth[reading.output].B[reading.where])
    lines = [f"The {title[0].split()[0]} is not close to the reference's.", ""]
    if reading.T <= limit:
        lines.append(
            f"One in twenty elements errs by {reading.stored:.3g} times what a fused program may: a sum or an "
            "intermediate is kept in the half format. If that is meant, the limit is 'eager'."
        )
    else:
        lines.append(f"Elements beyond the limit: {many} of {size} ({many / size:.1%})")
    lines.append(
        f"Worst: {title[reading.output]}{at} is {reading.got:.9g}, the reference {reading.want:.9g} ± {B:.3g}: "
        f"T = {reading.T:.3g} of {limit:g}"
    )
    return "\n".join(lines)


def worded(text: str, msg: Message | None) -> str:
    return text if msg is None else msg(text) if callable(msg) else msg
