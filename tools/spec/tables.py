"""What a formula can be verified in, on and how thoroughly: formats, devices and profiles, one table each.

Adding a format, a device or a profile is one entry here; the command line, the planner, the bound, the checks and the
report read these tables. Nothing is imported but the standard library, so that `trueness --help` stays fast.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Format:
    """A floating-point format.

    name         as torch, NumPy and JAX call it
    digits  p    bits of the significand, the implicit one included
    least        exponent of the smallest normal number, 2^least
    max          largest finite number
    short        the name in narrow tables
    marker       matplotlib's marker in the report
    colours      CSS colours in the report, on a light and on a dark background
    flushing     subnormal numbers are 0
    """

    name: str
    digits: int
    least: int
    max: float
    short: str
    marker: str
    colours: tuple[str, str]
    flushing: bool = False

    @property
    def u(self) -> float:
        """Unit roundoff: half the distance from 1 to the next number, 2^−p."""
        return 2.0**-self.digits

    @property
    def eta(self) -> float:
        """Half the smallest subnormal: the largest absolute error of a rounding that underflows.

        Of float64 it is no float64: there it is the smallest subnormal itself.
        """
        if self.flushing:
            return self.tiny
        return 2.0 ** (self.least - self.digits) or 5e-324

    @property
    def tiny(self) -> float:
        """The smallest normal number."""
        return 2.0**self.least

    @property
    def u_acc(self) -> float:
        """Unit roundoff of the accumulator that a kernel uses: float32 for the narrower formats."""
        return min(self.u, 2.0**-24)

    @property
    def half(self) -> bool:
        """Narrower than float32: computed in float32 and rounded at the end."""
        return self.u > 2.0**-24

    @property
    def torch(self) -> Any:
        """The torch.dtype."""
        import torch

        return getattr(torch, self.name)


def _table(formats: Iterable[Format]) -> dict[str, Format]:
    return {f.name: f for f in formats}


FORMATS = _table(
    (
        Format("float32", 24, -126, float.fromhex("0x1.fffffep127"), "fp32", "o", ("#0067a8", "#6cbcf5")),
        Format("float16", 11, -14, 65504.0, "fp16", "^", ("#b84a00", "#f2a65e")),
        Format("bfloat16", 8, -126, float.fromhex("0x1.fep127"), "bf16", "s", ("#00755a", "#5fd0b0")),
        Format("float64", 53, -1022, float.fromhex("0x1.fffffffffffffp1023"), "fp64", "D", ("#8a3b86", "#e0a3dd")),
    )
)
"""name → format, in the order in which formats are verified unless --dtype is given"""


def formats_by_precision() -> tuple[str, ...]:
    """The names of the formats from the most to the least precise: the order of columns in a report."""
    return tuple(sorted(FORMATS, key=lambda name: FORMATS[name].u))


@dataclass(frozen=True)
class Device:
    """A kind of device.

    name            torch's device type, the value of --device
    title           its name in messages
    interpreted     whether Triton kernels are interpreted there (an implementation's ``env`` applies)
    memory_limit    whether a worker process may be limited in memory; a CUDA context reserves far more than it uses
    """

    name: str
    title: str
    interpreted: bool = False
    memory_limit: bool = False

    def available(self) -> bool:
        """Whether torch sees such a device."""
        if self.name == DEFAULT_DEVICE:
            return True
        import torch

        return bool(getattr(torch, self.name).is_available())


DEFAULT_DEVICE = "cpu"
DEVICES = {
    d.name: d for d in (Device("cpu", "CPU", interpreted=True, memory_limit=True), Device("cuda", "CUDA device"))
}


@dataclass(frozen=True)
class Profile:
    """How thoroughly an implementation is verified.

    examples      cases drawn for every check that draws
    interpreted   the same for an interpreted kernel, which takes a thousand times as long
    every_dtype   whether checks that do not depend on the dtype run in all of them
    lengths       that every axis has alone, the others small (tools/checks/ladder.py)
    work          most elements and calls that one evaluation of a reference may cost there
    programs      most programs of an interpreted kernel that one of those cases may launch
    """

    name: str
    examples: int
    interpreted: int
    every_dtype: bool = False
    lengths: tuple[int, ...] = (64, 300)
    work: float = 1e6
    programs: int = 32


STEPS = tuple(2**k + d for k in range(4, 10) for d in (-1, 0, 1))
PROFILES = {
    p.name: p
    for p in (
        Profile("quick", 10, 6),
        Profile("ci", 12, 6),
        Profile("deep", 300, 100, True, lengths=(*STEPS, 300), work=1e7, programs=2048),
    )
}
DEFAULT_PROFILE = "ci"


@dataclass(frozen=True)
class CalibrationProfile:
    """How thoroughly the bound is calibrated.

    cases          per family, direction and dtype
    choice_cases   of them, how many are measured again under every other choice of the bound
    ledger_cases   drawn for every formula of the optimized families, direction and dtype
    half_seeds     cases of every sum, length and half format
    dtypes         in which the optimized families are measured; empty: in all narrower than float64
    verified       profiles in which the programs of the examination are verified
    examined       whether the examination is part of it
    """

    name: str
    cases: int
    choice_cases: int
    ledger_cases: int
    half_seeds: int
    dtypes: tuple[str, ...] = ()
    verified: tuple[str, ...] = ("quick",)
    examined: bool = False


CALIBRATION_PROFILES = {
    p.name: p
    for p in (
        CalibrationProfile("quick", 30, 2, 10, 2, ("float32",)),
        CalibrationProfile("full", 60, 12, 20, 20, verified=("quick", "ci"), examined=True),
    )
}

SUPERSCRIPT = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
FRAMEWORKS = ("torch", "numpy", "jax")
LIMITS = {"fused": 1.5, "eager": 3.0, "exact": 0.0}
"""class of implementation → largest T that passes"""
LONG = 64
"""the least length of a sum, and number of elements, from which a fused program in a half format is held to B_fused"""
FUSED_SHARE = 0.95
"""the share of its elements that must lie within B_fused"""
ORIGINS = ("builtin", "third_party", "user")
POLICIES = ("observe", "strict")
"""what is done with a policy for special values: it is named, or it must be the reference's"""
POLICY_OF_ORIGIN = {"builtin": "strict", "third_party": "observe", "user": "observe"}
CLAIMS = frozenset("gradient double opcheck compile autocast vmap jvp out graph huge reference".split())
"""what an implementation may promise beyond the value; "reference" marks the reference itself"""
USER_CLAIMS = ("gradient", "compile", "double", "autocast", "vmap", "jvp", "out", "opcheck")
"""what a user may claim; AUTO stands for all of them, tried and reported"""
AUTO = "auto"
TRIED = "tried, and does not hold: "
"""how the reason of a skip begins where a claim was tried in vain"""


def user_claims(given: Iterable[str], gradient: bool = True) -> tuple[str, ...]:
    """The claims in ``given``, texts with commas in between; ValueError for an unknown one."""
    found = tuple(name.strip() for text in given for name in text.split(",") if name.strip())
    for name in found:
        require("claims", name, [*USER_CLAIMS, AUTO])
    if not gradient and (needless := [n for n in ("gradient", "double") if n in found]):
        raise ValueError(f"claims were {', '.join(needless)} of an implementation that is to have no gradient.")
    return found


def require(option: str, value: str, allowed: Iterable[str]) -> str:
    """``value``; ValueError when it is not one of the ``allowed``."""
    allowed = list(allowed)
    if value not in allowed:
        raise ValueError(f"{option} was {value!r}; allowed are {', '.join(allowed)}.")
    return value
