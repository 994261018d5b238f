"""Inputs of the formulas of the family diffusion, drawn and measured, and helpers that declare implementations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from hypothesis import strategies as st

from trueness.optimized import diffusion as fast
from trueness.properties._lib import digits as _digits
from trueness.reference import diffusion as true
from trueness.tools.spec.inputs import Index, Real, Table
from trueness.tools.spec.model import Formula, Implementation

HO = "Ho, Jain & Abbeel 2020 (2006.11239)"
SCHEDULES = {
    "linear": lambda steps: true.linear_betas(steps),
    "cosine": lambda steps: true.cosine_betas(steps),
}
DRAWS = {"steps": st.integers(1, 40), "schedule": st.sampled_from(tuple(SCHEDULES))}
MADE_ONCE = "a schedule is computed once and not trained; the laws check its vjp where it has one"
FULL = frozenset({"gradient", "compile", "autocast", "vmap", "graph"})


# -- drawn inputs ----------------------------------------------------------------------------------------------------


def betas(steps: int, schedule: str) -> np.ndarray:
    return SCHEDULES[schedule](steps)


def alphas_cumprod(steps: int, schedule: str) -> np.ndarray:
    return true.alphas_cumprod(betas(steps, schedule))


def share(steps: int) -> np.ndarray:
    """0 … 1, the ends included."""
    return np.linspace(0, 1, steps)


def between(length: int) -> np.ndarray:
    """0 … 1, the last one left out."""
    return np.arange(length) / length


def later(known: Mapping[str, Any], generator: np.random.Generator) -> np.ndarray:
    """t (B,) in the noisier half of the steps; ``earlier`` is what may come after."""
    return generator.integers(known["steps"] // 2, known["steps"], known["B"])


def earlier(known: Mapping[str, Any], generator: np.random.Generator) -> np.ndarray:
    """t_prev (B,) in the cleaner half of the steps, or −1."""
    return generator.integers(-1, known["steps"] // 2, known["B"])


def rates(known: Mapping[str, Any], generator: np.random.Generator) -> np.ndarray:
    """β (B,) of a stochastic differential equation, 0.1 … 30."""
    return 10.0 ** generator.uniform(-1, 1.5, known["B"])


def data(name: str, noise: bool = False) -> Real:
    return Real(name, dims=("B", "..."), decades=(-4.0, 1.0), unit_scale=noise)


T = Index("t", dims=("B",), below="steps")
FAR = {"steps": (300, 1000)}
BETAS = Table("betas", make=betas, draws=DRAWS, far=FAR)
ALPHAS_CUMPROD = Table("alphas_cumprod", make=alphas_cumprod, draws=DRAWS, far=FAR)
SHARE = {"steps": DRAWS["steps"]}


def elements(sizes: Mapping[str, Any]) -> int:
    return int(np.prod(sizes["..."], dtype=np.int64)) * int(sizes.get("B", 1)) * int(sizes.get("N", 1))


# -- measured data ----------------------------------------------------------------------------------------------------


@cache
def digits(schedule: str) -> dict[str, Any]:
    """Eight handwritten digits in [−1, 1] on their way through 100 steps, and a prediction that is 10 % off."""
    generator = np.random.default_rng(0)
    x_0 = _digits.digits()[:8].reshape(8, 8, 8)
    noise, z, error = (generator.standard_normal(x_0.shape) for _ in range(3))
    beta = betas(100, schedule)
    alpha_bar = true.alphas_cumprod(beta)
    t = np.array([0, 1, 5, 20, 50, 80, 98, 99])
    t_prev = np.array([-1, 0, 1, 10, 49, 5, 97, 0])
    x_t = true.q_sample(x_0, t, noise, alpha_bar)
    known = {
        "x_0": x_0,
        "t": t,
        "t_prev": t_prev,
        "noise": noise,
        "z": z,
        "x_t": x_t,
        "betas": beta,
        "alphas_cumprod": alpha_bar,
    }
    return {**known, "eps": noise + 0.1 * error, "no clip": False, "clip": True, "half": 0.5, "guidance": 4.0}


def real(*names: str) -> Callable[[], Mapping[str, Sequence[Any]]]:
    def load() -> Mapping[str, Sequence[Any]]:
        if not _digits.available():
            return {}
        return {f"digits, {kind} schedule": [digits(kind)[n] for n in names] for kind in SCHEDULES}

    return load


# -- declarations -----------------------------------------------------------------------------------------------------


def ours(name: str, *claims: str) -> Implementation:
    return Implementation("trueness", lambda: getattr(fast, name), claims=frozenset(claims))


def peer(name: str, call: Any, framework: Any = "torch", **fields: Any) -> Implementation:
    claims = frozenset({"gradient"}) if framework == "torch" else frozenset[str]()
    return Implementation(name, lambda: call, framework, limit="eager", claims=claims, origin="third_party", **fields)


def schedule(name: str, equation: str, source: str, *arguments: Any, peers: Any = (), **fields: Any) -> Formula:
    """A table: computed in float64, rounded once."""
    return Formula(
        name=f"diffusion.{name}",
        reference=getattr(true, name),
        equation=equation,
        source=source,
        arguments=arguments,
        implementations=(ours(name), *peers),
        no_gradient=MADE_ONCE,
        working="float64",
        creates=True,
        **fields,
    )


HALF_ROWS = "half formats are separate rows: diffusers float16, diffusers bfloat16"


def diffusers(call: Any, name: str = "diffusers", **fields: Any) -> Implementation:
    return Implementation(
        name, lambda: call, limit="eager", needs=("diffusers",), devices=("cpu",), origin="third_party", **fields
    )


RIGHT_TABLE = "diffusers, float64 table"
LOST_DIGITS = "β recomputed from ᾱ has lost digits that float64 shows"
ALL_CLIPPED = "in float32 and float64 its float32 tables show as well: see diffusers"
HALVES = ("float16", "bfloat16")
WIDE = ("float32", "float64")
