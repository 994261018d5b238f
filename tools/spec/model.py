"""The data model: Formula, Implementation, Bug and Verdict, and the Case on which an implementation is compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

from trueness.tools.spec.calling import positional
from trueness.tools.spec.records import from_record
from trueness.tools.spec.tables import (
    CLAIMS,
    DEVICES,
    FORMATS,
    FRAMEWORKS,
    LIMITS,
    ORIGINS,
    formats_by_precision,
    require,
)

DTYPES = formats_by_precision()
VERDICTS = ("real bug, right fix", "real bug, wrong fix", "no bug", "convention", "claim false", "process")

UNDOCUMENTED = "documented nowhere: kept to show that the check can fail"
"""The ``document`` of a wrong variant that is not known to have been published; its verdict is "no bug"."""


@dataclass(frozen=True)
class Case:
    """What Hypothesis draws: sizes, a seed, magnitudes, a layout and the scalars - never elements.

    sizes    symbol → length; the symbol "..." holds a tuple of lengths
    seed     of the generator that draws the elements
    scale    decimal exponent of the typical magnitude
    spread   decades over which single elements scatter log-uniformly around it
    layout   how tensors lie in memory: contiguous, or one of inputs.LAYOUTS; "transposed: x" for the argument x alone,
             "expanded 1" for the axis along which all are repeated
    scalars  argument → value, for arguments that are not tensors
    offset   added to every element, in units of the typical magnitude 10^scale: a mean far from zero
    ties     "rows": rows are equal in pairs; "arguments": arguments of one width hold the same rows (y = x)
    zeros    share of the elements that are exactly 0
    large    magnitudes of 30 and more
    named_input  name of a bug whose discriminating input this is, or of a real data set; the rest is then not used
    """

    sizes: Mapping[str, int | tuple[int, ...]] = field(default_factory=dict)
    seed: int = 0
    scale: float = 0.0
    spread: float = 0.0
    layout: str = "contiguous"
    scalars: Mapping[str, Any] = field(default_factory=dict)
    offset: float = 0.0
    ties: Literal["", "rows", "arguments"] = ""
    zeros: float = 0.0
    large: bool = False
    named_input: str = ""

    @property
    def plain(self) -> bool:
        """Whether the elements have mean 0 and neither ties, nor zeros, nor large magnitudes."""
        return not (self.offset or self.ties or self.zeros or self.large)

    def to_json(self) -> str:
        return self._json

    @cached_property
    def _json(self) -> str:
        return json.dumps({k: v for k, v in asdict(self).items() if v != getattr(DEFAULTS, k)})

    @staticmethod
    def from_json(text: str) -> Case:
        """The inverse of ``to_json``; ValueError when the text is not a case."""
        try:
            data = json.loads(text)
            if "witness" in data:  # the name of this field before version 0.2
                data["named_input"] = data.pop("witness")
            return from_record(Case, data)
        except (json.JSONDecodeError, TypeError, AttributeError) as error:
            raise ValueError(f"case was {text!r}; it must be a JSON object with the fields of Case: {error}.") from None


DEFAULTS = Case()


@dataclass(frozen=True)
class Implementation:
    """A callable on arrays that is verified.

    load       returns the callable; imports happen inside, so that a missing package is a skip and not a crash
    framework  "torch", "numpy" or "jax": what arrays it takes
    limit      "fused" (T ≤ 1.5), "eager" (T ≤ 3) or "exact" (bitwise)
    claims     what it promises beyond the value: gradient, double, opcheck, compile, autocast, vmap, jvp, out, graph,
               huge
    needs      importable modules without which it is skipped
    env        environment it must be started with, such as TRITON_INTERPRET=1
    dtypes     formats it takes; the others are skipped, for the reason in ``only``
    convention id of the ledger entry by which it is known to differ; it must then differ in just that way
    tries      claims that are tried and reported, and not required
    waived     check, or "check dtype" → reason why it does not apply here; printed as a skip
    origin     "builtin", "third_party" or "user"
    largest    most elements it is given (an interpreted kernel is slow)
    kernels    returns name → (Triton kernel, argument types, options), to be compiled ahead of time (tools/triton)
    """

    name: str
    load: Callable[[], Callable[..., Any]]
    framework: Literal["torch", "numpy", "jax"] = "torch"
    limit: Literal["fused", "eager", "exact"] = "fused"
    claims: frozenset[str] = frozenset()
    tries: frozenset[str] = frozenset()
    needs: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    dtypes: tuple[str, ...] = DTYPES
    only: str = ""
    devices: tuple[str, ...] = tuple(DEVICES)
    convention: str = ""
    waived: Mapping[str, str] = field(default_factory=dict)
    origin: Literal["builtin", "third_party", "user"] = "builtin"
    largest: int | None = None
    kernels: Callable[[], Mapping[str, Any]] = dict

    def __post_init__(self) -> None:
        def known(field: str, values: Iterable[str], allowed: Iterable[str]) -> None:
            for value in values:
                require(f"{self.name}: {field}", value, allowed)

        known("framework", [self.framework], FRAMEWORKS)
        known("limit", [self.limit], LIMITS)
        known("claims", sorted(self.claims | self.tries), sorted(CLAIMS))
        known("dtypes", self.dtypes, FORMATS)
        known("devices", self.devices, DEVICES)
        known("origin", [self.origin], ORIGINS)


@dataclass(frozen=True)
class Formula:
    """A reference and what is needed to compare with it.

    name        family.function
    formerly    names it had before; they are accepted for one version, with a warning
    reference   the plain NumPy function
    vjp         its vector-Jacobian product ``vjp(cotangents..., *arguments)``, or None with ``no_gradient`` saying why
    complex_step  without a vjp, compare gradients with the complex step of the reference
    second      the vjp of the vjp, ``second(h..., cotangents..., *arguments)``: for cotangents, then arguments
    equation    one line, as the paper writes it
    source      paper and equation number
    arguments   what the function takes, in order (tools/spec/inputs.py)
    reduction   n of the bound, from the sizes of a case
    gradient_reduction  n of the bound of the vjp; the same as ``reduction`` unless given
    working     "dtype", or "float64" where the value is computed in float64 and rounded once (tables)
    outputs     the dtype of every output, "dtype" for the one under test; empty where all are: ("int64", "bool")
    creates     the callable takes ``dtype=`` and ``device=`` because no tensor argument determines them
    overflow    "inf": a value beyond the format becomes infinite; "saturate": half formats stop at their largest number
    special     the stated policy for NaN, ±inf and subnormal input, one sentence
    policies    id of another policy (tools/checks/policies.py) → why every implementation of this formula may have it
    bytes, flops  cost of one call from the sizes of a case and the item size
    real        name → arguments in float64: measured data that every run includes
    reach       symbol → the greatest length it may have, or the reason why it may not grow; other symbols grow as far
                as the work of the reference allows (tools/checks/ladder.py)
    """

    name: str
    reference: Callable[..., Any]
    equation: str
    source: str
    arguments: tuple[Any, ...]
    implementations: tuple[Implementation, ...] = ()
    vjp: Callable[..., Any] | None = None
    no_gradient: str = ""
    complex_step: bool = False
    second: Callable[..., Any] | None = None
    reduction: Callable[[Mapping[str, Any]], int] = lambda sizes: 1
    gradient_reduction: Callable[[Mapping[str, Any]], int] | None = None
    working: Literal["dtype", "float64"] = "dtype"
    outputs: tuple[str, ...] = ()
    creates: bool = False
    overflow: Literal["inf", "saturate"] = "inf"
    special: str = "NaN and ±inf go through the equation; subnormal input counts as what it is"
    policies: Mapping[str, str] = field(default_factory=dict)
    ball: str = ""
    dtypes: tuple[str, ...] = DTYPES
    without: Mapping[str, str] = field(default_factory=dict)
    bytes: Callable[[Mapping[str, Any], int], float] | None = None
    flops: Callable[[Mapping[str, Any]], float] | None = None
    real: Callable[[], Mapping[str, Sequence[Any]]] | None = None
    reach: Mapping[str, int | str] = field(default_factory=dict)
    formerly: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.vjp is None and not self.no_gradient:
            raise ValueError(f"{self.name}: no vjp was given; say why in no_gradient.")
        for dtype in (*self.dtypes, *self.without):
            require(f"{self.name}: dtypes", dtype, FORMATS)
        require(f"{self.name}: working", self.working, ("dtype", "float64"))
        require(f"{self.name}: overflow", self.overflow, ("inf", "saturate"))
        object.__setattr__(self, "reference", self.bind(self.reference))

    def bind(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function`` as a function of ``arguments``, all by position."""
        return positional(function, [a.name for a in self.arguments])

    @property
    def keywords(self) -> tuple[str, ...]:
        """What a torch callable is given by keyword beside the arguments; NumPy and JAX have no ``device=``."""
        if not self.creates:
            return ()
        integers = bool(self.outputs) and "dtype" not in self.outputs  # then there is no dtype to choose
        return ("device",) if integers else ("dtype", "device")

    @property
    def family(self) -> str:
        return self.name.split(".")[0]


