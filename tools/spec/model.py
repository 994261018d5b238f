"""The four nouns: Formula, Implementation, Bug, Verdict - and the Case they are judged on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from trueness.tools.spec.calling import positional

DTYPES = ("float64", "float32", "float16", "bfloat16")
VERDICTS = ("real bug, right fix", "real bug, wrong fix", "no bug", "convention", "claim false", "process")

UNDOCUMENTED = "documented nowhere: kept to show that the check can fail"
"""The ``document`` of a wrong variant that nobody is known to have shipped; its verdict is "no bug"."""


@dataclass(frozen=True)
class Case:
    """What Hypothesis draws: sizes, a seed, magnitudes, a layout and the scalars - never elements.

    sizes    symbol → length; the symbol "..." holds a tuple of lengths
    seed     of the generator that draws the elements
    scale    decimal exponent of the typical magnitude
    spread   decades over which single elements scatter log-uniformly around it
    layout   how tensors lie in memory: contiguous, transposed, sliced, expanded, offset, channels_last
    scalars  argument → value, for arguments that are not tensors
    named_input  name of a bug whose discriminating input this is, or of a real data set; the rest is then not used
    """

    sizes: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    scale: float = 0.0
    spread: float = 0.0
    layout: str = "contiguous"
    scalars: Mapping[str, Any] = field(default_factory=dict)
    named_input: str = ""

    def to_json(self) -> str:
        return json.dumps({k: v for k, v in asdict(self).items() if v != getattr(Case(), k)})

    @staticmethod
    def from_json(text: str) -> Case:
        """The inverse of ``to_json``; ValueError when the text is not a case."""
        try:
            data = json.loads(text)
            if "witness" in data:  # the name of this field before version 0.2
                data["named_input"] = data.pop("witness")
            data["sizes"] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.get("sizes", {}).items()}
            return Case(**data)
        except (json.JSONDecodeError, TypeError, AttributeError) as error:
            raise ValueError(f"case was {text!r}; it must be a JSON object with the fields of Case: {error}.") from None


@dataclass(frozen=True)
class Implementation:
    """A callable on arrays that stands trial.

    load       returns the callable; imports happen inside, so that a missing package is a skip and not a crash
    framework  "torch", "numpy" or "jax": what arrays it takes
    limit      "fused" (T ≤ 1.5), "eager" (T ≤ 3) or "exact" (bitwise)
    claims     what it promises beyond the value: gradient, double, opcheck, compile, autocast, vmap, jvp, out, graph
    needs      importable modules without which it is skipped
    env        environment it must be started with, such as TRITON_INTERPRET=1
    dtypes     formats it takes; the others are skipped, for the reason in ``only``
    convention id of the ledger entry by which it is known to differ; it must then differ in just that way
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
    needs: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    dtypes: tuple[str, ...] = DTYPES
    only: str = ""
    devices: tuple[str, ...] = ("cpu", "cuda")
    convention: str = ""
    waived: Mapping[str, str] = field(default_factory=dict)
    origin: Literal["builtin", "third_party", "user"] = "builtin"
    largest: int | None = None
    kernels: Callable[[], Mapping[str, Any]] = dict


