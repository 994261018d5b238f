"""A torch function as a function of NumPy arrays, in whatever arithmetic these have.

Each operator of the traced graph takes the place of a NumPy ufunc. So what runs a NumPy reference runs a torch one as
well: float64 arrays give the value, stochastic ones the spread, those of limited range show where it overflows, and
those that count what an evaluation costs.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.fx import GraphModule, Interpreter, Node
from torch.utils._pytree import tree_flatten, tree_unflatten

from trueness.tools.arithmetic.base import Arithmetic
from trueness.tools.graph import tracing
from trueness.tools.graph.operators import COMPARISONS, EXACT, NUMBERS, PRODUCTS, SUMS, name_of, terms
from trueness.tools.graph.tracing import Untraceable, double_precision

GRAPHS = 32  # that are kept for one function: one for every combination of shapes


class Operation:
    """An operator of torch with everything but its operands, in the place of a ufunc."""

    signature = "()->()"  # of no use to tell the size of its result, as that of a generalized ufunc

    def __init__(self, name: str, run: Callable[..., Any], terms: int) -> None:
        self.__name__, self.run, self.terms = name, run, terms

    def __call__(self, *operands: Any) -> Any:
        return self.run(*operands)

    reduce = __call__


class Graph(Interpreter):
    """Runs a traced graph on arrays, operator by operator."""

    node: Node

    def run_node(self, n: Node) -> Any:
        self.node = n
        return super().run_node(n)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if not isinstance(target, torch._ops.OpOverload):  # one result of several
            return target(*args, **kwargs)
        name = name_of(target)
        leaves, form = tree_flatten((args, kwargs))
        numbers = name in NUMBERS
        places = [i for i, x in enumerate(leaves) if isinstance(x, np.ndarray) or (numbers and is_rounded(x))]
        operands = [leaves[i] for i in places]
        carrying = [x for x in operands if isinstance(x, Arithmetic)]

        def run(*moved: Any) -> Any:
            filled = list(leaves)
            for i, x in zip(places, moved, strict=True):
                filled[i] = np.asarray(x).item() if type(leaves[i]) is float else tensor(x)
            positional, by_name = tree_unflatten(filled, form)
            return arrays(target(*positional, **by_name))

        if not carrying:
            return run(*operands)
        if name in EXACT:
            return carrying[0].kept(run(*[np.asarray(x) for x in operands]), operands)
        method = "reduce" if name in SUMS else "__call__"
        called = COMPARISONS.get(name, "matmul" if name in PRODUCTS else "add" if name in SUMS else name)
        return carrying[0].__array_ufunc__(Operation(called, run, terms(self.node)), method, *operands)  # type: ignore[arg-type]

    def fetch_attr(self, target: str) -> Any:
        return arrays(super().fetch_attr(target))


def tensor(x: Any) -> torch.Tensor:
    """An array as a tensor, floating-point numbers in float64; the same memory where torch can have it."""
    plain = np.asarray(x)
    if plain.dtype.kind == "f" and plain.dtype != np.float64:
        plain = plain.astype(np.float64)
    if not plain.flags.writeable or any(stride < 0 for stride in plain.strides):
        plain = np.array(plain, order="C")
    return torch.from_numpy(plain)


def dtype_of(x: np.ndarray) -> torch.dtype:
    """The dtype that an array has as a tensor."""
    return tensor(np.zeros(0, x.dtype)).dtype


def arrays(x: Any) -> Any:
    """Tensors as arrays, several of them as a tuple."""
    if isinstance(x, (tuple, list)):
        return tuple(map(arrays, x))
    return x.detach().resolve_conj().resolve_neg().numpy() if isinstance(x, torch.Tensor) else x


def is_rounded(x: Any) -> bool:
    """Whether a number in a graph has digits to lose: not an integer, which the tracer writes as a float, too."""
    return type(x) is float and not x.is_integer()


class TorchReference:
    """A torch function of tensors and numbers as a function of arrays and numbers.

    function  takes its arguments by position and returns a tensor or a tuple of them; it neither draws random numbers
              nor looks at the values of its tensors
    arity     how many arguments it takes
    numbers   places of the arguments that are Python numbers: an array without axes there becomes one
    raises    Untraceable, a ValueError, in one sentence
    """

    def __init__(self, function: Callable[..., Any], arity: int, numbers: Sequence[int] = ()) -> None:
        functools.update_wrapper(self, function)
        self.function, self.arity, self.numbers = function, arity, frozenset(numbers)
        self._graphs: OrderedDict[Any, GraphModule] = OrderedDict()

    def __call__(self, *arguments: Any) -> Any:
        given = self.given(arguments)
        return self.evaluate(self.graph_of("value", given, tracing.value), given)

    def vjp(self, *arguments: Any) -> tuple[Any, ...]:
        """The gradients ``vjp(cotangents..., *arguments)`` of all floating-point arrays among the arguments."""
        cotangents = [x if is_array(x) else np.asarray(x) for x in arguments[: len(arguments) - self.arity]]
        given = self.given(arguments[len(cotangents) :])
        graph = self.graph_of("gradient", given, tracing.gradient)
        return self.evaluate(graph, [*cotangents, *given])  # type: ignore[no-any-return]

    # -- graphs -----------------------------------------------------------------------------------------------------

    def graph_of(self, kind: str, given: Sequence[Any], make: Callable[..., Any]) -> GraphModule:
        """The graph for arguments of these shapes and these numbers."""
        key = (kind, *((x.shape, dtype_of(x)) if is_array(x) else repr(x) for x in given))
        if key not in self._graphs:
            examples = [torch.zeros(x.shape, dtype=dtype_of(x)) for x in given if is_array(x)]

            def function(*tensors: torch.Tensor) -> Any:
                rest = iter(tensors)
                return checked(self.function(*[next(rest) if is_array(x) else x for x in given]))

            self._graphs[key] = make(function, examples)
            while len(self._graphs) > GRAPHS:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        return self._graphs[key]

    def given(self, arguments: Sequence[Any]) -> list[Any]:
        """The arguments with numbers in their places, whatever arithmetic they came in."""
        number = [i in self.numbers or isinstance(x, np.generic) for i, x in enumerate(arguments)]
        return [np.asarray(x).item() if n else x for x, n in zip(arguments, number, strict=True)]

    def evaluate(self, graph: GraphModule, arguments: Sequence[Any]) -> Any:
        given = [x for x in arguments if is_array(x)]
        with torch.no_grad(), double_precision():
            if not any(isinstance(x, Arithmetic) for x in given):
                return arrays(graph(*map(tensor, given)))
            return Graph(graph).run(*given)


def is_array(x: Any) -> bool:
    return isinstance(x, np.ndarray)


def checked(result: Any) -> Any:
    """What a reference returned; Untraceable unless it is a tensor or a tuple of them."""
    parts = result if isinstance(result, tuple) else (result,)
    wrong = [type(y).__name__ for y in parts if not isinstance(y, torch.Tensor)]
    if wrong or not parts:
        found = f"a tuple with {', '.join(wrong) or 'nothing'} in it" if isinstance(result, tuple) else wrong[0]
        raise Untraceable(f"the reference returned {found}; it must return a tensor or a tuple of tensors.")
    return result
