"""Run problems of windowed attention through the interpreted kernels, whole or broken, and say whether they are right.

    TRITON_INTERPRET=1 python properties/_attention_interpreted.py "float32 window 8 width 16" "without time"

One process a call, because Triton looks at TRITON_INTERPRET when it is imported.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch

from trueness.optimized import _attention_triton as kernels
from trueness.properties import _attention_triton, attention
from trueness.tools.nouns import Case
from trueness.tools.trial import Trial


def worst(dtype: str, window: int, width: int, gradient: bool) -> float:
    """T of the value, or of it and every gradient, over the limit; one image and one head"""
    declared = next(f for f in attention.FORMULAS if f.name == "attention.tmsa")
    trial = Trial(declared, declared.implementations[0], dtype, function=_attention_triton.module(False))
    sizes = {"B": 1, "h": 1, "w": 1 if window > 8 else 2, "d": width, "E": 2}
    values = trial.values(Case(sizes=sizes, seed=3, spread=1.0, scalars={"window": window, "heads": 1}))
    natives = [x.requires_grad_(gradient) if isinstance(x, torch.Tensor) else x for x in trial.natives(values)]
    y = trial.invoke(natives)
    found = trial.judge([y.detach().double().numpy()], trial.truth(values)).T
    if gradient:
        drawn = torch.from_numpy(np.random.default_rng(1).standard_normal(y.shape)).to(y.dtype)
        pulled = torch.autograd.grad(y, [x for x in natives if isinstance(x, torch.Tensor)], drawn)
        truth = trial.truth_of_gradient(values, [drawn.double().numpy()])
        found = max(found, trial.judge([g.double().numpy() for g in pulled], truth).T)
    return float(found / trial.limit)


def one_channel_less(real: Any) -> Any:
    """The second part of a head ends a channel early."""
    return lambda *given: {**real(*given), "WIDTH": real(*given)["WIDTH"] - 1}


def half_of_the_places(real: Any) -> Any:
    """A window of 64 tokens is taken for one of 32: the other queries are not written, the other keys not seen."""
    return lambda *given: (real(*given)[0] // 2, real(*given)[1])


BREAKS = {  # name: the function of the module, what stands in for it, and the problem
    "a channel lost": ("constants", one_channel_less, "float32 window 4 width 72 forward"),
    "half of the tokens": ("shape", half_of_the_places, "float32 window 8 width 16"),
}


def main(problems: list[str]) -> None:
    for name in problems:
        attribute, make, problem = BREAKS.get(name, ("", None, name))
        real = getattr(kernels, attribute, None)
        if make is not None:
            setattr(kernels, attribute, make(real))
        words = problem.split()
        T = worst(words[0], int(words[2]), int(words[4]), words[-1] != "forward")
        if make is not None:
            setattr(kernels, attribute, real)
        print(f"{name}: {'right' if T <= 1 else 'wrong'}")
        print(f"{name}: T = {T:.3g} of the limit", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
