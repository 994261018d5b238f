"""Run problems of windowed attention through the interpreted kernels, whole or broken, and say whether they are right.

    TRITON_INTERPRET=1 python properties/attention/interpreted.py "float32 window 8 width 16" "a channel lost"

Right is what is within the instrument's limit, came from launches that touched only the memory they were given, no two
programs in one place, and comes again bit for bit. One process a call, because Triton looks at TRITON_INTERPRET when it
is imported.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch

from trueness.optimized.attention.cuda import backward, common, forward
from trueness.properties import attention
from trueness.properties.attention import cuda as implementation
from trueness.tools.run.trial import Trial
from trueness.tools.spec.model import Case, Formula
from trueness.tools.triton.interpreter import Record, speed_up, watched

MODULES = (common, forward, backward)


def ran(trial: Trial, values: Any, gradient: bool) -> tuple[Any, list[Any]]:
    """The value, and the gradients with the cotangent that led to them"""
    natives = [x.requires_grad_(gradient) if isinstance(x, torch.Tensor) else x for x in trial.arguments(values)]
    y = trial.invoke(natives)
    if not gradient:
        return y, []
    drawn = torch.from_numpy(np.random.default_rng(1).standard_normal(y.shape)).to(y.dtype)
    return y, [drawn, *torch.autograd.grad(y, [x for x in natives if isinstance(x, torch.Tensor)], drawn)]


def filled(declared: Formula, values: list[Any], **numbers: float) -> list[Any]:
    """The same arguments, but of one number everywhere where ``numbers`` has their name."""
    pairs = zip(declared.arguments, values, strict=True)
    return [np.full_like(x, numbers[a.name]) if a.name in numbers else x for a, x in pairs]


def judged(dtype: str, window: int, width: int, words: list[str]) -> tuple[float, Record]:
    """T of the value, or of it and every gradient, over the limit, infinite where it does not come again; the launches

    Two images, heads and windows, but one window, head and image of 64 tokens in one part. "forward" leaves the
    gradients out; of "large" scores of 10⁹ and more one key has all of the weight; of "equal" ones all have the same,
    which the size of the scores does not change by a bit.
    """
    declared = next(f for f in attention.FORMULAS if f.name == "attention.tmsa")
    trial = Trial(declared, declared.implementations[0], dtype, function=implementation.module(False))
    two = 2 if window != 8 or width > 64 else 1
    sizes = {"B": two, "h": 1, "w": 1 if window > 8 else 2, "d": width, "E": 2}
    large, gradient = "large" in words, "forward" not in words
    scalars = {"window": window, "num_heads": two}
    case = Case(sizes=sizes, seed=3, spread=2.5 if large else 1.0, scalars=scalars, large=large)
    values = trial.arguments_f64(case)
    if "equal" in words:
        values = filled(declared, values, w_ks=0.0, bias_table=2.0**40)
    with watched() as record:
        try:
            y, pulled = ran(trial, values, gradient)
        except Exception:  # an overrun ends the launch
            if not record.faults:
                raise
            return np.inf, record
    found = trial.judge([y.detach().double().numpy()], trial.truth(values)).T
    if gradient:
        truth = trial.truth_of_gradient(values, [pulled[0].double().numpy()])
        found = max(found, trial.judge([g.double().numpy() for g in pulled[1:]], truth).T)
        alike = filled(declared, values, bias_table=0.0) if "equal" in words else values
        again = ran(trial, alike, gradient)
        if not all(map(torch.equal, [y, *pulled], [again[0], *again[1]])):
            found = np.inf
    return float(found / trial.limit), record


def one_channel_less(real: Any) -> Any:
    """The second part of a head ends a channel early."""
    return lambda *given: {**real(*given), "WIDTH": real(*given)["WIDTH"] - 1}


def half_of_the_places(real: Any) -> Any:
    """A window of 64 tokens is taken for one of 32: the other queries are not written, the other keys not seen."""
    return lambda *given: (real(*given)[0] // 2, real(*given)[1])


def one_block_less(real: Any) -> Any:
    """The last block of queries and keys of a large window is left out of the backward."""
    return lambda *given: real(*given)._replace(tokens=real(*given).tokens - 32)


BREAKS = {  # name: the function of the modules, what stands in for it, and the problem
    "a channel lost": ("constants", one_channel_less, "float32 window 4 width 72 forward"),
    "a channel lost backward": ("constants_of", one_channel_less, "float32 window 5 width 72"),
    "half of the tokens": ("shape", half_of_the_places, "float32 window 8 width 16"),
    "a block lost": ("plan_of", one_block_less, "bfloat16 window 9 width 12"),
}


def main(problems: list[str]) -> None:
    speed_up()
    bounds: dict[Any, bool] = {}
    for name in problems:
        attribute, make, problem = BREAKS.get(name, ("", None, name))
        real = {module: getattr(module, attribute) for module in MODULES if hasattr(module, attribute)}
        for module, function in real.items():
            setattr(module, attribute, make(function))
        words = problem.split()
        T, record = judged(words[0], int(words[2]), int(words[4]), words[5:])
        for module, function in real.items():
            setattr(module, attribute, function)
        print(f"{name}: {'right' if T <= 1 and not record.faults else 'wrong'}")
        print(f"{name}: T = {T:.3g} of the limit; {record.faults}", file=sys.stderr)
        for place, cut in record.bounds.items():
            bounds[place] = bounds.get(place, False) or cut
    whole = {place[0] for place, cut in bounds.items() if not cut}
    print(f"cut short at every bound: {sorted({place[0] for place in bounds} - whole)}")


if __name__ == "__main__":
    main(sys.argv[1:])
