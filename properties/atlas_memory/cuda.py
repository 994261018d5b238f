"""The Triton kernels of the Omega rule as an implementation, and what is compiled of them ahead of time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from trueness.optimized.atlas_memory.config import OmegaConfig
from trueness.optimized.atlas_memory.state import OmegaState, Tokens
from trueness.properties.atlas_memory.flat import MODES
from trueness.tools.spec.inputs import Real
from trueness.tools.spec.model import Formula, Implementation

SHAPES = {  # name: tokens' dtype, features, values, C, window, form
    "chunks of 64, P = 64": ("bf16", 64, 64, 64, 1, "l2"),
    "chunks of 64, window 16, P = 128": ("fp32", 128, 128, 64, 16, "l2"),
    "chunks of 64, window 4, P = 192": ("bf16", 192, 64, 64, 4, "l2"),
    "chunks of 64, P = 256": ("fp16", 256, 64, 64, 1, "dot"),
    "chunks of 64, window 16, P = 512": ("fp32", 512, 128, 64, 16, "l2"),
    "every token, tiles of 64, P = 64": ("bf16", 64, 64, 64, 1, "exact"),
    "every token, tiles of 16, window 4, P = 128": ("fp32", 128, 128, 16, 4, "exact"),
    "every token, tiles of 16, window 4, P = 192": ("fp32", 192, 64, 16, 4, "exact"),
}

STEPS = {  # name: features, values, whether the objective is l2, whether η is inside the momentum
    "P = 64": (64, 64, True, False),
    "P = 192": (192, 64, True, True),
    "P = 512": (512, 128, False, False),
}


def configuration(modes: Any) -> OmegaConfig:
    """The last arguments of the formula as a configuration."""
    return OmegaConfig(**dict(zip(MODES, modes, strict=True)))


def kernel() -> Any:
    """The kernels themselves, with their backward, whatever the device (interpreted on the CPU)."""
    from trueness.optimized.atlas_memory.cuda import operator

    def call(*given: Any) -> Any:
        tokens, state, config = Tokens(*given[:7]), OmegaState(*given[7:11]), configuration(given[11:])
        return operator.omega(tokens, state, *operator.form(config, tokens.gamma.shape[-1]), config)

    return call


def decoder() -> Any:
    """The kernel of one token, token by token, whatever the device."""
    from trueness.optimized._lib.dtypes import upcast
    from trueness.optimized.atlas_memory.cuda import step_operator as operator
    from trueness.optimized.atlas_memory.streaming.linear import OmegaStream

    def call(*given: Any) -> Any:
        stream, tokens, reads = OmegaStream(configuration(given[11:])), [upcast(x) for x in given[:7]], []
        state = stream.init_state(OmegaState(*given[7:11]))
        for t in range(tokens[0].shape[1]):
            token = Tokens._make(x[:, t : t + 1] for x in tokens)
            o, state = stream.one_by(operator.step, token, state, inplace=t % 2 == 1)
            reads.append(o)
        end = stream.final_state(state)
        return tuple(x.to(given[0].dtype) for x in (torch.cat(reads, 1), end.memory, end.momentum))

    return call


def steps() -> dict[str, Any]:
    """The decoder's kernel: narrow, wide, and the widest features."""
    from trueness.optimized.atlas_memory.cuda import step as kernel

    found: dict[str, Any] = {}
    for name, (width, values, squares, inner) in STEPS.items():
        tile, options = kernel.tiles(width, values)
        lengths = {"H": "i32", "WINDOW": "i32", "P": width, "V": values, "SQUARES": squares, "INNER": inner}
        pointers = {p.name: "*fp32:16" for p in kernel.step_kernel.params}
        found[f"step fp32, {name}"] = (kernel.step_kernel, {**pointers, **lengths, "POST": squares, **tile}, options)
    return found


def kernels() -> dict[str, Any]:
    """Forward and backward: every format, objective and form, one block of features to eight, with windows."""
    from trueness.optimized.atlas_memory.cuda import backward, forward, operator

    found: dict[str, Any] = {}
    for name, (dtype, width, values, size, window, form) in SHAPES.items():
        rows = size * window if form == "exact" else size + window - 1
        layout = forward.Layout(1, 1, 1, width, values, 1, size, rows, window, operator.MODES[form])
        programs = {
            forward.states_kernel: forward.sequential(layout),
            forward.reads_kernel: forward.parallel(layout),
            backward.seen_kernel: forward.parallel(layout),
            backward.reverse_kernel: forward.sequential(layout),
            backward.weights_kernel: forward.parallel(layout),
            backward.rows_kernel: forward.parallel(layout),
            backward.queries_kernel: forward.parallel(layout),
        }
        as_they_are = {"q", "k", "grad"} | ({"v"} if form != "exact" else set())
        for function, (tiles, options) in programs.items():
            lengths = {
                **layout.lengths,
                **tiles,
                "PRECISION": operator.PRECISIONS[0],
                "T": "i32",
                "H": "i32",
                "N": "i32",
            }
            halves = as_they_are | ({"out"} if function is forward.reads_kernel else set())
            pointers = {p.name: f"*{dtype if p.name in halves else 'fp32'}:16" for p in function.params}
            label = f"{function.fn.__name__.removesuffix('_kernel')} {dtype}, {name}"
            found[label] = (function, {**pointers, **lengths}, options)
    return found


SPANS = {"B": (1, 1), "T": (3, 3), "H": (1, 2), "P": (1, 3), "V": (1, 3), "c": (1, 2)}  # interpreted: slow
FLOAT32 = "the kernel computes in float32"
HALF = "computed in float32 by the same lines: tried in properties/atlas_memory/test_cuda.py, on fewer problems"


def small(formula: Formula) -> Formula:
    """The same formula on shorter sequences, for the kernels alone."""
    whole = Implementation(
        "triton kernel",
        kernel,
        claims=frozenset({"gradient"}),
        needs=("triton",),
        env={"TRITON_INTERPRET": "1"},
        dtypes=("float32",),
        only=FLOAT32,
        kernels=kernels,
    )
    by_token = replace(whole, name="triton decoder", load=decoder, claims=frozenset(), kernels=steps)
    arguments = tuple(
        replace(a, spans={d: SPANS.get(d, span) for d, span in a.spans.items()}) if isinstance(a, Real) else a
        for a in formula.arguments
    )
    without = {"float64": FLOAT32, "float16": HALF, "bfloat16": HALF}
    return replace(
        formula, arguments=arguments, implementations=(whole, by_token), dtypes=("float32",), without=without, real=None
    )
