"""A trial: one implementation of one formula, in one dtype, on one device, called and compared with the bound."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from trueness.tools.arithmetic.bounds import AGAIN, Bound, bounds
from trueness.tools.arithmetic.formats import precision
from trueness.tools.arithmetic.limited import Range, evaluate
from trueness.tools.arithmetic.noise import TooCostly
from trueness.tools.run import frameworks
from trueness.tools.run.frameworks import Rejected
from trueness.tools.run.importing import statement
from trueness.tools.run.subject import Subject
from trueness.tools.spec import inputs
from trueness.tools.spec.calling import takes_keyword
from trueness.tools.spec.model import Bug, Case, Formula, Implementation, Verdict
from trueness.tools.spec.tables import DEFAULT_DEVICE, DEVICES, FORMATS, LIMITS, POLICY_OF_ORIGIN, PROFILES, Profile
from trueness.tools.triton.interpreter import interpreting


@dataclass(frozen=True)
class Reading:
    """The worst element of one comparison."""

    T: float
    where: tuple[int, ...]
    output: int
    got: float
    want: float
    width: float
    size: int
    stored: float = 0.0
    """|got − want| / B_fused, exceeded by a twentieth of the elements; 0 where it is not asked for"""
    outputs: int = 1
    """how many outputs were compared"""


class Memory(OrderedDict[str, Any]):
    """A cache of bounds: all implementations of one formula run on the same cases."""

    most = 2**25
    """elements that are kept"""
    held = 0

    def get_or(self, key: str, make: Callable[[], Any]) -> Any:
        if key not in self:
            self[key] = make()
            self.held += self.size(key)
            while self.held > self.most and len(self) > 1:
                self.held -= self.size(next(iter(self)))
                self.popitem(last=False)
        self.move_to_end(key)
        return self[key]

    def size(self, key: str) -> int:
        found = self[key] if isinstance(self[key], list) else []
        return sum(b.y.size for b in found if isinstance(b, Bound)) + 1000


_BOUNDS = Memory()


@dataclass
class Trial:
    formula: Formula
    implementation: Implementation
    dtype: str
    device: str = DEFAULT_DEVICE
    bugs: Sequence[Bug] = ()
    data: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    examples: int = 40
    stored: Sequence[Case] = ()
    """failing cases of earlier runs, which are run first"""
    replay: Case | None = None
    """the one case to run again, in place of a search"""
    profile: Profile = PROFILES["quick"]
    """how long the axes of its cases become"""
    heartbeat: Callable[[str], None] = lambda note: None
    """called with what runs next, so that a crash or a hang can be located"""
    function: Callable[..., Any] | None = None
    """loaded on first use"""
    policy: str = ""
    """observe or strict (tools/spec/tables.py); empty: as the implementation's origin has it"""
    paths: bool = True
    """whether the cases go through all paths of a kernel: its listed scalars, its lengths, its layouts argument by
    argument; where several formats are verified, one of them does, the others are there for the roundoff"""
    keyed: bool = False
    """whether rows of a mask without a key get one: the implementation has a policy of its own for these"""
    times: int = 1
    """how many times as many runs the bound is made of"""
    work: float = float("inf")
    """elements and calls that one evaluation for a bound may cost; TooCostly is raised where it costs more"""
    flushing: bool = False
    """whether the bound lets subnormal operands be 0, as XLA has them on the CPU"""
    scalars: Mapping[str, Any] | None = None
    """the fixed draw of typical cases, made on first use"""
    longest: int = 0
    """the largest length of an axis among the arguments and results of the calls since a check began"""
    observed: Any = None
    """what one pass over the drawn cases showed beside the values (tools/checks/purity.py), made on first use"""

    # -- arguments ------------------------------------------------------------------------------------------------

    @property
    def framework(self) -> str:
        return self.implementation.framework

    @property
    def limit(self) -> float:
        return LIMITS[self.implementation.limit]

    @property
    def strict(self) -> bool:
        """Whether the reference's own policies are demanded."""
        return (self.policy or POLICY_OF_ORIGIN[self.implementation.origin]) == "strict"

    def arguments_f64(self, case: Case) -> list[Any]:
        """The arguments of ``case`` in float64."""
        values = inputs.values(self.formula, case, self.dtype, self.data)
        return inputs.with_keys(self.formula, values) if self.keyed else values

    def arguments(self, values: Sequence[Any], layout: str = inputs.CONTIGUOUS) -> list[Any]:
        """The same arguments as the implementation takes them, in fresh memory; ``layout`` as in a case."""
        return [
            frameworks.native(v, a.real, self.dtype, self.framework, self.device, inputs.layout_of(a, layout))
            for a, v in zip(self.formula.arguments, values, strict=True)
        ]

    def keywords(self) -> dict[str, Any]:
        if not self.formula.keywords:
            return {}
        keywords = frameworks.cast_keywords(self.framework, self.dtype, self.device)
        return {name: keywords[name] for name in self.formula.keywords if name in keywords}

    def load(self) -> Callable[..., Any]:
        """The implementation as a function of the formula's arguments, all by position."""
        function = self.formula.bind(self.implementation.load())
        missing = [f"{name}=" for name in self.keywords() if not takes_keyword(function, name)]
        if missing:
            raise Rejected(
                f"does not take {' and '.join(missing)}, which {self.formula.name} passes; "
                f"`trueness show {self.formula.name}` prints the call."
            )
        return function

    # -- calling --------------------------------------------------------------------------------------------------

    def invoke(self, natives: Sequence[Any], **keywords: Any) -> Any:
        """The raw result of one call; an exception becomes Rejected."""
        if self.function is None:
            self.function = self.load()
        self.longest = max(self.longest, longest_axis(natives))
        with np.errstate(all="ignore"):
            return reraise_as_rejected(self.function, *natives, **{**self.keywords(), **keywords})

    def call(
        self, values: Sequence[Any], layout: str = inputs.CONTIGUOUS, like: Sequence[Any] | None = None
    ) -> list[np.ndarray]:
        """The outputs in float64 for arguments given in float64; type, shape, dtype and device are checked.

        ``like`` are arguments whose outputs have the same shapes, and whose bound is known already.
        """
        result = self.invoke(self.arguments(values, layout))
        return [frameworks.to_float64(y) for y in self.accepted(result, values if like is None else like)]

    def call_unjudged(self, values: Sequence[Any]) -> list[np.ndarray]:
        """The outputs in float64, whatever their shape and dtype: a known bug may return more rows, or fewer."""
        result = frameworks.returned(self.invoke(self.arguments(values)), self.framework, len(self.truth(values)))
        return [frameworks.to_float64(y) for y in result]

    def accepted(self, result: Any, values: Sequence[Any]) -> list[Any]:
        """The arrays of ``result``; Rejected when one has the wrong type, shape, dtype or device."""
        truth = self.truth(values)
        arrays = frameworks.returned(result, self.framework, len(truth))
        self.longest = max(self.longest, longest_axis(arrays))
        kinds = self.formula.outputs or ("dtype",) * len(truth)
        for array, bound, kind in zip(arrays, truth, kinds, strict=True):
            dtype = self.dtype if kind == "dtype" else kind
            if tuple(array.shape) != bound.y.shape:
                raise Rejected(f"returned shape {tuple(array.shape)}, expected {bound.y.shape}.")
            if frameworks.dtype_name(array) != dtype:
                wanted = f"for {self.dtype} input" if kind == "dtype" else f"where {dtype} belongs"
                raise Rejected(f"returned dtype {frameworks.dtype_name(array)} {wanted}.")
            if self.framework == "torch" and array.device.type != self.device:
                raise Rejected(f"returned a tensor on {array.device.type} for input on {self.device}.")
        return arrays

    # -- comparing ------------------------------------------------------------------------------------------------

    def truth(self, values: Sequence[Any]) -> list[Bound]:
        """The bound of every output at ``values``; unless strict, an overflow may end at ±inf or the largest number.

        And at NaN, as where the formula excuses it: ∞ − ∞ arises in one order of the operations, and not in another.
        """
        found = self.stated_truth(values)
        if not self.strict:
            found = [b.either_overflow() for b in found]
        return [replace(b, unsigned=True) for b in found] if self.any_order else found

    @property
    def lenient(self) -> Trial | None:
        """The same trial with a bound that lets subnormal operands be 0; None where they may not."""
        may = not self.strict and self.dtype in ("float32", "bfloat16")
        return replace(self, flushing=True) if may else None

    def overflows(self, values: Sequence[Any], cotangents: Sequence[np.ndarray] = ()) -> bool:
        """Whether a number on the way to the result leaves the range of the dtype, or of float32 for a half format.

        With ``cotangents``, on the way to the gradient of a formula that has its vjp: there, the reciprocal of a
        divisor counts, too, for torch and JAX differentiate x/y to other quotients; and a program that is eager stays
        in the range of a half format.
        """
        fmt, vjp = precision(self.dtype), self.formula.vjp
        function, given, eager = self.formula.reference, [*values], False
        if cotangents and vjp is not None:
            function, given, eager = vjp, [*cotangents, *values], self.implementation.limit == "eager"
        largest = fmt.max if eager or not fmt.half else FORMATS["float32"].max
        limits = Range(largest, tiny=1 / largest if function is vjp else 0.0, mark=True)

        def compute() -> bool:
            plain, marked = (evaluate(function, given, r) for r in (Range(), limits))
            lost = [
                np.isfinite(a) & ~np.isfinite(b) | np.isnan(b) & ~np.isnan(a)
                for a, b in zip(plain, marked, strict=True)
            ]
            return any(x.any() for x in lost)

        key = f"{self.formula.name} overflows {id(function)} {largest} {fingerprint(given)}"
        return bool(_BOUNDS.get_or(key, compute))

    @property
    def any_order(self) -> bool:
        """Whether a result that is not finite may be NaN as well as ±inf."""
        return not self.strict or "not finite" in self.formula.policies

    def stated_truth(self, values: Sequence[Any]) -> list[Bound]:
        """The bound of every output at ``values``, an overflow ending as the formula states."""
        return self.bound_of(self.formula.reference, values, "value", self.formula.reduction)

    def truth_of_gradient(self, values: Sequence[Any], cotangents: Sequence[np.ndarray]) -> list[Bound]:
        """The bound of every gradient at ``values``."""
        assert self.formula.vjp is not None
        reduction = self.formula.gradient_reduction or self.formula.reduction
        return self.bound_of(self.formula.vjp, values, "gradient", reduction, cotangents)

    def truth_of_second(
        self, values: Sequence[Any], cotangents: Sequence[np.ndarray], h: Sequence[np.ndarray]
    ) -> list[Bound]:
        """The bound of the derivative of ⟨h, vjp⟩ at ``values``."""
        assert self.formula.second is not None
        reduction = self.formula.gradient_reduction or self.formula.reduction
        return self.bound_of(self.formula.second, values, "second", reduction, [*h, *cotangents])

    def truth_of_slopes(
        self, run: Callable[..., Any], values: Sequence[Any], seeds: Sequence[np.ndarray]
    ) -> list[Bound]:
        """The bound of every slope ⟨g, J v⟩, for ``seeds`` = (v…, g…) and with further cotangents before the values."""
        reduction = self.formula.gradient_reduction or self.formula.reduction
        more = len(values) - len(self.formula.arguments)
        return self.bound_of(run, values[more:], "slope", reduction, [*seeds, *values[:more]])

    def bound_of(
        self,
        function: Callable[..., Any],
        values: Sequence[Any],
        kind: str,
        reduction: Callable[[Mapping[str, Any]], int],
        cotangents: Sequence[np.ndarray] = (),
    ) -> list[Bound]:
        arguments = [*cotangents, *values]
        place = f"{self.formula.name} {kind} {id(function)} {self.dtype} {self.flushing} {fingerprint(arguments)}"
        surer = f"{place} {AGAIN}"
        key = surer if surer in _BOUNDS else f"{place} {self.times}"
        fmt = precision(self.dtype)
        fmt = replace(fmt, flushing=True) if self.flushing else fmt

        def compute() -> list[Bound]:
            unit = 2.0**-53 if self.formula.working == "float64" else fmt.u
            units = [unit] * len(cotangents) + inputs.units(self.formula, self.dtype)
            whole = [k != "dtype" for k in self.formula.outputs] if kind == "value" else []
            short, length = inputs.shortened(arguments)
            if length and not inputs.by_column(function, short, inputs.PALETTE):
                short, length = arguments, 0
            fused = kind == "value" and function is self.formula.reference
            n = reduction(self.sizes(values))
            with np.errstate(all="ignore"):
                found = bounds(function, short, units, fmt, n, whole, fused, self.times, self.work)
            if length:
                found = [b.at_columns(inputs.columns(length)) for b in found]
            # a slope is a sum over entries, which leaves the format before one of them does
            return found if kind == "slope" else self.fitted(found, kind)

        return _BOUNDS.get_or(key, compute)  # type: ignore[no-any-return]

    def fitted(self, found: Sequence[Bound], kind: str = "value") -> list[Bound]:
        """The bounds in the range of the dtype; an output that is not of this dtype keeps its own."""
        fmt = precision(self.dtype)
        saturate = self.formula.overflow == "saturate" and fmt.half and kind == "value"
        kinds = self.formula.outputs if kind == "value" and self.formula.outputs else ("dtype",) * len(found)
        return [b.within(fmt.max, fmt.u, saturate) if k == "dtype" else b for b, k in zip(found, kinds, strict=True)]

    def sizes(self, values: Sequence[Any]) -> dict[str, Any]:
        """The lengths of the formula's symbols, read off the arguments, and the integers among these."""
        sizes: dict[str, Any] = {}
        for argument, value in zip(self.formula.arguments, values, strict=True):
            if isinstance(value, int):
                sizes[argument.name] = value
            if not hasattr(argument, "dims"):
                continue
            dims, shape = list(argument.dims), list(np.shape(value))
            if "..." in dims:
                at, rest = dims.index("..."), len(dims) - 1
                sizes["..."] = tuple(shape[at : len(shape) - (rest - at)])
                shape[at : len(shape) - (rest - at)] = [0]
            sizes.update({d: n for d, n in zip(dims, shape, strict=True) if isinstance(d, str) and d != "..."})
        return sizes

    @property
    def interpreted(self) -> bool:
        """Whether the implementation may be a Triton kernel that is interpreted, a thousand times slower."""
        if self.implementation.origin == "user":
            return interpreting()
        return bool(self.implementation.env) and DEVICES[self.device].interpreted

    def stores(self, reading: Reading) -> bool:
        """Whether an implementation that claims to be fused keeps sums or intermediates in a half format."""
        return self.implementation.limit == "fused" and reading.stored > 1

    @staticmethod
    def judge(outs: Sequence[np.ndarray], truth: Sequence[Bound]) -> Reading:
        """The element with the largest T over all outputs."""
        worst = Reading(0.0, (), 0, 0.0, 0.0, 0.0, sum(b.y.size for b in truth), outputs=len(truth))
        for i, (out, bound) in enumerate(zip(outs, truth, strict=True)):
            if out.shape != bound.y.shape:  # a wrong variant with more rows, or fewer
                return Reading(np.inf, (), i, float(out.size), float(bound.y.size), 0.0, worst.size, outputs=len(truth))
            if not bound.y.size:
                continue
            ratio = bound.ratio(out)
            at = tuple(int(k) for k in np.unravel_index(int(np.argmax(ratio)), ratio.shape))
            if ratio[at] > worst.T:
                got, want, width = float(out[at]), float(bound.y[at]), float(bound.width[at])
                found = replace(worst, T=float(ratio[at]), where=at, output=i)
                worst = replace(found, got=got, want=want, width=width)
            worst = replace(worst, stored=max(worst.stored, bound.stored(out)))
        return worst

    # -- verdicts -------------------------------------------------------------------------------------------------

    @property
    def subject(self) -> Subject:
        """The same as plain data."""
        chosen = self.implementation
        place = (self.formula.name, chosen.name, self.dtype, self.device)
        return Subject(*place, chosen.origin, limit=chosen.limit, policy=self.policy)

    def reproduction(self, check: str, case: str) -> str:
        """A Python text that shows a failure again; a framework that would be guessed is left out."""
        chosen, subject = self.implementation, self.subject
        if chosen.origin != "user":
            return subject.reproduction(check, case)
        function = chosen.load()
        if frameworks.guess(function) != chosen.framework:
            subject = replace(subject, framework=chosen.framework)
        return subject.reproduction(check, case, imports=statement(function, chosen.name))

    def passed(self, check: str, **fields: Any) -> Verdict:
        return self.subject.verdict(check, "pass", **fields)

    def failed(self, check: str, message: str, **fields: Any) -> Verdict:
        return self.subject.verdict(check, "fail", message, **fields)

    def skipped(self, check: str, reason: str) -> Verdict:
        return self.subject.verdict(check, "skip", reason)