@dataclass(frozen=True)
class Bug:
    """A wrong variant of a formula that was once shipped or documented.

    id        FSB-01; several variants of one entry are FSB-07a, FSB-07b
    formula   name of the formula it is a variant of; "" for an entry without a callable
    title     the symptom, in a few words
    document  where it is documented
    claim     the statement of that document, in one line
    verdict   one of VERDICTS
    source    the primary source that decides
    variant   the wrong function, same signature as the reference (NumPy), or None
    reverse   the same mistake in other directions (B where A was asked for, and A where B was); named alike
    discriminating_input  the discriminating input, arguments of the reference in float64
    evidence  a command that shows the verdict
    finding   what was found, in one or two sentences
    """

    id: str
    formula: str
    title: str
    document: str
    claim: str
    verdict: str
    source: str
    finding: str
    evidence: str
    variant: Callable[..., Any] | None = None
    reverse: tuple[Callable[..., Any], ...] = ()
    discriminating_input: Sequence[Any] | None = None
    invisible: Mapping[str, str] = field(default_factory=dict)
    """dtype → why that format cannot show the difference"""

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"{self.id}: verdict was {self.verdict!r}; allowed are {', '.join(VERDICTS)}.")
        for dtype in self.invisible:
            require(f"{self.id}: invisible", dtype, FORMATS)

    @property
    def item(self) -> str:
        """The documented item it belongs to: FSB-07 for FSB-07a."""
        return self.id.rstrip("abcdefghijklmnopqrstuvwxyz")