@dataclass(frozen=True)
class Formula:
    """A reference and what is needed to compare with it.

    name        family.function
    formerly    names it had before; they are accepted for one version, with a warning
    reference   the plain NumPy function
    vjp         its vector-Jacobian product ``vjp(cotangents..., *arguments)``, or None with ``no_gradient`` saying why
    second      the vjp of the vjp, ``second(h..., cotangents..., *arguments)``: for cotangents, then arguments
    equation    one line, as the paper writes it
    source      paper and equation number
    arguments   what the function takes, in order (tools/spec/inputs.py)
    reduction   n of the bound, from the sizes of a case
    gradient_reduction  n of the bound of the vjp; the same as ``reduction`` unless given
    working     "dtype", or "float64" where the value is computed in float64 and rounded once (tables)
    outputs     the dtype of every output, "dtype" for the one under test; empty where all are: ("int64", "bool")
    creates     the callable takes ``dtype=`` and ``device=`` because no tensor argument says them
    overflow    "inf": a value beyond the format becomes infinite; "saturate": half formats stop at their largest number
    special     the stated policy for NaN, ±inf and subnormal input, one sentence
    bytes, flops  cost of one call from the sizes of a case and the item size
    real        name → arguments in float64: measured data that every run includes
    """

    name: str
    reference: Callable[..., Any]
    equation: str
    source: str
    arguments: tuple[Any, ...]
    implementations: tuple[Implementation, ...] = ()
    vjp: Callable[..., Any] | None = None
    no_gradient: str = ""
    second: Callable[..., Any] | None = None
    reduction: Callable[[Mapping[str, Any]], int] = lambda sizes: 1
    gradient_reduction: Callable[[Mapping[str, Any]], int] | None = None
    working: Literal["dtype", "float64"] = "dtype"
    outputs: tuple[str, ...] = ()
    creates: bool = False
    overflow: Literal["inf", "saturate"] = "inf"
    special: str = "NaN and ±inf go through the equation; subnormal input counts as what it is"
    ball: str = ""
    dtypes: tuple[str, ...] = DTYPES
    without: Mapping[str, str] = field(default_factory=dict)
    bytes: Callable[[Mapping[str, Any], int], float] | None = None
    flops: Callable[[Mapping[str, Any]], float] | None = None
    real: Callable[[], Mapping[str, Sequence[Any]]] | None = None
    formerly: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.vjp is None and not self.no_gradient:
            raise ValueError(f"{self.name}: no vjp was given; say why in no_gradient.")
        object.__setattr__(self, "reference", self.bind(self.reference))

    def bind(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function`` as a function of ``arguments``, all by position."""
        return positional(function, [a.name for a in self.arguments])

    @property
    def family(self) -> str:
        return self.name.split(".")[0]


@dataclass(frozen=True)
class Bug:
    """A wrong variant of a formula that somebody once shipped or documented.

    id        FSB-01; several variants of one entry are FSB-07a, FSB-07b
    formula   name of the formula it is a variant of; "" for an entry without a callable
    title     the symptom, in a few words
    document  where it is documented
    claim     what that document says, in one line
    verdict   one of VERDICTS
    source    the primary source that decides
    variant   the wrong function, same signature as the reference (NumPy), or None
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
    discriminating_input: Sequence[Any] | None = None
    invisible: Mapping[str, str] = field(default_factory=dict)
    """dtype → why that format cannot show the difference"""

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"{self.id}: verdict was {self.verdict!r}; allowed are {', '.join(VERDICTS)}.")

    @property
    def item(self) -> str:
        """The documented item it belongs to: FSB-07 for FSB-07a."""
        return self.id.rstrip("abcdefghijklmnopqrstuvwxyz")


@dataclass(frozen=True)
class Verdict:
    """The outcome of one check on one implementation in one dtype. Truthy if it passes."""

    formula: str
    implementation: str
    dtype: str
    check: str
    passed: bool
    device: str = "cpu"
    origin: str = "builtin"
    cases: int = 0
    T: float | None = None
    limit: float | None = None
    message: str = ""
    skipped: str = ""
    where: tuple[int, ...] | None = None
    output: int = 0
    got: float | None = None
    want: float | None = None
    width: float | None = None
    case: str = ""
    bugs: tuple[str, ...] = ()
    reproduction: str = ""
    samples: tuple[tuple[int, float], ...] = ()
    """(number of elements, T) of every case, for the report's pictures"""
    detections: tuple[tuple[str, float], ...] = ()
    """(bug, largest T of its wrong variant): the kill matrix, on the verdict of the check ``known bugs``"""

    def __bool__(self) -> bool:
        return self.passed

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Verdict:
        lists = {k: tuple(v) for k, v in data.items() if isinstance(v, list)}
        lists["samples"] = tuple((int(n), float(t)) for n, t in data.get("samples", ()))
        lists["detections"] = tuple((str(b), float(t)) for b, t in data.get("detections", ()))
        return Verdict(**{**data, **lists})
