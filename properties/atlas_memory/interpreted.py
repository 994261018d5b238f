"""Run problems of the Omega rule through the interpreted kernels, whole or broken, and say whether they are right.

    TRITON_INTERPRET=1 python properties/atlas_memory/interpreted.py "float32 window 5 chunks 2 batch 2" opcheck

One process a call, because Triton looks at TRITON_INTERPRET when it is imported.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import torch

from trueness.optimized.atlas_memory.cuda import backward, forward, operator, step_operator
from trueness.optimized.atlas_memory.cuda import step as step_kernel
from trueness.properties import atlas_memory
from trueness.properties.atlas_memory import cuda
from trueness.tools.run.trial import Trial
from trueness.tools.spec.model import Case, Formula
from trueness.tools.triton.interpreter import speed_up

PLAIN = {"optimizer": "gd", "clip": None, "lr_inside_momentum": True, "read_before_update": False}


def formula() -> Formula:
    return next(f for f in atlas_memory.FORMULAS if f.name == "atlas_memory.omega_kernel")


def worst(
    dtype: str, window: int, chunk_size: int, batch: int, features: int, objective: str, decoder: bool = False
) -> float:
    """T of the value and of every gradient, over the limit; more features are smaller, so that K Kᵀ is of one size"""
    declared = formula()
    whole, by_token = declared.implementations
    given = (by_token, cuda.decoder()) if decoder else (whole, cuda.kernel())
    trial = Trial(declared, given[0], dtype, function=given[1])
    sizes = {"B": batch, "T": 5, "H": 1, "P": features, "V": 3, "c": window}
    scalars = {**PLAIN, "chunk_size": chunk_size, "objective": objective}
    case = Case(sizes=sizes, seed=3, scale=-math.log10(features / 3) / 2, spread=1.0, scalars=scalars)
    values = trial.arguments_f64(case)
    natives = [x.requires_grad_(not decoder) if isinstance(x, torch.Tensor) else x for x in trial.arguments(values)]
    outs = trial.invoke(natives)
    value = trial.judge([y.detach().double().numpy() for y in outs], trial.truth(values)).T
    if decoder:
        return value / trial.limit
    generator = np.random.default_rng(1)
    kind = outs[0].dtype
    cotangents = [torch.from_numpy(generator.standard_normal(y.shape)).to(kind) for y in outs]
    wanted = [x for x in natives if isinstance(x, torch.Tensor)]
    grads = torch.autograd.grad(outs, wanted, cotangents)
    exact = [g.double().numpy() for g in cotangents]
    gradient = trial.judge([g.double().numpy() for g in grads], trial.truth_of_gradient(values, exact)).T
    return max(value, gradient) / trial.limit


def checked() -> None:
    """torch.library.opcheck of the operators, the first with its gradient."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator).requires_grad_()

    tokens = (drawn(1, 3, 1, 2), drawn(1, 4, 1, 2), drawn(1, 4, 1, 2), torch.empty(0), torch.empty(0))
    state = (drawn(1, 1, 2, 2), drawn(1, 1, 2, 2))
    gates = (drawn(1, 1, 2, 2, 3), drawn(1, 1, 2, 2, 3), drawn(1, 1, 2, 2, 2), drawn(1, 1, 2, 3))
    torch.library.opcheck(operator._forward, (*tokens, *state, *gates, 2, operator.MODES["l2"], "ieee"))
    shapes = ((1, 1, 1, 2),) * 3 + ((1, 1, 1),) * 3 + ((1, 1, 1, 2),) + ((1, 1, 2, 2),) * 3 + ((1, 1, 1, 2),) * 2
    token = [drawn(*shape).detach() for shape in shapes]
    for one in (step_operator.omega_step, step_operator.omega_step_):
        torch.library.opcheck(one, (*token, True, False, True))


def momentum_added(real: Any) -> Any:
    def call(*given: Any) -> Any:
        G, rows, columns, ends = real(*given)
        return G, rows, columns * torch.tensor([[1.0], [-1.0]]), ends

    return call


def gradient_of_the_chunk_alone(real: Any) -> Any:
    def call(x: torch.Tensor, long: int, size: int, window: int, pairs: bool) -> torch.Tensor:
        inside = torch.arange(x.shape[3])[:, None] >= window - 1
        return real(x * inside, long, size, window, pairs)

    return call


def empty_state(real: Any) -> Any:
    return lambda layout, tokens, *rest: real(layout, (*tokens[:3], *(0 * x for x in tokens[3:])), *rest)


def first_block_updated(real: Any) -> Any:
    return lambda M, *rest: (*real(M[:1], *rest), *M[1:])


def first_block_multiplied(real: Any) -> Any:
    def call(base: Any, rows: Any, stride: Any, height: Any, M: Any, kept: Any, columns: Any, P: int, V: int, BP: int,
             precision: str) -> Any:  # fmt: skip
        return real(base, rows, stride, height, M, kept, columns, BP, V, BP, precision)

    return call


BREAKS = {  # name: what stands in for a function of a module
    "without halo": (operator, "extended", lambda real: lambda before, x: real(0 * before, x)),
    "halo's gradient lost": (operator, "folded", gradient_of_the_chunk_alone),
    "momentum added": (operator, "weights_of", momentum_added),
    "no residual": (operator, "MODES", lambda real: {**real, "l2": real["dot"]}),
    "from an empty state": (forward, "forward", empty_state),
    "one block of features updated": (forward, "updated", first_block_updated),
    "one block of features in the gradient": (backward, "updated", first_block_updated),
    "one block of features multiplied": (forward, "product", first_block_multiplied),
    "decoder that forgets its window": (step_operator, "with_window", lambda real: lambda state, *_: state),
    "decoder without residual": (step_kernel, "with_token", lambda real: lambda g, M, *rest: real(g, 0 * M, *rest)),
}


def after(word: str, words: list[str]) -> int:
    """The number after a word, 3 where it is missing."""
    return int(words[words.index(word) + 1]) if word in words else 3


def main(problems: list[str]) -> None:
    speed_up()
    for name in problems:
        kept = None
        if name == "opcheck":
            checked()
            print(f"{name}: right")
            continue
        words = name.split()
        if name in BREAKS:
            owner, attribute, make = BREAKS[name]
            kept = (owner, attribute, getattr(owner, attribute))
            setattr(owner, attribute, make(kept[2]))
            words = ["float32", *"window 2 chunks 2 batch 1".split(), words[0]]
        window, batch, features = (after(word, words) for word in ("window", "batch", "features"))
        chunk_size = 1 if "exact" in words else after("chunks", words)
        objective = "dot" if "dot" in words else "l2"
        T = worst(words[0], window, chunk_size, batch, features, objective, "decoder" in words)
        print(f"{name}: {'right' if T <= 1 else 'wrong'}")
        print(f"{name}: T = {T:.3g} of the limit", file=sys.stderr)
        if kept:
            setattr(*kept)


if __name__ == "__main__":
    main(sys.argv[1:])