Status = Literal["pass", "fail", "skip", "convention"]


@dataclass(frozen=True)
class Verdict:
    """The outcome of one check on one implementation in one dtype. Truthy unless it fails.

    status         "pass", "fail", "skip" or "convention": it differs from the reference in a documented way, and in no
                   other
    message        what is wrong; for a skip, the reason
    convention     id of the ledger entry that documents the difference; empty unless the status is "convention"
    T, limit       the largest error in units of the bound, and the largest that passes
    where, output  index of the worst element, and which of several outputs it is in
    got, want      the value there and the reference's
    width          B / |y| there, the relative width of the bound
    case           the smallest failing case as JSON text
    bugs           ids of the known bugs that it behaves like
    reproduction   a Python text that shows the failure again
    policies       ids of its policies for special values where these are not the reference's (tools/checks/policies.py)
    samples        (number of elements, T) of every case
    longest        the largest length of an axis among the arguments and results of all calls
    detections     (bug, largest T of its wrong variant), on the verdict of the check ``known bugs``
    """

    formula: str = field(metadata={"pattern": r"^[^.]+\..+$"})
    implementation: str = field(metadata={"description": 'A declared name, module:callable, or "reference".'})
    dtype: str = field(metadata={"enum": formats_by_precision()})
    check: str = field(metadata={"minLength": 1})
    status: Status
    device: str = "cpu"
    origin: Literal["builtin", "third_party", "user"] = "builtin"
    cases: int = field(default=0, metadata={"minimum": 0})
    T: float | None = field(
        default=None,
        metadata={"minimum": 0, "description": "max |out - y| / B; NaN is nan or inf."},
    )
    limit: float | None = field(
        default=None,
        metadata={
            "minimum": 0,
            "finite": True,
            "description": "The largest T that passes: 1.5 fused, 3 eager, 0 exact.",
        },
    )
    message: str = field(default="", metadata={"description": "What is wrong; for a skip, the reason."})
    convention: str = field(default="", metadata={"description": 'Ledger id; empty unless status is "convention".'})
    where: tuple[int, ...] | None = field(default=None, metadata={"description": "Index of the worst element."})
    output: int = field(default=0, metadata={"minimum": 0, "description": "Which of several outputs it is in."})
    got: float | None = None
    want: float | None = None
    width: float | None = field(default=None, metadata={"description": "B / |y| at the worst element."})
    case: str = field(default="", metadata={"description": "The smallest failing case as JSON text, or empty."})
    bugs: tuple[str, ...] = field(default=(), metadata={"description": "Ids of known bugs it behaves like."})
    reproduction: str = field(default="", metadata={"description": "Python text that shows the failure again."})
    policies: tuple[str, ...] = field(
        default=(), metadata={"description": "Ids of its policies for special values, where not the reference's."}
    )
    samples: tuple[tuple[int, float], ...] = field(
        default=(), metadata={"description": "(number of elements, T) of every case."}
    )
    longest: int = field(
        default=0, metadata={"minimum": 0, "description": "The largest length of an axis among all calls."}
    )
    detections: tuple[tuple[str, float], ...] = field(
        default=(), metadata={"description": "(bug, largest T of its wrong variant); detected where above the limit."}
    )

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status was {self.status!r}; allowed are {', '.join(STATUSES)}.")
        if self.status in ("fail", "skip") and not self.message:
            raise ValueError(f"{self.formula} · {self.implementation} · {self.check}: a {self.status} needs a message.")
        if (self.status == "convention") != bool(self.convention):
            raise ValueError(f"status was {self.status!r} with convention {self.convention!r}; one implies the other.")

    def __bool__(self) -> bool:
        return self.passed

    @property
    def passed(self) -> bool:
        return self.status != "fail"

    @property
    def skipped(self) -> bool:
        return self.status == "skip"


STATUSES: tuple[Status, ...] = get_args(Status)
