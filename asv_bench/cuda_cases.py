"""What tools/gpu times on a GPU: the cases of asv_bench/comparisons at the size of a GPU, with goals for one.

Every case has a tiny version, on which a dry run tries the same code on the CPU. A goal says how many times as fast as
the peer ours must be; the goal of COPY is the share of the bandwidth of a device copy of as many bytes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from comparisons.harness import Call, Comparison, Contender

from trueness.optimized import filters, fisher, kernels

EAGER = "torch eager"


@dataclass(frozen=True)
class Case:
    """A pair for the GPU.

    make    of True for the tiny version: the pair
    goals   peer → how many times as fast as it ours must be; other peers are not run
    moved   of the arguments in float64: bytes that a call must read and write, for the goal of COPY
    """

    COPY: ClassVar[str] = "device copy"

    make: Callable[[bool], Comparison]
    goals: Mapping[str, float] = field(default_factory=dict)
    moved: Callable[[Sequence[Any]], float] | None = None

    def pair(self) -> Comparison:
        return self.make(False)

    def dry(self) -> Comparison:
        return self.make(True)

    def bytes(self, values: Sequence[Any]) -> float:
        assert self.moved is not None, "a goal of the copy needs the bytes that are moved"
        return self.moved(values)


def quiet(function: Callable[..., Any]) -> Callable[..., Call]:
    """A call without gradients."""

    def prepare(*arguments: Any) -> Call:
        def call() -> Any:
            with torch.no_grad():
                return function(*arguments)

        return call

    return prepare


def first(count: int, tensors: int) -> Any:
    """Of an elementwise formula the first elements are judged."""

    def part(values: list[Any]) -> tuple[list[Any], Any]:
        return [v[:count] if k < tensors else v for k, v in enumerate(values)], lambda outs: [y[:count] for y in outs]

    return part


# -- fisher -----------------------------------------------------------------------------------------------------------


def diagonal(dtype: str) -> Callable[[bool], Comparison]:
    def make(tiny: bool) -> Comparison:
        n = 5000 if tiny else 1 << 26
        return Comparison(
            f"Fisher diagonal, {n} elements",
            "fisher.diagonal",
            lambda rng: [rng.standard_normal(n), 0.5],
            Contender("trueness", quiet(fisher.diagonal)),
            (Contender(EAGER, quiet(lambda s, alpha: s * s + fisher.floor(alpha))),),
            dtype=dtype,
            part=first(65_537, 1),
        )

    return make


def drift(tiny: bool) -> Comparison:
    n = 5000 if tiny else 1 << 26
    return Comparison(
        f"drift step, {n} elements",
        "fisher.drift_step",
        lambda rng: [rng.standard_normal(n), rng.standard_normal(n), 0.5, 0.99, 0.05],
        Contender("trueness", quiet(fisher.drift_step)),
        (Contender(EAGER, quiet(lambda x, s, alpha, a, b: a * x + b * (s / (s * s + fisher.floor(alpha))))),),
        part=first(65_537, 2),
    )


# -- attention --------------------------------------------------------------------------------------------------------


def tmsa(window: int, gradient: bool, dtype: str) -> Callable[[bool], Comparison]:
    """65536 tokens of 768 channels, 12 heads; the contenders are those of the comparisons on the CPU."""

    def make(tiny: bool) -> Comparison:
        attention = importlib.import_module("comparisons.attention")
        build = attention.gradient_pair if gradient else attention.pair
        batch, width, heads, time = (2, 32, 2, 16) if tiny else (64, 768, 12, 256)
        side = 4 * window if tiny else 32

        def drawn(rng: np.random.Generator) -> list[Any]:
            x, t = rng.standard_normal((batch, side, side, width)), rng.standard_normal((batch, time))
            space = [rng.standard_normal((width, width)) / width**0.5 for _ in range(3)]
            moment = [rng.standard_normal((time, width)) / time**0.5 for _ in range(3)]
            w_o = rng.standard_normal((width, width)) / width**0.5
            table = rng.standard_normal(((2 * window - 1) ** 2, heads))
            cotangent = [rng.standard_normal(x.shape)] if gradient else []
            return [*cotangent, x, t, *space, *moment, w_o, table, window, heads]

        return replace(build(window, dtype), arguments=drawn, extra=None)

    return make


# -- kernels ----------------------------------------------------------------------------------------------------------


def two_products(x: Any, y: Any, v: Any, w: Any, b: Any) -> Any:
    scale = (2 / w.shape[1]) ** 0.5
    return scale * torch.cos(x @ w + b) @ ((scale * torch.cos(y @ w + b)).mT @ v)


def matvec(tiny: bool) -> Comparison:
    """The vectors are zero but for the first rows, so that the judged part needs no other points."""
    n, d, features, p, rows = (96, 16, 64, 8, 32) if tiny else (65536, 64, 4096, 8, 256)

    def drawn(rng: np.random.Generator) -> list[Any]:
        x, y, v = rng.standard_normal((n, d)), rng.standard_normal((n, d)), np.zeros((n, p))
        v[:rows] = rng.standard_normal((rows, p))
        return [x, y, v, 0.2 * rng.standard_normal((d, features)), rng.uniform(0, 2 * np.pi, features)]

    def part(values: list[Any]) -> tuple[list[Any], Any]:
        x, y, v, w, b = values
        return [x[:rows], y[:rows], v[:rows], w, b], lambda outs: [u[:rows] for u in outs]

    return Comparison(
        f"RFF matvec, {n} × {d}, {features} features, {p} vectors",
        "kernels.rff_matvec",
        drawn,
        Contender("trueness", quiet(kernels.rff_matvec)),
        (Contender("two products", quiet(two_products)),),
        part=part,
    )


# -- filters ----------------------------------------------------------------------------------------------------------


def accumulated(tiles: Any, rows: Any, columns: Any, height: int, width: int, window: str) -> Any:
    """Tile by tile into a sum and a sum of weights, then one division, as is done everywhere."""
    h, w = tiles.shape[-2:]
    ramp = [filters.tile_window(n, window, dtype=tiles.dtype, device=tiles.device) for n in (h, w)]
    weight = ramp[0][:, None] * ramp[1]
    total = tiles.new_zeros((*tiles.shape[1:-2], height, width))
    mass = torch.zeros_like(total)
    for tile, top, left in zip(tiles, rows.tolist(), columns.tolist(), strict=True):
        total[..., top : top + h, left : left + w] += tile * weight
        mass[..., top : top + h, left : left + w] += weight
    return total / mass


def blended(tiles: Any, rows: Any, columns: Any, height: int, width: int, window: str) -> Any:
    return filters.blend(tiles, rows, columns, height=height, width=width, window=window)


def blend(tiny: bool) -> Comparison:
    side, tile, channels = (40, 16, 4) if tiny else (1024, 256, 12)
    starts = filters.tile_starts(side, tile, 0.5).tolist()
    rows, columns = np.repeat(starts, len(starts)), np.tile(starts, len(starts))

    def drawn(rng: np.random.Generator) -> list[Any]:
        return [rng.standard_normal((rows.size, channels, tile, tile)), rows, columns, side, side, "triangular"]

    def part(values: list[Any]) -> tuple[list[Any], Any]:
        return [values[0][:, :1], *values[1:]], lambda outs: [y[:1] for y in outs]

    return Comparison(
        f"tile blending, {channels}×{side}²",
        "filters.blend",
        drawn,
        Contender("trueness", quiet(blended)),
        (Contender("accumulate", quiet(accumulated)),),
        part=part,
    )


# -- atlas_memory -----------------------------------------------------------------------------------------------------


def gated_delta_rule(q: Any, k: Any, v: Any, alpha: Any, eta: Any, *_: Any) -> Any:
    """fla's rule of one decay and one rate: its error is taken after the decay, ours before; the work is the same."""
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule

    half = [x.bfloat16() for x in (q, k, v)]
    return quiet(lambda: chunk_gated_delta_rule(*half, alpha.log().float(), eta.bfloat16(), scale=1.0))()