def reraise_as_rejected(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """``function(*args)``, its exceptions turned into Rejected with one sentence."""
    try:
        return function(*args, **kwargs)
    except Rejected:
        raise
    except SystemExit as stop:
        raise Rejected(f"called sys.exit({stop.code!r}).") from stop
    except (KeyboardInterrupt, GeneratorExit, TooCostly):
        raise
    except BaseException as error:
        text = " ".join(str(error).split())[:300]
        raise Rejected(f"raised {type(error).__name__}: {text}") from error


def longest_axis(values: Sequence[Any]) -> int:
    """The largest length of an axis in arrays, and in lists and tuples of them; 0 where there is none."""
    return max(
        (longest_axis(v) if isinstance(v, (list, tuple)) else max(getattr(v, "shape", ()), default=0) for v in values),
        default=0,
    )


def fingerprint(values: Sequence[Any]) -> str:
    """A digest of the values, shapes and scalars of a list of arguments."""
    digest = hashlib.blake2b(digest_size=16)
    for value in values:
        if isinstance(value, (list, tuple)):
            digest.update(fingerprint(value).encode())
            continue
        array = np.asarray(value)
        digest.update(repr((array.shape, array.dtype.str)).encode())
        digest.update(np.ascontiguousarray(array).tobytes() if array.dtype != object else repr(value).encode())
    return digest.hexdigest()
