"""What is examined: a Program, known to be right or wrong, and the Witness on which a wrong one shows its fault.

A wrong program is sabotage of a working fast one: the same function is right without its fault, and differs from the
reference by more than rounding on its witness (tools/calibration/examination/honesty.py). The programs are written
with torch, NumPy, SciPy and JAX alone: nothing of the library, and nothing of the references, is in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from trueness.tools.spec.model import DTYPES, Implementation
from trueness.tools.spec.tables import FORMATS, require

KINDS = {
    "last partial tile": "entries beyond the last full tile are lost, or treated otherwise",
    "tile repeated": "a tile after the first reads what the one before read",
    "entries beyond n not read": "only the first n entries along an axis count",
    "grid too small": "only so many blocks are launched",
    "running value not rescaled": "an online sum is not moved to its new maximum or mean",
    "state lost between blocks": "what one block hands to the next is dropped or taken twice",
    "narrow index": "an index or a count is held in 8 bits",
    "long sums and powers": "terms from some power or length on are missing or capped",
    "wrong axis": "a broadcast or reduction takes another axis, which shows for some lengths only",
    "far scalar": "wrong for a scalar beyond the usual ones",
    "cancellation": "differences of large numbers: one-pass variance, expanded squares",
    "overflow": "no maximum is subtracted, a square overflows",
    "ties and zeros": "equal points, zero distances, exact zeros",
    "strided input": "storage order is read where strides differ",
    "written memory": "an input or a cotangent is written to",
    "aliasing": "a result shares memory with an input or an earlier result",
    "state between calls": "a result depends on an earlier call",
    "nondeterminism": "two calls give different bits",
    "half accumulator": "sums are held in the half format",
    "reduced inputs": "float32 inputs are cut to TF32 or bfloat16",
    "constant": "a constant is off by one, or in its last digits",
    "epsilon": "an ε is dropped, doubled, or in another place",
    "gradient dropped or scaled": "one argument's gradient is missing, scaled or taken at another place",
    "gradient of first rows": "a gradient sums a part of the rows",
    "reduction": "another mean, variance or norm",
    "order": "halves, indices or operands change places",
}
"""kind of fault → what it means"""

HALVES = tuple(d for d in DTYPES if FORMATS[d].half)
NARROW = ("float32", *HALVES)  # of a program that is right because it computes in float64
IN_JAX = NARROW  # float64 needs JAX_ENABLE_X64
WIDE = tuple(d for d in DTYPES if not FORMATS[d].half)
LOOKS = ("value", "gradient", "strided gradient", "written", "cotangent", "aliasing", "second call", "repetition")


@dataclass(frozen=True)
class Witness:
    """An input on which a fault shows, and what to look at.

    sizes     symbol → length; the others are small and different
    scalars   name → value; the others are drawn once
    looks     one of LOOKS
    scale     decimal exponent of the magnitude
    spread    decades over which elements scatter
    seed      of the elements
    offset    added to every real argument
    factor    multiplies every real argument
    zeros     share of elements that are 0
    ties      "arguments": the second real argument becomes the first; "rows": all rows are the first
    """

    sizes: Mapping[str, Any] = field(default_factory=dict)
    scalars: Mapping[str, Any] = field(default_factory=dict)
    looks: str = "value"
    scale: float = 0.0
    spread: float = 1.0
    seed: int = 1
    offset: float = 0.0
    factor: float = 1.0
    zeros: float = 0.0
    ties: str = ""

    def __post_init__(self) -> None:
        require("looks", self.looks, LOOKS)


@dataclass(frozen=True)
class Program:
    """A program whose verdict is known.

    formula    name of the formula it is handed to
    name       of the working program, and of its fault; unique
    function   takes the formula's arguments by position
    kind       one of KINDS; empty for a right program
    witness    where the fault shows; None for a right program
    dtypes     formats in which it is examined
    framework  "torch", "numpy" or "jax"
    limit      class of limit that it is held to
    gradient   False for one that is forward only
    names      ids of known bugs that it may rightly be called
    remark     what a reader should know about its verdicts
    """

    formula: str
    name: str
    function: Callable[..., Any]
    kind: str = ""
    witness: Witness | None = None
    dtypes: tuple[str, ...] = DTYPES
    framework: Literal["torch", "numpy", "jax"] = "torch"
    limit: Literal["fused", "eager", "exact"] = "fused"
    gradient: bool = True
    names: tuple[str, ...] = ()
    remark: str = ""
    right_without: Callable[..., Any] | None = None
    """the same program without its fault"""

    def __post_init__(self) -> None:
        if self.kind:
            require(f"{self.name}: kind", self.kind, KINDS)
        if bool(self.kind) != (self.witness is not None):
            raise ValueError(f"{self.name}: a wrong program needs a kind and a witness, a right one has neither.")

    @property
    def right(self) -> bool:
        return not self.kind

    @property
    def key(self) -> str:
        """Formula and name: the identity of a program."""
        return f"{self.formula} · {self.name}"

    @property
    def attribute(self) -> str:
        """The key as the attribute of a module, so that ``module:attribute`` names the program."""
        return self.key.replace(".", "/").replace(":", ";")

    def implementation(self) -> Implementation:
        """As a user's: nothing is waived, and a gradient is verified where the framework has one."""
        return Implementation(
            self.name,
            lambda: self.function,
            self.framework,
            self.limit,
            frozenset({"gradient"}) if self.gradient and self.framework != "numpy" else frozenset(),
            origin="user",
        )


@dataclass(frozen=True)
class Fault:
    """One fault that a working program can be given by ``fault=``."""

    kind: str
    witness: Witness
    dtypes: tuple[str, ...] | None
    names: tuple[str, ...]


def fault(
    kind: str,
    looks: str = "value",
    *,
    dtypes: tuple[str, ...] | None = None,
    names: tuple[str, ...] = (),
    scalars: Mapping[str, Any] | None = None,
    sizes: Mapping[str, Any] | None = None,
    **given: Any,
) -> Fault:
    """A fault of ``kind``; lower-case fields of Witness go by name, and all other keywords are sizes of the witness."""
    fields = {k: given.pop(k) for k in list(given) if k in Witness.__dataclass_fields__}
    return Fault(kind, Witness({**given, **(sizes or {})}, scalars or {}, looks, **fields), dtypes, names)


def sabotaged(
    formula: str, name: str, function: Callable[..., Any], faults: Mapping[str, Fault], **fields: Any
) -> Iterator[Program]:
    """The working program ``function(*arguments, fault="")``, and the same with each of its faults."""
    yield Program(formula, name, function, **fields)
    for what, planted in faults.items():
        options = {**fields, "names": planted.names}
        if planted.dtypes is not None:
            options["dtypes"] = tuple(d for d in planted.dtypes if d in fields.get("dtypes", DTYPES))
        wrong = partial(function, fault=what)
        witness = planted.witness
        yield Program(formula, f"{name}, {what}", wrong, planted.kind, witness, right_without=function, **options)
