"""Any function as a reference: the bound around its value, and assertions in the manner of ``torch.testing``.

    B = u |y| + (1 + √n · u_acc/u) · D + η          T = max |actual − y| / B

The reference is evaluated in float64 on the inputs as they are, D is its spread under stochastic arithmetic, n the most
terms of any of its sums. Nobody gives a tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from trueness.tools.arithmetic.bounds import AGAIN, Bound
from trueness.tools.arithmetic.formats import precision
from trueness.tools.checks.core import in_doubt
from trueness.tools.closeness.call import Arguments, Call, chosen_by_format
from trueness.tools.closeness.values import arrays_of, is_real, name_of_dtype, real_parts, same_shapes, several
from trueness.tools.run import frameworks
from trueness.tools.run.trial import Reading, Trial
from trueness.tools.spec.tables import LIMITS, require

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
        found = [frameworks.to_float64(real_parts(y)) for y in several(actual)]
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
    name = precision(name_of_dtype(dtype) if dtype else call.coarsest).name
    found = call.expected_of([name] * len(call.value()))
    return Expected(tuple(b.y for b in found), tuple(b.B for b in found), call.longest_sum(), tuple(found))


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
