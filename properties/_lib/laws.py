"""What the law tests of a family share: both versions of a formula by position, on NumPy arrays, and bounds of laws."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch

from trueness.properties._lib.within import allowed_error
from trueness.tools.checks.core import settings_for
from trueness.tools.spec.calling import positional
from trueness.tools.spec.model import Formula


def given(examples: int, /, **strategies: Any) -> Callable[[Any], Any]:
    """``hypothesis.given`` with the settings of the project: derandomized, without a deadline."""
    return lambda law: settings_for(examples)(hypothesis.given(**strategies)(law))


class ByPosition:
    """The functions of a module, called as formulas call them: every argument by position, in the order of the formula.

    module     the reference or the optimized version of a family
    reference  the reference; a function without a formula takes its parameters in their order
    formulas   the formulas of the family
    """

    def __init__(self, module: ModuleType, reference: ModuleType, formulas: Iterable[Formula]) -> None:
        self._module, self._reference = module, reference
        self._names = {f.name.partition(".")[2]: [a.name for a in f.arguments] for f in formulas}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = getattr(self._module, name)
        names = self._names.get(name) or list(inspect.signature(getattr(self._reference, name)).parameters)
        return positional(function, names)


class Versions:
    """The reference and the optimized version of a family, both by position and on NumPy arrays."""

    def __init__(self, reference: ModuleType, optimized: ModuleType, formulas: Iterable[Formula]) -> None:
        formulas = tuple(formulas)
        self.reference = ByPosition(reference, reference, formulas)
        self.optimized = ByPosition(optimized, reference, formulas)

    def ours(self, name: str) -> Callable[..., Any]:
        """The optimized function, tensors for arrays in and arrays for tensors out."""
        function = getattr(self.optimized, name)

        def call(*arguments: Any) -> Any:
            return _arrays(function(*map(_tensors, arguments)))

        return call

    def both(self, name: str) -> pytest.MarkDecorator:
        """Run a law on either version, which it receives as ``function``."""
        pair = [getattr(self.reference, name), self.ours(name)]
        return pytest.mark.parametrize("function", pair, ids=["reference", "ours"])

    @property
    def each(self) -> pytest.MarkDecorator:
        """Run a law on either version; it receives ``version``, from which it takes functions by name."""
        pair = [lambda name: getattr(self.reference, name), self.ours]
        return pytest.mark.parametrize("version", pair, ids=["reference", "ours"])


def _tensors(value: Any) -> Any:
    if isinstance(value, list):
        return [_tensors(v) for v in value]
    return torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value


def _arrays(result: Any) -> Any:
    if isinstance(result, tuple):
        return tuple(_arrays(y) for y in result)
    return result.numpy() if isinstance(result, torch.Tensor) else result


def assert_law(want: Any, out: Any, law: Callable[..., Any], *arguments: Any, reduction: int = 1) -> None:
    """``out`` is ``want`` up to the rounding of ``law(*arguments)`` in float64."""
    allowed = allowed_error(law, *arguments, reduction=reduction)
    assert (np.abs(np.asarray(out) - want) <= allowed).all()


def assert_refused(call: Callable[[], Any], sentence: str) -> None:
    """``call`` raises ValueError with one sentence that begins with ``sentence`` and says what must be."""
    with pytest.raises(ValueError) as caught:
        call()
    message = str(caught.value)
    assert message.startswith(sentence) and message.endswith(".") and "must" in message and "\n" not in message
