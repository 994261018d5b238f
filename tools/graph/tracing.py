"""From a torch function to a graph of elementary operations, functional and in float64, and to that of its gradient.

A function is traced on fake tensors, without computing: in-place writes become functional, views are followed, and
operators that do several roundings at once (softmax, layer norm, GELU, variance) are taken apart, so that stochastic
arithmetic sees what lies between. It is differentiated *after* softmax and the norms were taken apart: their own
backward reuses the stored result, whose rounding vanishes where it saturates.

    value(function)      function → parts → elementary operations
    gradient(function)   function → parts → vector-Jacobian product → elementary operations

The operations run in float64 whatever the function asks for: a cast to float32 rounds nothing here, for an
implementation may have it elsewhere.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from trueness.tools.graph.decompositions import Table, constant, elementary, parts
from trueness.tools.graph.operators import is_data_dependent, is_random, name_of

WIDE = {torch.float32: torch.float64, torch.float16: torch.float64, torch.bfloat16: torch.float64}
WIDE |= {torch.complex64: torch.complex128, torch.complex32: torch.complex128}
DATA_DEPENDENT = {"DataDependentOutputException", "GuardOnDataDependentSymNode", "DynamicOutputShapeException"}
LOOKS = (
    "the reference looks at the values of its tensors (a branch, .item(), nonzero or a boolean index), so that its "
    "graph depends on them; write it with torch.where, or pass what it looks at as a Python number."
)


class Untraceable(ValueError):
    """A torch function that cannot be a reference; the message is one sentence."""


def value(function: Callable[..., Any], examples: Sequence[torch.Tensor]) -> GraphModule:
    """The graph of ``function``, which takes tensors by position and returns a tensor or a tuple of them."""
    return lowered(opened(function, examples), examples)


def gradient(function: Callable[..., Any], examples: Sequence[torch.Tensor]) -> GraphModule:
    """The graph of (cotangents..., tensors...) → the gradients of all floating-point tensors among the latter.

    A cotangent belongs to each floating-point output, in order.
    """
    places = [i for i, x in enumerate(examples) if x.dtype.is_floating_point]
    graph = opened(function, examples)
    outputs = results(graph)
    real = [i for i, y in enumerate(outputs) if y.dtype.is_floating_point]
    seeds = [torch.ones(outputs[i].shape, dtype=torch.float64) for i in real]

    def pulled(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        cotangents, rest = tensors[: len(real)], list(tensors[len(real) :])

        def of(*chosen: torch.Tensor) -> tuple[torch.Tensor, ...]:
            for place, x in zip(places, chosen, strict=True):
                rest[place] = x
            y = graph(*rest)
            y = y if isinstance(y, tuple) else (y,)
            return tuple(y[i] for i in real)

        pull = torch.func.vjp(of, *(rest[i] for i in places))[1]
        return tuple(pull(cotangents))

    every = [*seeds, *examples]
    return lowered(traced(pulled, every, parts()), every)


def opened(function: Callable[..., Any], examples: Sequence[torch.Tensor]) -> GraphModule:
    """The graph of ``function`` with softmax, norms and losses taken apart, in float64.

    A pass before that records what it does, whatever it consists of (a torch.autograd.Function), and a pass behind it
    makes functional what the parts themselves write in place.
    """
    graph = detached(widened(recorded(function, examples)))
    graph = widened(without_writes(traced(traced(graph, examples, parts()), examples, {})))
    for node in graph.graph.nodes:
        if is_data_dependent(node):
            raise Untraceable(LOOKS)
        if is_random(node.target):
            raise Untraceable(
                f"the reference draws random numbers ({node.target}); draw them outside of it and pass them to it as "
                "an argument."
            )
    return graph


def lowered(graph: GraphModule, examples: Sequence[torch.Tensor]) -> GraphModule:
    """The same graph in elementary operations."""
    graph = widened(traced(attached(graph), examples, elementary()))
    for node in list(graph.graph.nodes):
        writes = isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable
        if writes and name_of(node.target) != "as_strided":  # a view, whose schema says that it writes
            raise Untraceable(f"the reference writes in place by {node.target}, which could not be made functional.")
        if name_of(node.target) == "mul" and type(node.args[1]) in (int, float) and node.args[1] == 1:  # of addmm
            node.replace_all_uses_with(node.args[0])
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def traced(function: Callable[..., Any], examples: Sequence[torch.Tensor], table: Table) -> GraphModule:
    """The functional graph of what ``function`` does, its operators taken apart by ``table``."""
    return recorded(torch.func.functionalize(function, remove="mutations"), examples, table)


def recorded(function: Callable[..., Any], examples: Sequence[torch.Tensor], table: Table | None = None) -> GraphModule:
    """One pass of torch's tracer; Untraceable says in a sentence what it stumbled over."""
    with double_precision(), sdpa_kernel(SDPBackend.MATH), silent():
        try:
            return make_fx(  # type: ignore[no-any-return]
                function, decomposition_table=dict(table or {}), tracing_mode="fake", _allow_non_fake_inputs=True
            )(*examples)
        except Untraceable:
            raise
        except Exception as error:
            raise Untraceable(sentence(error)) from error