def omega(chunk: int, momentum: bool) -> Callable[[bool], Comparison]:
    """4096 tokens in chunks, or with ``chunk`` = 1 exactly; the first tokens of one head are judged."""

    def make(tiny: bool) -> Comparison:
        atlas = importlib.import_module("comparisons.atlas_memory")
        batch, length, heads, width = (2, 96, 2, 16) if tiny else (8, 4096, 16, 64)

        def drawn(rng: np.random.Generator) -> list[Any]:
            q, k, v = rng.standard_normal((3, batch, length, heads, width))
            k = k / np.linalg.norm(k, axis=-1, keepdims=True)
            spans = ((0.9, 1.0), (0.05, 0.1), (0.3, 0.9) if momentum else (0.0, 0.0))
            gates = [rng.uniform(*span, k.shape[:3]) for span in spans]
            state = [0.1 * rng.standard_normal((batch, heads, width, width)) for _ in range(2)]
            past = [np.zeros((batch, 0, heads, width)) for _ in range(2)]
            window = np.ones((*k.shape[:3], 1))
            modes = [chunk, "l2", "gd", False, False, None]
            return [q / width**0.5, k, v, *gates, window, *state, *past, *modes]

        def part(values: list[Any]) -> tuple[list[Any], Any]:
            tokens = [x[:1, :80, :1] for x in values[:7]]
            rest = [x[:1, :1] for x in values[7:9]] + [x[:1, :, :1] for x in values[9:11]]
            return [*tokens, *rest, *values[11:]], lambda outs: [outs[0][:1, :80, :1], None, None]

        kind = f"chunks of {chunk}" if chunk > 1 else "exact" if momentum else "exact, no momentum"
        fla = Contender("fla gated delta rule", gated_delta_rule, needs=("fla",), judged=False)
        return Comparison(
            f"Omega, {batch}×{length}×{heads}×{width}, {kind}",
            "atlas_memory.omega",
            drawn,
            Contender("trueness", quiet(atlas.OMEGA)),
            (Contender("token loop", quiet(atlas.looped)), fla),
            part=part,
        )

    return make


TIMM, SDPA = "timm's equation", "SDPA with a bias"

CASES = (
    Case(diagonal("float32"), {Case.COPY: 0.92, EAGER: 1.0}, lambda v: 2 * 4 * v[0].size),
    Case(diagonal("bfloat16"), {Case.COPY: 0.90}, lambda v: 2 * 2 * v[0].size),
    Case(drift, {EAGER: 4.0, Case.COPY: 0.92}, lambda v: 3 * 4 * v[0].size),
    *(Case(tmsa(w, False, "bfloat16"), {TIMM: 1.8, SDPA: 1.4}) for w in (4, 8)),
    *(Case(tmsa(w, True, "bfloat16"), {TIMM: 2.0, SDPA: 2.0}) for w in (4, 8)),
    Case(matvec, {"two products": 2.5}),
    Case(blend, {"accumulate": 8.0}),
    Case(omega(64, True), {"token loop": 100.0}),
    Case(omega(1, True), {"token loop": 100.0}),
    Case(omega(1, False), {"fla gated delta rule": 1.0}),
)