def sentence(error: Exception) -> str:
    """Why a function could not be traced."""
    if any(type(e).__name__ in DATA_DEPENDENT for e in chain(error)):
        return LOOKS
    text = " ".join(str(error).split())[:300]
    return f"the reference raised {type(error).__name__} on float64 tensors: {text}"


def chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@contextmanager
def double_precision() -> Iterator[None]:
    """What a function makes without a dtype is float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def results(graph: GraphModule) -> list[torch.Tensor]:
    """What a graph returns, as fake tensors."""
    (returned,) = next(node for node in graph.graph.nodes if node.op == "output").args
    return [node.meta["val"] for node in (returned if isinstance(returned, (tuple, list)) else [returned])]


@contextmanager
def silent() -> Iterator[None]:
    """Without torch's warnings and its log of what fails on fake tensors: the exception says it."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.disabled = before


def without_writes(graph: GraphModule) -> GraphModule:
    """The graph without what it writes to its inputs at the end (the statistics of a batch norm, an argument), and
    without operators that return nothing: they test what was computed."""
    for node in list(graph.graph.nodes):
        if isinstance(node.target, torch._ops.OpOverload) and not node.target._schema.returns:
            graph.graph.erase_node(node)
        elif name_of(node.target) == "copy_" and isinstance(node.args[0], Node) and node.args[0].op == "placeholder":
            node.replace_all_uses_with(node.args[1])
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def detached(graph: GraphModule) -> GraphModule:
    """The graph in which what is detached has no derivative in another pass, either."""
    for node in list(graph.graph.nodes):
        if name_of(node.target) == "detach" and node.meta["val"].dtype.is_floating_point:
            with graph.graph.inserting_before(node):
                node.replace_all_uses_with(graph.graph.call_function(constant, (node.args[0],)))
            graph.graph.erase_node(node)
    graph.recompile()
    return graph


def attached(graph: GraphModule) -> GraphModule:
    """The graph, once it is differentiated, without the detours over integers by which ``constant`` detaches."""
    for node in list(graph.graph.nodes):
        if name_of(node.target) == "detach":
            node.replace_all_uses_with(node.args[0])
        inner = node.args[0] if node.target is torch.ops.aten.view.dtype else None
        if isinstance(inner, Node) and inner.target is torch.ops.aten.view.dtype and node.args[1] == torch.float64:
            node.replace_all_uses_with(inner.args[0])
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def widened(graph: GraphModule) -> GraphModule:
    """The graph in float64: casts, new tensors and constants."""
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            held = getattr(graph, node.target)
            if isinstance(held, torch.Tensor) and held.dtype in WIDE:
                setattr(graph, node.target, held.detach().to(WIDE[held.dtype]))
        if node.op != "call_function":
            continue
        node.args = tuple(WIDE.get(x, x) if isinstance(x, torch.dtype) else x for x in node.args)
        node.kwargs = {k: WIDE.get(x, x) if isinstance(x, torch.dtype) else x for k, x in node.kwargs.items()}
        if isinstance(node.target, torch._ops.OpOverload) and makes(node):
            node.kwargs = {**node.kwargs, "dtype": WIDE.get(node.meta["val"].dtype, torch.float64)}
    graph.recompile()
    return graph


def makes(node: Node) -> bool:
    """Whether a node makes a floating-point tensor in the default dtype."""
    made = node.meta.get("val")
    if not isinstance(made, torch.Tensor) or not made.dtype.is_floating_point or node.kwargs.get("dtype") is not None:
        return False
    from_tensors = any(isinstance(x, Node) for x in node.args)
    takes = any(a.name == "dtype" and a.kwarg_only for a in node.target._schema.arguments)  # type: ignore[union-attr]
    return takes and not from_tensors
